"""The members of the ensemble: this table is the one place that names them. And what they say of an image together."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.data.transforms import resize_map
from common.errors import UserError
from common.inference.blending import Role, blend
from common.inference.gate import Decision, map_features
from common.inference.instances import Cleanup
from common.inference.settings import Settings
from common.inference.views import TTA, predict_maps
from common.training.checkpoint import load_checkpoint, load_network

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Member:
    """One checkpoint's place in the ensemble."""

    name: str
    """models/<name>_best.pth"""
    script: str
    """The program that trains it."""
    in_channels: int
    weight: float
    """Of the role `average`: in the weighted mean. Of `union`: the factor on its probabilities (seed's values)."""
    role: Role
    tile_share: float | None = None
    """For a member trained on crops: it sees an image in tiles of this share of the longer side only."""


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
)
SETTINGS_FILE = "ensemble.json"
MIN_AREA_SHARE = 0.0005
"""Smaller regions are dropped until a fit knows better: half of what the smallest forgeries cover."""


@dataclass(frozen=True)
class Loaded:
    """A member and its networks: one, or one of each fold, which are averaged."""

    member: Member
    networks: list[nn.Module]
    checkpoints: list[dict[str, Any]]
    """Of the networks, without their weights."""


@dataclass(frozen=True)
class Prediction:
    """What the ensemble says of an image."""

    prob: np.ndarray
    """Probability of each pixel, float32 (h, w): the size of the image if it is large, else the network's."""
    forged_probability: float
    """Calibrated, in (0, 1)."""


class Ensemble:
    """The loaded members, and how they are blended. One preprocessing serves them all (`common.inference.views`)."""

    def __init__(self, members: list[Loaded], settings: Settings, device: torch.device) -> None:
        """Hold members, at least one that is averaged; see `load_ensemble`."""
        self.members = members
        self.settings = settings
        self.device = device
        self.roles = [loaded.member.role for loaded in members]
        self.weights = [settings.weights[loaded.member.name] for loaded in members]
        self.map_size = max(c["config"]["image_size"] for loaded in members for c in loaded.checkpoints)
        for loaded in members:
            for network in loaded.networks:
                network.to(device)

    def predict(self, images: list[np.ndarray]) -> list[Prediction]:
        """Blend and decide RGB images, uint8 (H, W, 3)."""
        predictions = []
        for maps in self.member_maps(images):
            prob = blend(maps, self.roles, self.weights)
            features = map_features(prob, maps[np.flatnonzero(self.weights)], self.settings.pixel_threshold)
            predictions.append(Prediction(prob, self.settings.decision.probability(features)))
        return predictions

    def member_maps(self, images: list[np.ndarray]) -> list[np.ndarray]:
        """Each image's maps of the members, float16 (M, h, w): at the image's size if it is large, else `map_size`."""
        by_member = [self._maps(loaded, images) for loaded in self.members]
        return [self._stack(maps) for maps in zip(*by_member, strict=True)]

    def _maps(self, loaded: Loaded, images: list[np.ndarray]) -> list[np.ndarray]:
        """A member's map of each image, the mean of its networks."""
        by_network = [
            predict_maps(
                network,
                images,
                size=checkpoint["config"]["image_size"],
                in_channels=loaded.member.in_channels,
                device=self.device,
                tta=self.settings.tta,
                tile_share=loaded.member.tile_share,
            )
            for network, checkpoint in zip(loaded.networks, loaded.checkpoints, strict=True)
        ]
        return [np.mean(maps, axis=0) if len(maps) > 1 else maps[0] for maps in zip(*by_network, strict=True)]

    def _stack(self, maps: tuple[np.ndarray, ...]) -> np.ndarray:
        height, width = max((prob.shape for prob in maps), key=lambda shape: shape[0] * shape[1])
        if height * width < self.map_size**2:
            height = width = self.map_size
        return np.stack([resize_map(prob, height, width).astype(np.float16) for prob in maps])


def load_ensemble(
    models_dir: Path, device: torch.device, allow_missing: bool = False, tta: TTA | None = None, folds: bool = True
) -> Ensemble:
    """Load every member's checkpoint, and the fitted settings where they belong to these checkpoints.

    Args:
        models_dir: Where the training scripts wrote them. Its folders `fold_*` may hold those of other folds.
        device: Where the networks run.
        allow_missing: Go on without members that were not trained, printing each.
        tta: Views of each image; None for those of the settings.
        folds: Take the folders `fold_*` as well, and average the networks of a member.

    Raises:
        UserError: A checkpoint is missing (with the script that makes it) or broken, or all that are averaged are
            missing.
    """
    paths = checkpoint_paths(models_dir, folds)
    missing = [member for member in MEMBERS if not paths[member]]
    listing = "".join(f"\n  {member_path(models_dir, m)} (made by {m.script})" for m in missing)
    if all(member in missing for member in MEMBERS if member.role == "average"):
        raise UserError(f"no member of the average is trained; missing checkpoints:{listing}\nTrain one.")
    if missing and not allow_missing:
        raise UserError(f"missing checkpoints:{listing}\nTrain them, or go on without by --allow-missing.")
    if missing:
        print(f"the ensemble goes on without:{listing}")

    members = [_load(member, paths[member]) for member in MEMBERS if member not in missing]
    settings = _settings(models_dir / SETTINGS_FILE, paths, members)
    return Ensemble(members, settings if tta is None else replace(settings, tta=tta), device)


def _load(member: Member, paths: list[Path]) -> Loaded:
    networks, checkpoints = [], []
    for path in paths:
        checkpoint = load_checkpoint(path)
        if (channels := checkpoint["config"]["in_channels"]) != member.in_channels:
            raise UserError(
                f"{path} reads {channels} channels, {member.name} {member.in_channels}: it is another network under "
                f"this name. Train it again with {member.script}."
            )
        networks.append(load_network(checkpoint, path))
        checkpoints.append({key: value for key, value in checkpoint.items() if not key.endswith("_state_dict")})
    return Loaded(member, networks, checkpoints)


def seed_settings(members: list[Loaded]) -> Settings:
    """How members are blended before anything was fitted for them together.

    The weights are the seed's; threshold and calibration are those of the heaviest averaged member, fitted on its
    validation fold.
    """
    averaged = [loaded for loaded in members if loaded.member.role == "average"]
    leader = max(averaged, key=lambda loaded: loaded.member.weight).checkpoints[0]
    # Platt scaling of the 99.9 % quantile's log-odds, which is what the checkpoint's calibration is.
    platt = {"mean": (0.0,), "scale": (1.0,), "coefficients": (1.0,), "intercept": 0.0}
    return Settings(
        weights={loaded.member.name: loaded.member.weight for loaded in members},
        pixel_threshold=leader["threshold"],
        min_area_share=MIN_AREA_SHARE,
        cleanup=Cleanup(),
        tta="none",
        decision=Decision(features=("quantile_999",), calibration=leader["calibration"], **platt),
        source="seed",
        data_fingerprint="",
        checkpoints={},
    )


def _settings(path: Path, paths: dict[Member, list[Path]], members: list[Loaded]) -> Settings:
    """The fitted settings if there are any for exactly these checkpoints, else the seed's."""
    if path.is_file():
        settings = Settings.load(path)
        if settings.checkpoints == identities(paths):
            return settings
        print(
            f"{path} was fitted for other checkpoints and is left aside: the seed's weights decide, with the base's "
            "threshold. Fit anew with `python fit_ensemble.py`."
        )
    return seed_settings(members)


def checkpoint_paths(models_dir: Path, folds: bool = True) -> dict[Member, list[Path]]:
    """The checkpoints of each member: in the folder itself and, with `folds`, in its folders `fold_*`."""
    folders = [models_dir, *(sorted(models_dir.glob("fold_*")) if folds else [])]
    return {member: [f for folder in folders if (f := member_path(folder, member)).is_file()] for member in MEMBERS}


def identities(paths: dict[Member, list[Path]]) -> dict[str, str]:
    """Member name → hash of its checkpoint files, for the members that have any."""
    digests = {member.name: b"".join(map(_digest, files)) for member, files in paths.items() if files}
    return {name: hashlib.sha256(digest).hexdigest()[:16] for name, digest in digests.items()}


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def member_path(models_dir: Path, member: Member) -> Path:
    """The member's checkpoint."""
    return models_dir / f"{member.name}_best.pth"
