"""How far the policy is from a reference: estimates, losses, adaptive coefficients. Pure functions; no model in sight.

All estimates read the chosen tokens only, so it matters from which distribution the tokens came and where the gradient
goes. With ``x = log policy(a) - log reference(a)`` (each line is shown by exact enumeration in the golden tests):

===================================  ===================================================================
tokens drawn from the policy itself  expected gradient with respect to the policy
===================================  ===================================================================
k1 in the loss                       0: it teaches nothing, and is refused
k2 in the loss                       of ``KL(policy || reference)``
k3 in the loss (GRPO, eq. 4)         of ``KL(reference || policy)``: the other direction
k1, k2, k3 in the loss, corrected    of ``KL(policy || reference)``
k1 in the reward                     of ``KL(policy || reference)``
k2 in the reward                     of no divergence (``sum_a x^2/2 grad policy(a)``)
k3 in the reward                     of ``KL(policy || reference) - KL(reference || policy)``
===================================  ===================================================================

Later epochs learn from tokens of the old policy. The corrected forms in the loss stay exact there, the others do not.

In the loss, these gradients are those of the distance in the states that were visited: a token's part in which states
come later is left out. In the reward (k1, and each token credited with what follows) it is in: that is the gradient of
the KL between whole responses.
"""

from __future__ import annotations

import math

import torch

from llmgym.agents.masking import _same_shape


def kl_estimate(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, estimator: str = "k3") -> torch.Tensor:
    """An estimate of ``KL(policy || reference)`` from each token that the policy chose.

    With ``x = logprobs - ref_logprobs`` and tokens drawn from the policy:

    * ``"k1"``: ``x``. Unbiased, of either sign, high variance.
    * ``"k2"``: ``x^2 / 2``. Never negative, biased, low variance.
    * ``"k3"``: ``exp(-x) - 1 + x``. Never negative, unbiased where the reference gives the tokens that the policy can
      choose a mass of 1 (so truncate both alike), low variance near the reference.

    Args:
        logprobs: ``(B, T)`` float. Under the policy that chose the tokens.
        ref_logprobs: ``(B, T)`` float. Under the reference policy; a constant.
        estimator: One of the three above.

    Returns:
        ``(B, T)`` float, in nats.

    Raises:
        ValueError: If the shapes disagree or the estimator is unknown.

    Example:
        >>> policy, reference = torch.tensor([[0.5]]).log(), torch.tensor([[0.25]]).log()
        >>> [round(kl_estimate(policy, reference, k).item(), 4) for k in ("k1", "k2", "k3")]
        [0.6931, 0.2402, 0.1931]

    Source: J. Schulman, "Approximating KL divergence", 2020; Shao et al., arXiv:2402.03300v3, eq. 4 (k3).
    """
    _same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs)
    difference = logprobs - ref_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference**2
    if estimator == "k3":
        return torch.expm1(-difference) + difference
    raise ValueError(f'Expected estimator to be "k1", "k2" or "k3", actual: {estimator!r}.')


def kl_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    ref_logprobs: torch.Tensor,
    *,
    estimator: str,
    corrected: bool,
) -> torch.Tensor:
    """What to add to the loss of each token, so that its gradient draws the policy to the reference.

    Not corrected: :func:`kl_estimate` itself, with the gradients of the table at the top of this file.

    Corrected, with ``r = exp(logprobs - old_logprobs)``: the gradient is that of ``KL(policy || reference)`` in
    expectation over tokens of the old policy, wherever the policy has gone since.

    * k1 and k3: ``r k``. Since ``E_old[r k] = E_policy[k]`` is the KL itself, whatever the policy, so is its gradient:
      part of it runs through ``r``.
    * k2: ``sg(r) k2``, with ``sg`` a constant. ``E_policy[k2]`` is not the KL, but ``E_policy[grad k2] =
      E_policy[x grad logprobs]`` is its gradient; a gradient through ``r`` would be one too many.

    Args:
        logprobs: ``(B, T)`` float. Current, of the chosen tokens.
        old_logprobs: ``(B, T)`` float. Of the policy that chose the tokens; a constant. Read if ``corrected`` only.
        ref_logprobs: ``(B, T)`` float. Under the reference policy; a constant.
        estimator: ``"k1"``, ``"k2"`` or ``"k3"``.
        corrected: Whether the gradient is to be that of ``KL(policy || reference)``; see above.

    Returns:
        ``(B, T)`` float, in nats.

    Raises:
        ValueError: If the shapes disagree, the estimator is unknown, or it is k1 and not corrected: its expected
            gradient is 0 where the tokens come from the policy, so it would only add noise.

    Source: Shao et al., arXiv:2402.03300v3, eq. 4; DeepSeek-AI, "DeepSeek-V3.2", arXiv:2512.02556v1, section 3.1
        (unbiased KL estimate).
    """
    _same_shape(logprobs=logprobs, old_logprobs=old_logprobs, ref_logprobs=ref_logprobs)
    estimate = kl_estimate(logprobs, ref_logprobs, estimator)
    if not corrected:
        if estimator == "k1":
            raise ValueError(
                "Expected k2, k3 or a corrected estimator in the loss (the gradient of k1 is 0 in expectation), "
                'actual: "k1", not corrected. Correct it, or put it into the reward.'
            )
        return estimate
    ratio = torch.exp(logprobs - old_logprobs)
    return (ratio.detach() if estimator == "k2" else ratio) * estimate


def penalty_coef_update(coef: float, kl: float, target: float) -> float:
    """The next coefficient of PPO's penalty variant: halved when the policy moved too little, doubled when too far.

    ``coef / 2`` if ``kl < target / 1.5``; ``2 coef`` if ``kl > 1.5 target``; else ``coef``.

    Args:
        coef: The coefficient used so far, >= 0.
        kl: ``KL(old || current)`` after the update, in nats a token.
        target: What it should be, > 0.

    Returns:
        The coefficient for the next rollout.

    Raises:
        ValueError: If ``kl`` is not finite or ``target`` is not above 0.

    Example:
        >>> [penalty_coef_update(1.0, kl, target=0.03) for kl in (0.01, 0.03, 0.05)]
        [0.5, 1.0, 2.0]

    Source: Schulman et al., arXiv:1707.06347v2, section 4.
    """
    _check_kl(kl, target)
    if kl < target / 1.5:
        return coef / 2.0
    if kl > target * 1.5:
        return coef * 2.0
    return coef


def proportional_coef_update(coef: float, kl: float, target: float, *, n_steps: int, horizon: int) -> float:
    """The next coefficient of a KL penalty in the reward, by a controller proportional to the error.

    ``coef (1 + e n_steps / horizon)`` with ``e = clip(kl / target - 1, -0.2, 0.2)``.

    Args:
        coef: The coefficient used so far, >= 0.
        kl: ``KL(policy || reference)`` of the last rollout, in nats.
        target: What it should be, > 0, in the same unit.
        n_steps: Episodes in that rollout.
        horizon: Over how many episodes the controller works; more: slower.

    Returns:
        The coefficient for the next rollout.

    Raises:
        ValueError: If ``kl`` is not finite, or ``target`` or ``horizon`` is not above 0.

    Example:
        >>> proportional_coef_update(0.5, 12.0, 6.0, n_steps=100, horizon=1000)
        0.51

    Source: Ziegler et al., arXiv:1909.08593v2, section 2.2; ``n_steps / horizon`` is its constant ``K_beta``.
    """
    _check_kl(kl, target)
    if not horizon > 0:
        raise ValueError(f"Expected horizon > 0 (episodes over which the coefficient adapts), actual: {horizon}.")
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return coef * (1.0 + error * n_steps / horizon)


def _check_kl(kl: float, target: float) -> None:
    if not math.isfinite(kl):
        raise ValueError(f"Expected a finite KL to adapt the coefficient to, actual: {kl}. The policy has broken down.")
    if not target > 0.0:
        raise ValueError(f"Expected target > 0 (the KL that the coefficient aims at), actual: {target}.")
