"""The verifier on judged cases: nearly all of them right, and nothing that tries to cheat is paid."""

from __future__ import annotations

from collections import Counter

import pytest

from llmgym.rewards import verify
from tests.golden.verifier_cases import CASES, MARKER, POLICY_CASES, TABLES, Case, PolicyCase


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, bool]:
    """Every case with its verdict, reached in a folder of its own: whatever is run there leaves a trace."""
    folder = tmp_path_factory.mktemp("verifier")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        verdicts = {case: bool(verify(case.response, case.reference_answer)) for case in CASES}
    assert not list(folder.iterdir()), f"a response was run: {MARKER} is there"
    return verdicts


def listed(cases: list[Case]) -> str:
    def short(text: str) -> str:
        return repr(text if len(text) <= 160 else f"{text[:70]} ... {text[-70:]}")

    lines = (
        f"  {case.category}: {short(case.response)} for {short(case.reference_answer)} is "
        f"{'right' if case.correct else 'wrong'}"
        for case in cases
    )
    return "\n".join([f"{len(cases)} misjudged:", *lines])


def test_accuracy(judged: dict[Case, bool]) -> None:
    failing = [case for case, verdict in judged.items() if verdict != case.correct]
    assert len(failing) <= 0.01 * len(judged), listed(failing)


def test_nothing_adversarial_is_paid(judged: dict[Case, bool]) -> None:
    paid = [case for case, verdict in judged.items() if verdict and not case.correct and case.adversarial]
    assert not paid, listed(paid)


def test_few_wrong_answers_are_paid(judged: dict[Case, bool]) -> None:
    paid = [case for case, verdict in judged.items() if verdict and not case.correct]
    assert len(paid) <= 3, listed(paid)


def test_few_right_answers_are_refused(judged: dict[Case, bool]) -> None:
    """Most cases are wrong answers, so that refusing everything would not look bad in the accuracy."""
    n_right = sum(case.correct for case in judged)
    refused = [case for case, verdict in judged.items() if not verdict and case.correct]
    assert len(refused) <= 0.02 * n_right, listed(refused)


@pytest.mark.parametrize("case", POLICY_CASES, ids=lambda case: f"{case.arguments}-{case.response}")
def test_policy_arguments(case: PolicyCase) -> None:
    assert bool(verify(case.response, case.reference_answer, **case.arguments)) is case.correct


def test_the_tables_are_sound() -> None:
    labels: dict[tuple[str, str], bool] = {}
    for case in TABLES:
        key = (case.response, case.reference_answer)
        assert labels.setdefault(key, case.correct) is case.correct, f"judged both ways: {case}"
    assert len(CASES) >= 1000
    assert sum(case.adversarial for case in CASES) >= 350
    assert sum(case.correct for case in CASES) >= 500


def test_all_categories_are_there() -> None:
    n_cases = Counter(case.category for case in CASES)
    expected = {
        "integers", "digits", "decimals", "fractions", "mixed numbers", "repeating decimals", "scientific", "big numbers", "number words",
        "radicals", "constants", "complex numbers", "logarithms", "factorials and binomials", "polynomials", "rational functions",
        "trigonometry", "integration constants", "equations", "chains", "unevaluated",
        "percent", "money", "length, area and volume", "speed, time and mass", "counted things", "degrees", "bases", "ratios", "times and dates",
        "tuples", "vectors", "matrices", "sets", "lists", "plus-minus", "intervals", "unions", "inequalities",
        "choices", "choices in sentences", "names and nouns", "yes and no", "words against numbers", "Chinese sentences", "other languages",
        "tags", "boxes", "hashes", "phrases", "short responses", "last number or formula", "Markdown", "no answer",
        "worked solutions", "worked solutions with a slip",
        "tiny differences", "approximations", "near misses", "another unit or base", "incomplete or overfull lists", "order and ends",
        "hedges", "hedges in a phrase", "hedges in boxes", "candidates listed", "negations", "negations in sentences", "relations", "echoes",
        "something made of the value", "vague", "taken back",
        "questions", "tags misused", "the answer in the thinking", "boxes misused",
        "code", "code around an answer", "requests", "towers", "very long or deep", "long responses", "look-alikes", "hidden characters",
    }  # fmt: skip
    assert set(n_cases) == expected
    assert min(n_cases.values()) >= 5
