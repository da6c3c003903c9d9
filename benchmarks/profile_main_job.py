"""Where the time of the main job goes: GRPO training the shipped model on ``llmgym/MathReason-v0`` for a minute.

    python benchmarks/profile_main_job.py                          # one thread, shares of CPU time
    python benchmarks/profile_main_job.py --n-threads 2            # shares of the wall clock

The stack is looked at every two milliseconds, and the time since the last look goes to the innermost frame that has a
part in the table (see ``profiles.py``). *model* is the model's own arithmetic and the Python that calls it; what is
neither that nor named otherwise is *bookkeeping*. Nothing but the model's arithmetic should take more than a tenth.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from main_job import ENV, REWARDS
from profiles import StackClock
from side_by_side import table, versions, write_json

from llmgym.agents.grpo import GRPO, GRPOConfig

#: Part -> pieces of "file:function"; the innermost frame that has one decides, and of its parts the first.
PARTS = {
    "environment": (
        "llmgym/vector.py",
        "llmgym/core.py",
        "llmgym/process.py",
        "llmgym/tokenizers.py",
        "llmgym/transcript.py",
        "llmgym/prompts.py",
        "llmgym/tasks.py",
        "llmgym/rewards/",
        "llmgym/envs/",
        "/envs/math_reason.py",
        "gymnasium/",
    ),
    "sampling": ("agents/sampling.py",),
    "optimiser": ("agents/optimizers.py", "torch/optim/", "torch/nn/utils/clip_grad.py"),
    "model": (
        "agents/fused_",
        "agents/module_decoding.py",
        "agents/static_decoding.py",
        "agents/trunks.py",
        "agents/cache.py",
        "agents/tiled_cache.py",
        "agents/kernels.py",
        "agents/attention.py",
        "agents/slot_attention.py",
        "agents/prompt_states.py",
        "agents/scoring.py",
        "transformers/",
        "torch/autograd/",
        "torch/utils/checkpoint.py",
        "torch/nn/modules/",
        "torch/nn/functional.py",
    ),
    "loss and its metrics": (
        "agents/losses.py",
        "agents/masking.py",
        "agents/advantages.py",
        "agents/step_metrics.py",
        "agents/policy_gradient.py",
        "agents/kl.py",
        "agents/rollout_metrics.py",
        "agents/metrics.py",
    ),
}
WITHIN = {"learning": (":GRPO.update",), "decoding": (":GRPO.collect",)}


@dataclass(frozen=True)
class ProfileMainJob:
    """What to profile.

    Attributes:
        seconds: Of training, after one iteration that is not counted.
        n_threads: 1: CPU time. More: the wall clock, on an idle machine.
        model: The base model.
        grpo: Hyperparameters.
        json: File for the figures.
    """

    seconds: float = 60.0
    n_threads: int = 1
    model: str = "tiny-reasoner"
    grpo: GRPOConfig = field(default_factory=lambda: GRPOConfig(run_dir=None))
    json: Path | None = None


def profile_job(options: ProfileMainJob) -> dict[str, Any]:
    """Shares of the time by part, and what the iterations say of themselves."""
    agent = GRPO(options.model, ENV, options.grpo, env_kwargs={"rewards": REWARDS})
    agent.iterate()
    before = (agent.env_seconds, agent.train_seconds, agent.n_timesteps)
    clock = StackClock(PARTS, WITHIN, cpu=options.n_threads == 1, other="bookkeeping")
    started, n_iterations = time.perf_counter(), 0
    with clock:
        while n_iterations == 0 or time.perf_counter() - started < options.seconds:
            agent.iterate()
            n_iterations += 1
    env_seconds, train_seconds, n_timesteps = (
        after - since
        for after, since in zip((agent.env_seconds, agent.train_seconds, agent.n_timesteps), before, strict=True)
    )
    return {
        "shares": clock.shares(),
        "seconds": sum(clock.seconds.values()),
        "n_iterations": n_iterations,
        "tokens_per_second": n_timesteps / train_seconds,
        "env_share_of_wall_time": env_seconds / train_seconds,
    }


def main(options: ProfileMainJob) -> dict[str, Any]:
    """Profile, print, write."""
    torch.set_num_threads(options.n_threads)
    result = profile_job(options)
    what = "CPU time" if options.n_threads == 1 else "wall time"
    print(
        f"{result['n_iterations']} iterations on {options.n_threads} thread(s), {result['tokens_per_second']:,.0f} "
        f"tokens/s; the environment took {100 * result['env_share_of_wall_time']:.2f} % of the wall time\n"
    )
    print(table(["part", f"share of {what}"], [[part, f"{100 * s:.1f} %"] for part, s in result["shares"].items()]))
    model = sum(share for part, share in result["shares"].items() if part.endswith(": model"))
    print(f"\nThe model's own arithmetic: {100 * model:.1f} %")
    others = {part: share for part, share in result["shares"].items() if not part.endswith(": model")}
    for part, share in others.items():
        if share > 0.1:
            print(f"{part} takes more than a tenth: {100 * share:.1f} %", file=sys.stderr)
    write_json(options.json, options, [result], versions=versions("torch", "transformers"))
    return result


if __name__ == "__main__":
    main(tyro.cli(ProfileMainJob, description=__doc__))
