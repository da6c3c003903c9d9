"""GRPO on the shipped model: train for a minute, evaluate on held-out problems, save, load.

You will see pass@1 on held-out problems before and after. Takes about two minutes on two CPU cores. Needs the agents
extra. The whole story, with its comparisons and a picture, is `make demo`.
"""

from llmgym.agents import GRPO


def main(max_seconds: float = 60, n_problems: int = 300, folder: str = "runs/example_grpo") -> tuple[float, float]:
    """Train and return pass@1 before and after."""
    agent = GRPO("tiny-reasoner", "llmgym/MathReason-v0", group_size=8, run_dir=None)
    before = agent.evaluate(n_problems)
    print("before:", before)
    agent.learn(max_seconds=max_seconds)
    after = agent.evaluate(n_problems)
    print("after: ", after)
    for example in after.examples[:3]:
        print(f"\n{example['prompt']}{example['response']}   ({'right' if example['solved'] else 'wrong'})")
    agent.save(folder)
    GRPO.load(folder, run_dir=None)  # goes on from here
    return before.pass_at_1, after.pass_at_1


if __name__ == "__main__":
    main()
