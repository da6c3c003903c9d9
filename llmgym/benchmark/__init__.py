"""The benchmark: agents on the challenges of a suite, over seeds, with intervals. See ``docs/benchmark.md``.

Needs the extra ``agents``.
"""

from llmgym.benchmark.agents import AgentSpec, TextAgent, TokenAgent
from llmgym.benchmark.challenges import Challenge
from llmgym.benchmark.report import write_report
from llmgym.benchmark.runner import Plan, run
from llmgym.benchmark.suites import suite
from llmgym.benchmark.summary import Summary

__all__ = ["AgentSpec", "Challenge", "Plan", "Summary", "TextAgent", "TokenAgent", "run", "suite", "write_report"]
