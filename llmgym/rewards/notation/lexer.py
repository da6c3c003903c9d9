"""Cutting an answer into tokens: LaTeX and plain notation alike, in one pass from left to right.

The lexer decides all that can be decided without grammar: which commas only group digits, which letters are one word,
where brackets close (a bar or a French ``]`` may open), which dollar signs are money. It knows no context beyond the
open brackets and the last token, so its time is linear.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import NamedTuple

from llmgym.rewards.notation.dressing import plain_signs, without_math_dollars
from llmgym.rewards.notation.expressions import Based, Constant, Expression, Number
from llmgym.rewards.notation.literals import (
    ReadingError,
    decimal,
    read_based_literal,
    read_enclosed_based,
    read_literal,
)
from llmgym.rewards.notation.symbols import (
    BOLD,
    COMMANDS,
    CURRENCY_CODES,
    DRESS,
    FRACTIONS,
    GLUED,
    GREEK_LETTERS,
    JOINING_WORDS,
    MATRICES,
    PI,
    SIGNS,
    SKIPPED,
    SKIPPED_WITH_ARGUMENT,
    SUBSCRIPTS,
    SUPERSCRIPTS,
    TRANSPARENT_ENVIRONMENTS,
    UPRIGHT,
    UPRIGHT_SWITCHES,
    WORDS,
    Meaning,
)
from llmgym.rewards.notation.wording import is_product_of_letters

MAX_TOKENS = 1024
#: Open brackets, and factors and operands within one another: one level of brackets counts as two of these.
MAX_DEPTH = 64


class Token(NamedTuple):
    """One piece of notation.

    ``kind`` is what the grammar asks for: an operator is its own kind (``"+"``), others are ``number``, ``letter``,
    ``word``, ``open`` …; ``value`` says which one. ``spaced``: white space stands before it. ``upright``: it stood in
    ``\\text{}`` or the like, where letters are words and units.
    """

    kind: str
    value: Expression | str | None
    start: int
    end: int
    spaced: bool
    upright: bool


@dataclass(slots=True)
class Tokens:
    """A text in tokens, the last of kind ``"end"``.

    ``closing`` maps the index of an opening bracket to that of its closing one. ``divided`` holds the opening brackets
    with a separator or a "such that" directly inside. ``joints`` are the separators outside all brackets. ``vectors``
    are letters in bold and letters with an arrow, whose products are no products of numbers.
    """

    text: str
    is_latex: bool
    tokens: list[Token]
    closing: dict[int, int] = field(default_factory=dict)
    divided: set[int] = field(default_factory=set)
    joints: list[int] = field(default_factory=list)
    vectors: set[int] = field(default_factory=set)
    is_balanced: bool = True

    def source(self, start: int, end: int) -> str:
        """The text of some tokens, without what LaTeX needs to set it: ``cm^2`` for ``\\text{ cm}^{2}``."""
        pieces: list[str] = []
        for token in self.tokens[start:end]:
            if token.spaced:
                pieces.append(" ")
            if token.kind in ("open", "close") and token.value in ("{", "}"):
                continue
            if token.kind in ("symbol", "accent"):
                pieces.append(f"{token.value} ")
            elif token.kind == "unit":
                pieces.append(str(token.value))
            elif token.kind == "super":
                pieces.append(f"^{token.value}")
            elif token.kind == "*":
                pieces.append("·")
            else:
                pieces.append(self.text[token.start : token.end])
        return "".join(pieces).strip()

    def spelling(self, token: Token) -> str:
        """A token as it stands in the text, in its upper and lower case."""
        return self.text[token.start : token.end]


def tokenize(text: str) -> Tokens:
    r"""Cut an answer into tokens.

    Args:
        text: Any text; the caller bounds its length.

    Raises:
        ReadingError: If the text is over a bound.

    Example:
        >>> [token.kind for token in tokenize(r"\frac{1}{2} x").tokens]
        ['frac', 'open', 'number', 'close', 'open', 'number', 'close', 'letter', 'end']
    """
    return _Lexer(without_math_dollars(plain_signs(text))).run()


# --- The pieces -------------------------------------------------------------------------------------------------------

#: What counts as alphanumeric but is no part of a word.
_SPECIAL_LETTERS = "".join((*GREEK_LETTERS, *SUPERSCRIPTS, *SUBSCRIPTS, *FRACTIONS))
_PIECE = (
    r"(?P<space>[\s\u200b\ufeff`]+)"
    r"|(?P<number>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"|(?P<accented>[A-Za-z]*[À-ÖØ-öø-ɏ][A-Za-zÀ-ÖØ-öø-ɏ]*)"
    r"|(?P<letters>[A-Za-z]+(?:(?<=[A-Za-z]{2})['’](?:s|t|d|m|re|ll|ve)(?![A-Za-z]))?)"
    r"|(?P<command>\\(?:[A-Za-z]+|.)?)"
    r"|(?P<sign>\.\.\.|\*\*|\+/-|\+-|<=|>=|=<(?!=)|==|!=|<>|:=|[-+*/^_!|=<>()\[\]{},;:'’%$&.?~])"
    rf"|(?P<greek>[{''.join(GREEK_LETTERS)}])"
    rf"|(?P<super>[{''.join(SUPERSCRIPTS)}]+)"
    rf"|(?P<sub>[{''.join(SUBSCRIPTS)}]+)"
    rf"|(?P<vulgar>[{''.join(FRACTIONS)}])"
    rf"|(?P<foreign>[^\W\d_A-Za-z{_SPECIAL_LETTERS}]+)"
    r"|(?P<other>.)"
)


@cache
def _pieces() -> re.Pattern[str]:
    """The pattern of all pieces, compiled when the first text is read: importing this stays quick."""
    return re.compile(_PIECE, re.DOTALL)


_BLACKBOARD = re.compile(r"\s*\{?\s*([RZQNC])\s*\}?")
_ENVIRONMENT = re.compile(r"\s*\{([a-zA-Z]{1,16})\*?\}(?:\s*\{[clr| ]{0,64}\})?")
_GROUP_START = re.compile(r"\*?\s*\{")
_ARGUMENT = re.compile(r"\*?\s*(?:\{[^{}]{0,64}\}|\[[^\[\]]{0,64}\])?")
_HALF_DAY = re.compile(r"[ap]\.\s?m(?![a-z])\.?", re.IGNORECASE)
_CODE_GAP = re.compile(r"\s?\\?\$?\s?(?=[0-9])")
_AFTER_INTERVAL = re.compile(r"\s*(?:\Z|[,;)\]}$.∪∩∖]|\\cup|\\cap|\\setminus|\\right|\\text|and\b|or\b|U\b)")

#: Letters that stand for a product, at most; more are a word.
_MAX_LETTERS = 3
#: The argument of a command of bold type, where it is one letter.
_ONE_LETTER = re.compile(r"\s*(?:\{\s*[A-Za-z]\s*\}|[A-Za-z](?![A-Za-z])|\\[a-zA-Z]+\s*\}?)")

#: After one of these an operand is due, so a bar opens, and so does ``]``.
_BEFORE_OPERAND = frozenset(
    ["+", "-", "*", "/", "^", "_", "±", "∓", ":", "&", "relation", "joint", "open", "function", "set", "mod", "frac"]
    + ["root", "over", "begin", "binomial", "mid", "accent", "currency"]
)
#: Closing bracket: what it may close. Half-open intervals mix them.
_OPENED_BY = {
    ")": ("(", "[", "]"),
    "]": ("[", "(", "]"),
    "[": ("]", "(", "["),
    "set": ("set", "{"),
    "}": ("{", "set"),
    ">": ("<",),
}
#: Open brackets whose members a comma divides, so that it cannot group digits.
_WITH_MEMBERS = frozenset({"(", "[", "]", "<", "set"})
#: After one of these a plain brace holds an argument; elsewhere, where there is no LaTeX, it is a set's.
_BEFORE_GROUP = frozenset({"^", "_", "root", "function", "frac", "binomial", "over", "accent"})


class _Lexer:
    """One text on its way into tokens."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.is_latex = "\\" in text
        self.tokens: list[Token] = []
        self.result = Tokens(text, self.is_latex, self.tokens)
        #: Open brackets: kind (``"dress"`` for those without a token), index of the token, and what was upright before.
        self.open: list[tuple[str, int, bool]] = []
        self.upright = False
        self.spaced = False
        #: Whether lines are aligned at signs ``&``, which outside of matrices then say nothing.
        self.is_aligned = False
        #: ``"open"`` after ``\left``, ``"close"`` after ``\right``: they say what the next bracket is.
        self.side = ""
        self.position = 0

    def run(self) -> Tokens:
        text, length = self.text, len(self.text)
        match_piece = _pieces().match
        while self.position < length:
            start = self.position
            match = match_piece(text, start)
            assert match is not None  # the last alternative takes any character
            self.position = match.end()
            group = match.lastgroup
            if group == "space":
                self.space(match.group(), start)
            elif group == "number":
                self.number(start)
            elif group == "sign":
                self.sign(match.group(), start)
            elif group == "letters":
                self.letters(match.group(), start)
            elif group == "command":
                self.command(match.group()[1:], start)
            else:
                self.beyond_ascii(group, match.group(), start)
            if len(self.tokens) > MAX_TOKENS:
                raise ReadingError("too_large")
        if self.open:
            self.result.is_balanced = False
        self.add("end", None, length)
        return self.result

    def add(self, kind: str, value: Expression | str | None, start: int) -> None:
        self.tokens.append(Token(kind, value, start, self.position, self.spaced, self.upright))
        self.spaced = False

    def before_operand(self) -> bool:
        return not self.tokens or self.tokens[-1].kind in _BEFORE_OPERAND

    def innermost(self) -> tuple[str, int]:
        """Kind and index of the innermost open bracket that is a token."""
        for kind, index, _ in reversed(self.open):
            if index >= 0:
                return kind, index
        return "", -1

    def space(self, blank: str, start: int) -> None:
        if "\n" in blank and not self.is_latex and not self.open and not self.before_operand():
            self.joint(",", start)  # a line each; in LaTeX a line break is a space
        self.spaced = True

    # --- Numbers ------------------------------------------------------------------------------------------------------

    def number(self, start: int) -> None:
        if self.text.startswith("_", self.position) and [token.kind for token in self.tokens[-2:]] == ["letter", "^"]:
            # C^5_{12}: the letter's index, and no base
            self.add("number", Number(decimal(self.text[start : self.position]), "integer"), start)
            return
        value, self.position = read_literal(self.text, start, self.position, self.may_group)
        kind = "number" if isinstance(value, Number) else "based" if isinstance(value, Based) else "constant"
        self.add(kind, value, start)

    def may_group(self, mark: str) -> bool:
        """Whether a mark between digits groups them here, and does not divide two numbers."""
        return not self.is_pair() if mark == "," else mark != " " or not self.after("number", "^", "_")

    def is_pair(self) -> bool:
        """Whether a comma divides members, as in ``(1,234)``: directly in brackets that have no ", " in them."""
        kind, index, _ = self.open[-1] if self.open else ("", -1, False)
        if kind not in _WITH_MEMBERS or (index > 0 and self.tokens[index - 1].kind == "root"):
            return False
        ends = [end for sign in ")]}" if (end := self.text.find(sign, self.position)) >= 0]
        return ", " not in self.text[self.tokens[index].end : min(ends, default=len(self.text))]

    def after(self, *kinds: str) -> bool:
        return bool(self.tokens) and self.tokens[-1].kind in kinds

    # --- Letters ------------------------------------------------------------------------------------------------------

    def letters(self, run: str, start: int) -> None:
        if len(run) == 1:
            half_day = _HALF_DAY.match(self.text, start) if run in "aApP" else None
            following = self.text[self.position : self.position + 1]
            if following.isdigit() and self.based_digits(run, start):  # A3_{16}
                return
            if half_day is None:
                self.add("letter", run, start)
            else:
                self.position = half_day.end()
                self.add("word", half_day.group(), start)
            return
        if self.after("^", "_", "-") and self.is_one_letter(run):
            self.position = start + 1  # e^xy is e^x y, as TeX sets it
            self.add("letter", run[0], start)
            return
        lower = run.casefold().replace("’", "'")
        if run[1:].islower() or run in ("OR", "AND"):
            if lower in GLUED:
                function, letter = GLUED[lower]
                self.add("function", function, start)
                self.add("letter", letter, start)
                return
            known = WORDS.get(lower)
            if known is not None:
                self.known(known, start)
                return
        if run in CURRENCY_CODES and (gap := _CODE_GAP.match(self.text, self.position)) is not None:
            self.position = gap.end()
            self.add("currency", CURRENCY_CODES[run], start)
        elif not self.based_digits(run, start):  # FF_{16}
            self.add("word", lower, start)

    def is_one_letter(self, run: str) -> bool:
        """Whether only the first letter of a run is the exponent or the index that the sign before it asks for.

        In plain text an index may be a word (``v_max``); in TeX it is one letter, and a word is what nobody means.
        """
        sign = self.tokens[-1].kind
        if self.upright or (sign == "-" and (len(self.tokens) < 2 or self.tokens[-2].kind != "^")):
            return False
        if sign == "_" and self.is_latex:
            return len(run) <= _MAX_LETTERS
        lower = run.casefold()
        if lower in WORDS or lower in GLUED:
            return False
        return sign != "_" or is_product_of_letters(run, alone=False)

    def based_digits(self, run: str, start: int) -> bool:
        """Read digits with their base, the first of them letters, if that is what comes."""
        based = read_based_literal(self.text, start) if run.isupper() or run[0] in "abcdef" else None
        if based is not None:
            value, self.position = based
            self.add("based", value, start)
        return based is not None

    def joint(self, value: Expression | str | None, start: int) -> None:
        _, index = self.innermost()
        if index < 0:
            self.result.joints.append(len(self.tokens))
        else:
            self.result.divided.add(index)
        self.add("joint", value, start)

    # --- Commands -----------------------------------------------------------------------------------------------------

    def command(self, name: str, start: int) -> None:
        known = COMMANDS.get(name)
        if known is not None:
            self.known(known, start)
        elif name in SKIPPED:
            if name in ("left", "right"):
                self.side = "open" if name == "left" else "close"
                if self.text.startswith(".", self.position):
                    self.position, self.side = self.position + 1, ""  # the delimiter that is not there
            else:
                self.spaced = self.spaced or name != "!"
        elif name in UPRIGHT or name in DRESS:
            if name in BOLD and _ONE_LETTER.match(self.text, self.position) is not None:
                self.result.vectors.add(len(self.tokens))
            group = _GROUP_START.match(self.text, self.position)
            if group is not None and (based := read_enclosed_based(self.text, group.end())) is not None:
                value, self.position = based
                self.add("based", value, start)
            elif group is not None:
                self.position = group.end()
                self.push("dress", -1)
                self.upright = self.upright or name in UPRIGHT
        elif name in UPRIGHT_SWITCHES:
            self.upright = True
        elif name == "mathbb" and (letter := _BLACKBOARD.match(self.text, self.position)) is not None:
            self.position = letter.end()
            self.add("constant", Constant(letter[1]), start)
        elif name in ("begin", "end") and (environment := _ENVIRONMENT.match(self.text, self.position)) is not None:
            self.position = environment.end()
            self.environment(name, environment[1], start)
        elif name in SKIPPED_WITH_ARGUMENT and (argument := _ARGUMENT.match(self.text, self.position)) is not None:
            self.position = argument.end()
        else:
            self.add("unknown", None, start)

    def environment(self, name: str, environment: str, start: int) -> None:
        if environment in TRANSPARENT_ENVIRONMENTS:
            self.spaced = True
            self.is_aligned = True
        elif environment not in MATRICES:
            self.add("unknown", None, start)
        elif name == "begin":
            self.push("begin", len(self.tokens))
            self.add("begin", environment, start)
        else:
            self.close_bracket("begin", start)

    def known(self, meaning: Meaning, start: int) -> None:
        kind, value = meaning
        if kind == "open":
            self.open_bracket(str(value), start)
        elif kind == "close":
            self.close_bracket(str(value), start)
        elif kind == "joint":
            in_matrix = self.text.startswith("\\\\", start) and self.innermost()[0] == "begin"
            if in_matrix:
                self.add("row", None, start)
            else:
                self.joint(value, start)
        elif kind == "|":
            self.bar(value == "mid", start)
        elif kind == ":" and self.innermost()[0] in ("set", "{"):
            self.such_that(start)
        elif kind == "&" and self.is_aligned and self.innermost()[0] != "begin":
            self.spaced = True
        elif kind == "circle":
            kinds = [token.kind for token in self.tokens[-2:]]
            is_degree = kinds[-1:] == ["^"] or kinds == ["^", "open"]
            self.add("unit" if is_degree else "unknown", "°", start)
        else:
            if kind == "accent" and value == "vec":
                self.result.vectors.add(len(self.tokens))
            self.add(kind, value, start)

    # --- Signs --------------------------------------------------------------------------------------------------------

    def sign(self, sign: str, start: int) -> None:
        side, self.side = self.side, ""
        if sign == "~":
            if not self.tokens or self.tokens[-1].kind == "relation":
                self.add("relation", "~", start)
            else:
                self.spaced = True  # a space in TeX
        elif sign == "+-" and not self.before_operand():
            self.position = start + 1  # x +-3 is a sum, +-3 alone is two numbers
            self.add("+", None, start)
        elif sign == "!=" and self.after("number") and not self.text[start - 1].isspace():
            self.position = start + 1  # 5!=120
            self.add("!", None, start)
        elif sign == "|" and side:
            if side == "open":
                self.open_bracket("|", start)
            else:
                self.close_bracket("|", start)
        elif sign == "<" and side == "open":
            self.open_bracket("<", start)
        elif sign == ">" and side == "close":
            self.close_bracket(">", start)
        elif sign == "(" and not self.after("letter") and (based := read_enclosed_based(self.text, start)) is not None:
            value, self.position = based
            self.add("based", value, start)
        elif sign == "]" and (side == "open" or (not side and self.begins_interval())):
            self.open_bracket("]", start)
        elif sign == "[" and (side == "close" or (not side and self.ends_interval())):
            self.close_bracket("[", start)
        else:
            self.known(SIGNS[sign], start)

    def begins_interval(self) -> bool:
        """Whether ``]`` is the French open end on the left: ``]1, 2[``."""
        return not self.tokens or (
            self.before_operand() and (not self.open or self.tokens[-1].kind in ("set", "relation"))
        )

    def ends_interval(self) -> bool:
        """Whether ``[`` is the one on the right, and not a bracket after a factor."""
        if self.before_operand() or self.innermost()[0] not in ("]", "[", "("):
            return False
        return _AFTER_INTERVAL.match(self.text, self.position) is not None

    def bar(self, is_mid: bool, start: int) -> None:
        innermost = self.innermost()[0]
        if innermost == "|" and not self.before_operand():
            self.close_bracket("|", start)
        elif is_mid or (innermost == "set" and not self.before_operand()):
            self.such_that(start)
        else:
            self.open_bracket("|", start)

    def such_that(self, start: int) -> None:
        self.result.divided.add(self.innermost()[1])
        self.add("mid", None, start)

    def open_bracket(self, bracket: str, start: int) -> None:
        self.side = ""
        if bracket == "{" and not self.is_latex and not self.after(*_BEFORE_GROUP):
            bracket = "set"
        self.push(bracket, len(self.tokens))
        self.add("open", bracket, start)

    def push(self, bracket: str, index: int) -> None:
        if len(self.open) >= MAX_DEPTH:
            raise ReadingError("too_deep")
        self.open.append((bracket, index, self.upright))

    def close_bracket(self, bracket: str, start: int) -> None:
        self.side = ""
        innermost = self.open[-1][0] if self.open else ""
        if bracket == "}" and innermost == "dress":
            self.upright = self.open.pop()[2]
            return
        if innermost in _OPENED_BY.get(bracket, (bracket,)):
            _, index, self.upright = self.open.pop()
            self.result.closing[index] = len(self.tokens)
        else:
            self.result.is_balanced = False
        self.add("close", bracket, start)

    # --- Beyond ASCII -------------------------------------------------------------------------------------------------

    def beyond_ascii(self, group: str | None, piece: str, start: int) -> None:
        if piece in SIGNS:
            self.known(SIGNS[piece], start)
        elif group == "greek":
            if (
                piece in "µμ"
                and self.after("number")
                and self.text[self.position : self.position + 1] in tuple("mgsLA")
            ):
                self.position += 1
                self.add("word", "µ" + self.text[self.position - 1], start)  # a prefix of units
            elif GREEK_LETTERS[piece] == "pi":
                self.add("constant", PI, start)
            else:
                self.add("letter", GREEK_LETTERS[piece], start)
        elif piece in JOINING_WORDS:
            self.joint(JOINING_WORDS[piece], start)
        elif group in ("foreign", "accented"):
            self.add("word", piece.casefold(), start)
        elif group == "super":
            self.add("super", "".join(SUPERSCRIPTS[character] for character in piece), start)
        elif group == "sub":
            self.add("sub", "".join(SUBSCRIPTS[character] for character in piece), start)
        elif group == "vulgar":
            self.add("number", Number(Fraction(*FRACTIONS[piece]), "fraction"), start)
        else:
            self.add("unknown", None, start)
