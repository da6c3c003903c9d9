"""The family of GRPO: each named choice against its formula, written out over plain forward passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

torch = pytest.importorskip("torch")

from llmgym.agents.grpo import GRPO, PRESETS, GRPOConfig  # noqa: E402
from llmgym.agents.policies import Policy  # noqa: E402
from llmgym.agents.rollouts import RolloutBatch, collect  # noqa: E402
from llmgym.envs.copy import CopyVectorEnv  # noqa: E402
from llmgym.errors import InvalidOptionError, NotFiniteError  # noqa: E402
from tests.unit.agent_fakes import VOCABULARY, CountingEchoEnv, tiny_llama  # noqa: E402

G, P = 4, 6
SMALL = GRPOConfig(
    group_size=G, problems_per_iteration=P, n_minibatches=1, max_grad_norm=1e9, warmup_iterations=0, run_dir=None
)


def make_agent(config: GRPOConfig = SMALL, **overrides: Any) -> GRPO:
    envs = SyncVectorEnv([CountingEchoEnv] * 8, autoreset_mode=AutoresetMode.SAME_STEP)
    return GRPO(Policy(tiny_llama()), envs, config, **overrides)


def rollout(agent: GRPO) -> RolloutBatch:
    """Real episodes of several turns, whose sampler is said to have been another policy: no ratio is 1."""
    batch = collect(agent.envs, agent.policy, group_size=G, n_groups=P, seed=0)
    noise = np.random.default_rng(0).normal(0.0, 0.2, size=batch.old_logprobs.shape).astype(np.float32)
    return replace(batch, old_logprobs=batch.old_logprobs + noise * batch.response_mask)


def logprobs_of(model: Any, batch: RolloutBatch, row: int) -> Any:
    """Of the tokens that the policy chose in one response, by one plain pass."""
    prompt, response = batch.prompt_of(row), batch.response_of(row)
    ids = torch.from_numpy(np.concatenate([prompt, response]))[None]
    every = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[len(prompt) - 1 :, 0]
    return every[torch.from_numpy(batch.response_mask[row, : len(response)])]


def chosen(values: Any, batch: RolloutBatch, row: int) -> Any:
    return torch.from_numpy(np.asarray(values[row])[batch.response_mask[row]]).float()


def z_scores(returns: Any) -> Any:
    groups = returns.reshape(P, G)
    return ((groups - groups.mean(1, keepdims=True)) / (groups.std(1, keepdims=True) + 1e-4)).reshape(-1)


def check_gradient(agent: GRPO, batch: RolloutBatch, loss_of: Callable[[Any, int], Any], weights: Any = None) -> None:
    """The update's gradient is that of ``sum_i w_i loss_of(logprobs of response i, i)``."""
    model = tiny_llama()
    loss = torch.zeros(())
    for row in range(len(batch)):
        weight = 1 / len(batch) if weights is None else weights[row]
        if weight:
            loss = loss + weight * loss_of(logprobs_of(model, batch, row), row)
    loss.backward()
    agent.update(batch)
    assert agent.policy.model.lm_head.weight.grad.norm() > 1e-3
    for mine, theirs in zip(agent.policy.model.parameters(), model.parameters(), strict=True):
        if theirs.grad is not None:
            assert torch.allclose(mine.grad, theirs.grad, atol=1e-5, rtol=1e-3)


def clipped(logprobs: Any, old: Any, advantage: Any, low: float = 0.2, high: float = 0.2) -> Any:
    ratio = (logprobs - old).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


@pytest.mark.parametrize("normalization", ["mean", "rank", "leave_one_out"])
def test_advantages_by_hand(normalization: str) -> None:
    agent = make_agent(advantages=normalization, loss_average="sequence")
    batch = rollout(agent)
    groups = batch.episode_returns.reshape(P, G)
    if normalization == "mean":
        advantages = groups - groups.mean(1, keepdims=True)
    elif normalization == "leave_one_out":
        advantages = groups - (groups.sum(1, keepdims=True) - groups) / (G - 1)
    else:
        below = (groups[:, None, :] < groups[:, :, None]).sum(2) - (groups[:, None, :] > groups[:, :, None]).sum(2)
        advantages = below / below.std(1, keepdims=True)
    flat = advantages.reshape(-1)
    check_gradient(
        agent, batch, lambda logprobs, i: clipped(logprobs, chosen(batch.old_logprobs, batch, i), flat[i]).mean()
    )


def test_clip_higher_and_a_constant_in_place_of_the_length() -> None:
    agent = make_agent(clip_range=0.1, clip_range_high=0.3, loss_average="constant", max_response_tokens=7)
    batch = rollout(agent)
    advantages = z_scores(batch.episode_returns)
    check_gradient(
        agent,
        batch,
        lambda logprobs, i: clipped(logprobs, chosen(batch.old_logprobs, batch, i), advantages[i], 0.1, 0.3).sum() / 7,
    )


def test_gspo_clips_whole_responses() -> None:
    agent = make_agent(GRPOConfig.preset("gspo", **overrides_of(SMALL)), clip_range=0.05, clip_range_high=0.05)
    batch = rollout(agent)
    advantages = z_scores(batch.episode_returns)

    def loss_of(logprobs: Any, i: int) -> Any:
        ratio = (logprobs - chosen(batch.old_logprobs, batch, i)).mean().exp()
        return -torch.minimum(ratio * advantages[i], ratio.clamp(0.95, 1.05) * advantages[i])

    check_gradient(agent, batch, loss_of)


def test_cispo_weighs_and_never_stops_a_gradient() -> None:
    agent = make_agent(GRPOConfig.preset("cispo", **overrides_of(SMALL)), clip_range_high=0.1, loss_average="token")
    batch = rollout(agent)
    advantages, total = z_scores(batch.episode_returns), batch.n_timesteps

    def loss_of(logprobs: Any, i: int) -> Any:
        weight = (logprobs - chosen(batch.old_logprobs, batch, i)).exp().clamp(max=1.1).detach()
        return -(weight * advantages[i] * logprobs).sum() / total

    check_gradient(agent, batch, loss_of, weights=np.ones(len(batch)))


def test_truncated_importance_weights() -> None:
    """The ratio starts at 1, as the learner computes the old probabilities anew; the sampler's are in the weights."""
    agent = make_agent(importance_cap=1.1, loss_average="sequence")
    batch = rollout(agent)
    advantages = z_scores(batch.episode_returns)

    def loss_of(logprobs: Any, i: int) -> Any:
        weight = (logprobs.detach() - chosen(batch.old_logprobs, batch, i)).exp().clamp(max=1.1)
        return -(weight * (logprobs - logprobs.detach()).exp() * advantages[i]).mean()

    check_gradient(agent, batch, loss_of)
    assert make_agent(importance_cap=1.1).update(batch)["train/first_ratio_error"] < 1e-5
    assert make_agent().update(batch)["train/first_ratio_error"] > 0.1


def test_process_supervision_pays_for_the_steps_to_come() -> None:
    agent = make_agent(supervision="process", loss_average="sequence")
    batch = rollout(agent)
    assert batch.step_index is not None
    tokens = []
    for p in range(P):
        rows = range(p * G, (p + 1) * G)
        steps = {
            (i, k): batch.rewards[i][batch.response_mask[i] & (batch.step_index[i] == k)].sum()
            for i in rows
            for k in np.unique(batch.step_index[i][batch.response_mask[i]])
        }
        mean, std = np.mean(list(steps.values())), np.std(list(steps.values()))
        for i in rows:
            own = batch.step_index[i][batch.response_mask[i]]
            scores = {k: (reward - mean) / (std + 1e-4) for (j, k), reward in steps.items() if j == i}
            tokens.append(torch.tensor([sum(z for k, z in scores.items() if k >= s) for s in own], dtype=torch.float32))
    check_gradient(
        agent, batch, lambda logprobs, i: clipped(logprobs, chosen(batch.old_logprobs, batch, i), tokens[i]).mean()
    )


def test_process_supervision_needs_reasoning_steps() -> None:
    agent = make_agent(supervision="process")
    with pytest.raises(InvalidOptionError, match="n_reasoning_steps"):
        agent.update(replace(rollout(agent), step_index=None))


@pytest.mark.parametrize("loss_average", ["sequence", "token", "constant"])
def test_masked_overlong_responses_leave_the_loss_and_stay_in_their_group(loss_average: str) -> None:
    """They leave every denominator too."""
    agent = make_agent(overlong="mask", loss_average=loss_average, max_response_tokens=7)
    batch = rollout(agent)
    kept = ~batch.truncated
    assert 0 < kept.sum() < len(batch)
    advantages = z_scores(batch.episode_returns)

    def loss_of(logprobs: Any, i: int) -> Any:
        terms = clipped(logprobs, chosen(batch.old_logprobs, batch, i), advantages[i]).sum()
        divisors = {
            "sequence": len(logprobs) * kept.sum(), "token": batch.response_mask[kept].sum(), "constant": 7 * kept.sum(),
        }  # fmt: skip
        return terms / int(divisors[loss_average])

    check_gradient(agent, batch, loss_of, weights=kept.astype(float))


def test_a_minibatch_that_is_masked_out_takes_no_step() -> None:
    agent = make_agent(overlong="mask")
    batch = rollout(agent)
    before = agent.policy.model.lm_head.weight.detach().clone()
    metrics = agent.update(replace(batch, terminated=np.zeros_like(batch.terminated)))
    assert torch.equal(agent.policy.model.lm_head.weight, before)
    assert metrics["train/groups_with_signal"] == 0.0


def test_the_overlong_penalty_is_a_slope() -> None:
    agent = make_agent(overlong="penalty", max_response_tokens=5, overlong_tokens=3, loss_average="sequence")
    batch = rollout(agent)
    lengths = batch.response_mask.sum(1)
    penalty = np.where(lengths <= 2, 0.0, np.where(lengths <= 5, (2 - lengths) / 3, -1.0))
    assert len(np.unique(penalty)) > 2
    advantages = z_scores(batch.episode_returns + penalty)
    check_gradient(
        agent, batch, lambda logprobs, i: clipped(logprobs, chosen(batch.old_logprobs, batch, i), advantages[i]).mean()
    )


def test_a_penalty_for_length_is_signal_too() -> None:
    agent = make_agent(overlong="penalty", max_response_tokens=5, overlong_tokens=3)
    batch = rollout(agent)
    metrics = agent.update(replace(batch, rewards=np.zeros_like(batch.rewards)))
    assert metrics["train/groups_with_signal"] > 0.5
    assert metrics["train/grad_norm"] > 0


@pytest.mark.parametrize("normalization", ["z_score", "rank"])
def test_rounding_is_no_signal(normalization: str) -> None:
    agent = make_agent(advantages=normalization)
    batch = rollout(agent)
    rewards = np.zeros_like(batch.rewards)
    last = [int(np.flatnonzero(row)[-1]) for row in batch.response_mask]
    rewards[np.arange(len(batch)), last] = 0.3 + 1e-8 * np.arange(len(batch))
    before = agent.policy.model.lm_head.weight.detach().clone()
    assert agent.update(replace(batch, rewards=rewards))["train/groups_with_signal"] == 0.0
    assert torch.equal(agent.policy.model.lm_head.weight, before)


def test_the_share_of_clipped_tokens_is_that_of_each_loss() -> None:
    batch = rollout(make_agent())
    ratios = []
    for row in range(len(batch)):
        logprobs = logprobs_of(tiny_llama(), batch, row).detach()
        ratios.append((logprobs - chosen(batch.old_logprobs, batch, row)).exp())
    advantages = z_scores(batch.episode_returns)
    weights = torch.cat(ratios)
    cispo = make_agent(policy_loss="cispo", clip_range_high=0.1).update(batch)["train/clip_fraction"]
    assert cispo == pytest.approx(float((weights > 1.1).float().mean()), abs=1e-6)
    gspo = make_agent(policy_loss="gspo", clip_range=0.05, clip_range_high=0.05).update(batch)["train/clip_fraction"]
    clipped_tokens = 0
    for ratio, advantage in zip(ratios, advantages, strict=True):
        whole = float(ratio.log().mean().exp())
        stopped = (advantage > 0 and whole > 1.05) or (advantage < 0 and whole < 0.95)
        clipped_tokens += len(ratio) * stopped
    assert gspo == pytest.approx(clipped_tokens / len(weights), abs=1e-6)
    assert 0 < gspo < 1


def test_a_kl_penalty_in_the_loss_corrects_for_the_sampler() -> None:
    """With an importance cap the surrogate's ratio starts from the learner; the tokens are still the sampler's."""
    agents = [make_agent(kl_coef=coef, importance_cap=1e9, loss_average="sequence") for coef in (0.5, 1e-12)]
    batch, model, penalty = rollout(agents[0]), tiny_llama(), torch.zeros(())
    for agent in agents:
        assert agent.reference is not None
        with torch.no_grad():
            for parameter in agent.reference.model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        agent.update(batch)
    for row in range(len(batch)):
        mine, theirs = (logprobs_of(m, batch, row) for m in (model, agents[0].reference.model))
        x = mine - theirs.detach()
        ratio = (mine - chosen(batch.old_logprobs, batch, row)).exp()
        penalty = penalty + 0.5 * (ratio * ((-x).exp() + x - 1)).mean() / len(batch)
    penalty.backward()
    parameters = (agent.policy.model.parameters() for agent in agents)
    for one, other, expected in zip(*parameters, model.parameters(), strict=True):
        if expected.grad is not None:
            assert torch.allclose(one.grad - other.grad, expected.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_a_kl_penalty_in_the_reward(estimator: str) -> None:
    agent = make_agent(kl_coef=0.5, kl_in="reward", kl_estimator=estimator, loss_average="sequence")
    assert agent.reference is not None
    with torch.no_grad():
        for parameter in agent.reference.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    batch = rollout(agent)
    returns = batch.episode_returns.copy()
    for row in range(len(batch)):
        reference = logprobs_of(agent.reference.model, batch, row).detach().numpy()
        x = batch.old_logprobs[row][batch.response_mask[row]] - reference
        returns[row] -= 0.5 * {"k1": x, "k2": x**2 / 2, "k3": np.exp(-x) + x - 1}[estimator].sum()
    advantages = z_scores(returns)
    check_gradient(
        agent, batch, lambda logprobs, i: clipped(logprobs, chosen(batch.old_logprobs, batch, i), advantages[i]).mean()
    )


# -- dynamic sampling -------------------------------------------------------------------------------------------------


def copy_agent(**overrides: Any) -> GRPO:
    """Many of its groups earn nothing at all."""
    config = GRPOConfig(group_size=G, problems_per_iteration=P, n_minibatches=2, run_dir=None)
    return GRPO(tiny_llama(VOCABULARY), "llmgym/Copy-v0", config, env_kwargs={"n_symbols": 5}, **overrides)


def test_groups_without_signal_are_replaced_and_counted() -> None:
    plain, replacing = copy_agent(), copy_agent(dynamic_sampling=50)
    batch, metrics = plain.collect()
    assert metrics == {}
    silent = P - plain._teaches(batch).sum()
    assert silent > 0
    batch, metrics = replacing.collect()
    assert len(batch) == P * G
    assert replacing._teaches(batch).all()
    assert metrics["rollout/replaced_groups"] >= silent
    prompts = [batch.prompt_of(row).tolist() for row in range(len(batch))]
    assert all(prompts[row] == prompts[row - row % G] for row in range(len(batch)))
    again = copy_agent(dynamic_sampling=50)
    played: list[RolloutBatch] = []
    play = again._play
    again._play = lambda n_problems: played.append(play(n_problems)) or played[-1]  # type: ignore[method-assign]
    metrics = again.iterate()
    written = sum(batch.n_timesteps for batch in played)
    assert written == round(metrics["rollout/length"] * P * G) + metrics["rollout/replaced_timesteps"]
    assert metrics["rollout/replaced_timesteps"] > 0
    assert again.n_timesteps == round(metrics["rollout/length"] * P * G) + metrics["rollout/replaced_timesteps"]
    assert metrics["train/groups_with_signal"] == 1.0


def test_replacing_is_bounded() -> None:
    """A policy that always writes the same earns the same: no group can teach, and sampling ends all the same."""
    agent = copy_agent(dynamic_sampling=3, temperature=0.001)
    batch, metrics = agent.collect()
    assert len(batch) == P * G
    assert metrics["rollout/replaced_groups"] == 3 * P
    assert agent.update(batch)["train/groups_with_signal"] == 0.0


class SpoiledCopyVectorEnv(CopyVectorEnv):
    """Pays NaN now and then."""

    n_steps = 0

    def step(self, actions: Any) -> Any:
        observations, rewards, *rest = super().step(actions)
        self.n_steps += 1
        return observations, np.where(self.n_steps % 7 == 0, np.nan, rewards), *rest


def test_a_reward_that_is_no_number_is_not_replaced() -> None:
    envs = SpoiledCopyVectorEnv(num_envs=P * G, n_symbols=5, autoreset_mode="disabled")
    config = GRPOConfig(group_size=G, problems_per_iteration=P, n_minibatches=2, run_dir=None, dynamic_sampling=50)
    with pytest.raises(NotFiniteError, match="reward"):
        GRPO(tiny_llama(VOCABULARY), envs, config).collect()


# -- long prompts -----------------------------------------------------------------------------------------------------


def test_prompts_in_several_passes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for tokens in (10_000, 1):
        monkeypatch.setattr("llmgym.agents.passes._PROMPT_TOKENS", tokens)
        agent = make_agent(kl_coef=0.5, microbatch_tokens=tokens)
        agent.update(rollout(agent))
        gradients.append(torch.cat([p.grad.flatten() for p in agent.policy.model.parameters()]))
    assert torch.allclose(*gradients, atol=1e-6, rtol=1e-4)


# -- names ------------------------------------------------------------------------------------------------------------


def overrides_of(config: GRPOConfig) -> dict[str, Any]:
    names = ("group_size", "problems_per_iteration", "n_minibatches", "max_grad_norm", "warmup_iterations", "run_dir")
    return {name: getattr(config, name) for name in names}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_learns_from_a_rollout(name: str) -> None:
    agent = make_agent(GRPOConfig.preset(name, **overrides_of(SMALL)))
    before = [p.detach().clone() for p in agent.policy.model.parameters()]
    metrics = agent.iterate()
    assert np.isfinite([value for value in metrics.values() if isinstance(value, float)]).all()
    assert any(not torch.equal(p, q) for p, q in zip(before, agent.policy.model.parameters(), strict=True))


def test_unknown_presets_are_named() -> None:
    with pytest.raises(InvalidOptionError, match="dapo"):
        GRPOConfig.preset("dappo")


@pytest.mark.parametrize(
    ("name", "value", "others"),
    [
        ("supervision", "step", {}),
        ("advantages", "rank", {"supervision": "process"}),
        ("overlong", "penalty", {"supervision": "process", "max_response_tokens": 64}),
        ("policy_loss", "ppo", {}),
        ("kl_estimator", "k4", {}),
        ("kl_in", "advantage", {}),
        ("kl_corrected", False, {"kl_estimator": "k1"}),
        ("dynamic_sampling", -1, {}),
        ("overlong", "drop", {}),
        ("max_response_tokens", None, {"overlong": "penalty"}),
        ("overlong_tokens", 9, {"overlong": "penalty", "max_response_tokens": 8}),
        ("importance_cap", 0.0, {}),
    ],
)
def test_choices_that_cannot_work_are_refused(name: str, value: Any, others: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError, match=f"Expected {name} .*actual: {value!r}"):
        replace(SMALL, **{name: value} | others)
