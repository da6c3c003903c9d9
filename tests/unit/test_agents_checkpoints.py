"""Runs that survive: whatever ends a training, it goes on from its last checkpoint as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM  # noqa: E402

from llmgym.agents import interrupts  # noqa: E402
from llmgym.agents.agent import Agent  # noqa: E402
from llmgym.agents.checkpoints import (  # noqa: E402
    _hash_of,
    check_whole,
    list_checkpoints,
    newest_whole,
    read_settings,
)
from llmgym.agents.grpo import GRPO, GRPOConfig  # noqa: E402
from llmgym.agents.metrics import read_metrics  # noqa: E402
from llmgym.agents.parts import align, model_state, put_model_state  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.ppo import PPO, PPOConfig  # noqa: E402
from llmgym.agents.saving import aside  # noqa: E402
from llmgym.envs.copy import CopyEnv  # noqa: E402
from llmgym.errors import CheckpointError, InvalidOptionError, NewerCheckpointError, NotFiniteError  # noqa: E402
from tests.unit.agent_fakes import VOCABULARY, tiny_llama  # noqa: E402

# Tiny policies are constant or saturated at times, which is nothing to be warned of here.
pytestmark = pytest.mark.filterwarnings("ignore::llmgym.agents.alarms.TrainingWarning")

SHARED: dict[str, Any] = {"n_minibatches": 2, "n_epochs": 2, "checkpoint_every": 2, "learning_rate": 1e-3}
SMALL = GRPOConfig(group_size=4, problems_per_iteration=4, **SHARED | {"run_dir": None})
SMALL_PPO = PPOConfig(problems_per_iteration=16, responses_per_problem=1, **SHARED | {"run_dir": None})
IN_SYNC = {
    "vectorization_mode": "sync",
    "vector_kwargs": {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP},
}
BUDGET = 300  # timesteps: five iterations or so


def make_agent(run_dir: Path | None = None, **overrides: Any) -> GRPO:
    model = tiny_llama(VOCABULARY)
    return GRPO(model, "llmgym/Copy-v0", SMALL, env_kwargs={"n_symbols": 5}, run_dir=run_dir, **overrides)


def make_ppo(run_dir: Path, **overrides: Any) -> PPO:
    model = tiny_llama(VOCABULARY)
    return PPO(model, "llmgym/Copy-v0", SMALL_PPO, env_kwargs={"n_symbols": 5}, run_dir=str(run_dir), **overrides)


def make_bfloat16(run_dir: Path) -> GRPO:
    """Rounded buffers, and some weights that do not learn."""
    model = tiny_llama(VOCABULARY).to(torch.bfloat16)
    model.model.embed_tokens.requires_grad_(False)
    model.model.layers[1].mlp.requires_grad_(False)
    return GRPO(Policy(model), "llmgym/Copy-v0", SMALL, env_kwargs={"n_symbols": 5}, run_dir=str(run_dir))


def make_given(run_dir: Path, **kwargs: Any) -> GRPO:
    """On an environment that was made by the user, with other slots than an agent would choose."""
    envs = gym.make_vec("llmgym/Copy-v0", num_envs=8, n_symbols=5, **kwargs)
    return GRPO(tiny_llama(VOCABULARY), envs, SMALL, run_dir=str(run_dir))


def weights(agent: Agent) -> Any:
    return torch.cat([p.detach().flatten() for p in agent.policy.model.parameters()])


def same(one: Any, other: Any) -> bool:
    """Whether tensors and plain values are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def state(agent: Agent) -> dict[str, Any]:
    """All that the next iteration depends on; times are left out."""
    timeless = {k: v for k, v in agent.state_dict().items() if not k.endswith("seconds")}
    timeless["budget"] = agent.budget and (agent.budget.total_timesteps, agent.budget.first_timestep)
    return timeless | {"weights": weights(agent)}


def curves(run_dir: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "run") and not k.startswith("time/")}
        for row in read_metrics(run_dir)
    ]


class Killed(BaseException):
    """As SIGKILL: nobody handles it."""


def kill_at(iteration: int) -> Callable[..., None]:
    def callback(agent: Agent, metrics: Any) -> None:
        if agent.n_iterations == iteration:
            raise Killed

    return callback


# -- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(make_agent, id="grpo"),
        pytest.param(lambda folder: make_agent(folder, kl_coef=0.1, dynamic_sampling=1), id="grpo_with_reference"),
        pytest.param(make_bfloat16, id="bfloat16"),
        pytest.param(lambda folder: make_given(folder, autoreset_mode="next_step"), id="given"),
        pytest.param(lambda folder: make_given(folder, **IN_SYNC), id="given_sync"),
        pytest.param(lambda folder: make_ppo(folder, kl_coef=0.1, kl_target=1.0), id="ppo"),
        pytest.param(lambda folder: make_ppo(folder, critic="model", policy_loss="penalty"), id="ppo_two_models"),
    ],
)
def test_a_killed_run_goes_on_as_if_it_had_never_been(make: Callable[[Path], Agent], tmp_path: Path) -> None:
    """Killed in its epochs, an iteration after a checkpoint, when some steps of the optimiser have been taken."""
    unbroken = make(tmp_path / "unbroken").learn(BUDGET, progress_bar=False)
    killed = make(tmp_path / "killed")
    assert unbroken.n_iterations >= 4

    apply, steps = killed.optimizer.apply, Counter[int]()

    def killed_step() -> None:
        steps[killed.n_iterations] += 1
        if killed.n_iterations % 2 and killed.n_iterations > 2 and steps[killed.n_iterations] == 2:
            raise Killed
        apply()

    killed.optimizer.apply = killed_step
    with pytest.raises(Killed):
        killed.learn(BUDGET, progress_bar=False)
    resumed = type(killed).load(tmp_path / "killed")
    assert 2 <= resumed.n_iterations == killed.n_iterations - 1
    resumed.learn(progress_bar=False)
    assert same(state(resumed), state(unbroken))
    assert curves(tmp_path / "killed") == curves(tmp_path / "unbroken")
    assert resumed.policy.model.dtype == unbroken.policy.model.dtype
    expected = [path.name for path in list_checkpoints(tmp_path / "unbroken")]
    assert [path.name for path in list_checkpoints(tmp_path / "killed")] == expected


def test_adapters_and_their_reference_go_on(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folders = [tmp_path / name for name in ("unbroken", "killed")]
    agents = [make_agent(folder, lora_rank=2, kl_coef=0.1, gradient_checkpointing=True) for folder in folders]
    assert agents[0].policy.has_adapters
    assert agents[0].policy.gradient_checkpointing
    agents[0].learn(BUDGET, progress_bar=False)
    with pytest.raises(Killed):
        agents[1].learn(BUDGET, callback=kill_at(3), progress_bar=False)
    resumed = GRPO.load(folders[1])
    assert resumed.config.lora_rank == 2
    resumed.learn(progress_bar=False)
    assert same(state(resumed), state(agents[0]))
    with pytest.raises(InvalidOptionError, match="adapters as they were saved"):
        GRPO.load(folders[1], lora_rank=4)


@pytest.mark.parametrize("n_renames", range(5))
def test_a_kill_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_renames: int) -> None:
    """Nobody tidies up after it: whatever the last rename was, there is a whole checkpoint, and the next life mends."""
    unbroken = make_agent(tmp_path / "unbroken").learn(BUDGET, progress_bar=False)
    killed = make_agent(tmp_path / "killed", keep_checkpoints=1)
    rename, done = Path.rename, 0

    def killed_rename(source: Path, target: Path) -> Any:
        nonlocal done
        done += 1
        if done > n_renames:
            raise Killed
        return rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed_rename)
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(Killed):
            killed.learn(BUDGET, progress_bar=False)
    if n_renames == 0:  # killed before the very first one was in place
        with pytest.raises(CheckpointError, match="without agent.json"):
            GRPO.load(tmp_path / "killed")
        # Nothing is there yet: the same command begins again, in the same folder.
        resumed = make_agent(tmp_path / "killed", keep_checkpoints=1).learn(BUDGET, progress_bar=False)
        assert resumed.run_dir == tmp_path / "killed"
    else:
        resumed = GRPO.load(tmp_path / "killed")
        resumed.learn(progress_bar=False)
    assert same(state(resumed), state(unbroken))
    assert curves(tmp_path / "killed") == curves(tmp_path / "unbroken")
    left = {path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()}
    assert left == {f"iteration_{resumed.n_iterations:06}"}


def test_a_budget_goes_on_and_a_new_one_begins(tmp_path: Path) -> None:
    agent = make_agent(tmp_path / "run")
    with pytest.raises(InvalidOptionError, match="neither total_timesteps nor max_seconds"):
        agent.learn()
    agent.learn(BUDGET, callback=lambda agent, _: agent.n_iterations < 2, progress_bar=False)
    assert agent.n_iterations == 2
    spent = agent.budget_spent
    assert 0 < spent < 1
    resumed = GRPO.load(tmp_path / "run")
    assert resumed.budget_spent == spent
    resumed.learn(progress_bar=False)
    assert resumed.budget_spent >= 1
    with pytest.raises(InvalidOptionError, match="none of an earlier call is left"):
        GRPO.load(tmp_path / "run").learn()
    n_timesteps, n_iterations = resumed.n_timesteps, resumed.n_iterations
    again = GRPO.load(tmp_path / "run").learn(1, progress_bar=False)
    assert again.n_iterations == n_iterations + 1
    assert again.budget is not None
    assert again.budget.first_timestep == n_timesteps
    assert [row["iteration"] for row in read_metrics(tmp_path / "run")] == list(range(1, n_iterations + 2))


def test_checkpoints_are_few_and_whole_and_transformers_loads_them(tmp_path: Path) -> None:
    agent = make_agent(tmp_path / "run", checkpoint_every=1, keep_checkpoints=3)
    (tmp_path / "run" / "checkpoints" / ".iteration_000007-draft").mkdir(parents=True)  # of a killed write
    shutil.move(tmp_path / "run", tmp_path / "other")
    agent.learn(BUDGET, progress_bar=False)
    names = [f"iteration_{agent.n_iterations - i:06}" for i in range(3)]
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == names
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == set(names)
    for path in list_checkpoints(tmp_path / "run"):
        check_whole(path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoints" / names[0])
    for mine, theirs in zip(agent.policy.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_evaluating_a_run_writes_nothing_there(tmp_path: Path) -> None:
    agent = make_agent(tmp_path / "run")
    with pytest.raises(Killed):
        agent.learn(BUDGET, callback=kill_at(3), progress_bar=False)
    before = sorted(tmp_path.rglob("*"))
    lines = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    GRPO.load(tmp_path / "run").evaluate(3)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == lines


def test_a_new_run_leaves_another_alone(tmp_path: Path) -> None:
    first = make_agent(tmp_path / "run").learn(1, progress_bar=False)
    lines = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    second = make_agent(tmp_path / "run").learn(1, progress_bar=False)
    assert (first.run_dir, second.run_dir) == (tmp_path / "run", tmp_path / "run-2")
    assert make_agent(tmp_path / "run").learn(1, progress_bar=False).run_dir == tmp_path / "run-3"
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == lines
    assert GRPO.load(tmp_path / "run").learn(1, progress_bar=False).run_dir == tmp_path / "run"
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Expected a folder to write a run to"):
        make_agent(tmp_path / "file" / "run").learn(1, progress_bar=False)


def test_two_processes_never_write_to_one_run(tmp_path: Path) -> None:
    agent = make_agent(tmp_path / "run")
    agent.iterate()  # in the middle of a run, as far as the folder can tell
    code = f"""
import sys
from pathlib import Path
from llmgym.agents.run_folders import claim_again, claim_new
from llmgym.errors import CheckpointError
print(claim_new(Path({str(tmp_path / "free")!r})).name, flush=True)
try:
    claim_again(Path({str(agent.run_dir)!r}))
except CheckpointError as error:
    print(error, flush=True)
else:
    print("not locked", flush=True)
sys.stdin.readline()
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "free\n"
        assert "is locked" in other.stdout.readline()
        assert make_agent(tmp_path / "free").learn(1, progress_bar=False).run_dir == tmp_path / "free-2"
        other.kill()
    assert make_agent(tmp_path / "free").learn(1, progress_bar=False).run_dir == tmp_path / "free"


# -- what was saved ---------------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path: Path) -> None:
    agent = GRPO("tiny-reasoner", "llmgym/MathReason-v0", SMALL, learning_rate=0.001, env_kwargs={"max_new_tokens": 8})
    agent.learn(total_timesteps=1, progress_bar=False)
    folder = agent.save(tmp_path / "agent")
    agent.learn(total_timesteps=1, progress_bar=False)
    agent.save(folder)  # over an old one
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]
    again = GRPO.load(folder)
    assert again.config == agent.config
    assert (again.n_timesteps, again.n_iterations) == (agent.n_timesteps, 2)
    for mine, theirs in zip(agent.policy.model.parameters(), again.policy.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    first, second = agent.evaluate(6, samples=2), again.evaluate(6, samples=2)
    assert first.examples == second.examples
    assert set(first.pass_at_k) == {1, 2}
    assert first.mean_length <= 8
    with pytest.raises(CheckpointError, match=r"agent\.json"):
        GRPO.load(tmp_path)


def test_a_saved_agent_goes_on_in_a_run_of_its_own(tmp_path: Path) -> None:
    policy = Policy(tiny_llama(), forbidden={3: [4]})
    kwargs = {"env_kwargs": {"n_symbols": 5}, "kl_coef": 0.1, "run_dir": str(tmp_path / "run")}
    agent = GRPO(policy, "llmgym/Copy-v0", SMALL, **kwargs)
    agent.learn(total_timesteps=1, progress_bar=False)
    again = GRPO.load(agent.save(tmp_path / "agent"))
    assert again.reference is not None
    for one in (agent, again):
        one.learn(100, progress_bar=False)
    assert again.policy.forbidden == again.reference.forbidden == {3: (4,)}
    assert same(state(again), state(agent))
    assert again.run_dir == tmp_path / "run-2"
    assert curves(tmp_path / "run-2") == curves(tmp_path / "run")[1:]
    elsewhere = GRPO.load(tmp_path / "agent", gym.make_vec("llmgym/Copy-v0", num_envs=4, n_symbols=5, n_digits=1))
    assert elsewhere.training_envs.env_kwargs == {"n_symbols": 5, "n_digits": 1}
    fresh = GRPO.load(tmp_path / "agent", seed=7, learning_rate=0.5, run_dir=None)
    assert fresh._rng.integers(2**31) == np.random.default_rng(7).integers(2**31)
    assert fresh.config.learning_rate == 0.5
    agent.training_envs.env_kwargs["rewards"] = object()
    with pytest.raises(InvalidOptionError, match="actual: rewards=<object"):
        agent.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_saving_takes_nothing_away_that_it_did_not_write(tmp_path: Path) -> None:
    """The run is in the folder too; a stale file of an earlier save is not kept."""
    agent = make_agent(tmp_path / "agent")
    agent.learn(total_timesteps=1, progress_bar=False)
    folder = agent.save(tmp_path / "agent")
    settings = json.loads((folder / "agent.json").read_text())
    (folder / "shard").write_text("of an earlier save")
    (folder / "agent.json").write_text(json.dumps(settings | {"files": settings["files"] | {"shard": None}}))
    (folder / "notes").mkdir()
    agent.learn(total_timesteps=1, progress_bar=False)
    agent.save(folder)
    assert len(read_metrics(folder)) == 2
    assert (folder / "notes").is_dir()
    assert not (folder / "shard").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]
    resumed = GRPO.load(folder).learn(1, progress_bar=False)
    assert (resumed.run_dir, resumed.n_iterations) == (folder, 3)  # a save of this run, and so the run goes on
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidOptionError, match="file', a file"):
        agent.save(tmp_path / "file")


def test_a_save_of_another_run_is_taken_for_itself(tmp_path: Path) -> None:
    make_agent(tmp_path / "run").learn(BUDGET, progress_bar=False)
    other = make_agent(tmp_path / "run", learning_rate=0.1).learn(1, progress_bar=False)
    other.save(tmp_path / "run")
    loaded = GRPO.load(tmp_path / "run")
    assert (loaded.n_iterations, loaded.config.learning_rate) == (1, 0.1)
    assert loaded.learn(1, progress_bar=False).run_dir == tmp_path / "run-3"


def test_an_environment_without_an_id_has_to_be_given_again(tmp_path: Path) -> None:
    def make_envs() -> Any:
        return gym.vector.SyncVectorEnv(
            [lambda: CopyEnv(n_symbols=5)] * 16, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
        )

    unbroken, killed = (
        GRPO(tiny_llama(VOCABULARY), make_envs(), SMALL, run_dir=str(tmp_path / name)) for name in ("a", "b")
    )
    unbroken.learn(BUDGET, progress_bar=False)
    with pytest.raises(Killed):
        killed.learn(BUDGET, callback=kill_at(3), progress_bar=False)
    with pytest.raises(InvalidOptionError, match="Expected `env`, actual: None"):
        GRPO.load(tmp_path / "b")
    resumed = GRPO.load(tmp_path / "b", make_envs()).learn(progress_bar=False)
    assert same(state(resumed), state(unbroken))


def test_a_failed_save_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent()
    folder = agent.save(tmp_path / "agent")
    before = (folder / "model.safetensors").read_bytes()

    def fail(target: Any) -> None:
        raise OSError("disk full")

    rename = Path.rename
    with monkeypatch.context() as patch:  # the draft is written, the old save is moved aside, and then it fails
        patch.setattr(
            Path, "rename", lambda a, b: fail(b) if Path(b) == folder and a.name != ".agent.old" else rename(a, b)
        )
        with pytest.raises(CheckpointError, match="disk full"):
            agent.save(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]
    monkeypatch.setattr(agent.policy, "save", fail)
    with pytest.raises(CheckpointError, match="disk full"):
        agent.save(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]


@pytest.mark.parametrize("n_renames", [0, 1, 2])
def test_a_save_that_is_killed_leaves_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_renames: int
) -> None:
    """Nobody tidies up after SIGKILL: whatever the last rename was, there is a save to load, and the next one mends."""
    agent = make_agent()
    folder = agent.save(tmp_path / "agent")
    (folder / "notes").write_text("mine")
    agent.n_timesteps = 7
    rename, done = Path.rename, []

    def killed_rename(source: Path, target: Path) -> Any:
        if len(done) == n_renames:
            raise Killed
        done.append(target)
        return rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed_rename)
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(Killed):
            agent.save(folder)
    assert folder.exists() == (n_renames != 1)
    assert GRPO.load(folder).n_timesteps == (7 if n_renames == 2 else 0)
    found = GRPO.load(folder)
    agent.n_timesteps = 8
    agent.save(folder)
    assert found.evaluate(2).n_problems == 2  # needs nothing of where it was found
    assert GRPO.load(folder).n_timesteps == 8
    assert (folder / "notes").read_text() == "mine"
    assert not aside(folder).exists()


# -- what cannot be read ----------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with the checkpoints of iterations 2 and 4."""
    agent = make_agent(tmp_path / "run")
    agent.learn(10**6, callback=lambda agent, _: agent.n_iterations < 4, progress_bar=False)
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["iteration_000004", "iteration_000002"]
    return tmp_path / "run"


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def flip(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "training_state.pt", "config.json"])
def test_a_damaged_checkpoint_names_the_last_good_one(run: Path, name: str, damage: Callable[[Path], None]) -> None:
    newest, before = list_checkpoints(run)
    damage(newest / name)
    with pytest.raises(CheckpointError, match=rf"{name}.*The last good checkpoint is '.*iteration_000002'"):
        GRPO.load(newest)
    with pytest.warns(UserWarning, match=rf"{name}.*Going on from '.*iteration_000002'"):
        resumed = GRPO.load(run)
    assert resumed.n_iterations == 2
    check_whole(before)


def test_a_run_mends_a_damaged_checkpoint_by_going_on(run: Path) -> None:
    newest, _ = list_checkpoints(run)
    good = (newest / "model.safetensors").read_bytes()
    cut(newest / "agent.json")
    with pytest.warns(UserWarning, match="to be JSON"):
        resumed = GRPO.load(run)
    resumed.learn(callback=lambda agent, _: agent.n_iterations < 4, progress_bar=False)
    assert (newest_whole(run) / "model.safetensors").read_bytes() == good


def test_nothing_is_left_of_a_run(run: Path) -> None:
    for path in list_checkpoints(run):
        cut(path / "model.safetensors")
    with pytest.raises(CheckpointError, match="Expected a whole checkpoint in .* actual: none"):
        GRPO.load(run)
    with pytest.raises(CheckpointError, match="Name another folder"):
        GRPO.load(list_checkpoints(run)[0])


def edit(folder: Path, **changes: Any) -> None:
    """As if it had been written so."""
    file = folder / "agent.json"
    settings = json.loads(file.read_text()) | changes
    file.write_text(json.dumps(settings | {"sha256": _hash_of(settings)}))


def test_options_that_were_changed_on_disk_are_refused(run: Path) -> None:
    file = list_checkpoints(run)[0] / "agent.json"
    file.write_text(file.read_text().replace('"clip_range": 0.2', '"clip_range": 0.9'))
    with pytest.raises(CheckpointError, match=r"agent.json' as it was written, actual: its hash is another"):
        GRPO.load(file.parent)
    with pytest.warns(UserWarning, match="its hash is another"):
        assert GRPO.load(run).config.clip_range == 0.2


def test_a_newer_checkpoint_is_not_gone_back_behind(run: Path) -> None:
    newest = list_checkpoints(run)[0]
    edit(newest, format=2)
    with pytest.raises(NewerCheckpointError, match="Update the package"):
        GRPO.load(run)
    assert newest.is_dir()


def test_other_options_are_there_after_the_next_kill_too(run: Path) -> None:
    agent = GRPO.load(run, clip_range=0.5)
    with pytest.raises(Killed):
        agent.learn(10_000, callback=kill_at(agent.n_iterations + 1), progress_bar=False)
    assert GRPO.load(run).config.clip_range == 0.5


def test_two_agents_of_one_process_never_write_to_one_run(run: Path) -> None:
    def meddle(_: Agent, metrics: Any) -> None:
        GRPO.load(run).learn(50, progress_bar=False)

    with pytest.raises(CheckpointError, match="nobody else goes on with, actual: .* is locked"):
        GRPO.load(run).learn(10_000, callback=meddle, progress_bar=False)
    agent = GRPO.load(run)  # and nothing is left locked
    agent.learn(50, progress_bar=False)
    assert [row["iteration"] for row in read_metrics(run)] == list(range(1, agent.n_iterations + 1))


@pytest.mark.parametrize("text", ["[1]", '{"a":', '{"files": 5}', "{}"])
def test_a_file_of_the_same_name_is_no_save(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "agent.json").write_text(text)
    (folder / "notes").write_text("mine")
    agent = make_agent(tmp_path / "run")
    for _ in range(2):
        agent.save(folder)
        assert (folder / "notes").read_text() == "mine"
        assert not aside(folder).exists()
    GRPO.load(folder)


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "notes").write_text("mine")
    (tmp_path / "link").symlink_to("real")
    agent = make_agent(tmp_path / "run")
    for _ in range(2):
        agent.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "notes").read_text() == "mine"
    GRPO.load(tmp_path / "real")


def test_foreign_and_newer_folders_are_refused(run: Path, tmp_path: Path) -> None:
    newest = list_checkpoints(run)[0]
    with pytest.raises(CheckpointError, match="algorithm 'ppo', actual: .* of 'grpo'"):
        PPO.load(run)
    for folder in (tmp_path / "nowhere", tmp_path, newest / "agent.json"):
        with pytest.raises(CheckpointError, match="Expected a folder written by an agent"):
            GRPO.load(folder)
    edit(newest, config=read_settings(newest)["config"] | {"no_such_option": 1})
    with pytest.raises(CheckpointError, match="Expected the options of GRPOConfig .*no_such_option"):
        GRPO.load(newest)
    edit(newest, format=2, llmgym="9.0")
    with pytest.raises(CheckpointError, match="format 1 or earlier, actual: 2 .* written by llmgym 9.0"):
        GRPO.load(newest)
    (newest / "agent.json").write_text('{"name": "of some other program"}')
    with pytest.raises(CheckpointError, match="written by an agent of this version, actual: format None"):
        GRPO.load(newest)


class Attack:
    """What a pickle could do to who reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_no_code_of_a_checkpoint_is_executed(run: Path, tmp_path: Path) -> None:
    newest = list_checkpoints(run)[0]
    torch.save({"n_timesteps": Attack(tmp_path / "executed")}, newest / "training_state.pt")
    whole = (newest / "training_state.pt").read_bytes()
    files = read_settings(newest)["files"]
    fingerprint = {"size": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}
    edit(newest, files=files | {"training_state.pt": fingerprint})
    with pytest.raises(CheckpointError, match="Expected .*training_state.pt' to hold tensors and plain values"):
        GRPO.load(newest)
    assert not (tmp_path / "executed").exists()


def test_what_files_of_transformers_do_not_hold_of_a_model(tmp_path: Path) -> None:
    model = tiny_llama(VOCABULARY).to(torch.bfloat16)
    model.model.norm.float().weight.data += 1e-4  # would be rounded away
    model.model.rotary_emb.inv_freq *= 2.0
    model.lm_head.requires_grad_(False)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    put_model_state(again, model_state(model))
    for one, other in (
        (model.named_parameters(), again.named_parameters()),
        (model.named_buffers(), again.named_buffers()),
    ):
        for (name, mine), (_, theirs) in zip(one, other, strict=True):
            assert mine.dtype == theirs.dtype, name
            assert torch.equal(mine, theirs), name
            assert mine.requires_grad == theirs.requires_grad, name


def test_weights_are_aligned_wherever_they_were() -> None:
    """As safetensors lays them: the rounding of a matrix product may depend on it."""
    model = tiny_llama(VOCABULARY)
    for parameter in model.parameters():
        shifted = torch.empty(parameter.numel() + 4)[4:].view(parameter.shape)
        parameter.data = shifted.copy_(parameter.data)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    assert any(parameter.data_ptr() % 64 for parameter in model.parameters())
    align(model)
    assert not any(parameter.data_ptr() % 64 for parameter in model.parameters())
    assert same(before, [parameter.detach() for parameter in model.parameters()])


def test_the_state_of_another_model_is_refused(run: Path) -> None:
    newest = list_checkpoints(run)[0]
    with pytest.raises(ValueError, match="Expected the state of parameter 0 to have shape"):
        GRPO(tiny_llama(14), "llmgym/Copy-v0", SMALL).load_state_dict(GRPO.load(newest).state_dict())


# -- what cannot be written -------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for some checkpoints."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=640k", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("left", [0, 20, 60])
def test_a_full_disk_leaves_the_last_good_checkpoint(small_disk: Path, left: int, tmp_path: Path) -> None:
    """Full before the first byte, in the middle of the model, in the middle of the optimiser's state."""
    agent = make_agent(small_disk / "run", checkpoint_every=1)

    def fill(agent: Agent, metrics: Any) -> None:
        if agent.n_iterations == 2:
            free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
            (small_disk / "other").write_bytes(bytes(max(free - left * 1024, 0)))

    with pytest.raises(CheckpointError, match=r"No space left.*last good checkpoint is .*iteration_000001'.*--resume"):
        agent.learn(10**6, callback=fill, progress_bar=False)
    kept = {path.name for path in (small_disk / "run" / "checkpoints").iterdir()}
    assert kept == {"iteration_000000", "iteration_000001"}
    (small_disk / "other").unlink()
    resumed = GRPO.load(small_disk / "run")
    assert resumed.n_iterations == 1
    resumed.learn(callback=lambda agent, _: agent.n_iterations < 3, progress_bar=False)
    unbroken = make_agent(tmp_path / "run").learn(10**6, callback=lambda a, _: a.n_iterations < 3, progress_bar=False)
    assert same(state(resumed), state(unbroken))


def test_a_file_that_cannot_be_written_whole(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    agent = make_agent()
    folder = agent.save(tmp_path / "agent")
    before = (folder / "training_state.pt").read_bytes()
    agent.learn(1, progress_bar=False)  # with an optimiser's state, the file is larger
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * (folder / "model.safetensors").stat().st_size, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="File too large"):
            agent.save(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (folder / "training_state.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]


def test_nothing_is_learned_from_a_gradient_that_is_no_number(run: Path) -> None:
    agent = GRPO.load(run)
    poisoned = 0

    def poison(gradient: Any) -> Any:
        nonlocal poisoned
        poisoned += 1
        return gradient * float("nan")

    before = weights(agent)
    next(agent.policy.model.parameters()).register_hook(poison)
    with pytest.raises(NotFiniteError, match=r"finite gradient, actual: norm nan.*last good .*iteration_000004'"):
        agent.learn(progress_bar=False)
    assert poisoned
    assert torch.equal(weights(agent), before)
    assert GRPO.load(run).n_iterations == 4


def test_nothing_is_learned_from_a_reward_that_is_no_number(run: Path) -> None:
    agent = GRPO.load(run)
    collect, before = agent.collect, weights(agent)

    def spoiled() -> Any:
        batch, metrics = collect()
        batch.rewards[3, 0] = np.nan
        parts = batch.reward_components | {"style": batch.episode_returns}
        return replace(batch, reward_components=parts), metrics

    agent.collect = spoiled  # type: ignore[method-assign]
    with pytest.raises(NotFiniteError, match=r"component 'style' .* 1 of 16 episodes .*number 3.*iteration_000004'"):
        agent.learn(progress_bar=False)
    assert torch.equal(weights(agent), before)
    agent.collect = lambda: (replace(spoiled()[0], reward_components={}), {})  # type: ignore[method-assign]
    with pytest.raises(NotFiniteError, match="the reward of a step"):
        agent.iterate()


# -- signals ----------------------------------------------------------------------------------------------------------


def send(*signals: signal.Signals) -> Callable[..., None]:
    def callback(agent: Agent, metrics: Any) -> None:
        if agent.n_iterations == 3:
            for number in signals:
                signal.raise_signal(number)

    return callback


def test_ctrl_c_ends_the_iteration_and_saves(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    unbroken = make_agent(tmp_path / "unbroken").learn(BUDGET, progress_bar=False)
    agent = make_agent(tmp_path / "run")
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    agent.learn(BUDGET, callback=send(signal.SIGINT), progress_bar=False)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert agent.stopped_by == signal.SIGINT
    assert agent.n_iterations == 3
    said = capfd.readouterr().err
    assert "Stopping after this iteration" in said
    assert f"Stopped after iteration 3. Go on with: llmgym train --resume {tmp_path / 'run'}" in said
    resumed = GRPO.load(tmp_path / "run").learn(progress_bar=False)
    assert resumed.stopped_by is None
    assert same(state(resumed), state(unbroken))
    with pytest.raises(CheckpointError, match="another one has gone on with it"):
        agent.learn(progress_bar=False)
    again = make_agent(tmp_path / "again").learn(BUDGET, callback=send(signal.SIGINT), progress_bar=False)
    assert same(state(again.learn(progress_bar=False)), state(unbroken))  # the agent itself may go on too
    make_agent().learn(BUDGET, callback=send(signal.SIGINT), progress_bar=False)
    assert "Nothing is saved" in capfd.readouterr().err


def test_sigterm_saves_and_ends_the_program(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        make_agent(tmp_path / "run").learn(BUDGET, callback=send(signal.SIGTERM), progress_bar=False)
    assert stop.value.code == 143
    assert GRPO.load(tmp_path / "run").n_iterations == 3


def test_the_second_signal_ends_at_once(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        make_agent(tmp_path / "a").learn(BUDGET, callback=send(signal.SIGINT, signal.SIGINT), progress_bar=False)
    with pytest.raises(SystemExit) as stop:
        make_agent(tmp_path / "b").learn(BUDGET, callback=send(signal.SIGINT, signal.SIGTERM), progress_bar=False)
    assert stop.value.code == 143
    assert signal.getsignal(signal.SIGINT) is before
    assert [GRPO.load(tmp_path / name).n_iterations for name in "ab"] == [2, 2]  # the last checkpoint stays


def test_handlers_of_others_and_other_threads_are_left_in_peace() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with interrupts.StopSignals() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop.received is None
            signal.raise_signal(signal.SIGINT)
            assert stop.received == signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
    agent = make_agent()
    thread = threading.Thread(target=lambda: agent.learn(1, progress_bar=False))
    thread.start()
    thread.join()
    assert agent.n_iterations == 1


# -- the real thing ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_sigkill_at_random_moments(algorithm: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "benchmarks" / "kill_test.py"), "--algorithm", algorithm, "--kills", "3"]
    done = subprocess.run(
        [*command, "--iterations", "8", "--output", str(tmp_path / "out")],
        env=os.environ | {"PYTHONPATH": str(root), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "NO" not in done.stdout
