"""What the diagnostic environments are made of: a closed vocabulary of words, tasks whose draws are known, rules.

A word is a number with the blank after it, and one token. A response is read from its beginning: the words that stand
there before anything else are what a rule judges (:func:`leading_words`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from llmgym.errors import InvalidOptionError, unknown_name
from llmgym.rewards.base import Reward
from llmgym.rewards.stack import REWARDS
from llmgym.tasks import Problem
from llmgym.tokenizers import Tokenizer, pieces_tokenizer

if TYPE_CHECKING:
    import numpy as np

    from llmgym.transcript import Transcript

#: Tokens beside the words: padding, the end token, one for everything unknown, and two signs of the prompts.
_OTHERS = ("<pad>", "<eos>", "<unk>", "=", "? ")
_SPLITS = ("train", "test", "all")
#: What the agent is shown where there is nothing to know.
NOTHING = "?"
_WORD = re.compile(r"[0-9]{1,5} ")
_LEADING = re.compile(r"(?:[0-9]{1,5} )*")


def n_actions(n_words: int) -> int:
    """Tokens of a vocabulary with so many words: ``n_words + 5``.

    >>> n_actions(4), word_tokenizer(4).vocab_size
    (9, 9)
    """
    return n_words + len(_OTHERS)


@lru_cache(maxsize=32)
def word_tokenizer(n_words: int) -> Tokenizer:
    """The words ``0`` to ``n_words - 1``, a token each, and the five tokens beside them.

    >>> tokenizer = word_tokenizer(4)
    >>> tokenizer.decode(tokenizer.encode("? =3 0 <eos>")), len(tokenizer.encode("? =3 0 <eos>"))
    ('? =3 0 <eos>', 5)
    """
    pieces = [*_OTHERS, *(f"{word} " for word in range(n_words))]
    return pieces_tokenizer(pieces, "[0-9]{1,5} |\\? |[\\s\\S]")


def leading_words(response: str) -> list[int]:
    """The words that a response begins with, up to the first token that is none. The last may lack its blank.

    >>> leading_words("3 0 =1 "), leading_words("=3 "), leading_words("3 0")
    ([3, 0], [], [3, 0])
    """
    match = _LEADING.match(f"{response} ")  # an answer read from a response has lost the blank
    return [int(word) for word in match.group().split()] if match else []


def all_words(response: str) -> list[int]:
    """The words of a response, wherever they stand.

    >>> all_words("3 =0 <unk>0 ")
    [3, 0, 0]
    """
    return [int(word) for word in _WORD.findall(response)]


def secret_words(length: int, n_words: int) -> tuple[int, ...]:
    """The sequence that a secret is: fixed, so that all seeds and programs look for the same one.

    >>> secret_words(6, 4)
    (1, 0, 3, 2, 1, 0)
    """
    return tuple((3 * place + 1) % n_words for place in range(length))


# --- Rules: which responses are right -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FirstBelow:
    """The first word is below ``bound``."""

    bound: int

    def __call__(self, response: str) -> bool:
        """Whether a response is right."""
        words = leading_words(response)
        return bool(words) and words[0] < self.bound


@dataclass(frozen=True, slots=True)
class Alternating:
    """``length`` words, an even one first, then an odd one, and so on. What follows them does not matter."""

    length: int

    def __call__(self, response: str) -> bool:
        """Whether a response is right."""
        words = leading_words(response)[: self.length]
        return len(words) == self.length and all(word % 2 == place % 2 for place, word in enumerate(words))


# --- Tasks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ListedTask:
    """Some problems, drawn with equal chances.

    Args:
        problems: All of them.
    """

    problems: tuple[Problem, ...]
    replies: ClassVar[bool] = False

    def sample(self, rng: np.random.Generator) -> Problem:
        """Draw one. One problem takes no random number."""
        return self.problems[int(rng.integers(len(self.problems)))] if len(self.problems) > 1 else self.problems[0]

    def outcomes(self) -> Iterator[tuple[float, Problem]]:
        """Every problem and its probability: what :mod:`llmgym.testing.exact` sums over."""
        return ((1 / len(self.problems), problem) for problem in self.problems)

    def reply(self, problem: Problem, transcript: Transcript) -> str | None:
        """Nobody answers."""
        return None


def ruled_task(family: str, reference_answer: str, rule: Callable[[str], bool] | None = None) -> ListedTask:
    """A task of one problem that shows nothing.

    Args:
        family: Its name, in ``info["family"]``.
        reference_answer: A right response, without the blank at its end.
        rule: Decides on a response; ``None``: it has to begin with the reference answer.
    """
    problem = Problem(NOTHING, reference_answer, f"{family}:{reference_answer}", family=family, accepts=rule)
    return ListedTask((problem,))


# --- The reward that most of them share -------------------------------------------------------------------------------


def is_accepted(response: str, problem: Problem) -> bool:
    """Whether a response is right: by the problem's rule, or because it begins with the words of its reference answer.

    >>> is_accepted("1 0 3 ", Problem("?", "1 0", "p")), is_accepted("1 =0 ", Problem("?", "1 0", "p"))
    (True, False)
    """
    if problem.accepts is not None:
        return problem.accepts(response)
    wanted = [int(word) for word in problem.reference_answer.split() if word.isdecimal()]
    return leading_words(response)[: len(wanted)] == wanted


class AcceptedReward(Reward):
    """1 where the response is right, paid when the episode ends, however it ends."""

    name = "accepted"

    def score(self, transcript: Transcript) -> float:
        """1 or 0."""
        return float(is_accepted(transcript.response, transcript.problem))


REWARDS.setdefault(AcceptedReward.name, AcceptedReward)


# --- Options ----------------------------------------------------------------------------------------------------------


def word_options(
    n_words: int,
    max_new_tokens: int,
    options: Mapping[str, Any],
    *,
    rewards: Mapping[str, Any] | None = None,
    max_prompt_tokens: int = 2,
) -> dict[str, Any]:
    """What the environments set differently from ``EnvOptions``, where the caller says nothing.

    Args:
        n_words: Words of the vocabulary.
        max_new_tokens: Length of the longest episode.
        options: What the caller says. ``split`` is taken, as every environment takes it, and changes nothing: what is
            asked is whether an algorithm can learn this task, and there is nothing to hold out from it.
        rewards: ``None``: :class:`AcceptedReward` alone.
        max_prompt_tokens: Length of the longest prompt.

    Raises:
        InvalidOptionError: If the split is none.
    """
    options = dict(options)
    split = options.pop("split", "all")
    if split not in _SPLITS:
        raise unknown_name("`split`", split, _SPLITS)
    return {
        "tokenizer": word_tokenizer(n_words),
        "prompt_template": "{question} =",
        "step_delimiter": " ",  # so a word is a reasoning step, and can be paid for at once
        "max_prompt_tokens": max_prompt_tokens,
        "max_new_tokens": max_new_tokens,
        "rewards": {AcceptedReward.name: 1.0} if rewards is None else rewards,
    } | options


def one_word_options(n_words: int, options: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """:func:`word_options` where the first word ends the episode. A token that is no word spoils the answer.

    After three of those the budget ends it; Gymnasium's checker takes a budget of one for a mistake.
    """
    return word_options(n_words, 3, {"stop_strings": (" ",), **options}, **more)


def check_int(name: str, value: Any, low: int, high: int) -> None:
    """Refuse a number out of its bounds.

    Raises:
        InvalidOptionError: If it is no int in ``[low, high]``.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidOptionError(
            f"Expected `{name}` to be an int in [{low}, {high}], actual: {value!r}. Choose one of them."
        )


def check_share(name: str, value: Any, high: float) -> None:
    """Refuse a share out of its bounds.

    Raises:
        InvalidOptionError: If it is no number in ``[0, high)``.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < high:
        raise InvalidOptionError(f"Expected `{name}` to be a number in [0, {high}), actual: {value!r}. Choose one.")
