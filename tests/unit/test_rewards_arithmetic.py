"""The exact calculator and the judge of arithmetic lines."""

from __future__ import annotations

from fractions import Fraction

import pytest

from llmgym.rewards.arithmetic import MAX_DEPTH, MAX_LENGTH, evaluate, numbers_used, plain
from llmgym.rewards.steps import arithmetic_holds


@pytest.mark.parametrize("times", [1, 2000])
def test_signs_are_levelled_in_texts_of_any_length(times: int) -> None:
    assert plain("１２×３ − 四，" * times) == "12*3 - 四," * times
    assert plain("12*3" * times) == "12*3" * times


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("13", 13),
        ("3*5-2", 13),
        ("3 × 5 − 2", 13),
        ("(3＋4)·2", 14),
        ("12÷4", 3),
        ("1,250 + 1", 1251),
        ("-(2-5)", 3),
        ("--3", 3),
        ("2*-3", -6),
        ("8-3-2", 3),
        ("8/4/2", 1),
        ("1/3+1/6", Fraction(1, 2)),
        ("0.1+0.2", Fraction(3, 10)),
        (".5", Fraction(1, 2)),
    ],
)
def test_evaluate(expression: str, value: Fraction) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "text",
    ["", " ", "x", "3x", "3 5", "2(3)", "5-", "*5", "((1)", "1)", "()", "1/0", "1/(2-2)", "1,23", "5.", "1e3", "2^3", "٣",
     "1" * (MAX_LENGTH + 1), "(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1), "-" * (MAX_DEPTH + 1) + "1"],
)  # fmt: skip
def test_evaluate_refuses(text: str) -> None:
    assert evaluate(text) is None
    assert numbers_used(text) is None


@pytest.mark.parametrize(
    ("expression", "value"),
    [("2^10", 1024), ("2**3", 8), ("2^3^2", 512), ("-2^2", -4), ("2^-1", Fraction(1, 2)), ("0^-1", None),
     ("9^65", None), ("9^9^9", None), ("2^0.5", None), ("99999999999999999999^64", None)],
)  # fmt: skip
def test_powers_are_read_where_allowed_and_bounded(expression: str, value: Fraction | None) -> None:
    assert evaluate(expression, allow_power=True) == value


def test_numbers_used() -> None:
    assert numbers_used("3*5-2") == [3, 5, 2]
    assert numbers_used("-(3)+1,000") == [3, 1000]
    assert numbers_used("3*5-2.0") is None


@pytest.mark.parametrize(
    "line",
    ["12*3=36", "12 * 3 = 36", "60 × 3 = 180", "60 x 3 = 180 km", "so 60×3=180.", "所以60×3=180千米", "总数：3+4=7个",
     "2+3*4=2+12=14", "x = 15/3 = 5", "x=15/3=5", "a=3+4=7, b=1", "16 - 3 - 4 = <<16-3-4=9>>9 duck eggs",
     "80,000+50,000=$<<80000+50000=130000>>130,000", "$3 + $4 = $7.", "1. 3+4=7", "- 3+4=7", "Step 2: 3+4=7", "**3+4=7**",
     "5 - 8 = −3", "50*20% = 10", "2^3 = 8", "7 = 3+4", "3+4==7", r"\frac{1}{2} + \frac{1}{2} = 1", r"2 \times 3 = 6",
     "<think>3+4=7", "3+4=7</think>", "3+4=7, then 7+1=8"],
)  # fmt: skip
def test_true_lines(line: str) -> None:
    assert arithmetic_holds(line) is True


@pytest.mark.parametrize(
    "line",
    ["12*3=37", "2+3*4=5*4=20", "2+2=4=5", "so 2+3=5, then 5*2=11", "x = 15/3 = 6", "10/3 = 3.33", "5 = 6", "-5 = 5",
     "3+4=7 and 7+1=9", "60×3=181千米"],
)  # fmt: skip
def test_false_lines(line: str) -> None:
    assert arithmetic_holds(line) is False


@pytest.mark.parametrize(
    "line",
    ["", "\n", "Then we add.", "x = 5", "3x + 5 = 20", "3x = 15", "x + 5 = 20", "20 - x = 5", "12+3 = 3x", "5 = 5", "= 5", "12 =",
     "half of 12 = 6", "20% of 50 = 10", "3:00 = 180", "1 hour = 60 minutes", "180 km + 20 km = 200 km", "sqrt(16) = 4",
     "f(3) = 5", "gcd(4,6) = 2", "900*2000=180万", "12的一半=6", "2*3 = 6 dozen", "7/2 = 3 remainder 1", "7÷2=3……1",
     "10/3 = 3.33...", "10/3 = 3 and 1/3", "3 + 4 >= 5", "4!=24", "3+4 ≈ 7", "1/0 = 1", "1=" * 3, "9" * 400 + "+1=2"],
)  # fmt: skip
def test_lines_that_say_nothing_certain(line: str) -> None:
    assert arithmetic_holds(line) is None
