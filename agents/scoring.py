"""Log-probabilities of chosen tokens from hidden states, so many at a time that their logits fit in memory.

A vocabulary of 150,000 words makes 600 kB of float32 logits for a single token, several times over with what the
softmax and its gradient keep. Here a chunk's logits exist only while it is computed: with more chunks than one they are
computed again in the backward pass.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from llmgym.agents.losses import categorical_entropy
from llmgym.agents.sampling import TokenDistribution, unpack_sets
from llmgym.agents.trunks import Trunk


class Scores(NamedTuple):
    """What learning asks of a policy, at each token that it chose; 0 elsewhere.

    Attributes:
        logprobs: ``(B, T)`` float32. Of the chosen tokens, under the distribution played.
        entropy: ``(B, T)`` float32, in nats. Of that distribution; ``None`` if not asked for.
        values: ``(B, T)`` float32. Of the state in which the token was chosen; ``None`` if not asked for.
        last_values: ``(B,)`` float32. Of the state after the response's last token; ``None`` if not asked for.
    """

    logprobs: torch.Tensor
    entropy: torch.Tensor | None = None
    values: torch.Tensor | None = None
    last_values: torch.Tensor | None = None


class ChosenTokens(NamedTuple):
    """Tokens to score, ``n`` of them.

    Attributes:
        hidden: ``(n, H)``. What the output layer is given.
        before: ``(n,)`` int64. The token before each.
        chosen: ``(n,)`` int64.
        allowed: ``(n, ceil(n_actions / 8))`` uint8. Packed sets that they were drawn from; ``None``: no truncation.
    """

    hidden: torch.Tensor
    before: torch.Tensor
    chosen: torch.Tensor
    allowed: torch.Tensor | None

    def split(self, size: int) -> list[ChosenTokens]:
        """The same in chunks of at most ``size`` tokens; one empty chunk if there are none."""
        return [
            ChosenTokens(
                self.hidden[start : start + size],
                self.before[start : start + size],
                self.chosen[start : start + size],
                None if self.allowed is None else self.allowed[start : start + size],
            )
            for start in range(0, max(1, len(self.chosen)), size)
        ]


def score_tokens(
    trunk: Trunk,
    distribution: TokenDistribution,
    tokens: ChosenTokens,
    *,
    with_entropy: bool,
    entropy_gradient: bool,
    max_logits: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities and entropies ``(n,)`` float32, with gradient, never more than ``max_logits`` logits at once.

    Args:
        trunk: Gives logits of hidden states.
        distribution: Shapes them.
        tokens: What to score.
        with_entropy: Whether to compute the entropy too; ``None`` is returned instead.
        entropy_gradient: Whether it carries a gradient, whose graph costs as much memory as the logits.
        max_logits: Numbers in the logits of one chunk; a chunk has one token at least.
    """

    def score(part: ChosenTokens) -> tuple[torch.Tensor, torch.Tensor | None]:
        logits = distribution.shaped(trunk.logits(part.hidden), part.before)
        if part.allowed is not None:
            logits = logits.masked_fill(~unpack_sets(part.allowed, logits.shape[1]), float("-inf"))
        flat = logits.log_softmax(-1)
        chosen = flat.gather(1, part.chosen.unsqueeze(1))[:, 0]
        if not with_entropy:
            return chosen, None
        with torch.set_grad_enabled(torch.is_grad_enabled() and entropy_gradient):
            return chosen, categorical_entropy(flat)

    chunks = tokens.split(max(1, max_logits // trunk.vocab_size))
    if len(chunks) == 1:
        return score(chunks[0])
    # Nothing is random in it, so there is no generator's state to put back.
    scored = [checkpoint(score, chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    logprobs, entropies = zip(*scored, strict=True)
    return torch.cat(logprobs), torch.cat(entropies) if with_entropy else None
