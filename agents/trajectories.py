"""Whole trajectories of an evaluation as readable text: curves say that something changed, the text says what."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llmgym.agents.evaluation import Evaluation

#: Folder of the files inside a run's folder.
FOLDER = "trajectories"


def write_trajectories(folder: str | Path, evaluation: Evaluation, iteration: int) -> Path:
    """Write the examples of an evaluation to ``trajectories/iteration_000120.txt`` in a run's folder, all or nothing.

    Nothing is written over: another evaluation of the same iteration gets the next free name, ``..._2.txt``. An equal
    one, such as a resumed run repeats, keeps its file.

    Args:
        folder: Of the run.
        evaluation: What :func:`~llmgym.agents.evaluation.evaluate` gave.
        iteration: Iterations done before it.

    Returns:
        The file.
    """
    target = Path(folder) / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    text = trajectories_text(evaluation, iteration)
    name, n = f"iteration_{iteration:06}", 1
    path = target / f"{name}.txt"
    while path.exists():
        if path.read_text(encoding="utf-8") == text:
            return path
        n += 1
        path = target / f"{name}_{n}.txt"
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def trajectories_text(evaluation: Evaluation, iteration: int) -> str:
    """What the file holds."""
    head = f"iteration {iteration}: {evaluation}"
    return "\n".join([head, "", *(_trajectory(i, e) for i, e in enumerate(evaluation.examples, start=1))])


def _trajectory(number: int, example: dict[str, Any]) -> str:
    parts = ", ".join(f"{name} {value:.3g}" for name, value in example["rewards"].items())
    facts = [
        f"--- {number}: {'solved' if example['solved'] else 'not solved'}",
        f"return {example['return']:.3g}" + (f" ({parts})" if parts else ""),
        f"ended by {example['stop_reason']}",
        f"{example['prompt_tokens']} tokens of prompt, {example['response_tokens']} of response",
    ]
    return f"{' | '.join(facts)}\n\n{example['prompt'].rstrip()}\n>>>\n{example['response'].rstrip()}\n"
