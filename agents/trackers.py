"""Programs that draw curves of a run: TensorBoard, and Weights & Biases where it is asked for.

Their packages are imported when a tracker is made, never before. What they print and warn of their own dependencies is
not for the user of a training and is kept quiet; their errors are not.
"""

from __future__ import annotations

import importlib
import math
import os
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from llmgym.errors import unknown_name

#: Values of ``WANDB_MODE``: whether they ask for Weights & Biases.
WANDB_MODES = {"online": True, "offline": True, "shared": True, "dryrun": True, "run": True, "disabled": False}


class Tracker(Protocol):
    """What a log tells its numbers."""

    @property
    def id(self) -> str | None:
        """What the tracker has to be given to go on with the same curves in another process."""

    def write(self, metrics: Mapping[str, Any], step: int) -> None:
        """Draw the numbers among ``metrics``; ``None`` is no number."""

    def text(self, name: str, text: str, step: int) -> None:
        """Show a text."""

    def flush(self) -> None:
        """Everything so far is kept, even if the process is killed now."""

    def close(self) -> None:
        """The end."""


class TensorBoard:
    """Event files in ``tensorboard/``.

    Args:
        folder: Of the run.
        purge_step: What earlier files hold of this step and later ones is forgotten. ``None``: nothing.
    """

    id = None

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        with _quiet():
            from torch.utils.tensorboard import SummaryWriter

            self._writer: Any = SummaryWriter(folder / "tensorboard", purge_step=purge_step)
        # Its thread keeps the writer alive, and with it up to two minutes of events that are in no file yet.
        self._finalizer = weakref.finalize(self, self._writer.close)

    def write(self, metrics: Mapping[str, Any], step: int) -> None:
        """A curve for each number, and a text for the alarms."""
        for name, value in _numbers(metrics).items():
            self._writer.add_scalar(name, value, step)
        if metrics.get("alarms"):
            self._writer.add_text("alarms", ", ".join(metrics["alarms"]), step)

    def text(self, name: str, text: str, step: int) -> None:
        """As it is: an indented block, since the page renders Markdown."""
        self._writer.add_text(name, "\n".join(f"    {line}" for line in text.splitlines()), step)

    def flush(self) -> None:
        """Events wait in a queue otherwise."""
        self._writer.flush()

    def close(self) -> None:
        """The thread ends."""
        self._finalizer()


class WandB:
    """A run of Weights & Biases. Project, key and the rest are set by the package's own environment variables.

    Args:
        folder: Of the run; offline files go to ``wandb/`` in it.
        name: Shown for the run.
        mode: Of ``WANDB_MODE``.
        run_id: Of an earlier process of the same run, to go on with it. ``None``: a new one.
    """

    def __init__(self, folder: Path, name: str, mode: str, run_id: str | None) -> None:
        with _quiet():
            wandb = importlib.import_module("wandb")
            self._run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "llmgym"),
                name=os.environ.get("WANDB_NAME", name),
                dir=str(folder),
                mode=mode,
                id=run_id,
                resume="allow",
            )
        # Lines are told apart by timesteps, and not by the package's own counter, which cannot go back.
        self._run.define_metric("*", step_metric="timesteps")

    @property
    def id(self) -> str | None:
        """Of the run."""
        return str(self._run.id)

    def write(self, metrics: Mapping[str, Any], step: int) -> None:
        """A curve for each number."""
        self._run.log(_numbers(metrics) | {"timesteps": step})

    def text(self, name: str, text: str, step: int) -> None:
        """As preformatted text."""
        html = importlib.import_module("wandb").Html
        escaped = text.replace("&", "&amp;").replace("<", "&lt;")
        self._run.log({name: html(f"<pre>{escaped}</pre>", inject=False), "timesteps": step})

    def flush(self) -> None:
        """The package writes as it goes."""

    def close(self) -> None:
        """The run is over, for this process."""
        self._run.finish()


def wandb_mode() -> str | None:
    """How Weights & Biases is asked for by ``WANDB_MODE``; ``None``: it is not.

    Raises:
        InvalidOptionError: If the variable has a value that the package does not know.
    """
    mode = os.environ.get("WANDB_MODE", "disabled")
    if mode not in WANDB_MODES:
        raise unknown_name("WANDB_MODE", mode, WANDB_MODES)
    return mode if WANDB_MODES[mode] else None


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among metrics."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Other packages' warnings about their own dependencies stay out of a training's output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
