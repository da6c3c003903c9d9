"""Running the cells of a benchmark: in one process or in several, and on from wherever it was interrupted.

A cell is done when its folder is there. Whatever ends the program, nothing else has to be remembered: the same command
runs the cells that are missing.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from llmgym.agents.run_folders import claim_again, release
from llmgym.benchmark.agents import AgentSpec
from llmgym.benchmark.cells import Cell, is_done, run_cell
from llmgym.benchmark.entries import Entry
from llmgym.errors import InvalidOptionError

#: Told in a line what has happened.
Tell = Callable[[str], None]

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Plan:
    """All of a benchmark.

    Attributes:
        agents: Who plays; names differ.
        entries: What is played.
        n_seeds: Trainings of each agent on each challenge: seeds 0, 1, ...
        n_points: As in :class:`~llmgym.benchmark.cells.Cell`.
        point_episodes: Likewise.
        final_episodes: Likewise.

    Raises:
        InvalidOptionError: If there is nothing to run, an agent's name or a challenge is there twice, or a number is
            below 1.
    """

    agents: tuple[AgentSpec, ...]
    entries: tuple[Entry, ...]
    n_seeds: int = 5
    n_points: int = 10
    point_episodes: int = 200
    final_episodes: int = 1000

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        labels = [agent.label for agent in self.agents]
        if not labels or not self.entries:
            raise InvalidOptionError("Expected at least one agent and one challenge, actual: none. Name some.")
        for label in labels:
            if labels.count(label) > 1:
                raise InvalidOptionError(
                    f"Expected each agent to have a name of its own, actual: {label!r} twice. Write name=module:Class."
                )
        challenges = [entry.name for entry in self.entries]
        for challenge in challenges:
            if challenges.count(challenge) > 1:
                raise InvalidOptionError(
                    f"Expected each challenge once, actual: {challenge!r} twice. Name sizes and diagnostics once each."
                )
        for name in ("n_seeds", "n_points", "point_episodes", "final_episodes"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(f"Expected {name} >= 1, actual: {getattr(self, name)}. Raise it.")

    def cells(self) -> list[Cell]:
        """Every cell; seed by seed, so that a benchmark that is broken off can be compared."""
        return [
            Cell(agent, entry, seed, self.n_points, self.point_episodes, self.final_episodes)
            for seed in range(self.n_seeds)
            for entry in self.entries
            for agent in self.agents
        ]


@dataclass(frozen=True)
class Failure:
    """A cell that ended with an error.

    Attributes:
        cell: Which one.
        error: What went wrong, with the place in the code.
    """

    cell: Cell
    error: str


def run(plan: Plan, output: Path, *, jobs: int = 1, tell: Tell = lambda line: None) -> list[Failure]:
    """Run what is missing.

    Args:
        plan: What to run.
        output: Folder of the results. Another plan may be added to it, if what both have in common is the same.
        jobs: Processes, one thread each; 1: all in this one, with one thread as well.
        tell: Called with a line for each cell.

    Returns:
        The cells that ended with an error; the same call tries them again.

    Raises:
        InvalidOptionError: If an agent cannot be found, or a result is there of the same cell with other settings.
        MissingExtraError: If an agent needs a package that is not installed.
        CheckpointError: If another process is writing to ``output``.
    """
    if jobs < 1:
        raise InvalidOptionError(f"Expected jobs >= 1, actual: {jobs}. Raise it.")
    for agent in plan.agents:
        _check_plays(agent, plan.entries)  # before hours are spent on the others
    with _alone_in(output):
        cells = plan.cells()
        missing = [cell for cell in cells if not is_done(cell, output)]
        tell(f"{len(missing)} of {len(cells)} cells to run, {jobs} at a time")
        failures = []
        for number, (cell, line, error) in enumerate(_run_all(missing, output, jobs), start=1):
            tell(f"[{number}/{len(missing)}] {cell.name}: {line}")
            if error is not None:
                failures.append(Failure(cell, error))
    return failures


def _check_plays(agent: AgentSpec, entries: Sequence[Entry]) -> None:
    """Find an agent, and refuse it where it says that it cannot play a suite."""
    plays: Sequence[str] | None = getattr(agent.load(), "suites", None)
    for name in dict.fromkeys(entry.suite for entry in entries):
        if plays is not None and name not in plays:
            raise InvalidOptionError(
                f"Expected agents that can play the suite {name!r}, actual: {agent.label!r}, which plays "
                f"{', '.join(plays)} alone. Leave it out."
            )


@contextmanager
def _alone_in(output: Path) -> Iterator[None]:
    """No other process writes here, and what a killed one left half-written is gone."""
    output.mkdir(parents=True, exist_ok=True)
    claim_again(output)
    try:
        for draft in output.glob("cells/*/*/.seed_*"):
            shutil.rmtree(draft)
        yield
    finally:
        release(output)


def _run_all(cells: Sequence[Cell], output: Path, jobs: int) -> Iterator[tuple[Cell, str, str | None]]:
    if jobs == 1 or len(cells) < 2:
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in the other processes: the order of a sum depends on it
        try:
            for cell in cells:
                yield cell, *_attempt(cell, output)
        finally:
            torch.set_num_threads(n_threads)
        return
    set_before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # the processes begin with it
    context = multiprocessing.get_context("spawn")  # torch does not like to be forked
    pool = ProcessPoolExecutor(min(jobs, len(cells)), mp_context=context, initializer=_end_with_parent)
    try:
        running = {pool.submit(_attempt, cell, output): cell for cell in cells}
        for done in as_completed(running):
            yield running[done], *done.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in set_before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _end_with_parent() -> None:
    """Let this process end when the one that started it does, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)  # nothing to tidy up: a cell that is not whole is no cell

    threading.Thread(target=watch, daemon=True).start()


def _attempt(cell: Cell, output: Path) -> tuple[str, str | None]:
    """Run a cell; a line about it, and what went wrong. One agent's error does not end the others' benchmark."""
    try:
        point = run_cell(cell, output)
    except Exception as error:  # noqa: BLE001 - whatever an agent raises is its own failure
        return f"{type(error).__name__}: {error}", traceback.format_exc()
    return f"score {point.score:.2f} after {point.timesteps:,} steps, {point.seconds:.1f} s", None


def results(plan: Plan, output: Path) -> list[Cell]:
    """The cells of a plan whose results are there."""
    return [cell for cell in plan.cells() if is_done(cell, output)]
