"""Group relative policy optimisation: algorithm 1 of DeepSeekMath, and the family that grew out of it.

Several responses are sampled for each problem; a response is as good as it is better than its group. No value function.

Source: Shao et al., "DeepSeekMath", arXiv:2402.03300v3. ``eq.`` below are equations there. What differs between the
variants is a pure function in :mod:`~llmgym.agents.advantages`, :mod:`~llmgym.agents.losses`,
:mod:`~llmgym.agents.kl` or :mod:`~llmgym.agents.masking`, chosen by a field of :class:`GRPOConfig`; ``PRESETS`` holds
the choices of the papers.

Departures:

1. One iteration only: the reference policy is the initial policy throughout (the paper's outer loop replaces it).
2. The z-score divides by the standard deviation over the group plus 1e-4.
3. Tokens that the environment wrote are part of the state, and of no sum.
4. Groups that teach nothing have advantage 0; without a KL term or an entropy bonus they are left out of the forward
   pass.
5. Dropout stays off, in sampling and in learning, so the first ratio is 1 up to rounding.

Run ``python -m llmgym.agents.grpo --help`` for its options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import numpy as np
import torch

from llmgym.agents.advantages import (
    group_advantages,
    groups_with_signal,
    process_advantages,
    soft_overlong_penalty,
)
from llmgym.agents.agent import Agent, AgentConfig, Rules, RunOptions, train
from llmgym.agents.kl import kl_estimate, kl_loss
from llmgym.agents.losses import (
    approx_kl,
    cispo_loss,
    clip_fraction,
    clipped_policy_loss,
    gspo_loss,
    truncated_importance_weights,
)
from llmgym.agents.masking import average_tokens, masked_mean, masked_sum
from llmgym.agents.minibatches import Microbatch, RolloutTensors
from llmgym.agents.policies import Policy
from llmgym.agents.prompt_states import PromptStates
from llmgym.agents.rollouts import Bools, Ints, RolloutBatch, collect
from llmgym.errors import InvalidOptionError, unknown_name
from llmgym.keywords import EnvKeywords, parse_keywords


@dataclass(frozen=True)
class GRPOConfig(AgentConfig):
    """Hyperparameters.

    Attributes:
        group_size: G, responses to each problem. More: steadier advantages, fewer problems. Usual: 4 to 64 (paper).
        problems_per_iteration: Problems posed before each update. More: steadier gradient. Usual: 16 to 512.
        advantages: "z_score" (section 4.1.2), "mean" (Dr. GRPO: hard and easy problems weigh as they are), "rank" (only
            the order of the returns counts) or "leave_one_out" (RLOO: against the mean of the others).
        supervision: "outcome" (section 4.1.2) or "process" (section 4.1.3: each reasoning step's reward, normalised
            over the group, pays for the tokens up to it).
        policy_loss: "clip" (eq. 3), "gspo" (one ratio for a response) or "cispo" (the ratio is a clipped weight, and no
            token loses its gradient).
        loss_average: "sequence" (eq. 3), "token" (DAPO: long responses weigh more) or "constant" (Dr. GRPO).
        max_response_tokens: The constant of the last one, and the length that overlong penalties are measured from.
            None: the width of an observation, prompt and response together.
        clip_range: Where the ratio is clipped (epsilon of eq. 3). Usual: 0.1 to 0.2; 3e-4 with "gspo".
        clip_range_high: The same above 1; higher lets rare tokens grow. None: clip_range. Usual: up to 0.28 (DAPO).
        kl_coef: Weight of the KL penalty to the reference (beta of eq. 3). 0: no reference is kept. Usual: 0 to 0.04.
        kl_estimator: "k1", "k2" or "k3" (eq. 4): see llmgym.agents.kl for which gradient each has.
        kl_in: Where the penalty goes: "loss" (eq. 3) or "reward" (before the advantages are computed).
        kl_corrected: In the loss: whether its gradient is that of KL(policy, reference), off policy too; False: the
            estimate differentiated as printed in eq. 4, whose gradient is that of KL(reference, policy).
        ent_coef: Weight of an entropy bonus. More: more exploration. Usual: 0 to 0.01.
        dynamic_sampling: Rounds of sampling in which groups without signal are replaced (DAPO). 0: they stay.
        overlong: Responses cut off by a budget: "keep", "mask" (left out of the loss) or "penalty" (DAPO eq. 13, for
            the last overlong_tokens tokens up to max_response_tokens).
        overlong_tokens: L_cache of DAPO eq. 13.
        importance_cap: Tokens weigh min(pi_learner / pi_sampler, cap), for a sampler whose probabilities differ from
            the learner's. None: sampler and learner are taken to agree. Usual: 2.
    """

    log_dir: str | None = "runs/grpo"
    group_size: int = 8
    problems_per_iteration: int = 32
    advantages: Literal["z_score", "mean", "rank", "leave_one_out"] = "z_score"
    supervision: Literal["outcome", "process"] = "outcome"
    policy_loss: Literal["clip", "gspo", "cispo"] = "clip"
    loss_average: Literal["sequence", "token", "constant"] = "token"
    max_response_tokens: int | None = None
    clip_range: float = 0.2
    clip_range_high: float | None = None
    kl_coef: float = 0.0
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    kl_in: Literal["loss", "reward"] = "loss"
    kl_corrected: bool = True
    ent_coef: float = 0.0
    dynamic_sampling: int = 0
    overlong: Literal["keep", "mask", "penalty"] = "keep"
    overlong_tokens: int = 32
    importance_cap: float | None = None

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """The choices of a paper, by name: see ``PRESETS``.

        Example:
            >>> GRPOConfig.preset("dapo", group_size=16).clip_range_high
            0.28

        Raises:
            InvalidOptionError: If there is no such preset.
        """
        if name not in PRESETS:
            raise unknown_name("a preset", name, list(PRESETS))
        return cls(**(PRESETS[name] | overrides))

    def rules(self) -> Rules:
        """What each field has to hold."""
        return super().rules() | {
            "group_size": (self.group_size >= 2, ">= 2 (advantages compare responses to one problem)"),
            "problems_per_iteration": (self.problems_per_iteration >= 1, ">= 1"),
            "num_envs": (
                self.num_envs is None or (self.num_envs > 0 and self.num_envs % self.group_size == 0),
                f"a positive multiple of group_size={self.group_size}",
            ),
            "n_minibatches": (
                1 <= self.n_minibatches <= self.problems_per_iteration,
                f"in [1, problems_per_iteration={self.problems_per_iteration}] (groups are not divided)",
            ),
            "advantages": one_of(self.advantages, "z_score", "mean", "rank", "leave_one_out"),
            "supervision": one_of(self.supervision, "outcome", "process"),
            "policy_loss": one_of(self.policy_loss, "clip", "gspo", "cispo"),
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
            "dynamic_sampling": (self.dynamic_sampling >= 0, ">= 0"),
            "overlong": one_of(self.overlong, "keep", "mask", "penalty"),
            "overlong_tokens": (self.overlong_tokens >= 1, ">= 1"),
            "importance_cap": (self.importance_cap is None or self.importance_cap > 0, "> 0"),
        }


def one_of(value: str, *known: str) -> tuple[bool, str]:
    """The rule of a field with named choices."""
    return value in known, " or ".join(f'"{name}"' for name in known)


#: The choices of the papers. Learning rates and batch sizes are left to the model at hand.
PRESETS: dict[str, dict[str, Any]] = {
    # arXiv:2402.03300v3, section 4.2.
    "grpo": {"loss_average": "sequence", "kl_coef": 0.04, "kl_corrected": False},
    # arXiv:2402.03300v3, section 4.1.3; give the environment a process reward.
    "grpo_process": {"loss_average": "sequence", "kl_coef": 0.04, "kl_corrected": False, "supervision": "process"},
    # arXiv:2503.20783v1, section 3.
    "dr_grpo": {"advantages": "mean", "loss_average": "constant"},
    # arXiv:2503.14476v1, section 3.
    "dapo": {"loss_average": "token", "clip_range_high": 0.28, "dynamic_sampling": 4, "overlong": "penalty"},
    # arXiv:2402.14740v2, section 3.3: REINFORCE, so one step on each rollout.
    "rloo": {
        "advantages": "leave_one_out", "loss_average": "constant", "kl_coef": 0.03, "kl_estimator": "k1",
        "kl_in": "reward", "n_minibatches": 1,
    },
    # arXiv:2507.18071v2, section 5.1.
    "gspo": {"policy_loss": "gspo", "loss_average": "sequence", "clip_range": 3e-4, "clip_range_high": 4e-4},
    # arXiv:2506.13585v1, section 3.1: bounded from above only.
    "cispo": {"policy_loss": "cispo", "loss_average": "token"},
    # Ranks in place of returns.
    "rank": {"advantages": "rank"},
}  # fmt: skip


class GRPO(Agent):
    """A policy that learns by comparing its own responses.

    Example::

        agent = GRPO("tiny-reasoner", "llmgym/MathReason-v0", group_size=8)
        agent.learn(max_seconds=60)
        print(agent.evaluate(n_problems=200))
    """

    __doc__ += "".join(Agent.__doc__.partition("\n    Args:")[1:]) if Agent.__doc__ else ""
    algorithm = "grpo"
    config_class = GRPOConfig
    config: GRPOConfig

    def _n_episodes(self) -> int:
        return self.config.group_size * self.config.problems_per_iteration

    def _build(self) -> None:
        config = self.config
        self.reference = self.policy.frozen_copy() if config.kl_coef > 0 else None
        self.optimizer = self._optimizer(self.policy.model.parameters(), config.learning_rate)
        #: L_max of an overlong penalty, and the constant of Dr. GRPO's average.
        self._max_response_tokens = config.max_response_tokens or self.training_envs.width

    # -- algorithm 1 -------------------------------------------------------------------------------------------------

    def collect(self) -> tuple[RolloutBatch, dict[str, Any]]:
        """Lines 5 to 7: responses of the current policy, which is the old policy of the ratio, and their rewards."""
        config = self.config
        batch = self._play(config.problems_per_iteration)
        if not config.dynamic_sampling:
            return batch, {}
        kept, n_played, n_timesteps = [], len(batch), batch.n_timesteps
        for _ in range(config.dynamic_sampling):
            kept.append(batch.select(self._rows(np.flatnonzero(self._signal(batch)))))
            missing = config.problems_per_iteration - sum(map(len, kept)) // config.group_size
            if missing == 0:
                break
            batch = self._play(missing)
            n_played, n_timesteps = n_played + len(batch), n_timesteps + batch.n_timesteps
        else:  # the bound is reached: the last groups stay as they are
            kept.append(batch)
        batch = RolloutBatch.concatenate(kept)
        return batch, {
            "rollout/replaced_groups": (n_played - len(batch)) // config.group_size,
            "rollout/replaced_timesteps": n_timesteps - batch.n_timesteps,
        }

    def _play(self, n_problems: int) -> RolloutBatch:
        size, seed = self.config.group_size, int(self._rng.integers(2**31))
        return collect(self.envs, self.policy, group_size=size, n_groups=n_problems, seed=seed)

    def _rows(self, groups: Ints) -> Ints:
        """Rows of the responses of ``groups``."""
        return (groups[:, None] * self.config.group_size + np.arange(self.config.group_size)).reshape(-1)

    def update(self, batch: RolloutBatch, budget_spent: float = 0.0) -> dict[str, Any]:
        """Lines 8 to 10: advantages, then the optimiser steps."""
        config = self.config
        data = RolloutTensors(batch, self.policy.device)
        if self.reference is not None:
            data.ref_logprobs = self._logprobs(self.reference, data)
        if config.importance_cap is not None:
            data.old_logprobs = self._logprobs(self.policy, data)
        if config.overlong == "mask":
            data.mask_out(batch.truncated)
        data.advantages = self._advantages(data)
        teaches = self._signal(batch)
        always = config.ent_coef > 0 or (self.reference is not None and config.kl_in == "loss")
        needed = data.advantages.ne(0).view(len(teaches), -1).any(1).cpu().numpy() | always
        self.optimizer.set_learning_rate(config.learning_rate * self._rate_factor(budget_spent))

        metrics = StepMetrics()
        for _ in range(config.n_epochs):
            # Whole groups, so that a prompt is computed once for all its responses.
            for groups in data.minibatches(config.n_minibatches, self._rng):
                self._step(data, groups, needed, metrics)
        return {
            **metrics.means(),
            "train/groups_with_signal": float(teaches.mean()),
            "train/learning_rate": self.optimizer.learning_rate,
        }

    def _signal(self, batch: RolloutBatch) -> Bools:
        """Which groups can teach: ``(P,)``."""
        size = self.config.group_size
        returns = torch.as_tensor(batch.episode_returns).view(-1, size)
        teaches: Bools = groups_with_signal(returns).numpy()
        if self.config.supervision == "process":  # equal sums may be earned at different steps
            paid = np.sort(np.where(batch.response_mask, batch.rewards, 0.0).reshape(len(returns), -1), axis=1)
            teaches = teaches | (np.ptp(paid, axis=1) > 1e-6)
        return teaches

    def _advantages(self, data: RolloutTensors) -> torch.Tensor:
        """``(B, T)``: sections 4.1.2 and 4.1.3, of rewards less what is charged for KL and length."""
        config, mask = self.config, data.response_mask
        rewards = data.rewards
        if self.reference is not None and config.kl_in == "reward":
            charge = kl_estimate(data.old_logprobs, data.ref_logprobs, config.kl_estimator)
            rewards = rewards - config.kl_coef * torch.where(mask, charge, 0.0)
        returns = masked_sum(rewards, mask, dim=1)  # (B,)
        if config.overlong == "penalty":
            returns = returns + soft_overlong_penalty(
                mask.sum(1), max_tokens=self._max_response_tokens, cache_tokens=config.overlong_tokens
            )
        if config.supervision == "process":
            if data.step_index is None:
                raise InvalidOptionError(
                    "Expected an environment whose infos hold n_reasoning_steps (process supervision pays by reasoning "
                    'step), actual: none. Use supervision="outcome", or an environment of llmgym.'
                )
            return process_advantages(rewards, mask, data.step_index, group_size=config.group_size).float()
        grouped = group_advantages(returns.view(-1, config.group_size), normalization=config.advantages)
        return (grouped.view(-1, 1) * mask).float()

    def _step(self, data: RolloutTensors, groups: Ints, needed: Bools, metrics: StepMetrics) -> None:
        """One optimiser step on the responses of ``groups``."""
        rows = self._rows(groups)
        n_tokens = int(data.loss_mask[torch.as_tensor(rows, device=data.device)].sum())
        groups = groups[needed[groups]]
        if len(groups) == 0 or n_tokens == 0:  # nothing in it could teach anything
            return
        self.optimizer.zero_grad()
        prompt_ids, prompt_lengths = data.prompts(groups)
        states = self.policy.prompt_states(prompt_ids, prompt_lengths)
        leaves = states.detached()
        metrics.begin()
        for part in data.microbatches(groups, self._microbatch_tokens):
            # The denominators are those of the whole minibatch, however it is cut.
            loss = self._loss(data, part, (prompt_ids, prompt_lengths, leaves), len(rows), n_tokens, metrics)
            loss.backward()  # type: ignore[no-untyped-call]
        states.backward(leaves)
        metrics.end(grad_norm=self.optimizer.step())

    def _loss(
        self,
        data: RolloutTensors,
        part: Microbatch,
        prompts: tuple[torch.Tensor, torch.Tensor, PromptStates],
        n_sequences: int,
        n_tokens: int,
        metrics: StepMetrics,
    ) -> torch.Tensor:
        """This microbatch's share of eq. 3, negated."""
        config = self.config
        cut = data.cut(part)
        prompt_ids, prompt_lengths, leaves = prompts
        scores = self.policy.logprobs(
            prompt_ids,
            prompt_lengths,
            cut.response_ids,
            cut.response_mask,
            prompts=leaves,
            prompt_index=part.prompt_index,
            allowed=cut.allowed,
            with_entropy=True,
        )
        assert scores.entropy is not None
        loss = self._policy_loss(scores.logprobs, cut.old_logprobs, cut.advantages, cut.loss_mask)
        if config.importance_cap is not None:
            loss = loss * truncated_importance_weights(
                cut.old_logprobs, cut.sampler_logprobs, cap=config.importance_cap
            )
        if self.reference is not None:
            penalty = kl_estimate(scores.logprobs.detach(), cut.ref_logprobs, config.kl_estimator)
            metrics.add("kl_to_ref", penalty, cut.loss_mask)
            if config.kl_in == "loss":
                loss = loss + config.kl_coef * kl_loss(
                    scores.logprobs,
                    cut.old_logprobs,
                    cut.ref_logprobs,
                    estimator=config.kl_estimator,
                    corrected=config.kl_corrected,
                )
        if config.ent_coef > 0:
            loss = loss - config.ent_coef * scores.entropy
        metrics.add_policy(scores, cut, config.clip_range, config.clip_range_high)
        share = average_tokens(
            loss,
            cut.loss_mask,
            how=config.loss_average,
            n_sequences=n_sequences,
            n_tokens=n_tokens,
            max_tokens=self._max_response_tokens,
        )
        metrics.add_share("loss", share)
        return share

    def _policy_loss(
        self, logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """``(b, T)``: the surrogate of eq. 3, of GSPO or of CISPO, negated."""
        low, high = self.config.clip_range, self.config.clip_range_high
        if self.config.policy_loss == "clip":
            return clipped_policy_loss(logprobs, old_logprobs, advantages, clip_range=low, clip_range_high=high)
        if self.config.policy_loss == "gspo":
            return gspo_loss(logprobs, old_logprobs, advantages, mask, clip_range=low, clip_range_high=high)
        return cispo_loss(logprobs, old_logprobs, advantages, clip_range=None, clip_range_high=high or low)

    @torch.no_grad()
    def _logprobs(self, policy: Policy, data: RolloutTensors) -> torch.Tensor:
        """``(B, T)`` log-probabilities of the rollout's tokens under a policy, without gradient."""
        result = torch.zeros_like(data.old_logprobs)
        groups = np.arange(len(data.batch) // self.config.group_size)
        prompt_ids, prompt_lengths = data.prompts(groups)
        states = policy.prompt_states(prompt_ids, prompt_lengths)
        for part in data.microbatches(groups, self._microbatch_tokens):
            cut = data.cut(part)
            result[part.rows, : part.width] = policy.logprobs(
                prompt_ids,
                prompt_lengths,
                cut.response_ids,
                cut.response_mask,
                prompts=states,
                prompt_index=part.prompt_index,
                allowed=cut.allowed,
            ).logprobs
        return result

    def _set_forbidden(self, forbidden: Mapping[int, Sequence[int]]) -> None:
        super()._set_forbidden(forbidden)
        if self.reference is not None:
            self.reference.forbidden = forbidden


# -- command line -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainOptions(RunOptions, EnvKeywords, GRPOConfig):
    """Train a model with GRPO on an environment, evaluate it on held-out problems, save it.

    Attributes:
        preset: The choices of a paper, where an option is not given: see PRESETS.
    """

    preset: str | None = None
