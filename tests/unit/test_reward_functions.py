"""Reward functions as TRL's trainers call them."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from llmgym.errors import InvalidOptionError
from llmgym.rewards.reward_functions import correctness_reward, format_reward

GOOD = "<think>6*7</think><answer>42</answer>"


class Log:
    """What a trainer hands to a reward function: two callables that keep what they get."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {}
        self.metrics: dict[str, float] = {}

    def extra(self, name: str, values: list[Any]) -> None:
        self.columns[name] = values

    def metric(self, name: str, value: float) -> None:
        self.metrics[name] = value


def as_trainer(function: Any, completions: list[Any], log: Log | None = None, **columns: Any) -> list[float | None]:
    """A call with all that a trainer passes beside the columns of the data set."""
    callables = {} if log is None else {"log_extra": log.extra, "log_metric": log.metric}
    prompts = columns.pop("prompts", ["6*7?"] * len(completions))
    rewards: list[float | None] = function(
        prompts=prompts, completions=completions, completion_ids=[[1]] * len(completions), trainer_state=None,
        **columns, **callables,
    )  # fmt: skip
    return rewards


TOO_LONG = f"<answer>{'1+' * 4000}1</answer>"


def test_right_wrong_and_unverifiable() -> None:
    log = Log()
    completions = [GOOD, "41", TOO_LONG, "no idea"]
    assert as_trainer(correctness_reward, completions, log, reference_answer=["42"] * 4) == [1.0, 0.0, None, 0.0]
    assert log.columns["verdict"] == ["correct", "incorrect", "unverifiable", "incorrect"]
    assert log.columns["verdict_reason"][2] == "too_long"
    assert log.columns["extraction_rule"] == ["answer_tag", "short", "answer_tag", "short"]
    assert log.columns["extracted_answer"][:2] == ["42", "41"]
    assert log.metrics == {"correctness/correct": 0.25, "correctness/unverifiable": 0.25}


@pytest.mark.parametrize("column", ["reference_answer", "answer", "solution"])
@pytest.mark.parametrize(
    "reference", ["42", 42, "6*7 = 42\n#### 42", "We see that $6*7=\\boxed{42}$.", "<answer>42</answer>"]
)
def test_references_in_any_column_and_as_worked_solutions(column: str, reference: object) -> None:
    assert as_trainer(correctness_reward, [GOOD, "41"], **{column: [reference] * 2}) == [1.0, 0.0]


def test_a_data_set_without_references_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="reference_answer, answer, solution.*actual: .*label"):
        as_trainer(correctness_reward, [GOOD], label=["42"])


def test_chat_completions() -> None:
    chat = [[{"role": "assistant", "content": GOOD}]]
    parts = [[{"role": "assistant", "content": [{"type": "text", "text": GOOD}]}]]
    tool_use = [
        [
            {"role": "assistant", "content": None},
            {"role": "tool", "content": "42"},
            {"role": "assistant", "content": GOOD},
        ]
    ]
    for completions in (chat, parts, tool_use):
        assert as_trainer(correctness_reward, completions, reference_answer=["42"]) == [1.0]
        assert as_trainer(format_reward, completions) == [1.0]
    assert as_trainer(correctness_reward, [[]], reference_answer=["42"]) == [0.0]


def test_a_prompt_that_opens_the_thinking() -> None:
    rest = GOOD.removeprefix("<think>")
    prompts = ["6*7? <think>\n", [{"role": "user", "content": "6*7?"}]]
    assert as_trainer(format_reward, [rest, rest], prompts=prompts) == [1.0, 0.0]
    unfinished = ["6*7 = 42"] * 2
    assert as_trainer(correctness_reward, unfinished, prompts=prompts, reference_answer=["42"] * 2) == [0.0, 1.0]
    with pytest.raises(InvalidOptionError, match="one prompt for each of 1 completions, actual: 2"):
        as_trainer(format_reward, [rest], prompts=prompts)


def test_format_says_what_is_wrong() -> None:
    log = Log()
    assert as_trainer(format_reward, [GOOD, "So: <answer>42</answer>"], log) == [1.0, 0.0]
    assert log.columns == {"format_problems": ["", "missing_think, text_before"]}
    assert log.metrics == {"format/met": 0.5}


@pytest.mark.parametrize("function", [correctness_reward, format_reward])
def test_they_travel_to_other_processes_under_their_names(function: Any) -> None:
    assert pickle.loads(pickle.dumps(function)) is function
    assert function.__name__ in ("correctness_reward", "format_reward")


@pytest.mark.parametrize("answer", [None, float("nan"), ["1", "2"], {"x": 1}, b"1", True])
def test_a_right_answer_that_is_none_is_an_error(answer: object) -> None:
    with pytest.raises(InvalidOptionError, match="str or a finite number"):
        correctness_reward(["None"], answer=[answer])


def test_a_right_answer_may_be_a_number() -> None:
    assert correctness_reward(["42", "0.5", "41"], answer=[42, 0.5, 42]) == [1.0, 1.0, 0.0]
