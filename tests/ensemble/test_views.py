import cv2
import numpy as np
import pytest
import torch
from torch import nn

from common.data import transforms
from common.data.dataset import ForgeryDataset, collate_whole
from common.data.images import read_image
from common.data.samples import load_samples
from common.data.tiles import tile_windows
from common.data.transforms import resize_image, to_channels
from common.ensemble import views
from common.ensemble.views import (
    VIEWS,
    InputSpec,
    PieceNetwork,
    View,
    extract_pieces,
    predict_pieces,
    predict_views,
    worker_count,
)
from common.training.validation import predict_maps

CPU = torch.device("cpu")


class ByPixel(nn.Module):
    """A pixel's logit is that of its green value, shifted: at 255 probability 0.95."""

    def forward(self, x):
        return x[:, 1:2].float() / 255 * 4 - 1.05


class ByPlace(nn.Module):
    """A pixel's logit depends on its column alone: forged in the first, authentic in all others."""

    def forward(self, x):
        logits = torch.full((len(x), 1, *x.shape[2:]), -30.0)
        logits[..., 0] = 30
        return logits


class Constant(nn.Module):
    def forward(self, x):
        return torch.full((len(x), 1, *x.shape[2:]), 0.7)


class Bright(nn.Module):
    """Forged where the network's input is at least half bright."""

    def forward(self, x):
        return torch.where(x[:, :1] >= 128, 10.0, -10.0)


class Recorder(nn.Module):
    """Keeps its inputs, as uint8 (C, S, S)."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen += list(x)
        return torch.zeros(len(x), 1, *x.shape[2:])


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def close(prob, expected, tolerance=1e-6):
    """Up to float error. (pytest's approx takes seconds for whole images.)"""
    return np.allclose(prob, expected, rtol=0, atol=tolerance)


def by_pixel(image):
    return 1 / (1 + np.exp(-(image[..., 1] / 255 * 4 - 1.05)))


def predict(network, images, size=32, in_channels=3, **options):
    own = PieceNetwork(network, InputSpec(size, options.pop("tile_share", None)), in_channels)
    (pieces,) = extract_pieces(images, [own]).values()
    return pieces.maps(predict_pieces(own, pieces, **options))


def test_the_views_are_the_symmetries_of_the_square():
    x = np.arange(9).reshape(3, 3)
    flips = [x, x[:, ::-1], x[::-1], x[::-1, ::-1]]
    seen = {
        tta: {tuple(view.apply(torch.from_numpy(x)).flatten().tolist()) for view in views}
        for tta, views in VIEWS.items()
    }
    assert seen["none"] == {tuple(range(9))}
    assert seen["flips"] == {tuple(flip.ravel().tolist()) for flip in flips}
    assert seen["full"] == seen["flips"] | {tuple(flip.T.ravel().tolist()) for flip in flips}
    assert [len(VIEWS[tta]) for tta in ("none", "flips", "full")] == [1, 4, 8]


@pytest.mark.parametrize("view", VIEWS["full"])
def test_undo_is_the_inverse_of_apply(view):
    x = torch.arange(2 * 3 * 16).reshape(2, 3, 4, 4)
    assert torch.equal(view.undo(view.apply(x)), x)
    assert torch.equal(view.apply(view.undo(x)), x)
    assert torch.equal(view.apply(x), x) == (view == View(0, False))


@pytest.mark.parametrize("tta", VIEWS)
def test_views_do_not_change_what_depends_on_the_pixel_alone(tta):
    images = [noise(32, 32, seed) for seed in range(3)]
    for image, prob in zip(images, predict(ByPixel(), images, tta=tta), strict=True):
        assert prob.shape == (32, 32)
        assert prob.dtype == np.float32
        assert close(prob, by_pixel(image))


def test_views_are_undone_before_they_are_averaged():
    x = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    expected = {
        "none": [[1, 0, 0, 0]] * 4,
        "flips": [[0.5, 0, 0, 0.5]] * 4,
        "full": [[0.5, 0.25, 0.25, 0.5], *[[0.25, 0, 0, 0.25]] * 2, [0.5, 0.25, 0.25, 0.5]],
    }
    for tta, prob in expected.items():
        assert close(predict_views(ByPlace(), x, tta).numpy(), np.array([prob, prob]))


@pytest.mark.parametrize("tta", VIEWS)
def test_tiles_do_not_change_what_depends_on_the_pixel_alone(tta):
    image = noise(384, 256)
    (prob,) = predict(ByPixel(), [image], size=128, tta=tta, tile_share=1 / 3)  # tiles of the network's own size
    assert prob.shape == (384, 256)
    assert close(prob, by_pixel(image))


def test_a_large_image_is_a_third_its_whole_and_two_thirds_its_tiles():
    image = np.repeat(np.repeat(noise(16, 12), 4, axis=0), 4, axis=1)  # 64×48
    (prob,) = predict(ByPixel(), [image], size=32)
    whole = by_pixel(resize_image(image, 32))
    rows = np.clip((np.arange(64) + 0.5) / 2 - 0.5, 0, 31)  # pixel centres of the map in those of its half size
    columns = np.clip((np.arange(48) + 0.5) * 32 / 48 - 0.5, 0, 31)
    along = np.stack([np.interp(rows, range(32), column) for column in whole.T], axis=1)
    whole = np.stack([np.interp(columns, range(32), row) for row in along])
    assert close(prob, (2 * by_pixel(image) + whole) / 3, 1e-5)


@pytest.mark.parametrize("tta", VIEWS)
@pytest.mark.parametrize("tile_share", [None, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(20, 30), (63, 50), (300, 131), (40, 700)])
def test_a_constant_stays_constant(shape, tile_share, tta):
    (prob,) = predict(Constant(), [noise(*shape)], tile_share=tile_share, tta=tta)
    assert close(prob, 1 / (1 + np.exp(-0.7)))


def test_a_small_forgery_of_a_large_figure_survives():
    image = np.zeros((2000, 3000, 3), np.uint8)
    image[1203:1215, 777:789] = 255
    whole = predict(Bright(), [resize_image(image, 128)], size=128)[0]
    assert whole.shape == (128, 128)
    assert whole.max() < 0.01
    tiled = predict(Bright(), [image], size=128)[0]
    assert tiled.shape == (2000, 3000)
    assert tiled[1209, 783] > 0.6  # two thirds: the whole image has not seen it
    found = np.argwhere(tiled > 0.25)
    assert np.abs(found - [1209, 783]).max() <= 12


def test_only_large_images_are_tiled():
    recorder = Recorder()
    maps = predict(recorder, [noise(63, 50), noise(64, 50)])
    assert [prob.shape for prob in maps] == [(32, 32), (64, 50)]
    assert len(recorder.seen) == 1 + 1 + 3 * 2


def test_tiles_are_at_least_a_fifth_of_the_longer_side():
    recorder = Recorder()
    predict(recorder, [noise(20, 1000)], size=32)
    assert len(recorder.seen) == 1 + 7  # of 200 pixels, at most 150 apart: 5.33 steps
    recorder = Recorder()
    predict(recorder, [noise(5, 49)], size=8)
    assert len(recorder.seen) == 1 + 7  # of 10 pixels, at most 7 apart: 5.57 steps


def test_a_specialist_sees_tiles_only():
    image, recorder = noise(300, 400), Recorder()
    maps = predict(recorder, [image, noise(40, 30)], size=256, tile_share=0.5)
    assert [prob.shape for prob in maps] == [(256, 256), (256, 256)]  # neither is large
    windows = tile_windows(300, 400, 200)
    assert len(recorder.seen) == len(windows) + 1
    for seen, window in zip(recorder.seen, windows, strict=False):
        assert (seen.permute(1, 2, 0).numpy() == resize_image(image[window], 256)).all()
    assert [prob.shape for prob in predict(Recorder(), [image], size=200, tile_share=0.5)] == [(300, 400)]


def test_a_specialists_tiles_have_at_least_128_pixels():
    recorder = Recorder()
    predict(recorder, [noise(200, 200)], tile_share=0.1)
    assert len(recorder.seen) == 4


def test_the_fourth_channel_belongs_to_the_untouched_whole():
    """The tile of an error level analysis, not the analysis of a tile."""
    image, recorder = noise(200, 250), Recorder()
    predict(recorder, [image], size=128, in_channels=4, tile_share=0.5)
    channels = to_channels(image, 4)
    for seen, window in zip(recorder.seen, tile_windows(200, 250, 128), strict=True):
        assert seen.dtype == torch.uint8
        assert (seen.permute(1, 2, 0).numpy() == channels[window]).all()


@pytest.mark.parametrize("tile_share", [None, 0.4])
def test_the_batch_size_changes_nothing(tile_share):
    images = [noise(50, 40), noise(150, 90, 1), noise(20, 20, 2), noise(200, 300, 3)]
    alone = [predict(ByPixel(), [image], tta="flips", tile_share=tile_share)[0] for image in images]
    for batch_size in (1, 3, 64):
        maps = predict(ByPixel(), images, tta="flips", tile_share=tile_share, batch_size=batch_size)
        for prob, expected in zip(maps, alone, strict=True):
            assert close(prob, expected)


def test_no_batch_exceeds_its_size():
    class Counter(Constant):
        def forward(self, x):
            assert len(x) <= 4
            return super().forward(x)

    (prob,) = predict(Counter(), [noise(400, 300)], batch_size=4)
    assert prob.shape == (400, 300)


def test_no_images_no_maps():
    assert predict(Constant(), []) == []


class Weighted(nn.Module):
    """A pixel's logit is a sum of its channels and of its neighbour's, by weights of its own."""

    def __init__(self, in_channels, seed):
        super().__init__()
        self.weights = torch.from_numpy(np.random.default_rng(seed).normal(size=in_channels)).float()

    def forward(self, x):
        assert x.shape[1] == len(self.weights)
        pixels = x.float() / 255 + x.roll(1, -1).float() / 512
        return (pixels * self.weights.view(1, -1, 1, 1)).sum(1, keepdim=True)


@pytest.mark.parametrize("tta", VIEWS)
def test_networks_with_common_pieces_predict_as_each_alone(tta, monkeypatch):
    """Three specs, RGB and four channels, images of all kinds: equal to the last bit."""
    whole, tiled = InputSpec(32), InputSpec(32, 0.4)
    networks = [
        PieceNetwork(Weighted(channels, seed), spec, channels)
        for seed, (spec, channels) in enumerate([(whole, 3), (tiled, 3), (whole, 4), (whole, 3), (InputSpec(64), 3)])
    ]
    images = [noise(30, 50), noise(150, 90, 1), noise(64, 20, 2)]
    expected = [
        predict(n.network, images, n.spec.size, n.in_channels, tile_share=n.spec.tile_share, tta=tta) for n in networks
    ]
    analysed = []
    monkeypatch.setattr(views, "to_channels", lambda *given: analysed.append(given[1]) or to_channels(*given))
    found = extract_pieces(images, networks)
    assert analysed == [4] * 3  # once for each image
    for network, alone in zip(networks, expected, strict=True):
        pieces = found[network.spec]
        maps = pieces.maps(predict_pieces(network, pieces, tta, batch_size=3))
        assert all(np.array_equal(prob, own) for prob, own in zip(maps, alone, strict=True))


def test_the_analysis_of_errors_is_made_only_for_those_who_read_it(monkeypatch):
    monkeypatch.setattr(transforms, "error_level", lambda image: pytest.fail("nobody reads it"))
    network = PieceNetwork(ByPixel(), InputSpec(32))
    assert extract_pieces([noise(40, 40)], [network])[network.spec].pixels.shape == (1, 3, 32, 32)


def test_pieces_for_several_networks_serve_one():
    first, second = PieceNetwork(ByPixel(), InputSpec(32)), PieceNetwork(ByPixel(), InputSpec(32, 0.5))
    image = noise(40, 40)
    pieces = extract_pieces([image], [first, second])[second.spec]
    (prob,) = pieces.maps(predict_pieces(second, pieces))
    assert np.array_equal(prob, predict(ByPixel(), [image], tile_share=0.5)[0])


@pytest.mark.parametrize(
    ("threads", "size", "expected"),
    [(1, 256, 1), (2, 256, 2), (16, 256, 4), (2, 512, 1), (8, 512, 2), (64, 512, 4)],
)
def test_workers_share_the_threads_and_bound_the_memory(torch_threads, threads, size, expected):
    torch_threads(threads)
    assert worker_count(size, CPU) == expected
    assert worker_count(size, torch.device("cuda")) == 2


@pytest.mark.parametrize("shape", [(20, 30), (64, 64), (70, 100), (90, 400)])
@pytest.mark.parametrize("tta", VIEWS)
def test_framing_crop_predicts_what_the_validation_does(tmp_path, shape, tta):
    for label in ("authentic", "forged"):
        (tmp_path / "train_images" / label).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "train_images/authentic/a.png"), noise(*shape))
    dataset = ForgeryDataset(load_samples(tmp_path), 32, framing="crop")
    (validated,) = predict_maps(ByPixel(), collate_whole([dataset[0]]))
    network = PieceNetwork(ByPixel(), InputSpec(32, framing="crop"))
    (pieces,) = extract_pieces([read_image(dataset.samples[0].image)], [network]).values()
    (prob,) = pieces.maps(predict_pieces(network, pieces, tta))
    assert close(prob, validated)
    assert len(pieces.pixels) <= 49


def test_a_network_of_squares_and_one_of_whole_images_have_pieces_of_their_own():
    whole, squares = (PieceNetwork(ByPixel(), InputSpec(32, framing=framing)) for framing in ("squeeze", "crop"))
    found = extract_pieces([noise(40, 40)], [whole, squares])
    assert {spec.framing: len(pieces.pixels) for spec, pieces in found.items()} == {"squeeze": 1, "crop": 4}
