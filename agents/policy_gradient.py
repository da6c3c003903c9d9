"""What PPO and GRPO have in common: a reference policy, a penalty for leaving it, an entropy bonus, an average.

No surrogate and no advantages here: those are what the algorithms differ in, and stand in their own files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from llmgym.agents.advantages import rewards_of_actions
from llmgym.agents.agent import Agent
from llmgym.agents.config import AgentConfig, Rules
from llmgym.agents.kl import kl_estimate, kl_loss
from llmgym.agents.losses import approx_kl, clip_fraction
from llmgym.agents.minibatches import RolloutTensors, TokenTensors
from llmgym.agents.passes import Inputs, without_gradient
from llmgym.agents.policies import Policy, Scores
from llmgym.agents.step_metrics import StepMetrics


@dataclass(frozen=True)
class PolicyGradientConfig(AgentConfig):
    """Hyperparameters of policy gradients with a clipped ratio.

    Attributes:
        loss_average: "sequence" (the mean over a response's tokens, then over responses), "token" (DAPO: long responses
            weigh more) or "constant" (Dr. GRPO: divided by max_response_tokens, whatever the length).
        max_response_tokens: The constant of the last one. None: the width of an observation, prompt and response
            together.
        clip_range: Where the ratio is clipped (epsilon). More: larger steps. Usual: 0.1 to 0.2.
        clip_range_high: The same above 1; higher lets rare tokens grow. None: clip_range. Usual: up to 0.28 (DAPO).
        kl_coef: Weight of the KL penalty to the reference, the initial policy. 0: no reference is kept. Usual: 0 to
            0.05.
        kl_estimator: "k1", "k2" or "k3": see llmgym.agents.kl for which gradient each has.
        kl_in: Where the penalty goes: "loss" or "reward" (before the advantages are computed).
        kl_corrected: In the loss: whether its gradient is that of KL(policy, reference), off policy too. False: the
            estimate differentiated as it is printed in GRPO's eq. 4; with k3 that is the gradient of
            KL(reference, policy).
        ent_coef: Weight of an entropy bonus. More: more exploration. Usual: 0 to 0.01.
    """

    loss_average: Literal["sequence", "token", "constant"] = "sequence"
    max_response_tokens: int | None = None
    clip_range: float = 0.2
    clip_range_high: float | None = None
    kl_coef: float = 0.0
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    kl_in: Literal["loss", "reward"] = "loss"
    kl_corrected: bool = True
    ent_coef: float = 0.0

    def rules(self) -> Rules:
        """What each field has to hold."""
        return super().rules() | {
            "loss_average": one_of(self.loss_average, "sequence", "token", "constant"),
            "max_response_tokens": (self.max_response_tokens is None or self.max_response_tokens >= 1, ">= 1"),
            "clip_range": (0 < self.clip_range < 1, "in (0, 1)"),
            "clip_range_high": (self.clip_range_high is None or self.clip_range_high > 0, "> 0"),
            "kl_coef": (self.kl_coef >= 0, ">= 0"),
            "kl_estimator": one_of(self.kl_estimator, "k1", "k2", "k3"),
            "kl_in": one_of(self.kl_in, "loss", "reward"),
            "kl_corrected": (
                self.kl_corrected or self.kl_in == "reward" or self.kl_estimator != "k1",
                'True with kl_estimator="k1" in the loss (as printed, its gradient is 0 on average)',
            ),
            "ent_coef": (self.ent_coef >= 0, ">= 0"),
        }


def one_of(value: str, *known: str) -> tuple[bool, str]:
    """The rule of a field with named choices."""
    return value in known, " or ".join(f'"{name}"' for name in known)


class PolicyGradientAgent(Agent):
    """An agent with a reference policy, where ``kl_coef`` asks for one."""

    config: PolicyGradientConfig
    kept: ClassVar[tuple[str, ...]] = ("optimizer", "reference")

    def _build(self) -> None:
        self.reference = self.policy.frozen_copy() if self.config.kl_coef > 0 else None
        self.optimizer = self._optimizer(self.policy.model.parameters(), self.config.learning_rate)
        self.max_response_tokens = self.config.max_response_tokens or self.training_envs.width

    def _reference_logprobs(self, data: RolloutTensors) -> torch.Tensor:
        """``(B, T)`` log-probabilities of the rollout's tokens under the reference; needs one.

        A KL is between models: temperature, forbidden tokens and grammar are those that the policy has now.
        """
        assert self.reference is not None
        self.reference.shape_as(self.policy)
        return self._logprobs(self.reference, data)

    @torch.no_grad()
    def _logprobs(self, policy: Policy, data: RolloutTensors) -> torch.Tensor:
        """``(B, T)`` log-probabilities of the rollout's tokens under a policy, without gradient."""
        result = torch.zeros_like(data.old_logprobs)
        for part, cut, inputs in without_gradient(policy, data, self._microbatch_tokens):
            result[part.rows, : part.width] = policy.logprobs(**inputs, allowed=cut.allowed).logprobs
        return result

    def _charged(self, data: RolloutTensors, kl_coef: float) -> torch.Tensor:
        """``(B, T)`` rewards of the actions, less the KL penalty where it goes there: ``r_t - kl_coef * KL_t``."""
        rewards = rewards_of_actions(data.rewards, data.response_mask)
        if self.reference is None or self.config.kl_in == "loss":
            return rewards
        penalty = kl_estimate(data.old_logprobs, data.ref_logprobs, self.config.kl_estimator)
        return rewards - kl_coef * penalty.masked_fill(~data.response_mask, 0.0)

    def _scores(self, cut: TokenTensors, inputs: Inputs, **options: Any) -> Scores:
        """Log-probabilities and entropy of a microbatch under the current policy, with the gradient that is wanted."""
        gradient = self.config.ent_coef > 0
        return self.policy.logprobs(
            **inputs, allowed=cut.allowed, with_entropy=True, entropy_gradient=gradient, **options
        )

    def _regularised(
        self, surrogate: torch.Tensor, scores: Scores, cut: TokenTensors, kl_coef: float, metrics: StepMetrics
    ) -> torch.Tensor:
        """``(b, T)``: the surrogate's loss with the KL penalty and the entropy bonus that belong in it."""
        config, loss = self.config, surrogate
        assert scores.entropy is not None
        if self.reference is not None:
            metrics.add("kl_to_ref", kl_estimate(scores.logprobs.detach(), cut.ref_logprobs, "k3"), cut.loss_mask)
            if config.kl_in == "loss":
                loss = loss + kl_coef * kl_loss(
                    scores.logprobs,
                    cut.sampler_logprobs,  # whose tokens these are, whatever the learner's ratio starts from
                    cut.ref_logprobs,
                    estimator=config.kl_estimator,
                    corrected=config.kl_corrected,
                )
        if config.ent_coef > 0:
            loss = loss - config.ent_coef * scores.entropy
        self._observe(scores, cut, metrics)
        return loss

    @torch.no_grad()
    def _observe(self, scores: Scores, cut: TokenTensors, metrics: StepMetrics) -> None:
        logprobs, old_logprobs, mask = scores.logprobs.detach(), cut.old_logprobs, cut.loss_mask
        assert scores.entropy is not None
        metrics.add("entropy", scores.entropy, mask)
        metrics.add_mean("approx_kl", approx_kl(logprobs, old_logprobs, mask), mask)
        clipped = self._clip_fraction(logprobs, cut)
        if clipped is not None:
            metrics.add_mean("clip_fraction", clipped, mask)
        metrics.largest("first_ratio_error", ((logprobs - old_logprobs).exp() - 1.0).abs(), mask)

    def _clip_fraction(self, logprobs: torch.Tensor, cut: TokenTensors) -> torch.Tensor | None:
        """Share of the microbatch's tokens whose gradient the clipping stops; ``None`` where nothing clips."""
        return clip_fraction(
            logprobs,
            cut.old_logprobs,
            cut.advantages,
            cut.loss_mask,
            clip_range=self.config.clip_range,
            clip_range_high=self.config.clip_range_high,
        )
