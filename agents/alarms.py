"""Warnings when a run goes wrong: which trouble, the numbers that show it, and what to do.

Most trouble of a training is silent: it goes on and learns less. Each rule below reads the metrics of an iteration and
a short memory of those before. It speaks once its patience is over, and again only after the trouble has been away
for a while. No rule changes what is learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

import torch

#: Iterations over which a noisy number is averaged. Fewer and single bad rollouts speak; more and the word comes late.
WINDOW = 5
#: Values that such an average needs, where waiting for all of them would be late.
FEWEST = 3
#: Iterations whose median is the usual size of a gradient.
MEMORY = 20
#: Iterations in a row without trouble after which an alarm is over.
CALM = 5

#: Share of episodes that the policy ends itself: below, (nearly) everything is cut off by a budget.
LEAST_TERMINATED = 0.02
#: A standard deviation of returns below this share of their size is rounding: all responses earn the same.
CONSTANT = 1e-6
#: Nats a token. A policy of 0.002 departs from its likeliest response about once in 5000 tokens; trained models that
#: still learn are at 0.02 and above.
LEAST_ENTROPY = 0.002
#: Share of the entropy at the start. Runs that learn well fall to a tenth; without any gain, a twentieth is too far.
LEAST_ENTROPY_SHARE = 0.05
#: Spread of returns, as a share of their mean, below which a policy without entropy is simply done: it fails 1 in 100.
SOLVED_SPREAD = 0.1
#: Nats a token between the old policy and the current one, mean over WINDOW iterations. Target values in use are 0.01
#: to 0.03; a run that learns well stays far below, one with three times its learning rate goes above and then down.
LARGEST_APPROX_KL = 0.025
#: Nats a token from the reference policy: each token is e times as likely, or unlikely, as it was there.
LARGEST_KL_TO_REF = 1.0
#: How much larger than its median a gradient may be. It doubles and halves from iteration to iteration in any run.
LARGEST_GRAD_GROWTH = 10.0
#: A return has collapsed when this share of what had been gained is lost, and more than LUCK.
LOST_GAIN = 0.5
#: Share of the standard deviation of returns. A mean that moves by less may be luck: over WINDOW iterations, good runs
#: fall to a fifth below their best.
LUCK = 0.3
#: Explained variance of a critic; 0 is a constant. A new critic is briefly below, one that stays there does harm.
LEAST_EXPLAINED_VARIANCE = -0.2
#: How far the first ratio may be from 1, the largest error over all tokens: sampling and learning compute the same
#: numbers in different shapes, and so round differently. Runs in float32 are below 2e-4.
RATIO_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.5}


class TrainingWarning(UserWarning):
    """A run goes wrong."""


@dataclass(frozen=True)
class Alarm:
    """Trouble.

    Attributes:
        name: Of the rule, as in ``docs/metrics.md``.
        iteration: When it was noticed.
        evidence: The numbers that show it.
        mend: What to do.
    """

    name: str
    iteration: int
    evidence: str
    mend: str

    def __str__(self) -> str:
        return f"{self.name} (iteration {self.iteration}): {self.evidence} {self.mend}"


class Memory:
    """What the rules know beside the current iteration."""

    def __init__(self, ratio_tolerance: float) -> None:
        self.ratio_tolerance = ratio_tolerance
        #: Name of a metric -> its last values, the current one included; iterations without it are left out.
        self.recent: dict[str, list[float]] = {}
        #: Name of a metric -> mean over its first WINDOW values.
        self.start: dict[str, float] = {}
        #: The best mean return over WINDOW iterations, the spread of returns then, and when.
        self.best: dict[str, float] | None = None

    def add(self, metrics: Mapping[str, Any]) -> None:
        """One more iteration."""
        for name in _REMEMBERED:
            value = number(metrics, name)
            if value is not None:
                values = self.recent.setdefault(name, [])
                values.append(value)
                if len(values) <= WINDOW:
                    self.start[name] = fmean(values)
                del values[:-MEMORY]
        if len(self.recent.get("rollout/return", ())) >= WINDOW:
            mean = self.mean("rollout/return")
            if self.best is None or mean > self.best["mean"]:
                spread = self.mean("rollout/return_std")
                self.best = {"mean": mean, "spread": spread, "iteration": metrics["iteration"]}

    def mean(self, name: str) -> float:
        """Mean over the last WINDOW values, or as many as there are; 0 without any."""
        values = self.recent.get(name, ())[-WINDOW:]
        return fmean(values) if values else 0.0

    def spread(self) -> float:
        """Standard deviation of the returns: the larger of that at the best time and now."""
        return max(self.mean("rollout/return_std"), 0.0 if self.best is None else self.best["spread"])

    def has_risen(self) -> bool:
        """Whether the return is above that of the start, beyond luck."""
        return self.mean("rollout/return") - self.start["rollout/return"] > LUCK * self.spread()

    def has_fallen(self) -> bool:
        """Whether the return is below its best, beyond luck."""
        return self.best is not None and self.best["mean"] - self.mean("rollout/return") > LUCK * self.spread()


_REMEMBERED = ("rollout/return", "rollout/return_std", "train/entropy", "train/approx_kl", "train/grad_norm")


@dataclass(frozen=True)
class Rule:
    """How a trouble is noticed.

    Attributes:
        name: Of the trouble.
        needs: Metrics. An iteration without one of them says nothing about this trouble.
        patience: Iterations in a row that have to show it.
        evidence: What an iteration shows, with numbers; ``None``: nothing.
        mend: What to do.
    """

    name: str
    needs: tuple[str, ...]
    patience: int
    evidence: Callable[[Mapping[str, Any], Memory], str | None]
    mend: str


def number(metrics: Mapping[str, Any], name: str) -> float | None:
    """A metric, if it is there and a number; an infinite one is, and above every limit."""
    value = metrics.get(name)
    return float(value) if isinstance(value, (int, float)) and not math.isnan(value) else None


# -- the rules --------------------------------------------------------------------------------------------------------


def _constant(metrics: Mapping[str, Any], memory: Memory) -> str | None:
    mean, spread = metrics["rollout/return"], metrics["rollout/return_std"]
    if spread > CONSTANT * max(1.0, abs(mean)):
        return None
    return f"All {metrics['rollout/episodes']} responses earned the same, {mean:.4g}: there is nothing to learn from."


def _no_signal(metrics: Mapping[str, Any], memory: Memory) -> str | None:
    if metrics["train/groups_with_signal"] > 0 or _constant(metrics, memory) is not None:
        return None
    return (
        "In each group all responses earned the same, though groups differ (standard deviation of returns "
        f"{metrics['rollout/return_std']:.3g}): every advantage is 0."
    )


def _truncated(metrics: Mapping[str, Any], memory: Memory) -> str | None:
    ended = metrics["rollout/terminated"]
    if ended > LEAST_TERMINATED or memory.has_risen():  # a task may ask for as many tokens as its budget allows
        return None
    return (
        f"{100 * (1 - ended):.1f} % of the responses were cut off by a budget, after {metrics['rollout/length']:.0f} "
        "tokens on average."
    )


def _entropy(metrics: Mapping[str, Any], memory: Memory) -> str | None:
    now, start = metrics["train/entropy"], memory.start["train/entropy"]
    mean, spread = metrics["rollout/return"], metrics["rollout/return_std"]
    none_left = now < LEAST_ENTROPY and spread > SOLVED_SPREAD * abs(mean)
    if not none_left and (now >= LEAST_ENTROPY_SHARE * start or (memory.has_risen() and not memory.has_fallen())):
        return None
    return (
        f"train/entropy fell from {start:.2g} to {now:.2g} nats a token while the returns still differ (mean "
        f"{mean:.3g}, standard deviation {spread:.3g}): little is tried that could be better."
    )


def _approx_kl(metrics: Mapping[str, Any], memory: Memory) -> str | None:
    values = memory.recent["train/approx_kl"][-WINDOW:]
    mean = fmean(values)
    if len(values) < FEWEST or mean <= LARGEST_APPROX_KL:
        return None
    return (
        f"train/approx_kl is {mean:.3g} nats a token over {len(values)} iterations (healthy: below "
        f"{LARGEST_APPROX_KL}), {metrics['train/approx_kl']:.3g} now: each update leaves the policy that sampled its "
        "data."
    )


def _kl_to_ref(metrics: Mapping[str, Any], memory: Memory) -> str | None:
    now = metrics["train/kl_to_ref"]
    if now <= LARGEST_KL_TO_REF:
        return None
    return f"train/kl_to_ref is {now:.3g} nats a token (healthy: below {LARGEST_KL_TO_REF:g})."


def _ratio(metrics: Mapping[str, Any], memory: Memory) -> str | None:
    error = metrics["train/first_ratio_error"]
    if error <= memory.ratio_tolerance:
        return None
    return (
        f"train/first_ratio_error is {error:.3g}, and rounding explains {memory.ratio_tolerance:g}: the learner gives "
        "the sampled tokens other probabilities than the sampler did."
    )


def _gradient(metrics: Mapping[str, Any], memory: Memory) -> str | None:
    *before, now = memory.recent["train/grad_norm"]
    before = [norm for norm in before if norm > 0]  # iterations in which nothing could be learned are no measure
    if len(before) < WINDOW or now <= LARGEST_GRAD_GROWTH * median(before):
        return None
    return f"train/grad_norm is {now:.3g}; its median over {len(before)} iterations is {median(before):.3g}."


def _collapse(metrics: Mapping[str, Any], memory: Memory) -> str | None:
    if memory.best is None or not memory.has_fallen():
        return None
    mean, best = memory.mean("rollout/return"), memory.best["mean"]
    if best - mean <= LOST_GAIN * (best - memory.start["rollout/return"]):
        return None
    return (
        f"The return is {mean:.3g} over {WINDOW} iterations; it was {best:.3g} at iteration "
        f"{memory.best['iteration']:.0f}."
    )


def _value(metrics: Mapping[str, Any], memory: Memory) -> str | None:
    explained = metrics["train/explained_variance"]
    if explained >= LEAST_EXPLAINED_VARIANCE:
        return None
    return f"train/explained_variance is {explained:.3g}: the value function is worse than a constant."


_SLOWER = "Lower learning_rate, n_epochs or n_minibatches"

#: What is looked for. A patience of 1 is for what chance cannot show.
RULES = (
    Rule(
        "reward_constant", ("rollout/return", "rollout/return_std"), 3, _constant,
        "If they earn the best there is, stop or pose harder problems; else pose easier ones, add a reward for parts "
        "of the task, or start from a model that solves some.",
    ),
    Rule(
        "no_signal", ("rollout/return", "rollout/return_std", "train/groups_with_signal"), 3, _no_signal,
        "Pose problems that are solved now and then (data of another level, or dynamic_sampling), or raise group_size "
        "or temperature.",
    ),
    Rule(
        "all_truncated", ("rollout/return", "rollout/terminated"), 3, _truncated,
        "Raise max_new_tokens of the environment, or check that the model knows its end token.",
    ),
    Rule(
        "entropy_collapse", ("rollout/return", "rollout/return_std", "train/entropy"), 3, _entropy,
        "Go back to a checkpoint and raise ent_coef, temperature or clip_range_high, or lower learning_rate.",
    ),
    Rule(
        "kl_blow_up", ("train/approx_kl",), 1, _approx_kl,
        f"{_SLOWER}, or stop the epochs at a target_kl where there is one.",
    ),
    Rule(
        "kl_to_ref_blow_up", ("train/kl_to_ref",), 3, _kl_to_ref,
        "Raise kl_coef or lower learning_rate; read some responses.",
    ),
    Rule(
        "first_ratio", ("train/first_ratio_error",), 1, _ratio,
        "Check that temperature, top_k, top_p, forbidden tokens, dropout and dtype are the same in both; with a "
        "sampler of your own, set importance_cap.",
    ),
    Rule(
        "gradient_blow_up", ("train/grad_norm",), 2, _gradient,
        "Lower learning_rate or max_grad_norm; look for a reward of another size than the rest.",
    ),
    Rule(
        "return_collapse", ("rollout/return", "rollout/return_std"), 3, _collapse,
        "Unless the problems became harder: go back to the checkpoint of that time with a third of learning_rate, "
        "fewer n_epochs, or a kl_coef.",
    ),
    Rule(
        "value_function", ("train/explained_variance",), 10, _value,
        "Pretrain the critic for more iterations, raise vf_coef or the critic's learning rate, or use gae_lambda 1.",
    ),
)  # fmt: skip


class Alarms:
    """All rules, with their memory.

    Args:
        dtype: Of the policy's numbers: how far rounding can take the first ratio from 1.

    Attributes:
        active: Name -> the alarm, from when it speaks until its trouble is over.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.active: dict[str, Alarm] = {}
        self._memory = Memory(RATIO_TOLERANCE[dtype])
        self._in_a_row: dict[str, int] = {}  # iterations with trouble (above 0), or without it (below)

    def check(self, metrics: Mapping[str, Any]) -> list[Alarm]:
        """The alarms that an iteration raises; those that spoke before and are not over are left out."""
        self._memory.add(metrics)
        new = []
        for rule in RULES:
            if any(number(metrics, name) is None for name in rule.needs):
                continue
            evidence = rule.evidence(metrics, self._memory)
            run = self._in_a_row.get(rule.name, 0)
            run = max(run, 0) + 1 if evidence is not None else min(run, 0) - 1
            self._in_a_row[rule.name] = run
            if run <= -CALM:
                self.active.pop(rule.name, None)
            if evidence is not None and run >= rule.patience and rule.name not in self.active:
                alarm = Alarm(rule.name, metrics["iteration"], evidence, rule.mend)
                self.active[rule.name] = alarm
                new.append(alarm)
        return new

    def state_dict(self) -> dict[str, Any]:
        """The memory as plain JSON values."""
        memory = self._memory
        return {
            "active": [asdict(alarm) for alarm in self.active.values()],
            "in_a_row": dict(self._in_a_row),
            "recent": {name: list(values) for name, values in memory.recent.items()},
            "start": dict(memory.start),
            "best": None if memory.best is None else dict(memory.best),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.active = {alarm["name"]: Alarm(**alarm) for alarm in state["active"]}
        self._in_a_row = dict(state["in_a_row"])
        memory = self._memory
        memory.recent = {name: list(values) for name, values in state["recent"].items()}
        memory.start, memory.best = dict(state["start"]), None if state["best"] is None else dict(state["best"])
