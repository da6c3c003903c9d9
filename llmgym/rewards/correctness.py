"""Is the answer right?"""

from __future__ import annotations

from llmgym.rewards.answers import extract_answer, verify
from llmgym.rewards.base import Reward
from llmgym.rewards.format import with_opening_tag
from llmgym.transcript import Transcript


class CorrectnessReward(Reward):
    """1 where the response gives the right answer, else 0.

    A problem with its own ``accepts`` decides on the answer read from the response; otherwise the answer has to equal
    the problem's reference answer (:func:`llmgym.rewards.answers.verify`).

    Args:
        allow_unevaluated: Whether an expression that has still to be worked out counts, such as ``17*23`` for ``391``.
    """

    name = "correctness"

    def __init__(self, allow_unevaluated: bool = False) -> None:
        self.allow_unevaluated = allow_unevaluated

    def score(self, transcript: Transcript) -> float:
        """1.0 for a right answer, 0.0 for a wrong one or none."""
        response = with_opening_tag(transcript)
        problem = transcript.problem
        if problem.accepts is not None:
            answer = extract_answer(response)
            return float(answer is not None and problem.accepts(answer))
        return float(verify(response, problem.reference_answer, allow_unevaluated=self.allow_unevaluated))
