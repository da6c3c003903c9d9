"""What a rollout and an update say about themselves in numbers, and numbers that nothing may be learned from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from llmgym.agents.rollout_batches import RolloutBatch
from llmgym.errors import NotFiniteError


def rollout_metrics(batch: RolloutBatch) -> dict[str, Any]:
    """What the policy did: see ``docs/metrics.md``."""
    lengths = batch.response_mask.sum(axis=1)
    return {
        "rollout/return": float(batch.episode_returns.mean()),
        "rollout/return_std": float(batch.episode_returns.std()),
        "rollout/length": float(lengths.mean()),
        "rollout/length_max": int(lengths.max()),
        "rollout/terminated": float(batch.terminated.mean()),
        **({} if batch.unverifiable is None else {"rollout/unverifiable": float(batch.unverifiable.mean())}),
        "rollout/episodes": len(batch),
        "rollout/dropped_episodes": batch.n_dropped,
        **{f"reward/{name}": float(values.mean()) for name, values in batch.reward_components.items()},
    }


def check_rewards(batch: RolloutBatch) -> None:
    """Refuse to learn from a reward that is NaN or infinite.

    Raises:
        NotFiniteError: It names the component, where the environment says its components.
    """
    rows = np.flatnonzero(~np.isfinite(batch.episode_returns))
    if len(rows) == 0:
        return
    parts = [name for name, values in batch.reward_components.items() if not np.isfinite(values).all()]
    which = f"component {', '.join(map(repr, parts))}" if parts else "the reward of a step"
    raise NotFiniteError(
        f"Expected finite rewards, actual: {which} is NaN or infinite in {len(rows)} of {len(batch)} episodes (the "
        f"first is number {rows[0]}). Nothing was learned from them. Mend the reward."
    )


def check_losses(metrics: Mapping[str, Any]) -> None:
    """Refuse to go on after a loss that is NaN or infinite.

    Raises:
        NotFiniteError: If there is one.
    """
    for name in ("train/loss", "train/value_loss"):
        if not math.isfinite(metrics.get(name, 0.0)):
            raise NotFiniteError(f"Expected {name} to be finite, actual: {metrics[name]}. Lower the learning rate.")
