"""The rewards of every registered id, audited: nothing pays that should not."""

from typing import Any

import pytest

from llmgym.envs.diagnostics import DIAGNOSTICS
from llmgym.testing import audit

SEVERAL = {"rewards": {"correctness": 1.0, "format": 0.1, "length": 0.1}, "max_new_tokens": 2048}

#: Their rewards are their own and read tokens alone: long responses, which take most of the time, are audited once.
SMALL = {diagnostic.env_id for diagnostic in DIAGNOSTICS.values()} - {"llmgym/Copy-v0"}


@pytest.mark.parametrize("options", [{}, SEVERAL], ids=["default rewards", "several rewards"])
def test_nothing_pays_that_should_not(env_id: str, options: dict[str, Any]) -> None:
    if env_id in SMALL:
        if options:
            pytest.skip("the rewards of a diagnostic are its own")
        options = {"max_new_tokens": 512}
    report = audit(env_id, n_problems=2, **options)
    assert report.passed, str(report)
