"""Folders that are replaced all or nothing: what an agent saves, and what a script makes.

Not for what is in them: an agent says that itself.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

#: Settings of an agent; its ``"files"`` are the names that the save wrote, this one included.
AGENT_FILE = "agent.json"


def put_in_place(draft: Path, target: Path) -> None:
    """``draft`` becomes ``target``; what ``target`` held that no save had written moves into it.

    Whenever the process is killed, one of ``target`` and :func:`aside` of it is whole.
    """
    old = aside(target)
    _clear_up(old, target)  # after an earlier save that was killed
    if target.exists():
        target.rename(old)
    try:
        draft.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    _clear_up(old, target)


def aside(target: Path) -> Path:
    """Where the earlier folder is while a new one takes its place."""
    return target.parent / f".{target.name}.old"


def _clear_up(old: Path, target: Path) -> None:
    """Nothing is left at ``old``: it becomes ``target`` if that is missing, or gives it what no save had written."""
    if not old.exists():
        return
    if not target.exists():
        old.rename(target)
        return
    file = old / AGENT_FILE
    ours = json.loads(file.read_text(encoding="utf-8")).get("files", []) if file.is_file() else []
    for entry in list(old.iterdir()):
        if entry.name not in ours and not (target / entry.name).exists():
            entry.rename(target / entry.name)
    shutil.rmtree(old)
