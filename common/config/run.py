"""Configuration of a training run; its fields are the flags that every training script has."""

import dataclasses
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import tyro
from tyro.conf import Suppress, arg

from common.errors import UserError, flag_of

Plain = str | int | float | bool


@dataclass(frozen=True)
class Range:
    """The values that a field may have, as metadata of its type."""

    holds: Callable[[Any], bool]
    wanted: str
    """What holds, for the error message."""


Count = Annotated[int, Range(lambda value: value >= 1, "1 or more"), arg(metavar="INT≥1")]
Natural = Annotated[int, Range(lambda value: value >= 0, "0 or more"), arg(metavar="INT≥0")]
Seed = Annotated[int, Range(lambda value: 0 <= value < 2**31, "from 0 to 2147483647"), arg(metavar="INT≥0")]
Positive = Annotated[float, Range(lambda value: 0 < value < math.inf, "above 0"), arg(metavar="FLOAT>0")]
NonNegative = Annotated[float, Range(lambda value: 0 <= value < math.inf, "0 or more"), arg(metavar="FLOAT≥0")]
Share = Annotated[float, Range(lambda value: 0 <= value <= 1, "from 0 to 1"), arg(metavar="FLOAT[0,1]")]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run. Subclasses add the fields of a kind of network.

    A suppressed field is a flag of those subclasses only that declare it again.
    """

    FREE: ClassVar[frozenset[str]] = frozenset(
        {"models_dir", "workers", "tracker", "resume", "overwrite", "skip_bad_files", "epochs"}
    )
    """Fields that may differ between a run and its continuation: they do not shape the weights."""
    INHERITED: ClassVar[frozenset[str]] = frozenset()
    """Free fields whose value a continuation takes over from the checkpoint."""
    RECIPES: ClassVar[dict[tuple[str, str], str]] = {("profile", "quick"): "quick"}
    """Flags and values that change the other defaults, and the methods that do."""

    name: str
    """Name of the member, which is that of its files: models/<name>_best.pth."""
    models_dir: Path = Path("models")
    """Folder of the checkpoints, the metrics and the tracker's logs."""
    profile: Literal["full", "quick"] = "full"
    """quick shrinks the recipe for two CPU cores; other flags win over it."""

    batch_size: Count = 4
    """Images per step and process."""
    accumulation: Count = 1
    """Steps whose gradients are added up before the weights change."""
    epochs: Natural = 30
    """Passes over the training images; 0 saves and scores the untrained network."""
    lr: Positive = 3e-4
    """Learning rate, for one_cycle and cosine the peak."""
    schedule: Literal["constant", "one_cycle", "cosine", "warm_restarts"] = "constant"
    """Learning rate schedule; one_cycle: Smith and Topin 2018, cosine and warm_restarts: Loshchilov and Hutter 2017."""
    restart_epochs: Suppress[Count] = 5
    """Epochs of the first cycle of warm_restarts; each next cycle is twice as long."""
    warmup_epochs: Suppress[NonNegative] = 0.0
    """Epochs of cosine in which the rate rises to --lr."""
    weight_decay: NonNegative = 0.0
    """Weight decay of AdamW; 0 makes it Adam."""
    clip_grad: Suppress[NonNegative] = 0.0
    """Largest norm of the gradient; 0 does not clip."""
    patience: Suppress[Natural] = 0
    """Epochs without a better score after which the training ends; 0 never ends it early."""

    seed: Seed = 0
    """Random seed of the initial weights, the draws and the augmentation."""
    workers: Natural = 4
    """Processes that load images; 0 loads them in the main process."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Floating-point format of the network's arithmetic; auto is bf16 on a GPU that supports it, else fp32."""
    tracker: Literal["tensorboard", "wandb", "mlflow", "none"] = "tensorboard"
    """Where each epoch's metrics are logged: tensorboard in models/runs; wandb and mlflow must be installed."""
    resume: bool = False
    """Continue the run from models/<name>_last.pth; with larger --epochs, also a finished one."""
    overwrite: bool = False
    """Replace the checkpoints of an earlier run, which are kept by default."""
    skip_bad_files: bool = False
    """Train without the files that can't be read, after listing them, instead of stopping."""

    def __post_init__(self) -> None:
        """Check the ranges of the fields, which hold in subclasses that declare a field again too, and `_rules`.

        Raises:
            UserError: A field is out of its range; the message names the flag, its value and what it must be.
        """
        ranges = [
            (name, entry.holds(getattr(self, name)), entry.wanted)
            for kind in type(self).__mro__
            for name, annotation in inspect.get_annotations(kind).items()
            for entry in getattr(annotation, "__metadata__", ())
            if isinstance(entry, Range)
        ]
        for name, holds, wanted in [*ranges, *((name, *rule) for name, rule in self._rules().items())]:
            if not holds:
                raise UserError(f"{flag_of(name)} is {getattr(self, name)}; it must be {wanted}.")

    def _rules(self) -> dict[str, tuple[bool, str]]:
        """Rules of several fields at once, by the name of one: whether it holds, and what is wanted."""
        # An untrained network (--epochs 0) has no warm-up, whatever its recipe's is.
        warms_up = self.schedule == "cosine" and (self.epochs == 0 or self.warmup_epochs < self.epochs)
        wanted = f"0, or with --schedule cosine from 0 to below --epochs ({self.epochs})"
        return {"warmup_epochs": (warms_up or self.warmup_epochs == 0, wanted)}

    def quick(self) -> Self:
        """The recipe for two CPU cores, which have none to spare for loading. A subclass shrinks its own fields."""
        return dataclasses.replace(self, profile="quick", workers=0)

    def plain(self) -> dict[str, Plain | list]:
        """The fields as plain values and lists of them, for checkpoints."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}


Config = TypeVar("Config", bound=RunConfig)


def parse_config(config: Config, commands: Mapping[str, type] = MappingProxyType({})) -> Any:
    """Parse a script's command line into its configuration, whose defaults `--profile` and the like change first.

    Args:
        config: The configuration of the script, with its defaults.
        commands: What the script does besides training: by the name of each subcommand, a dataclass of its flags.

    Returns:
        The configuration of a training where no subcommand is named, else the subcommand's dataclass.
    """
    docs = sys.modules["__main__"].__doc__
    # Parsed alone first: beside defaults that they replace, other flags that suit them could break a rule.
    flags = {flag: None for flag, _ in config.RECIPES}
    recipes = dataclasses.make_dataclass("Recipes", [(flag, str | None, None) for flag in flags])
    chosen, _ = tyro.cli(recipes, return_unknown_args=True, add_help=False)
    default = config
    for (flag, value), recipe in config.RECIPES.items():
        if getattr(chosen, flag) == value:
            default = getattr(default, recipe)()
    if not commands:
        return tyro.cli(type(config), default=default, description=docs)
    kinds: Any = Annotated[type(config), tyro.conf.subcommand("train")]  # pyrefly: ignore[invalid-annotation]
    for name, kind in commands.items():
        kinds |= Annotated[kind, tyro.conf.subcommand(name)]
    # CascadeSubcommandArgs: flags of the training may stand without its name.
    return tyro.cli(kinds, default=default, description=docs, config=(tyro.conf.CascadeSubcommandArgs,))


def _plain(value: Any) -> Plain | list:
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, Plain) else str(value)
