"""How many steps a second Stable-Baselines3 gets from the native vector environment, as a ratio to its DummyVecEnv.

    python benchmarks/sb3_vec_env.py [--json out.json]

Both play the same environment with the same random tokens, the resets of ended episodes, the infos and the statistics
of episodes included (DummyVecEnv with Monitor around each environment, as ``make_vec_env`` makes it). Repeats
alternate between the two, so that other programs disturb both alike; the table shows medians, of steps a second of
processor time of one thread. About a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import gymnasium as gym  # noqa: E402 - after the number of threads is set
import numpy as np  # noqa: E402
from stable_baselines3.common.monitor import Monitor  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv  # noqa: E402

from llmgym.sb3 import LanguageVecEnv  # noqa: E402

#: Environments that are played, with their options: short episodes in a small vocabulary, and long ones in a large one.
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "llmgym/Copy-v0": {},
    "llmgym/MathReason-v0": {"rewards": {"correctness": 1.0, "format": 0.1}},
}


def rate(envs: VecEnv, actions: np.ndarray, seconds: float) -> float:
    """Steps a second, over all slots."""
    n_calls, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        for action in actions:
            envs.step(action)
        n_calls += len(actions)
    return n_calls * envs.num_envs / (time.process_time() - start)


def measure(env_id: str, options: dict[str, Any], num_envs: int, args: argparse.Namespace) -> dict[str, Any]:
    """Medians of both, and their ratio."""

    def single() -> gym.Env[Any, Any]:
        return Monitor(gym.make(env_id, **options))

    makers: dict[str, Callable[[], VecEnv]] = {
        "dummy": lambda: DummyVecEnv([single] * num_envs),
        "native": lambda: LanguageVecEnv(env_id, num_envs, **options),
    }
    played = {name: make() for name, make in makers.items()}
    rng = np.random.default_rng(0)
    actions = rng.integers(played["native"].action_space.n, size=(max(8, 1024 // num_envs), num_envs))
    for envs in played.values():
        envs.seed(0)
        envs.reset()
        rate(envs, actions, args.seconds / 4)
    rates: dict[str, list[float]] = {name: [] for name in played}
    for _ in range(args.repeats):
        for name, envs in played.items():
            rates[name].append(rate(envs, actions, args.seconds))
    for envs in played.values():
        envs.close()
    native, dummy = median(rates["native"]), median(rates["dummy"])
    return {
        "env": env_id,
        "slots": num_envs,
        "native_steps_per_second": native,
        "dummy_steps_per_second": dummy,
        "ratio": native / dummy,
        "repeats": rates,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=1.0, help="processor time of each repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()

    rows = []
    print(f"{'':<24}{'slots':>6}{'DummyVecEnv':>14}{'native':>12}{'ratio':>8}")
    for env_id, options in ENVIRONMENTS.items():
        for num_envs in args.slots:
            row = measure(env_id, options, num_envs, args)
            rows.append(row)
            steps = f"{row['dummy_steps_per_second']:>14,.0f}{row['native_steps_per_second']:>12,.0f}"
            print(f"{env_id:<24}{num_envs:>6}{steps}{row['ratio']:>8.1f}", flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
