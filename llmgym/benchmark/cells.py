"""One cell of the benchmark: an agent, a challenge, a seed. It is a folder that is there as a whole or not at all.

::

    cells/<agent>/<diagnostic>-<size>/seed_<seed>/
        config.json      what was run, with which versions
        curve.csv        a row for each evaluation, the last one after the training
        episodes.jsonl   the episodes of the last evaluation, whole
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from llmgym.agents.saving import write_folder
from llmgym.benchmark.agents import AgentSpec
from llmgym.benchmark.challenges import Challenge
from llmgym.benchmark.entries import Entry
from llmgym.benchmark.evaluations import Point, as_jsonl, evaluate, measure
from llmgym.benchmark.randomness import shared_generators
from llmgym.envs.diagnostics import Episode
from llmgym.errors import InvalidOptionError

CONFIG, CURVE, EPISODES = "config.json", "curve.csv", "episodes.jsonl"
#: Distributions whose versions are kept with each result.
_DISTRIBUTIONS = (
    "llmgym-rl", "gymnasium", "numpy", "torch", "transformers", "tokenizers", "stable_baselines3", "sb3_contrib",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What is run in one go.

    Attributes:
        agent: Who.
        entry: On what.
        seed: Of the agent and of everything else.
        n_points: Evaluations during the training, the one before it included, beside the one after it.
        point_episodes: Episodes of each of these.
        final_episodes: Episodes of the one after the training.
    """

    agent: AgentSpec
    entry: Entry
    seed: int
    n_points: int = 10
    point_episodes: int = 200
    final_episodes: int = 1000

    def folder(self, output: Path) -> Path:
        """Where its result is."""
        return output / "cells" / self.agent.label / self.entry.name / f"seed_{self.seed}"

    @property
    def name(self) -> str:
        """In a line of progress."""
        return f"{self.agent.label} on {self.entry.name}, seed {self.seed}"

    def settings(self) -> dict[str, Any]:
        """All that the result depends on, but for the versions of packages: plain JSON values."""
        return dataclasses.asdict(self) | {"agent_sha256": self.agent.fingerprint()}


class _Recorder:
    """Plays the evaluations that are due while an agent trains."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.diagnostic = cell.entry.subject
        self.agent = cell.agent.load()()
        self.challenge = Challenge(
            self.diagnostic,
            cell.entry.size,
            self._on_progress,
            start=cell.entry.start,
            agent_options=cell.entry.agent_options,
        )
        self.points: list[Point] = []
        # Of problems that are evaluated on: far from the seeds that an agent makes of its own.
        words = np.random.SeedSequence([0x6C6C6D67, cell.seed]).generate_state(1)
        self.seed = int(words[0]) % 2**31
        self._watched = 0.0
        self._started = time.process_time()

    @property
    def seconds(self) -> float:
        """Processor time of the training so far."""
        return time.process_time() - self._started - self._watched

    def train(self) -> None:
        """Train, where the agent can be trained."""
        if hasattr(self.agent, "train"):
            self.agent.train(self.challenge, self.cell.entry.budget, self.cell.seed)

    def _on_progress(self) -> None:
        share = self.challenge.n_timesteps / self.cell.entry.budget
        if share < len(self.points) / self.cell.n_points or share >= 1.0:  # the last one comes after the training
            return
        last = self.points[-1].timesteps if self.points else -1
        if self.challenge.n_timesteps > last:
            self.play(self.cell.point_episodes, final=False)

    def play(self, n_episodes: int, *, final: bool) -> list[Episode]:
        """One evaluation."""
        seconds, begun = self.seconds, time.process_time()
        entry = self.cell.entry
        with shared_generators(self.seed):  # being watched changes no random number of a training
            episodes = evaluate(self.agent, self.diagnostic, entry.size, n_episodes, self.seed, entry.held_out)
        self._watched += time.process_time() - begun
        point = measure(
            self.diagnostic,
            self.cell.entry.size,
            episodes,
            timesteps=self.challenge.n_timesteps,
            seconds=seconds,
            final=final,
        )
        self.points.append(point)
        return episodes


def run_cell(cell: Cell, output: Path) -> Point:
    """Train, evaluate, and write the folder.

    Returns:
        The evaluation after the training.

    Raises:
        DatasetError: If a file of problems changed since the suite was made.
        CheckpointError: If the model did.
    """
    cell.entry.check_unchanged()
    with shared_generators(cell.seed):  # an agent that has no seed of its own can be repeated too
        recorder = _Recorder(cell)
        recorder.train()
        if recorder.points and recorder.points[-1].timesteps == recorder.challenge.n_timesteps:
            recorder.points.pop()  # an agent that learned nothing since: the last evaluation is the longer one
        episodes = recorder.play(cell.final_episodes, final=True)
    cell.entry.check_unchanged()  # problems are read again for each evaluation

    def fill(folder: Path) -> None:
        config = cell.settings() | {"versions": versions()}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (folder / CURVE).write_text(as_csv(rows(cell, recorder.points)), encoding="utf-8")
        (folder / EPISODES).write_text(as_jsonl(episodes), encoding="utf-8")

    write_folder(cell.folder(output), fill)
    return recorder.points[-1]


def is_done(cell: Cell, output: Path) -> bool:
    """Whether the result of a cell is there.

    Raises:
        InvalidOptionError: If what is there is the result of other settings.
    """
    file = cell.folder(output) / CONFIG
    if not file.is_file():
        return False
    known = json.loads(file.read_text(encoding="utf-8"))
    package = _DISTRIBUTIONS[0]
    known[package] = known["versions"].get(package)
    for name, value in (cell.settings() | {package: versions().get(package)}).items():
        if known.get(name) != value:
            raise InvalidOptionError(
                f"Expected the results in {str(output)!r} to be of {name}={value!r}, actual: {known.get(name)!r} "
                f"({cell.name}). Choose another --output, or remove that folder: {cell.folder(output)}"
            )
    return True


def rows(cell: Cell, points: Sequence[Point]) -> list[dict[str, Any]]:
    """A learning curve as rows of the tidy table."""
    diagnostic, size = cell.entry.subject, cell.entry.size
    known = {
        "agent": cell.agent.label,
        "diagnostic": cell.entry.diagnostic,
        "size": size,
        "seed": cell.seed,
        "budget": cell.entry.budget,
        "optimal_return": diagnostic.optimal_return(size),
        "random_return": diagnostic.random_return(size),
    }
    table = []
    for point in points:
        plain = dataclasses.asdict(point)
        readings = plain.pop("readings")
        table.append(known | plain | {f"reading_{name}": value for name, value in readings.items()})
    return table


def as_csv(table: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV. A column is there if any row has it; what a row has not is empty."""
    columns = list(dict.fromkeys(name for row in table for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def versions() -> dict[str, str]:
    """Versions of what a result depends on; what is not installed is left out."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
