"""Attention while decoding, to what a clocked cache holds: one new token for many rows, or several for a few.

With one query a row PyTorch's fused attention is several times slower on a CPU than two plain matrix products. Several
queries go through the fused one.

Queries come scaled; keys and queries come with their rotary embedding.

Not for learning: nothing here has a gradient. For transformers' own models see :mod:`llmgym.agents.attention`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from llmgym.agents.clocked_cache import ClockedCache, as_pairs
from llmgym.agents.slots import Block, IntArray


class DecodeStep:
    """Attention of one token for each of the rows ``0..n-1``, ``Q`` query heads for each of ``K`` key heads.

    Args:
        cache: Whose column is open.
        queries: ``(n * K, Q, head_dim)`` contiguous, scaled and rotated. The buffer that holds the queries of the layer
            whenever :meth:`attend` is called.
        outputs: The same shape. What :meth:`attend` fills.
    """

    def __init__(self, cache: ClockedCache, queries: torch.Tensor, outputs: torch.Tensor) -> None:
        n = len(queries) // cache.n_key_heads
        self._parts = cache.parts(n)
        self._mask = cache.mask(n, self._parts)
        self._queries, self._outputs = queries, outputs
        shape = (*queries.shape[:2], sum(part.width for part in self._parts))
        self._scores, self._weights = queries.new_empty(shape), queries.new_empty(shape)
        self._masked = self._scores.view(n, -1, shape[2])
        self._views, at = [], 0  # of each part: queries, scores, weights and outputs
        for part in self._parts:
            read, here = part.n_rows * cache.n_key_heads, slice(at, at + part.width)
            if part.n_rows < n:  # no layer writes what is not read, and the mask is added to it
                self._scores[read:, :, here] = 0.0
            views = (queries[:read], self._scores[:read, :, here], self._weights[:read, :, here], outputs[:read])
            self._views.append(views)
            at = here.stop

    def attend(self, layer: int) -> None:
        """``outputs = softmax(queries keys^T + mask) values`` with what is stored of a layer, up to the open column."""
        queries, outputs = self._queries, self._outputs
        if len(self._parts) == 1:
            torch.bmm(queries, self._parts[0].keys[layer], out=self._scores)
        else:
            for part, (asked, scores, _, _) in zip(self._parts, self._views, strict=True):
                scores.copy_(torch.bmm(asked, part.keys[layer]))  # into a slice it would be made row by row
        if self._mask is not None:
            self._masked.add_(self._mask)
        torch.softmax(self._scores, -1, out=self._weights)
        torch.bmm(self._views[-1][2], self._parts[-1].values[layer], out=outputs)  # every row reads the newest part
        for part, (_, _, weights, answered) in zip(self._parts[:-1], self._views, strict=False):
            answered.baddbmm_(weights, part.values[layer])


class BlockStep:
    """Attention of several new tokens for each of some rows, to what the rows hold and to one another.

    ``b`` sequences of ``q`` tokens, padded left here, so that they end in one column, after the ``w`` columns that hold
    what the rows had before (0 for whole transcripts).

    Attributes:
        tokens: ``(b * q,)`` int64.
        positions: ``(b * q,)`` int64.
        ends: ``(b,)`` int64. Where in ``tokens`` the last one of each sequence is.

    Args:
        cache: Whose column is open.
        block: The tokens, and the rows they are for.
    """

    def __init__(self, cache: ClockedCache, block: Block) -> None:
        self._cache, self._block = cache, block
        b, q = block.tokens.shape
        counts, seen = block.counts[:, None], block.seen[:, None]
        offsets = np.arange(q) - (q - counts)  # (b, q) place in the sequence, below 0 for padding
        self.tokens = np.take_along_axis(block.tokens, np.maximum(offsets, 0), axis=1).ravel()
        self.positions = (seen + np.maximum(offsets, 0)).ravel()
        self.ends = np.arange(1, b + 1) * q - 1
        self._before = cache.take(block.rows) if seen.any() else None  # (n_layers, 2, b, K, w, head_dim)
        held = 0 if self._before is None else self._before.shape[4]
        self._mask: torch.Tensor | None = None
        if held or (counts < q).any():
            self._mask = torch.from_numpy(self._visible(offsets, block.seen, held))
        self._shape = (b, q)
        self._new: list[torch.Tensor] = []  # (2, b, K, q, head_dim) of each layer

    @staticmethod
    def _visible(offsets: IntArray, seen: IntArray, held: int) -> npt.NDArray[np.bool_]:
        """``(b, 1, q, w + q)``: what each new token attends to; padding to itself, since softmax needs something."""
        b, q = offsets.shape
        new = (np.tri(q, dtype=bool) & (offsets[:, None, :] >= 0)) | np.eye(q, dtype=bool)  # (b, q, q)
        before = np.arange(held) >= held - seen[:, None]  # (b, w)
        return np.concatenate([np.broadcast_to(before[:, None], (b, q, held)), new], axis=2)[:, None]

    def attend(
        self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, outputs: torch.Tensor
    ) -> None:
        """Fill ``outputs`` ``(b * q, heads * head_dim)``; keys and values are kept for :meth:`store`.

        Args:
            layer: Index of the layer.
            queries: ``(b * q, heads, head_dim)``.
            keys: ``(b * q, K, head_dim)``.
            values: Like ``keys``.
            outputs: What is filled.
        """
        b, q = self._shape
        asked = queries.view(b, q, *queries.shape[1:]).transpose(1, 2)
        new = torch.stack([keys, values]).view(2, b, q, *keys.shape[1:]).transpose(2, 3)
        self._new.append(new)
        read = new if self._before is None else torch.cat([self._before[layer], new], dim=3)
        answered = functional.scaled_dot_product_attention(
            asked,
            read[0],
            read[1],
            attn_mask=self._mask,
            is_causal=self._mask is None,
            scale=1.0,
            enable_gqa=asked.shape[1] != read.shape[2],
        )
        outputs.view(b, q, -1).copy_(answered.transpose(1, 2).flatten(2))

    def store(self) -> None:
        """Enter what is new into the rows."""
        block = self._block
        states = torch.stack(self._new)  # (n_layers, 2, b, K, q, head_dim)
        if self._before is not None:
            states = self._without_gaps(torch.cat([self._before, states], dim=4))
        if len(block.source) > len(block.counts):
            states = states.index_select(2, torch.from_numpy(block.source))
        # Padding lay before them: no row reaches back so far, and the cache may not either.
        self._cache.put(block.rows, states[:, :, :, :, -int((block.seen + block.counts).max()) :])

    def _without_gaps(self, states: torch.Tensor) -> torch.Tensor:
        """What was held and what is new next to each other: padding lay between them."""
        counts, (b, q) = self._block.counts[:, None], self._shape
        if (counts == q).all():
            return states
        columns = np.arange(states.shape[4])
        is_new = columns >= len(columns) - counts  # (b, w + q)
        source = np.maximum(np.where(is_new, columns, columns - q + counts), 0)
        moved = states[:, :, torch.from_numpy(np.arange(b)[:, None]), :, torch.from_numpy(source)]
        return moved.permute(2, 3, 0, 4, 1, 5)  # from (b, w + q, n_layers, 2, K, head_dim)


class SlotAttention:
    """Attention of passes with ``m`` tokens each: ``n`` singles, for the rows ``0..n-1``, and then those of blocks.

    Buffers and views of them are made once, for as long as passes are of one shape.

    Attributes:
        qkv: ``(m, heads + 2 * K, head_dim)``. To be filled before :meth:`attend` with queries, keys and values of the
            layer; numbers that the rotary embedding turns together are neighbours.
        outputs: ``(m, heads * head_dim)``. What :meth:`attend` fills.

    Args:
        cache: Of the rows.
        m: Tokens.
        n: Singles among them.
        heads: Query heads.
    """

    def __init__(self, cache: ClockedCache, m: int, n: int, heads: int) -> None:
        key_heads, head_dim, dtype = cache.n_key_heads, cache.head_dim, cache.dtype
        self._cache, self._n = cache, n
        self.qkv = torch.empty(m, heads + 2 * key_heads, head_dim, dtype=dtype)
        queries = torch.empty(m, heads, head_dim, dtype=dtype)
        self.outputs = torch.empty(m, heads * head_dim, dtype=dtype)
        self._turns = torch.empty(m, 2, head_dim // 2, dtype=dtype.to_complex())
        raw_queries, raw_keys, values = self.qkv.split_with_sizes((heads, key_heads, key_heads), dim=1)
        self._raw_queries, self._queries = (as_pairs(raw_queries), self._turns[:, :1]), as_pairs(queries)
        turned_keys = (as_pairs(raw_keys), self._turns[:, 1:])
        self._raw_keys, self._values = tuple(states[:n] for states in turned_keys), values[:n]
        shape = (n * key_heads, heads // key_heads, head_dim)
        self._singles = (queries[:n].view(shape), self.outputs[:n].view(shape))
        self._of_blocks = tuple(states[n:] for states in (*turned_keys, queries, values, self.outputs))

    def begin(self, angles: torch.Tensor, positions: torch.Tensor, blocks: list[BlockStep]) -> None:
        """Prepare a pass.

        Args:
            angles: ``(P, 2, head_dim / 2)`` complex. What pairs of queries, and of keys, are multiplied with at each
                position.
            positions: ``(m,)`` int64.
            blocks: Those of the pass.
        """
        torch.index_select(angles, 0, positions, out=self._turns)
        if self._n:
            self._step = DecodeStep(self._cache, *self._singles)
            self._key_places, self._value_places = self._cache.places(self._n)
        self._blocks, at = [], 0
        for block in blocks:
            here = slice(at, at + len(block.tokens))
            self._blocks.append((block, tuple(states[here] for states in self._of_blocks)))
            at = here.stop

    def attend(self, layer: int) -> None:
        """Rotate what is in the buffer, enter keys and values into the cache, attend."""
        torch.mul(*self._raw_queries, out=self._queries)
        if self._n:
            torch.mul(*self._raw_keys, out=self._key_places[layer])
            self._value_places[layer].copy_(self._values)
            self._step.attend(layer)
        for block, (raw_keys, turns, queries, values, outputs) in self._blocks:
            keys = torch.view_as_real(raw_keys * turns).flatten(-2)
            block.attend(layer, queries, keys, values, outputs)
