"""What could a policy get from a reward without solving anything?

:func:`audit` asks it of an environment, :func:`audit_reward` of any function that scores a response. What is posed is
in :mod:`llmgym.testing.probes`, what the scores mean in :mod:`llmgym.testing.verdicts`; the responses are judged in a
process that can be killed (:mod:`llmgym.testing.workers`).
"""

from __future__ import annotations

import copy
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from llmgym.core import LanguageEnv, parse_problem
from llmgym.errors import InvalidOptionError, WrongEnvironmentError, unknown_name
from llmgym.registration import ENVIRONMENTS, find_spec, load_entry_point, takes_keyword
from llmgym.tasks import Problem
from llmgym.testing.report import AuditReport
from llmgym.testing.verdicts import Subject, examine
from llmgym.testing.workers import Judgement
from llmgym.wrappers.reward import TranscriptReward

#: Budgets of an environment under audit, in tokens, where the caller sets no others: room for the long responses.
BUDGETS = {"max_prompt_tokens": 8_192, "max_new_tokens": 196_608}

#: Turns that a response is repeated for, where the environment hands the turn back.
_MAX_TURNS = 8
#: Orders of the rewards that are tried.
_MAX_ORDERS = 4


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
            language environment made with ``action_unit="response"``, wrapped or not.
        n_problems: Problems to try, drawn with ``reset``.
        seed: Of the problems and of what is random in the probes.
        deadline: Seconds after which a response is given up.
        form: Text with {answer} in it: how the environment wants an answer; empty: the usual forms are tried.
        env_kwargs: Keyword arguments of the environment. Where they set no budgets, these are raised to
            :data:`BUDGETS`.

    Returns:
        What each probe was paid, and whether that is right.

    Raises:
        InvalidOptionError: If the id or an argument is unknown.
        WrongEnvironmentError: If it is no :class:`~llmgym.core.LanguageEnv`.

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
    made, name, kwargs = _make(env, env_kwargs)
    subject = Subject(
        name=name,
        settings={
            "env_kwargs": kwargs,
            "n_problems": n_problems,
            "seed": seed,
            "deadline": deadline,
            "form": form,
        },
        scorer=EnvScorer(made),
        problems=_draw(made, n_problems, seed),
        by_design=(made.metadata or {}).get("audit", {}),
        reordered=[EnvScorer(other) for other in _reordered(made)],
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
        ['listed', 'hedged', 'negated', 'hidden']
    """
    parsed = [parse_problem(problem) for problem in problems]
    title = name or getattr(reward, "__name__", type(reward).__name__)
    subject = Subject(
        name=title,
        settings={"n_problems": len(parsed), "seed": seed, "deadline": deadline, "form": form},
        scorer=TRLScorer(reward) if _is_trl(reward) else reward,
        problems=[problem for problem in parsed if problem is not None],
        by_design=by_design or {},
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


# --- Environments -----------------------------------------------------------------------------------------------------


class EnvScorer:
    """The reward of an environment as a scorer: poses the problem, takes the response as the action, sums the rewards.

    Where the environment hands the turn back, the response is given again, a few times.

    Args:
        env: A language environment with ``action_unit="response"``, wrapped or not.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env = env

    def __call__(self, response: str, problem: Problem) -> Judgement:
        """Total of an episode, and its parts."""
        self.env.reset(options={"problem": problem})
        rewards: list[float] = []
        components: dict[str, list[float]] = {}
        for _ in range(_MAX_TURNS):
            _, reward, terminated, truncated, info = self.env.step(response)
            rewards.append(float(reward))
            for name, part in info.get("reward_components", {}).items():
                components.setdefault(name, []).append(float(part))
            if terminated or truncated:
                break
        core: Any = self.env.unwrapped
        left_out = ""
        if "unused_text" in info or truncated:
            left_out = "ended before their last character, by a stop string, the end token or a budget"
        elif len(rewards) == 1 and core.transcript.response != response:
            left_out = "have characters that the vocabulary has not"
        return Judgement(math.fsum(rewards), {name: math.fsum(of) for name, of in components.items()}, left_out)


def _make(env: str | gym.Env[Any, Any], env_kwargs: Mapping[str, Any]) -> tuple[gym.Env[Any, Any], str, dict[str, Any]]:
    """The environment, what to call it, and what it was made with."""
    if not isinstance(env, str):
        core = env.unwrapped
        if not isinstance(core, LanguageEnv):
            raise _not_ours(type(core).__name__, type(core))
        unit = core.engine.options.action_unit
        if unit != "response" or env_kwargs:
            actual = f"action_unit={unit!r}" if unit != "response" else f"{sorted(env_kwargs)} for one made already"
            raise InvalidOptionError(
                f'Expected an environment made with action_unit="response" and no keyword arguments, actual: {actual}. '
                "Pass an id and keyword arguments instead."
            )
        return env, env.spec.id if env.spec is not None else type(core).__name__, {}
    if "action_unit" in env_kwargs:
        raise InvalidOptionError(
            f"Expected no `action_unit` (an audit poses whole responses), actual: {env_kwargs['action_unit']!r}. "
            "Leave it out."
        )
    spec = find_spec(env)
    if spec is None:
        raise InvalidOptionError(
            f"{unknown_name('an environment', env, ENVIRONMENTS)} An id that another module registers is written "
            "module:id."
        )
    creator = load_entry_point(spec.entry_point)
    if creator is None or (isinstance(creator, type) and not issubclass(creator, LanguageEnv)):
        raise _not_ours(env, creator)
    if not takes_keyword(creator, "action_unit"):
        raise InvalidOptionError(
            f"Expected an environment that takes `action_unit`, actual: {env!r}, whose entry point does not. Name it "
            "there, or let the class pass its **options on to LanguageEnv."
        )
    raised = {name: budget for name, budget in BUDGETS.items() if takes_keyword(creator, name)}
    kwargs = {**raised, **env_kwargs}
    made = gym.make(spec, **kwargs, action_unit="response", disable_env_checker=True)
    if not isinstance(made.unwrapped, LanguageEnv):
        raise _not_ours(env, type(made.unwrapped))
    return made, env, kwargs


def _not_ours(name: str, kind: Any) -> WrongEnvironmentError:
    is_a = f"a {getattr(kind, '__name__', kind)}" if kind is not None else "which has no entry point"
    return WrongEnvironmentError(
        f"Expected a language environment (a subclass of llmgym.core.LanguageEnv), actual: {name!r}, {is_a}. Audit "
        "its reward function with llmgym.testing.audit_reward."
    )


def _draw(env: gym.Env[Any, Any], n_problems: int, seed: int) -> list[Problem]:
    """Different problems, as many as there are within ten times as many draws."""
    core: Any = env.unwrapped
    problems: dict[tuple[str, str], Problem] = {}
    env.reset(seed=seed)
    for _ in range(10 * n_problems):
        problem = core.transcript.problem
        problems.setdefault((problem.problem_id, problem.question), problem)
        if len(problems) == n_problems:
            break
        env.reset()
    return list(problems.values())


def _reordered(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    """The same environment with its rewards, and its reward wrappers, in other orders."""
    if env.spec is None:
        return
    rewards = env.spec.kwargs.get("rewards") or {}
    for order in itertools.islice(itertools.permutations(rewards.items()), 1, 1 + _MAX_ORDERS):
        yield gym.make(env.spec, rewards=dict(order), disable_env_checker=True)
    wrappers = env.spec.additional_wrappers
    paying = [i for i, w in enumerate(wrappers) if issubclass(load_entry_point(w.entry_point), TranscriptReward)]
    for places in itertools.islice(itertools.permutations(paying), 1, 1 + _MAX_ORDERS):
        spec = copy.deepcopy(env.spec)
        moved = list(wrappers)
        for place, source in zip(paying, places, strict=True):
            moved[place] = wrappers[source]
        spec.additional_wrappers = tuple(moved)
        yield gym.make(spec, disable_env_checker=True)
