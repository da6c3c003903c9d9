"""How a batch is laid out in memory is nobody's business: microbatches, padding, order, packing, repetition."""

from __future__ import annotations

import numpy as np

from llmgym.agents.rollout_batches import RolloutBatch
from llmgym.testing.invariances.batches import paid_at_the_end, widened
from llmgym.testing.invariances.exam import Broken, Exam, invariance, norm
from llmgym.testing.invariances.trainers import NotPosed


@invariance(
    about="responses that earn differently give a gradient, finite and not 0",
    bug="a mask of the wrong polarity, a detached tensor, advantages that cancel over the batch",
)
def check_signal(exam: Exam) -> None:
    """Without a gradient, nothing else could be asked."""
    gradient = exam.gradient(exam.batch)
    if not gradient:
        raise Broken("there are no gradients at all")
    if norm(gradient) == 0.0:
        raise Broken("the gradient of a batch whose responses earned different rewards is 0")


@invariance(
    about="any split into microbatches gives the same gradient, of policy, critic, KL and entropy alike",
    bug="a mean taken over each microbatch (of tokens, of responses, of the KL or entropy term), then averaged or "
    "summed over microbatches of unequal size; denominators belong to the whole optimiser batch, after all masks",
)
def check_microbatches(exam: Exam) -> None:
    """On policy, off policy, and with equal returns, which leave the KL and entropy terms alone."""
    batch = exam.batch
    n_groups = len(batch) // batch.group_size
    equal = paid_at_the_end(batch, np.repeat(np.arange(n_groups), batch.group_size))
    single, third = 1, max(1, batch.response_ids.size // 3)
    for case, sizes, words in (
        (batch, (single, third), ""),
        (exam.off_policy, (third,), " of an off-policy batch"),
        (equal, (third,), " of a batch with equal returns, where KL and entropy alone may act,"),
    ):
        whole = exam.base if case is batch else exam.gradient(case)
        for size in sizes:
            change = f"a split{words} into microbatches of {size} token{'s' if size > 1 else ''}"
            exam.require_same(whole, exam.gradient(case, size), change)


@invariance(
    about="more padding, left of prompts and right of responses, and what stands in it, changes nothing",
    bug="a mean over padded positions, position ids counted from the padding on, a missing attention mask, or a mask "
    "built from `ids != pad`",
)
def check_padding(exam: Exam) -> None:
    """One of each kind, then several; then other tokens in it, such as the end token, which often serves as padding."""
    fills = {exam.trainer.end_token or 0, exam.trainer.vocab_size - 1}
    expected = exam.gradient(widened(exam.batch, left=1, right=1))
    for left, right in ((4, 1), (1, 6)):
        side = f"{left - 1} more padding tokens left of prompts" if left > 1 else "5 more right of responses"
        exam.require_same(expected, exam.gradient(widened(exam.batch, left, right)), side)
    for fill in sorted(fills):
        actual = exam.gradient(widened(exam.batch, 1, 1, fill))
        exam.require_same(expected, actual, f"padding that holds token {fill}")


@invariance(
    about="another order of the groups, or of the responses within them, changes nothing",
    bug="groups formed by counting rows the wrong way (interleaved for repeated), a baseline taken from one fixed "
    "member, rows dropped at the end of a batch that does not divide",
)
def check_row_order(exam: Exam) -> None:
    """Groups shuffled; then the responses of each group, each group in an order of its own."""
    batch, size = exam.batch, exam.batch.group_size
    rng = np.random.default_rng(0)
    rows = np.arange(len(batch)).reshape(-1, size)
    if len(rows) > 1:
        shuffled = np.roll(rng.permutation(rows), 1, axis=0).reshape(-1)
        exam.require_same(exam.base, exam.gradient(batch.select(shuffled)), "another order of the groups")
    if size > 1:
        shuffled = rng.permuted(np.roll(rows, 1, axis=1), axis=1).reshape(-1)
        exam.require_same(exam.base, exam.gradient(batch.select(shuffled)), "another order of responses within groups")


@invariance(
    about="several responses packed into one row change nothing",
    bug="attention across the borders of packed sequences, positions that run on over them, or means by row",
)
def check_packing(exam: Exam) -> None:
    """For trainers that pack."""
    exam.require_same(exam.base, exam.trainer.packed_gradient(exam.batch), "packing")


@invariance(
    about="a batch that is repeated has the gradient of the batch",
    bug="a sum where a mean was meant: the step then grows with the batch, and accumulated microbatches multiply it",
)
def check_repetition(exam: Exam) -> None:
    """Every group twice."""
    if not exam.trainer.mean_normalised:
        raise NotPosed("the loss is a sum, by the adapter's account")
    twice = RolloutBatch.concatenate([exam.batch, exam.batch])
    exam.require_same(exam.base, exam.gradient(twice), "repeating every group")


@invariance(
    about="learning rates and the number of optimiser steps do not depend on microbatches",
    bug="a scheduler (or a warm-up) that is stepped with each microbatch, not with each optimiser step",
)
def check_learning_rates(exam: Exam) -> None:
    """Three updates on the first groups, in one piece and response by response."""
    batch = exam.batch.select(np.arange(min(len(exam.batch), 2 * exam.batch.group_size)))
    whole, split = (
        list(exam.trainer.learning_rates(batch, microbatch_tokens=tokens, n_updates=3))
        for tokens in (batch.prompt_ids.size + batch.response_ids.size, 1)
    )
    if len(whole) != len(split):
        raise Broken(f"three updates are {len(whole)} optimiser steps in one piece and {len(split)} by microbatches")
    if not whole:
        raise Broken("three updates are no optimiser step at all")
    if not np.allclose(whole, split, rtol=1e-6, atol=0.0):
        raise Broken(f"the learning rates are {whole} in one piece and {split} with a microbatch for each response")
