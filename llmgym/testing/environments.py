"""An environment as something to audit: its problems, and a scorer that plays an episode with a response.

A language environment is posed a problem through the options of ``reset``, one of another package by the seed that
posed it before.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym

from llmgym.core import LanguageEnv
from llmgym.errors import InvalidOptionError, WrongEnvironmentError, unknown_name
from llmgym.registration import ENVIRONMENTS, find_spec, load_entry_point, takes_keyword
from llmgym.rewards import RewardStack
from llmgym.spaces import TextSpace
from llmgym.tasks import Problem
from llmgym.testing.workers import Judgement
from llmgym.wrappers.reward import TranscriptReward

#: Budgets of a language environment under audit, in tokens, where the caller sets no others: room for long responses.
BUDGETS = {"max_prompt_tokens": 8_192, "max_new_tokens": 196_608}

#: Turns that a response is repeated for, where the environment hands the turn back.
_MAX_TURNS = 8
#: Orders of the rewards that are tried.
_MAX_ORDERS = 4


class AskedEnv:
    """An environment under audit.

    Args:
        env: See :func:`llmgym.testing.audit`.
        env_kwargs: Keyword arguments of the environment.
        n_problems: Problems to draw.
        seed: Of the problems.

    Raises:
        InvalidOptionError: If the id or an argument is unknown.
        WrongEnvironmentError: If it is no environment that can be audited.
    """

    def __init__(self, env: str | gym.Env[Any, Any], env_kwargs: Mapping[str, Any], n_problems: int, seed: int) -> None:
        made, self.name, self.env_kwargs = _make(env, env_kwargs)
        #: Name of a check -> why it may pay.
        self.by_design: Mapping[str, str] = (made.metadata or {}).get("audit", {})
        #: The same scorer with its rewards in other orders; and why there is none.
        self.reordered: list[EnvScorer] = []
        self.not_reordered = "the environment is none of this package: nothing is known of the parts of its reward"
        #: A scorer of its own for another thread.
        self.beside: EnvScorer | None = None
        self.problems: list[Problem]
        self.scorer: EnvScorer
        if isinstance(made.unwrapped, LanguageEnv):
            self.problems = _draw(made, n_problems, seed)
            self.scorer = EnvScorer(made)
            others, self.not_reordered = _reordered(made)
            self.reordered = [EnvScorer(other) for other in others]
        else:
            seeds, self.problems = _draw_by_seed(made, self.name, n_problems, seed)
            self.scorer = EnvScorer(made, seeds)
        try:
            self.beside = copy.deepcopy(self.scorer)
        except Exception:  # noqa: BLE001 - an environment may hold anything; then nothing is asked at the same time
            self.beside = None


class EnvScorer:
    """The reward of an environment as a scorer: poses the problem, takes the response as the action, sums the rewards.

    Where the environment hands the turn back, the response is given again, a few times.

    Args:
        env: An environment whose actions are whole responses, wrapped or not.
        seeds: Id of a problem -> the seed that poses it; ``None`` for a language environment, which takes the problem.
    """

    def __init__(self, env: gym.Env[Any, Any], seeds: Mapping[str, int] | None = None) -> None:
        self.env = env
        self.seeds = seeds

    def __call__(self, response: str, problem: Problem) -> Judgement:
        """Total of an episode, and its parts."""
        if response not in self.env.action_space:
            return Judgement(0.0, left_out="are not in the action space", cut=True)
        if self.seeds is None:
            self.env.reset(options={"problem": problem})
        else:
            self.env.reset(seed=self.seeds[problem.problem_id])
        rewards: list[float] = []
        components: dict[str, list[float]] = {}
        left_out, cut = "", False
        for _ in range(_MAX_TURNS):
            _, reward, terminated, truncated, info = self.env.step(response)
            if not rewards and self.seeds is None:
                left_out, cut = _taken(self.env.unwrapped, response, truncated, info)
            rewards.append(float(reward))
            for name, part in info.get("reward_components", {}).items():
                components.setdefault(name, []).append(float(part))
            if terminated or truncated:
                break
        parts = {name: math.fsum(of) for name, of in components.items()}
        return Judgement(math.fsum(rewards), parts, left_out, cut)


def _taken(core: Any, response: str, truncated: bool, info: Mapping[str, Any]) -> tuple[str, bool]:
    """What a language environment left out of a response, and whether it was cut."""
    reason = str(info.get("stop_reason", ""))
    if "unused_text" in info or (truncated and reason):
        budget = getattr(core.engine.options, reason, None)
        return f"were cut ({reason or 'end of the turn'}{'' if budget is None else f'={budget}'})", True
    return ("have characters that the vocabulary has not" if core.transcript.response != response else ""), False


# --- Making -----------------------------------------------------------------------------------------------------------


def _make(env: str | gym.Env[Any, Any], env_kwargs: Mapping[str, Any]) -> tuple[gym.Env[Any, Any], str, dict[str, Any]]:
    """The environment, what to call it, and what it was made with."""
    if not isinstance(env, str):
        core = env.unwrapped
        unit = core.engine.options.action_unit if isinstance(core, LanguageEnv) else "response"
        if unit != "response" or env_kwargs:
            actual = f"action_unit={unit!r}" if unit != "response" else f"{sorted(env_kwargs)} for one made already"
            raise InvalidOptionError(
                f'Expected an environment made with action_unit="response" and no keyword arguments, actual: {actual}. '
                "Pass an id and keyword arguments instead."
            )
        name = env.spec.id if env.spec is not None else type(core).__name__
        return _with_text_actions(env, name), name, {}
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
    if creator is None:
        raise _not_asked(env, None)
    kwargs = dict(env_kwargs)
    if takes_keyword(creator, "action_unit"):
        kwargs = {name: budget for name, budget in BUDGETS.items() if takes_keyword(creator, name)} | kwargs
        made = gym.make(spec, **kwargs, action_unit="response", disable_env_checker=True)
    else:
        try:
            made = gym.make(spec, **kwargs, disable_env_checker=True)
        except TypeError as error:
            raise InvalidOptionError(
                f"Expected keyword arguments that {env!r} takes, actual: {sorted(kwargs)} ({error}). Correct them."
            ) from error
    core = made.unwrapped
    if isinstance(core, LanguageEnv) and core.engine.options.action_unit != "response":
        made.close()
        raise InvalidOptionError(
            f"Expected an environment that takes `action_unit`, actual: {env!r}, whose entry point does not. Name it "
            "there, or let the class pass its **options on to LanguageEnv."
        )
    return _with_text_actions(made, env), env, kwargs


def _with_text_actions(env: gym.Env[Any, Any], name: str) -> gym.Env[Any, Any]:
    if isinstance(env.unwrapped, LanguageEnv) or isinstance(env.action_space, (gym.spaces.Text, TextSpace)):
        return env
    raise _not_asked(name, type(env.unwrapped), f" with the actions {env.action_space}")


def _not_asked(name: str, kind: type | None, what: str = "") -> WrongEnvironmentError:
    is_a = f"a {kind.__name__}" if kind is not None else "which has no entry point"
    return WrongEnvironmentError(
        f"Expected a language environment (a subclass of llmgym.core.LanguageEnv), or one whose actions are "
        f'gymnasium.spaces.Text and whose reset(seed=...) gives the texts info["question"] and '
        f'info["reference_answer"], the same for the same seed, actual: {name!r}, {is_a}{what}. Or audit its reward '
        "function with llmgym.testing.audit_reward."
    )


# --- Problems ---------------------------------------------------------------------------------------------------------


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


def _draw_by_seed(
    env: gym.Env[Any, Any], name: str, n_problems: int, seed: int
) -> tuple[dict[str, int], list[Problem]]:
    """The same of an environment that is asked by seeds: those, by problem id, and the problems."""
    rng = random.Random(seed)  # no neighbouring seeds: they often give nearly the same problems
    seeds: dict[str, int] = {}
    problems: list[Problem] = []
    for _ in range(10 * n_problems):
        own_seed = rng.randrange(2**31)
        posed = _posed(env, own_seed)
        if posed is None or posed != _posed(env, own_seed):
            what = "" if posed is None else " that gives another problem for the same seed"
            raise _not_asked(name, type(env.unwrapped), what or " whose info has no such texts")
        question, answer = posed
        problem_id = hashlib.sha256(f"{question}\0{answer}".encode(errors="surrogatepass")).hexdigest()[:16]
        if problem_id not in seeds:
            seeds[problem_id] = own_seed
            problems.append(Problem(question, answer, problem_id))
        if len(problems) == n_problems:
            break
    return seeds, problems


def _posed(env: gym.Env[Any, Any], seed: int) -> tuple[str, str] | None:
    _, info = env.reset(seed=seed)
    question, answer = info.get("question"), info.get("reference_answer")
    return (question, answer) if isinstance(question, str) and isinstance(answer, str) else None


# --- Orders of rewards ------------------------------------------------------------------------------------------------


def _reordered(env: gym.Env[Any, Any]) -> tuple[list[gym.Env[Any, Any]], str]:
    """Copies of a language environment with its rewards, and its reward wrappers, in other orders; or why not."""
    core: Any = env.unwrapped
    rewards = core.engine.options.rewards or {}
    chain = list(_chain(env))
    paying = [place for place, link in enumerate(chain) if isinstance(link, TranscriptReward)]
    if len(rewards) < 2 and len(paying) < 2:
        return [], "there are not two rewards to put in another order"
    others: list[gym.Env[Any, Any]] = []
    try:
        for order in itertools.islice(itertools.permutations(rewards.items()), 1, 1 + _MAX_ORDERS):
            other = copy.deepcopy(env)
            _set_rewards(other.unwrapped, dict(order))
            others.append(other)
        for places in itertools.islice(itertools.permutations(paying), 1, 1 + _MAX_ORDERS):
            links = list(_chain(copy.deepcopy(env)))
            moved = list(links)
            for place, source in zip(paying, places, strict=True):
                moved[place] = links[source]
            for outer, inner in itertools.pairwise(moved):
                outer.env = inner
            others.append(moved[0])
    except Exception as error:  # noqa: BLE001 - an environment may hold anything, and a copy of it raise anything
        return [], f"the environment cannot be copied: {type(error).__name__}: {error}"
    return others, ""


def _chain(env: gym.Env[Any, Any]) -> Iterator[Any]:
    """The wrappers, the outermost first, and the environment within."""
    link: Any = env
    while link is not env.unwrapped:
        yield link
        link = link.env
    yield link


def _set_rewards(core: Any, rewards: Mapping[str, Any]) -> None:
    core.engine.rewards = RewardStack(rewards)
    core._nothing_paid = dict.fromkeys(core.engine.rewards.names, 0.0)
