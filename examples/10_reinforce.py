"""An agent of your own for the benchmark: REINFORCE with a baseline, in sixty plain lines on the vector environment.

You will see its score on two diagnostics, 0 for random tokens and 1 for the optimum. Takes some seconds on a CPU. Needs
the agents extra. To compare it with others on all of them:

    llmgym bench --agents random,grpo,examples/10_reinforce.py:Reinforce --seeds 3 --output runs/bench
"""

import numpy as np
import torch
from torch import nn

from llmgym.benchmark import Challenge
from llmgym.benchmark.evaluations import evaluate
from llmgym.envs.diagnostics import DIAGNOSTICS

N_EPISODES = 64


class Reinforce:
    """A two-layer network on one-hot tokens; the baseline is a second output of it."""

    def train(self, challenge: Challenge, budget: int, seed: int) -> None:
        """Play 64 episodes, take a step on them, and so on; ``challenge`` counts the steps of its environments."""
        torch.manual_seed(seed)
        n_tokens, width = challenge.vocab_size, challenge.width
        self.network = nn.Sequential(nn.Linear(width * n_tokens, 128), nn.ReLU(), nn.Linear(128, n_tokens + 1))
        optimizer = torch.optim.Adam(self.network.parameters(), lr=3e-3)
        envs = challenge.make_vec(N_EPISODES)
        observations, _ = envs.reset(seed=seed)
        challenge.progress()
        while challenge.n_timesteps < budget:
            done = np.zeros(N_EPISODES, dtype=bool)
            logprobs, baselines, entropies, rewards, active = [], [], [], [], []
            while not done.all():
                distribution, values = self.forward(observations)
                tokens = distribution.sample()
                active.append(~done)
                observations, reward, terminated, truncated, _ = envs.step(np.where(done, -1, tokens.numpy()))
                done = terminated | truncated
                logprobs.append(distribution.log_prob(tokens))
                entropies.append(distribution.entropy())
                baselines.append(values)
                rewards.append(np.where(active[-1], reward, 0.0))
            mask = torch.from_numpy(np.stack(active)).float()  # (T, N)
            to_go = np.cumsum(np.stack(rewards)[::-1], axis=0)[::-1]
            returns = torch.from_numpy(to_go.copy()).float()
            baseline = torch.stack(baselines)
            policy_loss = -torch.stack(logprobs) * (returns - baseline.detach()) - 0.01 * torch.stack(entropies)
            loss = ((policy_loss + 0.5 * (returns - baseline) ** 2) * mask).sum() / mask.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            challenge.progress()
            observations, _ = envs.reset()

    def forward(self, observations: dict[str, np.ndarray]) -> tuple[torch.distributions.Categorical, torch.Tensor]:
        """The distribution of the next token, and the return that is expected."""
        ids = torch.from_numpy(observations["input_ids"]).long()
        written = torch.from_numpy(observations["attention_mask"]).float()
        n_tokens = self.network[-1].out_features - 1
        features = nn.functional.one_hot(ids, n_tokens) * written.unsqueeze(-1)
        out = self.network(features.flatten(1))
        return torch.distributions.Categorical(logits=out[:, :-1]), out[:, -1]

    @torch.no_grad()
    def act(self, observations: dict[str, np.ndarray], restarted: np.ndarray, waiting: np.ndarray) -> np.ndarray:
        """Tokens of the policy."""
        return self.forward(observations)[0].sample().numpy()


def main(budget: int = 20_000) -> list[float]:
    """Train on two diagnostics and print the scores."""
    scores = []
    for name in ("copy", "sparse"):
        agent, diagnostic = Reinforce(), DIAGNOSTICS[name]
        agent.train(Challenge(diagnostic, "small"), budget, seed=0)
        scores.append(diagnostic.score(evaluate(agent, diagnostic, "small", 1000, seed=1), "small"))
        print(f"{name}: score {scores[-1]:.2f} after {budget:,} environment steps")
    return scores


if __name__ == "__main__":
    main()
