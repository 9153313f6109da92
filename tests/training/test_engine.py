import dataclasses
import importlib.util
import json
import math
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import psutil
import pytest
import torch
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader

from common.config.run import RunConfig
from common.config.segmentation import TrainConfig
from common.data.dataset import ForgeryDataset, make_loader
from common.data.samples import fingerprint, load_samples
from common.data.sampling import WeightedSampler
from common.data.transforms import basic_augmentation
from common.errors import UserError
from common.networks.pixels import unit_range
from common.networks.segmentation import build_network
from common.training.checkpoint import load_checkpoint
from common.training.engine import Data, Objective, fit
from common.training.history import read_history
from common.training.losses import CombinedLoss
from common.training.member import segmentation_step
from common.training.optimizing import layer_groups
from common.training.run_files import Validation
from common.training.validation import selection_score, validate

RECIPE_KEYS = {"model_state_dict", "optimizer_state_dict", "epoch", "best_dice"}
KEYS = RECIPE_KEYS | {"config", "metrics", "threshold", "calibration", "fold", "versions", "data_fingerprint"}


class Small(nn.Module):
    """Two convolutions and a batch norm, which begins with bright pixels, the forged ones, as authentic."""

    def __init__(self, config):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, 1, 1)
        self.body[0].weight.data.abs_()
        nn.init.constant_(self.head.weight, -0.1)

    def forward(self, x):
        return self.head(self.body(unit_range(x)))


class Dropping(Small):
    """The same with dropout, whose draws come from torch's generator."""

    def forward(self, x):
        return self.head(nn.functional.dropout(self.body(unit_range(x)), 0.3, self.training))


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

    def train(loss=None, before_epoch=None, sampler=None, validate=validate, network=Small, workers=0, **fields):
        config = TrainConfig(name="tiny", models_dir=tmp_path, encoder_weights="none", tracker="none").quick()
        sizes = {"image_size": 64, "segmentation_channels": 32, "decoder_channels": 32}
        config = dataclasses.replace(config, **sizes | {"epochs": 3} | fields)
        set_seed(config.seed)
        sampler = sampler or WeightedSampler([1.0] * len(samples), config.seed)
        train_loader = make_loader(ForgeryDataset(samples, 64, basic_augmentation()), 8, workers, sampler)
        val_loader = make_loader(ForgeryDataset(samples, 64), 8, workers)
        objective = Objective(step=partial(segmentation_step, loss or CombinedLoss()), validate=validate)
        data = Data(train_loader, val_loader, fingerprint(samples))
        return fit(config, network(config), objective, data, before_epoch=before_epoch)

    return train


def weights(path):
    return load_checkpoint(path)["model_state_dict"]


def test_it_learns_and_keeps_the_best(train, tmp_path):
    untrained = train(epochs=0)
    metrics = train(epochs=8, lr=0.03)
    assert metrics["pixel_auc"] > max(0.8, untrained["pixel_auc"] + 0.2)
    best, last = load_checkpoint(tmp_path / "tiny_best.pth"), load_checkpoint(tmp_path / "tiny_last.pth")
    assert set(best) >= KEYS
    assert best["best_dice"] == best["metrics"]["dice"] == metrics["dice"] >= last["metrics"]["dice"]
    assert last["epoch"] == 7
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


@pytest.mark.parametrize(
    ("schedule", "network"),
    [
        *(("one_cycle", Small), ("constant", Small), ("cosine", Small)),
        pytest.param("one_cycle", build_network, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_weights(train, tmp_path, schedule, network):
    train(schedule=schedule, network=network, epochs=2)
    unbroken = weights(tmp_path / "tiny_last.pth")
    best = weights(tmp_path / "tiny_best.pth")
    for path in tmp_path.glob("tiny*"):
        path.unlink()
    with pytest.raises(KeyboardInterrupt, match="holds the run up to epoch 1; go on with --resume"):
        # Three steps an epoch: in the second.
        train(Interrupting(step=5), schedule=schedule, network=network, epochs=2)
    train(schedule=schedule, network=network, epochs=2, resume=True)
    for name, resumed in weights(tmp_path / "tiny_last.pth").items():
        assert torch.equal(resumed, unbroken[name]), name
    for name, resumed in weights(tmp_path / "tiny_best.pth").items():
        assert torch.equal(resumed, best[name]), name


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_weight(train, tmp_path, workers):
    """Neither in one go, nor where a run goes on: the draws of dropout must stay the same."""
    train(network=Dropping, epochs=3)
    alone = weights(tmp_path / "tiny_last.pth")
    for names in (("whole",), ("broken", "resumed")):
        for path in tmp_path.glob("tiny*"):
            path.unlink()
        for name in names:
            loss = Interrupting(step=8) if name == "broken" else None  # three steps an epoch: in the third
            with pytest.raises(KeyboardInterrupt) if loss else nullcontext():
                train(loss, network=Dropping, epochs=3, workers=workers, resume=name == "resumed")
        for name, weight in weights(tmp_path / "tiny_last.pth").items():
            assert torch.equal(weight, alone[name]), (names, name)


class KillingWorkers(CombinedLoss):
    """In the second epoch, the system kills a process that loads images."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.others = 0, set(psutil.Process().children())

    def forward(self, logits, target):
        self.steps += 1
        if self.steps == 4:
            for child in set(psutil.Process().children()) - self.others:
                child.kill()
        return super().forward(logits, target)


def test_a_killed_worker_costs_no_finished_epoch(train, tmp_path):
    train(epochs=4)
    alone = weights(tmp_path / "tiny_last.pth")
    for path in tmp_path.glob("tiny*"):
        path.unlink()
    message = r"a process that loads images was killed.*fewer --workers; .*tiny_last\.pth holds the run up to epoch \d"
    with pytest.raises(UserError, match=message):
        train(KillingWorkers(), epochs=4, workers=1)
    train(epochs=4, workers=1, resume=True)
    assert all(torch.equal(alone[name], weight) for name, weight in weights(tmp_path / "tiny_last.pth").items())


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
    with pytest.raises(UserError, match=r"other settings: lr \(0.001 → 0.01\), clip_grad \(0.0 → 1.0\)") as caught:
        train(epochs=2, lr=0.01, clip_grad=1.0, resume=True)
    assert str(caught.value).endswith(" Go on with its own: --lr 0.001 --clip-grad 0.0")


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
    files = list((tmp_path / "runs" / "tiny").rglob("events.out.tfevents*"))
    assert files
    written = b"".join(file.read_bytes() for file in files)
    for name in (b"dice", b"loss", b"images_per_second", b"waiting_share"):
        assert name in written


def test_the_share_of_waiting_is_that_of_the_loader(train, monkeypatch, capsys):
    """By a clock of our own: each image takes one second to read, each of the three steps four."""
    now = [0.0]

    class Slow(CombinedLoss):
        def forward(self, logits, target):
            now[0] += 4
            return super().forward(logits, target)

    real = ForgeryDataset.__getitem__

    def getitem(self, key):
        now[0] += 1
        return real(self, key)

    monkeypatch.setattr(ForgeryDataset, "__getitem__", getitem)
    monkeypatch.setattr("common.training.engine.time", SimpleNamespace(perf_counter=lambda: now[0]))
    train(Slow(), epochs=1)
    # 20 s of 32 s
    assert ", 0.6 img/s, 62% waiting for data" in capsys.readouterr().out


def test_a_checkpoint_from_before_the_fused_optimiser_resumes(train, tmp_path):
    train(schedule="constant", epochs=2)
    fused = weights(tmp_path / "tiny_last.pth")
    train(schedule="constant", epochs=1)
    last = torch.load(tmp_path / "tiny_last.pth", weights_only=True)
    for group in last["optimizer_state_dict"]["param_groups"]:
        group["fused"] = None
    torch.save(last, tmp_path / "tiny_last.pth")
    train(schedule="constant", epochs=2, resume=True)
    for name, weight in weights(tmp_path / "tiny_last.pth").items():
        torch.testing.assert_close(weight, fused[name], rtol=1e-3, atol=1e-3, msg=name)


def test_the_hook_is_called_before_every_epoch_and_can_end_the_run(train, tmp_path):
    called = []

    def before_epoch(epoch):
        called.append(epoch)
        return epoch < 2

    train(before_epoch=before_epoch, epochs=5)
    assert called == [0, 1, 2]
    assert load_checkpoint(tmp_path / "tiny_last.pth")["epoch"] == 1
    assert json.loads((tmp_path / "tiny_metrics.json").read_text())["epoch"] <= 1


def test_recall_can_pick_the_best_epoch(train, tmp_path):
    """Dice and recall of three epochs are given: each rule picks its own."""
    figures = iter([(0.30, 0.10), (0.28, 0.50), (0.10, 0.55)] * 2)

    def given(*arguments, recall_weight=0.0):
        validation = validate(*arguments)
        dice, recall = next(figures)
        metrics = validation.metrics | {"dice": dice, "pixel_recall": recall}
        return dataclasses.replace(validation, metrics=metrics, score=selection_score(metrics, recall_weight))

    train(validate=given)
    assert load_checkpoint(tmp_path / "tiny_best.pth")["epoch"] == 0
    train(validate=partial(given, recall_weight=0.6))
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


# A training of another kind: points, one class or the other, a linear network.
POINTS = [{"x": torch.tensor([float(i % 2), 1.0 - i % 2, i / 8]), "label": float(i % 2), "index": i} for i in range(16)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PointsConfig(RunConfig):
    scales: tuple[float, float] = (0.5, 1.5)


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, batch):
        return self.head(self.body(batch["x"]))[:, 0]


def step_of_points(model, batch):
    return nn.functional.binary_cross_entropy_with_logits(model(batch), batch["label"].float())


@torch.no_grad()
def validate_points(accelerator, model, loader):
    model.eval()
    pairs = [accelerator.gather_for_metrics((model(batch), batch["label"])) for batch in loader]
    logits, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    accuracy = ((logits > 0) == (labels > 0.5)).float().mean().item()
    spread = (logits[labels > 0.5].mean() - logits[labels < 0.5].mean()).item()
    return Validation({"accuracy": accuracy, "spread": spread}, spread, {"temperature": 1.5})


@pytest.fixture
def train_points(tmp_path):
    def train(
        step=step_of_points,
        model=None,
        validate=validate_points,
        parameters=None,
        before_epoch=None,
        patience_from=0,
        **fields,
    ):
        common = {"name": "line", "models_dir": tmp_path, "workers": 0, "tracker": "none", "lr": 0.1, "epochs": 4}
        config = PointsConfig(**common | fields)
        set_seed(config.seed)
        model = model or Line()
        return fit(
            config,
            model,
            Objective(step=step, validate=validate, criterion="spread", shown=("accuracy",)),
            Data(DataLoader(POINTS, config.batch_size, shuffle=True), DataLoader(POINTS, config.batch_size), "points"),
            before_epoch=before_epoch,
            parameters=None if parameters is None else parameters(model),
            patience_from=patience_from,
        )

    return train


def test_another_kind_of_network_is_trained(train_points, tmp_path, capsys):
    untrained = train_points(epochs=0)
    metrics = train_points()
    assert metrics["spread"] > untrained["spread"] + 1
    assert metrics["accuracy"] == 1.0
    keys = {"best_spread", "temperature", "model_state_dict", "epoch", "config", "metrics"}
    best = load_checkpoint(tmp_path / "line_best.pth", keys)
    assert best["best_spread"] == metrics["spread"] and best["temperature"] == 1.5
    assert not {"best_dice", "threshold", "calibration", "fold"} & set(best)
    assert json.loads((tmp_path / "line_metrics.json").read_text())["accuracy"] == 1.0
    assert ", accuracy 1.000, " in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("fields", [{}, {"schedule": "cosine", "warmup_epochs": 1.5, "clip_grad": 0.1}])
def test_another_kind_of_network_resumes_to_the_same_weights(train_points, tmp_path, fields):
    def groups(model):
        return layer_groups(model, lambda name: int(name.startswith("head")), 0.1, 0.05, 0.5)

    def stage(epoch, model):
        model.body.requires_grad_(epoch > 1)
        return True

    def train(step, **more):
        model = Line()
        return train_points(step, model, parameters=groups, before_epoch=partial(stage, model=model), **fields | more)

    steps = iter(range(100))

    def interrupted(model, batch):
        if next(steps) == 10:  # four steps an epoch: in the third
            raise KeyboardInterrupt
        return step_of_points(model, batch)

    def last():
        return load_checkpoint(tmp_path / "line_last.pth", ("model_state_dict",))["model_state_dict"]

    set_seed(0)
    train(step_of_points)
    unbroken = last()
    (tmp_path / "line_last.pth").unlink()
    set_seed(0)
    with pytest.raises(KeyboardInterrupt, match="up to epoch 2"):
        train(interrupted)
    assert not torch.equal(last()["head.weight"], unbroken["head.weight"])
    train(step_of_points, resume=True)
    for name, resumed in last().items():
        assert torch.equal(resumed, unbroken[name]), name


def test_the_record_of_a_resumed_run_is_that_of_an_unbroken_one(train_points, tmp_path):
    def epochs():
        found = read_history(tmp_path / "line_history.json")["epochs"]
        best = json.loads((tmp_path / "line_metrics.json").read_text())
        assert found[str(best["epoch"] + 1)]["spread"] == best["spread"]
        return {number: (each["loss"], each["spread"]) for number, each in found.items()}

    train_points()
    unbroken = epochs()
    assert list(unbroken) == ["1", "2", "3", "4"] and (tmp_path / "line_curve.png").is_file()
    for path in tmp_path.glob("line*"):
        path.unlink()
    steps = iter(range(100))

    def interrupted(model, batch):
        if next(steps) == 10:  # four steps an epoch: in the third
            raise KeyboardInterrupt
        return step_of_points(model, batch)

    with pytest.raises(KeyboardInterrupt):
        train_points(interrupted)
    assert list(read_history(tmp_path / "line_history.json")["epochs"]) == ["1", "2"]
    train_points(resume=True)
    assert epochs() == unbroken and (tmp_path / "line_curve.png").is_file()


def test_no_picture_is_no_reason_to_fail(train_points, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: 1 / 0)
    (tmp_path / "line_history.json").mkdir()
    metrics = train_points(epochs=2)
    assert json.loads((tmp_path / "line_metrics.json").read_text())["spread"] == metrics["spread"]
    said = capsys.readouterr().out
    assert "line_curve.png was not drawn (division by zero)" in said and "line_history.json was not written" in said


def test_a_tracker_takes_a_tuple_and_a_continuation_knows_it_again(train_points, tmp_path):
    train_points(epochs=1, tracker="tensorboard")
    assert list((tmp_path / "runs" / "line").rglob("events.out.tfevents*"))
    train_points(epochs=2, resume=True)
    with pytest.raises(
        UserError, match=r"other settings: scales \(\[0.5, 1.5\] → \[0.5, 2.0\]\)\. .* own: --scales 0.5 1.5$"
    ):
        train_points(epochs=3, resume=True, scales=(0.5, 2.0))


def test_a_score_that_is_not_a_number_is_the_worst(train_points, tmp_path):
    """As the AUC of images of one class."""
    scores = iter([math.nan, -2.0, math.nan])
    train_points(validate=lambda *_: Validation({"spread": 0.0, "accuracy": 0.0}, next(scores)), epochs=3)
    assert load_checkpoint(tmp_path / "line_last.pth", ())["best_epoch"] == 1


@pytest.mark.parametrize(
    ("patience", "patience_from", "epochs"),
    [(0, 0, 12), (2, 0, 4), (2, 6, 8), (3, 0, 12)],
)
def test_a_training_without_progress_ends(train_points, tmp_path, capsys, patience, patience_from, epochs):
    """Better at epochs 1, 2, 5 and 8; two without progress are three and four."""
    scores = iter([1.0, 2.0, 0.0, 0.0, 3.0, 0.0, 0.0, 4.0, 0.0, 0.0, 5.0, 0.0])
    seen = []

    def validate(*_):
        seen.append(1)
        return Validation({"spread": 0.0, "accuracy": 0.0}, next(scores))

    if patience_from == 6:  # counted from the seventh epoch on: those before it may come to nothing
        scores = iter([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    train_points(validate=validate, epochs=12, patience=patience, patience_from=patience_from)
    assert len(seen) == epochs
    assert ("stopped" in capsys.readouterr().out) == (epochs < 12)


def test_a_training_that_ended_for_lack_of_progress_is_not_resumed(train_points, tmp_path):
    scores = iter([1.0, 0.0, 0.0, 5.0])

    def validate(*_):
        return Validation({"spread": 0.0, "accuracy": 0.0}, next(scores))

    train_points(validate=validate, epochs=9, patience=2)
    train_points(validate=validate, epochs=9, patience=2, resume=True)
    assert load_checkpoint(tmp_path / "line_last.pth", ())["epoch"] == 2


@pytest.mark.parametrize(("clip_grad", "norm"), [(0.0, 10.0), (2.0, 2.0), (20.0, 10.0)])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_gradients_norm_is_clipped(train_points, monkeypatch, clip_grad, norm, accumulation):
    """A loss of 6 w₀ + 8 w₁ has the gradient (6, 8), of norm 10, whatever the weights."""
    norms = []
    real = torch.optim.AdamW.step

    def step(self, *arguments, **options):
        norms.append(self.param_groups[0]["params"][0].grad.norm().item())
        return real(self, *arguments, **options)

    class Slope(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(2))

    def loss(model, batch):
        return 6 * model.w[0] + 8 * model.w[1]

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    given = Validation({"spread": 0.0, "accuracy": 0.0}, 0.0)
    fields = {"clip_grad": clip_grad, "accumulation": accumulation, "epochs": 1}
    train_points(loss, Slope(), lambda *_: given, **fields)
    assert norms == pytest.approx([norm] * (4 // accumulation), rel=1e-4)


def test_a_run_is_not_resumed_from_what_lacks_its_state(train_points, tmp_path):
    train_points(epochs=1)
    (tmp_path / "line_best.pth").replace(tmp_path / "line_last.pth")
    with pytest.raises(UserError, match="lacks scheduler_state_dict, best_epoch"):
        train_points(resume=True)


def test_a_field_that_is_new_since_had_its_default(train_points, tmp_path):
    train_points(epochs=1)
    path = tmp_path / "line_last.pth"
    last = torch.load(path, weights_only=True)
    del last["config"]["clip_grad"]
    torch.save(last, path)
    with pytest.raises(UserError, match=r"other settings: clip_grad \(0\.0 → 1\.0\)"):
        train_points(epochs=2, resume=True, clip_grad=1.0)
    train_points(epochs=2, resume=True)
    assert torch.load(path, weights_only=True)["epoch"] == 1


def test_fields_that_are_gone_may_only_have_had_the_value_that_is_left(train_points, tmp_path):
    """A checkpoint of an earlier version goes on, unless it averaged its weights or decoded at a reduced size."""
    train_points(epochs=1)
    path = tmp_path / "line_last.pth"
    last = torch.load(path, weights_only=True)
    last["config"] |= {"compile": True, "ema_decay": 0.9, "reduced_decode": False}
    torch.save(last, path)
    with pytest.raises(UserError, match=r"other settings: ema_decay \(0\.9 → 0\.0\)"):
        train_points(epochs=2, resume=True)
    last["config"]["ema_decay"] = 0.0
    torch.save(last, path)
    train_points(epochs=2, resume=True)
    last = torch.load(path, weights_only=True)
    assert last["epoch"] == 1 and "compile" not in last["config"]


def test_other_data_are_not_resumed(train, tmp_path):
    train(epochs=1, schedule="constant")
    last = load_checkpoint(tmp_path / "tiny_last.pth")
    torch.save(last | {"data_fingerprint": "others"}, tmp_path / "tiny_last.pth")
    with pytest.raises(UserError, match=r"the data are not those that .*tiny_last\.pth was trained on"):
        train(epochs=1, schedule="constant", resume=True)


def test_a_continuation_keeps_what_the_checkpoint_alone_knows(train, tmp_path):
    """Which encoder weights the run began with."""
    train(epochs=1, schedule="constant")
    train(epochs=2, schedule="constant", resume=True, encoder_weights="imagenet", data_dir="elsewhere")
    assert load_checkpoint(tmp_path / "tiny_last.pth")["config"]["encoder_weights"] == "none"
