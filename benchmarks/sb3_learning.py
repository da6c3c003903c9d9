"""What the small configurations of generic algorithms learn: algorithms x tasks x seeds, as a fraction of the optimum.

    python benchmarks/sb3_learning.py                                  # all of it: more than an hour on two CPU cores
    python benchmarks/sb3_learning.py --algorithms ppo --seeds 0       # a part; what is done already is not done again
    python benchmarks/sb3_learning.py --table                          # the table of what is done

Tasks: `llmgym/Copy-v0` (copy three digits; measured on sequences held out from training), `llmgym/Recall-v0` with three
keys and one-digit addition (both measured on fresh episodes). The optimal return of each is 1. A policy plays its most
probable token, or the one of the highest value. MaskablePPO chooses among the tokens that a grammar allows; the others
among all.

Two more rows can be asked for by name: `ppo, raw ids` has the default features extractor of Stable-Baselines3 in place
of one-hot tokens, and `ppo, bootstrapped` adds the value of the state in which a budget cut a response, as
Stable-Baselines3 does wherever `TimeLimit.truncated` is set.

A run is one process with one thread, timed in processor time; its result is a JSON file in --output, so that a broken
series goes on where it stopped. Intervals are 95 % over seeds (Student's t).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_threads] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np  # noqa: E402 - after the number of threads is set
import torch  # noqa: E402
import tyro  # noqa: E402
from main_job import interval_over_seeds  # noqa: E402
from sb3_tasks import ADDITION  # noqa: E402
from stable_baselines3.common.torch_layers import CombinedExtractor  # noqa: E402

from llmgym.sb3 import SMALL_CONFIGS, LanguageVecEnv, make_agent  # noqa: E402

#: Episodes of each evaluation.
N_EPISODES = 1_000
#: Every one of them pays 1 for a right response, and nothing pays more.
OPTIMUM = 1.0


@dataclass(frozen=True)
class Task:
    """An environment, and the responses that are well-formed in it."""

    env_id: str
    grammar: str
    env_kwargs: dict[str, Any]
    held_out: dict[str, Any]


TASKS = {
    "copy": Task("llmgym/Copy-v0", r"(\d ){3}", {}, {"split": "test"}),
    "recall": Task("llmgym/Recall-v0", r"\d ", {"n_pairs": 3}, {}),
    "addition": Task(ADDITION, r"(\d ){2}", {}, {}),
}

#: Rows beside the small configurations: name -> configuration, options of the environment, options of the agent.
CONTRASTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ppo, raw ids": ("ppo", {}, {"policy_kwargs": {"features_extractor_class": CombinedExtractor}}),
    "ppo, bootstrapped": ("ppo", {"bootstraps_truncated": True}, {}),
}


@dataclass(frozen=True)
class Series:
    """What to run.

    Attributes:
        algorithms: Names of small configurations, or of the two further rows.
        tasks: "copy", "recall", "addition".
        seeds: One training each.
        scale: Factor of the timesteps, for a quick look.
        jobs: Processes at once, one thread each.
        output: Folder of the results.
        table: Show the table of what is done, and run nothing.
    """

    algorithms: tuple[str, ...] = tuple(SMALL_CONFIGS)
    tasks: tuple[str, ...] = tuple(TASKS)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    scale: float = 1.0
    jobs: int = 2
    output: Path = Path("runs/sb3_learning")
    table: bool = False


def evaluate(agent: Any, envs: LanguageVecEnv, masks: bool) -> float:
    """Mean return of greedy play, by the evaluation that comes with the algorithm."""
    if masks:
        from sb3_contrib.common.maskable.evaluation import evaluate_policy
    else:
        from stable_baselines3.common.evaluation import evaluate_policy

    return float(evaluate_policy(agent, envs, n_eval_episodes=N_EPISODES)[0])


def run_one(algorithm: str, task_name: str, seed: int, scale: float) -> dict[str, Any]:
    """Train once, and play before and after."""
    torch.set_num_threads(1)
    task = TASKS[task_name]
    name, env_options, agent_options = CONTRASTS.get(algorithm, (algorithm, {}, {}))
    config = SMALL_CONFIGS[name]
    masks = name == "maskable_ppo"
    env_kwargs = task.env_kwargs | ({"grammar": task.grammar} if masks else {})
    options = {"bootstraps_truncated": False} | env_options
    agent = make_agent(
        name, LanguageVecEnv(task.env_id, config.num_envs, **options, **env_kwargs), seed=seed, **agent_options
    )
    held_out = LanguageVecEnv(task.env_id, 50, **(env_kwargs | task.held_out))
    held_out.seed(1_000_000 + seed)  # far from the seeds that are trained on
    before = evaluate(agent, held_out, masks)
    start = time.process_time()
    agent.learn(int(config.total_timesteps * scale))
    minutes = (time.process_time() - start) / 60
    after = evaluate(agent, held_out, masks)
    return {
        "algorithm": algorithm,
        "task": task_name,
        "seed": seed,
        "timesteps": agent.num_timesteps,
        "before": before / OPTIMUM,
        "after": after / OPTIMUM,
        "minutes": minutes,
    }


def result_file(series: Series, algorithm: str, task: str, seed: int) -> Path:
    """Where the result of one run is, whatever characters its name has."""
    name = "".join(c if c.isalnum() else "_" for c in algorithm)
    scale = "" if series.scale == 1.0 else f"_x{series.scale:g}"
    return series.output / f"{task}_{name}_{seed}{scale}.json"


def run_and_write(series: Series, algorithm: str, task: str, seed: int) -> str:
    """One cell; its file appears when it is complete."""
    result = run_one(algorithm, task, seed, series.scale)
    file = result_file(series, algorithm, task, seed)
    draft = file.with_suffix(".part")
    draft.write_text(json.dumps(result) + "\n", encoding="utf-8")
    draft.replace(file)
    return f"{algorithm} on {task}, seed {seed}: {result['after']:.3f} in {result['minutes']:.1f} min"


def run_all(series: Series) -> None:
    """Run what is not done, ``jobs`` processes at a time."""
    missing = [
        (algorithm, task, seed)
        for seed in series.seeds  # seed by seed: a series that is broken off has whole columns
        for task in series.tasks
        for algorithm in series.algorithms
        if not result_file(series, algorithm, task, seed).exists()
    ]
    series.output.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")  # torch does not like to be forked
    with ProcessPoolExecutor(series.jobs, mp_context=context) as pool:
        for done in as_completed([pool.submit(run_and_write, series, *cell) for cell in missing]):
            print("done:", done.result(), flush=True)


def table(series: Series) -> str:
    """What is done, as a table in Markdown: the fraction of the optimum, the least over seeds, and the minutes."""
    lines = ["| algorithm | " + " | ".join(f"{task} | least | minutes" for task in series.tasks) + " |"]
    lines.append("|---" * (1 + 3 * len(series.tasks)) + "|")
    for algorithm in series.algorithms:
        cells = [algorithm]
        for task in series.tasks:
            files = [result_file(series, algorithm, task, seed) for seed in series.seeds]
            results = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]
            after = [result["after"] for result in results]
            minutes = [result["minutes"] for result in results]
            cells += [
                interval_over_seeds(after) if after else "-",
                f"{100 * min(after):.1f} %" if after else "-",
                f"{np.mean(minutes):.1f}" if minutes else "-",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run, then show the table."""
    series = tyro.cli(Series, description=__doc__)
    for name, given, known in (
        ("algorithms", series.algorithms, (*SMALL_CONFIGS, *CONTRASTS)),
        ("tasks", series.tasks, tuple(TASKS)),
    ):
        for wrong in set(given) - set(known):
            raise SystemExit(f"Expected --{name} among {', '.join(known)}; actual: {wrong!r}. Use one of those names.")
    if not series.table:
        run_all(series)
    print(table(series))


if __name__ == "__main__":
    main()
