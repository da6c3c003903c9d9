"""How good a policy of texts is on given problems: :func:`llmgym.agents.evaluate`, for step and response actions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from llmgym.agents.evaluation import Evaluation
from llmgym.errors import InvalidOptionError
from llmgym.transcript import Transcript
from llmgym.vector import WAIT, LanguageVectorEnv

__all__ = ["TextPolicy", "evaluate_texts"]

Bools = npt.NDArray[np.bool_]


class TextPolicy(Protocol):
    """Whoever writes texts: :class:`~llmgym.agents.servers.ServerPolicy`, or a class of yours."""

    def act(
        self, observations: Sequence[str], restarted: Bools | None = None, waiting: Bools | None = None
    ) -> Sequence[Any]:
        """A text for each slot; what stands at a slot that waits is left aside, and may be anything."""
        ...


@dataclass(frozen=True)
class _Episode:
    """The record of a finished episode."""

    transcript: Transcript
    prompt_tokens: int
    episode_return: float
    components: dict[str, float]
    verdicts: list[str]


def evaluate_texts(
    policy: TextPolicy,
    envs: VectorEnv[Any, Any, Any],
    *,
    n_problems: int = 500,
    samples: int = 1,
    seed: int = 0,
    success: str = "correctness",
    n_examples: int = 8,
) -> Evaluation:
    """Play ``n_problems`` problems, ``samples`` responses each.

    Problem ``p`` is that of ``seed + p``, as in :func:`~llmgym.agents.evaluation.evaluate`: the same problems are posed
    in all three action units.

    Args:
        policy: Who plays. Its random numbers are its own matter.
        envs: A native vector environment (``gymnasium.make_vec``) with step or response actions and
            ``autoreset_mode="disabled"``; wrappers around it may add rewards.
        n_problems: Problems posed.
        samples: Responses to each.
        seed: Of the problems.
        success: As in :func:`~llmgym.agents.evaluation.evaluate`.
        n_examples: Episodes kept as text.

    Returns:
        The evaluation; lengths count tokens of the environment's tokenizer.

    Raises:
        InvalidOptionError: If a number is below 1, or the environment is another.
    """
    for name, number in (("n_problems", n_problems), ("samples", samples)):
        if number < 1:
            raise InvalidOptionError(f"Expected {name} >= 1, actual: {number}. Raise it.")
    started = time.perf_counter()
    episodes = _Player(policy, envs, n_problems * samples, samples, seed).play()
    seconds = time.perf_counter() - started
    names = sorted({name for episode in episodes for name in episode.components})
    parts = {name: np.array([episode.components.get(name, 0.0) for episode in episodes]) for name in names}
    verdicts = [episode.verdicts for episode in episodes]
    return Evaluation.of_episodes(
        np.array([episode.episode_return for episode in episodes]),
        parts,
        np.array([episode.transcript.n_new_tokens for episode in episodes]),
        [str(episode.transcript.stop_reason.value) for episode in episodes],  # type: ignore[union-attr]
        samples=samples,
        success=success,
        unverifiable=float(np.mean(["unverifiable" in said for said in verdicts])) if any(verdicts) else None,
        seconds=seconds,
        as_text=lambda row, solved: _as_text(episodes[row], solved),
        n_examples=n_examples,
    )


@dataclass
class _Player:
    """One call of :func:`evaluate_texts`: ``n_episodes`` episodes over the slots, the next as soon as one is free."""

    policy: TextPolicy
    envs: VectorEnv[Any, Any, Any]
    n_episodes: int
    samples: int
    seed: int
    episodes: dict[int, _Episode] = field(default_factory=dict)

    def __post_init__(self) -> None:
        native = self.envs.unwrapped
        unit = native.engine.options.action_unit if isinstance(native, LanguageVectorEnv) else "another"
        mode = self.envs.metadata.get("autoreset_mode")
        if unit not in ("step", "response") or mode is not AutoresetMode.DISABLED:
            raise InvalidOptionError(
                "Expected a native vector environment with step or response actions and autoreset disabled, actual: "
                f"{type(native).__name__}, {unit} actions, {mode}. Make it with gymnasium.make_vec(..., "
                'action_unit="response", autoreset_mode="disabled").'
            )
        self.native: LanguageVectorEnv = native  # type: ignore[assignment]
        # A slot that no episode is left for has to act all the same until its episode ends; only then may it wait.
        self.end = "" if unit == "response" else self.native.tokenizer.end_token
        self.playing = np.full(self.envs.num_envs, -1)  # which episode is in each slot; -1: none of ours
        self.n_begun = 0
        self.returns = np.zeros(self.envs.num_envs)
        self.components: list[dict[str, float]] = [{} for _ in range(self.envs.num_envs)]

    def play(self) -> list[_Episode]:
        """The episodes in order: all responses to the first problem, all to the second, ..."""
        n = self.envs.num_envs
        observations = self._begin(np.ones(n, dtype=bool))
        restarted, over = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
        while len(self.episodes) < self.n_episodes:
            ours = (self.playing >= 0) & ~over
            texts = self.policy.act(observations, restarted, ~ours)
            actions = [
                text if mine else WAIT if done else self.end for text, mine, done in zip(texts, ours, over, strict=True)
            ]
            observations, rewards, terminated, truncated, infos = self.envs.step(actions)
            over = terminated | truncated
            self.returns += np.where(ours, rewards, 0.0)
            self._record(infos, ours, over)
            restarted = np.zeros(n, dtype=bool)
            restarted[np.flatnonzero(over & ours)[: max(0, self.n_episodes - self.n_begun)]] = True
            if restarted.any():
                observations = self._begin(restarted)
                over &= ~restarted
        return [self.episodes[number] for number in range(self.n_episodes)]

    def _begin(self, slots: Bools) -> Sequence[str]:
        """Pose the next problems in these slots."""
        seeds: list[int | None] = [None] * len(slots)
        for slot in np.flatnonzero(slots).tolist():
            number, self.n_begun = self.n_begun, self.n_begun + 1
            self.playing[slot] = number if number < self.n_episodes else -1
            seeds[slot] = self.seed + min(number, self.n_episodes - 1) // self.samples
            self.returns[slot], self.components[slot] = 0.0, {}
        observations: Sequence[str]
        observations, _ = self.envs.reset(seed=seeds, options={"reset_mask": slots})  # type: ignore[arg-type]
        return observations

    def _record(self, infos: Mapping[str, Any], ours: Bools, over: Bools) -> None:
        """Add up what was paid, and put the episodes that ended on record."""
        for name, values in infos.get("reward_components", {}).items():
            if not name.startswith("_"):  # Gymnasium's masks of who reported
                for slot in np.flatnonzero(ours).tolist():
                    self.components[slot][name] = self.components[slot].get(name, 0.0) + float(values[slot])
        said = [rewards for name, rewards in infos.get("reward_details", {}).items() if isinstance(rewards, Mapping)]
        for slot in np.flatnonzero(ours & over).tolist():
            self.episodes[int(self.playing[slot])] = _Episode(
                transcript=self.native.transcripts([slot])[0],
                prompt_tokens=int(self.native.process.prompt_length[slot]),
                episode_return=float(self.returns[slot]),
                components=self.components[slot],
                verdicts=[str(of["verdict"][slot]) for of in said if "verdict" in of and of["verdict"][slot]],
            )


def _as_text(episode: _Episode, solved: bool) -> dict[str, Any]:
    transcript = episode.transcript
    return {
        "prompt": transcript.prompt,
        "response": "".join(text for _, text in transcript.segments),
        "solved": solved,
        "return": episode.episode_return,
        "rewards": episode.components,
        "stop_reason": transcript.stop_reason.value if transcript.stop_reason else None,
        "prompt_tokens": episode.prompt_tokens,
        "response_tokens": transcript.n_new_tokens,
    }
