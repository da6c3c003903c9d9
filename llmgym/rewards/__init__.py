"""Rewards: text in, score out. They read transcripts and know no environment."""

from llmgym.rewards.base import JudgedReward, Judgement, Reward, StepReward
from llmgym.rewards.comparison.answers import answers_equal
from llmgym.rewards.comparison.verdicts import Leniency, Status
from llmgym.rewards.correctness import CorrectnessReward
from llmgym.rewards.extraction.rules import Extraction, extract, extract_answer
from llmgym.rewards.format import FormatReward
from llmgym.rewards.language import LanguageReward
from llmgym.rewards.length import LengthReward
from llmgym.rewards.process import ArithmeticStepScorer, ProcessReward, StepScorer
from llmgym.rewards.reward_functions import correctness_reward, format_reward
from llmgym.rewards.stack import REWARDS, RewardStack, make_reward
from llmgym.rewards.tags import TagReport, check_tags
from llmgym.rewards.verifier import Verdict, Verifier, judge, judge_batch, verify

__all__ = [
    "REWARDS",
    "ArithmeticStepScorer",
    "CorrectnessReward",
    "Extraction",
    "FormatReward",
    "JudgedReward",
    "Judgement",
    "LanguageReward",
    "Leniency",
    "LengthReward",
    "ProcessReward",
    "Reward",
    "RewardStack",
    "Status",
    "StepReward",
    "StepScorer",
    "TagReport",
    "Verdict",
    "Verifier",
    "answers_equal",
    "check_tags",
    "correctness_reward",
    "extract",
    "extract_answer",
    "format_reward",
    "judge",
    "judge_batch",
    "make_reward",
    "verify",
]
