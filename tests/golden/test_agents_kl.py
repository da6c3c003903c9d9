"""KL: estimators and what their gradients are the gradients of, by summing over all that could have been drawn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from llmgym.agents.advantages import gae  # noqa: E402
from llmgym.agents.kl import kl_estimate, kl_loss, penalty_coef_update, proportional_coef_update  # noqa: E402
from llmgym.agents.losses import clipped_policy_loss  # noqa: E402
from llmgym.agents.masking import zero_outside  # noqa: E402
from tests.golden.agent_tensors import D, assert_masked_nan_poisons_nothing, normal, tensor, turns  # noqa: E402

ESTIMATORS = ("k1", "k2", "k3")

# Three distributions over five tokens: the policy (with gradient), the one that drew the tokens, the reference.
LOGITS = normal(0, 5).requires_grad_()
POLICY = LOGITS.log_softmax(0)
OLD = normal(1, 5).log_softmax(0)
REFERENCE = (2.0 * normal(2, 5)).log_softmax(0)


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p.exp() * (p - q)).sum()


def gradient(scalar: torch.Tensor) -> np.ndarray:
    return torch.autograd.grad(scalar, LOGITS, retain_graph=True)[0].numpy()


def expected(loss: torch.Tensor, drawn_from: torch.Tensor) -> torch.Tensor:
    """The expectation of a ``(1, 5)`` loss, one place for each token that could be drawn."""
    return (drawn_from.detach().exp() * loss[0]).sum()


REVERSE = gradient(kl(POLICY, REFERENCE))  # of KL(policy || reference): what the penalty is meant to be
FORWARD = gradient(kl(REFERENCE, POLICY))  # of KL(reference || policy)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal to rounding; two gradients that are not the same must not be near each other either."""
    difference = np.abs(one - other).max()
    assert difference < 1e-12 or difference > 0.01
    return bool(difference < 1e-12)


def test_the_two_directions_differ() -> None:
    assert not same(REVERSE, FORWARD) and not same(REVERSE, -FORWARD) and not same(REVERSE, 0 * REVERSE)


# -- values -----------------------------------------------------------------------------------------------------------


def test_estimates_by_hand() -> None:
    """Policy 1/2, reference 1/4, so x = log 2; and the other way about, where k1 is negative."""
    half, quarter, log2 = tensor([0.5]).log(), tensor([0.25]).log(), math.log(2)
    for new, ref, values in (
        (half, quarter, (log2, log2**2 / 2, 0.5 - 1 + log2)),
        (quarter, half, (-log2, log2**2 / 2, 2 - 1 - log2)),
    ):
        assert [kl_estimate(new, ref, k).item() for k in ESTIMATORS] == pytest.approx(values, abs=1e-15)
    assert kl_estimate(half, quarter).item() == kl_estimate(half, quarter, "k3").item()


def test_k1_and_k3_are_unbiased_and_k2_is_not() -> None:
    exact = kl(POLICY, REFERENCE).item()
    values = {k: kl_estimate(POLICY.detach()[None], REFERENCE[None], k) for k in ESTIMATORS}
    means = {k: expected(value, POLICY).item() for k, value in values.items()}
    assert means["k1"] == pytest.approx(exact, abs=1e-14) and means["k3"] == pytest.approx(exact, abs=1e-14)
    assert means["k2"] != pytest.approx(exact, rel=0.05)
    assert kl(REFERENCE, POLICY).item() != pytest.approx(exact, rel=0.05)  # these numbers can tell the directions apart
    assert (values["k2"] >= 0).all() and (values["k3"] >= 0).all() and (values["k1"] < 0).any()


def test_near_the_reference_k3_keeps_its_digits_and_varies_little() -> None:
    near = (REFERENCE + 1e-3 * normal(3, 5)).log_softmax(0)
    exact = kl(near, REFERENCE).item()
    k3 = kl_estimate(near.float()[None], REFERENCE.float()[None], "k3").double()
    assert expected(k3, near).item() == pytest.approx(exact, rel=0.01)  # exp(-x) - 1 would have lost them in float32
    k1, k3 = (kl_estimate(near[None], REFERENCE[None], k)[0] for k in ("k1", "k3"))
    variance = [(near.exp() * (k - exact) ** 2).sum().item() for k in (k1, k3)]
    assert variance[1] < 1e-3 * variance[0]


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_corrected_estimates_are_the_kl_wherever_the_tokens_came_from(estimator: str) -> None:
    loss = kl_loss(POLICY[None], OLD[None], REFERENCE[None], estimator=estimator, corrected=True)
    assert expected(loss, OLD).item() == pytest.approx(kl(POLICY, REFERENCE).item(), abs=1e-13)


# -- gradients: in the loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("drawn_from", [POLICY, OLD], ids=["on policy", "off policy"])
def test_corrected_gradients_are_those_of_the_kl_to_the_reference(estimator: str, drawn_from: torch.Tensor) -> None:
    loss = kl_loss(POLICY[None], drawn_from.detach()[None], REFERENCE[None], estimator=estimator, corrected=True)
    assert same(gradient(expected(loss, drawn_from)), REVERSE)


def test_on_policy_k2_has_that_gradient_uncorrected_and_k3_has_that_of_the_other_direction() -> None:
    losses = {k: kl_loss(POLICY[None], OLD[None], REFERENCE[None], estimator=k, corrected=False) for k in ("k2", "k3")}
    assert same(gradient(expected(losses["k2"], POLICY)), REVERSE)
    assert same(gradient(expected(losses["k3"], POLICY)), FORWARD)


def test_off_policy_uncorrected_gradients_are_those_of_neither() -> None:
    for estimator in ("k2", "k3"):
        loss = kl_loss(POLICY[None], OLD[None], REFERENCE[None], estimator=estimator, corrected=False)
        got = gradient(expected(loss, OLD))
        assert not same(got, REVERSE) and not same(got, FORWARD)


def test_k1_teaches_nothing_in_the_loss_and_is_refused() -> None:
    assert same(gradient(expected(kl_estimate(POLICY[None], REFERENCE[None], "k1"), POLICY)), 0 * REVERSE)
    with pytest.raises(ValueError, match="k1"):
        kl_loss(POLICY[None], OLD[None], REFERENCE[None], estimator="k1", corrected=False)


def test_k2_needs_its_ratio_to_be_a_constant_and_the_others_need_it_not_to_be() -> None:
    """Why :func:`kl_loss` treats them apart: the other choice is wrong for each of the three."""
    ratio = (POLICY - OLD).exp()[None]
    for estimator, wrong in (("k1", ratio.detach()), ("k2", ratio), ("k3", ratio.detach())):
        loss = wrong * kl_estimate(POLICY[None], REFERENCE[None], estimator)
        assert not same(gradient(expected(loss, OLD)), REVERSE)


# -- gradients: in the reward -----------------------------------------------------------------------------------------


def gradient_of_a_reward(penalty: torch.Tensor) -> np.ndarray:
    """What the policy-gradient loss makes of a reward of minus ``penalty``, before the first step of an update."""
    now = POLICY.detach()[None]
    return gradient(expected(clipped_policy_loss(POLICY[None], now, -penalty, clip_range=0.2), POLICY))


def test_gradients_of_the_estimates_in_the_reward() -> None:
    k1, k2, k3 = (kl_estimate(POLICY.detach()[None], REFERENCE[None], k) for k in ESTIMATORS)
    assert same(gradient_of_a_reward(k1), REVERSE)
    assert same(gradient_of_a_reward(k3), REVERSE - FORWARD)
    weighted = gradient((POLICY.exp() * (POLICY - REFERENCE).detach() ** 2 / 2).sum())
    assert same(gradient_of_a_reward(k2), weighted) and not same(weighted, REVERSE) and not same(weighted, FORWARD)


def test_in_the_reward_k1_is_the_kl_between_whole_responses_and_in_the_loss_it_is_not() -> None:
    """Two tokens out of three: all nine responses, with the second token's distribution depending on the first.

    The distance in the second state counts for the first token, that leads there, if each token is credited with the
    rewards that follow. A loss that holds the visited states fixed leaves that part out.
    """
    first, second = normal(3, 3).requires_grad_(), normal(4, 3, 3).requires_grad_()
    ref_first, ref_second = normal(5, 3).log_softmax(0), normal(6, 3, 3).log_softmax(1)
    responses = list(itertools.product(range(3), repeat=2))

    def of_all(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        one, two = one.log_softmax(0), two.log_softmax(1)
        return torch.stack([torch.stack([one[a], two[a, b]]) for a, b in responses])

    logprobs, ref_logprobs = of_all(first, second), of_all(ref_first, ref_second)
    probability = logprobs.sum(1).exp()
    between_responses = (probability * (logprobs - ref_logprobs).sum(1)).sum()
    mask, zero = torch.ones(9, 2, dtype=torch.bool), torch.zeros(9, dtype=D)

    rewards = -kl_estimate(logprobs.detach(), ref_logprobs, "k1")
    advantages, _ = gae(rewards, torch.zeros(9, 2, dtype=D), zero, mask, gamma=1.0, gae_lambda=1.0)
    in_reward = clipped_policy_loss(logprobs, logprobs.detach(), advantages, clip_range=0.2).sum(1)
    in_loss = kl_loss(logprobs, logprobs.detach(), ref_logprobs, estimator="k1", corrected=True).sum(1)

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss, [first, second], retain_graph=True))

    exact = gradients(between_responses)
    by_reward = gradients((probability.detach() * in_reward).sum())
    by_loss = gradients((probability.detach() * in_loss).sum())
    assert torch.allclose(by_reward[0], exact[0], atol=1e-13) and torch.allclose(by_reward[1], exact[1], atol=1e-13)
    assert torch.allclose(by_loss[1], exact[1], atol=1e-13)  # after the last token comes no state
    assert not torch.allclose(by_loss[0], exact[0], atol=0.05)
    assert torch.allclose(by_loss[0], gradients(kl(first.log_softmax(0), ref_first) + 0 * second.sum())[0], atol=1e-13)


# -- the whole function -----------------------------------------------------------------------------------------------


def test_losses_against_loops() -> None:
    new, old, ref = normal(0, 3, 4), normal(1, 3, 4), normal(2, 3, 4)
    formulas = {
        "k1": lambda n, r: n - r,
        "k2": lambda n, r: (n - r) ** 2 / 2,
        "k3": lambda n, r: math.e ** (r - n) - (r - n) - 1,
    }
    for estimator, formula in formulas.items():
        estimate = kl_estimate(new, ref, estimator)
        corrected = kl_loss(new, old, ref, estimator=estimator, corrected=True)
        for b, t in itertools.product(range(3), range(4)):
            n, o, r = new[b, t].item(), old[b, t].item(), ref[b, t].item()
            assert estimate[b, t].item() == pytest.approx(formula(n, r), abs=1e-13)
            assert corrected[b, t].item() == pytest.approx(math.e ** (n - o) * formula(n, r), abs=1e-12)
        if estimator != "k1":
            assert torch.equal(kl_loss(new, old, ref, estimator=estimator, corrected=False), estimate)


def test_gradients_by_finite_differences() -> None:
    old, ref = normal(1, 3, 4), normal(2, 3, 4)
    new = normal(0, 3, 4).requires_grad_()
    for estimator in ESTIMATORS:
        assert torch.autograd.gradcheck(lambda n, k=estimator: kl_estimate(n, ref, k), (new,))
    for estimator in ("k1", "k3"):  # k2 has a constant factor, which differences would move along
        assert torch.autograd.gradcheck(
            lambda n, k=estimator: kl_loss(n, old, ref, estimator=k, corrected=True), (new,)
        )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_masked_nan_poisons_nothing(estimator: str) -> None:
    mask, inputs = turns(0, 4, 6), [normal(seed, 4, 6) for seed in range(3)]
    assert_masked_nan_poisons_nothing(
        lambda *t: kl_loss(*zero_outside(mask, *t), estimator=estimator, corrected=True), mask, inputs
    )
    assert_masked_nan_poisons_nothing(lambda *t: kl_estimate(*zero_outside(mask, *t), estimator), mask, inputs[:2])
    spoiled = [t.masked_fill(~mask, math.nan) for t in inputs]  # and without it, each place keeps to itself
    assert torch.equal(kl_estimate(*spoiled[:2], estimator)[mask], kl_estimate(*inputs[:2], estimator)[mask])


def test_what_cannot_work_is_refused() -> None:
    x, wide = torch.zeros(2, 3), torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"ref_logprobs.*\(2, 4\)"):
        kl_estimate(x, wide)
    with pytest.raises(ValueError, match=r"old_logprobs.*\(2, 4\)"):
        kl_loss(x, wide, x, estimator="k3", corrected=False)
    for estimator in ("", "k0", "k4"):
        with pytest.raises(ValueError, match=f'"k3", actual: {estimator!r}'):
            kl_estimate(x, x, estimator)
        for corrected in (True, False):
            with pytest.raises(ValueError, match=f'"k3", actual: {estimator!r}'):
                kl_loss(x, x, x, estimator=estimator, corrected=corrected)


# -- coefficients -----------------------------------------------------------------------------------------------------


def test_penalty_coefficient_halves_and_doubles() -> None:
    """Powers of two and a target of 3, so that the bounds 2 and 4.5 are exact: on them nothing changes."""
    kls = [-1.0, 0.0, 1.999, 2.0, 3.0, 4.5, 4.501, 100.0]
    updated = [penalty_coef_update(8.0, value, 3.0) for value in kls]
    assert updated == [4.0, 4.0, 4.0, 8.0, 8.0, 8.0, 16.0, 16.0]


def test_penalty_coefficient_finds_the_target() -> None:
    """A policy whose KL is 1 / coef: the controller ends within its own bounds, from either side."""
    for coef in (1e-4, 1e4):
        for _ in range(40):
            coef = penalty_coef_update(coef, 1 / coef, 0.02)
        assert 0.02 / 1.5 <= 1 / coef <= 0.02 * 1.5


def test_proportional_coefficient_by_hand() -> None:
    settings = {"n_steps": 50, "horizon": 200}
    assert proportional_coef_update(2.0, 6.6, 6.0, **settings) == pytest.approx(2.0 * (1 + 0.1 / 4))
    assert proportional_coef_update(2.0, 5.4, 6.0, **settings) == pytest.approx(2.0 * (1 - 0.1 / 4))
    assert proportional_coef_update(2.0, 6.0, 6.0, **settings) == 2.0
    assert proportional_coef_update(2.0, 6.6, 6.0, n_steps=1, horizon=1) == pytest.approx(2.0 * 1.1)
    assert proportional_coef_update(2.0, 60.0, 6.0, **settings) == pytest.approx(2.0 * (1 + 0.2 / 4))
    assert proportional_coef_update(2.0, -6.0, 6.0, **settings) == pytest.approx(2.0 * (1 - 0.2 / 4))


def test_proportional_coefficient_finds_the_target() -> None:
    coef = 1.0
    for _ in range(600):
        coef = proportional_coef_update(coef, 1 / coef, 0.02, n_steps=10, horizon=100)
    assert 1 / coef == pytest.approx(0.02, rel=1e-3)


def test_coefficients_refuse_what_cannot_work() -> None:
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=f"finite KL.*actual: {bad}"):
            penalty_coef_update(1.0, bad, 0.1)
        with pytest.raises(ValueError, match=f"finite KL.*actual: {bad}"):
            proportional_coef_update(1.0, bad, 0.1, n_steps=1, horizon=1)
    for target in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"target > 0.*actual: {target}"):
            penalty_coef_update(1.0, 0.1, target)
    for horizon in (0, -1):
        with pytest.raises(ValueError, match=f"horizon > 0.*actual: {horizon}"):
            proportional_coef_update(1.0, 0.1, 0.1, n_steps=1, horizon=horizon)
