"""The adapter gives what DummyVecEnv gives over single environments with the same seeds."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import llmgym  # noqa: F401  (registers the ids)
from llmgym.errors import InvalidOptionError, WrongEnvironmentError
from llmgym.sb3 import LanguageVecEnv
from llmgym.wrappers import vector as vector_wrappers

COPY = "llmgym/Copy-v0"
END, FIRST_DIGIT = 1, 4
#: Environments, and tokens that make episodes end in both ways.
PLAYED = {
    "copy": (COPY, {}, [END, 4, 5, 6, 7]),
    "recall": ("llmgym/Recall-v0", {"n_pairs": 2}, list(range(11))),
    "reasoning": (
        "llmgym/MathReason-v0",
        {"max_new_tokens": 6, "rewards": {"correctness": 1.0, "format": 0.1}},
        [END, 9, 20, 30],
    ),
}


def make_dummy(env_id: str, num_envs: int, **options: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(gym.make(env_id, **options))] * num_envs)


def without_time(infos: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = [dict(info) for info in infos]
    for info in kept:
        if "episode" in info:
            info["episode"] = {key: value for key, value in info["episode"].items() if key != "t"}
    return kept


def assert_same(a: Any, b: Any) -> None:
    """Equal values of equal types, arrays included."""
    assert type(a) is type(b), (a, b)
    if isinstance(a, dict):
        assert sorted(a) == sorted(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


@pytest.mark.parametrize("played", PLAYED)
def test_every_step_is_that_of_dummy_vec_env(played: str) -> None:
    env_id, options, tokens = PLAYED[played]
    ours = LanguageVecEnv(env_id, 5, step_infos=True, **options)
    dummy = make_dummy(env_id, 5, **options)
    assert (ours.observation_space, ours.action_space) == (dummy.observation_space, dummy.action_space)
    assert ours.seed(3) == dummy.seed(3)
    assert_same(dict(dummy.reset()), ours.reset())
    assert_same(dummy.reset_infos, ours.reset_infos)
    rng = np.random.default_rng(0)
    ends = {True: 0, False: 0}
    for _ in range(60):
        actions = rng.choice(tokens, size=5)
        theirs, own = dummy.step(actions), ours.step(actions)
        assert_same(dict(theirs[0]), own[0])
        for expected, actual in zip(theirs[1:3], own[1:3], strict=True):
            assert_same(expected, actual)
        assert_same(without_time(theirs[3]), without_time(own[3]))
        assert_same(dummy.reset_infos, ours.reset_infos)
        for info in own[3]:
            if "terminal_observation" in info:
                ends[info["TimeLimit.truncated"]] += 1
    assert min(ends.values()) > 0, "both ways to end have to be seen"


def test_slots_that_go_on_say_little_unless_asked() -> None:
    envs = LanguageVecEnv(COPY, 2)
    envs.seed(0)
    envs.reset()
    infos = envs.step(np.array([END, FIRST_DIGIT]))[3]
    assert infos[1] == {"TimeLimit.truncated": False}
    assert infos[0]["stop_reason"] == "end_token"
    assert infos[0]["episode"]["l"] == 1


def test_a_budget_truncates_and_the_end_token_does_not() -> None:
    envs = LanguageVecEnv(COPY, 2)
    envs.seed(0)
    envs.reset()
    for _ in range(3):
        envs.step(np.array([FIRST_DIGIT, FIRST_DIGIT]))
    _, _, dones, infos = envs.step(np.array([END, FIRST_DIGIT]))
    assert dones.tolist() == [True, True]
    assert [info["TimeLimit.truncated"] for info in infos] == [False, True]
    assert [info["terminal_observation"]["input_ids"][-1] for info in infos] == [END, FIRST_DIGIT]
    assert [info["stop_reason"] for info in infos] == ["end_token", "max_new_tokens"]


def test_a_cut_response_need_not_be_bootstrapped() -> None:
    envs = LanguageVecEnv(COPY, 1, bootstraps_truncated=False)
    envs.reset()
    for _ in range(4):
        _, _, dones, infos = envs.step(np.array([FIRST_DIGIT]))
    assert dones[0]
    assert infos[0]["TimeLimit.truncated"] is False
    assert infos[0]["stop_reason"] == "max_new_tokens"


@pytest.mark.parametrize("bootstraps", [True, False])
def test_ppo_adds_the_value_of_a_cut_state_only_where_told(bootstraps: bool) -> None:
    """The rewards that the algorithm learns from: the environment's, and at a budget's end gamma times a value."""
    envs = LanguageVecEnv(COPY, 4, bootstraps_truncated=bootstraps, rewards={})
    agent = PPO("MultiInputPolicy", envs, n_steps=8, batch_size=32, seed=0, n_epochs=1)
    agent.learn(32)
    assert bool(agent.rollout_buffer.rewards.any()) == bootstraps


def test_what_was_handed_out_is_not_written_to_again() -> None:
    envs = LanguageVecEnv(COPY, 3)
    first = envs.reset()
    kept = {key: value.copy() for key, value in first.items()}
    _, rewards, dones, infos = envs.step(np.array([END, FIRST_DIGIT, FIRST_DIGIT]))
    final = infos[0]["terminal_observation"]["input_ids"].copy()
    envs.step(np.array([FIRST_DIGIT] * 3))
    assert_same(first, kept)
    np.testing.assert_array_equal(infos[0]["terminal_observation"]["input_ids"], final)
    assert dones.tolist() == [True, False, False]
    assert rewards.dtype == np.float32


def test_statistics_can_be_left_out() -> None:
    envs = LanguageVecEnv(COPY, 1, episode_statistics=False)
    envs.reset()
    info = envs.step(np.array([END]))[3][0]
    assert "episode" not in info
    assert envs.env_is_wrapped(Monitor) == [False]
    assert LanguageVecEnv(COPY, 2).env_is_wrapped(Monitor) == [True, True]


def test_attributes_and_methods_of_slots() -> None:
    envs = LanguageVecEnv(COPY, 3, grammar=r"(\d ){3}")
    envs.seed(0)
    envs.reset()
    assert envs.get_attr("transcript", [1])[0].prompt == envs.envs.transcripts()[1].prompt
    assert [space.n for space in envs.get_attr("action_space")] == [8, 8, 8]
    assert envs.get_attr("np_random_seed") == [0, 1, 2]
    assert envs.has_attr("action_masks")
    assert not envs.has_attr("no_such_thing")
    masks = envs.env_method("action_masks", indices=[0, 2])
    assert [mask.shape for mask in masks] == [(8,), (8,)]
    (state,) = envs.env_method("clone_state", indices=2)
    assert envs.env_method("restore_state", state, indices=[0]) == [None]
    prompts = [transcript.prompt for transcript in envs.get_attr("transcript")]
    assert prompts[0] == prompts[2] != prompts[1]
    envs.set_attr("note", "of all")
    assert envs.get_attr("note") == ["of all"] * 3
    with pytest.raises(InvalidOptionError, match="all 3 slots"):
        envs.set_attr("note", "of one", indices=[0])
    with pytest.raises(InvalidOptionError, match="a method of single slots among: action_masks"):
        envs.env_method("action_mask")


def test_seeds_and_options_hold_for_one_reset() -> None:
    envs = LanguageVecEnv(COPY, 2)
    problem = {"question": "1 1 1", "answer": "1 1 1"}
    envs.set_options([{"problem": problem}, {}])
    envs.seed(5)
    envs.reset()
    first = [transcript.prompt for transcript in envs.get_attr("transcript")]
    assert first[0] == "1 1 1 ="
    envs.reset()
    assert envs.get_attr("transcript")[0].prompt != "1 1 1 ="
    envs.set_options({"group_size": 2})
    envs.seed(5)
    envs.reset()
    grouped = [transcript.prompt for transcript in envs.get_attr("transcript")]
    assert grouped[0] == grouped[1]
    envs.set_options({"reset_mask": [True, False]})
    with pytest.raises(InvalidOptionError, match="reset options"):
        envs.reset()


def test_wrapped_environments_keep_their_wrappers() -> None:
    inner = gym.make_vec(
        COPY, num_envs=2, vectorization_mode="vector_entry_point", autoreset_mode="same_step", rewards={}
    )
    envs = LanguageVecEnv(vector_wrappers.LengthReward(inner, weight=1.0, target_tokens=1))
    assert envs.env_is_wrapped(vector_wrappers.LengthReward) == [True, True]
    envs.reset()
    _, rewards, _, infos = envs.step(np.array([END, FIRST_DIGIT]))
    assert rewards[0] != 0.0
    assert "length" in infos[0]["reward_components"]
    assert infos[0]["episode"]["r"] == pytest.approx(float(rewards[0]), abs=1e-6)


def test_images_of_all_slots() -> None:
    pytest.importorskip("PIL")
    envs = LanguageVecEnv(COPY, 2, render_mode="rgb_array")
    envs.reset()
    frames = envs.get_images()
    assert len(frames) == 2
    image = envs.render()
    assert image is not None
    assert image.ndim == 3


def test_stable_baselines_takes_it() -> None:
    """Its wrapper for statistics, its check of spaces, and its evaluation, without a warning."""
    envs = LanguageVecEnv(COPY, 4)
    agent = PPO("MultiInputPolicy", envs, n_steps=4, batch_size=16, seed=0)
    check_for_correct_spaces(envs, agent.observation_space, agent.action_space)
    agent.set_env(VecMonitor(LanguageVecEnv(COPY, 4, episode_statistics=False)))
    agent.learn(64)
    returns, lengths = evaluate_policy(agent, envs, n_eval_episodes=10, return_episode_rewards=True)
    assert len(returns) == len(lengths) == 10
    assert all(1 <= length <= 4 for length in lengths)


def test_what_cannot_be_adapted_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="same_step"):
        LanguageVecEnv(gym.make_vec(COPY, num_envs=2, vectorization_mode="vector_entry_point"))
    with pytest.raises(InvalidOptionError, match="same_step"):
        LanguageVecEnv(COPY, 2, autoreset_mode="disabled")
    with pytest.raises(InvalidOptionError, match='action_unit="token"'):
        LanguageVecEnv(COPY, 2, action_unit="response")
    with pytest.raises(WrongEnvironmentError, match="make_vec"):
        LanguageVecEnv(gym.make_vec(COPY, num_envs=2, vectorization_mode="sync"))
    with pytest.raises(InvalidOptionError, match="num_envs"):
        LanguageVecEnv(gym.make_vec(COPY, num_envs=2, vectorization_mode="vector_entry_point"), 2)


@pytest.mark.parametrize("code", ["import llmgym.sb3", "from llmgym.sb3 import LanguageVecEnv"])
def test_without_the_package_the_import_says_what_to_install(code: str) -> None:
    absent = "import sys; sys.modules['stable_baselines3'] = None; import llmgym, llmgym.envs.copy; "
    run = subprocess.run([sys.executable, "-c", absent + code], capture_output=True, text=True)
    assert run.returncode != 0
    assert "MissingExtraError: Expected the package `stable_baselines3`" in run.stderr
    assert 'pip install "llmgym-rl[sb3]"' in run.stderr
