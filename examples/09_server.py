"""Any server that speaks OpenAI's protocol as the player: whole responses, and reasoning steps.

You will see how many held-out problems the model behind a server solves, why episodes ended, and one episode of each
unit. Takes as long as the server needs for 2 x 50 responses. Needs the extras agents and servers, and a server:

    transformers serve path/to/model --port 8000          # or: vllm serve path/to/model --port 8000
    python examples/09_server.py http://localhost:8000/v1 path/to/model
"""

import sys

import gymnasium as gym

import llmgym  # noqa: F401  (registers the ids)
from llmgym.agents.servers import ServerPolicy
from llmgym.agents.text_evaluation import evaluate_texts


def main(url: str = "http://localhost:8000/v1", model: str = "tiny-reasoner", n_problems: int = 50) -> None:
    """Play the same problems in both units."""
    for unit in ("response", "step"):
        envs = gym.make_vec(
            "llmgym/MathReason-v0", num_envs=8, action_unit=unit, autoreset_mode="disabled", split="test"
        )
        with ServerPolicy(url, envs, model=model, temperature=0.7, seed=0) as player:
            observations, _ = envs.reset(seed=0)
            print(f"{unit}: the first action is {player.act(observations)[0]!r}")
            report = evaluate_texts(player, envs, n_problems=n_problems)
        print(f"  {report}")
        print(f"  mean return {report.mean_return:.2f}, ended by {report.stop_reasons}")
        print(f"  {report.examples[0]['prompt']!r} -> {report.examples[0]['response']!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
