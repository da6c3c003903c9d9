"""The verifier and the format as plain reward functions, with the signature that TRL's trainers call.

``GRPOTrainer(..., reward_funcs=[correctness_reward, format_reward])`` takes them as they are: they get the completions
as a list (texts, or lists of chat messages), every column of the data set as a keyword, and give a list of floats.
``None`` leaves a completion out: an answer that nobody can verify is neither right nor wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from llmgym.errors import InvalidOptionError
from llmgym.rewards.comparison.verdicts import Status
from llmgym.rewards.extraction.rules import extract
from llmgym.rewards.tags import check_tags
from llmgym.rewards.verifier import judge_batch

#: A text, or chat messages: ``[{"role": "assistant", "content": "..."}]``.
Completion: TypeAlias = str | Sequence[Mapping[str, Any]]
#: Columns of a data set that may hold the reference answers; the first that is there counts.
REFERENCE_COLUMNS = ("reference_answer", "answer", "solution")


def correctness_reward(
    completions: Sequence[Completion],
    prompts: Sequence[Completion] | None = None,
    *,
    log_extra: Callable[[str, list[Any]], None] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Any,
) -> list[float | None]:
    r"""1 for each right completion, 0 for a wrong one, ``None`` where nobody could tell.

    Args:
        completions: What the model wrote.
        prompts: What it was given; a ``<think>`` that ends a prompt counts as the completion's.
        log_extra: Called with ``"verdict"``, ``"verdict_reason"``, ``"extraction_rule"`` and ``"extracted_answer"``, a
            list each. Trainers pass it.
        log_metric: Called with ``"correctness/correct"`` and ``"correctness/unverifiable"``, shares in [0, 1].
        columns: The columns of the data set. One of ``reference_answer``, ``answer`` or ``solution`` holds the right
            answers; a worked solution counts by its last ``\boxed{}``, ``####`` or ``<answer>``.

    Raises:
        InvalidOptionError: If no such column is there, or it has another length.

    Example:
        >>> correctness_reward(["so \\boxed{42}", "41"], answer=["6*7=42\n#### 42", "42"])
        [1.0, 0.0]
    """
    references = _references(columns)
    responses = _responses(completions, prompts)
    verdicts = judge_batch(responses, references)
    if log_extra is not None:
        log_extra("verdict", [verdict.status.value for verdict in verdicts])
        log_extra("verdict_reason", [verdict.reason for verdict in verdicts])
        log_extra("extraction_rule", [verdict.rule or "" for verdict in verdicts])
        log_extra("extracted_answer", [verdict.extracted_answer or "" for verdict in verdicts])
    unverifiable = [verdict.status is Status.UNVERIFIABLE for verdict in verdicts]
    if log_metric is not None and verdicts:
        log_metric("correctness/correct", sum(verdict.correct for verdict in verdicts) / len(verdicts))
        log_metric("correctness/unverifiable", sum(unverifiable) / len(verdicts))
    return [
        None if unknown else float(verdict.correct) for verdict, unknown in zip(verdicts, unverifiable, strict=True)
    ]


def format_reward(
    completions: Sequence[Completion],
    prompts: Sequence[Completion] | None = None,
    *,
    log_extra: Callable[[str, list[Any]], None] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Any,
) -> list[float]:
    """1 for each completion that is ``<think>…</think><answer>…</answer>`` throughout, else 0.

    Args:
        completions: What the model wrote.
        prompts: What it was given; a ``<think>`` that ends a prompt counts as the completion's.
        log_extra: Called with ``"format_problems"``: names of what is wrong, joined by commas.
        log_metric: Called with ``"format/met"``, a share in [0, 1].
        columns: The columns of the data set; not used.

    Example:
        >>> format_reward(["<think>6*7</think><answer>42</answer>", "42"])
        [1.0, 0.0]
    """
    reports = [check_tags(response) for response in _responses(completions, prompts)]
    if log_extra is not None:
        log_extra("format_problems", [", ".join(report.problems) for report in reports])
    if log_metric is not None and reports:
        log_metric("format/met", sum(report.is_met for report in reports) / len(reports))
    return [float(report.is_met) for report in reports]


def _responses(completions: Sequence[Completion], prompts: Sequence[Completion] | None) -> list[str]:
    responses = [_text(completion) for completion in completions]
    if prompts is not None:
        if len(prompts) != len(responses):
            raise InvalidOptionError(
                f"Expected one prompt for each of {len(responses)} completions, actual: {len(prompts)}. Repeat them."
            )
        opened = [_text(prompt).rstrip().endswith("<think>") for prompt in prompts]
        responses = ["<think>" * was + response for was, response in zip(opened, responses, strict=True)]
    return responses


def _text(completion: Completion) -> str:
    """The text of a completion; of several messages, that of the last one."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else None
    if isinstance(content, str) or content is None:
        return content or ""
    return "".join(part.get("text") or "" for part in content)  # parts of a message with pictures


def _references(columns: Mapping[str, Any]) -> list[str]:
    for name in REFERENCE_COLUMNS:
        if columns.get(name) is not None:
            return [_reference(answer) for answer in columns[name]]
    raise InvalidOptionError(
        f"Expected a column of the data set with the right answers ({', '.join(REFERENCE_COLUMNS)}), actual: "
        f"{', '.join(columns) or 'no columns'}. Rename yours to reference_answer."
    )


def _reference(answer: Any) -> str:
    """The right answer as text; of a worked solution, what it marks as its answer."""
    is_number = isinstance(answer, int | float) and not isinstance(answer, bool) and math.isfinite(answer)
    if not isinstance(answer, str) and not is_number:
        raise InvalidOptionError(
            f"Expected each right answer to be a str or a finite number, actual: {answer!r}. Write several values as "
            'one text, such as "1, 2", and drop rows without an answer.'
        )
    text = str(answer)
    marked = extract(text, rules=("answer_tag", "boxed", "hashes")).text
    return text if marked is None else marked
