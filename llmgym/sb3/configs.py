"""Small configurations of generic algorithms that learn token tasks within minutes on one core.

One for each algorithm, the same for every task: tuned on copying three digits, on recalling one of three keys and on
sums of two digits, which ``benchmarks/sb3_learning.py`` runs again. They are a start for tasks of that size (a dozen
tokens, a vocabulary of dozens), and no more than that.

What they have in common, and why: tokens are one-hot vectors (:class:`~llmgym.sb3.extractors.TokenFeatures`), since ids
are names. Layers are ReLU, since with Tanh a policy stays at part of the answers. Nothing is discounted, since a
response has a fixed budget. A budget's end is an end (``bootstraps_truncated=False``). The policy gradients keep much
entropy at first, since each prompt has to find its own right token; their learning rate falls to 0.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from llmgym.errors import InvalidOptionError, missing_extra, unknown_name
from llmgym.sb3.extractors import TokenFeatures
from llmgym.sb3.vec_env import LanguageVecEnv


@dataclass(frozen=True)
class SmallConfig:
    """How to run one algorithm.

    Attributes:
        algorithm: Its class, as ``"module:name"``.
        total_timesteps: Environment steps, over all slots, that were enough for each of the three tasks.
        policy: Name of the policy, for ``Dict`` observations.
        num_envs: Slots of the vector environment.
        options: Keyword arguments of the class.
        policy_kwargs: Keyword arguments of the policy, the extractor left out.
    """

    algorithm: str
    total_timesteps: int
    policy: str = "MultiInputPolicy"
    num_envs: int = 64
    options: Mapping[str, Any] = field(default_factory=dict)
    policy_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> type[Any]:
        """The class of the algorithm.

        Raises:
            MissingExtraError: If its package is not installed.
        """
        module, _, name = self.algorithm.partition(":")
        try:
            algorithm: type[Any] = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            raise missing_extra(module, "sb3") from error
        return algorithm


_PPO = {
    "learning_rate": LinearSchedule(2e-3, 0.0, 1.0),
    "n_steps": 32,
    "batch_size": 256,
    "n_epochs": 4,
    "gamma": 1.0,
    "ent_coef": 0.1,
}
_Q_LEARNING = {
    "learning_rate": 1e-3,
    "buffer_size": 50_000,
    "learning_starts": 2_000,
    "batch_size": 128,
    "gamma": 1.0,
    "train_freq": 1,
    "gradient_steps": 8,  # each on a batch of 128, for 64 new transitions
    "target_update_interval": 500,
    "exploration_fraction": 0.3,
}
_TWO_LAYERS = {"net_arch": [256, 256], "activation_fn": nn.ReLU}

#: Name of an algorithm -> its configuration.
SMALL_CONFIGS: dict[str, SmallConfig] = {
    "ppo": SmallConfig("stable_baselines3:PPO", 200_000, options=_PPO, policy_kwargs=_TWO_LAYERS),
    "a2c": SmallConfig(
        "stable_baselines3:A2C",
        500_000,
        options={
            "learning_rate": LinearSchedule(2e-3, 0.0, 1.0),
            "n_steps": 8,
            "gamma": 1.0,
            "gae_lambda": 0.95,
            "ent_coef": 0.1,
            "normalize_advantage": True,
            "use_rms_prop": False,
        },
        policy_kwargs=_TWO_LAYERS | {"optimizer_class": torch.optim.Adam},
    ),
    "dqn": SmallConfig("stable_baselines3:DQN", 60_000, options=_Q_LEARNING, policy_kwargs=_TWO_LAYERS),
    "maskable_ppo": SmallConfig("sb3_contrib:MaskablePPO", 100_000, options=_PPO, policy_kwargs=_TWO_LAYERS),
    "recurrent_ppo": SmallConfig(
        "sb3_contrib:RecurrentPPO",
        100_000,
        "MultiInputLstmPolicy",
        options=_PPO | {"n_steps": 16},
        policy_kwargs={
            "net_arch": [256],
            "activation_fn": nn.ReLU,
            "lstm_hidden_size": 64,
            "shared_lstm": True,
            "enable_critic_lstm": False,
            "features_extractor_kwargs": {"hidden": 256},
        },
    ),
    "qr_dqn": SmallConfig(
        "sb3_contrib:QRDQN", 60_000, options=_Q_LEARNING, policy_kwargs=_TWO_LAYERS | {"n_quantiles": 10}
    ),
}


def make_agent(
    name: str,
    env: str | VecEnv,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    seed: int | None = 0,
    policy_kwargs: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Any:
    """An agent of Stable-Baselines3 or sb3-contrib with its small configuration, ready for ``learn``.

    Args:
        name: A key of :data:`SMALL_CONFIGS`.
        env: An id, or a ``VecEnv``. An id is made with the configuration's number of slots.
        env_kwargs: Keyword arguments of the environment; with an id only.
        seed: Of the agent, and of the environment where it is made here.
        policy_kwargs: Keyword arguments of the policy in place of or beside the configuration's.
        changes: Keyword arguments of the algorithm in place of or beside the configuration's.

    Raises:
        InvalidOptionError: If the name is unknown, or ``env_kwargs`` come with an environment.
        MissingExtraError: If the algorithm's package is not installed.

    Example:
        >>> agent = make_agent("ppo", "llmgym/Copy-v0", ent_coef=0.05)
        >>> type(agent).__name__, agent.ent_coef, agent.get_env().num_envs
        ('PPO', 0.05, 64)
    """
    if name not in SMALL_CONFIGS:
        raise unknown_name("an algorithm", name, SMALL_CONFIGS)
    config = SMALL_CONFIGS[name]
    if isinstance(env, str):
        env = LanguageVecEnv(env, config.num_envs, bootstraps_truncated=False, **(env_kwargs or {}))
    elif env_kwargs:
        raise InvalidOptionError(
            f"Expected `env_kwargs` with an id only, actual: {dict(env_kwargs)} with {env!r}. Give them to the "
            "environment itself."
        )
    policy = {"features_extractor_class": TokenFeatures} | dict(config.policy_kwargs) | dict(policy_kwargs or {})
    options = {"seed": seed, "device": "cpu"} | dict(config.options) | changes  # networks too small for a GPU
    return config.load()(config.policy, env, policy_kwargs=policy, **options)
