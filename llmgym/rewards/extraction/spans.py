"""Formulas in running text: where the stretch of notation around a number begins and ends, and what it comes to."""

from __future__ import annotations

import re

from llmgym.rewards.extraction.patterns import pattern

#: Chinese, Japanese and Korean letters: written without spaces, they are no names of variables.
CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
#: Raised and lowered characters and fractions, which count as letters or digits of a word elsewhere.
_SMALL = "²³¹¼½¾⁰-₟⅐-↋"
#: Words that are notation.
FUNCTIONS = frozenset(
    ("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "log", "ln", "exp",
     "sqrt", "pi", "mod", "gcd", "lcm", "max", "min", "inf", "oo")
)  # fmt: skip
#: Words between two values that make one answer of them: a list, a ratio, a range or an open choice.
_JOINING = frozenset(
    ("and", "or", "to", "und", "oder", "et", "ou", "y", "o", "e", "и", "или", "和", "或", "或者", "与", "至", "到",
     "및", "또는")
)  # fmt: skip

_TEXT = r"\\(?:text|mathrm|mbox|textbf|mathbf|operatorname)\s?\{[^{}\n]*\}"
_ATOM = pattern(
    r"(?P<number>[0-9](?:[0-9,.]*[0-9])?(?::[0-9]{2})*(?:\.{3}|…)?)"
    rf"|(?P<tex>{_TEXT}|\\(?:begin|end)\s?\{{[^{{}}\n]*\}}|\\(?:[A-Za-z]+|.))"
    rf"|(?P<cjk>[{CJK}]+)"
    rf"|(?P<word>[^\W\d_{CJK}{_SMALL}]+(?:['’](?:t|s|re|ll|ve|d|m)\b)?)"
    r"|(?P<space>\s+)"
    rf"|(?P<sign>[-+*/^_=<>≤≥≠±∓√∞°!%(){{}}\[\]|&~≈∪∩∈∅∛∜'$€£¥{_SMALL}])"
    r"|(?P<joint>[,;、:])"
    r"|(?P<other>.)"
)
#: Characters before a number that are looked at.
_REACH = 64
#: What ends a formula: a word, or a character that is no notation. The first characters of joining words are left out.
_STOP = rf"(?:[^\w\s\\,;、:\-+*/^=<>≤≥≠±∓√∞°!%(){{}}\[\]|&~≈∪∩∈∅∛∜'$€£¥{_SMALL}…]|(?=[{CJK}])[^和或与至到및또])"
_LETTERS = rf"[^\W\d_{CJK}{_SMALL}]"
_ALONE_AFTER = pattern(
    rf"(?!\.\.\.|…)\s*(?:\Z|{_STOP}|[,;、:]\s*(?:\Z|{_STOP}|{_LETTERS}{{2}})"
    r"|(?!(?i:and|or|to|und|oder|et|ou|или|sin|cos|tan|cot|sec|csc|arc|log|ln|exp|sqrt|pi|mod|gcd|lcm|max|min|inf|oo))"
    rf"{_LETTERS}{{2}})"
)
#: Read from right to left.
_ALONE_BEFORE = pattern(
    rf"(?P<number>[0-9](?:[0-9.,]*[0-9])?)(?![0-9.,])\s*"
    rf"(?:\Z|\n|{_STOP}(?!\\)|(?P<word>{_LETTERS}{{2,}})(?!\\|{_LETTERS}))"
)
_Atom = re.Match[str]
_NOTATION = frozenset(("number", "tex", "sign"))


def formula_span(line: str, at: int) -> tuple[int, int]:
    """Where the stretch of notation around ``line[at]`` begins and ends; values joined by "and" or a comma included.

    >>> line = "so the sum, 2 + 3x, is all (there is)"
    >>> line[slice(*formula_span(line, line.index("3")))]
    '2 + 3x'
    """
    for reach in (12, 64, len(line)):  # most formulas are short, and cutting a line into atoms is most of the work
        start, end = max(0, at - reach), min(len(line), at + reach)
        if start:  # not inside a word, whose end would look like a name
            start = line.find(" ", start, at) + 1 or start
        atoms = list(_ATOM.finditer(line, start, end))
        first = 0
        while atoms[first].end() <= at:
            first += 1
        last = first
        while first > 0 and _continues(atoms, first - 1):
            first -= 1
        while last + 1 < len(atoms) and _continues(atoms, last + 1):
            last += 1
        is_whole = start == 0 or (first > 1 and "{" not in line[start:at])  # a brace may belong to \begin{…}
        if is_whole and (last + 2 < len(atoms) or end == len(line)):
            break
    return _trim(line, atoms[first].start(), atoms[last].end(), at)


def lone_number(text: str, at: int, limit: int) -> int:
    """Where the number begins that ends in the digit ``text[at]``, if it plainly is a formula by itself; else -1.

    Most numbers stand between words. This sees those without cutting the line into atoms; where it is not sure, it says
    no.

    Args:
        text: Any text.
        at: Index of a digit.
        limit: Where the line ends.

    Example:
        >>> lone_number("he has 42 apples", 8, 16), lone_number("2 + 42 km", 5, 9)
        (7, -1)
    """
    if not _ALONE_AFTER.match(text, at + 1, limit):
        return -1
    before = text[max(0, at - _REACH) : at + 1]
    backwards = _ALONE_BEFORE.match(before[::-1])
    if backwards is None or backwards.end() > _REACH or "<<" in before:
        return -1
    word = backwards["word"]
    if word and len(word) < 8 and (word := word[::-1].lower()) and (word in FUNCTIONS or word in _JOINING):
        return -1
    return at + 1 - backwards.end("number")


def _continues(atoms: list[_Atom], index: int) -> bool:
    """Whether an atom is notation, or joins notation on its two sides."""
    kind, text = atoms[index].lastgroup, atoms[index].group()
    if kind in _NOTATION or kind == "space":
        return True
    if kind == "other":
        return False
    if kind == "word" and ((len(text) == 1 and text != "I") or text.lower() in FUNCTIONS):
        return True
    if kind != "joint" and text.lower() not in _JOINING:
        return False
    before, after = _neighbour(atoms, index, -1), _neighbour(atoms, index, 1)
    if before is None or after is None:
        return False
    if text == ":":
        return before.lastgroup == after.lastgroup == "number"
    return _is_value(before) and _is_value(after)


def _is_value(atom: _Atom) -> bool:
    return atom.lastgroup in _NOTATION or (atom.lastgroup == "word" and len(atom.group()) == 1)


def _neighbour(atoms: list[_Atom], index: int, step: int) -> _Atom | None:
    index += step
    if 0 <= index < len(atoms) and atoms[index].lastgroup == "space":
        index += step
    return atoms[index] if 0 <= index < len(atoms) else None


def _trim(line: str, start: int, end: int, at: int) -> tuple[int, int]:
    """Without outer space, punctuation, Markdown, an article, and brackets whose partner lies outside."""
    while True:
        while end > at + 1 and line[end - 1] in " \t,;:*_'=~":
            end -= 1
        while start < at and (line[start] in " \t,;:*_')]}" or line[start : start + 2] in ("a ", "A ")):
            start += 1
        piece = line[start:end]
        if piece.isalnum():
            return start, end  # a bare number, mostly
        surplus = sum(map(piece.count, "([")) - sum(map(piece.count, ")]"))  # one kind: [1, 2) is an interval
        if surplus > 0 and start < at and piece[0] in "([":
            start += 1
        elif surplus < 0 and end > at + 1 and piece[-1] in ")]":
            end -= 1
        elif end > at + 2 and line[end - 2 : end] in (" a", " A"):
            end -= 2
        else:
            return start, end


# --- What a formula comes to ------------------------------------------------------------------------------------------

_EQUALS = pattern(r"(?<![<>!=:])=(?![=<>])")
_LONE_NAME = pattern(r"\$?\s*(?:\\[A-Za-z]+|[^\W\d_])(?:_(?:\{[^{}]*\}|\w))?'?(?:\s?\([^()]{0,24}\))?\s*\Z")
_LETTER = pattern(rf"(?<![A-Za-z\\])[^\W\d_{CJK}](?![A-Za-z])")
_COMMAND = pattern(rf"{_TEXT}|\\[A-Za-z]+")
_TIMES_X = pattern(r"(?<=[0-9)])\s?[xX]\s?(?=[0-9$€£¥])")
_LISTED = pattern(r"[;、]|,\s|\b(?:and|or|und|oder|et|ou)\b|[和或与]")
#: Environments of TeX that set several rows below one another; the last row is where they arrive.
_ROWS = pattern(r"\\begin\{(?:align|aligned|gather|gathered|eqnarray|equation|split|multline)\*?\}")
_PROSE = pattern(r"[^\W\d_]{2,}")


def result_of(formula: str) -> str:
    r"""What an equation comes to: its last side where the others are arithmetic, after the lone name before it.

    An equation that is still to be solved stays whole, and so do several in a list.

    >>> result_of("6*7 = 42"), result_of("S = 6x7 = 42"), result_of("3x = 42"), result_of("$x = 5$")
    ('42', 'S = 42', '3x = 42', 'x = 5')
    """
    formula = _without_delimiters(formula)
    if "=" not in formula or _LISTED.search(formula):
        return formula
    sides = [side.strip() for side in _EQUALS.split(formula) if side.strip("$ ")]
    if len(sides) < 2:
        return sides[0] if sides else formula
    last = _without_delimiters(sides[-1])
    if not any(_LETTER.search(_COMMAND.sub(" ", _TIMES_X.sub("*", side))) for side in sides[:-1]):
        return last
    if len(sides) > 2 and _LONE_NAME.match(sides[0]):
        return f"{_without_delimiters(sides[0])} = {last}"
    return formula


def _without_delimiters(formula: str) -> str:
    """Without math delimiters around the whole, or one that lost its partner; a currency sign stays."""
    formula = formula.strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        inner = formula[len(opening) : -len(closing)]
        if formula.startswith(opening) and formula.endswith(closing) and inner and opening not in inner:
            return inner.strip()
    if formula.count("$") == 1:
        if formula[-1] == "$":
            return formula[:-1].strip()
        if formula[0] == "$" and not (formula[1:2].isdigit() or formula[1:2] in ("-", ".")):
            return formula[1:].strip()
    return formula


def last_row(display: str) -> str:
    r"""The last row of a display of several, without alignment signs.

    >>> last_row(r"\begin{align*} x &= 2 + 3 \\ &= 5. \end{align*}")
    '= 5'
    """
    display = display.strip().rstrip(".,")
    opening = _ROWS.match(display)
    if opening is None:
        return display
    end = display.rfind("\\end{")
    rows = [row.replace("&", "").strip() for row in display[opening.end() : end if end > 0 else None].split("\\\\")]
    return next((row.rstrip("., ") for row in reversed(rows) if row), "")


def has_prose(line: str) -> bool:
    """Whether there are words in a line, beside names of functions."""
    if "\\" in line:
        line = _COMMAND.sub(" ", line)
    first = _PROSE.search(line)
    if first is None or first.group().lower() not in FUNCTIONS:
        return first is not None  # the usual case
    words = _PROSE.finditer(line, first.end())
    return any(word.group().lower() not in FUNCTIONS for word in words)
