"""Changes one thing at a time in the formulas of the agents and counts how often the golden tests notice.

    pip install cosmic-ray
    nice python scripts/mutate.py                      # about half an hour; prints each survivor
    nice python scripts/mutate.py --work /tmp/mutants  # keeps its progress there: called again, it goes on

The tree is copied first, so nothing is changed here. What is mutated and which tests run is in ``mutation.toml``; the
type annotations are left out, since no program reads them. docs/mutation.md has the figures.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkResult

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("agents", "envs", "llmgym", "scripts", "tests", "pyproject.toml")
CONFIG = ROOT / "scripts" / "mutation.toml"

Span = tuple[tuple[int, int], tuple[int, int]]


def copy_tree(target: Path) -> None:
    target.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target / name)


def annotations(path: Path) -> Iterator[Span]:
    """Where the type annotations of a file begin and end: (line, column) from (1, 0)."""
    for node in ast.walk(ast.parse(path.read_text())):
        for found in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(found, ast.expr):
                yield (found.lineno, found.col_offset), (found.end_lineno or 0, found.end_col_offset or 0)


def skip_annotations(db: WorkDB, tree: Path) -> None:
    spans: dict[Path, list[Span]] = {}
    for item in db.pending_work_items:
        (mutation,) = item.mutations
        inside = spans.setdefault(mutation.module_path, list(annotations(tree / mutation.module_path)))
        if any(start <= mutation.start_pos and mutation.end_pos <= end for start, end in inside):
            db.set_result(item.job_id, WorkResult(worker_outcome=WorkerOutcome.SKIPPED, output="annotation"))


@contextlib.contextmanager
def serving_tests(socket: Path, tree: Path, environment: dict[str, str]) -> Iterator[None]:
    """The server that the test command of the configuration asks."""
    socket.unlink(missing_ok=True)
    command = [sys.executable, tree / "scripts" / "pytest_server.py", "serve", "../socket"]
    with subprocess.Popen(command, cwd=tree, env=environment) as server:
        try:
            while not socket.exists() and server.poll() is None:
                time.sleep(0.1)
            yield
        finally:
            server.terminate()
            socket.unlink(missing_ok=True)


def describe(mutation: MutationSpec, diff: str | None) -> str:
    changed = [line for line in (diff or "").splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    where = f"{mutation.module_path}:{mutation.start_pos[0]} in {mutation.definition_name}"
    return "\n".join([f"{where} ({mutation.operator_name})", *changed])


def report(db: WorkDB) -> int:
    """Prints the survivors and the figures; the exit code says whether 90 % were killed."""
    killed: Counter[str] = Counter()
    total: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    results = dict(db.results)
    for item in db.work_items:
        (mutation,) = item.mutations
        result = results.get(item.job_id)
        if result is None:
            sys.exit(
                f"Expected a result for each mutant, actual: none for {mutation}. Call again with the same --work."
            )
        if result.worker_outcome == WorkerOutcome.SKIPPED:
            left_out[result.output or ""] += 1
            continue
        if result.worker_outcome != WorkerOutcome.NORMAL or result.test_outcome == TestOutcome.INCOMPETENT:
            sys.exit(f"Expected that each mutant was tested, actual: {result} for {mutation}.")
        name = mutation.module_path.name
        total[name] += 1
        killed[name] += result.is_killed
        if not result.is_killed:
            print(describe(mutation, result.diff), end="\n\n")
    for name in total:
        print(f"{name:<16}{killed[name]:>5} of {total[name]:>4} killed  {killed[name] / total[name]:.1%}")
    share = killed.total() / total.total()
    print(f"{'together':<16}{killed.total():>5} of {total.total():>4} killed  {share:.1%}")
    print("left out:", ", ".join(f"{count} ({why.lower()})" for why, count in sorted(left_out.items())))
    return int(share < 0.9)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for the copy and the results; kept, and resumed from")
    work = parser.parse_args().work or Path(tempfile.mkdtemp(prefix="mutants-"))
    original, tree, session = work / "original", work / "tree", work / "session.sqlite"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",  # two mutants of one size within a second would share their byte code
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "OMP_NUM_THREADS": "1",
    }

    def cosmic_ray(module: str, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", f"cosmic_ray.{module}", *map(str, arguments)]
        subprocess.run(command, check=True, cwd=tree, env=environment)

    fresh = not session.exists()
    if fresh:
        copy_tree(original)
    shutil.rmtree(tree, ignore_errors=True)  # an interrupted run leaves a mutant behind
    shutil.copytree(original, tree, symlinks=True)
    compileall.compile_dir(tree, quiet=1)
    with serving_tests(work / "socket", tree, environment):
        if fresh:
            cosmic_ray("cli", "baseline", CONFIG)  # the tests pass on what is not mutated
            cosmic_ray("cli", "init", CONFIG, session)
            cosmic_ray("tools.filters.operators_filter", session, CONFIG)
            with use_db(session) as db:
                skip_annotations(db, tree)
        cosmic_ray("cli", "exec", CONFIG, session)
    with use_db(session) as db:
        return report(db)


if __name__ == "__main__":
    sys.exit(main())
