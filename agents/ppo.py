"""Proximal policy optimisation with a critic, on the tokens of responses.

Read from top to bottom: collect data with the old policy; values of the old critic; advantages by temporal difference
or GAE; then, for k epochs over the roll-out, the critic on ``A + V_old`` and the policy on the clipped or the penalised
objective.

Sources: Schulman et al., "PPO", arXiv:1707.06347v2 (``eq.`` below are equations there); Schulman et al., "GAE",
arXiv:1506.02438v6; Ouyang et al., "InstructGPT", arXiv:2203.02155 (a token is an action, KL in the reward);
Yuan et al., "VC-PPO", arXiv:2503.01491 (value pretraining, decoupled GAE); Yue et al., "VAPO", arXiv:2504.05118
(length-adaptive GAE).

Departures:

1. The mean over a response's tokens, ``1/|o|``, comes before the mean over responses (``loss_average="sequence"``);
   eq. 7 averages all timesteps alike (``"token"``).
2. Tokens that the environment wrote are part of the state, and of no sum: the next state of the agent's last token
   before them is the one after them.
3. The value of the state after an episode is 0, a budget that ran out included, unless ``bootstrap_truncated``: with a
   discount of 1, a bootstrapped critic can justify writing on for ever.
4. The critic's loss has no factor 1/2; it averages all tokens of the minibatch alike.
5. Dropout stays off, in sampling and in learning, so the first ratio is 1 up to rounding.

Run ``python -m llmgym.agents.ppo --help`` for its options.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from llmgym.agents.advantages import gae, length_adaptive_lambda, step_gae, whiten
from llmgym.agents.config import Rules
from llmgym.agents.critics import Critic, ValueHead
from llmgym.agents.kl import kl_estimate, penalty_coef_update, proportional_coef_update
from llmgym.agents.losses import (
    approx_kl,
    clipped_policy_loss,
    clipped_value_loss,
    explained_variance,
    penalty_policy_loss,
)
from llmgym.agents.masking import average_tokens, masked_sum
from llmgym.agents.minibatches import RolloutTensors, TokenTensors
from llmgym.agents.passes import Inputs, backward, without_gradient
from llmgym.agents.policy_gradient import PolicyGradientAgent, PolicyGradientConfig, one_of
from llmgym.agents.rollout_batches import Ints, RolloutBatch
from llmgym.agents.rollouts import collect
from llmgym.agents.step_metrics import StepMetrics
from llmgym.agents.training import RunOptions, main
from llmgym.errors import InvalidOptionError
from llmgym.keywords import EnvKeywords


@dataclass(frozen=True)
class PPOConfig(PolicyGradientConfig):
    """Hyperparameters of PPO; further ones in :class:`~llmgym.agents.policy_gradient.PolicyGradientConfig` and
    :class:`~llmgym.agents.config.AgentConfig`.

    Attributes:
        problems_per_iteration: Problems posed before each update. More: steadier gradient. Usual: 32 to 1024.
        responses_per_problem: Responses to each, whose prompt is computed once. Usual: 1; 16 in VAPO.
        n_epochs: Passes over a roll-out (k). More: each roll-out is used more, off-policy. Usual: 1 to 4.
        target_kl: The epochs end when KL(old, current) of a minibatch exceeds 1.5 times this many nats a token, before
            that step is taken. None: never. Usual: 0.01 to 0.05.
        advantages: "gae", or "td": one-step temporal difference, GAE with lambda 0 whatever gae_lambda says.
        credit: "token", or "step": all tokens of a reasoning step are one action and share one advantage.
        gamma: Discount of each token (of each reasoning step with credit="step"). Usual: 1.
        gae_lambda: Of the policy's advantages. 0: least variance; 1: least bias. Usual: 0.95 to 1.
        value_gae_lambda: Of the critic's targets. None: as for the policy's advantages A, so that the targets are
            A + V_old. Usual: 1 (VC-PPO, VAPO).
        adaptive_lambda: alpha of VAPO: the policy's gae_lambda becomes 1 - 1 / (alpha * length), for each response.
            None: gae_lambda for all. Usual: 0.05.
        whiten_advantages: Whether advantages get mean 0 and standard deviation 1 over the roll-out.
        bootstrap_truncated: Whether the value of a truncated episode's last state stands for what would have come.
            False: its return ends with the budget, as an answer that is not there earns nothing.
        policy_loss: "clip" (eq. 7) or "penalty" (eq. 8, its coefficient adapted to penalty_target).
        penalty_coef: The first coefficient of the penalty variant (beta). Usual: 1; it adapts.
        penalty_target: Its target for KL(old, current), in nats a token (d_targ). Usual: 0.003 to 0.03.
        critic: "head" on the policy's own trunk, or "model": a trunk of its own, a copy of the policy's.
        vf_coef: Weight of the critic's loss, which with critic="head" reaches the shared trunk. Usual: 0.1 to 1.
        clip_range_value: How far a value may move from the old one before its gradient stops. None: any. Usual: 0.2.
        value_learning_rate: Step size of the critic's own weights. None: learning_rate, ten times as much for a head,
            which starts from nothing.
        value_pretraining: Iterations at the start that train the critic alone (VC-PPO); with critic="head" its head
            alone. Usual: 0 to 50.
        kl_target: KL to the reference, in nats a response, that kl_coef is adapted to (Ziegler et al.). None: kl_coef
            stays. Usual: 1 to 10.
        kl_horizon: Responses over which kl_coef adapts. More: slower. Usual: 10,000.
    """

    run_dir: str | None = "runs/ppo"
    problems_per_iteration: int = 64
    responses_per_problem: int = 4
    n_epochs: int = 2
    target_kl: float | None = None
    advantages: Literal["gae", "td"] = "gae"
    credit: Literal["token", "step"] = "token"
    gamma: float = 1.0
    gae_lambda: float = 1.0
    value_gae_lambda: float | None = None
    adaptive_lambda: float | None = None
    whiten_advantages: bool = True
    bootstrap_truncated: bool = False
    policy_loss: Literal["clip", "penalty"] = "clip"
    penalty_coef: float = 1.0
    penalty_target: float = 0.01
    critic: Literal["head", "model"] = "head"
    vf_coef: float = 0.5
    clip_range_value: float | None = 0.2
    value_learning_rate: float | None = None
    value_pretraining: int = 0
    kl_target: float | None = None
    kl_horizon: int = 10_000

    def rules(self) -> Rules:
        """What each field has to hold."""
        first: Rules = {"problems_per_iteration": (self.problems_per_iteration >= 1, ">= 1")}
        return (
            first
            | super().rules()
            | {
                "responses_per_problem": (self.responses_per_problem >= 1, ">= 1"),
                "num_envs": (
                    self.num_envs is None or (self.num_envs > 0 and self.num_envs % self.responses_per_problem == 0),
                    f"a positive multiple of responses_per_problem={self.responses_per_problem}",
                ),
                "n_minibatches": (
                    1 <= self.n_minibatches <= self.problems_per_iteration,
                    f"in [1, problems_per_iteration={self.problems_per_iteration}]",
                ),
                "target_kl": (self.target_kl is None or self.target_kl > 0, "> 0"),
                "advantages": one_of(self.advantages, "gae", "td"),
                "credit": one_of(self.credit, "token", "step"),
                "gamma": (0 <= self.gamma <= 1, "in [0, 1]"),
                "gae_lambda": (0 <= self.gae_lambda <= 1, "in [0, 1]"),
                "value_gae_lambda": (self.value_gae_lambda is None or 0 <= self.value_gae_lambda <= 1, "in [0, 1]"),
                "adaptive_lambda": (
                    self.adaptive_lambda is None or (self.adaptive_lambda > 0 and self.advantages == "gae"),
                    '> 0, and advantages to be "gae"',
                ),
                "policy_loss": one_of(self.policy_loss, "clip", "penalty"),
                "penalty_coef": (self.penalty_coef > 0, "> 0"),
                "penalty_target": (self.penalty_target > 0, "> 0"),
                "critic": one_of(self.critic, "head", "model"),
                "vf_coef": (self.vf_coef > 0, "> 0"),
                "clip_range_value": (self.clip_range_value is None or self.clip_range_value > 0, "> 0"),
                "value_learning_rate": (self.value_learning_rate is None or self.value_learning_rate > 0, "> 0"),
                "value_pretraining": (self.value_pretraining >= 0, ">= 0"),
                "kl_target": (
                    self.kl_target is None or (self.kl_target > 0 and self.kl_coef > 0),
                    "> 0, with kl_coef > 0",
                ),
                "kl_horizon": (
                    self.kl_horizon >= self.problems_per_iteration * self.responses_per_problem,
                    f">= the {self.problems_per_iteration * self.responses_per_problem} responses of an iteration",
                ),
            }
        )


class PPO(PolicyGradientAgent):
    """A policy that learns from a critic, and a critic that learns from the policy's returns. Arguments and
    attributes: :class:`~llmgym.agents.Agent`.

    Example::

        agent = PPO("tiny-reasoner", "llmgym/MathReason-v0", n_epochs=2)
        agent.learn(max_seconds=60)
        print(agent.evaluate(n_problems=200))

    Attributes:
        kl_coef: Weight of the KL penalty to the reference now; with ``kl_target`` it adapts.
        penalty_coef: Weight of the penalty variant's KL(old, current) now; it adapts.
    """

    algorithm = "ppo"
    config_class = PPOConfig
    config: PPOConfig
    kept: ClassVar[tuple[str, ...]] = (
        *PolicyGradientAgent.kept, "critic", "value_head", "critic_optimizer", "kl_coef", "penalty_coef",
    )  # fmt: skip

    def _n_episodes(self) -> int:
        return self.config.problems_per_iteration * self.config.responses_per_problem

    def _build(self) -> None:
        super()._build()
        config = self.config
        self.kl_coef, self.penalty_coef = config.kl_coef, config.penalty_coef
        # One of the two: a head that reads the policy's own trunk, or a model apart.
        self.value_head = None if config.critic == "model" else ValueHead(self.policy.hidden_size)
        self.critic = Critic(self.policy) if self.value_head is None else None
        if self.value_head is not None:
            self.value_head.to(self.policy.device)
        own = self.critic or self.value_head
        assert own is not None
        self._value_learning_rate = config.value_learning_rate or config.learning_rate * (1 if self.critic else 10)
        self.critic_optimizer = self._optimizer(own.parameters(), self._value_learning_rate)

    # -- 1. collect data: prompts, responses, rewards of the old policy ----------------------------------------------

    def collect(self) -> tuple[RolloutBatch, dict[str, Any]]:
        """Play one response, or several, to each problem."""
        size, n_problems = self.config.responses_per_problem, self.config.problems_per_iteration
        seed = int(self._rng.integers(2**31))
        if not self.config.bootstrap_truncated:  # which also needs the values of last states: nobody acts in those
            self.policy.value_head = self.value_head
        try:
            return collect(self.envs, self.policy, group_size=size, n_groups=n_problems, seed=seed), {}
        finally:
            self.policy.value_head = self.policy.last_values = None

    def update(self, batch: RolloutBatch, budget_spent: float = 0.0) -> dict[str, Any]:
        """Estimate advantages with the old critic, then improve critic and policy for k epochs."""
        config = self.config
        data = RolloutTensors(batch, self.policy.device)
        if self.reference is not None:
            data.ref_logprobs = self._reference_logprobs(data)
        self._estimate_advantages(data)

        policy_factor = self._rate_factor(budget_spent, since=config.value_pretraining)
        self.optimizer.set_learning_rate(config.learning_rate * policy_factor)
        self.critic_optimizer.set_learning_rate(self._value_learning_rate * self._rate_factor(budget_spent))
        metrics = StepMetrics()
        n_steps = self._epochs(data, metrics)
        learning = metrics.means()
        self._adapt(data)
        return {
            **learning,
            "train/explained_variance": float(explained_variance(data.values, data.returns, data.response_mask)),
            "train/epochs_done": n_steps / min(config.n_minibatches, data.n_groups),
            "train/learning_rate": self.optimizer.learning_rate,
            **({} if self.reference is None else {"train/kl_coef": self.kl_coef}),
            **({} if config.policy_loss == "clip" else {"train/penalty_coef": self.penalty_coef}),
        }

    # -- 2. and 3. advantages: reward and value against what the next state is worth ---------------------------------

    @torch.no_grad()
    def _estimate_advantages(self, data: RolloutTensors) -> None:
        """Fill in the old values, the advantages and the critic's targets."""
        config, mask = self.config, data.response_mask
        last_values = self._old_values(data)
        worthless = torch.as_tensor(data.batch.terminated, device=data.device)
        if not config.bootstrap_truncated:
            worthless = torch.ones_like(worthless)
        last_values = last_values.masked_fill(worthless, 0.0)
        rewards = self._charged(data, self.kl_coef)

        gae_lambda: float | torch.Tensor = 0.0 if config.advantages == "td" else config.gae_lambda
        if config.adaptive_lambda is not None:
            gae_lambda = length_adaptive_lambda(mask.sum(1), config.adaptive_lambda)
        advantages, data.returns = self._gae(data, rewards, last_values, gae_lambda)  # targets: A + V_old
        if config.value_gae_lambda is not None:
            _, data.returns = self._gae(data, rewards, last_values, config.value_gae_lambda)
        data.advantages = whiten(advantages, mask) if config.whiten_advantages else advantages

    def _gae(
        self, data: RolloutTensors, rewards: torch.Tensor, last_values: torch.Tensor, gae_lambda: float | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Advantages and targets, ``(B, T)`` each, over tokens or over reasoning steps."""
        factors: dict[str, Any] = {"gamma": self.config.gamma, "gae_lambda": gae_lambda}
        if self.config.credit == "token":
            return gae(rewards, data.values, last_values, data.response_mask, **factors)
        if data.step_index is None:
            raise InvalidOptionError(
                'Expected infos with "n_reasoning_steps" (credit="step" pays by reasoning step), actual: none. '
                'Use credit="token", or a language environment of llmgym.'
            )
        return step_gae(rewards, data.values, last_values, data.response_mask, data.step_index, **factors)

    def _old_values(self, data: RolloutTensors) -> torch.Tensor:
        """Fill in the values of the states that tokens were chosen in; returns those of the last states ``(B,)``.

        A head has said them while the policy acted; values of last states are 0 then, and not asked for.
        """
        last_values = torch.zeros(len(data.batch), device=data.device)
        if data.batch.values is not None and not self.config.bootstrap_truncated:
            data.values = torch.as_tensor(data.batch.values, device=data.device)
            return last_values
        for part, _, inputs in without_gradient(self.critic or self.policy, data, self._microbatch_tokens):
            values, last = self._values(inputs)
            data.values[part.rows, : part.width], last_values[part.rows] = values, last
        return last_values

    def _values(self, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """``(b, T)`` and ``(b,)``: what the critic says of a microbatch."""
        if self.critic is not None:
            return self.critic.values(**inputs)
        assert self.value_head is not None
        return self.policy.values(self.value_head, **inputs)

    # -- 4. to 6. critic and policy, for k epochs --------------------------------------------------------------------

    def _epochs(self, data: RolloutTensors, metrics: StepMetrics) -> int:
        """Optimise until the epochs are over or the policy has moved too far; returns the optimiser steps taken."""
        n_minibatches, n_steps = min(self.config.n_minibatches, data.n_groups), 0
        for _ in range(self.config.n_epochs):
            for problems in data.minibatches(n_minibatches, self._rng):
                if not self._step(data, problems, metrics):
                    return n_steps
                n_steps += 1
        return n_steps

    def _step(self, data: RolloutTensors, problems: Ints, metrics: StepMetrics) -> bool:
        """One step of both optimisers; ``False`` if the policy is too far from the old one to take it."""
        rows = torch.as_tensor(data.rows(problems), device=data.device)
        sizes = {"n_sequences": len(rows), "n_tokens": int(data.response_mask[rows].sum())}
        learns = self.n_iterations >= self.config.value_pretraining  # otherwise the critic alone does

        def policy_loss(cut: TokenTensors, inputs: Inputs) -> torch.Tensor:
            """This microbatch's share of eq. 7 or 8 negated; with a shared trunk, of the critic's loss too (eq. 9)."""
            scores = self._scores(cut, inputs, value_head=self.value_head, with_last_values=False)
            surrogate = self._policy_loss(scores.logprobs, cut)
            per_token = self._regularised(surrogate, scores, cut, self.kl_coef, metrics)
            share = average_tokens(
                per_token, cut.loss_mask, how=self.config.loss_average, max_tokens=self.max_response_tokens, **sizes
            )
            metrics.add_share("loss", share)
            if scores.values is None:
                return share
            of_critic = self._value_share(scores.values, cut, sizes, metrics)
            return share + of_critic if learns else of_critic

        def value_loss(cut: TokenTensors, inputs: Inputs) -> torch.Tensor:
            """This microbatch's share of the critic's loss, for a model apart."""
            values, _ = self._values(inputs)
            return self._value_share(values, cut, sizes, metrics)

        metrics.begin()
        self.optimizer.zero_grad()
        self.critic_optimizer.zero_grad()
        shares = {}
        if learns or self.critic is None:
            shares["padding_share"] = backward(policy_loss, self.policy, data, problems, self._microbatch_tokens)
            target_kl = self.config.target_kl
            if learns and target_kl is not None and metrics.mean_so_far("approx_kl") > 1.5 * target_kl:
                return False
        if self.critic is not None:
            shares["padding_share"] = backward(value_loss, self.critic, data, problems, self._microbatch_tokens)
        norms = {"critic_grad_norm": self.critic_optimizer.clip()}
        if learns:
            norms["grad_norm"] = self.optimizer.clip()  # both are finite, or neither optimiser steps
            self.optimizer.apply()
        self.critic_optimizer.apply()
        metrics.end(**norms, **shares)
        return True

    def _clip_fraction(self, logprobs: torch.Tensor, cut: TokenTensors) -> torch.Tensor | None:
        return None if self.config.policy_loss == "penalty" else super()._clip_fraction(logprobs, cut)

    def _policy_loss(self, logprobs: torch.Tensor, cut: TokenTensors) -> torch.Tensor:
        """``(b, T)``: the surrogate, negated."""
        if self.config.policy_loss == "penalty":
            return penalty_policy_loss(logprobs, cut.old_logprobs, cut.advantages, kl_coef=self.penalty_coef)
        return clipped_policy_loss(
            logprobs,
            cut.old_logprobs,
            cut.advantages,
            clip_range=self.config.clip_range,
            clip_range_high=self.config.clip_range_high,
        )

    def _value_share(
        self, values: torch.Tensor, cut: TokenTensors, sizes: dict[str, int], metrics: StepMetrics
    ) -> torch.Tensor:
        """``vf_coef max((R - V)^2, (R - clip(V, V_old - eps, V_old + eps))^2)``, mean over the minibatch's tokens."""
        bound, mask = self.config.clip_range_value, cut.response_mask
        loss = clipped_value_loss(values, cut.values, cut.returns, clip_range=bound)
        share = masked_sum(loss, mask) / sizes["n_tokens"]
        metrics.add_share("value_loss", share)
        if bound is not None:
            metrics.add("value_clip_fraction", ((values - cut.values).abs() > bound).float(), mask)
        return self.config.vf_coef * share

    @torch.no_grad()
    def _adapt(self, data: RolloutTensors) -> None:
        """The coefficients of both KL penalties follow what is measured, from when the policy begins to move."""
        config = self.config
        if self.n_iterations < config.value_pretraining:
            return
        if config.policy_loss == "penalty":
            # After the update: before each step it would miss that step's part.
            moved = approx_kl(self._logprobs(self.policy, data), data.old_logprobs, data.response_mask)
            self.penalty_coef = penalty_coef_update(self.penalty_coef, float(moved), config.penalty_target)
        if config.kl_target is not None:
            to_reference = kl_estimate(data.old_logprobs, data.ref_logprobs, "k1")
            kl = float(masked_sum(to_reference, data.response_mask, dim=1).mean())
            self.kl_coef = proportional_coef_update(
                self.kl_coef, kl, config.kl_target, n_steps=len(data.batch), horizon=config.kl_horizon
            )


# -- command line -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainOptions(RunOptions, EnvKeywords, PPOConfig):
    """Train a model with PPO on an environment, evaluate it on held-out problems, save it."""


if __name__ == "__main__":
    main(PPO, TrainOptions)
