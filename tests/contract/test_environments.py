"""Every registered id against the contract: Gymnasium's checks, SB3's, ours, and what their manuals must hold."""

import inspect
import json
import warnings
from importlib import import_module
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import llmgym
from llmgym.registration import ENVIRONMENTS
from llmgym.testing import SumTask, ToolTask, check_language_env, tiny_tokenizer

UNITS = ("token", "step", "response")
HEADINGS = (
    "Description", "Action Space", "Observation Space", "Starting State", "Rewards", "Episode End", "Information",
    "Arguments", "Version History",
)  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_gymnasiums_checks(env_id: str, unit: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(env_id, action_unit=unit).unwrapped)


def test_stable_baselines_checks(env_id: str) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(gym.make(env_id), skip_render_check=True)


@pytest.mark.parametrize("unit", UNITS)
def test_our_contract(env_id: str, unit: str) -> None:
    check_language_env(gym.make(env_id, action_unit=unit))


@pytest.mark.parametrize("task", [SumTask(), ToolTask()])
@pytest.mark.parametrize("unit", UNITS)
def test_our_contract_without_an_id(task: Any, unit: str) -> None:
    env = llmgym.LanguageEnv(task, action_unit=unit, tokenizer=tiny_tokenizer(), max_prompt_tokens=8, max_new_tokens=9)
    check_language_env(env, n_episodes=5)


def test_the_spec_is_json_and_makes_the_same_environment(env_id: str) -> None:
    options: dict[str, Any] = {
        "action_unit": "step",
        "rewards": {"correctness": 1.0, "format": {"weight": 0.1, "mode": "soft"}},
        "stop_strings": ["</answer>"],
        "max_steps": 4,
    }
    spec = gym.make(env_id, **options).spec
    assert spec is not None
    again = EnvSpec.from_json(spec.to_json())
    assert json.loads(again.to_json()) == json.loads(spec.to_json())
    assert gym.make(again).unwrapped.engine.options == gym.make(env_id, **options).unwrapped.engine.options
    envs = gym.make_vec(env_id, num_envs=2, autoreset_mode="same_step", **options)
    copy = gym.make_vec(EnvSpec.from_json(envs.spec.to_json()))
    assert copy.num_envs == 2
    assert copy.metadata["autoreset_mode"] is gym.vector.AutoresetMode.SAME_STEP
    assert copy.engine.options == envs.engine.options


def test_single_and_vector_entry_points_take_the_same_keywords(any_id: str) -> None:
    single, vector = (_load(path) for path in ENVIRONMENTS[any_id])
    own = {"autoreset_mode", "num_envs", "self", "render_mode"}
    names = [set(inspect.signature(entry.__init__).parameters) - own for entry in (single, vector)]
    assert names[0] == names[1]


def test_the_manual_has_gymnasiums_headings(any_id: str) -> None:
    manual = inspect.getdoc(_load(ENVIRONMENTS[any_id][0]))
    assert manual is not None
    positions = [manual.find(f"## {heading}\n") for heading in HEADINGS]
    assert -1 not in positions, f"missing: {[h for h, at in zip(HEADINGS, positions, strict=True) if at < 0]}"
    assert positions == sorted(positions)


def test_neighbouring_seeds_and_slots_are_single_environments(env_id: str) -> None:
    envs = gym.make_vec(env_id, num_envs=4)
    _, infos = envs.reset(seed=10)
    alone = [gym.make(env_id).reset(seed=10 + i)[1]["problem_id"] for i in range(4)]
    assert infos["problem_id"].tolist() == alone


def test_gymnasiums_own_vector_environments_take_it(env_id: str) -> None:
    sync = gym.make_vec(env_id, 2, vectorization_mode="sync")
    assert isinstance(sync, SyncVectorEnv)
    assert sync.reset(seed=0)[0] in sync.observation_space
    asynchronous = gym.make_vec(env_id, 2, vectorization_mode="async")
    try:
        assert isinstance(asynchronous, AsyncVectorEnv)
        observations, infos = asynchronous.reset(seed=0)
        assert infos["problem_id"].tolist() == sync.reset(seed=0)[1]["problem_id"].tolist()
        assert observations in asynchronous.observation_space
    finally:
        asynchronous.close()


def test_the_kit_finds_faults() -> None:
    """A kit that passes everything would be worth nothing."""

    class Forgetful(llmgym.LanguageEnv):
        def restore_state(self, state: Any) -> None:
            rng = self._np_random
            super().restore_state(state)
            self._np_random = rng

    class Generous(llmgym.LanguageEnv):
        def step(self, action: Any) -> Any:
            observation, reward, *rest = super().step(action)
            return observation, reward + 0.5, *rest

    class Sharing(llmgym.LanguageEnv):
        def step(self, action: Any) -> Any:
            observation, *rest = super().step(action)
            self.kept = getattr(self, "kept", observation["attention_mask"])
            self.kept[:] = observation["attention_mask"]
            return observation | {"attention_mask": self.kept}, *rest

    options: dict[str, Any] = {"tokenizer": tiny_tokenizer(), "max_prompt_tokens": 8, "max_new_tokens": 9}
    for faulty in (Forgetful, Generous, Sharing):
        with pytest.raises(AssertionError):
            check_language_env(faulty(SumTask(), **options))


def _load(entry_point: str) -> Any:
    module, _, name = entry_point.partition(":")
    return getattr(import_module(module), name)
