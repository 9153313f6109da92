"""Configuration of script 9."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

from tyro.conf import Suppress

from common.config.run import Count, Natural, NonNegative, Positive, RunConfig, Share


@dataclass(frozen=True, kw_only=True)
class PanelConfig(RunConfig):
    """Train the detector of panels that `common/figures` finds a figure's panels with."""

    FREE: ClassVar[frozenset[str]] = RunConfig.FREE | {"encoder_weights"}
    INHERITED: ClassVar[frozenset[str]] = frozenset({"encoder_weights"})

    name: Suppress[str] = "panels"
    """Name of the detector."""
    figures: Path = Path("data/figures/images")
    """Folder of the outlined figures."""
    outlines: Path = Path("data/outlines.json")
    """Outlines of figures: file name → list of box ([x, y, width, height] in pixels) and kind (micrograph, blot,
    photograph, plot or drawing)."""
    micrographs: Path | None = None
    """Folder of further micrographs, which composed figures show too."""
    encoder_weights: str = "imagenet"
    """First weights of the encoder: imagenet (the hub's or an installed weight package's), none (random), auto
    (imagenet, or none if there are none), or a file with timm's key names."""
    held_out: Share = 0.2
    """Share of the papers (the file name up to the first underscore) that validate; 0 trains on all, and validates on
    the figures that it trains on."""

    batch_size: Count = 8
    """Figures per step and process."""
    epochs: Natural = 10
    """Passes over --drawn figures; 0 saves and scores the untrained network."""
    drawn: Count = 1600
    """Figures of a pass, each composed or varied anew."""
    lr: Positive = 1e-3
    """Peak learning rate; the encoder's is 0.4 of it."""
    seed: Natural = 0
    """Random seed of the held-out papers, the initial weights and the figures."""
    workers: Natural = 1
    """Processes that compose figures; 0 composes them in the main process."""

    schedule: Suppress[Literal["one_cycle"]] = "one_cycle"
    weight_decay: Suppress[NonNegative] = 0.02
    clip_grad: Suppress[NonNegative] = 5.0
    skip_bad_files: Suppress[bool] = False
    plots: Suppress[Count] = 700
    """Plots that are drawn for composed figures; a third as many schematics, half as many strips of blots."""
    image_size: Suppress[Count] = 640
    """Longer side of a figure in pixels."""
    varied: Suppress[Share] = 0.6
    """Share of figures that are outlined ones varied; the others are composed."""

    def quick(self) -> Self:
        """The recipe for a trial: few figures, drawn small."""
        return replace(super().quick(), epochs=2, drawn=160, plots=60, image_size=384)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a checkpoint's weights, in half precision, for the programs that find panels."""

    checkpoint: Path = Path("models/panels_best.pth")
    """Checkpoint to write the weights of."""
    output: Path = Path("common/figures/panels.safetensors")
    """Where they go."""
