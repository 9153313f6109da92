"""Score a submission against the truth: oF1, its lift over all-authentic, sizes, false positives, pixels.

    python evaluate.py --submission submission.csv --masks data/test_masks
    python evaluate.py --submission submission.csv --masks data/test_masks --maps outputs/maps \\
        --json outputs/evaluation.json --report outputs/report

An image without a mask file is authentic. The metric is that of the competition (data/README.md); lift, the oF1 above
a submission that calls every image authentic, is the figure to compare.
"""

from common.process import prepare

prepare()  # before torch is imported

from dataclasses import dataclass
from pathlib import Path

import tyro

from common.data.images import find_images
from common.errors import UserError
from common.evaluation.report import tables, write_report
from common.evaluation.scoring import find_cases, score_cases, summarize
from common.files import write_json


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What to score, and where the results go."""

    submission: Path
    """CSV with the columns case_id and annotation, one row an image."""
    masks: Path
    """Folder of the truth: <case_id>.npy for each forged image, none for an authentic one."""
    maps: Path | None = None
    """Folder of probability maps (`make_submission.py --maps`), for the figures that need no threshold."""
    json: Path | None = None
    """Write the figures here; null stands for what could not be measured."""
    report: Path | None = None
    """Write tables, plots and pictures into this folder; open its report.md."""
    images: Path | None = None
    """Folder of the images, for the report's pictures. Default: beside the masks (test_masks → test_images)."""


def main(config: EvaluateConfig) -> None:
    """Score, print the tables, write what was asked for."""
    if config.json and config.json.is_dir():
        raise UserError(f"--json {config.json} is a folder. Name a file in it.")
    if config.report and config.report.is_file():
        raise UserError(f"--report {config.report} is a file. Name a folder.")
    images = _find_images(config) if config.report else {}
    cases = find_cases(config.submission, config.masks, config.maps)
    if not any(case.mask for case in cases):
        print(f"note: {config.masks} holds no masks, so every image counts as authentic\n")
    evaluation = score_cases(cases)
    if config.json:
        write_json(summarize(evaluation), config.json)
    print(tables(evaluation))
    if config.report:
        print(f"\nreport: {write_report(config.report, evaluation, cases, images)}")


def _find_images(config: EvaluateConfig) -> dict[str, Path]:
    """Case id → image: from --images, or from the folder beside the masks, as far as there is one."""
    if config.images:
        return find_images(config.images)
    masks = config.masks.resolve()
    beside = masks.with_name(masks.name.replace("masks", "images"))
    if beside == masks or not beside.is_dir():
        return {}
    images = find_images(beside)
    # train_images holds authentic/ and forged/; masks are named like the forged ones.
    prefix = "forged/"
    return {case_id.removeprefix(prefix): p for case_id, p in images.items() if case_id.startswith(prefix)} | images


if __name__ == "__main__":
    main(tyro.cli(EvaluateConfig, description=__doc__))
