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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from llmgym.agents.policies import Policy
from llmgym.agents.rollout_batches import Bools, Bytes, Floats, Ints, RolloutBatch, padded_left
from llmgym.errors import InvalidOptionError, LLMGymError

__all__ = ["Bools", "Bytes", "Floats", "Ints", "RolloutBatch", "check_spaces", "collect"]

#: With autoreset disabled, finished groups are reset together once they are this share of the slots: entering prompts
#: costs a forward pass of its own, and with few new rows that pass is mostly overhead.
_REFILL_SHARE = 0.25


@dataclass(slots=True)
class _Episode:
    """The record of a finished episode."""

    ids: Ints
    prompt_length: int
    chosen: Bools
    logprobs: npt.NDArray[np.float32]
    rewards: Floats
    step_index: Ints
    allowed: list[Bytes]  # one for each token chosen; empty where the policy left no token out
    values: npt.NDArray[np.float32]
    components: dict[str, float]
    stop_reason: str
    unverifiable: bool | None
    terminated: bool


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
    episodes: dict[tuple[int, int, int], _Episode] = field(default_factory=dict)

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

        self.chosen = np.zeros((n, width), dtype=bool)
        self.tokens = np.zeros((n, width), dtype=np.int64)
        self.logprobs = np.zeros((n, width), dtype=np.float32)
        self.values = np.zeros((n, width), dtype=np.float32)
        self.rewards = np.zeros((n, width))
        self.step_index = np.zeros((n, width), dtype=np.int64)
        self.n_steps_closed = np.zeros(n, dtype=np.int64)
        self.counts_steps = True  # whether every info has said how many reasoning steps are closed
        self.allowed: list[list[Bytes]] = [[] for _ in range(n)]
        self.components: dict[str, Floats] = {}
        self.prompt_length = np.zeros(n, dtype=np.int64)
        self.n_played = np.zeros(n, dtype=np.int64)  # episodes finished in each slot
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
            self.prompt_length[restarted] = lengths[restarted]
            clock = time.perf_counter()
            actions, logprobs = self.policy.act(observations, restarted, idle)
            clock = self._took("policy_seconds", clock)
            # Only a finished slot can wait; with more blocks than problems, some sit out an episode that goes on.
            actions = np.where(idle & ~over if self.mode is AutoresetMode.DISABLED else idle, 0, actions)
            acting = np.flatnonzero(~idle)
            at = lengths[acting]
            self.chosen[acting, at] = True
            self.tokens[acting, at] = actions[acting]
            self.logprobs[acting, at] = logprobs[acting]
            self.step_index[acting, at] = self.n_steps_closed[acting]
            if self.policy.last_values is not None:
                self.values[acting, at] = self.policy.last_values[acting]
            self._keep_allowed(acting)
            clock = time.perf_counter()
            following, rewards, terminated, truncated, infos = self.envs.step(actions)
            self._took("env_seconds", clock)
            self.rewards[acting, at] = rewards[acting]
            over = terminated | truncated
            ended = np.flatnonzero(over & ~idle)
            self._add_components(infos, acting)
            self._count_steps(infos, acting)
            for slot in ended:
                self._finish(int(slot), observations, int(lengths[slot]), infos, bool(terminated[slot]))
            observations, restarted, idle = self._go_on(following, over, ended, idle)
            spent = self.n_played >= self.quota
        return self._batch(time.perf_counter() - started)

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

    def _keep_allowed(self, acting: Ints) -> None:
        allowed = self.policy.last_allowed
        if allowed is None:
            return
        for slot, row in zip(acting.tolist(), allowed[acting], strict=True):  # copies; of the acting slots alone
            self.allowed[slot].append(row)

    def _add_components(self, infos: Mapping[str, Any], acting: Ints) -> None:
        for name, values in infos.get("reward_components", {}).items():
            if name.startswith("_"):  # Gymnasium's masks of who reported
                continue
            if name not in self.components:
                self.components[name] = np.zeros(self.n)
            self.components[name][acting] += np.asarray(values, dtype=np.float64)[acting]

    def _finish(
        self, slot: int, observations: Mapping[str, npt.NDArray[Any]], length: int, infos: Mapping[str, Any], ok: bool
    ) -> None:
        """Put the finished episode of ``slot`` on record; ``length`` is that of the last observation acted on."""
        final = infos.get("final_info", {}) if self.mode is AutoresetMode.SAME_STEP else infos
        components = {name: float(values[slot]) for name, values in self.components.items()}
        if final is not infos:  # the last step of an episode reports apart in this mode
            for name, values in final.get("reward_components", {}).items():
                if not name.startswith("_"):
                    components[name] = components.get(name, 0.0) + float(values[slot])
        ids = np.append(np.asarray(observations["input_ids"])[slot, :length], self.tokens[slot, length]).astype(
            np.int64
        )
        chosen = self.chosen[slot, : length + 1].copy()
        if not np.array_equal(ids[chosen], self.tokens[slot, : length + 1][chosen]):
            raise LLMGymError(
                f"Expected every action to be appended to the observation of slot {slot}, actual: "
                f"{ids[chosen].tolist()} after the actions {self.tokens[slot, : length + 1][chosen].tolist()}. "
                "An environment for these agents keeps what was written."
            )
        reasons = final.get("stop_reason")
        reason = str(reasons[slot]) if reasons is not None and reasons[slot] else ("terminated" if ok else "truncated")
        block, member = divmod(slot, self.group_size)
        self.episodes[block, int(self.n_played[slot]), member] = _Episode(
            ids=ids,
            prompt_length=int(self.prompt_length[slot]),
            chosen=chosen,
            logprobs=self.logprobs[slot, : length + 1].copy(),
            rewards=self.rewards[slot, : length + 1].copy(),
            step_index=self.step_index[slot, : length + 1].copy(),
            allowed=self.allowed[slot],
            values=self.values[slot, : length + 1].copy(),
            components=components,
            stop_reason=reason,
            unverifiable=_is_unverifiable(final, slot),
            terminated=ok,
        )
        self.n_played[slot] += 1
        for stored in (self.chosen, self.logprobs, self.values, self.rewards, self.step_index):
            stored[slot] = 0
        self.allowed[slot] = []
        for values in self.components.values():
            values[slot] = 0.0

    def _batch(self, seconds: float) -> RolloutBatch:
        # Problems in the order in which they were posed: the first of each block, then the second, ...
        keys = sorted(self.episodes, key=lambda key: (key[1], key[0], key[2]))
        episodes = [self.episodes[key] for key in keys]
        self._check_groups(episodes)
        prompts = [episode.ids[: episode.prompt_length] for episode in episodes]
        lengths = np.array([len(episode.ids) - episode.prompt_length for episode in episodes])
        shape = (len(episodes), int(lengths.max()))
        batch = RolloutBatch(
            group_size=self.group_size,
            prompt_ids=padded_left(prompts),
            prompt_lengths=np.array([len(prompt) for prompt in prompts]),
            response_ids=np.zeros(shape, dtype=np.int64),
            response_lengths=lengths,
            response_mask=np.zeros(shape, dtype=bool),
            old_logprobs=np.zeros(shape, dtype=np.float32),
            rewards=np.zeros(shape),
            reward_components={
                name: np.array([episode.components.get(name, 0.0) for episode in episodes])
                for name in sorted({name for episode in episodes for name in episode.components})
            },
            stop_reasons=[episode.stop_reason for episode in episodes],
            unverifiable=(
                None
                if all(episode.unverifiable is None for episode in episodes)
                else np.array([bool(episode.unverifiable) for episode in episodes])
            ),
            terminated=np.array([episode.terminated for episode in episodes]),
            env_seconds=self.env_seconds,
            policy_seconds=self.policy_seconds,
            seconds=seconds,
            n_dropped=self.n_dropped,
            step_index=np.zeros(shape, dtype=np.int64) if self.counts_steps else None,
            allowed=_empty_sets(episodes, shape),
            values=None if self.policy.last_values is None else np.zeros(shape, dtype=np.float32),
        )
        for row, episode in enumerate(episodes):
            begin, n = episode.prompt_length, lengths[row]
            batch.response_ids[row, :n] = episode.ids[begin:]
            batch.response_mask[row, :n] = episode.chosen[begin:]
            batch.old_logprobs[row, :n] = episode.logprobs[begin:]
            batch.rewards[row, :n] = episode.rewards[begin:]
            if batch.step_index is not None:
                batch.step_index[row, :n] = episode.step_index[begin:]
            if batch.values is not None:
                batch.values[row, :n] = episode.values[begin:]
            if batch.allowed is not None:
                batch.allowed[row, batch.response_mask[row]] = episode.allowed
        return batch

    def _check_groups(self, episodes: Sequence[_Episode]) -> None:
        for first in range(0, len(episodes), self.group_size):
            group = [
                episode.ids[: episode.prompt_length].tolist() for episode in episodes[first : first + self.group_size]
            ]
            if any(prompt != group[0] for prompt in group):
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


def _empty_sets(episodes: Sequence[_Episode], shape: tuple[int, int]) -> Bytes | None:
    """Room for the sets of tokens that could be sampled; ``None`` where the policy kept none."""
    sets = episodes[0].allowed
    return np.zeros((*shape, len(sets[0])), dtype=np.uint8) if sets else None
