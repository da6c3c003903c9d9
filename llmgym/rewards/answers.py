"""Reading the answer from a response, and deciding whether it equals the reference answer.

:func:`verify` is what everything else calls. The two halves behind it (:func:`extract_answer`, :func:`answers_equal`)
cover integers, decimals, fractions, percentages, one currency sign or unit, ``x = 5``, and true equations such as
``6*7 = 42``; any other text is compared as text. Where it is unsure the answer is wrong: a reward that pays for wrong
answers is learned, one that misses a rare spelling is not.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import gcd

from llmgym.rewards.arithmetic import evaluate, plain

#: A response with no marker at all is read as an answer when it has one line of at most this many characters.
SHORT_RESPONSE = 48


def verify(response: str, reference_answer: str, *, allow_unevaluated: bool = False) -> bool:
    """Whether the response gives the right answer.

    Args:
        response: All the agent wrote.
        reference_answer: The right answer.
        allow_unevaluated: Whether an expression that has still to be worked out counts (``17*23`` for ``391``). By
            default it does not: repeating the question would solve it. A fraction in lowest terms is a value.

    Returns:
        True only where the answer read by :func:`extract_answer` equals the reference by :func:`answers_equal`.

    Example:
        >>> verify("<think>17*23 = 391</think><answer>391</answer>", "391")
        True
        >>> verify("17*23", "391"), verify("41 or 42", "42"), verify("It is 0.75.", "3/4")
        (False, False, True)
    """
    answer = extract_answer(response)
    return answer is not None and answers_equal(answer, reference_answer, allow_unevaluated=allow_unevaluated)


# --- Reading ----------------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"(?<![\w.,])[-+]?[$€£¥]?[0-9](?:[0-9,]*[0-9])?(?:\.[0-9]+)?(?:/[0-9]+(?![0-9.,]))?%?")
_PHRASES = re.compile(r"\b(?:answer\s*(?:is|=|:)|answer\s+equals\b)|答案\s*(?:是|为|為|=|:)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。；;\n]")
#: Two numbers with only this between them are one undecided answer, and so are two with this among other words.
_JOINED = re.compile(r"\s*(?:and|to|和|与|至|到|~|/|,|;|、)\s*", re.IGNORECASE)
_EITHER = re.compile(r"\b(?:or|maybe|perhaps)\b|或", re.IGNORECASE)
_NEGATED = re.compile(r"(?:\bnot|n['’]t|不是|≠|!=)\s*\Z", re.IGNORECASE)
#: Before the last number, or up to its sign: an operand and an operator that it belongs to.
_LEFT_OPERAND = re.compile(r"[0-9)]\s*[-+*/^xX][\s(]*[-+0-9$€£¥]\Z|[0-9)]\s*[-+]\Z")
#: Before the last number: the left side of an equation in which the unknown does not stand alone.
_UNSOLVED = re.compile(r"(?:[0-9)]\s?[a-z](?![a-z])|(?<![a-zA-Z])[a-z]\s?[-+*/^])[^=\n]*=\s*\Z")
#: How far apart two such numbers may stand.
_NEAR = 24
_HASHES = re.compile(r"[-+$€£¥.\\]*[0-9][^\n]*\Z")


def extract_answer(response: str) -> str | None:
    r"""The answer that a response settles on, as text.

    Thinking is not an answer: only what follows the last ``</think>`` is read, and nothing where a ``<think>`` was
    never closed. The first of these that occurs decides:

    1. the last ``<answer>…</answer>`` (an ``<answer>`` after it that never closes: no answer);
    2. the last ``\boxed{…}``;
    3. the last line that starts with ``####`` and a number;
    4. what follows the last "answer is", "answer:" or "答案是", to the end of the sentence;
    5. a last line that is an expression, or a short response that is no sentence, whole;
    6. the last number, unless the response ends in a question mark; together with what stands before it where that is
       "not", another number and "or", an operand and an operator, or the left side of an unsolved equation.

    Args:
        response: Any text. Time is linear in its length.

    Returns:
        The answer without surrounding space, or ``None`` where there is none.

    Example:
        >>> extract_answer("6*7 = 42, so <answer> 42 </answer>")
        '42'
        >>> extract_answer("<think>6*7 = 42") is None
        True
    """
    closed = response.rfind("</think>")
    opened = response.rfind("<think>")
    if opened > closed:
        return None
    tail = plain(response[closed + len("</think>") :] if closed >= 0 else response).strip()
    if "<answer>" in tail:
        return _tagged(tail)
    if "\\boxed{" in tail:
        return _boxed(tail)
    return _hashed(tail) or _phrased(tail) or _bare(tail)


def _tagged(tail: str) -> str | None:
    start = tail.rfind("<answer>") + len("<answer>")
    end = tail.find("</answer>", start)
    if end < 0:
        return None
    answer = tail[start:end].strip()
    return (_boxed(answer) if "\\boxed{" in answer else answer) or None


def _boxed(tail: str) -> str | None:
    """Content of the last box; of the last two where nothing but "or" or a comma stands between them."""
    boxes: list[tuple[int, int]] = []
    open_braces: list[int] = []  # where each open brace's content starts; negative where the brace is not a box's
    for i, character in enumerate(tail):
        if character == "{":
            is_box = tail.endswith("\\boxed", 0, i)
            open_braces.append(i + 1 if is_box else -1)
        elif character == "}" and open_braces and (start := open_braces.pop()) >= 0:
            boxes.append((start, i))
    if any(start >= 0 for start in open_braces) or not boxes:
        return None  # the last box was never closed
    start, end = boxes[-1]
    if len(boxes) > 1:
        first, last = boxes[-2]
        if start <= first and last <= end:  # a box in a box: the inner one says it
            start, end = first, last
        else:
            between = tail[last + 1 : start - len("\\boxed{")].replace("$", " ")
            start = first if _undecided(between) else start
    return tail[start:end].strip() or None


def _hashed(tail: str) -> str | None:
    start = tail.rfind("####")
    if start < 0:
        return None
    line = tail[start + 4 :].split("\n", 1)[0].strip()
    return line if _HASHES.match(line) else None  # otherwise it is a heading


def _phrased(tail: str) -> str | None:
    if "答案" not in tail and "answer" not in tail.casefold():
        return None  # the usual case, found out five times faster than by the pattern
    ends = [match.end() for match in _PHRASES.finditer(tail)]
    if not ends:
        return None
    rest = tail[ends[-1] :].lstrip(" \t:*").split("\n", 1)[0]
    end = _SENTENCE_END.search(rest)
    return (rest[: end.start()] if end else rest).strip() or None


def _bare(tail: str) -> str | None:
    if tail.endswith("?"):
        return None  # a question is no answer, least of all the one that was asked
    last_line = tail.rsplit("\n", 1)[-1].strip()
    if evaluate(last_line) is not None:
        return last_line
    last = before = None
    for match in _NUMBER.finditer(tail):
        before, last = last, match
    is_short = len(tail) <= SHORT_RESPONSE and "\n" not in tail
    before_equals, equals, _ = tail.partition("=")
    is_sentence = tail[:1].isalpha() and not (equals and _NAME.match(before_equals.strip()))
    if last is None or (is_short and not is_sentence):
        return (tail or None) if is_short else None
    if before is not None and _undecided(tail[before.end() : last.start()]):
        return tail[before.start() : last.end()]
    if unsolved := _UNSOLVED.search(tail, max(0, last.start() - _NEAR), last.start()):
        return tail[unsolved.start() : last.end()]
    if operand := _LEFT_OPERAND.search(tail, max(0, last.start() - _NEAR), last.start() + 1):
        return tail[operand.start() : last.end()]  # the end of an expression that was never worked out
    if negation := _NEGATED.search(tail, max(0, last.start() - 8), last.start()):
        return tail[negation.start() : last.end()]
    # A short sentence may end in a unit, or in a word such as "dozen" that changes the number.
    return tail[last.start() :] if is_short else last.group()


def _undecided(between: str) -> bool:
    return len(between) <= _NEAR and bool(_JOINED.fullmatch(between) or _EITHER.search(between))


# --- Comparing --------------------------------------------------------------------------------------------------------

_LITERAL = re.compile(
    r"([-+]?)\s*[$€£¥]?\s*([-+]?)\s*"
    r"(?:([0-9]+)\s*/\s*([0-9]+)|([0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+))"
    r"(?![0-9])\s*(.*)"
)
_TEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*([0-9]{1,64})\s*\}\s*\{\s*([0-9]{1,64})\s*\}")
_TEX_WORDS = re.compile(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}|\\[,;:! ]|\\(?:left|right|displaystyle)\b")
_NAME = re.compile(r"(?:[A-Za-z_]\w*|[^\W\d_]{1,8})(?:\s+[^\W\d_]+){0,4}\s*\Z")
_MAX_LITERAL = 128

#: Words that make a number mean another number, or leave it open.
_CHANGING_WORDS = """
    about almost and around approximately below but dozen e exactly false i incorrect inf infinity is less maybe minus
    more no not or over perhaps plus possibly probably remainder than times to under unsure was wrong
    hundred hundreds thousand thousands million millions billion billions trillion trillions score
    half halves third thirds quarter quarters fourth fourths fifth fifths tenth tenths
    pi root sqrt squared cubed factorial log ln sin cos tan mod
"""
_NOT_UNITS = frozenset(_CHANGING_WORDS.split())
_SHORT_UNITS = frozenset("mgshlvw")
_NOT_UNIT_CHARACTERS = frozenset("十百千万萬亿億兆零一二两三四五六七八九半分之或和与至到不余")
_UNIT_WORD = re.compile(r"[^\W\d_]+(?:[-/'.][^\W\d_]+)*(?:\^?[23²³])?\.?\Z")


def answers_equal(answer: str, reference: str, *, allow_unevaluated: bool = False) -> bool:
    """Whether an answer equals the reference answer, exactly.

    Both are read as numbers where they can be (sign, thousands commas, decimals, ``a/b``, ``%``, a currency sign or a
    unit, ``x = …`` in front), with full-width digits and typographic minus signs as their plain equals. Two units
    have to agree; one unit alone is not asked for by the reference and is passed over. A fraction has to be in lowest
    terms, and what is still to be worked out is no answer, unless ``allow_unevaluated``. Texts that are not numbers
    are compared with case and white space levelled out.

    Example:
        >>> answers_equal("x = 1,250", "1250"), answers_equal("3/4", "0.75"), answers_equal("6/8", "0.75")
        (True, True, False)
        >>> answers_equal("12 km", "12"), answers_equal("12 km", "12 m"), answers_equal("North ", "north")
        (True, False, True)
    """
    answer, reference = _bare_text(answer), _bare_text(reference)
    if not answer or not reference:
        return False
    if _level(answer) == _level(reference):
        return True
    expected = _read(reference, allow_unevaluated=True)
    given = _read(answer, allow_unevaluated=allow_unevaluated)
    if expected is None or given is None:
        return False
    (value, unit), (right_value, right_unit) = given, expected
    if unit == right_unit or "%" not in (unit, right_unit):
        return value == right_value and (not unit or not right_unit or unit == right_unit)
    # One of the two is a percentage: 50% is 0.5, and also 50 where the question asks how many per cent.
    percent, other = (value, right_value) if unit == "%" else (right_value, value)
    other_unit = right_unit if unit == "%" else unit
    return not other_unit and other in (percent, percent / 100)


def _bare_text(text: str) -> str:
    """Without what only dresses an answer up: markdown, TeX delimiters, quotes, a full stop."""
    text = plain(text)
    if "\\" in text:
        text = _TEX_FRACTION.sub(r"\1/\2", text)
        text = _TEX_WORDS.sub(lambda match: f" {match.group(1) or ''}", text)
        text = text.replace("\\$", "$").replace("\\%", "%").replace("\\(", "").replace("\\)", "")
    text = text.strip(" \t\r\n*`\"'“”‘’。")
    if len(text) > 1 and text[0] == text[-1] == "$":
        text = text.strip("$ ")
    return text[:-1].rstrip() if text.endswith(".") else text


def _level(text: str) -> str:
    return " ".join(text.split()).casefold()


def _read(text: str, *, allow_unevaluated: bool) -> tuple[Fraction, str] | None:
    """Value and unit of an answer; sides of an equation must be a name or equal the last one."""
    if len(text) > 4 * _MAX_LITERAL:
        return None
    *sides, last = text.split("=")
    read = _read_literal(last.strip())
    if read is None and allow_unevaluated:
        value = evaluate(last, allow_power=True)
        read = None if value is None else (value, "")
    if read is None:
        return None
    for side in sides:
        if not _NAME.match(side.strip()) and evaluate(side, allow_power=True) != read[0]:
            return None
    return read


def _read_literal(text: str) -> tuple[Fraction, str] | None:
    """A number as one writes a result, with its unit."""
    match = _LITERAL.fullmatch(text) if len(text) <= _MAX_LITERAL else None
    if match is None:
        return None
    sign, inner_sign, numerator, denominator, decimal, rest = match.groups()
    if sign and inner_sign:
        return None
    if decimal is not None:
        value = Fraction(decimal.replace(",", ""))
    else:
        above, below = int(numerator), int(denominator)
        if below < 2 or gcd(above, below) != 1:
            return None  # 12/4 and 6/8 are still to be worked out
        value = Fraction(above, below)
    unit = _read_unit(rest)
    if unit is None:
        return None
    return (-value if "-" in (sign, inner_sign) else value), unit


def _read_unit(text: str) -> str | None:
    """The unit after a number, levelled; ``""`` for none, ``None`` where the text changes what the number says."""
    if not text or text == "%":
        return text
    words = text.casefold().split()
    if len(words) > 4:
        return None
    for word in words:
        stem = word.rstrip(".^23²³")
        if not _UNIT_WORD.match(word) or stem in _NOT_UNITS or not _NOT_UNIT_CHARACTERS.isdisjoint(word):
            return None
        if len(stem) == 1 and stem.isascii() and stem not in _SHORT_UNITS:
            return None  # a variable
    return " ".join(word.removesuffix("s") if len(word) > 3 else word for word in (w.rstrip(".") for w in words))
