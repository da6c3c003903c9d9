"""PPO with a critic on the shipped model: train for two minutes, stop, go on, evaluate on held-out problems.

You will see pass@1 before and after, and the folder of the run: its curves, checkpoints and some whole responses. Takes
about four minutes on two CPU cores. Needs the agents extra.
"""

from llmgym.agents import PPO


def main(max_seconds: float = 120, n_problems: int = 300, run_dir: str = "runs/example_ppo") -> tuple[float, float]:
    """Train in two halves and return pass@1 before and after."""
    agent = PPO("tiny-reasoner", "llmgym/MathReason-v0", run_dir=run_dir)
    before = agent.evaluate(n_problems)
    print("before:", before)
    agent.learn(max_seconds=max_seconds / 2)
    folder = agent.save(f"{run_dir}_half")
    agent = PPO.load(folder)  # optimizer, critic and random generators included: it goes on exactly
    agent.learn(max_seconds=max_seconds / 2)
    after = agent.evaluate(n_problems)
    print("after: ", after)
    return before.pass_at_1, after.pass_at_1


if __name__ == "__main__":
    main()
