"""Record of a training run by epoch, as JSON and as a picture of its curves."""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.colours import BLUE, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILION
from common.config.run import RunConfig
from common.errors import first_line
from common.files import write_json, written_whole

BETWEEN_PICTURES = 60.0
"""Seconds, at least, from one picture to the next while a run goes on: to draw one takes about half a second."""
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY_BLUE, VERMILION)


class History:
    """Loss and metrics of every epoch of a run: <name>_history.json, written after each, and <name>_curve.png.

    Of several processes only the main one holds it. What goes wrong here is a message, and never ends the run.
    """

    def __init__(self, config: RunConfig, shown: Sequence[str], first: int) -> None:
        """Begin, or go on with what was written before.

        Args:
            config: Of the run.
            shown: The metrics in the picture.
            first: The epoch that comes next, from 0: later ones of an older run are dropped.
        """
        self.config, self.shown = config, shown
        self.path = config.models_dir / f"{config.name}_history.json"
        self.picture = config.models_dir / f"{config.name}_curve.png"
        self.epochs: dict[str, dict[str, float]] = {}
        self.drawn = time.monotonic()
        if first > 0 and self.path.is_file():
            try:
                earlier = read_history(self.path)["epochs"]
                self.epochs = {number: earlier[number] for number in earlier if int(number) <= first}
            except Exception as error:
                print(f"note: {self.path} can't be read, and begins anew ({first_line(error)})")

    def add(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Write the figures of an epoch, before its checkpoint: what a continuation does again, it drops.

        Args:
            epoch: From 0.
            figures: `loss`, that of the training, and the metrics of the validation.
        """
        try:
            finite = {name: value if math.isfinite(value) else math.nan for name, value in figures.items()}
            self.epochs[str(epoch + 1)] = finite  # JSON has no infinity
            record = {"command": sys.argv, "config": self.config.plain(), "epochs": self.epochs}
            write_json(record, self.path)
        except Exception as error:
            print(f"note: {self.path} was not written ({first_line(error)})")

    def draw_sometimes(self, best_epoch: int) -> None:
        """Draw the picture if the last one is a minute old."""
        if time.monotonic() - self.drawn > BETWEEN_PICTURES:
            self.draw(best_epoch)

    def draw(self, best_epoch: int) -> None:
        """Draw the picture, with the best epoch so far, from 0, marked; a run of one epoch has none."""
        try:
            if len(self.epochs) > 1:
                draw_curve(self.picture, self.config.name, self.epochs, self.shown, best_epoch + 1)
            else:
                self.picture.unlink(missing_ok=True)  # that of an older run
        except Exception as error:
            print(f"note: {self.picture} was not drawn ({first_line(error)})")
        self.drawn = time.monotonic()


def read_history(path: Path) -> dict[str, Any]:
    """What a `History` has written.

    Returns:
        command, the program and its arguments; config, the run's; epochs, the number of each, from 1, as text → loss
        and metrics, None where undefined.

    Raises:
        OSError: It can't be read.
        ValueError: It is no history.
    """
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict) or not isinstance(found.get("epochs"), dict):
        raise ValueError("it is no history of a training")
    return found


def draw_curve(
    path: Path, name: str, epochs: Mapping[str, Mapping[str, float | None]], shown: Sequence[str], best_epoch: int
) -> None:
    """Draw the loss of the training and metrics of the validation by epoch, as PNG.

    Args:
        path: The picture.
        name: The run's.
        epochs: As `read_history` has them.
        shown: The metrics.
        best_epoch: The one that was kept, from 1.
    """
    # Imported here: it takes a second, and a training begins without it.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    numbers = sorted(map(int, epochs))

    def values(figure: str) -> list[float]:
        found = [epochs[str(number)].get(figure) for number in numbers]
        return [math.nan if value is None else value for value in found]

    # Not a constrained layout, which takes twice as long.
    figure = Figure(figsize=(8, 6))
    edges = {"left": 0.08, "right": 0.98, "bottom": 0.17, "top": 0.94, "hspace": 0.08}
    above, below = figure.subplots(2, sharex=True, height_ratios=(2, 3), gridspec_kw=edges)
    above.plot(numbers, values("loss"), color="#1c2430", marker=".")
    above.set_ylabel("loss of the training")
    for place, metric in enumerate(shown):
        below.plot(numbers, values(metric), color=COLOURS[place % len(COLOURS)], marker=".", label=metric)
    drawn = [value for metric in shown for value in values(metric) if not math.isnan(value)]
    if drawn and 0 <= min(drawn) <= max(drawn) <= 1:
        below.set_ylim(-0.02, 1.02)
    below.set(xlabel="epoch", ylabel="validation")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (above, below):
        axes.axvline(best_epoch, color="#8a8f98", linestyle="--", linewidth=1, label="best epoch, which is kept")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    below.legend(frameon=False, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    figure.suptitle(f"{name}: {len(numbers)} epochs, the best is {best_epoch}", fontsize=11, parse_math=False)
    with written_whole(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)
