import pytest
import torch

from benchmarks.patch_classifier import PatchClassifier

CLIP = "vit_base_patch16_clip_quickgelu_224"


def small(name: str = CLIP, stride: int = 32) -> PatchClassifier:
    torch.manual_seed(0)
    network = PatchClassifier(name, patch_size=32, patch_stride=stride, depth=1, width=16, heads=2).eval()
    network.head.weight.data *= 100  # an untrained CLIP's embeddings hardly differ
    return network


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [CLIP, "vit_base_patch16_224"])
def test_logit_is_the_mean_of_its_patches(name):
    network, views = small(name), noise(2, 3, 3, 32, 32)
    with torch.no_grad():
        alone = network(views.reshape(6, 1, 3, 32, 32)).logits.view(2, 3)
        output = network(views)
    assert alone.std() > 1e-3
    assert torch.allclose(output.logits, alone.mean(1), atol=1e-4)
    assert torch.allclose(output.attention, torch.full((2, 1, 3), 1 / 3))


def test_bytes_and_fractions_are_the_same_image():
    network, views = small(), noise(2, 2, 3, 32, 32)
    assert torch.allclose(network(views).logits, network(views / 255).logits, atol=1e-4)


def test_image_of_a_whole_grid_scores_as_its_patches_in_training():
    """64 × 96 px are 2 × 3 patches, here in batches of 4; the whole image plays no part."""
    network, image = small(), noise(3, 64, 96)
    views = torch.stack([image[:, y : y + 32, x : x + 32] for y in (0, 32) for x in (0, 32, 64)])
    (score,) = network.score_images([image], noise(1, 3, 32, 32), batch=4)
    assert score.logit == pytest.approx(network(views[None]).logits.item(), abs=1e-4)
    assert score.positions == [(0, 0), (0, 32), (0, 64), (32, 0), (32, 32), (32, 64)]
    assert torch.allclose(score.attention, torch.full((6,), 1 / 6))


def test_images_of_other_sizes_do_not_matter_to_each_other():
    network, images = small(stride=16), [noise(3, 20, 30), noise(3, 70, 50)]
    together = [score.logit for score in network.score_images(images, cover_edges=True)]
    alone = [network.score_images([image], cover_edges=True)[0].logit for image in images]
    assert together == pytest.approx(alone, abs=1e-4)
    edges = [len(network.score_images(images[1:], cover_edges=cover)[0].positions) for cover in (False, True)]
    assert edges == [6, 12]  # rows 0, 16, 32 and 38, columns 0, 16 and 18


@pytest.mark.parametrize("stage", ["semantic", "joint"])
def test_every_parameter_learns_in_every_stage(stage):
    network = small().train().requires_grad_(False)
    network.set_stage(stage, train_backbone=False)
    network(noise(2, 2, 3, 32, 32)).logits.square().mean().backward()
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


def test_quick_profile_has_as_many_parameters_as_the_docstring_says():
    network = PatchClassifier(CLIP, patch_size=64, patch_stride=64, depth=4, width=64, heads=4)
    assert sum(parameter.numel() for parameter in network.parameters()) == 284_289
