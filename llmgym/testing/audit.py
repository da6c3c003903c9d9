"""What could a policy get from a reward without solving anything?

:func:`audit` asks it of an environment, :func:`audit_reward` of any function that scores a response. What is posed is
in :mod:`llmgym.testing.probes`, what the scores mean in :mod:`llmgym.testing.verdicts`; how an environment is asked is
in :mod:`llmgym.testing.environments`. Responses are judged in a process that can be killed
(:mod:`llmgym.testing.workers`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from llmgym.core import parse_problem
from llmgym.errors import InvalidOptionError
from llmgym.tasks import Problem
from llmgym.testing.environments import AskedEnv
from llmgym.testing.report import AuditReport
from llmgym.testing.verdicts import Subject, examine


def audit(
    env: str | gym.Env[Any, Any],
    *,
    n_problems: int = 20,
    seed: int = 0,
    deadline: float = 5.0,
    form: str = "",
    **env_kwargs: Any,
) -> AuditReport:
    """Audit the reward of an environment.

    Args:
        env: Id of a language environment, of ours or not (``module:id`` imports the module that registers it); or a
            language environment made with ``action_unit="response"``, wrapped or not. Also an environment of another
            package, by id or made, if its actions are texts (``gymnasium.spaces.Text``), its ``reset(seed=...)``
            poses the same problem for the same seed, and the info of ``reset`` has the texts ``"question"`` and
            ``"reference_answer"``.
        n_problems: Problems to try, drawn with ``reset``.
        seed: Of the problems and of what is random in the probes.
        deadline: Seconds after which a response is given up.
        form: Text with {answer} in it: how the environment wants an answer; empty: the usual forms are tried.
        env_kwargs: Keyword arguments of the environment. Where they set no budgets, those of a language environment
            are raised to :data:`~llmgym.testing.environments.BUDGETS`.

    Returns:
        What each probe was paid, and whether that is right.

    Raises:
        InvalidOptionError: If the id or an argument is unknown.
        WrongEnvironmentError: If it is no such environment.

    Example:
        >>> from llmgym.core import LanguageEnv
        >>> from llmgym.testing import SumTask, audit, tiny_tokenizer
        >>> env = LanguageEnv(SumTask(), action_unit="response", tokenizer=tiny_tokenizer(), max_new_tokens=4096)
        >>> report = audit(env, n_problems=3)
        >>> report.passed, report["listed"].max
        (True, 0.0)
    """
    if n_problems < 1:
        raise InvalidOptionError(f"Expected `n_problems` >= 1, actual: {n_problems}. Raise it.")
    asked = AskedEnv(env, env_kwargs, n_problems, seed)
    subject = Subject(
        name=asked.name,
        settings={
            "env_kwargs": asked.env_kwargs,
            "n_problems": n_problems,
            "seed": seed,
            "deadline": deadline,
            "form": form,
        },
        scorer=asked.scorer,
        problems=asked.problems,
        by_design=asked.by_design,
        beside=asked.beside,
        reordered=asked.reordered,
        not_reordered=asked.not_reordered,
    )
    return examine(subject, seed=seed, deadline=deadline, form=form)


def audit_reward(
    reward: Callable[..., Any],
    problems: Sequence[Problem | Mapping[str, Any]],
    *,
    name: str = "",
    seed: int = 0,
    deadline: float = 5.0,
    form: str = "",
    by_design: Mapping[str, str] | None = None,
) -> AuditReport:
    """Audit a function that scores responses.

    Args:
        reward: ``reward(response, problem) -> score``, with the problem a :class:`~llmgym.tasks.Problem`; or, known by
            its parameter ``completions``, a reward function as TRL takes it, see :class:`TRLScorer`. A closure will do
            where the platform can fork a process.
        problems: The problems to try: each a :class:`~llmgym.tasks.Problem`, or a dict with ``"question"`` and
            ``"answer"``.
        name: What to call it in the report; empty: the function's own name.
        seed: Of what is random in the probes.
        deadline: Seconds after which a response is given up.
        form: Text with ``{answer}`` in it: how an answer has to be given; empty: the usual forms are tried.
        by_design: Name of a check -> why it may pay.

    Returns:
        What each probe was paid, and whether that is right.

    Raises:
        InvalidOptionError: If an argument is not valid.

    Example:
        >>> from llmgym.testing import audit_reward
        >>> def generous(response, problem):
        ...     return 1.0 if problem.reference_answer in response else 0.0
        >>> problems = [{"question": f"What is {n}*{n}?", "answer": str(n * n)} for n in range(11, 21)]
        >>> report = audit_reward(generous, problems)
        >>> [result.name for result in report.findings]
        ['near', 'listed', 'hedged', 'several', 'negated', 'hidden']
    """
    parsed = [parse_problem(problem) for problem in problems]
    scorer = TRLScorer(reward) if _is_trl(reward) else reward
    title = name or getattr(reward, "__name__", type(reward).__name__)
    subject = Subject(
        name=title,
        settings={"n_problems": len(parsed), "seed": seed, "deadline": deadline, "form": form},
        scorer=scorer,
        problems=[problem for problem in parsed if problem is not None],
        by_design=by_design or {},
        beside=scorer,
    )
    return examine(subject, seed=seed, deadline=deadline, form=form)


# --- Reward functions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TRLScorer:
    """A reward function in TRL's form as a scorer of one response.

    TRL calls ``reward(completions=[...], prompts=[...], **columns)``, the columns being those of the data set. Here
    they are ``reference_answer``, ``answer``, ``solution`` and ``ground_truth``, each of them the reference answer.

    Args:
        reward: The function.
        conversational: Whether it wants chats, a list of messages each, in place of texts.
    """

    reward: Callable[..., Any]
    conversational: bool = False

    def __call__(self, response: str, problem: Problem) -> float:
        """The score of one response."""
        prompt: Any = problem.question
        completion: Any = response
        if self.conversational:
            prompt = [{"role": "user", "content": prompt}]
            completion = [{"role": "assistant", "content": completion}]
        answer = problem.reference_answer
        columns = {
            "prompts": [prompt],
            **{name: [answer] for name in ("reference_answer", "answer", "solution", "ground_truth")},
        }
        parameters = inspect.signature(self.reward).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            columns = {column: values for column, values in columns.items() if column in parameters}
        scores = self.reward(completions=[completion], **columns)
        (score,) = scores
        return score  # type: ignore[no-any-return]  # the worker checks what it is


def _is_trl(reward: Callable[..., Any]) -> bool:
    try:
        return "completions" in inspect.signature(reward).parameters
    except (TypeError, ValueError):  # written in C: it does not tell
        return False
