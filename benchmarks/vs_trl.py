"""GRPO and PPO against TRL's, end to end: samples a second of CPU time, and held-out accuracy by what it cost.

    pip install "llmgym-rl[agents,bench]"                              # TRL 1.16, which has GRPO
    pip install --no-deps --target trl_1_12 trl==1.12.0                # the last one with PPO
    python benchmarks/vs_trl.py --algorithms grpo ppo --trl-ppo-path trl_1_12 --json vs_trl.json
    python benchmarks/vs_trl.py --n-threads 2                          # wall time on two threads
    python benchmarks/vs_trl.py --learn                                # curves on sums, three seeds, ten minutes

Both start from the same weights and play the same task with the same numbers of prompts, responses and new tokens; one
AdamW step an iteration (PPO: one in each of four epochs), no KL penalty, no dropout, float32. Each case is a process of
its own in which TRL's step and llmgym's iteration take turns (see ``trl_peer.py`` for how TRL is set up), so a busy
machine slows both; a repeat is one step of each. "uneven" draws the length of each response uniformly between a tenth
of the budget and all of it, from the same distribution for both. The reward is the share of even tokens, so that every
group has signal: llmgym leaves groups without signal out of learning, and here there are none to leave out.

PPO differs as the libraries do: TRL has a value model of its own and computes a reference whatever its KL weight is;
llmgym has a value head on the policy's trunk.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from side_by_side import Spread, answer_of, check_trl, clock_of, from_plain, ratios, table, versions, write_json
from tasks import (
    CHARACTERS,
    END,
    SUMS,
    SumsTask,
    held_out_accuracy,
    llama,
    never,
    tokenizer,
    warm_llama,
)

#: Response budgets: of the throughput cases, and of sums of two digits.
LEARN_TOKENS = 8


@dataclass(frozen=True)
class VsTRL:
    """What to compare.

    Attributes:
        algorithms: PPO needs trl_ppo_path.
        hidden: Sizes of the Llama, four layers with heads of 32: 0.8, 3.1 and 5.0 M parameters.
        lengths: "full": nobody may end early. "uneven": lengths drawn between a tenth of the budget and all of it.
        n_prompts: Prompts of a step.
        group_size: Responses to each; PPO plays as many responses, each to a prompt of its own.
        max_new_tokens: Budget of a response.
        n_epochs: Of PPO.
        dtype: "bfloat16": TRL with bf16=True, llmgym with weights in bfloat16 and their masters in float32.
        n_threads: 1: CPU seconds. More: wall seconds, on an idle machine.
        repeats: Steps of each that are timed.
        warm_up: Steps before those.
        trl_ppo_path: Folder with a TRL that has PPO.
        learn: Curves of held-out accuracy with GRPO in place of throughput.
        seeds: Of the curves.
        n_learn_steps: Steps of each curve.
        check_every: Steps between evaluations, which no clock counts.
        learning_rate: Of AdamW, constant.
        json: File for the figures.
    """

    algorithms: tuple[Literal["grpo", "ppo"], ...] = ("grpo",)
    hidden: tuple[int, ...] = (128, 256, 320)
    lengths: tuple[Literal["full", "uneven"], ...] = ("full", "uneven")
    n_prompts: int = 16
    group_size: int = 8
    max_new_tokens: int = 32
    n_epochs: int = 4
    dtype: Literal["float32", "bfloat16"] = "float32"
    n_threads: int = 1
    repeats: int = 9
    warm_up: int = 2
    trl_ppo_path: Path | None = None
    learn: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)
    n_learn_steps: int = 200
    check_every: int = 5
    learning_rate: float = 1e-4
    json: Path | None = None


@dataclass(frozen=True)
class Case:
    """One process: a comparison with one set of numbers."""

    algorithm: str
    hidden: int
    lengths: str
    seed: int
    options: VsTRL


# -- in the process of a case -----------------------------------------------------------------------------------------


def make_agent(case: Case, model: Any) -> Any:
    """llmgym's side."""
    from llmgym.agents.grpo import GRPO
    from llmgym.agents.policies import Policy
    from llmgym.agents.ppo import PPO

    options = case.options
    policy = Policy(model.to(getattr(torch, options.dtype)), tokenizer())
    if case.lengths != "free":
        policy.forbidden = never(END, len(CHARACTERS))
    settings: dict[str, Any] = {
        "n_minibatches": 1,
        "learning_rate": options.learning_rate,
        "warmup_iterations": 0,
        "final_learning_rate": 1.0,
        "adam_betas": (0.9, 0.999),
        "loss_average": "token",
        "seed": case.seed,
        "run_dir": None,
        "env_kwargs": {"lengths": case.lengths, "max_new_tokens": _budget(case)},
    }
    if case.algorithm == "grpo":
        sizes = {"problems_per_iteration": options.n_prompts, "group_size": options.group_size}
        return GRPO(policy, SUMS, n_epochs=1, **sizes, **settings)
    n_problems = options.n_prompts * options.group_size
    sizes = {"problems_per_iteration": n_problems, "responses_per_problem": 1}
    return PPO(policy, SUMS, n_epochs=options.n_epochs, critic="head", vf_coef=0.5, **sizes, **settings)


def _budget(case: Case) -> int:
    return LEARN_TOKENS if case.options.learn else case.options.max_new_tokens


def run_case(case: Case) -> dict[str, Any]:
    """Step both in turn; the lists of what was measured."""
    from trl_peer import TRAINERS, Turns, Work

    options = case.options
    torch.set_num_threads(options.n_threads)
    rng, task = np.random.default_rng(123), SumsTask()
    problems = [task.sample(rng) for _ in range(4096)]
    n_steps = options.n_learn_steps if options.learn else options.warm_up + options.repeats
    work = Work(
        prompts=[problem.question for problem in problems],
        answers=[problem.reference_answer for problem in problems] if options.learn else [],
        n_prompts=options.n_prompts,
        group_size=options.group_size,
        max_new_tokens=_budget(case),
        n_steps=n_steps,
        lengths=case.lengths,  # type: ignore[arg-type]
        n_epochs=options.n_epochs,
        learning_rate=options.learning_rate,
        bfloat16=options.dtype == "bfloat16",
        seed=case.seed,
    )
    make_model = warm_llama if options.learn else llama
    agent, theirs = make_agent(case, make_model(case.hidden)), make_model(case.hidden)
    clock = clock_of(options.n_threads)
    signal: list[float] = []
    lengths: list[float] = []
    accuracy: dict[str, list[float]] = {"ours": [], "theirs": []}

    def check() -> None:
        for name, model in (("ours", agent.policy.model), ("theirs", theirs)):
            accuracy[name].append(held_out_accuracy(model))

    def turn(step: int) -> float:
        start = clock()
        metrics = agent.iterate()
        seconds = clock() - start
        signal.append(metrics.get("train/groups_with_signal", 1.0))  # PPO has no groups
        lengths.append(metrics["rollout/length"])
        if options.learn and step % options.check_every == 0:
            check()
        return seconds

    if options.learn:
        check()
    turns = Turns(turn, clock)
    trainer = TRAINERS[case.algorithm](theirs, work, [turns])
    torch.set_num_threads(options.n_threads)  # whatever the trainer thought of it
    trainer.train()
    return {
        "n_parameters": sum(parameter.numel() for parameter in theirs.parameters()),
        "ours_seconds": turns.ours,
        "theirs_seconds": turns.theirs,
        "accuracy": accuracy,
        "groups_with_signal": min(signal),
        "mean_length": {
            "ours": float(np.mean(lengths)),
            "theirs": None if options.learn else theirs.generate.n_tokens / (n_steps * work.n_samples),
        },
        "versions": versions("torch", "transformers", "trl"),
    }


# -- in the process that was started ----------------------------------------------------------------------------------


def spawn(case: Case) -> dict[str, Any]:
    """Run a case in a process of its own."""
    plain = asdict(case) | {"options": asdict(case.options) | {"json": None, "trl_ppo_path": None}}
    path = [case.options.trl_ppo_path] if case.algorithm == "ppo" and case.options.trl_ppo_path else []
    result: dict[str, Any] = answer_of("vs_trl:answer", plain, n_threads=case.options.n_threads, path=path)
    return result


def answer(plain: dict[str, Any]) -> dict[str, Any]:
    """What the process of a case does."""
    return run_case(Case(**plain | {"options": from_plain(VsTRL, plain["options"])}))


def check_installed(options: VsTRL) -> None:
    """Say what is missing."""
    check_trl()
    if "ppo" in options.algorithms and not options.learn:
        folder = options.trl_ppo_path
        if folder is None or not (folder / "trl" / "experimental" / "ppo").is_dir():
            sys.exit(
                f"Expected --trl-ppo-path to hold a TRL with PPO, actual: {folder}. Run: "
                "pip install --no-deps --target trl_1_12 trl==1.12.0"
            )


def throughput(options: VsTRL) -> list[dict[str, Any]]:
    """All cases, as rows; each is printed as soon as it is known."""
    n_samples = options.n_prompts * options.group_size
    rows = []
    for algorithm in options.algorithms:
        for hidden in options.hidden:
            for lengths in options.lengths:
                case = Case(algorithm, hidden, lengths, 0, options)
                result = spawn(case)
                ours, theirs = (result[f"{who}_seconds"][options.warm_up :] for who in ("ours", "theirs"))
                row = {
                    "algorithm": algorithm,
                    "lengths": lengths,
                    "samples_per_second": {
                        who: Spread.of([n_samples / seconds for seconds in timed])._asdict()
                        for who, timed in (("ours", ours), ("theirs", theirs))
                    },
                    "ratio": ratios(ours, theirs)._asdict(),
                    **result,
                }
                rows.append(row)
                print(
                    f"{algorithm} {hidden} {lengths}: {Spread(**row['ratio']):.2f} x TRL", file=sys.stderr, flush=True
                )
    return rows


def print_throughput(options: VsTRL, rows: list[dict[str, Any]]) -> None:
    unit = "CPU second" if options.n_threads == 1 else "second"
    rates = [f"llmgym, samples a {unit}", "TRL", "ratio (lowest-highest)"]
    headings = ["algorithm", "parameters", "lengths", "tokens a response, llmgym", "TRL", *rates]
    cells = [
        [
            row["algorithm"].upper(),
            f"{row['n_parameters'] / 1e6:.2f} M",
            row["lengths"],
            *(f"{length:.1f}" for length in row["mean_length"].values()),
            f"{row['samples_per_second']['ours']['median']:.1f}",
            f"{row['samples_per_second']['theirs']['median']:.1f}",
            f"{Spread(**row['ratio']):.2f}",
        ]
        for row in rows
    ]
    print(table(headings, cells))


def curves(options: VsTRL) -> list[dict[str, Any]]:
    """A row for each seed."""
    rows = []
    for seed in options.seeds:
        result = spawn(Case("grpo", options.hidden[0], "free", seed, options))
        every = options.check_every
        for who in ("ours", "theirs"):
            spent = np.concatenate([[0.0], np.cumsum(result[f"{who}_seconds"])])
            result[f"{who}_cpu_seconds"] = spent[::every].tolist()
        rows.append({"seed": seed, **result})
        print(f"seed {seed}: {result['accuracy']}", file=sys.stderr, flush=True)
    return rows


def first_at(level: float, accuracy: np.ndarray, cost: np.ndarray) -> float:
    """What it cost to reach a level, between two evaluations by a straight line; infinite where it was not reached.

    >>> first_at(0.75, np.array([0.5, 1.0]), np.array([0.0, 10.0]))
    5.0
    """
    reached = np.flatnonzero(accuracy >= level)
    if len(reached) == 0:
        return float("inf")
    at = int(reached[0])
    if at == 0:
        return float(cost[0])
    share = (level - accuracy[at - 1]) / (accuracy[at] - accuracy[at - 1])
    return float(cost[at - 1] + share * (cost[at] - cost[at - 1]))


def print_curves(options: VsTRL, rows: list[dict[str, Any]]) -> None:
    """When each level of accuracy was reached, by the mean over seeds, in samples and in seconds."""
    n_samples = options.n_prompts * options.group_size
    mean = {who: np.mean([row["accuracy"][who] for row in rows], axis=0) for who in ("ours", "theirs")}
    seconds = {who: np.mean([row[f"{who}_cpu_seconds"] for row in rows], axis=0) for who in ("ours", "theirs")}
    samples = np.arange(len(mean["ours"])) * options.check_every * n_samples
    cells = []
    low = max(mean["ours"][0], mean["theirs"][0])
    for level in np.arange(np.ceil(low * 25) / 25, max(map(np.max, mean.values())), 0.04):
        cost = {who: (first_at(level, mean[who], samples), first_at(level, mean[who], seconds[who])) for who in mean}
        cells.append(
            [f"{100 * level:.0f} %"]
            + [f"{cost[who][0]:,.0f}" if np.isfinite(cost[who][0]) else "never" for who in cost]
            + [f"{cost[who][1]:.1f}" if np.isfinite(cost[who][1]) else "never" for who in cost]
        )
    print(table(["held-out accuracy", "samples, llmgym", "TRL", "seconds, llmgym", "TRL"], cells))
    for who, name in (("ours", "llmgym"), ("theirs", "TRL")):
        over_curve = Spread.of([float(np.mean(row["accuracy"][who])) for row in rows])
        print(
            f"{name}: {mean[who][0]:.3f} -> {mean[who][-1]:.3f} after {int(samples[-1]):,} samples and "
            f"{seconds[who][-1]:.1f} s, mean of {len(rows)} seed(s); over the whole curve {over_curve:.3f}"
        )


def main(options: VsTRL) -> list[dict[str, Any]]:
    """Measure, print, write."""
    check_installed(options)
    rows = curves(options) if options.learn else throughput(options)
    (print_curves if options.learn else print_throughput)(options, rows)
    write_json(options.json, options, rows)
    return rows


if __name__ == "__main__":
    main(tyro.cli(VsTRL, description=__doc__))
