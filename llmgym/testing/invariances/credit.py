"""Who is paid for what: advantages over turns, equal returns, rewards that fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from llmgym.testing.invariances.batches import last_chosen, paid_at_the_end
from llmgym.testing.invariances.exam import Broken, Exam, invariance, part_of
from llmgym.testing.invariances.trainers import NotPosed

#: Two turns of the policy with a reply between them, worked out by hand; gamma 1, lambda 0.95, reward 1 at the end.
_MASK = (True, True, False, False, True, True)
_VALUES = (0.1, 0.2, 0.9, 0.8, 0.4, 0.6)
_RIGHT = (0.8134, 0.7510, 0.5800, 0.4000)
#: What the first two become by mistakes that were made before.
_MISTAKES = {
    "the values of the environment's tokens are zeroed, and the recursion runs over them": (0.7254, 0.6583),
    "the recursion runs over the environment's tokens as if they were actions": (0.8042, 0.7413),
}


@invariance(
    about="advantages over several turns run on the policy's tokens only",
    bug="a recursion over all positions, with the values of the environment's tokens as they are or zeroed: either way "
    "an action is paid for how the environment went on talking",
)
def check_gae_over_turns(exam: Exam) -> None:
    """A case worked out by hand, beside a row without a reply; then with NaN for the values between the turns."""
    for between in (None, float("nan")):
        mask = torch.tensor([_MASK, (True,) * 6])
        values = torch.tensor([_VALUES, _VALUES])
        if between is not None:
            values = values.masked_fill(~mask, between)
        rewards = torch.zeros(2, 6)
        rewards[:, 5] = 1.0
        found = exam.trainer.advantages(rewards, values, torch.zeros(2), mask, gamma=1.0, gae_lambda=0.95)
        chosen = found[0].float().cpu()[mask[0]]
        if torch.allclose(chosen, torch.tensor(_RIGHT), atol=2e-4):
            continue
        numbers = " ".join(f"{float(value):.4f}" for value in chosen)
        trouble = f"the advantages are {numbers} where {' '.join(f'{value:.4f}' for value in _RIGHT)} is right"
        for mistake, first in _MISTAKES.items():
            if torch.allclose(chosen[:2], torch.tensor(first), atol=2e-4):
                trouble += f" ({mistake})"
        raise Broken(trouble + (" with NaN for the values between the turns" if between is not None else ""))


@invariance(
    about="in a group whose returns are all equal it does not matter what they are",
    bug="rewards normalised over the batch rather than the group, or a spread of 0 divided by something smaller still",
)
def check_equal_returns(exam: Exam) -> None:
    """A group that earned 0 throughout and one that earned 0.7 throughout: the others' gradient, and nothing else."""
    batch, size = exam.batch, exam.batch.group_size
    if not exam.trainer.group_baseline:
        raise NotPosed("advantages do not compare returns of responses to one prompt, by the adapter's account")
    if size < 2:
        raise NotPosed("the batch has one response to each prompt")
    amounts = np.random.default_rng(2).random(len(batch))
    nothing, something = amounts.copy(), amounts.copy()
    nothing[:size], something[:size] = 0.0, 0.7
    for change, one, other in (
        ("what a group of equal returns has earned", nothing, something),
        ("what all responses of a batch have earned alike", np.zeros(len(batch)), np.full(len(batch), 0.7)),
    ):
        # Not the critic's gradient, where there is one beside: it learns what the group has earned.
        expected, actual = (
            {name: value for name, value in gradient.items() if part_of(name) == "policy"}
            for gradient in (exam.gradient(paid_at_the_end(batch, amount)) for amount in (one, other))
        )
        exam.require_same(expected, actual, change)


@invariance(
    about="a reward that raises is an error, never a zero",
    bug="`except Exception: reward = 0.0` around the reward: training goes on, and learns that nothing pays",
)
def check_reward_errors(exam: Exam) -> None:
    """Episodes with a reward that always raises."""
    n_asked = 0

    def failing(prompt_ids: Sequence[int], response_ids: Sequence[int]) -> float:
        nonlocal n_asked
        n_asked += 1
        raise RuntimeError("a reward that fails, to see what becomes of it")

    try:
        batch = exam.trainer.sample(0, failing)
    except NotPosed:
        raise
    except Exception as error:  # any error will do: what matters is that there is one
        if n_asked:
            return
        raise Broken(f"sampling with a reward of one's own ends in {type(error).__name__}: {error}") from error
    if not n_asked:
        raise Broken("sampling never asked the reward")
    raise Broken(f"every reward raised, and episodes came back with returns {np.unique(batch.episode_returns)[:4]}")


@invariance(
    about="a reward that is NaN is refused",
    bug="`nan_to_num`, or a comparison that NaN passes: the failure of a reward becomes a number, or spoils its group",
)
def check_nan_reward(exam: Exam) -> None:
    """A batch with a NaN among the rewards of actions; and episodes whose reward is NaN, where one can be given."""
    rewards = exam.batch.rewards.copy()
    rewards[0, last_chosen(exam.batch)[0]] = np.nan
    poisoned = replace(exam.batch, rewards=rewards)
    if not _is_refused(lambda: exam.gradient(poisoned)):
        raise Broken("a batch with a NaN reward gives a gradient like any other")

    def nan_reward(prompt_ids: Sequence[int], response_ids: Sequence[int]) -> float:
        return float("nan")

    try:
        refused = _is_refused(lambda: exam.gradient(exam.trainer.sample(0, nan_reward)))
    except NotPosed:  # no reward can be given to this trainer: the first half stands
        return
    if not refused:
        raise Broken("episodes whose reward is NaN give a gradient like any others")


def _is_refused(action: Callable[[], object]) -> bool:
    """Whether the action ends in an error; a gradient that is not finite is none."""
    try:
        action()
    except NotPosed:
        raise
    except Broken as broken:
        raise Broken(f"a NaN reward goes into the gradient: {broken}") from None
    except Exception:  # noqa: BLE001 (any error will do: what matters is that there is one)
        return True
    return False
