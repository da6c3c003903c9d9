"""A rollout on the device: what PPO and GRPO learn from, its minibatches, and slices of these that hold little padding.

A minibatch is the data of one optimizer step, a microbatch that of one forward pass. How a minibatch is cut into
microbatches never changes the result, as long as sums and counts are taken over the minibatch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from llmgym.agents.rollout_batches import Bools, Ints, RolloutBatch
from llmgym.errors import InvalidOptionError


@dataclass(frozen=True)
class Microbatch:
    """Rows of one forward pass.

    Attributes:
        rows: ``(b,)`` int64. Which sequences of the rollout.
        prompt_index: ``(b,)`` int64. Place of each row's group among the minibatch's groups.
        width: Tokens of the longest response among them.
    """

    rows: torch.Tensor
    prompt_index: torch.Tensor
    width: int


@dataclass
class TokenTensors:
    """What is known of each token of ``B`` responses of ``T`` tokens; real numbers are float32. ``V`` vocabulary.

    Attributes:
        response_ids: ``(B, T)`` int64.
        response_mask: ``(B, T)`` bool. True where the policy chose the token.
        loss_mask: ``(B, T)`` bool. The tokens of the policy's loss: the response mask less what was masked out.
        rewards: ``(B, T)``. Paid for the token.
        sampler_logprobs: ``(B, T)``. Of the chosen tokens, as the sampler computed them.
        old_logprobs: ``(B, T)``. The same under the weights of the sampler as the learner computes them; the sampler's
            own until an agent computes them again.
        ref_logprobs: ``(B, T)``. Under the reference policy; the sampler's own until an agent that has one sets them.
        values: ``(B, T)``. The critic's at sampling; 0 until an agent that has one sets them.
        returns: ``(B, T)``. The critic's targets; likewise.
        advantages: ``(B, T)``; 0 until an agent sets them.
        step_index: ``(B, T)`` int64. The reasoning step that the token belongs to; ``None`` where nobody counted.
        allowed: ``(B, T, ceil(V / 8))`` uint8. Which tokens could be sampled, as bits; ``None`` where all could.
    """

    response_ids: torch.Tensor
    response_mask: torch.Tensor
    loss_mask: torch.Tensor
    rewards: torch.Tensor
    sampler_logprobs: torch.Tensor
    old_logprobs: torch.Tensor
    ref_logprobs: torch.Tensor
    values: torch.Tensor
    returns: torch.Tensor
    advantages: torch.Tensor
    step_index: torch.Tensor | None
    allowed: torch.Tensor | None

    def cut(self, part: Microbatch) -> TokenTensors:
        """The same of a microbatch: its rows, as wide as the longest of them."""
        tensors: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(TokenTensors)}
        cut: dict[str, Any] = {
            name: None if of is None else of[part.rows, : part.width] for name, of in tensors.items()
        }
        return TokenTensors(**cut)


class RolloutTensors(TokenTensors):
    """A rollout on the policy's device.

    Args:
        batch: What was collected.
        device: Where the policy is.

    Attributes:
        batch: What was collected.
        response_lengths: ``(B,)`` int64. Tokens of each response, whoever wrote them.
    """

    def __init__(self, batch: RolloutBatch, device: torch.device) -> None:
        self.device = device
        self.batch = batch
        self.response_lengths = torch.as_tensor(batch.response_lengths, device=device)
        response_mask = torch.as_tensor(batch.response_mask, device=device)
        rewards = torch.as_tensor(batch.rewards, dtype=torch.float32, device=device)
        sampler_logprobs = torch.as_tensor(batch.old_logprobs, device=device)
        super().__init__(
            response_ids=torch.as_tensor(batch.response_ids, device=device),
            response_mask=response_mask,
            loss_mask=response_mask,
            rewards=rewards,
            sampler_logprobs=sampler_logprobs,
            old_logprobs=sampler_logprobs,
            ref_logprobs=sampler_logprobs,
            values=torch.zeros_like(rewards),
            returns=torch.zeros_like(rewards),
            advantages=torch.zeros_like(rewards),
            step_index=None if batch.step_index is None else torch.as_tensor(batch.step_index, device=device),
            allowed=None if batch.allowed is None else torch.as_tensor(batch.allowed, device=device),
        )

    @property
    def n_groups(self) -> int:
        """Problems in the rollout."""
        return len(self.batch) // self.batch.group_size

    def mask_out(self, rows: Bools) -> None:
        """Leave episodes out of the policy's loss, as DAPO does with those that a budget cut off.

        They stay part of their groups and of the critic's data.

        Args:
            rows: ``(B,)`` bool. True where the episode is left out.

        Source: "overlong filtering" in Yu et al., "DAPO", arXiv:2503.14476, section 3.4.
        """
        self.loss_mask = self.loss_mask & ~torch.as_tensor(rows, device=self.device).unsqueeze(1)

    def per_token(self, values: torch.Tensor) -> torch.Tensor:
        """One number for each response, ``(B,)``, at each token that the policy chose: ``(B, T)``, 0 elsewhere.

        Raises:
            ValueError: If there is not one number for each response.
        """
        if values.shape != (len(self.batch),):
            raise ValueError(
                f"Expected values of shape ({len(self.batch)},), actual: {tuple(values.shape)}. Flatten the groups."
            )
        values = values.to(self.device, torch.float32).unsqueeze(1)
        return values.where(self.response_mask, torch.zeros_like(self.rewards))

    def rows(self, groups: Ints) -> Ints:
        """Rows of the responses of ``groups``, group by group."""
        size = self.batch.group_size
        rows: Ints = (groups[:, None] * size + np.arange(size)).reshape(-1)
        return rows

    def minibatches(self, n: int, rng: np.random.Generator) -> Iterator[Ints]:
        """The groups in random order, in ``n`` parts whose sizes differ by one at most.

        Groups stay whole, so that a prompt is computed once for all its responses.

        Raises:
            InvalidOptionError: If a part would be empty.
        """
        if not 1 <= n <= self.n_groups:
            raise InvalidOptionError(
                f"Expected 1 to {self.n_groups} minibatches (groups are not divided), actual: {n}. Ask for fewer, or "
                "collect more problems."
            )
        yield from np.array_split(rng.permutation(self.n_groups), n)

    def prompts(self, groups: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts of ``groups``, padded right, and their lengths."""
        rows = groups * self.batch.group_size
        lengths = self.batch.prompt_lengths[rows]
        ids = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
        for place, row in enumerate(rows):
            ids[place, : lengths[place]] = self.batch.prompt_of(int(row))
        return torch.as_tensor(ids, device=self.device), torch.as_tensor(lengths, device=self.device)

    def microbatches(self, groups: Ints, max_tokens: int) -> Iterator[Microbatch]:
        """Responses of ``groups``, those of like length together, with at most ``max_tokens`` tokens and padding.

        A response longer than ``max_tokens`` has a microbatch of its own.
        """
        rows = self.rows(groups)
        place = np.repeat(np.arange(len(groups)), self.batch.group_size)
        order = np.argsort(-self.batch.response_lengths[rows], kind="stable")
        begin = 0
        while begin < len(order):
            width = int(self.batch.response_lengths[rows[order[begin]]])  # the longest comes first
            part = order[begin : begin + max(1, max_tokens // width)]
            begin += len(part)
            yield Microbatch(
                torch.as_tensor(rows[part], device=self.device), torch.as_tensor(place[part], device=self.device), width
            )

    def packed_microbatches(self, groups: Ints, max_tokens: int) -> Iterator[Microbatch]:
        """Responses of ``groups``, whole groups where they fit, with at most ``max_tokens`` tokens, prompts included.

        There is no padding to count. Microbatches are as equal as whole groups allow. A group that is too long for one
        pass is divided, and its prompt is read in each part; a response that is too long has a microbatch of its own.
        """
        size = self.batch.group_size
        prompts = self.batch.prompt_lengths[groups * size]
        lengths = self.batch.response_lengths.reshape(-1, size)[groups]
        totals = prompts + lengths.sum(1)
        share = totals.sum() / _n_parts(totals, max_tokens)
        part: list[int] = []
        in_part = done = n_done = 0
        for group, prompt, of_rows, total in zip(groups, prompts, lengths, totals, strict=True):
            if part and (in_part + total > max_tokens or done + total / 2 > (n_done + 1) * share):
                yield self._microbatch(part, groups)
                part, in_part, n_done = [], 0, n_done + 1
            in_part += prompt
            for row, length in enumerate(of_rows, start=group * size):
                if part and in_part + length > max_tokens:
                    yield self._microbatch(part, groups)
                    part, in_part, n_done = [], prompt, n_done + 1
                part.append(row)
                in_part += length
            done += total
        if part:
            yield self._microbatch(part, groups)

    def _microbatch(self, rows: list[int], groups: Ints) -> Microbatch:
        index = np.array(rows)
        place = np.empty(self.n_groups, dtype=np.int64)
        place[groups] = np.arange(len(groups))
        return Microbatch(
            torch.as_tensor(index, device=self.device),
            torch.as_tensor(place[index // self.batch.group_size], device=self.device),
            int(self.batch.response_lengths[index].max()),
        )


def _n_parts(totals: Ints, bound: int) -> int:
    """How many parts whole groups of ``totals`` tokens need, in order, of at most ``bound`` tokens each."""
    n, filled = 0, bound
    for total in totals.tolist():
        if filled + total > bound:
            n, filled = n + 1, 0
        filled += total
    return n
