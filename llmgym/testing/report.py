"""What an audit found: a verdict for each probe, as values, as text and as JSON."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from numbers import Integral, Real
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
    "posed": "enough of the responses fit the environment",
    "range": "every score is a finite number",
    "components": "the parts sum to the reward",
    "repeat": "the same score when asked again",
    "process": "the same score in another process, in another order",
    "thread": "the same score in a thread, while another one judges too",
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
        faulty: Whether something went wrong that no declaration excuses: a scorer raised, was slow or hung, ended its
            process, gave no finite number, or ran code of a response.
    """

    name: str
    about: str
    verdict: Verdict
    reason: str = ""
    mean: float | None = None
    max: float | None = None
    n_responses: int = 0
    examples: tuple[Example, ...] = ()
    faulty: bool = False


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What a policy could get from a reward without solving anything.

    Attributes:
        subject: What was audited.
        settings: Arguments of the audit, as plain values.
        n_problems: Problems tried.
        form: The form in which the reference answer pays best, as a template.
        full: The score of a reference answer in that form; the best where they differ.
        full_min: The lowest of them.
        form_share: Share of it that a wrong answer in that form earns.
        results: One for each check.
        notes: What else there is to know, such as what could not be posed.
    """

    subject: str
    settings: Mapping[str, Any]
    n_problems: int
    form: str
    full: float
    full_min: float
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
        values: dict[str, Any] = _plain(self._values())
        return values

    def _values(self) -> dict[str, Any]:
        return {
            "subject": self.subject,
            "settings": dict(self.settings),
            "passed": self.passed,
            "findings": [result.name for result in self.findings],
            "n_problems": self.n_problems,
            "form": self.form,
            "full": self.full,
            "full_min": self.full_min,
            "form_share": self.form_share,
            "results": [
                {
                    "name": result.name,
                    "about": result.about,
                    "verdict": result.verdict.value,
                    "faulty": result.faulty,
                    "reason": result.reason,
                    "mean": result.mean,
                    "max": result.max,
                    "n_responses": result.n_responses,
                    "examples": [
                        {
                            "problem_id": example.problem_id,
                            "variant": example.variant,
                            "response": example.response,
                            "score": example.score,
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
        full = f"{self.full:g}" if math.isclose(self.full, self.full_min) else f"{self.full_min:g} to {self.full:g}"
        return (
            f"{_legible(self.subject)}: {self.n_problems} problem{'s' if self.n_problems > 1 else ''}",
            f"pays best: {_legible(repr(self.form))}",
            f"a reference answer earns {full} in it, a wrong answer {self.form_share:.0%} of that",
        )

    @property
    def conclusion(self) -> str:
        """What stands below it."""
        also = ""
        for said, verdict in (("to look at", Verdict.WARNING), ("not posed", Verdict.NOT_POSED)):
            names = [result.name for result in self.results if result.verdict is verdict]
            also += f"; {said}: {', '.join(names)}" if names else ""
        if self.passed:
            return f"passed: nothing pays that should not{also}"
        n = len(self.findings)
        return f"{n} finding{'s' if n > 1 else ''}: {', '.join(result.name for result in self.findings)}{also}"

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Name, verdict, mean share, largest share, and what there is to say, for each check."""
        return [
            (
                result.name,
                result.verdict.value,
                _share(result.mean),
                _share(result.max),
                _legible(result.reason or result.about),
            )
            for result in self.results
        ]

    @property
    def details(self) -> tuple[str, ...]:
        """An example of each finding, and the notes."""
        lines: list[str] = []
        for result in self.findings:
            for example in result.examples[:1]:
                score = "no score" if example.score is None else f"paid {example.score:g}"
                lines += ["", _legible(f"{result.name}, {example.variant}: {example.fault or score}")]
                lines += [f"  problem   {_legible(example.problem_id)}", f"  response  {example.response!r}"]
        return (*lines, *(["", *(_legible(f"note: {note}") for note in self.notes)] if self.notes else []), "")

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
    return _clean(response)


def _clean(text: str) -> str:
    """The text without what a terminal obeys or no encoding can write: controls, marks of direction, halves."""
    return "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cn", "Co", "Cs") and c not in "\n\t" else c for c in text
    )


def _legible(text: str) -> str:
    """The text, clean and on one line."""
    return _clean(" ".join(text.splitlines()))


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.2f}"


def _plain(value: Any) -> Any:
    """The value as JSON has it: what is none of JSON's kinds as its ``repr``, no number that is not finite."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return _plain(repr(value))
