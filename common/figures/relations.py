"""Natural relations between panels: what shows the same and is no reuse."""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

from common.figures.annotations import find_print
from common.figures.boxes import painted
from common.figures.panels import Panel, panel_of, shares
from common.forensics.alignment import move, warp_back
from common.forensics.copy_move import Copy
from common.forensics.gray import local_strength

Relation = Literal["reuse", "same field", "enlargement", "plot"]
"""`same field`: two panels that show one field at the same place, in other channels, contrasts, at another time or with
marks. `enlargement`: a panel or an inset that shows a part of another one larger. `plot`: two plots, whose axes, words
and bars are set alike. These three are natural."""

_PART = 0.15  # share of a region that lies in one of several panels
_IN_PLOTS = 0.8  # share of each region that lies in plots
_ALIGNED = 0.06  # of the shorter side: how far the corners of two panels of one field may lie apart
_ENLARGED, _INSET = 1.3, 1.6  # smallest factor on lengths of an enlargement in another panel, and in the same one
_SHIFTED, _CELL, _MOST_CELLS = 0.02, 0.04, 12  # of a strip of one field: deviation from a shift, and from whole cells
_TURNED = 3.0  # degrees by which an inset is turned at most
_OVAL, _RECTANGLE = 0.5, 0.85  # share of its box that an inset fills: some are oval; in an image of one picture
_OF_CELL = 0.5  # share of a cell that a copy is of
_DETAIL = 0.75  # share of a panel that an enlarged detail of it covers at most
_INSIDE = 0.08  # of its sides: how far an enlargement may reach beyond the panel that it shows a part of
_SMALL_PART = 0.5  # of the field's area: a part that may be one of it
_ONE_PLACE = 0.02  # of a panel's shorter side: how far apart two transforms of one field lead a point
_BESIDE, _LITTLE_AROUND = 15, 0.1  # pixels: side of the square that a copy is grown by; share of a panel left around it
_SURE = 0.9  # score from which a copy at the same place of two panels need not be of one field
_DETAIL_SIGMAS, _AGREE = (1.0, 2.0, 4.0), 0.15  # pixels; least correlation of detail around a copy in one field
_SAME_PICTURE = 0.95  # smallest correlation of two panels that are one picture
_SAME_DETAIL = 0.6  # smallest ratio of their detail: a denoised picture has less
_GRAIN, _ROUNDED = 0.17, 0.3  # least correlation of faint grain of one picture; gray levels: rounding alone has 0.29
_GRAIN_SIGMA, _AROUND = 2.0, 4.0  # pixels: of the blur that grain is left over from, and around a place
_MARK, _MARKED = 60.0, 0.003  # difference of a pixel's colour, without brightness, and share of pixels, of marks
_SAME_COLOUR, _SAME_TINT = 25.0, 0.15  # largest difference of their mean colours, and relative to their brightness


def relation_of(image: np.ndarray, panels: Sequence[Panel], copy: Copy) -> Relation:
    """Relation of a copy's two regions; natural only if it is so in all pairs of panels that the copy joins.

    Args:
        image: The figure, uint8 (H, W, 3) RGB.
        panels: Of the figure.
        copy: Found in it.
    """
    if _are_plots(panels, copy):
        return "plot"
    found = set()
    for first, second in _pairs(panels, copy):
        one, other = panels[first], panels[second]
        if first == second:
            found.add(_relation_within(image, one, copy, alone=len(panels) == 1))
        else:
            found.add(_relation(image, one, other, copy))
    return found.pop() if len(found) == 1 else "reuse"


def is_part_of(panels: Sequence[Panel], field: Copy, copy: Copy) -> bool:
    """Whether a copy between two panels is of the field that both show: it is at the same place in both.

    It must be a small part of the field, or score less than it.

    Args:
        panels: Of the figure.
        field: Found between two panels, with the relation `same field`.
        copy: Another one.
    """
    source, target = panel_of(copy.source, panels), panel_of(copy.target, panels)
    if source is None or target is None or source == target:
        return False
    # Of two that are about as large, the better one tells what they are.
    if copy.score >= field.score and np.count_nonzero(copy.source) > _SMALL_PART * np.count_nonzero(field.source):
        return False
    ends, matrix = (panel_of(field.source, panels), panel_of(field.target, panels)), field.matrix
    if ends == (target, source):
        matrix = cv2.invertAffineTransform(matrix)
    elif ends != (source, target):
        return False
    x, y, wide, high = cv2.boundingRect(copy.source.view(np.uint8))
    corners = np.array([(x, y), (x + wide, y), (x, y + high), (x + wide, y + high)], np.float64)
    apart = np.linalg.norm(move(corners, matrix) - move(corners, copy.matrix), axis=1)
    return float(apart.max()) <= _ONE_PLACE * min(panels[source].width, panels[source].height)


def _are_plots(panels: Sequence[Panel], copy: Copy) -> bool:
    """Whether the regions lie in plots of several panels, or all of these are plots."""
    if len(panels) == 1:
        return False
    plots = [panel.box for panel in panels if panel.kind == "plot"]
    if len(plots) == len(panels):
        return True
    painted_plots = painted(plots, copy.source.shape)
    return all(painted_plots[region].mean() >= _IN_PLOTS for region in (copy.source, copy.target))


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


def _relation_within(image: np.ndarray, panel: Panel, copy: Copy, *, alone: bool) -> Relation:
    """Relation of two regions of one panel: it may be a row of pictures of one field that touch without a step.

    The copy must be of half of such a picture, as a part may be moved by a third of a panel's width by chance; lanes of
    a blot lie as regularly, and are no pictures of a field. In an image that is one picture, `alone`, an inset must be
    a clear rectangle: objects are enlarged.
    """
    if max(copy.scale, 1 / copy.scale) >= _INSET:
        enlarged = copy.target if copy.scale > 1 else copy.source
        return "enlargement" if _is_inset(enlarged, copy, _RECTANGLE if alone else _OVAL) else "reuse"
    if np.abs(copy.matrix[:, :2] - np.eye(2)).max() > _SHIFTED:
        return "reuse"
    (x, y), sides = np.abs(copy.matrix[:, 2]), (panel.width, panel.height)
    axis = int(y > x)
    shift = (x, y)[axis]
    cells = round(sides[axis] / max(shift, 1))
    is_row = min(x, y) <= _CELL * shift and abs(cells * shift / sides[axis] - 1) <= _CELL
    if not is_row or not 2 <= cells <= _MOST_CELLS or panel.kind == "blot":
        return "reuse"
    if np.count_nonzero(copy.source[panel.window]) < _OF_CELL * shift * sides[1 - axis]:
        return "reuse"
    moved = round(shift)
    corner, rest = [panel.x, panel.y], [panel.width, panel.height]
    corner[axis] += moved if copy.matrix[axis, 2] < 0 else 0
    rest[axis] -= moved
    source = Panel(corner[0], corner[1], rest[0], rest[1], panel.kind)
    return "reuse" if _is_one_picture(image, source, copy) else "same field"


def _is_inset(enlarged: np.ndarray, copy: Copy, fills: float) -> bool:
    """Whether the larger region is a rectangle, neither turned nor mirrored: an object is none.

    Args:
        enlarged: The larger region, bool (H, W).
        copy: That it is of.
        fills: Share of its box that a rectangle fills at least.
    """
    x, y, wide, high = cv2.boundingRect(enlarged.astype(np.uint8))
    upright = abs(copy.rotation) <= _TURNED and not copy.mirrored
    return upright and float(enlarged[y : y + high, x : x + wide].mean()) >= fills


def _relation(image: np.ndarray, source: Panel, target: Panel, copy: Copy) -> Relation:
    if _is_aligned(source, target, copy):
        # Print that was not known as such lies at the same place of panels too, and seldom scores so high.
        if copy.score < _SURE or _agree_around(image, source, copy.source, copy.matrix):
            return "reuse" if _is_one_picture(image, source, copy) else "same field"
        return "reuse"
    detail, within, region, matrix = source, target, copy.source, copy.matrix
    if copy.scale > 1:
        detail, within, region, matrix = target, source, copy.target, cv2.invertAffineTransform(copy.matrix)
    enlarged = max(copy.scale, 1 / copy.scale) >= _ENLARGED and _is_detail(detail, matrix, within)
    return "enlargement" if enlarged and _agree_around(image, detail, region, matrix) else "reuse"


def _corners(panel: Panel) -> np.ndarray:
    """float64 (4, 2), x, y."""
    x, y, right, low = panel.x, panel.y, panel.x + panel.width, panel.y + panel.height
    return np.array([(x, y), (right, y), (right, low), (x, low)], np.float64)


def _is_aligned(source: Panel, target: Panel, copy: Copy) -> bool:
    """Whether the copy's transform takes one panel onto the other, unturned."""
    moved = move(_corners(source), copy.matrix)
    apart = np.linalg.norm(moved - _corners(target), axis=1).max()
    return bool(apart <= _ALIGNED * min(source.width, source.height, target.width, target.height))


def _is_detail(panel: Panel, matrix: np.ndarray, other: Panel) -> bool:
    """Whether a panel, mapped by a matrix (2, 3), is a part of another one: all of it is no detail, but shown again."""
    moved = move(_corners(panel), matrix)
    if np.prod(np.ptp(moved, axis=0)) > _DETAIL * other.width * other.height:
        return False
    reach = _INSIDE * np.ptp(moved, axis=0)
    low, high = _corners(other)[0] - reach, _corners(other)[2] + reach
    return bool((moved >= low).all() and (moved <= high).all())


def _agree_around(image: np.ndarray, panel: Panel, region: np.ndarray, matrix: np.ndarray) -> bool:
    """Whether a panel and what a matrix (2, 3) maps it to agree around a region too, as two pictures of one field.

    A part pasted at its own place into a picture of another field agrees with nothing around it. At one of three
    scales the detail must correlate.
    """
    around = cv2.dilate(region[panel.window].view(np.uint8), np.ones((_BESIDE, _BESIDE), np.uint8)) == 0
    if around.mean() < _LITTLE_AROUND:
        return True
    pictures = image[panel.window], warp_back(image, matrix, panel.window)
    gray = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) for picture in pictures]
    for sigma in _DETAIL_SIGMAS:
        detail = [cv2.GaussianBlur(p, (0, 0), sigma) - cv2.GaussianBlur(p, (0, 0), 4 * sigma) for p in gray]
        one, other = detail[0][around], detail[1][around]
        if one.std() and other.std() and np.corrcoef(one, other)[0, 1] >= _AGREE:
            return True
    return False


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
    if correlation < _SAME_PICTURE or min(details) < _SAME_DETAIL * max(details):
        return False
    return _is_one_grain(gray, gray_there, ~(find_print(here) | find_print(there)))


def _is_one_grain(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> bool:
    """Whether two pictures agree in their faint grain, which a second exposure of the field does not repeat.

    Args:
        one: float32 (h, w).
        other: float32 (h, w).
        where: bool (h, w), without print.
    """
    if not where.any():
        return True
    grains = [picture - cv2.GaussianBlur(picture, (0, 0), _GRAIN_SIGMA) for picture in (one, other)]
    strengths = [local_strength(grain, _AROUND) for grain in grains]
    strength = np.maximum(*(s / (np.median(s[where]) + 0.1) for s in strengths))
    faint = where & (strength <= np.median(strength[where]))  # away from edges, which agree in any case
    deviations = [float(grain[faint].std()) for grain in grains]
    if min(deviations) < _ROUNDED:  # no grain there to compare
        return True
    return bool(np.corrcoef(grains[0][faint], grains[1][faint])[0, 1] >= _GRAIN)
