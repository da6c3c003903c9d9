"""Is the response short enough?"""

from __future__ import annotations

from llmgym.errors import InvalidOptionError
from llmgym.rewards.base import Reward
from llmgym.transcript import Transcript


def length_score(n_tokens: int, *, target_tokens: int, tolerance: int) -> float:
    """1 up to the target, 0 from ``target + tolerance`` on, a straight line between.

    ``score = min(1, max(0, (target_tokens + tolerance - n_tokens) / tolerance))``: DAPO's soft overlong punishment
    plus 1, with ``L_max = target_tokens + tolerance`` and ``L_cache = tolerance``.

    >>> [length_score(n, target_tokens=96, tolerance=32) for n in (10, 96, 104, 128, 500)]
    [1.0, 1.0, 0.75, 0.0, 0.0]

    Source: Yu et al., arXiv:2503.14476, eq. 13.
    """
    if n_tokens <= target_tokens:
        return 1.0
    return max(0.0, (target_tokens + tolerance - n_tokens) / tolerance) if tolerance else 0.0


class LengthReward(Reward):
    """:func:`length_score` of the tokens that the agent has written, the end token included.

    Args:
        target_tokens: Up to here length costs nothing.
        tolerance: Tokens over which the score falls from 1 to 0; 0 makes a hard limit. The defaults reach 0 at the
            default budget of 128 new tokens.
    """

    name = "length"

    def __init__(self, target_tokens: int = 96, tolerance: int = 32) -> None:
        for argument, value in (("target_tokens", target_tokens), ("tolerance", tolerance)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InvalidOptionError(f"Expected `{argument}` to be a whole number >= 0, actual: {value!r}.")
        self.target_tokens = target_tokens
        self.tolerance = tolerance

    def score(self, transcript: Transcript) -> float:
        """Length score of the episode, in [0, 1]."""
        return length_score(transcript.n_new_tokens, target_tokens=self.target_tokens, tolerance=self.tolerance)
