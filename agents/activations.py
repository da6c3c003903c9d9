"""What the layers computed while acting, kept for the first pass of learning with the same weights.

A policy that has just acted knows the activations of every token it was fed: the ones that the forward pass of learning
would compute again, a third of its arithmetic. Kept, learning begins with the backward pass. They are found by content:
a transcript's tokens lead to where its activations lie, and they are used if all tokens of a pass are found and the
weights are those they were computed with, by autograd's count of their changes and by their norms. In any other case,
the second epoch of PPO for one, the pass is computed as ever, to the same numbers.

Memory: what the forward pass of the whole rollout would keep. A rollout that does not fit is not kept at all, and the
next one only if this one would have fitted.

Not for keys and values that acting itself reads: see :mod:`llmgym.agents.tiled_cache`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from llmgym.agents.architectures import Decoder
from llmgym.agents.packing import Packing, pack, transcripts
from llmgym.agents.slots import Feed, IntArray

#: Share of everything kept from which a pass reads it where it lies, instead of copying what it needs.
_MOST = 0.9


class KeptLayer(NamedTuple):
    """Of one layer and ``n`` tokens what its backward pass reads; queries and keys are in pairs.

    ``H`` hidden size, ``A = heads * head_dim``, ``I`` intermediate size. A root is that of an RMS norm's mean square
    and epsilon.
    """

    before: torch.Tensor  # (n, H) normalised, before attention
    before_root: torch.Tensor  # (n, 1)
    qkv: torch.Tensor  # (n, A + 2 * key_heads * head_dim) with biases, not rotated, nor normalised
    mixed: torch.Tensor  # (n, A) what attention gave
    after: torch.Tensor  # (n, H) normalised, before the MLP
    after_root: torch.Tensor  # (n, 1)
    opened: torch.Tensor  # (n, 2 * I) gate and up, with biases


class Activations:
    """Activations of one decoder, token after token in the order in which they were computed.

    Args:
        decoder: Of whose layers.
        wide: Precision of the residual stream and of attention.
        n_slots: Slots whose transcripts are fed.
        max_bytes: How much is kept.

    Attributes:
        n_tokens: Tokens computed since :meth:`begin`.
        max_bytes: As given.
    """

    def __init__(self, decoder: Decoder, *, wide: torch.dtype, n_slots: int, max_bytes: int) -> None:
        self.n_tokens, self.max_bytes = 0, max_bytes
        self._versions: list[tuple[int, int]] = []
        self._norms: list[float] = []
        self._n_layers, n_hidden = len(decoder.layers), decoder.embedding.shape[1]
        self._shapes = [*_shapes(decoder, wide), (n_hidden, wide)]
        of_layer = sum(width * dtype.itemsize for width, dtype in self._shapes[:-1])
        self._capacity = max_bytes // (self._n_layers * of_layer + n_hidden * wide.itemsize)
        self._keeps = False
        self._states: list[torch.Tensor] = []
        self._last = torch.empty(0)
        self._starts: list[int] = []  # the first row of each pass of a step
        self._rows: IntArray = np.zeros((n_slots, 0), dtype=np.int64)  # of each token fed to a slot
        self._ids: IntArray = np.zeros((n_slots, 0), dtype=np.int64)
        self._lengths: IntArray = np.zeros(n_slots, dtype=np.int64)
        self._found: dict[bytes, list[IntArray]] = {}  # the rows of whole transcripts, by their tokens

    def begin(self, decoder: Decoder) -> None:
        """Forget everything; what comes is computed with the weights as they are now. The memory is used again."""
        fitted = self.n_tokens <= self._capacity
        if not (self._keeps and fitted):
            self.drop()
        self._keeps, self.n_tokens = fitted and self._capacity > 0, 0
        self._versions, self._norms = _versions(decoder), _norms(decoder) if self._keeps else []
        self._lengths[:] = 0
        self._starts.clear()
        self._found.clear()
        if self._keeps and not self._states:
            # Memory that nobody writes to is not taken from the machine.
            self._states = [
                torch.empty(self._n_layers, self._capacity, width, dtype=dtype) for width, dtype in self._shapes[:-1]
            ]
            width, dtype = self._shapes[-1]
            self._last = torch.empty(self._capacity, width, dtype=dtype)

    def drop(self) -> None:
        """Forget everything and give the memory back."""
        self._keeps, self._states, self._last = False, [], torch.empty(0)
        self._lengths[:] = 0
        self._starts.clear()
        self._found.clear()

    # -- acting ------------------------------------------------------------------------------------------------------

    def claim(self, m: int) -> slice | None:
        """Rows for a pass of ``m`` tokens; ``None``: nothing is kept."""
        start = self.n_tokens
        self.n_tokens += m
        if self.n_tokens > self._capacity:
            self.drop()
        if not self._keeps:
            return None
        self._starts.append(start)
        return slice(start, start + m)

    def layers(self, rows: slice) -> list[KeptLayer]:
        """Where a pass writes what it computes in each layer."""
        return [
            KeptLayer(*layer) for layer in zip(*(states[:, rows].unbind(0) for states in self._states), strict=True)
        ]

    def keep_last(self, rows: slice, stream: torch.Tensor) -> None:
        """Keep the residual stream ``(m, H)`` after the last layer."""
        self._last[rows] = stream

    def note(self, feed: Feed, slots: IntArray) -> None:
        """Note which transcripts the tokens of a step belong to; ``slots`` ``(n_rows,)`` are those of the rows."""
        if not self._keeps:
            return
        longest = int(feed.lengths.max())
        if longest > self._rows.shape[1]:
            more = ((0, 0), (0, longest))
            self._rows, self._ids = np.pad(self._rows, more), np.pad(self._ids, more)
        for joined in feed.joined:
            copied = slice(joined.length)
            self._rows[joined.slot, copied] = self._rows[joined.holder, copied]
            self._ids[joined.slot, copied] = self._ids[joined.holder, copied]
        n = len(feed.singles)
        column = feed.lengths - 1
        for (singles, blocks), start in zip(feed.in_passes(), self._starts, strict=True):
            at = start + len(singles)
            if len(singles):
                self._rows[slots[:n], column[:n]] = np.arange(start, at)
                self._ids[slots[:n], column[:n]] = singles
            for block in blocks:
                steps = np.arange(block.tokens.shape[1])
                taken = steps < block.counts[block.source][:, None]
                slot = np.broadcast_to(slots[block.rows][:, None], taken.shape)[taken]
                place = (block.seen[block.source][:, None] + steps)[taken]
                # A pass has the tokens of one sequence after those of the other.
                starts = at + np.cumsum(block.counts) - block.counts
                self._rows[slot, place] = (starts[block.source][:, None] + steps)[taken]
                self._ids[slot, place] = block.tokens[block.source][taken]
                at += int(block.counts.sum())
        self._lengths[slots] = feed.lengths
        self._starts.clear()

    def end(self, slots: npt.ArrayLike | None = None) -> None:
        """The transcripts of ``slots``, or of all, are whole: they can be found from now on."""
        for slot in np.flatnonzero(self._lengths) if slots is None else np.asarray(slots):
            length = self._lengths[slot]
            if length:
                rows = self._rows[slot, :length].copy()
                self._found.setdefault(_key(self._ids[slot, :length]), []).append(rows)
            self._lengths[slot] = 0

    # -- learning ----------------------------------------------------------------------------------------------------

    def are_of(self, decoder: Decoder) -> bool:
        """Whether anything is kept, and was computed with the weights as they are now."""
        if not self._keeps or not self.n_tokens or self._versions != _versions(decoder):
            return False
        # Autograd does not count what fused optimisers do, nor changes of ``.data``.
        return self._norms == _norms(decoder)

    def find(
        self,
        decoder: Decoder,
        prompt_ids: torch.Tensor,
        prompt_lengths: torch.Tensor,
        response_ids: torch.Tensor,
        response_mask: torch.Tensor,
        prompt_index: torch.Tensor,
    ) -> tuple[Packing, KeptPass] | None:
        """A pass over responses, and what is kept of its tokens; arguments are those of :func:`~.packing.pack`.

        ``None`` if a token is not kept, or the weights have changed.
        """
        if not self.are_of(decoder):
            return None
        self.end()
        texts = transcripts(prompt_ids, prompt_lengths, response_ids, response_mask, prompt_index)
        of_responses = self._rows_of(texts)
        if of_responses is None:
            return None
        # Prompts that were read as one are one: their responses share them. Of one that was copied from another slot
        # the last token was read once more, to the same numbers up to rounding.
        holders: dict[tuple[bytes, int, int], int] = {}
        lengths = prompt_lengths[prompt_index].tolist()
        same = [
            holders.setdefault((rows[: max(length - 1, 1)].tobytes(), length, int(tokens[length - 1])), row)
            for row, (rows, tokens, length) in enumerate(zip(of_responses, texts, lengths, strict=True))
        ]
        index = prompt_index[torch.tensor(same)]
        packing = pack(prompt_ids, prompt_lengths, response_ids, response_mask, index)
        assert packing.responses is not None
        starts = np.cumsum([0, *map(len, of_responses)])[packing.responses]
        return self._pass(packing, np.concatenate(of_responses)[starts + packing.positions.numpy()])

    def _rows_of(self, tokens: list[IntArray]) -> list[IntArray] | None:
        """Rows of each transcript; where one was played twice, each of the two has those of its own playing."""
        found, n_given = [], dict[bytes, int]()
        for transcript in tokens:
            key = _key(transcript)
            place = n_given.get(key, 0)
            rows = self._found.get(key, [])
            if place >= len(rows):
                return None
            found.append(rows[place])
            n_given[key] = place + 1
        return found

    def _pass(self, packing: Packing, rows: IntArray) -> tuple[Packing, KeptPass] | None:
        """The tokens of ``packing`` in the order in which they are kept; ``rows`` ``(n,)`` says where each is.

        ``None`` if two tokens have one row, which learning has to tell apart.
        """
        wanted = np.unique(rows)
        if len(wanted) < len(rows):
            return None
        if len(rows) >= _MOST * self.n_tokens:  # others get no gradient
            return packing.moved(rows, self.n_tokens), KeptPass(self, None)
        place = np.empty(self.n_tokens, dtype=np.int64)
        place[wanted] = np.arange(len(wanted))
        return packing.moved(place[rows], len(wanted)), KeptPass(self, torch.from_numpy(wanted))


class KeptPass:
    """Activations of the tokens of one pass of learning.

    Args:
        everything: Of all tokens.
        rows: ``(n,)`` int64. Those of the pass; ``None``: all that are kept.
    """

    def __init__(self, everything: Activations, rows: torch.Tensor | None) -> None:
        self._of, self._rows = everything, rows

    def layer(self, index: int) -> KeptLayer:
        """Those of a layer."""
        return KeptLayer(*(self._taken(states[index]) for states in self._of._states))

    @property
    def last(self) -> torch.Tensor:
        """``(n, H)``. The residual stream after the last layer."""
        return self._taken(self._of._last)

    def _taken(self, states: torch.Tensor) -> torch.Tensor:
        return states[: self._of.n_tokens] if self._rows is None else states.index_select(0, self._rows)


def _shapes(decoder: Decoder, wide: torch.dtype) -> list[tuple[int, torch.dtype]]:
    """Widths and precisions of a :class:`KeptLayer`; all layers have the same."""
    narrow, n_hidden = decoder.embedding.dtype, decoder.embedding.shape[1]
    queries, keys = decoder.n_heads * decoder.head_dim, decoder.n_key_heads * decoder.head_dim
    normed = [(n_hidden, narrow), (1, wide)]
    opened = 2 * len(decoder.layers[0].gate.weight)
    return [*normed, (queries + 2 * keys, wide), (queries, narrow), *normed, (opened, narrow)]


def _key(ids: IntArray) -> bytes:
    return ids.astype(np.int64, copy=False).tobytes()


def _versions(decoder: Decoder) -> list[tuple[int, int]]:
    """Where weights are, and how often they were written to; those made in inference mode are not counted."""
    return [(weight.data_ptr(), -1 if weight.is_inference() else weight._version) for weight in decoder.weights]


@torch.no_grad()
def _norms(decoder: Decoder) -> list[float]:
    """A number for each weight that its next version will hardly share."""
    precision = torch.promote_types(decoder.embedding.dtype, torch.float32)
    norms: list[float] = torch.stack(torch._foreach_norm(decoder.weights, 2, precision)).tolist()
    return norms
