"""The registered ids, as parameters of the contract tests."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from llmgym.registration import ENVIRONMENTS

#: Environments that need a package beyond requirements/dev.txt.
EXTRAS = {"llmgym/ReasoningGym-v0": "reasoning_gym"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``env_id``: every id, skipped with the reason where its package is missing. ``any_id``: every id, never made."""
    if "env_id" in metafunc.fixturenames:
        metafunc.parametrize("env_id", [pytest.param(name, marks=_needs(name)) for name in sorted(ENVIRONMENTS)])
    if "any_id" in metafunc.fixturenames:
        metafunc.parametrize("any_id", sorted(ENVIRONMENTS))


def _needs(env_id: str) -> pytest.MarkDecorator:
    package = EXTRAS.get(env_id)
    missing = package is not None and find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: see requirements/{package}.txt")
