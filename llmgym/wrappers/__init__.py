"""Rewards around a single environment; :mod:`llmgym.wrappers.vector` has the same around a vector environment."""

from llmgym.wrappers.reward import (
    CorrectnessReward,
    FormatReward,
    LanguageReward,
    LengthReward,
    ProcessReward,
    TranscriptReward,
)

__all__ = [
    "CorrectnessReward",
    "FormatReward",
    "LanguageReward",
    "LengthReward",
    "ProcessReward",
    "TranscriptReward",
]
