from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from common.ensemble import decision as decisions
from common.ensemble.decision import COPY_FEATURES, FEATURES, copy_features, generated_features
from common.ensemble.fitting import Oof, fit_decision, fit_regions, fit_settings, fit_weights, grouped_folds
from common.ensemble.instances import MIN_AREA_SHARE, Cleanup
from common.errors import UserError
from common.metrics.forgery import image_auc
from common.sizes import size_of

S = 32


def make_oof(n=24, seed=0, **skills):
    """Pairs of an authentic and a forged image, and a member of each name: 0 is noise alone, 1 the truth alone."""
    rng = np.random.default_rng(seed)
    truths, maps = [], np.empty((n, len(skills), S, S), np.float16)
    for image in range(n):
        truth = np.zeros((image % 2, S, S), np.uint8)
        side, (top, left) = rng.integers(6, 14), rng.integers(0, S - 14, 2)
        truth[:, top : top + side, left : left + side] = 1
        truths.append(truth)
        for member, skill in enumerate(skills.values()):
            maps[image, member] = skill * truth.sum(axis=0) + (1 - skill) * rng.random((S, S))
    return Oof(
        names=tuple(skills),
        roles=("average",) * len(skills),
        original_weights=(1.0,) * len(skills),
        maps=maps,
        truths=truths,
        groups=np.array([f"source {image // 2}" for image in range(n)]),
        sizes=np.array([size_of(float(truth.mean())) if len(truth) else "authentic" for truth in truths]),
    )


def forged_images(oof):
    return np.flatnonzero(oof.forged)


def test_a_good_member_is_preferred_to_noise():
    weights = fit_weights(oof := make_oof(noise=0.0, good=0.6), forged_images(oof))
    assert weights[1] > 3 * weights[0]
    assert weights.sum() == pytest.approx(2)  # the sum of the original ones


def test_of_members_alike_one_is_enough():
    oof = make_oof(a=0.6)
    names, weights = ("a", "b"), (1.5, 0.5)
    oof = replace(oof, names=names, roles=("average",) * 2, original_weights=weights, maps=oof.maps.repeat(2, 1))
    assert fit_weights(oof, forged_images(oof)).tolist() == [2.0, 0.0]


def test_members_that_see_different_forgeries_share_the_weight():
    oof = make_oof(a=0.6, b=0.6)
    maps = oof.maps.copy()
    blind = forged_images(oof)
    maps[blind[::2], 0] = maps[blind[1::2], 1] = 0.1
    weights = fit_weights(replace(oof, maps=maps), blind)
    assert weights == pytest.approx([1.0, 1.0], abs=0.35)


def test_a_member_without_an_original_weight_stays_out():
    oof = replace(make_oof(noise=0.0, good=0.9), original_weights=(1.0, 0.0))
    assert fit_weights(oof, forged_images(oof)).tolist() == [1.0, 0.0]


def test_a_noisy_union_is_dropped_and_a_good_one_stays_a_probability():
    oof = replace(make_oof(good=0.6, joined=0.0), roles=("average", "union"), original_weights=(1.0, 0.8))
    assert fit_weights(oof, forged_images(oof))[1] < 0.6
    oof = replace(make_oof(noise=0.0, joined=1.0), roles=("average", "union"), original_weights=(1.0, 0.4))
    assert 0.4 < fit_weights(oof, forged_images(oof))[1] <= 1


def test_only_members_asked_for_have_a_weight_and_one_alone_is_averaged():
    oof = replace(make_oof(a=0.6, b=0.5, c=0.4), roles=("average", "average", "union"))
    assert (oof.only(["a", "b"]).original_weights, oof.only(["a", "b"]).roles) == ((1, 1, 0), oof.roles)
    alone = oof.only(["c"])
    assert alone.blended(1, alone.original_weights) == pytest.approx(oof.maps[1, 2])


def with_copies(oof, found):
    """With evidence besides, which knows the truth of the images `found`, and finds nothing in the others."""
    evidence = np.zeros((len(oof.truths), S, S), np.float16)
    copies = np.array([list(copy_features(0.0, 0, 0.0).values())] * len(oof.truths))
    for image in found:
        evidence[image] = 0.9 * oof.truths[image].max(axis=0)
        copies[image] = list(copy_features(0.9, 30, float(oof.truths[image].mean())).values())
    names, roles, weights = (*oof.names, "copy_move"), (*oof.roles, "evidence"), (*oof.original_weights, 1.0)
    return replace(oof, names=names, roles=roles, original_weights=weights, evidence=evidence, copies=copies)


def test_evidence_joins_the_blend_but_not_the_features_of_the_networks():
    oof = with_copies(make_oof(a=0.6), found=[1])
    assert (oof.networks(1, (1, 1)) == oof.maps[1, 0]).all()
    inside = oof.truths[1][0] > 0
    joined = oof.blended(1, (1, 0.5))
    assert joined[inside] == pytest.approx(np.maximum(oof.maps[1, 0][inside], 0.45), abs=1e-3)
    assert (joined[~inside] == oof.maps[1, 0][~inside]).all()
    features = oof.features(1, oof.networks(1, (1, 1)), 0.5)
    assert features == pytest.approx(
        make_oof(a=0.6).features(1, oof.maps[1, 0], 0.5) | copy_features(0.9, 30, float(inside.mean()))
    )
    assert set(features) == {*FEATURES, "soft_max_a", *COPY_FEATURES}


def test_evidence_can_stand_alone_or_be_left_out():
    oof = with_copies(make_oof(a=0.6), found=[1])
    alone, without = oof.only(["copy_move"]), oof.only(["a"])
    assert (alone.blended(1, alone.original_weights) == oof.evidence[1]).all()
    assert not alone.blended(3, alone.original_weights).any()
    assert tuple(alone.features(1, alone.networks(1, alone.original_weights), 0.5)) == COPY_FEATURES
    assert (without.blended(1, without.original_weights) == oof.maps[1, 0]).all()
    assert not set(COPY_FEATURES) & set(without.features(1, oof.maps[1, 0], 0.5))


def test_evidence_gets_a_factor_where_it_helps():
    noise = make_oof(noise=0.0)
    helps = with_copies(noise, found=forged_images(noise))
    assert 0.4 <= fit_weights(helps, forged_images(helps))[1] <= 1
    nothing = with_copies(noise, found=[])
    assert fit_weights(nothing, forged_images(nothing)).tolist() == [1.0, 0.0]


def test_the_decision_reads_the_copies():
    """Networks of noise, and copies found in the forged images alone."""
    oof = make_oof(n=48, noise=0.0)
    fitted = fit_settings(oof := with_copies(oof, found=forged_images(oof)), weights="original")
    assert set(COPY_FEATURES) <= set(fitted.decision.features)
    noise = oof.networks(0, (1, 1))
    found, nothing = (fitted.decision.probability(oof.features(i, noise, fitted.pixel_threshold)) for i in (1, 0))
    assert found > 0.8 > 0.2 > nothing


def test_the_probability_of_being_generated_is_a_feature_of_those_who_ask():
    oof = replace(make_oof(a=0.6), generated=np.linspace(0.3, 0.9, 24))
    asked, not_asked = oof.only(["a", "spai"]), oof.only(["a"])
    assert asked.original_weights == not_asked.original_weights == (1.0,)
    for image in (0, 23):
        features = not_asked.features(image, oof.maps[image, 0], 0.5)
        assert "generated" not in features
        expected = features | generated_features(oof.generated[image])
        assert asked.features(image, oof.maps[image, 0], 0.5) == expected


def test_the_decision_reads_the_detector_where_it_tells():
    """Networks of noise, and a detector that knows every second forged image."""
    oof = make_oof(n=96, noise=0.0)
    generated = np.full(96, 0.1)
    generated[1::4] = 0.9
    fitted = fit_settings(oof := replace(oof, generated=generated), weights="original")
    assert (fitted.weights, fitted.decision.reads_generated) == ({"noise": 1.0}, True)
    noise = oof.networks(0, (1,))
    known, unknown = (
        fitted.decision.probability(oof.features(image, noise, fitted.pixel_threshold)) for image in (1, 0)
    )
    assert known > 0.8 > unknown


def test_a_map_that_shows_a_forgery_is_never_vetoed():
    """A network that sees every forgery, all of them spliced into photographs, but for a few images."""
    oof = make_oof(n=96, good=0.6)
    generated = np.random.default_rng(0).uniform(0, 0.4, 96)
    generated[1:24:2] = 0.95
    fitted = fit_settings(oof := replace(oof, generated=generated), weights="original")
    decision = fitted.decision
    assert decision.reads_generated
    for image in forged_images(oof):
        features = oof.features(image, oof.maps[image, 0], fitted.pixel_threshold)
        by_score = [decision.probability(features | generated_features(p)) for p in (0.0, 0.3, 0.5, 0.7, 1.0)]
        assert by_score[0] > 0.8
        assert by_score[0] == by_score[1] == by_score[2] < by_score[3] < by_score[4]


def block(value=1.0):
    prob = np.zeros((64, 64), np.float16)
    prob[10:30, 10:30] = value
    return prob


def test_regions_stay_as_they_are_without_a_gain():
    assert fit_regions([block()], [block() > 0], 0.5) == (MIN_AREA_SHARE, Cleanup())


def test_specks_are_dropped_and_holes_filled_where_that_gains():
    """15 lone pixels of 0.024 % each, around a block of 400 with a hole of 64."""
    prob = block()
    prob[16:24, 16:24] = 0
    prob[40:64:10, 2:60:12] = 1
    area, cleanup = fit_regions([prob], [block() > 0], 0.5)
    assert area > 1 / prob.size
    assert cleanup.fill_holes
    assert not cleanup.opening


def separable(n=200, by_chance=False):
    """Features of which one tells the label; two images a group."""
    rng = np.random.default_rng(0)
    features = pd.DataFrame(rng.normal(size=(n, len(FEATURES))), columns=FEATURES)
    telling = features["quantile_999"].to_numpy()
    forged = rng.random(n) < 1 / (1 + np.exp(-telling * 2)) if by_chance else telling > 0
    return features, forged, np.repeat(np.arange(n // 2), 2).astype(str)


def test_what_features_separate_is_separated():
    features, forged, groups = separable()
    decision = fit_decision(features, forged, groups)
    probabilities = np.array([decision.probability(row) for _, row in features.iterrows()])
    assert image_auc(probabilities, forged) > 0.999
    assert ((probabilities > 0.5) == forged).mean() > 0.97


def test_probabilities_are_those_of_the_data():
    """Drawn with the probability that a logistic model of slope 2 on one feature gives."""
    features, forged, groups = separable(4000, by_chance=True)
    decision = fit_decision(features, forged, groups)
    probabilities = np.array([decision.probability(row) for _, row in features.iterrows()])
    assert np.abs(probabilities - 1 / (1 + np.exp(-features["quantile_999"] * 2))).mean() < 0.03
    for low in (0.0, 0.25, 0.5, 0.75):
        inside = (probabilities >= low) & (probabilities < low + 0.25)
        assert probabilities[inside].mean() == pytest.approx(forged[inside].mean(), abs=0.05)


def test_a_decision_reads_the_features_it_was_given():
    features, forged, groups = separable()
    decision = fit_decision(features[["quantile_999"]], forged, groups)
    assert decision.features == ("quantile_999",)
    row = features.iloc[0]
    others = dict.fromkeys(FEATURES, np.nan) | {"quantile_999": row["quantile_999"]}
    assert decision.probability(others) == decision.probability(row)


def test_a_constant_feature_does_no_harm():
    features, forged, groups = separable()
    features["disagreement"] = 0.0  # of one member
    assert 0 < fit_decision(features, forged, groups).probability(features.iloc[0]) < 1


def with_generated(features, logit):
    return features.assign(generated=[generated_features(p)["generated"] for p in 1 / (1 + np.exp(-logit))])


def test_a_detector_that_tells_adds_to_the_evidence():
    features, forged, groups = separable()
    features = with_generated(features.assign(quantile_999=0.0), np.where(forged, 2.0, -2.0))
    decision = fit_decision(features, forged, groups)
    row = dict.fromkeys(FEATURES, 0.0)
    by_score = [decision.probability(row | generated_features(p)) for p in (0.0, 0.5, 0.7, 0.9, 1.0)]
    assert by_score[0] == by_score[1] < 0.2
    assert by_score == sorted(by_score)
    assert by_score[-1] > 0.9
    column = decision.features.index("generated")
    assert (decision.mean[column], decision.scale[column]) == (0.0, pytest.approx(np.sqrt(2 * forged.sum() * 2 / 200)))


def test_a_detector_that_speaks_against_forgeries_is_left_out():
    features, forged, groups = separable(by_chance=True)
    against = with_generated(features, np.where(forged, -2.0, 2.0))
    assert fit_decision(against, forged, groups) == fit_decision(features, forged, groups)


@pytest.mark.parametrize("logit", [-1.0, 2.0, 40.0])
def test_a_detector_that_says_the_same_of_all_images_is_left_out(logit):
    features, forged, groups = separable(by_chance=True)
    same = with_generated(features, np.full(200, logit))
    assert fit_decision(same, forged, groups) == fit_decision(features, forged, groups)


def test_all_parts_are_fitted():
    oof = make_oof(noise=0.0, good=0.6)
    fitted = fit_settings(oof, weights="fitted")
    assert list(fitted.weights) == ["noise", "good"]
    # The good member's forged pixels lie in [0.6, 1], the others in [0, 0.4].
    assert 0.3 < fitted.pixel_threshold < 0.65
    weights = tuple(fitted.weights.values())
    found = [
        fitted.decision.probability(oof.features(i, oof.blended(i, weights), fitted.pixel_threshold))
        for i in range(len(oof.truths))
    ]
    assert image_auc(np.array(found), oof.forged) == 1


def test_parts_that_are_not_asked_for_are_not_fitted():
    fitted = fit_settings(make_oof(noise=0.0, good=0.6), weights="original", fit_mask=False, features=())
    assert fitted.weights == {"noise": 1.0, "good": 1.0}
    assert (fitted.min_area_share, fitted.cleanup, fitted.decision) == (MIN_AREA_SHARE, Cleanup(), None)


def test_the_fit_sees_the_images_that_it_is_given_alone():
    oof = make_oof(noise=0.0, good=0.6)
    spoilt = replace(oof, maps=oof.maps.copy())
    spoilt.maps[12:] = np.nan
    assert fit_settings(spoilt, np.arange(12)) == fit_settings(oof, np.arange(12))


def test_groups_are_never_split_and_every_fold_has_both_labels():
    forged, groups = np.arange(40) % 2 == 0, np.repeat(np.arange(10), 4).astype(str)
    fold_of = grouped_folds(forged, groups, 5, 0)
    assert all(len(set(fold_of[groups == group])) == 1 for group in groups)
    assert all(forged[fold_of == fold].any() and not forged[fold_of == fold].all() for fold in range(5))


SOURCES = [  # numbers of forged and authentic images
    ((49, 43), (0, 73), (1, 31)),
    ((3, 1), (0, 22), (10, 0), (8, 0)),
    ((1, 1), (0, 5), (54, 0)),
    ((500, 1), (1, 0), (0, 1), (0, 300)),
    ((7, 4), (67, 0), (5, 8), (0, 5)),
    ((2, 13), (36, 0), (19, 0), (0, 7), (0, 31)),
    ((1, 1), (0, 18), (0, 36), (5, 0), (26, 11), (0, 8)),
    ((90, 0), (1, 0), (1, 0), (0, 1), (0, 1), (0, 1), (0, 80)),
]


@pytest.mark.parametrize("sizes", SOURCES)
@pytest.mark.parametrize("left", [1, 2])
def test_unequal_sources_leave_both_labels_in_and_outside_each_fold(sizes, left):
    forged = np.concatenate([[True] * f + [False] * a for f, a in sizes])
    groups = np.repeat([f"source {i}" for i in range(len(sizes))], [f + a for f, a in sizes])
    count = min(sum(f > 0 for f, _ in sizes), sum(a > 0 for _, a in sizes))
    if count <= left:
        with pytest.raises(UserError, match=f"of at least {left + 1} sources each; .* of {count}"):
            grouped_folds(forged, groups, 5, 0, left)
        return
    for seed in range(5):
        fold_of = grouped_folds(forged, groups, 5, seed, left)
        assert set(fold_of) == set(range(min(5, count)))
        assert all(len(set(fold_of[groups == group])) == 1 for group in groups)
        for fold in set(fold_of):
            for label in (True, False):
                assert label in forged[fold_of == fold]
                assert len(set(groups[(fold_of != fold) & (forged == label)])) >= left


def test_a_decision_is_fitted_on_unequal_sources():
    forged, groups = np.array([True] * 50 + [False] * 105), np.repeat(["a", "b", "a", "c", "b"], [49, 1, 43, 31, 31])
    table = pd.DataFrame({"quantile_999": np.random.default_rng(3).normal(size=155) + 2 * forged})
    assert fit_decision(table, forged, groups).coefficients[0] > 0


def test_two_folds_that_are_split_again_need_four_sources():
    forged, groups = np.arange(8) % 2 == 0, np.arange(8).repeat(2)[:8].astype(str)
    fold_of = grouped_folds(forged, groups, 2, 0, left=2)
    assert np.bincount(fold_of).tolist() == [4, 4]
    with pytest.raises(UserError, match="at least 4 sources each; the forged ones are of 3, the authentic ones of 3"):
        grouped_folds(forged[:6], groups[:6], 2, 0, left=2)


@pytest.mark.parametrize("label", [True, False])
def test_one_label_alone_can_not_be_fitted(label):
    oof = make_oof(a=0.6)
    with pytest.raises(UserError, match="forged"):
        fit_settings(oof, np.flatnonzero(oof.forged == label))


def test_a_decision_that_has_hardly_seen_copies_does_not_read_them():
    """Nor one that would hold them against a forgery; then the evidence counts by itself."""
    rng = np.random.default_rng(0)
    forged, groups = np.arange(80) % 2 == 0, np.arange(80)
    maps = pd.DataFrame({"quantile_999": rng.normal(size=80) + forged})
    for passing, sign, read in ((9, 1, False), (12, 1, True), (12, -1, False)):
        score = np.full(80, -6.0)
        score[np.flatnonzero(forged if sign > 0 else ~forged)[:passing]] = 5.0
        table = maps.assign(copy_score=score, copy_inliers=score + 6, copy_area=score)
        decision = fit_decision(table, forged, groups)
        assert decision.reads_copies == read
        alone = fit_decision(maps, forged, groups)
        assert read or decision == alone
        assert decisions.with_copies(0.2, decision, 0.99) == (0.2 if read else 0.99)
        assert decisions.with_copies(0.7, decision, 0.1) == 0.7
    only = fit_decision(pd.DataFrame({"copy_score": score}), forged, groups)  # nothing else is left to decide by
    assert only.features == ("copy_score",)
