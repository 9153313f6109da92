"""Find duplicated regions in an image and draw them; or explain a verdict on generated images, or on faces in videos.

    python explain.py figure.png                                            # copy-moves in one image
    python explain.py figure.png --output found.png --min-score 0.8
    python explain.py portrait.jpg --spai models/spai_fusion_best.pth       # is the whole image generated?
    python explain.py clip.mp4                                              # is the face fake? Also a folder of clips

Copy-moves. Prints a row per copy and draws a picture, by default outputs/<folder>/<image>_explained.png:

- The image, and beside it in grey, with each group of equal regions in its own colour.
- Below, for the best groups: the source, the copy warped onto it, and their difference. A region is a copy if the
  difference is black inside the outline and bright around it.
- Panels that show one field in other channels or contrasts, and enlargements, are natural: named, not counted.
- The score is the probability of a copy, as opposed to natural repetition. Which of two regions was first can't be
  seen: `source` and `copy` are only names.

No network is used. Only repetition within this image is found; an image without any may be forged in other ways. The
image is shown upright, as its EXIF orientation asks for, and positions are those of the picture that is shown.

Generated images. With --spai, a checkpoint of script 7, it prints the calibrated probability that the whole image is
generated and the verdict, and draws by default outputs/<folder>/<image>_generated.png:

- Patch attention: the weight of each patch in the verdict. 1 is an equal share; hatched parts were not used.
- Semantic attention, of networks with fusion: the parts of the image that the patches take their context from. The
  table has the other sources too: the whole image, the patch itself, prompts.
- Attention is no mask of a forgery, and the network is not meant for locally edited images.

Videos. Scores faces with models/deepfake_video*_best.pth (script 8), or --video. Writes results.csv below --output, by
default outputs/videos, and a folder per clip with result.json, contact sheet, timeline, heatmaps and annotated video. A
subfolder that holds nothing but images is a clip of frames; with --video, a single image is one of one frame. The exit
status is 1 if the named file can't be scored.
"""

from common.process import prepare

prepare()  # before torch is imported

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from matplotlib.figure import Figure

from common.data.images import read_picture
from common.errors import UserError
from common.evaluation.explanation import describe, draw_explanation
from common.figures.reuse import Finding, find_reuse
from common.files import check_writable, written_whole
from common.forensics.copy_move import MATCHERS, Group
from common.forensics.learned import learned_matcher
from common.suffixes import VIDEO_SUFFIXES

FLAGS = {
    "copy-moves": ("min_score", "lightglue"),
    "generated images": ("target_fpr",),
    "videos": ("faces", "face_model", "boxes", "threshold"),
}
"""What can be explained → the flags that belong to it alone."""


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """What to explain, and where to write."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """An image of any size, a video, or a folder of videos or of folders of frames."""
    output: Path | None = None
    """The picture, a PNG file, or for videos the folder of the results; see above for the defaults."""
    page: int = 1
    """Images: page or frame to explain, from 1, of a file that has several."""
    min_score: float = 0.5
    """Copy-moves: probability below which groups are left out, from 0 to 1."""
    lightglue: Path | None = None
    """Copy-moves: weights of LightGlue for SIFT (sift_lightglue.pth), a learned matcher that proposes more candidates;
    needs kornia."""
    spai: Path | None = None
    """Generated images: a checkpoint of script 7, for its verdict and attention instead of copy-moves."""
    target_fpr: float | None = None
    """Generated images: false-positive rate of the verdict, between 0 and 1; by default that of its training."""
    video: Path | None = None
    """Videos: a checkpoint of script 8; by default models/deepfake_video*_best.pth."""
    faces: Literal["auto", "mtcnn", "yunet", "boxes", "crops", "centre"] = "auto"
    """Videos: face detector, mtcnn (facenet-pytorch), yunet (OpenCV), boxes (of --boxes), crops (the frames are faces),
    centre (none); by default mtcnn if it is installed, else centre."""
    face_model: Path | None = None
    """Videos: ONNX file of YuNet, for --faces yunet."""
    boxes: Path | None = None
    """Videos: table of face boxes for --faces boxes, CSV with columns file,frame,left,top,right,bottom, in pixels."""
    threshold: float | None = None
    """Videos: probability from which a clip is called fake, from 0 to 1; by default the checkpoint's."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: With the flag or file, and what it must be.
        """
        for flag, value in (("--min-score", self.min_score), ("--threshold", self.threshold)):
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{flag} is {value}; it must be from 0 to 1.")
        if self.target_fpr is not None and not 0 < self.target_fpr < 1:
            raise UserError(f"--target-fpr is {self.target_fpr}; it must be above 0 and below 1.")
        if self.page < 1:
            raise UserError(f"--page is {self.page}; it must be 1 or more.")
        if self.page > 1 and self.subject == "videos":
            raise UserError("--page is for images, not for videos. Leave it out.")
        if self.spai is not None and self.video is not None:
            raise UserError("--spai is for images, --video for clips. Leave one of the two out.")
        if not self.source.exists():
            raise UserError(f"there is no file {self.source}. Name an image or a video.")
        if self.subject == "generated images" and not self._is_image:
            raise UserError(f"--spai explains single images; {self.source} is none. Name an image.")
        given = {entry.name for entry in fields(self) if getattr(self, entry.name) != entry.default}
        for subject, names in FLAGS.items():
            if subject != self.subject and (wrong := given & set(names)):
                raise UserError(
                    f"--{min(wrong).replace('_', '-')} is for {subject}, not for {self.subject}. Leave it out."
                )
        if self.subject == "videos":
            if self.output_path.is_file():
                raise UserError(f"--output {self.output_path} is a file. Name a folder.")
        elif self.output_path.is_dir():
            raise UserError(f"--output {self.output_path} is a folder. Name a file in it.")
        elif self.output_path.suffix.lower() != ".png":
            raise UserError(f"--output {self.output_path} must end in .png.")
        elif self.output_path.exists() and self.output_path.samefile(self.source):
            raise UserError(f"--output {self.output_path} is the image itself. Name another file.")

    @property
    def _is_image(self) -> bool:
        return self.source.is_file() and self.source.suffix.lower() not in VIDEO_SUFFIXES

    @property
    def subject(self) -> str:
        """What is explained, a key of `FLAGS`."""
        if self.spai is not None:
            return "generated images"
        return "copy-moves" if self._is_image and self.video is None else "videos"

    @property
    def output_path(self) -> Path:
        """The picture, or for videos the folder."""
        if self.output is not None:
            return self.output
        if self.subject == "videos":
            return Path("outputs", "videos")
        kind = "explained" if self.spai is None else "generated"
        page = f"_page_{self.page}" if self.page > 1 else ""
        # With the folder and the whole name: authentic/10.png, forged/10.png and forged/10.jpg are three pictures.
        return Path("outputs", self.source.parent.name, f"{self.source.name}{page}_{kind}.png")

    @property
    def title(self) -> str:
        """The image's name, shortened."""
        name = self.source.name
        return name if len(name) <= 32 else f"{name[:16]}…{name[-15:]}"


def main(config: ExplainConfig) -> None:
    """Explain, print and draw."""
    if config.subject == "videos":
        explain_videos(config)
        return
    check_writable(config.output_path)
    picture = read_picture(config.source, config.page - 1)
    image = picture.upright
    if picture.pages > 1:
        print(f"note: page {config.page} of {picture.pages}; another one: --page N")
    if picture.orientation != 1:
        print(
            f"note: shown upright, by its EXIF orientation {picture.orientation}; masks refer to the pixels as stored"
        )
    if config.spai is None:
        text, figure = explain_copies(config, image)
    else:
        # Imported here because torch takes seconds, and copy-moves need no network.
        from common.devices import process_state
        from common.generated import explain, load_detector

        detector = load_detector(config.spai, process_state().device)  # pyrefly: ignore[bad-argument-type] # never None
        detector.adjust(target_fpr=config.target_fpr)
        text, figure = explain(detector, image, config.title)
    print(text)
    with written_whole(config.output_path, "wb") as file:
        figure.savefig(file, format="png")
    print(f"\npicture: {config.output_path}")


def explain_copies(config: ExplainConfig, image: np.ndarray) -> tuple[str, Figure]:
    """The copy-moves in an image, uint8 (H, W, 3) RGB, as text and as a picture."""
    learned = [] if config.lightglue is None else [learned_matcher(config.lightglue)]
    findings = find_reuse(image, [*MATCHERS, *learned])
    found = findings.reuse
    groups = [group for group in found if group.score >= config.min_score]
    verdict = _verdict(found, groups, config.min_score)
    natural = [
        f"natural, and not counted: {finding.relation}, probability of a copy {finding.group.score:.2f}, "
        f"{_places(finding, len(findings.panels))}"
        for finding in findings.findings
        if finding.relation != "reuse" and finding.group.score >= config.min_score
    ]
    text = "\n\n".join([verdict, *([describe(groups)] if groups else []), *natural])
    return text, draw_explanation(image, groups, f"{config.title}: {verdict}")


def _places(finding: Finding, n_panels: int) -> str:
    """The panels that a finding joins, counted from 1."""
    known = [str(place + 1) for place in finding.panels if place is not None]
    return f"panels {' and '.join(known)} of {n_panels}" if len(known) == 2 else f"several of {n_panels} panels"


def _verdict(found: list[Group], groups: list[Group], min_score: float) -> str:
    """One line: how many copies were found, and how many groups are left out."""
    if not found:
        return "no copy-move found"
    n_copies = sum(len(group.copies) for group in groups)
    verdict = f"{n_copies or 'no'} {'copy' if n_copies == 1 else 'copies'} found"
    hidden = [group.score for group in found if group not in groups]
    left_out = f"; {len(hidden)} left out below {min_score:g}, the best at {max(hidden):.2f}" if hidden else ""
    return verdict + left_out


def explain_videos(config: ExplainConfig) -> None:
    """Score a clip, or all clips of a folder.

    Raises:
        UserError: There is no checkpoint, or as `load_video_detector` and `predict_folder`.
    """
    from common.devices import process_state
    from common.video import find_video_detector, load_video_detector, predict_folder

    checkpoint = config.video or find_video_detector(Path("models"))
    if checkpoint is None:
        raise UserError(
            "models/ has no deepfake_video*_best.pth. Train one with script_8_deepfake_video.py, or name one: --video."
        )
    detector = load_video_detector(
        checkpoint,
        process_state().device,  # pyrefly: ignore[bad-argument-type] # never None
        faces=config.faces,
        face_model=config.face_model,
        boxes=config.boxes,
        threshold=config.threshold,
    )
    failures = predict_folder(detector, config.source, config.output_path)
    print(f"results: {config.output_path / 'results.csv'}" + f"; {failures} could not be scored" * bool(failures))
    if failures and config.source.is_file():
        raise SystemExit(1)


if __name__ == "__main__":
    main(tyro.cli(ExplainConfig, description=__doc__))
