"""Is the response in the language of the prompt?"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from llmgym.errors import InvalidOptionError
from llmgym.rewards.base import Reward
from llmgym.transcript import Transcript

#: Scripts that each language is written in. Languages that share a script cannot be told apart here.
SCRIPTS: dict[str, frozenset[str]] = {
    "en": frozenset({"LATIN"}),
    "zh": frozenset({"CJK"}),
    "ja": frozenset({"CJK", "HIRAGANA", "KATAKANA"}),
    "ko": frozenset({"HANGUL"}),
    "ru": frozenset({"CYRILLIC"}),
}

_TAG_OR_COMMAND = re.compile(r"</?[A-Za-z_]{1,32}>|\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]+")
_UNITS_AND_FUNCTIONS = "km cm mm dm kg mg ml kwh min hz pi sin cos tan log ln lim mod gcd lcm max sqrt"
_LATIN_UNITS = frozenset(_UNITS_AND_FUNCTIONS.split())


def language_share(text: str, language: str) -> float:
    """Share of the text's letters that are in a script of the language, in [0, 1].

    Digits, punctuation, tags, TeX commands, ``$…$`` maths, single Latin letters (variables) and, for languages in
    another script, Latin units and function names are passed over. 1 where no letters are left.

    >>> language_share("the answer is 5", "en"), language_share("速度是 60 km", "zh"), language_share("so 速度是", "zh")
    (1.0, 1.0, 0.6)
    """
    wanted = SCRIPTS[language]
    letters = matching = 0
    for match in _WORD.finditer(_TAG_OR_COMMAND.sub(" ", _without_maths(text))):
        word = match.group()
        if word.isascii() and (len(word) == 1 or ("LATIN" not in wanted and word.lower() in _LATIN_UNITS)):
            continue
        if word.isascii():
            letters += len(word)
            matching += len(word) if "LATIN" in wanted else 0
            continue
        for character in word:
            if character.isalpha():
                letters += 1
                matching += _script(character) in wanted
    return matching / letters if letters else 1.0


def dominant_language(text: str) -> str:
    """The language of :data:`SCRIPTS` with the largest share of the text; the first of those with the same share.

    >>> dominant_language("Сколько будет 2+2?"), dominant_language("二加二是多少"), dominant_language("12")
    ('ru', 'zh', 'en')
    """
    return max(SCRIPTS, key=lambda language: language_share(text, language))


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    """First word of the character's Unicode name, which is its script for letters."""
    return unicodedata.name(character, "").split(" ", 1)[0].split("-", 1)[0]


def _without_maths(text: str) -> str:
    """Without ``$…$`` that holds a TeX sign; a pair of dollar amounts is not maths."""
    if "$" not in text:
        return text
    pieces = text.split("$")
    inner = range(1, len(pieces) - 1, 2)
    for i in inner:
        if any(sign in pieces[i] for sign in "\\^_=") and "\n\n" not in pieces[i]:
            pieces[i] = " "
    return " ".join(pieces)


class LanguageReward(Reward):
    """:func:`language_share` of the response.

    Args:
        language: One of :data:`SCRIPTS`. ``None`` takes the problem's language where it is one of these, and else the
            language that most of the question's letters are in.
    """

    name = "language"

    def __init__(self, language: str | None = None) -> None:
        if language is not None and language not in SCRIPTS:
            raise InvalidOptionError(
                f"Expected `language` to be None or one of {sorted(SCRIPTS)}, actual: {language!r}."
            )
        self.language = language

    def score(self, transcript: Transcript) -> float:
        """Share of the response in the right language, in [0, 1]."""
        problem = transcript.problem
        language = self.language or (problem.language if problem.language in SCRIPTS else None)
        return language_share(transcript.response, language or dominant_language(problem.question))
