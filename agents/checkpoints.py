"""Checkpoints on disk: a folder that is written all or nothing, and read only if it is whole.

::

    agent.json            settings and counters, to be read by people; size and SHA-256 of every file, and its own
    model.safetensors     the policy, with config.json and the tokenizer: transformers loads the folder unchanged
    training_state.pt     all else that the next iteration depends on; read without executing anything

Not for what is in the state: an agent says that itself.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging

from llmgym.agents.saving import AGENT_FILE, aside, clear_up, write_folder
from llmgym.errors import CheckpointError, NewerCheckpointError

#: Raised when a folder's layout changes so that earlier versions cannot read it.
FORMAT = 1

STATE_FILE = "training_state.pt"

#: Inside a run's folder.
CHECKPOINTS = "checkpoints"

#: A checkpoint; with the dot and ``.old``: one that is being replaced.
_NAME = re.compile(r"(\.)?iteration_(\d+)(?(1)\.old)")


# -- one folder -------------------------------------------------------------------------------------------------------


def write_checkpoint(
    folder: Path, settings: Mapping[str, Any], state: Mapping[str, Any], save_policy: Callable[[Path], None]
) -> None:
    """Write a folder, or replace it: whole and on disk when this returns, untouched if anything fails before.

    Args:
        folder: What it held that no save had written stays.
        settings: Plain JSON values.
        state: Tensors and plain values, in dictionaries and lists.
        save_policy: Writes the model and the tokenizer into the folder that it is given.

    Raises:
        CheckpointError: If it cannot be written, for instance on a full disk.
    """

    def fill(draft: Path) -> None:
        with quiet():
            save_policy(draft)
        with (draft / STATE_FILE).open("wb") as file:
            torch.save(dict(state), file)
        files = {path.name: _fingerprint(path) for path in sorted(draft.iterdir())}
        text = json.dumps({"format": FORMAT, **settings, "files": files | {AGENT_FILE: None}})
        whole = json.loads(text)  # as it will be read: JSON has no tuples
        whole["sha256"] = _hash_of(whole)
        (draft / AGENT_FILE).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")

    try:
        write_folder(folder, fill)
    except (OSError, SafetensorError, RuntimeError) as error:  # safetensors and torch have errors of their own for a
        reason = _cause(error)  # full disk
        raise CheckpointError(
            f"Expected to write a checkpoint to {str(folder)!r}, actual: {reason}. Nothing there has changed. "
            "Make room, or name another folder."
        ) from error


def read_settings(folder: Path) -> dict[str, Any]:
    """What ``agent.json`` holds.

    Raises:
        CheckpointError: If there is none, it is not ours, or a newer version of the package wrote it.
    """
    file = folder / AGENT_FILE
    try:
        settings: Any = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(
            f"Expected a folder written by an agent, actual: {str(folder)!r} without {AGENT_FILE}. "
            "Name a run, a checkpoint of it, or what agent.save wrote."
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Expected {str(file)!r} to be JSON, actual: {error}.") from error
    known = settings.get("format") if isinstance(settings, dict) else None
    if not isinstance(known, int) or not _are_fingerprints(settings.get("files")):
        raise CheckpointError(
            f"Expected {str(file)!r} to be written by an agent of this version, actual: format {known!r}. "
            "The model beside it can be loaded by itself: Policy.load(folder)."
        )
    if known > FORMAT:
        raise NewerCheckpointError(
            f"Expected a checkpoint of format {FORMAT} or earlier, actual: {known} in {str(folder)!r}, written by "
            f"llmgym {settings.get('llmgym')}. Update the package."
        )
    if settings.get("sha256") != _hash_of(settings):
        raise CheckpointError(
            f"Expected {str(file)!r} as it was written, actual: its hash is another. Undo what was changed there; "
            "other options are given to load."
        )
    return dict(settings)


def _hash_of(settings: Mapping[str, Any]) -> str:
    """SHA-256 of what ``agent.json`` holds, its own hash left out."""
    text = json.dumps({name: value for name, value in settings.items() if name != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _are_fingerprints(files: object) -> bool:
    """Whether it is what ``agent.json`` says of the files beside it."""
    return isinstance(files, dict) and all(
        fingerprint is None or (isinstance(fingerprint, dict) and {"size", "sha256"} <= fingerprint.keys())
        for fingerprint in files.values()
    )


def check_whole(folder: Path) -> None:
    """Compare every file with its size and hash in ``agent.json``.

    Raises:
        CheckpointError: If one is missing or differs; the message names the last whole checkpoint beside it.
    """
    try:
        _compare(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{error} {_instead_of(folder)}") from error


def _compare(folder: Path) -> None:
    for name, expected in read_settings(folder)["files"].items():
        if expected is None:  # the file that says so
            continue
        path = folder / name
        try:
            actual = _fingerprint(path) if path.is_file() else None
        except OSError as error:
            raise CheckpointError(f"Expected {str(path)!r} to be readable, actual: {error}.") from error
        if actual != expected:
            what = "no file" if actual is None else f"{actual['size']} bytes with SHA-256 {actual['sha256'][:12]}"
            raise CheckpointError(
                f"Expected {str(path)!r} to hold the {expected['size']} bytes with SHA-256 {expected['sha256'][:12]} "
                f"that were saved, actual: {what}."
            )


def read_state(folder: Path) -> dict[str, Any]:
    """What ``training_state.pt`` holds, on the CPU. Only tensors and plain values are read: no code of a pickle runs.

    Raises:
        CheckpointError: If it holds anything else.
    """
    try:
        state: dict[str, Any] = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
        raise CheckpointError(
            f"Expected {str(folder / STATE_FILE)!r} to hold tensors and plain values, actual: "
            f"{str(error).partition(chr(10))[0]}. {_instead_of(folder)}"
        ) from error
    return state


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _cause(error: BaseException) -> str:
    """Why a file could not be written: torch wraps a full disk in an error of its own."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, OSError):
        inner = inner.__cause__ or inner.__context__
    return str(inner or error).partition("\n")[0]


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers for a moment."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


# -- the checkpoints of a run -----------------------------------------------------------------------------------------


def checkpoint_folder(run_dir: Path, iteration: int) -> Path:
    """Where a run keeps the checkpoint of an iteration."""
    return run_dir / CHECKPOINTS / f"iteration_{iteration:06}"


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoints of a run, newest first; each was whole when it was written."""
    found: dict[int, Path] = {}
    # A save into the run's own folder that was killed between two renames leaves them aside: see saving.py.
    for parent in (aside(run_dir) / CHECKPOINTS, run_dir / CHECKPOINTS):
        for path in parent.iterdir() if parent.is_dir() else ():
            match = _NAME.fullmatch(path.name)
            # One that was being replaced stands aside for a moment.
            if match and path.is_dir() and not (match[1] and (parent / f"iteration_{match[2]}").exists()):
                found[int(match[2])] = path
    return [found[iteration] for iteration in sorted(found, reverse=True)]


def _iteration(checkpoint: Path) -> int:
    match = _NAME.fullmatch(checkpoint.name)
    assert match is not None
    return int(match[2])


def _delete(checkpoint: Path) -> None:
    doomed = checkpoint.with_name(f".{checkpoint.name}-deleted")  # at once: half a checkpoint would look damaged
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def newest_whole(run_dir: Path) -> Path:
    """The newest checkpoint of a run whose files are as they were written. Damaged ones are passed over with a warning.

    Raises:
        CheckpointError: If there is none.
    """
    damage: list[str] = []
    for path in list_checkpoints(run_dir):
        try:
            _compare(path)
        except NewerCheckpointError:  # not damaged: to go on from an earlier one would delete it
            raise
        except CheckpointError as error:
            damage.append(str(error))
        else:
            if damage:
                warnings.warn(f"{' '.join(damage)} Going on from {str(path)!r} instead.", stacklevel=3)
            return path
    raise CheckpointError(
        f"Expected a whole checkpoint in {str(run_dir / CHECKPOINTS)!r}, actual: none. {' '.join(damage)} "
        "Start the run anew, or name another."
    )


def holds_agent(folder: Path) -> bool:
    """Whether a folder is that of a run with checkpoints, a checkpoint, or what an agent's ``save`` wrote."""
    return any((path / AGENT_FILE).is_file() for path in (folder, aside(folder))) or bool(list_checkpoints(folder))


def find_saved(folder: Path) -> tuple[Path, Path | None]:
    """The whole checkpoint that a folder stands for, and the run that goes on from it.

    Args:
        folder: Of a run, a checkpoint, or what an agent's ``save`` wrote. A run's own folder may hold a save too: the
            later of the two counts if they are of one run; a save of another run is taken for itself.

    Returns:
        The folder to read, and ``folder`` if it is that of the run that goes on; ``None`` if a new one begins.

    Raises:
        CheckpointError: If there is none.
    """
    saved = next((path for path in (folder, aside(folder)) if (path / AGENT_FILE).is_file()), None)
    if saved is None and list_checkpoints(folder):
        return newest_whole(folder), folder
    saved = saved or folder
    settings = read_settings(saved)
    check_whole(saved)
    if list_checkpoints(folder):
        newest = newest_whole(folder)
        of_run = read_settings(newest)
        if of_run["run"] == settings["run"]:
            return (saved if settings["n_iterations"] > of_run["n_iterations"] else newest), folder
    return saved, None


def drop_checkpoints_after(run_dir: Path, iteration: int) -> None:
    """Delete later checkpoints than the one that a run goes on from: they are damaged, or it would be one of them."""
    for path in list_checkpoints(run_dir):
        if _iteration(path) > iteration:
            _delete(path)


def prune_checkpoints(run_dir: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints, and what killed writes have left behind."""
    parent = run_dir / CHECKPOINTS
    for path in list_checkpoints(run_dir):
        if path.name.startswith("."):
            clear_up(parent / path.name.removeprefix(".").removesuffix(".old"))
    for path in list_checkpoints(run_dir)[keep:]:
        _delete(path)
    for path in parent.glob(".iteration_*-*"):
        shutil.rmtree(path, ignore_errors=True)


def _instead_of(folder: Path) -> str:
    """A sentence that names the last whole checkpoint beside a damaged one."""
    for path in list_checkpoints(folder.parent.parent) if folder.parent.name == CHECKPOINTS else ():
        try:
            if path != folder:
                _compare(path)
                return f"The last good checkpoint is {str(path)!r}."
        except CheckpointError:  # damaged too: an earlier one may not be
            continue
    return "Name another folder."
