"""A network that finds the panels of a figure: boxes, kinds and scores.

An EfficientNet-Lite0 with feature maps at strides of 8 to 64, added up from the coarsest to the finest. Each place of
the finest map scores the five kinds for a panel whose middle is there, and says how far its four sides are (FCOS, Tian
et al. 2019, in one level: panels hardly overlap, and strips of blots are thinner than a place of coarser levels).
"""

import cv2
import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import batched_nms

from common.figures.boxes import Box
from common.figures.kinds import KINDS, Kind

STRIDE = 8
"""Pixels between two places of the map."""
LEAST_SCORE = 0.4
"""Score from which a box is a panel."""
_CHANNELS = 64
_SIDE, _SHORTEST, _MOST_ENLARGED = 640, 160, 1.5  # pixels of a figure's sides, and factor by which a small one grows
_BLACK = 30  # gray levels: a figure that is darker in the main has black ground


class PanelNetwork(nn.Module):
    """Scores and boxes of panels at every place."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = timm.create_model(
            "tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=(2, 3, 4)
        )
        counts = self.encoder.feature_info.channels()
        self.lateral = nn.ModuleList(nn.Conv2d(count, _CHANNELS, 1) for count in counts)
        self.coarse = _layer(stride=2)
        self.coarser = _layer(stride=2)
        self.smooth = nn.ModuleList(_layer() for _ in range(len(counts) + 1))
        self.score = nn.Sequential(_layer(), _layer(), nn.Conv2d(_CHANNELS, len(KINDS), 3, padding=1))
        self.sides = nn.Sequential(_layer(), _layer(), nn.Conv2d(_CHANNELS, 4, 3, padding=1))
        nn.init.constant_(self.score[-1].bias, -4.6)  # a panel's middle is rare: 1 % at first
        nn.init.constant_(self.sides[-1].bias, 2.0)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, 5, h, w) of the kinds, and boxes (n, 4, h, w) as left, top, right and lower side in pixels.

        Args:
            images: float32 (n, 3, H, W) in [-1, 1], of sides that 128 divides.
        """
        maps = [lateral(features) for lateral, features in zip(self.lateral, self.encoder(images), strict=True)]
        maps.append(self.coarse(maps[-1]))
        top = self.coarser(maps[-1])
        for features, smooth in zip(reversed(maps), reversed(self.smooth), strict=True):
            top = smooth(features + functional.interpolate(top, size=features.shape[-2:], mode="nearest"))
        distances = (self.sides(top) / 2).clamp(max=6).exp() * STRIDE
        y, x = (
            torch.arange(length, device=top.device, dtype=torch.float32) * STRIDE + STRIDE / 2
            for length in top.shape[-2:]
        )
        left, above, right, below = distances.float().unbind(1)
        boxes = torch.stack([x - left, y[:, None] - above, x + right, y[:, None] + below], dim=1)
        return self.score(top).float(), boxes


def _layer(stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(_CHANNELS, _CHANNELS, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(8, _CHANNELS),
        nn.SiLU(),
    )


def on_canvas(
    image: np.ndarray, size: tuple[int, int], canvas: tuple[int, int], corner: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """A figure, scaled, on a canvas of its ground, uint8 (h, w, 3).

    Args:
        image: uint8 (H, W, 3) RGB.
        size: Height and width that it gets.
        canvas: Height and width of the canvas, which holds it.
        corner: Row and column of its upper left corner.
    """
    smaller = size[0] < image.shape[0]
    scaled = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    whole = np.full((*canvas, 3), 255 if np.median(scaled) > _BLACK else 0, np.uint8)
    whole[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]] = scaled
    return whole


@torch.inference_mode()
def detect(network: PanelNetwork, image: np.ndarray, least: float = LEAST_SCORE) -> list[tuple[Box, Kind, float]]:
    """The panels of a figure: box, kind and score, the best first.

    Args:
        network: In evaluation mode, on the CPU.
        image: uint8 (H, W, 3) RGB.
        least: Score from which a box is a panel.
    """
    height, width = image.shape[:2]
    scale = min(max(_SIDE / max(height, width), _SHORTEST / min(height, width)), _MOST_ENLARGED)
    size = max(8, round(height * scale)), max(8, round(width * scale))
    canvas = on_canvas(image, size, (-(-size[0] // 128) * 128, -(-size[1] // 128) * 128))
    pixels = torch.from_numpy(canvas).permute(2, 0, 1)[None].float() / 127.5 - 1
    logits, boxes = network(pixels.contiguous(memory_format=torch.channels_last))
    found = []
    for sides, scores in zip(*best_boxes(logits[0], boxes[0], least), strict=True):
        left, top, right, low = (sides / scale).tolist()
        x, y = min(max(0, round(left)), width - 1), min(max(0, round(top)), height - 1)
        box = (x, y, max(1, min(round(right), width) - x), max(1, min(round(low), height) - y))
        found.append((box, KINDS[int(scores.argmax())], float(scores.max())))
    return found


def best_boxes(logits: Tensor, boxes: Tensor, least: float, most: int = 600) -> tuple[Tensor, Tensor]:
    """The boxes (k, 4) of one image that no better one overlaps, and the scores (k, 5) of their kinds.

    Args:
        logits: (5, h, w), from the network.
        boxes: (4, h, w).
        least: Score from which a box counts.
        most: Boxes that are kept at most.
    """
    scores = logits.sigmoid().flatten(1).T
    places = boxes.flatten(1).T
    best = scores.max(dim=1).values
    kept = best >= least
    scores, places, best = scores[kept], places[kept], best[kept]
    order = batched_nms(places, best, torch.zeros_like(best, dtype=torch.long), 0.4)[:most]
    return places[order], scores[order]
