"""What a reward is: a transcript in, a score in [0, 1] out. No environment in sight."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from llmgym.transcript import Transcript, Transition


class Judgement(NamedTuple):
    """What looking at an episode once gives: a score, and why.

    Attributes:
        score: In [0, 1].
        details: Plain values by name, for ``info["reward_details"]``: the same names and types each time, in a dict of
            its own; empty where there is nothing to say.
    """

    score: float
    details: dict[str, Any]


class Reward(ABC):
    """A named score in [0, 1] of a finished episode, paid at the transition that ends it.

    The environment adds ``weight * score`` to the reward and writes it to ``info["reward_components"][name]``; what
    :meth:`details` says goes to ``info["reward_details"][name]`` when the episode ends.
    Subclasses are small and can be pickled; their constructor arguments are plain values.
    """

    name: ClassVar[str]

    #: Whether the reward is paid at each transition that closes a reasoning step (see :class:`StepReward`).
    per_step: bool = False

    @abstractmethod
    def score(self, transcript: Transcript) -> float:
        """Score of a finished episode, in [0, 1], defined for every text."""

    def details(self, transcript: Transcript) -> dict[str, Any]:
        """What there is to say of a finished episode beside its score: plain values by name, in a fresh dict.

        Where score and details come from the same work, subclass :class:`JudgedReward`.
        """
        return {}

    def due(self, transition: Transition) -> float:
        """What the transition has earned, before the weight; 0 where nothing is due."""
        return self.score(transition.transcript) if transition.ended else 0.0

    def due_batch(self, transitions: Sequence[Transition]) -> list[float]:
        """:meth:`due` of several transitions; a scorer that runs a model overrides it to batch them."""
        return [self.due(transition) for transition in transitions]

    def settle(self, transitions: Sequence[Transition]) -> list[Judgement]:
        """:meth:`due` of several transitions, with the details of those that ended an episode."""
        return [
            Judgement(due, self.details(transition.transcript) if transition.ended else {})
            for transition, due in zip(transitions, self.due_batch(transitions), strict=True)
        ]


class JudgedReward(Reward):
    """A reward whose score and details come from one judgement, so that nothing is judged twice."""

    @abstractmethod
    def judge(self, transcript: Transcript) -> Judgement:
        """Score and details of a finished episode, defined for every text."""

    def score(self, transcript: Transcript) -> float:
        """Score of a finished episode, in [0, 1]."""
        return self.judge(transcript).score

    def details(self, transcript: Transcript) -> dict[str, Any]:
        """What the judgement says beside the score."""
        return self.judge(transcript).details

    def settle(self, transitions: Sequence[Transition]) -> list[Judgement]:
        """The judgements of the episodes that ended."""
        return [
            self.judge(transition.transcript) if transition.ended else Judgement(0.0, {}) for transition in transitions
        ]


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
