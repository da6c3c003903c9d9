"""Who plays in the benchmark: what an agent is, the names of those that ship, and how one of yours is found.

An agent is a class that is called without arguments, once for each cell of the benchmark, and has one of two forms:

* a :class:`TokenAgent` chooses tokens by ``act``; with a method ``train`` it learns before that;
* a :class:`TextAgent` writes whole responses by ``respond``: a hosted or local model that is not trained.

A function ``str -> str`` is taken for the second. ``examples/10_reinforce.py`` is one of the first in sixty lines.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llmgym.benchmark.challenges import Challenge
from llmgym.errors import InvalidOptionError, unknown_name

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer[Any]]

#: Name -> where the agent is. A module is imported when its agent is made.
BUILT_IN = {
    "grpo": "llmgym.benchmark.language_models:GRPOAgent",
    "ppo": "llmgym.benchmark.language_models:PPOAgent",
    "base": "llmgym.benchmark.language_models:BaseAgent",
    "random": "llmgym.benchmark.agents:RandomAgent",
    "sb3-ppo": "llmgym.benchmark.sb3_agents:PPOAgent",
    "sb3-a2c": "llmgym.benchmark.sb3_agents:A2CAgent",
    "sb3-dqn": "llmgym.benchmark.sb3_agents:DQNAgent",
}

_LABEL = re.compile(r"[A-Za-z0-9_.+-]{1,40}")


class TokenAgent(Protocol):
    """Chooses tokens. ``train`` may be left out: the agent is then played as it is made.

    A class that cannot play every suite may have an attribute ``suites``, the names of those that it can.
    """

    def train(self, challenge: Challenge, budget: int, seed: int) -> None:
        """Learn.

        Args:
            challenge: Makes the environments to learn in, and counts their steps (``challenge.n_timesteps``). To have
                a learning curve, call ``challenge.progress()`` before the first update and after each one.
            budget: Environment steps to take, over all slots. What goes beyond it is on record.
            seed: Of everything random, so that the run can be repeated.
        """
        ...

    def act(self, observations: Any, restarted: Bools, waiting: Bools) -> Ints:
        """The next token of each slot.

        Args:
            observations: ``input_ids`` and ``attention_mask``, ``(N, width)`` each, padded right.
            restarted: ``(N,)``. Slots whose episode has just begun.
            waiting: ``(N,)``. Slots whose episode is over; what is said of them is not used.

        Returns:
            ``(N,)`` int.
        """
        ...


class TextAgent(Protocol):
    """Writes whole responses, and is not trained here."""

    def respond(self, prompt: str) -> str:
        """The response to a prompt."""
        ...


class RandomAgent:
    """Each token with the same chance: the zero of every score."""

    def train(self, challenge: Challenge, budget: int, seed: int) -> None:
        """Nothing is learned; the vocabulary and the seed are what it needs to know."""
        self._n_tokens = challenge.vocab_size
        self._rng = np.random.default_rng(seed)

    def act(self, observations: Any, restarted: Bools, waiting: Bools) -> Ints:
        """Random tokens."""
        return self._rng.integers(self._n_tokens, size=len(restarted))


class FunctionAgent:
    """A function ``str -> str`` as an agent.

    Args:
        function: Prompt -> response.
    """

    def __init__(self, function: Callable[[str], str]) -> None:
        self._function = function

    def respond(self, prompt: str) -> str:
        """What the function says."""
        return self._function(prompt)


@dataclass(frozen=True)
class AgentSpec:
    """An agent by name, so that another process can make it.

    Attributes:
        label: Its name in the report.
        source: ``"module:Class"`` or ``"path/to/file.py:Class"``.
    """

    label: str
    source: str

    @classmethod
    def parse(cls, text: str) -> AgentSpec:
        """From a word of the command line: a built-in name, ``module:Class``, ``file.py:Class``, or ``label=`` one.

        Raises:
            InvalidOptionError: If it is none of them.

        Example:
            >>> AgentSpec.parse("random").label, AgentSpec.parse("my_module:MyAgent").label
            ('random', 'MyAgent')
            >>> AgentSpec.parse("mine=examples/10_reinforce.py:Reinforce").source
            'examples/10_reinforce.py:Reinforce'
        """
        label, equals, source = text.strip().rpartition("=")
        if ":" not in source:
            if source not in BUILT_IN:
                raise unknown_name("an agent (or one of yours as module:Class)", source, BUILT_IN)
            label, source = label or source, BUILT_IN[source]
        label = label or source.rpartition(":")[2]
        if not _LABEL.fullmatch(label) or label.startswith("."):
            raise InvalidOptionError(
                f"Expected the name of an agent to be up to 40 letters, digits or -_+., actual: {label!r}. Give it "
                "one: name=module:Class."
            )
        return cls(label, source)

    def load(self) -> Callable[[], Any]:
        """What makes the agent.

        Raises:
            InvalidOptionError: If there is no such module, file or name in it.
            MissingExtraError: If it needs a package that is not installed.
        """
        found = self._find()
        if inspect.isfunction(found):
            return lambda: FunctionAgent(found)
        if not isinstance(found, type) or not (hasattr(found, "act") or hasattr(found, "respond")):
            raise InvalidOptionError(
                f"Expected {self.source} to be a class with a method `act` or `respond`, or a function of a text, "
                f"actual: {found!r}. See llmgym.benchmark.TokenAgent."
            )
        make: Callable[[], Any] = found
        return make

    def fingerprint(self) -> str | None:
        """SHA-256 of the file that the agent is in; ``None`` for those that ship, which have the package's version."""
        if self.source in BUILT_IN.values():
            return None
        file = inspect.getsourcefile(self._find())
        return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()

    def _find(self) -> Any:
        """The class or function itself."""
        place, _, name = self.source.rpartition(":")
        module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
        if not hasattr(module, name):
            raise unknown_name(f"a name in {place}", name, [key for key in vars(module) if not key.startswith("_")])
        return getattr(module, name)


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # the module is there, and something that it imports is not
        raise InvalidOptionError(
            f"Expected a module that can be imported, actual: {name!r}. Run in its folder, or name its file: "
            "path/to/file.py:Class."
        ) from error


def _load_file(path: Path) -> ModuleType:
    """The module in a file; the same one each time, for as long as the file is the same."""
    if not path.is_file():
        raise InvalidOptionError(f"Expected a file that holds an agent, actual: {str(path)!r}, which is none. Mend it.")
    identity = hashlib.sha256(str(path.resolve()).encode() + b"\0" + path.read_bytes())
    name = f"_llmgym_agent_{identity.hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module
