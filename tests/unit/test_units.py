"""Units by one name each, and their factors."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgym.rewards import verify
from llmgym.rewards.notation.nouns import noun
from llmgym.rewards.notation.units import canonical, conversion, is_known, is_measure

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
    "Mm": ["Mm", "megameters"],
    "mm": ["mm", "millimeters"],
    "kcal": ["kcal", "Cal", "kilocalories"],
    "kg": ["kg", "Kg", "KG", "kgs", "kilograms", "kilogrammes", "kilos", "公斤", "千克"],
    "lb": ["lb", "lbs", "pounds"],
    "s": ["s", "sec", "seconds", "秒"],
    "min": ["min", "mins", "minutes", "分钟"],
    "h": ["h", "hr", "hrs", "hours", "小时"],
    "km/h": ["km/h", "km / h", "kilometers per hour", "km per hour", "km/hr", "kph", "kmh^{-1}", "km h^-1", "千米/时", "公里每小时"],
    "mi/h": ["mph", "miles per hour", "mi/h", "miles/hour", "miles an hour"],
    "m/s": ["m/s", "ms^{-1}", "m s^{-1}", "metres per second", "米/秒"],
    "m/s^2": ["m/s^2", "m/s²", "ms^{-2}", "m s^-2", "meters per second squared"],
    "N*m": ["N m", "Nm", "N·m", "newton meters"],
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
    "个苹果": ["个苹果"],
    "яблок": ["яблок"],
    "días": ["días"],
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
     ("°", "°C"), ("$", "€"), ("kg m", "kg/m"),
     ("mm", "Mm"), ("mg", "Mg"), ("ms", "Ms"), ("nm", "Nm"), ("cal", "Cal"), ("mL", "ML"), ("GB", "Gb"), ("mN", "MN")],
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


# --- Nouns ------------------------------------------------------------------------------------------------------------

#: After a number these make it another one, take it back, or turn it round.
NOT_COUNTED = """
    lakh|crore|gross|tens|pairs|scores|mio|mil|mille|bn|Tausend|Millionen|milliards|millones|тысяч|миллион|dutzend|Dutzend
    douzaines|docenas|grand|kilo|mega|dozen|ppm|per mille|basis points|nicht|nein|pas|не|vielleicht|peut-être|quizás|возможно
    environ|ungefähr|mehr|moins|más|menos|excluded|failing|inverse|reciprocal|negated|reversed|conjugate|modulus|complement
    ternary|duodecimal|turns|gradians|loss|deficit|down|south|fold|apples excluded|km excluded|or so|mins ago|apples or so|
    倍|打|双|对|不|约|多|百|双鞋|个不对
"""
COUNTED = """
    apples|red apples|square tiles|people|children|fish|students|boxes|ways|different ways|possible outcomes|apple|way
    apples each|cups of tea|cookies baked|math problems|chocolate chip cookies|miles per gallon|dollars per apple|litres of milk
    Äpfel|Euro|Stunden|Kinder|pommes|élèves|jours|heures|manzanas|años|días|niños|яблок|рублей|часов|дней|см|км|человек
    个|只|本|人|元|天|岁|个苹果|名学生|只鸡|平方厘米|小时
"""


def phrases(table: str) -> list[str]:
    return [phrase.strip() for line in table.splitlines() for phrase in line.split("|") if phrase.strip()]


@pytest.mark.parametrize("words", phrases(NOT_COUNTED))
def test_a_word_that_may_change_the_number_is_no_unit(words: str) -> None:
    assert canonical(words) is None
    assert not verify(f"<answer>42 {words}</answer>", "42")
    assert not verify(f"<answer>42{words}</answer>", "42")
    assert not verify("<answer>42</answer>", f"42 {words}")
    assert verify(f"<answer>42 {words}</answer>", f"42 {words}")


@pytest.mark.parametrize("words", phrases(COUNTED))
def test_what_is_counted_is_a_unit(words: str) -> None:
    assert verify(f"<answer>42 {words}</answer>", "42")
    assert verify("<answer>42</answer>", f"42 {words}")
    assert not verify(f"<answer>41 {words}</answer>", f"42 {words}")


@pytest.mark.parametrize("answer", ["1 melon", "0.5 melon", "one melon"])
def test_the_singular_stands_after_one_and_less(answer: str) -> None:
    assert verify(f"<answer>{answer}</answer>", answer.split()[0])
    assert canonical("melon") is None
    assert canonical("melon", is_single=True) == "melon" == canonical("melons")


@pytest.mark.parametrize("word", ["inverse", "loss", "nicht", "pas", "failed", "failing", "lakh", "不"])
def test_not_every_word_after_one_is_a_singular(word: str) -> None:
    assert not verify(f"<answer>1 {word}</answer>", "1")


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("3, 4 excluded", "3, 4"), ("3, 4 failing", "3, 4"), ("3, 4 outcasts", "3, 4"), ("x > 2 excluded", "x > 2"), ("x > 2 outcasts", "x > 2"),
     ("(2, 3) excluded", "(2, 3)"), ("(2, 3) outcasts", "(2, 3)"), ("3:1 outcasts", "3:1"), ("{1, 2} outcasts", "{1, 2}")],
)  # fmt: skip
def test_no_noun_after_several_values(answer: str, reference: str) -> None:
    assert not verify(f"<answer>{answer}</answer>", reference)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("3 and 5 cm", "3, 5"), ("3 apples and 4 oranges", "3 apples, 4 oranges"), ("x > 2 cm", "x > 2 cm"), ("(2, 3) cm", "(2, 3) cm")],
)  # fmt: skip
def test_units_after_several_values(answer: str, reference: str) -> None:
    assert verify(f"<answer>{answer}</answer>", reference)


@pytest.mark.parametrize(
    ("one", "other"),
    [("5 mm", "5 Mm"), ("5 mg", "5 Mg"), ("5 ms", "5 Ms"), ("5 Nm", "5 nm"), ("5 cal", "5 Cal"), ("5 GB", "5 Gb"), ("5 mL", "5 ML")],
)  # fmt: skip
def test_the_case_of_a_symbol_counts(one: str, other: str) -> None:
    assert not verify(f"<answer>{one}</answer>", other)
    assert not verify(f"<answer>{other}</answer>", one)
    assert verify(f"<answer>{one}</answer>", one)


@pytest.mark.parametrize(
    ("one", "other"), [("5 KM", "5 km"), ("5 Kg", "5 kg"), ("5 CM", "5 cm"), ("5 Nm", "5 N m"), ("5 Metres", "5 m")]
)
def test_other_symbols_in_capitals(one: str, other: str) -> None:
    assert verify(f"<answer>{one}</answer>", other)


def test_a_noun_is_in_the_singular() -> None:
    assert noun(["boxes"]) == noun(["box"]) == "box"
    assert noun(["cups", "of", "tea"]) == "cup of tea"
    assert noun(["a", "box"]) is None
    assert noun(["boxes", "of"]) is None
    assert noun(["very", "many", "small", "red", "boxes"]) is None


@pytest.mark.parametrize("unit", ["km", "km/h", "N*m", "°", "unit^2", "ton", "1/s"])
def test_measures(unit: str) -> None:
    assert is_measure(unit)


@pytest.mark.parametrize("unit", ["apple", "apple/h", "个"])
def test_nouns_are_no_measures(unit: str) -> None:
    assert not is_measure(unit)
