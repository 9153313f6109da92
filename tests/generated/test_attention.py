"""The maps have answers worked out by hand, and the picture shows them where it says it does."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from common.generated import explain, load_detector, load_detectors
from common.generated.attention import attention_map, describe_tokens, draw_attention, semantic_map
from common.generated.patches import pad_to_patch, patch_positions

QUARTERS = [(0, 0), (0, 64), (64, 0), (64, 64)]
WEIGHTS = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
CELLS = [f"{s}:{row},{column}" for s in (2, 4) for row in range(s) for column in range(s)]
NAMES = ["image", *CELLS, "patch", "text 0", "text 1"]


def texts(figure):
    return " ".join(text.get_text() for text in figure.texts)


def test_each_patch_has_its_weight():
    shown = attention_map(QUARTERS, WEIGHTS, 64, 128, 128)
    assert shown.dtype == np.float32
    np.testing.assert_array_equal(shown, np.kron(WEIGHTS.reshape(2, 2), np.ones((64, 64))))


def test_overlapping_patches_are_averaged():
    shown = attention_map([(0, 0), (0, 32), (0, 64)], np.array([0.5, 0.3, 0.2]), 64, 64, 128)
    np.testing.assert_allclose(shown, np.tile(np.repeat([0.5, 0.4, 0.25, 0.2], 32), (64, 1)), rtol=1e-6)


def test_the_dropped_remainder_is_nan():
    shown = attention_map(QUARTERS, WEIGHTS, 64, 150, 130)
    assert shown.shape == (150, 130)
    np.testing.assert_array_equal(np.isnan(shown), np.arange(150)[:, None] >= np.where(np.arange(130) < 128, 128, 0))


def test_padding_is_cropped_off():
    # Padded to 64 columns, each patch reaches over all of them.
    shown = attention_map([(0, 0), (16, 0)], np.array([0.25, 0.75]), 64, 80, 32)
    assert shown.shape == (80, 32)
    np.testing.assert_allclose(shown[:, 0], [0.25] * 16 + [0.5] * 48 + [0.75] * 16)
    assert (shown == shown[:, :1]).all()
    padded = pad_to_patch(torch.zeros(3, 10, 9), 64)
    positions = patch_positions(*padded.shape[1:], 64, 64)
    shown = attention_map(positions, np.arange(len(positions)), 64, 10, 9)
    np.testing.assert_array_equal(shown, np.full((10, 9), 2.0))  # five crops of one place


def test_the_network_s_own_patches_fill_the_map():
    for shape, stride in (((300, 200), 64), ((100, 90), 64), ((40, 200), 32)):
        positions = patch_positions(*(max(side, 64) for side in shape), 64, stride, cover_edges=True)
        shown = attention_map(positions, np.full(len(positions), 0.1), 64, *shape)
        assert shown.shape == shape
        if len(positions) != 5:
            np.testing.assert_allclose(shown, 0.1, rtol=1e-6)


def shares(**values):
    """Weights of two patches on the tokens: the first looks at `values`, the second at the patch itself alone."""
    weights = np.zeros((2, len(NAMES)))
    for name, value in values.items():
        weights[0, NAMES.index(name)] = value
    weights[1, NAMES.index("patch")] = 1
    return weights


def test_semantic_map_has_the_finest_scale_s_cells_weighted_by_the_patches_attention():
    weights = shares(**{"2:0,1": 0.2, "4:0,0": 0.1, "4:1,2": 0.4, "4:3,3": 0.3})
    shown = semantic_map(NAMES, weights, np.array([0.25, 0.75]), 40, 80)
    wanted = np.zeros((4, 4))
    wanted[0, 0], wanted[1, 2], wanted[3, 3] = 0.025, 0.1, 0.075
    np.testing.assert_allclose(shown, np.kron(wanted, np.ones((10, 20))), rtol=1e-6)
    assert shown.dtype == np.float32


def test_semantic_map_of_a_coarse_scale_and_of_none():
    names, weights = ["image", "2:0,0", "2:0,1", "2:1,0", "2:1,1"], np.array([[0.2, 0.1, 0.15, 0.25, 0.3]])
    shown = semantic_map(names, weights, np.ones(1), 3, 5)
    np.testing.assert_allclose(shown[0], [0.1, 0.1, 0.1, 0.15, 0.15], rtol=1e-6)
    np.testing.assert_allclose(shown[:, 4], [0.15, 0.15, 0.3], rtol=1e-6)
    assert semantic_map(["image", "patch", "text 0"], np.full((1, 3), 1 / 3), np.ones(1), 3, 5) is None


def rows(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_table_of_the_tokens():
    weights = shares(**{"image": 0.4, "2:0,1": 0.2, "4:1,2": 0.12, "text 0": 0.04, "text 1": 0.24})
    prompts = ["a photo | of a cat", "an image with far too many words to be shown in a table"]
    assert rows(describe_tokens(NAMES, weights, np.array([0.5, 0.5]), prompts)) == [
        ["the picture as a whole", "1", "20.0 %", "4.80"],  # 24 tokens
        ["its parts, 2×2", "4", "10.0 %", "0.60"],
        ["its parts, 4×4", "16", "6.0 %", "0.09"],
        ["the patch itself", "1", "50.0 %", "12.00"],
        ["all prompts", "2", "14.0 %", "1.68"],
        ["prompt 2: an image with far too many words to be…", "1", "12.0 %", "2.88"],
        ["prompt 1: a photo / of a cat", "1", "2.0 %", "0.48"],
    ]


def test_table_names_what_there_is_and_the_five_best_prompts():
    names = ["image", *(f"text {number}" for number in range(12))]
    weights = np.array([[0.22, *np.linspace(0.01, 0.12, 12)]])
    kinds = [row[0] for row in rows(describe_tokens(names, weights, np.ones(1)))]
    prompts = [f"prompt {number}" for number in (12, 11, 10, 9, 8)]
    assert kinds == ["the picture as a whole", "all prompts", *prompts]


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_picture_shows_the_image_and_the_maps_beside_it(pictures):
    attention = 4 * attention_map(QUARTERS, WEIGHTS, 64, 144, 128)
    semantic = np.full((144, 128), 1.0, np.float32)
    figure = draw_attention(np.full((144, 128, 3), 99, np.uint8), attention, semantic, "t")
    (image, patches, bar, cells, second), page = pictures(figure)
    assert (image == 99).all()
    assert image.shape == patches.shape == cells.shape and bar.shape == second.shape
    assert page.shape[1] <= 1620
    # Equal weights are one colour, that of the bar at 1, the middle: its ground is grey as well.
    assert (cells == cells[0, 0]).all()
    assert np.abs(cells[0, 0].astype(int) - second[3, bar.shape[1] // 2 - 4]).max() < 10
    # A colour for each patch, the brighter the more attention.
    high, wide = patches.shape[:2]
    centres = [
        patches[round(high * (row + 32) / 144), round(wide * (column + 32) / 128)].sum() for row, column in QUARTERS
    ]
    assert sorted(set(centres)) == centres
    # Stripes, and no colour, where nothing was looked at.
    missed = patches[-round(high * 16 / 144) + 1 :]
    assert (missed == missed[..., :1]).all() and len(np.unique(missed)) == 2
    assert "11 %" in texts(figure) and "Hatched" in texts(figure)
    assert "0.40 to 1.60 times an equal share" in texts(figure).replace("\n", " ")


def test_without_semantics_and_remainder_neither_is_spoken_of(pictures):
    figure = draw_attention(noise(64, 64), np.ones((64, 64), np.float32), None, "t")
    shown, _ = pictures(figure)
    assert len(shown) == 3
    assert "semantic" not in texts(figure) and "Hatched" not in texts(figure)
    assert "No mask of a forgery" in texts(figure)


def test_even_attention_does_not_look_uneven(pictures):
    nearly = np.ones((64, 64), np.float32)
    nearly[:32] = 1.01
    shown, _ = pictures(draw_attention(np.zeros((64, 64, 3), np.uint8), nearly, None, "t"))
    assert np.ptp(shown[1].reshape(-1, 3).astype(int), axis=0).max() < 8


def test_an_explanation_is_the_verdict_the_table_and_the_maps(save_detector, tmp_path, pictures):
    real = {"slope": 0.0, "intercept": -2.0}
    detector = load_detector(save_detector(tmp_path / "spai_best.pth", calibration=real), torch.device("cpu"))
    image = noise(150, 130)
    (found,) = detector.predict([image])
    text, figure = explain(detector, image, "a.png")
    verdict, guarantee, empty, *table = text.split("\n")
    assert verdict == "real, probability that it is generated 0.1192"
    assert guarantee == "of generated images like those of the validation, at most 5 % are called real"
    assert empty == ""
    weights, names = found.score.attention.numpy(), detector.model.semantic_tokens
    assert table == describe_tokens(names, found.score.semantic_attention.numpy(), weights).split("\n")
    assert "a.png: real, probability that it is generated 0.12" in texts(figure)
    shown, _ = pictures(figure)
    assert len(shown) == 5
    attention = len(weights) * attention_map(found.score.positions, weights, 64, 150, 130)
    cells = len(names) * semantic_map(names, found.score.semantic_attention.numpy(), weights, 150, 130)
    expected, _ = pictures(draw_attention(image, attention, cells, "t"))
    assert all((panel == other).all() for panel, other in zip(shown, expected, strict=True))


@pytest.mark.parametrize(
    ("height", "width"), [(1500, 2000), (64, 64), (8, 8), (30, 2000), (2000, 30), (300, 601), (300, 599)]
)
def test_images_of_any_size(height, width, pictures):
    ones = np.ones((height, width), np.float32)
    ones[: height // 2] = np.nan
    title = "a picture with a long name.png: insufficient evidence, probability that it is generated 0.50"
    for semantic in (None, ones):
        figure = draw_attention(np.full((height, width, 3), 99, np.uint8), ones, semantic, title)
        shown, page = pictures(figure)
        assert 820 <= page.shape[1] <= 1621 and page.shape[0] <= 2800
        assert shown[1].shape == shown[0].shape
        assert abs(shown[0].shape[1] / shown[0].shape[0] / (width / height) - 1) < 0.05
        assert max(shown[0].shape) >= min(500, 8 * max(height, width))
        # Nothing is cut off at the page's sides, and panels and texts keep apart.
        for strip in (page[:, :10], page[:, -10:], page[:5], page[-5:]):
            assert (strip == 255).all()
        renderer = FigureCanvasAgg(figure).get_renderer()
        boxes = [text.get_window_extent(renderer) for text in figure.texts]
        boxes += [axes.get_window_extent(renderer) for axes in figure.axes]
        for place, box in enumerate(boxes):
            for other in boxes[:place]:
                assert min(box.x1, other.x1) <= max(box.x0, other.x0) + 1 or (
                    min(box.y1, other.y1) <= max(box.y0, other.y0) + 1
                )


def test_several_detectors_are_explained_as_one(save_detector, save_residual, tmp_path):
    paths = [save_detector(tmp_path / "spai_best.pth"), save_residual(tmp_path / "residual_best.pth")]
    image = np.random.default_rng(0).integers(0, 256, (130, 150, 3), dtype=np.uint8)
    both = load_detectors(paths, torch.device("cpu"))
    text, _ = explain(both, image, "x")
    (found,) = both.predict([image])
    each = [load_detector(path, torch.device("cpu")).predict([image])[0].probability for path in paths]
    assert f"generated {found.probability:.4f}" in text
    assert f"by each detector: spai_fusion {each[0]:.4f}, residual {each[1]:.4f}; the attention" in text


def test_flat_attention_is_said(save_detector, save_residual, tmp_path):
    path = save_residual(tmp_path / "residual_best.pth")
    image = np.random.default_rng(0).integers(0, 256, (130, 150, 3), dtype=np.uint8)
    detector = load_detector(path, torch.device("cpu"))
    assert "the patch attention is flat" in explain(detector, image, "x")[0]
    detector = load_detector(save_detector(tmp_path / "spai_best.pth"), torch.device("cpu"))
    assert "flat" not in explain(detector, image, "x")[0]
