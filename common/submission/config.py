"""Configuration of a submission, and the summary of its results. Imports no network."""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.ensemble.choices import TTA, Backend, Grouping, Mode
from common.errors import UserError, flag_of

SUBMISSION_COLUMNS = ("case_id", "annotation")
SCORE_COLUMNS = (
    *("case_id", "kind", "forged_probability", "threshold", "area_share", "n_instances"),
    *("copy_move_score", "copy_move_inliers", "generated_probability", "generated_verdict"),
    *("fake_probability", "fake_verdict", "reason", "height", "width", "error"),
)


@dataclass(frozen=True, kw_only=True)
class SubmissionConfig:
    """A submission; the fields are the flags of make_submission.py."""

    input: Path
    """Folder of images and videos (with its subfolders), or one of these; a manifest, CSV or Parquet with the column
    file and optionally case_id; or webdataset shards: a .tar, a folder of them, or shards-{000..009}.tar."""
    output: Path = Path("submission.csv")
    """The submission, a CSV file with the columns case_id,annotation. Probabilities, areas and errors are written to
    scores.csv beside it."""
    models_dir: Path = Path("models")
    """Folder of the checkpoints."""
    maps: Path | None = None
    """Folder for probability maps at each image's size; by default none are written."""
    maps_as: Literal["npy", "png"] = "npy"
    """npy writes <case_id>.npy, float16 (H, W); png, to look at, <case_id>_map.png (probability, 255 is 1),
    <case_id>_mask.png (forged is 255) and <case_id>_overlay.png."""
    masks_are_upright: bool = False
    """Regions and maps refer to the pictures as viewers show them, turned by their EXIF orientation; by default to the
    pixels as stored."""
    sample_submission: Path | None = None
    """Table that gives the order of the rows; by default sample_submission.csv in the input folder, or beside it if
    the folder is called test_images."""
    mode: Mode = "default"
    """Least probability of a forgery to report one: high-precision 0.80, balanced 0.70, default 0.65, high-recall 0.60,
    max-recall 0.55."""
    tta: TTA | None = None
    """Views of each image that are averaged: none (the image alone), flips (its mirror images too), full (all eight
    symmetries); by default those of the fit."""
    pixel_threshold: float | None = None
    """Probability from which a pixel belongs to a region, from 0 to 1; by default the fitted one."""
    min_area_share: float | None = None
    """Share of the image below which regions are dropped, from 0 to 1; by default the fitted one, or 0.0005."""
    instances: Grouping = "groups"
    """groups joins regions that look alike or are matched by copy-move evidence, like source and copy of a copy-move;
    merge reports all regions of an image as one instance; components reports each connected region."""
    copy_move: bool = True
    """Search for copy-moves without a network too."""
    generated: bool = True
    """Run the detector of generated images, models/spai*_best.pth, if there is one."""
    target_fpr: float | None = None
    """False-positive rate of the verdicts on generated images, between 0 and 1; by default that of the detector's
    training."""
    feature_batch: int | None = None
    """Image patches that the detector of generated images scores at a time, which bounds its memory; by default as in
    its training."""
    videos: bool = True
    """Score videos too, by models/deepfake_video*_best.pth."""
    faces: Literal["auto", "mtcnn", "yunet", "crops", "centre"] = "auto"
    """Face detector for videos: mtcnn (facenet-pytorch), yunet (OpenCV), crops (the frames are faces), centre (none);
    by default mtcnn if it is installed, else centre."""
    face_model: Path | None = None
    """ONNX file of YuNet, for --faces yunet."""
    workers: int | None = None
    """Processes that search for copy-moves, of which at most --batch-size are busy at a time; by default one per core,
    but no more than that."""
    allow_missing: bool = False
    """Continue without members whose checkpoint is missing."""
    batch_size: int = 8
    """Images at a time."""
    backend: Backend = "auto"
    """What runs the networks: torch or ONNX Runtime; by default whichever is faster for the number of images."""
    part_size: int = 500
    """Images per part, the unit of work that an interrupted run repeats; each tar is one part."""
    num_shards: int | None = None
    """Number of workers that share the parts, on machines that share the output folder; each is started with its own
    --shard-index, in any order. By default the number of processes of torchrun or accelerate launch."""
    shard_index: int | None = None
    """Index of this worker, from 0."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: With the flag, its value and what it must be.
        """
        for name in ("pixel_threshold", "min_area_share"):
            if (share := getattr(self, name)) is not None and not 0 <= share < 1:
                raise UserError(f"{flag_of(name)} is {share}; it must be from 0 to less than 1.")
        if self.target_fpr is not None and not 0 < self.target_fpr < 1:
            raise UserError(f"--target-fpr is {self.target_fpr}; it must be above 0 and below 1.")
        for name in ("batch_size", "workers", "feature_batch", "part_size", "num_shards"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise UserError(f"{flag_of(name)} is {count}; it must be 1 or more.")
        if self.num_shards is None or self.shard_index is None:
            if self.num_shards != self.shard_index:
                raise UserError("--num-shards and --shard-index go together: the number of workers, and which this is.")
        elif not 0 <= self.shard_index < self.num_shards:
            last = self.num_shards - 1
            raise UserError(f"--shard-index is {self.shard_index}; of {self.num_shards} shards it must be 0 to {last}.")
        for table in (self.output, self.scores_path):
            if table.is_dir():
                raise UserError(f"--output {self.output}: {table} is a folder. Name another file.")
        if self.maps_as == "png" and self.maps is None:
            raise UserError("--maps-as png says how --maps are written, and there are none. Add --maps DIR.")
        if self.scores_path == self.output:
            raise UserError(f"--output {self.output} is the name of the table of scores. Choose another one.")

    @property
    def scores_path(self) -> Path:
        """The table of probabilities, areas and errors."""
        return self.output.parent / "scores.csv"


_VERDICTS = ("forged", "authentic", "video fake", "video real", "video inconclusive")
"""Those that have a probability."""


def summary(config: SubmissionConfig, counts: Counter[str]) -> str:
    """Lines: numbers of images and videos by verdict, the tables, what to know, and the verdict on a single file."""
    parts = []
    for noun, prefix, verdicts in (
        ("images", "", ("forged", "authentic", "unreadable", "failed")),
        ("videos", "video ", ("fake", "real", "inconclusive", "not scored")),
    ):
        found = {verdict: count for verdict in verdicts if (count := counts[prefix + verdict])}
        if found:
            by_verdict = ", ".join(f"{count} {verdict}" for verdict, count in found.items())
            parts.append(f"{sum(found.values())} {noun}: {by_verdict}")
    if broken := counts["shard broken"]:
        parts.append(f"{broken} shards are truncated: see their rows in the scores")
    lines = [f"{'; '.join(parts)} → {config.output}, {config.scores_path}"]
    if left_out := counts["pages left out"]:
        lines.append(f"note: {left_out} pages were left out: of a file with several pages the first is predicted")
    if turned := counts["turned"]:
        place = "upright pictures" if config.masks_are_upright else "pixels as stored (else: --masks-are-upright)"
        lines.append(f"note: {turned} images have an EXIF orientation; their regions refer to the {place}")
    if counts.total() - left_out - turned == 1 and any(counts[verdict] for verdict in _VERDICTS):
        lines.append(_only_row(config.scores_path))
    return "\n".join(lines)


def exit_status(counts: Counter[str]) -> int:
    """Exit status of a program that makes a submission: 1 if it failed at any image, by its `counts`, else 0.

    An unreadable file is no failure of the program: its row says what is wrong with it.
    """
    return int(counts["failed"] > 0)


def _only_row(table: Path) -> str:
    """What the table of scores says of its only image or video."""
    with table.open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    if row["kind"] == "video":
        return f"{row['case_id']}: {row['fake_verdict']}, probability that it is fake {row['fake_probability']}"
    verdict = "forged" if int(row["n_instances"]) else "authentic"
    text = f"{row['case_id']}: {verdict}, probability of a forgery {row['forged_probability']}"
    if row["generated_verdict"]:
        text += f"; as a whole: {row['generated_verdict']}, probability {row['generated_probability']}"
    return text
