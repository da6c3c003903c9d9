"""Compiled loops against the same sums in float64, written out in NumPy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pickle import UnpicklingError
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
numba = pytest.importorskip("numba")

from llmgym.agents import fused_functions, kernels, slot_attention, threads  # noqa: E402
from llmgym.agents.kernels import TILE, attend, gate, gate_backward, normalise, normalise_backward  # noqa: E402
from llmgym.agents.slot_attention import SlotAttention  # noqa: E402
from llmgym.agents.tiled_cache import TiledCache  # noqa: E402

Array = npt.NDArray[Any]

TOLERANCE = {np.float32: 2e-6, np.float64: 1e-14}


def turned(states: Array, turns: Array) -> Array:
    """Pairs of ``(..., head_dim)`` as complex numbers, times ``turns``."""
    pairs = (states[..., 0::2] + 1j * states[..., 1::2]) * (turns[..., 0::2] + 1j * turns[..., 1::2])
    return np.stack([pairs.real, pairs.imag], axis=-1).reshape(states.shape)


def normalised(states: Array, gain: Array, epsilon: float) -> Array:
    return states / np.sqrt((states**2).mean(axis=-1, keepdims=True) + epsilon) * gain


class Case:
    """Rows of given lengths that are given more tokens, and what these attend to, in float64."""

    def __init__(
        self,
        dtype: Any,
        held: list[int],
        counts: list[int],
        *,
        heads: int = 4,
        key_heads: int = 2,
        head_dim: int = 8,
        gains: bool = False,
        scale: float = 1.0,
    ) -> None:
        rng = np.random.default_rng(0)
        n, longest = len(held), max(h + c for h, c in zip(held, counts, strict=True))
        self.shape = (sum(counts), heads, head_dim)
        self.epsilon = dtype(1e-5)
        self.turns = rng.standard_normal((longest, 2, head_dim)).astype(dtype)
        self.gains = rng.standard_normal((heads + key_heads, head_dim)).astype(dtype) if gains else None
        self.rows = np.repeat(np.arange(n), counts)
        self.positions = np.concatenate([h + np.arange(c) for h, c in zip(held, counts, strict=True)])
        self.qkv = (scale * rng.standard_normal((sum(counts), heads + 2 * key_heads, head_dim))).astype(dtype)
        self.cache = TiledCache(1, n, key_heads, head_dim, dtype)
        self.cache.reserve(longest)
        self.cache._places[:] = rng.permutation(n)
        layer = self.cache.layers[0]
        layer[:] = np.nan  # what no row holds is not read
        keys, values = rng.standard_normal((2, n, longest, key_heads, head_dim)).astype(dtype)
        for row, place in enumerate(self.cache.places(np.arange(n))):
            for at in range(held[row]):
                layer[place, at // TILE, :, 0, at % TILE] = keys[row, at]
                layer[place, at // TILE, :, 1, at % TILE] = values[row, at]
        self.expected = self._expected(*(states.astype(np.float64) for states in (keys, values)))

    def _expected(self, keys: Array, values: Array) -> Array:
        _, heads, head_dim = self.shape
        key_heads = keys.shape[2]
        qkv = self.qkv.astype(np.float64)
        asked, new_keys, new_values = np.split(qkv, [heads, heads + key_heads], axis=1)
        if self.gains is not None:
            asked = normalised(asked, self.gains[:heads].astype(np.float64), float(self.epsilon))
            new_keys = normalised(new_keys, self.gains[heads:].astype(np.float64), float(self.epsilon))
        out = np.empty(self.shape)
        for i, (row, position) in enumerate(zip(self.rows, self.positions, strict=True)):
            angles = self.turns[position].astype(np.float64)
            keys[row, position], values[row, position] = turned(new_keys[i], angles[1]), new_values[i]
            for head in range(heads):
                of = head // (heads // key_heads)
                scores = keys[row, : position + 1, of] @ turned(asked[i, head], angles[0])
                weights = np.exp(scores - scores.max())
                out[i, head] = weights / weights.sum() @ values[row, : position + 1, of]
        return out

    def attention(self) -> SlotAttention:
        return SlotAttention(self.cache, self.turns, self.epsilon, self.rows, self.positions)

    def result(self) -> Array:
        out = np.full(self.shape, np.nan, dtype=self.qkv.dtype)
        self.attention().attend(0, self.qkv, self.gains, out)
        return out


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize(
    ("held", "counts"),
    [
        ([0], [1]),
        ([TILE - 1, TILE, TILE + 1, 2 * TILE - 1, 0], [1, 1, 1, 1, 1]),
        ([3, 40, 0, 17], [1, 1, 2 * TILE + 3, 5]),
    ],
)
def test_attention_of_single_tokens_and_of_several(
    dtype: Any, far: bool, held: list[int], counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_attention, "_NEAR_BYTES", 0 if far else 2**60)
    case = Case(dtype, held, counts)
    assert case.attention()._far == far
    assert np.abs(case.result() - case.expected).max() < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("heads", "key_heads", "head_dim"), [(1, 1, 2), (6, 3, 6), (4, 4, 32), (8, 1, 20), (2, 1, 128)]
)
@pytest.mark.parametrize("gains", [False, True])
def test_shapes_of_heads_and_norms_of_queries_and_keys(
    dtype: Any, heads: int, key_heads: int, head_dim: int, gains: bool
) -> None:
    case = Case(dtype, [20, 2], [1, 4], heads=heads, key_heads=key_heads, head_dim=head_dim, gains=gains)
    scores = head_dim * 3 if gains else head_dim  # their size, roughly, is what rounding is relative to
    assert np.abs(case.result() - case.expected).max() < TOLERANCE[dtype] * max(1, scores / 4)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("heads", "gains", "n_threads"), [(2, False, 1), (6, True, 1), (6, False, 3)])
def test_long_stretches_of_a_row_among_short_ones(
    dtype: Any,
    heads: int,
    gains: bool,
    n_threads: int,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(n_threads)
    monkeypatch.setattr(threads, "_BYTES_A_THREAD", 1)
    long = slot_attention._LONG
    case = Case(dtype, [3, 0, 8, 0, 20], [1, long, long - 1, long + 9, long + 5], heads=heads, gains=gains)
    attention = case.attention()
    assert [part.stop - part.start for part in attention._long] == [long, long + 9, long + 5]
    taken = sorted([*attention._parts, *attention._long], key=lambda part: part.start)
    assert [part.start for part in taken] == [0, *(part.stop for part in taken[:-1])]
    assert taken[-1].stop == len(case.rows)
    assert np.abs(case.result() - case.expected).max() < 4 * TOLERANCE[dtype]
    only = Case(dtype, [0], [long], heads=heads, gains=gains)
    assert not only.attention()._parts
    assert np.abs(only.result() - only.expected).max() < 4 * TOLERANCE[dtype]


def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    """Weights of 1 and 0, the highest score in any tile."""
    case = Case(np.float32, [50, 33, 70], [1, 3, 1], scale=300.0)
    assert np.isfinite(case.expected).all()
    assert np.abs(case.result() - case.expected).max() < 0.02 * np.abs(case.expected).max()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tokens", [1, 5, TILE, TILE + 3])
def test_no_score_is_too_low(dtype: Any, tokens: int) -> None:
    """Equal scores have equal weights, even where all are below what other softmaxes take for nothing."""
    case = Case(dtype, [0], [tokens], heads=1, key_heads=1, head_dim=2)
    case.turns[:] = [1, 0]  # of both
    case.qkv[:, 0], case.qkv[:, 1] = [1e15, 0], [-2e15, 0]
    means = np.cumsum(case.qkv[:, 2], axis=0) / np.arange(1, tokens + 1)[:, None]
    assert np.allclose(case.result()[:, 0], means, rtol=0, atol=4 * TOLERANCE[dtype])
    case.qkv[:, 0], case.qkv[:, 1] = [1e300, 0] if dtype is np.float64 else [1e25, 0], [-1e25, 0]
    case.qkv[:, 1] *= 1e10 if dtype is np.float64 else 1
    assert np.isnan(case.result()).all()  # all minus infinity


@pytest.mark.parametrize("which", ["query", "key", "value"])
def test_a_number_that_is_none_is_handed_on(which: str) -> None:
    case = Case(np.float32, [20, 3], [1, 1])
    case.qkv[0, {"query": 0, "key": 4, "value": 6}[which], 3] = np.nan
    out = case.result()
    assert np.isnan(out[0, 0]).any()
    assert np.isfinite(out[1]).all()


@pytest.mark.parametrize("n_threads", [2, 3, 7])
def test_threads_share_rows_out_and_change_nothing(n_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    held, counts = rng.integers(0, 60, 20).tolist(), ([1] * 15 + [30, 1, 7, 2, 1])
    alone = Case(np.float32, held, counts).result()
    monkeypatch.setattr(threads, "_BYTES_A_THREAD", 1)
    case, before = Case(np.float32, held, counts), torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        parts = case.attention()._parts
        assert 2 <= len(parts) <= n_threads  # a long row may be more than its share
        assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
        assert (parts[0].start, parts[-1].stop) == (0, len(case.rows))
        for part in parts[1:]:  # no row is taken by two
            assert case.rows[part.start] != case.rows[part.start - 1]
        assert (case.result() == alone).all()
    finally:
        torch.set_num_threads(before)


def test_one_row_is_not_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_BYTES_A_THREAD", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        case = Case(np.float32, [0], [90])
        assert case.attention()._parts == [slice(0, 90)]
        assert np.abs(case.result() - case.expected).max() < 2 * TOLERANCE[np.float32]
    finally:
        torch.set_num_threads(before)


def test_exp_in_float32_is_within_five_units_of_the_last_place() -> None:
    @numba.njit(**kernels._OPTIONS)  # it is compiled with those of its caller
    def each(x: Array, out: Array) -> None:
        for i in range(len(x)):
            out[i] = kernels._exp(x[i])

    x = np.concatenate([np.linspace(-87, 0, 200_001), -np.logspace(-30, 1, 1000)]).astype(np.float32)
    out = np.empty_like(x)
    each(x, out)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(out - exact) / np.spacing(exact.astype(np.float32))).max() < 5
    each(np.array([-1e30, -np.inf, 0.0, np.nan], dtype=np.float32), out[:4])
    assert out[0] == out[1] < 1.7e-38
    assert out[2] == 1
    assert np.isnan(out[3])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("width", [1, 5, 64])
def test_a_norm(dtype: Any, width: int) -> None:
    states = (3 * np.random.default_rng(2).standard_normal((7, width))).astype(dtype)
    states[3] = 0
    out, roots = np.empty_like(states), np.empty((7, 1), dtype=dtype)
    normalise(states, dtype(1e-5), out, roots)
    exact = np.sqrt((states.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-5)
    assert np.allclose(roots, exact, rtol=TOLERANCE[dtype], atol=0)
    assert np.allclose(out, states / exact, rtol=TOLERANCE[dtype], atol=0)


def exact_gradient(function: Any, states: Array, grad: Array) -> tuple[Array, Array]:
    """What torch gives and its gradient, in float64."""
    x = torch.from_numpy(states.astype(np.float64)).requires_grad_()
    result = function(x)
    (gradient,) = torch.autograd.grad(result, x, torch.from_numpy(grad.astype(np.float64)))
    return result.detach().numpy(), gradient.numpy()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("with_more", [False, True])
def test_gradient_of_a_norm(dtype: Any, with_more: bool) -> None:
    rng = np.random.default_rng(3)
    states, grad, more = rng.standard_normal((3, 7, 13)).astype(dtype)
    unit, gradient = exact_gradient(lambda x: torch.rms_norm(x, (13,), eps=1e-5), states, grad)
    scale = ((states.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-5) ** -0.5
    out = grad.copy()  # the same array may be read and written
    normalise_backward(out, unit.astype(dtype), scale.astype(dtype), more if with_more else None, out)
    assert np.allclose(out, gradient + more if with_more else gradient, rtol=0, atol=4 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("width", [1, 5, 64])
def test_a_gate_and_its_gradient(dtype: Any, width: int) -> None:
    rng = np.random.default_rng(4)
    both, grad = rng.standard_normal((7, 2 * width)).astype(dtype), rng.standard_normal((7, width)).astype(dtype)
    both[:, 0] = [0, -3, 3, -90, 90, -1000, 1000]
    product, gradient = exact_gradient(
        lambda x: torch.nn.functional.silu(x[:, :width]) * x[:, width:],
        both,
        grad,
    )
    out, again, dboth = np.empty_like(grad), np.empty_like(grad), np.empty_like(both)
    gate(both, out)
    gate_backward(both, grad, again, dboth)
    assert np.allclose(again, product, rtol=TOLERANCE[dtype], atol=1e-34)
    assert np.allclose(out, product, rtol=TOLERANCE[dtype], atol=1e-34)
    assert np.allclose(dboth, gradient, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_a_gate_hands_on_what_is_no_number() -> None:
    both = np.zeros((3, 4), dtype=np.float32)
    both[0, 0] = both[1, 2] = np.nan
    out, dboth = np.empty((3, 2), dtype=np.float32), np.empty_like(both)
    gate_backward(both, np.ones((3, 2), dtype=np.float32), out, dboth)
    assert np.isnan(out[:, 0]).tolist() == [True, True, False]
    assert np.isnan(dboth[:, 0]).tolist() == [True, True, False]
    assert np.isfinite(out[:, 1]).all()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_loops_over_tensors_give_what_operations_on_them_give(
    n_threads: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(n_threads)
    monkeypatch.setattr(threads, "_BYTES_A_THREAD", 1)
    generator = torch.Generator().manual_seed(0)
    both, (x, grad, more) = torch.randn(11, 6, generator=generator), torch.randn(3, 11, 3, generator=generator)
    x.requires_grad_()  # as the inputs of a function with a gradient of its own do

    def results() -> list[Any]:
        with torch.no_grad():
            unit, scale = fused_functions.normalised(x, 1e-3)
            of_norm = [
                fused_functions.normalised_backward(grad.clone(), unit, scale, plus=plus, out=out)
                for plus in (None, more)
                for out in (None, torch.empty(11, 3))
            ]
            gates = [fused_functions.gated(both), *fused_functions.gated_backward(both, grad.clone())]
            return [unit, scale, *of_norm, *gates]

    looped = results()
    monkeypatch.setattr(fused_functions, "_are_loopable", lambda *_: False)
    for mine, plain in zip(looped, results(), strict=True):
        assert mine.dtype == torch.float32
        assert torch.allclose(mine, plain, rtol=1e-5, atol=1e-6)


def test_what_loops_do_not_know_is_left_to_operations_on_tensors() -> None:
    x = torch.ones(4, 6)
    assert fused_functions._are_loopable(x, x.double().float())
    assert not fused_functions._are_loopable(x, x.double())  # two precisions
    assert not fused_functions._are_loopable(x.bfloat16())
    assert not fused_functions._are_loopable(x[:, :3])  # gaps
    assert not fused_functions._are_loopable(x.view(2, 2, 6))
    assert not fused_functions._are_loopable(x.to("meta"))


def test_threads_are_as_many_as_torch_may_use_and_the_work_is_worth(request: pytest.FixtureRequest) -> None:
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(3)
    enough = threads._BYTES_A_THREAD
    assert [threads.n_worth(n) for n in (0, enough, 2 * enough - 1, 2 * enough, 9 * enough)] == [1, 1, 1, 2, 3]
    assert threads.split(7, 3) == [slice(0, 2), slice(2, 4), slice(4, 7)]
    assert threads.split(2, 3) == [slice(0, 1), slice(1, 2)]
    assert threads.split(0, 3) == [slice(0, 0)]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_in_a_thread_is_raised_once_the_others_are_done(failing: int) -> None:
    done = []

    def work(part: slice) -> None:
        if part.start == failing:
            raise ValueError(f"part {failing}")
        time.sleep(0.05 * (1 + part.start))
        done.append(part.start)

    with pytest.raises(ValueError, match=f"part {failing}"):
        threads.run([slice(i, i + 1) for i in range(3)], work)
    assert sorted(done) == sorted({0, 1, 2} - {failing})


@given(st.data())
def test_rows_of_the_cache_trade_places_like_entries_of_a_list(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 7))
    cache = TiledCache(1, n, 1, 2, np.float32)
    cache.reserve(1)
    held = list(range(n))  # what each row holds
    cache.layers[0][:, 0, 0, 0, 0, 0], cache.lengths[:] = np.arange(n), np.arange(n)
    for _ in range(data.draw(st.integers(1, 5))):
        k = data.draw(st.integers(0, n))
        sources, targets = (data.draw(st.permutations(range(n)))[:k] for _ in range(2))
        cache.move(np.array(sources, dtype=np.int64), np.array(targets, dtype=np.int64))
        moved = [held[source] for source in sources]
        for target, what in zip(targets, moved, strict=True):
            held[target] = what
        given_up = set(sources) - set(targets)  # they hold anything now, in a place of their own
        places = cache.places(np.arange(n))
        assert sorted(places.tolist()) == list(range(n))
        for row in set(range(n)) - given_up:
            assert cache.layers[0][places[row], 0, 0, 0, 0, 0] == cache.lengths[row] == held[row]
        for row in given_up:
            held[row] = int(cache.layers[0][places[row], 0, 0, 0, 0, 0])
            cache.lengths[row] = held[row]


def test_a_cache_that_grows_keeps_what_it_holds() -> None:
    cache = TiledCache(2, 3, 2, 4, np.float64)
    cache.reserve(TILE)
    cache.lengths[:] = [TILE, 2, 0]
    for states in cache.layers:
        states[:] = np.random.default_rng(0).standard_normal(states.shape)
    before = [states.copy() for states in cache.layers]
    cache.reserve(TILE * cache.layers[0].shape[1] + 1)
    for states, old in zip(cache.layers, before, strict=True):
        assert states.shape[1] > old.shape[1]
        assert (states[:, 0] == old[:, 0]).all()
    cache.share(0, 2, TILE)
    assert cache.lengths.tolist() == [TILE, 2, TILE]
    assert (cache.layers[1][2, 0] == before[1][0, 0]).all()


def test_attend_writes_only_what_is_new() -> None:
    case = Case(np.float32, [5, 30], [1, 2])
    layer = case.cache.layers[0]
    before = layer.copy()
    out = np.empty(case.shape, dtype=np.float32)
    places = case.cache.places(case.rows)
    attend(case.qkv, None, case.epsilon, case.turns, places, case.positions, layer, True, out)
    changed = np.argwhere(~((layer == before) | (np.isnan(layer) & np.isnan(before))).all(axis=(2, 3, 5)))
    expected = sorted((int(place), p // TILE, p % TILE) for place, p in zip(places, case.positions, strict=True))
    assert sorted(map(tuple, changed.tolist())) == expected


def test_loops_are_compiled_where_there_is_no_place_to_keep_them() -> None:
    within: dict[str, Any] = {}
    exec("def add_one(x):\n    x[0] += 1", within)  # has no file that a place could be found for
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(within["add_one"], cache=True)
    numbers = np.zeros(1)
    kernels._compiled(within["add_one"])(numbers)
    assert numbers[0] == 1


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), EOFError(), UnpicklingError("truncated")])
def test_a_cache_on_disk_that_fails_costs_a_warning(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def add_one(x: Array) -> None:
        x[0] += 1

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(numba.core.caching.FunctionCache, "load_overload", fail)
    numbers, compiled = np.zeros(1), kernels._compiled(add_one)
    with pytest.warns(RuntimeWarning, match="NUMBA_CACHE_DIR"):
        compiled(numbers)
    compiled(numbers)  # without another
    assert numbers[0] == 2


def test_work_is_done_when_no_thread_begins_any_more() -> None:
    """In a thread that outlives the main one."""
    program = """
import threading, time
from llmgym.agents import threads
done = []
def train():
    threading.main_thread().join()
    time.sleep(0.2)
    threads.run([slice(i, i + 1) for i in range(3)], lambda part: done.append(part.start))
    print(sorted(done), flush=True)
threading.Thread(target=train).start()
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.strip() == "[0, 1, 2]", run.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_has_threads_of_its_own() -> None:
    program = """
import os
from llmgym.agents import threads
parts = [slice(i, i + 1) for i in range(3)]
threads.run(parts, lambda part: None)
child = os.fork()
done = []
threads.run(parts, lambda part: done.append(part.start))
if child:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(sorted(done) != [0, 1, 2])
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_loops_run_as_python_for_a_debugger() -> None:
    program = """
import numpy as np
from llmgym.agents import kernels, slot_attention
from llmgym.agents.tiled_cache import TiledCache
slot_attention._NEAR_BYTES = 0
cache = TiledCache(1, 1, 1, 2, np.float32)
cache.reserve(2)
out = np.empty((2, 1, 2), np.float32)
qkv, turns = np.ones((2, 3, 2), np.float32), np.ones((2, 2, 2), np.float32)
attention = slot_attention.SlotAttention(cache, turns, np.float32(0), np.zeros(2, np.int64), np.arange(2))
attention.attend(0, qkv, None, out)
assert (out == 1).all(), out
"""
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)
