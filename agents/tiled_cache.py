"""A key-value cache that is read row by row, each as far as it reaches, tile by tile.

A tile holds 16 positions of one row. What rows hold is copied only for rows that begin alike: rows trade places by
number.

Not for GPUs, nor for transformers' own models: see :mod:`llmgym.agents.cache`. Not for training.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmgym.agents.kernels import TILE
from llmgym.agents.slots import IntArray

#: Tiles of a row at first. Odd, like those that follow: rows do not all begin at the same sets of a CPU's caches.
_FIRST_TILES = 9


class TiledCache:
    """Keys and values of ``n_rows`` transcripts of unequal length.

    Args:
        n_layers: Of the model.
        n_rows: Transcripts held at once.
        n_key_heads: Key and value heads, ``K``.
        head_dim: Numbers in a head.
        dtype: Of keys and values: float32 or float64.

    Attributes:
        lengths: ``(n_rows,)`` int64. Tokens stored of each row.
        layers: Of each layer ``(n_rows, tiles, K, 2, TILE, head_dim)``, keys and values by place.
    """

    def __init__(self, n_layers: int, n_rows: int, n_key_heads: int, head_dim: int, dtype: npt.DTypeLike) -> None:
        self.lengths: IntArray = np.zeros(n_rows, dtype=np.int64)
        of_tile = (n_key_heads, 2, TILE, head_dim)
        self.layers = [np.zeros((n_rows, 0, *of_tile), dtype=dtype) for _ in range(n_layers)]
        self._places: IntArray = np.arange(n_rows)

    def places(self, rows: IntArray) -> IntArray:
        """Where ``rows`` ``(n,)`` lie."""
        return self._places[rows]

    def reserve(self, length: int) -> None:
        """Make room for ``length`` tokens in each row; what is stored stays."""
        n_tiles, needed = self.layers[0].shape[1], -(-length // TILE)
        if needed <= n_tiles:
            return
        n_tiles = max(_FIRST_TILES, 2 * n_tiles + 1, needed | 1)
        used = -(-int(self.lengths.max()) // TILE)
        for index, old in enumerate(self.layers):
            # Zeros, as the system gives them: memory that no row reaches is not taken from the machine.
            new = np.zeros((old.shape[0], n_tiles, *old.shape[2:]), dtype=old.dtype)
            new[:, :used] = old[:, :used]
            self.layers[index] = new

    def clear(self) -> None:
        """Forget every row; the memory is kept for what comes next."""
        self.lengths[:] = 0

    def move(self, sources: IntArray, targets: IntArray) -> None:
        """Rows ``targets`` become what rows ``sources`` were, all at once; both ``(n,)``, each row at most once."""
        is_target, is_source = np.zeros((2, len(self.lengths)), dtype=bool)
        is_target[targets] = is_source[sources] = True
        given_up = self._places[is_target & ~is_source]
        self.lengths[targets], self._places[targets] = self.lengths[sources], self._places[sources]
        self._places[is_source & ~is_target] = given_up

    def share(self, source: int, target: int, length: int) -> None:
        """Row ``target`` becomes the first ``length`` tokens of row ``source``, which stays."""
        self.copy(np.array([source]), np.array([target]), length)
        self.lengths[target] = length

    def copy(self, sources: IntArray, targets: IntArray, length: int) -> None:
        """Write the first ``length`` tokens of rows ``sources`` ``(n,)`` to rows ``targets`` ``(n,)``."""
        used, read, written = -(-length // TILE), self._places[sources], self._places[targets]
        for states in self.layers:
            states[written, :used] = states[read, :used]
