"""Literal numbers: integers with grouped digits, decimals, repeating ones, powers of ten, digits of a base."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from llmgym.rewards.notation.expressions import Based, Number, Operation
from llmgym.rewards.notation.numerals import BASES, repeating, split_period
from llmgym.rewards.notation.symbols import SUBSCRIPTS

#: Digits of one literal number, and its largest decimal exponent.
MAX_DIGITS = 2000


class ReadingError(Exception):
    """The text is over a bound, or no notation. ``reason`` becomes the one of ``Unreadable``."""

    def __init__(self, reason: str = "not_understood") -> None:
        super().__init__(reason)
        self.reason = reason


#: Digits in groups of three with one and the same mark between them.
_THOUSANDS = re.compile(
    r"[1-9][0-9]{0,2}(?P<mark>,|\{,\}|,?\s?\\!\s?|\\[,:; ]|~| )[0-9]{3}(?![0-9])(?:(?P=mark)[0-9]{3}(?![0-9]))*"
    r"(?:\.[0-9]+)?"
)
_DECIMAL_COMMA = re.compile(r"([0-9]+)\{,\}([0-9]+)")
_NOT_DIGITS = re.compile(r"[^0-9.]+")
_EXPONENT = re.compile(r"[eE]([-+]?[0-9]{1,5})(?![0-9A-Za-z_^])")
_PREFIXED_BASE = re.compile(r"0(?:[xX]([0-9a-fA-F]+)|[bB]([01]+)|[oO]([0-7]+))(?![0-9A-Za-z_])")
_BASES_BY_PREFIX = (16, 2, 8)
#: A base below its digits: ``_2``, ``_{16}``, ``_{(2)}``, ``_{two}``, ``_{\text{two}}``, ``₂``.
_BASE = re.compile(
    r"\s?(?:_\s?\{\s*(?:([0-9]{1,2})|\(\s?([0-9]{1,2})\s?\)|([a-z]{3,9})"
    r"|\\(?:text|mathrm|mbox)\s?\{\s*(?:([0-9]{1,2})|([a-z]{3,9}))\s*\})\s*\}"
    r"|_\s?(?:([0-9]{1,2})(?![0-9])|\(\s?([0-9]{1,2})\s?\))"
    r"|([₀-₉]{1,2})(?![₀-₉]))"
)
#: Bounded, since each letter and number of a long run may begin them.
_DIGITS_OF_BASE = r"([0-9A-Z]{1,256}(?:\.[0-9A-Z]{1,256})?)"
_DIGITS = re.compile(_DIGITS_OF_BASE)
_ENCLOSED_DIGITS = re.compile(rf"\(\s?{_DIGITS_OF_BASE}\s?\)|\s?{_DIGITS_OF_BASE}\s?\}}")
#: Small letters as digits, where they are the whole text: ``3a_{16}`` in a formula is a multiple of a variable.
_SMALL_HEXADECIMAL = re.compile(r"([0-9a-f]{1,64})\s?_\s?(?:16|\{\s*\(?16\)?\s*\})\s*\Z")
_RECURRING = re.compile(
    r"([0-9]*)\.([0-9]*)(?:\\(?:overline|bar|dot)\s?(?:\{\s?([0-9]+)\s?\}|([0-9]))|\(([0-9]+)\))"
    r"(?:([0-9]*)\\dot\s?(?:\{([0-9])\}|([0-9])))?"
)
_ENDLESS = re.compile(r"([0-9]*)\.([0-9]+)\s?(?:\.\.\.+|…|⋯|\\[lc]?dots(?![a-zA-Z]))")


def read_literal(
    text: str, start: int, end: int, may_group: Callable[[str], bool]
) -> tuple[Number | Based | Operation, int]:
    r"""The literal that begins with the digits ``text[start:end]``.

    Args:
        text: Any text.
        start: Where the digits begin.
        end: Where they end, a decimal point among them included.
        may_group: Whether a mark (``","``, ``" "`` …) between groups of three digits may only group them.

    Returns:
        The literal (an ``endless`` where the digits go on without a period), and where it ends.

    Raises:
        ReadingError: If it has too many digits.

    Example:
        >>> read_literal("1,234 km", 0, 1, lambda mark: True)
        (Number(value=Fraction(1234, 1), form='integer'), 5)
        >>> read_literal("0.1(6)", 0, 3, lambda mark: True)
        (Number(value=Fraction(1, 6), form='repeating'), 6)
    """
    after = text[end : end + 1]
    if after:
        if after in ",{\\ ~":
            grouped = _grouped(text, start, may_group)
            if grouped is not None:
                return grouped
        elif after in "_₀₁₂₃₄₅₆₇₈₉xboXBO" or "A" <= after <= "Z":
            based = read_based_literal(text, start)
            if based is not None:
                return based
        elif after in "acdef" and (based := _small_hexadecimal(text, start)) is not None:
            return based
        if after in ".(\\…⋯ ":
            endless = _endless(text, start)
            if endless is not None:
                return endless
    digits = text[start:end]
    if after in ("e", "E") and (exponent := _EXPONENT.match(text, end)) is not None:
        power = int(exponent[1])
        if abs(power) > MAX_DIGITS:
            raise ReadingError("too_large")
        return Number(decimal(digits) * Fraction(10) ** power, "scientific"), exponent.end()
    return Number(decimal(digits), "decimal" if "." in digits else "integer"), end


def decimal(digits: str) -> Fraction:
    """The exact value of ASCII digits with at most one point. ``Fraction(digits)`` does the same, but slower.

    >>> decimal("0.25")
    Fraction(1, 4)
    """
    _bound(digits)
    whole, point, decimals = digits.partition(".")
    return Fraction(int(whole + decimals), 10 ** len(decimals)) if point else Fraction(int(whole))


def read_based(digits: str, base: int) -> Based | None:
    """Digits of a base, or ``None`` where one of them is too large for it.

    >>> read_based("152A", 11), read_based("1012", 2)
    (Based(digits='152A', base=11), None)
    """
    if not 2 <= base <= 36 or len(digits) > MAX_DIGITS:
        return None
    digits = digits.upper()
    if any(int(digit, 36) >= base for digit in digits if digit != "."):
        return None
    whole, point, rest = digits.partition(".")
    return Based((whole.lstrip("0") or "0") + point + rest, base)


def read_based_literal(text: str, start: int) -> tuple[Based, int] | None:
    r"""``0x1F``, ``1010_2``, ``152A_{11}``, ``1010_{two}``, with the place where it ends.

    >>> read_based_literal("0x1F", 0), read_based_literal("1010_{two}", 0)
    ((Based(digits='1F', base=16), 4), (Based(digits='1010', base=2), 10))
    """
    match = _PREFIXED_BASE.match(text, start)
    if match is not None and match.lastindex is not None:
        based = read_based(match[match.lastindex], _BASES_BY_PREFIX[match.lastindex - 1])
        return None if based is None else (based, match.end())
    return _with_base(_DIGITS.match(text, start)) or _small_hexadecimal(text, start)


def read_enclosed_based(text: str, start: int) -> tuple[Based, int] | None:
    r"""``(1010)_2`` from its bracket, ``A3}_{16}`` of ``\text{A3}_{16}``, with the place where it ends.

    >>> read_enclosed_based("(1010)_2", 0)
    (Based(digits='1010', base=2), 8)
    """
    return _with_base(_ENCLOSED_DIGITS.match(text, start))


def _with_base(digits: re.Match[str] | None) -> tuple[Based, int] | None:
    match = None if digits is None else _BASE.match(digits.string, digits.end())
    if digits is None or match is None:
        return None
    written = next(base for base in match.groups() if base)
    if written.isascii():
        base = int(written) if written.isdigit() else BASES.get(written, 0)
    else:
        base = int("".join(SUBSCRIPTS[digit] for digit in written))
    based = read_based(digits[digits.lastindex or 1], base)
    return None if based is None else (based, match.end())


def _small_hexadecimal(text: str, start: int) -> tuple[Based, int] | None:
    if start > 8 or text[:start].strip():
        return None
    match = _SMALL_HEXADECIMAL.match(text, start)
    if match is None or not any(map(str.isdigit, match[1])):
        return None
    based = read_based(match[1], 16)
    return None if based is None else (based, match.end())


def _grouped(text: str, start: int, may_group: Callable[[str], bool]) -> tuple[Number, int] | None:
    """``1,234``, ``1{,}234``, ``1,\\!234``, ``1 234``; and ``3{,}14``, TeX's way to write a decimal comma."""
    match = _THOUSANDS.match(text, start)
    if match is None:
        comma = _DECIMAL_COMMA.match(text, start)
        if comma is None:
            return None
        return Number(decimal(f"{comma[1]}.{comma[2]}"), "decimal"), comma.end()
    mark, rest = match["mark"], text[match.end() : match.end() + 2]
    if mark == "," and rest[:1] == "," and rest[1:].isdigit():
        return None  # 1,234,5 is a list
    if mark == " " and (rest.lstrip()[:1] == "/" or rest[:1] == "_"):
        return None  # 2 100/7 is no number
    if not may_group(mark):
        return None
    digits = _NOT_DIGITS.sub("", match.group())
    return Number(decimal(digits), "decimal" if "." in digits else "integer"), match.end()


def _endless(text: str, start: int) -> tuple[Number | Operation, int] | None:
    """``0.\\overline{3}``, ``0.1(6)``, ``0.\\dot{1}4\\dot{2}``, ``0.333...``; ``3.14...`` shows no period."""
    match = _RECURRING.match(text, start)
    if match is not None:
        whole, fixed, braced, single, bracketed, between, last_braced, last = match.groups()
        period = braced or single or bracketed
        if between is not None:
            period += between + (last_braced or last)
        elif len(period) > 1 and "\\dot" in match.group():
            return None
        _bound(whole + fixed + period)
        return Number(repeating(whole, fixed, period), "repeating"), match.end()
    match = _ENDLESS.match(text, start)
    if match is None:
        return None
    _bound(match[1] + match[2])
    parts = split_period(match[2])
    if parts is not None:
        return Number(repeating(match[1], *parts), "repeating"), match.end()
    shown = Number(decimal(f"{match[1]}.{match[2]}"), "decimal")
    return Operation("endless", (shown,)), match.end()


def _bound(digits: str) -> None:
    if len(digits) > MAX_DIGITS:
        raise ReadingError("too_large")
