"""Natural relations between panels: what shows the same and is no reuse."""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

from common.figures.panels import Panel, panel_of, shares
from common.forensics.alignment import move, warp_back
from common.forensics.copy_move import Copy

Relation = Literal["reuse", "same field", "enlargement"]
"""`same field`: two panels that show one field at the same place, in other channels, contrasts or with marks.
`enlargement`: a panel that shows a part of another one larger, as insets do. Both are natural."""

_PART = 0.15  # share of a region that lies in one of several panels
_ALIGNED = 0.06  # of the shorter side: how far the corners of two panels of one field may lie apart
_ENLARGED = 1.3  # smallest factor on lengths of an enlargement
_INSIDE = 0.08  # of its sides: how far an enlargement may reach beyond the panel that it shows a part of
_SAME_PICTURE = 0.95  # smallest correlation of two panels that are one picture
_SAME_DETAIL = 0.6  # smallest ratio of their detail: a denoised picture has less
_MARK, _MARKED = 60.0, 0.003  # difference of a pixel's colour, without brightness, and share of pixels, of marks
_SAME_COLOUR, _SAME_TINT = 25.0, 0.15  # largest difference of their mean colours, and relative to their brightness


def relation_of(image: np.ndarray, panels: Sequence[Panel], copy: Copy) -> Relation:
    """Relation of a copy's two regions; natural only if it is so in all pairs of panels that the copy joins.

    Args:
        image: The figure, uint8 (H, W, 3) RGB.
        panels: Of the figure.
        copy: Found in it.
    """
    pairs = _pairs(panels, copy)
    found = {_relation_of_panels(image, panels[first], panels[second], copy) for first, second in pairs}
    return found.pop() if len(found) == 1 and all(first != second for first, second in pairs) else "reuse"


def _pairs(panels: Sequence[Panel], copy: Copy) -> list[tuple[int, int]]:
    """Panels that hold a good part of the copy's source, each with the panel that holds the same part of the target."""
    pairs = []
    for number in np.flatnonzero(shares(panels, copy.source) >= _PART).tolist():
        part = np.zeros(copy.source.shape, np.uint8)
        part[panels[number].window] = copy.source[panels[number].window]
        there = cv2.warpAffine(part, copy.matrix, part.shape[::-1], flags=cv2.INTER_NEAREST) > 0
        other = panel_of(there, panels)
        if other is not None:
            pairs.append((number, other))
    return pairs


def _relation_of_panels(image: np.ndarray, source: Panel, target: Panel, copy: Copy) -> Relation:
    if _is_aligned(source, target, copy) and not _is_one_picture(image, source, copy):
        return "same field"
    back = cv2.invertAffineTransform(copy.matrix)
    if copy.scale >= _ENLARGED and _lies_inside(target, back, source):
        return "enlargement"
    if copy.scale <= 1 / _ENLARGED and _lies_inside(source, copy.matrix, target):
        return "enlargement"
    return "reuse"


def _corners(panel: Panel) -> np.ndarray:
    """float64 (4, 2), x, y."""
    x, y, right, low = panel.x, panel.y, panel.x + panel.width, panel.y + panel.height
    return np.array([(x, y), (right, y), (right, low), (x, low)], np.float64)


def _is_aligned(source: Panel, target: Panel, copy: Copy) -> bool:
    """Whether the copy's transform takes one panel onto the other, unturned."""
    moved = move(_corners(source), copy.matrix)
    apart = np.linalg.norm(moved - _corners(target), axis=1).max()
    return bool(apart <= _ALIGNED * min(source.width, source.height, target.width, target.height))


def _lies_inside(panel: Panel, matrix: np.ndarray, other: Panel) -> bool:
    """Whether a panel, mapped by a matrix (2, 3), lies in another one."""
    moved = move(_corners(panel), matrix)
    reach = _INSIDE * np.ptp(moved, axis=0)
    low, high = _corners(other)[0] - reach, _corners(other)[2] + reach
    return bool((moved >= low).all() and (moved <= high).all())


def _is_one_picture(image: np.ndarray, source: Panel, copy: Copy) -> bool:
    """Whether a panel and what the copy's transform maps it to are one picture, but for brightness, contrast and print.

    Letters and scale bars are left out as the tenth of the pixels that differ most; coloured marks are not.
    """
    here, there = image[source.window], warp_back(image, copy.matrix, source.window)
    tint, tint_there = (picture - picture.mean(axis=2, keepdims=True, dtype=np.float32) for picture in (here, there))
    means = [picture.reshape(-1, 3).mean(axis=0) for picture in (tint, tint_there)]
    levels = [float(picture.mean()) + 1 for picture in (here, there)]
    if np.abs(means[0] - means[1]).max() > _SAME_COLOUR:
        return False
    if np.abs(means[0] / levels[0] - means[1] / levels[1]).max() > _SAME_TINT:  # of dim channels too
        return False
    if (np.abs(tint - tint_there).max(axis=2) > _MARK).mean() > _MARKED:
        return False
    gray, gray_there = (picture.mean(axis=2, dtype=np.float32) for picture in (here, there))
    alike = np.ones(gray.shape, bool)
    for _ in range(2):
        one, other = gray[alike], gray_there[alike]
        if not one.std() or not other.std():
            return False
        gain = ((one - one.mean()) * (other - other.mean())).mean() / one.var()
        residual = np.abs(gray_there - other.mean() - gain * (gray - one.mean()))
        alike = residual <= np.quantile(residual, 0.9)
    correlation = np.corrcoef(gray[alike], gray_there[alike])[0, 1]
    details = [float((p - cv2.GaussianBlur(p, (0, 0), 1.2))[alike].std() / p[alike].std()) for p in (gray, gray_there)]
    return bool(correlation >= _SAME_PICTURE and min(details) >= _SAME_DETAIL * max(details))
