"""The table of environment ids.

Entry points are strings, so that importing llmgym loads no environment. To add one: a file in ``envs/`` and a line
here.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import gymnasium as gym
from gymnasium.envs import registration as gym_registration
from gymnasium.envs.registration import EnvSpec

from llmgym.errors import InvalidOptionError

#: id -> (entry point, vector entry point)
ENVIRONMENTS: dict[str, tuple[str, str]] = {
    "llmgym/MathReason-v0": (
        "llmgym.envs.math_reason:MathReasonEnv",
        "llmgym.envs.math_reason:MathReasonVectorEnv",
    ),
    "llmgym/Copy-v0": (
        "llmgym.envs.copy:CopyEnv",
        "llmgym.envs.copy:CopyVectorEnv",
    ),
    "llmgym/ReasoningGym-v0": (
        "llmgym.envs.reasoning_gym:ReasoningGymEnv",
        "llmgym.envs.reasoning_gym:ReasoningGymVectorEnv",
    ),
    # one thing asked of an algorithm each, see llmgym.envs.diagnostics
    "llmgym/DelayedCredit-v0": (
        "llmgym.envs.diagnostics.credit:DelayedCreditEnv",
        "llmgym.envs.diagnostics.credit:DelayedCreditVectorEnv",
    ),
    "llmgym/FormatConflict-v0": (
        "llmgym.envs.diagnostics.conflicts:FormatConflictEnv",
        "llmgym.envs.diagnostics.conflicts:FormatConflictVectorEnv",
    ),
    "llmgym/LengthBias-v0": (
        "llmgym.envs.diagnostics.credit:LengthBiasEnv",
        "llmgym.envs.diagnostics.credit:LengthBiasVectorEnv",
    ),
    "llmgym/MixedDifficulty-v0": (
        "llmgym.envs.diagnostics.prompted:MixedDifficultyEnv",
        "llmgym.envs.diagnostics.prompted:MixedDifficultyVectorEnv",
    ),
    "llmgym/NoisyReward-v0": (
        "llmgym.envs.diagnostics.bandits:NoisyRewardEnv",
        "llmgym.envs.diagnostics.bandits:NoisyRewardVectorEnv",
    ),
    "llmgym/ProxyReward-v0": (
        "llmgym.envs.diagnostics.conflicts:ProxyRewardEnv",
        "llmgym.envs.diagnostics.conflicts:ProxyRewardVectorEnv",
    ),
    "llmgym/Recall-v0": (
        "llmgym.envs.diagnostics.prompted:RecallEnv",
        "llmgym.envs.diagnostics.prompted:RecallVectorEnv",
    ),
    "llmgym/RewardScale-v0": (
        "llmgym.envs.diagnostics.bandits:RewardScaleEnv",
        "llmgym.envs.diagnostics.bandits:RewardScaleVectorEnv",
    ),
    "llmgym/SecretSequence-v0": (
        "llmgym.envs.diagnostics.sequences:SecretSequenceEnv",
        "llmgym.envs.diagnostics.sequences:SecretSequenceVectorEnv",
    ),
    "llmgym/SparseReward-v0": (
        "llmgym.envs.diagnostics.sequences:SparseRewardEnv",
        "llmgym.envs.diagnostics.sequences:SparseRewardVectorEnv",
    ),
    "llmgym/Truncation-v0": (
        "llmgym.envs.diagnostics.endings:TruncationEnv",
        "llmgym.envs.diagnostics.endings:TruncationVectorEnv",
    ),
    "llmgym/Vocabulary-v0": (
        "llmgym.envs.diagnostics.bandits:VocabularyEnv",
        "llmgym.envs.diagnostics.bandits:VocabularyVectorEnv",
    ),
}


def register_environments() -> None:
    """Make the ids known to Gymnasium. Safe to call again."""
    for env_id, (entry_point, vector_entry_point) in ENVIRONMENTS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=entry_point, vector_entry_point=vector_entry_point)


def find_spec(env_id: str) -> EnvSpec | None:
    """What Gymnasium knows of an id, in each way of writing it that ``gymnasium.make`` takes.

    Args:
        env_id: ``"[module:][namespace/]name[-vN]"``; the module is imported first.

    Returns:
        The spec; ``None`` if nobody registered the id.

    Raises:
        InvalidOptionError: If the module cannot be found.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise InvalidOptionError(
                f"Expected a module that registers environments before the colon, actual: {env_id!r} ({error}). "
                "Correct its name, or install it."
            ) from error
    if name not in gym.registry:
        namespace, bare, version = gym_registration.parse_env_id(name)
        if version is None:
            version = gym_registration.find_highest_version(namespace, bare)
            name = gym_registration.get_env_id(namespace, bare, version)
    return gym.registry.get(name)


def load_entry_point(entry_point: Any) -> Any:
    """The class or function of an ``entry_point`` or ``vector_entry_point``; ``None`` stays."""
    return gym_registration.load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point


def takes_keyword(creator: Any, keyword: str) -> bool:
    """Whether a class or function that makes environments takes a keyword argument of ours, such as ``"tokenizer"``.

    It does if it names it, or if it is a language environment that passes further keyword arguments on.
    """
    from llmgym.core import LanguageEnv  # here: importing llmgym should stay quick
    from llmgym.vector import LanguageVectorEnv

    parameters = inspect.signature(creator).parameters
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    is_ours = isinstance(creator, type) and issubclass(creator, (LanguageEnv, LanguageVectorEnv))
    return keyword in parameters or (passes_on and is_ours)
