"""Run-length encoding of the submission: masks to text and back.

An instance is a list `[start, length, start, length, ...]`. Starts are 1-based, count down the columns
(`mask.flatten(order="F")`) and ascend; runs of one list do not overlap. Row-major or 0-based lists would parse too and
score as garbage, which is why nothing else in the project writes or reads run lengths. Masks are (H, W), non-zero where
forged.
"""

import json
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from common.errors import UserError

AUTHENTIC = "authentic"


def encode(mask: np.ndarray) -> list[int]:
    """Run lengths of one mask (H, W) of bool or numbers; an empty list for an empty mask."""
    starts, ends, values = _runs(mask if mask.dtype == bool else mask != 0)
    return _interleave(starts[values], ends[values]).tolist()


def encode_labels(labels: np.ndarray) -> list[list[int]]:
    """Run lengths of all instances of a label image, in one pass.

    Args:
        labels: Integers (H, W); 0 is authentic, every other value an instance.

    Returns:
        `encode(labels == label)` of each label that occurs, ascending.

    Raises:
        ValueError: `labels` holds anything but integers from 0 to 2³¹ − 1.
    """
    starts, ends, values = _runs(labels)
    if not np.issubdtype(labels.dtype, np.integer) or values.min(initial=0) < 0 or values.max(initial=0) >= 2**31:
        raise ValueError(f"labels must be integers from 0 to 2³¹ - 1; {labels.dtype} with others given")
    forged = np.flatnonzero(values)
    # Stable, so that the runs of each label stay in the order of their starts.
    order = forged[np.argsort(values[forged], kind="stable")]
    runs, values = _interleave(starts[order], ends[order]), values[order]
    parts = np.split(runs, 2 * (np.flatnonzero(values[1:] != values[:-1]) + 1))
    return [part.tolist() for part in parts if part.size]


def decode(runs: Sequence[int], height: int, width: int) -> np.ndarray:
    """Mask of one instance, bool (height, width).

    Raises:
        UserError: The list breaks the rules of the format (see `check_runs`).
    """
    check_runs(runs, height, width)
    return decode_union([runs], height, width)


def decode_union(instances: Iterable[Sequence[int]], height: int, width: int) -> np.ndarray:
    """Union of instances that have passed `check_runs`, bool (height, width)."""
    flat = np.zeros(height * width, np.uint8)
    for runs in instances:
        for start, length in zip(runs[::2], runs[1::2], strict=True):
            flat[start - 1 : start - 1 + length] = 1
    return _transpose(flat.reshape(width, height)).view(bool)


def check_runs(runs: Sequence[int], height: int, width: int) -> None:
    """Check one list against the format.

    Raises:
        UserError: An odd number of values, a value that is not an integer, a start or length below 1, starts that do
            not ascend, runs that overlap, or a run that leaves the image.
    """
    wrong = [value for value in runs if isinstance(value, bool) or not isinstance(value, int | np.integer)]
    if wrong:
        first = "a list" if isinstance(wrong[0], list | dict) else f"{json.dumps(wrong[0], default=str):.60}"
        raise UserError(f"{first} is not an integer; a list is [start, length, ...]")
    if max(map(abs, runs), default=0) >= 2**63:  # its sums might have more digits than Python writes
        raise UserError("a number has more than 18 digits; no image has so many pixels")
    if len(runs) % 2:
        raise UserError(f"{len(runs)} numbers, but each run needs two: [start, length, ...]")
    end = 0  # the last pixel of the run before, 1-based
    for number, (start, length) in enumerate(zip(runs[::2], runs[1::2], strict=True), 1):
        run = f"run {number} (start {start}, length {length})"
        if start < 1 or length < 1:
            raise UserError(f"{run}: starts count from 1 and lengths are at least 1")
        if start <= end:
            raise UserError(f"{run} begins before run {number - 1} ends at {end}; starts ascend and runs don't overlap")
        end = start + length - 1
        if end > height * width:
            raise UserError(f"{run} ends at {end}, outside an image of {height}×{width} = {height * width} pixels")


def pixels_inside(instances: Iterable[Sequence[int]], mask: np.ndarray) -> np.ndarray:
    """How many pixels of each instance lie inside a mask (H, W), int64 (n,).

    One cumulative sum over the mask and two look-ups per run, so that a thousand instances need no thousand masks. The
    instances must have passed `check_runs` for the size of the mask.
    """
    below = np.concatenate([[0], np.cumsum(_columns(mask != 0), dtype=np.int64)])
    counts = []
    for runs in instances:
        starts, lengths = np.asarray(runs, np.int64).reshape(-1, 2).T
        counts.append(int((below[starts - 1 + lengths] - below[starts - 1]).sum()))
    return np.array(counts, np.int64)


def format_annotation(instances: Iterable[Sequence[int]]) -> str:
    """The annotation of an image with these instances, or `authentic` without any.

    Empty instances are left out, because the metric punishes `[]`.
    """
    lists = [str(list(map(int, runs))) for runs in instances if len(runs)]
    return ";".join(lists) or AUTHENTIC


def parse_runs(text: str, height: int, width: int) -> list[list[int]]:
    """Instances of an annotation as run lengths, none for `authentic`.

    `[]` is kept as an instance without pixels, because the metric counts it.

    Raises:
        UserError: The text is neither `authentic` nor lists joined by `;`, or a list breaks the format's rules.
    """
    if text.strip() == AUTHENTIC:
        return []
    instances = []
    for number, part in enumerate(text.split(";"), 1):
        try:
            runs = json.loads(part)
        except (ValueError, RecursionError):  # ValueError: no JSON, or a number of thousands of digits
            runs = None
        if not isinstance(runs, list):
            shown = part.strip() if len(part) <= 60 else f"{part.strip()[:60]}..."
            raise UserError(
                f"list {number} is {shown!r}, not a list of numbers; an annotation is `{AUTHENTIC}` or lists "
                "joined by `;`, as in [123, 4, 567, 8];[1653, 98]"
            )
        try:
            check_runs(runs, height, width)
        except UserError as error:
            raise UserError(f"list {number}: {error}") from None
        instances.append(runs)
    return instances


def parse_annotation(text: str, height: int, width: int) -> np.ndarray:
    """Masks of an annotation, bool (n, height, width), n = 0 for `authentic`.

    Raises:
        UserError: As `parse_runs`.
    """
    masks = [decode(runs, height, width) for runs in parse_runs(text, height, width)]
    return np.stack(masks) if masks else np.zeros((0, height, width), bool)


def _runs(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts and ends, 0-based and half-open, of the runs of equal pixels down the columns, and their values."""
    height = len(image)
    # Neighbours are compared in row order; only the result, one byte per pixel, is transposed.
    begins = np.empty(image.shape, bool)
    np.not_equal(image[1:], image[:-1], out=begins[1:])
    begins[:1, 1:] = image[:1, 1:] != image[-1:, :-1]
    begins[:1, :1] = True
    starts = np.flatnonzero(_columns(begins).view(bool))
    ends = np.append(starts[1:], image.size)[: starts.size]  # no run in an image without pixels
    return starts, ends, image[starts % height, starts // height]


def _columns(image: np.ndarray) -> np.ndarray:
    """Pixels of an image (H, W) column by column, (H·W,)."""
    if image.ndim != 2:
        raise ValueError(f"run lengths need an array (H, W), not one of shape {image.shape}")
    return _transpose(image.view(np.uint8) if image.dtype == bool else image).ravel()


def _transpose(image: np.ndarray) -> np.ndarray:
    # OpenCV transposes in blocks that fit the cache, numpy does not (benchmarks/rle.py). It refuses empty images.
    return cv2.transpose(image) if image.size else np.ascontiguousarray(image.T)


def _interleave(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """`[start, length, ...]`, 1-based, of runs given as 0-based half-open ranges."""
    return np.stack([starts + 1, ends - starts], axis=1).ravel()
