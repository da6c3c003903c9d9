"""Whether an answer equals the reference answer, as texts.

The stages, each final where it can be: the texts as they are; plain numbers; the letters of choices; then both are read
as trees (``notation``) and compared by ``equality``. Nothing raises on any text, and time is bounded by construction.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeAlias

from llmgym.errors import unknown_name
from llmgym.rewards.comparison import words
from llmgym.rewards.comparison.equality import Comparison, correct, incorrect
from llmgym.rewards.comparison.evaluation import within
from llmgym.rewards.comparison.verdicts import STRICT, Leniency, Match, Status
from llmgym.rewards.notation import reader as notation
from llmgym.rewards.notation.expressions import Expression, Unreadable, Words
from llmgym.rewards.notation.wording import level

__all__ = ["STRICT", "Leniency", "Match", "Reference", "Status", "answers_equal", "compare"]

#: A literal as most answers are written, and the most characters of one that is read here.
_PLAIN = re.compile(r"([-+]?)([0-9]+)(?:\.([0-9]+)|/([0-9]+))?")
_MAX_PLAIN = 100
#: A whole number between letters of which none scales it: ``8 m``, ``x9``, ``$5``.
_DRESSED = re.compile(r"[A-Za-z$]?([-+]?[0-9]{1,18})(?: ?[^\W\d_十百千万萬亿億兆半倍成折])?")
#: Numerator and denominator, not in lowest terms: two of them are compared by two products.
_Quotient: TypeAlias = tuple[int, int]

_SAME_TEXT = correct("same_text")
_SAME_VALUE = correct("same_value")
_DIFFERENT_VALUE = incorrect("different_value")


def _plain_number(text: str) -> _Quotient | None:
    """``-3``, ``0.25`` or ``6/8``; not ``12/4``, which is still to be worked out."""
    match = _PLAIN.fullmatch(text) if len(text) <= _MAX_PLAIN else None
    if match is None:
        return None
    sign, whole, decimals, below = match.groups()
    above, denominator = int(whole + (decimals or "")), 1
    if decimals:
        denominator = 10 ** len(decimals)
    elif below:
        denominator = int(below)
        if denominator == 0 or above % denominator == 0:
            return None
    return (-above if sign == "-" else above), denominator


class Reference:
    """A reference answer, read once. It can be pickled, and equals another one of the same text.

    Args:
        text: The right answer.

    Example:
        >>> half = Reference("1/2")
        >>> compare("0.5", half).reason, compare("50\\\\%", half).reason
        ('same_value', 'same_value')
    """

    __slots__ = ("_tree", "choice", "choices", "number", "text", "tidy")

    def __init__(self, text: str) -> None:
        self.text = text
        self.tidy = words.tidy(text)
        self.number = _plain_number(self.tidy)
        self.choice = None if self.number else words.reference_choice(self.tidy)
        self.choices = None if self.number or self.choice else words.choices(self.tidy)
        self._tree: Expression | None = None

    @property
    def tree(self) -> Expression:
        """What the answer says; read when it is first asked for."""
        if self._tree is None:
            self._tree = notation.parse(self.tidy)
        return self._tree

    def __repr__(self) -> str:
        return f"Reference({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, Reference) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)

    def __reduce__(self) -> tuple[type[Reference], tuple[str]]:
        return Reference, (self.text,)


#: Longer references are read anew each time, so that what is kept is bounded.
_MAX_KEPT = 1_024
_kept_reference = lru_cache(maxsize=4096)(Reference)


def _read_reference(text: str) -> Reference:
    return _kept_reference(text) if len(text) <= _MAX_KEPT else Reference(text)


def compare(answer: str, reference: str | Reference, leniency: Leniency = STRICT) -> Match:
    r"""Whether an answer equals the reference answer, and why.

    Args:
        answer: Any text.
        reference: The right answer, as text or read beforehand.
        leniency: What is forgiven.

    Returns:
        ``CORRECT`` where both are equal; ``UNVERIFIABLE`` where that could not be found out: notation that nobody could
        read, an operation that is too large, a value that is defined nowhere.

    Example:
        >>> compare("\\frac{2}{4}", "0.5").status, compare("12 km", "12 m").reason
        (<Status.CORRECT: 'correct'>, 'different_unit')
        >>> compare("17*23", "391").reason, compare("17*23", "391", Leniency(allow_unevaluated=True)).reason
        ('unevaluated', 'same_value')
    """
    if not isinstance(reference, Reference):
        reference = _read_reference(reference)
    tidy = words.tidy(answer)
    if not tidy:
        return incorrect("no_answer")
    if tidy == reference.tidy:
        return _SAME_TEXT
    if reference.number is not None:
        if (number := _plain_number(tidy)) is not None:
            return _numbers(number, reference.number, leniency)
        if (dressed := _DRESSED.fullmatch(tidy)) and not leniency.has_tolerance:
            above, below = reference.number
            if int(dressed[1]) * below != above:  # another number, whatever the letters stand for: no need to read it
                return _DIFFERENT_VALUE
    if reference.choice is not None:
        chosen = words.choice(tidy)
        return _SAME_TEXT if chosen == reference.choice else incorrect("different_choice")
    if reference.choices is not None and words.choices(tidy) == reference.choices:
        return _SAME_TEXT
    if isinstance(reference.tree, Words) and level(answer) == reference.tree.text:
        return _SAME_TEXT
    tree = notation.parse(tidy)
    is_text = isinstance(tree, (Words, Unreadable)) and type(tree) is type(reference.tree)
    if is_text and words.squeezed(tidy) == words.squeezed(reference.tidy):
        return _SAME_TEXT
    return Comparison(leniency).match(tree, reference.tree)


def _numbers(answer: _Quotient, reference: _Quotient, leniency: Leniency) -> Match:
    (above, below), (right_above, right_below) = answer, reference
    if above * right_below == right_above * below:
        return _SAME_VALUE
    if leniency.has_tolerance:
        one, other = Fraction(above, below), Fraction(right_above, right_below)
        if within(one, other, leniency.rel_tol, leniency.abs_tol):
            return _SAME_VALUE
    return _DIFFERENT_VALUE


def answers_equal(answer: str, reference: str | Reference, **leniency: Any) -> bool:
    """Whether an answer equals the reference answer; what could not be found out does not count.

    Args:
        answer: Any text.
        reference: The right answer.
        **leniency: Arguments of :class:`Leniency`.

    Example:
        >>> answers_equal("x = 1,250", "1250"), answers_equal("0.333", "1/3")
        (True, False)
        >>> answers_equal("0.333", "1/3", rel_tol=0.01)
        True
    """
    return compare(answer, reference, make_leniency(leniency)).is_correct


def make_leniency(options: Mapping[str, Any]) -> Leniency:
    """A :class:`Leniency` from keyword arguments.

    Raises:
        InvalidOptionError: If one is unknown or not valid.

    Example:
        >>> make_leniency({}) is STRICT, make_leniency({"abs_tol": 0.01}).has_tolerance
        (True, True)
    """
    if not options:
        return STRICT
    for name in options:
        if name not in Leniency.__slots__:
            raise unknown_name("a leniency", name, Leniency.__slots__)
    return Leniency(**options)
