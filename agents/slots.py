"""Slots of a vector environment and rows of a cache: which belongs to which, and what each row is fed next.

Slots end and restart one by one. The rows in use are kept next to each other, whatever slots they belong to, and the
rows that take one token come before those that take several. Whatever computes them (see :class:`SlotDecoder`), what
it is fed in a step is the same.

Not for keys and values: see :mod:`llmgym.agents.cache` and :mod:`llmgym.agents.tiled_cache`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from llmgym.errors import InvalidActionError

IntArray = npt.NDArray[np.int64]

#: What a transcript began with: the version of the weights, and its tokens.
_Began = tuple[int, bytes]

#: Prompt tokens in one forward pass while acting: more would only cost memory.
_PREFILL_TOKENS = 16_384


class RowStore(Protocol):
    """What is remembered of each row.

    Attributes:
        lengths: ``(n_rows,)`` int64. Tokens stored of each row.
    """

    lengths: IntArray

    def clear(self) -> None:
        """Forget every row."""

    def move(self, sources: IntArray, targets: IntArray) -> None:
        """Rows ``targets`` become what rows ``sources`` were, all at once; both ``(n,)``, each row at most once."""

    def share(self, source: int, target: int, length: int) -> None:
        """Row ``target`` becomes the first ``length >= 1`` tokens of row ``source``, which stays."""


class SlotRows:
    """Which row of the cache belongs to which slot. Rows in use are always ``0..n_rows-1``."""

    def __init__(self, n_slots: int, cache: RowStore) -> None:
        self.n_slots = n_slots
        self.cache = cache
        self.n_rows = 0
        self.row: IntArray = np.full(n_slots, -1, dtype=np.int64)  # of each slot; -1: none
        self.slot: IntArray = np.full(n_slots, -1, dtype=np.int64)  # of each row
        self._began: dict[int, _Began] = {}  # of each slot
        self._holders: dict[_Began, set[int]] = {}  # slots by what they began with

    def release(self, slots: IntArray) -> None:
        """Give up the rows of ``slots``; others move into the gaps."""
        if not len(slots):
            return
        stays = np.ones(self.n_rows, dtype=bool)
        stays[self.row[slots]] = False
        n_rows = int(stays.sum())
        self._move(n_rows + np.flatnonzero(stays[n_rows:]), np.flatnonzero(~stays[:n_rows]))
        self.row[slots] = -1
        self.slot[n_rows : self.n_rows], self.cache.lengths[n_rows : self.n_rows] = -1, 0
        self.n_rows = n_rows
        for slot in slots.tolist():
            began = self._began.pop(slot)
            self._holders[began].discard(slot)
            if not self._holders[began]:
                del self._holders[began]

    def release_all(self) -> None:
        """Give up every row; the memory is kept for what comes next."""
        self.row[:], self.slot[:] = -1, -1
        self.cache.clear()
        self.n_rows = 0
        self._began.clear()
        self._holders.clear()

    def claim(self, slots: IntArray) -> IntArray:
        """New rows for ``slots``, in order, after those in use."""
        rows = np.arange(self.n_rows, self.n_rows + len(slots))
        self.row[slots], self.slot[rows] = rows, slots
        self.n_rows += len(slots)
        return rows

    def note(self, slot: int, began: _Began) -> None:
        """What the transcript of a slot begins with; until it gives up its row, others may :meth:`join` it."""
        self._began[slot] = began
        self._holders.setdefault(began, set()).add(slot)

    def join(self, slot: int, began: _Began, length: int) -> int | None:
        """Give ``slot`` a row with all but the last of the ``length`` tokens that another slot's transcript began with.

        Returns:
            The other slot; ``None``: there is none, and nothing is done.
        """
        holders = self._holders.get(began)
        if not holders:
            return None
        holder = next(iter(holders))
        self.claim(np.array([slot]))
        self.cache.share(int(self.row[holder]), int(self.row[slot]), length - 1)
        self.note(slot, began)
        return holder

    def put_first(self, wanted: npt.NDArray[np.bool_]) -> int:
        """Order the rows in use so that the ``wanted`` ones ``(n_rows,)`` come first; return how many they are."""
        n_wanted = int(wanted.sum())
        misplaced = np.flatnonzero(wanted[n_wanted:]) + n_wanted
        gaps = np.flatnonzero(~wanted[:n_wanted])
        self._move(np.concatenate([misplaced, gaps]), np.concatenate([gaps, misplaced]))
        return n_wanted

    def _move(self, sources: IntArray, targets: IntArray) -> None:
        if len(sources):
            self.cache.move(sources, targets)
            moved = self.slot[sources]
            self.slot[targets], self.row[moved] = moved, targets


@dataclass(frozen=True, slots=True)
class Block:
    """Several new tokens for each of some rows: whole transcripts, or what an environment wrote after the policy.

    ``b`` sequences, ``q`` tokens at most, ``n >= b`` rows: rows with the same transcript (a group) share a sequence.

    Attributes:
        rows: ``(n,)`` int64. Rows of the cache.
        source: ``(n,)`` int64. The sequence that each of them takes.
        tokens: ``(b, q)`` int64, padded right.
        counts: ``(b,)`` int64. Tokens of each sequence.
        seen: ``(b,)`` int64. Tokens before them that the row holds; 0 for whole transcripts. Where they are not, the
            rows are the sequences in order.
    """

    rows: IntArray
    source: IntArray
    tokens: IntArray
    counts: IntArray
    seen: IntArray

    @property
    def readers(self) -> IntArray:
        """``(b,)``: of each sequence the first row that takes it."""
        return self.rows[np.unique(self.source, return_index=True)[1]]


class Joined(NamedTuple):
    """A slot that begins with what another slot began with: its row has that already, but for the last token.

    Attributes:
        slot: Which began.
        holder: The other one.
        length: Tokens that were copied.
    """

    slot: int
    holder: int
    length: int


@dataclass(frozen=True, slots=True)
class Feed:
    """The new tokens of every row in use.

    Attributes:
        singles: ``(n_single,)`` int64. The token of each of the rows ``0..n_single-1``, which take one.
        blocks: Of the other rows.
        lengths: ``(n_rows,)`` int64. Tokens of each row, the new ones included.
        last: ``(n_rows,)`` int64. The last token of each row.
        index: ``(n_rows,)`` int64. Where the result of each row is found among those of the singles and of the
            sequences of each block, one after the other. ``None``: in order.
        joined: Slots that began in this step and need not be fed all that they began with.
    """

    singles: IntArray
    blocks: list[Block]
    lengths: IntArray
    last: IntArray
    index: IntArray | None
    joined: list[Joined]

    def in_passes(self) -> list[tuple[IntArray, list[Block]]]:
        """Singles and blocks as they may go through the model together; at least one pass."""
        passes = [(self.singles, self.blocks[:0])]
        n_tokens = len(self.singles)
        for block in self.blocks:
            if passes[-1][1] and n_tokens + block.tokens.size > _PREFILL_TOKENS:
                passes.append((self.singles[:0], []))
                n_tokens = 0
            passes[-1][1].append(block)
            n_tokens += block.tokens.size
        return passes


class SlotDecoder(Protocol):
    """A model that reads what slots are fed."""

    @property
    def cache(self) -> RowStore:
        """What it remembers of the rows."""

    @property
    def version(self) -> int:
        """Of the weights: another one after each change that autograd counts."""

    def advance(self, feed: Feed) -> tuple[torch.Tensor, torch.Tensor]:
        """Read ``feed``.

        Returns:
            logits: ``(n_rows, V)`` after the last token of each row.
            hidden: ``(n_rows, H)``. What the output layer was given there.
        """


def next_feed(slots: SlotRows, ids: npt.NDArray[Any], lengths: IntArray, fresh: IntArray, version: int) -> Feed:
    """What the rows in use have not seen yet, and the transcripts of ``fresh`` slots, which get rows.

    A transcript that another slot began with, as the responses of a group do, is copied from there but for its last
    token, which is fed like any single one.

    Args:
        slots: Of all that go on; those that restarted, and those that wait, have given up their rows.
        ids: ``(N, width)``. The transcripts.
        lengths: ``(N,)`` int64.
        fresh: ``(n,)`` int64. Slots without a row that are to have one.
        version: Of the weights: what was computed with others is not copied. Not read where no slot is fresh.

    Raises:
        InvalidActionError: If a slot that goes on shows no new token.
    """
    began = [(version, ids[slot, : lengths[slot]].astype(np.int64).tobytes()) for slot in fresh.tolist()]
    joined = []
    for slot, transcript in zip(fresh.tolist(), began, strict=True):
        length = int(lengths[slot])
        holder = slots.join(slot, transcript, length) if length > 1 else None
        if holder is not None:
            joined.append(Joined(slot, holder, length - 1))
    if joined:
        has_row = slots.row[fresh] >= 0
        began = [transcript for transcript, has in zip(began, has_row, strict=True) if not has]
        fresh = fresh[~has_row]
    n_held = slots.n_rows
    held = slots.slot[:n_held]
    counts = lengths[held] - slots.cache.lengths[:n_held]
    single = counts == 1
    n_single = n_held
    if not single.all():
        if (counts < 1).any():
            slot = int(held[np.argmax(counts < 1)])
            raise InvalidActionError(
                f"Expected a new token in the observation of slot {slot}, which did not restart, actual: "
                f"{int(lengths[slot])} tokens, {int(slots.cache.lengths[slots.row[slot]])} of them seen before. "
                "Say in `restarted` which slots began a new episode, and in `waiting` which ones wait."
            )
        # Rows that take one token come first, so that they are read where they lie.
        n_single = slots.put_first(single)
    blocks, index = [], None
    if n_single < n_held:
        blocks.append(_appended(slots, ids, lengths, np.arange(n_single, n_held)))
    if len(fresh):
        source, entered = _entered(slots, ids, lengths, fresh, began)
        blocks += entered
        if source.max() + 1 < len(source):
            index = np.concatenate([np.arange(n_held), n_held + source])
    acting = slots.slot[: slots.n_rows]
    ends = lengths[acting]
    last = ids[acting, ends - 1].astype(np.int64)
    return Feed(last[:n_single], blocks, ends, last, index, joined)


def _appended(slots: SlotRows, ids: npt.NDArray[Any], lengths: IntArray, rows: IntArray) -> Block:
    """Several new tokens for each of ``rows``: the environment wrote after the policy."""
    acting, seen = slots.slot[rows], slots.cache.lengths[rows]
    counts = lengths[acting] - seen
    # Padding repeats the last token; what it is does not matter.
    columns = seen[:, None] + np.minimum(np.arange(counts.max())[None], counts[:, None] - 1)
    return Block(rows, np.arange(len(rows)), ids[acting[:, None], columns].astype(np.int64), counts, seen)


def _entered(
    slots: SlotRows, ids: npt.NDArray[Any], lengths: IntArray, fresh: IntArray, began: list[_Began]
) -> tuple[IntArray, list[Block]]:
    """Whole transcripts for slots that restarted: which of the distinct ones is that of each, and blocks of them."""
    place: dict[_Began, int] = {}
    source = np.array([place.setdefault(transcript, len(place)) for transcript in began])
    for slot, transcript in zip(fresh.tolist(), began, strict=True):
        slots.note(slot, transcript)
    distinct = fresh[np.unique(source, return_index=True)[1]]
    rows = slots.claim(fresh)
    chunk = max(1, _PREFILL_TOKENS // int(lengths[distinct].max()))
    blocks = []
    for start in range(0, len(distinct), chunk):
        part = distinct[start : start + chunk]
        takers = np.flatnonzero((source >= start) & (source < start + len(part)))
        counts = lengths[part]
        tokens = ids[part, : counts.max()].astype(np.int64)
        blocks.append(Block(rows[takers], source[takers] - start, tokens, counts, np.zeros_like(counts)))
    return source, blocks
