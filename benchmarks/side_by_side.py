"""Two or more ways of doing the same work, timed in turn in one process, so that a busy machine slows all of them.

One thread is timed by this process's CPU time, which holds on a machine that others use too; more threads by the wall
clock, which says something on an idle machine only. Every figure is a median, with its range.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

HERE = Path(__file__).parent
T = TypeVar("T")


def clock_of(n_threads: int) -> Callable[[], float]:
    """What to read the time from."""
    return time.process_time if n_threads == 1 else time.perf_counter


class Spread(NamedTuple):
    """Of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def __format__(self, how: str) -> str:
        return f"{self.median:{how}} ({self.low:{how}}-{self.high:{how}})"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """How many times as long the others took, repeat by repeat.

    >>> ratios([1.0, 2.0, 1.0], [3.0, 5.0, 2.0])
    Spread(median=2.5, low=2.0, high=3.0)
    """
    return Spread.of([theirs_once / ours_once for ours_once, theirs_once in zip(ours, theirs, strict=True)])


def in_turn(
    runs: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable[[], float], warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each run in each repeat, the runs one after the other within a repeat.

    Args:
        runs: Name -> work.
        repeats: How often each is timed.
        clock: What to time by.
        warm_up: Repeats before those, which allocate and compile.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(warm_up + repeats):
        for name, run in runs.items():
            start = clock()
            run()
            if repeat >= warm_up:
                seconds[name].append(clock() - start)
    return seconds


def versions(*packages: str) -> dict[str, str]:
    """What a figure depends on: Python, the processor and packages."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def answer_of(function: str, *arguments: Any, n_threads: int = 1, path: Sequence[Path | str] = ()) -> Any:
    """What a function of these programs returns in a process of its own.

    Args:
        function: ``"module:name"``.
        arguments: Plain values, as JSON holds them; so is what comes back.
        n_threads: Of that process.
        path: Folders that come first where it looks for modules.
    """
    module, name = function.split(":")
    folders = [*path, HERE, HERE.parent, os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(folder) for folder in folders if folder),
        "OMP_NUM_THREADS": str(n_threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    code = f"import json, sys, {module} as m; a = m.{name}(*json.loads(sys.argv[1])); print('\\n' + json.dumps(a))"
    run = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments, default=str)],
        env=environment,
        capture_output=True,
        text=True,
    )
    if run.returncode:
        sys.exit(f"The process of {function} failed:\n{run.stderr[-4000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def from_plain(kind: type[T], plain: Mapping[str, Any]) -> T:
    """The options that JSON has made plain values of, its lists being tuples again."""
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in plain.items()})


def check_trl() -> None:
    """Say what to install where TRL is missing."""
    if importlib.util.find_spec("trl") is None:
        sys.exit('Expected TRL, actual: it is not installed. Run: pip install "llmgym-rl[agents,bench]"')


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown whose columns line up: texts to the left, the other columns to the right."""
    cells = [[str(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    left = [
        any(not cell.removeprefix("-")[:1].isdigit() for cell in column) for column in zip(*cells[1:], strict=True)
    ] or [True]
    lines = [
        "| "
        + " | ".join(f"{c:{'<' if is_left else '>'}{w}}" for c, w, is_left in zip(row, widths, left, strict=True))
        + " |"
        for row in cells
    ]
    rule = (
        "|" + "|".join("-" * (w + 1) + ("-" if is_left else ":") for w, is_left in zip(widths, left, strict=True)) + "|"
    )
    return "\n".join([lines[0], rule, *lines[1:]])


def write_json(path: Path | None, options: Any, rows: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Write what was measured, and under which options; nothing where no path was given."""
    if path is None:
        return
    values = {"options": asdict(options) if is_dataclass(options) else vars(options), **more, "rows": list(rows)}
    path.write_text(json.dumps(values, indent=1, default=str) + "\n", encoding="utf-8")
