"""For tests, ours and yours: tiny fakes, a kit that checks an environment against the contract, the audit of rewards,
and the battery of invariances for trainers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llmgym.testing.audit import audit, audit_reward
from llmgym.testing.contract import check_language_env
from llmgym.testing.fakes import SPECIAL_TOKENS, SumTask, ToolTask, tiny_tokenizer
from llmgym.testing.report import AuditReport, ProbeResult, Verdict

if TYPE_CHECKING:
    from llmgym.testing.invariances import (
        INVARIANCES,
        AgentTrainer,
        Episode,
        InvarianceError,
        NotPosed,
        TrainerAdapter,
        TrainerReport,
        check_trainer,
        make_batch,
        random_batch,
    )

__all__ = [
    "INVARIANCES",
    "SPECIAL_TOKENS",
    "AgentTrainer",
    "AuditReport",
    "Episode",
    "InvarianceError",
    "NotPosed",
    "ProbeResult",
    "SumTask",
    "ToolTask",
    "TrainerAdapter",
    "TrainerReport",
    "Verdict",
    "audit",
    "audit_reward",
    "check_language_env",
    "check_trainer",
    "make_batch",
    "random_batch",
    "tiny_tokenizer",
]

#: They load on first use, as they need torch: an environment can be tested without it.
_INVARIANCES = (
    "INVARIANCES",
    "AgentTrainer",
    "Episode",
    "InvarianceError",
    "NotPosed",
    "TrainerAdapter",
    "TrainerReport",
    "check_trainer",
    "make_batch",
    "random_batch",
)


def __getattr__(name: str) -> Any:
    if name not in _INVARIANCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("llmgym.testing.invariances"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
