"""A model of half a billion parameters on a GPU: decoding, learning and a whole PPO step, against what bounds them.

The configuration of Qwen2.5-0.5B with random weights, in bfloat16; prompts of random words in a native environment.

    python benchmarks/gpu_decode.py --json gpu_decode.json             # needs a CUDA device
    python benchmarks/gpu_decode.py --device cpu --size tiny --slots 8 --repeats 1     # the same code, half a minute

*decode*: tokens a second of the ``policy.act`` loop at 64 to 512 slots, 512 new tokens each, in turn with transformers'
``generate`` and ``generate_batch`` (its continuous batching) on the same prompts. *floor* is the time that it takes to
read the weights and the keys and values of all slots in every step at the speed of a large copy in the same turn. The
environment's share is that of ``collect``, the whole loop of an agent.

*learner*: tokens a second of one GRPO update, prompts of every response counted, and the share of the rate of a large
matrix product that six operations for each weight and token come to (prompts of a group counted once, since they are
computed once; the output layer for responses alone).

*ppo*: seconds of a whole iteration of PPO on 256 prompts of 1,024 tokens with responses of 512: sampling, values and
log-probabilities under policy, critic and reference, and four steps of each.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from decode import Loop
from gpu_memory import SIZES
from learner import least_operations, product_rate
from side_by_side import Spread, in_turn, ratios, table, versions, write_json
from tasks import PAD, WORDS
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM
from transformers.generation import ContinuousBatchingConfig

from llmgym.agents.grpo import GRPO
from llmgym.agents.policies import Policy
from llmgym.agents.ppo import PPO
from llmgym.agents.rollouts import collect


@dataclass(frozen=True)
class Work:
    """What goes with a size of the model.

    Attributes:
        prompt_tokens: Of each prompt in the first two parts.
        new_tokens: Of each response, everywhere.
        ppo_prompts: Prompts of the PPO step.
        ppo_prompt_tokens: Of each of them.
        copied_mib: Of the copy that measures the memory.
        product: Rows and columns of the product that measures the arithmetic.
    """

    prompt_tokens: int
    new_tokens: int
    ppo_prompts: int
    ppo_prompt_tokens: int
    copied_mib: int
    product: int


WORK = {"0.5b": Work(128, 512, 256, 1024, 4096, 8192), "tiny": Work(8, 8, 8, 16, 16, 512)}


@dataclass(frozen=True)
class GPUDecode:
    """What to measure.

    Attributes:
        device: "cuda", or "cpu".
        size: "0.5b": Qwen2.5-0.5B's configuration. "tiny": the same architecture, small.
        dtype: Of the weights. None: bfloat16 on a GPU, float32 on a CPU.
        parts: Which measurements.
        peers: Ways of transformers to compare the first with.
        slots: Responses at once.
        group_size: Responses to each prompt.
        learner_prompts: Prompts of the GRPO update.
        n_minibatches: Optimiser steps of PPO in its one epoch.
        critic: PPO's, "model" of its own or "head".
        repeats: Of each measurement.
        json: File for the figures.
    """

    device: Literal["cuda", "cpu"] = "cuda"
    size: Literal["0.5b", "tiny"] = "0.5b"
    dtype: Literal["bfloat16", "float32"] | None = None
    parts: tuple[Literal["decode", "learner", "ppo"], ...] = ("decode", "learner", "ppo")
    peers: tuple[Literal["generate", "generate_batch"], ...] = ("generate", "generate_batch")
    slots: tuple[int, ...] = (64, 128, 256, 512)
    group_size: int = 8
    learner_prompts: int = 16
    n_minibatches: int = 4
    critic: Literal["model", "head"] = "model"
    repeats: int = 3
    json: Path | None = None

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the weights."""
        name = self.dtype or ("bfloat16" if self.device == "cuda" else "float32")
        dtype: torch.dtype = getattr(torch, name)
        return dtype

    def clock(self) -> float:
        """Wall time once the device has done what it was told."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def make_model(options: GPUDecode) -> Qwen2ForCausalLM:
    """Random weights; the same ones each time."""
    torch.manual_seed(0)
    with torch.device(options.device):
        return Qwen2ForCausalLM(Qwen2Config(**SIZES[options.size].config)).to(options.torch_dtype).eval()


def env_kwargs(options: GPUDecode, prompt_tokens: int) -> dict[str, Any]:
    """Of the environment of words."""
    n_words = SIZES[options.size].config["vocab_size"]
    return {"n_words": n_words, "prompt_tokens": prompt_tokens, "max_new_tokens": WORK[options.size].new_tokens}


# -- what bounds them -------------------------------------------------------------------------------------------------


def bandwidth(options: GPUDecode) -> float:
    """Bytes a second that a large copy reads and writes."""
    n_bytes = WORK[options.size].copied_mib * 2**20
    source = torch.ones(n_bytes, dtype=torch.uint8, device=options.device)
    target = torch.empty_like(source)
    return 2 * n_bytes / min(in_turn({"copy": lambda: target.copy_(source)}, 5, options.clock)["copy"])


def bytes_read(model: Qwen2ForCausalLM, n_slots: int, prompt_tokens: int, new_tokens: int) -> int:
    """What decoding cannot do without reading: in each step all weights once, keys and values of every slot."""
    config, size = model.config, torch.finfo(model.dtype).bits // 8
    weights = sum(parameter.numel() for parameter in model.parameters())  # tied: the output layer is counted once
    head_dim = config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim
    lengths = sum(range(prompt_tokens, prompt_tokens + new_tokens))
    return size * (new_tokens * weights + n_slots * per_token * lengths)


# -- decoding ---------------------------------------------------------------------------------------------------------


class Peers:
    """Transformers' two ways of generating for the same prompts."""

    def __init__(self, model: Qwen2ForCausalLM, prompts: np.ndarray, new_tokens: int) -> None:
        self.model, self.prompts, self.new_tokens = model, prompts, new_tokens
        self.sampling: dict[str, Any] = {
            "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": new_tokens,
            "pad_token_id": PAD, "eos_token_id": None,  # nobody ends early, and no processor has to see to it
        }  # fmt: skip

    @torch.no_grad()
    def generate(self) -> None:
        ids = torch.from_numpy(self.prompts).to(self.model.device)
        self.model.generate(ids, attention_mask=torch.ones_like(ids), **self.sampling)

    @torch.no_grad()
    def generate_batch(self) -> None:
        options = {}
        if self.model.device.type == "cpu":  # where it would fill the machine's memory, and zero it, each time
            n_tokens = self.prompts.shape[1] + self.new_tokens
            n_blocks = -(-n_tokens // 16) * len(self.prompts) + 8
            options = {"page_size": 16, "num_blocks": n_blocks, "max_batch_tokens": max(256, len(self.prompts))}
        written = self.model.generate_batch(
            self.prompts.tolist(),
            generation_config=GenerationConfig(**self.sampling),
            continuous_batching_config=ContinuousBatchingConfig(**options),
            progress_bar=False,
            persistent_manager=True,  # its cache and its graphs are made in the warm-up, as the loop's are
        )
        n_tokens = sum(len(result.generated_tokens) for result in written.values())
        if n_tokens != len(self.prompts) * self.new_tokens:
            sys.exit(
                f"Expected generate_batch to write {len(self.prompts) * self.new_tokens} tokens, actual: {n_tokens}."
            )

    def close(self) -> None:
        """Give back the memory that ``generate_batch`` keeps."""
        self.model.destroy_cached_continuous_batching_manager()


def decode_row(options: GPUDecode, n_slots: int) -> dict[str, Any]:
    """One number of slots: the loop, the peers and the floor in turn, then the environment's share."""
    work, group = WORK[options.size], options.group_size
    model = make_model(options)
    policy = Policy(model)
    n_words = model.config.vocab_size
    rng = np.random.default_rng(0)
    prompts = np.repeat(rng.integers(3, n_words, size=(n_slots // group, work.prompt_tokens)), group, axis=0)
    distinct = rng.integers(3, n_words, size=prompts.shape)
    peers = Peers(make_model(options), prompts, work.new_tokens)
    speeds: list[float] = []
    runs: dict[str, Callable[[], Any]] = {
        "act": Loop(policy, prompts, np.full(n_slots, work.new_tokens), n_slots),
        "act, no groups": Loop(policy, distinct, np.full(n_slots, work.new_tokens), n_slots),
        **{name: getattr(peers, name) for name in options.peers},
        "bandwidth": lambda: speeds.append(bandwidth(options)),
    }
    seconds = in_turn(runs, options.repeats, options.clock)
    if "generate_batch" in options.peers:
        peers.close()
    n_bytes = bytes_read(model, n_slots, work.prompt_tokens, work.new_tokens)
    seconds["floor"] = [n_bytes / speed for speed in speeds[-options.repeats :]]
    del seconds["bandwidth"]
    envs = gym.make_vec(WORDS, num_envs=n_slots, autoreset_mode="disabled", **env_kwargs(options, work.prompt_tokens))
    batch = collect(envs, policy, group_size=group, seed=0)
    n_tokens = n_slots * work.new_tokens
    return {
        "part": "decode",
        "slots": n_slots,
        "tokens_per_second": {
            name: Spread.of([n_tokens / once for once in timed])._asdict() for name, timed in seconds.items()
        },
        "act_is_faster": {name: ratios(seconds["act"], seconds[name])._asdict() for name in options.peers},
        "share_of_floor": ratios(seconds["act"], seconds["floor"])._asdict(),
        "env_share": batch.env_seconds / batch.seconds,
        "collect_tokens_per_second": batch.n_timesteps / batch.seconds,
    }


def print_decode(options: GPUDecode, rows: list[dict[str, Any]]) -> None:
    cells = [
        [
            row["slots"],
            *(f"{rate['median']:,.0f}" for rate in row["tokens_per_second"].values()),
            *(f"{Spread(**times):.2f}" for times in row["act_is_faster"].values()),
            f"{100 * row['share_of_floor']['median']:.0f} %",
            f"{row['collect_tokens_per_second']:,.0f}",
            f"{100 * row['env_share']:.1f} %",
        ]
        for row in rows
    ]
    names = list(rows[0]["tokens_per_second"])
    headings = ["slots", *(f"{name}, tokens/s" for name in names), *(f"act / {name}" for name in options.peers)]
    print(table([*headings, "of the floor", "collect, tokens/s", "environment's share of it"], cells))


# -- learning ---------------------------------------------------------------------------------------------------------


def learner_row(options: GPUDecode) -> dict[str, Any]:
    """GRPO updates on one roll-out."""
    work = WORK[options.size]
    policy = Policy(make_model(options))
    agent = GRPO(
        policy,
        WORDS,
        problems_per_iteration=options.learner_prompts,
        group_size=options.group_size,
        n_minibatches=1,
        learning_rate=1e-6,
        loss_average="token",
        run_dir=None,
        env_kwargs=env_kwargs(options, work.prompt_tokens),
    )
    batch, _ = agent.collect()
    policy.forget()
    rates: list[float] = []
    runs = {
        "update": lambda: agent.update(batch),
        "rate": lambda: rates.append(product_rate(options.torch_dtype, options.clock, work.product, options.device)),
    }
    seconds = in_turn(runs, options.repeats, options.clock)["update"]
    n_tokens = int(batch.response_lengths.sum() + batch.prompt_lengths.sum())
    floor = [least_operations(policy.model, batch) / rate for rate in rates[-options.repeats :]]
    return {
        "part": "learner",
        "tokens": n_tokens,
        "tokens_per_second": Spread.of([n_tokens / once for once in seconds])._asdict(),
        "utilisation": ratios(seconds, floor)._asdict(),
        "product_rate": Spread.of(rates[-options.repeats :])._asdict(),
    }


def ppo_row(options: GPUDecode) -> dict[str, Any]:
    """Whole iterations of PPO."""
    work = WORK[options.size]
    agent = PPO(
        Policy(make_model(options)),
        WORDS,
        problems_per_iteration=work.ppo_prompts,
        responses_per_problem=1,
        n_epochs=1,
        n_minibatches=options.n_minibatches,
        critic=options.critic,
        kl_coef=0.001,
        learning_rate=1e-6,
        run_dir=None,
        env_kwargs=env_kwargs(options, work.ppo_prompt_tokens),
    )
    told: list[dict[str, Any]] = []
    seconds = in_turn({"ppo": lambda: told.append(agent.iterate())}, options.repeats, options.clock)["ppo"]
    return {
        "part": "ppo",
        "seconds": Spread.of(seconds)._asdict(),
        "collect_seconds": told[-1]["time/collect"],
        "update_seconds": told[-1]["time/update"],
        "env_share": agent.env_seconds / agent.train_seconds,
    }


def main(options: GPUDecode) -> list[dict[str, Any]]:
    """Measure, print, write."""
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "Expected a CUDA device, actual: torch finds none here. Run it where there is one, or run the same code on "
            "this machine with a small model: --device cpu --size tiny --slots 8"
        )
    work = WORK[options.size]
    for n_slots in options.slots:
        if n_slots % options.group_size:
            sys.exit(f"Expected slots that group_size={options.group_size} divides, actual: {n_slots}. Change one.")
    where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"Qwen2.5-0.5B's architecture, size {options.size}, {options.torch_dtype}, on {where}\n")
    rows: list[dict[str, Any]] = []
    if "decode" in options.parts:
        rows += [decode_row(options, n_slots) for n_slots in options.slots]
        print_decode(options, rows)
    if "learner" in options.parts:
        row = learner_row(options)
        rows.append(row)
        print(
            f"\nlearner: {Spread(**row['tokens_per_second']):,.0f} tokens/s, "
            f"{100 * row['utilisation']['median']:.1f} % of {row['product_rate']['median'] / 1e12:.3g} TFLOP/s"
        )
    if "ppo" in options.parts:
        row = ppo_row(options)
        rows.append(row)
        print(
            f"PPO, {work.ppo_prompts} prompts of {work.ppo_prompt_tokens} + {work.new_tokens} tokens: "
            f"{Spread(**row['seconds']):.1f} s an iteration ({row['collect_seconds']:.1f} s sampling, "
            f"{row['update_seconds']:.1f} s learning; environment {100 * row['env_share']:.1f} %)"
        )
    write_json(options.json, options, rows, device=where, versions=versions("torch", "transformers"))
    return rows


if __name__ == "__main__":
    main(tyro.cli(GPUDecode, description=__doc__))
