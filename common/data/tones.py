"""Conversion of deep pixel values (16 and 32 bits, signed, float) to 8 bits.

What is far brighter or darker than the content, such as a hot pixel, a burned-in scale bar or the value of missing
data, is clipped: scaled by its maximum, a picture would be almost black.
"""

import numpy as np

CLIPPED_SHARE = 0.001
"""Share of the values at either end that may be outliers."""
MARGIN = 0.5
"""The range from the lowest to the highest percentile is widened by this share at either end, but not beyond the
extremes: no content is clipped at percentiles that lie near them."""
MOST_BURNED = 3
"""Levels that may be burned in at either end, ..."""
GAP = 0.25
"""... if the gap to the next level exceeds this share of the other levels' range, ..."""
BURNED_SHARE = 0.5
"""... if they have at most this share of all values, ..."""
LEAST_LEVELS = 64
"""... and if so many levels are left: drawings and label images keep theirs."""
SAMPLE = 4_000_000
"""Number of values, evenly spread, from which the range is estimated."""
AT_A_TIME = 4_000_000
"""Values that are converted at a time: as fractions they take up to eight times the memory."""


def to_eight_bits(values: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Scale the robust range of the values to 0..255, all channels alike.

    Args:
        values: (H, W) or (H, W, C), real numbers of any type. NaN and -inf become 0, inf becomes 255.
        counted: bool (H, W): pixels that the range is taken from; by default all.

    Returns:
        uint8, of the shape of `values`. A constant picture keeps its level if its type has one (unsigned integers:
        relative to their maximum; others: as if from 0 to 1).
    """
    low, high = contrast_range(values if counted is None else values[counted])
    eight = np.empty(values.shape, np.uint8)
    rows = max(1, AT_A_TIME * len(values) // max(1, values.size))
    for start in range(0, len(values), rows):
        part = np.s_[start : start + rows]
        eight[part] = _scaled(values[part], low, high)
    return eight


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The range from `low` to `high` as 0 to 255, in fractions."""
    if high > low:
        scaled = np.subtract(values, low, dtype=np.float32 if values.dtype.itemsize < 4 else np.float64)
        scaled *= 255 / (high - low)
    else:
        unit = np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1
        scaled = values.astype(np.float64) * (255 / unit)
    np.nan_to_num(scaled, copy=False, nan=0, posinf=255, neginf=0)
    return np.rint(scaled.clip(0, 255, out=scaled), out=scaled)


def contrast_range(values: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest value of the content; equal if it is constant.

    Args:
        values: Real numbers of any shape and type; those that are not finite are ignored.
    """
    flat = values.reshape(-1)
    step = max(1, len(flat) // SAMPLE)
    flat = flat[:: step + (step % 3 == 0)]  # no multiple of 3, which would meet one of three channels only
    if flat.dtype.kind == "f":
        flat = flat[np.isfinite(flat)]
    levels, counts = np.unique(flat, return_counts=True)
    levels = levels.astype(np.float64)
    if not len(levels):
        return 0.0, 0.0
    levels, counts = _without_burned(levels, counts)
    places = np.cumsum(counts) - 0.5 * counts
    low, high = np.interp(np.array([CLIPPED_SHARE, 1 - CLIPPED_SHARE]) * counts.sum(), places, levels)
    if high == low:  # almost everything is ground
        return float(levels[0]), float(levels[-1])
    margin = MARGIN * (high - low)
    return float(max(levels[0], low - margin)), float(min(levels[-1], high + margin))


def _without_burned(levels: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending levels and their counts without those at either end that are burned in."""
    for _ in range(2):  # the high end, then the low one
        for number in range(MOST_BURNED, 0, -1):
            others = levels[:-number]
            if len(others) < LEAST_LEVELS or counts[-number:].sum() > BURNED_SHARE * counts.sum():
                continue
            if levels[-number] - others[-1] > GAP * (others[-1] - others[0]):
                levels, counts = others, counts[:-number]
                break
        levels, counts = -levels[::-1], counts[::-1]
    return levels, counts
