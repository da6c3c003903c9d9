"""Rollouts: episodes played through ``reset`` and ``step`` of a vector environment, and through nothing else.

Responses to one problem form a group. Slots are cut into blocks of ``group_size``; the slots of a block play the same
sequence of problems, so the k-th episodes of a block are a group. How a block gets the same problems:

* a native vector environment of llmgym: ``reset(options={"group_size": G})``;
* Gymnasium's ``SyncVectorEnv`` and ``AsyncVectorEnv``: the same seed for each slot of a block.

Each block plays the same number of problems (or one more), fixed beforehand: if quick blocks took more, problems with
short responses would be over-represented. What happens at the end of an episode follows the autoreset mode:

* ``DISABLED``: the slot waits (action ``-1``) until its group is done; finished groups are given their next problem
  by ``reset(options={"reset_mask": ...})``, several at a time. No episode is cut off or thrown away.
* ``NEXT_STEP``, ``SAME_STEP``: the slot goes on with the block's next problem at once. A slot that has played its
  quota cannot wait there: it is sent token 0, the policy does not look at it, and what it earns is dropped, finished
  or not. Since the next collection starts with a reset, no partial episode ever reaches the learner.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from llmgym.agents.policies import Policy
from llmgym.agents.rollout_batches import Bools, Bytes, Floats, Ints, RolloutBatch
from llmgym.errors import InvalidOptionError, LLMGymError

__all__ = ["Bools", "Bytes", "Floats", "Ints", "RolloutBatch", "check_spaces", "collect"]

#: With autoreset disabled, finished groups are reset together once they are this share of the slots: entering prompts
#: costs a forward pass of its own, and with few new rows that pass is mostly overhead.
_REFILL_SHARE = 0.25


def collect(
    envs: VectorEnv[Any, Any, Any],
    policy: Policy,
    *,
    group_size: int = 1,
    n_groups: int | None = None,
    seed: int | None = None,
    seed_each_problem: bool = False,
) -> RolloutBatch:
    """Play ``n_groups`` problems, ``group_size`` responses each.

    Args:
        envs: A vector environment with token actions: ``Dict(input_ids, attention_mask)`` and ``Discrete``.
        policy: Who plays. Its memory of the slots is dropped first, so its weights may have changed.
        group_size: Responses to each problem; divides ``envs.num_envs``.
        n_groups: Problems; ``None``: as many as there are blocks of slots.
        seed: Of the environment's reset. ``None``: a native vector environment goes on with its own random
            generators; for Gymnasium's, seeds are drawn afresh.
        seed_each_problem: Whether problem ``p`` is that of ``seed + p``, however many slots there are. Needs a seed,
            and an environment that is reset problem by problem (a native one with autoreset disabled); for others it
            changes nothing.

    Returns:
        The episodes, ordered by problem.

    Raises:
        InvalidOptionError: If the environment has no token actions, the numbers do not fit, or Gymnasium's vector
            environment was made with autoreset disabled (it has no way to wait).
        LLMGymError: If the slots of a group were posed different problems, or the environment did not append an action.
    """
    return _Collector(envs, policy, group_size, n_groups, seed if seed_each_problem else None).run(seed)


def check_spaces(envs: VectorEnv[Any, Any, Any]) -> tuple[int, int]:
    """Width of the observations and size of the vocabulary.

    Raises:
        InvalidOptionError: If the environment has no token actions.
    """
    observations, actions = envs.single_observation_space, envs.single_action_space
    if not isinstance(actions, spaces.Discrete) or not isinstance(observations, spaces.Dict):
        raise InvalidOptionError(
            f'Expected an environment with token actions, actual: {actions}. Make it with action_unit="token".'
        )
    return int(observations["input_ids"].shape[0]), int(actions.n)  # type: ignore[index]


@dataclass
class _Collector:
    """One call of :func:`collect`. ``N`` slots, observations ``W`` tokens wide."""

    envs: VectorEnv[Any, Any, Any]
    policy: Policy
    group_size: int
    n_groups: int | None
    first_problem_seed: int | None = None
    env_seconds: float = 0.0
    policy_seconds: float = 0.0

    def __post_init__(self) -> None:
        width, n_actions = check_spaces(self.envs)
        self.n = n = self.envs.num_envs
        if self.group_size < 1 or n % self.group_size:
            raise InvalidOptionError(
                f"Expected a group_size that divides the {n} slots of the environment, actual: {self.group_size}. "
                "Change num_envs or group_size."
            )
        self.gymnasium_made = isinstance(self.envs.unwrapped, (SyncVectorEnv, AsyncVectorEnv))
        mode = self.envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.mode = mode if isinstance(mode, AutoresetMode) else AutoresetMode(mode)
        if self.mode is AutoresetMode.DISABLED and self.gymnasium_made:
            raise InvalidOptionError(
                f"Expected autoreset in a {type(self.envs.unwrapped).__name__}, actual: disabled; it cannot let a slot "
                "wait for others. Make it with AutoresetMode.SAME_STEP, or make the native one with gymnasium.make_vec."
            )
        self.policy.n_actions = n_actions
        self.n_blocks = n // self.group_size
        total = self.n_blocks if self.n_groups is None else self.n_groups
        if total < 1:
            raise InvalidOptionError(f"Expected n_groups >= 1, actual: {total}. Ask for at least one problem.")
        quota = np.full(self.n_blocks, total // self.n_blocks) + (np.arange(self.n_blocks) < total % self.n_blocks)
        self.quota = np.repeat(quota, self.group_size)  # (N,) episodes due of each slot

        self.n_played = np.zeros(n, dtype=np.int64)  # episodes finished in each slot
        self.n_steps_closed = np.zeros(n, dtype=np.int64)
        self.counts_steps = True  # whether every info has said how many reasoning steps are closed

        # The record: a row for each episode of the batch, in its order, and a column for each token of the transcript.
        n_episodes = total * self.group_size
        shape = (n_episodes, width)
        self.ids = np.zeros(shape, dtype=np.int64)
        self.chosen = np.zeros(shape, dtype=bool)
        self.logprobs = np.zeros(shape, dtype=np.float32)
        self.values = np.zeros(shape, dtype=np.float32)
        self.rewards = np.zeros(shape)
        self.step_index = np.zeros(shape, dtype=np.int64)
        self.allowed: list[list[Bytes]] = [[] for _ in range(n_episodes)]  # for each token chosen
        self.components: dict[str, Floats] = {}  # (n_episodes,) each
        self.prompt_lengths = np.zeros(n_episodes, dtype=np.int64)
        self.lengths = np.zeros(n_episodes, dtype=np.int64)
        self.terminated = np.zeros(n_episodes, dtype=bool)
        self.stop_reasons = [""] * n_episodes
        self.unverifiable: list[bool | None] = [None] * n_episodes
        self.n_dropped = 0

    def run(self, seed: int | None) -> RolloutBatch:
        started = time.perf_counter()
        self.policy.forget()
        observations = self._reset(seed)
        restarted = np.ones(self.n, dtype=bool)
        spent = self.n_played >= self.quota  # slots that have no further problem to play
        idle = spent.copy()  # slots that take no action of the policy in this step
        over = np.zeros(self.n, dtype=bool)
        while not spent.all():
            lengths = _lengths(observations)
            begun = np.flatnonzero(restarted & ~spent)
            self.prompt_lengths[self._rows(begun)] = lengths[begun]
            clock = time.perf_counter()
            actions, logprobs = self.policy.act(observations, restarted, idle)
            clock = self._took("policy_seconds", clock)
            # Only a finished slot can wait; with more blocks than problems, some sit out an episode that goes on.
            actions = np.where(idle & ~over if self.mode is AutoresetMode.DISABLED else idle, 0, actions)
            acting = np.flatnonzero(~idle)
            row, at = self._rows(acting), lengths[acting]
            self.chosen[row, at] = True
            self.ids[row, at] = actions[acting]
            self.logprobs[row, at] = logprobs[acting]
            self.step_index[row, at] = self.n_steps_closed[acting]
            if self.policy.last_values is not None:
                self.values[row, at] = self.policy.last_values[acting]
            self._keep_allowed(acting, row)
            clock = time.perf_counter()
            following, rewards, terminated, truncated, infos = self.envs.step(actions)
            self._took("env_seconds", clock)
            self.rewards[row, at] = rewards[acting]
            over = terminated | truncated
            ended = np.flatnonzero(over & ~idle)
            self._add_components(infos, acting, row)
            self._count_steps(infos, acting)
            if len(ended):
                self._finish(ended, observations, lengths[ended], infos, terminated[ended])
            observations, restarted, idle = self._go_on(following, over, ended, idle)
            spent = self.n_played >= self.quota
        return self._batch(time.perf_counter() - started)

    def _rows(self, slots: Ints) -> Ints:
        """The row of the record that each of ``slots`` writes to; only of those with a problem left to play."""
        block, member = np.divmod(slots, self.group_size)
        rows: Ints = (self.n_played[slots] * self.n_blocks + block) * self.group_size + member
        return rows

    def _took(self, what: str, since: float) -> float:
        now = time.perf_counter()
        setattr(self, what, getattr(self, what) + now - since)
        return now

    def _reset(self, seed: int | None, mask: Bools | None = None) -> Mapping[str, npt.NDArray[Any]]:
        clock = time.perf_counter()
        observations: Mapping[str, npt.NDArray[Any]]
        seeds: Any = seed  # Gymnasium's annotation knows no list
        if self.gymnasium_made:
            words = np.random.SeedSequence(seed).generate_state(self.n_blocks)
            seeds = [int(word) for word in np.repeat(words, self.group_size)]
            observations, infos = self.envs.reset(seed=seeds)
        else:
            options: dict[str, Any] = {"group_size": self.group_size}
            if self.first_problem_seed is not None and self.mode is AutoresetMode.DISABLED:
                block = np.arange(self.n) // self.group_size
                seeds = (self.first_problem_seed + self.n_played * self.n_blocks + block).tolist()
            if mask is not None:
                options["reset_mask"] = mask
            observations, infos = self.envs.reset(seed=seeds, options=options)
        self._took("env_seconds", clock)
        self._count_steps(infos, np.arange(self.n) if mask is None else np.flatnonzero(mask))
        return observations

    def _go_on(
        self, observations: Any, over: Bools, ended: Ints, idle: Bools
    ) -> tuple[Mapping[str, npt.NDArray[Any]], Bools, Bools]:
        """What follows a step: the observations to act on, the slots that restarted, and those that sit out."""
        spent = self.n_played >= self.quota
        finished = np.zeros(self.n, dtype=bool)
        finished[ended] = True
        if self.mode is AutoresetMode.SAME_STEP:
            self.n_dropped += int((over & idle).sum())
            return observations, finished & ~spent, spent
        if self.mode is AutoresetMode.NEXT_STEP:
            # A slot that ended spends the next step on its reset; one that sat it out comes back.
            back = idle & ~over & ~spent
            self.n_dropped += int((over & idle & spent).sum())
            return observations, back, spent | finished
        waiting = idle | finished
        # A group may go on when all of it waits and its quota leaves another problem.
        blocks = waiting.reshape(self.n_blocks, self.group_size).all(axis=1)
        ready = np.repeat(blocks, self.group_size) & ~spent
        if ready.any() and (ready.sum() >= _REFILL_SHARE * self.n or waiting.all()):
            return self._reset(None, ready), ready, waiting & ~ready
        return observations, np.zeros(self.n, dtype=bool), waiting

    def _count_steps(self, infos: Mapping[str, Any], slots: Ints) -> None:
        """Read how many reasoning steps are closed before the next action; ``slots`` are those that have to say."""
        said = infos.get("_n_reasoning_steps")
        if said is None or not said[slots].all():
            self.counts_steps = False
            return
        # An episode that ended and was reset in the same step says 0 here; what it ended with is asked by nobody.
        self.n_steps_closed = np.where(said, infos["n_reasoning_steps"], self.n_steps_closed)

    def _keep_allowed(self, acting: Ints, row: Ints) -> None:
        allowed = self.policy.last_allowed
        if allowed is None:
            return
        for episode, tokens in zip(row.tolist(), allowed[acting], strict=True):  # copies; of the acting slots alone
            self.allowed[episode].append(tokens)

    def _add_components(self, infos: Mapping[str, Any], slots: Ints, row: Ints) -> None:
        for name, values in infos.get("reward_components", {}).items():
            if name.startswith("_"):  # Gymnasium's masks of who reported
                continue
            if name not in self.components:
                self.components[name] = np.zeros(len(self.lengths))
            self.components[name][row] += np.asarray(values, dtype=np.float64)[slots]

    def _finish(
        self,
        slots: Ints,
        observations: Mapping[str, npt.NDArray[Any]],
        lengths: Ints,
        infos: Mapping[str, Any],
        terminated: Bools,
    ) -> None:
        """Put the episodes on record that ended in ``slots``; ``lengths`` are those of the last observations."""
        row = self._rows(slots)
        final = infos.get("final_info", {}) if self.mode is AutoresetMode.SAME_STEP else infos
        if final is not infos:  # the last step of an episode reports apart in this mode
            self._add_components(final, slots, row)
        longest = int(lengths.max()) + 1
        written, chosen = self.ids[row, :longest], self.chosen[row, :longest]
        # The last observation shows everything but the last action.
        shown = np.asarray(observations["input_ids"])[slots, :longest].astype(np.int64)
        ids = np.where(np.arange(longest) < lengths[:, None], shown, written)
        wrong = (chosen & (ids != written)).any(1)
        if wrong.any():
            first = int(np.argmax(wrong))
            here = chosen[first]
            raise LLMGymError(
                f"Expected every action to be appended to the observation of slot {slots[first]}, actual: "
                f"{ids[first][here].tolist()} after the actions {written[first][here].tolist()}. "
                "An environment for these agents keeps what was written."
            )
        self.ids[row, :longest] = ids
        self.lengths[row], self.terminated[row] = lengths + 1, terminated
        reasons = final.get("stop_reason")
        for slot, episode, ok in zip(slots.tolist(), row.tolist(), terminated.tolist(), strict=True):
            said = None if reasons is None else reasons[slot]
            self.stop_reasons[episode] = str(said) if said else ("terminated" if ok else "truncated")
            self.unverifiable[episode] = _is_unverifiable(final, slot)
        self.n_played[slots] += 1

    def _batch(self, seconds: float) -> RolloutBatch:
        begin, lengths = self.prompt_lengths, self.lengths - self.prompt_lengths
        columns = begin[:, None] + np.arange(int(lengths.max()))
        inside = columns < self.lengths[:, None]
        columns = np.minimum(columns, self.ids.shape[1] - 1)

        def response(record: npt.NDArray[Any]) -> npt.NDArray[Any]:
            """``(n_episodes, T)``, 0 after the end."""
            return np.where(inside, np.take_along_axis(record, columns, axis=1), np.zeros((), record.dtype))

        before = np.arange(int(begin.max())) - int(begin.max()) + begin[:, None]
        prompts = np.where(before < 0, 0, np.take_along_axis(self.ids, np.maximum(before, 0), axis=1))
        self._check_groups(prompts)
        mask = response(self.chosen)
        return RolloutBatch(
            group_size=self.group_size,
            prompt_ids=prompts,
            prompt_lengths=begin,
            response_ids=response(self.ids),
            response_lengths=lengths,
            response_mask=mask,
            old_logprobs=response(self.logprobs),
            rewards=response(self.rewards),
            reward_components={name: self.components[name] for name in sorted(self.components)},
            stop_reasons=self.stop_reasons,
            unverifiable=(
                None
                if all(said is None for said in self.unverifiable)
                else np.array([bool(said) for said in self.unverifiable])
            ),
            terminated=self.terminated,
            env_seconds=self.env_seconds,
            policy_seconds=self.policy_seconds,
            seconds=seconds,
            n_dropped=self.n_dropped,
            step_index=response(self.step_index) if self.counts_steps else None,
            allowed=self._sets(mask),
            values=None if self.policy.last_values is None else response(self.values),
        )

    def _sets(self, mask: Bools) -> Bytes | None:
        """The sets of tokens that could be sampled; ``None`` where the policy kept none."""
        if not self.allowed[0]:
            return None
        sets = np.zeros((*mask.shape, len(self.allowed[0][0])), dtype=np.uint8)
        for row, kept in enumerate(self.allowed):
            sets[row, mask[row]] = kept
        return sets

    def _check_groups(self, prompts: Ints) -> None:
        groups = prompts.reshape(-1, self.group_size, prompts.shape[1])
        lengths = self.prompt_lengths.reshape(-1, self.group_size)
        if (groups != groups[:, :1]).any() or (lengths != lengths[:, :1]).any():
            raise LLMGymError(
                f"Expected one prompt for each group of {self.group_size} responses, actual: different ones. "
                'The vector environment has to honour reset(options={"group_size": G}), or equal seeds.'
            )


def _lengths(observations: Mapping[str, npt.NDArray[Any]]) -> Ints:
    lengths: Ints = np.asarray(observations["attention_mask"]).sum(axis=1, dtype=np.int64)
    return lengths


def _is_unverifiable(infos: Mapping[str, Any], slot: int) -> bool | None:
    """Whether a reward says of the episode that ended in a slot that nobody could verify its answer.

    ``None`` where no reward gives a verdict.
    """
    details = infos.get("reward_details", {})
    verdicts = [said["verdict"] for said in details.values() if isinstance(said, Mapping) and "verdict" in said]
    said_here = [verdict[slot] for verdict in verdicts if verdict[slot]]
    return "unverifiable" in said_here if said_here else None
