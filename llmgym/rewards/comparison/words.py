"""Answers as texts: what dresses them up, and the letters of choices."""

from __future__ import annotations

import re
from functools import cache

_MAX_CHOICE = 400
_MAX_CHOICES = 80
_LETTERS = frozenset("ABCDEFGH")

# --- Levelling --------------------------------------------------------------------------------------------------------

_MATH_SIGNS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
_MATH_STARTS = ("$", "\\")


#: Signs that end a proof or cheer; those that doubt or refuse (``❓``, ``❌``) are none of them.
_MARKS = "✅✓✔☑🎉🎊🏆💯👍✨🙂😊□■∎◻◼\ufe0f \t\r\n"
_MARK_COMMANDS = ("\\blacksquare", "\\square", "\\checkmark", "\\Box", "\\qed", "\\quad", "\\qquad")


def _without_marks(text: str) -> str:
    """``text`` without the marks at its end, unless nothing is left then."""
    last = text[-1:]
    if last.isascii() and not last.isalpha():
        return text
    kept = text.rstrip(_MARKS)
    while "\\" in kept and kept.endswith(_MARK_COMMANDS):
        kept = kept[: kept.rindex("\\")].rstrip(_MARKS)
    return kept or text


def tidy(text: str) -> str:
    r"""Text without what only dresses an answer up: outer white space, dollar signs, one full stop.

    >>> tidy(" $x = 5$. "), tidy("\\(  42  \\)"), tidy("$\\$5$")
    ('x = 5', '42', '\\$5')
    """
    text = _without_marks(text.strip())
    if text[-1:] in ".。" and text[-2:-1] != text[-1:]:
        text = _without_marks(text[:-1].rstrip())
    for opening, closing in _MATH_SIGNS if text[:1] in _MATH_STARTS else ():
        inner = text[len(opening) : -len(closing)]
        is_wrapped = text.startswith(opening) and text.endswith(closing) and len(text) > len(opening + closing)
        unescaped = inner.replace("\\$", "")
        if is_wrapped and opening not in unescaped and closing not in unescaped:
            text = _without_marks(inner.strip())
            break
    return text if text.isascii() and "  " not in text and "\n" not in text else " ".join(text.split())


_SPACING = re.compile(r"(\\\\)|\\[ ,;:!]|~|\\(?:q?quad|left|right|displaystyle)(?![a-zA-Z])|\s+")
_NEEDLESS = re.compile(r"(?<!\w) | (?!\w)|(\\[a-zA-Z]+) (?=[0-9])")


def squeezed(text: str) -> str:
    r"""Text without the spacing that no reader needs, for notation that nobody here can read.

    >>> squeezed("\\| v \\|"), squeezed("4 2 !!")
    ('\\|v\\|', '4 2!!')
    """
    text = _SPACING.sub(lambda found: found[1] or " ", text)
    text = _NEEDLESS.sub(lambda found: found[1] or "", text)
    return text.replace(",&", "&").replace(",\\\\", "\\\\")


# --- Choices ----------------------------------------------------------------------------------------------------------

_TEXT_COMMANDS = re.compile(
    r"\\(?:textbf|textit|textrm|text|mathrm|mathbf|mathsf|mbox|bf|rm|boxed|fbox|left|right)(?![a-zA-Z])|[{}*$`\"]"
)
_SPACES = re.compile(r"\\[ ,;:!]|\\q?quad(?![a-zA-Z])|~|\s+")
_BEFORE = re.compile(r"(?:the\s+)?(?:option|choice|选项|应选|故选|选择|选)\s*[:：]?\s*", re.IGNORECASE)
_REFERENCE = re.compile(r"([A-J])[.)]?|[(（\[]\s?([A-Ja-j])\s?[)）\]][.]?")


@cache
def _marked() -> re.Pattern[str]:
    """A letter as choices are marked, at the start. Compiled when it is first needed: importing this stays quick."""
    return re.compile(r"(?:[(（\[]\s?([A-Ja-j])\s?[)）\]]|([A-Ja-j])(?=\Z|\s?[).:、．。：）]))[).:、．。：）\s]*")


@cache
def _unsaid() -> re.Pattern[str]:
    """What follows a letter and unsays it: another letter, or a verdict."""
    return re.compile(
        r"[(（\[]\s?[A-Ja-j]\s?[)）\]]"
        r"|(?<![A-Za-z\\])(?:[B-J](?![A-Za-z0-9])|A(?=\s*(?:\Z|[).:,、．。：?])))"
        r"|(?<![A-Za-z\\])[a-j][).](?:\s|\Z)"
        r"|\A(?:is|was)\s+(?:not|wrong|incorrect)\b|\A(?:isn|wasn)['’]t\b|\A(?:not|or|and|nor)\b|\A(?:不|非|错|或|和)|[?？]\s*\Z"
    )


def _bare(text: str) -> str:
    return _SPACES.sub(" ", _TEXT_COMMANDS.sub("", text)).strip()


def reference_choice(text: str) -> str | None:
    r"""The letter, in upper case, where a reference answer is the letter of a choice and nothing else.

    >>> reference_choice("C"), reference_choice("\\text{(c)}"), reference_choice("x")
    ('C', 'C', None)
    """
    match = _REFERENCE.fullmatch(_bare(text)) if len(text) <= 40 else None
    return (match[1] or match[2]).upper() if match else None


_LETTER_IN_BRACKETS = re.compile(r"[(（]\s?([A-H])\s?[)）]")
_BETWEEN_LETTERS = re.compile(r"[\s,、，;；&.和与及]+|\band\b")


def choices(text: str) -> frozenset[str] | None:
    r"""The letters, where a text is several choices and nothing else: ``ABD`` in this order, or letters with commas.

    >>> sorted(choices("ABD")), sorted(choices("(B), (A) and (D)"))
    (['A', 'B', 'D'], ['A', 'B', 'D'])
    >>> choices("BAD"), choices("A or B"), choices("(A, B)"), choices("A")
    (None, None, None, None)
    """
    if not 2 <= len(text) <= _MAX_CHOICES:
        return None
    text = _bare(text)
    before = _BEFORE.match(text)
    text = _LETTER_IN_BRACKETS.sub(r"\1", text[before.end() :] if before else text)
    letters = _BETWEEN_LETTERS.sub(" ", text).split()
    if len(letters) == 1 and letters[0] == text:
        letters = list(text) if list(text) == sorted(text) else []
    chosen = frozenset(letters)
    return chosen if 2 <= len(letters) == len(chosen) and chosen <= _LETTERS else None


def choice(text: str) -> str | None:
    r"""The letter, in upper case, that an answer chooses: by itself, or in front of what it stands for.

    >>> choice("C"), choice("c."), choice("\\textbf{(C)}\\ 42"), choice("选C"), choice("C) 12 km")
    ('C', 'C', 'C', 'C', 'C')
    >>> choice("C or D"), choice("(C), (D)"), choice("C is wrong"), choice("Cat")
    (None, None, None, None)
    """
    if len(text) > _MAX_CHOICE:
        return None
    text = _bare(text)
    before = _BEFORE.match(text)
    if before:
        text = text[before.end() :]
    match = _marked().match(text)
    if match is None or _unsaid().search(text[match.end() :]):
        return None
    return (match[1] or match[2]).upper()
