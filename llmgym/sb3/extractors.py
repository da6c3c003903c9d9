"""Features of token observations: what an algorithm that knows nothing of language can learn from.

Ids are names, not amounts. The default extractor of Stable-Baselines3 feeds them to a network as numbers, from which a
network of some size learns easy tasks, but hardly which token stands beside which. Here each token is a one-hot vector
or a learned embedding, and tokens are counted from the end: what was written last is always in the same place, whatever
the length of the prompt.
"""

from __future__ import annotations

from typing import Literal

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from llmgym.errors import InvalidOptionError, unknown_name

KINDS = ("one_hot", "embedding")


def last_tokens(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, last_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The last ``last_k`` tokens of each state, the latest of them rightmost.

    Args:
        input_ids: ``(B, W)`` int64, padded on the right.
        attention_mask: ``(B, W)``. Not 0 where a token is written.
        last_k: At least 1.

    Returns:
        tokens: ``(B, last_k)`` int64. Where a state is shorter, 0 on the left.
        present: ``(B, last_k)`` bool. False there.

    Example:
        >>> ids = torch.tensor([[7, 8, 9, 0]])
        >>> last_tokens(ids, ids > 0, 2)[0], last_tokens(ids, ids > 0, 4)[0]
        (tensor([[8, 9]]), tensor([[0, 7, 8, 9]]))
    """
    length = attention_mask.ne(0).sum(1, keepdim=True)  # (B, 1)
    at = length + torch.arange(-last_k, 0, device=input_ids.device)  # (B, last_k)
    present = at >= 0
    return input_ids.gather(1, at.clamp(min=0)) * present, present


class TokenFeatures(BaseFeaturesExtractor):  # type: ignore[misc]  # Stable-Baselines3 is optional, and not followed
    """Features of ``Dict(input_ids, attention_mask)``: the last tokens, counted from the end, and how many there are.

    ``(B, W)`` ids become ``(B, last_k, D)`` and are flattened to ``(B, last_k * D)``, where ``D`` is ``V`` for one-hot
    vectors and ``embedding_dim`` for embeddings; a place before the start of the text is all zeros. With ``length``,
    a one-hot vector of the number of tokens written, ``(B, W + 1)``, stands behind them. For ``MultiInputPolicy`` (the
    name that Stable-Baselines3 has for policies on ``Dict`` observations) of any algorithm::

        PPO("MultiInputPolicy", envs, policy_kwargs={"features_extractor_class": TokenFeatures})

    Args:
        observation_space: The environment's.
        last_k: How many tokens; ``None``: all ``W``. Fewer forget the start of a long text; more cost weights.
        kind: ``"one_hot"``, or ``"embedding"`` for vocabularies of more than some hundred tokens.
        embedding_dim: Size of an embedding.
        length: Whether the number of tokens written is a feature.
        hidden: Size of a layer with ReLU on top, whose ``(B, hidden)`` outputs are then the features; 0 for none. For
            recurrent policies, which otherwise begin with the recurrent layer.

    Raises:
        InvalidOptionError: If the observations are not those of token actions, or an option is out of its bounds.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        *,
        last_k: int | None = None,
        kind: Literal["one_hot", "embedding"] = "one_hot",
        embedding_dim: int = 16,
        length: bool = True,
        hidden: int = 0,
    ) -> None:
        width, vocab_size = _read_space(observation_space)
        last_k = width if last_k is None else last_k
        if not 1 <= last_k <= width:
            raise InvalidOptionError(
                f"Expected `last_k` in [1, {width}] (tokens of a state), actual: {last_k}. Mend it."
            )
        if kind not in KINDS:
            raise unknown_name("`kind`", kind, KINDS)
        for name, value, least in (("embedding_dim", embedding_dim, 1), ("hidden", hidden, 0)):
            if value < least:
                raise InvalidOptionError(f"Expected `{name}` >= {least}, actual: {value}. Raise it.")
        each = vocab_size if kind == "one_hot" else embedding_dim
        n_features = last_k * each + (width + 1 if length else 0)
        super().__init__(observation_space, hidden or n_features)
        self.last_k, self.width, self.vocab_size, self.length = last_k, width, vocab_size, length
        self.embedding = nn.Embedding(vocab_size, embedding_dim) if kind == "embedding" else None
        self.top = nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU()) if hidden else nn.Identity()

    def forward(self, observations: dict[str, torch.Tensor]) -> torch.Tensor:
        """``(B, features_dim)`` float from ids and mask ``(B, W)``, which Stable-Baselines3 hands over as floats."""
        mask = observations["attention_mask"]
        tokens, present = last_tokens(observations["input_ids"].long(), mask, self.last_k)
        if self.embedding is None:
            features = nn.functional.one_hot(tokens, self.vocab_size).float()  # (B, last_k, V)
        else:
            features = self.embedding(tokens)  # (B, last_k, D)
        features = (features * present.unsqueeze(-1)).flatten(1)
        if self.length:
            n_tokens = nn.functional.one_hot(mask.ne(0).sum(1), self.width + 1)
            features = torch.cat([features, n_tokens.float()], dim=1)
        top: torch.Tensor = self.top(features)
        return top


def _read_space(space: spaces.Space) -> tuple[int, int]:  # type: ignore[type-arg]  # of any kind
    """Width of a state and size of the vocabulary."""
    entries = space.spaces if isinstance(space, spaces.Dict) else {}
    ids = entries.get("input_ids")
    if "attention_mask" not in entries or not isinstance(ids, spaces.Box):
        raise InvalidOptionError(
            f"Expected observations of token actions, Dict(input_ids, attention_mask), actual: {space}. "
            'Make the environment with action_unit="token".'
        )
    return ids.shape[0], int(ids.high.max()) + 1
