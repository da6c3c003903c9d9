"""Whatever the two texts are, the verifier answers: no exception, soon, in little memory, and always the same."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmgym.rewards import verify
from tests.golden.verifier_cases import CASES

#: Processor seconds that one verdict may take, however long or nasty the texts.
LIMIT = 0.05
MEGABYTE = 2**20

FRAGMENTS = st.sampled_from([
    "<think>", "</think>", "<answer>", "</answer>", "<answer", "answer>", "</", "\\boxed{", "\\boxed", "\\fbox{", "{", "}", "(", ")", "[", "]",
    "\\left(", "\\right)", "\\{", "\\}", "|", "$", "$$", "\\(", "\\)", "\\[", "\\]", "####", "#### ", "**", "`", "\n", "\n\n", " ", "\t",
    "\\frac{1}{2}", "\\frac", "\\frac12", "\\dfrac", "\\sqrt{", "\\sqrt", "\\sqrt[3]{2}", "\\pi", "\\infty", "\\pm", "\\cup", "\\cap", "\\in", "\\setminus",
    "\\begin{pmatrix}", "\\end{pmatrix}", "\\\\", "&", "\\text{", "\\text{ cm}", "\\mathrm{", "\\overline{3}", "\\circ", "^\\circ", "\\%", "%", "\\binom{5}{2}",
    "\\sin", "\\log_2", "\\ln", "\\sum_{n=1}^{9}", "\\int", "\\cdot", "\\times", "\\leq", "\\neq", "<", ">", "=", "==", "!=", "+", "-", "−", "*", "**", "/", "÷",
    "^", "_", "^{", "_{2}", "!", "?", ".", ",", ";", ":", "...", "\\ldots", "'", "0", "1", "7", "42", "1,000", "0.5", ".5", "1e9", "1e999999", "9" * 30, "x", "y", "i", "e",
    "C", "(C)", "km", "cm^2", "dollars", "degrees", "dozen", "million", "forty-two", "one half", "or", " or ", " and ", "not ", "about ", "the answer is ",
    "Final answer: ", "答案是", "故选", "和", "或", "万", "四十二", "三分之一", "百分之", "元", "½", "²", "√", "π", "∞", "°", "±", "≤", "≠", "∪", "٣", "４", "\u200b",
    "\u202e", "\ud800", "\x00", "&#", "9^{9^{9^9}}", "(10^9)!", "0.(3)", "0x1F", "0b101", "10_", "[1,2)", "{1,2}", "(1,2)", "3:1", "1:03 PM",
])  # fmt: skip
TEXTS = st.text(max_size=200) | st.lists(FRAGMENTS, max_size=40).map("".join)

SHORT_CASES = [case for case in CASES if len(case.response) <= 2000]


@st.composite
def mutated_cases(draw: st.DrawFn) -> tuple[str, str]:
    """A judged case with a part cut out, doubled, moved or replaced by a fragment."""
    case = draw(st.sampled_from(SHORT_CASES))
    texts = [case.response, case.reference_answer]
    for _ in range(draw(st.integers(1, 4))):
        which = draw(st.integers(0, 1))
        text = texts[which]
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 20)))
        part = draw(
            st.sampled_from(["", text[start:end] * 2, text[start:end][::-1], texts[1 - which][:200]]) | FRAGMENTS
        )
        texts[which] = text[:start] + part + text[end:]
    return texts[0], texts[1]


def seconds(response: str, reference_answer: str) -> float:
    """Processor time of one verdict: the least of a few, since a busy machine and the collector only ever add to it."""
    least = float("inf")
    for _ in range(3):
        start = time.process_time()
        verify(response, reference_answer)
        least = min(least, time.process_time() - start)
        if least < LIMIT:
            break
    return least


def check(response: str, reference_answer: str) -> None:
    verdict = verify(response, reference_answer)
    assert bool(verdict) in (True, False)
    assert verify(response, reference_answer) == verdict
    assert seconds(response, reference_answer) < LIMIT


@given(TEXTS, TEXTS)
@example("", "")
@example("\\boxed{" * 500, "{" * 500)
@example("9^{9^{9^9}}", "9^{9^{9^{9}}}")
def test_any_two_texts(response: str, reference_answer: str) -> None:
    check(response, reference_answer)


@given(TEXTS, TEXTS)
def test_any_answer_where_it_is_asked_for(answer: str, reference_answer: str) -> None:
    check(f"<answer>{answer}</answer>", reference_answer)


@given(mutated_cases())
def test_mutated_cases(case: tuple[str, str]) -> None:
    check(*case)


PLACES = st.sampled_from(
    ["{}", "<answer>{}</answer>", "\\boxed{{}}", "so the answer is {}.", "答案是{}。", "#### {}", "It is {}", "we get ${}$", "17 {} = 42"]
)  # fmt: skip


@given(PLACES, FRAGMENTS, FRAGMENTS, FRAGMENTS)
@example("so the answer is {}.", "a", " ", "b")
@example("{}", "{0,1}", "z", "]")
@example("<answer>{}</answer>", "1", "_1", "x")
@example("答案是{}。", "\\sin", "\\pi", "x")
@example("<answer>{}</answer>", "7\\circ", "1C", "x")
@example("故选{}", "a", "\t", "b")
@example("故选{}", "", "**", "")
@example("#### {}", "", "，", "")
@example("{}", "<1", "\\boxedZ", "")
def test_repeated_fragments(place: str, start: str, repeated: str, end: str) -> None:
    """What takes more than linear time shows when it grows; a short one is tried first, so that the test ends."""
    for length in (40, 160, 640, 4000, 60_000):
        check(place.replace("{}", start + repeated * (length // len(repeated)) + end), "42")
    check("42", start + repeated * (4000 // len(repeated)) + end)


HUGE = {
    "words": "and so on, " * 400_000 + "the answer is 42.",
    "opened tags": "<answer>" * 400_000,
    "closed tags": "</answer>" * 400_000,
    "thinking": "<think>" * 200_000 + "x" * 1_000_000 + "</think>" * 200_000 + "42",
    "boxes": "\\boxed{" * 400_000,
    "closed boxes": "\\boxed{4}" * 300_000,
    "braces": "{" * 3_000_000,
    "dollars": "$" * 3_000_000,
    "digits": "9" * 3_000_000,
    "lines": "#### \n" * 400_000,
    "phrases": "the answer is " * 200_000,
    "sums": "1+" * 1_000_000 + "1",
    "numbers": "1 " * 1_500_000,
    "spaces": " " * 3_000_000,
    "Chinese": "答案是" * 500_000,
    "combining": "e\u0301" * 1_000_000,
}


@pytest.mark.parametrize("name", HUGE)
def test_memory_and_time_are_bounded_on_huge_texts(name: str) -> None:
    text = HUGE[name]
    assert seconds(text, "42") < LIMIT
    assert seconds(f"<answer>{text}</answer>", "42") < LIMIT
    tracemalloc.start()
    try:
        verify(text, "42")
        verify(f"\\boxed{{{text}}}", "42")
        verify("42", text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50 * MEGABYTE


@pytest.mark.parametrize("name", HUGE)
def test_huge_reference_answers_are_bounded_too(name: str) -> None:
    assert seconds("<answer>42</answer>", HUGE[name][:200_000]) < LIMIT
