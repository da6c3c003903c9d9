"""GRPO and PPO reach a stated return on the tiny environment."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from typing import Any

from llmgym.agents.agent import Agent
from llmgym.agents.grpo import GRPO
from llmgym.agents.ppo import PPO
from llmgym.envs.copy import copy_tokenizer
from tests.unit.agent_fakes import tiny_llama

OPTIONS: dict[type[Agent], dict[str, Any]] = {
    GRPO: {"group_size": 16, "problems_per_iteration": 8},
    PPO: {"responses_per_problem": 4, "problems_per_iteration": 32, "n_epochs": 2},
}


def learn(kind: type[Agent], seed: int, max_iterations: int, target: float, **env_kwargs: int) -> list[float]:
    """Mean return of each iteration, until ``target`` is reached, from random weights."""
    n_symbols = env_kwargs.get("n_symbols", 5)
    vocabulary = copy_tokenizer(n_symbols).vocab_size
    agent = kind(
        tiny_llama(vocabulary, seed, hidden_size=32, initializer_range=0.02),
        "llmgym/Copy-v0",
        env_kwargs={**env_kwargs, "tokenizer": copy_tokenizer(n_symbols)},
        n_minibatches=2,
        learning_rate=5e-3,
        warmup_iterations=0,
        seed=seed,
        run_dir=None,
        **OPTIONS[kind],
    )
    returns: list[float] = []

    def enough(_: Agent, metrics: Any) -> bool:
        returns.append(metrics["rollout/return"])
        return returns[-1] < target and len(returns) < max_iterations

    agent.learn(total_timesteps=10**9, callback=enough, progress_bar=False)
    return returns


@pytest.mark.parametrize("kind", [GRPO, PPO])
def test_return_goes_up_in_seconds(kind: type[Agent]) -> None:
    returns = learn(kind, seed=0, max_iterations=60, target=0.6, n_digits=1, n_symbols=2)
    assert returns[0] < 0.3
    assert returns[-1] >= 0.6, returns


@pytest.mark.slow
@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", [GRPO, PPO])
def test_copies_two_digits(kind: type[Agent], seed: int) -> None:
    returns = learn(kind, seed, max_iterations=500, target=0.9, n_digits=2, n_symbols=3)
    assert returns[-1] >= 0.9, returns[-20:]
