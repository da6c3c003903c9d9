"""Small things for tests of agents: a model with random weights, and a vector environment that talks back."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

END = 1
VOCABULARY = 9


def tiny_llama(
    vocab_size: int = VOCABULARY, seed: int = 0, hidden_size: int = 16, initializer_range: float = 0.3
) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=initializer_range,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=END,
    )
    return LlamaForCausalLM(config)


class EchoEnv(gym.Env[dict[str, Any], int]):
    """Poses one to three random tokens. After each even token it writes that token twice more; token 1 ends it."""

    observation_space = gym.spaces.Dict(
        {
            "input_ids": gym.spaces.Box(0, VOCABULARY - 1, (24,), np.int32),
            "attention_mask": gym.spaces.Box(0, 1, (24,), np.int8),
        }
    )
    action_space = gym.spaces.Discrete(VOCABULARY)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.ids = self.np_random.integers(2, VOCABULARY, size=int(self.np_random.integers(1, 4))).tolist()
        self.n_written = 0
        return self.observation(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.ids.append(int(action))
        self.n_written += 1
        terminated = action == END
        truncated = not terminated and self.n_written == 5
        if action % 2 == 0 and not truncated:
            self.ids += [int(action)] * 2
        reward = float(action)
        info: dict[str, Any] = {"reward_components": {"size": reward}}
        if terminated or truncated:
            info["stop_reason"] = "end_token" if terminated else "max_new_tokens"
            info["reward_details"] = {"size": {"verdict": "correct" if terminated else "unverifiable"}}
        return self.observation(), reward, terminated, truncated, info

    def observation(self) -> dict[str, Any]:
        ids, mask = np.zeros(24, np.int32), np.zeros(24, np.int8)
        ids[: len(self.ids)], mask[: len(self.ids)] = self.ids, 1
        return {"input_ids": ids, "attention_mask": mask}


def echo_envs(n: int, mode: AutoresetMode) -> SyncVectorEnv:
    return SyncVectorEnv([EchoEnv] * n, autoreset_mode=mode)
