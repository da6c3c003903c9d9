"""Batches that ask something: random ones, and changes to a batch that must not matter, or must."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from llmgym.agents.rollout_batches import Bools, Ints, RolloutBatch, padded_left

#: Turns of the rows of a random batch: tokens of the policy, of the environment, of the policy, ... The environment
#: never has the last word.
_TURNS = ((3, 2, 4), (2,), (1, 3, 2, 1, 1), (5,))


@dataclass(frozen=True)
class Episode:
    """A prompt, and what came after it.

    Attributes:
        prompt_ids: Tokens, without padding.
        response_ids: ``T`` tokens, whoever wrote them, without padding.
        chosen: ``T`` flags: True where the policy chose the token, the end token included. ``None``: all.
        logprobs: ``T`` numbers: of the chosen tokens, as the sampler recorded them. ``None``: to be filled in, see
            :func:`with_logprobs`.
        rewards: ``T`` numbers: paid for the token.
        terminated: Whether it ended by itself, rather than at a budget.
    """

    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    rewards: Sequence[float]
    chosen: Sequence[bool] | None = None
    logprobs: Sequence[float] | None = None
    terminated: bool = True


def make_batch(episodes: Sequence[Episode], *, group_size: int = 1) -> RolloutBatch:
    """Episodes as the arrays that the battery works with.

    A turn of the policy, up to what the environment wrote, counts as a reasoning step.

    Args:
        episodes: The responses to a prompt one after the other.
        group_size: Responses to each prompt.

    Raises:
        ValueError: If ``group_size`` does not divide the episodes, or lists of one episode differ in length.

    Example:
        >>> batch = make_batch([Episode([5, 6], [7, 1], rewards=[0.0, 1.0]), Episode([5, 6], [8], rewards=[0.0])])
        >>> batch.response_ids.tolist(), batch.episode_returns.tolist()
        ([[7, 1], [8, 0]], [1.0, 0.0])
    """
    if not episodes or len(episodes) % group_size:
        raise ValueError(f"Expected episodes in groups of {group_size}, actual: {len(episodes)}. Collect whole groups.")
    lengths = np.array([len(episode.response_ids) for episode in episodes])
    shape = (len(episodes), int(lengths.max()))
    ids, step_index = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    mask, logprobs, rewards = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.float32), np.zeros(shape)
    for row, episode in enumerate(episodes):
        n = lengths[row]
        for name in ("chosen", "logprobs", "rewards"):
            values = getattr(episode, name)
            if values is not None and len(values) != n:
                raise ValueError(f"Expected {n} {name}, one for each token of the response, actual: {len(values)}.")
        ids[row, :n], rewards[row, :n] = episode.response_ids, episode.rewards
        mask[row, :n] = True if episode.chosen is None else episode.chosen
        logprobs[row, :n] = 0.0 if episode.logprobs is None else episode.logprobs
        step_index[row, 1:n] = np.cumsum(mask[row, 1:n] & ~mask[row, : n - 1])
    return RolloutBatch(
        group_size=group_size,
        prompt_ids=padded_left([np.array(episode.prompt_ids, dtype=np.int64) for episode in episodes]),
        prompt_lengths=np.array([len(episode.prompt_ids) for episode in episodes]),
        response_ids=ids,
        response_lengths=lengths,
        response_mask=mask,
        old_logprobs=logprobs,
        rewards=rewards,
        reward_components={},
        stop_reasons=["end_token" if episode.terminated else "max_new_tokens" for episode in episodes],
        unverifiable=None,
        terminated=np.array([episode.terminated for episode in episodes]),
        env_seconds=0.0,
        policy_seconds=0.0,
        seconds=0.0,
        step_index=np.where(mask, step_index, 0),
    )


def random_batch(
    vocab_size: int, end_token: int | None = None, *, n_groups: int = 4, group_size: int = 4, seed: int = 0
) -> RolloutBatch:
    """Episodes of random tokens: several turns, rewards at random, every other one ended by the end token.

    Args:
        vocab_size: Tokens are drawn from all of these but the end token.
        end_token: Closes the rows that end by themselves; ``None``: they just end.
        n_groups: Prompts, of one to four tokens.
        group_size: Responses to each.
        seed: Of everything.

    Returns:
        A batch whose log-probabilities are those of a uniform policy: see :func:`with_logprobs`.

    Example:
        >>> batch = random_batch(9, end_token=1)
        >>> len(batch), batch.response_ids.shape, batch.terminated[:4].tolist()
        (16, (16, 9), [True, False, True, False])
    """
    rng = np.random.default_rng(seed)
    words = np.setdiff1d(np.arange(vocab_size), [] if end_token is None else [end_token])
    episodes = []
    for group in range(n_groups):
        prompt = rng.choice(words, size=1 + group % 4).tolist()
        for member in range(group_size):
            turns = _TURNS[(group * (group_size + 1) + member) % len(_TURNS)]
            chosen = [place % 2 == 0 for place, size in enumerate(turns) for _ in range(size)]
            ids = rng.choice(words, size=len(chosen)).tolist()
            terminated = (group * group_size + member) % 2 == 0
            if terminated and end_token is not None:
                ids[-1] = end_token
            rewards = (0.1 * rng.random(len(chosen)) * np.array(chosen)).tolist()
            logprobs = [-float(np.log(vocab_size)) * own for own in chosen]
            episodes.append(Episode(prompt, ids, rewards, chosen, logprobs, terminated))
    return make_batch(episodes, group_size=group_size)


def with_logprobs(batch: RolloutBatch, logprobs: torch.Tensor) -> RolloutBatch:
    """The batch as if it had been sampled with these log-probabilities, ``(B, T)``."""
    values = logprobs.detach().float().cpu().numpy()
    return replace(batch, old_logprobs=np.where(batch.response_mask, values, np.float32(0.0)))


# -- reading -----------------------------------------------------------------------------------------------------------


def last_chosen(batch: RolloutBatch) -> Ints:
    """``(B,)`` place of the policy's last token in each response."""
    width = batch.response_mask.shape[1]
    columns: Ints = width - 1 - batch.response_mask[:, ::-1].argmax(axis=1)
    return columns


def inside(batch: RolloutBatch) -> Bools:
    """``(B, T)`` True where there is a token, whoever wrote it."""
    within: Bools = np.arange(batch.response_ids.shape[1]) < batch.response_lengths[:, None]
    return within


def ended_by(batch: RolloutBatch, end_token: int) -> Bools:
    """``(B,)`` True where the policy's last token is the end token, and the last of the response."""
    last = last_chosen(batch)
    is_end = batch.response_ids[np.arange(len(batch)), last] == end_token
    ended: Bools = batch.terminated & is_end & (last == batch.response_lengths - 1)
    return ended


# -- changes that must not matter --------------------------------------------------------------------------------------


def widened(batch: RolloutBatch, left: int = 0, right: int = 0, fill: int = 0) -> RolloutBatch:
    """More padding, before prompts and after responses, and ``fill`` in all of it."""
    ids = np.pad(batch.prompt_ids, ((0, 0), (left, 0)))
    before = np.arange(ids.shape[1]) < ids.shape[1] - batch.prompt_lengths[:, None]
    wide = replace(
        batch,
        prompt_ids=np.where(before, fill, ids),
        **{name: _wider(values, right) for name, values in _per_token(batch).items()},
    )
    return replace(wide, response_ids=np.where(inside(wide), wide.response_ids, fill))


def appended(batch: RolloutBatch, rows: Ints, tokens: Sequence[int]) -> RolloutBatch:
    """``tokens`` written by the environment after the responses of ``rows``."""
    wide = widened(batch, right=len(tokens))
    ids, lengths = wide.response_ids.copy(), wide.response_lengths.copy()
    for row in rows:
        ids[row, lengths[row] : lengths[row] + len(tokens)] = tokens
    lengths[rows] += len(tokens)
    return replace(wide, response_ids=ids, response_lengths=lengths)


def poisoned(batch: RolloutBatch) -> RolloutBatch:
    """NaN where no token of the policy's stands."""
    return replace(
        batch,
        old_logprobs=np.where(batch.response_mask, batch.old_logprobs, np.float32("nan")),
        rewards=np.where(batch.response_mask, batch.rewards, np.nan),
    )


# -- changes that matter -----------------------------------------------------------------------------------------------


def without_ties(batch: RolloutBatch, seed: int = 0) -> RolloutBatch:
    """A random reward more at each last token, so that every group has a signal."""
    extra = np.random.default_rng(seed).random(len(batch))
    rewards = batch.rewards.copy()
    rewards[np.arange(len(batch)), last_chosen(batch)] += extra
    return replace(batch, rewards=rewards)


def paid_at_the_end(batch: RolloutBatch, amounts: npt.ArrayLike) -> RolloutBatch:
    """``amounts``, ``(B,)`` or one number, at the policy's last tokens, and no other reward."""
    rewards = np.zeros_like(batch.rewards)
    rewards[np.arange(len(batch)), last_chosen(batch)] = amounts
    return replace(batch, rewards=rewards)


def off_policy(batch: RolloutBatch, seed: int = 0) -> RolloutBatch:
    """Log-probabilities of an older policy: about a tenth of a nat away."""
    noise = 0.1 * np.random.default_rng(seed).standard_normal(batch.old_logprobs.shape)
    moved = batch.old_logprobs + np.where(batch.response_mask, noise, 0.0)
    return replace(batch, old_logprobs=moved.astype(np.float32))


def only_at(batch: RolloutBatch, mask: Bools) -> RolloutBatch:
    """The batch as if the policy had chosen the tokens in ``mask`` ``(B, T)`` alone, and the environment the others."""

    def cut(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.where(mask if values.ndim == 2 else mask[..., None], values, np.zeros((), values.dtype))

    changed = {name: cut(values) for name, values in _per_token(batch).items()}
    return replace(batch, **(changed | {"response_ids": batch.response_ids, "response_mask": mask}))


def among(batch: RolloutBatch, wanted: Bools) -> RolloutBatch | None:
    """The batch with responses that are not ``wanted`` ``(B,)`` replaced by wanted ones of their group.

    Groups without any are left out; ``None`` if no group is left.
    """
    rows: list[int] = []
    for first in range(0, len(batch), batch.group_size):
        group = np.arange(first, first + batch.group_size)
        good = group[wanted[group]]
        if len(good):
            rows += [int(row if wanted[row] else good[place % len(good)]) for place, row in enumerate(group)]
    return taken(batch, np.array(rows)) if rows else None


def taken(batch: RolloutBatch, rows: Ints) -> RolloutBatch:
    """The rows, in any number and order, as wide as the longest of them; ``group_size`` stays."""
    width = int(batch.response_lengths[rows].max())
    changed: dict[str, Any] = {"stop_reasons": [batch.stop_reasons[row] for row in rows]}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, np.ndarray):
            changed[field.name] = value[rows]
    changed |= {name: values[rows, :width] for name, values in _per_token(batch).items()}
    changed["reward_components"] = {name: values[rows] for name, values in batch.reward_components.items()}
    return replace(batch, **changed)


def one_token_rows(batch: RolloutBatch, places: Ints, tokens: Ints) -> RolloutBatch:
    """Row ``i`` is the batch up to its place ``places[i] = (row, column)``, and there ``tokens[i]``: groups of one."""
    rows, columns = places[:, 0], places[:, 1]
    prefix = taken(replace(batch, group_size=1), rows)
    at = np.arange(prefix.response_ids.shape[1]) == columns[:, None]
    ids = np.where(at, tokens[:, None], prefix.response_ids) * (np.arange(at.shape[1]) <= columns[:, None])
    return only_at(replace(prefix, response_ids=ids, response_lengths=columns + 1), at)


def _per_token(batch: RolloutBatch) -> dict[str, Any]:
    """The arrays with a place for each token of a response."""
    arrays = {field.name: getattr(batch, field.name) for field in fields(batch) if field.name != "prompt_ids"}
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray) and array.ndim > 1}


def _wider(values: npt.NDArray[Any], n: int) -> Any:
    return np.pad(values, ((0, 0), (0, n), *((0, 0),) * (values.ndim - 2)))
