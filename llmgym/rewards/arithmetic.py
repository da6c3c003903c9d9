"""Exact arithmetic on text: a small bounded calculator over fractions. It never calls ``eval``.

What it reads: integers (``1,234`` included), decimals, ``+ - * / × ÷ ·``, parentheses and signs; powers where the
caller allows them. Whatever is not an expression, or is too long, too deep or too large, is ``None``: text comes from
a model, so nothing in it may raise or take long.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TypeAlias

#: Characters of an expression. Long enough for any answer, short enough to bound the size of every number in it.
MAX_LENGTH = 256
#: Nested parentheses, signs and powers.
MAX_DEPTH = 32
#: Largest absolute exponent, and most bits a power may have.
MAX_EXPONENT = 64
MAX_BITS = 4096

#: Signs that mean the same as an ASCII one: full-width forms, typographic minus signs, times and division signs.
_SAME_AS = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    | dict.fromkeys("×·⋅∙∗✕✖", "*")
    | dict.fromkeys("÷∕⁄", "/")
    | dict.fromkeys("−–‒﹣", "-")
    | {"\u3000": " ", "\u00a0": " ", "\u202f": " ", "\u2009": " "}
)
_VARIANT = re.compile("[" + re.escape("".join(map(chr, _SAME_AS))) + "]")
#: In longer texts, many characters may have to be replaced: one pass over all of them bounds the time.
_LONG = 2048

_NUMBER = r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+"
_TOKEN = re.compile(rf"\s*(?:({_NUMBER})|(\*\*|[-+*/^()]))")


def plain(text: str) -> str:
    """``text`` with full-width characters, minus signs and operator signs as their ASCII equals.

    >>> plain("１２×３ − ４")
    '12*3 - 4'
    """
    if text.isascii():
        return text
    if len(text) > _LONG:
        return text.translate(_SAME_AS)
    # It looks up every character, and a response has hundreds of which few or none are meant.
    return _VARIANT.sub(lambda match: _SAME_AS[ord(match[0])], text)


def tokenize(expression: str) -> list[str] | None:
    """Numbers and signs of an expression, in order; ``None`` where it holds anything else or is too long.

    >>> tokenize("2*(1,000 - .5)")
    ['2', '*', '(', '1000', '-', '.5', ')']
    """
    if len(expression) > MAX_LENGTH:
        return None
    expression = plain(expression).strip()
    tokens: list[str] = []
    position = 0
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None:
            return None
        number, sign = match.groups()
        tokens.append(number.replace(",", "") if number else sign)
        position = match.end()
    return tokens


def evaluate(expression: str, *, allow_power: bool = False) -> Fraction | None:
    """The exact value of an arithmetic expression.

    Args:
        expression: Text from anywhere.
        allow_power: Whether ``^`` and ``**`` are read, with a whole exponent of at most :data:`MAX_EXPONENT`.

    Returns:
        The value, or ``None`` where the text is not an expression, divides by zero, or is over a bound.

    Example:
        >>> evaluate("3 × 5 − 2")
        Fraction(13, 1)
        >>> evaluate("1/4 + 0.5")
        Fraction(3, 4)
        >>> evaluate("1/0") is evaluate("thirteen") is None
        True
    """
    tokens = tokenize(expression)
    return evaluate_tokens(tokens, allow_power=allow_power) if tokens else None


def evaluate_tokens(tokens: list[str], *, allow_power: bool = False) -> Fraction | None:
    """:func:`evaluate` for an expression that :func:`tokenize` has already cut."""
    parser = _Parser(tokens, allow_power)
    try:
        value = parser.sum(0)
    except (_NotAnExpression, ZeroDivisionError):
        return None
    return Fraction(value) if parser.position == len(tokens) else None


def numbers_used(expression: str) -> list[int] | None:
    """The whole numbers written in an expression, in order; a sign is an operation, not part of the number.

    Returns:
        The numbers, or ``None`` where :func:`evaluate` gives ``None`` or a number has a decimal point.

    Example:
        >>> numbers_used("3*5 - 2")
        [3, 5, 2]
        >>> numbers_used("3*5 - 2.0") is None
        True
    """
    tokens = tokenize(expression)
    if not tokens or evaluate_tokens(tokens) is None:
        return None
    numbers = [token for token in tokens if token[-1].isdigit()]
    if any("." in number for number in numbers):
        return None
    return [int(number) for number in numbers]


#: Whole numbers stay ``int`` while they can: that is several times quicker than ``Fraction``, and as exact.
_Value: TypeAlias = int | Fraction


class _NotAnExpression(Exception):
    """The tokens do not form an expression, or a bound was passed."""


class _Parser:
    """Recursive descent over tokens: sum of products of signed powers of numbers and parentheses."""

    def __init__(self, tokens: list[str], allow_power: bool) -> None:
        self.tokens = tokens
        self.position = 0
        self.allow_power = allow_power

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.position += 1
        return token

    def sum(self, depth: int) -> _Value:
        value = self.product(depth)
        while (sign := self.peek()) in ("+", "-"):
            self.position += 1
            term = self.product(depth)
            value = value + term if sign == "+" else value - term
        return value

    def product(self, depth: int) -> _Value:
        value = self.signed(depth)
        while (sign := self.peek()) in ("*", "/"):
            self.position += 1
            factor = self.signed(depth)
            value = value * factor if sign == "*" else Fraction(value) / factor
        return value

    def signed(self, depth: int) -> _Value:
        if self.peek() in ("+", "-"):
            if depth >= MAX_DEPTH:
                raise _NotAnExpression
            negative = self.take() == "-"
            value = self.signed(depth + 1)
            return -value if negative else value
        return self.power(depth)

    def power(self, depth: int) -> _Value:
        base = self.atom(depth)
        if self.peek() not in ("^", "**"):
            return base
        if not self.allow_power or depth >= MAX_DEPTH:
            raise _NotAnExpression
        self.position += 1
        exponent = self.signed(depth + 1)  # binds to the right: 2^3^2 is 2^9, 2^-1 is a half, -2^2 is -4
        times = exponent.numerator
        if exponent.denominator != 1 or abs(times) > MAX_EXPONENT:
            raise _NotAnExpression
        if max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(times) > MAX_BITS:
            raise _NotAnExpression
        return Fraction(base) ** times

    def atom(self, depth: int) -> _Value:
        token = self.take()
        if token == "(":
            if depth >= MAX_DEPTH:
                raise _NotAnExpression
            value = self.sum(depth + 1)
            if self.take() != ")":
                raise _NotAnExpression
            return value
        if not token or not token[-1].isdigit():
            raise _NotAnExpression
        return Fraction(token) if "." in token else int(token)
