"""Small tensors that the golden tests of the agents' formulas share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

D = torch.float64


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=D)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def turns(seed: int, n_rows: int, width: int) -> torch.Tensor:
    """Masks with holes, as environments that write between two turns make them; the last row is empty."""
    mask = np.random.default_rng(seed).random((n_rows, width)) < 0.6
    mask[:, 0] = True  # or a reward before it would have no action
    mask[0, -1], mask[1, -2:] = True, False
    mask[-1] = False
    return torch.from_numpy(mask)


def assert_masked_nan_poisons_nothing(
    function: Callable[..., torch.Tensor], mask: torch.Tensor, tensors: Sequence[torch.Tensor]
) -> None:
    """Result and gradients are those with 0 outside the mask instead of NaN; outside, all of them are 0."""

    def run(fill: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
        inputs = [torch.where(mask, t, fill).requires_grad_() for t in tensors]
        result = function(*inputs)
        total = (result * normal(99, *result.shape)).sum()
        return result, list(torch.autograd.grad(total, inputs, materialize_grads=True))

    assert not mask.all()
    (clean, clean_grads), (poisoned, poisoned_grads) = run(0.0), run(float("nan"))
    assert torch.equal(clean, poisoned)
    for one, other in zip(clean_grads, poisoned_grads, strict=True):
        assert torch.equal(one[mask], other[mask])
    for each in [*poisoned_grads, *([poisoned] if poisoned.shape == mask.shape else [])]:
        assert (each[~mask] == 0.0).all()
