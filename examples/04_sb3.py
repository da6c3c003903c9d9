"""A generic algorithm, unchanged: Stable-Baselines3's PPO on a small token environment.

You will see the mean return on `llmgym/Copy-v0` (copy three digits, token by token) rise from chance to the optimum of
1, on sequences that were held out. Takes about ten seconds on a CPU. Needs pip install "llmgym-rl[sb3]".

Three things make it learn: the native vector environment as a `VecEnv` (many slots at the price of one step), tokens as
one-hot vectors counted from the end, and a budget's end that counts as an end. See docs/sb3.md.
"""

from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from torch import nn

import llmgym  # noqa: F401  (registers the ids)
from llmgym.sb3 import LanguageVecEnv, TokenFeatures


def main(total_timesteps: int = 40_000) -> tuple[float, float]:
    """Train; return the mean return before and after."""
    envs = LanguageVecEnv("llmgym/Copy-v0", 64, bootstraps_truncated=False)
    held_out = LanguageVecEnv("llmgym/Copy-v0", 10, split="test")
    policy = {"features_extractor_class": TokenFeatures, "net_arch": [128], "activation_fn": nn.ReLU}
    agent = PPO("MultiInputPolicy", envs, learning_rate=2e-3, n_steps=32, batch_size=256, n_epochs=4, gamma=1.0,
                ent_coef=0.05, policy_kwargs=policy, seed=0, device="cpu")  # fmt: skip
    before, _ = evaluate_policy(agent, held_out, n_eval_episodes=200)
    agent.learn(total_timesteps)
    after, _ = evaluate_policy(agent, held_out, n_eval_episodes=200)
    print(f"mean return on held-out sequences: before {before:.2f}, after {total_timesteps:,} timesteps {after:.2f}")
    return before, after


if __name__ == "__main__":
    main()
