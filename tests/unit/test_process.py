"""The rules of the process, on episodes short enough to work out by hand."""

from typing import Any

import numpy as np
import pytest

from llmgym.core import LanguageEnv
from llmgym.tasks import Problem
from llmgym.testing import ToolTask, tiny_tokenizer
from llmgym.transcript import Author, StopReason

TOKENIZER = tiny_tokenizer()
EOS = TOKENIZER.end_token_id


def make(**options: Any) -> LanguageEnv:
    env = LanguageEnv(ToolTask(), tokenizer=TOKENIZER, **({"rewards": {}} | options))
    env.reset(options={"problem": Problem("2+3=?", "5", "p")})
    return env


def write(env: LanguageEnv, text: str, eos: bool = False) -> dict[str, Any]:
    """Write a text token by token; returns the last info."""
    info: dict[str, Any] = {}
    for token in TOKENIZER.encode(text) + [EOS] * eos:
        *_, terminated, truncated, info = env.step(token)
        if terminated or truncated:
            break
    return info


@pytest.mark.parametrize(
    ("options", "text", "eos", "reason", "n_new_tokens"),
    [
        ({}, "5", True, "end_token", 2),
        ({"stop_strings": ["xy"]}, "5xyz", False, "stop_string", 3),
        ({"stop_strings": ["a"]}, "ab", False, "stop_string", 1),  # inside a longer token, which is kept whole
        ({"stop_strings": ["你"]}, "5你", False, "stop_string", 4),  # a character of three tokens
        ({"stop_strings": ["1a"]}, "1ab", False, "stop_string", 2),  # ends inside a token
        ({"max_steps": 2}, "a\nb\nc", False, "max_steps", 4),
        ({"max_steps": 2}, "a\n\nb", False, "max_steps", 2),  # one token closes both
        ({"max_steps": 1, "step_delimiter": "ba"}, "abab", False, "max_steps", 2),  # a delimiter across two tokens
        ({"max_new_tokens": 3}, "1345", False, "max_new_tokens", 3),
        # What the agent writes comes before the budgets; among the budgets, steps before tokens.
        ({"max_new_tokens": 1}, "", True, "end_token", 1),
        ({"max_new_tokens": 1, "stop_strings": ["5"]}, "5", False, "stop_string", 1),
        ({"max_new_tokens": 1, "max_steps": 1}, "\n", False, "max_steps", 1),
    ],
)
def test_endings(options: dict[str, Any], text: str, eos: bool, reason: str, n_new_tokens: int) -> None:
    env = make(**options)
    assert write(env, text, eos)["stop_reason"] == reason
    assert env.process.n_new_tokens.tolist() == [n_new_tokens]
    assert env.transcript.n_new_tokens == n_new_tokens
    assert env.transcript.stop_reason is StopReason(reason)


def test_the_prompts_text_ends_nothing() -> None:
    """A delimiter or a stop string in the prompt is not the agent's."""
    env = LanguageEnv(
        ToolTask(), tokenizer=TOKENIZER, prompt_template="a\nSTOP\n{question}\n", stop_strings=["STOP"], max_steps=1
    )
    env.reset(seed=0)
    *_, terminated, truncated, _ = env.step(TOKENIZER.encode("x")[0])
    assert not terminated
    assert not truncated


def test_a_reply_is_part_of_the_state_and_the_episode_goes_on() -> None:
    env = make(max_new_tokens=20)
    info = write(env, "calc", eos=True)
    assert "stop_reason" not in info
    assert env.transcript.segments == ((Author.AGENT, "calc"), (Author.ENVIRONMENT, "[5]\n"))
    assert env.transcript.response == "calc"
    assert env.transcript.text == "2+3=?\ncalc[5]\n"
    assert env.process.n_steps.tolist() == [0]  # the line end in the reply closes no step of the agent's
    observation, *_, info = env.step(TOKENIZER.encode("5")[0])
    ids = observation["input_ids"][: observation["attention_mask"].sum()].tolist()
    assert TOKENIZER.decode(ids) == "2+3=?\ncalc<eos>[5]\n5"
    authors = env.process.author[0, : len(ids)].tolist()
    assert authors == [1] * 6 + [2] * 5 + [3] * 4 + [2]
    assert env.transcript.n_new_tokens == 6
    assert write(env, "", eos=True)["stop_reason"] == "end_token"


def test_a_stop_string_hands_over_once() -> None:
    """After the reply, only what the agent writes in the new turn can complete a stop string."""
    env = make(stop_strings=["calc"])
    write(env, "calc")
    assert env.transcript.segments[-1][0] is Author.ENVIRONMENT
    assert "stop_reason" not in write(env, "cal")
    assert env.transcript.response == "calccal"
    info = write(env, "c")
    assert "stop_reason" not in info
    assert [author for author, _ in env.transcript.segments] == [2, 3, 2, 3]


def test_a_last_reply_finishes_the_task() -> None:
    env = make()
    assert write(env, "bye", eos=True)["stop_reason"] == "task_over"
    assert StopReason.TASK_OVER.terminated
    assert env.transcript.segments[-1] == (Author.ENVIRONMENT, "see you")


def test_a_reply_that_does_not_fit_is_not_written() -> None:
    env = make()
    assert write(env, "flood", eos=True)["stop_reason"] == "context_full"
    assert env.transcript.segments == ((Author.AGENT, "flood"),)


def test_a_reply_that_leaves_no_room_truncates() -> None:
    env = make(max_prompt_tokens=6, max_new_tokens=9)
    assert write(env, "calc", eos=True).get("stop_reason") == "context_full"  # 6 + 5 + 4 = 15, the width
    assert env.transcript.segments[-1] == (Author.ENVIRONMENT, "[5]\n")


def test_a_reply_after_the_last_token_truncates() -> None:
    env = make(max_new_tokens=5)
    assert write(env, "calc", eos=True)["stop_reason"] == "max_new_tokens"
    assert env.transcript.segments[-1][0] is Author.ENVIRONMENT


@pytest.mark.parametrize("unit", ["step", "response"])
def test_text_after_the_end_is_reported_and_not_written(unit: str) -> None:
    env = make(action_unit=unit, stop_strings=["STOP"])
    observation, _, terminated, _, info = env.step("5STOP and more")
    assert terminated
    assert observation == "2+3=?\n5STOP"
    assert info["unused_text"] == " and more"


def test_a_literal_end_token_ends_a_text_action() -> None:
    env = make(action_unit="step")
    observation, _, terminated, _, info = env.step("5<eos>6")
    assert (observation, terminated, info["unused_text"]) == ("2+3=?\n5", True, "6")


def test_a_response_is_closed_by_an_end_token() -> None:
    env = make(action_unit="response")
    *_, info = env.step("5")
    assert info["stop_reason"] == "end_token"
    assert "unused_text" not in info
    assert env.process.ids[0, :8].tolist() == TOKENIZER.encode("2+3=?\n5<eos>")


def test_a_response_is_one_turn_where_the_environment_answers() -> None:
    env = make(action_unit="response")
    observation, _, terminated, truncated, _ = env.step("calc")
    assert (observation, terminated, truncated) == ("2+3=?\ncalc[5]\n", False, False)
    observation, _, terminated, _, _ = env.step("5")
    assert (observation, terminated) == ("2+3=?\ncalc[5]\n5", True)


def test_a_step_action_may_close_several_steps_or_none() -> None:
    env = make(action_unit="step")
    env.step("a\nb\nc")
    assert (env.last_transition.first_step, env.last_transition.last_step) == (0, 2)
    env.step("d")
    assert (env.last_transition.first_step, env.last_transition.last_step) == (2, 2)
    env.step("e<eos>")  # the end closes the step that is open
    assert (env.last_transition.first_step, env.last_transition.last_step) == (2, 3)
    assert env.transcript.reasoning_steps == ("a\n", "b\n", "cde")
    assert env.last_transition.ended


def test_steps_are_counted_alike_by_table_and_by_text() -> None:
    """A delimiter of one byte is counted without decoding; the count must be that of the text."""
    rng = np.random.default_rng(0)
    few = TOKENIZER.encode("abc\n\n\n12") + TOKENIZER.encode("c\n")
    for delimiter in ("\n", "\n\n", "b", "c\n"):
        env = make(step_delimiter=delimiter, max_new_tokens=60)
        for token in rng.choice(few, size=60).tolist():
            env.step(token)
            assert env.process.n_steps[0] == env.transcript.response.count(delimiter)


def test_the_trace_joins_to_the_text_and_holds_back_broken_characters() -> None:
    env = LanguageEnv(ToolTask(), tokenizer=TOKENIZER, render_mode="ansi", rewards={"correctness": 1.0})
    env.reset(options={"problem": {"question": "2+3=?", "answer": "5"}})
    for token in TOKENIZER.encode("你<answer>5</answer>") + [EOS]:
        env.step(token)
    trace = env.token_trace
    assert "".join(item.text for item in trace) == "2+3=?\n你<answer>5</answer><eos>"
    assert [item.text for item in trace[6:9]] == ["", "", "你"]
    assert [item.author for item in trace] == [Author.PROMPT] * 6 + [Author.AGENT] * 7
    assert [item.reward for item in trace] == [0.0] * 12 + [1.0]
