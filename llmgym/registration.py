"""The table of environment ids.

Entry points are strings, so that importing llmgym loads no environment. To add one: a file in ``envs/`` and a line
here.
"""

from __future__ import annotations

import gymnasium as gym

#: id -> (entry point, vector entry point)
ENVIRONMENTS: dict[str, tuple[str, str]] = {
    "llmgym/MathReason-v0": (
        "llmgym.envs.math_reason:MathReasonEnv",
        "llmgym.envs.math_reason:MathReasonVectorEnv",
    ),
    "llmgym/Copy-v0": (
        "llmgym.envs.copy:CopyEnv",
        "llmgym.envs.copy:CopyVectorEnv",
    ),
}


def register_environments() -> None:
    """Make the ids known to Gymnasium. Safe to call again."""
    for env_id, (entry_point, vector_entry_point) in ENVIRONMENTS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=entry_point, vector_entry_point=vector_entry_point)
