"""Reward wrappers, single and vector: the same rewards as the keyword, exactly, in any order."""

from __future__ import annotations

import itertools
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import llmgym
from llmgym import wrappers
from llmgym.core import LanguageEnv
from llmgym.errors import InvalidOptionError, LLMGymError, WrongEnvironmentError
from llmgym.rewards import Reward
from llmgym.tasks import Problem
from llmgym.transcript import Transcript
from llmgym.vector import LanguageVectorEnv
from llmgym.wrappers import vector as twins

OPTIONS: dict[str, Any] = {"tokenizer": "tiny-reasoner", "max_prompt_tokens": 64, "max_new_tokens": 48}

#: Weights that do not add up exactly, so that a sum in another order would show.
STACK: dict[str, dict[str, Any]] = {
    "correctness": {"weight": 0.7},
    "process": {"weight": 0.1, "scorer_args": {"neutral": 0.3}},
    "format": {"weight": 0.2, "mode": "soft"},
    "length": {"weight": 0.3, "target_tokens": 8, "tolerance": 41},
    "language": {"weight": -0.1, "language": "en"},
}
CLASSES = {
    "correctness": "CorrectnessReward",
    "process": "ProcessReward",
    "format": "FormatReward",
    "length": "LengthReward",
    "language": "LanguageReward",
}
RESPONSES = (
    "<think>6*7=42\n</think><answer>42</answer>",
    "6*7=42\n40+2=42\n42",
    "6*7=41\nand\nso 算 41",
    "<answer>42",
    "so we go on and on without an end, and on, and on",
    "",
)


class SixTimesSeven:
    """Two problems, one drawn at a time."""

    replies = False

    def sample(self, rng: np.random.Generator) -> Problem:
        return [Problem("6*7?", "42", "a"), Problem("6*7-1?", "41", "b")][int(rng.integers(2))]

    def reply(self, problem: Problem, transcript: Transcript) -> str | None:
        return None


def single(rewards: dict[str, Any], **options: Any) -> LanguageEnv:
    return LanguageEnv(SixTimesSeven(), rewards=rewards, **(OPTIONS | options))


def wrap(env: Any, names: Any, module: Any = wrappers) -> Any:
    for name in names:
        env = getattr(module, CLASSES[name])(env, **STACK[name])
    return env


def token_streams(n_slots: int, n_steps: int) -> np.ndarray:
    """``(n_steps, n_slots)`` ids: the responses in different orders, each with the end token."""
    tokenizer = llmgym.load_tokenizer("tiny-reasoner")
    rows = []
    for slot in range(n_slots):
        ids: list[int] = []
        for i in itertools.count(slot):
            if len(ids) >= n_steps:
                break
            ids += [*tokenizer.encode(RESPONSES[i % len(RESPONSES)]), tokenizer.end_token_id]
        rows.append(ids[:n_steps])
    return np.array(rows).T


def play(env: Any, response: str) -> list[tuple[float, dict[str, float]]]:
    env.reset(seed=1, options={"problem": Problem("6*7?", "42", "a")})
    paid = []
    for token in [*env.unwrapped.tokenizer.encode(response), env.unwrapped.tokenizer.end_token_id]:
        _, reward, terminated, truncated, info = env.step(token)
        paid.append((reward, info["reward_components"]))
        if terminated or truncated:
            break
    return paid


@pytest.mark.parametrize("response", RESPONSES)
def test_any_order_and_any_share_of_keyword_and_wrappers_pay_the_same(response: str) -> None:
    expected = play(single(STACK), response)
    assert all(reward == math.fsum(parts.values()) for reward, parts in expected)
    orders = list(itertools.permutations(STACK))
    for order in orders[:: len(orders) // 6]:
        for n_keywords in (0, 2):
            env = wrap(single({name: STACK[name] for name in order[:n_keywords]}), order[n_keywords:])
            assert play(env, response) == expected


def test_parts_are_paid_where_they_are_earned() -> None:
    env = wrappers.CorrectnessReward(wrappers.ProcessReward(single({}), weight=0.5), weight=2)
    paid = play(env, "6*7=42\n40+2=42\n42")
    texts = itertools.accumulate(
        env.unwrapped.tokenizer.decode([i]) for i in env.unwrapped.tokenizer.encode("6*7=42\n40+2=42\n42")
    )
    earned = {text: reward for text, (reward, _) in zip([*texts, "end"], paid, strict=True) if reward}
    assert earned == {"6*7=42\n": 0.5, "6*7=42\n40+2=42\n": 0.5, "end": 2.0}
    assert paid[-1][1] == {"process": 0.0, "correctness": 2.0}


@pytest.mark.parametrize("unit", ["token", "step", "response"])
def test_every_action_unit_pays_the_same_in_all(unit: str) -> None:
    response = "6*7=42\n40+2=42\n42"
    env = wrap(single({}, action_unit=unit), STACK)
    env.reset(seed=0, options={"problem": Problem("6*7?", "42", "a")})
    tokenizer = env.unwrapped.tokenizer
    actions = {
        "token": [*tokenizer.encode_steps(response, "\n"), tokenizer.end_token_id],
        "step": ["6*7=42\n", "40+2=42\n", "42" + tokenizer.end_token],
        "response": [response],
    }[unit]
    totals = dict.fromkeys(STACK, 0.0)
    for action in actions:
        *_, info = env.step(action)
        for name, part in info["reward_components"].items():
            totals[name] += part
    n_tokens = len(tokenizer.encode_steps(response, "\n")) + 1
    assert totals == pytest.approx(
        {"correctness": 0.7, "process": 0.1 * 1.0 + 0.1 * 1.0 + 0.1 * 0.3, "format": 0.0, "length": 0.3 * (49 - n_tokens) / 41,
         "language": -0.1}
    )  # fmt: skip


def test_spec_rebuilds_the_stack_through_json() -> None:
    env = wrap(gym.make("llmgym/Copy-v0", rewards={"correctness": 0.7}), ["format", "length", "process", "language"])
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    again = gym.make(spec)
    assert str(again) == str(env)
    assert again.spec == env.spec
    for copy in (env, again):
        copy.reset(seed=3)
    for action in (4, 5, 6):
        (obs, *rest), (obs_again, *rest_again) = env.step(action), again.step(action)
        assert rest == rest_again
        assert np.array_equal(obs["input_ids"], obs_again["input_ids"])


DETAILS = {
    "correctness": {"verdict": "correct", "reason": "same_text", "rule": "answer_tag"},
    "format": {"problems": ("text_after",)},
}


def last_info(env: Any, response: str) -> dict[str, Any]:
    env.reset(seed=1, options={"problem": Problem("6*7?", "42", "a")})
    for token in env.unwrapped.tokenizer.encode(response):
        assert "reward_details" not in env.step(token)[4], "details are told at the end only"
    return env.step(env.unwrapped.tokenizer.end_token_id)[4]


def test_details_are_those_of_the_keyword_in_any_order_of_wrappers() -> None:
    response = "<think>6*7</think><answer>42</answer> so"
    for names in itertools.permutations(["correctness", "format", "length"]):
        for n_keywords in (0, 1, 3):
            env = wrap(single({name: STACK[name] for name in names[:n_keywords]}), names[n_keywords:])
            assert last_info(env, response)["reward_details"] == DETAILS
    assert "reward_details" not in last_info(single({"length": STACK["length"]}), response)


class HalfReward(gym.RewardWrapper[Any, Any]):
    def reward(self, reward: Any) -> float:
        return reward / 2


def test_other_wrappers_may_stand_between() -> None:
    env = wrappers.FormatReward(HalfReward(gym.wrappers.TimeLimit(single({"correctness": 1.0}), 100)), weight=0.1)
    response = "<think></think><answer>42</answer>"
    reward, parts = play(env, response)[-1]
    assert parts == {"correctness": 1.0, "format": 0.1}
    assert reward == 0.5 + 0.1
    # A limit of another wrapper ends no episode of the process: nothing is paid for an unfinished response.
    cut = gym.wrappers.TimeLimit(wrappers.LengthReward(single({})), 3)
    assert [reward for reward, _ in play(cut, response)] == [0.0, 0.0, 0.0]


def test_an_automatic_reset_in_between_pays_nothing() -> None:
    env = wrappers.FormatReward(gym.wrappers.Autoreset(single({})))
    env.reset(seed=0)
    end = env.unwrapped.tokenizer.end_token_id
    assert env.step(end)[2]
    _, reward, terminated, _, info = env.step(end)
    assert (reward, terminated, "problem_id" in info) == (0.0, False, True)
    assert env.step(end)[4]["reward_components"] == {"format": 0.0}


class ShoutedReward(Reward):
    """Share of upper-case letters."""

    name = "shouted"

    def score(self, transcript: Transcript) -> float:
        letters = [character for character in transcript.response if character.isalpha()]
        return sum(character.isupper() for character in letters) / len(letters) if letters else 0.0


class Shouted(wrappers.TranscriptReward):
    reward_class = ShoutedReward


def test_a_reward_of_ones_own() -> None:
    assert play(Shouted(single({}), weight=4), "So")[-1] == (2.0, {"shouted": 2.0})


@pytest.mark.parametrize(
    "make",
    [
        lambda: wrappers.FormatReward(single({"format": 1.0})),
        lambda: wrappers.FormatReward(gym.wrappers.TimeLimit(wrappers.FormatReward(single({})), 5)),
        lambda: twins.FormatReward(LanguageVectorEnv(SixTimesSeven(), 2, rewards={"format": 1.0}, **OPTIONS)),
        lambda: twins.FormatReward(twins.FormatReward(LanguageVectorEnv(SixTimesSeven(), 2, rewards={}, **OPTIONS))),
    ],
)
def test_a_component_exists_once(make: Any) -> None:
    with pytest.raises(
        InvalidOptionError, match=r"Expected one component named 'format', actual: .* FormatReward has it"
    ):
        make()


def test_wrong_environments_are_refused() -> None:
    with pytest.raises(
        WrongEnvironmentError, match=r"Expected FormatReward to wrap an environment of llmgym.*actual: CartPole"
    ):
        wrappers.FormatReward(gym.make("CartPole-v1"))
    sync = SyncVectorEnv([lambda: single({})])
    with pytest.raises(WrongEnvironmentError, match=r"actual: SyncVectorEnv.*Wrap each single environment"):
        twins.FormatReward(sync)
    native = LanguageVectorEnv(SixTimesSeven(), 2, rewards={}, **OPTIONS)
    with pytest.raises(
        WrongEnvironmentError, match=r"actual: LanguageVectorEnv.*llmgym\.wrappers\.vector\.FormatReward"
    ):
        wrappers.FormatReward(native)
    with pytest.raises(WrongEnvironmentError, match=r"actual: LanguageEnv.*use llmgym\.wrappers\.FormatReward"):
        twins.FormatReward(single({}))
    assert issubclass(WrongEnvironmentError, LLMGymError)
    assert issubclass(WrongEnvironmentError, TypeError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mod": "soft"}, "actual: 'mod'"),
        ({"weight": math.inf}, "finite number, actual: inf"),
        ({"mode": "loose"}, "actual: 'loose'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        wrappers.FormatReward(single({}), **arguments)


# --- Vector environments ----------------------------------------------------------------------------------------------


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, types and masks included."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        return all(map(same, a, b)) if a.dtype == object else bool(np.array_equal(a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("n_keywords", [0, 2])
def test_keyword_wrappers_and_vector_twins_agree(mode: AutoresetMode, n_keywords: int) -> None:
    n_slots, n_steps = 6, 160
    names = tuple(STACK)
    inner = {name: STACK[name] for name in names[:n_keywords]}
    envs = [
        LanguageVectorEnv(SixTimesSeven(), n_slots, autoreset_mode=mode, rewards=STACK, **OPTIONS),
        SyncVectorEnv([lambda: wrap(single(inner), names[n_keywords:])] * n_slots, autoreset_mode=mode),
        wrap(
            LanguageVectorEnv(SixTimesSeven(), n_slots, autoreset_mode=mode, rewards=inner, **OPTIONS),
            names[n_keywords:],
            twins,
        ),
    ]
    for env in envs:
        env.reset(seed=5)
    n_paid = n_ended = 0
    for actions in token_streams(n_slots, n_steps):
        outcomes = [env.step(actions) for env in envs]
        for outcome in outcomes[1:]:
            for mine, other in zip(outcomes[0], outcome, strict=True):
                assert same(mine, other)
        n_paid += int((outcomes[0][1] != 0).sum())
        n_ended += int((outcomes[0][2] | outcomes[0][3]).sum())
    assert n_ended > 10
    assert n_paid > n_ended  # steps were paid too


def test_disabled_autoreset_with_twins() -> None:
    n_slots = 4
    keyword = LanguageVectorEnv(SixTimesSeven(), n_slots, autoreset_mode="disabled", rewards=STACK, **OPTIONS)
    bare = LanguageVectorEnv(SixTimesSeven(), n_slots, autoreset_mode="disabled", rewards={}, **OPTIONS)
    envs = [keyword, wrap(bare, reversed(STACK), twins)]
    for env in envs:
        env.reset(seed=5)
    over = np.zeros(n_slots, dtype=bool)
    total = 0.0
    for actions in token_streams(n_slots, 160):
        a, b = (env.step(np.where(over, llmgym.WAIT, actions)) for env in envs)
        assert all(map(same, a, b))
        assert not a[1][over].any()
        total += np.abs(a[1]).sum()
        over = a[2] | a[3]
        if over.all():
            for env in envs:
                env.reset(options={"reset_mask": over})
            over = np.zeros(n_slots, dtype=bool)
    assert total > 1.0


class HalfVectorReward(gym.vector.VectorRewardWrapper[Any, Any, Any]):
    given: Any = None

    def rewards(self, rewards: Any) -> Any:
        self.given = rewards / 2
        return self.given


def test_a_vector_wrapper_between_keeps_its_say() -> None:
    inner = LanguageVectorEnv(SixTimesSeven(), 2, rewards={"length": 1.0}, **OPTIONS)
    env = twins.FormatReward(HalfVectorReward(inner), weight=0.1, mode="soft")
    env.reset(seed=0)
    tokens = [*env.unwrapped.tokenizer.encode("</think>"), env.unwrapped.tokenizer.end_token_id]
    for token in tokens:
        _, rewards, terminated, _, infos = env.step(np.array([token, token]))
    assert terminated.all()
    assert rewards.tolist() == [0.5 + 0.1 / 4] * 2
    assert env.env.given.tolist() == [0.5, 0.5]
    assert infos["reward_components"]["length"].tolist() == [1.0, 1.0]


def test_nothing_handed_out_is_written_to_again() -> None:
    env = wrap(LanguageVectorEnv(SixTimesSeven(), 3, autoreset_mode="same_step", rewards={}, **OPTIONS), STACK, twins)
    env.reset(seed=0)
    kept = []
    for actions in token_streams(3, 60):
        outcome = env.step(actions)
        kept.append((outcome, [part.copy() for part in outcome[1:4]], repr(outcome[4])))
    for outcome, parts, info in kept:
        assert all(map(same, outcome[1:4], parts))
        assert repr(outcome[4]) == info
