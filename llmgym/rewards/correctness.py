"""Is the answer right?"""

from __future__ import annotations

from collections.abc import Sequence

from llmgym.rewards.base import JudgedReward, Judgement
from llmgym.rewards.comparison.verdicts import Leniency
from llmgym.rewards.extraction.rules import Rule, check_rules, extract
from llmgym.rewards.format import with_opening_tag
from llmgym.rewards.verifier import judge_answer
from llmgym.transcript import Transcript


class CorrectnessReward(JudgedReward):
    """1 where the response gives the right answer, else 0.

    A problem with its own ``accepts`` decides on the answer read from the response; otherwise the answer has to equal
    the problem's reference answer (:func:`llmgym.rewards.verify`).

    Details: ``"verdict"`` (``"correct"``, ``"incorrect"`` or ``"unverifiable"``, which is paid 0), ``"reason"``, and
    ``"rule"``, the rule of extraction that fired (``""`` for none).

    Args:
        rules: Rules of extraction that count, such as ``["answer_tag", "boxed"]``; ``None`` for all.
        allow_unevaluated: Whether an expression that has still to be worked out counts, such as ``17*23`` for ``391``.
        convert_units: Whether another unit of the same dimension counts.
        convert_bases: Whether the same number in another base counts.
        ratio_as_fraction: Whether a ratio counts as its quotient.
        ignore_brackets: Whether brackets around several values are passed over.
        rel_tol: Largest relative difference that is forgiven.
        abs_tol: Largest difference that is forgiven.
        use_sympy: Whether SymPy is asked where our evaluation cannot decide.
    """

    name = "correctness"

    def __init__(
        self,
        allow_unevaluated: bool = False,
        rules: Sequence[Rule] | None = None,
        convert_units: bool = False,
        convert_bases: bool = False,
        ratio_as_fraction: bool = False,
        ignore_brackets: bool = False,
        rel_tol: float = 0.0,
        abs_tol: float = 0.0,
        use_sympy: bool = False,
    ) -> None:
        self.rules = None if rules is None else check_rules(rules)
        self.leniency = Leniency(
            allow_unevaluated=allow_unevaluated,
            convert_units=convert_units,
            convert_bases=convert_bases,
            ratio_as_fraction=ratio_as_fraction,
            ignore_brackets=ignore_brackets,
            rel_tol=rel_tol,
            abs_tol=abs_tol,
            use_sympy=use_sympy,
        )

    def judge(self, transcript: Transcript) -> Judgement:
        """1.0 for a right answer, 0.0 for a wrong one, none, or one that nobody can verify."""
        response = with_opening_tag(transcript)
        problem = transcript.problem
        if problem.accepts is None:
            verdict = judge_answer(response, problem.reference_answer, self.rules, self.leniency)
            return _judgement(verdict.correct, verdict.status.value, verdict.reason, verdict.rule)
        extraction = extract(response, rules=self.rules)
        if extraction.text is None:
            return _judgement(False, "incorrect", extraction.reason, extraction.rule)
        accepted = problem.accepts(extraction.text)
        verdict_name, reason = ("correct", "accepted") if accepted else ("incorrect", "not_accepted")
        return _judgement(accepted, verdict_name, reason, extraction.rule)


def _judgement(correct: bool, verdict: str, reason: str, rule: Rule | None) -> Judgement:
    return Judgement(float(correct), {"verdict": verdict, "reason": reason, "rule": rule or ""})
