"""Words around a number that take it back ("not 42"), leave it open ("maybe 42") or change it ("at least 42").

These are asked of every number, so they look words up rather than search for patterns.
"""

from __future__ import annotations

import re

from llmgym.rewards.extraction.spans import CJK

#: Characters before a number that can say something about it.
NEAR = 64

_CLAUSE = re.compile(r"[.!?;](?:\s|\Z)|[。！？；\n]")
_CLAUSE_MARK = re.compile(r"[.!?;。！？；\n]")

#: Anywhere before the number since the last comma.
_DENYING = frozenset(
    ("not", "never", "neither", "nor", "cannot", "hardly", "nobody", "isn't", "wasn't", "aren't", "can't", "couldn't",
     "don't", "doesn't", "didn't", "won't", "wouldn't", "shouldn't", "mustn't")
)  # fmt: skip
#: Right before it.
_EXCLUDING = frozenset(
    ("no", "nicht", "pas", "non", "não", "не", "but", "except", "unlike", "excluding", "without", "than", "exclude",
     "excludes", "excluded", "reject", "rejects", "rejected", "eliminate", "eliminates", "eliminated", "discard",
     "discards", "discarded", "avoid", "avoids", "avoided", "refute", "refutes", "refuted")
)  # fmt: skip
_EXCLUDING_ENDS = (
    "except for", "far from", "rule out", "rules out", "ruled out", "ruling out", "no es", "不是", "不等于", "不为",
    "并非", "≠", "!=", "\\ne", "\\neq",
)  # fmt: skip
_DENIED_AFTER = re.compile(
    r"[\s)\]}$*'\"`]*(?:(?:is|was|are|were|would be|seems|looks|must be)\s+(?:(?:\w+\s+)?(?:not|wrong|incorrect|false"
    r"|impossible|excluded)|ruled out)\b|(?:is|was|does|do|wo|ca|did)n['’]t\b|cannot\b|(?:does|do|did|will) not\b"
    r"|fails?\b"
    r"|不对|不是|是错|错误|ではない|ではありません|じゃない|가 아니|이 아니)",
    re.IGNORECASE,
)
_OPEN = frozenset(
    ("maybe", "perhaps", "possibly", "probably", "might", "either", "unsure", "whether", "guess", "suppose", "assume",
     "claim", "claims")
)  # fmt: skip
_OPEN_PHRASES = ("may be", "could be", "not sure", "not certain")
_IN_PHRASES = frozenset(("may", "could", "sure", "certain"))
_OPEN_CJK = re.compile("或许|也许|可能|大概|不确定")
#: "41 or, for that matter, 42".
_OTHER_CHOICE = re.compile(
    r"[0-9)}$][^.;!?\n]{0,20}(?:\b(?:or|oder|ou)\b|或)[^.;!?\n]{0,20}\Z|[.;!?]\s+(?:or|oder|ou)\s+\Z", re.IGNORECASE
)

#: Right before a number these say another thing than the number, and stay with it.
_QUALIFIERS = (
    "about", "approximately", "approx", "approx.", "around", "roughly", "nearly", "almost", "circa", "some", "close to",
    "at least", "at most", "up to", "no more than", "no less than", "no fewer than", "more than", "less than",
    "fewer than", "greater than", "larger than", "smaller than", "over", "under", "above", "below", "between", "from",
    "plus", "minus", "negative", "half", "twice", "double", "triple", "as much as", "as many as", "divisible by",
    "mod", "modulo", "base", "like", "after", "before", "until", "till", "past", "beyond", "by", "near", "without",
    "against", "following", "preceding", "beside", "besides", "next to",
)  # fmt: skip
#: "A total of 42" is 42; of other nouns, such as "the square of 42", it is not said.
_VALUE_NOUNS = frozenset(
    ("total", "sum", "value", "number", "count", "amount", "cost", "price", "average", "mean", "median", "product",
     "area", "volume", "perimeter", "length", "width", "height", "distance", "profit", "income", "maximum", "minimum",
     "speed", "rate", "age", "weight", "score", "balance", "probability", "ratio", "radius", "diameter", "remainder",
     "difference", "quotient", "degree", "result", "answer", "measure", "angle", "mass", "time", "size")
)  # fmt: skip
_QUALIFIER_ENDS = tuple(f" {qualifier}" for qualifier in _QUALIFIERS)
_QUALIFIERS_GLUED = (
    "≈", "~", "<", ">", "≤", "≥", "√", "±", "大约", "约", "至少", "至多", "不超过", "不少于", "超过", "大于", "小于",
    "负", "接近", "不到", "不足", "将近", "几乎", "高于", "低于", "少于", "多于", "近",
)  # fmt: skip

_STATING = re.compile(
    r"(?:\b(?:(?:is|are|was|were|be|been|has|have|had|gets?|got|makes?|made|equals?|costs?|needs?|needed|takes?|took"
    r"|totals?|leaves?|paid|pays?|earns?|earned|spends?|spent|eats?|ate|sells?|sold|buys?|bought|weighs?|contains?"
    r"|remains?|becomes?|gives?|gave|yields?|runs?|ran|walks?|walked|drives?|drove|uses?|used|saves?|saved|receives?"
    r"|received|scores?|scored|won|lost|owns?|owes?|reads?|holds?|finds?|found|sees?|saw|counts?|counted)"
    r"|(?:comes?|came|adds? up|added up|equal|amounts?|amounted) to)"
    r"(?:\s+(?:a|an|the))?(?:\s+(?:total|sum|value|amount|number)\s+of)?(?:\s+(?:exactly|only|just|now|then|still|all))?"
    r"|[=:是为有得共到剩于需要花了走跑付买卖吃])[\s$€£¥*_(\"']*\Z",
    re.IGNORECASE,
)
_SCALE = re.compile(
    r"\s?(?:hundred|thousand|million|billion|trillion|dozen|score|percent|per cent|squared|cubed|factorial"
    r"|or (?:so|more|less|fewer)|and a half|halves|thirds|quarters|fourths|fifths|sixths|tenths)\b"
    r"(?: (?!of\b)[a-z]+(?=[.!]?\s*\Z))?"
    rf"|\s?[十百千万萬亿億兆半倍成折]+(?:[{CJK}]{{1,3}}(?![{CJK}]))?",
    re.IGNORECASE,
)
_SQUARE = re.compile(r"\b(sq|cu)\. ?")
_CJK_UNIT = re.compile(rf"\s?([{CJK}]{{1,3}})(?![{CJK}])[\s*_)]*\Z")
_UNIT_WORD = re.compile(r"[^\W\d_]+(?:[/-][^\W\d_]+)*[²³]?")
_NO_UNITS = frozenset(
    ("in", "left", "more", "total", "each", "altogether", "remaining", "of", "now", "is", "was", "are", "were", "so",
     "and", "then", "as", "for", "by", "at", "to", "because", "since", "which", "that", "when", "if", "while", "with",
     "on", "after", "before", "old", "only", "also", "again", "too", "or", "not", "but", "respectively", "overall",
     "combined", "away", "less", "fewer", "later", "earlier", "long", "high", "tall", "wide", "deep", "here", "there",
     "instead", "extra", "exactly", "from", "he", "she", "it", "they", "we", "i", "this", "the", "a", "an")
)  # fmt: skip
_NO_CJK_UNITS = "是就也为的了才不对错所故则那和或与以"
_MOST_UNIT_WORDS, _MOST_WORDS_AFTER = 3, 6


def objection(before: str, after: str) -> str:
    """Why a number is not what the text settles on: ``"question"``, ``"negated"``, ``"hedged"``, or ``""``.

    Args:
        before: What stands before the number.
        after: What stands after it.

    Example:
        >>> objection("it is certainly not ", ""), objection("I take 41 or perhaps ", "."), objection("it is ", " km")
        ('negated', 'hedged', '')
    """
    if "?" in after[:8] and after.lstrip(" *_$)\"'").startswith("?"):
        return "question"
    clause = before[-NEAR:].lower().replace("’", "'")
    if _CLAUSE_MARK.search(clause):
        clause = _CLAUSE.split(clause)[-1]
    words = clause.split()
    part: list[str] = []  # the words since the last comma, the last of them first
    for word in reversed(words):
        if word[-1] in ",:、":
            break
        part.append(word.strip("*_$(\"'"))
    if part and (not _DENYING.isdisjoint(part) or part[0] in _EXCLUDING):
        return "negated"
    if clause.rstrip().endswith(_EXCLUDING_ENDS) or _DENIED_AFTER.match(after[:48]):
        return "negated"
    words = [word.strip(",:") for word in words]
    if not _OPEN.isdisjoint(words) or (not _IN_PHRASES.isdisjoint(words) and any(map(clause.count, _OPEN_PHRASES))):
        return "hedged"
    if not clause.isascii() and _OPEN_CJK.search(clause):
        return "hedged"
    near = before[-48:].lower()
    is_choice = " or " in near or "或" in near or " oder " in near or " ou " in near
    return "hedged" if is_choice and _OTHER_CHOICE.search(near) else ""


def qualifier(before: str) -> str:
    """Words right before a number that make another thing of it; ``""`` where there are none.

    >>> qualifier("in all at least "), qualifier("the value of ")
    ('at least', '')
    """
    ending = f" {before[-24:].rstrip().lower()}"
    if ending.endswith(_QUALIFIER_ENDS):
        return max((words for words in _QUALIFIERS if ending.endswith(f" {words}")), key=len)
    if ending.endswith(" of"):
        noun = ending.split()[-2:-1]
        return "" if noun and noun[0] in _VALUE_NOUNS else " ".join([*noun, "of"])
    if not ending.isascii():
        ending = ending.rstrip("是为有")
    if ending.endswith(_QUALIFIERS_GLUED):
        return next(words for words in _QUALIFIERS_GLUED if ending.endswith(words))
    return ""


def is_stated(before: str) -> bool:
    """Whether a clause ends in a verb that gives the number, so that the number is what it says.

    >>> is_stated("that John has "), is_stated("They cost a total of $"), is_stated("the number after ")
    (True, True, False)
    """
    return _STATING.search(before[-NEAR:]) is not None


def unit_after(after: str) -> str:
    """The unit or the word of size that follows a number and ends the sentence; ``""`` where there is none.

    >>> unit_after(" square feet in all."), unit_after(" million people live"), unit_after(" of them")
    (' square feet', ' million', '')
    """
    if not after or after[0] in ".,;:!?。)]}\n":
        return ""
    if scale := _SCALE.match(after):
        return scale.group()
    rest = _CLAUSE.split(_SQUARE.sub(r"\1 ", after) if "." in after else after, maxsplit=1)[0]
    if not rest.isascii() and (cjk := _CJK_UNIT.match(rest)):
        return "" if cjk[1][0] in _NO_CJK_UNITS else cjk[1]
    words = rest.split(None, _MOST_WORDS_AFTER)
    if not words or len(words) > _MOST_WORDS_AFTER:
        return ""
    unit: list[str] = []
    for word in words:
        word = word.strip(".*_)/-")
        if len(unit) == _MOST_UNIT_WORDS or word.lower() in _NO_UNITS or not _UNIT_WORD.fullmatch(word):
            break
        unit.append(word)
    return (" " if after[0].isspace() or after[0] in "-/" else "") + " ".join(unit) if unit else ""
