"""What a run writes, and how it goes on where it stopped: its folder, its log, its checkpoints.

Not for what is in a checkpoint: an agent says that itself.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llmgym.agents.checkpoints import (
    checkpoint_folder,
    drop_checkpoints_after,
    list_checkpoints,
    prune_checkpoints,
    write_checkpoint,
)
from llmgym.agents.evaluation import Evaluation
from llmgym.agents.metrics import RunLog
from llmgym.agents.run_folders import claim_again, claim_new, release
from llmgym.agents.trajectories import trajectories_text, write_trajectories
from llmgym.errors import CheckpointError, InvalidOptionError


@dataclass(frozen=True)
class Budget:
    """How long a call of ``learn`` goes on, and from where it counts.

    Attributes:
        total_timesteps: Environment steps to take. ``None``: no such bound.
        max_seconds: Wall time to spend. ``None``: no such bound.
        first_timestep: Steps that were taken before it.
        first_second: Wall time that was spent before it.
    """

    total_timesteps: int | None
    max_seconds: float | None
    first_timestep: int
    first_second: float

    def __post_init__(self) -> None:
        """Refuse a budget that is spent before it begins."""
        for name in ("total_timesteps", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidOptionError(f"Expected {name} > 0, actual: {value}. Raise it, or leave it out.")

    def spent(self, n_timesteps: int, seconds: float) -> float:
        """The share of it that is spent, of steps or of time, whichever is more."""
        steps = (n_timesteps - self.first_timestep) / self.total_timesteps if self.total_timesteps else 0.0
        return max(steps, (seconds - self.first_second) / self.max_seconds if self.max_seconds else 0.0)


class Run:
    """The folder that a training writes to. Nothing is made before :meth:`open`.

    Args:
        wanted: The folder of a new run; the next free name beside it if it holds another run. ``None``: nothing is
            written anywhere.
        keep: Checkpoints that stay.

    Attributes:
        id: Tells the checkpoints of one run from those of another.
        folder: ``None`` before a new run is opened.
        log: Of metrics; one that writes nothing before the run is opened.
    """

    def __init__(self, wanted: str | Path | None, *, keep: int) -> None:
        self.id = uuid.uuid4().hex
        self.folder: Path | None = None
        self.log = RunLog(None)
        self._wanted = None if wanted is None else Path(wanted)
        self._keep = keep
        self._log_position: Mapping[str, Any] | None = None
        self._written: object = None  # what the last checkpoint is of
        self._is_open = False

    def go_on(self, folder: Path, run_id: str, log_position: Mapping[str, Any], state: object) -> None:
        """Be the run in ``folder``, at one of its checkpoints; nothing there changes before :meth:`open`."""
        self.folder, self.id, self._log_position, self._written = folder, run_id, log_position, state

    def open(self, iteration: int) -> None:
        """Take the folder. A run that is loaded forgets what it did after its checkpoint, at ``iteration``.

        Raises:
            CheckpointError: If the folder cannot be made, or another process goes on with the run, or has done so.
        """
        if self._wanted is None or self._is_open:
            return
        try:
            if self.folder is None:
                self.folder = claim_new(self._wanted)
                self.log = RunLog(self.folder)
            else:
                claim_again(self.folder)
                try:
                    self._take_up(self.folder, iteration)
                except BaseException:
                    release(self.folder)
                    raise
        except OSError as error:
            raise CheckpointError(
                f"Expected a folder to write a run to, actual: {error}. Name another run_dir, or None to write nothing."
            ) from error
        self._is_open = True

    def _take_up(self, folder: Path, iteration: int) -> None:
        """Go on with the log; it and the checkpoints end where this agent is."""
        if self.log.folder is None:
            drop_checkpoints_after(folder, iteration)
            self.log = RunLog(folder)
            assert self._log_position is not None
            self.log.rewind(self._log_position)
        elif self.log.position() != self._log_position:
            raise CheckpointError(
                f"Expected the run in {str(folder)!r} as this agent left it, actual: another one has gone on with it. "
                "Load it anew."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the folder; :meth:`open` takes it again."""
        if not self._is_open:
            return
        assert self.folder is not None
        try:
            self._log_position = self.log.position()
            self.log.close()
        except OSError as failure:
            if error is None:  # otherwise a full disk has been reported already
                raise CheckpointError(f"{failure}. {self.last_good()}") from failure
        finally:
            release(self.folder)
            self._is_open = False

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Log a line.

        Raises:
            CheckpointError: If it cannot be written, for instance on a full disk.
        """
        with self._told():
            self.log.write(metrics)

    def keep_responses(self, evaluation: Evaluation, iteration: int) -> None:
        """Write down some whole responses of an evaluation, inside a run.

        Raises:
            CheckpointError: As in :meth:`write`.
        """
        if self.log.folder is not None:
            with self._told():
                write_trajectories(self.log.folder, evaluation, iteration)
                self.log.text("evaluation", trajectories_text(evaluation, iteration), iteration)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A full disk is told with what there is to go back to."""
        try:
            yield
        except OSError as error:
            raise CheckpointError(f"{error}. {self.last_good()}") from error

    def checkpoint(
        self,
        iteration: int,
        state_of: object,
        settings: Callable[[], Mapping[str, Any]],
        state: Callable[[], Mapping[str, Any]],
        save_policy: Callable[[Path], None],
    ) -> float:
        """Write a checkpoint, unless the last one is of the same state, and delete those that are too many.

        Args:
            iteration: Iterations done.
            state_of: Differs whenever the state does.
            settings: See :func:`~llmgym.agents.checkpoints.write_checkpoint`, also for the following.
            state: The training state.
            save_policy: Writes the model.

        Returns:
            The seconds that it took.

        Raises:
            CheckpointError: If it cannot be written; the message names the last good one.
        """
        self.open(iteration)
        if self.folder is None or self._written == state_of:
            return 0.0
        started = time.perf_counter()
        try:
            write_checkpoint(checkpoint_folder(self.folder, iteration), settings(), state(), save_policy)
        except (CheckpointError, OSError) as error:  # the log is brought to disk first
            raise CheckpointError(f"{error} {self.last_good()}") from error
        self._written = state_of
        prune_checkpoints(self.folder, self._keep)
        return time.perf_counter() - started

    def last_good(self) -> str:
        """A sentence that says what there is to go back to."""
        checkpoints = [] if self.folder is None else list_checkpoints(self.folder)
        if not checkpoints:
            return "There is no checkpoint of the run."
        return f"The last good checkpoint is {str(checkpoints[0])!r}: llmgym train --resume {self.folder}"
