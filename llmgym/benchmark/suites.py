"""What is played: challenges by name, each a diagnostic in a size with a number of environment steps to learn in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmgym.envs.diagnostics import DIAGNOSTICS
from llmgym.errors import InvalidOptionError, unknown_name

#: Size -> environment steps for each challenge of the suite ``diagnostics``.
BUDGETS = {"small": 20_000, "medium": 40_000, "large": 120_000}


@dataclass(frozen=True)
class Entry:
    """A challenge of a suite.

    Attributes:
        diagnostic: A key of ``llmgym.envs.diagnostics.DIAGNOSTICS``.
        size: ``"small"``, ``"medium"`` or ``"large"``.
        budget: Environment steps to learn in.
    """

    diagnostic: str
    size: str
    budget: int

    @property
    def name(self) -> str:
        """Of the challenge in the table and in the report."""
        return f"{self.diagnostic}-{self.size}"


def suite(
    name: str = "diagnostics",
    *,
    sizes: Sequence[str] = ("small",),
    only: Sequence[str] | None = None,
    budget: int | None = None,
) -> tuple[Entry, ...]:
    """The challenges of a suite.

    Args:
        name: ``"diagnostics"``, the one there is.
        sizes: In which sizes.
        only: Diagnostics to play; ``None``: all of them.
        budget: Environment steps for each challenge; ``None``: those of :data:`BUDGETS`.

    Raises:
        InvalidOptionError: If a name is unknown, or the budget below 1.

    Example:
        >>> [entry.name for entry in suite(only=["copy", "recall"], sizes=["small", "medium"])]
        ['copy-small', 'recall-small', 'copy-medium', 'recall-medium']
    """
    if name != "diagnostics":
        raise unknown_name("a suite", name, ("diagnostics",))
    for size in sizes:
        if size not in BUDGETS:
            raise unknown_name("a size", size, BUDGETS)
    for wanted in only or ():
        if wanted not in DIAGNOSTICS:
            raise unknown_name("a diagnostic", wanted, DIAGNOSTICS)
    if budget is not None and budget < 1:
        raise InvalidOptionError(f"Expected a budget >= 1 environment step, actual: {budget}. Raise it.")
    return tuple(
        Entry(diagnostic, size, BUDGETS[size] if budget is None else budget)
        for size in sizes
        for diagnostic in DIAGNOSTICS
        if only is None or diagnostic in only
    )
