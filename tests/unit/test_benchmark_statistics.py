"""The statistics of the benchmark against loops, enumeration and numbers worked by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

pytest.importorskip("torch")  # the package of the benchmark loads agents

from llmgym.benchmark.statistics import (
    bootstrapped_mean,
    interquartile_mean,
    mean_regret,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)

SCORES = np.random.default_rng(0).uniform(size=(5, 7))


def test_interquartile_mean_by_sorting_a_list():
    ordered = sorted(SCORES.ravel().tolist())  # 35 scores: 8 left out at each end
    assert interquartile_mean(SCORES) == pytest.approx(sum(ordered[8:27]) / 19)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([3.0], 3.0), ([1.0, 2.0, 6.0], 3.0), ([0.0, 1.0, 2.0, 100.0], 1.5), ([-5, 1, 1, 1, 1, 1, 1, 9], 1.0)],
)
def test_interquartile_mean_by_hand(scores, expected):
    assert interquartile_mean(scores) == pytest.approx(expected)


def test_one_wild_run_does_not_move_the_interquartile_mean():
    wild = SCORES.copy()
    wild.flat[SCORES.argmax()] = 1e6
    assert interquartile_mean(wild) == pytest.approx(interquartile_mean(SCORES))


def test_performance_profile_by_counting():
    thresholds = np.linspace(0, 1, 11)
    counted = [sum(score > t for score in SCORES.ravel()) / SCORES.size for t in thresholds]
    assert performance_profile(SCORES, thresholds) == pytest.approx(counted)


def test_the_area_under_a_profile_is_the_mean_score():
    thresholds = (np.arange(10_000) + 0.5) / 10_000
    assert performance_profile(SCORES, thresholds).mean() == pytest.approx(SCORES.mean(), abs=1e-3)


def test_probability_of_improvement_by_counting_pairs():
    ours, theirs = SCORES.round(1), np.random.default_rng(1).uniform(size=(3, 7)).round(1)  # with ties
    by_challenge = []
    for column in range(7):
        pairs = [(x > y) + 0.5 * (x == y) for x, y in product(ours[:, column], theirs[:, column])]
        by_challenge.append(sum(pairs) / len(pairs))
    assert probability_of_improvement(ours, theirs) == pytest.approx(np.mean(by_challenge))
    assert probability_of_improvement(theirs, ours) == pytest.approx(1 - np.mean(by_challenge))


def test_optimality_gap_counts_no_score_above_one():
    assert optimality_gap([[1.5, 0.5], [0.0, 1.0]]) == pytest.approx((0 + 0.5 + 1 + 0) / 4)


def enumerated(columns, statistic):
    """The statistic of every way to draw each column with replacement: all are as likely as one another."""
    draws = [list(product(column, repeat=len(column))) for column in columns]
    return sorted(float(statistic(np.array(chosen).T)) for chosen in product(*draws))


@pytest.mark.parametrize("statistic", [np.mean, interquartile_mean, np.max], ids=["mean", "iqm", "max"])
def test_the_bootstrap_has_the_distribution_that_enumeration_gives(statistic):
    columns = [[0.0, 0.3, 1.0], [0.2, 0.25, 0.9]]
    exact = enumerated(columns, statistic)  # 27 * 27 ways
    interval = stratified_bootstrap(np.array(columns).T, statistic, n_resamples=20_000, level=0.8)
    assert float(interval.value) == pytest.approx(statistic(np.array(columns).T))
    for bound, share in ((interval.low, 0.1), (interval.high, 0.9)):
        below, above = np.quantile(exact, [share - 0.015, share + 0.015], method="nearest")
        assert below <= float(bound) <= above


def test_challenges_are_drawn_apart():
    """Were they drawn together, the means would be anywhere between 0 and 1."""
    scores = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    interval = stratified_bootstrap(scores, np.mean, n_resamples=200)
    assert float(interval.low) == float(interval.high) == 0.5


def test_several_arrays_are_drawn_independently():
    scores = np.array([[0.0], [1.0]])
    differences = stratified_bootstrap((scores, scores), lambda a, b: a.mean() - b.mean(), n_resamples=4000, level=0.98)
    assert (float(differences.low), float(differences.high)) == (-1.0, 1.0)  # 1/16 each; 0 always, if drawn together


def test_an_interval_of_a_profile_has_its_shape():
    interval = stratified_bootstrap(SCORES, lambda scores: performance_profile(scores, [0.2, 0.5, 0.8]))
    assert interval.value.shape == interval.low.shape == interval.high.shape == (3,)
    assert (interval.low <= interval.value).all()
    assert (interval.value <= interval.high).all()


def test_a_bootstrapped_mean_is_the_bootstrap_of_one_challenge():
    values = [0.1, 0.2, 0.7]
    exact = enumerated([values], np.mean)
    interval = bootstrapped_mean(values, 20_000, level=0.8)
    assert float(interval.value) == pytest.approx(1 / 3)
    assert float(interval.low) == pytest.approx(np.quantile(exact, 0.1, method="nearest"))
    assert float(interval.high) == pytest.approx(np.quantile(exact, 0.9, method="nearest"))


def test_curves_of_one_seed_are_drawn_whole():
    curves = np.array([[0.0, 1.0], [1.0, 0.0]])  # of each resample the two points add up to 1
    interval = bootstrapped_mean(curves, 500)
    assert interval.low.tolist() == [0.0, 0.0]
    assert interval.value.tolist() == [0.5, 0.5]


def test_more_confidence_is_a_wider_interval():
    widths = []
    for level in (0.5, 0.9, 0.99):
        interval = stratified_bootstrap(SCORES, interquartile_mean, level=level)
        widths.append(float(interval.high - interval.low))
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Ten seeds of a normal score with mean 0: a percentile interval of so few is somewhat too narrow."""
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(400):
        interval = bootstrapped_mean(rng.normal(size=10), 400, seed=trial)
        held += bool(interval.low <= 0.0 <= interval.high)
    assert 0.84 < held / 400 < 0.96


def test_regret_is_the_area_above_the_curve():
    timesteps, normalised = np.array([0, 10, 30, 100]), np.array([0.0, 0.5, 0.9, 1.1])
    expected = np.trapezoid(1 - normalised, timesteps) / 100
    assert mean_regret(timesteps, normalised, 100) == pytest.approx(expected)
    assert mean_regret(timesteps * 7, normalised, 700) == pytest.approx(expected)  # whatever the unit of time
    assert mean_regret([0], [0.25], 10) == 0.75  # never trained


def test_steps_beyond_the_budget_do_not_make_up_for_regret():
    until = mean_regret([0, 100], [0.0, 1.0], 100)
    assert until == 0.5
    assert mean_regret([0, 100, 1000], [0.0, 1.0, 1.0], 100) == until
    assert mean_regret([0, 200], [0.0, 2.0], 100) == until  # cut on the line between two evaluations
    assert mean_regret([0, 50], [0.0, 1.0], 100) == 0.25  # an agent that stops early stays as it is


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: interquartile_mean([]), "finite scores, at least one"),
        (lambda: interquartile_mean([0.0, np.nan]), "finite scores"),
        (lambda: probability_of_improvement([[1.0, 2.0]], [[1.0]]), "same M challenges"),
        (lambda: stratified_bootstrap([1.0], np.mean), "Put seeds into rows"),
        (lambda: stratified_bootstrap([[1.0]], np.mean, level=1.0), "a level in"),
        (lambda: bootstrapped_mean([1.0], 0), "n_resamples >= 1"),
        (lambda: mean_regret([0, 0], [0.0, 1.0], 1), "rise from 0"),
        (lambda: mean_regret([1, 2], [0.0, 1.0], 1), "rise from 0"),
        (lambda: mean_regret([0, 1, 2], [0.0, 1.0], 1), "one for each value"),
        (lambda: mean_regret([0, 1], [0.0, 1.0], 0), "a budget above 0"),
    ],
)
def test_wrong_input_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
