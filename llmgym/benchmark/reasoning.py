"""The suite ``reasoning``: mathematical problems for a language model, of five levels or from files.

Nothing is learned here from nothing: agents begin with a model that can write, by default the one in the package. A
score is the share of held-out problems whose answer is right.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llmgym.agents.checkpoints import find_saved, holds_agent
from llmgym.agents.grpo import GRPOConfig
from llmgym.agents.ppo import PPOConfig
from llmgym.benchmark.entries import Entry
from llmgym.envs.diagnostics import Diagnostic, Episode
from llmgym.envs.math_reason import FAMILIES, LEVELS
from llmgym.errors import InvalidOptionError, PromptTooLongError, unknown_name
from llmgym.prompts import encode_prompt
from llmgym.tasks import DatasetTask
from llmgym.tokenizers import TINY_REASONER
from llmgym.transcript import StopReason

#: Environment steps for each level, a few minutes of the shipped model on a core; and for each file.
LEVEL_BUDGET, FILE_BUDGET = 500_000, 1_000_000
#: Keyword arguments of the environment for files, whose problems are longer than those that are generated.
FILE_KWARGS: Mapping[str, Any] = {"prompt_template": "r1", "max_prompt_tokens": 512, "max_new_tokens": 512}
#: Step size for models other than the shipped one, which are larger.
LARGE_MODEL_LEARNING_RATE = 1e-6

_LEVEL = "level"
_HELD_OUT = "test"
_OURS = ("action_unit", "dataset", "level", "render_mode", "rewards", "split", "tokenizer")
_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,40}")


@dataclass(frozen=True)
class ReasoningEntry(Entry):
    """Problems to learn from, and others of the same kind to be scored on.

    Attributes:
        diagnostic: ``"level"``, or the name of a file.
        size: Which level, or ``"test"``.
        budget: Environment steps to learn in.
        model: What agents begin with, as it was named; its tokenizer is the environment's.
        model_sha256: Of its files; ``None`` for the one that ships, and where they are on a hub.
        env_kwargs: Keyword arguments of the environment.
        train: Further ones where it is learned from.
        test: Those that take their place where it is scored.
        data_sha256: Of the files in these two, by path.
        options: Of the package's own agents: fields of ``GRPOConfig`` and ``PPOConfig``.
    """

    model: str = TINY_REASONER
    model_sha256: str | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    test: dict[str, Any] = field(default_factory=dict)
    data_sha256: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    suite: ClassVar[str] = "reasoning"
    about: ClassVar[tuple[str, str]] = (
        "Here that is the share of held-out problems whose answer is right; of random tokens it is taken to be 0.",
        "`family_...` is the share of right answers to one kind of problem, `unanswered` that of responses without an "
        "answer, `truncated` that of responses that a budget cut off, `mean_length` is in tokens.",
    )

    @property
    def axis(self) -> str:
        """Each challenge is an axis of its own."""
        return self.name

    @property
    def start(self) -> str:
        """The folder or hub name of the model."""
        return find_model(self.model)

    @property
    def agent_options(self) -> Mapping[str, Any]:
        """See the attribute ``options``."""
        return self.options

    @property
    def subject(self) -> Diagnostic:
        """The environment with its optimum, 1, and what random tokens are taken to earn, 0."""
        generated = self.diagnostic == _LEVEL
        families = _several(self.env_kwargs.get("families", FAMILIES)) if generated else ()
        return Diagnostic(
            name=self.diagnostic,
            env_id="llmgym/MathReason-v0",
            capability=f"problems of level {self.size}" if generated else f"problems of {self.train['dataset']}",
            sizes={self.size: {**self.env_kwargs, **self.train, "tokenizer": self.start}},
            optimal=_one,
            random=_zero,
            measure=_return,
            bounds=None,
            reading=partial(_readings, families=families),
            enumerable=(),
        )

    @property
    def held_out(self) -> Mapping[str, Any]:
        """The other split, or the other file."""
        return self.test


def reasoning(
    *,
    model: str = TINY_REASONER,
    data: Sequence[str] = (),
    only: Sequence[str] | None = None,
    budget: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    agent_options: Mapping[str, Any] | None = None,
) -> tuple[ReasoningEntry, ...]:
    """The challenges of the suite: the levels of ``llmgym/MathReason-v0``, or files.

    Everything is looked at before a training begins: the files are read, and their prompts measured.

    Args:
        model: ``"tiny-reasoner"``, a folder (of a model, a run or a saved agent) or a hub name.
        data: Files of problems, ``"name=train"`` or ``"name=train,test"``: JSONL files, or names of data sets on the
            hub. Of a file alone a tenth of the questions is held out, by a hash. Empty: the levels.
        only: Names of challenges to play; ``None``: all.
        budget: Environment steps for each; ``None``: :data:`LEVEL_BUDGET` or :data:`FILE_BUDGET`.
        env_kwargs: Keyword arguments of the environment; for files beside those of :data:`FILE_KWARGS`.
        agent_options: Fields that ``GRPOConfig`` and ``PPOConfig`` have in common, for ``grpo`` and ``ppo``.

    Raises:
        InvalidOptionError: If an option cannot be.
        DatasetError: If a file cannot be read.
        PromptTooLongError: If a problem of a file has a longer prompt than the environment takes.

    Example:
        >>> [entry.name for entry in reasoning(only=["level-1", "level-2"])]
        ['level-1', 'level-2']
    """
    kwargs = dict(env_kwargs or {})
    for name in _OURS:
        if name in kwargs:
            raise InvalidOptionError(
                f"Expected no {name!r} among the keyword arguments of the environment, actual: {kwargs[name]!r}. The "
                "suite chooses it: leave it out."
            )
    known: dict[str, Any] = {
        "model": model,
        "model_sha256": _sha256_of_model(model),
        "options": _agent_options(model, agent_options or {}),
    }
    levels = [
        ReasoningEntry(
            _LEVEL, str(level), budget or LEVEL_BUDGET, env_kwargs=kwargs,
            train={"level": level, "split": "train"}, test={"split": _HELD_OUT}, **known,
        )
        for level in LEVELS
    ]  # fmt: skip
    files = [_of_file(word, budget or FILE_BUDGET, {**FILE_KWARGS, **kwargs}, known) for word in data]
    entries = files or levels
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise InvalidOptionError(
                f"Expected each file of problems to have a name of its own, actual: {name!r} twice. Rename one."
            )
    for name in only or ():
        if name not in names:
            raise unknown_name("a challenge", name, names)
    chosen = tuple(entry for entry in entries if only is None or entry.name in only)
    for entry in chosen:
        _check(entry)
    return chosen


def find_model(name: str) -> str:
    """Where the model of a run or of a saved agent is; any other name stays.

    Raises:
        CheckpointError: If no checkpoint of the run is whole.
    """
    return str(find_saved(Path(name))[0]) if holds_agent(Path(name)) else name


def _of_file(word: str, budget: int, env_kwargs: dict[str, Any], known: Mapping[str, Any]) -> ReasoningEntry:
    """A challenge from ``name=train`` or ``name=train,test``."""
    name, equals, files = word.partition("=")
    train, comma, test = files.partition(",")
    if not (equals and _NAME.fullmatch(name) and name != _LEVEL and train and bool(comma) == bool(test)):
        raise InvalidOptionError(
            f"Expected files of problems as name=train.jsonl or name=train.jsonl,test.jsonl, actual: {word!r}. The "
            f"name has up to 40 letters, digits or -_+., and is not {_LEVEL!r}."
        )
    return ReasoningEntry(
        name, _HELD_OUT, budget, env_kwargs=env_kwargs,
        train={"dataset": train, "split": "all" if test else "train"},
        test={"dataset": test, "split": "all"} if test else {"split": "test"},
        data_sha256={file: sha256(Path(file)) for file in (train, test) if file and Path(file).is_file()},
        **known,
    )  # fmt: skip


def _agent_options(model: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the agents, with a step size for the model."""
    known = {option.name for option in dataclasses.fields(GRPOConfig)}
    known &= {option.name for option in dataclasses.fields(PPOConfig)}
    known -= {"seed", "run_dir", "num_envs"}  # the benchmark's own
    for name in given:
        if name not in known:
            raise unknown_name("an option of the agents", name, known)
    options = dict(given) if model == TINY_REASONER else {"learning_rate": LARGE_MODEL_LEARNING_RATE, **given}
    for config in (GRPOConfig, PPOConfig):
        config(**options)
    return options


def _sha256_of_model(model: str) -> str | None:
    """Of all files of a folder, with their names; ``None`` where there is none: the package's version, or a hub."""
    if model == TINY_REASONER or not (folder := Path(find_model(model))).is_dir():
        return None
    lines = [
        f"{path.relative_to(folder).as_posix()} {sha256(path)}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".json", ".safetensors", ".bin", ".model", ".jinja")
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Of the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(entry: ReasoningEntry) -> None:
    """Make the environments, and measure the prompts of files.

    Raises:
        InvalidOptionError: If an environment cannot be made.
        DatasetError: If a file cannot be read.
        PromptTooLongError: If a prompt is too long.
    """
    for changes in ({}, entry.held_out):
        envs = entry.subject.make_vec(entry.size, 1, **changes)
        engine = envs.engine
        task, options = engine.tasks[0], engine.options
        if isinstance(task, DatasetTask):
            lengths = [
                len(
                    encode_prompt(problem.question, options.prompt_template, options.system_prompt, engine.tokenizer)[1]
                )
                for problem in task.problems
            ]
            if max(lengths) > options.max_prompt_tokens:
                raise PromptTooLongError(
                    f"Expected prompts of at most {options.max_prompt_tokens} tokens (`max_prompt_tokens`) in "
                    f"{task.dataset!r}, actual: {max(lengths)} with the tokenizer of {entry.model!r}. Pass the keyword "
                    f"argument max_prompt_tokens={max(lengths)}, or leave the long ones out of the file."
                )
        envs.close()


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _one(**_: Any) -> float:
    return 1.0


def _zero(**_: Any) -> float:
    return 0.0


def _return(episode: Episode) -> float:
    return episode.episode_return


def _readings(episodes: Sequence[Episode], families: Sequence[str]) -> dict[str, float]:
    """What to look at beside the score; of a family that was not among the problems: NaN."""
    readings = {
        "mean_length": float(np.mean([episode.n_new_tokens for episode in episodes])),
        "truncated": _share([not StopReason(episode.stop_reason).terminated for episode in episodes]),
        "unanswered": _share([episode.details["correctness"]["reason"] == "no_answer" for episode in episodes]),
    }
    for family in families:
        of_family = [episode.episode_return for episode in episodes if episode.problem_id.startswith(f"{family}-")]
        readings[f"family_{family}"] = float(np.mean(of_family)) if of_family else np.nan
    return readings


def _share(holds: Sequence[bool]) -> float:
    return float(np.mean(holds))
