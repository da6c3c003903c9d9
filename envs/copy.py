"""Copy the digits: a task that any agent learns within a minute, to see whether the agent works at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

from llmgym.core import LanguageEnv
from llmgym.errors import InvalidOptionError
from llmgym.rewards.base import StepReward
from llmgym.rewards.stack import REWARDS
from llmgym.tasks import Problem, question_hash
from llmgym.tokenizers import Tokenizer, pieces_tokenizer
from llmgym.vector import LanguageVectorEnv

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from llmgym.transcript import Transcript

#: One question in this many belongs to the test split.
TEST_SHARE = 8


@dataclass(frozen=True)
class CopyTask:
    """Sequences of digits, each with the same chance.

    Args:
        n_digits: How long the sequences are.
        n_symbols: How many different digits occur, from 2 to 10.
        split: ``"train"``, ``"test"`` or ``"all"``. A hash of the sequence decides, so the two cannot overlap.
    """

    n_digits: int = 3
    n_symbols: int = 4
    split: str = "train"
    replies: ClassVar[bool] = False
    _problems: tuple[Problem, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """List the problems: there are few."""
        if not 1 <= self.n_digits <= 5:
            raise InvalidOptionError(f"Expected `n_digits` in [1, 5], actual: {self.n_digits}. Choose one of them.")
        if not 2 <= self.n_symbols <= 10:
            raise InvalidOptionError(f"Expected `n_symbols` in [2, 10], actual: {self.n_symbols}. Choose one of them.")
        if self.split not in ("train", "test", "all"):
            raise InvalidOptionError(
                f"Expected `split` among 'train', 'test', 'all', actual: {self.split!r}. Choose one of them."
            )
        sequences = [" ".join(digits) for digits in product("0123456789"[: self.n_symbols], repeat=self.n_digits)]
        chosen = [sequence for sequence in sequences if self.split in ("all", _split_of(sequence))]
        if not chosen:
            raise InvalidOptionError(
                f"Expected at least one problem in the {self.split} split, actual: none of {len(sequences)}. "
                "Raise `n_digits` or `n_symbols`."
            )
        problems = tuple(Problem(digits, digits, f"copy:{digits}", family="copy", level=1) for digits in chosen)
        object.__setattr__(self, "_problems", problems)

    def sample(self, rng: np.random.Generator) -> Problem:
        """Draw one sequence."""
        return self._problems[int(rng.integers(len(self._problems)))]

    def outcomes(self) -> Iterator[tuple[float, Problem]]:
        """Every sequence with its chance: for :mod:`llmgym.testing.exact`."""
        return ((1 / len(self._problems), problem) for problem in self._problems)

    def reply(self, problem: Problem, transcript: Transcript) -> str | None:
        """Nobody answers."""
        return None


def _split_of(sequence: str) -> str:
    return "test" if int.from_bytes(question_hash(sequence)[:8], "big") % TEST_SHARE == 0 else "train"


class CopiedReward(StepReward):
    """An equal share of 1 for each digit that is right in its place, paid at the token that writes it."""

    name = "copied"

    def score_step(self, transcript: Transcript, index: int) -> float:
        """``1 / n_digits`` where digit ``index`` is right, else 0; digits too many earn nothing."""
        wanted = transcript.problem.reference_answer.split()
        right = index < len(wanted) and transcript.reasoning_steps[index].strip() == wanted[index]
        return 1 / len(wanted) if right else 0.0


REWARDS.setdefault(CopiedReward.name, CopiedReward)


@lru_cache(maxsize=16)
def copy_tokenizer(n_symbols: int = 4) -> Tokenizer:
    """One token for each digit and its blank, ``=``, an end token, padding, and one for all else."""
    pieces = ["<pad>", "<eos>", "<unk>", "=", *(f"{digit} " for digit in "0123456789"[:n_symbols])]
    return pieces_tokenizer(pieces, "[0-9] |[\\s\\S]")


def _defaults(n_digits: int, n_symbols: int, options: dict[str, Any]) -> dict[str, Any]:
    """What this environment sets differently from ``EnvOptions``, where the caller says nothing."""
    return {
        "tokenizer": copy_tokenizer(n_symbols),
        "prompt_template": "{question} =",
        "step_delimiter": " ",  # so a digit with its blank is a reasoning step, and can be paid for at once
        "max_prompt_tokens": n_digits + 1,
        "max_new_tokens": n_digits + 1,
        "rewards": {CopiedReward.name: 1.0},
    } | options


#: What the audit of rewards is told: these checks find something, and why that is meant.
_BY_PLACE = "a digit in its place is paid for, whatever the others are and whatever follows"
_PAYS_BY_DESIGN = {
    "echo": "copying the question is the task",
    **dict.fromkeys(("constant", "near", "transplant", "listed", "hedged", "several", "negated", "hidden"), _BY_PLACE),
}


class CopyEnv(LanguageEnv):
    """Write the given digits once more.

    ## Description
    The prompt is a short sequence of digits and ``=``. The agent copies the digits, then writes the end token. Small
    enough for algorithms that know nothing of language, and a first test for those that do. A token is a digit with the
    blank after it: ``2 0 1 =`` is answered by ``2 0 1 `` and the end token.

    ## Action Space
    ``Discrete(4 + n_symbols)``: padding, the end token, a token for everything unknown, ``=`` and the digits. With
    ``action_unit="step"`` or ``"response"``, a text.

    ## Observation Space
    ``Dict`` of ``input_ids`` (int32) and ``attention_mask`` (int8), both ``(max_prompt_tokens + max_new_tokens,)``,
    padded on the right. With text actions, the text so far.

    ## Starting State
    A sequence, each of the split with the same chance.

    ## Rewards
    ``copied``: an equal share of 1 for each digit that is right in its place, paid at the token that writes it.

    ## Episode End
    Terminated by the end token; truncated after ``max_new_tokens`` tokens.

    ## Information
    ``reset``: ``problem_id``, ``family``, ``level``, ``language``. ``step``: ``reward_components``, and at the end
    ``stop_reason`` and ``reward_details``. Both: ``n_reasoning_steps``, the reasoning steps closed so far.

    ## Arguments
    ``n_digits``, ``n_symbols``, ``split``: see :class:`CopyTask`. All others: see :class:`llmgym.core.EnvOptions`.

    ## Version History
    v0: first version.
    """

    metadata: dict[str, Any] = LanguageEnv.metadata | {"audit": _PAYS_BY_DESIGN}

    def __init__(
        self,
        *,
        n_digits: int = 3,
        n_symbols: int = 4,
        split: str = "train",
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        task = CopyTask(n_digits, n_symbols, split)
        super().__init__(task, render_mode=render_mode, **_defaults(n_digits, n_symbols, options))


class CopyVectorEnv(LanguageVectorEnv):
    """Many :class:`CopyEnv` in one, with the same arguments."""

    def __init__(
        self, num_envs: int = 1, *, n_digits: int = 3, n_symbols: int = 4, split: str = "train", **options: Any
    ) -> None:
        task = CopyTask(n_digits, n_symbols, split)
        super().__init__(task, num_envs, **_defaults(n_digits, n_symbols, options))
