"""Comparing folded trees by their values: once where they are numbers, at several points where names are free.

Imported by ``evaluation`` when something irrational is met, and with it mpmath. Points of usual size come first; where
an operation could make another function of the same tree elsewhere (``branches``), points there follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from llmgym.rewards.comparison.branches import branch_points
from llmgym.rewards.comparison.exact import Chance, Undecided, Work, free_names, walk
from llmgym.rewards.comparison.manydigits import (
    FEWER,
    Point,
    Value,
    afford,
    agreement,
    evaluate,
    evaluate_widely,
    is_positive,
    same_at,
)
from llmgym.rewards.notation.expressions import Expression, Number, Operation

#: Operations on real numbers only. Where names stand under them, names stand for real numbers.
_OF_REALS = frozenset({"abs", "floor", "ceiling", "max", "min", "mod"})
#: Points at which two functions are compared, by what their coordinates are.
_REAL_POINTS = ("positive", "negative", "large", "mixed")
_COMPLEX_POINTS = ("complex", "complex")
_ENOUGH = 3


def _coordinate(number: int, kind: str) -> tuple[int, int]:
    """A coordinate of a kind, from 128 bits."""
    size, sign, other_sign, other = number >> 64, number & 1, number & 2, (number >> 2) & ((1 << 62) - 1)
    if kind == "complex":  # parts between 1/4 and 5/4: within the principal branches for most
        real, imaginary = (size + (1 << 62)) | 1, (4 * other + (1 << 62)) | 1
        return (-real if sign else real), (-imaginary if other_sign else imaginary)
    if kind == "large":
        size *= 11
    size = (size + (1 << 61)) | 1  # at least 1/8, and no rational number that is likely to be written
    negative = kind == "negative" or (kind != "positive" and sign)
    return (-size if negative else size), 0


def _points(names: Sequence[str], chance: Chance, *, real_only: bool) -> Iterator[Point]:
    kinds = _REAL_POINTS if real_only else (*_REAL_POINTS, *_COMPLEX_POINTS)
    for index, kind in enumerate(kinds):
        yield {name: _coordinate(chance.number(name, index + 8), kind) for name in names}


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
    afford((left, right), 1, work)
    return same_at((left, right), {}, work)


def _holds(trees: Sequence[Expression], work: Work, is_met: Callable[[Point, bool], bool]) -> bool:
    """Whether something is met at every point at which it can be worked out, and at enough of them.

    Beyond the usual points, it is also met where neither tree is a real function: the second argument says so.

    Raises:
        Undecided: If those are too few, or a branch that the trees speak of is out of reach.
    """
    afford(trees, _ENOUGH, work)
    names, chance = free_names(*trees), Chance(*trees[:2])
    agreed, reason = 0, "undefined"
    for point in _points(names, chance, real_only=_is_real_only(trees)):
        try:
            if not is_met(point, False):
                return False
            agreed += 1
        except Undecided as undecided:
            # Another point may do: the functions are not defined at this one, or too steep to be worked out.
            if undecided.reason == "unsupported" or work.left < 0:
                raise
            reason = undecided.reason
    if agreed < _ENOUGH:
        raise Undecided(reason)
    for point, is_needed in branch_points(trees[:2], names, chance, work):
        try:
            if not is_met(point, True):
                return False
        except Undecided as undecided:
            if work.left < 0 or (is_needed and undecided.reason == "too_large"):
                raise
    return True


def same_function(left: Expression, right: Expression, work: Work) -> bool:
    """Whether two folded trees are equal at every point at which both are defined, and at enough of them."""
    trees = (left, right)
    return _holds(trees, work, lambda point, is_far: same_at(trees, point, work, is_far=is_far))


def factor_between(left: Expression, right: Expression, work: Work) -> int:
    """As in ``evaluation``, for folded trees."""
    trees = (left, right, Operation("divide", (left, right)))
    first: tuple[Value, int] | None = None

    def has_same_factor(point: Point, is_far: bool) -> bool:
        nonlocal first
        if is_far:
            evaluation, (one, _, factor) = evaluate(trees, point, work, extra=-FEWER)
        else:
            evaluation, (one, _, factor) = evaluate_widely(trees, point, work)
        if is_far and all(evaluation.left_reals[:2]):
            return True
        if not one:
            return False
        if first is None:
            first = factor, evaluation.precision
            return True
        precision = min(first[1], evaluation.precision)
        return agreement(evaluation, first[0], factor, precision) == precision

    if not _holds(trees, work, has_same_factor) or first is None:
        return 0
    return 1 if is_positive(first[0]) else -1


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
