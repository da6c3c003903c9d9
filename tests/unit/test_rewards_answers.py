"""Reading an answer and comparing it."""

from __future__ import annotations

import pytest

from llmgym.rewards.answers import answers_equal, extract_answer, verify


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<think>1\n<answer>9</answer></think>\n<answer> 42 </answer>", "42"),
        ("<answer>41</answer> no, <answer>42</answer>", "42"),
        ("<answer>\\boxed{42}</answer>", "42"),
        ("<answer>x</answer> 7", "x"),
        ("so \\boxed{\\frac{3}{4}}.", "\\frac{3}{4}"),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed{1}, then much later on, after more thought, \\boxed{2}", "2"),
        ("72/2=36\n#### 36", "36"),
        ("#### Step 4\nwe get 7", "7"),
        ("Hence the answer is 42 apples. Check: 40+2.", "42 apples"),
        ("**Answer:** 42", "42"),
        ("所以答案是４２。", "42"),
        ("17*23", "17*23"),
        ("north", "north"),
        ("x = 5", "x = 5"),
        ("It is 0.75.", "0.75."),
        ("He has 5-3=2", "2"),
        ("12*3=36\n36+5=41\nA: 41", "41"),
        ("first 3\n3*5-2", "3*5-2"),
        ("in all that makes -1,250.50 dollars, which is a lot", "-1,250.50"),
    ],
)
def test_extract_answer(response: str, answer: str) -> None:
    assert extract_answer(response) == answer


@pytest.mark.parametrize(
    "response",
    ["", " \n", "<think>6*7 = 42", "<think>a</think> <think>42", "<answer>42", "<answer></answer>", "<answer>4</answer> <answer>42",
     "\\boxed{42", "a longer response that never comes to any kind of number", "How many of the 7 are left?"],
)  # fmt: skip
def test_no_answer(response: str) -> None:
    assert extract_answer(response) is None


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("42", "42"), ("42.", "42"), ("+42", "42"), ("1,250", "1250"), ("−5", "-5"), ("４２", "42"), ("0.50", "1/2"), ("3/4", "0.75"),
     ("-3/4", "-0.75"), (".5", "0.5"), ("$1,250.00", "1250"), ("-$5", "-5"), ("42 apples", "42"), ("180 km/h", "180"),
     ("42个", "42"), ("15 cm^2", "15"), ("50%", "0.5"), ("50%", "50"), ("0.5", "50%"), ("x = 5", "5"), ("5", "x=5"),
     ("6*7 = 42", "42"), ("y = 6*7 = 42", "42"), ("x = y = 5", "5"), ("\\frac{3}{4}", "0.75"), ("$\\frac{3}{4}$", "3/4"), ("**42**", "42"),
     ("12\\text{ km}", "12"), ("North ", "north"), ("3*14", "3*14"), ("391", "17*23"), ("5 feet", "5 feet"), ("5 foot", "5"),
     ("007", "7"), ("1/3", "1/3"), ("-0", "0")],
)  # fmt: skip
def test_equal(answer: str, reference: str) -> None:
    assert answers_equal(answer, reference)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("", "0"), ("", ""), ("43", "42"), ("4 2", "42"), ("41 or 42", "42"), ("42 or 41", "42"), ("41, 42", "42"), ("42/41", "42"),
     ("12,34", "1234"), ("0.333", "1/3"), ("17*23", "391"), ("12/4", "3"), ("6/8", "0.75"), ("2^10", "1024"), ("(42)", "41"),
     ("43 = 42", "42"), ("41+2 = 42", "42"), ("x >= 5", "5"), ("x != 5", "5"), ("x=5, y=6", "6"), ("x=5 or x=6", "6"),
     ("5 km", "5 m"), ("5 dozen", "5"), ("5 million", "5"), ("3 pi", "3"), ("3i", "3"), ("3x", "3"), ("5k", "5"), ("3分之一", "3"),
     ("5万", "5"), ("5 or so", "5"), ("42 is wrong", "42"), ("not 42", "42"), ("42?", "42"), ("0.5%", "50"), ("1e2", "100"),
     ("4" * 5000, "4"), ("--5", "5"), ("$-$5", "5"), ("5 or3", "5")],
)  # fmt: skip
def test_not_equal(answer: str, reference: str) -> None:
    assert not answers_equal(answer, reference)


def test_what_is_still_to_be_worked_out_counts_only_where_allowed() -> None:
    assert not verify("17*23", "391")
    assert verify("17*23", "391", allow_unevaluated=True)
    assert verify("3/4", "0.75")


@pytest.mark.parametrize(
    "response",
    ["It is 41 or 42.", "I cannot decide between the two numbers: 41 or perhaps it is 42", "\\boxed{41} or \\boxed{42}",
     "<answer>41 or 42</answer>", "The answer is 41 or 42.", "The answer is not 42.", "It is certainly, I am quite sure, not 42",
     "<think>42", "what is 43-1+42?", "Evaluate 1+3*5-42.", "Solve 2x-15=42.", "解方程2x-15=42。", "so we get x + 2 = 42", "and then it is 3x = 42", "we multiply, and so the result will be 2*(7-42)"],
)  # fmt: skip
def test_hedges_and_echoes_are_wrong(response: str) -> None:
    assert not verify(response, "42")


@pytest.mark.parametrize(
    "piece",
    ["a", "1", "1,", "1/", "- ", "(", "$1", "1 or ", "\\boxed{", "<answer>", "<think>", "the answer is ", "答案", "####", "\\frac{1}{",
     "\\text{", "=", "1=", "x="],
)  # fmt: skip
def test_long_text_takes_linear_time(piece: str) -> None:
    import time

    text = piece * (200_000 // len(piece))
    started = time.process_time()
    verify(text, "5")
    answers_equal(text, "5")
    assert time.process_time() - started < 2.0
