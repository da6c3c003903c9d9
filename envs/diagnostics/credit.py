"""Credit over distance, and a reward that does not care about length. In both the first word decides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from llmgym.core import LanguageEnv
from llmgym.envs.diagnostics.words import (
    NOTHING,
    FirstBelow,
    ListedTask,
    check_int,
    check_share,
    ruled_task,
    word_options,
)
from llmgym.tasks import Problem
from llmgym.vector import LanguageVectorEnv

if TYPE_CHECKING:
    import numpy as np

    from llmgym.transcript import Transcript, Transition

#: What the audit of rewards is told: these checks find something, and why that is meant.
_FIRST_DECIDES = "the first word decides, whatever follows, and half of the words are right"
_PAYS_BY_DESIGN = dict.fromkeys(
    ("constant", "near", "transplant", "echo", "listed", "hedged", "several", "negated", "hidden", "unevaluated"),
    _FIRST_DECIDES,
)

# --- Credit over distance ---------------------------------------------------------------------------------------------


def _delayed(distance: int, n_words: int, options: dict[str, Any]) -> tuple[ListedTask, dict[str, Any]]:
    check_int("distance", distance, 0, 512)
    check_int("n_words", n_words, 2, 4096)
    task = ruled_task("delayed_credit", "0", FirstBelow(n_words // 2))
    return task, word_options(n_words, distance + 1, options)


class DelayedCreditEnv(LanguageEnv):
    """Choose a first word; what it is worth is told many tokens later.

    ## Description
    A word in the lower half of the vocabulary is right. Up to ``distance`` tokens follow that change nothing, and only
    then the episode ends and pays. Half of the words are right, so there is nothing to search for: what grows with
    ``distance`` is the time between an action and its reward, and the number of actions that share in it.

    ## Action Space
    ``Discrete(n_words + 5)``: padding, the end token, a token for everything unknown, ``=``, ``?`` and the words. With
    ``action_unit="step"`` or ``"response"``, a text.

    ## Observation Space
    ``Dict`` of ``input_ids`` (int32) and ``attention_mask`` (int8), both ``(max_prompt_tokens + max_new_tokens,)``,
    padded on the right. With text actions, the text so far.

    ## Starting State
    The prompt ``? =``, always.

    ## Rewards
    ``accepted``: 1 when the episode ends, if the first word was right.

    ## Episode End
    Terminated by the end token, which pays too: writing on is no duty. Truncated after ``distance + 1`` tokens.

    ## Information
    ``reset``: ``problem_id``, ``family``, ``level``, ``language``. ``step``: ``reward_components``, and at the end
    ``stop_reason``. Both: ``n_reasoning_steps``, the words closed so far.

    ## Arguments
    ``distance``: Tokens that may follow the first, 0 to 512. ``n_words``: Words of the vocabulary, 2 or more; an
    episode of random tokens is ``n_words + 5`` tokens long on average, where the budget allows it. ``split``:
    ``"train"``, ``"test"`` or ``"all"``, which are the same here. All others: see :class:`llmgym.core.EnvOptions`.

    ## Version History
    v0: first version.
    """

    metadata: dict[str, Any] = LanguageEnv.metadata | {"audit": _PAYS_BY_DESIGN}

    def __init__(self, *, distance: int = 8, n_words: int = 16, render_mode: str | None = None, **options: Any) -> None:
        task, defaults = _delayed(distance, n_words, options)
        super().__init__(task, render_mode=render_mode, **defaults)


class DelayedCreditVectorEnv(LanguageVectorEnv):
    """Many :class:`DelayedCreditEnv` in one, with the same arguments."""

    def __init__(self, num_envs: int = 1, *, distance: int = 8, n_words: int = 16, **options: Any) -> None:
        task, defaults = _delayed(distance, n_words, options)
        super().__init__(task, num_envs, **defaults)


# --- Length bias ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FlippedByText:
    """The verdict of :class:`FirstBelow`, turned round for a share ``flip`` of all responses, each by its own chance.

    Attributes:
        bound: Of the first word.
        flip: The share, in ``[0, 0.5)``.
        key: Which responses those are. Over all keys, each is one of them with probability ``flip``.
    """

    bound: int
    flip: float
    key: int

    def __call__(self, response: str) -> bool:
        """What this verifier says."""
        digest = hashlib.blake2b(f"{self.key}:{response}".encode("utf-8", "replace"), digest_size=8).digest()
        flipped = int.from_bytes(digest, "big") < self.flip * 2**64
        return FirstBelow(self.bound)(response) != flipped

    def mean(self, response: str) -> float:
        """What it says on average over all keys: ``1 - flip`` where the response is right, ``flip`` elsewhere."""
        return 1.0 - self.flip if FirstBelow(self.bound)(response) else self.flip


@dataclass(frozen=True)
class FlippedTask:
    """One problem, with a verifier that errs on other responses in each episode.

    Args:
        bound: A first word below it is right.
        flip: How often the verifier errs.
    """

    bound: int
    flip: float
    replies: ClassVar[bool] = False

    def sample(self, rng: np.random.Generator) -> Problem:
        """Draw the verifier's errors; the agent sees nothing of them."""
        return self._problem(int(rng.integers(2**63)))

    def _problem(self, key: int) -> Problem:
        rule = FlippedByText(self.bound, self.flip, key)
        return Problem(NOTHING, "0", f"length_bias:{key}", family="length_bias", accepts=rule)

    def outcomes(self) -> Iterator[tuple[float, Problem]]:
        """One problem for all: they differ by noise alone, whose mean :meth:`mean_reward` declares."""
        yield 1.0, self._problem(0)

    def mean_reward(self, transition: Transition, reward: float) -> float:
        """The expectation of a reward of 1 or 0, over the verifier's errors."""
        rule = transition.transcript.problem.accepts
        if not transition.ended or not isinstance(rule, FlippedByText):
            return reward
        return rule.mean(transition.transcript.response)

    def reply(self, problem: Problem, transcript: Transcript) -> str | None:
        """Nobody answers."""
        return None


def _biased(budget: int, flip: float, n_words: int, options: dict[str, Any]) -> tuple[FlippedTask, dict[str, Any]]:
    check_int("budget", budget, 1, 512)
    check_int("n_words", n_words, 2, 4096)
    check_share("flip", flip, 0.5)
    return FlippedTask(n_words // 2, float(flip)), word_options(n_words, budget, options)


class LengthBiasEnv(LanguageEnv):
    """A reward that does not care about length: does the agent's length drift all the same?

    ## Description
    A first word in the lower half of the vocabulary is right; what follows is free, and so is when to end. The verifier
    errs: its verdict on each response is turned round with probability ``flip``, drawn with the problem. So advantages
    never die out, and an algorithm that credits long and short responses unequally goes on pushing the length, where
    nothing in the expected reward does.

    ## Action Space
    ``Discrete(n_words + 5)``: padding, the end token, a token for everything unknown, ``=``, ``?`` and the words. With
    ``action_unit="step"`` or ``"response"``, a text.

    ## Observation Space
    ``Dict`` of ``input_ids`` (int32) and ``attention_mask`` (int8), both ``(max_prompt_tokens + max_new_tokens,)``,
    padded on the right. With text actions, the text so far.

    ## Starting State
    The prompt ``? =``, always. Which responses the verifier errs on is drawn with it and not shown.

    ## Rewards
    ``accepted``: 1 or 0 when the episode ends, as the verifier says: 1 with probability ``1 - flip`` for a right
    response, ``flip`` for a wrong one. In a group, the same response meets the same verdict.

    ## Episode End
    Terminated by the end token; truncated after ``budget`` tokens.

    ## Information
    ``reset``: ``problem_id``, ``family``, ``level``, ``language``. ``step``: ``reward_components``, and at the end
    ``stop_reason``. Both: ``n_reasoning_steps``, the words closed so far.

    ## Arguments
    ``budget``: Tokens of the longest response, 1 to 512. ``flip``: How often the verifier errs, in ``[0, 0.5)``.
    ``n_words``: Words of the vocabulary, 2 or more. ``split``: ``"train"``, ``"test"`` or ``"all"``, which are the same
    here. All others: see :class:`llmgym.core.EnvOptions`.

    ## Version History
    v0: first version.
    """

    metadata: dict[str, Any] = LanguageEnv.metadata | {
        "audit": _PAYS_BY_DESIGN
        | dict.fromkeys(
            ("reference", "form", "empty", "white_space", "garbage", "talk", "long", "nested", "huge", "stuffed")
            + ("injected", "executed", "language", "other_forms"),
            "a verifier that errs on a share of all responses is what the environment is about",
        )
    }

    def __init__(
        self,
        *,
        budget: int = 16,
        flip: float = 0.2,
        n_words: int = 8,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        task, defaults = _biased(budget, flip, n_words, options)
        super().__init__(task, render_mode=render_mode, **defaults)


class LengthBiasVectorEnv(LanguageVectorEnv):
    """Many :class:`LengthBiasEnv` in one, with the same arguments."""

    def __init__(
        self, num_envs: int = 1, *, budget: int = 16, flip: float = 0.2, n_words: int = 8, **options: Any
    ) -> None:
        task, defaults = _biased(budget, flip, n_words, options)
        super().__init__(task, num_envs, **defaults)
