"""The native vector environment as a Stable-Baselines3 ``VecEnv``.

What ``DummyVecEnv`` over as many single environments gives, at the price of one vector step: Python looks only at slots
whose episode ended. Not for text actions: no algorithm of Stable-Baselines3 takes them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from llmgym.errors import InvalidOptionError, WrongEnvironmentError, unknown_name
from llmgym.vector import LanguageVectorEnv

#: Attribute of a single environment -> the attribute of the vector environment that holds it for each slot.
_BY_SLOT = {
    "np_random": "np_random",
    "np_random_seed": "np_random_seed",
    "task": "tasks",
}
#: Attribute of a single environment -> the attribute of the vector environment that is the same for all slots.
_SHARED = {"observation_space": "single_observation_space", "action_space": "single_action_space"}
#: What a vector environment that resets in the same step tells of the episodes that ended.
_FINAL = ("final_obs", "final_info")
#: Methods of single environments that the vector environment has for all slots at once.
_METHODS = ("action_masks", "clone_state", "render", "restore_state")

Indices = int | Iterable[int] | None


class LanguageVecEnv(VecEnv):  # type: ignore[misc]  # Stable-Baselines3 is optional, and not followed
    """A vector environment of ours, for Stable-Baselines3.

    An episode that ends is reset in the same step. Its info then holds ``terminal_observation``,
    ``TimeLimit.truncated`` (True where a budget ended it, so that algorithms bootstrap; False where the agent did),
    what the environment's last ``step`` said (``stop_reason``, ``reward_components``, ...) and ``episode``. What
    ``reset`` said is in ``reset_infos``. All of it, and every number, is what ``DummyVecEnv`` would give over single
    environments with the same seeds; only the infos of slots that go on say no more than ``TimeLimit.truncated``,
    unless asked to.

    Args:
        envs: An id, or what ``gymnasium.make_vec`` made of one with ``autoreset_mode="same_step"``, wrapped or not.
        num_envs: Number of slots; with an id only.
        episode_statistics: Whether the info of an episode's end has ``episode``: its return ``r``, its length ``l`` and
            the seconds since the environment was made ``t``, as ``Monitor`` writes them.
        bootstraps_truncated: Whether ``TimeLimit.truncated`` is True where a budget ended the episode: algorithms then
            add the value of the state that it was cut at, as if it went on. Where False, a cut response is worth what
            it earned. That suits budgets that the observation tells of, as ``max_new_tokens`` is: no state behind it is
            ever played from, so its value is learned from nothing, and a policy can drift towards being cut.
        step_infos: Whether slots that go on say, too, what ``step`` said of them.
        options: Keyword arguments of the environment; with an id only.

    Raises:
        InvalidOptionError: If the environment has text actions or another autoreset mode.
        WrongEnvironmentError: If it is not one of ours.

    Example:
        >>> envs = LanguageVecEnv("llmgym/Copy-v0", 2)
        >>> _ = envs.seed(0)
        >>> envs.reset()["input_ids"].shape
        (2, 8)
        >>> observations, rewards, dones, infos = envs.step(np.array([1, 4]))  # the end token; a digit
        >>> dones.tolist(), infos[0]["stop_reason"], infos[0]["TimeLimit.truncated"]
        ([True, False], 'end_token', False)
    """

    def __init__(
        self,
        envs: str | VectorEnv[Any, Any, Any],
        num_envs: int | None = None,
        *,
        episode_statistics: bool = True,
        bootstraps_truncated: bool = True,
        step_infos: bool = False,
        **options: Any,
    ) -> None:
        self.envs = _make(envs, num_envs, options)
        self._language_envs = _checked(self.envs)
        self._episode_statistics = episode_statistics
        self._bootstraps_truncated = bootstraps_truncated
        self._step_infos = step_infos
        n = self.envs.num_envs
        self._returns = np.zeros(n)
        self._lengths = np.zeros(n, dtype=np.int64)
        self._start = time.time()
        self._actions: Any = None
        super().__init__(n, self.envs.single_observation_space, self.envs.single_action_space)

    # ------------------------------------------------------------------------------------------------ reset, step

    def reset(self) -> dict[str, npt.NDArray[Any]]:
        """Start an episode in each slot, with the seeds and options given since the last one."""
        seeds = None if all(seed is None for seed in self._seeds) else self._seeds
        observations: dict[str, npt.NDArray[Any]]
        observations, infos = self.envs.reset(seed=seeds, options=_join_options(self._options))
        self._reset_seeds()
        self._reset_options()
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self.reset_infos = split_infos(infos, range(self.num_envs))
        return observations

    def step_async(self, actions: npt.NDArray[np.integer[Any]]) -> None:
        """Keep the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(
        self,
    ) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.float32], npt.NDArray[np.bool_], list[dict[str, Any]]]:
        """Observations, ``(N,)`` float32 rewards, ``(N,)`` bool dones and an info for each slot."""
        observations, rewards, terminated, truncated, infos = self.envs.step(self._actions)
        dones = terminated | truncated
        self._returns += rewards
        self._lengths += 1
        told: list[dict[str, Any]]
        if self._step_infos:
            told = split_infos(infos, range(self.num_envs))
            for info in told:
                info["TimeLimit.truncated"] = False
        else:
            told = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        if np.count_nonzero(dones):
            cut = truncated & ~terminated if self._bootstraps_truncated else np.zeros_like(dones)
            self._end_episodes(np.flatnonzero(dones), cut, infos, told)
        return observations, rewards.astype(np.float32), dones, told

    def _end_episodes(
        self,
        ended: npt.NDArray[np.int64],
        cut: npt.NDArray[np.bool_],
        infos: dict[str, Any],
        told: list[dict[str, Any]],
    ) -> None:
        """Tell of the episodes that ended, and begin to count those that follow them."""
        slots = ended.tolist()
        finals = split_infos(infos["final_info"], slots)
        starts = split_infos({key: infos[key] for key in infos if key.lstrip("_") not in _FINAL}, slots)
        returns, lengths = self._returns[ended].tolist(), self._lengths[ended].tolist()
        seconds = round(time.time() - self._start, 6)
        observations, was_cut = infos["final_obs"][ended].tolist(), cut[ended].tolist()
        for i, slot in enumerate(slots):
            info = finals[i]
            info["terminal_observation"] = observations[i]
            info["TimeLimit.truncated"] = was_cut[i]
            if self._episode_statistics:
                info["episode"] = {"r": round(returns[i], 6), "l": lengths[i], "t": seconds}
            told[slot] = info
            self.reset_infos[slot] = starts[i]
        self._returns[ended] = 0.0
        self._lengths[ended] = 0

    def close(self) -> None:
        """Close the vector environment."""
        self.envs.close()

    # ------------------------------------------------------------------------------------------------ slots

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute of some slots, as single environments have it.

        Raises:
            AttributeError: If neither they nor the vector environment have it.
        """
        slots = self._slots(indices)
        if attr_name in _BY_SLOT:
            values = getattr(self._language_envs, _BY_SLOT[attr_name])
            return [values[slot] for slot in slots]
        if attr_name == "transcript":
            return self._language_envs.transcripts(slots)
        name = _SHARED.get(attr_name, attr_name)
        owner = next((layer for layer in _layers(self.envs) if hasattr(layer, name)), self._language_envs)
        return [getattr(owner, name)] * len(slots)

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute of the vector environment, which all slots share.

        Raises:
            InvalidOptionError: If some slots only are named.
        """
        if sorted(self._slots(indices)) != list(range(self.num_envs)):
            raise InvalidOptionError(
                f"Expected an attribute to be set for all {self.num_envs} slots (they share one environment), actual: "
                f"indices={indices!r}. Leave `indices` out."
            )
        setattr(self._language_envs, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """What a method of single environments gives for some slots.

        Args:
            method_name: ``"action_masks"``, ``"clone_state"``, ``"restore_state"`` (the same state into each slot) or
                ``"render"``.
            method_args: Its arguments.
            indices: The slots; ``None``: all.
            method_kwargs: Its keyword arguments.

        Raises:
            InvalidOptionError: If the slots have no such method of their own.
        """
        slots = self._slots(indices)
        envs = self._language_envs
        if method_name == "action_masks":
            return list(envs.action_masks(*method_args, **method_kwargs)[slots])
        if method_name == "clone_state":
            return list(envs.clone_state(slots, *method_args, **method_kwargs))
        if method_name == "restore_state":
            (state,) = method_args or method_kwargs.values()
            envs.restore_state([state] * len(slots), slots)
            return [None] * len(slots)
        if method_name == "render":
            frames = envs.render(*method_args, **method_kwargs)
            return [None if frames is None else frames[slot] for slot in slots]
        raise unknown_name("a method of single slots", method_name, _METHODS)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Indices = None
    ) -> list[bool]:
        """Whether a wrapper is around each slot. ``Monitor`` is, in effect, where episodes have their statistics."""
        if issubclass(wrapper_class, Monitor):
            wrapped = self._episode_statistics
        else:
            wrapped = any(isinstance(layer, wrapper_class) for layer in _layers(self.envs))
        return [wrapped] * len(self._slots(indices))

    def get_images(self) -> Sequence[npt.NDArray[np.uint8] | None]:
        """An image of each slot; made with ``render_mode="rgb_array"``."""
        return self.env_method("render")

    def _slots(self, indices: Indices) -> list[int]:
        return list(self._get_indices(indices))


def split_infos(infos: Mapping[str, Any], slots: Sequence[int]) -> list[dict[str, Any]]:
    """The infos of a vector environment as single environments give them, for some slots.

    Args:
        infos: Key -> ``(N,)`` array or a dict of such, with a mask of the slots that have it under ``_key``.
        slots: Which ones.

    Returns:
        One dict of plain values for each of ``slots``.

    Example:
        >>> infos = {"n": np.array([3, 0]), "_n": np.array([True, False])}
        >>> split_infos(infos, [0, 1])
        [{'n': 3}, {}]
    """
    index = np.asarray(slots, dtype=np.int64)
    split: list[dict[str, Any]] = [{} for _ in slots]
    for key, values in infos.items():
        mask = infos.get(f"_{key}")
        if mask is None:
            continue  # a mask itself
        of_slots = split_infos(values, slots) if isinstance(values, Mapping) else values[index].tolist()
        for info, value, present in zip(split, of_slots, mask[index].tolist(), strict=True):
            if present:
                info[key] = value
    return split


def _make(
    envs: str | VectorEnv[Any, Any, Any], num_envs: int | None, options: dict[str, Any]
) -> VectorEnv[Any, Any, Any]:
    if isinstance(envs, str):
        options = {"autoreset_mode": "same_step"} | options
        return gym.make_vec(envs, num_envs=num_envs or 1, vectorization_mode="vector_entry_point", **options)
    if options or num_envs is not None:
        raise InvalidOptionError(
            f"Expected an id with `num_envs` and keyword arguments, actual: {envs!r} with "
            f"{options | {'num_envs': num_envs}}. Give them to gymnasium.make_vec."
        )
    return envs


def _layers(envs: VectorEnv[Any, Any, Any]) -> list[VectorEnv[Any, Any, Any]]:
    """The environment from its outermost wrapper down."""
    layers = [envs]
    while isinstance(layers[-1], VectorWrapper):
        layers.append(layers[-1].env)
    return layers


def _checked(envs: VectorEnv[Any, Any, Any]) -> LanguageVectorEnv:
    core = envs.unwrapped
    if not isinstance(core, LanguageVectorEnv):
        raise WrongEnvironmentError(
            f"Expected a vector environment of llmgym, actual: {core!r}. Make it with "
            'gymnasium.make_vec("llmgym/...", vectorization_mode="vector_entry_point").'
        )
    if core.autoreset_mode != AutoresetMode.SAME_STEP:
        raise InvalidOptionError(
            'Expected autoreset_mode="same_step" (Stable-Baselines3 asks for it), actual: '
            f"{core.autoreset_mode.name.lower()!r}. Pass it to gymnasium.make_vec."
        )
    if not isinstance(envs.single_action_space, spaces.Discrete):
        raise InvalidOptionError(
            'Expected action_unit="token" (Stable-Baselines3 knows no text actions), actual actions: '
            f"{envs.single_action_space}. Act in tokens."
        )
    return core


def _join_options(options: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The reset options of each slot as those of the vector environment."""
    joined: dict[str, Any] = {}
    for name in sorted({name for own in options for name in own}):
        values = [own.get(name) for own in options]
        if name == "problem":
            joined[name] = values
        elif name == "group_size" and all(value == values[0] for value in values):
            joined[name] = values[0]
        else:
            raise InvalidOptionError(
                'Expected reset options "problem" (one for each slot) and "group_size" (the same for all), actual: '
                f"{name!r} with {values}. Reset the vector environment itself for others."
            )
    return joined
