"""What every agent can do around its algorithm: learn within a budget, evaluate, save, load and go on.

No mathematics here. An algorithm is a subclass that says how it collects and how it updates, in a file of its own
that reads like its paper; nothing in this file changes what is learned.

A run that was interrupted, at whatever moment, goes on from its last checkpoint and gives what an unbroken one would
have given, on a CPU bit for bit: all that an iteration depends on is the policy, the options and
:meth:`Agent.state_dict`. ``docs/runs.md`` says what is promised and what is not.
"""

from __future__ import annotations

import json
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from transformers import PreTrainedModel

import llmgym
from llmgym.agents.alarms import Alarms, TrainingWarning
from llmgym.agents.checkpoints import find_saved, quiet, read_settings, read_state, write_checkpoint
from llmgym.agents.config import AgentConfig as AgentConfig
from llmgym.agents.config import Rules as Rules
from llmgym.agents.environments import TrainingEnvs, bind, own_tokenizer
from llmgym.agents.evaluation import Evaluation, evaluate
from llmgym.agents.interrupts import StopSignals, exit_code
from llmgym.agents.live_view import progress_line
from llmgym.agents.metrics import RunLog
from llmgym.agents.optimizers import MixedPrecisionAdamW
from llmgym.agents.parts import (
    align,
    make_vec_again,
    make_vec_settings,
    model_state,
    part_state,
    put_model_state,
    with_state,
)
from llmgym.agents.policies import Policy
from llmgym.agents.rollout_batches import RolloutBatch
from llmgym.agents.rollout_metrics import check_losses, check_rewards, rollout_metrics
from llmgym.agents.runs import Budget, Run
from llmgym.errors import CheckpointError, InvalidOptionError, NotFiniteError

#: Told of the agent and the metrics after each iteration; ``False`` stops the training.
Callback = Callable[[Any, Mapping[str, Any]], bool | None]

#: Optimiser steps on a rollout of which the first one alone is too small a part to keep for it what acting computed.
_MANY_STEPS = 12


class Agent:
    """A policy, an environment and a learning rule.

    Args:
        policy: ``"tiny-reasoner"``, a folder, a hub name, a transformers model, or a :class:`Policy`, whose
            temperature, top_k, top_p and seed become those of ``config``.
        env: Id of an environment, or a vector environment with token actions: see
            :class:`~llmgym.agents.environments.TrainingEnvs`.
        config: Hyperparameters; ``None``: the defaults.
        env_kwargs: Keyword arguments of the environment, where ``env`` is an id.
        **overrides: Fields of the configuration that differ from ``config``.

    Attributes:
        n_timesteps: Tokens that the policy has written in training.
        n_iterations: Times that it collected a rollout and updated on it.
        env_seconds: Wall time spent inside the environment in training.
        train_seconds: Wall time of training: checkpoints included, evaluations by callbacks left out.
        run: Where the training is written to.
        budget: Of the last :meth:`learn`.
        stopped_by: The signal that ended the last :meth:`learn`; ``None``: none did.
        run_options: What a program that made the agent wants to know when the run is resumed: plain JSON values.
    """

    algorithm: ClassVar[str]
    config_class: ClassVar[type[AgentConfig]] = AgentConfig
    #: Attributes that an iteration depends on, beside the policy: with a ``state_dict`` of their own, or plain values.
    kept: ClassVar[tuple[str, ...]] = ("optimizer",)
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
        if self.config.lora_rank is not None:
            self.policy.add_lora(self.config.lora_rank, self.config.lora_alpha)
        if self.config.gradient_checkpointing:
            self.policy.gradient_checkpointing = True
        align(self.policy.model)
        self.training_envs = TrainingEnvs(
            env,
            num_envs=self.config.num_envs or self._n_episodes(),
            env_kwargs=env_kwargs,
            tokenizer=own_tokenizer(policy, self.policy),
        )
        self._env_was_given = not isinstance(env, str)
        bind(self.policy, self.training_envs)
        self._microbatch_tokens = self.config.microbatch_tokens or self.policy.microbatch_tokens
        self.run = Run(self.config.run_dir, keep=self.config.keep_checkpoints)
        self.alarms = Alarms(self.policy.model.dtype)
        self.n_timesteps = 0
        self.n_iterations = 0
        self.env_seconds = 0.0
        self.train_seconds = 0.0
        self.budget: Budget | None = None
        self.stopped_by: signal.Signals | None = None
        self.run_options: dict[str, Any] = {}
        self._rng = np.random.default_rng(self.config.seed)
        self._build()

    @property
    def envs(self) -> VectorEnv[Any, Any, Any]:
        """The environment to train on."""
        return self.training_envs.envs

    @property
    def run_dir(self) -> Path | None:
        """The folder of the run; ``None`` before its first iteration, and where nothing is written."""
        return self.run.folder

    @property
    def log(self) -> RunLog:
        """The log of the run."""
        return self.run.log

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

        Ctrl-C lets the iteration end, writes a checkpoint and returns; SIGTERM does the same and exits with code 143. A
        second signal ends the program at once; what the last checkpoint holds stays.

        Args:
            total_timesteps: Environment steps (tokens written by the policy) to take in this call.
            max_seconds: Wall time to spend in this call; time inside ``callback`` does not count. How far a run gets is
                then up to the machine, and so is its learning rate: only a budget of timesteps can be repeated.
            callback: Called after each iteration with the agent and its metrics; returning ``False`` stops.
            progress_bar: Whether to show a line of progress.

        Without a budget: what an earlier call, perhaps of another process, left of its own.

        Raises:
            InvalidOptionError: If there is no budget, or one is not above 0.
            CheckpointError: If the run cannot be written down.
            NotFiniteError: If a reward, a loss or a gradient is no finite number.
        """
        self.set_budget(total_timesteps, max_seconds)
        self.stopped_by = None
        with self.run, StopSignals() as signals, progress_line(progress_bar) as show:
            self.checkpoint()  # from the very start there is something to go on from
            while (share := self.budget_spent) < 1.0:
                try:
                    metrics = self.iterate(share)
                except NotFiniteError as error:
                    raise NotFiniteError(f"{error} {self.run.last_good()}") from error
                show(self.budget_spent, metrics)
                stop = callback is not None and callback(self, metrics) is False
                if stop or signals.received is not None:
                    break
                if self.n_iterations % self.config.checkpoint_every == 0:
                    self.checkpoint()
            self.checkpoint()
        self.policy.forget()  # gives memory back
        if signals.received is not None:
            self._stop(signals.received)
        return self

    @property
    def budget_spent(self) -> float:
        """Share of the budget of the last :meth:`learn` that is spent; 1 where there was none."""
        return 1.0 if self.budget is None else self.budget.spent(self.n_timesteps, self.train_seconds)

    def set_budget(self, total_timesteps: int | None = None, max_seconds: float | None = None) -> Budget:
        """Begin a budget, or find one that is not spent yet; :meth:`learn` does it by itself.

        Raises:
            InvalidOptionError: If there is no budget, or one is not above 0.
        """
        if total_timesteps is not None or max_seconds is not None:
            self.budget = Budget(total_timesteps, max_seconds, self.n_timesteps, self.train_seconds)
        if self.budget is None or self.budget_spent >= 1.0:
            raise InvalidOptionError(
                "Expected a budget, actual: neither total_timesteps nor max_seconds, and none of an earlier call is "
                "left. Give at least one of them."
            )
        return self.budget

    def checkpoint(self) -> None:
        """Write down where the run is, unless that is done already; :meth:`learn` does it by itself."""
        now = (self.n_iterations, self.budget)
        seconds = self.run.checkpoint(self.n_iterations, now, self._settings, self.state_dict, self.policy.save)
        self.train_seconds += seconds

    def _stop(self, received: signal.Signals) -> None:
        """Say how to go on, and end the program where the signal asks for it."""
        self.stopped_by = received
        how = "Nothing is saved (run_dir is None): agent.save(folder) would."
        if self.run_dir is not None:
            how = f"Go on with: llmgym train --resume {self.run_dir}"
        sys.stderr.write(f"Stopped after iteration {self.n_iterations}. {how}\n")
        if received == signal.SIGTERM:
            raise SystemExit(exit_code(received))

    def iterate(self, budget_spent: float = 0.0) -> dict[str, Any]:
        """Collect and update once. Returns (and logs) the metrics of both.

        Raises:
            NotFiniteError: If a reward, a loss or a gradient is no finite number.
        """
        self.run.open(self.n_iterations)
        started = time.perf_counter()
        # Of all optimiser steps only the first could begin with what acting computed.
        keeps = self.config.n_epochs * self.config.n_minibatches < _MANY_STEPS
        with self.policy.keeping_activations() if keeps else nullcontext():
            batch, sampling = self.collect()
        check_rewards(batch)
        learning = self.update(batch, budget_spent)
        check_losses(learning)
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
        alarms = self.alarms.check(metrics)
        for alarm in alarms:
            warnings.warn(str(alarm), TrainingWarning, stacklevel=2)
        if alarms:
            metrics["alarms"] = [alarm.name for alarm in alarms]
        self.run.write(metrics)
        return metrics

    def _optimizer(self, parameters: Any, learning_rate: float) -> MixedPrecisionAdamW:
        return MixedPrecisionAdamW(
            parameters,
            learning_rate=learning_rate,
            betas=self.config.adam_betas,
            weight_decay=self.config.weight_decay,
            max_grad_norm=self.config.max_grad_norm,
        )

    def _rate_factor(self, budget_spent: float, since: int = 0) -> float:
        """What a learning rate is multiplied with: it warms up, from ``since`` on, and falls with the budget."""
        warm = min(1.0, max(0, self.n_iterations - since + 1) / (self.config.warmup_iterations + 1))
        factor: float = warm * (1.0 - (1.0 - self.config.final_learning_rate) * min(1.0, budget_spent))
        return factor

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
        """Play held-out problems. A run keeps some of the responses as text, in ``trajectories/``.

        Args:
            n_problems: Problems drawn from the split.
            samples: Responses to each; more than one also gives pass@k.
            temperature: Of the policy during this evaluation; top_k and top_p stay those of the training.
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
                result = evaluate(self.policy, envs, n_problems=n_problems, samples=samples, seed=seed)
        finally:
            envs.close()
        self.run.keep_responses(result, self.n_iterations)
        return result

    def save(self, folder: str | Path) -> Path:
        """Write all that :meth:`load` needs to go on exactly; an earlier save is replaced when all is written.

        The folder is a checkpoint like those of a run: see :mod:`llmgym.agents.checkpoints`. What else it holds (a log)
        stays. Whenever it is killed, a whole save is left: in ``folder``, or, between two renames, in ``.<name>.old``
        beside it, where :meth:`load` finds it and the next :meth:`save` clears up. A draft ``.<name>-*`` may be left
        too, and can be deleted.

        Raises:
            InvalidOptionError: If ``folder`` is a file, or JSON cannot hold ``env_kwargs``.
            CheckpointError: If it cannot be written, for instance on a full disk.
        """
        target = Path(folder)
        if target.exists() and not target.is_dir():
            raise InvalidOptionError(f"Expected a folder to save to, actual: {str(folder)!r}, a file. Name another.")
        write_checkpoint(target, self._settings(), self.state_dict(), self.policy.save)
        return target

    @classmethod
    def load(cls, folder: str | Path, env: str | VectorEnv[Any, Any, Any] | None = None, **overrides: Any) -> Self:
        """An agent as it was: it plays as it did, and :meth:`learn` goes on as if it had never been interrupted.

        Loaded from the folder of a run, it goes on with that run, in that folder. Loaded from what :meth:`save` wrote,
        or from one checkpoint of many, it starts a run of its own.

        Args:
            folder: Of a run, whose newest whole checkpoint is taken; a checkpoint; or what :meth:`save` wrote.
            env: Another environment than the saved one, without its keyword arguments; needed if that had no id.
            **overrides: Fields of the configuration that differ from the saved ones. With another ``seed`` the random
                numbers are new ones, with another ``run_dir`` so is the run.

        Raises:
            CheckpointError: If there is no agent of this algorithm, a file is damaged, or a newer version wrote it.
            InvalidOptionError: If an option cannot be, or an environment has to be given.
        """
        source, run_dir = find_saved(Path(folder))
        saved = read_settings(source)
        if saved["algorithm"] != cls.algorithm:
            raise CheckpointError(
                f"Expected a folder of algorithm {cls.algorithm!r}, actual: {str(source)!r} of {saved['algorithm']!r}. "
                "Load it with the class of that algorithm."
            )
        config = replace(cls._saved_config(source, saved["config"]), **cls._known_fields(overrides))
        if {"lora_rank", "lora_alpha"} & set(overrides):
            raise InvalidOptionError(
                "Expected the adapters as they were saved, actual: lora_rank or lora_alpha among the options. To put "
                "new ones on the model, make a new agent of Policy.load(folder)."
            )
        chosen = env if env is not None else saved["env"]
        if chosen is None:
            raise InvalidOptionError(
                "Expected `env`, actual: None, and the saved agent had an environment without an id. Pass one."
            )
        state = read_state(source)
        with quiet():
            policy = Policy.load(source, device=_device(saved["device"]), dtype=getattr(torch, saved["dtype"]))
        policy.gradient_checkpointing, policy.max_logits = saved["gradient_checkpointing"], saved["max_logits"]
        put_model_state(policy.model, state["model"])  # before the agent copies the model
        # The adapters are in the policy already.
        config_again = replace(config, lora_rank=None, lora_alpha=None)
        if env is None and saved["make_vec"] is not None:  # it was given: one with the same slots, by the same rules
            chosen, env_kwargs = make_vec_again(saved["env"], saved["make_vec"], policy.tokenizer), None
        else:
            env_kwargs = saved["env_kwargs"] if chosen == saved["env"] else {}
        agent = cls(policy, chosen, config_again, env_kwargs=env_kwargs)
        agent.config = config
        agent.policy.forbidden = {int(token): after for token, after in saved["forbidden"].items()}
        agent._restore(state, source, overrides)
        agent.run_options = saved["run_options"]
        if run_dir is not None and overrides.get("run_dir", run_dir) in (run_dir, str(run_dir)):
            # With other options the checkpoint on disk is not that of this agent, and a new one is written at once.
            same = env is None and not overrides
            written = (agent.n_iterations, agent.budget) if same else None
            agent.run.go_on(run_dir, saved["run"], saved["log"], written)
        return agent

    @classmethod
    def _saved_config(cls, source: Path, saved: Mapping[str, Any]) -> AgentConfig:
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in saved.items()}
        try:
            return cls.config_class(**plain)
        except TypeError as error:
            raise CheckpointError(
                f"Expected the options of {cls.config_class.__name__} in {str(source)!r}, actual: {error}. Load it "
                "with the version of llmgym that wrote it."
            ) from error

    def _restore(self, state: dict[str, Any], source: Path, overrides: Mapping[str, Any]) -> None:
        """Take over a training state, but for what the caller wants otherwise."""
        try:
            if "seed" in overrides:
                del state["rng"], state["generator"]
            for name in overrides:
                state["parts"].pop(name, None)
            self.load_state_dict(state)
        except (AttributeError, KeyError, ValueError, RuntimeError) as error:  # the last is how torch refuses a shape
            raise CheckpointError(
                f"Expected the state of this agent in {str(source)!r}, actual: {type(error).__name__}: {error}. "
                "Load it with the version of llmgym that wrote it, and the same kind of model."
            ) from error

    def state_dict(self) -> dict[str, Any]:
        """All that the next iteration depends on beside the policy's weights, its rules and the configuration.

        Tensors and plain values alone, so that it can be read back without executing anything.
        """
        return {
            "n_timesteps": self.n_timesteps,
            "n_iterations": self.n_iterations,
            "train_seconds": self.train_seconds,
            "env_seconds": self.env_seconds,
            "budget": None if self.budget is None else asdict(self.budget),
            "rng": self._rng.bit_generator.state,
            "generator": self.policy.generator.get_state(),
            "alarms": self.alarms.state_dict(),
            "model": model_state(self.policy.model),
            "parts": {name: part_state(getattr(self, name), adapters=self.policy.has_adapters) for name in self.kept},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave. Random generators that are missing there stay as they are."""
        self.n_timesteps, self.n_iterations = state["n_timesteps"], state["n_iterations"]
        self.train_seconds, self.env_seconds = state["train_seconds"], state["env_seconds"]
        self.budget = None if state["budget"] is None else Budget(**state["budget"])
        if "rng" in state:
            self._rng.bit_generator.state = state["rng"]
        if "generator" in state:
            self.policy.generator.set_state(state["generator"])
        self.alarms.load_state_dict(state["alarms"])
        put_model_state(self.policy.model, state["model"])
        for name, saved in state["parts"].items():
            setattr(self, name, with_state(getattr(self, name), saved))

    def _settings(self) -> dict[str, Any]:
        """What a person, and :meth:`load`, want to know of the agent: plain JSON values."""
        env_kwargs = {k: v for k, v in self.training_envs.env_kwargs.items() if k != "tokenizer"}
        make_vec = make_vec_settings(self.envs) if self._env_was_given else None
        env_id = None if self._env_was_given and make_vec is None else self.training_envs.env_id
        return {
            "llmgym": llmgym.__version__,
            "algorithm": self.algorithm,
            "run": self.run.id,
            "env": env_id,
            "env_kwargs": {} if self._env_was_given else _plain(env_kwargs),
            "make_vec": make_vec,
            "forbidden": {str(token): list(after) for token, after in self.policy.forbidden.items()},
            "dtype": str(self.policy.model.dtype).removeprefix("torch."),
            "device": self.policy.device.type,
            "gradient_checkpointing": self.policy.gradient_checkpointing,
            "max_logits": self.policy.max_logits,
            "config": asdict(self.config),
            "n_timesteps": self.n_timesteps,
            "n_iterations": self.n_iterations,
            "train_seconds": self.train_seconds,
            "env_seconds": self.env_seconds,
            "budget_spent": self.budget_spent,
            "log": self.log.position(),
            "run_options": self.run_options,
        }

    @classmethod
    def _known_fields(cls, overrides: Mapping[str, Any]) -> dict[str, Any]:
        known = [f.name for f in fields(cls.config_class)]
        for name in overrides:
            if name not in known:
                raise InvalidOptionError(
                    f"Expected a field of {cls.config_class.__name__} ({', '.join(known)}), actual: {name!r}."
                )
        return dict(overrides)


def _device(kind: str) -> str | None:
    """Where a policy goes that was on a device of this kind; ``None``: wherever it may."""
    return kind if kind == "cpu" or (kind == "cuda" and torch.cuda.is_available()) else None


def _plain(env_kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, value in env_kwargs.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise InvalidOptionError(
                f"Expected env_kwargs that JSON can hold, actual: {name}={value!r}. Make the agent with plain values; "
                "or write nothing (run_dir=None), and save its model alone by agent.policy.save(folder)."
            ) from error
    return env_kwargs
