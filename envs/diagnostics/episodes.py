"""Playing episodes to score an algorithm: anything that maps observations to actions can be scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from llmgym.errors import InvalidOptionError
from llmgym.vector import WAIT, LanguageVectorEnv

Bools = npt.NDArray[np.bool_]

#: Observations of all slots, which of them have just been reset, which wait -> ``(N,)`` int, the next token of each.
#: The arguments are those of ``llmgym.agents.Policy.act``, which gives log-probabilities beside the tokens.
Choose = Callable[[Any, Bools, Bools], npt.NDArray[np.integer[Any]]]


@dataclass(frozen=True, slots=True)
class Episode:
    """What is kept of an episode.

    Attributes:
        problem_id: The problem.
        level: Its difficulty; 0 where it has none.
        response: What the agent wrote, without the end token.
        n_new_tokens: Tokens that it wrote, the end token included.
        stop_reason: Why the episode ended.
        episode_return: Undiscounted sum of rewards.
        components: Name of a reward -> what it paid in all.
        details: Name of a reward -> what it says beside that.
    """

    problem_id: str
    level: int
    response: str
    n_new_tokens: int
    stop_reason: str
    episode_return: float
    components: dict[str, float] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)


def play(envs: LanguageVectorEnv, choose: Choose, n_episodes: int, *, seed: int | None = None) -> list[Episode]:
    """Play episodes to their ends, as many in each slot, none of them cut short because it is long.

    Args:
        envs: A native vector environment with token actions, made with ``autoreset_mode="disabled"``.
        choose: The agent: ``choose(observations, restarted, waiting)``, two ``(N,)`` bool arrays beside the
            observations. What it says of a slot that waits is not used. Of a policy: ``lambda *seen:
            policy.act(*seen)[0]``.
        n_episodes: At least so many; the number is rounded up to whole rounds of all slots.
        seed: Of the problems; ``None``: the environment goes on with its own random generators.

    Returns:
        The episodes, round by round.

    Raises:
        InvalidOptionError: If the environment resets by itself.
    """
    if envs.autoreset_mode is not AutoresetMode.DISABLED:
        raise InvalidOptionError(
            f"Expected an environment with autoreset disabled, actual: {envs.autoreset_mode}. "
            'Make it with autoreset_mode="disabled".'
        )
    episodes: list[Episode] = []
    while len(episodes) < n_episodes:
        episodes += _round(envs, choose, None if episodes else seed)
    return episodes


def _round(envs: LanguageVectorEnv, choose: Choose, seed: int | None) -> list[Episode]:
    """One episode of each slot."""
    observations, _ = envs.reset(seed=seed)
    names = envs.engine.rewards.names
    components = {name: np.zeros(envs.num_envs) for name in names}
    returns = np.zeros(envs.num_envs)
    details: list[dict[str, dict[str, Any]]] = [{} for _ in range(envs.num_envs)]
    restarted = np.ones(envs.num_envs, dtype=np.bool_)
    over = ~restarted
    while not over.all():
        actions = np.where(over, WAIT, choose(observations, restarted, over))
        restarted = np.zeros_like(restarted)
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        returns += np.where(over, 0.0, rewards)
        for name in names:
            components[name] += np.where(over, 0.0, infos["reward_components"][name])
        for slot in np.flatnonzero((terminated | truncated) & ~over).tolist():
            details[slot] = _details(infos.get("reward_details", {}), slot)
        over = terminated | truncated
    lengths = envs.process.n_new_tokens
    return [
        Episode(
            problem_id=transcript.problem.problem_id,
            level=transcript.problem.level,
            response=transcript.response,
            n_new_tokens=int(lengths[slot]),
            stop_reason="" if transcript.stop_reason is None else transcript.stop_reason.value,
            episode_return=float(returns[slot]),
            components={name: float(components[name][slot]) for name in names},
            details=details[slot],
        )
        for slot, transcript in enumerate(envs.transcripts())
    ]


def _details(said: dict[str, Any], slot: int) -> dict[str, dict[str, Any]]:
    """What the rewards say of one slot, from Gymnasium's arrays and their masks."""
    return {
        reward: {key: of[key][slot] for key in of if not key.startswith("_") and of[f"_{key}"][slot]}
        for reward, of in said.items()
        if not reward.startswith("_") and said[f"_{reward}"][slot]
    }
