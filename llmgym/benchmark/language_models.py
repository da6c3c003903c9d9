"""The package's own agents in the benchmark: GRPO and PPO on small Llamas with random weights.

A model is made for each challenge, with its vocabulary and as many positions as it needs. The options are the same for
all challenges: what is asked is what an algorithm does as it is, and not what it does when it is tuned to the question.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from llmgym.agents import GRPO, PPO, Policy
from llmgym.agents.agent import Agent
from llmgym.agents.alarms import TrainingWarning
from llmgym.benchmark.agents import Bools, Ints
from llmgym.benchmark.challenges import Challenge

#: Slots of the environment, and episodes of an iteration.
N_EPISODES = 64

_COMMON = {
    "run_dir": None,
    "num_envs": N_EPISODES,
    "learning_rate": 3e-3,
    "warmup_iterations": 0,
    "final_learning_rate": 0.1,
    "ent_coef": 0.01,
    "loss_average": "token",
}


def random_llama(vocab_size: int, n_positions: int, seed: int) -> PreTrainedModel:
    """A Llama of some 20,000 weights beside its vocabulary, which knows nothing.

    Args:
        vocab_size: Tokens.
        n_positions: The longest text.
        seed: Of the weights. The state of torch's own random generator stays as it was.
    """
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=n_positions + 1,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


class LanguageModelAgent:
    """An agent of :mod:`llmgym.agents` that learns a challenge from nothing.

    Attributes:
        algorithm: The class.
        options: Fields of its configuration.
    """

    algorithm: ClassVar[type[Agent]]
    options: ClassVar[Mapping[str, Any]] = _COMMON

    def train(self, challenge: Challenge, budget: int, seed: int) -> None:
        """Learn until the budget is spent."""
        model = random_llama(challenge.vocab_size, challenge.width, seed)
        envs = challenge.make_vec(N_EPISODES, copy=False)
        agent = self.algorithm(Policy(model), envs, **(dict(self.options) | {"seed": seed}))
        # A second view of the same weights: being watched changes no random number of the training.
        self._player = Policy(model, n_actions=challenge.vocab_size, seed=seed)

        def told(*_: Any) -> None:
            challenge.progress()

        challenge.progress()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrainingWarning)  # a diagnostic may well go wrong: that is its result
            agent.learn(total_timesteps=budget, callback=told, progress_bar=False)
        if agent.stopped_by is not None:  # by Ctrl-C: it has returned as if all were well
            raise KeyboardInterrupt

    def act(self, observations: Any, restarted: Bools, waiting: Bools) -> Ints:
        """Tokens sampled from the policy."""
        if restarted.all():
            self._player.forget()  # the weights may have changed
        return self._player.act(observations, restarted, waiting)[0]


class GRPOAgent(LanguageModelAgent):
    """GRPO: eight responses to each of eight problems, one step on them."""

    algorithm = GRPO
    options: ClassVar[Mapping[str, Any]] = _COMMON | {
        "group_size": 8, "problems_per_iteration": N_EPISODES // 8, "n_minibatches": 1,
    }  # fmt: skip


class PPOAgent(LanguageModelAgent):
    """PPO with a value head: one response to each of 64 problems, three steps on all of them."""

    algorithm = PPO
    options: ClassVar[Mapping[str, Any]] = _COMMON | {
        "responses_per_problem": 1, "problems_per_iteration": N_EPISODES, "n_minibatches": 1, "n_epochs": 3,
    }  # fmt: skip
