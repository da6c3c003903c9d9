"""The rewards of every registered id, audited: nothing pays that should not."""

from typing import Any

import pytest

from llmgym.envs.diagnostics import DIAGNOSTICS
from llmgym.registration import ENVIRONMENTS
from llmgym.testing import audit

SEVERAL = {"rewards": {"correctness": 1.0, "format": 0.1, "length": 0.1}, "max_new_tokens": 2048}

#: Their rewards are their own and read tokens alone: long responses, which take most of the time, are audited with Copy.
SMALL = sorted({diagnostic.env_id for diagnostic in DIAGNOSTICS.values()} - {"llmgym/Copy-v0"})


@pytest.mark.parametrize(
    "options", [{}, pytest.param(SEVERAL, marks=pytest.mark.slow)], ids=["default rewards", "several rewards"]
)
@pytest.mark.parametrize("name", sorted(set(ENVIRONMENTS) - set(SMALL)))
def test_nothing_pays_that_should_not(name: str, options: dict[str, Any]) -> None:
    if name == "llmgym/ReasoningGym-v0":
        pytest.importorskip("reasoning_gym", reason="see requirements/reasoning_gym.txt")
    report = audit(name, n_problems=2, **options)
    assert report.passed, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("small_id", SMALL)
def test_no_diagnostic_pays_what_it_should_not(small_id: str) -> None:
    report = audit(small_id, n_problems=2, max_new_tokens=512)
    assert report.passed, str(report)
