"""From a scorer and problems to a report: poses every probe, and says what the scores mean."""

from __future__ import annotations

import math
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmgym.errors import InvalidOptionError, unknown_name
from llmgym.tasks import Problem
from llmgym.testing.determinism import ask_again
from llmgym.testing.forms import CONSTANTS, FORMS, WRONG_ANSWERS, Form, commonest_answers, same_answer
from llmgym.testing.probes import PROBES, Posing, Probe, Rule
from llmgym.testing.report import CHECKS, AuditReport, ProbeResult, Verdict, example_of
from llmgym.testing.scales import FORM_LIMIT, Scale, make_scales, score_of
from llmgym.testing.workers import MAX_HANGS, SLOW, Job, Outcome, Scorer, run

#: A share of the full score, above the base line, from which a response counts as paid.
PAID = 0.05
#: A probe that chance may favour is a finding when it is paid for more than this share of the problems.
CHANCE = 0.1
#: Fewer of the responses judged as they were posed, not counting the longest, are a finding.
ENOUGH = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is audited.

    Attributes:
        name: What to call it.
        settings: Arguments of the audit, as plain values.
        scorer: Scores a response to a problem.
        problems: The problems to try.
        by_design: Name of a check -> why it may pay.
        beside: The scorer as a second thread asks it; ``None`` where it cannot be asked twice at the same time.
        reordered: The same scorer with its rewards in other orders.
        not_reordered: Why there is none.
    """

    name: str
    settings: Mapping[str, Any]
    scorer: Scorer
    problems: Sequence[Problem]
    by_design: Mapping[str, str]
    beside: Scorer | None = None
    reordered: Sequence[Scorer] = ()
    not_reordered: str = "a function is one reward"


def examine(subject: Subject, *, seed: int, deadline: float, form: str) -> AuditReport:
    """Pose every probe to a scorer.

    Args:
        subject: What is audited.
        seed: Of what is random in the probes.
        deadline: Seconds after which a response is given up.
        form: How an answer has to be given: a text with ``{answer}`` in it; empty tries the usual ones.

    Raises:
        InvalidOptionError: If an argument is not valid, or a declaration names no check.
    """
    _check(subject, deadline, form)
    forms = (Form("given", form),) if form else FORMS
    references = _References(subject, forms, deadline)
    with tempfile.TemporaryDirectory(prefix="llmgym-audit-") as folder:
        # Where no reference answer gets a score there is nothing to compare with.
        jobs = _write_jobs(subject.problems, references.form, seed, Path(folder)) if references.scored else []
        outcomes = run(subject.scorer, jobs, subject.problems, deadline=deadline)
        judged = [(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True) if outcome is not None]
        determinism = ask_again(
            subject.scorer,
            subject.problems,
            judged,
            deadline,
            beside=subject.beside,
            reordered=subject.reordered,
            not_reordered=subject.not_reordered,
        )
        executed = any(Path(folder).iterdir())
    ledger = _Ledger(subject.problems, references, judged)
    results = [
        ledger.reference_result(),
        ledger.form_result(),
        ledger.constant_result(),
        *(ledger.probe_result(probe) for probe in PROBES),
        ledger.posed_result(len(jobs)),
        ledger.range_result(),
        ledger.components_result(),
        *determinism,
    ]
    if executed:
        results = [_found(r, "code in a response was run") if r.name == "executed" else r for r in results]
    notes = ledger.notes(jobs)
    return AuditReport(
        subject=subject.name,
        settings=subject.settings,
        n_problems=len(subject.problems),
        form=references.form.template,
        full=ledger.full,
        full_min=ledger.full_min,
        form_share=ledger.form_share,
        results=tuple(_by_design(result, subject.by_design) for result in results),
        notes=tuple(notes),
    )


def _check(subject: Subject, deadline: float, form: str) -> None:
    if not subject.problems:
        raise InvalidOptionError("Expected at least one problem to audit a reward with, actual: none. Pass some.")
    if not (math.isfinite(deadline) and deadline > 0):
        raise InvalidOptionError(f"Expected `deadline` to be a number of seconds > 0, actual: {deadline!r}. Raise it.")
    if form and "{answer}" not in form:
        raise InvalidOptionError(
            f"Expected `form` to be a text with {{answer}} in it, actual: {form!r}. Put {{answer}} where it belongs."
        )
    for name in subject.by_design:
        if name not in CHECKS:
            raise unknown_name("a check that pays by design", name, CHECKS)


# --- Posing -----------------------------------------------------------------------------------------------------------


class _References:
    """Which form pays best for the reference answers, and what they earn in it."""

    def __init__(self, subject: Subject, forms: Sequence[Form], deadline: float) -> None:
        problems = subject.problems
        jobs = [
            Job("reference", form.name, i, form.write(problem.reference_answer))
            for form in forms
            for i, problem in enumerate(problems)
        ]
        outcomes = run(subject.scorer, jobs, problems, deadline=deadline)
        self.judged = [(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True) if outcome is not None]
        #: Whether any of them got a score.
        self.scored = any(outcome.score is not None for _, outcome in self.judged)
        # What was cut, or got no score, is worth less than any that was not.
        scores = [score_of(outcome) for _, outcome in self.judged]
        worst = min((score for score in scores if score is not None), default=0.0)
        paid = {form.name: [worst] * len(problems) for form in forms}
        for (job, _), score in zip(self.judged, scores, strict=True):
            if score is not None:
                paid[job.variant][job.index] = score
        # Totals that differ by rounding alone are the same.
        self.form = max(forms, key=lambda form: round(math.fsum(paid[form.name]), 6))
        self.in_form = [(job, outcome) for job, outcome in self.judged if job.variant == self.form.name]


def _write_jobs(problems: Sequence[Problem], form: Form, seed: int, folder: Path) -> list[Job]:
    constants = dict.fromkeys([*commonest_answers(problems, 10), *CONSTANTS])
    # The longest responses go to one problem of each kind, since the others are judged by the same code.
    heavy = {next((i for i, p in enumerate(problems) if (p.accepts is None) == plain), 0) for plain in (True, False)}
    jobs = []
    for i, problem in enumerate(problems):
        jobs += [Job("form", answer, i, form.write(answer)) for answer in WRONG_ANSWERS]
        jobs += [Job("constant", answer, i, form.write(answer)) for answer in constants]
        rng = random.Random(f"{seed}:{problem.problem_id}".encode(errors="surrogatepass"))
        others = [p.reference_answer for p in problems if not same_answer(p.reference_answer, problem.reference_answer)]
        others = list(dict.fromkeys(others))
        rng.shuffle(others)
        posing = Posing(problem, form, others, rng, str(folder / str(i)))
        for probe in PROBES:
            if probe.heavy and i not in heavy:
                continue
            jobs += [Job(probe.name, variant, i, response) for variant, response in probe.write(posing)]
    return jobs


# --- Judging ----------------------------------------------------------------------------------------------------------


class _Ledger:
    """Every response with its outcome, and what follows."""

    def __init__(
        self, problems: Sequence[Problem], references: _References, judged: Sequence[tuple[Job, Outcome]]
    ) -> None:
        self.problems = problems
        self.references = references
        self.judged = judged
        self.all = [*references.judged, *judged]
        self.of: dict[str, list[tuple[Job, Outcome]]] = defaultdict(list)
        for job, outcome in judged:
            if not outcome.cut:
                self.of[job.probe].append((job, outcome))
        self.scales: list[Scale] = make_scales(len(problems), references.in_form, self.of["form"])
        earned = [score for _, outcome in references.in_form if (score := score_of(outcome)) is not None]
        #: What reference answers earn, at best and at worst.
        self.full, self.full_min = max(earned, default=0.0), min(earned, default=0.0)
        self.form_share = max(self._means("form").values(), default=0.0)

    def share(self, job: Job, outcome: Outcome) -> float:
        """Share of the full score; 0 where there is no score."""
        score = score_of(outcome)
        return 0.0 if score is None else self.scales[job.index].share(score)

    def excess(self, job: Job, outcome: Outcome) -> float:
        """What a response earned above a wrong answer, as a share of the way to the full score; 0 where it is not worth
        a word.
        """
        score = score_of(outcome)
        over = 0.0 if score is None else self.scales[job.index].excess(score)
        return over if over > PAID else 0.0

    def _means(self, probe: str) -> dict[str, float]:
        """Variant -> its share, mean over the problems that it was posed to."""
        shares: dict[str, list[float]] = defaultdict(list)
        for job, outcome in self.of[probe]:
            shares[job.variant].append(self.share(job, outcome))
        return {variant: math.fsum(of) / len(of) for variant, of in shares.items()}

    def reference_result(self) -> ProbeResult:
        """Whether every reference answer earns more than a wrong one."""
        in_form, n = self.references.in_form, len(self.problems)
        best = max((scale.full for scale in self.scales), default=0.0)
        short = [
            (job, outcome)
            for job, outcome in in_form
            if outcome.is_faulty or outcome.cut or self.scales[job.index].falls_short(score_of(outcome), best)
        ]
        cut = list(dict.fromkeys(outcome.left_out for _, outcome in in_form if outcome.cut))
        reasons = []
        if short:
            reasons.append(f"{len(short)} of {n} reference answers do not earn the full score")
        reasons += [f"they {why}: raise that budget, or choose a form that fits with form=" for why in cut]
        if short and not cut:
            reasons.append("where the environment wants a form of its own, name it with form=")
        faults = _fault_reasons(in_form)
        if len(in_form) < n:
            faults.append(f"given up after {MAX_HANGS} responses without a score")
        reasons += faults
        verdict, note = Verdict.FINDING if reasons else Verdict.PASS, f"form: {self.references.form.name}"
        if not reasons and not all(scale.is_close_to(best) for scale in self.scales):
            verdict = Verdict.WARNING
            note = f"they earn from {self.full_min:g} to {self.full:g}: each problem is measured by its own"
        shares = [self.share(job, outcome) for job, outcome in in_form]
        return ProbeResult(
            "reference",
            CHECKS["reference"],
            verdict,
            "; ".join(reasons) or note,
            math.fsum(shares) / len(shares) if shares else None,
            max(shares, default=None),
            len(self.references.judged),
            tuple(example_of(job, outcome, self.problems) for job, outcome in short[:3]),
            faulty=bool(faults) or any(outcome.is_faulty for _, outcome in in_form),
        )

    def _result(
        self, name: str, reasons: Sequence[str], verdict: Verdict, note: str = "", shown: str = ""
    ) -> ProbeResult:
        """A line of the card; faults of any response of the probe make it a finding.

        Args:
            name: Of the probe.
            reasons: Why the verdict is what it is.
            verdict: What it is without faults.
            note: What to say where there is no reason.
            shown: The variant that the example is taken from; empty: the best paid.
        """
        judged = self.of[name]
        faults = _fault_reasons(judged)
        reasons = [*reasons, *faults]
        if not judged:
            cut = dict.fromkeys(o.left_out for j, o in self.judged if o.cut and j.probe == name)
            reason = f"all responses {'; '.join(cut)}" if cut else ""
            return ProbeResult(name, CHECKS[name], Verdict.NOT_POSED, reason)
        wrong = [(job, outcome) for job, outcome in judged if outcome.fault or outcome.seconds > SLOW]
        candidates = [pair for pair in judged if pair[0].variant == shown] or judged
        best = max(candidates, key=lambda pair: (self.excess(*pair), self.share(*pair)))
        examples = [*wrong[:2], *([best] if self.share(*best) > 0 else [])]
        return ProbeResult(
            name,
            CHECKS[name],
            Verdict.FINDING if faults else verdict,
            "; ".join(reasons) or note,
            max(self._means(name).values()),
            max(self.share(*pair) for pair in judged),
            len(judged),
            tuple(example_of(job, outcome, self.problems) for job, outcome in examples),
            faulty=bool(faults),
        )

    def form_result(self) -> ProbeResult:
        """The base line."""
        if self.form_share > FORM_LIMIT:
            reason = f"a wrong answer earns {self.form_share:.0%} of the full score"
            return self._result("form", [reason], Verdict.FINDING)
        return self._result("form", [], Verdict.PASS)

    def constant_result(self) -> ProbeResult:
        """The best answer that does not look at the question."""
        n = len(self.problems)
        undeserved: dict[str, float] = defaultdict(float)
        deserved: dict[str, float] = defaultdict(float)
        for job, outcome in self.of["constant"]:
            if same_answer(job.variant, self.problems[job.index].reference_answer):
                deserved[job.variant] += 1 / n
            else:
                undeserved[job.variant] += self.excess(job, outcome) / n
        means = self._means("constant")
        if not means:
            return self._result("constant", [], Verdict.NOT_POSED)
        worst = max(undeserved, key=lambda answer: undeserved[answer], default="")
        if undeserved[worst] > 0:
            reason = (
                f"{worst!r} earns {means[worst]:.0%} of the full score, and is the answer of {deserved[worst]:.0%} of "
                "the problems"
            )
            verdict = Verdict.FINDING if undeserved[worst] > CHANCE else Verdict.WARNING
            return self._result("constant", [reason], verdict, shown=worst)
        common = max(deserved, key=lambda answer: deserved[answer], default="")
        if deserved[common] > FORM_LIMIT and n > 1:
            reason = f"{common!r} is the answer of {deserved[common]:.0%} of the problems"
            return self._result("constant", [reason], Verdict.WARNING, shown=common)
        best = max(means, key=lambda answer: means[answer])
        note = f"the best, {best!r}, is the answer of {deserved[best]:.0%} of the problems" if means[best] > 0 else ""
        return self._result("constant", [], Verdict.PASS, note, shown=best)

    def probe_result(self, probe: Probe) -> ProbeResult:
        """Whether a probe pays."""
        judged = self.of[probe.name]
        if probe.rule is Rule.REPORTED:
            variants: dict[str, list[str]] = defaultdict(list)
            for variant, share in self._means(probe.name).items():
                variants[f"{share:.0%}"].append(variant)
            note = "; ".join(f"{share}: {', '.join(of)}" for share, of in variants.items())
            return self._result(probe.name, [], Verdict.REPORTED, note)
        excess: dict[str, list[float]] = defaultdict(list)
        if probe.rule is Rule.IN_ANY_PLACE:
            places: dict[tuple[str, int], list[float]] = defaultdict(list)
            for job, outcome in judged:
                places[job.variant, job.index].append(self.excess(job, outcome))
            for (variant, _), of in places.items():
                excess[variant].append(min(of) if len(of) > 1 else 0.0)
        else:
            for job, outcome in judged:
                excess[job.variant].append(self.excess(job, outcome))
        means = {variant: math.fsum(of) / len(of) for variant, of in excess.items()}
        paid = [variant for variant in means if means[variant] > 0]
        if not paid:
            return self._result(probe.name, [], Verdict.PASS)
        worst = max(paid, key=lambda variant: means[variant])
        reason = f"{worst!r} pays {means[worst]:.0%} of the full score above the base line"
        if len(paid) > 1:
            reason += f", and {len(paid) - 1} more of {len(means)} variants pay"
        finding = probe.rule is not Rule.BY_CHANCE or means[worst] > CHANCE
        return self._result(probe.name, [reason], Verdict.FINDING if finding else Verdict.WARNING, shown=worst)

    def posed_result(self, n_jobs: int) -> ProbeResult:
        """Whether enough of the responses were judged as they were posed."""
        heavy = {probe.name for probe in PROBES if probe.heavy}
        light = [outcome for job, outcome in self.judged if job.probe not in heavy]
        posed = sum(not outcome.cut for outcome in light)
        reason, verdict = f"{posed} of {len(light)}, without the longest", Verdict.PASS
        if posed < ENOUGH * len(light):
            budgets = "; ".join(sorted({outcome.left_out for outcome in light if outcome.cut}))
            reason, verdict = f"only {posed} of {len(light)} were, the others {budgets}", Verdict.FINDING
        if not light:
            reason, verdict = "no reference answer got a score", Verdict.NOT_POSED
        return ProbeResult("posed", CHECKS["posed"], verdict, reason, n_responses=n_jobs)

    def range_result(self) -> ProbeResult:
        """Whether all scores are finite numbers."""
        scores = [outcome.score for _, outcome in self.all if outcome.score is not None]
        wrong = [pair for pair in self.all if pair[1].score is not None and not math.isfinite(pair[1].score)]
        wrong += [pair for pair in self.all if pair[1].fault.startswith("returned ")]
        finite = [score for score in scores if math.isfinite(score)]
        span = f"from {min(finite):g} to {max(finite):g}" if finite else ""
        return ProbeResult(
            "range",
            CHECKS["range"],
            Verdict.FINDING if wrong else Verdict.PASS,
            f"{len(wrong)} scores are no finite number" if wrong else span,
            n_responses=len(self.all),
            examples=tuple(example_of(job, outcome, self.problems) for job, outcome in wrong[:3]),
            faulty=bool(wrong),
        )

    def components_result(self) -> ProbeResult:
        """Whether the parts of the reward sum to it."""
        with_parts = [pair for pair in self.all if pair[1].components and score_of(pair[1]) is not None]
        if not with_parts:
            return ProbeResult("components", CHECKS["components"], Verdict.NOT_POSED, "the scorer names no parts")
        wrong = [
            (job, outcome)
            for job, outcome in with_parts
            if not math.isclose(
                math.fsum(outcome.components.values()), outcome.score or 0.0, rel_tol=1e-9, abs_tol=1e-9
            )
        ]
        return ProbeResult(
            "components",
            CHECKS["components"],
            Verdict.FINDING if wrong else Verdict.PASS,
            f"{len(wrong)} of {len(with_parts)} rewards are not the sum of their parts" if wrong else "",
            n_responses=len(with_parts),
            examples=tuple(example_of(job, outcome, self.problems) for job, outcome in wrong[:3]),
        )

    def notes(self, jobs: Sequence[Job]) -> list[str]:
        """What could not be posed."""
        probes: dict[str, set[str]] = defaultdict(set)
        counts: dict[str, int] = defaultdict(int)
        for job, outcome in self.all:
            if outcome.left_out:
                probes[outcome.left_out].add(job.probe)
                counts[outcome.left_out] += 1
        notes = []
        for reason in sorted(counts):
            names = sorted(probes[reason])
            of = ", ".join(names) if len(names) <= 5 else f"of {len(names)} checks"
            notes.append(f"{counts[reason]} of {len(self.all)} responses {reason} ({of})")
        if len(self.judged) < len(jobs):
            missing = len(jobs) - len(self.judged)
            notes.append(f"{missing} responses were left out, after {MAX_HANGS} of their probe had no score in time")
        return notes


def _sums_to(parts: Iterable[float], total: float) -> bool:
    return math.isclose(math.fsum(parts), total, rel_tol=1e-9, abs_tol=1e-9)


def _fault_reasons(judged: Sequence[tuple[Job, Outcome]]) -> list[str]:
    """What went wrong, each kind once."""
    kinds: dict[str, list[Outcome]] = defaultdict(list)
    for _, outcome in judged:
        if outcome.fault:
            kinds[outcome.fault.partition(":")[0]].append(outcome)
        elif outcome.seconds > SLOW:
            kinds["slow"].append(outcome)
    reasons = [f"{kind} ({len(of)} of {len(judged)})" for kind, of in kinds.items() if kind != "slow"]
    if "slow" in kinds:
        slowest = max(outcome.seconds for outcome in kinds["slow"])
        reasons.append(f"took up to {slowest:.1f} s ({len(kinds['slow'])} of {len(judged)} over {SLOW:g} s)")
    return reasons


def _found(result: ProbeResult, reason: str) -> ProbeResult:
    reasons = "; ".join(filter(None, [reason, result.reason]))
    return replace(result, verdict=Verdict.FINDING, reason=reasons, faulty=True)


def _by_design(result: ProbeResult, declared: Mapping[str, str]) -> ProbeResult:
    """A payment that the environment declares is no finding; that something goes wrong cannot be declared."""
    if result.faulty or result.name not in declared or result.verdict not in (Verdict.FINDING, Verdict.WARNING):
        return result
    return replace(result, verdict=Verdict.BY_DESIGN, reason=f"{declared[result.name]} ({result.reason})")
