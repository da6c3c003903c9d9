"""GRPO reaches a stated return on the tiny environment."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from llmgym.agents.grpo import GRPO  # noqa: E402
from llmgym.envs.copy import copy_tokenizer  # noqa: E402


def learn(seed: int, max_iterations: int, target: float, **env_kwargs: int) -> list[float]:
    """Mean return of each iteration, until ``target`` is reached, from random weights."""
    torch.manual_seed(seed)
    n_symbols = env_kwargs.get("n_symbols", 5)
    vocabulary = copy_tokenizer(n_symbols).vocab_size
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    agent = GRPO(
        transformers.LlamaForCausalLM(config),
        "llmgym/Copy-v0",
        env_kwargs={**env_kwargs, "tokenizer": copy_tokenizer(n_symbols)},
        group_size=16,
        problems_per_iteration=8,
        n_minibatches=2,
        learning_rate=5e-3,
        warmup_iterations=0,
        seed=seed,
        log_dir=None,
    )
    returns: list[float] = []

    def enough(_: GRPO, metrics: object) -> bool:
        returns.append(metrics["rollout/return"])  # type: ignore[index]
        return returns[-1] < target and len(returns) < max_iterations

    agent.learn(total_timesteps=10**9, callback=enough, progress_bar=False)
    return returns


def test_return_goes_up_in_seconds() -> None:
    returns = learn(seed=0, max_iterations=60, target=0.6, n_digits=1, n_symbols=2)
    assert returns[0] < 0.3
    assert returns[-1] >= 0.6, returns


@pytest.mark.slow
@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_copies_two_digits(seed: int) -> None:
    returns = learn(seed, max_iterations=500, target=0.9, n_digits=2, n_symbols=3)
    assert returns[-1] >= 0.9, returns[-20:]
