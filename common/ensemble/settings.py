"""How the ensemble decides, as one file: models/ensemble.json, written by the fit and read by the submission."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from common.ensemble.decision import Decision
from common.ensemble.instances import Cleanup
from common.ensemble.views import TTA
from common.errors import UserError
from common.files import write_json
from common.generated import DETECTOR

Source = Literal["seed", "fitted"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that a submission needs besides the checkpoints."""

    weights: dict[str, float]
    """Of each member by name, those that join by union included (see `common.ensemble.blending`)."""
    pixel_threshold: float
    """Pixels of at least this probability are forged, in [0, 1]."""
    min_area_share: float
    """Regions below this share of their image are dropped."""
    cleanup: Cleanup
    """What is done to the mask before its regions are measured."""
    tta: TTA
    """The views that the members' maps were averaged over when this was fitted."""
    decision: Decision
    """Forged or authentic."""
    source: Source
    """Where the weights come from: the seed's hand-set values, or the fit."""
    checkpoints: dict[str, str]
    """An identity of each member's checkpoint, by name: with another one, this file is stale. The detector of generated
    images, which has no weight, is among them if the decision reads it."""
    report: dict[str, Any] = field(default_factory=dict)
    """Figures of the fit, nested, for people to read; nan comes back as None."""

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_json(asdict(self), path)

    @classmethod
    def load(cls, path: Path) -> "Settings":
        """Read what `save` wrote.

        Raises:
            UserError: The file is missing, no JSON, lacks a key, has a foreign one, or a value of another kind.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # JSON's and UTF-8's errors are ValueErrors
            raise UserError(f"{path} can't be read ({error}). {_REMEDY}") from error
        try:
            return cls(**_checked(values))
        except ValueError as error:
            raise UserError(f"{path} holds no settings of this version: {error}. {_REMEDY}") from error


_REMEDY = "Make it again with `python fit_ensemble.py`, or remove it."


def _checked(values: Any) -> dict[str, Any]:
    """The values as the fields' types."""
    if not isinstance(values, dict):
        raise ValueError(f"a {type(values).__name__} stands where an object is needed")
    names = {entry.name for entry in fields(Settings)}
    for what, wrong in (("missing", names - set(values)), ("foreign", set(values) - names)):
        if wrong:
            raise ValueError(f"{what} keys: {', '.join(sorted(wrong))}")
    for name, allowed in (("tta", get_args(TTA)), ("source", get_args(Source))):
        if values[name] not in allowed:
            raise ValueError(f"{name} is {values[name]!r}, not one of {', '.join(allowed)}")
    converted = {name: _converted(name, value) for name, value in values.items()}
    unweighted = {DETECTOR} if converted["decision"].reads_generated else set()
    if set(converted["weights"]) | unweighted != set(converted["checkpoints"]):
        raise ValueError("weights and checkpoints are not of the same members")
    return converted


def _converted(name: str, value: Any) -> Any:
    convert = _CONVERT.get(name, lambda plain: plain)
    try:
        return convert(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{name}: {error}") from error


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "weights": lambda weights: {name: float(weight) for name, weight in weights.items()},
    "pixel_threshold": float,
    "min_area_share": float,
    "cleanup": lambda plain: Cleanup(**plain),
    "decision": Decision.from_dict,
    "checkpoints": dict,
}
