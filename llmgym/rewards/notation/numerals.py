"""Numbers not written in plain digits: number words, Chinese numerals, other scripts' digits, decimals that go on.

Every reader takes the longest start of its input that is a number and says how much it took; what follows (a unit, a
noun, nonsense) is the caller's to judge. All are linear in their input.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction

# --- English ----------------------------------------------------------------------------------------------------------

_UNIT_WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen"""
_UNITS = {word: value for value, word in enumerate(_UNIT_WORDS.split())}
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_TENS |= {"fourty": 40}  # a common misspelling
#: Words that multiply what stands before them.
SCALES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_DENOMINATORS = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7}
_DENOMINATORS |= {"eighth": 8, "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12, "sixteenth": 16}
_DENOMINATORS |= {"twentieth": 20, "hundredth": 100, "thousandth": 1000, "millionth": 10**6}
_DENOMINATORS |= {word + "s": value for word, value in _DENOMINATORS.items() if word != "half"}
_SIGNS = frozenset({"minus", "negative"})

#: Words a number in words may begin with, ``a`` and ``an`` aside.
FIRST_WORDS = frozenset(_UNITS) | frozenset(_TENS) | _SIGNS | {"half", "point"}

#: Names of bases, for ``1010_{two}``.
BASES = {word: value for word, value in _UNITS.items() if value >= 2}


def read_number_words(words: Sequence[str]) -> tuple[Fraction, int] | None:
    """The number that a list of lower-case words begins with, hyphens already split.

    Args:
        words: ``["forty", "two", "apples"]``.

    Returns:
        The value and the number of words it took, or ``None``.

    Example:
        >>> read_number_words("forty two apples".split())
        (Fraction(42, 1), 2)
        >>> read_number_words("two and a half".split()), read_number_words("three quarters".split())
        ((Fraction(5, 2), 4), (Fraction(3, 4), 2))
        >>> read_number_words("one and two".split())
        (Fraction(1, 1), 1)
    """
    start = 1 if words and words[0] in _SIGNS else 0
    read = _unsigned(words, start)
    if read is None:
        return None
    value, end = read
    return (-value if start else value), end


def _unsigned(words: Sequence[str], start: int) -> tuple[Fraction, int] | None:
    simple = _simple_fraction(words, start)
    if simple is not None:
        value, end = simple
        if _word(words, end) in ("a", "an") and _word(words, end + 1) in SCALES:  # half a million
            return value * SCALES[words[end + 1]], end + 2
        return simple
    cardinal = _cardinal(words, start)
    if cardinal is None and _word(words, start) != "point":
        return None
    whole, end = cardinal or (0, start)
    if _word(words, end) == "point":
        digits = end + 1
        while _UNITS.get(_word(words, digits), 10) < 10:
            digits += 1
        if digits > end + 1:
            text = "".join(str(_UNITS[word]) for word in words[end + 1 : digits])
            value = whole + Fraction(int(text), 10 ** len(text))
            while (scale := SCALES.get(_word(words, digits))) is not None:
                value, digits = value * scale, digits + 1
            return value, digits
        return None if cardinal is None else (Fraction(whole), end)
    if _word(words, end) == "and":
        part = _simple_fraction(words, end + 1)
        if part is not None and part[0] < 1:
            value, end = whole + part[0], part[1]
            while (scale := SCALES.get(_word(words, end))) is not None:  # two and a half million
                value, end = value * scale, end + 1
            return value, end
    return Fraction(whole), end


def _word(words: Sequence[str], i: int) -> str:
    return words[i] if i < len(words) else ""


def _simple_fraction(words: Sequence[str], start: int) -> tuple[Fraction, int] | None:
    """``half``, ``one half``, ``a third``, ``three quarters``, ``twenty one hundredths``."""
    if _word(words, start) == "half":
        return Fraction(1, 2), start + 1
    if _word(words, start) in ("a", "an"):
        numerator: tuple[int, int] | None = (1, start + 1)
    else:
        numerator = _below_hundred(words, start)
    if numerator is None:
        return None
    value, end = numerator
    denominator = _DENOMINATORS.get(_word(words, end))
    return None if denominator is None else (Fraction(value, denominator), end + 1)


def _below_hundred(words: Sequence[str], start: int) -> tuple[int, int] | None:
    first = _word(words, start)
    if first in _UNITS:
        return _UNITS[first], start + 1
    if first not in _TENS:
        return None
    second = _UNITS.get(_word(words, start + 1), 0)
    return (_TENS[first] + second, start + 2) if 0 < second < 10 else (_TENS[first], start + 1)


def _cardinal(words: Sequence[str], start: int) -> tuple[int, int] | None:
    """A whole number: groups below a thousand with falling scales, then perhaps dozens."""
    total, end, limit = 0, start, 10**15
    while True:
        group = _group(words, end, is_first=end == start)
        if group is None:
            break
        value, after = group
        scale = 1
        while (factor := SCALES.get(_word(words, after), 1)) >= 1000:  # a thousand million
            scale, after = scale * factor, after + 1
        if scale >= limit:
            break
        total, end, limit = total + value * scale, after, scale
        if scale == 1:
            break
        # "one thousand and five": only a number below a hundred is joined like that.
        if _word(words, end) == "and" and (rest := _below_hundred(words, end + 1)) is not None:
            if _word(words, rest[1]) in SCALES or _word(words, rest[1]) in _DENOMINATORS:
                break
            total, end = total + rest[0], rest[1]
            break
    if end == start:
        return None
    if _word(words, end) == "dozen":
        return total * 12, end + 1
    return total, end


def _group(words: Sequence[str], start: int, *, is_first: bool) -> tuple[int, int] | None:
    if is_first and _word(words, start) in ("a", "an") and _word(words, start + 1) in SCALES:
        value, end = 1, start + 1
    else:
        below = _below_hundred(words, start)
        if below is None:
            return None
        value, end = below
    if _word(words, end) != "hundred":
        return value, end
    value, end = value * 100, end + 1
    joined = end + 1 if _word(words, end) == "and" else end
    rest = _below_hundred(words, joined)
    if rest is None or rest[0] == 0 or _word(words, rest[1]) in ("hundred", *_DENOMINATORS):
        return value, end
    return value + rest[0], rest[1]


# --- Chinese ----------------------------------------------------------------------------------------------------------

_HAN_DIGITS = dict(zip("零一二三四五六七八九", range(10), strict=True)) | {"〇": 0, "两": 2, "兩": 2}
_HAN_SMALL = {"十": 10, "百": 100, "千": 1000}
HAN_SCALES = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_HAN_SIGNS = {"负": -1, "負": -1, "正": 1}
#: Characters a Chinese numeral may begin with.
HAN_FIRST = frozenset(_HAN_DIGITS) | frozenset("十百千负負半")
_PLAIN_DIGITS = re.compile(r"[0-9]{1,64}(?:\.[0-9]{1,64})?")


def read_chinese(text: str) -> tuple[Fraction, int] | None:
    """The number that a text begins with, in Chinese numerals or in digits with ``分之`` or ``万`` between.

    Returns:
        The value and the number of characters it took, or ``None``.

    Example:
        >>> read_chinese("四十二个"), read_chinese("三分之一"), read_chinese("百分之五十")
        ((Fraction(42, 1), 3), (Fraction(1, 3), 4), (Fraction(1, 2), 5))
        >>> read_chinese("一定") is None, read_chinese("3分之2")
        (False, (Fraction(2, 3), 4))
    """
    sign, start = 1, 0
    if text[:1] in _HAN_SIGNS:
        sign, start = _HAN_SIGNS[text[0]], 1
    if text.startswith("一半", start):
        return Fraction(sign, 2), start + 2
    whole = _han_decimal(text, start)
    if whole is None:
        return None
    value, end = whole
    if text.startswith("又", end):  # three 又 four 分之 one: a mixed number
        part = _han_part(text, end + 1)
        if part is not None:
            return sign * (value + part[0]), part[1]
    part = _han_part(text, start)
    return (sign * part[0], part[1]) if part is not None else (sign * value, end)


def _han_part(text: str, start: int) -> tuple[Fraction, int] | None:
    """``三分之一`` from ``start``, ``百分之五十`` too."""
    below = _han_decimal(text, start)
    if below is None or not text.startswith("分之", below[1]) or below[0] == 0:
        return None
    above = _han_decimal(text, below[1] + 2)
    return None if above is None else (above[0] / below[0], above[1])


def _han_decimal(text: str, start: int) -> tuple[Fraction, int] | None:
    if text[start : start + 1].isdigit():
        digits = _PLAIN_DIGITS.match(text, start)
        if digits is None:
            return None
        value, end = Fraction(digits.group()), digits.end()
        while text[end : end + 1] in HAN_SCALES:
            value, end = value * HAN_SCALES[text[end]], end + 1
        return value, end
    whole = _han_integer(text, start)
    if whole is None:
        return None
    value, end = Fraction(whole[0]), whole[1]
    if text[end : end + 1] in ("点", "點"):
        stop = end + 1
        while text[stop : stop + 1] in _HAN_DIGITS and stop < end + 65:
            stop += 1
        if stop > end + 1:
            digits_after = "".join(str(_HAN_DIGITS[digit]) for digit in text[end + 1 : stop])
            value, end = value + Fraction(int(digits_after), 10 ** len(digits_after)), stop
            while text[end : end + 1] in HAN_SCALES:
                value, end = value * HAN_SCALES[text[end]], end + 1
    return value, end


def _han_integer(text: str, start: int) -> tuple[int, int] | None:
    end = start
    total = section = 0  # ``section`` is below ten thousand
    digit: int | None = None
    limit, run = 10**12, ""
    while end < len(text) and end < start + 64:
        character = text[end]
        if character in _HAN_DIGITS:
            run += str(_HAN_DIGITS[character])  # 二零二四 is read digit by digit
            digit = _HAN_DIGITS[character]
        elif character in _HAN_SMALL:
            section += (1 if digit is None else digit) * _HAN_SMALL[character]
            digit, run = None, ""
        elif character in HAN_SCALES and end > start:
            section += digit or 0
            if HAN_SCALES[character] >= limit and total:
                section, total = total + section, 0  # 三万亿
            total += section * HAN_SCALES[character]
            limit, section, digit, run = HAN_SCALES[character], 0, None, ""
        else:
            break
        end += 1
    if end == start:
        return None
    if len(run) == end - start:
        return int(run), end
    return total + section + (digit or 0), end


# --- Digits and decimals ----------------------------------------------------------------------------------------------

_FOREIGN = re.compile(r"[^\W0-9A-Za-z_]|[٫٬٪]")
_FOREIGN_SIGNS = {"٫": ".", "٬": ",", "٪": "%"}


def plain_digits(text: str) -> str:
    """``text`` with every script's decimal digits, and mathematical letters, as their ASCII equals.

    >>> plain_digits("٤٢ और ४२"), plain_digits("𝑥")
    ('42 और 42', 'x')
    """
    return text if text.isascii() else _FOREIGN.sub(_plain_character, text)


def _plain_character(match: re.Match[str]) -> str:
    character = match[0]
    if character in _FOREIGN_SIGNS:
        return _FOREIGN_SIGNS[character]
    if "\U0001d400" <= character <= "\U0001d7ff":
        return unicodedata.normalize("NFKC", character)
    return str(unicodedata.decimal(character)) if character.isdecimal() else character


def repeating(whole: str, fixed: str, period: str) -> Fraction:
    """The value of ``whole.fixed`` followed by ``period`` for ever.

    >>> repeating("0", "1", "6")
    Fraction(1, 6)
    """
    shift = 10 ** len(fixed)
    return Fraction(int((whole + fixed) or "0"), shift) + Fraction(int(period), shift * (10 ** len(period) - 1))


def split_period(digits: str) -> tuple[str, str] | None:
    """Digits before ``...`` as a fixed part and a period, where they show one: three equal digits or two equal groups.

    >>> split_period("1666"), split_period("142857142857"), split_period("14159")
    (('1', '6'), ('', '142857'), None)
    """
    if len(digits) > 512:
        return None
    if len(digits) >= 3 and digits[-1] == digits[-2] == digits[-3]:
        period = digits[-1]
    else:
        for length in range(2, len(digits) // 2 + 1):
            if digits[-length:] == digits[-2 * length : -length] and len(set(digits[-length:])) > 1:
                period = digits[-length:]
                break
        else:
            return None
    fixed = digits
    while fixed.endswith(period):
        fixed = fixed[: -len(period)]
    return fixed, period
