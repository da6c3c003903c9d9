"""Loops over numbers that no tensor operation writes well: compiled by numba for the processor they run on.

Attention of a decoding step is a product of one query with keys of another number in each row, and tensors have one
width: they read what no row needs, write scores to memory and read them again, and want a mask. Here each row's keys
and values are read once, as far as the row reaches. A norm is four operations on tensors, and one loop; so are the gate
of an MLP and the gradients of both.

Numbers are float32 or float64. Indices are unsigned where they are computed: numba looks whether signed ones are
negative, and then makes no vector instructions.

Not for GPUs. Nothing here is known to autograd. Callers: :mod:`llmgym.agents.slot_attention`,
:mod:`llmgym.agents.fused_decoding` and :mod:`llmgym.agents.fused_functions`, which shares them out among threads
(:mod:`llmgym.agents.threads`) and has the gradients.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import wraps
from pickle import UnpicklingError
from typing import Any

import llvmlite.ir
import numba
import numpy as np
from numba.core import cgutils
from numba.extending import intrinsic, overload

#: Positions of a tile, which softmax is made of at once. Keys and values of a head of a tile lie next to each other: a
#: CPU's prefetcher follows them, and fewer or more at once were slower.
TILE = 16

#: Bytes that a CPU's caches exchange at once.
_LINE = 64

_U = np.uint64

#: Sums may be made in any order, as vector instructions need it. Infinities and NaN are kept: they are how it is found
#: out that weights are no finite numbers any more.
_FAST = {"reassoc", "contract", "arcp", "nsz"}

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": _FAST}

#: Whether loops can ask for memory ahead: not where a debugger runs them as Python (``NUMBA_DISABLE_JIT=1``).
PREFETCHES = not numba.config.DISABLE_JIT

#: The score of what is not there. Where those of the first tile are all like it, weights are NaN.
_LOWEST = -np.inf


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compiled at its first call, and kept on disk for the next process where there is a place to write to."""
    try:
        kept = numba.njit(function, cache=True, **_OPTIONS)
    except RuntimeError:  # neither this folder nor one of the user's can be written to
        kept = numba.njit(function, **_OPTIONS)

    @wraps(function)
    def call(*arguments: Any) -> None:
        nonlocal kept
        try:
            kept(*arguments)
        except (OSError, EOFError, UnpicklingError) as error:  # of the files, before anything was computed
            warnings.warn(
                f"Compiled loops cannot be kept in, or taken from, the folder of numba's cache: {error!r}. They are "
                "compiled anew in each process. The environment variable NUMBA_CACHE_DIR names another folder.",
                RuntimeWarning,
                stacklevel=2,
            )
            kept = numba.njit(function, **_OPTIONS)
            kept(*arguments)

    return call


@intrinsic  # type: ignore[untyped-decorator]
def _float_of(context: Any, bits: Any) -> Any:
    """The float32 that has these 32 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], llvmlite.ir.FloatType())

    return numba.float32(numba.int32), generate


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(context: Any, array: Any, index: Any) -> Any:
    """Have the number at a flat index of a contiguous array brought to the second level of the CPU's caches."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        n_bytes = context.get_constant(signature.args[1], signature.args[0].dtype.bitwidth // 8)
        address = cgutils.pointer_add(builder, data, builder.mul(arguments[1], n_bytes), cgutils.voidptr_t)
        number = llvmlite.ir.IntType(32)
        kind = llvmlite.ir.FunctionType(llvmlite.ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # To be read; the second of the levels 3, 2, 1; data.
        builder.call(prefetch, [address, number(0), number(2), number(1)])
        return context.get_dummy_value()

    return numba.void(array, index), generate


def _exp(x: float) -> float:
    return math.exp(x)


@overload(_exp, inline="always")  # type: ignore[untyped-decorator]
def _exp_for(x: Any) -> Any:
    """``exp(x)``; in float32, for ``x <= 0``, of operations that there are vector instructions for, within 5 ulp.

    ``exp(x) = 2^k exp(r)`` with ``k`` whole and ``|r| <= log(2) / 2``; the second factor is a polynomial. Below -87,
    where float32 ends, it is ``exp(-87)``.

    Source: Moshier, Cephes mathematical library, ``expf`` (the coefficients, and ``log(2)`` as a sum of two numbers).
    """

    def exact(x: Any) -> Any:
        return math.exp(x)

    if x != numba.float32:
        return exact
    a, b, c, d, e, f = (
        np.float32(coefficient)
        for coefficient in (
            1.9875691500e-4,
            1.3981999507e-3,
            8.3334519073e-3,
            4.1665795894e-2,
            1.6666665459e-1,
            5.0000001201e-1,
        )
    )
    per_log2, log2_high, log2_low = np.float32(1 / math.log(2)), np.float32(0.693359375), np.float32(-2.12194440e-4)
    least, half, one = np.float32(-87), np.float32(0.5), np.float32(1)

    def exp(x: Any) -> Any:
        within = max(x, least)  # in this order NaN stays: a comparison with it is false
        k = np.int32(within * per_log2 - half)  # towards 0, so to the nearest
        r = within - np.float32(k) * log2_high - np.float32(k) * log2_low
        series = (((((a * r + b) * r + c) * r + d) * r + e) * r + f) * r * r + r + one
        return series * _float_of((k + np.int32(127)) << np.int32(23))

    return exp


@_compiled
def normalise(states: Any, epsilon: Any, out: Any, roots: Any) -> None:
    """``out = states / roots`` with ``roots = sqrt(mean(states^2) + epsilon)``, row by row.

    Args:
        states: ``(m, H)``.
        epsilon: A number of the same type.
        out: ``(m, H)``. Is filled.
        roots: ``(m, 1)``. Is filled.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019), equation 4.
    """
    m, width = states.shape
    one = out.dtype.type(1)
    for i in range(m):
        state = states[i]
        squares = out.dtype.type(0)
        for c in range(_U(width)):
            squares += state[c] * state[c]
        root = math.sqrt(squares / out.dtype.type(width) + epsilon)
        roots[i, 0] = root
        inverse = one / root
        normed = out[i]
        for c in range(_U(width)):
            normed[c] = state[c] * inverse


@_compiled
def normalise_backward(grad: Any, unit: Any, scale: Any, plus: Any, out: Any) -> None:
    """The gradient of ``x`` where ``unit = x * scale`` and ``1 / scale^2 = mean(x^2) + epsilon``, row by row.

    ``out = scale * (grad - unit * mean(grad * unit)) + plus``

    Args:
        grad: ``(m, H)``. Of the unit.
        unit: ``(m, H)``.
        scale: ``(m, 1)``.
        plus: ``(m, H)``; ``None``: nothing.
        out: ``(m, H)``. Is filled.
    """
    m, width = grad.shape
    for i in range(m):
        of_unit, normed, into = grad[i], unit[i], out[i]
        product = out.dtype.type(0)
        for c in range(_U(width)):
            product += of_unit[c] * normed[c]
        mean = product / out.dtype.type(width)
        factor = scale[i, 0]
        if plus is None:
            for c in range(_U(width)):
                into[c] = factor * (of_unit[c] - normed[c] * mean)
        else:
            more = plus[i]
            for c in range(_U(width)):
                into[c] = factor * (of_unit[c] - normed[c] * mean) + more[c]


@_compiled
def gate(opened: Any, out: Any) -> None:
    """``out = silu(gate) * up``, the middle of an MLP; in float32 the sigmoid is at least ``exp(-87)``.

    Args:
        opened: ``(m, 2 * I)``. Gate and up.
        out: ``(m, I)``. Is filled.

    Source: Shazeer, "GLU Variants Improve Transformer" (2020), equation 6.
    """
    m, width = out.shape
    one = out.dtype.type(1)
    for i in range(m):
        both, into = opened[i], out[i]
        for c in range(_U(width)):
            x = both[c]
            small = _exp(-abs(x))
            sigmoid = (one if x >= 0 else small) / (one + small)
            into[c] = x * sigmoid * both[_U(width) + c]


@_compiled
def gate_backward(opened: Any, grad: Any, product: Any, dopened: Any) -> None:
    """The gradient of :func:`gate`'s input, and its result once more.

    Args:
        opened: ``(m, 2 * I)``. Gate and up.
        grad: ``(m, I)``. Of the result.
        product: ``(m, I)``. Is filled with the result.
        dopened: ``(m, 2 * I)``. Is filled with the gradient.
    """
    m, width = grad.shape
    one = grad.dtype.type(1)
    for i in range(m):
        both, of_product, into, into_both = opened[i], grad[i], product[i], dopened[i]
        for c in range(_U(width)):
            x, up, slope = both[c], both[_U(width) + c], of_product[c]
            small = _exp(-abs(x))
            sigmoid = (one if x >= 0 else small) / (one + small)
            activated = x * sigmoid
            into[c] = activated * up
            into_both[_U(width) + c] = slope * activated
            into_both[c] = slope * up * (sigmoid + activated * (one - sigmoid))


@numba.njit(**_OPTIONS)  # type: ignore[untyped-decorator]
def _enter(qkv: Any, gains: Any, epsilon: Any, turns: Any, tile: Any, lane: Any, turned: Any) -> None:
    """One token: its queries and keys, normalised and turned, to ``turned``; keys and values to its tile."""
    n_heads, head_dim = turned.shape
    n_key_heads = tile.shape[0]
    size, heads, key_heads = _U(head_dim), _U(n_heads - n_key_heads), _U(n_key_heads)
    for j in range(heads + key_heads):
        state, into, angles = qkv[j], turned[j], turns[_U(0) if j < heads else _U(1)]
        if gains is not None:
            gain = gains[j]
            squares = turned.dtype.type(0)
            for c in range(size):
                squares += state[c] * state[c]
            root = math.sqrt(squares / turned.dtype.type(head_dim) + epsilon)
        for pair in range(size // _U(2)):
            even, odd = _U(2) * pair, _U(2) * pair + _U(1)
            real, imaginary = state[even], state[odd]
            if gains is not None:
                real *= gain[even] / root
                imaginary *= gain[odd] / root
            cosine, sine = angles[even], angles[odd]
            into[even] = real * cosine - imaginary * sine
            into[odd] = real * sine + imaginary * cosine
    for k in range(key_heads):
        keys, values = tile[k, _U(0)], tile[k, _U(1)]
        key, value = turned[heads + k], qkv[heads + key_heads + k]
        for c in range(size):
            keys[lane, c] = key[c]
            values[lane, c] = value[c]


@_compiled
def enter(
    qkv: Any, gains: Any, epsilon: Any, turns: Any, places: Any, positions: Any, states: Any, turned: Any
) -> None:
    """Enter tokens into the cache; for the arguments see :func:`attend`.

    ``turned`` ``(m, heads + K, head_dim)`` is filled with their queries and keys.
    """
    for i in range(_U(len(qkv))):
        place, position = _U(places[i]), _U(positions[i])
        newest, lane = position // _U(TILE), position % _U(TILE)
        _enter(qkv[i], gains, epsilon, turns[position], states[place, newest], lane, turned[i])


@_compiled
def attend(
    qkv: Any, gains: Any, epsilon: Any, turns: Any, places: Any, positions: Any, states: Any, far: Any, out: Any
) -> None:
    """Enter tokens into the cache one after the other, and let each attend to what its row holds by then.

    A token's query and key are normalised (if there are gains) and turned by its position; key and value are written to
    where they stay. Softmax is made tile by tile, with the highest score so far.

    Args:
        qkv: ``(m, heads + 2 * K, head_dim)``. Queries, keys and values; pairs that are turned are neighbours.
        gains: ``(heads + K, head_dim)``. Of the norms of queries and keys; ``None``: they are not normalised.
        epsilon: Of these norms, a number of the type of ``qkv``.
        turns: ``(P, 2, head_dim)``. Cosine and sine for each pair at each position: of queries, scaled, and of keys.
        places: ``(m,)`` int64. The place of each token's row in the cache.
        positions: ``(m,)`` int64. Of a row's tokens in rising order.
        states: ``(places, tiles, K, 2, TILE, head_dim)``. The cache of a layer: keys and values.
        far: Whether what is read comes from memory rather than from the CPU's own caches. It is then asked for a tile
            ahead, a little at a time: otherwise reading and computing take turns.
        out: ``(m, heads, head_dim)``. Is filled.

    Source: Vaswani et al., "Attention Is All You Need" (2017), equation 1; Milakov and Gimelshein, "Online normalizer
    calculation for softmax" (2018), algorithm 3.
    """
    m, n_heads, head_dim = out.shape
    n_key_heads = states.shape[2]
    heads, key_heads, size = _U(n_heads), _U(n_key_heads), _U(head_dim)
    zero, one, lowest = out.dtype.type(0), out.dtype.type(1), out.dtype.type(_LOWEST)
    turned = np.empty((n_heads + n_key_heads, head_dim), out.dtype)
    mixed = np.empty((n_heads, head_dim), out.dtype)  # of each head: values by their weights so far
    highest = np.empty(n_heads, out.dtype)  # of each head: the highest score so far
    total = np.empty(n_heads, out.dtype)  # of each head: the sum of weights so far
    weights = np.empty(TILE, out.dtype)
    a_line = _U(_LINE // out.itemsize)
    lines = (size + a_line - _U(1)) // a_line if far else _U(0)  # of a head's key or value
    for i in range(_U(m)):
        place, position = _U(places[i]), _U(positions[i])
        newest, lane = position // _U(TILE), position % _U(TILE)

        _enter(qkv[i], gains, epsilon, turns[position], states[place, newest], lane, turned)

        for h in range(heads):
            answer = mixed[h]
            for c in range(size):
                answer[c] = zero
            highest[h], total[h] = lowest, zero
        for tile in range(newest + _U(1)):
            live = _U(TILE) if tile < newest else lane + _U(1)
            for h in range(heads):
                of = h // (heads // key_heads)
                keys, values = states[place, tile, of, _U(0)], states[place, tile, of, _U(1)]
                if tile < newest:
                    next_place, next_tile = place, tile + _U(1)
                else:
                    next_place, next_tile = _U(places[min(i + _U(1), _U(m) - _U(1))]), _U(0)
                next_keys = states[next_place, next_tile, of, _U(0)]
                next_values = states[next_place, next_tile, of, _U(1)]
                query, answer = turned[h], mixed[h]
                for p in range(live):
                    score = zero
                    for c in range(size):
                        score += query[c] * keys[p, c]
                    weights[p] = score
                    for line in range(lines):
                        _prefetch(next_keys, p * size + line * a_line)
                for p in range(live, _U(TILE)):
                    weights[p] = lowest
                top = highest[h]
                for p in range(_U(TILE)):
                    top = max(top, weights[p])
                shrunk = _exp(highest[h] - top)
                here = zero
                for p in range(_U(TILE)):
                    weight = _exp(weights[p] - top)
                    weights[p] = weight
                    here += weight
                highest[h], total[h] = top, total[h] * shrunk + here
                for c in range(size):
                    answer[c] *= shrunk
                for p in range(live):
                    weight = weights[p]
                    for c in range(size):
                        answer[c] += weight * values[p, c]
                    for line in range(lines):
                        _prefetch(next_values, p * size + line * a_line)
        for h in range(heads):
            inverse, answer, given = one / total[h], mixed[h], out[i, h]
            for c in range(size):
                given[c] = answer[c] * inverse
