"""Exact judging of a line of arithmetic: does every equation written in it hold?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from llmgym.rewards.arithmetic import MAX_LENGTH, evaluate_tokens, plain

_LIST_MARK = re.compile(r"\s*(?:[-*•]|\(?[0-9]{1,3}[.):、])\s+")
_TIMES_LETTER = re.compile(r"(?<=[0-9])([ ]?)[xX]\1(?=[0-9])")
_SPACED = str.maketrans({sign: f"{plain(sign)} " for sign in "，：；！？"})
_TEX = (("\\times", "*"), ("\\cdot", "*"), ("\\div", "/"), ("\\left", ""), ("\\right", ""), ("\\$", " "))
_TEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{([0-9.]{1,64})\}\s*\{([0-9.]{1,64})\}")
_TOKEN = re.compile(
    r"(?P<space>[\s$€£¥]+)"
    r"|(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])|[0-9]+)(?:\.[0-9]+)?%?|\.[0-9]+%?)"
    r"|(?P<word>[A-Za-z][A-Za-z0-9_]*|[^\W\d_]+)"
    r"|(?P<arrow>[-=]+>|<[-=]+)"
    r"|(?P<equals>==?(?![=<>]))"
    r"|(?P<sign>(?<=[0-9)])\*\*(?=[0-9(-])|(?<=\s)\*\*(?=\s)|(?!\*\*)[-+*/^()])"
    r"|(?P<clause>\*\*|[,.:](?!\S)|(?<![0-9.])[,.:](?!\.)|[;。、\[\]{}<>\"“”`?!]+)"
    r"|(?P<other>.)",
    re.DOTALL,
)
#: Words after which a number is not the whole left side ("half of 12 = 6").
_OPERATORS = "of twice double half thrice triple times by plus minus percent over than mod square sqrt from"
_WORD_OPERATORS = frozenset(_OPERATORS.split())
_CJK_OPERATORS = ("的", "倍", "和", "与", "加", "减", "乘", "除", "除以", "乘以", "半", "上", "去", "比")
#: Beginnings of words that scale the number before them ("2 million"), or add to it ("3 remainder 1").
_SCALING = "hundred thousand million billion trillion dozen half percent times of remainder cent"
_SCALES = tuple(_SCALING.split())
_CJK_SCALES = ("十", "百", "千", "万", "亿", "分之", "倍", "又", "半", "余")
_METRIC = ("千米", "千克", "千瓦", "百分点")


def arithmetic_holds(line: str) -> bool | None:
    """Whether every purely numeric equation in a line is exactly true.

    ``12*3=36``, ``60 × 3 = 180 km`` and each link of ``2+3*4 = 2+12 = 14`` count, with words before and after. What
    holds a variable (``3x = 15``, ``x = 5``), bare equalities of one number (``5 = 5``), and what cannot be read with
    certainty are passed over.

    Args:
        line: Any text. Time is linear in its length.

    Returns:
        True where at least one equation was read and all of them hold, False where one does not hold, ``None`` where
        none was read.

    Example:
        >>> [arithmetic_holds(line) for line in ("60 × 3 = 180 km", "so 2+3 = 6", "3x = 15", "Then we add.")]
        [True, False, None, None]
    """
    if "=" not in line and "＝" not in line:
        return None
    tokens = _tokens(line)
    signs = [i for i, (kind, _) in enumerate(tokens) if kind == "equals"]
    verdict: bool | None = None
    for before, here, after in zip([-1, *signs], signs, [*signs[1:], len(tokens)], strict=False):
        left = _value_ending(tokens, before + 1, here)
        right = _value_starting(tokens, here + 1, after)
        if left is None or right is None:
            continue
        if left[0] != right[0]:
            return False
        if left[1] or right[1]:
            verdict = True
    return verdict


def _tokens(line: str) -> list[tuple[str, str]]:
    """Kind and text, spaces left out. ``x`` between digits is a times sign; a letter stuck to a number a variable."""
    line = plain(line.translate(_SPACED))
    for command, sign in _TEX if "\\" in line else ():
        line = line.replace(command, sign)
    line = _TIMES_LETTER.sub("*", _TEX_FRACTION.sub(r"((\1)/(\2))", line))
    mark = _LIST_MARK.match(line)
    tokens: list[tuple[str, str]] = []
    adjacent = False  # whether the token before ended right here
    for match in _TOKEN.finditer(line, mark.end() if mark else 0):
        kind, text = match.lastgroup or "other", match.group()
        if kind == "space":
            adjacent = False
            continue
        touches = adjacent and bool(tokens)
        if kind == "word" and text.isascii() and len(text) == 1 and (touches or text not in "aAI"):
            kind = "other"  # a variable
        elif kind == "sign" and text == "(" and touches and tokens[-1][0] == "word" and tokens[-1][1].isascii():
            tokens[-1] = ("other", tokens[-1][1])  # a function
        elif kind == "number" and touches and tokens[-1][0] in ("clause", "other"):
            kind = kind if tokens[-1][0] == "clause" else "other"
        tokens.append((kind, text))
        adjacent = True
    return tokens


def _value_ending(tokens: Sequence[tuple[str, str]], start: int, end: int) -> tuple[Fraction, bool] | None:
    """Value of the expression that ends right before ``end``, and whether it has anything to work out."""
    first = end
    while first > start and tokens[first - 1][0] in ("number", "sign"):
        first -= 1
    expression = tokens[first:end]
    if not expression:
        return None
    has_operation = len(expression) > 1
    if first > start:
        kind, text = tokens[first - 1]
        if kind == "other" or (kind == "word" and (not has_operation or _is_operator_word(text))):
            return None
        if kind == "word" and expression[0][1] in "+-*/^":
            return None  # "apples - 5": the word is an operand
    return _value(expression)


def _value_starting(tokens: Sequence[tuple[str, str]], start: int, end: int) -> tuple[Fraction, bool] | None:
    """Value of the expression that starts right at ``start``, and whether it has anything to work out."""
    last = start
    while last < end and tokens[last][0] in ("number", "sign"):
        last += 1
    expression = tokens[start:last]
    if not expression:
        return None
    if last < end:
        kind, text = tokens[last]
        if kind == "other" or (kind == "word" and _scales(text)):
            return None
        following = tokens[last + 1] if last + 1 < end else ("", "")
        if kind == "word" and following[0] == "sign" and following[1] in "+-*/^":
            return None  # "180 km + 20 km": the unit is inside the expression
        if text.lower() == "and" and following[0] == "number" and tokens[last + 2 : last + 3] == [("sign", "/")]:
            return None  # "3 and 1/3"
    return _value(expression)


def _value(expression: Sequence[tuple[str, str]]) -> tuple[Fraction, bool] | None:
    if sum(len(text) for _, text in expression) > MAX_LENGTH:
        return None
    flat: list[str] = []
    for kind, text in expression:
        if kind == "number" and text.endswith("%"):
            flat += ["(", text[:-1].replace(",", ""), "/", "100", ")"]
        else:
            flat.append(text.replace(",", ""))
    value = evaluate_tokens(flat, allow_power=True)
    return None if value is None else (value, len(expression) > 2)


def _is_operator_word(word: str) -> bool:
    return word.lower() in _WORD_OPERATORS or word.endswith(_CJK_OPERATORS)


def _scales(word: str) -> bool:
    return word.lower().startswith(_SCALES) or (word.startswith(_CJK_SCALES) and not word.startswith(_METRIC))
