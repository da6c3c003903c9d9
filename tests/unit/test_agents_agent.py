"""What every agent does around its algorithm: budgets, logging, environments, evaluation, the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorWrapper

torch = pytest.importorskip("torch")

from llmgym.agents.evaluation import pass_interval  # noqa: E402
from llmgym.agents.grpo import GRPO, GRPOConfig, TrainOptions  # noqa: E402
from llmgym.agents.metrics import read_metrics  # noqa: E402
from llmgym.agents.optimizers import MixedPrecisionAdamW  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.training import main  # noqa: E402
from llmgym.envs.copy import CopyEnv, CopyVectorEnv  # noqa: E402
from llmgym.errors import InvalidOptionError  # noqa: E402
from tests.unit.agent_fakes import VOCABULARY, tiny_llama  # noqa: E402

SMALL = GRPOConfig(group_size=4, problems_per_iteration=6, n_minibatches=2, run_dir=None)


def make_agent(**overrides: Any) -> GRPO:
    return GRPO(tiny_llama(VOCABULARY), "llmgym/Copy-v0", SMALL, env_kwargs={"n_symbols": 5}, **overrides)


def test_learning_rate_warms_up_and_falls() -> None:
    agent = make_agent(learning_rate=1.0, warmup_iterations=3, final_learning_rate=0.2)
    rates = []
    for spent in (0.0, 0.0, 0.0, 0.0, 0.5, 1.0):
        rates.append(agent.config.learning_rate * agent._rate_factor(spent))
        agent.n_iterations += 1
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.6, 0.2])


def test_unknown_options_are_refused() -> None:
    with pytest.raises(InvalidOptionError, match="'learning_rat'"):
        make_agent(learning_rat=0.1)
    with pytest.raises(InvalidOptionError, match="total_timesteps nor max_seconds"):
        make_agent().learn()
    for budget in ({"total_timesteps": 0}, {"max_seconds": 0.0}, {"max_seconds": -1.0}):
        with pytest.raises(InvalidOptionError, match=f"{next(iter(budget))} > 0.*actual"):
            make_agent().learn(**budget)
    for number in ({"n_problems": 0}, {"samples": 0}, {"num_envs": 0}):
        with pytest.raises(InvalidOptionError, match=f"{next(iter(number))} >= 1, actual: 0"):
            make_agent().evaluate(**number)
    with pytest.raises(InvalidOptionError, match='action_unit="token"'):
        GRPO(tiny_llama(), "llmgym/Copy-v0", SMALL, env_kwargs={"n_symbols": 5, "action_unit": "step"})


def test_the_environment_speaks_the_policys_vocabulary() -> None:
    tokenizer = make_agent().policy.tokenizer
    agent = GRPO(Policy(tiny_llama(), tokenizer), "llmgym/Copy-v0", SMALL)
    assert agent.envs.single_action_space.n == VOCABULARY
    envs = gym.make_vec("llmgym/MathReason-v0", num_envs=4, autoreset_mode="disabled")
    with pytest.raises(InvalidOptionError, match="vocabulary of 9, actual: 640"):
        GRPO(Policy(tiny_llama(700), tokenizer), envs, SMALL)


def test_learn_keeps_its_budget_and_logs(tmp_path: Path) -> None:
    agent = make_agent(run_dir=str(tmp_path))
    seen: list[int] = []
    agent.learn(total_timesteps=100, callback=lambda _, m: seen.append(m["timesteps"]), progress_bar=False)
    assert 100 <= agent.n_timesteps < 100 + 6 * 4 * 4
    rows = read_metrics(tmp_path)
    assert [row["timesteps"] for row in rows] == seen
    assert rows[-1]["rollout/episodes"] == 24
    assert 0 < rows[-1]["time/env_share"] < 1
    agent.learn(total_timesteps=10**9, callback=lambda *_: False, progress_bar=False)
    assert len(read_metrics(tmp_path)) == len(rows) + 1
    agent.learn(max_seconds=0.2)  # with the line of progress
    assert agent.train_seconds > 0.2


def test_every_logged_metric_is_explained(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    agent = make_agent(kl_coef=0.1, run_dir=str(tmp_path))
    agent.learn(total_timesteps=1, progress_bar=False)
    for name in read_metrics(tmp_path)[0]:
        wanted = "reward/<name>" if name.startswith("reward/") else name
        assert f"`{wanted}`" in page, name


def test_an_agent_on_a_given_vector_environment(tmp_path: Path) -> None:
    envs = gym.make_vec("llmgym/Copy-v0", num_envs=8, n_symbols=5, autoreset_mode="next_step")
    agent = GRPO(tiny_llama(VOCABULARY), envs, SMALL)
    agent.learn(total_timesteps=1, progress_bar=False)
    first = agent.evaluate(5, samples=2)
    assert first.examples[0]["prompt"].endswith("=")  # as text
    again = GRPO.load(agent.save(tmp_path / "agent"))
    assert again.evaluate(5, samples=2).examples == first.examples
    with pytest.raises(InvalidOptionError, match="inside a wrapper"):  # made anew, the wrapper would be lost
        GRPO(tiny_llama(VOCABULARY), VectorWrapper(envs), SMALL).evaluate(5)
    envs.spec = None
    with pytest.raises(InvalidOptionError, match="environment with an id"):
        GRPO(tiny_llama(VOCABULARY), envs, SMALL).evaluate(5)


class OwnEnv(CopyEnv):
    """A user's own, registered outside of our namespace."""


class OwnVectorEnv(CopyVectorEnv):
    """Its native twin."""


class DeafVectorEnv(CopyVectorEnv):
    """Takes no tokenizer."""

    def __init__(self, num_envs: int = 1, *, autoreset_mode: str = "next_step", split: str = "train") -> None:
        super().__init__(num_envs, autoreset_mode=autoreset_mode, split=split)


@pytest.fixture
def own_ids() -> Iterator[None]:
    gym.register("Own-v0", entry_point=OwnEnv, vector_entry_point=OwnVectorEnv)
    gym.register("OwnSingle-v0", entry_point=OwnEnv)
    gym.register("OwnMode-v0", vector_entry_point=OwnVectorEnv, kwargs={"autoreset_mode": "same_step"})
    gym.register("Deaf-v0", vector_entry_point=DeafVectorEnv)
    yield
    for name in ("Own-v0", "OwnSingle-v0", "OwnMode-v0", "Deaf-v0"):
        del gym.registry[name]


@pytest.mark.usefixtures("own_ids")
@pytest.mark.parametrize(
    ("env", "mode"),
    [("Own-v0", "DISABLED"), ("OwnSingle-v0", "NEXT_STEP"), ("OwnMode-v0", "SAME_STEP"), ("Deaf-v0", "DISABLED")],
)
def test_ids_of_users_get_what_their_entry_points_take(env: str, mode: str) -> None:
    tokenizer = make_agent().policy.tokenizer  # has another vocabulary than the default one of the environment
    own = None if env == "Deaf-v0" else tokenizer
    policy = Policy(tiny_llama(20 if own is None else VOCABULARY), own)
    agent = GRPO(policy, env, SMALL)
    assert agent.envs.metadata["autoreset_mode"] is AutoresetMode[mode]
    assert agent.training_envs.env_kwargs.get("tokenizer") is own
    assert agent.evaluate(3).solved_if == "return >= 1"
    single = GRPO(policy, env, SMALL, env_kwargs={"vectorization_mode": "sync"}) if env == "Own-v0" else None
    assert single is None or single.envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    with pytest.raises(InvalidOptionError, match="'num_envs' in env_kwargs, actual: 4"):
        GRPO(policy, env, SMALL, env_kwargs={"num_envs": 4})


def test_an_interval_never_claims_certainty() -> None:
    for n_right in (0, 1, 2):  # of two responses to each of 20 problems
        solved = np.tile(np.arange(2) < n_right, (20, 1))
        low, high = pass_interval(solved)
        assert high - low > 0.15
        assert low <= n_right / 2 <= high
    assert pass_interval(np.ones((20, 4), bool)) == pass_interval(np.ones((20, 1), bool))
    solved = np.tile([True, False], (20, 1))
    solved[0] = True
    assert pass_interval(solved) == pytest.approx((0.525 - 0.049, 0.525 + 0.049), abs=1e-3)


def test_an_evaluation_says_what_it_counted() -> None:
    agent = GRPO("tiny-reasoner", "llmgym/MathReason-v0", SMALL, env_kwargs={"max_new_tokens": 4})
    assert "(solved: correctness > 0)" in str(agent.evaluate(2))
    assert "(solved: return >= 1)" in str(agent.evaluate(2, rewards={"format": 1.0}))


def test_evaluation_does_not_disturb_training() -> None:
    plain, evaluated = make_agent(), make_agent()
    for agent in (plain, evaluated):
        agent.learn(total_timesteps=1, progress_bar=False)
        if agent is evaluated:
            result = agent.evaluate(10, samples=4)
            assert str(result).startswith("pass@1 ")
            assert json.dumps(result.to_dict())
        agent.learn(total_timesteps=1, progress_bar=False)
    for mine, theirs in zip(plain.policy.model.parameters(), evaluated.policy.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_evaluations_pose_the_same_problems_whatever_the_samples() -> None:
    agent = GRPO(tiny_llama(VOCABULARY), "llmgym/Copy-v0", SMALL, env_kwargs={"n_symbols": 5, "n_digits": 5})
    evaluations = [agent.evaluate(8, samples, num_envs=num_envs) for samples, num_envs in ((1, 256), (4, 8), (1, 3))]
    prompts = [[example["prompt"] for example in evaluation.examples] for evaluation in evaluations]
    assert prompts[0] == prompts[1] == prompts[2]
    assert len(set(prompts[0])) == 8


def test_low_precision_weights_still_move() -> None:
    """A step far below bfloat16's resolution has to add up."""
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = MixedPrecisionAdamW([weight], learning_rate=1e-4)
    for _ in range(60):
        optimizer.zero_grad()
        weight.sum().backward()
        optimizer.step()
    assert weight.float().tolist() == pytest.approx([1 - 0.006] * 3, abs=0.003)
    assert weight.dtype == torch.bfloat16


def test_a_gradient_that_is_no_number_stops_the_training() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = MixedPrecisionAdamW([weight], learning_rate=0.1)
    (weight * float("nan")).sum().backward()
    with pytest.raises(FloatingPointError, match="finite gradient"):
        optimizer.step()
    assert weight.item() == 1.0


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--group-size 2 --problems-per-iteration 2 --n-minibatches 1 --total-timesteps 5 --eval-problems 3"
    kwargs = ["--env-kwargs", "max_new_tokens=6", "level=[1]", "--run-dir", str(tmp_path / "log")]
    main(GRPO, TrainOptions, [*arguments.split(), *kwargs, "--save-dir", str(tmp_path / "agent")])
    printed = capsys.readouterr().out
    assert "before: pass@1" in printed
    assert "after:  pass@1" in printed
    assert (tmp_path / "agent" / "agent.json").is_file()
