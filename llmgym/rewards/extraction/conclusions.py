"""The value that a text without any marker comes to: its last number or formula, with what belongs to it.

Where words around a number change it (:mod:`~llmgym.rewards.extraction.cues`), they are returned with it, or it is not
returned at all: the comparison must see what was said, not the part of it that happens to be right.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from llmgym.rewards.extraction.cues import NEAR, is_stated, objection, qualifier, unit_after
from llmgym.rewards.extraction.patterns import pattern
from llmgym.rewards.extraction.spans import (
    CJK,
    FUNCTIONS,
    formula_span,
    has_prose,
    last_row,
    lone_number,
    result_of,
)

#: A response is short when it has one line of at most this many characters.
SHORT_RESPONSE = 64
#: Characters before and after the last number that are looked at.
_BEFORE, _AFTER = 240, 100
#: Numbers such as that in "Step 2" that are passed over.
_MOST_LABELS = 8
_BEFORE_LABELS = (" ", "#")


class Found(NamedTuple):
    """What a rule found: an answer, or ``None`` and why there is none."""

    text: str | None
    reason: str = ""


# --- What a sentence says ---------------------------------------------------------------------------------------------

_SIGNIFICANT = pattern(r"[0-9π∞√½⅓⅔¼¾$\\]")
_COMMANDS = pattern(r"\\(?:pi|infty|sqrt|frac|emptyset|theta|alpha)")
#: Among so many last characters, signs count as digits do.
_SIGNS_REACH = 512
_LABELLED = pattern(r"\b(?:step|part|case|line|figure|table)\s*#?\Z", re.IGNORECASE)
_DIGIT = pattern(r"[0-9]")
_UNIT_POWER = pattern(r"(?<=[0-9])(\s?[A-Za-z]{2,3}\^(?:[23]|\{[23]\}))\Z")
_CALCULATOR = pattern(r"<<[^<>\n]*>>")  # annotations of GSM8K: 6*7=<<6*7=42>>42
_UNFINISHED = pattern(r"[*/^]|[-+]\s")


def sentence_value(text: str, *, must_state: bool = False) -> Found | None:
    """The value that prose comes to.

    Args:
        text: A sentence, a paragraph or a whole response; bounded work is done at its end.
        must_state: Whether a verb has to give the value ("he has 42"), as in a place where prose is a detour: there,
            "the number after 42" is no way to say 42.

    Returns:
        The last number or formula with what belongs to it; ``None`` where there is none at all.

    Example:
        >>> sentence_value("So x = 5 and the train is 12 km away, which is far.").text
        '12 km'
        >>> sentence_value("It is certainly not 42").reason, sentence_value("In all at least 42 apples.").text
        ('negated', 'at least 42 apples')
    """
    at = _last_significant(text)
    if at < 0:
        return _number_words(text, must_state)
    line_end = text.find("\n", at)
    if line_end >= 0 and (words := _number_words(text[line_end:], must_state)):
        return words  # "12 - 2\nSo there are ten."
    line_end = min(line_end if line_end >= 0 else len(text), at + _AFTER)
    start = lone_number(text, at, line_end)
    if start >= 0:
        before = text[max(0, start - NEAR) : start].rpartition("\n")[2]
        return _with_surroundings(text[start : at + 1], before, text[at + 1 : line_end], must_state, is_number=True)
    line_start = max(text.rfind("\n", 0, at) + 1, at - _BEFORE)
    if line_start and not text[line_start - 1].isspace():  # not inside a word, whose end would look like a name
        line_start = max(line_start, text.find(" ", line_start, at) + 1)
    line, at = text[line_start:line_end], at - line_start
    if "<<" in line:
        line, at = _without_calculator(line, at)
    start, end = formula_span(line, at)
    if line[start] == "^" and (quantity := _UNIT_POWER.search(line[:end])):  # 15 cm^2
        start, _ = formula_span(line[: quantity.start(1)], quantity.start(1) - 1)
        formula = result_of(line[start : quantity.start(1)]) + quantity[1]
        return _with_surroundings(formula, line[:start], line[end:], must_state, is_number=True)
    return _with_surroundings(line[start:end], line[:start], line[end:], must_state)


def _last_significant(text: str) -> int:
    """Index of the last digit or sign that makes a value; -1 where there is none."""
    n_labels = 0
    for reach in (64, len(text)):  # it is near, mostly
        for sign in _SIGNIFICANT.finditer(text[-reach:][::-1]):
            at = len(text) - sign.end()
            if sign.group().isdecimal():
                is_label = text[at - 1 : at] in _BEFORE_LABELS and _LABELLED.search(text, max(0, at - 10), at)
                if not is_label or n_labels == _MOST_LABELS:
                    return at
                n_labels += 1
            elif reach == 64 or at >= len(text) - _SIGNS_REACH:
                if text[at] != "\\":
                    return at
                if command := _COMMANDS.match(text, at):
                    return command.end() - 1
        n_labels = 0
    return -1


def _without_calculator(line: str, at: int) -> tuple[str, int]:
    """``6*7=<<6*7=42>>42`` reads ``6*7=42``."""
    head = _CALCULATOR.sub("", line[: at + 1])
    return head + _CALCULATOR.sub("", line[at + 1 :]), len(head) - 1


def _with_surroundings(
    formula: str, before: str, after: str, must_state: bool, *, is_number: bool = False
) -> Found | None:
    """A formula, which may be known to be a number, after what stands around it was heard."""
    if reason := objection(before, after):
        return Found(None, reason)
    if must_state and not is_stated(before):
        return None
    if not is_number:
        if _UNFINISHED.match(formula) and before.strip(" \t*_>#") and not before.rstrip().endswith((":", "=")):
            return Found(None, "unfinished")  # "apples * 42": words and signs make no expression
        formula = result_of(formula)
    value = formula + unit_after(after)
    if words := qualifier(before):
        value = f"{words} {value}"
    return Found(value.strip() or None, "empty_answer")


# --- Numbers in words -------------------------------------------------------------------------------------------------

_WORDS = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    "eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|billion|dozen|"
    "half|halves|third|thirds|quarter|quarters|fourth|fourths|fifth|fifths|sixth|sixths|seventh|sevenths|eighth|"
    "eighths|ninth|ninths|tenth|tenths"
)
_WORD_SET = frozenset(_WORDS.split("|"))
_ENGLISH = pattern(rf"\b(?:(?:minus|negative) )?(?:{_WORDS})\b(?:(?:[ -]| and )(?:{_WORDS})\b)*", re.IGNORECASE)
_HAN = "零〇一二两三四五六七八九十百千万亿"
_HAN_DIGIT = pattern(f"[{_HAN}半]")
_CHINESE = pattern(rf"(?=[负{_HAN}半])负?(?:百分之)?[{_HAN}半]+(?:分之[{_HAN}]+|点[{_HAN}]+)?")
_STATED = pattern(
    r"(?:\b(?:is|are|was|equals|be|has|have|total|makes|leaves)|[=是为有得共到剩于:])\s*\Z", re.IGNORECASE
)
#: By themselves, these say something else more often than a number.
_NOT_ALONE = frozenset(
    ("one", "half", "third", "quarter", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
)


def _number_words(text: str, must_state: bool) -> Found | None:
    """The last number in words of the last sentence: "So there are forty-two apples."."""
    sentence = text.rstrip().rpartition("\n")[2][-160:]
    last = None
    if not _WORD_SET.isdisjoint(word.strip(".,;:!?*_)") for word in sentence.lower().replace("-", " ").split()):
        for match in _ENGLISH.finditer(sentence):
            if match.group().lower() not in _NOT_ALONE or _follows_verb(sentence, match):
                last = match
    if last is None and not sentence.isascii() and _HAN_DIGIT.search(sentence):
        for match in _CHINESE.finditer(sentence):
            if len(match.group()) > 1 or _follows_verb(sentence, match):
                last = match
    if last is None:
        return None
    return _with_surroundings(last.group(), sentence[: last.start()], sentence[last.end() :], must_state)


def _follows_verb(sentence: str, match: re.Match[str]) -> bool:
    return _STATED.search(sentence, max(0, match.start() - 12), match.start()) is not None


# --- Whole responses --------------------------------------------------------------------------------------------------

_LABEL = pattern(r"(?:a\s*:|(?:ans|sol|result|total|solution|value|结果|解|答)\s*[:=])\s*(?=\S)", re.IGNORECASE)
_PREDICATE = pattern(
    r"(?:(?:so|then|thus|hence|therefore|ok|okay)[,\s]+)*"
    r"(?:it|this|that|they|the (?:result|solution|value|number|total|sum))"
    r"(?:['’]s|\s+(?:is|are|was|equals|must be|would be))\s+",
    re.IGNORECASE,
)
_OPTION = pattern(
    r"(?:(?:the )?(?:option|choice)|i (?:choose|pick|select))\s+(?=[(\[]?[A-Za-z][)\]]?[.\s]*\Z)", re.IGNORECASE
)
_YES_OR_NO = pattern(
    r"(yes|no|true|false)(?:,?\s+(?:because|since|as)\b"
    r"|,\s+(?:it|they|he|she)\s+(?:is|are|does|do|has|can)(?: not)?\Z)",
    re.IGNORECASE,
)
_NO_VALUE = pattern(r"(?<!not )\b(no (?:real )?solutions?|does not exist|(?<=is )undefined|diverges)\Z", re.IGNORECASE)
_ASKS = pattern(
    r"(?:(?:is|are|was|does|do|can|could|would|should)\s+(?:it|this|that|there|they|he|she|the|x)|what|who|how|why)\b",
    re.IGNORECASE,
)
_VERB = pattern(r"\b(?:is|are|was|were|has|have|had|gets?|makes?|equals|leaves?|takes?|costs?|needs?)\b", re.IGNORECASE)
_FIRST_WORD = pattern(rf"[^\W\d_]{{2,}}(?=[\s,:;]|\.\s)|[IAa]\s+(?=[a-z]{{2,}}\s)|[{CJK}]{{2,}}")
#: Chinese sentences: 共有三十五人, 故∠A的度数为 $45°$.
_COUNTS = pattern(rf"[是为有共得剩到于]负?(?:百分之|[{_HAN}]{{2}})")
_EQUATES = pattern(rf"[{CJK}](?<![不非])[是为得有]\s?[0-9$\\]")
#: A date begins with one and stays whole.
_MONTHS = frozenset(
    ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
     "december", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec")
)  # fmt: skip
_NO_SENTENCE = FUNCTIONS | _MONTHS
_TAKEN_BACK = pattern(
    r"[0-9][^\n]{0,24}?\b(?:(?:is|was|are)\s+(?:(?:a|an|the)\s+)?(?:wrong|incorrect|false|not)|isn['’]t|fails?"
    r"|do(?:es)?n['’]t|do(?:es)? not|cannot)\b",
    re.IGNORECASE,
)
_LITERAL = pattern(r"[-+$€£¥(]*[0-9][0-9.,/]*[%)]?\.?")
_NOTATION = pattern(r"[\w\\∞∅π]")


def short_response(text: str, *, must_state: bool = False) -> Found | None:
    """A response of one short line: whole if it is an answer, otherwise what it states.

    Args:
        text: Without outer space.
        must_state: As in :func:`sentence_value`.

    >>> short_response("x = 5").text, short_response("It is 0.75.").text, short_response("north").text
    ('x = 5', '0.75', 'north')
    """
    if text.endswith(("?", "？")) or _ASKS.match(text):
        return Found(None, "question")
    if opening := _LABEL.match(text) or _OPTION.match(text):
        text = text[opening.end() :]
    text = trimmed(text)
    if not text:
        return None
    if _TAKEN_BACK.search(text):
        return Found(None, "negated")
    if not _YES_OR_NO.match(text) and _is_sentence(text) and (value := sentence_value(text, must_state=must_state)):
        return value
    return Found(stated(text))


def stated(text: str) -> str:
    """What a sentence without a number says: "It is north.", "No, because 3 is odd.", "There is no solution."."""
    if verdict := _YES_OR_NO.match(text) or _NO_VALUE.search(text):
        return verdict[1]
    predicate = _PREDICATE.match(text)
    return text[predicate.end() :] if predicate else text


def _is_sentence(text: str) -> bool:
    """Whether a short text says something about a number, rather than being an answer."""
    if not _DIGIT.search(text):
        return bool(_VERB.search(text)) or (not text.isascii() and (len(text) > 8 or bool(_COUNTS.search(text))))
    if not text.isascii() and _EQUATES.search(text):
        return True
    word = _FIRST_WORD.match(text)
    if word is None:
        return text.count(" ") > 5 and has_prose(text)
    return word.group().lower() not in _NO_SENTENCE


def last_value(text: str) -> Found | None:
    r"""The last number or formula of a longer text; a last line or display that is notation throughout, whole.

    >>> last_value("We add them:\n3 + 39 = 42\nand that is all there is to it").text
    '42'
    >>> last_value("Hence\n(x+1)^2").text
    '(x+1)^2'
    """
    if text.endswith(("?", "？")):
        return Found(None, "question")
    text = text.rstrip(" \t\r\n.`*_。")
    for opening, closing in (("\\[", "\\]"), ("$$", "$$")):
        if text.endswith(closing) and (start := text.rfind(opening, 0, len(text) - 2)) >= 0:
            return Found(result_of(last_row(text[start + 2 : -2])), "empty_answer")
    previous, line = "", text[-2048:]
    if "\n" in line:
        previous, line = ["", "", *filter(str.strip, line.rsplit("\n", 8))][-2:]
    line = line.strip(" \t*_`#").removeprefix("- ").removeprefix("• ")
    if label := _LABEL.match(line):
        line = line[label.end() :]
    if line and len(line) <= 256 and "<<" not in line and _NOTATION.search(line) and not has_prose(line):
        if _LITERAL.fullmatch(line) and _LITERAL.fullmatch(previous.strip()):
            return Found(None, "hedged")  # one number a line: which of them?
        return Found(result_of(line), "empty_answer")
    return sentence_value(text)


#: Punctuation that may end a sentence.
_CLOSING = frozenset(".。,;:、")


def trimmed(text: str) -> str:
    """Without outer space, Markdown and the punctuation that ends a sentence."""
    text = text.strip().strip("*_`").strip()
    if text[-1:] not in _CLOSING or not text:
        return text
    kept = text.rstrip(".。,;:、 \t*_`")
    rest = text[len(kept) :]
    if "..." in rest:
        return text[: len(kept) + rest.rindex("...") + 3]
    if kept.endswith("\\") and rest[0] in ",;:":
        return kept + rest[0]  # a space of TeX
    return kept
