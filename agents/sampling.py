"""The distribution that a policy plays, from a model's logits; drawing from it; sets of tokens as packed bits.

Sampling and learning shape logits in one order: temperature, tokens that the environment does not know or that are
forbidden at that place (by rules on the token before, or by a grammar), then top-k, then top-p, and what is left is
renormalised. The sets that top-k and top-p leave are kept from sampling and handed to learning: there the logits differ
by rounding, and after an update by more, and a set made anew would not be the set that was sampled from.

Not for models: everything here starts from logits.

Source: Holtzman et al., arXiv:1904.09751, section 3.1 (top-p); Fan et al., arXiv:1805.04833 (top-k);
DeepSeek-V3.2, arXiv:2512.02556, section 3.1 (learning keeps the sets of sampling).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from llmgym.agents.grammars import ResponseGrammar
from llmgym.errors import InvalidOptionError


class TokenDistribution:
    """Options that turn a model's logits into the distribution played. :class:`~llmgym.agents.policies.Policy` is one.

    Args:
        vocab_size: Tokens that the model knows.
        temperature: Logits are divided by it. Lower is greedier; 1 is the model itself.
        forbidden: Token -> tokens that must not follow it.
        grammar: Regular expression that responses match (see :mod:`llmgym.grammar`). ``None``: they may be any.
        n_actions: Tokens that the environment knows; further logits are left out. ``None``: all.
        top_k: Only the ``top_k`` most probable tokens may be drawn (more at a tie). ``None``: no such bound.
        top_p: Only the most probable tokens that together reach ``top_p`` may be drawn. ``None``: no such bound.

    Raises:
        InvalidOptionError: If an option is out of its bounds.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        temperature: float = 1.0,
        forbidden: Mapping[int, Sequence[int]] | None = None,
        grammar: str | None = None,
        n_actions: int | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> None:
        self._vocab_size = vocab_size
        self.temperature = temperature
        self._forbidden: dict[int, tuple[int, ...]] = {}
        self._n_actions = 0
        self.n_actions = n_actions
        self.forbidden = forbidden or {}
        self._grammar: ResponseGrammar | None = None
        self.grammar = grammar
        self.top_k = top_k
        self.top_p = top_p

    @property
    def temperature(self) -> float:
        """Logits are divided by it."""
        return self._temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        if not value > 0 or value == float("inf"):
            raise InvalidOptionError(
                f"Expected temperature > 0 and finite, actual: {value}. For nearly greedy play take a small one, 0.01."
            )
        self._temperature = float(value)

    @property
    def n_actions(self) -> int:
        """Size of the distribution: the environment's vocabulary."""
        return self._n_actions

    @n_actions.setter
    def n_actions(self, value: int | None) -> None:
        known = self._vocab_size
        if value is not None and value > known:
            raise InvalidOptionError(
                f"Expected a model that knows every token of the environment (vocabulary of {value}), actual: "
                f"vocabulary of {known}. Make the environment with the model's own tokenizer."
            )
        wanted = known if value is None else int(value)
        if wanted != self._n_actions:  # it is set before each rollout
            self._n_actions = wanted
            self.forbidden = self._forbidden

    @property
    def forbidden(self) -> Mapping[int, Sequence[int]]:
        """Token -> tokens that must not follow it."""
        return self._forbidden

    @forbidden.setter
    def forbidden(self, value: Mapping[int, Sequence[int]]) -> None:
        forbidden = {int(token): tuple(int(b) for b in after) for token, after in value.items()}
        known = self._vocab_size
        for wrong in [i for token, after in forbidden.items() for i in (token, *after) if not 0 <= i < known]:
            raise InvalidOptionError(
                f"Expected `forbidden` to hold ids in [0, {known}) (the model's vocabulary), actual: {wrong}. "
                "Take them from the model's own tokenizer."
            )
        # Row 0 forbids nothing; each token with a rule points to a row of its own.
        rule_of_token = torch.zeros(known, dtype=torch.long)
        rules = torch.zeros(len(value) + 1, self._n_actions, dtype=torch.bool)
        for row, (token, after) in enumerate(forbidden.items(), start=1):
            rule_of_token[token] = row
            rules[row, [b for b in after if b < self._n_actions]] = True
            if rules[row].all():
                raise InvalidOptionError(
                    f"Expected at least one token allowed after token {token}, actual: all {self._n_actions} "
                    "forbidden. Forbid fewer."
                )
        self._forbidden, self._rule_of_token, self._rules = forbidden, rule_of_token, rules

    @property
    def grammar(self) -> str | None:
        """Regular expression that responses match; ``None``: they may be any."""
        return None if self._grammar is None else self._grammar.pattern

    @grammar.setter
    def grammar(self, value: str | None) -> None:
        if value != self.grammar:  # the turns under way are those of the grammar that is
            self._grammar = None if value is None else ResponseGrammar(value)

    @property
    def top_k(self) -> int | None:
        """How many of the most probable tokens may be drawn; ``None``: all."""
        return self._top_k

    @top_k.setter
    def top_k(self, value: int | None) -> None:
        if value is not None and not (value >= 1 and value == int(value)):
            raise InvalidOptionError(
                f"Expected top_k a whole number >= 1, actual: {value}. For no such bound leave it out (None)."
            )
        self._top_k = None if value is None else int(value)

    @property
    def top_p(self) -> float | None:
        """Share of the probability that the tokens which may be drawn must reach; ``None``: all of it."""
        return self._top_p

    @top_p.setter
    def top_p(self, value: float | None) -> None:
        if value is not None and not 0 < value <= 1:
            raise InvalidOptionError(
                f"Expected top_p in (0, 1], actual: {value}. For no such bound leave it out (None)."
            )
        self._top_p = None if value is None else float(value)

    @property
    def truncates(self) -> bool:
        """Whether top-k or top-p leaves tokens out, so that learning needs the sets that sampling kept."""
        return (self._top_k is not None and self._top_k < self._n_actions) or (
            self._top_p is not None and self._top_p < 1
        )

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that make this distribution again."""
        return {
            "temperature": self.temperature,
            "forbidden": self.forbidden,
            "grammar": self.grammar,
            "n_actions": self.n_actions,
            "top_k": self.top_k,
            "top_p": self.top_p,
        }

    def shape_as(self, other: TokenDistribution) -> None:
        """Take over the options of another distribution."""
        for name, value in other.options.items():
            if getattr(self, name) != value:
                setattr(self, name, value)

    @contextmanager
    def playing(
        self,
        *,
        temperature: float | None = None,
        forbidden: Mapping[int, Sequence[int]] | None = None,
        grammar: str | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Iterator[None]:
        """Within the context, other options; ``None`` leaves what is (``top_p=1`` plays without the bound)."""
        before = self.options
        changes = {
            "temperature": temperature,
            "forbidden": forbidden,
            "grammar": grammar,
            "top_k": top_k,
            "top_p": top_p,
        }
        try:
            for name, value in changes.items():
                if value is not None:
                    setattr(self, name, value)
            yield
        finally:
            for name in changes:
                setattr(self, name, before[name])

    def shaped(self, logits: torch.Tensor, last: torch.Tensor, states: torch.Tensor | None = None) -> torch.Tensor:
        """Logits under temperature and forbidden tokens; top-k and top-p are not applied yet.

        Args:
            logits: ``(n, V)`` float, ``V >= n_actions``. The model's.
            last: ``(n,)`` int64. The token before the one that is chosen.
            states: ``(n,)`` int64. Of the grammar; ``None`` where there is no grammar.

        Returns:
            ``(n, n_actions)`` float32, ``-inf`` where forbidden.

        Raises:
            ValueError: If there is a grammar and no states, or the other way round.
        """
        if (states is None) != (self._grammar is None):
            raise ValueError(
                f"Expected states where there is a grammar, and only there, actual: grammar {self.grammar!r} and "
                f"{'no ' if states is None else ''}states."
            )
        logits = logits[:, : self._n_actions].float()
        if self._temperature != 1.0:
            logits = logits / self._temperature
        if self._forbidden:
            if self._rules.device != logits.device:
                self._rules, self._rule_of_token = self._rules.to(logits.device), self._rule_of_token.to(logits.device)
            logits = logits.masked_fill(self._rules[self._rule_of_token[last]], float("-inf"))
        if self._grammar is not None and states is not None:
            allowed = unpack_sets(self._grammar.packed(states), self._n_actions)
            logits = logits.masked_fill(~allowed, float("-inf"))
        return logits

    def check_leaves(self, last: torch.Tensor, states: torch.Tensor) -> None:
        """Refuse places where a grammar and the other rules together leave no token.

        Args:
            last: ``(n,)`` int64. The token before the one that is chosen.
            states: ``(n,)`` int64. Of the grammar.

        Raises:
            InvalidOptionError: If they do in one of them.
        """
        shaped = self.shaped(torch.zeros(len(last), self._n_actions, device=states.device), last, states)
        empty = (shaped == float("-inf")).all(1).nonzero()[:, 0].tolist()
        if empty:
            assert self._grammar is not None
            text = self._grammar.text_before(int(states[empty[0]]))
            raise InvalidOptionError(
                f"Expected the grammar {self.grammar!r}, `forbidden` and n_actions={self._n_actions} to leave a token "
                f"in each place, actual: none after a text such as {text!r} (token {int(last[empty[0]])} before). "
                "Forbid fewer, or write a grammar that needs none of those."
            )

    def kept(self, shaped: torch.Tensor) -> torch.Tensor:
        """``(n, n_actions)`` bool: the tokens that top-k and top-p leave of :meth:`shaped` logits."""
        return kept_tokens(shaped, top_k=self._top_k, top_p=self._top_p)


def kept_tokens(logits: torch.Tensor, *, top_k: int | None = None, top_p: float | None = None) -> torch.Tensor:
    """Which tokens truncated sampling leaves: the ``top_k`` most probable, then of those the ones that reach ``top_p``.

    Top-p keeps the smallest set of most probable tokens whose probabilities, renormalised over what top-k left, sum to
    at least ``top_p``. Tokens as probable as the last one kept are kept too, so that no order among equals matters.

    Args:
        logits: ``(n, V)`` float; ``-inf`` where a token must not be drawn.
        top_k: At least 1; ``None``: no such bound.
        top_p: In ``(0, 1]``; ``None``: no such bound.

    Returns:
        ``(n, V)`` bool. Each row keeps at least one token, and none of probability 0.

    Example:
        >>> logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
        >>> kept_tokens(logits, top_k=3, top_p=0.7)  # 0.4 / 0.9 is below 0.7, 0.7 / 0.9 is above
        tensor([[ True,  True, False, False]])
    """
    nothing = float("-inf")
    if top_k is not None and top_k < logits.shape[1]:
        weakest = logits.topk(top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < weakest, nothing)
    kept = logits > nothing
    if top_p is not None and top_p < 1:
        ordered = logits.sort(dim=1, descending=True).values
        cumulative = ordered.softmax(1, dtype=torch.float64).cumsum(1)
        # The first place where the sum reaches top_p; rounding may leave the whole sum just below it.
        last = (cumulative < top_p).sum(1, keepdim=True).clamp(max=logits.shape[1] - 1)
        kept = kept & (logits >= ordered.gather(1, last))
    return kept


def sample(logits: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and their log-probabilities by inverting the distribution function.

    One random number a row; drawing one for each token of the vocabulary costs more than a small model's layer.

    Args:
        logits: ``(n, V)`` float; ``-inf`` where a token must not be drawn.
        uniforms: ``(n, 1)`` float64 in ``[0, 1)``.

    Returns:
        tokens: ``(n,)`` int64.
        logprobs: ``(n,)`` float.
    """
    logprobs = logits.log_softmax(-1)
    cumulative = logprobs.exp().cumsum(-1, dtype=torch.float64)
    # Strictly below the total, rounded too (a float64 below 1 takes at least half of the last place off it): the first
    # entry above it exists, and has probability > 0.
    target = uniforms.to(logits.device) * cumulative[:, -1:]
    # Sums that are no numbers would give a token out of range.
    tokens = torch.searchsorted(cumulative, target, right=True).clamp_(max=logits.shape[1] - 1)
    return tokens[:, 0], logprobs.gather(1, tokens)[:, 0]


def pack_sets(sets: torch.Tensor) -> torch.Tensor:
    """Sets of tokens ``(..., V)`` bool as ``(..., ceil(V / 8))`` uint8 on their device: the bits of ``numpy.packbits``.

    Example:
        >>> pack_sets(torch.tensor([[True, False, False, False, False, False, False, True, True]]))
        tensor([[129, 128]], dtype=torch.uint8)
    """
    whole = torch.nn.functional.pad(sets, (0, -sets.shape[-1] % 8))
    packed: torch.Tensor = (whole.view(*sets.shape[:-1], -1, 8) * _bits(sets.device)).sum(-1, dtype=torch.uint8)
    return packed


def unpack_sets(packed: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """The inverse of :func:`pack_sets`: ``(..., n_tokens)`` bool from ``(..., ceil(n_tokens / 8))`` uint8.

    Example:
        >>> unpack_sets(torch.tensor([[129, 128]], dtype=torch.uint8), 9).int()
        tensor([[1, 0, 0, 0, 0, 0, 0, 1, 1]], dtype=torch.int32)
    """
    return (packed.unsqueeze(-1) & _bits(packed.device)).ne(0).flatten(-2)[..., :n_tokens]


def in_sets(packed: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Whether each of ``tokens`` ``(n,)`` is in its set, a row of ``packed`` ``(n, bytes)``; ``(n,)`` bool."""
    byte = packed.gather(1, (tokens // 8).unsqueeze(1))[:, 0]
    return (byte & _bits(packed.device)[tokens % 8]).ne(0)


def _bits(device: torch.device) -> torch.Tensor:
    return torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=device)
