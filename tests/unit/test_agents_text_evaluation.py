"""Evaluating texts: which problems are posed, what is counted, and who has to wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch")

import llmgym  # noqa: F401
from llmgym.agents.evaluation import evaluate
from llmgym.agents.policies import Policy
from llmgym.agents.text_evaluation import evaluate_texts
from llmgym.errors import InvalidOptionError
from tests.unit.agent_fakes import echo_envs, tiny_llama

ENV = "llmgym/MathReason-v0"


def make(unit: str = "response", num_envs: int = 4, **options: Any) -> Any:
    options = {"autoreset_mode": "disabled", "reveal_reference_answer": True} | options
    return gym.make_vec(ENV, num_envs=num_envs, action_unit=unit, **options)


class Knowing:
    """Looks the answers up, and gives every n-th right; writes it in steps where asked to."""

    def __init__(self, envs: Any, right: Sequence[bool], pieces: Sequence[str]) -> None:
        self.envs, self.right, self.pieces = envs, list(right), pieces
        self.plans: dict[int, list[str]] = {}
        self.n_begun = 0

    def act(
        self,
        observations: Sequence[str],
        restarted: npt.NDArray[np.bool_] | None = None,
        waiting: npt.NDArray[np.bool_] | None = None,
    ) -> list[Any]:
        assert restarted is not None and waiting is not None
        texts: list[Any] = [None] * len(observations)
        for slot in np.flatnonzero(~waiting).tolist():
            if restarted[slot]:
                assert observations[slot] == self.envs.process.prompts[slot]
                answer = self.envs.process.problem(slot).reference_answer
                answer = answer if self.right[self.n_begun] else "wrong"
                self.plans[slot] = [piece.format(answer) for piece in self.pieces]
                self.n_begun += 1
            texts[slot] = self.plans[slot].pop(0)
        return texts


WHOLE = ["<think></think><answer>{}</answer>"]
STEPS = ["<think>1\n", "</think><answer>{}</answer><eos>"]


@pytest.mark.parametrize(("unit", "pieces"), [("response", WHOLE), ("step", STEPS)])
@pytest.mark.parametrize("num_envs", [1, 4, 9])
def test_every_response_to_every_problem_is_counted_once(unit: str, pieces: list[str], num_envs: int) -> None:
    envs = make(unit, num_envs)
    right = [True, False, True, True, False, False]
    policy = Knowing(envs, right, pieces)
    report = evaluate_texts(policy, envs, n_problems=3, samples=2, seed=7)
    assert policy.n_begun == 6
    assert (report.n_problems, report.samples, report.solved_if) == (3, 2, "correctness > 0")
    assert report.pass_at_1 == 0.5
    assert report.pass_at_k == {1: 0.5, 2: pytest.approx(2 / 3)}
    assert report.mean_return == 0.5
    assert report.reward_components == {"correctness": 0.5}
    assert report.stop_reasons == {"end_token": 1.0}
    assert report.unverifiable == 0.0
    tokens = [len(envs.tokenizer.encode_steps("".join(pieces).format(a), "\n")) for a in ("wrong",)]
    assert report.examples[2]["response_tokens"] == tokens[0] + (unit == "response")  # and the end token
    assert [example["solved"] for example in report.examples] == [True, True, False]


def test_the_problems_are_those_of_an_evaluation_by_tokens() -> None:
    envs = make(num_envs=3)
    texts = evaluate_texts(Knowing(envs, [False] * 10, WHOLE), envs, n_problems=5, samples=2, seed=3)
    tokens = evaluate(Policy.load("tiny-reasoner"), make("token", 4), n_problems=5, samples=2, seed=3)
    assert [e["prompt"] for e in texts.examples] == [e["prompt"] for e in tokens.examples]
    assert [e["prompt_tokens"] for e in texts.examples] == [e["prompt_tokens"] for e in tokens.examples]
    assert set(texts.examples[0]) == set(tokens.examples[0])


def test_without_the_part_a_return_of_one_is_success() -> None:
    envs = make(rewards={"format": 1.0})
    report = evaluate_texts(Knowing(envs, [False] * 4, WHOLE), envs, n_problems=4)
    assert report.solved_if == "return >= 1"
    assert report.pass_at_1 == report.reward_components["format"] == 1.0
    assert report.unverifiable is None


def test_a_budget_that_ran_out_is_a_reason() -> None:
    envs = make("step", max_new_tokens=4)
    report = evaluate_texts(Knowing(envs, [True] * 4, STEPS), envs, n_problems=4)
    assert report.stop_reasons == {"max_new_tokens": 1.0}
    assert report.mean_length == 4


@pytest.mark.parametrize(
    "envs",
    [
        lambda: make("token"),
        lambda: make("response", autoreset_mode="next_step"),
        lambda: echo_envs(2, gym.vector.AutoresetMode.NEXT_STEP),
        lambda: gym.make_vec(ENV, num_envs=2, vectorization_mode="sync", action_unit="response"),
    ],
)
def test_other_environments_are_refused(envs: Any) -> None:
    with pytest.raises(InvalidOptionError, match="native vector environment with step or response actions"):
        evaluate_texts(Policy(tiny_llama()), envs())  # type: ignore[arg-type]


@pytest.mark.parametrize("numbers", [{"n_problems": 0}, {"samples": 0}])
def test_numbers_have_to_be_some(numbers: dict[str, int]) -> None:
    with pytest.raises(InvalidOptionError, match="Expected .* >= 1"):
        evaluate_texts(Knowing(None, [], []), make(), **numbers)
