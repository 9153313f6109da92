import json
import logging
import shutil
import socket
import sys

import pytest
import torch
from huggingface_hub import constants as hub
from safetensors.torch import save_file

from common.errors import UserError
from common.generated.clip_text import DEFAULT_PROMPTS, cached_text_embeddings, get_text_embeddings

open_clip = pytest.importorskip("open_clip", reason="the optional extra `semantic` is not installed")

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PROMPTS = ["a photograph of a cat", "a western blot", "a digital painting"]


def write_model(folder, seed=0) -> None:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    save_file(open_clip.CLIP(**CONFIG).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))


@pytest.fixture
def folder(tmp_path):
    write_model(tmp_path / "clip")
    return tmp_path / "clip"


@pytest.fixture
def model(folder):
    return f"local-dir:{folder}"


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    def refuse(*_arguments, **_keywords):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])


def test_embeddings_are_open_clips_own(model, folder):
    got = get_text_embeddings(PROMPTS, model, "none")
    clip = open_clip.create_model(model).eval()
    with torch.no_grad():
        expected = clip.encode_text(open_clip.get_tokenizer(model)(PROMPTS))
    assert got.shape == (3, 16)
    assert got.dtype == torch.float32
    assert not got.requires_grad
    assert torch.allclose(got, expected / expected.norm(dim=1, keepdim=True), atol=1e-6)
    assert torch.allclose(got.norm(dim=1), torch.ones(3), atol=1e-6)


def test_a_prompt_has_one_vector_whatever_stands_beside_it(model):
    many = get_text_embeddings([*PROMPTS, PROMPTS[0], *(f"number {n}" for n in range(70))], model, "none")
    assert torch.allclose(many[0], many[3], atol=1e-6)
    assert torch.allclose(get_text_embeddings(PROMPTS[:1], model, "none")[0], many[0], atol=1e-6)
    assert len(many) == 74
    distances = torch.cdist(many[[0, 1, 2, *range(4, 74)]], many[[0, 1, 2, *range(4, 74)]])
    assert (distances + torch.eye(73)).min() > 1e-3


def test_random_weights_are_always_the_same_and_leave_the_callers_random_numbers(monkeypatch):
    monkeypatch.setattr(open_clip, "list_models", lambda: ["tiny"])
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {"tiny": CONFIG})
    torch.manual_seed(1)
    first = get_text_embeddings(PROMPTS, "tiny", "none")
    drawn = torch.rand(3)
    assert torch.equal(get_text_embeddings(PROMPTS, "tiny", "none"), first)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)


def test_a_weight_file_is_read(monkeypatch, folder, model):
    monkeypatch.setattr(open_clip, "list_models", lambda: ["tiny"])
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {"tiny": CONFIG})
    file = str(folder / "open_clip_model.safetensors")
    assert torch.equal(get_text_embeddings(PROMPTS, "tiny", file), get_text_embeddings(PROMPTS, model, "none"))


def test_the_cache_serves_without_the_model(tmp_path, folder, model):
    first = cached_text_embeddings(PROMPTS, model, "none", tmp_path / "text.pt")
    shutil.rmtree(folder)
    assert torch.equal(cached_text_embeddings(PROMPTS, model, "none", tmp_path / "text.pt"), first)
    assert torch.equal(cached_text_embeddings(PROMPTS[::-1], model, "none", tmp_path / "text.pt"), first.flip(0))
    with pytest.raises(UserError):
        cached_text_embeddings(["a new prompt"], model, "none", tmp_path / "text.pt")
    with pytest.raises(UserError):
        cached_text_embeddings(PROMPTS, f"{model}-2", "none", tmp_path / "text.pt")


def test_an_unchanged_model_is_not_loaded_again(tmp_path, model, monkeypatch):
    first = cached_text_embeddings(PROMPTS, model, "none", tmp_path / "text.pt")
    monkeypatch.setattr("common.generated.clip_text.get_text_embeddings", lambda *_: pytest.fail("encoded again"))
    assert torch.equal(cached_text_embeddings(PROMPTS, model, "none", tmp_path / "text.pt"), first)


def test_a_stale_cache_is_renewed(tmp_path, folder, model):
    cache = tmp_path / "text.pt"
    first = cached_text_embeddings(PROMPTS, model, "none", cache)
    write_model(folder, seed=1)
    renewed = cached_text_embeddings(PROMPTS, model, "none", cache)
    assert not torch.allclose(renewed, first, atol=1e-3)
    assert torch.equal(renewed, get_text_embeddings(PROMPTS, model, "none"))
    assert torch.equal(torch.load(cache, weights_only=True)["embeddings"], renewed)


def test_only_new_prompts_are_embedded(tmp_path, model, monkeypatch):
    embedded, embed = [], get_text_embeddings
    monkeypatch.setattr(
        "common.generated.clip_text.get_text_embeddings", lambda new, *rest: embedded.append(new) or embed(new, *rest)
    )
    cache = tmp_path / "text.pt"
    cached_text_embeddings(PROMPTS[:2], model, "none", cache)
    got = cached_text_embeddings([PROMPTS[2], PROMPTS[0], PROMPTS[2]], model, "none", cache)
    assert embedded == [PROMPTS[:2], PROMPTS[2:]]
    assert torch.allclose(got, embed([PROMPTS[2], PROMPTS[0], PROMPTS[2]], model, "none"), atol=1e-6)
    cached_text_embeddings(PROMPTS, model, "none", cache)
    assert len(embedded) == 2


@pytest.mark.parametrize("content", [b"", b"no cache", None])
def test_a_broken_cache_is_renewed(tmp_path, model, content):
    cache = tmp_path / "text.pt"
    torch.save({"prompts": PROMPTS}, cache) if content is None else cache.write_bytes(content)
    assert torch.equal(
        cached_text_embeddings(PROMPTS, model, "none", cache), get_text_embeddings(PROMPTS, model, "none")
    )


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("no-such-model", "none", "no model 'no-such-model'.*ViT-B-16-quickgelu"),
        ("ViT-B-16-quickgelu", "no_such.pt", "no_such.pt is neither a file nor a pretraining.*openai"),
        ("local-dir:/nowhere", "none", "open_clip_config.json"),
    ],
)
def test_what_can_not_be_loaded_is_named(name, pretrained, message):
    with pytest.raises(UserError, match=message):
        get_text_embeddings(PROMPTS, name, pretrained)


def test_without_a_network_the_way_out_is_named(monkeypatch):
    with pytest.raises(UserError, match="local-dir:FOLDER"):
        get_text_embeddings(PROMPTS, "ViT-B-16-quickgelu", "openai")
    assert hub.HF_HUB_OFFLINE is False


def test_a_folder_without_weights_is_refused(folder, model):
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"open_clip_model\.safetensors"):
        get_text_embeddings(PROMPTS, model, "none")


def test_a_file_beside_a_folder_is_refused(model):
    with pytest.raises(UserError, match="brings its own weights"):
        get_text_embeddings(PROMPTS, model, "other.pt")


def test_without_open_clip_the_remedy_is_named(monkeypatch, model):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match="pip install open_clip_torch"):
        get_text_embeddings(PROMPTS, model, "none")


def test_no_prompts_are_refused(tmp_path, model):
    with pytest.raises(UserError, match="no prompts"):
        get_text_embeddings([], model, "none")
    with pytest.raises(UserError, match="no prompts"):
        cached_text_embeddings([], model, "none", tmp_path / "text.pt")
    assert not (tmp_path / "text.pt").exists()


def test_default_prompts_differ_and_fit_the_context():
    assert len(set(DEFAULT_PROMPTS)) == len(DEFAULT_PROMPTS) >= 12
    tokens = open_clip.get_tokenizer("ViT-B-16-quickgelu")(list(DEFAULT_PROMPTS))
    assert (tokens[:, -1] == 0).all()
