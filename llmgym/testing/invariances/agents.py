"""The adapter for agents of llmgym."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from llmgym.agents.agent import Agent
from llmgym.agents.minibatches import RolloutTensors
from llmgym.agents.passes import without_gradient
from llmgym.agents.rollout_batches import RolloutBatch
from llmgym.testing.invariances.batches import random_batch
from llmgym.testing.invariances.trainers import Gradient, NotPosed, RewardFunction, TrainerAdapter

#: Settings under which an update is one optimiser step whose gradient is left as it is.
_ONE_STEP: dict[str, Any] = {
    "n_epochs": 1,
    "n_minibatches": 1,
    "max_grad_norm": 1e9,
    "warmup_iterations": 0,
    "run_dir": None,
}


class AgentTrainer(TrainerAdapter):
    """An agent as the battery sees it.

    Args:
        make_agent: Makes the agent anew, with the same weights each time; takes fields of its configuration that differ
            (``n_minibatches=1``, ``seed=3``) as keyword arguments.
        make_rewarded: Makes an agent whose environment pays what a function says, ``reward(prompt_ids, response_ids)``;
            ``None``: rewards that fail cannot be tried.
        name: What to call it; ``""``: the name of its class.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from llmgym.agents import GRPO
        >>> def make_agent(**options):
        ...     _ = torch.manual_seed(0)
        ...     size = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        ...     model = LlamaForCausalLM(LlamaConfig(vocab_size=9, eos_token_id=1, initializer_range=0.3, **size))
        ...     return GRPO(model, "llmgym/Copy-v0", env_kwargs={"n_symbols": 5}, group_size=2, **options)
        >>> from llmgym.testing.invariances import check_padding
        >>> check_padding(AgentTrainer(make_agent))
    """

    def __init__(
        self,
        make_agent: Callable[..., Agent],
        make_rewarded: Callable[[RewardFunction], Agent] | None = None,
        *,
        name: str = "",
    ) -> None:
        self._make_agent, self._make_rewarded = make_agent, make_rewarded
        agent = make_agent(**_ONE_STEP)
        self.name = name or type(agent).__name__
        self.vocab_size = agent.policy.n_actions
        self.end_token = _end_token_of(agent)
        # With process supervision it is reasoning steps that are compared.
        self.group_baseline = getattr(agent.config, "supervision", "") == "outcome"

    def _agent(self, **options: Any) -> Agent:
        """A fresh agent, its reference and critic moved away from where they start."""
        agent = self._make_agent(**(_ONE_STEP | options))
        reference = getattr(agent, "reference", None)
        if reference is not None and reference.model is not agent.policy.model:
            _move(reference.model)
        critic = _critic_of(agent)
        if critic is not None:
            _move(critic)
        return agent

    def batch(self) -> RolloutBatch:
        """Episodes of the agent's own environment."""
        return self.sample(0)

    def sample(self, seed: int, reward: RewardFunction | None = None) -> RolloutBatch:
        """What :meth:`Agent.collect` gives."""
        if reward is None:
            return self._agent(seed=seed).collect()[0]
        if self._make_rewarded is None:
            raise NotPosed("the adapter was not told how to make an environment with another reward (`make_rewarded`)")
        return self._make_rewarded(reward).collect()[0]

    @torch.no_grad()
    def logprobs(self, batch: RolloutBatch) -> torch.Tensor:
        """What the policy gives for learning."""
        policy = self._agent().policy
        data = RolloutTensors(batch, policy.device)
        result = torch.zeros_like(data.old_logprobs)
        for part, cut, inputs in without_gradient(policy, data, 4096):
            result[part.rows, : part.width] = policy.logprobs(**inputs, allowed=cut.allowed).logprobs
        return result

    def gradient(self, batch: RolloutBatch, *, microbatch_tokens: int) -> Gradient:
        """What :meth:`Agent.update` leaves in the parameters."""
        agent = self._agent(microbatch_tokens=microbatch_tokens)
        agent.update(batch)
        parts = {"policy": agent.policy.model, "critic": _critic_of(agent)}
        return {
            f"{part}.{name}": torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for part, module in parts.items()
            if module is not None
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    def first_ratio_error(self, batch: RolloutBatch) -> float:
        """The metric ``train/first_ratio_error``."""
        agent = self._agent()
        if getattr(agent.config, "importance_cap", None) is not None:
            raise NotPosed("old log-probabilities are computed again by the learner (`importance_cap`)")
        return float(agent.update(batch)["train/first_ratio_error"])

    def advantages(
        self,
        rewards: torch.Tensor,
        values: torch.Tensor,
        last_values: torch.Tensor,
        response_mask: torch.Tensor,
        *,
        gamma: float,
        gae_lambda: float,
    ) -> torch.Tensor:
        """What a PPO agent estimates, were these its critic's values."""
        agent = self._agent()
        estimate = getattr(agent, "_gae", None)
        if estimate is None or agent.config.credit == "step":
            raise NotPosed("advantages are not estimated token by token")
        agent = self._agent(gamma=gamma)
        data = RolloutTensors(random_batch(self.vocab_size, n_groups=1, group_size=len(rewards)), torch.device("cpu"))
        data.values, data.response_mask = values, response_mask
        advantages: torch.Tensor = agent._gae(data, rewards, last_values, gae_lambda)[0]  # type: ignore[attr-defined]
        return advantages

    def packed_gradient(self, batch: RolloutBatch) -> Gradient:
        """There is none."""
        raise NotPosed("agents of llmgym give each response a row of its own")

    def learning_rates(self, batch: RolloutBatch, *, microbatch_tokens: int, n_updates: int) -> Sequence[float]:
        """As AdamW has them, with a warm-up over the updates."""
        agent = self._agent(microbatch_tokens=microbatch_tokens, warmup_iterations=n_updates)
        rates: list[float] = []
        optimizer = agent.optimizer  # type: ignore[attr-defined]
        optimizer.adam.register_step_pre_hook(lambda adam, *_: rates.append(adam.param_groups[0]["lr"]))
        for update in range(n_updates):
            agent.update(batch, update / n_updates)
            agent.n_iterations += 1
        return rates


def _end_token_of(agent: Agent) -> int | None:
    """What ends a response: the tokenizer says, or the model where there is none."""
    if agent.policy.tokenizer is not None:
        return agent.policy.tokenizer.end_token_id
    ids: int | list[int] | None = agent.policy.model.config.get_text_config().eos_token_id
    return ids[0] if isinstance(ids, list) else ids


def _critic_of(agent: Agent) -> nn.Module | None:
    """A PPO agent's critic or value head."""
    critic = getattr(agent, "critic", None)
    return critic if isinstance(critic, nn.Module) else getattr(agent, "value_head", None)


@torch.no_grad()
def _move(module: nn.Module) -> None:
    """Add noise to the weights, a tenth of their size; the same each time."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        size = float(parameter.float().square().mean().sqrt()) or 1.0
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_((0.1 * size * noise).to(parameter))
