"""GRPO: its gradient is the formula's, whatever the microbatches and the padding; configurations that cannot work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

torch = pytest.importorskip("torch")

from llmgym.agents.grpo import GRPO, GRPOConfig  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.policy_gradient import PolicyGradientConfig  # noqa: E402
from llmgym.agents.rollouts import RolloutBatch, collect  # noqa: E402
from llmgym.errors import InvalidOptionError  # noqa: E402
from tests.unit.agent_fakes import VOCABULARY, echo_envs, tiny_llama  # noqa: E402

SMALL = GRPOConfig(group_size=4, problems_per_iteration=6, n_minibatches=2, run_dir=None)


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
    agent.update(batch or rollout(agent), 0.0)
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
        agent.update(rollout(agent), 0.0)
        gradients.append(torch.cat([p.grad.flatten() for p in agent.policy.model.parameters()]))
    assert gradients[0].norm() > 1e-3
    for other in gradients[1:]:
        assert torch.allclose(gradients[0], other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_in_float64_microbatches_change_nothing_at_all(fused: bool) -> None:
    gradients = []
    for tokens in (1, 5, 20, 60, 10_000):
        policy = Policy(tiny_llama(VOCABULARY).double(), fused=fused)
        changes = {"microbatch_tokens": tokens, "n_minibatches": 1, "max_grad_norm": 1e9}
        agent = GRPO(policy, "llmgym/Copy-v0", SMALL, env_kwargs={"n_symbols": 5}, **changes)
        metrics = agent.update(rollout(agent))
        gradients.append(torch.cat([p.grad.flatten() for p in agent.policy.model.parameters()]))
        if fused:
            assert metrics["train/padding_share"] == 0.0
    assert gradients[0].norm() > 1e-3
    for other in gradients[1:]:
        assert torch.allclose(gradients[0], other, rtol=0, atol=1e-12 * float(gradients[0].abs().max()))


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
    agent.update(batch, 0.0)
    for mine, theirs in zip(agent.policy.model.parameters(), model.parameters(), strict=True):
        if theirs.grad is not None:
            assert torch.allclose(mine.grad, theirs.grad, atol=1e-6, rtol=1e-3)


def test_the_gradient_with_kl_and_text_of_the_environment_is_the_formula() -> None:
    """Eq. 3 with its KL term, all tokens alike; what the environment wrote is read, and counts nowhere."""
    agent = GRPO(
        tiny_llama(),
        echo_envs(8, AutoresetMode.SAME_STEP),
        SMALL,
        n_minibatches=1,
        kl_coef=0.3,
        kl_corrected=False,
        max_grad_norm=1e9,
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
    agent.update(batch, 0.0)
    for ours, theirs in zip(agent.policy.model.parameters(), model.parameters(), strict=True):
        if theirs.grad is not None:
            assert torch.allclose(ours.grad, theirs.grad, atol=1e-5, rtol=1e-3)


def test_no_group_is_left_out_when_minibatches_do_not_divide(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent(n_minibatches=4, n_epochs=2)
    seen: list[list[int]] = []
    step = agent._step
    monkeypatch.setattr(
        agent, "_step", lambda data, groups, needed, metrics: seen.append(groups) or step(data, groups, needed, metrics)
    )
    agent.update(rollout(agent), 0.0)
    assert [sorted(np.concatenate(seen[i : i + 4])) for i in (0, 4)] == [list(range(6))] * 2


def test_the_reference_has_the_distribution_of_the_policy() -> None:
    """A model with more tokens than the environment: at first there is nothing between it and its reference."""
    agent = GRPO(tiny_llama(14), "llmgym/Copy-v0", SMALL, env_kwargs={"n_symbols": 5}, kl_coef=0.1, n_minibatches=1)
    assert agent.iterate()["train/kl_to_ref"] < 1e-6


def test_groups_without_signal_teach_nothing() -> None:
    agent = make_agent()
    batch = rollout(agent)
    alike = np.zeros_like(batch.rewards)
    alike[:, 0] = 1.0
    before = weights_after_update(replace(batch, rewards=alike))
    fresh = torch.cat([p.detach().flatten() for p in make_agent().policy.model.parameters()])
    flat = np.zeros_like(batch.rewards)
    assert torch.equal(weights_after_update(replace(batch, rewards=flat)), fresh)
    assert torch.equal(before, fresh)
    metrics = make_agent().update(batch, 0.0)
    assert metrics["train/groups_with_signal"] == pytest.approx(5 / 6)


def test_first_ratio_is_one_and_later_ones_are_not() -> None:
    agent = make_agent(n_epochs=3, learning_rate=0.01, warmup_iterations=0, kl_coef=0.1, temperature=0.8)
    metrics = agent.update(rollout(agent), 0.0)
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
        metrics = agent.update(replace(batch, rewards=np.zeros_like(batch.rewards)), 0.0)
        distances.append(metrics["train/kl_to_ref"])
    assert np.mean(distances[-3:]) < 0.8 * np.mean(distances[:2]), distances


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
        ("advantages", "ranks"),
        ("loss_average", "mean"),
        ("final_learning_rate", 2.0),
    ],
)
def test_configurations_that_cannot_work_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidOptionError, match=f"Expected {name} .*actual: {value!r}"):
        replace(SMALL, **{name: value})


def test_the_constant_of_the_loss_is_the_width_of_an_observation() -> None:
    """The gradient of "constant" is that of "token" times a known number: the option's description names it."""
    gradients = []
    for loss_average in ("token", "constant"):
        agent = make_agent(loss_average=loss_average, n_minibatches=1, max_grad_norm=1e9)
        batch = rollout(agent)
        agent.update(batch, 0.0)
        gradients.append(torch.cat([p.grad.flatten() for p in agent.policy.model.parameters()]))
    width = agent.envs.single_observation_space["input_ids"].shape[0]
    assert torch.allclose(gradients[1] * len(batch) * width / batch.n_timesteps, gradients[0], atol=1e-6, rtol=1e-4)
    assert "width of an observation" in " ".join(PolicyGradientConfig.__doc__.split())
