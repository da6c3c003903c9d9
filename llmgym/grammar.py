"""Which tokens keep a response to a format: a regular expression over texts as an automaton over tokens.

What is behind ``action_masks()`` of the environments. Tokens are what the tokenizer has, so one of them may stand for
several characters of the pattern, or for none that fit. Rows of the automaton are made when a response first leads
there, and kept.

Not a judge: a response that does not keep to the format is the policy's right, and whether it is paid for is up to the
rewards. A mask says what a policy may choose if it wants to keep to it.

Source: Willard and Louf, arXiv:2307.09702, section 3 (an index from states of the automaton to tokens).
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from llmgym.errors import InvalidActionError, InvalidOptionError
from llmgym.patterns import compile_pattern
from llmgym.tokenizers import Tokenizer

#: In a row: the token does not keep to the format; nobody has asked for the row yet.
_LEAVES, _NOT_MADE = -1, -2
#: States whose dead ends are looked for at once; further ones when a response leads there.
_EXPLORED_AT_ONCE = 64

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class Grammar:
    """A regular expression that whole responses match, read token by token.

    The end token is allowed where the text so far matches; padding and tokens that hold part of a character never are.
    After the end token, where an environment answers and the episode goes on, the next turn starts anew.

    Args:
        pattern: See :mod:`llmgym.patterns`, e.g. ``"[0-9]+"``: digits, then the end token.
        tokenizer: Whose tokens.

    Raises:
        InvalidOptionError: If the pattern is malformed, or leads to a place where the vocabulary has no token that goes
            on. The first places are looked at here, the others when a response leads there.

    Example:
        >>> from llmgym.envs.copy import copy_tokenizer
        >>> tokenizer = copy_tokenizer(n_symbols=2)
        >>> grammar = Grammar("([01] ){2}", tokenizer)
        >>> allowed = grammar.allowed(np.array([grammar.START]))[0]
        >>> [tokenizer.token_text(token) for token in np.flatnonzero(allowed)]
        ['0 ', '1 ']
    """

    #: State of a turn without a token.
    START = 0

    def __init__(self, pattern: str, tokenizer: Tokenizer) -> None:
        self.pattern = pattern
        self.tokenizer = tokenizer
        self._automaton = compile_pattern(pattern)
        self._sets = [self._automaton.start]  # state -> states of the automaton over characters
        self._number = {self._automaton.start: self.START}
        self._samples = [""]  # state -> a text that leads there, for messages
        self._steps: dict[tuple[int, str], int] = {}
        texts = [tokenizer.token_text(token) for token in range(tokenizer.vocab_size)]
        unwritable = {tokenizer.end_token_id, tokenizer.pad_token_id}
        self._texts = [
            (token, text)
            for token, text in enumerate(texts)
            if text and "\ufffd" not in text and token not in unwritable
        ]
        self._table: npt.NDArray[np.int32] = np.full((4, tokenizer.vocab_size), _NOT_MADE, dtype=np.int32)
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Make the first rows, so that most dead ends are told before anything is played."""
        seen, waiting = {self.START}, deque([self.START])
        while waiting and len(seen) <= _EXPLORED_AT_ONCE:
            row = self._row(waiting.popleft())
            for state in np.unique(row[row >= 0]).tolist():
                if state not in seen:
                    seen.add(state)
                    waiting.append(state)

    def allowed(self, states: Ints) -> Bools:
        """Which tokens keep to the format.

        Args:
            states: ``(n,)`` int. From :meth:`advance` or :meth:`states_after`; :data:`START` before the first token.

        Returns:
            ``(n, V)`` bool, at least one True in each row.
        """
        self._make_rows(states)
        return self._table[states] >= 0

    def advance(self, states: Ints, tokens: Ints) -> Ints:
        """The states after one more token each.

        Args:
            states: ``(n,)`` int.
            tokens: ``(n,)`` int in ``[0, V)``.

        Raises:
            InvalidActionError: If a token is not of the vocabulary, or does not keep to the format.
        """
        known = self.tokenizer.vocab_size
        unknown = np.flatnonzero((tokens < 0) | (tokens >= known))
        if unknown.size:
            raise InvalidActionError(
                f"Expected tokens in [0, {known}) (the vocabulary of {self.tokenizer.name!r}), actual: "
                f"{int(tokens[unknown[0]])}. Choose them with that tokenizer."
            )
        self._make_rows(states)
        after = self._table[states, tokens].astype(np.int64)
        if np.any(after < 0):
            wrong = int(np.flatnonzero(after < 0)[0])
            text = self.tokenizer.token_text(int(tokens[wrong]))
            raise InvalidActionError(
                f"Expected a response that keeps to the grammar {self.pattern!r}, actual: {text!r} (token "
                f"{int(tokens[wrong])}) after a text such as {self._samples[int(states[wrong])]!r}. Choose among the "
                "tokens that the masks allow, or ask for no masks in this episode."
            )
        return after

    def states_after(self, ids: npt.NDArray[np.integer], starts: Ints, ends: Ints) -> Ints:
        """The states that turns have led to.

        Args:
            ids: ``(n, W)`` int. Tokens of each transcript.
            starts: ``(n,)`` int. Index of the first token of the turn.
            ends: ``(n,)`` int. Index behind its last one.

        Returns:
            ``(n,)`` int.

        Raises:
            InvalidActionError: If a turn does not keep to the format.
        """
        states = np.full(len(ids), self.START, dtype=np.int64)
        at = starts.copy()
        open_rows = np.flatnonzero(at < ends)
        while open_rows.size:
            tokens = ids[open_rows, at[open_rows]].astype(np.int64)
            states[open_rows] = self.advance(states[open_rows], tokens)
            at[open_rows] += 1
            open_rows = open_rows[at[open_rows] < ends[open_rows]]
        return states

    def sample(self, state: int) -> str:
        """A text that leads to a state, for messages."""
        return self._samples[state]

    def forbidden(self, prompt_end: int) -> dict[int, tuple[int, ...]]:
        """The format as rules on neighbouring tokens: what ``Policy(forbidden=...)`` takes.

        Args:
            prompt_end: The last token of every prompt, which the first token of a response follows.

        Returns:
            Token -> tokens that must not follow it.

        Raises:
            InvalidOptionError: If the last token alone does not say what may follow, as in a count of digits.

        Example:
            >>> from llmgym.envs.copy import copy_tokenizer
            >>> tokenizer = copy_tokenizer(n_symbols=2)
            >>> rules = Grammar("([01] )+", tokenizer).forbidden(tokenizer.encode("=")[0])
            >>> {tokenizer.token_text(a): [tokenizer.token_text(b) for b in after] for a, after in rules.items()}["="]
            ['<pad>', '<eos>', '<unk>', '=']
        """
        state_after = {prompt_end: self.START}
        waiting = [self.START]
        reached = {self.START}
        while waiting:
            row = self._row(waiting.pop())
            for token in np.flatnonzero(row >= 0).tolist():
                state = int(row[token])
                if token == self.tokenizer.end_token_id:
                    continue  # the turn is over
                known = state_after.setdefault(token, state)
                if not np.array_equal(self._row(known) >= 0, self._row(state) >= 0):
                    raise InvalidOptionError(
                        f"Expected a grammar whose allowed tokens depend on the token before alone, actual: "
                        f"{self.pattern!r}, where what may follow {self.tokenizer.token_text(token)!r} depends on "
                        f"more, as after {self._samples[known]!r} and {self._samples[state]!r}. Write it without "
                        "counts and places, or take the masks of the environment."
                    )
                if state not in reached:
                    reached.add(state)
                    waiting.append(state)
        return {token: tuple(np.flatnonzero(self._row(q) < 0).tolist()) for token, q in state_after.items()}

    # ------------------------------------------------------------------------------------------------ rows

    def _make_rows(self, states: Ints) -> None:
        if np.any(self._table[states, 0] == _NOT_MADE):
            for state in np.unique(states).tolist():
                self._row(state)

    def _row(self, state: int) -> npt.NDArray[np.int32]:
        """The state after each token; ``_LEAVES`` where a token does not keep to the format."""
        if self._table[state, 0] != _NOT_MADE:
            row: npt.NDArray[np.int32] = self._table[state]
            return row
        row = np.full(self.tokenizer.vocab_size, _LEAVES, dtype=np.int32)
        for token, text in self._texts:
            after = state
            for character in text:
                after = self._step(after, character)
                if after < 0:
                    break
            row[token] = after
        if self._automaton.end in self._sets[state]:
            row[self.tokenizer.end_token_id] = self.START
        if np.all(row < 0):
            raise InvalidOptionError(
                f"Expected a grammar that leaves a token in each place, actual: after {self._samples[state]!r} no "
                f"token of {self.tokenizer.name!r} goes on as {self.pattern!r} asks. Write it with texts of its tokens."
            )
        if len(self._sets) > len(self._table):
            more = np.full((len(self._sets), row.size), _NOT_MADE, dtype=np.int32)
            self._table = np.concatenate([self._table, more])
        self._table[state] = row
        return row

    def _step(self, state: int, character: str) -> int:
        key = (state, character)
        known = self._steps.get(key)
        if known is None:
            reached = self._automaton.step(self._sets[state], character)
            known = self._number.setdefault(reached, len(self._sets)) if reached else _LEAVES
            if known == len(self._sets):
                self._sets.append(reached)
                self._samples.append(self._samples[state] + character)
            self._steps[key] = known
        return known


@lru_cache(maxsize=64)
def load_grammar(pattern: str, tokenizer: Tokenizer) -> Grammar:
    """The grammar of that pattern, made once: its rows serve all environments of a process."""
    return Grammar(pattern, tokenizer)
