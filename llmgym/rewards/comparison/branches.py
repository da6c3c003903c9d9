"""Points at which two functions that agree at numbers of usual size may part: ``|x + 100|`` and ``x + 100``.

An operation with branches (a root, a logarithm, ``max``) is another function on either side of some numbers. These are
seldom far from the constants written under it, or they are passed at some scale; operations on whole numbers tell
whole points from the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations
from math import isqrt

from llmgym.rewards.comparison.exact import Chance, Undecided, Work, free_names, is_opaque, size_in_bits, walk
from llmgym.rewards.comparison.manydigits import Point, evaluate
from llmgym.rewards.notation.expressions import Expression, Number, Operation

_STEPS = frozenset({"floor", "ceiling", "mod"})
_OF_WHOLE_NUMBERS = frozenset({"factorial", "binomial"})
_PIECEWISE = frozenset({"abs", "max", "min"}) | _STEPS
_INVERSE = frozenset({"arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc", "arcsinh", "arccosh", "arctanh"})
_BRANCHING = frozenset({"root", "log", "power"}) | _PIECEWISE | _OF_WHOLE_NUMBERS | _INVERSE
#: Powers of two at which every branch is tried.
_SCALES = (7, 14, 24, 44)
#: Constants that are taken from the trees, those that are combined with one another, and all that come of it.
_MAX_CONSTANTS = 12
_MAX_COMBINED = 4
_MAX_THRESHOLDS = 24
#: Combined constants are tried as long as so much of the work is left.
_RESERVE = 4_000
#: A unit of a coordinate, and the most bits that one may have.
_UNIT = 1 << 64
_MAX_BITS = 2_000
_WHOLE = tuple(map(Fraction, range(7)))
_WHOLE_AND_HALF = tuple(Fraction(twice, 2) for twice in (0, 2, 4, 6, -2, -4, 1, 3, -1, -3, 5))


def branch_points(
    trees: Sequence[Expression], names: Sequence[str], chance: Chance, work: Work
) -> Iterator[tuple[Point, bool]]:
    """Points beyond the usual ones, with whether a verdict needs this one: a piece of the function begins there."""
    branching = [node for tree in trees for node in walk(tree) if isinstance(node, Operation) and _is_branching(node)]
    if not branching:
        return
    kinds = {node.name for node in branching}
    if not kinds.isdisjoint(_OF_WHOLE_NUMBERS):
        yield from ((point, False) for point in _grid(_WHOLE, names))
    if kinds <= _OF_WHOLE_NUMBERS:
        return
    for index, power in enumerate(_SCALES):
        scale = Fraction(1 << power)
        for point in _around(scale, scale, names, chance, alternate=index % 2 == 0):
            yield point, False
    constants = _constants_under(branching, work)
    near = min((constant for constant in constants if constant), default=Fraction(1))
    margin = min(near, Fraction(1)) / 16
    piecewise = not kinds.isdisjoint(_PIECEWISE)
    for constant in constants:
        yield from ((point, piecewise) for point in _around(constant, margin, names, chance))
    if not kinds.isdisjoint(_STEPS):
        exact = (*_WHOLE_AND_HALF, *constants, *(-constant for constant in constants))
        yield from ((point, False) for point in _grid(exact, names))
    for constant in _combined(constants):
        if work.left < _RESERVE:
            return
        yield from ((point, False) for point in _around(constant, margin, names, chance))


def _is_branching(node: Operation) -> bool:
    if node.name not in _BRANCHING:
        return False
    if node.name == "power":
        exponent = node.operands[1]
        if isinstance(exponent, Number) and exponent.value.denominator == 1:
            return False
    return bool(free_names(*_subjects(node)))


def _subjects(node: Operation) -> tuple[Expression, ...]:
    """What the branch depends on: not the degree of a root."""
    return node.operands[:1] if node.name in ("root", "log", "power") else node.operands


def _constants_under(branching: Sequence[Operation], work: Work) -> list[Fraction]:
    """Magnitudes of the constants under operations with branches, with 0 and 1, at which most of these begin."""
    found = {Fraction(0): None, Fraction(1): None}
    for node in branching:
        waiting = list(_subjects(node))
        while waiting:
            tree = waiting.pop()
            if is_opaque(tree):
                continue
            if free_names(tree):
                if isinstance(tree, Operation):
                    has_exponent = tree.name in ("power", "root") and bool(free_names(tree.operands[0]))
                    waiting.extend(tree.operands[:1] if has_exponent else tree.operands)
                continue
            value = _real_value(tree, work)
            if value is not None:
                found[value] = None
                if len(found) > _MAX_CONSTANTS:
                    raise Undecided("too_large")
    return list(found)


def _real_value(tree: Expression, work: Work) -> Fraction | None:
    """The magnitude of a constant, to the digits of a coordinate; ``None`` where it is not real."""
    if isinstance(tree, Number):
        return abs(tree.value)
    try:
        evaluation, (value,) = evaluate((tree,), {}, work)
    except Undecided:
        return None
    if isinstance(value, evaluation.context.mpc):
        return None
    return abs(Fraction(int(evaluation.context.floor(evaluation.context.ldexp(value, 64))), _UNIT))


def _combined(constants: Sequence[Fraction]) -> list[Fraction]:
    """Quotients, sums, differences, products and roots of constants: where ``|3x - 100|`` turns."""
    found: dict[Fraction, None] = {}
    short = [constant for constant in constants if constant and size_in_bits(constant) <= _MAX_BITS]
    for one, other in combinations(short[: _MAX_COMBINED + 1], 2):
        found |= dict.fromkeys((one / other, other / one, one + other, abs(one - other), one * other))
    for constant in short:
        found[Fraction(isqrt(constant.numerator * _UNIT**2 // constant.denominator), _UNIT)] = None
    return [value for value in found if value not in constants][:_MAX_THRESHOLDS]


def _units(value: Fraction) -> int:
    if abs(value.numerator).bit_length() - value.denominator.bit_length() > _MAX_BITS:
        raise Undecided("too_large")
    return value.numerator * _UNIT // value.denominator


def _grid(values: Sequence[Fraction], names: Sequence[str]) -> Iterator[Point]:
    for index in range(len(values)):
        yield {name: (_units(values[(index + 3 * at) % len(values)]), 0) for at, name in enumerate(names)}


def _around(
    value: Fraction, margin: Fraction, names: Sequence[str], chance: Chance, *, alternate: bool = False
) -> Iterator[Point]:
    """Points beyond a magnitude by at most ``margin``, with coordinates of one sign or of alternating ones."""
    base, spread = _units(value), max(_units(margin), 2)
    sizes = [
        base + 1 + chance.number(name, f"near {value.numerator:x}/{value.denominator:x}") % spread for name in names
    ]
    for sign in (1, -1):
        signs = [-sign if alternate and at % 2 else sign for at in range(len(names))]
        yield {name: (side * size, 0) for name, side, size in zip(names, signs, sizes, strict=True)}
