"""What characters, LaTeX commands and words of notation stand for: the tables of the lexer, without any code.

Each maps to a token's kind and value. An operator is its own kind.
"""

from __future__ import annotations

from typing import TypeAlias

from llmgym.rewards.notation.expressions import Constant, Expression
from llmgym.rewards.notation.wording import word_set

Meaning: TypeAlias = tuple[str, Expression | str | None]

PI, INFINITY, EMPTY = Constant("pi"), Constant("inf"), Constant("empty")

# --- Characters -------------------------------------------------------------------------------------------------------

SIGNS: dict[str, Meaning] = {
    **{sign: (sign, None) for sign in ("+", "-", "*", "/", "^", "_", "!", "±", "∓", ":", "&")},
    "**": ("^", None), "+-": ("±", None), "+/-": ("±", None), "∶": (":", None), "|": ("|", None),
    **dict.fromkeys(("=", "==", ":=", "≡", "≔"), ("relation", "=")),
    **dict.fromkeys(("!=", "<>", "≠"), ("relation", "!=")),
    **{sign: ("relation", sign) for sign in ("<", ">")},
    **dict.fromkeys(("<=", "=<", "≤", "⩽", "≦"), ("relation", "<=")),
    **dict.fromkeys((">=", "≥", "⩾", "≧"), ("relation", ">=")),
    **dict.fromkeys(("≈", "≃", "≅", "∼"), ("relation", "~")),
    "∈": ("relation", "in"),
    **{sign: ("open", sign) for sign in "([{"},
    **{sign: ("close", sign) for sign in ")]}"},
    **dict.fromkeys("⟨〈《", ("open", "<")),
    **dict.fromkeys("⟩〉》", ("close", ">")),
    "⌊": ("open", "floor"), "⌋": ("close", "floor"), "⌈": ("open", "ceiling"), "⌉": ("close", "ceiling"),
    **dict.fromkeys(",;、", ("joint", ",")),
    "∧": ("joint", "and"), "∨": ("joint", "or"),
    **dict.fromkeys("'′’", ("prime", None)),
    **dict.fromkeys(".。", ("dot", None)),
    **dict.fromkeys(("...", "…", "⋯"), ("dots", None)),
    "?": ("question", None),
    **dict.fromkeys("°º˚", ("unit", "°")),
    "%": ("unit", "%"), "℃": ("unit", "°C"), "℉": ("unit", "°F"), "¢": ("unit", "cent"),
    **{sign: ("currency", sign) for sign in "$€£₹₩"},
    **dict.fromkeys("¥￥", ("currency", "元")),
    "√": ("root", "2"), "∛": ("root", "3"), "∜": ("root", "4"),
    "∞": ("constant", INFINITY),
    **dict.fromkeys("∅⌀", ("constant", EMPTY)),
    **{sign: ("constant", Constant(name)) for sign, name in zip("ℝℤℚℕℂ", "RZQNC", strict=True)},
    "∪": ("set", "union"), "∩": ("set", "intersection"), "∖": ("set", "difference"),
    "∠": ("symbol", "angle"), "△": ("symbol", "triangle"), "▲": ("symbol", "triangle"), "⊙": ("symbol", "circle"),
}  # fmt: skip

_GREEK = """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu
    nu xi omicron pi rho sigma tau upsilon phi chi psi omega"""
_GREEK_NAMES = _GREEK.split()
GREEK_LETTERS = dict(zip("αβγδεζηθικλμνξοπρστυφχψω", _GREEK_NAMES, strict=True))
GREEK_LETTERS |= {letter.upper(): name.capitalize() for letter, name in GREEK_LETTERS.items()}
GREEK_LETTERS |= {"ς": "sigma", "ϑ": "theta", "ϕ": "phi", "ϵ": "epsilon", "ϱ": "rho", "ϖ": "pi", "µ": "mu"}

GREEK_NAMES = frozenset(GREEK_LETTERS.values())
#: Names of Greek letters that before brackets are functions; of ``\\alpha(x + 1)`` and the like nobody can tell.
GREEK_FUNCTIONS = GREEK_NAMES - word_set("alpha theta lambda omega rho epsilon kappa pi")
#: What these are of numbers is settled, so that they are no names.
SETTLED_FUNCTIONS = frozenset({"Gamma", "zeta"})
#: Functions of several letters that nobody here works out, and that are no letters multiplied.
WORD_FUNCTIONS = word_set("Var Cov Cor var cov tr Tr dim ker ord deg adj sgn arg Arg Re Im erf")
#: Signs between propositions, and between conditions.
LOGIC = word_set(r"\wedge \land \vee \lor ∧ ∨")

FRACTIONS = {"½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5)}
FRACTIONS |= {"⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅐": (1, 7), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8)}
FRACTIONS |= {"⅑": (1, 9), "⅒": (1, 10)}
SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱˣ", "0123456789+-nix", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉ₙₓ", "0123456789nx", strict=True))

# --- Functions --------------------------------------------------------------------------------------------------------

_FUNCTIONS = """sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch
    arcsinh arccosh arctanh ln log lg exp max min gcd lcm abs floor ceiling"""
FUNCTIONS = {name: name for name in _FUNCTIONS.split()}
FUNCTIONS |= {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "arsinh": "arcsinh", "arcosh": "arccosh"}
FUNCTIONS |= {"artanh": "arctanh", "tg": "tan", "ctg": "cot", "arctg": "arctan", "cosec": "csc", "ceil": "ceiling"}
FUNCTIONS |= {"det": "determinant"}
#: Functions of several arguments.
VARIADIC = frozenset({"max", "min", "gcd", "lcm"})

# --- LaTeX ------------------------------------------------------------------------------------------------------------

COMMANDS: dict[str, Meaning] = {
    **{name: ("letter", name) for name in _GREEK_NAMES},
    **{name.capitalize(): ("letter", name.capitalize()) for name in _GREEK_NAMES},
    **{"var" + name: ("letter", name) for name in ("epsilon", "theta", "phi", "rho", "sigma", "kappa")},
    "ell": ("letter", "ell"), "hbar": ("letter", "hbar"), "imath": ("constant", Constant("i")),
    **{name: ("function", function) for name, function in FUNCTIONS.items()},
    "pi": ("constant", PI), "infty": ("constant", INFINITY), "infin": ("constant", INFINITY),
    **dict.fromkeys(("emptyset", "varnothing"), ("constant", EMPTY)),
    **{name: ("constant", Constant(name)) for name in "RZQN"},
    **dict.fromkeys(("frac", "dfrac", "tfrac", "cfrac"), ("frac", None)),
    **dict.fromkeys(("binom", "dbinom", "tbinom"), ("binomial", None)),
    "sqrt": ("root", "2"), "over": ("over", "divide"), "choose": ("over", "binomial"),
    **dict.fromkeys(("cdot", "times", "ast", "bullet"), ("*", None)),
    "div": ("/", None), "slash": ("/", None), "pm": ("±", None), "mp": ("∓", None),
    "bmod": ("mod", None), "mod": ("mod", None), "pmod": ("mod", None),
    **dict.fromkeys(("le", "leq", "leqslant", "leqq"), ("relation", "<=")),
    **dict.fromkeys(("ge", "geq", "geqslant", "geqq"), ("relation", ">=")),
    **dict.fromkeys(("ne", "neq"), ("relation", "!=")),
    **dict.fromkeys(("equiv", "coloneqq", "coloneq"), ("relation", "=")),
    "lt": ("relation", "<"), "gt": ("relation", ">"), "in": ("relation", "in"),
    **dict.fromkeys(("approx", "approxeq", "sim", "simeq", "cong"), ("relation", "~")),
    "cup": ("set", "union"), "cap": ("set", "intersection"), "bigcup": ("set", "union"),
    **dict.fromkeys(("setminus", "smallsetminus", "backslash"), ("set", "difference")),
    "{": ("open", "set"), "}": ("close", "set"), "lbrace": ("open", "set"), "rbrace": ("close", "set"),
    "lfloor": ("open", "floor"), "rfloor": ("close", "floor"),
    "lceil": ("open", "ceiling"), "rceil": ("close", "ceiling"),
    "langle": ("open", "<"), "rangle": ("close", ">"), "lvert": ("open", "|"), "rvert": ("close", "|"),
    "lbrack": ("open", "["), "rbrack": ("close", "]"), "lparen": ("open", "("), "rparen": ("close", ")"),
    "vert": ("|", None), "mid": ("|", "mid"), "colon": (":", None), "prime": ("prime", None),
    **dict.fromkeys(("dots", "ldots", "cdots", "dotsc", "dotsb"), ("dots", None)),
    **dict.fromkeys(("quad", "qquad", "\\", "newline"), ("joint", ",")),
    "wedge": ("joint", "and"), "land": ("joint", "and"), "vee": ("joint", "or"), "lor": ("joint", "or"),
    "%": ("unit", "%"), "degree": ("unit", "°"), "textdegree": ("unit", "°"), "circ": ("circle", None),
    **dict.fromkeys(("$", "textdollar"), ("currency", "$")),
    "pounds": ("currency", "£"), "euro": ("currency", "€"), "texteuro": ("currency", "€"), "yen": ("currency", "元"),
    "angle": ("symbol", "angle"), "triangle": ("symbol", "triangle"), "odot": ("symbol", "circle"),
    "&": ("symbol", "&"),
    **{name: ("accent", name) for name in ("vec", "hat", "tilde", "dot", "ddot", "widehat", "widetilde", "mathring")},
    "overline": ("accent", "overline"), "bar": ("accent", "overline"), "overrightarrow": ("accent", "vec"),
    **dict.fromkeys(("overarc", "wideparen", "overparen"), ("accent", "arc")),
}  # fmt: skip

#: Commands that say nothing about the value: sizes, spaces, delimiters of mathematics.
SKIPPED = word_set(
    "left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr bigm middle displaystyle textstyle scriptstyle limits"
    " nolimits thinspace thickspace medspace negthinspace nonumber notag boldmath hfill nobreakspace / allowbreak"
    " centering large Large small , ; : ! ( ) [ ] >"
) | {" ", "\n", "\t"}
#: The same, with an argument that goes with them.
SKIPPED_WITH_ARGUMENT = word_set("hspace vspace phantom hphantom vphantom tag label color textcolor kern")
#: Commands that only dress their argument up; in the first kind letters are words.
UPRIGHT = word_set("text mathrm textrm mbox hbox operatorname textbf textit textsf texttt textnormal emph")
DRESS = word_set("mathbf mathit mathsf mathtt mathnormal boldsymbol bm boxed fbox underline ensuremath pmb")
#: Those in which a letter is a vector or a matrix.
BOLD = word_set("mathbf boldsymbol bm pmb")
UPRIGHT_SWITCHES = frozenset({"rm", "sf", "tt"})
MATRICES = word_set("matrix pmatrix bmatrix Bmatrix vmatrix smallmatrix array cases")
TRANSPARENT_ENVIRONMENTS = word_set("aligned align equation gathered math center displaymath gather split")

# --- Words ------------------------------------------------------------------------------------------------------------

JOINING_WORDS = {"and": "and", "or": "or", "和": "and", "或": "or", "及": "and", "与": "and", "與": "and"}
JOINING_WORDS |= {"或者": "or", "以及": "and", "且": "and"}
WORDS: dict[str, Meaning] = {
    **{word: ("joint", joint) for word, joint in JOINING_WORDS.items()},
    **{name: ("function", function) for name, function in FUNCTIONS.items()},
    **{name: ("letter", name) for name in _GREEK_NAMES if len(name) > 2},
    "pi": ("constant", PI), "infinity": ("constant", INFINITY), "inf": ("constant", INFINITY),
    "oo": ("constant", INFINITY), "sqrt": ("root", "2"), "cbrt": ("root", "3"),
    "mod": ("mod", None), "union": ("set", "union"), "intersect": ("set", "intersection"),
}  # fmt: skip
#: A function and its argument in one run of letters.
GLUED = {function + letter: (function, letter) for function in ("sin", "cos", "tan", "cot", "ln") for letter in "xyz"}
CURRENCY_CODES = {"USD": "$", "EUR": "€", "GBP": "£", "RMB": "元", "CNY": "元", "US": "$", "Rs": "₹", "JPY": "円"}
