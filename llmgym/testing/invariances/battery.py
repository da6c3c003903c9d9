"""All questions to one trainer, and the score card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmgym.errors import unknown_name
from llmgym.testing.invariances.exam import INVARIANCES, Exam, Invariance, InvarianceError
from llmgym.testing.invariances.trainers import NotPosed, TrainerAdapter
from llmgym.testing.report import Verdict


@dataclass(frozen=True, slots=True)
class InvarianceResult:
    """One line of the score card.

    Attributes:
        name: Name of the invariance.
        about: What must hold.
        verdict: :attr:`Verdict.PASS`, :attr:`Verdict.FINDING` or :attr:`Verdict.NOT_POSED`.
        reason: What was seen, or why it could not be asked; ``""`` where it holds.
        bug: What usually breaks it.
    """

    name: str
    about: str
    verdict: Verdict
    reason: str = ""
    bug: str = ""


@dataclass(frozen=True, slots=True)
class TrainerReport:
    """What a trainer keeps, what it breaks, and what could not be asked.

    Attributes:
        subject: Name of the trainer.
        results: One for each invariance.
    """

    subject: str
    results: tuple[InvarianceResult, ...]

    @property
    def findings(self) -> tuple[InvarianceResult, ...]:
        """What the trainer breaks."""
        return tuple(result for result in self.results if result.verdict is Verdict.FINDING)

    @property
    def not_posed(self) -> tuple[InvarianceResult, ...]:
        """What could not be asked."""
        return tuple(result for result in self.results if result.verdict is Verdict.NOT_POSED)

    @property
    def passed(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    def __getitem__(self, name: str) -> InvarianceResult:
        """The result of an invariance by name."""
        for result in self.results:
            if result.name == name:
                return result
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, fit for JSON."""
        return {
            "subject": self.subject,
            "passed": self.passed,
            "findings": [result.name for result in self.findings],
            "results": [
                {"name": r.name, "about": r.about, "verdict": r.verdict.value, "reason": r.reason, "bug": r.bug}
                for r in self.results
            ],
        }

    @property
    def conclusion(self) -> str:
        """What stands below the score card."""
        posed = len(self.results) - len(self.not_posed)
        also = f"; not posed: {', '.join(result.name for result in self.not_posed)}" if self.not_posed else ""
        if self.passed:
            return f"passed: {posed} of {len(self.results)} invariances hold{also}"
        n = len(self.findings)
        return f"{n} finding{'s' if n > 1 else ''}: {', '.join(result.name for result in self.findings)}{also}"

    def __str__(self) -> str:
        names = max(len(result.name) for result in self.results)
        verdicts = max(len(result.verdict.value) for result in self.results)
        lines = [self.subject, ""]
        for result in self.results:
            cells = [result.name.ljust(names), result.verdict.value.ljust(verdicts), result.reason or result.about]
            lines.append("  ".join(cells))
            if result.verdict is Verdict.FINDING and result.bug:
                lines.append(" " * (names + verdicts + 4) + f"the usual bug: {result.bug}")
        return "\n".join([*lines, "", self.conclusion])


def check_trainer(trainer: TrainerAdapter, *, only: Sequence[str] | None = None) -> TrainerReport:
    """Ask a trainer for every invariance.

    Args:
        trainer: An adapter: :class:`~llmgym.testing.invariances.agents.AgentTrainer` for agents of llmgym, one's own
            for other trainers.
        only: Names of the invariances to ask for; ``None``: all.

    Returns:
        A verdict for each. An error that a trainer raises where none is called for is a finding too.

    Raises:
        InvalidOptionError: If ``only`` holds an unknown name.
    """
    for name in only or ():
        if name not in INVARIANCES:
            raise unknown_name("an invariance", name, INVARIANCES)
    exam = Exam(trainer)
    asked = [invariance for name, invariance in INVARIANCES.items() if only is None or name in only]
    subject = trainer.name or type(trainer).__name__
    return TrainerReport(subject, tuple(_result(invariance, exam) for invariance in asked))


def _result(invariance: Invariance, exam: Exam) -> InvarianceResult:
    verdict, reason = Verdict.PASS, ""
    try:
        invariance.check(exam)
    except InvarianceError as error:
        verdict, reason = Verdict.FINDING, error.trouble
    except NotPosed as missing:
        verdict, reason = Verdict.NOT_POSED, str(missing)
    except Exception as error:  # noqa: BLE001 (whatever a trainer raises, the other questions are still asked)
        verdict, reason = Verdict.FINDING, f"raised {type(error).__name__}: {error}"
    return InvarianceResult(invariance.name, invariance.about, verdict, reason, invariance.bug)
