"""The verifier and the line judge on published responses, solutions and reference answers."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llmgym.rewards import verify
from llmgym.rewards.steps import arithmetic_holds

DATA = Path(os.environ.get("LLMGYM_DATA", Path(__file__).parents[3] / "shared" / "data"))


def read(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not there; set LLMGYM_DATA to the folder that holds it")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_agrees_with_the_labels_of_model_responses() -> None:
    counts: Counter[tuple[bool, bool]] = Counter()
    for row in read("gsm8k_model_responses.jsonl.gz"):
        for response in row["responses"]:
            counts[bool(verify(response["text"], row["answer"])), response["correct"]] += 1
    assert counts.total() == 5036
    assert counts[True, False] == 0
    assert counts[False, True] == 0


def test_gold_solutions_are_right_and_their_lines_hold() -> None:
    verdicts: Counter[bool | None] = Counter()
    for row in read("gsm8k_test.jsonl.gz"):
        assert verify(f"{row['solution']}\n#### {row['answer']}", row["answer"])
        verdicts.update(arithmetic_holds(line) for line in row["solution"].split("\n"))
    assert verdicts[True] > 0.85 * verdicts.total()
    # A few of the published lines are false, such as "100 / 6= 16".
    assert verdicts[False] < 0.005 * verdicts.total()


# Reference answers of MATH, written in other ways. Each function gives the rewritings of one kind that apply.


def same(answer: str) -> Iterator[str]:
    yield answer


def other_fractions(answer: str) -> Iterator[str]:
    for command in (r"\frac", r"\dfrac", r"\tfrac"):
        rewritten = re.sub(r"\\[dtc]?frac(?![a-zA-Z])", lambda _, command=command: command, answer)
        if rewritten != answer:
            yield rewritten


#: Inside these a brace or a space is no matter of taste.
NAMED = re.compile(r"\\(text|textbf|mbox|mathrm|mathbf|operatorname|begin|end|left|right|overline)(?![a-zA-Z])")


def other_spaces(answer: str) -> Iterator[str]:
    if NAMED.search(answer) is None and re.search(r"[a-zA-Z]{2}", re.sub(r"\\[a-zA-Z]+", "", answer)) is None:
        yield re.sub(r"(\\[a-zA-Z]+) +(?=[a-zA-Z])|(?<!\\) +", lambda match: f"{match[1]} " if match[1] else "", answer)
        yield re.sub(r"([+=]|(?<!\\)[{}](?!,)(?<!,}))", r" \1 ", answer).strip()
    yield f"  {answer} "


def in_text(answer: str) -> Iterator[str]:
    if re.fullmatch(r"-?\d+(\.\d+)?|[A-Z]|[a-z]{3,}( [a-z]+)*", answer):
        yield rf"\text{{{answer}}}"
    words = re.fullmatch(r"\\text{([A-Za-z][A-Za-z ]*)}", answer)
    if words is not None:
        yield words[1]
        yield rf"\textbf{{{words[1]}}}"


def rational(answer: str) -> Fraction | None:
    """Value of a plain whole number, decimal or fraction."""
    answer = answer.replace(r"\!", "").replace(" ", "")
    fraction = re.fullmatch(r"(-?)(?:\\[dtc]?frac(?:{(-?\d+)}{(\d+)}|(\d)(\d)|(\d){(\d+)})|(\d+)/(\d+))", answer)
    if fraction is not None:
        top, bottom = (int(part) for part in fraction.groups()[1:] if part is not None)
        return Fraction(top, bottom) * (-1 if fraction[1] else 1)
    decimal = re.fullmatch(r"-?(\d{1,3}(,\d{3})+|\d+)?(\.\d+)?", answer)
    return Fraction(answer.replace(",", "")) if answer and answer != "-" and decimal is not None else None


def as_decimal_or_fraction(answer: str) -> Iterator[str]:
    value = rational(answer)
    if value is None or value.denominator == 1:
        return
    yield f"{value.numerator}/{value.denominator}"
    yield rf"{'-' if value < 0 else ''}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    digits = next((n for n in range(1, 20) if (value * 10**n).denominator == 1), None)
    if digits is not None:
        shown = str(abs(value.numerator) * 10**digits // value.denominator).zfill(digits + 1)
        yield f"{'-' if value < 0 else ''}{shown[:-digits]}.{shown[-digits:]}"


def in_a_sentence(answer: str) -> Iterator[str]:
    yield f"We put everything together and simplify. Therefore the answer is ${answer}$."
    yield rf"Adding the two equations and dividing by two, we find that the value is $\boxed{{{answer}}}$."
    yield f"<think>\nThis takes two steps: 1 + 1 = 2.\n</think>\n<answer>{answer}</answer>"


@pytest.mark.parametrize(
    "rewrite", [same, other_fractions, other_spaces, in_text, as_decimal_or_fraction, in_a_sentence]
)
def test_reference_answers_equal_their_rewritings(rewrite: Callable[[str], Iterator[str]]) -> None:
    answers = [row["answer"] for row in read("math_answers.jsonl.gz")]
    assert len(answers) == 4108
    rewritten = 0
    refused = []
    for answer in sorted(set(answers)):
        for text in rewrite(answer):
            rewritten += 1
            response = text if rewrite is in_a_sentence else f"<answer>{text}</answer>"
            if not verify(response, answer):
                refused.append((answer, text))
    assert rewritten >= 50
    assert not refused, f"{len(refused)} of {rewritten}: {refused[:40]}"


def levelled(answer: str) -> str:
    """The answer without what need not be written: spaces, sizes of brackets and fractions, units, ``x =``."""
    units = r"\\(?:text|mbox) *{[^}]*}(?:\^\d)?|\^{?\\circ}?|\\[$%]"
    answer = re.sub(units + r"|\\(?:left|right|[,!;: ])|[\s$()]", "", answer)
    answer = re.sub(r"\\[dtc]frac", r"\\frac", answer).removeprefix("x=").removeprefix("y=").lower()
    value = rational(answer)
    return answer if value is None else str(value)


def test_reference_answers_do_not_equal_their_neighbours() -> None:
    """Answers to different problems: where two are nevertheless equal, they are so in plain sight."""
    answers = [row["answer"] for row in read("math_answers.jsonl.gz")]
    ordered = sorted(set(answers))
    pairs = [*pairwise(answers), *pairwise(ordered)]
    different = [(a, b) for a, b in pairs if levelled(a) != levelled(b)]
    assert len(different) >= 5000
    equal = [(a, b) for a, b in different if verify(f"<answer>{a}</answer>", b) or verify(f"<answer>{b}</answer>", a)]
    assert not equal, f"{len(equal)} of {len(different)}: {equal[:40]}"
