"""``info["n_reasoning_steps"]``: how many reasoning steps the agent has closed, in every info."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmgym.core import LanguageEnv
from llmgym.testing import ToolTask, tiny_tokenizer
from llmgym.vector import WAIT, LanguageVectorEnv

TOKENIZER = tiny_tokenizer()
NEWLINE, LETTER, END = TOKENIZER.encode("\n")[0], TOKENIZER.encode("z")[0], TOKENIZER.end_token_id
OPTIONS: dict[str, Any] = {"tokenizer": TOKENIZER, "max_prompt_tokens": 24, "max_new_tokens": 20}


def counts(env: LanguageEnv, actions: list[Any]) -> list[int]:
    _, info = env.reset(seed=0)
    said = [info["n_reasoning_steps"], *(env.step(action)[4]["n_reasoning_steps"] for action in actions)]
    assert all(type(count) is int for count in said)
    return said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ab\nc\n", [0, 0, 1, 2]),  # "ab" and "c\n" are one token each
        ("\n\nz", [0, 2, 2]),  # one token closes two
        ("z<eos>", [0, 0, 0]),  # what the end leaves open is not counted
        ("zcalc<eos>\n<eos>", [0, 0, 0, 0, 0, 0, 0, 1, 1]),  # nor is what the environment writes
    ],
)
def test_tokens(text: str, expected: list[int]) -> None:
    assert counts(LanguageEnv(ToolTask(), **OPTIONS), TOKENIZER.encode(text)) == expected


def test_texts() -> None:
    assert counts(LanguageEnv(ToolTask(), action_unit="step", **OPTIONS), ["a\n", "b\nc\n", "d<eos>"]) == [0, 1, 3, 3]
    assert counts(LanguageEnv(ToolTask(), action_unit="response", **OPTIONS), ["a\nb"]) == [0, 1]
    budget = LanguageEnv(ToolTask(), action_unit="response", max_steps=2, **OPTIONS)
    assert counts(budget, ["a\nb\nc\nd"]) == [0, 2]


def test_other_delimiters() -> None:
    env = LanguageEnv(ToolTask(), step_delimiter="zz", **OPTIONS)
    assert counts(env, [LETTER] * 5) == [0, 0, 1, 1, 2, 2]


def test_a_restored_state_goes_on_counting() -> None:
    env = LanguageEnv(ToolTask(), **OPTIONS)
    counts(env, [NEWLINE] * 3)
    state = env.clone_state()
    env.reset(seed=1)
    env.restore_state(state)
    assert env.step(NEWLINE)[4]["n_reasoning_steps"] == 4


def said(infos: dict[str, Any]) -> tuple[list[int], list[bool]]:
    assert infos["n_reasoning_steps"].dtype == np.int64
    return infos["n_reasoning_steps"].tolist(), infos["_n_reasoning_steps"].tolist()


def test_slots_that_wait_say_nothing() -> None:
    envs = LanguageVectorEnv(ToolTask(), 3, autoreset_mode="disabled", **OPTIONS)
    assert said(envs.reset(seed=0)[1]) == ([0, 0, 0], [True] * 3)
    assert said(envs.step(np.array([NEWLINE, LETTER, NEWLINE]))[4]) == ([1, 0, 1], [True] * 3)
    assert said(envs.step(np.array([END, NEWLINE, NEWLINE]))[4]) == ([1, 1, 2], [True] * 3)
    assert said(envs.step(np.array([WAIT, NEWLINE, NEWLINE]))[4]) == ([0, 2, 3], [False, True, True])
    reset = envs.reset(options={"reset_mask": np.array([True, False, False])})[1]
    assert said(reset) == ([0, 0, 0], [True, False, False])
    assert said(envs.step(np.array([NEWLINE, LETTER, LETTER]))[4]) == ([1, 2, 3], [True] * 3)


def test_an_episode_that_is_reset_in_the_same_step_reports_apart() -> None:
    envs = LanguageVectorEnv(ToolTask(), 2, autoreset_mode="same_step", **OPTIONS)
    envs.reset(seed=0)
    envs.step(np.array([NEWLINE, NEWLINE]))
    infos = envs.step(np.array([END, NEWLINE]))[4]
    assert said(infos) == ([0, 2], [True, True])
    assert said(infos["final_info"]) == ([1, 0], [True, False])


def test_what_was_handed_out_is_not_written_to_again() -> None:
    envs = LanguageVectorEnv(ToolTask(), 2, **OPTIONS)
    _, infos = envs.reset(seed=0)
    handed_out = [infos]
    for _ in range(3):
        handed_out.append(envs.step(np.array([NEWLINE, NEWLINE]))[4])
    assert [said(infos)[0] for infos in handed_out] == [[0, 0], [1, 1], [2, 2], [3, 3]]
    handed_out[-1]["n_reasoning_steps"][:] = 7  # nor does the environment read it
    handed_out[-1]["_n_reasoning_steps"][:] = False
    assert said(envs.step(np.array([NEWLINE, NEWLINE]))[4]) == ([4, 4], [True, True])
