"""Options of the package's own agents that a benchmark hands on: looked at before anything runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from llmgym.agents.grpo import GRPOConfig
from llmgym.agents.ppo import PPOConfig
from llmgym.agents.pretrained import check_lora
from llmgym.agents.sampling import TokenDistribution
from llmgym.errors import InvalidOptionError, unknown_name

#: Fields that the benchmark chooses.
_OURS = {"seed", "run_dir", "num_envs"}


def check_agent_options(given: Mapping[str, Any]) -> None:
    """Refuse options that either of the two agents would refuse when its training begins.

    Args:
        given: Fields that ``GRPOConfig`` and ``PPOConfig`` have in common.

    Raises:
        InvalidOptionError: If one is unknown, of another type, or out of its bounds.

    Example:
        >>> check_agent_options({"learning_rate": 1e-5, "lora_rank": 16})
        >>> check_agent_options({"learning_rate": "fast"})
        Traceback (most recent call last):
            ...
        llmgym.errors.InvalidOptionError: Expected learning_rate to be of type float, actual: 'fast'. Change it.
    """
    configs = (GRPOConfig, PPOConfig)
    known = set.intersection(*({option.name for option in dataclasses.fields(config)} for config in configs)) - _OURS
    hints = get_type_hints(GRPOConfig)
    types = {option.name: option.type for option in dataclasses.fields(GRPOConfig)}  # as they are written
    for name, value in given.items():
        if name not in known:
            raise unknown_name("an option of the agents", name, known)
        if not _is_a(value, hints[name]):
            raise InvalidOptionError(f"Expected {name} to be of type {types[name]}, actual: {value!r}. Change it.")
    for config in configs:
        made = config(**given)
        TokenDistribution(1, temperature=made.temperature, top_k=made.top_k, top_p=made.top_p)
        if made.lora_rank is not None:
            check_lora(made.lora_rank, made.lora_alpha)


def _is_a(value: object, hint: Any) -> bool:
    """Whether a value, which JSON may hold, is of the type of a field; numbers have to be finite."""
    origin = get_origin(hint)
    if origin is UnionType:
        return any(_is_a(value, one) for one in get_args(hint))
    if origin is Literal:  # which of them, the configuration itself checks
        return isinstance(value, str)
    if origin is tuple:
        kinds = get_args(hint)
        return (
            isinstance(value, (list, tuple))
            and len(value) == len(kinds)
            and all(_is_a(one, kind) for one, kind in zip(value, kinds, strict=True))
        )
    if hint is NoneType:
        return value is None
    if hint in (int, float):
        kinds = (int,) if hint is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint)
