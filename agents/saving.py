"""Folders that are replaced all or nothing: what an agent saves, and what a script makes.

Not for what is in them: an agent says that itself.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

#: Settings of an agent; its ``"files"`` name what the save wrote, this one included.
AGENT_FILE = "agent.json"


def write_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Make ``target``, or replace it: whole and on disk when this returns, untouched if anything fails before.

    Args:
        target: What ``target`` held that no save had written stays.
        fill: Given an empty folder beside ``target``, writes the files.
    """
    target = target.resolve()  # a link stays one
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        fill(draft)
        draft.chmod(0o755)  # temporary folders are private
        for path in [*draft.rglob("*"), draft]:
            sync(path)
        put_in_place(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def put_in_place(draft: Path, target: Path) -> None:
    """``draft`` becomes ``target``; what ``target`` held that no save had written moves into it.

    Whenever the process is killed, one of ``target`` and :func:`aside` of it is whole.
    """
    old = aside(target)
    clear_up(target)  # after an earlier save that was killed
    if target.exists():
        target.rename(old)
    try:
        draft.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    sync(target.parent)
    clear_up(target)


def aside(target: Path) -> Path:
    """Where the earlier folder is while a new one takes its place."""
    target = target.resolve()
    return target.parent / f".{target.name}.old"


def clear_up(target: Path) -> None:
    """Nothing is left aside: it becomes ``target`` if that is missing, or gives it what no save had written."""
    old = aside(target)
    if not old.exists():
        return
    if not target.exists():
        old.rename(target)
        return
    ours = _written_by_a_save(old)
    for entry in list(old.iterdir()):
        if entry.name not in ours and not (target / entry.name).exists():
            entry.rename(target / entry.name)
    for entry in list(old.iterdir()):
        if entry.name != AGENT_FILE and not entry.is_dir():
            entry.unlink()
    shutil.rmtree(old)  # last of all the list of what is ours: a kill before leaves nothing to take for the user's


def _written_by_a_save(folder: Path) -> set[str]:
    """Names that an earlier save wrote; none where there was no save, or its list cannot be read."""
    try:
        files = json.loads((folder / AGENT_FILE).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return set(files) if isinstance(files, (dict, list)) else set()


def sync(path: Path) -> None:
    """What a file or a folder holds is on disk when this returns."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder, and writes renames through
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
