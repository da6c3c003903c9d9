"""What the battery asks of a trainer: an adapter, a page of code for one's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch

from llmgym.agents.rollout_batches import RolloutBatch
from llmgym.testing.invariances.batches import random_batch, with_logprobs

#: Name of a parameter -> its gradient. What stands before the first dot is the part: ``"policy."``, ``"critic."``.
Gradient: TypeAlias = Mapping[str, torch.Tensor]

#: ``reward(prompt_ids, response_ids) -> float``.
RewardFunction: TypeAlias = Callable[[Sequence[int], Sequence[int]], float]


class NotPosed(Exception):
    """A question cannot be put to this trainer; the message says why. It is reported, and counts neither way."""


class TrainerAdapter(ABC):
    """A trainer, as the battery sees it.

    Only :meth:`gradient` has to be there. Each further method that a trainer offers lets the battery ask more; what it
    does not offer is reported as not posed, with the reason, and never as passed. A method may raise :class:`NotPosed`
    with a reason of its own.

    Every call has to start from the same weights, in the policy, a critic and a reference alike: make the trainer anew,
    or put its weights back. Let the reference differ from the policy, and a critic from its initial zero, or the
    gradients of their terms are 0 and no question is asked of them.

    Attributes:
        name: What to call it in a report.
        vocab_size: Tokens that it knows.
        end_token: The one that ends a response; ``None``: there is none.
        tolerance: Relative difference between gradients that counts as rounding. For float32; raise it for bfloat16.
        logprob_tolerance: Difference between log-probabilities that counts as rounding, in nats.
        group_baseline: Whether advantages compare the returns of the responses to one prompt, so that equal ones teach
            nothing.
        mean_normalised: Whether the loss is a mean, of tokens or of responses, rather than a sum.
    """

    name: str = ""
    vocab_size: int
    end_token: int | None = None
    tolerance: float = 1e-3
    logprob_tolerance: float = 1e-3
    group_baseline: bool = True
    mean_normalised: bool = True

    @abstractmethod
    def gradient(self, batch: RolloutBatch, *, microbatch_tokens: int) -> Gradient:
        """The gradient of one optimiser step on a whole batch, before it is clipped.

        Args:
            batch: What to learn from. Take prompts and responses with ``batch.prompt_of(row)`` and
                ``batch.response_of(row)``, or the padded arrays as they are; what padding holds varies.
            microbatch_tokens: Padded tokens in one forward pass. 1: each response alone. A trainer that counts
                sequences takes ``max(1, microbatch_tokens // width)`` of them.

        Returns:
            Every trained parameter's gradient: of the policy under names that begin with ``"policy."``, of a critic
            apart with ``"critic."``.
        """

    def batch(self) -> RolloutBatch:
        """The batch that the questions are made of.

        By default random tokens in several turns, with the trainer's own log-probabilities. Episodes of a real
        environment are better, if some end by themselves, some are cut off, and the environment writes in between.
        """
        batch = random_batch(self.vocab_size, self.end_token)
        try:
            return with_logprobs(batch, self.logprobs(batch))
        except NotPosed:
            return batch

    def logprobs(self, batch: RolloutBatch) -> torch.Tensor:
        """The learner's log-probabilities of the response tokens, ``(B, T)``; read where the response mask is True."""
        raise NotPosed("the adapter has no `logprobs`")

    def sample(self, seed: int, reward: RewardFunction | None = None) -> RolloutBatch:
        """Episodes played by the trainer's own sampler, with the log-probabilities that it recorded.

        Args:
            seed: Other seeds give other episodes.
            reward: What pays an episode at its end in place of the environment's own reward.
        """
        raise NotPosed("the adapter has no `sample`")

    def first_ratio_error(self, batch: RolloutBatch) -> float:
        """The largest ``|ratio - 1|`` that the trainer itself computes in the first optimiser step on a batch."""
        raise NotPosed("the adapter has no `first_ratio_error`")

    def advantages(
        self,
        rewards: torch.Tensor,
        values: torch.Tensor,
        last_values: torch.Tensor,
        response_mask: torch.Tensor,
        *,
        gamma: float,
        gae_lambda: float,
    ) -> torch.Tensor:
        """Generalised advantage estimates ``(B, T)`` as the trainer computes them, not whitened.

        Args:
            rewards: ``(B, T)``. Paid for the token.
            values: ``(B, T)``. Of the state in which the token was chosen.
            last_values: ``(B,)``. Of the state after the response.
            response_mask: ``(B, T)``. True where the policy chose the token.
            gamma: Discount for each token.
            gae_lambda: As usual.
        """
        raise NotPosed("the adapter has no `advantages`: a trainer without a critic has none to estimate over time")

    def packed_gradient(self, batch: RolloutBatch) -> Gradient:
        """As :meth:`gradient`, with several responses packed into one row."""
        raise NotPosed("the adapter has no `packed_gradient`")

    def learning_rates(self, batch: RolloutBatch, *, microbatch_tokens: int, n_updates: int) -> Sequence[float]:
        """The learning rate of each optimiser step in the first updates on a batch."""
        raise NotPosed("the adapter has no `learning_rates`")
