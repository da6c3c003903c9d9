r"""Reading the answer from a response: which words of it are the answer, and which rule says so.

Only what follows the last ``</think>`` is read. Then the rules are tried in order, and the first that fires decides,
even where it decides that there is no answer: what is written in the demanded place is the answer.

========== =========================================================================================================
rule        the answer is
========== =========================================================================================================
answer_tag  what the last ``<answer>…</answer>`` holds; of it, the last box or what an "answer is" in it says
boxed       what the last ``\boxed{}`` holds; boxes joined only by "and", "or" or commas are one list
hashes      the rest of the last line that begins with ``####`` and is no heading
phrase      what follows the last "the answer is", 答案是, 故选 … in a dozen languages, to the end of the sentence
short       a response of one short line, whole, or the value it states
last        the last number or formula
========== =========================================================================================================

A hedge is no answer, nor is a question, a negation, or a box that the text takes back afterwards. All scans are
linear; the size of what is read is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from fractions import Fraction
from typing import Literal, NamedTuple, get_args

from llmgym.errors import InvalidOptionError, unknown_name
from llmgym.rewards.arithmetic import plain
from llmgym.rewards.extraction.conclusions import (
    SHORT_RESPONSE,
    Found,
    last_value,
    sentence_value,
    short_response,
    trimmed,
)
from llmgym.rewards.extraction.patterns import pattern
from llmgym.rewards.extraction.phrases import phrase_answer
from llmgym.rewards.extraction.spans import CJK
from llmgym.rewards.notation.expressions import Number, Quantity, Relation
from llmgym.rewards.notation.reader import parse

Rule = Literal["answer_tag", "boxed", "hashes", "phrase", "short", "last"]
#: In the order in which they are tried.
RULES: tuple[Rule, ...] = get_args(Rule)

#: The end of the thinking is found in a response of any length; of what follows it, only so many last characters are
#: read.
MAX_RESPONSE = 65_536


class Extraction(NamedTuple):
    """What was read from a response.

    Attributes:
        text: The answer; ``None`` where there is none.
        rule: The rule that fired, with an answer or without; ``None`` where none did.
        reason: Why there is no answer, ``""`` where there is one: ``"no_answer"``, ``"unclosed_thinking"``,
            ``"unclosed_answer_tag"``, ``"unclosed_box"``, ``"empty_answer"``, ``"negated"``, ``"hedged"``,
            ``"question"``, ``"unfinished"`` or ``"contradicted"``.
    """

    text: str | None
    rule: Rule | None
    reason: str = ""


def extract(response: str, *, rules: Collection[Rule] | None = None) -> Extraction:
    r"""The answer that a response settles on, with the rule that found it.

    Args:
        response: Any text. Time is linear in its length.
        rules: The rules that count, such as ``("answer_tag", "boxed")``; ``None`` for all of them. They are tried in
            the order of :data:`RULES`.

    Raises:
        InvalidOptionError: If there is no such rule.

    Example:
        >>> extract(r"so \boxed{41}. Wait, it is \boxed{42}")
        Extraction(text='42', rule='boxed', reason='')
        >>> extract("I would say that it is 42", rules=("answer_tag", "boxed"))
        Extraction(text=None, rule=None, reason='no_answer')
        >>> extract("The answer is not 42.").reason
        'negated'
    """
    wanted = RULES if rules is None else check_rules(rules)
    closed = response.rfind("</think>")
    if response.rfind("<think>") > closed:
        return Extraction(None, None, "unclosed_thinking")
    tail = response
    if closed >= 0 or len(response) > MAX_RESPONSE:
        tail = response[max(closed + len("</think>") if closed >= 0 else 0, len(response) - MAX_RESPONSE) :]
    tail = plain(tail).strip()
    if len(tail) > _LONG:
        tail = _SPACES.sub(_fewer_spaces, tail)
    for rule in wanted:
        if (found := _READERS[rule](tail)) is not None:
            text = found.text or None
            if text and text[-1] in _DANGLING_ENDS and _DANGLING.search(text, max(0, len(text) - 6)):
                return Extraction(None, rule, "hedged")
            return Extraction(text, rule, "" if text else found.reason or "empty_answer")
    return Extraction(None, None, "no_answer")


def extract_answer(response: str) -> str | None:
    """The answer that a response settles on, as text; ``None`` where there is none. See :func:`extract`.

    Example:
        >>> extract_answer("6*7 = 42, so <answer> 42 </answer>")
        '42'
        >>> extract_answer("<think>6*7 = 42") is None
        True
    """
    return extract(response).text


def check_rules(rules: Collection[str]) -> tuple[Rule, ...]:
    """The rules in the order in which they are tried.

    Raises:
        InvalidOptionError: If there is none, or not such a one.
    """
    if isinstance(rules, str) or not rules:
        raise InvalidOptionError(
            f"Expected `rules` to be some of {', '.join(RULES)}, actual: {rules!r}. Write a list, or None for all."
        )
    for rule in rules:
        if rule not in RULES:
            raise unknown_name("a rule of extraction", rule, RULES)
    return tuple(rule for rule in RULES if rule in rules)


#: In longer texts, runs of white space are shortened: then no pattern needs to care how many times it reads one.
_LONG = 512
#: "42 or": or what?
_DANGLING = pattern(rf"\s(?:or|and|oder|ou)\Z|(?<![{CJK}])(?:或者?|和)\Z")
_DANGLING_ENDS = frozenset("rdu或者和")
_SPACES = pattern(r"\s{4,}")


def _fewer_spaces(match: re.Match[str]) -> str:
    n_lines = match.group().count("\n")
    return "\n\n" if n_lines > 1 else "\n" * n_lines or " "


# --- Tags and boxes ---------------------------------------------------------------------------------------------------

_OPEN, _CLOSE = "<answer>", "</answer>"
#: Between two boxes (or tags) that make one answer of them.
_JOINED = pattern(
    r"(?:[\s$,;、和或与及&*|]|\\q?quad)*(?:\b(?:and|or|und|oder|et|ou|y|o|e)\b)?(?:[\s$,;、&*|]|\\q?quad)*",
    re.IGNORECASE,
)
_OR = pattern(r"\b(?:or|oder|ou|o)\b|或", re.IGNORECASE)
_LONGEST_JOINT = 24
_LONGEST_LIST = 64
_EITHER = pattern(r"\b(?:or|maybe|perhaps|possibly|alternatively|oder|ou)\b|[/或]", re.IGNORECASE)
_FIRST_WORDS = pattern(r"[^\W\d_]{2,}\s")
_BOX = pattern(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_TEXT = pattern(r"\\(?:text|mbox|textbf|mathrm)\s?\{([^{}]*)\}")
_BRACE = pattern(r"\\.|[{}]", re.DOTALL)
_BARE_BOX = pattern(r"[^\s${}]+")
_NOT_BEFORE = pattern(r"(?:\b(?:not|never)|n['’]t|不是|不为|不等于|≠|!=|\\neq?)[\s$*(]*\Z", re.IGNORECASE)
_NOT_AFTER = pattern(
    r"[\s$*.)]*(?:(?:is|was) (?:\w+ )?(?:wrong|incorrect|false|not)\b|isn['’]t|不对|不是|是错|错误)", re.IGNORECASE
)
_HEDGED_AFTER = pattern(
    r"[\s$*.,;]*(?:(?:\\text\s?\{\s*)?(?:or|oder|ou)\b"
    r"(?!\s+(?:equivalently|simply|just|in other|about|approximately|written)\b)"
    r"[\s}]+[$\\(]*[-\w]|或(?:者|是)?|\?)",
    re.IGNORECASE,
)
_HEDGED_BEFORE = pattern(
    r"[0-9$)}][\s$*]*(?:\bor\b|或者?)[\s$*]*\Z|\b(?:either|maybe|perhaps)\s+[$*]*\Z", re.IGNORECASE
)
#: Right before a box: words that leave its content open, or say another thing with it.
_WEAK_BEFORE = pattern(
    r"\b(?:might (?:also )?be|may (?:also )?be|could (?:also )?be|anything but|other than|except|less than|more than"
    r"|greater than|at least|at most|not equal to|(?:guess|option|candidate|possibility|attempt)\s*[0-9]*\s*:)"
    r"[\s$*]*\Z",
    re.IGNORECASE,
)
#: Around a box that is but a part of a formula.
_PART_BEFORE = pattern(
    r"(?:[-+0-9]|\\(?:sqrt|[dt]?frac\s?\{[^{}]{0,40}\})\s?\{"
    r"|\S\s?(?:[<>≤≥≠±√^/]|\\(?:cdot|times|pm|mp|leq?|geq?|neq?|div|lt|gt))\s?)\Z"
)
_PART_AFTER = pattern(
    r"\s?(?:\^|±|\\(?:pm|mp|cdot|times|div)(?![a-z])|[-+/]\s?(?:[0-9(\\]|(?!I\b)[A-Za-z](?![A-Za-z])))"
)
#: After an answer: it was not right.
_RETRACTED = pattern(
    r"\b(?:wait,? no"
    r"|(?:no|wait|sorry|actually)\W{1,3}(?:that|this|it)(?:['’]s| is| was) (?:wrong|incorrect|not|a mistake))\b"
    r"|\A\W*(?:not\W*\Z|(?:that|this|it)(?:['’]s| is| was) (?:wrong|incorrect|false|not right|not correct)\b)",
    re.IGNORECASE,
)
_CORRECTED = pattern(
    r"\b(?:wait|actually|correction|sorry|oops|mistake|scratch that|i meant?|on second thought|hold on|rather|no,)"
    r"|不对|更正|等等|等一下|应该是|错了",
    re.IGNORECASE,
)
_WORD = pattern(r"\w")
_TELLING = pattern(
    r"[0-9]|\\|\A\W*[A-Z]\W*\Z|\A(?:yes|no|true|false)\Z"
    r"|\A(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w{3,6}teen|\w{3,5}ty)\b",
    re.IGNORECASE,
)
_DRESS = pattern(r"\\[a-zA-Z]+(?=\s*\{)|[\s{}$\\*]")


def _answer_tag(tail: str) -> Found | None:
    start = tail.rfind(_OPEN)
    if start < 0:
        return None
    end = tail.find(_CLOSE, start)
    if end < 0:
        return Found(None, "unclosed_answer_tag")
    parts, joint = [tail[start + len(_OPEN) : end].strip()], ""
    while len(parts) < _LONGEST_LIST:
        before = tail.rfind(_CLOSE, max(0, start - _LONGEST_JOINT - len(_CLOSE)), start)
        between = tail[before + len(_CLOSE) : start]
        opening = tail.rfind(_OPEN, 0, max(0, before))
        if opening < 0 or not _JOINED.fullmatch(between):
            if opening >= 0 and _EITHER.search(between):
                return Found(None, "hedged")
            break
        parts.append(tail[opening + len(_OPEN) : before].strip())
        joint, start = joint + between, opening
    content = _joined(parts, joint)
    if not parts[0] or not content:
        return Found(None, "empty_answer")
    after = tail[end + len(_CLOSE) :]
    if after and (_NOT_AFTER.match(after) or _contradicted(content, after)):
        return Found(None, "contradicted")
    if start and _NOT_BEFORE.search(tail, max(0, start - 16), start):
        return Found(None, "negated")
    if (box := _boxed(content)) is not None:
        return box
    announced = phrase_answer(content) if len(content) > 8 else None
    if announced is not None and (announced[0].text or announced[0].reason == "negated"):
        return announced[0]
    if len(content) <= SHORT_RESPONSE and "\n" not in content and _FIRST_WORDS.match(content):
        return short_response(content, must_state=True)  # "It is 42."
    return Found(content)


def _boxed(tail: str) -> Found | None:
    heads = list(_BOX.finditer(tail)) if "\\boxed" in tail or "\\fbox" in tail else []
    if not heads:
        return None
    start = heads[-1].start()
    end, content = _box(tail, heads[-1], len(tail))
    if end < 0:
        return Found(None, "unclosed_box")
    after = tail[end : end + 48]
    if _NOT_BEFORE.search(tail, max(0, start - 16), start) or _NOT_AFTER.match(after):
        return Found(None, "negated")
    before = tail[max(0, start - 64) : start]
    if _WEAK_BEFORE.search(before):
        return Found(None, "hedged")
    if _PART_BEFORE.search(before) or _PART_AFTER.match(after):
        return Found(None, "unfinished")
    if len(heads) > 1 and (outer := _box(tail, heads[-2], len(tail)))[0] > end and not _is_only(outer[1], content):
        return Found(None, "hedged")
    parts, joint = [content], ""
    for head in heads[-2 : -_LONGEST_LIST - 1 : -1]:
        finish, inner = _box(tail, head, start)
        between = tail[finish:start]
        if finish < 0 or len(between) > _LONGEST_JOINT:
            break
        between = _TEXT.sub(r"\1", between)
        if not _JOINED.fullmatch(between):
            if _EITHER.search(between):
                return Found(None, "hedged")
            break
        parts.append(inner)
        joint, start = joint + between, head.start()
    if _HEDGED_AFTER.match(after) or _HEDGED_BEFORE.search(tail, max(0, start - 16), start):
        return Found(None, "hedged")
    text = _joined(parts, joint)
    if not content or not text:
        return Found(None, "empty_answer")
    if "answer" in text and (announced := phrase_answer(_TEXT.sub(r"\1", text))):
        return announced[0]
    return Found(None, "contradicted") if _contradicted(text, tail[end:]) else Found(text)


def _box(tail: str, head: re.Match[str], limit: int) -> tuple[int, str]:
    """Where a box ends and what it holds; an end of -1 where it does not close before ``limit``."""
    at = head.end()
    if not tail.startswith("{", at):
        bare = _BARE_BOX.match(tail, at, limit)  # \boxed 5
        return (bare.end(), trimmed(bare.group())) if bare else (-1, "")
    depth = 0
    for brace in _BRACE.finditer(tail, at, limit):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return brace.end(), tail[at + 1 : brace.start()].strip()
    return -1, ""


def _is_only(outer: str, content: str) -> bool:
    """Whether a box holds another one and nothing else."""
    head = _BOX.match(outer)
    return head is not None and _box(outer, head, len(outer)) == (len(outer), content)


def _joined(parts: list[str], joint: str) -> str:
    """Parts that were found from the last to the first, as one list; one of them where all say the same."""
    if len(set(parts)) == 1:
        return parts[0]
    return (" or " if _OR.search(joint) else ", ").join(reversed(parts))


def _contradicted(answer: str, rest: str) -> bool:
    """Whether the text after an answer settles on another one."""
    if not _WORD.search(rest):
        return False
    if _RETRACTED.search(rest):
        return True
    announced = phrase_answer(rest)
    later = announced[0] if announced else _hashes(rest) if "####" in rest else None
    if later is None and _CORRECTED.search(rest):
        later = sentence_value(rest)
    if later is None or later.text is None or not _TELLING.search(later.text):
        return False
    one, other = _number(answer), _number(later.text)
    if one is not None and other is not None:
        return one != other
    said, now = _level(answer), _level(later.text)
    return said not in now and now not in said


def _number(text: str) -> Fraction | None:
    """The number that a text is, its name and its unit left out."""
    tree = parse(text)
    if isinstance(tree, Relation) and tree.signs == ("=",):
        tree = tree.sides[1]
    if isinstance(tree, Quantity):
        tree = tree.value
    return tree.value if isinstance(tree, Number) else None


def _level(text: str) -> str:
    return _DRESS.sub("", text).casefold()


# --- Without tags -----------------------------------------------------------------------------------------------------

_NUMBERED = pattern(r"[0-9]+[.)]\s+\S")
_VALUE = pattern(r"[0-9\\$π√∞(\[{½¼¾=]|[A-Za-z][.)]?\Z")
_HEADINGS = 8


def _hashes(tail: str) -> Found | None:
    at = len(tail)
    for _ in range(_HEADINGS):
        at = tail.rfind("####", 0, at)
        if at < 0:
            return None
        if at > 0 and not tail[at - 1].isspace():
            continue
        end = tail.find("\n", at)
        is_last = end < 0 or not tail[end:].strip()
        line = tail[at + 4 : len(tail) if end < 0 else end].strip(" \t*_")
        if not line or line.startswith("#") or line.endswith(":") or _NUMBERED.match(line):
            continue
        if announced := phrase_answer(line):
            return announced[0]
        words = sum(word.isalpha() for word in line.split())
        if (is_last and words <= 6) or (_VALUE.match(line.lstrip("-+ ")) and words <= 3):
            return Found(None, "question") if line.endswith("?") else Found(trimmed(line))
    return None


def _phrase(tail: str) -> Found | None:
    announced = phrase_answer(tail)
    if announced is None:
        return None
    found, end = announced
    if found.text is not None and _HEDGED_AFTER.match(tail, end):
        return Found(None, "hedged")
    if found.text is not None and _contradicted(found.text, tail[end:]):
        return Found(None, "contradicted")
    return found


def _short(tail: str) -> Found | None:
    tail = tail.removesuffix(_CLOSE).rstrip()  # the prompt may have ended with the opening tag
    return short_response(tail) if 0 < len(tail) <= SHORT_RESPONSE and "\n" not in tail else None


def _last(tail: str) -> Found | None:
    tail = tail.removesuffix(_CLOSE).rstrip()
    return last_value(tail) if tail else None


_READERS = {
    "answer_tag": _answer_tag,
    "boxed": _boxed,
    "hashes": _hashes,
    "phrase": _phrase,
    "short": _short,
    "last": _last,
}
