"""What kinds of answer trees are, and the same answer in another shape: ± as two values, ``[[1]]`` as a matrix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

from llmgym.rewards.comparison.evaluation import is_close
from llmgym.rewards.comparison.exact import Undecided, Work, free_names, is_derivative, is_opaque, walk
from llmgym.rewards.notation.expressions import (
    Based,
    Bracketed,
    Constant,
    Expression,
    Listing,
    Matrix,
    Name,
    Number,
    Operation,
    Quantity,
    Ratio,
    Relation,
    Set,
    Words,
)

#: Variants that signs such as ± may make of one tree.
MAX_VARIANTS = 16
#: Names that stand for a constant of integration.
_INTEGRATION = frozenset({"C", "c", "K"})
#: Operations that may be left as they are where the reference is a literal: nobody calls them a question.
_RESULTS = frozenset({"power", "root", "factorial", "binomial", "log"})
#: Words that make of "… = 42" something else than a name for 42.
_UNSAYING = frozenset(
    {"not", "never", "no", "isn't", "neither", "nor", "or", "maybe", "perhaps", "about", "if", "unless"}
)


# --- What trees are ---------------------------------------------------------------------------------------------------


def is_literal(tree: Expression) -> bool:
    """Whether a tree is a number written out, with or without sign and unit.

    >>> is_literal(Number(Fraction(3, 4), "fraction")), is_literal(Name("x"))
    (True, False)
    """
    if isinstance(tree, Quantity):
        return is_literal(tree.value)
    if isinstance(tree, Operation):
        return tree.name in ("negate", "plus_minus") and len(tree.operands) == 1 and is_literal(tree.operands[0])
    return isinstance(tree, (Number, Based))


def is_worked_out(tree: Expression) -> bool:
    """Whether nothing is left to do that the reader of a literal would expect to be done.

    A lone power, root, factorial, binomial or logarithm of literals is a result; a sum, product or quotient is not.
    """
    if isinstance(tree, Quantity):
        return is_worked_out(tree.value)
    if not isinstance(tree, Operation) or is_literal(tree):
        return True
    if tree.name in ("negate", "plus_minus") and len(tree.operands) == 1:
        return is_worked_out(tree.operands[0])
    return tree.name in _RESULTS and all(is_literal(one) or isinstance(one, Constant) for one in tree.operands)


def is_label(tree: Expression) -> bool:
    """What may name the value on the other side of an equation: ``x``, ``f(x)``, ``dy/dx``, ``AB``, "the area"."""
    if isinstance(tree, Words):
        said = tree.text.split()
        return 0 < len(said) <= 5 and _UNSAYING.isdisjoint(said) and not any(map(str.isdigit, tree.text))
    if isinstance(tree, Bracketed):
        return all(isinstance(item, Name) for item in tree.items)
    if isinstance(tree, Operation) and tree.name == "multiply" and len(tree.operands) in (2, 3):
        return all(isinstance(one, Name) and len(one.name) == 1 and one.name.isupper() for one in tree.operands)
    return is_opaque(tree) or is_derivative(tree)


def is_order(tree: Expression) -> bool:
    return isinstance(tree, Relation) and any(sign != "=" for sign in tree.signs)


def is_equation(tree: Expression) -> bool:
    return isinstance(tree, Relation) and all(sign == "=" for sign in tree.signs)


def is_set_algebra(tree: Expression) -> bool:
    """Whether a tree is a set of real numbers in another way than a pair of brackets or a list of values."""
    if isinstance(tree, Operation):
        return tree.name in ("union", "intersection", "difference")
    if isinstance(tree, Constant):
        return tree.name in ("R", "empty")
    if isinstance(tree, (Listing, Set)):
        return any(is_order(item) or is_set_algebra(item) for item in tree.items)
    return is_order(tree)


def _variants(tree: Expression) -> list[Expression]:
    """What a tree with signs such as ± stands for: each choice of each of them."""
    if not _has_sign_choice(tree):
        return [tree]
    if isinstance(tree, Operation):
        choices = _product([_variants(operand) for operand in tree.operands])
        if tree.name != "plus_minus":
            return [Operation(tree.name, operands) for operands in choices]
        signed: list[Expression] = []
        for *first, last in choices:
            for one in (last, Operation("negate", (last,)) if not isinstance(last, Number) else _negative(last)):
                signed.append(Operation("add", (*first, one)) if first else one)
        return signed
    if isinstance(tree, Quantity):
        return [Quantity(value, tree.unit) for value in _variants(tree.value)]
    if isinstance(tree, Bracketed):
        return [Bracketed(tree.left, tree.right, items) for items in _product([_variants(one) for one in tree.items])]
    if isinstance(tree, Relation):
        return [Relation(sides, tree.signs) for sides in _product([_variants(side) for side in tree.sides])]
    return [tree]


def _negative(number: Number) -> Number:
    return Number(-number.value, number.form)


def _product(choices: Sequence[Sequence[Expression]]) -> list[tuple[Expression, ...]]:
    products: list[tuple[Expression, ...]] = [()]
    for variants in choices:
        products = [(*product, variant) for product in products for variant in variants]
        if len(products) > MAX_VARIANTS:
            raise Undecided("too_large")
    return products


def _has_sign_choice(tree: Expression) -> bool:
    """Whether ``_variants`` makes several trees of one."""
    if isinstance(tree, Operation):
        return tree.name == "plus_minus" or any(map(_has_sign_choice, tree.operands))
    if isinstance(tree, Quantity):
        return _has_sign_choice(tree.value)
    if isinstance(tree, Bracketed):
        return any(map(_has_sign_choice, tree.items))
    return isinstance(tree, Relation) and any(map(_has_sign_choice, tree.sides))


def spread(tree: Expression) -> Expression:
    """A tree with signs such as ± as the list of what it stands for."""
    if isinstance(tree, (Listing, Set)):
        if not any(map(_has_sign_choice, tree.items)):
            return tree
        return type(tree)(tuple(variant for item in tree.items for variant in _variants(item)))
    # A set, so that ±0 is one value.
    return Set(tuple(_variants(tree))) if _has_sign_choice(tree) else tree


def as_matrix(tree: Expression) -> Matrix | None:
    """``[[1, 2], [3, 4]]`` and a number times a matrix as the matrix they are."""
    if isinstance(tree, Matrix):
        return tree
    if isinstance(tree, Bracketed) and (tree.left, tree.right) == ("[", "]") and tree.items:
        rows = [
            item.items for item in tree.items if isinstance(item, Bracketed) and (item.left, item.right) == ("[", "]")
        ]
        if len(rows) == len(tree.items) and len({len(row) for row in rows}) == 1:
            return Matrix(tuple(rows))
    if isinstance(tree, Operation) and tree.name in ("multiply", "negate", "divide"):
        at = [index for index, operand in enumerate(tree.operands) if isinstance(operand, Matrix)]
        if len(at) == 1 and (tree.name != "divide" or at == [0]):
            (index,) = at
            matrix, before, after = tree.operands[index], tree.operands[:index], tree.operands[index + 1 :]
            assert isinstance(matrix, Matrix)
            return Matrix(tuple(tuple(_entry(tree.name, before, one, after) for one in row) for row in matrix.rows))
    return None


def _entry(name: str, before: tuple[Expression, ...], entry: Expression, after: tuple[Expression, ...]) -> Expression:
    """An entry of a matrix with the factor before it; of two literals a literal: nobody calls ½ (2, 4) a question."""
    if name == "multiply" and len(before) == 1 and not after:
        (factor,) = before
        if isinstance(factor, Number) and isinstance(entry, Number):
            return Number(factor.value * entry.value, "fraction")
    if name == "negate" and isinstance(entry, Number):
        return _negative(entry)
    return Operation(name, (*before, entry, *after))


def scaled(tree: Expression, factor: Fraction) -> Expression:
    """A literal stays one, so that converting it leaves nothing to be worked out."""
    if isinstance(tree, Number):
        return Number(tree.value * factor, tree.form)
    return Operation("multiply", (Number(factor, "fraction"), tree))


def _terms(tree: Expression) -> list[Expression]:
    if isinstance(tree, Operation) and tree.name == "add":
        return [term for operand in tree.operands for term in _terms(operand)]
    return [tree]


def without_integration_constant(tree: Expression) -> Expression | None:
    """``x^2`` of ``x^2 + C``; ``None`` where no such constant stands alone, or it occurs elsewhere too."""
    terms = _terms(tree)
    constants = [term for term in terms if isinstance(term, Name) and term.name in _INTEGRATION]
    if len(constants) != 1 or len(terms) < 2:
        return None
    rest = Operation("add", tuple(term for term in terms if term is not constants[0]))
    return None if constants[0] in walk(rest) else rest


# --- Small parts ------------------------------------------------------------------------------------------------------


def free_names_of(tree: Expression) -> list[str]:
    """Names in a tree of any kind; none in what is no single value."""
    return free_names(tree) if isinstance(tree, (Name, Operation)) else []


def is_approximate(tree: Expression) -> bool:
    """Whether a tree says of itself that it is not exact: ``≈ 42``, ``x ≈ 42``."""
    if isinstance(tree, Relation):
        return "~" in tree.signs
    return isinstance(tree, Operation) and tree.name in ("approximately", "endless")


def is_endless(tree: Expression) -> bool:
    """Whether a tree is a decimal that goes on beyond the digits shown: ``3.14...`` is neither 3.14 nor a rounding."""
    return isinstance(tree, Operation) and tree.name == "endless"


def approximated(tree: Expression) -> Expression:
    """What stands behind the sign."""
    if isinstance(tree, Relation):
        return tree.sides[-1]
    return tree.operands[0] if isinstance(tree, Operation) and tree.operands else tree


def is_rounded(tree: Expression) -> bool:
    """Whether a tree is a decimal that is not whole: what ≈ is written before."""
    if isinstance(tree, Quantity):
        return is_rounded(tree.value)
    return isinstance(tree, Number) and tree.form == "decimal" and tree.value.denominator != 1


def is_rounding(value: Expression, stated: Expression, work: Work) -> bool:
    """Whether ``stated`` is ``value`` rounded: off by one in its last decimal at most, and by 5 %."""
    value, stated = (tree.value if isinstance(tree, Quantity) else tree for tree in (value, stated))
    if not isinstance(stated, Number):
        return False
    scale = next((10**places for places in range(60) if (stated.value * 10**places).denominator == 1), 0)
    try:
        return (
            bool(scale) and is_close(value, stated, 0.05, 0.0, work) and is_close(value, stated, 0.0, 1 / scale, work)
        )
    except Undecided:
        return False


def is_open_equation(tree: Expression) -> bool:
    """Whether an equation relates names, so that it may be written in many ways: ``y = 2x + 3``, not ``x = 5``."""
    if not isinstance(tree, Relation) or len(tree.sides) != 2:
        return False
    one, other = tree.sides
    for side, value in ((one, other), (other, one)):
        if is_label(side) and not free_names_of(value):
            return False
    return bool(free_names_of(one) or free_names_of(other))


def one_sided(tree: Relation) -> tuple[str, Expression]:
    """A relation as ``difference sign 0``, with ``<`` for ``>``."""
    left, right = tree.sides
    (sign,) = tree.signs
    if sign in (">", ">="):
        left, right = right, left
        sign = "<" if sign == ">" else "<="
    return sign, Operation("add", (left, Operation("negate", (right,))))


def membership(tree: Expression) -> Expression:
    """``S`` of ``x in S``."""
    if isinstance(tree, Relation) and tree.signs == ("in",) and is_opaque(tree.sides[0]):
        return tree.sides[1]
    return tree


def _names_given(tree: Expression) -> set[Expression]:
    """Names that the members of a list, or a relation, are given: x and y of ``x = 1, y > 2``."""
    members: Iterable[Expression] = tree.items if isinstance(tree, (Listing, Set)) else (tree,)
    return {side for one in members if isinstance(one, Relation) for side in one.sides if is_opaque(side)}


def agreeing_names(answer: Expression, reference: Expression) -> bool:
    """Whether one side names nothing, or one thing only; ``x = 1, y = 2`` is no answer to 1, 2."""
    names, other_names = _names_given(answer), _names_given(reference)
    return names == other_names if names and other_names else len(names) <= 1 and len(other_names) <= 1


def assignments(tree: Expression) -> Listing | None:
    """``x = 1, y = 2`` of ``(x, y) = (1, 2)``."""
    if not isinstance(tree, Relation) or tree.signs != ("=",):
        return None
    labels, values = tree.sides
    if not isinstance(labels, Bracketed) or not isinstance(values, Bracketed) or not is_label(labels):
        return None
    if len(labels.items) != len(values.items):
        return None
    return Listing(tuple(Relation(pair, ("=",)) for pair in zip(labels.items, values.items, strict=True)))


def _equations_by_name(tree: Expression) -> dict[str, Expression] | None:
    """Values by name, of a list of equations that each give one to a name of its own."""
    if not isinstance(tree, Listing):
        return None
    values: dict[str, Expression] = {}
    for item in tree.items:
        if not isinstance(item, Relation) or item.signs != ("=",) or not isinstance(item.sides[0], Name):
            return None
        values[item.sides[0].name] = item.sides[1]
    return values if len(values) == len(tree.items) else None


def point_of_equations(tree: Expression) -> Bracketed | None:
    """``(3, -1)`` of ``x = 3, y = -1``: the values of single letters, in the order of the alphabet."""
    values = _equations_by_name(tree)
    if values is None or len(values) < 2 or any(len(name) > 1 for name in values):
        return None
    return Bracketed("(", ")", tuple(values[name] for name in sorted(values)))


def without_indices(tree: Expression) -> Listing | None:
    """``x = 2, x = -5`` of ``x_1 = 2, x_2 = -5``: the solutions of one unknown."""
    values = _equations_by_name(tree) or {}
    names = [name.partition("_") for name in values]
    if len(names) < 2 or len({stem for stem, _, _ in names}) > 1 or not all(index.isdigit() for _, _, index in names):
        return None
    return Listing(tuple(Relation((Name(names[0][0]), value), ("=",)) for value in values.values()))


def bracket_kinds(tree: Bracketed) -> tuple[str, str]:
    """Open ends as ``(`` and ``)``, whoever writes them, and so angle brackets; closed ends as they are.

    Three or more members are no interval: square brackets around them are those of a vector, as round ones are.
    """
    if len(tree.items) > 2 and (tree.left, tree.right) == ("[", "]"):
        return "(", ")"
    return ("[" if tree.left == "[" else "("), ("]" if tree.right == "]" else ")")


def quotient(tree: Expression) -> Expression | None:
    if not isinstance(tree, Ratio):
        return tree
    if len(tree.parts) != 2:
        return None
    above, below = tree.parts
    if isinstance(above, Number) and isinstance(below, Number) and below.value:
        return Number(above.value / below.value, "fraction")
    return Operation("divide", (above, below))


def bases(tree: Expression) -> set[int]:
    return {node.base for node in walk(tree) if isinstance(node, Based)}


def sorted_values(trees: Iterable[Expression]) -> list[Fraction]:
    return sorted(tree.value for tree in trees if isinstance(tree, Number))


def without_units(tree: Expression) -> Expression:
    if isinstance(tree, Quantity) and tree.unit not in ("%", "°"):
        return without_units(tree.value)
    if isinstance(tree, Operation):
        return Operation(tree.name, tuple(without_units(operand) for operand in tree.operands))
    return tree
