"""The formulas against stable-baselines3: its rollout buffer's GAE, and the losses its PPO takes a step on."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO  # noqa: E402
from stable_baselines3.common.buffers import RolloutBuffer  # noqa: E402
from stable_baselines3.common.logger import configure  # noqa: E402
from stable_baselines3.common.utils import explained_variance as sb3_explained_variance  # noqa: E402

from llmgym.agents.advantages import gae  # noqa: E402
from llmgym.agents.losses import (  # noqa: E402
    approx_kl,
    clipped_policy_loss,
    clipped_value_loss,
    explained_variance,
)
from llmgym.agents.masking import average_tokens, masked_mean  # noqa: E402

OBSERVATIONS, ACTIONS = gym.spaces.Box(-5.0, 5.0, (3,)), gym.spaces.Discrete(4)


class Still(gym.Env):
    """An environment for its spaces alone."""

    observation_space, action_space = OBSERVATIONS, ACTIONS


# -- advantages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 0.7), (0.97, 1.0), (0.9, 0.0)])
def test_gae_of_responses_cut_by_the_end_of_a_rollout(gamma: float, gae_lambda: float) -> None:
    """Five full rows side by side; some episodes ended with the last token, the others go on with its value."""
    rng, (n_rows, width) = np.random.default_rng(0), (5, 7)
    rewards, values = (rng.normal(size=(n_rows, width)).astype(np.float32) for _ in range(2))
    last_values, dones = rng.normal(size=n_rows).astype(np.float32), np.array([1, 0, 0, 1, 0], dtype=bool)
    buffer = RolloutBuffer(width, OBSERVATIONS, ACTIONS, "cpu", gae_lambda, gamma, n_envs=n_rows)
    for t in range(width):
        start, nothing = np.full(n_rows, t == 0), np.zeros((n_rows, 3))
        value = torch.from_numpy(values[:, t])
        buffer.add(nothing, np.zeros(n_rows), rewards[:, t], start, value, torch.zeros(n_rows))
    buffer.compute_returns_and_advantage(torch.from_numpy(last_values), dones)
    advantages, returns = gae(
        *(torch.from_numpy(x) for x in (rewards, values, np.where(dones, 0.0, last_values).astype(np.float32))),
        torch.ones(n_rows, width, dtype=torch.bool),
        gamma=gamma,
        gae_lambda=gae_lambda,
    )
    assert np.allclose(advantages.T, buffer.advantages, atol=1e-5) and np.allclose(returns.T, buffer.returns, atol=1e-5)


def test_gae_of_padded_responses_is_that_of_episodes_end_to_end() -> None:
    """SB3 keeps episodes one after another in a column, we keep them in rows padded with what must not be read."""
    rng, lengths = np.random.default_rng(1), [3, 1, 6, 4]
    n_steps, width = sum(lengths), 8
    rewards, values = (rng.normal(size=n_steps).astype(np.float32) for _ in range(2))
    starts = np.isin(np.arange(n_steps), np.cumsum([0, *lengths]))
    buffer = RolloutBuffer(n_steps, OBSERVATIONS, ACTIONS, "cpu", gae_lambda=0.9, gamma=0.95, n_envs=1)
    for t in range(n_steps):
        value = torch.from_numpy(values[t : t + 1])
        buffer.add(np.zeros((1, 3)), np.zeros(1), rewards[t : t + 1], starts[t : t + 1], value, torch.zeros(1))
    buffer.compute_returns_and_advantage(torch.zeros(1), np.array([True]))
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    padded = [torch.full(mask.shape, torch.nan) for _ in range(2)]
    for tensor, flat in zip(padded, (rewards, values), strict=True):
        tensor[mask] = torch.from_numpy(flat)
    advantages, returns = gae(*padded, torch.zeros(len(lengths)), mask, gamma=0.95, gae_lambda=0.9)
    assert np.allclose(advantages[mask], buffer.advantages[:, 0], atol=1e-5)
    assert np.allclose(returns[mask], buffer.returns[:, 0], atol=1e-5)


# -- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip_range_vf", [None, 0.05], ids=["value loss not clipped", "value loss clipped"])
def test_losses_and_gradients_of_a_ppo_step(clip_range_vf: float | None) -> None:
    """One full-batch step of SB3's PPO on arrays we put into its buffer: its losses and gradients, and ours.

    SB3 clips the value without the maximum, so the two agree where the clipped error is the larger one: returns far out
    on the side to which the value has moved.
    """
    torch.manual_seed(0)
    n_steps, rng = 64, np.random.default_rng(2)
    settings = {"vf_coef": 0.3, "ent_coef": 0.02, "max_grad_norm": 1e9, "learning_rate": 0.0, "device": "cpu"}
    model = PPO(
        "MlpPolicy", Still(), n_steps=n_steps, batch_size=n_steps, n_epochs=1, normalize_advantage=False,
        clip_range=0.2, clip_range_vf=clip_range_vf, **settings,
    )  # fmt: skip
    model.set_logger(configure(None, []))
    observations = rng.normal(size=(n_steps, 1, 3)).astype(np.float32)
    actions = rng.integers(0, 4, size=n_steps)

    def evaluate() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        inputs = torch.from_numpy(observations[:, 0]), torch.from_numpy(actions)
        values, logprobs, entropy = model.policy.evaluate_actions(*inputs)
        return values.flatten(), logprobs, entropy

    with torch.no_grad():
        values, logprobs, _ = evaluate()
    old_logprobs = logprobs + 0.3 * torch.randn(n_steps)
    old_values = values + 0.2 * torch.randn(n_steps)
    advantages = torch.randn(n_steps)
    returns = old_values + 5.0 * (values - old_values).sign()

    buffer = model.rollout_buffer
    buffer.observations[:], buffer.actions[:, 0, 0] = observations, actions
    for name, column in (
        ("log_probs", old_logprobs), ("values", old_values), ("advantages", advantages), ("returns", returns)
    ):  # fmt: skip
        getattr(buffer, name)[:, 0] = column.numpy()
    buffer.full = True
    model.train()
    theirs = model.logger.name_to_value
    values, logprobs, entropy = evaluate()  # with gradient, at the same parameters: the learning rate was 0

    # As one minibatch of 8 responses with 8 tokens each.
    mask, sizes = torch.ones(8, 8, dtype=torch.bool), {"n_sequences": 8, "n_tokens": 64, "max_tokens": 8}
    new, old, a, v, v_old, r = (x.view(8, 8) for x in (logprobs, old_logprobs, advantages, values, old_values, returns))
    policy_loss = average_tokens(clipped_policy_loss(new, old, a, clip_range=0.2), mask, how="token", **sizes)
    value_losses = clipped_value_loss(v, v_old, r, clip_range=clip_range_vf)
    value_loss = average_tokens(value_losses, mask, how="token", **sizes)
    assert policy_loss.item() == pytest.approx(theirs["train/policy_gradient_loss"], rel=1e-5)
    assert value_loss.item() == pytest.approx(theirs["train/value_loss"], rel=1e-5)
    assert approx_kl(new, old, mask).item() == pytest.approx(float(theirs["train/approx_kl"]), rel=1e-4)
    explained = explained_variance(v_old, r, mask)
    assert explained.item() == pytest.approx(float(theirs["train/explained_variance"]), rel=1e-4)

    loss = policy_loss + 0.3 * value_loss - 0.02 * masked_mean(entropy.view(8, 8), mask)
    assert loss.item() == pytest.approx(theirs["train/loss"], rel=1e-5)
    parameters = dict(model.policy.named_parameters())
    grads = torch.autograd.grad(loss, list(parameters.values()))
    for (name, parameter), grad in zip(parameters.items(), grads, strict=True):
        assert torch.allclose(grad, parameter.grad, atol=1e-6), name
    assert any(grad.any() for grad in grads)


def test_explained_variance() -> None:
    rng = np.random.default_rng(3)
    values, returns = rng.normal(size=(2, 4, 6))
    mask = rng.random((4, 6)) < 0.7
    mine = explained_variance(*(torch.from_numpy(x) for x in (values, returns, mask)))
    assert mine.item() == pytest.approx(sb3_explained_variance(values[mask], returns[mask]), abs=1e-12)
