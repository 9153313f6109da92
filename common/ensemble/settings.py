"""The fitted settings of the ensemble, models/ensemble.json: weights, thresholds, clean-up of the mask, decision."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from common.ensemble.choices import TTA
from common.ensemble.decision import Decision
from common.ensemble.instances import Cleanup
from common.ensemble.members import COPY_MOVE, identities
from common.errors import UserError
from common.files import check_regular, write_json
from common.generated import DETECTORS

WeightSource = Literal["original", "fitted"]
"""The original recipe's hand-set weights, or those of the fit."""

_REMEDY = "Make it again with `python fit_ensemble.py`, or remove it."


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that a submission needs besides the checkpoints."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    weights: dict[str, float]
    """Of each member by name, those that join by union included (see `common.ensemble.blending`)."""
    pixel_threshold: float
    """Pixels of at least this probability are forged, in [0, 1]."""
    min_area_share: float
    """Regions below this share of their image are dropped."""
    cleanup: Cleanup
    """Morphology of the mask before its regions are measured."""
    tta: TTA
    """The views that the members' maps were averaged over when this was fitted."""
    decision: Decision
    """Forged or authentic."""
    source: Annotated[WeightSource, BeforeValidator(lambda value: "original" if value == "seed" else value)]
    """Where the weights come from. (Files of earlier versions have `seed` for `original`.)"""
    checkpoints: dict[str, str]
    """`identities` of the members that this was fitted for. The detector of generated images, which has no weight, is
    among them if the decision reads it."""
    report: dict[str, Any] = field(default_factory=dict)
    """Results of the nested evaluation, for information; nan is read back as None."""

    def __post_init__(self) -> None:
        if any(weight < 0 for weight in self.weights.values()):
            raise ValueError("each weight must be 0 or more")
        for name in ("pixel_threshold", "min_area_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1")

    def changed_members(self, models_dir: Path, *, copy_move: bool | None = None, generated: bool = True) -> list[str]:
        """Names of the members that are others than at the fit; without any, the settings hold for this folder.

        A member is another one if it was trained again, removed or added, or has another version. A detector of
        generated images counts only if the decision reads it.

        Args:
            models_dir: The folder of checkpoints.
            copy_move: Whether copy-move evidence is used; by default it is where the fit had it.
            generated: Whether detectors of generated images are used.

        Raises:
            UserError: There are several detectors of generated images of one name.
        """
        copy_move = COPY_MOVE.name in self.checkpoints if copy_move is None else copy_move
        there = identities(models_dir, copy_move=copy_move, generated=generated and self.decision.reads_generated)
        names = dict.fromkeys([*self.checkpoints, *there])
        return [name for name in names if self.checkpoints.get(name) != there.get(name)]

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_json(asdict(self), path)

    @classmethod
    def load(cls, path: Path) -> "Settings":
        """Read what `save` wrote.

        Raises:
            UserError: The file is missing, not JSON, lacks a key, or has an unknown one, a value of another type or
                out of its range, a number that is not finite, or values that contradict each other.
        """
        check_regular(path)
        try:
            settings = TypeAdapter(cls).validate_json(path.read_bytes())
        except OSError as error:
            raise UserError(f"{path} can't be read ({error}). {_REMEDY}") from error
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            raise UserError(f"{path} holds no valid settings ({faults.removeprefix(': ')}). {_REMEDY}") from error
        unweighted = set(DETECTORS) & set(settings.checkpoints)
        if settings.decision.reads_generated != bool(unweighted) or (
            set(settings.weights) | unweighted != set(settings.checkpoints)
        ):
            raise UserError(f"{path} has weights and checkpoints of different members. {_REMEDY}")
        return settings
