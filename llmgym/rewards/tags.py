"""The tags of ``<think>…</think><answer>…</answer>``, read in one pass: what is there, and what is wrong with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

Tag = Literal["<think>", "</think>", "<answer>", "</answer>"]
#: In the order that the format asks for.
TAGS: tuple[Tag, ...] = get_args(Tag)

Problem = Literal[
    "missing_think",  # no <think> at all
    "missing_answer",  # no <answer> at all
    "duplicate_think",  # a second thinking part
    "duplicate_answer",  # a second answer
    "nested",  # a tag inside a part of its own kind
    "answer_inside_think",
    "think_inside_answer",
    "wrong_order",  # the answer comes before the thinking
    "unclosed_think",
    "unclosed_answer",
    "stray_close",  # a closing tag with nothing to close
    "text_before",
    "text_between",
    "text_after",
    "empty_think",  # only where thinking is asked for
    "empty_answer",
]
PROBLEMS: tuple[Problem, ...] = get_args(Problem)

_TAG = re.compile(r"</?(?:think|answer)>")


@dataclass(frozen=True, slots=True)
class TagReport:
    """What :func:`check_tags` found.

    Attributes:
        problems: All that keeps the response from the format, in the order of :data:`PROBLEMS`; empty where it is met.
        n_in_place: How many of the four tags occur exactly once and after all the tags before them in the order.
    """

    problems: tuple[Problem, ...]
    n_in_place: int

    @property
    def is_met(self) -> bool:
        """Whether the whole response is ``<think>…</think><answer>…</answer>``."""
        return not self.problems


_IN_ORDER = list(TAGS)
_MET = TagReport((), len(TAGS))
_EMPTY = TagReport(("missing_think", "missing_answer"), 0)
_UNTAGGED = TagReport(("missing_think", "missing_answer", "text_before"), 0)


def check_tags(response: str, *, require_thinking: bool = False) -> TagReport:
    """What is wrong with the tags of a response.

    Args:
        response: All the agent wrote. Time is linear in its length.
        require_thinking: Whether an empty ``<think></think>`` is a problem.

    Example:
        >>> check_tags("<think>6*7</think> <answer>42</answer>").problems
        ()
        >>> check_tags("So: <answer>42</answer> <think></answer></think>").problems
        ('wrong_order', 'stray_close', 'text_before')
    """
    tags = _TAG.findall(response)
    if not tags:
        return _UNTAGGED if response.strip() else _EMPTY
    if tags == _IN_ORDER:  # what a trained model writes
        before, thinking, between, answer, after = map(str.strip, _TAG.split(response))
        if answer and not (before or between or after) and (thinking or not require_thinking):
            return _MET
    reader = _Reader(response, require_thinking)
    for match in _TAG.finditer(response):
        reader.take(match)
    reader.finish()
    found = reader.problems
    return TagReport(tuple(problem for problem in PROBLEMS if problem in found), reader.count_in_place())


class _Reader:
    """One pass over the tags: which parts are open, which were closed, and where text stands outside of them."""

    def __init__(self, response: str, require_thinking: bool) -> None:
        self.response = response
        self.require_thinking = require_thinking
        self.problems: set[Problem] = set()
        self.open: list[str] = []  # names of the parts that are open, outermost first
        self.parts: list[str] = []  # names of the outermost parts so far
        self.begun_at = 0  # where the outermost open part's content begins
        self.outside_from = 0  # where the text outside of parts begins
        self.seen: dict[str, list[int]] = {}  # tag -> first and last position

    def take(self, match: re.Match[str]) -> None:
        tag = match.group()
        at = match.start()
        self.seen.setdefault(tag, [at, at])[1] = at
        if tag.startswith("</"):
            self.close(tag[2:-1], at, match.end())
        else:
            self.begin(tag[1:-1], at, match.end())

    def begin(self, name: str, at: int, end: int) -> None:
        if not self.open:
            self.outside(at)
            if name in self.parts:
                self.problems.add("duplicate_think" if name == "think" else "duplicate_answer")
            elif name == "think" and self.parts:
                self.problems.add("wrong_order")
            self.parts.append(name)
            self.begun_at = end
        elif name in self.open:
            self.problems.add("nested")
        else:
            self.problems.add("answer_inside_think" if name == "answer" else "think_inside_answer")
        self.open.append(name)
        del self.open[8:]  # deeper than that nothing new can be said

    def close(self, name: str, at: int, end: int) -> None:
        if name not in self.open:
            self.problems.add("stray_close")
            if not self.open:
                self.outside(at)
                self.outside_from = end
            return
        while (inner := self.open.pop()) != name:
            self.problems.add("unclosed_think" if inner == "think" else "unclosed_answer")
        if not self.open:
            self.check_content(name, at)
            self.outside_from = end

    def check_content(self, name: str, end: int) -> None:
        if not self.response[self.begun_at : end].strip() and (name == "answer" or self.require_thinking):
            self.problems.add("empty_answer" if name == "answer" else "empty_think")

    def outside(self, end: int) -> None:
        """Look at the text outside of parts, up to ``end``."""
        if not self.response[self.outside_from : end].strip():
            return
        if not self.parts:
            self.problems.add("text_before")
        elif end == len(self.response):
            self.problems.add("text_after")
        else:
            self.problems.add("text_between")

    def finish(self) -> None:
        if self.open:
            self.problems.update("unclosed_think" if name == "think" else "unclosed_answer" for name in self.open)
        else:
            self.outside(len(self.response))
        if "<think>" not in self.seen:
            self.problems.add("missing_think")
        if "<answer>" not in self.seen:
            self.problems.add("missing_answer")

    def count_in_place(self) -> int:
        earlier, in_place = -1, 0
        for tag in TAGS:
            first, last = self.seen.get(tag, (-1, -1))
            in_place += earlier < first == last
            earlier = max(earlier, last)
        return in_place
