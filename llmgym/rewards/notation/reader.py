r"""Reading an answer: from text to the tree of :mod:`~llmgym.rewards.notation.expressions`.

:func:`parse` is all that others need. It reads LaTeX and plain notation, units, number words and lists of answers, with
bounds on the length, the number of tokens, the depth and the digits, so that any text is read in little time. What is
no notation is :class:`~llmgym.rewards.notation.expressions.Words` when it has words in it, and Unreadable otherwise.
"""

from __future__ import annotations

import re
from fractions import Fraction

from llmgym.rewards.notation import units
from llmgym.rewards.notation.dressing import undressed
from llmgym.rewards.notation.expressions import (
    Constant,
    Expression,
    Listing,
    Name,
    Number,
    Operation,
    Quantity,
    Relation,
    Unreadable,
    Words,
)
from llmgym.rewards.notation.formulas import read_formula
from llmgym.rewards.notation.lexer import Tokens, tokenize
from llmgym.rewards.notation.literals import ReadingError, read_based
from llmgym.rewards.notation.numerals import BASES, FIRST_WORDS, HAN_FIRST, read_chinese, read_number_words
from llmgym.rewards.notation.suffixes import counts_things, is_single
from llmgym.rewards.notation.symbols import EMPTY, INFINITY, LOGIC
from llmgym.rewards.notation.trees import all_hold, is_comparison, negate
from llmgym.rewards.notation.wording import level, word_set

MAX_CHARACTERS = 4096

#: The commonest answers: a whole number, a decimal, a fraction. Short, so that no bound needs asking.
_LITERAL = re.compile(r"([-+]?)([0-9]{1,64})(?:\.([0-9]{1,64})|/([0-9]{1,64}))?")
_TEX_FRACTION = re.compile(r"([-+]?)\\[dtc]?frac\{([0-9]{1,64})\}\{([0-9]{1,64})\}")


def parse(text: str) -> Expression:
    r"""What an answer says.

    Args:
        text: An answer by itself, as a response or a reference gives it: LaTeX, plain notation or words.

    Returns:
        The tree. Where the text leaves a choice:

        - Numbers next to a unit or a noun are :class:`Quantity`, multiplied out where the word is a scale (``5
          million``). A word that is not known to count things (``about 42``, ``42 lakh``) makes all of it Words.
        - A letter is a :class:`Name` (``i`` and ``e`` are constants); in brackets or upright (``(C)``, ``\text{C}``) it
          is ``Words("c")``, a choice. A choice with its text (``C. 42``, ``(C) 42``) is ``Words("c) 42")``.
        - Two or three letters in a run are multiplied where they look like algebra (``xy``, ``2ab``), else they are
          words.
        - An exponent or an index without braces is one letter, as in TeX (``e^xy`` is ``e^x y``; in plain text an index
          may be a word), or all of a number; ``x^12`` in a text with TeX commands, which TeX sets as ``x^1 2``, is
          unreadable.
        - Formulas that cannot be read are unreadable, not Words: so are products of vectors, operations on propositions
          and values of ``\Gamma`` and the like.
        - ``\{x \mid x > 3\}`` is its condition; with a domain other than the reals, that condition intersected with it.
        - Relations joined by "or", a comma or a semicolon are a :class:`Listing`; inequalities joined by "and", or by a
          comma where one says ``!=``, are an ``intersection``. ``x = 2, 3`` is ``x = 2, x = 3``.
        - ``> 42`` is a relation whose left side is ``Words("")``; ``= 42`` is 42; ``≈ 42`` is an operation
          ``approximately``.
        - ``1,234`` is a number, in brackets it is a pair; ``1, 234`` and ``12,34`` are listings.

        ``Unreadable`` where the reader gives up. It never raises.

    Example:
        >>> parse(r"\frac{14}{3}")
        Number(value=Fraction(14, 3), form='fraction')
        >>> parse(r"12 \text{ km}")
        Quantity(value=Number(value=Fraction(12, 1), form='integer'), unit='km')
        >>> parse("about 42")
        Words(text='about 42')
    """
    literal = _literal(text)
    if literal is not None:
        return literal
    if len(text) > MAX_CHARACTERS:
        return Unreadable("too_long")
    try:
        return _Answer(tokenize(undressed(text))).read()
    except ReadingError as error:
        return Unreadable(error.reason)


def _literal(text: str) -> Number | None:
    match = _LITERAL.fullmatch(text)
    if match is not None:
        sign, whole, decimals, below = match.groups()
        if decimals is not None:
            value = Fraction(int(whole + decimals), 10 ** len(decimals))
            return Number(-value if sign == "-" else value, "decimal")
        if below is None:
            return Number(Fraction(int(sign + whole)), "integer")
    else:
        match = _TEX_FRACTION.fullmatch(text)
        if match is None:
            return None
        sign, whole, below = match.groups()
    above, below_value = int(sign + whole), int(below)
    if below_value == 0:
        return None
    value = Fraction(above, below_value)
    return Number(value, "fraction") if value.denominator != 1 else None


# --- The whole answer -------------------------------------------------------------------------------------------------

_REALS = "all real numbers|all reals|all real values|real numbers|any real number|every real number|set of real numbers"
_REALS += "|set of all real numbers|全体实数|所有实数|一切实数|任意实数|实数集|实数"
_PHRASES: dict[str, Expression] = dict.fromkeys(_REALS.split("|"), Constant("R"))
_PHRASES |= dict.fromkeys(("empty set", "null set", "空集", "无解", "无实数解", "无实数根", "无实根", "没有解"), EMPTY)
_PHRASES |= {
    f"{before}no {kind}{what}": EMPTY
    for before in ("", "there is ", "there are ")
    for kind in ("", "real ")
    for what in ("solution", "solutions")
}
_PHRASES |= dict.fromkeys(
    ("all integers", "set of integers", "set of all integers", "全体整数", "整数集"), Constant("Z")
)
_PHRASES |= dict.fromkeys(("dne", "limit does not exist", "doesn't exist"), Words("does not exist"))
_PHRASES |= dict.fromkeys(("positive infinity", "plus infinity", "无穷大", "正无穷", "正无穷大"), INFINITY)
_PHRASES |= dict.fromkeys(("negative infinity", "minus infinity", "负无穷", "负无穷大"), negate(INFINITY))

#: A part of a list that speaks about the others.
_HEDGES = word_set("""
    so more less fewer not maybe perhaps thereabouts similar above below about around approximately between either
    neither both otherwise else nothing none something probably possibly even over under from wait no
""")
_WORDED_BASE = re.compile(r"([0-9A-Za-z]+(?:\.[0-9A-Za-z]+)?)\s*\(?\s*(?:in\s+)?base[\s-]*([0-9]{1,2}|[a-z]+)\s*\)?")
#: Two thousand, three hundred: no list.
_SCALE_COMMA = re.compile(r"\b(thousand|million|billion),(?=\s)")
_FIRST_WORDS = FIRST_WORDS | {"a", "an"}
_CLOCK = re.compile(r"[0-9]{1,2}:0[0-9](?::[0-9]{2})?")
_CHOICES = frozenset("ABCDEFGHIJabcde")
#: Before one of these, brackets with a letter are part of a formula or of a list.
_AFTER_FACTORS = frozenset({"relation", "joint", "*", "/", "^", "+", "-", "set"})


class _Answer:
    """The tokens of an answer on their way into a tree."""

    def __init__(self, tokens: Tokens) -> None:
        self.source = tokens
        self.tokens = tokens.tokens

    def read(self) -> Expression:
        start, end = 0, len(self.tokens) - 1
        while end > 0 and self.tokens[end - 1].kind in ("dot", "joint", ":"):
            end -= 1
        del self.tokens[end:-1]  # a full stop, a comma too many
        while start < end and self.tokens[start].kind in ("joint", ":"):
            start += 1
        if start == end:
            raise ReadingError
        choice = self.choice(start, end)
        if choice is not None:
            return choice
        if not self.source.is_balanced:
            return self.words(start, end)
        joints = [joint for joint in self.source.joints if start < joint < end]
        if not joints:
            return self.item(start, end)
        whole = self.number_words(start, end)  # one hundred and five
        return whole if whole is not None else self.listing(start, end, joints)

    # --- Lists --------------------------------------------------------------------------------------------------------

    def listing(self, start: int, end: int, joints: list[int]) -> Expression:
        items: list[Expression] = []
        kinds: set[str] = set()
        position = start
        for joint in [*joints, end]:
            if joint > position:  # else two joints in a row: "2, and 3"
                if self.tokens[position].kind == "dots" and joint == position + 1:
                    items.append(Words("..."))
                else:
                    items.append(self.item(position, joint))
            if joint < end:
                kinds.add(str(self.tokens[joint].value))
            position = joint + 1
        if len(items) == 1:
            return items[0]
        if any(isinstance(item, Words) and self.is_hedge(item) for item in items):
            return self.words(start, end)
        if any(map(counts_things, items)) and not all(isinstance(item, Quantity) for item in items):
            return self.words(start, end)  # 3, 4 apples: a word may speak about all of it
        is_logic = any(self.source.spelling(self.tokens[joint]) in LOGIC for joint in joints)
        if is_logic and not all(isinstance(item, Relation) for item in items):
            raise ReadingError  # an operation on propositions
        if all(is_comparison(item) for item in items):
            says_unequal = any("!=" in item.signs for item in items if isinstance(item, Relation))
            if "or" not in kinds and ("," not in kinds or says_unequal):
                return all_hold(items)
        if "or" in kinds and _gives_several_names(items):
            return Operation("union", tuple(items))  # x = 1 or y = 2: no point
        return Listing(tuple(_each_of_name(items)))

    def is_hedge(self, item: Words) -> bool:
        words = item.text.split()
        return not _HEDGES.isdisjoint(words) or any(character.isdigit() for character in item.text)

    # --- One item -----------------------------------------------------------------------------------------------------

    def item(self, start: int, end: int) -> Expression:
        first = self.tokens[start]
        if end == start + 1 and first.kind == "letter" and first.upright and first.value not in ("i", "e"):
            return Words(level(str(first.value)))
        if end == start + 3 and self.is_choice_in_brackets(start):
            return Words(str(self.tokens[start + 1].value).casefold())
        if end == start + 3 and _CLOCK.fullmatch(self.source.source(start, end)):
            return Words(self.source.source(start, end))
        if first.kind in ("word", "letter"):
            named = self.number_words(start, end) if first.kind == "word" or end > start + 1 else None
            if named is None and first.kind == "word":
                named = _PHRASES.get(level(self.source.source(start, end)))
            if named is not None:
                return named
        try:
            if first.value in ("minus", "negative"):
                return self.negative(start, end)
            return read_formula(self.source, start, end)
        except ReadingError as error:
            if error.reason != "not_understood":
                raise
        return self.worded_number(start, end) or self.words(start, end)

    def negative(self, start: int, end: int) -> Expression:
        """``minus 42``."""
        value = read_formula(self.source, start + 1, end)
        if not isinstance(value, Number | Quantity):
            raise ReadingError
        return negate(value)

    def is_choice_in_brackets(self, start: int) -> bool:
        opening, letter, closing = self.tokens[start : start + 3]
        if opening.value != "(" or closing.value != ")" or letter.kind != "letter":
            return False
        return len(str(letter.value)) == 1 and (str(letter.value).isupper() or letter.value in _CHOICES)

    def choice(self, start: int, end: int) -> Words | None:
        """``C)``, and a choice with its text: ``(C) 42``, ``C. 42``, ``C: 12 km``."""
        letter, sign = self.tokens[start], self.tokens[start + 1]
        after = start + 2
        if end >= start + 3 and self.is_choice_in_brackets(start):
            letter, after = sign, start + 3
        elif letter.kind != "letter" or letter.value not in _CHOICES:
            return None
        elif sign.kind == "close" and sign.value == ")":
            if after == end:
                return Words(str(letter.value).casefold())
        elif sign.kind not in ("dot", ":"):
            return None
        following = self.tokens[after]
        if after >= end or not following.spaced or following.kind in _AFTER_FACTORS:
            return None
        return Words(f"{str(letter.value).casefold()}) {level(self.source.source(after, end))}")

    # --- Words --------------------------------------------------------------------------------------------------------

    def number_words(self, start: int, end: int) -> Expression | None:
        """``forty-two``, ``three quarters``, ``四十二``, with a unit or a noun after it."""
        first = self.tokens[start]
        text = self.source.source(start, end)
        if first.kind == "word" and str(first.value)[0] in HAN_FIRST:
            return _with_known_unit(text.replace(" ", ""))
        is_article = first.kind == "letter" and first.value in ("a", "A") and self.tokens[start + 1].kind == "word"
        if first.kind != "word" and not is_article:
            return None
        words = _SCALE_COMMA.sub(r"\1", text.casefold()).replace("-", " ").split()
        read = read_number_words(words) if words[0] in _FIRST_WORDS else None
        if read is None:
            return None
        value, taken = read
        rest = " ".join(words[taken:])
        number = Number(value, "words")
        if not rest:
            return number
        unit = units.canonical(rest, is_single=is_single(number))
        return None if unit is None else Quantity(number, unit)

    def worded_number(self, start: int, end: int) -> Expression | None:
        """What the grammar of formulas has no rule for: ``1010 base 2``, ``3分之1``."""
        text = self.source.source(start, end)
        if "分之" in text:
            return _with_known_unit(text.replace(" ", ""))
        based = _WORDED_BASE.fullmatch(text)
        if based is None:
            return None
        base = int(based[2]) if based[2].isdigit() else BASES.get(based[2], 0)
        return read_based(based[1], base)

    def words(self, start: int, end: int) -> Words:
        """The tokens as words, where there are any among them and nothing that only a formula can have."""
        tokens = self.tokens[start:end]
        if any(self.is_of_formula(position) for position in range(start, end)):
            raise ReadingError
        if not any(token.kind in _WORDY or (token.kind == "letter" and token.upright) for token in tokens):
            raise ReadingError
        text = level(self.source.source(start, end))
        if not text:
            raise ReadingError
        return Words(text)

    def is_of_formula(self, position: int) -> bool:
        """Whether a token has a meaning that is lost among words: commands, and what says where an exponent ends."""
        token = self.tokens[position]
        if token.kind == "^":
            following = self.tokens[position + 1 : position + 3]
            return all(after.kind != "unit" for after in following[: 1 + (following[0].kind == "open")])
        if token.kind == "_":
            return self.source.is_latex or self.tokens[position + 1].kind == "open"
        return token.kind in _OF_FORMULAS and self.source.text[token.start] == "\\"


#: Commands of these kinds, and those that are not known, are of formulas.
_OF_FORMULAS = word_set("unknown frac root over binomial begin function * / ± ∓ set mod |")
_WORDY = frozenset({"word", "symbol", "question"})


def _with_known_unit(text: str) -> Expression | None:
    """A Chinese numeral with a unit or a measure word after it; ``一定`` is no number."""
    read = read_chinese(text)
    if read is None:
        return None
    number, rest = Number(read[0], "words"), text[read[1] :]
    if not rest:
        return number
    unit = units.canonical(rest)
    return None if unit is None else Quantity(number, unit)


def _gives_several_names(items: list[Expression]) -> bool:
    """Whether equations give values to several letters; ``x_1`` and ``x_2`` are one letter."""
    given = {item.sides[0] for item in items if isinstance(item, Relation) and item.signs == ("=",)}
    return len({name.name.partition("_")[0] for name in given if isinstance(name, Name)}) > 1


def _each_of_name(items: list[Expression]) -> list[Expression]:
    """``x = 2, 3`` as ``x = 2, x = 3``."""
    first = items[0]
    if not (isinstance(first, Relation) and first.signs == ("=",) and isinstance(first.sides[0], Name)):
        return items
    if any(isinstance(item, Relation | Words) for item in items[1:]):
        return items
    return [first, *(Relation((first.sides[0], item), ("=",)) for item in items[1:])]
