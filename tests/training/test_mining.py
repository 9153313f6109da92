"""Mining with a network whose maps are known, against lists and figures worked out by hand."""

import math
from functools import partial

import albumentations as A
import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from common.data.dataset import ForgeryDataset
from common.data.pixel_cache import PixelCache
from common.data.samples import Sample, load_samples
from common.data.sampling import WeightedSampler
from common.errors import UserError
from common.training.mining import (
    Miner,
    comparison,
    hard_false_negatives,
    hard_negatives,
    misses_by_size,
    read_round,
    scan,
    write_round,
)

SIDE = 40
# Pixels of the 1,600 that the network flags; two pixels are the first number above 0.1 %.
AUTHENTIC = {"a": 0, "b": 800, "c": 1, "d": 2, "e": 40}
# Pixels that are forged, and how many of them it finds.
FORGED = {"a": (8, 8), "b": (8, 3), "c": (8, 4), "d": (160, 79), "e": (400, 0)}


class Brightness(nn.Module):
    """The red channel, times a gain, as the probability."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x):
        assert not self.training
        return torch.logit((self.gain * x[:, :1].float() / 255).clamp(0, 1), eps=1e-6)


@pytest.fixture
def model():
    return Brightness()


@pytest.fixture
def samples(tmp_path):
    """Authentic images a to e, then forged ones of the same names; what the network flags is bright."""
    for label in ("authentic", "forged"):
        (tmp_path / "train_images" / label).mkdir(parents=True)
    (tmp_path / "train_masks").mkdir()
    for case_id, flagged in AUTHENTIC.items():
        write(tmp_path / f"train_images/authentic/{case_id}.png", flagged)
    for case_id, (forged, found) in FORGED.items():
        write(tmp_path / f"train_images/forged/{case_id}.png", found)
        mask = np.arange(SIDE * SIDE).reshape(1, SIDE, SIDE) < forged
        np.save(tmp_path / f"train_masks/{case_id}.npy", mask.astype(np.uint8))
    return load_samples(tmp_path)


def write(path, flagged):
    """Values 150 for the first pixels, 100 for the others: on both sides of a probability of 0.5."""
    red = np.where(np.arange(SIDE * SIDE) < flagged, 150, 100).astype(np.uint8).reshape(SIDE, SIDE)
    cv2.imwrite(str(path), np.dstack([red, red, red]))


def case_ids(samples, positions):
    return "".join(samples[position].case_id for position in positions)


@pytest.mark.parametrize("training", [True, False])
def test_scan_sees_what_the_network_sees(model, samples, training):
    model.train(training)
    scanned = scan(model, ForgeryDataset(samples, SIDE), batch_size=3)
    assert model.training == training
    assert scanned["case_id"].tolist() == [sample.case_id for sample in samples] == list("abcdeabcde")
    assert scanned["forged"].tolist() == [False] * 5 + [True] * 5
    assert scanned["size"].tolist() == ["authentic"] * 5 + ["small"] * 3 + ["xlarge"] * 2
    flagged = [*AUTHENTIC.values(), *(found for _, found in FORGED.values())]
    assert scanned["flagged_share"].tolist() == [count / SIDE**2 for count in flagged]
    assert scanned["recall"][5:].tolist() == [8 / 8, 3 / 8, 4 / 8, 79 / 160, 0]
    assert scanned["recall"][:5].isna().all()


def test_scan_sees_the_pixels_that_are_trained_on(model, samples, tmp_path):
    """Those of the cache, without augmentation; and of some samples only, labelled as in the whole table."""
    dataset = ForgeryDataset(samples, SIDE, A.Compose([A.InvertImg(p=1)]))
    dataset.use_cache(cache := PixelCache(tmp_path / "cache", samples, dataset.form, 1e9))
    scanned = scan(model, dataset, batch_size=4)
    (slot,) = cache.slots(samples[1:2])
    cache.write(slot, np.full((SIDE, SIDE, 3), 200, np.uint8), np.zeros((SIDE, SIDE), np.uint8))
    again = scan(model, dataset, [9, 1], batch_size=4)
    assert again.index.tolist() == [9, 1] and again["case_id"].tolist() == ["e", "b"]
    assert again["flagged_share"].tolist() == [scanned["flagged_share"][9], 1.0]
    assert scanned["flagged_share"][1] == AUTHENTIC["b"] / SIDE**2


def test_exactly_the_known_images_are_hard_the_worst_first(model, samples):
    scanned = scan(model, ForgeryDataset(samples, SIDE), batch_size=4)
    assert hard_negatives(scanned) == [1, 4, 3]
    assert hard_negatives(scanned, most=2) == [1, 4]
    assert hard_false_negatives(scanned) == [9, 6, 8]
    assert hard_false_negatives(scanned, min_recall=0.51) == [9, 6, 8, 7]


def test_a_round_is_written_and_read(model, samples, tmp_path):
    """Authentic and forged images share their case ids."""
    scanned = scan(model, ForgeryDataset(samples, SIDE), batch_size=4)
    path = tmp_path / "models" / "round.csv"
    for hard in ([1, 4, 3], [9, 6, 8], []):
        write_round(path, scanned, hard)
        assert read_round(path, samples) == hard
    write_round(path, scanned, [9, 4])
    assert path.read_text() == "case_id,flagged_share,recall,size\ne,0.0,0.0,xlarge\ne,0.025,,authentic\n"
    assert read_round(path, samples[::-1]) == [0, 5]


def test_a_case_id_is_a_name(tmp_path):
    path = tmp_path / "round.csv"
    path.write_text("case_id,flagged_share,recall,size\n007,0.5,,authentic\nNA,0.4,,authentic\n")
    samples = [Sample(case_id=name, image=path, mask=None, group=name) for name in ("NA", "7", "007")]
    assert read_round(path, samples) == [2, 0]


def test_a_list_of_other_data_is_refused(model, samples, tmp_path):
    path = tmp_path / "round.csv"
    write_round(path, scan(model, ForgeryDataset(samples, SIDE), batch_size=4), [1])
    with pytest.raises(UserError, match=r"round\.csv: the authentic image b is not among the training images"):
        read_round(path, samples[:1] + samples[2:])


def test_names_that_a_list_could_not_tell_apart_are_refused_at_the_start(model, samples, tmp_path):
    with pytest.raises(UserError, match=r"authentic.a\.png.* have the same case id"):
        miner(model, [*samples, samples[0]], tmp_path)


def miner(model, samples, tmp_path, **changes):
    fields = {
        "name": "hard_negative",
        "models_dir": tmp_path / "models",
        "samples": samples,
        "candidates": [position for position, sample in enumerate(samples) if not sample.forged],
        "scan": partial(scan, model, ForgeryDataset(samples, SIDE), batch_size=4),
        "find": partial(hard_negatives, most=2),
        "sampler": WeightedSampler([1.0] * len(samples), seed=0),
        "hard_weight": 2.0,
        "rounds": 3,
        "epochs": 7,
    }
    return Miner(**fields | changes)


def drawn_as(sampler, weights):
    return sampler.probabilities == pytest.approx(np.array(weights) / sum(weights))


PLAIN = [1, 1, 1, 1, 1, 3, 3, 3, 1, 1]  # forged: three of 0.5 %, then 10 % and 25 %
ROUND_1 = [1, 2, 1, 1, 2, 3, 3, 3, 1, 1]
ROUND_2 = [1, 2, 1, 2, 2, 3, 3, 3, 1, 1]


def move(samples, **flagged):
    """Other maps for some authentic images, as if the network had learned."""
    for sample in samples:
        if not sample.forged and sample.case_id in flagged:
            write(sample.image, flagged[sample.case_id])


def test_rounds_find_write_and_weigh(model, samples, tmp_path, capsys):
    """Seven epochs in three rounds: they begin at 0, 3 and 5."""
    mining = miner(model, samples, tmp_path)
    assert mining.before_epoch(0)
    assert drawn_as(mining.sampler, ROUND_1)
    assert capsys.readouterr().out == "round 1: 2 hard negatives among 5 authentic images, 2 of them new\n"
    move(samples, b=0, d=300)
    assert mining.before_epoch(1) and mining.before_epoch(2)
    assert drawn_as(mining.sampler, ROUND_1)
    assert capsys.readouterr().out == ""
    assert mining.before_epoch(3)
    assert drawn_as(mining.sampler, ROUND_2)  # b is right now and still weighs 2
    assert capsys.readouterr().out == "round 2: 2 hard negatives among 5 authentic images, 1 of them new\n"
    assert mining.before_epoch(4)
    move(samples, a=0, b=900, c=0, d=0, e=0)
    assert not mining.before_epoch(5)  # b again, which round 1 had
    assert "round 3 has no new hard negatives: the training stops" in capsys.readouterr().out
    lists = [read_round(tmp_path / f"models/hard_negative_round_{k}.csv", samples) for k in (1, 2, 3)]
    assert [case_ids(samples, found) for found in lists] == ["be", "de", "b"]


@pytest.mark.parametrize(("epoch", "weights"), [(1, ROUND_1), (2, ROUND_1), (4, ROUND_2)])
def test_resumed_in_a_round_its_list_is_read(model, samples, tmp_path, epoch, weights):
    first = miner(model, samples, tmp_path)
    first.before_epoch(0)
    move(samples, b=0, d=300)
    first.before_epoch(3)
    resumed = miner(model, samples, tmp_path, scan=None)  # a scan would fail
    assert resumed.before_epoch(epoch)
    assert drawn_as(resumed.sampler, weights)


def test_resumed_at_the_start_of_a_round_it_is_mined_again(model, samples, tmp_path, capsys):
    miner(model, samples, tmp_path).before_epoch(0)
    path = tmp_path / "models" / "hard_negative_round_2.csv"
    path.write_text("of an older run")
    move(samples, b=0, d=300)
    capsys.readouterr()
    resumed = miner(model, samples, tmp_path)
    assert resumed.before_epoch(3)
    assert drawn_as(resumed.sampler, ROUND_2)
    assert "1 of them new" in capsys.readouterr().out
    assert case_ids(samples, read_round(path, samples)) == "de"


def test_a_new_run_forgets_the_lists_of_an_older_one(model, samples, tmp_path):
    miner(model, samples, tmp_path).before_epoch(0)
    move(samples, b=0, e=0)
    again = miner(model, samples, tmp_path)
    assert again.before_epoch(0)
    assert drawn_as(again.sampler, [1, 1, 1, 2, 1, 3, 3, 3, 1, 1])


def test_a_missing_list_can_not_be_resumed(model, samples, tmp_path):
    with pytest.raises(UserError, match=r"hard_negative_round_1\.csv does not exist.* without --resume"):
        miner(model, samples, tmp_path).before_epoch(1)


def test_nothing_hard_in_the_first_round_means_plain_weights(model, samples, tmp_path):
    with torch.no_grad():
        model.gain.zero_()
    mining = miner(model, samples, tmp_path)
    assert mining.before_epoch(0)
    assert drawn_as(mining.sampler, PLAIN)
    assert mining.before_epoch(1)
    assert not mining.before_epoch(3)


def test_misses_are_mined_alike(model, samples, tmp_path, capsys):
    mining = miner(
        model,
        samples,
        tmp_path,
        name="hard_false_negative",
        candidates=[5, 7, 8, 9],
        find=hard_false_negatives,
        hard_weight=5.0,
    )
    assert mining.before_epoch(0)
    assert drawn_as(mining.sampler, [1, 1, 1, 1, 1, 3, 3, 3, 5, 5])  # b (6) is no candidate
    assert capsys.readouterr().out == "round 1: 2 hard false negatives among 4 forged images, 2 of them new\n"
    assert (tmp_path / "models" / "hard_false_negative_round_1.csv").is_file()


@pytest.mark.parametrize("rounds", [0, 8])
def test_every_round_needs_an_epoch(model, samples, tmp_path, rounds):
    with pytest.raises(UserError, match=f"--rounds is {rounds}; it must be from 1 to .* 7"):
        miner(model, samples, tmp_path, rounds=rounds)


def test_every_round_comes_once(model, samples, tmp_path):
    assert mining_starts(model, samples, tmp_path, rounds=7) == [0, 1, 2, 3, 4, 5, 6]
    assert mining_starts(model, samples, tmp_path, rounds=3) == [0, 3, 5]
    assert mining_starts(model, samples, tmp_path, rounds=1) == [0]


def mining_starts(model, samples, tmp_path, rounds):
    """The epochs in which a run of seven scans; each scan finds another image."""
    starts = []

    def find(scanned):
        starts.append(epoch)
        return [len(starts)]

    candidates = range(10)
    mining = miner(model, samples, tmp_path, rounds=rounds, find=find, candidates=candidates)
    for epoch in range(7):
        assert mining.before_epoch(epoch)
    return starts


def test_nothing_to_mine_is_an_error(model, samples, tmp_path):
    with pytest.raises(UserError, match="no images to search for hard negatives"):
        miner(model, samples, tmp_path, candidates=[])


def table(authentic, forged):
    rows = [(f"a{i}", False, "authentic", share, math.nan) for i, share in enumerate(authentic)]
    rows += [(f"f{i}", True, size, 0.0, recall) for i, (size, recall) in enumerate(forged)]
    return pd.DataFrame(rows, columns=["case_id", "forged", "size", "flagged_share", "recall"])


BEFORE = table([0.5, 0.002, 0.001, 0.0], [("tiny", 0.0), ("tiny", 0.5), ("large", 0.9)])
AFTER = table([0.3, 0.0, 0.001, 0.0], [("tiny", 0.25), ("tiny", 0.5), ("large", 0.6)])


def rows_of(text):
    """Name → cells of a text table."""
    head, *lines = text.splitlines()
    parts = [line.rsplit(maxsplit=len(head.split())) for line in lines]
    return {name: cells for name, *cells in parts}


def test_comparison_by_hand():
    rows = rows_of(comparison(BEFORE, AFTER))
    assert rows["authentic: false positives"] == ["4", "0.5000", "0.2500", "-0.2500"]
    assert rows["authentic: flagged share"] == ["4", "0.1258", "0.0752", "-0.0505"]
    assert rows["forged: recall"] == ["3", "0.4667", "0.4500", "-0.0167"]
    assert rows["forged: recall, tiny"] == ["2", "0.2500", "0.3750", "+0.1250"]
    assert rows["forged: recall, large"] == ["1", "0.9000", "0.6000", "-0.3000"]
    assert rows["forged: recall, small"] == ["0", "–", "–", "–"]
    assert len(rows) == 8


def test_only_the_same_images_compare():
    with pytest.raises(ValueError, match="different images"):
        comparison(BEFORE, AFTER.iloc[::-1].reset_index(drop=True))


def test_misses_by_size_by_hand():
    rows = rows_of(misses_by_size(BEFORE))
    assert list(rows) == ["tiny", "small", "medium", "large", "xlarge"]
    assert rows["tiny"] == ["2", "1", "0.500"]
    assert rows["large"] == ["1", "0", "0.000"]
    assert rows["small"] == ["0", "0", "–"]
