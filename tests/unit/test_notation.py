"""Reading answers: text in, tree out."""

from __future__ import annotations

import sys
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgym.rewards import verify
from llmgym.rewards.notation.expressions import (
    Based,
    Bracketed,
    Constant,
    Expression,
    Form,
    Listing,
    Matrix,
    Name,
    Number,
    Operation,
    Quantity,
    Ratio,
    Relation,
    Set,
    Sign,
    Unreadable,
    Words,
)
from llmgym.rewards.notation.reader import MAX_CHARACTERS, parse


def number(value: str | int | Fraction, form: Form = "integer") -> Number:
    return Number(Fraction(value), form)


def tree(part: Expression | int | str) -> Expression:
    """Whole numbers and variables are written as themselves below."""
    if isinstance(part, int):
        return number(part)
    return Name(part) if isinstance(part, str) else part


def op(name: str, *operands: Expression | int | str) -> Operation:
    return Operation(name, tuple(map(tree, operands)))


def add(*terms: Expression | int | str) -> Operation:
    return op("add", *terms)


def times(*factors: Expression | int | str) -> Operation:
    return op("multiply", *factors)


def power(base: Expression | int | str, exponent: Expression | int | str) -> Operation:
    return op("power", base, exponent)


def sqrt(radicand: Expression | int | str, degree: int = 2) -> Operation:
    return op("root", radicand, degree)


def over(above: Expression | int | str, below: Expression | int | str) -> Operation:
    return op("divide", above, below)


def minus(value: Expression | str) -> Operation:
    return op("negate", value)


def relation(left: Expression | int | str, sign: Sign, right: Expression | int | str) -> Relation:
    return Relation((tree(left), tree(right)), (sign,))


def listing(*items: Expression | int | str) -> Listing:
    return Listing(tuple(map(tree, items)))


def unordered(*items: Expression | int | str) -> Set:
    return Set(tuple(map(tree, items)))


def bracketed(brackets: str, *items: Expression | int | str) -> Bracketed:
    return Bracketed(brackets[0], brackets[1], tuple(map(tree, items)))


def quantity(value: Expression | int | str, unit: str) -> Quantity:
    return Quantity(tree(value), unit)


def matrix(*rows: list[int]) -> Matrix:
    return Matrix(tuple(tuple(map(tree, row)) for row in rows))


PI, E, IMAGINARY = Constant("pi"), Constant("e"), Constant("i")
INFINITY, EMPTY, REALS = Constant("inf"), Constant("empty"), Constant("R")
NOTHING = Words("")

LITERALS: dict[str, Expression] = {
    "42": number(42),
    "-5": number(-5),
    "+5": number(5),
    "−5": number(-5),
    "007": number(7),
    "3.14": number("3.14", "decimal"),
    ".5": number("0.5", "decimal"),
    "-0.50": number("-0.5", "decimal"),
    "3/4": number("3/4", "fraction"),
    "6/8": number("3/4", "fraction"),
    "-3/4": number("-3/4", "fraction"),
    "12/4": over(12, 4),
    "1/0": over(1, 0),
    "1.5/2": over(number("1.5", "decimal"), 2),
    r"\frac{14}{3}": number("14/3", "fraction"),
    r"-\frac{14}{3}": number("-14/3", "fraction"),
    r"\frac{-14}{3}": number("-14/3", "fraction"),
    r"\dfrac{3}{4}": number("3/4", "fraction"),
    r"\frac{12}{4}": over(12, 4),
    r"\frac12": number("1/2", "fraction"),
    r"\frac 59": number("5/9", "fraction"),
    r"\frac1{72}": number("1/72", "fraction"),
    r"\frac{1}2": number("1/2", "fraction"),
    r"\frac{1,234}{5}": number("1234/5", "fraction"),
    "½": number("1/2", "fraction"),
    "1⁄2": number("1/2", "fraction"),
    "１／２": number("1/2", "fraction"),
    "3 1/4": number("13/4", "mixed"),
    "-3 1/4": number("-13/4", "mixed"),
    r"3\frac{1}{4}": number("13/4", "mixed"),
    r"-3\frac14": number("-13/4", "mixed"),
    "3½": number("7/2", "mixed"),
    "3-1/4": add(3, number("-1/4", "fraction")),
    "1.5e3": number(1500, "scientific"),
    "5e-1": number("1/2", "scientific"),
    "3e5": number(300000, "scientific"),
    "3×10^5": number(300000, "scientific"),
    r"3\times10^{5}": number(300000, "scientific"),
    r"6.02 \cdot 10^{23}": number(602 * 10**21, "scientific"),
    "1.5 x 10^3": number(1500, "scientific"),
    r"-2\times 10^{-3}": number("-1/500", "scientific"),
    "10^5": power(10, 5),
    "2^10": power(2, 10),
    "2**10": power(2, 10),
    "2^{10}": power(2, 10),
    r"0.\overline{3}": number("1/3", "repeating"),
    r"0.\bar{3}": number("1/3", "repeating"),
    "0.(3)": number("1/3", "repeating"),
    "0.1(6)": number("1/6", "repeating"),
    r"0.\dot{3}": number("1/3", "repeating"),
    r"0.\dot{1}4\dot{2}": number("142/999", "repeating"),
    "0.333...": number("1/3", "repeating"),
    r"0.1666\ldots": number("1/6", "repeating"),
    "0.1212…": number("4/33", "repeating"),
    "3.14159...": op("endless", number("3.14159", "decimal")),
    "1,234": number(1234),
    "1,234,567.5": number("1234567.5", "decimal"),
    "1{,}234": number(1234),
    r"90{,}900{,}909": number(90900909),
    r"10,\!080": number(10080),
    r"11,\! 111,\! 111,\! 100": number(11111111100),
    r"1\,234": number(1234),
    "1 234 567": number(1234567),
    "3{,}14": number("3.14", "decimal"),
    "1, 234": listing(1, 234),
    r"1,\ 234": listing(1, 234),
    r"1,\,234": listing(1, 234),
    "minus 42": number(-42),
    "负42": number(-42, "words"),
    "12,34": listing(12, 34),
    "1,2,3": listing(1, 2, 3),
    "1,234,5": listing(1, 234, 5),
    "0,123": listing(0, 123),
    "(1,234)": bracketed("()", 1, 234),
    "(1,234, 5)": bracketed("()", 1234, 5),
    "٤٢": number(42),
    "४２": number(42),
    "0x1F": Based("1F", 16),
    "0b1010": Based("1010", 2),
    "1010_2": Based("1010", 2),
    "1010_{two}": Based("1010", 2),
    r"1010_{\text{two}}": Based("1010", 2),
    "1010₂": Based("1010", 2),
    r"1010_{\mathrm{2}}": Based("1010", 2),
    r"\boxed{1010_{2}}": Based("1010", 2),
    r"\boxed{1010_{\text{two}}}": Based("1010", 2),
    "(1010)_2": Based("1010", 2),
    "1010 base 2": Based("1010", 2),
    "152A_{11}": Based("152A", 11),
    "FF_{16}": Based("FF", 16),
    r"\text{FF}_{16}": Based("FF", 16),
    "0.0011_{2}": Based("0.0011", 2),
    "-221_3": minus(Based("221", 3)),
    "A3_{16}": Based("A3", 16),
    r"\text{A3}_{16}": Based("A3", 16),
    "1f_{16}": Based("1F", 16),
    "a3_{16}": Based("A3", 16),
    "1011_{(2)}": Based("1011", 2),
    "1011_(2)": Based("1011", 2),
    "(1F)_{16}": Based("1F", 16),
    "2 + 3a_{16}": add(2, times(3, "a_16")),
    "A_{16}": Name("A_16"),
    r"12\frac{1}{2}\%": quantity(number("25/2", "mixed"), "%"),
    "37\n\\tfrac12\\%": quantity(number("75/2", "mixed"), "%"),
}

FORMULAS: dict[str, Expression] = {
    "x": Name("x"),
    "X": Name("X"),
    "x_1": Name("x_1"),
    "x_{12}": Name("x_12"),
    "x₁": Name("x_1"),
    r"\theta": Name("theta"),
    "θ": Name("theta"),
    "y'": Name("y'"),
    "i": IMAGINARY,
    "e": E,
    "E": Name("E"),
    "π": PI,
    "pi": PI,
    r"\infty": INFINITY,
    "oo": INFINITY,
    "-infinity": minus(INFINITY),
    "xy": times("x", "y"),
    "abc": times("a", "b", "c"),
    "5pi": times(5, PI),
    r"5\pi": times(5, PI),
    "2πr": times(2, PI, "r"),
    "3ab": times(3, "a", "b"),
    "3xy^2": times(3, "x", power("y", 2)),
    "5m": times(5, "m"),
    "2x(x+1)": times(2, "x", add("x", 1)),
    "(x+1)(x-1)": times(add("x", 1), add("x", -1)),
    "17*23": times(17, 23),
    "17x23": times(17, 23),
    "2*-3": times(2, -3),
    "5--3": add(5, 3),
    "41-43": add(41, -43),
    "x+-3": add("x", -3),
    "x²": power("x", 2),
    "x⁻¹": power("x", -1),
    "x^{10}": power("x", 10),
    "x^-1": power("x", -1),
    "x^2y": times(power("x", 2), "y"),
    "2^3^2": power(2, power(3, 2)),
    r"e^{i\pi}": power(E, times(IMAGINARY, PI)),
    "-x^2": minus(power("x", 2)),
    "3+4i": add(3, times(4, IMAGINARY)),
    r"3+4\mathrm{i}": add(3, times(4, IMAGINARY)),
    "1/2x": times(number("1/2", "fraction"), "x"),
    "x/2y": over("x", times(2, "y")),
    "-b/2a": minus(over("b", times(2, "a"))),
    "1/xy": over(1, times("x", "y")),
    "a/b/c": over("a", times("b", "c")),
    r"\frac{a}{b+c}": over("a", add("b", "c")),
    r"\frac\pi4": over(PI, 4),
    r"{1 \over 2}": number("1/2", "fraction"),
    r"2\frac{x}{3}": times(2, over("x", 3)),
    r"\sqrt{3}": sqrt(3),
    r"\sqrt3": sqrt(3),
    "√2": sqrt(2),
    "∛5": sqrt(5, 3),
    r"\sqrt[3]{5}": sqrt(5, 3),
    "sqrt(3)/2": over(sqrt(3), 2),
    r"11\sqrt2": times(11, sqrt(2)),
    "|x-3|": op("abs", add("x", -3)),
    "2|x|": times(2, op("abs", "x")),
    "||x|-1|": op("abs", add(op("abs", "x"), -1)),
    r"\left|-5\right|": op("abs", -5),
    r"\lfloor x \rfloor": op("floor", "x"),
    r"\lceil x \rceil": op("ceiling", "x"),
    "5!": op("factorial", 5),
    r"\frac{1}{2004!}": over(1, op("factorial", 2004)),
    r"\binom{5}{2}": op("binomial", 5, 2),
    r"{n \choose k}": op("binomial", "n", "k"),
    "C(5,2)": op("binomial", 5, 2),
    "C(2,5)": op("call:C", 2, 5),
    "f(5,2)": op("call:f", 5, 2),
    "C_{12}^{5}": op("binomial", 12, 5),
    "C^5_{12}": op("binomial", 12, 5),
    r"\mathrm{C}_5^2": op("binomial", 5, 2),
    "_{12}C_5": op("binomial", 12, 5),
    "{}_{12}C_{5}": op("binomial", 12, 5),
    "{}^{12}C_5": op("binomial", 12, 5),
    "12C5": op("binomial", 12, 5),
    "12 choose 5": op("binomial", 12, 5),
    "A_5^2": number(20),
    "_5P_2": number(20),
    "C_1^2": power("C_1", 2),
    "C_n^2": power("C_n", 2),
    "x_5^2": power("x_5", 2),
    r"10!\,10!": times(op("factorial", 10), op("factorial", 10)),
    "3-2f(x)": add(3, minus(times(2, op("call:f", "x")))),
    "f'(x)": op("call:f'", "x"),
    r"\sin 3x": op("sin", times(3, "x")),
    "sin2x": op("sin", times(2, "x")),
    "sinx": op("sin", "x"),
    r"\sin(x)y": times(op("sin", "x"), "y"),
    r"\sin x\cos x": times(op("sin", "x"), op("cos", "x")),
    r"\sin x + 1": add(op("sin", "x"), 1),
    r"\sin\pi/6": op("sin", over(PI, 6)),
    r"\cos^2 x": power(op("cos", "x"), 2),
    r"\sin^{-1} x": op("arcsin", "x"),
    r"2\cos 15^{\circ}": times(2, op("cos", quantity(15, "°"))),
    r"\log_2 8": op("log", 8, 2),
    r"\log_28": op("log", 8, 2),
    r"\log_{10} 100": op("log", 100, 10),
    "log_10 100": op("log", 100, 10),
    r"\log x": op("log", "x"),
    r"\ln x": op("log", "x", E),
    "gcd(12, 18)": op("gcd", 12, 18),
    r"\max\{1,2\}": op("max", 1, 2),
    "7 mod 3": op("mod", 7, 3),
    r"2^{10} \bmod 7": op("mod", power(2, 10), 7),
    r"2 \pm \sqrt{3}": op("plus_minus", 2, sqrt(3)),
    r"\pm 3": op("plus_minus", 3),
    "+-3": op("plus_minus", 3),
    r"2 \mp x": op("minus_plus", 2, "x"),
    r"\vec{v}": Name("vec v"),
    r"\boxed{5}": number(5),
    r"$\displaystyle \frac{1}{2}$": number("1/2", "fraction"),
    r"\left( x \right)": Name("x"),
    r"\textcolor{red}{42}": number(42),
    r"\mathbf{42}": number(42),
}

STRUCTURES: dict[str, Expression] = {
    r"\left( 3, \frac{\pi}{2} \right)": bracketed("()", 3, over(PI, 2)),
    "(1,2), (3,4)": listing(bracketed("()", 1, 2), bracketed("()", 3, 4)),
    "(1,2) and (3,4)": listing(bracketed("()", 1, 2), bracketed("()", 3, 4)),
    "[1,2)": bracketed("[)", 1, 2),
    "]1,2[": bracketed("][", 1, 2),
    "[1,2[": bracketed("[[", 1, 2),
    r"\left]1,2\right[": bracketed("][", 1, 2),
    r"\langle 1,2\rangle": bracketed("<>", 1, 2),
    "<1,2>": bracketed("<>", 1, 2),
    "(1; 2)": bracketed("()", 1, 2),
    "((42))": number(42),
    "[42]": number(42),
    r"(-\infty, 2) \cup [3, \infty)": op("union", bracketed("()", minus(INFINITY), 2), bracketed("[)", 3, INFINITY)),
    "(-inf, 2) U (3, oo)": op("union", bracketed("()", minus(INFINITY), 2), bracketed("()", 3, INFINITY)),
    r"\{-1\} \cup [0,7)": op("union", unordered(-1), bracketed("[)", 0, 7)),
    r"\mathbb{R}": REALS,
    "ℝ": REALS,
    r"R \setminus \{0\}": op("difference", REALS, unordered(0)),
    r"\mathbb{R} - \{0\}": op("difference", REALS, unordered(0)),
    r"ℝ\{0}": op("difference", REALS, unordered(0)),
    r"\emptyset": EMPTY,
    r"\{\}": EMPTY,
    "{1,2,3}": unordered(1, 2, 3),
    r"\{1,234\}": unordered(1, 234),
    r"\{1\pm\sqrt{5},-2\}": unordered(op("plus_minus", 1, sqrt(5)), -2),
    "{42}": unordered(42),
    "[[1,2],[3,4]]": matrix([1, 2], [3, 4]),
    r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}": matrix([1, 2], [3, 4]),
    r"\begin{bmatrix} 1 \\ 2 \\ \end{bmatrix}": matrix([1], [2]),
    r"\left[\begin{array}{cc} 1 & 2 \end{array}\right]": matrix([1, 2]),
    r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}": op("determinant", matrix([1, 2], [3, 4])),
    "x = 5": relation("x", "=", 5),
    "x := 5": relation("x", "=", 5),
    "$x = 5$": relation("x", "=", 5),
    "y = 2x + 3": relation("y", "=", add(times(2, "x"), 3)),
    "f(x) = x^2": relation(op("call:f", "x"), "=", power("x", 2)),
    "p(x) = x + 1": relation(op("call:p", "x"), "=", add("x", 1)),
    "17*23 = 391": relation(times(17, 23), "=", 391),
    r"x \in [-2,7]": relation("x", "in", bracketed("[]", -2, 7)),
    r"x \in R": relation("x", "in", REALS),
    r"-2 < x \le 3": Relation((number(-2), Name("x"), number(3)), ("<", "<=")),
    "x != 3": relation("x", "!=", 3),
    r"x \not= 3": relation("x", "!=", 3),
    "5! = 120": relation(op("factorial", 5), "=", 120),
    "5!=120": relation(op("factorial", 5), "=", 120),
    "x ≈ 5": relation("x", "~", 5),
    r"x \equiv 3 \pmod{5}": relation("x", "=", op("mod", 3, 5)),
    "> 42": relation(NOTHING, ">", 42),
    r"\neq 42": relation(NOTHING, "!=", 42),
    r"\geq 3": relation(NOTHING, ">=", 3),
    "= 42": number(42),
    "≈ 42": op("approximately", 42),
    r"\approx 42": op("approximately", 42),
    "~42": op("approximately", 42),
    "area = 12": relation(Words("area"), "=", 12),
    "The total cost: $5": relation(Words("total cost"), "=", quantity(5, "$")),
    "x=2 or x=-3": listing(relation("x", "=", 2), relation("x", "=", -3)),
    "x = 2, 3": listing(relation("x", "=", 2), relation("x", "=", 3)),
    "x=1, y=2": listing(relation("x", "=", 1), relation("y", "=", 2)),
    "x=1\ny=2": listing(relation("x", "=", 1), relation("y", "=", 2)),
    r"\begin{cases} x=1 \\ y=2 \end{cases}": listing(relation("x", "=", 1), relation("y", "=", 2)),
    "x<1 or x>3": listing(relation("x", "<", 1), relation("x", ">", 3)),
    "x>1 and x<3": op("intersection", relation("x", ">", 1), relation("x", "<", 3)),
    r"x > 0, x \neq 1": op("intersection", relation("x", ">", 0), relation("x", "!=", 1)),
    r"\{x \mid x > 3\}": relation("x", ">", 3),
    "{x : x > 3}": relation("x", ">", 3),
    r"\{x | |x| < 3\}": relation(op("abs", "x"), "<", 3),
    r"\{x \in \mathbb{R} \mid x > 3\}": relation("x", ">", 3),
    r"\{x \in \mathbb{Z} \mid x > 3\}": op("intersection", relation("x", ">", 3), Constant("Z")),
    r"\{x \mid x < 1 \text{ or } x > 3\}": listing(relation("x", "<", 1), relation("x", ">", 3)),
    r"19 \text{ and }43": listing(19, 43),
    "41 or 42": listing(41, 42),
    "2；3": listing(2, 3),
    "2、3和4": listing(2, 3, 4),
    r"1+\sqrt 2,\ 1-\sqrt 2": listing(add(1, sqrt(2)), add(1, minus(sqrt(2)))),
    r"1, 2, \ldots": listing(1, 2, Words("...")),
    "$3$ and $4$": listing(3, 4),
    "3:1": Ratio((number(3), number(1))),
    "1 : 2 : 3": Ratio((number(1), number(2), number(3))),
    "3 to 1": Ratio((number(3), number(1))),
}

QUANTITIES: dict[str, Expression] = {
    "12 km": quantity(12, "km"),
    "12km": quantity(12, "km"),
    r"12 \text{ km}": quantity(12, "km"),
    r"15\mbox{ cm}^2": quantity(15, "cm^2"),
    r"864 \mbox{ inches}^{2}": quantity(864, "in^2"),
    "15 cm²": quantity(15, "cm^2"),
    "15 sq cm": quantity(15, "cm^2"),
    "5 m": quantity(5, "m"),
    r"5\mathrm{m}": quantity(5, "m"),
    r"5\,\mathrm{m/s}": quantity(5, "m/s"),
    "9.8 m/s^2": quantity(number("9.8", "decimal"), "m/s^2"),
    "5 km per hour": quantity(5, "km/h"),
    "5 kmh^{-1}": quantity(5, "km/h"),
    r"2\sqrt{3} \text{ cm}": quantity(times(2, sqrt(3)), "cm"),
    r"\frac{3}{4}\pi\text{ inches}": quantity(times(number("3/4", "fraction"), PI), "in"),
    "2 1/2 hours": quantity(number("5/2", "mixed"), "h"),
    r"45^\circ": quantity(45, "°"),
    "45°": quantity(45, "°"),
    "45 degrees": quantity(45, "°"),
    "20°C": quantity(20, "°C"),
    r"20^{\circ}\text{C}": quantity(20, "°C"),
    r"28\%": quantity(28, "%"),
    "28 percent": quantity(28, "%"),
    "$5": quantity(5, "$"),
    r"\$5": quantity(5, "$"),
    r"-\$0.50": quantity(number("-0.5", "decimal"), "$"),
    r"\$32,\!348": quantity(32348, "$"),
    "5 dollars": quantity(5, "$"),
    "5 USD": quantity(5, "$"),
    "USD 5": quantity(5, "$"),
    "€5": quantity(5, "€"),
    "5元": quantity(5, "元"),
    "¥5": quantity(5, "元"),
    "$5, $6": listing(quantity(5, "$"), quantity(6, "$")),
    "$5 per hour": quantity(5, "$/h"),
    "$5 million": quantity(number(5000000, "words"), "$"),
    "5 million": number(5000000, "words"),
    "5 million dollars": quantity(number(5000000, "words"), "$"),
    "3 dozen eggs": quantity(number(36, "words"), "egg"),
    "5万": number(50000, "words"),
    "5万元": quantity(number(50000, "words"), "元"),
    "5千米": quantity(5, "km"),
    "42个": quantity(42, "个"),
    "42 apples": quantity(42, "apple"),
    "42 apples in total": quantity(42, "apple"),
    "42 in total": number(42),
    r"18\text{ ways.}": quantity(18, "way"),
    "5 min": quantity(5, "min"),
    "3×10^8 m/s": quantity(number(3 * 10**8, "scientific"), "m/s"),
    r"3\times10^{-8} m": quantity(number(Fraction(3, 10**8), "scientific"), "m"),
    "a^2 h": times(power("a", 2), "h"),
    "a^{2} h": times(power("a", 2), "h"),
    "x = 5 cm": relation("x", "=", quantity(5, "cm")),
    "(3 cm, 4 cm)": bracketed("()", quantity(3, "cm"), quantity(4, "cm")),
    "5 apples and 3 pears": listing(quantity(5, "apple"), quantity(3, "pear")),
    "forty-two": number(42, "words"),
    "forty-two apples": quantity(number(42, "words"), "apple"),
    "one hundred and five": number(105, "words"),
    "two thousand, three hundred and one": number(2301, "words"),
    "one and two": listing(number(1, "words"), number(2, "words")),
    "one, two": listing(number(1, "words"), number(2, "words")),
    "三分之一": number("1/3", "words"),
    "3分之1": number("1/3", "words"),
    "四十二个": quantity(number(42, "words"), "个"),
}

WORDS: dict[str, str] = {
    r"\text{Evelyn}": "evelyn",
    "The  Circle.": "circle",
    "not no solution": "not no solution",
    "18 or so left": "18 or so left",
    "18 times a day": "18 times a day",
    "一定": "一定",
    "BEG": "beg",
    "CD": "cd",
    "cat": "cat",
    r"\overline{CD}": "overline cd",
    r"\angle ABC": "angle abc",
    "∠ABC": "angle abc",
    "July 4": "july 4",
    "1:03 PM": "1:03 pm",
    "1:03 p.m.": "1:03 pm",
    r"9\text{ a.m.}": "9 am",
    "7:05": "7:05",
    r"\text{(C)}": "c",
    "(C)": "c",
    "C)": "c",
    r"\text{C}": "c",
    "(C) 42": "c) 42",
    "C. 42": "c) 42",
    "C) 12 km": "c) 12 km",
    "about 42": "about 42",
    "not 42": "not 42",
    "at least 5": "at least 5",
    "42 or so": "42 or so",
    "42 or more": "42 or more",
    "42?": "42?",
    "42ish": "42ish",
    "42 is wrong": "42 is wrong",
    "42 approximately": "42 approximately",
    "42 (approximately)": "42 (approximately",
    "x = 42 or so": "x = 42 or so",
    "between 41 and 43": "between 41 and 43",
    "either 41 or 42": "either 41 or 42",
    "约42": "约42",
    "42左右": "42左右",
    "不到42": "不到42",
    "the 42": "the 42",
    "5th": "5th",
    "42 squared": "42 squared",
    "half of 42": "half of 42",
    "5 feet 3 inches": "5 feet 3 inches",
    "hello world": "hello world",
}

PHRASES: dict[str, Expression] = {
    "all real numbers": REALS,
    "全体实数": REALS,
    "the empty set": EMPTY,
    "negative infinity": minus(INFINITY),
    "**42**": number(42),
    "42.": number(42),
    '"42"': number(42),
    "`42`": number(42),
    "$$42$$": number(42),
    r"\(42\)": number(42),
    r"\[x = 5.\]": relation("x", "=", 5),
    "C": Name("C"),
    "A, C": listing("A", "C"),
    r"\text{B, E}": listing(Words("b"), Words("e")),
    "(A), (B)": listing(Words("a"), Words("b")),
    "Monday and Tuesday": listing(Words("monday"), Words("tuesday")),
}

ALL = {
    **LITERALS,
    **FORMULAS,
    **STRUCTURES,
    **QUANTITIES,
    **PHRASES,
    **{text: Words(words) for text, words in WORDS.items()},
}


@pytest.mark.parametrize("text", ALL)
def test_parse(text: str) -> None:
    assert parse(text) == ALL[text]


@pytest.mark.parametrize("text", [text for text in ALL if text.isascii() and "\n" not in text and "**" not in text])
def test_what_surrounds_an_answer_does_not_matter(text: str) -> None:
    assert parse(f"  {text}  ") == ALL[text]
    if not text.startswith("`"):
        assert parse(f"**{text}**") == ALL[text]
    if "$" not in text and text[0] not in '<`"':
        assert parse(f"${text}$") == ALL[text]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not_understood"),
        (" ", "not_understood"),
        (".", "not_understood"),
        ("(42", "not_understood"),
        ("42)", "not_understood"),
        ("4 2", "not_understood"),
        ("4 2/1", "not_understood"),
        ("--5", "not_understood"),
        ("5!!", "not_understood"),
        ("1.2.3", "not_understood"),
        ("42...", "not_understood"),
        ("2 +", "not_understood"),
        ("x^", "not_understood"),
        (r"\frac{1}", "not_understood"),
        (r"3\frac{4}{2}", "not_understood"),
        (r"\int_0^1 x dx", "not_understood"),
        (r"\text{the limit } \lim_{x \to 0} x", "not_understood"),
        (r"\begin{pmatrix} 1 & 2 \\ 3 \end{pmatrix}", "not_understood"),
        (r"\{2k \mid k \in \mathbb{Z}\}", "not_understood"),
        ("1" * (MAX_CHARACTERS + 1), "too_long"),
        ("1" * 3000, "too_large"),
        ("0." + "1" * 3000, "too_large"),
        ("1e99999", "too_large"),
        ("+1" * 1000, "too_large"),
        ("(" * 60 + "1" + ")" * 60, "too_deep"),
        ("(" * 2000, "too_deep"),
        (r"\frac{1}{" * 60 + "x" + "}" * 60, "too_deep"),
        ("x^" * 200 + "x", "too_deep"),
        (r"\sqrt" * 200 + "2", "too_deep"),
        (r"\sin " * 200 + "x", "too_deep"),
        ("x" + "!^{2}" * 200, "too_deep"),
        ("a" + "±b" * 200, "too_deep"),
        ("{1}" + "∪{1}∩{2}" * 100, "too_deep"),
    ],
)
def test_unreadable(text: str, reason: str) -> None:
    assert parse(text) == Unreadable(reason)


@pytest.mark.parametrize(
    "hedge", ["{} or so", "about {}", "not {}", "{}?", "~{}", "≈ {}", "> {}", "at most {}", "maybe {}", "{} (or 43)"]
)
def test_a_hedged_number_is_not_the_number(hedge: str) -> None:
    assert parse(hedge.format(42)) not in (number(42), quantity(42, "%"))
    assert not isinstance(parse(hedge.format(42)), Number | Quantity)


def depth(expression: object) -> int:
    """Levels of a tree, without recursion."""
    deepest, todo = 0, [(expression, 1)]
    while todo:
        node, level = todo.pop()
        deepest = max(deepest, level)
        if isinstance(node, tuple):
            todo += [(child, level) for child in node]
        elif isinstance(node, Expression):
            todo += [(getattr(node, name), level + 1) for name in type(node).__slots__]
    return deepest


PIECES = st.sampled_from(
    [r"\frac", r"\frac{1}{2}", r"\sqrt", r"\sqrt[3]", "{", "}", "(", ")", "[", "]", r"\{", r"\}", r"\left(", r"\right)", r"\left", "|",
     r"\mid", r"\text{", r"\mathrm{", r"\boxed{", r"\begin{pmatrix}", r"\end{pmatrix}", r"\begin{cases}", "&", r"\\", ",", ", ", ";",
     " or ", " and ", "和", "=", "<", r"\le", r"\neq", r"\in", r"\cup", r"\setminus", "+", "-", "*", "/", "^", "_", "!", "±", r"\sin",
     r"\log_", "π", "e", "i", "x", "xy", "abc", "km/h", "apples", " of ", " per ", "million", "dozen", "forty", "two", "half", "hundred",
     "%", "°", r"^\circ", "$", r"\$", "1", "42", "0", "0.5", "1,234", "1e5", "0.333...", "…", "0.(3)", r"\overline{3}", ":", "?", ".",
     "一百", "三分之一", "万", "元", "½", "²", "⁻¹", "₂", "_{11}", "A", "(C)", "C.", r"\infty", r"\mathbb{R}", "R", "...", "~", r"\,", " ",
     "\n", "'", '"', r"\angle", r"\binom", r"\choose", r"\over", "mod", "(mod 5)", "to", "U", "0x1F", "×", "−", "∪", "√", "∞", "**", "`",
     "not", "about", r"\unknown", "\ud800", "é", "٤", "𝑥", "f(", "C(5,2)", r"\vec", "#", "USD", "base 2"]
)  # fmt: skip


@given(st.text(max_size=80) | st.lists(PIECES, max_size=40).map("".join))
def test_any_text_can_be_read(text: str) -> None:
    expression = parse(text)
    assert isinstance(expression, Expression)
    assert hash(expression) == hash(parse(text))
    assert depth(expression) < 500


@given(st.lists(PIECES, min_size=1, max_size=4).map("".join), st.lists(PIECES, max_size=4).map("".join))
def test_repetition_stays_within_bounds(piece: str, end: str) -> None:
    """A text as long as there may be, of any one thing, leaves the stack alone and takes little time."""
    text = (piece * MAX_CHARACTERS)[: MAX_CHARACTERS - len(end)] + end
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(_frames() + 500)
    started = time.process_time()
    try:
        parse(text)
    finally:
        sys.setrecursionlimit(limit)
    assert time.process_time() - started < 2.0


def _frames() -> int:
    frame, count = sys._getframe(), 0
    while frame.f_back is not None:
        frame, count = frame.f_back, count + 1
    return count


@given(st.integers(-(10**12), 10**12))
def test_integers_in_any_clothes(value: int) -> None:
    for text in (
        str(value),
        f"{value:,}",
        f"{value}.",
        f"**{value}**",
        f"${value}$",
        rf"\boxed{{{value}}}",
        f"({value})",
    ):
        assert parse(text) == number(value)
    assert parse(f"{value} apples") == quantity(value, "apple")
    assert parse(f"x = {value}") == relation("x", "=", value)


@given(st.fractions(max_denominator=10**6))
def test_fractions_in_any_clothes(value: Fraction) -> None:
    if value.denominator > 1:
        above, below = value.numerator, value.denominator
        texts = [
            f"{above}/{below}",
            rf"\frac{{{above}}}{{{below}}}",
            rf"\dfrac{{{above}}}{{{below}}}",
            f"({above})/({below})",
        ]
        assert all(parse(text) == number(str(value), "fraction") for text in texts)


# --- What is the same, and what is not --------------------------------------------------------------------------------

#: Each pair is the same both ways.
EQUAL = [
    # an exponent or an index is one letter
    (r"\frac{e^x y}{2}", r"\frac{e^xy}{2}"), ("e^{x+y}", "e^xe^y"), ("a^m b^n", "a^mb^n"), ("x e^x", "e^xx"), ("2^n n!", "2^nn!"),
    ("e^{-x}y", "e^-xy"), ("a_n b_n", "a_nb_n"), (r"x^m y^n", r"x^my^n"), ("e^{pi}", "e^pi"), ("x^{12}", "x^12"), ("x_{12}", "x_12"),
    ("x_{max}", "x_max"), (r"3\times 10^{12}", r"3\times 10^12"), ("2^{x}", "2^x"),
    # functions and factors
    (r"\pi(x+1)", r"\pi x+\pi"), (r"\lambda(x-1)", r"\lambda x-\lambda"), ("x(x+1)", "x^2+x"), ("y(x)=2x+1", "2x+1"),
    (r"\phi(n)+1", r"1+\phi(n)"), ("u(t)+1", "1+u(t)"), ("E[X]+1", "1+E[X]"), ("Var(X)+1", "1+Var(X)"), (r"\operatorname{Var}(X)", "Var(X)"), ("2i(3)", "6i"),
    # conditions
    (r"x>2 \land x<5", "2<x<5"), (r"x=1 \lor x=2", "x=1 or x=2"),
    # vectors
    (r"\vec{a}+\vec b", r"\vec b+\vec a"), (r"2\mathbf{i}+3\mathbf{j}", r"3\mathbf{j}+2\mathbf{i}"), (r"\mathbf{x}", "x"),
    (r"2\vec a", r"\vec a\cdot 2"), (r"|\vec a||\vec b|", r"|\vec b||\vec a|"), ("P r^T", "r^T P"), ("2^T x", "2^{T}x"),
    # words
    ("n choose 2", r"\binom{n}{2}"), ("(n+1) choose 2", r"\binom{n+1}{2}"), ("12 choose 5", "792"), ("does not exist", "DNE"),
    (r"\text{DNE}", "The limit does not exist."), ("doesn't exist", "dne"),
]  # fmt: skip

#: Each pair differs both ways.
UNEQUAL = [
    (r"\frac{e^{xy}}{2}", r"\frac{e^xy}{2}"), ("a^{bc}", "a^bc"), (r"\pi r^{nh}", r"\pi r^nh"), ("a_{nm}", "a_nm"), ("e^{-xy}", "e^-xy"),
    ("x^{my^n}", "x^my^n"), ("foo_{1}2", "foo_{12}"), (r"\text{foo}^{12}", r"\text{foo}^{1}2"), ("value^{2}3", "value^{23}"),
    (r"\sqrt{foo}bar", r"\sqrt{foobar}"), (r"\frac{foo}{bar}", r"\frac{foob}{ar}"), (r"word\cdot other", r"word\times other"),
    (r"\alpha^{12}", r"\alpha^1 2"), ("2^{nn!}", "2^nn!"),
    ("24", r"\Gamma(5)"), (r"\sqrt\pi", r"\Gamma(1/2)"), (r"\pi^2/6", r"\zeta(2)"), (r"\phi(n)", r"n\phi"), (r"\sigma(6)", r"6\sigma"),
    ("u(t)", "ut"), ("E[X^2]", "E[X]^2"), ("P(A)", "PA"), ("Var(X^2)", "Var(X)^2"), ("Var(2X)", "2Var(X)"),
    (r"\text{Var}(X)", r"\text{Var}(x)"), ("Cov(X,Y)", "X Cov Y"), ("3", "Re(3+4i)"), ("tr(A)", "A tr"), (r"\mu(n)", r"n\mu"),
    (r"p\land q", r"p\lor q"), ("p∧q", "p∨q"), (r"(p\land q)", r"(p\lor q)"), (r"p\land q\lor r", r"p\lor q\land r"),
    (r"\vec a\cdot\vec b", r"\vec a\times\vec b"), (r"\mathbf a\times\mathbf b", r"\mathbf b\times\mathbf a"), ("A^T B", "B A^T"),
    (r"\mathbf{M}\mathbf{N}", r"\mathbf{N}\mathbf{M}"), (r"\boldsymbol{a}\cdot\boldsymbol{b}", r"\boldsymbol{a}\times\boldsymbol{b}"),
    ("x^T A x", "x A x^T"), (r"\vec a\cdot(\vec b+\vec c)", r"\vec a\times(\vec b+\vec c)"), (r"A^{\mathsf T}B", r"BA^{\mathsf T}"),
    ("n choose 3", r"\binom{n}{2}"), ("undefined", "DNE"), ("exists", "DNE"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal(one: str, other: str) -> None:
    assert verify(f"<answer>{one}</answer>", other)
    assert verify(f"<answer>{other}</answer>", one)


@pytest.mark.parametrize(("one", "other"), UNEQUAL)
def test_unequal(one: str, other: str) -> None:
    assert not verify(f"<answer>{one}</answer>", other)
    assert not verify(f"<answer>{other}</answer>", one)
    assert verify(f"<answer>{one}</answer>", one)


@pytest.mark.parametrize(
    "text",
    [r"\frac{value^{2}3}{2}", r"\text{foo}^{12}", "value^{2}3", "foo_{12}", r"\Gamma(5)", r"\zeta(x)", r"\phi(12)", r"p\land q",
     r"\vec a\cdot\vec b", r"\mathbf{A}\mathbf{B}", "A^T B", r"\sqrt{foobar}", r"\frac{x^12}{2}", r"\frac{x_12}{2}", r"word \times other"],
)  # fmt: skip
def test_notation_that_nobody_here_can_read_is_no_words(text: str) -> None:
    assert parse(text) == Unreadable("not_understood")


@pytest.mark.parametrize("text", ["snake_case", "about 42^\\circ", r"\overline{AB} word", "well-known"])
def test_words_with_signs_are_words(text: str) -> None:
    assert isinstance(parse(text), Words)


def test_a_product_in_an_exponent_needs_braces() -> None:
    assert parse("a^bc") == times(power("a", "b"), "c")
    assert parse("a^{bc}") == power("a", times("b", "c"))
    assert parse(r"\frac{x^my^n}{2}") == op("divide", times(power("x", "m"), power("y", "n")), 2)
    assert parse("v_max") == Name("v_max")


def test_accented_words_are_one_word() -> None:
    assert parse("élève") == Words("élève")
    assert parse("señor año") == Words("señor año")
