"""Each estimator of the agents against the exact solver: right on average, and a planted error of each is found.

The measuring itself is that of ``benchmarks/estimator_bias.py``, with fewer samples.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from llmgym.agents import grpo, ppo  # noqa: E402
from llmgym.agents.advantages import gae, group_advantages, td_advantages  # noqa: E402
from llmgym.agents.kl import kl_estimate, kl_loss  # noqa: E402
from llmgym.agents.losses import clipped_policy_loss  # noqa: E402

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
try:
    estimator_bias = importlib.import_module("estimator_bias")
finally:
    sys.path.remove(str(BENCHMARKS))

EPISODES = 12_000
CASES = {case.name: case for case in estimator_bias.all_cases()}
AGENTS = [name for name in CASES if name.startswith(("GRPO", "PPO"))]
WITH_THEORY = [name for name, case in CASES.items() if case.expected is not None]


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


PLANTED: dict[str, Callable[..., Any]] = {
    "gae, lambda 1, a wrong critic": shifted_gae,
    "gae, lambda 0.9, the true critic": shifted_gae,
    "gae, lambda 0.9, a wrong critic": one_step_only,
    "td, the true critic": careless_td,
    "td, a wrong critic": careless_td,
    "step_gae, lambda 1, a wrong critic": one_step_only,
    "gae's targets, lambda 1, a wrong critic": targets_without_values,
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
    "kl_estimate, k1, in the reward": other_direction,
    "clipped_policy_loss, average constant": end_left_out,
    "clipped_policy_loss, average sequence": inverted_ratio,
    "clipped_policy_loss, a later step": unclipped,
}


# --- Tests ------------------------------------------------------------------------------------------------------------


def measure(name: str, function: Callable[..., Any] | None = None) -> Any:
    return estimator_bias.measure(CASES[name], EPISODES, (1, list(CASES).index(name)), function)


@pytest.mark.parametrize("name", WITH_THEORY)
def test_right_on_average(name: str) -> None:
    measured = measure(name)
    assert measured.agrees, f"{measured.deviation:.1f} standard errors off, bound {measured.bound:.1f}: {measured}"
    assert measured.variance > 0


def test_every_estimator_has_a_planted_error() -> None:
    assert set(PLANTED) == set(WITH_THEORY) - set(AGENTS)


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
