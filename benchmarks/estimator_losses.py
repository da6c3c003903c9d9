"""The KL estimators and the clipped loss of ``llmgym.agents`` as cases for ``estimator_bias.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from estimator_cases import BATCH, CLIP_RANGE, Case, Directions, Floats, World, episodes_world, tensors

from llmgym.agents.advantages import gae
from llmgym.agents.kl import kl_estimate, kl_loss
from llmgym.agents.losses import clipped_policy_loss
from llmgym.agents.masking import average_tokens

# --- KL ---------------------------------------------------------------------------------------------------------------


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

    return [
        *(case(k, True, place, local[place]) for place in ("on", "off") for k in ("k1", "k2", "k3")),
        case("k2", False, "on", local["on"]),
        case("k3", False, "on", forward),
        kl_in_reward_case(world, exact.gradient),
    ]


def kl_in_reward_case(world: World, gradient: Floats) -> Case:
    """k1 as a reward, each token credited with what follows."""
    along = Directions(gradient, world.policy)

    def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
        episodes = world.tree.sample(world.policy, n, rng)
        logs = np.log(world.policy), np.log(world.reference)
        mask, _, logprobs, ref_logprobs, zero = tensors(episodes, *logs, np.zeros(len(world.tree.states)))
        paid = function(logprobs, ref_logprobs, "k1").masked_fill(~mask, 0.0)
        to_come, _ = gae(paid, zero, torch.zeros(n, dtype=zero.dtype), mask, gamma=1.0, gae_lambda=1.0)
        return along.samples(episodes, to_come)

    truth = along.of(gradient)
    return Case("kl_estimate, k1, in the reward", "gradient of the KL of responses", kl_estimate, draw, truth, truth)


# --- The clipped loss -------------------------------------------------------------------------------------------------


def loss_cases() -> list[Case]:
    """The clipped surrogate, in the first step of an update by each average, and in a later step."""
    world = episodes_world()
    along = Directions(world.exact.gradient, world.policy)
    truth, of = along.of(world.exact.gradient), "policy gradient"
    logs = np.log(world.policy)
    width = int(world.tree.depth.max()) + 1
    mean_length = float(world.exact.visits.sum())

    def case(how: str, expected: Floats | None) -> Case:
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
            f"clipped_policy_loss, average {how}", of, clipped_policy_loss, draw, truth, expected, "batch", 0.05
        )

    by_sequence = mean_length * along.of(shared_gradient(world))
    return [case("constant", truth), case("sequence", by_sequence), case("token", None), later_step_case(world)]


def shared_gradient(world: World) -> Floats:
    """``E[1/|o| sum_t A_t grad log policy(a_t | s_t)]``, by summation over all responses, ``A_t`` being Monte Carlo."""
    tree, gradient = world.tree, np.zeros(world.tree.rewards.shape)
    edges = {(s, a): n for s, a, n in zip(tree.edge_state, tree.edge_action, tree.edge_next, strict=True)}

    def go_on(state: int, chance: float, path: list[tuple[int, int]]) -> None:
        for action in range(len(tree.actions)):
            here, now = [*path, (state, action)], chance * world.policy[state, action]
            following = edges.get((state, action))
            if following is not None:
                go_on(int(following), now, here)
                continue
            rewards = [tree.rewards[at] for at in here]
            for t, (s, a) in enumerate(here):
                weight = now / len(here) * (sum(rewards[t:]) - world.exact.values[s])
                gradient[s] -= weight * world.policy[s]
                gradient[s, a] += weight

    for first in np.flatnonzero(tree.start):
        go_on(int(first), float(tree.start[first]), [])
    return gradient


def later_step_case(world: World) -> Case:
    """A later step: the tokens are the old policy's, the advantages its true ones, and some ratios are clipped."""
    tree, policy, old = world.tree, world.policy, world.old
    along = Directions(world.exact.gradient, policy)
    exact = tree.evaluate(old)
    ratio = policy / old
    stopped = np.where(exact.advantages > 0, ratio > 1 + CLIP_RANGE, ratio < 1 - CLIP_RANGE)
    weights = exact.visits[:, None] * policy * np.where(stopped, 0.0, exact.advantages)  # old * ratio = policy
    expected = weights - weights.sum(axis=1, keepdims=True) * policy

    def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
        episodes = tree.sample(old, n, rng)
        mask, _, logprobs, old_logprobs, advantages = tensors(episodes, np.log(policy), np.log(old), exact.advantages)
        logprobs.requires_grad_()
        loss = function(logprobs, old_logprobs, advantages, clip_range=CLIP_RANGE)
        return along.samples(episodes, -torch.autograd.grad(loss[mask].sum(), logprobs)[0])

    truth = along.of(world.exact.gradient)
    name = "clipped_policy_loss, a later step"
    return Case(name, "policy gradient", clipped_policy_loss, draw, truth, along.of(expected))
