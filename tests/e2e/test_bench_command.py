"""`llmgym bench` as a person runs it: from agents to a report, in several processes, killed and run again."""

from __future__ import annotations

import csv
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("tyro")
pytest.importorskip("matplotlib")

from llmgym.benchmark import AgentSpec, Plan, Summary, run, suite

ROOT = Path(__file__).parent.parent.parent

SLOW_AGENT = """
import os, time
from pathlib import Path

class Slow:
    def train(self, challenge, budget, seed):
        if seed == 1 and not Path("go_on").exists():
            Path("draft").write_text(str(os.getpid()))
            Path("draft").rename("waiting")
            time.sleep(300)

    def act(self, observations, restarted, waiting):
        return restarted * 0 + 5
"""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Runs the command in this process, in an empty folder; gives back the code that it ended with."""
    from llmgym.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def call(*words: str) -> object:
        try:
            main(["bench", *words])
        except SystemExit as ended:
            return ended.code
        return 0

    return call


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "llmgym", "bench", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def final_scores(output: Path) -> dict[tuple[str, str, str], str]:
    rows = csv.DictReader((output / "results.csv").read_text().splitlines())
    return {(r["agent"], r["diagnostic"], r["seed"]): r["score"] for r in rows if r["final"] == "True"}


def waits_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def runs(pid: int) -> bool:
    """Whether a process is there, and not only its exit code."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_from_agents_to_a_report(tmp_path, bench, capsys):
    """Two processes and one give the same numbers; the example is an agent among others."""
    agents = "grpo", f"mine={ROOT / 'examples' / '10_reinforce.py'}:Reinforce"
    words = ["--agents", ",".join(agents), "--only", "copy", "--seeds", "2", "--budget", "600"]
    words += ["--episodes", "60", "--points", "2"]
    assert bench(*words, "--output", "both", "--jobs", "2") == 0
    assert capsys.readouterr().out.startswith("4 of 4 cells to run, 2 at a time")
    assert "llmgym bench --agents" in (tmp_path / "both" / "report.md").read_text()
    assert (tmp_path / "both" / "report.html").stat().st_size > 50_000
    entries = suite(only=["copy"], budget=600)
    plan = Plan(tuple(map(AgentSpec.parse, agents)), entries, 2, 2, final_episodes=60)
    assert run(plan, tmp_path / "alone") == []
    table = list(csv.DictReader(Summary.read(plan, tmp_path / "alone").table().splitlines()))
    scores = {(r["agent"], r["diagnostic"], r["seed"]): r["score"] for r in table if r["final"] == "True"}
    assert len(scores) == 4 and scores == final_scores(tmp_path / "both")


@pytest.mark.slow
def test_the_suite_reasoning(tmp_path, bench, capsys):
    """From words to a report; a second time there is nothing to do, and other options are not taken for these."""
    (tmp_path / "own.py").write_text("def answer(prompt):\n    return '<answer>7</answer>'\n")
    words = [
        "--suite",
        "reasoning",
        "--agents",
        "base,own:answer",
        "--only",
        "level-1",
        "--seeds",
        "1",
        "--episodes",
        "10",
    ]
    words += [
        "--output",
        "out",
        "--env-kwargs",
        "max_new_tokens=16",
        "language=en",
        "--agent-options",
        "learning_rate=1e-4",
    ]
    assert bench(*words) == 0
    assert (tmp_path / "out" / "report.md").read_text().startswith("# Benchmark: reasoning")
    assert set(final_scores(tmp_path / "out")) == {("base", "level", "0"), ("answer", "level", "0")}
    capsys.readouterr()
    assert bench(*words) == 0
    assert capsys.readouterr().out.startswith("0 of 2 cells")
    assert bench(*words[:-1], "learning_rate=1e-5") == 2
    assert "Choose another --output" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_killed_it_goes_on(tmp_path, bench, capsys):
    """SIGKILL in the middle of a training; meanwhile nobody else writes to the folder."""
    (tmp_path / "slow_agent.py").write_text(SLOW_AGENT)
    words = ["--agents", "slow_agent.py:Slow", "--only", "noise", "--seeds", "2", "--budget", "10", "--episodes", "20"]
    words += ["--output", "out"]
    with started(tmp_path, *words, "--jobs", "2") as first:
        try:
            waits_until((tmp_path / "waiting").exists)
            assert bench(*words) == 2
        finally:
            first.kill()
    worker = int((tmp_path / "waiting").read_text())
    waits_until(lambda: not runs(worker))  # it would train on, for nobody
    assert "nobody else goes on with" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out/cells/Slow/noise-small").iterdir()] == ["seed_0"]
    (tmp_path / "go_on").touch()
    assert bench(*words) == 0
    assert capsys.readouterr().out.startswith("1 of 2 cells to run")
    assert len(final_scores(tmp_path / "out")) == 2


def test_an_agent_that_fails_is_told_of(tmp_path, bench, capsys):
    (tmp_path / "bad_agent.py").write_text("def answer(prompt):\n    raise ArithmeticError('this agent cannot')\n")
    words = ["--agents", "random,bad_agent:answer", "--only", "noise", "--seeds", "2", "--budget", "10"]
    assert bench(*words, "--episodes", "20", "--output", "out") == 1
    shown = capsys.readouterr()
    assert shown.err.count("ArithmeticError: this agent cannot") == 1  # once for both seeds
    assert "(2 such)" in shown.err
    assert "report: out/results.csv" in shown.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--agents", "grppo"], "Did you mean 'grpo'"),
        (["--only", "nothing"], "Expected a diagnostic among"),
        (["--report-only", "--output", "empty"], "Run the benchmark first"),
    ],
)
def test_mistakes_end_with_a_message(words, said, bench, capsys):
    assert bench(*words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_planted_fault_is_told_apart(tmp_path, monkeypatch, capsys):
    """Who is paid for the neighbour's response learns nothing, and the program says so."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    program = importlib.import_module("planted_faults")
    series = program.Series(("neighbour",), ("sparse",), seeds=4, budget=2000, episodes=200, output=tmp_path)
    ((fault, of, right, faulty, *_, told),) = program.main(series)
    assert (fault, of) == ("the reward of the neighbouring slot", "grpo")
    assert float(right) > float(faulty) + 0.2
    assert told == "yes"
    assert "told apart" in capsys.readouterr().out


def test_planted_faults_are_agents(monkeypatch):
    """Each of them trains and is scored."""
    from llmgym.benchmark.challenges import Challenge
    from llmgym.benchmark.evaluations import evaluate
    from llmgym.envs.diagnostics import DIAGNOSTICS

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    program = importlib.import_module("planted_faults")
    assert len(program.FAULTS) >= 6
    for right, name, _ in program.FAULTS.values():
        assert right in program.RIGHT
        agent = getattr(program, name)()
        agent.train(Challenge(DIAGNOSTICS["truncation"], "small"), 400, seed=0)
        assert len(evaluate(agent, DIAGNOSTICS["truncation"], "small", 20, seed=0)) == 20


def test_permutations_by_hand(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    p_value = importlib.import_module("planted_faults").permutation_p_value
    assert p_value([1, 2, 3], [4, 5, 6]) == 2 / 20
    assert p_value([6, 5, 4], [1, 2, 3]) == 2 / 20
    assert p_value([1, 1], [1, 1]) == 1.0
    assert p_value([0, 3], [1, 2]) == 1.0
