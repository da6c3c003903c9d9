"""Words in answers: levelling them, and telling words from letters that are multiplied."""

from __future__ import annotations

import re


def word_set(text: str) -> frozenset[str]:
    """The words of a table written as running text.

    >>> sorted(word_set("b a"))
    ['a', 'b']
    """
    return frozenset(text.split())


# --- Levelling --------------------------------------------------------------------------------------------------------

_OUTER = " \t\r\n.,;:!。，；：！、*_`\"'“”‘’「」『』()[]{}<>（）"
_TIME = re.compile(r"(?<=\d)\s*([ap])\.?\s?m\b\.?")
_BLANK = re.compile(r"\s+")
_ARTICLE = re.compile(r"(?:the|an?)\s+(?=\S)")
_MARKS = re.compile(r"[\\*`]+")


def level(text: str) -> str:
    """Words without what does not matter: case, extra space, outer punctuation and brackets, a leading article.

    A question mark stays, because it takes something back, and so does an article before a number.

    >>> level("  The Circle. "), level("(C)"), level("9 A.M."), level("42?")
    ('circle', 'c', '9 am', '42?')
    """
    text = _BLANK.sub(" ", _MARKS.sub(" ", text)).casefold()
    text = _TIME.sub(r" \1m", text).strip(_OUTER)
    article = _ARTICLE.match(text)
    return text[article.end() :] if article is not None and not text[article.end()].isdigit() else text


# --- Letters ----------------------------------------------------------------------------------------------------------

#: Short words that are not letters multiplied.
_SHORT_WORDS = word_set("""
    ah ai am an as at be by do eh go ha he hi hm if in is it la me mr ms mu my no of oh ok on or ox pa pm so th to
    uh um up us vs we ye nd rd st ft add age ago aid aim air all and any ape apt arc are arm art ask ate bad bag ban
    bar bat bed bee beg bet bid big bin bit box boy bug bun bus but buy cab can cap car cat cow cry cup cut day did
    die dig dim dog dot dry due ear eat egg end eve eye fan far fat fee few fit fix fly for fox fry fun fur gas get
    god got gum gun guy had has hat hen her him hip his hit hot how hug ice ill ish ink inn ion its jam jar jet job
    joy key kid kit lab law lay led leg let lid lie lip lit log lot low mad man map mat may men met mix mom mud mug
    nap net new nil nor not now nut oak odd off oil old one our out owe owl own pay pea pen per pet pie pig pin pit
    pop pot put ran rat raw red rib rim rob rod row rub rug run sad sat saw say sea see set sew she shy sit six sky
    son spy sum sun tab tag tan tap tax tea ten the tie tin tip toe ton too top toy try tub two use van vet via war
    was wax way web wet who why win won yes yet you zip zoo mon tue wed thu fri jan feb mar apr jun jul aug sep oct
    nov dec nan nil mod div deg rad
""")
_VOWELS = frozenset("aeiou")


def is_product_of_letters(run: str, *, alone: bool) -> bool:
    """Whether a run of letters stands for its letters multiplied.

    Args:
        run: Two letters or more.
        alone: Whether no formula stands around it. Then it has to look like letters of algebra; else it only must not
            be a word.

    Example:
        >>> is_product_of_letters("xy", alone=True), is_product_of_letters("cat", alone=True)
        (True, False)
        >>> is_product_of_letters("lwh", alone=False), is_product_of_letters("AB", alone=True)
        (True, False)
    """
    if not 2 <= len(run) <= 3 or not run.isascii() or not run.isalpha() or run.casefold() in _SHORT_WORDS:
        return False
    if not alone:
        return True
    if not run.islower():
        return False
    if len(run) == 2:
        return True
    letters = list(run)
    return letters == sorted(set(letters)) and (_VOWELS.isdisjoint(letters) or set(letters) <= set("abcd"))


#: Words after which an ``=`` does not name what is equal to the value.
_NOT_NAMES = word_set("""
    not isn't never no about approximately approx around roughly nearly almost if unless let suppose assume maybe
    perhaps probably possibly wrong incorrect cannot can't doesn't aren't wasn't but or except 不 不是 约 大约
""")


def names_something(text: str) -> bool:
    """Whether words before ``=`` can name what it is about: ``area``, ``number of apples``; not ``not x``.

    >>> names_something("total cost"), names_something("not x")
    (True, False)
    """
    return _NOT_NAMES.isdisjoint(text.casefold().replace("’", "'").split()) and "不" not in text
