"""What every agent can do around its algorithm: learn within a budget, evaluate, save, load and go on.

No mathematics here. An algorithm is a subclass that says how it collects and how it updates, in a file of its own
that reads like its paper; nothing in this file changes what is learned.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar, Self

import numpy as np
from gymnasium.vector import VectorEnv
from transformers import PreTrainedModel

from llmgym.agents.environments import TrainingEnvs, bind, own_tokenizer
from llmgym.agents.evaluation import Evaluation, evaluate
from llmgym.agents.metrics import MetricsLog
from llmgym.agents.optimizers import MixedPrecisionAdamW
from llmgym.agents.policies import Policy
from llmgym.agents.progress import progress_line
from llmgym.agents.rollouts import RolloutBatch
from llmgym.agents.saving import AGENT_FILE, aside, put_in_place
from llmgym.errors import InvalidOptionError

#: Told of the agent and the metrics after each iteration; ``False`` stops the training.
Callback = Callable[[Any, Mapping[str, Any]], bool | None]

#: What a field has to hold -> whether it does, and the rule in words.
Rules = dict[str, tuple[bool, str]]


@dataclass(frozen=True)
class AgentConfig:
    """Hyperparameters that all agents have.

    Attributes:
        num_envs: Slots of the vector environment. None: a slot for each episode of an iteration.
        learning_rate: Step size of AdamW. Usual: 1e-6 for billions of parameters (paper), 1e-4 to 1e-3 for a million.
        warmup_iterations: Iterations over which the learning rate rises from 0. More: a safer start. Usual: 0 to 20.
        final_learning_rate: Share of the learning rate left at the end of the budget, falling linearly. 1: constant.
        weight_decay: Of AdamW. Usual: 0 in reinforcement learning.
        adam_betas: Of AdamW. A lower second one follows the gradient's scale faster. Usual: (0.9, 0.95 to 0.999).
        max_grad_norm: Gradients longer than this are scaled down to it. Usual: 0.1 to 1.
        n_epochs: Passes over a rollout. More: each rollout is used more, off-policy. Usual: 1 to 4.
        n_minibatches: Optimiser steps in each pass. More: further off-policy. Usual: 1 to 8.
        microbatch_tokens: Padded tokens in one forward pass: memory and speed, never the result. None: 2048 on a CPU
            (little padding, fits its caches), 32768 on a GPU.
        temperature: Of the policy, in sampling and learning. Higher: more exploration. Usual: 1.
        top_k: Only the k likeliest tokens can be sampled; learning sees the same distribution. None: all.
        top_p: Only the likeliest tokens that make up this probability can be sampled; likewise. None: all.
        seed: Of problems, sampling and minibatches.
        log_dir: Folder of metrics.jsonl. None: no log.
    """

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
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    log_dir: str | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that cannot work."""
        for name, (holds, rule) in self.rules().items():
            if not holds:
                raise InvalidOptionError(f"Expected {name} to be {rule}, actual: {getattr(self, name)!r}. Change it.")

    def rules(self) -> Rules:
        """What each field has to hold. Temperature, top_k and top_p are checked by the policy."""
        return {
            "num_envs": (self.num_envs is None or self.num_envs > 0, "> 0"),
            "learning_rate": (self.learning_rate > 0, "> 0"),
            "warmup_iterations": (self.warmup_iterations >= 0, ">= 0"),
            "final_learning_rate": (0 <= self.final_learning_rate <= 1, "in [0, 1]"),
            "max_grad_norm": (self.max_grad_norm > 0, "> 0"),
            "n_epochs": (self.n_epochs >= 1, ">= 1"),
            "n_minibatches": (self.n_minibatches >= 1, ">= 1"),
            "microbatch_tokens": (self.microbatch_tokens is None or self.microbatch_tokens >= 1, ">= 1"),
        }


class Agent:
    """A policy, an environment and a learning rule.

    Args:
        policy: ``"tiny-reasoner"``, a folder, a hub name, a transformers model, or a :class:`Policy`, whose temperature
            and seed become those of ``config``.
        env: Id of an environment, or a vector environment with token actions: see
            :class:`~llmgym.agents.environments.TrainingEnvs`.
        config: Hyperparameters; ``None``: the defaults.
        env_kwargs: Keyword arguments of the environment, where ``env`` is an id.
        **overrides: Fields of the configuration that differ from ``config``.

    Attributes:
        n_timesteps: Tokens that the policy has written in training.
        n_iterations: Times that it collected a rollout and updated on it.
        env_seconds: Wall time spent inside the environment in training.
        train_seconds: Wall time of training, evaluations by callbacks left out.
    """

    algorithm: ClassVar[str]
    config_class: ClassVar[type[AgentConfig]] = AgentConfig
    config: Any

    def __init__(
        self,
        policy: str | Path | PreTrainedModel | Policy,
        env: str | VectorEnv[Any, Any, Any],
        config: AgentConfig | None = None,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> None:
        self.config = replace(config or self.config_class(), **self._known_fields(overrides))
        self.policy = Policy.load(policy)
        self.policy.temperature = self.config.temperature
        self.policy.top_k, self.policy.top_p = self.config.top_k, self.config.top_p
        self.policy.generator.manual_seed(self.config.seed)
        self.training_envs = TrainingEnvs(
            env,
            num_envs=self.config.num_envs or self._n_episodes(),
            env_kwargs=env_kwargs,
            tokenizer=own_tokenizer(policy, self.policy),
        )
        bind(self.policy, self.training_envs)
        on_cpu = self.policy.device.type == "cpu"
        self._microbatch_tokens = self.config.microbatch_tokens or (2048 if on_cpu else 32_768)
        self.log = MetricsLog(self.config.log_dir)
        self.n_timesteps = 0
        self.n_iterations = 0
        self.env_seconds = 0.0
        self.train_seconds = 0.0
        self._rng = np.random.default_rng(self.config.seed)
        self._first_iteration = 0  # of this optimiser; see _learning_rate
        self._build()

    @property
    def envs(self) -> VectorEnv[Any, Any, Any]:
        """The environment to train on."""
        return self.training_envs.envs

    # -- what an algorithm is ----------------------------------------------------------------------------------------

    def _n_episodes(self) -> int:
        """Episodes of an iteration."""
        raise NotImplementedError

    def _build(self) -> None:
        """Make what the algorithm needs beside the policy: optimiser, reference, critic."""
        raise NotImplementedError

    def collect(self) -> tuple[RolloutBatch, dict[str, Any]]:
        """Play episodes with the current policy, which is the old policy of the update.

        Returns:
            The episodes to learn from, and metrics of how they came about; ``"rollout/replaced_timesteps"`` among them
            are tokens that were written beside those of the episodes.
        """
        raise NotImplementedError

    def update(self, batch: RolloutBatch, budget_spent: float = 0.0) -> dict[str, Any]:
        """Learn from a rollout.

        Args:
            batch: What :meth:`collect` gave.
            budget_spent: Share of the budget spent, in [0, 1]: for the learning rate.

        Returns:
            Metrics of the update.
        """
        raise NotImplementedError

    # -- learning ----------------------------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int | None = None,
        max_seconds: float | None = None,
        callback: Callback | None = None,
        progress_bar: bool = True,
    ) -> Self:
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
        """Collect and update once. Returns (and logs) the metrics of both."""
        started = time.perf_counter()
        batch, sampling = self.collect()
        learning = self.update(batch, budget_spent)
        seconds = time.perf_counter() - started
        self.n_iterations += 1
        self.n_timesteps += batch.n_timesteps + sampling.get("rollout/replaced_timesteps", 0)
        self.env_seconds += batch.env_seconds
        self.train_seconds += seconds
        metrics: dict[str, Any] = {
            "iteration": self.n_iterations,
            "timesteps": self.n_timesteps,
            "seconds": self.train_seconds,
            **rollout_metrics(batch),
            **sampling,
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

    def _optimizer(self, parameters: Any, learning_rate: float) -> MixedPrecisionAdamW:
        return MixedPrecisionAdamW(
            parameters,
            learning_rate=learning_rate,
            betas=self.config.adam_betas,
            weight_decay=self.config.weight_decay,
            max_grad_norm=self.config.max_grad_norm,
        )

    def _rate_factor(self, budget_spent: float) -> float:
        """What the learning rate is multiplied with: it warms up by iterations and falls with the budget."""
        warm = min(1.0, (self.n_iterations - self._first_iteration + 1) / (self.config.warmup_iterations + 1))
        return warm * (1.0 - (1.0 - self.config.final_learning_rate) * min(1.0, budget_spent))

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
        blocks = min(n_problems, max(1, num_envs // samples))
        envs = self.training_envs.make(blocks * samples, split=split, **env_kwargs)
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
            env_kwargs = {k: v for k, v in self.training_envs.env_kwargs.items() if k != "tokenizer"}
            settings = {
                "algorithm": self.algorithm,
                "env": self.training_envs.env_id,
                "env_kwargs": _plain(env_kwargs),
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
    def load(cls, folder: str | Path, env: str | VectorEnv[Any, Any, Any] | None = None, **overrides: Any) -> Self:
        """An agent as it was saved: it plays as it did, and :meth:`learn` goes on from its weights and counters.

        Learning does not repeat what an unbroken run would have done: the optimiser starts afresh and its learning rate
        warms up again, problems and sampling come from new random numbers, and the reference of a KL penalty is the
        policy as it was loaded.

        Args:
            folder: What :meth:`save` wrote.
            env: Another environment than the saved one, without its keyword arguments; needed if that had no id.
            **overrides: Fields of the configuration that differ from the saved ones.

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
                f"Expected a folder written by {cls.__name__}.save, actual: {str(folder)!r} without {AGENT_FILE}. "
                "Look again."
            )
        saved = json.loads(file.read_text(encoding="utf-8"))
        config = cls.config_class(**(saved["config"] | {"adam_betas": tuple(saved["config"]["adam_betas"])}))
        chosen = env if env is not None else saved["env"]
        if chosen is None:
            raise InvalidOptionError(
                "Expected `env`, actual: None, and the saved agent had an environment without an id. Pass one."
            )
        env_kwargs = saved["env_kwargs"] if chosen == saved["env"] else {}
        agent = cls(policy, chosen, config, env_kwargs=env_kwargs, **overrides)
        agent._set_forbidden({int(token): after for token, after in saved["forbidden"].items()})
        agent.n_timesteps, agent.n_iterations = saved["n_timesteps"], saved["n_iterations"]
        agent.train_seconds, agent.env_seconds = saved["train_seconds"], saved["env_seconds"]
        # With the generators of the start, it would be posed the problems of the start once more.
        agent._first_iteration = agent.n_iterations
        agent._rng = np.random.default_rng([agent.config.seed, agent.n_iterations])
        agent.policy.generator.manual_seed(int(agent._rng.integers(2**31)))
        return agent

    def _set_forbidden(self, forbidden: Mapping[int, Sequence[int]]) -> None:
        """Let the policy, and what is compared with it, keep to rules."""
        self.policy.forbidden = forbidden

    @classmethod
    def _known_fields(cls, overrides: Mapping[str, Any]) -> dict[str, Any]:
        known = [f.name for f in fields(cls.config_class)]
        for name in overrides:
            if name not in known:
                raise InvalidOptionError(
                    f"Expected a field of {cls.config_class.__name__} ({', '.join(known)}), actual: {name!r}."
                )
        return dict(overrides)


def rollout_metrics(batch: RolloutBatch) -> dict[str, Any]:
    """What the policy did: see ``docs/metrics.md``."""
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


# -- command line -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunOptions:
    """What to train, for how long, and where the result goes.

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


def train(agent: Agent, options: RunOptions, learn: Callable[[Any], Any] | None = None) -> None:
    """Evaluate, train, evaluate and save, as the options say.

    Args:
        agent: Who learns.
        options: What to do.
        learn: Spends the budget of the options; ``None``: :meth:`Agent.learn` with its line of progress.
    """
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
