"""Sampler and learner mean the same distribution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from llmgym.agents.rollout_batches import RolloutBatch
from llmgym.testing.invariances.batches import one_token_rows
from llmgym.testing.invariances.exam import Broken, Exam, invariance
from llmgym.testing.invariances.trainers import NotPosed

#: Standard deviations beyond which frequencies are no chance: less than one in a hundred thousand.
_CHANCE = 4.5

#: Responses of one token that are scored to know the learner's distributions.
_QUERIES = 6_000


@invariance(
    about="the log-probabilities that the sampler recorded are the learner's",
    bug="a temperature, top-k or top-p in sampling that the loss does not know; positions shifted by padding; the "
    "logits of the token itself in place of the one before it; dropout",
)
def check_sampler_agrees(exam: Exam) -> None:
    """Token by token, over episodes of the trainer's own."""
    batch = exam.sample(1)
    mask = batch.response_mask
    learner = exam.trainer.logprobs(batch).detach().float().cpu().numpy()
    gap = np.where(mask, np.abs(learner - batch.old_logprobs), 0.0)
    if gap.max() > exam.trainer.logprob_tolerance:
        row, column = np.unravel_index(gap.argmax(), gap.shape)
        raise Broken(
            f"sampler and learner differ by {gap.max():.3g} nats at most and {gap.sum() / mask.sum():.3g} on average; "
            f"{_place(batch, int(row), int(column))} has {batch.old_logprobs[row, column]:.4f} from the sampler and "
            f"{learner[row, column]:.4f} from the learner"
        )


def _place(batch: RolloutBatch, row: int, column: int) -> str:
    after = "the prompt" if column == 0 else "its own text" if batch.response_mask[row, column - 1] else "a reply"
    return f"token {batch.response_ids[row, column]} of response {row}, at {column}, after {after},"


@invariance(
    about="tokens are drawn as often as the learner's probabilities say, which sum to 1",
    bug="log-probabilities recorded before the temperature, or before top-k and top-p, were applied; a distribution "
    "that is not normalised over the tokens that could be drawn",
)
def check_sampled_frequencies(exam: Exam) -> None:
    """How probable the drawn tokens were, against how probable draws are on average: a difference is no chance."""
    vocab_size = exam.trainer.vocab_size
    if vocab_size > _QUERIES // 20:
        raise NotPosed(f"the vocabulary of {vocab_size} is too large to score every token; ask it of a small model")
    surplus, variance = 0.0, 0.0
    for seed in (1, 2):
        batch = exam.sample(seed)
        places = np.argwhere(batch.response_mask)
        n = min(len(places), _QUERIES // (2 * vocab_size))
        places = np.random.default_rng(seed).permutation(places)[:n]
        logprobs = _every_token(exam, batch, places)  # (n, V)
        probabilities = np.exp(logprobs)
        total = probabilities.sum(axis=1)
        if np.abs(total - 1.0).max() > 10 * exam.trainer.logprob_tolerance:
            worst = int(np.abs(total - 1.0).argmax())
            raise Broken(
                f"the learner's probabilities of all tokens that could be drawn sum to {total[worst]:.4f} where "
                f"{_place(batch, *places[worst])} stands"
            )
        finite = np.where(probabilities > 0, logprobs, 0.0)
        mean = (probabilities * finite).sum(axis=1)
        drawn = finite[np.arange(n), batch.response_ids[places[:, 0], places[:, 1]]]
        surplus += float((drawn - mean).sum())
        variance += float((probabilities * (finite - mean[:, None]) ** 2).sum())
    deviations = surplus / max(variance, 1e-12) ** 0.5
    if abs(deviations) > _CHANCE:
        kind = "likelier" if deviations > 0 else "less likely"
        raise Broken(
            f"drawn tokens are {kind} than the learner's distribution has it, by {abs(deviations):.1f} standard "
            "deviations"
        )


def _every_token(exam: Exam, batch: RolloutBatch, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """``(n, V)`` log-probabilities of all tokens at some places; -inf for those that could not be drawn."""
    n, vocab_size = len(places), exam.trainer.vocab_size
    possible = np.ones((n, vocab_size), dtype=bool)
    if batch.allowed is not None:
        sets = batch.allowed[places[:, 0], places[:, 1]]
        possible = np.unpackbits(sets, axis=1, count=vocab_size).astype(bool)
    which, tokens = np.nonzero(possible)
    queries = one_token_rows(batch, places[which], tokens)
    scored = exam.trainer.logprobs(queries).detach().double().cpu().numpy()
    logprobs = np.full((n, vocab_size), -np.inf)
    logprobs[which, tokens] = scored[np.arange(len(which)), places[which, 1]]
    return logprobs


@invariance(
    about="the ratio is 1 in the first optimiser step on a rollout",
    bug="old log-probabilities of other weights, of another temperature or in another order; dropout",
)
def check_first_ratio(exam: Exam) -> None:
    """By the trainer's own account; and its account notices log-probabilities that are too high."""
    batch = exam.sample(1)
    error = exam.trainer.first_ratio_error(batch)
    if not error <= 2 * exam.trainer.logprob_tolerance:
        raise Broken(f"the first ratio is off by {error:.3g}")
    moved = torch.tensor(batch.old_logprobs) - 0.2 * torch.tensor(batch.response_mask)
    noticed = exam.trainer.first_ratio_error(replace(batch, old_logprobs=moved.numpy()))
    if not abs(noticed - (np.exp(0.2) - 1.0)) <= 0.01:
        raise Broken(f"with every old log-probability 0.2 too low, the first ratio is said to be off by {noticed:.3g}")
