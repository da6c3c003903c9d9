"""Small things for tests of agents: a model with random weights, environments that talk back, a policy by script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
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


class CountingEchoEnv(EchoEnv):
    """Counts reasoning steps: the agent closes one by token 3, two by token 5."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.n_closed = 0
        observation, info = super().reset(seed=seed, options=options)
        return observation, info | {"n_reasoning_steps": 0}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.n_closed += {3: 1, 5: 2}.get(int(action), 0)
        *rest, info = super().step(action)
        return *rest, info | {"n_reasoning_steps": self.n_closed}  # type: ignore[return-value]


class ScriptedPolicy:
    """Writes given responses, one after the other in each slot, whatever it is shown; see ``Policy.act``.

    The n-th token of a response has log-probability ``-(n + 1) / 8``. With ``keeps_sets`` it says that two tokens could
    be sampled: the one chosen and the one after it.
    """

    def __init__(self, scripts: Sequence[Sequence[Sequence[int]]], n_actions: int, *, keeps_sets: bool = False) -> None:
        self.scripts = scripts  # slot -> its responses, the agent's tokens alone
        self.n_actions = n_actions
        self.keeps_sets = keeps_sets
        self.last_allowed: npt.NDArray[np.uint8] | None = None
        self.last_values: npt.NDArray[np.float32] | None = None
        self.forget()

    def forget(self) -> None:
        self.place = [(-1, 0)] * len(self.scripts)  # (which response, which of its tokens) comes next

    def sets(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """``(n,)`` tokens chosen -> ``(n, ceil(V / 8))`` sets that they were sampled from."""
        allowed = np.zeros((len(tokens), self.n_actions), dtype=bool)
        allowed[np.arange(len(tokens)), tokens] = True
        allowed[np.arange(len(tokens)), (tokens + 1) % self.n_actions] = True
        return np.packbits(allowed, axis=1)

    def act(
        self, observations: Mapping[str, Any], restarted: npt.NDArray[np.bool_], waiting: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        actions = np.full(len(self.scripts), -1)
        logprobs = np.zeros(len(self.scripts), dtype=np.float32)
        for slot in np.flatnonzero(~waiting).tolist():
            response, token = (self.place[slot][0] + 1, 0) if restarted[slot] else self.place[slot]
            actions[slot] = self.scripts[slot][response][token]
            logprobs[slot] = -(token + 1) / 8
            self.place[slot] = response, token + 1
        if self.keeps_sets:
            self.last_allowed = self.sets(actions) * ~waiting[:, None]
        return actions, logprobs
