"""Algorithms of Stable-Baselines3 in the benchmark, with the small configurations of :mod:`llmgym.sb3`."""

from __future__ import annotations

from typing import Any, ClassVar

from llmgym.benchmark.agents import Bools, Ints
from llmgym.benchmark.challenges import Challenge
from llmgym.sb3 import SMALL_CONFIGS, LanguageVecEnv, make_agent


class SB3Agent:
    """An algorithm of Stable-Baselines3.

    Attributes:
        suites: What it can play.
        name: A key of ``llmgym.sb3.SMALL_CONFIGS``.
        greedy: Whether its policy is the action of the highest value, and not a distribution to sample from.
    """

    #: Its networks begin with nothing: no random walk writes the solution of a problem.
    suites: ClassVar[tuple[str, ...]] = ("diagnostics",)
    name: ClassVar[str]
    greedy: ClassVar[bool] = False

    def train(self, challenge: Challenge, budget: int, seed: int) -> None:
        """Learn until the budget is spent."""
        envs = challenge.make_vec(SMALL_CONFIGS[self.name].num_envs, autoreset_mode="same_step")
        self._model = make_agent(self.name, LanguageVecEnv(envs, bootstraps_truncated=False), seed=seed)

        def told(*_: Any) -> bool:
            challenge.progress()
            return True  # go on

        challenge.progress()
        self._model.learn(budget, callback=told)

    def act(self, observations: Any, restarted: Bools, waiting: Bools) -> Ints:
        """Tokens of the policy."""
        actions: Ints = self._model.predict(observations, deterministic=self.greedy)[0]
        return actions


class PPOAgent(SB3Agent):
    """Its PPO."""

    name = "ppo"


class A2CAgent(SB3Agent):
    """Its A2C."""

    name = "a2c"


class DQNAgent(SB3Agent):
    """Its DQN, played without exploration."""

    name = "dqn"
    greedy = True
