"""The suite ``reasoning``: mathematical problems for a language model, of five levels or from files.

Nothing is learned here from nothing: agents begin with a model that can write, by default the one in the package. A
score is the share of held-out problems whose answer is right.
"""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llmgym.agents.checkpoints import find_saved, holds_agent
from llmgym.agents.pretrained import count_parameters
from llmgym.benchmark.agent_options import check_agent_options
from llmgym.benchmark.entries import Entry
from llmgym.core import Engine
from llmgym.envs.diagnostics import Diagnostic, Episode
from llmgym.envs.math_reason import FAMILIES, LEVELS
from llmgym.errors import CheckpointError, DatasetError, InvalidOptionError, PromptTooLongError, unknown_name
from llmgym.keywords import OF_THE_PLAYER, refuse_keywords
from llmgym.prompts import encode_prompt
from llmgym.tasks import DatasetTask, is_path, question_hash
from llmgym.tokenizers import TINY_REASONER
from llmgym.transcript import StopReason

#: Environment steps for each level, a few minutes of the shipped model on a core; and for each file.
LEVEL_BUDGET, FILE_BUDGET = 500_000, 1_000_000
#: Keyword arguments of the environment for files, whose problems are longer than those that are generated.
FILE_KWARGS: Mapping[str, Any] = {"prompt_template": "r1", "max_prompt_tokens": 512, "max_new_tokens": 512}
#: Models of more weights than this take the smaller step size; others, the shipped one and what was trained from it
#: among them, the agents' own, which is one for a million weights.
LARGE_MODEL, LARGE_MODEL_LEARNING_RATE = 10_000_000, 1e-6

_LEVEL = "level"
_HELD_OUT = "test"
_OURS = (*OF_THE_PLAYER, "dataset", "level", "rewards", "split", "tokenizer")
_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,40}")


@dataclass(frozen=True)
class ReasoningEntry(Entry):
    """Problems to learn from, and others of the same kind to be scored on.

    Attributes:
        diagnostic: ``"level"``, or the name of a file.
        size: Which level, or ``"test"``.
        budget: Environment steps to learn in.
        model: What agents begin with, as it was named; its tokenizer is the environment's.
        start: The folder or hub name that it is loaded from. Of a run that is one of its checkpoints: all cells begin
            with the same, also where the run goes on.
        model_sha256: Of its files; ``None`` for the one that ships, and where they are on a hub.
        env_kwargs: Keyword arguments of the environment.
        train: Further ones where it is learned from.
        test: Those that take their place where it is scored.
        data_sha256: Of the files in these two, by path.
        options: Of the package's own agents: fields of ``GRPOConfig`` and ``PPOConfig``.
    """

    model: str = TINY_REASONER
    start: str = TINY_REASONER
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

    def check_unchanged(self) -> None:
        """Compare the files of the model and of the problems with what they were when the suite was made.

        Raises:
            DatasetError: If a file of problems is another by now.
            CheckpointError: If the model is.
        """
        for file, known in self.data_sha256.items():
            if (actual := _sha256_of_file(Path(file))) != known:
                raise DatasetError(
                    f"Expected {file!r} as it was when the benchmark began (SHA-256 {known[:12]}), actual: "
                    f"{_shown(actual)}. Bring it back, or begin anew in another --output."
                )
        if (actual := _sha256_of_model(self.start)) != self.model_sha256:
            raise CheckpointError(
                f"Expected the model in {self.start!r} as it was when the benchmark began (SHA-256 "
                f"{_shown(self.model_sha256)}), actual: {_shown(actual)}. Begin anew in another --output, with a copy "
                "that nothing else writes to: a run that goes on deletes its older checkpoints."
            )


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
            hub. Of a file alone a tenth of the questions is held out, by a hash; two are taken whole. Of the hub there
            are the splits that it calls train and test. Empty: the levels.
        only: Names of challenges to play; ``None``: all.
        budget: Environment steps for each; ``None``: :data:`LEVEL_BUDGET` or :data:`FILE_BUDGET`.
        env_kwargs: Keyword arguments of the environment; for files beside those of :data:`FILE_KWARGS`.
        agent_options: Fields that ``GRPOConfig`` and ``PPOConfig`` have in common, for ``grpo`` and ``ppo``.

    Raises:
        InvalidOptionError: If an option cannot be.
        DatasetError: If a file cannot be read, or a question is learned from and scored too.
        PromptTooLongError: If a problem of a file has a longer prompt than the environment takes.

    Example:
        >>> [entry.name for entry in reasoning(only=["level-1", "level-2"])]
        ['level-1', 'level-2']
    """
    refuse_keywords(env_kwargs or {}, _OURS, "The suite")
    kwargs = _plain("keyword arguments of the environment", env_kwargs)
    start = find_model(model)
    options = _agent_options(start, _plain("options of the agents", agent_options))
    known: dict[str, Any] = {
        "model": model, "start": start, "model_sha256": _sha256_of_model(start), "options": options,
    }  # fmt: skip
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
        train={"dataset": train, "split": "all" if test and is_path(train) else "train"},
        test={"dataset": test, "split": "all" if is_path(test) else "test"} if test else {"split": "test"},
        data_sha256={file: sha256 for file in (train, test) if file and (sha256 := _sha256_of_file(Path(file)))},
        **known,
    )  # fmt: skip


def _plain(what: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Values as they will be read from the settings of a result: JSON has lists only."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(given or {})))
    except (TypeError, ValueError) as error:
        raise InvalidOptionError(
            f"Expected {what} that JSON can hold, actual: {given!r} ({error}). Pass plain values."
        ) from error
    return plain


def _agent_options(start: str, given: dict[str, Any]) -> dict[str, Any]:
    """Options of the agents, with a step size for a large model."""
    check_agent_options(given)
    large = start != TINY_REASONER and count_parameters(start) > LARGE_MODEL
    return {"learning_rate": LARGE_MODEL_LEARNING_RATE, **given} if large else given


def _sha256_of_model(start: str) -> str | None:
    """Of all files of a folder, with their names; ``None`` where there is none: the package's version, or a hub."""
    if start == TINY_REASONER or not (folder := Path(start)).is_dir():
        return None
    lines = [
        f"{path.relative_to(folder).as_posix()} {_sha256_of_file(path)}\n"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".json", ".safetensors", ".bin", ".model", ".jinja")
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sha256_of_file(path: Path) -> str | None:
    """Of the content of a file; ``None`` where there is none that can be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # it may go at any moment: a run deletes its older checkpoints
        return None


def _shown(sha256: str | None) -> str:
    return "no files" if sha256 is None else sha256[:12]


def _check(entry: ReasoningEntry) -> None:
    """Make the environments, measure the prompts of files, and look for questions that are not held out.

    Raises:
        InvalidOptionError: If an environment cannot be made.
        DatasetError: If a file cannot be read, or a question is learned from and scored too.
        PromptTooLongError: If a prompt is too long.
    """
    tasks = []
    for changes in ({}, entry.held_out):
        try:
            envs = entry.subject.make_vec(entry.size, 1, **changes)
        except TypeError as error:  # a number where texts are wanted, or a text where a number is
            raise InvalidOptionError(
                f"Expected keyword arguments of the environment of the types that it takes, actual: "
                f"{entry.env_kwargs!r} ({error}). Mend them."
            ) from error
        task = envs.engine.tasks[0]
        if isinstance(task, DatasetTask):
            tasks.append(task)
            _check_lengths(task, envs.engine, entry.model)
        envs.close()
    if tasks:
        _check_apart(*tasks)


def _check_lengths(task: DatasetTask, engine: Engine, model: str) -> None:
    """Refuse a file with a prompt that is too long."""
    options = engine.options
    lengths = [
        len(encode_prompt(problem.question, options.prompt_template, options.system_prompt, engine.tokenizer)[1])
        for problem in task.problems
    ]
    if max(lengths) > options.max_prompt_tokens:
        raise PromptTooLongError(
            f"Expected prompts of at most {options.max_prompt_tokens} tokens (`max_prompt_tokens`) in "
            f"{task.dataset!r}, actual: {max(lengths)} with the tokenizer of {model!r}. Pass the keyword "
            f"argument max_prompt_tokens={max(lengths)}, or leave the long ones out of the file."
        )


def _check_apart(learned: DatasetTask, scored: DatasetTask) -> None:
    """Refuse to score on questions that are learned from."""
    known = {question_hash(problem.question) for problem in learned.problems}
    both = [problem.question for problem in scored.problems if question_hash(problem.question) in known]
    if both:
        raise DatasetError(
            f"Expected to be scored on questions that are not learned from, actual: {len(both)} of {len(scored)} in "
            f"{scored.dataset!r} ({scored.split}) are in {learned.dataset!r} ({learned.split}) too, such as "
            f"{textwrap.shorten(both[0], 80)!r}. Leave them out of one of the two, or name one file alone: a tenth of "
            "it is held out."
        )


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
