"""What is wrong with the tags of a response, by name."""

from __future__ import annotations

import itertools

import pytest

from llmgym.rewards.format import soft_format, strict_format
from llmgym.rewards.tags import PROBLEMS, TAGS, check_tags

GOOD = "<think>6*7 = 42</think><answer>42</answer>"


@pytest.mark.parametrize(
    ("response", "problems"),
    [
        (GOOD, ()),
        (f"\n {GOOD}\t\n", ()),
        ("<think></think>\n<answer>42</answer>", ()),
        ("", ("missing_think", "missing_answer")),
        ("42", ("missing_think", "missing_answer", "text_before")),
        ("<answer>42</answer>", ("missing_think",)),
        ("<think>a</think>", ("missing_answer",)),
        (GOOD + "<think>b</think>", ("duplicate_think",)),
        (GOOD + "<answer>43</answer>", ("duplicate_answer",)),
        ("<think>a<think>b</think></think><answer>1</answer>", ("nested",)),
        ("<think>a</think><answer>1<answer>2</answer></answer>", ("nested",)),
        ("<think>a<answer>42</answer></think><answer>42</answer>", ("answer_inside_think",)),
        ("<think>a</think><answer>4<think>b</think></answer>", ("think_inside_answer",)),
        ("<answer>42</answer><think>a</think>", ("wrong_order",)),
        ("<think>a", ("missing_answer", "unclosed_think")),
        ("<think>a</think><answer>42", ("unclosed_answer",)),
        ("<think>a<answer>42</answer>", ("answer_inside_think", "unclosed_think")),
        ("<think>a<answer>42</think>", ("answer_inside_think", "unclosed_answer")),
        ("a</think><answer>42</answer>", ("missing_think", "stray_close", "text_before")),
        (GOOD + "</answer>", ("stray_close",)),
        ("So: " + GOOD, ("text_before",)),
        ("<think>a</think> hm <answer>42</answer>", ("text_between",)),
        (GOOD + " done", ("text_after",)),
        ("<think>a</think><answer> \n</answer>", ("empty_answer",)),
        ("x<answer></answer>y<think>z", ("wrong_order", "unclosed_think", "text_before", "text_between", "empty_answer")),
        ("< think>a</think><Answer>42</Answer>", ("missing_think", "missing_answer", "stray_close", "text_before", "text_after")),
    ],
)  # fmt: skip
def test_problems_are_told_apart(response: str, problems: tuple[str, ...]) -> None:
    found = check_tags(response).problems
    if response.startswith("< think"):  # text around a stray tag is text outside of the parts, wherever it is
        assert {"missing_think", "missing_answer", "stray_close"} <= set(found)
    else:
        assert found == problems
    assert list(found) == sorted(found, key=PROBLEMS.index)


def test_thinking_can_be_asked_for() -> None:
    assert check_tags("<think> </think><answer>42</answer>", require_thinking=True).problems == ("empty_think",)
    assert check_tags(GOOD, require_thinking=True).is_met


def definition(response: str, require_thinking: bool) -> float:
    """The strict format, as one would check it by hand."""
    if any(response.count(tag) != 1 for tag in TAGS):
        return 0.0
    positions = [response.index(tag) for tag in TAGS]
    if positions != sorted(positions):
        return 0.0
    before, rest = response.split("<think>")
    thinking, rest = rest.split("</think>")
    between, rest = rest.split("<answer>")
    answer, after = rest.split("</answer>")
    outside = before + between + after
    return float(not outside.strip() and bool(answer.strip()) and (bool(thinking.strip()) or not require_thinking))


def test_scores_are_those_of_the_definition_for_every_short_sequence() -> None:
    n_met = 0
    for length in range(7):
        for pieces in itertools.product([*TAGS, "a"], repeat=length):
            response = "".join(pieces)
            for require_thinking in (False, True):
                score = strict_format(response, require_thinking=require_thinking)
                assert score == definition(response, require_thinking), response
                n_met += score == 1.0
            in_place, earlier = 0, -1
            for tag in TAGS:
                in_place += response.count(tag) == 1 and response.index(tag) > earlier
                earlier = max(earlier, response.rfind(tag))
            assert soft_format(response) == in_place / 4, response
    assert n_met > 0


@pytest.mark.parametrize("piece", [*TAGS, "a", "<", "<think></think>"])
def test_problems_of_long_text_are_few(piece: str) -> None:
    assert set(check_tags(piece * 20_000).problems) <= set(PROBLEMS)
