"""Sums and means over chosen tokens: by hand, by other arithmetic, and with NaN where nothing should be read."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from llmgym.agents.masking import average_tokens, masked_mean, masked_sum, zero_outside  # noqa: E402
from tests.golden.agent_tensors import D, assert_masked_nan_poisons_nothing, normal, tensor, turns  # noqa: E402

MASK = torch.tensor([[True, True, True], [True, False, False]])
SIZES = {"n_sequences": 2, "n_tokens": 4, "max_tokens": 5}


def test_masked_mean_by_hand() -> None:
    values = tensor([1.0, 2.0, 6.0], [10.0, 99.0, 99.0])
    assert masked_mean(values, MASK).item() == 19 / 4
    assert masked_mean(values, MASK, dim=1).tolist() == [3.0, 10.0]
    assert masked_sum(values, MASK).item() == 19.0
    assert masked_sum(values, MASK, dim=0).tolist() == [11.0, 2.0, 6.0]
    assert masked_sum(values, MASK, dim=1).tolist() == [9.0, 10.0]


def test_what_is_outside_the_mask_does_not_count_even_if_it_is_no_number() -> None:
    values = tensor([1.0, 2.0, 6.0], [10.0, math.nan, math.inf]).requires_grad_()
    masked_mean(values, MASK).backward()
    assert values.grad.tolist() == [[0.25, 0.25, 0.25], [0.25, 0.0, 0.0]]


@pytest.mark.parametrize("how", ["sequence", "token", "constant"])
def test_masked_nan_reaches_no_average(how: str) -> None:
    mask = turns(0, 4, 6)
    sizes = {"n_sequences": 4, "n_tokens": int(mask.sum()), "max_tokens": 6}
    assert_masked_nan_poisons_nothing(lambda v: average_tokens(v, mask, how=how, **sizes), mask, [normal(1, 4, 6)])


def test_zero_outside_keeps_the_rest() -> None:
    mask = turns(0, 4, 6)
    values, others = normal(1, 4, 6), normal(2, 4, 6)
    kept, other = zero_outside(mask, values, others)
    assert torch.equal(kept[mask], values[mask]) and torch.equal(other[mask], others[mask])
    assert_masked_nan_poisons_nothing(lambda v: zero_outside(mask, v)[0], mask, [values])


def test_masking_the_loss_alone_is_too_late() -> None:
    """Why :func:`zero_outside` is there: 0 times NaN is NaN on the way back."""
    mask, weights = torch.tensor([[True, False]]), tensor([2.0, math.nan])
    values = tensor([1.0, math.nan]).requires_grad_()
    masked_sum(values * weights, mask).backward()
    assert values.grad[0, 0] == 2.0 and values.grad[0, 1].isnan()
    values.grad = None
    masked_sum(torch.mul(*zero_outside(mask, values, weights)), mask).backward()
    assert values.grad.tolist() == [[2.0, 0.0]]


def test_masks_with_one_token_or_none() -> None:
    assert masked_mean(tensor([1.0]), torch.tensor([[False]])).item() == 0.0
    assert masked_mean(tensor([1.0], [4.0]), torch.tensor([[False], [True]]), dim=1).tolist() == [0.0, 4.0]
    one = {"n_sequences": 1, "n_tokens": 1, "max_tokens": 1}
    assert average_tokens(tensor([3.0]), torch.tensor([[True]]), how="token", **one).item() == 3.0
    nothing = {"n_sequences": 1, "n_tokens": 0, "max_tokens": 1}
    assert average_tokens(tensor([1.0]), torch.tensor([[False]]), how="token", **nothing).item() == 0.0


def test_averages_by_hand() -> None:
    values = tensor([1.0, 2.0, 6.0], [10.0, 99.0, 99.0])
    assert average_tokens(values, MASK, how="sequence", **SIZES).item() == (3.0 + 10.0) / 2
    assert average_tokens(values, MASK, how="token", **SIZES).item() == 19.0 / 4
    assert average_tokens(values, MASK, how="constant", **SIZES).item() == 19.0 / 10
    for how in ("", "mean", "zzz"):
        with pytest.raises(ValueError, match=f'"sequence", "token" or "constant", actual: {how!r}'):
            average_tokens(values, MASK, how=how, **SIZES)


@pytest.mark.parametrize("how", ["sequence", "token", "constant"])
def test_averages_against_loops(how: str) -> None:
    mask, values = turns(3, 5, 7), normal(4, 5, 7)
    sizes = {"n_sequences": 5, "n_tokens": int(mask.sum()), "max_tokens": 9}
    expected = 0.0
    for row, chosen in zip(values.numpy(), mask.numpy(), strict=True):
        tokens = row[chosen]
        weight = {"sequence": 1 / (5 * max(len(tokens), 1)), "token": 1 / int(mask.sum()), "constant": 1 / 45}[how]
        expected += weight * float(np.add.reduce(tokens))
    assert average_tokens(values, mask, how=how, **sizes).item() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("how", ["sequence", "token", "constant"])
def test_averages_of_slices_add_up(how: str) -> None:
    mask = turns(5, 6, 4)
    values, sizes = normal(6, 6, 4), {"n_sequences": 6, "n_tokens": int(mask.sum()), "max_tokens": 7}
    whole = average_tokens(values, mask, how=how, **sizes)
    parts = [average_tokens(values[rows], mask[rows], how=how, **sizes) for rows in ([0, 4], [1], [2, 3, 5])]
    assert sum(part.item() for part in parts) == pytest.approx(whole.item(), abs=1e-12)


def test_averages_of_ones() -> None:
    """What each kind of average calls 1: the weights of its tokens sum to 1, or to the share of the budget used."""
    mask = turns(7, 4, 5)[:3]
    ones, sizes = torch.ones(3, 5, dtype=D), {"n_sequences": 3, "n_tokens": int(mask.sum()), "max_tokens": 5}
    assert average_tokens(ones, mask, how="sequence", **sizes).item() == pytest.approx(1.0)
    assert average_tokens(ones, mask, how="token", **sizes).item() == pytest.approx(1.0)
    assert average_tokens(ones, mask, how="constant", **sizes).item() == pytest.approx(int(mask.sum()) / 15)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"values.*\(1, 2\).*mask.*\(1, 3\)"):
        masked_mean(torch.zeros(1, 2), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"tensor.*\(1, 2\).*mask.*\(1, 3\)"):
        zero_outside(torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 2))
