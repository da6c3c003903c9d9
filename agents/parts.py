"""What an agent is made of, as tensors and plain values, and back: for checkpoints that lose nothing, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from transformers import PreTrainedModel

from llmgym.agents.policies import Policy
from llmgym.tokenizers import Tokenizer


def part_state(part: Any, *, adapters: bool) -> Any:
    """The state of an attribute: of a policy that is kept for comparison, of a module, of an optimiser; or a number.

    Args:
        part: The attribute.
        adapters: Whether adapters are trained. A policy that is kept is then the model beneath them: it is loaded with
            them, and not written a second time.

    Raises:
        TypeError: If it is none of these.
    """
    if isinstance(part, Policy):
        return None if adapters else part.model.state_dict()
    if hasattr(part, "state_dict"):
        return part.state_dict()
    if part is None or type(part) in (bool, int, float, str):
        return part
    raise TypeError(f"Expected what is kept to have a state_dict or to be a plain value, actual: {part!r}.")


def with_state(part: Any, saved: Any) -> Any:
    """The attribute with a state that was saved; as it is where the one saved is of another kind (another option)."""
    if isinstance(part, Policy) or hasattr(part, "load_state_dict"):
        if isinstance(saved, Mapping):
            (part.model if isinstance(part, Policy) else part).load_state_dict(saved)
        return part
    return part if isinstance(saved, Mapping) else saved


def model_state(model: PreTrainedModel) -> dict[str, Any]:
    """What a model's files do not say of it, or not exactly.

    Buffers, such as the frequencies of rotary positions, are mostly in no file: they are computed anew when a model is
    loaded, in a precision that may differ from that of the model at hand. Weights of another precision than most would
    be rounded. Which weights take no gradient is known to nobody.
    """
    return {
        "buffers": dict(model.named_buffers()),
        "weights": {name: weight.data for name, weight in model.named_parameters() if weight.dtype != model.dtype},
        "frozen": [name for name, weight in model.named_parameters() if not weight.requires_grad],
    }


def put_model_state(model: PreTrainedModel, saved: Mapping[str, Any]) -> None:
    """Make a model that was loaded from its files the one that :func:`model_state` was asked of.

    Raises:
        AttributeError: If it is another kind of model.
    """
    device, frozen, weights = model.device, set(saved["frozen"]), dict(model.named_parameters())
    for name, tensor in saved["buffers"].items():
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner).get_buffer(leaf)
        setattr(model.get_submodule(owner), leaf, tensor.to(device))
    for name, tensor in saved["weights"].items():
        weights[name].data = tensor.to(device)
    for name, weight in weights.items():
        weight.requires_grad_(name not in frozen)


def make_vec_settings(envs: VectorEnv[Any, Any, Any]) -> dict[str, Any] | None:
    """How ``gymnasium.make_vec`` made an environment, as plain JSON values; ``None`` where they cannot say it.

    A tokenizer that is no name is the policy's own: ``None``.
    """
    if envs.spec is None or envs is not envs.unwrapped:
        return None
    kwargs = dict(envs.spec.kwargs)
    if not isinstance(kwargs.get("tokenizer", ""), str):
        kwargs["tokenizer"] = None
    kwargs = {name: value.value if isinstance(value, AutoresetMode) else value for name, value in kwargs.items()}
    of_slots = dict(kwargs.get("vector_kwargs") or {})
    if isinstance(of_slots.get("autoreset_mode"), AutoresetMode):
        kwargs["vector_kwargs"] = of_slots | {"autoreset_mode": of_slots["autoreset_mode"].value}
    try:
        json.dumps(kwargs)
    except (TypeError, ValueError):
        return None
    return {"num_envs": envs.num_envs} | kwargs


def make_vec_again(env_id: str, saved: Mapping[str, Any], tokenizer: Tokenizer | None) -> VectorEnv[Any, Any, Any]:
    """An environment like the one that :func:`make_vec_settings` was asked of."""
    kwargs = dict(saved)
    if "tokenizer" in kwargs and kwargs["tokenizer"] is None:
        kwargs["tokenizer"] = tokenizer
    modes = {mode.value for mode in AutoresetMode}
    of_slots = dict(kwargs.get("vector_kwargs") or {})
    for options in (kwargs, of_slots):
        if options.get("autoreset_mode") in modes:
            options["autoreset_mode"] = AutoresetMode(options["autoreset_mode"])
    return gym.make_vec(env_id, **kwargs | ({"vector_kwargs": of_slots} if of_slots else {}))


def align(model: torch.nn.Module) -> None:
    """Move weights to addresses that are multiples of 64 bytes, where they are not.

    Where safetensors puts them depends on the length of a file's header, and matrix products may round differently for
    other alignments: a resumed run would drift from an unbroken one.
    """
    for parameter in model.parameters():
        if parameter.data_ptr() % 64:
            parameter.data = parameter.data.clone()
