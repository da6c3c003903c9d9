"""Estimators of ``llmgym.agents`` in small worlds whose truth is known: what ``estimator_bias.py`` measures.

Advantages are here, those that look at whole responses in ``estimator_responses.py``, the KL in ``estimator_kl.py``,
the losses in ``estimator_losses.py``, what an update says about itself in ``estimator_metrics.py``, whole agents in
``estimator_bias.py``.

A case draws independent samples of an estimator (of an episode, a group of episodes, or a whole iteration), and knows
what they should be on average (``truth``) and what they are on average (``expected``, by a formula of its own, never by
the function that is examined). Gradients have many components; they are measured along a few fixed directions, the
first of which is that of the true gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from llmgym.agents.advantages import gae, group_advantages, step_gae, td_advantages
from llmgym.testing.exact import Evaluation, SampledEpisodes, Tree, build_tree

Floats = npt.NDArray[np.float64]

#: Directions beside that of the truth along which a gradient is measured.
N_DIRECTIONS = 8
#: Episodes in a group, and in a batch whose loss is averaged.
GROUP_SIZE, BATCH = 4, 32
CLIP_RANGE = 0.2


@dataclass(frozen=True)
class Case:
    """An estimator, what it is of, and how samples of it are drawn.

    Attributes:
        name: The estimator.
        of: What the truth is.
        shipped: The function of ``llmgym.agents`` that is examined.
        draw: ``(function, rng, n)`` -> ``(n, d)``: samples, with ``function`` in place of the shipped one.
        truth: ``(d,)``. What is estimated.
        expected: ``(d,)``. What the samples are on average; ``None`` where nobody has a formula.
        unit: What one sample is.
        share: Samples drawn for each sample of an episode's.
    """

    name: str
    of: str
    shipped: Callable[..., Any]
    draw: Callable[[Callable[..., Any], np.random.Generator, int], Floats]
    truth: Floats
    expected: Floats | None
    unit: str = "episode"
    share: float = 1.0


class World:
    """A tree, a policy, a reference policy, and a policy that drew the tokens some steps ago.

    Args:
        env_id: The environment.
        options: Its keyword arguments.
        seed: Of the policies.
    """

    def __init__(self, env_id: str, seed: int = 0, **options: Any) -> None:
        self.tree: Tree = build_tree(env_id, **options)
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=self.tree.rewards.shape)
        self.policy = softmax(logits)
        self.old = softmax(logits + 0.3 * rng.normal(size=logits.shape))
        self.reference = softmax(logits + 0.6 * rng.normal(size=logits.shape))
        #: A critic that knows little.
        self.wrong_values = rng.normal(scale=0.3, size=len(logits))

    @cached_property
    def exact(self) -> Evaluation:
        """What the policy is worth."""
        return self.tree.evaluate(self.policy)

    @cached_property
    def step_of_state(self) -> npt.NDArray[np.int64]:
        """``(S,)``: the reasoning steps closed before each state; a word closes one."""
        first_word = 5  # after padding, the end token, the unknown, the equals sign and the question mark
        return np.array(
            [sum(token >= first_word for token in state.ids[state.prompt_length :]) for state in self.tree.states]
        )


@lru_cache(maxsize=1)
def episodes_world() -> World:
    """Up to three tokens, each paid for at once: 43 states."""
    return World("llmgym/SparseReward-v0", length=3, n_words=2, dense=True)


@lru_cache(maxsize=1)
def groups_world() -> World:
    """An easy and a hard problem, right or wrong: 14 states."""
    return World("llmgym/MixedDifficulty-v0", seed=1, levels=2, n_words=2)


def softmax(logits: Floats) -> Floats:
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    chances: Floats = exponents / exponents.sum(axis=-1, keepdims=True)
    return chances


class Directions:
    """Where a gradient is measured: along the truth, and along directions that are no one's.

    Args:
        gradient: ``(S, A)``. The true one.
        policy: ``(S, A)``. Whose logits it is the gradient by.
    """

    def __init__(self, gradient: Floats, policy: Floats) -> None:
        others = np.random.default_rng(7).normal(size=(N_DIRECTIONS, *gradient.shape))
        self.all = np.stack([gradient / np.linalg.norm(gradient), *(d / np.linalg.norm(d) for d in others)])
        mean = (policy * self.all).sum(axis=2, keepdims=True)
        #: ``(d, S, A)``: of the gradient of ``log policy(a | s)``.
        self.score = self.all - mean

    def of(self, gradient: Floats) -> Floats:
        """``(d,)``: a gradient along each of them."""
        along: Floats = (self.all * gradient).sum(axis=(1, 2))
        return along

    def samples(self, episodes: SampledEpisodes, weights: torch.Tensor) -> Floats:
        """``(n, d)``: ``sum_t weights_t grad log policy(a_t | s_t)`` of each episode."""
        scores = self.score[:, episodes.states, episodes.actions]  # (d, n, T)
        kept = np.where(episodes.mask, weights.detach().numpy(), 0.0)
        summed: Floats = (scores * kept).sum(axis=2).T
        return summed


def tensors(episodes: SampledEpisodes, *tables: Floats) -> tuple[torch.Tensor, ...]:
    """The mask, the rewards, and tables over states (and actions) read along the episodes."""
    at = episodes.states, episodes.actions
    read = (table[at] if table.ndim == 2 else table[at[0]] for table in tables)
    return tuple(torch.from_numpy(array) for array in (episodes.mask, episodes.rewards, *read))


def lambda_gradient(world: World, values: Floats, gae_lambda: float) -> Floats:
    """What the policy gradient of lambda-returns with a critic is: ``G = r + (1 - l) V(s') + l E[G']``.

    As an action value of a process whose rewards hold the critic's share, and whose discount is lambda.
    """
    tree = world.tree
    rewards = tree.rewards.copy()
    worth = (1.0 - gae_lambda) * tree.edge_probability * values[tree.edge_next]
    np.add.at(rewards, (tree.edge_state, tree.edge_action), worth)
    advantages = tree.evaluate(world.policy, gae_lambda, rewards=rewards).advantages
    gradient: Floats = world.exact.visits[:, None] * world.policy * advantages
    return gradient


# --- GAE --------------------------------------------------------------------------------------------------------------


def gae_cases() -> list[Case]:
    """Advantages against a critic, as weights of the policy gradient; and the critic's targets."""
    world = episodes_world()
    along = Directions(world.exact.gradient, world.policy)
    truth, of = along.of(world.exact.gradient), "policy gradient"

    def case(name: str, shipped: Callable[..., Any], values: Floats, gae_lambda: float) -> Case:
        factors = {"gamma": 1.0} if shipped is td_advantages else {"gamma": 1.0, "gae_lambda": gae_lambda}

        def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
            episodes = world.tree.sample(world.policy, n, rng)
            mask, rewards, told, steps = tensors(episodes, values, world.step_of_state)
            by_step = (steps,) if shipped is step_gae else ()
            advantages, _ = function(rewards, told, torch.zeros(n, dtype=told.dtype), mask, *by_step, **factors)
            return along.samples(episodes, advantages)

        return Case(name, of, shipped, draw, truth, along.of(lambda_gradient(world, values, gae_lambda)))

    right, wrong = world.exact.values, world.wrong_values
    return [
        case("gae, lambda 1, a wrong critic", gae, wrong, 1.0),
        case("gae, lambda 0.9, the true critic", gae, right, 0.9),
        case("gae, lambda 0.9, a wrong critic", gae, wrong, 0.9),
        case("td, the true critic", td_advantages, right, 0.0),
        case("td, a wrong critic", td_advantages, wrong, 0.0),
        case("step_gae, lambda 1, a wrong critic", step_gae, wrong, 1.0),
        targets_case(world),
    ]


def state_directions(truth: Floats) -> Floats:
    """``(d, S)``: where numbers of states are measured: along the truth, and along directions that are no one's."""
    directions = np.random.default_rng(8).normal(size=(1 + N_DIRECTIONS, len(truth)))
    directions[0] = truth
    unit: Floats = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return unit


def targets_case(world: World) -> Case:
    """The critic's targets, summed over the visits to each state."""
    directions = state_directions(world.exact.visits * world.exact.values)
    truth = directions @ (world.exact.visits * world.exact.values)

    def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
        episodes = world.tree.sample(world.policy, n, rng)
        mask, rewards, told = tensors(episodes, world.wrong_values)
        _, targets = function(rewards, told, torch.zeros(n, dtype=told.dtype), mask, gamma=1.0, gae_lambda=1.0)
        summed: Floats = (directions[:, episodes.states] * np.where(mask, targets, 0.0)).sum(axis=2).T
        return summed

    return Case("gae's targets, lambda 1, a wrong critic", "visits x values", gae, draw, truth, truth)


# --- Group advantages -------------------------------------------------------------------------------------------------


def group_cases() -> list[Case]:
    """Advantages over the responses to one problem, as weights of the policy gradient."""
    world = groups_world()
    along = Directions(world.exact.gradient, world.policy)
    truth = along.of(world.exact.gradient)

    def case(normalization: str) -> Case:
        def draw(function: Callable[..., Any], rng: np.random.Generator, n: int) -> Floats:
            samples = []
            counts = rng.multinomial(n, world.tree.start[world.tree.start > 0])
            for problem, count in zip(np.flatnonzero(world.tree.start), counts, strict=True):
                episodes = posed(world.tree, problem).sample(world.policy, GROUP_SIZE * int(count), rng)
                returns = torch.from_numpy(episodes.rewards.sum(axis=1)).view(-1, GROUP_SIZE)
                advantages = function(returns, normalization=normalization).flatten()
                weights = advantages[:, None].expand(-1, episodes.states.shape[1])
                samples.append(along.samples(episodes, weights).reshape(int(count), GROUP_SIZE, -1).mean(axis=1))
            return np.concatenate(samples)

        expected = along.of(sum(share * part for share, part in zip(*group_shares(world, normalization), strict=True)))
        name = f"group_advantages, {normalization}"
        return Case(name, "policy gradient", group_advantages, draw, truth, expected, "group", 0.5)

    return [case(normalization) for normalization in ("leave_one_out", "mean", "z_score", "rank")]


def posed(tree: Tree, problem: int) -> Tree:
    """The tree that begins in one of its first states."""
    return dataclasses.replace(tree, start=np.eye(len(tree.states))[problem])


def group_shares(world: World, normalization: str) -> tuple[list[float], list[Floats]]:
    """How a group's advantage of a right response over a wrong one scales each problem's gradient, and those.

    With returns of 0 and 1, ``E[A_i | R_i]`` is a number for each, and the gradient is that of a return scaled by their
    difference. See :func:`advantage_gap`.
    """
    problems = np.flatnonzero(world.tree.start)
    parts = [posed(world.tree, problem).evaluate(world.policy) for problem in problems]
    gaps = [advantage_gap(part.expected_return, normalization) for part in parts]
    return gaps, [world.tree.start[at] * part.gradient for at, part in zip(problems, parts, strict=True)]


def advantage_gap(success: float, normalization: str, epsilon: float = 1e-4) -> float:
    """``E[A_1 | R_1 = 1] - E[A_1 | R_1 = 0]`` where the others of a group are right with chance ``success``: a sum."""
    if normalization in ("leave_one_out", "mean"):
        return 1.0 if normalization == "leave_one_out" else 1.0 - 1.0 / GROUP_SIZE
    gap, others = 0.0, GROUP_SIZE - 1
    for k in range(GROUP_SIZE):  # right ones among the others
        chance = comb(others, k) * success**k * (1.0 - success) ** (others - k)
        for own, sign in ((1, 1.0), (0, -1.0)):
            share = (k + own) / GROUP_SIZE
            deviation = (share * (1.0 - share)) ** 0.5
            # The ranks of two values are those values, stretched and shifted: their z-scores are the same, without the
            # epsilon.
            if deviation > 0:
                gap += sign * chance * (own - share) / (deviation + (epsilon if normalization == "z_score" else 0.0))
    return gap
