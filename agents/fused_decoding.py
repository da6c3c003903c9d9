"""Decoding of the architectures that :mod:`llmgym.agents.architectures` reads, with few and large operations.

With a small model, or few slots, a token costs what its many small operations cost to start, not their arithmetic. Here
a layer is nine operations on buffers that are there already: matrices that are multiplied with the same states are one,
and hold the gain of the norm before them; norms and attention are compiled loops (see :mod:`llmgym.agents.kernels`; the
numbers of a head are reordered so that the pairs that the rotary embedding turns lie next to each other, which no
product of queries and keys notices). The first tokens of slots that restarted, and what an environment wrote, go
through the same operations as the single tokens of the others.

The numbers are the model's own up to rounding, and in less than float32 they are rounded where
:mod:`llmgym.agents.fused_learning` rounds them. The layers' matrices are copies (not embedding and output layer), made
again when autograd's version of a weight has changed, and by :meth:`FusedDecoder.refresh`.

Not for GPUs, where starting an operation is what costs: see :mod:`llmgym.agents.static_decoding`. Not for learning: see
:mod:`llmgym.agents.fused_learning`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from llmgym.agents.activations import Activations, KeptLayer
from llmgym.agents.architectures import Decoder, DecoderLayer
from llmgym.agents.fused_functions import gated
from llmgym.agents.kernels import gate, normalise
from llmgym.agents.slot_attention import SlotAttention
from llmgym.agents.slots import Block, Feed, IntArray
from llmgym.agents.tiled_cache import TiledCache

#: Positions in the first table of rotary angles; after that it doubles.
_FIRST_POSITIONS = 256


class _Layer(NamedTuple):
    """Matrices and biases of a layer as they are multiplied with and added.

    ``H`` hidden size, ``A = heads * head_dim``, ``I`` intermediate size. Of ``qkv``, queries and keys are in pairs.
    """

    qkv: torch.Tensor  # (H, A + 2 * key_heads * head_dim)
    qkv_bias: torch.Tensor | None
    qk_gain: npt.NDArray[np.floating] | None  # (heads + key_heads, head_dim), in pairs
    o: torch.Tensor  # (A, H)
    o_bias: torch.Tensor | None
    mlp: torch.Tensor  # (H, 2 * I), gate and up
    mlp_bias: torch.Tensor | None
    down: torch.Tensor  # (I, H)
    down_bias: torch.Tensor | None


class _Buffers(NamedTuple):
    """What a pass of ``m`` tokens writes to; what attention reads and writes is also seen head by head."""

    qkv: torch.Tensor  # (m, A + 2 * key_heads * head_dim)
    qkv_heads: npt.NDArray[np.floating]  # (m, heads + 2 * key_heads, head_dim)
    mixed: torch.Tensor  # (m, A) what attention gives
    mixed_heads: npt.NDArray[np.floating]  # (m, heads, head_dim)
    normed: torch.Tensor  # (m, H)
    root: torch.Tensor  # (m, 1)
    opened: torch.Tensor  # (m, 2 * I)
    gated: torch.Tensor  # (m, I)


class FusedDecoder:
    """Feeds a decoder-only transformer token by token; see :class:`~llmgym.agents.slots.SlotDecoder`.

    Args:
        decoder: The model's weights by their roles; with a head.
        n_rows: Transcripts held at once.

    Attributes:
        keeps: Whether what the layers compute is kept.
        activations: What was kept last.
    """

    def __init__(self, decoder: Decoder, n_rows: int) -> None:
        weight = decoder.embedding
        # Where matrices are in less than float32, sums over many layers are not; nor is attention, as CPUs have it.
        self._wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self._number = np.float64 if self._wide == torch.float64 else np.float32
        self.cache = TiledCache(len(decoder.layers), n_rows, decoder.n_key_heads, decoder.head_dim, self._number)
        self.keeps = False
        self._layers: list[_Layer] = []
        self._buffers: _Buffers | None = None
        self._decoder = decoder
        self.activations = self._room(0)
        self.refresh(decoder)

    # -- weights -----------------------------------------------------------------------------------------------------

    def keep_activations(self, max_bytes: int) -> None:
        """Keep what is computed from now on, while :attr:`keeps` stays true; forget what was kept before."""
        if self.activations.max_bytes != max_bytes:
            self.activations = self._room(max_bytes)
        self.activations.begin(self._decoder)
        self.keeps = True

    def _room(self, max_bytes: int) -> Activations:
        n_rows = len(self.cache.lengths)
        return Activations(self._decoder, wide=self._wide, n_slots=n_rows, max_bytes=max_bytes)

    def fits(self, decoder: Decoder) -> bool:
        """Whether :meth:`refresh` may be given this decoder: it has the shape of the present one."""
        mine, theirs = (
            (d.embedding.shape, d.embedding.dtype, d.n_heads, d.n_key_heads, d.head_dim)
            + tuple(layer.gate.weight.shape for layer in d.layers)
            for d in (self._decoder, decoder)
        )
        return mine == theirs

    @property
    def version(self) -> int:
        """Of the weights that keys and values come from: another one after each change that autograd counts."""
        embedding = self._decoder.embedding
        return sum(self._counts()) + (0 if embedding.is_inference() else embedding._version)

    def _counts(self) -> list[int]:
        return [weight._version for weight in self._copied]

    @torch.inference_mode()
    def refresh(self, decoder: Decoder) -> None:
        """Take the weights anew."""
        self._decoder = decoder
        weights = [decoder.norm, *(weight for layer in decoder.layers for weight in layer.weights)]
        # Those made in inference mode have no versions.
        self._copied = [weight for weight in weights if not weight.is_inference()]
        self._prepare()

    def _prepare(self) -> None:
        decoder = self._decoder
        self._versions = self._counts()
        self._layers = [self._prepared(index, layer) for index, layer in enumerate(decoder.layers)]
        assert decoder.head is not None
        # Not a copy: with a large vocabulary it would be most of the model.
        self._head, self._head_bias = decoder.head.weight.detach().t(), decoder.head.bias
        self._gain = decoder.norm.detach()
        self._epsilon = self._number(decoder.epsilon)
        self._turns = np.empty((0, 2, decoder.head_dim), dtype=self._number)

    def _prepared(self, index: int, layer: DecoderLayer) -> _Layer:
        # New memory would cost more than what is written to it.
        before = self._layers[index] if self._layers else None
        qkv = [self._in_pairs(layer.q.weight), self._in_pairs(layer.k.weight), layer.v.weight]
        qkv_bias = _biases(layer.q, layer.k, layer.v)
        if qkv_bias is not None:
            n_turned = len(qkv_bias) - len(layer.v.weight)
            qkv_bias = torch.cat([self._in_pairs(qkv_bias[:n_turned]), qkv_bias[n_turned:]])
        qk_gain = None
        if layer.q_norm is not None and layer.k_norm is not None:
            heads = ((layer.q_norm, self._decoder.n_heads), (layer.k_norm, self._decoder.n_key_heads))
            gains = torch.cat([self._in_pairs(gain.detach()).expand(n, -1) for gain, n in heads])
            qk_gain = gains.to(self._wide).numpy()
        return _Layer(
            _side_by_side(before and before.qkv, qkv, layer.input_norm),
            qkv_bias,
            qk_gain,
            _side_by_side(before and before.o, [layer.o.weight]),
            _biases(layer.o),
            _side_by_side(before and before.mlp, [layer.gate.weight, layer.up.weight], layer.post_norm),
            _biases(layer.gate, layer.up),
            _side_by_side(before and before.down, [layer.down.weight]),
            _biases(layer.down),
        )

    def _in_pairs(self, weight: torch.Tensor) -> torch.Tensor:
        """Heads ``(n * head_dim, ...)`` reordered: numbers of the first and the second half by turns."""
        half = self._decoder.head_dim // 2
        return weight.view(-1, 2, half, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)

    # -- decoding ----------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def advance(self, feed: Feed) -> tuple[torch.Tensor, torch.Tensor]:
        """Read ``feed``; see :meth:`~llmgym.agents.slots.SlotDecoder.advance`."""
        if self._versions != self._counts():
            self._prepare()
        self.cache.reserve(int(feed.lengths.max()))
        passes = [self._pass(singles, blocks) for singles, blocks in feed.in_passes()]
        self.cache.lengths[: len(feed.lengths)] = feed.lengths
        stream = passes[0] if len(passes) == 1 else torch.cat(passes)
        hidden = torch.empty_like(stream)
        self._normalise(stream, hidden, stream.new_empty(len(stream), 1))
        hidden = hidden.mul_(self._gain).to(self._head.dtype)
        logits = hidden @ self._head
        if self._head_bias is not None:
            logits += self._head_bias
        if feed.index is None:
            return logits, hidden
        index = torch.from_numpy(feed.index)
        return logits[index], hidden[index]

    def _pass(self, singles: IntArray, blocks: list[Block]) -> torch.Tensor:
        """The residual stream ``(n, H)`` after the last layer: of singles and of the last token of each sequence."""
        n = len(singles)
        tokens, rows, positions, ends = [singles], [np.arange(n)], [self.cache.lengths[:n]], [np.arange(n)]
        m = n
        for block in blocks:
            steps, counts = np.arange(block.tokens.shape[1]), block.counts[:, None]
            taken = steps < counts
            tokens.append(block.tokens[taken])
            rows.append(np.repeat(block.readers, block.counts))
            positions.append((block.seen[:, None] + steps)[taken])
            ends.append(m + np.cumsum(block.counts) - 1)
            m += len(tokens[-1])
        of_tokens, of_positions = np.concatenate(tokens), np.concatenate(positions)
        stream = self._decoder.embedding.index_select(0, torch.from_numpy(of_tokens)).to(self._wide)
        buffers = self._buffers_for(m)
        kept = self.activations.claim(m) if self.keeps else None
        turns = self._turns_at(int(of_positions.max()))
        attention = SlotAttention(self.cache, turns, self._epsilon, np.concatenate(rows), of_positions)
        into = [None] * len(self._layers) if kept is None else self.activations.layers(kept)
        for index, (layer, of_layer) in enumerate(zip(self._layers, into, strict=True)):
            self._layer(stream, layer, index, attention, buffers, of_layer)
        if kept is not None:
            self.activations.keep_last(kept, stream)
        for block in blocks:
            if len(block.rows) > len(block.readers):
                self.cache.copy(block.readers[block.source], block.rows, int(block.counts.max()))
        return stream[torch.from_numpy(np.concatenate(ends))] if blocks else stream

    def _layer(
        self,
        stream: torch.Tensor,
        layer: _Layer,
        index: int,
        attention: SlotAttention,
        buffers: _Buffers,
        kept: KeptLayer | None,
    ) -> None:
        """Add what a layer has to say to the residual stream ``(m, H)``; ``kept`` is written to."""
        qkv, qkv_heads, mixed, mixed_heads, before, before_root, opened, product = buffers
        after, after_root = before, before_root
        if kept is not None:
            before, before_root, after, after_root, opened = (
                kept.before,
                kept.before_root,
                kept.after,
                kept.after_root,
                kept.opened,
            )
        self._normalise(stream, before, before_root)
        _multiply(before, layer.qkv, layer.qkv_bias, qkv)
        if kept is not None:
            kept.qkv.copy_(qkv)
        attention.attend(index, qkv_heads, layer.qk_gain, mixed_heads)
        if kept is not None:
            kept.mixed.copy_(mixed)
        _add_product(stream, mixed, layer.o, layer.o_bias)
        self._normalise(stream, after, after_root)
        _multiply(after, layer.mlp, layer.mlp_bias, opened)
        if opened.dtype == self._wide:
            gate(opened.numpy(), product.numpy())
        else:
            product = gated(opened)
        _add_product(stream, product, layer.down, layer.down_bias)

    def _normalise(self, states: torch.Tensor, out: torch.Tensor, root: torch.Tensor) -> None:
        """``out = states / root`` with ``root = sqrt(mean(states^2) + epsilon)`` over the last axis.

        Args:
            states: ``(m, H)``.
            out: Is filled.
            root: ``(m, 1)``. Is filled.
        """
        wide = out if out.dtype == self._wide else torch.empty_like(states)
        normalise(states.numpy(), self._epsilon, wide.numpy(), root.numpy())
        if wide is not out:
            out.copy_(wide)

    def _buffers_for(self, m: int) -> _Buffers:
        """Buffers for ``m`` tokens; the last ones, if they were for as many."""
        if self._buffers is None or len(self._buffers.qkv) != m:
            first = self._layers[0]
            widths = (first.qkv.shape[1], first.o.shape[0], 1)
            qkv, mixed, root = (torch.empty(m, width, dtype=self._wide) for width in widths)
            qkv_heads, mixed_heads = (heads.numpy().reshape(m, -1, self._decoder.head_dim) for heads in (qkv, mixed))
            normed, opened = (first.mlp.new_empty(m, width) for width in first.mlp.shape)
            product = opened.new_empty(m, len(first.down))
            self._buffers = _Buffers(qkv, qkv_heads, mixed, mixed_heads, normed, root, opened, product)
        return self._buffers

    def _turns_at(self, position: int) -> npt.NDArray[np.floating]:
        """``(P, 2, head_dim)``, ``P > position``: cosine and sine of each pair, of queries, scaled, and of keys."""
        if position >= len(self._turns):
            n = max(_FIRST_POSITIONS, 2 * len(self._turns), position + 1)
            half = self._decoder.head_dim // 2
            angles = [part[:, :half] for part in self._decoder.rotary(torch.arange(n), self._wide)]
            turns = torch.stack(angles, dim=2).flatten(1)
            self._turns = torch.stack([turns * self._decoder.scaling, turns], dim=1).numpy()
        return self._turns


def _multiply(states: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    if out.dtype == matrix.dtype:
        torch.mm(states, matrix, out=out)
        product = out
    else:
        product = torch.mm(states, matrix)
    if bias is not None:
        product += bias
    if product is not out:
        out.copy_(product)


def _add_product(stream: torch.Tensor, states: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None) -> None:
    if stream.dtype == matrix.dtype:
        stream.addmm_(states, matrix)
    else:
        stream += torch.mm(states.to(matrix.dtype), matrix)
    if bias is not None:
        stream += bias


def _side_by_side(
    matrix: torch.Tensor | None, weights: Sequence[torch.Tensor], gain: torch.Tensor | None = None
) -> torch.Tensor:
    """``(H, A + B + ...)`` from ``(A, H)``, ``(B, H)``, ...: what states with this gain are multiplied with.

    Transposed in memory too: with few rows a product takes longer otherwise, where matrices come from far.

    Args:
        matrix: Is written to; ``None``: memory of its own.
        weights: Of linear layers.
        gain: ``(H,)``; ``None``: ones.
    """
    if matrix is None:
        matrix = weights[0].new_empty(weights[0].shape[1], sum(map(len, weights)))
    for weight, place in zip(weights, torch.split(matrix, [len(weight) for weight in weights], dim=1), strict=True):
        if gain is None:
            place.copy_(weight.t())
        else:
            torch.mul(weight.t(), gain.unsqueeze(1), out=place)
    return matrix


def _biases(*linears: nn.Linear) -> torch.Tensor | None:
    """All biases one after the other; ``None`` where there is none."""
    if all(linear.bias is None for linear in linears):
        return None
    return torch.cat(
        [linear.weight.new_zeros(len(linear.weight)) if linear.bias is None else linear.bias for linear in linears]
    )
