"""Operands: letters, brackets and what is in them, sets, matrices, fractions, roots and functions.

One reader for each kind of token that an operand may begin with. It is given the parser, with that token just taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, cast

from llmgym.rewards.notation import trees
from llmgym.rewards.notation.expressions import (
    Bracketed,
    Constant,
    Expression,
    Listing,
    Matrix,
    Name,
    Number,
    Operation,
    Relation,
    Set,
    Words,
)
from llmgym.rewards.notation.lexer import Token
from llmgym.rewards.notation.literals import ReadingError
from llmgym.rewards.notation.suffixes import AFTER_VALUES
from llmgym.rewards.notation.symbols import EMPTY, GREEK_FUNCTIONS, GREEK_NAMES, LOGIC, SETTLED_FUNCTIONS, VARIADIC
from llmgym.rewards.notation.wording import is_product_of_letters, level

if TYPE_CHECKING:
    from llmgym.rewards.notation.formulas import FormulaParser

#: Letters that are functions when brackets touch them.
_FUNCTION_LETTERS = frozenset("fghFGHPE")
#: What square brackets are about: an expected value, a probability.
_OF_SQUARE_BRACKETS = frozenset("EP")
_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sec": "arcsec", "csc": "arccsc"}
_INVERSES |= {"sinh": "arcsinh", "cosh": "arccosh", "tanh": "arctanh"}
#: Letters that count choices and arrangements: ``C_5^2``, ``A_5^2``.
_COUNTS = frozenset("CAP")
_MAX_PERMUTED = 200
_MINUS_ONE = Number(Fraction(-1), "integer")

# --- Letters ----------------------------------------------------------------------------------------------------------


def _constant(parser: FormulaParser, token: Token) -> Expression:
    return cast(Expression, token.value)


def _letter(parser: FormulaParser, token: Token) -> Expression:
    """A variable with what is below it, or a function of one letter with its arguments."""
    name = str(token.value)
    if name in _COUNTS and parser.kind in ("_", "^") and (count := _count_after(parser, name)) is not None:
        return count
    if parser.kind == "_":
        parser.take()
        name = f"{name}_{_subscript(parser)}"
    elif parser.kind == "sub":
        name = f"{name}_{parser.take().value}"
    while parser.kind == "prime":
        parser.take()
        name += "'"
    if parser.kind == "open" and _is_call(parser, token):
        close = parser.source.closing[parser.position]
        parser.take()
        members = _members(parser, close)
        if name == "C" and len(members) == 2 and (count := _count(name, *members)) is not None:
            return count
        if token.value in SETTLED_FUNCTIONS:
            raise ReadingError
        if token.value in GREEK_NAMES:
            return _call(name, members)
        return Operation(f"call:{name}", tuple(members))
    return trees.letter(name)


def _call(name: str, members: list[Expression]) -> Operation:
    """A function whose values may be settled: of numbers it is one that nobody here works out (``\\phi(12)``)."""
    if not any(map(trees.has_name, members)):
        raise ReadingError
    return Operation(f"call:{name}", tuple(members))


def word_call(parser: FormulaParser, name: str) -> Operation:
    """``Var(X)``, with the brackets next."""
    close = parser.source.closing[parser.position]
    parser.take()
    return _call(name, _members(parser, close))


# --- Counts -----------------------------------------------------------------------------------------------------------


def _count(name: str, above: Expression, below: Expression) -> Expression | None:
    """``C(12, 5)`` as a binomial, ``A`` and ``P`` as the number of permutations; for whole numbers that can be it."""
    if not (trees.is_integer(above) and trees.is_integer(below) and 0 <= below.value <= above.value):
        return None
    if name == "C":
        return Operation("binomial", (above, below))
    if above.value > _MAX_PERMUTED:
        return None
    return Number(Fraction(math.perm(int(above.value), int(below.value))), "integer")


def _whole_at(parser: FormulaParser, position: int) -> tuple[Expression, int] | None:
    """The whole number below or above a letter, in braces or not, and the place behind it."""
    in_group = parser.tokens[position].value == "{"
    token = parser.tokens[position + in_group]
    end = position + in_group + 1
    if token.kind != "number" or (in_group and parser.source.closing.get(position) != end):
        return None
    return cast(Number, token.value), end + in_group


def _count_after(parser: FormulaParser, name: str) -> Expression | None:
    """``C_{12}^{5}`` and ``C^5_{12}``, where the letter is just behind."""
    first = _whole_at(parser, parser.position + 1)
    if first is None or {parser.kind, parser.tokens[first[1]].kind} != {"_", "^"}:
        return None
    second = _whole_at(parser, first[1] + 1)
    if second is None:
        return None
    above, below = (first[0], second[0]) if parser.kind == "_" else (second[0], first[0])
    count = _count(name, above, below)
    if count is not None:
        parser.position = second[1]
    return count


def _count_before(parser: FormulaParser, token: Token) -> Expression:
    """``_{12}C_5``, ``^{12}C_5``."""
    above = _whole_at(parser, parser.position)
    if above is None or parser.tokens[above[1]].value not in _COUNTS or parser.tokens[above[1] + 1].kind != "_":
        raise ReadingError
    below = _whole_at(parser, above[1] + 2)
    count = None if below is None else _count(str(parser.tokens[above[1]].value), above[0], below[0])
    if below is None or count is None:
        raise ReadingError
    parser.position = below[1]
    return count


def _is_call(parser: FormulaParser, token: Token) -> bool:
    """Whether brackets after a letter hold arguments: ``f(x)``, ``C(5, 2)``, ``u(t)``, ``E[X]``; not ``x(x + 1)``."""
    opening = parser.tokens[parser.position]
    if opening.spaced:
        return False
    if opening.value == "[":
        return token.value in _OF_SQUARE_BRACKETS
    if opening.value != "(":
        return False
    if token.value in _FUNCTION_LETTERS or token.value in GREEK_FUNCTIONS or parser.position in parser.source.divided:
        return True
    is_one = parser.source.closing[parser.position] == parser.position + 2
    return is_one and token.value not in ("e", "i") and parser.tokens[parser.position + 1].kind in ("letter", "number")


def _subscript(parser: FormulaParser) -> str:
    """What stands below a letter, as a piece of its name."""
    token = parser.tokens[parser.position]
    if token.kind == "open" and token.value == "{":
        close = parser.source.closing[parser.position]
        name = parser.source.source(parser.position + 1, close)
        parser.position = close + 1
    elif token.kind in ("number", "letter", "word", "constant", "function"):
        parser.one_digit(token)
        name = parser.source.spelling(parser.take())
    else:
        raise ReadingError
    return name.replace(" ", "").replace("\\", "")


def small_digits(token: Token) -> Expression:
    """What a run of superscripts or subscripts says: ``x⁻¹``, ``xⁿ``.

    Raises:
        ReadingError: If it is neither a whole number nor one letter.
    """
    text = str(token.value)
    if text.lstrip("+-").isdigit() and len(text.lstrip("+-")) >= len(text) - 1 and len(text) <= 64:
        return Number(Fraction(int(text)), "integer")
    if len(text) == 1 and text.isalpha():
        return trees.letter(text)
    raise ReadingError


# --- Brackets ---------------------------------------------------------------------------------------------------------


def _bracket(parser: FormulaParser, token: Token) -> Expression:
    index = parser.position - 1
    close = parser.source.closing[index]
    left, right = str(token.value), str(parser.tokens[close].value)
    if left in ("{", "set") and close == index + 1 and parser.tokens[close + 1].kind in ("_", "^"):
        parser.take()
        return parser.operand()  # {}_{12}C_5
    if left == "set" or (left == "{" and index in parser.source.divided):
        return _set(parser, close)
    if left == "{":
        return _group(parser, close)
    if left in ("|", "floor", "ceiling"):
        inner = parser.relation()
        parser.leave(close)
        bars = "determinant" if isinstance(inner, Matrix) else "abs"
        return Operation(bars if left == "|" else left, (inner,))
    if left == "[" and parser.tokens[index + 1].value == "[" and (rows := _rows_in_brackets(parser, close)) is not None:
        return rows
    items = _members(parser, close)
    if len(items) > 1:
        return Bracketed(left, right, tuple(items))
    if (left, right) not in (("(", ")"), ("[", "]")) or isinstance(items[0], Words):
        raise ReadingError
    return items[0]


def _members(parser: FormulaParser, close: int) -> list[Expression]:
    """What commas divide, up to a closing bracket."""
    items = [_member(parser)]
    while parser.kind == "joint":
        if parser.take().value != ",":
            raise ReadingError  # (1 or 2)
        items.append(_member(parser))
    parser.leave(close)
    return items


def _member(parser: FormulaParser) -> Expression:
    token = parser.tokens[parser.position]
    if token.kind == "dots":
        parser.take()
        return Words("...")
    if token.kind == "word" or (token.kind == "letter" and token.upright):
        end = parser.position
        while parser.tokens[end].kind in ("word", "letter"):
            end += 1
        text = parser.source.source(parser.position, end)
        if parser.tokens[end].kind in ("joint", "close") and not is_product_of_letters(text, alone=True):
            parser.position = end
            return Words(level(text))
    return parser.relation()


def _group(parser: FormulaParser, close: int) -> Expression:
    """What LaTeX's braces hold together; ``{a \\over b}`` and ``{n \\choose k}`` too."""
    value = parser.relation()
    if parser.kind == "over":
        name = str(parser.take().value)
        below = parser.relation()
        value = trees.quotient(value, below) if name == "divide" else Operation(name, (value, below))
    parser.leave(close)
    return value


def _rows_in_brackets(parser: FormulaParser, close: int) -> Matrix | None:
    """``[[1, 2], [3, 4]]``, where all that is in the outer brackets is inner ones."""
    closes: list[int] = []
    index = parser.position
    while index < close:
        if parser.tokens[index].value != "[" or parser.tokens[index].kind != "open":
            return None
        closes.append(parser.source.closing[index])
        index = closes[-1] + 1
        if index < close and parser.tokens[index].kind != "joint":
            return None
        index += 1
    rows: list[tuple[Expression, ...]] = []
    for inner_close in closes:
        parser.take()
        rows.append(tuple(_members(parser, inner_close)))
        if parser.position < close:
            parser.take()  # the comma
    parser.leave(close)
    return trees.matrix(rows)


def _set(parser: FormulaParser, close: int) -> Expression:
    """``{1, 2}``; and ``{x | condition}``, which is its condition."""
    if parser.position == close:
        parser.take()
        return EMPTY
    items = [_member(parser)]
    if parser.kind == "mid":
        return _such_that(parser, items[0], close)
    while parser.kind == "joint":
        if parser.source.spelling(parser.take()) in LOGIC:
            raise ReadingError
        items.append(_member(parser))
    parser.leave(close)
    return Set(tuple(items))


def _such_that(parser: FormulaParser, variable: Expression, close: int) -> Expression:
    parser.take()
    domain: Expression = Constant("R")
    if isinstance(variable, Relation) and variable.signs == ("in",):
        variable, domain = variable.sides
    if not isinstance(variable, Name):
        raise ReadingError  # {2k | k is whole}
    conditions = [parser.relation()]
    is_either = False
    while parser.kind == "joint":
        is_either = parser.take().value == "or" or is_either
        conditions.append(parser.relation())
    parser.leave(close)
    condition = Listing(tuple(conditions)) if is_either else trees.all_hold(conditions)
    return condition if domain == Constant("R") else Operation("intersection", (condition, domain))


def _matrix(parser: FormulaParser, token: Token) -> Expression:
    close = parser.source.closing[parser.position - 1]
    rows: list[tuple[Expression, ...]] = []
    while parser.position < close:
        cells = [parser.relation()]
        while parser.kind == "&":
            parser.take()
            cells.append(parser.relation())
        rows.append(tuple(cells))
        if parser.position < close and parser.take().kind != "row":
            raise ReadingError
    parser.leave(close)
    if token.value == "cases":
        if any(len(row) > 1 for row in rows):
            raise ReadingError  # a function defined piece by piece
        return trees.all_hold([row[0] for row in rows]) if rows else EMPTY
    matrix = trees.matrix(rows)
    return Operation("determinant", (matrix,)) if token.value == "vmatrix" else matrix


# --- Fractions and roots ----------------------------------------------------------------------------------------------


def _argument(parser: FormulaParser) -> Expression:
    """An argument of a LaTeX command: a group, one digit, or one other thing (``\\frac12``, ``\\frac\\pi4``)."""
    token = parser.tokens[parser.position]
    digits = parser.source.spelling(token)
    if token.kind != "number" or len(digits) == 1:
        return parser.operand()
    if not digits.isdigit():
        raise ReadingError
    rest = Number(Fraction(int(digits[1:])), "integer")
    parser.tokens[parser.position] = token._replace(value=rest, start=token.start + 1)
    return Number(Fraction(int(digits[0])), "integer")


def _fraction(parser: FormulaParser, token: Token) -> Expression:
    above = _argument(parser)
    return trees.quotient(above, _argument(parser))


def _binomial(parser: FormulaParser, token: Token) -> Expression:
    above = _argument(parser)
    return Operation("binomial", (above, _argument(parser)))


def _root(parser: FormulaParser, token: Token) -> Expression:
    """A root of the operand after it: ``\\sqrt[3]{5}``, ``√2``, ``sqrt(2)``; ``\\sqrt12`` is the root of twelve."""
    degree: Expression = Number(Fraction(int(str(token.value))), "integer")
    opening = parser.tokens[parser.position]
    if opening.kind == "open" and opening.value == "[" and parser.source.is_latex:
        close = parser.source.closing[parser.position]
        parser.take()
        degree = parser.relation()
        parser.leave(close)
    return Operation("root", (parser.operand(), degree))


def _accent(parser: FormulaParser, token: Token) -> Expression:
    """A letter with a mark on it is another name; several letters are a figure, and no formula."""
    if parser.kind == "open":
        close = parser.source.closing[parser.position]
        parser.take()
        letter = parser.take()
        parser.leave(close)
    else:
        letter = parser.take()
    if letter.kind != "letter":
        raise ReadingError
    return Name(f"{token.value} {letter.value}")


# --- Functions --------------------------------------------------------------------------------------------------------


def _function(parser: FormulaParser, token: Token) -> Expression:
    """``\\sin^2 3x``, ``\\log_2(x)``, ``\\sin^{-1} x``, ``gcd(4, 6)``."""
    name = str(token.value)
    base: Expression | None = None
    power: Expression | None = None
    while parser.kind in ("_", "^", "super"):
        mark = parser.take()
        if mark.kind == "_" and base is None and name == "log":
            base = _base_of_logarithm(parser)
        elif mark.kind == "_" or power is not None:
            raise ReadingError
        elif mark.kind == "super":
            power = small_digits(mark)
        else:
            power = parser.signed(parser.operand)
    value = _applied(parser, name, base)
    if power is None:
        return value
    if power == _MINUS_ONE and isinstance(value, Operation) and name in _INVERSES:
        return Operation(_INVERSES[name], value.operands)
    return Operation("power", (value, power))


def _base_of_logarithm(parser: FormulaParser) -> Expression:
    token = parser.tokens[parser.position]
    if token.kind == "number" and parser.tokens[parser.position + 1].kind in AFTER_VALUES:
        return _argument(parser)  # \log_28: nothing follows that 28 could be the base for
    return parser.operand()


def _applied(parser: FormulaParser, name: str, base: Expression | None) -> Expression:
    is_bracketed = parser.kind == "open"
    if is_bracketed and name in VARIADIC:
        close = parser.source.closing[parser.position]
        parser.take()
        return Operation(name, tuple(_members(parser, close)))
    argument = parser.operand() if is_bracketed else parser.signed(lambda: _bare_argument(parser))
    if isinstance(argument, Bracketed) and name == "log" and base is None and len(argument.items) == 2:
        argument, base = argument.items
    if isinstance(argument, Bracketed | Set):
        raise ReadingError
    if name in ("ln", "lg"):
        base = Constant("e") if name == "ln" else trees.TEN
        name = "log"
    return Operation(name, (argument,) if base is None else (argument, base))


def _bare_argument(parser: FormulaParser) -> Expression:
    """What a function without brackets is of: the product that follows, up to a sign or another function."""
    factors = [parser.factor()]
    while True:
        token = parser.tokens[parser.position]
        is_literal = all(isinstance(factor, Number | Constant) for factor in factors)
        if token.kind == "/" and is_literal and parser.tokens[parser.position + 1].kind == "number":
            parser.take()
            factors = [trees.quotient(trees.joined("multiply", factors), parser.factor())]  # sin 2π/3
            continue
        is_factor = token.kind in ("letter", "constant", "word") or (token.value == "(" and is_literal)
        if not is_factor or parser.ends_product(token):
            return trees.joined("multiply", factors)
        factors.append(parser.factor())


READERS: Mapping[str, Callable[[FormulaParser, Token], Expression]] = {
    "based": _constant,
    "constant": _constant,
    "letter": _letter,
    "open": _bracket,
    "begin": _matrix,
    "frac": _fraction,
    "binomial": _binomial,
    "root": _root,
    "accent": _accent,
    "function": _function,
    "_": _count_before,
    "^": _count_before,
}
