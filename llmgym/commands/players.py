"""Who plays in ``llmgym eval`` and ``llmgym export``: a run, a saved agent or any model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmgym.commands.arguments import load
from llmgym.play import DEFAULT_ENV

if TYPE_CHECKING:
    from llmgym.agents.agent import Agent


def load_agent(path: str, env: str | None, env_kwargs: Mapping[str, Any]) -> Agent:
    """An agent that is asked to play, and to learn nothing.

    Args:
        path: The folder of a run or of a saved agent; or ``"tiny-reasoner"``, the folder or hub name of a model.
        env: Id of an environment; ``None``: the one of the training, or ``llmgym/MathReason-v0``.
        env_kwargs: Keyword arguments of the environment for a model; an agent has those of its training.
    """
    training = load("llmgym.agents.training")
    agent: Agent
    if load("llmgym.agents.checkpoints").holds_agent(Path(path)):
        agent = training.class_of(path).load(path, env, run_dir=None)
    else:
        grpo = training.algorithm_class("grpo")  # whose learning is asked for nothing
        agent = grpo(path, env or DEFAULT_ENV, env_kwargs=env_kwargs, run_dir=None)
    return agent
