"""What the cells of a benchmark amount to: the tidy table, and aggregates over seeds and challenges."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmgym.benchmark.cells import CONFIG, CURVE, Cell, as_csv
from llmgym.benchmark.runner import Plan, results
from llmgym.benchmark.statistics import (
    Interval,
    bootstrapped_mean,
    interquartile_mean,
    mean_regret,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)
from llmgym.envs.diagnostics.table import doublings
from llmgym.errors import InvalidOptionError

Floats = npt.NDArray[np.float64]

#: Shares of the budget at which learning curves are compared.
SHARES = np.linspace(0.0, 1.0, 21)
#: Scores at which performance profiles are drawn.
THRESHOLDS = np.linspace(0.0, 1.0, 51)
_READING = "reading_"


@dataclass(frozen=True)
class Trained:
    """The result of a cell, as it is read back.

    Attributes:
        cell: Which cell.
        rows: Its part of the tidy table, as texts.
        versions: Of the packages that it was run with.
    """

    cell: Cell
    rows: list[dict[str, str]]
    versions: dict[str, str]

    @classmethod
    def read(cls, cell: Cell, output: Path) -> Trained:
        """From its folder."""
        folder = cell.folder(output)
        with (folder / CURVE).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return cls(cell, rows, json.loads((folder / CONFIG).read_text(encoding="utf-8"))["versions"])

    def column(self, name: str) -> Floats:
        """``(K,)``: a number of each evaluation."""
        return np.array([float(row[name]) for row in self.rows])

    def last(self, name: str) -> float:
        """A number of the evaluation after the training."""
        return float(self.rows[-1][name])

    @property
    def has_curve(self) -> bool:
        """Whether there is an evaluation before the first step: what was lost on the way is not known without it."""
        return float(self.rows[0]["timesteps"]) == 0

    @property
    def regret(self) -> float:
        """Per step of the training: see :func:`~llmgym.benchmark.statistics.mean_regret`; NaN without a curve."""
        if not self.has_curve:
            return math.nan
        return mean_regret(self.column("timesteps"), self.column("normalised"), self.cell.entry.budget)

    @property
    def spent(self) -> float:
        """Environment steps taken, in budgets."""
        return self.last("timesteps") / self.cell.entry.budget

    def at_shares(self, name: str) -> Floats:
        """``(len(SHARES),)``: a number at these shares of the budget, between two evaluations on the line."""
        return np.interp(SHARES * self.cell.entry.budget, self.column("timesteps"), self.column(name))

    @property
    def readings(self) -> dict[str, float]:
        """What the diagnostic says beside the score, after the training; with a curve, how lengths have changed too."""
        first, last = self.rows[0], self.rows[-1]
        said = {name[len(_READING) :]: float(text) for name, text in last.items() if name.startswith(_READING) and text}
        if "mean_length" in said and self.has_curve:
            said["length_drift"] = doublings(float(first[f"{_READING}mean_length"]), said["mean_length"])
        return said


@dataclass(frozen=True)
class Summary:
    """All results of a plan that are there.

    Attributes:
        plan: What was to be run.
        trained: The results, by agent, challenge and seed.
        n_resamples: Of the bootstrap.
    """

    plan: Plan
    trained: dict[tuple[str, str, int], Trained] = field(default_factory=dict)
    n_resamples: int = 2000
    _estimates: dict[tuple[str, ...], Interval] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, plan: Plan, output: Path, n_resamples: int = 2000) -> Summary:
        """From the folder of a benchmark.

        Raises:
            InvalidOptionError: If no result is there.
        """
        trained = {
            (cell.agent.label, cell.entry.name, cell.seed): Trained.read(cell, output) for cell in results(plan, output)
        }
        if not trained:
            raise InvalidOptionError(f"Expected results in {str(output)!r}, actual: none. Run the benchmark first.")
        return cls(plan, trained, n_resamples)

    # -- what is there -----------------------------------------------------------------------------------------------

    @cached_property
    def agents(self) -> list[str]:
        """Agents with any result, in the order of the plan."""
        there = {agent for agent, _, _ in self.trained}
        return [agent.label for agent in self.plan.agents if agent.label in there]

    @cached_property
    def challenges(self) -> list[str]:
        """Challenges with any result, in the order of the suite."""
        there = {challenge for _, challenge, _ in self.trained}
        return [entry.name for entry in self.plan.entries if entry.name in there]

    @property
    def n_missing(self) -> int:
        """Cells of the plan without a result."""
        return len(self.plan.cells()) - len(self.trained)

    def of(self, agent: str, challenge: str) -> list[Trained]:
        """All seeds of an agent on a challenge."""
        return [
            self.trained[agent, challenge, seed]
            for seed in range(self.plan.n_seeds)
            if (agent, challenge, seed) in self.trained
        ]

    @cached_property
    def common(self) -> list[str]:
        """Challenges that every agent has a result of: aggregates compare nothing else."""
        return [name for name in self.challenges if all(self.of(agent, name) for agent in self.agents)]

    def matrix(self, agent: str, value: str) -> Floats:
        """``(n_seeds, n_common)``: a number of each cell of an agent; seeds that lack a common challenge are left out.

        Args:
            agent: Whose.
            value: ``"regret"``, or a column of the table after the training.
        """
        whole = [
            [self.trained.get((agent, challenge, seed)) for challenge in self.common]
            for seed in range(self.plan.n_seeds)
        ]
        numbers = [
            [one.regret if value == "regret" else one.last(value) for one in row if one is not None]
            for row in whole
            if all(one is not None for one in row)
        ]
        return np.array(numbers, dtype=np.float64).reshape(-1, len(self.common))

    @cached_property
    def compared(self) -> list[str]:
        """Agents with at least one seed that has every common challenge."""
        return [agent for agent in self.agents if self.common and len(self.matrix(agent, "score"))]

    # -- aggregates --------------------------------------------------------------------------------------------------

    def _interval(self, scores: Any, statistic: Any) -> Interval:
        return stratified_bootstrap(scores, statistic, n_resamples=self.n_resamples)

    def _kept(self, key: tuple[str, ...], estimate: Callable[[], Interval]) -> Interval:
        """What a table and two pictures show is computed once."""
        if key not in self._estimates:
            self._estimates[key] = estimate()
        return self._estimates[key]

    def interquartile_mean(self, agent: str) -> Interval:
        """Of the scores."""
        return self._kept(
            ("interquartile_mean", agent), lambda: self._interval(self.matrix(agent, "score"), interquartile_mean)
        )

    def optimality_gap(self, agent: str) -> Interval:
        """Of the scores."""
        return self._kept(
            ("optimality_gap", agent), lambda: self._interval(self.matrix(agent, "score"), optimality_gap)
        )

    def regret(self, agent: str) -> Interval | None:
        """Regret per step while learning, the mean over challenges and seeds; ``None`` where a curve is missing."""
        regrets = self.matrix(agent, "regret")
        if np.isnan(regrets).any():
            return None
        return self._kept(("regret", agent), lambda: self._interval(regrets, np.mean))

    def spent(self, agent: str) -> float:
        """The most environment steps that a training of an agent took, in budgets."""
        return max(one.spent for (label, _, _), one in self.trained.items() if label == agent)

    def profile(self, agent: str) -> Interval:
        """Share of runs above each of :data:`THRESHOLDS`."""

        def at_thresholds(scores: Floats) -> Floats:
            return performance_profile(scores, THRESHOLDS)

        return self._kept(("profile", agent), lambda: self._interval(self.matrix(agent, "score"), at_thresholds))

    def improvement(self, ours: str, theirs: str) -> Interval:
        """How likely a run of ours beats one of theirs; a tie is half."""
        if ("improvement", theirs, ours) in self._estimates:
            other = self._estimates["improvement", theirs, ours]
            return Interval(1 - other.value, 1 - other.high, 1 - other.low)
        scores = self.matrix(ours, "score"), self.matrix(theirs, "score")
        return self._kept(("improvement", ours, theirs), lambda: self._interval(scores, probability_of_improvement))

    def score(self, agent: str, challenge: str) -> Interval | None:
        """Mean over seeds on one challenge; ``None`` where there is no result."""
        scores = [one.last("score") for one in self.of(agent, challenge)]
        return bootstrapped_mean(scores, self.n_resamples) if scores else None

    def challenge_regret(self, agent: str, challenge: str) -> Interval | None:
        """Regret per step while learning, the mean over seeds on one challenge; ``None`` where a curve is missing."""
        regrets = [one.regret for one in self.of(agent, challenge)]
        return None if not regrets or np.isnan(regrets).any() else bootstrapped_mean(regrets, self.n_resamples)

    def curve(self, agent: str, challenge: str) -> Interval | None:
        """``(len(SHARES),)``: mean over seeds of the score along the training; ``None`` where a curve is missing."""
        trained = self.of(agent, challenge)
        if not trained or not all(one.has_curve for one in trained):
            return None
        return bootstrapped_mean([one.at_shares("score") for one in trained], self.n_resamples)

    # -- the table ---------------------------------------------------------------------------------------------------

    def table(self) -> str:
        """The tidy table as CSV: a row for each evaluation of each cell."""
        return as_csv([row for one in self.trained.values() for row in one.rows])

    def n_trained(self, agent: str) -> int:
        """How many results of an agent there are."""
        return sum(label == agent for label, _, _ in self.trained)

    def seconds(self, agent: str | None = None) -> float:
        """Processor time of all trainings, or of one agent's."""
        return sum(one.last("seconds") for (label, _, _), one in self.trained.items() if agent in (None, label))

    def versions(self) -> list[str]:
        """Each set of versions that results were made with, in words; several where a benchmark went on later."""
        sets = [
            ", ".join(f"{name} {version}" for name, version in one.versions.items()) for one in self.trained.values()
        ]
        return sorted(set(sets))
