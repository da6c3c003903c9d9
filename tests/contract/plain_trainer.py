"""A policy gradient written out plainly, and beside it the ways in which such code goes wrong."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmgym.agents.rollout_batches import RolloutBatch
from llmgym.testing.invariances import Episode, Gradient, RewardFunction, TrainerAdapter, make_batch
from tests.unit.agent_fakes import END, VOCABULARY, EchoEnv


def one_layer(seed: int) -> LlamaForCausalLM:
    """The smallest model that attends: the battery asks it many times."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=VOCABULARY, initializer_range=0.3, eos_token_id=END, bos_token_id=None, **sizes)
    return LlamaForCausalLM(config)


MODEL, REFERENCE = one_layer(0), one_layer(1)

Tensors = dict[str, torch.Tensor]


class PlainTrainer(TrainerAdapter):
    """Clipped ratio, KL and entropy terms, over plain forward passes of a tiny model; group advantages, or a critic."""

    vocab_size, end_token = VOCABULARY, END
    temperature, top_k, group_size = 0.7, 6, 4

    def __init__(self, *, critic: bool = False) -> None:
        self.group_baseline = not critic
        self.model, self.reference = copy.deepcopy(MODEL), REFERENCE
        torch.manual_seed(2)
        self.value_head = torch.nn.Linear(16, 1)

    # -- data --------------------------------------------------------------------------------------------------------

    def tensors(self, batch: RolloutBatch) -> Tensors:
        """Prompt and response side by side, as they are padded in the batch."""
        prompt_width, width = batch.prompt_ids.shape[1], batch.response_ids.shape[1]
        before = np.arange(prompt_width) >= prompt_width - batch.prompt_lengths[:, None]
        after = np.arange(width) < batch.response_lengths[:, None]
        allowed = np.ones((*batch.response_ids.shape, self.vocab_size), dtype=bool)
        if batch.allowed is not None:
            allowed = np.unpackbits(batch.allowed, axis=2, count=self.vocab_size).astype(bool)
        return {
            "ids": torch.tensor(np.concatenate([batch.prompt_ids, batch.response_ids], axis=1)),
            "attention_mask": torch.tensor(np.concatenate([before, after], axis=1)).long(),
            "response_ids": torch.tensor(batch.response_ids),
            "allowed": torch.tensor(allowed | ~batch.response_mask[..., None]),
            "old_logprobs": torch.tensor(batch.old_logprobs),
            "mask": torch.tensor(self.mask(batch)),
        }

    def mask(self, batch: RolloutBatch) -> Any:
        return batch.response_mask

    def rewards(self, batch: RolloutBatch) -> torch.Tensor:
        """At the policy's tokens alone: what is paid after one is paid to it."""
        rewards = np.zeros_like(batch.rewards)
        for row, column in zip(*np.nonzero(~(np.isnan(batch.rewards) & ~batch.response_mask)), strict=True):
            before = np.flatnonzero(batch.response_mask[row, : column + 1])
            if len(before):
                rewards[row, before[-1]] += batch.rewards[row, column]
        if np.isnan(rewards).any():
            raise ValueError("Expected rewards that are numbers, actual: NaN.")
        return torch.tensor(rewards)

    # -- model -------------------------------------------------------------------------------------------------------

    def positions(self, attention_mask: torch.Tensor) -> torch.Tensor:
        return (attention_mask.cumsum(1) - 1).clamp(min=0)

    def forward(self, model: Any, data: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states and logits before each response token: ``(B, T, ...)``."""
        result = model(
            input_ids=data["ids"],
            attention_mask=data["attention_mask"],
            position_ids=self.positions(data["attention_mask"]),
            output_hidden_states=True,
        )
        width = data["response_ids"].shape[1]
        return result.hidden_states[-1][:, -width - 1 : -1], result.logits[:, -width - 1 : -1]

    def distribution(self, logits: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """``(B, T, V)`` log-probabilities of what can be drawn."""
        return (logits / self.temperature).masked_fill(~allowed, -1e9).log_softmax(-1)

    def scores(self, model: Any, data: Tensors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probabilities, entropies and values, ``(B, T)`` each."""
        hidden, logits = self.forward(model, data)
        flat = self.distribution(logits, data["allowed"])
        logprobs = flat.gather(-1, data["response_ids"].unsqueeze(-1))[..., 0]
        return logprobs, -(flat.exp() * flat).sum(-1), self.value_head(hidden.detach())[..., 0]

    @torch.no_grad()
    def logprobs(self, batch: RolloutBatch) -> torch.Tensor:
        return self.scores(self.model, self.tensors(batch))[0]

    # -- credit ------------------------------------------------------------------------------------------------------

    def estimate(self, batch: RolloutBatch, data: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        """Advantages and the critic's targets, ``(B, T)``."""
        rewards, mask = self.rewards(batch), data["mask"]
        if self.group_baseline:
            returns = rewards.sum(1)
            advantages = self.compared(returns, batch).unsqueeze(1) * torch.ones_like(rewards)
            return advantages.float(), rewards.flip(1).cumsum(1).flip(1).float()
        with torch.no_grad():
            values = self.scores(self.model, data)[2]
        last = torch.where(self.was_cut_off(batch), torch.tensor(0.3), torch.tensor(0.0))  # a stand-in for a bootstrap
        advantages = self.advantages(rewards.float(), values, last, mask, gamma=1.0, gae_lambda=0.95)
        return advantages, torch.where(mask, advantages + values, 0.0)

    def compared(self, returns: torch.Tensor, batch: RolloutBatch) -> torch.Tensor:
        grouped = returns.view(-1, batch.group_size)
        return (grouped - grouped.mean(1, keepdim=True)).flatten()

    def was_cut_off(self, batch: RolloutBatch) -> torch.Tensor:
        return torch.tensor(batch.truncated)

    def advantages(self, rewards, values, last_values, response_mask, *, gamma, gae_lambda):  # type: ignore[no-untyped-def]
        result = torch.zeros_like(values)
        for row in range(len(values)):
            advantage, following, owed = 0.0, last_values[row], 0.0
            for column in reversed(range(values.shape[1])):
                reward = rewards[row, column]
                if not response_mask[row, column]:
                    owed = owed + (0.0 if reward.isnan() else reward)
                    continue
                delta = reward + owed + gamma * following - values[row, column]
                advantage = delta + gamma * gae_lambda * advantage
                following, owed = values[row, column], 0.0
                result[row, column] = advantage
        return result

    # -- learning ----------------------------------------------------------------------------------------------------

    def microbatches(self, batch: RolloutBatch, tokens: int) -> Iterator[torch.Tensor]:
        width = batch.prompt_ids.shape[1] + batch.response_ids.shape[1]
        yield from torch.arange(len(batch)).split(max(1, tokens // width))

    def gradient(self, batch: RolloutBatch, *, microbatch_tokens: int) -> Gradient:
        data = self.tensors(batch)
        data["advantages"], data["targets"] = self.estimate(batch, data)
        for module in (self.model, self.value_head):
            module.zero_grad(set_to_none=True)
        for rows in self.microbatches(batch, microbatch_tokens):
            part = {name: values[rows] for name, values in data.items()}
            self.loss(part, n_tokens=int(data["mask"].sum()), share=len(rows) / len(batch)).backward()
        return self.gradients()

    def gradients(self) -> Gradient:
        named = [("policy.", self.model), ("critic.", self.value_head)]
        return {
            part + name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            for part, module in named
            for name, parameter in module.named_parameters()
        }

    def loss(self, part: Tensors, *, n_tokens: int, share: float) -> torch.Tensor:
        """This microbatch's share. ``share`` of the batch's rows is what a trainer that averages wrongly needs."""
        mask = part["mask"]
        logprobs, entropy, values = self.scores(self.model, part)
        with torch.no_grad():
            ref_logprobs = self.scores(self.reference, part)[0]
        ratio = (logprobs - self.old_logprobs(part, logprobs)).exp()
        advantages = part["advantages"]
        surrogate = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        kl = (ref_logprobs - logprobs).exp() - (ref_logprobs - logprobs) - 1
        terms = {
            "policy": surrogate,
            "kl": 0.1 * kl,
            "entropy": -0.05 * entropy,
            "critic": (values - part["targets"]) ** 2,
        }
        return torch.stack([self.average(term, mask, n_tokens, share, name) for name, term in terms.items()]).sum()

    def old_logprobs(self, part: Tensors, logprobs: torch.Tensor) -> torch.Tensor:
        return torch.where(part["mask"], part["old_logprobs"], logprobs.detach())

    def average(self, term: torch.Tensor, mask: torch.Tensor, n_tokens: int, share: float, name: str) -> torch.Tensor:
        return torch.where(mask, term, 0.0).sum() / n_tokens

    def packed_gradient(self, batch: RolloutBatch) -> Gradient:
        """All of the batch as one row, in which a response sees its own prompt alone."""
        data = self.tensors(batch)
        advantages, targets = self.estimate(batch, data)
        for module in (self.model, self.value_head):
            module.zero_grad(set_to_none=True)
        real = data["attention_mask"].bool()
        n_prompt = batch.prompt_ids.shape[1]
        row = torch.arange(len(batch)).unsqueeze(1).expand_as(real)[real]
        sees = self.sees(row) & torch.ones(len(row), len(row)).tril().bool()
        result = self.model(
            input_ids=data["ids"][real].unsqueeze(0),
            position_ids=self.positions(data["attention_mask"])[real].unsqueeze(0),
            attention_mask=torch.where(sees, 0.0, torch.finfo(torch.float32).min)[None, None],
            output_hidden_states=True,
        )
        shape, width = real.shape, batch.response_ids.shape[1]
        index = torch.zeros(shape, dtype=torch.long)
        index[real] = torch.arange(len(row))
        before = index[:, n_prompt - 1 : n_prompt - 1 + width]
        logits, hidden = result.logits[0][before], result.hidden_states[-1][0][before]
        part = data | {"advantages": advantages, "targets": targets}
        forward, self.forward = (
            self.forward,
            lambda model, data: (  # type: ignore[method-assign]
                (hidden, logits) if model is self.model else forward(model, data)
            ),
        )
        self.loss(part, n_tokens=int(data["mask"].sum()), share=1.0).backward()
        del self.forward
        return self.gradients()

    def sees(self, row: torch.Tensor) -> torch.Tensor:
        return row.unsqueeze(1) == row.unsqueeze(0)

    def learning_rates(self, batch: RolloutBatch, *, microbatch_tokens: int, n_updates: int) -> Sequence[float]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (1 + step))
        rates = []
        for _ in range(n_updates):
            for _ in self.microbatches(batch, microbatch_tokens):
                self.after_microbatch(optimizer, schedule)
            rates.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        return rates

    def after_microbatch(self, optimizer: Any, schedule: Any) -> None:
        pass

    def first_ratio_error(self, batch: RolloutBatch) -> float:
        gap = (self.logprobs(batch) - torch.tensor(batch.old_logprobs)).exp() - 1.0
        return float(torch.where(torch.tensor(batch.response_mask), gap.abs(), 0.0).max())

    # -- sampling ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, seed: int, reward: RewardFunction | None = None) -> RolloutBatch:
        torch.manual_seed(seed)
        episodes, sets = [], []
        for group in range(4):
            for _ in range(self.group_size):
                episode, allowed = self.play(EchoEnv(), 100 * seed + group, reward)
                episodes.append(episode)
                sets.append(allowed)
        batch = make_batch(episodes, group_size=self.group_size)
        packed = np.zeros((*batch.response_ids.shape, -(-self.vocab_size // 8)), dtype=np.uint8)
        for row, allowed in enumerate(sets):
            packed[row, batch.response_mask[row]] = np.packbits(np.array(allowed), axis=1)
        return replace(batch, allowed=packed)

    def play(self, env: EchoEnv, seed: int, reward: RewardFunction | None) -> tuple[Episode, list[Any]]:
        env.reset(seed=seed)
        prompt = list(env.ids)
        chosen: list[bool] = []
        logprobs: list[float] = []
        rewards: list[float] = []
        sets: list[Any] = []
        terminated = truncated = False
        while not (terminated or truncated):
            logits = self.model(input_ids=torch.tensor([env.ids])).logits[0, -1]
            allowed = logits >= logits.topk(self.top_k).values[-1]
            flat = (logits / self.temperature).masked_fill(~allowed, -1e9).log_softmax(-1)
            action = int(torch.multinomial(flat.exp(), 1))
            _, paid, terminated, truncated, _ = env.step(action)
            n_new = len(env.ids) - len(prompt) - len(chosen)
            chosen += [True] + [False] * (n_new - 1)
            logprobs += [self.recorded(logits, flat, action)] + [0.0] * (n_new - 1)
            rewards += [0.1 * paid] + [0.0] * (n_new - 1)
            sets.append(allowed.numpy())
        if reward is not None:
            rewards = [0.0] * (len(rewards) - 1) + [self.asked(reward, prompt, env.ids[len(prompt) :])]
        return Episode(prompt, env.ids[len(prompt) :], rewards, chosen, logprobs, terminated), sets

    def recorded(self, logits: torch.Tensor, flat: torch.Tensor, action: int) -> float:
        return float(flat[action])

    def asked(self, reward: RewardFunction, prompt: list[int], response: list[int]) -> float:
        return reward(prompt, response)
