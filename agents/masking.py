"""Sums and means over the tokens that the policy chose. Pure tensor functions; no model in sight."""

from __future__ import annotations

import torch


def zero_outside(mask: torch.Tensor, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors with 0 outside the mask, whatever stood there.

    A loss computed from them has gradient 0 outside the mask even if NaN stood there. Masking the loss alone is too
    late: 0 times NaN is NaN on the way back.

    Args:
        mask: ``(B, T)`` bool. True where the policy chose the token.
        tensors: Each ``(B, T)`` float.

    Returns:
        As many tensors ``(B, T)``.

    Raises:
        ValueError: If the shapes disagree.

    Example:
        >>> zero_outside(torch.tensor([[True, False]]), torch.tensor([[1.0, float("nan")]]))
        (tensor([[1., 0.]]),)
    """
    for tensor in tensors:
        _same_shape(tensor=tensor, mask=mask)
    return tuple(tensor.masked_fill(~mask, 0.0) for tensor in tensors)


def masked_sum(values: torch.Tensor, mask: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """Sum of ``values`` where ``mask`` is True.

    Values outside the mask are never read into the sum, be they infinite or NaN, and get gradient 0.

    Args:
        values: ``(B, T)`` float.
        mask: ``(B, T)`` bool.
        dim: Axis to sum over; ``None``: all.

    Returns:
        A scalar, or ``(B,)`` / ``(T,)``.

    Raises:
        ValueError: If the shapes disagree.
    """
    _same_shape(values=values, mask=mask)
    kept = torch.where(mask, values, torch.zeros_like(values))
    return kept.sum() if dim is None else kept.sum(dim)


def masked_mean(values: torch.Tensor, mask: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """Mean of ``values`` where ``mask`` is True; 0 where it is nowhere True.

    Args:
        values: ``(B, T)`` float.
        mask: ``(B, T)`` bool.
        dim: Axis to average over; ``None``: all.

    Returns:
        A scalar, or ``(B,)`` / ``(T,)``.

    Raises:
        ValueError: If the shapes disagree.

    Example:
        >>> masked_mean(torch.tensor([[1.0, 3.0, 99.0]]), torch.tensor([[True, True, False]]))
        tensor(2.)
    """
    count = mask.sum() if dim is None else mask.sum(dim)
    return masked_sum(values, mask, dim) / count.clamp(min=1)


def average_tokens(
    values: torch.Tensor,
    mask: torch.Tensor,
    *,
    how: str,
    n_sequences: int,
    n_tokens: int,
    max_tokens: int,
) -> torch.Tensor:
    """One number from a loss a token, normalised by the whole minibatch, so that slices of it simply add up.

    * ``"sequence"``: ``1/B sum_i 1/|o_i| sum_t l_it``. Each response counts the same (eq. 3 of GRPO).
    * ``"token"``: ``1/sum_i |o_i| sum_i sum_t l_it``. Each token counts the same (DAPO).
    * ``"constant"``: ``1/(B max|o|) sum_i sum_t l_it``. Length enters neither way (Dr. GRPO).

    Args:
        values: ``(b, T)`` float. A slice of the minibatch.
        mask: ``(b, T)`` bool. True where the policy chose the token.
        how: One of the three above.
        n_sequences: ``B``, responses in the whole minibatch.
        n_tokens: Chosen tokens in the whole minibatch.
        max_tokens: A constant bound on the tokens of a response.

    Returns:
        A scalar: this slice's share of the minibatch's average.

    Raises:
        ValueError: If the shapes disagree or ``how`` is none of the three.

    Source: Shao et al., arXiv:2402.03300v3, eq. 3; Yu et al., arXiv:2503.14476v1, eq. 8; Liu et al.,
        arXiv:2503.20783v1, section 3.
    """
    if how == "sequence":
        return masked_mean(values, mask, dim=1).sum() / n_sequences
    if how == "token":
        return masked_sum(values, mask) / max(n_tokens, 1)
    if how == "constant":
        return masked_sum(values, mask) / (n_sequences * max_tokens)
    raise ValueError(f'Expected how to be "sequence", "token" or "constant", actual: {how!r}.')


def _same_shape(**tensors: torch.Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"Expected tensors of one shape, actual: {shapes}. Pad them to the same (B, T).")
