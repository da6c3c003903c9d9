"""The language process: prompt, tokens, budgets, end. One state machine for one slot or many.

The state of N episodes is a handful of arrays, one row for each slot. Appending a token to all slots is a few array
operations; Python looks at a slot only where its token may mean something (an end token, a closed reasoning step, a
stop string, a spent budget), which :data:`_END` and its siblings tell from a table. Texts take the same path, one token
after the other, so the rules are written once (:meth:`Process._settle`).

Knows tokens and text. Knows no reward, no random number and no Gymnasium.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from llmgym.errors import InvalidActionError, InvalidOptionError
from llmgym.tasks import LastReply, Problem
from llmgym.tokenizers import Tokenizer
from llmgym.transcript import Author, StopReason, TokenTrace, Transcript

#: What a token may mean, as bits of the look-up table.
_END, _CLOSES_STEP, _COMPLETES_STOP_STRING = 1, 2, 4

#: ``stop_reason`` codes: 0 goes on, -1 waits for a first reset, i + 1 stands for the i-th ``StopReason``.
RUNNING, NOT_STARTED = 0, -1
STOP_REASONS: tuple[StopReason, ...] = tuple(StopReason)
_CODES = {reason: code for code, reason in enumerate(STOP_REASONS, start=1)}

# Plain numbers: NumPy takes the member of an enum for an int64, and writes it several times slower.
_PROMPT, _AGENT = int(Author.PROMPT), int(Author.AGENT)

Ids = npt.NDArray[np.int32]

#: Called when the agent hands over the turn in a slot: the environment's text, or ``None`` to end the episode.
Reply = Callable[[int], str | None]


@dataclass(frozen=True, slots=True)
class ProcessRules:
    """Budgets and endings. Two processes with equal rules can exchange states.

    Attributes:
        tokenizer: Name of the tokenizer.
        max_prompt_tokens: Longest prompt, in tokens.
        max_new_tokens: Tokens that the agent may write in an episode.
        max_steps: Reasoning steps that it may close; ``None`` for no limit.
        stop_strings: Texts that end the agent's turn once written.
        step_delimiter: Text that closes a reasoning step.
    """

    tokenizer: str
    max_prompt_tokens: int
    max_new_tokens: int
    max_steps: int | None = None
    stop_strings: tuple[str, ...] = ()
    step_delimiter: str = "\n"

    @property
    def width(self) -> int:
        """Tokens that a state has room for."""
        return self.max_prompt_tokens + self.max_new_tokens


@dataclass(frozen=True, slots=True)
class SlotState:
    """One episode at one moment, as plain values: compare it, pickle it, restore it as often as you like.

    Attributes:
        rules: Rules of the process that it was taken from.
        problem: The problem posed.
        prompt: The prompt.
        ids: Token ids written so far, the prompt's first, as little-endian int32.
        authors: Who wrote each token, as bytes.
        prompt_length: Tokens of the prompt.
        turn_start: Index of the first token of the agent's present turn.
        n_steps: Reasoning steps closed so far.
        n_actions: Actions taken so far.
        stop_reason: Why the episode ended; ``None`` while it goes on.
        rng: Name and state of the bit generator that draws the slot's problems.
        token_rewards: ``(index of a token, reward)`` for a renderer; empty where nothing is rendered.
    """

    rules: ProcessRules
    problem: Problem
    prompt: str
    ids: bytes
    authors: bytes
    prompt_length: int
    turn_start: int
    n_steps: int
    n_actions: int
    stop_reason: StopReason | None
    rng: tuple[str, dict[str, Any]] | None = None
    token_rewards: tuple[tuple[int, float], ...] = ()


class Process:
    """State of ``num_slots`` episodes under common rules.

    Attributes:
        ids: ``(N, W)`` int32. Tokens written, padded on the right; a token never moves.
        written: ``(N, W)`` int8. 1 where a token is written: what an agent knows as the attention mask.
        length: ``(N,)`` int64. Tokens written.
        prompt_length: ``(N,)`` int64. How many of them are the prompt.
        n_steps: ``(N,)`` int64. Reasoning steps closed.
        n_steps_at: The same, slot -> Python int.
        n_actions: ``(N,)`` int64. Actions taken.
        stop_reason: ``(N,)`` int8. 0 while the episode goes on; see :data:`STOP_REASONS`.
        stop_reason_at: The same, slot -> Python int.
        events: Slots in which the last action closed a step or ended the episode, with the steps closed before it.
    """

    def __init__(self, num_slots: int, rules: ProcessRules, tokenizer: Tokenizer, reply: Reply | None = None) -> None:
        self.rules = rules
        self.tokenizer = tokenizer
        self.num_slots = num_slots
        self._reply = reply
        width = rules.width
        self.ids: npt.NDArray[np.int32] = np.full((num_slots, width), tokenizer.pad_token_id, dtype=np.int32)
        self.written: npt.NDArray[np.int8] = np.zeros((num_slots, width), dtype=np.int8)
        # What is not the prompt's is the agent's until the environment writes: a token of the agent costs no entry.
        self._author: npt.NDArray[np.uint8] = np.full((num_slots, width), Author.AGENT, dtype=np.uint8)
        self.length: npt.NDArray[np.int64] = np.zeros(num_slots, dtype=np.int64)
        self.prompt_length: npt.NDArray[np.int64] = np.zeros(num_slots, dtype=np.int64)
        self.n_steps: npt.NDArray[np.int64] = np.zeros(num_slots, dtype=np.int64)
        self.n_actions: npt.NDArray[np.int64] = np.zeros(num_slots, dtype=np.int64)
        self.stop_reason: npt.NDArray[np.int8] = np.full(num_slots, NOT_STARTED, dtype=np.int8)
        self.problems: list[Problem | None] = [None] * num_slots
        self.prompts: list[str] = [""] * num_slots
        self.events: dict[int, int] = {}
        # Length at which a budget ends, whichever comes first; so that one comparison a token is enough.
        self._limit: npt.NDArray[np.int64] = np.zeros(num_slots, dtype=np.int64)
        self._reply_length: npt.NDArray[np.int64] = np.zeros(num_slots, dtype=np.int64)
        self._turn_start: npt.NDArray[np.int64] = np.zeros(num_slots, dtype=np.int64)
        self._row_start: npt.NDArray[np.int64] = np.arange(num_slots, dtype=np.int64) * width
        self._make_tables()
        self._bind()

    # ------------------------------------------------------------------------------------------------ set-up

    def _make_tables(self) -> None:
        """What each token may mean. A token that means nothing costs no more than this look-up."""
        rules, tokenizer = self.rules, self.tokenizer
        meaning = np.zeros(tokenizer.vocab_size, dtype=np.uint8)
        meaning[tokenizer.ids_completing(rules.step_delimiter)] |= _CLOSES_STEP
        for stop_string in rules.stop_strings:
            meaning[tokenizer.ids_completing(stop_string)] |= _COMPLETES_STOP_STRING
        meaning[tokenizer.end_token_id] = _END
        self._matters = meaning != 0
        self._meaning_bytes = meaning.tobytes()  # indexing bytes gives a Python int at once
        # Where the delimiter is one byte, no token boundary can cut it: steps are counted without decoding.
        self._delimiters_in: dict[int, int] | None = None
        if len(rules.step_delimiter.encode("utf-8")) == 1:
            closing = np.flatnonzero(tokenizer.ids_containing(rules.step_delimiter)).tolist()
            self._delimiters_in = {token: tokenizer.token_text(token).count(rules.step_delimiter) for token in closing}

    def _bind(self) -> None:
        """Views that read and write the arrays as Python ints, several times faster than array scalars do."""
        self._flat_ids = self.ids.reshape(-1)
        self._flat_written = self.written.reshape(-1)
        self._id_at = _view(self._flat_ids)
        self._written_at = _view(self._flat_written)
        self._length_at = _view(self.length)
        self._prompt_length_at = _view(self.prompt_length)
        self._reply_length_at = _view(self._reply_length)
        self._turn_start_at = _view(self._turn_start)
        self._limit_at = _view(self._limit)
        self.n_steps_at = _view(self.n_steps)
        self._n_actions_at = _view(self.n_actions)
        self.stop_reason_at = _view(self.stop_reason)

    def __getstate__(self) -> dict[str, Any]:
        """Views are left out: they cannot be pickled, and copied arrays would part from them."""
        views = ("_flat_ids", "_flat_written")
        return {key: value for key, value in self.__dict__.items() if not (key in views or key.endswith("_at"))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind()

    # ------------------------------------------------------------------------------------------------ episodes

    def begin(self, slot: int, problem: Problem, prompt: str, prompt_ids: Sequence[int] | Ids) -> None:
        """Start an episode. The caller has checked that the prompt keeps its budget."""
        n = len(prompt_ids)
        self.ids[slot, :n] = prompt_ids
        self.ids[slot, n:] = self.tokenizer.pad_token_id
        self.written[slot, :n] = 1
        self.written[slot, n:] = 0
        self._author[slot, :n] = _PROMPT
        self._author[slot, n:] = _AGENT
        self._length_at[slot] = self._prompt_length_at[slot] = self._turn_start_at[slot] = n
        self.n_steps_at[slot] = self._n_actions_at[slot] = self._reply_length_at[slot] = 0
        self._limit_at[slot] = n + self.rules.max_new_tokens
        self.stop_reason_at[slot] = RUNNING
        self.problems[slot] = problem
        self.prompts[slot] = prompt
        self.events.pop(slot, None)

    @property
    def n_new_tokens(self) -> npt.NDArray[np.int64]:
        """``(N,)`` int64. Tokens that the agent has written in each slot."""
        return self.length - self.prompt_length - self._reply_length

    @property
    def turn_start(self) -> npt.NDArray[np.int64]:
        """``(N,)`` int64. Index of the first token of the agent's present turn."""
        return self._turn_start

    def stopped(self, slot: int) -> StopReason | None:
        """Why the slot's episode ended; ``None`` while it goes on."""
        code = self.stop_reason_at[slot]
        return STOP_REASONS[code - 1] if code > 0 else None

    # ------------------------------------------------------------------------------------------------ actions

    def append_token(self, slot: int, token: int) -> bool:
        """Append one token to one running slot; returns whether it closed a step or ended the episode."""
        if self.events:
            self.events = {}
        self._n_actions_at[slot] += 1
        self._write(slot, token)
        return slot in self.events

    def append_tokens(self, tokens: npt.NDArray[np.int64], slots: npt.NDArray[np.int64] | None = None) -> None:
        """Append one token to each slot.

        Args:
            tokens: ``(n,)`` int. One for each slot in ``slots``.
            slots: ``(n,)`` int. The running slots that act; ``None`` for all of them.
        """
        if self.events:
            self.events = {}
        if slots is None:
            at = self._row_start + self.length
            self.length += 1
            self.n_actions += 1
            spent = self.length == self._limit
        else:
            length = self.length[slots]
            at = self._row_start[slots] + length
            length += 1
            self.length[slots] = length
            self.n_actions[slots] += 1
            spent = length == self._limit[slots]
        self._flat_ids[at] = tokens.astype(np.int32)  # with a conversion on the way, writing would be five times slower
        self._flat_written[at] = 1
        spent |= self._matters[tokens]
        if np.count_nonzero(spent):
            for i in np.flatnonzero(spent).tolist():
                self._settle(i if slots is None else int(slots[i]), int(tokens[i]))

    def append_text(self, slot: int, text: str, closes_response: bool) -> str:
        """Append a text to one running slot, token by token, as far as the rules let it.

        Args:
            slot: Where.
            text: What the agent writes.
            closes_response: Whether the end token follows, where nothing stopped the agent before.

        Returns:
            The rest of the text, which is not part of the state; ``""`` where all of it was written.
        """
        self.events.pop(slot, None)
        self._n_actions_at[slot] += 1
        tokens = self.tokenizer.encode_steps(text, self.rules.step_delimiter)
        n_text_tokens = len(tokens)
        if closes_response:
            tokens.append(self.tokenizer.end_token_id)
        turn_start = self._turn_start_at[slot]
        for i, token in enumerate(tokens, start=1):
            self._write(slot, token)
            if self.stop_reason_at[slot] or self._turn_start_at[slot] != turn_start:
                return self.tokenizer.decode(tokens[i:n_text_tokens])
        return ""

    def _write(self, slot: int, token: int) -> None:
        length = self._length_at[slot]
        at = slot * self.rules.width + length
        self._id_at[at] = token
        self._written_at[at] = 1
        self._length_at[slot] = length = length + 1
        if self._meaning_bytes[token] or length == self._limit_at[slot]:
            self._settle(slot, token)

    # ------------------------------------------------------------------------------------------------ rules

    def _settle(self, slot: int, token: int) -> None:
        """Apply the rules to a token just written. Called for every token that could matter to one of them.

        The order decides where several rules apply: what the agent wrote comes before the budgets.
        """
        meaning = self._meaning_bytes[token]
        n_steps = self.n_steps_at[slot]
        reason: StopReason | None = None
        if meaning & _CLOSES_STEP:
            self.n_steps_at[slot] = n_steps + self._steps_closed(slot, token)
        if meaning & _END:
            reason = StopReason.END_TOKEN
        elif meaning & _COMPLETES_STOP_STRING and self._has_stop_string(slot):
            reason = StopReason.STOP_STRING
        if reason is not None and self._reply is not None:
            reason = self._hand_over(slot, reason)
        if reason is None:
            reason = self._spent_budget(slot)
        if reason is not None:
            self.stop_reason_at[slot] = _CODES[reason]
        if reason is not None or self.n_steps_at[slot] != n_steps:
            self.events.setdefault(slot, n_steps)

    def _steps_closed(self, slot: int, token: int) -> int:
        if self._delimiters_in is not None:
            return self._delimiters_in.get(token, 0)
        return self.response(slot).count(self.rules.step_delimiter) - self.n_steps_at[slot]

    def _has_stop_string(self, slot: int) -> bool:
        start = self._turn_start_at[slot]
        turn = self.tokenizer.decode(self.ids[slot, start : self._length_at[slot]].tolist())
        return any(stop_string in turn for stop_string in self.rules.stop_strings)

    def _hand_over(self, slot: int, reason: StopReason) -> StopReason | None:
        """Let the environment answer; returns why the episode ended, ``None`` if it goes on."""
        assert self._reply is not None
        text = self._reply(slot)
        if not text:
            return reason
        ids = self.tokenizer.encode_steps(text, self.rules.step_delimiter)
        start = self._length_at[slot]
        end = start + len(ids)
        if end > self.rules.width:  # written whole or not at all
            return StopReason.CONTEXT_FULL
        self.ids[slot, start:end] = ids
        self.written[slot, start:end] = 1
        self._author[slot, start:end] = Author.ENVIRONMENT
        self._length_at[slot] = self._turn_start_at[slot] = end
        self._reply_length_at[slot] += len(ids)
        self._limit_at[slot] = min(self._limit_at[slot] + len(ids), self.rules.width)
        return StopReason.TASK_OVER if isinstance(text, LastReply) else None

    def _spent_budget(self, slot: int) -> StopReason | None:
        rules = self.rules
        if rules.max_steps is not None and self.n_steps_at[slot] >= rules.max_steps:
            return StopReason.MAX_STEPS
        if self._length_at[slot] < self._limit_at[slot]:
            return None
        n_new_tokens = self._length_at[slot] - self._prompt_length_at[slot] - self._reply_length_at[slot]
        return StopReason.MAX_NEW_TOKENS if n_new_tokens >= rules.max_new_tokens else StopReason.CONTEXT_FULL

    # ------------------------------------------------------------------------------------------------ reading

    @property
    def author(self) -> npt.NDArray[np.uint8]:
        """``(N, W)`` uint8. Who wrote each token (:class:`~llmgym.transcript.Author`); 0 is padding. A fresh array."""
        return self._author * self.written.view(np.uint8)

    def segments(self, slot: int) -> tuple[tuple[Author, str], ...]:
        """What came after the prompt: ``(author, text)`` in order, end tokens left out."""
        start, end = self._prompt_length_at[slot], self._length_at[slot]
        ids = self.ids[slot, start:end].tolist()
        if not ids:
            return ()
        if not self._reply_length_at[slot]:  # the agent alone: the usual case
            if ids[-1] == self.tokenizer.end_token_id:
                ids.pop()
            return ((Author.AGENT, self.tokenizer.decode(ids)),) if ids else ()
        authors = self._author[slot, start:end]
        cuts = [0, *(np.flatnonzero(np.diff(authors)) + 1).tolist(), len(ids)]
        segments = []
        for first, last in pairwise(cuts):
            author, piece = Author(int(authors[first])), ids[first:last]
            if author is Author.AGENT and piece[-1] == self.tokenizer.end_token_id:
                piece.pop()
            if piece:
                segments.append((author, self.tokenizer.decode(piece)))
        return tuple(segments)

    def response(self, slot: int) -> str:
        """What the agent has written in a slot, end tokens left out."""
        return "".join(text for author, text in self.segments(slot) if author is Author.AGENT)

    def text(self, slot: int) -> str:
        """Prompt and everything after it."""
        return self.prompts[slot] + "".join(text for _, text in self.segments(slot))

    def problem(self, slot: int) -> Problem:
        """The problem posed in a slot."""
        problem = self.problems[slot]
        if problem is None:
            raise InvalidActionError("Expected reset() first, actual: no episode has begun. Call reset().")
        return problem

    def transcript(self, slot: int) -> Transcript:
        """The slot's state as text."""
        return Transcript(
            self.problem(slot),
            self.prompts[slot],
            self.segments(slot),
            self._length_at[slot] - self._prompt_length_at[slot] - self._reply_length_at[slot],
            self.rules.step_delimiter,
            self.stopped(slot),
        )

    def trace(self, slot: int, token_rewards: dict[int, float]) -> list[TokenTrace]:
        """The slot's tokens with their texts, authors and rewards.

        Args:
            slot: Which one.
            token_rewards: Index of a token -> what was paid there.
        """
        ids = self.ids[slot, : self._length_at[slot]].tolist()
        authors = self._author[slot].tolist()
        trace: list[TokenTrace] = []
        pending: list[int] = []  # bytes of a character that is not complete yet
        for index, token in enumerate(ids):
            pending.append(token)
            text = self.tokenizer.decode(pending)
            last_of_author = index + 1 == len(ids) or authors[index + 1] != authors[index]
            if text.endswith("\ufffd") and len(pending) < 4 and not last_of_author:
                text = ""
            else:
                pending = []
            trace.append(TokenTrace(text, Author(authors[index]), token_rewards.get(index, 0.0)))
        return trace

    # ------------------------------------------------------------------------------------------------ states

    def save(self, slot: int) -> SlotState:
        """The slot's state as a value, without a random generator."""
        length = self._length_at[slot]
        return SlotState(
            rules=self.rules,
            problem=self.problem(slot),
            prompt=self.prompts[slot],
            ids=self.ids[slot, :length].astype("<i4").tobytes(),
            authors=self._author[slot, :length].tobytes(),
            prompt_length=self._prompt_length_at[slot],
            turn_start=self._turn_start_at[slot],
            n_steps=self.n_steps_at[slot],
            n_actions=self._n_actions_at[slot],
            stop_reason=self.stopped(slot),
        )

    def load(self, slot: int, state: SlotState) -> None:
        """Put a state into a slot.

        Raises:
            InvalidOptionError: If the state comes from a process with other rules.
        """
        if state.rules != self.rules:
            raise InvalidOptionError(
                f"Expected a state of an environment with the same rules, {self.rules}, actual: {state.rules}. "
                "Make both environments with the same keyword arguments."
            )
        ids = np.frombuffer(state.ids, dtype="<i4")
        authors = np.frombuffer(state.authors, dtype=np.uint8)
        self.begin(slot, state.problem, state.prompt, ids[: state.prompt_length].tolist())
        self.ids[slot, : len(ids)] = ids
        self.written[slot, : len(ids)] = 1
        self._author[slot, : len(ids)] = authors
        n_replied = int(np.count_nonzero(authors == Author.ENVIRONMENT))
        self._length_at[slot] = len(ids)
        self._turn_start_at[slot] = state.turn_start
        self._reply_length_at[slot] = n_replied
        self._limit_at[slot] = min(self._limit_at[slot] + n_replied, self.rules.width)
        self.n_steps_at[slot] = state.n_steps
        self._n_actions_at[slot] = state.n_actions
        self.stop_reason_at[slot] = RUNNING if state.stop_reason is None else _CODES[state.stop_reason]


def _view(array: Any) -> memoryview[int]:
    """A view of a one-dimensional array whose items are Python ints."""
    return memoryview(array)
