"""The programs that measure speed: each runs with tiny settings, and what they measure by does what it says.

Nothing here asserts how fast anything is.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("tyro")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
HAS_TRL = importlib.util.find_spec("trl") is not None
needs_trl = pytest.mark.skipif(not HAS_TRL, reason="needs TRL: the extra `bench`")


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a program, or a module of theirs, by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def figures(tmp_path: Path) -> Callable[[], Any]:
    """Reads what a program wrote to ``figures.path``."""

    def read() -> Any:
        return json.loads(read.path.read_text())["rows"]

    read.path = tmp_path / "figures.json"
    return read


# -- each program -----------------------------------------------------------------------------------------------------


def test_decoding(program, monkeypatch, capsys, figures):
    options = ["--slots", "4", "--group", "2", "--tokens", "6", "--batches", "2", "--hidden", "32", "--layers", "1"]
    monkeypatch.setattr(sys, "argv", ["decode.py", *options, "--repeats", "1", "--json", str(figures.path)])
    program("decode").main()
    full, uneven = figures()
    assert [full["lengths"], uneven["lengths"]] == ["full", "uneven"]
    for row in (full, uneven):
        assert set(row["ratio_to_generate"]) == {"act", "act, no groups", "collect", "generate", "floor"}
        assert row["ratio_to_generate"]["generate"]["median"] == row["share_of_floor"]["floor"]["median"] == 1.0
        assert sum(row["by_operator"].values()) == pytest.approx(1.0)
    assert "x generate" in capsys.readouterr().out


def test_learning(program, capsys, figures):
    learner = program("learner")
    sizes = {"hidden": (32,), "n_prompts": 2, "group_size": 4, "max_new_tokens": 12}
    learner.main(learner.Learner(parts=("speed",), repeats=1, json=figures.path, **sizes))
    full, uneven = figures()
    assert full["padding"]["eager"] == 0.0
    assert uneven["padding"]["eager"] > 0.1
    assert full["tokens"] == 2 * 4 * 12 > uneven["tokens"]
    assert full["groups_with_signal"] == uneven["groups_with_signal"] == 1.0
    assert "x eager" in capsys.readouterr().out


def test_the_profile_of_the_main_job(program, capsys, figures):
    from llmgym.agents.grpo import GRPOConfig

    profile = program("profile_main_job")
    config = GRPOConfig(problems_per_iteration=2, n_minibatches=1, run_dir=None)
    profile.main(profile.ProfileMainJob(seconds=0.1, grpo=config, json=figures.path))
    (row,) = figures()
    assert sum(row["shares"].values()) == pytest.approx(1.0)
    assert {"learning: model", "decoding: model"} <= set(row["shares"])
    assert "The model's own arithmetic" in capsys.readouterr().out


def test_the_large_model_in_small(program, capsys, figures):
    pytest.importorskip("peft")  # gpu_memory, whose sizes it shares, compares with adapters
    gpu_decode = program("gpu_decode")
    options = {"slots": (8,), "learner_prompts": 2, "repeats": 1, "peers": ("generate",)}
    gpu_decode.main(gpu_decode.GPUDecode(device="cpu", size="tiny", json=figures.path, **options))
    decode, learner, ppo = figures()
    assert set(decode["tokens_per_second"]) == {"act", "act, no groups", "generate", "floor"}
    assert 0 < decode["env_share"] < 1
    assert learner["tokens"] == 2 * 8 * (8 + 8)
    assert ppo["seconds"]["median"] > 0
    assert "environment's share" in capsys.readouterr().out


@needs_trl
def test_the_comparison_with_trl(program, capsys, figures):
    vs_trl = program("vs_trl")
    sizes = {"hidden": (32,), "n_prompts": 2, "group_size": 4, "max_new_tokens": 10}
    vs_trl.main(vs_trl.VsTRL(repeats=1, warm_up=1, json=figures.path, **sizes))
    full, uneven = figures()
    assert full["mean_length"] == {"ours": 10.0, "theirs": 10.0}
    assert all(1 <= length < 10 for length in uneven["mean_length"].values())
    assert full["groups_with_signal"] == 1.0
    assert "samples a CPU second" in capsys.readouterr().out


@needs_trl
@pytest.mark.slow
def test_memory_beside_trl(program, figures):
    learner = program("learner")
    sizes = {"n_words": 2000, "memory_prompts": 1, "few_rows": 4}
    learner.main(learner.Learner(parts=("memory",), repeats=1, json=figures.path, **sizes))
    assert [row["who"] for row in figures()] == ["llmgym", "TRL", "TRL, few rows"]
    assert all(row["mib"]["median"] > 0 for row in figures())


@pytest.mark.skipif(HAS_TRL, reason="TRL is installed")
def test_without_trl_they_say_so(program):
    with pytest.raises(SystemExit, match=r"Expected TRL, actual: it is not installed\. Run: pip install"):
        program("vs_trl").main(program("vs_trl").VsTRL())


def test_without_a_trl_that_has_ppo_the_comparison_says_so(program, monkeypatch, tmp_path):
    vs_trl = program("vs_trl")
    monkeypatch.setattr(vs_trl, "check_trl", lambda: None)
    with pytest.raises(SystemExit, match=r"Expected --trl-ppo-path to hold a TRL with PPO, actual: .*trl==1\.12\.0"):
        vs_trl.main(vs_trl.VsTRL(algorithms=("ppo",), trl_ppo_path=tmp_path))


def test_without_a_gpu_decoding_says_so(program, monkeypatch):
    pytest.importorskip("peft")
    gpu_decode = program("gpu_decode")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"Expected a CUDA device, actual: torch finds none here\..*--device cpu"):
        gpu_decode.main(gpu_decode.GPUDecode())


# -- what they measure by -----------------------------------------------------------------------------------------------


def test_responses_have_the_lengths_asked_for(program):
    """In the environment and in ``generate``: the whole budget, or between a tenth of it and all of it."""
    import gymnasium as gym

    from llmgym.agents.policies import Policy
    from llmgym.agents.rollouts import collect

    tasks = program("tasks")
    model = tasks.llama(32, 1)
    policy = Policy(model, forbidden=tasks.never(tasks.END, len(tasks.CHARACTERS)))
    lengths = {}
    for kind in ("full", "uneven"):
        envs = gym.make_vec(tasks.SUMS, num_envs=64, max_new_tokens=20, lengths=kind, autoreset_mode="disabled")
        batch = collect(envs, policy, group_size=8, n_groups=32, seed=0)
        lengths[kind] = batch.response_lengths
        assert (batch.episode_returns.reshape(-1, 8).std(axis=1) > 0).all()  # every group has signal
    assert set(lengths["full"]) == {20}
    assert set(lengths["uneven"]) == set(range(2, 21))
    assert abs(lengths["uneven"].mean() - 11) < 1.5

    wanted = np.array([2, 5, 20, 7])
    prompts = torch.full((4, 6), 5)
    written = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=True, max_new_tokens=20,
        logits_processor=[tasks.EndAt(wanted, 6)], eos_token_id=tasks.END, pad_token_id=tasks.PAD,
    )[:, 6:].tolist()  # fmt: skip
    assert [row.index(tasks.END) + 1 for row in written] == wanted.tolist()


def test_what_is_held_out_is_never_trained_on(program):
    tasks = program("tasks")
    rng = np.random.default_rng(0)
    trained, held_out = (
        {tasks.SumsTask(1, split).sample(rng).question for _ in range(2000)} for split in ("train", "test")
    )
    assert len(trained | held_out) == 100
    assert not trained & held_out


def test_held_out_accuracy_is_what_sampling_gives_on_average(program):
    """Against 4,000 sampled responses of a model that is right now and then, judged by the environment's reward."""
    import gymnasium as gym

    from llmgym.agents.policies import Policy
    from llmgym.agents.rollouts import collect

    tasks = program("tasks")
    model = tasks.llama(32, 1)
    tasks.supervise(model, 300, 1)
    expected = tasks.held_out_accuracy(model, 1)
    envs = gym.make_vec(tasks.SUMS, num_envs=500, n_digits=1, split="test", max_new_tokens=4, autoreset_mode="disabled")
    sampled = collect(envs, Policy(model.eval()), n_groups=4000, seed=0).episode_returns.mean()
    assert 0.05 < expected < 0.95
    assert abs(sampled - expected) < 0.05  # of ten held-out sums, drawn at random


def test_environment_and_peer_have_one_vocabulary(program):
    tasks = program("tasks")
    for n_words, text in ((None, "12+34="), (50, "w7 w49")):
        ours, theirs = tasks.tokenizer(n_words), tasks.peer_tokenizer(n_words)
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
        assert (ours.vocab_size, ours.end_token_id) == (len(theirs), theirs.eos_token_id)


@pytest.mark.parametrize("reward", ["even_share", "even_words"])
def test_the_reward_is_the_share_of_even_tokens(program, reward):
    from llmgym.rewards.stack import REWARDS
    from llmgym.tasks import Problem
    from llmgym.transcript import Author, Transcript

    tasks = program("tasks")
    ids = [4, 7, 11, 6, tasks.END]
    tokenizer = tasks.tokenizer(None if reward == "even_share" else 50)
    response = tokenizer.decode(ids[:-1])
    transcript = Transcript(Problem("", "", problem_id=""), "", ((Author.AGENT, response),), len(ids))
    assert REWARDS[reward]().score(transcript) == tasks.even_share(ids) == 0.5


def test_a_slot_that_ends_takes_the_next_prompt(program):
    """Each response of the loop gets exactly its tokens, and a slot waits only when no prompt is left."""
    from llmgym.agents.policies import Policy

    played: list[tuple[int, int]] = []  # (slots that act, slots that restarted) of each step

    class Watched(Policy):
        def act(self, observations, restarted=None, waiting=None):
            played.append((int((~waiting).sum()), int(restarted.sum())))
            return super().act(observations, restarted, waiting)

    decode, tasks = program("decode"), program("tasks")
    lengths = np.array([3, 1, 4, 2, 5])
    prompts = np.full((5, 6), 7)
    decode.Loop(Watched(tasks.llama(32, 1)), prompts, lengths, n_slots=2)()
    assert sum(acting for acting, _ in played) == lengths.sum()
    assert sum(restarts for _, restarts in played) == 5
    assert [acting for acting, _ in played] == [2, 2, 2, 2, 2, 1, 1, 1, 1, 1]


def test_the_least_that_learning_needs(program):
    """Two prompts of 3 tokens, two responses to each, 10 response tokens in all."""
    from transformers import LlamaConfig, LlamaForCausalLM

    learner = program("learner")
    shape = {"vocab_size": 7, "hidden_size": 4, "intermediate_size": 5, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    batch = type("Batch", (), {})()
    batch.response_lengths, batch.prompt_lengths, batch.group_size = np.array([1, 2, 3, 4]), np.full(4, 3), 2
    keys_and_values, others, head = 2 * 4 * 4, 2 * 4 * 4 + 3 * 4 * 5, 7 * 4
    fed, read = 2 * 3 + (0 + 1 + 2 + 3), 2 + (0 + 1 + 2 + 3)  # a prompt's last state is read, that of a last token not
    for tied in (False, True):
        model = LlamaForCausalLM(LlamaConfig(**shape, **heads, tie_word_embeddings=tied))
        assert learner.least_operations(model, batch) == 6 * (
            2 * keys_and_values * fed + others * (fed + read) + head * 10
        )


def test_time_is_put_down_to_the_function_that_took_it(program):
    def burn(seconds: float) -> None:
        since = time.process_time()
        while time.process_time() - since < seconds:
            sum(range(100))

    def dear() -> None:
        burn(0.3)

    def cheap() -> None:
        burn(0.1)

    def outer() -> None:
        dear()
        cheap()

    clock = program("profiles").StackClock({"much": (":dear", ".dear"), "little": (".cheap",)}, {"in": (".outer",)})
    with clock:
        outer()
        burn(0.1)
    shares = clock.shares()
    assert shares["in: much"] == pytest.approx(0.6, abs=0.1)
    assert shares["in: little"] == pytest.approx(0.2, abs=0.1)
    assert shares["other"] == pytest.approx(0.2, abs=0.1)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_the_peak_of_memory_is_that_of_the_block(program):
    profiles = program("profiles")
    np.ones(2**27, dtype=np.uint8)  # before: does not count
    with profiles.peak_memory() as peak:
        held = np.ones(2**26, dtype=np.uint8)
        del held
    assert 60 < peak() < 100


def test_when_a_curve_reached_a_level(program):
    first_at = program("vs_trl").first_at
    accuracy, cost = np.array([0.5, 0.7, 0.6, 0.9]), np.array([0.0, 10.0, 20.0, 30.0])
    assert first_at(0.4, accuracy, cost) == 0.0
    assert first_at(0.6, accuracy, cost) == pytest.approx(5.0)
    assert first_at(0.8, accuracy, cost) == pytest.approx(26.6667, abs=1e-3)
    assert first_at(0.95, accuracy, cost) == float("inf")


def test_numbers_stand_to_the_right_in_a_table(program):
    table = program("side_by_side").table(["name", "n"], [["a", "1,000"], ["long", "7"]])
    assert table.splitlines() == ["| name |     n |", "|------|------:|", "| a    | 1,000 |", "| long |     7 |"]
