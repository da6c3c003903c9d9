"""Each estimator of the agents against the exact solver: right on average, and a planted error of each is found.

The measuring itself is that of ``benchmarks/estimator_bias.py``, with fewer samples.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from llmgym.agents import advantages, grpo, kl, losses, policy_gradient, ppo  # noqa: E402
from llmgym.agents.advantages import (  # noqa: E402
    gae,
    group_advantages,
    process_advantages,
    td_advantages,
)
from llmgym.agents.kl import kl_estimate, kl_loss  # noqa: E402
from llmgym.agents.losses import approx_kl, clipped_policy_loss  # noqa: E402

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
try:
    estimator_bias = importlib.import_module("estimator_bias")
finally:
    sys.path.remove(str(BENCHMARKS))

EPISODES = 12_000
CASES = {case.name: case for case in estimator_bias.all_cases()}
SLOW = ("GRPO, k1 in the reward", "GRPO, k3 in the loss")
AGENTS = [name for name in CASES if name.startswith(("GRPO", "PPO"))]
#: Functions of the agents that estimate nothing: what they give is a matter of definition.
NO_ESTIMATORS = {
    "groups_with_signal",
    "penalty_coef_update",
    "proportional_coef_update",
    "rewards_of_actions",
    "soft_overlong_penalty",
}


# --- Planted errors ---------------------------------------------------------------------------------------------------


def shifted_gae(*inputs: Any, **factors: Any) -> Any:
    """Each token gets the advantage of the one before it."""
    advantages, targets = gae(*inputs, **factors)
    return advantages.roll(1, dims=1), targets


def one_step_only(rewards: Any, values: Any, last_values: Any, mask: Any, *_: Any, gamma: float, **__: Any) -> Any:
    """The value of the next state is forgotten."""
    return rewards - values, rewards


def last_token_only(*inputs: Any, gamma: float, gae_lambda: float) -> Any:
    """The end of an episode reaches the token that brought it about, and no other."""
    return gae(*inputs, gamma=gamma, gae_lambda=0.0)


def careless_td(rewards: Any, values: Any, last_values: Any, mask: Any, *, gamma: float) -> Any:
    """The end of an episode is worth what its last state was."""
    width = torch.arange(mask.shape[1])
    last = values.gather(1, (mask * width).amax(1, keepdim=True))[:, 0]
    return td_advantages(rewards, values, last, mask, gamma=gamma)


def targets_without_values(*inputs: Any, **factors: Any) -> Any:
    advantages, _ = gae(*inputs, **factors)
    return advantages, advantages


def with_oneself(returns: Any, *, normalization: str) -> Any:
    return returns - returns.mean(dim=1, keepdim=True)


def without_oneself(returns: Any, *, normalization: str) -> Any:
    return group_advantages(returns, normalization="leave_one_out")


def over_the_batch(returns: Any, *, normalization: str) -> Any:
    return (returns - returns.mean()) / (returns.std(correction=0) + 1e-4)


def worst_first(returns: Any, *, normalization: str) -> Any:
    return group_advantages(-returns, normalization=normalization)


def other_direction(logprobs: Any, ref_logprobs: Any, estimator: str) -> Any:
    return kl_estimate(ref_logprobs, logprobs, estimator)


def not_halved(logprobs: Any, ref_logprobs: Any, estimator: str) -> Any:
    return (logprobs - ref_logprobs) ** 2


def ratio_misplaced(new: Any, old: Any, ref: Any, *, estimator: str, corrected: bool) -> Any:
    """A constant ratio where it has to have a gradient, and the other way about."""
    ratio = torch.exp(new - old)
    return (ratio if estimator == "k2" else ratio.detach()) * kl_estimate(new, ref, estimator)


def away_from_it(new: Any, old: Any, ref: Any, *, estimator: str, corrected: bool) -> Any:
    return -kl_loss(new, old, ref, estimator=estimator, corrected=corrected)


def inverted_ratio(new: Any, old: Any, advantages: Any, *, clip_range: float) -> Any:
    return clipped_policy_loss(2 * old.detach() - new, old, advantages, clip_range=clip_range)


def end_left_out(new: Any, old: Any, advantages: Any, **ranges: Any) -> Any:
    """The last token of the longest responses earns nothing; the end token of all is among them."""
    kept = torch.ones_like(advantages)
    kept[:, -1] = 0
    return clipped_policy_loss(new, old, advantages * kept, **ranges)


def unclipped(new: Any, old: Any, advantages: Any, *, clip_range: float) -> Any:
    return -torch.exp(new - old) * advantages


def each_response_apart(rewards: Any, mask: Any, steps: Any, *, group_size: int) -> Any:
    """A response is compared with itself alone."""
    return process_advantages(rewards, mask, steps, group_size=1)


def shorter_is_longer(lengths: Any, *, alpha: float) -> Any:
    """What is left of 1, in place of what is taken away."""
    return 1.0 / (alpha * lengths)


def by_the_variance(advantages: Any, mask: Any) -> Any:
    return advantages / advantages[mask].var()


def stops_gradients(new: Any, old: Any, advantages: Any, *, clip_range: None, clip_range_high: float) -> Any:
    """The clipped surrogate, which gives up the tokens that it clips."""
    return clipped_policy_loss(new, old, advantages, clip_range=0.99, clip_range_high=clip_range_high)


def price_reversed(new: Any, old: Any, advantages: Any, *, kl_coef: float) -> Any:
    return losses.penalty_policy_loss(new, old, advantages, kl_coef=-kl_coef)


def ratio_of_tokens(new: Any, old: Any, advantages: Any, mask: Any, *, clip_range: float) -> Any:
    return clipped_policy_loss(new, old, advantages.expand_as(new), clip_range=clip_range)


def without_cap(old: Any, sampler: Any, *, cap: float) -> Any:
    return torch.exp(old - sampler)


def doubled_error(values: Any, old: Any, targets: Any, *, clip_range: Any) -> Any:
    return 2 * (targets - values) ** 2


def near_alone(values: Any, old: Any, targets: Any, *, clip_range: float) -> Any:
    """The clipped error, even where the other is larger."""
    return (targets - torch.clamp(values, old - clip_range, old + clip_range)) ** 2


def the_other_way(new: Any, old: Any, mask: Any) -> Any:
    """As if the current policy had chosen the tokens."""
    return approx_kl(old, new, mask)


def of_either_sign(new: Any, old: Any, advantages: Any, mask: Any, *, clip_range: float) -> Any:
    """Every ratio outside the range, whether its gradient is stopped or not."""
    outside = (torch.exp(new - old) - 1).abs() > clip_range
    return outside[mask].double().mean()


def summed_logratio(new: Any, old: Any, mask: Any) -> Any:
    return losses.sequence_logratio(new, old, mask) * mask.sum(1, keepdim=True)


def surest_token(logits: Any) -> Any:
    return -logits.log_softmax(-1).amax(-1)


def about_zero(values: Any, returns: Any, mask: Any) -> Any:
    """The returns' square in place of their variance."""
    return 1 - ((returns - values)[mask] ** 2).mean() / (returns[mask] ** 2).mean()


PLANTED: dict[str, Callable[..., Any]] = {
    "gae, lambda 1, a wrong critic": shifted_gae,
    "gae, lambda 0.9, the true critic": shifted_gae,
    "gae, lambda 0.9, a wrong critic": one_step_only,
    "td, the true critic": careless_td,
    "td, a wrong critic": careless_td,
    "step_gae, lambda 1, a wrong critic": one_step_only,
    "gae's targets, lambda 1, a wrong critic": targets_without_values,
    "process_advantages, pairs": each_response_apart,
    "gae, length_adaptive_lambda, a wrong critic": shorter_is_longer,
    "step_gae, lambda 0.9, a wrong critic": one_step_only,
    "whiten, 2000 responses": by_the_variance,
    "group_advantages, leave_one_out": with_oneself,
    "group_advantages, mean": without_oneself,
    "group_advantages, z_score": over_the_batch,
    "group_advantages, rank": worst_first,
    "kl_estimate, k1": other_direction,
    "kl_estimate, k2": not_halved,
    "kl_estimate, k3": other_direction,
    "kl_loss, k1, corrected, on policy": ratio_misplaced,
    "kl_loss, k2, corrected, on policy": ratio_misplaced,
    "kl_loss, k3, corrected, on policy": ratio_misplaced,
    "kl_loss, k1, corrected, off policy": ratio_misplaced,
    "kl_loss, k2, corrected, off policy": ratio_misplaced,
    "kl_loss, k3, corrected, off policy": ratio_misplaced,
    "kl_loss, k2, on policy": away_from_it,
    "kl_loss, k3, on policy": away_from_it,
    "kl_loss, k2, off policy": away_from_it,
    "kl_loss, k3, off policy": away_from_it,
    "kl_estimate, k1, in the reward": other_direction,
    "kl_estimate, k2, in the reward": not_halved,
    "kl_estimate, k3, in the reward": other_direction,
    "clipped_policy_loss, average constant": end_left_out,
    "clipped_policy_loss, average sequence": inverted_ratio,
    "clipped_policy_loss, average token": end_left_out,
    "clipped_policy_loss, a later step": unclipped,
    "cispo_loss, a later step": stops_gradients,
    "penalty_policy_loss, a later step": price_reversed,
    "gspo_loss, a later step": ratio_of_tokens,
    "truncated_importance_weights, cap 1.2": without_cap,
    "clipped_value_loss, not clipped": doubled_error,
    "clipped_value_loss, clipped at 0.2": near_alone,
    "approx_kl": the_other_way,
    "clip_fraction": of_either_sign,
    "sequence_logratio": summed_logratio,
    "categorical_entropy": surest_token,
    "explained_variance, 2000 responses": about_zero,
}


# --- Tests ------------------------------------------------------------------------------------------------------------


def measure(name: str, function: Callable[..., Any] | None = None) -> Any:
    return estimator_bias.measure(CASES[name], EPISODES, (1, list(CASES).index(name)), function)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def test_right_on_average(name: str) -> None:
    measured = measure(name)
    assert measured.agrees, f"{measured.deviation:.1f} standard errors off, bound {measured.bound:.1f}: {measured}"
    assert measured.variance > 0


def test_every_estimator_is_measured() -> None:
    public = {
        name: function
        for module in (advantages, kl, losses)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }
    measured = {case.shipped for case in CASES.values()}
    assert {name for name, function in public.items() if function not in measured} == NO_ESTIMATORS


def test_every_estimator_has_a_planted_error() -> None:
    assert set(PLANTED) == set(CASES) - set(AGENTS)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_error_is_found(name: str) -> None:
    measured = measure(name, PLANTED[name])
    assert not measured.agrees, f"only {measured.deviation:.1f} standard errors off, bound {measured.bound:.1f}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "module", "replaced", "planted"),
    [
        ("GRPO, leave_one_out", grpo, "group_advantages", worst_first),
        ("GRPO, z_score", grpo, "group_advantages", with_oneself),
        ("PPO, lambda 1", ppo, "gae", last_token_only),
        ("GRPO, k1 in the reward", policy_gradient, "kl_estimate", other_direction),
        ("GRPO, k3 in the loss", policy_gradient, "kl_loss", away_from_it),
    ],
)
def test_an_error_planted_in_an_agent_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, module: Any, replaced: str, planted: Callable[..., Any]
) -> None:
    monkeypatch.setattr(module, replaced, planted)
    measured = measure(name)
    assert not measured.agrees, f"only {measured.deviation:.1f} standard errors off, bound {measured.bound:.1f}"


def test_what_theory_says_of_the_bias() -> None:
    """The known facts, as the exact sums have them: no sampling here."""

    def bias(name: str) -> float:
        case = CASES[name]
        return float(case.expected[0] / case.truth[0] - 1)

    for name in ("gae, lambda 1, a wrong critic", "gae, lambda 0.9, the true critic", "td, the true critic"):
        assert bias(name) == pytest.approx(0, abs=1e-12)
    assert abs(bias("td, a wrong critic")) > abs(bias("gae, lambda 0.9, a wrong critic")) > 1e-3
    assert bias("group_advantages, leave_one_out") == pytest.approx(0, abs=1e-12)
    assert bias("group_advantages, mean") == pytest.approx(-1 / 4)  # a group of four: its mean holds a quarter of each
    assert bias("kl_estimate, k3") == bias("kl_estimate, k1") == 0
    assert bias("kl_estimate, k2") > 0.01
    assert bias("kl_loss, k3, on policy") < -0.01  # it follows the other direction of the KL
    assert bias("clipped_policy_loss, average constant") == pytest.approx(0, abs=1e-12)
    assert bias("clipped_policy_loss, average sequence") < -0.01


def test_the_program(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    estimator_bias.main(["--episodes", "400", "--json", str(tmp_path / "bias.json")])
    rows = json.loads((tmp_path / "bias.json").read_text())["rows"]
    assert [row["estimator"] for row in rows] == list(CASES)
    assert all(row["half_width"] > 0 and row["variance"] > 0 for row in rows)
    assert "td, a wrong critic" in capsys.readouterr().out
