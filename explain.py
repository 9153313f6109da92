"""Show what an image shows twice: source and copy outlined in one colour, lines between the points that match.

    python explain.py figure.png
    python explain.py figure.png --output found.png --min-score 0.8

Prints a row a copy and draws a picture, by default outputs/<name of the image>_explained.png. How to read it:

- The image as it is, and beside it in grey, with each group of regions that show the same in its own colour.
- Below, for the best groups: the source, the copy turned back and laid over it, and their difference. Where the
  difference is black within the outline and bright around it, the region is a copy.
- The score is the probability that it is a copy and no natural repetition. Which of two regions came first can't be
  told from the picture: `source` and `copy` are only names.

No network and no training takes part. Only repetition within this one image is looked for: an image without any may be
forged in other ways.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from common.data.images import read_image
from common.errors import UserError
from common.evaluation.explanation import describe, draw_explanation
from common.files import written_whole
from common.forensics.copy_move import MATCHERS, Group, find_copies
from common.forensics.learned import learned_matcher

import tyro


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """Which image, and where the picture goes."""

    image: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    """PNG, JPEG, TIFF, BMP or WEBP of any size."""
    output: Path | None = None
    """The picture, a PNG file; by default outputs/<name of the image>_explained.png."""
    min_score: float = 0.5
    """Groups less probable than this are left out."""
    lightglue: Path | None = None
    """Weights of LightGlue for SIFT (sift_lightglue.pth), a learned matcher that proposes more places; needs kornia."""

    def __post_init__(self) -> None:
        """Refuse what can't be explained or written.

        Raises:
            UserError: With the flag or file, and what it must be.
        """
        if not 0 <= self.min_score <= 1:
            raise UserError(f"--min-score is {self.min_score}; it must be from 0 to 1.")
        if self.image.is_dir():
            raise UserError(f"{self.image} is a folder. Name one image in it.")
        if not self.image.exists():
            raise UserError(f"there is no file {self.image}. Name an image.")
        if self.path.is_dir():
            raise UserError(f"--output {self.path} is a folder. Name a file in it.")
        if self.path.suffix.lower() != ".png":
            raise UserError(f"--output {self.path} must end in .png.")
        if self.path.exists() and self.path.samefile(self.image):
            raise UserError(f"--output {self.path} is the image itself. Name another file.")

    @property
    def path(self) -> Path:
        """Of the picture."""
        return self.output or Path("outputs") / f"{self.image.stem}_explained.png"


def main(config: ExplainConfig) -> None:
    """Search, print, draw."""
    image = read_image(config.image)
    learned = [] if config.lightglue is None else [learned_matcher(config.lightglue)]
    found = find_copies(image, [*MATCHERS, *learned])
    groups = [group for group in found if group.score >= config.min_score]
    verdict = _verdict(found, groups, config.min_score)
    print("\n\n".join([verdict, describe(groups)] if groups else [verdict]))
    name = config.image.name
    name = name if len(name) <= 32 else f"{name[:16]}…{name[-15:]}"
    figure = draw_explanation(image, groups, f"{name}: {verdict}")
    with written_whole(config.path, "wb") as file:
        figure.savefig(file, format="png")
    print(f"\npicture: {config.path}")


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
