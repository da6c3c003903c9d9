"""A language model as a policy: it acts on observations token by token and gives log-probabilities for learning.

Both sides use one distribution: softmax of the logits over ``temperature``, without the tokens that the environment
does not know or that are forbidden at that place. So the ratio of the first minibatch is 1. Truncated sampling (top-k,
top-p) is not offered: the loss would have to renormalise over the same set, token by token.

Not for values or optimisers: a policy is a model, a temperature and a random generator.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import llmgym
from llmgym.agents.attention import AttentionMasks, prefer_fast_attention
from llmgym.agents.cache import IntArray, SlotCache, SlotRows
from llmgym.agents.losses import categorical_entropy
from llmgym.agents.prompt_states import PrefixCache, PromptStates
from llmgym.errors import InvalidActionError, InvalidOptionError
from llmgym.tokenizers import TINY_REASONER, Tokenizer, load_tokenizer

#: The action of a slot that waits (the environment's own constant is the same number).
WAIT = -1

#: Prompt tokens in one forward pass while acting: more would only cost memory.
_PREFILL_TOKENS = 16_384

_ASSETS = Path(llmgym.__file__).parent / "assets"


class Policy:
    """A causal language model that plays token environments.

    Args:
        model: Any transformers causal language model. Its attention implementation is set to one that takes a 4-D
            mask (see :mod:`llmgym.agents.attention`) and it is put in evaluation mode: dropout would make the
            log-probabilities of learning differ from those of sampling.
        tokenizer: The environment's tokenizer, to show text. Acting and learning need none.
        temperature: Logits are divided by it, in sampling and in learning. Lower is greedier; 1 is the model itself.
        forbidden: Token -> tokens that must not follow it. ``{think: [end_of_think]}`` forces a model to reason.
        n_actions: Tokens that the environment knows; further logits of the model are left out. ``None``: all.
        seed: Of the sampling.

    Raises:
        InvalidOptionError: If the temperature is not positive, or the model knows fewer tokens than the environment.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer | None = None,
        *,
        temperature: float = 1.0,
        forbidden: Mapping[int, Sequence[int]] | None = None,
        n_actions: int | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.generator = torch.Generator().manual_seed(seed)
        prefer_fast_attention(model)
        self._config = model.config.get_text_config()
        self._masks = AttentionMasks(self._config, dtype=model.dtype)
        self._last_position = int(getattr(self._config, "max_position_embeddings", None) or AttentionMasks.NEVER) - 1
        self.temperature = temperature
        self.n_actions = n_actions
        self.forbidden = forbidden or {}
        self._slots: SlotRows | None = None

    @classmethod
    def load(
        cls,
        name_or_path: str | os.PathLike[str] | PreTrainedModel | Policy,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> Policy:
        """A policy from a shipped model (``"tiny-reasoner"``), a folder, a hub name or a model already loaded.

        Args:
            name_or_path: What to load. A model is taken as it is; a policy is returned.
            device: ``None``: a GPU if there is one, otherwise the CPU.
            dtype: ``None``: bfloat16 on a GPU, float32 on a CPU.
            **options: Further arguments of :class:`Policy`.

        Raises:
            InvalidOptionError: If an argument cannot apply: all to a policy, ``device`` and ``dtype`` to a model.
        """
        given = {name: value for name, value in (("device", device), ("dtype", dtype)) if value is not None}
        if isinstance(name_or_path, Policy):
            given |= options
        if given and isinstance(name_or_path, (Policy, PreTrainedModel)):
            raise InvalidOptionError(
                f"Expected no {', '.join(given)} for a {type(name_or_path).__name__}, which is taken as it is, actual: "
                f"{', '.join(f'{name}={value!r}' for name, value in given.items())}. Set it there beforehand."
            )
        if isinstance(name_or_path, Policy):
            return name_or_path
        if isinstance(name_or_path, PreTrainedModel):
            return cls(name_or_path, **options)
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        path = str(_ASSETS / TINY_REASONER if name_or_path == TINY_REASONER else name_or_path)
        dtype = dtype or (torch.float32 if chosen.type == "cpu" else torch.bfloat16)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(chosen)
        if Path(path, "tokenizer.json").is_file() or not Path(path).exists():  # a hub name has no folder
            options.setdefault("tokenizer", load_tokenizer(path))
        return cls(model, **options)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

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
        known = int(self._config.vocab_size)
        if value is not None and value > known:
            raise InvalidOptionError(
                f"Expected a model that knows every token of the environment (vocabulary of {value}), actual: "
                f"vocabulary of {known}. Make the environment with the model's own tokenizer."
            )
        self._n_actions = known if value is None else int(value)
        self.forbidden = getattr(self, "_forbidden", {})

    @property
    def forbidden(self) -> Mapping[int, Sequence[int]]:
        """Token -> tokens that must not follow it."""
        return self._forbidden

    @forbidden.setter
    def forbidden(self, value: Mapping[int, Sequence[int]]) -> None:
        forbidden = {int(token): tuple(int(b) for b in after) for token, after in value.items()}
        known = int(self._config.vocab_size)
        for wrong in [i for token, after in forbidden.items() for i in (token, *after) if not 0 <= i < known]:
            raise InvalidOptionError(
                f"Expected `forbidden` to hold ids in [0, {known}) (the model's vocabulary), actual: {wrong}. "
                "Take them from the model's own tokenizer."
            )
        self._forbidden = forbidden
        # Row 0 forbids nothing; each token with a rule points to a row of its own.
        self._rule_of_token = torch.zeros(self._config.vocab_size, dtype=torch.long, device=self.device)
        self._rules = torch.zeros(len(value) + 1, self._n_actions, dtype=torch.bool, device=self.device)
        for row, (token, after) in enumerate(self._forbidden.items(), start=1):
            self._rule_of_token[token] = row
            self._rules[row, [b for b in after if b < self._n_actions]] = True
            if self._rules[row].all():
                raise InvalidOptionError(
                    f"Expected at least one token allowed after token {token}, actual: all {self._n_actions} "
                    "forbidden. Forbid fewer."
                )

    def frozen_copy(self) -> Policy:
        """The reference policy: the same distribution, weights that no longer change and take no gradient."""
        model = copy.deepcopy(self.model).requires_grad_(False)
        return Policy(
            model, self.tokenizer, temperature=self.temperature, forbidden=self.forbidden, n_actions=self.n_actions
        )

    @contextmanager
    def playing(
        self, *, temperature: float | None = None, forbidden: Mapping[int, Sequence[int]] | None = None
    ) -> Iterator[None]:
        """Within the context, another temperature or other forbidden tokens; ``None`` leaves what is."""
        before = self.temperature, self.forbidden
        try:
            if temperature is not None:
                self.temperature = temperature
            if forbidden is not None:
                self.forbidden = forbidden
            yield
        finally:
            self.temperature, self.forbidden = before

    def text(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        """The ids as text; as numbers where the policy has no tokenizer."""
        plain = [int(token) for token in ids]
        return " ".join(map(str, plain)) if self.tokenizer is None else self.tokenizer.decode(plain)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model (safetensors) and, if there is one, the tokenizer; :meth:`load` reads them back."""
        self.model.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save(folder)

    # -- acting ------------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Drop all that was remembered of the slots; needed after the weights changed."""
        if self._slots is not None:
            self._slots.release_all()

    @torch.no_grad()
    def act(
        self,
        observations: Mapping[str, Any],
        restarted: npt.NDArray[np.bool_] | None = None,
        waiting: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[IntArray, npt.NDArray[np.float32]]:
        """Choose the next token of every slot that does not wait.

        Only tokens that the policy has not seen yet go through the model: its own last action, what the environment
        wrote after it, or the whole transcript of a slot that restarted.

        Args:
            observations: ``input_ids`` and ``attention_mask``, ``(N, width)`` each, padded right.
            restarted: ``(N,)``. Slots whose transcript is not a continuation of the last one. ``None``: none, but for
                the first call after :meth:`forget`.
            waiting: ``(N,)``. Slots to leave out; their rows of the cache are given up. ``None``: none.

        Returns:
            actions: ``(N,)`` int64; ``-1`` where the slot waits.
            logprobs: ``(N,)`` float32, under the distribution sampled from; 0 where the slot waits.

        Raises:
            InvalidActionError: If a slot that did not restart shows no new token.
            InvalidOptionError: If a transcript is longer than the model's positions reach.
        """
        ids = np.asarray(observations["input_ids"])
        n_slots = len(ids)
        if self._slots is None or self._slots.n_slots != n_slots:
            self._slots = SlotRows(
                n_slots, SlotCache(self._config, n_slots, dtype=self.model.dtype, device=self.device)
            )
        slots = self._slots
        live = np.ones(n_slots, dtype=bool) if waiting is None else ~waiting
        known = slots.row >= 0
        fresh = live & ~known if restarted is None else live & (restarted | ~known)
        slots.release(np.flatnonzero(known & (fresh | ~live)))

        lengths = np.asarray(observations["attention_mask"]).sum(axis=1, dtype=np.int64)
        actions = np.full(n_slots, WAIT, dtype=np.int64)
        logprobs = np.zeros(n_slots, dtype=np.float32)
        # One uniform number a slot, drawn whoever waits: a slot's luck does not depend on its neighbours.
        uniforms = torch.rand(n_slots, 1, generator=self.generator, dtype=torch.float64)
        if not live.any():
            return actions, logprobs
        if lengths[live].max() > self._last_position + 1:
            raise InvalidOptionError(
                f"Expected transcripts of at most {self._last_position + 1} tokens (the model's positions), actual: "
                f"{int(lengths[live].max())}. Make the environment with a smaller max_prompt_tokens or max_new_tokens."
            )
        logits = self._advance(slots, ids, lengths, np.flatnonzero(fresh))  # (n_live, n_actions), in order of rows
        acting = slots.slot[: slots.n_rows]
        last = torch.as_tensor(ids[acting, lengths[acting] - 1], dtype=torch.long).to(self.device)
        tokens, chosen = self._sample(self._tempered(logits, last), uniforms[torch.from_numpy(acting)])
        actions[acting] = tokens.cpu().numpy()
        logprobs[acting] = chosen.cpu().numpy()
        return actions, logprobs

    def _advance(self, slots: SlotRows, ids: npt.NDArray[Any], lengths: IntArray, fresh: IntArray) -> torch.Tensor:
        """Feed every slot its new tokens; logits ``(n_live, n_actions)`` in the order of the cache's rows."""
        cache = slots.cache
        held = slots.slot[: slots.n_rows]
        counts = lengths[held] - cache.lengths[: slots.n_rows]
        if (counts < 1).any():
            slot = int(held[np.argmax(counts < 1)])
            raise InvalidActionError(
                f"Expected a new token in the observation of slot {slot}, which did not restart, actual: "
                f"{int(lengths[slot])} tokens, {int(cache.lengths[slots.row[slot]])} of them seen before. "
                "Say in `restarted` which slots began a new episode, and in `waiting` which ones wait."
            )
        # Rows that take one token come first, so that they are read where they lie.
        n_single = slots.put_first(counts == 1)
        pieces = []
        if n_single:
            acting = slots.slot[:n_single]
            tokens = torch.as_tensor(ids[acting, lengths[acting] - 1], dtype=torch.long).to(self.device)
            inputs = cache.plan_decode(n_single).as_kwargs()
            pieces.append(self.model(input_ids=tokens.unsqueeze(1), **inputs).logits[:, -1])
        if n_single < slots.n_rows:
            pieces.append(self._append(slots, ids, lengths, np.arange(n_single, slots.n_rows)))
        if len(fresh):
            pieces.append(self._enter(slots, ids, lengths, fresh))
        return torch.cat(pieces)[:, : self.n_actions]

    def _append(self, slots: SlotRows, ids: npt.NDArray[Any], lengths: IntArray, rows: IntArray) -> torch.Tensor:
        """Several new tokens for each of ``rows``: the environment wrote after the policy."""
        cache, acting = slots.cache, slots.slot[rows]
        seen = cache.lengths[rows]
        counts = lengths[acting] - seen
        columns = seen[:, None] + np.minimum(np.arange(counts.max())[None], counts[:, None] - 1)
        tokens = torch.as_tensor(ids[acting[:, None], columns], dtype=torch.long).to(self.device)
        inputs = cache.plan_append(rows, counts).as_kwargs()
        return self._last_logits(tokens, counts, inputs)

    def _enter(self, slots: SlotRows, ids: npt.NDArray[Any], lengths: IntArray, fresh: IntArray) -> torch.Tensor:
        """Whole transcripts for slots that restarted; slots with the same one (a group) share the computation."""
        place: dict[bytes, int] = {}
        source = np.array([place.setdefault(ids[s, : lengths[s]].tobytes(), len(place)) for s in fresh])
        distinct = fresh[np.unique(source, return_index=True)[1]]
        rows = slots.claim(fresh)
        chunk = max(1, _PREFILL_TOKENS // int(lengths[distinct].max()))
        pieces = []
        for start in range(0, len(distinct), chunk):
            part = distinct[start : start + chunk]
            takers = np.flatnonzero((source >= start) & (source < start + len(part)))
            tokens = torch.as_tensor(ids[part, : lengths[part].max()], dtype=torch.long).to(self.device)
            inputs = slots.cache.plan_prompts(rows[takers], lengths[part], source[takers] - start).as_kwargs()
            pieces.append(self._last_logits(tokens, lengths[part], inputs))
        return torch.cat(pieces)[torch.as_tensor(source, device=self.device)]

    def _last_logits(self, tokens: torch.Tensor, counts: IntArray, inputs: dict[str, Any]) -> torch.Tensor:
        """Logits ``(b, V)`` after the last real token of each row of ``tokens`` ``(b, q)``."""
        rows = torch.arange(len(counts), device=self.device)
        last = torch.as_tensor(counts - 1, device=self.device)
        with _only_logits_at(self.model, rows, last):
            logits: torch.Tensor = self.model(input_ids=tokens, **inputs).logits
        return logits[0]

    def _tempered(self, logits: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """The logits of the distribution played, ``(n, n_actions)``, where ``last`` ``(n,)`` is the token before."""
        logits = logits.float()
        if self._temperature != 1.0:
            logits = logits / self._temperature
        if self._forbidden:
            logits = logits.masked_fill(self._rules[self._rule_of_token[last]], float("-inf"))
        return logits

    @staticmethod
    def _sample(logits: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and their log-probabilities by inverting the distribution function at ``uniforms`` ``(n, 1)``.

        One random number a row; drawing one for each token of the vocabulary costs more than a small model's layer.
        """
        logprobs = logits.log_softmax(-1)
        cumulative = logprobs.exp().cumsum(-1, dtype=torch.float64)
        total = cumulative[:, -1:]
        target = uniforms.to(logits.device) * total
        # Strictly below the total, whatever rounding does: the first entry above it then has probability > 0.
        target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
        tokens = torch.searchsorted(cumulative, target, right=True)
        return tokens[:, 0], logprobs.gather(1, tokens)[:, 0]

    # -- learning ----------------------------------------------------------------------------------------------------

    def logprobs(
        self,
        prompt_ids: torch.Tensor,
        prompt_lengths: torch.Tensor,
        response_ids: torch.Tensor,
        response_mask: torch.Tensor,
        *,
        prompts: PromptStates | None = None,
        prompt_index: torch.Tensor | None = None,
        with_entropy: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probabilities of the response tokens that the policy chose, with gradient.

        Args:
            prompt_ids: ``(P, L)`` int64, padded right. The distinct prompts.
            prompt_lengths: ``(P,)`` int64.
            response_ids: ``(B, T)`` int64, padded right.
            response_mask: ``(B, T)`` bool. True where the policy chose the token.
            prompts: What :meth:`prompt_states` gave for these prompts; ``None``: computed here.
            prompt_index: ``(B,)`` int64. The prompt of each response; ``None``: the rows in order (``P == B``).
            with_entropy: Whether to compute the entropy of each distribution too.

        Returns:
            logprobs: ``(B, T)`` float32, 0 outside the mask.
            entropy: ``(B, T)`` float32 in nats, 0 outside the mask, without gradient; ``None`` if not asked for.
        """
        b, t = response_ids.shape
        if response_mask.shape != (b, t):
            raise ValueError(f"Expected response_mask of shape {(b, t)}, actual: {tuple(response_mask.shape)}.")
        if prompt_index is None:
            prompt_index = torch.arange(b, device=response_ids.device)
        if prompts is None:
            prompts = self.prompt_states(prompt_ids, prompt_lengths)
        lengths = prompt_lengths[prompt_index]
        # The last prompt token predicts the first response token, so it is fed with the response.
        last_prompt = prompt_ids[prompt_index, lengths - 1]
        inputs = torch.cat([last_prompt.unsqueeze(1), response_ids[:, :-1]], dim=1)  # (B, T)
        row, column = response_mask.nonzero(as_tuple=True)
        logits = self._response_logits(prompts, prompt_index, lengths, inputs, row, column)
        logits = self._tempered(logits[:, : self.n_actions], inputs[row, column])
        flat = logits.log_softmax(-1)
        chosen = flat.gather(1, response_ids[row, column].unsqueeze(1))[:, 0]
        logprobs = torch.zeros(b, t, device=flat.device).index_put((row, column), chosen)
        if not with_entropy:
            return logprobs, None
        with torch.no_grad():
            entropy = torch.zeros(b, t, device=flat.device).index_put((row, column), categorical_entropy(flat))
        return logprobs, entropy

    def prompt_states(self, prompt_ids: torch.Tensor, prompt_lengths: torch.Tensor) -> PromptStates:
        """Keys and values of each prompt but its last token, with gradient: computed once for a whole group."""
        width = int(prompt_lengths.max()) - 1
        columns = torch.arange(width, device=prompt_ids.device)
        held = columns[None] < (prompt_lengths[:, None] - 1)
        key_positions = torch.where(held, columns, AttentionMasks.NEVER)
        layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        if width > 0:
            positions = columns.expand(len(prompt_ids), width)
            nothing = torch.arange(0, device=prompt_ids.device)
            cache = PrefixCache(self._config.num_hidden_layers, None)
            # The head's output is not wanted: one position keeps it as small as it can be.
            with _only_logits_at(self.model, nothing[:1], nothing[:1]):
                self.model(
                    input_ids=prompt_ids[:, :width],
                    position_ids=positions,
                    attention_mask=self._masks(positions, columns),
                    past_key_values=cache,
                    use_cache=True,
                )
            layers = cache.stored
        return PromptStates(layers, key_positions)

    def _response_logits(
        self,
        prompts: PromptStates,
        prompt_index: torch.Tensor,
        lengths: torch.Tensor,
        inputs: torch.Tensor,
        row: torch.Tensor,
        column: torch.Tensor,
    ) -> torch.Tensor:
        """Logits at ``(row, column)`` of responses that attend to their prompts' states and to themselves."""
        positions = lengths[:, None] - 1 + torch.arange(inputs.shape[1], device=inputs.device)[None]  # (B, T)
        keys = torch.cat([prompts.key_positions[prompt_index], positions], dim=1)
        with _only_logits_at(self.model, row, column):
            logits: torch.Tensor = self.model(
                input_ids=inputs,
                # Padding may reach past the model's last position; nobody reads it there, but the embedding must exist.
                position_ids=positions.clamp(max=self._last_position),
                attention_mask=self._masks(positions, keys),
                past_key_values=PrefixCache(self._config.num_hidden_layers, (prompts.layers, prompt_index)),
                use_cache=True,
            ).logits
        return logits[0]


@contextmanager
def _only_logits_at(model: PreTrainedModel, row: torch.Tensor, column: torch.Tensor) -> Iterator[None]:
    """Within the context the model gives logits ``(1, n, V)`` for the positions ``(row, column)`` alone.

    The hidden states are cut just before the output layer, whatever the model does to the logits afterwards.
    """

    def cut(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (arguments[0][row, column].unsqueeze(0), *arguments[1:])

    head = model.get_output_embeddings()
    if head is None:
        raise InvalidOptionError(
            f"Expected a causal language model with an output layer, actual: {type(model).__name__} has none. "
            "Load it with AutoModelForCausalLM."
        )
    handle = head.register_forward_pre_hook(cut)
    try:
        yield
    finally:
        handle.remove()
