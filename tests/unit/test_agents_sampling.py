"""Truncated distributions, drawing from them, and packed sets."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from llmgym.agents.sampling import in_sets, kept_tokens, pack_sets, sample, unpack_sets  # noqa: E402

NOTHING = float("-inf")


def kept_by_hand(row: list[float], top_k: int | None, top_p: float | None) -> set[int]:
    """Token after token from the best down, in float64."""
    possible = [token for token, logit in enumerate(row) if logit > NOTHING]
    order = sorted(possible, key=lambda token: -row[token])
    if top_k is not None:
        order = [token for token in order if row[token] >= row[order[min(top_k, len(order)) - 1]]]
    if top_p is None or top_p == 1:
        return set(order)
    weights = np.exp(np.array([row[token] for token in order]) - row[order[0]])
    total, n = 0.0, 0
    while n < len(order) and total < top_p * weights.sum():
        total += weights[n]
        n += 1
    return {token for token in order if row[token] >= row[order[n - 1]]}


# Whole numbers make ties; halves of powers of two keep the sums of either computation on one side of top_p.
logits_strategy = st.lists(st.sampled_from([NOTHING, -2.0, -1.0, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=20).filter(
    lambda row: max(row) > NOTHING
)


@given(
    row=logits_strategy,
    top_k=st.none() | st.integers(1, 25),
    top_p=st.none() | st.sampled_from([0.013, 0.1, 0.37, 0.52, 0.777, 0.93, 0.999, 1.0]),
)
@settings(max_examples=300, deadline=None)
def test_kept_tokens_are_those_counted_by_hand(row: list[float], top_k: int | None, top_p: float | None) -> None:
    kept = kept_tokens(torch.tensor([row]), top_k=top_k, top_p=top_p)[0]
    assert set(kept.nonzero()[:, 0].tolist()) == kept_by_hand(row, top_k, top_p)


def test_equals_stay_together() -> None:
    logits = torch.tensor([[1.0, 0.0, 1.0, 1.0, -1.0]])
    assert kept_tokens(logits, top_k=1).tolist() == [[True, False, True, True, False]]
    assert kept_tokens(logits, top_p=0.01).tolist() == [[True, False, True, True, False]]


def test_top_p_is_of_what_top_k_left() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert kept_tokens(logits, top_p=0.75).sum() == 3
    assert kept_tokens(logits, top_k=3, top_p=0.75).sum() == 2  # 0.7 of 0.9


def test_a_sum_that_rounding_leaves_below_top_p_keeps_everything() -> None:
    torch.manual_seed(0)
    logits = torch.randn(50, 1000)
    top_p = float(np.nextafter(1.0, 0.0))
    short = logits.sort(dim=1, descending=True).values.softmax(1, dtype=torch.float64).sum(1) < top_p
    assert short.any()
    assert kept_tokens(logits[short], top_p=top_p).all()


def test_rows_do_not_depend_on_their_neighbours() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 40)
    together = kept_tokens(logits, top_k=20, top_p=0.6)
    alone = torch.cat([kept_tokens(logits[i : i + 1], top_k=20, top_p=0.6) for i in range(6)])
    assert torch.equal(together, alone)


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    logits = torch.full((3, 5), NOTHING)
    logits[0, 2] = logits[1, 0] = logits[2, 4] = 0.0
    for uniform in (0.0, 0.5, np.nextafter(1.0, 0.0)):
        tokens, logprobs = sample(logits, torch.full((3, 1), uniform, dtype=torch.float64))
        assert tokens.tolist() == [2, 0, 4]
        assert logprobs.tolist() == [0.0, 0.0, 0.0]


def test_the_largest_uniform_number_does_not_leave_the_distribution() -> None:
    """Rounded sums end a little above or below 1; what comes after the last possible token must not be drawn."""
    torch.manual_seed(1)
    logits = torch.cat([3 * torch.randn(4000, 9), torch.full((4000, 2), NOTHING)], dim=1)
    sums = logits.log_softmax(1).exp().sum(1, dtype=torch.float64)
    assert (sums < 1).any()
    assert (sums > 1).any()
    tokens, logprobs = sample(logits, torch.full((4000, 1), np.nextafter(1.0, 0.0), dtype=torch.float64))
    assert (tokens == 8).all()
    assert logprobs.isfinite().all()


def test_sampling_inverts_the_distribution_function() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log().expand(8, 4)
    uniforms = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 0.87, 0.88, 0.999], dtype=torch.float64)
    tokens, logprobs = sample(logits, uniforms[:, None])
    assert tokens.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert logprobs.exp().tolist() == pytest.approx([0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.125, 0.125])


@pytest.mark.parametrize("n_tokens", [1, 7, 8, 9, 61])
def test_packed_sets_are_those_of_numpy(n_tokens: int) -> None:
    torch.manual_seed(n_tokens)
    sets = torch.rand(3, 4, n_tokens) < 0.5
    packed = pack_sets(sets)
    assert packed.dtype == torch.uint8
    assert np.array_equal(packed.numpy(), np.packbits(sets.numpy(), axis=-1))
    assert torch.equal(unpack_sets(packed, n_tokens), sets)
    tokens = torch.randint(0, n_tokens, (12,))
    assert torch.equal(in_sets(packed.flatten(0, 1), tokens), sets.flatten(0, 1)[torch.arange(12), tokens])
