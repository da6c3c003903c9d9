"""Does the response keep to ``<think>…</think><answer>…</answer>``?"""

from __future__ import annotations

from typing import Literal, get_args

from llmgym.errors import InvalidOptionError
from llmgym.rewards.base import Reward
from llmgym.transcript import Transcript

Mode = Literal["strict", "soft"]
TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def strict_format(response: str, *, require_thinking: bool = False) -> float:
    """1 where the whole response is ``<think>…</think><answer>…</answer>``, else 0.

    Each tag occurs exactly once and in this order, the answer is not empty, and outside the two pairs there is only
    white space. The thinking may be empty unless ``require_thinking``.

    >>> strict_format("<think>6*7</think> <answer>42</answer>"), strict_format("So: <answer>42</answer>")
    (1.0, 0.0)
    """
    if any(response.count(tag) != 1 for tag in TAGS):
        return 0.0
    before, _, rest = response.partition("<think>")
    thinking, closed, rest = rest.partition("</think>")
    between, opened, rest = rest.partition("<answer>")
    answer, ended, after = rest.partition("</answer>")
    in_order = bool(closed and opened and ended)
    nothing_outside = not (before.strip() or between.strip() or after.strip())
    thought = bool(thinking.strip()) or not require_thinking
    return float(in_order and nothing_outside and bool(answer.strip()) and thought)


def soft_format(response: str) -> float:
    """A quarter for each of the four tags that occurs exactly once and after all the tags before it in the order.

    ``score = (1/4) * sum over tags k of [count_k = 1 and position_k > position_j for every tag j < k that occurs]``.
    Text outside the pairs and an empty answer cost nothing here.

    >>> soft_format("6*7</think><answer>42</answer>"), soft_format("</answer><answer>42")
    (0.75, 0.25)
    """
    earlier = -1
    parts = 0
    for tag in TAGS:
        first, last = response.find(tag), response.rfind(tag)
        parts += earlier < first == last
        earlier = max(earlier, last)
    return parts / len(TAGS)


def with_opening_tag(transcript: Transcript) -> str:
    """The response, with the ``<think>`` in front that some prompts end with, so that it reads the same either way."""
    opened = transcript.prompt.rstrip().endswith("<think>")
    return "<think>" + transcript.response if opened else transcript.response


class FormatReward(Reward):
    """Score of ``<think>…</think><answer>…</answer>``: :func:`strict_format` or :func:`soft_format`.

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

    def score(self, transcript: Transcript) -> float:
        """Format score of the response, in [0, 1]."""
        response = with_opening_tag(transcript)
        if self.mode == "soft":
            return soft_format(response)
        return strict_format(response, require_thinking=self.require_thinking)
