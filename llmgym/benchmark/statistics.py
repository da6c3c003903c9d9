"""Statistics of scores over seeds and challenges: pure functions of arrays.

With a handful of seeds a mean of means says little, and its standard error less. These are the aggregates that
Agarwal et al. propose in their place, each with an interval from a bootstrap that keeps the challenges apart.

Source: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", arXiv:2108.13264.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds; arrays of one shape where the statistic has several values.

    Attributes:
        value: Of the scores as they are.
        low: Lower bound; NaN where there is one seed, whose like nobody has seen.
        high: Upper bound; likewise.
    """

    value: Floats
    low: Floats
    high: Floats

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{float(self.value):.2f}"
        return f"{float(self.value):.2f} [{float(self.low):.2f}, {float(self.high):.2f}]"


def interquartile_mean(scores: npt.ArrayLike) -> float:
    """The mean of the middle half of all scores: a quarter, rounded down, is left out at each end.

    Less sensitive to a lucky run than the mean, and less wasteful than the median.

    Args:
        scores: Any shape; all of them count alike. Finite, at least one.

    Raises:
        ValueError: If there are none, or one is not finite.

    Example:
        >>> interquartile_mean([[0.0, 0.4], [0.6, 1.0]])
        0.5
    """
    ordered = np.sort(_checked(scores), axis=None)
    cut = ordered.size // 4
    return float(ordered[cut : ordered.size - cut].mean())


def optimality_gap(scores: npt.ArrayLike) -> float:
    """How far the scores stay below 1 on average: ``mean(max(0, 1 - score))``.

    Example:
        >>> optimality_gap([0.5, 1.0])
        0.25
    """
    return float(np.maximum(0.0, 1.0 - _checked(scores)).mean())


def performance_profile(scores: npt.ArrayLike, thresholds: Sequence[float] | Floats) -> Floats:
    """Share of runs, over all challenges, whose score is above each threshold.

    ``F(t) = 1/M sum_m 1/N sum_n [score_nm > t]`` (section 4.2 of the source). A curve above another one everywhere
    belongs to the better agent, whatever score is asked for.

    Args:
        scores: ``(N, M)``.
        thresholds: ``(K,)``.

    Returns:
        ``(K,)`` in [0, 1], falling.

    Example:
        >>> performance_profile([[0.2, 0.8]], [0.0, 0.5, 1.0])
        array([1. , 0.5, 0. ])
    """
    flat = _checked(scores).reshape(-1)
    profile: Floats = (flat[None, :] > np.asarray(thresholds, dtype=np.float64)[:, None]).mean(axis=1)
    return profile


def probability_of_improvement(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> float:
    """How likely a run of ours is better than one of theirs, on a challenge drawn at random.

    ``1/M sum_m P(X_m > Y_m)`` with ties counted half: the Mann-Whitney statistic of each challenge, averaged.

    Args:
        ours: ``(N, M)`` scores.
        theirs: ``(K, M)``, of the same challenges.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> probability_of_improvement([[1.0], [0.0]], [[0.5], [0.0]])
        0.625
    """
    x, y = _checked(ours), _checked(theirs)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"Expected scores (N, M) and (K, M) of the same M challenges, actual: {x.shape} and {y.shape}. Leave out "
            "the challenges that one of them lacks."
        )
    difference = x[:, None, :] - y[None, :, :]  # (N, K, M)
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def mean_regret(timesteps: npt.ArrayLike, normalised: npt.ArrayLike, budget: float) -> float:
    """The regret per step over a budget, in units of the way from random tokens to the optimum.

    ``integral of (1 - normalised) dt / budget`` by the trapezoid rule: 0 for an agent that is optimal from the
    beginning, 1 for one that stays with random tokens. What comes after the budget does not count; an agent that stops
    before it stays as it is.

    Args:
        timesteps: ``(K,)``, rising from 0.
        normalised: ``(K,)``. ``(value - random) / (optimum - random)`` at these.
        budget: Steps, above 0.

    Raises:
        ValueError: If the shapes differ, the timesteps do not rise from 0, or there is no budget.

    Example:
        >>> mean_regret([0, 100, 200], [0.0, 1.0, 1.0], 200), mean_regret([0, 100, 200], [0.0, 1.0, 1.0], 100)
        (0.25, 0.5)
    """
    t, y = np.asarray(timesteps, dtype=np.float64), _checked(normalised)
    if t.shape != y.shape or t.ndim != 1 or t[0] != 0 or np.any(np.diff(t) <= 0) or not budget > 0:
        raise ValueError(
            f"Expected timesteps that rise from 0, one for each value, and a budget above 0, actual: {t.tolist()} and "
            f"{budget}. Sort the curve."
        )
    inside = t < budget
    times, values = np.append(t[inside], budget), np.append(y[inside], np.interp(budget, t, y))
    return float(((1.0 - (values[1:] + values[:-1]) / 2) * np.diff(times)).sum() / budget)


def stratified_bootstrap(
    scores: npt.ArrayLike | Sequence[npt.ArrayLike],
    statistic: Callable[..., float | Floats],
    *,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A percentile interval from resampling seeds with replacement, for each challenge by itself.

    Args:
        scores: ``(N, M)``; or a tuple of such arrays, which are resampled independently and given to the statistic
            together.
        statistic: Of an array (or of several) of these shapes; a number or an array.
        n_resamples: More: a smoother interval.
        level: In (0, 1).
        seed: Of the resampling.

    Raises:
        ValueError: If an option is out of its bounds, or an array is not of two dimensions.

    Example:
        >>> print(stratified_bootstrap([[0.2, 0.6], [0.4, 0.8]], interquartile_mean))
        0.50 [0.40, 0.60]
    """
    arrays = [_checked(part) for part in scores] if isinstance(scores, tuple) else [_checked(scores)]  # type: ignore[arg-type]
    for array in arrays:
        if array.ndim != 2:
            raise ValueError(f"Expected scores (n_seeds, n_challenges), actual: {array.shape}. Put seeds into rows.")
    _check_bootstrap(level, n_resamples)
    value = np.asarray(statistic(*arrays), dtype=np.float64)
    if all(len(array) == 1 for array in arrays):
        return Interval(value, *[np.full_like(value, np.nan)] * 2)
    rng = np.random.default_rng(seed)
    samples = [_resampled(array, n_resamples, rng) for array in arrays]
    drawn = np.stack([np.asarray(statistic(*each)) for each in zip(*samples, strict=True)])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Interval(value, np.asarray(low), np.asarray(high))


def bootstrapped_mean(
    values: npt.ArrayLike, n_resamples: int = 2000, *, level: float = 0.95, seed: int = 0
) -> Interval:
    """The mean over seeds of one challenge, with its percentile interval: :func:`stratified_bootstrap`, at once.

    Args:
        values: ``(N, ...)``: a number, or several, of each seed. Those of one seed are drawn together.
        n_resamples: More: a smoother interval.
        level: In (0, 1).
        seed: Of the resampling.

    Returns:
        Arrays of shape ``(...)``.

    Example:
        >>> print(bootstrapped_mean([0.5, 0.5]), "and", bootstrapped_mean([0.5]))
        0.50 [0.50, 0.50] and 0.50
    """
    array = _checked(values)
    _check_bootstrap(level, n_resamples)
    value = np.asarray(array.mean(axis=0))
    if len(array) == 1:
        return Interval(value, *[np.full_like(value, np.nan)] * 2)
    rows = np.random.default_rng(seed).integers(len(array), size=(n_resamples, len(array)))
    low, high = np.quantile(array[rows].mean(axis=1), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Interval(value, np.asarray(low), np.asarray(high))


def _check_bootstrap(level: float, n_resamples: int) -> None:
    if not 0 < level < 1 or n_resamples < 1:
        raise ValueError(
            f"Expected a level in (0, 1) and n_resamples >= 1, actual: {level} and {n_resamples}. Change them."
        )


def _resampled(array: Floats, n: int, rng: np.random.Generator) -> Floats:
    """``(n, N, M)``: the array ``n`` times, the rows of each column drawn anew, each column by itself."""
    rows = rng.integers(len(array), size=(n, *array.shape))
    return array[rows, np.arange(array.shape[1])]


def _checked(scores: npt.ArrayLike) -> Floats:
    array = np.asarray(scores, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"Expected finite scores, at least one, actual: {array.tolist()}. Leave out what is missing.")
    return array
