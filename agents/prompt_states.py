"""Keys and values of prompts with their gradient, so that the responses of a group share one computation.

In training, a prompt of 25 tokens and eight responses would be computed eight times. Here it is computed once; the
responses attend to its keys and values as if they stood before their own. The result is the same to rounding, gradient
included.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class PromptStates:
    """Keys and values of some prompts, which responses attend to.

    Attributes:
        layers: For each layer ``(keys, values)``, ``(P, heads, width, head_dim)``; empty where prompts are one token.
        key_positions: ``(P, width)``. Positions, :attr:`AttentionMasks.NEVER` where a prompt is shorter.
        read_with_responses: Whether there is nothing here, because each pass reads the prompts of its responses itself:
            a prompt is then computed once in a pass, however many of its responses are in it.
        kept: Whether passes begin with what acting computed, and so need less memory of their own.
    """

    def __init__(
        self,
        layers: list[tuple[torch.Tensor, torch.Tensor]],
        key_positions: torch.Tensor,
        *,
        read_with_responses: bool = False,
        kept: bool = False,
    ) -> None:
        self.kept = kept
        self.layers = layers
        self.key_positions = key_positions
        self.read_with_responses = read_with_responses

    def detached(self) -> PromptStates:
        """Leaves with the same values: their gradients add up over microbatches, see :meth:`backward`."""
        # Adapters on the queries alone leave keys and values without a gradient.
        leaves = [(_leaf(keys), _leaf(values)) for keys, values in self.layers]
        return PromptStates(leaves, self.key_positions, read_with_responses=self.read_with_responses, kept=self.kept)

    def backward(self, leaves: PromptStates) -> None:
        """Send the gradients that gathered in ``leaves`` on into the model."""
        states, gradients = [], []
        for mine, theirs in zip(self.layers, leaves.layers, strict=True):
            for state, leaf in zip(mine, theirs, strict=True):
                if leaf.grad is not None:
                    states.append(state)
                    gradients.append(leaf.grad)
        if states:
            torch.autograd.backward(states, gradients)


def _leaf(state: torch.Tensor) -> torch.Tensor:
    return state.detach().requires_grad_(state.requires_grad)


class _PrefixLayer(CacheLayerMixin):  # type: ignore[misc]
    """Puts the prompt's keys and values before the new ones; keeps gradients."""

    is_sliding = False

    def __init__(self, prefix: tuple[torch.Tensor, torch.Tensor] | None, index: torch.Tensor | None) -> None:
        super().__init__()
        self._prefix, self._index = prefix, index
        self.stored: tuple[torch.Tensor, torch.Tensor] | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self._prefix is None:
            if self.stored is None:  # a checkpointed layer comes again in the backward pass, with the same values
                self.stored = (key_states, value_states)
            return key_states, value_states
        keys, values = self._prefix
        return (
            torch.cat([keys[self._index], key_states], dim=2),
            torch.cat([values[self._index], value_states], dim=2),
        )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class PrefixCache(Cache):  # type: ignore[misc]
    """The cache of one training pass: it hands out the prompts' states, or records them where there are none."""

    def __init__(
        self, n_layers: int, prefix: tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor] | None
    ) -> None:
        if prefix is None or not prefix[0]:
            layers = [_PrefixLayer(None, None) for _ in range(n_layers)]
        else:
            layers = [_PrefixLayer(states, prefix[1]) for states in prefix[0]]
        super().__init__(layers=layers)

    @property
    def stored(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [layer.stored for layer in self.layers]
