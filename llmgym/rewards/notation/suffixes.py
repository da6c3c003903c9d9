"""What stands behind a value: finding a unit among tokens, and putting it to the value."""

from __future__ import annotations

import re

from llmgym.rewards.notation import units
from llmgym.rewards.notation.expressions import (
    Bracketed,
    Expression,
    Listing,
    Matrix,
    Number,
    Quantity,
    Ratio,
    Relation,
    Set,
)
from llmgym.rewards.notation.lexer import Tokens
from llmgym.rewards.notation.literals import MAX_DIGITS, ReadingError
from llmgym.rewards.notation.numerals import HAN_SCALES, SCALES
from llmgym.rewards.notation.wording import is_product_of_letters, word_set

#: Kinds of token that end a value, so that a unit may stand before them.
AFTER_VALUES = frozenset({"end", "joint", "relation", "close", "set", "&", "row", "mid", ":"})
_IN_UNITS = frozenset({"word", "letter", "function", "/", "*", "super", "unit", "dot", "currency"})
#: What says nothing about the value: 18 apples left.
_TRAILING = re.compile(
    r"\s*\b(?:in (?:total|all)|altogether|total|overall|each|apiece|left(?:[\s-]?over)?|remaining)\Z", re.IGNORECASE
)
#: A rate in words other than "per": $18 every day.
_RATE = re.compile(r"(?:an?|each|every)\s+(?=\w+\.?\Z)", re.IGNORECASE)
#: Words of two or three letters that begin a unit though no table has them by themselves.
_BEFORE_UNITS = word_set("sq cu per")

# --- Finding ----------------------------------------------------------------------------------------------------------


def is_unit(source: Tokens, position: int) -> bool:
    """Whether the words or letters here are a unit of what stands before them, not a factor."""
    token = source.tokens[position]
    text = source.spelling(token)
    if token.kind == "word":
        if text == "to":
            return False  # 3 to 1
        if token.upright or not text.isascii() or len(text) > 3 or text in _BEFORE_UNITS:
            return True
        if units.is_known(text) and (token.spaced or text not in units.PRODUCTS):
            return True
        return not is_product_of_letters(text, alone=token.spaced)
    if token.kind == "letter":
        if text == "a" and token.spaced and _is_rate(source, position):
            return True
        if token.upright:
            return text not in ("i", "e") and units.is_known(text)
        if not token.spaced or text not in units.LETTERS or not _is_after_literal(source, position):
            return False
        return source.tokens[_past_unit(source, position)].kind in AFTER_VALUES
    if token.kind == "function":  # 5 min, 5 sec
        is_apart = token.spaced or token.upright
        return is_apart and text in ("min", "sec") and source.tokens[position + 1].kind in AFTER_VALUES
    return token.kind in ("currency", "unit", "/")


def _is_rate(source: Tokens, position: int) -> bool:
    """Whether ``a`` is the article of ``18 a day``."""
    noun, after = source.tokens[position + 1], source.tokens[position + 2 : position + 3]
    if noun.kind != "word" or not noun.spaced or not after or after[0].kind not in AFTER_VALUES:
        return False
    return units.is_known(source.spelling(noun))


def _is_after_literal(source: Tokens, position: int) -> bool:
    """Whether a number ends here, and not an exponent: ``5 h``, ``10^8 m`` but not ``a^2 h``."""
    before = source.tokens[max(0, position - 6) : position]
    kinds = [token.kind for token in before]
    if kinds[-1:] == ["close"]:  # 10^{-8}
        kinds = kinds[:-1]
        if kinds[-2:-1] == ["-"]:
            del kinds[-2]
        if kinds[-4:] != ["number", "^", "open", "number"]:
            return False
        base = before[len(kinds) - 4]
    elif kinds[-2:-1] == ["^"]:
        base = before[-3]
    else:
        return kinds[-1:] == ["number"]
    return source.spelling(base) == "10"


def end_of_unit(source: Tokens, position: int) -> int:
    """Where the unit that begins here ends.

    Raises:
        ReadingError: If something follows it that cannot.
    """
    end = _past_unit(source, position)
    if source.tokens[end].kind not in AFTER_VALUES:
        raise ReadingError
    return end


def _past_unit(source: Tokens, position: int) -> int:
    tokens = source.tokens
    while True:
        kind = tokens[position].kind
        if kind in _IN_UNITS:
            position += 1
        elif kind == "-" and tokens[position + 1].kind == "word" and not tokens[position].spaced:
            position += 1  # light-years
        elif kind == "^":
            position = _past_exponent(source, position + 1)
        else:
            return position


def _past_exponent(source: Tokens, position: int) -> int:
    """``2``, ``-1``, ``{-1}``."""
    tokens = source.tokens
    opening = position
    in_group = tokens[position].kind == "open"
    position += in_group
    position += tokens[position].kind == "-"
    if tokens[position].kind not in ("number", "unit") or (in_group and source.closing[opening] != position + 1):
        raise ReadingError
    return position + 1 + in_group


# --- Applying ---------------------------------------------------------------------------------------------------------


def with_unit(value: Expression, text: str) -> Expression:
    """A value with the words after it: a scale (``million``), a unit, or both.

    Raises:
        ReadingError: If the words are neither.

    Example:
        >>> from fractions import Fraction
        >>> with_unit(Number(Fraction(5), "integer"), "million dollars")
        Quantity(value=Number(value=Fraction(5000000, 1), form='words'), unit='$')
    """
    words = _RATE.sub("per ", _TRAILING.sub("", text)).split()
    n_words = len(words)
    while words and (scale := SCALES.get(words[0].casefold())) is not None:
        value, words = _scaled(value, scale), words[1:]
    while words and words[0][0] in HAN_SCALES:
        value = _scaled(value, HAN_SCALES[words[0][0]])
        words = [words[0][1:], *words[1:]] if len(words[0]) > 1 else words[1:]
    if 0 < len(words) < n_words and words[0] == "of":
        words = words[1:]  # two million of something
    if not words:
        return value
    unit = units.canonical(" ".join(words), is_single=is_single(value))
    if unit is None or not (may_count(value) or units.is_measure(unit)):
        raise ReadingError
    if not isinstance(value, Quantity):
        return Quantity(value, unit)
    if unit.startswith("1/"):
        return Quantity(value.value, value.unit + unit[1:])  # $5 per hour
    if unit != value.unit:
        raise ReadingError
    return value


def is_single(value: Expression) -> bool:
    """Whether a noun after this stands in the singular: ``1 apple``, ``3/4 pizza``."""
    return isinstance(value, Number) and abs(value.value) <= 1


def may_count(value: Expression) -> bool:
    """Whether this may say how many of something there are; after others a word speaks about all of it."""
    return not isinstance(value, Bracketed | Listing | Matrix | Set | Relation | Ratio)


def counts_things(value: Expression) -> bool:
    """Whether this is a number of something that has a noun for a unit."""
    return isinstance(value, Quantity) and not units.is_measure(value.unit)


def _scaled(value: Expression, scale: int) -> Expression:
    if isinstance(value, Number):
        if value.value.numerator.bit_length() > 4 * MAX_DIGITS:
            raise ReadingError("too_large")
        return Number(value.value * scale, "words")
    if isinstance(value, Quantity) and isinstance(value.value, Number):
        return Quantity(_scaled(value.value, scale), value.unit)
    raise ReadingError
