"""What an answer says, as a tree of plain values. The reader (``notation``) makes it, ``comparison`` compares it.

The tree keeps what a mathematician would still have to decide: ``(1, 2)`` is :class:`Bracketed`, be it a point or an
interval; ``3:1`` is a :class:`Ratio`; ``12/4`` is an :class:`Operation` that nobody has worked out. It is immutable and
hashable, holds no floats, and its size is bounded by the reader.
"""

from __future__ import annotations

from fractions import Fraction
from operator import attrgetter
from typing import Any, ClassVar, Final, Literal, TypeAlias

#: How a literal number was written. A ``"fraction"`` is a quotient of two whole numbers that is not whole itself
#: (``6/8``; ``12/4`` is an operation); ``"words"`` are number words (``forty-two``, ``四十二``).
Form = Literal["integer", "decimal", "fraction", "mixed", "scientific", "repeating", "words"]

#: Signs of a relation, levelled: ``\\leq``, ``≤`` and ``<=`` are one.
Sign = Literal["=", "!=", "<", "<=", ">", ">=", "~", "in"]


class _Node:
    """What all trees have in common: one is equal to another of its class with equal parts.

    The parts are the slots, in the order of the arguments. No dataclass: fourteen frozen ones take as long to create as
    all else in these modules takes to be imported.
    """

    __slots__ = ()
    _names: ClassVar[tuple[str, ...]]
    _parts: ClassVar[Any]

    def __init_subclass__(cls) -> None:
        cls._names = cls.__dict__["__slots__"]
        cls._parts = attrgetter(*cls._names)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return bool(self._parts(self) == self._parts(other)) if type(self) is type(other) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._parts(self))

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._names)
        return f"{type(self).__name__}({parts})"


class Number(_Node):
    """A number written out, with its exact value: ``-3``, ``0.25``, ``3/4``, ``3 1/4``, ``1.5e3``, ``0.(3)``."""

    __slots__ = ("value", "form")  # noqa: RUF023

    def __init__(self, value: Fraction, form: Form) -> None:
        self.value: Final = value
        self.form: Final = form


class Constant(_Node):
    """A number with a name: ``"pi"``, ``"e"``, ``"i"``, ``"inf"``; or a set: ``"empty"``, ``"R"``, ``"Z"`` …"""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name: Final = name


class Name(_Node):
    """A variable: ``"x"``, ``"theta"``, ``"x_1"``. Upper and lower case differ."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name: Final = name


class Operation(_Node):
    """Something still to be worked out.

    ``name`` is one of ``add``, ``multiply``, ``divide``, ``power``, ``negate``, ``plus_minus`` (one or two operands),
    ``root`` (radicand, degree), ``log`` (argument, base), ``union``, ``intersection``, ``difference`` (of sets), or
    the name of a function: ``sin`` … ``arctan``, ``sinh`` …, ``exp``, ``abs``, ``floor``, ``ceiling``, ``factorial``,
    ``binomial``, ``gcd``, ``lcm``, ``mod``, ``max``, ``min``, and ``call:f`` for ``f(x)`` of an unknown ``f``.

    Some say more than they look: ``log`` without a base is a logarithm of unknown base; ``approximately`` is a value
    that calls itself inexact (``≈ 42``); ``endless`` is one whose digits go on (``3.14...``); ``minus_plus`` is
    ``a ∓ b``; ``determinant`` has a matrix as its operand. ``intersection`` and ``union`` may have relations as
    operands: those numbers for which they hold.
    """

    __slots__ = ("name", "operands")

    def __init__(self, name: str, operands: tuple[Expression, ...]) -> None:
        self.name: Final = name
        self.operands: Final = operands


class Quantity(_Node):
    """A value with a unit, as the canonical text of ``units.canonical``: ``"%"``, ``"°"``, ``"km/h"``, ``"apple"``."""

    __slots__ = ("value", "unit")  # noqa: RUF023

    def __init__(self, value: Expression, unit: str) -> None:
        self.value: Final = value
        self.unit: Final = unit


class Based(_Node):
    """Digits in a base that was written with them: ``1010_2``, ``152A_{11}``, ``0x1F``. Digits are upper case."""

    __slots__ = ("digits", "base")  # noqa: RUF023

    def __init__(self, digits: str, base: int) -> None:
        self.digits: Final = digits
        self.base: Final = base


class Bracketed(_Node):
    """Members in brackets, in order: a point, a vector or an interval.

    ``left`` is ``"("``, ``"["``, ``"]"`` (an open end, as the French write it) or ``"<"`` (angle brackets), ``right``
    likewise. A single bracketed member is no ``Bracketed`` but that member.
    """

    __slots__ = ("left", "right", "items")  # noqa: RUF023

    def __init__(self, left: str, right: str, items: tuple[Expression, ...]) -> None:
        self.left: Final = left
        self.right: Final = right
        self.items: Final = items


class Listing(_Node):
    """Several values without brackets, in no order: ``2, 3``, ``2 and 3``, ``x = 2 or x = 3``, ``2；3``."""

    __slots__ = ("items",)

    def __init__(self, items: tuple[Expression, ...]) -> None:
        self.items: Final = items


class Set(_Node):
    """Values in braces, in no order: ``\\{1, 2\\}``."""

    __slots__ = ("items",)

    def __init__(self, items: tuple[Expression, ...]) -> None:
        self.items: Final = items


class Matrix(_Node):
    """Rows of equal length; a column vector has rows of length 1."""

    __slots__ = ("rows",)

    def __init__(self, rows: tuple[tuple[Expression, ...], ...]) -> None:
        self.rows: Final = rows


class Relation(_Node):
    """A chain ``sides[0] signs[0] sides[1] signs[1] …``: ``x = 5``, ``1 < x <= 3``, ``x \\in [1, 2)``."""

    __slots__ = ("sides", "signs")

    def __init__(self, sides: tuple[Expression, ...], signs: tuple[Sign, ...]) -> None:
        self.sides: Final = sides
        self.signs: Final = signs


class Ratio(_Node):
    """``3:1``, ``3 : 2 : 1``, "3 to 1"."""

    __slots__ = ("parts",)

    def __init__(self, parts: tuple[Expression, ...]) -> None:
        self.parts: Final = parts


class Words(_Node):
    """Text that is no notation, levelled: case folded, single spaces, no outer punctuation or brackets.

    ``(C)`` is ``Words("c")`` as an answer by itself and so is ``C``, beside :class:`Name`: see ``notation.parse``.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text: Final = text


class Unreadable(_Node):
    """What the reader gave up on, and why: ``"too_long"``, ``"too_deep"``, ``"too_large"`` or ``"not_understood"``."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason: Final = reason


Expression: TypeAlias = (
    Number
    | Constant
    | Name
    | Operation
    | Quantity
    | Based
    | Bracketed
    | Listing
    | Set
    | Matrix
    | Relation
    | Ratio
    | Words
    | Unreadable
)
