"""What happens in the optimiser steps of an iteration, gathered microbatch by microbatch. ``docs/metrics.md`` explains
every name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from llmgym.agents.masking import masked_sum


class StepMetrics:
    """Means over the tokens of each optimiser step, and over the steps of an iteration.

    ``begin``, then ``add`` and the like for each microbatch, then ``end``: once for each optimiser step.
    """

    def __init__(self) -> None:
        self._steps: dict[str, list[float]] = {}
        self._first: dict[str, float] = {}
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, torch.Tensor] = {}
        self._largest: dict[str, torch.Tensor] = {}

    def begin(self) -> None:
        """A new optimiser step."""
        self._sums, self._counts, self._largest = {}, {}, {}

    @torch.no_grad()
    def add(self, name: str, values: torch.Tensor, mask: torch.Tensor) -> None:
        """Something whose mean over the tokens of the step is wanted: ``(b, T)`` and its mask."""
        total, count = masked_sum(values.detach(), mask), mask.sum()
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._counts[name] = self._counts[name] + count if name in self._counts else count

    @torch.no_grad()
    def add_mean(self, name: str, mean: torch.Tensor, mask: torch.Tensor) -> None:
        """The same, where the mean over the microbatch's tokens is at hand."""
        self.add(name, mean.detach().expand(mask.shape), mask)

    @torch.no_grad()
    def add_share(self, name: str, share: torch.Tensor) -> None:
        """A scalar that is divided by its denominator already."""
        share = share.detach()
        self._sums[name] = self._sums[name] + share if name in self._sums else share

    @torch.no_grad()
    def largest(self, name: str, values: torch.Tensor, mask: torch.Tensor) -> None:
        """Something whose maximum over the tokens of the iteration's first step is wanted."""
        largest = torch.where(mask, values.detach(), torch.zeros_like(values)).max()
        self._largest[name] = torch.maximum(self._largest[name], largest) if name in self._largest else largest

    def mean_so_far(self, name: str) -> float:
        """The mean over the tokens of the step that is under way."""
        return float(self._sums[name]) / max(int(self._counts[name]), 1)

    def end(self, **others: float) -> None:
        """The step is over; ``others`` are known of it as a whole."""
        step = {
            name: self.mean_so_far(name) if name in self._counts else float(total) for name, total in self._sums.items()
        } | others
        for name, value in step.items():
            self._steps.setdefault(name, []).append(value)
        for name, largest in self._largest.items():
            self._first.setdefault(name, float(largest))

    def means(self) -> dict[str, Any]:
        """The metrics of the iteration; empty if there was no step."""
        return {f"train/{name}": value for name, value in self._first.items()} | {
            f"train/{name}": float(np.mean(values)) for name, values in self._steps.items()
        }
