"""Generic algorithms with their small configurations learn small token tasks."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")
pytest.importorskip("tyro")

from stable_baselines3.common.evaluation import evaluate_policy

from llmgym.sb3 import SMALL_CONFIGS, LanguageVecEnv, make_agent

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def held_out_return(agent: Any) -> float:
    envs = LanguageVecEnv("llmgym/Copy-v0", 16, split="test")
    envs.seed(1_000_000)
    return float(evaluate_policy(agent, envs, n_eval_episodes=64)[0])


def test_ppo_copies_three_digits_in_seconds() -> None:
    agent = make_agent("ppo", "llmgym/Copy-v0", seed=0, policy_kwargs={"net_arch": [128]})
    before = held_out_return(agent)
    agent.learn(16_384)
    after = held_out_return(agent)
    assert before < 0.5
    assert after >= 0.95


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a program of benchmarks/ by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_the_table_is_made_of_what_is_done_and_nothing_is_done_again(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning = program("sb3_learning")
    monkeypatch.setattr(learning, "N_EPISODES", 20)
    series = learning.Series(
        algorithms=("ppo, raw ids", "dqn"), tasks=("addition",), seeds=(0,), scale=0.01, output=tmp_path
    )
    assert learning.table(series).splitlines()[2:] == ["| ppo, raw ids | - | - | - |", "| dqn | - | - | - |"]
    for algorithm in series.algorithms:
        learning.run_and_write(series, algorithm, "addition", 0)
    written = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert sorted(file.name for file in written) == ["addition_dqn_0_x0.01.json", "addition_ppo__raw_ids_0_x0.01.json"]
    learning.run_all(series)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == written
    rows = learning.table(series).splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| ppo, raw ids", "| dqn"]
    assert all("%" in row for row in rows[2:])


def test_the_throughput_of_the_adapter_is_told_beside_dummy_vec_env(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    arguments = ["sb3_vec_env.py", "--slots", "2", "--seconds", "0.01", "--repeats", "2", "--json", str(out)]
    monkeypatch.setattr("sys.argv", arguments)
    program("sb3_vec_env").main()
    rows = json.loads(out.read_text())["rows"]
    assert [row["env"] for row in rows] == ["llmgym/Copy-v0", "llmgym/MathReason-v0"]
    assert all(len(row["repeats"]["native"]) == len(row["repeats"]["dummy"]) == 2 for row in rows)
    assert all(0 < low <= middle <= high for middle, low, high in (row["ratio"] for row in rows))
    assert "ratio" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*arguments, "--profile"])
    program("sb3_vec_env").main()
    assert "next problem" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.learning
@pytest.mark.parametrize("task", ["copy", "recall", "addition"])
@pytest.mark.parametrize("algorithm", SMALL_CONFIGS)
def test_nearly_the_optimum(algorithm: str, task: str, program: Any) -> None:
    """As the program that makes the table runs them: same tasks, same budget of steps."""
    if SMALL_CONFIGS[algorithm].algorithm.startswith("sb3_contrib"):
        pytest.importorskip("sb3_contrib")
    result = program("sb3_learning").run_one(algorithm, task, seed=0, scale=1.0)
    assert result["before"] < 0.6
    assert result["after"] >= 0.95
