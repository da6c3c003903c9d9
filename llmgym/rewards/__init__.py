"""Rewards: text in, score out. They read transcripts and know no environment."""

from llmgym.rewards.answers import answers_equal, extract_answer, verify
from llmgym.rewards.base import Reward, StepReward
from llmgym.rewards.correctness import CorrectnessReward
from llmgym.rewards.format import FormatReward
from llmgym.rewards.language import LanguageReward
from llmgym.rewards.length import LengthReward
from llmgym.rewards.process import ArithmeticStepScorer, ProcessReward, StepScorer
from llmgym.rewards.stack import REWARDS, RewardStack, make_reward

__all__ = [
    "REWARDS",
    "ArithmeticStepScorer",
    "CorrectnessReward",
    "FormatReward",
    "LanguageReward",
    "LengthReward",
    "ProcessReward",
    "Reward",
    "RewardStack",
    "StepReward",
    "StepScorer",
    "answers_equal",
    "extract_answer",
    "make_reward",
    "verify",
]
