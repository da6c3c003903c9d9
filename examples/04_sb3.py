"""A generic algorithm, unchanged: Stable-Baselines3's PPO on a small token environment.

You will see the mean return on `llmgym/Copy-v0` (copy three digits, token by token) rise from chance to most of the
digits. Takes about half a minute on a CPU. Needs stable-baselines3: pip install "llmgym-rl[sb3]".
"""

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import llmgym  # noqa: F401  (registers the ids)


def main(total_timesteps: int = 20_000) -> tuple[float, float]:
    """Train; return the mean return before and after."""
    env, held_out = gym.make("llmgym/Copy-v0"), Monitor(gym.make("llmgym/Copy-v0", split="test"))
    agent = PPO("MultiInputPolicy", env, learning_rate=3e-3, n_steps=512, gamma=0.9, seed=0)
    before, _ = evaluate_policy(agent, held_out, n_eval_episodes=200)
    agent.learn(total_timesteps)
    after, _ = evaluate_policy(agent, held_out, n_eval_episodes=200)
    print(f"mean return on held-out sequences: before {before:.2f}, after {total_timesteps:,} timesteps {after:.2f}")
    return before, after


if __name__ == "__main__":
    main()
