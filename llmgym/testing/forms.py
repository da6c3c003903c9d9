"""The forms in which an answer can be given, and answers: which are the same, which are tried whatever the question."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from llmgym.rewards import answers_equal
from llmgym.rewards.arithmetic import evaluate
from llmgym.tasks import Problem

#: What stands for thinking: no letters, so that it is in every language.
THOUGHT = "..."
#: Answers that answer nothing: what they earn in the right form is earned by the form.
WRONG_ANSWERS = ("-90817.2635", "zzyzx", "(90817, -2635, 7)")


# --- Forms ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Form:
    """A way to give an answer.

    Attributes:
        name: What to call it.
        template: A text with ``{answer}``, and maybe ``{thought}``, in it.
    """

    name: str
    template: str

    def write(self, answer: str, thought: str = THOUGHT) -> str:
        """A response with the answer in this form.

        >>> Form("boxed", r"\\boxed{{answer}}").write("42")
        '\\\\boxed{42}'
        """
        return self.template.replace("{thought}", thought).replace("{answer}", answer)


#: Of forms that pay alike the first is used: the one with a place for everything.
FORMS: tuple[Form, ...] = (
    Form("think and answer tags", "<think>{thought}</think><answer>{answer}</answer>"),
    Form("think and answer tags on lines", "<think>\n{thought}\n</think>\n<answer>\n{answer}\n</answer>"),
    Form("answer tags after open thinking", "{thought}</think><answer>{answer}</answer>"),
    Form("answer tags", "<answer>{answer}</answer>"),
    Form("box after thinking", "<think>{thought}</think>\\boxed{{answer}}"),
    Form("box", "\\boxed{{answer}}"),
    Form("hashes", "{thought}\n#### {answer}"),
    Form("sentence", "The answer is {answer}."),
    Form("label", "Answer: {answer}"),
    Form("box in a formula", "$\\boxed{{answer}}$"),
    Form("bold", "**{answer}**"),
    Form("bare", "{answer}"),
    Form("bare and a blank", "{answer} "),
    Form("code block", "```\n{answer}\n```"),
    Form("JSON", '{"answer": "{answer}"}'),
)


# --- Answers ----------------------------------------------------------------------------------------------------------


def same_answer(left: str, right: str) -> bool:
    r"""Whether two answers are plainly the same: one text but for case, space and dress, or one number.

    >>> same_answer("0.50", r"\frac{1}{2}"), same_answer(r"\text{(C)}", "c"), same_answer("2", "3")
    (True, True, False)
    """
    left, right = _undressed(left), _undressed(right)
    value = number(left)
    return left == right or (value is not None and value == number(right))


_DRESS = re.compile(r"\\(?:text|mathrm|mathbf|textbf|left|right|boxed|[,;!: ])|[$\s]")
_FRACTION = re.compile(r"\\[dt]?frac\{?(\d+)\}?\{?(\d+)\}?")


def _undressed(answer: str) -> str:
    """An answer without the commands and brackets around it, so that what is left can be laid beside another."""
    bare = _FRACTION.sub(r"\1/\2", _DRESS.sub("", answer.casefold()))
    return bare.strip("{}().") or bare


def number(text: str) -> Fraction | None:
    """The value of a plain number or fraction; ``None`` for anything else."""
    return evaluate(text) if re.fullmatch(r"\s*[-+−]?[0-9][0-9.,/]{0,40}\s*", text) else None


def is_right(answer: str, problem: Problem) -> bool:
    """Whether an answer is right for all that is known: it equals the reference answer, or the problem accepts it.

    >>> is_right("0.50", Problem("?", "1/2", "p")), is_right("2", Problem("?", "1/2", "p"))
    (True, False)
    """
    if same_answer(answer, problem.reference_answer) or answers_equal(answer, problem.reference_answer):
        return True
    try:
        return problem.accepts is not None and problem.accepts(answer)
    except Exception:  # noqa: BLE001 - that it raises shows when the answer is posed
        return False


def commonest_answers(problems: Sequence[Problem], n: int) -> list[str]:
    """The ``n`` reference answers that most of the problems have."""
    return [answer for answer, _ in Counter(problem.reference_answer for problem in problems).most_common(n)]


#: Candidates for an answer that is paid whatever the question, beside the problems' own.
CONSTANTS: tuple[str, ...] = (
    *map(str, range(11)),
    *("-1", "42", "100", "1000", "0.0", "0.5", "1/2"),
    *("true", "false", "yes", "no", "True", "False", "Yes", "No", "A", "B", "C", "D", "E", "a", "x"),
    *("[]", "{}", "()", "[0]", "[[]]", '""', "None", "null", "nan", "NaN", "inf", "-inf", "undefined", "error"),
    *(
        "I don't know",
        "unknown",
        "no solution",
        "none of the above",
        "\\boxed{}",
        "\\text{}",
        "6*4*1*1",
        "1+1",
        "x=x",
        "0=0",
    ),
    *(".", ",", "-", "*", ".*", "%", "$", "?", "…", "_", "()()", "a b c", "1 2 3", "1, 2, 3", "\\pm", "\\infty"),
)
