"""Running a benchmark: what a cell leaves, that nothing is run twice, and that nothing is taken for what it is not."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from llmgym.benchmark import AgentSpec, Plan, run, suite
from llmgym.benchmark.cells import Cell, as_csv, is_done, run_cell
from llmgym.benchmark.documents import Picture, markdown
from llmgym.benchmark.report import report
from llmgym.benchmark.summary import Summary
from llmgym.errors import InvalidOptionError

SOURCE = """
import numpy as np

class Learner:
    '''Right more and more often: of `noise`, whose right word is the same for all.'''

    def train(self, challenge, budget, seed):
        self.rng, self.share = np.random.default_rng(seed), 0.0
        envs = challenge.make_vec(10)
        challenge.progress()
        while challenge.n_timesteps < budget:
            envs.reset(seed=seed)
            envs.step(np.full(10, 5))
            self.share = challenge.n_timesteps / budget
            challenge.progress()

    def act(self, observations, restarted, waiting):
        right = self.rng.random(len(waiting)) < self.share
        return np.where(right, 5, 1)  # the first word, or none

class Broken:
    def act(self, observations, restarted, waiting):
        raise ArithmeticError("this agent cannot")

class Interrupted(Learner):
    def train(self, challenge, budget, seed):
        if seed == 1 and not DONE.exists():
            raise KeyboardInterrupt
        super().train(challenge, budget, seed)

class Silent(Learner):
    def train(self, challenge, budget, seed):
        challenge._on_progress = None
        super().train(challenge, budget, seed)
        envs = challenge.make_vec(budget * (1 + seed))
        envs.reset(seed=seed)
        envs.step(np.full(envs.num_envs, 5))  # as much again as it may, and then twice that

class Careless(Learner):
    "Asks the generators that everybody shares, in its training and when it plays."

    def train(self, challenge, budget, seed):
        import random, torch
        self.said = str([(random.random(), np.random.rand(), torch.rand(1).item())])
        super().train(challenge, budget, seed)
        self.said += str([(random.random(), np.random.rand(), torch.rand(1).item())])
        self.share = int(self.said.encode().hex(), 16) % 97 / 97

    def act(self, observations, restarted, waiting):
        return np.where(np.random.rand(len(waiting)) < self.share, 5, 1)

class Threads(Learner):
    def train(self, challenge, budget, seed):
        import torch
        assert torch.get_num_threads() == 1

class Diary(Learner):
    "Writes down which problems it has learned from."

    def train(self, challenge, budget, seed):
        envs = challenge.make_vec(50)
        _, infos = envs.reset(seed=seed)
        DIARY.write_text(" ".join(infos["problem_id"]))
        self.rng, self.share = np.random.default_rng(seed), 1.0

def answer(prompt):
    return "1 "
"""


@pytest.fixture
def agents(tmp_path):
    path = tmp_path / "own.py"
    constants = f"DONE = Path({str(tmp_path / 'go_on')!r})\nDIARY = Path({str(tmp_path / 'diary')!r})\n"
    path.write_text(f"from pathlib import Path\n{constants}{SOURCE}")
    return path


def plan_of(*words: str, **options) -> Plan:
    entries = suite(only=["noise"], budget=options.pop("budget", 200))
    options = {"n_seeds": 2, "n_points": 4, "point_episodes": 20, "final_episodes": 40} | options
    return Plan(tuple(map(AgentSpec.parse, words)), entries, **options)


def files(output: Path) -> dict[str, str]:
    """All results, without the seconds that they took."""
    found = {}
    for path in sorted(output.glob("cells/*/*/*/*")):
        text = path.read_text()
        if path.suffix == ".csv":
            rows = list(csv.DictReader(io.StringIO(text)))
            text = as_csv([row | {"seconds": ""} for row in rows])
        found[str(path.relative_to(output))] = text
    return found


def test_a_cell_is_a_folder_with_everything(agents, tmp_path):
    plan = plan_of("random", f"{agents}:Learner")
    lines: list[str] = []
    assert run(plan, tmp_path / "out", tell=lines.append) == []
    assert lines[0] == "4 of 4 cells to run, 1 at a time"
    folder = tmp_path / "out" / "cells" / "Learner" / "noise-small" / "seed_1"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "curve.csv", "episodes.jsonl"]
    config = json.loads((folder / "config.json").read_text())
    assert config["seed"] == 1
    assert config["entry"] == {"diagnostic": "noise", "size": "small", "budget": 200}
    assert {"python", "torch", "numpy"} <= set(config["versions"])
    episodes = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    rows = list(csv.DictReader((folder / "curve.csv").read_text().splitlines()))
    assert len(episodes) == int(rows[-1]["n_episodes"]) == 40
    mean = sum(episode["episode_return"] for episode in episodes) / 40
    assert float(rows[-1]["mean_return"]) == pytest.approx(mean)


def test_the_curve_has_a_point_for_each_share_of_the_budget(agents, tmp_path):
    plan = plan_of(f"{agents}:Learner", n_seeds=1, point_episodes=200)
    run(plan, tmp_path)
    summary = Summary.read(plan, tmp_path)
    (one,) = summary.of("Learner", "noise-small")
    assert one.column("timesteps").tolist() == [0, 50, 100, 150, 200]
    assert [row["final"] for row in one.rows] == ["False"] * 4 + ["True"]
    returns = one.column("mean_return")
    assert returns[0] < 0.3 < 0.7 < returns[-1]
    regret = one.readings["regret"]
    assert regret == pytest.approx(float(one.rows[-1]["optimal_return"]) - returns[-1])


def test_an_agent_that_never_reports_has_its_final_score(agents, tmp_path):
    plan = plan_of(f"{agents}:answer", n_seeds=1)
    assert run(plan, tmp_path) == []
    (one,) = Summary.read(plan, tmp_path).of("answer", "noise-small")
    assert one.column("timesteps").tolist() == [0]
    assert one.rows[0]["final"] == "True"


def test_the_same_cell_gives_the_same_result(agents, tmp_path):
    for name in ("a", "b"):
        run(plan_of("random", f"{agents}:Learner"), tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_an_agent_that_never_reports_has_no_curve_and_no_regret(agents, tmp_path):
    """What it lost on the way is not known; what it took beyond the budget is."""
    plan = plan_of(f"{agents}:Learner", f"{agents}:Silent")
    assert run(plan, tmp_path) == []
    summary = Summary.read(plan, tmp_path, n_resamples=20)
    assert summary.curve("Silent", "noise-small") is None
    assert summary.regret("Silent") is summary.challenge_regret("Silent", "noise-small") is None
    assert summary.curve("Learner", "noise-small") is not None and summary.regret("Learner") is not None
    assert (summary.spent("Learner"), summary.spent("Silent")) == (1.0, 3.0)
    blank = dict.fromkeys(("light", "dark"), "")
    drawn = {name: Picture(name, blank, "") for name in ("radar", "curves", "aggregates", "profiles")}
    text = markdown(report(summary, drawn, "the command"))
    (line,) = [line for line in text.splitlines() if line.startswith("| Silent |") and "%" in line]
    assert [cell.strip() for cell in line.split("|")][4:6] == ["", "300 %"]


def states() -> list[object]:
    """Of the generators that everybody shares."""
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # noqa: NPY002


def test_shared_generators_are_the_cells_own(agents, tmp_path):
    """An agent without a seed can be repeated, and evaluations take nothing from its training."""
    scores = []
    for name, n_points in (("a", 4), ("b", 4), ("c", 1)):
        before = states()
        plan = plan_of(f"{agents}:Careless", n_seeds=1, n_points=n_points)
        assert run(plan, tmp_path / name) == []
        (one,) = Summary.read(plan, tmp_path / name).of("Careless", "noise-small")
        scores.append(one.last("mean_return"))
        assert states() == before
    assert scores[0] == scores[1] == scores[2]


def test_one_process_has_one_thread_too(agents, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert run(plan_of(f"{agents}:Threads", n_seeds=1), tmp_path)[0].error.count("AttributeError")  # it cannot play
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_problems_of_an_evaluation_are_not_those_of_the_training(agents, tmp_path):
    """In `length_bias` a problem is a key that is drawn from very many."""
    plan = replace(plan_of(f"{agents}:Diary", n_seeds=1), entries=suite(only=["length_bias"], budget=200))
    assert run(plan, tmp_path / "out") == []
    learned = (tmp_path / "diary").read_text().split()
    lines = (tmp_path / "out/cells/Diary/length_bias-small/seed_0/episodes.jsonl").read_text().splitlines()
    played = [json.loads(line)["problem_id"] for line in lines]
    assert len(set(learned)) == 50 and not set(learned) & set(played)


def test_seeds_differ(agents, tmp_path):
    run(plan_of("random"), tmp_path)
    first, second = (
        (tmp_path / "cells/random/noise-small" / seed / "episodes.jsonl").read_text() for seed in ("seed_0", "seed_1")
    )
    assert first != second


def test_interrupted_it_goes_on_where_it_was(agents, tmp_path):
    plan = plan_of("random", f"{agents}:Interrupted")
    with pytest.raises(KeyboardInterrupt):
        run(plan, tmp_path / "out")
    done = files(tmp_path / "out")
    assert len({str(Path(name).parent) for name in done}) == 3  # both of seed 0, and random of seed 1
    (tmp_path / "go_on").touch()
    lines: list[str] = []
    assert run(plan, tmp_path / "out", tell=lines.append) == []
    assert lines[0].startswith("1 of 4 cells")
    assert run(plan, tmp_path / "out", tell=lines.append) == []
    assert lines[-1].startswith("0 of 4 cells")
    run(plan, tmp_path / "unbroken")
    assert files(tmp_path / "out") == files(tmp_path / "unbroken")


def test_a_draft_of_a_killed_run_is_no_result(agents, tmp_path):
    plan = plan_of("random", n_seeds=1)
    draft = tmp_path / "cells/random/noise-small/.seed_0-abc"
    draft.mkdir(parents=True)
    (draft / "config.json").write_text("{")
    lines: list[str] = []
    run(plan, tmp_path, tell=lines.append)
    assert lines[0].startswith("1 of 1 cells")
    assert not draft.exists()


def test_a_folder_is_there_whole_or_not_at_all(agents, tmp_path, monkeypatch):
    """The last file cannot be written: nothing of the cell is left."""
    cell = plan_of("random").cells()[0]
    monkeypatch.setattr("llmgym.benchmark.cells.as_jsonl", lambda episodes: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_cell(cell, tmp_path)
    assert list(tmp_path.rglob("seed_*")) == []
    assert not is_done(cell, tmp_path)


def test_more_seeds_and_agents_can_be_added(agents, tmp_path):
    run(plan_of("random", n_seeds=1), tmp_path)
    lines: list[str] = []
    run(plan_of("random", f"{agents}:answer", n_seeds=2), tmp_path, tell=lines.append)
    assert lines[0].startswith("3 of 4 cells")


@pytest.mark.parametrize("change", [{"budget": 300}, {"final_episodes": 60}, {"n_points": 3}])
def test_results_of_other_settings_are_not_taken(change, tmp_path):
    run(plan_of("random", n_seeds=1), tmp_path)
    with pytest.raises(InvalidOptionError, match=r"Choose another --output, or remove that folder"):
        run(plan_of("random", n_seeds=1, **change), tmp_path)


def test_results_of_an_agent_that_was_changed_are_not_taken(agents, tmp_path):
    plan = plan_of(f"{agents}:answer", n_seeds=1)
    run(plan, tmp_path / "out")
    agents.write_text(agents.read_text() + "\n# better now\n")
    with pytest.raises(InvalidOptionError, match="agent_sha256"):
        run(plan, tmp_path / "out")


def test_results_of_another_version_are_not_taken(tmp_path):
    plan = plan_of("random", n_seeds=1)
    run(plan, tmp_path)
    (file,) = tmp_path.glob("cells/*/*/*/config.json")
    file.write_text(file.read_text().replace('"llmgym-rl": "', '"llmgym-rl": "0.0.'))
    with pytest.raises(InvalidOptionError, match="llmgym-rl"):
        run(plan, tmp_path)


def test_a_file_that_was_changed_is_read_again(agents, tmp_path):
    """In one process, as in a notebook."""
    scores = []
    for name, word in (("a", "0 "), ("b", "1 ")):
        agents.write_text(f"def answer(prompt):\n    return {word!r}\n")
        plan = plan_of(f"{agents}:answer", n_seeds=1)
        run(plan, tmp_path / name)
        scores.append(Summary.read(plan, tmp_path / name).of("answer", "noise-small")[0].last("score"))
    assert scores == [1.0, 0.0]


def test_one_agents_error_does_not_end_the_others(agents, tmp_path):
    plan = plan_of(f"{agents}:Broken", "random")
    failures = run(plan, tmp_path / "out")
    assert [failure.cell.agent.label for failure in failures] == ["Broken", "Broken"]
    assert "this agent cannot" in failures[0].error
    summary = Summary.read(plan, tmp_path / "out")
    assert summary.agents == ["random"]
    assert summary.n_missing == 2


def test_an_unknown_agent_is_refused_before_anything_runs(agents, tmp_path):
    with pytest.raises(InvalidOptionError, match="a name in"):
        run(plan_of("random", f"{agents}:Nobody"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "options", "said"),
    [
        ((), {}, "at least one agent"),
        (("random", "random"), {}, "'random' twice"),
        (("random",), {"n_seeds": 0}, "n_seeds >= 1"),
        (("random",), {"final_episodes": 0}, "final_episodes >= 1"),
    ],
)
def test_plans_that_cannot_be(words, options, said):
    with pytest.raises(InvalidOptionError, match=said):
        plan_of(*words, **options)


def test_a_challenge_is_there_once():
    entries = suite(only=["noise"], sizes=["small", "medium", "small"])
    with pytest.raises(InvalidOptionError, match="'noise-small' twice"):
        Plan((AgentSpec.parse("random"),), entries)


def test_jobs_below_one_are_refused(tmp_path):
    with pytest.raises(InvalidOptionError, match="jobs >= 1"):
        run(plan_of("random"), tmp_path, jobs=0)


def test_the_table_is_tidy(agents, tmp_path):
    pandas = pytest.importorskip("pandas")
    entries = suite(only=["noise", "truncation"], budget=100)
    plan = Plan((AgentSpec.parse("random"), AgentSpec.parse(f"{agents}:answer")), entries, 2, 2, 20, 40)
    run(plan, tmp_path)
    table = pandas.read_csv(io.StringIO(Summary.read(plan, tmp_path).table()))
    final = table[table.final]
    assert len(final) == len(plan.cells()) == 8
    assert final.groupby(["agent", "diagnostic", "size", "seed"]).size().eq(1).all()
    assert final.score.between(0, 1).all()
    assert table.loc[table.diagnostic == "truncation", "reading_mean_length"].notna().all()
    assert table.loc[table.diagnostic == "noise", "reading_mean_length"].isna().all()


def test_aggregates_compare_only_what_all_have_played(agents, tmp_path):
    entries = suite(only=["noise", "sparse"], budget=100)
    plan = Plan((AgentSpec.parse("random"), AgentSpec.parse(f"{agents}:answer")), entries, 2, 2, 20, 40)
    run(plan, tmp_path)
    for seed in (0, 1):
        shutil.rmtree(tmp_path / f"cells/answer/sparse-small/seed_{seed}")
    shutil.rmtree(tmp_path / "cells/random/noise-small/seed_1")
    summary = Summary.read(plan, tmp_path, n_resamples=50)
    assert summary.challenges == ["noise-small", "sparse-small"]
    assert summary.common == ["noise-small"]
    assert summary.matrix("answer", "score").shape == (2, 1)
    assert summary.matrix("random", "score").shape == (1, 1)
    assert summary.n_missing == 3


def test_without_results_there_is_no_summary(tmp_path):
    with pytest.raises(InvalidOptionError, match="Run the benchmark first"):
        Summary.read(plan_of("random"), tmp_path)


def test_cells_of_one_seed_come_before_those_of_the_next():
    cells = plan_of("random", "grpo", n_seeds=3).cells()
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    assert all(isinstance(cell, Cell) for cell in cells)
