"""A line of JSON for each iteration, whatever else shows the run. ``docs/metrics.md`` explains every name."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Name of the log inside an agent's ``log_dir``.
LOG_FILE = "metrics.jsonl"


class MetricsLog:
    """Appends a JSON object a line; safe to read while it grows, and after a crash.

    Args:
        folder: Made if missing. ``None``: nothing is written.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.path = None if folder is None else Path(folder) / LOG_FILE
        self._mended = False
        self._run = time.strftime("%Y-%m-%dT%H:%M:%S")

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Append one line; it is on disk when this returns."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._mended:
            _cut_torn_line(self.path)
            self._mended = True
        # NaN and infinity are not JSON; null says "no number here" to every reader.
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"run": self._run, **clean}, ensure_ascii=False) + "\n")


def _cut_torn_line(path: Path) -> None:
    """What a crash left of a line would make the next one unreadable too."""
    if path.is_file():
        whole = path.read_bytes()
        if not whole.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(whole.rfind(b"\n") + 1)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a log (or of the log in a folder), oldest first; a torn last line is left out."""
    file = Path(path)
    file = file / LOG_FILE if file.is_dir() else file
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows
