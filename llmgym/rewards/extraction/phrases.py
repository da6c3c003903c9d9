"""What follows the last "the answer is", in a dozen languages, to the end of its sentence."""

from __future__ import annotations

import re

from llmgym.rewards.extraction.conclusions import Found, sentence_value, stated, trimmed
from llmgym.rewards.extraction.patterns import pattern
from llmgym.rewards.extraction.spans import FUNCTIONS

#: Occurrences of a word such as "answer" that are looked at, from the end: more of them say nothing.
_MOST_TRIED = 32
#: Characters of a sentence that are read; more are no answer.
_LONGEST = 5000

# --- The phrase -------------------------------------------------------------------------------------------------------

_COLON = r"[*_`]{0,4}\s*[:=]"
_IS = (
    r"(?:is|are|was|were|equals|would be|should be|must be|will be|has to be|comes? (?:out )?to(?: be)?"
    r"|turns out to be)\b"
)
_LINKED = r"to|for|of|in|that|which|we|i|you|here|choice|option|then|therefore|thus|hence|now|,"
_ENGLISH = pattern(
    rf"answers?(?:['’]s\b|(?:\s*\([^()\n]{{0,40}}\))?{_COLON}|\s+(?:->|=>|→|⇒|-|—)\s"
    rf"|(?:,?\s+(?:{_LINKED})\b[^.!?\n:=]{{0,60}}?)?,?[*_`]{{0,4}}\s+{_IS}(?:{_COLON})?)"
)
_CHOICE = pattern(
    rf"(?:(?<=correct )|(?<=right )|(?<=best ))(?:option|choice)(?:{_COLON}|\s+(?:is|would be|should be|must be)\b:?)"
)
_GERMAN = r"\s+(?:ist|lautet|wäre|beträgt)\b(?:\s+(?:also|somit|daher|demnach)\b)?"
_JAPANESE = rf"[*_]{{0,4}}(?:は|が|{_COLON})[、,]?"
#: A word, which is found much faster than a pattern, and the pattern that has to begin there.
_LATIN = {
    "answer": _ENGLISH,
    "option": _CHOICE,
    "choice": _CHOICE,
    "antwort": pattern(rf"antwort(?:{_GERMAN}|{_COLON})"),
    "lösung": pattern(rf"lösung(?:{_GERMAN}|{_COLON})"),
    "endergebnis": pattern(rf"endergebnis(?:{_GERMAN}|{_COLON})"),
    "réponse": pattern(
        rf"réponse(?:\s+(?:finale|correcte|exacte|juste))?(?:\s+(?:est|vaut|sera)\b(?:\s+donc\b)?|{_COLON})"
    ),
    "respuesta": pattern(rf"respuesta(?:\s+(?:final|correcta))?(?:\s+(?:es|sería|será)\b|{_COLON})"),
    "risposta": pattern(
        rf"risposta(?:\s+(?:finale|corretta|esatta|giusta))?(?:\s+(?:è|e['’]|sarà)(?:\s+quindi\b)?|{_COLON})"
    ),
    "resposta": pattern(rf"resposta(?:\s+(?:final|correta|certa))?(?:\s+(?:é|será)\b(?:\s+portanto\b)?|{_COLON})"),
}
_OTHER = {
    "ответ": pattern(rf"ответ(?:ом)?(?:{_COLON}|\s+[—–-]\s|\s+(?:равен|будет|является|это|есть)\b)"),
    "答案": pattern(
        r"答案(?:应该|应当|应|就|即|分别|将|会|便){0,3}[*_]{0,4}\s*(?:是|为|為|选|選|等于|等於|=|:|】)[*_]{0,4}\s*:?"
    ),
    "答": pattern(r"答\s*:"),
    "选": pattern(
        r"(?<![不非别別未])(?<!不[能该應应可会會])(?<!不[应應][该該])选择?[*_]{0,4}\s*:?\s*(?=[*_]{0,4}[(\[]?[a-h]{1,8}(?![a-z]))"
    ),
    "選": pattern(
        r"(?<![不非别別未])(?<!不[能该應应可会會])(?<!不[应應][该該])選擇?[*_]{0,4}\s*:?\s*(?=[*_]{0,4}[(\[]?[a-h]{1,8}(?![a-z]))"
    ),
    "正确选项": pattern(r"正确选项[*_]{0,4}\s*(?:是|为|:)"),
    "答え": pattern(rf"答え{_JAPANESE}"),
    "正解": pattern(rf"正解{_JAPANESE}"),
    "解答": pattern(rf"解答{_JAPANESE}"),
    "답": pattern(rf"답[*_]{{0,4}}(?:은|는|이|{_COLON})"),
}
_ALL = _LATIN | _OTHER
_BY_FREQUENCY = "etaoinsrhldcumfpgwybvkxjqz"


def _from_rarest_letter(word: str) -> str:
    """A pattern for a word that begins at its rarest letter and looks back: a search stops at few places then."""
    at = max(range(len(word)), key=lambda index: _BY_FREQUENCY.find(word[index]) % 99)
    return f"{word[at]}(?<={word[: at + 1]}){word[at + 1 :]}"


_ANY_ANCHOR = pattern("|".join(map(_from_rarest_letter, _ALL)))
_HEADING = pattern(r"answer[*_#]{0,4}:?[*_#]{0,4}[ \t]*\n")
_BEFORE_HEADING = pattern(r"(?:\A|\n)[ \t#*_>-]*(?:(?:the|my|our|final|correct)[ \t]+){0,2}\Z")

#: Before the phrase: words that only suppose the answer, or say that it is not this one.
_SUPPOSED = pattern(
    r"\b(?:if|whether|suppose|supposing|assume|assuming|imagine|check that|(?:might|may|could|would|will)\s+"
    r"(?:think|say|guess|believe|expect|argue|claim))\s+(?:that\s+)?(?:\w+\s+){0,2}\Z"
    r"|(?:如果|假如|假设|若|是否)\S{0,2}\Z"
)
_DENIED = pattern(
    r"\b(?:(?:not|never|n['’]t|nobody|cannot|can['’]t)\s+"
    r"(?:thinks?|believes?|says?|claims?|mean|true|sure|certain|clear|know|follow|the case)\b[^.,;:\n]{0,24}"
    r"|(?:doubt|false|wrong|incorrect|previous|unlikely|impossible)\s+(?:that\s+)?(?:\w+\s+){0,2})\Z"
)
#: After it.
_NOT = pattern(
    r"[*_`\s]*(?:(?:certainly|definitely|clearly|probably|therefore|thus)\s+)?"
    r"(?:(?:not|never|n['’]t|no longer|neither|any\w+ (?:but|other than|except)|nicht|pas|non|não|не)\b"
    r"|kein|no\b(?=\s+[0-9$\\])"
    r"|不是|不为|并非)"
)
_CHINESE_NOT = pattern(r"答案(?:并|绝|肯定)?(?:不是|不为|不等于|不可能|不会|怎么会|怎么可能|难道)")
_NOT_AT_END = pattern(r"ではない|ではありません|じゃない|가 아니|이 아니|아닙니다|不对|是错")

# --- What it announces ------------------------------------------------------------------------------------------------

_FILLER = pattern(
    r"(?:[\s:*_`#]|(?<=\n)> )*(?:(?:therefore|thus|then|hence|simply|just|clearly|indeed|exactly|also|now|found to be"
    r"|given by|equal to|going to be|该|应该|就|即|(?:option|choice|letter)(?=\s+\(?[a-z])|either(?=\s))[\s:,*_`]+)*",
    re.IGNORECASE,
)
_BREAK = pattern(r"\$\$|\$|\\\[|\\\(|\\begin\{|[.!](?=[\s*_\"')\]}]|\Z)|[。？?！\n]")
_CLOSING = {"$$": "$$", "\\[": "\\]", "\\(": "\\)", "\\begin{": "\\end{"}
_ABBREVIATION = pattern(
    r"\b(?:e\.g|i\.e|u\.s|a\.m|p\.m|approx|sq|cu|ft|vs|dr|mr|mrs|ms|prof|eq|fig|resp)\Z", re.IGNORECASE
)
_EXPLANATION = pattern(
    r"(?i:\b(?:because|since|due to|given that|where|as (?:required|desired|expected|shown|we|the)|rather than"
    r"|instead of|and not)\b"
    r"|[,;]\s*(?:as|which|so|hence|therefore|thus|that is|meaning|not|rather|instead|rounded|assuming|after|making"
    r"|giving|considering|given|with|but|while|whereas|just|exactly|and (?:that|this|it|we|not)|we|the|this|it)\b"
    r"|(?<=[0-9}%$])\s+of (?:a|an|the|all)\b)|因为|因此|所以|其中|也就是|故|即"
    r"|[,;](?=[\u4e00-\u9fff]{4})(?![零〇一二两三四五六七八九十百千万亿或和与])"
)
_THAT_IS = pattern(r"[\s,;(]i\.e\.,?\s+\$?([0-9][0-9.,/]*[0-9]|[0-9])[.)$]*\Z")
_NUMBER = pattern(r"[0-9][0-9.,/]*[0-9]|[0-9]")
_COPULA = pattern(r"(?:でした|です|である|だ|になります|となります|になる|となる|입니다|이다|이에요|예요|이며|이야)\Z")
_TAKEN_BACK = pattern(r",\s*not[\s*_]*\Z", re.IGNORECASE)
_CHINESE_CHOICE = pattern(r"[(\[]?([A-H](?:[、,\s]*[A-H])*)[)\]]?(?:\s*(?:选项|项|答案))?\Z")
_DIGIT = pattern(r"[0-9]")
_PROSE_START = pattern(r"[^\W\d_]{2,}(?=[\s,0-9$])|[\u3040-\u9fff]{2,}(?=[0-9$])")
_REVERSED = pattern(
    r"(?P<answer>[^.!?。\n][^!?。\n]{0,160}?)\s+(?:is|are|must be|would be)\s+(?:indeed\s+|therefore\s+|thus\s+)?"
    r"(?:(?:the|our|my)\s+(?:(?:final|correct|right)\s+)?(?:answers?|option|choice)|correct|the correct one)"
    r"[.!\s*_]*\Z",
    re.IGNORECASE,
)
_OPENING = pattern(r"(?:(?:so|thus|hence|therefore|then|option|choice|the option)[,\s]+)+", re.IGNORECASE)
_NEXT_SENTENCE = pattern(r"[.!?]\s+(?=[A-Z(\\$0-9])")


def phrase_answer(text: str) -> tuple[Found, int] | None:
    """What follows the last phrase that announces an answer, and where its sentence ends.

    Args:
        text: A response after its thinking, in plain characters.

    Returns:
        ``None`` where no such phrase occurs.

    Example:
        >>> phrase_answer("So the final answer is **42 apples**, since 40 + 2 = 42.")[0].text
        '42 apples'
        >>> phrase_answer("The answer is not 42.")[0].reason
        'negated'
    """
    begin, reason = _last_phrase(text)
    if reason:
        return Found(None, reason), begin
    return _announced(text, begin) if begin >= 0 else _reversed_phrase(text)


def _last_phrase(text: str) -> tuple[int, str]:
    """Where what the last phrase announces begins (-1: there is none), or why it announces nothing."""
    lower = text.lower()
    if len(lower) != len(text):  # a few capitals become two characters
        lower = text
    best, reason = -1, ""
    if not _ANY_ANCHOR.search(lower):
        return best, reason
    supposed = False
    for anchor, announcing in (_LATIN if text.isascii() else _ALL).items():
        if anchor not in lower:
            continue
        at = lower.rfind(anchor)
        for _ in range(_MOST_TRIED):
            if at < best or at < 0:  # what another word announces comes later
                break
            if anchor == "答案" and (denied := _CHINESE_NOT.match(lower, at)):
                best, reason = denied.end(), "negated"
                break
            end = _phrase_end(lower, at, announcing)
            before = lower[max(0, at - 60) : at]
            if end >= 0 and _SUPPOSED.search(before):
                supposed = True
            elif end > best:
                best, reason = end, "negated" if _DENIED.search(before) or _NOT.match(lower, end) else ""
                break
            at = lower.rfind(anchor, 0, at)
    return (best, "hedged") if best < 0 and supposed else (best, reason)


def _phrase_end(lower: str, at: int, announcing: re.Pattern[str]) -> int:
    match = announcing.match(lower, at)
    if match is None and announcing is _ENGLISH and _BEFORE_HEADING.search(lower, max(0, at - 40), at):
        match = _HEADING.match(lower, at)
    return match.end() if match else -1


def _announced(text: str, begin: int) -> tuple[Found, int]:
    filler = _FILLER.match(text, begin)
    start = filler.end() if filler else begin
    if text.startswith("**", start - 2) and (closing := text.find("**", start, start + 200)) > 0:
        text = text[:closing] + text[closing + 2 :]  # the answer begins in bold: only the marks go
    end, is_question = _sentence_end(text, start)
    if is_question:
        return Found(None, "question"), end
    said = text[start:end]
    if text[begin:start].strip(" *_:").lower().startswith("also") or _TAKEN_BACK.search(said):
        return Found(None, "hedged"), end  # "41. The answer is also 42", "42, not"
    if explanation := _EXPLANATION.search(said):
        if explanation.group().endswith("but") and _DIGIT.search(said, explanation.end()):
            return Found(None, "contradicted"), end  # "42, but it is 43"
        said = said[: explanation.start()].rstrip(" \t\n,;([")
    elif (same := _THAT_IS.search(said)) and same[1] in _NUMBER.findall(said, 0, same.start()):
        said = said[: same.start()].rstrip(" \t\n,;(")  # "68 apples, i.e. 68"
    said = trimmed(said)
    if not said.isascii() or not text.isascii():
        if _NOT_AT_END.search(said):
            return Found(None, "negated"), end
        choice = _CHINESE_CHOICE.match(said)
        said = choice[1] if choice else trimmed(_COPULA.sub("", said))
    word = _PROSE_START.match(said)
    if (
        word
        and word.group().lower() not in FUNCTIONS
        and (value := sentence_value(said.split("; ")[0], must_state=True))
    ):
        return value, end  # "that John has 42 apples"
    return Found(stated(said) or None, "empty_answer"), end


def _sentence_end(text: str, start: int) -> tuple[int, bool]:
    """Where the sentence that begins at ``start`` ends, formulas passed over; whether it is a question."""
    limit = min(len(text), start + _LONGEST)
    at = start
    while match := _BREAK.search(text, at, limit):
        token = match.group()
        at = match.end()
        if token == "$":
            closing = text.find("$", at, min(limit, at + 400))
            inner = text[at:closing]
            if closing > 0 and "\n\n" not in inner and ". " not in inner:
                at = closing + 1
        elif token in _CLOSING:
            closing = text.find(_CLOSING[token], at, limit)
            at = closing + 2 if closing > 0 else at
        elif token in ("?", "？"):
            return match.start(), True
        elif token != "." or not _ABBREVIATION.search(text, max(start, match.start() - 8), match.start()):
            return match.start(), False
    return limit, False


def _reversed_phrase(text: str) -> tuple[Found, int] | None:
    """What comes before the phrase, at the end of a text: "(C) is the correct answer."."""
    ending = text[-64:]
    if "answer" not in ending and "correct" not in ending and "option" not in ending and "choice" not in ending:
        return None  # the usual case
    match = _REVERSED.match(_NEXT_SENTENCE.split(text.rstrip().rsplit("\n", 1)[-1][-240:])[-1])
    if match is None:
        return None
    said = match["answer"]
    if opening := _OPENING.match(said):
        said = said[opening.end() :]
    said = trimmed(said)
    if any(map(str.isdigit, said)) and _PROSE_START.match(said):
        value = sentence_value(said)
        return (value, len(text)) if value else None
    return Found(said or None, "empty_answer"), len(text)
