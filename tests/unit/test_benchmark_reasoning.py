"""The suite `reasoning`: what agents begin with, what is held out, and that nothing begins that cannot end."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import LlamaConfig

from llmgym.agents import GRPO, Policy
from llmgym.benchmark import AgentSpec, Challenge, Plan, Summary, run, suite
from llmgym.benchmark.agents import FunctionAgent
from llmgym.benchmark.cells import run_cell
from llmgym.benchmark.evaluations import evaluate
from llmgym.benchmark.language_models import BaseAgent, GRPOAgent, PPOAgent
from llmgym.benchmark.reasoning import LARGE_MODEL_LEARNING_RATE, find_model
from llmgym.errors import CheckpointError, DatasetError, InvalidOptionError, PromptTooLongError
from llmgym.keywords import OF_THE_PLAYER
from llmgym.tasks import question_hash
from llmgym.tokenizers import load_tokenizer
from tests.unit.agent_fakes import tiny_llama

SMALL = {"problems_per_iteration": 2, "n_minibatches": 1, "warmup_iterations": 0}
SHORT = {"max_new_tokens": 12, "language": "en"}

SOURCE = r"""
import re

def calculator(prompt):
    a, op, b = re.search(r"(\d+)([-+])(\d+)", prompt).groups()
    return f"<answer>{int(a) + int(op + b)}</answer>"

class Interrupted:
    def train(self, challenge, budget, seed):
        if challenge.size == "2" and not DONE.exists():
            raise KeyboardInterrupt

    def act(self, observations, restarted, waiting):
        return restarted * 0 + 5

class Writer:  # to a file of the benchmark that it is in
    def train(self, challenge, budget, seed):
        DONE.write_text(DONE.read_text() + " ")

    respond = staticmethod(calculator)
"""


def write(path: Path, n: int, shift: int = 0) -> Path:
    lines = [{"question": f"What is {i}+{shift}?", "answer": f"Add.\n#### {i + shift}"} for i in range(n)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def model(tmp_path) -> Path:
    """A random model with a tokenizer of its own, as transformers writes it."""
    folder = tmp_path / "model"
    random = tiny_llama(640)
    random.config.max_position_embeddings = 256
    random.save_pretrained(folder)
    load_tokenizer("tiny-reasoner").save(folder)
    return folder


def challenge_of(entry, on_progress=None) -> Challenge:
    return Challenge(entry.subject, entry.size, on_progress, start=entry.start, agent_options=entry.agent_options)


def weights(policy) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in policy.model.parameters()]


# -- the challenges -----------------------------------------------------------------------------------------------------


def test_the_levels_are_the_challenges():
    entries = suite("reasoning")
    assert [entry.name for entry in entries] == [f"level-{n}" for n in range(1, 6)]
    assert {entry.axis for entry in entries} == {entry.name for entry in entries}
    assert all(entry.subject.optimal_return(entry.size) == 1 for entry in entries)
    assert all(entry.subject.random_return(entry.size) == 0 for entry in entries)


def test_what_is_scored_was_not_learned_from():
    """Problems of the training and of the evaluation are of the level, and none is in both."""
    (entry,) = suite("reasoning", only=["level-1"], env_kwargs=SHORT)
    envs = challenge_of(entry).make_vec(300)
    envs.reset(seed=0)
    learned = {transcript.problem.problem_id for transcript in envs.unwrapped.transcripts()}
    episodes = evaluate(FunctionAgent(lambda prompt: "7"), entry.subject, entry.size, 100, 0, entry.held_out)
    scored = {episode.problem_id for episode in episodes}
    assert len(learned) > 200 and len(scored) > 50
    assert not learned & scored
    assert {episode.level for episode in episodes} == {1}


def test_of_one_file_a_tenth_is_held_out_and_of_two_the_second(tmp_path):
    first, second = write(tmp_path / "a.jsonl", 200), write(tmp_path / "b.jsonl", 20, shift=7)
    one, two = suite("reasoning", data=[f"one={first}", f"two={first},{second}"])
    assert [entry.name for entry in (one, two)] == ["one-test", "two-test"]

    def questions(entry, **changes) -> set[str]:
        envs = entry.subject.make_vec(entry.size, 1, **changes)
        return {problem.question for problem in envs.engine.tasks[0].problems}

    learned, held_out = questions(one), questions(one, **one.held_out)
    assert len(learned) + len(held_out) == 200 and not learned & held_out and 5 < len(held_out) < 40
    assert len(questions(two)) == 200
    assert questions(two, **two.held_out) == {f"What is {i}+7?" for i in range(20)}
    assert set(two.data_sha256) == {str(first), str(second)}


@pytest.mark.parametrize("agent", ["random", "calculator"])
def test_a_cell_scores_the_second_file_alone(tmp_path, own, agent):
    """What the challenge poses and what `episodes.jsonl` holds are disjoint, of agents with `act` and with `respond`."""
    first, second = write(tmp_path / "a.jsonl", 60), write(tmp_path / "b.jsonl", 30, shift=7)
    (entry,) = suite("reasoning", data=[f"two={first},{second}"], env_kwargs={"max_new_tokens": 4})
    envs = challenge_of(entry).make_vec(300)
    envs.reset(seed=0)
    posed = {transcript.problem.problem_id for transcript in envs.unwrapped.transcripts()}
    cell = plan_of((entry,), agent if agent == "random" else f"{own}:{agent}").cells()[0]
    run_cell(cell, tmp_path / "out")
    lines = (cell.folder(tmp_path / "out") / "episodes.jsonl").read_text().splitlines()
    scored = {json.loads(line)["problem_id"] for line in lines}
    assert len(posed) > 50 and len(scored) > 8
    assert not posed & scored
    assert scored <= {question_hash(f"What is {i}+7?").hex()[:16] for i in range(30)}


def test_what_is_learned_from_is_not_scored(tmp_path):
    first, second = write(tmp_path / "a.jsonl", 60), write(tmp_path / "b.jsonl", 5, shift=7)
    line = json.dumps({"question": " What  is 3+0?", "answer": "3"})  # the same but for its spaces
    second.write_text(f"{line}\n{second.read_text()}")
    with pytest.raises(DatasetError, match=r"1 of 6 in .*b\.jsonl.*such as 'What is 3\+0\?'.*Leave them out"):
        suite("reasoning", data=[f"two={first},{second}"])
    with pytest.raises(DatasetError, match="60 of 60"):
        suite("reasoning", data=[f"two={first},{first}"])


def test_of_the_hub_there_are_its_own_splits(tmp_path, monkeypatch):
    asked: list[tuple[str, str | None]] = []

    class Hub:
        @staticmethod
        def load_dataset(path, configuration, split):
            asked.append((path, split))
            return [{"question": f"{path} {split} {n}", "answer": str(n)} for n in range(3)]

    monkeypatch.setitem(sys.modules, "datasets", Hub)
    file = write(tmp_path / "a.jsonl", 5)
    suite("reasoning", data=["one=some/data", "two=some/data,other/data", f"left=some/data,{file}"])
    suite("reasoning", data=[f"right={file},some/data"])
    train, test = ("some/data", "train"), ("some/data", "test")
    assert asked == [train, test, train, ("other/data", "test"), train, test]


@pytest.mark.parametrize("name", [pytest.param("gsm8k_test", marks=pytest.mark.slow), "svamp"])
def test_real_files(shared_data, name):
    data = shared_data / f"{name}.jsonl.gz"
    (entry,) = suite("reasoning", data=[f"real={data}"], env_kwargs={"max_prompt_tokens": 1024})
    seen: list[str] = []

    def answers(prompt: str) -> str:
        seen.append(prompt)
        return "I do not know. <answer>0</answer>"

    episodes = evaluate(FunctionAgent(answers), entry.subject, entry.size, 20, 0, entry.held_out)
    assert len(episodes) == 20 and "Problem: " in seen[0]
    assert entry.subject.score(episodes, entry.size) < 0.2
    assert entry.subject.readings(episodes, entry.size)["unanswered"] == 0


# -- the agents ---------------------------------------------------------------------------------------------------------


def test_the_base_is_the_shipped_model():
    (entry,) = suite("reasoning", only=["level-2"], env_kwargs={"max_new_tokens": 24})
    agent = BaseAgent()
    agent.train(challenge_of(entry), 10_000, seed=0)
    shipped = Policy.load("tiny-reasoner")
    assert all(torch.equal(a, b) for a, b in zip(weights(agent._player), weights(shipped), strict=True))
    episodes = evaluate(agent, entry.subject, entry.size, 50, 0, entry.held_out)
    assert 0.1 < entry.subject.score(episodes, entry.size) < 0.6


SUMS = SHORT | {"families": "arithmetic"}  # half of which the shipped model can do: there is something to learn from


@pytest.mark.parametrize(("agent", "learning_rate"), [(GRPOAgent, 3e-4), (GRPOAgent, 1e-30), (PPOAgent, 3e-4)])
def test_agents_begin_with_the_model_and_leave_it(agent, learning_rate):
    """What is played before the first update is the shipped model; afterwards it is another, by as much as asked."""
    options = SMALL | {"learning_rate": learning_rate}
    (entry,) = suite("reasoning", only=["level-1"], env_kwargs=SUMS, agent_options=options)
    one, seen = agent(), []
    challenge = challenge_of(entry, lambda: seen.append((challenge.n_timesteps, weights(one._player))))
    one.train(challenge, 60, seed=0)
    start = weights(Policy.load("tiny-reasoner"))
    assert seen[0][0] == 0 and challenge.n_timesteps >= 60
    assert all(torch.equal(a, b) for a, b in zip(seen[0][1], start, strict=True))
    stays = all(torch.equal(a, b) for a, b in zip(seen[-1][1], start, strict=True))
    assert stays == (learning_rate < 1e-20)


def test_large_models_have_a_smaller_step_and_what_was_trained_from_the_shipped_one_has_not(tmp_path):
    """It is the number of weights that decides; it is read off the configuration."""
    Policy.load("tiny-reasoner").save(tmp_path / "trained")
    large = tmp_path / "large"
    size = {"vocab_size": 640, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4}
    LlamaConfig(**size, hidden_size=512, intermediate_size=1024).save_pretrained(large)  # 11 million, of no file
    load_tokenizer("tiny-reasoner").save(large)

    def options_of(model, **given):
        return suite("reasoning", model=str(model), only=["level-1"], agent_options=given)[0].agent_options

    assert options_of("tiny-reasoner") == options_of(tmp_path / "trained") == {}
    assert options_of(large) == {"learning_rate": LARGE_MODEL_LEARNING_RATE}
    assert options_of(large, learning_rate=0.1) == {"learning_rate": 0.1}


@pytest.mark.slow
def test_adapters_are_what_is_played():
    pytest.importorskip("peft")
    (entry,) = suite("reasoning", only=["level-1"], env_kwargs=SUMS, agent_options=SMALL | {"lora_rank": 2})
    one = GRPOAgent()
    one.train(challenge_of(entry), 60, seed=0)
    trained = dict(one._player.model.named_parameters())
    assert any("lora_B" in name and weight.abs().sum() > 0 for name, weight in trained.items())  # they begin as 0


def test_a_saved_agent_is_a_model_too(tmp_path, model):
    agent = GRPO(str(model), "llmgym/MathReason-v0", env_kwargs=SHORT, run_dir=None, group_size=2, **SMALL)
    agent.save(tmp_path / "saved")
    assert find_model(str(tmp_path / "saved")) == str(tmp_path / "saved")
    (entry,) = suite("reasoning", model=str(tmp_path / "saved"), only=["level-1"])
    one = BaseAgent()
    one.train(challenge_of(entry), 0, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(weights(one._player), weights(agent.policy), strict=True))


# -- whole benchmarks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(f"from pathlib import Path\nDONE = Path({str(tmp_path / 'go_on')!r})\n{SOURCE}")
    return path


def plan_of(entries, *words: str) -> Plan:
    return Plan(tuple(map(AgentSpec.parse, words)), entries, 1, 2, 10, 20)


def test_files_with_a_model_from_training_to_table(tmp_path, model, own):
    """A right function has the optimum, a random model has not; the table and the readings are there."""
    data = write(tmp_path / "sums.jsonl", 100, shift=3)
    kwargs = {"max_prompt_tokens": 128, "max_new_tokens": 12}
    entries = suite(
        "reasoning", model=str(model), data=[f"sums={data}"], env_kwargs=kwargs, agent_options=SMALL, budget=40
    )
    plan = plan_of(entries, "base", "grpo", "ppo", "random", f"{own}:calculator")
    assert run(plan, tmp_path / "out") == []
    summary = Summary.read(plan, tmp_path / "out", n_resamples=20)
    assert summary.challenges == ["sums-test"]
    (right,) = summary.of("calculator", "sums-test")
    assert (right.last("score"), right.last("optimal_return"), right.last("random_return")) == (1, 1, 0)
    assert right.regret == 0
    for agent in ("base", "grpo", "ppo", "random"):
        (one,) = summary.of(agent, "sums-test")
        assert one.last("score") < 0.5 and one.readings["truncated"] > 0
    assert (
        summary.of("grpo", "sums-test")[0].last("timesteps")
        >= 40
        > summary.of("base", "sums-test")[0].last("timesteps")
    )
    config = json.loads((tmp_path / "out/cells/grpo/sums-test/seed_0/config.json").read_text())
    assert config["entry"]["model"] == str(model) and config["entry"]["options"]["problems_per_iteration"] == 2


def test_interrupted_it_goes_on_and_other_data_are_not_taken(tmp_path, own):
    entries = suite("reasoning", only=["level-1", "level-2"], env_kwargs=SHORT)
    plan, lines = plan_of(entries, f"{own}:Interrupted"), []
    with pytest.raises(KeyboardInterrupt):
        run(plan, tmp_path / "out")
    (tmp_path / "go_on").touch()
    assert run(plan, tmp_path / "out", tell=lines.append) == []
    assert lines[0].startswith("1 of 2 cells")
    with pytest.raises(InvalidOptionError, match="to be of entry="):
        run(plan_of(suite("reasoning", only=["level-1"]), f"{own}:Interrupted"), tmp_path / "out")

    data = write(tmp_path / "sums.jsonl", 100)
    sums = plan_of(suite("reasoning", data=[f"sums={data}"]), f"{own}:calculator")
    run(sums, tmp_path / "files")
    write(data, 101)
    with pytest.raises(InvalidOptionError, match="data_sha256"):
        run(plan_of(suite("reasoning", data=[f"sums={data}"]), f"{own}:calculator"), tmp_path / "files")


def test_a_model_that_was_trained_on_is_another(model):
    before = suite("reasoning", model=str(model), only=["level-1"])[0]
    assert suite("reasoning", model=str(model), only=["level-1"])[0] == before
    tiny_llama(640, seed=1).save_pretrained(model)
    assert suite("reasoning", model=str(model), only=["level-1"])[0].model_sha256 != before.model_sha256


def test_cells_begin_with_the_checkpoint_that_was_hashed(tmp_path):
    """Also where the run goes on in between."""
    agent = GRPO(
        "tiny-reasoner", "llmgym/MathReason-v0", env_kwargs=SHORT | {"level": 1}, run_dir=str(tmp_path / "x"),
        problems_per_iteration=2, group_size=2, n_minibatches=1, num_envs=4, keep_checkpoints=1,
    )  # fmt: skip
    agent.learn(20, progress_bar=False)
    (entry,) = suite("reasoning", model=str(tmp_path / "x"), only=["level-1"], env_kwargs=SHORT)
    before, known = entry.start, entry.model_sha256
    entry.check_unchanged()
    agent.learn(20, progress_bar=False)
    assert find_model(str(tmp_path / "x")) != before == entry.start
    assert entry.subject.sizes["1"]["tokenizer"] == before
    with pytest.raises(CheckpointError, match=rf"SHA-256 {known[:12]}\), actual: no files"):
        run_cell(plan_of((entry,), "base").cells()[0], tmp_path / "out")
    assert not list((tmp_path / "out").glob("**/config.json"))


def test_a_cell_whose_files_change_fails(tmp_path, model):
    """Before the training, and where they change during it."""
    own = tmp_path / "own.py"
    data = write(tmp_path / "sums.jsonl", 60)
    own.write_text(f"from pathlib import Path\nDONE = Path({str(data)!r})\n{SOURCE}")
    (entry,) = suite("reasoning", model=str(model), data=[f"sums={data}"])
    plan = plan_of((entry,), f"{own}:Writer")
    (failure,) = run(plan, tmp_path / "out")
    assert "DatasetError: Expected" in failure.error and "as it was when the benchmark began" in failure.error
    write(data, 60)
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    (failure,) = run(plan, tmp_path / "out")
    assert "CheckpointError: Expected the model" in failure.error
    assert not list((tmp_path / "out").glob("**/config.json"))
    write(data, 61)
    (failure,) = run(plan_of((entry,), f"{own}:calculator"), tmp_path / "out")  # which would not have noticed
    assert "DatasetError" in failure.error


def test_a_family_that_was_not_drawn_has_no_reading(tmp_path, own):
    entries = suite("reasoning", only=["level-1"], env_kwargs={"language": "en", "families": ["arithmetic", "target"]})
    reading = entries[0].subject.reading
    episodes = evaluate(FunctionAgent(lambda prompt: "7"), entries[0].subject, "1", 20, 0, entries[0].held_out)
    assert set(reading(episodes)) == {"mean_length", "truncated", "unanswered", "family_arithmetic", "family_target"}
    sums = [episode for episode in episodes if episode.problem_id.startswith("arithmetic-")]
    said = reading(sums)
    assert np.isnan(said["family_target"])
    assert said["family_arithmetic"] == np.mean([episode.episode_return for episode in sums])


@pytest.mark.slow
def test_the_radar_has_an_axis_for_each_level(tmp_path, own):
    from llmgym.benchmark import write_report

    plan = plan_of(suite("reasoning", env_kwargs=SHORT), "random")
    run(plan, tmp_path)
    table, text, _ = write_report(Summary.read(plan, tmp_path, n_resamples=20), tmp_path, "command")
    assert text.read_text().startswith("# Benchmark: reasoning")
    assert "begin with tiny-reasoner" in text.read_text()
    radar = (tmp_path / "pictures" / "radar_light.svg").read_text()
    assert all(f"level-{n}" in radar for n in range(1, 6))
    assert {row["size"] for row in csv.DictReader(table.read_text().splitlines())} == set("12345")


# -- mistakes -----------------------------------------------------------------------------------------------------------


def test_generic_algorithms_are_refused_before_anything_runs(tmp_path):
    pytest.importorskip("stable_baselines3")
    plan = plan_of(suite("reasoning", only=["level-1"]), "random", "sb3-ppo")
    with pytest.raises(InvalidOptionError, match="'sb3-ppo', which plays diagnostics alone"):
        run(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"sizes": ["small"]}, InvalidOptionError, "no sizes with the suite 'reasoning'"),
        ({"name": "diagnostics", "model": "x"}, InvalidOptionError, "no model with the suite 'diagnostics'"),
        ({"name": "diagnostics", "data": ["a=b"]}, InvalidOptionError, "no data with the suite"),
        ({"only": ["level-6"]}, InvalidOptionError, "a challenge among"),
        ({"budget": 0}, InvalidOptionError, "a budget >= 1"),
        ({"env_kwargs": {"rewards": {}}}, InvalidOptionError, "no 'rewards' among"),
        *(({"env_kwargs": {name: 3}}, InvalidOptionError, f"no {name!r} among") for name in OF_THE_PLAYER),
        ({"env_kwargs": {"families": 3}}, InvalidOptionError, "of the types that it takes"),
        ({"env_kwargs": {"language": object()}}, InvalidOptionError, "that JSON can hold"),
        ({"env_kwargs": {"families": ["geometry"]}}, InvalidOptionError, "geometry"),
        ({"agent_options": {"seed": 1}}, InvalidOptionError, "an option of the agents"),
        ({"agent_options": {"learning_rate": 0}}, InvalidOptionError, "learning_rate to be > 0"),
        ({"agent_options": {"learning_rate": "abc"}}, InvalidOptionError, "type float, actual: 'abc'"),
        ({"agent_options": {"learning_rate": float("inf")}}, InvalidOptionError, "type float, actual: inf"),
        ({"agent_options": {"n_epochs": True}}, InvalidOptionError, "type int, actual: True"),
        ({"agent_options": {"adam_betas": [0.9]}}, InvalidOptionError, "tuple"),
        ({"agent_options": {"adam_betas": [0.9, 2]}}, InvalidOptionError, "adam_betas to be two numbers in"),
        ({"agent_options": {"weight_decay": -1}}, InvalidOptionError, "weight_decay to be >= 0"),
        ({"agent_options": {"temperature": 0}}, InvalidOptionError, "temperature > 0"),
        ({"agent_options": {"top_k": 0}}, InvalidOptionError, "top_k a whole number >= 1"),
        ({"agent_options": {"top_p": 1.5}}, InvalidOptionError, "top_p in"),
        ({"agent_options": {"lora_rank": 0}}, InvalidOptionError, "rank of LoRA"),
        ({"agent_options": {"lora_rank": 2, "lora_alpha": -1}}, InvalidOptionError, "alpha of LoRA"),
        ({"data": ["gsm8k.jsonl"]}, InvalidOptionError, "name=train.jsonl"),
        ({"data": ["level=x.jsonl"]}, InvalidOptionError, "is not 'level'"),
        ({"data": ["a=x.jsonl,"]}, InvalidOptionError, "name=train.jsonl"),
        ({"data": ["a=nothing.jsonl"]}, DatasetError, "a file that exists"),
        ({"model": "no/such/folder"}, InvalidOptionError, "no/such/folder"),
        ({"model": "tests"}, InvalidOptionError, "without config.json"),
    ],
)
def test_options_that_cannot_be(options, error, said):
    with pytest.raises(error, match=said):
        suite(**({"name": "reasoning"} | options))


def test_prompts_are_measured_before_a_training(tmp_path):
    data = write(tmp_path / "a.jsonl", 30)
    with pytest.raises(PromptTooLongError, match=r"max_prompt_tokens=\d+") as caught:
        suite("reasoning", data=[f"a={data}"], env_kwargs={"max_prompt_tokens": 20})
    needed = int(str(caught.value).split("max_prompt_tokens=")[1].split(",")[0])
    assert suite("reasoning", data=[f"a={data}"], env_kwargs={"max_prompt_tokens": needed})
    with pytest.raises(InvalidOptionError, match="'a-test' twice"):
        suite("reasoning", data=[f"a={data}", f"a={data}"])
