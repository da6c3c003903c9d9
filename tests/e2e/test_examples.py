"""Every example runs, in a process of its own, with settings small enough for the quick suite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

#: Example -> arguments of its `main` in the quick suite, and what its output must hold.
EXAMPLES = {
    "01_env_loop": ("", "return 1.10"),
    "02_rewards": ("", "right by luck"),
    "03_custom_env": ("", "reward: 1.0"),
    "04_sb3": ("total_timesteps=2048", "mean return on held-out"),
    "05_search": ("", "continuations"),
    "06_grpo": ("max_seconds=1, n_problems=16, folder='model'", "after:"),
    "07_own_agent": ("n_iterations=1", "mean return"),
    "08_ppo": ("max_seconds=1, n_problems=16, run_dir='run'", "after:"),
    "10_reinforce": ("budget=2000", "copy: score"),
}


#: These need a server: see test_server_example.py.
WITH_SERVER = ["09_server"]


def test_every_example_is_here():
    assert sorted([*EXAMPLES, *WITH_SERVER]) == sorted(path.stem for path in (ROOT / "examples").glob("[0-9]*.py"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, tmp_path):
    arguments, expected = EXAMPLES[name]
    folder = str(ROOT / "examples")
    code = f"import sys, importlib; sys.path.insert(0, {folder!r}); importlib.import_module({name!r}).main({arguments})"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert expected in run.stdout


def test_main_job_writes_its_report(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "main_job.py"), "--output", str(tmp_path / "out")]
    command += ["--minutes", "0.02", "--n-problems", "16", "--base-samples", "2", "--n-checks", "1", "--n-threads", "1"]
    command += ["--seeds", "0", "1", "--grpo.problems-per-iteration", "2", "--grpo.group-size", "4"]
    command += ["--grpo.n-minibatches", "1"]
    run = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for row in ("base", "base, reasoning forced", "GRPO", "more supervised training"):
        assert f"| {row} |" in report
    assert "wall time" in report
    assert (tmp_path / "out" / "report.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "results.json").exists()
    assert (tmp_path / "out" / "seed_0" / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_variants_go_on_where_they_stopped(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "variants.py"), "--tasks", "copy", "--output", "results"]
    command += ["--variants", "dapo", "ppo", "--seeds", "0", "--scale", "0.02", "--jobs", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    first, second = (
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True) for _ in range(2)
    )
    assert first.returncode == 0, first.stderr[-3000:]
    assert first.stdout.count("done:") == 2
    assert "done:" not in second.stdout
    assert first.stdout.endswith(second.stdout)
    table = second.stdout.splitlines()
    assert table[2].startswith("| before training | ")
    assert [row.split(" | ")[0] for row in table[3:5]] == ["| dapo", "| ppo"]
