"""State is a value: estimate how good each first step is by playing on from it, many times.

You will see, for one problem, the share of right answers after each of several first reasoning steps: the labels from
which process reward models are trained (Wang et al., Math-Shepherd, arXiv:2312.08935). Takes half a minute on a CPU.
Needs the agents extra.
"""

import gymnasium as gym
import numpy as np

import llmgym  # noqa: F401  (registers the ids)
from llmgym.agents import Policy

N_CONTINUATIONS = 64
FIRST_STEPS = {
    "careful": "<think>3*17=51\n",
    "wrong": "<think>3*17=41\n",
    "all at once": "<think>3*17+24=75\n",
    "no reasoning": "<think></think>",
}
PROBLEM = {
    "question": "A pen costs 17 yuan and a book costs 24 yuan. How much do 3 pens and one book cost?",
    "answer": "75",
}


def main() -> None:
    """Branch one episode into many."""
    env = gym.make("llmgym/MathReason-v0").unwrapped
    envs = gym.make_vec("llmgym/MathReason-v0", num_envs=N_CONTINUATIONS, autoreset_mode="disabled").unwrapped
    policy = Policy.load("tiny-reasoner")
    for name, text in FIRST_STEPS.items():
        env.reset(seed=0, options={"problem": PROBLEM})
        for token in env.tokenizer.encode(text):
            observation, *_ = env.step(token)
        state = env.clone_state()

        envs.reset(seed=0)
        envs.restore_state([state] * N_CONTINUATIONS)
        observations = {key: np.stack([array] * N_CONTINUATIONS) for key, array in observation.items()}
        policy.forget()
        returns = np.zeros(N_CONTINUATIONS)
        done = np.zeros(N_CONTINUATIONS, dtype=bool)
        while not done.all():
            actions, _ = policy.act(observations, waiting=done)
            observations, rewards, terminated, truncated, _ = envs.step(actions)
            returns += rewards
            done = terminated | truncated
        print(f"{name:13s} {text!r:28s} right in {returns.mean():4.0%} of {N_CONTINUATIONS} continuations")


if __name__ == "__main__":
    main()
