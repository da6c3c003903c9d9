"""What an agent is made of, as tensors and plain values, and back: for checkpoints that lose nothing, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from llmgym.agents.policies import Policy


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


def buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What a model computes with beside its weights, such as the frequencies of rotary positions.

    Most of it is in no file of transformers: it is computed anew when a model is loaded, in a precision that may differ
    from that of the model at hand.
    """
    return dict(model.named_buffers())


def put_buffers(model: torch.nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    """Give a model the buffers that another one had, in their precision.

    Raises:
        KeyError: If it has no such buffer.
    """
    own = buffers(model)
    for name, tensor in saved.items():
        device = own[name].device
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, tensor.to(device))


def align(model: torch.nn.Module) -> None:
    """Move weights to addresses that are multiples of 64 bytes, where they are not.

    Where safetensors puts them depends on the length of a file's header, and matrix products may round differently for
    other alignments: a resumed run would drift from an unbroken one.
    """
    for parameter in model.parameters():
        if parameter.data_ptr() % 64:
            parameter.data = parameter.data.clone()
