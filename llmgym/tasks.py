"""Problems and where they come from. Knows nothing of tokens, rewards or environments."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from llmgym.errors import DatasetError, InvalidOptionError, missing_extra

if TYPE_CHECKING:
    import numpy as np

    from llmgym.transcript import Transcript

#: Given the answer read from a response, is it right? Must be picklable and compare by value: a function,
#: or a frozen dataclass with ``__call__``, not a ``functools.partial``.
AnswerCheck = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Problem:
    """One item to solve.

    Attributes:
        question: What is asked, before any prompt template.
        reference_answer: The right answer. Never shown to the agent.
        problem_id: A stable name; equal ids mean equal problems, in any process.
        family: What kind of problem it is, e.g. ``"equation"``; ``""`` where it has none.
        level: Difficulty, 1 is the easiest; 0 where it has none.
        language: ``"en"`` or ``"zh"`` (an ISO 639-1 code).
        gold_reasoning: A worked solution, one reasoning step a line; ``""`` where there is none.
        accepts: Decides on the answer read from a response, where many answers are right. ``None``: the answer must
            equal ``reference_answer``.
    """

    question: str
    reference_answer: str
    problem_id: str
    family: str = ""
    level: int = 0
    language: str = "en"
    gold_reasoning: str = field(default="", repr=False)
    accepts: AnswerCheck | None = field(default=None, repr=False)

    def info(self) -> dict[str, Any]:
        """What ``reset`` tells of the problem: everything but the solution."""
        return {
            "problem_id": self.problem_id,
            "family": self.family,
            "level": self.level,
            "language": self.language,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Problem:
        """A problem from plain values.

        Args:
            values: ``"question"`` and ``"answer"`` (or ``"reference_answer"``), and any other attribute.

        Raises:
            InvalidOptionError: If one of the two is missing or an entry is unknown.
        """
        entries = dict(values)
        if "answer" in entries:
            answer = entries.pop("answer")
            if entries.setdefault("reference_answer", answer) != answer:
                raise InvalidOptionError(
                    f'Expected one answer, actual: "answer" is {answer!r} and "reference_answer" is '
                    f"{entries['reference_answer']!r}. Give one of them."
                )
        for name in ("question", "reference_answer"):
            if not isinstance(entries.get(name), str):
                raise InvalidOptionError(
                    'Expected a problem to have a "question" and an "answer", both str, actual: '
                    f"{name}={entries.get(name)!r}. Give both as text."
                )
        known = {entry.name for entry in fields(cls)}
        unknown = sorted(set(entries) - known)
        if unknown:
            raise InvalidOptionError(
                f"Expected a problem to have no entries but answer, {', '.join(sorted(known))}; actual: {unknown}. "
                "Drop them."
            )
        entries.setdefault("problem_id", question_hash(entries["question"]).hex()[:16])
        return cls(**entries)


@runtime_checkable
class Task(Protocol):
    """A source of problems. Has no state that an episode changes: all randomness comes from ``rng``, and what
    happened so far is in the transcript. So one task serves all slots of a vector environment.

    A task whose environment writes text of its own sets ``replies = True``; otherwise ``reply`` is never called.
    """

    def sample(self, rng: np.random.Generator) -> Problem:
        """Draw one problem of the task's split; all randomness comes from ``rng``."""
        ...

    def reply(self, problem: Problem, transcript: Transcript) -> str | None:
        """What the environment writes when the agent hands over the turn; ``None`` (or no text) ends the episode."""
        ...


class LastReply(str):
    """A reply after which the task is over (``StopReason.TASK_OVER``), e.g. "You win."."""

    __slots__ = ()


# ------------------------------------------------------------------------------------------------------- data sets

#: One question in this many belongs to the test split of a file that names no splits.
TEST_SHARE = 10

_SPLITS = ("train", "test", "all")


def question_hash(question: str) -> bytes:
    """A hash of a question that is the same in every process and ignores how it is spaced."""
    return hashlib.blake2b(" ".join(question.split()).encode("utf-8", "replace"), digest_size=16).digest()


def is_path(dataset: str) -> bool:
    """Whether a data set is named by the path of a file, there or not, and not by a name on the hub.

    Example:
        >>> is_path("missing.jsonl.gz"), is_path("openai/gsm8k:main")
        (True, False)
    """
    path = Path(dataset)
    return path.suffix in (".jsonl", ".gz", ".json") or path.exists()


class DatasetTask:
    """Problems from a JSONL file or from the Hugging Face hub, drawn with equal chances.

    A file that is one of several splits (``gsm8k_test.jsonl``) is taken whole with ``split="all"``. Otherwise a hash of
    the question decides to which split a line belongs, so that no question is in both, whatever its place in the file.

    Args:
        dataset: Path of a ``.jsonl`` or ``.jsonl.gz`` file, or a name on the hub, where ``name:configuration`` chooses
            a configuration.
        split: ``"train"``, ``"test"``, or ``"all"`` (also ``None``) for every line.
        question_field: Name of the field with the question.
        answer_field: Name of the field with the answer. In an answer with a line ``#### 42``, what follows the mark
            is the reference answer and what precedes it the worked solution.
        language: Language of the questions.

    Raises:
        DatasetError: If the file cannot be read, or a line cannot be a problem. Names the file, the line, what is
            wrong with it and how to mend it.
    """

    replies = False

    def __init__(
        self,
        dataset: str,
        *,
        split: str | None = "train",
        question_field: str = "question",
        answer_field: str = "answer",
        language: str = "en",
    ) -> None:
        if split is not None and split not in _SPLITS:
            raise InvalidOptionError(
                f'Expected `split` among "train", "test", "all", actual: {split!r}. Use one of them.'
            )
        self.dataset = dataset
        self.split = split or "all"
        self._fields = (question_field, answer_field)
        self._language = language
        path = Path(dataset)
        if is_path(dataset):
            problems = [problem for problem in self._read_file(path) if self._in_split(problem.question)]
        else:
            problems = list(self._read_hub(dataset))
        if not problems:
            raise DatasetError(
                f"Expected at least one problem in the {self.split} split of {dataset}, actual: none. "
                'Choose another `split`, e.g. "all".'
            )
        self.problems: tuple[Problem, ...] = tuple(problems)

    def sample(self, rng: np.random.Generator) -> Problem:
        """Draw one of the problems."""
        return self.problems[int(rng.integers(len(self.problems)))]

    def reply(self, problem: Problem, transcript: Transcript) -> str | None:
        """Data sets have nothing to say."""
        return None

    def __len__(self) -> int:
        return len(self.problems)

    def _in_split(self, question: str) -> bool:
        if self.split == "all":
            return True
        in_test = int.from_bytes(question_hash(question)[:8], "big") % TEST_SHARE == 0
        return in_test == (self.split == "test")

    def _read_file(self, path: Path) -> Iterator[Problem]:
        seen: dict[str, int] = {}
        for number, line in enumerate(_lines(path), start=1):
            if not line.strip():
                continue  # a blank line holds nothing to get wrong
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DatasetError(
                    f"Expected a JSON object on each line, actual: {where}, column {error.colno}: {error.msg} "
                    f"({_shorten(line)}). Mend or delete the line."
                ) from error
            problem = self._problem(row, where)
            # Two lines may ask the same; their ids must differ where the answers do.
            count = seen[problem.problem_id] = seen.get(problem.problem_id, 0) + 1
            yield problem if count == 1 else _renamed(problem, f"{problem.problem_id}-{count}")

    def _read_hub(self, name: str) -> Iterator[Problem]:
        try:
            import datasets
        except ImportError as error:
            raise missing_extra("datasets", "data") from error
        path, _, configuration = name.partition(":")
        split = None if self.split == "all" else self.split
        try:
            loaded = datasets.load_dataset(path, configuration or None, split=split)
        except (OSError, ValueError) as error:  # no network, no such data set, no such split
            raise DatasetError(
                f"Expected `dataset` to be a .jsonl(.gz) file or a data set on the hub with a {self.split} split, "
                f"actual: {name!r} ({type(error).__name__}: {_shorten(str(error))}). Check the name, the split and the "
                "network, or pass the path of a file."
            ) from error
        parts: Iterable[tuple[str, Any]] = loaded.items() if split is None else [(split, loaded)]
        for part, rows in parts:
            for number, row in enumerate(rows, start=1):
                yield self._problem(row, f"{name}, split {part}, row {number}")

    def _problem(self, row: Any, where: str) -> Problem:
        if not isinstance(row, Mapping):
            raise DatasetError(
                f"Expected a JSON object on each line, actual: {where} has a {type(row).__name__} "
                f"({_shorten(json.dumps(row))}). Write each problem as an object."
            )
        question, answer = (self._text(row, name, where) for name in self._fields)
        if not question.strip():
            raise DatasetError(
                f"Expected a question that is not empty, actual: {where} has {question!r}. Delete the line."
            )
        reasoning, mark, final = answer.rpartition("####")
        reference_answer = (final if mark else answer).strip()
        if not reference_answer:
            raise DatasetError(
                f"Expected an answer that is not empty, actual: {where} has {answer!r}. Mend or delete the line."
            )
        return Problem(
            question=question,
            reference_answer=reference_answer,
            problem_id=question_hash(question).hex()[:16],
            family=Path(self.dataset).name.removesuffix(".gz").removesuffix(".jsonl"),
            language=self._language,
            gold_reasoning=reasoning.strip() if mark else "",
        )

    def _text(self, row: Mapping[str, Any], name: str, where: str) -> str:
        value = row.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            value = str(value)  # an answer is often written as a number
        if not isinstance(value, str):
            raise DatasetError(
                f"Expected a text in the field {name!r}, actual: {where} has {value!r}; its fields are "
                f"{sorted(map(str, row))}. Mend the line, or name the fields with `question_field` and `answer_field`."
            )
        return value


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, packed or not."""
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):  # noqa: B007 - the error names it
                yield line
    except FileNotFoundError as error:
        raise DatasetError(
            f"Expected `dataset` to be a file that exists, actual: {str(path)!r} (from {Path.cwd()}). Check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"Expected a file in UTF-8, actual: {path}, near line {number + 1}: {error.reason}. Convert the "
            "file to UTF-8."
        ) from error
    except (OSError, EOFError) as error:
        raise DatasetError(
            f"Expected a file that can be read, actual: {path}, near line {number + 1}: {error}. Download it again."
        ) from error


def _renamed(problem: Problem, problem_id: str) -> Problem:
    values = {entry.name: getattr(problem, entry.name) for entry in fields(problem)}
    return Problem(**(values | {"problem_id": problem_id}))


def _shorten(text: str, length: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."
