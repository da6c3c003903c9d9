"""Agents without torch or transformers: an install line, not a traceback from the depths."""

import pickle
import subprocess
import sys

import pytest

from llmgym.errors import MissingExtraError, missing_extra

WITHOUT = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == {package!r} else find(name, *rest)
try:
    import llmgym.agents
except ImportError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("package", ["torch", "transformers", "safetensors"])
def test_a_missing_package_names_the_install_line(package: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(package=package)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("MissingExtraError")
    assert f"`{package}`" in done.stdout
    assert 'pip install "llmgym-rl[agents]"' in done.stdout


def test_the_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(missing_extra("torch", "agents")))
    assert isinstance(error, MissingExtraError)
    assert "torch" in str(error)


def test_unknown_names_are_attribute_errors() -> None:
    agents = pytest.importorskip("llmgym.agents")
    with pytest.raises(AttributeError, match="DQN"):
        _ = agents.DQN
    assert "GRPO" in dir(agents)
