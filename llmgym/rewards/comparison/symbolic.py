"""SymPy as the last resort: asked in a process of its own, which has a deadline and a memory limit and may be killed.

Only trees of our own go there, node by node (see ``symbolic_worker``): SymPy's parser is never called, as it runs what
it reads. No signal and no thread is used, so that callers keep theirs.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from llmgym.errors import InvalidOptionError, missing_extra
from llmgym.rewards.notation.expressions import Based, Constant, Expression, Name, Number, Operation, Quantity

#: Seconds for one question, and for the start of the process (the import of SymPy).
DEADLINE = 2.0
START_DEADLINE = 60.0
#: Memory of the process, in bytes.
MEMORY_LIMIT = 2 << 30
#: A question has to fit into the pipe, or writing it could wait for a process that does not read.
_MAX_QUESTION = 32_768

_WORKER = Path(__file__).with_name("symbolic_worker.py")


def require() -> None:
    """Check that SymPy can be asked here.

    Raises:
        MissingExtraError: If it is not installed.
        InvalidOptionError: If the system has no limits for processes.
    """
    if importlib.util.find_spec("sympy") is None:
        raise missing_extra("sympy", "sympy")
    if os.name != "posix":
        raise InvalidOptionError(
            f"Expected `use_sympy` on a POSIX system (its process needs a memory limit), actual: {os.name!r}. "
            "Leave it False."
        )


def same_value(left: Expression, right: Expression, deadline: float = DEADLINE) -> bool | None:
    """Whether SymPy proves two trees equal or different; ``None`` where it does neither in time.

    Args:
        left: A single value.
        right: Another one.
        deadline: Seconds for the answer. After them the process is killed.

    Raises:
        MissingExtraError: If SymPy is not installed.
    """
    sides = _plain(left), _plain(right)
    question = json.dumps(sides)
    if None in sides or len(question) > _MAX_QUESTION:
        return None
    require()
    reply = _ask(question, deadline)
    return reply == "equal" if reply in ("equal", "different") else None


def _plain(tree: Expression) -> Any:
    """A tree as nested lists; ``None`` where a part of it is no single value."""
    if isinstance(tree, Number):
        return ["number", str(tree.value)] if tree.value.denominator.bit_length() < 10_000 else None
    if isinstance(tree, Based):
        return ["number", str(int(tree.digits, tree.base))]
    if isinstance(tree, (Name, Constant)):
        return ["name" if isinstance(tree, Name) else "constant", tree.name]
    if isinstance(tree, Quantity) and tree.unit == "%":
        value = _plain(tree.value)
        return value and ["divide", value, ["number", "100"]]
    if not isinstance(tree, Operation):
        return None
    operands = [_plain(operand) for operand in tree.operands]
    return None if None in operands else [tree.name, *operands]


# --- The process ------------------------------------------------------------------------------------------------------


class _Process:
    """A worker and its pipes. A line goes in, a line comes out."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER), str(MEMORY_LIMIT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C in a terminal is for whoever waits for the verdict
        )
        self.is_ready = self.read(START_DEADLINE) == "ready"

    def ask(self, question: str, deadline: float) -> str | None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(question.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:  # it has ended
            return None
        return self.read(deadline)

    def read(self, seconds: float) -> str | None:
        """A line; ``None`` where it does not come in time, or the process has ended."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        end = time.monotonic() + seconds
        line = b""
        while not line.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                return None
            part = os.read(descriptor, 4096)
            if not part:
                return None
            line += part
        return line.decode().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.forget()

    def forget(self) -> None:
        """Close this process's ends of the pipes; a worker whose input has ended leaves by itself."""
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()


class _State:
    """The worker of this process, and the lock that lets one thread at a time ask it."""

    lock = threading.Lock()
    worker: _Process | None = None


def _ask(question: str, deadline: float) -> str | None:
    with _State.lock:
        worker = _State.worker or _Process()
        _State.worker = worker
        reply = worker.ask(question, deadline) if worker.is_ready else None
        if reply is None:
            worker.kill()
            _State.worker = None
        return reply


def stop() -> None:
    """End the process, if there is one; the next question starts another."""
    with _State.lock:
        if _State.worker is not None:
            _State.worker.kill()
            _State.worker = None


def _after_fork() -> None:
    """A forked process leaves the worker to its parent, and the lock to whichever thread held it there."""
    _State.lock = threading.Lock()
    if _State.worker is not None:
        _State.worker.forget()
        _State.worker.process.returncode = 0  # not this process's child: nothing to wait for
        _State.worker = None


atexit.register(stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
