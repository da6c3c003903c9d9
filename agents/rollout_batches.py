"""What was collected: the record of episodes, as arrays. How it comes about is in :mod:`llmgym.agents.rollouts`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

#: Arrays of a :class:`RolloutBatch` with a place for each token of a response.
_PER_TOKEN = ("response_ids", "response_mask", "old_logprobs", "rewards", "step_index", "allowed", "values")


@dataclass(frozen=True)
class RolloutBatch:
    """Episodes gathered with one fixed policy, group by group: row ``p * group_size + g`` is response g to problem p.

    ``B`` episodes, ``L`` prompt tokens, ``T`` response tokens.

    Attributes:
        group_size: Responses to each problem.
        prompt_ids: ``(B, L)`` int64, padded on the left with 0.
        prompt_lengths: ``(B,)`` int64.
        response_ids: ``(B, T)`` int64, padded on the right with 0. What came after the prompt, whoever wrote it.
        response_lengths: ``(B,)`` int64.
        response_mask: ``(B, T)`` bool. True where the policy chose the token, the end token included; False for
            padding and for what the environment wrote.
        old_logprobs: ``(B, T)`` float32. Of the chosen tokens when they were sampled; 0 outside the mask.
        rewards: ``(B, T)`` float64. Paid for the token at ``t``; 0 outside the mask.
        reward_components: Name -> ``(B,)`` float64, sums over the episode.
        stop_reasons: Why each episode ended.
        unverifiable: ``(B,)`` bool. True where a reward could not tell whether the answer is right, and paid 0: a
            ``"verdict"`` of ``"unverifiable"`` among what the rewards say in ``info["reward_details"]``. ``None`` where
            no reward gave a verdict on any episode.
        terminated: ``(B,)`` bool. False where a budget ran out.
        env_seconds: Wall time inside ``reset`` and ``step``.
        policy_seconds: Wall time inside the policy.
        seconds: Wall time of the whole collection.
        n_dropped: Episodes played to their end beyond the quota and dropped (see the module's description).
        step_index: ``(B, T)`` int64. The reasoning step that each token belongs to: the steps closed before the policy
            chose it, so the token that closes step k has index k, and what comes after the last delimiter is a step
            too. 0 outside the mask. ``None`` where the environment does not count (``info["n_reasoning_steps"]``).
        allowed: ``(B, T, ceil(V / 8))`` uint8. The tokens that could be sampled at each place as bits, in the order of
            ``np.packbits``; 0 outside the mask. ``None`` where the policy left none out.
        values: ``(B, T)`` float32. What the policy's value head said of the states that the tokens were chosen in; 0
            outside the mask. ``None`` where the policy had none.
    """

    group_size: int
    prompt_ids: Ints
    prompt_lengths: Ints
    response_ids: Ints
    response_lengths: Ints
    response_mask: Bools
    old_logprobs: npt.NDArray[np.float32]
    rewards: Floats
    reward_components: dict[str, Floats]
    stop_reasons: list[str]
    unverifiable: Bools | None
    terminated: Bools
    env_seconds: float
    policy_seconds: float
    seconds: float
    n_dropped: int = 0
    step_index: Ints | None = None
    allowed: Bytes | None = None
    values: npt.NDArray[np.float32] | None = None

    @property
    def truncated(self) -> Bools:
        """``(B,)``. True where a budget ran out before the episode ended by itself, whatever its length."""
        return ~self.terminated

    @property
    def episode_returns(self) -> Floats:
        """``(B,)``. Undiscounted sum of rewards."""
        returns: Floats = self.rewards.sum(axis=1)
        return returns

    @property
    def n_timesteps(self) -> int:
        """Tokens chosen by the policy: environment steps that count."""
        return int(self.response_mask.sum())

    def __len__(self) -> int:
        return len(self.response_ids)

    def prompt_of(self, row: int) -> Ints:
        """Prompt ids of one episode, without padding."""
        width = self.prompt_ids.shape[1]
        return self.prompt_ids[row, width - int(self.prompt_lengths[row]) :]

    def response_of(self, row: int) -> Ints:
        """Response ids of one episode, without padding."""
        return self.response_ids[row, : int(self.response_lengths[row])]

    def select(self, rows: npt.ArrayLike) -> RolloutBatch:
        """Some of the episodes, in the order asked for, with no more padding than they need.

        Times and ``n_dropped`` stay those of the whole collection: that is what these episodes cost.

        Args:
            rows: Indices, or ``(B,)`` bool. Whole groups, one after the other; within a group in any order.

        Raises:
            ValueError: If ``rows`` are no whole groups.
        """
        index = np.asarray(rows)
        index = np.flatnonzero(index) if index.dtype == np.bool_ else index.astype(np.int64)
        size = self.group_size
        members = np.sort(index.reshape(-1, size), axis=1) if index.ndim == 1 and not len(index) % size else None
        if members is None or np.any(members != members[:, :1] // size * size + np.arange(size)):
            raise ValueError(
                f"Expected rows of whole groups of {size}, actual: {index.tolist()}. Select every row of a group."
            )
        prompt_width = int(self.prompt_lengths[index].max(initial=0))
        width = int(self.response_lengths[index].max(initial=0))
        return replace(
            self,
            prompt_ids=self.prompt_ids[index, self.prompt_ids.shape[1] - prompt_width :],
            prompt_lengths=self.prompt_lengths[index],
            response_lengths=self.response_lengths[index],
            reward_components={name: values[index] for name, values in self.reward_components.items()},
            stop_reasons=[self.stop_reasons[row] for row in index],
            unverifiable=None if self.unverifiable is None else self.unverifiable[index],
            terminated=self.terminated[index],
            **{name: values[index, :width] for name, values in self._per_token().items()},
        )

    def _per_token(self) -> dict[str, Any]:
        """The arrays with a place for each token of a response, those that are ``None`` left out."""
        values = {name: getattr(self, name) for name in _PER_TOKEN}
        return {name: array for name, array in values.items() if array is not None}

    @staticmethod
    def concatenate(batches: Sequence[RolloutBatch]) -> RolloutBatch:
        """All episodes in one batch, padded to the widest; times and ``n_dropped`` add.

        Raises:
            ValueError: If there is none, group sizes differ, or some have ``step_index``, ``allowed`` or ``values`` and
                some not.
        """
        if not batches:
            raise ValueError("Expected at least one RolloutBatch, actual: none. Collect first.")
        for what in ("group_size", *_PER_TOKEN):
            kinds = [batch.group_size if what == "group_size" else getattr(batch, what) is None for batch in batches]
            if len(set(kinds)) > 1:
                raise ValueError(
                    f"Expected batches with one {what}, or all of them without, actual: batches that differ in it. "
                    "Collect them with one environment and one policy."
                )
        first = batches[0]
        width = max(batch.response_ids.shape[1] for batch in batches)
        verdicts = [batch.unverifiable for batch in batches]
        per_token: dict[str, Any] = {
            name: np.concatenate([padded_right(getattr(batch, name), width) for batch in batches])
            for name in first._per_token()
        }
        return replace(
            first,
            prompt_ids=padded_left([batch.prompt_of(row) for batch in batches for row in range(len(batch))]),
            prompt_lengths=np.concatenate([batch.prompt_lengths for batch in batches]),
            response_lengths=np.concatenate([batch.response_lengths for batch in batches]),
            reward_components={
                name: np.concatenate([batch.reward_components.get(name, np.zeros(len(batch))) for batch in batches])
                for name in sorted({name for batch in batches for name in batch.reward_components})
            },
            stop_reasons=[reason for batch in batches for reason in batch.stop_reasons],
            unverifiable=(
                None
                if all(verdict is None for verdict in verdicts)
                else np.concatenate(
                    [np.zeros(len(b), bool) if b.unverifiable is None else b.unverifiable for b in batches]
                )
            ),
            terminated=np.concatenate([batch.terminated for batch in batches]),
            env_seconds=sum(batch.env_seconds for batch in batches),
            policy_seconds=sum(batch.policy_seconds for batch in batches),
            seconds=sum(batch.seconds for batch in batches),
            n_dropped=sum(batch.n_dropped for batch in batches),
            **per_token,
        )


def padded_right(values: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
    """``(B, T, ...)`` to ``(B, width, ...)``, filled with 0."""
    padded = np.zeros((len(values), width, *values.shape[2:]), dtype=values.dtype)
    padded[:, : values.shape[1]] = values
    return padded


def padded_left(rows: Sequence[Ints]) -> Ints:
    """Ids of different lengths in one array, filled with 0 before them."""
    width = max((len(row) for row in rows), default=0)
    padded = np.zeros((len(rows), width), dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, width - len(row) :] = row
    return padded
