"""Decoding by a model's own code: any transformers causal language model, with a cache row for each slot.

Used where :mod:`llmgym.agents.fused_decoding` does not know the architecture, and where it is switched off.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from llmgym.agents.cache import SlotCache
from llmgym.agents.slots import Block, Feed, IntArray
from llmgym.agents.trunks import only_logits_at, output_layer


class ModuleDecoder:
    """Feeds a transformers model token by token; see :class:`~llmgym.agents.slots.SlotDecoder`.

    Args:
        model: With attention that takes a 4-D mask.
        n_rows: Transcripts held at once.
    """

    def __init__(self, model: PreTrainedModel, n_rows: int) -> None:
        self.model = model
        config = model.config.get_text_config()
        self.cache = SlotCache(config, n_rows, dtype=model.dtype, device=model.device)

        self._made_for = (model.dtype, model.device)

    @property
    def version(self) -> int:
        """Of the weights: another one after each change that autograd counts."""
        return sum(weight._version for weight in self.model.parameters() if not weight.is_inference())

    def fits(self, model: PreTrainedModel) -> bool:
        """Whether what is stored has the model's precision, on its device."""
        return self.model is model and self._made_for == (model.dtype, model.device)

    def advance(self, feed: Feed) -> tuple[torch.Tensor, torch.Tensor]:
        """Read ``feed``; see :meth:`~llmgym.agents.slots.SlotDecoder.advance`."""
        pieces = [self._singles(feed.singles)] if len(feed.singles) else []
        pieces += [self._block(block) for block in feed.blocks]
        logits, hidden = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        if feed.index is None:
            return logits, hidden
        index = self._on_device(feed.index)
        return logits[index], hidden[index]

    def _singles(self, tokens: IntArray) -> tuple[torch.Tensor, torch.Tensor]:
        """One token for each of the first rows: logits ``(n, V)`` after it and what the head was given ``(n, H)``."""
        inputs = self.cache.plan_decode(len(tokens)).as_kwargs()
        logits, hidden = self._run(input_ids=self._on_device(tokens).unsqueeze(1), **inputs)
        return logits[:, -1], hidden

    def _block(self, block: Block) -> tuple[torch.Tensor, torch.Tensor]:
        """The same after the last token of each sequence, ``(b, V)`` and ``(b, H)``."""
        if block.seen.any():
            planned = self.cache.plan_append(block.rows, block.counts)
        else:
            planned = self.cache.plan_prompts(block.rows, block.counts, block.source)
        rows = torch.arange(len(block.counts), device=self.model.device)
        with only_logits_at(self.model, rows, self._on_device(block.counts - 1)):
            logits, hidden = self._run(input_ids=self._on_device(block.tokens), **planned.as_kwargs())
        return logits[0], hidden

    def _run(self, **inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's logits, and what its output layer was given, ``(n, H)``."""
        seen: list[torch.Tensor] = []

        def keep(_: torch.nn.Module, arguments: tuple[Any, ...], __: Any) -> None:
            seen.append(arguments[0].flatten(0, 1))

        # After the call, not before it: what cuts the hidden states is a hook that runs before.
        handle = output_layer(self.model).register_forward_hook(keep)
        try:
            logits: torch.Tensor = self.model(**inputs).logits
        finally:
            handle.remove()
        return logits, seen[0]

    def _on_device(self, values: IntArray) -> torch.Tensor:
        return torch.from_numpy(values).to(self.model.device)
