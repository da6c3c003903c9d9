"""For tests, ours and yours: tiny fakes, and a kit that checks an environment against the contract."""

from llmgym.testing.contract import check_language_env
from llmgym.testing.fakes import SPECIAL_TOKENS, SumTask, ToolTask, tiny_tokenizer

__all__ = ["SPECIAL_TOKENS", "SumTask", "ToolTask", "check_language_env", "tiny_tokenizer"]
