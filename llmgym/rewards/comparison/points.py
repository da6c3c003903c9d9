"""Comparing folded trees by their values: once where they are numbers, at several points where names are free.

Imported by ``evaluation`` when something irrational is met, and with it mpmath.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmgym.rewards.comparison.exact import Undecided, Work, fixed_number, free_names, walk
from llmgym.rewards.comparison.manydigits import Point, Value, agreement, evaluate, is_positive, same_at
from llmgym.rewards.notation.expressions import Expression, Number, Operation

#: Operations on real numbers only. Where names stand under them, names stand for real numbers.
_OF_REALS = frozenset({"abs", "floor", "ceiling", "max", "min", "mod"})
#: Points at which two functions are compared, by what their coordinates are.
_REAL_POINTS = ("positive", "negative", "large", "mixed")
_COMPLEX_POINTS = ("complex", "complex")
_ENOUGH = 3


def _coordinate(name: str, index: int, kind: str) -> tuple[int, int]:
    number = fixed_number(name, index)
    size, sign, other_sign, other = number >> 64, number & 1, number & 2, (number >> 2) & ((1 << 62) - 1)
    if kind == "complex":  # parts between 1/4 and 5/4: within the principal branches for most
        real, imaginary = (size + (1 << 62)) | 1, (4 * other + (1 << 62)) | 1
        return (-real if sign else real), (-imaginary if other_sign else imaginary)
    if kind == "small":
        size >>= 3
    elif kind == "large":
        size *= 11
    elif kind == "wide":
        size *= 3
    size = (size + (1 << 61)) | 1  # at least 1/8, and no rational number that is likely to be written
    negative = kind == "negative" or (kind != "positive" and sign)
    return (-size if negative else size), 0


def _points(names: Sequence[str], *, real_only: bool) -> Iterator[Point]:
    kinds = _REAL_POINTS if real_only else (*_REAL_POINTS, *_COMPLEX_POINTS)
    for index, kind in enumerate(kinds):
        yield {name: _coordinate(name, index + 8, kind) for name in names}


def _is_real_only(trees: Sequence[Expression]) -> bool:
    """Whether names in trees stand for real numbers: under operations on them, and under odd roots."""
    return any(
        isinstance(node, Operation) and (node.name in _OF_REALS or _is_odd_root(node)) and bool(free_names(node))
        for tree in trees
        for node in walk(tree)
    )


def _is_odd_root(node: Operation) -> bool:
    if node.name not in ("root", "power") or len(node.operands) != 2 or not isinstance(node.operands[1], Number):
        return False
    exponent = node.operands[1].value
    degree = exponent.numerator if node.name == "root" else exponent.denominator
    return degree % 2 == 1 and degree != 1


def same_number(left: Expression, right: Expression, work: Work) -> bool:
    """Whether two folded trees without names are equal."""
    return same_at((left, right), {}, work)


def _skippable(undecided: Undecided, work: Work) -> bool:
    """Whether another point may do: the functions are not defined at this one, or too steep to be worked out."""
    return undecided.reason != "unsupported" and work.left >= 0


def same_function(left: Expression, right: Expression, work: Work) -> bool:
    """Whether two folded trees are equal at every point at which both are defined, and at enough of them."""
    trees = (left, right)
    agreed, reason = 0, "undefined"
    for point in _points(free_names(left, right), real_only=_is_real_only(trees)):
        try:
            if not same_at(trees, point, work):
                return False
            agreed += 1
        except Undecided as undecided:
            if not _skippable(undecided, work):
                raise
            reason = undecided.reason
    if agreed < _ENOUGH:
        raise Undecided(reason)
    return True


def factor_between(left: Expression, right: Expression, work: Work) -> int:
    """As in ``evaluation``, for folded trees."""
    trees = (left, right, Operation("divide", (left, right)))
    first: Value = None
    agreed, reason = 0, "undefined"
    for point in _points(free_names(left, right), real_only=_is_real_only(trees)):
        try:
            evaluation, (one, _, factor) = evaluate(trees, point, work)
        except Undecided as undecided:
            if not _skippable(undecided, work):
                raise
            reason = undecided.reason
            continue
        if not one or not (first is None or agreement(evaluation, first, factor) == evaluation.precision):
            return 0
        first = factor
        agreed += 1
    if agreed < _ENOUGH:
        raise Undecided(reason)
    return 1 if is_positive(first) else -1


def order(left: Expression, right: Expression, work: Work) -> int:
    """As in ``evaluation``, for folded trees."""
    evaluation, values = evaluate((left, right), {}, work)
    one, other = (evaluation.real(value) for value in values)
    if same_at((left, right), {}, work):
        return 0
    return 1 if one > other else -1


def is_close(left: Expression, right: Expression, rel_tol: float, abs_tol: float, work: Work) -> bool:
    """As in ``evaluation``, for folded trees."""
    evaluation, (one, other) = evaluate((left, right), {}, work)
    return bool(abs(one - other) <= max(rel_tol * max(abs(one), abs(other)), abs_tol))
