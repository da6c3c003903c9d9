"""Is the answer in a response right? Extraction and comparison put together; every name here is safe on any text.

:func:`verify` says yes or no, :func:`judge` also why, and whether it could tell at all. Nothing in a response is ever
run, and time and memory are bounded by construction, so that any thread or process may call them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from llmgym.errors import InvalidOptionError
from llmgym.rewards.comparison.answers import Reference, compare, make_leniency
from llmgym.rewards.comparison.verdicts import Leniency, Status
from llmgym.rewards.extraction.rules import Rule, check_rules, extract


class Verdict(NamedTuple):
    """Whether a response is right, and why.

    Attributes:
        status: Correct, incorrect, or unverifiable: nobody could tell.
        reason: A stable word: of the comparison, such as ``"same_value"``, or of the extraction where there was no
            answer, such as ``"no_answer"``.
        rule: The rule of extraction that fired; ``None`` where none did.
        extracted_answer: The answer as text; ``None`` where there is none.
    """

    status: Status
    reason: str
    rule: Rule | None
    extracted_answer: str | None

    @property
    def correct(self) -> bool:
        """Whether the answer is right beyond doubt."""
        return self.status is Status.CORRECT


class Verifier:
    """Judges responses against one reference answer, which is parsed once.

    Args:
        reference_answer: The right answer.
        rules: Rules of extraction that count, see :func:`llmgym.rewards.extraction.rules.extract`; ``None`` for all.
        leniency: Fields of :class:`llmgym.rewards.Leniency`: what is forgiven.

    Raises:
        InvalidOptionError: If there is no such rule or leniency.

    Example:
        >>> verifier = Verifier("3/4", rules=["boxed"])
        >>> verifier(r"so \\boxed{0.75}"), verifier("so it is 0.75")
        (True, False)
    """

    def __init__(self, reference_answer: str, *, rules: Collection[Rule] | None = None, **leniency: Any) -> None:
        self.reference_answer = reference_answer
        self.rules = None if rules is None else check_rules(rules)
        self.leniency = make_leniency(leniency)
        self._reference = Reference(reference_answer)

    def judge(self, response: str) -> Verdict:
        """The verdict on a response."""
        return judge_answer(response, self._reference, self.rules, self.leniency)

    def __call__(self, response: str) -> bool:
        """Whether the response gives the right answer."""
        return self.judge(response).correct

    def __repr__(self) -> str:
        return f"Verifier({self.reference_answer!r}, rules={self.rules!r}, leniency={self.leniency!r})"


def judge(response: str, reference_answer: str, *, rules: Collection[Rule] | None = None, **leniency: Any) -> Verdict:
    """The verdict on a response.

    Args:
        response: All the agent wrote.
        reference_answer: The right answer.
        rules: Rules of extraction that count, see :func:`llmgym.rewards.extraction.rules.extract`; ``None`` for all.
        leniency: Fields of :class:`llmgym.rewards.Leniency`: what is forgiven.

    Raises:
        InvalidOptionError: If there is no such rule or leniency.

    Example:
        >>> verdict = judge("6*7 = 42, so the answer is 42 apples.", "42")
        >>> verdict.status.value, verdict.rule, verdict.extracted_answer
        ('correct', 'phrase', '42 apples')
        >>> judge("<think>6*7 = 42", "42").reason
        'unclosed_thinking'
    """
    checked = None if rules is None else check_rules(rules)
    return judge_answer(response, reference_answer, checked, make_leniency(leniency))


def verify(response: str, reference_answer: str, *, rules: Collection[Rule] | None = None, **leniency: Any) -> bool:
    """Whether the response gives the right answer; False where nobody could tell. Arguments: :func:`judge`.

    Example:
        >>> verify("<think>17*23 = 391</think><answer>391</answer>", "391")
        True
        >>> verify("17*23", "391"), verify("41 or 42", "42"), verify("It is 0.75.", "3/4")
        (False, False, True)
        >>> verify("17*23", "391", allow_unevaluated=True)
        True
    """
    return judge(response, reference_answer, rules=rules, **leniency).correct


def judge_batch(
    responses: Sequence[str],
    reference_answers: Sequence[str],
    *,
    rules: Collection[Rule] | None = None,
    **leniency: Any,
) -> list[Verdict]:
    """The verdicts on several responses, each against its reference answer; equal references are parsed once.

    Raises:
        InvalidOptionError: If there are not as many responses as references, or no such rule or leniency.

    Example:
        >>> [verdict.correct for verdict in judge_batch(["4", "5", "6"], ["4", "4", "6"])]
        [True, False, True]
    """
    if len(responses) != len(reference_answers):
        raise InvalidOptionError(
            f"Expected one reference answer for each response, actual: {len(reference_answers)} for "
            f"{len(responses)} responses. Repeat those that several responses share."
        )
    checked = None if rules is None else check_rules(rules)
    forgiven = make_leniency(leniency)
    references = {text: Reference(text) for text in dict.fromkeys(reference_answers)}
    return [
        judge_answer(response, references[reference], checked, forgiven)
        for response, reference in zip(responses, reference_answers, strict=True)
    ]


def judge_answer(
    response: str, reference: str | Reference, rules: tuple[Rule, ...] | None, leniency: Leniency
) -> Verdict:
    """:func:`judge` with options that were checked before; references given as text are read once and kept a while."""
    extraction = extract(response, rules=rules)
    answer = extraction.text
    if answer is None:
        return Verdict(Status.INCORRECT, extraction.reason, extraction.rule, None)
    match = compare(answer, reference, leniency)
    return Verdict(match.status, match.reason, extraction.rule, answer)
