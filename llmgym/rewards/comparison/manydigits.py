"""Many-digit evaluation of folded trees, with mpmath.

Rounding is kept from deciding anything: after each step, what is nothing but the rounding of larger operands is set to
zero (``sqrt(2)^2 - 2`` is 0, and so is the imaginary part of a real number that was reached through complex ones); the
digits grow with the length of the literals and with the span of the magnitudes met on the way (``e^1000 + 1`` and
``e^1000`` differ); two numbers that are nearly equal are evaluated again with twice the digits; and where something
tiny or huge was met, equal ones have to agree over four times the span (``cos(e^-140)`` is 1 but for its square).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

import mpmath  # type: ignore[import-untyped]

from llmgym.rewards.comparison.exact import Undecided, Work, is_opaque, opaque_name, walk
from llmgym.rewards.notation.expressions import Constant, Expression, Number, Operation

#: Bits of every evaluation (70 digits), and the most that long literals and large spans may make of them.
BASE_PRECISION = 233
MAX_PRECISION = 6_100
#: Bits at the end that rounding may spoil: what is smaller than its operands by all others is zero.
_ROUNDING = 40
#: Bits that two equal numbers may differ in: 183 of 233 have to agree, 55 digits.
_SLACK = 50
#: Two numbers that agree in so many bits but not in all are evaluated once more, with so many bits added; if they then
#: agree in almost as many more, only rounding had been between them.
_NEAR = 80
_ADDED = 256
#: A span of magnitudes beyond which equal numbers are evaluated once more, and the multiple of it to be covered then.
_WIDE = 24
_COVERED = 4
#: Bits fewer where only branches are told apart: they differ by more than a few digits.
FEWER = 100
#: The largest exponent of two that an exponential may reach, and the largest argument of the gamma function.
_MAX_EXPONENT = 5_000
#: Whole powers up to this are products, which cost next to nothing.
_MAX_PRODUCT = 1_024
_MAX_GAMMA = 200
#: Beyond this the first gamma function takes tens of milliseconds: its series is worked out for each precision anew.
_MAX_GAMMA_PRECISION = BASE_PRECISION + 96

#: An ``mpf`` or, where the imaginary part is not zero, an ``mpc``.
Value: TypeAlias = Any

# Constants are kept by mpmath in module state that two threads may not extend at once. The lock of the import makes
# one thread compute them, to more digits than are ever asked for here: functions of large arguments ask for twice ours.
_WARM = mpmath.mp.clone()
_WARM.prec = 2 * MAX_PRECISION
_CONSTANTS = [+constant for constant in (_WARM.pi, _WARM.ln2)]
_WARM.prec = MAX_PRECISION + 64
_CONSTANTS.append(+_WARM.e)

_local = threading.local()


def _context() -> Any:
    """A context of this thread: its precision is changed, and neither another thread nor the caller may see that."""
    context = getattr(_local, "context", None)
    if context is None:
        context = _local.context = mpmath.mp.clone()
    return context


class Evaluation:
    """One evaluation at one precision; remembers the span of the magnitudes it met."""

    def __init__(self, precision: int, point: dict[str, tuple[int, int]], work: Work) -> None:
        self.context = _context()
        self.context.prec = self.precision = precision
        self.point = point  # real and imaginary part of each name, in units of 2 ** -64
        self.work = work
        self.price = (precision / BASE_PRECISION) ** 1.7
        self.low = self.high = 0
        self.has_left_reals = False
        self.left_reals: list[bool] = []  # of each tree: whether a real number in it became complex, as the root of -2

    def value(self, tree: Expression) -> Value:
        """The value of a folded tree."""
        self.work.spend(_LEAF)
        if isinstance(tree, Number):
            value = tree.value
            number = self.context.mpf(value.numerator)
            return self.settle(number if value.denominator == 1 else number / value.denominator)
        if isinstance(tree, Constant):
            return self.constant(tree.name)
        if is_opaque(tree):
            real, imaginary = self.point[opaque_name(tree)]
            number = self.context.ldexp(self.context.mpf(real), -64)
            return (
                self.context.mpc(number, self.context.ldexp(self.context.mpf(imaginary), -64)) if imaginary else number
            )
        if not isinstance(tree, Operation):
            raise Undecided("unsupported")
        operands = [self.value(operand) for operand in tree.operands]
        if tree.name not in _RULES:
            raise Undecided("unsupported")
        if tree.name == "power" and self.point and not operands[0] and not isinstance(tree.operands[1], Number):
            raise Undecided("unsupported")  # 0^x is 1 where x is 0, and so singles out one point
        rule, price = _RULES[tree.name]
        if price < _ARITHMETIC:
            self.work.spend(price * max(1, len(operands) - 1))
        else:
            self.work.spend(price * self.price)
        try:
            value = rule(self, operands)
            if type(value) is self.context.mpc and not any(type(one) is self.context.mpc for one in operands):
                self.has_left_reals = True
            return value
        except (ZeroDivisionError, ValueError, OverflowError, mpmath.libmp.NoConvergence):
            raise Undecided("undefined") from None

    def constant(self, name: str) -> Value:
        if name == "i":
            return self.context.mpc(0, 1)
        if name in ("pi", "e"):
            return +getattr(self.context, name)
        raise Undecided("undefined" if name == "inf" else "unsupported")

    def magnitude(self, value: Value) -> int | None:
        """The exponent of two of a value, ``None`` for zero."""
        # Read from mpmath's own tuples (sign, mantissa, exponent, bits): its `mag` takes ten times as long.
        parts = value._mpc_ if type(value) is self.context.mpc else (value._mpf_,)
        largest: int | None = None
        for _, mantissa, exponent, bits in parts:
            if mantissa:
                if largest is None or exponent + bits > largest:
                    largest = exponent + bits
            elif exponent:  # infinite, or not a number
                raise Undecided("undefined")
        return largest

    def settle(self, value: Value, scale: int | None = None) -> Value:
        """``value`` without the parts that are only the rounding of something of magnitude ``2 ** scale``."""
        magnitude = self.magnitude(value)
        if magnitude is None:
            return self.context.zero
        if scale is None or scale < magnitude:
            scale = magnitude
        least = scale - (self.precision - _ROUNDING)
        if isinstance(value, self.context.mpc):
            real, imaginary = (
                self.context.zero if (part := self.magnitude(half)) is None or part < least else half
                for half in (value.real, value.imag)
            )
            value = self.context.mpc(real, imaginary) if imaginary else real
        elif magnitude < least:
            return self.context.zero
        if value:
            self.low, self.high = min(self.low, magnitude), max(self.high, magnitude)
        return value

    def whole(self, value: Value) -> int | None:
        """The whole number that a value is, but for rounding."""
        if isinstance(value, self.context.mpc):
            return None
        magnitude = self.magnitude(value) or 0
        if magnitude > self.precision - _ROUNDING:
            return None
        nearest = int(self.context.nint(value))
        off = self.magnitude(value - nearest)
        return nearest if off is None or off < max(magnitude, 0) - (self.precision - _ROUNDING) else None

    def snapped(self, value: Value) -> Value:
        """``value``, or the whole number that it is but for rounding: for functions that are steep or jump there."""
        whole = self.whole(value)
        return value if whole is None else self.context.mpf(whole)

    def real(self, value: Value) -> Value:
        if isinstance(value, self.context.mpc):
            raise Undecided("undefined")
        return value

    # Each of the following is a rule: operands in, value out. Division by zero is caught by `value`.

    def add(self, operands: Sequence[Value]) -> Value:
        magnitudes = [magnitude for magnitude in map(self.magnitude, operands) if magnitude is not None]
        return self.settle(self.context.fsum(operands), max(magnitudes, default=0))

    def multiply(self, operands: Sequence[Value]) -> Value:
        product = self.context.one
        for operand in operands:
            product = self.settle(product * operand)
        return product

    def divide(self, operands: Sequence[Value]) -> Value:
        quotient = operands[0]
        for operand in operands[1:]:
            quotient = self.settle(quotient / operand)
        return quotient

    def negate(self, operands: Sequence[Value]) -> Value:
        return -operands[0]

    def power(self, operands: Sequence[Value]) -> Value:
        base, exponent = operands
        exponent = self.snapped(exponent)
        if not base:
            if isinstance(exponent, self.context.mpc) or exponent <= 0:
                raise Undecided("undefined")
            return base
        if not exponent:
            return self.context.one
        whole = self.whole(exponent)
        if whole is not None and abs(whole) <= _MAX_PRODUCT:
            return self.settle(base**whole)
        self.work.spend(34 * self.price)
        if whole is None and not isinstance(base, self.context.mpc) and base < 0:
            fraction = self.simple_fraction(exponent)
            if fraction is not None and fraction.denominator % 2:
                # Odd roots of negative numbers are the real ones, as they are taught: (-8)^(1/3) is -2.
                root = self.exponential(exponent * self.context.log(-base))
                return -root if fraction.numerator % 2 else root
        return self.exponential(exponent * self.context.log(base))

    def simple_fraction(self, value: Value) -> Fraction | None:
        """The fraction with a small denominator that a real value is, but for rounding."""
        if isinstance(value, self.context.mpc) or (self.magnitude(value) or 0) > 64:
            return None
        for denominator in range(1, 33):
            whole = self.whole(value * denominator)
            if whole is not None:
                return Fraction(whole, denominator)
        return None

    def exponential(self, exponent: Value) -> Value:
        magnitude = self.magnitude(exponent)
        if magnitude is None:
            return self.context.one
        if magnitude > 13 and abs(exponent) > _MAX_EXPONENT * self.context.ln2:
            raise Undecided("too_large")
        value = self.context.exp(exponent)
        return self.settle(value, int(self.context.mag(value)) + max(0, magnitude))

    def exp(self, operands: Sequence[Value]) -> Value:
        return self.exponential(operands[0])

    def root(self, operands: Sequence[Value]) -> Value:
        radicand, degree = operands if len(operands) == 2 else (operands[0], self.context.mpf(2))
        degree = self.snapped(degree)
        if degree == 2:
            self.work.spend(8 * self.price**0.5)
            return self.settle(self.context.sqrt(radicand))
        self.work.spend(30 * self.price)
        return self.power([radicand, 1 / degree])

    def log(self, operands: Sequence[Value]) -> Value:
        logarithms = [
            self.settle(self.context.log(self.snapped(operand)), 0) for operand in operands if self.nonzero(operand)
        ]
        return logarithms[0] if len(logarithms) == 1 else self.settle(logarithms[0] / logarithms[1])

    def nonzero(self, value: Value) -> bool:
        if not value:
            raise Undecided("undefined")
        return True

    def abs(self, operands: Sequence[Value]) -> Value:
        return abs(operands[0])

    def floor(self, operands: Sequence[Value]) -> Value:
        return self.settle(self.context.floor(self.snapped(self.real(operands[0]))))

    def ceiling(self, operands: Sequence[Value]) -> Value:
        return self.settle(self.context.ceil(self.snapped(self.real(operands[0]))))

    def max(self, operands: Sequence[Value]) -> Value:
        return max(self.real(operand) for operand in operands)

    def min(self, operands: Sequence[Value]) -> Value:
        return min(self.real(operand) for operand in operands)

    def mod(self, operands: Sequence[Value]) -> Value:
        value, modulus = (self.real(operand) for operand in operands)
        times = self.context.floor(self.snapped(value / modulus))
        return self.add([value, -times * modulus])

    def factorial(self, operands: Sequence[Value]) -> Value:
        return self.gamma(operands[0] + 1)

    def gamma(self, argument: Value) -> Value:
        argument = self.snapped(argument)
        if abs(argument) > _MAX_GAMMA or self.precision > _MAX_GAMMA_PRECISION:
            raise Undecided("too_large")
        self.work.spend((20 if self.whole(argument) is not None else 200) * self.price)
        return self.settle(self.context.gamma(argument))

    def binomial(self, operands: Sequence[Value]) -> Value:
        above, below = operands
        chosen = self.whole(below)
        if chosen is None:
            below_factorials = self.gamma(below + 1) * self.gamma(above - below + 1)
            return self.settle(self.gamma(above + 1) / below_factorials)
        if chosen > _MAX_GAMMA:
            raise Undecided("too_large")
        self.work.spend(6 * max(chosen, 0) * self.price)
        product = self.context.mpf(chosen >= 0)
        for index in range(chosen):
            product = self.settle(product * self.add([above, self.context.mpf(-index)]) / (index + 1))
        return product

    def function(self, name: str, argument: Value) -> Value:
        """A function of one argument by its name in mpmath."""
        magnitude = self.magnitude(argument) or 0
        if magnitude > _MAX_EXPONENT:
            raise Undecided("too_large")
        if name in ("sinh", "cosh", "tanh") or isinstance(argument, self.context.mpc):
            # They hold exponentials of the argument, or of its imaginary part.
            self.exponential(self.context.mpf(abs(argument)))
        value = getattr(self.context, name)(argument)
        return self.settle(value, max(0, magnitude, self.magnitude(value) or 0))


def _function(name: str) -> Callable[[Evaluation, Sequence[Value]], Value]:
    return lambda evaluation, operands: evaluation.function(name, operands[0])


def _quotient(above: str | None, below: str) -> Callable[[Evaluation, Sequence[Value]], Value]:
    """``tan`` and its like as quotients, so that a pole is a division by zero and no large number."""

    def rule(evaluation: Evaluation, operands: Sequence[Value]) -> Value:
        (argument,) = operands
        numerator = evaluation.context.one if above is None else evaluation.function(above, argument)
        return evaluation.settle(numerator / evaluation.function(below, argument))

    return rule


def _inverse(name: str, *, of_reciprocal: bool = False) -> Callable[[Evaluation, Sequence[Value]], Value]:
    """Inverse functions are steep or jump at whole numbers: there the argument must not be off by its rounding."""

    def rule(evaluation: Evaluation, operands: Sequence[Value]) -> Value:
        argument = 1 / operands[0] if of_reciprocal else operands[0]
        return evaluation.function(name, evaluation.snapped(argument))

    return rule


def _arccot(evaluation: Evaluation, operands: Sequence[Value]) -> Value:
    """Between 0 and pi."""
    half_pi = evaluation.context.pi / 2
    return evaluation.add([half_pi, -evaluation.function("atan", evaluation.snapped(operands[0]))])


_Rule: TypeAlias = Callable[[Evaluation, Sequence[Value]], Value]
#: What costs less is arithmetic, whose price hardly grows with the precision.
_ARITHMETIC = 10
_LEAF = 2
#: Rule, and price in steps of :class:`Work` at the base precision.
_RULES: dict[str, tuple[_Rule, int]] = {
    "add": (Evaluation.add, 6),
    "multiply": (Evaluation.multiply, 6),
    "divide": (Evaluation.divide, 7),
    "negate": (Evaluation.negate, 2),
    "power": (Evaluation.power, 8),
    "root": (Evaluation.root, 3),
    "exp": (Evaluation.exp, 20),
    "log": (Evaluation.log, 30),
    "abs": (Evaluation.abs, 5),
    "floor": (Evaluation.floor, 9),
    "ceiling": (Evaluation.ceiling, 9),
    "max": (Evaluation.max, 3),
    "min": (Evaluation.min, 3),
    "mod": (Evaluation.mod, 9),
    "factorial": (Evaluation.factorial, 9),
    "binomial": (Evaluation.binomial, 9),
    "sin": (_function("sin"), 25),
    "cos": (_function("cos"), 25),
    "tan": (_quotient("sin", "cos"), 60),
    "cot": (_quotient("cos", "sin"), 60),
    "sec": (_quotient(None, "cos"), 40),
    "csc": (_quotient(None, "sin"), 40),
    "sinh": (_function("sinh"), 50),
    "cosh": (_function("cosh"), 50),
    "tanh": (_quotient("sinh", "cosh"), 90),
    "coth": (_quotient("cosh", "sinh"), 90),
    "sech": (_quotient(None, "cosh"), 60),
    "csch": (_quotient(None, "sinh"), 60),
    "arcsin": (_inverse("asin"), 60),
    "arccos": (_inverse("acos"), 60),
    "arctan": (_inverse("atan"), 40),
    "arccot": (_arccot, 40),
    "arcsec": (_inverse("acos", of_reciprocal=True), 60),
    "arccsc": (_inverse("asin", of_reciprocal=True), 60),
    "arcsinh": (_inverse("asinh"), 60),
    "arccosh": (_inverse("acosh"), 60),
    "arctanh": (_inverse("atanh"), 60),
}


# --- Precision --------------------------------------------------------------------------------------------------------


def _literal_bits(trees: Sequence[Expression]) -> int:
    """Bits of the long literals in trees; short ones come to nothing beside those every evaluation has."""
    values = (node.value for tree in trees for node in walk(tree) if isinstance(node, Number))
    return sum(max(0, value.numerator.bit_length() + value.denominator.bit_length() - 24) for value in values)


Point: TypeAlias = dict[str, tuple[int, int]]


def afford(trees: Sequence[Expression], times: int, work: Work) -> None:
    """Refuse at once what could not be paid for in the end.

    Raises:
        Undecided: If evaluating the trees so many times costs more than is left.
    """
    price = sum(
        _LEAF + (_RULES[node.name][1] * max(1, len(node.operands) - 1) if node.name in _RULES else 0)
        for tree in trees
        for node in walk(tree)
        if isinstance(node, Operation)
    )
    if price * times > work.left:
        raise Undecided("too_large")


def evaluate(trees: Sequence[Expression], point: Point, work: Work, extra: int = 0) -> tuple[Evaluation, list[Value]]:
    """Values at a precision that covers every magnitude met on the way."""
    literal_bits = _literal_bits(trees)
    precision = BASE_PRECISION + literal_bits + extra
    while True:
        if precision > MAX_PRECISION:
            raise Undecided("too_large")
        evaluation = Evaluation(precision, point, work)
        failure: Undecided | None = None
        values: list[Value] = []
        try:
            for tree in trees:
                evaluation.has_left_reals = False
                values.append(evaluation.value(tree))
                evaluation.left_reals.append(evaluation.has_left_reals)
        except Undecided as undecided:
            if undecided.reason != "undefined":
                raise
            failure = undecided  # it may have divided by something that was only rounded to zero
        needed = BASE_PRECISION + literal_bits + extra + evaluation.high - evaluation.low
        # The span of a value at a point is a few bits. What a few bits more could show is within the slack.
        if needed <= precision + 24:
            if failure is not None:
                raise failure
            return evaluation, values
        precision = needed


def evaluate_widely(trees: Sequence[Expression], point: Point, work: Work) -> tuple[Evaluation, list[Value]]:
    """As :func:`evaluate`, at a multiple of the span where something tiny or huge is met."""
    evaluation, values = evaluate(trees, point, work)
    span = evaluation.high - evaluation.low
    return (evaluation, values) if span <= _WIDE else evaluate(trees, point, work, extra=(_COVERED - 1) * span)


def agreement(evaluation: Evaluation, one: Value, other: Value, precision: int | None = None) -> int:
    """Leading bits in which two values agree; the precision where they agree in all that count."""
    if precision is None:
        precision = evaluation.precision
    magnitudes = evaluation.magnitude(one), evaluation.magnitude(other)
    off = evaluation.magnitude(one - other)
    if off is None:
        return precision
    if magnitudes[0] is None or magnitudes[1] is None:
        return 0  # what is only rounding has been set to zero before
    agreed = max(magnitudes[0], magnitudes[1]) - off
    return precision if agreed > precision - _SLACK else agreed


def same_at(trees: Sequence[Expression], point: Point, work: Work, *, is_far: bool = False) -> bool:
    """Whether two trees have one value at a point.

    Far away, where coordinates alone make large spans, these are not covered once more and fewer digits do; and two
    functions also agree where neither is real: ``ln(1 - x)`` beyond 1.
    """
    evaluation, (one, other) = evaluate(trees, point, work, extra=-FEWER if is_far else 0)
    if is_far and all(evaluation.left_reals):
        return True
    agreed = agreement(evaluation, one, other)
    if agreed == evaluation.precision:
        span = evaluation.high - evaluation.low
        if is_far or span <= _WIDE:
            return True
        evaluation, (one, other) = evaluate(trees, point, work, extra=(_COVERED - 1) * span)
        return agreement(evaluation, one, other) == evaluation.precision
    if agreed <= _NEAR:
        return False
    evaluation, (one, other) = evaluate(trees, point, work, extra=_ADDED)
    return agreement(evaluation, one, other) > agreed + _ADDED - _SLACK


def is_positive(value: Value) -> bool:
    """Whether a value is a positive real number."""
    return isinstance(value, _context().mpf) and bool(value > 0)
