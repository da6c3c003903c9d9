"""Warnings when a run goes wrong: each trouble is named, and good runs are left in peace.

``recorded_runs.json`` holds metrics of GRPO with its defaults on ``llmgym/MathReason-v0``, as they were logged: three runs
that learn (five minutes on two cores), and runs with a learning rate three or ten times too high and two epochs.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from llmgym.agents.alarms import CALM, MEMORY, RULES, Alarms, TrainingWarning
from llmgym.agents.grpo import GRPO
from tests.unit.agent_fakes import tiny_llama

RECORDED = json.loads((Path(__file__).parent / "recorded_runs.json").read_text())

#: What a healthy iteration logs.
FINE = {
    "iteration": 0,
    "rollout/return": 0.5,
    "rollout/return_std": 0.4,
    "rollout/length": 20.0,
    "rollout/terminated": 0.95,
    "rollout/episodes": 32,
    "train/groups_with_signal": 0.5,
    "train/entropy": 1.0,
    "train/approx_kl": 0.002,
    "train/kl_to_ref": 0.1,
    "train/first_ratio_error": 1e-5,
    "train/grad_norm": 0.5,
    "train/explained_variance": 0.3,
}


def run(*stretches: tuple[int, dict[str, Any]], alarms: Alarms | None = None) -> list[tuple[int, str]]:
    """Iterations that differ from a healthy one -> (iteration, name) of the alarms."""
    alarms = alarms or Alarms()
    raised, iteration = [], 0
    for n, differences in stretches:
        for _ in range(n):
            iteration += 1
            raised += [(iteration, a.name) for a in alarms.check(FINE | differences | {"iteration": iteration})]
    return raised


def replay(name: str) -> list[tuple[int, str]]:
    columns = RECORDED[name]
    alarms = Alarms()
    raised = []
    for i in range(len(columns["rollout/return"])):
        row = {key: values[i] for key, values in columns.items()} | {"iteration": i + 1}
        raised += [(i + 1, alarm.name) for alarm in alarms.check(row)]
    return raised


@pytest.mark.parametrize("name", [name for name in RECORDED if name.startswith("good")])
def test_a_run_that_learns_raises_nothing(name: str) -> None:
    assert len(RECORDED[name]["rollout/return"]) > 150
    assert replay(name) == []


@pytest.mark.parametrize("name", [name for name in RECORDED if name.startswith("rate")])
def test_a_learning_rate_that_is_too_high_is_noticed_within_twenty_iterations(name: str) -> None:
    first, what = replay(name)[0]
    assert first <= 20
    assert what == "kl_blow_up"


@pytest.mark.parametrize("name", [name for name in RECORDED if name.startswith("rate_3e-3")])
def test_a_collapse_is_noticed(name: str) -> None:
    assert "return_collapse" in [what for _, what in replay(name)]


@pytest.mark.parametrize(
    ("name", "trouble", "edge", "patience"),
    [
        ("reward_constant", {"rollout/return_std": 0.0}, {"rollout/return_std": 1e-5}, 3),
        ("reward_constant", {"rollout/return_std": 1e-8, "train/groups_with_signal": 0.0}, {}, 3),  # and not two
        ("no_signal", {"train/groups_with_signal": 0.0}, {"train/groups_with_signal": 0.03}, 3),
        ("all_truncated", {"rollout/terminated": 0.02}, {"rollout/terminated": 0.03}, 3),
        ("entropy_collapse", {"train/entropy": 0.0019}, {"train/entropy": 0.06}, 3),
        ("entropy_collapse", {"train/entropy": 0.04}, {"train/entropy": 0.06}, 3),  # of 1 at the start
        ("kl_to_ref_blow_up", {"train/kl_to_ref": 1.1}, {"train/kl_to_ref": 0.99}, 3),
        ("first_ratio", {"train/first_ratio_error": 1.1e-3}, {"train/first_ratio_error": 9e-4}, 1),
        ("gradient_blow_up", {"train/grad_norm": 5.1}, {"train/grad_norm": 4.9}, 2),
        ("value_function", {"train/explained_variance": -0.21}, {"train/explained_variance": -0.19}, 10),
    ],
)
def test_each_trouble_is_named_after_its_patience(
    name: str, trouble: dict[str, Any], edge: dict[str, Any], patience: int
) -> None:
    assert run((8, {}), (12, trouble)) == [(8 + patience, name)]
    assert run((8, {}), (12, edge)) == []
    assert run((8, {}), *[(patience - 1, trouble), (1, {})] * 4) == []


def test_the_kl_alarm_reads_a_mean_of_five_iterations() -> None:
    assert run((8, {}), (12, {"train/approx_kl": 0.026})) == [(13, "kl_blow_up")]
    assert run((8, {}), (12, {"train/approx_kl": 0.024})) == []
    assert run((8, {}), (1, {"train/approx_kl": 0.11}), (8, {})) == []
    assert run((8, {}), (1, {"train/approx_kl": 0.13}), (8, {})) == [(9, "kl_blow_up")]
    assert run((12, {"train/approx_kl": 0.026})) == [(3, "kl_blow_up")]  # from the start on: three are enough


def test_a_return_that_is_lost() -> None:
    rise = [(2, {"rollout/return": 0.1 * i}) for i in range(10)]
    best = (5, {"rollout/return": 0.9})
    assert run(*rise, best, (12, {"rollout/return": 0.3})) == [(31, "return_collapse")]
    assert run(*rise, best, (12, {"rollout/return": 0.6})) == []  # a third of the gain
    # Half of the gain, but within a third of the spread of single returns: luck.
    assert run((5, {}), (5, {"rollout/return": 0.6}), (12, {"rollout/return": 0.5})) == []
    # Nothing was gained, and what there was is lost.
    assert run((5, {}), (12, {"rollout/return": 0.3})) == [(11, "return_collapse")]


def test_what_a_good_return_excuses() -> None:
    better = {"rollout/return": 0.9, "rollout/return_std": 0.3}
    assert run((5, {}), (9, better), (9, better | {"rollout/terminated": 0.0})) == []  # the task fills its budget
    assert run((5, {}), (9, better), (9, better | {"train/entropy": 0.01})) == []
    done = better | {"rollout/return": 0.995, "rollout/return_std": 0.07, "train/entropy": 0.001}
    assert run((5, {}), (9, better), (9, done)) == []
    worse_again = {"rollout/return": 0.6, "train/entropy": 0.01}
    assert run((5, {}), (9, better), (9, worse_again))[0][1] == "entropy_collapse"


def test_it_speaks_once_and_again_after_a_calm() -> None:
    trouble = {"train/groups_with_signal": 0.0}
    alarms = Alarms()
    assert run((50, trouble), alarms=alarms) == [(3, "no_signal")]
    assert list(alarms.active) == ["no_signal"]
    assert run((CALM - 1, {}), (9, trouble), alarms=alarms) == []
    assert run((CALM, {}), alarms=alarms) == []
    assert alarms.active == {}
    assert run((2, trouble), alarms=alarms) == []
    assert run((1, trouble), alarms=alarms) == [(1, "no_signal")]


def test_the_message_has_the_numbers_and_the_mend() -> None:
    alarms = Alarms()
    (alarm,) = alarms.check(FINE | {"iteration": 7, "train/first_ratio_error": 0.25})
    assert str(alarm) == (
        "first_ratio (iteration 7): train/first_ratio_error is 0.25, and rounding explains 0.001: the learner gives the "
        f"sampled tokens other probabilities than the sampler did. {alarm.mend}"
    )
    assert "temperature" in alarm.mend


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float64, 1e-6), (torch.float32, 1e-3), (torch.float16, 0.1), (torch.bfloat16, 0.5)]
)
def test_rounding_is_that_of_the_dtype(dtype: torch.dtype, limit: float) -> None:
    for factor, expected in ((0.9, []), (1.1, [(1, "first_ratio")])):
        assert run((1, {"train/first_ratio_error": limit * factor}), alarms=Alarms(dtype)) == expected


def test_what_is_missing_or_no_number_raises_nothing() -> None:
    alarms = Alarms()
    for i in range(12):
        assert alarms.check({"iteration": i}) == []
        assert alarms.check(dict.fromkeys(FINE, float("nan")) | {"iteration": i}) == []
        assert alarms.check(dict.fromkeys(FINE) | {"iteration": i}) == []
    # Iterations without an optimiser step are no calm for what is measured in the steps.
    trouble = FINE | {"train/kl_to_ref": 2.0}
    without = {name: value for name, value in FINE.items() if not name.startswith("train/")}
    raised = [a.name for row in (trouble, without, trouble, without, trouble) for a in alarms.check(row)]
    assert raised == ["kl_to_ref_blow_up"]


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("train/first_ratio_error", "first_ratio"),
        ("train/kl_to_ref", "kl_to_ref_blow_up"),
        ("train/approx_kl", "kl_blow_up"),
    ],
)
def test_an_infinite_metric_is_above_every_limit(metric: str, name: str) -> None:
    assert [alarm for _, alarm in run((8, {}), (6, {metric: float("inf")}))] == [name]


def test_a_first_gradient_after_none_is_no_blow_up() -> None:
    assert run((8, {"train/grad_norm": 0.0}), (8, {"train/grad_norm": 0.4})) == []


@pytest.mark.parametrize("cut", [1, 4, 16, 19, 27])
def test_state_survives_a_checkpoint(cut: int) -> None:
    columns = RECORDED["rate_9e-4_seed_0"]
    rows = [
        {key: values[i] for key, values in columns.items()} | {"iteration": i + 1}
        for i in range(len(columns["rollout/return"]))
    ]
    unbroken, before, after = Alarms(), Alarms(), Alarms()
    expected = [unbroken.check(row) for row in rows]
    for row in rows[:cut]:
        before.check(row)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    for row in rows[cut:]:
        before.check(row)  # what was loaded shares nothing with where it came from
    assert [after.check(row) for row in rows[cut:]] == expected[cut:]
    assert after.state_dict() == unbroken.state_dict() == before.state_dict()
    assert after.active == unbroken.active


def test_the_memory_does_not_grow() -> None:
    alarms = Alarms()
    run((10 * MEMORY, {}), alarms=alarms)
    assert max(len(values) for values in alarms.state_dict()["recent"].values()) == MEMORY


def test_names_are_unique() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_training_warns_and_logs_the_name() -> None:
    """All responses are cut off and earn nothing: no end token can be written."""
    agent = GRPO(
        tiny_llama(),
        "llmgym/Copy-v0",
        env_kwargs={"n_symbols": 5},
        group_size=2,
        problems_per_iteration=2,
        n_minibatches=1,
        run_dir=None,
    )
    agent.alarms = Alarms(torch.float32)
    agent.policy.forbidden = {token: [1] for token in range(9)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = [agent.iterate() for _ in range(3)]
    said = [str(w.message) for w in caught if w.category is TrainingWarning]
    assert any(text.startswith("all_truncated (iteration 3): 100.0 %") for text in said)
    assert "alarms" not in rows[0]
    assert "all_truncated" in rows[2]["alarms"]
