"""The main job: GRPO trains the shipped model on ``llmgym/MathReason-v0``, and what it learned is shown.

    python benchmarks/main_job.py                     # one seed, about 12 minutes on two CPU cores
    python benchmarks/main_job.py --seeds 0 1 2       # the figures of the README, with intervals over seeds

All accuracies are of the same held-out problems at temperature 1. Beside the base model and the trained one, the table
has two rows that tell what the training is worth:

- *reasoning forced*: the untrained base, with an empty thinking part forbidden. Part of every early climb is a model
  that learns to use reasoning it has already; this row is what that alone gives.
- *more supervised training*: the base after the same minutes of what it was made with, instead of reinforcement.

Writes ``report.md``, ``report.png``, ``results.json``, the metrics of every iteration and the trained model.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

import llmgym  # noqa: F401  (registers the ids)
from llmgym.agents import GRPO, Evaluation, GRPOConfig, Policy
from llmgym.agents.sft import SFT, Example, SFTConfig
from llmgym.envs.math_reason import MathTask, demonstrations

ENV = "llmgym/MathReason-v0"
REWARDS = {"correctness": 1.0, "format": 0.1}

#: 97.5 % quantiles of Student's t distribution, by degrees of freedom: intervals over seeds hold 95 %.
T_QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True)
class MainJob:
    """What to run.

    Attributes:
        seeds: One training each.
        minutes: Of training, evaluations left out.
        train: "grpo", and "supervised" for the base trained for as long with supervision, for comparison.
        n_problems: Held-out problems in each evaluation.
        base_samples: Responses to each when the base is evaluated; gives its pass@k.
        n_checks: Evaluations during training.
        output: Folder to write to.
        model: The base model.
        grpo: Hyperparameters of the training.
        n_threads: CPU threads; the figures are of two.
    """

    seeds: tuple[int, ...] = (0,)
    minutes: float = 5.0
    train: tuple[Literal["grpo", "supervised"], ...] = ("grpo", "supervised")
    n_problems: int = 500
    base_samples: int = 16
    n_checks: int = 4
    output: Path = Path("runs/main_job")
    model: str = "tiny-reasoner"
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    n_threads: int = 2


@dataclass
class SeedResult:
    """Evaluations of one seed: name of the row -> evaluation, and the curves."""

    seed: int
    rows: dict[str, Evaluation]
    checks: list[tuple[float, Evaluation]]  # minutes of training, evaluation
    iterations: list[dict[str, Any]]
    env_share: float


def forced_reasoning(policy: Policy) -> dict[int, list[int]]:
    """The rule that forbids an empty thinking part: no ``</think>`` right after ``<think>``."""
    assert policy.tokenizer is not None
    (think,), (end_think,) = policy.tokenizer.encode("<think>"), policy.tokenizer.encode("</think>")
    return {think: [end_think]}


def run_seed(job: MainJob, seed: int, console: Console) -> SeedResult:
    """Evaluate the base, train, evaluate; then train the base with supervision instead."""
    config = GRPOConfig(**(asdict(job.grpo) | {"seed": seed, "run_dir": str(job.output / f"seed_{seed}")}))
    agent = GRPO(job.model, ENV, config, env_kwargs={"rewards": REWARDS})
    base = copy.deepcopy(agent.policy.model)
    rows: dict[str, Evaluation] = {}

    def assess(name: str, samples: int = 1, forbidden: Any = None) -> Evaluation:
        rows[name] = agent.evaluate(job.n_problems, samples, forbidden=forbidden)
        console.print(f"  {name:24s} {rows[name]}", highlight=False)
        return rows[name]

    console.print(f"Seed {seed}: {job.n_problems} held-out problems, then {job.minutes:g} minutes of GRPO")
    checks = [(0.0, assess("base", job.base_samples))]
    assess("base, reasoning forced", forbidden=forced_reasoning(agent.policy))

    iterations: list[dict[str, Any]] = []

    def check(agent: GRPO, metrics: Any) -> None:
        iterations.append(dict(metrics))
        due = len(checks) * job.minutes / (job.n_checks + 1)
        if agent.train_seconds / 60 >= due and len(checks) <= job.n_checks:
            evaluation = agent.evaluate(job.n_problems)
            checks.append((agent.train_seconds / 60, evaluation))
            console.print(f"  after {agent.train_seconds / 60:.1f} minutes        {evaluation}", highlight=False)

    share = math.nan
    if "grpo" in job.train:
        agent.learn(max_seconds=60 * job.minutes, callback=check)
        checks.append((agent.train_seconds / 60, assess("GRPO")))
        agent.save(job.output / f"seed_{seed}" / "model")
        share = agent.env_seconds / agent.train_seconds
        console.print(
            f"  {agent.n_iterations} iterations; the environment took {100 * share:.2f} % of the training's wall time"
        )

    if "supervised" in job.train:
        agent.policy = Policy(base, agent.policy.tokenizer, n_actions=agent.policy.n_actions, seed=seed)
        # The rates are those at which the base's own training ended its steady phase, fallen by ten.
        sft = SFTConfig(learning_rate=2e-4, muon_learning_rate=2e-3, seed=seed)
        SFT(base, supervised_examples(agent.policy, 1000 + seed), sft).learn(max_seconds=60 * job.minutes)
        assess("more supervised training")
    return SeedResult(seed, rows, checks, iterations, share)


def supervised_examples(policy: Policy, seed: int) -> Iterator[Example]:
    """The mix that the base was made with, from a seed that it has not seen."""
    tokenizer = policy.tokenizer
    assert tokenizer is not None
    for problem, response in demonstrations(MathTask(split="train"), seed=seed):
        yield tokenizer.encode(f"{problem.question}\n"), [*tokenizer.encode(response), tokenizer.end_token_id]


def interval_over_seeds(values: Sequence[float]) -> str:
    """Mean and the half width of its 95 % interval, in percent (Student's t)."""
    mean = 100 * float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.1f} %"
    quantile = T_QUANTILES[min(len(values) - 1, max(T_QUANTILES))]  # beyond the table: a little too wide
    half = 100 * quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return f"{mean:.1f} ± {half:.1f} %"


def table_rows(results: Sequence[SeedResult]) -> list[tuple[str, ...]]:
    """One row for each evaluation: name, pass@1, seeds or interval, reward parts, length."""
    rows = []
    for name in results[0].rows:
        evaluations = [result.rows[name] for result in results]
        if len(results) == 1:
            low, high = evaluations[0].interval
            spread = f"[{100 * low:.1f}, {100 * high:.1f}]"
        else:
            spread = " / ".join(f"{100 * evaluation.pass_at_1:.1f}" for evaluation in evaluations)
        k = max(evaluations[0].pass_at_k)
        more = f"{100 * np.mean([e.pass_at_k[k] for e in evaluations]):.1f} % (k={k})" if k > 1 else ""
        parts = ", ".join(
            f"{part} {np.mean([e.reward_components[part] for e in evaluations]):.3f}"
            for part in evaluations[0].reward_components
        )
        length = f"{np.mean([e.mean_length for e in evaluations]):.1f}"
        rows.append((name, interval_over_seeds([e.pass_at_1 for e in evaluations]), spread, more, length, parts))
    return rows


def headings(results: Sequence[SeedResult]) -> tuple[str, ...]:
    """Column headings of :func:`table_rows`."""
    spread = "95 % interval over problems" if len(results) == 1 else "seeds"
    return ("", "pass@1", spread, "pass@k", "tokens", "mean reward parts")


def side_by_side(result: SeedResult, n: int = 4) -> list[tuple[str, str, str, bool, bool]]:
    """Some problems: prompt, response of the base, response of the trained model, which were right."""
    if "GRPO" not in result.rows:
        return []
    before, after = result.rows["base"].examples, result.rows["GRPO"].examples
    by_prompt = {example["prompt"]: example for example in after}
    pairs = [(b, by_prompt[b["prompt"]]) for b in before if b["prompt"] in by_prompt]
    return [(b["prompt"].strip(), b["response"], a["response"], b["solved"], a["solved"]) for b, a in pairs[:n]]


def write_report(job: MainJob, results: Sequence[SeedResult]) -> None:
    """``report.md``, ``report.png`` and ``results.json``."""
    lines = [f"# {ENV}: {job.minutes:g} minutes of GRPO, {len(results)} seed(s)", ""]
    lines += ["| " + " | ".join(headings(results)) + " |", "|---" * 6 + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in table_rows(results)]
    share = np.mean([result.env_share for result in results])
    if not math.isnan(share):
        lines += ["", f"Environment's share of the training's wall time: {100 * share:.2f} %."]
    lines += ["", "![curves](report.png)"]
    for prompt, before, after, was_right, is_right in side_by_side(results[0]):
        lines += ["", f"**{prompt}**", "", f"Before ({'right' if was_right else 'wrong'}):", "```", before, "```"]
        lines += [f"After ({'right' if is_right else 'wrong'}):", "```", after, "```"]
    _replace(job.output / "report.md", "\n".join(lines) + "\n")
    values = [
        {
            "seed": result.seed,
            "rows": {name: evaluation.to_dict() for name, evaluation in result.rows.items()},
            "checks": [{"minutes": minutes, "pass_at_1": e.pass_at_1} for minutes, e in result.checks],
            "env_share": None if math.isnan(result.env_share) else result.env_share,
        }
        for result in results
    ]
    _replace(job.output / "results.json", json.dumps(values, indent=1))
    draw(results, job.output / "report.png")


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def draw(results: Sequence[SeedResult], path: Path) -> None:
    """Accuracy, response length and reward parts over the minutes of training; some responses before and after."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    blue, grey, orange, green = "#2b6cb0", "#888888", "#c05621", "#2f855a"
    figure = plt.figure(figsize=(13, 9), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=[1, 0.95])
    accuracy, length, parts = (figure.add_subplot(grid[0, i]) for i in range(3))
    for i, result in enumerate(results):
        minutes = [m for m, _ in result.checks]
        values = [100 * e.pass_at_1 for _, e in result.checks]
        low, high = ([100 * e.interval[side] for _, e in result.checks] for side in (0, 1))
        accuracy.plot(minutes, values, "o-", color=blue, label="GRPO" if i == 0 else None)
        accuracy.fill_between(minutes, low, high, color=blue, alpha=0.15 / len(results), linewidth=0)
        clock = [m["seconds"] / 60 for m in result.iterations]
        length.plot(clock, [m["rollout/length"] for m in result.iterations], color=blue, alpha=0.8)
        for name, colour in zip(REWARDS, (blue, green), strict=False):
            series = [m[f"reward/{name}"] for m in result.iterations]
            parts.plot(clock, series, color=colour, alpha=0.8, label=name if i == 0 else None)
    for name, colour in (("base, reasoning forced", orange), ("more supervised training", grey)):
        if name in results[0].rows:
            level = 100 * float(np.mean([result.rows[name].pass_at_1 for result in results]))
            accuracy.axhline(level, color=colour, linestyle="--", label=name)
    accuracy.set(title="Held-out pass@1 (%)", xlabel="minutes of training", ylim=(0, 100))
    accuracy.legend(loc="lower right", frameon=False)
    length.set(title="Response length (tokens)", xlabel="minutes of training", ylim=(0, None))
    parts.set(title="Reward parts (mean of an iteration)", xlabel="minutes of training", ylim=(0, None))
    parts.legend(loc="center right", frameon=False)
    for axes in (accuracy, length, parts):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    _draw_responses(figure.add_subplot(grid[1, :]), results[0])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_responses(axes: Any, result: SeedResult) -> None:
    """Responses before and after, side by side; only problems whose text the figure's font can write."""
    axes.axis("off")
    pairs = [pair for pair in side_by_side(result, n=99) if pair[0].isascii()][:3]
    for column, (prompt, before, after, was_right, is_right) in enumerate(pairs):
        x = column / 3
        axes.text(x, 1.0, _wrap(prompt, 52), fontsize=9, weight="bold", va="top", transform=axes.transAxes)
        for y, title, text, right in ((0.80, "before", before, was_right), (0.50, "after", after, is_right)):
            colour = "#2f855a" if right else "#c53030"
            label = f"{title} ({'right' if right else 'wrong'})"
            axes.text(x, y, label, fontsize=8.5, color=colour, va="top", transform=axes.transAxes)
            body = _wrap(text, 52)
            axes.text(x, y - 0.06, body, fontsize=8, family="monospace", va="top", transform=axes.transAxes)


def _wrap(text: str, width: int) -> str:
    return "\n".join(line[i : i + width] for line in text.split("\n") for i in range(0, max(len(line), 1), width))


def main(job: MainJob) -> list[SeedResult]:
    """Run all seeds, print the table, write the report."""
    torch.set_num_threads(job.n_threads)
    job.output.mkdir(parents=True, exist_ok=True)
    console = Console()
    results: list[SeedResult] = []
    for seed in job.seeds:
        results.append(run_seed(job, seed, console))
        write_report(job, results)  # what is done is not lost if a later seed is interrupted
    table = Table(*headings(results), title=f"{ENV}, {job.minutes:g} minutes on {job.n_threads} threads")
    for row in table_rows(results):
        table.add_row(*row)
    console.print(table)
    for prompt, before, after, was_right, is_right in side_by_side(results[0]):
        pair = Table(
            f"before ({'right' if was_right else 'wrong'})", f"after ({'right' if is_right else 'wrong'})", title=prompt
        )
        pair.add_row(before, after)
        console.print(pair, markup=False)
    console.print(f"Report: {job.output / 'report.md'}, picture: {job.output / 'report.png'}")
    return results


if __name__ == "__main__":
    main(tyro.cli(MainJob))
