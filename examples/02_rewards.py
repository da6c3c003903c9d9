"""Rewards as wrappers and as a keyword: the same stack, taken apart.

You will see what each reward pays for four responses to one problem. Takes a second. Needs nothing but the package.
"""

import gymnasium as gym

import llmgym  # noqa: F401  (registers the ids)
from llmgym.wrappers import CorrectnessReward, FormatReward, LengthReward, ProcessReward

PROBLEM = {"question": "What is 47+85?", "answer": "132"}
RESPONSES = {
    "reasoned": "<think>47+80=127\n127+5=132\n</think><answer>132</answer>",
    "right by luck": "<think>47+80=137\n137+5=132\n</think><answer>132</answer>",
    "terse": "<think></think><answer>132</answer>",
    "no format": "It is 131.",
}


def main() -> None:
    """Print the parts of the reward for each response."""
    bare = gym.make("llmgym/MathReason-v0", action_unit="response", rewards={})
    wrapped = LengthReward(ProcessReward(FormatReward(CorrectnessReward(bare), weight=0.1), weight=0.2), weight=0.05)
    keyword = gym.make(
        "llmgym/MathReason-v0",
        action_unit="response",
        rewards={"correctness": 1.0, "format": 0.1, "process": 0.2, "length": 0.05},
    )
    print(wrapped)
    for name, response in RESPONSES.items():
        wrapped.reset(seed=0, options={"problem": PROBLEM})
        keyword.reset(seed=0, options={"problem": PROBLEM})
        _, reward, *_, info = wrapped.step(response)
        _, same, *_ = keyword.step(response)
        assert reward == same, (reward, same)
        parts = ", ".join(f"{part} {paid:.3f}" for part, paid in info["reward_components"].items())
        print(f"{name:14s} {reward:.3f} = {parts}")


if __name__ == "__main__":
    main()
