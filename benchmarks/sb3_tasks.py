"""Small token tasks that the algorithms of Stable-Baselines3 are measured on, beside ``llmgym/Copy-v0``.

*Addition*: ``3 + 9 =`` is answered by ``1 2``, ``3 + 4 =`` by ``0 7``. *Recall*: ``a 2 b 0 c 3 ? c =`` is answered by
``3``: of several keys with their digits, one is asked for. In both each digit that is right in its place is paid for as
in ``llmgym/Copy-v0``, so the optimal return is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from llmgym.core import LanguageEnv
from llmgym.envs.copy import CopiedReward
from llmgym.tasks import Problem
from llmgym.tokenizers import Tokenizer, pieces_tokenizer
from llmgym.transcript import Transcript
from llmgym.vector import LanguageVectorEnv

ADDITION = "benchmarks/Addition-v0"


@lru_cache(maxsize=4)
def words_tokenizer(words: str) -> Tokenizer:
    """One token for each character of ``words`` with the blank after it, beside ``=``, padding, end and unknown."""
    pieces = ["<pad>", "<eos>", "<unk>", "=", *(f"{word} " for word in words)]
    return pieces_tokenizer(pieces, "[^=] |[\\s\\S]")


@dataclass(frozen=True)
class AdditionTask:
    """Sums of two digits, each pair with the same chance; always two digits are answered."""

    replies: ClassVar[bool] = False

    def sample(self, rng: np.random.Generator) -> Problem:
        first, second = rng.integers(10, size=2).tolist()
        return Problem(f"{first} + {second}", " ".join(f"{first + second:02d}"), f"addition:{first}+{second}")

    def reply(self, problem: Problem, transcript: Transcript) -> None:
        return None


def _options(words: str, max_prompt_tokens: int, n_answered: int, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "tokenizer": words_tokenizer(words),
        "prompt_template": "{question} =",
        "step_delimiter": " ",
        "max_prompt_tokens": max_prompt_tokens,
        "max_new_tokens": n_answered + 1,
        "rewards": {CopiedReward.name: 1.0},
    } | options


def _addition(options: dict[str, Any]) -> tuple[AdditionTask, dict[str, Any]]:
    return AdditionTask(), _options("0123456789+", 4, 2, options)


class AdditionEnv(LanguageEnv):
    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        task, options = _addition(options)
        super().__init__(task, render_mode=render_mode, **options)


class AdditionVectorEnv(LanguageVectorEnv):
    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        task, options = _addition(options)
        super().__init__(task, num_envs, **options)


if ADDITION not in gym.registry:
    gym.register(ADDITION, entry_point=AdditionEnv, vector_entry_point=AdditionVectorEnv)
