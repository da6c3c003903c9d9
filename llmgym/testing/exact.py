"""The exact solver: everything that can be known of a small token environment, by dynamic programming.

:func:`build_tree` goes through all that can happen, over the public API alone (``reset``, ``step``, ``clone_state``,
``restore_state``). What it finds, a :class:`Tree`, gives the optimum (V*, Q*, a best policy), and of any policy its
values, its advantages, how often each state is visited, the gradient of its expected return, and its KL to another.
:mod:`llmgym.testing.exact_policies` puts a model in place of a table of probabilities.

A state is what the agent sees: the tokens written so far. ``S`` states in which it acts, ``A`` actions. All numbers are
float64; every sum is over all outcomes, so nothing is estimated.

**What may be random.** The draw of the problem: ``task.outcomes()`` (or ``outcomes``) lists the problems with their
probabilities. Problems that look the same, such as those that differ by a verifier's errors alone, are one state, whose
rewards are expectations over what the problem may be. Rewards may be random beyond that if their mean is declared:
``task.mean_reward(transition, reward)`` (or ``mean_reward``). Anything else that is random raises an error.

Sources: Sutton and Barto, "Reinforcement Learning", 2nd edition (``S&B``): eq. 3.12 to 3.14 (values of a policy), 3.18
to 3.20 (optimal values), 13.5 (policy gradient theorem).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np

from llmgym.core import LanguageEnv
from llmgym.errors import InvalidOptionError, WrongEnvironmentError
from llmgym.process import SlotState
from llmgym.tasks import Problem
from llmgym.testing.exact_trees import Divergence, Evaluation, Optimum, SampledEpisodes, State, Tree
from llmgym.transcript import Transition

__all__ = ["Divergence", "Evaluation", "MeanReward", "Optimum", "SampledEpisodes", "State", "Tree", "build_tree"]

#: A transition and the reward that was paid for it -> the expected reward.
MeanReward: TypeAlias = Callable[[Transition, float], float]


def build_tree(
    env: str | gym.Env[Any, Any],
    *,
    outcomes: Iterable[tuple[float, Problem]] | None = None,
    actions: Sequence[int] | None = None,
    mean_reward: MeanReward | None = None,
    max_states: int = 10_000,
    **env_kwargs: Any,
) -> Tree:
    """Go through all that can happen in an environment with token actions.

    Args:
        env: A language environment, wrapped or not; or an id, made with ``env_kwargs``. It is left in some state.
        outcomes: Probability and problem, for each problem that can be drawn; ``None``: ``task.outcomes()``.
        actions: Tokens that a policy may choose; ``None``: all of the vocabulary.
        mean_reward: ``(transition, reward)`` -> expected reward, where rewards are random beyond the problem; ``None``:
            ``task.mean_reward`` if there is one, otherwise rewards are what was paid.
        max_states: The most states to go through; the time is in proportion to states times actions.
        env_kwargs: Keyword arguments of the environment, where ``env`` is an id.

    Returns:
        The tree.

    Raises:
        WrongEnvironmentError: If it is no language environment.
        InvalidOptionError: If its actions are no tokens, nothing lists its problems, their chances are none, or there
            are more than ``max_states`` states.
        ValueError: If a step is random in a way that nobody declared.

    Example:
        >>> import llmgym
        >>> tree = build_tree("llmgym/SecretSequence-v0", length=2, n_words=4)
        >>> len(tree.states), tree.optimum().expected_return, round(1 / tree.evaluate(tree.uniform()).expected_return)
        (9, 1.0, 81)
    """
    made = gym.make(env, disable_env_checker=True, **env_kwargs) if isinstance(env, str) else env
    core = made.unwrapped
    if not isinstance(core, LanguageEnv):
        raise WrongEnvironmentError(
            f"Expected a language environment, actual: {type(core).__name__}. Pass a subclass of llmgym.LanguageEnv."
        )
    if not isinstance(core.action_space, gym.spaces.Discrete):
        raise InvalidOptionError(
            f'Expected token actions, actual: {core.action_space}. Make the environment with action_unit="token".'
        )
    if env_kwargs and not isinstance(env, str):
        raise InvalidOptionError(
            f"Expected no keyword arguments for an environment made already, actual: {sorted(env_kwargs)}. Pass its id."
        )
    allowed = range(int(core.action_space.n)) if actions is None else actions
    declared = getattr(core.task, "mean_reward", None) if mean_reward is None else mean_reward
    return _Builder(made, core, list(map(int, allowed)), declared, max_states).build(_listed(core, outcomes))


def _listed(core: LanguageEnv, outcomes: Iterable[tuple[float, Problem]] | None) -> Iterable[tuple[float, Problem]]:
    if outcomes is not None:
        return outcomes
    task: Any = core.task
    if not callable(getattr(task, "outcomes", None)):
        raise InvalidOptionError(
            f"Expected a task that lists its problems (`outcomes()`), actual: {type(task).__name__}, which only draws "
            "them. Pass outcomes=[(probability, problem), ...]."
        )
    listed: Iterable[tuple[float, Problem]] = task.outcomes()
    return listed


#: How often a step that draws random numbers is taken again, to see whether more than its reward changes.
_TRIES = 8

#: A state under construction: for each problem it may stand for, the joint probability and the environment's state.
_Members = list[tuple[float, SlotState]]


class _Builder:
    """One call of :func:`build_tree`."""

    def __init__(
        self,
        env: gym.Env[Any, Any],
        core: LanguageEnv,
        actions: list[int],
        mean_reward: MeanReward | None,
        max_states: int,
    ) -> None:
        self.env = env
        self.core = core
        self.actions = actions
        self.mean_reward = mean_reward
        self.max_states = max_states
        self.states: list[State] = []
        self.depth: list[int] = []
        self.members: list[_Members] = []
        self.edges: list[tuple[int, int, int, float]] = []

    def build(self, outcomes: Iterable[tuple[float, Problem]]) -> Tree:
        """Breadth first, so that each state comes before those that it leads to."""
        start = self._begin(outcomes)
        rewards: list[list[float]] = []
        now = 0
        while now < len(self.states):
            weight = math.fsum(chance for chance, _ in self.members[now])
            row = []
            for place, action in enumerate(self.actions):
                reward, following = self._act(self.members[now], action)
                row.append(reward / weight)
                for state, members in following.items():
                    reached = math.fsum(chance for chance, _ in members)
                    self.edges.append((now, place, self._add(state, members, self.depth[now] + 1), reached / weight))
            rewards.append(row)
            self.members[now] = []  # states are the larger part of the memory
            now += 1
        edges = list(zip(*self.edges, strict=True)) or [(), (), (), ()]
        return Tree(
            states=tuple(self.states),
            actions=np.array(self.actions, dtype=np.int64),
            start=np.array(start + [0.0] * (len(self.states) - len(start))),
            rewards=np.array(rewards),
            depth=np.array(self.depth, dtype=np.int64),
            edge_state=np.array(edges[0], dtype=np.int64),
            edge_action=np.array(edges[1], dtype=np.int64),
            edge_next=np.array(edges[2], dtype=np.int64),
            edge_probability=np.array(edges[3], dtype=np.float64),
        )

    def _begin(self, outcomes: Iterable[tuple[float, Problem]]) -> list[float]:
        """Enter the first states; returns their chances."""
        begun: dict[State, _Members] = {}
        total = []
        for chance, problem in outcomes:
            if not chance >= 0:
                raise InvalidOptionError(
                    f"Expected a probability >= 0 for each problem, actual: {chance!r} for {problem.problem_id!r}. "
                    "Mend the list."
                )
            total.append(chance)
            if chance == 0:
                continue
            observation, _ = self.env.reset(options={"problem": problem})
            members = begun.setdefault(self._seen(observation), [])
            members.append((chance, self.core.clone_state()))
            if len(begun) > self.max_states:
                raise self._too_many()
        if abs(math.fsum(total) - 1.0) > 1e-9:
            raise InvalidOptionError(
                f"Expected the probabilities of the problems to sum to 1, actual: {math.fsum(total)!r} over "
                f"{len(total)} problems. List all of them."
            )
        for state, members in begun.items():
            self._add(state, members, 0)
        return [math.fsum(chance for chance, _ in members) / math.fsum(total) for members in begun.values()]

    def _add(self, state: State, members: _Members, depth: int) -> int:
        """The index of a new state. In a tree no state is reached twice: it is its own history."""
        if len(self.states) >= self.max_states:
            raise self._too_many()
        self.states.append(state)
        self.depth.append(depth)
        self.members.append(members)
        return len(self.states) - 1

    def _too_many(self) -> InvalidOptionError:
        return InvalidOptionError(
            f"Expected at most {self.max_states} states (`max_states`), actual: more, after "
            f"{self.depth[-1] if self.depth else 0} actions with {len(self.actions)} choices each. Choose a smaller "
            "environment, fewer `actions`, or raise the limit."
        )

    def _seen(self, observation: Any) -> State:
        n = int(observation["attention_mask"].sum())
        return State(tuple(observation["input_ids"][:n].tolist()), int(self.core.process.prompt_length[0]))

    def _act(self, members: _Members, action: int) -> tuple[float, dict[State, _Members]]:
        """Take an action in each problem that a state may stand for.

        Returns:
            The joint expectation of the reward, and the members of each state that follows.
        """
        rewards: list[float] = []
        following: dict[State, _Members] = {}
        for chance, state in members:
            self.core.restore_state(state)
            before = self.core.np_random.bit_generator.state
            observation, reward, terminated, truncated, _ = self.env.step(action)
            is_random = self.core.np_random.bit_generator.state != before
            if self.mean_reward is not None:
                reward = self.mean_reward(self.core.last_transition, float(reward))
            if is_random:
                self._check_luck(state, action, (observation["input_ids"].tolist(), terminated, truncated))
            rewards.append(chance * float(reward))
            if not (terminated or truncated):
                following.setdefault(self._seen(observation), []).append((chance, self.core.clone_state()))
        return math.fsum(rewards), following

    def _check_luck(self, state: SlotState, action: int, result: Any) -> None:
        """A step drew a random number: fine if only its reward depends on it, and somebody says what it is on average.

        Leaves the environment where it was found.
        """
        what = "its reward, by a mean that nobody declared"
        if self.mean_reward is not None:
            what = "what comes after it"
            after, same = self.core.clone_state(), True
            for _ in range(_TRIES):
                self.core.restore_state(dataclasses.replace(state, rng=None))  # the same state, other random numbers
                observation, _, terminated, truncated, _ = self.env.step(action)
                same = same and (observation["input_ids"].tolist(), terminated, truncated) == result
            self.core.restore_state(after)
            if same:
                return
        raise ValueError(
            f"Expected steps that are not random, or rewards with a declared mean, actual: the action {action} draws a "
            f"random number, which may change {what}. Draw what is random with the problem and list the outcomes, or "
            "pass mean_reward."
        )
