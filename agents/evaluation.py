"""How good a policy is on given problems: pass@1 with its interval, pass@k, lengths, reward parts, some responses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from llmgym.agents.policies import Policy
from llmgym.agents.rollouts import RolloutBatch, collect

#: 97.5 % quantile of the standard normal distribution: intervals hold 95 %.
_Z = 1.959963984540054


@dataclass(frozen=True)
class Evaluation:
    """The result of :func:`evaluate`.

    Attributes:
        n_problems: Problems posed.
        samples: Responses to each.
        solved_if: What counts as solved: ``"correctness > 0"`` (a part of the reward), or ``"return >= 1"`` where the
            environment does not pay that part.
        pass_at_1: Share of responses that solved their problem.
        interval: 95 % interval of it over problems.
        pass_at_k: k -> chance that at least one of k responses solves a problem, for powers of two up to ``samples``.
        mean_return: Mean episode return.
        mean_length: Mean number of tokens that the policy wrote.
        reward_components: Mean of each part of the reward.
        stop_reasons: Share of episodes that ended for each reason.
        unverifiable: Share of episodes whose answer nobody could verify; they count as not solved. ``None`` where no
            reward gives a verdict.
        examples: Some episodes as text: ``prompt``, ``response``, ``solved``, ``return``, ``rewards`` (its parts by
            name), ``stop_reason``, ``prompt_tokens`` and ``response_tokens`` (those that the policy wrote).
        seconds: Wall time.
    """

    n_problems: int
    samples: int
    solved_if: str
    pass_at_1: float
    interval: tuple[float, float]
    pass_at_k: dict[int, float]
    mean_return: float
    mean_length: float
    reward_components: dict[str, float]
    stop_reasons: dict[str, float]
    unverifiable: float | None
    examples: list[dict[str, Any]] = field(repr=False)
    seconds: float

    def __str__(self) -> str:
        low, high = self.interval
        more = "".join(f", pass@{k} {100 * v:.1f} %" for k, v in self.pass_at_k.items() if k > 1)
        return (
            f"pass@1 {100 * self.pass_at_1:.1f} % [{100 * low:.1f}, {100 * high:.1f}]{more} on "
            f"{self.n_problems} problems x {self.samples} (solved: {self.solved_if}); "
            f"{self.mean_length:.1f} tokens a response"
            + (f"; {100 * self.unverifiable:.1f} % unverifiable" if self.unverifiable else "")
        )

    @classmethod
    def of_episodes(
        cls,
        returns: npt.NDArray[np.float64],
        parts: Mapping[str, npt.NDArray[np.float64]],
        lengths: npt.NDArray[np.integer],
        stop_reasons: Sequence[str],
        *,
        samples: int,
        success: str,
        unverifiable: float | None,
        seconds: float,
        as_text: Callable[[int, bool], dict[str, Any]],
        n_examples: int,
    ) -> Self:
        """What ``P * samples`` episodes say, those of one problem next to each other.

        Args:
            returns: ``(P * samples,)``.
            parts: The parts of the reward, ``(P * samples,)`` each.
            lengths: ``(P * samples,)``. Tokens written.
            stop_reasons: ``(P * samples,)``.
            samples: Responses to each problem.
            success: As in :func:`evaluate`.
            unverifiable: As in the attribute.
            seconds: As in the attribute.
            as_text: An episode, by its row and whether it solved its problem, as text.
            n_examples: First responses to so many problems are kept as text.
        """
        if success in parts:
            solved, solved_if = parts[success] > 0, f"{success} > 0"
        else:
            solved, solved_if = returns >= 1.0 - 1e-9, "return >= 1"
        by_problem = solved.reshape(-1, samples)
        n_solved = by_problem.sum(axis=1)
        return cls(
            n_problems=len(by_problem),
            samples=samples,
            solved_if=solved_if,
            pass_at_1=float(solved.mean()),
            interval=pass_interval(by_problem),
            pass_at_k={k: pass_at_k(n_solved, samples, k) for k in _powers_of_two(samples)},
            mean_return=float(returns.mean()),
            mean_length=float(lengths.mean()),
            reward_components={name: float(values.mean()) for name, values in parts.items()},
            stop_reasons={reason: n / len(returns) for reason, n in Counter(stop_reasons).most_common()},
            unverifiable=unverifiable,
            examples=[as_text(row, bool(solved[row])) for row in range(0, len(returns), samples)[:n_examples]],
            seconds=seconds,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def evaluate(
    policy: Policy,
    envs: VectorEnv[Any, Any, Any],
    *,
    n_problems: int = 500,
    samples: int = 1,
    seed: int = 0,
    success: str = "correctness",
    n_examples: int = 8,
) -> Evaluation:
    """Play ``n_problems`` problems, ``samples`` responses each.

    Problem ``p`` is that of ``seed + p``, whatever ``samples`` and the number of slots, where a native vector
    environment was made with autoreset disabled. Elsewhere the problems depend on ``samples`` and the slots too.

    Args:
        policy: Who plays, at its own temperature. Its random generator is seeded for this and put back afterwards.
        envs: A vector environment whose number of slots is a multiple of ``samples``.
        n_problems: Problems drawn.
        samples: Responses to each.
        seed: Of problems and sampling.
        success: A response solved its problem if this part of the reward is above 0. An environment without that part:
            if the episode return reaches 1. :attr:`Evaluation.solved_if` says which.
        n_examples: Episodes kept as text.
    """
    state = policy.generator.get_state()
    policy.generator.manual_seed(seed)
    try:
        batch = collect(envs, policy, group_size=samples, n_groups=n_problems, seed=seed, seed_each_problem=True)
    finally:
        policy.generator.set_state(state)
        policy.forget()
    return Evaluation.of_episodes(
        batch.episode_returns,
        batch.reward_components,
        batch.response_mask.sum(axis=1),
        batch.stop_reasons,
        samples=samples,
        success=success,
        unverifiable=None if batch.unverifiable is None else float(batch.unverifiable.mean()),
        seconds=batch.seconds,
        as_text=lambda row, solved: _as_text(policy, batch, row, solved),
        n_examples=n_examples,
    )


def pass_at_k(n_solved: npt.NDArray[np.int64], n_samples: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of ``k`` responses is right, mean over problems.

    ``1 - C(n - c, k) / C(n, k)`` for a problem with ``c`` of ``n`` responses right.

    Args:
        n_solved: ``(P,)``. ``c`` of each problem.
        n_samples: ``n``.
        k: From 1 to ``n``.

    Raises:
        ValueError: If ``k`` is out of bounds.

    Example:
        >>> pass_at_k(np.array([1]), n_samples=4, k=2)
        0.5

    Source: Chen et al., arXiv:2107.03374v2, eq. 1.
    """
    if not 1 <= k <= n_samples:
        raise ValueError(f"Expected 1 <= k <= {n_samples} (the samples of each problem), actual: {k}.")
    total = math.comb(n_samples, k)
    return float(np.mean([1.0 - math.comb(n_samples - int(c), k) / total for c in n_solved]))


def pass_interval(solved: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """95 % interval of pass@1.

    One response a problem, or one problem: Wilson's score interval. Several: responses to one problem resemble one
    another, so the problems' means are what varies, ``mean +- 1.96 std / sqrt(P)``, within [0, 1]. Where all of them
    are equal, that would claim certainty: Wilson's interval for ``P`` responses.

    Args:
        solved: ``(P, samples)`` bool.

    Example:
        >>> low, high = pass_interval(np.array([[True]] * 50 + [[False]] * 50))
        >>> round(low, 3), round(high, 3)
        (0.404, 0.596)

    Source: Wilson, JASA 22 (1927); Miller, arXiv:2411.00640v1, section 2.2.
    """
    n, samples = solved.shape
    mean = float(solved.mean())
    n_solved = solved.sum(axis=1)
    all_equal = bool((n_solved == n_solved[0]).all())
    if samples == 1 or all_equal:
        n_all = solved.size if n == 1 else n
        centre = (mean + _Z**2 / (2 * n_all)) / (1 + _Z**2 / n_all)
        half = _Z / (1 + _Z**2 / n_all) * math.sqrt(mean * (1 - mean) / n_all + _Z**2 / (4 * n_all**2))
    else:
        centre = mean
        half = _Z * float(solved.mean(axis=1).std(ddof=1)) / math.sqrt(n)
    return max(0.0, centre - half), min(1.0, centre + half)


def _powers_of_two(limit: int) -> list[int]:
    return [2**i for i in range(limit.bit_length()) if 2**i <= limit]


def _as_text(policy: Policy, batch: RolloutBatch, row: int, solved: bool) -> dict[str, Any]:
    return {
        "prompt": policy.text(batch.prompt_of(row)),
        "response": policy.text(batch.response_of(row)),
        "solved": solved,
        "return": float(batch.episode_returns[row]),
        "rewards": {name: float(values[row]) for name, values in batch.reward_components.items()},
        "stop_reason": batch.stop_reasons[row],
        "prompt_tokens": int(batch.prompt_lengths[row]),
        "response_tokens": int(batch.response_mask[row].sum()),
    }
