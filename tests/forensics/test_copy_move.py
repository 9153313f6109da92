from io import BytesIO

import cv2
import numpy as np
import pytest
import skimage.data

from common.forensics.alignment import Aligned
from common.forensics.copy_move import Copy, _at_size, find_copies
from common.forensics.jpeg import jpeg
from common.forensics.matches import Matches
from common.making.drawing import draw_blot, draw_cells
from common.making.synthesis import copy_move


def photograph(side=400):
    gray = skimage.data.camera()[:side, :side]
    return np.ascontiguousarray(np.stack([gray] * 3, axis=-1))


def turn(degrees, scale=1.0, mirror=False):
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if mirror else 1.0, 1.0])


def f1(mask, truth):
    return 2 * (mask & (truth > 0)).sum() / (mask.sum() + (truth > 0).sum())


def sure(image):
    return [group for group in find_copies(image) if group.score >= 0.5]


@pytest.mark.parametrize(
    ("degrees", "scale", "mirror"),
    [
        (0, 1, False),
        (30, 1, False),
        (-90, 1, True),
        pytest.param(0, 1.25, False, marks=pytest.mark.slow),
        pytest.param(0, 0.8, True, marks=pytest.mark.slow),
    ],
)
def test_a_copy_its_region_and_its_transform(degrees, scale, mirror):
    forged, truth = copy_move(
        photograph(), np.random.default_rng(4), area_share=0.1, transform=turn(degrees, scale, mirror)
    )
    (group,) = sure(forged)
    assert f1(group.mask, truth) > 0.8
    (copy,) = group.copies
    assert copy.mirrored == mirror
    # Either region may be called the source: then all is the other way round.
    there = turn(degrees, scale, mirror)
    assert min(np.abs(copy.matrix[:, :2] - linear).max() for linear in (there, np.linalg.inv(there))) < 0.03
    assert not (copy.source & copy.target).any()
    there = copy.points[:, 0] @ copy.matrix[:, :2].T + copy.matrix[:, 2]
    assert np.abs(there - copy.points[:, 1]).max() < 6  # a block knows its place to some pixels


def test_rotation_scale_and_mirroring_are_read_from_the_matrix():
    copy = Copy(
        source=np.zeros((1, 1), bool),
        target=np.zeros((1, 1), bool),
        matrix=np.column_stack([turn(30, 2, mirror=True), (5, 6)]),
        points=np.zeros((0, 2, 2), np.float32),
        correlation=1.0,
        score=1.0,
    )
    assert (copy.rotation, copy.scale, copy.mirrored) == (pytest.approx(30), pytest.approx(2), True)


def test_several_copies_of_one_thing_are_one_group():
    image = photograph()
    patch = image[170:240, 190:250].copy()  # a part of the camera man
    for y, x in ((20, 20), (300, 20), (20, 320)):
        image[y : y + 70, x : x + 60] = patch
    truth = np.zeros(image.shape[:2], bool)
    for y, x in ((170, 190), (20, 20), (300, 20), (20, 320)):
        truth[y : y + 70, x : x + 60] = True
    (group,) = sure(image)
    assert len(group.copies) >= 3
    assert f1(group.mask, truth) > 0.75


def test_two_different_copies_are_two_groups():
    image = photograph()
    forged, one = copy_move(image, np.random.default_rng(0), area_share=0.08, plain_probability=1)
    forged, two = copy_move(forged, np.random.default_rng(1), area_share=0.08, plain_probability=1, avoid=one)
    groups = sure(forged)
    assert len(groups) == 2
    assert sorted(max(f1(group.mask, truth) for group in groups) > 0.75 for truth in (one, two)) == [True, True]


def test_a_copy_across_panels():
    rng = np.random.default_rng(3)
    figure = np.full((300, 640, 3), 255, np.uint8)
    figure[10:290, 10:310], figure[10:290, 330:630] = draw_cells(280, 300, rng), draw_cells(280, 300, rng)
    figure[150:220, 400:490] = figure[60:130, 40:130]
    truth = np.zeros((300, 640), bool)
    truth[150:220, 400:490] = truth[60:130, 40:130] = True
    groups = sure(figure)
    assert groups and f1(groups[0].mask, truth) > 0.7


def test_a_copied_band_of_a_blot():
    blot = draw_blot(300, 400, np.random.default_rng(8))
    forged, truth = copy_move(blot, np.random.default_rng(2), area_share=0.06, plain_probability=1)
    groups = sure(forged)
    assert groups and f1(groups[0].mask, truth) > 0.6  # bands beside the copy go on like those beside its source


def test_a_copy_survives_compression():
    forged, truth = copy_move(photograph(), np.random.default_rng(4), area_share=0.1, plain_probability=1)
    (group,) = sure(jpeg(forged, 75))
    assert f1(group.mask, truth) > 0.75


def grid(side=400, step=25):
    image = np.full((side, side, 3), 255, np.uint8)
    image[::step] = image[:, ::step] = 60
    return image


def checkerboard(side=384, step=24):
    tile = np.kron((np.indices((side // step,) * 2).sum(axis=0) % 2).astype(np.uint8), np.ones((step, step), np.uint8))
    return np.stack([40 + 170 * tile] * 3, axis=-1)


def labelled(side=420):
    """Three panels of different cells under the same words, as figures have them."""
    rng = np.random.default_rng(0)
    image = np.full((side, 3 * side // 2, 3), 255, np.uint8)
    for panel in range(3):
        x = 10 + panel * 205
        image[60:260, x : x + 190] = draw_cells(200, 190, rng)
        for word, y in (("control", 40), ("20 um", 285), ("n = 12, P < 0.05", 320)):
            cv2.putText(image, word, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return image


def page():
    image = np.full((400, 500, 3), 255, np.uint8)
    for row in range(14):
        cv2.putText(
            image, "the same words and the same", (10, 25 + 27 * row), cv2.FONT_HERSHEY_COMPLEX, 0.7, (0, 0, 0), 1, 16
        )
    return image


def plot():
    from matplotlib.figure import Figure

    figure = Figure((6, 5), dpi=90)
    rng = np.random.default_rng(0)
    for axes in figure.subplots(2, 2).ravel():
        axes.bar(["ctrl", "A", "B", "A+B"], rng.random(4), yerr=0.05)
        axes.set_ylabel("intensity (a.u.)")
        axes.set_ylim(0, 1.2)
        axes.grid(visible=True)
    figure.savefig(buffer := BytesIO(), format="png")
    return cv2.imdecode(np.frombuffer(buffer.getvalue(), np.uint8), cv2.IMREAD_COLOR)


def saturated():
    image = photograph()
    image[50:120, 50:150] = image[250:320, 200:300] = 255
    return image


@pytest.mark.parametrize("picture", [grid, checkerboard, labelled, page, plot, saturated, photograph])
@pytest.mark.parametrize("quality", [None, pytest.param(85, marks=pytest.mark.slow)])
def test_what_repeats_by_nature_is_no_copy(picture, quality):
    image = picture() if quality is None else jpeg(picture(), quality)
    assert not sure(image)


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (30, 500), (64, 64)])
def test_images_without_room_for_a_copy(shape):
    assert find_copies(np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)) == []


def test_an_empty_image():
    assert find_copies(np.full((300, 300, 3), 240, np.uint8)) == []


def test_a_large_image_is_answered_in_its_own_pixels():
    image = cv2.resize(photograph(512), (1800, 1500), interpolation=cv2.INTER_CUBIC)
    image = np.clip(image + np.random.default_rng(0).normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    forged, truth = copy_move(image, np.random.default_rng(4), area_share=0.08, plain_probability=1)
    group = sure(forged)[0]
    assert group.mask.shape == (1500, 1800)
    assert f1(group.mask, truth) > 0.8
    copy = group.copies[0]
    ys, xs = np.nonzero(copy.source)
    centre = np.array([xs.mean(), ys.mean()])
    there = copy.matrix @ (*centre, 1)
    target = np.array([axis.mean() for axis in np.nonzero(copy.target)[::-1]])
    assert np.abs(there - target).max() < 4


def test_pixels_of_the_working_scale_in_those_of_the_image():
    """On half the scale x ↦ x + 10: the centre of its pixel 0 lies at 0.5, that of pixel 10 at 20.5."""
    source = np.zeros((40, 60), bool)
    source[10:20, 10:20] = True
    points = np.array([[[12.0, 15], [22, 15]]], np.float32)
    small = Aligned(np.array([[1.0, 0, 10], [0, 1, 0]]), points, source, np.roll(source, 10, axis=1), 0.9)
    full = np.zeros((80, 120), np.float32)  # nothing correlates: the mask is enlarged
    copy = _at_size(small, 0.5, np.zeros((40, 60), np.float32), full, None)
    np.testing.assert_allclose(copy.matrix, [[1, 0, 20], [0, 1, 0]])
    np.testing.assert_allclose(copy.points, [[[24.5, 30.5], [44.5, 30.5]]])
    turned = Aligned(np.array([[-1.0, 0, 50], [0, -1, 30]]), points, source, source, 0.9)
    copy = _at_size(turned, 0.5, np.zeros((40, 60), np.float32), full, None)
    np.testing.assert_allclose(copy.matrix @ (0.5, 0.5, 1), (100.5, 60.5))  # small (0, 0) ↦ (50, 30)


def test_matchers_without_a_match():
    def degenerate(gray):
        points = np.array([[10, 10], [20, 10], [30, 10]], np.float32)
        return Matches(points, points[::-1].copy(), np.zeros((3, 2, 2), np.float32))

    for matcher in (lambda gray: Matches.none(), degenerate):
        assert find_copies(photograph(100), [matcher]) == []


def test_the_same_answer_twice():
    forged, _ = copy_move(photograph(240), np.random.default_rng(4), area_share=0.1, plain_probability=1)
    one, two = find_copies(forged), find_copies(forged)
    assert one and [group.score for group in one] == [group.score for group in two]
    assert all((a.mask == b.mask).all() for a, b in zip(one, two, strict=True))
