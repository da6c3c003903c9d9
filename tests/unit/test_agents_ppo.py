"""PPO against its formulas, written out over plain forward passes; its schedule, its critic, its bootstrap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

torch = pytest.importorskip("torch")

from llmgym.agents.minibatches import RolloutTensors  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.ppo import PPO, PPOConfig  # noqa: E402
from llmgym.agents.rollouts import RolloutBatch, collect  # noqa: E402
from llmgym.errors import InvalidOptionError, NotFiniteError  # noqa: E402
from tests.unit.agent_fakes import VOCABULARY, CountingEchoEnv, SyncVectorEnv, echo_envs, tiny_llama  # noqa: E402

SMALL = PPOConfig(
    problems_per_iteration=12, responses_per_problem=1, n_minibatches=1, n_epochs=1, max_grad_norm=1e9,
    warmup_iterations=0, run_dir=None,
)  # fmt: skip


def make_agent(envs: Any = None, **overrides: Any) -> PPO:
    envs = envs or echo_envs(6, AutoresetMode.SAME_STEP)
    agent = PPO(Policy(tiny_llama()), envs, SMALL, **overrides)
    head = agent.value_head if agent.critic is None else agent.critic.value_head
    with torch.no_grad():  # a head of zeros would hide what is done with values
        head.linear.weight.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(1))
        head.linear.bias.fill_(0.7)
    return agent


def rollout(agent: PPO) -> RolloutBatch:
    return collect(agent.envs, agent.policy, n_groups=12, seed=0)


def flat(parameters: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in parameters])


def plain_pass(agent: PPO, batch: RolloutBatch, row: int, model: Any) -> tuple[torch.Tensor, ...]:
    """Log-probabilities, entropies and values at each response token, and the value after the last one."""
    ids = torch.from_numpy(np.concatenate([batch.prompt_of(row), batch.response_of(row)]))[None]
    output = model(input_ids=ids, output_hidden_states=True)
    start = len(batch.prompt_of(row)) - 1
    distributions = output.logits[0, start:-1].log_softmax(-1)
    logprobs = distributions.gather(1, ids[0, start + 1 :, None])[:, 0]
    entropies = -(distributions.exp() * distributions).sum(-1)
    head = agent.value_head if agent.critic is None else agent.critic.value_head
    values = head(output.hidden_states[-1][0, start:])
    return logprobs, entropies, values[:-1], values[-1]


def by_hand(agent: PPO, batch: RolloutBatch, model: Any) -> tuple[list[Any], list[Any]]:
    """GAE backwards over each response's own tokens: advantages and targets, a list of numbers a response."""
    config, advantages, targets = agent.config, [], []
    of_policy = 0.0 if config.advantages == "td" else config.gae_lambda
    of_critic = of_policy if config.value_gae_lambda is None else config.value_gae_lambda
    for row in range(len(batch)):
        _, _, values, last = (x.detach() for x in plain_pass(agent, batch, row, model))
        places = np.flatnonzero(batch.response_mask[row])
        following = float(last) if config.bootstrap_truncated and not batch.terminated[row] else 0.0
        running = {of_policy: 0.0, of_critic: 0.0}
        found: dict[Any, list[float]] = {key: [] for key in running}
        for place in reversed(places):
            value = float(values[place])
            delta = batch.rewards[row, place] + config.gamma * following - value
            for lam in running:
                running[lam] = delta + config.gamma * lam * running[lam]
                found[lam].append(running[lam])
            following = value
        advantages.append(found[of_policy][::-1])
        targets.append([a + float(values[p]) for a, p in zip(found[of_critic][::-1], places, strict=True)])
    return advantages, targets


CHANGES: dict[str, dict[str, Any]] = {
    "head": {},
    "head, bootstrap": {"bootstrap_truncated": True},
    "model": {"critic": "model"},
    "model, bootstrap": {"critic": "model", "bootstrap_truncated": True},
    "td": {"advantages": "td", "value_gae_lambda": None},
    "all tokens alike": {"loss_average": "token"},
    "a constant": {"loss_average": "constant", "max_response_tokens": 7},
    "clip higher": {"clip_range": 0.05, "clip_range_high": 0.1},
    "penalty": {"policy_loss": "penalty", "penalty_coef": 0.7},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_the_first_gradient_is_the_formula(changes: dict[str, Any]) -> None:
    """Policy, critic and entropy, with text of the environment in the middle and episodes that a budget cut off."""
    options = {"gamma": 0.9, "gae_lambda": 0.8, "value_gae_lambda": 0.6, "vf_coef": 0.3, "ent_coef": 0.05}
    agent = make_agent(whiten_advantages=False, **options | changes)
    config, batch = agent.config, rollout(agent)
    # The policy has moved since it sampled: no ratio is 1.
    noise = np.random.default_rng(0).normal(0.0, 0.1, size=batch.old_logprobs.shape).astype(np.float32)
    batch = replace(batch, old_logprobs=batch.old_logprobs + noise * batch.response_mask)
    assert not batch.terminated.all() and batch.terminated.any()
    assert (batch.response_mask.sum(1) < batch.response_lengths).any()
    model = tiny_llama()
    advantages, targets = by_hand(agent, batch, model)
    policy_loss, value_loss = torch.zeros(()), torch.zeros(())
    for row in range(len(batch)):
        logprobs, entropies, values, _ = plain_pass(agent, batch, row, model)
        mask = batch.response_mask[row, : len(logprobs)]
        ratio = (logprobs - torch.from_numpy(batch.old_logprobs[row, : len(logprobs)])).exp()[mask]
        advantage = torch.tensor(advantages[row], dtype=torch.float32)
        if config.policy_loss == "penalty":
            surrogate = ratio * advantage - 0.7 * (ratio - 1 - ratio.log())
        else:
            clipped = ratio.clamp(1 - config.clip_range, 1 + (config.clip_range_high or config.clip_range))
            surrogate = torch.minimum(ratio * advantage, clipped * advantage)
        terms = (surrogate + 0.05 * entropies[mask]).sum()
        divisor = {"sequence": mask.sum() * len(batch), "token": batch.n_timesteps, "constant": 7 * len(batch)}
        policy_loss = policy_loss - terms / int(divisor[config.loss_average])
        value_loss = value_loss + ((torch.tensor(targets[row]) - values[mask]) ** 2).sum() / batch.n_timesteps
    names, own = zip(*model.named_parameters(), strict=True)
    expected_policy = torch.autograd.grad(policy_loss, own, retain_graph=True, allow_unused=True)
    expected_value = torch.autograd.grad(0.3 * value_loss, own, allow_unused=True)

    agent.update(batch)
    trunk = dict(agent.policy.model.named_parameters())
    apart = {} if agent.critic is None else dict(agent.critic.model.named_parameters())
    compared = 0
    for name, of_policy, of_value in zip(names, expected_policy, expected_value, strict=True):
        of_policy, of_value = (torch.zeros_like(trunk[name]) if g is None else g for g in (of_policy, of_value))
        if agent.critic is None:
            of_policy = of_policy + of_value
        elif name in apart:
            assert torch.allclose(apart[name].grad, of_value, atol=1e-5, rtol=1e-3), name
            compared += 1
        assert torch.allclose(trunk[name].grad, of_policy, atol=1e-5, rtol=1e-3), name
    assert compared == (0 if agent.critic is None else len(names) - 1)  # a critic has no output layer


@pytest.mark.parametrize("critic", ["head", "model"])
@pytest.mark.parametrize("responses_per_problem", [1, 3])
def test_microbatches_change_nothing(critic: str, responses_per_problem: int) -> None:
    """Neither the policy's gradient nor the critic's, whether or not a prompt has several responses."""
    found = []
    for tokens in (1, 20, 10_000):
        agent = make_agent(critic=critic, responses_per_problem=responses_per_problem, microbatch_tokens=tokens)
        size = responses_per_problem
        metrics = agent.update(collect(agent.envs, agent.policy, group_size=size, n_groups=12 // size, seed=0))
        assert metrics["train/padding_share"] == 0.0
        modules = [agent.policy.model, agent.critic or agent.value_head]
        found.append(torch.cat([p.grad.flatten() for module in modules for p in module.parameters()]))
    for other in found[1:]:
        assert torch.allclose(found[0], other, rtol=1e-4, atol=1e-5 * float(found[0].abs().max()))


def test_whitened_advantages_and_the_mean_over_a_responses_tokens() -> None:
    """The objective of the source: the mean over the response's tokens, advantages of mean 0 and deviation 1."""
    agent = make_agent(critic="model", gae_lambda=0.95, value_gae_lambda=0.95)
    batch, model = rollout(agent), tiny_llama()
    advantages, _ = by_hand(agent, batch, model)
    every = np.concatenate(advantages)
    loss = torch.zeros(())
    for row in range(len(batch)):
        logprobs, *_ = plain_pass(agent, batch, row, model)
        white = torch.tensor((np.array(advantages[row]) - every.mean()) / every.std(), dtype=torch.float32)
        loss = loss - (logprobs[batch.response_mask[row, : len(logprobs)]] * white).mean() / len(batch)
    loss.backward()
    agent.update(batch)
    for mine, theirs in zip(agent.policy.model.parameters(), model.parameters(), strict=True):
        if theirs.grad is not None:
            assert torch.allclose(mine.grad, theirs.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("critic", ["head", "model"])
def test_value_pretraining_trains_the_critic_alone(critic: str) -> None:
    agent = make_agent(critic=critic, value_pretraining=2, n_epochs=2, value_learning_rate=0.01)
    own = agent.value_head if agent.critic is None else agent.critic
    policy, critic_before = flat(agent.policy.model.parameters()), flat(own.parameters())
    losses = [agent.iterate()["train/value_loss"] for _ in range(2)]
    assert torch.equal(flat(agent.policy.model.parameters()), policy)
    assert not torch.equal(flat(own.parameters()), critic_before)
    assert losses[1] < losses[0]
    agent.iterate()
    assert not torch.equal(flat(agent.policy.model.parameters()), policy)


@pytest.mark.parametrize("critic", ["head", "model"])
def test_the_critic_learns_what_states_are_worth(critic: str) -> None:
    """Whoever is posed a large first token earns 1 at the end: a critic can read that off every state."""
    agent = make_agent(
        critic=critic,
        value_pretraining=1000,
        value_learning_rate=0.03,
        n_epochs=30,
        clip_range_value=None,
        gae_lambda=1.0,
    )
    batch = rollout(agent)
    rewards = np.zeros_like(batch.rewards)
    for row in range(len(batch)):
        rewards[row, np.flatnonzero(batch.response_mask[row])[-1]] = float(batch.prompt_of(row)[0] > 4)
    assert 0.2 < rewards.sum() / len(batch) < 0.8
    explained = [agent.update(replace(batch, rewards=rewards))["train/explained_variance"] for _ in range(3)]
    assert explained[0] < 0.1
    assert explained[2] > (0.8 if critic == "model" else 0.4), explained


def test_epochs_end_when_the_policy_has_moved_too_far() -> None:
    loose = make_agent(n_epochs=4, n_minibatches=3, learning_rate=0.02)
    metrics = loose.update(rollout(loose))
    assert metrics["train/epochs_done"] == 4
    assert metrics["train/approx_kl"] > 0.003
    tight = make_agent(n_epochs=4, n_minibatches=3, learning_rate=0.02, target_kl=0.002)
    batch = rollout(tight)
    metrics = tight.update(batch)
    assert 0 < metrics["train/epochs_done"] < 4
    # The step that would have gone too far was not taken, and its numbers are not in the means.
    assert metrics["train/approx_kl"] <= 1.5 * 0.002


def test_the_bound_is_one_and_a_half_times_the_target() -> None:
    options: dict[str, Any] = {"n_minibatches": 2, "learning_rate": 0.01}
    loose = make_agent(**options)
    batch = rollout(loose)
    second = 2 * loose.update(batch)["train/approx_kl"]  # the first minibatch's is 0, and the mean is over both
    for share, n_steps in ((1.45, 2), (1.55, 1)):
        assert make_agent(**options, target_kl=second / share).update(batch)["train/epochs_done"] * 2 == n_steps


def test_the_penalty_is_adapted_to_the_kl_after_the_update() -> None:
    """One step only: before it the policies are one, after it they are far apart."""
    agent = make_agent(policy_loss="penalty", learning_rate=0.05, penalty_target=0.01)
    metrics = agent.update(rollout(agent))
    assert metrics["train/approx_kl"] < 1e-6
    assert metrics["train/penalty_coef"] == 2.0
    assert "train/clip_fraction" not in metrics  # nothing clips


def test_value_pretraining_leaves_both_coefficients_alone() -> None:
    agent = make_agent(policy_loss="penalty", value_pretraining=2, kl_coef=0.1, kl_target=1.0, kl_horizon=100)
    for _ in range(2):
        agent.iterate()
    assert (agent.penalty_coef, agent.kl_coef) == (1.0, 0.1)
    agent.iterate()
    assert agent.kl_coef != 0.1


@pytest.mark.parametrize("kl_in", ["loss", "reward"])
def test_the_adapted_kl_coefficient_is_the_one_that_counts(kl_in: str) -> None:
    gradients = []
    for configured in (0.7, 0.1):
        agent = make_agent(kl_coef=configured, kl_in=kl_in, kl_estimator="k1", whiten_advantages=False)
        shifted_reference(agent)
        agent.kl_coef = 0.7
        agent.update(rollout(agent))
        gradients.append(torch.cat([p.grad.flatten() for p in agent.policy.model.parameters() if p.grad is not None]))
    assert torch.allclose(*gradients, atol=1e-6)


def test_the_kl_that_is_adapted_to_is_that_of_whole_responses() -> None:
    agent = make_agent(kl_coef=0.1, kl_target=1e-6, kl_horizon=12)
    reference, batch = shifted_reference(agent), rollout(agent)
    total = 0.0
    for row in range(len(batch)):
        theirs = plain_pass(agent, batch, row, reference)[0].detach().numpy()
        difference = batch.old_logprobs[row, : len(theirs)] - theirs
        total += float(difference[batch.response_mask[row, : len(theirs)]].sum()) / len(batch)
    agent.config = replace(agent.config, kl_target=total / 1.1)  # 10 % above its target
    agent.update(batch)
    assert agent.kl_coef == pytest.approx(0.1 * (1 + 0.1), rel=1e-4)


def test_a_head_learns_ten_times_as_fast_unless_told_otherwise() -> None:
    for options, factor in (({}, 10), ({"critic": "model"}, 1), ({"value_learning_rate": 6e-4}, 2)):
        agent = make_agent(learning_rate=3e-4, **options)
        agent.update(rollout(agent))
        assert agent.critic_optimizer.learning_rate == pytest.approx(factor * agent.optimizer.learning_rate)


def test_the_policy_warms_up_when_it_begins_to_move() -> None:
    agent = make_agent(value_pretraining=3, warmup_iterations=3)
    rates = []
    for _ in range(5):
        agent.iterate()
        rates.append((agent.optimizer.learning_rate, agent.critic_optimizer.learning_rate))
    assert [rate / 3e-4 for rate, _ in rates] == pytest.approx([0, 0, 0, 0.25, 0.5])
    assert [rate / 3e-3 for _, rate in rates] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_neither_optimiser_steps_when_one_gradient_is_not_finite() -> None:
    agent = make_agent(critic="model")
    assert agent.critic is not None
    agent.policy.model.lm_head.weight.register_hook(lambda gradient: gradient * float("nan"))
    before = flat(agent.critic.parameters()), flat(agent.policy.model.parameters())
    with pytest.raises(NotFiniteError):
        agent.update(rollout(agent))
    assert torch.equal(flat(agent.critic.parameters()), before[0])
    assert torch.equal(flat(agent.policy.model.parameters()), before[1])


def test_the_penalty_variant_follows_its_target() -> None:
    far = make_agent(policy_loss="penalty", n_epochs=3, learning_rate=0.02, penalty_target=1e-5)
    assert far.update(rollout(far))["train/penalty_coef"] == 2.0
    near = make_agent(policy_loss="penalty", n_epochs=3, learning_rate=1e-5, penalty_target=0.1)
    assert near.update(rollout(near))["train/penalty_coef"] == 0.5
    # A high price keeps the policy near.
    moved = [
        (agent := make_agent(policy_loss="penalty", penalty_coef=coef, n_epochs=6, learning_rate=0.01)).update(
            rollout(agent)
        )["train/approx_kl"]
        for coef in (0.01, 100.0)
    ]
    assert moved[1] < 0.5 * moved[0]


def test_the_kl_coefficient_follows_its_target() -> None:
    agent = make_agent(kl_coef=0.1, kl_target=1.0, kl_horizon=100)
    assert agent.reference is not None
    batch = rollout(agent)
    metrics = agent.update(batch)  # the reference is the policy: KL 0, an error clipped to -0.2
    assert metrics["train/kl_coef"] == pytest.approx(0.1 * (1 - 0.2 * 12 / 100))
    assert metrics["train/kl_to_ref"] == pytest.approx(0.0, abs=1e-6)


def shifted_reference(agent: PPO) -> Any:
    """Moves the reference away from the policy; returns its model."""
    assert agent.reference is not None
    with torch.no_grad():
        for parameter in agent.reference.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return agent.reference.model


def test_a_penalty_in_the_reward_is_a_smaller_reward_for_each_token() -> None:
    """``r_t - kl_coef (log policy - log reference)`` goes through values and advantages like any other reward."""
    charged = make_agent(kl_coef=0.5, kl_in="reward", kl_estimator="k1")
    reference, batch = shifted_reference(charged), rollout(charged)
    rewards = batch.rewards.copy()
    for row in range(len(batch)):
        logprobs = plain_pass(charged, batch, row, reference)[0].detach().numpy()
        mask = batch.response_mask[row, : len(logprobs)]
        difference = batch.old_logprobs[row, : len(logprobs)] - logprobs
        rewards[row, : len(logprobs)] -= 0.5 * difference * mask
    charged.update(batch)
    plain = make_agent()
    plain.update(replace(batch, rewards=rewards))
    for mine, theirs in zip(charged.policy.model.parameters(), plain.policy.model.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-5, rtol=1e-3)
    assert charged.policy.model.lm_head.weight.grad.norm() > 1e-3


def test_a_penalty_in_the_loss_adds_its_own_gradient() -> None:
    """``ratio * k3`` beside the surrogate, mean over each response's tokens."""
    penalised, plain = make_agent(kl_coef=0.5), make_agent()
    reference, batch, model = shifted_reference(penalised), rollout(penalised), tiny_llama()
    penalty = torch.zeros(())
    for row in range(len(batch)):
        mine, theirs = (plain_pass(plain, batch, row, m)[0] for m in (model, reference))
        mask = batch.response_mask[row, : len(mine)]
        ratio = (mine - torch.from_numpy(batch.old_logprobs[row, : len(mine)])).exp()
        difference = theirs.detach() - mine
        penalty = penalty + 0.5 * (ratio * (difference.exp() - difference - 1))[mask].mean() / len(batch)
    penalty.backward()
    for agent in (penalised, plain):
        agent.update(batch)
    parameters = (agent.policy.model.parameters() for agent in (penalised, plain))
    for one, other, expected in zip(*parameters, model.parameters(), strict=True):
        if expected.grad is not None:
            assert torch.allclose(one.grad - other.grad, expected.grad, atol=1e-5, rtol=1e-3)


def test_the_tokens_of_a_reasoning_step_share_one_advantage() -> None:
    agent = make_agent(SyncVectorEnv([CountingEchoEnv] * 6, autoreset_mode=AutoresetMode.SAME_STEP), credit="step")
    batch = rollout(agent)
    assert batch.step_index is not None
    assert (batch.step_index.max(1) > 0).any()
    seen: list[Any] = []
    epochs = agent._epochs
    agent._epochs = lambda data, metrics: seen.append(data) or epochs(data, metrics)  # type: ignore[method-assign]
    agent.update(batch)
    (data,) = seen
    several = 0
    for row in range(len(batch)):
        mask = batch.response_mask[row]
        for step in np.unique(batch.step_index[row, mask]):
            of_step = data.advantages[row][torch.from_numpy(mask & (batch.step_index[row] == step))]
            assert (of_step == of_step[0]).all()
            several += len(of_step) > 1
    assert several > 3
    assert len(data.advantages[data.response_mask].unique()) > 10
    without = make_agent(credit="step")
    with pytest.raises(InvalidOptionError, match="n_reasoning_steps"):
        without.update(rollout(without))


def test_adaptive_lambda_is_nearer_to_one_for_longer_responses() -> None:
    agent = make_agent(adaptive_lambda=0.5, whiten_advantages=False, critic="model", value_gae_lambda=None)
    batch, model = rollout(agent), tiny_llama()
    seen: list[Any] = []
    epochs = agent._epochs
    agent._epochs = lambda data, metrics: seen.append(data) or epochs(data, metrics)  # type: ignore[method-assign]
    old_values = [plain_pass(agent, batch, row, model)[2].detach() for row in range(len(batch))]
    agent.update(batch)
    for row, n in enumerate(batch.response_mask.sum(1)):
        lam = max(0.0, 1 - 1 / (0.5 * n))
        values = old_values[row][batch.response_mask[row, : batch.response_lengths[row]]]
        rewards = batch.rewards[row][batch.response_mask[row]]
        running, following = 0.0, 0.0
        for k in reversed(range(n)):
            running = rewards[k] + following - float(values[k]) + lam * running
            following = float(values[k])
        first = int(np.argmax(batch.response_mask[row]))
        assert float(seen[0].advantages[row, first]) == pytest.approx(running, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("problems_per_iteration", 0),
        ("responses_per_problem", 0),
        ("n_minibatches", 13),
        ("target_kl", 0.0),
        ("gae_lambda", 1.5),
        ("value_gae_lambda", -0.1),
        ("gamma", 1.1),
        ("adaptive_lambda", 0.0),
        ("kl_horizon", 11),
        ("credit", "response"),
        ("advantages", "z_score"),
        ("policy_loss", "gspo"),
        ("critic", "none"),
        ("vf_coef", 0.0),
        ("clip_range_value", 0.0),
        ("kl_target", 1.0),  # without a kl_coef
        ("value_pretraining", -1),
        ("ent_coef", -0.1),
    ],
)
def test_configurations_that_cannot_work_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidOptionError, match=f"Expected {name} .*actual: {value!r}"):
        replace(SMALL, **{name: value})


def test_the_environments_vocabulary_bounds_the_policy() -> None:
    agent = PPO(tiny_llama(14), "llmgym/Copy-v0", SMALL, env_kwargs={"n_symbols": 5})
    assert agent.policy.n_actions == VOCABULARY
    assert agent.iterate()["train/first_ratio_error"] < 1e-4


@pytest.mark.parametrize("fused", [True, False])
def test_old_values_come_with_the_tokens(fused: bool) -> None:
    """They are what a pass of their own would give, text of the environment's in between included."""
    agent = make_agent()
    agent.policy.fused = fused
    batch, _ = agent.collect()
    assert not batch.response_mask.all(axis=1).all()
    data = RolloutTensors(replace(batch, values=None), agent.policy.device)
    agent._old_values(data)
    assert np.abs(batch.values - data.values.detach().numpy()).max() < 1e-5
    assert np.abs(batch.values).max() > 0.5
    assert agent.policy.value_head is None
    with torch.no_grad():  # the old values stay those of when the tokens were chosen
        agent.value_head.linear.bias.add_(1.0)
    later = RolloutTensors(batch, agent.policy.device)
    assert not agent._old_values(later).any()
    assert np.array_equal(later.values.numpy(), batch.values)


@pytest.mark.parametrize("options", [{"bootstrap_truncated": True}, {"critic": "model"}])
def test_values_that_are_not_to_be_had_while_acting_are_not_asked_for(options: dict[str, Any]) -> None:
    agent = make_agent(**options)
    batch, _ = agent.collect()
    assert batch.values is None
    data = RolloutTensors(batch, agent.policy.device)
    last_values = agent._old_values(data)
    assert data.values[data.response_mask].abs().min() > 0
    assert last_values.abs().min() > 0


def test_a_collection_that_fails_leaves_no_head_behind() -> None:
    agent = make_agent()
    agent.envs.step = None  # type: ignore[method-assign]
    with pytest.raises(TypeError):
        agent.collect()
    assert agent.policy.value_head is None
