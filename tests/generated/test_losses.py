import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.generated.losses import ConsistencyLoss, ImageTextLoss, SpaiLoss
from common.generated.network import SpaiOutput
from common.training.losses import FocalLoss

LN2 = math.log(2)
ALL = torch.ones(2, dtype=torch.bool)


def output_of(logits: Tensor, fused=None, frequencies=None, text=None) -> SpaiOutput:
    attention = torch.ones(len(logits), 1, 1)
    return SpaiOutput(logits, attention, fused=fused, frequencies=frequencies, text=text)


def at_cosine(cosine: float) -> Tensor:
    """A unit vector with this cosine to (1, 0)."""
    return torch.tensor([cosine, math.sqrt(1 - cosine**2)])


def between_images(vectors: Tensor) -> float:
    """Mean cosine of vectors (B, W) of different images."""
    unit = F.normalize(vectors, dim=1)
    n = len(unit)
    return ((unit @ unit.T).sum() - n).item() / (n * (n - 1))


def plain(clean: Tensor, degraded: Tensor) -> Tensor:
    """1 − cos, without a margin."""
    return (1 - F.cosine_similarity(clean, degraded, dim=-1)).mean()


def test_semantic_consistency_by_hand():
    clean = torch.tensor([[2.0, 0.0], [3.0, 0.0]])  # lengths don't matter
    degraded = torch.stack([at_cosine(0.5), at_cosine(0.95)])
    assert ConsistencyLoss(0.9)(clean, degraded).item() == pytest.approx(0.4 / 2)
    assert ConsistencyLoss(1.0)(clean, degraded).item() == pytest.approx((0.5 + 0.05) / 2)


def test_frequency_consistency_compares_each_component_with_itself():
    clean = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    assert ConsistencyLoss()(clean, 3 * clean).item() == 0
    one_turned = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    assert ConsistencyLoss()(clean, one_turned).item() == pytest.approx(0.9 / 3)
    assert ConsistencyLoss()(clean, clean[:, [1, 0, 2]]).item() == pytest.approx(2 * 0.9 / 3)


def test_pair_that_agrees_has_no_gradient_and_another_has():
    clean = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    ConsistencyLoss(0.9)(clean, torch.stack([at_cosine(0.91), at_cosine(0.89)])).backward()
    assert clean.grad[0].tolist() == [0, 0]
    assert clean.grad[1, 1] < 0  # a step down turns it towards the other


def test_vectors_of_zeros_have_finite_gradients():
    clean, degraded = torch.zeros(2, 4, requires_grad=True), torch.zeros(2, 4, requires_grad=True)
    ConsistencyLoss()(clean, degraded).backward()
    assert clean.grad.tolist() == degraded.grad.tolist() == [[0] * 4] * 2


def test_consistency_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) against degraded \(2, 1, 4\)"):
        ConsistencyLoss()(torch.ones(2, 3, 4), torch.ones(2, 1, 4))


def trained(loss) -> Tensor:
    """Vectors of 16 images by a projection that learned only to make a clean and a degraded view agree."""
    torch.manual_seed(0)
    images, project = torch.randn(16, 4), nn.Linear(4, 8)
    optimizer = torch.optim.Adam(project.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        loss(project(images), project(images + 0.2 * torch.randn(16, 4))).backward()
        optimizer.step()
    return project(images).detach()


def test_margin_keeps_images_apart_where_plain_cosine_lets_them_collapse():
    assert between_images(trained(plain)) > 0.99
    assert between_images(trained(ConsistencyLoss(0.9))) < 0.7


def test_components_of_an_image_stay_apart_where_likening_them_collapses_them():
    def after(loss) -> float:
        """Mean cosine between the components of an image after steps on the vectors themselves."""
        torch.manual_seed(0)
        clean = torch.randn(8, 3, 32, requires_grad=True)
        degraded = torch.randn(8, 3, 32, requires_grad=True)
        optimizer = torch.optim.Adam([clean, degraded], 0.05)
        for _ in range(200):
            optimizer.zero_grad()
            loss(clean, degraded).backward()
            optimizer.step()
        return sum(between_images(image.detach()) for image in clean) / len(clean)

    assert after(lambda clean, _: plain(clean, clean.roll(1, dims=1))) > 0.95
    assert abs(after(ConsistencyLoss())) < 0.1


def test_image_text_by_hand():
    """Cosines: 1 and 0 of the first image, 0.6 and 0.8 of the second."""
    image, text = torch.tensor([[5.0, 0.0], [0.6, 0.8]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    images = math.log(1 + math.exp((0 - 1) / 0.5)) + math.log(1 + math.exp((0.6 - 0.8) / 0.5))
    texts = math.log(1 + math.exp((0.6 - 1) / 0.5)) + math.log(1 + math.exp((0 - 0.8) / 0.5))
    assert ImageTextLoss(0.5)(image, text, ALL).item() == pytest.approx((images / 2 + texts / 2) / 2)


def test_same_prompt_is_no_negative():
    """All cosines 0.6: the first two see one negative each, the third, whose prompt is another, sees two."""
    image = torch.tensor([[1.0, 0.0, 0.0]] * 3)
    text = torch.tensor([[0.6, 0.8, 0.0], [0.6, 0.8, 0.0], [0.6, 0.0, 0.8]])
    loss = ImageTextLoss()(image, text, torch.ones(3, dtype=torch.bool))
    assert loss.item() == pytest.approx((2 * LN2 + math.log(3)) / 3)


def test_unknown_prompts_do_not_count():
    torch.manual_seed(0)
    image, text = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
    text[1] = torch.nan
    known = torch.tensor([True, False, True, True])
    loss = ImageTextLoss()(image, text, known)
    assert loss.item() == pytest.approx(ImageTextLoss()(image[known], text[known], torch.ones(3).bool()).item())
    loss.backward()
    assert image.grad[1].tolist() == [0] * 8
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize("known", [[False] * 3, [False, True, False], [True, True, False]])
def test_fewer_than_two_prompts_are_a_zero_with_a_graph(known):
    image = torch.randn(3, 4, requires_grad=True)
    text = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    loss = ImageTextLoss()(image, text, torch.tensor(known))
    loss.backward()
    assert loss.item() == 0
    assert image.grad.abs().sum() == 0


def test_spai_bce_by_hand():
    logits, target = torch.tensor([0.0, math.log(4)]), torch.tensor([1.0, 0.0])
    loss = SpaiLoss(classification="bce")(output_of(logits), target)
    assert loss.item() == pytest.approx((LN2 - math.log(0.2)) / 2)


def test_spai_focal_weighs_generated_images_with_alpha():
    """As in the original recipe: α 0.25 is the weight of class 1, γ 2."""
    focal = SpaiLoss(classification="focal")
    assert focal(output_of(torch.zeros(1)), torch.ones(1)).item() == pytest.approx(0.25 * 0.25 * LN2)
    assert focal(output_of(torch.zeros(1)), torch.zeros(1)).item() == pytest.approx(0.75 * 0.25 * LN2)
    logits, target = torch.randn(32), torch.rand(32).round()
    assert focal(output_of(logits), target).item() == pytest.approx(FocalLoss(0.25, 2.0)(logits, target).item())


def outputs() -> tuple[SpaiOutput, SpaiOutput]:
    torch.manual_seed(0)
    return tuple(
        output_of(torch.randn(4), torch.randn(4, 8), torch.randn(4, 3, 8), torch.randn(4, 6)) for _ in range(2)
    )


def test_combined_is_the_sum_of_its_weighted_parts():
    (clean, degraded), target, text = outputs(), torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.randn(4, 6)
    known = torch.tensor([True, True, False, True])
    bce = F.binary_cross_entropy_with_logits
    expected = {
        "classification": (bce(clean.logits, target) + bce(degraded.logits, target)) / 2,
        "semantic": 0.1 * ConsistencyLoss()(clean.fused, degraded.fused),
        "frequency": 0.05 * ConsistencyLoss()(clean.frequencies, degraded.frequencies),
        "text": 0.2 * ImageTextLoss()(clean.text, text, known),
    }
    loss = SpaiLoss(classification="bce", text_weight=0.2)
    parts = loss.parts(clean, target, degraded, text, known)
    assert {name: part.item() for name, part in parts.items()} == {
        name: pytest.approx(part.item()) for name, part in expected.items()
    }
    assert min(part.item() for part in parts.values()) > 0
    total = loss(clean, target, degraded, text, known).item()
    assert total == pytest.approx(sum(part.item() for part in expected.values()))


def test_means_of_the_parts_count_each_call_once():
    (clean, degraded), target = outputs(), torch.tensor([0.0, 1.0, 1.0, 0.0])
    loss = SpaiLoss(classification="bce")
    assert loss.means() == {}
    single = loss.parts(clean, target, degraded)
    loss(clean, target, degraded)
    loss(clean, 1 - target, degraded)
    means = loss.means()
    other = loss.parts(clean, 1 - target, degraded)
    assert set(means) == {"classification", "semantic", "frequency"}
    assert means["semantic"].item() == pytest.approx(single["semantic"].item())
    both = (single["classification"] + other["classification"]) / 2
    assert means["classification"].item() == pytest.approx(both.item())
    assert loss.means() == {}


def test_prompts_of_all_images_are_known_unless_told():
    clean, text = outputs()[0], torch.randn(4, 6)
    parts = SpaiLoss(classification="bce", text_weight=1.0).parts(clean, torch.zeros(4), text=text)
    assert parts["text"].item() == pytest.approx(ImageTextLoss()(clean.text, text, torch.ones(4).bool()).item())


def test_parts_only_where_there_is_something_to_compare():
    (clean, degraded), target, text = outputs(), torch.zeros(4), torch.randn(4, 6)
    without = output_of(clean.logits)  # plain SPAI has no semantics
    loss = SpaiLoss(classification="focal", text_weight=1.0)
    assert set(loss.parts(clean, target)) == {"classification"}
    assert set(loss.parts(clean, target, without)) == {"classification"}
    assert set(loss.parts(without, target, degraded, text)) == {"classification"}
    assert set(loss.parts(clean, target, degraded)) == {"classification", "semantic", "frequency"}
    off = SpaiLoss(classification="focal", semantic_weight=0, frequency_weight=0)
    assert set(off.parts(clean, target, degraded, text)) == {"classification"}


def test_half_precision_is_left_before_anything_is_computed():
    clean, degraded = torch.randn(4, 3, 8).half(), torch.randn(4, 3, 8).half()
    loss = ConsistencyLoss()
    assert loss(clean, degraded).item() == loss(clean.float(), degraded.float()).item()
    known = torch.ones(4, dtype=torch.bool)
    image, text = clean[:, 0], degraded[:, 0]
    assert ImageTextLoss()(image, text, known).item() == ImageTextLoss()(image.float(), text.float(), known).item()


@pytest.mark.parametrize("classification", ["bce", "focal"])
@pytest.mark.parametrize("logit", [-60000.0, 60000.0])
def test_finite_in_half_precision_at_extremes(classification, logit):
    logits = torch.full((2,), logit, dtype=torch.float16, requires_grad=True)
    fused = torch.full((2, 64), 300.0, dtype=torch.float16, requires_grad=True)
    output = output_of(logits, fused, fused[:, None].expand(-1, 3, -1))
    loss = SpaiLoss(classification=classification)(output, torch.tensor([0.0, 1.0]), output)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    assert torch.isfinite(fused.grad).all()
