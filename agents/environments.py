"""The environments that an agent trains and is evaluated on: given ones, or made from an id as often as needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium import VectorizeMode
from gymnasium.vector import VectorEnv

import llmgym  # noqa: F401  (registers the environments)
from llmgym.agents.policies import Policy
from llmgym.agents.rollouts import check_spaces
from llmgym.errors import InvalidOptionError
from llmgym.registration import find_spec, load_entry_point, takes_keyword
from llmgym.tokenizers import Tokenizer

#: Keyword arguments of one vector environment alone: another one of the same id is made with its own.
_OWN = ("num_envs", "vectorization_mode", "vector_kwargs", "autoreset_mode", "copy")


class TrainingEnvs:
    """A vector environment to train on, and how to make more of its kind.

    Args:
        env: Id of an environment, or a vector environment with token actions. An id is made with ``tokenizer`` and with
            autoreset disabled, unless ``env_kwargs`` or its registration says otherwise: each where the entry point
            takes it, by name or as a language environment that passes further keyword arguments on. Autoreset is
            disabled in native vector environments only.
        num_envs: Slots of the environment to train on, where ``env`` is an id.
        env_kwargs: Keyword arguments of the environment, where ``env`` is an id.
        tokenizer: The policy's, or the name that it was loaded by; ``None``: the environment keeps its own.

    Attributes:
        envs: The environment to train on.
        env_id: ``None`` where no other environment of this kind can be made.
        env_kwargs: Keyword arguments of the environment.
        width: Tokens of an observation: prompt and response together.
        n_actions: Size of the vocabulary.

    Raises:
        InvalidOptionError: If ``env_kwargs`` holds ``num_envs``, or the environment has no token actions.
    """

    def __init__(
        self,
        env: str | VectorEnv[Any, Any, Any],
        *,
        num_envs: int,
        env_kwargs: Mapping[str, Any] | None = None,
        tokenizer: str | Tokenizer | None = None,
    ) -> None:
        self.env_kwargs = dict(env_kwargs or {})
        if isinstance(env, str):
            self.env_id: str | None = env
            if "num_envs" in self.env_kwargs:
                raise InvalidOptionError(
                    f"Expected no 'num_envs' in env_kwargs, actual: {self.env_kwargs['num_envs']!r}. "
                    "Pass it as a field of the agent's configuration."
                )
            if tokenizer is not None and self._takes("tokenizer"):
                self.env_kwargs.setdefault("tokenizer", tokenizer)
            self.envs = self.make(num_envs)
        else:
            self.envs = env
            # A wrapper (of rewards, say) is not in the spec: another environment of that id would be a different one.
            self.env_id = env.spec.id if env.spec is not None and env is env.unwrapped else None
            if env.spec is not None:
                self.env_kwargs = {key: value for key, value in env.spec.kwargs.items() if key not in _OWN}
        self.width, self.n_actions = check_spaces(self.envs)

    def make(self, num_envs: int, **changes: Any) -> VectorEnv[Any, Any, Any]:
        """Another vector environment of this kind, with ``changes`` to its keyword arguments.

        Raises:
            InvalidOptionError: If the environment was given, and does not say how to make another one.
        """
        if self.env_id is None:
            raise InvalidOptionError(
                "Expected an environment with an id, actual: a vector environment without spec, or inside a wrapper. "
                "Use llmgym.agents.evaluate(agent.policy, envs) with one for held-out problems."
            )
        kwargs = self.env_kwargs | changes
        if self._takes("autoreset_mode"):
            kwargs = {"autoreset_mode": "disabled"} | kwargs
            if self._takes("copy") and str(kwargs["autoreset_mode"]).lower() == "disabled":
                # Where no slot is reset by a step, the last observation is read only as far as the step left it.
                kwargs = {"copy": False} | kwargs
        return gym.make_vec(self.env_id, num_envs=num_envs, **kwargs)

    def _takes(self, keyword: str) -> bool:
        """Whether what makes the environment takes a keyword argument that its registration leaves open."""
        assert self.env_id is not None
        spec = find_spec(self.env_id)
        if spec is None or keyword in spec.kwargs:  # if unknown, Gymnasium will say so
            return False
        mode = VectorizeMode(self.env_kwargs.get("vectorization_mode") or VectorizeMode.VECTOR_ENTRY_POINT)
        native = spec.vector_entry_point if mode is VectorizeMode.VECTOR_ENTRY_POINT else None
        if native is None and keyword in ("autoreset_mode", "copy"):  # Gymnasium's own vector environments cannot wait
            return False
        creator = load_entry_point(native or spec.entry_point)
        return creator is not None and takes_keyword(creator, keyword)


def bind(policy: Policy, training: TrainingEnvs) -> None:
    """Let the policy play the environment's vocabulary and nothing beyond it.

    Raises:
        InvalidOptionError: If their vocabularies cannot be the same one.
    """
    if policy.tokenizer is not None and policy.tokenizer.vocab_size != training.n_actions:
        raise InvalidOptionError(
            f"Expected an environment with the policy's own vocabulary of {policy.tokenizer.vocab_size}, "
            f"actual: {training.n_actions}. Make it with the policy's tokenizer."
        )
    policy.n_actions = training.n_actions
    if policy.tokenizer is None:  # to show text, and to be saved with the model
        policy.tokenizer = getattr(training.envs.unwrapped, "tokenizer", None)


def own_tokenizer(name_or_model: object, policy: Policy) -> str | Tokenizer | None:
    """What to make environments with: by name where the policy has one, so that their specs are plain values."""
    if policy.tokenizer is None:
        return None
    if not isinstance(name_or_model, (str, Path)):
        return policy.tokenizer
    folder = Path(name_or_model)
    if folder.is_dir() and not (folder / "tokenizer.json").is_file():  # adapters alone: the tokenizer is their base's
        return policy.tokenizer.name
    return str(name_or_model)
