import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.ensemble import lookalikes
from common.ensemble.lookalikes import join_lookalikes, label_runs, relabel

SIDE = 40
LABELS = hnp.arrays(np.int32, st.tuples(st.integers(0, 7), st.integers(0, 7)), elements=st.integers(0, 3))
PLACES = [(10, 10), (10, 90), (10, 170), (100, 10), (100, 90), (100, 170)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def texture(rng, side=SIDE):
    """Blurred noise around gray 128, of a standard deviation of 40."""
    noise = cv2.GaussianBlur(rng.standard_normal((side, side, 3)), (0, 0), 1.2)
    return np.rint(128 + 40 * noise / noise.std()).clip(0, 255).astype(np.uint8)


def scene(rng, patches, radius=SIDE // 2):
    """A textured image with patches at `PLACES`, and the disks over them as blobs 1 … n."""
    image, labels = texture(rng, 240), np.zeros((240, 240), np.int32)
    for number, (patch, (y, x)) in enumerate(zip(patches, PLACES, strict=False), 1):
        image[y : y + SIDE, x : x + SIDE] = patch
        cv2.circle(labels, (x + SIDE // 2, y + SIDE // 2), radius, number, cv2.FILLED)
    return image, labels


def numbers(image, labels):
    """The new number of each blob."""
    joined = join_lookalikes(image, labels)
    assert joined.dtype == np.int32
    assert ((joined > 0) == (labels > 0)).all()
    return [int(np.unique(joined[labels == number]).item()) for number in range(1, labels.max() + 1)]


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_copy_is_joined_under_the_symmetries_of_the_square(rng, turns, mirrored):
    source = texture(rng)
    copy = np.rot90(source[:, ::-1] if mirrored else source, turns)
    assert numbers(*scene(rng, [source, texture(rng), copy])) == [1, 2, 1]


def test_unrelated_textures_stay_apart(rng):
    assert numbers(*scene(rng, [texture(rng) for _ in PLACES])) == [1, 2, 3, 4, 5, 6]


def test_groups_are_numbered_without_gaps_in_the_order_of_their_first_blob(rng):
    a, b, c = (texture(rng) for _ in range(3))
    assert numbers(*scene(rng, [a, b, b, c, a[::-1], a])) == [1, 2, 2, 3, 1, 1]


def test_matches_are_transitive(rng):
    """The third blob shows the contents of the first two side by side."""
    a, b = texture(rng), texture(rng)
    image, labels = scene(rng, [a, b])
    assert numbers(image, labels) == [1, 2]
    image[150:190, 100:180] = np.hstack([a, b])
    labels[150:190, 100:180] = 3
    assert numbers(image, labels) == [1, 1, 1]


def test_flat_blobs_never_match(rng):
    """Not even copies: their noise is below the least contrast."""
    flat = (128 + rng.integers(-2, 3, (SIDE, SIDE, 1)).repeat(3, axis=2)).astype(np.uint8)
    assert numbers(*scene(rng, [flat, flat])) == [1, 2]
    assert numbers(*scene(rng, [np.full_like(flat, 90), np.full_like(flat, 90)])) == [1, 2]


def test_tiny_blobs_never_match(rng):
    source = texture(rng)
    assert numbers(*scene(rng, [source, source], radius=6)) == [1, 2]


def test_spots_of_one_shape_stay_apart(rng):
    """Bands and cells look alike: what tells a copy is their grain."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    spot = 200 * np.exp(-(y**2 + x**2) / (2 * 8**2))[..., None]
    a, b = ((spot + rng.normal(20, 4, (SIDE, SIDE, 1))).clip(0, 255).repeat(3, axis=2) for _ in range(2))
    assert numbers(*scene(rng, [a, b, a])) == [1, 2, 1]


def test_outlines_may_be_too_wide(rng):
    """Only half of the disks was copied."""
    source = texture(rng)
    assert numbers(*scene(rng, [source, source], radius=32)) == [1, 1]


def test_outlines_may_lie_a_quarter_off(rng):
    source = texture(rng)
    image, labels = scene(rng, [source, source])
    labels[:, 80:] = np.roll(labels[:, 80:], 10, axis=1)
    assert numbers(image, labels) == [1, 1]


def test_a_flat_part_hides_no_match(rng):
    """Windows without variance have no correlation."""
    source = texture(rng)
    image, labels = np.full((240, 240, 3), 128, np.uint8), np.zeros((240, 240), np.int32)
    image[10:50, 10:50] = image[100:140, 10:50] = source
    labels[10:50, 10:50], labels[100:140, 10:125] = 1, 2
    assert numbers(image, labels) == [1, 1]
    labels[labels == 2] = 0
    labels[100:140, 80:130] = 2
    assert numbers(image, labels) == [1, 2]


def test_brightness_and_contrast_need_not_agree(rng):
    source = texture(rng)
    assert numbers(*scene(rng, [source, (0.6 * source + 60).astype(np.uint8)])) == [1, 1]


def test_sizes_must_be_compatible(rng):
    source = texture(rng)
    image, labels = scene(rng, [source, source])
    y, x = PLACES[1]
    labels[y - 8 : y + SIDE + 16, x - 8 : x + SIDE + 16] = 2  # more than three times the disk
    assert numbers(image, labels) == [1, 2]


def test_a_long_thin_blob_is_too_large(rng):
    """Of no more than three times the area, but of four times the side."""
    source = texture(rng)
    image, labels = scene(rng, [source, source])
    labels[13:15, 70:240] = 2
    assert numbers(image, labels) == [1, 2]
    labels[13:15, 140:240] = 0
    assert numbers(image, labels) == [1, 1]


def test_of_two_thin_blobs_neither_holds_the_other(rng):
    """The inner part of the smaller one is longer than the larger one's window, whichever way it is turned."""
    image, labels = texture(rng, 240), np.zeros((240, 240), np.int32)
    labels[20:35, 20:60] = 1
    labels[100:160, 20:29] = 2
    assert numbers(image, labels) == [1, 2]


def test_narrow_images_are_compared(rng):
    """On the working scale they are less than half a pixel high."""
    labels = np.zeros((2, 1200), np.int32)
    labels[:, :500], labels[:, 600:1100] = 1, 2
    assert numbers(np.resize(texture(rng), (2, 1200, 3)), labels) == [1, 2]


def test_a_blob_is_not_its_neighbours_copy(rng):
    """The larger blob lies around the smaller one like an L, so that this one is in its window."""
    labels = np.zeros((240, 240), np.int32)
    labels[80:120, 60:100] = 1
    labels[80:142, 38:58] = labels[122:142, 38:110] = 2
    assert numbers(texture(rng, 240), labels) == [1, 2]


def test_large_blobs_are_compared_on_a_smaller_scale(rng):
    source = cv2.resize(texture(rng, 60), (240, 240), interpolation=cv2.INTER_CUBIC)
    image = cv2.resize(texture(rng, 200), (800, 800), interpolation=cv2.INTER_CUBIC)
    labels = np.zeros((800, 800), np.int32)
    for number, (y, x) in enumerate([(0, 0), (401, 403), (0, 500)], 1):
        if number < 3:
            image[y : y + 240, x : x + 240] = source
        labels[y : y + 240, x : x + 240] = number
    assert numbers(image, labels) == [1, 1, 2]


def test_only_the_largest_are_compared(rng, monkeypatch):
    source = texture(rng)
    image, labels = scene(rng, [source, source, source])
    labels[:, 125:][labels[:, 125:] == 2] = 0  # a few columns of the second
    assert numbers(image, labels) == [1, 1, 1]
    monkeypatch.setattr(lookalikes, "MOST_BLOBS", 2)
    assert numbers(image, labels) == [1, 2, 1]


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_blobs_stay_as_they_are(rng, count):
    image, labels = scene(rng, [texture(rng)] * count)
    assert (join_lookalikes(image, labels) == labels).all()


def plainly(gray, labels, small, large):
    """Best correlation of one blob's inner part in another, every symmetry searched in full."""
    (y, x), (y2, x2) = (np.nonzero(labels == number) for number in (small, large))
    side = max(np.ptp(y), np.ptp(x)) + 1
    margin, scale = int(np.ceil(0.25 * side)), min(1.0, 64 / side)

    def scaled(number, y, x):
        window = np.s_[max(y.min() - margin, 0) : y.max() + 1 + margin, max(x.min() - margin, 0) : x.max() + 1 + margin]
        parts = gray[window], (labels[window] == number).astype(np.uint8)
        size = [max(round(length * scale), 1) for length in parts[0].shape[::-1]]
        return [cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in parts]

    (patch, blob), (field, other) = scaled(small, y, x), scaled(large, y2, x2)
    depth = cv2.distanceTransform(blob, cv2.DIST_L2, 5)
    core = depth > 0.3 * depth.max()
    if core.sum() < 100 or patch[core].std() < 3:
        return -1
    rows, columns = np.nonzero(core.any(axis=1))[0], np.nonzero(core.any(axis=0))[0]
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    field, patch, core = lookalikes._texture(field), lookalikes._texture(patch)[box], core[box].astype(np.float32)
    best = -1.0
    for turns in range(8):
        template, mask = (
            np.ascontiguousarray(np.rot90(part[:, ::-1] if turns > 3 else part, turns)) for part in (patch, core)
        )
        if template.shape[0] > field.shape[0] or template.shape[1] > field.shape[1]:
            continue
        found = cv2.matchTemplate(field, template, cv2.TM_CCOEFF_NORMED, mask=mask)
        half = cv2.matchTemplate(other.astype(np.float32), mask, cv2.TM_CCORR) >= core.sum() / 2
        best = max(best, found[half & (np.abs(found) <= 1.001)].max(initial=-1))
    return best


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_matches_are_those_of_a_plain_search(seed):
    """Ellipses of all sizes over weakly textured ground, some of them noisy copies."""
    rng = np.random.default_rng(seed)
    image, labels = texture(rng, 400), np.zeros((400, 400), np.int32)
    image[:, :200] = (118 + image[:, :200] // 12).astype(np.uint8)
    places, number = [(y, x) for y in range(50, 400, 100) for x in range(50, 400, 100)], 0
    for number, (y, x) in enumerate(places, 1):
        axes = int(rng.integers(12, 45)), int(rng.integers(8, 30))
        cv2.ellipse(labels, (x, y), axes, float(rng.integers(180)), 0, 360, number, cv2.FILLED)
        if number % 3 == 0:
            from_y, from_x = places[int(rng.integers(number - 1))]
            copy = np.rot90(image[from_y - 50 : from_y + 50, from_x - 50 : from_x + 50], int(rng.integers(4)))
            noise = rng.normal(0, rng.uniform(0, 25), copy.shape)
            image[y - 50 : y + 50, x - 50 : x + 50] = (copy + noise).clip(0, 255)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    areas = np.bincount(labels.ravel())[1:]
    sides = np.array([max(np.ptp(part) + 1 for part in np.nonzero(labels == n)) for n in range(1, number + 1)])
    joined = list(range(number))
    for position, small in enumerate(order := np.argsort(-areas, kind="stable")):
        for large in order[:position]:
            alike = areas[large] <= 3 * areas[small] and sides[large] <= 3 * sides[small]
            if alike and plainly(gray, labels, small + 1, large + 1) >= 0.7:
                joined = [joined[large] if group == joined[small] else group for group in joined]
    ours = numbers(image, labels)
    assert [ours.index(group) for group in ours] == [joined.index(group) for group in joined]
    assert max(ours) < number  # some are joined


def test_runs_hand_computed():
    values, lengths = label_runs(np.array([[0, 1, 1], [1, 2, 0]], np.int32))
    assert values.tolist() == [0, 1, 2, 0]
    assert lengths.tolist() == [1, 3, 1, 1]  # the second one goes on in the next row


@given(LABELS)
def test_runs_measure_and_relabel_the_image(labels):
    runs = label_runs(labels)
    assert np.bincount(*runs, minlength=4).tolist() == np.bincount(labels.ravel(), minlength=4).tolist()
    numbers = np.array([0, 7, 0, 5], np.int32)
    relabelled = relabel(runs, numbers, labels.shape)
    assert relabelled.dtype == np.int32
    assert (relabelled == numbers[labels]).all()
