"""Putting trees together: what a literal swallows, and how chains stay flat."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TypeGuard

from llmgym.rewards.notation.expressions import (
    Constant,
    Expression,
    Listing,
    Matrix,
    Name,
    Number,
    Operation,
    Quantity,
    Relation,
)
from llmgym.rewards.notation.literals import MAX_DIGITS, ReadingError

_SET_NAMES = frozenset("RZQNC")
_COMPARISONS = frozenset({"<", "<=", ">", ">=", "!=", "in"})
TEN = Number(Fraction(10), "integer")

# --- Asking -----------------------------------------------------------------------------------------------------------


def is_integer(value: Expression) -> TypeGuard[Number]:
    """Whether this is a literal whole number, written as one."""
    return isinstance(value, Number) and value.form == "integer"


def is_operation(value: Expression, name: str) -> TypeGuard[Operation]:
    """Whether this is the operation called ``name``."""
    return isinstance(value, Operation) and value.name == name


def is_comparison(value: Expression) -> TypeGuard[Relation]:
    """Whether this is a relation that a set of numbers satisfies: signs of order, ``!=``, membership."""
    return isinstance(value, Relation) and all(sign in _COMPARISONS for sign in value.signs)


def has_name(value: Expression) -> bool:
    """Whether there is a variable in a value; in what is neither an operation nor a number there may be one."""
    if isinstance(value, Operation):
        return any(map(has_name, value.operands))
    return not isinstance(value, Number | Constant)


# --- Building ---------------------------------------------------------------------------------------------------------


def letter(name: str) -> Expression:
    """A variable, or one of the two constants that are a letter."""
    return Constant(name) if name in ("i", "e") else Name(name)


def as_set(value: Expression) -> Expression:
    """``R`` where a set is meant."""
    return Constant(value.name) if isinstance(value, Name) and value.name in _SET_NAMES else value


def negate(value: Expression) -> Expression:
    """``-value``; of a literal it is one again."""
    if isinstance(value, Number):
        return Number(-value.value, value.form)
    if isinstance(value, Quantity) and isinstance(value.value, Number):
        return Quantity(Number(-value.value.value, value.value.form), value.unit)
    return Operation("negate", (value,))


def joined(name: str, operands: Sequence[Expression]) -> Expression:
    """Operands of one associative operation, in one level of the tree."""
    if len(operands) == 1:
        return operands[0]
    flat: list[Expression] = []
    for operand in operands:
        flat += operand.operands if is_operation(operand, name) else (operand,)
    return Operation(name, tuple(flat))


def product(factors: Sequence[Expression]) -> Expression:
    """Factors multiplied; ``3 * 10^5`` is the literal that it is."""
    if len(factors) == 2:
        mantissa, power = factors
        if isinstance(mantissa, Number) and mantissa.form in ("integer", "decimal") and is_operation(power, "power"):
            base, exponent = power.operands
            if base == TEN and is_integer(exponent) and abs(exponent.value) <= MAX_DIGITS:
                return Number(mantissa.value * Fraction(10) ** int(exponent.value), "scientific")
    return joined("multiply", factors)


def quotient(above: Expression, below: Expression) -> Expression:
    """``above / below``: of whole numbers a literal where it is not whole; ``a/b/c`` is ``a/(b*c)``."""
    if is_integer(above) and is_integer(below) and below.value:
        value = above.value / below.value
        if value.denominator != 1:
            return Number(value, "fraction")
    if is_operation(above, "divide"):
        return Operation("divide", (above.operands[0], joined("multiply", [above.operands[1], below])))
    return Operation("divide", (above, below))


def mixed(whole: Number, part: Number) -> Number:
    """``3 1/4``."""
    return Number(whole.value + part.value, "mixed")


def matrix(rows: Sequence[tuple[Expression, ...]]) -> Matrix:
    """Rows of equal length.

    Raises:
        ReadingError: If they are not.
    """
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise ReadingError
    return Matrix(tuple(rows))


def all_hold(conditions: Sequence[Expression]) -> Expression:
    """Conditions that hold together: an intersection where they compare, a listing where they say ``=``."""
    if len(conditions) == 1:
        return conditions[0]
    if all(is_comparison(condition) for condition in conditions):
        return Operation("intersection", tuple(conditions))
    return Listing(tuple(conditions))
