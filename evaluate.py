"""Score a submission against the true masks: oF1, its lift over all-authentic, by size, false positives, pixel metrics.

    python evaluate.py --submission submission.csv --masks data/test_masks
    python evaluate.py --submission submission.csv --masks data/test_masks --maps outputs/maps \\
        --json outputs/evaluation.json --report outputs/report

The report is one page, report.html: tables, what other modes would score, calibration, recall by size and kind, and
images, the largest error first. An image without a mask file is authentic. The metric is that of the competition
(data/README.md); compare submissions by lift, the oF1 above that of calling every image authentic.
"""

from common.process import prepare

prepare()  # before torch is imported

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from common.data.images import find_images
from common.errors import UserError, readable
from common.files import check_writable, write_json
from common.locks import hold, locks_end

if TYPE_CHECKING:
    from common.evaluation.scoring import Evaluation


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What to score, and where the results go."""

    submission: Path
    """CSV file with the columns case_id and annotation, one row per image."""
    masks: Path
    """Folder of the true masks: <case_id>.npy for each forged image, none for an authentic one."""
    maps: Path | None = None
    """Folder of probability maps (`make_submission.py --maps`, npy or png), for the metrics that need no threshold."""
    scores: Path | None = None
    """Table of the images' probabilities, for calibration and thresholds; by default scores.csv beside the submission,
    if it belongs to it."""
    json: Path | None = None
    """File to write the metrics to, as JSON; undefined ones are null."""
    report: Path | None = None
    """Folder to write a report to: report.html, to open in a browser, and images.csv."""
    images: Path | None = None
    """Folder of the images, for the report's pictures; by default beside the masks (test_masks → test_images)."""
    masks_are_upright: bool = False
    """Masks, regions and maps refer to the pictures as viewers show them, turned by their EXIF orientation; by default
    to the pixels as stored. The report draws them on such pictures; no metric depends on it."""

    def __post_init__(self) -> None:
        """Refuse a folder of images that nothing would read."""
        if self.images and not self.report:
            raise UserError(f"--images {self.images} is for the pictures of the report. Add --report, or leave it out.")


@locks_end()
def main(config: EvaluateConfig) -> None:
    """Score, print the tables, write the JSON file and the report."""
    # Imported here, not above: matplotlib and scikit-learn take seconds, and --help needs none of them.
    from common.evaluation.report import PAGE, tables, write_report
    from common.evaluation.scoring import read_submission, score_submission, summarize

    if config.json and config.json.is_dir():
        raise UserError(f"--json {config.json} is a folder. Name a file in it.")
    if config.report and config.report.is_file():
        raise UserError(f"--report {config.report} is a file. Name a folder.")
    if config.scores and not config.scores.is_file():
        raise UserError(f"--scores {config.scores} is not a file. Name the scores.csv that make_submission.py wrote.")
    for path in (config.json, config.report and config.report / PAGE):
        if path:
            check_writable(path)
            hold(path)
    images = _find_images(config) if config.report else {}
    submission = read_submission(config.submission, config.masks, config.maps)
    if not any(row.mask for row in submission):
        print(f"note: {config.masks} holds no masks, so every image counts as authentic\n")
    evaluation, scores = _with_scores(config, score_submission(submission))
    if config.json:
        write_json(summarize(evaluation), config.json)
    print(tables(evaluation))
    if config.report:
        used = {"Submission": config.submission, "Truth": config.masks, "Maps": config.maps, "Probabilities": scores}
        files = {what: path for what, path in used.items() if path}
        upright = config.masks_are_upright
        page = write_report(config.report, evaluation, submission, images, files, upright=upright)
        print(f"\nreport: {page}")


def _with_scores(config: EvaluateConfig, evaluation: "Evaluation") -> tuple["Evaluation", Path | None]:
    """The evaluation with probabilities, and their table: the one that is named, or the one beside the submission."""
    from common.evaluation.scoring import with_probabilities

    scores = config.scores or config.submission.with_name("scores.csv")
    if not (config.scores or scores.is_file()):
        return evaluation, None
    try:
        return with_probabilities(evaluation, scores), scores
    except UserError as error:
        if config.scores:
            raise
        print(f"note: no probabilities: {error}\n")
        return evaluation, None


def _find_images(config: EvaluateConfig) -> dict[str, Path]:
    """Case id → image: from --images, or from the folder beside the masks if there is one."""
    folder = config.images
    if folder is None:
        masks = config.masks.resolve()
        folder = masks.parent / masks.name.replace("masks", "images")
        if folder == masks or not folder.is_dir():
            return {}
    images = {readable(case_id): path for case_id, path in find_images(folder).items()}  # as in a submission
    # train_images holds authentic/ and forged/; masks are named like the forged ones.
    prefix = "forged/"
    return {case_id.removeprefix(prefix): p for case_id, p in images.items() if case_id.startswith(prefix)} | images


if __name__ == "__main__":
    main(tyro.cli(EvaluateConfig, description=__doc__))
