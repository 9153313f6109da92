"""A submission's flags, and what follows from them: its parts, their tables, and how it is summed up."""

import hashlib
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

from common.ensemble.backends import Backend
from common.ensemble.decision import Mode
from common.ensemble.instances import Grouping
from common.ensemble.members import SETTINGS_FILE, identities
from common.ensemble.views import TTA
from common.errors import UserError
from common.submission.parts import Parts
from common.submission.row_order import find_sample, submission_rows
from common.submission.shards import find_shards, read_shard, shard_parts
from common.submission.sources import MANIFEST_SUFFIXES, Listed, Part, cut, distinct, list_files
from common.video import find_video_detector

SUBMISSION_COLUMNS = ("case_id", "annotation")
SCORE_COLUMNS = (
    "case_id",
    "kind",
    "forged_probability",
    "threshold",
    "area_share",
    "n_instances",
    "copy_move_score",
    "copy_move_inliers",
    "generated_probability",
    "generated_verdict",
    "fake_probability",
    "fake_verdict",
    "height",
    "width",
    "error",
)
# They change how a submission is made, not what is in it. What the files are, each part knows.
_FREE = {"input", "output", "scores", "sample_submission", "models_dir", "allow_missing", "videos"} | {
    "workers", "batch_size", "feature_batch", "part_size", "num_shards", "shard_index"
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SubmissionConfig:
    """What to read, how to decide, where to write."""

    input: Path
    """Folder of images and videos (with its subfolders), or one of these; a manifest, CSV or Parquet with the column
    file and perhaps case_id; or webdataset shards: a .tar, a folder of them, or shards-{000..009}.tar."""
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
    tta: TTA | None = None
    """Views of each image that are averaged: itself; its mirror images too; all eight symmetries. By default those of
    the fit, or none."""
    pixel_threshold: float | None = None
    """Probability from which a pixel belongs to a region; by default the fitted one."""
    min_area_share: float | None = None
    """Regions smaller than this share of their image are dropped; by default the fitted one, or 0.0005."""
    closing: float | None = None
    """Close gaps in the mask up to this radius, as a share of the image's diagonal; by default the fitted one, or 0."""
    opening: float | None = None
    """Remove specks and threads below this radius, likewise."""
    fill_holes: bool | None = None
    """Fill holes in the mask; by default as fitted, or not."""
    instances: Grouping = "merge"
    """merge reports one instance an image; components one for each connected region; groups joins regions that look
    alike, or are matched by copy-move evidence, as the source and the copy of a copy-move."""
    copy_move: bool = True
    """Look for copy-moves without a network too."""
    generated: bool = True
    """Ask the detector of generated images, models/spai*_best.pth, where there is one."""
    target_fpr: float | None = None
    """False-positive rate that its verdicts keep; by default the one it was trained with, as for the next."""
    feature_batch: int | None = None
    """Patches that it looks at at a time: memory grows with it, not with the image."""
    videos: bool = True
    """Score the videos too, by models/deepfake_video*_best.pth."""
    faces: Literal["auto", "mtcnn", "yunet", "crops", "centre"] = "auto"
    """How faces are found in them, as in script 8."""
    face_model: Path | None = None
    """ONNX file of --faces yunet."""
    workers: int | None = None
    """Processes that look for copy-moves, of which --batch-size at most are busy at a time; by default one a core, and
    no more than that."""
    allow_missing: bool = False
    """Go on without members whose checkpoint is missing."""
    batch_size: int = 8
    """Images at a time."""
    backend: Backend = "auto"
    """What the networks run on: torch, OpenVINO, ONNX Runtime; by default what pays on this machine."""
    part_size: int = 500
    """Images that are done whole, or again when the run is interrupted; of shards each is a part."""
    num_shards: int | None = None
    """Workers that share the parts, on machines that share the output's folder; each is started with its
    --shard-index, in any order. By default the processes that torchrun or accelerate launch has started."""
    shard_index: int | None = None
    """Which of them this is, from 0."""

    def __post_init__(self) -> None:
        """Refuse values that no submission can have.

        Raises:
            UserError: With the flag, its value and what it must be.
        """
        shares = {name: getattr(self, name) for name in ("pixel_threshold", "min_area_share", "closing", "opening")}
        for name, share in shares.items():
            if share is not None and not 0 <= share < 1:
                raise UserError(f"--{name.replace('_', '-')} is {share}; it must be from 0 to less than 1.")
        if self.target_fpr is not None and not 0 < self.target_fpr < 1:
            raise UserError(f"--target-fpr is {self.target_fpr}; it must be above 0 and below 1.")
        for name in ("batch_size", "workers", "feature_batch", "part_size", "num_shards"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise UserError(f"--{name.replace('_', '-')} is {count}; it must be 1 or more.")
        if (self.num_shards is None) != (self.shard_index is None):
            raise UserError("--num-shards and --shard-index belong together: of how many workers, and which this is.")
        if self.num_shards is not None and not 0 <= self.shard_index < self.num_shards:
            last = self.num_shards - 1
            raise UserError(f"--shard-index is {self.shard_index}; of {self.num_shards} shards it must be 0 to {last}.")
        for flag, table in (("--output", self.output), ("--scores", self.scores_path)):
            if table.is_dir():
                raise UserError(f"{flag} {table} is a folder. Name a file in it.")
        if self.scores_path.resolve() == self.output.resolve():
            raise UserError(f"the submission and the scores can't both be {self.output}; name another with --scores.")

    @property
    def scores_path(self) -> Path:
        """Of the table of probabilities."""
        return self.scores or self.output.with_name("scores.csv")


def open_parts(config: SubmissionConfig) -> Parts:
    """The submission's parts, and those of an earlier run that are done.

    Raises:
        UserError: A table can't be written, the input can't be read or holds nothing, or there are several detectors
            of one kind.
    """
    tables = {config.output: SUBMISSION_COLUMNS, config.scores_path: SCORE_COLUMNS}
    parts = find_parts(config)
    for table in tables:
        _check_writable(table)  # now, and not when all is decided
    return Parts(tables, parts, _decides(config))


def find_parts(config: SubmissionConfig) -> list[Part]:
    """The images in the order of the submission's rows, and after them the videos.

    Raises:
        UserError: The input can't be read or holds nothing, or cases share an id.
    """
    parts, sample, nothing = [], config.sample_submission, ""
    if shards := find_shards(config.input):
        if sample is not None:
            raise UserError("--sample-submission gives no order to shards. Write a manifest of files, or leave it out.")
        if config.input.is_dir() and next(list_files(config.input, config.videos), None):
            raise UserError(f"{config.input} holds both files and .tar shards. Move one of them elsewhere.")
        parts = shard_parts(shards)
        nothing = "none of its tars has a member that is one by its suffix"
    else:
        files = distinct(lambda: list_files(config.input, config.videos))
        sample = sample or find_sample(config.input)
        parts = cut(files if sample is None else _as_in(files, sample, config), config.part_size)
        if config.input.suffix.lower() in MANIFEST_SUFFIXES:
            nothing = "no row of it names one"
    if not sum(part.count for part in parts):
        for shard in shards:
            deque(read_shard(shard), 0)  # the reason may be that it is cut short
        submission_rows([], None, config.input, nothing)
    return parts


def _check_writable(table: Path) -> None:
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=table.parent):
            pass
    except OSError as error:
        raise UserError(f"{table} can't be written ({error.strerror}). Choose another place.") from error


def _as_in(files: Iterator[Listed], sample: Path, config: SubmissionConfig) -> Iterator[Listed]:
    """The images as a sample_submission.csv lists them, those that it misses with an empty path; then the videos."""
    images, videos = {}, []
    for kind, case_id, path in files:
        if kind == "image":
            images[case_id] = path
        else:
            videos.append((kind, case_id, path))
    if not images and config.sample_submission is None and videos:
        return iter(videos)
    rows = submission_rows(images, config.sample_submission, config.input)
    return chain((("image", case_id, images.get(case_id, "")) for case_id in rows), videos)


def _decides(config: SubmissionConfig) -> str:
    """What decides about a file's rows, hashed: the flags, the models, their settings, and the code."""
    digest = hashlib.sha256()
    for entry in fields(SubmissionConfig):
        if entry.name not in _FREE:
            digest.update(f"{entry.name}={getattr(config, entry.name)!r} ".encode(errors="replace"))
    models = identities(config.models_dir, config.copy_move, config.generated)
    digest.update(repr(sorted(models.items())).encode())
    video_detector = find_video_detector(config.models_dir) if config.videos else None
    code = Path(__file__).parents[1].rglob("*.py")
    for path in [config.models_dir / SETTINGS_FILE, video_detector, config.face_model, *sorted(code)]:
        if path is not None and path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def summary(config: SubmissionConfig, counts: Counter[str]) -> str:
    """How many images and videos got which verdict, and where the tables are, in one line."""
    said = []
    for noun, prefix, kinds in (
        ("images", "", ("forged", "authentic", "unreadable")),
        ("videos", "video ", ("fake", "real", "inconclusive", "not scored")),
    ):
        found = {kind: count for kind in kinds if (count := counts[prefix + kind])}
        if found:
            verdicts = ", ".join(f"{count} {kind}" for kind, count in found.items())
            said.append(f"{sum(found.values())} {noun}: {verdicts}")
    if broken := counts["shard broken"]:
        said.append(f"{broken} shards are cut short: see their rows in the scores")
    return f"{'; '.join(said)} → {config.output}, {config.scores_path}"
