"""Training from the command line: options of a run, what happens before and after it, and how it is resumed."""

from __future__ import annotations

import dataclasses
import importlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from llmgym.agents.checkpoints import find_saved, read_settings
from llmgym.agents.interrupts import exit_code
from llmgym.agents.live_view import watch
from llmgym.agents.metrics import LOG_FILE, read_metrics
from llmgym.errors import CheckpointError, LLMGymError, missing_extra, unknown_name
from llmgym.keywords import parse_keywords

if TYPE_CHECKING:
    from llmgym.agents.agent import Agent

#: Name of an algorithm -> module and class. The module's ``TrainOptions`` are the options of its training.
ALGORITHMS = {"grpo": ("llmgym.agents.grpo", "GRPO"), "ppo": ("llmgym.agents.ppo", "PPO")}


@dataclass(frozen=True)
class RunOptions:
    """What to train, for how long, and where the result goes.

    Attributes:
        policy: "tiny-reasoner", a folder or a hub name.
        env: Id of the environment.
        total_timesteps: Tokens to write in training. None: no such bound.
        max_seconds: Wall time of training.
        eval_problems: Held-out problems before and after. 0: no evaluation.
        save_dir: Where the trained agent goes. None: nowhere but into the checkpoints of the run.
    """

    policy: str = "tiny-reasoner"
    env: str = "llmgym/MathReason-v0"
    total_timesteps: int | None = None
    max_seconds: float | None = 300.0
    eval_problems: int = 200
    save_dir: str | None = None


@dataclass(frozen=True)
class ResumeOptions:
    """Go on with a run, with its own options and what is left of its budget.

    Attributes:
        resume: Folder of the run.
        total_timesteps: A new budget: tokens to write from here on. None: what is left of the run's own.
        max_seconds: A new budget: wall time of training from here on. None: what is left of the run's own.
    """

    resume: str
    total_timesteps: int | None = None
    max_seconds: float | None = None


def main(
    agent_class: type[Agent], options_class: type[Any], arguments: Sequence[str] | None = None, prog: str | None = None
) -> None:
    """Train as the command line says, or resume a run.

    Args:
        agent_class: What to train.
        options_class: A dataclass of its options: those of :class:`RunOptions`, of ``EnvKeywords`` and of the agent's
            configuration.
        arguments: Words of the command line; ``None``: those of the program.
        prog: Name of the program in its help.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if any(word.partition("=")[0] == "--resume" for word in words):
            resume(words, prog, agent_class)
        else:
            start(agent_class, options_class, words, prog)
    except LLMGymError as error:
        if arguments is not None:  # whoever called has a way of its own to show errors
            raise
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(exit_code(signal.SIGINT))


def start(agent_class: type[Agent], options_class: type[Any], words: Sequence[str], prog: str | None = None) -> None:
    """Train a new agent with the options among ``words``."""
    options = parse_options(agent_class, options_class, words, prog)
    config = agent_class.config_class(
        **{field.name: getattr(options, field.name) for field in fields(agent_class.config_class)}
    )
    agent = agent_class(options.policy, options.env, config, env_kwargs=parse_keywords(options.env_kwargs))
    train(agent, options)


def parse_options(
    agent_class: type[Agent], options_class: type[Any], words: Sequence[str], prog: str | None = None
) -> Any:
    """The options of a training. Those of a ``--preset`` are the defaults of the others."""
    tyro = _tyro()
    preset = getattr(agent_class.config_class, "preset", None)
    if preset is None:
        return tyro.cli(options_class, args=list(words), prog=prog)
    help_text = "Choices of a paper, where an option is not given: see PRESETS of the algorithm's module."
    with_preset: Any = dataclasses.make_dataclass(
        options_class.__name__,
        [("preset", Annotated[str | None, tyro.conf.arg(help=help_text)], dataclasses.field(default=None))],
        bases=(options_class,),
        frozen=True,
    )
    with_preset.__doc__ = options_class.__doc__
    name = _value_of("--preset", words)
    name = None if name == "None" else name
    chosen = {} if name is None else asdict(preset(name))
    return tyro.cli(with_preset, args=list(words), prog=prog, default=with_preset(**chosen, preset=name))


def train(agent: Agent, options: RunOptions) -> None:
    """Evaluate, train, evaluate and save, as the options say."""
    agent.run_options = {"eval_problems": options.eval_problems, "save_dir": options.save_dir}
    agent.set_budget(options.total_timesteps, options.max_seconds)
    agent.checkpoint()  # killed in the evaluation, the run can be resumed already
    if options.eval_problems:
        print("before:", agent.evaluate(options.eval_problems))
    title = f"{agent.algorithm} · {options.policy} · {options.env}"
    _learn(agent, title, options.total_timesteps, options.max_seconds)
    _finish(agent)


def resume(words: Sequence[str], prog: str | None = None, agent_class: type[Agent] | None = None) -> None:
    """Go on with a run from its newest whole checkpoint; a run whose budget is spent says so.

    Args:
        words: Options, as in :class:`ResumeOptions`.
        prog: Name of the program in its help.
        agent_class: What the run has to be of; ``None``: whatever it is of.
    """
    options: ResumeOptions = _tyro().cli(ResumeOptions, args=list(words), prog=prog)
    agent = (agent_class or class_of(options.resume)).load(options.resume)
    budget = options.total_timesteps, options.max_seconds
    where = f"iteration {agent.n_iterations}, {agent.n_timesteps:,} tokens"
    if agent.budget_spent >= 1.0 and budget == (None, None):
        print(f"{options.resume} is finished: {where}. To go on, give it a new budget: --total-timesteps N")
        if _is_saved(agent):
            return
    else:
        print(f"Going on with {options.resume} from {where}")
        _learn(agent, f"{agent.algorithm} · {options.resume}", *budget)
    _finish(agent)


def _learn(agent: Agent, title: str, total_timesteps: int | None, max_seconds: float | None) -> None:
    """Learn within the budget, or what is left of an earlier one, in front of a live view."""
    earlier = []
    if agent.run_dir is not None and (agent.run_dir / LOG_FILE).is_file():
        earlier = [row for row in read_metrics(agent.run_dir) if row["iteration"] <= agent.n_iterations]
    budget = agent.set_budget(total_timesteps, max_seconds)
    last_timestep = None if budget.total_timesteps is None else budget.first_timestep + budget.total_timesteps
    last_second = None if budget.max_seconds is None else budget.first_second + budget.max_seconds
    with watch(title, last_timestep, last_second, earlier=earlier) as show:
        agent.learn(callback=show, progress_bar=False)
    if agent.stopped_by is not None and agent.budget_spent < 1.0:  # otherwise it came when all was done
        sys.exit(exit_code(agent.stopped_by))


def _is_saved(agent: Agent) -> bool:
    """Whether what the run was to save, if anything, is this run at its end."""
    save_dir = agent.run_options.get("save_dir")
    if save_dir is None:
        return True
    try:
        saved = read_settings(Path(save_dir))
    except CheckpointError:
        return False
    return (saved["run"], saved["n_iterations"]) == (agent.run.id, agent.n_iterations)


def _finish(agent: Agent) -> None:
    share = 100 * agent.env_seconds / max(agent.train_seconds, 1e-9)
    print(f"{agent.n_timesteps:,} tokens in {agent.train_seconds:.1f} s, {share:.1f} % of it in the environment")
    if agent.run_options.get("eval_problems"):
        print("after: ", agent.evaluate(agent.run_options["eval_problems"]))
    if agent.run_options.get("save_dir") is not None:
        print("saved: ", agent.save(agent.run_options["save_dir"]))


def class_of(folder: str | Path) -> type[Agent]:
    """The class of the agent in a folder: of a run, a checkpoint or a save.

    Raises:
        CheckpointError: If there is no agent.
        InvalidOptionError: If its algorithm is none of ours.
    """
    return algorithm_class(read_settings(find_saved(Path(folder))[0])["algorithm"])


def algorithm_class(name: str | None) -> type[Agent]:
    """The class of an algorithm, by name.

    Raises:
        InvalidOptionError: If there is no such algorithm.
    """
    if name not in ALGORITHMS:
        raise unknown_name("an algorithm", name, ALGORITHMS)
    module, class_name = ALGORITHMS[name]
    found: type[Agent] = getattr(importlib.import_module(module), class_name)
    return found


def _value_of(option: str, words: Sequence[str]) -> str | None:
    """What follows ``--option`` or ``--option=`` among the words; the last one counts."""
    found = None
    for word, following in zip_longest(words, words[1:]):
        name, equals, value = word.partition("=")
        if name == option:
            found = value if equals else following
    return found


def _tyro() -> Any:
    """The package that reads options, or the error that names the extra."""
    try:
        import tyro
    except ImportError as error:
        raise missing_extra("tyro", "agents") from error
    return tyro
