"""Exploration, and a reward at the end against one for each word: sequences that must be right as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmgym.core import LanguageEnv
from llmgym.envs.diagnostics.words import (
    Alternating,
    ListedTask,
    check_int,
    leading_words,
    ruled_task,
    secret_words,
    word_options,
)
from llmgym.errors import InvalidOptionError
from llmgym.rewards.base import StepReward
from llmgym.rewards.stack import REWARDS
from llmgym.vector import LanguageVectorEnv

if TYPE_CHECKING:
    from llmgym.transcript import Transcript

_SAME_FOR_ALL = "there is one problem, and its answers are right whatever stands around them"
_PAYS_BY_DESIGN = dict.fromkeys(
    ("constant", "near", "transplant", "echo", "listed", "hedged", "several", "negated", "hidden"), _SAME_FOR_ALL
)

# --- Exploration ------------------------------------------------------------------------------------------------------


def _secret(length: int, n_words: int, options: dict[str, Any]) -> tuple[ListedTask, dict[str, Any]]:
    check_int("length", length, 1, 32)
    check_int("n_words", n_words, 2, 4096)
    answer = " ".join(map(str, secret_words(length, n_words)))
    return ruled_task("secret_sequence", answer), word_options(n_words, length, options)


class SecretSequenceEnv(LanguageEnv):
    """One sequence of words among all of its length is paid for, and nothing hints at it.

    ## Description
    The agent has to write ``length`` words in the one right order, always the same. Random tokens find it once in
    ``(n_words + 5) ** length`` episodes; until then every reward is 0. So ``length`` is how hard it is to explore.

    ## Action Space
    ``Discrete(n_words + 5)``: padding, the end token, a token for everything unknown, ``=``, ``?`` and the words. With
    ``action_unit="step"`` or ``"response"``, a text.

    ## Observation Space
    ``Dict`` of ``input_ids`` (int32) and ``attention_mask`` (int8), both ``(max_prompt_tokens + max_new_tokens,)``,
    padded on the right. With text actions, the text so far.

    ## Starting State
    The prompt ``? =``, always.

    ## Rewards
    ``accepted``: 1 when the episode ends, if the response begins with the sequence.

    ## Episode End
    Terminated by the end token; truncated after ``length`` tokens, which is where the right response ends.

    ## Information
    ``reset``: ``problem_id``, ``family``, ``level``, ``language``. ``step``: ``reward_components``, and at the end
    ``stop_reason``. Both: ``n_reasoning_steps``, the words closed so far.

    ## Arguments
    ``length``: Words of the sequence, 1 to 32. ``n_words``: Words of the vocabulary, 2 or more. ``split``: ``"train"``,
    ``"test"`` or ``"all"``, which are the same here. All others: see :class:`llmgym.core.EnvOptions`.

    ## Version History
    v0: first version.
    """

    metadata: dict[str, Any] = LanguageEnv.metadata | {"audit": _PAYS_BY_DESIGN}

    def __init__(self, *, length: int = 3, n_words: int = 4, render_mode: str | None = None, **options: Any) -> None:
        task, defaults = _secret(length, n_words, options)
        super().__init__(task, render_mode=render_mode, **defaults)


class SecretSequenceVectorEnv(LanguageVectorEnv):
    """Many :class:`SecretSequenceEnv` in one, with the same arguments."""

    def __init__(self, num_envs: int = 1, *, length: int = 3, n_words: int = 4, **options: Any) -> None:
        task, defaults = _secret(length, n_words, options)
        super().__init__(task, num_envs, **defaults)


# --- Sparse against dense ---------------------------------------------------------------------------------------------


class AlternatingReward(StepReward):
    """An equal share of 1 for each word that is right in its place, paid at the token that writes it.

    Args:
        length: Words that are paid for.
    """

    name = "alternating"

    def __init__(self, length: int) -> None:
        check_int("length", length, 1, 64)
        self.length = length

    def score_step(self, transcript: Transcript, index: int) -> float:
        """``1 / length`` where word ``index`` is right, and nothing but words stands before it."""
        if index >= self.length:
            return 0.0
        words = leading_words(transcript.response)
        return 1 / self.length if index < len(words) and words[index] % 2 == index % 2 else 0.0


REWARDS.setdefault(AlternatingReward.name, AlternatingReward)


def _alternating(length: int, n_words: int, dense: bool, options: dict[str, Any]) -> tuple[ListedTask, dict[str, Any]]:
    check_int("length", length, 1, 64)
    check_int("n_words", n_words, 2, 4096)
    if not isinstance(dense, bool):
        raise InvalidOptionError(f"Expected `dense` to be True or False, actual: {dense!r}. Write one of them.")
    task = ruled_task("alternating", " ".join(str(place % 2) for place in range(length)), Alternating(length))
    rewards = {AlternatingReward.name: {"weight": 1.0, "length": length}} if dense else None
    return task, word_options(n_words, length, options, rewards=rewards)


class SparseRewardEnv(LanguageEnv):
    """The same task with a reward at the end only, or with one for each word.

    ## Description
    The agent writes ``length`` words, an even one first, then an odd one, and so on. With ``dense=False`` all of them
    have to be right, and only the end says so; with ``dense=True`` each is paid for when it is written. The best
    response and its return are the same: the difference between two scores is what a process reward is worth to an
    algorithm.

    ## Action Space
    ``Discrete(n_words + 5)``: padding, the end token, a token for everything unknown, ``=``, ``?`` and the words. With
    ``action_unit="step"`` or ``"response"``, a text.

    ## Observation Space
    ``Dict`` of ``input_ids`` (int32) and ``attention_mask`` (int8), both ``(max_prompt_tokens + max_new_tokens,)``,
    padded on the right. With text actions, the text so far.

    ## Starting State
    The prompt ``? =``, always.

    ## Rewards
    ``accepted`` (sparse): 1 when the episode ends, if all words are right. ``alternating`` (dense): ``1 / length`` for
    each right word, at once; a token that is no word ends the payments.

    ## Episode End
    Terminated by the end token; truncated after ``length`` tokens, which is where the right response ends.

    ## Information
    ``reset``: ``problem_id``, ``family``, ``level``, ``language``. ``step``: ``reward_components``, and at the end
    ``stop_reason``. Both: ``n_reasoning_steps``, the words closed so far.

    ## Arguments
    ``length``: Words to write, 1 to 64. ``n_words``: Words of the vocabulary, 2 or more. ``dense``: see above.
    ``split``: ``"train"``, ``"test"`` or ``"all"``, which are the same here. All others: see
    :class:`llmgym.core.EnvOptions`.

    ## Version History
    v0: first version.
    """

    metadata: dict[str, Any] = LanguageEnv.metadata | {"audit": _PAYS_BY_DESIGN}

    def __init__(
        self,
        *,
        length: int = 4,
        n_words: int = 8,
        dense: bool = False,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        task, defaults = _alternating(length, n_words, dense, options)
        super().__init__(task, render_mode=render_mode, **defaults)


class SparseRewardVectorEnv(LanguageVectorEnv):
    """Many :class:`SparseRewardEnv` in one, with the same arguments."""

    def __init__(
        self, num_envs: int = 1, *, length: int = 4, n_words: int = 8, dense: bool = False, **options: Any
    ) -> None:
        task, defaults = _alternating(length, n_words, dense, options)
        super().__init__(task, num_envs, **defaults)
