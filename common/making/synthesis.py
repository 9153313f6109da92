"""Synthetic forgeries: copy-move, splice, inpainting and redrawing of images as arrays.

Every forgery takes an `image`, uint8 (H, W, 3) RGB, which is not modified, and a random generator, and returns the
forged image and its mask, uint8 (H, W) of 0 and 1. Outside the mask both images are equal, pixel for pixel: the edge is
feathered inwards. As in the competition, the mask of a copy-move covers the source and the copy, that of a splice the
pasted region, those of an inpainting and a redrawing the region that was filled.

`area_share` is the share of the image that the mask should cover, in (0, 1], by default drawn from the competition's
distribution; a region that finds no place shrinks. `avoid` (H, W) is non-zero where the mask may not lie: the mask of
earlier forgeries. All raise ValueError if the image is smaller than `MIN_SIDE` or `avoid` leaves no room.
"""

import cv2
import numpy as np

from common.forensics.gray import noise_level
from common.forensics.jpeg import jpeg
from common.sizes import LIMITS

# Share of the forgeries in the five sizes (the competition's) and the limits of the sizes: below 0.1 % a region of
# a small figure has too few pixels to show anything, above 35 % hardly any original is left.
SIZE_PROBABILITIES = np.array([0.244, 0.251, 0.157, 0.197, 0.150]) / 0.999
SHARE_EDGES = (0.001, *LIMITS, 0.35)

MIN_SIDE = 24
"""Shortest side of an image, in pixels, that can be forged."""
MIN_REGION = 64
"""Area of the smallest region, in pixels: one block of JPEG's grid."""
_TRIES, _PLACES = 60, 6


def area_share_at(quantile: float) -> float:
    """Area share at a quantile in [0, 1) of the competition's distribution; log-uniform within a size."""
    upper = np.cumsum(SIZE_PROBABILITIES)
    size = min(int(np.searchsorted(upper, quantile, side="right")), len(upper) - 1)
    within = 1 - (upper[size] - quantile) / SIZE_PROBABILITIES[size]
    low, high = SHARE_EDGES[size], SHARE_EDGES[size + 1]
    return float(low * (high / low) ** within)


def draw_area_share(rng: np.random.Generator) -> float:
    """Area share in [0.001, 0.35) with the competition's distribution of sizes."""
    return area_share_at(rng.random())


def copy_move(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    area_share: float | None = None,
    avoid: np.ndarray | None = None,
    plain_probability: float = 0.4,
    scale_range: tuple[float, float] = (0.75, 1.33),
    transform: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Copy an irregular region to another place of the same image; source and copy don't overlap.

    Args:
        image: See above, as `rng`, `area_share` and `avoid`.
        plain_probability: How often the copy is only shifted, in [0, 1]. Other copies are rotated, scaled, retouched,
            and one in five is mirrored.
        scale_range: Smallest and largest scale of the others.
        transform: Rotation, scale and mirroring of the copy, a matrix (2, 2) for x, y, instead of a random one; nothing
            is retouched then.
    """
    taken, target = _start(image, rng, area_share, avoid)
    detail = _detail(image)
    for _ in range(_TRIES):
        if transform is not None:
            plain, matrix = True, transform
        else:
            plain = rng.random() < plain_probability
            matrix = np.eye(2) if plain else _draw_transform(rng, 180, scale_range, 0.2)
        outline = _draw_outline(rng, max(target / (1 + abs(np.linalg.det(matrix))), MIN_REGION))
        target *= 0.95  # for the next try
        source = _place(outline, taken, rng, detail)
        if source is None:
            continue
        mask = np.zeros(taken.shape, np.uint8)
        _fill(mask, source)
        places = [_place(outline @ matrix.T, taken | mask, rng) for _ in range(_PLACES)]
        copies = [place for place in places if place is not None]
        if not copies:
            continue
        # A forger puts a copy where it fits in.
        copy = min(copies, key=lambda place: _misfit(image, source, place))
        window, shape = _crop(copy)
        patch = _warp(image, matrix, copy[0] - matrix @ source[0], window)
        if not plain:
            patch = _retouch(patch, image[window], rng, gray=_is_gray(image), match=rng.uniform(0, 0.3))
        mask[window] |= shape
        return _blend(image, patch, window, shape, rng), mask
    raise ValueError("no room is left for a copy-move")


def splice(
    image: np.ndarray,
    donor: np.ndarray,
    rng: np.random.Generator,
    *,
    area_share: float | None = None,
    avoid: np.ndarray | None = None,
    scale_range: tuple[float, float] = (0.7, 1.4),
) -> tuple[np.ndarray, np.ndarray]:
    """Paste an irregular region of another image, with brightness and contrast matched to its new surroundings.

    Args:
        image: The host; see above, as `rng`, `area_share` and `avoid`.
        donor: uint8 (h, w, 3), sides of 4 or more; scaled up if the region doesn't fit, made gray for a gray host.
        scale_range: Smallest and largest scale of the half of the regions that are transformed.
    """
    taken, target = _start(image, rng, area_share, avoid)
    if min(donor.shape[:2]) < 4:
        raise ValueError(f"a donor of {donor.shape[0]}×{donor.shape[1]} pixels is too small; 4 is the least")
    gray = _is_gray(image)
    if gray and not _is_gray(donor):
        donor = cv2.cvtColor(cv2.cvtColor(donor, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    pasted, outline = _find_place(rng, target, taken)
    matrix = np.eye(2) if rng.random() < 0.5 else _draw_transform(rng, 30, scale_range, 0.5)
    # The region in the donor; an outline larger than the donor needs a larger scale.
    origin = outline @ np.linalg.inv(matrix).T
    excess = max(np.ptp(origin, axis=0) / (np.array(donor.shape[1::-1]) - 2))
    if excess > 1:
        matrix, origin = matrix * excess, origin / excess
    everywhere = np.zeros(donor.shape[:2], np.uint8)
    while (source := _place(origin, everywhere, rng, _detail(donor))) is None:
        # It just fits, but not at whole pixels.
        matrix, origin = matrix * 1.05, origin / 1.05
    window, shape = _crop(pasted)
    patch = _warp(donor, matrix, pasted[0] - matrix @ source[0], window)
    patch = _retouch(patch, image[window], rng, gray=gray, match=rng.uniform(0, 0.7))
    mask = np.zeros(taken.shape, np.uint8)
    mask[window] = shape
    return _blend(image, patch, window, shape, rng), mask


def inpaint(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    area_share: float | None = None,
    avoid: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fill a region from its surroundings, with some of the image's grain (Telea 2004; Bertalmio 2001)."""
    taken, target = _start(image, rng, area_share, avoid)
    region, _ = _find_place(rng, target, taken, _detail(image))
    mask = np.zeros(taken.shape, np.uint8)
    _fill(mask, region)
    x, y, width, height = cv2.boundingRect(mask)
    margin = 16
    window = (slice(max(y - margin, 0), y + height + margin), slice(max(x - margin, 0), x + width + margin))
    method = cv2.INPAINT_TELEA if rng.random() < 0.5 else cv2.INPAINT_NS
    filled = cv2.inpaint(np.ascontiguousarray(image[window]), mask[window], float(rng.uniform(2, 6)), method)
    # Filled regions are smoother than any photograph; a careful forger adds grain.
    grain = rng.uniform(0, 1) * noise_level(cv2.cvtColor(image[window], cv2.COLOR_RGB2GRAY))
    filled = _to_uint8(filled + _noise(rng, filled.shape, grain, gray=_is_gray(image)))
    forged = image.copy()
    forged[window] = np.where(mask[window][..., None] > 0, filled, image[window])
    return forged, mask


def redraw(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    area_share: float | None = None,
    avoid: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Redraw a region as a generator or a restoration would: the same content without its grain.

    It is smoothed with its edges kept, shrunk and enlarged again, denoised, or compressed strongly; half of the regions
    get grain of their own.
    """
    taken, target = _start(image, rng, area_share, avoid)
    region, _ = _find_place(rng, target, taken, _detail(image))
    window, shape = _crop(region)
    rows, columns = (slice(max(part.start - 16, 0), part.stop + 16) for part in window)
    around = np.ascontiguousarray(image[rows, columns])
    way = rng.integers(4)
    if way == 0:
        drawn = cv2.bilateralFilter(around, 7, float(rng.uniform(15, 50)), 5)
    elif way == 1:
        height, width = around.shape[:2]
        small = tuple(max(1, round(rng.uniform(0.25, 0.7) * length)) for length in (width, height))
        shrunk = cv2.resize(around, small, interpolation=cv2.INTER_AREA)
        drawn = cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_CUBIC)
    elif way == 2:
        drawn = cv2.fastNlMeansDenoisingColored(around, None, 6, 6, 3, 11)
    else:
        drawn = jpeg(around, int(rng.integers(15, 50)))
    gray = _is_gray(image)
    if rng.random() < 0.5:
        drawn = _to_uint8(drawn + _noise(rng, drawn.shape, rng.uniform(0.5, 4), gray=gray))
    if gray:  # denoising and compression may tint by rounding
        drawn = np.repeat(drawn[..., 1:2], 3, axis=2)
    mask = np.zeros(taken.shape, np.uint8)
    mask[window] = shape
    forged = image.copy()
    forged[rows, columns] = np.where(mask[rows, columns][..., None] > 0, drawn, around)
    return forged, mask


def is_visible(image: np.ndarray, forged: np.ndarray, mask: np.ndarray) -> bool:
    """Whether a forgery changed its image by more than 1.5 gray levels, on average over the mask.

    Smaller changes (a piece of sky copied into the sky) could not be seen or learned.
    """
    return bool(cv2.absdiff(forged, image)[mask > 0].mean() > 1.5)


def _start(image, rng, area_share, avoid) -> tuple[np.ndarray, float]:
    """Where nothing may lie, uint8 (H, W), and the target area in pixels."""
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"an image of {height}×{width} pixels is too small to forge; {MIN_SIDE} is the least")
    share = draw_area_share(rng) if area_share is None else area_share
    taken = np.zeros((height, width), np.uint8)
    if avoid is not None:
        # Two regions that touch would look like one.
        taken = cv2.dilate((avoid > 0).astype(np.uint8), np.ones((5, 5), np.uint8))
    return taken, max(share * height * width, MIN_REGION)


def _draw_outline(rng: np.random.Generator, area: float) -> np.ndarray:
    """Polygon (P + 1, 2) as x, y around the origin, with the given area; its first row is the origin itself."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    form = rng.random()
    if form < 0.2:  # what a rectangular selection tool makes
        points = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)
    else:
        radius = np.ones_like(angle)
        if form > 0.4:  # a free-hand selection
            for wave in range(2, 7):
                radius += rng.normal(0, 0.28 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
        points = radius.clip(0.4)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    stretch = np.exp(rng.uniform(-0.35, 0.35))
    points = points * (stretch, 1 / stretch)
    if form >= 0.2:
        points = points @ _rotation(rng.uniform(0, 2 * np.pi)).T
    points *= np.sqrt(area / cv2.contourArea(points.astype(np.float32)))
    return np.concatenate([np.zeros((1, 2)), points])


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _draw_transform(rng, max_angle: float, scale_range: tuple[float, float], mirror_probability: float) -> np.ndarray:
    """Rotation, scale and mirroring as a matrix (2, 2) for x, y."""
    # Half of the rotations are small ones: those that a forger makes to fit a piece in.
    angle = np.deg2rad(rng.uniform(-max_angle, max_angle) * (0.1 if rng.random() < 0.5 else 1))
    scale = np.exp(rng.uniform(*np.log(scale_range)))
    mirror = np.diag([-1.0 if rng.random() < mirror_probability else 1.0, 1.0])
    return scale * _rotation(angle) @ mirror


def _place(outline: np.ndarray, taken: np.ndarray, rng, detail: np.ndarray | None = None) -> np.ndarray | None:
    """Shift an outline by whole pixels to a random free place in the image; None where it doesn't fit.

    With `detail` the place is chosen among a few, those with more detail more often: to copy or remove a piece of empty
    background would not be visible.
    """
    height, width = taken.shape
    low, high = np.ceil(-outline.min(axis=0)), np.floor((width - 1, height - 1) - outline.max(axis=0))
    if (low > high).any():
        return None
    places = []
    for _ in range(_PLACES if detail is not None else 1):
        shifted = outline + rng.integers(low, high, endpoint=True)
        window, shape = _crop(shifted)
        if not (taken[window] & shape).any():
            places.append((shifted, window))
    if not places:
        return None
    if detail is None:
        return places[0][0]
    weights = np.array([_mean_detail(detail, window) for _, window in places]) ** 2
    return places[rng.choice(len(places), p=weights / weights.sum())][0]


def _misfit(image: np.ndarray, source: np.ndarray, copy: np.ndarray) -> float:
    """Mean difference of the image along two placed outlines, in gray levels."""
    rims = [np.rint(outline[1:]).astype(int) for outline in (source, copy)]
    there, here = [image[rim[:, 1], rim[:, 0]].astype(int) for rim in rims]
    return float(np.abs(there - here).mean())


def _find_place(rng, target: float, taken: np.ndarray, detail: np.ndarray | None = None):
    """A placed outline of about the target area, smaller where there is no room, and the outline itself."""
    for _ in range(_TRIES):
        outline = _draw_outline(rng, max(target, MIN_REGION))
        for _ in range(_PLACES):
            placed = _place(outline, taken, rng, detail)
            if placed is not None:
                return placed, outline
        target *= 0.95
    raise ValueError("no room is left for a forged region")


def _fill(mask: np.ndarray, outline: np.ndarray) -> None:
    cv2.fillPoly(mask, [np.rint(outline[1:] * 16).astype(np.int32)], 1, shift=4)


def _crop(outline: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray]:
    """The bounding window of a placed outline, and its pixels there as a mask, uint8 (h, w)."""
    x0, y0 = np.floor(outline[1:].min(axis=0)).astype(int)
    x1, y1 = np.ceil(outline[1:].max(axis=0)).astype(int) + 1
    shape = np.zeros((y1 - y0, x1 - x0), np.uint8)
    _fill(shape, outline - (x0, y0))
    return (slice(y0, y1), slice(x0, x1)), shape


def _warp(image: np.ndarray, matrix: np.ndarray, offset: np.ndarray, window) -> np.ndarray:
    """The pixels that `x ↦ matrix x + offset` moves into a window, uint8 (h, w, 3)."""
    rows, columns = window
    forward = np.column_stack([matrix, offset - (columns.start, rows.start)])
    size = (columns.stop - columns.start, rows.stop - rows.start)
    return cv2.warpAffine(image, forward, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _retouch(patch: np.ndarray, surroundings: np.ndarray, rng, *, gray: bool, match: float) -> np.ndarray:
    """Match brightness and contrast to the surroundings (by `match`, 0 to 1), soften, add grain."""
    patch = patch.astype(np.float32)
    (mean, spread), (mean_there, spread_there) = [(a.mean(axis=(0, 1)), a.std() + 1) for a in (patch, surroundings)]
    gain = np.clip(spread_there / spread, 0.7, 1.4) ** match * rng.uniform(0.95, 1.05)
    patch = (patch - mean) * gain + mean + match * (mean_there - mean) + rng.uniform(-4, 4)
    if rng.random() < 0.3:
        patch = cv2.GaussianBlur(patch, (0, 0), rng.uniform(0.3, 0.8))
    if rng.random() < 0.4:
        patch = patch + _noise(rng, patch.shape, rng.uniform(0.5, 2.5), gray=gray)
    return _to_uint8(patch)


def _blend(image: np.ndarray, patch: np.ndarray, window, shape: np.ndarray, rng) -> np.ndarray:
    """Paste a patch into a window of the image where `shape` is 1, with an edge that fades inwards."""
    feather = min(rng.uniform(0, 2), np.sqrt(shape.sum()) / 8)
    alpha = shape.astype(np.float32)
    if feather > 0.4:
        alpha = cv2.GaussianBlur(alpha, (0, 0), feather, borderType=cv2.BORDER_CONSTANT)
        alpha = (2 * alpha - 1).clip(0, 1) * shape
    forged = image.copy()
    below = image[window].astype(np.float32)
    forged[window] = _to_uint8(below + alpha[..., None] * (patch - below))
    return forged


def _detail(image: np.ndarray) -> np.ndarray:
    """Integral image of the gradient's magnitude at a quarter of the size, float64 (h + 1, w + 1)."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(width // 4, 1), max(height // 4, 1)), interpolation=cv2.INTER_AREA)
    small = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    strength = cv2.magnitude(cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1))
    return cv2.integral(strength)


def _mean_detail(detail: np.ndarray, window) -> float:
    """Mean magnitude of the gradient in a window of the full-size image, never 0."""
    (y0, y1), (x0, x1) = [(s.start // 4, s.stop // 4 + 1) for s in window]
    y1, x1 = min(y1, detail.shape[0] - 1), min(x1, detail.shape[1] - 1)
    total = detail[y1, x1] - detail[y0, x1] - detail[y1, x0] + detail[y0, x0]
    return max(float(total), 0.0) / max((y1 - y0) * (x1 - x0), 1) + 1e-3


def _is_gray(image: np.ndarray) -> bool:
    """Whether the three channels are equal, judged by every fourth pixel of every fourth row."""
    sparse = image[::4, ::4]
    return bool((sparse == sparse[..., :1]).all())


def _noise(rng, shape: tuple[int, int, int], sigma: float, *, gray: bool) -> np.ndarray:
    """Normal noise, float32 (h, w, 3), the same in all channels of a gray image."""
    height, width, channels = shape
    noise = rng.standard_normal((height, width, 1 if gray else channels), np.float32)
    return np.broadcast_to(noise, shape) * np.float32(sigma)


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    return np.rint(pixels).clip(0, 255).astype(np.uint8)
