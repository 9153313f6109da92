"""Pictures of a figure are matched with themselves and with each other."""

import cv2
import numpy as np
import pytest

from common.figures import matching
from common.figures.matching import panel_matcher, picture_gray, picture_search, search_pictures, working_scale
from common.figures.panels import Panel
from common.forensics.alignment import move
from common.forensics.copy_move import search
from common.forensics.keypoints import find_keypoints, match_between


def field(seed: int, height: int = 200, width: int = 240, level: float = 1) -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 1, (height, width)), (0, 0), 2)
    return (120 * level + 60 * level * noise / noise.std() / 2).clip(0, 255).astype(np.uint8)


def figure(*pictures: np.ndarray) -> tuple[np.ndarray, list[Panel]]:
    page, panels, x = np.full((260, 1200, 3), 255, np.uint8), [], 10
    for picture in pictures:
        high, wide = picture.shape
        page[20 : 20 + high, x : x + wide] = picture[..., None]
        panels.append(Panel(x, 20, wide, high, "micrograph"))
        x += wide + 20
    return page, panels


@pytest.mark.parametrize("flip", [False, True])
def test_points_of_two_pictures_meet(flip):
    picture = field(0)
    other = picture[:, ::-1] if flip else picture
    matches = match_between(find_keypoints(picture), find_keypoints(np.ascontiguousarray(other)))
    expected = matches.source * (-1, 1) + (239, 0) if flip else matches.source
    near = np.linalg.norm(matches.target - expected, axis=1) < 2
    assert near.sum() > 100 and near.mean() > 0.9
    assert (np.linalg.det(matches.linear[near]) < 0).mean() == pytest.approx(float(flip), abs=0.1)


def test_nothing_matches_without_points():
    points = find_keypoints(np.full((100, 100), 9, np.uint8))
    assert len(match_between(points, find_keypoints(field(0)))) == 0


def test_a_dim_picture_is_matched_at_its_own_contrast():
    """Beside bright ones and white ground, where a common threshold would leave it without key points."""
    dim = field(0, level=0.1)
    page, panels = figure(dim, field(1), dim)
    gray, _ = picture_gray(page, panels)
    matches = panel_matcher(panels, 1.0)(gray)
    shift = matches.target - matches.source
    assert (np.abs(np.abs(shift) - (panels[2].x - panels[0].x, 0)).max(axis=1) < 2).sum() > 50


def test_gray_keeps_to_the_pictures_and_leaves_print_out():
    page, panels = figure(field(0))
    cv2.putText(page, "A", (16, 45), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
    gray, valid = picture_gray(page, panels)
    assert not gray[:, :10].any() and not valid[:20].any()
    assert valid[panels[0].window].mean() > 0.85
    assert not valid[30:44, 18:30].all()


def test_many_pictures_are_matched_at_once(monkeypatch):
    page, panels = figure(field(0), field(1), field(0))
    gray, _ = picture_gray(page, panels)
    monkeypatch.setattr(matching, "MOST_PICTURES", 2)
    matches = panel_matcher(panels, 1.0)(gray)
    shift = np.abs(matches.target - matches.source)
    assert (np.abs(shift - (panels[2].x - panels[0].x, 0)).max(axis=1) < 2).sum() > 50


def test_the_working_scale_bounds_pictures_and_figure():
    one = [Panel(0, 0, 4000, 3000, "micrograph")]
    assert working_scale((3000, 4000), one) == pytest.approx((1.2e6 / 12e6) ** 0.5)
    small = [Panel(0, 0, 300, 300, "micrograph"), Panel(400, 0, 300, 300, "micrograph")]
    assert working_scale((1000, 1000), small) == 1
    assert working_scale((3000, 4000), small) == pytest.approx((4e6 / 12e6) ** 0.5)


def test_ground_in_a_panel_s_rim_does_not_hide_a_dim_picture():
    dim = field(0, level=0.03)
    page, panels = figure(dim, field(1), dim)
    loose = [Panel(panel.x - 2, panel.y - 2, panel.width + 4, panel.height + 4, "micrograph") for panel in panels]
    matches = panel_matcher(loose, 1.0)(page[..., 0])
    shift = matches.target - matches.source
    assert (np.abs(np.abs(shift) - (panels[2].x - panels[0].x, 0)).max(axis=1) < 2).sum() > 50


def test_a_tiny_picture_keeps_its_rim():
    assert matching._without_rim((slice(5, 25), slice(0, 100))) == (slice(5, 25), slice(3, 97))


def test_a_small_copy_in_one_picture_of_a_large_figure(monkeypatch):
    """At the figure's working scale, 0.53, it has 13 pixels; the picture is searched at its own size too."""
    monkeypatch.setattr(matching, "_PICTURES_PIXELS", 40_000)
    pictures = [field(number) for number in range(3)]
    pictures[1][140:164, 150:174] = pictures[1][20:44, 30:54]
    page, panels = figure(*pictures)
    compared = picture_search(page, panels)
    assert compared.scale < 0.6 and [scale for _, scale in compared.closer] == [1.0] * 3
    together = search(compared.gray, (compared.matcher,), compared.scale, compared.valid)
    assert max((group.score for group in together), default=0.0) < 0.5
    best = search_pictures(compared)[0]
    assert best.score >= 0.5
    truth = np.zeros(page.shape[:2], bool)
    x, y = panels[1].x, panels[1].y
    truth[y + 20 : y + 44, x + 30 : x + 54] = truth[y + 140 : y + 164, x + 150 : x + 174] = True
    assert (best.mask & truth).sum() > 0.8 * (best.mask | truth).sum()
    points = best.copies[0].points
    np.testing.assert_allclose(np.abs(points[:, 1] - points[:, 0]), 120, atol=2)
    np.testing.assert_allclose(move(points[:, 0], best.copies[0].matrix), points[:, 1], atol=2)
    assert points[..., 0].min() > x  # in pixels of the figure
    assert picture_search(page, panels, between=True).closer == []


def test_one_picture_has_none_to_be_matched_with():
    gray = np.random.default_rng(0).integers(0, 256, (80, 90), dtype=np.uint8)
    matcher = panel_matcher([Panel(0, 0, 90, 80, "micrograph")], 1.0, between=True)
    assert len(matcher(gray)) == 0
