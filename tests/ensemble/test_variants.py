from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from common.ensemble.decision import copy_features
from common.ensemble.fitting import Oof
from common.ensemble.variants import FEW, FITTED, ORIGINAL, Variant, choose, gains, nested, summary, variants
from common.errors import UserError

S = 32


def make_oof(n=24, good=0.6, seed=0):
    """Pairs of an authentic and a forged image (a square of 8×8); a member that is noise, and one that knows it."""
    rng = np.random.default_rng(seed)
    truths = [np.zeros((image % 2, S, S), np.uint8) for image in range(n)]
    maps = rng.random((n, 2, S, S))
    maps[:, 1] *= 1 - good
    for image, truth in enumerate(truths):
        truth[:, 8:16, 8:16] = 1
        maps[image, 1] += good * truth.sum(axis=0)
    return Oof(
        names=("noise", "good"),
        roles=("average", "average"),
        original_weights=(1.0, 1.0),
        maps=maps.astype(np.float16),
        truths=truths,
        groups=np.array([f"source {image // 2}" for image in range(n)]),
        sizes=np.array(["large" if len(truth) else "authentic" for truth in truths]),
    )


GOOD = Variant(name="good", members=("good",))


def test_a_perfect_member_scores_one():
    table = nested(make_oof(good=1.0), GOOD)
    assert len(table) == 24
    assert (table["forged"] == (np.arange(24) % 2 == 1)).all()
    assert (table["mask_of1"] == 1).all()
    figures = summary(table)
    assert figures["image_auc"] == figures["pixel_f1"] == figures["pixel_recall_large"] == 1
    assert (figures["n_large"], figures["n_tiny"], figures["of1_all_authentic"]) == (12, 0, 0.5)
    assert np.isnan(figures["pixel_recall_tiny"])


def test_groups_are_never_split():
    table = nested(make_oof(), GOOD)
    assert (table["fold"].to_numpy()[::2] == table["fold"].to_numpy()[1::2]).all()
    assert set(table["fold"]) == set(range(5))


def test_three_sources_of_each_label_are_enough_and_two_are_not():
    oof = make_oof(n=6)
    assert sorted(nested(oof, GOOD)["fold"]) == [0, 0, 1, 1, 2, 2]
    with pytest.raises(UserError, match=r"of at least 3 sources each; the forged ones are of 2,"):
        nested(make_oof(n=4), GOOD)


def test_what_is_known_of_a_source_does_not_help():
    """Six copies of each source, labels by chance: a fit that had seen copies of the scored images would know them."""
    rng = np.random.default_rng(4)  # a draw in which such a model can: the last line holds it to that
    labels = (np.arange(8) % 2 == 0).repeat(6)
    # Each source has values of its own kind: few sources, six features, so that a linear model can tell them apart.
    powers = np.exp(rng.normal(0, 1.5, (8, 2, 1, 1)))
    maps = ((0.2 + 0.8 * rng.random((8, 2, 1, 1))) * rng.random((8, 2, S, S)) ** powers).repeat(6, axis=0)
    truth = np.ones((1, S, S), np.uint8)
    oof = replace(
        make_oof(n=48),
        maps=maps.astype(np.float16),
        truths=[truth if label else truth[:0] for label in labels],
        groups=np.arange(8).repeat(6).astype(str),
    )
    variant = Variant(name="all", members=oof.names, features=None)
    assert summary(nested(oof, variant))["image_auc"] < 0.6
    alone = replace(oof, groups=np.arange(48).astype(str))  # what a split by images would have claimed
    assert summary(nested(alone, variant))["image_auc"] > 0.8


def test_held_out_images_do_not_change_what_they_are_decided_by():
    """The probability of the others in a fold stays the same when one of them, with its label, is another."""
    oof = make_oof()
    variant = Variant(name="all", members=oof.names, features=None, fit_mask=True, weights="fitted")
    before = nested(oof, variant, folds=3)
    changed, image = replace(oof, maps=oof.maps.copy(), truths=list(oof.truths)), 5
    changed.maps[image] = np.float16(0.9)
    after = nested(changed, variant, folds=3)
    same = (before["fold"] == before["fold"][image]) & (before.index != image)
    assert same.sum() >= 3
    pd.testing.assert_frame_equal(before[same], after[same])
    assert not before.drop(index=image).equals(after.drop(index=image))  # the other folds were fitted on it


def test_any_pixel_flags_authentic_images():
    table = nested(make_oof(), Variant(name="any pixel", members=("noise",), features=()))
    assert summary(table)["image_fpr"] == 1
    assert summary(table)["of1"] < 0.25


def test_each_step_of_the_ladder_and_the_choice():
    oof = make_oof(n=16)
    summaries = {variant.name: summary(nested(oof, variant, folds=2)) for variant in variants(oof)}
    assert list(summaries) == ["noise", "good", "any pixel", "average", FEW, "+ decision", ORIGINAL, FITTED]
    assert summaries["good"]["pixel_f1"] > summaries["average"]["pixel_f1"] > summaries["noise"]["pixel_f1"]
    assert summaries[FITTED]["pixel_f1"] > summaries[ORIGINAL]["pixel_f1"]


def test_the_union_has_a_row_of_its_own():
    oof = replace(make_oof(), roles=("union", "average"))
    rows = {variant.name: variant.members for variant in variants(oof)}
    assert rows["average"] == ("good",)
    assert rows["+ union"] == ("noise", "good")


def test_the_ensemble_is_shown_with_and_without_evidence():
    """Two networks of noise, and evidence that knows every forgery."""
    oof = make_oof(good=0.0)
    truths = [truth.any(axis=0) if len(truth) else np.zeros((S, S), bool) for truth in oof.truths]
    copies = [list(copy_features(0.9 * t.any(), 20 * t.any(), float(t.mean())).values()) for t in truths]
    oof = replace(
        oof,
        names=(*oof.names, "copy_move"),
        roles=(*oof.roles, "evidence"),
        original_weights=(1.0, 1.0, 1.0),
        evidence=np.float16(0.9) * np.array(truths),
        copies=np.array(copies),
    )
    rows = {variant.name: variant for variant in variants(oof)}
    assert list(rows) == [
        "noise", "good", "copy_move", "any pixel", "average", "+ copy-move", FEW, "+ decision", ORIGINAL,
        FITTED, "without copy-move",
    ]  # fmt: skip
    figures = {name: summary(nested(oof, rows[name])) for name in ("copy_move", "+ copy-move", "without copy-move")}
    assert figures["copy_move"]["of1"] == figures["copy_move"]["image_auc"] == 1
    assert figures["+ copy-move"]["image_auc"] == 1
    assert figures["without copy-move"]["of1"] < 0.7
    assert choose({ORIGINAL: {"of1": 0.5}, FITTED: {"of1": 0.4}, "without copy-move": {"of1": 0.9}}) == ORIGINAL


def test_the_ensemble_is_shown_with_and_without_the_detector():
    """Two networks of noise, and a detector that knows every forgery."""
    oof = make_oof(n=32, good=0.0)
    oof = replace(oof, generated=np.where(oof.forged, 0.95, 0.05))
    rows = {variant.name: variant for variant in variants(oof)}
    ladder = ["noise", "good", "any pixel", "average", FEW, "+ decision", ORIGINAL, FITTED, "without spai"]
    assert list(rows) == ladder
    tables = {name: summary(nested(oof, rows[name])) for name in ("good", "average", FEW, FITTED, "without spai")}
    assert tables[FITTED]["image_auc"] == tables[FEW]["image_auc"] == 1
    assert max(tables[name]["image_auc"] for name in ("good", "average", "without spai")) < 0.8
    copies = np.array([list(copy_features(0.0, 0, 0.0).values())] * 32)
    evidence = np.zeros((32, S, S), np.float16)
    names, roles, weights = (*oof.names, "copy_move"), (*oof.roles, "evidence"), (1.0,) * 3
    both = replace(oof, names=names, roles=roles, original_weights=weights, evidence=evidence, copies=copies)
    members = {variant.name: variant.members for variant in variants(both)}
    assert list(members)[-2:] == ["without copy-move", "without spai"]
    assert members[ORIGINAL] == members[FITTED] == ("noise", "good", "copy_move", "spai")
    assert members["without copy-move"] == ("noise", "good", "spai")
    assert members["without spai"] == ("noise", "good", "copy_move")


def test_summary_by_hand():
    """Forged, called with F1 0.6; forged, called in max-recall alone; authentic, not called; authentic, called."""
    table = pd.DataFrame(
        {
            "forged": [True, True, False, False],
            "size": ["tiny", "large", "authentic", "authentic"],
            "forged_probability": [0.9, 0.6, 0.1, 0.7],
            "called_default": [True, False, False, True],
            "called_max-recall": [True, True, False, True],
            "mask_of1": [0.6, 0.5, 1.0, 0.0],
            "pixel_f1": [0.6, 0.5, np.nan, np.nan],
            "pixel_recall": [0.7, 0.4, np.nan, np.nan],
        }
    )
    figures = summary(table)
    assert figures["of1"] == pytest.approx((0.6 + 0 + 1 + 0) / 4)
    assert figures["lift"] == pytest.approx(0.4 - 0.5)
    assert (figures["image_recall"], figures["image_fpr"], figures["image_auc"]) == (0.5, 0.5, 0.75)
    assert figures["pixel_f1"] == pytest.approx(0.55)
    assert (figures["pixel_recall_tiny"], figures["n_tiny"]) == (0.7, 1)
    assert summary(table, "max-recall")["of1"] == pytest.approx((0.6 + 0.5 + 1 + 0) / 4)


@pytest.mark.parametrize(("fitted", "choice"), [(0.52, FITTED), (0.5, ORIGINAL), (0.48, ORIGINAL)])
def test_fitted_weights_must_be_better(fitted, choice):
    assert choose({"average": {"of1": 0.9}, ORIGINAL: {"of1": 0.5}, FITTED: {"of1": fitted}}) == choice


def test_more_features_must_be_better_to_be_used():
    assert choose({FEW: {"of1": 0.5}, ORIGINAL: {"of1": 0.5}, FITTED: {"of1": 0.5}}) == FEW
    assert choose({FEW: {"of1": 0.5}, ORIGINAL: {"of1": 0.51}, f"{FEW}, flips": {"of1": 0.52}}) == f"{FEW}, flips"


def test_further_views_must_be_better_too():
    figures = {ORIGINAL: {"of1": 0.5}, FITTED: {"of1": 0.4}, f"{ORIGINAL}, flips": {"of1": 0.5}}
    assert choose(figures) == ORIGINAL
    assert choose(figures | {f"{FITTED}, flips": {"of1": 0.6}}) == f"{FITTED}, flips"


def test_gains_are_differences_of_summaries_drawn_by_whole_sources():
    oof = make_oof(good=0.5)
    outcomes = {name: nested(oof, Variant(name=name, members=(name,))) for name in ("good", "noise")}
    found = gains(outcomes, "good", oof.groups, draws=50)
    assert found.keys() == {"noise"}
    good, noise = map(summary, outcomes.values())
    rng, drawn, places = np.random.default_rng(0), [], np.arange(24).reshape(12, 2)
    names = sorted(set(oof.groups))  # as strings: source 10 comes before source 2
    for _ in range(50):
        images = np.concatenate([places[int(names[n].split()[1])] for n in rng.integers(12, size=12)])
        drawn.append({name: summary(table.iloc[images]) for name, table in outcomes.items()})
    for metric, (value, low, high) in found["noise"].items():
        assert value == pytest.approx(good[metric] - noise[metric])
        expected = np.quantile([draw["good"][metric] - draw["noise"][metric] for draw in drawn], (0.025, 0.975))
        assert (low, high) == pytest.approx(tuple(expected))
        assert low < value < high


def test_a_variant_is_not_above_one_that_decides_alike():
    table = nested(make_oof(), GOOD)
    found = gains({"a": table, "b": table.copy()}, "a", make_oof().groups)
    assert set(found["b"].values()) == {(0.0, 0.0, 0.0)}
