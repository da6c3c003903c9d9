"""Rewards judged in worker processes: the same as here, in order, with errors that say what happened."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from llmgym.core import LanguageEnv
from llmgym.errors import InvalidOptionError, LLMGymError
from llmgym.rewards import REWARDS, JudgedReward, Judgement, Reward, RewardStack
from llmgym.rewards.workers import RewardWorkers
from llmgym.tasks import Problem
from llmgym.testing import SumTask, tiny_tokenizer
from llmgym.transcript import Author, Transcript, Transition
from llmgym.vector import LanguageVectorEnv

STACK = {"correctness": 1.0, "format": {"weight": 0.1, "mode": "soft"}, "process": 0.3, "length": -0.01}


class OddError(Exception):
    """One that cannot be unpickled: it is rebuilt from one argument, and needs two."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} because {why}")


class Obedient(JudgedReward):
    """Does what the response says, and tells which process it was."""

    name = "obedient"

    def judge(self, transcript: Transcript) -> Judgement:
        order, _, argument = transcript.response.partition(" ")
        if order == "raise":
            raise KeyError(argument)
        if order == "odd":
            raise OddError("it failed", argument)
        if order == "exit":
            os._exit(3)
        if order == "sleep":
            time.sleep(float(argument))
        return Judgement(float(len(transcript.response)), {"pid": os.getpid()})


class Unsendable(Reward):
    """Holds what cannot be pickled."""

    name = "unsendable"

    def __init__(self) -> None:
        self.function = lambda text: 1.0

    def score(self, transcript: Transcript) -> float:
        return self.function(transcript.response)


def ended(response: str, accepts: Any = None) -> Transition:
    problem = Problem("6*7?", "42", "p", accepts=accepts)
    return Transition(Transcript(problem, "6*7?", ((Author.AGENT, response),), 3), 0, 1, ended=True)


@pytest.fixture(scope="module")
def workers() -> Iterator[RewardWorkers]:
    made = RewardWorkers([Obedient()], 2)
    yield made
    made.close()


def scores(workers: RewardWorkers, *responses: str) -> list[float]:
    (judged,) = workers.settle([ended(response) for response in responses])
    return [judgement.score for judgement in judged]


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_an_environment_gives_the_same_with_workers(mode: str) -> None:
    options: dict[str, Any] = {"tokenizer": tiny_tokenizer(), "max_prompt_tokens": 8, "max_new_tokens": 9}
    options |= {"rewards": STACK, "autoreset_mode": mode}
    here = LanguageVectorEnv(SumTask(), 7, **options)
    there = LanguageVectorEnv(SumTask(), 7, reward_workers=2, **options)
    few_ids = tiny_tokenizer().encode("<think>1+1=2\n</think><answer>2</answer>") + [tiny_tokenizer().end_token_id]
    rng = np.random.default_rng(0)
    assert_same(here.reset(seed=3), there.reset(seed=3))
    paid = 0.0
    for _ in range(30):
        actions = rng.choice(few_ids, size=7)
        step = here.step(actions)
        assert_same(step, there.step(actions))
        paid += float(np.abs(step[1]).sum())
    there.close()
    assert paid > 0


def assert_same(one: Any, other: Any) -> None:
    assert repr(one) == repr(other)  # the arrays are small enough to be written out


def test_judgements_come_back_in_order_whichever_is_done_first(workers: RewardWorkers) -> None:
    responses = ["sleep 0.3", *("x" * n for n in range(20))]
    assert scores(workers, *responses) == [float(len(response)) for response in responses]
    assert scores(workers, "x") == [1.0]
    assert workers.settle([]) == [[]]
    (judged,) = workers.settle([ended("x")])
    assert judged[0].details["pid"] != os.getpid()


@pytest.mark.parametrize("n_workers", [1, 3])
def test_the_number_of_workers_changes_nothing(n_workers: int) -> None:
    transitions = [ended(f"<think>1+1=2\n</think><answer>{n}</answer>") for n in range(40, 45)]
    stack = RewardStack(STACK, workers=n_workers)
    assert stack.pay_batch(transitions) == RewardStack(STACK).pay_batch(transitions)
    stack.close()


def test_an_error_arrives_with_its_message_and_its_traceback(workers: RewardWorkers) -> None:
    with pytest.raises(KeyError, match="'no such thing'") as caught:
        scores(workers, "x", "raise no such thing", "y")
    assert "in judge" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match="OddError: it failed because of that"):
        scores(workers, "odd of that")
    assert scores(workers, "go on") == [5.0]


def test_a_worker_that_ends_says_so_and_the_next_batch_has_new_ones(workers: RewardWorkers) -> None:
    with pytest.raises(LLMGymError, match="Expected reward workers that stay alive, actual: one ended"):
        scores(workers, "exit now")
    assert scores(workers, "go on") == [5.0]


def test_what_cannot_be_pickled_is_refused(workers: RewardWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REWARDS, "unsendable", Unsendable)
    with pytest.raises(InvalidOptionError, match=r"the reward 'unsendable' to be something that can be pickled"):
        LanguageEnv(SumTask(), tokenizer=tiny_tokenizer(), rewards={"unsendable": 1.0}, reward_workers=1)
    LanguageEnv(SumTask(), tokenizer=tiny_tokenizer(), rewards={"unsendable": 1.0})
    with pytest.raises(InvalidOptionError, match="Expected the problem of each transition to be something that can be"):
        workers.settle([ended("x", accepts=lambda answer: True)])


@pytest.mark.parametrize("number", [-1, True, 1.5])
def test_bad_numbers_of_workers(number: Any) -> None:
    with pytest.raises(InvalidOptionError, match=r"Expected `reward_workers` to be an int >= 0, actual: "):
        LanguageEnv(SumTask(), tokenizer=tiny_tokenizer(), reward_workers=number)


def test_closing_an_environment_ends_its_workers_and_a_copy_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REWARDS, "obedient", Obedient)
    env = LanguageEnv(
        SumTask(), action_unit="response", tokenizer=tiny_tokenizer(), rewards={"obedient": 1.0}, reward_workers=1
    )
    env.reset(seed=0)
    *_, info = env.step("x")
    pid = info["reward_details"]["obedient"]["pid"]
    for copied in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        copied.reset()
        *_, info = copied.step("x")
        assert info["reward_details"]["obedient"]["pid"] not in (pid, os.getpid())
        copied.close()
    os.kill(pid, 0)
    env.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_daemonic_process_is_told_that_it_cannot_have_workers() -> None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=judge_in_a_daemon, args=(sender,), daemon=True)
    process.start()
    assert receiver.poll(60)
    assert "Expected reward_workers=0 in a daemonic process" in receiver.recv()
    process.join()


def judge_in_a_daemon(sender: Any) -> None:
    """Tell what judging with workers raises here."""
    try:
        RewardWorkers([Obedient()], 1).settle([ended("x")])
    except InvalidOptionError as error:
        sender.send(str(error))
