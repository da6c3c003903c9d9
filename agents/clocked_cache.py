"""A key-value cache whose rows all end in the same column, kept in chunks of columns.

Rows of unequal length differ in where they begin: whatever their lengths are, the tokens of one step are written to
one column, a slice and not a scatter. A column is no position (the rotary embedding has those), so a row may lie
anywhere. The chunks in use are a window that moves on with the clock: a chunk that no row reaches back to is used
again at the other end. Rows that reach back far come before others, so that of an old chunk the first rows are read.

What decides the layout is how the memory of a CPU is read: many slots do not fit into its caches, and a row whose
columns do not fill their allocation makes its prefetcher start anew at each row, at about three times the time. So
chunks are narrow where rows are many, and are read whole.

Not for GPUs, nor for transformers' own models: see :mod:`llmgym.agents.cache`. Not for training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from llmgym.agents.slots import IntArray

#: Columns of a chunk where rows are many, and where they are few.
_NARROW, _WIDE = 32, 128

#: Bytes of one column's keys in one layer from which rows are many: chunks are narrow then, and read whole.
_MANY_BYTES = 2**14


@dataclass(frozen=True, slots=True)
class Part:
    """What a decoding step reads of one chunk, ``K`` key heads.

    Attributes:
        column: The first column read.
        width: How many, ``w``.
        n_rows: The first so many rows are read: of an old chunk those up to the last one that reaches back to it.
        keys: Of each layer, ``(n_rows * K, head_dim, w)``.
        values: Of each layer, ``(n_rows * K, w, head_dim)``.
    """

    column: int
    width: int
    n_rows: int
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]


class _Chunk:
    """Columns of all layers, ``(n_layers, 2, n_rows, K, width, head_dim)``: ``states``, the same memory as ``pairs``.

    Views are kept while the same rows read the same columns: making them costs as much as a small product.
    """

    def __init__(self, states: torch.Tensor) -> None:
        self.states = states
        self.pairs = as_pairs(states)
        self._asked: tuple[int, int, int] | None = None
        self._views: tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]] = ((), ())

    def read(self, n_rows: int, start: int, stop: int) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Keys and values as in :class:`Part`."""
        if self._asked != (n_rows, start, stop):
            keys, values = self.states[:, :, :n_rows].flatten(2, 3)[:, :, :, start:stop].unbind(1)
            self._views = keys.transpose(2, 3).unbind(0), values.unbind(0)
            self._asked = (n_rows, start, stop)
        return self._views


class ClockedCache:
    """Keys and values of ``n_rows`` transcripts of unequal length that end in the same column.

    A step is: :meth:`open` a column, write to it (:meth:`places`, :meth:`put`), :meth:`close` it.

    Args:
        n_layers: Of the model.
        n_rows: Transcripts held at once.
        n_key_heads: Key and value heads.
        head_dim: Numbers in a head.
        dtype: Of keys and values: float32 or float64.

    Attributes:
        lengths: ``(n_rows,)`` int64. Tokens stored of each row.
        column: The column of the step, counted from the first chunk in use.
        n_key_heads: As given, like the following.
        head_dim: Numbers in a head.
        dtype: Of keys and values.
    """

    def __init__(self, n_layers: int, n_rows: int, n_key_heads: int, head_dim: int, dtype: torch.dtype) -> None:
        self.lengths: IntArray = np.zeros(n_rows, dtype=np.int64)
        self.column = 0
        self.n_key_heads, self.head_dim, self.dtype = n_key_heads, head_dim, dtype
        self._reads_whole = n_rows * n_key_heads * head_dim * dtype.itemsize >= _MANY_BYTES
        self._width = _NARROW if self._reads_whole else _WIDE
        self._shape = (n_layers, 2, n_rows, n_key_heads, self._width, head_dim)
        self._chunks: list[_Chunk] = []
        self._spare: list[_Chunk] = []

    def places(self, n: int) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Where a layer's keys and values go of the rows ``0..n-1``, in the open column.

        Returns:
            keys: Of each layer ``(n, K, head_dim)``, as :func:`as_pairs` has them.
            values: Of each layer ``(n, K, head_dim)``.
        """
        chunk, column = self._chunks[self.column // self._width], self.column % self._width
        return chunk.pairs[:, 0, :n, :, column].unbind(0), chunk.states[:, 1, :n, :, column].unbind(0)

    def parts(self, n: int) -> list[Part]:
        """What a token of each of the rows ``0..n-1`` has to read, chunk by chunk."""
        begins = self.column - self.lengths[:n]
        earliest, parts = int(begins.min()), []
        for index in range(earliest // self._width, self.column // self._width + 1):
            first = index * self._width
            start, stop = max(0, earliest - first), min(self._width, self.column + 1 - first)
            if self._reads_whole:
                start, stop = 0, self._width
            n_rows = n
            if self._reads_whole and first + self._width <= self.column:
                n_rows = 1 + int(np.flatnonzero(begins < first + self._width)[-1])
            keys, values = self._chunks[index].read(n_rows, start, stop)
            parts.append(Part(first + start, stop - start, n_rows, keys, values))
        return parts

    def clear(self) -> None:
        """Forget every row; the memory is kept for what comes next."""
        self.lengths[:] = 0

    def open(self, longest: int) -> None:
        """Begin a step: a column for its last tokens, and room before it for rows of up to ``longest`` tokens."""
        width, held = self._width, int(self.lengths.max())
        if not held:
            self.column = longest - 1
            while len(self._chunks) > self.column // width + 1:
                self._spare.append(self._chunks.pop())
        while held and self.column - held >= width:
            self._spare.append(self._chunks.pop(0))
            self.column -= width
        while self.column < longest - 1:
            self._chunks.insert(0, self._chunk())
            self.column += width
        while self.column >= len(self._chunks) * width:
            self._chunks.append(self._chunk())

    def close(self, lengths: IntArray) -> None:
        """End a step; ``lengths`` ``(n,)`` are those of the rows ``0..n-1`` now, and no other row is in use."""
        self.lengths[: len(lengths)] = lengths
        self.column += 1

    def mask(self, n: int, parts: list[Part]) -> torch.Tensor | None:
        """What is added to scores ``(n, heads, w)`` of ``parts``: ``(1 or n, 1, w)``; ``None``: nothing."""
        begins = self.column - self.lengths[:n]
        if parts[0].column == begins.max() and parts[-1].column + parts[-1].width == self.column + 1:
            return None
        columns = np.concatenate([np.arange(part.column, part.column + part.width) for part in parts])
        if begins.min() == begins.max():
            begins = begins[:1]
        dead = (columns < begins[:, None]) | (columns > self.column)
        mask = torch.zeros(dead.shape, dtype=self.dtype)
        mask.masked_fill_(torch.from_numpy(dead), torch.finfo(self.dtype).min)
        return mask.unsqueeze(1)

    def take(self, rows: IntArray) -> torch.Tensor:
        """What ``rows`` ``(b,)`` hold, ``(n_layers, 2, b, K, w, head_dim)``, ending at the right for each of them."""
        longest, index = int(self.lengths[rows].max()), torch.from_numpy(rows)
        pieces = [
            chunk.states[:, :, :, :, start:stop].index_select(2, index)
            for chunk, start, stop, _ in self._stretch(self.column - longest, self.column)
        ]
        return torch.cat(pieces, dim=4)

    def put(self, rows: IntArray, states: torch.Tensor) -> None:
        """Let the last columns of ``rows`` ``(b,)``, up to the open one, be ``(n_layers, 2, b, K, w, head_dim)``."""
        index, width = torch.from_numpy(rows), states.shape[4]
        for chunk, start, stop, at in self._stretch(self.column + 1 - width, self.column + 1):
            chunk.states[:, :, :, :, start:stop].index_copy_(2, index, states[:, :, :, :, at : at + stop - start])

    def ages(self, n: int) -> IntArray:
        """``(n,)``: in how many chunks each of the rows ``0..n-1`` lies; all the same where rows are few."""
        if not self._reads_whole:
            return np.zeros(n, dtype=np.int64)
        ages: IntArray = len(self._chunks) - (self.column - self.lengths[:n]) // self._width
        return ages

    @torch.inference_mode()
    def move(self, sources: IntArray, targets: IntArray) -> None:
        """Rows ``targets`` become what rows ``sources`` were, all at once; both ``(n,)``, each row at most once."""
        lengths = self.lengths[sources]
        rows, places = torch.from_numpy(sources), torch.from_numpy(targets)
        for chunk, start, stop, _ in self._stretch(self.column - int(lengths.max()), self.column):
            held = chunk.states[:, :, :, :, start:stop]
            held.index_copy_(2, places, held.index_select(2, rows))
        self.lengths[targets] = lengths

    @torch.inference_mode()
    def share(self, source: int, target: int, length: int) -> None:
        """Row ``target`` becomes the first ``length`` tokens of row ``source``, which stays; before a step."""
        begin = self.column - int(self.lengths[source])
        pieces = [
            chunk.states[:, :, source, :, start:stop] for chunk, start, stop, _ in self._stretch(begin, begin + length)
        ]
        states = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=3)  # (n_layers, 2, K, length, head_dim)
        for chunk, start, stop, at in self._stretch(self.column - length, self.column):
            chunk.states[:, :, target, :, start:stop] = states[:, :, :, at : at + stop - start]
        self.lengths[target] = length

    def _stretch(self, begin: int, end: int) -> Iterator[tuple[_Chunk, int, int, int]]:
        """Chunks that the columns from ``begin`` to ``end`` are in: from where to where, and how many came before."""
        for index in range(begin // self._width, -(-end // self._width)):
            first = index * self._width
            start, stop = max(begin - first, 0), min(end - first, self._width)
            yield self._chunks[index], start, stop, first + start - begin

    def _chunk(self) -> _Chunk:
        if self._spare:
            return self._spare.pop()
        # Zeros: a column that was never written is masked, yet 0 * NaN would still be NaN in the weighted sum.
        return _Chunk(torch.zeros(self._shape, dtype=self.dtype))


def as_pairs(heads: torch.Tensor) -> torch.Tensor:
    """``(..., head_dim)`` seen as complex numbers ``(..., head_dim / 2)``."""
    return torch.view_as_complex(heads.view(*heads.shape[:-1], -1, 2))
