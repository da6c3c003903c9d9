"""A tiny tokenizer and tiny tasks: small enough to work their episodes out by hand, no files, no downloads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from llmgym.tasks import LastReply, Problem
from llmgym.tokenizers import Tokenizer

if TYPE_CHECKING:
    import numpy as np

    from llmgym.transcript import Transcript

SPECIAL_TOKENS = ("<pad>", "<eos>", "<think>", "</think>", "<answer>", "</answer>")

#: Pairs of bytes that are one token, so that a token may close two reasoning steps, or hold a delimiter and more.
_MERGES = (("\n", "\n"), ("a", "b"), ("c", "\n"), ("1", "2"))


@lru_cache(maxsize=1)
def tiny_tokenizer() -> Tokenizer:
    """A token for each byte, a few pairs (``"\\n\\n"``, ``"ab"``, ``"c\\n"``, ``"12"``) and six special tokens.

    Example:
        >>> tokenizer = tiny_tokenizer()
        >>> tokenizer.decode(tokenizer.encode("déjà vu 你好 <eos>"))
        'déjà vu 你好 <eos>'
        >>> len(tokenizer.encode("ab")), len(tokenizer.encode("ba"))
        (1, 2)
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}
    merges = [[letters[ord(character)] for character in pair] for pair in _MERGES]
    pieces = [*SPECIAL_TOKENS, *(letters[byte] for byte in range(256)), *("".join(pair) for pair in merges)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    description: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": text} | flags for i, text in enumerate(SPECIAL_TOKENS)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": merges,
        },
    }
    return Tokenizer.from_json(json.dumps(description), eos_token="<eos>", pad_token="<pad>")


@dataclass(frozen=True)
class SumTask:
    """Sums of two numbers below ``limit``: the smallest task with a right answer."""

    limit: int = 10
    replies: ClassVar[bool] = False

    def sample(self, rng: np.random.Generator) -> Problem:
        """Draw two numbers."""
        a, b = (int(number) for number in rng.integers(self.limit, size=2))
        return Problem(f"{a}+{b}=?", str(a + b), f"sum:{a}+{b}", family="sum", level=1)

    def reply(self, problem: Problem, transcript: Transcript) -> str | None:
        """Nobody answers."""
        return None


@dataclass(frozen=True)
class ToolTask(SumTask):
    """Sums, with an environment that writes: a calculator.

    A turn that ends in ``calc`` gets the sum. A turn that ends in ``bye`` gets a last word, and the task is over. A
    turn that ends in ``flood`` gets more text than any state has room for. Any other turn ends the episode.
    """

    replies: ClassVar[bool] = True

    def reply(self, problem: Problem, transcript: Transcript) -> str | None:
        """What the calculator prints."""
        turn = transcript.segments[-1][1] if transcript.segments else ""
        if turn.endswith("calc"):
            return f"[{problem.reference_answer}]\n"
        if turn.endswith("bye"):
            return LastReply("see you")
        if turn.endswith("flood"):
            return "~" * 10_000
        return None
