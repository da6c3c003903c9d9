"""TRL's trainers, set up as fast as they go on a CPU and stepped in turn with an agent of llmgym in one process.

A trainer owns its loop, so the turn is taken in its ``on_step_end`` callback: what passes from one end of a step to the
next is TRL's (fetching a batch, generating, rewards, learning), and in between one iteration of the agent is timed.
For :mod:`vs_trl` and :mod:`learner`, which run it in processes of their own; needs TRL (the extra ``bench``).

What is off in TRL, since it would cost time and serve nothing here: gradient checkpointing, logging, evaluation,
saving, a reference for a KL penalty of 0 (GRPO; PPO always computes one), data-loader workers, `gc.collect` in each
step of PPO. On: the fused AdamW, attention by ``scaled_dot_product_attention``, the whole batch in one micro-batch.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tasks import END, PAD, EndAt, Lengths, draw_lengths, even_share, peer_tokenizer, tokenizer
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, TrainerCallback
from transformers.utils import logging as transformers_logging


@dataclass
class Work:
    """What both sides do.

    Attributes:
        prompts: Texts to draw from.
        answers: Right answers; empty: the reward is the share of even tokens.
        n_prompts: Prompts of a step.
        group_size: Responses to each.
        max_new_tokens: Budget of each.
        n_steps: Steps of the trainer.
        lengths: Of the responses.
        n_epochs: Of PPO.
        learning_rate: Of AdamW, constant.
        bfloat16: Whether TRL trains under its own ``bf16=True``.
        microbatch: Rows in one of TRL's forward passes; ``None``: all.
        n_words: Of the vocabulary of words; ``None``: sums.
        seed: Of the trainer.
    """

    prompts: list[str]
    answers: list[str] = field(default_factory=list)
    n_prompts: int = 16
    group_size: int = 8
    max_new_tokens: int = 32
    n_steps: int = 8
    lengths: Lengths = "full"
    n_epochs: int = 4
    learning_rate: float = 1e-4
    bfloat16: bool = False
    microbatch: int | None = None
    n_words: int | None = None
    seed: int = 0

    @property
    def n_samples(self) -> int:
        """Responses of a step."""
        return self.n_prompts * self.group_size


class Turns(TrainerCallback):
    """Times TRL's steps, and what takes its turn after each of them.

    Args:
        turn: Called after each step with its number, from 1; gives the seconds of CPU or wall time that count.
        clock: What TRL's steps are timed by.
    """

    def __init__(self, turn: Callable[[int], float], clock: Callable[[], float]) -> None:
        self.turn, self.clock = turn, clock
        self.theirs: list[float] = []
        self.ours: list[float] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.since = self.clock()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.theirs.append(self.clock() - self.since)
        self.ours.append(self.turn(len(self.theirs)))
        self.since = self.clock()


class FixedLengths:
    """Gives every ``generate`` of a model the lengths that were asked for, in the place of that method.

    Attributes:
        n_tokens: Tokens of responses that it wrote so far.
    """

    def __init__(self, model: LlamaForCausalLM, work: Work) -> None:
        self._generate, self._work = model.generate, work
        self._rng = np.random.default_rng(work.seed)
        self.n_tokens = 0

    def __call__(self, *args: Any, input_ids: torch.Tensor, generation_config: Any, **kwargs: Any) -> Any:
        lengths = np.full(len(input_ids), self._work.max_new_tokens)
        if self._work.lengths == "full":
            generation_config.suppress_tokens = [END]
        else:
            lengths = draw_lengths(len(input_ids), self._work.max_new_tokens, self._rng)
            kwargs["logits_processor"] = [EndAt(lengths, input_ids.shape[1])]
        self.n_tokens += int(lengths.sum())
        return self._generate(*args, input_ids=input_ids, generation_config=generation_config, **kwargs)


def _common(work: Work) -> dict[str, Any]:
    """Arguments that both trainers have."""
    return {
        "output_dir": tempfile.mkdtemp(prefix="llmgym-trl-"),
        "learning_rate": work.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "adam_beta2": 0.999,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "bf16": work.bfloat16,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "seed": work.seed,
    }


def _quiet() -> None:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.simplefilter("ignore")


def grpo_trainer(model: LlamaForCausalLM, work: Work, callbacks: list[TrainerCallback]) -> Any:
    """TRL's GRPO: no KL, one step on each roll-out, the loss averaged over tokens."""
    _quiet()
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    if work.lengths != "free":
        model.generate = FixedLengths(model, work)  # of this one object: the class stays as it is
    encode = tokenizer(work.n_words).encode
    right = {prompt: [*encode(answer), END] for prompt, answer in zip(work.prompts, work.answers, strict=False)}

    def reward(prompts: list[str], completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        if not right:
            return [even_share(ids) for ids in completion_ids]
        return [
            float(list(ids[: len(right[prompt])]) == right[prompt])
            for prompt, ids in zip(prompts, completion_ids, strict=True)
        ]

    microbatch = work.microbatch or work.n_samples
    options = GRPOConfig(
        **_common(work),
        per_device_train_batch_size=microbatch,
        gradient_accumulation_steps=work.n_samples // microbatch,
        num_generations=work.group_size,
        max_completion_length=work.max_new_tokens,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=0.0,
        num_iterations=1,
        loss_type="dapo",
        max_steps=work.n_steps,
        disable_dropout=False,
        shuffle_dataset=True,
        log_completions=False,
    )
    return GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=options,
        train_dataset=Dataset.from_dict({"prompt": work.prompts}),
        processing_class=peer_tokenizer(work.n_words),
        callbacks=callbacks,
    )


class _ReadsIds(torch.nn.Module):
    """A backbone of a reward model that passes on the ids."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any) -> Any:
        ids = torch.where(attention_mask.bool(), input_ids, PAD)
        return type("Output", (), {"hidden_states": [ids]})()


class EvenShareModel(torch.nn.Module):
    """The share of even tokens as a reward model, which is what this trainer asks for."""

    base_model_prefix = "backbone"

    def __init__(self, prompt_tokens: int) -> None:
        super().__init__()
        self.backbone, self.prompt_tokens = _ReadsIds(), prompt_tokens

    def score(self, ids: torch.Tensor) -> torch.Tensor:
        responses = ids[:, self.prompt_tokens :].tolist()
        shares = [even_share(row[: row.index(END)] if END in row else row) for row in responses]
        return torch.tensor(shares)[:, None, None].expand(*ids.shape, 1)


def ppo_trainer(model: LlamaForCausalLM, work: Work, callbacks: list[TrainerCallback]) -> Any:
    """TRL's PPO, up to 1.12: a value model of its own, and always a reference. Every response has its own prompt."""
    _quiet()
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    ppo_trainer.gc.collect = lambda *args: 0  # twice in each step
    model.generate = FixedLengths(model, work)
    encode = tokenizer().encode
    value_model = LlamaForSequenceClassification._from_config(_one_label(model.config))
    value_model.model.load_state_dict(model.model.state_dict())
    reference = LlamaForCausalLM(model.config)
    reference.load_state_dict(model.state_dict())
    options = PPOConfig(
        **_common(work),
        per_device_train_batch_size=work.n_samples,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=work.n_epochs,
        total_episodes=work.n_steps * work.n_samples,
        local_rollout_forward_batch_size=work.n_samples,
        response_length=work.max_new_tokens,
        temperature=1.0,
        stop_token=None if work.lengths == "full" else "eos",
        kl_coef=0.0,
        cliprange=0.2,
        vf_coef=0.5,
        cliprange_value=0.2,
        gamma=1.0,
        lam=1.0,
        num_sample_generations=0,
    )
    return PPOTrainer(
        args=options,
        processing_class=peer_tokenizer(),
        model=model,
        ref_model=reference,
        reward_model=EvenShareModel(len(encode(work.prompts[0]))),
        value_model=value_model,
        train_dataset=Dataset.from_dict({"input_ids": [encode(prompt) for prompt in work.prompts]}),
        callbacks=callbacks,
    )


def _one_label(config: Any) -> Any:
    copied = type(config).from_dict(config.to_dict())
    copied.num_labels = 1
    return copied


TRAINERS: dict[str, Callable[..., Any]] = {"grpo": grpo_trainer, "ppo": ppo_trainer}
