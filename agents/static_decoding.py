"""Decoding on a GPU: a step of fixed shapes, recorded once as a CUDA graph and replayed.

On a GPU the kernels of a decoding step take less time than Python takes to launch them. A CUDA graph launches all of
them at once, but repeats exactly what it recorded: the same shapes, at the same addresses. So the step here has its
sizes rounded up (rows, columns that attention reads), takes tokens and places from fixed buffers, and writes keys and
values where the places say. Rows that are only there to round the number up write to the column after their last one,
which belongs to nobody yet.

Prompts, and what an environment wrote, go through the model's own code; they store their keys and values in the same
cache (see :mod:`llmgym.agents.cache`).

Not for CPUs, which have no graphs and want the layout of :mod:`llmgym.agents.fused_decoding`; there the step runs
without being recorded, which the tests use.

Source: Ansel et al., "PyTorch 2", ASPLOS 2024, section 4.7 (CUDA graphs); the rounding is that of serving engines.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from llmgym.agents.architectures import Decoder, DecoderLayer
from llmgym.agents.module_decoding import ModuleDecoder
from llmgym.agents.slots import IntArray

#: Attention reads a multiple of so many columns: each number of them is a graph of its own.
_COLUMNS = 128

#: Up to here the number of rows is rounded up to a power of two, above to a multiple.
_ROWS = 64

#: Runs before a step is recorded: libraries allocate and choose their kernels in the first ones.
_WARM_UP = 3


class StaticDecoder(ModuleDecoder):
    """Feeds a known architecture token by token; see :class:`~llmgym.agents.slots.SlotDecoder`.

    Weights are read where the model has them: an optimiser that changes them in place, as autograd counts it, needs to
    tell nobody.

    Args:
        model: With attention that takes a 4-D mask.
        decoder: The same model's weights by their roles; with a head.
        n_rows: Transcripts held at once.
    """

    def __init__(self, model: PreTrainedModel, decoder: Decoder, n_rows: int) -> None:
        super().__init__(model, n_rows)
        self._decoder = decoder
        self._addresses = _addresses(decoder)
        self._steps: dict[tuple[int, int], _Step] = {}
        self._stored: list[tuple[torch.Tensor, torch.Tensor]] = []
        # One pool of memory for all graphs: a step's result is read before the next one overwrites it.
        self._pool = torch.cuda.graph_pool_handle() if decoder.embedding.is_cuda else None

    def reads(self, decoder: Decoder) -> bool:
        """Whether what was recorded reads these weights."""
        return self._addresses == _addresses(decoder)

    def _singles(self, tokens: IntArray) -> tuple[torch.Tensor, torch.Tensor]:
        n = len(tokens)
        n_rows = min(_rounded(n), self.cache.n_rows)
        columns = self.cache.lengths[:n_rows].copy()
        width = -(-(int(columns[:n].max()) + 1) // _COLUMNS) * _COLUMNS
        self._reserve(max(width, int(columns.max()) + 1))
        step = self._steps.get((n_rows, width))
        if step is None:
            step = self._steps[n_rows, width] = _Step(self._decoder, self._stored, n_rows, width, self._pool)
        self.cache.lengths[:n] += 1
        padded = np.zeros_like(columns)
        padded[:n] = tokens
        logits, hidden = step(torch.from_numpy(padded), torch.from_numpy(columns))
        return logits[:n], hidden[:n]

    def _reserve(self, width: int) -> None:
        """Room for ``width`` columns. What was recorded before the cache moved is of no use any more."""
        weight = self._decoder.layers[0].k.weight
        states = weight.new_empty(0, self._decoder.n_key_heads, 0, self._decoder.head_dim)
        for layer in self.cache.layers:
            if not layer.is_initialized:
                layer.lazy_initialization(states, states)
            layer.reserve(width)
        stored = [(layer.keys, layer.values) for layer in self.cache.layers]
        if not self._stored or stored[0][0] is not self._stored[0][0]:
            self._steps, self._stored = {}, stored


class _Step:
    """One token for each of the rows ``0..n_rows-1``, attending to ``width`` columns."""

    def __init__(
        self,
        decoder: Decoder,
        stored: list[tuple[torch.Tensor, torch.Tensor]],
        n_rows: int,
        width: int,
        pool: Any,
    ) -> None:
        device = decoder.embedding.device
        self._decoder, self._stored, self._pool = decoder, stored, pool
        self._tokens, self._columns = (torch.zeros(n_rows, dtype=torch.long, device=device) for _ in range(2))
        self._rows = torch.arange(n_rows, device=device)
        self._reach = torch.arange(width, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, tokens: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``(n_rows, V)`` and what the head was given, ``(n_rows, H)``; overwritten by the next call."""
        self._tokens.copy_(tokens, non_blocking=True)
        self._columns.copy_(columns, non_blocking=True)
        if self._tokens.device.type != "cuda":
            return self._run()
        if self._graph is None:
            self._record()
        assert self._graph is not None
        assert self._outputs is not None
        self._graph.replay()
        return self._outputs

    def _record(self) -> None:
        # It runs with the inputs of this step: what it writes now is what it writes when it is replayed.
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                self._run()
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=self._pool):
            self._outputs = self._run()

    def _run(self) -> tuple[torch.Tensor, torch.Tensor]:
        decoder = self._decoder
        size = decoder.embedding.shape[1:]
        stream = functional.embedding(self._tokens, decoder.embedding)
        rotary = tuple(part.unsqueeze(1) for part in decoder.rotary(self._columns, stream.dtype))
        visible = (self._reach <= self._columns.unsqueeze(1))[:, None, None]  # (n_rows, 1, 1, width)
        for layer, (keys, values) in zip(decoder.layers, self._stored, strict=True):
            normed = functional.rms_norm(stream, size, layer.input_norm, decoder.epsilon)
            queries = self._attended(layer, normed, rotary, keys, values, visible)
            stream = stream + layer.o(queries)
            normed = functional.rms_norm(stream, size, layer.post_norm, decoder.epsilon)
            stream = stream + layer.down(functional.silu(layer.gate(normed)) * layer.up(normed))
        hidden = functional.rms_norm(stream, size, decoder.norm, decoder.epsilon)
        assert decoder.head is not None
        return decoder.head(hidden), hidden

    def _attended(
        self,
        layer: DecoderLayer,
        normed: torch.Tensor,
        rotary: tuple[torch.Tensor, ...],
        keys: torch.Tensor,
        values: torch.Tensor,
        visible: torch.Tensor,
    ) -> torch.Tensor:
        """``(n_rows, heads * head_dim)``; the new keys and values are stored on the way."""
        decoder, n, width = self._decoder, len(normed), len(self._reach)
        heads = (normed.shape[0], -1, decoder.head_dim)
        queries, new_keys = layer.q(normed).view(heads), layer.k(normed).view(heads)
        if layer.q_norm is not None and layer.k_norm is not None:
            of_head = (decoder.head_dim,)
            queries = functional.rms_norm(queries, of_head, layer.q_norm, decoder.epsilon)
            new_keys = functional.rms_norm(new_keys, of_head, layer.k_norm, decoder.epsilon)
        keys[self._rows, :, self._columns] = _rotated(new_keys, rotary)
        values[self._rows, :, self._columns] = layer.v(normed).view(heads)
        attended = functional.scaled_dot_product_attention(
            _rotated(queries, rotary).unsqueeze(2),
            keys[:n, :, :width],
            values[:n, :, :width],
            attn_mask=visible,
            scale=decoder.scaling,
            enable_gqa=decoder.n_heads != decoder.n_key_heads,
        )
        return attended.reshape(n, -1)


def _rotated(heads: torch.Tensor, rotary: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The rotary embedding of ``(n, heads, head_dim)`` by cosines and sines ``(n, 1, head_dim)``."""
    cosines, sines = rotary
    first, second = heads.chunk(2, -1)
    return heads * cosines + torch.cat([-second, first], -1) * sines


def _addresses(decoder: Decoder) -> list[int]:
    """Where the weights are: a graph reads there, whatever has become of them."""
    tensors: list[torch.Tensor | None] = [decoder.embedding, decoder.norm, decoder.inverse_frequencies]
    linears = [decoder.head]
    for layer in decoder.layers:
        tensors += [layer.input_norm, layer.post_norm, layer.q_norm, layer.k_norm]
        linears += [layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down]
    tensors += [weight for linear in linears if linear is not None for weight in (linear.weight, linear.bias)]
    return [tensor.data_ptr() for tensor in tensors if tensor is not None]


def _rounded(n: int) -> int:
    return 1 << (n - 1).bit_length() if n <= _ROWS else -(-n // _ROWS) * _ROWS
