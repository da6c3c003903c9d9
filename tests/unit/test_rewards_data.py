"""The verifier and the line judge on published responses and solutions."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmgym.rewards.answers import answers_equal, verify
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
            counts[verify(response["text"], row["answer"]), response["correct"]] += 1
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


def test_reference_answers_equal_themselves_and_little_else() -> None:
    answers = sorted({row["answer"] for row in read("math_answers.jsonl.gz")})
    assert all(answers_equal(answer, answer) for answer in answers)
    equal = [(a, b) for a in answers[::40] for b in answers if a != b and answers_equal(a, b)]
    spelled_alike = {(a, b) for a, b in equal if _digits(a) == _digits(b)}
    # All others are one number in two spellings: a decimal, a fraction, a percentage.
    assert len(set(equal) - spelled_alike) <= 0.01 * len(answers)


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit()).strip("0")
