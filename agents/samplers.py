"""A policy whose tokens another engine samples (vLLM, say), many at once, while the environment is stepped one by one.

An engine is slow to ask and quick to go on, so it is asked for whole responses, and :meth:`SampledPolicy.act` hands
them out a token a step. The environment stays the judge: it sees every token, ends an episode where its rules say so,
and writes where it wants to. What the engine had written beyond that point is thrown away, and the rest is sampled anew
from the transcript as it is then. So the distribution played is that of one token at a time, whatever is asked for at
once.

Not for an engine's own calls: an engine is a :class:`BatchSampler`; that for vLLM is in
:mod:`llmgym.agents.vllm_sampler`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from llmgym.agents.policies import WAIT, Policy
from llmgym.agents.slots import IntArray
from llmgym.errors import InvalidActionError, InvalidOptionError, LLMGymError, NotFiniteError
from llmgym.tokenizers import Tokenizer

__all__ = ["BatchSampler", "Continuation", "SampledPolicy"]


class Continuation(NamedTuple):
    """What an engine wrote after a prompt.

    Attributes:
        ids: At least one token; the end token, where it was drawn, is the last.
        logprobs: One for each, under the distribution that it was drawn from.
    """

    ids: Sequence[int]
    logprobs: Sequence[float]


class BatchSampler(Protocol):
    """An engine that writes on from many prompts at once. It has weights of its own, which are handed over to it."""

    def load_weights(self, policy: Policy) -> None:
        """Play the policy's weights from now on."""
        ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: Sequence[int],
        *,
        temperature: float,
        n_actions: int,
        end_token_id: int | None,
        seed: int,
    ) -> Sequence[Continuation]:
        """Write on from each prompt.

        Args:
            prompts: Ids, at least one each; equal ones are to be continued independently of one another.
            max_tokens: For each prompt, how many tokens to write at most; at least 1.
            temperature: Logits are divided by it, and the log-probabilities are those after the division.
            n_actions: Only tokens below it may be drawn.
            end_token_id: The token to stop after. ``None``: there is none.
            seed: Of the sampling.

        Returns:
            One for each prompt, in their order. Stopping early for a reason of the engine's own is allowed.
        """
        ...


class _Drafts:
    """What an engine has written for each of ``n`` slots, and how far it is handed out."""

    def __init__(self, n: int, width: int) -> None:
        self.ids: IntArray = np.zeros((n, width), dtype=np.int64)
        self.logprobs: npt.NDArray[np.float32] = np.zeros((n, width), dtype=np.float32)
        self.length: IntArray = np.zeros(n, dtype=np.int64)  # tokens written
        self.place: IntArray = np.zeros(n, dtype=np.int64)  # how many of them are handed out
        # Tokens of the transcript once the environment has appended what was handed out; 0: nothing is known of a slot.
        self.expected: IntArray = np.zeros(n, dtype=np.int64)

    def goes_on(self, slots: IntArray, ids: npt.NDArray[Any], lengths: IntArray) -> npt.NDArray[np.bool_]:
        """Whether each of ``slots`` has a token left to hand out and its transcript ends with the last one handed."""
        place, at = self.place[slots], lengths[slots]
        last = self.ids[slots, np.maximum(place - 1, 0)]
        goes: npt.NDArray[np.bool_] = (
            (place < self.length[slots]) & (at == self.expected[slots]) & (ids[slots, at - 1] == last)
        )
        return goes

    def put(self, slot: int, written: Continuation) -> None:
        """Replace what is kept for a slot."""
        n = len(written.ids)
        self.ids[slot, :n] = written.ids
        self.logprobs[slot, :n] = written.logprobs
        self.length[slot], self.place[slot] = n, 0


class SampledPolicy(Policy):
    """A policy that learns here and whose tokens an engine samples.

    It is a :class:`~llmgym.agents.policies.Policy` in all but :meth:`act`: agents, ``collect`` and ``evaluate`` take it
    as they take any other. Its log-probabilities are the engine's, which computes in its own way: let the agent weigh
    for that, ``GRPO(policy, ..., importance_cap=2.0)``.

    The weights are handed over before the first token after :meth:`forget`, which ``collect`` calls first of all.

    Args:
        model: As for a policy: what learns.
        tokenizer: The environment's. Without it the engine does not know where a response ends, and writes on.
        sampler: The engine.
        max_tokens: Tokens asked for at once, best the environment's ``max_new_tokens``. Fewer mean more calls, more
            are thrown away; the distribution is the same.
        **options: Further arguments of a policy. Neither top-k nor top-p nor ``forbidden`` nor a grammar: an engine
            does not tell which tokens could be drawn, and knows no rules of ours.

    Raises:
        InvalidOptionError: If ``max_tokens`` is below 1, or a policy's option is out of its bounds.

    Example::

        sampler = VLLMSampler("Qwen/Qwen2.5-0.5B-Instruct", gpu_memory_utilization=0.4)
        policy = SampledPolicy.load("Qwen/Qwen2.5-0.5B-Instruct", sampler=sampler, max_tokens=512)
        agent = GRPO(policy, "llmgym/MathReason-v0", importance_cap=2.0)
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer | None = None,
        *,
        sampler: BatchSampler,
        max_tokens: int = 256,
        **options: Any,
    ) -> None:
        super().__init__(model, tokenizer, **options)
        self._play_through(sampler, max_tokens)

    @classmethod
    def of(cls, policy: Policy, sampler: BatchSampler, max_tokens: int = 256) -> Self:
        """The policy with an engine: the same model, options and random generator.

        So an agent that was loaded goes on with one: ``agent.policy = SampledPolicy.of(agent.policy, sampler)``.
        """
        policy.forget()
        made = cls.__new__(cls)
        made.__dict__.update(policy.__dict__)  # all of it, whatever a policy is made of
        made._play_through(sampler, max_tokens)
        return made

    def _play_through(self, sampler: BatchSampler, max_tokens: int) -> None:
        if max_tokens < 1:
            raise InvalidOptionError(f"Expected max_tokens >= 1, actual: {max_tokens}. Raise it.")
        self.sampler = sampler
        self.max_tokens = max_tokens
        self._drafts: _Drafts | None = None
        self._weights_changed = True

    def forget(self) -> None:
        """Throw away what is not handed out yet; the weights are handed over before the next token."""
        super().forget()
        self._drafts = None
        self._weights_changed = True

    def act(
        self,
        observations: Mapping[str, Any],
        restarted: npt.NDArray[np.bool_] | None = None,
        waiting: npt.NDArray[np.bool_] | None = None,
        *,
        turn_starts: npt.NDArray[np.int64] | None = None,
    ) -> tuple[IntArray, npt.NDArray[np.float32]]:
        """The next token of every slot that does not wait: one that is written already, or else the engine is asked.

        Arguments and returns as in :meth:`Policy.act`; ``turn_starts`` is for grammars, of which there is none.

        Raises:
            InvalidActionError: If a slot that did not restart shows no new token.
            InvalidOptionError: If top-k, top-p, ``forbidden`` or a grammar is on.
            LLMGymError: If the engine does not keep to what a :class:`BatchSampler` returns.
        """
        self._check_distribution()
        self.last_allowed = self.last_values = None  # an engine tells of neither
        ids = np.asarray(observations["input_ids"])
        lengths = np.asarray(observations["attention_mask"]).sum(axis=1, dtype=np.int64)
        if self._drafts is None or len(self._drafts.ids) != len(ids):
            self._drafts = _Drafts(len(ids), self.max_tokens)
        drafts = self._drafts
        live = np.ones(len(ids), dtype=bool) if waiting is None else ~waiting
        drafts.expected[~live if restarted is None else ~live | restarted] = 0
        acting = np.flatnonzero(live)
        stuck = acting[lengths[acting] < drafts.expected[acting]]
        if len(stuck):
            raise InvalidActionError(
                f"Expected a new token in the observation of slot {stuck[0]}, which did not restart, actual: "
                f"{lengths[stuck[0]]} tokens. Say in `restarted` which slots began a new episode, and in `waiting` "
                "which ones wait."
            )
        self._write(drafts, ids, lengths, acting[~drafts.goes_on(acting, ids, lengths)])

        actions = np.full(len(ids), WAIT, dtype=np.int64)
        logprobs = np.zeros(len(ids), dtype=np.float32)
        place = drafts.place[acting]
        actions[acting], logprobs[acting] = drafts.ids[acting, place], drafts.logprobs[acting, place]
        drafts.place[acting] += 1
        drafts.expected[acting] = lengths[acting] + 1
        return actions, logprobs

    def _write(self, drafts: _Drafts, ids: npt.NDArray[Any], lengths: IntArray, slots: IntArray) -> None:
        """Let the engine write on from the transcripts of ``slots``, all in one call."""
        if not len(slots):
            return
        if self._weights_changed:
            self.sampler.load_weights(self)
            self._weights_changed = False
        written = self.sampler.generate(
            [ids[slot, : lengths[slot]].tolist() for slot in slots],
            np.minimum(self.max_tokens, ids.shape[1] - lengths[slots]).tolist(),
            temperature=self.temperature,
            n_actions=self.n_actions,
            end_token_id=None if self.tokenizer is None else self.tokenizer.end_token_id,
            seed=int(torch.randint(2**31 - 1, (), generator=self.generator)),
        )
        if len(written) != len(slots):
            raise LLMGymError(
                f"Expected {len(slots)} continuations of the sampler, one for each prompt, actual: {len(written)}."
            )
        for slot, continuation in zip(slots.tolist(), written, strict=True):
            n = len(continuation.ids)
            if not 1 <= n <= self.max_tokens or len(continuation.logprobs) != n:
                raise LLMGymError(
                    f"Expected 1 to {self.max_tokens} tokens of the sampler for slot {slot}, and a log-probability for "
                    f"each, actual: {n} tokens and {len(continuation.logprobs)} log-probabilities."
                )
            if not np.isfinite(continuation.logprobs).all():
                raise NotFiniteError(
                    f"Expected finite log-probabilities of the sampler for slot {slot}, actual: "
                    f"{list(continuation.logprobs)}. Look at the engine's weights, and at which logprobs it gives."
                )
            if min(continuation.ids) < 0 or max(continuation.ids) >= self.n_actions:
                raise LLMGymError(
                    f"Expected tokens of the sampler in [0, {self.n_actions}) for slot {slot}, actual: "
                    f"{list(continuation.ids)}. The engine has to honour n_actions."
                )
            drafts.put(slot, continuation)

    def _check_distribution(self) -> None:
        if not self.truncates and not self.forbidden and self.grammar is None:
            return
        options = {"top_k": self.top_k, "top_p": self.top_p, "forbidden": self.forbidden, "grammar": self.grammar}
        raise InvalidOptionError(
            "Expected neither top_k, top_p, forbidden nor grammar in a policy that a sampler plays (it does not tell "
            "which tokens could be drawn, and learning has to know), actual: "
            f"{options}. Take them away, or play with Policy."
        )
