"""Units by one name each, and their factors."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgym.rewards.notation.units import canonical, conversion, is_known

SAME: dict[str, list[str]] = {
    "m": ["m", "meter", "meters", "metre", "Metres", "米"],
    "km": ["km", "KM", "Km", "kilometer", "kilometres", "千米", "公里"],
    "cm": ["cm", "cm.", "centimeters", "centimetre", "厘米"],
    "in": ["in", "in.", "inch", "inches", "Inches"],
    "ft": ["ft", "foot", "feet"],
    "cm^2": ["cm^2", "cm²", "cm2", "cm^{2}", "square cm", "sq cm", "sq. cm.", "square centimetres", "centimeters squared", "平方厘米"],
    "m^3": ["m^3", "m³", "cubic meters", "cu m", "meters cubed", "立方米"],
    "unit^2": ["square units", "sq units", "square unit"],
    "L": ["L", "l", "liters", "litre", "升"],
    "mL": ["ml", "mL", "milliliters", "millilitre", "cc", "毫升"],
    "g": ["g", "gm", "grams", "gramme", "克"],
    "kg": ["kg", "kgs", "kilograms", "kilogrammes", "kilos", "公斤", "千克"],
    "lb": ["lb", "lbs", "pounds"],
    "s": ["s", "sec", "seconds", "秒"],
    "min": ["min", "mins", "minutes", "分钟"],
    "h": ["h", "hr", "hrs", "hours", "小时"],
    "km/h": ["km/h", "km / h", "kilometers per hour", "km per hour", "km/hr", "kph", "kmh^{-1}", "km h^-1", "千米/时", "公里每小时"],
    "mi/h": ["mph", "miles per hour", "mi/h", "miles/hour", "miles an hour"],
    "m/s": ["m/s", "ms^{-1}", "m s^{-1}", "metres per second", "米/秒"],
    "m/s^2": ["m/s^2", "m/s²", "ms^{-2}", "m s^-2", "meters per second squared"],
    "N*m": ["N m", "N·m", "newton meters"],
    "kWh": ["kWh", "kW h", "kW·h", "kilowatt-hours", "kilowatt hours"],
    "°": ["°", "degrees", "degree", "deg", "度"],
    "°C": ["°C", "° C", "degrees Celsius", "degrees C", "celsius", "摄氏度", "℃"],
    "%": ["%", "percent", "per cent", "Percent"],
    "$": ["$", "dollars", "dollar", "USD", "美元"],
    "$/h": ["dollars per hour", "$/h", "USD/hour", "dollars an hour"],
    "cent": ["cents", "cent", "¢", "pennies"],
    "元": ["元", "yuan", "RMB", "¥", "块"],
    "MB": ["MB", "megabytes"],
    "bit/s": ["bits per second", "bit/s"],
    "apple": ["apple", "apples", "Apples", "apples."],
    "red apple": ["red apples", "red apple"],
    "apple/box": ["apples per box", "apples/box"],
    "box": ["box", "boxes"],
    "person": ["people", "persons", "person"],
    "way": ["ways", "ways.", "way"],
    "cup of tea": ["cups of tea"],
    "year": ["years", "years old", "年"],
    "个": ["个"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("unit", "spelling"), [(unit, spelling) for unit, spellings in SAME.items() for spelling in spellings]
)
def test_spellings(unit: str, spelling: str) -> None:
    assert canonical(spelling) == unit


@pytest.mark.parametrize("unit", SAME)
def test_a_canonical_name_stays(unit: str) -> None:
    assert canonical(unit) == unit


@pytest.mark.parametrize(
    "text",
    ["", " ", "x", "n", "5", "5 km", "+", "or so", "or more", "is wrong", "not", "isn't", "approximately", "roughly", "million", "dozen",
     "thousand apples", "two", "half", "squared", "less", "times", "th", "am", "p.m.", "of", "of them", "the", "左右", "多", "个半", "分之一",
     "a very long list of nouns indeed", "km/", "a" * 100, "km^", "²", "binary", "base", "x^2", "%%", "(", "\\", "per", "/"],
)  # fmt: skip
def test_no_unit(text: str) -> None:
    assert canonical(text) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [("m", "M"), ("mW", "MW"), ("km", "m"), ("cm", "cm^2"), ("apples", "oranges"), ("h", "H"), ("ton", "tonne"), ("g", "G"), ("mph", "m/h"),
     ("°", "°C"), ("$", "€"), ("kg m", "kg/m")],
)  # fmt: skip
def test_different_units(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize(
    ("unit", "dimension", "factor"),
    [
        ("km", "length", 1000),
        ("cm", "length", Fraction(1, 100)),
        ("in", "length", Fraction("0.0254")),
        ("mi", "length", Fraction("1609.344")),
        ("cm^2", "length^2", Fraction(1, 10000)),
        ("L", "length^3", Fraction(1, 1000)),
        ("m^3", "length^3", 1),
        ("g", "mass", Fraction(1, 1000)),
        ("h", "time", 3600),
        ("year", "month", 12),
        ("km/h", "length/time", Fraction(5, 18)),
        ("m/s", "length/time", 1),
        ("°", "angle", 1),
        ("arcmin", "angle", Fraction(1, 60)),
        ("$", "dollar", 1),
        ("cent", "dollar", Fraction(1, 100)),
        ("角", "yuan", Fraction(1, 10)),
        ("kWh", "length^2*mass/time^2", 3600000),
        ("N*m", "length^2*mass/time^2", 1),
        ("kB", "data", 8000),
        ("%", "", Fraction(1, 100)),
    ],
)
def test_conversion(unit: str, dimension: str, factor: int | Fraction) -> None:
    assert conversion(unit) == (dimension, Fraction(factor))


@pytest.mark.parametrize("unit", ["apple", "°C", "°F", "rad", "ton", "apple/box", "unit^2", "个"])
def test_no_conversion(unit: str) -> None:
    assert conversion(unit) is None


@pytest.mark.parametrize("unit", SAME)
def test_what_has_a_factor_is_known(unit: str) -> None:
    if conversion(unit) is not None and not set(unit) & set("*/^"):
        assert is_known(unit)


@given(
    st.text(max_size=40)
    | st.lists(
        st.sampled_from(["km", "m", "/", " per ", "^", "2", "{", "}", "-1", " ", "square ", "a", "每", "²", "."]),
        max_size=8,
    ).map("".join)
)
def test_any_text_is_a_unit_or_none(text: str) -> None:
    unit = canonical(text)
    if unit is not None:
        assert unit
        assert conversion(unit) is None or conversion(unit)[1] > 0
