"""Reinforcement learning for language models, as Gymnasium environments.

Importing this package registers the ids, e.g. ``gymnasium.make("llmgym/MathReason-v0")``. It loads neither torch nor
transformers: an environment is numpy and strings. What learns is in :mod:`llmgym.agents`.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from llmgym.core import EnvOptions, LanguageEnv
from llmgym.errors import (
    DatasetError,
    InvalidActionError,
    InvalidOptionError,
    LLMGymError,
    MissingExtraError,
    PromptTooLongError,
)
from llmgym.process import SlotState
from llmgym.registration import register_environments
from llmgym.spaces import TextSpace
from llmgym.tasks import DatasetTask, LastReply, Problem, Task
from llmgym.tokenizers import Tokenizer, load_tokenizer
from llmgym.transcript import Author, StopReason, Transcript, Transition
from llmgym.vector import WAIT, LanguageVectorEnv

__all__ = [
    "WAIT",
    "Author",
    "DatasetError",
    "DatasetTask",
    "EnvOptions",
    "InvalidActionError",
    "InvalidOptionError",
    "LLMGymError",
    "LanguageEnv",
    "LanguageVectorEnv",
    "LastReply",
    "MissingExtraError",
    "Problem",
    "PromptTooLongError",
    "SlotState",
    "StopReason",
    "Task",
    "TextSpace",
    "Tokenizer",
    "Transcript",
    "Transition",
    "load_tokenizer",
]

try:
    __version__ = version("llmgym-rl")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+unknown"

register_environments()
