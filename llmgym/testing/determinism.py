"""Whether a scorer says the same whenever, wherever and in whatever order it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from llmgym.tasks import Problem
from llmgym.testing.probes import PROBES
from llmgym.testing.report import CHECKS, ProbeResult, Verdict, example_of
from llmgym.testing.workers import SLOW, FreshInterpreter, Job, Outcome, Scorer, run, why_not_picklable

#: Problems whose responses are judged again.
_SAMPLED_PROBLEMS = 2
_HASH_SEEDS = (1, 2)


def ask_again(
    scorer: Scorer,
    problems: Sequence[Problem],
    judged: Sequence[tuple[Job, Outcome]],
    deadline: float,
    *,
    beside: Scorer | None,
    reordered: Sequence[Scorer],
    not_reordered: str,
) -> list[ProbeResult]:
    """The same responses again: in other processes, in a thread, under other hash seeds, in another order of rewards.

    Args:
        scorer: The scorer.
        problems: The problems.
        judged: Responses with what became of them before. Those to the first problems are asked again, unless they were
            very long, cut, slow or had no score.
        deadline: Seconds for each response.
        beside: The scorer for a second thread; ``None`` where there cannot be one.
        reordered: The same scorer with its rewards in other orders.
        not_reordered: Why there are none.
    """
    heavy = {probe.name for probe in PROBES if probe.heavy}
    sample = [
        (job, outcome)
        for job, outcome in judged
        if job.index < _SAMPLED_PROBLEMS
        and job.probe not in heavy
        and not (outcome.fault or outcome.cut or outcome.seconds > SLOW)
    ]
    jobs = [job for job, _ in sample]
    expected = [outcome for _, outcome in sample]
    unpicklable = why_not_picklable(scorer)
    compare = _Comparison(jobs, problems)
    with ExitStack() as stack:
        seeds = () if unpicklable or not jobs else _HASH_SEEDS
        fresh = [stack.enter_context(FreshInterpreter(scorer, jobs, problems, seed)) for seed in seeds]
        # Backwards first, then once more forwards: what a scorer keeps from call to call shows.
        twice = run(scorer, [*reversed(jobs), *jobs], problems, deadline=deadline)
        threaded = run(scorer, jobs, problems, deadline=deadline, thread=True, beside=beside)
        hashed = _hash_seed_result(compare, expected, fresh, unpicklable, deadline)
    backwards, forwards = twice[: len(jobs)][::-1], twice[len(jobs) :]
    results = [
        compare.result("repeat", backwards, forwards),
        compare.result("process", expected, backwards),
        compare.result("thread", expected, threaded),
        hashed,
        ProbeResult(
            "pickling", CHECKS["pickling"], Verdict.WARNING if unpicklable else Verdict.PASS, unpicklable[:120]
        ),
    ]
    if reordered:
        others = [run(other, jobs, problems, deadline=deadline) for other in reordered]
        results.append(compare.result("order", expected * len(others), [o for of in others for o in of]))
    else:
        results.append(ProbeResult("order", CHECKS["order"], Verdict.NOT_POSED, not_reordered))
    return results


def _hash_seed_result(
    compare: _Comparison,
    expected: Sequence[Outcome],
    fresh: Sequence[FreshInterpreter],
    unpicklable: str,
    deadline: float,
) -> ProbeResult:
    # Every response was judged within the deadline before, and the slowest tells how busy the machine is.
    patience = deadline + 10 * max((outcome.seconds for outcome in expected), default=0.0)
    answers = [interpreter.wait(patience) for interpreter in fresh]
    not_loaded = next((answer.not_loaded for answer in answers if answer.not_loaded), unpicklable)
    if not_loaded and not any(answer.fault for answer in answers):
        reason = f"a fresh interpreter cannot load the scorer: {not_loaded[:120]}"
        return ProbeResult("hash_seed", CHECKS["hash_seed"], Verdict.NOT_POSED, reason)
    actual: list[Outcome | None] = []
    for answer in answers:
        row = [*answer.outcomes, *([Outcome(fault=answer.fault)] if answer.fault else [])]
        actual += [*row, *[None] * (len(expected) - len(row))]
    return compare.result("hash_seed", [*expected] * len(answers), actual)


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Outcomes of the same jobs, side by side."""

    jobs: Sequence[Job]
    problems: Sequence[Problem]

    def result(self, name: str, expected: Sequence[Outcome | None], actual: Sequence[Outcome | None]) -> ProbeResult:
        """A finding where any two differ."""
        jobs = [self.jobs[i % len(self.jobs)] for i in range(len(actual))]
        differ = [
            (job, there)
            for job, here, there in zip(jobs, expected, actual, strict=True)
            if here is not None and there is not None and not here.agrees(there)
        ]
        faults = list(dict.fromkeys(there.fault for _, there in differ if there.fault))
        reason = f"{len(differ)} of {len(actual)} scores differ" if differ else ""
        if faults:
            reason += f": {'; '.join(faults[:3])}"
        return ProbeResult(
            name,
            CHECKS[name],
            Verdict.FINDING if differ else Verdict.PASS if actual else Verdict.NOT_POSED,
            reason,
            n_responses=len(actual),
            examples=tuple(example_of(job, outcome, self.problems) for job, outcome in differ[:3]),
            faulty=bool(faults),
        )
