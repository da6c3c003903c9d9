"""AdamW with gradient clipping, for weights in any precision."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch


class MixedPrecisionAdamW:
    """AdamW that keeps float32 weights for a model in bfloat16, whose own would round most small steps away.

    Args:
        parameters: Those that take no gradient are left out.
        learning_rate: Of the first step; see :meth:`set_learning_rate`.
        betas: Decay of the first and second moment.
        weight_decay: Decoupled.
        max_grad_norm: Longer gradients are scaled down to it.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        *,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
    ) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.masters = [p if p.dtype == torch.float32 else p.detach().float().requires_grad_() for p in self.parameters]
        self.max_grad_norm = max_grad_norm
        self.learning_rate = learning_rate
        self.adam = torch.optim.AdamW(self.masters, lr=learning_rate, betas=betas, weight_decay=weight_decay)

    def set_learning_rate(self, value: float) -> None:
        self.learning_rate = value
        for group in self.adam.param_groups:
            group["lr"] = value

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> float:
        """Clip, step, copy back; returns the gradient's norm before clipping."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is not parameter:
                master.grad = None if parameter.grad is None else parameter.grad.float()
        norm = float(torch.nn.utils.clip_grad_norm_(self.masters, self.max_grad_norm))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"Expected a finite gradient, actual: norm {norm}. Lower the learning rate, or load an earlier save."
            )
        self.adam.step()
        with torch.no_grad():
            for parameter, master in zip(self.parameters, self.masters, strict=True):
                if master is not parameter:
                    parameter.copy_(master)
        return norm
