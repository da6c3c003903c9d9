"""What learns: agents built on torch and transformers, seeing environments only through Gymnasium.

Needs the extra ``agents``; without it the import fails with the install line.
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING, Any

from llmgym.errors import missing_extra

if __name__ == "agents":  # found as a folder on sys.path, and not through the package
    warnings.warn(
        "Expected the name `llmgym.agents`, actual: `agents`, which makes second copies of its classes. "
        "Write `import llmgym.agents`.",
        stacklevel=2,
    )

# Asked before the first use, so that the answer is an install line and not a traceback out of a sub-module.
for _package in ("torch", "transformers", "safetensors"):
    if importlib.util.find_spec(_package) is None:
        raise missing_extra(_package, "agents")

if TYPE_CHECKING:
    from llmgym.agents.agent import Agent
    from llmgym.agents.config import AgentConfig
    from llmgym.agents.evaluation import Evaluation, evaluate
    from llmgym.agents.grpo import GRPO, GRPOConfig
    from llmgym.agents.policies import Policy
    from llmgym.agents.ppo import PPO, PPOConfig
    from llmgym.agents.rollouts import RolloutBatch, collect

__all__ = [
    "GRPO",
    "PPO",
    "Agent",
    "AgentConfig",
    "Evaluation",
    "GRPOConfig",
    "PPOConfig",
    "Policy",
    "RolloutBatch",
    "collect",
    "evaluate",
]

_HOMES = {
    "Agent": "agent",
    "AgentConfig": "config",
    "GRPO": "grpo",
    "GRPOConfig": "grpo",
    "PPO": "ppo",
    "PPOConfig": "ppo",
    "Policy": "policies",
    "RolloutBatch": "rollouts",
    "collect": "rollouts",
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
}


def __getattr__(name: str) -> Any:
    # Names load on first use: importing one agent should not import them all, nor a module that `python -m` runs.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"llmgym.agents.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
