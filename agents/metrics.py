"""Where the numbers of a run go: a line of JSON for each iteration, and the trackers that draw curves of it.

``docs/metrics.md`` explains every name.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmgym.agents.trackers import TensorBoard, Tracker, WandB, wandb_mode

#: Name of the log inside a run's folder.
LOG_FILE = "metrics.jsonl"


class RunLog:
    """The log of a run: ``metrics.jsonl`` and ``tensorboard/`` in its folder; Weights & Biases where it is asked for.

    Nothing is imported, opened or made before the first :meth:`write`. A package that is missing costs its own curves
    and one warning, never the run: ``metrics.jsonl`` is always written.

    Weights & Biases is asked for by its own environment variable, ``WANDB_MODE=online`` or ``offline``; unset, nothing
    of it is imported and nothing leaves the machine.

    Args:
        folder: Of the run; made if missing. ``None``: nothing is written anywhere.
        run_name: What Weights & Biases shows. ``None``: the name of the folder.
    """

    def __init__(self, folder: str | Path | None, *, run_name: str | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._run_name = run_name or (self.folder.name if self.folder is not None else None)
        self._run = time.strftime("%Y-%m-%dT%H:%M:%S")
        self._timesteps = 0  # of the last line: the step of the trackers
        self._purge: int | None = None  # TensorBoard forgets what it holds from this step on
        self._wandb_id: str | None = None
        self._mended = False
        self._trackers: list[Tracker] | None = None

    @property
    def path(self) -> Path | None:
        """The file of lines."""
        return None if self.folder is None else self.folder / LOG_FILE

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Append one line, which is in the file when this returns, and tell the trackers.

        Args:
            metrics: Plain values; ``"timesteps"`` among them is the step of the trackers.

        Raises:
            OSError: If the line cannot be written whole (a full disk). What is left of it is cut off by the next one.
        """
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # NaN and infinity are not JSON; null says "no number here" to every reader.
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
        line = json.dumps({"run": self._run, **clean}, ensure_ascii=False, allow_nan=False) + "\n"
        self._append(line)
        self._timesteps = int(metrics.get("timesteps", self._timesteps + 1))
        for tracker in self._open_trackers():
            tracker.write(clean, self._timesteps)

    def text(self, name: str, text: str, iteration: int) -> None:
        """Show a text, such as some trajectories, beside the curves. It is no part of ``metrics.jsonl``."""
        if self.path is not None:
            for tracker in self._open_trackers():
                tracker.text(name, f"iteration {iteration}\n{text}", self._timesteps)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def position(self) -> dict[str, Any]:
        """Where the log stands, as plain JSON values for a checkpoint. All lines so far are on disk when this returns.

        Without it, a crash of the machine could leave a checkpoint that is ahead of its log.
        """
        n_bytes = 0
        if self.path is not None and self.path.is_file():
            self._mend()
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
            n_bytes = self.path.stat().st_size
        for tracker in self._trackers or ():
            tracker.flush()
            self._wandb_id = tracker.id or self._wandb_id
        return {"run": self._run, "bytes": n_bytes, "timesteps": self._timesteps, "wandb_id": self._wandb_id}

    def rewind(self, position: Mapping[str, Any]) -> None:
        """Forget what was logged after a checkpoint, so that a resumed run logs what an unbroken one would have.

        ``metrics.jsonl`` is cut back, all or nothing. TensorBoard is told to drop what it holds of later steps. Weights
        & Biases goes on with the same run; points that were sent already stay, and are sent once more.

        A log that is shorter than it was (someone cut or deleted it) is left as it is, with a warning.

        Args:
            position: What :meth:`position` gave.
        """
        self.close()
        self._run = position["run"]
        self._timesteps = position["timesteps"]
        self._purge = self._timesteps + 1
        self._wandb_id = position["wandb_id"]
        if self.path is not None:
            _cut_back(self.path, position["bytes"])

    def close(self) -> None:
        """Write out what the trackers hold back. A later :meth:`write` opens them again."""
        trackers, self._trackers = self._trackers or (), None  # even if one cannot write
        for tracker in trackers:
            self._wandb_id = tracker.id or self._wandb_id
            tracker.close()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _append(self, line: str) -> None:
        assert self.path is not None
        self._mend()
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            self._mended = False
            reason = f"Expected room for a line of the log, actual: {error.strerror}. Make room, then resume the run"
            raise OSError(error.errno, reason, str(self.path)) from error

    def _mend(self) -> None:
        """What a crash left of a line would make the next one unreadable too."""
        assert self.path is not None
        if not self._mended and self.path.is_file():
            whole = self.path.read_bytes()
            if not whole.endswith(b"\n"):
                with self.path.open("r+b") as file:
                    file.truncate(whole.rfind(b"\n") + 1)
        self._mended = True

    def _open_trackers(self) -> list[Tracker]:
        if self._trackers is None:
            assert self.folder is not None
            folder, name = self.folder, self._run_name or self.folder.name
            makers: list[tuple[str, str, Callable[[], Tracker]]] = [
                ("tensorboard", 'pip install "llmgym-rl[agents]"', lambda: TensorBoard(folder, self._purge)),
            ]
            if (mode := wandb_mode()) is not None:
                makers.append(("wandb", "pip install wandb", lambda: WandB(folder, name, mode, self._wandb_id)))
            self._trackers = [t for maker in makers if (t := _made(*maker)) is not None]
            self._purge = None  # once: what is written from now on is not to be forgotten
        return self._trackers


def _made(package: str, install: str, make: Callable[[], Tracker]) -> Tracker | None:
    """A tracker; ``None`` and a warning where its package is missing."""
    try:
        return make()
    except ImportError as error:
        warnings.warn(
            f"Expected the package `{package}` to be installed, actual: {error}. The run goes on and writes {LOG_FILE} "
            f"alone. Run: {install}",
            stacklevel=5,
        )
        return None


def _cut_back(path: Path, n_bytes: int) -> None:
    """Cut a file back to its first ``n_bytes`` bytes, all or nothing."""
    whole = path.read_bytes() if path.is_file() else b""
    kept = whole[:n_bytes]
    if len(kept) < n_bytes or not (kept == b"" or kept.endswith(b"\n")):
        warnings.warn(
            f"Expected {str(path)!r} to hold the {n_bytes} bytes of whole lines that it held at the checkpoint, "
            f"actual: {len(whole)} bytes that do not. Lines of the run are lost; it goes on with the log as it is.",
            stacklevel=4,
        )
        return
    if len(whole) > n_bytes:
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with draft.open("wb") as file:
                file.write(kept)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a log (or of the log in a folder), oldest first; a torn last line is left out."""
    file = Path(path)
    file = file / LOG_FILE if file.is_dir() else file
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows
