"""Checkpoints and a folder of images → submission.csv, one row an image, and scores.csv beside it.

    python make_submission.py --input data/test_images --models-dir models --output submission.csv

Images of any size, as PNG, JPEG, TIFF, BMP or WEBP; regions are drawn at each image's own resolution. Rows follow
sample_submission.csv where there is one. Images are read, decided and written one batch after the other: memory does
not grow with their number. An image that can't be read has its row all the same, and its error in scores.csv.
"""

import csv
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common.data.images import find_images, read_image
from common.errors import UserError
from common.evaluation.calibration import calibrated
from common.evaluation.metrics import image_score
from common.files import written_whole
from common.inference.ensemble import Ensemble, load_ensemble, resize_map
from common.inference.gate import THRESHOLDS, Mode, is_forged
from common.inference.instances import Grouping, find_instances
from common.inference.rle import encode_labels, format_annotation
from common.inference.rows import submission_rows

import numpy as np
import tyro
from accelerate import PartialState
from tqdm import tqdm

SCORE_COLUMNS = (
    "case_id",
    "forged_probability",
    "threshold",
    "area_share",
    "n_instances",
    "height",
    "width",
    "error",
)


@dataclass(frozen=True, kw_only=True)
class SubmissionConfig:
    """What to read, how to decide, where to write."""

    input: Path
    """Folder of images (with its subfolders), or one image."""
    output: Path = Path("submission.csv")
    """The submission: case_id,annotation."""
    models_dir: Path = Path("models")
    """Where the checkpoints are."""
    scores: Path | None = None
    """Table of probabilities, areas and errors; by default scores.csv beside the output."""
    maps: Path | None = None
    """Folder for probability maps, <case_id>.npy, float16 (H, W); none are written by default."""
    sample_submission: Path | None = None
    """Gives the rows' order; by default sample_submission.csv in the input folder or beside it, where there is one."""
    mode: Mode = "default"
    """How probable a forgery must be to be reported: high-precision 0.80 ... max-recall 0.55."""
    pixel_threshold: float | None = None
    """Probability from which a pixel belongs to a region; by default what was best on the validation fold."""
    min_area_share: float = 0.0005
    """Regions smaller than this share of their image are dropped."""
    instances: Grouping = "merge"
    """merge reports one instance an image, components one for each connected region. (groups, which joins regions of
    like content, comes with copy-move matching.)"""
    allow_missing: bool = False
    """Go on without members whose checkpoint is missing."""
    batch_size: int = 8
    """Images at a time."""


def main(config: SubmissionConfig) -> None:
    """Decide every image and write the tables."""
    images = {config.input.stem: config.input} if config.input.is_file() else find_images(config.input)
    rows = submission_rows(images, config.sample_submission, config.input)
    ensemble = load_ensemble(config.models_dir, PartialState().device, config.allow_missing)
    scores_path = config.scores or config.output.with_name("scores.csv")
    if scores_path.resolve() == config.output.resolve():
        raise UserError(f"the submission and the scores can't both be {config.output}; name another with --scores.")

    counts: Counter[str] = Counter()
    with (
        written_whole(config.output) as submission_file,
        written_whole(scores_path) as scores_file,
        ThreadPoolExecutor() as readers,
        tqdm(total=len(rows), unit="img", disable=None) as bar,
    ):
        submission = csv.writer(submission_file)
        submission.writerow(["case_id", "annotation"])
        scores = csv.DictWriter(scores_file, SCORE_COLUMNS)
        scores.writeheader()
        for start in range(0, len(rows), config.batch_size):
            batch = rows[start : start + config.batch_size]
            read = list(readers.map(_read, (images.get(case_id) for case_id in batch)))
            readable = [image for image in read if not isinstance(image, str)]
            maps = iter(ensemble.predict(readable) if readable else [])
            for case_id, image in zip(batch, read, strict=True):
                if isinstance(image, str):
                    annotation, score = "authentic", {"error": image}
                    bar.write(f"{case_id}: {image}")
                else:
                    annotation, score = decide(config, ensemble, case_id, next(maps), *image.shape[:2])
                submission.writerow([case_id, annotation])
                scores.writerow({"case_id": case_id} | score)
                counts["unreadable" if "error" in score else "forged" if score["n_instances"] else "authentic"] += 1
            bar.update(len(batch))
    summary = ", ".join(f"{counts[kind]} {kind}" for kind in ("forged", "authentic", "unreadable") if counts[kind])
    print(f"{len(rows)} images: {summary} → {config.output}, {scores_path}")


def decide(
    config: SubmissionConfig, ensemble: Ensemble, case_id: str, prob: np.ndarray, height: int, width: int
) -> tuple[str, dict[str, float]]:
    """Annotation and score columns of one image from its map at the network's resolution."""
    forged_probability = calibrated(image_score(prob), **ensemble.calibration)
    prob = resize_map(prob, height, width)
    if config.maps is not None:
        with written_whole(config.maps / f"{case_id}.npy", "wb") as file:
            np.save(file, prob.astype(np.float16))
    labels = np.zeros((height, width), np.int32)
    if is_forged(forged_probability, config.mode):
        threshold = ensemble.pixel_threshold if config.pixel_threshold is None else config.pixel_threshold
        labels = find_instances(prob, threshold, config.min_area_share, config.instances)
    score = {
        "forged_probability": round(forged_probability, 6),
        "threshold": THRESHOLDS[config.mode],
        "area_share": round(float((labels > 0).mean()), 6),
        "n_instances": int(labels.max()),
        "height": height,
        "width": width,
    }
    return format_annotation(encode_labels(labels)), score


def _read(path: Path | None) -> np.ndarray | str:
    """The image, or what is wrong with it."""
    if path is None:
        return "sample_submission.csv lists it, but there is no such image"
    try:
        return read_image(path)
    except UserError as error:
        return str(error)


if __name__ == "__main__":
    main(tyro.cli(SubmissionConfig, description=__doc__))
