"""Reading of masks: binary ones, instances as channels or labels, probabilities, masks in an alpha channel."""

from pathlib import Path

import numpy as np

from common.data.arrays import load_array
from common.data.decoding import Decoded, decoded, stored
from common.data.limits import TooLarge, check_bytes
from common.errors import UserError

MOST_COVERED = 0.95
"""Share of the image from which a mask is reported: a forgery that covers nearly everything is most likely none."""
MOST_LABELS = 127
"""Number of instances that the values of one channel may label."""
ROUNDED = 8
"""Levels of 255 by which a shade of a colour may differ from that colour darkened."""


def read_mask(path: Path, orientation: int = 1) -> np.ndarray:
    """Read the mask of a forged image, one channel per instance.

    - `.npy` of shape (N, H, W): a channel per instance, forged above 0 (of fractions between 0 and 1: above 0.5).
    - One channel, (H, W) or an image file: one value beside 0 marks one instance. 1, 2, ..., k label k instances, and
      so do 1, ..., k with 255, for k up to 127. Other values are forged above half: of 255, of 65535, of 1 for
      fractions; integers of `.npy` above 0.
    - Colours count by their largest channel. Indices of a palette that are such labels count instead of their colours,
      if that of 0 is black and those of the others are not all shades of one colour, as the rim of a mask is.
    - Where there is transparency, opaque pixels are meant; if the colours mark nothing or everything there, the alpha
      channel is the mask.

    Args:
        path: The file.
        orientation: EXIF orientation of the image, if the mask was drawn on the upright picture: it is turned back, so
            that it fits the pixels as stored.

    Returns:
        uint8 array (N, H, W) of 0 and 1.

    Raises:
        UserError: The file is missing, broken, larger than `common.data.limits` allow, or has another shape.
    """
    try:
        mask = _read(path)
    except TooLarge as error:
        raise UserError(f"{path} {error}") from error
    return mask if orientation == 1 else np.stack([stored(channel, orientation) for channel in mask])


def misfit(mask: np.ndarray, sides: tuple[int, ...], orientation: int) -> str | None:
    """How the size of a mask, (N, H, W), differs from that of its image, (H, W) as stored; None if it does not."""
    own = mask.shape[1:]
    if own == sides:
        return None
    text = f"is {own[0]}×{own[1]}, its image {sides[0]}×{sides[1]}"
    if own != sides[::-1]:
        return text
    if orientation >= 5:
        return f"{text} as stored: it fits the upright picture. Import it with --masks-are-upright"
    return f"{text}: it is transposed"


def _read(path: Path) -> np.ndarray:
    if path.suffix.lower() == ".npy":
        values = _load(path)
        if values.ndim == 2:
            return _instances(values, any_value=values.dtype.kind != "f")
        fractions = values.dtype.kind == "f" and ((values > 0) & (values < 1)).any()
        return (values > (0.5 if fractions else 0)).astype(np.uint8)
    with decoded(path) as found:
        if (labels := _palette_labels(found)) is not None:
            return _instances(labels)
        values = found.values if found.values.ndim == 2 else found.values.max(axis=2)
        if found.inverted:
            values = values.max() - values
        if found.alpha is not None:
            opaque = found.alpha > 0.5
            values = np.where(opaque, values, 0)
            if not _forged(values).any() or _forged(values).all():
                values = opaque.astype(np.uint8)
        return _forged(values, 255)[None] if found.lossy else _instances(values)


def _load(path: Path) -> np.ndarray:
    mask = load_array(path, "a mask")
    if mask.ndim not in (2, 3) or not mask.size or mask.dtype.kind not in "buif":
        raise UserError(
            f"{path} has shape {mask.shape} and type {mask.dtype}; a mask is (N, H, W) or (H, W) of 0 and 1."
        )
    return mask


def _instances(values: np.ndarray, *, any_value: bool = False) -> np.ndarray:
    """uint8 (N, H, W) of 0 and 1, from values (H, W); `any_value` above 0 is forged where they are no labels."""
    marked = np.unique(values[values > 0])
    if _are_labels(marked):
        check_bytes(len(marked) * values.size)
        return (values == marked[:, None, None]).view(np.uint8)
    return (values > 0).astype(np.uint8)[None] if any_value else _forged(values)[None]


def _are_labels(marked: np.ndarray) -> bool:
    """Whether the values above 0, sorted, label several instances: 1, ..., k, with or without 255."""
    labels = marked[marked != 255]
    return len(marked) > 1 and len(labels) <= MOST_LABELS and np.array_equal(labels, np.arange(1, len(labels) + 1))


def _palette_labels(found: Decoded) -> np.ndarray | None:
    """The indices of a palette, uint8 (H, W), 0 where it is transparent; None if they label no instances."""
    if found.indices is None:
        return None
    opaque = True if found.alpha is None else found.alpha > 0.5
    labels = np.where(opaque, found.indices, 0)
    marked = np.unique(labels[labels > 0])
    if not _are_labels(marked) or found.values[(labels == 0) & opaque].any():
        return None
    colours = np.array([found.values[labels == label][0] for label in marked], float)
    highest = colours.max(axis=1, keepdims=True)
    if not highest.all():  # black is forged: a program has sorted the palette
        return None
    darkened = colours[highest.argmax()] * highest / highest.max()
    return labels if (abs(colours - darkened) > ROUNDED).any() else None


def _forged(values: np.ndarray, most: float | None = None) -> np.ndarray:
    """uint8 (H, W) of 0 and 1: what lies above half of the largest possible value, or above 0 if only one does."""
    above = values > 0
    marked = values[above]
    if not marked.size or (most is None and marked.min() == marked.max()):
        return above.astype(np.uint8)
    highest = float(marked.max())
    possible = most or next((value for value in (1, 255, 65535) if highest <= value), highest)
    return (values > possible / 2).astype(np.uint8)
