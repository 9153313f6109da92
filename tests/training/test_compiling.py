import pytest
import torch
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader

from common.config.run import RunConfig
from common.errors import UserError
from common.training.checkpoint import load_checkpoint
from common.training.compiling import FIRST, PLAIN, TIMED, CompiledStep, break_even
from common.training.engine import Validation, fit

STEPS = PLAIN + FIRST + TIMED
# A linear problem in batches of four, and one of two at the end of an epoch.
ITEMS = [{"x": torch.tensor([i / 30, 1.0]), "y": torch.tensor(2 * i / 30 - 1), "index": i} for i in range(30)]


def step_of_items(model, batch):
    return (model(batch["x"])[:, 0] - batch["y"]).square().mean()


@pytest.mark.parametrize(
    ("plain", "first", "compiled", "said"),
    [
        # 9 s once: two steps of 5 s that would have been of 0.5 s. Each later one saves 0.5 s.
        (1.0, 5.0, 0.5, "compile: 9 s once, 1 → 0.5 s a step: pays after 18 of 100 steps"),
        (1.0, 50.0, 0.5, "compile: 99 s once, 1 → 0.5 s a step: would pay after 198 steps; this run has 100"),
        (0.5, 5.0, 0.5, "compile: 9 s once, 0.5 → 0.5 s a step: never pays"),
        (0.4, 5.0, 0.5, "compile: 9 s once, 0.4 → 0.5 s a step: never pays"),
    ],
)
def test_the_break_even_of_known_times(plain, first, compiled, said):
    assert break_even([9.0, 9.0] + [plain] * (PLAIN - 2) + [first] * FIRST + [compiled] * TIMED, 100) == said


@pytest.fixture
def train(tmp_path):
    def train(**fields):
        config = RunConfig(name="line", models_dir=tmp_path, workers=0, tracker="none", lr=0.01, **fields)
        set_seed(0)
        model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
        loaders = DataLoader(ITEMS, 4), DataLoader(ITEMS, 4)
        given = Validation({"spread": 0.0}, 0.0)
        options = {"criterion": "spread", "shown": ()}
        fit(config, model, step_of_items, lambda *_: given, *loaders, "items", **options)
        return load_checkpoint(tmp_path / "line_last.pth", ("model_state_dict",))

    return train


@pytest.mark.slow
def test_a_compiled_run_is_the_plain_one_and_resumes(train, capfd):
    """Two epochs of eight steps; the last of each, of two items, is not compiled."""
    plain = train(epochs=3)
    capfd.readouterr()
    compiled = train(epochs=2, compile=True)
    said = [line for line in capfd.readouterr().out.splitlines() if line.startswith("compile: ")]
    assert len(said) == 1
    assert said[0].endswith("never pays") or ("pay" in said[0] and " 16" in said[0])
    assert set(compiled["model_state_dict"]) == set(plain["model_state_dict"])
    compiled = train(epochs=3, compile=True, resume=True)
    for name, weight in plain["model_state_dict"].items():
        torch.testing.assert_close(compiled["model_state_dict"][name], weight, rtol=1e-4, atol=1e-5)


def test_only_whole_batches_are_compiled_and_only_after_the_first(monkeypatch):
    said, ways = [], []
    step = CompiledStep(step_of_items, 4, STEPS, said.append)
    monkeypatch.setattr(step, "plain", lambda *_: ways.append("plain"))
    monkeypatch.setattr(step, "compiled", lambda *_: ways.append("compiled"))
    whole, smaller = {"index": [0] * 4}, {"index": [0] * 2}
    for batch in [whole, smaller, *[whole] * (STEPS - 1), smaller, whole]:
        with step:
            step(None, batch)
    compiled = STEPS - PLAIN
    assert ways == ["plain"] * (PLAIN + 1) + ["compiled"] * compiled + ["plain", "compiled"]
    assert len(said) == 1


def test_without_a_compiler_it_says_what_is_missing(train, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("a GPU's code has another compiler")
    torch.compiler.reset()
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    with pytest.raises(UserError, match=r"--compile: .* needs a C\+\+ compiler"):
        train(epochs=1, compile=True)
