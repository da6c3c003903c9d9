"""What an update says about itself, and the entropy, as cases for ``estimator_bias.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from estimator_cases import BATCH, CLIP_RANGE, Case, Floats, episodes_world, tensors
from estimator_responses import LARGE_BATCH, mean_over_tokens, responses_world

from llmgym.agents.losses import (
    approx_kl,
    categorical_entropy,
    clip_fraction,
    explained_variance,
    sequence_logratio,
)


def metric_cases() -> list[Case]:
    """Numbers, not gradients: each is one component."""
    return [approx_kl_case(), clip_fraction_case(), logratio_case(), entropy_case(), explained_variance_case()]


def approx_kl_case() -> Case:
    """How far the policy has gone since sampling, a mean over the tokens of a batch."""
    world, (_, responses) = episodes_world(), responses_world()
    logs, old_logs = np.log(world.policy), np.log(world.old)

    def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
        samples = []
        for _ in range(n):
            mask, _, logprobs, old_logprobs = tensors(world.tree.sample(world.old, BATCH, rng), logs, old_logs)
            samples.append([float(function(logprobs, old_logprobs, mask))])
        return np.array(samples)

    ratio = world.policy / world.old
    sums = responses.read(ratio - 1.0 - np.log(ratio)).sum(axis=1, keepdims=True)
    truth = world.tree.kl(world.old, world.policy).total / world.tree.evaluate(world.old).visits.sum()
    expected = mean_over_tokens(responses, sums, BATCH)
    return Case("approx_kl", "KL(old, current) a token", approx_kl, draw, np.array([truth]), expected, "batch", 0.03)


def clip_fraction_case() -> Case:
    """The share of tokens that clipping stops, a mean over the tokens of a batch."""
    world, (_, responses) = episodes_world(), responses_world()
    exact, ratio = world.tree.evaluate(world.old), world.policy / world.old
    tables = np.log(world.policy), np.log(world.old), exact.advantages

    def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
        samples = []
        for _ in range(n):
            mask, _, logprobs, old_logprobs, advantages = tensors(world.tree.sample(world.old, BATCH, rng), *tables)
            samples.append([float(function(logprobs, old_logprobs, advantages, mask, clip_range=CLIP_RANGE))])
        return np.array(samples)

    above, below = ratio > 1 + CLIP_RANGE, ratio < 1 - CLIP_RANGE
    stopped = np.select([exact.advantages > 0, exact.advantages < 0], [above, below], False).astype(np.float64)
    truth = (exact.visits[:, None] * world.old * stopped).sum() / exact.visits.sum()
    expected = mean_over_tokens(responses, responses.read(stopped).sum(axis=1, keepdims=True), BATCH)
    return Case("clip_fraction", "share of tokens", clip_fraction, draw, np.array([truth]), expected, "batch", 0.03)


def logratio_case() -> Case:
    """The log of GSPO's ratio: the mean over a response's tokens."""
    world, (_, responses) = episodes_world(), responses_world()
    logs, old_logs = np.log(world.policy), np.log(world.old)

    def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
        mask, _, logprobs, old_logprobs = tensors(world.tree.sample(world.old, n, rng), logs, old_logs)
        ratios: Floats = function(logprobs, old_logprobs, mask).numpy()
        return ratios

    truth = np.array([responses.chances @ (responses.read(logs - old_logs).sum(axis=1) / responses.lengths)])
    return Case("sequence_logratio", "log-ratio of a response, a token", sequence_logratio, draw, truth, truth)


def entropy_case() -> Case:
    """The entropy of whole responses: the sum over their tokens of that of the next token's distribution."""
    world = episodes_world()
    logits = np.log(world.policy)

    def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
        episodes = world.tree.sample(world.policy, n, rng)
        by_token = function(torch.from_numpy(logits[episodes.states])).numpy()
        summed: Floats = np.where(episodes.mask, by_token, 0.0).sum(axis=1, keepdims=True)
        return summed

    truth = np.array([world.tree.evaluate(world.policy, rewards=-logits).expected_return])
    return Case("categorical_entropy", "entropy of responses", categorical_entropy, draw, truth, truth)


def explained_variance_case() -> Case:
    """What the true critic explains of the returns; theory has the limit of a large batch."""
    world, (responses, _) = episodes_world(), responses_world()
    values = world.exact.values

    def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
        samples = []
        for _ in range(n):
            mask, rewards, told = tensors(world.tree.sample(world.policy, LARGE_BATCH, rng), values)
            samples.append([float(function(told, rewards.flip(1).cumsum(1).flip(1), mask))])
        return np.array(samples)

    n_tokens = world.exact.visits.sum()

    def variance(of_tokens: Floats) -> float:
        kept = np.where(responses.episodes.mask, of_tokens, 0.0)
        mean = responses.chances @ kept.sum(axis=1) / n_tokens
        return float(responses.chances @ (kept**2).sum(axis=1) / n_tokens - mean**2)

    errors = responses.to_come - responses.read(values)
    truth = np.array([1.0 - variance(errors) / variance(responses.to_come)])
    name = f"explained_variance, {LARGE_BATCH} responses"
    return Case(name, "share of the variance", explained_variance, draw, truth, truth, "batch", 0.005)
