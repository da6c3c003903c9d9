"""Does the response keep to ``<think>…</think><answer>…</answer>``?"""

from __future__ import annotations

from typing import Literal, get_args

from llmgym.errors import InvalidOptionError
from llmgym.rewards.base import JudgedReward, Judgement
from llmgym.rewards.tags import TAGS, TagReport, check_tags
from llmgym.transcript import Transcript

Mode = Literal["strict", "soft"]


def strict_format(response: str, *, require_thinking: bool = False) -> float:
    """1 where the whole response is ``<think>…</think><answer>…</answer>``, else 0.

    Each tag occurs exactly once and in this order, the answer is not empty, and outside the two pairs there is only
    white space. The thinking may be empty unless ``require_thinking``. What is wrong: :func:`check_tags`.

    >>> strict_format("<think>6*7</think> <answer>42</answer>"), strict_format("So: <answer>42</answer>")
    (1.0, 0.0)
    """
    return float(check_tags(response, require_thinking=require_thinking).is_met)


def soft_format(response: str) -> float:
    """A quarter for each of the four tags that occurs exactly once and after all the tags before it in the order.

    ``score = (1/4) * sum over tags k of [count_k = 1 and position_k > position_j for every tag j < k that occurs]``.
    Text outside the pairs and an empty answer cost nothing here.

    >>> soft_format("6*7</think><answer>42</answer>"), soft_format("</answer><answer>42")
    (0.75, 0.25)
    """
    return _soft(check_tags(response))


def _soft(report: TagReport) -> float:
    return report.n_in_place / len(TAGS)


def with_opening_tag(transcript: Transcript) -> str:
    """The response, with the ``<think>`` in front that some prompts end with, so that it reads the same either way."""
    opened = transcript.prompt.rstrip().endswith("<think>")
    return "<think>" + transcript.response if opened else transcript.response


class FormatReward(JudgedReward):
    """Score of ``<think>…</think><answer>…</answer>``: :func:`strict_format` or :func:`soft_format`.

    Details: ``"problems"``, the names of what is wrong (:data:`llmgym.rewards.tags.PROBLEMS`).

    Args:
        mode: ``"strict"`` (all or nothing) or ``"soft"`` (a quarter per tag).
        require_thinking: Whether strict also asks for some text between the ``<think>`` tags.
    """

    name = "format"

    def __init__(self, mode: Mode = "strict", require_thinking: bool = False) -> None:
        if mode not in get_args(Mode):
            raise InvalidOptionError(f"Expected `mode` to be one of {get_args(Mode)}, actual: {mode!r}.")
        if require_thinking and mode == "soft":
            raise InvalidOptionError(
                "Expected `require_thinking` with mode 'strict' only, actual: mode 'soft'. Leave one of them out."
            )
        self.mode = mode
        self.require_thinking = require_thinking

    def judge(self, transcript: Transcript) -> Judgement:
        """Format score of the response, in [0, 1], and what is wrong."""
        report = check_tags(with_opening_tag(transcript), require_thinking=self.require_thinking)
        score = _soft(report) if self.mode == "soft" else float(report.is_met)
        return Judgement(score, {"problems": report.problems})
