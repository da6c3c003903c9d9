"""The command line, with tiny settings."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from llmgym.cli import main
from llmgym.core import LanguageEnv
from llmgym.keywords import parse_keywords
from llmgym.registration import ENVIRONMENTS
from llmgym.testing.fakes import SumTask

ROOT = Path(__file__).parents[2]
EASY = ["--env-kwargs", "level=1", "language=en", "max_new_tokens=24"]


def run(capsys, *arguments: str) -> str:
    main(arguments)
    return capsys.readouterr().out


def fail(*arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return str(stop.value)


def type_in(monkeypatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_list_shows_each_environment_and_loads_no_torch():
    code = "import sys; from llmgym.cli import main; main(['list']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert {"llmgym/MathReason-v0", "llmgym/Copy-v0"} <= {row[0] for row in rows}
    assert all(len(row) == 2 for row in rows)  # each says what it tests


def test_usage_names_every_command(capsys):
    text = run(capsys)
    assert all(f"llmgym {command}" in text for command in ("list", "play", "audit", "train", "eval"))


def test_play_shows_tokens_probabilities_and_the_end(capsys):
    pytest.importorskip("torch")
    text = run(capsys, "play", "llmgym/MathReason-v0", "--seed", "1", "--top-k", "2", *EASY)
    assert "MathReason-v0 · tiny-reasoner · token actions · seed 1" in text
    assert "   1  " in text
    assert "stop reason" in text
    assert "reference answer" in text
    assert text == run(capsys, "play", "--seed", "1", "--top-k", "2", *EASY)  # the same seed, the same episode


@pytest.mark.parametrize("unit", ["step", "response"])
def test_a_model_plays_text_actions(capsys, unit):
    pytest.importorskip("torch")
    assert "stop reason" in run(capsys, "play", "--action-unit", unit, "--seed", "2", *EASY)


def test_a_person_types_reasoning_steps_and_sees_what_they_earn(capsys, monkeypatch):
    type_in(monkeypatch, "<think>\n1+1=2\n1+1=3\n</think><answer>7</answer><eos>\n")
    rewards = 'rewards={"process": 0.25}'
    text = run(capsys, "play", "--policy", "human", "--action-unit", "step", "--env-kwargs", rewards)
    assert "process +0.25" in text
    assert "return +0.25" in text
    assert "stop reason       end_token" in text


def test_a_person_types_tokens(capsys, monkeypatch):
    type_in(monkeypatch, "12\n\n<eos>\n")
    text = run(capsys, "play", "--policy", "human")
    assert "stop reason       end_token, after 4 tokens" in text  # 1, 2, the line break, the end


def test_a_person_types_a_response_of_several_lines(capsys, monkeypatch):
    type_in(monkeypatch, "<think>a\nb</think>\n\n")
    text = run(capsys, "play", "--policy", "human", "--action-unit", "response")
    assert "<think>a\nb</think><eos>" in text


def test_a_person_plays_with_the_environments_own_tokenizer(capsys, monkeypatch):
    type_in(monkeypatch, "1 2 3 <eos>\n")
    text = run(capsys, "play", "llmgym/Copy-v0", "--policy", "human")
    assert "stop reason       end_token, after 4 tokens" in text


def test_play_ends_with_the_input(capsys, monkeypatch):
    type_in(monkeypatch, "1\n")
    assert "no more input" in run(capsys, "play", "--policy", "human")


SMALL_RUN = ["--n-minibatches", "1", "--checkpoint-every", "1", "--eval-problems", "0"]
SHORT = ["--env-kwargs", "level=1", "language=en", "max_new_tokens=8"]


def budget(n_timesteps: int) -> list[str]:
    return ["--total-timesteps", str(n_timesteps), "--max-seconds", "None"]


@pytest.mark.parametrize(
    ("algorithm", "size"),
    [
        ("grpo", ["--group-size", "2", "--problems-per-iteration", "2", "--preset", "dr_grpo"]),
        ("ppo", ["--problems-per-iteration", "4"]),
    ],
)
@pytest.mark.filterwarnings("ignore::llmgym.agents.alarms.TrainingWarning")
def test_train_eval_and_resume(capsys, tmp_path, monkeypatch, algorithm, size):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    text = run(capsys, "train", algorithm, *size, *SMALL_RUN, *budget(60), *SHORT, "--save-dir", "agent")
    assert "iteration    1" in text
    assert "% of it in the environment" in text
    assert (tmp_path / "agent" / "agent.json").is_file()
    saved = json.loads((tmp_path / "agent" / "agent.json").read_text())
    assert saved["algorithm"] == algorithm
    if algorithm == "grpo":
        assert (saved["config"]["loss_average"], saved["config"]["advantages"]) == ("constant", "mean")
    folder = f"runs/{algorithm}"
    assert {path.name for path in (tmp_path / folder).iterdir()} >= {"metrics.jsonl", "checkpoints", "tensorboard"}

    for path in ("agent", folder):
        text = run(capsys, "eval", path, "--n-problems", "3", "--samples", "2", "--examples", "1")
        assert "pass@1" in text
        assert "pass@2" in text
        assert "3, 2 responses each" in text
        assert text.count("solved, return") == 1
        assert "correctness > 0" in text
    for word, mend in (("split=train", "Use --split"), ("forbidden={}", "Leave it out"), ("self=1", "Leave it out")):
        name = word.partition("=")[0]
        assert f"Expected no {name!r} among --env-kwargs" in (text := fail("eval", "agent", "--env-kwargs", word))
        assert mend in text

    text = run(capsys, "train", "--resume", folder)
    assert f"{folder} is finished: iteration {saved['n_iterations']}" in text
    text = run(capsys, "train", "--resume", folder, "--total-timesteps", "1")
    assert f"Going on with {folder} from iteration {saved['n_iterations']}" in text
    assert f"iteration {saved['n_iterations'] + 1:4}" in text
    assert f"iteration {saved['n_iterations']:4} " not in text
    assert json.loads((tmp_path / "agent" / "agent.json").read_text())["n_iterations"] == saved["n_iterations"] + 1
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [algorithm]
    other = {"grpo": "ppo", "ppo": "grpo"}[algorithm]
    assert f"of algorithm '{other}', actual: " in fail("train", other, "--resume", folder)


def test_explicit_options_win_over_a_preset(capsys, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from llmgym.agents.grpo import GRPO, TrainOptions
    from llmgym.agents.training import parse_options

    options = parse_options(GRPO, TrainOptions, ["--preset", "dapo", "--dynamic-sampling", "1"])
    assert (options.clip_range_high, options.dynamic_sampling) == (0.28, 1)
    assert parse_options(GRPO, TrainOptions, []).clip_range_high is None
    assert parse_options(GRPO, TrainOptions, ["--preset=dapo"]).clip_range_high == 0.28
    assert "Expected a preset among" in fail("train", "grpo", "--preset", "dappo")
    assert "without agent.json" in fail("train", "--resume", str(tmp_path))


def test_ctrl_c_and_kill_end_with_their_codes_and_the_run_goes_on(tmp_path):
    """In processes of their own, as in a terminal: both signals are answered by a checkpoint."""
    pytest.importorskip("torch")
    command = [sys.executable, "-m", "llmgym", "train"]
    small = ["--problems-per-iteration", "2", "--group-size", "2", "--run-dir", "run", *SMALL_RUN[:2], *SMALL_RUN[4:]]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    first = [*command, "grpo", *small, *budget(10**9), *SHORT]
    for words, number, code in (
        (first, signal.SIGINT, 130),
        ([*command, "--resume", "run"], signal.SIGTERM, 143),
    ):
        with subprocess.Popen(
            words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            while not process.stdout.readline().startswith("iteration"):
                assert process.poll() is None
            process.send_signal(number)
            try:
                _, said = process.communicate(timeout=120)
            finally:
                process.kill()
            assert process.returncode == code, said
            assert "llmgym train --resume run" in said
    iterations = [
        json.loads(line)["iteration"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert iterations == list(range(1, len(iterations) + 1))
    assert list((tmp_path / "run" / "checkpoints").glob(f"*{iterations[-1]:06}"))


def test_every_command_takes_env_kwargs_alike(capsys):
    pytest.importorskip("torch")
    helps = []
    for command in (["play"], ["audit"], ["train", "grpo"], ["eval"]):
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        helps.append(text[text.index("--env-kwargs") :].partition("(default")[0])
    assert len(set(helps)) == 1
    assert "name=value" in helps[0]


SMALL_AUDIT = ["--n-problems", "2", "--env-kwargs", "max_new_tokens=256"]


def test_audit_prints_a_score_card_and_writes_json(capsys, tmp_path):
    text = run(capsys, "audit", "llmgym/Copy-v0", *SMALL_AUDIT, "--json", str(tmp_path / "new" / "audit.json"))
    assert "llmgym/Copy-v0: 2 problems" in text
    assert re.search(r"^echo +by design +1\.00 +1\.00 +copying the question is the task", text, re.MULTILINE)
    assert "passed: nothing pays that should not" in text
    report = json.loads((tmp_path / "new" / "audit.json").read_text())
    assert report["passed"]
    assert report["settings"]["n_problems"] == 2
    assert report["settings"]["env_kwargs"]["max_new_tokens"] == 256
    assert {"echo", "listed", "hash_seed"} <= {result["name"] for result in report["results"]}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["audit.json"]  # and no draft beside it


@pytest.mark.slow
def test_audit_of_all_ids(capsys, tmp_path):
    """Each id alone is audited by the contract tests."""
    run(
        capsys,
        "audit",
        "--all",
        "--n-problems",
        "1",
        "--env-kwargs",
        "max_new_tokens=256",
        "--json",
        str(tmp_path / "all"),
    )
    reports = json.loads((tmp_path / "all").read_text())
    assert reports["passed"]
    assert {report["subject"] for report in reports["reports"]} | set(reports["not_audited"]) == set(ENVIRONMENTS)
    assert {"llmgym/Copy-v0", "llmgym/MathReason-v0"} <= {report["subject"] for report in reports["reports"]}


@pytest.mark.usefixtures("own_ids")
def test_audit_fails_where_something_pays_that_should_not(capsys):
    rewards = 'rewards={"correctness": 1, "format": 2}'
    assert fail("audit", "Sum-v0", *SMALL_AUDIT, rewards) == "1"
    text = capsys.readouterr().out
    assert re.search(r"^form +finding", text, re.MULTILINE)
    assert re.search(r"^\d+ findings: form, ", text, re.MULTILINE)


def test_the_score_card_of_a_terminal(monkeypatch):
    console = pytest.importorskip("rich.console")
    from llmgym import cli
    from llmgym.testing import audit_reward

    report = audit_reward(lambda response, problem: 1.0, [{"question": "6*7", "answer": "42"}])
    recorded = console.Console(width=150, file=io.StringIO(), record=True)
    recorded.print(cli._score_card(report))
    text = recorded.export_text()
    assert re.search(r"│ garbage +│ finding +│ 1\.00 │ 1\.00 │", text)
    assert "findings: form, constant, empty" in text
    assert "response  ''" in text


class SumEnv(LanguageEnv):
    """A user's own."""

    def __init__(self, **options):
        super().__init__(SumTask(), **options)


class RigidEnv(LanguageEnv):
    """Takes nothing."""

    def __init__(self):
        super().__init__(SumTask())


def make_cart(action_unit=None, render_mode=None):
    return gym.make("CartPole-v1").unwrapped


@pytest.fixture
def own_ids():
    ids = {"Sum-v0": SumEnv, "Rigid-v0": RigidEnv, "Cart-v0": make_cart}
    for name, entry_point in ids.items():
        gym.register(name, entry_point=entry_point)
    yield
    for name in ids:
        del gym.registry[name]


@pytest.mark.usefixtures("own_ids")
def test_play_shows_the_environments_of_users(capsys, monkeypatch, tmp_path):
    type_in(monkeypatch, "7<eos>\n")
    assert "stop reason       end_token" in run(capsys, "play", "Sum-v0", "--policy", "human")
    (tmp_path / "my_llmgym_ids.py").write_text(
        "import gymnasium\ngymnasium.registry['My-v0'] = gymnasium.spec('Sum-v0')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    type_in(monkeypatch, "7<eos>\n")
    assert "end_token" in run(capsys, "play", "my_llmgym_ids:Sum-v0", "--policy", "human")
    gym.registry.pop("My-v0")
    type_in(monkeypatch, "")
    assert "a subclass of llmgym.core.LanguageEnv" in fail("play", "CartPole-v1")
    assert "a CartPoleEnv" in fail("play", "Cart-v0", "--policy", "human")
    assert "takes `action_unit`, actual: 'Rigid-v0'" in fail("play", "Rigid-v0")
    assert "'no_such_module:Sum-v0'" in fail("play", "no_such_module:Sum-v0")


@pytest.mark.usefixtures("own_ids")
def test_a_model_plays_the_environment_of_a_user(capsys):
    pytest.importorskip("torch")
    assert "stop reason" in run(capsys, "play", "Sum-v0", "--env-kwargs", "max_new_tokens=4")


def test_options_come_from_the_classes(capsys):
    pytest.importorskip("torch")
    from dataclasses import fields

    from llmgym.agents.grpo import GRPOConfig
    from llmgym.agents.ppo import PPOConfig

    for algorithm, config in (("grpo", GRPOConfig), ("ppo", PPOConfig)):
        with pytest.raises(SystemExit):
            main(["train", algorithm, "--help"])
        text = capsys.readouterr().out
        assert all(f"--{field.name.replace('_', '-')}" in text for field in fields(config))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lst"], "Expected a command among: .* Did you mean 'list'"),
        (["list", "all"], "Expected no argument"),
        (["play", "llmgym/MathReason-v9"], "Expected an environment among: .* Did you mean 'llmgym/MathReason-v0'"),
        (["play", "--policy", "human", "--env-kwargs", "levle"], "Expected environment keywords as name=value"),
        (["play", "--policy", "human", "--env-kwargs", "level=99"], "Expected .*99"),
        (["play", "--policy", "human", "--env-kwargs", "action_unit=step"], "Expected no 'action_unit'.*--action-unit"),
        (["play", "--policy", "human", "--seed", "-1"], "Seed must be greater or equal to zero"),
        (
            ["audit"],
            "Expected the id of an environment, or --all, actual: none. .*: llmgym/Copy-v0, .*llmgym/MathReason",
        ),
        (["audit", "llmgym/Copy-v0", "--all"], "actual: 'llmgym/Copy-v0' and --all"),
        (["audit", "llmgym/Coppy-v0"], "Expected an environment among: .* Did you mean 'llmgym/Copy-v0'"),
        (["audit", "CartPole-v1"], "Expected a language environment .*'CartPole-v1', a CartPoleEnv"),
        (["audit", "llmgym/Copy-v0", "--env-kwargs", "seed=1"], "Expected no 'seed' among .*Use --seed"),
        (["audit", "llmgym/Copy-v0", "--env-kwargs", "action_unit=step"], "Expected no `action_unit`"),
        (["audit", "llmgym/Copy-v0", "--n-problems", "0"], "Expected `n_problems` >= 1"),
        (["train", "gpro"], "Expected an algorithm among: grpo, ppo; .* Did you mean 'grpo'"),
        (["train"], "Expected an algorithm among: grpo, ppo"),
    ],
)
def test_mistakes_end_with_a_message(arguments, message):
    assert re.search(message, fail(*arguments))


def test_keywords():
    assert parse_keywords(["level=2", "language=en", "families=[1]"]) == {"level": 2, "language": "en", "families": [1]}
    assert parse_keywords(['{"a": 1}', "a=null"]) == {"a": None}
