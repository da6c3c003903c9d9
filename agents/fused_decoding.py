"""Decoding of the architectures that :mod:`llmgym.agents.architectures` reads, with few and large operations.

With a small model, or few slots, a token costs what its many small operations cost to start, not their arithmetic. Here
a layer is about 17 operations on buffers that are there already: matrices that are multiplied with the same states are
one, and hold the gain of the norm before them; the rotary embedding is a complex multiplication (the numbers of a head
are reordered so that its pairs lie next to each other, which no product of queries and keys notices); new keys are
written where they stay, and attention reads them where they lie. The first tokens of slots that restarted, and what an
environment wrote, go through the same products as the single tokens of the others.

The numbers are the model's own up to rounding, and in less than float32 they are rounded where
:mod:`llmgym.agents.fused_learning` rounds them. The layers' matrices are copies (not embedding and output layer), made
again when autograd's version of a weight has changed, and by :meth:`FusedDecoder.refresh`.

Not for GPUs, where starting an operation is what costs: see :mod:`llmgym.agents.static_decoding`. Not for learning: see
:mod:`llmgym.agents.fused_learning`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from llmgym.agents.activations import Activations, KeptLayer
from llmgym.agents.architectures import Decoder, DecoderLayer
from llmgym.agents.clocked_cache import ClockedCache
from llmgym.agents.slot_attention import BlockStep, SlotAttention
from llmgym.agents.slots import Block, Feed, IntArray

#: Positions in the first table of rotary angles; after that it doubles.
_FIRST_POSITIONS = 256


class _Layer(NamedTuple):
    """Matrices and biases of a layer as they are multiplied with and added.

    ``H`` hidden size, ``A = heads * head_dim``, ``I`` intermediate size. Of ``qkv``, queries and keys are in pairs.
    """

    qkv: torch.Tensor  # (H, A + 2 * key_heads * head_dim)
    qkv_bias: torch.Tensor | None
    qk_gain: torch.Tensor | None  # (heads + key_heads, head_dim), in pairs
    o: torch.Tensor  # (A, H)
    o_bias: torch.Tensor | None
    mlp: torch.Tensor  # (H, 2 * I), gate and up
    mlp_bias: torch.Tensor | None
    down: torch.Tensor  # (I, H)
    down_bias: torch.Tensor | None


class _Buffers(NamedTuple):
    """What a pass of ``m`` tokens writes to."""

    attention: SlotAttention
    qkv: torch.Tensor  # (m, A + 2 * key_heads * head_dim), the attention's
    normed: torch.Tensor  # (m, H)
    opened: torch.Tensor  # (m, 2 * I)


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
        self.cache = ClockedCache(len(decoder.layers), n_rows, decoder.n_key_heads, decoder.head_dim, self._wide)
        self.keeps = False
        self._layers: list[_Layer] = []
        self._buffers: dict[tuple[int, int], _Buffers] = {}
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
        self._root = torch.tensor(math.sqrt(decoder.epsilon), dtype=self._wide)
        self._angles = torch.empty(0)

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
            qk_gain = torch.cat([self._in_pairs(gain).expand(n, -1) for gain, n in heads])
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
        self.cache.open(int(feed.lengths.max()))
        passes = [self._pass(singles, blocks) for singles, blocks in feed.in_passes()]
        self.cache.close(feed.lengths)
        stream = passes[0] if len(passes) == 1 else torch.cat(passes)
        hidden = torch.empty_like(stream)
        self._normalise(stream, hidden)
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
        n, steps = len(singles), [BlockStep(self.cache, block) for block in blocks]
        tokens, positions, ends = singles, self.cache.lengths[:n], np.arange(n)
        for step in steps:
            ends = np.concatenate([ends, len(tokens) + step.ends])
            tokens = np.concatenate([tokens, step.tokens])
            positions = np.concatenate([positions, step.positions])
        stream = self._decoder.embedding.index_select(0, torch.from_numpy(tokens)).to(self._wide)
        buffers = self._buffers_for(len(tokens), n)
        kept = self.activations.claim(len(tokens)) if self.keeps else None
        buffers.attention.begin(self._angles_at(int(positions.max())), torch.from_numpy(positions), steps)
        places = [None] * len(self._layers) if kept is None else self.activations.layers(kept)
        for index, (layer, place) in enumerate(zip(self._layers, places, strict=True)):
            self._layer(stream, layer, index, buffers, place)
        if kept is not None:
            self.activations.keep_last(kept, stream)
        for step in steps:
            step.store()
        return stream[torch.from_numpy(ends)] if steps else stream

    def _layer(
        self, stream: torch.Tensor, layer: _Layer, index: int, buffers: _Buffers, kept: KeptLayer | None = None
    ) -> None:
        """Add what a layer has to say to the residual stream ``(m, H)``; ``kept`` is written to."""
        attention, qkv, before, opened = buffers
        after, before_root, after_root = before, None, None
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
        if layer.qk_gain is not None:
            turned = attention.qkv[:, : len(layer.qk_gain)]
            self._normalise(turned, turned)
            turned.mul_(layer.qk_gain)
        attention.attend(index)
        if kept is not None:
            kept.mixed.copy_(attention.outputs)
        _add_product(stream, attention.outputs, layer.o, layer.o_bias)
        self._normalise(stream, after, after_root)
        _multiply(after, layer.mlp, layer.mlp_bias, opened)
        gate, up = opened.chunk(2, dim=1)
        _add_product(stream, functional.silu(gate).mul_(up), layer.down, layer.down_bias)

    def _normalise(self, states: torch.Tensor, out: torch.Tensor, root: torch.Tensor | None = None) -> None:
        """``out = states / sqrt(mean(states^2) + epsilon)`` over the last axis.

        Args:
            states: ``(..., H)``.
            out: Is filled.
            root: ``(..., 1)``. Is filled with what ``states`` are divided by.
        """
        root = torch.linalg.vector_norm(states, dim=-1, keepdim=True, out=root).mul_(states.shape[-1] ** -0.5)
        torch.div(states, torch.hypot(root, self._root, out=root), out=out)

    def _buffers_for(self, m: int, n: int) -> _Buffers:
        """Buffers for ``m`` tokens, ``n`` of them singles; those of the last shape are kept."""
        if (m, n) not in self._buffers:
            decoder, first = self._decoder, self._layers[0]
            attention = SlotAttention(self.cache, m, n, decoder.n_heads)
            normed, opened = (first.mlp.new_empty(m, width) for width in first.mlp.shape)
            self._buffers = {(m, n): _Buffers(attention, attention.qkv.view(m, -1), normed, opened)}
        return self._buffers[m, n]

    def _angles_at(self, position: int) -> torch.Tensor:
        """``(P, 2, head_dim / 2)`` complex, ``P > position``: what queries, scaled, and keys are multiplied with."""
        if position >= len(self._angles):
            n = max(_FIRST_POSITIONS, 2 * len(self._angles), position + 1)
            everything = torch.arange(n)
            half = self._decoder.head_dim // 2
            turns = torch.complex(*(part[:, :half] for part in self._decoder.rotary(everything, self._wide)))
            self._angles = torch.stack([turns * self._decoder.scaling, turns], dim=1)
        return self._angles


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
