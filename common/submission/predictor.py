"""From the files of a part to the rows of the submission and of the scores."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from joblib import cpu_count

from common.data.images import read_image
from common.data.transforms import resize_map
from common.devices import process_state
from common.ensemble.ahead import ahead
from common.ensemble.decision import THRESHOLDS, is_forged
from common.ensemble.ensemble import Ensemble, Prediction
from common.ensemble.instances import Cleanup, find_instances
from common.ensemble.loading import load_ensemble
from common.ensemble.settings import Settings
from common.errors import UserError, described
from common.files import written_whole
from common.metrics.rle import AUTHENTIC, encode_labels, format_annotation
from common.submission.config import SCORE_COLUMNS, SubmissionConfig
from common.submission.parts import Parts
from common.submission.shards import CutShort, Member, read_shard
from common.submission.sources import Kind, Part, readable
from common.video import NAME as VIDEO_DETECTOR
from common.video import VideoDetector, find_video_detector, load_video_detector, make_face_detector

Scores = dict[str, float | str]


@dataclass(frozen=True)
class Row:
    """What is written of one file."""

    case_id: str
    kind: str
    """`image`, `video`, or `shard`: a tar that ends before its end."""
    scores: Scores
    """By `SCORE_COLUMNS`, those that apply."""
    annotation: str | None = None
    """Of an image."""

    @property
    def verdict(self) -> str:
        """As the submission's summary counts it."""
        if self.kind == "image":
            return "unreadable" if "error" in self.scores else "forged" if self.scores["n_instances"] else "authentic"
        return f"video {self.scores.get('fake_verdict', 'not scored')}" if self.kind == "video" else "shard broken"


class Decider:
    """The loaded ensemble and the detector of videos, and the threads that read images ahead."""

    def __init__(self, config: SubmissionConfig, ensemble: Ensemble | None, videos: VideoDetector | None) -> None:
        """Hold them; see `load_decider`.

        Args:
            config: The flags.
            ensemble: Decides images; None where there are none.
            videos: Scores videos; None where none is trained: their rows say so.
        """
        self.config, self.ensemble, self.videos = config, ensemble, videos
        self.settings = None if ensemble is None else _with_flags(ensemble.settings, config)
        self._readers = ThreadPoolExecutor()

    def rows(self, part: Part) -> Iterator[Row]:
        """The rows of a part's files, in order. A batch of images is in memory, and the next one.

        A tar that is cut short has a row of its own after its images.

        Raises:
            UserError: A tar can't be read.
        """
        if part.kind == "video":
            for case_id, path in part.files():
                yield Row(case_id, "video", score_video(self.config, self.videos, Path(path)))
        elif part.kind == "image":
            yield from self._images(part.files())
        else:
            ((name, path),) = part.files()
            shard = _Whole(read_shard(Path(path)))
            yield from self._images(shard)
            if shard.error:
                yield Row(name, "shard", {"error": shard.error})

    def _images(self, sources: Iterable[tuple[str, str] | Member]) -> Iterator[Row]:
        batch_size = self.config.batch_size
        read = ahead(self._readers, lambda source: (source[0], read_source(source)), sources, batch_size)
        while batch := list(islice(read, batch_size)):
            yield from self._decided(batch)

    def _decided(self, batch: list[tuple[str, np.ndarray | str]]) -> Iterator[Row]:
        """The rows of cases with their images, or with what is wrong with these."""
        predictions = iter(self.ensemble.predict([image for _, image in batch if not isinstance(image, str)]))
        for case_id, image in batch:
            if isinstance(image, str):
                yield Row(case_id, "image", {"error": image}, AUTHENTIC)
            else:
                yield decide(self.config, self.settings, case_id, image, next(predictions))


class _Whole:
    """The members of a tar up to where it is cut short, which is kept as its error."""

    def __init__(self, items: Iterable[Member]) -> None:
        self.items, self.error = items, ""

    def __iter__(self) -> Iterator[Member]:
        try:
            yield from self.items
        except CutShort as error:  # anything else ends the run: the next one may read all
            self.error = str(error)


def load_decider(config: SubmissionConfig, kinds: Collection[Kind], n_images: int) -> Decider:
    """Load what parts of these kinds need.

    Args:
        config: The flags.
        kinds: Of the parts that are to be decided.
        n_images: In all parts of the run, whoever decides them: all its processes choose the same backend by it.

    Raises:
        UserError: As `load_ensemble` and `load_video_detector`.
    """
    state, ensemble, detector = process_state(), None, None
    if "image" in kinds or "shard" in kinds:
        cores = max(1, cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))  # of the launcher, on this machine
        ensemble = load_ensemble(
            config.models_dir,
            state.device,
            config.allow_missing,
            config.tta,
            copy_move=config.copy_move,
            workers=config.workers or max(1, min(cores, config.batch_size, n_images)),
            generated=config.generated,
            backend=config.backend,
            n_images=n_images,
        )
        if ensemble.detector is not None:
            ensemble.detector.adjust(config.feature_batch, config.target_fpr)
    if "video" in kinds and (path := find_video_detector(config.models_dir)):
        faces = make_face_detector(config.faces, model=config.face_model)
        detector = load_video_detector(path, state.device, faces)
    return Decider(config, ensemble, detector)


def decide_part(decider: Decider, parts: Parts, part: Part) -> Iterator[Row]:
    """Decide a part and write it; the rows come as they are written."""
    counts: Counter[str] = Counter()
    with parts.written(part, counts) as (submission, scores):
        for row in decider.rows(part):
            if row.annotation is not None:
                submission.writerow([row.case_id, row.annotation])
            values = {"case_id": row.case_id, "kind": row.kind} | row.scores
            scores.writerow([values.get(column, "") for column in SCORE_COLUMNS])
            counts[row.verdict] += 1
            yield row


def read_source(source: tuple[str, str] | Member) -> np.ndarray | str:
    """The image, uint8 (H, W, 3) RGB, of a case id and path, or of a tar's member; or what is wrong with it."""
    path = source[1]
    if not path:
        return "sample_submission.csv lists it, but there is no such image"
    try:
        return _read_member(source) if isinstance(source, Member) else read_image(Path(path))
    except Exception as error:  # of a million images one may break anything: the others are decided
        return readable(described(error))


def _read_member(member: Member) -> np.ndarray:
    # Through a file, because some formats are read by libraries that take nothing else.
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"image{Path(member.path).suffix}"
        path.write_bytes(member.data)
        try:
            return read_image(path)
        except UserError as error:
            raise UserError(str(error).replace(str(path), member.path)) from error


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
    except Exception as error:  # of a thousand videos one may break anything: the others are scored
        return {"error": readable(described(error))}
    video = score.faces.video
    return {
        "fake_probability": round(score.probability, 6),
        "fake_verdict": score.verdict,
        "threshold": score.threshold,
        "height": video.height,
        "width": video.width,
    }


def decide(
    config: SubmissionConfig, settings: Settings, case_id: str, image: np.ndarray, prediction: Prediction
) -> Row:
    """The row of one image, uint8 (H, W, 3) RGB."""
    height, width = image.shape[:2]
    forged = is_forged(prediction.forged_probability, config.mode)
    prob = resize_map(prediction.prob, height, width) if forged or config.maps is not None else None
    if config.maps is not None:
        _write_map(config.maps, case_id, prob)
    evidence, generated = prediction.evidence, prediction.generated
    annotation, area_share, n_instances = AUTHENTIC, 0.0, 0
    if forged:
        labels = find_instances(
            prob,
            settings.pixel_threshold,
            settings.min_area_share,
            config.instances,
            image,
            settings.cleanup,
            evidence.groups if evidence else (),
        )
        instances = encode_labels(labels)
        area_share, n_instances = np.count_nonzero(labels) / labels.size, len(instances)
        annotation = format_annotation(instances)
    scores: Scores = {
        "forged_probability": round(prediction.forged_probability, 6),
        "threshold": THRESHOLDS[config.mode],
        "area_share": round(area_share, 6),
        "n_instances": n_instances,
        "height": height,
        "width": width,
    }
    if evidence:
        scores |= {"copy_move_score": round(evidence.score, 6), "copy_move_inliers": evidence.inliers}
    if generated:
        scores |= {
            "generated_probability": round(generated.probability, 6),
            "generated_verdict": generated.verdict,
        }
    return Row(case_id, "image", scores, annotation)


def _write_map(folder: Path, case_id: str, prob: np.ndarray) -> None:
    path = folder / f"{case_id}.npy"
    if ".." in path.parts or not path.is_relative_to(folder):
        raise UserError(
            f"the map of {case_id} would lie outside --maps {folder}. Give it another case id, or leave --maps."
        )
    with written_whole(path, "wb") as file:
        np.save(file, prob.astype(np.float16))


def _with_flags(settings: Settings, config: SubmissionConfig) -> Settings:
    """The settings, and over them what the command line says."""

    def given(*names: str) -> dict[str, float | bool]:
        return {name: value for name in names if (value := getattr(config, name)) is not None}

    cleanup: Cleanup = replace(settings.cleanup, **given("closing", "opening", "fill_holes"))
    return replace(settings, cleanup=cleanup, **given("pixel_threshold", "min_area_share"))
