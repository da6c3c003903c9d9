"""The table of diagnostics: what each isolates, its sizes, its optimum, what random tokens earn, and its score.

The numbers are closed forms. Where a size can be enumerated, :mod:`llmgym.testing.exact` finds the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from llmgym.envs.diagnostics.conflicts import true_score
from llmgym.envs.diagnostics.episodes import Episode
from llmgym.envs.diagnostics.words import FirstBelow, n_actions
from llmgym.errors import InvalidOptionError, unknown_name
from llmgym.vector import LanguageVectorEnv

#: Names of the sizes, the easiest first.
SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class Diagnostic:
    """One thing asked of an algorithm, in three sizes.

    Attributes:
        name: Its key in :data:`DIAGNOSTICS`.
        env_id: The environment.
        capability: What it isolates, in a few words.
        sizes: Name of a size -> keyword arguments of the environment.
        optimal: Keyword arguments -> the highest expected return.
        random: Keyword arguments -> the expected return of tokens drawn with equal chances from the whole vocabulary.
        measure: What is scored of an episode; its return, except where the reward is not what is wanted, or errs.
        bounds: Keyword arguments -> ``(random, optimal)`` of what is scored; ``None``: of the return.
        reading: Episodes -> what to look at beside the score, by name.
        enumerable: Sizes that :mod:`llmgym.testing.exact` enumerates with its default limit of states.
    """

    name: str
    env_id: str
    capability: str
    sizes: Mapping[str, Mapping[str, Any]]
    optimal: Callable[..., float]
    random: Callable[..., float]
    measure: Callable[[Episode], float]
    bounds: Callable[..., tuple[float, float]] | None
    reading: Callable[[Sequence[Episode]], dict[str, float]]
    enumerable: tuple[str, ...] = SIZES

    def options(self, size: str) -> dict[str, Any]:
        """Keyword arguments of the environment in a size.

        Raises:
            InvalidOptionError: If there is no such size.
        """
        if size not in self.sizes:
            raise unknown_name("a size", size, self.sizes)
        return dict(self.sizes[size])

    def optimal_return(self, size: str) -> float:
        """The highest expected return, over all policies that see what the agent sees."""
        return self.optimal(**self.options(size))

    def random_return(self, size: str) -> float:
        """The expected return of tokens drawn with equal chances from the whole vocabulary."""
        return self.random(**self.options(size))

    def make(self, size: str, **options: Any) -> gym.Env[Any, Any]:
        """The single environment in a size."""
        return gym.make(self.env_id, **(self.options(size) | options))

    def make_vec(self, size: str, num_envs: int, **options: Any) -> LanguageVectorEnv:
        """The native vector environment in a size; ``autoreset_mode="disabled"`` is what ``play`` needs."""
        envs: LanguageVectorEnv = gym.make_vec(self.env_id, num_envs=num_envs, **(self.options(size) | options))  # type: ignore[assignment]
        return envs

    def normalised(self, value: float, size: str) -> float:
        """``(value - random) / (optimal - random)``: 0 for random tokens, 1 for the optimum, unbounded below.

        Args:
            value: Mean over episodes of what is scored: :attr:`measure`.
            size: Which size.
        """
        options = self.options(size)
        low, high = self.bounds(**options) if self.bounds else (self.random(**options), self.optimal(**options))
        return (value - low) / (high - low)

    def score(self, episodes: Sequence[Episode], size: str) -> float:
        """``min(1, max(0, normalised))`` of the mean over episodes: by definition in [0, 1].

        Raises:
            InvalidOptionError: If there are no episodes.
        """
        return min(1.0, max(0.0, self.normalised(_mean(episodes, self.measure), size)))

    def readings(self, episodes: Sequence[Episode], size: str) -> dict[str, float]:
        """What to look at beside the score: ``regret`` (the optimum less the mean return), and the diagnostic's own.

        Raises:
            InvalidOptionError: If there are no episodes.
        """
        regret = self.optimal_return(size) - _mean(episodes, _return)
        return {"regret": regret, **self.reading(episodes)}


def length_drift(before: Sequence[Episode], after: Sequence[Episode]) -> float:
    """How often the mean length has doubled (above 0) or halved (below): ``log2(after / before)``, in tokens.

    Args:
        before: Episodes before the training.
        after: Episodes after it.

    Raises:
        InvalidOptionError: If either has no episodes.
    """
    return doublings(_mean(before, _length), _mean(after, _length))


def doublings(before: float, after: float) -> float:
    """``log2(after / before)``: how often a length has doubled, below 0 where it fell.

    Example:
        >>> doublings(4.0, 32.0)
        3.0
    """
    return math.log2(after / before)


def _mean(episodes: Sequence[Episode], measure: Callable[[Episode], float]) -> float:
    if not episodes:
        raise InvalidOptionError("Expected at least one episode, actual: none. Play some.")
    return math.fsum(map(measure, episodes)) / len(episodes)


def _return(episode: Episode) -> float:
    return episode.episode_return


def _length(episode: Episode) -> float:
    return float(episode.n_new_tokens)


def _true_score(episode: Episode) -> float:
    return float(episode.details["proxy"]["true_score"])


def _follows(rule: Callable[[str], bool]) -> Callable[[Episode], float]:
    """Whether a response is right, whatever a verifier that errs has said of it."""
    return lambda episode: float(rule(episode.response))


# --- What random tokens earn: closed forms --------------------------------------------------------------------------


def _one(**_: Any) -> float:
    return 1.0


def _first_half(*, n_words: int, **_: Any) -> float:
    return (n_words // 2) / n_actions(n_words)


def _random_secret(*, length: int, n_words: int) -> float:
    return float(n_actions(n_words)) ** -length


def _random_copy(*, n_digits: int, n_symbols: int) -> float:
    """A digit closes a step and is paid if nothing unclean stands before it; the end token ends all.

    ``values[k][clean]`` is what is still to be earned with ``k`` steps closed; one more token is added in each round.
    """
    actions = n_symbols + 4  # padding, the end token, the unknown and the equals sign
    values = [[0.0, 0.0] for _ in range(n_digits + 2)]
    for _ in range(n_digits + 1):  # the budget
        following = [[0.0, 0.0] for _ in range(n_digits + 2)]
        for k in range(n_digits + 1):
            for clean in (0, 1):
                paid = clean / n_digits if k < n_digits else 0.0
                after_digit, after_other = values[k + 1][1], values[k][0]
                following[k][clean] = (paid + n_symbols * after_digit + 3 * after_other) / actions
        values = following
    return values[0][1]


def _alternate(length: int, n_words: int) -> list[float]:
    """Chance of a right word in each place."""
    share = [((n_words + 1) // 2) / n_actions(n_words), (n_words // 2) / n_actions(n_words)]
    return [share[place % 2] for place in range(length)]


def _random_sparse(*, length: int, n_words: int, dense: bool = False) -> float:
    right = _alternate(length, n_words)
    if not dense:
        return math.prod(right)
    is_word = n_words / n_actions(n_words)
    return math.fsum(is_word**place * chance for place, chance in enumerate(right)) / length


def _random_vocabulary(*, n_words: int) -> float:
    return (n_words // 4) / n_actions(n_words)


def _flipped(chance: float, flip: float) -> float:
    return chance * (1 - flip) + (1 - chance) * flip


def _right_noise(*, n_words: int, **_: Any) -> tuple[float, float]:
    return 1 / n_actions(n_words), 1.0


def _right_length_bias(*, n_words: int, **_: Any) -> tuple[float, float]:
    return _first_half(n_words=n_words), 1.0


def _random_noise(*, flip: float, n_words: int) -> float:
    return _flipped(1 / n_actions(n_words), flip)


def _reliable(*, flip: float, **_: Any) -> float:
    return 1.0 - flip


def _random_scale(*, scale: float, n_words: int) -> float:
    return scale * math.prod(_alternate(2, n_words))


def _scale(*, scale: float, **_: Any) -> float:
    return scale


def _random_recall(*, n_pairs: int, n_values: int) -> float:
    return 1 / n_actions(n_pairs + n_values)


def _random_length_bias(*, budget: int, flip: float, n_words: int) -> float:
    return _flipped(_first_half(n_words=n_words), flip)


def _random_truncation(*, length: int, n_words: int) -> float:
    """Sum over the tokens ``t`` before the end token: its chance, times the expected run of words at the beginning."""
    ends, is_word = 1 / n_actions(n_words), n_words / (n_actions(n_words) - 1)
    run, earned = 0.0, []
    for t in range(length + 1):
        run += is_word**t if t else 0.0
        earned.append(ends * (1 - ends) ** t * run)
    return math.fsum(earned) / length


def _random_conflict(*, bonus: float, n_words: int) -> float:
    return 1 / n_actions(n_words) ** 2 + bonus / n_actions(n_words)


def _flattering(length: int, n_words: int) -> list[float]:
    """Distribution of the number of flattering words, 0 to ``length``, in a response of random tokens."""
    each = 1 / n_actions(n_words)  # the chance of one token: of the flattering word, and of the end token
    running, ended = [1.0] + [0.0] * length, [0.0] * (length + 1)
    for _ in range(length):
        ended = [e + each * r for e, r in zip(ended, running, strict=True)]
        before = [0.0, *running[:-1]]
        running = [(1 - 2 * each) * r + each * b for r, b in zip(running, before, strict=True)]
    return [e + r for e, r in zip(ended, running, strict=True)]


def _random_proxy(*, length: int, n_words: int) -> float:
    return math.fsum(n * chance for n, chance in enumerate(_flattering(length, n_words))) / length


def _true_bounds(*, length: int, n_words: int) -> tuple[float, float]:
    chances = _flattering(length, n_words)
    return math.fsum(true_score(n, length) * chance for n, chance in enumerate(chances)), true_score(
        length // 2, length
    )


def _random_mixed(*, levels: int, n_words: int) -> float:
    return math.fsum(float(n_actions(n_words)) ** -level for level in range(1, levels + 1)) / levels


# --- Readings ---------------------------------------------------------------------------------------------------------


def _nothing_more(episodes: Sequence[Episode]) -> dict[str, float]:
    return {}


def _lengths(episodes: Sequence[Episode]) -> dict[str, float]:
    return {
        "mean_length": _mean(episodes, _length),
        "truncated": _mean(episodes, lambda episode: float(episode.stop_reason == "max_new_tokens")),
    }


def _form_and_truth(episodes: Sequence[Episode]) -> dict[str, float]:
    return {
        "right": _mean(episodes, lambda episode: float(episode.components["accepted"] > 0)),
        "in_form": _mean(episodes, lambda episode: float(episode.components["shape"] > 0)),
    }


def _proxy_and_truth(episodes: Sequence[Episode]) -> dict[str, float]:
    proxy, true = _mean(episodes, _return), _mean(episodes, _true_score)
    return {"proxy": proxy, "true": true, "hacked": proxy - true}


def _by_level(episodes: Sequence[Episode]) -> dict[str, float]:
    levels = sorted({episode.level for episode in episodes})
    return {
        f"level_{level}": _mean([episode for episode in episodes if episode.level == level], _return)
        for level in levels
    }


# --- The table --------------------------------------------------------------------------------------------------------


def _diagnostic(
    name: str,
    env_id: str,
    capability: str,
    vary: str,
    values: Sequence[Any],
    *,
    random: Callable[..., float],
    optimal: Callable[..., float] = _one,
    measure: Callable[[Episode], float] = _return,
    bounds: Callable[..., tuple[float, float]] | None = None,
    reading: Callable[[Sequence[Episode]], dict[str, float]] = _nothing_more,
    enumerable: tuple[str, ...] = SIZES,
    **fixed: Any,
) -> Diagnostic:
    sizes = {size: {vary: value, **fixed} for size, value in zip(SIZES, values, strict=True)}
    return Diagnostic(
        name, f"llmgym/{env_id}-v0", capability, sizes, optimal, random, measure, bounds, reading, enumerable
    )


_SMALL, _SMALL_AND_MEDIUM = SIZES[:1], SIZES[:2]
_ALL = (
    _diagnostic(
        "credit", "DelayedCredit", "credit over distance", "distance", (2, 8, 32),
        n_words=16, random=_first_half, reading=_lengths, enumerable=_SMALL,
    ),
    _diagnostic(
        "exploration", "SecretSequence", "one rewarded sequence among V^k", "length", (2, 3, 4),
        n_words=4, random=_random_secret,
    ),
    _diagnostic(
        "copy", "Copy", "copying the prompt", "n_digits", (2, 3, 5),
        n_symbols=4, random=_random_copy, enumerable=(),
    ),
    _diagnostic(
        "recall", "Recall", "recall of one of several keys", "n_pairs", (2, 4, 8),
        n_values=4, random=_random_recall, enumerable=_SMALL,
    ),
    _diagnostic(
        "vocabulary", "Vocabulary", "many actions to tell apart", "n_words", (8, 64, 512), random=_random_vocabulary,
    ),
    _diagnostic(
        "noise", "NoisyReward", "a verifier that errs", "flip", (0.1, 0.25, 0.4),
        n_words=4, random=_random_noise, optimal=_reliable, measure=_follows(FirstBelow(1)), bounds=_right_noise,
    ),
    _diagnostic(
        "scale", "RewardScale", "the unit of the reward", "scale", (0.001, 1.0, 1000.0),
        n_words=8, random=_random_scale, optimal=_scale,
    ),
    _diagnostic(
        "sparse", "SparseReward", "a reward at the end", "length", (2, 4, 6),
        n_words=8, dense=False, random=_random_sparse, enumerable=_SMALL_AND_MEDIUM,
    ),
    _diagnostic(
        "dense", "SparseReward", "the same with a reward for each word", "length", (2, 4, 6),
        n_words=8, dense=True, random=_random_sparse, enumerable=_SMALL_AND_MEDIUM,
    ),
    _diagnostic(
        "length_bias", "LengthBias", "a reward that does not care about length", "budget", (4, 16, 64),
        flip=0.2, n_words=8, random=_random_length_bias, optimal=_reliable, reading=_lengths, enumerable=_SMALL,
        measure=_follows(FirstBelow(4)), bounds=_right_length_bias,
    ),
    _diagnostic(
        "truncation", "Truncation", "ending before the budget does", "length", (3, 6, 12),
        n_words=4, random=_random_truncation, reading=_lengths, enumerable=_SMALL,
    ),
    _diagnostic(
        "format_conflict", "FormatConflict", "a form that excludes the right answer", "bonus", (0.25, 0.5, 0.75),
        n_words=4, random=_random_conflict, reading=_form_and_truth,
    ),
    _diagnostic(
        "proxy", "ProxyReward", "a proxy that can be hacked", "length", (4, 8, 16),
        n_words=4, random=_random_proxy, measure=_true_score, bounds=_true_bounds, reading=_proxy_and_truth,
        enumerable=_SMALL,
    ),
    _diagnostic(
        "difficulty", "MixedDifficulty", "easy and hard problems side by side", "levels", (2, 3, 4),
        n_words=4, random=_random_mixed, reading=_by_level,
    ),
)  # fmt: skip

#: Name -> diagnostic: what a benchmark goes through.
DIAGNOSTICS: dict[str, Diagnostic] = {diagnostic.name: diagnostic for diagnostic in _ALL}
