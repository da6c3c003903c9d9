"""The command ``llmgym``: ``list`` | ``play`` | ``audit`` | ``train`` | ``eval`` | ``bench`` | ``export``.

Options are read off the dataclasses and signatures that the classes take, so nothing is declared twice. Each command
imports what it needs when it runs: ``llmgym list`` loads no torch.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from llmgym.commands.arguments import load, parse, parse_for
from llmgym.commands.bench import run_bench
from llmgym.commands.export import run_export
from llmgym.commands.players import load_agent
from llmgym.errors import InvalidOptionError, LLMGymError, MissingExtraError, unknown_name
from llmgym.keywords import EnvKeywords
from llmgym.play import PlayOptions, in_colour, paint, play
from llmgym.registration import ENVIRONMENTS

if TYPE_CHECKING:
    from llmgym.agents.evaluation import Evaluation
    from llmgym.testing import AuditReport

USAGE = """\
usage: llmgym COMMAND [OPTIONS]

  llmgym list             the environments, with what they test
  llmgym play [ENV]       watch an episode unfold, or write it yourself (--policy human)
  llmgym audit ENV        what a policy could get from a reward without solving anything
  llmgym train ALGORITHM  train a model with grpo or ppo; `llmgym train --resume RUN` goes on with a run
  llmgym eval PATH        accuracy of a run, of a saved agent or of any model, on held-out problems
  llmgym bench            what agents can and cannot learn: diagnostics or problems over seeds, with a report
  llmgym export PATH      episodes of a run, of a saved agent or of any model, as a Minari data set

`llmgym COMMAND --help` shows the options of a command.
"""

# --- list, play ------------------------------------------------------------------------------------------------------


def run_list(arguments: Sequence[str]) -> None:
    """Show the registered environments, with what they test."""
    if arguments:
        raise InvalidOptionError(f"Expected no argument after `llmgym list`, actual: {arguments[0]!r}. Leave it out.")
    width = max(map(len, ENVIRONMENTS))
    for env_id, (entry_point, _) in sorted(ENVIRONMENTS.items()):
        print(f"{paint(env_id.ljust(width), '1')}  {_summary(entry_point)}")


def _summary(entry_point: str) -> str:
    """First line of the docstring of ``module:Class``."""
    module, _, name = entry_point.partition(":")
    doc = inspect.getdoc(getattr(importlib.import_module(module), name)) or ""
    return doc.partition("\n")[0]


def run_play(arguments: Sequence[str]) -> None:
    """Show an episode as it unfolds."""
    play(parse(PlayOptions, arguments, "play", positional="env"))


# --- audit -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AuditOptions(EnvKeywords):
    """What could a policy get from a reward without solving anything? Exit code 1 when something pays that should not.

    Attributes:
        env: Id of a language environment, or of another whose actions are texts; module:id imports the module that
            registers it.
        all: Audit every registered id of ours in place of one.
        json: File for the reports, as JSON.
    """

    env: str | None = None
    all: bool = False
    json: Path | None = None


def run_audit(arguments: Sequence[str]) -> None:
    """Audit the reward of an environment, or of all of ours."""
    from llmgym.testing import audit

    options, chosen, env_kwargs = parse_for(audit, AuditOptions, arguments, "audit", positional="env")
    if (options.env is None) != options.all:
        actual = "none" if options.env is None else f"{options.env!r} and --all"
        raise InvalidOptionError(
            f"Expected the id of an environment, or --all, actual: {actual}. Ids of ours: "
            f"{', '.join(sorted(ENVIRONMENTS))}."
        )
    if options.json is not None:
        _check_can_write(options.json)
    reports, left_out, errors = [], {}, {}
    for env_id in sorted(ENVIRONMENTS) if options.all else [options.env]:
        try:
            reports.append(audit(env_id, **chosen, **env_kwargs))
        except Exception as error:
            if not options.all:
                raise
            # What is finished is kept: the other reports are not the worse for it.
            said = str(error)
            if isinstance(error, MissingExtraError):
                left_out[env_id] = said
            else:
                errors[env_id] = said = f"{type(error).__name__}: {error}"
            print(f"{env_id}: not audited. {said}\n")
            continue
        _print_score_card(reports[-1])
    found = not all(report.passed for report in reports)
    passed = bool(reports) and not errors and not found
    if options.json is not None:
        several = {
            "passed": passed,
            "reports": [report.to_dict() for report in reports],
            "not_audited": left_out,
            "errors": errors,
        }
        write_json(options.json, several if options.all else reports[0].to_dict())
    if found:
        sys.exit(1)
    if not passed:
        raise InvalidOptionError(
            f"Expected every audit to end with a report, actual: {len(reports)} did, {len(left_out)} miss a package, "
            f"{len(errors)} ended with an error (above). Install what is missing, or audit one id."
        )


def _check_can_write(path: Path) -> None:
    """Refuse a path for JSON that cannot be written, before the work is done.

    Raises:
        InvalidOptionError: If it is a folder, or lies where nothing can be written.
    """
    reason = "it is a folder" if path.is_dir() else ""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()
        draft.unlink()
    except OSError as error:
        reason = str(error)
    if reason:
        raise InvalidOptionError(f"Expected `--json` to name a file, actual: {str(path)!r} ({reason}). Choose another.")


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is never there in part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


_VERDICT_COLOURS = {"pass": "green", "finding": "bold red", "warning": "yellow", "by design": "cyan"}


def _print_score_card(report: AuditReport) -> None:
    """A table on a terminal, plain text elsewhere."""
    if in_colour():
        from rich.console import Console

        Console().print(_score_card(report))
    else:
        print(f"{report}\n")


def _score_card(report: AuditReport) -> Any:
    """A line for each check, then the examples of what was found."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    # A text, not a string: rich would take brackets in a name for its markup.
    table = Table("probe", "verdict", "mean", "max", "", title=Text("\n".join(report.heading)), title_justify="left")
    for name, verdict, mean, largest, reason in report.rows():
        table.add_row(name, Text(verdict, style=_VERDICT_COLOURS.get(verdict, "dim")), mean, largest, Text(reason))
    conclusion = Text(report.conclusion, style="bold green" if report.passed else "bold red")
    return Group(table, Text("\n".join(report.details)), conclusion)


# --- train -----------------------------------------------------------------------------------------------------------


def run_train(arguments: Sequence[str]) -> None:
    """Train a model (``llmgym train grpo``), or go on with a run (``llmgym train --resume runs/grpo``)."""
    training = load("llmgym.agents.training")
    first = arguments[0] if arguments else None
    if first in ("-h", "--help"):
        names = "|".join(sorted(training.ALGORITHMS))
        print(f"usage: llmgym train {names} [OPTIONS]\n       llmgym train --resume RUN [OPTIONS]\n")
        print("`llmgym train grpo --help` and `llmgym train --resume RUN --help` show the options.")
    elif first is not None and first.partition("=")[0] == "--resume":
        training.resume(arguments, "llmgym train")
    else:
        agent = training.algorithm_class(first)
        options = importlib.import_module(agent.__module__).TrainOptions
        training.main(agent, options, arguments[1:], f"llmgym train {first}")


# --- eval ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvalOptions(EnvKeywords):
    """Accuracy on held-out problems.

    Attributes:
        path: The folder of a run or of a saved agent; or tiny-reasoner, the folder or hub name of a model.
        env: Id of an environment; none: the one of the training.
        examples: Responses to show.
    """

    path: str
    env: str | None = None
    examples: int = 2


def run_eval(arguments: Sequence[str]) -> None:
    """Measure a trained agent, or any model, on held-out problems."""
    agent_module = load("llmgym.agents.agent")
    options, chosen, env_kwargs = parse_for(
        agent_module.Agent.evaluate, EvalOptions, arguments, "eval", positional="path"
    )
    agent = load_agent(options.path, options.env, env_kwargs)
    _print_evaluation(agent.evaluate(**chosen, **env_kwargs), options.examples)


def _print_evaluation(result: Evaluation, n_examples: int) -> None:
    low, high = result.interval
    rows = [("pass@1", f"{100 * result.pass_at_1:.1f} %   95 % interval {100 * low:.1f} to {100 * high:.1f}")]
    rows += [(f"pass@{k}", f"{100 * value:.1f} %") for k, value in result.pass_at_k.items() if k > 1]
    rows += [(f"reward {name}", f"{value:.3f}") for name, value in result.reward_components.items()]
    rows += [("return", f"{result.mean_return:.3f}"), ("tokens a response", f"{result.mean_length:.1f}")]
    rows += [(f"ended: {name}", f"{100 * share:.1f} %") for name, share in sorted(result.stop_reasons.items())]
    if result.unverifiable is not None:
        rows += [("unverifiable", f"{100 * result.unverifiable:.1f} % of the episodes, counted as not solved")]
    rows += [("solved", result.solved_if)]
    rows += [("problems", f"{result.n_problems}, {result.samples} responses each, {result.seconds:.1f} s")]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{paint(name.ljust(width), '1')}  {value}")
    for example in result.examples[:n_examples]:
        print(f"\n{'solved' if example['solved'] else 'not solved'}, return {example['return']:.2f}")
        print(paint(example["prompt"].strip(), "38;5;110"))
        print(example["response"])


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "list": run_list,
    "play": run_play,
    "audit": run_audit,
    "train": run_train,
    "eval": run_eval,
    "bench": run_bench,
    "export": run_export,
}


class UsageError(SystemExit):
    """Ends the program with a message and exit code 2, as argument parsers do: 1 says that an audit found something."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = 2
        print(message, file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a mistake of the user's ends it with a message."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return
    try:
        if words[0] not in COMMANDS:
            raise unknown_name("a command", words[0], COMMANDS)
        COMMANDS[words[0]](words[1:])
    except (LLMGymError, gym.error.Error) as error:  # Gymnasium's: an id that nobody registered, a negative seed
        raise UsageError(f"llmgym: {error}") from error
    except KeyboardInterrupt:
        sys.exit(130)
