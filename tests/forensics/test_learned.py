import sys

import cv2
import numpy as np
import pytest
import torch

from common.errors import UserError
from common.forensics.learned import learned_matcher


def test_without_kornia_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia.feature", None)
    with pytest.raises(UserError, match="pip install kornia"):
        learned_matcher(tmp_path / "any.pth")


@pytest.fixture(scope="module")
def network():
    feature = pytest.importorskip("kornia.feature", reason="kornia, an optional package, isn't installed")
    return feature.LightGlue(features=None, input_dim=128, add_scale_ori=True)


@pytest.fixture(scope="module")
def similarity(network, tmp_path_factory):
    """Weights by hand, in the authors' names, with which LightGlue compares the descriptors as they are."""
    with torch.no_grad():
        for layer in network.transformers:
            for block in (layer.self_attn, layer.cross_attn):  # nothing is added to what comes in
                block.ffn[-1].weight.zero_()
                block.ffn[-1].bias.zero_()
        network.input_proj.weight.copy_(torch.eye(256, 128))
        network.input_proj.bias.zero_()
        for assignment in network.log_assignment:
            assignment.final_proj.weight.copy_(40 * torch.eye(256))  # similarity · 40² / √256 is the softmax's exponent
            assignment.final_proj.bias.zero_()
            assignment.matchability.weight.zero_()
            assignment.matchability.bias.fill_(10)
        for confidence in network.token_confidence:  # all layers for all points
            confidence.token[0].weight.zero_()
            confidence.token[0].bias.fill_(-10)
    state = network.state_dict()
    del state["confidence_thresholds"]
    for layer in range(9):
        for kind in ("self_attn", "cross_attn"):
            state = {k.replace(f"transformers.{layer}.{kind}", f"{kind}.{layer}"): v for k, v in state.items()}
    path = tmp_path_factory.mktemp("weights") / "lightglue.pth"
    torch.save(state, path)
    return path


@pytest.fixture
def image():
    noise = cv2.GaussianBlur(np.random.default_rng(0).standard_normal((256, 256)), (0, 0), 2)
    return np.rint(128 + 40 * noise / noise.std()).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_copy_is_found_with_its_transform(image, similarity, mirrored):
    patch = image[20:90, 20:90]
    image[150:220, 160:230] = patch[:, ::-1] if mirrored else patch
    matches = learned_matcher(similarity, most=450)(image)
    backwards = (matches.source[:, 1] > matches.target[:, 1])[:, None]
    source, target = np.where(backwards, (matches.target, matches.source), (matches.source, matches.target))
    x = 249 - source[:, 0] if mirrored else source[:, 0] + 140
    right = np.linalg.norm(target - np.column_stack([x, source[:, 1] + 130]), axis=1) < 2
    assert right.sum() >= 10
    linear = np.diag([-1.0, 1.0]) if mirrored else np.eye(2)
    assert np.median(np.abs(matches.linear[right] - linear), axis=0).max() < 0.05


def test_flat_and_tiny_images_give_nothing(similarity):
    match = learned_matcher(similarity)
    for shape in ((64, 64), (1, 1)):
        assert len(match(np.full(shape, 9, np.uint8))) == 0


def test_wrong_files_are_named(network, tmp_path):
    path = tmp_path / "weights.pth"
    with pytest.raises(UserError, match=r"weights\.pth: no such file"):
        learned_matcher(path)
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"weights\.pth can't be read"):
        learned_matcher(path)
    for wrong in ({"a": torch.zeros(1)}, torch.zeros(1), {**network.state_dict(), "posenc.Wr.weight": torch.zeros(2)}):
        torch.save(wrong, path)
        with pytest.raises(UserError, match=r"weights\.pth holds no weights of LightGlue"):
            learned_matcher(path)
