"""Whether bfloat16 on a GPU learns what float32 on a CPU learns: the main job with the same seeds on both.

    python benchmarks/gpu_learning.py                                                # needs a CUDA device
    python benchmarks/gpu_learning.py --device cpu --iterations 2 --seeds 0          # bfloat16 on this CPU, a minute

Each seed trains the shipped model twice with the same hyperparameters, problems and number of iterations: in float32
on the CPU, and as asked. The runs are not equal token by token, as rounding changes what is sampled; what must agree is
how much is learned. *first ratio* is the largest deviation from 1 of the ratio of the first minibatch, over all
iterations: how far sampler and learner disagree by rounding.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import tyro
from main_job import ENV, REWARDS, interval_over_seeds

from llmgym.agents.evaluation import Evaluation
from llmgym.agents.grpo import GRPO, GRPOConfig
from llmgym.agents.policies import Policy


@dataclass(frozen=True)
class GPULearning:
    """What to compare.

    Attributes:
        device: Of the runs that are compared with the CPU's: "cuda", or "cpu".
        dtype: Of their weights.
        seeds: Two trainings each.
        iterations: Of each training; the learning rate falls over them.
        n_problems: Held-out problems in each evaluation.
        model: The base model.
        grpo: Hyperparameters of the training.
        output: A file for the table, in Markdown. None: it is only printed.
    """

    device: Literal["cuda", "cpu"] = "cuda"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    seeds: tuple[int, ...] = (0, 1, 2)
    iterations: int = 100
    n_problems: int = 500
    model: str = "tiny-reasoner"
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    output: Path | None = None


class Outcome(NamedTuple):
    """Of one training."""

    before: Evaluation
    after: Evaluation
    first_ratio_error: float
    seconds: float


def train(options: GPULearning, seed: int, device: str, dtype: str) -> Outcome:
    """Train once; the same seed poses the same problems wherever it runs."""
    policy = Policy.load(options.model, device=device, dtype=getattr(torch, dtype))
    agent = GRPO(policy, ENV, options.grpo, env_kwargs={"rewards": REWARDS}, seed=seed, run_dir=None)
    before = agent.evaluate(options.n_problems)
    errors = []
    started = time.perf_counter()
    for iteration in range(options.iterations):
        metrics = agent.iterate(iteration / options.iterations)
        errors.append(metrics.get("train/first_ratio_error", 0.0))  # absent where no group had a signal
    seconds = time.perf_counter() - started
    return Outcome(before, agent.evaluate(options.n_problems), max(errors), seconds)


def row(name: str, outcomes: list[Outcome]) -> str:
    """A line of the table: what some trainings have in common."""
    after = [outcome.after.pass_at_1 for outcome in outcomes]
    cells = [
        name,
        interval_over_seeds([outcome.before.pass_at_1 for outcome in outcomes]),
        interval_over_seeds(after),
        " / ".join(f"{100 * value:.1f}" for value in after),
        f"{max(outcome.first_ratio_error for outcome in outcomes):.1e}",
        f"{sum(outcome.seconds for outcome in outcomes) / len(outcomes):.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main(options: GPULearning) -> dict[str, list[Outcome]]:
    """Train on both, print the table."""
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "Expected a CUDA device, actual: torch finds none here. Run it where there is one, or compare bfloat16 "
            "with float32 on this machine: --device cpu --iterations 2"
        )
    kinds = {"float32 on a CPU": ("cpu", "float32")}
    where = torch.cuda.get_device_name() if options.device == "cuda" else "a CPU"
    kinds[f"{options.dtype} on {where}"] = (options.device, options.dtype)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in kinds}
    for seed in options.seeds:
        for name, (device, dtype) in kinds.items():
            outcome = train(options, seed, device, dtype)
            outcomes[name].append(outcome)
            print(f"seed {seed}, {name}: {outcome.before} -> {outcome.after}", flush=True)
    names = ("", "pass@1 before", f"pass@1 after {options.iterations} iterations", "seeds", "first ratio", "seconds")
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    lines += [row(name, outcomes[name]) for name in kinds]
    print("\n" + "\n".join(lines))
    if options.output is not None:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return outcomes


if __name__ == "__main__":
    main(tyro.cli(GPULearning, description=__doc__))
