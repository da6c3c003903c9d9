"""Words around a number that take it back ("not 42"), leave it open ("maybe 42") or change it ("at least 42").

These are asked of every number, so they look words up rather than search for patterns.
"""

from __future__ import annotations

import re

from llmgym.rewards.extraction.patterns import pattern
from llmgym.rewards.extraction.spans import CJK

#: Characters before a number that can say something about it.
NEAR = 64

_CLAUSE = pattern(r"[.!?;。！？；\n](?:(?<=[。！？；\n])|\s|\Z)")
_CLAUSE_MARK = pattern(r"[.!?;。！？；\n]")

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
_EXCLUDING_SIGNS = ("不是", "不等于", "不为", "并非", "≠", "!=", "\\ne", "\\neq")
_EXCLUDING_ENDS = (
    "except for", "far from", "rule out", "rules out", "ruled out", "ruling out", "no es", *_EXCLUDING_SIGNS
)  # fmt: skip
_DENIED_AFTER = pattern(
    r"[\s)\]}$*'\"`]*(?:(?:is|was|are|were|would be|seems|looks|must be)\s+(?:(?:\w+\s+)?(?:not|wrong|incorrect|false"
    r"|impossible|excluded)|ruled out)\b|(?:is|was|does|do|wo|ca|did)n['’]t\b|cannot\b|(?:does|do|did|will) not\b"
    r"|fails?\b"
    r"|不对|不是|是错|错误|ではない|ではありません|じゃない|가 아니|이 아니)",
    re.IGNORECASE,
)
#: What may come before a denial, and the two characters that each begins with.
_BEFORE_DENIAL = " \t\r\n\v\f)]}$*'\"`"
_DENIAL_STARTS = frozenset(
    ("is", "wa", "ar", "we", "wo", "se", "lo", "mu", "ru", "do", "ca", "di", "wi", "fa", "不对", "不是", "是错", "错误",
     "では", "じゃ", "가 ", "이 ")
)  # fmt: skip
_OPEN = frozenset(
    ("maybe", "perhaps", "possibly", "probably", "might", "either", "unsure", "whether", "guess", "suppose", "assume",
     "claim", "claims")
)  # fmt: skip
_OPEN_PHRASES = ("may be", "could be", "not sure", "not certain")
_IN_PHRASES = frozenset(("may", "could", "sure", "certain"))
#: A word without which nothing before a number objects to it, beside Chinese and signs.
_OBJECTIONS = _DENYING | _EXCLUDING | _OPEN | _IN_PHRASES | {"for", "from", "out", "es", "or", "oder", "ou"}
_OPEN_CJK = pattern("或许|也许|可能|大概|不确定")
#: "41 or, for that matter, 42".
_OTHER_CHOICE = pattern(
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
_QUALIFIER_LAST = frozenset((*(qualifier.rsplit(" ", 1)[-1] for qualifier in _QUALIFIERS), "of"))
_QUALIFIERS_GLUED = (
    "≈", "~", "<", ">", "≤", "≥", "√", "±", "大约", "约", "半的", "倍的", "之一的", "至少", "至多", "不超过", "不少于",
    "超过", "大于", "小于", "负", "接近", "不到", "不足", "将近", "几乎", "高于", "低于", "少于", "多于", "近",
)  # fmt: skip
#: What goes up or down "by 10 %" says how far. Those of the second set may also describe: "the number increased by 42".
_CHANGED = frozenset(
    ("rose", "fell", "grew", "dropped", "shrank", "declined", "climbed", "jumped", "rises", "falls", "grows", "drops",
     "shrinks", "declines", "increases", "decreases", "risen", "fallen", "grown")
)  # fmt: skip
_CHANGED_OR_DESCRIBED = frozenset(("increased", "decreased", "reduced", "raised", "lowered"))
_DESCRIBED = frozenset(("number", "value", "integer", "variable", "quantity", "is", "be", "are", "if", "when", "then"))
_GLUED_LAST = frozenset(qualifier[-1] for qualifier in _QUALIFIERS_GLUED)

_STATING = pattern(
    r"(?:\b(?:(?:is|are|was|were|be|been|has|have|had|gets?|got|makes?|made|equals?|costs?|needs?|needed|takes?|took"
    r"|totals?|leaves?|paid|pays?|earns?|earned|spends?|spent|eats?|ate|sells?|sold|buys?|bought|weighs?|contains?"
    r"|remains?|becomes?|gives?|gave|yields?|runs?|ran|walks?|walked|drives?|drove|uses?|used|saves?|saved|receives?"
    r"|received|scores?|scored|won|lost|owns?|owes?|reads?|holds?|finds?|found|sees?|saw|counts?|counted)"
    r"|(?:comes?|came|adds? up|added up|equal|amounts?|amounted) to)"
    r"(?:\s+(?:a|an|the))?(?:\s+(?:total|sum|value|amount|number)\s+of)?(?:\s+(?:exactly|only|just|now|then|still|all))?"
    r"|[=:是为有得共到剩于需要花了走跑付买卖吃])[\s$€£¥*_(\"']*\Z",
    re.IGNORECASE,
)
_SCALE = pattern(
    r"\s?(?i:(?:hundred|thousand|million|billion|trillion|dozen|score|percent|per cent|squared|cubed|factorial"
    r"|or (?:so|more|less|fewer)|and a half|halves|thirds|quarters|fourths|fifths|sixths|tenths)\b"
    r"(?: (?!of\b)[a-z]+(?=[.!]?\s*\Z))?)"
    r"|\s?的(?:[一二两三四五六七八九十百0-9]+倍|一?半|[一二三四五六七八九十百0-9]+分之)[^.。,\n]{0,8}"
    rf"|\s?[十百千万萬亿億兆半倍成折]+(?:[{CJK}]{{1,3}}(?![{CJK}]))?"
)
_SCALE_STARTS = frozenset(
    ("hu", "th", "mi", "bi", "tr", "do", "sc", "pe", "sq", "cu", "fa", "or", "an", "ha", "qu", "fo", "fi", "si", "te")
)
_HAN_SCALE = pattern(r"\s?[的十百千万萬亿億兆半倍成折]")
_SQUARE = pattern(r"\b(sq|cu)\. ?")
_CJK_UNIT = pattern(rf"\s?([{CJK}]{{1,3}})(?![{CJK}])[\s*_)]*\Z")
_UNIT_START = pattern(r"\s*[.*_)/-]*[^\W\d_]")
_UNIT_WORD = pattern(r"[^\W\d_]+(?:[/-][^\W\d_]+)*[²³]?")
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
    words = clause.split()
    if (
        _OBJECTIONS.isdisjoint([word.strip("*_$(\"',:、") for word in words])
        and (after[:48].lstrip(_BEFORE_DENIAL)[:2].lower() not in _DENIAL_STARTS)
        and not (words and words[-1].endswith(_EXCLUDING_SIGNS))
        and (clause.isascii() or not ("或" in clause or _OPEN_CJK.search(clause)))
    ):
        return ""  # the usual case: nothing is there that could object
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
    if ending.rpartition(" ")[2] not in _QUALIFIER_LAST:
        pass  # the usual case
    elif ending.endswith(" by") and _tells_change(before):
        return ""
    elif ending.endswith(_QUALIFIER_ENDS):
        return max((words for words in _QUALIFIERS if ending.endswith(f" {words}")), key=len)
    elif ending.endswith(" of"):
        noun = ending.split()[-2:-1]
        return "" if noun and noun[0] in _VALUE_NOUNS else " ".join([*noun, "of"])
    if not ending.isascii():
        ending = ending.rstrip("是为有")
    if ending[-1] in _GLUED_LAST and ending.endswith(_QUALIFIERS_GLUED):
        return next(words for words in _QUALIFIERS_GLUED if ending.endswith(words))
    return ""


def _tells_change(before: str) -> bool:
    """Whether a text that ends in "by" says how far something went up or down."""
    *_, subject, verb, _ = ["", "", *before[-NEAR:].lower().split()]
    if len(subject) < 2 or verb not in _CHANGED | _CHANGED_OR_DESCRIBED:
        return False
    return verb in _CHANGED or subject not in _DESCRIBED


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
    if not after or after[0] in ".,;:!?。)]}\n" or not _UNIT_START.match(after):
        return ""
    may_scale = after.lstrip()[:2].lower() in _SCALE_STARTS or (not after.isascii() and _HAN_SCALE.match(after))
    if may_scale and (scale := _SCALE.match(after)):
        return scale.group()
    rest = _SQUARE.sub(r"\1 ", after) if "." in after else after
    if clause_end := _CLAUSE.search(rest):
        rest = rest[: clause_end.start()]
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
