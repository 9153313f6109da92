"""Search for places of blots that look like each other: every piece of a blot, as high as it, with all places of all.

Bands are smooth, and key points find little on them. A piece of a blot that is shown again is found by its correlation,
shifted, mirrored or turned by 180°; what it is worth is said by `common.forensics.lane_score`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import fft

from common.forensics.gray import local_strength

Window = tuple[slice, slice]
"""Rows and columns."""
View = tuple[int, int]
"""Signs of x and y: (1, 1) as it is, (-1, 1) mirrored, (-1, -1) turned by 180°, (1, -1) mirrored upside down."""
VIEWS: tuple[View, ...] = ((1, 1), (-1, 1), (-1, -1), (1, -1))

_RIM = 3  # pixels of a picture: frames, and borders that scaling and JPEG have mixed with the ground
_HIGHEST, _COARSE = 224, 64  # pixels: higher blots are scaled down to it, and for the search
_LEAST_SIDE = 24  # pixels of a blot
_FINE, _WIDE, _AROUND = 0.8, 4.0, 8.0  # pixels: sigmas of the band of detail, and of the window of its strength
_FAINT = 1.0  # gray levels: weaker detail is rounding
_PIECE, _LEAST_PIECE = 0.35, 20  # width of a piece, of the height, and in pixels
_CROPPED = 0.06  # of the height: rim of a piece that a copy may have lost, or have been moved by
_APART = 0.8  # of a piece's width: nearer places of the same blot are the piece itself
_PLACES = 3  # best places of a piece that are looked at
_MOST = 2e7  # pieces times pixels that they are compared with: bounds the time, as fewer pieces


@dataclass(frozen=True, eq=False)
class Blot:
    """A picture at the size at which its lanes are compared."""

    corner: np.ndarray
    """x, y of its first pixel in the image, float64."""
    scale: float
    """Its size by that in the image, at most 1."""
    levels: np.ndarray
    """float32 (h, w), gray levels."""
    detail: np.ndarray
    """float32 (h, w): detail between two scales at an even strength."""
    coarse: np.ndarray
    """The same of a smaller picture, at most 64 pixels high."""
    ratio: float
    """Size of the smaller picture by that of `levels`."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A piece of a blot, and where another place looks like it."""

    source: int
    """Position of its blot."""
    target: int
    columns: tuple[int, int]
    """First column, and the one after the last, in `Blot.levels`."""
    matrix: np.ndarray
    """float64 (2, 3), without rotation: x, y in the levels of the source ↦ x, y in those of the target."""
    correlation: float


def prepare_blots(gray: np.ndarray, windows: Sequence[Window]) -> list[Blot]:
    """The blots of an image, uint8 (H, W), without those that are too small."""
    blots = []
    for rows, columns in windows:
        corner = np.array([columns.start + _RIM, rows.start + _RIM], np.float64)
        levels = gray[rows.start + _RIM : rows.stop - _RIM, columns.start + _RIM : columns.stop - _RIM]
        if min(levels.shape) < _LEAST_SIDE:
            continue
        levels, scale = _lowered(levels.astype(np.float32), _HIGHEST)
        small, ratio = _lowered(levels, _COARSE)
        blots.append(Blot(corner, scale, levels, _detail(levels), _detail(small), ratio))
    return blots


def _lowered(levels: np.ndarray, height: int) -> tuple[np.ndarray, float]:
    """A picture scaled down to a height, and the factor, at most 1."""
    factor = min(1.0, height / len(levels))
    if factor == 1:
        return levels, factor
    return cv2.resize(levels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), factor


def _detail(levels: np.ndarray) -> np.ndarray:
    detail = cv2.GaussianBlur(levels, (0, 0), _FINE) - cv2.GaussianBlur(levels, (0, 0), _WIDE)
    return detail / (local_strength(detail, _AROUND) + _FAINT)


def find_pairs(blots: Sequence[Blot], *, between: bool = False) -> list[Pair]:
    """The places that look most like each piece of each blot.

    The best pair of each two blots comes first, then all others, each by descending correlation: lanes of one blot
    agree better than a whole strip and its stretched copy.

    Args:
        blots: Of one image.
        between: Whether to leave out places of the same blot.
    """
    area = sum(blot.coarse.size for blot in blots)
    pieces = [_starts(blot) for blot in blots]
    step = int(np.ceil(sum(map(len, pieces)) * area / _MOST)) if area else 1
    spectra = [_spectrum(blot) for blot in blots]
    pairs: list[Pair] = []
    for number, starts in enumerate(pieces):
        if len(starts):
            pairs += _pairs_of(blots, spectra, number, starts[::step], between=between)
    pairs.sort(key=lambda pair: -pair.correlation)
    first = {id(pair) for pair in {(pair.source, pair.target): pair for pair in reversed(pairs)}.values()}
    return sorted(pairs, key=lambda pair: id(pair) not in first)


def _width(blot: Blot) -> int:
    """Width of a piece in pixels of the smaller picture."""
    return max(_LEAST_PIECE, round(_PIECE * len(blot.coarse)))


def _starts(blot: Blot) -> np.ndarray:
    """First columns of a blot's pieces, which overlap by about a half, in pixels of the smaller picture."""
    room = blot.coarse.shape[1] - _width(blot)
    if room < 0:
        return np.empty(0, int)
    return np.unique(np.linspace(0, room, round(2 * room / _width(blot)) + 1).round().astype(int))


def _spectrum(blot: Blot) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and values of the discrete Fourier transform of the smaller picture's detail."""
    shape = tuple(fft.next_fast_len(side, real=True) for side in blot.coarse.shape)
    return shape, fft.rfft2(blot.coarse, shape)


def _pairs_of(
    blots: Sequence[Blot],
    spectra: Sequence[tuple[tuple[int, ...], np.ndarray]],
    number: int,
    starts: np.ndarray,
    *,
    between: bool,
) -> Iterator[Pair]:
    """The best places of each piece of a blot."""
    blot, wide = blots[number], _width(blots[number])
    cut = round(_CROPPED * len(blot.coarse))
    pieces = np.stack([blot.coarse[cut : len(blot.coarse) - cut, start : start + wide] for start in starts])
    found: list[list[tuple[float, int, View, int, int]]] = [[] for _ in starts]
    for other, (target, (shape, spectrum)) in enumerate(zip(blots, spectra, strict=True)):
        if between and other == number:
            continue
        if pieces.shape[1] > target.coarse.shape[0] or wide > target.coarse.shape[1]:
            continue
        for view in VIEWS:
            agreement = _correlations(pieces[:, :: view[1], :: view[0]], target.coarse, shape, spectrum)
            best, row = agreement.max(axis=1), agreement.argmax(axis=1)
            for places, start, along, rows in zip(found, starts, best, row, strict=True):
                if other == number:
                    reach = round(_APART * wide)
                    along[max(start - reach, 0) : start + reach + 1] = -1
                for _ in range(2):
                    x = int(along.argmax())
                    places.append((float(along[x]), other, view, x, int(rows[x])))
                    along[max(x - wide // 2, 0) : x + wide // 2 + 1] = -1
    for start, places in zip(starts.tolist(), found, strict=True):
        for correlation, other, view, x, y in sorted(places, key=lambda place: -place[0])[:_PLACES]:
            if correlation <= 0:
                break
            high = pieces.shape[1]
            shift = [
                there - view[axis] * here + (side - 1 if view[axis] < 0 else 0)
                for axis, (here, there, side) in enumerate(((start, x, wide), (cut, y, high)))
            ]
            matrix = between_scales(np.column_stack([np.diag(view), shift]), 1 / blot.ratio, 1 / blots[other].ratio)
            columns = round(start / blot.ratio), min(round((start + wide) / blot.ratio), blot.levels.shape[1])
            yield Pair(number, other, columns, matrix, correlation)


def _correlations(pieces: np.ndarray, target: np.ndarray, shape: tuple[int, ...], spectrum: np.ndarray) -> np.ndarray:
    """Correlation of each piece (n, h, w) with each place of a picture (H, W), float32 (n, H - h + 1, W - w + 1)."""
    _, high, wide = pieces.shape
    pieces = pieces - pieces.mean(axis=(1, 2), keepdims=True)
    rows, columns = target.shape[0] - high + 1, target.shape[1] - wide + 1
    sums, squares = (
        cv2.boxFilter(values, cv2.CV_64F, (wide, high), anchor=(0, 0), normalize=False, borderType=cv2.BORDER_CONSTANT)
        for values in (target, target * target)
    )
    energy = (squares - sums * sums / (high * wide))[:rows, :columns]
    strength = np.sqrt((pieces**2).sum(axis=(1, 2)))[:, None, None] * np.sqrt(np.maximum(energy, 1e-3 * high * wide))
    # One by one: the transforms of all pieces of a long blot would not fit into memory.
    product = np.stack(
        [fft.irfft2(spectrum * np.conj(fft.rfft2(piece, shape)), shape)[:rows, :columns] for piece in pieces]
    )
    return (product / np.maximum(strength, 1e-9)).astype(np.float32)


def between_scales(matrix: np.ndarray, source: float, target: float) -> np.ndarray:
    """A matrix (2, 3) between two pictures, where their sides are multiplied by two factors.

    Corners lie on corners: (0, 0) is the centre of a pixel.
    """
    linear = matrix[:, :2] * target / source
    centre = matrix[:, :2] @ np.full(2, (1 / source - 1) / 2) + matrix[:, 2]
    return np.column_stack([linear, target * centre + (target - 1) / 2])
