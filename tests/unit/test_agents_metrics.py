"""The log of a run, its trackers, the texts of an evaluation, and the page that explains every number."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from gymnasium.vector import AutoresetMode

from llmgym.agents.alarms import RULES
from llmgym.agents.evaluation import Evaluation
from llmgym.agents.grpo import GRPO
from llmgym.agents.metrics import LOG_FILE, RunLog, read_metrics
from llmgym.agents.ppo import PPO
from llmgym.agents.trajectories import write_trajectories
from llmgym.errors import InvalidOptionError
from tests.unit.agent_fakes import echo_envs, tiny_llama


@pytest.fixture(autouse=True)
def _no_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)


def line(iteration: int, loss: float = 0.5) -> dict[str, Any]:
    return {"iteration": iteration, "timesteps": 10 * iteration, "train/loss": loss}


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: name -> (step, value)."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_line_an_iteration_and_no_nan(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run")
    assert not (tmp_path / "run").exists()  # before there is something to write
    log.write(line(1, float("nan")) | {"alarms": ["no_signal"]})
    log.write(line(2, float("inf")))
    log.write(line(3))
    rows = read_metrics(tmp_path / "run")
    assert [row["train/loss"] for row in rows] == [None, None, 0.5]
    assert rows[0]["alarms"] == ["no_signal"]
    assert len({row["run"] for row in rows}) == 1
    assert [json.loads(text) for text in (tmp_path / "run" / LOG_FILE).read_text().splitlines()] == rows


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = RunLog(None)
    log.write(line(1))
    log.text("a", "b", 1)
    log.rewind(log.position())
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_a_torn_line_is_left_out_and_cut_off(tmp_path: Path) -> None:
    RunLog(tmp_path).write(line(1))
    with (tmp_path / LOG_FILE).open("a") as file:
        file.write('{"iteration": 2')
    assert [row["iteration"] for row in read_metrics(tmp_path)] == [1]
    assert RunLog(tmp_path).position()["bytes"] == (tmp_path / LOG_FILE).stat().st_size  # of whole lines
    RunLog(tmp_path).write(line(3))
    assert [row["iteration"] for row in read_metrics(tmp_path / LOG_FILE)] == [1, 3]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    (tmp_path / LOG_FILE).symlink_to("/dev/full")
    log = RunLog(tmp_path)
    with pytest.raises(OSError, match="Expected room for a line of the log, actual: No space left") as caught:
        log.write(line(1))
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / LOG_FILE)
    (tmp_path / LOG_FILE).unlink()  # with room again, and half a line of the failed write
    (tmp_path / LOG_FILE).write_text('{"iter')
    log.write(line(2))
    assert [row["iteration"] for row in read_metrics(tmp_path)] == [2]


def test_a_resumed_run_logs_what_an_unbroken_one_does(tmp_path: Path) -> None:
    unbroken = RunLog(tmp_path / "unbroken")
    killed = RunLog(tmp_path / "killed")
    for i in range(1, 4):
        unbroken.write(line(i))
        killed.write(line(i))
    position = json.loads(json.dumps(killed.position()))
    for i in range(4, 6):
        killed.write(line(i, loss=100.0))  # after the checkpoint: lost with the process
    killed.close()
    resumed = RunLog(tmp_path / "killed")
    resumed.rewind(position)
    assert resumed.position() == position
    for i in range(4, 8):
        unbroken.write(line(i))
        resumed.write(line(i))
        resumed.close()  # as an evaluation does: what is opened again forgets nothing
    unbroken.close()
    resumed.close()
    mine, theirs = read_metrics(tmp_path / "killed"), read_metrics(tmp_path / "unbroken")
    assert {row.pop("run") for row in mine} == {position["run"]}
    assert mine == [{k: v for k, v in row.items() if k != "run"} for row in theirs]
    assert curves(tmp_path / "killed") == curves(tmp_path / "unbroken")
    assert curves(tmp_path / "killed")["train/loss"] == [(10 * i, 0.5) for i in range(1, 8)]
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == [LOG_FILE, "tensorboard"]


def test_cutting_back_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RunLog(tmp_path)
    log.write(line(1))
    position = log.position()
    log.write(line(2))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            log.rewind(position)
    assert [row["iteration"] for row in read_metrics(tmp_path)] == [1, 2]
    log.rewind(position)
    assert [row["iteration"] for row in read_metrics(tmp_path)] == [1]


@pytest.mark.parametrize(
    "left", ["", '{"iteration": 1', '{"other": 1, "line": "as long as that of the checkpoint.."}\n']
)
def test_a_log_that_lost_lines_is_kept_as_it_is_with_a_warning(tmp_path: Path, left: str) -> None:
    log = RunLog(tmp_path)
    log.write(line(1))
    log.write(line(2))
    position = log.position()
    log.close()
    (tmp_path / LOG_FILE).write_text(left)
    with pytest.warns(UserWarning, match=f"to hold the {position['bytes']} bytes"):
        RunLog(tmp_path).rewind(position)
    assert (tmp_path / LOG_FILE).read_text() == left


def test_a_checkpoint_is_never_ahead_of_its_curves(tmp_path: Path) -> None:
    """Events wait in a queue for up to two minutes; a position writes them out, so that SIGKILL takes none of them."""
    import torch.utils.tensorboard  # noqa: F401  (before the child needs it)

    child = os.fork()
    if child == 0:
        try:
            log = RunLog(tmp_path)
            for i in range(1, 4):
                log.write(line(i))
            log.position()
            log.write(line(4))
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert [step for step, _ in curves(tmp_path)["train/loss"]][:3] == [10, 20, 30]
    assert [row["iteration"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]


def test_tensorboard_has_numbers_and_texts(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.write(line(1) | {"rollout/return": float("nan"), "alarms": ["kl_blow_up", "no_signal"], "flag": "text"})
    log.text("trajectories", "1 + 1 = 2\n*not bold*", 1)
    log.close()
    log.write(line(2))  # opens it again
    log.close()
    assert curves(tmp_path) == {
        "iteration": [(10, 1.0), (20, 2.0)],
        "timesteps": [(10, 10.0), (20, 20.0)],
        "train/loss": [(10, 0.5), (20, 0.5)],
    }
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert texts["alarms/text_summary"] == "kl_blow_up, no_signal"
    assert texts["trajectories/text_summary"] == "    iteration 1\n    1 + 1 = 2\n    *not bold*"


def test_what_is_forgotten_is_closed(tmp_path: Path) -> None:
    """The writer's thread would keep it, and the events in its queue, until the program ends."""
    log = RunLog(tmp_path)
    log.write(line(1))
    del log
    assert curves(tmp_path)["train/loss"] == [(10, 0.5)]


def test_a_missing_package_costs_its_curves_and_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv("WANDB_MODE", "offline")
    log = RunLog(tmp_path)
    with pytest.warns(UserWarning, match="to be installed") as caught:
        log.write(line(1))
    assert [re.findall("pip install .*", str(w.message))[0] for w in caught] == [
        'pip install "llmgym-rl[agents]"',
        "pip install wandb",
    ]
    assert caught[0].filename == __file__
    log.write(line(2))
    log.text("a", "b", 2)
    log.rewind(log.position())
    assert len(read_metrics(tmp_path)) == 2


@pytest.mark.parametrize("mode", [None, "disabled"])
def test_weights_and_biases_is_not_even_imported_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str | None
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it is an error
    monkeypatch.setenv("WANDB_API_KEY", "of another program")
    if mode is not None:
        monkeypatch.setenv("WANDB_MODE", mode)
    RunLog(tmp_path).write(line(1))
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(InvalidOptionError, match="WANDB_MODE among: .* Did you mean 'online'"):
        RunLog(tmp_path).write(line(2))


def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log = RunLog(tmp_path)
    log.write(line(1))
    log.text("trajectories", "<think>", 1)
    position = log.position()
    log.close()
    resumed = RunLog(tmp_path)
    resumed.rewind(position)
    resumed.write(line(2))
    resumed.close()
    assert len(list(tmp_path.glob(f"wandb/offline-run-*-{position['wandb_id']}"))) == 2  # the same run, twice


@pytest.mark.parametrize("module", ["metrics", pytest.param("grpo", marks=pytest.mark.slow)])
def test_importing_loads_no_tracker(module: str) -> None:
    code = f"import sys, llmgym.agents.{module} as m; print(m.__name__, *{{'tensorboard', 'wandb'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"llmgym.agents.{module}"]


# -- trajectories -----------------------------------------------------------------------------------------------------


def evaluation(response: str = "2<end>", n: int = 2) -> Evaluation:
    examples = [
        {
            "prompt": "1 + 1 =\n",
            "response": response,
            "solved": i == 0,
            "return": 1.1,
            "rewards": {"correctness": 1.0, "format": 0.1},
            "stop_reason": "end_token",
            "prompt_tokens": 4,
            "response_tokens": 2,
        }
        for i in range(n)
    ]
    return Evaluation(2, 1, "correctness > 0", 0.5, (0.1, 0.9), {1: 0.5}, 1.1, 2.0, {}, {}, None, examples, 1.0)


def test_trajectories_are_readable(tmp_path: Path) -> None:
    path = write_trajectories(tmp_path / "run", evaluation(), 120)
    assert path == tmp_path / "run" / "trajectories" / "iteration_000120.txt"
    assert path.read_text() == (
        "iteration 120: pass@1 50.0 % [10.0, 90.0] on 2 problems x 1 (solved: correctness > 0); 2.0 tokens a response\n"
        "\n"
        "--- 1: solved | return 1.1 (correctness 1, format 0.1) | ended by end_token | "
        "4 tokens of prompt, 2 of response\n\n1 + 1 =\n>>>\n2<end>\n\n"
        "--- 2: not solved | return 1.1 (correctness 1, format 0.1) | ended by end_token | "
        "4 tokens of prompt, 2 of response\n\n1 + 1 =\n>>>\n2<end>\n"
    )


def test_trajectories_are_never_written_over(tmp_path: Path) -> None:
    first = write_trajectories(tmp_path, evaluation(), 5)
    assert write_trajectories(tmp_path, evaluation(), 5) == first  # what a resumed run does once more
    second = write_trajectories(tmp_path, evaluation("3<end>"), 5)
    assert second.name == "iteration_000005_2.txt"
    assert write_trajectories(tmp_path, evaluation("3<end>"), 5) == second
    assert write_trajectories(tmp_path, evaluation("4<end>"), 5).name == "iteration_000005_3.txt"
    assert "2<end>" in first.read_text()
    assert len(list(first.parent.iterdir())) == 3


# -- docs/metrics.md --------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
TINY: dict[str, Any] = {"run_dir": None, "problems_per_iteration": 4, "n_minibatches": 2, "kl_coef": 0.1}


def rows_of(heading: str) -> set[str]:
    """First cells of the table under a heading of the page."""
    section = re.split(r"^##", PAGE.split(f"# {heading}", 1)[1], flags=re.MULTILINE)[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE))


def logged(agent: Any) -> set[str]:
    return {re.sub("^reward/.*", "reward/<name>", name) for name in agent.iterate()}


def test_the_page_explains_every_metric_and_no_other() -> None:
    grpo = logged(GRPO(tiny_llama(), echo_envs(8, AutoresetMode.SAME_STEP), group_size=4, dynamic_sampling=2, **TINY))
    ppo = logged(PPO(tiny_llama(), echo_envs(8, AutoresetMode.SAME_STEP), policy_loss="penalty", target_kl=1.0, **TINY))
    assert ppo - grpo == rows_of("PPO\n")
    # Where nothing clips (the penalised objective) there is no share of clipped tokens.
    only_here = {"rollout/replaced_groups", "rollout/replaced_timesteps", "train/clip_fraction"}
    assert grpo - ppo == rows_of("GRPO\n") | only_here
    in_tables = set(re.findall(r"^\| `(\w+/[\w<>]+)` \|", PAGE, flags=re.MULTILINE)) | rows_of("Where the run is")
    assert in_tables == grpo | ppo | {"run", "alarms"}
    mentioned = set(re.findall(r"`((?:rollout|train|time|reward)/[\w<>]+)`", PAGE))
    assert mentioned <= in_tables


def test_the_page_explains_every_warning_and_no_other() -> None:
    assert rows_of("Warnings") == {rule.name for rule in RULES}
