"""Verdicts: extraction and comparison put together."""

from __future__ import annotations

import concurrent.futures
import pickle

import pytest

from llmgym.errors import InvalidOptionError
from llmgym.rewards import Status, Verdict, Verifier, judge, judge_batch, verify


@pytest.mark.parametrize(
    ("response", "reference", "verdict"),
    [
        ("<think>6*7</think><answer>42</answer>", "42", Verdict(Status.CORRECT, "same_text", "answer_tag", "42")),
        ("so \\boxed{43}", "42", Verdict(Status.INCORRECT, "different_value", "boxed", "43")),
        ("", "42", Verdict(Status.INCORRECT, "no_answer", None, None)),
        ("The answer is not 42.", "42", Verdict(Status.INCORRECT, "negated", "phrase", None)),
        ("<think>42", "42", Verdict(Status.INCORRECT, "unclosed_thinking", None, None)),
    ],
)
def test_verdicts_say_why(response: str, reference: str, verdict: Verdict) -> None:
    assert judge(response, reference) == verdict
    assert Verifier(reference).judge(response) == verdict
    assert verify(response, reference) is verdict.correct is Verifier(reference)(response)


@pytest.mark.parametrize(
    "response",
    ["It is 41 or 42.", "I cannot decide between the two numbers: 41 or perhaps it is 42", "\\boxed{41} or \\boxed{42}",
     "<answer>41 or 42</answer>", "<answer>41</answer> or <answer>42</answer>", "The answer is 41 or 42.",
     "The answer is not 42.", "It is certainly, I am quite sure, not 42", "<think>42", "what is 43-1+42?",
     "Evaluate 1+3*5-42.", "Solve 2x-15=42.", "解方程2x-15=42。", "so we get x + 2 = 42", "and then it is 3x = 42",
     "we multiply, and so the result will be 2*(7-42)", "42 is wrong", "maybe 42", "about 42", "at least 42", "42 or so",
     "It is between 41 and 42", "\\boxed{41}. Wait, the answer is 42.", "40\n41\n42", "40, 41, 42", "$40$ $41$ $42$",
     "5 dozen or 42", "x != 42", "The answer is >42.", "17*23 = 42", "42%3", "42?", "Is it 42", "-42", "negative 42",
     "<think>the answer is 42</think>", "<answer>41</answer> \\boxed{42}", "\\boxed{42 or 43}", "half of 42", "42 million"],
)  # fmt: skip
def test_hedges_echoes_and_negations_are_wrong(response: str) -> None:
    assert not verify(response, "42")


@pytest.mark.parametrize(
    "response",
    ["42", "42.", "It is 42.", "x = 42", "$42$", "**42**", "6*7 = 42", "We get 6*7 = 42.", "The answer is 42 apples.",
     "\\boxed{41}. Wait, \\boxed{42}", "#### 42", "答案是42。", "答案是四十二。", "So there are forty-two apples.", "A: 42",
     "<answer>42</answer>", "<answer>The answer is 42.</answer>", "\\[ 40 + 2 = 42 \\]", "### Final Answer\n\n42",
     "<think>It is 41.</think> Therefore it is 42.", "The answer is 42, not 41.", "4.2e1", "84/2 = 42"],
)  # fmt: skip
def test_plain_answers_are_right(response: str) -> None:
    assert verify(response, "42")


def test_what_is_still_to_be_worked_out_counts_only_where_allowed() -> None:
    assert not verify("17*23", "391")
    assert verify("17*23", "391", allow_unevaluated=True)
    assert Verifier("391", allow_unevaluated=True)("17*23")
    assert verify("3/4", "0.75")


def test_an_answer_that_is_too_long_is_unverifiable() -> None:
    verdict = judge(f"<answer>{'1+' * 4000}1</answer>", "4001")
    assert (verdict.status, verdict.reason, verdict.rule) == (Status.UNVERIFIABLE, "too_long", "answer_tag")
    assert not verdict.correct


def test_a_long_answer_is_compared_where_that_is_possible() -> None:
    digits = "7" * 5000
    assert judge(f"\\boxed{{{digits}}}", digits).status is Status.CORRECT
    assert judge(f"\\boxed{{{digits}8}}", digits).reason == "too_long"


@pytest.mark.parametrize(
    ("response", "reference", "is_right"),
    [
        ("In the end it rose by 4.5 percent.", "4.5\\%", True),
        ("In the end it rose by 4.5 percent.", "5.4\\%", False),
        ("Multiply the number by 42", "42", False),
        ("班里一共有二十五人。", "25", True),
        ("班里一共有二十五人。", "52", False),
        ("不是二十五人", "25", False),
        ("\\boxed{3}\\text{ or }\\boxed{5}", "\\{3,5\\}", True),
        ("$\\boxed{2}$ or $\\boxed{5}$", "2,5", True),
        ("\\boxed{3}\\text{ or }\\boxed{5}", "3", False),
        ("$\\boxed{2}$ or $\\boxed{5}$", "5", False),
        ("The area of the square is **16 cm^2**.", "16\\text{ cm}^2", True),
        ("The area of the square is **16 cm^2**.", "16\\text{ cm}^3", False),
        ("综上，对的是 A、C。故选：AC", "AC", True),
        ("综上，对的是 A、C。故选：AD", "AC", False),
        ("\\boxed{\\text{The answer is not } 9}", "9", False),
        ("<answer>the negative of 42</answer>", "42", False),
        ("The answer is the double of 42.", "42", False),
        ("The answer is until 42.", "42", False),
        ("You might think the answer is 42, but it is 43.", "42", False),
        ("If the answer were 42, we would have one too many.", "42", False),
        ("一半的42", "42", False),
        ("答案是42的一半", "42", False),
        ("two of 42", "42", False),
        ("a = 0", "b=0", False),
        ("<answer>July 4</answer>", "4", False),
        ("<answer>July 4</answer>", "July 4", True),
    ],
)
def test_what_a_response_settles_on(response: str, reference: str, is_right: bool) -> None:
    assert verify(response, reference) is is_right


def test_demanded_rules() -> None:
    assert verify("I would say that it is 42", "42")
    assert judge("I would say that it is 42", "42", rules=["boxed"]).reason == "no_answer"
    assert verify("\\boxed{42}, that is 43", "42", rules=["boxed", "answer_tag"])


@pytest.mark.parametrize("options", [{"rules": ["box"]}, {"tolerance": 0.1}, {"rel_tol": -1.0}])
def test_bad_options(options: dict[str, object]) -> None:
    with pytest.raises(InvalidOptionError, match="Expected"):
        Verifier("42", **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="Expected"):
        judge("42", "42", **options)  # type: ignore[arg-type]


def test_batches_are_judged_like_single_responses() -> None:
    responses = ["42", "<answer>3/4</answer>", "no idea", "\\boxed{42}"] * 3
    references = ["42", "0.75", "42", "41"] * 3
    expected = [judge(response, reference) for response, reference in zip(responses, references, strict=True)]
    assert judge_batch(responses, references) == expected
    assert judge_batch([], []) == []
    with pytest.raises(InvalidOptionError, match="one reference answer for each response, actual: 1 for 2"):
        judge_batch(["1", "2"], ["1"])


def test_verifiers_travel_and_may_be_shared() -> None:
    verifier = pickle.loads(pickle.dumps(Verifier("\\frac{3}{4}", rules=["boxed"], rel_tol=1e-6)))
    assert repr(verifier).startswith("Verifier('\\\\frac{3}{4}', rules=('boxed',)")
    responses = ["\\boxed{0.75}", "\\boxed{3/4}", "\\boxed{0.74}", "0.75"] * 25
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        verdicts = list(threads.map(verifier, responses))
    assert verdicts == [True, True, False, False] * 25
