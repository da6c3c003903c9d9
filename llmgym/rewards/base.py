"""What a reward is: a transcript in, a score in [0, 1] out. No environment in sight."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from llmgym.transcript import Transcript, Transition


class Reward(ABC):
    """A named score in [0, 1] of a finished episode, paid at the transition that ends it.

    The environment adds ``weight * score`` to the reward and writes it to ``info["reward_components"][name]``.
    Subclasses are small and can be pickled; their constructor arguments are plain values.
    """

    name: ClassVar[str]

    #: Whether the reward is paid at each transition that closes a reasoning step (see :class:`StepReward`).
    per_step: bool = False

    @abstractmethod
    def score(self, transcript: Transcript) -> float:
        """Score of a finished episode, in [0, 1], defined for every text."""

    def due(self, transition: Transition) -> float:
        """What the transition has earned, before the weight; 0 where nothing is due."""
        return self.score(transition.transcript) if transition.ended else 0.0

    def due_batch(self, transitions: Sequence[Transition]) -> list[float]:
        """:meth:`due` of several transitions; a scorer that runs a model overrides it to batch them."""
        return [self.due(transition) for transition in transitions]


class StepReward(Reward):
    """A named score in [0, 1] of each reasoning step, paid at the transition that closes the step."""

    per_step = True

    @abstractmethod
    def score_step(self, transcript: Transcript, index: int) -> float:
        """Score of ``transcript.reasoning_steps[index]``, in [0, 1], defined for every text."""

    def score(self, transcript: Transcript) -> float:
        """Sum over the steps: what an episode is paid in all. May exceed 1."""
        return math.fsum(self.score_step(transcript, i) for i in range(len(transcript.reasoning_steps)))

    def due(self, transition: Transition) -> float:
        """Sum over the reasoning steps that the transition closed."""
        return math.fsum(
            self.score_step(transition.transcript, i) for i in range(transition.first_step, transition.last_step)
        )
