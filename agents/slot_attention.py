"""Attention while decoding: of new tokens to what a tiled cache holds, one for many rows or several for a few.

One kernel does both. With several threads its tokens are shared out among them where that is worth waking them for.

Queries, keys and values come as the layer's matrices give them. Not for learning: nothing here has a gradient. For
transformers' own models see :mod:`llmgym.agents.attention`.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from llmgym.agents import threads
from llmgym.agents.kernels import TILE, attend
from llmgym.agents.slots import IntArray
from llmgym.agents.tiled_cache import TiledCache

#: Bytes of keys and values that a step reads in all layers, up to which they may still be in a CPU's own caches.
_NEAR_BYTES = 2**21


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
        self._far = n_bytes * len(store.layers) > _NEAR_BYTES
        self._parts = self._shared_out(rows, threads.n_worth(n_bytes))

    def _shared_out(self, rows: IntArray, n_parts: int) -> list[slice]:
        """Which tokens each thread takes: all of a row, and about as much to read as the others."""
        if n_parts < 2:
            return [slice(0, len(rows))]
        reads = np.cumsum(self._positions + 1)
        begins = np.flatnonzero(np.diff(rows, prepend=-1))
        wanted = np.searchsorted(reads, reads[-1] * np.arange(1, n_parts) / n_parts)
        inner = begins[np.minimum(np.searchsorted(begins, wanted), len(begins) - 1)]
        edges = np.unique(np.concatenate([[0], inner, [len(rows)]])).tolist()
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

        threads.run(self._parts, enter_and_attend)
