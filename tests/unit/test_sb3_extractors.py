"""Features of token observations, and the configurations that use them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

import torch
from gymnasium import spaces
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import DummyVecEnv

import llmgym  # noqa: F401  (registers the ids)
from llmgym.errors import InvalidOptionError
from llmgym.sb3 import SMALL_CONFIGS, LanguageVecEnv, TokenFeatures, make_agent
from llmgym.sb3.extractors import last_tokens

#: Width 4, tokens 0, 1 and 2.
SPACE = spaces.Dict({"attention_mask": spaces.Box(0, 1, (4,), np.int8), "input_ids": spaces.Box(0, 2, (4,), np.int32)})


def observations(*rows: list[int]) -> dict[str, Any]:
    """Floats, as Stable-Baselines3 hands them over; padded with token 0."""
    ids = torch.tensor([row + [0] * (4 - len(row)) for row in rows]).float()
    mask = torch.tensor([[1.0] * len(row) + [0.0] * (4 - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def test_last_tokens_by_hand() -> None:
    ids = torch.tensor([[2, 1, 0, 0], [1, 2, 1, 2]])
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    tokens, present = last_tokens(ids, mask, 3)
    assert tokens.tolist() == [[0, 2, 1], [2, 1, 2]]
    assert present.tolist() == [[False, True, True], [True, True, True]]


def test_one_hot_features_by_hand() -> None:
    features = TokenFeatures(SPACE, last_k=2)(observations([1], [0, 2, 1]))
    assert TokenFeatures(SPACE, last_k=2).features_dim == 2 * 3 + 5
    assert features[0].tolist() == [0, 0, 0] + [0, 1, 0] + [0, 1, 0, 0, 0]  # before the start there is nothing
    assert features[1].tolist() == [0, 0, 1] + [0, 1, 0] + [0, 0, 0, 1, 0]


def test_written_padding_tokens_differ_from_padding() -> None:
    extractor = TokenFeatures(SPACE, length=False)
    assert extractor(observations([0]))[0].tolist() == [0] * 9 + [1, 0, 0]
    assert extractor(observations([]))[0].tolist() == [0] * 12


def test_all_tokens_are_kept_by_default() -> None:
    extractor = TokenFeatures(SPACE)
    rows = [[a, b, c] for a in range(3) for b in range(3) for c in range(3)]
    assert len({tuple(row) for row in extractor(observations(*rows)).tolist()}) == 27


def test_embeddings_have_gradients_of_the_tokens_that_are_there() -> None:
    torch.manual_seed(0)
    extractor = TokenFeatures(SPACE, kind="embedding", embedding_dim=5, last_k=3, length=False)
    features = extractor(observations([1]))
    assert features.shape == (1, 15)
    assert features[0, :10].tolist() == [0.0] * 10
    features.sum().backward()
    assert extractor.embedding.weight.grad.abs().sum(1).gt(0).tolist() == [False, True, False]


def test_a_layer_on_top() -> None:
    extractor = TokenFeatures(SPACE, hidden=7)
    features = extractor(observations([1, 2], [2]))
    assert (extractor.features_dim, features.shape) == (7, (2, 7))
    assert features.ge(0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"last_k": 0}, r"`last_k` in \[1, 4\]"),
        ({"last_k": 5}, r"`last_k` in \[1, 4\]"),
        ({"kind": "onehot"}, "Did you mean 'one_hot'"),
        ({"kind": "embedding", "embedding_dim": 0}, "`embedding_dim` >= 1"),
        ({"hidden": -1}, "`hidden` >= 0"),
    ],
)
def test_options_out_of_bounds(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        TokenFeatures(SPACE, **options)


@pytest.mark.parametrize("space", [spaces.Box(0, 1, (3,)), spaces.Dict({"input_ids": spaces.Box(0, 1, (3,))})])
def test_other_observations_are_refused(space: Any) -> None:
    with pytest.raises(InvalidOptionError, match="observations of token actions"):
        TokenFeatures(space)


def test_the_policy_sees_the_features_of_what_the_environment_shows() -> None:
    agent = make_agent("ppo", "llmgym/Copy-v0")
    seen = agent.get_env().reset()
    features = agent.policy.extract_features(obs_as_tensor(seen, "cpu"))
    expected = torch.zeros(64, 8, 8)
    expected[torch.arange(64)[:, None], torch.arange(4, 8), torch.from_numpy(seen["input_ids"][:, :4]).long()] = 1
    torch.testing.assert_close(features[:, :64], expected.flatten(1))
    assert features[:, 64:].argmax(1).eq(4).all()


#: Enough of each to make a few updates.
QUICK = {
    "ppo": {"n_steps": 4, "batch_size": 16, "n_epochs": 1},
    "a2c": {"n_steps": 4},
    "dqn": {"learning_starts": 8, "gradient_steps": 1, "buffer_size": 64},
    "maskable_ppo": {"n_steps": 4, "batch_size": 16, "n_epochs": 1},
    "recurrent_ppo": {"n_steps": 4, "batch_size": 16, "n_epochs": 1},
    "qr_dqn": {"learning_starts": 8, "gradient_steps": 1, "buffer_size": 64},
}


@pytest.mark.parametrize("name", SMALL_CONFIGS)
def test_every_algorithm_updates_its_weights_and_comes_back_from_a_file(name: str, tmp_path: Any) -> None:
    config = SMALL_CONFIGS[name]
    if config.algorithm.startswith("sb3_contrib"):
        pytest.importorskip("sb3_contrib")
    envs = LanguageVecEnv("llmgym/Copy-v0", 4, grammar=r"(\d ){3}", bootstraps_truncated=False)
    agent = make_agent(name, envs, **QUICK[name])
    before = {key: value.clone() for key, value in agent.policy.state_dict().items()}
    agent.learn(64)
    after = agent.policy.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    agent.save(tmp_path / "agent")
    again = config.load().load(tmp_path / "agent", envs)
    assert again.policy_kwargs["features_extractor_class"] is TokenFeatures
    seen = envs.reset()
    np.testing.assert_array_equal(
        agent.predict(seen, deterministic=True)[0], again.predict(seen, deterministic=True)[0]
    )


def test_a_masked_policy_chooses_only_what_the_grammar_allows() -> None:
    pytest.importorskip("sb3_contrib")
    envs = LanguageVecEnv("llmgym/Copy-v0", 8, grammar=r"(\d ){3}")
    agent = make_agent("maskable_ppo", envs, **QUICK["maskable_ppo"])
    agent.learn(32)
    chosen = agent.rollout_buffer.actions.reshape(-1).astype(int)
    masks = agent.rollout_buffer.action_masks.reshape(-1, 8).astype(bool)
    assert masks[np.arange(len(chosen)), chosen].all()
    assert 0 < masks.mean() < 1


def test_options_can_be_changed_one_by_one() -> None:
    agent = make_agent("ppo", "llmgym/Copy-v0", env_kwargs={"n_digits": 2}, gamma=0.5, policy_kwargs={"net_arch": [8]})
    assert (agent.gamma, agent.n_steps) == (0.5, SMALL_CONFIGS["ppo"].options["n_steps"])
    assert agent.policy.net_arch == [8]
    assert agent.policy.activation_fn is torch.nn.ReLU
    assert agent.observation_space["input_ids"].shape == (6,)


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="Did you mean 'ppo'"):
        make_agent("pp", "llmgym/Copy-v0")
    envs = LanguageVecEnv("llmgym/Copy-v0", 2)
    with pytest.raises(InvalidOptionError, match="`env_kwargs` with an id only"):
        make_agent("ppo", envs, env_kwargs={"n_digits": 2})


def test_configurations_take_single_environments_too() -> None:
    import gymnasium as gym

    agent = make_agent("a2c", DummyVecEnv([lambda: gym.make("llmgym/Copy-v0")]), n_steps=4)
    agent.learn(8)
    assert agent.num_timesteps == 8
