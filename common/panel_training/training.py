"""Loss, validation and training of the panel detector."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.ops import box_iou, generalized_box_iou_loss

from common.data.dataset import make_loader
from common.data.sampling import EpochSampler
from common.devices import main_process_prints, process_state
from common.figures.boxes import match_boxes
from common.figures.panel_network import STRIDE, PanelNetwork, detect
from common.files import check_writable, written_whole
from common.making.outlined import Outlined
from common.networks.pretrained import load_complete, load_timm_weights
from common.networks.weight_files import read_state_dict
from common.panel_training.config import PanelConfig
from common.panel_training.dataset import (
    OutlinedDataset,
    PanelDataset,
    collate,
    fingerprint,
    make_pool,
    paper_of,
    read_outlines,
)
from common.training.engine import Data, Objective, build_seeded, fit
from common.training.run_files import Validation

_MIDDLE = 0.25  # of a panel's sides: how far from its middle a place says the panel's box
_FARTHEST = 3.0  # places: the same at most
_LEAST_QUALITY = 0.5  # target of the score of a box that does not meet its panel
_FROZEN = ("conv_stem", "bn1", "blocks.0", "blocks.1")  # layers of the encoder whose weights stay: edges are edges


def load_figures(config: PanelConfig) -> tuple[list[Outlined], list[Outlined]]:
    """Read the outlined figures, those that train and those that validate; no paper has both.

    Raises:
        UserError: As `read_outlines`.
    """
    figures = read_outlines(config.outlines, config.figures)
    papers = sorted({paper_of(name) for name in figures})
    order = np.random.default_rng(config.seed).permutation(len(papers))
    held = {papers[place] for place in order[: round(config.held_out * len(papers))]}
    train = [figure for name, figure in figures.items() if paper_of(name) not in held]
    val = [figure for name, figure in figures.items() if paper_of(name) in held]
    return train or val, val or train


def start_network(config: PanelConfig) -> tuple[PanelNetwork, PanelConfig]:
    """The network with its first weights, and the configuration with the source of those that were loaded.

    Raises:
        UserError: The encoder's weights can't be fetched.
    """
    model = build_seeded(config.seed, PanelNetwork)
    loaded = config.encoder_weights
    if not config.resume:
        with process_state().main_process_first(), main_process_prints():
            loaded = load_timm_weights(model.encoder, "tf_efficientnet_lite0", loaded)
    for name, parameter in model.encoder.named_parameters():
        parameter.requires_grad_(loaded == "none" or not name.startswith(_FROZEN))
    return model, replace(config, encoder_weights=loaded)


def train_panels(config: PanelConfig, model: PanelNetwork) -> dict[str, float]:
    """Train, and keep the epoch with the best F1 of the validation's panels.

    Raises:
        UserError: As `load_figures`, `make_pool` and `fit`.
    """
    train, val = load_figures(config)
    pool = make_pool(train, config.micrographs, config.plots, config.seed)
    drawn = PanelDataset(train, pool, config.drawn, config.image_size, config.varied)
    sampler = EpochSampler(config.drawn, config.seed)
    data = Data(
        train=make_loader(drawn, config.batch_size, config.workers, sampler, collate),
        val=make_loader(OutlinedDataset(len(val)), 1, 0),
        fingerprint=fingerprint(config.outlines, config.micrographs),
    )
    rates = [
        {"params": [p for p in model.encoder.parameters() if p.requires_grad], "lr": 0.4 * config.lr},
        {"params": [p for n, p in model.named_parameters() if not n.startswith("encoder.")], "lr": config.lr},
    ]
    objective = Objective(
        step=panel_loss,
        validate=partial(validate_panels, figures=val),
        criterion="f1",
        shown=("f1", "recall", "precision", "kinds"),
    )
    return fit(config, model, objective, data, parameters=rates)


def panel_loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Loss of a batch: quality focal loss of the scores (Li et al. 2020) and GIoU loss of the boxes, a panel."""
    logits, boxes = model(batch["image"].float() / 127.5 - 1)
    scores, places, count = logits.new_zeros(()), logits.new_zeros(()), 0
    for image in range(len(logits)):
        own_boxes, kinds = batch["boxes"][image].to(logits.device), batch["kinds"][image].to(logits.device)
        count += len(kinds)
        panel = middles(own_boxes, logits.shape[-2:])
        target, weight = torch.zeros_like(logits[image]), (panel != -2).float()
        if (at := panel >= 0).any():
            whose = panel[at]
            # Each panel counts alike, however many places are near its middle.
            share = 1 / torch.bincount(whose, minlength=len(kinds)).float()[whose]
            found, wanted = boxes[image][:, at].T, own_boxes[whose]
            places = places + (generalized_box_iou_loss(found, wanted) * share).sum()
            with torch.no_grad():
                quality = _LEAST_QUALITY + (1 - _LEAST_QUALITY) * box_iou(found, wanted).diagonal()
            target[kinds[whose], *torch.where(at)] = quality
            weight[at] = (4 * share).clamp(max=1)
        far = (target - logits[image].sigmoid()).abs().square()
        each = functional.binary_cross_entropy_with_logits(logits[image], target, reduction="none")
        scores = scores + (each * far * weight).sum()
    return (scores + places) / max(count, 1)


def middles(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Whose middle each place is, int64 (h, w): the position of a panel, −1 of none, −2 of a place at its rim.

    Args:
        boxes: float32 (k, 4), sides in pixels.
        size: h and w of the map.
    """
    whose = torch.full(tuple(size), -1, dtype=torch.long, device=boxes.device)
    y, x = ((torch.arange(length, device=boxes.device) + 0.5) * STRIDE for length in size)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for number in areas.argsort(descending=True).tolist():  # the smaller one's where two lie over each other
        near, within = [], []
        for places, low, high in zip((y, x), boxes[number, [1, 0]], boxes[number, [3, 2]], strict=True):
            far = (places - (low + high) / 2).abs()
            reach = (_MIDDLE * (high - low)).clamp(0.51 * STRIDE, _FARTHEST * STRIDE)
            near.append(far <= reach)
            within.append((far <= reach + STRIDE) & (places > low) & (places < high))
        whose[torch.outer(*within) & (whose == -1)] = -2
        whose[torch.outer(*near)] = number
    return whose


@torch.no_grad()
def validate_panels(
    accelerator: Accelerator, model: nn.Module, loader: DataLoader, *, figures: Sequence[Outlined]
) -> Validation:
    """Recall and precision of panels at an intersection over union of 0.75, F1, and the share of kinds that are right.

    Every process sees all figures: they are few.
    """
    network = accelerator.unwrap_model(model).eval()
    outlined = found = matched = right = 0
    for figure in figures:
        panels = detect(network, figure.image)
        pairs = match_boxes([box for box, _, _ in panels], figure.boxes)
        outlined, found, matched = outlined + len(figure.boxes), found + len(panels), matched + len(pairs)
        right += sum(panels[here][1] == figure.kinds[there] for here, there in pairs)
    metrics = {
        "recall": matched / outlined,
        "precision": matched / max(found, 1),
        "f1": 2 * matched / (outlined + found),
        "kinds": right / max(matched, 1),
    }
    return Validation(metrics, metrics["f1"])


def export(checkpoint: Path, output: Path) -> None:
    """Write the weights of a checkpoint in half precision, as safetensors.

    Raises:
        UserError: The checkpoint is missing, broken, or of another network, or the file can't be written.
    """
    check_writable(output)
    network = PanelNetwork()
    load_complete(network, "the panel detector", read_state_dict(checkpoint), str(checkpoint), ())
    with written_whole(output, "wb") as file:
        file.write(
            save({name: value.half() for name, value in network.state_dict().items() if value.is_floating_point()})
        )
