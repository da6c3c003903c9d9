"""What a challenge of a suite is to the benchmark: a name, a budget, and where its environments come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from llmgym.envs.diagnostics import DIAGNOSTICS, Diagnostic


@dataclass(frozen=True)
class Entry:
    """A challenge of the suite ``diagnostics``; those of other suites are subclasses.

    Attributes:
        diagnostic: A key of ``llmgym.envs.diagnostics.DIAGNOSTICS``.
        size: ``"small"``, ``"medium"`` or ``"large"``.
        budget: Environment steps to learn in.
    """

    diagnostic: str
    size: str
    budget: int
    #: Name of the suite.
    suite: ClassVar[str] = "diagnostics"
    #: What a report says of the scores, and of what is read beside them.
    about: ClassVar[tuple[str, str]] = ("", "the other readings are explained with their diagnostics.")

    @property
    def name(self) -> str:
        """Of the challenge in the table and in the report."""
        return f"{self.diagnostic}-{self.size}"

    @property
    def axis(self) -> str:
        """Its axis of the radar, which is a mean where several challenges share it."""
        return self.diagnostic

    @property
    def subject(self) -> Diagnostic:
        """Makes its environments, and scores what is played in them."""
        return DIAGNOSTICS[self.diagnostic]

    @property
    def held_out(self) -> Mapping[str, Any]:
        """Keyword arguments of the environment that scores, where it poses other problems than are learned from."""
        return {}

    @property
    def start(self) -> str | None:
        """The model that agents begin with; ``None``: one that knows nothing."""
        return None

    @property
    def agent_options(self) -> Mapping[str, Any]:
        """Options of the package's own agents that differ from theirs."""
        return {}

    def check_unchanged(self) -> None:
        """Raise an error where a file that results depend on is another by now than when the suite was made."""
