"""Prediction of a part of the input: the rows of the submission and of the scores."""

import os
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import torch
from joblib import cpu_count
from PIL import Image

from common.colours import VERMILION
from common.data.decoding import pixel_count
from common.data.images import Picture, read_picture
from common.data.transforms import resize_map
from common.devices import process_state
from common.ensemble.choices import MODE_THRESHOLDS
from common.ensemble.decision import is_forged
from common.ensemble.ensemble import Ensemble, Prediction
from common.ensemble.instances import find_instances
from common.ensemble.loading import load_ensemble
from common.ensemble.settings import Settings
from common.errors import UserError, described
from common.files import written_whole
from common.metrics.rle import AUTHENTIC, encode_labels, format_annotation
from common.page import outlined
from common.submission.config import SCORE_COLUMNS, SubmissionConfig
from common.submission.parts import Parts
from common.submission.shards import TarImage, TruncatedTar, read_shard
from common.submission.sources import Kind, Part
from common.video import NAME as VIDEO_DETECTOR
from common.video import VideoDetector, find_video_detector, load_video_detector

Scores = dict[str, float | str]
MOST_PIXELS = 32_000_000
"""Of the images in a batch, which bounds the memory; a larger image is a batch of its own."""
_MOST_BYTES_A_PIXEL = 8


@dataclass(frozen=True)
class Row:
    """The result for one file."""

    case_id: str
    kind: str
    """`image`, `video`, or `shard` for a truncated tar."""
    scores: Scores
    """Those of `SCORE_COLUMNS` that apply."""
    annotation: str | None = None
    """Only of images."""
    pages: int = 1
    """Of the image file; only the first is predicted."""
    turned: bool = False
    """Whether the image has an EXIF orientation."""
    failed: bool = False
    """Whether the image was read, and something else went wrong: the error is among the scores."""

    @property
    def verdict(self) -> str:
        """As counted in the submission's summary."""
        if self.failed:
            return "failed"
        if self.kind == "image":
            return "unreadable" if "error" in self.scores else "forged" if self.scores["n_instances"] else "authentic"
        return f"video {self.scores.get('fake_verdict', 'not scored')}" if self.kind == "video" else "shard broken"


class Predictor:
    """The loaded ensemble and the detector of deepfake videos. Made by `load_predictor`."""

    def __init__(self, config: SubmissionConfig, ensemble: Ensemble | None, videos: VideoDetector | None) -> None:
        """Start the threads that read images.

        Args:
            config: The submission.
            ensemble: For images; None if there are none.
            videos: For videos; without it their rows have an error.
        """
        self.config, self.ensemble, self.videos = config, ensemble, videos
        self._readers = ThreadPoolExecutor()

    def rows(self, part: Part) -> Iterator[Row]:
        """The rows of a part's files, in order. Two batches of images are in memory at a time, one of large images.

        A truncated tar has a row after its images.

        Raises:
            UserError: A tar can't be read.
        """
        if part.kind == "video":
            for case_id, path in part.files():
                yield Row(case_id, "video", score_video(self.config, self.videos, Path(path)))
        elif part.kind == "image":
            yield from self._image_rows(part.files())
        else:
            ((name, path),) = part.files()
            errors: list[str] = []
            yield from self._image_rows(_whole_images(Path(path), errors))
            yield from (Row(name, "shard", {"error": error}) for error in errors)

    def _image_rows(self, sources: Iterable[tuple[str, str] | TarImage]) -> Iterator[Row]:
        assert self.ensemble is not None, "load_predictor loads it for the kinds image and shard"
        settings = _with_overrides(self.ensemble.settings, self.config)
        waiting: list[Iterator[tuple[str, Picture | str]]] = []
        for batch, is_large in _batches(sources, self.config.batch_size):
            if waiting and is_large:
                yield from self._batch_rows(settings, list(waiting.pop()))
            # While a batch is predicted, the next one is read, unless it is a large image.
            waiting.append(self._readers.map(lambda source: (source[0], read_source(source)), batch))
            if len(waiting) > 1 or is_large:
                yield from self._batch_rows(settings, list(waiting.pop(0)))
        for read in waiting:
            yield from self._batch_rows(settings, list(read))

    def _batch_rows(self, settings: Settings, batch: list[tuple[str, Picture | str]]) -> Iterator[Row]:
        assert self.ensemble is not None
        pictures = [picture for _, picture in batch if not isinstance(picture, str)]
        upright = [p.upright for p in pictures] if self.ensemble.detector or self.config.masks_are_upright else None
        images = upright if upright and self.config.masks_are_upright else [picture.pixels for picture in pictures]
        predictions = zip(pictures, images, self.ensemble.predict(images, upright), strict=True)
        for case_id, read in batch:
            if isinstance(read, str):
                yield Row(case_id, "image", {"error": read}, AUTHENTIC)
            else:
                picture, image, prediction = next(predictions)
                row = image_row(self.config, settings, case_id, image, prediction)
                yield replace(row, pages=picture.pages, turned=picture.orientation != 1)


def _batches(
    sources: Iterable[tuple[str, str] | TarImage], batch_size: int
) -> Iterator[tuple[list[tuple[str, str] | TarImage], bool]]:
    """At most `batch_size` sources that have at most `MOST_PIXELS` together, or one large image, and whether it is."""
    batch, room = [], MOST_PIXELS
    for source in sources:
        if isinstance(source, TarImage):
            # Its bytes are in memory too, and may be many where the header claims few pixels.
            pixels = max(pixel_count(BytesIO(source.data)), len(source.data) // _MOST_BYTES_A_PIXEL)
        else:
            pixels = pixel_count(Path(source[1]))
        if batch and (len(batch) == batch_size or pixels > room):
            yield batch, room < 0
            batch, room = [], MOST_PIXELS
        batch.append(source)
        room -= pixels
    if batch:
        yield batch, room < 0


def _whole_images(shard: Path, errors: list[str]) -> Iterator[TarImage]:
    """The images of a tar; if it is truncated, the error is appended to `errors`."""
    try:
        yield from read_shard(shard)
    except TruncatedTar as error:  # any other error ends the run: the next run may read the whole tar
        errors.append(described(error))


def _with_overrides(settings: Settings, config: SubmissionConfig) -> Settings:
    """Fitted settings with command-line overrides."""
    names = ("pixel_threshold", "min_area_share")
    return replace(settings, **{name: value for name in names if (value := getattr(config, name)) is not None})


def load_predictor(config: SubmissionConfig, kinds: Collection[Kind], n_images: int) -> Predictor:
    """Load what parts of these kinds need.

    Args:
        config: The submission.
        kinds: Kinds of the parts to predict.
        n_images: Number of images in all parts, so that all processes of a run choose the same backend.

    Raises:
        UserError: As `load_ensemble` and `load_video_detector`.
    """
    device, ensemble, detector = cast(torch.device, process_state().device), None, None
    if "image" in kinds or "shard" in kinds:
        ensemble = load_ensemble(
            config.models_dir,
            device,
            allow_missing=config.allow_missing,
            tta=config.tta,
            copy_move=config.copy_move,
            generated=config.generated,
            backend=config.backend,
            n_images=n_images,
        )
        cores = max(1, cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))  # of the launcher, on this machine
        ensemble.workers = config.workers or max(1, min(cores, config.batch_size, n_images))
        if ensemble.detector is not None:
            ensemble.detector.adjust(config.feature_batch, config.target_fpr)
    if "video" in kinds and (path := find_video_detector(config.models_dir)):
        detector = load_video_detector(path, device, faces=config.faces, face_model=config.face_model)
    return Predictor(config, ensemble, detector)


def write_part(predictor: Predictor, parts: Parts, part: Part) -> Generator[Row]:
    """Predict a part and write it; yields the rows as they are written."""
    counts: Counter[str] = Counter()
    with parts.written(part, counts) as (submission, scores):
        for row in predictor.rows(part):
            if row.annotation is not None:
                submission.writerow([row.case_id, row.annotation])
            values = {"case_id": row.case_id, "kind": row.kind} | row.scores
            scores.writerow([values.get(column, "") for column in SCORE_COLUMNS])
            counts[row.verdict] += 1
            for name, count in (("pages left out", row.pages - 1), ("turned", row.turned)):
                if count:
                    counts[name] += count
            yield row


def read_source(source: tuple[str, str] | TarImage) -> Picture | str:
    """The image of a case id and path or of a tar; or what is wrong with it."""
    path = source[1]
    if isinstance(source, TarImage) and source.fault:
        return source.fault
    if not path:
        return "sample_submission.csv lists it, but there is no such image"
    try:
        if not isinstance(source, TarImage):
            return read_picture(Path(path))
        # Through a file, because the libraries of some formats read nothing else.
        with TemporaryDirectory() as folder:
            file = Path(folder) / f"image{Path(path).suffix}"
            file.write_bytes(source.data)
            try:
                return read_picture(file)
            except UserError as error:
                raise UserError(str(error).replace(str(file), path)) from error
    except Exception as error:  # one image among a million may raise anything: the others go on
        return described(error)


def score_video(config: SubmissionConfig, detector: VideoDetector | None, path: Path) -> Scores:
    """Score columns of one video."""
    if detector is None:
        wanted = config.models_dir / f"{VIDEO_DETECTOR}_best.pth"
        return {
            "error": f"videos are scored by {wanted}, which is missing. Train it with script_8_deepfake_video.py, or "
            "leave the videos out: --no-videos."
        }
    try:
        score = detector.predict(path, explain=False)
    except Exception as error:  # one video among a thousand may raise anything: the others go on
        return {"error": described(error)}
    video = score.faces.video
    return {
        "fake_probability": round(score.probability, 6),
        "fake_verdict": score.verdict,
        "reason": score.reason,
        "threshold": score.threshold,
        "height": video.height,
        "width": video.width,
    }


def image_row(
    config: SubmissionConfig, settings: Settings, case_id: str, image: np.ndarray, prediction: Prediction
) -> Row:
    """The row of one image, uint8 (H, W, 3) RGB; writes its map if there is a folder for maps.

    Without a verdict the image is called authentic, with an error; where only the map can't be written, the row has all
    else.
    """
    height, width = image.shape[:2]
    evidence, generated = prediction.evidence, prediction.generated
    try:
        labels = find_regions(config, settings, image, prediction)
    except UserError as error:
        return Row(
            case_id, "image", {"error": described(error), "height": height, "width": width}, AUTHENTIC, failed=True
        )
    instances = encode_labels(labels)
    scores: Scores = {
        "forged_probability": round(prediction.forged_probability, 6),
        "threshold": MODE_THRESHOLDS[config.mode],
        "area_share": round(np.count_nonzero(labels) / labels.size, 6),
        "n_instances": len(instances),
        "height": height,
        "width": width,
    }
    if evidence:
        scores |= {"copy_move_score": round(evidence.score, 6), "copy_move_inliers": evidence.inliers}
    if generated:
        scores |= {"generated_probability": round(generated.probability, 6), "generated_verdict": generated.verdict}
    if config.maps is not None:
        try:
            _write_maps(config, case_id, image, resize_map(prediction.prob, height, width), labels)
        except UserError as error:
            scores["error"] = described(error)
    return Row(case_id, "image", scores, format_annotation(instances), failed="error" in scores)


def find_regions(config: SubmissionConfig, settings: Settings, image: np.ndarray, prediction: Prediction) -> np.ndarray:
    """The instances that the row of an image, uint8 (H, W, 3) RGB, reports: int (H, W), 0 where it is authentic.

    Raises:
        UserError: There is no verdict.
    """
    height, width = image.shape[:2]
    if not is_forged(prediction.forged_probability, config.mode):
        return np.zeros((height, width), np.uint8)
    return find_instances(
        resize_map(prediction.prob, height, width),
        settings.pixel_threshold,
        settings.min_area_share,
        config.instances,
        image,
        settings.cleanup,
        prediction.evidence.groups if prediction.evidence else (),
    )


def _write_maps(
    config: SubmissionConfig, case_id: str, image: np.ndarray, prob: np.ndarray, labels: np.ndarray
) -> None:
    """Write what --maps asks for of an image: `prob` (H, W) in [0, 1], `labels` (H, W) above 0 in forged regions."""
    assert config.maps is not None
    if ".." in Path(case_id).parts or Path(case_id).is_absolute():
        raise UserError(
            f"the map of {case_id} would be outside --maps {config.maps}. Change its case id, or leave --maps out."
        )
    if config.maps_as == "npy":
        with written_whole(config.maps / f"{case_id}.npy", "wb") as file:
            np.save(file, prob.astype(np.float16))
        return
    forged = labels > 0
    pictures = {
        "map": np.rint(255 * prob).astype(np.uint8),
        "mask": forged.astype(np.uint8) * 255,
        "overlay": outlined(image, forged, VERMILION),
    }
    for name, picture in pictures.items():
        with written_whole(config.maps / f"{case_id}_{name}.png", "wb") as file:
            Image.fromarray(picture).save(file, "PNG")
