"""Minibatches and microbatches: every token once, and no cut changes a result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from llmgym.agents.minibatches import RolloutTensors  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.rollouts import RolloutBatch  # noqa: E402
from llmgym.errors import InvalidOptionError  # noqa: E402
from tests.unit.agent_fakes import VOCABULARY, tiny_llama  # noqa: E402

CPU = torch.device("cpu")
SIZES = {"seed": st.integers(0, 2**31), "n_groups": st.integers(1, 5), "group_size": st.integers(1, 4)}


def make_batch(seed: int, n_groups: int, group_size: int, *, bare: bool = False) -> RolloutBatch:
    """Random episodes; the environment writes in between. Padding holds what must not matter."""
    rng = np.random.default_rng(seed)
    n, width = n_groups * group_size, 7
    lengths = rng.integers(1, width + 1, size=n)
    prompt_lengths = np.repeat(rng.integers(1, 5, size=n_groups), group_size)
    prompts = np.repeat(rng.integers(2, VOCABULARY, size=(n_groups, 4)), group_size, axis=0)
    prompts[np.arange(4) < 4 - prompt_lengths[:, None]] = 0
    inside = np.arange(width) < lengths[:, None]
    mask = inside & (rng.random((n, width)) < 0.7)
    mask[np.arange(n), lengths - 1] = True
    return RolloutBatch(
        group_size=group_size,
        prompt_ids=prompts,
        prompt_lengths=prompt_lengths,
        response_ids=np.where(inside, rng.integers(2, VOCABULARY, size=(n, width)), 0),
        response_lengths=lengths,
        response_mask=mask,
        old_logprobs=np.where(mask, -rng.random((n, width)), 0.0).astype(np.float32),
        rewards=np.where(mask, rng.normal(size=(n, width)), 0.0),
        reward_components={},
        stop_reasons=["end_token"] * n,
        unverifiable=None,
        terminated=rng.random(n) < 0.5,
        env_seconds=0.0,
        policy_seconds=0.0,
        seconds=0.0,
        step_index=None if bare else np.where(mask, np.arange(width) // 3, 0),
        allowed=None if bare else rng.integers(0, 256, size=(n, width, 2), dtype=np.uint8),
    )


@given(**SIZES, max_tokens=st.integers(1, 40), bare=st.booleans())
def test_microbatches_hold_every_token_once(
    seed: int, n_groups: int, group_size: int, max_tokens: int, bare: bool
) -> None:
    batch = make_batch(seed, n_groups, group_size, bare=bare)
    data = RolloutTensors(batch, CPU)
    data.advantages = torch.rand_like(data.rewards)
    groups = np.random.default_rng(seed).permutation(n_groups)[: max(1, n_groups - 1)]
    seen: list[int] = []
    rebuilt = torch.zeros_like(data.advantages)
    for part in data.microbatches(groups, max_tokens):
        rows = part.rows.numpy()
        seen += rows.tolist()
        assert part.width == batch.response_lengths[rows].max()  # no token is cut off, no column is needless
        assert len(rows) * part.width <= max_tokens or len(rows) == 1
        assert (groups[part.prompt_index.numpy()] == rows // group_size).all()
        cut = data.cut(part)
        assert cut.response_ids.tolist() == batch.response_ids[rows, : part.width].tolist()
        assert cut.loss_mask.tolist() == batch.response_mask[rows, : part.width].tolist()
        assert (cut.step_index is None) == (cut.allowed is None) == bare
        if cut.allowed is not None and batch.allowed is not None:
            assert cut.allowed.tolist() == batch.allowed[rows, : part.width].tolist()
        rebuilt[part.rows, : part.width] = cut.advantages
    assert sorted(seen) == sorted(data.rows(groups).tolist())
    inside = data.response_mask & torch.from_numpy(np.isin(np.arange(len(batch)), data.rows(groups))).unsqueeze(1)
    assert torch.equal(rebuilt[inside], data.advantages[inside])


@given(**SIZES, max_tokens=st.integers(1, 60))
def test_packed_microbatches_hold_every_response_once(
    seed: int, n_groups: int, group_size: int, max_tokens: int
) -> None:
    batch = make_batch(seed, n_groups, group_size)
    data = RolloutTensors(batch, CPU)
    groups = np.random.default_rng(seed).permutation(n_groups)[: max(1, n_groups - 1)]
    seen: list[int] = []
    tokens = {g: int(batch.prompt_lengths[g * group_size] + batch.response_lengths[data.rows(np.array([g]))].sum())
              for g in groups.tolist()}  # fmt: skip
    parts_of: dict[int, int] = dict.fromkeys(tokens, 0)
    for part in data.packed_microbatches(groups, max_tokens):
        rows = part.rows.numpy()
        seen += rows.tolist()
        assert part.width == batch.response_lengths[rows].max()
        assert (groups[part.prompt_index.numpy()] == rows // group_size).all()
        prompts = np.unique(rows // group_size)
        total = batch.prompt_lengths[prompts * group_size].sum() + batch.response_lengths[rows].sum()
        assert total <= max_tokens or len(rows) == 1
        for group in prompts.tolist():
            parts_of[group] += 1
    assert seen == data.rows(groups).tolist()
    for group, n_parts in parts_of.items():
        assert n_parts == 1 or tokens[group] > max_tokens  # a prompt is read again only where its group does not fit


def test_packed_microbatches_are_of_like_size() -> None:
    batch = make_batch(0, 40, 4)
    data = RolloutTensors(batch, CPU)
    sizes = [len(part.rows) for part in data.packed_microbatches(np.arange(40), 260)]
    assert len(sizes) > 2
    assert min(sizes) > 0.6 * max(sizes)  # no small rest


@pytest.mark.parametrize("max_tokens", [1, 9, 20, 10_000])
def test_no_cut_changes_a_gradient(max_tokens: int) -> None:
    policy = Policy(tiny_llama())
    data = RolloutTensors(make_batch(3, 4, 3, bare=True), CPU)
    data.advantages = data.per_token(torch.linspace(-1, 1, 12))
    gradients = []
    for groups, bound in ((np.array([2, 0, 3]), max_tokens), (np.array([0, 2, 3]), 63)):  # in another order, in one go
        policy.model.zero_grad()
        prompt_ids, prompt_lengths = data.prompts(groups)
        for part in data.microbatches(groups, bound):
            cut = data.cut(part)
            logprobs = policy.logprobs(
                prompt_ids[part.prompt_index], prompt_lengths[part.prompt_index], cut.response_ids, cut.response_mask
            ).logprobs
            (logprobs * cut.advantages * cut.loss_mask).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]))
    assert gradients[0].abs().max() > 1e-2
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


@given(**SIZES, data=st.data())
def test_minibatches_are_whole_groups_each_once(seed: int, n_groups: int, group_size: int, data: Any) -> None:
    tensors = RolloutTensors(make_batch(seed, n_groups, group_size), CPU)
    n = data.draw(st.integers(1, n_groups))
    parts = list(tensors.minibatches(n, np.random.default_rng(seed)))
    assert len(parts) == n
    assert sorted(np.concatenate(parts).tolist()) == list(range(n_groups))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    again = list(tensors.minibatches(n, np.random.default_rng(seed)))
    assert [part.tolist() for part in parts] == [part.tolist() for part in again]
    with pytest.raises(InvalidOptionError, match=f"1 to {n_groups} minibatches.*actual: {n_groups + 1}"):
        list(tensors.minibatches(n_groups + 1, np.random.default_rng(0)))


def test_minibatches_come_in_random_order() -> None:
    tensors = RolloutTensors(make_batch(0, 5, 1), CPU)
    rng = np.random.default_rng(0)
    orders = {tuple(np.concatenate(list(tensors.minibatches(2, rng))).tolist()) for _ in range(20)}
    assert len(orders) > 10


def test_prompts_are_those_of_the_groups() -> None:
    batch = make_batch(1, 4, 2)
    ids, lengths = RolloutTensors(batch, CPU).prompts(np.array([3, 1]))
    for place, row in enumerate((6, 2)):
        assert ids[place, : lengths[place]].tolist() == batch.prompt_of(row).tolist()
        assert not ids[place, lengths[place] :].any()


def test_masked_out_episodes_leave_the_loss_alone() -> None:
    batch = make_batch(2, 3, 2)
    batch.terminated[:] = [True, False, True, True, False, True]
    data = RolloutTensors(batch, CPU)
    assert torch.equal(data.loss_mask, data.response_mask)
    data.mask_out(batch.truncated)
    assert data.loss_mask[[0, 2, 3, 5]].tolist() == batch.response_mask[[0, 2, 3, 5]].tolist()
    assert not data.loss_mask[[1, 4]].any()
    assert data.response_mask.tolist() == batch.response_mask.tolist()  # of the group and the critic they stay part


def test_one_number_a_response_stands_at_each_of_its_tokens() -> None:
    batch = make_batch(4, 2, 2)
    data = RolloutTensors(batch, CPU)
    values = torch.tensor([1.0, -2.0, float("nan"), 0.5], dtype=torch.float64)
    expected = np.where(batch.response_mask, values.numpy()[:, None], 0.0).astype(np.float32)
    assert np.array_equal(data.per_token(values).numpy(), expected, equal_nan=True)
    with pytest.raises(ValueError, match=r"shape \(4,\), actual: \(2, 2\)"):
        data.per_token(values.view(2, 2))


def test_what_agents_fill_in_starts_as_the_sampler_said() -> None:
    batch = make_batch(5, 2, 2)
    data = RolloutTensors(batch, CPU)
    for logprobs in (data.sampler_logprobs, data.old_logprobs, data.ref_logprobs):
        assert logprobs.tolist() == batch.old_logprobs.tolist()
    for zeros in (data.values, data.returns, data.advantages):
        assert zeros.shape == batch.response_ids.shape
        assert not zeros.any()
    assert data.rewards.tolist() == batch.rewards.astype(np.float32).tolist()
