import dataclasses
import importlib.util
import json

from common.config import TrainConfig
from common.data.dataset import ForgeryDataset, make_loader
from common.data.samples import fingerprint, load_samples
from common.data.sampling import WeightedSampler
from common.data.transforms import basic_augmentation
from common.errors import UserError
from common.training import engine
from common.training.checkpoint import build_network, load_checkpoint
from common.training.engine import fit
from common.training.losses import CombinedLoss

import pytest
import torch
from accelerate.utils import set_seed

SEED_KEYS = {"model_state_dict", "optimizer_state_dict", "epoch", "best_dice"}
KEYS = SEED_KEYS | {"config", "metrics", "threshold", "calibration", "fold", "versions", "data_fingerprint"}


class Interrupting(CombinedLoss):
    """Ctrl-C in the middle of a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    def forward(self, logits, target):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().forward(logits, target)


@pytest.fixture
def train(pairs_dir, tmp_path):
    samples = load_samples(pairs_dir)

    def train(loss=None, before_epoch=None, sampler=None, **fields):
        config = TrainConfig(name="tiny", models_dir=tmp_path, encoder_weights="none", tracker="none").quick()
        config = dataclasses.replace(
            config, image_size=64, segmentation_channels=32, decoder_channels=32, **{"epochs": 3} | fields
        )
        set_seed(config.seed)
        sampler = sampler or WeightedSampler([1.0] * len(samples), config.seed)
        train_loader = make_loader(ForgeryDataset(samples, 64, basic_augmentation()), 8, 0, sampler)
        val_loader = make_loader(ForgeryDataset(samples, 64), 8, 0)
        model, loss = build_network(config), loss or CombinedLoss()
        return fit(config, model, loss, train_loader, val_loader, fingerprint(samples), before_epoch)

    return train


def weights(path):
    return load_checkpoint(path)["model_state_dict"]


def test_it_learns_and_keeps_the_best(train, tmp_path):
    untrained = train(epochs=0)
    metrics = train(epochs=12)
    assert metrics["pixel_auc"] > max(0.8, untrained["pixel_auc"] + 0.2)
    best, last = load_checkpoint(tmp_path / "tiny_best.pth"), load_checkpoint(tmp_path / "tiny_last.pth")
    assert set(best) >= KEYS
    assert best["best_dice"] == best["metrics"]["dice"] == metrics["dice"] >= last["metrics"]["dice"]
    assert last["epoch"] == 11
    written = json.loads((tmp_path / "tiny_metrics.json").read_text())
    assert best["epoch"] == last["best_epoch"] == written["epoch"]
    assert written["dice"] == metrics["dice"]
    assert written["pixel_recall_tiny"] is None or 0 <= written["pixel_recall_tiny"] <= 1


def test_the_untrained_network_is_no_epoch(train, tmp_path):
    """Going on from it trains all epochs."""
    train(epochs=0, schedule="constant")
    assert load_checkpoint(tmp_path / "tiny_best.pth")["epoch"] == -1
    train(epochs=1, schedule="constant", resume=True)
    assert load_checkpoint(tmp_path / "tiny_last.pth")["epoch"] == 0


@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
def test_an_interrupted_run_resumes_to_the_same_weights(train, tmp_path, schedule):
    train(schedule=schedule)
    unbroken = weights(tmp_path / "tiny_last.pth")
    best = weights(tmp_path / "tiny_best.pth")
    for path in tmp_path.glob("tiny*"):
        path.unlink()
    with pytest.raises(KeyboardInterrupt, match="holds the run up to epoch 1; go on with --resume"):
        train(Interrupting(step=5), schedule=schedule)  # three steps an epoch: in the middle of the second
    train(schedule=schedule, resume=True)
    for name, resumed in weights(tmp_path / "tiny_last.pth").items():
        assert torch.equal(resumed, unbroken[name]), name
    for name, resumed in weights(tmp_path / "tiny_best.pth").items():
        assert torch.equal(resumed, best[name]), name


def test_interrupted_before_anything_was_saved(train, tmp_path):
    """Neither by this run nor, which would mislead, by an older one."""
    (tmp_path / "tiny_last.pth").write_bytes(b"of an older run")
    with pytest.raises(KeyboardInterrupt, match="nothing of this run is saved"):
        train(Interrupting(step=1))


def test_accumulated_steps_take_part(train, tmp_path):
    """Twenty images in three batches: two updates an epoch instead of three."""
    train(epochs=1, accumulation=2)
    optimizer = load_checkpoint(tmp_path / "tiny_last.pth")["optimizer_state_dict"]
    assert {state["step"].item() for state in optimizer["state"].values()} == {2}


def test_the_cycle_of_the_rate_spans_the_run(train, tmp_path):
    train(epochs=2)
    scheduler = load_checkpoint(tmp_path / "tiny_last.pth")["scheduler_state_dict"]
    assert scheduler["last_epoch"] == scheduler["total_steps"] == 2 * 3


def test_other_settings_are_not_resumed(train):
    train(epochs=1)
    with pytest.raises(UserError, match=r"other settings: epochs \(1 → 2\), lr \(0.001 → 0.01\)"):
        train(epochs=2, lr=0.01, resume=True)


def test_nothing_to_resume(train):
    with pytest.raises(UserError, match=r"tiny_last\.pth does not exist"):
        train(resume=True)


def test_a_diverged_training_stops_the_run(train):
    class Broken(CombinedLoss):
        def forward(self, logits, target):
            return super().forward(logits, target) * float("nan")

    with pytest.raises(UserError, match=r"the training diverged.* Lower --lr"):
        train(Broken())


def test_half_precision_needs_a_gpu(train):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="--precision bf16 needs a GPU"):
        train(precision="bf16")


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is not None, reason="mlflow is installed")
def test_a_tracker_that_is_not_installed_is_named(train):
    with pytest.raises(UserError, match="--tracker mlflow"):
        train(tracker="mlflow")


def test_tensorboard_gets_the_metrics(train, tmp_path):
    train(epochs=1, tracker="tensorboard")
    assert list((tmp_path / "runs" / "tiny").rglob("events.out.tfevents*"))


def test_the_hook_is_called_before_every_epoch_and_can_end_the_run(train, tmp_path):
    called = []

    def before_epoch(epoch):
        called.append(epoch)
        return epoch < 2

    train(before_epoch=before_epoch, epochs=5)
    assert called == [0, 1, 2]
    assert load_checkpoint(tmp_path / "tiny_last.pth")["epoch"] == 1
    assert json.loads((tmp_path / "tiny_metrics.json").read_text())["epoch"] <= 1


def test_recall_can_pick_the_best_epoch(train, tmp_path, monkeypatch):
    """Dice and recall of three epochs are given: each rule picks its own."""
    figures = iter([(0.30, 0.10), (0.28, 0.50), (0.10, 0.55)] * 2)
    real = engine.validate

    def validate(*arguments):
        validation = real(*arguments)
        dice, recall = next(figures)
        return dataclasses.replace(validation, metrics=validation.metrics | {"dice": dice, "pixel_recall": recall})

    monkeypatch.setattr(engine, "validate", validate)
    train()
    assert load_checkpoint(tmp_path / "tiny_best.pth")["epoch"] == 0
    train(recall_weight=0.6)
    best = load_checkpoint(tmp_path / "tiny_best.pth")
    assert best["epoch"] == 1  # 0.6 · 0.50 + 0.4 · 0.28 = 0.412 above 0.180 and 0.370
    assert best["best_dice"] == 0.28
    assert load_checkpoint(tmp_path / "tiny_last.pth")["best_score"] == pytest.approx(0.412)


def reweighing(sampler):
    """A hook that draws the first ten images in the first epoch, the others after it."""

    def before_epoch(epoch):
        sampler.reweigh([1.0] * 10 + [0.0] * 10 if epoch == 0 else [0.0] * 10 + [1.0] * 10)
        return True

    return before_epoch


def test_weights_set_before_an_epoch_are_those_it_draws_by(train, monkeypatch):
    drawn = []
    real = ForgeryDataset.__getitem__

    def getitem(self, key):
        if isinstance(key, tuple):
            drawn.append(key[0])
        return real(self, key)

    monkeypatch.setattr(ForgeryDataset, "__getitem__", getitem)
    sampler = WeightedSampler([1.0] * 20, 0)
    train(sampler=sampler, before_epoch=reweighing(sampler), epochs=2)
    assert len(drawn) == 40
    assert max(drawn[:20]) < 10 <= min(drawn[20:])


def test_a_resumed_run_draws_by_the_hooks_weights(train, tmp_path):
    samplers = [WeightedSampler([1.0] * 20, 0) for _ in range(3)]
    train(sampler=samplers[0], before_epoch=reweighing(samplers[0]))
    unbroken = weights(tmp_path / "tiny_last.pth")
    with pytest.raises(KeyboardInterrupt):
        train(Interrupting(step=5), sampler=samplers[1], before_epoch=reweighing(samplers[1]))
    train(resume=True, sampler=samplers[2], before_epoch=reweighing(samplers[2]))
    for name, resumed in weights(tmp_path / "tiny_last.pth").items():
        assert torch.equal(resumed, unbroken[name]), name
