"""Scoring reasoning step by step. Scorers are pure: a question and steps in, a score in [0, 1] for each step out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from llmgym.errors import InvalidOptionError
from llmgym.rewards.base import Reward
from llmgym.rewards.steps import arithmetic_holds
from llmgym.transcript import Transcript, Transition, split_steps

Aggregate = Literal["sum", "mean", "min"]

#: Where the final answer part begins: the first of these in a response.
ANSWER_MARKS = ("</think>", "<answer>")


@runtime_checkable
class StepScorer(Protocol):
    """Scores each reasoning step. A step's score may depend on the steps before it, not on those after."""

    def score_steps(self, question: str, steps: Sequence[str]) -> list[float]:
        """A score in [0, 1] for each of ``steps``."""
        ...


class ArithmeticStepScorer:
    """1 for a line whose equations are all true, 0 for one with a false equation, exactly.

    What counts as an equation is described at :func:`llmgym.rewards.steps.arithmetic_holds`. A line that says the same
    as an earlier one is neutral: a line that is paid each time it is repeated would be repeated.

    Args:
        neutral: Score of a line without an equation. The default pays nothing for it, and so suits ``"sum"``;
            with ``"mean"`` or ``"min"``, where it would pull the score down, 1 makes it harmless.

    Example:
        >>> ArithmeticStepScorer().score_steps("", ["60 × 3 = 180", "180 + 20 = 210", "Done."])
        [1.0, 0.0, 0.0]
    """

    def __init__(self, neutral: float = 0.0) -> None:
        if isinstance(neutral, bool) or not isinstance(neutral, int | float) or not 0.0 <= neutral <= 1.0:
            raise InvalidOptionError(f"Expected `neutral` to be a number in [0, 1], actual: {neutral!r}.")
        self.neutral = float(neutral)

    def score_steps(self, question: str, steps: Sequence[str]) -> list[float]:
        """Score of each line; the question is not read."""
        del question
        scores = []
        seen: set[str] = set()
        for step in steps:
            line = "".join(step.split())
            holds = None if line in seen else arithmetic_holds(step)
            scores.append(self.neutral if holds is None else float(holds))
            seen.add(line)
        return scores


class FunctionStepScorer:
    """A plain function as a scorer."""

    def __init__(self, function: Callable[[str, Sequence[str]], list[float]]) -> None:
        self.function = function

    def score_steps(self, question: str, steps: Sequence[str]) -> list[float]:
        """Call the function."""
        return self.function(question, steps)


Scorer = str | StepScorer | Callable[[str, Sequence[str]], list[float]]


def make_scorer(scorer: Scorer, scorer_args: Mapping[str, Any] | None = None) -> StepScorer:
    """A scorer from its plain-value form.

    Args:
        scorer: ``"arithmetic"``, ``"hf:<path or hub name of a token-classification model>"``, an object with
            ``score_steps``, or a function of a question and steps.
        scorer_args: Constructor arguments where ``scorer`` is a string.

    Raises:
        InvalidOptionError: For anything else.
    """
    arguments = dict(scorer_args or {})
    if isinstance(scorer, str):
        try:
            if scorer == "arithmetic":
                return ArithmeticStepScorer(**arguments)
            if scorer.startswith("hf:") and len(scorer) > len("hf:"):
                from llmgym.rewards.hf import HFStepScorer

                return HFStepScorer(scorer.removeprefix("hf:"), **arguments)
        except TypeError as error:
            raise InvalidOptionError(
                f"Expected `scorer_args` to be arguments of the scorer {scorer!r}, actual: {arguments!r} ({error})."
            ) from error
    elif arguments:
        raise InvalidOptionError(
            f"Expected `scorer_args` with a scorer named by a string only, actual: {arguments!r} with {scorer!r}. "
            "Give the arguments to the scorer itself."
        )
    elif isinstance(scorer, StepScorer):
        return scorer
    elif callable(scorer):
        return FunctionStepScorer(scorer)
    raise InvalidOptionError(
        "Expected `scorer` to be 'arithmetic', 'hf:<model>', an object with `score_steps`, or a function, "
        f"actual: {scorer!r}."
    )


def reasoning_before_answer(response: str, delimiter: str) -> tuple[str, ...]:
    r"""The reasoning steps before the final answer part, without an opening ``<think>``.

    They are the leading elements of ``transcript.reasoning_steps``, the last cut where the answer part begins. What
    follows a step never changes it, so a step can be paid for as it closes.

    >>> reasoning_before_answer("<think>6*7=42\n</think><answer>42</answer>", "\n")
    ('6*7=42\n', '')
    """
    starts = [at for mark in ANSWER_MARKS if (at := response.find(mark)) >= 0]
    if not starts:
        steps = split_steps(response, delimiter)
    else:
        # An empty last piece is kept: it is the step in which the answer part begins.
        pieces = response[: min(starts)].split(delimiter)
        steps = (*(piece + delimiter for piece in pieces[:-1]), pieces[-1])
    return (steps[0].lstrip().removeprefix("<think>"), *steps[1:]) if steps else ()


class ProcessReward(Reward):
    """Score of the reasoning steps: the lines of the response before ``</think>`` or ``<answer>``. Empty lines score 0.

    Args:
        scorer: See :func:`make_scorer`.
        aggregate: ``"sum"`` pays each step's score as the step closes, so an episode may earn more than 1. ``"mean"``
            and ``"min"``, over the steps that are not empty, are paid at the end; 0 where there is no step.
        scorer_args: Constructor arguments of a scorer named by a string, e.g. ``{"neutral": 1.0}``.

    Raises:
        InvalidOptionError: For an unknown scorer or aggregate, or, when scoring, a scorer that does not give a number
            in [0, 1] for each step.
    """

    name = "process"

    def __init__(
        self,
        scorer: Scorer = "arithmetic",
        aggregate: Aggregate = "sum",
        scorer_args: Mapping[str, Any] | None = None,
    ) -> None:
        if aggregate not in get_args(Aggregate):
            raise InvalidOptionError(f"Expected `aggregate` to be one of {get_args(Aggregate)}, actual: {aggregate!r}.")
        self.scorer = make_scorer(scorer, scorer_args)
        self.aggregate = aggregate
        self.per_step = aggregate == "sum"

    def score(self, transcript: Transcript) -> float:
        """What a finished episode is paid in all; in [0, 1] but for ``"sum"``."""
        n_steps = len(transcript.reasoning_steps)
        return self.due(Transition(transcript, first_step=0, last_step=n_steps, ended=True))

    def due(self, transition: Transition) -> float:
        """Sum over the steps just closed, or, at the end, the mean or minimum over all."""
        return self.due_batch([transition])[0]

    def due_batch(self, transitions: Sequence[Transition]) -> list[float]:
        """:meth:`due` of each transition; a scorer with ``score_batch`` gets all questions at once."""
        due = [0.0] * len(transitions)
        places: list[tuple[int, list[bool]]] = []  # which transition, and which of its scored steps count
        requests: list[tuple[str, list[str]]] = []
        for i, transition in enumerate(transitions):
            if not (transition.ended if not self.per_step else transition.first_step < transition.last_step):
                continue
            transcript = transition.transcript
            steps = reasoning_before_answer(transcript.response, transcript.step_delimiter)[: transition.last_step]
            first = transition.first_step if self.per_step else 0
            wanted = [bool(step.strip()) and at >= first for at, step in enumerate(steps)]
            if any(wanted):
                written = [at for at, step in enumerate(steps) if step.strip()]
                places.append((i, [wanted[at] for at in written]))
                requests.append((transcript.problem.question, [steps[at].strip() for at in written]))
        for (i, counts), scores in zip(places, self._score_batch(requests), strict=True):
            counted = [score for score, count in zip(scores, counts, strict=True) if count]
            if self.aggregate == "min":
                due[i] = min(counted)
            else:
                due[i] = math.fsum(counted) / (len(counted) if self.aggregate == "mean" else 1)
        return due

    def _score_batch(self, requests: Sequence[tuple[str, list[str]]]) -> list[list[float]]:
        score_batch = getattr(self.scorer, "score_batch", None)
        if not requests:
            return []
        if score_batch is not None:
            batch: list[list[float]] = score_batch(requests)
        else:
            batch = [self.scorer.score_steps(question, steps) for question, steps in requests]
        for (_, steps), scores in zip(requests, batch, strict=True):
            if len(scores) != len(steps) or not all(0.0 <= score <= 1.0 for score in scores):
                raise InvalidOptionError(
                    f"Expected the scorer {self.scorer!r} to give {len(steps)} scores in [0, 1], one per step, "
                    f"actual: {scores!r}."
                )
        return batch
