import math
import time

import numpy as np
import pytest
from PIL import Image

from common.config.run import RunConfig
from common.training import history
from common.training.history import History, draw_curve, read_history


@pytest.fixture
def begin(tmp_path):
    config = RunConfig(name="$x$", models_dir=tmp_path, epochs=9)
    return lambda first=0: History(config, ("dice", "image_auc"), first)


def figures(epoch):
    return {
        "loss": 1 / (epoch + 1),
        "dice": epoch / 10,
        "image_auc": math.nan if epoch == 1 else 0.5,
        "other": math.inf,
    }


def colours(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), int)


def has(pixels, colour):
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return int((abs(pixels - wanted).max(axis=2) < 12).sum())


def test_every_epoch_is_written_and_the_picture_at_the_end(begin, tmp_path, capsys):
    run = begin()
    for epoch in range(4):
        run.add(epoch, figures(epoch))
        found = read_history(tmp_path / "$x$_history.json")
        assert list(found["epochs"]) == [str(number + 1) for number in range(epoch + 1)]
    assert found["epochs"]["2"] == {"loss": 0.5, "dice": 0.1, "image_auc": None, "other": None}
    assert found["config"]["epochs"] == 9 and found["command"]
    run.draw_sometimes(2)
    assert not (tmp_path / "$x$_curve.png").exists()  # a minute has not passed
    run.draw(2)
    pixels = colours(tmp_path / "$x$_curve.png")
    assert pixels.shape == (660, 880, 3)
    # Both metrics, the loss, and the best epoch.
    assert all(has(pixels, colour) > 100 for colour in (*history.COLOURS[:2], "#1c2430", "#8a8f98"))
    assert not has(pixels, history.COLOURS[2])
    assert not capsys.readouterr().out and not list(tmp_path.glob("*.partial"))


def test_a_long_run_is_drawn_meanwhile(begin, tmp_path, monkeypatch):
    run = begin()
    run.add(0, figures(0))
    now = time.monotonic() + history.BETWEEN_PICTURES
    monkeypatch.setattr(history.time, "monotonic", lambda: now)
    run.add(1, figures(1))
    run.draw_sometimes(0)
    assert (tmp_path / "$x$_curve.png").exists()
    (tmp_path / "$x$_curve.png").unlink()
    run.draw_sometimes(0)
    assert not (tmp_path / "$x$_curve.png").exists()


def test_a_continuation_goes_on_and_drops_later_epochs(begin, tmp_path):
    run = begin()
    for epoch in range(5):
        run.add(epoch, figures(epoch))
    again = begin(first=3)
    assert list(again.epochs) == ["1", "2", "3"]
    again.add(3, figures(3) | {"loss": 7.0})
    found = read_history(tmp_path / "$x$_history.json")
    assert found["epochs"]["4"]["loss"] == 7.0 and list(found["epochs"]) == ["1", "2", "3", "4"]
    again.draw(1)  # with the undefined values of before, which JSON has as null
    assert (tmp_path / "$x$_curve.png").exists()
    begin().add(0, figures(0))  # another run
    assert list(read_history(tmp_path / "$x$_history.json")["epochs"]) == ["1"]


def test_a_run_of_one_epoch_leaves_no_picture_of_an_older_one(begin, tmp_path):
    (tmp_path / "$x$_curve.png").write_bytes(b"of an older run")
    run = begin()
    run.add(0, figures(0))
    run.draw(0)
    assert not (tmp_path / "$x$_curve.png").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"epochs": 3}', '{"epochs": {"one": {}}}', "\0"])
def test_a_broken_record_is_a_message_and_begins_anew(begin, tmp_path, capsys, text):
    (tmp_path / "$x$_history.json").write_text(text)
    run = begin(first=2)
    assert "note: " in (said := capsys.readouterr().out) and "$x$_history.json can't be read, and begins anew" in said
    run.add(2, figures(2))
    assert list(read_history(tmp_path / "$x$_history.json")["epochs"]) == ["3"]


def test_what_cannot_be_written_or_drawn_is_a_message(begin, tmp_path, capsys, monkeypatch):
    run = begin()
    (tmp_path / "$x$_history.json").mkdir()
    run.add(0, figures(0))
    run.add(1, figures(1) | {"dice": "a text"})
    said = capsys.readouterr().out
    assert said.count("$x$_history.json was not written (") == 2 and said.count("\n") == 2
    run.add(1, figures(1))

    def broken(*arguments):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(history, "draw_curve", broken)
    run.draw(0)
    assert "_curve.png was not drawn (no fonts)" in capsys.readouterr().out


def test_metrics_of_any_range_are_drawn(tmp_path):
    epochs = {"1": {"loss": None, "spread": -3.0}, "3": {"loss": 2.0, "spread": 40.0}, "10": {"spread": None}}
    draw_curve(tmp_path / "c.png", "line", epochs, ["spread", "missing"], 3)
    assert has(colours(tmp_path / "c.png"), history.COLOURS[0]) > 100
