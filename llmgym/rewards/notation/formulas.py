"""The grammar of one formula: recursive descent over tokens, each of them read once.

From loose to tight: relation, ratio and set operation, unit and modulus, sum, product, sign, power; the operands are in
``operands``. The recursion is bounded by :data:`~llmgym.rewards.notation.lexer.MAX_DEPTH`, and so is the depth of the
tree: chains are joined (``a/b/c`` is ``a/(b*c)``) or bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from llmgym.rewards.notation import trees
from llmgym.rewards.notation.expressions import (
    Constant,
    Expression,
    Name,
    Number,
    Operation,
    Quantity,
    Ratio,
    Relation,
    Set,
    Sign,
    Words,
)
from llmgym.rewards.notation.lexer import MAX_DEPTH, Token, Tokens
from llmgym.rewards.notation.literals import ReadingError, read_based
from llmgym.rewards.notation.operands import READERS, small_digits, word_call
from llmgym.rewards.notation.suffixes import AFTER_VALUES, counts_things, end_of_unit, is_unit, with_unit
from llmgym.rewards.notation.symbols import WORD_FUNCTIONS
from llmgym.rewards.notation.wording import is_product_of_letters, level, names_something, word_set

#: What may begin a factor that stands beside another without a sign between.
_FACTORS = word_set("number based letter word constant function open frac root binomial begin accent")
#: What may touch a denominator and belong to it.
_TOUCHING = word_set("letter constant open word root function")
#: In all of a formula: signs and exponents in a row that deepen the tree (``a ± b ± c``, ``x²!``, ``A ∪ B ∩ C``).
_MAX_CHAINED = 32
_MAX_WORDS_BEFORE_RELATION = 6


def read_formula(tokens: Tokens, start: int, end: int) -> Expression:
    """The tokens from ``start`` to ``end`` as one formula.

    Raises:
        ReadingError: If they are none, or something in them is over a bound.
    """
    parser = FormulaParser(tokens, start)
    expression = parser.relation()
    if parser.position != end:
        raise ReadingError
    return expression


def has_transposed(factors: list[Expression]) -> bool:
    """Whether a factor is a matrix transposed, as in ``A^T B`` and ``x^T A x``; ``P r^T`` is a power."""
    for factor in factors:
        if trees.is_operation(factor, "power") and factor.operands[1] == Name("T"):
            base = factor.operands[0]
            if isinstance(base, Name) and (base.name.isupper() or base in factors):
                return any(not isinstance(other, Number) for other in factors if other is not factor)
    return False


class FormulaParser:
    """A place in the tokens. A method reads what it is named after and leaves the place behind it."""

    def __init__(self, tokens: Tokens, position: int) -> None:
        self.source = tokens
        self.tokens = tokens.tokens
        self.position = position
        self.depth = 0
        self.chained = 0

    @property
    def kind(self) -> str:
        """Of the token that comes next."""
        return self.tokens[self.position].kind

    def take(self) -> Token:
        """The next token, which is then behind. The end is never taken, so that one may always look ahead by one."""
        token = self.tokens[self.position]
        if token.kind == "end":
            raise ReadingError
        self.position += 1
        return token

    def leave(self, close: int) -> None:
        """Step over the closing bracket that has to come next."""
        if self.position != close:
            raise ReadingError
        self.position += 1

    def enter(self) -> None:
        """Count one level more; the caller counts it off again."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ReadingError("too_deep")

    def chain(self) -> None:
        """Count one more of what nests without brackets."""
        self.chained += 1
        if self.chained > _MAX_CHAINED:
            raise ReadingError("too_deep")

    # --- Relations, ratios, sets --------------------------------------------------------------------------------------

    def relation(self) -> Expression:
        """``x = 5``, ``1 < x <= 3``, ``> 42``, or just a value."""
        sides: list[Expression] = []
        signs: list[Sign] = []
        if self.kind == "relation":
            sign = cast(Sign, self.take().value)
            value = self.side()
            if sign == "~":
                return Operation("approximately", (value,))
            if sign != "=":
                sides.append(Words(""))
                signs.append(sign)
            sides.append(value)
        else:
            sides.append(self.side())
        while self.kind == "relation" or (self.kind == ":" and isinstance(sides[-1], Words)):
            sign = cast(Sign, self.take().value or "=")  # "area: 12" says what "area = 12" does
            side = self.side()
            signs.append(sign)
            sides.append(trees.as_set(side) if sign == "in" else side)
        if not signs:
            return sides[0]
        if any(sign != "=" for sign in signs) and any(map(counts_things, sides)):
            raise ReadingError  # x > 2 apples: a word may speak about all of it
        return Relation(tuple(sides), tuple(signs))

    def side(self) -> Expression:
        """One side of a relation: a quantity, a ratio of them, or sets joined."""
        if self.kind in ("word", "symbol") and (words := self.words_before_relation()) is not None:
            return words
        value = self.quantity()
        while True:
            token = self.tokens[self.position]
            kind = token.kind
            if kind == "set" or (kind == "letter" and self.is_union(token)):
                self.position += 1
                value = self.joined_set(value, str(token.value) if kind == "set" else "union")
            elif token.value == "set" and isinstance(trees.as_set(value), Constant):
                value = self.joined_set(value, "difference")  # R\{0}, where the sign is the brace's
            elif kind == ":" or (kind == "word" and token.value == "to" and self.is_between_numbers()):
                self.position += 1
                parts = value.parts if isinstance(value, Ratio) else (value,)
                value = Ratio((*parts, self.quantity()))
            else:
                return value

    def joined_set(self, left: Expression, name: str) -> Expression:
        right = trees.as_set(self.quantity())
        if not trees.is_operation(left, name) or name == "difference":
            self.chain()
        both = (trees.as_set(left), right)
        return Operation(name, both) if name == "difference" else trees.joined(name, both)

    def is_union(self, token: Token) -> bool:
        """Whether a letter U stands for the sign: ``(1, 2) U (3, 4)``."""
        around = (self.tokens[self.position - 1].kind, self.tokens[self.position + 1].kind)
        return token.value in ("U", "u") and around == ("close", "open")

    def is_between_numbers(self) -> bool:
        return self.tokens[self.position - 1].kind == self.tokens[self.position + 1].kind == "number"

    def words_before_relation(self) -> Words | None:
        """``area`` of ``area = 12``: words that name what is equal."""
        end = self.position
        while self.tokens[end].kind in ("word", "letter", "symbol"):
            end += 1
        if self.tokens[end].kind not in ("relation", ":") or end - self.position > _MAX_WORDS_BEFORE_RELATION:
            return None
        text = self.source.source(self.position, end)
        if end - self.position == 1 and is_product_of_letters(text, alone=True):
            return None
        if not names_something(text):
            raise ReadingError
        self.position = end
        return Words(level(text))

    def quantity(self) -> Expression:
        """A sum with what is put to it as a whole: a modulus or a unit."""
        value = self.sum()
        if self.kind in AFTER_VALUES:
            return value
        is_bracketed = self.kind == "open" and self.tokens[self.position + 1].kind == "mod"
        if is_bracketed or self.kind == "mod":  # 7 mod 3, 7 (mod 3), 7 \pmod{3}
            close = self.source.closing[self.position] if is_bracketed else None
            self.position += 2 if is_bracketed else 1
            value = Operation("mod", (value, self.sum()))
            if close is not None:
                self.leave(close)
        elif is_unit(self.source, self.position):
            start, self.position = self.position, end_of_unit(self.source, self.position)
            value = with_unit(value, self.source.source(start, self.position))
        return value

    # --- Sums and products --------------------------------------------------------------------------------------------

    def sum(self) -> Expression:
        """Terms with ``+``, ``-`` and ``±`` between them."""
        kind = self.kind
        terms: list[Expression] = []
        if kind in ("+", "-"):
            self.position += 1
            term = self.term()
            terms.append(trees.negate(term) if kind == "-" else term)
        elif kind not in ("±", "∓"):
            terms.append(self.term())
        while True:
            kind = self.kind
            if kind in ("+", "-"):
                self.position += 1
                term = self.signed(self.term)
                if kind == "-" and isinstance(term, Set) and len(terms) == 1:
                    terms = [Operation("difference", (trees.as_set(terms[0]), term))]  # R - {0}
                else:
                    terms.append(trees.negate(term) if kind == "-" else term)
            elif kind in ("±", "∓"):
                self.position += 1
                if terms:
                    self.chain()
                left = (trees.joined("add", terms),) if terms else ()
                terms = [Operation("plus_minus" if kind == "±" else "minus_plus", (*left, self.term()))]
            else:
                return terms[0] if len(terms) == 1 else Operation("add", tuple(terms))

    def signed(self, read: Callable[[], Expression]) -> Expression:
        """What ``read`` reads, with at most one sign before it: the second one of ``2 * -3``."""
        if self.kind not in ("+", "-"):
            return read()
        is_negative = self.take().kind == "-"
        value = read()
        return trees.negate(value) if is_negative else value

    def term(self) -> Expression:
        """A product, with a currency sign before it or not."""
        if self.kind != "currency":
            return self.product()
        unit = str(self.take().value)
        return Quantity(self.signed(self.product), unit)

    def product(self) -> Expression:
        """Factors with signs between them or none."""
        start = self.position
        factors = self.factors()
        if len(factors) > 1 and (self.n_vectors(start) > 1 or has_transposed(factors)):
            raise ReadingError  # neither commutes, and there are two products of vectors
        return trees.product(factors)

    def n_vectors(self, start: int) -> int:
        """How many of the tokens from ``start`` on are vectors, between bars excepted."""
        if not self.source.vectors:
            return 0
        n_vectors, position = 0, start
        while position < self.position:
            n_vectors += position in self.source.vectors
            is_length = self.tokens[position].value == "|" and position in self.source.closing
            position = self.source.closing[position] if is_length else position + 1
        return n_vectors

    def factors(self) -> list[Expression]:
        """The factors of a product; a quotient is one of them."""
        factors = [self.factor()]
        while True:
            token = self.tokens[self.position]
            kind = token.kind
            if kind == "*":
                self.position += 1
                factors.append(self.signed(self.factor))
            elif kind == "/":
                self.position += 1
                below = self.signed(self.factor)
                if not (isinstance(factors[-1], Number) and isinstance(below, Number)):
                    below = self.touching(below)
                factors[-1] = trees.quotient(factors[-1], below)
            elif kind not in _FACTORS:
                return factors
            elif (token.value == "C" and self.is_between_numbers()) or token.value == "choose":
                self.position += 1  # 12C5, n choose 2
                factors[-1] = Operation("binomial", (factors[-1], self.operand()))
            elif self.ends_product(token):
                return factors
            elif kind == "number":
                self.number_after(factors, token)
            elif kind == "letter" and token.value in ("x", "X") and self.is_between_numbers():
                self.position += 1  # 3 x 10^5
                factors.append(self.factor())
            elif kind == "frac" and self.tokens[self.position - 1].kind == "number":
                self.fraction_after(factors)
            else:
                factors.append(self.factor())

    def ends_product(self, token: Token) -> bool:
        """Whether what could be a factor is none here: a unit, a set, a modulus, the U of a union."""
        if token.kind == "open":
            return token.value in ("set", "<") or self.tokens[self.position + 1].kind == "mod"
        if token.kind == "letter" and self.is_union(token):
            return True
        if token.kind not in ("word", "letter", "function"):
            return False
        if is_unit(self.source, self.position):
            return True
        return token.kind == "word" and not is_product_of_letters(self.source.spelling(token), alone=False)

    def number_after(self, factors: list[Expression], token: Token) -> None:
        """A number right after a factor: the fraction of a mixed number, or a factor after a bracket or ``!``."""
        previous = self.tokens[self.position - 1]
        whole = factors[-1]
        if previous.kind == "!" or (previous.kind == "close" and previous.value in (")", "]", "|")):
            factors.append(self.factor())
            return
        if previous.kind != "number" or not trees.is_integer(whole):
            raise ReadingError
        part = cast(Number, self.take().value)
        if part.form != "fraction":  # else it is ½
            sign, below = self.take(), self.tokens[self.position].value
            if not token.spaced or sign.kind != "/" or not trees.is_integer(part):
                raise ReadingError
            if not isinstance(below, Number) or not trees.is_integer(below) or not 0 < part.value < below.value:
                raise ReadingError
            self.position += 1
            part = Number(part.value / below.value, "fraction")
        factors[-1] = trees.mixed(whole, part)

    def fraction_after(self, factors: list[Expression]) -> None:
        """``\\frac`` after a number: a mixed number where both are literals, else a factor."""
        whole, part = factors[-1], self.factor()
        if not trees.is_integer(whole):
            factors.append(part)
        elif isinstance(part, Number):
            factors[-1] = trees.mixed(whole, part)
        elif isinstance(part, Quantity) and isinstance(part.value, Number):
            factors[-1] = Quantity(trees.mixed(whole, part.value), part.unit)  # 12\frac{1}{2}\%
        elif trees.is_operation(part, "divide") and all(map(trees.is_integer, part.operands)):
            raise ReadingError  # 3\frac{4}{2}: neither a mixed number nor clearly a product
        else:
            factors.append(part)

    def touching(self, below: Expression) -> Expression:
        """A denominator with what touches it: ``x/2y`` is ``x/(2y)``, but ``1/2x`` is half of ``x``."""
        factors = [below]
        while True:
            token = self.tokens[self.position]
            if token.spaced or token.kind not in _TOUCHING or self.ends_product(token):
                return trees.joined("multiply", factors)
            factors.append(self.factor())

    # --- Powers -------------------------------------------------------------------------------------------------------

    def factor(self) -> Expression:
        """An operand with its exponents, factorials and degree signs."""
        self.enter()
        value = self.letters_multiplied() if self.kind == "word" else self.with_suffixes(self.operand())
        self.depth -= 1
        return value

    def letters_multiplied(self) -> Expression:
        """``xy^2``, where the power is that of the last letter; and the digits of ``\\text{FF}_{16}``."""
        before = self.tokens[self.position - 1].kind if self.position else "end"
        token = self.take()
        run = self.source.spelling(token)
        if self.kind == "_" and run.isupper():
            return self.based(run)
        following = self.tokens[self.position]
        if run in WORD_FUNCTIONS and following.value == "(" and not following.spaced:
            return self.with_suffixes(word_call(self, run))
        is_alone = before in AFTER_VALUES and self.kind in AFTER_VALUES
        if token.upright or not is_product_of_letters(run, alone=is_alone):
            raise ReadingError
        *letters, last = [trees.letter(name) for name in run]
        return trees.joined("multiply", [*letters, self.with_suffixes(last)])

    def with_suffixes(self, base: Expression) -> Expression:
        """``base`` with what follows it: ``^2``, ``²``, ``!``, ``°``, a base below."""
        n_suffixes = 0
        while True:
            kind = self.kind
            if kind not in ("^", "super", "!", "unit", "_", "sub"):
                return base
            n_suffixes += 1
            if n_suffixes > 1:
                self.chain()
                if kind in ("^", "super") and trees.is_operation(base, "power"):
                    raise ReadingError  # x^{2}^{3} is an error in TeX too
            if kind == "^":
                self.position += 1
                base = self.powered(base)
            elif kind == "super":
                base = Operation("power", (base, small_digits(self.take())))
            elif kind == "!":
                if trees.is_operation(base, "factorial"):
                    raise ReadingError  # n!! is another function
                self.position += 1
                base = Operation("factorial", (base,))
            elif kind == "unit":
                base = self.with_sign(base, self.take())
            else:
                if not trees.is_integer(base) or self.tokens[self.position - 1].kind != "close":
                    raise ReadingError
                base = self.based(str(base.value))  # (1010)_2

    def powered(self, base: Expression) -> Expression:
        """``base`` with the exponent that comes next, be it a degree sign."""
        token = self.take()
        if token.kind == "unit":
            return self.with_sign(base, token)
        if token.kind == "open" and self.kind == "unit":
            unit = self.take()
            self.leave(self.source.closing[self.position - 2])
            return self.with_sign(base, unit)
        self.position -= 1
        if not isinstance(base, Number):
            self.one_digit(token)
        exponent = self.operand() if token.kind == "open" else self.signed(self.factor)
        return Operation("power", (base, exponent))

    def one_digit(self, token: Token) -> None:
        """Refuse ``x^12`` and ``x_12`` in TeX, which sets ``x^1 2`` where ``x^{12}`` is as likely meant.

        Raises:
            ReadingError: If the token is a number of more digits than TeX takes.
        """
        if token.kind == "number" and self.source.is_latex and len(self.source.spelling(token)) > 1:
            raise ReadingError

    def with_sign(self, base: Expression, token: Token) -> Quantity:
        """``base`` with ``%`` or ``°``, or with ``°C`` where the letter comes next."""
        if isinstance(base, Quantity):
            raise ReadingError
        following = self.tokens[self.position]
        if token.value == "°" and following.kind == "letter" and following.value in ("C", "F"):
            self.position += 1
            return Quantity(base, f"°{following.value}")
        return Quantity(base, str(token.value))

    def based(self, digits: str) -> Expression:
        """Digits with the base that comes next."""
        token = self.take()
        base = small_digits(token) if token.kind == "sub" else self.operand()
        based = read_based(digits, int(base.value)) if trees.is_integer(base) and digits.isalnum() else None
        if based is None:
            raise ReadingError
        return based

    def operand(self) -> Expression:
        """What has no operator outside brackets: a number, a letter, brackets, a function of something."""
        token = self.take()
        if token.kind == "number":
            return cast(Number, token.value)
        read = READERS.get(token.kind)
        if read is None:
            raise ReadingError
        self.enter()
        value = read(self, token)
        self.depth -= 1
        return value
