"""Supervised fine-tuning: next-token cross-entropy on given responses. The cold start of a reasoning model.

What is in this file: how the shipped base model is trained, and the supervised row that reinforcement learning is
compared with. What is not: where the examples come from; the caller hands them in as token ids.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Prompt token ids and response token ids (the end token included).
Example = tuple[Sequence[int], Sequence[int]]

#: ``input_ids (b, S)``, ``prompt_lengths (b,)``, ``lengths (b,)``.
Microbatch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class SFTConfig:
    """Hyperparameters of supervised fine-tuning.

    Attributes:
        learning_rate: Peak step size of AdamW (embeddings, norms). 1e-4 to 3e-3 for small models.
        muon_learning_rate: Peak step size of Muon (the matrices inside the blocks), which learns such small models in
            about half the tokens; 0 trains everything with AdamW. 0.005 to 0.05.
        tokens_per_microbatch: Tokens, padding included, in one forward and backward pass. Bounded by memory.
        microbatches: Passes in one optimizer step. More is steadier and slower.
        pool_size: Examples sorted by length before they are cut; more wastes less on padding.
        warmup_steps: Steps of linear warm-up.
        decay_share: Last share of the budget over which the rate falls linearly to zero (arXiv:2405.18392).
        max_grad_norm: Gradient norm is clipped to this.
        weight_decay: Of AdamW and Muon, on matrices only.
        seed: Of the order of batches.
    """

    learning_rate: float = 2e-3
    muon_learning_rate: float = 0.02
    tokens_per_microbatch: int = 1536
    microbatches: int = 4
    pool_size: int = 4096
    warmup_steps: int = 100
    decay_share: float = 0.35
    max_grad_norm: float = 1.0
    weight_decay: float = 0.01
    seed: int = 0


def response_cross_entropy(model: nn.Module, input_ids: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    """Sum of the negative log-likelihood of the response tokens.

    ``L = - sum_b sum_{t in response b} log pi(x_t | x_<t)``. Divided by the response tokens of the whole batch, it does
    not depend on how the batch was cut.

    Args:
        model: A Hugging Face causal language model.
        input_ids: ``(B, S)`` int64, prompt then response, padded on the right. Being causal, no row sees its padding.
        prompt_lengths: ``(B,)`` int64.
        lengths: ``(B,)`` int64, prompt and response together.

    Returns:
        A scalar, nats.
    """
    position = torch.arange(input_ids.shape[1] - 1, device=input_ids.device)
    # Position t predicts token t + 1, so the response is predicted from its prompt's last token on.
    predicts = (position >= prompt_lengths[:, None] - 1) & (position < lengths[:, None] - 1)  # (B, S-1)
    backbone, head = model.get_decoder(), model.get_output_embeddings()  # type: ignore[operator]
    hidden = backbone(input_ids=input_ids, use_cache=False).last_hidden_state[:, :-1]  # (B, S-1, H)
    logits = head(hidden[predicts])  # logits only where a response token is predicted
    return F.cross_entropy(logits.float(), input_ids[:, 1:][predicts], reduction="sum")


def batches(examples: Iterator[Example], config: SFTConfig) -> Iterator[list[Microbatch]]:
    """Cut a stream of examples into optimizer batches, each a list of microbatches of similar length.

    A pool of examples is sorted by length and cut into microbatches; a batch takes microbatches from all over the pool,
    so that short and long examples are in each batch as they are in the pool.

    Yields:
        Lists of ``(input_ids (b, S), prompt_lengths (b,), lengths (b,))``, int64, padded on the right.
    """
    generator = torch.Generator().manual_seed(config.seed)
    while pool := list(itertools.islice(examples, config.pool_size)):
        pool.sort(key=lambda example: len(example[0]) + len(example[1]))
        cut: list[list[Example]] = [[]]
        for example in pool:
            width = len(example[0]) + len(example[1])  # sorted: the widest of the microbatch so far
            if cut[-1] and width * (len(cut[-1]) + 1) > config.tokens_per_microbatch:
                cut.append([])
            cut[-1].append(example)
        n_batches = max(1, round(len(cut) / config.microbatches))
        order = torch.randperm(n_batches, generator=generator).tolist()
        for first in order:
            yield [_as_tensors(rows) for rows in cut[first::n_batches]]


def _as_tensors(rows: Sequence[Example]) -> Microbatch:
    lengths = torch.tensor([len(prompt) + len(response) for prompt, response in rows])
    input_ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for i, (prompt, response) in enumerate(rows):
        input_ids[i, : lengths[i]] = torch.tensor([*prompt, *response])
    return input_ids, torch.tensor([len(prompt) for prompt, _ in rows]), lengths


class SFT:
    """Trains a causal language model on examples.

    Args:
        model: A Hugging Face causal language model; trained in place. Muon takes the matrices of its decoder but for
            the embeddings, whatever the blocks are called.
        examples: Endless or finite iterator of ``(prompt_ids, response_ids)``.
        config: Hyperparameters.
    """

    def __init__(self, model: nn.Module, examples: Iterator[Example], config: SFTConfig | None = None) -> None:
        self.model = model
        self.config = config or SFTConfig()
        self._batches = batches(examples, self.config)
        decoder: nn.Module = model.get_decoder()  # type: ignore[operator]
        embeddings = {p for m in decoder.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        blocks = {p for p in decoder.parameters() if p.ndim == 2 and p not in embeddings}
        if self.config.muon_learning_rate == 0:
            blocks = set()
        others = [p for p in model.parameters() if p not in blocks]
        decay = self.config.weight_decay
        groups: list[dict[str, Any]] = [
            {"params": [p for p in others if p.ndim >= 2], "weight_decay": decay},
            {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
        ]
        self._optimizers: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.AdamW(groups, lr=self.config.learning_rate, betas=(0.9, 0.98)), self.config.learning_rate)
        ]
        if blocks:
            ordered = [p for p in model.parameters() if p in blocks]  # a set has no order to train in
            rate = self.config.muon_learning_rate
            muon = torch.optim.Muon(ordered, lr=rate, weight_decay=decay, momentum=0.95)
            self._optimizers.append((muon, rate))

    def learn(
        self,
        n_steps: int | None = None,
        *,
        max_seconds: float = math.inf,
        callback: Callable[[int, float], None] | None = None,
    ) -> int:
        """Train until ``n_steps`` optimizer steps or ``max_seconds`` are used up, whichever comes first.

        Args:
            n_steps: With ``max_seconds`` alone, the result depends on the machine's speed; with ``n_steps``, only on
                the seed.
            max_seconds: Wall time.
            callback: Called with the number of steps done and the loss (nats per response token) after each step.

        Returns:
            Optimizer steps done.

        Raises:
            ValueError: If neither budget is given, or one is not above 0.
        """
        if n_steps is None and max_seconds == math.inf:
            raise ValueError("Expected `n_steps` or `max_seconds`, actual: neither. Give one of them.")
        if (n_steps is not None and n_steps <= 0) or max_seconds <= 0:
            raise ValueError(f"Expected budgets > 0, actual: {n_steps=}, {max_seconds=}. Raise them.")
        started = time.perf_counter()
        done = 0
        self.model.train()
        for batch in self._batches:
            share = max((time.perf_counter() - started) / max_seconds, done / n_steps if n_steps else 0.0)
            if share >= 1:
                break
            self._set_rates(done, share)
            n_tokens = sum(int((lengths - prompts).sum()) for _, prompts, lengths in batch)
            loss = 0.0
            for microbatch in batch:
                part = response_cross_entropy(self.model, *microbatch) / n_tokens
                part.backward()  # type: ignore[no-untyped-call]
                loss += part.item()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
            for optimizer, _ in self._optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            done += 1
            if callback is not None:
                callback(done, loss)
        self.model.eval()
        return done

    def _set_rates(self, done: int, share: float) -> None:
        """Warm up, hold, decay: by steps at the start, by share of the budget at the end."""
        warm = min(1.0, (done + 1) / self.config.warmup_steps) if self.config.warmup_steps else 1.0
        cool = min(1.0, (1.0 - share) / self.config.decay_share) if self.config.decay_share else 1.0
        for optimizer, rate in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * warm * cool
