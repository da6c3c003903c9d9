"""Losses: by hand, by loops, by finite differences and enumeration, and by what they must reduce to."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from llmgym.agents.losses import (  # noqa: E402
    approx_kl,
    categorical_entropy,
    cispo_loss,
    clip_fraction,
    clipped_policy_loss,
    clipped_value_loss,
    explained_variance,
    gspo_loss,
    penalty_policy_loss,
    sequence_logratio,
    truncated_importance_weights,
)
from llmgym.agents.masking import average_tokens, masked_mean, zero_outside  # noqa: E402
from tests.golden.agent_tensors import D, assert_masked_nan_poisons_nothing, normal, tensor, turns  # noqa: E402

NAN = math.nan

# One function of (logprobs, old_logprobs, advantages) for each policy loss, with room for nothing else.
POLICY_LOSSES = {
    "clipped": lambda new, old, a: clipped_policy_loss(new, old, a, clip_range=0.2, clip_range_high=0.3),
    "cispo": lambda new, old, a: cispo_loss(new, old, a, clip_range=0.2, clip_range_high=0.3),
    "penalty": lambda new, old, a: penalty_policy_loss(new, old, a, kl_coef=0.5),
}


def some_logprobs(*shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities with ratios from about 0.4 to 2.5, and advantages of both signs."""
    old = -normal(0, *shape).abs() - 1.0
    return old + 0.4 * normal(1, *shape), old, normal(2, *shape)


# -- clipped surrogate ------------------------------------------------------------------------------------------------


def test_clipped_loss_by_hand() -> None:
    """Four corners of PPO's figure 1: ratio above or below the range, advantage up or down."""
    ratio = tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantages = tensor([2.0, -2.0, 2.0, -2.0, 3.0])
    loss = clipped_policy_loss(ratio.log(), torch.zeros_like(ratio), advantages, clip_range=0.2)
    assert np.allclose(loss, [[-2.4, 3.0, -1.0, 1.6, -3.3]])
    wider = clipped_policy_loss(ratio.log(), torch.zeros_like(ratio), advantages, clip_range=0.2, clip_range_high=0.4)
    assert np.allclose(wider, [[-2.8, 3.0, -1.0, 1.6, -3.3]])


def test_clipped_loss_against_its_cases() -> None:
    """As PPO's figure 1 draws it: a straight line in the ratio that turns flat, on the side where it would gain."""
    new, old, advantages = some_logprobs(20, 20)
    loss = clipped_policy_loss(new, old, advantages, clip_range=0.2, clip_range_high=0.3)
    for n, o, a, mine in zip(*(t.flatten().tolist() for t in (new, old, advantages, loss)), strict=True):
        ratio = math.e ** (n - o)
        gain = a * min(ratio, 1.3) if a > 0 else a * max(ratio, 0.8)
        assert mine == pytest.approx(-gain, abs=1e-12)


def test_gradient_stops_where_clipped() -> None:
    logprobs = tensor([1.5, 1.5, 0.5, 0.5]).log().requires_grad_()
    advantages = tensor([2.0, -2.0, 2.0, -2.0])
    clipped_policy_loss(logprobs, torch.zeros_like(logprobs), advantages, clip_range=0.2).sum().backward()
    assert np.allclose(logprobs.grad, [[0.0, 3.0, -1.0, 0.0]])  # d/dlogp of -r A is -r A


def test_advantages_of_responses_are_those_of_their_tokens() -> None:
    new, old, advantages = some_logprobs(3, 4)
    for loss in (*POLICY_LOSSES.values(), lambda n, o, a: gspo_loss(n, o, a, turns(0, 3, 4), clip_range=0.2)):
        assert torch.equal(loss(new, old, advantages[:, :1]), loss(new, old, advantages[:, :1].expand(3, 4)))


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_at_ratio_one_the_gradient_is_that_of_reinforce(name: str) -> None:
    logits, tokens = normal(0, 3, 4, 6).requires_grad_(), torch.arange(12).view(3, 4, 1) % 6
    advantages = normal(1, 3, 1)
    logprobs = logits.log_softmax(-1).gather(2, tokens)[..., 0]
    loss = POLICY_LOSSES[name](logprobs, logprobs.detach(), advantages).sum()
    (mine,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (theirs,) = torch.autograd.grad(-(advantages * logprobs).sum(), logits)
    assert torch.allclose(mine, theirs, atol=1e-12)


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_gradients_by_finite_differences(name: str) -> None:
    """CISPO's weight is a constant in the gradient, so the differences are taken with the weight held where it is."""
    new, old, advantages = some_logprobs(4, 5)
    if name == "cispo":
        weights = (new - old).exp().clamp(0.8, 1.3)
        new.requires_grad_()
        (grad,) = torch.autograd.grad(POLICY_LOSSES[name](new, old, advantages).sum(), new)
        step = 1e-6
        ahead, behind = (-weights * advantages * (new.detach() + sign * step) for sign in (1, -1))
        assert torch.allclose(grad, (ahead - behind) / (2 * step), atol=1e-8)
    else:
        assert torch.autograd.gradcheck(lambda n: POLICY_LOSSES[name](n, old, advantages), (new.requires_grad_(),))


# -- CISPO ------------------------------------------------------------------------------------------------------------


def test_cispo_by_hand() -> None:
    ratio, logprobs = tensor([0.1, 0.7, 1.0, 1.2, 4.0]), tensor([-1.0, -2.0, -3.0, -4.0, -5.0]).requires_grad_()
    old, advantages = logprobs.detach() - ratio.log(), tensor([2.0, -1.0, 1.0, 3.0, -2.0])
    loss = cispo_loss(logprobs, old, advantages, clip_range=0.5, clip_range_high=1.0)
    weights = np.array([0.5, 0.7, 1.0, 1.2, 2.0])
    assert np.allclose(loss.detach(), -weights * advantages.numpy() * logprobs.detach().numpy())
    (grad,) = torch.autograd.grad(loss.sum(), logprobs)
    assert np.allclose(grad, -weights * advantages.numpy())  # and never 0: no token is left out
    unbounded = cispo_loss(logprobs, old, advantages, clip_range=None, clip_range_high=1.0)
    (grad,) = torch.autograd.grad(unbounded.sum(), logprobs)
    assert np.allclose(grad, -np.array([0.1, 0.7, 1.0, 1.2, 2.0]) * advantages.numpy())


def test_inside_the_range_cispo_and_the_clipped_loss_have_one_gradient() -> None:
    new, old, advantages = some_logprobs(4, 5)
    new = (old + 0.05 * (new - old)).requires_grad_()
    grads = [torch.autograd.grad(POLICY_LOSSES[n](new, old, advantages).sum(), new)[0] for n in ("clipped", "cispo")]
    assert torch.allclose(*grads, atol=1e-14)


# -- GSPO -------------------------------------------------------------------------------------------------------------


def test_sequence_logratio_by_hand() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False]])
    new, old = tensor([1.0, 99.0, 5.0], [7.0, 7.0, 7.0]), tensor([0.5, 0.0, 2.0], [0.0, 0.0, 0.0])
    assert sequence_logratio(new, old, mask).tolist() == [[1.75], [0.0]]


def test_gspo_is_the_objective_over_sequences() -> None:
    """Value and gradient, with one advantage for a response: eq. 5 and 10, written out for each response."""
    mask = turns(0, 6, 8)[:5]
    new, old, _ = some_logprobs(5, 8)
    new, advantages = (old + 0.3 * (new - old)).requires_grad_(), tensor([1.0], [-2.0], [0.5], [-1.0], [3.0])
    sizes = {"n_sequences": 5, "n_tokens": int(mask.sum()), "max_tokens": 8}
    loss = average_tokens(gspo_loss(new, old, advantages, mask, clip_range=0.03), mask, how="sequence", **sizes)
    value, gradient, n_clipped = 0.0, np.zeros((5, 8)), 0
    for b in range(5):
        chosen, a = mask[b].numpy(), advantages[b].item()
        ratio = math.prod((new - old).detach().exp().numpy()[b, chosen]) ** (1 / chosen.sum())
        clipped = min(max(ratio, 0.97), 1.03)
        value -= min(ratio * a, clipped * a) / 5
        if ratio * a <= clipped * a:
            gradient[b, chosen] = -ratio * a / chosen.sum() / 5
        else:
            n_clipped += 1
    assert 0 < n_clipped < 5
    assert loss.item() == pytest.approx(value, abs=1e-14)
    assert np.allclose(torch.autograd.grad(loss, new)[0], gradient, atol=1e-14)


def test_gspo_takes_an_advantage_for_each_token_to_that_token() -> None:
    """Eq. 17: the gradient of token t is its own advantage times the ratio of the response."""
    mask = turns(0, 3, 6)
    new, old, advantages = some_logprobs(3, 6)
    new.requires_grad_()
    (grad,) = torch.autograd.grad(gspo_loss(new, old, advantages, mask, clip_range=0.99).sum(), new)
    ratio = sequence_logratio(new.detach(), old, mask).exp()
    assert torch.allclose(grad, -ratio * advantages * mask, atol=1e-14)


def test_gspo_with_one_token_is_the_clipped_loss() -> None:
    new, old, advantages = some_logprobs(9, 1)
    new, mask = new.requires_grad_(), torch.ones(9, 1, dtype=torch.bool)
    one = gspo_loss(new, old, advantages, mask, clip_range=0.2, clip_range_high=0.3)
    other = POLICY_LOSSES["clipped"](new, old, advantages)
    assert torch.allclose(one, other, atol=1e-14)
    grads = [torch.autograd.grad(loss.sum(), new)[0] for loss in (one, other)]
    assert torch.allclose(*grads, atol=1e-14) and (grads[0] == 0).any() and (grads[0] != 0).any()


def test_gspo_clips_a_response_as_a_whole_in_float32() -> None:
    """Its ranges are so narrow that rounding of each token's ratio must not come near them."""
    new, old, _ = (t.float() for t in some_logprobs(1, 50))
    for shift in (2.9e-4, 3.1e-4):
        moved = (old + 20.0 * (new - old) + 30.0).requires_grad_()
        base = moved.detach() - shift
        loss = gspo_loss(moved, base, torch.ones(1, 1), torch.ones(1, 50, dtype=torch.bool), clip_range=3e-4)
        (grad,) = torch.autograd.grad(loss.sum(), moved)
        assert len(set(loss.flatten().tolist())) == 1 and len(set(grad.flatten().tolist())) == 1


# -- penalty ----------------------------------------------------------------------------------------------------------


def test_penalty_by_hand() -> None:
    ratio = tensor([1.0, 2.0, 0.5])
    loss = penalty_policy_loss(ratio.log(), torch.zeros_like(ratio), tensor([3.0, 1.0, -1.0]), kl_coef=0.5)
    assert np.allclose(loss, [[-3.0, -2.0 + 0.5 * (1 - math.log(2)), 0.5 + 0.5 * (math.log(2) - 0.5)]])


def test_penalty_is_on_the_kl_from_old_to_current_by_enumeration() -> None:
    """Value and gradient of the expected loss, tokens drawn from the old policy: eq. 8, with its direction."""
    logits, old = normal(0, 6).requires_grad_(), normal(1, 6).log_softmax(0)
    advantages, new = normal(2, 1, 6), logits.log_softmax(0)
    mine = (old.exp() * penalty_policy_loss(new[None], old[None], advantages, kl_coef=0.7)[0]).sum()
    exact = -(new.exp() * advantages[0]).sum() + 0.7 * (old.exp() * (old - new)).sum()
    assert mine.item() == pytest.approx(exact.item(), abs=1e-13)
    grads = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (mine, exact)]
    assert torch.allclose(*grads, atol=1e-13)


# -- critic -----------------------------------------------------------------------------------------------------------


def test_clipped_value_loss_by_hand() -> None:
    """Old value 1, range 0.5: inside; beyond it towards the return (kept at the edge) and away from it (not)."""
    values, returns = tensor([1.25, 3.0, 3.0, -1.0, -1.0, 3.0]).requires_grad_(), tensor([2.0, 4.0, 0, -2, 4, 1.75])
    loss = clipped_value_loss(values, torch.ones(1, 6, dtype=D), returns, clip_range=0.5)
    # errors 0.75 | 1 or 2.5 | 3 or 1.5 | 1 or 2.5 | 5 or 3.5 | 1.25 or 0.25
    assert loss.tolist() == [[0.75**2, 2.5**2, 3.0**2, 2.5**2, 5.0**2, 1.25**2]]
    (grad,) = torch.autograd.grad(loss.sum(), values)
    assert grad.tolist() == [[-1.5, 0.0, 6.0, 0.0, -10.0, 2.5]]
    plain = clipped_value_loss(values, torch.ones(1, 6, dtype=D), returns, clip_range=None)
    assert torch.equal(plain, (values - returns).square()) and (loss >= plain).all()


def test_clipped_value_loss_against_loops_and_differences() -> None:
    values, old, returns = normal(0, 5, 7).requires_grad_(), normal(1, 5, 7), normal(2, 5, 7)
    for clip_range in (0.1, 0.6, None):
        loss = clipped_value_loss(values, old, returns, clip_range=clip_range)
        for v, o, r, mine in zip(*(t.flatten().tolist() for t in (values, old, returns, loss)), strict=True):
            near = v if clip_range is None else o + math.copysign(min(abs(v - o), clip_range), v - o)
            assert mine == pytest.approx(max(abs(r - v), abs(r - near)) ** 2, abs=1e-12)
        assert torch.autograd.gradcheck(
            lambda v, c=clip_range: clipped_value_loss(v, old, returns, clip_range=c), (values,)
        )


def test_explained_variance_by_hand() -> None:
    mask = torch.tensor([[True, True, True, False]])
    returns = tensor([1.0, 2.0, 6.0, NAN])  # deviations -2, -1, 3: 14
    assert explained_variance(returns + 5.0, returns, mask).item() == pytest.approx(1.0)
    assert explained_variance(torch.zeros_like(returns), returns, mask).item() == pytest.approx(0.0)
    assert explained_variance(-returns, returns, mask).item() == pytest.approx(-3.0)
    errors = tensor([1.0, 0.0, -1.0, NAN])
    assert explained_variance(returns + errors, returns, mask).item() == pytest.approx(1 - 2 / 14)
    assert explained_variance(errors, torch.full((1, 4), 0.1), mask).isnan()
    assert explained_variance(errors, returns, torch.zeros_like(mask)).isnan()
    downwards = tensor([6.0, 2.0, 1.0, NAN])
    assert explained_variance(-downwards, downwards, mask).item() == pytest.approx(-3.0)
    # Returns 1, 1, 2 (squared deviations 2/3), errors 0, -1, -4 (26/3).
    assert explained_variance(returns, tensor([1.0, 1.0, 2.0, 9.0]), mask).item() == pytest.approx(-12.0)


# -- weights for a sampler that is not quite the learner --------------------------------------------------------------


def test_truncated_importance_weights_by_hand() -> None:
    old, sampler = tensor([0.3, 0.2, 0.9]).log().requires_grad_(), tensor([0.6, 0.2, 0.1]).log()
    weights = truncated_importance_weights(old, sampler, cap=2.0)
    assert np.allclose(weights, [[0.5, 1.0, 2.0]]) and not weights.requires_grad
    assert np.allclose(truncated_importance_weights(old, sampler, cap=0.75), [[0.5, 0.75, 0.75]])
    for cap in (0.0, -1.0, NAN):
        with pytest.raises(ValueError, match="cap > 0"):
            truncated_importance_weights(old, sampler, cap=cap)


def test_importance_weights_mend_what_another_sampler_drew() -> None:
    """By enumeration: with no cap in reach, the expected policy gradient is that of the old policy's own tokens."""
    logits, sampler = normal(0, 5).requires_grad_(), normal(1, 5).log_softmax(0)
    logprobs, advantages = logits.log_softmax(0), normal(2, 1, 5)
    old = logprobs.detach()

    def expected_gradient(drawn_from: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        loss = weights * clipped_policy_loss(logprobs[None], old[None], advantages, clip_range=0.2)
        return torch.autograd.grad((drawn_from.exp() * loss[0]).sum(), logits, retain_graph=True)[0]

    exact = expected_gradient(old, torch.ones(1, 5, dtype=D))
    mended = expected_gradient(sampler, truncated_importance_weights(old[None], sampler[None], cap=1e9))
    assert torch.allclose(mended, exact, atol=1e-14)
    assert not torch.allclose(expected_gradient(sampler, torch.ones(1, 5, dtype=D)), exact, atol=1e-2)


# -- diagnostics ------------------------------------------------------------------------------------------------------


def test_approx_kl_is_of_old_against_new_by_enumeration() -> None:
    old, new = normal(1, 5).log_softmax(0), normal(2, 5).log_softmax(0)
    exact = (old.exp() * (old - new)).sum().item()
    one = torch.ones(1, 1, dtype=torch.bool)
    mean = sum(old[a].exp().item() * approx_kl(new[a].view(1, 1), old[a].view(1, 1), one).item() for a in range(5))
    assert mean == pytest.approx(exact, abs=1e-12)


def test_approx_kl_is_a_mean_over_tokens() -> None:
    mask = turns(0, 3, 5)
    new, old, _ = some_logprobs(3, 5)
    ratio = (new - old).exp().numpy()[mask.numpy()]
    assert approx_kl(new, old, mask).item() == pytest.approx(np.mean(ratio - 1 - np.log(ratio)), abs=1e-14)


def test_clip_fraction_counts_tokens_without_gradient() -> None:
    logprobs = tensor([1.5, 1.5, 0.5, 0.5, 1.0, 1.5, 1.5]).log()
    advantages = tensor([2.0, -2.0, 2.0, -2.0, 2.0, 2.0, 2.0])
    mask = torch.tensor([[True, True, True, True, True, True, False]])
    share = clip_fraction(logprobs, torch.zeros_like(logprobs), advantages, mask, clip_range=0.2)
    assert share.item() == pytest.approx(3 / 6)


@pytest.mark.parametrize("clip_range_high", [None, 0.5])
def test_clip_fraction_is_the_share_of_zero_gradients(clip_range_high: float | None) -> None:
    mask, settings = turns(0, 30, 30), {"clip_range": 0.2, "clip_range_high": clip_range_high}
    new, old, advantages = some_logprobs(30, 30)
    new.requires_grad_()
    (grad,) = torch.autograd.grad(clipped_policy_loss(new, old, advantages, **settings).sum(), new)
    share = clip_fraction(new, old, advantages, mask, **settings)
    assert 0.1 < share.item() < 0.6
    assert share.item() == pytest.approx(masked_mean((grad == 0.0).double(), mask).item(), abs=1e-14)
    one_each = clip_fraction(new, old, advantages[:, :1], mask, **settings)
    assert one_each.item() == clip_fraction(new, old, advantages[:, :1].expand(30, 30), mask, **settings).item()


def test_the_edges_of_the_range_are_inside() -> None:
    """At a ratio of exactly 1.25 or 0.75 nothing is stopped, nor is anything where there is no advantage."""
    ratio, advantages = tensor([1.25, 0.75, 9.0, 0.1]), tensor([1.0, -1.0, 0.0, 0.0])
    mask = torch.ones(1, 4, dtype=torch.bool)
    assert clip_fraction(ratio.log(), torch.zeros_like(ratio), advantages, mask, clip_range=0.25).item() == 0.0


def test_entropy_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], dtype=D).log()
    assert np.allclose(categorical_entropy(logits), [1.5 * math.log(2.0), 0.0])
    assert np.allclose(categorical_entropy(logits[:1] + 7.0), [1.5 * math.log(2.0)])
    of_two_rows = categorical_entropy(torch.stack([logits, logits.flip(0)]))  # (2, 2, V): the last axis is summed over
    assert np.allclose(of_two_rows, np.array([[1.5, 0.0], [0.0, 1.5]]) * math.log(2.0))
    assert torch.autograd.gradcheck(categorical_entropy, (normal(0, 3, 4).requires_grad_(),))


# -- masks and shapes -------------------------------------------------------------------------------------------------


def test_masked_nan_poisons_no_loss() -> None:
    mask, inputs = turns(0, 4, 7), some_logprobs(4, 7)
    for loss in (*POLICY_LOSSES.values(), lambda v, o, r: clipped_value_loss(v, o, r, clip_range=0.2)):
        assert_masked_nan_poisons_nothing(lambda *t: loss(*zero_outside(mask, *t)), mask, inputs)  # noqa: B023
    assert_masked_nan_poisons_nothing(lambda n, o, a: gspo_loss(n, o, a, mask, clip_range=0.2), mask, inputs)
    assert_masked_nan_poisons_nothing(lambda n, o: sequence_logratio(n, o, mask), mask, inputs[:2])
    assert_masked_nan_poisons_nothing(lambda n, o: approx_kl(n, o, mask), mask, inputs[:2])
    poisoned = [t.masked_fill(~mask, NAN) for t in inputs]
    assert clip_fraction(*poisoned, mask, clip_range=0.2).item() == clip_fraction(*inputs, mask, clip_range=0.2).item()
    assert explained_variance(*poisoned[:2], mask).item() == explained_variance(*inputs[:2], mask).item()
    weights = truncated_importance_weights(*poisoned[:2], cap=2.0)
    assert torch.equal(weights[mask], truncated_importance_weights(*inputs[:2], cap=2.0)[mask])


@pytest.mark.parametrize("name", [*POLICY_LOSSES, "value"])
def test_places_are_kept_apart(name: str) -> None:
    """A loss a token: NaN at one place changes loss and gradient of no other."""
    loss = POLICY_LOSSES.get(name, lambda v, o, r: clipped_value_loss(v, o, r, clip_range=0.2))
    inputs = some_logprobs(2, 3)
    spoiled = [t.clone() for t in inputs]
    for each in spoiled:
        each[1, 1] = NAN
    results = []
    for new, *rest in (inputs, spoiled):
        value = loss(new.requires_grad_(), *rest)
        results.append((value, *torch.autograd.grad(value.sum(), new)))
    for clean, other in zip(*results, strict=True):
        assert (clean == other).tolist() == [[True, True, True], [True, False, True]]


def test_losses_refuse_shapes_that_disagree() -> None:
    x, wide, mask = torch.zeros(2, 3), torch.zeros(2, 4), torch.ones(2, 3, dtype=torch.bool)
    for loss in (
        *POLICY_LOSSES.values(),
        lambda n, o, a: gspo_loss(n, o, a, mask, clip_range=0.2),
        lambda n, o, a: clip_fraction(n, o, a, mask, clip_range=0.2),
    ):
        for advantages in (wide, torch.zeros(1, 1), torch.zeros(3, 1), torch.zeros(2)):
            with pytest.raises(ValueError, match="advantages"):
                loss(x, x, advantages)
        with pytest.raises(ValueError, match=r"old_logprobs.*\(2, 4\)"):
            loss(x, wide, x[:, :1])
    for call in (
        lambda: approx_kl(x, wide, mask),
        lambda: approx_kl(x, x, mask[:, :1]),
        lambda: sequence_logratio(x, x, mask[:, :1]),
        lambda: clip_fraction(x, x, x, mask[:, :1], clip_range=0.2),
        lambda: clipped_value_loss(x, x[:, :1], x, clip_range=0.2),
        lambda: clipped_value_loss(x, x, x[:, :1], clip_range=None),
        lambda: truncated_importance_weights(x, wide, cap=1.0),
        lambda: explained_variance(x, x, mask[:1]),
    ):
        with pytest.raises(ValueError, match="one shape"):
            call()
