"""Hyperparameters that all agents have. What an algorithm adds stands in its own file."""

from __future__ import annotations

import os
from dataclasses import dataclass

from llmgym.errors import InvalidOptionError

#: What a field has to hold -> whether it does, and the rule in words.
Rules = dict[str, tuple[bool, str]]


@dataclass(frozen=True)
class AgentConfig:
    """Hyperparameters that all agents have.

    Attributes:
        num_envs: Slots of the vector environment. None: a slot for each episode of an iteration.
        learning_rate: Step size of AdamW. Usual: 1e-6 for billions of parameters (paper), 1e-4 to 1e-3 for a million.
        warmup_iterations: Iterations over which the learning rate rises from 0. More: a safer start. Usual: 0 to 20.
        final_learning_rate: Share of the learning rate left at the end of the budget, falling linearly. 1: constant.
        weight_decay: Of AdamW. Usual: 0 in reinforcement learning.
        adam_betas: Of AdamW. A lower second one follows the gradient's scale faster. Usual: (0.9, 0.95 to 0.999).
        max_grad_norm: Gradients longer than this are scaled down to it. Usual: 0.1 to 1.
        n_epochs: Passes over a rollout. More: each rollout is used more, off-policy. Usual: 1 to 4.
        n_minibatches: Optimiser steps in each pass. More: further off-policy. Usual: 1 to 8.
        microbatch_tokens: Tokens in one forward pass: memory and speed, never the result. Real tokens, prompts
            included, where llmgym's own code runs the model (None: 4096 on a CPU; twice as many where what acting
            computed is in memory already); elsewhere those of responses, padded (None: 2048 on a CPU). On a GPU None
            is 32768.
        temperature: Of the policy, in sampling and learning. Higher: more exploration. Usual: 1.
        top_k: Only the k likeliest tokens can be sampled; learning sees the same distribution. None: all.
        top_p: Only the likeliest tokens that make up this probability can be sampled; likewise. None: all.
        seed: Of problems, sampling and minibatches.
        lora_rank: Rank of adapters (LoRA) that are trained in place of the model's own weights. More: closer to
            training all of them, and more memory. None: all weights train. Usual: 8 to 64.
        lora_alpha: Weight of the adapters. None: 2 * lora_rank.
        gradient_checkpointing: Whether learning computes the inside of the layers again in the backward pass: a third
            more time for a fraction of the memory. Changes no result.
        run_dir: Folder of the run: its log, curves and checkpoints. A new run takes the next free name (runs/grpo-2).
            None: nothing is written.
        checkpoint_every: Iterations between checkpoints; one is written at the start and at the end too. More: less
            writing, and more to play again after a crash.
        keep_checkpoints: How many of the newest checkpoints stay. More: further back to go, and more disk. At least 2
            survive a damaged one.
    """

    num_envs: int | None = None
    learning_rate: float = 3e-4
    warmup_iterations: int = 5
    final_learning_rate: float = 0.05
    weight_decay: float = 0.0
    adam_betas: tuple[float, float] = (0.9, 0.99)
    max_grad_norm: float = 1.0
    n_epochs: int = 1
    n_minibatches: int = 4
    microbatch_tokens: int | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    lora_rank: int | None = None
    lora_alpha: float | None = None
    gradient_checkpointing: bool = False
    run_dir: str | None = None
    checkpoint_every: int = 10
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        """Refuse numbers that cannot work; a ``Path`` is written down as text."""
        if self.run_dir is not None:
            object.__setattr__(self, "run_dir", os.fspath(self.run_dir))
        for name, (holds, rule) in self.rules().items():
            if not holds:
                raise InvalidOptionError(f"Expected {name} to be {rule}, actual: {getattr(self, name)!r}. Change it.")

    def rules(self) -> Rules:
        """What each field has to hold. Temperature, top_k, top_p and LoRA's options are checked by the policy."""
        return {
            "num_envs": (self.num_envs is None or self.num_envs > 0, "> 0"),
            "learning_rate": (self.learning_rate > 0, "> 0"),
            "warmup_iterations": (self.warmup_iterations >= 0, ">= 0"),
            "final_learning_rate": (0 <= self.final_learning_rate <= 1, "in [0, 1]"),
            "weight_decay": (self.weight_decay >= 0, ">= 0"),
            "adam_betas": (all(0 <= beta < 1 for beta in self.adam_betas), "two numbers in [0, 1)"),
            "max_grad_norm": (self.max_grad_norm > 0, "> 0"),
            "n_epochs": (self.n_epochs >= 1, ">= 1"),
            "n_minibatches": (self.n_minibatches >= 1, ">= 1"),
            "microbatch_tokens": (self.microbatch_tokens is None or self.microbatch_tokens >= 1, ">= 1"),
            "lora_alpha": (self.lora_alpha is None or self.lora_rank is not None, "None without lora_rank"),
            "checkpoint_every": (self.checkpoint_every >= 1, ">= 1"),
            "keep_checkpoints": (self.keep_checkpoints >= 1, ">= 1"),
        }
