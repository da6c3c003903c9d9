"""Whether a tree equals the tree of the reference answer: structure member by member, then values.

The two sides are not alike: what an answer may leave out or add, and whether it has to be worked out, depends on what
the reference says. :class:`Comparison` holds what one comparison may forgive and how much it may still compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TypeAlias

from llmgym.rewards.comparison import symbolic
from llmgym.rewards.comparison.evaluation import factor_between, is_close, same_value
from llmgym.rewards.comparison.exact import DEGREE, Undecided, Work, walk
from llmgym.rewards.comparison.sets import RealSet, infinite_sign, same_set
from llmgym.rewards.comparison.shapes import (
    agreeing_names,
    approximated,
    as_matrix,
    assignments,
    bases,
    bracket_kinds,
    free_names_of,
    is_approximate,
    is_endless,
    is_equation,
    is_label,
    is_literal,
    is_open_equation,
    is_order,
    is_rounded,
    is_rounding,
    is_set_algebra,
    is_worked_out,
    membership,
    one_sided,
    point_of_equations,
    quotient,
    scaled,
    sorted_values,
    spread,
    without_indices,
    without_integration_constant,
    without_units,
)
from llmgym.rewards.comparison.verdicts import Leniency, Match, Status
from llmgym.rewards.notation import units
from llmgym.rewards.notation.expressions import (
    Bracketed,
    Constant,
    Expression,
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

#: Members of lists and sets that are matched in any order.
MAX_UNORDERED = 32
#: What the sides of one equation may differ in.
_OF_SIDES = Leniency(allow_unevaluated=True, convert_units=True, convert_bases=True)
_SETS_BY_NAME = frozenset({"empty", "N", "Z", "Q", "R", "C"})

_Several: TypeAlias = Listing | Set


def correct(reason: str = "same_value") -> Match:
    """The verdict that an answer counts."""
    return Match(Status.CORRECT, reason)


def incorrect(reason: str) -> Match:
    """The verdict that an answer does not count."""
    return Match(Status.INCORRECT, reason)


def unverifiable(reason: str) -> Match:
    """The verdict that nobody could tell."""
    return Match(Status.UNVERIFIABLE, reason)


# --- Comparing --------------------------------------------------------------------------------------------------------


class Comparison:
    """One comparison: what it may forgive, and the work it may still do."""

    def __init__(self, leniency: Leniency, work: Work | None = None) -> None:
        self.leniency = leniency
        self.work = work or Work()

    def match(self, answer: Expression, reference: Expression) -> Match:
        """The verdict on an answer."""
        try:
            return self._match(answer, reference)
        except Undecided as undecided:
            return unverifiable(undecided.reason)

    def _match(self, answer: Expression, reference: Expression) -> Match:
        self.work.spend(1)
        if isinstance(reference, Words):
            return self._words(answer, reference)
        if isinstance(reference, Unreadable):
            return unverifiable(reference.reason)
        if isinstance(answer, Unreadable):
            return unverifiable(answer.reason)
        if isinstance(answer, Words):
            return self._words(reference, answer)
        if answer == reference:
            return correct()
        answer, reference = spread(answer), spread(reference)
        for tree in (answer, reference):
            if is_approximate(tree):
                return self._approximate(answer, reference)
        if is_equation(answer) or is_equation(reference):
            return self._equations(answer, reference)
        if is_set_algebra(answer) or is_set_algebra(reference):
            return self._sets(answer, reference)
        if isinstance(answer, Quantity) or isinstance(reference, Quantity):
            return self._quantities(answer, reference)
        if isinstance(answer, Ratio) or isinstance(reference, Ratio):
            return self._ratios(answer, reference)
        matrix, other_matrix = as_matrix(answer), as_matrix(reference)
        if matrix is not None or other_matrix is not None:
            return self._matrices(matrix, other_matrix)
        if isinstance(answer, (Listing, Set)) or isinstance(reference, (Listing, Set)):
            return self._several(answer, reference)
        if isinstance(answer, Bracketed) or isinstance(reference, Bracketed):
            return self._brackets(answer, reference)
        return self._scalars(answer, reference)

    # Words

    def _words(self, one: Expression, text: Words) -> Match:
        if isinstance(one, Words):
            return correct("same_text") if one == text else incorrect("different_text")
        if isinstance(one, Name) and len(one.name) == 1 and one.name in "ABCDEFGHIJ":
            return correct("same_text") if one.name.casefold() == text.text else incorrect("different_text")
        return incorrect("different_text")

    # Relations

    def _approximate(self, answer: Expression, reference: Expression) -> Match:
        """A number that says of itself that it is not exact."""
        if is_endless(answer) or is_endless(reference):
            # Nobody knows the digits that are not shown; the same text has been found equal before.
            if self.leniency.has_tolerance:
                return self._match(approximated(answer), approximated(reference))
            return incorrect("approximate")
        if is_approximate(reference):
            return self._match(answer, approximated(reference))
        stated = approximated(answer)
        exact: tuple[Expression, ...] = ()
        equal_signs: tuple[Sign, ...] = ()
        if isinstance(answer, Relation):
            at = answer.signs.index("~")
            exact, equal_signs = answer.sides[: at + 1], answer.signs[:at]
            if at != len(answer.signs) - 1 or any(sign != "=" for sign in equal_signs):
                return incorrect("approximate")
        if isinstance(reference, Relation):
            reduced = self._reduced(reference)
            reference = reference if reduced is None else reduced[1]
        if is_rounded(stated) and is_rounded(reference) and self._match(stated, reference).is_correct:
            return correct()
        if self.leniency.has_tolerance:
            return self._match(stated, reference)
        # The exact value, and then its decimals: sqrt(2) ~ 1.414.
        if exact and not is_label(exact[-1]) and is_rounding(exact[-1], stated, self.work):
            return self._match(Relation(exact, equal_signs) if equal_signs else exact[0], reference)
        return incorrect("approximate")

    def _reduced(self, tree: Expression) -> tuple[tuple[Expression, ...], Expression] | None:
        """Names and value of an equation that gives one: ``x = y = 2 + 3 = 5``.

        Returns:
            The names on the left, and the last side; ``None`` where a side is neither a name nor equal to the last.
        """
        if not isinstance(tree, Relation) or not is_equation(tree):
            return (), tree
        sides = list(tree.sides)
        if len(sides) == 2 and is_label(sides[1]) and not is_label(sides[0]):
            sides.reverse()  # 5 = x
        value = sides.pop()
        labels: list[Expression] = []
        while sides and is_label(sides[0]):
            labels.append(sides.pop(0))
        if any(label in walk(value) for label in labels):
            return None  # x = x + 1 is to be solved
        if any(not self._is_side(side, value) for side in sides):
            return None
        return tuple(labels), value

    def _is_side(self, side: Expression, value: Expression) -> bool:
        """Whether an equation holds: ``17*23 = 391``, ``2 km + 3 km = 5 km``, ``1 km = 1000 m``."""
        lenient = Comparison(_OF_SIDES, self.work)
        if lenient._match(side, value).is_correct:
            return True
        plain = without_units(side), without_units(value)
        return plain != (side, value) and lenient._match(*plain).is_correct

    def _equations(self, answer: Expression, reference: Expression) -> Match:
        mapped, other_mapped = assignments(answer), assignments(reference)
        if (mapped is None) != (other_mapped is None):
            # (x, y) = (1, 2) against x = 1, y = 2
            if mapped is not None and isinstance(reference, Listing):
                return self._unordered(mapped, reference)
            if other_mapped is not None and isinstance(answer, Listing):
                return self._unordered(answer, other_mapped)
        reduced, expected = self._reduced(answer), self._reduced(reference)
        if reduced is not None and expected is not None:
            labels, value = reduced
            other_labels, other_value = expected
            agree = not labels or not other_labels or any(label in other_labels for label in labels)
            if agree:
                verdict = self._match(value, other_value)
                if verdict.status is not Status.INCORRECT or not is_open_equation(reference):
                    return verdict
        if isinstance(answer, Relation) and isinstance(reference, Relation) and is_open_equation(reference):
            return self._proportional(answer, reference)
        return incorrect("different_structure" if reduced is None or expected is None else "different_name")

    def _proportional(self, answer: Relation, reference: Relation) -> Match:
        """Two equations, or two inequalities, in names: one may be a multiple of the other."""
        if len(answer.signs) != 1 or len(reference.signs) != 1:
            return incorrect("different_structure")
        (sign, left), (other_sign, right) = one_sided(answer), one_sided(reference)
        if sign != other_sign or any(isinstance(side, (Words, Unreadable)) for side in answer.sides + reference.sides):
            return incorrect("different_structure")
        factor = factor_between(left, right, self.work)
        if factor > 0 or (factor and sign in ("=", "!=")):
            return correct()
        return incorrect("different_value")

    # Sets of real numbers

    def _sets(self, answer: Expression, reference: Expression) -> Match:
        if is_order(answer) and is_order(reference):
            assert isinstance(answer, Relation) and isinstance(reference, Relation)
            if answer.signs == reference.signs and all(
                self.match(side, other).is_correct for side, other in zip(answer.sides, reference.sides, strict=True)
            ):
                return correct()
        # x in {1, 2} is {1, 2}
        plain, other_plain = membership(answer), membership(reference)
        if plain is not answer or other_plain is not reference:
            if not agreeing_names(answer, reference):
                return incorrect("different_name")
            if not (is_set_algebra(plain) or is_set_algebra(other_plain)):
                return self._match(plain, other_plain)
        given, expected = RealSet.read(answer), RealSet.read(reference)
        if given is not None and expected is not None:
            if given.label and expected.label and given.label != expected.label:
                return incorrect("different_name")
            literal = all(is_literal(end) for end in expected.endpoints)
            if literal and not self.leniency.allow_unevaluated and not all(map(is_worked_out, given.endpoints)):
                return incorrect("unevaluated")
            same = same_set(given, expected, self.work)
            if same is not None:
                return correct() if same else incorrect("different_value")
        elif expected is None and isinstance(answer, Relation) and isinstance(reference, Relation):
            return self._proportional(answer, reference)
        elif isinstance(answer, (Listing, Set)) and isinstance(reference, (Listing, Set)):
            return self._unordered(answer, reference)
        elif isinstance(answer, Operation) and isinstance(reference, Operation) and answer.name == reference.name:
            if answer.name in ("union", "intersection"):
                return self._unordered(Listing(answer.operands), Listing(reference.operands))
            return self._ordered(answer.operands, reference.operands)
        return incorrect("different_structure")

    # Units

    def _quantities(self, answer: Expression, reference: Expression) -> Match:
        value, unit = (answer.value, answer.unit) if isinstance(answer, Quantity) else (answer, "")
        right, right_unit = (reference.value, reference.unit) if isinstance(reference, Quantity) else (reference, "")
        if unit == right_unit:
            return self._match(value, right)
        if "%" in (unit, right_unit) and (not unit or not right_unit):
            return self._percentages(value, unit, right)
        letter = unit or right_unit
        if not unit or not right_unit:
            # 5m is five times a variable, or five metres; with a space it is the latter.
            if unit and unit in free_names_of(right):
                return self._match(Operation("multiply", (value, Name(unit))), right)
            if right_unit and right_unit in free_names_of(value):
                return self._match(value, Operation("multiply", (right, Name(right_unit))))
            verdict = self._match(value, right)
            if verdict.is_correct or not self.leniency.convert_units or letter not in ("°", "rad"):
                return verdict
        if not self.leniency.convert_units:
            return incorrect("different_unit")
        return self._converted(value, unit, right, right_unit)

    def _percentages(self, value: Expression, unit: str, right: Expression) -> Match:
        """One side is a percentage, the other has no unit."""
        hundredth = Fraction(1, 100)
        if not unit:  # of a reference 28 %: 28, or 0.28
            verdict = self._match(value, right)
            return verdict if verdict.is_correct else self._match(value, scaled(right, hundredth))
        by_value = self._match(scaled(value, hundredth), right)
        if by_value.is_correct:
            return by_value
        # 28 % for 28 adds the unit; 0.28 % for 0.28 is as likely meant for a hundredth of it.
        if isinstance(right, Number) and abs(right.value) <= 1:
            return by_value
        return self._match(value, right)

    def _converted(self, value: Expression, unit: str, right: Expression, right_unit: str) -> Match:
        angles: dict[str, Expression] = {
            "°": DEGREE,
            "rad": Number(Fraction(1), "integer"),
            "": Number(Fraction(1), "integer"),
        }
        if unit in angles and right_unit in angles:
            return self._scalars(
                Operation("multiply", (value, angles[unit])), Operation("multiply", (right, angles[right_unit]))
            )
        given, expected = units.conversion(unit), units.conversion(right_unit)
        if given is None or expected is None or given[0] != expected[0]:
            return incorrect("different_unit")
        return self._match(scaled(value, given[1]), scaled(right, expected[1]))

    # Several values

    def _ratios(self, answer: Expression, reference: Expression) -> Match:
        if isinstance(answer, Ratio) and isinstance(reference, Ratio):
            if len(answer.parts) != len(reference.parts):
                return incorrect("different_length")
            first, other_first = answer.parts[0], reference.parts[0]
            for part, other in zip(answer.parts[1:], reference.parts[1:], strict=True):
                if not same_value(
                    Operation("multiply", (part, other_first)), Operation("multiply", (other, first)), self.work
                ):
                    return incorrect("different_value")
            zero = Number(Fraction(0), "integer")
            if any(same_value(one, zero, self.work) for one in (first, other_first)):
                return incorrect("different_value")
            return correct()
        if not self.leniency.ratio_as_fraction:
            return incorrect("ratio")
        value, right = quotient(answer), quotient(reference)
        if value is None or right is None:
            return incorrect("different_structure")
        return self._match(value, right)

    def _matrices(self, answer: Matrix | None, reference: Matrix | None) -> Match:
        if answer is None or reference is None:
            return incorrect("different_structure")
        if [len(row) for row in answer.rows] != [len(row) for row in reference.rows]:
            return incorrect("different_length")
        return self._ordered(
            [one for row in answer.rows for one in row], [one for row in reference.rows for one in row]
        )

    def _ordered(self, answers: Sequence[Expression], references: Sequence[Expression]) -> Match:
        if len(answers) != len(references):
            return incorrect("incomplete" if len(answers) < len(references) else "different_length")
        verdicts = [self._member(answer, reference) for answer, reference in zip(answers, references, strict=True)]
        for status in (Status.INCORRECT, Status.UNVERIFIABLE):
            for verdict in verdicts:
                if verdict.status is status:
                    return verdict
        return correct()

    def _brackets(self, answer: Expression, reference: Expression) -> Match:
        if not isinstance(answer, Bracketed) or not isinstance(reference, Bracketed):
            return incorrect("different_structure")
        if bracket_kinds(answer) != bracket_kinds(reference):
            return incorrect("different_brackets")
        return self._ordered(answer.items, reference.items)

    def _several(self, answer: Expression, reference: Expression) -> Match:
        if isinstance(answer, (Listing, Set)) and isinstance(reference, (Listing, Set)):
            return self._unordered(answer, reference)
        for one, other in ((answer, reference), (reference, answer)):
            if isinstance(one, Listing) and isinstance(other, Bracketed):
                point = point_of_equations(one)
                if point is not None:
                    return self._brackets(*((point, other) if one is answer else (other, point)))
                if self.leniency.ignore_brackets:
                    items = (one.items, other.items) if one is answer else (other.items, one.items)
                    return self._ordered(*items)
                return incorrect("different_brackets")
        if isinstance(answer, (Bracketed, Matrix)) or isinstance(reference, (Bracketed, Matrix)):
            return incorrect("different_structure")
        # A set of one value is that value; a list of several is not one of them.
        as_listing = [tree if isinstance(tree, (Listing, Set)) else Set((tree,)) for tree in (answer, reference)]
        if isinstance(reference, (Listing, Set)):
            return self._unordered(as_listing[0], reference)
        assert isinstance(answer, (Listing, Set))
        verdict = self._unordered(answer, as_listing[1]) if isinstance(answer, Set) else None
        return verdict if verdict is not None and verdict.is_correct else incorrect("several_answers")

    def _unordered(self, answer: _Several, reference: _Several) -> Match:
        """Lists and sets: every member has its partner on the other side. In a set, equal values are one."""
        if not agreeing_names(answer, reference):
            solutions, other_solutions = without_indices(answer), without_indices(reference)
            if (solutions is None) == (other_solutions is None):
                return incorrect("different_name")
            return self._unordered(solutions or answer, other_solutions or reference)
        answers, references = self._distinct(answer), self._distinct(reference)
        if len(answers) != len(references):
            return incorrect("incomplete" if len(answers) < len(references) else "different_length")
        if all(isinstance(one, Number) for one in (*answers, *references)) and not self.leniency.has_tolerance:
            same = sorted_values(answers) == sorted_values(references)
            return correct() if same else incorrect("different_value")
        if len(answers) > MAX_UNORDERED:
            raise Undecided("too_large")
        return self._matched(answers, references)

    def _matched(self, answers: Sequence[Expression], references: Sequence[Expression]) -> Match:
        """A perfect matching, by augmenting paths; each pair is compared at most once."""
        known: dict[tuple[int, int], Match] = {}
        partner: dict[int, int] = {}  # index of the answer that each reference has

        def equal(i: int, j: int) -> bool:
            if (i, j) not in known:
                known[i, j] = self._member(answers[i], references[j])
            return known[i, j].is_correct

        def place(i: int, seen: set[int]) -> bool:
            for j in range(len(references)):
                if j not in seen and equal(i, j):
                    seen.add(j)
                    if j not in partner or place(partner[j], seen):
                        partner[j] = i
                        return True
            return False

        for i in range(len(answers)):
            if not place(i, set()):
                verdicts = [known[i, j] for j in range(len(references)) if (i, j) in known]
                for verdict in verdicts:
                    if verdict.status is Status.UNVERIFIABLE:
                        return verdict
                return verdicts[0] if len(verdicts) == 1 else incorrect("different_value")
        return correct()

    def _distinct(self, tree: _Several) -> list[Expression]:
        if isinstance(tree, Listing):
            return list(tree.items)
        if len(tree.items) > MAX_UNORDERED and not all(isinstance(item, Number) for item in tree.items):
            raise Undecided("too_large")
        numbers = {item.value: item for item in reversed(tree.items) if isinstance(item, Number)}
        kept: list[Expression] = list(numbers.values())
        for item in tree.items:
            if not isinstance(item, Number) and not any(self._is_repeated(item, other) for other in kept):
                kept.append(item)
        return kept

    def _is_repeated(self, item: Expression, other: Expression) -> bool:
        return isinstance(item, Set) == isinstance(other, Set) and self._is_side(item, other)

    def _member(self, answer: Expression, reference: Expression) -> Match:
        """As :meth:`match`, but there a set of one value is that value; within other values it is not."""
        for one, other in ((answer, reference), (reference, answer)):
            if isinstance(one, Set) and not (isinstance(other, (Set, Relation)) or is_set_algebra(other)):
                return incorrect("different_structure")
        return self.match(answer, reference)

    # Single values

    def _scalars(self, answer: Expression, reference: Expression) -> Match:
        if isinstance(answer, Constant) and isinstance(reference, Constant):
            return correct() if answer == reference else incorrect("different_value")
        for one in (answer, reference):
            if isinstance(one, Constant) and one.name in _SETS_BY_NAME:
                return incorrect("different_structure")
        if infinite_sign(answer) or infinite_sign(reference):
            same = infinite_sign(answer) == infinite_sign(reference)
            return correct() if same else incorrect("different_value")
        if not self.leniency.convert_bases and bases(answer) != bases(reference):
            return incorrect("different_base")
        try:
            same = self._same_value(answer, reference)
        except Undecided as undecided:
            if not self.leniency.use_sympy:
                raise
            equal = symbolic.same_value(answer, reference)
            if equal is None:
                return unverifiable(undecided.reason)
            same = equal
        if not same:
            return incorrect("different_value")
        if not self.leniency.allow_unevaluated and is_literal(reference) and not is_worked_out(answer):
            return incorrect("unevaluated")
        return correct()

    def _same_value(self, answer: Expression, reference: Expression) -> bool:
        if isinstance(answer, Number) and isinstance(reference, Number) and answer.value == reference.value:
            return True
        if self.leniency.has_tolerance and is_close(
            answer, reference, self.leniency.rel_tol, self.leniency.abs_tol, self.work
        ):
            return True
        rest, other_rest = without_integration_constant(answer), without_integration_constant(reference)
        if rest is not None and other_rest is not None:
            return same_value(rest, other_rest, self.work)
        return same_value(answer, reference, self.work)
