"""What is played: the challenges of a suite by name, each with a number of environment steps to learn in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmgym.benchmark.entries import Entry
from llmgym.benchmark.reasoning import reasoning
from llmgym.envs.diagnostics import DIAGNOSTICS
from llmgym.errors import InvalidOptionError, unknown_name
from llmgym.tokenizers import TINY_REASONER

SUITES = ("diagnostics", "reasoning")

#: Size -> environment steps for each challenge of the suite ``diagnostics``.
BUDGETS = {"small": 20_000, "medium": 40_000, "large": 120_000}


def suite(
    name: str = "diagnostics",
    *,
    sizes: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
    budget: int | None = None,
    model: str | None = None,
    data: Sequence[str] = (),
    env_kwargs: Mapping[str, Any] | None = None,
    agent_options: Mapping[str, Any] | None = None,
) -> tuple[Entry, ...]:
    """The challenges of a suite.

    Args:
        name: ``"diagnostics"`` or ``"reasoning"``.
        sizes: In which sizes the diagnostics are; ``None``: in the small one.
        only: Diagnostics, or challenges of the suite ``reasoning``, to play; ``None``: all of them.
        budget: Environment steps for each challenge; ``None``: the suite's own.
        model: What agents of the suite ``reasoning`` begin with; ``None``: ``"tiny-reasoner"``.
        data: Files of problems: see :func:`~llmgym.benchmark.reasoning.reasoning`, as for the two that follow.
        env_kwargs: Keyword arguments of the environment of the suite ``reasoning``.
        agent_options: Options of ``grpo`` and ``ppo`` in the suite ``reasoning``.

    Raises:
        InvalidOptionError: If a name is unknown, an option is of the other suite, or the budget is below 1.

    Example:
        >>> [entry.name for entry in suite(only=["copy", "recall"], sizes=["small", "medium"])]
        ['copy-small', 'recall-small', 'copy-medium', 'recall-medium']
    """
    if name not in SUITES:
        raise unknown_name("a suite", name, SUITES)
    if budget is not None and budget < 1:
        raise InvalidOptionError(f"Expected a budget >= 1 environment step, actual: {budget}. Raise it.")
    of_reasoning = {"model": model, "data": data, "env_kwargs": env_kwargs, "agent_options": agent_options}
    others = {"sizes": sizes} if name == "reasoning" else of_reasoning
    for option, value in others.items():
        if value:
            raise InvalidOptionError(
                f"Expected no {option} with the suite {name!r}, actual: {value!r}. It is for another: leave it out."
            )
    if name == "reasoning":
        return reasoning(
            model=model or TINY_REASONER,
            data=data,
            only=only,
            budget=budget,
            env_kwargs=env_kwargs,
            agent_options=agent_options,
        )
    sizes = ("small",) if sizes is None else sizes
    for size in sizes:
        if size not in BUDGETS:
            raise unknown_name("a size", size, BUDGETS)
    for wanted in only or ():
        if wanted not in DIAGNOSTICS:
            raise unknown_name("a diagnostic", wanted, DIAGNOSTICS)
    return tuple(
        Entry(diagnostic, size, BUDGETS[size] if budget is None else budget)
        for size in sizes
        for diagnostic in DIAGNOSTICS
        if only is None or diagnostic in only
    )
