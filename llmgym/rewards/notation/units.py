"""Units of measurement by one name each, and what they are worth in SI base units.

A unit is a product of powers of names: ``km/h``, ``m/s^2``, ``N*m``. Words that no table knows are units too where
``nouns`` knows that they only count things (``5 apples``); any others may make the number another one.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache, lru_cache

from llmgym.rewards.notation.nouns import TRAILING, han_noun, noun
from llmgym.rewards.notation.wording import word_set

# --- Tables -----------------------------------------------------------------------------------------------------------

#: Base quantities with their powers: ``{"length": 1, "time": -1}``.
_Dimension = dict[str, int]
_LENGTH: _Dimension = {"length": 1}
_AREA: _Dimension = {"length": 2}
_VOLUME: _Dimension = {"length": 3}
_MASS: _Dimension = {"mass": 1}
_TIME: _Dimension = {"time": 1}
_ENERGY: _Dimension = {"mass": 1, "length": 2, "time": -2}
_POWER: _Dimension = {"mass": 1, "length": 2, "time": -3}
_FORCE: _Dimension = {"mass": 1, "length": 1, "time": -2}
_INCH = Fraction("0.0254")
_POUND = Fraction("0.45359237")
_GALLON = 231 * _INCH**3

#: Canonical name: dimension, factor to the base unit (None where none is exact or fixed), and its spellings, with ``_``
#: for a space. Of a spelling of one letter or in capitals the case counts, of others it does not.
_TABLE: dict[str, tuple[_Dimension | None, Fraction | int | None, str]] = {
    # length (SI prefixes are added below)
    "m": (_LENGTH, 1, "m meter meters metre metres mtr 米 公尺 м"),
    "km": (_LENGTH, 1000, "km kms 千米 公里 км"),
    "dm": (_LENGTH, Fraction(1, 10), "dm 分米 дм"),
    "cm": (_LENGTH, Fraction(1, 100), "cm cms 厘米 公分 см"),
    "mm": (_LENGTH, Fraction(1, 1000), "mm mms 毫米 мм"),
    "um": (_LENGTH, Fraction(1, 10**6), "um μm µm micron microns 微米"),
    "nm": (_LENGTH, Fraction(1, 10**9), "nm 纳米"),
    "in": (_LENGTH, _INCH, "in inch inches 英寸"),
    "ft": (_LENGTH, 12 * _INCH, "ft foot feet 英尺"),
    "yd": (_LENGTH, 36 * _INCH, "yd yds yard yards 码"),
    "mi": (_LENGTH, 63360 * _INCH, "mi mile miles 英里"),
    "nmi": (_LENGTH, 1852, "nmi nautical_mile nautical_miles 海里"),
    "ly": (_LENGTH, 9460730472580800, "light_year light_years light-year light-years lightyear lightyears 光年"),
    # area, volume
    "ha": (_AREA, 10**4, "ha hectare hectares 公顷"),
    "acre": (_AREA, 6272640 * _INCH**2, "acre acres 英亩"),
    "L": (_VOLUME, Fraction(1, 1000), "L l liter liters litre litres 升 公升"),
    "mL": (_VOLUME, Fraction(1, 10**6), "mL ml cc 毫升"),
    "gal": (_VOLUME, _GALLON, "gal gallon gallons 加仑"),
    "qt": (_VOLUME, _GALLON / 4, "qt quart quarts"),
    "pt": (_VOLUME, _GALLON / 8, "pt pint pints"),
    "cup": (_VOLUME, _GALLON / 16, "cup cups"),
    "fl oz": (_VOLUME, _GALLON / 128, "fl_oz fluid_ounce fluid_ounces"),
    "tbsp": (_VOLUME, _GALLON / 256, "tbsp tablespoon tablespoons"),
    "tsp": (_VOLUME, _GALLON / 768, "tsp teaspoon teaspoons"),
    # mass
    "g": (_MASS, Fraction(1, 1000), "g gm gms gram grams gramme grammes 克"),
    "kg": (_MASS, 1, "kg kgs kilos 千克 公斤"),
    "mg": (_MASS, Fraction(1, 10**6), "mg 毫克"),
    "t": (_MASS, 1000, "t tonne tonnes metric_ton metric_tons 吨"),
    "ton": (_MASS, None, "ton tons"),  # 2,000 or 2,240 pounds, or a tonne
    "lb": (_MASS, _POUND, "lb lbs pound pounds 磅"),
    "oz": (_MASS, _POUND / 16, "oz ounce ounces 盎司"),
    "斤": (_MASS, Fraction(1, 2), "斤"),
    # time
    "s": (_TIME, 1, "s sec secs second seconds 秒 秒钟"),
    "ms": (_TIME, Fraction(1, 1000), "ms 毫秒"),
    "min": (_TIME, 60, "min mins minute minutes 分钟"),
    "h": (_TIME, 3600, "h hr hrs hour hours 小时 时 个小时"),
    "day": (_TIME, 86400, "day days 天 日"),
    "week": (_TIME, 604800, "week weeks wk wks 周 星期 个星期"),
    "month": ({"month": 1}, 1, "month months 月 个月"),
    "year": ({"month": 1}, 12, "year years yr yrs 年"),
    # speed
    "mph": (None, None, "mph"),
    "kph": (None, None, "kph kmph kmh"),
    "kn": ({"length": 1, "time": -1}, Fraction(1852, 3600), "kn knot knots"),
    # temperature: their zeros differ, so that no factor converts them
    "°C": (None, None, "°C ℃ °_C celsius °_celsius deg_C centigrade °_centigrade 摄氏度"),
    "°F": (None, None, "°F ℉ °_F fahrenheit °_fahrenheit deg_F 华氏度"),
    "K": ({"temperature": 1}, 1, "K kelvin kelvins"),
    # angle
    "°": ({"angle": 1}, 1, "° deg degree degrees 度"),
    "arcmin": ({"angle": 1}, Fraction(1, 60), "arcmin arcminute arcminutes"),
    "arcsec": ({"angle": 1}, Fraction(1, 3600), "arcsec arcsecond arcseconds"),
    "rad": (None, None, "rad rads radian radians 弧度"),  # in degrees it is irrational
    "rev": ({"angle": 1}, 360, "rev revs revolution revolutions"),
    "rpm": (None, None, "rpm"),
    # money
    "$": ({"dollar": 1}, 1, "$ dollar dollars usd us_dollar us_dollars buck bucks 美元"),
    "cent": ({"dollar": 1}, Fraction(1, 100), "cent cents ¢ penny pennies 美分"),
    "€": ({"euro": 1}, 1, "€ euro euros eur 欧元"),
    "£": ({"sterling": 1}, 1, "£ gbp quid 英镑"),
    "pence": ({"sterling": 1}, Fraction(1, 100), "pence"),
    "元": ({"yuan": 1}, 1, "元 ¥ ￥ yuan rmb cny 人民币 块 块钱"),
    "角": ({"yuan": 1}, Fraction(1, 10), "角 毛"),
    "円": ({"yen": 1}, 1, "円 yen jpy 日元"),
    "₹": ({"rupee": 1}, 1, "₹ rupee rupees inr rs"),
    "₩": ({"won": 1}, 1, "₩ krw 韩元"),
    # part of a hundred
    "%": ({}, Fraction(1, 100), "% percent per_cent percents pct 百分比"),
    # energy, force and the like
    "J": (_ENERGY, 1, "J joule joules 焦耳 焦"),
    "kJ": (_ENERGY, 1000, "kJ 千焦"),
    "cal": (_ENERGY, Fraction("4.184"), "cal calorie calories 卡路里 卡"),
    "kcal": (_ENERGY, 4184, "kcal Cal kilocalorie kilocalories 千卡 大卡"),
    "eV": (_ENERGY, Fraction("1.602176634e-19"), "eV electronvolt electronvolts"),
    "W": (_POWER, 1, "W watt watts 瓦 瓦特"),
    "kW": (_POWER, 1000, "kW 千瓦"),
    "kWh": (_ENERGY, 3600000, "kWh kW_h kilowatt_hour kilowatt_hours kilowatt-hour kilowatt-hours 千瓦时"),
    "hp": (_POWER, None, "hp horsepower"),
    "N": (_FORCE, 1, "N newton newtons 牛顿 牛"),
    "Nm": (None, None, "Nm"),
    "Pa": ({"mass": 1, "length": -1, "time": -2}, 1, "Pa pascal pascals 帕 帕斯卡"),
    "atm": ({"mass": 1, "length": -1, "time": -2}, 101325, "atm atmosphere atmospheres"),
    "Hz": ({"time": -1}, 1, "Hz hertz 赫兹"),
    "V": ({"voltage": 1}, 1, "V volt volts 伏 伏特"),
    "A": ({"current": 1}, 1, "A amp amps ampere amperes 安 安培"),
    "Ω": ({"resistance": 1}, 1, "Ω Ω ohm ohms 欧姆"),
    "C": ({"charge": 1}, 1, "C coulomb coulombs"),
    "F": ({"capacitance": 1}, 1, "F farad farads"),
    "T": ({"magnetic flux density": 1}, 1, "T tesla teslas"),
    "mol": ({"amount": 1}, 1, "mol mols mole moles 摩尔"),
    "M": ({"amount": 1, "length": -3}, 1000, "M"),
    # lengths without a measure: 90 square units
    "unit": (None, None, "unit units"),
    # data
    "bit": ({"data": 1}, 1, "bit bits 比特"),
    "B": ({"data": 1}, 8, "B byte bytes 字节"),
}

#: Multiples by name and by symbol, of the units that take them.
_PREFIXES = {"kilo": ("k", 3), "centi": ("c", -2), "milli": ("m", -3), "mega": ("M", 6), "giga": ("G", 9)}
_PREFIXES |= {"deci": ("d", -1), "hecto": ("h", 2), "tera": ("T", 12), "micro": ("u", -6), "nano": ("n", -9)}
_PREFIXED = {
    "m": "meter metre",
    "g": "gram gramme",
    "L": "liter litre",
    "s": "second",
    "J": "joule",
    "W": "watt",
    "N": "newton",
    "V": "volt",
    "A": "amp ampere",
    "Hz": "hertz",
    "Pa": "pascal",
    "B": "byte",
    "bit": "bit",
    "eV": "electronvolt",
    "Ω": "ohm",
}
#: Symbols with a prefix that are read without further ado; of others only the full name is (``5 TN``).
_SYMBOLS = word_set("""
    dL cL hL µg μg ug us μs µs ns MJ GJ mJ mW MW GW kN MN mV kV MV mA kHz MHz GHz kPa MPa hPa kB KB MB GB TB
    keV MeV GeV kΩ MΩ Kb Mb Gb Tb Mm Mg Ms ML MA mN mHz
""")
#: Spellings of which another case is another unit (``mg`` and ``Mg``), or may be.
_CASE_COUNTS = word_set("mm mg ms nm cal kn ml mw mv ma mn mpa mhz mj mb kb gb tb pa")


@cache
def _spellings() -> tuple[dict[str, str], dict[str, tuple[_Dimension, Fraction]]]:
    """Canonical names by spelling, and what each is worth; put together when the first unit is met."""
    names: dict[str, str] = {}
    values: dict[str, tuple[_Dimension, Fraction]] = {}
    for unit, (dimension, factor, spellings) in _TABLE.items():
        for spelling in spellings.split():
            name = spelling.replace("_", " ")
            names[name] = unit
            # "Km" and "KM" are common; "M" and "m", "mW" and "MW" are not the same.
            if name in _CASE_COUNTS:
                continue
            if len(name) > 1 and (name.islower() or not name.isascii()):
                names[name.capitalize()] = names[name.upper()] = unit
            elif len(name) > 1 and name.isascii():
                names.setdefault(name.lower(), unit)
        if dimension is not None and factor is not None:
            values[unit] = dimension, Fraction(factor)
    for prefix, (symbol, power) in _PREFIXES.items():
        for unit, words in _PREFIXED.items():
            known = values[unit]
            multiple = symbol + unit
            if multiple not in values:
                values[multiple] = known[0], known[1] * Fraction(10) ** power
            for word in words.split():
                for name in (prefix + word, prefix + word + "s"):
                    names[name] = names[name.capitalize()] = multiple
    for spelling in _SYMBOLS:
        unit = spelling.replace("µ", "u").replace("μ", "u")
        names[spelling] = {"KB": "kB", "Kb": "kbit", "Mb": "Mbit", "Gb": "Gbit", "Tb": "Tbit"}.get(unit, unit)
    return names, values


#: Composite names, as the product they stand for.
_COMPOSITE = {"mph": {"mi": 1, "h": -1}, "kph": {"km": 1, "h": -1}, "rpm": {"rev": 1, "min": -1}}
_COMPOSITE["Nm"] = {"N": 1, "m": 1}

# --- Reading ----------------------------------------------------------------------------------------------------------

#: Units of one letter that a number may have after a space; after ``\\text`` all of the table are read.
LETTERS = frozenset("mgshLVWNJ")
#: Short names that are read as letters multiplied where they touch the number: ``3st``, ``2gb``.
PRODUCTS = word_set("as cd fl gb kb mb pt st rs mi pa kn ha")

_MAX_WORDS = 4

_AREA_WORDS = frozenset({"square", "sq", "sq.", "平方"})
_VOLUME_WORDS = frozenset({"cubic", "cu", "cu.", "立方"})
_POWER_SUFFIX = re.compile(r"(?:\^\s*\{?\s*([-+]?[1-9])\s*\}?|([²³])|(⁻[¹²³])|([23]))\Z")
_SUPERSCRIPTS = {"²": 2, "³": 3, "⁻¹": -1, "⁻²": -2, "⁻³": -3}
_ALONE = re.compile(r"\^|[²³⁻]")


@lru_cache(maxsize=2048)
def canonical(text: str, *, is_single: bool = False) -> str | None:
    """The one name of a unit.

    Args:
        text: A unit by itself: symbol or words, singular or plural, with ``/``, "per", "square", ``^2``.
        is_single: Whether there is one of it or less, so that a noun may stand in the singular.

    Returns:
        The name (``"km/h"``, ``"cm^2"``, ``"%"``, ``"apple"``), or ``None`` where the text is no unit: a variable, or
        words that change what a number says.

    Example:
        >>> canonical("kilometres per hour"), canonical("sq. cm"), canonical("cm^2"), canonical("percent")
        ('km/h', 'cm^2', 'cm^2', '%')
        >>> canonical("red melons"), canonical("red melon", is_single=True), canonical("or so"), canonical("x")
        ('red melon', 'red melon', None, None)
    """
    text = text.strip()
    if not text or len(text) > 80:
        return None
    names, _ = _spellings()
    known = names.get(text)
    if known is not None and known not in _COMPOSITE:
        return known
    factors = _factors(text, is_single)
    return None if factors is None else _join(factors)


def is_known(text: str) -> bool:
    """Whether the tables know this name: ``km``, ``degrees``; not ``apples``.

    >>> is_known("kg"), is_known("apples")
    (True, False)
    """
    return _lookup(text) is not None


def is_measure(unit: str) -> bool:
    """Whether all of a unit is in the tables, and no noun.

    Args:
        unit: A name that :func:`canonical` gave.

    >>> is_measure("km/h"), is_measure("apple"), is_measure("apple/h")
    (True, False, False)
    """
    _, values = _spellings()
    names = [part.partition("^")[0] for _, part in _parts_of_canonical(unit)]
    return all(name in values or name in _TABLE for name in names)


def conversion(unit: str) -> tuple[str, Fraction] | None:
    """What a unit is worth in the base unit of its dimension (SI; degrees, dollars, bits), exactly.

    Args:
        unit: A name that :func:`canonical` gave.

    Returns:
        Dimension and factor, or ``None`` where the unit has none: nouns, radians, temperatures with another zero.

    Example:
        >>> conversion("km"), conversion("km/h"), conversion("apple")
        (('length', Fraction(1000, 1)), ('length/time', Fraction(5, 18)), None)
    """
    powers: _Dimension = {}
    factor = Fraction(1)
    _, values = _spellings()
    for sign, part in _parts_of_canonical(unit):
        name, _, power_text = part.partition("^")
        value = values.get(name)
        if value is None:
            return None
        power = sign * int(power_text or 1)
        factor *= value[1] ** power
        for base, base_power in value[0].items():
            powers[base] = powers.get(base, 0) + base_power * power
    return _join({base: power for base, power in powers.items() if power}), factor


def _parts_of_canonical(unit: str) -> list[tuple[int, str]]:
    above, *below = unit.split("/")
    parts = [(1, part) for part in above.split("*") if part != "1"]
    return parts + [(-1, part) for denominator in below for part in denominator.split("*")]


def _join(factors: dict[str, int]) -> str:
    above = [_power(name, power) for name, power in sorted(factors.items()) if power > 0]
    below = [_power(name, -power) for name, power in sorted(factors.items()) if power < 0]
    joined = "*".join(above)
    return "/".join([joined or "1", *below]) if below else joined


def _power(name: str, power: int) -> str:
    return name if power == 1 else f"{name}^{power}"


def _factors(text: str, is_single: bool) -> dict[str, int] | None:
    """A unit as powers of canonical names."""
    text = text.replace("μ", "µ") if "μ" in text else text
    if not text.isascii() and any("\u3400" <= character <= "\u9fff" for character in text):
        return _han_factors(text)
    per_hundred = text.casefold().replace("per cent", "percent")
    text = per_hundred if "percent" in per_hundred else text
    pieces = re.split(r"\s*/\s*|\s+per\s+|\s+an?\s+(?=\w+\.?\Z)", text)
    if not pieces[0]:
        pieces = pieces[1:] if len(pieces) > 1 else pieces  # "/h", after a currency sign
        signs = [-1] * len(pieces)
    else:
        signs = [1] + [-1] * (len(pieces) - 1)
    factors: dict[str, int] = {}
    for sign, piece in zip(signs, pieces, strict=True):
        product = _product(piece, is_single or sign < 0)
        if product is None:
            return None
        for name, power in product.items():
            factors[name] = factors.get(name, 0) + sign * power
    return {name: power for name, power in factors.items() if power} or None


def _product(text: str, is_single: bool) -> dict[str, int] | None:
    """``N m``, ``kW·h``, ``square feet``, ``m s^-2``, or a noun."""
    text = text.strip().strip("()")
    if text.startswith("per "):
        inverse = _product(text[4:], True)
        return None if inverse is None else {name: -power for name, power in inverse.items()}
    words = text.replace("·", " ").replace("*", " ").replace("⋅", " ").split()
    if not words or len(words) > _MAX_WORDS + 1:
        return None
    factors: dict[str, int] = {}
    i = 0
    while i < len(words):
        word, power = words[i], 1
        if word.casefold() in _AREA_WORDS or word.casefold() in _VOLUME_WORDS:
            power = 2 if word.casefold() in _AREA_WORDS else 3
            i += 1
            if i == len(words):
                return None
            word = words[i]
        known, taken = _known_at(words, i, word)
        if known is None:
            break
        i += taken
        if i < len(words) and words[i] in ("squared", "cubed"):
            power, i = (2 if words[i] == "squared" else 3), i + 1
        for name, exponent in known.items():
            factors[name] = factors.get(name, 0) + exponent * power
    rest = words[i:]
    while rest and factors and rest[-1].casefold() in TRAILING:
        rest = rest[:-1]
    if not rest:
        return factors or None
    counted = noun(words, is_single=is_single)
    return None if counted is None else {counted: 1}


def _known_at(words: list[str], i: int, word: str) -> tuple[dict[str, int] | None, int]:
    if i + 1 < len(words):
        names, _ = _spellings()
        for both in (f"{word} {words[i + 1]}", f"{'°' if _lookup(word) == {'°': 1} else word} {words[i + 1]}"):
            known = names.get(both) or names.get(both.casefold().rstrip("."))
            if known is not None:
                return {known: 1}, 2
    return _lookup(word), 1


def _lookup(word: str) -> dict[str, int] | None:
    """A single known name, with the power it may carry: ``cm``, ``cm^2``, ``cm²``, ``h^{-1}``, ``kmh^{-1}``."""
    names, _ = _spellings()
    suffix = _POWER_SUFFIX.search(word)
    if suffix is not None:
        stem = word[: suffix.start()].rstrip()
        power = int(suffix[1] or suffix[4] or 0) or _SUPERSCRIPTS[suffix[2] or suffix[3]]
        known = _lookup(stem) if stem and not _ALONE.search(stem) else None
        if known is None and power < 0 and len(stem) > 1 and names.get(stem[:-1]) and names.get(stem[-1]):
            return {names[stem[:-1]]: 1, names[stem[-1]]: power}  # ms^{-1}, kmh^{-1}: the power is the last one's
        if known is None:
            return None
        if power < 0 and known == _COMPOSITE["kph"]:
            return known if power == -1 else None
        if power < 0 and stem == "ms":
            return {"m": 1, "s": power}
        return {name: exponent * power for name, exponent in known.items()}
    name = names.get(word) or names.get(word.rstrip("."))
    if name is None and len(word) > 2 and (folded := word.casefold().rstrip(".")) not in _CASE_COUNTS:
        name = names.get(folded)
    return None if name is None else dict(_COMPOSITE.get(name) or {name: 1})


def _han_factors(text: str) -> dict[str, int] | None:
    """``平方厘米``, ``千米/小时``, ``千米每小时``, ``个苹果``."""
    text = text.replace(" ", "")
    pieces = re.split(r"[/每]", text)
    factors: dict[str, int] = {}
    for index, piece in enumerate(pieces):
        power = 1
        if piece[:2] in _AREA_WORDS or piece[:2] in _VOLUME_WORDS:
            power, piece = (2 if piece[:2] in _AREA_WORDS else 3), piece[2:]
        known = _lookup(piece)
        if known is None:
            counted = han_noun(piece) if piece and power == 1 else None
            if counted is None:
                return None
            known = {counted: 1}
        for name, exponent in known.items():
            factors[name] = factors.get(name, 0) + (-1 if index else 1) * exponent * power
    return {name: power for name, power in factors.items() if power} or None
