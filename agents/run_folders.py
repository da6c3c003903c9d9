"""Which folder a run writes to, and that no other process writes there at the same time.

Not for what is written: see :mod:`llmgym.agents.metrics` and :mod:`llmgym.agents.checkpoints`.
"""

from __future__ import annotations

import errno
import os
from itertools import count
from pathlib import Path

from llmgym.agents.checkpoints import holds_agent
from llmgym.agents.metrics import LOG_FILE
from llmgym.agents.saving import aside, clear_up
from llmgym.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None  # type: ignore[assignment]

#: Locked while a process writes to the folder. The lock ends with the process, however that ends.
LOCK_FILE = "run.lock"

#: Folders that this process has locked, and the open file. Such a lock does not hold against the process itself, and
#: ends when the process opens and closes the file once more: so it is asked for once.
_held: dict[Path, int] = {}


def claim_new(wanted: Path) -> Path:
    """A folder for a new run: ``wanted``, or the next free name beside it (``-2``, ``-3``, ...) if that holds a run."""
    wanted = wanted if wanted.name else wanted.absolute()  # "." has a name too
    for number in count(1):
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if _is_held(path) or _holds_something(path):
            continue
        path.mkdir(parents=True, exist_ok=True)
        if _lock(path) and not _holds_something(path):  # otherwise another process was faster
            return path
    raise AssertionError  # count() does not end


def claim_again(path: Path) -> None:
    """Go on with the run in ``path``.

    Raises:
        CheckpointError: If another process, or another agent of this one, is writing there.
    """
    if _is_held(path) or not _lock(path):
        raise CheckpointError(
            f"Expected a run that nobody else goes on with, actual: {str(path)!r} is locked. Wait for that process or "
            "agent, or stop it."
        )
    clear_up(path)


def release(path: Path) -> None:
    """Let other processes go on with the run in ``path``."""
    descriptor = _held.pop(path.resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


def _holds_something(path: Path) -> bool:
    # A draft of a first checkpoint that was killed is nothing: the same command begins again in the same folder.
    return path.is_file() or (path / LOG_FILE).exists() or holds_agent(path) or aside(path).exists()


def _lock(path: Path) -> bool:
    """Whether this process has the folder now."""
    if fcntl is None or _is_held(path):
        return True
    descriptor = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # Of the process, not of the open file: workers that it forks do not keep the lock when it is killed.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            os.close(descriptor)
            return False
        # A file system without locks: the run goes on without.
    _held[path.resolve()] = descriptor
    return True


def _is_held(path: Path) -> bool:
    """Whether this process has locked the folder; one that was deleted and made anew is another one."""
    descriptor = _held.get(path.resolve())
    if descriptor is None:
        return False
    file = path / LOCK_FILE
    if file.exists() and os.path.samestat(os.fstat(descriptor), file.stat()):
        return True
    release(path)
    return False
