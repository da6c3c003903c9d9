"""The KL estimators of ``llmgym.agents`` as cases for ``estimator_bias.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from estimator_cases import Case, Directions, Floats, World, episodes_world, tensors

from llmgym.agents.advantages import gae
from llmgym.agents.kl import kl_estimate, kl_loss


def kl_value_cases() -> list[Case]:
    """Estimates of the KL of whole responses: the sum over their tokens."""
    world = episodes_world()
    tree, policy, reference = world.tree, world.policy, world.reference
    truth = np.array([tree.kl(policy, reference).total])
    difference = np.log(policy) - np.log(reference)
    half_square = np.array([tree.evaluate(policy, rewards=difference**2 / 2).expected_return])

    def case(estimator: str, expected: Floats) -> Case:
        def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
            episodes = tree.sample(policy, n, rng)
            mask, _, logprobs, ref_logprobs = tensors(episodes, np.log(policy), np.log(reference))
            estimates = function(logprobs, ref_logprobs, estimator)
            summed: Floats = np.where(mask, estimates, 0.0).sum(axis=1, keepdims=True)
            return summed

        return Case(f"kl_estimate, {estimator}", "KL of responses", kl_estimate, draw, truth, expected)

    return [case("k1", truth), case("k2", half_square), case("k3", truth)]


def kl_gradient_cases() -> list[Case]:
    """Gradients of the KL, in the loss and in the reward."""
    world = episodes_world()
    tree, policy, old, reference = world.tree, world.policy, world.old, world.reference
    exact = tree.kl(policy, reference)
    ratio = np.log(policy) - np.log(reference)
    per_state = policy * (ratio - exact.by_state[:, None])  # of KL(policy || reference) in each state
    visits = {"on": world.exact.visits, "off": tree.evaluate(old).visits}
    local = {place: visits[place][:, None] * per_state for place in visits}
    forward = visits["on"][:, None] * (policy - reference)  # of KL(reference || policy)

    def case(estimator: str, corrected: bool, place: str, expected: Floats) -> Case:
        along = Directions(local[place], policy)
        drawn_from = policy if place == "on" else old

        def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
            episodes = tree.sample(drawn_from, n, rng)
            logs = [np.log(table) for table in (policy, drawn_from, reference)]
            mask, _, logprobs, old_logprobs, ref_logprobs = tensors(episodes, *logs)
            logprobs.requires_grad_()
            loss = function(logprobs, old_logprobs, ref_logprobs, estimator=estimator, corrected=corrected)
            return along.samples(episodes, torch.autograd.grad(loss[mask].sum(), logprobs)[0])

        how = f"{estimator}{', corrected' if corrected else ''}, {place} policy"
        of = "gradient of the KL in the visited states"
        return Case(f"kl_loss, {how}", of, kl_loss, draw, along.of(local[place]), along.of(expected))

    # Off the policy, as printed: the derivative of the estimate, x or 1 - exp(-x), under the old policy's chances.
    of_token = {"k2": ratio, "k3": 1.0 - np.exp(-ratio)}
    printed = {k: visits["off"][:, None] * old * of_token[k] for k in of_token}
    printed = {k: weights - weights.sum(axis=1, keepdims=True) * policy for k, weights in printed.items()}
    return [
        *(case(k, True, place, local[place]) for place in ("on", "off") for k in ("k1", "k2", "k3")),
        case("k2", False, "on", local["on"]),
        case("k3", False, "on", forward),
        *(case(k, False, "off", printed[k]) for k in ("k2", "k3")),
        *(kl_in_reward_case(world, exact.gradient, k) for k in ("k1", "k2", "k3")),
    ]


def kl_in_reward_case(world: World, gradient: Floats, estimator: str) -> Case:
    """An estimate as a reward, each token credited with what follows."""
    along = Directions(gradient, world.policy)
    logs = np.log(world.policy), np.log(world.reference)

    def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
        episodes = world.tree.sample(world.policy, n, rng)
        mask, _, logprobs, ref_logprobs, zero = tensors(episodes, *logs, np.zeros(len(world.tree.states)))
        paid = function(logprobs, ref_logprobs, estimator).masked_fill(~mask, 0.0)
        to_come, _ = gae(paid, zero, torch.zeros(n, dtype=zero.dtype), mask, gamma=1.0, gae_lambda=1.0)
        return along.samples(episodes, to_come)

    x = logs[0] - logs[1]
    paid = {"k1": x, "k2": x**2 / 2, "k3": np.exp(-x) - 1.0 + x}[estimator]
    expected = along.of(world.tree.evaluate(world.policy, rewards=paid).gradient)
    name = f"kl_estimate, {estimator}, in the reward"
    return Case(name, "gradient of the KL of responses", kl_estimate, draw, along.of(gradient), expected)
