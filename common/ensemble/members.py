"""The table of the ensemble's members, the only place that names them, and the paths of their checkpoints."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from common.ensemble.choices import Role
from common.files import entries, file_hash
from common.generated import DETECTORS


@dataclass(frozen=True, kw_only=True)
class Member:
    """A network's place in the ensemble, or that of the copy-move evidence."""

    name: str
    """The checkpoint is models/<name>_best.pth, of a detector of generated images models/<name>*_best.pth."""
    script: str | None = None
    """The program that trains it; None for evidence, which is not trained and has no checkpoint."""
    in_channels: int = 3
    weight: float
    """Hand-set, before any fit. For `average`: in the weighted mean. For `union` and `evidence`: the factor on its
    probabilities. For a `gate`: 0, since it has no map. (The networks' weights are those of the original recipe.)"""
    role: Role
    tile_share: float | None = None
    """For a member trained on crops: it gets an image only as tiles of this share of the longer side."""


COPY_MOVE = Member(name="copy_move", weight=1.0, role="evidence")
GENERATED = tuple(Member(name=name, script="script_7_spai_fusion.py", weight=0.0, role="gate") for name in DETECTORS)
"""The detectors of generated images."""
MEMBERS = (
    Member(name="highres_no_ela", script="script_1_highres_no_ela.py", in_channels=3, weight=1.5, role="average"),
    Member(name="hard_negative", script="script_2_hard_negative_mining.py", in_channels=3, weight=1.2, role="average"),
    Member(name="high_recall", script="script_3_hard_fn_mining.py", in_channels=3, weight=1.0, role="average"),
    Member(name="enhanced_aug", script="script_4_enhanced_augmentation.py", in_channels=3, weight=0.8, role="average"),
    Member(name="ela", script="script_5_ela.py", in_channels=4, weight=0.5, role="average"),
    Member(
        name="small_forgery_specialist",
        script="script_6_small_forgery_specialist.py",
        in_channels=3,
        weight=0.8,
        role="union",
        tile_share=0.4,
    ),
    COPY_MOVE,
    *GENERATED,
)
SETTINGS_FILE = "ensemble.json"


def map_members() -> list[Member]:
    """The members that are networks with a map, trained or not."""
    return [member for member in MEMBERS if member.role in ("average", "union")]


def member_path(models_dir: Path, member: Member) -> Path:
    """The member's checkpoint: <name>_best.pth, as it is trained, or else <name>.safetensors, as it is released."""
    trained, released = models_dir / f"{member.name}_best.pth", models_dir / f"{member.name}.safetensors"
    return released if released.is_file() and not trained.is_file() else trained


def checkpoint_paths(models_dir: Path) -> list[Path]:
    """The existing checkpoints of `map_members`, of all folds."""
    paths = [member_path(folder, member) for folder in fold_folders(models_dir) for member in map_members()]
    return [path for path in paths if path.is_file()]


def fold_folders(models_dir: Path) -> list[Path]:
    """The folder of each fold: `models_dir` itself, and its subfolders `fold_*`."""
    return [models_dir, *(path for path in entries(models_dir) if path.name.startswith("fold_"))]


def identities(models_dir: Path, *, copy_move: bool = False, generated: bool = False) -> dict[str, str]:
    """Name → hash of the member's checkpoint files, those of `fold_*` folders included, for members that have any.

    Args:
        models_dir: The folder of checkpoints.
        copy_move: Add the version of the copy-move detector.
        generated: Add the hashes of the detectors of generated images that are there.
    """
    found = {}
    for member in map_members():
        files = [member_path(folder, member) for folder in fold_folders(models_dir)]
        if digests := b"".join(bytes.fromhex(file_hash(path)) for path in files if path.is_file()):
            found[member.name] = hashlib.sha256(digests).hexdigest()[:16]
    # Imported here, not above: OpenCV and torch take seconds, and the table of members needs neither.
    if copy_move:
        from common.forensics.copy_move import VERSION

        found[COPY_MOVE.name] = f"version {VERSION}"
    if generated:
        from common.generated import find_detectors

        found |= {name: file_hash(path)[:16] for name, path in find_detectors(models_dir).items()}
    return found
