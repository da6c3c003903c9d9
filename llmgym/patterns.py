"""A regular expression as a non-deterministic automaton over characters.

Covers what formats are made of: characters and their escapes, classes, ``.``, groups, ``|`` and the repeats ``*``,
``+``, ``?``, ``{n}``, ``{n,}``, ``{n,m}``, with the meaning that :mod:`re` gives them under ``re.ASCII``. What an
automaton has no use for (anchors, back references, look-around, lazy repeats) is refused.

Not for searching in texts: that is :mod:`re`. This is for asking, of a text half written, what may follow.

Source: Thompson, "Regular Expression Search Algorithm", Communications of the ACM 11(6), 1968.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

from llmgym.errors import InvalidOptionError

_LAST_CHARACTER = 0x10FFFF
#: Copies that a counted repeat may make of what it repeats.
_MOST_COPIES = 1000

_DIGITS = ((0x30, 0x39),)
_WORD = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_BLANKS = ((0x09, 0x0D), (0x20, 0x20))
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _BLANKS}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_NEWLINE = ((0x0A, 0x0A),)

Ranges: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Characters:
    """One character of some code points."""

    ranges: Ranges


@dataclass(frozen=True)
class _Sequence:
    parts: tuple[_Node, ...]


@dataclass(frozen=True)
class _Choice:
    parts: tuple[_Node, ...]


@dataclass(frozen=True)
class _Repeat:
    """``part`` at least ``least`` times, at most ``most`` (``None``: without end)."""

    part: _Node
    least: int
    most: int | None


_Node: TypeAlias = _Characters | _Sequence | _Choice | _Repeat


def _inverse(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """All code points but these."""
    gaps, low = [], 0
    for first, last in sorted(ranges):
        if first > low:
            gaps.append((low, first - 1))
        low = max(low, last + 1)
    if low <= _LAST_CHARACTER:
        gaps.append((low, _LAST_CHARACTER))
    return tuple(gaps)


class _Parser:
    """Recursive descent; :mod:`re` has accepted the pattern before, so its shape is right."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    def parse(self) -> _Node:
        node = self._choice()
        assert self.at == len(self.pattern), "re accepts no unbalanced bracket"
        return node

    def _next(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def _refuse(self, what: str) -> NoReturn:
        raise InvalidOptionError(
            "Expected a pattern of characters, classes, groups, | and repeats, actual: "
            f"{what} at place {self.at} of {self.pattern!r}. Write it without."
        )

    def _choice(self) -> _Node:
        parts = [self._sequence()]
        while self._next() == "|":
            self.at += 1
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else _Choice(tuple(parts))

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self._next() not in ("", "|", ")"):
            parts.append(self._repeat(self._atom()))
        return parts[0] if len(parts) == 1 else _Sequence(tuple(parts))

    def _repeat(self, part: _Node) -> _Node:
        counted = re.compile(r"\{(\d*)(,?)(\d*)\}").match(self.pattern, self.at)
        simple = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(self._next())
        least: int
        most: int | None
        if simple is not None:
            (least, most), length = simple, 1
        elif counted is not None and (counted[1] or counted[2]):  # to re, {} is two characters
            least = int(counted[1] or 0)
            most = least if not counted[2] else int(counted[3]) if counted[3] else None
            length = len(counted[0])
            if max(least, most or 0) > _MOST_COPIES:
                self._refuse(f"a repeat of more than {_MOST_COPIES} times")
        else:
            return part
        self.at += length
        if self._next() in ("?", "+"):
            self._refuse("a lazy or possessive repeat")
        return _Repeat(part, least, most)

    def _atom(self) -> _Node:
        character = self._next()
        if character in ("^", "$"):
            self._refuse("an anchor (the whole response is matched anyway)")
        self.at += 1
        if character == "(":
            if self._next() == "?":
                if self.pattern[self.at : self.at + 2] != "?:":
                    self._refuse("a group that is more than a bracket")
                self.at += 2
            node = self._choice()
            self.at += 1  # the closing bracket
            return node
        if character == "[":
            return self._class()
        if character == ".":
            return _Characters(_inverse(_NEWLINE))
        return _Characters(self._escape() if character == "\\" else ((ord(character), ord(character)),))

    def _escape(self) -> Ranges:
        character = self._next()
        ranges: Ranges
        if character.lower() in _CLASSES:
            ranges = _CLASSES[character.lower()]
            ranges = ranges if character.islower() else _inverse(ranges)
        elif character in _CONTROLS:
            ranges = ((ord(_CONTROLS[character]),) * 2,)
        elif character.isalnum():
            self._refuse(f"the escape \\{character}")
        else:
            ranges = ((ord(character), ord(character)),)
        self.at += 1
        return ranges

    def _class(self) -> _Characters:
        negated = self._next() == "^"
        self.at += negated
        ranges: list[tuple[int, int]] = []
        first = True
        while first or self._next() != "]":
            first = False
            item = self._member()
            goes_on = self._next() == "-" and self.pattern[self.at + 1] != "]"
            if goes_on:  # re has refused a range that ends in a class
                self.at += 1
                item = ((item[0][0], self._member()[0][1]),)
            ranges.extend(item)
        self.at += 1
        return _Characters(_inverse(ranges) if negated else tuple(ranges))

    def _member(self) -> Ranges:
        character = self._next()
        self.at += 1
        return self._escape() if character == "\\" else ((ord(character), ord(character)),)


@dataclass
class Automaton:
    """States of a pattern, numbered. A set of them is where a text may have led.

    Attributes:
        start: The states before the first character.
        end: The state of a text that the whole pattern matches.
    """

    start: frozenset[int] = field(init=False)
    end: int = field(init=False)
    _free: list[list[int]] = field(default_factory=list)  # state -> states that it reaches without a character
    _edges: list[tuple[Ranges, int] | None] = field(default_factory=list)  # state -> its characters, and where to

    def step(self, states: Iterable[int], character: str) -> frozenset[int]:
        """The states after one more character; empty where no text of the pattern goes on so."""
        code = ord(character)
        reached = []
        for state in states:
            edge = self._edges[state]
            if edge is not None and any(first <= code <= last for first, last in edge[0]):
                reached.append(edge[1])
        return self._closure(reached)

    def _closure(self, states: Iterable[int]) -> frozenset[int]:
        seen, waiting = set(states), list(states)
        while waiting:
            for state in self._free[waiting.pop()]:
                if state not in seen:
                    seen.add(state)
                    waiting.append(state)
        return frozenset(seen)

    def _state(self, free: Iterable[int] = (), edge: tuple[Ranges, int] | None = None) -> int:
        self._free.append(list(free))
        self._edges.append(edge)
        return len(self._free) - 1

    def _build(self, node: _Node, end: int) -> int:
        """Add states for a node that lead on to ``end``; returns the first of them."""
        if isinstance(node, _Characters):
            return self._state(edge=(node.ranges, end))
        if isinstance(node, _Sequence):
            for part in reversed(node.parts):
                end = self._build(part, end)
            return end
        if isinstance(node, _Choice):
            return self._state([self._build(part, end) for part in node.parts])
        if node.most is None:
            again = self._state([end])
            self._free[again].append(self._build(node.part, again))
            end = again
        else:
            last = end
            for _ in range(node.most - node.least):
                end = self._state([last, self._build(node.part, end)])
        for _ in range(node.least):
            end = self._build(node.part, end)
        return end


def compile_pattern(pattern: str) -> Automaton:
    """The automaton of a regular expression that a whole text must match.

    Args:
        pattern: See the top of this module.

    Raises:
        InvalidOptionError: If it is no regular expression, or has parts that an automaton has no use for.

    Example:
        >>> automaton = compile_pattern("[0-9]+")
        >>> after_a_digit = automaton.step(automaton.start, "7")
        >>> automaton.end in automaton.start, automaton.end in after_a_digit
        (False, True)
    """
    if not isinstance(pattern, str):
        raise InvalidOptionError(f"Expected a pattern to be a text, actual: {pattern!r}. Write a regular expression.")
    try:
        re.compile(pattern, re.ASCII)
    except re.error as error:
        raise InvalidOptionError(
            f"Expected a regular expression, actual: {pattern!r} ({error.msg} at place {error.pos}). Mend it."
        ) from error
    automaton = Automaton()
    automaton.end = automaton._state()
    automaton.start = automaton._closure([automaton._build(_Parser(pattern).parse(), automaton.end)])
    return automaton
