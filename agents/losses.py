"""Losses and diagnostics of policy-gradient methods, a value per token. Pure tensor functions; no model in sight.

``masking.average_tokens`` makes one number of a loss a token. A function without a ``response_mask`` keeps the places
apart: what stands at one place, be it NaN, reaches the loss and the gradient at that place only. Pass what may not be
finite outside the mask through ``masking.zero_outside`` first, so that the gradient there is 0 too.
"""

from __future__ import annotations

import torch

from llmgym.agents.masking import _same_shape, masked_mean, zero_outside


def clipped_policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
) -> torch.Tensor:
    """PPO's clipped surrogate, as a loss for each token.

    ``r_t = exp(logprobs - old_logprobs)``;
    ``loss_t = -min(r_t A_t, clip(r_t, 1 - clip_range, 1 + clip_range_high) A_t)``.

    Args:
        logprobs: ``(B, T)`` float. Of the chosen tokens under the current policy.
        old_logprobs: ``(B, T)`` float. The same when they were sampled; a constant.
        advantages: ``(B, T)`` or ``(B, 1)`` float; a constant.
        clip_range: In ``(0, 1)``. How far the ratio may fall below 1 before the gradient stops.
        clip_range_high: The same above 1; ``None``: ``clip_range``.

    Returns:
        ``(B, T)`` float.

    Raises:
        ValueError: If the shapes disagree.

    Source: Schulman et al., arXiv:1707.06347v2, eq. 7; Shao et al., arXiv:2402.03300v3, eq. 3.
    """
    _check_policy_shapes(logprobs, old_logprobs, advantages)
    return _clipped_surrogate(logprobs - old_logprobs, advantages, clip_range, clip_range_high)


def cispo_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    *,
    clip_range: float | None,
    clip_range_high: float,
) -> torch.Tensor:
    """REINFORCE with clipped importance weights: no token's gradient is ever stopped, only its weight is bounded.

    ``loss_t = -sg(clip(r_t, 1 - clip_range, 1 + clip_range_high)) A_t logprobs_t`` with ``r_t = exp(logprobs -
    old_logprobs)`` and ``sg`` a constant.

    Args:
        logprobs: ``(B, T)`` float. Of the chosen tokens under the current policy.
        old_logprobs: ``(B, T)`` float. The same when they were sampled; a constant.
        advantages: ``(B, T)`` or ``(B, 1)`` float; a constant.
        clip_range: How far below 1 the weight may fall; ``None``: no lower bound (as the paper uses it).
        clip_range_high: How far above 1 the weight may rise; the paper tunes this one.

    Returns:
        ``(B, T)`` float. Its gradient is what counts; its value is no objective.

    Raises:
        ValueError: If the shapes disagree.

    Source: MiniMax, arXiv:2506.13585v1, eq. 4 and 5.
    """
    _check_policy_shapes(logprobs, old_logprobs, advantages)
    lowest = None if clip_range is None else 1.0 - clip_range
    weights = torch.exp(logprobs.detach() - old_logprobs).clamp(lowest, 1.0 + clip_range_high)
    return -weights * advantages * logprobs


def sequence_logratio(logprobs: torch.Tensor, old_logprobs: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
    """Mean over a response's tokens of the log-ratio: the log of GSPO's sequence-level importance ratio.

    ``log s_i = 1/|o_i| sum_t (logprobs_t - old_logprobs_t)``.

    Args:
        logprobs: ``(B, T)`` float. Of the chosen tokens under the current policy.
        old_logprobs: ``(B, T)`` float. The same when they were sampled; a constant.
        response_mask: ``(B, T)`` bool. True where the policy chose the token.

    Returns:
        ``(B, 1)`` float; 0 for a response without tokens.

    Raises:
        ValueError: If the shapes disagree.

    Source: Zheng et al., arXiv:2507.18071v2, eq. 7.
    """
    _same_shape(logprobs=logprobs, old_logprobs=old_logprobs, response_mask=response_mask)
    return masked_mean(logprobs - old_logprobs, response_mask, dim=1)[:, None]


def gspo_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
) -> torch.Tensor:
    """PPO's clipped surrogate with one importance ratio for a whole response, at each of its tokens.

    ``s_it = sg(s_i) exp(logprobs_t - sg(logprobs_t))``, with ``log s_i`` of :func:`sequence_logratio`;
    ``loss_t = -min(s_it A_t, clip(s_it, 1 - clip_range, 1 + clip_range_high) A_t)``.

    The value of ``s_it`` is ``s_i`` at every token, so a response is clipped as a whole or not at all. This is the
    paper's token form: with one advantage for a response, its average with ``how="sequence"`` has the value and the
    gradient (eq. 10) of the sequence-level objective; with an advantage for each token (process supervision), each one
    still reaches its own token.

    Args:
        logprobs: ``(B, T)`` float. Of the chosen tokens under the current policy.
        old_logprobs: ``(B, T)`` float. The same when they were sampled; a constant.
        advantages: ``(B, T)`` or ``(B, 1)`` float; a constant.
        response_mask: ``(B, T)`` bool. True where the policy chose the token.
        clip_range: How far the ratio may fall below 1 before the gradient stops. The ratio is a mean over tokens, so
            this is much smaller than PPO's: the paper uses 3e-4.
        clip_range_high: The same above 1 (the paper: 4e-4); ``None``: ``clip_range``.

    Returns:
        ``(B, T)`` float; 0 outside the mask.

    Raises:
        ValueError: If the shapes disagree.

    Source: Zheng et al., arXiv:2507.18071v2, eq. 5, 13 and 14.
    """
    _check_policy_shapes(logprobs, old_logprobs, advantages)
    log_ratio = sequence_logratio(logprobs, old_logprobs, response_mask).detach()
    logprobs, advantages = zero_outside(response_mask, logprobs, advantages.expand_as(logprobs))
    log_ratio = log_ratio + (logprobs - logprobs.detach())  # adds 0, and each token's gradient
    return _clipped_surrogate(log_ratio, advantages, clip_range, clip_range_high)


def penalty_policy_loss(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, *, kl_coef: float
) -> torch.Tensor:
    """PPO's other objective: no clipping, but a price on moving away from the policy that sampled.

    ``loss_t = -r_t A_t + kl_coef ((r_t - 1) - log r_t)`` with ``r_t = exp(logprobs - old_logprobs)``: the bracket is an
    unbiased estimate of ``KL(old || current)``, and so is its gradient, since the tokens come from the old policy.

    Args:
        logprobs: ``(B, T)`` float. Of the chosen tokens under the current policy.
        old_logprobs: ``(B, T)`` float. The same when they were sampled; a constant.
        advantages: ``(B, T)`` or ``(B, 1)`` float; a constant.
        kl_coef: Price of a nat, >= 0; adapted after each update by ``kl.penalty_coef_update``.

    Returns:
        ``(B, T)`` float.

    Raises:
        ValueError: If the shapes disagree.

    Source: Schulman et al., arXiv:1707.06347v2, eq. 8.
    """
    _check_policy_shapes(logprobs, old_logprobs, advantages)
    log_ratio = logprobs - old_logprobs
    return -torch.exp(log_ratio) * advantages + kl_coef * (torch.expm1(log_ratio) - log_ratio)


def clipped_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, *, clip_range: float | None
) -> torch.Tensor:
    """The critic's squared error, with no gain from moving further than ``clip_range`` from the old value.

    ``loss_t = max((R - V)^2, (R - clip(V, V_old - clip_range, V_old + clip_range))^2)``; there is no factor 1/2.

    Args:
        values: ``(B, T)`` float. ``V``, current.
        old_values: ``(B, T)`` float. ``V_old``, at sampling time; a constant.
        returns: ``(B, T)`` float. ``R``, the targets, such as ``A + V_old``; a constant.
        clip_range: > 0, in the unit of the returns; ``None``: the plain square ``(R - V)^2``.

    Returns:
        ``(B, T)`` float, >= 0.

    Raises:
        ValueError: If the shapes disagree.

    Source: Engstrom et al., arXiv:2005.12729v1, section 3 (value function clipping of published PPO code).
    """
    _same_shape(values=values, old_values=old_values, returns=returns)
    squared = (returns - values) ** 2
    if clip_range is None:
        return squared
    near = torch.clamp(values, old_values - clip_range, old_values + clip_range)
    return torch.maximum(squared, (returns - near) ** 2)


def truncated_importance_weights(
    old_logprobs: torch.Tensor, sampler_logprobs: torch.Tensor, *, cap: float
) -> torch.Tensor:
    """Weights for a policy loss whose tokens were drawn by a sampler that is not quite the old policy.

    ``w_t = min(exp(old_logprobs - sampler_logprobs), cap)``, a constant: what a quicker sampler (other kernels, another
    precision) drew too often counts less, and nothing counts more than ``cap`` times.

    Args:
        old_logprobs: ``(B, T)`` float. Of the chosen tokens as the learner computes them, before its first step.
        sampler_logprobs: ``(B, T)`` float. As the sampler computed them.
        cap: > 0; more: less bias, more variance. Usual: 2.

    Returns:
        ``(B, T)`` float in ``[0, cap]``, without gradient.

    Raises:
        ValueError: If the shapes disagree or ``cap`` is not above 0.

    Source: Ionides, "Truncated importance sampling", 2008, eq. 3; Yao et al., "Your efficient RL framework secretly
        brings you off-policy RL training", 2025.
    """
    _same_shape(old_logprobs=old_logprobs, sampler_logprobs=sampler_logprobs)
    if not cap > 0.0:
        raise ValueError(f"Expected cap > 0 (the largest importance weight), actual: {cap}. Usual: 2.")
    return torch.exp(old_logprobs - sampler_logprobs).clamp(max=cap).detach()


def approx_kl(logprobs: torch.Tensor, old_logprobs: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
    """How far the policy has moved since sampling: the k3 estimate of ``KL(old || current)``, mean over tokens.

    ``mean((r - 1) - log r)`` with ``r = exp(logprobs - old_logprobs)`` and tokens drawn from the old policy.

    Args:
        logprobs: ``(B, T)`` float. Current.
        old_logprobs: ``(B, T)`` float. At sampling time.
        response_mask: ``(B, T)`` bool. True where the policy chose the token.

    Returns:
        A scalar, >= 0, in nats a token.

    Raises:
        ValueError: If the shapes disagree.
    """
    _same_shape(logprobs=logprobs, old_logprobs=old_logprobs, response_mask=response_mask)
    (log_ratio,) = zero_outside(response_mask, logprobs - old_logprobs)
    return masked_mean(torch.expm1(log_ratio) - log_ratio, response_mask)


def clip_fraction(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
) -> torch.Tensor:
    """Share of tokens whose gradient the clipping has stopped.

    Args:
        logprobs: ``(B, T)`` float. Current.
        old_logprobs: ``(B, T)`` float. At sampling time.
        advantages: ``(B, T)`` or ``(B, 1)`` float.
        response_mask: ``(B, T)`` bool. True where the policy chose the token.
        clip_range: As in :func:`clipped_policy_loss`.
        clip_range_high: As there.

    Returns:
        A scalar in [0, 1].

    Raises:
        ValueError: If the shapes disagree.
    """
    _check_policy_shapes(logprobs, old_logprobs, advantages)
    ratio = torch.exp(logprobs - old_logprobs)
    high = clip_range if clip_range_high is None else clip_range_high
    stopped = ((advantages > 0) & (ratio > 1.0 + high)) | ((advantages < 0) & (ratio < 1.0 - clip_range))
    return masked_mean(stopped.to(ratio.dtype), response_mask)


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """How much of the returns' variance the critic explains.

    ``1 - Var(R - V) / Var(R)`` over the chosen tokens: 1 for a perfect critic (up to a constant), 0 for one that knows
    nothing, below 0 for one that is worse than that.

    Args:
        values: ``(B, T)`` float. ``V``.
        returns: ``(B, T)`` float. ``R``.
        mask: ``(B, T)`` bool. True where the policy chose the token.

    Returns:
        A scalar, <= 1; NaN where the returns do not vary or there are none, since there is nothing to explain.

    Raises:
        ValueError: If the shapes disagree.
    """
    _same_shape(values=values, returns=returns, mask=mask)
    values, returns = values[mask], returns[mask]
    if (returns == returns[:1]).all():  # exactly: the variance of equal numbers may round to a little more than 0
        return returns.new_tensor(torch.nan)
    return 1.0 - (returns - values).var(correction=0) / returns.var(correction=0)


def categorical_entropy(logits: torch.Tensor) -> torch.Tensor:
    """``-sum_a p(a) log p(a)`` in nats; forbidden tokens (logit ``-inf``) count as 0.

    Args:
        logits: ``(..., V)`` float.

    Returns:
        ``(...)`` float, in ``[0, log V]``.

    Example:
        >>> categorical_entropy(torch.tensor([0.0, 0.0, float("-inf")])).exp()
        tensor(2.)
    """
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs.masked_fill(logprobs == float("-inf"), 0.0)).sum(-1)


def _clipped_surrogate(
    log_ratio: torch.Tensor, advantages: torch.Tensor, clip_range: float, clip_range_high: float | None
) -> torch.Tensor:
    ratio = torch.exp(log_ratio)
    high = clip_range if clip_range_high is None else clip_range_high
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def _check_policy_shapes(logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor) -> None:
    """One shape for all; ``(B, 1)`` will do for advantages: one for each response."""
    _same_shape(logprobs=logprobs, old_logprobs=old_logprobs)
    if advantages.shape != (len(logprobs), 1):
        _same_shape(logprobs=logprobs, advantages=advantages)
