"""Number words, Chinese numerals, other digits, decimals that go on."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgym.rewards.notation.numerals import plain_digits, read_chinese, read_number_words, repeating, split_period


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("zero", 0),
        ("seven", 7),
        ("nineteen", 19),
        ("forty", 40),
        ("forty two", 42),
        ("a hundred", 100),
        ("one hundred and five", 105),
        ("nine hundred ninety nine", 999),
        ("twenty five hundred", 2500),
        ("two thousand", 2000),
        ("two thousand three hundred and forty one", 2341),
        ("one million two hundred thousand", 1200000),
        ("a thousand million", 10**9),
        ("twelve thousand and six", 12006),
        ("two dozen", 24),
        ("a dozen", 12),
        ("half a dozen", 6),
        ("half a million", 500000),
        ("half", "1/2"),
        ("one half", "1/2"),
        ("a third", "1/3"),
        ("three quarters", "3/4"),
        ("two thirds", "2/3"),
        ("twenty one hundredths", "21/100"),
        ("two and a half", "5/2"),
        ("one and three quarters", "7/4"),
        ("two and a half million", 2500000),
        ("three point one four", "3.14"),
        ("zero point five", "0.5"),
        ("point five", "0.5"),
        ("one point five million", 1500000),
        ("minus five", -5),
        ("negative three quarters", "-3/4"),
    ],
)
def test_number_words(text: str, value: int | str) -> None:
    words = text.split()
    assert read_number_words(words) == (Fraction(value), len(words))
    assert read_number_words([*words, "apples"]) == (Fraction(value), len(words))


@pytest.mark.parametrize(
    ("text", "value", "taken"),
    [("one and two", 1, 1), ("twenty and thirty", 20, 1), ("one two", 1, 1), ("five hundred hundred", 500, 2), ("one thousand million apples", 10**9, 3),
     ("one hundred and two hundred", 100, 2), ("three of them", 3, 1), ("six point", 6, 1)],
)  # fmt: skip
def test_a_number_ends_where_another_begins(text: str, value: int, taken: int) -> None:
    assert read_number_words(text.split()) == (Fraction(value), taken)


@pytest.mark.parametrize(
    "text", ["", "apples", "and", "a", "a cat", "minus", "point", "hundred", "third", "minus apples", "point blank"]
)
def test_no_number_words(text: str) -> None:
    assert read_number_words(text.split()) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [("四十二", 42), ("十", 10), ("十五", 15), ("一百", 100), ("一百零五", 105), ("一百二十三", 123), ("两千", 2000), ("一千二百", 1200), ("一万", 10000),
     ("三万五千", 35000), ("五百万", 5000000), ("三亿", 300000000), ("一亿两千万", 120000000), ("三万亿", 3 * 10**12), ("二零二四", 2024), ("零", 0), ("〇", 0),
     ("三分之一", "1/3"), ("四分之三", "3/4"), ("百分之五十", "1/2"), ("百分之50", "1/2"), ("3分之2", "2/3"), ("三又四分之一", "13/4"), ("二点五", "2.5"),
     ("一点五万", 15000), ("负三", -3), ("负三分之一", "-1/3"), ("一半", "1/2"), ("5万", 50000), ("1.5亿", 150000000)],
)  # fmt: skip
def test_chinese(text: str, value: int | str) -> None:
    assert read_chinese(text) == (Fraction(value), len(text))
    assert read_chinese(text + "个") == (Fraction(value), len(text))


@pytest.mark.parametrize("text", ["", "个", "苹果", "负", "abc", "点五"])
def test_no_chinese_numeral(text: str) -> None:
    assert read_chinese(text) is None


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("٤٢", "42"),
        ("۴۲", "42"),
        ("४२", "42"),
        ("٣٫٥", "3.5"),
        ("𝟒𝟐", "42"),
        ("𝑥", "x"),
        ("é42日", "é42日"),
        ("½²", "½²"),
    ],
)
def test_plain_digits(text: str, plain: str) -> None:
    assert plain_digits(text) == plain


@pytest.mark.parametrize(
    ("digits", "parts"),
    [("333", ("", "3")), ("33", None), ("3", None), ("1666", ("1", "6")), ("1212", ("", "12")), ("0909", ("", "09")), ("142857142857", ("", "142857")),
     ("14159", None), ("", None), ("12121", ("1", "21")), ("000", ("", "0")), ("1" * 600, None)],
)  # fmt: skip
def test_split_period(digits: str, parts: tuple[str, str] | None) -> None:
    assert split_period(digits) == parts


@given(st.integers(0, 999), st.from_regex(r"[0-9]{0,6}", fullmatch=True), st.from_regex(r"[0-9]{1,6}", fullmatch=True))
def test_repeating(whole: int, fixed: str, period: str) -> None:
    value = repeating(str(whole), fixed, period)
    shown = Fraction(f"{whole}.{fixed}{period * 3}")
    gap = Fraction(1, 10 ** (len(fixed) + 3 * len(period)))
    assert 0 <= value - shown <= gap
    assert (value * 10 ** len(fixed) * (10 ** len(period) - 1)).denominator == 1


_ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_ONES += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_HAN = "零一二三四五六七八九"


def english(value: int) -> str:
    for scale, name in ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if value >= scale:
            rest = f" {english(value % scale)}" if value % scale else ""
            return f"{english(value // scale)} {name}{rest}"
    if value < 20:
        return _ONES[value]
    return _TENS[value // 10] + (f" {_ONES[value % 10]}" if value % 10 else "")


def chinese(value: int) -> str:
    for scale, name in ((10**8, "亿"), (10**4, "万"), (1000, "千"), (100, "百"), (10, "十")):
        if value >= scale:
            rest = value % scale
            zero = "零" if rest and rest < scale // 10 else ""
            return f"{chinese(value // scale)}{name}{zero}{chinese(rest) if rest else ''}"
    return _HAN[value]


@given(st.integers(0, 10**12 - 1))
def test_whole_numbers_in_words(value: int) -> None:
    words = english(value).split()
    assert read_number_words(words) == (Fraction(value), len(words))
    text = chinese(value)
    assert read_chinese(text) == (Fraction(value), len(text))


@given(
    st.lists(
        st.sampled_from(
            [
                *_ONES,
                *_TENS[2:],
                "and",
                "a",
                "half",
                "thirds",
                "point",
                "hundred",
                "thousand",
                "million",
                "dozen",
                "minus",
            ]
        ),
        max_size=12,
    )
)
def test_any_words(words: list[str]) -> None:
    read = read_number_words(words)
    assert read is None or 0 < read[1] <= len(words)


@given(st.text(alphabet="零一二三十百千万亿点分之又负半两〇5.个", max_size=80))
def test_any_chinese(text: str) -> None:
    read = read_chinese(text)
    assert read is None or 0 < read[1] <= len(text)
