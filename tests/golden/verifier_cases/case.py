"""One judged case, and the two ways in which the tables are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import NamedTuple

#: A file that responses with code in them try to make in the working folder. It must never appear.
MARKER = "the_verifier_ran_this"

# Ways to give an answer, from the barest on. "{}" is the answer.
BARE = "{}"
TAG = "<answer>{}</answer>"
BOX = r"\boxed{{}}"
SAYS = "The answer is {}."
HASHES = "We put it all together.\n#### {}"
DOLLARS = "After a little algebra, what remains is ${}$."
THOUGHT = "<think>\nLet us see, this should not be too hard.\n</think>\n<answer>{}</answer>"
#: For mathematics, in turn.
FORMULAS = (BARE, TAG, BOX, DOLLARS, THOUGHT)
#: For plain text, in turn.
TEXTS = (BARE, TAG, SAYS, HASHES, THOUGHT)


class Case(NamedTuple):
    """A response, what it should answer, and the verdict."""

    response: str
    reference_answer: str
    correct: bool
    category: str
    adversarial: bool


def answers(
    category: str,
    *rows: tuple[str, Sequence[str], Sequence[str]],
    frames: Sequence[str] = (BARE,),
    adversarial: bool = False,
) -> list[Case]:
    """Cases from rows of ``(reference answer, right answers, wrong answers)``; each answer is put in the next frame."""
    turn = count()
    return [
        Case(frames[next(turn) % len(frames)].replace("{}", answer), reference, correct, category, adversarial)
        for reference, right, wrong in rows
        for correct, column in ((True, right), (False, wrong))
        for answer in column
    ]


def responses(category: str, *rows: tuple[str, Iterable[str], Iterable[str]], adversarial: bool = False) -> list[Case]:
    """Cases from rows of ``(response, reference answers that it meets, reference answers that it misses)``."""
    return [
        Case(response, reference, correct, category, adversarial)
        for response, met, missed in rows
        for correct, column in ((True, met), (False, missed))
        for reference in column
    ]
