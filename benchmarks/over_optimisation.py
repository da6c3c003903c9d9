"""A reward that can be hacked: the true score against how far GRPO has gone from its first policy.

    python benchmarks/over_optimisation.py [--json out.json] [--svg curve]      # some three minutes on one core

GRPO learns the diagnostic ``proxy``, whose reward is not what is wanted, once for each price of a nat of KL from the
first policy. Nothing is estimated by sampling: at each point the policy is asked for its distribution in every state,
and what it earns, what that is truly worth and its KL are sums over all responses. You will see how the true score
rises and falls with the root of the KL, beside the frontier: the policies that earn the most at their distance
(``Tree.penalised_optimum``). The penalty is part of the reward, and advantages are in the reward's unit, so that what
GRPO maximises is ``reward - kl_coef * KL``, whose best policy is on the frontier.

Gao, Schulman and Hilton, "Scaling laws for reward model overoptimization", arXiv:2210.10760: the true score as a
function of the root of the KL.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")

import numpy as np  # noqa: E402 - after the number of threads is set
import torch  # noqa: E402
import tyro  # noqa: E402
from side_by_side import Spread, table, versions, write_json  # noqa: E402

from llmgym.agents import GRPO, Policy  # noqa: E402
from llmgym.agents.alarms import TrainingWarning  # noqa: E402
from llmgym.benchmark.language_models import random_llama  # noqa: E402
from llmgym.envs.diagnostics import DIAGNOSTICS  # noqa: E402
from llmgym.envs.diagnostics.conflicts import true_score  # noqa: E402
from llmgym.testing.exact import Tree, build_tree  # noqa: E402
from llmgym.testing.exact_policies import table_of  # noqa: E402
from llmgym.testing.exact_trees import Floats  # noqa: E402

DIAGNOSTIC, SIZE = DIAGNOSTICS["proxy"], "small"  # the size that can be summed over
#: Where the curves are read off, in the root of nats.
DISTANCES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 2.9)


@dataclass(frozen=True)
class Options:
    """What is run.

    Attributes:
        kl_coefs: Prices of a nat of KL, in units of the reward.
        seeds: Runs with each price.
        timesteps: Tokens of each run.
        every: Iterations between two points.
        json: Where the points go.
        svg: Where the picture goes, without ``-light.svg`` and ``-dark.svg``.
    """

    kl_coefs: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2)
    seeds: int = 5
    timesteps: int = 30_000
    every: int = 2
    json: Path | None = None
    svg: Path | None = None


class Point(NamedTuple):
    """A policy, in numbers that are sums over all responses.

    Attributes:
        distance: Root of its KL from the first policy, in nats.
        proxy: What it is paid.
        true: What that is truly worth.
    """

    distance: float
    proxy: float
    true: float


# -- what is known -----------------------------------------------------------------------------------------------------


def true_rewards(tree: Tree, length: int) -> Floats:
    """``(S, A)``: the true score in place of the reward, which is the share of flattering words in ``length``."""
    return np.vectorize(lambda share: true_score(round(share * length), length))(tree.rewards)


def point_of(tree: Tree, true: Floats, policy: Floats, first: Floats) -> Point:
    """Where a policy stands, seen from the first one."""
    distance = max(tree.kl(policy, first).total, 0.0) ** 0.5  # below 0 by rounding, where both are the same
    paid, worth = tree.evaluate(policy), tree.evaluate(policy, rewards=true)
    return Point(distance, paid.expected_return, worth.expected_return)


def frontier(tree: Tree, true: Floats, first: Floats) -> list[Point]:
    """The policies that earn the most at their distance, from the first policy to the one that is as good as best."""
    prices = [np.inf, *np.geomspace(10.0, 0.005, 200)]
    policies = [first if np.isinf(price) else tree.penalised_optimum(first, price) for price in prices]
    return [point_of(tree, true, policy, first) for policy in policies]


def at_distance(curve: Sequence[Point], distance: float) -> Point | None:
    """Where a curve first comes that far, between two points in proportion; ``None`` where it never does.

    >>> at_distance([Point(0.0, 0.1, 0.2), Point(2.0, 0.5, 0.6), Point(1.0, 0.0, 0.0)], 1.5)
    Point(distance=1.5, proxy=0.4, true=0.5)
    """
    for before, after in zip([curve[0], *curve], curve, strict=False):
        if after.distance >= distance:
            share = (
                1.0
                if after.distance == before.distance
                else (distance - before.distance) / (after.distance - before.distance)
            )
            return Point(*(round(b + share * (a - b), 12) for b, a in zip(before, after, strict=True)))
    return None


# -- what is learned ---------------------------------------------------------------------------------------------------


def learn(tree: Tree, true: Floats, kl_coef: float, seed: int, options: Options) -> tuple[Floats, list[Point]]:
    """The first policy, and the points that GRPO passes through."""
    env_options = DIAGNOSTIC.options(SIZE)
    policy = Policy(random_llama(len(tree.actions), len(tree.states[-1].ids) + 1, seed))
    agent = GRPO(
        policy,
        DIAGNOSTIC.env_id,
        env_kwargs=env_options,
        run_dir=None,
        seed=seed,
        num_envs=64,
        group_size=8,
        problems_per_iteration=8,
        n_minibatches=1,
        learning_rate=2e-3,
        warmup_iterations=0,
        advantages="leave_one_out",
        loss_average="constant",
        max_response_tokens=env_options["length"],
        kl_coef=kl_coef,
        kl_in="reward",
        kl_estimator="k1",
    )
    first = table_of(tree, policy)
    points = [point_of(tree, true, first, first)]

    def note(agent: Any, _: Any) -> None:
        if agent.n_iterations % options.every == 0:
            points.append(point_of(tree, true, table_of(tree, policy), first))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)  # a reward that is hacked to its end teaches no more
        agent.learn(total_timesteps=options.timesteps, callback=note, progress_bar=False)
    return first, points


# -- what is shown -----------------------------------------------------------------------------------------------------


def curve_table(curves: dict[float, list[list[Point]]], best: list[list[Point]]) -> str:
    """True scores by distance: a column for the frontier and for each price, means over the seeds that came so far."""
    rows = []
    for distance in DISTANCES:
        cells = [f"{distance:g}"]
        for column, runs in enumerate((best, *curves.values())):
            reached = [point for run in runs if (point := at_distance(run, distance)) is not None]
            told = "-" if not reached else f"{np.mean([p.true for p in reached]):.3f}"
            if column < 2 and reached:
                told = f"{np.mean([p.proxy for p in reached]):.3f}, {told}"
            cells.append(told + (f" ({len(reached)} of {len(runs)})" if 0 < len(reached) < len(runs) else ""))
        rows.append(cells)
    first, *others = (f"kl_coef {kl_coef:g}" for kl_coef in curves)
    return table(("sqrt(KL)", "frontier: proxy, true", f"{first}: proxy, true", *(f"{o}: true" for o in others)), rows)


def end_table(curves: dict[float, list[list[Point]]], limits: dict[float, list[Point]]) -> str:
    """Where each price leads: medians over the seeds and their range, beside the exact optimum of what is maximised."""
    rows = []
    for kl_coef, runs in curves.items():
        ends, limit = [run[-1] for run in runs], limits[kl_coef]
        rows.append(
            (
                f"{kl_coef:g}",
                f"{Spread.of([end.distance for end in ends]):.2f}",
                f"{Spread.of([end.proxy for end in ends]):.3f}",
                f"{Spread.of([end.true for end in ends]):.3f}",
                f"{Spread.of([max(point.true for point in run) for run in runs]):.3f}",
                *(f"{np.median([getattr(point, part) for point in limit]):.3f}" for part in Point._fields),
            )
        )
    headings = ("kl_coef", "sqrt(KL)", "proxy", "true", "best true on the way", "limit: sqrt(KL)", "proxy", "true")
    return table(headings, rows)


def draw(curves: dict[float, list[list[Point]]], best: list[Point], path: Path) -> None:
    """The picture, light and dark: the frontier, and every run."""
    from llmgym.benchmark.pictures import THEMES, Theme, plain_axes, render, style_of

    names = [f"kl_coef {kl_coef:g}" for kl_coef in curves]

    def drawn(figure: Any, _: Any, theme: Theme) -> None:
        figure.set_size_inches(7.5, 4.2)
        axes = figure.add_subplot()
        line = {"color": theme.ink, "linewidth": 1.2}
        axes.plot([p.distance for p in best], [p.true for p in best], label="frontier, true", **line)
        axes.plot([p.distance for p in best], [p.proxy for p in best], label="frontier, proxy", linestyle=":", **line)
        for name, runs in zip(names, curves.values(), strict=True):
            style = style_of(names, theme, name)
            for place, run in enumerate(runs):
                at = [point.distance for point in run], [point.true for point in run]
                axes.plot(*at, markevery=6, alpha=0.7, label=name if place == 0 else None, **style)
        axes.set(xlabel="root of the KL from the first policy, in nats", ylabel="score", ylim=(-0.02, 1.02))
        plain_axes(axes)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    for theme in THEMES:
        Path(f"{path}-{theme.name}.svg").write_text(render(drawn, None, theme), encoding="utf-8")


def main(options: Options) -> None:
    """Learn with each price and each seed, and show where it led."""
    torch.set_num_threads(1)
    started = time.process_time()
    tree = build_tree(DIAGNOSTIC.env_id, **DIAGNOSTIC.options(SIZE))
    true = true_rewards(tree, DIAGNOSTIC.options(SIZE)["length"])
    firsts: list[Floats] = []
    curves: dict[float, list[list[Point]]] = {}
    for kl_coef in options.kl_coefs:
        runs = [learn(tree, true, kl_coef, seed, options) for seed in range(options.seeds)]
        firsts, curves[kl_coef] = [first for first, _ in runs], [points for _, points in runs]
    best = [frontier(tree, true, first) for first in firsts]
    hacked = tree.optimum().policy
    limits = {
        price: [
            point_of(tree, true, tree.penalised_optimum(first, price) if price > 0 else hacked, first)
            for first in firsts
        ]
        for price in curves
    }
    print(curve_table(curves, best), end="\n\n")
    print(end_table(curves, limits))
    seconds = time.process_time() - started
    print(f"\n{sum(map(len, curves.values()))} runs, {seconds:.0f} s of processor time")
    rows = [
        {"kl_coef": kl_coef, "seed": seed, "points": [point._asdict() for point in run]}
        for kl_coef, runs in curves.items()
        for seed, run in enumerate(runs)
    ]
    write_json(options.json, options, rows, seconds=seconds, versions=versions("numpy", "torch"))
    if options.svg is not None:
        draw(curves, best[0], options.svg)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
