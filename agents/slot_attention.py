"""Attention while decoding: of new tokens to what a tiled cache holds, one for many rows or several for a few.

One kernel does both. With several threads its tokens are shared out among them where that is worth waking them for. Of
many tokens of one row, as a long prompt has them, the scores are a matrix product, which is quicker.

Queries, keys and values come as the layer's matrices give them. Not for learning: nothing here has a gradient. For
transformers' own models see :mod:`llmgym.agents.attention`.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import scaled_dot_product_attention

from llmgym.agents import threads
from llmgym.agents.kernels import PREFETCHES, TILE, attend, enter
from llmgym.agents.slots import IntArray
from llmgym.agents.tiled_cache import TiledCache

#: Bytes of keys and values that a step reads in all layers, up to which they may still be in a CPU's own caches.
_NEAR_BYTES = 2**21

#: New tokens of a row from which on products of matrices are quicker than one token after the other.
_LONG = 128


class SlotAttention:
    """Attention of one pass of ``m`` tokens, layer by layer.

    Args:
        store: Has room for the tokens.
        turns: ``(P, 2, head_dim)``. See :func:`~llmgym.agents.kernels.attend`, like the following.
        epsilon: Of the norms of queries and keys.
        rows: ``(m,)`` int64. The cache's row of each token; those of one row lie next to each other.
        positions: ``(m,)`` int64. Of a row's tokens in rising order.
    """

    def __init__(
        self,
        store: TiledCache,
        turns: npt.NDArray[np.floating],
        epsilon: np.floating,
        rows: IntArray,
        positions: IntArray,
    ) -> None:
        self._store, self._turns, self._epsilon = store, turns, epsilon
        self._places, self._positions = store.places(rows), positions
        n_bytes = int(positions.sum() + len(rows)) * store.layers[0][0, 0].nbytes // TILE
        self._far = PREFETCHES and n_bytes * len(store.layers) > _NEAR_BYTES
        n_parts = threads.n_worth(n_bytes)
        # Tokens of a row lie next to each other.
        is_long = len(rows) >= _LONG and bool((rows[_LONG - 1 :] == rows[: len(rows) - _LONG + 1]).any())
        self._long: list[slice] = []  # all new tokens of a row
        self._parts: list[slice] = []  # of all others, what a thread takes
        begin = 0
        for stretch in self._stretches(rows) if is_long else []:
            self._long.append(stretch)
            self._parts += self._shared_out(rows, slice(begin, stretch.start), n_parts)
            begin = stretch.stop
        self._parts += self._shared_out(rows, slice(begin, len(rows)), n_parts)

    def _stretches(self, rows: IntArray) -> list[slice]:
        """The tokens of each row that has many."""
        edges = np.flatnonzero(np.diff(rows, prepend=-1, append=-1)).tolist()
        return [slice(start, stop) for start, stop in pairwise(edges) if stop - start >= _LONG]

    def _shared_out(self, rows: IntArray, tokens: slice, n_parts: int) -> list[slice]:
        """Which of ``tokens`` each thread takes: all of a row, and about as much to read as the others."""
        if tokens.start == tokens.stop:
            return []
        if n_parts < 2:
            return [tokens]
        reads = np.cumsum(self._positions[tokens] + 1)
        begins = np.flatnonzero(np.diff(rows[tokens], prepend=-1))
        wanted = np.searchsorted(reads, reads[-1] * np.arange(1, n_parts) / n_parts)
        inner = begins[np.minimum(np.searchsorted(begins, wanted), len(begins) - 1)]
        edges = (tokens.start + np.unique(np.concatenate([[0], inner, [len(reads)]]))).tolist()
        return [slice(start, stop) for start, stop in pairwise(edges)]

    def attend(
        self,
        layer: int,
        qkv: npt.NDArray[np.floating],
        gains: npt.NDArray[np.floating] | None,
        out: npt.NDArray[np.floating],
    ) -> None:
        """Enter the keys and values of a layer, and fill ``out`` ``(m, heads, head_dim)``."""
        states = self._store.layers[layer]

        def enter_and_attend(part: slice) -> None:
            places, positions = self._places[part], self._positions[part]
            attend(qkv[part], gains, self._epsilon, self._turns, places, positions, states, self._far, out[part])

        if self._parts:
            threads.run(self._parts, enter_and_attend)
        for stretch in self._long:
            self._attend_at_length(stretch, states, qkv[stretch], gains, out[stretch])

    def _attend_at_length(
        self,
        stretch: slice,
        states: npt.NDArray[np.floating],
        qkv: npt.NDArray[np.floating],
        gains: npt.NDArray[np.floating] | None,
        out: npt.NDArray[np.floating],
    ) -> None:
        """The same for all new tokens of one row."""
        places, positions = self._places[stretch], self._positions[stretch]
        n_heads, n_key_heads = out.shape[1], states.shape[2]
        turned = np.empty((len(out), n_heads + n_key_heads, out.shape[2]), out.dtype)
        enter(qkv, gains, self._epsilon, self._turns, places, positions, states, turned)
        held, total = int(positions[0]), int(positions[-1]) + 1
        tiles = torch.from_numpy(states[places[0], : -(-total // TILE)])  # (tiles, K, 2, TILE, head_dim)
        keys, values = tiles.permute(2, 1, 0, 3, 4).flatten(2, 3)[:, None, :, :total]
        queries = torch.from_numpy(turned[:, :n_heads]).transpose(0, 1)[None]
        behind = torch.ones(len(out), total, dtype=torch.bool).tril(held) if held else None
        attended = scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=behind,
            is_causal=behind is None,
            scale=1.0,  # the queries have been
            enable_gqa=n_heads > n_key_heads,
        )
        torch.from_numpy(out).copy_(attended[0].transpose(0, 1))
