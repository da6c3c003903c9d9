"""The package's own agents in the benchmark: GRPO, PPO, and the model that they begin with.

For a diagnostic that is a small Llama with random weights, its vocabulary and as many positions as it needs; where a
challenge names a model to begin with, it is that one. The options are the same for all challenges of a suite: what is
asked is what an algorithm does as it is, and not what it does when it is tuned to the question.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from llmgym.agents import GRPO, PPO, Policy
from llmgym.agents.agent import Agent
from llmgym.agents.alarms import TrainingWarning
from llmgym.agents.checkpoints import quiet
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


def first_policy(challenge: Challenge, seed: int) -> Policy:
    """What language models begin a challenge with."""
    if challenge.start is None:
        return Policy(random_llama(challenge.vocab_size, challenge.width, seed))
    with quiet():
        return Policy.load(challenge.start)


class LanguageModelAgent:
    """A language model; :meth:`train` only makes it.

    Being watched changes no random number of a training: the one who plays is a second view of the same weights.
    """

    def train(self, challenge: Challenge, budget: int, seed: int) -> None:
        """Make the model and who plays it."""
        self._watch(first_policy(challenge, seed), challenge, seed)

    def _watch(self, policy: Policy, challenge: Challenge, seed: int) -> None:
        """Let a second view of the policy's weights play, with the same distribution."""
        options = policy.options | {"n_actions": challenge.vocab_size}
        self._player = Policy(policy.model, policy.tokenizer, fused=policy.fused, seed=seed, **options)
        self._player.generator = torch.default_generator  # which each evaluation begins anew

    def act(self, observations: Any, restarted: Bools, waiting: Bools) -> Ints:
        """Tokens sampled from the policy."""
        if restarted.all():
            self._player.forget()  # the weights may have changed
        return self._player.act(observations, restarted, waiting)[0]


class BaseAgent(LanguageModelAgent):
    """What GRPO and PPO begin with, untrained: what they score above it is what they have learned."""


class LearningAgent(LanguageModelAgent):
    """An agent of :mod:`llmgym.agents`.

    Attributes:
        algorithm: The class.
        options: Fields of its configuration, where it begins with random weights.
        pretrained_options: Likewise, where it begins with a model that can write. What is not named is as in the
            algorithm's own configuration.
        episodes: The fields whose product is the number of episodes of an iteration.
    """

    algorithm: ClassVar[type[Agent]]
    options: ClassVar[Mapping[str, Any]] = _COMMON
    pretrained_options: ClassVar[Mapping[str, Any]] = {"run_dir": None}
    episodes: ClassVar[tuple[str, str]]

    def train(self, challenge: Challenge, budget: int, seed: int) -> None:
        """Learn until the budget is spent."""
        options = self.options if challenge.start is None else self.pretrained_options
        config = self.algorithm.config_class(**{**options, **challenge.agent_options, "seed": seed})
        num_envs = config.num_envs or math.prod(getattr(config, n) for n in self.episodes)
        envs = challenge.make_vec(num_envs, copy=False)
        agent = self.algorithm(first_policy(challenge, seed), envs, config)
        self._watch(agent.policy, challenge, seed)

        def told(*_: Any) -> None:
            challenge.progress()

        challenge.progress()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TrainingWarning)  # a challenge may well go wrong: that is its result
            agent.learn(total_timesteps=budget, callback=told, progress_bar=False)
        if agent.stopped_by is not None:  # by Ctrl-C: it has returned as if all were well
            raise KeyboardInterrupt


class GRPOAgent(LearningAgent):
    """GRPO; from random weights eight responses to each of eight problems, and one step on them."""

    algorithm = GRPO
    episodes = ("problems_per_iteration", "group_size")
    options: ClassVar[Mapping[str, Any]] = _COMMON | {
        "group_size": 8, "problems_per_iteration": N_EPISODES // 8, "n_minibatches": 1,
    }  # fmt: skip


class PPOAgent(LearningAgent):
    """PPO with a value head; from random weights one response to each of 64 problems, and three steps on all."""

    algorithm = PPO
    episodes = ("problems_per_iteration", "responses_per_problem")
    options: ClassVar[Mapping[str, Any]] = _COMMON | {
        "responses_per_problem": 1, "problems_per_iteration": N_EPISODES, "n_minibatches": 1, "n_epochs": 3,
    }  # fmt: skip
