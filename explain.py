"""Show what an image shows twice, or, with --spai, where a network looked that asks if the whole is generated.

    python explain.py figure.png
    python explain.py figure.png --output found.png --min-score 0.8
    python explain.py portrait.jpg --spai models/spai_fusion_best.pth

Without --spai it prints a row a copy and draws a picture, by default outputs/<name of the image>_explained.png. How to
read it:

- The image as it is, and beside it in grey, with each group of regions that show the same in its own colour.
- Below, for the best groups: the source, the copy turned back and laid over it, and their difference. Where the
  difference is black within the outline and bright around it, the region is a copy.
- The score is the probability that it is a copy and no natural repetition. Which of two regions came first can't be
  told from the picture: `source` and `copy` are only names.

No network and no training takes part. Only repetition within this one image is looked for: an image without any may be
forged in other ways.

With --spai, a checkpoint of script 7, it prints the calibrated probability that the picture as a whole is generated and
the verdict, and draws by default outputs/<name of the image>_generated.png. How to read that:

- Patch attention: how much each patch weighs in the verdict. 1 is an equal share; what is hatched was not looked at.
- Semantic attention, of networks with fusion: which parts of the picture the patches take its meaning from. The table
  has the other sources too: the picture as a whole, the patch itself, prompts.
- Attention is where the network looked, not what is wrong there: no mask of a forgery. Locally edited pictures are not
  what the network is for.
"""

from common.process import prepare

prepare()  # before torch is imported

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from matplotlib.figure import Figure

from common.data.images import read_image
from common.errors import UserError
from common.evaluation.explanation import describe, draw_explanation
from common.files import written_whole
from common.forensics.copy_move import MATCHERS, Group, find_copies
from common.forensics.learned import learned_matcher
from common.generated.attention import attention_map, describe_tokens, draw_attention, semantic_map
from common.suffixes import VIDEO_SUFFIXES

LEAST_SCORE = 0.5


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """Which image, and where the picture goes."""

    image: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    """PNG, JPEG, TIFF, BMP or WEBP of any size."""
    output: Path | None = None
    """The picture, a PNG file; by default outputs/<name of the image>_explained.png, with --spai ..._generated.png."""
    spai: Path | None = None
    """Checkpoint of script 7: say whether the picture as a whole is generated, and draw where the network looked,
    instead of copies."""
    min_score: float = LEAST_SCORE
    """Groups less probable than this are left out."""
    target_fpr: float | None = None
    """With --spai: false-positive rate that the verdict keeps; by default the one it was trained with."""
    lightglue: Path | None = None
    """Weights of LightGlue for SIFT (sift_lightglue.pth), a learned matcher that proposes more places; needs kornia."""

    def __post_init__(self) -> None:
        """Refuse what can't be explained or written.

        Raises:
            UserError: With the flag or file, and what it must be.
        """
        if not 0 <= self.min_score <= 1:
            raise UserError(f"--min-score is {self.min_score}; it must be from 0 to 1.")
        if self.spai is not None and (self.min_score != LEAST_SCORE or self.lightglue is not None):
            flag = "--lightglue" if self.lightglue is not None else "--min-score"
            raise UserError(f"{flag} is about copies, which --spai does not look for. Leave one of the two out.")
        if self.target_fpr is not None and (self.spai is None or not 0 < self.target_fpr < 1):
            raise UserError(f"--target-fpr is {self.target_fpr}; it belongs to --spai, above 0 and below 1.")
        if self.image.is_dir():
            raise UserError(f"{self.image} is a folder. Name one image in it.")
        if not self.image.exists():
            raise UserError(f"there is no file {self.image}. Name an image.")
        if self.image.suffix.lower() in VIDEO_SUFFIXES:
            raise UserError(
                f"{self.image} is a video. See what speaks for a fake in it with: "
                f"python script_8_deepfake_video.py --predict {self.image}"
            )
        if self.path.is_dir():
            raise UserError(f"--output {self.path} is a folder. Name a file in it.")
        if self.path.suffix.lower() != ".png":
            raise UserError(f"--output {self.path} must end in .png.")
        if self.path.exists() and self.path.samefile(self.image):
            raise UserError(f"--output {self.path} is the image itself. Name another file.")

    @property
    def path(self) -> Path:
        """Of the picture."""
        kind = "explained" if self.spai is None else "generated"
        return self.output or Path("outputs") / f"{self.image.stem}_{kind}.png"

    @property
    def title(self) -> str:
        """The image's name, shortened."""
        name = self.image.name
        return name if len(name) <= 32 else f"{name[:16]}…{name[-15:]}"


def main(config: ExplainConfig) -> None:
    """Search or ask the network, print, draw."""
    figure = _explain_copies(config) if config.spai is None else _explain_generated(config, config.spai)
    with written_whole(config.path, "wb") as file:
        figure.savefig(file, format="png")
    print(f"\npicture: {config.path}")


def _explain_copies(config: ExplainConfig) -> Figure:
    image = read_image(config.image)
    learned = [] if config.lightglue is None else [learned_matcher(config.lightglue)]
    found = find_copies(image, [*MATCHERS, *learned])
    groups = [group for group in found if group.score >= config.min_score]
    verdict = _verdict(found, groups, config.min_score)
    print("\n\n".join([verdict, describe(groups)] if groups else [verdict]))
    return draw_explanation(image, groups, f"{config.title}: {verdict}")


def _explain_generated(config: ExplainConfig, path: Path) -> Figure:
    # Only here: torch takes seconds to import, and copies are found without it.
    from common.devices import process_state
    from common.generated import load_detector

    image = read_image(config.image)
    detector = load_detector(path, process_state().device)
    detector.adjust(target_fpr=config.target_fpr)
    model = detector.model
    (found,) = detector.predict([image])
    print(f"{found.verdict}, probability that it is generated {found.probability:.4f}")
    print(_meaning(found.verdict, detector.target_fpr))
    weights = found.score.attention.numpy()
    patches = len(weights) * attention_map(found.score.positions, weights, model.patch_size, *image.shape[:2])
    cells = None
    if found.score.semantic_attention is not None:
        asked, names = found.score.semantic_attention.numpy(), model.semantic_tokens
        print("\n" + describe_tokens(names, asked, weights, detector.prompts))
        cells = semantic_map(names, asked, weights, *image.shape[:2])
        cells = None if cells is None else len(names) * cells
    title = f"{config.title}: {found.verdict}, probability that it is generated {found.probability:.2f}"
    return draw_attention(image, patches, cells, title)


def _meaning(verdict: str, rate: float) -> str:
    """What a verdict promises, in one line."""
    if verdict == "insufficient evidence":
        return f"neither verdict is known to be wrong for at most {100 * rate:g} % of such images"
    other = "real" if verdict == "generated" else "generated"
    return f"of {other} images like those of the validation, at most {100 * rate:g} % are called {verdict}"


def _verdict(found: list[Group], groups: list[Group], min_score: float) -> str:
    """What was found, and how much of it is left out, in one line."""
    if not found:
        return "nothing is shown twice: no copy-move found"
    n_copies = sum(len(group.copies) for group in groups)
    hidden = [group.score for group in found if group not in groups]
    verdict = f"{n_copies or 'no'} {'copy' if n_copies == 1 else 'copies'} found"
    left_out = f"; {len(hidden)} left out below {min_score:g}, the best at {max(hidden):.2f}" if hidden else ""
    return verdict + left_out


if __name__ == "__main__":
    main(tyro.cli(ExplainConfig, description=__doc__))
