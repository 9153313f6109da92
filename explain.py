"""Find what an image shows twice, and what looks pasted; or explain verdicts on generated images, or faces in videos.

    python explain.py figure.png                                            # what is shown twice in one image
    python explain.py paper.pdf                                             # in a paper: within and across its figures
    python explain.py paper/ more/figure7.png                               # in many: a ranked table, and pictures
    python explain.py paper.pdf --library screened/                         # and in all papers screened before
    python explain.py figure.png --output found.png --min-score 0.8
    python explain.py figure.png --output found                             # the page of one image, to hand on
    python explain.py blot.png --altered                                    # and what looks pasted or redrawn in it
    python explain.py portrait.jpg --spai models/spai_fusion_best.pth       # is the whole image generated?
    python explain.py clip.mp4                                              # is the face fake? Also a folder of clips

Reuse. Says each copy in a sentence and draws a picture, by default outputs/<folder>/<image>_explained.png:

- The image with its panels, their printed letters and kinds; beside it in grey, each group of equal regions in its own
  colour.
- Below, for the best groups: the source, the copy laid over it, and their difference. A region is a copy if the
  difference is black inside the outline and bright around it.
- Panels that show one field in other channels or contrasts or at another time, enlargements, and plots that are set
  alike, are natural: named and outlined in dots, not counted.
- The score is the probability of a copy, as opposed to natural repetition. Which of two regions was first can't be
  seen: `source` and `copy` are only names.

Of several images, a folder or a PDF, by default below outputs/<folder>: a picture for each image in which something
was found, one for each two panels of different images that show the same, and findings.csv, a row per finding, those to
look at first on top; each of the other images has a row too. report.html says the same in plain words, with the
pictures in it: one file that asks nothing of the network, to read, print and hand on. Figures of a PDF come at their
own resolution; a page that is one image, as scanners make it, is one figure. --library keeps the panels in a folder:
what is screened later is compared with them. Panels of that folder are named after it. A name that a spreadsheet would
take for a formula has an apostrophe before it in findings.csv.

Repetition is found without a network. Images are shown upright, as their EXIF orientation asks for, and positions are
those of the picture that is shown.

Altered regions. With --altered, the networks of --models-dir, or where none is trained those that come with the project
mark what looks pasted, filled or redrawn: dashed. What is printed on a picture, plots and schematics are left out. The
score is no calibrated probability: insets, stacked pictures and blurred grounds are marked too (docs/RESULTS.md). An
image without any finding may still be forged.

Generated images. With --spai, a checkpoint of script 7, it prints the calibrated probability that the whole image is
generated and the verdict, and draws by default outputs/<folder>/<image>_generated.png:

- Patch attention: the weight of each patch in the verdict. 1 is an equal share; hatched parts were not used.
- Semantic attention, of networks with fusion: the parts of the image that the patches take their context from. The
  table has the other sources too: the whole image, the patch itself, prompts.
- Attention is no mask of a forgery, and the network is not meant for locally edited images.

Videos. Scores faces with models/deepfake_video*_best.pth (script 8), or --video; where there is no such network, the
images of a folder are explained and its videos left out. Writes results.csv below --output, by default outputs/videos,
and a folder per clip with result.json, contact sheet, timeline, heatmaps and annotated video. A subfolder that holds
nothing but images is a clip of frames; with --video, a single image is one of one frame. The exit status is 1 if the
named file can't be scored, or an image of several can't be read.
"""

from common.process import prepare

prepare()  # before torch is imported

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from common.data.images import read_picture
from common.ensemble.altered import networks_for
from common.errors import UserError, flag_of, readable, shortened
from common.explaining.figure import search_figure
from common.explaining.many import EXPLAINED, PAGE, RANKS, TABLE, Result, Run, explain_many
from common.files import check_regular, check_writable, entries, files_below, written_whole
from common.suffixes import IMAGE_SUFFIXES, PDF, VIDEO_SUFFIXES
from common.tables import markdown_table

FLAGS = {
    "copy-moves": ("min_score", "library", "altered", "models_dir"),
    "generated images": ("target_fpr",),
    "videos": ("faces", "face_model", "boxes", "threshold"),
}
"""What can be explained → the flags that belong to it alone."""
VIDEO_NETWORKS = "deepfake_video*_best.pth"
MOST_ROWS = 30
"""Rows of findings that are printed; findings.csv has all."""


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """What to explain, and where to write."""

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Images of any size, PDFs, or folders of these; or one video, or folder of videos or of folders of frames."""
    output: Path | None = None
    """The picture, a PNG file; for several images, or videos, the folder of the results; see above for the defaults. A
    folder for one image gets its table and page too."""
    page: int = 1
    """Images: page or frame to explain, from 1, of a file that has several; of a PDF all pages are read."""
    min_score: float = 0.5
    """Copy-moves: probability below which groups are left out, from 0 to 1."""
    library: Path | None = None
    """Copy-moves: folder of the panels screened before, which these are compared with and added to."""
    altered: bool = False
    """Copy-moves: look for regions that look pasted, filled or redrawn too, by networks."""
    models_dir: Path = Path("models")
    """Copy-moves: folder of the networks for --altered; where none is trained, those of its folder release."""
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
        if self.models_dir != Path("models") and not self.models_dir.is_dir():
            raise UserError(f"--models-dir {self.models_dir} is no folder. Name the folder of the networks.")
        if self.page < 1:
            raise UserError(f"--page is {self.page}; it must be 1 or more.")
        if self.page > 1 and self.subject == "videos":
            raise UserError("--page is for images, not for videos. Leave it out.")
        if self.spai is not None and self.video is not None:
            raise UserError("--spai is for images, --video for clips. Leave one of the two out.")
        if not self.sources:
            raise UserError("name an image, a folder or a video.")
        for source in self.sources:
            if not source.exists():
                raise UserError(f"there is no file {source}. Name an image or a video.")
            check_regular(source)
        if len(self.sources) > 1 and self.subject != "copy-moves":
            raise UserError(f"{self.subject} are explained one at a time; {len(self.sources)} files are named.")
        if self.subject == "generated images" and (not self._is_image or self.source.suffix.lower() == PDF):
            raise UserError(f"--spai explains single images; {self.source} is none. Name an image.")
        given = {entry.name for entry in fields(self) if getattr(self, entry.name) != entry.default}
        for subject, names in FLAGS.items():
            if subject != self.subject and (wrong := given & set(names)):
                raise UserError(f"{flag_of(min(wrong))} is for {subject}, not for {self.subject}. Leave it out.")
        if self.subject == "videos" or self.many:
            if self.output_path.is_file():
                raise UserError(f"--output {self.output_path} is a file. Name a folder.")
        elif self.output_path.is_dir():
            raise UserError(f"--output {self.output_path} is a folder. Name a file in it.")
        elif self.output_path.suffix.lower() != ".png":
            raise UserError(f"--output {self.output_path} must end in .png, or be a folder.")
        elif self.output_path.exists() and self.output_path.samefile(self.source):
            raise UserError(f"--output {self.output_path} is the image itself. Name another file.")

    @property
    def source(self) -> Path:
        """The first of the files."""
        return self.sources[0]

    @property
    def many(self) -> bool:
        """Whether there are a table and a page, of several images, or of one where the output is a folder."""
        alone = len(self.sources) == 1 and self.source.is_file() and self.source.suffix.lower() != PDF
        folder = self.output is not None and (self.output.is_dir() or not self.output.suffix)
        return self.subject == "copy-moves" and (self.library is not None or folder or not alone)

    @property
    def networks_dir(self) -> Path | None:
        """Folder of the networks that look for altered regions; None to leave these out."""
        return self.models_dir if self.altered else None

    @property
    def _is_image(self) -> bool:
        return self.source.is_file() and self.source.suffix.lower() not in VIDEO_SUFFIXES

    @property
    def subject(self) -> str:
        """What is explained, a key of `FLAGS`."""
        if self.spai is not None:
            return "generated images"
        return "copy-moves" if self.video is None and all(map(_holds_images, self.sources)) else "videos"

    @property
    def output_path(self) -> Path:
        """The picture, or for several images and videos the folder."""
        if self.output is not None:
            return self.output
        if self.subject == "videos":
            return Path("outputs", "videos")
        if self.many:
            place = self.source.resolve()
            if len(self.sources) > 1:
                return Path("outputs", "figures")
            return Path("outputs", place.name) if place.is_dir() else Path("outputs", place.parent.name, place.name)
        end = EXPLAINED if self.spai is None else "_generated.png"
        page = f"_page_{self.page}" if self.page > 1 else ""
        # With the folder and the whole name: authentic/10.png, forged/10.png and forged/10.jpg are three pictures.
        return Path("outputs", self.source.parent.name, f"{self.source.name}{page}{end}")


def _holds_images(path: Path) -> bool:
    """Whether a path is an image, or a folder of images.

    Where there is a network for videos, a folder without images of its own, or with videos, is one of clips: its
    subfolders are clips of frames.
    """
    if path.is_file():
        return path.suffix.lower() not in VIDEO_SUFFIXES
    if any(entry.match(VIDEO_NETWORKS) for entry in entries(Path("models"))):
        suffixes = {entry.suffix.lower() for entry in entries(path) if entry.is_file()}
        return bool(suffixes & {*IMAGE_SUFFIXES, PDF}) and not suffixes & VIDEO_SUFFIXES
    return any(file.suffix.lower() in (*IMAGE_SUFFIXES, PDF) for file in files_below(path))


def _count_videos(folder: Path) -> int:
    return sum(file.suffix.lower() in VIDEO_SUFFIXES for file in files_below(folder))


def main(config: ExplainConfig) -> None:
    """Explain, print and draw."""
    if config.subject == "videos":
        explain_videos(config)
    elif config.many:
        explain_folder(config)
    else:
        explain_image(config)


def explain_image(config: ExplainConfig) -> None:
    """Explain one image.

    Raises:
        UserError: It can't be read, or the picture can't be written.
    """
    check_writable(config.output_path)
    picture = read_picture(config.source, config.page - 1)
    image, title = picture.upright, shortened(config.source.name)
    if picture.pages > 1:
        print(f"note: page {config.page} of {picture.pages}; another one: --page N")
    if picture.orientation != 1:
        print(
            f"note: shown upright, by its EXIF orientation {picture.orientation}; masks refer to the pixels as stored"
        )
    if sys.stderr.isatty():
        print(readable(f"looking at {config.source} …"), file=sys.stderr)
    if config.spai is None:
        searched = search_figure(image, config.networks_dir)
        text, figure = searched.text(config.min_score), searched.picture(title, config.min_score)
        if config.altered:
            text += f"\n\n{networks_for(config.models_dir)[1]}"
    else:
        # Imported here because torch takes seconds.
        from common.devices import process_state
        from common.generated import explain, load_detector

        detector = load_detector(config.spai, process_state().device)  # pyrefly: ignore[bad-argument-type] # never None
        detector.adjust(target_fpr=config.target_fpr)
        text, figure = explain(detector, image, title)
    with written_whole(config.output_path, "wb") as file:
        figure.savefig(file, format="png")
    print(text)  # last: a reader like head may close the pipe
    print(f"\n{readable(f'picture: {config.output_path}')}")


def explain_folder(config: ExplainConfig) -> None:
    """Explain all images of several files, folders and papers.

    Raises:
        UserError: As `explain_many`.
        SystemExit: An image can't be read; the others are explained.
    """
    flags = [
        flag_of(entry.name, value)
        for entry in fields(config)
        if entry.name != "sources" and (value := getattr(config, entry.name)) != entry.default
    ]
    result = explain_many(
        Run(
            sources=config.sources,
            output=config.output_path,
            models_dir=config.networks_dir,
            min_score=config.min_score,
            page=config.page,
            library=config.library,
            flags=" ".join(flags),
        )
    )
    _report(result, config.output_path)
    if clips := sum(_count_videos(source) for source in config.sources if source.is_dir()):
        many = "video is" if clips == 1 else "videos are"
        print(f"note: {clips} {many} left out; name them, or their folder with --video")
    if config.altered:
        print(networks_for(config.models_dir)[1])
    if (library := result.library) is not None:
        print(readable(f"library: {config.library}, {len(library)} panels of {len(library.sources)} files"))
    if any(row["relation"] == "unreadable" for row in result.rows):
        raise SystemExit(1)


def _report(result: Result, output: Path) -> None:
    """Print the first rows, the counts, and what can't be read."""
    rows, explained = result.rows, result.panels.keys()
    shown = [row for row in rows if row["score"] != ""]
    if shown:
        head = ["image", "other_image", "relation", "score", "panels"]
        print(markdown_table(head, [[row.get(name, "") for name in head] for row in shown[:MOST_ROWS]]))
    pairs = [row for row in rows if row["relation"] == "reuse" and "other_image" in row]
    images = {kind: {row["image"] for row in rows if row["relation"] == kind} for kind in RANKS}
    reused = (images["reuse"] | {row["other_image"] for row in pairs}) & explained
    across = f"; {len(pairs)} {'finding' if len(pairs) == 1 else 'findings'} across images" if pairs else ""
    altered = f"altered regions in {len(images['altered'])}, " if images["altered"] else ""
    print(
        f"\n{len(explained)} {'image' if len(explained) == 1 else 'images'}: reuse in {len(reused)}, {altered}"
        f"nothing in {len(images['none'])}, {len(images['unreadable'])} unreadable{across}"
    )
    print(readable(f"findings: {output / TABLE}; pictures: {output}"))
    print(readable(f"to read or print: {output / PAGE}"))
    for row in rows:
        if row["relation"] == "unreadable":
            print(f"unreadable: {row['image']}: {row['note']}", file=sys.stderr)


def explain_videos(config: ExplainConfig) -> None:
    """Score a clip, or all clips of a folder.

    Raises:
        UserError: There is no checkpoint, or as `load_video_detector` and `predict_folder`.
    """
    from common.devices import process_state
    from common.video import find_video_detector, load_video_detector, predict_folder

    checkpoint = config.video or find_video_detector(Path("models"))
    if checkpoint is None and config.source.is_dir() and not _count_videos(config.source):
        raise UserError(f"{config.source} holds no images, PDFs or videos. Name another folder.")
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
    lost = f"; {failures} could not be scored" * bool(failures)
    print(readable(f"results: {config.output_path / 'results.csv'}{lost}"))
    if failures and config.source.is_file():
        raise SystemExit(1)


if __name__ == "__main__":
    main(tyro.cli(ExplainConfig, description=__doc__))
