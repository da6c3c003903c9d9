"""The contract of a language environment, as checks that run against any of them.

Gymnasium's ``check_env`` asks whether an environment keeps the API. This kit asks on top whether it is a language
process as llmgym means it: tokens stay where they are written, rewards are the sum of their parts, states are values.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence

from llmgym.core import LanguageEnv
from llmgym.errors import InvalidActionError
from llmgym.transcript import Author, StopReason, split_steps

#: ``(observation, reward, terminated, truncated, info)`` of each step.
Trajectory = list[tuple[Any, float, bool, bool, dict[str, Any]]]


def check_language_env(env: gym.Env[Any, Any], *, seed: int = 0, n_episodes: int = 3) -> None:
    """Check a single environment against the contract; raises ``AssertionError`` where it is broken.

    Args:
        env: The environment to check, e.g. from ``gymnasium.make``. Wrappers of ours are welcome. It is left reset.
        seed: Seeds its problems and the random actions.
        n_episodes: Episodes that each check plays.

    Example:
        >>> from llmgym.core import LanguageEnv
        >>> from llmgym.testing import SumTask, tiny_tokenizer
        >>> check_language_env(LanguageEnv(SumTask(), tokenizer=tiny_tokenizer(), max_prompt_tokens=9))
    """
    assert isinstance(env.unwrapped, LanguageEnv), (
        f"Expected a LanguageEnv inside, actual: {type(env.unwrapped).__name__}."
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if env.spec is None:  # Gymnasium warns that it cannot make it again
            warnings.filterwarnings("ignore", message=".*not having a spec.*")
        check_env(env.unwrapped, skip_render_check=True)
    _check_episodes(env, seed, n_episodes)
    _check_seeding(env, seed, n_episodes)
    _check_nothing_is_shared(env, seed)
    _check_state_is_a_value(env, seed)
    _check_ends(env, seed)
    _check_secrecy(env, seed)
    _check_pickling(env, seed)
    if env.spec is not None:
        _check_spec(env)
        _check_units_agree(env, seed)
    env.reset(seed=seed)


def random_action(env: gym.Env[Any, Any], rng: np.random.Generator) -> Any:
    """An action that keeps an episode going most of the time: end tokens are as rare as any other."""
    unwrapped = env.unwrapped
    assert isinstance(unwrapped, LanguageEnv)
    if unwrapped.engine.options.action_unit == "token":
        return int(rng.integers(unwrapped.tokenizer.vocab_size))
    ids = rng.integers(unwrapped.tokenizer.vocab_size, size=int(rng.integers(1, 5))).tolist()
    return unwrapped.tokenizer.decode(ids) + unwrapped.engine.options.step_delimiter


def play(env: gym.Env[Any, Any], actions: Callable[[], Any], n_episodes: int = 1, reset: bool = True) -> Trajectory:
    """Play episodes to their end; the first goes on from where the environment is unless ``reset``."""
    trajectory: Trajectory = []
    for episode in range(n_episodes):
        if reset or episode:
            observation, info = env.reset()
            trajectory.append((observation, 0.0, False, False, info))
        ended = False
        while not ended:
            step = env.step(actions())
            trajectory.append((step[0], float(step[1]), step[2], step[3], step[4]))
            ended = step[2] or step[3]
    return trajectory


def _play_seeded(env: gym.Env[Any, Any], seed: int, n_episodes: int) -> Trajectory:
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    return play(env, lambda: random_action(env, rng), n_episodes)


def share_memory(left: Any, right: Any) -> bool:
    """Whether two pieces of nested data share a dict or an array, so that a change to one changes the other."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left is right or any(share_memory(left[key], right[key]) for key in left.keys() & right.keys())
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        if left.dtype == object and right.dtype == object:
            return left is right or any(share_memory(a, b) for a, b in zip(left.flat, right.flat, strict=False))
        return bool(np.shares_memory(left, right))
    return False


def _check_episodes(env: gym.Env[Any, Any], seed: int, n_episodes: int) -> None:
    """Spaces, flags, reward parts, and tokens that never move."""
    unwrapped = env.unwrapped
    assert isinstance(unwrapped, LanguageEnv)
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    for _ in range(n_episodes):
        before, _ = env.reset()
        ended = False
        while not ended:
            observation, reward, terminated, truncated, info = env.step(random_action(env, rng))
            assert observation in env.observation_space, "An observation is not in the observation space."
            assert not (terminated and truncated), "An episode is both terminated and truncated."
            ended = terminated or truncated
            parts = info["reward_components"]
            assert all(isinstance(part, float) for part in parts.values()), (
                f"A part of the reward is no float: {parts}."
            )
            assert np.isclose(float(reward), sum(parts.values()), rtol=1e-12, atol=1e-12), (
                f"Expected the reward to be the sum of its parts {parts}, actual: {reward}."
            )
            assert ("stop_reason" in info) == ended, 'Expected info["stop_reason"] at the end and only there.'
            if ended:
                assert StopReason(info["stop_reason"]).terminated == terminated, (
                    f"The stop reason {info['stop_reason']!r} does not go with terminated={terminated}."
                )
            _check_growth(before, observation, unwrapped)
            before = observation


def _check_growth(before: Any, after: Any, env: LanguageEnv) -> None:
    if isinstance(after, str):
        assert after == env.transcript.text, "Expected the observation to be the text of the transcript."
        return
    ids, mask = after["input_ids"], after["attention_mask"]
    n_before, n_after = int(before["attention_mask"].sum()), int(mask.sum())
    assert n_after > n_before, "Expected an action to append at least one token."
    assert mask[:n_after].all(), "Expected tokens without gaps, padded on the right."
    assert np.array_equal(ids[:n_before], before["input_ids"][:n_before]), "A token moved or changed."
    assert np.all(ids[n_after:] == env.tokenizer.pad_token_id), "Expected padding after the last token."
    author = env.process.author[0, n_before:n_after]
    assert author[0] == Author.AGENT, "Expected the action to be the first thing appended."


def _check_seeding(env: gym.Env[Any, Any], seed: int, n_episodes: int) -> None:
    first, second = _play_seeded(env, seed, n_episodes), _play_seeded(env, seed, n_episodes)
    assert data_equivalence(first, second, exact=True), "The same seed and actions led to different trajectories."


def _check_nothing_is_shared(env: gym.Env[Any, Any], seed: int) -> None:
    trajectory = _play_seeded(env, seed, 1)
    for i, (observation, *_, info) in enumerate(trajectory):
        for other, *_, other_info in trajectory[i + 1 :]:
            assert not share_memory(observation, other), "Two observations share memory."
            assert not share_memory(info, other_info), "Two infos share an object."


def _check_state_is_a_value(env: gym.Env[Any, Any], seed: int) -> None:
    """Fork, then the same actions: the same trajectory, in this episode and the next."""
    unwrapped = env.unwrapped
    assert isinstance(unwrapped, LanguageEnv)
    env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    env.step(random_action(env, rng))
    state = unwrapped.clone_state()
    assert pickle.loads(pickle.dumps(state)) == state, "A state did not survive pickling."
    branches = []
    if unwrapped.process.stopped(0) is None:
        for _ in range(2):
            unwrapped.restore_state(state)
            branch = np.random.default_rng(seed + 1)
            branches.append(play(env, lambda: random_action(env, branch), 2, reset=False))  # noqa: B023
        assert data_equivalence(branches[0], branches[1], exact=True), "A restored state led to another trajectory."
        unwrapped.restore_state(state)
    assert unwrapped.clone_state() == state, "A state changed by being restored."


def _check_ends(env: gym.Env[Any, Any], seed: int) -> None:
    _play_seeded(env, seed, 1)
    try:
        env.step(random_action(env, np.random.default_rng(seed)))
    except InvalidActionError:
        return
    raise AssertionError("Expected step() after the end of an episode to raise InvalidActionError; it did not.")


def _check_secrecy(env: gym.Env[Any, Any], seed: int) -> None:
    unwrapped = env.unwrapped
    assert isinstance(unwrapped, LanguageEnv)
    _, info = env.reset(seed=seed)
    revealed = unwrapped.engine.options.reveal_reference_answer
    assert ("reference_answer" in info) == revealed, "The info has the reference answer without being asked for it."


def _check_pickling(env: gym.Env[Any, Any], seed: int) -> None:
    env.reset(seed=seed)
    copy = pickle.loads(pickle.dumps(env))
    rngs = np.random.default_rng(seed), np.random.default_rng(seed)
    here = play(env, lambda: random_action(env, rngs[0]), 2, reset=False)
    there = play(copy, lambda: random_action(copy, rngs[1]), 2, reset=False)
    assert data_equivalence(here, there, exact=True), "A pickled environment plays on differently."


def _check_spec(env: gym.Env[Any, Any]) -> None:
    assert env.spec is not None
    text = env.spec.to_json()
    json.loads(text)
    again = gym.make(EnvSpec.from_json(text))
    assert again.observation_space == env.observation_space, "The spec makes an environment with other observations."
    assert again.action_space == env.action_space, "The spec makes an environment with other actions."
    assert str(again.spec) == str(env.spec), "The spec of an environment made from a spec is another one."
    again.close()


def _check_units_agree(env: gym.Env[Any, Any], seed: int) -> None:
    """The same text leads to the same state, flags and reward parts, whatever the unit of action."""
    assert env.spec is not None
    envs = {unit: gym.make(env.spec, action_unit=unit) for unit in ("token", "step", "response")}
    unwrapped = envs["token"].unwrapped
    assert isinstance(unwrapped, LanguageEnv)
    if getattr(unwrapped.task, "replies", False):
        return  # a response is one turn of several; what the turns are is the task's business
    tokenizer, options = unwrapped.tokenizer, unwrapped.engine.options
    rng = np.random.default_rng(seed)
    d = options.step_delimiter
    for text in (
        "",
        f"first{d}{d}second{d}",
        "no end",
        f"1{d}2{d}3",
        tokenizer.decode(rng.integers(tokenizer.vocab_size, size=4).tolist()),
    ):
        actions: dict[str, list[Any]] = {
            "token": [*tokenizer.encode_steps(text, d), tokenizer.end_token_id],
            "step": [*split_steps(text, d), tokenizer.end_token],
            "response": [text],
        }
        results = [_end_of(envs[unit], unit_actions, seed) for unit, unit_actions in actions.items()]
        assert results[0] == results[1] == results[2], (
            f"The text {text!r} ended differently in the three units: {results}."
        )


def _end_of(env: gym.Env[Any, Any], actions: list[Any], seed: int) -> Any:
    """State, flags and totals of the reward parts after a list of actions, or at the end if that comes first."""
    unwrapped = env.unwrapped
    assert isinstance(unwrapped, LanguageEnv)
    env.reset(seed=seed)
    totals: dict[str, float] = {}
    terminated = truncated = False
    for action in actions:
        _, _, terminated, truncated, info = env.step(action)
        for name, part in info["reward_components"].items():
            totals[name] = totals.get(name, 0.0) + part
        if terminated or truncated:
            break
    ids = unwrapped.process.ids[0].tolist()
    return ids, terminated, truncated, {name: round(total, 9) for name, total in totals.items()}
