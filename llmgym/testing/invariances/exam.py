"""How a question is put: what is computed once, when two gradients are the same, and what a failure says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch

from llmgym.agents.rollout_batches import RolloutBatch
from llmgym.testing.invariances.batches import off_policy, without_ties
from llmgym.testing.invariances.trainers import Gradient, NotPosed, TrainerAdapter

#: Gradients below this norm are rounding.
_ROUNDING = 1e-7


class Broken(Exception):
    """An invariance does not hold; the message says where it shows."""


class InvarianceError(AssertionError):
    """A trainer breaks an invariance.

    Attributes:
        name: Of the invariance.
        trouble: What was seen.
        bug: What it usually comes from.
    """

    def __init__(self, name: str, trouble: str, bug: str) -> None:
        super().__init__(name, trouble, bug)
        self.name, self.trouble, self.bug = name, trouble, bug

    def __str__(self) -> str:
        return f"{self.name}: {self.trouble}. The usual bug: {self.bug}."


@dataclass(frozen=True)
class Invariance:
    """Something that must hold in any trainer.

    Attributes:
        name: Of the line in a report.
        about: What must hold.
        bug: What breaks it, as a rule.
        check: Raises :class:`InvarianceError` where it does not hold, :class:`NotPosed` where it cannot be asked.
    """

    name: str
    about: str
    bug: str
    check: Check


class Exam:
    """A trainer under examination, with what several questions need.

    Args:
        trainer: Who is asked.
    """

    def __init__(self, trainer: TrainerAdapter) -> None:
        self.trainer = trainer
        self._samples: dict[int, RolloutBatch] = {}

    @classmethod
    def of(cls, trainer: TrainerAdapter | Exam) -> Exam:
        """The trainer's exam, or the one that goes on."""
        return trainer if isinstance(trainer, Exam) else cls(trainer)

    @cached_property
    def batch(self) -> RolloutBatch:
        """The trainer's batch, its ties broken: every group has a signal."""
        return without_ties(self.trainer.batch())

    @cached_property
    def off_policy(self) -> RolloutBatch:
        """The same, sampled with an older policy: ratios are not 1."""
        return off_policy(self.batch)

    @cached_property
    def base(self) -> Gradient:
        """The gradient of the batch.

        Raises:
            NotPosed: If it is 0, so that nothing could change it.
        """
        gradient = self.gradient(self.batch)
        if norm(gradient) < _ROUNDING:
            raise NotPosed("the gradient is 0 throughout: see `signal`")
        return gradient

    def gradient(self, batch: RolloutBatch, microbatch_tokens: int | None = None) -> Gradient:
        """The gradient of a batch, in one forward pass unless told otherwise.

        Raises:
            Broken: If it is not finite.
        """
        tokens = batch.prompt_ids.size + batch.response_ids.size
        gradient = {
            name: value.detach().float().cpu()
            for name, value in self.trainer.gradient(batch, microbatch_tokens=microbatch_tokens or tokens).items()
        }
        for name, value in gradient.items():
            if not value.isfinite().all():
                raise Broken(f"the gradient of {name} is not finite")
        return gradient

    def sample(self, seed: int) -> RolloutBatch:
        """Episodes of the trainer's own sampler, played once for each seed."""
        if seed not in self._samples:
            self._samples[seed] = self.trainer.sample(seed)
        return self._samples[seed]

    def require_same(self, expected: Gradient, actual: Gradient, change: str) -> None:
        """Refuse gradients that differ.

        Raises:
            Broken: If they do; it names the change, the parts, and the parameter that differs most.
            NotPosed: If the trainer's gradient is 0 whatever happens.
        """
        _ = self.base
        found = differences(expected, actual, self.trainer.tolerance)
        if found:
            parts = " and ".join(sorted({part_of(name) for name in found}))
            worst = max(found, key=lambda name: found[name])
            raise Broken(f"{change} changes the gradient of the {parts} (of {worst} by {found[worst]:.2g} of its norm)")

    def same(self, one: Gradient, other: Gradient) -> bool:
        """Whether two gradients are the same up to rounding."""
        return not differences(one, other, self.trainer.tolerance)


#: A question: takes a trainer, or an exam that goes on.
Check: TypeAlias = Callable[[TrainerAdapter | Exam], None]

#: All of them, in the order of the score card.
INVARIANCES: dict[str, Invariance] = {}


def invariance(about: str, bug: str) -> Callable[[Callable[[Exam], None]], Check]:
    """Make a function ``check_<name>(exam)``, which raises :class:`Broken`, a question of the battery.

    Args:
        about: What must hold.
        bug: What breaks it, as a rule.
    """

    def make(ask: Callable[[Exam], None]) -> Check:
        name = ask.__name__.removeprefix("check_")

        @functools.wraps(ask)
        def check(trainer: TrainerAdapter | Exam) -> None:
            try:
                ask(Exam.of(trainer))
            except Broken as broken:
                raise InvarianceError(name, str(broken), bug) from None

        INVARIANCES[name] = Invariance(name, about, bug, check)
        return check

    return make


# -- gradients ---------------------------------------------------------------------------------------------------------


def part_of(name: str) -> str:
    """The part that a parameter belongs to: ``"policy"`` or ``"critic"``."""
    return name.partition(".")[0]


def norm(gradient: Gradient, part: str | None = None) -> float:
    """Euclidean norm, of everything or of one part."""
    squares = [float(value.square().sum()) for name, value in gradient.items() if part in (None, part_of(name))]
    return float(sum(squares) ** 0.5)


def differences(expected: Gradient, actual: Gradient, tolerance: float) -> dict[str, float]:
    """Parameters whose gradients differ by more than rounding -> by how much of their norm.

    A parameter that has no gradient on one side counts as 0 there. What rounding leaves of a small gradient among large
    ones is judged by the norm of its part.
    """
    found: dict[str, float] = {}
    scale = {part: max(norm(expected, part), norm(actual, part)) for part in map(part_of, {**expected, **actual})}
    for name in sorted({**expected, **actual}):
        pair = [side[name] for side in (expected, actual) if name in side]
        one, other = pair if len(pair) == 2 else (pair[0], torch.zeros_like(pair[0]))
        size = max(float(one.norm()), float(other.norm()), 0.01 * scale[part_of(name)])
        distance = float((one - other).norm())
        if distance > tolerance * size + _ROUNDING:
            found[name] = distance / size
    return found
