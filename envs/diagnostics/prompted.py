"""Tasks whose prompt matters: recall of one of several keys, and problems of unequal difficulty."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product
from math import factorial
from typing import TYPE_CHECKING, Any, ClassVar

from llmgym.core import LanguageEnv
from llmgym.envs.diagnostics.words import ListedTask, check_int, one_word_options, secret_words, word_options
from llmgym.tasks import Problem
from llmgym.vector import LanguageVectorEnv

if TYPE_CHECKING:
    import numpy as np

    from llmgym.transcript import Transcript

# --- Recall -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RecallTask:
    """Keys, each with a value, in any order, and a question for one of them.

    Args:
        n_pairs: Keys: the words ``0`` to ``n_pairs - 1``.
        n_values: Values: the words after them.
    """

    n_pairs: int
    n_values: int
    replies: ClassVar[bool] = False

    def sample(self, rng: np.random.Generator) -> Problem:
        """Draw the order of the keys, their values and the question."""
        keys = rng.permutation(self.n_pairs).tolist()
        values = rng.integers(self.n_values, size=self.n_pairs).tolist()
        return self._problem(keys, values, int(rng.integers(self.n_pairs)))

    def _problem(self, keys: list[int], values: list[int], asked: int) -> Problem:
        """A problem from keys in their order, the value of each place, and the key that is asked for."""
        shown = " ".join(f"{key} {self.n_pairs + value}" for key, value in zip(keys, values, strict=True))
        question = f"{shown} ? {asked}"
        answer = str(self.n_pairs + values[keys.index(asked)])
        return Problem(question, answer, f"recall:{question}", family="recall", level=self.n_pairs)

    def outcomes(self) -> Iterator[tuple[float, Problem]]:
        """Every problem and its probability, ``n_pairs! * n_values ** n_pairs * n_pairs`` of them."""
        share = 1 / (factorial(self.n_pairs) * self.n_values**self.n_pairs * self.n_pairs)
        for keys in permutations(range(self.n_pairs)):
            for values in product(range(self.n_values), repeat=self.n_pairs):
                for asked in range(self.n_pairs):
                    yield share, self._problem(list(keys), list(values), asked)

    def reply(self, problem: Problem, transcript: Transcript) -> str | None:
        """Nobody answers."""
        return None


def _recall(n_pairs: int, n_values: int, options: dict[str, Any]) -> tuple[RecallTask, dict[str, Any]]:
    check_int("n_pairs", n_pairs, 1, 64)
    check_int("n_values", n_values, 2, 64)
    n_prompt = 2 * n_pairs + 3  # the pairs, the question mark, the key and the equals sign
    return RecallTask(n_pairs, n_values), one_word_options(n_pairs + n_values, options, max_prompt_tokens=n_prompt)


class RecallEnv(LanguageEnv):
    """Say which value stood beside a key.

    ## Description
    The prompt shows ``n_pairs`` keys in any order, each with a value, and asks for one: ``1 3 0 5 ? 0 =`` is answered
    by ``5``. Keys and values are different words, and every value is as likely as another, so the prompt has to be
    read: where does the key stand, and what comes after it?

    ## Action Space
    ``Discrete(n_pairs + n_values + 5)``: padding, the end token, a token for everything unknown, ``=``, ``?``, the keys
    and the values. With ``action_unit="step"`` or ``"response"``, a text.

    ## Observation Space
    ``Dict`` of ``input_ids`` (int32) and ``attention_mask`` (int8), both ``(max_prompt_tokens + max_new_tokens,)``,
    padded on the right. With text actions, the text so far.

    ## Starting State
    A prompt as above, each with the same chance.

    ## Rewards
    ``accepted``: 1 when the episode ends, if the response began with the value.

    ## Episode End
    Terminated by the first word or the end token; truncated after three tokens that are neither and spoil the answer.

    ## Information
    ``reset``: ``problem_id``, ``family``, ``level`` (the number of pairs), ``language``. ``step``:
    ``reward_components``, and at the end ``stop_reason``. Both: ``n_reasoning_steps``, the words closed so far.

    ## Arguments
    ``n_pairs``: Keys to remember, 1 to 64. ``n_values``: Different values, 2 to 64. ``split``: ``"train"``, ``"test"``
    or ``"all"``, which are the same here. All others: see :class:`llmgym.core.EnvOptions`.

    ## Version History
    v0: first version.
    """

    metadata: dict[str, Any] = LanguageEnv.metadata | {
        "audit": dict.fromkeys(
            ("constant", "echo", "transplant", "listed", "hedged", "several", "negated", "hidden"),
            "the value is one of a few words and stands in the prompt, and the first word of a response is what counts",
        )
    }

    def __init__(self, *, n_pairs: int = 2, n_values: int = 4, render_mode: str | None = None, **options: Any) -> None:
        task, defaults = _recall(n_pairs, n_values, options)
        super().__init__(task, render_mode=render_mode, **defaults)


class RecallVectorEnv(LanguageVectorEnv):
    """Many :class:`RecallEnv` in one, with the same arguments."""

    def __init__(self, num_envs: int = 1, *, n_pairs: int = 2, n_values: int = 4, **options: Any) -> None:
        task, defaults = _recall(n_pairs, n_values, options)
        super().__init__(task, num_envs, **defaults)


# --- Unequal difficulty -----------------------------------------------------------------------------------------------


def _mixed(levels: int, n_words: int, options: dict[str, Any]) -> tuple[ListedTask, dict[str, Any]]:
    check_int("levels", levels, 1, 32)
    check_int("n_words", n_words, max(levels, 2), 4096)  # a word names each level
    secret = secret_words(levels, n_words)
    problems = tuple(
        Problem(
            str(level - 1),
            " ".join(map(str, secret[:level])),
            f"mixed_difficulty:{level}",
            family="mixed_difficulty",
            level=level,
        )
        for level in range(1, levels + 1)
    )
    return ListedTask(problems), word_options(n_words, levels, options)


class MixedDifficultyEnv(LanguageEnv):
    """Easy and hard problems in turn, and the prompt says which it is.

    ## Description
    A problem of level ``n`` asks for the first ``n`` words of a secret, always the same. Random tokens solve level 1
    once in ``n_words + 5`` episodes, and each further level as much more seldom. In a group of responses to an easy
    problem nearly all are right, in one to a hard problem nearly all are wrong: what an algorithm makes of the few
    others, and how it weighs the two kinds of groups, shows in the success of each level.

    ## Action Space
    ``Discrete(n_words + 5)``: padding, the end token, a token for everything unknown, ``=``, ``?`` and the words. With
    ``action_unit="step"`` or ``"response"``, a text.

    ## Observation Space
    ``Dict`` of ``input_ids`` (int32) and ``attention_mask`` (int8), both ``(max_prompt_tokens + max_new_tokens,)``,
    padded on the right. With text actions, the text so far.

    ## Starting State
    The prompt ``0 =`` for level 1, ``1 =`` for level 2, and so on, each with the same chance.

    ## Rewards
    ``accepted``: 1 when the episode ends, if the response begins with the words that the level asks for.

    ## Episode End
    Terminated by the end token; truncated after ``levels`` tokens.

    ## Information
    ``reset``: ``problem_id``, ``family``, ``level``, ``language``. ``step``: ``reward_components``, and at the end
    ``stop_reason``. Both: ``n_reasoning_steps``, the words closed so far.

    ## Arguments
    ``levels``: How many, 1 to 32. ``n_words``: Words of the vocabulary, not fewer than levels. ``split``: ``"train"``,
    ``"test"`` or ``"all"``, which are the same here. All others: see :class:`llmgym.core.EnvOptions`.

    ## Version History
    v0: first version.
    """

    metadata: dict[str, Any] = LanguageEnv.metadata | {
        "audit": dict.fromkeys(
            ("constant", "near", "transplant", "echo", "listed", "hedged", "several", "negated", "hidden"),
            "each level's answer begins that of the next, and is right whatever follows",
        )
    }

    def __init__(self, *, levels: int = 3, n_words: int = 4, render_mode: str | None = None, **options: Any) -> None:
        task, defaults = _mixed(levels, n_words, options)
        super().__init__(task, render_mode=render_mode, **defaults)


class MixedDifficultyVectorEnv(LanguageVectorEnv):
    """Many :class:`MixedDifficultyEnv` in one, with the same arguments."""

    def __init__(self, num_envs: int = 1, *, levels: int = 3, n_words: int = 4, **options: Any) -> None:
        task, defaults = _mixed(levels, n_words, options)
        super().__init__(task, num_envs, **defaults)
