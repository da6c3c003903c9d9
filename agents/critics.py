"""Values of states: a head on the policy's own trunk, or a model of its own.

Not for the losses that train them (see :mod:`llmgym.agents.losses`), nor for advantages.
"""

from __future__ import annotations

import torch
from torch import nn

from llmgym.agents.policies import Policy
from llmgym.agents.pretrained import light_copy
from llmgym.agents.prompt_states import PromptStates
from llmgym.agents.trunks import Trunk


class ValueHead(nn.Module):
    """``V(s) = w . h(s) + b``, from what a language model's output layer is given.

    It starts at zero: the first advantages are those without a critic, and the first value loss moves the head and not
    the trunk (whose gradient passes through ``w``).

    Args:
        hidden_size: Width of the hidden states, :attr:`Policy.hidden_size`.

    Example:
        >>> ValueHead(4)(torch.ones(3, 4))
        tensor([0., 0., 0.], grad_fn=<SqueezeBackward1>)
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Values ``(n,)`` float32 of hidden states ``(n, H)`` in any precision."""
        values: torch.Tensor = self.linear(hidden.float())
        return values.squeeze(-1)


class Critic(nn.Module):
    """A value model apart from the policy: a trunk of its own with a :class:`ValueHead`.

    Args:
        policy: Whose model is copied, without its output layer; what is done to the policy later does not reach the
            copy. What takes no gradient there (the model beneath adapters) is shared, and takes none here. To start
            from another model, hand in a policy made of it: ``Critic(Policy.load(path))``. It has to know the same
            tokens.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.model = light_copy(policy.model)
        self.model.set_output_embeddings(nn.Identity())  # often a large matrix, that nobody would ask here
        self.value_head = ValueHead(policy.hidden_size).to(policy.device)
        self._trunk = Trunk(self.model, gradient_checkpointing=policy.gradient_checkpointing, fused=policy.fused)

    def prompt_states(self, prompt_ids: torch.Tensor, prompt_lengths: torch.Tensor) -> PromptStates:
        """As :meth:`Policy.prompt_states`, of this model: prompts may be shared here too."""
        return self._trunk.prompt_states(prompt_ids, prompt_lengths)

    def values(
        self,
        prompt_ids: torch.Tensor,
        prompt_lengths: torch.Tensor,
        response_ids: torch.Tensor,
        response_mask: torch.Tensor,
        *,
        prompts: PromptStates | None = None,
        prompt_index: torch.Tensor | None = None,
        response_lengths: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values of the states in which the tokens were chosen, with gradient.

        Args:
            prompt_ids: As in :meth:`Policy.logprobs`, like the following.
            prompt_lengths: ``(P,)`` int64.
            response_ids: ``(B, T)`` int64, padded right.
            response_mask: ``(B, T)`` bool.
            prompts: What :meth:`prompt_states` gave, not the policy's.
            prompt_index: ``(B,)`` int64.
            response_lengths: ``(B,)`` int64.

        Returns:
            values: ``(B, T)`` float32, 0 outside the mask.
            last_values: ``(B,)`` float32. Of the state after the response's last token.
        """
        reading = self._trunk.read(
            prompt_ids,
            prompt_lengths,
            response_ids,
            response_mask,
            prompts=prompts,
            prompt_index=prompt_index,
            response_lengths=response_lengths,
            with_last=True,
        )
        values, last_values = reading.values(self.value_head, response_mask)
        assert last_values is not None
        return values, last_values
