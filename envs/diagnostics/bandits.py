"""One word or two, and one thing that is hard about them: the vocabulary, the noise or the scale of the reward."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

from llmgym.core import LanguageEnv
from llmgym.envs.diagnostics.words import (
    NOTHING,
    AcceptedReward,
    Alternating,
    FirstBelow,
    ListedTask,
    check_int,
    check_share,
    leading_words,
    one_word_options,
    ruled_task,
    word_options,
)
from llmgym.errors import InvalidOptionError
from llmgym.tasks import Problem
from llmgym.vector import LanguageVectorEnv

if TYPE_CHECKING:
    import numpy as np

    from llmgym.transcript import Transcript

_SAME_FOR_ALL = "there is one problem, and a word is right whatever stands around it"
_PAYS_BY_DESIGN = dict.fromkeys(
    ("constant", "near", "transplant", "echo", "listed", "hedged", "several", "negated", "hidden", "unevaluated"),
    _SAME_FOR_ALL,
)

# --- Vocabulary -------------------------------------------------------------------------------------------------------


def _vocabulary(n_words: int, options: dict[str, Any]) -> tuple[ListedTask, dict[str, Any]]:
    check_int("n_words", n_words, 4, 65536)
    return ruled_task("vocabulary", "0", FirstBelow(n_words // 4)), one_word_options(n_words, options)


class VocabularyEnv(LanguageEnv):
    """Choose one word out of many; a quarter of them is right, however many there are.

    ## Description
    A word in the lowest quarter of the vocabulary is right. Random tokens are right about as often in a vocabulary of 8
    words as in one of 512, so there is nothing more to search for in the larger one: only more actions to tell apart.

    ## Action Space
    ``Discrete(n_words + 5)``: padding, the end token, a token for everything unknown, ``=``, ``?`` and the words. With
    ``action_unit="step"`` or ``"response"``, a text.

    ## Observation Space
    ``Dict`` of ``input_ids`` (int32) and ``attention_mask`` (int8), both ``(max_prompt_tokens + max_new_tokens,)``,
    padded on the right. With text actions, the text so far.

    ## Starting State
    The prompt ``? =``, always.

    ## Rewards
    ``accepted``: 1 when the episode ends, if it began with a right word.

    ## Episode End
    Terminated by the first word or the end token; truncated after three tokens that are neither and spoil the answer.

    ## Information
    ``reset``: ``problem_id``, ``family``, ``level``, ``language``. ``step``: ``reward_components``, and at the end
    ``stop_reason``. Both: ``n_reasoning_steps``, the words closed so far.

    ## Arguments
    ``n_words``: Words of the vocabulary, 4 or more. ``split``: ``"train"``, ``"test"`` or ``"all"``, which are the same
    here. All others: see :class:`llmgym.core.EnvOptions`.

    ## Version History
    v0: first version.
    """

    metadata: dict[str, Any] = LanguageEnv.metadata | {"audit": _PAYS_BY_DESIGN}

    def __init__(self, *, n_words: int = 64, render_mode: str | None = None, **options: Any) -> None:
        task, defaults = _vocabulary(n_words, options)
        super().__init__(task, render_mode=render_mode, **defaults)


class VocabularyVectorEnv(LanguageVectorEnv):
    """Many :class:`VocabularyEnv` in one, with the same arguments."""

    def __init__(self, num_envs: int = 1, *, n_words: int = 64, **options: Any) -> None:
        task, defaults = _vocabulary(n_words, options)
        super().__init__(task, num_envs, **defaults)


# --- Noise ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FlippedByWord:
    """Word 0 is right, but the verdict on some words is turned round.

    Attributes:
        flipped: For each word, whether it is; the last entry is for responses that begin with no word.
    """

    flipped: tuple[bool, ...]

    def __call__(self, response: str) -> bool:
        """What this verifier says."""
        word = next(iter(leading_words(response)), -1)
        known = 0 <= word < len(self.flipped) - 1
        return (word == 0) != self.flipped[word if known else -1]


@dataclass(frozen=True)
class NoisyTask:
    """One problem, with a verifier that errs on other words in each episode.

    Args:
        n_words: Words of the vocabulary.
        flip: How often the verifier errs on a word.
    """

    n_words: int
    flip: float
    replies: ClassVar[bool] = False

    def sample(self, rng: np.random.Generator) -> Problem:
        """Draw the verifier's errors; the agent sees nothing of them."""
        return self._problem(tuple(bool(drawn) for drawn in rng.random(self.n_words + 1) < self.flip))

    def _problem(self, flipped: tuple[bool, ...]) -> Problem:
        name = "".join("01"[entry] for entry in flipped)
        return Problem(NOTHING, "0", f"noisy_reward:{name}", family="noisy_reward", accepts=FlippedByWord(flipped))

    def outcomes(self) -> Iterator[tuple[float, Problem]]:
        """Every set of errors and its probability, ``2 ** (n_words + 1)`` of them."""
        for flipped in product((False, True), repeat=self.n_words + 1):
            yield math.prod(self.flip if entry else 1 - self.flip for entry in flipped), self._problem(flipped)

    def reply(self, problem: Problem, transcript: Transcript) -> str | None:
        """Nobody answers."""
        return None


def _noisy(flip: float, n_words: int, options: dict[str, Any]) -> tuple[NoisyTask, dict[str, Any]]:
    check_share("flip", flip, 0.5)
    check_int("n_words", n_words, 2, 64)
    return NoisyTask(n_words, float(flip)), one_word_options(n_words, options)


class NoisyRewardEnv(LanguageEnv):
    """Choose one word; the verifier errs.

    ## Description
    Word 0 is right. In each episode the verdict on each word is turned round with probability ``flip``: a right answer
    is refused, a wrong one accepted. The errors are drawn with the problem, by the environment's own random generator,
    so an episode is the same again from a restored state.

    ## Action Space
    ``Discrete(n_words + 5)``: padding, the end token, a token for everything unknown, ``=``, ``?`` and the words. With
    ``action_unit="step"`` or ``"response"``, a text.

    ## Observation Space
    ``Dict`` of ``input_ids`` (int32) and ``attention_mask`` (int8), both ``(max_prompt_tokens + max_new_tokens,)``,
    padded on the right. With text actions, the text so far.

    ## Starting State
    The prompt ``? =``, always. The verifier's errors are drawn with it and not shown.

    ## Rewards
    ``accepted``: 1 or 0 when the episode ends, as the verifier says. In a group, the same word meets the same verdict.

    ## Episode End
    Terminated by the first word or the end token; truncated after three tokens that are neither and spoil the answer.

    ## Information
    ``reset``: ``problem_id`` (it tells the errors), ``family``, ``level``, ``language``. ``step``:
    ``reward_components``, and at the end ``stop_reason``. Both: ``n_reasoning_steps``, the words closed so far.

    ## Arguments
    ``flip``: How often the verdict on a word is turned round, in ``[0, 0.5)``. ``n_words``: Words of the vocabulary, 2
    to 64. ``split``: ``"train"``, ``"test"`` or ``"all"``, which are the same here. All others: see
    :class:`llmgym.core.EnvOptions`.

    ## Version History
    v0: first version.
    """

    metadata: dict[str, Any] = LanguageEnv.metadata | {
        "audit": _PAYS_BY_DESIGN
        | dict.fromkeys(
            ("reference", "form", "empty", "white_space", "garbage", "talk", "long", "nested", "huge", "stuffed")
            + ("injected", "executed", "language", "other_forms"),
            "a verifier that errs is what the environment is about",
        )
    }

    def __init__(self, *, flip: float = 0.25, n_words: int = 4, render_mode: str | None = None, **options: Any) -> None:
        task, defaults = _noisy(flip, n_words, options)
        super().__init__(task, render_mode=render_mode, **defaults)


class NoisyRewardVectorEnv(LanguageVectorEnv):
    """Many :class:`NoisyRewardEnv` in one, with the same arguments."""

    def __init__(self, num_envs: int = 1, *, flip: float = 0.25, n_words: int = 4, **options: Any) -> None:
        task, defaults = _noisy(flip, n_words, options)
        super().__init__(task, num_envs, **defaults)


# --- Scale ------------------------------------------------------------------------------------------------------------


def _scaled(scale: float, n_words: int, options: dict[str, Any]) -> tuple[ListedTask, dict[str, Any]]:
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not (math.isfinite(scale) and scale > 0):
        raise InvalidOptionError(f"Expected `scale` to be a finite number > 0, actual: {scale!r}. Choose one.")
    check_int("n_words", n_words, 2, 4096)
    rewards = {AcceptedReward.name: float(scale)}
    return ruled_task("reward_scale", "0 1", Alternating(2)), word_options(n_words, 3, options, rewards=rewards)


class RewardScaleEnv(LanguageEnv):
    """An easy task whose reward is tiny, or huge.

    ## Description
    The agent writes two words, an even one and an odd one, and is paid ``scale``. Nothing but the unit of the reward
    changes with ``scale``, so neither should what is learned: an algorithm whose step sizes, clipping of values or
    penalties have a unit of their own shows it here.

    ## Action Space
    ``Discrete(n_words + 5)``: padding, the end token, a token for everything unknown, ``=``, ``?`` and the words. With
    ``action_unit="step"`` or ``"response"``, a text.

    ## Observation Space
    ``Dict`` of ``input_ids`` (int32) and ``attention_mask`` (int8), both ``(max_prompt_tokens + max_new_tokens,)``,
    padded on the right. With text actions, the text so far.

    ## Starting State
    The prompt ``? =``, always.

    ## Rewards
    ``accepted``: ``scale`` when the episode ends, if both words are right.

    ## Episode End
    Terminated by the end token; truncated after three tokens, the third of which does not matter.

    ## Information
    ``reset``: ``problem_id``, ``family``, ``level``, ``language``. ``step``: ``reward_components``, and at the end
    ``stop_reason``. Both: ``n_reasoning_steps``, the words closed so far.

    ## Arguments
    ``scale``: What a right response is paid, above 0. ``n_words``: Words of the vocabulary, 2 or more. ``split``:
    ``"train"``, ``"test"`` or ``"all"``, which are the same here. All others: see :class:`llmgym.core.EnvOptions`.

    ## Version History
    v0: first version.
    """

    metadata: dict[str, Any] = LanguageEnv.metadata | {"audit": _PAYS_BY_DESIGN}

    def __init__(self, *, scale: float = 1.0, n_words: int = 8, render_mode: str | None = None, **options: Any) -> None:
        task, defaults = _scaled(scale, n_words, options)
        super().__init__(task, render_mode=render_mode, **defaults)


class RewardScaleVectorEnv(LanguageVectorEnv):
    """Many :class:`RewardScaleEnv` in one, with the same arguments."""

    def __init__(self, num_envs: int = 1, *, scale: float = 1.0, n_words: int = 8, **options: Any) -> None:
        task, defaults = _scaled(scale, n_words, options)
        super().__init__(task, num_envs, **defaults)
