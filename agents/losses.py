"""Losses and diagnostics of policy-gradient methods, a value per token. Pure tensor functions; no model in sight."""

from __future__ import annotations

import torch

from llmgym.agents.masking import _same_shape, masked_mean


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
    _same_shape(logprobs=logprobs, old_logprobs=old_logprobs)
    if advantages.shape != (len(logprobs), 1):
        _same_shape(logprobs=logprobs, advantages=advantages)
    ratio = torch.exp(logprobs - old_logprobs)
    high = clip_range if clip_range_high is None else clip_range_high
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def kl_to_ref(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """The k3 estimate of ``KL(policy || reference)`` from the chosen tokens: never negative, unbiased, low variance.

    ``k3_t = exp(ref - logp) - (ref - logp) - 1``, with tokens drawn from the policy.

    Args:
        logprobs: ``(B, T)`` float. Under the policy that chose the tokens.
        ref_logprobs: ``(B, T)`` float. Under the reference policy; a constant.

    Returns:
        ``(B, T)`` float, >= 0.

    Raises:
        ValueError: If the shapes disagree.

    Source: Shao et al., arXiv:2402.03300v3, eq. 4; J. Schulman, "Approximating KL divergence", 2020.
    """
    _same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs)
    difference = ref_logprobs - logprobs
    return torch.expm1(difference) - difference


def approx_kl(logprobs: torch.Tensor, old_logprobs: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
    """How far the policy has moved since sampling: the k3 estimate of ``KL(old || current)``, mean over tokens.

    ``mean((r - 1) - log r)`` with ``r = exp(logprobs - old_logprobs)`` and tokens drawn from the old policy.

    Args:
        logprobs: ``(B, T)`` float. Current.
        old_logprobs: ``(B, T)`` float. At sampling time.
        response_mask: ``(B, T)`` bool. True where the policy chose the token.

    Returns:
        A scalar, >= 0, in nats a token.
    """
    log_ratio = logprobs - old_logprobs
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
    """
    ratio = torch.exp(logprobs - old_logprobs)
    high = clip_range if clip_range_high is None else clip_range_high
    stopped = ((advantages > 0) & (ratio > 1.0 + high)) | ((advantages < 0) & (ratio < 1.0 - clip_range))
    return masked_mean(stopped.to(ratio.dtype), response_mask)


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
