"""Hidden states for learning from the architectures that :mod:`llmgym.agents.architectures` reads, without padding.

The same numbers as the model's own code to rounding, gradients included, in less time: tokens are packed (see
:mod:`llmgym.agents.packing`), and each layer is two functions with attention between them (see
:mod:`llmgym.agents.fused_functions`). Not for acting: see :mod:`llmgym.agents.fused_decoding`.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import embedding, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from llmgym.agents.activations import KeptLayer, KeptPass
from llmgym.agents.architectures import Decoder, DecoderLayer
from llmgym.agents.fused_functions import AfterAttention, BeforeAttention, Heads, RMSNorm, ShortAttention
from llmgym.agents.packing import Bucket, Packing

#: Keys up to which plain matrix products are the quicker attention on a CPU.
_SHORT = 96

#: Of the last layer's rows after attention all are computed where more than this share is wanted.
_NEARLY_ALL = 0.9


class _Mask(NamedTuple):
    """How the attention of a bucket is computed.

    Attributes:
        added: ``(1 or b, 1, T, K)`` in ``precision``, to the scores; ``None``: causal.
        precision: Of attention.
        short: Whether as plain matrix products.
    """

    added: torch.Tensor | None
    precision: torch.dtype
    short: bool


def read_packed(
    decoder: Decoder, packing: Packing, kept: KeptPass | None = None, *, gradient_checkpointing: bool = False
) -> torch.Tensor:
    """What the output layer is given in the states of ``packing``, those after the last tokens behind the others.

    Args:
        decoder: The model's weights; gradients reach them as through its own code.
        packing: What to read.
        kept: What acting computed of these tokens; ``None``: everything is computed here.
        gradient_checkpointing: Whether each layer is computed again in the backward pass.

    Returns:
        ``(m, H)``, or ``(m + B, H)`` with last states, in the weights' precision.
    """
    precision = decoder.norm.dtype
    # Sums over many layers stay in float32; where processors multiply in less, the factors are rounded.
    wide = torch.float32 if precision in (torch.bfloat16, torch.float16) else precision
    x = embedding(packing.ids, decoder.embedding, decoder.padding_id).to(wide)
    states = packing.states if packing.last_states is None else torch.cat([packing.states, packing.last_states])
    if kept is not None and not torch.is_grad_enabled():
        x = kept.last
    else:
        n = len(x)
        wanted = packing.wanted if len(packing.wanted) < _NEARLY_ALL * n else None
        cos, sin = (part[:, None, : decoder.head_dim // 2] for part in decoder.rotary(packing.positions, wide))
        turns = torch.complex(cos, sin)
        # Attention in half precision pays on a GPU alone.
        attending = wide if x.device.type == "cpu" else precision
        masks = [_mask(bucket, attending, x.device) for bucket in packing.buckets]
        for index, layer in enumerate(decoder.layers):
            is_last = index + 1 == len(decoder.layers)
            arguments = (decoder, layer, packing.buckets, masks, turns, wanted if is_last else None)
            if gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(_layer, x, *arguments, use_reentrant=False, preserve_rng_state=False)
            elif kept is not None:
                x = _layer(x, *arguments, kept.layer(index), kept.last if is_last else None)
            else:
                x = _layer(x, *arguments)
        if wanted is not None:
            states = torch.empty_like(packing.ids).index_copy_(0, wanted, torch.arange(len(x), device=x.device))[states]
    normed: torch.Tensor = RMSNorm.apply(x.index_select(0, states), decoder.norm, decoder.epsilon)
    return normed


def _layer(
    x: torch.Tensor,
    decoder: Decoder,
    layer: DecoderLayer,
    buckets: tuple[Bucket, ...],
    masks: list[_Mask],
    turns: torch.Tensor,
    wanted: torch.Tensor | None,
    kept: KeptLayer | None = None,
    last: torch.Tensor | None = None,
) -> torch.Tensor:
    """``(n, H)``, or of what is wanted ``(w, H)``, from ``(n, H)``; see :class:`~.fused_functions.AfterAttention`."""
    heads = Heads(decoder.n_heads, decoder.n_key_heads, decoder.head_dim)
    matrices = (layer.q.weight, layer.k.weight, layer.v.weight, layer.q.bias, layer.k.bias, layer.v.bias)
    geometry = (heads, decoder.epsilon, buckets)
    parts = BeforeAttention.apply(x, layer.input_norm, layer.q_norm, layer.k_norm, turns, geometry, kept, *matrices)
    attended = [
        attend(queries, keys_and_values, mask, wanted=kept is None)
        for queries, keys_and_values, mask in zip(parts[::2], parts[1::2], masks, strict=True)
    ]
    mlp = (layer.o, layer.gate, layer.up, layer.down)
    after: torch.Tensor = AfterAttention.apply(
        x,
        layer.post_norm,
        (decoder.epsilon, buckets, wanted),
        kept,
        last,
        *(linear.weight for linear in mlp),
        *(linear.bias for linear in mlp),
        *attended,
    )
    return after


def attend(queries: torch.Tensor, keys_and_values: torch.Tensor, mask: _Mask, *, wanted: bool = True) -> torch.Tensor:
    """``(b, T, heads, d)`` from queries like it and keys and values ``(b, K, 2, key_heads, d)``.

    Where it is not ``wanted``, and known already, only its gradient is right.
    """
    queries, keys_and_values = queries.to(mask.precision), keys_and_values.to(mask.precision)
    if mask.short:
        attended: torch.Tensor = ShortAttention.apply(queries, keys_and_values, mask.added, wanted)
        return attended
    keys, values = keys_and_values.transpose(1, 3).unbind(2)
    shared = queries.shape[2] // keys.shape[1]
    if mask.added is not None and shared > 1 and queries.is_cuda:
        # No fused kernel takes both a mask and heads that share keys; the other one holds all scores.
        keys, values, shared = keys.repeat_interleave(shared, 1), values.repeat_interleave(shared, 1), 1
    return scaled_dot_product_attention(
        queries.transpose(1, 2), keys, values, attn_mask=mask.added, is_causal=mask.added is None, enable_gqa=shared > 1
    ).transpose(1, 2)


def _mask(bucket: Bucket, precision: torch.dtype, device: torch.device) -> _Mask:
    width = bucket.shape[1] if bucket.ahead is None else bucket.ahead.shape[3]
    short = device.type == "cpu" and width <= _SHORT
    ahead = bucket.ahead
    if ahead is None:
        if not short:
            return _Mask(None, precision, False)
        ahead = torch.ones(1, 1, width, width, dtype=torch.bool, device=device).triu(1)
    added = torch.zeros(ahead.shape, dtype=precision, device=device).masked_fill_(ahead, float("-inf"))
    return _Mask(added, precision, short)
