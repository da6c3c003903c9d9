"""What an audit found: a verdict for each probe, as values, as text and as JSON."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from llmgym.tasks import Problem
from llmgym.testing.probes import PROBES
from llmgym.testing.workers import SLOW, Job, Outcome

#: What each check asks, in the order of the score card. An environment can declare any of them to be by design.
CHECKS: dict[str, str] = {
    "reference": "the reference answer, in the form that pays best",
    "form": "a wrong answer in that form: the base line of what follows",
    "constant": "one answer to every question",
    **{probe.name: probe.about for probe in PROBES},
    "range": "every score is a finite number",
    "components": "the parts sum to the reward",
    "repeat": "the same score when asked again",
    "process": "the same score in another process, in another order",
    "thread": "the same score in a thread",
    "hash_seed": "the same score under other PYTHONHASHSEEDs",
    "pickling": "a pickled copy of the scorer can be made",
    "order": "the same total in every order of the rewards",
}

#: Characters of a response that an example shows.
_SHOWN = 160


class Verdict(str, Enum):
    """What a check came to."""

    PASS = "pass"
    REPORTED = "reported"  # a matter of policy: neither right nor wrong
    BY_DESIGN = "by design"  # the environment declares that it is meant
    NOT_POSED = "not posed"
    WARNING = "warning"
    FINDING = "finding"


@dataclass(frozen=True, slots=True)
class Example:
    """A response and what became of it.

    Attributes:
        problem_id: The problem that it answers.
        variant: Which of the probe's responses it is.
        response: The response, cut in the middle where it is long.
        score: What was paid; ``None`` where there was no number.
        fault: What went wrong instead.
    """

    problem_id: str
    variant: str
    response: str
    score: float | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One line of the score card.

    Attributes:
        name: Name of the probe.
        about: What it asks.
        verdict: What it came to.
        reason: Why, in one sentence; ``""`` where the verdict says it all.
        mean: Share of the full score that the best-paid variant earned, mean over the problems; ``None`` where
            nothing was scored.
        max: The largest share that any response earned.
        n_responses: Responses judged.
        examples: The best-paid response, or those that went wrong.
    """

    name: str
    about: str
    verdict: Verdict
    reason: str = ""
    mean: float | None = None
    max: float | None = None
    n_responses: int = 0
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What a policy could get from a reward without solving anything.

    Attributes:
        subject: What was audited.
        settings: Arguments of the audit, as plain values.
        n_problems: Problems tried.
        form: The form in which the reference answer pays best, as a template.
        full: The score of a reference answer in that form.
        form_share: Share of it that a wrong answer in that form earns.
        results: One for each check.
        notes: What else there is to know, such as what could not be posed.
    """

    subject: str
    settings: Mapping[str, Any]
    n_problems: int
    form: str
    full: float
    form_share: float
    results: tuple[ProbeResult, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def findings(self) -> tuple[ProbeResult, ...]:
        """What should not be."""
        return tuple(result for result in self.results if result.verdict is Verdict.FINDING)

    @property
    def passed(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    def __getitem__(self, name: str) -> ProbeResult:
        """The result of a check by name."""
        for result in self.results:
            if result.name == name:
                return result
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, fit for JSON."""
        return {
            "subject": self.subject,
            "settings": dict(self.settings),
            "passed": self.passed,
            "findings": [result.name for result in self.findings],
            "n_problems": self.n_problems,
            "form": self.form,
            "full": _finite(self.full),
            "form_share": _finite(self.form_share),
            "results": [
                {
                    "name": result.name,
                    "about": result.about,
                    "verdict": result.verdict.value,
                    "reason": result.reason,
                    "mean": _finite(result.mean),
                    "max": _finite(result.max),
                    "n_responses": result.n_responses,
                    "examples": [
                        {
                            "problem_id": example.problem_id,
                            "variant": example.variant,
                            "response": example.response,
                            "score": _finite(example.score),
                            "fault": example.fault,
                        }
                        for example in result.examples
                    ],
                }
                for result in self.results
            ],
            "notes": list(self.notes),
        }

    @property
    def heading(self) -> tuple[str, ...]:
        """What stands above the score card."""
        return (
            f"{self.subject}: {self.n_problems} problems",
            f"pays best: {self.form!r}",
            f"a reference answer earns {self.full:g} in it, a wrong answer {self.form_share:.0%} of that",
        )

    @property
    def conclusion(self) -> str:
        """What stands below it."""
        warned = [result.name for result in self.results if result.verdict is Verdict.WARNING]
        also = f"; to look at: {', '.join(warned)}" if warned else ""
        if self.passed:
            return f"passed: nothing pays that should not{also}"
        n = len(self.findings)
        return f"{n} finding{'s' if n > 1 else ''}: {', '.join(result.name for result in self.findings)}{also}"

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Name, verdict, mean share, largest share, and what there is to say, for each check."""
        return [
            (result.name, result.verdict.value, _share(result.mean), _share(result.max), result.reason or result.about)
            for result in self.results
        ]

    @property
    def details(self) -> tuple[str, ...]:
        """An example of each finding, and the notes."""
        lines: list[str] = []
        for result in self.findings:
            for example in result.examples[:1]:
                paid = example.fault or f"paid {example.score:g}"
                lines += ["", f"{result.name}, {example.variant}: {paid}", f"  problem   {example.problem_id}"]
                lines.append(f"  response  {example.response!r}")
        return (*lines, *(["", *(f"note: {note}" for note in self.notes)] if self.notes else []), "")

    def __str__(self) -> str:
        table = [("probe", "verdict", "mean", "max", ""), *self.rows()]
        widths = [max(len(row[column]) for row in table) for column in range(4)]
        lines = [*self.heading, ""]
        for row in table:
            cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2].rjust(widths[2]), row[3].rjust(widths[3])]
            lines.append("  ".join([*cells, row[4]]).rstrip())
        return "\n".join([*lines, *self.details, self.conclusion])


def example_of(job: Job, outcome: Outcome, problems: Sequence[Problem]) -> Example:
    """A response as an example."""
    fault = outcome.fault or (f"took {outcome.seconds:.1f} s" if outcome.seconds > SLOW else "")
    return Example(problems[job.index].problem_id, job.variant, _shorten(job.response), outcome.score, fault)


def _shorten(response: str) -> str:
    """A response for an example: the middle of a long one left out, nothing in it that would upset a terminal."""
    if len(response) > _SHOWN:
        left_out = len(response) - _SHOWN
        response = f"{response[: _SHOWN // 2]} … {left_out:,} characters … {response[-_SHOWN // 2 :]}"
    return "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cn", "Co") and c not in "\n\t" else c for c in response
    )


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.2f}"


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None
