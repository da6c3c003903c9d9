"""How much better a response was than could be expected. Pure tensor functions; no model in sight."""

from __future__ import annotations

import torch


def group_advantages(returns: torch.Tensor, *, normalization: str = "z_score", epsilon: float = 1e-4) -> torch.Tensor:
    """Advantage of each response over the others of its group.

    ``"z_score"``: ``A_i = (R_i - mean(R)) / (std(R) + epsilon)``, with the standard deviation over the group itself
    (dividing by ``G``).  ``"mean"``: ``A_i = R_i - mean(R)``, so that easy and hard problems are not blown up.

    Args:
        returns: ``(P, G)`` float. Episode returns, a row per problem.
        normalization: ``"z_score"`` or ``"mean"``.
        epsilon: Added to the standard deviation; a group whose returns are all equal gets 0.

    Returns:
        ``(P, G)`` float; each row sums to 0.

    Raises:
        ValueError: If ``returns`` has not two axes, a group has one response only, or the option is unknown.

    Example:
        >>> group_advantages(torch.tensor([[0.0, 1.0, 1.0, 0.0]]), normalization="mean")
        tensor([[-0.5000,  0.5000,  0.5000, -0.5000]])

    Source: Shao et al., arXiv:2402.03300v3, section 4.1.2 (z-score); Liu et al., arXiv:2503.20783v1 (mean).
    """
    if returns.ndim != 2 or returns.shape[1] < 2:
        raise ValueError(
            f"Expected returns of shape (P, G) with G >= 2 (advantages compare responses to one problem), "
            f"actual: {tuple(returns.shape)}. Raise the group size."
        )
    centred = returns - returns.mean(dim=1, keepdim=True)
    if normalization == "mean":
        return centred
    if normalization == "z_score":
        return centred / (returns.std(dim=1, correction=0, keepdim=True) + epsilon)
    raise ValueError(f'Expected normalization to be "z_score" or "mean", actual: {normalization!r}.')


def groups_with_signal(returns: torch.Tensor, *, tolerance: float = 1e-6) -> torch.Tensor:
    """Which groups can teach: those whose returns are not all the same.

    Args:
        returns: ``(P, G)`` float.
        tolerance: Differences up to this count as none.

    Returns:
        ``(P,)`` bool.
    """
    return (returns.max(dim=1).values - returns.min(dim=1).values) > tolerance
