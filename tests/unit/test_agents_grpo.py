"""The algorithm's bookkeeping: configuration, invariances, logging, saving."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorWrapper

torch = pytest.importorskip("torch")

from llmgym.agents.evaluation import pass_interval  # noqa: E402
from llmgym.agents.grpo import GRPO, GRPOConfig, main  # noqa: E402
from llmgym.agents.metrics import MetricsLog, read_metrics  # noqa: E402
from llmgym.agents.optimizers import MixedPrecisionAdamW  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.rollouts import RolloutBatch, collect  # noqa: E402
from llmgym.envs.copy import CopyEnv, CopyVectorEnv  # noqa: E402
from llmgym.errors import InvalidOptionError  # noqa: E402
from tests.unit.agent_fakes import VOCABULARY, echo_envs, tiny_llama  # noqa: E402

SMALL = GRPOConfig(group_size=4, problems_per_iteration=6, n_minibatches=2, log_dir=None)


def make_agent(**overrides: Any) -> GRPO:
    return GRPO(tiny_llama(VOCABULARY), "llmgym/Copy-v0", SMALL, env_kwargs={"n_symbols": 5}, **overrides)


def rollout(agent: GRPO) -> RolloutBatch:
    batch = collect(agent.envs, agent.policy, group_size=4, n_groups=6, seed=0)
    rewards = np.zeros_like(batch.rewards)  # rewards of our own: every group but one teaches
    last = batch.response_lengths - 1
    rewards[np.arange(len(batch)), last] = np.random.default_rng(0).random(len(batch))
    rewards[:4] = 0.0
    return replace(batch, rewards=rewards)


def weights_after_update(batch: RolloutBatch | None = None, **overrides: Any) -> torch.Tensor:
    agent = make_agent(**overrides)
    agent._update(batch or rollout(agent), 0.0)
    return torch.cat([p.detach().flatten() for p in agent.policy.model.parameters()])


@pytest.mark.parametrize("loss_average", ["sequence", "token", "constant"])
@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_microbatches_never_change_the_result(loss_average: str, kl_coef: float) -> None:
    # Plain SGD would show a difference in the gradient as it is; AdamW's first step blows up the smallest ones.
    gradients = []
    for tokens in (1, 9, 10_000):
        agent = make_agent(
            loss_average=loss_average, kl_coef=kl_coef, microbatch_tokens=tokens, n_minibatches=1, max_grad_norm=1e9
        )
        agent._update(rollout(agent), 0.0)
        gradients.append(torch.cat([p.grad.flatten() for p in agent.policy.model.parameters()]))
    assert gradients[0].norm() > 1e-3
    for other in gradients[1:]:
        assert torch.allclose(gradients[0], other, atol=1e-6, rtol=1e-4)


def test_padding_changes_nothing() -> None:
    agent = make_agent()
    batch = rollout(agent)
    wide = replace(
        batch,
        prompt_ids=np.pad(batch.prompt_ids, ((0, 0), (3, 0))),
        **{
            name: np.pad(getattr(batch, name), ((0, 0), (0, 5)))
            for name in ("response_ids", "response_mask", "old_logprobs", "rewards")
        },
    )
    assert torch.allclose(weights_after_update(batch), weights_after_update(wide), atol=1e-6)


def test_the_gradient_is_the_formula() -> None:
    """Eq. 3 written out response by response, over plain forward passes."""
    agent = make_agent(n_minibatches=1, loss_average="sequence", kl_coef=0.0, max_grad_norm=1e9)
    batch = rollout(agent)
    model = tiny_llama(VOCABULARY)
    returns = batch.episode_returns.reshape(6, 4)
    advantages = (returns - returns.mean(1, keepdims=True)) / (returns.std(1, keepdims=True) + 1e-4)
    loss = torch.zeros(())
    for row, advantage in enumerate(advantages.reshape(-1)):
        prompt, response = batch.prompt_of(row), batch.response_of(row)
        ids = torch.from_numpy(np.concatenate([prompt, response]))
        logprobs = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        ratio = (logprobs[len(prompt) - 1 :] - torch.from_numpy(batch.old_logprobs[row, : len(response)])).exp()
        loss = loss - (ratio * float(advantage)).mean() / len(batch)
    loss.backward()
    agent._update(batch, 0.0)
    for mine, theirs in zip(agent.policy.model.parameters(), model.parameters(), strict=True):
        if theirs.grad is not None:
            assert torch.allclose(mine.grad, theirs.grad, atol=1e-6, rtol=1e-3)


def test_the_gradient_with_kl_and_text_of_the_environment_is_the_formula() -> None:
    """Eq. 3 with its KL term, all tokens alike; what the environment wrote is read, and counts nowhere."""
    agent = GRPO(
        tiny_llama(), echo_envs(8, AutoresetMode.SAME_STEP), SMALL, n_minibatches=1, kl_coef=0.3, max_grad_norm=1e9
    )
    assert agent.reference is not None
    with torch.no_grad():
        for parameter in agent.reference.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    batch = collect(agent.envs, agent.policy, group_size=4, n_groups=6, seed=0)
    assert (batch.response_mask.sum(1) < batch.response_lengths).any()
    model, loss = tiny_llama(), torch.zeros(())
    returns = batch.episode_returns.reshape(6, 4)
    advantages = (returns - returns.mean(1, keepdims=True)) / (returns.std(1, keepdims=True) + 1e-4)
    for row, advantage in enumerate(advantages.reshape(-1)):
        prompt, response = batch.prompt_of(row), batch.response_of(row)
        ids = torch.from_numpy(np.concatenate([prompt, response]))
        mine, reference = (
            network(input_ids=ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[len(prompt) - 1 :, 0]
            for network in (model, agent.reference.model)
        )
        ratio = (mine - torch.from_numpy(batch.old_logprobs[row, : len(response)])).exp()
        k3 = (reference - mine).exp() - (reference - mine) - 1
        terms = -(ratio * float(advantage) - 0.3 * k3)
        loss = loss + terms[torch.from_numpy(batch.response_mask[row, : len(response)])].sum() / batch.n_timesteps
    loss.backward()
    agent._update(batch, 0.0)
    for ours, theirs in zip(agent.policy.model.parameters(), model.parameters(), strict=True):
        if theirs.grad is not None:
            assert torch.allclose(ours.grad, theirs.grad, atol=1e-5, rtol=1e-3)


def test_no_group_is_left_out_when_minibatches_do_not_divide(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent(n_minibatches=4, n_epochs=2)
    seen: list[list[int]] = []
    step = agent._step
    monkeypatch.setattr(agent, "_step", lambda data, groups, needed: seen.append(groups) or step(data, groups, needed))
    agent._update(rollout(agent), 0.0)
    assert [sorted(np.concatenate(seen[i : i + 4])) for i in (0, 4)] == [list(range(6))] * 2


def test_the_reference_has_the_distribution_of_the_policy() -> None:
    """A model with more tokens than the environment: at first there is nothing between it and its reference."""
    agent = GRPO(tiny_llama(14), "llmgym/Copy-v0", SMALL, env_kwargs={"n_symbols": 5}, kl_coef=0.1, n_minibatches=1)
    assert agent.iterate()["train/kl_to_ref"] < 1e-6


def test_groups_without_signal_teach_nothing() -> None:
    agent = make_agent()
    batch = rollout(agent)
    before = weights_after_update(replace(batch, rewards=np.ones_like(batch.rewards) * batch.response_mask[:, :1]))
    fresh = torch.cat([p.detach().flatten() for p in make_agent().policy.model.parameters()])
    flat = np.zeros_like(batch.rewards)
    assert torch.equal(weights_after_update(replace(batch, rewards=flat)), fresh)
    assert torch.equal(before, fresh)
    metrics = make_agent()._update(batch, 0.0)
    assert metrics["train/groups_with_signal"] == pytest.approx(5 / 6)


def test_first_ratio_is_one_and_later_ones_are_not() -> None:
    agent = make_agent(n_epochs=3, learning_rate=0.01, warmup_iterations=0, kl_coef=0.1, temperature=0.8)
    metrics = agent._update(rollout(agent), 0.0)
    assert metrics["train/first_ratio_error"] < 1e-4
    assert metrics["train/approx_kl"] > 1e-4
    assert metrics["train/kl_to_ref"] > 0


def test_kl_pulls_back_to_the_reference() -> None:
    """With no reward at all, a strong penalty moves a shifted policy towards the reference."""
    agent = make_agent(kl_coef=5.0, learning_rate=0.003, warmup_iterations=0, n_minibatches=1)
    with torch.no_grad():
        for parameter in agent.policy.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    distances = []
    for seed in range(15):
        batch = collect(agent.envs, agent.policy, group_size=4, n_groups=6, seed=seed)
        metrics = agent._update(replace(batch, rewards=np.zeros_like(batch.rewards)), 0.0)
        distances.append(metrics["train/kl_to_ref"])
    assert np.mean(distances[-3:]) < 0.8 * np.mean(distances[:2]), distances


def test_learning_rate_warms_up_and_falls() -> None:
    agent = make_agent(learning_rate=1.0, warmup_iterations=3, final_learning_rate=0.2)
    rates = []
    for spent in (0.0, 0.0, 0.0, 0.0, 0.5, 1.0):
        rates.append(agent._learning_rate(spent))
        agent.n_iterations += 1
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.6, 0.2])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("group_size", 1),
        ("problems_per_iteration", 0),
        ("num_envs", 6),
        ("learning_rate", 0.0),
        ("n_epochs", 0),
        ("n_minibatches", 7),
        ("microbatch_tokens", 0),
        ("clip_range", 1.0),
        ("kl_coef", -0.1),
        ("advantages", "rank"),
        ("loss_average", "mean"),
        ("final_learning_rate", 2.0),
    ],
)
def test_configurations_that_cannot_work_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidOptionError, match=f"Expected {name} .*actual: {value!r}"):
        replace(SMALL, **{name: value})


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
    agent = make_agent(log_dir=str(tmp_path))
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
    agent = make_agent(kl_coef=0.1, log_dir=str(tmp_path))
    agent.learn(total_timesteps=1, progress_bar=False)
    for name in read_metrics(tmp_path)[0]:
        wanted = "reward/<name>" if name.startswith("reward/") else name
        assert f"`{wanted}`" in page, name


def test_log_survives_a_torn_line_and_holds_no_nan(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write({"a": 1.0, "b": float("nan")})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"a": 2')
    rows = read_metrics(tmp_path)
    assert [(row["a"], row["b"]) for row in rows] == [(1.0, None)]
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["b"] is None
    MetricsLog(tmp_path).write({"a": 3.0})  # after the crash, another run goes on with the file
    assert [row["a"] for row in read_metrics(tmp_path)] == [1.0, 3.0]


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
    with pytest.raises(InvalidOptionError, match=r"agent\.json"):
        GRPO.load(tmp_path)


def test_saving_takes_nothing_away_that_it_did_not_write(tmp_path: Path) -> None:
    """The log is in the folder by default; a stale file of an earlier save is not kept."""
    agent = make_agent(log_dir=str(tmp_path / "agent"))
    agent.learn(total_timesteps=1, progress_bar=False)
    folder = agent.save(tmp_path / "agent")
    settings = json.loads((folder / "agent.json").read_text())
    (folder / "shard").write_text("of an earlier save")
    (folder / "agent.json").write_text(json.dumps(settings | {"files": [*settings["files"], "shard"]}))
    (folder / "notes").mkdir()
    agent.learn(total_timesteps=1, progress_bar=False)
    agent.save(folder)
    assert len(read_metrics(folder)) == 2
    assert (folder / "notes").is_dir()
    assert not (folder / "shard").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidOptionError, match="file', a file"):
        agent.save(tmp_path / "file")


def test_a_loaded_agent_goes_on(tmp_path: Path) -> None:
    policy = Policy(tiny_llama(), forbidden={3: [4]})
    agent = GRPO(policy, "llmgym/Copy-v0", SMALL, env_kwargs={"n_symbols": 5}, kl_coef=0.1, warmup_iterations=1)
    agent.learn(total_timesteps=1, progress_bar=False)
    again = GRPO.load(agent.save(tmp_path / "agent"))
    assert again.reference is not None
    assert again.policy.forbidden == again.reference.forbidden == {3: (4,)}
    assert [again._learning_rate(0.0), agent._learning_rate(0.0)] == [0.5 * SMALL.learning_rate, SMALL.learning_rate]
    assert again._rng.integers(2**31) != np.random.default_rng(SMALL.seed).integers(2**31)  # not the first problems
    elsewhere = GRPO.load(tmp_path / "agent", gym.make_vec("llmgym/Copy-v0", num_envs=4, n_symbols=5, n_digits=1))
    assert elsewhere.env_kwargs == {"n_symbols": 5, "n_digits": 1}
    agent.env_kwargs["rewards"] = object()
    with pytest.raises(InvalidOptionError, match="actual: rewards=<object"):
        agent.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


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
        with pytest.raises(OSError, match="disk full"):
            agent.save(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]
    monkeypatch.setattr(agent.policy, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        agent.save(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]


@pytest.mark.parametrize("n_renames", [0, 1, 2])
def test_a_save_that_is_killed_leaves_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_renames: int
) -> None:
    """Nobody tidies up after SIGKILL: whatever the last rename was, there is a save to load, and the next one mends."""

    class Killed(BaseException):
        pass

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
    assert not (tmp_path / ".agent.old").exists()


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
    assert agent.env_kwargs.get("tokenizer") is own
    assert agent.evaluate(3).solved_if == "return >= 1"
    single = GRPO(policy, env, SMALL, env_kwargs={"vectorization_mode": "sync"}) if env == "Own-v0" else None
    assert single is None or single.envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    with pytest.raises(InvalidOptionError, match="'num_envs' in env_kwargs, actual: 4"):
        GRPO(policy, env, SMALL, env_kwargs={"num_envs": 4})


def test_the_constant_of_the_loss_is_the_width_of_an_observation() -> None:
    """The gradient of "constant" is that of "token" times a known number: departure 3 names it."""
    gradients = []
    for loss_average in ("token", "constant"):
        agent = make_agent(loss_average=loss_average, n_minibatches=1, max_grad_norm=1e9)
        batch = rollout(agent)
        agent._update(batch, 0.0)
        gradients.append(torch.cat([p.grad.flatten() for p in agent.policy.model.parameters()]))
    width = agent.envs.single_observation_space["input_ids"].shape[0]
    assert torch.allclose(gradients[1] * len(batch) * width / batch.n_timesteps, gradients[0], atol=1e-6, rtol=1e-4)
    assert "width of an observation" in sys.modules[GRPO.__module__].__doc__


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
    kwargs = ["--env-kwargs", "max_new_tokens=6", "level=[1]", "--log-dir", str(tmp_path / "log")]
    main([*arguments.split(), *kwargs, "--save-dir", str(tmp_path / "agent")])
    printed = capsys.readouterr().out
    assert "before: pass@1" in printed
    assert "after:  pass@1" in printed
    assert (tmp_path / "agent" / "agent.json").is_file()
