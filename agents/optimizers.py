"""AdamW with gradient clipping, for weights in any precision."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from llmgym.errors import NotFiniteError


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
        self.adam = torch.optim.AdamW(
            self.masters, lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True
        )

    def set_learning_rate(self, value: float) -> None:
        self.learning_rate = value
        for group in self.adam.param_groups:
            group["lr"] = value

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> float:
        """Clip, step, copy back; returns the gradient's norm before clipping.

        Raises:
            NotFiniteError: If the gradient is NaN or infinite; the weights are as they were.
        """
        norm = self.clip()
        self.apply()
        return norm

    def clip(self) -> float:
        """The first half of :meth:`step`, where two optimisers must both be able to go on before one does."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is not parameter:
                master.grad = None if parameter.grad is None else parameter.grad.float()
        norm = float(torch.nn.utils.clip_grad_norm_(self.masters, self.max_grad_norm))
        if not math.isfinite(norm):
            raise NotFiniteError(
                f"Expected a finite gradient, actual: norm {norm}. Lower the learning rate, or load an earlier save."
            )
        return norm

    def apply(self) -> None:
        """The second half of :meth:`step`."""
        self.adam.step()
        # PyTorch's fused step does not count as a change; whoever computed something from the weights asks for it.
        torch.autograd.graph.increment_version(self.masters)
        with torch.no_grad():
            for parameter, master in zip(self.parameters, self.masters, strict=True):
                if master is not parameter:
                    parameter.copy_(master)

    def state_dict(self) -> dict[str, Any]:
        """All that a step depends on beside the options and the parameters themselves."""
        return {
            "learning_rate": self.learning_rate,
            "adam": self.adam.state_dict()["state"],
            "masters": {
                index: master.detach()
                for index, (parameter, master) in enumerate(zip(self.parameters, self.masters, strict=True))
                if master is not parameter
            },
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from another optimiser's state; the options stay this one's.

        Raises:
            ValueError: If it was the state of other parameters.
        """
        shapes = {index: tuple(moments["exp_avg"].shape) for index, moments in state["adam"].items()}
        shapes |= {index: tuple(master.shape) for index, master in state["masters"].items()}
        for index, shape in shapes.items():
            own = tuple(self.masters[index].shape) if index < len(self.masters) else None
            if own != shape:
                raise ValueError(f"Expected the state of parameter {index} to have shape {own}, actual: {shape}.")
        self.set_learning_rate(state["learning_rate"])
        for index, master in state["masters"].items():
            self.masters[index].copy_(master)
        self.adam.load_state_dict(self.adam.state_dict() | {"state": state["adam"]})
