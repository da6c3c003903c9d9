"""How much memory an update takes: all weights or LoRA, gradient checkpointing, log-probabilities in chunks.

A model of 0.5 billion parameters (the configuration of Qwen2.5-0.5B, random weights) plays an environment in which
every response has 512 tokens, 16 of them to each prompt; then GRPO and PPO make one update each, with a KL penalty, so
that a reference policy is there too.

    python benchmarks/gpu_memory.py                                 # needs a CUDA device
    python benchmarks/gpu_memory.py --device cpu --size tiny        # the same code with a small model, under a minute

Columns, in MiB: *held* are weights, reference, gradients and optimisers after the update; on a GPU *roll-out* and
*update* are the peaks of ``torch.cuda.max_memory_allocated`` in each; on a CPU, which counts no such peak,
*activations* is the most that was kept for backward passes at one time.
"""

from __future__ import annotations

import gc
import sys
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from transformers import Qwen2Config, Qwen2ForCausalLM

from llmgym.agents.grpo import GRPO
from llmgym.agents.optimizers import MixedPrecisionAdamW
from llmgym.agents.policies import Policy
from llmgym.agents.ppo import PPO

MIB = 2**20


@dataclass(frozen=True)
class Size:
    """A model and the work for it.

    Attributes:
        config: Of the model.
        n_prompt_tokens: Tokens of each prompt.
        n_response_tokens: Tokens of each response.
        max_logits: Numbers in the logits of a chunk; ``None``: the policy's own choice.
    """

    config: dict[str, Any]
    n_prompt_tokens: int
    n_response_tokens: int
    max_logits: int | None


#: "0.5b" is https://huggingface.co/Qwen/Qwen2.5-0.5B/blob/main/config.json.
SIZES = {
    "0.5b": Size(
        {
            "vocab_size": 151_936,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32_768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
        },
        n_prompt_tokens=128,
        n_response_tokens=512,
        max_logits=None,
    ),
    "tiny": Size(
        {
            "vocab_size": 4_000,
            "hidden_size": 56,
            "intermediate_size": 304,
            "num_hidden_layers": 3,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
        },
        n_prompt_tokens=16,
        n_response_tokens=16,
        max_logits=2**15,
    ),
}


@dataclass(frozen=True)
class GPUMemory:
    """What to measure.

    Attributes:
        device: "cuda", or "cpu".
        size: "0.5b": Qwen2.5-0.5B's configuration. "tiny": the same architecture, small.
        dtype: Of the weights. None: bfloat16 on a GPU, float32 on a CPU.
        algorithms: Which agents make updates.
        critic: PPO's critic: "head" on the policy's trunk, or "model" of its own.
        group_size: Responses to each prompt.
        n_prompts: Prompts of the update.
        microbatch_tokens: Padded tokens in one forward pass. None: all responses to one prompt.
        lora_rank: Of the rows with LoRA.
        output: A file for the table, in Markdown. None: it is only printed.
    """

    device: Literal["cuda", "cpu"] = "cuda"
    size: Literal["0.5b", "tiny"] = "0.5b"
    dtype: Literal["bfloat16", "float32"] | None = None
    algorithms: tuple[Literal["grpo", "ppo"], ...] = ("grpo", "ppo")
    critic: Literal["head", "model"] = "head"
    group_size: int = 16
    n_prompts: int = 2
    microbatch_tokens: int | None = None
    lora_rank: int = 16
    output: Path | None = None


class FixedLengthEnv(gym.Env[dict[str, Any], int]):
    """Random tokens as a prompt; every response has the same length, and earns the share of even tokens in it."""

    def __init__(self, n_tokens: int, prompt_tokens: int, response_tokens: int) -> None:
        self.n_tokens, self.prompt_tokens, self.response_tokens = n_tokens, prompt_tokens, response_tokens
        width = prompt_tokens + response_tokens
        self.observation_space = gym.spaces.Dict(
            {
                "input_ids": gym.spaces.Box(0, n_tokens - 1, (width,), np.int32),
                "attention_mask": gym.spaces.Box(0, 1, (width,), np.int8),
            }
        )
        self.action_space = gym.spaces.Discrete(n_tokens)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.ids = np.zeros(self.prompt_tokens + self.response_tokens, np.int32)
        self.ids[: self.prompt_tokens] = self.np_random.integers(self.n_tokens, size=self.prompt_tokens)
        self.length = self.prompt_tokens
        return self._observation(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.ids[self.length] = action
        self.length += 1
        over = self.length == len(self.ids)
        reward = float((self.ids[self.prompt_tokens :] % 2 == 0).mean()) if over else 0.0
        return self._observation(), reward, over, False, {}

    def _observation(self) -> dict[str, Any]:
        mask = (np.arange(len(self.ids)) < self.length).astype(np.int8)
        return {"input_ids": self.ids.copy(), "attention_mask": mask}


def make_agent(options: GPUMemory, algorithm: str, *, lora: bool, checkpointing: bool, chunked: bool) -> GRPO | PPO:
    """An agent with random weights, set up for one row of the table."""
    size = SIZES[options.size]
    dtype = options.dtype or ("bfloat16" if options.device == "cuda" else "float32")
    torch.manual_seed(0)
    with torch.device(options.device):
        model = Qwen2ForCausalLM(Qwen2Config(**size.config)).to(getattr(torch, dtype))
    policy = Policy(model)
    if size.max_logits is not None:
        policy.max_logits = size.max_logits
    if not chunked:
        policy.max_logits = sys.maxsize

    def make_env() -> FixedLengthEnv:
        return FixedLengthEnv(size.config["vocab_size"], size.n_prompt_tokens, size.n_response_tokens)

    envs = SyncVectorEnv([make_env] * options.group_size * options.n_prompts, autoreset_mode=AutoresetMode.SAME_STEP)
    settings: dict[str, Any] = {
        "problems_per_iteration": options.n_prompts,
        "n_minibatches": 1,
        "n_epochs": 1,
        "microbatch_tokens": options.microbatch_tokens or options.group_size * size.n_response_tokens,
        "learning_rate": 1e-6,
        "warmup_iterations": 0,
        "kl_coef": 0.01,
        "lora_rank": options.lora_rank if lora else None,
        "gradient_checkpointing": checkpointing,
        "run_dir": None,
    }
    if algorithm == "grpo":
        return GRPO(policy, envs, group_size=options.group_size, **settings)
    return PPO(policy, envs, responses_per_problem=options.group_size, critic=options.critic, **settings)


def measure(options: GPUMemory, algorithm: str, **kind: bool) -> list[str]:
    """The cells of one row: memory in MiB, seconds."""
    on_gpu = options.device == "cuda"
    agent = make_agent(options, algorithm, **kind)
    kept = KeptForBackward(agent.policy.model.parameters())
    peaks, seconds = [], []
    batch: Any = None
    for work in ("collect", "update"):
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        with kept.counting() if not on_gpu else nullcontext():
            if work == "collect":
                batch, _ = agent.collect()
                agent.policy.forget()
            else:
                agent.update(batch)
        if on_gpu:
            torch.cuda.synchronize()
            peaks.append(torch.cuda.max_memory_allocated())
        seconds.append(time.perf_counter() - started)
    agent.envs.close()
    memory = [held_bytes(agent), *(peaks if on_gpu else [kept.peak])]
    return [*(f"{n_bytes / MIB:,.{0 if on_gpu else 1}f}" for n_bytes in memory), *(f"{s:.1f}" for s in seconds)]


def held_bytes(agent: GRPO | PPO) -> int:
    """Bytes of all weights, gradients and optimiser states; what is shared counts once."""
    tensors: list[torch.Tensor] = []
    models = [agent.policy.model, getattr(agent.reference, "model", None)]
    models += [getattr(agent, "critic", None), getattr(agent, "value_head", None)]
    for model in models:
        tensors += [] if model is None else [*model.parameters(), *model.buffers()]
    for optimizer in (agent.optimizer, getattr(agent, "critic_optimizer", None)):
        if isinstance(optimizer, MixedPrecisionAdamW):
            tensors += optimizer.masters
            tensors += [t for state in optimizer.adam.state.values() for t in state.values() if torch.is_tensor(t)]
    tensors += [tensor.grad for tensor in tensors if tensor.grad is not None]
    return sum({(t.data_ptr(), t.untyped_storage().nbytes()): t.untyped_storage().nbytes() for t in tensors}.values())


class KeptForBackward:
    """Counts the bytes that autograd keeps for backward passes, weights left out.

    Attributes:
        peak: The most at one time.
    """

    def __init__(self, weights: Iterable[torch.Tensor]) -> None:
        self._weights = {tensor.untyped_storage().data_ptr() for tensor in weights}
        self._holders: dict[int, int] = {}  # storage -> how many saved tensors are on it
        self._now = 0
        self.peak = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Within the context, what is saved is counted until the graph lets go of it."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: held.tensor):
            yield

    def _pack(self, tensor: torch.Tensor) -> _Held:
        held = _Held(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._weights:
            self._add(storage.data_ptr(), storage.nbytes())
            weakref.finalize(held, self._release, storage.data_ptr(), storage.nbytes())
        return held

    def _add(self, place: int, n_bytes: int) -> None:
        self._holders[place] = self._holders.get(place, 0) + 1
        if self._holders[place] == 1:
            self._now += n_bytes
            self.peak = max(self.peak, self._now)

    def _release(self, place: int, n_bytes: int) -> None:
        self._holders[place] -= 1
        if self._holders[place] == 0:
            del self._holders[place]
            self._now -= n_bytes


class _Held:
    """What autograd is given in place of a tensor; its end is the end of the saved tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def table(options: GPUMemory) -> list[str]:
    """All rows, as lines of Markdown; each is printed as soon as it is known."""
    on_gpu = options.device == "cuda"
    memory = ["held", "roll-out", "update"] if on_gpu else ["held", "activations"]
    names = ["agent", "weights trained", "checkpointing", "chunks", *memory, "roll-out (s)", "update (s)"]
    lines = ["| " + " | ".join(names) + " |", "|---|---|---|---|" + "---:|" * (len(names) - 4)]
    print("\n".join(lines))
    for algorithm, lora, checkpointing, chunked in product(options.algorithms, *[(False, True)] * 3):
        kind = {"lora": lora, "checkpointing": checkpointing, "chunked": chunked}
        try:
            cells = measure(options, algorithm, **kind)
        except torch.cuda.OutOfMemoryError:
            cells = ["out of memory"] + ["–"] * (len(names) - 5)
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()
        trained = f"LoRA, rank {options.lora_rank}" if lora else "all"
        row = [algorithm.upper(), trained, "yes" if checkpointing else "no", "yes" if chunked else "no", *cells]
        lines.append("| " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    return lines


def main(options: GPUMemory) -> None:
    """Measure and print."""
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "Expected a CUDA device, actual: torch finds none here. Run it where there is one, or run the same code on "
            "this machine with a small model: --device cpu --size tiny"
        )
    size = SIZES[options.size]
    with torch.device("meta"):
        n_parameters = sum(p.numel() for p in Qwen2ForCausalLM(Qwen2Config(**size.config)).parameters())
    where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(
        f"{n_parameters / 1e6:,.1f} M parameters on {where}; {options.n_prompts} prompts of {size.n_prompt_tokens} "
        f"tokens, {options.group_size} responses of {size.n_response_tokens} tokens to each\n"
    )
    lines = table(options)
    if options.output is not None:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(GPUMemory, description=__doc__))
