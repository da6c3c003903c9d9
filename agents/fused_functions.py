"""The parts of a decoder's layer with gradients written by hand: fewer passes over memory than a tower of modules.

Each is an ``autograd.Function`` that keeps what its backward pass reads and nothing else, multiplies by matrices that
belong together at once, and gives the gradients of the model's own parameters. Between the two halves of a layer stands
attention, whichever is best for the device. ``n`` tokens stand in one row, without padding.

The gain of an RMS norm is multiplied into the matrix after it, ``W (g * x) = (W diag(g)) x``: its gradient then takes a
pass over weights in place of one over tokens.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from llmgym.agents import kernels, threads
from llmgym.agents.activations import KeptLayer
from llmgym.agents.packing import Bucket

Tensor = torch.Tensor

#: Tokens whose activations in one layer stay in the caches of a CPU.
_STRETCH = 1024


class Heads(NamedTuple):
    """How attention's heads divide a row: ``n_heads`` queries, ``n_key_heads`` keys and values, ``head_dim`` each."""

    n_heads: int
    n_key_heads: int
    head_dim: int

    @property
    def widths(self) -> tuple[int, int, int]:
        """Numbers in a token's queries, keys and values."""
        return self.n_heads * self.head_dim, self.n_key_heads * self.head_dim, self.n_key_heads * self.head_dim

    def split(self, flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views ``(n, heads, head_dim)`` of the queries, keys and values in ``(n, width)``."""
        queries, keys, values = flat.split_with_sizes(self.widths, dim=1)
        d = self.head_dim
        return queries.unflatten(1, (-1, d)), keys.unflatten(1, (-1, d)), values.unflatten(1, (-1, d))

    def as_complex(self, flat: Tensor) -> Tensor:
        """A complex view ``(n, heads + key_heads, head_dim / 2)`` of paired queries and keys in ``(n, width)``."""
        pairs = flat[:, : -self.widths[2]].unflatten(1, (-1, self.head_dim // 2, 2))
        return torch.view_as_complex(pairs)

    def paired(self, rows: Tensor) -> Tensor:
        """``(heads * head_dim, ...)`` with ``i`` and ``i + head_dim / 2`` of each head side by side: a rotary pair."""
        pairs: Tensor = rows.unflatten(0, (-1, 2, self.head_dim // 2))
        return pairs.transpose(1, 2).reshape(rows.shape)

    def unpaired(self, rows: Tensor) -> Tensor:
        """The inverse of :meth:`paired`."""
        pairs: Tensor = rows.unflatten(0, (-1, self.head_dim // 2, 2))
        return pairs.transpose(1, 2).reshape(rows.shape)


class RMSNorm(Function):
    """``x / rms(x) * gain`` in the gain's precision."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
        unit, scale = normalised(x, epsilon)
        ctx.save_for_backward(unit, scale, gain)
        return (unit * gain).to(gain.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, scale, gain = ctx.saved_tensors
        grad = grad.to(unit.dtype)
        return normalised_backward(grad * gain, unit, scale), (grad * unit).sum(0).to(gain.dtype), None


class BeforeAttention(Function):
    """Norm, queries, keys and values, rotary embedding: for each bucket ``(b, T, heads, head_dim)`` queries and
    ``(b, K, 2, key_heads, head_dim)`` keys and values, in the order of :class:`~llmgym.agents.packing.Bucket`.

    Queries and keys come with the numbers of a head in another order, :meth:`Heads.paired`: products of the two are
    the same in any. With ``kept``, what acting computed, nothing but the rotation is left to do.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor,
        q_gain: Tensor | None,
        k_gain: Tensor | None,
        turns: Tensor,
        geometry: tuple[Heads, float, Sequence[Bucket]],
        kept: KeptLayer | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_bias: Tensor | None,
        k_bias: Tensor | None,
        v_bias: Tensor | None,
    ) -> tuple[Tensor, ...]:
        heads, epsilon, buckets = geometry
        if kept is None:
            unit, scale = normalised(x, epsilon)
            unit = unit.to(gain.dtype)
            weight = torch.cat([heads.paired(q), heads.paired(k), v]) * gain
            flat = torch.mm(unit, weight.t())
            if q_bias is not None and k_bias is not None and v_bias is not None:
                flat += torch.cat([heads.paired(q_bias), heads.paired(k_bias), v_bias])
            flat = flat.to(x.dtype)
        else:
            unit, scale, flat = kept.before, kept.before_root.reciprocal(), kept.qkv.clone()
        queries, keys, _ = heads.split(flat)
        normed: tuple[Tensor, ...] = ()
        if q_gain is not None and k_gain is not None:
            normed = (*normalised(queries, epsilon), *normalised(keys, epsilon))
            torch.mul(normed[0], heads.paired(q_gain), out=queries)
            torch.mul(normed[2], heads.paired(k_gain), out=keys)
        heads.as_complex(flat).mul_(turns)
        ctx.save_for_backward(unit, scale, gain, turns, q, k, v, q_gain, k_gain, *normed)
        ctx.geometry, ctx.with_bias = geometry, q_bias is not None
        return tuple(part for bucket in buckets for part in gathered(flat, heads, bucket))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (unit, scale, gain, turns, q, k, v, q_gain, k_gain, *normed) = ctx.saved_tensors
        heads, _, buckets = ctx.geometry
        flat = scattered(grads, len(unit), heads, buckets)
        heads.as_complex(flat).mul_(turns.conj())
        dq_gain = dk_gain = None
        if normed:
            queries, keys, _ = heads.split(flat)
            q_unit, q_scale, k_unit, k_scale = normed
            dq_gain, dk_gain = (
                heads.unpaired((queries * q_unit).sum((0, 1))),
                heads.unpaired((keys * k_unit).sum((0, 1))),
            )
            queries.copy_(normalised_backward(queries * heads.paired(q_gain), q_unit, q_scale))
            keys.copy_(normalised_backward(keys * heads.paired(k_gain), k_unit, k_scale))
        flat = flat.to(gain.dtype)
        # Made again: kept for all layers, it would be most of the model once more.
        weight = torch.cat([heads.paired(q), heads.paired(k), v]) * gain
        grad, dx = weight.new_zeros(weight.shape), torch.empty_like(unit, dtype=scale.dtype)
        for part in stretches(flat):
            grad.addmm_(flat[part].t(), unit[part])
            grad_of_unit = torch.mm(flat[part], weight).to(dx.dtype)
            normalised_backward(grad_of_unit, unit[part], scale[part], out=dx[part])
        dq, dk, dv = grad.split_with_sizes(heads.widths)
        dweights, dgain = folded_backward((heads.unpaired(dq), heads.unpaired(dk), dv.clone()), gain, (q, k, v))
        dbiases: tuple[Tensor | None, ...] = (None, None, None)
        if ctx.with_bias:
            dq, dk, dv = flat.sum(0).split_with_sizes(heads.widths)
            dbiases = (heads.unpaired(dq), heads.unpaired(dk), dv)
        return (dx, dgain, dq_gain, dk_gain, None, None, None, *dweights, *dbiases)


def gathered(flat: Tensor, heads: Heads, bucket: Bucket) -> tuple[Tensor, Tensor]:
    """Queries ``(b, T, heads, d)``, and keys and values ``(b, K, 2, key_heads, d)``, of a bucket's sequences.

    Args:
        flat: ``(n, width)``. Queries, keys and values of the packed tokens.
        heads: What is where in a row.
        bucket: Which sequences.
    """
    width = heads.widths[0]
    own = flat[bucket.rows] if bucket.places is None else flat.index_select(0, bucket.places)
    queries, keys = own[:, :width], own[:, width:]
    if bucket.keys is not None:
        keys = flat[:, width:].index_select(0, bucket.keys)
    return (
        queries.view(*bucket.shape, heads.n_heads, heads.head_dim),
        keys.view(bucket.shape[0], -1, 2, heads.n_key_heads, heads.head_dim),
    )


def scattered(grads: Sequence[Tensor], n: int, heads: Heads, buckets: Sequence[Bucket]) -> Tensor:
    """``(n, width)``: the gradient of :func:`gathered`'s ``flat`` from those of what it gave for all buckets."""
    width = heads.widths[0]
    flat = grads[0].new_zeros(n, sum(heads.widths))
    # Apart, since adding to chosen rows is quick where they lie close together.
    keys = grads[0].new_zeros(n, flat.shape[1] - width)
    for bucket, of_queries, of_keys in zip(buckets, grads[::2], grads[1::2], strict=True):
        of_queries, of_keys = of_queries.reshape(-1, width), of_keys.reshape(-1, keys.shape[1])
        rows = of_queries if bucket.inverse is None else of_queries.index_select(0, bucket.inverse)
        flat[bucket.rows, :width] = rows
        if bucket.keys is not None:  # those of prompts come once for each response
            keys.index_add_(0, bucket.keys, of_keys)
        else:
            keys[bucket.rows] += of_keys if bucket.inverse is None else of_keys.index_select(0, bucket.inverse)
    flat[:, width:] = keys
    return flat


def joined(attended: Sequence[Tensor], buckets: Sequence[Bucket]) -> Tensor:
    """``(n, heads * d)`` from what the buckets' attention gave, ``(b, T, heads, d)`` each."""
    parts = [
        part.flatten(2).flatten(0, 1)
        if bucket.inverse is None
        else part.flatten(2).flatten(0, 1).index_select(0, bucket.inverse)
        for part, bucket in zip(attended, buckets, strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def rows_of(states: Tensor, wanted: Tensor | None) -> Tensor:
    """Rows ``wanted`` of ``states``; ``None``: all."""
    return states if wanted is None else states.index_select(0, wanted)


class ShortAttention(Function):
    """Attention as plain matrix products, which on a CPU are quicker than fused kernels where sequences are short.

    Queries ``(b, T, heads, d)``, keys and values ``(b, K, 2, key_heads, d)`` and a mask ``(1 or b, 1, T, K)``, added to
    the scores, give ``(b, T, heads, d)``, or anything of that shape where it is not ``wanted``. The weights are kept
    for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys_and_values: Tensor, mask: Tensor, wanted: bool) -> Tensor:
        b, t, n_heads, d = queries.shape
        width, n_key_heads = keys_and_values.shape[1], keys_and_values.shape[3]
        q = torch.empty(b, n_heads, t, d, dtype=queries.dtype, device=queries.device)
        torch.mul(queries.transpose(1, 2), d**-0.5, out=q)
        # Heads that share keys are further query rows.
        q = q.view(b * n_key_heads, -1, d)
        k, v = (part.reshape(b * n_key_heads, width, d) for part in keys_and_values.transpose(1, 3).unbind(2))
        scores = torch.bmm(q, k.transpose(1, 2))
        scores.view(b, n_heads, t, width).add_(mask)
        weights = scores.softmax(-1)
        ctx.save_for_backward(q, k, v, weights)
        attended = torch.bmm(weights, v) if wanted else torch.empty_like(q)
        return attended.view(b, n_heads, t, d).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        b, t, n_heads, d = grad.shape
        width, n_key_heads = k.shape[1], len(k) // b
        grad = grad.transpose(1, 2).reshape(q.shape)
        dweights = torch.bmm(grad, v.transpose(1, 2))
        dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
        dkv = torch.empty(b, width, 2, n_key_heads, d, dtype=k.dtype, device=k.device)
        dkv[:, :, 0] = torch.bmm(dscores.transpose(1, 2), q).view(b, n_key_heads, width, d).transpose(1, 2)
        dkv[:, :, 1] = torch.bmm(weights.transpose(1, 2), grad).view(b, n_key_heads, width, d).transpose(1, 2)
        dq = torch.bmm(dscores, k).mul_(d**-0.5).view(b, n_heads, t, d)
        return dq.transpose(1, 2), dkv, None, None


class AfterAttention(Function):
    """``y = x + o(attended)``, then ``y + down(silu(gate(norm(y))) * up(norm(y)))``.

    ``attended`` comes as ``(b, T, heads, head_dim)`` for each bucket. Where not all rows are ``wanted``, only these are
    computed. With ``kept``, what acting computed, nothing is left to do, and ``last`` is the result: ``None`` where
    nobody reads it, which is then anything.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor,
        geometry: tuple[float, Sequence[Bucket], Tensor | None],
        kept: KeptLayer | None,
        last: Tensor | None,
        o: Tensor,
        gate: Tensor,
        up: Tensor,
        down: Tensor,
        o_bias: Tensor | None,
        gate_bias: Tensor | None,
        up_bias: Tensor | None,
        down_bias: Tensor | None,
        *attended: Tensor,
    ) -> Tensor:
        epsilon, buckets, wanted = geometry
        if kept is None:
            mixed = rows_of(joined(attended, buckets), wanted).to(gain.dtype)
            y = added(rows_of(x, wanted), mixed, o)
            if o_bias is not None:
                y += o_bias
            unit, scale = normalised(y, epsilon)
            unit = unit.to(gain.dtype)
            weight = torch.cat([gate, up]) * gain
            both, out = unit.new_empty(len(unit), len(weight)), torch.empty_like(y)
            for part in stretches(unit):
                torch.mm(unit[part], weight.t(), out=both[part])
                if gate_bias is not None and up_bias is not None:
                    both[part] += torch.cat([gate_bias, up_bias])
                added(y[part], gated(both[part]), down, out=out[part])
            if down_bias is not None:
                out += down_bias
        else:
            states = (kept.mixed, kept.after, kept.after_root.reciprocal(), kept.opened)
            mixed, unit, scale, both = (rows_of(part, wanted) for part in states)
            if last is None:
                out = x.new_empty(len(unit), x.shape[1])
            else:
                out = last.clone() if wanted is None else rows_of(last, wanted)
        ctx.save_for_backward(mixed, unit, scale, gain, both, o, gate, up, down)
        ctx.n, ctx.geometry, ctx.attended = len(x), geometry, [(part.shape, part.dtype) for part in attended]
        ctx.biases = [bias is not None for bias in (o_bias, gate_bias, up_bias, down_bias)]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        mixed, unit, scale, gain, both, o, gate, up, down = ctx.saved_tensors
        weight = torch.cat([gate, up]) * gain
        of_both, ddown, do = (torch.zeros_like(matrix) for matrix in (weight, down, o))
        dbiases = [
            weight.new_zeros(len(matrix)) if has_bias else None
            for matrix, has_bias in zip((o, gate, up, down), ctx.biases, strict=True)
        ]
        dx, dmixed = torch.empty_like(dout), torch.empty_like(mixed)
        for part in stretches(unit):
            grad = dout[part].to(gain.dtype)
            product, dboth = gated_backward(both[part], torch.mm(grad, down))
            ddown.addmm_(grad.t(), product)
            of_both.addmm_(dboth.t(), unit[part])
            grad_of_unit = torch.mm(dboth, weight).to(dx.dtype)
            normalised_backward(grad_of_unit, unit[part], scale[part], plus=dout[part], out=dx[part])
            of_mixed = dx[part].to(gain.dtype)
            do.addmm_(of_mixed.t(), mixed[part])
            torch.mm(of_mixed, o, out=dmixed[part])
            of_biases = (of_mixed.sum(0), *dboth.sum(0).chunk(2), grad.sum(0)) if any(ctx.biases) else ()
            for dbias, more in zip(dbiases, of_biases, strict=False):
                if dbias is not None:
                    dbias += more
        dweights, dgain = folded_backward(of_both.chunk(2), gain, (gate, up))
        _, buckets, wanted = ctx.geometry
        if wanted is not None:
            dx, dmixed = (part.new_zeros(ctx.n, part.shape[1]).index_copy_(0, wanted, part) for part in (dx, dmixed))
        dattended = []
        for bucket, (shape, dtype) in zip(buckets, ctx.attended, strict=True):
            piece = dmixed[bucket.rows].to(dtype)
            if bucket.inverse is not None:  # no gradient at padding
                padded = piece.new_zeros(bucket.shape[0] * bucket.shape[1], piece.shape[1])
                piece = padded.index_copy_(0, bucket.inverse, piece)
            dattended.append(piece.view(shape))
        return (dx, dgain, None, None, None, do, *dweights, ddown, *dbiases, *dattended)


def stretches(tokens: Tensor) -> list[slice]:
    """Rows of ``tokens`` ``(n, H)`` that are computed together: on a CPU so many as stay in its caches.

    In half precision all: sums over stretches would be rounded in between.
    """
    n = len(tokens)
    at_once = _STRETCH if tokens.device.type == "cpu" and tokens.dtype.itemsize >= 4 else max(n, 1)
    return [slice(start, min(start + at_once, n)) for start in range(0, n, at_once)]


def gated(both: Tensor) -> Tensor:
    """``silu(gate) * up`` ``(n, I)`` of gate and up side by side ``(n, 2 * I)``."""
    if not _are_loopable(both):
        opened, raised = both.chunk(2, dim=1)
        return silu(opened).mul_(raised)
    product = both.new_empty(len(both), both.shape[1] // 2)
    _loop(kernels.gate, both, product)
    return product


def gated_backward(both: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`gated` gives, and the gradient of ``both`` from that of it, ``(n, I)``, which may be overwritten."""
    dboth = torch.empty_like(both)
    if not _are_loopable(both, grad):
        opened, raised = both.chunk(2, dim=1)
        activated, (dopened, draised) = silu(opened), dboth.chunk(2, dim=1)
        torch.mul(grad, activated, out=draised)
        torch.ops.aten.silu_backward.grad_input(grad.mul_(raised), opened, grad_input=dopened)
        return activated.mul_(raised), dboth
    product = torch.empty_like(grad)
    _loop(kernels.gate_backward, both, grad, product, dboth)
    return product, dboth


def normalised(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """``x / rms(x)`` over the last axis and the factor ``1 / rms(x)`` ``(..., 1)``; ``rms^2 = mean x^2 + epsilon``."""
    if _are_loopable(x):
        unit, root = torch.empty_like(x), x.new_empty(len(x), 1)
        _loop(kernels.normalise, x, epsilon, unit, root)
        return unit, root.reciprocal_()
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return x * scale, scale


def normalised_backward(
    grad: Tensor, unit: Tensor, scale: Tensor, plus: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """The gradient of ``x`` in :func:`normalised`, ``scale * (grad - unit * mean(grad * unit))``.

    Args:
        grad: ``(..., H)``. Of the unit; overwritten.
        unit: ``(..., H)``.
        scale: ``(..., 1)``.
        plus: ``(..., H)``. Added to the result.
        out: ``(..., H)``. Where the result is written to; ``None``: somewhere.
    """
    out = grad if out is None else out
    if _are_loopable(grad, unit, scale, out, *(() if plus is None else (plus,))):
        _loop(kernels.normalise_backward, grad, unit, scale, plus, out)
        return out
    mean = (grad * unit).mean(-1, keepdim=True)
    grad.addcmul_(unit, mean, value=-1)
    return torch.mul(grad, scale, out=out) if plus is None else torch.addcmul(plus, grad, scale, out=out)


def _are_loopable(*tensors: Tensor) -> bool:
    """Whether compiled loops can go through the rows: on a CPU, in a precision that they know, without gaps."""
    dtype = tensors[0].dtype
    return dtype in (torch.float32, torch.float64) and all(
        x.device.type == "cpu" and x.dtype == dtype and x.ndim == 2 and x.is_contiguous() for x in tensors
    )


def _loop(kernel: Callable[..., None], *arguments: Tensor | float | None) -> None:
    """Run a compiled loop over rows in as many threads as that is worth; the first argument is a tensor."""
    arrays = [x.detach().numpy() if isinstance(x, Tensor) else x for x in arguments]
    whole = [x for x in arrays if isinstance(x, np.ndarray)]
    given = [whole[0].dtype.type(x) if isinstance(x, float) else x for x in arrays]

    def work(part: slice) -> None:
        kernel(*(x[part] if isinstance(x, np.ndarray) else x for x in given))

    n_parts = threads.n_worth(sum(x.nbytes for x in whole))
    if n_parts < 2:
        kernel(*given)
    else:
        threads.run(threads.split(len(whole[0]), n_parts), work)


def folded_backward(grads: Sequence[Tensor], gain: Tensor, matrices: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Gradients of ``matrices`` and of ``gain`` from those of ``matrix * gain``, which are overwritten."""
    dgain = torch.stack([(grad * matrix).sum(0) for grad, matrix in zip(grads, matrices, strict=True)]).sum(0)
    return [grad.mul_(gain) for grad in grads], dgain


def added(x: Tensor, inputs: Tensor, matrix: Tensor, out: Tensor | None = None) -> Tensor:
    """``x + inputs matrix^T`` in the precision of ``x``, written to ``out`` if there is one."""
    if inputs.dtype == x.dtype:
        return torch.addmm(x, inputs, matrix.t(), out=out)
    return torch.add(x, torch.mm(inputs, matrix.t()), out=out)
