"""For tests, ours and yours: tiny fakes, a kit that checks an environment against the contract, and the audit."""

from llmgym.testing.audit import audit, audit_reward
from llmgym.testing.contract import check_language_env
from llmgym.testing.fakes import SPECIAL_TOKENS, SumTask, ToolTask, tiny_tokenizer
from llmgym.testing.report import AuditReport, ProbeResult, Verdict

__all__ = [
    "SPECIAL_TOKENS",
    "AuditReport",
    "ProbeResult",
    "SumTask",
    "ToolTask",
    "Verdict",
    "audit",
    "audit_reward",
    "check_language_env",
    "tiny_tokenizer",
]
