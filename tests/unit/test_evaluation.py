"""Values of trees: exact fractions, many digits, functions at fixed points, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from fractions import Fraction
from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgym.rewards.comparison.equality import Comparison
from llmgym.rewards.comparison.evaluation import factor_between, is_close, order, same_value, within
from llmgym.rewards.comparison.exact import (
    Chance,
    Undecided,
    Work,
    canonical_text,
    fold,
    free_names,
    is_derivative,
    power,
)
from llmgym.rewards.comparison.verdicts import STRICT, Leniency
from llmgym.rewards.notation.expressions import Based, Constant, Expression, Listing, Name, Number, Operation, Quantity

PI, E, IMAGINARY = Constant("pi"), Constant("e"), Constant("i")
X, Y = Name("x"), Name("y")


def tree(value: Expression | int | str | Fraction) -> Expression:
    return Number(Fraction(value), "integer") if isinstance(value, (int, str, Fraction)) else value


def op(name: str, *operands: Expression | int | str | Fraction) -> Operation:
    return Operation(name, tuple(map(tree, operands)))


def add(*operands: Expression | int | str | Fraction) -> Operation:
    return op("add", *operands)


def mul(*operands: Expression | int | str | Fraction) -> Operation:
    return op("multiply", *operands)


def neg(operand: Expression | int | str | Fraction) -> Operation:
    return op("negate", operand)


def sqrt(operand: Expression | int | str | Fraction) -> Operation:
    return op("root", operand, 2)


def pow_(base: Expression | int, exponent: Expression | int | str) -> Operation:
    return op("power", base, exponent)


def ln(operand: Expression | int) -> Operation:
    return op("log", operand, E)


# --- Exact ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (add("1/2", "1/3"), "5/6"),
        (mul("2/3", 9, "1/2"), 3),
        (op("divide", 3, 6), "1/2"),
        (neg("-0.25"), "0.25"),
        (pow_(2, 10), 1024),
        (pow_(4, "-1/2"), "1/2"),
        (pow_(-8, "1/3"), -2),
        (pow_(-8, "2/3"), 4),
        (op("power", "4/9", "3/2"), "8/27"),
        (sqrt(16), 4),
        (op("root", -27, 3), -3),
        (op("root", 10**30, 3), 10**10),
        (op("factorial", 5), 120),
        (op("binomial", 10, 3), 120),
        (op("binomial", 3, 10), 0),
        (op("gcd", 12, 18), 6),
        (op("lcm", 4, 6, 10), 60),
        (op("mod", 17, 5), 2),
        (op("mod", -1, 5), 4),
        (op("abs", "-7/2"), "7/2"),
        (op("floor", "-7/2"), -4),
        (op("ceiling", "7/2"), 4),
        (op("max", 3, "7/2", -1), "7/2"),
        (op("min", 3, "7/2", -1), -1),
        (Based("1010", 2), 10),
        (Quantity(tree(28), "%"), "0.28"),
        (mul(Quantity(tree(50), "%"), 20), 10),
    ],
)
def test_rational_values_are_exact(expression: Expression, value: int | str) -> None:
    assert fold(expression, Work()) == Fraction(value)
    assert same_value(expression, tree(value))
    assert not same_value(expression, tree(Fraction(value) + Fraction(1, 10**200)))


@pytest.mark.parametrize(
    ("base", "exponent", "root"),
    [(2, "1/2", None), (8, "1/3", 2), (-4, "1/2", None), (7**11, "3/11", 343), (7**11 + 1, "1/11", None), (2, "1/999999999", None)],
)  # fmt: skip
def test_roots_are_exact_where_they_are_rational(base: int, exponent: str, root: int | None) -> None:
    assert power(base, Fraction(exponent), Work()) == root


# --- Many digits ------------------------------------------------------------------------------------------------------

#: Values to fifty digits, from tables.
DIGITS = {
    "sqrt 2": (sqrt(2), "1.4142135623730950488016887242096980785696718753769"),
    "pi": (PI, "3.1415926535897932384626433832795028841971693993751"),
    "e": (E, "2.7182818284590452353602874713526624977572470936999"),
    "ln 2": (ln(2), "0.69314718055994530941723212145817656807550013436025"),
    "golden ratio": (op("divide", add(1, sqrt(5)), 2), "1.6180339887498948482045868343656381177203091798058"),
    "sin 1": (op("sin", 1), "0.84147098480789650665250232163029899962256306079837"),
    "cos 1": (op("cos", 1), "0.54030230586813971740093660744297660373231042061792"),
    "arctan 1/2": (op("arctan", "1/2"), "0.46364760900080611621425623146121440202853705428612"),
    "cube root of 2": (op("root", 2, 3), "1.2599210498948731647672106072782283505702514647015"),
    "log10 2": (op("log", 2, 10), "0.30102999566398119521373889472449302676818988146210"),
    "exp 1/2": (op("exp", "1/2"), "1.6487212707001281468486507878141635716537761007101"),
}


@pytest.mark.parametrize("name", DIGITS)
def test_irrational_values_agree_with_tables(name: str) -> None:
    expression, digits = DIGITS[name]
    assert is_close(expression, tree(digits), 1e-48, 0.0)
    assert not same_value(expression, tree(digits))
    assert order(expression, tree(Fraction(digits) + Fraction(1, 10**47))) == -1


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (op("divide", 1, sqrt(2)), op("divide", sqrt(2), 2)),
        (add(pow_(sqrt(2), 2), -2), 0),
        (sqrt(add(5, mul(2, sqrt(6)))), add(sqrt(2), sqrt(3))),
        (op("root", add(2, sqrt(5)), 3), op("divide", add(1, sqrt(5)), 2)),
        (op("log", 8, 2), 3),
        (op("log", "1/8", 2), -3),
        (op("sin", op("divide", PI, 6)), "1/2"),
        (op("sin", Quantity(tree(30), "°")), "1/2"),
        (op("tan", op("divide", PI, 4)), 1),
        (op("sec", op("divide", PI, 3)), 2),
        (op("csc", op("divide", PI, 6)), 2),
        (op("cot", op("divide", PI, 4)), 1),
        (op("arccos", -1), PI),
        (op("arccos", op("divide", pow_(sqrt(2), 2), -2)), PI),
        (op("arcsin", 1), op("divide", PI, 2)),
        (op("arccot", -1), op("divide", mul(3, PI), 4)),
        (op("arcsec", 2), op("divide", PI, 3)),
        (op("arccsc", 2), op("divide", PI, 6)),
        (op("arcsinh", op("sinh", 2)), 2),
        (op("arccosh", op("cosh", 2)), 2),
        (op("arctanh", op("tanh", 2)), 2),
        (mul(op("coth", 2), op("tanh", 2)), 1),
        (mul(op("sech", 2), op("cosh", 2)), 1),
        (mul(op("csch", 2), op("sinh", 2)), 1),
        (add(pow_(E, mul(IMAGINARY, PI)), 1), 0),
        (pow_(add(1, IMAGINARY), 2), mul(2, IMAGINARY)),
        (sqrt(-4), mul(2, IMAGINARY)),
        (op("abs", add(3, mul(4, IMAGINARY))), 5),
        (op("floor", pow_(sqrt(2), 2)), 2),
        (op("ceiling", mul(sqrt(2), sqrt(2))), 2),
        (op("floor", PI), 3),
        (op("mod", add(PI, 5), 5), PI),
        (op("max", PI, E), PI),
        (op("factorial", "1/2"), op("divide", sqrt(PI), 2)),
        (add(pow_(E, 1000), 1), add(1, pow_(E, 1000))),
        (op("divide", 1, add(add(pow_(E, 1000), 1), neg(pow_(E, 1000)))), 1),
        (pow_(10, op("log", 5, 10)), 5),
        (op("log", -1, E), mul(IMAGINARY, PI)),
    ],
)
def test_equal_numbers(left: Expression, right: Expression | int | str) -> None:
    assert same_value(left, tree(right))
    assert same_value(tree(right), left)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (op("divide", 1, pow_(2, 99)), op("divide", 1, pow_(2, 98))),
        (add(sqrt(2), Fraction(1, 10**40)), sqrt(2)),
        (add(sqrt(2), Fraction(1, 10**400)), sqrt(2)),
        (add(pow_(E, 1000), 1), pow_(E, 1000)),
        (mul(sqrt(2), add(1, Fraction(1, 10**70))), sqrt(2)),
        (pow_(add(sqrt(2), Fraction(1, 10**40)), 2), add(2, mul(2, sqrt(2), Fraction(1, 10**40)))),
        (op("exp", mul(PI, sqrt(163))), 262537412640768744),
        (PI, "355/113"),
        (sqrt(-4), -2),
        (op("sin", pow_(10, 100)), 0),
        (IMAGINARY, neg(IMAGINARY)),
        (op("log", -1, E), neg(mul(IMAGINARY, PI))),
    ],
)
def test_different_numbers(left: Expression, right: Expression | int | str) -> None:
    assert not same_value(left, tree(right))
    assert not same_value(tree(right), left)


def test_order_of_real_numbers() -> None:
    assert order(sqrt(2), tree("3/2")) == -1
    assert order(tree("3/2"), sqrt(2)) == 1
    assert order(mul(sqrt(2), sqrt(3)), sqrt(6)) == 0
    assert order(tree(1), tree("1/2")) == 1
    with pytest.raises(Undecided):
        order(IMAGINARY, tree(1))
    with pytest.raises(Undecided):
        order(X, tree(1))


def test_closeness_is_that_of_math_isclose() -> None:
    assert is_close(PI, tree("3.14"), 0.0, 0.002)
    assert not is_close(PI, tree("3.14"), 0.0, 0.001)
    assert is_close(tree(10**400), tree(10**400 + 1), 1e-9, 0.0)
    assert not is_close(tree(0), tree(Fraction(1, 10**400)), 0.5, 0.0)
    assert not is_close(X, X, 1.0, 1.0)
    assert within(Fraction(1), Fraction(101, 100), 0.01, 0.0)
    assert not within(1, 2, 0.25, 0.0)


# --- Functions of names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (pow_(add(X, 1), 2), add(pow_(X, 2), mul(2, X), 1)),
        (op("divide", add(pow_(X, 2), -1), add(X, -1)), add(X, 1)),
        (add(pow_(op("sin", X), 2), pow_(op("cos", X), 2)), 1),
        (op("sin", mul(2, X)), mul(2, op("sin", X), op("cos", X))),
        (op("tan", X), op("divide", op("sin", X), op("cos", X))),
        (sqrt(pow_(X, 2)), op("abs", X)),
        (pow_(op("abs", X), 2), pow_(X, 2)),
        (pow_(sqrt(X), 2), X),
        (op("root", X, 3), pow_(X, "1/3")),
        (op("root", pow_(X, 2), 3), pow_(X, "2/3")),
        (op("root", neg(X), 3), neg(op("root", X, 3))),
        (op("log", X, 2), op("divide", ln(X), ln(2))),
        (pow_(E, add(X, Y)), mul(pow_(E, X), pow_(E, Y))),
        (op("exp", X), pow_(E, X)),
        (pow_(2, X), pow_(E, mul(X, ln(2)))),
        (op("max", X, Y), op("divide", add(X, Y, op("abs", add(X, neg(Y)))), 2)),
        (op("divide", op("factorial", X), op("factorial", add(X, -1))), X),
        (op("binomial", X, 2), op("divide", mul(X, add(X, -1)), 2)),
        (add(op("call:f", X), 1), add(1, op("call:f", X))),
        (op("call:f", add(1, 1)), op("call:f", 2)),
        (add(X, neg(X), 5), 5),
        (pow_(X, 300), mul(pow_(X, 150), pow_(X, 150))),
        (op("divide", mul(sqrt(2), X), 2), op("divide", X, sqrt(2))),
    ],
)
def test_equal_functions(left: Expression, right: Expression | int) -> None:
    assert same_value(left, tree(right))
    assert same_value(tree(right), left)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (op("abs", X), X),
        (sqrt(pow_(X, 2)), X),
        (sqrt(pow_(X, 2)), neg(X)),
        (ln(pow_(X, 2)), mul(2, ln(X))),
        (ln(mul(X, Y)), add(ln(X), ln(Y))),
        (X, Y),
        (Name("X"), X),
        (op("call:f", X), op("call:g", X)),
        (op("call:f", X), op("call:f", Y)),
        (op("floor", X), X),
        (op("floor", X), op("ceiling", X)),
        (op("max", X, Y), X),
        (pow_(X, 2), add(pow_(X, 2), Fraction(1, 10**100))),
        (add(op("sin", X), Fraction(1, 10**100)), op("sin", X)),
        (pow_(X, Y), pow_(Y, X)),
        (op("sin", X), X),
        (X, 5),
    ],
)
def test_different_functions(left: Expression, right: Expression | int) -> None:
    assert not same_value(left, tree(right))
    assert not same_value(tree(right), left)


@pytest.mark.parametrize(
    ("left", "right", "factor"),
    [
        (add(Y, mul(-2, X), -3), add(mul(2, X), neg(Y), 3), -1),
        (add(mul(2, X), 4), add(X, 2), 1),
        (add(mul(sqrt(2), X), -2), add(X, neg(sqrt(2))), 1),
        (op("sin", X), mul(-3, op("sin", X)), -1),
        (mul(IMAGINARY, op("sin", X)), op("sin", X), -1),
        (add(X, 1), add(X, 2), 0),
        (mul(X, Y), X, 0),
        (op("sin", X), op("cos", X), 0),
        (tree(3), tree(4), 0),
        (X, tree(0), 0),
    ],
)
def test_constant_factors(left: Expression, right: Expression, factor: int) -> None:
    assert factor_between(left, right) == factor


def test_names_are_sorted_and_those_of_unknown_functions_are_their_own() -> None:
    assert free_names(add(Y, mul(X, PI)), Quantity(Name("a"), "km")) == ["a", "x", "y"]
    assert len(free_names(op("call:f", X))) == 1
    assert "x" not in free_names(op("call:f", X))


# --- What is refused --------------------------------------------------------------------------------------------------

TOWER = pow_(9, pow_(9, pow_(9, 9)))
TOO_LARGE = {
    "tower": TOWER,
    "tower of e": pow_(E, pow_(E, pow_(E, pow_(E, 5)))),
    "factorial": op("factorial", 10**9),
    "factorial of factorials": op("factorial", op("factorial", op("factorial", 9))),
    "factorial of an irrational number": op("factorial", mul(10**6, PI)),
    "binomial": op("binomial", 10**9, 5 * 10**8),
    "exponential": op("exp", 10**12),
    "exponential downwards": op("exp", -(10**12)),
    "hyperbolic": op("cosh", 10**12),
    "complex sine": op("sin", mul(10**9, IMAGINARY)),
    "sine of a huge number": op("sin", pow_(10, 5000)),
    "power of an irrational number": pow_(sqrt(2), 10**9),
    "power with a huge fraction": op("power", 2, Fraction(10**9 + 1, 10)),
    "long literals": add(sqrt(2), Fraction(1, 10**3000)),
    "least common multiple": op("lcm", *[pow_(prime, 1500) for prime in (3, 5, 7, 11, 13, 17, 19, 23, 29)]),
    "deep": reduce(lambda inner, _: sqrt(add(inner, 1)), range(400), sqrt(2)),
    "wide": add(*[op("sin", sqrt(number)) for number in range(2, 2000)]),
    "wide and exact": mul(*[op("divide", 3**200 + number, 7**200 + number) for number in range(2, 2000)]),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_is_too_large_is_refused_at_once(name: str) -> None:
    start = time.process_time()
    with pytest.raises(Undecided) as raised:
        same_value(TOO_LARGE[name], add(PI, 42))
    assert raised.value.reason == "too_large"
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        (op("divide", 1, 0), "undefined"),
        (op("divide", 1, add(pow_(sqrt(2), 2), -2)), "undefined"),
        (pow_(0, 0), "undefined"),
        (pow_(0, -1), "undefined"),
        (op("tan", op("divide", PI, 2)), "undefined"),
        (ln(0), "undefined"),
        (op("log", 5, 1), "undefined"),
        (op("mod", 5, 0), "undefined"),
        (op("factorial", -1), "undefined"),
        (op("gcd", "1/2", 3), "undefined"),
        (op("root", 5, 0), "undefined"),
        (op("floor", IMAGINARY), "undefined"),
        (op("arctan", IMAGINARY), "undefined"),
        (op("divide", 1, Constant("inf")), "undefined"),
        (op("divide", X, add(Y, neg(Y))), "undefined"),
        (op("gcd", X, 2), "unsupported"),
        (op("integral", X), "unsupported"),
        (Quantity(tree(5), "km"), "unsupported"),
        (Listing((X, Y)), "unsupported"),
        (Constant("R"), "unsupported"),
        (op("sin", X, Y), "unsupported"),
    ],
)
def test_what_has_no_value_is_said_to_have_none(expression: Expression, reason: str) -> None:
    with pytest.raises(Undecided) as raised:
        same_value(expression, add(PI, 42))
    assert raised.value.reason == reason


def test_functions_too_steep_at_some_points_are_compared_at_the_others() -> None:
    assert same_value(pow_(E, pow_(E, add(X, Y))), pow_(E, pow_(E, add(Y, X))))
    assert not same_value(pow_(E, pow_(E, X)), pow_(E, pow_(E, Y)))


ENDLESS = op("endless", Number(Fraction("0.99"), "decimal"))


def test_an_endless_decimal_is_not_what_is_shown_of_it() -> None:
    shown = Number(Fraction("0.99"), "decimal")
    assert Comparison(STRICT).match(ENDLESS, ENDLESS).is_correct
    for answer, reference in (
        (ENDLESS, shown),
        (shown, ENDLESS),
        (ENDLESS, op("approximately", shown)),
        (ENDLESS, tree(1)),
    ):
        assert Comparison(STRICT).match(answer, reference).reason == "approximate"
    assert Comparison(Leniency(abs_tol=0.02)).match(ENDLESS, tree(1)).is_correct
    assert not Comparison(Leniency(abs_tol=0.001)).match(ENDLESS, tree(1)).is_correct


@pytest.mark.parametrize("power", [10, 10**3, 10**6, 10**12, 10**40])
def test_a_piece_of_a_function_is_found_wherever_it_begins(power: int) -> None:
    hinge = op("max", 0, add(op("abs", X), -power))
    assert not same_value(add(op("sin", X), hinge), op("sin", X))
    assert same_value(mul(2, hinge), add(op("abs", X), -power, op("abs", add(op("abs", X), -power))))
    assert factor_between(add(Y, hinge), Y) == 0


def test_points_are_drawn_for_both_trees_in_any_order() -> None:
    square, other = pow_(X, 2), add(X, 1)
    drawn = Chance(square, other).whole_point(["x", "y"], 0)
    assert drawn == Chance(other, square).whole_point(["x", "y"], 0)
    assert drawn != Chance(square, add(X, 2)).whole_point(["x", "y"], 0)
    assert len({*drawn.values(), *Chance(square, other).whole_point(["x", "y"], 1).values()}) == 4


def test_sums_and_products_are_one_in_any_order_of_their_parts() -> None:
    assert canonical_text(mul(add(X, 1), Y)) == canonical_text(mul(Y, add(1, X)))
    assert canonical_text(pow_(X, 2)) != canonical_text(pow_(tree(2), X))  # type: ignore[arg-type]
    assert canonical_text(X) != canonical_text(Constant("x"))
    huge = add(pow_(E, 3000), PI)
    assert same_value(huge, add(PI, pow_(E, 3000)))
    with pytest.raises(Undecided):
        same_value(huge, add(pow_(E, 3000), PI, mul(0, X)))


@pytest.mark.parametrize(
    ("quotient", "is_one"),
    [
        (op("divide", mul(Name("d"), Y), mul(Name("d"), X)), True),
        (op("divide", Name("d"), mul(Name("d"), X)), True),
        (op("divide", neg(mul(pow_(Name("d"), 2), Y)), mul(Name("d"), pow_(X, 2))), True),
        (op("divide", Name("d"), X), False),
        (op("divide", mul(X, Name("d")), mul(Y, Name("d"))), False),
        (op("divide", mul(Name("d"), Y), pow_(X, 2)), False),
        (mul(Name("d"), X), False),
    ],
)
def test_a_quotient_of_differentials_is_a_derivative(quotient: Expression, is_one: bool) -> None:
    assert is_derivative(quotient) == is_one


def test_long_tails_are_refused_before_they_are_worked_out() -> None:
    work = Work()
    with pytest.raises(Undecided):
        same_value(add(*[op("sin", mul(number, X)) for number in range(300)]), op("sin", X), work)
    assert work.left > 5_000


# --- Processes and threads --------------------------------------------------------------------------------------------


def test_threads_agree_and_nobody_elses_precision_changes() -> None:
    import mpmath

    cases = [(sqrt(number), op("divide", number, sqrt(number))) for number in range(2, 40)]
    wrong = [(sqrt(number), add(sqrt(number), Fraction(1, 10**60))) for number in range(2, 40)]
    verdicts: list[bool] = []

    def judge(offset: int) -> None:
        for step in range(len(cases)):
            at = (step + offset) % len(cases)
            verdicts.append(same_value(*cases[at]) and not same_value(*wrong[at]))

    mpmath.mp.dps = 15
    threads = [threading.Thread(target=judge, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(verdicts) == 4 * len(cases)
    assert all(verdicts)
    assert mpmath.mp.dps == 15


def test_mpmath_is_loaded_only_for_irrational_numbers() -> None:
    code = """
import sys
from fractions import Fraction
from llmgym.rewards.comparison.evaluation import same_value
from llmgym.rewards.notation.expressions import Name, Number, Operation
two, x = Number(Fraction(2), "integer"), Name("x")
assert same_value(Operation("power", (x, two)), Operation("multiply", (x, x)))
assert "mpmath" not in sys.modules
assert not same_value(Operation("root", (two, two)), two)
assert "mpmath" in sys.modules and "sympy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- Properties -------------------------------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.fractions(max_denominator=50).map(lambda value: Number(value, "fraction")),
    st.integers(-(10**12), 10**12).map(lambda value: Number(Fraction(value), "integer")),
    st.sampled_from([X, Y, PI, E, IMAGINARY, Constant("inf")]),
)
NAMES = [
    *("add", "multiply", "divide", "power", "root", "log", "sin", "tan", "arccos", "exp", "abs", "floor", "factorial"),
    *("binomial", "gcd", "mod", "max", "call:f"),
]
TREES = st.recursive(
    LEAVES,
    lambda inner: st.builds(
        lambda name, operands: Operation(name, tuple(operands)),
        st.sampled_from(NAMES),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=8,
)


def verdict(left: Expression, right: Expression) -> bool | None:
    try:
        return same_value(left, right)
    except Undecided:
        return None


@settings(deadline=None)
@given(TREES, TREES)
def test_any_two_trees_get_a_verdict_that_does_not_depend_on_their_order(left: Expression, right: Expression) -> None:
    assert verdict(left, right) == verdict(right, left)
    assert verdict(left, left) is not False


@given(st.fractions(), st.fractions())
def test_arithmetic_is_that_of_fractions(left: Fraction, right: Fraction) -> None:
    assert fold(add(left, right), Work()) == left + right
    assert fold(mul(left, right), Work()) == left * right
    if right:
        assert fold(op("divide", left, right), Work()) == left / right


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 10**6), st.integers(1, 10**6), st.integers(1, 10**6))
def test_surds_are_equal_exactly_when_their_squares_are(radicand: int, one: int, other: int) -> None:
    left, right = mul(one, sqrt(radicand)), mul(other, sqrt(radicand + 1))
    assert same_value(left, right) == (one * one * radicand == other * other * (radicand + 1))
    assert same_value(left, sqrt(one * one * radicand))
