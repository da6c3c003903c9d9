"""The reward wrappers of :mod:`llmgym.wrappers.reward` for the native vector environment, under the same names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from llmgym import rewards
from llmgym.rewards.stack import Details, weighted
from llmgym.vector import add_details
from llmgym.wrappers.reward import add_part, prepare

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class TranscriptReward(gym.vector.VectorWrapper[Any, Any, Any, Any, Any]):
    """Vector twin of :class:`llmgym.wrappers.reward.TranscriptReward`: same arguments, same rewards, in all slots.

    Parts go to ``infos["reward_components"]``; with same-step autoreset, those of a slot that ended go to
    ``infos["final_info"]["reward_components"]``, as Gymnasium does with the rest of its info.
    """

    reward_class: ClassVar[type[rewards.Reward]]

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any], weight: float = 1.0, **arguments: Any) -> None:
        self.scorer, self.weight = prepare(self, env, "transitions", weight, arguments)
        super().__init__(env)

    def step(self, actions: Any) -> tuple[Any, Floats, Bools, Bools, dict[str, Any]]:
        """Step, and pay what the transitions have earned."""
        observations, rewards_, terminated, truncated, infos = self.env.step(actions)
        unwrapped: Any = self.unwrapped
        transitions = unwrapped.transitions
        judged = self.scorer.settle([transition for _, transition in transitions])
        slots = [slot for slot, _ in transitions]
        parts = {slot: weighted(judgement.score, self.weight) for slot, judgement in zip(slots, judged, strict=True)}

        infos = dict(infos)
        rewards_ = np.array(rewards_, dtype=np.float64)
        running = _mask(infos, "_reward_components", self.num_envs)
        for slot, part in parts.items():
            holder = infos if running[slot] else infos["final_info"]
            rewards_[slot] = add_part(float(rewards_[slot]), _of_slot(holder["reward_components"], slot), part)
        if running.any():
            infos["reward_components"] = self._with_part(infos["reward_components"], running, parts)
        final_info = infos.get("final_info", {})
        ended = _mask(final_info, "_reward_components", self.num_envs)
        if ended.any():
            components = self._with_part(final_info["reward_components"], ended, parts)
            infos["final_info"] = {**final_info, "reward_components": components}
        said = {slot: {self.scorer.name: judgement.details} for slot, judgement in zip(slots, judged, strict=True)}
        told = {slot: details for slot, details in said.items() if details[self.scorer.name]}
        infos = self._with_details(infos, {slot: details for slot, details in told.items() if running[slot]})
        if late := {slot: details for slot, details in told.items() if not running[slot]}:
            infos["final_info"] = self._with_details(infos["final_info"], late)
        return observations, rewards_, terminated, truncated, infos

    def _with_part(self, components: dict[str, Any], mask: Bools, parts: dict[int, float]) -> dict[str, Any]:
        """Components with the array of this one, and its mask, in the form that Gymnasium gives infos."""
        name = self.scorer.name
        values = np.zeros(self.num_envs, dtype=np.float64)
        for slot, part in parts.items():
            if mask[slot]:
                values[slot] = part
        return {**components, name: values, f"_{name}": mask.copy()}

    def _with_details(self, infos: dict[str, Any], details: Mapping[int, Details]) -> dict[str, Any]:
        """Infos with what this reward has to say; those of the environment inside stay as they were handed out."""
        if not details:
            return infos
        infos = dict(infos)
        if "reward_details" in infos:
            infos["reward_details"] = dict(infos["reward_details"])
            infos["_reward_details"] = infos["_reward_details"].copy()
        add_details(infos, details, self.num_envs)
        return infos


def _mask(infos: dict[str, Any], key: str, num_envs: int) -> Bools:
    mask: Bools | None = infos.get(key)
    return np.zeros(num_envs, dtype=np.bool_) if mask is None else mask


def _of_slot(components: dict[str, Any], slot: int) -> dict[str, float]:
    return {name: float(values[slot]) for name, values in components.items() if not name.startswith("_")}


class CorrectnessReward(TranscriptReward):
    """Vector twin of :class:`llmgym.wrappers.reward.CorrectnessReward`."""

    reward_class = rewards.CorrectnessReward


class FormatReward(TranscriptReward):
    """Vector twin of :class:`llmgym.wrappers.reward.FormatReward`."""

    reward_class = rewards.FormatReward


class ProcessReward(TranscriptReward):
    """Vector twin of :class:`llmgym.wrappers.reward.ProcessReward`."""

    reward_class = rewards.ProcessReward


class LengthReward(TranscriptReward):
    """Vector twin of :class:`llmgym.wrappers.reward.LengthReward`."""

    reward_class = rewards.LengthReward


class LanguageReward(TranscriptReward):
    """Vector twin of :class:`llmgym.wrappers.reward.LanguageReward`."""

    reward_class = rewards.LanguageReward
