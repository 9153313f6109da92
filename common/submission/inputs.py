"""The parts of a submission: its input in the order of its rows, and what their content depends on."""

import hashlib
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain
from pathlib import Path

from common.ensemble.members import SETTINGS_FILE, identities
from common.errors import UserError, readable
from common.files import check_writable
from common.locks import hold
from common.submission.config import SCORE_COLUMNS, SUBMISSION_COLUMNS, SubmissionConfig
from common.submission.parts import Parts
from common.submission.row_order import find_sample, sample_order
from common.submission.shards import find_shards, read_shard, shard_parts
from common.submission.sources import MANIFEST_SUFFIXES, ListedFile, Part, distinct, list_files, split_into_parts
from common.video import find_video_detector

# Fields that change how a submission is made, but not its content. (The input's files are part of each part's key.)
_FREE = {"input", "output", "sample_submission", "models_dir", "allow_missing", "videos", "workers", "batch_size"} | {
    "feature_batch", "part_size", "num_shards", "shard_index"
}  # fmt: skip


def hold_outputs(config: SubmissionConfig, *, together: str = "") -> None:
    """Lock the tables and the folder of maps (`common.locks.hold`).

    Raises:
        UserError: Another program writes one of them, or it can't be written.
    """
    for path in (config.output, config.scores_path, config.maps):
        if path is not None:
            check_writable(path)
            hold(path, together=together)


def open_parts(config: SubmissionConfig) -> Parts:
    """The parts of the submission, including those that an earlier run has done.

    Raises:
        UserError: A table can't be written, the input can't be read or is empty, or there are several detectors of one
            kind.
    """
    tables = {config.output: SUBMISSION_COLUMNS, config.scores_path: SCORE_COLUMNS}
    others: Counter[str] = Counter()
    parts = find_parts(config, others)
    if others:
        kinds = ", ".join(f"{count} {readable(suffix)}" for suffix, count in sorted(others.items()))
        print(f"left out, since they are no images or videos that are scored: {kinds}")
    for table in (config.output, config.maps and config.maps / "_"):
        if table:
            check_writable(table)  # now, and not at the end
    return Parts(tables, parts, _content_key(config))


def find_parts(config: SubmissionConfig, others: Counter[str] | None = None) -> list[Part]:
    """The images in the order of the submission's rows, and after them the videos.

    Args:
        config: The submission.
        others: Set to the number of files of other kinds, by suffix; of shards, also that of their members.

    Raises:
        UserError: The input can't be read or is empty, or files share a case id.
    """
    sample, reason = config.sample_submission, ""
    others = Counter() if others is None else others
    if shards := find_shards(config.input):
        if sample is not None:
            raise UserError("--sample-submission can't order shards. Write a manifest of files, or leave it out.")
        beside: Counter[str] = Counter()
        if config.input.is_dir():
            if next(list_files(config.input, videos=config.videos, others=beside), None):
                raise UserError(f"{config.input} holds both files and .tar shards. Move one of them elsewhere.")
            beside[".tar in subfolders"] = beside.pop(".tar") - len(shards)
        parts, reason = shard_parts(shards, others), ": none of its tars has a member with one of their suffixes"
        others += beside  # without those that are 0
    else:
        files = distinct(lambda: list_files(config.input, videos=config.videos, others=others))
        sample = sample or find_sample(config.input)
        parts = split_into_parts(files if sample is None else _ordered(files, sample, config), config.part_size)
        if config.input.suffix.lower() in MANIFEST_SUFFIXES:
            reason = ": no row of it names one"
    if not sum(part.count for part in parts):
        for shard in shards:
            deque(read_shard(shard), 0)  # raises its error if it is truncated
        raise UserError(f"{config.input} holds no images that can be read{reason}.")
    return parts


def _ordered(files: Iterator[ListedFile], sample: Path, config: SubmissionConfig) -> Iterator[ListedFile]:
    """The images in the order of a sample submission, with an empty path if there is no such image; then the videos."""
    images, videos = {}, []
    for file in files:
        if file[0] == "image":
            images[file[1]] = file
        else:
            videos.append(file)
    required = config.sample_submission is not None
    if not images and not required:
        return iter(videos)
    rows = sample_order(images, sample, config.input, required=required)
    return chain((images.get(case_id, ("image", case_id, "")) for case_id in rows), videos)


def _content_key(config: SubmissionConfig) -> str:
    """Hash of all that the rows depend on besides the files: flags, models, settings and code."""
    digest = hashlib.sha256()
    for entry in fields(SubmissionConfig):
        if entry.name not in _FREE:
            digest.update(f"{entry.name}={getattr(config, entry.name)!r} ".encode(errors="replace"))
    models = identities(config.models_dir, copy_move=config.copy_move, generated=config.generated)
    digest.update(repr(sorted(models.items())).encode())
    video_detector = find_video_detector(config.models_dir) if config.videos else None
    code = Path(__file__).parents[1].rglob("*.py")
    for path in [config.models_dir / SETTINGS_FILE, video_detector, config.face_model, *sorted(code)]:
        if path is not None and path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
