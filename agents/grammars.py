"""A grammar that a policy's responses keep to: its place in each turn, and the tokens that may come next there.

The same two questions are asked when a policy acts and when it learns. Acting reads a token at a time, and remembers
the state of each slot's turn; learning has whole responses, and reads them column by column. Both look up the state's
set of tokens in one table, which lies packed beside the logits. So learning needs nothing of what acting saw.

A turn is what the agent writes between what others write: it begins behind the prompt, and again behind whatever the
environment wrote. That is the turn of :meth:`llmgym.LanguageEnv.action_masks`.

Not for the automaton: see :mod:`llmgym.grammar`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from llmgym.errors import InvalidActionError, InvalidOptionError
from llmgym.grammar import Bools, Grammar, Ints, load_grammar
from llmgym.patterns import compile_pattern
from llmgym.tokenizers import Tokenizer

#: Beside a saved model.
_FILE = "llmgym_grammar.json"

#: Instead of a state: it has to be read from the transcript, or nothing is known of the slot.
_NOT_READ = -1


def write_pattern(folder: str | os.PathLike[str], pattern: str | None) -> None:
    """Put a grammar into the folder of a saved model; ``None``: there is none in it afterwards."""
    path = Path(folder, _FILE)
    if pattern is None:
        path.unlink(missing_ok=True)
    else:
        path.write_text(json.dumps({"grammar": pattern}, ensure_ascii=False) + "\n", encoding="utf-8")


def read_pattern(folder: str | os.PathLike[str]) -> str | None:
    """What :func:`write_pattern` put into a folder; ``None``: there is none in it.

    Raises:
        InvalidOptionError: If the file is damaged.
    """
    path = Path(folder, _FILE)
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    try:
        pattern = json.loads(text)["grammar"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidOptionError(
            f'Expected {str(path)!r} to hold {{"grammar": ...}}, actual: {text!r}. Delete it, or save the policy again.'
        ) from error
    return str(pattern)


class ResponseGrammar:
    """A regular expression that the responses of a policy match.

    Args:
        pattern: See :mod:`llmgym.patterns`.

    Attributes:
        pattern: As given.

    Raises:
        InvalidOptionError: If the pattern is malformed.
    """

    def __init__(self, pattern: str) -> None:
        compile_pattern(pattern)
        self.pattern = pattern
        self._read_as: Grammar | None = None
        self._n_actions = 0
        self._packed = torch.empty(0)  # (states, ceil(n_actions / 8)) uint8
        self._made: Bools = np.zeros(0, dtype=bool)  # the states whose row is there
        self._turns = _Turns(0)

    def __getstate__(self) -> dict[str, Any]:
        """Without the table, whose states another process may number otherwise; turns are read again."""
        return {"pattern": self.pattern, "turns": self._turns}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["pattern"])  # type: ignore[misc]
        self._turns = state["turns"]
        self._turns.doubt()

    @property
    def _grammar(self) -> Grammar:
        assert self._read_as is not None, "use() comes first"
        return self._read_as

    def use(self, tokenizer: Tokenizer | None, n_actions: int) -> None:
        """Read the tokens of a tokenizer from now on, for distributions over ``n_actions`` of them.

        Raises:
            InvalidOptionError: If there is no tokenizer, or the pattern cannot be written with its tokens.
        """
        if tokenizer is None:
            raise InvalidOptionError(
                "Expected a tokenizer beside `grammar`, which is about the texts of tokens, actual: None. "
                "Pass Policy(model, tokenizer, grammar=...)."
            )
        grammar = load_grammar(self.pattern, tokenizer)
        if grammar is not self._read_as or n_actions != self._n_actions:
            self._read_as, self._n_actions = grammar, n_actions
            self._packed = torch.zeros(0, -(-n_actions // 8), dtype=torch.uint8)
            self._made = np.zeros(0, dtype=bool)
            self._turns.states[:] = _NOT_READ

    # -- sets --------------------------------------------------------------------------------------------------------

    def packed(self, states: torch.Tensor) -> torch.Tensor:
        """``(n, ceil(n_actions / 8))`` uint8: the sets of states ``(n,)`` from this object, as ``numpy.packbits``."""
        return self._packed[states]

    def text_before(self, state: int) -> str:
        """A text that leads to a state, for messages."""
        return self._grammar.sample(state)

    def as_index(self, states: Ints, device: torch.device) -> torch.Tensor:
        """States ``(n,)`` on the device, for :meth:`packed`, which from then on has their sets."""
        if not len(states):
            return torch.from_numpy(states).to(device)
        if self._packed.device != device:
            self._packed = self._packed.to(device)
        if int(states.max()) >= len(self._made) or not self._made[states].all():
            self._make(np.unique(states))
        return torch.from_numpy(states).to(device)

    def _make(self, states: Ints) -> None:
        n_more = int(states[-1]) + 1 - len(self._made)
        if n_more > 0:
            n_more = max(n_more, len(self._made))  # doubled, so that a long response does not copy it at each token
            self._made = np.pad(self._made, (0, n_more))
            self._packed = torch.cat([self._packed, self._packed.new_zeros(n_more, self._packed.shape[1])])
        states = states[~self._made[states]]
        # Tokens that only the model knows stay out of the sets.
        rows = np.packbits(self._grammar.allowed(states)[:, : self._n_actions], axis=1)
        index = torch.from_numpy(states).to(self._packed.device)
        self._packed[index, : rows.shape[1]] = torch.from_numpy(rows).to(self._packed.device)
        self._made[states] = True

    # -- acting ------------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """From now on a slot's next transcript may be any, unless it is said to go on."""
        self._turns.doubt()

    def read_slots(
        self,
        ids: npt.NDArray[Any],
        lengths: Ints,
        live: Bools,
        fresh: Bools,
        restarted: Bools | None,
        turn_starts: npt.ArrayLike | None,
    ) -> None:
        """Read what is new in the transcripts of the slots that are ``live``.

        Args:
            ids: ``(N, width)`` int. The transcripts.
            lengths: ``(N,)`` int64.
            live: ``(N,)`` bool.
            fresh: ``(N,)`` bool. Slots whose transcript the model reads from its beginning.
            restarted: As in ``Policy.act``.
            turn_starts: As in ``Policy.act``.

        Raises:
            InvalidActionError: If it cannot be known where a turn began, or one does not keep to the grammar.
        """
        if len(self._turns.states) != len(ids):
            self._turns = _Turns(len(ids))
        starts = lengths if turn_starts is None else np.asarray(turn_starts, dtype=np.int64)
        begun = self._turns.begun(live, fresh, restarted, is_told=turn_starts is not None)
        wrong = begun & ((starts < 0) | (starts > lengths))
        if wrong.any():
            slot = int(np.argmax(wrong))
            raise InvalidActionError(
                f"Expected `turn_starts` within the transcript of slot {slot}, in [0, {lengths[slot]}], actual: "
                f"{starts[slot]}. It is the index of the first token of the turn under way."
            )
        self._turns.read(self._grammar, ids, lengths, live, begun, starts)

    def states_of(self, slots: Ints, device: torch.device) -> torch.Tensor:
        """``(n,)`` int64: the states in which ``slots`` act, for :meth:`packed`."""
        return self.as_index(self._turns.states[slots], device)

    # -- learning ----------------------------------------------------------------------------------------------------

    def states_chosen(
        self, response_ids: torch.Tensor, response_mask: torch.Tensor, first: Ints | None = None
    ) -> torch.Tensor:
        """The states in which the tokens of responses were chosen.

        Args:
            response_ids: ``(B, T)`` int64, padded right.
            response_mask: ``(B, T)`` bool. True where the policy chose the token.
            first: ``(B,)`` int64. The states in which the responses begin; ``None``: no turn is under way there.

        Returns:
            ``(n,)`` int64, in the order of ``response_mask.nonzero()``, on the device of the mask.

        Raises:
            InvalidActionError: If a response goes on after a token that does not keep to the grammar.
        """
        ids, mask = response_ids.cpu().numpy(), response_mask.cpu().numpy()
        states = np.full(mask.shape, Grammar.START, dtype=np.int64)
        if first is not None and mask.shape[1]:
            states[:, 0] = first
        # Where the token before was the policy's too; elsewhere a turn begins.
        for t in range(1, mask.shape[1]):
            rows = np.flatnonzero(mask[:, t] & mask[:, t - 1])
            if len(rows):
                states[rows, t] = self._grammar.advance(states[rows, t - 1], ids[rows, t - 1])
        return self.as_index(states[mask], response_mask.device)

    def states_after_prompts(
        self, prompt_ids: torch.Tensor, prompt_lengths: torch.Tensor, turn_starts: torch.Tensor
    ) -> Ints:
        """``(P,)`` int64: the states that turns begun within the prompts have led to; see ``Policy.logprobs``."""
        starts, lengths = turn_starts.cpu().numpy(), prompt_lengths.cpu().numpy()
        if starts.shape != lengths.shape or ((starts < 0) | (starts > lengths)).any():
            raise ValueError(
                f"Expected `turn_starts` of shape {lengths.shape}, each in [0, prompt length], actual: "
                f"{starts.tolist()} with lengths {lengths.tolist()}."
            )
        return self._grammar.states_after(prompt_ids.cpu().numpy(), starts, lengths)


class _Turns:
    """The turn under way in each of ``n`` slots.

    Attributes:
        states: ``(n,)`` int64. Of the grammar; ``_NOT_READ`` where the turn has to be read from its beginning.
    """

    def __init__(self, n: int) -> None:
        self.states: Ints = np.full(n, _NOT_READ, dtype=np.int64)
        self._starts: Ints = np.full(n, -1, dtype=np.int64)  # index of the first token; -1: nothing is known
        self._lengths: Ints = np.zeros(n, dtype=np.int64)  # tokens of the transcript read so far
        self._doubtful: Bools = np.zeros(n, dtype=bool)

    def doubt(self) -> None:
        """A transcript goes on only where that is said."""
        self._doubtful[:] = True

    def begun(self, live: Bools, fresh: Bools, restarted: Bools | None, *, is_told: bool) -> Bools:
        """``(n,)`` bool: the slots whose transcript is a new one; ``is_told``: the caller says where turns begin.

        Raises:
            InvalidActionError: If that cannot be known.
        """
        unknown = self._starts < 0
        if restarted is not None:
            begun = live & restarted
        elif is_told:
            begun = live & fresh & (unknown | self._doubtful)
        else:
            begun = live & fresh & unknown
            unknown = unknown | self._doubtful
        lost = live & ~begun & unknown
        if lost.any():
            raise InvalidActionError(
                f"Expected to know where the turn of slot {int(np.argmax(lost))} begins (the policy has a grammar), "
                "actual: its transcript may be a new one or go on, and the policy was told to forget it or did not "
                "play it. Say in `restarted` which slots begin with a prompt alone, and in `turn_starts` where a turn "
                "began that is under way."
            )
        return begun

    def read(
        self, grammar: Grammar, ids: npt.NDArray[Any], lengths: Ints, live: Bools, begun: Bools, starts: Ints
    ) -> None:
        """Advance the turns that go on, and begin those that begin, at ``starts``."""
        goes_on = live & ~begun
        n_new = lengths - self._lengths
        if (n_new[goes_on] < 0).any():
            slot = int(np.argmax(goes_on & (n_new < 0)))
            raise InvalidActionError(
                f"Expected the transcript of slot {slot}, which did not restart, to go on, actual: {lengths[slot]} "
                f"tokens after {self._lengths[slot]}. Say in `restarted` which slots began a new episode."
            )
        # One token is the policy's own. After more, the environment wrote, and it is the policy's turn again.
        starts = np.where(begun, starts, np.where(goes_on & (n_new > 1), lengths, self._starts))
        anew = live & (begun | (n_new > 1) | (self.states == _NOT_READ))
        states = self.states.copy()
        if anew.any():
            states[anew] = grammar.states_after(ids[anew], starts[anew], lengths[anew])
        single = np.flatnonzero(goes_on & ~anew & (n_new == 1))
        if len(single):
            states[single] = grammar.advance(states[single], ids[single, lengths[single] - 1].astype(np.int64))
        self.states, self._starts = states, starts
        self._lengths = np.where(live, lengths, self._lengths)
        self._doubtful = self._doubtful & ~live
