"""Exact values of trees: whatever is rational is worked out with fractions, within bounds.

A number is bounded before it is worked out, and every operation is paid for from a :class:`Work` that ends: nothing
here takes long, whatever the tree. What cannot be decided is said to be so (:class:`Undecided`), never guessed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import combinations, permutations
from typing import TypeAlias

from llmgym.rewards.notation.expressions import Based, Constant, Expression, Matrix, Name, Number, Operation, Quantity

#: Bits of a rational number, numerator and denominator together: 20,000 are about 6,000 digits.
MAX_BITS = 20_000
#: Operations within operations. The reader allows fewer; trees may be built by hand.
MAX_DEPTH = 150
#: Rows of a determinant.
MAX_DETERMINANT = 4

#: Whole numbers stay ``int``: several times quicker than ``Fraction``, and as exact.
Rational: TypeAlias = int | Fraction


class Undecided(Exception):
    """Why a value could not be found: ``"too_large"``, ``"undefined"`` or ``"unsupported"``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Work:
    """How much may still be computed, in steps of very roughly a microsecond: the same verdict on a slow machine."""

    __slots__ = ("left",)

    def __init__(self, steps: float = 14_000) -> None:
        self.left = steps

    def spend(self, steps: float) -> None:
        """Pay for an operation before it is done.

        Raises:
            Undecided: If nothing is left.
        """
        self.left -= steps
        if self.left < 0:
            raise Undecided("too_large")


# --- Exact values -----------------------------------------------------------------------------------------------------


def fold(tree: Expression, work: Work, depth: int = 0) -> Rational | Expression:
    """The tree with every rational part of it worked out.

    Returns:
        A number where the whole tree is rational, otherwise an equal tree.

    Raises:
        Undecided: If a part divides by zero, is too large, or has no single value.

    Example:
        >>> half = Operation("divide", (Number(Fraction(3), "integer"), Number(Fraction(6), "integer")))
        >>> fold(half, Work())
        Fraction(1, 2)
    """
    if isinstance(tree, Number):
        return bounded(_plain(tree.value), work)
    if isinstance(tree, Operation):
        if depth > MAX_DEPTH:
            raise Undecided("too_large")
        if tree.name == "determinant":
            return fold(_expanded_determinant(tree), work, depth + 1)
        if len(tree.operands) not in _ARITY.get(tree.name, _ANY_NUMBER) or is_derivative(tree):
            raise Undecided("unsupported")
        operands = [fold(operand, work, depth + 1) for operand in tree.operands]
        rule = _EXACT.get(tree.name)
        if rule is not None:
            values = [operand for operand in operands if isinstance(operand, (int, Fraction))]
            value = rule(values, work) if len(values) == len(operands) else None
            if value is not None:
                return bounded(_plain(value), work)
        work.spend(1)
        return Operation(tree.name, tuple(as_tree(operand) for operand in operands))
    if isinstance(tree, Based):
        return bounded(int(tree.digits, tree.base), work)
    if isinstance(tree, Quantity) and tree.unit == "%":
        return fold(Operation("divide", (tree.value, _HUNDRED)), work, depth + 1)
    if isinstance(tree, Quantity) and tree.unit == "°":
        return fold(Operation("multiply", (tree.value, DEGREE)), work, depth + 1)
    if isinstance(tree, (Name, Constant)):
        return tree
    raise Undecided("unsupported")


def as_tree(value: Rational | Expression) -> Expression:
    """A number as the tree of a literal; a tree as it is."""
    return Number(Fraction(value), "integer") if isinstance(value, (int, Fraction)) else value


def bounded(value: Rational, work: Work) -> Rational:
    """``value``, paid for.

    Raises:
        Undecided: If it has too many bits.
    """
    bits = value.bit_length() if isinstance(value, int) else size_in_bits(value)
    if bits > MAX_BITS:
        raise Undecided("too_large")
    work.spend(0.5 + (bits / 700) ** 2)  # greatest common divisors take quadratic time
    return value


def _plain(value: Rational) -> Rational:
    return value.numerator if value.denominator == 1 else value


def size_in_bits(value: Rational) -> int:
    """Bits of numerator and denominator together."""
    return value.numerator.bit_length() + value.denominator.bit_length()


def _multiply(values: Sequence[Rational], work: Work) -> Rational:
    product: Rational = 1
    for value in values:
        product = bounded(product * value, work)
    return product


def _add(values: Sequence[Rational], work: Work) -> Rational:
    total: Rational = 0
    for value in values:
        total = bounded(total + value, work)
    return total


def _divide(values: Sequence[Rational], work: Work) -> Rational:
    quotient, *divisors = values
    for divisor in divisors:
        if divisor == 0:
            raise Undecided("undefined")
        quotient = bounded(_plain(Fraction(quotient) / divisor), work)
    return quotient


def power(base: Rational, exponent: Rational, work: Work) -> Rational | None:
    """``base ** exponent`` where that is rational; odd roots of negative numbers are the real ones.

    Example:
        >>> power(8, Fraction(-2, 3), Work()), power(2, Fraction(1, 2), Work())
        (Fraction(1, 4), None)
    """
    if base == 0:
        if exponent <= 0:
            raise Undecided("undefined")
        return 0
    if base == 1:
        return 1
    if exponent.denominator != 1:
        root = _exact_root(base, exponent.denominator, work)
        if root is None:
            return None
        base, exponent = root, exponent.numerator
    times = int(exponent)
    if base in (1, -1):
        return base if times % 2 else 1
    if max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(times) > MAX_BITS:
        # A literal such as 2 ** 20_000 has one bit more than is counted here; it may be refused as well.
        raise Undecided("too_large")
    work.spend((size_in_bits(base) * abs(times) / 700) ** 2)
    return _plain(Fraction(base) ** times)


def _exact_root(value: Rational, degree: int, work: Work) -> Rational | None:
    """The root where it is rational, negative where an odd root is taken of a negative number."""
    if value < 0:
        if degree % 2 == 0:
            return None
        root = _exact_root(-value, degree, work)
        return None if root is None else -root
    above, below = _whole_root(value.numerator, degree, work), _whole_root(value.denominator, degree, work)
    return None if above is None or below is None else Fraction(above, below)


def _whole_root(value: int, degree: int, work: Work) -> int | None:
    if value < 2:
        return value
    bits = value.bit_length()
    if degree >= bits:
        return None  # 2 ** degree is larger already
    if degree == 2:
        root = math.isqrt(value)
    else:
        # Newton's iteration from above; it falls until it has reached the floor of the root.
        root, following = 0, 1 << -(-bits // degree)
        while not root or following < root:
            work.spend(1 + (bits / 700) ** 2)
            root = following
            following = ((degree - 1) * root + value // root ** (degree - 1)) // degree
    return root if root**degree == value else None


def _root(values: Sequence[Rational], work: Work) -> Rational | None:
    radicand, degree = values if len(values) == 2 else (values[0], 2)
    if degree == 0:
        raise Undecided("undefined")
    return power(radicand, _plain(1 / Fraction(degree)), work)


def _whole(values: Sequence[Rational]) -> list[int]:
    if any(value.denominator != 1 for value in values):
        raise Undecided("undefined")
    return [int(value) for value in values]


def _factorial(values: Sequence[Rational], work: Work) -> Rational | None:
    (value,) = values
    if value.denominator != 1:
        return None  # the gamma function
    if value < 0:
        raise Undecided("undefined")
    if value > 5_000 or math.lgamma(float(value) + 1) > MAX_BITS * math.log(2):
        raise Undecided("too_large")
    work.spend(int(value) / 10)
    return math.factorial(int(value))


def _binomial(values: Sequence[Rational], work: Work) -> Rational | None:
    above, below = values
    if above.denominator != 1 or below.denominator != 1:
        return None
    if above < 0:
        raise Undecided("undefined")
    if not 0 <= below <= above:
        return 0
    chosen = int(min(below, above - below))
    if chosen * int(above).bit_length() > MAX_BITS:
        raise Undecided("too_large")
    work.spend(chosen / 2)
    return math.comb(int(above), chosen)


def _modulo(values: Sequence[Rational], work: Work) -> Rational:
    value, modulus = values
    if modulus == 0:
        raise Undecided("undefined")
    return value % modulus


_EXACT: dict[str, Callable[[Sequence[Rational], Work], Rational | None]] = {
    "add": _add,
    "multiply": _multiply,
    "divide": _divide,
    "negate": lambda values, work: -values[0],
    "power": lambda values, work: power(values[0], values[1], work),
    "root": _root,
    "abs": lambda values, work: abs(Fraction(values[0])),
    "floor": lambda values, work: math.floor(Fraction(values[0])),
    "ceiling": lambda values, work: math.ceil(Fraction(values[0])),
    "factorial": _factorial,
    "binomial": _binomial,
    "gcd": lambda values, work: math.gcd(*_whole(values)),
    "lcm": lambda values, work: _least_multiple(_whole(values), work),
    "mod": _modulo,
    "max": lambda values, work: max(values, key=Fraction),
    "min": lambda values, work: min(values, key=Fraction),
}


def _expanded_determinant(tree: Operation) -> Expression:
    """A determinant as the sum of products that it is (Leibniz)."""
    (matrix,) = tree.operands
    if not isinstance(matrix, Matrix) or not 1 <= len(matrix.rows) == len(matrix.rows[0]) <= MAX_DETERMINANT:
        raise Undecided("unsupported")
    terms: list[Expression] = []
    for columns in permutations(range(len(matrix.rows))):
        product = Operation("multiply", tuple(row[column] for row, column in zip(matrix.rows, columns, strict=True)))
        inversions = sum(one > other for one, other in combinations(columns, 2))
        terms.append(Operation("negate", (product,)) if inversions % 2 else product)
    return Operation("add", tuple(terms))


_ANY_NUMBER = range(1, 1 << 30)
#: How many operands an operation has; those not named here have one, or any number.
_ARITY: dict[str, Sequence[int]] = dict.fromkeys(
    (
        *("negate", "abs", "floor", "ceiling", "factorial", "exp", "sin", "cos", "tan", "cot", "sec", "csc"),
        *("sinh", "cosh", "tanh", "coth", "sech", "csch", "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc"),
        *("arcsinh", "arccosh", "arctanh"),
    ),
    (1,),
)
_ARITY |= {"divide": (2,), "power": (2,), "mod": (2,), "binomial": (2,), "root": (1, 2), "log": (1, 2)}


def _least_multiple(values: Sequence[int], work: Work) -> int:
    multiple = 1
    for value in values:
        multiple = int(bounded(math.lcm(multiple, value), work))
    return multiple


#: Operations whose operands may stand in any order.
_COMMUTATIVE = frozenset({"add", "multiply", "max", "min", "gcd", "lcm"})
#: The sign of a differential; as a name by itself, it is one like any other.
_D = Name("d")
_HUNDRED = Number(Fraction(100), "integer")
#: One degree, in radians.
DEGREE = Operation("divide", (Constant("pi"), Number(Fraction(180), "integer")))


# --- Names and points -------------------------------------------------------------------------------------------------


def is_opaque(tree: Expression) -> bool:
    """Whether a tree stands for an unknown number: a name, or an unknown function of something."""
    return isinstance(tree, Name) or (isinstance(tree, Operation) and tree.name.startswith("call:"))


def opaque_name(tree: Expression) -> str:
    """What tells one unknown number from another."""
    if isinstance(tree, Name):
        return tree.name
    try:
        return canonical_text(tree)
    except Undecided:  # f of a point, of a set
        return repr(tree)


def is_derivative(tree: Expression) -> bool:
    """Whether a quotient is no quotient: ``dy/dx``, ``d^2 y/dx^2``, ``d/dx``."""
    if not isinstance(tree, Operation) or tree.name != "divide" or len(tree.operands) != 2:
        return False
    above, below = map(_factors, tree.operands)
    return _D in below[:-1] and any(
        factor == _D or (isinstance(factor, Operation) and factor.name == "power" and factor.operands[0] == _D)
        for factor in above
    )


def _factors(tree: Expression) -> tuple[Expression, ...]:
    while isinstance(tree, Operation) and tree.name == "negate":
        (tree,) = tree.operands
    return tree.operands if isinstance(tree, Operation) and tree.name == "multiply" else (tree,)


def walk(tree: Expression) -> Iterator[Expression]:
    """The tree and what it is made of, as far as it is made of operations and quantities."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, Operation) and not is_opaque(node):
            waiting.extend(node.operands)
        elif isinstance(node, Quantity):
            waiting.append(node.value)


def free_names(*trees: Rational | Expression) -> list[str]:
    """Names of the unknown numbers in trees, sorted.

    Example:
        >>> free_names(Operation("add", (Name("y"), Name("x"), Name("x"))))
        ['x', 'y']
    """
    nodes = (node for tree in trees if not isinstance(tree, (int, Fraction)) for node in walk(tree))
    return sorted({opaque_name(node) for node in nodes if is_opaque(node)})


def canonical_text(tree: Expression, depth: int = 0) -> str:
    """A text that two trees share exactly where they are one, but for the order of terms and factors.

    Raises:
        Undecided: If the tree is too deep.

    Example:
        >>> x, y = Name("x"), Name("y")
        >>> canonical_text(Operation("add", (x, y))) == canonical_text(Operation("add", (y, x)))
        True
    """
    if depth > MAX_DEPTH:
        raise Undecided("too_large")
    if isinstance(tree, Number):
        return f"{tree.value.numerator:x}/{tree.value.denominator:x}"  # decimal digits would take quadratic time
    if isinstance(tree, Operation):
        parts = [canonical_text(operand, depth + 1) for operand in tree.operands]
        if tree.name in _COMMUTATIVE:
            parts.sort()
        return f"{tree.name}({','.join(parts)})"
    if isinstance(tree, Quantity):
        return f"{tree.unit!r}({canonical_text(tree.value, depth + 1)})"
    if isinstance(tree, (Name, Constant, Based)):
        return repr(tree)
    raise Undecided("unsupported")


class Chance:
    """Numbers drawn for the comparison of two trees, the same in every process.

    They depend on both trees, so that nobody can write a tree that vanishes wherever it is looked at.
    """

    __slots__ = ("_seed",)

    def __init__(self, left: Rational | Expression, right: Rational | Expression) -> None:
        both = "\n".join(sorted((canonical_text(as_tree(left)), canonical_text(as_tree(right)))))
        self._seed = hashlib.sha256(both.encode("utf-8", "surrogatepass"))

    def number(self, name: str, index: int | str) -> int:
        """128 bits that belong to a name and an index."""
        digest = self._seed.copy()
        digest.update(f"\n{name}\n{index}".encode("utf-8", "surrogatepass"))
        return int.from_bytes(digest.digest()[:16], "big")

    def whole_point(self, names: Sequence[str], index: int) -> dict[str, int]:
        """An odd number of 64 bits for each name."""
        return {name: (self.number(name, index) >> 64) | 1 for name in names}


def at_whole_point(tree: Rational | Expression, point: dict[str, int], work: Work) -> Rational | None:
    """The exact value of a rational function at a whole number for each name.

    Returns:
        The value; ``None`` where the folded ``tree`` is no rational function, or too large to be worked out exactly.

    Raises:
        Undecided: If it divides by zero there.
    """
    if isinstance(tree, (int, Fraction)):
        return tree
    if isinstance(tree, Number):
        return _plain(tree.value)
    if isinstance(tree, Name):
        return point[tree.name]
    if not isinstance(tree, Operation):
        return None
    if is_opaque(tree):
        return point[opaque_name(tree)]
    if tree.name not in ("add", "multiply", "divide", "negate", "power"):
        return None
    if tree.name == "power" and not (isinstance(tree.operands[1], Number) and tree.operands[1].value.denominator == 1):
        return None
    values: list[Rational] = []
    for operand in tree.operands:
        value = at_whole_point(operand, point, work)
        if value is None:
            return None
        values.append(value)
    try:
        return _EXACT[tree.name](values, work)
    except Undecided as undecided:
        if undecided.reason == "too_large" and work.left >= 0:
            return None  # digits will do
        raise
