"""The rewards of every registered id, audited: nothing pays that should not."""

from typing import Any

import pytest

from llmgym.testing import audit

SEVERAL = {"rewards": {"correctness": 1.0, "format": 0.1, "length": 0.1}, "max_new_tokens": 2048}


@pytest.mark.parametrize("options", [{}, SEVERAL], ids=["default rewards", "several rewards"])
def test_nothing_pays_that_should_not(env_id: str, options: dict[str, Any]) -> None:
    report = audit(env_id, n_problems=2, **options)
    assert report.passed, str(report)
