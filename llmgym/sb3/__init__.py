"""Stable-Baselines3 and sb3-contrib on token environments: an adapter, a features extractor, small configurations.

Needs the extra ``sb3``; without it the import fails with the install line. For algorithms that know nothing of
language, on environments small enough for them: a few tokens of prompt, a vocabulary of dozens. What trains language
models is in :mod:`llmgym.agents`.
"""

from __future__ import annotations

import importlib.util

from llmgym.errors import missing_extra

# Asked before the first use, so that the answer is an install line and not a traceback out of a sub-module.
if importlib.util.find_spec("stable_baselines3") is None:
    raise missing_extra("stable_baselines3", "sb3")

from llmgym.sb3.configs import SMALL_CONFIGS, SmallConfig, make_agent
from llmgym.sb3.extractors import TokenFeatures
from llmgym.sb3.vec_env import LanguageVecEnv

__all__ = ["SMALL_CONFIGS", "LanguageVecEnv", "SmallConfig", "TokenFeatures", "make_agent"]
