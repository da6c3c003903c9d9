"""A causal language model read for learning: hidden states where a policy chose its tokens, and logits of some of them.

The responses of a group attend to one computation of their prompt (see :mod:`llmgym.agents.prompt_states`). The hidden
states are what the output layer is given, so a policy's logits and a critic's values come from one pass. Logits are
made of any slice of them, by the model's own code: whatever it does to logits after the output layer (soft caps,
scales) is in them. Architectures that :mod:`llmgym.agents.architectures` reads are run by
:mod:`llmgym.agents.fused_learning` instead, to the same numbers in less time.

Not for acting: see :mod:`llmgym.agents.policies`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from llmgym.agents.activations import Activations, KeptPass
from llmgym.agents.architectures import Decoder, read_decoder
from llmgym.agents.attention import AttentionMasks
from llmgym.agents.fused_learning import read_packed
from llmgym.agents.packing import Packing, pack
from llmgym.agents.prompt_states import PrefixCache, PromptStates
from llmgym.errors import InvalidOptionError


class Reading(NamedTuple):
    """The states in which a policy chose ``n`` tokens, in the order of ``response_mask.nonzero()``.

    Attributes:
        hidden: ``(n, H)`` in the model's precision. What the output layer is given there.
        before: ``(n,)`` int64. The token before.
        last_hidden: ``(B, H)``. The same after the last token of each response; ``None`` if not asked for.
    """

    hidden: torch.Tensor
    before: torch.Tensor
    last_hidden: torch.Tensor | None

    def values(
        self, value_head: Callable[[torch.Tensor], torch.Tensor], response_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What ``value_head`` says of these states: ``(B, T)``, 0 outside the mask, and ``(B,)`` of the last ones."""
        if self.last_hidden is None:
            return spread(value_head(self.hidden), response_mask), None
        values = value_head(torch.cat([self.hidden, self.last_hidden]))
        n = len(self.hidden)
        return spread(values[:n], response_mask), values[n:]


def spread(flat: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
    """``(B, T)`` with ``flat`` ``(n,)`` at the ``n`` places of the mask, in order, and 0 elsewhere."""
    return flat.new_zeros(response_mask.shape).index_put(response_mask.nonzero(as_tuple=True), flat)


class Trunk:
    """Reads a model; holds no weights of its own.

    Args:
        model: Any transformers causal language model, with attention that takes a 4-D mask.
        gradient_checkpointing: See :attr:`gradient_checkpointing`.
        fused: Whether to run known architectures by llmgym's own code.

    Raises:
        InvalidOptionError: If the model has no output layer, or gradient checkpointing is asked of a model without
            layers that transformers can checkpoint.
    """

    def __init__(self, model: PreTrainedModel, *, gradient_checkpointing: bool = False, fused: bool = True) -> None:
        self._model = model
        self._config = model.config.get_text_config()
        self._masks = AttentionMasks(self._config, dtype=model.dtype)
        self._head: torch.nn.Module = output_layer(model)
        # Adapters wrap the model: what owns the head is the causal language model itself.
        self._owner = next(module for module in model.modules() if self._head in module.children())
        self._body: torch.nn.Module = self._owner.get_decoder()
        self._output_type: type[ModelOutput] | None = None  # of the body, seen in the first pass
        self.vocab_size = int(self._config.vocab_size)
        self.last_position = int(getattr(self._config, "max_position_embeddings", None) or AttentionMasks.NEVER) - 1
        self.gradient_checkpointing = gradient_checkpointing
        self.fused = fused
        self._decoder: Decoder | None = None  # whose hidden states were read last

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether each layer forgets its activations and computes them again in the backward pass.

        The layers are wrapped here while a pass of learning runs, and not through transformers' own switch, which needs
        training mode (dropout would come on) and takes the cache away that shares the prompts.
        """
        return self._gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        if value and not self._checkpointable():
            raise InvalidOptionError(
                f"Expected a model with layers that can be checkpointed, actual: {type(self._model).__name__} has "
                "none. Leave gradient_checkpointing off."
            )
        self._gradient_checkpointing = bool(value)

    def prompt_states(
        self, prompt_ids: torch.Tensor, prompt_lengths: torch.Tensor, activations: Activations | None = None
    ) -> PromptStates:
        """Keys and values of each prompt but its last token, with gradient: computed once for a whole group.

        Nothing is computed where :meth:`read` packs prompts with their responses.
        """
        decoder = self._known()
        if decoder is not None:
            kept = activations is not None and not self._gradient_checkpointing and activations.are_of(decoder)
            return PromptStates([], prompt_lengths.new_zeros(len(prompt_ids), 0), read_with_responses=True, kept=kept)
        return self._prompt_states(prompt_ids, prompt_lengths)

    def _prompt_states(self, prompt_ids: torch.Tensor, prompt_lengths: torch.Tensor) -> PromptStates:
        width = int(prompt_lengths.max()) - 1
        columns = torch.arange(width, device=prompt_ids.device)
        held = columns[None] < (prompt_lengths[:, None] - 1)
        key_positions = torch.where(held, columns, AttentionMasks.NEVER)
        layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        if width > 0:
            positions = columns.expand(len(prompt_ids), width)
            cache = PrefixCache(self._config.num_hidden_layers, None)
            self._pass(prompt_ids[:, :width], positions, self._masks(positions, columns), cache)
            layers = cache.stored
        return PromptStates(layers, key_positions)

    def read(
        self,
        prompt_ids: torch.Tensor,
        prompt_lengths: torch.Tensor,
        response_ids: torch.Tensor,
        response_mask: torch.Tensor,
        *,
        prompts: PromptStates | None = None,
        prompt_index: torch.Tensor | None = None,
        response_lengths: torch.Tensor | None = None,
        with_last: bool = False,
        activations: Activations | None = None,
    ) -> Reading:
        """Hidden states of the states in which a policy chose its tokens; responses attend to their prompts' states.

        Args:
            prompt_ids: ``(P, L)`` int64, padded right. The distinct prompts.
            prompt_lengths: ``(P,)`` int64.
            response_ids: ``(B, T)`` int64, padded right.
            response_mask: ``(B, T)`` bool. True where the policy chose the token.
            prompts: What :meth:`prompt_states` gave for these prompts; ``None``: computed here.
            prompt_index: ``(B,)`` int64. The prompt of each response; ``None``: the rows in order (``P == B``).
            response_lengths: ``(B,)`` int64, what the environment wrote included. ``None``: a response ends with the
                last token that the policy chose.
            with_last: Whether to read the state after the response's last token too.
            activations: What acting computed; used where it has all the tokens, and the weights are still the same.

        Raises:
            ValueError: If the shapes disagree.
        """
        b, t = response_ids.shape
        if response_mask.shape != (b, t):
            raise ValueError(f"Expected response_mask of shape {(b, t)}, actual: {tuple(response_mask.shape)}.")
        if prompt_index is None:
            prompt_index = torch.arange(b, device=response_ids.device)
        if prompts is not None and not prompts.read_with_responses:
            self._decoder = None
        elif prompts is None or self._decoder is None:
            self._known()
        if self._decoder is not None:
            if activations is not None and not with_last and not self._gradient_checkpointing:
                tokens = (prompt_ids, prompt_lengths, response_ids, response_mask, prompt_index)
                kept = activations.find(self._decoder, *tokens)
                if kept is not None:
                    return self._read_packed(self._decoder, *kept)
            packing = pack(
                prompt_ids,
                prompt_lengths,
                response_ids,
                response_mask,
                prompt_index,
                response_lengths=response_lengths,
                with_last=with_last,
            )
            return self._read_packed(self._decoder, packing)
        if prompts is None or prompts.read_with_responses:
            prompts = self._prompt_states(prompt_ids, prompt_lengths)
        lengths = prompt_lengths[prompt_index]
        # The last prompt token predicts the first response token, so it is fed with the response. The last response
        # token predicts nothing that was chosen: it is fed only where the state after it is wanted.
        last_prompt = prompt_ids[prompt_index, lengths - 1].unsqueeze(1)
        inputs = torch.cat([last_prompt, response_ids if with_last else response_ids[:, :-1]], dim=1)  # (B, T or T+1)
        positions = lengths[:, None] - 1 + torch.arange(inputs.shape[1], device=inputs.device)[None]
        hidden = self._pass(
            inputs,
            # Padding may reach past the model's last position; nobody reads it there, but the embedding must exist.
            positions.clamp(max=self.last_position),
            self._masks(positions, torch.cat([prompts.key_positions[prompt_index], positions], dim=1)),
            PrefixCache(self._config.num_hidden_layers, (prompts.layers, prompt_index)),
        )
        row, column = response_mask.nonzero(as_tuple=True)
        last_hidden = None
        if with_last:
            if response_lengths is None:
                response_lengths = (response_mask * torch.arange(1, t + 1, device=response_mask.device)).amax(1)
            last_hidden = hidden[torch.arange(b, device=hidden.device), response_lengths]
        return Reading(hidden[row, column], inputs[row, column], last_hidden)

    def _known(self) -> Decoder | None:
        """The weights, if llmgym's own code reads the model; asked anew for each minibatch, as a model may change."""
        self._decoder = read_decoder(self._model) if self.fused else None
        return self._decoder

    def _read_packed(self, decoder: Decoder, packing: Packing, kept: KeptPass | None = None) -> Reading:
        hidden = read_packed(decoder, packing, kept, gradient_checkpointing=self._gradient_checkpointing)
        n = len(packing.states)
        return Reading(hidden[:n], packing.ids[packing.states], None if packing.last_states is None else hidden[n:])

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The model's logits ``(n, V)`` for hidden states ``(n, H)`` that it gave: its own code after the body.

        The body is passed over. In a model that does not call what transformers names its decoder, it runs on one
        token, and its result is put aside all the same: slower, never wrong.
        """
        if self._decoder is not None and self._decoder.head is not None:
            return torch.nn.functional.linear(hidden, self._decoder.head.weight, self._decoder.head.bias)

        def put_in(_: torch.nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            return (hidden.unsqueeze(0), *arguments[1:])

        token = torch.zeros(1, 1, dtype=torch.long, device=hidden.device)
        with ExitStack() as stack:
            if self._output_type is not None:
                passed_over = self._output_type(last_hidden_state=hidden[:1].unsqueeze(0))
                stack.enter_context(_forward_as(self._body, lambda *_, **__: passed_over))
            stack.callback(self._head.register_forward_pre_hook(put_in).remove)
            logits: torch.Tensor = self._owner(input_ids=token, use_cache=False).logits
        return logits[0]

    def _pass(self, ids: torch.Tensor, positions: torch.Tensor, mask: Any, cache: PrefixCache) -> torch.Tensor:
        """One pass of the model; ``(B, q, H)``, what the output layer was given. It computes one row, for nobody."""
        seen: list[torch.Tensor] = []

        def cut(_: torch.nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            seen.append(arguments[0])
            return (arguments[0][:1, :1].detach(), *arguments[1:])

        def look(_: torch.nn.Module, __: Any, output: Any) -> None:
            usual = isinstance(output, ModelOutput) and "last_hidden_state" in output
            self._output_type = type(output) if usual else None

        with ExitStack() as stack:
            if self._gradient_checkpointing and torch.is_grad_enabled():
                for layer in self._checkpointable():
                    # No random numbers are drawn in evaluation mode: there is no generator's state to put back.
                    again = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
                    stack.enter_context(_forward_as(layer, again))
            stack.callback(self._head.register_forward_pre_hook(cut).remove)
            if self._body is not self._owner:
                stack.callback(self._body.register_forward_hook(look).remove)
            self._model(
                input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=cache, use_cache=True
            )
        return seen[0]

    def _checkpointable(self) -> list[torch.nn.Module]:
        return [module for module in self._model.modules() if isinstance(module, GradientCheckpointingLayer)]


def output_layer(model: PreTrainedModel) -> torch.nn.Module:
    """The layer that gives logits.

    Raises:
        InvalidOptionError: If there is none.
    """
    head: torch.nn.Module | None = model.get_output_embeddings()
    if head is None:
        raise InvalidOptionError(
            f"Expected a causal language model with an output layer, actual: {type(model).__name__} has none. "
            "Load it with AutoModelForCausalLM."
        )
    return head


@contextmanager
def only_logits_at(model: PreTrainedModel, row: torch.Tensor, column: torch.Tensor) -> Iterator[None]:
    """Within the context the model gives logits ``(1, n, V)`` for the positions ``(row, column)`` alone.

    The hidden states are cut just before the output layer, whatever the model does to the logits afterwards.
    """

    def cut(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (arguments[0][row, column].unsqueeze(0), *arguments[1:])

    handle = output_layer(model).register_forward_pre_hook(cut)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _forward_as(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Within the context, calling ``module`` calls ``forward``; its hooks run as ever."""
    before = vars(module).get("forward")  # another library may have put one there
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
