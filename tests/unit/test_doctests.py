"""The examples in docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

import llmgym


def modules():
    found = [module.name for module in pkgutil.walk_packages(llmgym.__path__, "llmgym.")]
    return sorted({"llmgym", *found} - {"llmgym.__main__"})


@pytest.mark.parametrize("name", modules())
def test_examples(name):
    if name.startswith("llmgym.agents"):
        pytest.importorskip("torch")
    if name.startswith("llmgym.sb3") or name == "llmgym.benchmark.sb3_agents":
        pytest.importorskip("stable_baselines3")
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
