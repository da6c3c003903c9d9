"""Playing episodes with an agent of the benchmark, and what is kept of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from llmgym.core import LanguageEnv
from llmgym.envs.diagnostics import Diagnostic, Episode, play

#: Slots of an evaluation.
N_SLOTS = 100


@dataclasses.dataclass(frozen=True)
class Point:
    """One evaluation: a point of a learning curve.

    Attributes:
        timesteps: Environment steps that the agent had taken to learn.
        seconds: Processor time that it had taken, evaluations left out.
        n_episodes: Episodes that were played.
        mean_return: Mean return of them.
        score: In [0, 1]: see ``Diagnostic.score``.
        normalised: The same without clipping: 0 is what random tokens get, 1 the optimum.
        final: Whether it is the evaluation after the training.
        readings: What the diagnostic says beside that; ``regret`` is the optimum less the mean return.
    """

    timesteps: int
    seconds: float
    n_episodes: int
    mean_return: float
    score: float
    normalised: float
    final: bool
    readings: dict[str, float]


def evaluate(
    agent: Any,
    diagnostic: Diagnostic,
    size: str,
    n_episodes: int,
    seed: int,
    held_out: Mapping[str, Any] | None = None,
) -> list[Episode]:
    """Play episodes: tokens where the agent has ``act``, whole responses where it has ``respond``.

    Args:
        agent: The agent.
        diagnostic: What to play.
        size: In which size.
        n_episodes: How many; with tokens rounded up to whole rounds of the slots.
        seed: Of the problems.
        held_out: Keyword arguments of the environment, where it has to pose other problems than in the training.
    """
    changes = held_out or {}
    if not hasattr(agent, "act"):
        return _respond(agent, diagnostic.make(size, action_unit="response", **changes), n_episodes, seed)
    envs = diagnostic.make_vec(size, min(N_SLOTS, n_episodes), autoreset_mode="disabled", **changes)
    return play(envs, agent.act, n_episodes, seed=seed)


def _respond(agent: Any, env: gym.Env[Any, Any], n_episodes: int, seed: int) -> list[Episode]:
    core: LanguageEnv = env.unwrapped  # type: ignore[assignment]
    episodes = []
    for number in range(n_episodes):
        prompt, _ = env.reset(seed=seed if number == 0 else None)
        _, reward, _, _, info = env.step(agent.respond(prompt))
        transcript = core.transcript
        assert transcript.stop_reason is not None  # a response ends its episode
        episodes.append(
            Episode(
                problem_id=transcript.problem.problem_id,
                level=transcript.problem.level,
                response=transcript.response,
                n_new_tokens=transcript.n_new_tokens,
                stop_reason=transcript.stop_reason.value,
                episode_return=float(reward),
                components=dict(info["reward_components"]),
                details=info.get("reward_details", {}),
            )
        )
    env.close()
    return episodes


def measure(
    diagnostic: Diagnostic, size: str, episodes: Sequence[Episode], *, timesteps: int, seconds: float, final: bool
) -> Point:
    """What the episodes amount to."""
    return Point(
        timesteps=timesteps,
        seconds=seconds,
        n_episodes=len(episodes),
        mean_return=float(np.mean([episode.episode_return for episode in episodes])),
        score=diagnostic.score(episodes, size),
        normalised=diagnostic.normalised(float(np.mean([diagnostic.measure(episode) for episode in episodes])), size),
        final=final,
        readings=diagnostic.readings(episodes, size),
    )


def as_jsonl(episodes: Sequence[Episode]) -> str:
    """The episodes, a line of JSON each."""
    return "".join(
        json.dumps(dataclasses.asdict(episode), ensure_ascii=False, default=_plain) + "\n" for episode in episodes
    )


def _plain(value: Any) -> Any:
    """A number of numpy as one of Python."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"Expected a value that JSON has, actual: {value!r}.")
