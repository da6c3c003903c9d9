"""Which tokens count: those that the policy chose, the end token among them, and no others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from llmgym.agents.rollout_batches import Bools, RolloutBatch
from llmgym.testing.invariances.batches import (
    among,
    appended,
    ended_by,
    inside,
    last_chosen,
    off_policy,
    only_at,
    paid_at_the_end,
    poisoned,
    widened,
    without_ties,
)
from llmgym.testing.invariances.exam import Broken, Exam, invariance, norm
from llmgym.testing.invariances.trainers import NotPosed


@invariance(
    about="NaN in a masked place poisons nothing",
    bug="masking by a product, as 0 times NaN is NaN; or masking the loss alone, so that NaN comes back through the "
    "gradient: select with `where` before anything is computed",
)
def check_masked_nan(exam: Exam) -> None:
    """NaN in the log-probabilities and rewards of padding, and of what the environment wrote."""
    expected = exam.gradient(widened(exam.batch, right=2))
    try:
        actual = exam.gradient(poisoned(widened(exam.batch, right=2)))
    except Broken:
        raise
    except Exception as error:  # whatever a trainer does about NaN, it was none of its business here
        raise Broken(f"NaN in masked places ends in {type(error).__name__}: {error}") from error
    exam.require_same(expected, actual, "NaN in masked places")


@invariance(
    about="what the environment wrote gets no gradient and no credit",
    bug="a mask made from `ids != pad` or from lengths, where the policy's own tokens were meant",
)
def check_environment_text(exam: Exam) -> None:
    """Its log-probabilities are not read; and text after the last action, which is nobody's context, is nothing."""
    batch = exam.batch
    written = inside(batch) & ~batch.response_mask
    if written.any():
        claimed = np.where(written, np.float32(-3.0), batch.old_logprobs)
        actual = exam.gradient(replace(batch, old_logprobs=claimed))
        exam.require_same(exam.base, actual, "a log-probability recorded for text of the environment")
    rows = np.flatnonzero(batch.terminated)
    if not len(rows):
        raise NotPosed("no response ended by itself, and what follows a truncated one may have a value")
    # Wider than the longest row on both sides: what fills the width is another question.
    words = [exam.trainer.vocab_size - 1, exam.trainer.vocab_size // 2]
    actual = exam.gradient(widened(appended(batch, rows, words), right=1))
    expected = exam.gradient(widened(batch, right=3))
    exam.require_same(expected, actual, "text of the environment after the last action of an episode that ended")


@invariance(
    about="the end token is an action: it has its reward and its loss",
    bug="a mask from `ids != pad` where padding and end token are one id, or lengths that stop before it",
)
def check_end_token(exam: Exam) -> None:
    """With the end tokens as the only actions there is a gradient; and what is paid there is paid."""
    end_token = exam.trainer.end_token
    if end_token is None:
        raise NotPosed("the trainer has no end token, by the adapter's account")
    _check_recorded_ends(exam, end_token)
    ended = among(exam.batch, ended_by(exam.batch, end_token))
    if ended is None:
        raise NotPosed("no response of the batch ends with the end token")
    if exam.trainer.group_baseline and not _differ_within_groups(ended):
        raise NotPosed("no group of the batch has two different responses that end with the end token")
    amounts = np.random.default_rng(1).random(len(ended))
    paid = paid_at_the_end(ended, amounts)
    all_tokens = exam.gradient(paid)
    if exam.same(all_tokens, exam.gradient(paid_at_the_end(ended, 0.0))):
        raise Broken("the gradient does not depend on the reward that is paid at the end token")

    at_end = np.arange(ended.response_ids.shape[1]) == last_chosen(ended)[:, None]
    alone = only_at(paid, at_end)
    gradient = exam.gradient(alone)
    for part in ("policy", "critic"):
        if norm(exam.base, part) > 0 and norm(gradient, part) == 0:
            raise Broken(f"where the end tokens are the only actions, the gradient of the {part} is 0")
    if exam.same(all_tokens, exam.gradient(replace(paid, response_mask=at_end))):
        raise Broken("a mask that leaves the end tokens alone changes nothing: the mask is not read")
    reads = not exam.same(exam.base, exam.gradient(exam.off_policy))
    if reads and exam.same(gradient, exam.gradient(off_policy(alone))):
        raise Broken("the log-probability recorded for the end token is not read, that of other tokens is")


def _check_recorded_ends(exam: Exam, end_token: int) -> None:
    """In what the trainer's sampler recorded, an end token that closes an episode is the policy's."""
    batch = exam.batch
    last = batch.response_ids[np.arange(len(batch)), batch.response_lengths - 1]
    chosen = batch.response_mask[np.arange(len(batch)), batch.response_lengths - 1]
    if (batch.terminated & (last == end_token) & ~chosen).any():
        raise Broken("the batch records end tokens that are not in the response mask")


def _differ_within_groups(batch: RolloutBatch) -> bool:
    groups = batch.response_ids.reshape(-1, batch.group_size, batch.response_ids.shape[1])
    return bool((groups != groups[:, :1]).any())


@invariance(
    about="a response of full width that ended by itself is not taken for truncated",
    bug="truncation read from the length (`length == width`, or `== max_new_tokens`), not from how the episode ended",
)
def check_full_width(exam: Exam) -> None:
    """It has the gradient that it has in a wider batch; and its flag is read as that of a shorter one is."""
    batch = exam.batch
    if not batch.terminated.any():
        raise NotPosed("no response ended by itself")
    widest = int(batch.response_lengths[batch.terminated].max())
    narrow = among(batch, batch.response_lengths <= widest)
    assert narrow is not None
    narrow = without_ties(narrow)
    expected = exam.gradient(widened(narrow, right=1))
    exam.require_same(expected, exam.gradient(narrow), "a batch just as wide as a response that ended by itself")

    full = narrow.terminated & (narrow.response_lengths == widest)
    shorter = narrow.terminated & (narrow.response_lengths < widest)
    reads = shorter.any() and not exam.same(expected, exam.gradient(_cut_off(narrow, shorter)))
    if reads and exam.same(expected, exam.gradient(_cut_off(narrow, full))):
        raise Broken("truncating a short response matters, truncating the longest does not: it is taken for cut off")


def _cut_off(batch: RolloutBatch, rows: Bools) -> RolloutBatch:
    reasons = ["max_new_tokens" if cut else reason for cut, reason in zip(rows, batch.stop_reasons, strict=True)]
    return replace(batch, terminated=batch.terminated & ~rows, stop_reasons=reasons)


@invariance(
    about="a reward on a masked last position counts for the action before it",
    bug="rewards multiplied by the response mask, or a loop over actions that never looks past the last one",
)
def check_last_reward(exam: Exam) -> None:
    """An environment that has the last word pays after it: the same as paying the action that led there."""
    rows = np.flatnonzero(exam.batch.terminated)
    if len(rows):
        words = [exam.trainer.vocab_size - 1, exam.trainer.vocab_size // 2]
        early = widened(appended(exam.batch, rows, words), right=1)
        exam.require_same(exam.gradient(early), exam.gradient(_paid_late(early)), "paying after the last word")
    try:
        mask = torch.tensor([[True, True, False]])
        values, last_values = torch.tensor([[0.2, 0.4, 0.9]]), torch.zeros(1)
        rewards = torch.tensor([[0.0, 0.0, 1.0]])
        found = exam.trainer.advantages(rewards, values, last_values, mask, gamma=1.0, gae_lambda=0.95)
    except NotPosed:
        if not len(rows):
            raise
        return
    expected = torch.tensor([0.2 + 0.95 * 0.6, 0.6])
    if not torch.allclose(found[0, :2].float().cpu(), expected, atol=1e-4):
        raise Broken(
            f"advantages of two actions and a reward of 1 after them are {_shown(found[0, :2])}, not .7700 .6000"
        )


def _paid_late(batch: RolloutBatch) -> RolloutBatch:
    """What is paid at the last action, paid at the last token instead."""
    rewards, rows = batch.rewards.copy(), np.arange(len(batch))
    last = last_chosen(batch)
    amounts = rewards[rows, last]
    rewards[rows, last] = 0.0
    rewards[rows, batch.response_lengths - 1] += amounts
    return replace(batch, rewards=rewards)


def _shown(values: torch.Tensor) -> str:
    return " ".join(f"{float(value):.4f}" for value in values)
