"""Invariances that any trainer must keep, and a battery that asks for them: see ``docs/invariances.md``.

Nearly every bug that users report against trainers for reinforcement learning is silent: a wrong mask, denominator,
index or temperature; training goes on and learns less. Each question here changes what must not matter, or what must,
and compares gradients.

* :mod:`~llmgym.testing.invariances.layout`: microbatches, padding, order, packing, repetition, schedule;
* :mod:`~llmgym.testing.invariances.tokens`: masks, the end token, truncation;
* :mod:`~llmgym.testing.invariances.credit`: advantages and rewards;
* :mod:`~llmgym.testing.invariances.sampling`: sampler against learner.
"""

# The order of these four is that of the score card.
# isort: off
from llmgym.testing.invariances.layout import (
    check_signal,
    check_microbatches,
    check_padding,
    check_row_order,
    check_packing,
    check_repetition,
    check_learning_rates,
)
from llmgym.testing.invariances.tokens import (
    check_end_token,
    check_environment_text,
    check_full_width,
    check_last_reward,
    check_masked_nan,
)
from llmgym.testing.invariances.credit import (
    check_equal_returns,
    check_gae_over_turns,
    check_nan_reward,
    check_reward_errors,
)
from llmgym.testing.invariances.sampling import check_first_ratio, check_sampled_frequencies, check_sampler_agrees

# isort: on
from llmgym.testing.invariances.agents import AgentTrainer
from llmgym.testing.invariances.batches import Episode, make_batch, random_batch, with_logprobs
from llmgym.testing.invariances.battery import InvarianceResult, TrainerReport, check_trainer
from llmgym.testing.invariances.exam import INVARIANCES, Invariance, InvarianceError
from llmgym.testing.invariances.trainers import Gradient, NotPosed, RewardFunction, TrainerAdapter

__all__ = [
    "INVARIANCES",
    "AgentTrainer",
    "Episode",
    "Gradient",
    "Invariance",
    "InvarianceError",
    "InvarianceResult",
    "NotPosed",
    "RewardFunction",
    "TrainerAdapter",
    "TrainerReport",
    "check_end_token",
    "check_environment_text",
    "check_equal_returns",
    "check_first_ratio",
    "check_full_width",
    "check_gae_over_turns",
    "check_last_reward",
    "check_learning_rates",
    "check_masked_nan",
    "check_microbatches",
    "check_nan_reward",
    "check_packing",
    "check_padding",
    "check_repetition",
    "check_reward_errors",
    "check_row_order",
    "check_sampled_frequencies",
    "check_sampler_agrees",
    "check_signal",
    "check_trainer",
    "make_batch",
    "random_batch",
    "with_logprobs",
]
