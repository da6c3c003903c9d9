"""The report of a benchmark: what was measured, in tables and pictures, as Markdown and as one HTML page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from llmgym.benchmark.documents import Block, Code, Heading, Paragraph, Picture, Table, markdown, page
from llmgym.benchmark.entries import Entry
from llmgym.benchmark.pictures import pictures
from llmgym.benchmark.statistics import Interval
from llmgym.benchmark.summary import Summary

TABLE, MARKDOWN, PAGE = "results.csv", "report.md", "report.html"

#: Name of a picture -> what it shows.
_SHOWN = {
    "radar": "A web for each agent: its score on each axis, from the centre (random tokens) to the rim (the "
    "optimum), with 95 % intervals on the axes.",
    "aggregates": "Interquartile mean, optimality gap and regret of each agent, with 95 % intervals.",
    "profiles": "For each agent the share of its runs that score above a threshold, with 95 % bands.",
    "curves": "For each challenge the score of each agent over environment steps, with 95 % bands over seeds.",
}


def write_report(summary: Summary, output: Path, command: str) -> list[Path]:
    """Write the table, the pictures, the Markdown and the page; a file is there as a whole or not at all.

    Args:
        summary: The results.
        output: Folder of the benchmark.
        command: What was typed, to be repeated.

    Returns:
        The table, the Markdown and the page.
    """
    drawn = {name: Picture(name, svg, _SHOWN[name]) for name, svg in pictures(summary).items()}
    blocks = report(summary, drawn, command)
    for picture in drawn.values():
        for theme, svg in picture.svg.items():
            _write(output / picture.file(theme), svg)
    texts = {TABLE: summary.table(), MARKDOWN: markdown(blocks), PAGE: page(blocks)}
    for name, text in texts.items():
        _write(output / name, text)
    return [output / name for name in texts]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def report(summary: Summary, drawn: dict[str, Picture], command: str) -> list[Block]:
    """The blocks of the report."""
    blocks: list[Block] = [Heading(1, f"Benchmark: {', '.join(_suites(summary))}"), *_what(summary, command)]
    blocks += [Heading(2, "Capabilities"), drawn["radar"], Paragraph(_SHOWN["radar"])]
    if summary.compared:
        blocks += [Heading(2, "All runs together"), *_together(summary), drawn["aggregates"]]
        blocks += [Heading(2, "Performance profiles"), drawn["profiles"], Paragraph(_SHOWN["profiles"])]
        if len(summary.compared) > 1:
            blocks += [Heading(2, "Probability of improvement"), *_improvement(summary)]
    blocks += [Heading(2, "Scores"), _by_challenge(summary, summary.score)]
    blocks += [Heading(2, "Learning curves"), drawn["curves"], Paragraph(_SHOWN["curves"])]
    blocks += [Heading(2, "Regret while learning"), *_regret(summary)]
    return [
        *blocks,
        Heading(2, "Beside the score"),
        *_readings(summary),
        Heading(2, "How it was measured"),
        *_how(summary),
    ]


def _suites(summary: Summary) -> dict[str, Entry]:
    """The suites of the plan, with a challenge of each."""
    return {entry.suite: entry for entry in summary.plan.entries}


def _what(summary: Summary, command: str) -> list[Block]:
    plan = summary.plan
    counts = [(len(summary.agents), "agent"), (len(summary.challenges), "challenge"), (plan.n_seeds, "seed")]
    text = (
        f"{', '.join(_count(n, what) for n, what in counts)}: {_count(len(summary.trained), 'training')}, "
        f"{summary.seconds() / 60:.0f} minutes of processor time, evaluations apart."
    )
    if summary.n_missing:
        text += f" {summary.n_missing} of {len(plan.cells())} cells have no result yet: the same command runs them."
    return [Paragraph(text), Code(command)]


def _together(summary: Summary) -> list[Block]:
    rows = [
        [
            agent,
            str(summary.interquartile_mean(agent)),
            str(summary.optimality_gap(agent)),
            _said(summary.regret(agent)),
            f"{100 * summary.spent(agent):.0f} %",
            f"{summary.seconds(agent) / summary.n_trained(agent):.1f}",
        ]
        for agent in summary.compared
    ]
    head = [
        "agent",
        "interquartile mean",
        "optimality gap",
        "regret per step",
        "most of the budget",
        "seconds a training",
    ]
    blocks: list[Block] = [Table(head, rows)]
    if summary.common != summary.challenges:
        blocks.append(Paragraph(f"Over the challenges that every agent has played: {', '.join(summary.common)}."))
    return blocks


def _improvement(summary: Summary) -> list[Block]:
    rows = [
        [ours, *("" if ours == theirs else str(summary.improvement(ours, theirs)) for theirs in summary.compared)]
        for ours in summary.compared
    ]
    said = (
        "How likely a run of the agent of the row scores higher than one of the column, on a challenge drawn at random."
    )
    return [Table(["", *summary.compared], rows), Paragraph(said)]


def _said(value: Interval | None) -> str:
    return "" if value is None else str(value)


def _by_challenge(summary: Summary, value: Callable[[str, str], Interval | None]) -> Table:
    rows = [[name, *(_said(value(agent, name)) for agent in summary.agents)] for name in summary.challenges]
    return Table(["challenge", *summary.agents], rows)


def _regret(summary: Summary) -> list[Block]:
    said = (
        "What an agent lost in each step of its training against the known optimum, on average, where 1 is what random "
        "tokens lose. Low is learning early, and well."
    )
    return [_by_challenge(summary, summary.challenge_regret), Paragraph(said)]


def _readings(summary: Summary) -> list[Block]:
    """What the diagnostics say beside the score, the mean over seeds."""
    rows = []
    for name in summary.challenges:
        readings = {agent: [one.readings for one in summary.of(agent, name)] for agent in summary.agents}
        known = dict.fromkeys(key for of in readings.values() for one in of for key in one)
        for key in known:
            told = [[one[key] for one in of if key in one] for of in readings.values()]
            means = [f"{np.mean(values):.3g}" if values else "" for values in told]
            rows.append([f"{name}: {key}", *means])
    said = (
        "Means over seeds, after the training: regret is the optimum less the mean return, in the unit of the reward; "
    )
    said += " ".join(entry.about[1] for entry in _suites(summary).values())
    return [Table(["reading", *summary.agents], rows), Paragraph(said)]


def _how(summary: Summary) -> list[Block]:
    plan = summary.plan
    about = [
        [entry.name, entry.subject.capability, f"{entry.budget:,}",
         f"{entry.subject.random_return(entry.size):.4g}", f"{entry.subject.optimal_return(entry.size):.4g}"]
        for entry in plan.entries if entry.name in summary.challenges
    ]  # fmt: skip
    text = (
        "A score is the way from the return of random tokens (0) to the known optimum (1), held to [0, 1], over "
        f"{plan.final_episodes:,} episodes after the training; points of a curve are over {plan.point_episodes:,}. "
        "Intervals are 95 % percentile intervals of a bootstrap that draws seeds anew for each challenge, "
        f"{summary.n_resamples:,} times. With few seeds they are rather too narrow than too wide."
    )
    texts = [text, *(entry.about[0] for entry in _suites(summary).values())]
    starts = dict.fromkeys(entry.start for entry in plan.entries if entry.start is not None)
    texts += [f"Language models begin with {start}." for start in starts]
    return [
        Table(["challenge", "what it asks", "steps", "random return", "optimal return"], about),
        *(Paragraph(text) for text in texts if text),
        *(Paragraph(f"Made with {versions}.") for versions in summary.versions()),
    ]


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
