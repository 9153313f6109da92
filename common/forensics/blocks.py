"""Dense matching of an image with itself by PatchMatch: for smooth regions, which have no key points.

After Cozzolino, Poggi and Verdoliva, "Efficient dense-field copy-move forgery detection" (2015): for each place of
a grid the most similar place is searched, by PatchMatch over features that are invariant to rotation and mirroring;
neighbours that agree on an affine map are a possible copy.
"""

from math import factorial

import cv2
import numpy as np

from common.forensics.gray import noise_level
from common.forensics.matches import Matches

MOST_MATCHES = 4000
_PIXELS = 250_000  # of the working scale; twice as many take 2.5 times as long
_RADIUS = 12  # of the compared disks. This and what follows is in pixels of the working scale
_STRIDE = 3  # of the grid of places
_APART = 24  # least displacement: nearby places are always alike, and disks must not overlap
_SEED_STEP, _BANK_STEP = 12, 3  # grids of the exhaustive search; the first is a multiple of `_STRIDE`
_REACHES = (1, 2, 4, 1)  # rounds of PatchMatch: from how many places away neighbours' targets spread
_NEIGHBOURS = 3  # places to each side that must agree about a map
_SUPPORT = 0.4  # share of those that must: at the rim of a copy, half of them lie outside
_INLIER = 2.0
_RESIDUAL = 1.0  # root mean square per coordinate
_DISTANCE = 0.3  # of features of length 1
_MIN_NOISE = 0.3  # grey levels: that of rounding
_MIN_GRADIENT, _MIN_GRADIENT_TO_NOISE = 0.1, 0.1  # in grey levels a pixel, and as a share of the noise
_MIN_ISOTROPY = 0.7  # ratio of singular values: copies are scaled alike both ways, chance is not
_ORDERS = tuple((n, m) for n in range(1, 6) for m in range(n % 2, n + 1, 2))


def match_blocks(gray: np.ndarray) -> Matches:
    """Match the places of a dense grid with each other.

    Works on a scale of at most a quarter of a megapixel. Copies are found under any rotation and mirroring, but with
    little scaling; they must hold a few disks of `_RADIUS` pixels. Bands and spots of one shape match too.

    Args:
        gray: uint8 (H, W).

    Returns:
        At most `MOST_MATCHES` matches, spread over the places found; the same for the same image.
    """
    height, width = gray.shape
    shrink = min(1.0, (_PIXELS / gray.size) ** 0.5)
    size = max(round(width * shrink), 1), max(round(height * shrink), 1)
    if min(size) <= 2 * _RADIUS + _STRIDE:
        return Matches.none()
    small = cv2.resize(gray, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    noise = max(noise_level(small), _MIN_NOISE)
    features = zernike_magnitudes(small, _RADIUS)
    # Normalised, since retouching changes the contrast; but what is weaker than the noise stays short.
    energy = np.einsum("yxk,yxk->yx", features, features) + features.shape[2] * noise**2
    features /= np.sqrt(energy)[..., None]
    textured = _least_gradient(small) > max(_MIN_GRADIENT, _MIN_GRADIENT_TO_NOISE * noise)
    field = _Field(features, textured)
    if not len(field.own):
        return Matches.none()
    field.seed()
    rng = np.random.default_rng(0)
    for reach in _REACHES:
        field.propagate(reach)
        field.turn(rng)
        field.wander(rng)
    source, target, linear = field.agreeing()
    scale = np.array([width, height]) / size
    source, target = ((points + 0.5) * scale - 0.5 for points in (source, target))
    linear = linear * scale[:, None] / scale
    kept = np.linspace(0, len(source) - 1, min(len(source), MOST_MATCHES)).astype(int)
    return Matches(*(a[kept].astype(np.float32) for a in (source, target, linear)))


def zernike_magnitudes(gray: np.ndarray, radius: int) -> np.ndarray:
    """Magnitudes of the Zernike moments of the disk around each pixel, invariant to rotation and mirroring.

    Orders n = 1 … 5 with repetitions 0 ≤ m ≤ n (Ryu et al., "Rotation invariant localization of duplicated image
    regions based on Zernike moments", 2013); without the mean, (0, 0), which retouching changes. Kernels have the
    length 1, so that white noise has the same deviation in all moments.

    Args:
        gray: float32 (H, W).
        radius: Of the disk, in pixels.

    Returns:
        float32 (H, W, 11), in the units of `gray`. Across the border the image is mirrored.
    """
    fine, side = 8, 2 * radius + 1  # each pixel of a kernel is the mean of 8 × 8 values
    axis = (np.arange(side * fine) + 0.5) / fine - side / 2
    z = (axis + 1j * axis[:, None]) / (radius + 0.5)
    rho, angle = np.abs(z), np.angle(z)
    magnitudes = np.empty((*gray.shape, len(_ORDERS)), np.float32)
    for index, (n, m) in enumerate(_ORDERS):
        radial = np.zeros_like(rho)
        for k in range((n - m) // 2 + 1):
            divisor = factorial(k) * factorial((n + m) // 2 - k) * factorial((n - m) // 2 - k)
            radial += (-1) ** k * factorial(n - k) / divisor * rho ** (n - 2 * k)
        kernel = np.where(rho <= 1, radial * np.exp(-1j * m * angle), 0)
        kernel = kernel.reshape(side, fine, side, fine).mean(axis=(1, 3))
        kernel -= kernel.mean()  # not 0 by itself after sampling
        kernel /= np.linalg.norm(kernel)
        real = cv2.filter2D(gray, cv2.CV_32F, kernel.real)
        if m == 0:
            magnitudes[..., index] = np.abs(real)
        else:
            magnitudes[..., index] = cv2.magnitude(real, cv2.filter2D(gray, cv2.CV_32F, kernel.imag))
    return magnitudes


class _Field:
    """The nearest-neighbour field of a grid (PatchMatch; Barnes et al. 2009). Points are x, y."""

    def __init__(self, features: np.ndarray, textured: np.ndarray) -> None:
        """Start from features (H, W, K) and a mask, bool (H, W), of the places that are matched."""
        self.height, self.width = textured.shape
        self.features = features.reshape(-1, features.shape[2])
        self.textured = textured
        self.places = self._grid(_STRIDE)  # (h, w, 2)
        self.h, self.w = self.places.shape[:2]
        self.rows, self.columns = np.nonzero(self._at(textured.ravel(), self.places))
        self.own = self.places[self.rows, self.columns]  # (n, 2), those that are matched
        self.wanted = self._at(self.features, self.own)
        self.distance = np.full(len(self.own), np.inf, np.float32)
        self.targets = self.places.copy()

    def _grid(self, step: int) -> np.ndarray:
        sides = (self.height, self.width)
        rows, columns = (np.arange(_RADIUS, side - _RADIUS, step).astype(np.int32) for side in sides)
        return np.stack(np.meshgrid(columns, rows), axis=-1)

    def _at(self, values: np.ndarray, points: np.ndarray) -> np.ndarray:
        return np.take(values, points[..., 1] * self.width + points[..., 0], axis=0)

    def offer(self, candidates: np.ndarray, takers: np.ndarray | None = None) -> None:
        """Replace the targets of places (indices of `own`, all by default) by more similar candidates."""
        takers = np.arange(len(self.own)) if takers is None else takers
        x, y = candidates.T
        dx, dy = (candidates - self.own[takers]).T
        valid = (x >= _RADIUS) & (x < self.width - _RADIUS) & (y >= _RADIUS) & (y < self.height - _RADIUS)
        valid &= dx * dx + dy * dy >= _APART**2
        candidates, takers = candidates[valid], takers[valid]
        difference = self._at(self.features, candidates) - self.wanted[takers]
        distance = np.einsum("nk,nk->n", difference, difference)
        better = distance < self.distance[takers]
        takers = takers[better]
        self.distance[takers] = distance[better]
        self.targets[self.rows[takers], self.columns[takers]] = candidates[better]

    def seed(self) -> None:
        """Compare a sparse subset of the places with all others: random search rarely hits small copies."""
        every = _SEED_STEP // _STRIDE
        seeds = np.flatnonzero((self.rows % every == 0) & (self.columns % every == 0))
        grid = self._grid(_BANK_STEP)
        h, w = grid.shape[:2]
        grid = grid.reshape(-1, 2)
        bank = self._at(self.features, grid)
        penalty = np.where(self._at(self.textured.ravel(), grid), (bank * bank).sum(axis=1) / 2, np.inf)
        near = np.arange(-(-_APART // _BANK_STEP) * 2 + 1) + _APART // -_BANK_STEP
        for start in range(0, len(seeds), 64):  # 64 rows of distances stay in the cache
            part = seeds[start : start + 64]
            distance = penalty - self.wanted[part] @ bank.T
            column, row = ((self.own[part] - _RADIUS) // _BANK_STEP).T
            columns, rows = (column[:, None] + near).clip(0, w - 1), (row[:, None] + near).clip(0, h - 1)
            taken = (rows[:, :, None] * w + columns[:, None, :]).reshape(len(part), -1)
            np.put_along_axis(distance, taken, np.inf, axis=1)
            self.offer(grid[distance.argmin(axis=1)], part)

    def propagate(self, far: int) -> None:
        """Try the targets that follow from neighbours, adjacent ones and `far` places away."""
        for reach in (1, far):
            for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
                one, two = (
                    ((self.rows + k * dy).clip(0, self.h - 1), (self.columns + k * dx).clip(0, self.w - 1))
                    for k in (reach, 2 * reach)
                )
                there = self.targets[one]
                self.offer(there + self.own - self.places[one])
                self.offer(2 * there - self.targets[two])  # first order: follows rotation and scale

    def turn(self, rng: np.random.Generator) -> None:
        """Try places beside the neighbours' targets in random directions, as rotated copies need."""
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            there = self.targets[(self.rows + dy).clip(0, self.h - 1), (self.columns + dx).clip(0, self.w - 1)]
            angle = rng.uniform(0, 2 * np.pi, len(self.own))
            step = _STRIDE * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            self.offer(there + np.rint(step).astype(np.int32))

    def wander(self, rng: np.random.Generator) -> None:
        """Try random places around the targets."""
        for radius in (4, 2, 1):
            step = rng.integers(-radius, radius + 1, self.own.shape, np.int32)
            self.offer(self.targets[self.rows, self.columns] + step)

    def agreeing(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places whose neighbours agree on an affine map: source (n, 2), target (n, 2), linear (n, 2, 2)."""
        reach = np.arange(-_NEIGHBOURS, _NEIGHBOURS + 1)
        dx, dy = (a.ravel() for a in np.meshgrid(reach, reach))
        found = np.flatnonzero(self.distance < _DISTANCE**2)
        offset = np.stack([dx, dy, np.zeros_like(dx)], axis=1).astype(np.float32) * _STRIDE
        offset[:, 2] = 1
        length = np.hypot(offset[:, 0], offset[:, 1])
        far = 1e6  # beyond the grid: agrees with no map
        padded = np.pad(self.targets.astype(np.float32), [(_NEIGHBOURS,) * 2] * 2 + [(0, 0)], constant_values=far)
        around = padded[
            self.rows[found, None] + dy + _NEIGHBOURS, self.columns[found, None] + dx + _NEIGHBOURS
        ]  # (n, 49, 2)
        target = self.targets[self.rows[found], self.columns[found]]
        moved = around - target[:, None]
        # A first test without a map: distances between neighbours hardly change under a plausible one.
        ratio = np.hypot(moved[..., 0], moved[..., 1])
        weight = (ratio > 0.6 * length - 1.5) & (ratio < 1.6 * length + 1.5)
        enough = weight.mean(axis=1) >= _SUPPORT
        found, target, weight = found[enough], target[enough], weight[enough].astype(np.float32)
        moved = moved[enough].clip(-far, far)
        moved[np.abs(moved).max(axis=2) > far / 2] = 0
        products = (offset[:, :, None] * offset[:, None, :]).reshape(len(offset), 9)
        for last in (False, False, True):
            normal = (weight @ products).reshape(-1, 3, 3).astype(float) + 1e-3 * np.eye(3)
            affine = np.linalg.solve(normal, offset.T @ (weight[..., None] * moved))  # (n, 3, 2)
            error = (offset.astype(float) @ affine - moved) ** 2
            error = error.sum(axis=2)
            if not last:
                weight = (error < _INLIER**2).astype(np.float32)
        linear, shift = affine[:, :2].transpose(0, 2, 1), affine[:, 2]
        residual = (weight * error).sum(axis=1) / np.maximum(weight.sum(axis=1), 1) / 2
        good = (weight.mean(axis=1) >= _SUPPORT) & (residual < _RESIDUAL**2)
        good &= error[:, len(offset) // 2] < _INLIER**2
        good &= _is_plausible(linear)
        found, target, linear, shift = found[good], target[good], linear[good], shift[good]
        target = target + shift
        # A pair that was found from both sides is returned once, from the earlier place.
        number = np.full((self.h, self.w), -1)
        number[self.rows[found], self.columns[found]] = np.arange(len(found))
        column, row = np.rint((target - _RADIUS) / _STRIDE).astype(int).T
        back = number[row.clip(0, self.h - 1), column.clip(0, self.w - 1)]
        returned = np.linalg.norm(target[back] - self.own[found], axis=1) < 2 * _STRIDE
        once = ~((back >= 0) & (back < np.arange(len(found))) & returned)
        return self.own[found][once], target[once], linear[once]


def _is_plausible(linear: np.ndarray) -> np.ndarray:
    """Which matrices (n, 2, 2) have the scale and stretch of a copy, bool (n,)."""
    values = np.linalg.svd(linear, compute_uv=False)
    area = values.prod(axis=1)
    return (area > 0.3) & (area < 3) & (values[:, 1] > _MIN_ISOTROPY * values[:, 0])


def _least_gradient(gray: np.ndarray) -> np.ndarray:
    """Mean square root gradient in the direction where it is weakest, over the disk's square, float32 (H, W).

    0 in flat regions, on ramps and along straight edges, where places are ambiguous (Shi and Tomasi 1994).
    """
    smooth = cv2.GaussianBlur(gray, (0, 0), 1.5)
    dx, dy = (cv2.Sobel(smooth, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    xx, xy, yy = (cv2.blur(product, (2 * _RADIUS + 1,) * 2) for product in (dx * dx, dx * dy, dy * dy))
    return np.sqrt(np.maximum((xx + yy) / 2 - np.hypot((xx - yy) / 2, xy), 0))
