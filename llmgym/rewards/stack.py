"""Rewards by name, from plain values, and several of them at once."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from llmgym.errors import InvalidOptionError, unknown_name
from llmgym.rewards.base import Reward
from llmgym.rewards.correctness import CorrectnessReward
from llmgym.rewards.format import FormatReward
from llmgym.rewards.language import LanguageReward
from llmgym.rewards.length import LengthReward
from llmgym.rewards.process import ProcessReward
from llmgym.rewards.workers import RewardWorkers
from llmgym.transcript import Transition

#: Name of a reward -> what it says of an episode beside its score.
Details: TypeAlias = dict[str, dict[str, Any]]

_OURS: tuple[type[Reward], ...] = (CorrectnessReward, FormatReward, ProcessReward, LengthReward, LanguageReward)
#: Rewards that the ``rewards`` keyword of an environment knows by name. A class of your own can be added.
REWARDS: dict[str, type[Reward]] = {reward.name: reward for reward in _OURS}


def check_weight(name: str, weight: Any) -> float:
    """The weight as a float.

    Raises:
        InvalidOptionError: If it is not a finite number.
    """
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise InvalidOptionError(f"Expected the weight of reward {name!r} to be a finite number, actual: {weight!r}.")
    return float(weight)


def make_reward(name: str, spec: float | Mapping[str, Any]) -> tuple[Reward, float]:
    """A reward and its weight from plain values.

    Args:
        name: A key of :data:`REWARDS`.
        spec: The weight, or the weight under ``"weight"`` (1 where it is left out) and constructor arguments.

    Returns:
        The reward, and its weight.

    Raises:
        InvalidOptionError: If the name, an argument or the weight is not valid.

    Example:
        >>> reward, weight = make_reward("format", {"weight": 0.1, "mode": "soft"})
        >>> reward.name, weight
        ('format', 0.1)
    """
    if name not in REWARDS:
        raise unknown_name("a reward", name, REWARDS)
    arguments = dict(spec) if isinstance(spec, Mapping) else {"weight": spec}
    weight = check_weight(name, arguments.pop("weight", 1.0))
    return build_reward(REWARDS[name], arguments), weight


def build_reward(reward_class: type[Reward], arguments: Mapping[str, Any]) -> Reward:
    """A reward from its class and plain arguments.

    Raises:
        InvalidOptionError: If an argument is unknown or not valid.
    """
    known = list(inspect.signature(reward_class).parameters)
    for argument in arguments:
        if argument not in known:
            raise unknown_name(f"an argument of reward {reward_class.name!r}", argument, ["weight", *known])
    return reward_class(**arguments)


class RewardStack:
    """Several named rewards, each with a weight.

    Args:
        rewards: Name to weight, or to a dict of weight and constructor arguments, e.g.
            ``{"correctness": 1.0, "format": {"weight": 0.1, "mode": "soft"}}``.
        workers: Processes that judge, see :class:`llmgym.rewards.workers.RewardWorkers`; 0: this one.

    Raises:
        InvalidOptionError: If a reward is not valid, or cannot be pickled for the workers.
    """

    def __init__(self, rewards: Mapping[str, float | Mapping[str, Any]], *, workers: int = 0) -> None:
        if not isinstance(rewards, Mapping):
            raise InvalidOptionError(
                "Expected `rewards` to be a mapping of reward names to weights, such as {'correctness': 1.0}, "
                f"actual: {rewards!r}."
            )
        self._rewards = {name: make_reward(name, spec) for name, spec in rewards.items()}
        self._workers = RewardWorkers(list(self), workers) if workers and self._rewards else None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the components, in the order given."""
        return tuple(self._rewards)

    def __iter__(self) -> Iterator[Reward]:
        return (reward for reward, _ in self._rewards.values())

    @property
    def per_step(self) -> bool:
        """Whether anything is paid before the end of an episode."""
        return any(reward.per_step for reward, _ in self._rewards.values())

    def pay(self, transition: Transition) -> tuple[dict[str, float], Details]:
        """What one transition is paid.

        Returns:
            The weighted components, all of them, 0.0 where nothing is due; and at the end of an episode, what rewards
            have to say beside their number: name -> plain values, without those that say nothing.
        """
        return self.pay_batch([transition])[0]

    def pay_batch(self, transitions: Sequence[Transition]) -> list[tuple[dict[str, float], Details]]:
        """:meth:`pay` of several transitions at once: a scorer that runs a model can batch them, workers share them."""
        paid: list[tuple[dict[str, float], Details]] = [({}, {}) for _ in transitions]
        judged = (
            [reward.settle(transitions) for reward in self]
            if self._workers is None
            else self._workers.settle(transitions)
        )
        for (name, (_, weight)), judgements in zip(self._rewards.items(), judged, strict=True):
            for (components, details), (due, said) in zip(paid, judgements, strict=True):
                components[name] = weighted(due, weight)
                if said:
                    details[name] = said
        return paid

    def close(self) -> None:
        """End the workers, where there are any."""
        if self._workers is not None:
            self._workers.close()


def weighted(due: float, weight: float) -> float:
    """``weight * due``, and plain 0.0 where nothing is due, whatever the sign of the weight."""
    return weight * due if due else 0.0
