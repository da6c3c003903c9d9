"""How many token steps a second the environments make, beside CartPole in the same run; and what that is of a training.

    python benchmarks/env_throughput.py [--json out.json]

Random actions that are no special tokens, so that episodes run to their budget; decoding, judging by a usual stack of
rewards, drawing and encoding the next problem are all included. Rates are per second of processor time of one thread,
since other programs may share the machine; the ratio to Gymnasium's CartPole tells how fast the machine is.

Then a verifier that takes long, judged by the environment's own process and by workers (`reward_workers`), in episodes
a second of wall time; one that computes, and one that waits as for a sandbox or a server. Last, the environment's share
of the wall time of a training of the shipped model. About a minute and a half. You will see three tables.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
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
from llmgym.rewards import REWARDS as KNOWN_REWARDS  # noqa: E402
from llmgym.rewards import Reward  # noqa: E402

REWARDS = {"correctness": 1.0, "format": 0.1}


class SlowReward(Reward):
    """Stands for a verifier that takes some milliseconds.

    Args:
        waits: Whether it waits, as for a server; otherwise it computes.
        milliseconds: How long it waits, or about how long it computes.
    """

    name = "slow"

    def __init__(self, waits: bool, milliseconds: int) -> None:
        self.waits = waits
        self.milliseconds = milliseconds

    def score(self, transcript: llmgym.Transcript) -> float:
        """1, after a while."""
        if self.waits:
            time.sleep(self.milliseconds / 1000)
        else:
            hashlib.pbkdf2_hmac("sha256", transcript.response.encode(), b"", 2_000 * self.milliseconds)
        return 1.0


KNOWN_REWARDS[SlowReward.name] = SlowReward  # also in the workers, which import this file


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


def judged_rate(env_id: str, args: argparse.Namespace, *, waits: bool, workers: int) -> float:
    """Episodes a second of wall time, each judged by a slow reward; the start of the workers left out."""
    envs = gym.make_vec(
        env_id,
        num_envs=args.judged_envs,
        vectorization_mode="vector_entry_point",
        action_unit="response",
        autoreset_mode="same_step",
        rewards={"slow": {"waits": waits, "milliseconds": args.slow_milliseconds}},
        reward_workers=workers,
    )
    envs.reset(seed=0)
    responses = [f"<answer>{slot}</answer>" for slot in range(args.judged_envs)]
    for _ in range(2):
        envs.step(responses)
    start = time.perf_counter()
    for _ in range(args.judged_steps):
        envs.step(responses)
    seconds = time.perf_counter() - start
    envs.close()
    return args.judged_steps * args.judged_envs / seconds


def judging(args: argparse.Namespace) -> dict[str, float]:
    """Episodes a second by the kind of reward and the number of workers."""
    rates: dict[str, float] = {}
    for waits in (False, True):
        doing = "waits" if waits else "computes"
        here = judged_rate(args.env, args, waits=waits, workers=0)
        rates[f"a reward that {doing}, no workers"] = here
        for workers in args.workers:
            rates[f"a reward that {doing}, {workers} workers"] = judged_rate(
                args.env, args, waits=waits, workers=workers
            )
    print(f"\n{'episodes / s of wall time':<44}{'episodes / s':>14}{'x none':>10}")
    for name, episodes in rates.items():
        none = rates[f"{name.rpartition(',')[0]}, no workers"]
        print(f"{name:<44}{episodes:>14,.0f}{episodes / none:>10.2f}")
    return rates


def training(args: argparse.Namespace) -> dict[str, float]:
    """Seconds of a training of the shipped model, in all and inside ``reset`` and ``step``."""
    import torch

    from llmgym.agents import GRPO, GRPOConfig

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(num_envs=args.num_envs, seed=0, run_dir=folder)
        agent = GRPO("tiny-reasoner", args.env, config, env_kwargs={"rewards": REWARDS})
        agent.learn(max_seconds=args.train_seconds)
        agent.close()
    share = agent.env_seconds / agent.train_seconds
    print(f"\nOf {agent.train_seconds:.1f} s of training with {args.num_envs} slots, the environment took {share:.2%}.")
    return {"seconds": agent.train_seconds, "env_seconds": agent.env_seconds, "env_share": share}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="llmgym/MathReason-v0")
    parser.add_argument("--num-envs", type=int, default=256)
    parser.add_argument("--max-prompt-tokens", type=int, default=128)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=2.0, help="processor time of each run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each row; the best one counts")
    parser.add_argument("--workers", type=int, nargs="*", default=[2, 8], help="numbers of reward workers to compare")
    parser.add_argument("--slow-milliseconds", type=int, default=5, help="what a slow reward takes")
    parser.add_argument("--judged-envs", type=int, default=64, help="episodes that end in the same step")
    parser.add_argument("--judged-steps", type=int, default=6, help="steps of each row with a slow reward")
    parser.add_argument("--train-seconds", type=float, default=20.0, help="of training; 0 leaves it out")
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
    ours_shared = vector_rate(args.env, args.num_envs, list(batches), args, copy=False, **options)
    cart_single = single_rate("CartPole-v1", cart_singles, args)
    ours_single = single_rate(args.env, singles, args, **options)
    rows = [
        (f"CartPole-v1, vector, {args.num_envs} slots", cart_vector, 1.0),
        (f"{args.env}, vector, {args.num_envs} slots", ours_vector, ours_vector / cart_vector),
        (f"{args.env}, the same, copy=False", ours_shared, ours_shared / cart_vector),
        ("CartPole-v1, single", cart_single, 1.0),
        (f"{args.env}, single", ours_single, ours_single / cart_single),
    ]
    print(f"{'':<44}{'steps / s':>12}{'x CartPole':>12}")
    for name, steps, ratio in rows:
        print(f"{name:<44}{steps:>12,.0f}{ratio:>12.2f}")
    figures = {name: {"steps_per_second": steps, "ratio_to_cartpole": ratio} for name, steps, ratio in rows}
    results: dict[str, Any] = {"options": options, "rows": figures, "judged_per_second": judging(args)}
    if args.train_seconds:
        results["training"] = training(args)
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
