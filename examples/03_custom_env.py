"""An environment of your own: a task that draws problems, checked with the contract kit.

You will see a spelling task registered, checked and played. Takes a second. Needs nothing but the package.
"""

from typing import Any

import gymnasium as gym
import numpy as np

from llmgym.core import LanguageEnv
from llmgym.tasks import Problem
from llmgym.testing import check_language_env

WORDS = ("reward", "policy", "agent", "state", "action", "value", "episode", "critic")


class SpellTask:
    """Spell a word backwards."""

    replies = False

    def sample(self, rng: np.random.Generator) -> Problem:
        """Draw a word."""
        word = WORDS[int(rng.integers(len(WORDS)))]
        return Problem(f"Spell {word} backwards.", word[::-1], problem_id=f"spell:{word}", family="spell", level=1)

    def reply(self, problem: Problem, transcript: Any) -> None:
        """The environment has nothing to say."""


class SpellEnv(LanguageEnv):
    """Spell a word backwards; every keyword argument of the base class works."""

    def __init__(self, **options: Any) -> None:
        super().__init__(SpellTask(), **options)


def main() -> None:
    """Register, check, play."""
    gym.register("Spell-v0", entry_point=f"{__name__}:SpellEnv")  # a text, so that the spec can be written as JSON
    check_language_env(gym.make("Spell-v0"))
    env = gym.make("Spell-v0", action_unit="response", render_mode="ansi")
    _, info = env.reset(seed=3)
    answer = info["problem_id"].removeprefix("spell:")[::-1]
    _, reward, *_ = env.step(f"<answer>{answer}</answer>")
    print(env.render())
    print("reward:", reward)


if __name__ == "__main__":
    main()
