"""A key-value cache with a row per environment slot, for any transformers causal language model.

Transformers' own caches advance all rows together. Slots of a vector environment do not: prompts differ in length,
episodes end and restart one by one, an environment may write several tokens at once. Here every row has its own
length and is written at its own position; the model's code is not touched. It sees ``position_ids``, a 4-D additive
mask and this cache, and asks nothing else.

One forward pass takes one of three plans::

    plan_prompts   rows that start anew; a prompt shared by several rows is computed once and stored in each
    plan_decode    one token for each of the rows 0..n-1: keys and values are read in place, nothing is gathered
    plan_append    one or more tokens for a few rows, whatever they hold already

``move`` keeps the rows in use next to each other, so that rows which wait cost nothing; ``share`` copies a prompt.

Not for training: the cache is written in place and holds no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from llmgym.agents.attention import AttentionMasks
from llmgym.agents.slots import IntArray
from llmgym.errors import LLMGymError

#: Columns allocated at first; after that the capacity at least doubles, so that a token is copied O(1) times.
_FIRST_CAPACITY = 64


@dataclass(slots=True)
class _Plan:
    """Where the next forward pass writes its keys and values, and what it reads."""

    kind: str = "none"
    width: int = 0  # columns that attention reads
    rows: torch.Tensor | None = None  # (n,) rows written
    source: torch.Tensor | None = None  # (n,) plan_prompts: which sequence of the batch each row takes
    columns: torch.Tensor | None = None  # (n,) plan_decode / (n_tokens,) plan_append: column written
    batch: torch.Tensor | None = None  # (n_tokens,) plan_append: sequence of the batch that a token is in
    offsets: torch.Tensor | None = None  # (n_tokens,) plan_append: its place there
    token_rows: torch.Tensor | None = None  # (n_tokens,) plan_append: its row
    memo: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)  # plan_decode: what vectors() gave

    def vectors(self, heads: int, capacity: int) -> torch.Tensor:
        """Where ``n * heads`` decoded vectors go, the buffer seen as a list of vectors; once for all layers."""
        if (heads, capacity) not in self.memo:
            assert self.rows is not None
            assert self.columns is not None
            places = self.rows.unsqueeze(1) * heads + torch.arange(heads, device=self.rows.device)
            self.memo[heads, capacity] = (places * capacity + self.columns.unsqueeze(1)).view(-1)
        return self.memo[heads, capacity]


class _SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer: ``(n_rows, heads, capacity, head_dim)`` each."""

    is_sliding = False

    def __init__(self, plan: _Plan, n_rows: int) -> None:
        super().__init__()
        self.plan = plan
        self.n_rows = n_rows

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        for name, states in (("keys", key_states), ("values", value_states)):
            shape = (self.n_rows, states.shape[1], 0, states.shape[3])
            setattr(self, name, torch.empty(shape, dtype=states.dtype, device=states.device))
        self.is_initialized = True

    def reserve(self, width: int) -> None:
        """Make room for ``width`` columns; what is stored stays."""
        assert self.keys is not None
        capacity = self.keys.shape[2]
        if capacity >= width:
            return
        capacity = max(_FIRST_CAPACITY, 2 * capacity, width)
        for name in ("keys", "values"):
            old = getattr(self, name)
            # Zeros: a column that was never written is masked, yet 0 * NaN would still be NaN in the weighted sum.
            new = old.new_zeros((old.shape[0], old.shape[1], capacity, old.shape[3]))
            new[:, :, : old.shape[2]] = old
            setattr(self, name, new)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        plan = self.plan
        self.reserve(plan.width)
        return self._write(self.keys, key_states), self._write(self.values, value_states)

    def _write(self, stored: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
        """Store ``new`` ``(b, heads, q, head_dim)`` as planned; return all that attention reads."""
        assert stored is not None
        plan, width = self.plan, self.plan.width
        if plan.kind == "prompts":
            stored[plan.rows, :, :width] = new if plan.source is None else new[plan.source]
            return new
        if plan.kind == "decode":
            # As one list of (row, head, column) vectors: half the time of indexing two axes around a slice.
            _, heads, capacity, head_dim = stored.shape
            stored.view(-1, head_dim).index_copy_(0, plan.vectors(heads, capacity), new.reshape(-1, head_dim))
            return stored[: new.shape[0], :, :width]
        if plan.kind == "append":
            stored[plan.token_rows, :, plan.columns] = new[plan.batch, :, plan.offsets]
            return stored[plan.rows, :, :width]
        raise LLMGymError(
            "Expected a plan before each forward pass with this cache, actual: none. "
            "Call plan_prompts, plan_decode or plan_append first."
        )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.plan.width, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """What to hand to the model's forward pass next to ``input_ids``; ``as_kwargs`` spells it."""

    position_ids: torch.Tensor
    attention_mask: torch.Tensor | dict[str, torch.Tensor]
    past_key_values: SlotCache

    def as_kwargs(self) -> dict[str, Any]:
        """Keyword arguments of the forward pass."""
        return {
            "position_ids": self.position_ids,
            "attention_mask": self.attention_mask,
            "past_key_values": self.past_key_values,
            "use_cache": True,
        }


class SlotCache(Cache):  # type: ignore[misc]
    """Keys and values of ``n_rows`` transcripts of unequal length.

    Args:
        config: The model's configuration (its text configuration where it has several).
        n_rows: Transcripts held at once.
        dtype: Of the model's activations; the mask has it too.
        device: Where the model is.

    Attributes:
        lengths: ``(n_rows,)`` int64. Tokens stored of each row.

    Raises:
        InvalidOptionError: If a layer of the model is neither full nor sliding-window attention.

    Source: the layout is the contiguous (not paged) variant of the slot caches of serving engines.
    """

    def __init__(self, config: Any, n_rows: int, *, dtype: torch.dtype, device: torch.device | str) -> None:
        self._plan = _Plan()
        super().__init__(layers=[_SlotLayer(self._plan, n_rows) for _ in range(config.num_hidden_layers)])
        self.n_rows = n_rows
        self.lengths: IntArray = np.zeros(n_rows, dtype=np.int64)
        self._masks = AttentionMasks(config, dtype=dtype)
        self._device = torch.device(device)
        self._all_rows = torch.arange(n_rows, device=device)
        self._columns = torch.arange(0, device=device)

    def plan_prompts(self, rows: IntArray, lengths: IntArray, source: IntArray | None = None) -> ModelInputs:
        """Prompts padded right to one width, entered into ``rows`` from their first column.

        Args:
            rows: ``(n,)``. Rows to fill; what they held is forgotten.
            lengths: ``(b,)``. Length of each prompt of the batch.
            source: ``(n,)``. The prompt of the batch that each row takes; ``None``: the rows in order.
        """
        width = int(lengths.max())
        plan = self._plan
        plan.kind, plan.width = "prompts", width
        plan.rows = self._index(rows)
        plan.source = None if source is None else self._index(source)
        self.lengths[rows] = lengths if source is None else lengths[source]
        positions = torch.arange(width, device=self._device).expand(len(lengths), width)
        return ModelInputs(positions, self._mask(positions), self)

    def plan_decode(self, n: int) -> ModelInputs:
        """One token for each of the rows ``0..n-1``."""
        columns = torch.from_numpy(self.lengths[:n].copy()).to(self._device, non_blocking=True)
        plan = self._plan
        plan.kind, plan.width = "decode", int(self.lengths[:n].max()) + 1
        plan.rows, plan.columns = self._all_rows[:n], columns
        plan.memo.clear()
        self.lengths[:n] += 1
        positions = columns.unsqueeze(1)
        return ModelInputs(positions, self._mask(positions), self)

    def plan_append(self, rows: IntArray, counts: IntArray) -> ModelInputs:
        """``counts[i] >= 1`` tokens for row ``rows[i]``, padded right to one width."""
        starts = self.lengths[rows]
        offsets = np.arange(int(counts.max()))
        # Padding repeats the last real position: a position past the model's last one would not exist.
        positions = starts[:, None] + np.minimum(offsets[None], counts[:, None] - 1)  # (b, q)
        batch, place = np.nonzero(offsets[None] < counts[:, None])
        plan = self._plan
        plan.kind, plan.width = "append", int((starts + counts).max())
        plan.rows, plan.batch, plan.offsets = self._index(rows), self._index(batch), self._index(place)
        plan.token_rows, plan.columns = self._index(rows[batch]), self._index(positions[batch, place])
        self.lengths[rows] += counts
        on_device = self._index(positions)
        return ModelInputs(on_device, self._mask(on_device), self)

    def clear(self) -> None:
        """Forget every row; the memory is kept for what comes next."""
        self.lengths[:] = 0

    def move(self, sources: IntArray, targets: IntArray) -> None:
        """Rows ``targets`` become what rows ``sources`` were, all at once; both ``(n,)``, each row at most once."""
        lengths = self.lengths[sources]
        width, moved, places = int(lengths.max()), self._index(sources), self._index(targets)
        for layer in self.layers:
            if layer.is_initialized:
                for stored in (layer.keys, layer.values):
                    stored[places, :, :width] = stored[moved, :, :width]
        self.lengths[targets] = lengths

    def share(self, source: int, target: int, length: int) -> None:
        """Row ``target`` becomes the first ``length`` tokens of row ``source``, which stays."""
        for layer in self.layers:
            for stored in (layer.keys, layer.values):
                stored[target, :, :length] = stored[source, :, :length]
        self.lengths[target] = length

    def _mask(self, positions: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        width = self._plan.width
        if len(self._columns) < width:
            self._columns = torch.arange(2 * width, device=self._device)
        return self._masks(positions, self._columns[:width])

    def _index(self, values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.long).to(self._device)
