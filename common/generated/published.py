"""Conversion of the published weights of SPAI (github.com/mever-team/spai) to a checkpoint of ours."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.generated.config import SpaiConfig
from common.generated.network import SPAI_KEYS, Spai, architecture
from common.generated.spectrum import circular_mask
from common.generated.vit import fuse_qkv_bias
from common.networks.weight_files import read_state_dict
from common.training.checkpoint import load_checkpoint, save_checkpoint, versions

# Ours → published, the first that fits.
_FEATURES = "mfvit.features_processor"
_RENAMINGS = tuple(
    (re.compile(ours), published)
    for ours, published in (
        (r"backbone\.vit\.(.+)", r"mfvit.vit.\1"),
        (r"projectors\.(\d+)\.layers\.(.+)", rf"{_FEATURES}.patch_projector.projectors.\1.projector.\2"),
        (r"projectors\.(.+)", rf"{_FEATURES}.patch_projector.projectors.\1"),
        (r"context\.first\.layers\.(.+)", rf"{_FEATURES}.original_features_processor.proj1.projector.\1"),
        (r"context\.first\.(.+)", rf"{_FEATURES}.original_features_processor.proj1.\1"),
        (r"context\.second\.layers\.(.+)", rf"{_FEATURES}.original_features_processor.proj2.projector.\1"),
        (r"context\.second\.(.+)", rf"{_FEATURES}.original_features_processor.proj2.\1"),
        (r"context\.(.+)", rf"{_FEATURES}.original_features_processor.\1"),
        (r"patch_attention\.query", r"patch_aggregator"),
        (r"patch_attention\.to_out\.(.+)", r"to_out.0.\1"),
        (r"patch_attention\.(.+)", r"\1"),
        (r"head\.(.+)", r"cls_head.head.\1"),
        (r"(norm\..+)", r"\1"),
    )
)
# Weights of the file that the published forward pass does not use.
_UNUSED = re.compile(
    r"mfvit\.vit\.((fc_norm|norm|head|cls_blocks\.0|intermediate_fc_norm\.\d+)\..+"
    r"|cls_pos_embed|actual_cls_token|mask_token)"
)
_PUBLISHED = "mfvit."
"""In the names of the published weights, and of no others."""
_MASK, _MASK_RADIUS = "mfvit.frequencies_mask", 16


def load_detector_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of script 7, or the published file of SPAI, which is converted.

    The converted checkpoint is kept as `<stem>.converted.pth` beside the file, where that can be written, with the
    file's size and time, and made again when the file is another one.

    Raises:
        UserError: It can't be read, or is of another kind.
    """
    kept = path.with_name(f"{path.stem}.converted.pth")
    try:
        return load_checkpoint(path, SPAI_KEYS)
    except UserError:
        source = [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else []
        if source and kept.is_file() and (earlier := load_checkpoint(kept, SPAI_KEYS)).get("converted_from") == source:
            return earlier
        try:
            weights = read_published(path)
        except UserError:
            weights = {}
        if not any(_PUBLISHED in name for name in weights):
            raise
    checkpoint = _checkpoint(weights, path) | {"converted_from": source}
    try:
        save_checkpoint(checkpoint, kept)
        print(f"{path} holds the published weights of SPAI; converted to {kept}")
    except UserError:
        print(f"{path} holds the published weights of SPAI, converted at every start: its folder can't be written")
    return checkpoint


def convert_published(path: Path, output: Path) -> None:
    """Write the published file as a checkpoint of plain SPAI, not calibrated.

    Raises:
        UserError: It can't be read, or is not of the published network; or `output` is the file itself, or a checkpoint
            that was trained or calibrated.
    """
    checkpoint = _checkpoint(read_published(path), path)
    if output.exists() and output.samefile(path):
        raise UserError(f"{output} is the published file itself, which would be lost. Choose another output.")
    try:
        kept = bool(load_checkpoint(output, SPAI_KEYS, mapped=True)["metrics"])
    except UserError:  # no file, or none of script 7
        kept = False
    if kept:
        raise UserError(f"{output} holds a network that was trained or calibrated. Move it, or choose another output.")
    save_checkpoint(checkpoint, output)


def _checkpoint(weights: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """The published weights, read from `path`, as a checkpoint."""
    config = SpaiConfig(name="spai_plain", backbone_weights=path.name).published()
    with torch.device("meta"):  # for its names and shapes
        expected = Spai(**architecture(config)).state_dict()
    try:
        converted = convert(weights, expected)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    for name, value in converted.items():
        if not value.isfinite().all():
            raise UserError(f"{path} holds weights that are not finite ({name}). Download it again.")
    return {
        "model_state_dict": {name: value.to(expected[name].dtype) for name, value in converted.items()},
        "epoch": -1,
        "best_auc": float("nan"),
        "config": config.plain(),
        "metrics": {},
        "calibration": {"slope": 1.0, "intercept": 0.0},
        "validation": {"probs": [], "generated": []},
        "target_fpr": config.target_fpr,
        "prompts": [],
        "versions": versions(),
    }


def read_published(path: Path) -> dict[str, Tensor]:
    """Read the `model` of the published file (935 MB), without its training state and configuration.

    Raises:
        UserError: See `read_state_dict`.
    """
    return read_state_dict(path, "Download the weights from the page of mever-team/spai.")


def convert(checkpoint: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the published weights.

    Args:
        checkpoint: As `read_published` returns it; all names may begin with `module.`.
        expected: State dict of our plain SPAI, for its names and shapes.

    Returns:
        A state dict with exactly the names and shapes of `expected`.

    Raises:
        UserError: Names are missing or left over, shapes are wrong, or the weights were trained with another mask.
    """
    if all(name.startswith("module.") for name in checkpoint):  # saved by a distributed training
        checkpoint = {name.removeprefix("module."): value for name, value in checkpoint.items()}
    published = {name: value for name, value in checkpoint.items() if not _UNUSED.fullmatch(name)}
    mask = published.pop(_MASK, None)
    published = fuse_qkv_bias(published)
    names = {ours: _published_name(ours) for ours in expected}
    missing = sorted(set(names.values()) - published.keys())
    surplus = sorted(published.keys() - set(names.values()))
    if missing or surplus:
        raise UserError(
            "these are not the published weights of SPAI for this network: "
            f"{len(missing)} missing {missing[:3]}, {len(surplus)} surplus {surplus[:3]}."
        )
    wrong = [
        f"{name} {tuple(published[name].shape)} instead of {tuple(expected[ours].shape)}"
        for ours, name in names.items()
        if published[name].shape != expected[ours].shape
    ]
    if wrong:
        raise UserError(
            f"the weights of SPAI do not fit this network, {len(wrong)} have another shape: {', '.join(wrong[:3])}. "
            "The published network has patches of 224 px and the sizes of plain SPAI's defaults."
        )
    if mask is not None and not torch.equal(mask.bool(), circular_mask(len(mask), _MASK_RADIUS).to(mask.device)):
        raise UserError(f"{_MASK} is not the circle of radius {_MASK_RADIUS} that the published weights have.")
    return {ours: published[name] for ours, name in names.items()}


def _published_name(ours: str) -> str:
    """The published name of one of our weights; a weight that plain SPAI does not have keeps its name."""
    for pattern, published in _RENAMINGS:
        if match := pattern.fullmatch(ours):
            return match.expand(published)
    return ours
