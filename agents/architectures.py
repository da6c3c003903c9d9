"""Which weight of a transformers model does what, for decoder-only architectures that have a fast path of their own.

Llama, Mistral, Qwen2 and Qwen3 differ in biases, in norms of queries and keys and in how many heads share keys; the
rest is one computation. Reading their weights by name lets decoding and learning run it with fewer and larger
operations than a tower of modules does. Every other model, and every one of these with something unusual inside
(adapters, sliding windows, hooks, quantised layers), is run by its own code: :func:`read_decoder` says ``None``.

Not for computing: see :mod:`llmgym.agents.fused_decoding` and :mod:`llmgym.agents.fused_learning`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)
from transformers.activations import ACT2FN

_KNOWN = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)

#: What a model may be made of, beside the classes of its own file.
_PARTS = (nn.Linear, nn.Embedding, nn.ModuleList, type(ACT2FN["silu"]))

#: Rotary embeddings whose frequencies do not depend on how long the text is.
_FIXED_ROPE = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class DecoderLayer:
    """The weights of one layer: the model's own parameters, not copies. ``H`` hidden size.

    Attributes:
        input_norm: ``(H,)``. Gain of the RMS norm before attention.
        q: ``H -> heads * head_dim``.
        k: ``H -> key_heads * head_dim``.
        v: ``H -> key_heads * head_dim``.
        o: ``heads * head_dim -> H``.
        q_norm: ``(head_dim,)``. Gain of the RMS norm of each query (Qwen3); ``None``: no norm.
        k_norm: ``(head_dim,)``. The same of each key.
        post_norm: ``(H,)``. Gain of the RMS norm before the MLP.
        gate: ``H -> intermediate``; the MLP is ``down(silu(gate(x)) * up(x))``.
        up: ``H -> intermediate``.
        down: ``intermediate -> H``.
    """

    input_norm: torch.Tensor
    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    o: nn.Linear
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    post_norm: torch.Tensor
    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear

    @property
    def weights(self) -> list[torch.Tensor]:
        """All of them."""
        linears = (self.q, self.k, self.v, self.o, self.gate, self.up, self.down)
        every = [self.input_norm, self.post_norm, self.q_norm, self.k_norm]
        every += [weight for linear in linears for weight in (linear.weight, linear.bias)]
        return [weight for weight in every if weight is not None]


@dataclass(frozen=True)
class Decoder:
    """A decoder-only transformer read by the roles of its weights.

    Attributes:
        embedding: ``(V, H)``.
        padding_id: The token whose embedding takes no gradient; ``None``: all do.
        layers: From first to last.
        norm: ``(H,)``. Gain of the last RMS norm, whose output the head is given.
        head: ``H -> V``; its weight may be the embedding's. ``None`` in a critic, whose output layer passes on.
        n_heads: Query heads.
        n_key_heads: Key and value heads; divides ``n_heads``.
        head_dim: Numbers in a head.
        epsilon: Of all RMS norms.
        inverse_frequencies: ``(head_dim / 2,)`` float32. Of the rotary embedding, in radians a position.
        rope_scale: Factor of its cosines and sines.
    """

    embedding: torch.Tensor
    padding_id: int | None
    layers: tuple[DecoderLayer, ...]
    norm: torch.Tensor
    head: nn.Linear | None
    n_heads: int
    n_key_heads: int
    head_dim: int
    epsilon: float
    inverse_frequencies: torch.Tensor
    rope_scale: float

    @property
    def weights(self) -> list[torch.Tensor]:
        """All of them; an output layer that is the embedding comes twice."""
        head = [] if self.head is None else [self.head.weight, self.head.bias]
        every = [self.embedding, *(weight for layer in self.layers for weight in layer.weights), self.norm, *head]
        return [weight for weight in every if weight is not None]

    @property
    def scaling(self) -> float:
        """Factor of attention scores."""
        scaling: float = self.head_dim**-0.5
        return scaling

    def rotary(self, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines ``(..., head_dim)`` of positions ``(...)``, as the model computes them."""
        angles = positions.unsqueeze(-1).float() * self.inverse_frequencies.float()
        angles = torch.cat([angles, angles], dim=-1)
        return (angles.cos() * self.rope_scale).to(dtype), (angles.sin() * self.rope_scale).to(dtype)


def read_decoder(model: PreTrainedModel) -> Decoder | None:
    """The weights of ``model`` by their roles; ``None`` where its own code has to run it."""
    if type(model) not in _KNOWN or not _is_plain(model):
        return None
    config, body = model.config, model.model
    layers = tuple(
        DecoderLayer(
            input_norm=layer.input_layernorm.weight,
            q=layer.self_attn.q_proj,
            k=layer.self_attn.k_proj,
            v=layer.self_attn.v_proj,
            o=layer.self_attn.o_proj,
            q_norm=layer.self_attn.q_norm.weight if hasattr(layer.self_attn, "q_norm") else None,
            k_norm=layer.self_attn.k_norm.weight if hasattr(layer.self_attn, "k_norm") else None,
            post_norm=layer.post_attention_layernorm.weight,
            gate=layer.mlp.gate_proj,
            up=layer.mlp.up_proj,
            down=layer.mlp.down_proj,
        )
        for layer in body.layers
    )
    attention = body.layers[0].self_attn
    return Decoder(
        embedding=body.embed_tokens.weight,
        padding_id=body.embed_tokens.padding_idx,
        layers=layers,
        norm=body.norm.weight,
        head=model.lm_head if isinstance(model.lm_head, nn.Linear) else None,
        n_heads=config.num_attention_heads,
        n_key_heads=config.num_key_value_heads,
        head_dim=attention.head_dim,
        epsilon=config.rms_norm_eps,
        inverse_frequencies=body.rotary_emb.inv_freq,
        rope_scale=float(body.rotary_emb.attention_scaling),
    )


def _is_plain(model: PreTrainedModel) -> bool:
    """Whether nothing in the model does more, or other things, than its class says."""
    config, body, own = model.config, model.model, type(model).__module__
    windowed = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if isinstance(model, MistralForCausalLM):
        windowed = config.sliding_window is not None
    if (
        windowed
        or config.hidden_act != "silu"
        or body.rotary_emb.rope_type not in _FIXED_ROPE
        or not len(body.layers) == config.num_hidden_layers > 0
        or type(model.lm_head) not in (nn.Linear, nn.Identity)
    ):
        return False
    dtypes = set()
    for module in _modules(model):  # one walk: it is taken for each rollout and each pass of learning
        kind = type(module)
        if kind not in _PARTS and kind.__module__ != own and module is not model.lm_head:
            return False
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or "forward" in vars(module):
            return False
        if vars(module).get("variance_epsilon", config.rms_norm_eps) != config.rms_norm_eps:
            return False
        dtypes |= {parameter.dtype for parameter in module._parameters.values() if parameter is not None}
    attentions = [layer.self_attn for layer in body.layers]
    # What is multiplied by as one matrix has its biases together, or none.
    joined = [[part.q_proj, part.k_proj, part.v_proj] for part in attentions]
    joined += [[layer.mlp.gate_proj, layer.mlp.up_proj] for layer in body.layers]
    return (
        len(dtypes) == 1
        # A pruned layer is smaller than the others.
        and len({tuple(weight.shape for weight in layer.parameters()) for layer in body.layers}) == 1
        and all(part.scaling == part.head_dim**-0.5 for part in attentions)
        and all(len({linear.bias is None for linear in linears}) == 1 for linears in joined)
    )


def _modules(model: nn.Module) -> Iterator[nn.Module]:
    """``model.modules()`` in a third of the time: one that is held twice comes twice."""
    left = [model]
    while left:
        module = left.pop()
        yield module
        left.extend(child for child in module._modules.values() if child is not None)
