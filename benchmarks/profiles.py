"""Where time and memory go, by what is there anyway: torch's profiler, looks at the stack, the books of Linux."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self
from unittest.mock import patch

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # its notes are not for the reader of a table
from torch.profiler import ProfilerActivity, profile, record_function

from llmgym.agents import fused_decoding, slot_attention

PROCESS = Path("/proc/self")

#: What operators of torch are for, by how their names begin; the first that fits counts.
OPERATORS: dict[str, tuple[str, ...]] = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::linear", "aten::_weight", "mkldnn"),
    "attention": ("llmgym::attend", "aten::bmm", "aten::baddbmm", "aten::matmul", "aten::_scaled_dot",
                  "aten::scaled_dot", "aten::_softmax", "aten::softmax"),
    "sampling": ("aten::cumsum", "aten::searchsorted", "aten::rand", "aten::uniform", "aten::multinomial",
                 "aten::log_softmax", "aten::_log_softmax", "aten::logsumexp", "aten::exponential", "aten::argmax",
                 "aten::gather", "aten::exp"),
    "copies and indices": ("aten::copy", "aten::_to_copy", "aten::to", "aten::index", "aten::cat", "aten::clone",
                           "aten::contiguous", "aten::empty", "aten::embedding", "aten::select", "aten::slice",
                           "aten::narrow", "aten::view", "aten::reshape", "aten::transpose", "aten::as_strided",
                           "aten::unsqueeze", "aten::expand", "aten::resize", "aten::fill", "aten::zero",
                           "aten::repeat", "aten::stack", "aten::permute", "aten::split", "aten::chunk"),
    "norms, activations, rotations": ("llmgym::", "aten::"),
}  # fmt: skip

#: Loops that numba compiled, where they are called: the profiler knows nothing of them.
KERNELS = ((slot_attention, "attend"), (fused_decoding, "normalise"))


def by_operator(work: Callable[[], object]) -> dict[str, float]:
    """Shares of wall time by kind of operator; ``"Python and NumPy"`` is what no operator of torch took.

    The profiler makes each call of an operator dearer, so many small calls look worse than they are.
    """
    with ExitStack() as stack:
        for module, kernel in KERNELS:
            named = record_function(f"llmgym::{kernel}")
            stack.enter_context(patch.object(module, kernel, named(getattr(module, kernel))))
        profiler = stack.enter_context(profile(activities=[ProfilerActivity.CPU]))
        start = time.perf_counter()  # what the profiler itself reads
        work()
        total = time.perf_counter() - start
    seconds = dict.fromkeys(OPERATORS, 0.0)
    for event in profiler.key_averages():
        for kind, beginnings in OPERATORS.items():
            if event.key.startswith(beginnings):
                seconds[kind] += event.self_cpu_time_total / 1e6
                break
    seconds["Python and NumPy"] = max(0.0, total - sum(seconds.values()))
    whole = sum(seconds.values())
    return {kind: value / whole for kind, value in seconds.items()}


class StackClock:
    """Puts the time that passes down to parts of a program, by looking at the stack every few milliseconds.

    Each look adds the time since the last one to the part that the innermost known frame belongs to. A long call into
    C holds the signal back until it returns, and is then put down in full to the function that made it.

    Args:
        parts: Part -> where its code is: pieces of ``"path/of/file.py:function"``. Looked up from the innermost frame
            outwards; of the parts that know a frame, the first one.
        within: Name -> pieces likewise: the outermost one on the stack is put before the part's name.
        interval: Seconds between looks.
        cpu: Whether CPU time counts (one thread), or the wall clock.
        other: Name of the part of frames that nobody knows.

    Attributes:
        seconds: Part -> time.
    """

    def __init__(
        self,
        parts: Mapping[str, Sequence[str]],
        within: Mapping[str, Sequence[str]] | None = None,
        *,
        interval: float = 0.002,
        cpu: bool = True,
        other: str = "other",
    ) -> None:
        self._parts, self._within, self._other = parts, within or {}, other
        self._interval = interval
        self._clock = time.process_time if cpu else time.perf_counter
        self._timer = signal.ITIMER_PROF if cpu else signal.ITIMER_REAL
        self._signal = signal.SIGPROF if cpu else signal.SIGALRM
        self._known: dict[tuple[str, str], tuple[str | None, str | None]] = {}
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._before = signal.signal(self._signal, self._look)
        self._last = self._clock()
        signal.setitimer(self._timer, self._interval, self._interval)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(self._timer, 0.0)
        signal.signal(self._signal, self._before)

    def _look(self, number: int, frame: FrameType | None) -> None:
        now = self._clock()
        part = self._part_of(frame)
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now

    def _part_of(self, frame: FrameType | None) -> str:
        part = within = None
        while frame is not None:
            known, outer = self._classify(frame.f_code.co_filename, frame.f_code.co_qualname)
            part = part or known
            within = outer or within
            frame = frame.f_back
        name = part or self._other
        return f"{within}: {name}" if within else name

    def _classify(self, file: str, function: str) -> tuple[str | None, str | None]:
        key = (file, function)
        if key not in self._known:
            place = f"{file}:{function}"
            self._known[key] = tuple(  # type: ignore[assignment]
                next((name for name, pieces in table.items() if any(piece in place for piece in pieces)), None)
                for table in (self._parts, self._within)
            )
        return self._known[key]

    def shares(self) -> dict[str, float]:
        """Part -> share of the time, the largest first."""
        total = sum(self.seconds.values())
        return {part: value / total for part, value in sorted(self.seconds.items(), key=lambda item: -item[1])}


@contextmanager
def peak_memory() -> Iterator[Callable[[], float]]:
    """What a function that it gives says at the end: MiB of resident memory at the peak, above what was there before.

    Linux alone: the high-water mark is set back by writing to ``/proc``.
    """
    gc.collect()  # what would be freed in between would hide as much of the peak
    (PROCESS / "clear_refs").write_text("5", encoding="ascii")
    before = _resident("VmRSS")
    yield lambda: (_resident("VmHWM") - before) / 1024


def _resident(which: str) -> float:
    lines = (PROCESS / "status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(which))
