"""Text around an answer and in it, before it is cut into tokens: markdown, quotes, dollar signs, other scripts."""

from __future__ import annotations

import re

from llmgym.rewards.arithmetic import plain
from llmgym.rewards.notation.numerals import plain_digits

# --- Around -----------------------------------------------------------------------------------------------------------

_PAIRS = {'"': '"', "“": "”", "‘": "’", "「": "」", "『": "』", "`": "`", "'": "'", "*": "*", "_": "_"}
_MAX_LAYERS = 3
#: At the ends of an answer, where they mean nothing. A backslash alone has lost the space behind it.
_TEX_SPACES = ("\\ ", "\\,", "\\;", "\\:", "\\!", "\\quad", "\\qquad")


def undressed(text: str) -> str:
    """``text`` without what stands around an answer: markdown, quotes, angle brackets as ASCII.

    >>> undressed(" **42** "), undressed('"42"')
    ('42', '42')
    """
    text = _without_tex_spaces(text) if "\\" in text else text.strip()
    for _ in range(_MAX_LAYERS):
        if text[:2] in ("**", "__") and (close := text.find(text[:2], 2)) > 0:
            text = (text[2:close] + text[close + 2 :]).strip()
        elif len(text) > 2 and text[0] == text[-1] == "~" and text[1] != "~" != text[-2]:
            text = text[1:-1].strip()  # spaces in TeX; one alone on the left says "about", and two strike out
        elif len(text) > 2 and _PAIRS.get(text[0]) == text[-1]:
            text = text[1:-1].strip()
        else:
            break
    if text[:2] == "{{" and text[-2:] == "}}":
        inner = text.strip("{}")
        if "{" not in inner and "}" not in inner and 2 * text.count("{") + len(inner) == len(text):
            text = f"{{{inner}}}"
    if text[:1] == "<" and text[-1:] == ">" and "," in text:
        text = f"⟨{text[1:-1]}⟩"
    return text


def _without_tex_spaces(text: str) -> str:
    """``text`` without space at its ends, that of TeX included.

    >>> _without_tex_spaces("\\\\; 5 \\\\ "), _without_tex_spaces("1 \\\\\\\\")
    ('5', '1 \\\\\\\\')
    """
    start, end = 0, len(text)
    while start < end and (text[start].isspace() or text.startswith(_TEX_SPACES, start)):
        start += next((len(space) for space in reversed(_TEX_SPACES) if text.startswith(space, start)), 1)
    while start < end:
        if text[end - 1].isspace() and text[end - 2 : end - 1] != "\\":
            end -= 1
        elif text.endswith(_TEX_SPACES, start, end):
            end -= next(len(space) for space in reversed(_TEX_SPACES) if text.endswith(space, start, end))
        elif text.endswith("\\", start, end) and not text.endswith("\\\\", start, end):
            end -= 1
        else:
            break
    return text[start:end]


# --- Within -----------------------------------------------------------------------------------------------------------

_VARIANT = re.compile(r"[\u2010\u2011\u02d7\u3010\u3011]|\\not\s?=|\\not\s?\\in(?![a-z])")
_VARIANTS = {"\u3010": "[", "\u3011": "]"}
_ROW_SPACE = re.compile(r"(?<=\\\\)\[-?[0-9.]+(?:pt|em|ex|mm|cm|in)\]")


def plain_signs(text: str) -> str:
    """``text`` with digits and signs of every script as their plain equals.

    >>> plain_signs("４２−٣")
    '42-3'
    """
    if not text.isascii():
        text = plain_digits(plain(text))
    if "\\\\[" in text:
        text = _ROW_SPACE.sub("", text)
    if text.isascii() and "\\not" not in text:
        return text
    return _VARIANT.sub(_plain_variant, text)


def _plain_variant(match: re.Match[str]) -> str:
    found = match[0]
    if found.startswith("\\"):
        return "\\neq " if found.endswith("=") else "\\notin "
    return _VARIANTS.get(found, "-")


def without_math_dollars(text: str) -> str:
    """``text`` with the dollar signs that enclose mathematics blanked; those left are money.

    As in Pandoc: an opening one has no space after it, a closing one none before it and no digit after it.

    >>> without_math_dollars("$x$ and $y$"), without_math_dollars("$5 and $6")
    (' x  and  y ', '$5 and $6')
    """
    if "$" not in text:
        return text
    text = text.replace("$$", "  ")
    stripped = text.strip()
    if len(stripped) > 1 and stripped[0] == stripped[-1] == "$" and stripped.count("$") == 2 and stripped[-2] != "\\":
        return text.replace("$", " ")
    opened = -1
    blanked: list[int] = []
    position = text.find("$")
    while position >= 0:
        if position and text[position - 1] == "\\":
            pass
        elif opened >= 0 and not text[position - 1].isspace() and not text[position + 1 : position + 2].isdigit():
            blanked += (opened, position)
            opened = -1
        elif text[position + 1 : position + 2].strip():
            opened = position
        position = text.find("$", position + 1)
    if not blanked:
        return text
    characters = list(text)
    for index in blanked:
        characters[index] = " "
    return "".join(characters)
