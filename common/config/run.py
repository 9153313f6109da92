"""What every training run is told, whatever it trains. The fields are flags of every training script."""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import tyro

from common.errors import UserError

Plain = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run. The kinds of networks add their fields in subclasses."""

    FREE: ClassVar[frozenset[str]] = frozenset(
        {"models_dir", "workers", "tracker", "resume", "skip_bad_files", "compile"}
    )
    """Fields that may differ between a run and its continuation: they do not shape the weights."""
    INHERITED: ClassVar[frozenset[str]] = frozenset()
    """Those of them whose value a continuation takes over from the checkpoint."""
    RECIPES: ClassVar[dict[tuple[str, str], str]] = {("profile", "quick"): "quick"}
    """Flags and values that change the other defaults, and the methods that do."""

    name: str
    """Of the member: writes models/<name>_best.pth."""
    models_dir: Path = Path("models")
    """Where checkpoints, metrics and the tracker's logs go."""
    profile: Literal["full", "quick"] = "full"
    """quick is the same recipe shrunk for two CPU cores. Other flags win."""

    batch_size: int = 4
    """Images a step and process."""
    accumulation: int = 1
    """Steps whose gradients are added up before the weights change."""
    epochs: int = 30
    """Passes over the training images; 0 saves and scores the untrained network."""
    lr: float = 3e-4
    """Learning rate (of one_cycle and cosine: its peak)."""
    schedule: Literal["constant", "one_cycle", "cosine", "warm_restarts"] = "constant"
    """constant as in the seed; one_cycle (Smith and Topin 2018) reaches more in few epochs; cosine (Loshchilov and
    Hutter 2017) after a warm-up is the usual one for transformers; warm_restarts begins it again (ibid.)."""
    restart_epochs: int = 5
    """Of warm_restarts: epochs of the first cycle; each next one is twice as long."""
    warmup_epochs: float = 0.0
    """Of cosine: epochs in which the rate rises to --lr."""
    weight_decay: float = 0.0
    """Of AdamW; 0 makes it the seed's Adam."""
    clip_grad: float = 0.0
    """Largest norm of the gradient; 0 does not clip."""
    ema_decay: float = 0.0
    """Validates and keeps an exponential moving average of the weights, of which a step leaves this share (0.999 for
    runs of thousands of steps); 0 keeps the weights themselves."""
    patience: int = 0
    """Epochs without a better score after which the training ends; 0 never ends it early."""

    seed: int = 0
    """Decides the initial weights, the draws and the augmentation."""
    workers: int = 4
    """Processes that load images, 0 for none."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the network's arithmetic; auto is bf16 on a GPU that has it, else fp32."""
    compile: bool = False
    """Compile the training steps, of scripts 1 to 6 (torch.compile; needs a C++ compiler). After twelve steps it is
    printed what that took, and after how many steps it pays."""
    tracker: Literal["tensorboard", "wandb", "mlflow", "none"] = "tensorboard"
    """Where the metrics of each epoch go (logs in models/runs; wandb and mlflow must be installed)."""
    resume: bool = False
    """Go on from models/<name>_last.pth."""
    skip_bad_files: bool = False
    """Train without the files that can't be read, naming each, instead of stopping."""

    def __post_init__(self) -> None:
        """Refuse values that no run can have.

        Raises:
            UserError: With the flag, its value and what it must be.
        """
        for name, (holds, wanted) in self._rules().items():
            if not holds:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be {wanted}.")

    def _rules(self) -> dict[str, tuple[bool, str]]:
        """By field: does its rule hold, and what is wanted. A subclass adds its own."""
        # An untrained network (--epochs 0) has no warm-up; a recipe that has one need not be told so.
        warms_up = self.schedule == "cosine" and (self.epochs == 0 or 0 <= self.warmup_epochs < self.epochs)
        return {
            "batch_size": (self.batch_size > 0, "1 or more"),
            "accumulation": (self.accumulation > 0, "1 or more"),
            "epochs": (self.epochs >= 0, "0 or more"),
            "lr": (self.lr > 0, "above 0"),
            "warmup_epochs": (
                warms_up or self.warmup_epochs == 0,
                f"0, or with --schedule cosine from 0 to below --epochs ({self.epochs})",
            ),
            "restart_epochs": (self.restart_epochs > 0, "1 or more"),
            "clip_grad": (self.clip_grad >= 0, "0 or more"),
            "ema_decay": (0 <= self.ema_decay < 1, "0 or more, below 1"),
            "patience": (self.patience >= 0, "0 or more"),
            "workers": (self.workers >= 0, "0 or more"),
            "seed": (self.seed >= 0, "0 or more"),
        }

    def quick(self) -> Self:
        """The recipe for two CPU cores, which have none to spare for loading. A subclass shrinks its own fields."""
        return dataclasses.replace(self, profile="quick", workers=0)

    def plain(self) -> dict[str, Plain | list]:
        """The fields as plain values and lists of them, for checkpoints."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}


Config = TypeVar("Config", bound=RunConfig)


def parse_config(config: Config, commands: Mapping[str, type] = MappingProxyType({})) -> Any:
    """Read a script's command line over its configuration, whose defaults `--profile` and its like change first.

    Args:
        config: The configuration of the script, with its defaults.
        commands: What the script does besides training, a dataclass by the name of each subcommand.

    Returns:
        The configuration of a training where no subcommand is named, else the subcommand's dataclass.
    """
    docs = sys.modules["__main__"].__doc__
    # Read alone first: beside defaults that they replace, other flags that suit them could break a rule.
    flags = {flag: None for flag, _ in config.RECIPES}
    recipes = dataclasses.make_dataclass("Recipes", [(flag, str | None, None) for flag in flags])
    chosen, _ = tyro.cli(recipes, return_unknown_args=True, add_help=False)
    default = config
    for (flag, value), recipe in config.RECIPES.items():
        if getattr(chosen, flag) == value:
            default = getattr(default, recipe)()
    if not commands:
        return tyro.cli(type(config), default=default, description=docs)
    kinds = Annotated[type(config), tyro.conf.subcommand("train")]
    for name, kind in commands.items():
        kinds |= Annotated[kind, tyro.conf.subcommand(name)]
    # Flags of the training may stand without its name.
    return tyro.cli(kinds, default=default, description=docs, config=(tyro.conf.CascadeSubcommandArgs,))


def _plain(value: Any) -> Plain | list:
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, Plain) else str(value)
