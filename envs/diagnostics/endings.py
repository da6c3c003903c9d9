"""The edge of the budget: every word pays, but a response that is cut off has earned nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmgym.core import LanguageEnv
from llmgym.envs.diagnostics.words import ListedTask, check_int, leading_words, ruled_task, word_options
from llmgym.rewards.base import Reward
from llmgym.rewards.stack import REWARDS
from llmgym.vector import LanguageVectorEnv

if TYPE_CHECKING:
    from llmgym.transcript import Transcript


class FinishedReward(Reward):
    """The share of words that a finished response has; 0 for one that a budget cut off.

    Args:
        length: Words that count in full.
    """

    name = "finished"

    def __init__(self, length: int) -> None:
        check_int("length", length, 1, 512)
        self.length = length

    def score(self, transcript: Transcript) -> float:
        """``min(words, length) / length``, of the words at the beginning, where the agent ended the response itself."""
        if transcript.stop_reason is None or not transcript.stop_reason.terminated:
            return 0.0
        return min(len(leading_words(transcript.response)), self.length) / self.length


REWARDS.setdefault(FinishedReward.name, FinishedReward)


def _truncation(length: int, n_words: int, options: dict[str, Any]) -> tuple[ListedTask, dict[str, Any]]:
    check_int("length", length, 1, 511)
    check_int("n_words", n_words, 2, 4096)
    task = ruled_task("truncation", " ".join(["0"] * length))
    rewards = {FinishedReward.name: {"weight": 1.0, "length": length}}
    return task, word_options(n_words, length + 1, options, rewards=rewards)


class TruncationEnv(LanguageEnv):
    """Write as many words as the budget allows, and end in time.

    ## Description
    Each word adds to the reward, up to ``length`` of them, but only a response that the agent ended itself is paid for;
    the budget leaves room for exactly ``length`` words and the end token. The best return lies one token before the
    edge behind which there is nothing. An algorithm that takes a cut for a pause (it bootstraps from a value there), or
    leaves the end token out of its loss, falls over that edge.

    ## Action Space
    ``Discrete(n_words + 5)``: padding, the end token, a token for everything unknown, ``=``, ``?`` and the words. With
    ``action_unit="step"`` or ``"response"``, a text.

    ## Observation Space
    ``Dict`` of ``input_ids`` (int32) and ``attention_mask`` (int8), both ``(max_prompt_tokens + max_new_tokens,)``,
    padded on the right. With text actions, the text so far.

    ## Starting State
    The prompt ``? =``, always.

    ## Rewards
    ``finished``: the share of ``length`` words that the response begins with, at the end token; 0 where it is cut off.

    ## Episode End
    Terminated by the end token; truncated after ``length + 1`` tokens.

    ## Information
    ``reset``: ``problem_id``, ``family``, ``level``, ``language``. ``step``: ``reward_components``, and at the end
    ``stop_reason``. Both: ``n_reasoning_steps``, the words closed so far.

    ## Arguments
    ``length``: Words that count, 1 to 511. ``n_words``: Words of the vocabulary, 2 or more. ``split``: ``"train"``,
    ``"test"`` or ``"all"``, which are the same here. All others: see :class:`llmgym.core.EnvOptions`.

    ## Version History
    v0: first version.
    """

    metadata: dict[str, Any] = LanguageEnv.metadata | {
        "audit": dict.fromkeys(
            ("form", "constant", "near", "transplant", "echo", "listed", "hedged", "several", "negated", "hidden")
            + ("stuffed", "long", "garbage", "unevaluated", "other_forms"),
            "every word is paid for, whichever it is",
        )
    }

    def __init__(self, *, length: int = 6, n_words: int = 4, render_mode: str | None = None, **options: Any) -> None:
        task, defaults = _truncation(length, n_words, options)
        super().__init__(task, render_mode=render_mode, **defaults)


class TruncationVectorEnv(LanguageVectorEnv):
    """Many :class:`TruncationEnv` in one, with the same arguments."""

    def __init__(self, num_envs: int = 1, *, length: int = 6, n_words: int = 4, **options: Any) -> None:
        task, defaults = _truncation(length, n_words, options)
        super().__init__(task, num_envs, **defaults)
