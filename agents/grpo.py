"""Group relative policy optimisation: algorithm 1 of DeepSeekMath, outcome supervision.

Several responses are sampled for each problem; a response is as good as it is better than its group. No value function.

Source: Shao et al., "DeepSeekMath", arXiv:2402.03300v3. ``eq.`` below are equations there.

Departures:

1. One iteration only: the reference policy is the initial policy throughout (the paper's outer loop replaces it).
2. The z-score divides by the standard deviation over the group plus 1e-4 (``advantages="mean"``: not at all).
3. ``loss_average``: besides ``1/|o_i|`` for each response (eq. 3), all tokens alike, or a constant. That constant is
   the width of an observation (prompt and response together), where Dr. GRPO (arXiv:2503.20783) divides by the bound
   on the response alone: the same gradient but for one constant factor.
4. Tokens that the environment wrote are part of the state, and of no sum.
5. Groups whose returns are all equal have advantage 0; without a KL term they are left out of the forward pass.
6. Dropout stays off, in sampling and in learning, so the first ratio is 1 up to rounding.

Run ``python -m llmgym.agents.grpo --help`` for its options.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import VectorizeMode
from gymnasium.vector import VectorEnv
from transformers import PreTrainedModel

import llmgym  # noqa: F401  (registers the environments)
from llmgym.agents.advantages import group_advantages, groups_with_signal
from llmgym.agents.evaluation import Evaluation, evaluate
from llmgym.agents.losses import approx_kl, clip_fraction, clipped_policy_loss, kl_to_ref
from llmgym.agents.masking import average_tokens, masked_mean
from llmgym.agents.metrics import MetricsLog
from llmgym.agents.minibatches import Microbatch, RolloutTensors
from llmgym.agents.optimizers import MixedPrecisionAdamW
from llmgym.agents.policies import Policy
from llmgym.agents.progress import progress_line
from llmgym.agents.prompt_states import PromptStates
from llmgym.agents.rollouts import Bools, Ints, RolloutBatch, check_spaces, collect
from llmgym.agents.saving import AGENT_FILE, aside, put_in_place
from llmgym.errors import InvalidOptionError
from llmgym.keywords import EnvKeywords, parse_keywords
from llmgym.registration import find_spec, load_entry_point, takes_keyword

#: Told of the agent and the metrics after each iteration; ``False`` stops the training.
Callback = Callable[["GRPO", Mapping[str, Any]], bool | None]


@dataclass(frozen=True)
class GRPOConfig:
    """Hyperparameters.

    Attributes:
        group_size: G, responses to each problem. More: steadier advantages, fewer problems. Usual: 4 to 64 (paper).
        problems_per_iteration: Problems posed before each update. More: steadier gradient. Usual: 16 to 512.
        num_envs: Slots of the vector environment, a multiple of group_size. None: a slot for each response.
        learning_rate: Step size of AdamW. Usual: 1e-6 for billions of parameters (paper), 1e-4 to 1e-3 for a million.
        warmup_iterations: Iterations over which the learning rate rises from 0. More: a safer start. Usual: 0 to 20.
        final_learning_rate: Share of the learning rate left at the end of the budget, falling linearly. 1: constant.
        weight_decay: Of AdamW. Usual: 0 in reinforcement learning.
        adam_betas: Of AdamW. A lower second one follows the gradient's scale faster. Usual: (0.9, 0.95 to 0.999).
        max_grad_norm: Gradients longer than this are scaled down to it. Usual: 0.1 to 1.
        n_epochs: Passes over a rollout (mu in the paper). More: each rollout is used more, off-policy. Usual: 1 to 4.
        n_minibatches: Optimiser steps in each pass. More: further off-policy. Usual: 1 to 8.
        microbatch_tokens: Padded tokens in one forward pass: memory and speed, never the result. None: 2048 on a CPU
            (little padding, fits its caches), 32768 on a GPU.
        clip_range: Where the ratio is clipped (epsilon of eq. 3). Usual: 0.1 to 0.2.
        clip_range_high: The same above 1; higher lets rare tokens grow. None: clip_range. Usual: up to 0.28 (DAPO).
        kl_coef: Weight of the KL penalty to the reference (beta of eq. 3). 0: no reference is kept. Usual: 0 to 0.04.
        advantages: "z_score" (eq. of section 4.1.2) or "mean" (Dr. GRPO: hard and easy problems weigh as they are).
        loss_average: "sequence" (eq. 3), "token" (DAPO: long responses weigh more) or "constant" (Dr. GRPO, but
            for the value of that constant: departure 3).
        temperature: Of the policy, in sampling and learning. Higher: more exploration. Usual: 1.
        seed: Of problems, sampling and minibatches.
        log_dir: Folder of metrics.jsonl. None: no log.
    """

    group_size: int = 8
    problems_per_iteration: int = 32
    num_envs: int | None = None
    learning_rate: float = 3e-4
    warmup_iterations: int = 5
    final_learning_rate: float = 0.05
    weight_decay: float = 0.0
    adam_betas: tuple[float, float] = (0.9, 0.99)
    max_grad_norm: float = 1.0
    n_epochs: int = 1
    n_minibatches: int = 4
    microbatch_tokens: int | None = None
    clip_range: float = 0.2
    clip_range_high: float | None = None
    kl_coef: float = 0.0
    advantages: Literal["z_score", "mean"] = "z_score"
    loss_average: Literal["sequence", "token", "constant"] = "token"
    temperature: float = 1.0
    seed: int = 0
    log_dir: str | None = "runs/grpo"

    def __post_init__(self) -> None:
        """Refuse numbers that cannot work."""
        rules: dict[str, tuple[bool, str]] = {
            "group_size": (self.group_size >= 2, ">= 2 (advantages compare responses to one problem)"),
            "problems_per_iteration": (self.problems_per_iteration >= 1, ">= 1"),
            "num_envs": (
                self.num_envs is None or (self.num_envs > 0 and self.num_envs % self.group_size == 0),
                f"a positive multiple of group_size={self.group_size}",
            ),
            "learning_rate": (self.learning_rate > 0, "> 0"),
            "warmup_iterations": (self.warmup_iterations >= 0, ">= 0"),
            "final_learning_rate": (0 <= self.final_learning_rate <= 1, "in [0, 1]"),
            "max_grad_norm": (self.max_grad_norm > 0, "> 0"),
            "n_epochs": (self.n_epochs >= 1, ">= 1"),
            "n_minibatches": (
                1 <= self.n_minibatches <= self.problems_per_iteration,
                f"in [1, problems_per_iteration={self.problems_per_iteration}] (groups are not divided)",
            ),
            "microbatch_tokens": (self.microbatch_tokens is None or self.microbatch_tokens >= 1, ">= 1"),
            "clip_range": (0 < self.clip_range < 1, "in (0, 1)"),
            "clip_range_high": (self.clip_range_high is None or self.clip_range_high > 0, "> 0"),
            "kl_coef": (self.kl_coef >= 0, ">= 0"),
            "advantages": (self.advantages in ("z_score", "mean"), '"z_score" or "mean"'),
            "loss_average": (
                self.loss_average in ("sequence", "token", "constant"),
                '"sequence", "token" or "constant"',
            ),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise InvalidOptionError(f"Expected {name} to be {rule}, actual: {getattr(self, name)!r}. Change it.")


class GRPO:
    """A policy that learns by comparing its own responses.

    Args:
        policy: ``"tiny-reasoner"``, a folder, a hub name, a transformers model, or a :class:`Policy`, whose temperature
            and seed become those of ``config``.
        env: Id of an environment, or a vector environment with token actions. An id is made with the policy's
            tokenizer, if it has one, and with autoreset disabled, unless ``env_kwargs`` or its registration says
            otherwise: each where the entry point takes it, by name or as a language environment that passes further
            keyword arguments on. Autoreset is disabled in native vector environments only.
        config: Hyperparameters; ``None``: the defaults.
        env_kwargs: Keyword arguments of the environment, where ``env`` is an id.
        **overrides: Fields of :class:`GRPOConfig` that differ from ``config``.

    Example::

        agent = GRPO("tiny-reasoner", "llmgym/MathReason-v0", group_size=8)
        agent.learn(max_seconds=60)
        print(agent.evaluate(n_problems=200))

    Attributes:
        n_timesteps: Tokens that the policy has written in training.
        n_iterations: Times that it collected a rollout and updated on it.
        env_seconds: Wall time spent inside the environment in training.
        train_seconds: Wall time of training, evaluations by callbacks left out.
    """

    def __init__(
        self,
        policy: str | Path | PreTrainedModel | Policy,
        env: str | VectorEnv[Any, Any, Any],
        config: GRPOConfig | None = None,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> None:
        self.config = replace(config or GRPOConfig(), **_known_fields(overrides))
        self.policy = Policy.load(policy)
        self.policy.temperature = self.config.temperature
        self.policy.generator.manual_seed(self.config.seed)
        self.env_kwargs = dict(env_kwargs or {})
        if isinstance(env, str):
            self.env_id: str | None = env
            if "num_envs" in self.env_kwargs:
                raise InvalidOptionError(
                    f"Expected no 'num_envs' in env_kwargs, actual: {self.env_kwargs['num_envs']!r}. "
                    "Pass it as a field of GRPOConfig."
                )
            if self.policy.tokenizer is not None and self._takes("tokenizer"):
                own_tokenizer = str(policy) if isinstance(policy, (str, Path)) else self.policy.tokenizer
                self.env_kwargs.setdefault("tokenizer", own_tokenizer)
            n_responses = self.config.group_size * self.config.problems_per_iteration
            self.envs = self._make_envs(self.config.num_envs or n_responses)
        else:
            self.envs = env
            # A wrapper (of rewards, say) is not in the spec: another environment of that id would be a different one.
            self.env_id = env.spec.id if env.spec is not None and env is env.unwrapped else None
            if env.spec is not None:
                own = ("num_envs", "vectorization_mode", "vector_kwargs", "autoreset_mode")  # of that instance alone
                self.env_kwargs = {key: value for key, value in env.spec.kwargs.items() if key not in own}
        self._width, n_actions = check_spaces(self.envs)
        if self.policy.tokenizer is not None and self.policy.tokenizer.vocab_size != n_actions:
            raise InvalidOptionError(
                f"Expected an environment with the policy's own vocabulary of {self.policy.tokenizer.vocab_size}, "
                f"actual: {n_actions}. Make it with the policy's tokenizer."
            )
        self.policy.n_actions = n_actions  # before the reference is copied: both have one distribution
        if self.policy.tokenizer is None:  # to show text, and to be saved with the model
            self.policy.tokenizer = getattr(self.envs.unwrapped, "tokenizer", None)
        self.reference = self.policy.frozen_copy() if self.config.kl_coef > 0 else None
        self.optimizer = MixedPrecisionAdamW(
            self.policy.model.parameters(),
            learning_rate=self.config.learning_rate,
            betas=self.config.adam_betas,
            weight_decay=self.config.weight_decay,
            max_grad_norm=self.config.max_grad_norm,
        )
        self.log = MetricsLog(self.config.log_dir)
        self.n_timesteps = 0
        self.n_iterations = 0
        self.env_seconds = 0.0
        self.train_seconds = 0.0
        self._rng = np.random.default_rng(self.config.seed)
        self._first_iteration = 0  # of this optimiser; see _learning_rate
        on_cpu = self.policy.device.type == "cpu"
        self._microbatch_tokens = self.config.microbatch_tokens or (2048 if on_cpu else 32_768)

    def _make_envs(self, num_envs: int, **changes: Any) -> VectorEnv[Any, Any, Any]:
        assert self.env_id is not None
        kwargs = self.env_kwargs | changes
        if self._takes("autoreset_mode"):
            kwargs = {"autoreset_mode": "disabled"} | kwargs
        return gym.make_vec(self.env_id, num_envs=num_envs, **kwargs)

    def _takes(self, keyword: str) -> bool:
        """Whether what makes the environment takes a keyword argument that its registration leaves open."""
        assert self.env_id is not None
        spec = find_spec(self.env_id)
        if spec is None or keyword in spec.kwargs:  # if unknown, Gymnasium will say so
            return False
        mode = VectorizeMode(self.env_kwargs.get("vectorization_mode") or VectorizeMode.VECTOR_ENTRY_POINT)
        native = spec.vector_entry_point if mode is VectorizeMode.VECTOR_ENTRY_POINT else None
        if native is None and keyword == "autoreset_mode":  # Gymnasium's own vector environments cannot wait
            return False
        creator = load_entry_point(native or spec.entry_point)
        return creator is not None and takes_keyword(creator, keyword)

    # -- algorithm 1 -------------------------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int | None = None,
        max_seconds: float | None = None,
        callback: Callback | None = None,
        progress_bar: bool = True,
    ) -> GRPO:
        """Collect and update until a budget is spent.

        Args:
            total_timesteps: Environment steps (tokens written by the policy) to take in this call.
            max_seconds: Wall time to spend in this call; time inside ``callback`` does not count.
            callback: Called after each iteration with the agent and its metrics; returning ``False`` stops.
            progress_bar: Whether to show a line of progress.

        Raises:
            InvalidOptionError: If neither budget is given, or one is not above 0.
        """
        if total_timesteps is None and max_seconds is None:
            raise InvalidOptionError(
                "Expected a budget, actual: neither total_timesteps nor max_seconds. Give at least one of them."
            )
        for name, budget in (("total_timesteps", total_timesteps), ("max_seconds", max_seconds)):
            if budget is not None and not budget > 0:
                raise InvalidOptionError(f"Expected {name} > 0, actual: {budget}. Raise it, or leave it out.")
        first_timestep, first_second = self.n_timesteps, self.train_seconds

        def share_spent() -> float:
            steps = (self.n_timesteps - first_timestep) / total_timesteps if total_timesteps else 0.0
            return max(steps, (self.train_seconds - first_second) / max_seconds if max_seconds else 0.0)

        with progress_line(progress_bar) as show:
            while (share := share_spent()) < 1.0:
                metrics = self.iterate(share)
                show(share_spent(), metrics)
                if callback is not None and callback(self, metrics) is False:
                    break
        return self

    def iterate(self, budget_spent: float = 0.0) -> dict[str, Any]:
        """One iteration of algorithm 1: sample groups, compare, update. Returns (and logs) its metrics."""
        started = time.perf_counter()
        # Lines 5-6: responses of the current policy, which is the old policy of the ratio. Line 7: their rewards.
        batch = collect(
            self.envs,
            self.policy,
            group_size=self.config.group_size,
            n_groups=self.config.problems_per_iteration,
            seed=int(self._rng.integers(2**31)),
        )
        # Lines 8-10: advantages, then the updates.
        learning = self._update(batch, budget_spent)
        seconds = time.perf_counter() - started
        self.n_iterations += 1
        self.n_timesteps += batch.n_timesteps
        self.env_seconds += batch.env_seconds
        self.train_seconds += seconds
        metrics: dict[str, Any] = {
            "iteration": self.n_iterations,
            "timesteps": self.n_timesteps,
            "seconds": self.train_seconds,
            **_rollout_metrics(batch),
            **learning,
            "time/iteration": seconds,
            "time/collect": batch.seconds,
            "time/update": seconds - batch.seconds,
            "time/env_share": self.env_seconds / self.train_seconds,
            "time/tokens_per_second": batch.n_timesteps / seconds,
            "time/collect_tokens_per_second": batch.n_timesteps / batch.seconds,
        }
        self.log.write(metrics)
        return metrics

    def _update(self, batch: RolloutBatch, budget_spent: float) -> dict[str, Any]:
        config = self.config
        returns = torch.as_tensor(batch.episode_returns).view(-1, config.group_size)  # (P, G)
        teaches = groups_with_signal(returns).numpy()
        data = RolloutTensors(batch, self.policy.device)
        data.advantages = group_advantages(returns, normalization=config.advantages).float().view(-1).to(data.device)
        if self.reference is not None:
            data.ref_logprobs = self._reference_logprobs(data)
        needed = teaches | (self.reference is not None)  # groups whose loss is not 0 throughout
        self.optimizer.set_learning_rate(self._learning_rate(budget_spent))

        totals: dict[str, list[float]] = {}
        for _ in range(config.n_epochs):
            # Whole groups, so that a prompt is computed once for all its responses.
            for groups in np.array_split(self._rng.permutation(len(returns)), config.n_minibatches):
                step = self._step(data, groups, needed)
                if not step:  # no group in it could teach anything
                    continue
                # Before the first optimiser step of the iteration, sampling and learning must agree: ratio 1.
                error = step.pop("ratio_error")
                totals.setdefault("train/first_ratio_error", [error])
                for name, value in step.items():
                    totals.setdefault(f"train/{name}", []).append(value)
        metrics: dict[str, Any] = {name: float(np.mean(values)) for name, values in totals.items()}
        metrics["train/groups_with_signal"] = float(teaches.mean())
        metrics["train/learning_rate"] = self.optimizer.learning_rate
        return metrics

    def _step(self, data: RolloutTensors, groups: Ints, needed: Bools) -> dict[str, float]:
        """One optimiser step on the responses of ``groups``."""
        size = self.config.group_size
        rows = (groups[:, None] * size + np.arange(size)).reshape(-1)
        n_tokens = int(data.n_chosen[rows].sum())
        groups = groups[needed[groups]]
        if len(groups) == 0:
            return {}
        self.optimizer.zero_grad()
        prompt_ids, prompt_lengths = data.prompts(groups)
        states = self.policy.prompt_states(prompt_ids, prompt_lengths)
        leaves = states.detached()
        sums = _Sums(n_tokens=int(data.n_chosen[np.isin(data.group, groups)].sum()))
        for part in data.microbatches(groups, self._microbatch_tokens):
            loss = self._loss(data, part, (prompt_ids, prompt_lengths, leaves), len(rows), n_tokens, sums)
            loss.backward()  # type: ignore[no-untyped-call]
        states.backward(leaves)
        sums.values["grad_norm"] = self.optimizer.step()
        return sums.values

    def _loss(
        self,
        data: RolloutTensors,
        part: Microbatch,
        prompts: tuple[torch.Tensor, torch.Tensor, PromptStates],
        n_sequences: int,
        n_tokens: int,
        sums: _Sums,
    ) -> torch.Tensor:
        """This microbatch's share of eq. 3, negated."""
        config = self.config
        prompt_ids, prompt_lengths, leaves = prompts
        mask, old_logprobs = data.response_mask[part.rows, : part.width], data.old_logprobs[part.rows, : part.width]
        advantages = data.advantages[part.rows].unsqueeze(1).expand_as(old_logprobs)
        logprobs, entropy = self.policy.logprobs(
            prompt_ids,
            prompt_lengths,
            data.response_ids[part.rows, : part.width],
            mask,
            prompts=leaves,
            prompt_index=part.prompt_index,
            with_entropy=True,
        )
        clip = {"clip_range": config.clip_range, "clip_range_high": config.clip_range_high}
        loss = clipped_policy_loss(logprobs, old_logprobs, advantages, **clip)  # type: ignore[arg-type]
        if self.reference is not None:
            penalty = kl_to_ref(logprobs, data.ref_logprobs[part.rows, : part.width])
            loss = loss + config.kl_coef * penalty
            sums.add("kl_to_ref", masked_mean(penalty.detach(), mask), mask)
        total = average_tokens(
            loss,
            mask,
            how=config.loss_average,
            n_sequences=n_sequences,
            n_tokens=n_tokens,
            max_tokens=self._width,
        )
        with torch.no_grad():
            assert entropy is not None
            sums.values["loss"] = sums.values.get("loss", 0.0) + float(total)
            sums.add("approx_kl", approx_kl(logprobs, old_logprobs, mask), mask)
            sums.add("entropy", masked_mean(entropy, mask), mask)
            sums.add("clip_fraction", clip_fraction(logprobs, old_logprobs, advantages, mask, **clip), mask)  # type: ignore[arg-type]
            error = ((logprobs - old_logprobs).exp() - 1.0).abs().masked_fill(~mask, 0.0).max()
            sums.values["ratio_error"] = max(sums.values.get("ratio_error", 0.0), float(error))
        return total

    @torch.no_grad()
    def _reference_logprobs(self, data: RolloutTensors) -> torch.Tensor:
        assert self.reference is not None
        result = torch.zeros_like(data.old_logprobs)
        groups = np.arange(len(data.group) // self.config.group_size)
        prompt_ids, prompt_lengths = data.prompts(groups)
        states = self.reference.prompt_states(prompt_ids, prompt_lengths)
        for part in data.microbatches(groups, self._microbatch_tokens):
            result[part.rows, : part.width], _ = self.reference.logprobs(
                prompt_ids,
                prompt_lengths,
                data.response_ids[part.rows, : part.width],
                data.response_mask[part.rows, : part.width],
                prompts=states,
                prompt_index=part.prompt_index,
            )
        return result

    def _learning_rate(self, budget_spent: float) -> float:
        warm = min(1.0, (self.n_iterations - self._first_iteration + 1) / (self.config.warmup_iterations + 1))
        fall = 1.0 - (1.0 - self.config.final_learning_rate) * min(1.0, budget_spent)
        return self.config.learning_rate * warm * fall

    # -- evaluate, save, load ----------------------------------------------------------------------------------------

    def evaluate(
        self,
        n_problems: int = 500,
        samples: int = 1,
        *,
        temperature: float = 1.0,
        split: str = "test",
        seed: int = 0,
        forbidden: Mapping[int, Sequence[int]] | None = None,
        num_envs: int = 256,
        **env_kwargs: Any,
    ) -> Evaluation:
        """Play held-out problems.

        Args:
            n_problems: Problems drawn from the split.
            samples: Responses to each; more than one also gives pass@k.
            temperature: Of the policy during this evaluation.
            split: Of the environment's problems.
            seed: The same seed poses the same problems.
            forbidden: Token -> tokens that must not follow it, e.g. to force reasoning. ``None``: as in training.
            num_envs: About how many slots play at once.
            **env_kwargs: Further keyword arguments of the environment that differ from training.

        Raises:
            InvalidOptionError: If a number is below 1, or the agent was given a vector environment that does not say
                how to make another one (no spec, or inside a wrapper).
        """
        for name, number in (("n_problems", n_problems), ("samples", samples), ("num_envs", num_envs)):
            if number < 1:
                raise InvalidOptionError(f"Expected {name} >= 1, actual: {number}. Raise it.")
        if self.env_id is None:
            raise InvalidOptionError(
                "Expected an environment with an id, actual: a vector environment without spec, or inside a wrapper. "
                "Use llmgym.agents.evaluate(agent.policy, envs) with one for held-out problems."
            )
        blocks = min(n_problems, max(1, num_envs // samples))
        envs = self._make_envs(blocks * samples, split=split, **env_kwargs)
        try:
            with self.policy.playing(temperature=temperature, forbidden=forbidden):
                return evaluate(self.policy, envs, n_problems=n_problems, samples=samples, seed=seed)
        finally:
            envs.close()

    def save(self, folder: str | Path) -> Path:
        """Write model, tokenizer and settings to ``folder``; an earlier save there is replaced when all is written.

        What else the folder holds (a log) stays. Not kept are the optimiser's state, the random generators and the
        reference policy: see :meth:`load`.

        Whenever it is killed, a whole save is left: in ``folder``, or, between two renames, in ``.<name>.old`` beside
        it, where :meth:`load` finds it and the next :meth:`save` clears up. A draft ``.<name>-*`` may be left too, and
        can be deleted.

        Raises:
            InvalidOptionError: If ``folder`` is a file, or JSON cannot hold ``env_kwargs``.
        """
        target = Path(folder)
        if target.exists() and not target.is_dir():
            raise InvalidOptionError(f"Expected a folder to save to, actual: {str(folder)!r}, a file. Name another.")
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            self.policy.save(draft)
            settings = {
                "algorithm": "grpo",
                "env": self.env_id,
                "env_kwargs": _plain({k: v for k, v in self.env_kwargs.items() if k != "tokenizer"}),
                "forbidden": {str(token): list(after) for token, after in self.policy.forbidden.items()},
                "config": asdict(self.config),
                "n_timesteps": self.n_timesteps,
                "n_iterations": self.n_iterations,
                "train_seconds": self.train_seconds,
                "env_seconds": self.env_seconds,
                "files": sorted([AGENT_FILE, *(path.name for path in draft.iterdir())]),
            }
            (draft / AGENT_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            draft.chmod(0o755)  # temporary folders are private
            put_in_place(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return target

    @classmethod
    def load(cls, folder: str | Path, env: str | VectorEnv[Any, Any, Any] | None = None, **overrides: Any) -> GRPO:
        """An agent as it was saved: it plays as it did, and :meth:`learn` goes on from its weights and counters.

        Learning does not repeat what an unbroken run would have done: the optimiser starts afresh and its learning rate
        warms up again, problems and sampling come from new random numbers, and the reference of a KL penalty is the
        policy as it was loaded.

        Args:
            folder: What :meth:`save` wrote.
            env: Another environment than the saved one, without its keyword arguments; needed if that had no id.
            **overrides: Fields of :class:`GRPOConfig` that differ from the saved ones.

        Raises:
            InvalidOptionError: If ``folder`` holds no agent.
        """
        policy: str | Policy = str(folder)
        folder = Path(folder)
        file = folder / AGENT_FILE
        if not file.is_file() and (aside(folder) / AGENT_FILE).is_file():  # a save was killed between its renames
            file = aside(folder) / AGENT_FILE
            policy = Policy.load(file.parent)  # with its tokenizer, as the next save removes that folder
        if not file.is_file():
            raise InvalidOptionError(
                f"Expected a folder written by GRPO.save, actual: {str(folder)!r} without {AGENT_FILE}. Look again."
            )
        saved = json.loads(file.read_text(encoding="utf-8"))
        config = GRPOConfig(**(saved["config"] | {"adam_betas": tuple(saved["config"]["adam_betas"])}))
        chosen = env if env is not None else saved["env"]
        if chosen is None:
            raise InvalidOptionError(
                "Expected `env`, actual: None, and the saved agent had an environment without an id. Pass one."
            )
        env_kwargs = saved["env_kwargs"] if chosen == saved["env"] else {}
        agent = cls(policy, chosen, config, env_kwargs=env_kwargs, **overrides)
        for player in (agent.policy, agent.reference):
            if player is not None:
                player.forbidden = {int(token): after for token, after in saved["forbidden"].items()}
        agent.n_timesteps, agent.n_iterations = saved["n_timesteps"], saved["n_iterations"]
        agent.train_seconds, agent.env_seconds = saved["train_seconds"], saved["env_seconds"]
        # With the generators of the start, it would be posed the problems of the start once more.
        agent._first_iteration = agent.n_iterations
        agent._rng = np.random.default_rng([agent.config.seed, agent.n_iterations])
        agent.policy.generator.manual_seed(int(agent._rng.integers(2**31)))
        return agent


def _plain(env_kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, value in env_kwargs.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise InvalidOptionError(
                f"Expected env_kwargs that JSON can hold, actual: {name}={value!r}. Make the agent with plain values, "
                "or save its model alone by agent.policy.save(folder)."
            ) from error
    return env_kwargs


class _Sums:
    """Means over the tokens of a minibatch, gathered microbatch by microbatch."""

    def __init__(self, n_tokens: int) -> None:
        self.n_tokens = max(n_tokens, 1)
        self.values: dict[str, float] = {}

    def add(self, name: str, mean: torch.Tensor, mask: torch.Tensor) -> None:
        self.values[name] = self.values.get(name, 0.0) + float(mean) * int(mask.sum()) / self.n_tokens


def _rollout_metrics(batch: RolloutBatch) -> dict[str, Any]:
    lengths = batch.response_mask.sum(axis=1)
    return {
        "rollout/return": float(batch.episode_returns.mean()),
        "rollout/return_std": float(batch.episode_returns.std()),
        "rollout/length": float(lengths.mean()),
        "rollout/length_max": int(lengths.max()),
        "rollout/terminated": float(batch.terminated.mean()),
        **({} if batch.unverifiable is None else {"rollout/unverifiable": float(batch.unverifiable.mean())}),
        "rollout/episodes": len(batch),
        "rollout/dropped_episodes": batch.n_dropped,
        **{f"reward/{name}": float(values.mean()) for name, values in batch.reward_components.items()},
    }


def _known_fields(overrides: Mapping[str, Any]) -> dict[str, Any]:
    known = [f.name for f in fields(GRPOConfig)]
    for name in overrides:
        if name not in known:
            raise InvalidOptionError(f"Expected a field of GRPOConfig ({', '.join(known)}), actual: {name!r}.")
    return dict(overrides)


# -- command line -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainOptions(EnvKeywords, GRPOConfig):
    """Train a model with GRPO on an environment, evaluate it on held-out problems, save it.

    Attributes:
        policy: "tiny-reasoner", a folder or a hub name.
        env: Id of the environment.
        total_timesteps: Tokens to write in training. None: no such bound.
        max_seconds: Wall time of training.
        eval_problems: Held-out problems before and after. 0: no evaluation.
        save_dir: Where the trained agent goes. None: nowhere.
    """

    policy: str = "tiny-reasoner"
    env: str = "llmgym/MathReason-v0"
    total_timesteps: int | None = None
    max_seconds: float | None = 300.0
    eval_problems: int = 200
    save_dir: str | None = None


def train(options: TrainOptions, learn: Callable[[GRPO], Any] | None = None) -> GRPO:
    """Evaluate, train, evaluate and save, as the options say.

    Args:
        options: What to do.
        learn: Spends the budget of the options; ``None``: :meth:`GRPO.learn` with its line of progress.
    """
    config = GRPOConfig(**{f.name: getattr(options, f.name) for f in fields(GRPOConfig)})
    agent = GRPO(options.policy, options.env, config, env_kwargs=parse_keywords(options.env_kwargs))
    if options.eval_problems:
        print("before:", agent.evaluate(options.eval_problems))
    if learn is None:
        agent.learn(options.total_timesteps, options.max_seconds)
    else:
        learn(agent)
    share = 100 * agent.env_seconds / max(agent.train_seconds, 1e-9)
    print(f"{agent.n_timesteps:,} tokens in {agent.train_seconds:.1f} s, {share:.1f} % of it in the environment")
    if options.eval_problems:
        print("after: ", agent.evaluate(options.eval_problems))
    if options.save_dir is not None:
        print("saved: ", agent.save(options.save_dir))
    return agent


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m llmgym.agents.grpo``."""
    import tyro

    train(tyro.cli(TrainOptions, args=arguments, description=TrainOptions.__doc__))


if __name__ == "__main__":
    main()
