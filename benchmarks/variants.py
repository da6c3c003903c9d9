"""Every named variant of GRPO and PPO on two environments, over seeds: what each learns from the same number of tokens.

    python benchmarks/variants.py                                      # all of it: hours on two CPU cores
    python benchmarks/variants.py --variants grpo ppo --seeds 0        # a part; what is done already is not done again
    python benchmarks/variants.py --table                              # the table of what is done

The first environment is the main job, ``llmgym/MathReason-v0`` with the shipped model. The second is ``llmgym/Copy-v0``
with a model of random weights, which must learn to repeat what it is shown. A run is one process with one thread; its
result is a JSON file in ``--output``, so that a broken series goes on where it stopped. The budget is a number of
sampled tokens, thrown-away ones included. Accuracies are of held-out problems at temperature 1, the same for all;
intervals are 95 % over seeds (Student's t).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from main_job import interval_over_seeds

#: Name in the table -> algorithm, preset of GRPO, further options. A learning rate is a factor of the task's.
VARIANTS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "default": ("grpo", None, {}),
    "grpo": ("grpo", "grpo", {}),
    "grpo, process": ("grpo", "grpo_process", {}),
    "dr_grpo": ("grpo", "dr_grpo", {}),
    "dapo": ("grpo", "dapo", {}),
    "rloo": ("grpo", "rloo", {}),
    "gspo": ("grpo", "gspo", {}),
    "cispo": ("grpo", "cispo", {}),
    "rank": ("grpo", "rank", {}),
    "ppo": ("ppo", None, {}),
    "ppo, TD": ("ppo", None, {"advantages": "td"}),
    "ppo, separate critic": ("ppo", None, {"critic": "model"}),
    "ppo, step credit": ("ppo", None, {"credit": "step"}),
    "ppo, KL penalty": ("ppo", None, {"policy_loss": "penalty"}),
    "ppo, adaptive lambda": ("ppo", None, {"adaptive_lambda": 0.05, "value_gae_lambda": 1.0}),
    # A learning rate three times too high: is it survived, or warned of?
    "default, 3 x rate": ("grpo", None, {"learning_rate": 3.0}),
    "default, 3 x rate, 2 epochs": ("grpo", None, {"learning_rate": 3.0, "n_epochs": 2}),
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """An environment, the model that is trained on it, and how much."""

    env: str
    timesteps: int
    learning_rate: float
    max_new_tokens: int
    env_kwargs: dict[str, Any]


#: Held-out problems of each evaluation.
N_PROBLEMS = 500

TASKS = {
    "math": Task("llmgym/MathReason-v0", 60_000, 3e-4, 128, {"rewards": {"correctness": 1.0, "format": 0.1}}),
    "copy": Task("llmgym/Copy-v0", 40_000, 1e-3, 4, {"n_digits": 3, "n_symbols": 4}),
}


@dataclass(frozen=True)
class Series:
    """What to run.

    Attributes:
        tasks: "math", "copy".
        variants: Names of the table. None: all.
        seeds: One training each.
        scale: Factor of the token budgets, for a quick look.
        jobs: Processes at once, one thread each.
        output: Folder of the results.
        table: Show the table of what is done, and run nothing.
        one: For the program's own use: run this one, as "task/variant/seed".
    """

    tasks: tuple[str, ...] = ("math", "copy")
    variants: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    scale: float = 1.0
    jobs: int = 2
    output: Path = Path("runs/variants")
    table: bool = False
    one: str | None = None


def run_one(task_name: str, variant: str, seed: int, scale: float) -> dict[str, Any]:
    """Train once; returns what the table needs, and the curve."""
    import torch

    from llmgym.agents import GRPO, PPO, GRPOConfig, PPOConfig
    from llmgym.agents.alarms import TrainingWarning

    torch.set_num_threads(1)
    task = TASKS[task_name]
    algorithm, preset, options = VARIANTS[variant]
    common = options | {
        "seed": seed,
        "run_dir": None,
        "learning_rate": task.learning_rate * options.get("learning_rate", 1.0),
        "max_response_tokens": task.max_new_tokens,
    }
    if algorithm == "grpo":
        config: Any = GRPOConfig.preset(preset, **common) if preset else GRPOConfig(**common)
    else:
        config = PPOConfig(**common)
    env_kwargs = dict(task.env_kwargs)
    if preset == "grpo_process" and "rewards" in env_kwargs:  # copying pays for each digit as it is
        env_kwargs["rewards"] = env_kwargs["rewards"] | {"process": 0.2}
    policy: Any = "tiny-reasoner" if task_name == "math" else random_model(seed)
    agent = {"grpo": GRPO, "ppo": PPO}[algorithm](policy, task.env, config, env_kwargs=env_kwargs)
    curve: list[tuple[int, float]] = []
    alarms: list[tuple[str, int]] = []

    def watch(_: Any, metrics: Any) -> None:
        curve.append((metrics["timesteps"], metrics["rollout/return"]))
        alarms.extend((name, metrics["iteration"]) for name in metrics.get("alarms", []))

    before = agent.evaluate(N_PROBLEMS)
    warnings.simplefilter("ignore", TrainingWarning)  # they are in the result
    agent.learn(total_timesteps=int(task.timesteps * scale), callback=watch, progress_bar=False)
    after = agent.evaluate(N_PROBLEMS)
    return {
        "task": task_name,
        "variant": variant,
        "seed": seed,
        "before": before.pass_at_1,
        "after": after.pass_at_1,
        "length": after.mean_length,
        "timesteps": agent.n_timesteps,
        "seconds": agent.train_seconds,
        "curve": curve,
        "alarms": alarms,
    }


def random_model(seed: int) -> Any:
    """A small Llama that knows nothing, with the vocabulary of the copying environment."""
    import gymnasium as gym
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary = gym.make_vec(TASKS["copy"].env, num_envs=1, **TASKS["copy"].env_kwargs).single_action_space.n
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=int(vocabulary),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
        )
    )


def result_file(series: Series, task: str, variant: str, seed: int) -> Path:
    """Where the result of one run is, whatever characters its name has."""
    name = "".join(c if c.isalnum() else "_" for c in variant)
    scale = "" if series.scale == 1.0 else f"_x{series.scale:g}"
    return series.output / f"{task}_{name}_{seed}{scale}.json"


def run_all(series: Series) -> None:
    """Run what is not done, ``jobs`` processes at a time."""
    names = series.variants or tuple(VARIANTS)
    missing = [
        (task, variant, seed)
        for seed in series.seeds  # seed by seed: a series that is broken off has whole columns
        for task in series.tasks
        for variant in names
        if not result_file(series, task, variant, seed).exists()
    ]
    series.output.mkdir(parents=True, exist_ok=True)
    running: dict[subprocess.Popen[bytes], str] = {}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    while missing or running:
        while missing and len(running) < series.jobs:
            one = "/".join(map(str, missing.pop(0)))
            command = [
                sys.executable,
                __file__,
                "--one",
                one,
                "--scale",
                str(series.scale),
                "--output",
                str(series.output),
            ]
            running[subprocess.Popen(command, env=environment)] = one
        time.sleep(0.2)
        for process in [process for process in running if process.poll() is not None]:
            one = running.pop(process)
            if process.returncode != 0:
                for other in running:
                    other.terminate()
                raise SystemExit(f"{one} ended with exit code {process.returncode}")
            print("done:", one, flush=True)


def table(series: Series) -> str:
    """What is done, as a table in Markdown, and the warnings below it."""
    lines = ["| variant | " + " | ".join(f"{task} | seeds" for task in series.tasks) + " |"]
    lines.append("|---" * (1 + 2 * len(series.tasks)) + "|")
    before: dict[str, set[float]] = {task: set() for task in series.tasks}
    rows, warned = [], []
    for variant in series.variants or tuple(VARIANTS):
        cells = [variant]
        for task in series.tasks:
            files = [result_file(series, task, variant, seed) for seed in series.seeds]
            results = [json.loads(file.read_text()) for file in files if file.exists()]
            before[task] |= {result["before"] for result in results}
            after = [result["after"] for result in results]
            cells += [interval_over_seeds(after) if after else "-", " ".join(f"{100 * x:.1f}" for x in after)]
            first = ["{} at {}".format(*r["alarms"][0]) if r["alarms"] else "-" for r in results]
            if any(result["alarms"] for result in results):
                warned.append(f"warnings of {variant!r} on {task}, and the iteration: {', '.join(first)}")
        rows.append("| " + " | ".join(cells) + " |")
    lines.append("| before training | " + " | ".join(map(range_of, before.values())) + " |")
    return "\n".join([*lines, *rows, *warned])


def range_of(shares: set[float]) -> str:
    """The least and the largest, in percent; one number where they are the same."""
    ends = dict.fromkeys(f"{100 * end(shares):.1f}" for end in (min, max) if shares)
    return f"{' to '.join(ends)} %" if ends else "-"


def main() -> None:
    """Run, then show the table."""
    series = tyro.cli(Series, description=__doc__)
    if series.one is not None:
        task, variant, seed = series.one.split("/")
        result = run_one(task, variant, int(seed), series.scale)
        file = result_file(series, task, variant, int(seed))
        draft = file.with_suffix(".part")
        draft.write_text(json.dumps(result) + "\n", encoding="utf-8")
        draft.replace(file)
        return
    if not series.table:
        run_all(series)
    print(table(series))


if __name__ == "__main__":
    main()
