"""pass@k by enumeration, and the interval that goes with it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("torch")

from llmgym.agents.evaluation import pass_at_k, pass_interval


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 2), (5, 2, 3), (6, 0, 2), (4, 4, 1), (5, 3, 5)])
def test_pass_at_k_by_enumeration(n: int, c: int, k: int) -> None:
    right = [True] * c + [False] * (n - c)
    subsets = list(itertools.combinations(right, k))
    assert pass_at_k(np.array([c]), n, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_refuses_more_than_was_sampled() -> None:
    with pytest.raises(ValueError, match="<= 4"):
        pass_at_k(np.array([1]), 4, 5)


def test_wilson_interval_by_hand() -> None:
    low, high = pass_interval(np.array([[True]] * 8 + [[False]] * 2))
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert pass_interval(np.zeros((20, 1), dtype=bool))[0] == 0.0
    assert pass_interval(np.zeros((20, 1), dtype=bool))[1] > 0.1  # not certain after 20 failures


def test_interval_is_over_problems() -> None:
    """Repeating each response must not narrow it."""
    rng = np.random.default_rng(0)
    once = rng.random((200, 2)) < 0.4
    copied = np.repeat(once, 4, axis=1)
    assert np.allclose(pass_interval(once), pass_interval(copied))
