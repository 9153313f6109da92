"""The members of the ensemble, and their blend: this table is the one place that names them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.data.transforms import resize_image, to_tensor
from common.errors import UserError
from common.training.checkpoint import load_checkpoint, load_network

import cv2
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
    """In the weighted mean, for the role `average` (seed's hand-set value)."""
    role: Literal["average", "union", "gate", "evidence"]


MEMBERS = (
    Member(name="highres_no_ela", script="script_1_highres_no_ela.py", in_channels=3, weight=1.5, role="average"),
)


class Ensemble:
    """The loaded members. One preprocessing serves them all: that of `common.data.transforms`."""

    def __init__(self, members: list[tuple[Member, nn.Module, dict[str, Any]]], device: torch.device) -> None:
        """Hold `(member, network, checkpoint)`, at least one; see `load_ensemble`."""
        other = [member.name for member, _, _ in members if member.role != "average"]
        if other:
            raise NotImplementedError(f"members that are not averaged can't be blended yet: {other}")
        self.members = [(member, network.to(device), checkpoint) for member, network, checkpoint in members]
        self.device = device
        # Until the decision is fitted for the blend, it is the one fitted for the heaviest member.
        leader = max(self.members, key=lambda loaded: loaded[0].weight)[2]
        self.pixel_threshold: float = leader["threshold"]
        self.calibration: dict[str, float] = leader["calibration"]
        self.map_size = max(checkpoint["config"]["image_size"] for _, _, checkpoint in self.members)

    @torch.inference_mode()
    def predict(self, images: list[np.ndarray]) -> np.ndarray:
        """Blended probability maps Σ w·p / Σ w of RGB images (H, W, 3) uint8: float32 (N, S, S), S = `map_size`."""
        blend = np.zeros((len(images), self.map_size, self.map_size), np.float32)
        for member, network, checkpoint in self.members:
            size = checkpoint["config"]["image_size"]
            batch = torch.stack([to_tensor(resize_image(image, size)) for image in images]).to(self.device)
            probs = torch.sigmoid(network(batch).float())[:, 0].cpu().numpy()
            blend += member.weight * np.stack([resize_map(prob, self.map_size, self.map_size) for prob in probs])
        return blend / sum(member.weight for member, _, _ in self.members)


def resize_map(prob: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bring a probability map (h, w) to another size, bilinearly."""
    return prob if prob.shape == (height, width) else cv2.resize(prob, (width, height), interpolation=cv2.INTER_LINEAR)


def load_ensemble(models_dir: Path, device: torch.device, allow_missing: bool = False) -> Ensemble:
    """Load every member's checkpoint.

    Args:
        models_dir: Where the training scripts wrote them.
        device: Where the networks run.
        allow_missing: Go on without members that were not trained, printing each.

    Raises:
        UserError: A checkpoint is missing (with the script that makes it) or broken, or all are missing.
    """
    missing = [member for member in MEMBERS if not member_path(models_dir, member).is_file()]
    listing = "".join(f"\n  {member_path(models_dir, m)} (made by {m.script})" for m in missing)
    if missing and (not allow_missing or len(missing) == len(MEMBERS)):
        advice = " Train them, or go on without by --allow-missing." if len(missing) < len(MEMBERS) else " Train one."
        raise UserError(f"missing checkpoints:{listing}\n{advice.strip()}")
    if missing:
        print(f"the ensemble goes on without:{listing}")
    members = []
    for member in MEMBERS:
        if member not in missing:
            path = member_path(models_dir, member)
            checkpoint = load_checkpoint(path)
            members.append((member, load_network(checkpoint, path), checkpoint))
    return Ensemble(members, device)


def member_path(models_dir: Path, member: Member) -> Path:
    """The member's checkpoint."""
    return models_dir / f"{member.name}_best.pth"
