"""Rewards as wrappers of a single environment: one base, one small class per reward.

Each adds ``weight * score`` to the reward and writes it to ``info["reward_components"]``, and what it has to say beside
its number to ``info["reward_details"]`` at the end of an episode. The reward is the exactly
rounded sum of the components, so the order of the wrappers changes nothing, and nor does the choice between wrappers
and the ``rewards`` keyword. The same classes for vector environments are in :mod:`llmgym.wrappers.vector`.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

from llmgym import rewards
from llmgym.errors import InvalidOptionError, WrongEnvironmentError
from llmgym.rewards.base import Judgement
from llmgym.rewards.stack import build_reward, check_weight, weighted


class TranscriptReward(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Base of the reward wrappers; for a reward of your own, subclass it and set ``reward_class``.

    It reads the transcript of the innermost environment, so other wrappers may stand between. A wrapper in between
    that changes the reward keeps its say: the part is then added to the reward it gives.

    Args:
        env: An environment of this package, wrapped or not.
        weight: What a score of 1 is worth; a finite number.
        arguments: Constructor arguments of ``reward_class``.

    Raises:
        WrongEnvironmentError: If the innermost environment is not one of this package.
        InvalidOptionError: If an argument is not valid, or the environment has a component of this name.
    """

    reward_class: ClassVar[type[rewards.Reward]]

    def __init__(self, env: gym.Env[Any, Any], weight: float = 1.0, **arguments: Any) -> None:
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, weight=weight, **arguments)
        self.scorer, self.weight = prepare(self, env, "last_transition", weight, arguments)
        gym.Wrapper.__init__(self, env)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step, and pay what the transition has earned."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        unwrapped: Any = self.unwrapped
        settled = self.scorer.settle([unwrapped.last_transition] if unwrapped.process.events else [])
        due, details = settled[0] if settled else Judgement(0.0, {})
        part = weighted(due, self.weight)
        inner = info.get("reward_components")
        if inner is None:  # a wrapper in between has reset the environment instead (gymnasium.wrappers.Autoreset)
            return observation, float(reward), terminated, truncated, info
        info = info | {"reward_components": {**inner, self.scorer.name: part}}
        if details:
            info["reward_details"] = {**info.get("reward_details", {}), self.scorer.name: details}
        return observation, add_part(float(reward), inner, part), terminated, truncated, info


def add_part(reward: float, inner: dict[str, float], part: float) -> float:
    """The reward with a part more: the exact sum of all parts, unless something between has changed the reward."""
    if part == 0.0:
        return reward
    parts = list(inner.values())
    return math.fsum([*parts, part]) if reward == math.fsum(parts) else reward + part


def prepare(
    wrapper: Any, env: Any, reads: str, weight: float, arguments: dict[str, Any]
) -> tuple[rewards.Reward, float]:
    """The reward and weight of a wrapper, once it is certain that ``env`` has the attribute that the wrapper reads."""
    kind = type(wrapper).__name__
    innermost = getattr(env, "unwrapped", env)
    if not hasattr(type(innermost), reads):
        if hasattr(type(innermost), "transitions"):
            mend = f"Around a vector environment, use llmgym.wrappers.vector.{kind}."
        elif hasattr(type(innermost), "last_transition"):
            mend = f"Around a single environment, use llmgym.wrappers.{kind}."
        elif isinstance(env, gym.vector.VectorEnv):
            mend = "Wrap each single environment, or make the native vector environment with gymnasium.make_vec."
        else:
            mend = "Use gymnasium.RewardWrapper around an environment of another kind."
        raise WrongEnvironmentError(
            f"Expected {kind} to wrap an environment of llmgym with `{reads}` (it reads transcripts), actual: "
            f"{type(innermost).__name__}. {mend}"
        )
    reward = build_reward(wrapper.reward_class, arguments)
    if reward.name in component_names(env):
        raise InvalidOptionError(
            f"Expected one component named {reward.name!r}, actual: the environment under {kind} has it already. "
            f"Leave out the wrapper, or the name from `rewards` (rewards={{}} makes an environment without any)."
        )
    return reward, check_weight(reward.name, weight)


def component_names(env: Any) -> set[str]:
    """Names of the reward components that an environment and the wrappers around it pay."""
    names = set(env.unwrapped.engine.rewards.names)
    while env is not env.unwrapped:
        if hasattr(type(env), "reward_class"):
            names.add(env.reward_class.name)
        env = env.env
    return names


class CorrectnessReward(TranscriptReward):
    """1 for a right answer, at the end. Arguments: :class:`llmgym.rewards.CorrectnessReward`."""

    reward_class = rewards.CorrectnessReward


class FormatReward(TranscriptReward):
    """Score of ``<think>…</think><answer>…</answer>``, at the end. Arguments: :class:`llmgym.rewards.FormatReward`."""

    reward_class = rewards.FormatReward


class ProcessReward(TranscriptReward):
    """Score of the reasoning steps, as each closes or at the end. Arguments: :class:`llmgym.rewards.ProcessReward`."""

    reward_class = rewards.ProcessReward


class LengthReward(TranscriptReward):
    """Score of being short enough, at the end. Arguments: :class:`llmgym.rewards.LengthReward`."""

    reward_class = rewards.LengthReward


class LanguageReward(TranscriptReward):
    """Share in the prompt's language, at the end. Arguments: :class:`llmgym.rewards.LanguageReward`."""

    reward_class = rewards.LanguageReward
