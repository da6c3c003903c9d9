"""Log-probabilities of chosen tokens from hidden states, so many at a time that their logits fit in memory.

A vocabulary of 150,000 words makes 600 kB of float32 logits for a single token, several times over with what the
softmax and its gradient keep. Here a chunk's logits exist only while it is computed: with more chunks than one they are
computed again in the backward pass.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

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
        states: ``(n,)`` int64. The distribution's grammar was in when they were drawn; ``None``: there is none.
    """

    hidden: torch.Tensor
    before: torch.Tensor
    chosen: torch.Tensor
    allowed: torch.Tensor | None
    states: torch.Tensor | None = None

    def split(self, size: int) -> list[ChosenTokens]:
        """The same in chunks of at most ``size`` tokens; one empty chunk if there are none."""
        return [
            ChosenTokens(
                self.hidden[start : start + size],
                self.before[start : start + size],
                self.chosen[start : start + size],
                None if self.allowed is None else self.allowed[start : start + size],
                None if self.states is None else self.states[start : start + size],
            )
            for start in range(0, max(1, len(self.chosen)), size)
        ]


class ChosenLogprobs(Function):
    """``log p(a) = z_a - log sum_b exp z_b`` of the chosen tokens, and the entropy, from one softmax.

    Its gradient is made directly, ``d log p(a) / dz = [.=a] - p`` and ``dH / dz = -p (log p + H)``: the logits' size is
    kept once for the backward pass. Takes logits ``(n, V)`` (``-inf`` where a token is forbidden), chosen tokens
    ``(n,)``, whether to compute the entropy and whether that carries a gradient; gives ``(n,)`` each, ``None`` for an
    entropy that is not wanted.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, chosen: torch.Tensor, with_entropy: bool, entropy_gradient: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        ctx.set_materialize_grads(False)
        every = logits.log_softmax(-1)
        logprobs = every.gather(1, chosen.unsqueeze(1))[:, 0]
        # A finite bound in place of -inf, for 0 times it is 0.
        every.clamp_(min=torch.finfo(every.dtype).min)
        entropy = -(every.exp() * every).sum(-1) if with_entropy else None
        if entropy is not None and not entropy_gradient:
            ctx.mark_non_differentiable(entropy)
        ctx.save_for_backward(every, chosen, entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_logprobs: torch.Tensor | None, of_entropy: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        every, chosen, entropy = ctx.saved_tensors
        p = every.exp()
        grad = torch.zeros_like(p) if of_logprobs is None else p * -of_logprobs.unsqueeze(1)
        if of_logprobs is not None:
            grad.scatter_add_(1, chosen.unsqueeze(1), of_logprobs.unsqueeze(1))
        if of_entropy is not None:
            grad.addcmul_(p * of_entropy.unsqueeze(1), every + entropy.unsqueeze(1), value=-1)
        return grad, None, None, None


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
        logits = distribution.shaped(trunk.logits(part.hidden), part.before, part.states)
        if part.allowed is not None:
            logits = logits.masked_fill(~unpack_sets(part.allowed, logits.shape[1]), float("-inf"))
        logprobs, entropy = ChosenLogprobs.apply(logits, part.chosen, with_entropy, entropy_gradient)  # type: ignore[no-untyped-call]
        return logprobs, entropy

    chunks = tokens.split(max(1, max_logits // trunk.vocab_size))
    if len(chunks) == 1:
        return score(chunks[0])
    # Nothing is random in it, so there is no generator's state to put back.
    scored = [checkpoint(score, chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    logprobs, entropies = zip(*scored, strict=True)
    return torch.cat(logprobs), torch.cat(entropies) if with_entropy else None
