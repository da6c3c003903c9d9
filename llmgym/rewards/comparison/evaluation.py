"""The value of a tree: exact where it is rational, otherwise to many digits, at fixed points where names are free.

:func:`same_value` works in stages: both sides are folded (each rational part worked out with exact fractions); if
something irrational is left, both are evaluated to 55 digits beyond the length of their literals and the span of their
magnitudes; if names are free, at several points, drawn for these two trees. What is too large for that is still equal
where it is one operation on equal operands.

A logarithm without a base is read as the natural one or, in all of both trees, as the common one: whichever makes them
equal, as mathematicians and engineers each write it.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

from llmgym.rewards.comparison.exact import (
    Chance,
    Rational,
    Undecided,
    Work,
    as_tree,
    at_whole_point,
    canonical_text,
    fold,
    free_names,
    walk,
)
from llmgym.rewards.notation.expressions import Expression, Number, Operation

#: For trees too large to be worked out as a whole.
_WORK_ON_PARTS = 2_000
_TEN = Number(Fraction(10), "integer")


class _ManyDigits(Protocol):
    """What ``points`` does with folded trees; see the functions of the same names here."""

    def same_number(self, left: Expression, right: Expression, work: Work) -> bool: ...
    def same_function(self, left: Expression, right: Expression, work: Work) -> bool: ...
    def factor_between(self, left: Expression, right: Expression, work: Work) -> int: ...
    def order(self, left: Expression, right: Expression, work: Work) -> int: ...
    def is_close(self, left: Expression, right: Expression, rel_tol: float, abs_tol: float, work: Work) -> bool: ...


def _many_digits() -> _ManyDigits:
    """The module over mpmath, loaded when the first irrational number is met."""
    from llmgym.rewards.comparison import points

    return points


def same_value(left: Expression, right: Expression, work: Work | None = None) -> bool:
    """Whether two trees are equal: as numbers, or as functions of the names in them.

    Raises:
        Undecided: If that could not be found out.

    Example:
        >>> from llmgym.rewards.notation.expressions import Name, Number, Operation
        >>> two, x = Number(Fraction(2), "integer"), Name("x")
        >>> square = Operation("power", (x, two))
        >>> same_value(square, Operation("multiply", (x, x)))
        True
        >>> same_value(Operation("root", (square, two)), x)
        False
    """
    work = work or Work()
    try:
        if _same_value(left, right, work):
            return True
        common = _with_common_logarithms(left), _with_common_logarithms(right)
        return common != (left, right) and _same_value(*common, work)
    except Undecided as undecided:
        if undecided.reason == "too_large" and _same_parts(left, right, Work(_WORK_ON_PARTS)):
            return True
        if undecided.reason == "unsupported" and canonical_text(left) == canonical_text(right):
            return True
        raise


def _with_common_logarithms(tree: Expression) -> Expression:
    """The tree with 10 as the base of each logarithm that has none, which is natural otherwise."""
    if not any(isinstance(node, Operation) and node.name == "log" and len(node.operands) == 1 for node in walk(tree)):
        return tree
    return _based(tree)


def _based(tree: Expression) -> Expression:
    if not isinstance(tree, Operation):
        return tree
    operands = tuple(map(_based, tree.operands))
    return Operation(tree.name, (*operands, _TEN) if tree.name == "log" and len(operands) == 1 else operands)


def _same_parts(left: Expression, right: Expression, work: Work) -> bool:
    """Whether two trees, too large to be worked out, are one operation on equal operands: ``2^{10^9}``."""
    if not isinstance(left, Operation) or not isinstance(right, Operation):
        return False
    if left.name != right.name or len(left.operands) != len(right.operands):
        return False
    for one, other in zip(left.operands, right.operands, strict=True):
        try:
            same = _same_value(one, other, work)
        except Undecided as undecided:
            same = undecided.reason == "too_large" and work.left >= 0 and _same_parts(one, other, work)
        if not same:
            return False
    return True


def _same_value(left: Expression, right: Expression, work: Work) -> bool:
    first, second = fold(left, work), fold(right, work)
    if isinstance(first, (int, Fraction)) and isinstance(second, (int, Fraction)):
        return first == second
    if first == second or canonical_text(as_tree(first)) == canonical_text(as_tree(second)):
        return True
    names = free_names(first, second)
    if not names:
        return _many_digits().same_number(as_tree(first), as_tree(second), work)
    chance = Chance(first, second)
    for index in range(2):
        # Two rational functions that are not one agree at a number drawn from 2 ** 63 with a chance of at most the sum
        # of their degrees / 2 ** 63. It is drawn from a digest of both: no tree can be written to meet the other there.
        point = chance.whole_point(names, index)
        one, other = at_whole_point(first, point, work), at_whole_point(second, point, work)
        if one is None or other is None:
            return _many_digits().same_function(as_tree(first), as_tree(second), work)
        if one != other:
            return False
    return True


def factor_between(left: Expression, right: Expression, work: Work | None = None) -> int:
    """Whether ``left`` is a constant, other than zero, times ``right``, both functions of names.

    Returns:
        1 for a positive constant, -1 for any other, 0 for none.

    Raises:
        Undecided: If that could not be found out.
    """
    work = work or Work()
    factor = _factor_between(left, right, work)
    common = _with_common_logarithms(left), _with_common_logarithms(right)
    return factor if factor or common == (left, right) else _factor_between(*common, work)


def _factor_between(left: Expression, right: Expression, work: Work) -> int:
    first, second = fold(left, work), fold(right, work)
    if not free_names(first) or not free_names(second):
        return 0
    ratios: list[Rational] = []
    names, chance = free_names(first, second), Chance(first, second)
    for index in range(3):
        point = chance.whole_point(names, index)
        one, other = at_whole_point(first, point, work), at_whole_point(second, point, work)
        if one is None or other is None:
            return _many_digits().factor_between(as_tree(first), as_tree(second), work)
        if one == 0 or other == 0:
            return 0
        ratios.append(Fraction(one) / other)
    if ratios[0] != ratios[1] or ratios[0] != ratios[2]:
        return 0
    return 1 if ratios[0] > 0 else -1


def order(left: Expression, right: Expression, work: Work | None = None) -> int:
    """-1, 0 or 1: how two real numbers compare.

    Raises:
        Undecided: If one is not a real number, or holds names.
    """
    work = work or Work()
    first, second = fold(left, work), fold(right, work)
    if isinstance(first, (int, Fraction)) and isinstance(second, (int, Fraction)):
        return (first > second) - (first < second)
    if free_names(first, second):
        raise Undecided("unsupported")
    return _many_digits().order(as_tree(first), as_tree(second), work)


def within(left: Rational, right: Rational, rel_tol: float, abs_tol: float) -> bool:
    """As :func:`math.isclose`, exactly."""
    left, right = Fraction(left), Fraction(right)
    return abs(left - right) <= max(Fraction(rel_tol) * max(abs(left), abs(right)), Fraction(abs_tol))


def is_close(left: Expression, right: Expression, rel_tol: float, abs_tol: float, work: Work | None = None) -> bool:
    """As :func:`math.isclose`, for values of any size; trees with names are never close.

    Raises:
        Undecided: If a value could not be found.
    """
    work = work or Work()
    first, second = fold(left, work), fold(right, work)
    if free_names(first, second):
        return False
    if isinstance(first, (int, Fraction)) and isinstance(second, (int, Fraction)):
        return within(first, second, rel_tol, abs_tol)
    return _many_digits().is_close(as_tree(first), as_tree(second), rel_tol, abs_tol, work)
