"""Passes of a model over a rollout, in microbatches that share the computation of their prompts.

What is computed of a microbatch is the caller's; the denominators of a loss must be those of the whole minibatch, so
that the microbatches' shares add up to its gradient, however it is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from llmgym.agents.minibatches import Microbatch, RolloutTensors, TokenTensors
from llmgym.agents.prompt_states import PromptStates
from llmgym.agents.rollout_batches import Ints

#: Prompt tokens whose states are held at once where no gradient is wanted.
_PROMPT_TOKENS = 16_384

#: How many times as many tokens go through a pass that finds its activations in memory already.
_KEPT_SHARE = 2

#: Keyword arguments of ``Policy.logprobs`` and ``Critic.values`` that say what to read.
Inputs = dict[str, Any]


class Reader(Protocol):
    """A policy, or a critic with a model of its own."""

    def prompt_states(self, prompt_ids: torch.Tensor, prompt_lengths: torch.Tensor) -> PromptStates:
        """Keys and values of prompts, computed once for a whole group."""


@dataclass
class Padding:
    """Tokens that went through a model, and those of them that stand for nothing."""

    tokens: int = 0
    padding: int = 0

    def add(self, lengths: Ints, width: int) -> None:
        """Rows of ``lengths`` tokens, padded to ``width``."""
        self.tokens += len(lengths) * width
        self.padding += len(lengths) * width - int(lengths.sum())

    @property
    def share(self) -> float:
        """In ``[0, 1)``."""
        return self.padding / max(self.tokens, 1)


def backward(
    loss: Callable[[TokenTensors, Inputs], torch.Tensor],
    model: Reader,
    data: RolloutTensors,
    groups: Ints,
    max_tokens: int,
) -> float:
    """Add the gradient of a loss over ``groups`` to the parameters' ``.grad``.

    Args:
        loss: Gives a microbatch's share of the loss: a scalar.
        model: Who reads the prompts for it.
        data: The rollout.
        groups: Problems of the minibatch.
        max_tokens: Tokens in one pass: memory and speed, never the result.

    Returns:
        Share of padding among the tokens that went through the model.
    """
    padding = Padding()
    for some in _with_short_prompts(data, groups, max_tokens):
        prompt_ids, prompt_lengths = data.prompts(some)
        states = model.prompt_states(prompt_ids, prompt_lengths)
        leaves = states.detached()
        if not states.read_with_responses:  # the last token of a prompt is fed with each response
            lengths = data.batch.prompt_lengths[some * data.batch.group_size] - 1
            padding.add(lengths, int(lengths.max()))
        for part in _microbatches(data, some, _KEPT_SHARE * max_tokens if states.kept else max_tokens, states):
            share = loss(data.cut(part), _inputs(data, part, prompt_ids, prompt_lengths, leaves))
            share.backward()  # type: ignore[no-untyped-call]
            lengths = data.batch.response_lengths[part.rows.cpu().numpy()]
            if states.read_with_responses:
                padding.tokens += int(lengths.sum())
            else:
                padding.add(lengths, part.width)
        states.backward(leaves)
    return padding.share


def _microbatches(data: RolloutTensors, groups: Ints, max_tokens: int, states: PromptStates) -> Iterator[Microbatch]:
    """Groups together where a pass reads their prompts with them, and without padding; else like lengths together."""
    if states.read_with_responses:
        return data.packed_microbatches(groups, max_tokens)
    return data.microbatches(groups, max_tokens)


def without_gradient(
    model: Reader, data: RolloutTensors, max_tokens: int
) -> Iterator[tuple[Microbatch, TokenTensors, Inputs]]:
    """The whole rollout, a microbatch at a time. Call it under ``torch.no_grad()``."""
    for groups in _with_short_prompts(data, np.arange(data.n_groups), _PROMPT_TOKENS):
        prompt_ids, prompt_lengths = data.prompts(groups)
        states = model.prompt_states(prompt_ids, prompt_lengths)
        for part in _microbatches(data, groups, max_tokens, states):
            yield part, data.cut(part), _inputs(data, part, prompt_ids, prompt_lengths, states)


def _with_short_prompts(data: RolloutTensors, groups: Ints, max_tokens: int) -> list[Ints]:
    """``groups`` in parts whose prompts fit one pass; one that is longer has a part of its own."""
    widest = int(data.batch.prompt_lengths[groups * data.batch.group_size].max())
    return np.array_split(groups, min(len(groups), -(-len(groups) * widest // max_tokens)))


def _inputs(
    data: RolloutTensors,
    part: Microbatch,
    prompt_ids: torch.Tensor,
    prompt_lengths: torch.Tensor,
    states: PromptStates,
) -> Inputs:
    return {
        "prompt_ids": prompt_ids,
        "prompt_lengths": prompt_lengths,
        "response_ids": data.response_ids[part.rows, : part.width],
        "response_mask": data.response_mask[part.rows, : part.width],
        "response_lengths": data.response_lengths[part.rows],
        "prompts": states,
        "prompt_index": part.prompt_index,
    }
