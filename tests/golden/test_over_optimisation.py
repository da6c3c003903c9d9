"""The curve of a hacked reward: the parts that it is made of against what is known of the diagnostic."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("tyro")

from llmgym.envs.diagnostics import DIAGNOSTICS
from llmgym.testing.exact import Tree, build_tree

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
try:
    over_optimisation = importlib.import_module("over_optimisation")
finally:
    sys.path.remove(str(BENCHMARKS))

Point = over_optimisation.Point


@pytest.fixture(scope="module")
def tree() -> Tree:
    return build_tree("llmgym/ProxyReward-v0", length=2, n_words=2)


def test_where_random_tokens_and_a_hacked_reward_stand(tree: Tree) -> None:
    true, uniform = over_optimisation.true_rewards(tree, 2), tree.uniform()
    hacked = over_optimisation.point_of(tree, true, tree.optimum().policy, uniform)
    assert hacked == pytest.approx((np.sqrt(2 * np.log(7)), 1.0, 0.0))  # two words out of seven tokens each
    start = over_optimisation.point_of(tree, true, uniform, uniform)
    # one flattering word: first and then another token that is not it, or second, after one that neither is nor ends
    assert start == pytest.approx((0.0, (1 + 5 / 7 + 1 / 7) / 14, 6 / 49 + 5 / 49))
    normalised = DIAGNOSTICS["proxy"].normalised
    small = build_tree("llmgym/ProxyReward-v0", **DIAGNOSTICS["proxy"].options("small"))
    random = small.evaluate(small.uniform(), rewards=over_optimisation.true_rewards(small, 4)).expected_return
    assert normalised(random, "small") == pytest.approx(0.0, abs=1e-12)


def test_the_frontier_rises_and_falls(tree: Tree) -> None:
    uniform = tree.uniform()
    frontier = over_optimisation.frontier(tree, over_optimisation.true_rewards(tree, 2), uniform)
    distances, paid, true = np.array(frontier).T
    assert frontier[0].distance == 0 and np.diff(distances).min() > -1e-12 and np.diff(paid).min() > -1e-12
    best = int(true.argmax())
    assert true[best] > max(true[0], true[-1]) + 0.2
    assert np.diff(true[: best + 1]).min() > -1e-12 and np.diff(true[best:]).max() < 1e-12


def test_reading_a_curve() -> None:
    curve = [Point(0.0, 0.1, 0.2), Point(1.0, 0.3, 0.4), Point(0.5, 0.2, 0.9), Point(2.0, 0.5, 0.0)]
    assert over_optimisation.at_distance(curve, 0.0) == curve[0]
    assert over_optimisation.at_distance(curve, 0.5) == Point(0.5, 0.2, 0.3)  # the first passage, not the second
    assert over_optimisation.at_distance(curve, 1.25) == Point(1.25, 0.35, 0.45)
    assert over_optimisation.at_distance(curve, 2.1) is None


@pytest.mark.slow
def test_the_program(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = over_optimisation.Options(
        kl_coefs=(0.0, 0.2), seeds=1, timesteps=1000, json=tmp_path / "curve.json", svg=tmp_path / "curve"
    )
    over_optimisation.main(options)
    rows = json.loads((tmp_path / "curve.json").read_text())["rows"]
    assert [row["kl_coef"] for row in rows] == [0.0, 0.2]
    for row in rows:
        assert row["points"][0]["distance"] == 0
        assert row["points"][-1]["proxy"] > row["points"][0]["proxy"]
    assert "kl_coef 0.2: true" in capsys.readouterr().out
    assert (tmp_path / "curve-dark.svg").read_text().startswith("<?xml")
