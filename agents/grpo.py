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

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch

from llmgym.agents.advantages import group_advantages, groups_with_signal, process_advantages, soft_overlong_penalty
from llmgym.agents.config import Rules
from llmgym.agents.losses import (
    cispo_loss,
    clipped_policy_loss,
    gspo_loss,
    sequence_logratio,
    truncated_importance_weights,
)
from llmgym.agents.masking import average_tokens, masked_mean, masked_sum
from llmgym.agents.minibatches import RolloutTensors, TokenTensors
from llmgym.agents.passes import Inputs, backward
from llmgym.agents.policy_gradient import PolicyGradientAgent, PolicyGradientConfig, one_of
from llmgym.agents.rollout_batches import Bools, Ints, RolloutBatch
from llmgym.agents.rollout_metrics import check_rewards
from llmgym.agents.rollouts import collect
from llmgym.agents.step_metrics import StepMetrics
from llmgym.agents.training import RunOptions, main
from llmgym.errors import InvalidOptionError, unknown_name
from llmgym.keywords import EnvKeywords


@dataclass(frozen=True)
class GRPOConfig(PolicyGradientConfig):
    """Hyperparameters of GRPO and its family; further ones in
    :class:`~llmgym.agents.policy_gradient.PolicyGradientConfig` and :class:`~llmgym.agents.config.AgentConfig`.

    Attributes:
        group_size: G, responses to each problem. More: steadier advantages, fewer problems. Usual: 4 to 64 (paper).
        problems_per_iteration: Problems posed before each update. More: steadier gradient. Usual: 16 to 512.
        advantages: "z_score" (section 4.1.2), "mean" (Dr. GRPO: hard and easy problems weigh as they are), "rank" (only
            the order of the returns counts) or "leave_one_out" (RLOO: against the mean of the others).
        supervision: "outcome" (section 4.1.2) or "process" (section 4.1.3: each reasoning step's reward, z-scored over
            the group, pays for the tokens up to it).
        policy_loss: "clip" (eq. 3), "gspo" (one ratio for a response) or "cispo" (the ratio is a clipped weight, and no
            token loses its gradient).
        dynamic_sampling: Further rounds of sampling in which groups without signal are replaced (DAPO). 0: they stay.
        overlong: Responses that a budget cut off: "keep"; "mask" (left out of the loss and of its denominators) or
            "penalty" (DAPO eq. 13: up to 1 less return over the last overlong_tokens before max_response_tokens, which
            must be given).
        overlong_tokens: L_cache of DAPO eq. 13.
        importance_cap: Tokens weigh min(pi_learner / pi_sampler, cap), for a sampler whose probabilities differ from
            the learner's. None: the sampler's are taken for the learner's. Usual: 2.
    """

    run_dir: str | None = "runs/grpo"
    group_size: int = 8
    problems_per_iteration: int = 32
    advantages: Literal["z_score", "mean", "rank", "leave_one_out"] = "z_score"
    supervision: Literal["outcome", "process"] = "outcome"
    policy_loss: Literal["clip", "gspo", "cispo"] = "clip"
    loss_average: Literal["sequence", "token", "constant"] = "token"
    dynamic_sampling: int = 0
    overlong: Literal["keep", "mask", "penalty"] = "keep"
    overlong_tokens: int = 32
    importance_cap: float | None = None

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Self:
        """The choices of a paper, by name: see ``PRESETS``.

        Example:
            >>> GRPOConfig.preset("dr_grpo", group_size=16).advantages
            'mean'

        Raises:
            InvalidOptionError: If there is no such preset.
        """
        if name not in PRESETS:
            raise unknown_name("a preset", name, list(PRESETS))
        return cls(**(PRESETS[name] | overrides))

    def rules(self) -> Rules:
        """What each field has to hold."""
        reach = self.max_response_tokens
        first: Rules = {"problems_per_iteration": (self.problems_per_iteration >= 1, ">= 1")}
        return (
            first
            | super().rules()
            | {
                "group_size": (self.group_size >= 2, ">= 2 (advantages compare responses to one problem)"),
                "num_envs": (
                    self.num_envs is None or (self.num_envs > 0 and self.num_envs % self.group_size == 0),
                    f"a positive multiple of group_size={self.group_size}",
                ),
                "n_minibatches": (
                    1 <= self.n_minibatches <= self.problems_per_iteration,
                    f"in [1, problems_per_iteration={self.problems_per_iteration}] (groups are not divided)",
                ),
                "supervision": one_of(self.supervision, "outcome", "process"),
                "advantages": (
                    one_of(self.advantages, "z_score")
                    if self.supervision == "process"  # section 4.1.3 has no other
                    else one_of(self.advantages, "z_score", "mean", "rank", "leave_one_out")
                ),
                "policy_loss": one_of(self.policy_loss, "clip", "gspo", "cispo"),
                "dynamic_sampling": (self.dynamic_sampling >= 0, ">= 0"),
                "overlong": (
                    one_of(self.overlong, "keep", "mask")
                    if self.supervision == "process"  # the penalty is part of the return
                    else one_of(self.overlong, "keep", "mask", "penalty")
                ),
                "max_response_tokens": (
                    reach is not None if self.overlong == "penalty" else reach is None or reach >= 1,
                    'the budget of new tokens (overlong="penalty" needs it)' if reach is None else ">= 1",
                ),
                "overlong_tokens": (
                    self.overlong_tokens >= 1 and (self.overlong != "penalty" or self.overlong_tokens <= (reach or 0)),
                    f"in [1, max_response_tokens={reach}]",
                ),
                "importance_cap": (self.importance_cap is None or self.importance_cap > 0, "> 0"),
            }
        )


#: The choices of the papers. Learning rates and batch sizes are left to the model at hand.
PRESETS: dict[str, dict[str, Any]] = {
    # arXiv:2402.03300v3, section 4.2: one update for each exploration.
    "grpo": {"loss_average": "sequence", "kl_coef": 0.04, "kl_corrected": False, "n_minibatches": 1},
    # arXiv:2402.03300v3, section 4.1.3; give the environment a process reward.
    "grpo_process": {
        "loss_average": "sequence", "kl_coef": 0.04, "kl_corrected": False, "n_minibatches": 1,
        "supervision": "process",
    },
    # arXiv:2503.20783v1, section 3.
    "dr_grpo": {"advantages": "mean", "loss_average": "constant"},
    # arXiv:2503.14476v1, section 3. Its overlong penalty (eq. 13) needs the environment's budget of new tokens:
    # add overlong="penalty", max_response_tokens=... for that in place of the mask.
    "dapo": {"loss_average": "token", "clip_range_high": 0.28, "dynamic_sampling": 4, "overlong": "mask"},
    # arXiv:2402.14740v2, section 3.3: REINFORCE, so one step on each rollout.
    "rloo": {
        "advantages": "leave_one_out", "loss_average": "constant", "kl_coef": 0.03, "kl_estimator": "k1",
        "kl_in": "reward", "n_minibatches": 1,
    },
    # arXiv:2507.18071v2, section 5.1.
    "gspo": {"policy_loss": "gspo", "loss_average": "sequence", "clip_range": 3e-4, "clip_range_high": 4e-4},
    # arXiv:2506.13585v1, section 3.1: bounded from above only, here by the default range. What the paper takes over
    # from DAPO beside it is left to further options.
    "cispo": {"policy_loss": "cispo", "loss_average": "token"},
    # Ranks in place of returns.
    "rank": {"advantages": "rank"},
}  # fmt: skip


class GRPO(PolicyGradientAgent):
    """A policy that learns by comparing its own responses. Arguments and attributes: :class:`~llmgym.agents.Agent`.

    Example::

        agent = GRPO("tiny-reasoner", "llmgym/MathReason-v0", group_size=8)
        agent.learn(max_seconds=60)
        print(agent.evaluate(n_problems=200))
    """

    algorithm = "grpo"
    config_class = GRPOConfig
    config: GRPOConfig

    def _n_episodes(self) -> int:
        return self.config.group_size * self.config.problems_per_iteration

    # -- algorithm 1, lines 5 to 7: responses of the current policy, which is the old policy of the ratio ------------

    def collect(self) -> tuple[RolloutBatch, dict[str, Any]]:
        """Sample a group of responses to each problem; with dynamic sampling, until every group can teach."""
        n_problems, size = self.config.problems_per_iteration, self.config.group_size
        batch = self._play(n_problems)
        if not self.config.dynamic_sampling:
            return batch, {}
        played, kept = [batch], []
        for _ in range(self.config.dynamic_sampling):
            kept.append(batch.select(np.repeat(self._teaches(batch), size)))
            missing = n_problems - sum(map(len, kept)) // size
            if missing == 0:
                break
            batch = self._play(missing)
            played.append(batch)
        else:  # the bound is reached: what the last round gave stays as it is
            kept.append(batch)
        chosen = RolloutBatch.concatenate(kept)
        return chosen, {
            "rollout/replaced_groups": (sum(map(len, played)) - len(chosen)) // size,
            "rollout/replaced_timesteps": sum(batch.n_timesteps for batch in played) - chosen.n_timesteps,
        }

    def _play(self, n_problems: int) -> RolloutBatch:
        seed = int(self._rng.integers(2**31))
        batch = collect(self.envs, self.policy, group_size=self.config.group_size, n_groups=n_problems, seed=seed)
        check_rewards(batch)  # before a group that earned NaN could pass for one without signal
        return batch

    def _teaches(self, batch: RolloutBatch) -> Bools:
        """``(P,)``: which groups have responses that earned different rewards, as DAPO's eq. 11 asks."""
        teaches: Bools
        if self.config.supervision == "process":
            data = RolloutTensors(batch, torch.device("cpu"))
            teaches = self._by_step(data, data.rewards).ne(0).view(data.n_groups, -1).any(1).numpy()
        else:
            teaches = groups_with_signal(torch.from_numpy(batch.episode_returns).view(-1, batch.group_size)).numpy()
        return teaches

    # -- lines 8 to 10: advantages, then the optimiser steps ---------------------------------------------------------

    def update(self, batch: RolloutBatch, budget_spent: float = 0.0) -> dict[str, Any]:
        """Compare the responses of each group, and move the policy."""
        config = self.config
        data = RolloutTensors(batch, self.policy.device)
        if self.reference is not None:
            data.ref_logprobs = self._reference_logprobs(data)
        if config.importance_cap is not None:
            data.old_logprobs = self._logprobs(self.policy, data)
        if config.overlong == "mask":
            data.mask_out(batch.truncated)
        data.advantages = self._advantages(data)
        teaches = (data.advantages.ne(0) & data.loss_mask).view(data.n_groups, -1).any(1).cpu().numpy()
        # The other groups' surrogate is 0 throughout.
        needed = teaches | (config.ent_coef > 0) | (self.reference is not None and config.kl_in == "loss")
        self.optimizer.set_learning_rate(config.learning_rate * self._rate_factor(budget_spent))

        metrics = StepMetrics()
        for _ in range(config.n_epochs):
            # Whole groups, so that a prompt is computed once for all its responses.
            for groups in data.minibatches(min(config.n_minibatches, data.n_groups), self._rng):
                self._step(data, groups, needed, metrics)
        return {
            **metrics.means(),
            "train/groups_with_signal": float(teaches.mean()),
            "train/learning_rate": self.optimizer.learning_rate,
        }

    def _advantages(self, data: RolloutTensors) -> torch.Tensor:
        """``(B, T)``: sections 4.1.2 and 4.1.3, of rewards less what is charged for KL and for length."""
        config, mask = self.config, data.response_mask
        rewards = self._charged(data, config.kl_coef)
        if config.supervision == "process":
            return self._by_step(data, rewards)
        returns = masked_sum(rewards, mask, dim=1)  # (B,)
        if config.overlong == "penalty":
            returns = returns + soft_overlong_penalty(
                mask.sum(1), max_tokens=self.max_response_tokens, cache_tokens=config.overlong_tokens
            )
        grouped = returns.view(-1, config.group_size)
        advantages = group_advantages(grouped, normalization=config.advantages)
        # What differs by rounding alone would be a whole rank, or a large z-score.
        advantages = advantages * groups_with_signal(grouped)[:, None]
        return data.per_token(advantages.flatten())

    def _by_step(self, data: RolloutTensors, rewards: torch.Tensor) -> torch.Tensor:
        """``(B, T)``: section 4.1.3."""
        if data.step_index is None:
            raise InvalidOptionError(
                'Expected infos with "n_reasoning_steps" (process supervision pays by reasoning step), actual: none. '
                'Use supervision="outcome", or a language environment of llmgym.'
            )
        return process_advantages(rewards, data.response_mask, data.step_index, group_size=data.batch.group_size)

    def _step(self, data: RolloutTensors, groups: Ints, needed: Bools, metrics: StepMetrics) -> None:
        """One optimiser step on the responses of ``groups``."""
        rows = torch.as_tensor(data.rows(groups), device=data.device)
        counted = data.loss_mask[rows]
        n_sequences, n_tokens = int(counted.any(1).sum()), int(counted.sum())
        groups = groups[needed[groups]]
        if len(groups) == 0 or n_tokens == 0:  # nothing in it could teach anything
            return

        def loss(cut: TokenTensors, inputs: Inputs) -> torch.Tensor:
            """This microbatch's share of eq. 3, negated. The denominators are those of the whole minibatch."""
            scores = self._scores(cut, inputs)
            surrogate = self._policy_loss(scores.logprobs, cut)
            per_token = self._regularised(surrogate, scores, cut, self.config.kl_coef, metrics)
            share = average_tokens(
                per_token,
                cut.loss_mask,
                how=self.config.loss_average,
                n_sequences=n_sequences,
                n_tokens=n_tokens,
                max_tokens=self.max_response_tokens,
            )
            metrics.add_share("loss", share)
            return share

        metrics.begin()
        self.optimizer.zero_grad()
        padding_share = backward(loss, self.policy, data, groups, self._microbatch_tokens)
        metrics.end(grad_norm=self.optimizer.step(), padding_share=padding_share)

    def _policy_loss(self, logprobs: torch.Tensor, cut: TokenTensors) -> torch.Tensor:
        """``(b, T)``: the surrogate of eq. 3, of GSPO or of CISPO, negated."""
        config, old_logprobs, advantages = self.config, cut.old_logprobs, cut.advantages
        low, high = config.clip_range, config.clip_range_high
        if config.policy_loss == "clip":
            loss = clipped_policy_loss(logprobs, old_logprobs, advantages, clip_range=low, clip_range_high=high)
        elif config.policy_loss == "gspo":
            mask = cut.response_mask
            loss = gspo_loss(logprobs, old_logprobs, advantages, mask, clip_range=low, clip_range_high=high)
        else:  # CISPO bounds the weight from above only
            loss = cispo_loss(logprobs, old_logprobs, advantages, clip_range=None, clip_range_high=high or low)
        if config.importance_cap is None:
            return loss
        return loss * truncated_importance_weights(old_logprobs, cut.sampler_logprobs, cap=config.importance_cap)

    def _clip_fraction(self, logprobs: torch.Tensor, cut: TokenTensors) -> torch.Tensor | None:
        config, old_logprobs = self.config, cut.old_logprobs
        if config.policy_loss == "cispo":  # no gradient stops; what counts is how many weights are bounded
            bound = 1.0 + (config.clip_range_high or config.clip_range)
            return masked_mean(((logprobs - old_logprobs).exp() > bound).float(), cut.loss_mask)
        if config.policy_loss == "gspo":  # the ratio that is clipped is the response's
            logprobs = old_logprobs + sequence_logratio(logprobs, old_logprobs, cut.response_mask)
        return super()._clip_fraction(logprobs, cut)


# -- command line -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainOptions(RunOptions, EnvKeywords, GRPOConfig):
    """Train a model with GRPO on an environment, evaluate it on held-out problems, save it."""


if __name__ == "__main__":
    main(GRPO, TrainOptions)
