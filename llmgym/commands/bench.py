"""``llmgym bench``: agents on the challenges of a suite, over seeds, with a report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmgym.commands.arguments import load, parse
from llmgym.keywords import EnvKeywords, parse_keywords


@dataclass(frozen=True)
class BenchOptions(EnvKeywords):
    """Train agents on the challenges of a suite, over seeds, and write a report. Interrupted, the same command goes on.

    Attributes:
        agents: Separated by commas: grpo, ppo, base, random, sb3-ppo, sb3-a2c, sb3-dqn, or one of yours as module:Class
            or path/to/file.py:Class, with a name as name=module:Class.
        suite: diagnostics; or reasoning: levels of mathematical problems, or files of them, for a language model.
        sizes: Of diagnostics, separated by commas: small, medium, large. None: small.
        only: Names of diagnostics, or of challenges such as level-1, separated by commas. None: all.
        model: What agents begin with in the suite reasoning: a folder (of a model, a run, a saved agent) or a hub name.
            None: tiny-reasoner.
        data: Files of problems for the suite reasoning, in place of the levels: name=train.jsonl, a tenth of which is
            held out, or name=train.jsonl,test.jsonl. A name on the hub stands for its own train or test split.
        agent_options: Options of grpo and ppo in the suite reasoning: name=value, such as learning_rate=1e-5.
        seeds: Trainings of each agent on each challenge.
        budget: Environment steps of each training. None: the suite's own.
        episodes: Episodes after each training, which the score is of.
        points: Evaluations during each training.
        jobs: Processes at once, one thread each.
        output: Folder of the results.
        report_only: Run nothing, and write the report of what is there.
    """

    agents: str = "random,grpo,ppo"
    suite: str = "diagnostics"
    sizes: str | None = None
    only: str | None = None
    model: str | None = None
    data: tuple[str, ...] = ()
    agent_options: tuple[str, ...] = ()
    seeds: int = 5
    budget: int | None = None
    episodes: int = 1000
    points: int = 10
    jobs: int = 1
    output: Path = Path("runs/bench")
    report_only: bool = False


def run_bench(arguments: Sequence[str]) -> None:
    """Run what is missing of a benchmark, then write its report. Exit code 1 when a training ended with an error."""
    options = parse(BenchOptions, arguments, "bench")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # agents of the user's, as `python -m` would find them
    benchmark = load("llmgym.benchmark")
    plan = benchmark.Plan(
        tuple(map(benchmark.AgentSpec.parse, _names(options.agents))),
        benchmark.suite(
            options.suite,
            sizes=None if options.sizes is None else _names(options.sizes),
            only=None if options.only is None else _names(options.only),
            budget=options.budget,
            model=options.model,
            data=options.data,
            env_kwargs=parse_keywords(options.env_kwargs),
            agent_options=parse_keywords(options.agent_options),
        ),
        n_seeds=options.seeds,
        n_points=options.points,
        point_episodes=min(200, options.episodes),
        final_episodes=options.episodes,
    )
    failures = []
    if not options.report_only:
        failures = benchmark.run(plan, options.output, jobs=options.jobs, tell=lambda line: print(line, flush=True))
    for error in dict.fromkeys(failure.error for failure in failures):  # an agent's mistake is the same in each cell
        names = [failure.cell.name for failure in failures if failure.error == error]
        print(f"\n{names[0]} ({len(names)} such)\n{error}", file=sys.stderr)
    if len(failures) < len(plan.cells()):
        summary = benchmark.Summary.read(plan, options.output)
        written = benchmark.write_report(summary, options.output, shlex.join(["llmgym", "bench", *arguments]))
        print(f"report: {', '.join(map(str, written))}")
    if failures:
        sys.exit(1)


def _names(text: str) -> list[str]:
    """Names that commas separate."""
    return [name.strip() for name in text.split(",") if name.strip()]
