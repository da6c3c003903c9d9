"""Sets of real numbers: intervals, inequalities, points and their unions are compared as what they contain.

Finitely many numbers cut the line into points and gaps. A set is the collection of those it holds, one bit for each,
so that unions, intersections and complements are operations on bits and touching intervals merge by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cmp_to_key, reduce
from itertools import pairwise
from math import prod
from typing import Literal, NamedTuple

from llmgym.rewards.comparison.evaluation import order
from llmgym.rewards.comparison.exact import Undecided, Work, free_names, is_opaque, size_in_bits
from llmgym.rewards.notation.expressions import (
    Bracketed,
    Constant,
    Expression,
    Listing,
    Name,
    Number,
    Operation,
    Quantity,
    Relation,
    Set,
    Sign,
    Words,
)

#: Numbers that may cut the line.
MAX_ENDPOINTS = 48
_MIRRORED: dict[Sign, Sign] = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}
#: The left side of "> 3".
_UNNAMED = Words("")
#: Of a distance: the sign for the lower end and for the upper one.
_BEYOND: dict[Sign, tuple[Sign, Sign]] = {"<": (">", "<"), "<=": (">=", "<="), ">": ("<", ">"), ">=": ("<=", ">=")}
#: Names that stand for complex numbers, for which a distance below 2 is a disc.
_COMPLEX = frozenset({"z", "w"})
_MAX_LINE_PARTS, _MAX_LINE_BITS = 8, 256
_CONTAINERS = (Bracketed, Listing, Set, Relation)


def infinite_sign(tree: Expression) -> int:
    """1 for infinity, -1 for minus infinity, 0 for anything else."""
    if isinstance(tree, Operation) and tree.name == "negate":
        return -infinite_sign(tree.operands[0])
    return int(tree == Constant("inf"))


class Condition(NamedTuple):
    """All numbers in a relation to one: ``x <= 3``. ``value`` is the place of the 3 in the list of endpoints."""

    sign: Sign
    value: int


class Combination(NamedTuple):
    """Sets joined: ``"separate"`` is a union of sets that have nothing in common, as a list of them is meant."""

    how: Literal["union", "intersection", "difference", "separate"]
    parts: tuple[Condition | Combination, ...]


_EVERYTHING = Combination("intersection", ())
_NOTHING = Combination("union", ())


class _NotASet(Exception):
    """The tree is no set of real numbers, or none that is written out."""


class _Reader:
    """Reads trees as conditions on numbers; collects the numbers."""

    def __init__(self) -> None:
        self.endpoints: list[Expression] = []
        self.labels: list[Expression] = []

    def number(self, tree: Expression) -> int:
        if isinstance(tree, (*_CONTAINERS, Quantity)) or free_names(tree):
            raise _NotASet
        self.endpoints.append(tree)
        if len(self.endpoints) > MAX_ENDPOINTS:
            raise Undecided("too_large")
        return len(self.endpoints) - 1

    def condition(self, sign: Sign, value: Expression) -> Condition | Combination:
        infinite = infinite_sign(value)
        if not infinite:
            return Condition(sign, self.number(value))
        if sign not in ("<", ">"):
            raise _NotASet
        return _EVERYTHING if (sign == "<") == (infinite > 0) else _NOTHING

    def read(self, tree: Expression) -> Condition | Combination:
        if isinstance(tree, Bracketed):
            return self.interval(tree)
        if isinstance(tree, Relation):
            return self.relation(tree)
        if tree == Constant("R"):
            return _EVERYTHING
        if tree == Constant("empty"):
            return _NOTHING
        if isinstance(tree, Set):
            if len(tree.items) == 1 and isinstance(tree.items[0], Relation):
                return self.relation(tree.items[0])
            return Combination("union", tuple(self.condition("=", item) for item in tree.items))
        if isinstance(tree, Listing):
            # A list of inequations means all of them (x != 0, 1); of other sets, each in its turn.
            first = tree.items[0]
            conjoined = isinstance(first, Relation) and first.signs == ("!=",)
            parts = tuple(
                self.condition("!=", item) if conjoined and not isinstance(item, _CONTAINERS) else self.read(item)
                for item in tree.items
            )
            if conjoined and any(isinstance(item, Relation) and item.signs != ("!=",) for item in tree.items):
                raise _NotASet
            return Combination("intersection" if conjoined else "separate", parts)
        if isinstance(tree, Operation) and tree.name in ("union", "intersection", "difference"):
            how: Literal["union", "intersection", "difference"] = tree.name  # type: ignore[assignment]
            return Combination(how, tuple(self.read(operand) for operand in tree.operands))
        raise _NotASet

    def interval(self, tree: Bracketed) -> Combination:
        if len(tree.items) != 2 or "<" in (tree.left, tree.right):
            raise _NotASet
        low, high = tree.items
        above: Sign = ">=" if tree.left == "[" else ">"
        below: Sign = "<=" if tree.right == "]" else "<"
        if infinite_sign(low) > 0 or infinite_sign(high) < 0:
            raise _NotASet
        return Combination("intersection", (self.condition(above, low), self.condition(below, high)))

    def relation(self, tree: Relation) -> Condition | Combination:
        distances = [index for index, side in enumerate(tree.sides) if _is_distance(side)]
        if len(distances) == 1:
            return self.distance(tree, distances[0])
        unknown = [index for index, side in enumerate(tree.sides) if is_opaque(side) or side == _UNNAMED]
        if len(unknown) != 1 or len(tree.sides) > 3:
            raise _NotASet
        (index,) = unknown
        if tree.sides[index] != _UNNAMED:
            self.labels.append(tree.sides[index])
        if tree.signs == ("in",) and index == 0:
            return self.read(tree.sides[1])
        if len(tree.sides) == 3 and index != 1:
            raise _NotASet
        parts: list[Condition | Combination] = []
        for at, sign in enumerate(tree.signs):
            if sign not in _MIRRORED:
                raise _NotASet
            value = tree.sides[at + 1 if at == index else at]
            values = value.items if sign == "!=" and isinstance(value, (Listing, Set)) else (value,)
            toward = sign if at == index else _MIRRORED[sign]
            parts.extend(self.condition(toward, one) for one in values)
        return Combination("intersection", tuple(parts))

    def distance(self, tree: Relation, index: int) -> Combination:
        """``|x - 1| < 2``: the numbers whose distance from one is so."""
        distance = tree.sides[index]
        line = _Line.of(distance.operands[0]) if isinstance(distance, Operation) else None
        if (
            line is None
            or not line.slope
            or line.name in _COMPLEX
            or len(tree.sides) > 3
            or (len(tree.sides) == 3 and index != 1)
        ):
            raise _NotASet
        self.labels.append(Name(line.name))
        parts: list[Condition | Combination] = []
        for at, sign in enumerate(tree.signs):
            toward = sign if at == index else _MIRRORED.get(sign, sign)
            if toward not in _BEYOND:
                raise _NotASet
            bound = tree.sides[at + 1 if at == index else at]
            low, high = (line.where(bound, side if line.slope > 0 else -side) for side in (-1, 1))
            below, above = _BEYOND[toward]
            # The upper end first: with a bound below zero no number is within it, and the ends cross.
            both = (self.condition(above, high), self.condition(below, low))
            parts.append(Combination("intersection" if toward in ("<", "<=") else "union", both))
        return Combination("intersection", tuple(parts))


def _is_distance(tree: Expression) -> bool:
    return isinstance(tree, Operation) and tree.name == "abs" and bool(free_names(tree))


class _Line(NamedTuple):
    """``slope * name + offset``."""

    slope: Fraction
    offset: Fraction
    name: str

    @classmethod
    def of(cls, tree: Expression) -> _Line | None:
        """A short tree of one name and literals as a line; ``None`` where it is none, or its numbers are large."""
        line = cls._of(tree)
        if line is None or max(size_in_bits(line.slope), size_in_bits(line.offset)) > _MAX_LINE_BITS:
            return None
        return line

    @classmethod
    def _of(cls, tree: Expression) -> _Line | None:
        if isinstance(tree, Name):
            return cls(Fraction(1), Fraction(0), tree.name)
        if isinstance(tree, Number):
            return cls(Fraction(0), tree.value, "")
        if not isinstance(tree, Operation) or len(tree.operands) > _MAX_LINE_PARTS:
            return None
        lines: list[_Line] = []
        for operand in tree.operands:
            line = cls.of(operand)
            if line is None:
                return None
            lines.append(line)
        names = {line.name for line in lines if line.slope}
        if len(names) > 1:
            return None
        name = "".join(names)
        first, second = lines[0], lines[-1]
        if tree.name == "add":
            slopes, offsets = zip(*((line.slope, line.offset) for line in lines), strict=True)
            return cls(sum(slopes, Fraction(0)), sum(offsets, Fraction(0)), name)
        if tree.name == "negate":
            return cls(-first.slope, -first.offset, name)
        if tree.name == "divide" and not second.slope and second.offset:
            return cls(first.slope / second.offset, first.offset / second.offset, name)
        if tree.name == "multiply" and sum(line.slope != 0 for line in lines) <= 1:
            factor = prod((line.offset for line in lines if not line.slope), start=Fraction(1))
            sloped = next((line for line in lines if line.slope), cls(Fraction(0), Fraction(1), ""))
            return cls(sloped.slope * factor, sloped.offset * factor, name)
        return None

    def where(self, bound: Expression, side: int) -> Expression:
        """The number at which the line is ``bound``, or minus it: a literal where that is one."""
        if isinstance(bound, Number):
            return Number((side * bound.value - self.offset) / self.slope, "fraction")
        signed = bound if side > 0 else Operation("negate", (bound,))
        shifted = Operation("add", (signed, Number(-self.offset, "fraction"))) if self.offset else signed
        return shifted if self.slope == 1 else Operation("divide", (shifted, Number(self.slope, "fraction")))


def _ranks(numbers: Sequence[Expression], work: Work) -> list[int]:
    """The place of each number among the different ones, from the smallest."""

    def compare(one: int, other: int) -> int:
        return order(numbers[one], numbers[other], work)

    ranks = [0] * len(numbers)
    rank = 0
    by_value = sorted(range(len(numbers)), key=cmp_to_key(compare))
    for before, index in pairwise(by_value):
        rank += compare(before, index) != 0
        ranks[index] = rank
    return ranks


def _cells(part: Condition | Combination, ranks: Sequence[int], all_cells: int) -> int:
    """One bit for each part that a set holds: bit ``2 k`` is the gap below point ``k``, ``2 k + 1`` the point."""
    if isinstance(part, Condition):
        point = 1 << (2 * ranks[part.value] + 1)
        below = point - 1
        above = all_cells & ~below & ~point
        return {"<": below, "<=": below | point, "=": point, "!=": all_cells & ~point}.get(
            part.sign, above | (point if part.sign == ">=" else 0)
        )
    cells = [_cells(member, ranks, all_cells) for member in part.parts]
    if part.how == "difference":
        return reduce(lambda left, right: left & ~right, cells)
    if part.how == "intersection":
        return reduce(lambda left, right: left & right, cells, all_cells)
    total = reduce(lambda left, right: left | right, cells, 0)
    if part.how == "separate" and total.bit_count() != sum(cell.bit_count() for cell in cells):
        raise Undecided("ambiguous")  # "x > 1, x < 3": both, or either?
    return total


class RealSet(NamedTuple):
    """A tree as a set of real numbers."""

    members: Condition | Combination
    endpoints: tuple[Expression, ...]
    label: Expression | None

    @classmethod
    def read(cls, tree: Expression) -> RealSet | None:
        """The set that a tree stands for; ``None`` where it stands for none, or holds names besides its unknown.

        Example:
            >>> from llmgym.rewards.notation.expressions import Name, Number
            >>> x, two = Name("x"), Number(2, "integer")
            >>> RealSet.read(Relation((x, two), (">",))).label
            Name(name='x')
        """
        reader = _Reader()
        try:
            members = reader.read(tree)
        except _NotASet:
            return None
        if any(label != reader.labels[0] for label in reader.labels):
            return None
        return cls(members, tuple(reader.endpoints), reader.labels[0] if reader.labels else None)


def same_set(left: RealSet, right: RealSet, work: Work) -> bool | None:
    """Whether two sets hold the same numbers; ``None`` where one is no set: ``(5, 1)`` is no interval.

    Raises:
        Undecided: If an endpoint has no value, or a list of inequalities could mean two things.
    """
    ranks = _ranks((*left.endpoints, *right.endpoints), work)
    shift = len(left.endpoints)
    all_cells = (1 << (2 * len(set(ranks)) + 1)) - 1
    if _is_reversed(left.members, ranks) or _is_reversed(right.members, ranks[shift:]):
        return None
    return _cells(left.members, ranks, all_cells) == _cells(right.members, ranks[shift:], all_cells)


def _is_reversed(part: Condition | Combination, ranks: Sequence[int]) -> bool:
    """Whether a set is made with an interval whose ends are the wrong way round."""
    if isinstance(part, Condition):
        return False
    match part:
        case Combination("intersection", (Condition(">" | ">=", low), Condition("<" | "<=", high))):
            return ranks[low] > ranks[high]
    return any(_is_reversed(member, ranks) for member in part.parts)
