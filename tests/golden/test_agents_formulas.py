"""Numbers worked by hand, reductions, and enumeration: masks, advantages, losses, pass@k."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from llmgym.agents.advantages import group_advantages, groups_with_signal  # noqa: E402
from llmgym.agents.evaluation import pass_at_k, pass_interval  # noqa: E402
from llmgym.agents.losses import (  # noqa: E402
    approx_kl,
    categorical_entropy,
    clip_fraction,
    clipped_policy_loss,
    kl_to_ref,
)
from llmgym.agents.masking import average_tokens, masked_mean, masked_sum  # noqa: E402

D = torch.float64
MASK = torch.tensor([[True, True, True], [True, False, False]])


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=D)


# -- masking ----------------------------------------------------------------------------------------------------------


def test_masked_mean_by_hand() -> None:
    values = tensor([1.0, 2.0, 6.0], [10.0, 99.0, 99.0])
    assert masked_mean(values, MASK).item() == 19 / 4
    assert masked_mean(values, MASK, dim=1).tolist() == [3.0, 10.0]
    assert masked_sum(values, MASK, dim=0).tolist() == [11.0, 2.0, 6.0]


def test_what_is_outside_the_mask_does_not_count_even_if_it_is_no_number() -> None:
    values = tensor([1.0, 2.0, 6.0], [10.0, math.nan, math.inf]).requires_grad_()
    masked_mean(values, MASK).backward()
    assert values.grad.tolist() == [[0.25, 0.25, 0.25], [0.25, 0.0, 0.0]]


def test_an_empty_mask_gives_zero() -> None:
    assert masked_mean(tensor([1.0]), torch.tensor([[False]])).item() == 0.0


def test_averages_by_hand() -> None:
    values = tensor([1.0, 2.0, 6.0], [10.0, 99.0, 99.0])
    sizes = {"n_sequences": 2, "n_tokens": 4, "max_tokens": 5}
    assert average_tokens(values, MASK, how="sequence", **sizes).item() == (3.0 + 10.0) / 2
    assert average_tokens(values, MASK, how="token", **sizes).item() == 19.0 / 4
    assert average_tokens(values, MASK, how="constant", **sizes).item() == 19.0 / 10
    with pytest.raises(ValueError, match="sequence"):
        average_tokens(values, MASK, how="mean", **sizes)


@pytest.mark.parametrize("how", ["sequence", "token", "constant"])
def test_averages_of_slices_add_up(how: str) -> None:
    torch.manual_seed(0)
    values, mask = torch.randn(6, 4, dtype=D), torch.rand(6, 4) < 0.6
    sizes = {"n_sequences": 6, "n_tokens": int(mask.sum()), "max_tokens": 7}
    whole = average_tokens(values, mask, how=how, **sizes)
    parts = [average_tokens(values[rows], mask[rows], how=how, **sizes) for rows in ([0, 4], [1], [2, 3, 5])]
    assert sum(part.item() for part in parts) == pytest.approx(whole.item(), abs=1e-12)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"values.*\(1, 2\).*mask.*\(1, 3\)"):
        masked_mean(torch.zeros(1, 2), torch.ones(1, 3, dtype=torch.bool))


# -- advantages -------------------------------------------------------------------------------------------------------


def test_group_advantages_by_hand() -> None:
    returns = tensor([0.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0])
    std = math.sqrt(3) / 4  # of 0, 0, 0, 1, dividing by G
    expected = [[-0.25 / (std + 1e-4)] * 3 + [0.75 / (std + 1e-4)], [0.0] * 4]
    assert np.allclose(group_advantages(returns), expected, atol=1e-12)
    assert group_advantages(returns, normalization="mean").tolist() == [[-0.25, -0.25, -0.25, 0.75], [0.0] * 4]


@pytest.mark.parametrize("normalization", ["z_score", "mean"])
def test_group_advantages_sum_to_zero_and_ignore_shifts(normalization: str) -> None:
    torch.manual_seed(0)
    returns = torch.randn(5, 8, dtype=D)
    advantages = group_advantages(returns, normalization=normalization)
    assert torch.allclose(advantages.sum(1), torch.zeros(5, dtype=D), atol=1e-12)
    assert torch.allclose(group_advantages(returns + 3.0, normalization=normalization), advantages)
    scaled = group_advantages(10 * returns, normalization=normalization, epsilon=0.0)
    factor = 1.0 if normalization == "z_score" else 10.0
    assert torch.allclose(scaled, factor * group_advantages(returns, normalization=normalization, epsilon=0.0))


def test_groups_with_signal() -> None:
    returns = tensor([0.0, 0.0], [0.0, 1.0], [0.3, 0.3 + 1e-9])
    assert groups_with_signal(returns).tolist() == [False, True, False]


def test_group_advantages_refuse_what_cannot_work() -> None:
    with pytest.raises(ValueError, match=r"G >= 2.*\(3, 1\)"):
        group_advantages(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="z_score"):
        group_advantages(torch.zeros(3, 2), normalization="rank")


# -- losses -----------------------------------------------------------------------------------------------------------


def test_clipped_loss_by_hand() -> None:
    """Four corners of PPO's figure 1: ratio above or below the range, advantage up or down."""
    ratio = tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantages = tensor([2.0, -2.0, 2.0, -2.0, 3.0])
    loss = clipped_policy_loss(ratio.log(), torch.zeros_like(ratio), advantages, clip_range=0.2)
    assert np.allclose(loss, [[-2.4, 3.0, -1.0, 1.6, -3.3]])
    wider = clipped_policy_loss(ratio.log(), torch.zeros_like(ratio), advantages, clip_range=0.2, clip_range_high=0.4)
    assert np.allclose(wider, [[-2.8, 3.0, -1.0, 1.6, -3.3]])


def test_losses_refuse_shapes_that_disagree() -> None:
    two, three = torch.zeros(2, 3), torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"advantages.*\(2, 4\)"):
        clipped_policy_loss(two, two, three, clip_range=0.2)
    with pytest.raises(ValueError, match=r"old_logprobs.*\(2, 4\)"):
        clipped_policy_loss(two, three, two[:, :1], clip_range=0.2)
    with pytest.raises(ValueError, match=r"ref_logprobs.*\(2, 4\)"):
        kl_to_ref(two, three)


def test_gradient_stops_where_clipped() -> None:
    logprobs = tensor([1.5, 1.5, 0.5, 0.5]).log().requires_grad_()
    advantages = tensor([2.0, -2.0, 2.0, -2.0])
    clipped_policy_loss(logprobs, torch.zeros_like(logprobs), advantages, clip_range=0.2).sum().backward()
    assert np.allclose(logprobs.grad, [[0.0, 3.0, -1.0, 0.0]])  # d/dlogp of -r A is -r A


def test_at_ratio_one_the_gradient_is_that_of_reinforce() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 6, dtype=D, requires_grad=True)
    tokens, advantages = torch.randint(6, (3, 4, 1)), torch.randn(3, 1, dtype=D)
    logprobs = logits.log_softmax(-1).gather(2, tokens)[..., 0]
    loss = clipped_policy_loss(logprobs, logprobs.detach(), advantages.expand(3, 4), clip_range=0.1).sum()
    reinforce = -(advantages * logprobs).sum()
    (mine,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (theirs,) = torch.autograd.grad(reinforce, logits)
    assert torch.allclose(mine, theirs, atol=1e-12)


def test_kl_estimate_is_unbiased_by_enumeration() -> None:
    torch.manual_seed(0)
    policy, reference = torch.randn(7, dtype=D).log_softmax(0), torch.randn(7, dtype=D).log_softmax(0)
    exact = (policy.exp() * (policy - reference)).sum()
    estimates = kl_to_ref(policy[None], reference[None])[0]  # of each token that could be drawn
    assert (estimates >= 0).all()
    assert (policy.exp() * estimates).sum().item() == pytest.approx(exact.item(), abs=1e-12)
    # The other direction would be another number: this test can tell them apart.
    assert (reference.exp() * (reference - policy)).sum().item() != pytest.approx(exact.item(), abs=1e-3)


def test_kl_by_hand() -> None:
    assert kl_to_ref(tensor([0.0]), tensor([math.log(2.0)])).item() == pytest.approx(2.0 - math.log(2.0) - 1.0)


def test_approx_kl_is_of_old_against_new_by_enumeration() -> None:
    torch.manual_seed(1)
    old, new = torch.randn(5, dtype=D).log_softmax(0), torch.randn(5, dtype=D).log_softmax(0)
    exact = (old.exp() * (old - new)).sum().item()
    one = torch.ones(1, 1, dtype=torch.bool)
    mean = sum(old[a].exp().item() * approx_kl(new[a].view(1, 1), old[a].view(1, 1), one).item() for a in range(5))
    assert mean == pytest.approx(exact, abs=1e-12)


def test_clip_fraction_counts_tokens_without_gradient() -> None:
    logprobs = tensor([1.5, 1.5, 0.5, 0.5, 1.0, 1.5]).log()
    advantages = tensor([2.0, -2.0, 2.0, -2.0, 2.0, 2.0])
    mask = torch.tensor([[True, True, True, True, True, False]])
    share = clip_fraction(logprobs, torch.zeros_like(logprobs), advantages, mask, clip_range=0.2)
    assert share.item() == pytest.approx(2 / 5)


def test_entropy_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], dtype=D).log()
    assert np.allclose(categorical_entropy(logits), [1.5 * math.log(2.0), 0.0])


# -- evaluation -------------------------------------------------------------------------------------------------------


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
