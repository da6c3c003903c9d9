"""Attention for transformers models on a CPU, and the masks that per-row positions need.

PyTorch's fused attention is made for many query rows; with the one query row of a decoding step, two plain matrix
products are two to three times as fast on a CPU. The function is offered to transformers through its own registry, so
no model code is touched. Not for GPUs: there the fused kernels win.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from llmgym.errors import InvalidOptionError

#: Name under which transformers knows :func:`matmul_attention`.
MATMUL_ATTENTION = "llmgym_matmul"


def matmul_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """``softmax(Q K^T * scaling + mask) V`` as two matrix products.

    Args:
        module: The attention layer; only its ``training`` flag is read.
        query: ``(b, heads, q, head_dim)``.
        key: ``(b, key_heads, width, head_dim)``; ``heads`` is a multiple of ``key_heads``.
        value: Like ``key``.
        attention_mask: ``(b, 1, q, width)`` float, added to the scores. ``None``: causal if there are several queries.
        scaling: Factor of the scores; ``None``: ``head_dim ** -0.5``.
        dropout: Share of attention weights dropped in training.
        softcap: Scores are squeezed into ``(-softcap, softcap)``.
        **kwargs: Ignored, but for what would change the result (``position_bias``, ``s_aux``), which is refused.

    Returns:
        ``(b, q, heads, head_dim)``, and no attention weights.
    """
    for name in ("position_bias", "s_aux"):
        if kwargs.get(name) is not None:
            raise InvalidOptionError(
                f"Expected attention without `{name}`, actual: {type(module).__name__} uses it. "
                'On a GPU load it with attn_implementation="eager", which is left alone there; on a CPU choose another '
                "architecture."
            )
    b, heads, q, head_dim = query.shape
    key_heads, width = key.shape[1], key.shape[2]
    shared = heads // key_heads
    # Heads that share keys become further query rows: keys and values are never repeated in memory.
    query = (query * (head_dim**-0.5 if scaling is None else scaling)).reshape(b, key_heads, shared * q, head_dim)
    scores = torch.matmul(query, key.transpose(2, 3)).view(b, heads, q, width)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores + attention_mask
    elif q > 1:
        ahead = torch.ones(q, width, dtype=torch.bool, device=query.device).triu(width - q + 1)
        scores = scores.masked_fill(ahead, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    if dropout and module.training:
        weights = torch.nn.functional.dropout(weights, dropout)
    output = torch.matmul(weights.view(b, key_heads, shared * q, width), value)
    return output.view(b, heads, q, head_dim).transpose(1, 2).contiguous(), None


def prefer_fast_attention(model: PreTrainedModel) -> None:
    """Give ``model`` attention that takes a 4-D mask: :func:`matmul_attention` on a CPU, fused kernels on a GPU.

    Eager attention on a GPU is left alone: a model that asks for it (soft caps, sinks) usually has to.
    """
    current = getattr(model.config, "_attn_implementation", None)
    if model.device.type == "cpu":
        if current in (None, "sdpa", "eager"):
            model.set_attn_implementation(MATMUL_ATTENTION)
    elif current not in ("sdpa", "eager"):
        model.set_attn_implementation("sdpa")


class AttentionMasks:
    """4-D additive masks from positions: a token sees the keys up to its own position, within the layer's window.

    Models whose layers differ (Gemma 2, Qwen with sliding layers) take a mapping from layer type to mask; one window
    for all layers (Mistral), or none, takes a single mask.

    Args:
        config: The model's configuration.
        dtype: Of the mask: that of the model's activations.

    Raises:
        InvalidOptionError: If a layer is neither full nor sliding-window attention.
    """

    #: A key position that no query reaches: for columns that hold nothing.
    NEVER = 2**31 - 1

    def __init__(self, config: Any, *, dtype: torch.dtype) -> None:
        layer_types = set(getattr(config, "layer_types", None) or ())
        unknown = sorted(layer_types - {"full_attention", "sliding_attention"})
        if unknown:
            raise InvalidOptionError(
                f"Expected a model with full or sliding-window attention layers only, actual: {unknown}. "
                "State-space, linear and chunked layers cannot be cached slot by slot; choose another architecture."
            )
        self._mixed = "sliding_attention" in layer_types
        # With layer types given, they alone say which layers use the window (Qwen2 states a window that none uses).
        window = getattr(config, "sliding_window", None)
        self._window: int | None = window if self._mixed or not layer_types else None
        self._dtype = dtype
        self._lowest = torch.finfo(dtype).min

    def __call__(
        self, query_positions: torch.Tensor, key_positions: torch.Tensor
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Masks ``(b, 1, q, width)`` from positions ``(b, q)`` and ``(width,)`` or ``(b, width)``."""
        keys = key_positions.view(-1, 1, 1, key_positions.shape[-1])
        queries = query_positions[:, None, :, None]  # (b, 1, q, 1)
        hidden = keys > queries
        if self._window is None:
            return self._additive(hidden)
        windowed = self._additive(hidden | (keys <= queries - self._window))
        return {"full_attention": self._additive(hidden), "sliding_attention": windowed} if self._mixed else windowed

    def _additive(self, hidden: torch.Tensor) -> torch.Tensor:
        # A finite bound, not -inf: a row of -inf alone (a padded query) would turn into NaN and spread.
        return torch.zeros(hidden.shape, dtype=self._dtype, device=hidden.device).masked_fill_(hidden, self._lowest)


AttentionInterface.register(MATMUL_ATTENTION, matmul_attention)
AttentionMaskInterface.register(MATMUL_ATTENTION, eager_mask)
