import cv2
import numpy as np
import pytest

from common.ensemble.altered import MIN_REGION, altered_regions, find_altered, networks_for
from common.figures.panels import Panel
from common.training.checkpoint import load_checkpoint, save_release


def texture(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 60, 180, cv2.NORM_MINMAX).astype(np.uint8)


def regions(image, prob, panels, threshold=0.5, least_score=0.8):
    return find_altered(image, prob, panels, threshold=threshold, least_score=least_score)


WHOLE = [Panel(0, 0, 300, 200, "micrograph")]
TWO = [Panel(0, 0, 140, 200, "micrograph"), Panel(160, 0, 140, 200, "micrograph")]
IMAGE = texture(200, 300)


def test_regions_come_by_score_with_their_pixels():
    prob = np.zeros((200, 300), np.float32)
    prob[20:60, 30:80], prob[120:160, 200:260] = 0.85, 0.95
    prob[100:140, 20:60] = 0.7  # above the threshold, below the least score
    prob[5:8, 5:8] = 1  # too small
    first, second = regions(IMAGE, prob, WHOLE)
    assert (first.score, second.score) == (pytest.approx(0.95), pytest.approx(0.85))
    assert np.array_equal(first.mask, prob == np.float32(0.95))
    assert np.array_equal(second.mask, prob == np.float32(0.85))
    assert first.panel is None


def test_the_score_is_that_of_the_middle_not_of_the_edge():
    prob = np.zeros((200, 300), np.float32)
    prob[50:100, 50:100], prob[55:95, 55:95] = 0.55, 0.9
    (region,) = regions(IMAGE, prob, WHOLE)
    assert region.score == pytest.approx(0.9)
    assert region.mask.sum() == 50 * 50


def test_plots_and_the_ground_between_panels_are_left_out():
    everywhere = np.ones((200, 300), np.float32)
    plot, picture = Panel(0, 0, 140, 200, "plot"), Panel(160, 0, 140, 200, "micrograph")
    (region,) = regions(IMAGE, everywhere, [plot, picture])
    assert region.panel == 1
    assert not region.mask[:, :160].any()
    assert region.mask[100, 160:].any()
    assert not region.mask[:, 160].any()  # its frame


def test_a_region_does_not_cross_panels():
    found = regions(IMAGE, np.ones((200, 300), np.float32), TWO)
    assert sorted(region.panel for region in found) == [0, 1]


def test_print_in_a_panel_is_left_out():
    image = IMAGE.copy()
    cv2.putText(image, "Abc", (170, 60), cv2.FONT_HERSHEY_SIMPLEX, 1, (255, 255, 255), 2)
    prob = np.zeros((200, 300), np.float32)
    prob[(image == 255).all(axis=2)] = 1  # the letters alone
    assert not regions(image, prob, TWO)
    prob[100:150, 180:250] = 1
    (region,) = regions(image, prob, TWO)
    assert region.mask.sum() == 50 * 70


@pytest.mark.parametrize("scale", [0.5, 0.25])
def test_maps_of_other_sizes_are_enlarged(scale):
    large = np.zeros((200, 300), np.float32)
    large[40:120, 100:200] = 1
    prob = cv2.resize(large, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    (region,) = regions(IMAGE, prob, WHOLE)
    assert (region.mask & (large > 0)).sum() / (region.mask | (large > 0)).sum() > 0.93
    tiny = np.zeros_like(prob)
    tiny[5:8, 5:8] = 1  # of the map: as large as 6 or 12 pixels of the image, and no more than noise
    assert MIN_REGION > 9
    assert not regions(IMAGE, tiny, WHOLE)


def test_without_networks_there_is_nothing_and_a_line_says_so(tmp_path):
    assert altered_regions(IMAGE, WHOLE, tmp_path) == []
    assert networks_for(tmp_path)[1] == f"altered regions are not looked for: there is no network in {tmp_path}"


def test_a_network_that_flags_everything_flags_the_picture(save_network, tmp_path):
    save_network(tmp_path / "highres_no_ela_best.pth", logit=5)
    (region,) = altered_regions(IMAGE, WHOLE, tmp_path)
    assert region.mask.all()
    assert region.score == pytest.approx(1 / (1 + np.exp(-5)), abs=1e-3)
    assert networks_for(tmp_path)[1] == f"altered regions: networks of {tmp_path} (highres_no_ela)"


def test_a_release_stands_in_where_no_network_is_trained(save_network, tmp_path):
    checkpoint = load_checkpoint(save_network(tmp_path / "elsewhere.pth", logit=5))
    save_release(checkpoint, tmp_path / "models" / "release" / "highres_no_ela.safetensors")
    assert len(altered_regions(IMAGE, WHOLE, tmp_path / "models")) == 1
    assert "models/release (highres_no_ela)" in networks_for(tmp_path / "models")[1]


def test_networks_that_cannot_be_used_are_named_and_stop_nothing(save_network, tmp_path):
    (tmp_path / "highres_no_ela_best.pth").write_bytes(b"half a file")
    assert altered_regions(IMAGE, WHOLE, tmp_path) == []
    assert "highres_no_ela_best.pth can't be read" in networks_for(tmp_path)[1]
