"""The losses of ``llmgym.agents`` as cases for ``estimator_bias.py``: of the policy, and of the critic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from estimator_cases import (
    BATCH,
    CLIP_RANGE,
    Case,
    Directions,
    Floats,
    episodes_world,
    state_directions,
    tensors,
)
from estimator_responses import Responses, mean_over_tokens, responses_world

from llmgym.agents.advantages import gae
from llmgym.agents.losses import (
    cispo_loss,
    clipped_policy_loss,
    clipped_value_loss,
    gspo_loss,
    penalty_policy_loss,
    truncated_importance_weights,
)
from llmgym.agents.masking import average_tokens

#: Price of a nat in PPO's penalty variant; the largest importance weight, small enough to be reached.
PENALTY, CAP = 0.5, 1.2


def loss_cases() -> list[Case]:
    """In the first step of an update, by each average; in a later step; where another program sampled; of a critic."""
    return [*average_cases(), *later_step_cases(), gspo_case(), importance_case(), *value_cases()]


# --- The first step ---------------------------------------------------------------------------------------------------


def average_cases() -> list[Case]:
    """The clipped surrogate in the first step of an update, by each average."""
    world, (responses, _) = episodes_world(), responses_world()
    along = Directions(world.exact.gradient, world.policy)
    truth, of = along.of(world.exact.gradient), "policy gradient"
    logs = np.log(world.policy)
    width = int(world.tree.depth.max()) + 1
    mean_length = float(world.exact.visits.sum())

    def case(how: str, expected: Floats) -> Case:
        scale = float(width) if how == "constant" else mean_length  # so that the unit is that of the true gradient

        def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
            samples = []
            for _ in range(n):
                episodes = world.tree.sample(world.policy, BATCH, rng)
                mask, rewards, values, old_logprobs = tensors(episodes, world.exact.values, logs)
                advantages, _ = gae(
                    rewards, values, torch.zeros(BATCH, dtype=values.dtype), mask, gamma=1, gae_lambda=1
                )
                logprobs = old_logprobs.clone().requires_grad_()
                loss = function(logprobs, old_logprobs, advantages, clip_range=CLIP_RANGE)
                sizes = {"n_sequences": BATCH, "n_tokens": int(mask.sum()), "max_tokens": width}
                share = average_tokens(loss, mask, how=how, **sizes)
                weights = -scale * torch.autograd.grad(share, logprobs)[0]
                samples.append(along.samples(episodes, weights).sum(axis=0))
            return np.stack(samples)

        return Case(
            f"clipped_policy_loss, average {how}", of, clipped_policy_loss, draw, truth, expected, "batch", 0.03
        )

    advantages = responses.to_come - responses.read(world.exact.values)
    by_sequence = responses.gradient(along, mean_length * advantages / responses.lengths[:, None])
    sums = along.samples(responses.episodes, torch.from_numpy(advantages))
    by_token = mean_length * mean_over_tokens(responses, sums, BATCH)
    return [case("constant", truth), case("sequence", by_sequence), case("token", by_token)]


# --- A later step -----------------------------------------------------------------------------------------------------


def later_step_cases() -> list[Case]:
    """Tokens of the old policy with its true advantages, when the policy has moved on and some ratios are clipped."""
    world = episodes_world()
    exact, policy, old = world.tree.evaluate(world.old), world.policy, world.old
    ratio, visits = policy / old, exact.visits[:, None]
    along = Directions(world.exact.gradient, policy)
    logs = np.log(policy), np.log(old)

    def case(name: str, shipped: Callable[..., Any], weights: Floats, truth: Floats, **options: Any) -> Case:
        def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
            episodes = world.tree.sample(old, n, rng)
            mask, _, logprobs, old_logprobs, advantages = tensors(episodes, *logs, exact.advantages)
            logprobs.requires_grad_()
            loss = function(logprobs, old_logprobs, advantages, **options)
            return along.samples(episodes, -torch.autograd.grad(loss[mask].sum(), logprobs)[0])

        of = "policy gradient" if truth is world.exact.gradient else "gradient of the objective"
        return Case(name, of, shipped, draw, along.of(truth), along.of(logit_gradient(weights, policy)))

    stopped = np.where(exact.advantages > 0, ratio > 1 + CLIP_RANGE, ratio < 1 - CLIP_RANGE)
    clipped = visits * policy * np.where(stopped, 0.0, exact.advantages)  # old * ratio = policy
    bounded = visits * old * np.minimum(ratio, 1 + CLIP_RANGE) * exact.advantages
    # E_old[ratio A] - PENALTY KL(old || policy) in the states that the old policy visits, by the policy's logits.
    surrogate = visits * policy * (exact.advantages - (policy * exact.advantages).sum(axis=1, keepdims=True))
    penalised = surrogate - PENALTY * visits * (policy - old)
    weights = visits * (policy * exact.advantages - PENALTY * (policy - old))
    truth = world.exact.gradient
    highest = {"clip_range": None, "clip_range_high": CLIP_RANGE}
    return [
        case("clipped_policy_loss, a later step", clipped_policy_loss, clipped, truth, clip_range=CLIP_RANGE),
        case("cispo_loss, a later step", cispo_loss, bounded, truth, **highest),
        case("penalty_policy_loss, a later step", penalty_policy_loss, weights, penalised, kl_coef=PENALTY),
    ]


def logit_gradient(weights: Floats, policy: Floats) -> Floats:
    """``(S, A)``: ``sum_a weights(s, a) grad log policy(a | s)``, by the logits."""
    gradient: Floats = weights - weights.sum(axis=1, keepdims=True) * policy
    return gradient


def gspo_case() -> Case:
    """One ratio for a response, clipped as a whole, and the return less the old policy's as its advantage."""
    world, (_, responses) = episodes_world(), responses_world()
    along = Directions(world.exact.gradient, world.policy)
    logs, baseline = (np.log(world.policy), np.log(world.old)), world.tree.evaluate(world.old).expected_return
    mean_length = float(world.tree.evaluate(world.old).visits.sum())  # so that the unit is that of the true gradient

    def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
        episodes = world.tree.sample(world.old, n, rng)
        mask, rewards, logprobs, old_logprobs = tensors(episodes, *logs)
        logprobs.requires_grad_()
        advantages = rewards.sum(dim=1, keepdim=True) - baseline
        loss = function(logprobs, old_logprobs, advantages, mask, clip_range=CLIP_RANGE) / mask.sum(1, keepdim=True)
        return along.samples(episodes, -mean_length * torch.autograd.grad(loss[mask].sum(), logprobs)[0])

    advantages = responses.to_come[:, 0] - baseline
    ratio = np.exp(responses.read(logs[0] - logs[1]).sum(axis=1) / responses.lengths)
    stopped = np.where(advantages > 0, ratio > 1 + CLIP_RANGE, ratio < 1 - CLIP_RANGE)
    weights = mean_length * np.where(stopped, 0.0, ratio * advantages) / responses.lengths
    expected = responses.gradient(along, np.broadcast_to(weights[:, None], responses.episodes.mask.shape).copy())
    truth = along.of(world.exact.gradient)
    return Case("gspo_loss, a later step", "policy gradient", gspo_loss, draw, truth, expected)


def importance_case() -> Case:
    """Tokens of a sampler that is not quite the policy, weighted for it up to a cap."""
    world = episodes_world()
    exact, ratio = world.tree.evaluate(world.old), world.policy / world.old
    along = Directions(world.exact.gradient, world.policy)
    tables = np.log(world.policy), np.log(world.old), exact.advantages

    def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
        episodes = world.tree.sample(world.old, n, rng)
        _, _, logprobs, sampler_logprobs, advantages = tensors(episodes, *tables)
        return along.samples(episodes, function(logprobs, sampler_logprobs, cap=CAP) * advantages)

    weights = exact.visits[:, None] * world.old * np.minimum(ratio, CAP) * exact.advantages
    expected, truth = along.of(logit_gradient(weights, world.policy)), along.of(world.exact.gradient)
    name = f"truncated_importance_weights, cap {CAP}"
    return Case(name, "policy gradient", truncated_importance_weights, draw, truth, expected)


# --- The critic -------------------------------------------------------------------------------------------------------


def value_cases() -> list[Case]:
    """Half the critic's step: the gradient of the squared error by each state's value, with Monte Carlo targets."""
    world, (responses, _) = episodes_world(), responses_world()
    values = world.wrong_values
    old_values = values + np.random.default_rng(3).normal(scale=0.3, size=len(values))
    truth = world.exact.visits * (world.exact.values - values)
    directions = state_directions(truth)

    def case(clip_range: float | None, expected: Floats) -> Case:
        def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
            episodes = world.tree.sample(world.policy, n, rng)
            mask, rewards, told, old = tensors(episodes, values, old_values)
            told.requires_grad_()
            loss = function(told, old, rewards.flip(1).cumsum(1).flip(1), clip_range=clip_range)
            step = -0.5 * torch.autograd.grad(loss[mask].sum(), told)[0].numpy()
            summed: Floats = (directions[:, episodes.states] * np.where(episodes.mask, step, 0.0)).sum(axis=2).T
            return summed

        name = "clipped_value_loss, " + ("not clipped" if clip_range is None else f"clipped at {clip_range}")
        return Case(name, "step of the values", clipped_value_loss, draw, directions @ truth, directions @ expected)

    clipped = clipped_value_step(responses, values, old_values, CLIP_RANGE)
    return [case(None, truth), case(CLIP_RANGE, clipped)]


def clipped_value_step(responses: Responses, values: Floats, old_values: Floats, clip_range: float) -> Floats:
    """``(S,)``: the expected step of each value, none where the clipped error is the larger one."""
    errors = responses.to_come - responses.read(values)
    near = responses.read(np.clip(values, old_values - clip_range, old_values + clip_range))
    stopped = (responses.to_come - near) ** 2 > errors**2
    steps = responses.chances[:, None] * np.where(stopped | ~responses.episodes.mask, 0.0, errors)
    total = np.zeros(len(values))
    np.add.at(total, responses.episodes.states, steps)
    return total
