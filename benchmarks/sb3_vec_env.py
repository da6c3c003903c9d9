"""How many steps a second Stable-Baselines3 gets from the native vector environment, as a ratio to its DummyVecEnv.

    python benchmarks/sb3_vec_env.py [--json out.json] [--profile]

Both play the same environment with the same random tokens, the resets of ended episodes, the infos and the statistics
of episodes included (DummyVecEnv with Monitor around each environment, as ``make_vec_env`` makes it). Repeats
alternate between the two, so that other programs disturb both alike; the table shows medians, of steps a second of
processor time of one thread, and of the ratio its range, repeat by repeat. Some three minutes.

``--profile`` shows, in place of the ratios, which share of its time each spends on the work that both have to do: no
ratio can be higher than that work leaves room for.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import time
from pathlib import Path
from typing import Any

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import gymnasium as gym  # noqa: E402 - after the number of threads is set
import numpy as np  # noqa: E402
from side_by_side import Spread, ratios, write_json  # noqa: E402
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


#: Work that a step needs in any form of environment: what it is -> functions, by module.
COMMON_WORK = {
    "tokens": (("process.py", "append_token"), ("process.py", "append_tokens")),
    "text": (("core.py", "transition"),),
    "rewards": (("stack.py", "pay_batch"),),
    "next problem": (("core.py", "begin"),),
}


def make_both(env_id: str, options: dict[str, Any], num_envs: int) -> dict[str, VecEnv]:
    """The two environments, with the same seeds and episodes begun."""

    def single() -> gym.Env[Any, Any]:
        return Monitor(gym.make(env_id, **options))

    played = {
        "dummy": DummyVecEnv([single] * num_envs),
        "native": LanguageVecEnv(env_id, num_envs, **options),
    }
    for envs in played.values():
        envs.seed(0)
        envs.reset()
    return played


def random_tokens(envs: VecEnv) -> np.ndarray:
    """``(n, N)``: what is played, again and again."""
    rng = np.random.default_rng(0)
    return rng.integers(envs.action_space.n, size=(max(8, 1024 // envs.num_envs), envs.num_envs))


def shares(envs: VecEnv, actions: np.ndarray, seconds: float) -> dict[str, float]:
    """Which share of the time the common work takes, by the profiler, which makes small functions look larger."""
    profile = cProfile.Profile(time.process_time)
    profile.runcall(rate, envs, actions, seconds)
    stats: dict[tuple[str, int, str], Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    whole = sum(own for _, _, own, _, _ in stats.values())
    spent = {(Path(file).name, name): cumulated for (file, _, name), (_, _, _, cumulated, _) in stats.items()}
    return {work: sum(spent.get(key, 0.0) for key in functions) / whole for work, functions in COMMON_WORK.items()}


def measure(env_id: str, options: dict[str, Any], num_envs: int, args: argparse.Namespace) -> dict[str, Any]:
    """Medians of both, and their ratio."""
    played = make_both(env_id, options, num_envs)
    actions = random_tokens(played["native"])
    for envs in played.values():
        rate(envs, actions, args.seconds / 4)
    rates: dict[str, list[float]] = {name: [] for name in played}
    for _ in range(args.repeats):
        for name, envs in played.items():
            rates[name].append(rate(envs, actions, args.seconds))
    for envs in played.values():
        envs.close()
    return {
        "env": env_id,
        "slots": num_envs,
        "native_steps_per_second": Spread.of(rates["native"]),
        "dummy_steps_per_second": Spread.of(rates["dummy"]),
        "ratio": ratios(rates["dummy"], rates["native"]),
        "repeats": rates,
    }


def show_profile(num_envs: int, seconds: float) -> None:
    """Print the shares of both, and of all common work together."""
    print(f"{'':<24}{'':<8}" + "".join(f"{work:>14}" for work in (*COMMON_WORK, "together")))
    for env_id, options in ENVIRONMENTS.items():
        for name, envs in make_both(env_id, options, num_envs).items():
            found = shares(envs, random_tokens(envs), seconds)
            cells = (f"{share:>14.0%}" for share in (*found.values(), sum(found.values())))
            print(f"{env_id:<24}{name:<8}" + "".join(cells), flush=True)
            envs.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=0.4, help="processor time of each repeat")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--profile", action="store_true", help="where the time goes, with the most slots")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()

    if args.profile:
        show_profile(max(args.slots), args.seconds * args.repeats)
        return
    rows = []
    print(f"{'':<24}{'slots':>6}{'DummyVecEnv':>14}{'native':>12}   ratio")
    for env_id, options in ENVIRONMENTS.items():
        for num_envs in args.slots:
            row = measure(env_id, options, num_envs, args)
            rows.append(row)
            dummy, native = (row[f"{name}_steps_per_second"].median for name in ("dummy", "native"))
            print(f"{env_id:<24}{num_envs:>6}{dummy:>14,.0f}{native:>12,.0f}   {row['ratio']:.1f}", flush=True)
    write_json(args.json, args, rows)


if __name__ == "__main__":
    main()
