"""Each part of quick SPAI and of its fusion moves the logit: at the start of training, and after four epochs.

The fusion's last layers are zero at first, so that it starts as plain SPAI (`test_fresh_fusion_is_plain_spai`): its
parts must move the logit after four steps of the optimiser.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
import torch

from common.generated import training
from common.generated.config import SpaiConfig
from common.generated.losses import SpaiLoss
from common.generated.network import Spai, architecture
from common.generated.training import load_images, start_spai, train_spai
from common.training.engine import build_seeded

SIDE, LEAST = 64, 0.01
OF_SPAI = {"context vector": "context.second.norm2.", "patch attention": "patch_attention.query"}
OF_FUSION = {
    "early gates": "fusion.early.",
    "gate of the first layer": "fusion.early.1.",
    "gate of the second layer": "fusion.early.2.",
    "minima and maxima": "fusion.extremes.",
    "fused vector": "fusion.joint.join.2.",
    "its spectral side": "fusion.joint.spectral.1.",
    "its semantic side": "fusion.joint.semantic.1.",
    "frequency attention": "fusion.joint.by_frequency.",
    "hierarchical fusion, low and high": "fusion.joint.hierarchy.0.2.",
    "hierarchical fusion, both and x": "fusion.joint.hierarchy.1.2.",
    "cross-attention": "fusion.joint.across.attention.out_proj.",
    "adaptive gating": "fusion.joint.gate.",
    "prompts": "text",
}
"""What is zero where a part is off."""
WHOLE = ("embedding of the whole image", "embedding of the patch")


def pictures(count: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Pictures of 160×192, noisier to the right, uint8; every second one has a checkerboard and is "generated"."""
    rng = np.random.default_rng(0)
    board = ((np.arange(160)[:, None] + np.arange(192)) % 2)[..., None] - 0.5
    noise = np.linspace(0, 10, 192)[:, None]
    for number in range(count):
        smooth = cv2.resize(rng.integers(40, 215, (5, 7, 3), dtype=np.uint8), (192, 160), interpolation=cv2.INTER_CUBIC)
        noisy = smooth + noise * rng.normal(size=smooth.shape) + 60 * board * (number % 2)
        yield noisy.clip(0, 255).astype(np.uint8), bool(number % 2)


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four views, the whole, and the label of each of some pictures."""
    images, labels = zip(*pictures(count), strict=True)
    corners = [(y, x) for y in (0, 160 - SIDE) for x in (0, 192 - SIDE)]
    views = np.stack([[image[y : y + SIDE, x : x + SIDE] for y, x in corners] for image in images])
    whole = np.stack([cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for image in images])
    as_tensor = [torch.from_numpy(part).movedim(-1, -3).contiguous() for part in (views, whole)]
    return *as_tensor, torch.tensor(labels, dtype=torch.float32)


@contextmanager
def zeroed(model: Spai, prefix: str) -> Iterator[None]:
    """The network with weights of zero where names begin so."""
    kept = {name: value.clone() for name, value in model.state_dict().items() if name.startswith(prefix)}
    assert kept
    with torch.no_grad():
        for name in kept:
            model.state_dict()[name].zero_()
    try:
        yield
    finally:
        model.load_state_dict(kept, strict=False)


@torch.no_grad()
def effects(model: Spai, views: torch.Tensor, whole: torch.Tensor) -> dict[str, float]:
    """Root mean square by which the logit moves without a part, in deviations of the logit over images."""
    model.eval()
    logits = model(views, whole).logits
    moved = {}
    for name, prefix in (OF_SPAI | OF_FUSION).items():
        with zeroed(model, prefix):
            moved[name] = model(views, whole).logits
    moved[WHOLE[0]] = model(views, whole.roll(1, 0)).logits  # of another image
    model.local_semantics = False
    moved[WHOLE[1]] = model(views, whole).logits
    model.local_semantics = True
    return {name: ((other - logits).square().mean().sqrt() / logits.std()).item() for name, other in moved.items()}


def embed(prompts, *_) -> torch.Tensor:
    """Unit vectors in the place of CLIP's."""
    rng = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(len(prompts), 512, generator=rng), dim=1)


@pytest.fixture
def config() -> SpaiConfig:
    return SpaiConfig(name="alive").quick()


@pytest.fixture
def model(config) -> Spai:
    model = build_seeded(0, partial(Spai, **architecture(config) | {"text_tokens": 3}))
    model.set_text(embed(range(3)))
    return model


def test_a_fresh_network_reads_its_context_vector_and_weighs_patches(model):
    views, whole, _ = batch(16)
    with torch.no_grad():
        vector = model.patch_features(views[:, 0], model.image_semantics(whole))[0][:, -64:]
        attention = 4 * model.eval()(views, whole).attention
    assert 0.5 < vector.std(1).mean() < 1.5
    assert vector.std(0).mean() > 0.1
    assert attention.min() < 0.98 and attention.max() > 1.02
    found = effects(model, views, whole)
    assert {name: found[name] for name in OF_SPAI if found[name] < LEAST} == {}
    assert not any(found[name] for name in (*OF_FUSION, *WHOLE))


def test_a_few_steps_open_every_part_of_the_fusion(model, config):
    views, whole, label = batch(32)
    train, held = slice(0, 16), slice(16, 32)
    model.set_stage("semantic")
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], config.lr)
    loss = SpaiLoss(classification=config.classification)
    for _ in range(4):
        optimizer.zero_grad()
        loss(model.train()(views[train], whole[train]), label[train]).backward()
        optimizer.step()
    found = effects(model, views[held], whole[held])
    assert {*OF_FUSION, *WHOLE} < set(found)
    assert {name: found[name] for name in (*OF_FUSION, *WHOLE) if found[name] < LEAST} == {}


@pytest.mark.slow
def test_every_part_is_used_after_four_quick_epochs(config, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "cached_text_embeddings", embed)
    for number, (image, generated) in enumerate(pictures(240)):
        path = tmp_path / ("fake" if generated else "real") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), image)
    (tmp_path / "prompts.txt").write_text("a photograph\na drawing\na rendering\n")
    config = replace(config, data_dir=tmp_path, models_dir=tmp_path, tracker="none", epochs=4)
    config = replace(config, prompts=str(tmp_path / "prompts.txt"))
    model, config = start_spai(config)
    train_spai(config, model, load_images(config))
    found = effects(model, *batch(32)[:2])
    assert {name: share for name, share in found.items() if share < LEAST} == {}
