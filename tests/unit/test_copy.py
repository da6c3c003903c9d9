"""The smallest environment, worked by hand."""

from typing import Any

import gymnasium as gym
import pytest

import llmgym  # noqa: F401 - registers the ids
from llmgym.envs.copy import CopyTask
from llmgym.errors import InvalidOptionError


def play(response: str, question: str = "2 0 1", **options: Any) -> tuple[list[float], dict[str, Any]]:
    """Rewards and last info of a response written token by token."""
    env = gym.make("llmgym/Copy-v0", **options)
    env.reset(options={"problem": {"question": question, "answer": question}})
    rewards, info = [], {}
    for token in env.unwrapped.tokenizer.encode(response):
        _, reward, terminated, truncated, info = env.step(token)
        rewards.append(float(reward))
        if terminated or truncated:
            break
    return rewards, info


@pytest.mark.parametrize(
    ("response", "rewards", "stop_reason"),
    [
        ("2 0 1 <eos>", [1, 1, 1, 0], "end_token"),
        ("2 1 1 <eos>", [1, 0, 1, 0], "end_token"),
        ("2 0 <eos>", [1, 1, 0], "end_token"),
        ("<eos>", [0], "end_token"),
        ("2 0 1 1 ", [1, 1, 1, 0], "max_new_tokens"),  # a digit too many earns nothing and uses up the budget
        ("=2 0 1 ", [0, 0, 1, 1], "max_new_tokens"),  # what stands before a digit spoils that digit
    ],
)
def test_each_right_digit_is_paid_where_it_is_written(response: str, rewards: list[float], stop_reason: str) -> None:
    paid, info = play(response)
    assert paid == [reward / 3 for reward in rewards]
    assert info["stop_reason"] == stop_reason


def test_the_whole_response_earns_the_same() -> None:
    env = gym.make("llmgym/Copy-v0", action_unit="response")
    env.reset(options={"problem": {"question": "2 0 1", "answer": "2 0 1"}})
    assert env.step("2 0 1 ")[1] == pytest.approx(1.0)


def test_splits_are_disjoint_and_complete() -> None:
    tasks = {split: CopyTask(split=split) for split in ("train", "test", "all")}
    ids = {split: {problem.problem_id for problem in task._problems} for split, task in tasks.items()}
    assert not ids["train"] & ids["test"]
    assert ids["train"] | ids["test"] == ids["all"]
    assert len(ids["all"]) == 4**3
    assert len(ids["test"]) >= 4


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"n_digits": 0}, r"`n_digits` in \[1, 5\], actual: 0"),
        ({"n_symbols": 11}, r"`n_symbols` in \[2, 10\], actual: 11"),
        ({"split": "dev"}, r"`split` among.*'dev'"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidOptionError, match=complaint):
        gym.make("llmgym/Copy-v0", **options)
