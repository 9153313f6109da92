"""Checkpoints and a folder of images and videos → submission.csv, one row an image, and scores.csv beside it.

    python make_submission.py --input data/test_images --models-dir models --output submission.csv

The members' maps are averaged by their weights, joined with the small-forgery specialist's and with copy-move evidence,
and decided: the calibrated probability that the image is forged must reach the mode's threshold before any region is
drawn. `python fit_ensemble.py` fits weights and decision to the data; without its models/ensemble.json the seed's
weights count. With no network trained at all, --allow-missing lets copy-move evidence decide alone.

Where there is a detector of generated images, models/spai*_best.pth (script 7), scores.csv has its probability and its
verdict for each image: "generated" is another question than "locally edited". What fit_ensemble.py fitted with it lets
a high probability speak for a forgery; a low one never speaks against one.

Videos are scored after the images where there is a detector of deepfakes, models/deepfake_video*_best.pth (script 8):
scores.csv has a row for each, of the kind `video`, with the probability that its face is fake and the verdict. The
submission lists images only. `python script_8_deepfake_video.py --predict` shows where and when.

Images of any size, as PNG, JPEG, TIFF, BMP or WEBP; regions are drawn at each image's own resolution. Rows follow
sample_submission.csv where there is one. Images are read, decided and written one batch after the other: memory does
not grow with their number. An image that can't be read has its row all the same, and its error in scores.csv.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from common.data.faces import make_face_detector
from common.data.images import find_images, read_image
from common.data.transforms import resize_map
from common.data.videos import VIDEO_SUFFIXES
from common.errors import UserError
from common.files import written_whole
from common.inference.ensemble import Ensemble, Prediction, load_ensemble
from common.inference.gate import THRESHOLDS, Mode, is_forged
from common.inference.instances import Cleanup, Grouping, find_instances
from common.inference.rle import encode_labels, format_annotation
from common.inference.rows import submission_rows
from common.inference.settings import Settings
from common.inference.video import NAME as VIDEO_DETECTOR
from common.inference.video import VideoDetector, fault, find_video_detector, load_video_detector
from common.inference.views import TTA

import numpy as np
import tyro
from accelerate import PartialState
from joblib import cpu_count
from tqdm import tqdm

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


@dataclass(frozen=True, kw_only=True)
class SubmissionConfig:
    """What to read, how to decide, where to write."""

    input: Path
    """Folder of images and videos (with its subfolders), or one of these."""
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
        for name in ("batch_size", "workers", "feature_batch"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise UserError(f"--{name.replace('_', '-')} is {count}; it must be 1 or more.")


def main(config: SubmissionConfig) -> None:
    """Decide every image, score every video, and write the tables."""
    images, videos = _find(config)
    alone = not images and config.sample_submission is None and bool(videos)
    rows = [] if alone else submission_rows(images, config.sample_submission, config.input)
    ensemble = None if alone else _load_ensemble(config, len(rows))
    detector = _load_video_detector(config) if videos else None
    scores_path = config.scores or config.output.with_name("scores.csv")
    if scores_path.resolve() == config.output.resolve():
        raise UserError(f"the submission and the scores can't both be {config.output}; name another with --scores.")

    counts: Counter[str] = Counter()
    with (
        written_whole(config.output) as submission_file,
        written_whole(scores_path) as scores_file,
        tqdm(total=len(rows) + len(videos), unit="file", disable=None) as bar,
    ):
        submission = csv.writer(submission_file)
        submission.writerow(["case_id", "annotation"])
        scores = csv.DictWriter(scores_file, SCORE_COLUMNS)
        scores.writeheader()
        for case_id, annotation, score in _decided(config, ensemble, images, rows):
            submission.writerow([case_id, annotation])
            scores.writerow({"case_id": case_id, "kind": "image"} | score)
            counts["unreadable" if "error" in score else "forged" if score["n_instances"] else "authentic"] += 1
            if "error" in score:
                bar.write(f"{case_id}: {score['error']}")
            bar.update()
        for case_id, path in videos.items():
            score = _score_video(config, detector, path)
            scores.writerow({"case_id": case_id, "kind": "video"} | score)
            counts[f"video {score.get('fake_verdict', 'not scored')}"] += 1
            if "error" in score:
                bar.write(f"{case_id}: {score['error']}")
            bar.update()
    summary = ", ".join(f"{counts[kind]} {kind}" for kind in ("forged", "authentic", "unreadable") if counts[kind])
    parts = [f"{len(rows)} images: {summary}"] if rows else []
    verdicts = ("fake", "real", "inconclusive", "not scored")
    summary = ", ".join(f"{counts[f'video {name}']} {name}" for name in verdicts if counts[f"video {name}"])
    parts += [f"{len(videos)} videos: {summary}"] if videos else []
    print(f"{'; '.join(parts)} → {config.output}, {scores_path}")


def _find(config: SubmissionConfig) -> tuple[dict[str, Path], dict[str, Path]]:
    """Case id → file, of the images and of the videos; a video's case id has its suffix: `a.png` may lie beside it."""
    path = config.input
    if path.is_file():
        is_video = path.suffix.lower() in VIDEO_SUFFIXES
        return ({} if is_video else {path.stem: path}), ({path.name: path} if is_video and config.videos else {})
    images = find_images(path)
    found = sorted(path.rglob("*")) if config.videos else []
    videos = {
        video.relative_to(path).as_posix(): video
        for video in found
        if video.suffix.lower() in VIDEO_SUFFIXES and video.is_file() and not video.name.startswith(".")
    }
    return images, videos


def _load_ensemble(config: SubmissionConfig, n_images: int) -> Ensemble:
    """The ensemble, and its detector of generated images with what the command line says."""
    ensemble = load_ensemble(
        config.models_dir,
        PartialState().device,
        config.allow_missing,
        config.tta,
        copy_move=config.copy_move,
        workers=config.workers or max(1, min(cpu_count(), config.batch_size, n_images)),
        generated=config.generated,
    )
    if ensemble.detector is not None:
        ensemble.detector.adjust(config.feature_batch, config.target_fpr)
    return ensemble


def _load_video_detector(config: SubmissionConfig) -> VideoDetector | None:
    """None where none is trained."""
    path = find_video_detector(config.models_dir)
    if path is None:
        return None
    faces = make_face_detector(config.faces, model=config.face_model)
    return load_video_detector(path, PartialState().device, faces)


def _decided(
    config: SubmissionConfig, ensemble: Ensemble | None, images: Mapping[str, Path], rows: Sequence[str]
) -> Iterator[tuple[str, str, dict[str, float | str]]]:
    """Case id, annotation and score columns of each row; one batch of images is in memory at a time."""
    if ensemble is None:
        return
    settings = _with_flags(ensemble.settings, config)
    with ThreadPoolExecutor() as readers:
        for start in range(0, len(rows), config.batch_size):
            batch = rows[start : start + config.batch_size]
            read = list(readers.map(_read, (images.get(case_id) for case_id in batch)))
            readable = [image for image in read if not isinstance(image, str)]
            predictions = iter(ensemble.predict(readable))
            for case_id, image in zip(batch, read, strict=True):
                if isinstance(image, str):
                    yield case_id, "authentic", {"error": image}
                else:
                    yield case_id, *decide(config, settings, case_id, image, next(predictions))


def _score_video(config: SubmissionConfig, detector: VideoDetector | None, path: Path) -> dict[str, float | str]:
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
        return {"error": fault(error)}
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
) -> tuple[str, dict[str, float | str]]:
    """Annotation and score columns of one image."""
    height, width = image.shape[:2]
    prob = resize_map(prediction.prob, height, width)
    if config.maps is not None:
        with written_whole(config.maps / f"{case_id}.npy", "wb") as file:
            np.save(file, prob.astype(np.float16))
    labels = np.zeros((height, width), np.int32)
    evidence, generated = prediction.evidence, prediction.generated
    if is_forged(prediction.forged_probability, config.mode):
        labels = find_instances(
            prob,
            settings.pixel_threshold,
            settings.min_area_share,
            config.instances,
            image,
            settings.cleanup,
            evidence.groups if evidence else (),
        )
    score = {
        "forged_probability": round(prediction.forged_probability, 6),
        "threshold": THRESHOLDS[config.mode],
        "area_share": round(float((labels > 0).mean()), 6),
        "n_instances": int(labels.max()),
        "height": height,
        "width": width,
    }
    if evidence:
        score |= {"copy_move_score": round(evidence.score, 6), "copy_move_inliers": evidence.inliers}
    if generated:
        score |= {
            "generated_probability": round(generated.probability, 6),
            "generated_verdict": generated.verdict,
        }
    return format_annotation(encode_labels(labels)), score


def _with_flags(settings: Settings, config: SubmissionConfig) -> Settings:
    """The settings, and over them what the command line says."""

    def given(*names: str) -> dict[str, float | bool]:
        return {name: value for name in names if (value := getattr(config, name)) is not None}

    cleanup: Cleanup = replace(settings.cleanup, **given("closing", "opening", "fill_holes"))
    return replace(settings, cleanup=cleanup, **given("pixel_threshold", "min_area_share"))


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
