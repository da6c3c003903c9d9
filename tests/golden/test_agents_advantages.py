"""Advantages: worked by hand, by float64 loops written another way, and by what they must reduce to."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from llmgym.agents.advantages import (  # noqa: E402
    gae,
    group_advantages,
    groups_with_signal,
    length_adaptive_lambda,
    process_advantages,
    rewards_of_actions,
    soft_overlong_penalty,
    step_gae,
    td_advantages,
    whiten,
)
from tests.golden.agent_tensors import D, assert_masked_nan_poisons_nothing, normal, tensor, turns  # noqa: E402

NAN = math.nan

# -- groups -----------------------------------------------------------------------------------------------------------


def test_group_advantages_by_hand() -> None:
    returns = tensor([0.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0])
    std = math.sqrt(3) / 4  # of 0, 0, 0, 1, dividing by G
    expected = [[-0.25 / (std + 1e-4)] * 3 + [0.75 / (std + 1e-4)], [0.0] * 4]
    assert np.allclose(group_advantages(returns), expected, atol=1e-12)
    assert group_advantages(returns, normalization="mean").tolist() == [[-0.25, -0.25, -0.25, 0.75], [0.0] * 4]


def test_ranks_by_hand() -> None:
    """Ranks 0, 1.5, 1.5, 3, 4: mean 2, squared deviations 4 + 1/4 + 1/4 + 1 + 4 = 9.5. The outlier is one place up."""
    returns = tensor([-1.0, 0.5, 0.5, 2.0, 1e6], [3.0] * 5)
    ranks = np.array([0.0, 1.5, 1.5, 3.0, 4.0])
    expected = [(ranks - 2.0) / math.sqrt(9.5 / 5), np.zeros(5)]
    assert np.allclose(group_advantages(returns, normalization="rank"), expected, atol=1e-12)


def test_ranks_against_sorting() -> None:
    returns = np.random.default_rng(0).integers(0, 4, size=(6, 7)).astype(float)
    expected = []
    for row in returns:
        ranks = np.array([np.mean([i for i, other in enumerate(sorted(row)) if other == mine]) for mine in row])
        expected.append((ranks - 3.0) / np.std(ranks))
    assert np.allclose(group_advantages(torch.from_numpy(returns), normalization="rank"), expected, atol=1e-12)


def test_leave_one_out_against_loops() -> None:
    returns = normal(1, 3, 5)
    expected = [[row[i] - np.mean(np.delete(row, i)) for i in range(5)] for row in returns.numpy()]
    assert np.allclose(group_advantages(returns, normalization="leave_one_out"), expected, atol=1e-12)


@pytest.mark.parametrize("normalization", ["z_score", "mean", "rank", "leave_one_out"])
def test_group_advantages_sum_to_zero_and_ignore_shifts(normalization: str) -> None:
    returns = normal(0, 5, 8)
    advantages = group_advantages(returns, normalization=normalization)
    assert torch.allclose(advantages.sum(1), torch.zeros(5, dtype=D), atol=1e-12)
    assert torch.allclose(group_advantages(returns + 3.0, normalization=normalization), advantages)
    scaled = group_advantages(10 * returns, normalization=normalization, epsilon=0.0)
    factor = 1.0 if normalization in ("z_score", "rank") else 10.0
    assert torch.allclose(scaled, factor * group_advantages(returns, normalization=normalization, epsilon=0.0))


@pytest.mark.parametrize("normalization", ["z_score", "mean", "rank", "leave_one_out"])
def test_equal_returns_give_exactly_zero(normalization: str) -> None:
    """0.1 three times has another mean in float32: what is left of it must not be divided by next to nothing."""
    advantages = group_advantages(torch.full((2, 3), 0.1), normalization=normalization, epsilon=0.0)
    assert advantages.dtype == torch.float32 and advantages.tolist() == [[0.0] * 3] * 2


def test_groups_with_signal() -> None:
    returns = tensor([0.0, 0.0], [0.0, 1.0], [0.3, 0.3 + 1e-9], [0.3, 0.3 + 2e-6], [1.0, 0.0])
    assert groups_with_signal(returns).tolist() == [False, True, False, True, True]
    assert groups_with_signal(tensor([0.0, 0.5], [0.0, 0.75]), tolerance=0.5).tolist() == [False, True]


def test_group_advantages_refuse_what_cannot_work() -> None:
    with pytest.raises(ValueError, match=r"G >= 2.*\(3, 1\)"):
        group_advantages(torch.zeros(3, 1))
    for shape in ((4,), (2, 3, 4)):
        with pytest.raises(ValueError, match=r"\(P, G\).*actual: " + re.escape(str(shape))):
            group_advantages(torch.zeros(shape))
    for normalization in ("", "median", "zzz"):
        with pytest.raises(ValueError, match=f"z_score.*actual: {normalization!r}"):
            group_advantages(torch.zeros(3, 2), normalization=normalization)
    for bad in (NAN, math.inf):
        with pytest.raises(ValueError, match=f"actual: {bad} for response 2 to problem 1"):  # the first of them
            group_advantages(tensor([0.0, 1.0, 2.0], [0.0, 1.0, bad], [-bad, 0.0, 0.0]))
    assert group_advantages(torch.tensor([[0.0, 2.0]]), normalization="mean").tolist() == [[-1.0, 1.0]]  # G = 2 will do


# -- generalised advantage estimation ---------------------------------------------------------------------------------

MASK = torch.tensor([[True, True, False, False, True, True]])
VALUES = tensor([0.1, 0.2, 0.9, 0.8, 0.4, 0.6])
REWARDS = tensor([0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
ZERO = torch.zeros(1, dtype=D)


def gae_of_one(rewards, values, last_value, gamma, gae_lambda):
    """Another way to the same: the sum over k of (1 - lambda) lambda^(k-1) times the k-step advantage.

    The weights of all that reach past the end go to the last of them. Schulman et al. 2016, eq. 11 to 16.
    """
    values = [*values, last_value]
    n, result = len(rewards), []
    for t in range(n):
        k_step = [
            sum(gamma**i * rewards[t + i] for i in range(k)) + gamma**k * values[t + k] - values[t]
            for k in range(1, n - t + 1)
        ]
        weights = [(1 - gae_lambda) * gae_lambda**k for k in range(n - t)]
        weights[-1] = gae_lambda ** (n - t - 1)
        result.append(sum(w * a for w, a in zip(weights, k_step, strict=True)))
    return np.array(result)


def gae_in_loops(rewards, values, last_values, mask, gamma, lambdas):
    """Row by row: the rewards of each token and of what follows it up to the next one, then :func:`gae_of_one`."""
    advantages = np.zeros(mask.shape)
    for b, chosen in enumerate(mask):
        places = np.flatnonzero(chosen)
        ends = [*places[1:], mask.shape[1]][: len(places)]
        paid = [sum(rewards[b, start:end]) for start, end in zip(places, ends, strict=True)]
        advantages[b, places] = gae_of_one(paid, values[b, places], last_values[b], gamma, lambdas[b])
    return advantages


def test_gae_over_turns() -> None:
    """The agent's tokens only. Two ways to get this wrong give other numbers, and both have been shipped."""
    advantages, returns = gae(REWARDS, VALUES, ZERO, MASK, gamma=1.0, gae_lambda=0.95)
    expected = [0.81345, 0.751, 0.0, 0.0, 0.58, 0.4]  # 0.4, 0.2 + 0.95 * 0.4, 0.2 + 0.95 * 0.58, 0.1 + 0.95 * 0.751
    assert np.allclose(advantages, [expected], atol=1e-12)
    assert np.allclose(returns, [[0.91345, 0.951, 0.0, 0.0, 0.98, 1.0]], atol=1e-12)
    every = np.ones((1, 6), dtype=bool)
    rewards, values = REWARDS.numpy(), VALUES.numpy()
    zeroed = gae_in_loops(rewards, values * MASK.numpy(), [0.0], every, 1.0, [0.95])[0]
    unmasked = gae_in_loops(rewards, values, [0.0], every, 1.0, [0.95])[0]
    assert np.allclose(zeroed[:2], [0.7254, 0.6583], atol=5e-5) and not np.allclose(zeroed[:2], expected[:2], atol=0.01)
    assert np.allclose(unmasked[:2], [0.8042, 0.7413], atol=5e-5)


def test_gae_by_hand() -> None:
    """With gamma 1/2 and lambda 1/2, and a gap that discounts nothing."""
    mask = torch.tensor([[True, False, True]])
    advantages, returns = gae(
        tensor([2.0, 0.0, 0.0]), tensor([1.0, 9.0, 4.0]), torch.tensor([12.0], dtype=D), mask, gamma=0.5, gae_lambda=0.5
    )
    # delta_2 = 0 + 12/2 - 4 = 2; delta_0 = 2 + 4/2 - 1 = 3; A_0 = 3 + 2/4
    assert advantages.tolist() == [[3.5, 0.0, 2.0]] and returns.tolist() == [[4.5, 0.0, 6.0]]


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 0.7), (0.5, 0.0), (0.8, 1.0), (0.0, 0.5)])
def test_gae_against_weighted_k_step_returns(gamma: float, gae_lambda: float) -> None:
    mask, values, last = turns(0, 6, 9), normal(2, 6, 9), normal(3, 6)
    rewards = normal(1, 6, 9) * mask[:, :1]  # a row without tokens has earned nothing
    expected = gae_in_loops(*(t.numpy() for t in (rewards, values, last, mask)), gamma, [gae_lambda] * 6)
    advantages, returns = gae(rewards, values, last, mask, gamma=gamma, gae_lambda=gae_lambda)
    assert np.allclose(advantages, expected, atol=1e-12)
    assert np.allclose(returns, expected + (values * mask).numpy(), atol=1e-12)


def test_each_response_may_have_its_own_lambda() -> None:
    mask, values, last = turns(0, 4, 9), normal(2, 4, 9), normal(3, 4)
    rewards, lambdas = normal(1, 4, 9) * mask[:, :1], torch.tensor([0.0, 0.4, 1.0, 0.5], dtype=D)
    expected = gae_in_loops(*(t.numpy() for t in (rewards, values, last, mask)), 0.9, lambdas.numpy())
    assert np.allclose(gae(rewards, values, last, mask, gamma=0.9, gae_lambda=lambdas)[0], expected, atol=1e-12)


def test_lambda_one_is_monte_carlo() -> None:
    mask, values, last = turns(4, 5, 8)[:4], normal(5, 4, 8), normal(6, 4)
    rewards = normal(7, 4, 8) * mask
    _, returns = gae(rewards, values, last, mask, gamma=0.9, gae_lambda=1.0)
    for b in range(4):
        places = np.flatnonzero(mask[b])
        for i, t in enumerate(places):
            later = places[i:]
            discounted = sum(0.9**k * rewards[b, u].item() for k, u in enumerate(later)) + 0.9 ** len(later) * last[b]
            assert returns[b, t].item() == pytest.approx(discounted.item(), abs=1e-12)


def test_lambda_zero_is_one_step_temporal_difference() -> None:
    advantages, returns = td_advantages(REWARDS, VALUES, torch.tensor([0.3], dtype=D), MASK, gamma=0.5)
    assert np.allclose(advantages, [[0.5 * 0.2 - 0.1, 0.5 * 0.4 - 0.2, 0, 0, 0.5 * 0.6 - 0.4, 1 + 0.5 * 0.3 - 0.6]])
    assert np.allclose(returns, [[0.5 * 0.2, 0.5 * 0.4, 0, 0, 0.5 * 0.6, 1 + 0.5 * 0.3]])


def test_a_perfect_critic_leaves_no_advantage() -> None:
    """With the values that the rewards lead to, every delta is 0, so every lambda gives 0."""
    values = tensor([0.25, 0.5, NAN, NAN, 1.0, 2.0])
    rewards, last = tensor([0.0, 0.0, 0.0, 0.0, 0.0, 1.0]), torch.tensor([2.0], dtype=D)
    advantages, returns = gae(rewards, values, last, MASK, gamma=0.5, gae_lambda=0.7)
    assert advantages.tolist() == [[0.0] * 6] and returns[MASK].tolist() == [0.25, 0.5, 1.0, 2.0]


def test_a_reward_on_a_masked_place_counts_for_the_action_before_it() -> None:
    mask = torch.tensor([[True, True, False, True, False, False]])
    on_actions, on_masked = tensor([0.0, 2.0, 0.0, 3.0, 0.0, 0.0]), tensor([0.0, 0.5, 1.5, 0.0, 1.0, 2.0])
    settings = {"gamma": 0.9, "gae_lambda": 0.8}
    for one, other in zip(
        gae(on_masked, VALUES, ZERO, mask, **settings), gae(on_actions, VALUES, ZERO, mask, **settings), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-15)
    steps = torch.tensor([[0, 0, 0, 1, 0, 0]])
    one = process_advantages(on_masked, mask, steps, group_size=1)
    assert torch.allclose(one, process_advantages(on_actions, mask, steps, group_size=1)) and one.any()
    one, _ = step_gae(on_masked, VALUES, ZERO, mask, steps, **settings)
    assert torch.allclose(one, step_gae(on_actions, VALUES, ZERO, mask, steps, **settings)[0])


def test_rewards_of_actions_by_hand() -> None:
    mask = torch.tensor([[True, False, True, True, False], [True, False, False, False, False]])
    rewards = tensor([1.0, 2.0, 4.0, NAN, NAN], [0.0, NAN, 8.0, 16.0, -32.0])
    expected = [[3.0, 0.0, 4.0, NAN, 0.0], [-8.0, 0.0, 0.0, 0.0, 0.0]]
    assert np.array_equal(rewards_of_actions(rewards, mask), expected, equal_nan=True)


@pytest.mark.parametrize("row", [[False, False, True, False], [False] * 4])
def test_a_reward_before_the_first_action_is_an_error(row: list[bool]) -> None:
    mask, steps = torch.tensor([[True] * 4, row, row]), torch.zeros(3, 4, dtype=torch.int64)
    rewards, values, last = torch.zeros(3, 4), torch.zeros(3, 4), torch.zeros(3)
    for nothing in (0.0, NAN):
        rewards[1, 1] = nothing
        assert not gae(rewards, values, last, mask, gamma=1.0, gae_lambda=1.0)[0].any()
    for paid in (-0.5, 0.5):
        rewards[1, 1], rewards[2, 0] = paid, 7.0  # the first of them is named
        for call in (
            lambda: rewards_of_actions(rewards, mask),
            lambda: gae(rewards, values, last, mask, gamma=1.0, gae_lambda=1.0),
            lambda: step_gae(rewards, values, last, mask, steps, gamma=1.0, gae_lambda=1.0),
            lambda: process_advantages(rewards, mask, steps, group_size=3),
        ):
            with pytest.raises(ValueError, match=f"first token.*actual: {paid} in row 1 at place 1"):
                call()


def test_responses_of_one_token_or_none() -> None:
    mask, x, steps = torch.tensor([[True], [False]]), tensor([0.5], [NAN]), torch.zeros(2, 1, dtype=torch.int64)
    last = torch.tensor([2.0, NAN], dtype=D)
    assert rewards_of_actions(x, mask).tolist() == [[0.5], [0.0]]
    for one in (
        gae(x, x, last, mask, gamma=0.5, gae_lambda=0.5),
        step_gae(x, x, last, mask, steps, gamma=0.5, gae_lambda=0.5),
    ):
        assert [part.tolist() for part in one] == [[[1.0], [0.0]], [[1.5], [0.0]]]
    assert process_advantages(x, mask, steps, group_size=2).tolist() == [[0.0], [0.0]]


def test_masked_nan_poisons_no_advantage() -> None:
    mask, last, steps = turns(0, 4, 7), normal(3, 4), torch.arange(7).expand(4, 7) // 3
    inputs = [normal(1, 4, 7), normal(2, 4, 7)]
    settings = {"gamma": 0.9, "gae_lambda": 0.8}
    for part in (0, 1):
        assert_masked_nan_poisons_nothing(lambda r, v: gae(r, v, last, mask, **settings)[part], mask, inputs)  # noqa: B023
        assert_masked_nan_poisons_nothing(
            lambda r, v: step_gae(r, v, last, mask, steps, **settings)[part],  # noqa: B023
            mask,
            inputs,
        )
    assert_masked_nan_poisons_nothing(lambda r: process_advantages(r, mask, steps, group_size=2), mask, inputs[:1])
    for shift_mean in (True, False):
        assert_masked_nan_poisons_nothing(lambda a: whiten(a, mask, shift_mean=shift_mean), mask, inputs[:1])  # noqa: B023


def test_nan_where_the_policy_acted_is_not_hidden() -> None:
    """Only what stands outside the mask is passed over: a broken critic or reward must show."""
    values = tensor([0.1, NAN, 0.9, 0.8, 0.4, 0.6])
    steps = torch.zeros(1, 6, dtype=torch.int64)
    assert gae(REWARDS, values, ZERO, MASK, gamma=1.0, gae_lambda=0.9)[0].isnan().tolist()[0][:3] == [True, True, False]
    assert gae(REWARDS * NAN, VALUES, ZERO, MASK, gamma=1.0, gae_lambda=0.9)[0].isnan().equal(MASK)
    assert step_gae(values, VALUES, ZERO, MASK, steps, gamma=1.0, gae_lambda=0.9)[0].isnan().equal(MASK)
    assert process_advantages(values, MASK, steps, group_size=1).isnan().equal(MASK)
    assert whiten(values, MASK).isnan().equal(MASK)


def test_gradients_by_finite_differences() -> None:
    """All of them are smooth in rewards and values, so a wrong stop of the gradient or in-place write would show."""
    mask, steps, last = turns(0, 3, 4), torch.arange(4).expand(3, 4) // 2, normal(3, 3).requires_grad_()
    values, lambdas = normal(2, 3, 4).requires_grad_(), torch.full((3,), 0.7, dtype=D, requires_grad=True)
    rewards, returns = normal(1, 3, 4) * mask, normal(4, 3, 4).requires_grad_()
    inputs, check = (values, last, lambdas), torch.autograd.gradcheck
    assert check(lambda v, z, k: gae(rewards, v, z, mask, gamma=0.9, gae_lambda=k), inputs)
    assert check(lambda v, z, k: step_gae(rewards, v, z, mask, steps, gamma=0.9, gae_lambda=k), inputs)
    full = torch.ones_like(mask)
    assert check(lambda r: gae(r, values, last, full, gamma=0.9, gae_lambda=0.8), (returns,))
    assert check(lambda r: process_advantages(r, full, steps, group_size=3), (returns,))
    assert check(lambda a: whiten(a, mask), (values,))
    assert check(group_advantages, (returns,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_stay(dtype: torch.dtype) -> None:
    x, mask, steps = torch.ones(2, 4, dtype=dtype), torch.ones(2, 4, dtype=torch.bool), torch.arange(4).repeat(2, 1)
    results = [
        *gae(x, x, x[:, 0], mask, gamma=0.9, gae_lambda=0.9),
        *step_gae(x, x, x[:, 0], mask, steps, gamma=0.9, gae_lambda=0.9),
        *td_advantages(x, x, x[:, 0], mask, gamma=0.9),
        process_advantages(x, mask, steps, group_size=2),
        whiten(x, mask),
        *(group_advantages(x, normalization=how) for how in ("z_score", "mean", "rank", "leave_one_out")),
        length_adaptive_lambda(x[:, 0], 1.0),
        soft_overlong_penalty(x[:, 0], max_tokens=4, cache_tokens=2),
    ]
    assert {result.dtype for result in results} == {dtype}


def test_gae_refuses_shapes_that_disagree() -> None:
    x, mask, last = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.zeros(2)
    steps = torch.zeros(2, 3, dtype=torch.int64)
    settings = {"gamma": 1.0, "gae_lambda": 1.0}
    with pytest.raises(ValueError, match=r"values.*\(2, 2\)"):
        gae(x, x[:, :2], last, mask, **settings)
    for shape in ((2, 1), (1,), (3,), ()):
        with pytest.raises(ValueError, match=r"last_values of shape \(2,\).*actual: " + re.escape(str(shape))):
            gae(x, x, torch.zeros(shape), mask, **settings)
    for shape in ((3,), (1,), (2, 1), ()):
        with pytest.raises(ValueError, match=r"gae_lambda.*\(2,\).*actual: " + re.escape(str(shape))):
            gae(x, x, last, mask, gamma=1.0, gae_lambda=torch.ones(shape))
    with pytest.raises(ValueError, match=r"step_index.*\(2, 2\)"):
        step_gae(x, x, last, mask, steps[:, :2], **settings)
    with pytest.raises(ValueError, match=r"response_mask.*\(2, 2\)"):
        process_advantages(x, mask[:, :2], steps, group_size=2)
    with pytest.raises(ValueError, match=r"response_mask.*\(2, 2\)"):
        rewards_of_actions(x, mask[:, :2])
    with pytest.raises(ValueError, match=r"whole groups of group_size = 2, actual: 3 rows"):
        process_advantages(torch.zeros(3, 3), torch.ones(3, 3, dtype=torch.bool), steps[[0, 0, 0]], group_size=2)
    with pytest.raises(ValueError, match="group_size = 0"):
        process_advantages(x, mask, steps, group_size=0)


# -- reasoning steps --------------------------------------------------------------------------------------------------


def test_step_gae_by_hand() -> None:
    """Steps of 2, 1 and 1 tokens with an answer of the environment inside the second; gamma 1/2, lambda 1/2."""
    mask = torch.tensor([[True, True, True, False, True, False]])
    steps = torch.tensor([[0, 0, 1, 7, 2, 0]])
    rewards, values = tensor([1.0, 2.0, 4.0, 0.0, 8.0, 0.0]), tensor([1.0, 50.0, 2.0, 60.0, 4.0, 70.0])
    advantages, returns = step_gae(
        rewards, values, torch.tensor([2.0], dtype=D), mask, steps, gamma=0.5, gae_lambda=0.5
    )
    # delta_2 = 8 + 1 - 4 = 5; delta_1 = 4 + 2 - 2 = 4; delta_0 = 3 + 1 - 1 = 3; each plus a quarter of the next one.
    second = 4 + 5 / 4
    first = 3 + second / 4
    assert advantages.tolist() == [[first, first, second, 0.0, 5.0, 0.0]]
    assert returns.tolist() == [[first + 1, first + 1, second + 2, 0.0, 9.0, 0.0]]


def test_steps_of_one_token_are_tokens() -> None:
    mask, values, last = turns(0, 5, 8), normal(2, 5, 8), normal(3, 5)
    rewards, settings = normal(1, 5, 8) * mask[:, :1], {"gamma": 0.9, "gae_lambda": 0.8}
    by_token = gae(rewards, values, last, mask, **settings)
    by_step = step_gae(rewards, values, last, mask, torch.arange(8).expand(5, 8) * 3, **settings)
    for one, other in zip(by_step, by_token, strict=True):
        assert torch.allclose(one, other, atol=1e-14)


def test_one_step_is_a_bandit() -> None:
    mask, values, last = turns(0, 5, 8)[:4], normal(2, 4, 8), normal(3, 4)
    rewards = normal(1, 4, 8)
    advantages, returns = step_gae(
        rewards, values, last, mask, torch.full((4, 8), 5), gamma=0.9, gae_lambda=torch.rand(4)
    )
    total = rewards.sum(1) + 0.9 * last
    assert torch.allclose(returns, total[:, None] * mask)
    assert torch.allclose(advantages, (total - values[:, 0])[:, None] * mask)


def test_step_gae_against_collapsed_responses() -> None:
    """Write each step as one token with the step's reward and first value, run token-level GAE, and copy it back."""
    rng = np.random.default_rng(5)
    mask, values, last = turns(1, 5, 10), normal(2, 5, 10), normal(3, 5)
    rewards, steps = normal(1, 5, 10) * mask[:, :1], np.sort(rng.integers(0, 4, size=(5, 10)), axis=1)
    advantages, returns = step_gae(rewards, values, last, mask, torch.from_numpy(steps), gamma=0.8, gae_lambda=0.6)
    for b in range(5):
        places = np.flatnonzero(mask[b])
        owner = [places[places <= t][-1] for t in range(10)] if len(places) else []
        kept = sorted({int(steps[b, t]) for t in places})
        paid = [sum(float(rewards[b, t]) for t in range(10) if steps[b, owner[t]] == k) for k in kept]
        first = [float(values[b, next(t for t in places if steps[b, t] == k)]) for k in kept]
        expected = gae_of_one(paid, first, float(last[b]), 0.8, 0.6)
        for t in range(10):
            here = kept.index(int(steps[b, t])) if mask[b, t] else None
            wanted = (0.0, 0.0) if here is None else (expected[here], expected[here] + first[here])
            assert (advantages[b, t].item(), returns[b, t].item()) == pytest.approx(wanted, abs=1e-12)


def test_text_of_the_environment_before_the_first_token_changes_nothing() -> None:
    mask, steps = turns(0, 4, 5)[:3], torch.tensor([0, 0, 1, 1, 2]).expand(3, 5)
    rewards, values, last = normal(1, 3, 5), normal(2, 3, 5), normal(3, 3)

    def later(x: torch.Tensor, fill: float) -> torch.Tensor:
        return torch.cat([torch.full((3, 2), fill, dtype=x.dtype), x], dim=1)

    settings = {"gamma": 0.9, "gae_lambda": 0.8}
    for one, other in (
        (
            gae(later(rewards, NAN), later(values, NAN), last, later(mask, False), **settings)[0],
            gae(rewards, values, last, mask, **settings)[0],
        ),
        (
            step_gae(later(rewards, 0), later(values, NAN), last, later(mask, False), later(steps, 0), **settings)[1],
            step_gae(rewards, values, last, mask, steps, **settings)[1],
        ),
        (
            process_advantages(later(rewards, 0), later(mask, False), later(steps, 9), group_size=3),
            process_advantages(rewards, mask, steps, group_size=3),
        ),
    ):
        assert torch.allclose(one[:, 2:], other, atol=1e-14) and not one[:, :2].any() and other.any()


@pytest.mark.parametrize(("steps", "said"), [([0, 2, 1, 0], "1 in row 0 at place 2 after 2"), ([-1, 0, 0, 1], "-1 in")])
def test_steps_must_not_fall(steps: list[int], said: str) -> None:
    x, mask = torch.zeros(1, 4), torch.ones(1, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=f"actual: {said}"):
        step_gae(x, x, torch.zeros(1), mask, torch.tensor([steps]), gamma=1.0, gae_lambda=1.0)
    with pytest.raises(ValueError, match=f"actual: {said}"):
        process_advantages(x, mask, torch.tensor([steps]), group_size=1)
    mask[0, :3] = False  # what stands outside the mask is not read
    step_gae(x, x, torch.zeros(1), mask, torch.tensor([steps]), gamma=1.0, gae_lambda=1.0)


def test_process_advantages_by_hand() -> None:
    """Two responses, steps with 1, 3 and 0, 0, 1: mean 1, variance (0 + 4 + 1 + 1 + 0) / 5."""
    mask = torch.tensor([[True, True, True, True, False], [True, True, False, True, True]])
    steps = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 1, 1, 2]])
    rewards = tensor([0.0, 1.0, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0])
    scale = math.sqrt(6 / 5) + 1e-4
    expected = np.array([[2.0, 2.0, 2.0, 2.0, 0.0], [-2.0, -1.0, 0.0, -1.0, 0.0]]) / scale
    assert np.allclose(process_advantages(rewards, mask, steps, group_size=2), expected, atol=1e-12)


def test_process_advantages_against_loops() -> None:
    rng = np.random.default_rng(2)
    mask, rewards = turns(6, 6, 9), normal(1, 6, 9) * turns(6, 6, 9)
    steps = np.sort(rng.integers(0, 4, size=(6, 9)), axis=1)
    advantages = process_advantages(rewards, mask, torch.from_numpy(steps), group_size=3, epsilon=0.01)
    for group in ([0, 1, 2], [3, 4, 5]):
        totals = {}
        for b, t in itertools.product(group, range(9)):
            if mask[b, t]:
                totals[b, steps[b, t]] = totals.get((b, steps[b, t]), 0.0) + float(rewards[b, t])
        mean, std = np.mean(list(totals.values())), np.std(list(totals.values()))
        for b, t in itertools.product(group, range(9)):
            later = [(r - mean) / (std + 0.01) for (row, k), r in totals.items() if row == b and k >= steps[b, t]]
            assert advantages[b, t].item() == pytest.approx(sum(later) if mask[b, t] else 0.0, abs=1e-12)


def test_process_advantages_with_one_step_are_group_advantages() -> None:
    rewards, mask = normal(1, 6, 4), torch.ones(6, 4, dtype=torch.bool)
    mask[0, 2:] = mask[4, 1:] = False
    one = process_advantages(rewards, mask, torch.zeros(6, 4, dtype=torch.int64), group_size=3)
    other = group_advantages(rewards.sum(1).view(2, 3)).view(6, 1) * mask
    assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("reward", [0.1, -0.1])
def test_process_advantages_without_spread_are_zero(reward: float) -> None:
    rewards, steps = torch.full((2, 3), reward), torch.arange(3).repeat(2, 1)
    rewards = torch.cat([rewards, torch.eye(3)[:2]])  # the second group does spread
    mask = torch.ones(4, 3, dtype=torch.bool)
    rewards[0, 2], mask[0, 2], mask[2, 2] = 0.0, False, False
    advantages = process_advantages(rewards, mask, steps.repeat(2, 1), group_size=2, epsilon=0.0)
    assert not advantages[:2].any() and advantages[2:].any() and advantages.isfinite().all()


def test_layout_in_memory_does_not_matter() -> None:
    rewards, mask, steps = normal(1, 5, 4).T, turns(0, 5, 4).T, torch.arange(5).expand(4, 5)
    mask[:, 0] = True
    one = process_advantages(rewards, mask, steps, group_size=2)
    assert torch.equal(one, process_advantages(rewards.contiguous(), mask.contiguous(), steps, group_size=2))


# -- lambda by length, whitening, length penalty ----------------------------------------------------------------------


def test_length_adaptive_lambda() -> None:
    lambdas = length_adaptive_lambda(torch.tensor([0, 1, 20, 25, 100, 1000]), alpha=0.05)
    assert np.allclose(lambdas, [0.0, 0.0, 0.0, 0.2, 0.8, 0.98]) and lambdas.dtype == torch.float32
    # What it is made for: the weights lambda^k of the temporal differences to come sum to alpha times the length.
    assert (lambdas[-1].double() ** torch.arange(10_000)).sum().item() == pytest.approx(50.0, rel=1e-3)
    for alpha in (0.0, -1.0, NAN):
        with pytest.raises(ValueError, match="alpha > 0"):
            length_adaptive_lambda(torch.tensor([3]), alpha)


def test_whitened_advantages() -> None:
    mask, advantages = turns(0, 5, 7), 3.0 + 2.0 * normal(1, 5, 7)
    white, numbers = whiten(advantages, mask), advantages.numpy()[mask.numpy()]
    assert np.allclose(white[mask], (numbers - numbers.mean()) / numbers.std(), atol=1e-7)
    assert white[mask].mean().item() == pytest.approx(0.0, abs=1e-12)
    assert white[mask].std(correction=0).item() == pytest.approx(1.0, abs=1e-6) and not white[~mask].any()
    kept = whiten(advantages, mask, shift_mean=False)
    assert torch.allclose(kept[mask], white[mask] + numbers.mean()) and not kept[~mask].any()


def test_whitening_by_hand() -> None:
    mask = torch.tensor([[True, True, False]])
    assert np.allclose(whiten(tensor([1.0, 3.0, 9.0]), mask, epsilon=1.0), [[-0.5, 0.5, 0.0]])
    assert np.allclose(whiten(tensor([1.0, 3.0, 9.0]), mask, epsilon=1.0, shift_mean=False), [[1.5, 2.5, 0.0]])
    assert np.allclose(whiten(1e-8 * tensor([1.0, 3.0, 9.0]), mask), [[-0.5, 0.5, 0.0]])  # epsilon is 1e-8
    assert whiten(tensor([2.0, 2.0, 9.0]), mask).tolist() == [[0.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match=r"\(1, 2\)"):
        whiten(tensor([1.0, 2.0]), mask)


def test_soft_overlong_penalty_against_its_three_cases() -> None:
    lengths = range(30)
    penalty = soft_overlong_penalty(torch.tensor(list(lengths)), max_tokens=20, cache_tokens=5)
    expected = [0.0 if n <= 15 else (15 - n) / 5 if n <= 20 else -1.0 for n in lengths]
    assert np.allclose(penalty, expected) and penalty.dtype == torch.float32
    assert soft_overlong_penalty(torch.tensor([0, 1, 2]), max_tokens=2, cache_tokens=2).tolist() == [0.0, -0.5, -1.0]
    assert soft_overlong_penalty(torch.tensor([0, 1, 2]), max_tokens=2, cache_tokens=1).tolist() == [0.0, 0.0, -1.0]
    for cache_tokens in (0, -1, 21):
        with pytest.raises(ValueError, match=f"max_tokens = 20.*actual: {cache_tokens}"):
            soft_overlong_penalty(torch.tensor([3]), max_tokens=20, cache_tokens=cache_tokens)
