import math

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from common.training.losses import ClassFocalLoss, CombinedLoss, DiceLoss, FocalLoss

LN2 = math.log(2)
LN3 = math.log(3)


def logits_of(*probabilities):
    p = torch.tensor(probabilities, dtype=torch.float64)
    return torch.log(p / (1 - p)).view(1, 1, 1, -1)


def target_of(*values):
    return torch.tensor(values, dtype=torch.uint8).view(1, 1, 1, -1)


@pytest.mark.parametrize(
    ("p", "target", "expected"),
    [
        (0.5, 1, 0.75 * 0.5**3 * LN2),
        (0.5, 0, 0.25 * 0.5**3 * LN2),
        (0.9, 1, 0.75 * 0.1**3 * -math.log(0.9)),
        (0.9, 0, 0.25 * 0.9**3 * -math.log(0.1)),
    ],
)
def test_focal_by_hand(p, target, expected):
    assert FocalLoss(0.75, 3.0)(logits_of(p), target_of(target)).item() == pytest.approx(expected)


def test_focal_averages_over_pixels():
    loss = FocalLoss(0.75, 3.0)(logits_of(0.5, 0.5), target_of(1, 0))
    assert loss.item() == pytest.approx(0.5**3 * LN2 / 2)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.0, 4.0])
def test_focal_is_torchvisions_but_has_a_gradient_where_that_has_none(gamma):
    values = torch.tensor([-30.0, -17.0, -5.0, -1.0, 0.0, 1.0, 5.0, 17.0, 30.0])
    values = values if gamma == 0.5 else torch.cat([values, torch.tensor([-200.0, 200.0])])
    ours, theirs = (values.repeat(2).requires_grad_() for _ in range(2))
    target = torch.cat([torch.zeros(len(values)), torch.ones(len(values))])
    loss, oracle = FocalLoss(0.75, gamma)(ours, target), sigmoid_focal_loss(theirs, target, 0.75, gamma, "mean")
    loss.backward()
    oracle.backward()
    assert loss.item() == pytest.approx(oracle.item(), rel=1e-6)
    known = torch.isfinite(theirs.grad)
    assert known.all() == (gamma != 0.5)
    assert torch.isfinite(ours.grad).all()
    torch.testing.assert_close(ours.grad[known], theirs.grad[known], rtol=0, atol=1e-6)


def test_focal_without_focus_is_weighted_cross_entropy():
    assert FocalLoss(0.5, 0.0)(logits_of(0.8), target_of(1)).item() == pytest.approx(-0.5 * math.log(0.8))


@pytest.mark.parametrize(
    ("p", "target", "expected"),
    [
        ((0.5, 0.5, 0.5, 0.5), (1, 0, 0, 0), 1 - 2 * 0.5 / (2 + 1)),
        ((0.8, 0.2), (1, 0), 1 - 2 * 0.8 / (1 + 1)),
        ((0.5, 0.5, 0.5, 0.5), (0, 0, 0, 0), 0.5 / 1.5),  # authentic: p̄ / (2 − p̄)
        ((0.1, 0.3), (0, 0), 0.2 / 1.8),
    ],
)
def test_dice_by_hand(p, target, expected):
    assert DiceLoss()(logits_of(*p), target_of(*target)).item() == pytest.approx(expected)


def test_dice_averages_over_images():
    logits = torch.cat([logits_of(0.8, 0.2), logits_of(0.1, 0.3)])
    target = torch.cat([target_of(1, 0), target_of(0, 0)])
    assert DiceLoss()(logits, target).item() == pytest.approx((0.2 + 0.2 / 1.8) / 2)


def test_dice_of_an_authentic_batch_falls_with_its_false_positives():
    target = torch.zeros(2, 1, 8, 8)
    losses = [DiceLoss()(torch.full((2, 1, 8, 8), value), target).item() for value in (-20.0, -2.0, 0.0, 2.0, 20.0)]
    assert losses == sorted(losses)
    assert losses[0] == pytest.approx(0, abs=1e-6)
    assert losses[-1] == pytest.approx(1, abs=1e-6)


def test_dice_of_an_authentic_batch_has_a_gradient():
    logits = torch.zeros(2, 1, 8, 8, requires_grad=True)
    DiceLoss()(logits, torch.zeros(2, 1, 8, 8)).backward()
    # d/dp̄ p̄/(2 − p̄) = 2/(2 − p̄)² = 8/9; dp̄/dz = p(1 − p)/64 = 1/256; the mean over two images halves it
    assert torch.allclose(logits.grad, torch.full_like(logits, 8 / 9 / 256 / 2))


@pytest.mark.parametrize("loss", [FocalLoss(), DiceLoss(), CombinedLoss()])
@pytest.mark.parametrize("target", [torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4), torch.eye(4).view(1, 1, 4, 4)])
@pytest.mark.parametrize("value", [-200.0, 0.0, 200.0])
def test_finite_with_finite_gradients_at_extremes(loss, target, value):
    logits = torch.full((1, 1, 4, 4), value, requires_grad=True)
    result = loss(logits, target)
    result.backward()
    assert torch.isfinite(result)
    assert torch.isfinite(logits.grad).all()


def test_combined_is_seven_parts_focal_three_parts_dice():
    logits, target = logits_of(0.5, 0.5, 0.5, 0.5), target_of(1, 0, 0, 0)
    focal = (0.75 + 3 * 0.25) / 4 * 0.5**3 * LN2
    assert CombinedLoss()(logits, target).item() == pytest.approx(0.7 * focal + 0.3 * 2 / 3)


def test_combined_survives_half_precision_of_a_large_image():
    logits = torch.zeros(1, 1, 512, 512, dtype=torch.float16)
    assert CombinedLoss()(logits, torch.ones(1, 1, 512, 512)).item() == pytest.approx(
        0.7 * 0.75 * 0.5**3 * LN2 + 0.3 * (1 - 2 * 0.5 / 1.5), rel=1e-4
    )


def test_class_focal_by_hand():
    """p_t 1/2, 3/4 and 1/4 of classes with weights 1 and 3."""
    logits = torch.tensor([[0.0, 0.0], [LN3, 0.0], [LN3, 0.0]])
    target = torch.tensor([1, 0, 1])
    loss = ClassFocalLoss(torch.tensor([1.0, 3.0]), gamma=2.0)
    expected = [3 * 0.25 * LN2, 0.0625 * math.log(4 / 3), 3 * 0.5625 * math.log(4)]
    assert loss.each(logits, target).tolist() == pytest.approx(expected)
    assert loss(logits, target).item() == pytest.approx(sum(expected) / 3)


def test_class_focal_of_two_halves_is_that_of_the_whole():
    """Whatever their classes; torch's weighted cross-entropy is not."""
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(8, 2, generator=generator), torch.tensor([1, 1, 1, 1, 0, 0, 0, 1])
    loss = ClassFocalLoss(torch.tensor([0.7, 2.5]), gamma=2.0)
    halves = [loss(logits[part], target[part]) for part in (slice(4), slice(4, 8))]
    assert (sum(halves) / 2).item() == pytest.approx(loss(logits, target).item())


@pytest.mark.parametrize("value", [-200.0, 0.0, 200.0])
def test_class_focal_is_finite_at_extremes(value):
    logits = torch.tensor([[value, -value]], requires_grad=True)
    result = ClassFocalLoss(torch.ones(2))(logits, torch.tensor([0]))
    result.backward()
    assert torch.isfinite(result) and torch.isfinite(logits.grad).all()
