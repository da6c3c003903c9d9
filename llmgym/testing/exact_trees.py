"""What :mod:`llmgym.testing.exact` finds: a tree of all that can happen in an environment, and what follows from it.

``S`` states in which the agent acts, ``A`` actions. All numbers are float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class State(NamedTuple):
    """What the agent sees when it acts.

    Attributes:
        ids: Tokens written so far, the prompt's first.
        prompt_length: How many of them are the prompt.
    """

    ids: tuple[int, ...]
    prompt_length: int


@dataclass(frozen=True)
class Optimum:
    """The best that can be done.

    Attributes:
        values: ``(S,)``. ``V*(s) = max_a Q*(s, a)``.
        action_values: ``(S, A)``. ``Q*(s, a) = r(s, a) + gamma sum_s' p(s' | s, a) V*(s')``.
        policy: ``(S, A)``. A best policy: equal chances for all best actions.
        expected_return: ``sum_s start(s) V*(s)``.
    """

    values: Floats
    action_values: Floats
    policy: Floats
    expected_return: float


@dataclass(frozen=True)
class Evaluation:
    """What a policy is worth.

    Attributes:
        values: ``(S,)``. ``V(s) = sum_a policy(a | s) Q(s, a)``.
        action_values: ``(S, A)``. ``Q(s, a) = r(s, a) + gamma sum_s' p(s' | s, a) V(s')``.
        advantages: ``(S, A)``. ``Q - V``.
        visits: ``(S,)``. ``sum_t gamma^t P(S_t = s)``: with ``gamma`` 1, the chance to pass through ``s``.
        expected_return: ``sum_s start(s) V(s)``.
        gradient: ``(S, A)``. Of the expected return, by the logits of a softmax policy with a row for each state:
            ``visits(s) policy(a | s) (Q(s, a) - V(s))``.
    """

    values: Floats
    action_values: Floats
    advantages: Floats
    visits: Floats
    expected_return: float
    gradient: Floats


@dataclass(frozen=True)
class Divergence:
    """``KL(policy || other)``, in nats; infinite, and without gradients, where it does what the other never does.

    Attributes:
        total: Between the distributions of whole responses: ``sum_s visits(s) KL(policy(. | s) || other(. | s))``.
        by_state: ``(S,)``. ``KL(policy(. | s) || other(. | s))``.
        gradient: ``(S, A)``. Of ``total``, by the policy's logits: that of an expected return whose reward is
            ``log policy(a | s) - log other(a | s)``.
        local_gradient: ``(S, A)``. The same with ``visits`` held fixed: what a penalty in the loss follows, which does
            not credit a token for the states that it leads to.
    """

    total: float
    by_state: Floats
    gradient: Floats
    local_gradient: Floats


@dataclass(frozen=True)
class SampledEpisodes:
    """Episodes drawn from a tree: ``N`` of them, ``T`` actions in the longest.

    Attributes:
        states: ``(N, T)`` int64. Index of the state acted in; 0 outside the mask.
        actions: ``(N, T)`` int64. Index of the action (a place in ``Tree.actions``); 0 outside the mask.
        rewards: ``(N, T)`` float64. The expected reward of each action; 0 outside the mask.
        mask: ``(N, T)`` bool. True where there was an action: the response mask.
    """

    states: Ints
    actions: Ints
    rewards: Floats
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Tree:
    """All that can happen in an environment, from :func:`build_tree`.

    Attributes:
        states: ``S`` of them, in an order in which each comes before those that it leads to.
        actions: ``(A,)`` int64. Token ids.
        start: ``(S,)``. Chance to begin in each state.
        rewards: ``(S, A)``. Expected reward.
        depth: ``(S,)`` int64. Actions taken before.
        edge_state: ``(E,)`` int64. An edge is a way from a state by an action to another state ...
        edge_action: ``(E,)`` int64. ... there is none where the episode ends ...
        edge_next: ``(E,)`` int64. ... and several where what the environment writes depends on what is not seen.
        edge_probability: ``(E,)``. Of the edge, given its state and action.
    """

    states: tuple[State, ...]
    actions: Ints
    start: Floats
    rewards: Floats
    depth: Ints
    edge_state: Ints
    edge_action: Ints
    edge_next: Ints
    edge_probability: Floats

    # ------------------------------------------------------------------------------------------------ policies

    def policy(self, probabilities: Callable[[State], npt.ArrayLike]) -> Floats:
        """``(S, A)``: a policy from a function of the state that gives the chance of each action.

        Raises:
            ValueError: If it gives no distributions.
        """
        rows = [np.asarray(probabilities(state), dtype=np.float64) for state in self.states]
        return self._checked(np.stack(rows))

    def uniform(self) -> Floats:
        """``(S, A)``: the policy that takes each action with the same chance."""
        return np.full(self.rewards.shape, 1.0 / len(self.actions))

    def _checked(self, policy: Floats) -> Floats:
        policy = np.asarray(policy, dtype=np.float64)
        if policy.shape != self.rewards.shape:
            raise ValueError(
                f"Expected a policy of shape {self.rewards.shape} (states, actions), actual: {policy.shape}. "
                "Make it with Tree.policy."
            )
        off = np.flatnonzero((policy < 0).any(axis=1) | ~(np.abs(policy.sum(axis=1) - 1.0) < 1e-6))
        if len(off):
            raise ValueError(
                f"Expected chances >= 0 that sum to 1 in each state, actual: {policy[off[0]].tolist()} in state "
                f"{off[0]}. Normalise them."
            )
        return policy

    # ------------------------------------------------------------------------------------------------ values

    def optimum(self, gamma: float = 1.0) -> Optimum:
        """The optimal values and a best policy.

        Args:
            gamma: Discount for each action, in ``[0, 1]``.

        Source: S&B, eq. 3.18 to 3.20; the states are passed through once, since none leads back.
        """
        values, action_values = self._backward(self.rewards, gamma, lambda q, _: q.max(axis=1))
        best = action_values >= values[:, None] - 1e-12 * np.maximum(1.0, np.abs(values[:, None]))
        policy = best / best.sum(axis=1, keepdims=True)
        return Optimum(values, action_values, policy, float(self.start @ values))

    def evaluate(self, policy: Floats, gamma: float = 1.0, *, rewards: Floats | None = None) -> Evaluation:
        """Values, advantages, visits and policy gradient of a policy.

        Args:
            policy: ``(S, A)``. Chances of the actions.
            gamma: Discount for each action, in ``[0, 1]``.
            rewards: ``(S, A)``. Rewards in place of the environment's.

        Raises:
            ValueError: If the policy is none.

        Source: S&B, eq. 3.12 to 3.14 (values); eq. 13.5 and, with a discount, the box "REINFORCE" after it (gradient).
            With ``pi(a | s) = softmax(h(s, .))_a``, ``d pi(b | s) / d h(s, a) = pi(b | s) (1[a = b] - pi(a | s))``, so
            that ``sum_b Q(s, b) d pi(b | s) / d h(s, a) = pi(a | s) (Q(s, a) - V(s))``.
        """
        policy = self._checked(policy)
        paid = self.rewards if rewards is None else rewards
        values, action_values = self._backward(paid, gamma, lambda q, at: (policy[at] * q).sum(axis=1))
        advantages = action_values - values[:, None]
        visits = self._visits(policy, gamma)
        gradient = visits[:, None] * policy * advantages
        return Evaluation(values, action_values, advantages, visits, float(self.start @ values), gradient)

    def _backward(
        self, rewards: Floats, gamma: float, summary: Callable[[Floats, Ints], Floats]
    ) -> tuple[Floats, Floats]:
        """Values ``(S,)`` and action values ``(S, A)``, from the last states to the first."""
        values, action_values = np.zeros(len(self.states)), np.array(rewards, dtype=np.float64)
        for at, edges in self.levels()[::-1]:
            worth = gamma * self.edge_probability[edges] * values[self.edge_next[edges]]
            np.add.at(action_values, (self.edge_state[edges], self.edge_action[edges]), worth)
            values[at] = summary(action_values[at], at)
        return values, action_values

    def _visits(self, policy: Floats, gamma: float) -> Floats:
        visits = self.start.copy()
        for _, edges in self.levels():
            chance = policy[self.edge_state[edges], self.edge_action[edges]] * self.edge_probability[edges]
            np.add.at(visits, self.edge_next[edges], gamma * visits[self.edge_state[edges]] * chance)
        return visits

    def levels(self) -> list[tuple[Ints, Ints]]:
        """For each number of actions taken before: the states, and the edges that leave them, by index."""
        of_edges = self.depth[self.edge_state]
        return [
            (np.flatnonzero(self.depth == depth), np.flatnonzero(of_edges == depth))
            for depth in range(int(self.depth.max()) + 1)
        ]

    # ------------------------------------------------------------------------------------------------ divergence

    def kl(self, policy: Floats, other: Floats) -> Divergence:
        """The true ``KL(policy || other)`` of whole responses, of each state, and its gradients.

        By the chain rule the KL between two distributions of responses is the sum over their tokens of the KL between
        those of the next token, expected under the first.

        Args:
            policy: ``(S, A)``.
            other: ``(S, A)``.

        Raises:
            ValueError: If either is no policy.

        Source: Cover and Thomas, "Elements of Information Theory", 2nd edition, theorem 2.5.3 (chain rule).
        """
        policy, other = self._checked(policy), self._checked(other)
        with np.errstate(divide="ignore"):
            ratio = np.log(policy, where=policy > 0, out=np.zeros_like(policy))
            ratio -= np.log(other, where=policy > 0, out=np.zeros_like(policy))
        by_state = (policy * np.where(policy > 0, ratio, 0.0)).sum(axis=1)
        visited = self._visits(policy, 1.0) > 0
        if np.isinf(by_state[visited]).any():
            nowhere = np.full(policy.shape, np.nan)
            return Divergence(math.inf, by_state, nowhere, nowhere)
        ratio[~visited] = 0.0  # what never happens may be infinitely far
        whole = self.evaluate(policy, rewards=ratio)
        local = whole.visits[:, None] * policy * (ratio - np.where(visited, by_state, 0.0)[:, None])
        return Divergence(whole.expected_return, by_state, whole.gradient, local)

    def penalised_optimum(self, reference: Floats, kl_coef: float) -> Floats:
        """``(S, A)``: the policy with the highest ``expected return - kl_coef * KL(policy || reference)``.

        ``policy(a | s) = reference(a | s) exp((Q(s, a) - V(s)) / kl_coef)``, with
        ``V(s) = kl_coef log sum_a reference(a | s) exp(Q(s, a) / kl_coef)``. Where the environment leaves nothing to
        luck, a whole response is as likely as ``reference(response) exp(return / kl_coef)``, normalised.

        Args:
            reference: ``(S, A)``.
            kl_coef: Price of a nat, above 0. More: nearer to the reference.

        Raises:
            ValueError: If the reference is no policy, or the price is not above 0.

        Source: Rafailov et al., arXiv:2305.18290v3, eq. 4.
        """
        if not kl_coef > 0:
            raise ValueError(f"Expected kl_coef > 0 (the price of a nat), actual: {kl_coef}. At 0, take optimum().")
        with np.errstate(divide="ignore"):
            logs = np.log(self._checked(reference))
        values, action_values = self._backward(
            self.rewards, 1.0, lambda q, at: kl_coef * np.logaddexp.reduce(logs[at] + q / kl_coef, axis=1)
        )
        policy: Floats = np.exp(logs + (action_values - values[:, None]) / kl_coef)
        return policy

    # ------------------------------------------------------------------------------------------------ episodes

    def sample(self, policy: Floats, n: int, rng: np.random.Generator) -> SampledEpisodes:
        """Episodes of a policy, with the expected reward of each action as its reward.

        Args:
            policy: ``(S, A)``.
            n: How many.
            rng: Where the luck comes from.
        """
        policy = self._checked(policy)
        cumulated, width = policy.cumsum(axis=1), int(self.depth.max()) + 1
        states, actions = np.zeros((n, width), dtype=np.int64), np.zeros((n, width), dtype=np.int64)
        rewards, mask = np.zeros((n, width)), np.zeros((n, width), dtype=np.bool_)
        first, last = self._edge_ranges()
        now = rng.choice(len(self.states), size=n, p=self.start)
        running = np.arange(n)
        for t in range(width):
            luck = rng.random(len(running)) * cumulated[now, -1]
            chosen = (cumulated[now] <= luck[:, None]).sum(axis=1)
            states[running, t], actions[running, t], mask[running, t] = now, chosen, True
            rewards[running, t] = self.rewards[now, chosen]
            begin, end = first[now, chosen], last[now, chosen]
            edge = begin.copy()
            for place in np.flatnonzero(end - begin > 1):  # rare: what the environment writes depends on what is hidden
                chances = self.edge_probability[begin[place] : end[place]]
                edge[place] += rng.choice(len(chances), p=chances / chances.sum())
            goes_on = end > begin
            running, now = running[goes_on], self.edge_next[edge[goes_on]]
        return SampledEpisodes(states, actions, rewards, mask)

    def _edge_ranges(self) -> tuple[Ints, Ints]:
        """``(S, A)`` each: the first edge of a state and action, and one past the last; edges are in that order."""
        place = self.edge_state * len(self.actions) + self.edge_action
        every = np.arange(self.rewards.size)
        shape = self.rewards.shape
        return np.searchsorted(place, every).reshape(shape), np.searchsorted(place, every, "right").reshape(shape)
