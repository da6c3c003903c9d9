"""The environment loop: a language task stepped like any other Gymnasium environment, in each of the three units.

You will see one problem answered token by token, step by step and at once, with the same end state and the same reward.
Takes a second. Needs nothing but the package.
"""

import gymnasium as gym

import llmgym  # registers the ids

RESPONSE = "<think>85*4=340\n</think><answer>340</answer>"
PROBLEM = {"question": "A train travels at 85 km/h for 4 hours. How many km does it go?", "answer": "340"}


def main() -> None:
    """Feed the same response in three units."""
    options = {"problem": PROBLEM}
    for unit in ("token", "step", "response"):
        env = gym.make("llmgym/MathReason-v0", action_unit=unit, rewards={"correctness": 1.0, "format": 0.1})
        env.reset(seed=0, options=options)
        tokenizer = env.unwrapped.tokenizer
        if unit == "token":
            actions = [*tokenizer.encode(RESPONSE), tokenizer.end_token_id]
        elif unit == "step":
            actions = [RESPONSE[:18], RESPONSE[18:] + tokenizer.end_token]
        else:
            actions = [RESPONSE]
        episode_return = 0.0
        for action in actions:
            _, reward, terminated, truncated, info = env.step(action)
            episode_return += reward
        print(f"{unit:9s} {len(actions):2d} actions  return {episode_return:.2f}  {info['reward_components']}")
        print(f"          terminated={terminated} truncated={truncated} because of {info['stop_reason']!r}")

    envs = gym.make_vec("llmgym/MathReason-v0", num_envs=4, rewards={})
    observations, info = envs.reset(seed=0)
    print("\nFour slots of one native vector environment:")
    for problem_id in info["problem_id"]:
        print(" ", problem_id)
    print("observations:", {name: (array.shape, str(array.dtype)) for name, array in observations.items()})


if __name__ == "__main__":
    print(f"llmgym {llmgym.__version__}")
    main()
