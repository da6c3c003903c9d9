"""Does the benchmark tell a faulty algorithm from the right one? Eight planted faults, on some of the diagnostics.

    python benchmarks/planted_faults.py                # about twenty minutes on one CPU core
    python benchmarks/planted_faults.py --report-only  # the table of what is done

Each fault is the right algorithm with one thing wrong: it runs, it logs plausible numbers, and most of them still learn
something. Two rows are a control: the right algorithm itself, trained with other seeds. The table has the mean scores
over all challenges, and those on the challenge that tells the two apart best. A fault is told apart where the scores of
one challenge differ by an exact permutation test at 5 %, corrected for all the comparisons of the table, challenges
times rows (Bonferroni): with seven seeds, five challenges and ten rows, where every right run is better than every
faulty one, or worse.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")

import numpy as np  # noqa: E402 - after the number of threads is set
import torch  # noqa: E402
import tyro  # noqa: E402
from side_by_side import table  # noqa: E402

from llmgym.agents import GRPO, PPO, RolloutBatch  # noqa: E402
from llmgym.agents.minibatches import RolloutTensors  # noqa: E402
from llmgym.benchmark import AgentSpec, Plan, Summary, run, suite  # noqa: E402
from llmgym.benchmark.challenges import Challenge  # noqa: E402
from llmgym.benchmark.language_models import GRPOAgent, PPOAgent  # noqa: E402

# -- the faults -------------------------------------------------------------------------------------------------------


class ShiftedGAE(PPO):
    """A token gets the advantage of the one after it, the last one none."""

    def _estimate_advantages(self, data: RolloutTensors) -> None:
        super()._estimate_advantages(data)
        shifted = torch.zeros_like(data.advantages)
        shifted[:, :-1] = data.advantages[:, 1:]
        data.advantages = shifted


class NoTerminal(PPO):
    """The end of an episode is not an end: what the critic says of the state behind it is added to the return."""

    def _estimate_advantages(self, data: RolloutTensors) -> None:
        data.batch = replace(data.batch, terminated=np.zeros_like(data.batch.terminated))
        super()._estimate_advantages(data)


class WrongSignKL(GRPO):
    """The penalty for leaving the reference is a reward for it."""

    def _regularised(self, surrogate: Any, scores: Any, cut: Any, kl_coef: float, metrics: Any) -> torch.Tensor:
        return super()._regularised(surrogate, scores, cut, -kl_coef, metrics)


class UnlearnedEnd(GRPO):
    """The token that ends a response is left out of the loss."""

    def _advantages(self, data: RolloutTensors) -> torch.Tensor:
        places = torch.arange(data.loss_mask.shape[1])
        ends = torch.from_numpy(data.batch.terminated).unsqueeze(1) & (places == data.response_lengths.unsqueeze(1) - 1)
        data.loss_mask = data.loss_mask & ~ends
        return super()._advantages(data)


class WrongGroups(GRPO):
    """Returns are measured by the mean and the deviation of the next group, which answers another problem."""

    def _advantages(self, data: RolloutTensors) -> torch.Tensor:
        returns = torch.from_numpy(data.batch.episode_returns).float().view(-1, self.config.group_size)
        mean, deviation = returns.mean(1, keepdim=True), returns.std(1, keepdim=True)
        advantages = (returns - mean.roll(-1, 0)) / (deviation.roll(-1, 0) + 1e-4)
        return data.per_token(advantages.flatten())


class WrongTemperature(GRPO):
    """Responses are sampled at temperature 2, with its log-probabilities, and learned from at 1."""

    def collect(self) -> tuple[RolloutBatch, dict[str, Any]]:
        self.policy.temperature = 2.0
        try:
            return super().collect()
        finally:
            self.policy.temperature = self.config.temperature


class NeighbourReward(GRPO):
    """Each response is paid what the one in the slot before it has earned."""

    def _play(self, n_problems: int) -> RolloutBatch:
        batch = super()._play(n_problems)
        paid = np.roll(batch.episode_returns, 1)
        rewards = np.zeros_like(batch.rewards)
        rewards[np.arange(len(batch)), batch.response_lengths - 1] = paid
        return replace(batch, rewards=rewards)


class PessimistLost(PPO):
    """The clipped surrogate takes the larger of the two terms, so that what clips is never what should."""

    def _policy_loss(self, logprobs: torch.Tensor, cut: Any) -> torch.Tensor:
        ratio = (logprobs - cut.old_logprobs).exp()
        bound = self.config.clip_range
        return -torch.maximum(ratio * cut.advantages, ratio.clamp(1 - bound, 1 + bound) * cut.advantages)


# -- as agents of the benchmark ---------------------------------------------------------------------------------------

_WITH_KL = {"kl_coef": 0.3}


class KLAgent(GRPOAgent):
    """GRPO with a penalty for leaving the reference: what the wrong sign is compared with."""

    options: ClassVar[Mapping[str, Any]] = GRPOAgent.options | _WITH_KL


class WrongSignKLAgent(KLAgent):
    algorithm = WrongSignKL


class UnlearnedEndAgent(GRPOAgent):
    algorithm = UnlearnedEnd


class WrongGroupsAgent(GRPOAgent):
    algorithm = WrongGroups


class WrongTemperatureAgent(GRPOAgent):
    algorithm = WrongTemperature


class NeighbourRewardAgent(GRPOAgent):
    algorithm = NeighbourReward


class ShiftedGAEAgent(PPOAgent):
    algorithm = ShiftedGAE


class NoTerminalAgent(PPOAgent):
    algorithm = NoTerminal
    options: ClassVar[Mapping[str, Any]] = PPOAgent.options | {"bootstrap_truncated": True}


class PessimistLostAgent(PPOAgent):
    algorithm = PessimistLost


#: Between the seeds of the right runs and those of the control.
_OTHER_SEEDS = 1000


class OtherSeedsPPOAgent(PPOAgent):
    def train(self, challenge: Challenge, budget: int, seed: int) -> None:
        super().train(challenge, budget, seed + _OTHER_SEEDS)


class OtherSeedsGRPOAgent(GRPOAgent):
    def train(self, challenge: Challenge, budget: int, seed: int) -> None:
        super().train(challenge, budget, seed + _OTHER_SEEDS)


_HERE = Path(__file__)
#: Name of a fault -> the right agent, the faulty one, and what is wrong.
FAULTS: dict[str, tuple[str, str, str]] = {
    "gae-shifted": ("ppo", "ShiftedGAEAgent", "GAE shifted by one token"),
    "no-terminal": ("ppo", "NoTerminalAgent", "an end that is not the end of the return"),
    "unclipped": ("ppo", "PessimistLostAgent", "the larger of the two surrogates"),
    "kl-sign": ("grpo-kl", "WrongSignKLAgent", "a KL penalty with the wrong sign"),
    "no-end": ("grpo", "UnlearnedEndAgent", "the end token left out of the mask"),
    "wrong-groups": ("grpo", "WrongGroupsAgent", "advantages within the wrong groups"),
    "temperature": ("grpo", "WrongTemperatureAgent", "log-probabilities of the wrong temperature"),
    "neighbour": ("grpo", "NeighbourRewardAgent", "the reward of the neighbouring slot"),
    "control-ppo": ("ppo", "OtherSeedsPPOAgent", "nothing: other seeds"),
    "control-grpo": ("grpo", "OtherSeedsGRPOAgent", "nothing: other seeds"),
}
RIGHT = {"ppo": "ppo", "grpo": "grpo", "grpo-kl": f"grpo-kl={_HERE}:KLAgent"}


@dataclass(frozen=True)
class Series:
    """What to run.

    Attributes:
        faults: Names of faults, or of controls. None: all.
        only: Diagnostics to play.
        seeds: Trainings of each agent on each of them.
        budget: Environment steps of each.
        episodes: Episodes that a score is of.
        jobs: Processes at once, one thread each.
        output: Folder of the results.
        report_only: Run nothing, and show the table of what is done.
    """

    faults: tuple[str, ...] | None = None
    only: tuple[str, ...] = ("copy", "sparse", "truncation", "proxy", "difficulty")
    seeds: int = 7
    budget: int = 10_000
    episodes: int = 500
    jobs: int = 1
    output: Path = Path("runs/planted_faults")
    report_only: bool = False


def permutation_p_value(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Share of all ways to deal the scores to the two whose means differ at least as much as they do.

    >>> permutation_p_value([0.9, 1.0], [0.1, 0.2])  # two of six ways
    0.3333333333333333
    """
    pooled, n = np.array([*ours, *theirs]), len(ours)
    total = pooled.sum()
    sums = np.array([pooled[list(chosen)].sum() for chosen in combinations(range(len(pooled)), n)])
    gaps = np.abs(sums / n - (total - sums) / len(theirs))
    actual = abs(float(np.mean(ours)) - float(np.mean(theirs)))
    return float((gaps >= actual - 1e-12).mean())


def rows(summary: Summary, faults: Sequence[str]) -> list[list[str]]:
    """A line for each fault: the scores over all challenges, and on the one that tells most."""
    lines = []
    for fault in faults:
        right, faulty = summary.matrix(FAULTS[fault][0], "score"), summary.matrix(fault, "score")
        p_values = [permutation_p_value(ours, theirs) for ours, theirs in zip(right.T, faulty.T, strict=True)]
        gaps = np.abs(right.mean(axis=0) - faulty.mean(axis=0))
        most = min(range(len(gaps)), key=lambda place: (p_values[place], -gaps[place]))
        corrected = min(1.0, p_values[most] * len(p_values) * len(faults))
        lines.append(
            [
                FAULTS[fault][2],
                FAULTS[fault][0],
                f"{right.mean():.2f}",
                f"{faulty.mean():.2f}",
                summary.common[most],
                f"{right.mean(axis=0)[most]:.2f}",
                f"{faulty.mean(axis=0)[most]:.2f}",
                f"{corrected:.3f}",
                "yes" if corrected <= 0.05 else "no",
            ]
        )
    return lines


def main(series: Series) -> list[list[str]]:
    """Run what is missing, and show the table."""
    faults = tuple(FAULTS) if series.faults is None else series.faults
    for wrong in set(faults) - set(FAULTS):
        raise SystemExit(f"Expected --faults among {', '.join(FAULTS)}; actual: {wrong!r}. Use one of those names.")
    needed = list(dict.fromkeys(FAULTS[fault][0] for fault in faults))
    agents = [AgentSpec.parse(RIGHT[name]) for name in needed]
    agents += [AgentSpec.parse(f"{fault}={_HERE}:{FAULTS[fault][1]}") for fault in faults]
    entries = suite(only=series.only, budget=series.budget)
    plan = Plan(tuple(agents), entries, series.seeds, final_episodes=series.episodes)
    if not series.report_only:
        for failure in run(plan, series.output, jobs=series.jobs, tell=lambda line: print(line, flush=True)):
            raise SystemExit(f"{failure.cell.name}\n{failure.error}")
    head = ["fault", "of", "right", "faulty", "told most by", "right there", "faulty there", "p", "told apart"]
    lines = rows(Summary.read(plan, series.output), faults)
    print(table(head, lines))
    return lines


if __name__ == "__main__":
    main(tyro.cli(Series, description=__doc__))
