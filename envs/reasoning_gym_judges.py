"""Who judges the tasks of reasoning-gym: its own scorers where they are sound, ours where they are not.

Three lists made from an audit of every task (``benchmarks/audit_reasoning_gym.py``; its table is in
``docs/reasoning_gym.md``): :data:`ACCEPTED`, :data:`REPAIRED` and :data:`REFUSED`. The judges take the answer read from
a response, which may be any text, and an entry of the library. They run nothing of the text, do not raise, and need no
import of the library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

from llmgym.envs.math_reason import makes_target
from llmgym.rewards import answers_equal
from llmgym.rewards.arithmetic import plain

#: An item of a data set: ``"question"``, ``"answer"`` and ``"metadata"``.
Entry: TypeAlias = Mapping[str, Any]
Judge: TypeAlias = Callable[[str, Entry], bool]

# --- Texts ------------------------------------------------------------------------------------------------------------


def same_text(answer: str, entry: Entry) -> bool:
    """Equal but for spacing."""
    reference: str = entry["answer"]
    return answer.split() == reference.split()


def same_words(answer: str, entry: Entry) -> bool:
    """Equal but for spacing and case."""
    reference: str = entry["answer"]
    return answer.casefold().split() == reference.casefold().split()


def same_sentence(answer: str, entry: Entry) -> bool:
    """Equal but for spacing, case, and the full stop at the end, which may belong to the sentence around an answer."""
    given, wanted = (" ".join(text.casefold().split()).removesuffix(".") for text in (answer, entry["answer"]))
    return given == wanted


_ASSIGNMENT = re.compile(r"\s*[A-Za-z]\s*=")


def same_value(answer: str, entry: Entry) -> bool:
    """Equal in value in any notation, by :func:`llmgym.rewards.answers_equal`. ``x = 5`` is 5, ``5 = 5`` is not."""
    assignment = _ASSIGNMENT.match(answer)
    bare = answer[assignment.end() :] if assignment else answer
    return not set("=[") & set(bare) and answers_equal(bare, entry["answer"])


def same_antiderivative(answer: str, entry: Entry) -> bool:
    """Equal to the reference in value; the constant of integration may have another letter or be left out.

    A reference that holds an integral says the question once more: there nothing is right.
    """
    reference: str = entry["answer"]
    bare = reference.removesuffix("+ C").rstrip()
    return "Integral" not in reference and (answers_equal(answer, reference) or answers_equal(answer, bare))


def same_list(answer: str, entry: Entry) -> bool:
    """The same words in the same order, with commas between them."""
    return _members(answer) == _members(entry["answer"])


def _members(text: str) -> list[str]:
    return [member.strip() for member in text.split(",")]


def _rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


def same_rows(answer: str, entry: Entry) -> bool:
    """The same cells in the same rows."""
    return _rows(answer) == _rows(entry["answer"])


def is_a_valid_board(answer: str, entry: Entry) -> bool:
    """One of the boards that the entry lists as right."""
    return any(_rows(answer) == _rows(board) for board in entry["metadata"]["valid_answers"])


def same_json(answer: str, entry: Entry) -> bool:
    """The same JSON value; ``true`` is not 1, a number may be written as ``1`` or ``1.0``."""
    try:
        given = json.loads(answer)
    except (ValueError, RecursionError):  # RecursionError: brackets a thousand deep
        return False
    return _equal_json(given, json.loads(entry["answer"]))


def _equal_json(given: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        same = isinstance(given, dict) and given.keys() == wanted.keys()
        return same and all(_equal_json(given[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        same = isinstance(given, list) and len(given) == len(wanted)
        return same and all(map(_equal_json, given, wanted))
    return isinstance(given, bool) == isinstance(wanted, bool) and bool(given == wanted)


_ROLE = re.compile(r"\s*(\w+) is (?:an? )?(\w+)\s*")


def same_roles(answer: str, entry: Entry) -> bool:
    """``Zoey is a knight, and Riley is a knave``: nothing but one such clause for each person, in any order."""
    given, wanted = _roles(answer), _roles(entry["answer"])
    return given is not None and given == wanted


def _roles(text: str) -> dict[str, str] | None:
    clauses = [clause for clause in re.split(r",|\.|\n|\band\b", text.casefold()) if clause.strip()]
    found = [_ROLE.fullmatch(clause) for clause in clauses]
    roles = {match[1]: match[2] for match in found if match is not None}
    return roles if len(roles) == len(clauses) else None  # a clause of another kind, or a person twice


# --- Numbers ----------------------------------------------------------------------------------------------------------

_LITERAL = re.compile(r"[+-]?(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_QUOTIENT = re.compile(r"([+-]?[0-9]{1,64})\s*/\s*([0-9]{1,64})")
_MAX_LITERAL = 128
#: What a float may be off by where the library rounded to ``n`` digits: half a unit of the last, and the float's own.
_EPSILON = Fraction(1, 10**9)


def _number(text: str, *, quotients: bool = False) -> Fraction | None:
    """A number written out; with ``quotients`` also ``3/4``."""
    text = plain(text).strip()
    if len(text) <= _MAX_LITERAL and _LITERAL.fullmatch(text):
        return Fraction(text.replace(",", ""))
    quotient = _QUOTIENT.fullmatch(text) if quotients else None
    if quotient is None or not int(quotient[2]):
        return None
    return Fraction(int(quotient[1]), int(quotient[2]))


def _is_near(text: str, wanted: Fraction, tolerance: Fraction, *, quotients: bool = False) -> bool:
    given = _number(text, quotients=quotients)
    return given is not None and abs(given - wanted) <= tolerance


def same_12_digits(answer: str, entry: Entry) -> bool:
    """The reference is a float: equal to it in twelve digits."""
    wanted = Fraction(entry["answer"])
    return _is_near(answer, wanted, abs(wanted) / 10**12)


def same_9_digits(answer: str, entry: Entry) -> bool:
    """The library rounds each step to twelve digits: equal to its result in nine."""
    wanted = Fraction(entry["answer"])
    return _is_near(answer, wanted, abs(wanted) / 10**9)


def is_the_probability(answer: str, entry: Entry) -> bool:
    """The exact probability as a fraction or a decimal, or a decimal right in four digits, however small it is."""
    rational = entry["metadata"]["rational"]
    wanted = Fraction(rational["numerator"], rational["denominator"])
    if "/" in answer:
        return _number(answer, quotients=True) == wanted
    return _is_near(answer, wanted, wanted / 10**4)


def solves_triangle(answer: str, entry: Entry) -> bool:
    """An angle to two decimals, as the reference has it; a radius or a point to three, as the question asks."""
    metadata = entry["metadata"]
    three_decimals = Fraction(5, 10**4) + _EPSILON
    if metadata["task_type"] == "angle_measure":
        bare = answer.replace("°", "").strip()
        return _is_near(bare, Fraction(metadata["angle_ABC_degrees"]), Fraction(5, 10**3) + _EPSILON)
    if metadata["task_type"] == "incircle_radius":
        return _is_near(answer, Fraction(metadata["incircle_radius_approx"]), three_decimals)
    coordinates = _members(plain(answer).strip().removeprefix("(").removesuffix(")"))
    wanted = [Fraction(coordinate) for coordinate in metadata["ortho"]]
    return len(coordinates) == len(wanted) and all(
        _is_near(given, right, three_decimals, quotients=True) for given, right in zip(coordinates, wanted, strict=True)
    )


_PART = r"[0-9]+(?:\.[0-9]*)?"
_COMPLEX = re.compile(rf"(?:([+-]?{_PART})(?![0-9.i]))?(?:([+-]?(?:{_PART})?)i)?")
_IMAGINARY_FIRST = re.compile(rf"([+-]?(?:{_PART})?)i([+-]{_PART})")


def same_complex(answer: str, entry: Entry) -> bool:
    """``3 - 4i`` in either order of its parts, worked out, equal exactly."""
    given = _complex(answer)
    return given is not None and given == tuple(Fraction(part) for part in entry["metadata"]["result"])


def _complex(text: str) -> tuple[Fraction, Fraction] | None:
    text = "".join(plain(text[:_MAX_LITERAL]).split()).casefold().replace("j", "i")
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    if swapped := _IMAGINARY_FIRST.fullmatch(text):
        imaginary, real = swapped[1], swapped[2]
    elif text and (match := _COMPLEX.fullmatch(text)):
        real, imaginary = match[1] or "0", match[2] if text.endswith("i") else "0"
    else:
        return None
    return Fraction(real), Fraction(f"{imaginary}1" if imaginary in ("", "+", "-") else imaginary)


_SIMPLE_FRACTION = re.compile(
    r"\\d?frac\s*\{\s*([0-9]{1,64})\s*\}\s*\{\s*([0-9]{1,64})\s*\}|([0-9]{1,64})\s*/\s*([0-9]{1,64})"
)


def same_lowest_terms(answer: str, entry: Entry) -> bool:
    """The numerator and denominator asked for, as ``3/4`` or in TeX; an equal fraction is not in lowest terms."""
    match = _SIMPLE_FRACTION.fullmatch(answer.strip(" $\n"))
    if match is None:
        return False
    numerator, denominator = (int(part) for part in match.groups() if part is not None)
    metadata = entry["metadata"]
    return (numerator, denominator) == (metadata["simplified_numerator"], metadata["simplified_denominator"])


def same_numbers(answer: str, entry: Entry) -> bool:
    """A list of numbers in the order asked for, with or without quotes and brackets."""
    given = [_number(member.strip("'\" ")) for member in _members(answer.strip().removeprefix("[").removesuffix("]"))]
    return given == [Fraction(number) for number in entry["metadata"]["sorted_numbers"]]


def same_roots(answer: str, entry: Entry) -> bool:
    """All solutions and no others, in any order, each right to four decimals."""
    given = [_number(re.sub(r"^\s*[A-Za-z]\s*=", "", member)) for member in _members(answer)]
    wanted = sorted(Fraction(root) for root in _members(entry["answer"]))
    found = sorted(root for root in given if root is not None)
    tolerance = Fraction(1, 10**4) + _EPSILON  # the question's rule for rounding can be read in two ways
    return len(given) == len(found) == len(wanted) and all(
        abs(one - other) <= tolerance for one, other in zip(found, wanted, strict=True)
    )


def same_pooled(answer: str, entry: Entry) -> bool:
    """A matrix of the right shape, each element right to two decimals."""
    given, wanted = _rows(answer), _rows(entry["answer"])
    tolerance = Fraction(5, 10**3) + _EPSILON
    return [len(row) for row in given] == [len(row) for row in wanted] and all(
        _is_near(one, Fraction(other), tolerance)
        for row, right in zip(given, wanted, strict=True)
        for one, other in zip(row, right, strict=True)
    )


def same_factors(answer: str, entry: Entry) -> bool:
    """The prime factors in any order, each as often as it occurs, between any signs of multiplication."""
    given, wanted = ([part.strip() for part in re.split(r"[*x]", plain(text))] for text in (answer, entry["answer"]))
    return all(re.fullmatch("[0-9]{1,32}", part) for part in given) and sorted(map(int, given)) == sorted(
        map(int, wanted)
    )


_DURATION = re.compile(
    r"(?:([0-9]{1,9}) days?)?(?:,? ?\b([0-9]{1,3}):([0-5][0-9])(?::([0-5][0-9](?:\.[0-9]{1,6})?))?)?", re.IGNORECASE
)


def same_duration(answer: str, entry: Entry) -> bool:
    """``18 days, 21:21:12``: the same time; ``days`` may be left out where nothing else is asked for."""
    text = answer.strip()
    if entry["metadata"]["task_type"] == "date" and re.fullmatch("[0-9]{1,9}", text):
        text += " days"
    given = _seconds(text)
    return given is not None and given == _seconds(entry["answer"].strip())


def _seconds(text: str) -> Fraction | None:
    match = _DURATION.fullmatch(text) if text else None
    if match is None:
        return None
    days, hours, minutes, seconds = (Fraction(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


# --- Expressions ------------------------------------------------------------------------------------------------------


def makes_24(answer: str, entry: Entry) -> bool:
    """An expression with each of the puzzle's numbers once and the value 24."""
    return makes_target(answer, entry["metadata"]["numbers"], 24)


def makes_number(answer: str, entry: Entry) -> bool:
    """An expression with each of the given numbers once and the value asked for."""
    return makes_target(answer, entry["metadata"]["numbers"], entry["metadata"]["target"])


_FACTOR = re.compile(r"\s*(?:([0-9]{1,64})|([A-Za-z])(?:\s*(?:\*\*|\^)\s*([0-9]{1,3}))?)\s*\*?(?!\*)")
_SIGN = re.compile(r"\s*([+-])")
#: A product of powers: the variables with their exponents, sorted by name.
_Monomial: TypeAlias = tuple[tuple[str, int], ...]


def same_polynomial(answer: str, entry: Entry) -> bool:
    """A polynomial that is multiplied out and collected; the question itself, with its brackets, is not.

    Where the question has none there is nothing to do, and nothing is right.
    """
    given = polynomial(answer)
    is_done = polynomial(entry["metadata"]["polynomial_expr"]) is not None
    return given is not None and not is_done and given == polynomial(entry["answer"])


def polynomial(text: str) -> dict[_Monomial, int] | None:
    """Monomials and their coefficients; ``None`` where the text is anything but a collected sum.

    Example:
        >>> polynomial("3*x**2*y - 7") == polynomial("-7 + 3x^2y")
        True
        >>> polynomial("x*(x + 1)") is polynomial("x + x") is None
        True
    """
    text = plain(text).strip()
    terms: dict[_Monomial, int] = {}
    position = 0
    while position < len(text) or not terms:
        sign = _SIGN.match(text, position)
        if sign is None and terms:
            return None
        position = sign.end() if sign else position
        coefficient, powers, start = None, dict[str, int](), position
        while factor := _FACTOR.match(text, position):
            number, name, exponent = factor.groups()
            if (number and (coefficient is not None or powers)) or name in powers:
                return None  # a product that has still to be worked out
            if number:
                coefficient = int(number)
            else:
                powers[name] = int(exponent or 1)
            position = factor.end()
        monomial = tuple(sorted(powers.items()))
        if position == start or text[position - 1] == "*" or monomial in terms:
            return None
        terms[monomial] = (1 if coefficient is None else coefficient) * (-1 if sign and sign[1] == "-" else 1)
    return terms


# --- Moves ------------------------------------------------------------------------------------------------------------

_HANOI_MOVE = re.compile(r"Move disk ([0-9]{1,3}) from Peg ([0-9]{1,3}) to Peg ([0-9]{1,3})")


def moves_tower(answer: str, entry: Entry) -> bool:
    """Allowed moves, one a line and no more of them than needed, that bring all disks to the target peg."""
    metadata = entry["metadata"]
    tower = list(range(metadata["num_disks"], 0, -1))
    pegs: dict[int, list[int]] = {peg: [] for peg in range(1, metadata["num_pegs"] + 1)}
    pegs[metadata["start_peg"]] = list(tower)
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    if len(lines) > metadata["solution_length"]:
        return False
    for line in lines:
        move = _HANOI_MOVE.fullmatch(line)
        if move is None:
            return False
        disk, source, target = map(int, move.groups())
        if not pegs.get(source) or pegs[source][-1] != disk or target not in pegs:
            return False
        if pegs[target] and pegs[target][-1] < disk:
            return False
        pegs[target].append(pegs[source].pop())
    return pegs[metadata["target_peg"]] == tower


_STEPS = {"L": (0, -1), "R": (0, 1), "U": (-1, 0), "D": (1, 0)}


def pushes_boxes(answer: str, entry: Entry) -> bool:
    """Moves of a sokoban player, none of them into a wall or a box that is stuck, after which no box is off a goal."""
    rows = [line.split() for line in entry["metadata"]["gamestr"].splitlines() if line.strip()]
    cells = {(i, j): sign for i, row in enumerate(rows) for j, sign in enumerate(row)}
    boxes = {cell for cell, sign in cells.items() if sign in "@$"}
    goals = {cell for cell, sign in cells.items() if sign in "X%$"}
    (player,) = (cell for cell, sign in cells.items() if sign in "*%")
    for move in "".join(answer.split()):
        if move not in _STEPS:
            return False
        down, right = _STEPS[move]
        target, beyond = ((player[0] + n * down, player[1] + n * right) for n in (1, 2))
        if target in boxes:
            if beyond in boxes or cells.get(beyond, "+") == "+":
                return False
            boxes = boxes - {target} | {beyond}
        if cells.get(target, "+") == "+":
            return False
        player = target
    return boxes <= goals


# --- The lists --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Repair:
    """What stands in for a scorer, or before it.

    Attributes:
        why: What the library's scorer does wrong.
        judge: Decides in its place; ``None`` leaves the decision to the scorer.
        only: What an answer has to look like in full before it is judged.
    """

    why: str
    judge: Judge | None = None
    only: re.Pattern[str] | None = None


_NUMBER_NAMES = """
    aiw basic_arithmetic binary_alternation count_bits count_primes decimal_chain_sum gcd largest_island lcm
    leg_counting letter_counting maze number_sequence rectangle_count rotten_oranges self_reference
    simple_equations simple_geometry
"""
_OTHER_NAMES = """
    ab acre arc_1d arc_agi base_conversion bf bitwise_arithmetic caesar_cipher circuit_logic color_cube_rotation
    course_schedule cryptarithm dice family_relationships futoshiki graph_color group_anagrams isomorphic_strings jugs
    list_functions mahjong_puzzle manipulate_matrix mini_sudoku modulo_grid needle_haystack number_filtering
    palindrome_generation palindrome_partitioning path_star power_function ransom_note rearc rotate_matrix shortest_path
    string_manipulation string_splitting string_synthesis sudoku syllogism tsumego word_ladder word_sequence_reversal
    zebra_puzzles
"""
#: Tasks whose scorer decides, and whose answers are numbers: another notation of the right one is right as well.
NUMBERS: frozenset[str] = frozenset(_NUMBER_NAMES.split())
#: Tasks whose scorer decides: nothing but a right answer is paid in full, and the text is not run.
ACCEPTED: frozenset[str] = NUMBERS | frozenset(_OTHER_NAMES.split())

REPAIRED: Mapping[str, Repair] = {
    "advanced_geometry": Repair(
        "text after the right coordinates is ignored; an angle to three decimals, as the question asks, can be refused",
        solves_triangle,
    ),
    "binary_matrix": Repair("runs the answer with `eval`", same_rows),
    "calendar_arithmetic": Repair(
        "where the answer is -1 any other number earns 1 or more, and a large one raises OverflowError", same_value
    ),
    "chain_sum": Repair("commas are dropped wherever they are: `4,2` is 42", same_value),
    "coin_flip": Repair(
        "the tolerance of 1e-4 is wider than most answers, so that `0` is right; `1e999999` raises OverflowError, and "
        "a larger exponent does not end",
        is_the_probability,
    ),
    "complex_arithmetic": Repair("`nan` earns 1 everywhere", same_complex),
    "countdown": Repair("runs the answer with SymPy's `parse_expr`, which is `eval`", makes_number),
    "decimal_arithmetic": Repair("an error of 1e-3 is right where twelve digits are asked for", same_9_digits),
    "emoji_mystery": Repair("the full stop at the end decides", same_sentence),
    "figlet_font": Repair("ten right letters at the start are right, whatever follows", same_words),
    "fraction_simplification": Repair("text after a fraction in TeX is ignored: `3/4 or 1/2`", same_lowest_terms),
    "game_of_life": Repair("an object such as `{}` raises KeyError; cells too many are ignored", same_json),
    "game_of_life_halting": Repair("any text that is not empty is right", same_words),
    "gsm_symbolic": Repair(
        "the first number decides, without its sign: `5 or 6` and `-5` are 5, and a negative answer cannot be given",
        same_value,
    ),
    "intermediate_integration": Repair(
        "runs the answer with SymPy's `parse_expr`, which is `eval`", same_antiderivative
    ),
    "kakurasu": Repair("all but 0 and 1 is ignored: `not 1 0 1`", only=re.compile(r"[01\s,\[\]]+")),
    "knights_knaves": Repair("words between the clauses are ignored: `not Zoey is a knight`", same_roles),
    "letter_jumble": Repair("words too many are ignored", same_words),
    "n_queens": Repair("runs the answer with `eval`", is_a_valid_board),
    "number_format": Repair("an error of 1e-2 is right", same_12_digits),
    "number_sorting": Repair("an error of 1 in each number is right, and so is a list of NaN", same_numbers),
    "polynomial_equations": Repair("members that are no numbers are ignored", same_roots),
    "polynomial_multiplication": Repair("runs the answer with SymPy's `parse_expr`, which is `eval`", same_polynomial),
    "pool_matrix": Repair("a row is as good as a column, and an error of 1 % is right", same_pooled),
    "prime_factorization": Repair("raises ValueError for all but whole numbers between ×", same_factors),
    "products": Repair("commas are dropped wherever they are: `4,2` is 42", same_value),
    "puzzle24": Repair(
        "other numbers than the puzzle's are right (`6*4*1*1`); runs the answer with `parse_expr`", makes_24
    ),
    "quantum_lock": Repair("all but the letters A to C is ignored", only=re.compile(r"[A-C][A-C\s,>→-]*")),
    "rubiks_cube": Repair(
        "a move is repeated as often as the answer says (`R999999999`)",
        only=re.compile(r"(?:[UDLRFB]'?\s+)*[UDLRFB]'?"),
    ),
    "sentence_reordering": Repair("the full stop at the end decides", same_sentence),
    "simple_integration": Repair("runs the answer with SymPy's `parse_expr`, which is `eval`", same_antiderivative),
    "sokoban": Repair("all but the letters of moves is ignored, and so are moves into a wall", pushes_boxes),
    "spell_backward": Repair("letters too many are ignored but for a rounding error", same_words),
    "spiral_matrix": Repair("runs the answer with `eval`", same_text),
    "string_insertion": Repair("runs the answer with `eval`", same_text),
    "survo": Repair("what is no whole number is ignored: `not 1 2 3`", same_rows),
    "time_intervals": Repair(
        "what follows the first number of days is ignored; `1:999…` raises OverflowError", same_duration
    ),
    "tower_of_hanoi": Repair("text around a move is ignored, and a peg that is not there is printed", moves_tower),
    "word_sorting": Repair("words too many are ignored", same_list),
}

#: Defaults that differ from the library's, with which one constant answer solves a tenth of the problems or more.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "graph_color": {"edge_probability": 0.4},
    "n_queens": {"max_remove": 5},
}

REFUSED: Mapping[str, str] = {
    "boxnet": "there is no reference answer; any JSON but a list of objects raises TypeError or AttributeError, and "
    "moves that are not allowed are skipped",
    "codeio": "it runs packaged programs to find its answers, and some of these change with PYTHONHASHSEED; "
    "brackets a thousand deep raise RecursionError, and `true` is 1",
    "composite": "it mixes other tasks: make an environment for each of them",
    "knight_swap": "a fifth of its puzzles are called impossible because of an edge that the question does not show",
    "propositional_logic": "there is no reference answer; a premise repeated is a right conclusion, and an answer "
    "with thirty variables is worked out in 2^30 steps",
    "rush_hour": "there is no reference answer; moves that are not allowed are skipped, and `A+999999999` is carried "
    "out step by step",
}
