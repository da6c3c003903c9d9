"""The tasks of reasoning-gym, an optional dependency, as an environment of ours.

What is in this file: how one of its items becomes a problem, and the environment. What is not: who judges the answers
(``llmgym.envs.reasoning_gym_judges``), and the items themselves, which the library generates.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from llmgym.core import LanguageEnv
from llmgym.envs.reasoning_gym_judges import ACCEPTED, DEFAULTS, NUMBERS, REFUSED, REPAIRED, same_value
from llmgym.errors import DatasetError, InvalidOptionError, missing_extra, unknown_name
from llmgym.rewards import extract_answer
from llmgym.tasks import TEST_SHARE, Problem, question_hash
from llmgym.vector import LanguageVectorEnv

if TYPE_CHECKING:
    from llmgym.transcript import Transcript

#: The version whose scorers were audited.
AUDITED_VERSION = "0.1.25"

#: Items of a data set: the library makes each from ``seed + index``, so a large index at random is a seed of its own.
_N_ITEMS = 2**32
#: Items that are drawn to find one of the split before the data set counts as too small.
MAX_DRAWS = 1000
#: These draw from their seed alone when they are made: they are made anew for each item.
_SEEDED_WHEN_MADE = frozenset({"acre", "gsm_symbolic", "list_functions"})
#: What the library raises where its tries at an item have all failed; seldom, and not with every configuration.
_FOUND_NONE = (IndexError, RuntimeError, ValueError)
#: The answer has to be marked as one. Where it is not, what looks like a value would be taken for it, and most answers
#: here are lists, grids, moves or texts.
_RULES = ("answer_tag", "boxed", "hashes", "phrase")

# --- The library ------------------------------------------------------------------------------------------------------


def _library() -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        raise missing_extra("reasoning_gym", "reasoning-gym") from error
    return reasoning_gym


@lru_cache(maxsize=1)
def _check_version() -> None:
    version = metadata.version("reasoning_gym")
    if version != AUDITED_VERSION:
        warnings.warn(
            f"Expected reasoning_gym {AUDITED_VERSION}, whose scorers were audited, actual: {version}. Its problems "
            f"and scorers may differ. Run: pip install reasoning_gym=={AUDITED_VERSION}",
            stacklevel=2,
        )


def _make_dataset(name: str, config: str, seed: int) -> Any:
    """A data set of the library; ``config`` is JSON, so that it can be a key of a cache."""
    dataset = _library().create_dataset(name, seed=seed, size=1, **json.loads(config))
    dataset.size = _N_ITEMS  # not among its arguments: some would make as many items at once
    # The library draws from sets of texts here, whose order changes with PYTHONHASHSEED.
    if name in ("isomorphic_strings", "ransom_note"):
        dataset.letters = _Letters(sorted(dataset.letters))
    if name == "polynomial_multiplication":
        draw = dataset._get_monomials
        dataset._get_monomials = lambda rng: sorted(draw(rng), key=str)
    if name == "word_ladder":
        find = dataset._get_neighbors
        dataset._get_neighbors = lambda word, words: sorted(find(word, words))
    return dataset


class _Letters(tuple[str, ...]):
    """An alphabet in order, where the library has a set."""

    __slots__ = ()

    def __sub__(self, others: set[str]) -> _Letters:
        return _Letters(letter for letter in self if letter not in others)


@lru_cache(maxsize=64)
def library_dataset(name: str, config: str) -> Any:
    """The data set whose items have their seeds as indices, and whose scorer judges; made once in a process."""
    return _make_dataset(name, config, 0)


def library_entry(name: str, config: str, index: int) -> dict[str, Any] | None:
    """Item ``index`` of a data set: the same in any process; ``None`` where the library finds none."""
    seeded = name in _SEEDED_WHEN_MADE
    with _global_generators(index):
        dataset = _make_dataset(name, config, index) if seeded else library_dataset(name, config)
        try:
            return dict(dataset[0 if seeded else index])
        except _FOUND_NONE:
            dataset.size = _N_ITEMS  # word_ladder ends there
            return None


@contextlib.contextmanager
def _global_generators(seed: int) -> Iterator[None]:
    """Seeds the global generators, which a few tasks draw from, and leaves them as they were; keeps prints away."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is these that have to stay as they are
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def reference_answer(name: str, entry: Mapping[str, Any]) -> str:
    """The right answer, or one of them."""
    if name == "graph_color":
        return json.dumps(entry["metadata"]["possible_answer"])
    if name == "rubiks_cube":
        return str(entry["metadata"]["example_correct_answer"])
    return str(entry["answer"])


# --- The task ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReasoningGymCheck:
    """Whether an answer solves an item: what :class:`~llmgym.tasks.Problem` has as ``accepts``.

    The scorer of the data set decides where it is sound: what it pays in full is right, partial credit is nothing.
    Where it is not, a judge of ours decides. A number may be written in any notation.

    Attributes:
        task: Name of the data set.
        config: Its configuration, as JSON.
        index: Which of its items.
        entry: The item.
    """

    task: str
    config: str
    index: int
    entry: Mapping[str, Any] = field(compare=False, repr=False)  # follows from the others

    def __call__(self, answer: str) -> bool:
        """Whether the answer is right."""
        repair = REPAIRED.get(self.task)
        if repair is not None and repair.only is not None and not repair.only.fullmatch(answer.strip()):
            return False
        if repair is not None and repair.judge is not None:
            return repair.judge(answer, self.entry)
        if float(library_dataset(self.task, self.config).score_answer(answer, self.entry)) >= 1:
            return True
        return self.task in NUMBERS and same_value(answer, self.entry)


@dataclass(frozen=True)
class ReasoningGymTask:
    """Problems of one data set of reasoning-gym.

    Args:
        task: Name of the data set, e.g. ``"chain_sum"``.
        task_kwargs: Its configuration, as plain values; what is left out has the library's defaults, but for those in
            :data:`~llmgym.envs.reasoning_gym_judges.DEFAULTS`.
        split: ``"train"``, ``"test"`` or ``"all"``. A hash of the question decides, so the two cannot overlap.

    Raises:
        InvalidOptionError: If there is no such task, it is refused, or an argument is not valid.
        MissingExtraError: If reasoning_gym is not installed.
    """

    task: str = "chain_sum"
    task_kwargs: Mapping[str, Any] = field(default_factory=dict)
    split: str = "train"
    replies: ClassVar[bool] = False
    _config: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the arguments by making the data set."""
        if self.split not in ("train", "test", "all"):
            raise InvalidOptionError(
                f"Expected `split` among 'train', 'test', 'all', actual: {self.split!r}. Choose one of them."
            )
        if not isinstance(self.task, str) or self.task not in (ACCEPTED | REPAIRED.keys() | REFUSED.keys()):
            raise unknown_name("`task`", self.task, {*ACCEPTED, *REPAIRED})
        if self.task in REFUSED:
            raise InvalidOptionError(
                f"Expected a task whose answers can be judged, actual: {self.task!r}, which is refused: "
                f"{REFUSED[self.task]}. Choose another task; docs/reasoning_gym.md lists them."
            )
        object.__setattr__(self, "_config", self._check_kwargs())
        _library()
        _check_version()
        try:
            with _global_generators(0):
                library_dataset(self.task, self._config)
        except (AssertionError, AttributeError, TypeError, ValueError) as error:  # as its configurations raise them
            raise InvalidOptionError(
                f"Expected `task_kwargs` that the task {self.task!r} takes, actual: {dict(self.task_kwargs)} "
                f"({error}). It takes {', '.join(self._known_kwargs())}."
            ) from error

    def _check_kwargs(self) -> str:
        reserved = sorted({"seed", "size"} & set(self.task_kwargs))
        if reserved:
            raise InvalidOptionError(
                f"Expected `task_kwargs` without seed and size, actual: {reserved}. The environment draws its items "
                "from its own generator, without end: pass a seed to reset()."
            )
        try:
            return json.dumps({**DEFAULTS.get(self.task, {}), **self.task_kwargs}, sort_keys=True)
        except TypeError as error:
            raise InvalidOptionError(
                f"Expected `task_kwargs` of plain values, actual: {dict(self.task_kwargs)} ({error}). Write them as "
                "numbers, texts, lists and dicts."
            ) from error

    def _known_kwargs(self) -> list[str]:
        from reasoning_gym.factory import DATASETS

        return sorted(set(DATASETS[self.task][1].__dataclass_fields__) - {"seed", "size"})

    def sample(self, rng: np.random.Generator) -> Problem:
        """Draw one problem of the split.

        Raises:
            DatasetError: If none is found in :data:`MAX_DRAWS` draws.
        """
        for _ in range(MAX_DRAWS):
            problem = self.problem(int(rng.integers(_N_ITEMS)))
            if problem is not None:
                return problem
        raise DatasetError(
            f"Expected problems in the {self.split} split of {self.task!r} with {dict(self.task_kwargs)}, actual: none "
            f'among {MAX_DRAWS} draws. Pass other `task_kwargs`, which allow more problems, or split="all".'
        )

    def problem(self, index: int) -> Problem | None:
        """Item ``index`` as a problem; ``None`` where it is of the other split or cannot be solved in a response."""
        entry = library_entry(self.task, self._config, index)
        if entry is None or not self._in_split(entry["question"]):
            return None
        return self.to_problem(index, entry)

    def to_problem(self, index: int, entry: Mapping[str, Any]) -> Problem | None:
        """An item as a problem; ``None`` where its reference answer cannot be read from a response, or is refused."""
        reference = reference_answer(self.task, entry)
        check = ReasoningGymCheck(self.task, self._config, index, entry)
        answer = extract_answer(f"<answer>{reference}</answer>")
        if answer is None or not check(answer):
            return None
        return Problem(
            question=entry["question"],
            reference_answer=reference,
            problem_id=f"{self.task}:{question_hash(entry['question']).hex()[:16]}",
            family=self.task,
            accepts=check,
        )

    def _in_split(self, question: str) -> bool:
        if self.split == "all":
            return True
        in_test = int.from_bytes(question_hash(question)[:8], "big") % TEST_SHARE == 0
        return in_test == (self.split == "test")

    def reply(self, problem: Problem, transcript: Transcript) -> str | None:
        """Nobody answers."""
        return None


# --- The environment --------------------------------------------------------------------------------------------------


def _defaults(options: dict[str, Any]) -> dict[str, Any]:
    """What this environment sets differently from ``EnvOptions``, where the caller says nothing.

    The budgets hold most tasks' prompts and answers, in tokens of ``tiny-reasoner``.
    """
    return {
        "max_prompt_tokens": 1024,
        "max_new_tokens": 512,
        "rewards": {"correctness": {"weight": 1.0, "rules": list(_RULES)}},
    } | options


class ReasoningGymEnv(LanguageEnv):
    """The tasks of reasoning-gym, with answers that can be checked.

    ## Description
    The agent reads a problem of one of about a hundred generated kinds (arithmetic, algebra, logic, graphs, games,
    grids, texts) and writes a response with an answer. Each task's scorer was audited: those that pay for a wrong
    answer are replaced by a judge of ours, or the task is refused; ``docs/reasoning_gym.md`` lists them all. Needs the
    package `reasoning_gym`: ``pip install "llmgym-rl[reasoning-gym]"``.

    ## Action Space
    `action_unit="token"`: `Discrete(vocab_size)`, the id of the next token. `"step"`: a text, the next reasoning step.
    `"response"`: a text, the whole response.

    ## Observation Space
    `"token"`: `Dict(input_ids=Box(0, vocab_size - 1, (W,), int32), attention_mask=Box(0, 1, (W,), int8))` with
    `W = max_prompt_tokens + max_new_tokens`, padded on the right. `"step"` and `"response"`: the text so far.

    ## Starting State
    The prompt of a problem drawn from the split. A hash of the question decides to which split it belongs. Every seed
    draws problems of its own: neighbouring seeds share none but by chance.

    ## Rewards
    A weighted sum of named parts, by default `correctness`: 1 at the end of an episode whose answer is right and marked
    as the answer (`<answer>`, `\\boxed`, `####`, "the answer is" ...). The library's partial credit is not paid: most
    of it can be had without solving anything.

    ## Episode End
    Terminated by the end token or a stop string; truncated by `max_new_tokens`, `max_steps` or the width of the state.

    ## Information
    `reset`: `problem_id`, `family` (the name of the task), `level` (0), `language`, and `reference_answer` only where
    asked for. `step`: `reward_components`, at the end `stop_reason` and `reward_details`. Both: `n_reasoning_steps`,
    the reasoning steps closed so far (one that the end leaves open is not counted).

    ## Arguments
    `task="chain_sum"`: name of a task. `task_kwargs=None`: its configuration, e.g. `{"max_terms": 4}`.
    `split="train"`: or `"test"`, `"all"`. `max_prompt_tokens=1024`, `max_new_tokens=512`: the shipped tokenizer is made
    for arithmetic and needs about three times the tokens of a large one for English; docs/reasoning_gym.md has the
    longest prompt of each task. All others: see `llmgym.core.EnvOptions`.

    ## References
    Stojanovski et al., "Reasoning Gym: Reasoning Environments for Reinforcement Learning with Verifiable Rewards",
    arXiv:2505.24760.

    ## Version History
    v0: first version, for reasoning_gym 0.1.25.
    """

    def __init__(
        self,
        *,
        task: str = "chain_sum",
        task_kwargs: Mapping[str, Any] | None = None,
        split: str = "train",
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        source = ReasoningGymTask(task, task_kwargs or {}, split)
        super().__init__(source, render_mode=render_mode, **_defaults(options))


class ReasoningGymVectorEnv(LanguageVectorEnv):
    """Many :class:`ReasoningGymEnv` in one, with the same arguments."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        task: str = "chain_sum",
        task_kwargs: Mapping[str, Any] | None = None,
        split: str = "train",
        **options: Any,
    ) -> None:
        super().__init__(ReasoningGymTask(task, task_kwargs or {}, split), num_envs, **_defaults(options))
