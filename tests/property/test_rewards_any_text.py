"""Whatever a model writes: nothing raises, scores stay in [0, 1], and arithmetic agrees with Python's."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmgym.rewards import (
    CorrectnessReward,
    FormatReward,
    LanguageReward,
    LengthReward,
    ProcessReward,
    RewardStack,
    answers_equal,
    check_tags,
    extract,
    judge,
    verify,
)
from llmgym.rewards.arithmetic import evaluate, numbers_used
from llmgym.rewards.extraction.rules import RULES
from llmgym.rewards.language import SCRIPTS, dominant_language, language_share
from llmgym.rewards.steps import arithmetic_holds
from llmgym.tasks import Problem
from llmgym.transcript import Author, Transcript, Transition

PIECES = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "}", "{", "\\frac{1}{2}", "####", "the answer is ", "答案是", "=", "==",
     "+", "-", "−", "*", "×", "x", "X", "/", "^", "**", "(", ")", "1", "42", "0", "1,000", "0.5", ".", ",", "%", "$", "\n", " ", " or ",
     "和", "km", "dozen", "answer", "not 42", "Wait, ", "**", "\\boxed ", "\\[", "\\]", "$$", "?", "故选C", "\n\n", "İ", "³", "٣", "\ud800", "…", "&#", "i", "not "]
)  # fmt: skip
TEXTS = st.text(st.characters(), max_size=60) | st.lists(PIECES, max_size=30).map("".join)


def episode(response: str, n_new_tokens: int = 5) -> Transcript:
    return Transcript(Problem("q", "42", "p"), "q\n", ((Author.AGENT, response),), n_new_tokens)


@given(TEXTS, TEXTS)
def test_reading_and_comparing_never_raise(response: str, reference: str) -> None:
    extraction = extract(response)
    assert bool(extraction.text) is not bool(extraction.reason)
    assert extraction.rule in (None, *RULES)
    assert all(extract(response, rules=[rule]).rule in (None, rule) for rule in RULES)
    verdict = judge(response, reference)
    assert verdict.reason
    assert verdict.extracted_answer == extraction.text
    assert verify(response, reference) is verdict.correct
    assert answers_equal(response, reference) in (True, False)
    assert evaluate(response) is None or isinstance(evaluate(response), Fraction)
    assert numbers_used(response) is None or evaluate(response) is not None
    assert arithmetic_holds(response) in (True, False, None)


@given(TEXTS, st.integers(0, 10_000))
@example("<think></think><answer>42</answer>", 3)
def test_scores_stay_in_bounds(response: str, n_new_tokens: int) -> None:
    transcript = episode(response, n_new_tokens)
    rewards = [
        CorrectnessReward(), FormatReward(), FormatReward("soft"), LengthReward(), LanguageReward(), LanguageReward("zh"),
        ProcessReward(aggregate="mean"), ProcessReward(aggregate="min"),
    ]  # fmt: skip
    for reward in rewards:
        assert 0.0 <= reward.score(transcript) <= 1.0
    assert 0.0 <= ProcessReward().score(transcript) <= len(transcript.reasoning_steps)
    assert FormatReward().score(transcript) <= FormatReward("soft").score(transcript)
    assert (FormatReward().score(transcript) == 1.0) is check_tags(response).is_met
    assert dominant_language(response) in SCRIPTS
    assert all(0.0 <= language_share(response, language) <= 1.0 for language in SCRIPTS)


@given(TEXTS, st.data())
def test_steps_are_paid_the_same_however_they_arrive(response: str, data: st.DataObject) -> None:
    stack = RewardStack({"process": 0.3, "correctness": 1.0, "format": {"weight": 0.1, "mode": "soft"}})
    whole = episode(response)
    n_steps = len(whole.reasoning_steps)
    at_once, _ = stack.pay(Transition(whole, 0, n_steps, True))
    totals = dict.fromkeys(stack.names, 0.0)
    closed, end = 0, 0
    while end < len(response):
        end = data.draw(st.integers(end + 1, len(response)))
        so_far = response[:end]
        ended = end == len(response)
        now = n_steps if ended else so_far.count("\n")
        paid, details = stack.pay(Transition(episode(so_far), closed, now, ended))
        assert set(details) == ({"correctness", "format"} if ended else set())
        for name, part in paid.items():
            totals[name] += part
        closed = now
    if response:
        assert totals == pytest.approx(at_once, abs=1e-12)


@st.composite
def expressions(draw: st.DrawFn, depth: int = 0) -> str:
    if depth > 3 or draw(st.booleans()):
        return str(draw(st.integers(0, 999)))
    sign = draw(st.sampled_from("+-*/"))
    left, right = draw(expressions(depth=depth + 1)), draw(expressions(depth=depth + 1))
    text = f"{left}{sign}{right}"
    return f"({text})" if draw(st.booleans()) else text


def reference_value(expression: str) -> Fraction | None:
    """Python's own parser; the text is made of digits, signs and parentheses only."""
    exact = "".join(f"F({part})" if part.isdigit() else part for part in _parts(expression))
    try:
        return Fraction(eval(exact, {"__builtins__": {}, "F": Fraction}))
    except ZeroDivisionError:
        return None


def _parts(expression: str) -> list[str]:
    parts: list[str] = []
    for character in expression:
        if character.isdigit() and parts and parts[-1].isdigit():
            parts[-1] += character
        else:
            parts.append(character)
    return parts


@given(expressions())
def test_arithmetic_agrees_with_python(expression: str) -> None:
    value = reference_value(expression)
    assert evaluate(expression) == value
    assert evaluate(expression.replace("*", " × ").replace("/", "÷").replace("-", "−")) == value
    if value is not None:
        assert numbers_used(expression) == [int(part) for part in _parts(expression) if part.isdigit()]
        has_work = not expression.isdigit()
        text = str(value) if value.denominator == 1 else f"({value})"
        assert arithmetic_holds(f"so {expression} = {text}") is (True if has_work else None)
        wrong = str(value + 1) if value.denominator == 1 else f"({value + 1})"
        assert arithmetic_holds(f"{expression} = {wrong}") is False


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_values_are_equal_when_they_are(a: Fraction, b: Fraction) -> None:
    assert answers_equal(str(a), str(a))
    assert answers_equal(str(a), str(b)) == (a == b)
    if a.denominator in (1, 2, 4, 5, 8, 10):
        decimal = f"{float(a):.3f}"
        assert answers_equal(decimal, str(a)) == (Fraction(decimal) == a)


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_integers_in_any_clothes(value: int, other: int) -> None:
    clothes = [str(value), f"{value:,}", f"x = {value}", f"{value} apples", f"${value}", f"**{value}**", f"{value}."]
    for text in clothes:
        assert verify(f"<answer>{text}</answer>", str(value))
        assert verify(f"<answer>{text}</answer>", str(other)) == (value == other)
    hedge = f"<answer>{value} or {other}</answer>"
    assert not verify(hedge, str(value))
    assert not verify(hedge, str(other))
    assert not math.isnan(value)
