"""What a score is worth: where it lies between that of a wrong answer and that of the reference answer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from llmgym.testing.workers import Job, Outcome

#: A wrong answer in the right form may earn this share of the full score; more is a finding.
FORM_LIMIT = 0.5
#: Two full scores that differ by less than this share are the same, and so are a right answer's and a wrong one's.
_ROUNDING = 0.01


@dataclass(frozen=True, slots=True)
class Scale:
    """The scores of one problem, as shares.

    Attributes:
        wrong: What a wrong answer in the form earns.
        full: What the reference answer earns.

    Example:
        >>> scale = Scale(wrong=-1.0, full=1.0)
        >>> scale.share(-1.0), scale.excess(0.0), scale.excess(1.0)
        (0.0, 0.5, 1.0)
    """

    wrong: float
    full: float

    @property
    def floor(self) -> float:
        """What counts as nothing: 0, or less where a wrong answer earns less."""
        return min(0.0, self.wrong)

    def share(self, score: float) -> float:
        """Share of the full score, where nothing is the floor."""
        return (score - self.floor) / (self.full - self.floor)

    def excess(self, score: float) -> float:
        """How far on the way from a wrong answer to the right one. A form that pays over the limit is no excuse."""
        base = min(self.wrong, self.floor + FORM_LIMIT * (self.full - self.floor))
        return (score - base) / (self.full - base)

    def falls_short(self, score: float | None, best: float) -> bool:
        """Whether a reference answer earns no more than a wrong answer, where others earn ``best``.

        That a wrong answer earns as much as any right one is found elsewhere, unless none earns anything.
        """
        if score is None or score <= self.floor:
            return True
        return best > self.wrong and score <= self.wrong + _ROUNDING * (best - self.wrong)

    def is_close_to(self, best: float) -> bool:
        """Whether the full score is the best one of all problems."""
        return self.full >= best - _ROUNDING * (best - self.floor)


def score_of(outcome: Outcome) -> float | None:
    """The score; ``None`` where there is none, or none of the whole response, or it is no finite number."""
    score = outcome.score
    return score if score is not None and math.isfinite(score) and not outcome.cut else None


def make_scales(
    n_problems: int, references: Iterable[tuple[Job, Outcome]], wrong_answers: Iterable[tuple[Job, Outcome]]
) -> list[Scale]:
    """A scale for each problem.

    Args:
        n_problems: How many.
        references: The reference answers in the form that pays best.
        wrong_answers: Wrong answers in that form.
    """
    right = {job.index: score for job, outcome in references if (score := score_of(outcome)) is not None}
    wrong: dict[int, float] = {}
    for job, outcome in wrong_answers:
        score = score_of(outcome)
        if score is not None:
            wrong[job.index] = max(score, wrong.get(job.index, score))
    best = max(right.values(), default=0.0)
    scales = []
    for i in range(n_problems):
        low = wrong.get(i, 0.0)
        floor = min(0.0, low)
        # Where this reference answer earns nothing (a finding), others tell what there was to be had.
        full = right.get(i, floor)
        if full <= floor:
            full = best if best > floor else floor + 1.0
        scales.append(Scale(low, full))
    return scales
