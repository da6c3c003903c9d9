"""How many token steps a second the environments make, beside CartPole in the same run.

    python benchmarks/env_throughput.py [--json out.json]

Random actions that are no special tokens, so that episodes run to their budget; decoding, judging by a usual stack of
rewards, drawing and encoding the next problem are all included. Rates are per second of processor time of one thread,
since other programs may share the machine; the ratio to Gymnasium's CartPole tells how fast the machine is. About half
a minute. You will see a table of four rows.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import gymnasium as gym  # noqa: E402 - after the number of threads is set
import numpy as np  # noqa: E402

import llmgym  # noqa: E402

REWARDS = {"correctness": 1.0, "format": 0.1}


def plain_tokens(tokenizer: llmgym.Tokenizer) -> np.ndarray:
    """Ids of all tokens but the special ones, which could end an episode."""
    special = tokenizer.ids_containing("<") & tokenizer.ids_containing(">")  # a fresh array
    special[tokenizer.end_token_id] = special[tokenizer.pad_token_id] = True
    return np.flatnonzero(~special)


def rate(step: Callable[[Any], None], actions: Any, steps_each: int, seconds: float, repeats: int) -> float:
    """Steps a second of processor time: the best of several runs, since disturbances only ever slow down."""
    for action in actions[: len(actions) // 4]:
        step(action)
    best = 0.0
    for _ in range(repeats):
        n_calls, start = 0, time.process_time()
        while time.process_time() - start < seconds:
            for action in actions:
                step(action)
            n_calls += len(actions)
        best = max(best, n_calls * steps_each / (time.process_time() - start))
    return best


def vector_rate(env_id: str, num_envs: int, actions: Any, args: argparse.Namespace, **options: Any) -> float:
    envs = gym.make_vec(env_id, num_envs=num_envs, vectorization_mode="vector_entry_point", **options)
    envs.reset(seed=0)
    return rate(lambda action: envs.step(action) and None, actions, num_envs, args.seconds, args.repeats)


def single_rate(env_id: str, actions: Any, args: argparse.Namespace, **options: Any) -> float:
    env = gym.make(env_id, **options)
    env.reset(seed=0)

    def step(action: int) -> None:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()

    return rate(step, actions, 1, args.seconds, args.repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="llmgym/MathReason-v0")
    parser.add_argument("--num-envs", type=int, default=256)
    parser.add_argument("--max-prompt-tokens", type=int, default=128)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=2.0, help="processor time of each run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each row; the best one counts")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()

    options = {
        "max_prompt_tokens": args.max_prompt_tokens,
        "max_new_tokens": args.max_new_tokens,
        "rewards": REWARDS,
    }
    rng = np.random.default_rng(0)
    tokens = plain_tokens(gym.make(args.env).unwrapped.tokenizer)
    batches = rng.choice(tokens, size=(512, args.num_envs))
    singles = rng.choice(tokens, size=8192).tolist()
    cart_batches = rng.integers(2, size=(512, args.num_envs))
    cart_singles = rng.integers(2, size=8192).tolist()

    cart_vector = vector_rate("CartPole-v1", args.num_envs, list(cart_batches), args)
    ours_vector = vector_rate(args.env, args.num_envs, list(batches), args, **options)
    cart_single = single_rate("CartPole-v1", cart_singles, args)
    ours_single = single_rate(args.env, singles, args, **options)
    rows = [
        (f"CartPole-v1, vector, {args.num_envs} slots", cart_vector, 1.0),
        (f"{args.env}, vector, {args.num_envs} slots", ours_vector, ours_vector / cart_vector),
        ("CartPole-v1, single", cart_single, 1.0),
        (f"{args.env}, single", ours_single, ours_single / cart_single),
    ]
    print(f"{'':<44}{'steps / s':>12}{'x CartPole':>12}")
    for name, steps, ratio in rows:
        print(f"{name:<44}{steps:>12,.0f}{ratio:>12.2f}")
    if args.json is not None:
        figures = {name: {"steps_per_second": steps, "ratio_to_cartpole": ratio} for name, steps, ratio in rows}
        args.json.write_text(json.dumps({"options": options, "rows": figures}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
