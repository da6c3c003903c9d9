"""Agents of the benchmark: how they are found, what they are given, and that being watched changes nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import sys

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from llmgym.agents.policies import Policy
from llmgym.benchmark.agents import BUILT_IN, AgentSpec, FunctionAgent, RandomAgent
from llmgym.benchmark.challenges import Challenge
from llmgym.benchmark.evaluations import evaluate
from llmgym.benchmark.language_models import GRPOAgent, PPOAgent, random_llama
from llmgym.benchmark.suites import suite
from llmgym.envs.diagnostics import DIAGNOSTICS
from llmgym.errors import InvalidOptionError, MissingExtraError
from llmgym.vector import WAIT

SOURCE = """
class Mine:
    def act(self, observations, restarted, waiting):
        return restarted * 0 + 1

def answer(prompt):
    return "0 "

number = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_agents.py"
    path.write_text(SOURCE)
    return path


# -- finding agents ---------------------------------------------------------------------------------------------------


def test_every_shipped_agent_is_found():
    pytest.importorskip("stable_baselines3")
    for name in BUILT_IN:
        agent = AgentSpec.parse(name).load()()
        assert callable(agent.act)
        assert callable(agent.train)


def test_a_class_in_a_file(file):
    spec = AgentSpec.parse(f"me={file}:Mine")
    assert spec.label == "me"
    assert spec.load() is spec.load()
    assert spec.load()().act(None, np.zeros(2, bool), np.zeros(2, bool)).tolist() == [1, 1]


def test_a_class_in_a_module(file, monkeypatch):
    monkeypatch.syspath_prepend(str(file.parent))
    spec = AgentSpec.parse("my_agents:Mine")
    assert spec.label == "Mine"
    assert spec.load().__name__ == "Mine"


def test_a_function_of_a_text_is_an_agent(file):
    agent = AgentSpec.parse(f"{file}:answer").load()()
    assert isinstance(agent, FunctionAgent)
    assert agent.respond("? =") == "0 "


def test_the_fingerprint_is_that_of_the_file(file):
    spec = AgentSpec.parse(f"{file}:Mine")
    before = spec.fingerprint()
    assert before == AgentSpec.parse(f"{file}:answer").fingerprint()
    file.write_text(SOURCE + "\n# another thing\n")
    assert spec.fingerprint() != before
    assert AgentSpec.parse("grpo").fingerprint() is None


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("grppo", "Did you mean 'grpo'"),
        ("no/such/file.py:Mine", "which is none"),
        ("no_such_module_at_all:Mine", "Expected a module that can be imported"),
        ("a/b=random", "letters, digits"),
        ("..=random", "letters, digits"),
        ("llmgym.benchmark.agents:Nobody", "Expected a name in llmgym.benchmark.agents"),
        ("llmgym.benchmark.agents:BUILT_IN", "a class with a method `act` or `respond`"),
    ],
)
def test_what_is_no_agent_is_refused(word, said):
    with pytest.raises(InvalidOptionError, match=said):
        AgentSpec.parse(word).load()


def test_an_import_error_inside_an_agents_module_is_its_own(tmp_path, monkeypatch):
    (tmp_path / "needs_something.py").write_text("import surely_not_installed_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed_anywhere"):
        AgentSpec.parse("needs_something:Mine").load()


def test_without_stable_baselines3_there_is_an_install_line(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("llmgym.sb3", "llmgym.benchmark.sb3_agents"))]:
        monkeypatch.delitem(sys.modules, name)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "stable_baselines3" else found(name, *rest)
    )
    with pytest.raises(MissingExtraError, match=r"llmgym-rl\[sb3\]"):
        AgentSpec.parse("sb3-ppo").load()


# -- what they are given ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["disabled", "same_step", "next_step"])
def test_steps_are_counted_as_tokens_written(mode):
    """By the lengths of the episodes that ended, and of those that have not."""
    challenge = Challenge(DIAGNOSTICS["truncation"], "small")
    envs = challenge.make_vec(8, autoreset_mode=mode)
    core = envs.unwrapped
    rng = np.random.default_rng(0)
    envs.reset(seed=0)
    written, over = 0, np.zeros(8, bool)
    for _ in range(40):
        tokens = rng.integers(challenge.vocab_size, size=8)
        acted = ~over if mode != "same_step" else np.ones(8, bool)
        written += int(acted.sum())
        _, _, terminated, truncated, _ = envs.step(np.where(over, WAIT, tokens) if mode == "disabled" else tokens)
        over = terminated | truncated
        if mode == "disabled" and over.all():
            envs.reset()
            over[:] = False
    assert challenge.n_timesteps == written > 100
    assert core.num_envs == 8


def test_a_reset_by_hand_ends_what_was_about_to_be_reset():
    challenge = Challenge(DIAGNOSTICS["vocabulary"], "small")
    envs = challenge.make_vec(4, autoreset_mode="next_step")
    for seed in range(3):  # an episode is one word
        envs.reset(seed=seed)
        envs.step(np.full(4, 5))
    assert challenge.n_timesteps == 12


def test_several_environments_are_counted_together():
    challenge = Challenge(DIAGNOSTICS["noise"], "small")
    for n in (2, 3):
        envs = challenge.make_vec(n)
        envs.reset(seed=0)
        envs.step(np.full(n, 5))
    assert challenge.n_timesteps == 5


def test_random_tokens_score_nothing_and_use_the_whole_vocabulary():
    diagnostic, agent = DIAGNOSTICS["dense"], RandomAgent()
    agent.train(Challenge(diagnostic, "small"), 0, seed=0)
    waiting = np.zeros(4000, bool)
    tokens = agent.act(None, waiting, waiting)
    assert sorted(set(tokens.tolist())) == list(range(13))
    episodes = evaluate(agent, diagnostic, "small", 4000, seed=0)
    assert abs(diagnostic.normalised(np.mean([e.episode_return for e in episodes]), "small")) < 0.03


def test_an_agent_of_texts_is_paid_as_one_of_tokens():
    """In `sparse` an even word, then an odd one, is right."""
    diagnostic = DIAGNOSTICS["sparse"]
    right = evaluate(FunctionAgent(lambda prompt: "2 1 "), diagnostic, "small", 5, seed=0)
    wrong = evaluate(FunctionAgent(lambda prompt: "1 1 "), diagnostic, "small", 5, seed=0)
    assert (diagnostic.score(right, "small"), diagnostic.score(wrong, "small")) == (1.0, 0.0)
    assert {episode.n_new_tokens for episode in right} == {2}


def test_an_agent_of_texts_is_shown_the_prompt():
    """The right response to `copy` is in its prompt, so that whoever repeats it is right throughout."""
    diagnostic, seen = DIAGNOSTICS["copy"], []

    def repeat(prompt: str) -> str:
        seen.append(prompt)
        return prompt.replace("=", "")

    assert diagnostic.score(evaluate(FunctionAgent(repeat), diagnostic, "small", 20, seed=0), "small") == 1.0
    assert len(set(seen)) > 5


@pytest.mark.parametrize("agent", [GRPOAgent, PPOAgent])
def test_being_watched_changes_nothing(agent):
    """Evaluations in the middle of the training take no random number of it, and leave nothing behind."""
    weights = []
    for watched in (False, True):
        one = agent()

        def look(one: object = one, watched: bool = watched) -> None:
            if watched and hasattr(one, "_player"):
                evaluate(one, DIAGNOSTICS["copy"], "small", 20, seed=1)

        one.train(Challenge(DIAGNOSTICS["copy"], "small", look), 800, seed=3)
        weights.append([p.detach().clone() for p in one._player.model.parameters()])
    assert all(torch.equal(alone, watched) for alone, watched in zip(*weights, strict=True))


def test_what_is_scored_is_what_was_trained(tmp_path):
    """A model that keeps to a grammar, is sampled at a temperature and cut at top-k, keeps to them when it is scored."""
    folder = tmp_path / "model"
    Policy.load("tiny-reasoner", grammar=r"<answer>[0-9]{1,3}</answer>").save(folder)
    (entry,) = suite("reasoning", only=["level-1"], model=str(folder), agent_options={"temperature": 0.3, "top_k": 3})
    challenge = Challenge(entry.subject, entry.size, start=entry.start, agent_options=entry.agent_options)
    agent = GRPOAgent()
    agent.train(challenge, 1, seed=0)
    assert (agent._player.temperature, agent._player.top_k) == (0.3, 3)
    episodes = evaluate(agent, entry.subject, entry.size, 10, 0, entry.held_out)
    assert all(re.fullmatch(r"<answer>[0-9]{1,3}</answer>", episode.response) for episode in episodes)


def test_a_training_that_was_interrupted_is_no_result():
    """Agents end their iteration at Ctrl-C and return; in a benchmark that must not pass for a whole training."""

    def interrupt() -> None:
        if challenge.n_timesteps:
            os.kill(os.getpid(), signal.SIGINT)

    challenge = Challenge(DIAGNOSTICS["copy"], "small", interrupt)
    with pytest.raises(KeyboardInterrupt):
        GRPOAgent().train(challenge, 5000, seed=0)
    assert challenge.n_timesteps < 1000


def test_a_model_is_the_same_for_a_seed_and_leaves_torch_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (next(random_llama(9, 6, seed).parameters()) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.rand(3), expected)


def test_generic_algorithms_train_and_play():
    pytest.importorskip("stable_baselines3")
    spec = AgentSpec.parse("sb3-a2c")
    agent, calls = spec.load()(), []
    challenge = Challenge(DIAGNOSTICS["noise"], "small", lambda: calls.append(challenge.n_timesteps))
    agent.train(challenge, 1024, seed=0)
    assert challenge.n_timesteps == 1024
    assert calls[0] == 0
    assert calls[-1] == 1024
    assert len(evaluate(agent, DIAGNOSTICS["noise"], "small", 50, seed=0)) >= 50


# -- suites -----------------------------------------------------------------------------------------------------------


def test_the_suite_has_every_diagnostic():
    assert [entry.diagnostic for entry in suite()] == list(DIAGNOSTICS)
    assert all(entry.budget >= 10_000 for entry in suite(sizes=["small", "medium", "large"]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "diagnostic"}, "a suite"),
        ({"sizes": ["tiny"]}, "a size"),
        ({"only": ["recal"]}, "Did you mean 'recall'"),
        ({"budget": 0}, "a budget >= 1"),
    ],
)
def test_a_suite_that_there_is_not(options, said):
    with pytest.raises(InvalidOptionError, match=said):
        suite(**options)
