"""Estimators that look at whole responses, or at several of them at once, as cases for ``estimator_bias.py``.

No state says what they do on average: it depends on how long the response became, or on the others in its group. So
their expectations are sums over every response there is, of which the world has few.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from estimator_cases import Case, Directions, Floats, World, episodes_world, tensors

from llmgym.agents.advantages import gae, length_adaptive_lambda, process_advantages, step_gae, whiten
from llmgym.testing.exact import SampledEpisodes, Tree

#: Responses that are compared in a group: all pairs are summed over.
PAIR = 2
#: Responses in a batch that is large enough for the limit: what is left of the bias is far below the sampling error.
LARGE_BATCH = 2000


class Responses(NamedTuple):
    """Every response there is.

    Attributes:
        episodes: A row for each.
        chances: ``(n,)``. Of each, under the policy.
    """

    episodes: SampledEpisodes
    chances: Floats

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """``(n,)``: their tokens."""
        lengths: npt.NDArray[np.int64] = self.episodes.mask.sum(axis=1)
        return lengths

    @property
    def to_come(self) -> Floats:
        """``(n, T)``: the rewards from each token on."""
        sums: Floats = self.episodes.rewards[:, ::-1].cumsum(axis=1)[:, ::-1]
        return sums

    def read(self, table: Floats) -> Floats:
        """``(n, T)``: a table over states, or over states and actions, along the responses; 0 outside the mask."""
        at = (self.episodes.states, self.episodes.actions) if table.ndim == 2 else self.episodes.states
        return np.where(self.episodes.mask, table[at], 0.0)

    def gradient(self, along: Directions, weights: Floats) -> Floats:
        """``(d,)``: ``E[sum_t weights_t grad log policy(a_t | s_t)]``."""
        return self.chances @ along.samples(self.episodes, torch.from_numpy(weights))


def every_response(tree: Tree, policy: Floats) -> Responses:
    """All responses and their chances, in an environment whose tokens leave nothing to luck."""
    following = {(s, a): n for s, a, n in zip(tree.edge_state, tree.edge_action, tree.edge_next, strict=True)}
    paths: list[list[tuple[int, int]]] = []

    def go_on(state: int, path: list[tuple[int, int]]) -> None:
        for action in range(len(tree.actions)):
            here = [*path, (state, action)]
            if (state, action) in following:
                go_on(int(following[state, action]), here)
            else:
                paths.append(here)

    for first in np.flatnonzero(tree.start):
        go_on(int(first), [])
    mask = np.arange(int(tree.depth.max()) + 1) < np.array([len(path) for path in paths])[:, None]
    states, actions = np.zeros(mask.shape, dtype=np.int64), np.zeros(mask.shape, dtype=np.int64)
    states[mask], actions[mask] = np.array([token for path in paths for token in path]).T
    chances = tree.start[states[:, 0]] * np.where(mask, policy[states, actions], 1.0).prod(axis=1)
    rewards = np.where(mask, tree.rewards[states, actions], 0.0)
    return Responses(SampledEpisodes(states, actions, rewards, mask), chances)


@lru_cache(maxsize=1)
def responses_world() -> tuple[Responses, Responses]:
    """Every response of :func:`~estimator_cases.episodes_world`, under its policy and under the older one."""
    world = episodes_world()
    return every_response(world.tree, world.policy), every_response(world.tree, world.old)


def mean_over_tokens(responses: Responses, sums: Floats, batch: int) -> Floats:
    """``E[sum_i X_i / sum_i |o_i|]`` over independent responses: a mean over the tokens of a batch.

    Numerator and denominator depend on one another through the lengths alone, so given its own length, a response meets
    a denominator whose distribution is that of the sum of the others' lengths.

    Args:
        responses: Every one.
        sums: ``(n, d)``. ``X`` of each: a sum over its tokens.
        batch: Responses in a batch.

    Returns:
        ``(d,)``.
    """
    of_one = np.bincount(responses.lengths, responses.chances)
    of_others = np.ones(1)
    for _ in range(batch - 1):
        of_others = np.convolve(of_others, of_one)
    denominators = responses.lengths[:, None] + np.arange(len(of_others))
    expected: Floats = batch * (responses.chances * (of_others / denominators).sum(axis=1)) @ sums
    return expected


# --- Advantages -------------------------------------------------------------------------------------------------------


def response_cases() -> list[Case]:
    """Advantages that depend on a whole response, a group or a batch, as weights of the policy gradient."""
    world = episodes_world()
    along = Directions(world.exact.gradient, world.policy)
    return [
        process_case(world, along),
        adaptive_case(world, along),
        steps_case(world, along),
        whiten_case(world, along),
    ]


def process_case(world: World, along: Directions) -> Case:
    """Rewards of reasoning steps, compared over all steps of a pair of responses."""

    def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
        episodes = world.tree.sample(world.policy, PAIR * n, rng)
        mask, rewards, steps = tensors(episodes, world.step_of_state)
        advantages = function(rewards, mask, steps, group_size=PAIR)
        mean: Floats = along.samples(episodes, advantages).reshape(n, PAIR, -1).mean(axis=1)
        return mean

    responses, _ = responses_world()
    expected = responses.gradient(along, process_weights(responses, world.step_of_state))
    truth = along.of(world.exact.gradient)
    name = "process_advantages, pairs"
    return Case(name, "policy gradient", process_advantages, draw, truth, expected, "group", 0.5)


def process_weights(responses: Responses, step_of_state: npt.NDArray[np.int64], epsilon: float = 1e-4) -> Floats:
    """``(n, T)``: what a token's advantage is on average over the response that its own is compared with."""
    mask = responses.episodes.mask
    step = np.where(mask, step_of_state[responses.episodes.states], 0)
    exists = np.stack([(mask & (step == k)).any(axis=1) for k in range(step.max() + 1)], axis=1)  # (n, K)
    paid = np.stack(
        [np.where(step == k, responses.episodes.rewards, 0.0).sum(axis=1) for k in range(step.max() + 1)], 1
    )
    weights = np.zeros(mask.shape)
    for own in range(len(mask)):
        count = exists[own].sum() + exists.sum(axis=1)  # (n,): steps of the pair, for each other response
        mean = (paid[own].sum() + paid.sum(axis=1)) / count
        square = ((paid[own] ** 2).sum() + (paid**2).sum(axis=1)) / count
        deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
        normalised = exists[own] * (paid[own] - mean[:, None]) / (deviation[:, None] + epsilon)
        of_steps = responses.chances @ normalised[:, ::-1].cumsum(axis=1)[:, ::-1]  # (K,)
        weights[own] = np.where(mask[own], of_steps[step[own]], 0.0)
    return weights


def adaptive_case(world: World, along: Directions, alpha: float = 1.0) -> Case:
    """Lambda by the length that the response turned out to have, with a critic that is wrong."""
    values = world.wrong_values

    def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
        episodes = world.tree.sample(world.policy, n, rng)
        mask, rewards, told = tensors(episodes, values)
        factors = {"gamma": 1.0, "gae_lambda": function(mask.sum(dim=1), alpha=alpha).double()}
        advantages, _ = gae(rewards, told, torch.zeros(n, dtype=told.dtype), mask, **factors)
        return along.samples(episodes, advantages)

    responses, _ = responses_world()
    told = responses.read(values)
    errors = responses.episodes.rewards + np.pad(told[:, 1:], ((0, 0), (0, 1))) - told
    factor = np.maximum(1.0 - 1.0 / (alpha * responses.lengths), 0.0)[:, None]
    places = np.arange(errors.shape[1])
    weights = np.stack(
        [(errors * np.where(places >= t, factor ** np.maximum(places - t, 0), 0.0)).sum(axis=1) for t in places], axis=1
    )
    truth, name = along.of(world.exact.gradient), "gae, length_adaptive_lambda, a wrong critic"
    return Case(name, "policy gradient", length_adaptive_lambda, draw, truth, responses.gradient(along, weights))


def steps_case(world: World, along: Directions, gae_lambda: float = 0.9) -> Case:
    """A reasoning step as one action, with a critic that is wrong."""
    values = world.wrong_values

    def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
        episodes = world.tree.sample(world.policy, n, rng)
        mask, rewards, told, steps = tensors(episodes, values, world.step_of_state)
        last = torch.zeros(n, dtype=told.dtype)
        advantages, _ = function(rewards, told, last, mask, steps, gamma=1.0, gae_lambda=gae_lambda)
        return along.samples(episodes, advantages)

    responses, _ = responses_world()
    weights = np.zeros(responses.episodes.mask.shape)
    for row, length in enumerate(responses.lengths):
        states, rewards = responses.episodes.states[row, :length], responses.episodes.rewards[row]
        advantage = following = 0.0
        for step in sorted(set(world.step_of_state[states]), reverse=True):
            tokens = np.flatnonzero(world.step_of_state[states] == step)
            value = values[states[tokens[0]]]
            advantage = rewards[tokens].sum() + following - value + gae_lambda * advantage
            weights[row, tokens], following = advantage, value
    truth, name = along.of(world.exact.gradient), "step_gae, lambda 0.9, a wrong critic"
    return Case(name, "policy gradient", step_gae, draw, truth, responses.gradient(along, weights))


def whiten_case(world: World, along: Directions) -> Case:
    """Advantages over a whole rollout: in the limit of a large one, the gradient in units of their deviation."""
    values = world.wrong_values

    def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
        samples = []
        for _ in range(n):
            episodes = world.tree.sample(world.policy, LARGE_BATCH, rng)
            mask, rewards, told = tensors(episodes, values)
            last = torch.zeros(LARGE_BATCH, dtype=told.dtype)
            advantages, _ = gae(rewards, told, last, mask, gamma=1.0, gae_lambda=1.0)
            samples.append(along.samples(episodes, function(advantages, mask)).mean(axis=0))
        return np.stack(samples)

    responses, _ = responses_world()
    advantages = np.where(responses.episodes.mask, responses.to_come - responses.read(values), 0.0)
    moments = [responses.chances @ (advantages**power).sum(axis=1) / world.exact.visits.sum() for power in (1, 2)]
    truth = along.of(world.exact.gradient)
    expected = truth / np.sqrt(moments[1] - moments[0] ** 2)
    name = f"whiten, {LARGE_BATCH} responses"
    return Case(name, "policy gradient", whiten, draw, truth, expected, "batch", 0.005)
