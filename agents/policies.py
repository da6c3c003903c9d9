"""A language model as a policy: it acts on observations token by token and gives log-probabilities for learning.

Both sides use one distribution, see :mod:`llmgym.agents.sampling`: softmax of the logits over ``temperature``, without
the tokens that the environment does not know, that are forbidden at that place, that a grammar rules out, or that top-k
and top-p left out when the token was sampled. So the ratio of the first minibatch is 1.

Not for advantages or optimisers: a policy is a model, a distribution made of its logits and a random generator.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from llmgym.agents.activations import Activations
from llmgym.agents.architectures import read_decoder
from llmgym.agents.attention import prefer_fast_attention
from llmgym.agents.fused_decoding import FusedDecoder
from llmgym.agents.grammars import read_pattern, write_pattern
from llmgym.agents.module_decoding import ModuleDecoder
from llmgym.agents.pretrained import (
    add_lora,
    check_given,
    has_adapters,
    load_pretrained,
    merged,
    save_pretrained,
    without_adapters,
)
from llmgym.agents.prompt_states import PromptStates
from llmgym.agents.sampling import TokenDistribution, in_sets, pack_sets, sample
from llmgym.agents.scoring import ChosenTokens, Scores, score_tokens
from llmgym.agents.slots import Feed, IntArray, SlotDecoder, SlotRows, next_feed
from llmgym.agents.static_decoding import StaticDecoder
from llmgym.agents.trunks import Trunk, output_layer, spread
from llmgym.errors import InvalidActionError, InvalidOptionError, NotFiniteError
from llmgym.tokenizers import TINY_REASONER, Tokenizer

__all__ = ["WAIT", "Policy", "Scores"]

#: The action of a slot that waits (the environment's own constant is the same number).
WAIT = -1

#: Numbers in the float32 logits that learning has at once, 64 MiB of them.
_MAX_LOGITS = 2**24

#: Memory for what acting computes, 512 MiB.
_MAX_KEPT_BYTES = 2**29


class Policy(TokenDistribution):
    """A causal language model that plays token environments.

    Args:
        model: Any transformers causal language model. Its attention implementation is set to one that takes a 4-D
            mask (see :mod:`llmgym.agents.attention`) and it is put in evaluation mode: dropout would make the
            log-probabilities of learning differ from those of sampling.
        tokenizer: The environment's tokenizer, to show text. Without a grammar, acting and learning need none.
        temperature: Logits are divided by it, in sampling and in learning. Lower is greedier; 1 is the model itself.
        forbidden: Token -> tokens that must not follow it. ``{think: [end_of_think]}`` forces a model to reason.
        grammar: Regular expression that responses match (see :mod:`llmgym.grammar`), in sampling and in learning:
            ``r"(\\d ){3}"`` is three digits, then the end token. Needs the tokenizer; an agent takes the environment's.
        n_actions: Tokens that the environment knows; further logits of the model are left out. ``None``: all.
        top_k: Only so many of the most probable tokens may be drawn. ``None``: all.
        top_p: Only the most probable tokens that together reach this probability may be drawn. ``None``: all.
        seed: Of the sampling.
        gradient_checkpointing: Whether learning forgets what happens inside the model's layers and computes it again in
            the backward pass: a third more time for a fraction of the memory. Changes no result.
        fused: Whether to run the architectures that llmgym knows (see :mod:`llmgym.agents.architectures`) by its own
            code, which is faster; every other model, and with ``False`` these too, is run by transformers' code. The
            results are the same up to rounding.

    Attributes:
        value_head: Hidden states ``(n, hidden_size)`` -> values ``(n,)``: if there is one, :meth:`act` asks it too.
            ``None``: nothing is asked.
        last_values: ``(N,)`` float32. What the value head said of the states that the last :meth:`act` acted in, 0
            where a slot waited. ``None`` without a value head.
        last_allowed: ``(N, ceil(n_actions / 8))`` uint8, as ``numpy.packbits`` has it: the tokens that each slot could
            draw in the last :meth:`act`, nothing where it waited. ``None`` where neither top-k nor top-p is on.
        max_kept_bytes: Memory for what acting computes, where that is kept for learning: see
            :meth:`keeping_activations`. What does not fit is computed again.
        max_logits: Numbers in the float32 logits that learning has at once. More tokens than that are scored in chunks,
            whose logits are computed again in the backward pass.

    Raises:
        InvalidOptionError: If an option is out of its bounds, or the model knows fewer tokens than the environment.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer | None = None,
        *,
        temperature: float = 1.0,
        forbidden: Mapping[int, Sequence[int]] | None = None,
        grammar: str | None = None,
        n_actions: int | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        gradient_checkpointing: bool = False,
        fused: bool = True,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.generator = torch.Generator().manual_seed(seed)
        prefer_fast_attention(model)
        self._trunk = Trunk(model, gradient_checkpointing=gradient_checkpointing, fused=fused)
        super().__init__(
            self._trunk.vocab_size,
            temperature=temperature,
            forbidden=forbidden,
            grammar=grammar,
            n_actions=n_actions,
            top_k=top_k,
            top_p=top_p,
        )
        self.last_allowed: npt.NDArray[np.uint8] | None = None
        self.max_logits = _MAX_LOGITS
        self.value_head: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.last_values: npt.NDArray[np.float32] | None = None
        self.max_kept_bytes = _MAX_KEPT_BYTES
        self._slots: SlotRows | None = None
        self._decoder: SlotDecoder | None = None
        self._keeps = False
        self._was_told_to_forget = False

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
            name_or_path: What to load; a folder may hold an adapter. A model is taken as it is, a ``peft.PeftModel``
                too; a policy is returned.
            device: ``None``: a GPU if there is one, otherwise the CPU.
            dtype: ``None``: bfloat16 on a GPU, float32 on a CPU.
            **options: Further arguments of :class:`Policy`. ``grammar`` replaces the one that the folder may hold.

        Raises:
            InvalidOptionError: If an argument cannot apply: all to a policy, ``device`` and ``dtype`` to a model; or
                there is nothing to load.
        """
        given = {name: value for name, value in (("device", device), ("dtype", dtype)) if value is not None}
        if isinstance(name_or_path, Policy):
            given |= options
        if given and isinstance(name_or_path, (Policy, torch.nn.Module)):
            raise InvalidOptionError(
                f"Expected no {', '.join(given)} for a {type(name_or_path).__name__}, which is taken as it is, actual: "
                f"{', '.join(f'{name}={value!r}' for name, value in given.items())}. Set it there beforehand."
            )
        if isinstance(name_or_path, Policy):
            return name_or_path
        if isinstance(name_or_path, torch.nn.Module):
            check_given(name_or_path)
            return cls(name_or_path, **options)
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = dtype or (torch.float32 if chosen.type == "cpu" else torch.bfloat16)
        name = str(name_or_path)
        model, tokenizer = load_pretrained(name, device=chosen, dtype=dtype)
        grammar = None if name == TINY_REASONER else read_pattern(name)
        return cls(model, **({"tokenizer": tokenizer, "grammar": grammar} | options))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states that a value head on this model is given."""
        weight: torch.Tensor = output_layer(self.model).weight  # type: ignore[assignment]
        return weight.shape[1]

    @property
    def fused(self) -> bool:
        """Whether architectures that llmgym knows are run by its own code."""
        return self._trunk.fused

    @fused.setter
    def fused(self, value: bool) -> None:
        self._trunk.fused = value
        self.forget()

    @property
    def microbatch_tokens(self) -> int:
        """Tokens in one pass of learning that suit the device and whatever runs the model."""
        if self.device.type != "cpu":
            return 32_768
        # With padding, fewer: rows of unlike length have less of it apart.
        return 4096 if self.fused and read_decoder(self.model) is not None else 2048

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether learning computes the inside of the model's layers again in the backward pass."""
        return self._trunk.gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        self._trunk.gradient_checkpointing = value

    def add_lora(
        self,
        rank: int,
        alpha: float | None = None,
        target_modules: str | Sequence[str] = "all-linear",
        dropout: float = 0.0,
    ) -> Self:
        """Freeze the weights and train low-rank adapters beside them: see :func:`~llmgym.agents.pretrained.add_lora`.

        To be done before an agent is made of the policy. The policy stays the same until the adapters are trained.
        """
        seed = self.generator.initial_seed()
        self.model = add_lora(
            self.model, rank, alpha=alpha, target_modules=target_modules, dropout=dropout, seed=seed
        ).eval()
        self._trunk = Trunk(self.model, gradient_checkpointing=self.gradient_checkpointing, fused=self.fused)
        self._slots = self._decoder = None
        return self

    @property
    def has_adapters(self) -> bool:
        """Whether it is adapters that train, and not the model's own weights."""
        return has_adapters(self.model)

    def merged(self) -> Policy:
        """The same policy with its adapters added into a copy of the weights: to be saved as a plain model."""
        return Policy(merged(self.model), self.tokenizer, fused=self.fused, **self.options)

    def frozen_copy(self) -> Policy:
        """The reference policy: the same distribution, weights that no longer change and take no gradient.

        Of a policy with adapters it is the model without them, and shares its weights.
        """
        model = without_adapters(self.model) if self.has_adapters else copy.deepcopy(self.model)
        return Policy(model.requires_grad_(False), self.tokenizer, fused=self.fused, **self.options)

    def text(self, ids: Sequence[int] | npt.NDArray[Any]) -> str:
        """The ids as text; as numbers where the policy has no tokenizer."""
        plain = [int(token) for token in ids]
        return " ".join(map(str, plain)) if self.tokenizer is None else self.tokenizer.decode(plain)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model (safetensors) and, if there are any, tokenizer and grammar; :meth:`load` reads them back.

        So does transformers, but for the grammar. The other options are not written. Of a model with adapters see
        :func:`~llmgym.agents.pretrained.save_pretrained`.
        """
        save_pretrained(self.model, folder)
        if self.tokenizer is not None:
            self.tokenizer.save(folder)
        write_pattern(folder, self.grammar)

    # -- acting ------------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Without what is remembered of the slots, which is made again, and may be larger than the model."""
        return self.__dict__ | {"_slots": None, "_decoder": None, "_keeps": False}

    def forget(self) -> None:
        """Drop all that was remembered of the slots, and what was kept for learning outside of its context.

        Needed after the weights changed, or what computes them: a change that autograd does not count (of ``.data``, by
        a fused optimiser) may be noticed by nothing else.
        """
        if self._slots is not None:
            self._slots.release_all()
        if self._grammar is not None:
            self._grammar.forget()
        if self._activations is not None:
            if self._keeps:
                self._activations.end()
            else:
                self._activations.drop()
        self._was_told_to_forget = True

    @contextmanager
    def keeping_activations(self) -> Iterator[None]:
        """Within the context, what :meth:`act` computes is kept; afterwards learning from it begins with that.

        The first pass over the same tokens, with the same weights, then needs no forward pass of its own. The results
        are the same up to rounding. On a CPU, for architectures that llmgym's own code runs, without gradient
        checkpointing; for others nothing is kept. Send a loss back before the next context begins: its graph reads
        what is kept. :meth:`forget`, outside of a context, gives the memory back.
        """
        self._keeps = True
        self.forget()
        try:
            yield
        finally:
            self._keeps = False
            if isinstance(self._decoder, FusedDecoder):
                self._decoder.keeps = False

    @property
    def _activations(self) -> Activations | None:
        return self._decoder.activations if isinstance(self._decoder, FusedDecoder) else None

    @torch.no_grad()
    def act(
        self,
        observations: Mapping[str, Any],
        restarted: npt.NDArray[np.bool_] | None = None,
        waiting: npt.NDArray[np.bool_] | None = None,
        *,
        turn_starts: npt.NDArray[np.int64] | None = None,
    ) -> tuple[IntArray, npt.NDArray[np.float32]]:
        """Choose the next token of every slot that does not wait.

        Only tokens that the policy has not seen yet go through the model: its own last action, what the environment
        wrote after it, or the transcript of a slot that restarted, unless another slot that goes on began with it too.

        Args:
            observations: ``input_ids`` and ``attention_mask``, ``(N, width)`` each, padded right.
            restarted: ``(N,)``. Slots whose transcript is not a continuation of the last one. ``None``: none, but for
                the first call after :meth:`forget`.
            waiting: ``(N,)``. Slots to leave out; their rows of the cache are given up. ``None``: none.
            turn_starts: ``(N,)``. With a grammar, of the slots that restarted: index of the first token of the turn
                under way, for transcripts that begin within a response, as a restored state does. ``None``: those
                transcripts are prompts alone, or end with what the environment wrote.

        Returns:
            actions: ``(N,)`` int64; ``-1`` where the slot waits.
            logprobs: ``(N,)`` float32, under the distribution sampled from; 0 where the slot waits.

        Raises:
            InvalidActionError: If a transcript is empty, or a slot that did not restart shows no new token; with a
                grammar also if a turn does not keep to it, or it cannot be known where one began.
            InvalidOptionError: If a transcript is longer than the model's positions reach, or a grammar and
                ``forbidden`` together leave no token.
            NotFiniteError: If the model's logits are no finite numbers.
        """
        ids = np.asarray(observations["input_ids"])
        n_slots = len(ids)
        slots, decoder = self._memory(n_slots)
        live = np.ones(n_slots, dtype=bool) if waiting is None else ~waiting
        known = slots.row >= 0
        fresh = live & ~known if restarted is None else live & (restarted | ~known)
        released = np.flatnonzero(known & (fresh | ~live))
        slots.release(released)
        if self._activations is not None:
            self._activations.end(released)

        lengths = np.asarray(observations["attention_mask"]).sum(axis=1, dtype=np.int64)
        actions = np.full(n_slots, WAIT, dtype=np.int64)
        logprobs = np.zeros(n_slots, dtype=np.float32)
        # One uniform number a slot, drawn whoever waits: a slot's luck does not depend on its neighbours.
        uniforms = torch.rand(n_slots, 1, generator=self.generator, dtype=torch.float64)
        self.last_allowed = np.zeros((n_slots, -(-self.n_actions // 8)), dtype=np.uint8) if self.truncates else None
        self.last_values = None if self.value_head is None else np.zeros(n_slots, dtype=np.float32)
        if not live.any():
            return actions, logprobs
        of_live = lengths[live]
        self._check_positions(int(of_live.max()))
        if of_live.min() < 1:
            raise InvalidActionError(
                f"Expected at least one token in the observation of slot {np.flatnonzero(live & (lengths < 1))[0]}, "
                "actual: 0. A model needs one to go on from: give an empty prompt a token of its own, or say in "
                "`waiting` that the slot waits."
            )
        if self._grammar is not None:
            self._grammar.use(self.tokenizer, self.n_actions)
            self._grammar.read_slots(ids, lengths, live, fresh, restarted, turn_starts)
        try:
            new = np.flatnonzero(fresh)
            feed = next_feed(slots, ids, lengths, new, decoder.version if len(new) else 0)
            acting = slots.slot[: slots.n_rows]
            actions[acting], logprobs[acting] = self._choose(decoder, feed, acting, uniforms)
        except BaseException:
            self._slots = self._decoder = None  # half of it was read
            raise
        return actions, logprobs

    def _choose(
        self, decoder: SlotDecoder, feed: Feed, acting: IntArray, uniforms: torch.Tensor
    ) -> tuple[IntArray, npt.NDArray[np.float32]]:
        """Tokens and log-probabilities ``(n_rows,)``, in the order of rows; ``acting`` are their slots."""
        logits, hidden = decoder.advance(feed)
        if isinstance(decoder, FusedDecoder) and decoder.keeps:
            decoder.activations.note(feed, acting)
        values = [] if self.value_head is None else [self.value_head(hidden)]
        last = torch.from_numpy(feed.last).to(logits.device)
        states = None if self._grammar is None else self._grammar.states_of(acting, logits.device)
        logits = self.shaped(logits, last, states)
        if self.last_allowed is not None:
            kept = self.kept(logits)
            logits = logits.masked_fill(~kept, float("-inf"))
            self.last_allowed[acting] = pack_sets(kept).cpu().numpy()
        tokens, logprobs, *of_states = on_host(*sample(logits, uniforms[torch.from_numpy(acting)]), *values)
        if not np.isfinite(logprobs).all():
            if states is not None:
                self.check_leaves(last, states)
            raise NotFiniteError(
                f"Expected finite log-probabilities, actual: {float(logprobs[~np.isfinite(logprobs)][0])}. The model's "
                "weights or activations are no finite numbers any more: go back to an earlier checkpoint."
            )
        if of_states:
            if of_states[0].shape != acting.shape:
                raise ValueError(
                    f"Expected value_head to give one number for each state, {acting.shape}, actual: "
                    f"{of_states[0].shape}. Squeeze its last axis."
                )
            assert self.last_values is not None
            self.last_values[acting] = of_states[0]
        return tokens, logprobs

    def _memory(self, n_slots: int) -> tuple[SlotRows, SlotDecoder]:
        """Which rows belong to which slots, and what computes them: chosen anew when nothing is remembered."""
        slots, decoder = self._slots, self._decoder
        if slots is None or slots.n_slots != n_slots:
            slots = decoder = None
        if slots is None or decoder is None or self._was_told_to_forget:
            chosen = self._decoder_for(n_slots, decoder)
            if slots is None or chosen is not decoder:
                slots = SlotRows(n_slots, chosen.cache)
            self._slots, self._decoder, decoder = slots, chosen, chosen
            self._was_told_to_forget = False
            keeps = self._keeps and not self.gradient_checkpointing
            if keeps and isinstance(chosen, FusedDecoder) and not chosen.keeps:
                chosen.keep_activations(self.max_kept_bytes)
        return slots, decoder

    def _decoder_for(self, n_slots: int, present: SlotDecoder | None) -> SlotDecoder:
        """What computes the slots: ``present``, with the weights as they are now, where it still will do."""
        known = read_decoder(self.model) if self.fused else None
        if known is None or known.head is None or self.device.type not in ("cpu", "cuda"):
            if type(present) is ModuleDecoder and present.fits(self.model):
                return present
            return ModuleDecoder(self.model, n_slots)
        if self.device.type == "cuda":
            if isinstance(present, StaticDecoder) and present.fits(self.model) and present.reads(known):
                return present
            return StaticDecoder(self.model, known, n_slots)
        if not isinstance(present, FusedDecoder) or not present.fits(known):
            return FusedDecoder(known, n_slots)
        present.refresh(known)
        return present

    def _check_positions(self, longest: int) -> None:
        if longest > self._trunk.last_position + 1:
            raise InvalidOptionError(
                f"Expected transcripts of at most {self._trunk.last_position + 1} tokens (the model's positions), "
                f"actual: {longest}. Make the environment with a smaller max_prompt_tokens or max_new_tokens."
            )

    # -- learning ----------------------------------------------------------------------------------------------------

    def prompt_states(self, prompt_ids: torch.Tensor, prompt_lengths: torch.Tensor) -> PromptStates:
        """Keys and values of each prompt but its last token, with gradient: computed once for a whole group."""
        return self._trunk.prompt_states(prompt_ids, prompt_lengths, self._activations)

    def logprobs(
        self,
        prompt_ids: torch.Tensor,
        prompt_lengths: torch.Tensor,
        response_ids: torch.Tensor,
        response_mask: torch.Tensor,
        *,
        prompts: PromptStates | None = None,
        prompt_index: torch.Tensor | None = None,
        response_lengths: torch.Tensor | None = None,
        allowed: torch.Tensor | None = None,
        turn_starts: torch.Tensor | None = None,
        with_entropy: bool = False,
        entropy_gradient: bool = True,
        value_head: Callable[[torch.Tensor], torch.Tensor] | None = None,
        with_last_values: bool = True,
    ) -> Scores:
        """Log-probabilities of the response tokens that the policy chose, with gradient; on request, more.

        Args:
            prompt_ids: ``(P, L)`` int64, padded right. The distinct prompts.
            prompt_lengths: ``(P,)`` int64.
            response_ids: ``(B, T)`` int64, padded right.
            response_mask: ``(B, T)`` bool. True where the policy chose the token.
            prompts: What :meth:`prompt_states` gave for these prompts; ``None``: computed here.
            prompt_index: ``(B,)`` int64. The prompt of each response; ``None``: the rows in order (``P == B``).
            response_lengths: ``(B,)`` int64, what the environment wrote included: where ``last_values`` are read.
                ``None``: a response ends with the last token that the policy chose.
            allowed: ``(B, T, ceil(n_actions / 8))`` uint8. The packed sets that the tokens were drawn from (see
                :attr:`last_allowed`), read inside the mask only. Needed where top-k or top-p is on.
            turn_starts: ``(P,)`` int64. With a grammar, index in each prompt of the first token of the turn under way,
                where :meth:`act` was told of one. ``None``: each response begins a turn.
            with_entropy: Whether to compute the entropy of each distribution too.
            entropy_gradient: Whether it carries a gradient; without, it costs less memory.
            value_head: Hidden states ``(n, hidden_size)`` -> values ``(n,)``. ``None``: no values.
            with_last_values: Whether the value after each response is wanted too, where there is a value head; it costs
                a token a response.

        Raises:
            ValueError: If the shapes disagree, the sets are missing, or one (or the grammar) lacks the token that was
                chosen.
            InvalidActionError: If a response goes on after a token that does not keep to the grammar.
        """
        if allowed is None and self.truncates:
            raise ValueError(
                "Expected `allowed`, the sets that top-k and top-p left when the tokens were sampled, actual: None. "
                "Keep Policy.last_allowed of each step."
            )
        expected = (*response_ids.shape, -(-self.n_actions // 8))
        if allowed is not None and allowed.shape != expected:
            raise ValueError(f"Expected `allowed` of shape {expected}, actual: {tuple(allowed.shape)}.")
        reading = self._trunk.read(
            prompt_ids,
            prompt_lengths,
            response_ids,
            response_mask,
            prompts=prompts,
            prompt_index=prompt_index,
            response_lengths=response_lengths,
            with_last=value_head is not None and with_last_values,
            activations=self._activations,
        )
        chosen, sets = response_ids[response_mask], None if allowed is None else allowed[response_mask]
        if sets is not None and not in_sets(sets, chosen).all():
            raise ValueError(
                "Expected every token that the policy chose to be in its set of `allowed`, actual: one is not. "
                "Hand in the sets of the steps in which the tokens were sampled, in the same order."
            )
        states = None
        if self._grammar is not None:
            self._grammar.use(self.tokenizer, self.n_actions)
            first = None
            if turn_starts is not None:
                first = self._grammar.states_after_prompts(prompt_ids, prompt_lengths, turn_starts)
                first = first if prompt_index is None else first[prompt_index.cpu().numpy()]
            states = self._grammar.states_chosen(response_ids, response_mask, first)
            if not in_sets(self._grammar.packed(states), chosen).all():
                raise ValueError(
                    f"Expected every token that the policy chose to keep to its grammar {self.grammar!r}, actual: one "
                    "does not. Score responses that were played with it, or take it away."
                )
        tokens = ChosenTokens(reading.hidden, reading.before, chosen, sets, states)
        logprobs, entropy = score_tokens(
            self._trunk,
            self,
            tokens,
            with_entropy=with_entropy,
            entropy_gradient=entropy_gradient,
            max_logits=self.max_logits,
        )
        values, last_values = (None, None) if value_head is None else reading.values(value_head, response_mask)
        return Scores(
            spread(logprobs, response_mask),
            None if entropy is None else spread(entropy, response_mask),
            values,
            last_values,
        )

    @torch.no_grad()
    def next_probabilities(self, transcript: torch.Tensor, turn_start: int | None = None) -> torch.Tensor:
        """``(n_actions,)`` float: what :meth:`act` would draw the next token of a transcript from.

        Args:
            transcript: ``(L,)`` int64.
            turn_start: With a grammar, index of the first token of the turn under way. ``None``: it is about to begin.
        """
        ids = transcript.to(self.device).unsqueeze(0)
        states, length = None, ids.new_tensor([ids.shape[1]])
        if self._grammar is not None:
            self._grammar.use(self.tokenizer, self.n_actions)
            start = length if turn_start is None else ids.new_tensor([turn_start])
            states = self._grammar.as_index(self._grammar.states_after_prompts(ids, length, start), self.device)
        logits = self.shaped(self.model(input_ids=ids, use_cache=False).logits[:, -1], ids[:, -1], states)
        if self.truncates:
            logits = logits.masked_fill(~self.kept(logits), float("-inf"))
        return logits[0].softmax(-1)

    def values(
        self, value_head: Callable[[torch.Tensor], torch.Tensor], response_mask: torch.Tensor, **inputs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values ``(B, T)`` and last values ``(B,)`` as in :meth:`logprobs`, without the log-probabilities' cost.

        Args:
            value_head: As there.
            response_mask: As there.
            **inputs: The others of what :meth:`logprobs` reads.
        """
        reading = self._trunk.read(response_mask=response_mask, with_last=True, **inputs)
        values, last_values = reading.values(value_head, response_mask)
        assert last_values is not None
        return values, last_values


def on_host(*tensors: torch.Tensor) -> list[npt.NDArray[Any]]:
    """Tensors of one shape as arrays, in one transfer from a device; whole numbers come as float64 from there."""
    if tensors[0].device.type == "cpu":
        return [tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy() for tensor in tensors]
    return list(torch.stack([tensor.double() for tensor in tensors]).cpu().numpy())
