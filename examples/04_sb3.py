"""A generic algorithm, unchanged: Stable-Baselines3's PPO on a small token environment.

You will see the mean return on `llmgym/Copy-v0` (copy three digits, token by token) rise well above chance. Takes about a
minute on two CPU cores. Needs stable-baselines3: pip install "llmgym-rl[sb3]".
"""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import llmgym  # noqa: F401  (registers the ids)


class OneHotTokens(gym.ObservationWrapper):
    """Token ids are names, not sizes: show each as a one-hot vector, zeros where nothing is written yet."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        ids = env.observation_space["input_ids"]
        self.n_tokens = int(ids.high.max()) + 1
        self.observation_space = spaces.Box(0, 1, (ids.shape[0] * self.n_tokens,), np.float32)

    def observation(self, observation: dict) -> np.ndarray:
        """One-hot vectors, one position after the other."""
        one_hot = np.eye(self.n_tokens, dtype=np.float32)[observation["input_ids"]]
        return (one_hot * observation["attention_mask"][:, None]).reshape(-1)


def make_env() -> gym.Env:
    """Copying three digits out of five."""
    return OneHotTokens(gym.make("llmgym/Copy-v0", split="all"))


def main(total_timesteps: int = 60_000) -> tuple[float, float]:
    """Train; return the mean return before and after."""
    envs = make_vec_env(make_env, n_envs=8, seed=0)
    agent = PPO("MlpPolicy", envs, n_steps=128, batch_size=256, ent_coef=0.01, learning_rate=1e-3, gamma=1.0, seed=0)
    before, _ = evaluate_policy(agent, make_env(), n_eval_episodes=200, deterministic=False)
    agent.learn(total_timesteps)
    after, _ = evaluate_policy(agent, make_env(), n_eval_episodes=200, deterministic=False)
    print(f"mean return before {before:.2f}, after {total_timesteps:,} timesteps {after:.2f}")
    return before, after


if __name__ == "__main__":
    main()
