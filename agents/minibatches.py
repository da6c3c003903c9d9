"""A rollout on the device, and its slices for forward passes that hold little padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmgym.agents.rollouts import RolloutBatch


@dataclass(frozen=True)
class Microbatch:
    """Rows of one forward pass."""

    rows: torch.Tensor  # (b,)
    prompt_index: torch.Tensor  # (b,) place of each row's group among the minibatch's groups
    width: int  # tokens of the longest response among them


class RolloutTensors:
    """A rollout on the policy's device."""

    def __init__(self, batch: RolloutBatch, device: torch.device) -> None:
        self.device = device
        self.batch = batch
        self.group = np.arange(len(batch)) // batch.group_size
        self.n_chosen = batch.response_mask.sum(axis=1)
        self.response_ids = torch.as_tensor(batch.response_ids, device=device)
        self.response_mask = torch.as_tensor(batch.response_mask, device=device)
        self.old_logprobs = torch.as_tensor(batch.old_logprobs, device=device)
        self.ref_logprobs = self.old_logprobs  # replaced where there is a reference
        self.advantages = torch.zeros(len(batch), device=device)

    def prompts(self, groups: np.ndarray[Any, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts of ``groups``, padded right, and their lengths."""
        rows = groups * self.batch.group_size
        lengths = self.batch.prompt_lengths[rows]
        ids = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
        for place, row in enumerate(rows):
            ids[place, : lengths[place]] = self.batch.prompt_of(int(row))
        return torch.as_tensor(ids, device=self.device), torch.as_tensor(lengths, device=self.device)

    def microbatches(self, groups: np.ndarray[Any, Any], max_tokens: int) -> Iterator[Microbatch]:
        """Responses of ``groups``, those of like length together, with at most ``max_tokens`` tokens and padding."""
        size = self.batch.group_size
        rows = (groups[:, None] * size + np.arange(size)).reshape(-1)
        place = np.repeat(np.arange(len(groups)), size)
        order = np.argsort(-self.batch.response_lengths[rows], kind="stable")
        begin = 0
        while begin < len(order):
            width = int(self.batch.response_lengths[rows[order[begin]]])  # the longest comes first
            part = order[begin : begin + max(1, max_tokens // width)]
            begin += len(part)
            yield Microbatch(
                torch.as_tensor(rows[part], device=self.device), torch.as_tensor(place[part], device=self.device), width
            )
