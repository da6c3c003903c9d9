"""Changes one thing at a time in the formulas of the agents and counts how often the golden tests notice.

    pip install cosmic-ray
    nice python scripts/mutate.py                      # from ten minutes (an idle core) up; prints each survivor
    nice python scripts/mutate.py --work /tmp/mutants  # keeps its progress there: called again, it goes on

The tree is copied first, so nothing is changed here. What is mutated and which tests run is in ``mutation.toml``. What
no program reads is left out: type annotations, and the star before keyword arguments, which is no product.
docs/mutation.md has the figures.
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

from cosmic_ray.config import ConfigDict, load_config, serialize_config
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkResult

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("agents", "envs", "llmgym", "scripts", "tests", "pyproject.toml")

Position = tuple[int, int]  # line and column, from (1, 0)


def copy_tree(target: Path) -> None:
    target.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target / name)


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


def config_for(module: str) -> ConfigDict:
    """The configuration for one module, whose own tests come first: most mutants die there."""
    config = load_config(ROOT / "scripts" / "mutation.toml")
    own = f"tests/golden/test_agents_{Path(module).stem}.py"
    words = config["test-command"].split()
    first = next(i for i, word in enumerate(words) if word.startswith("tests/"))
    words.remove(own)
    words.insert(first, own)
    return ConfigDict({**config, "module-path": [module], "test-command": " ".join(words)})


def unread(path: Path) -> Iterator[tuple[Position, Position]]:
    """What of a file no program reads: where type annotations and stars before keyword arguments begin and end."""
    for node in ast.walk(ast.parse(path.read_text())):
        for found in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(found, ast.expr):
                yield (found.lineno, found.col_offset), (found.end_lineno or 0, found.end_col_offset or 0)
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        column = line.find("*, ") if "*, " in line else line.find("*,") if line.strip() == "*," else -1
        if column >= 0:
            yield (number, column), (number, column + 1)


def skip_unread(db: WorkDB, tree: Path) -> None:
    for item in db.pending_work_items:
        (mutation,) = item.mutations
        spans = unread(tree / mutation.module_path)
        if any(start <= mutation.start_pos and mutation.end_pos <= end for start, end in spans):
            db.set_result(item.job_id, WorkResult(worker_outcome=WorkerOutcome.SKIPPED, output="not read"))


def describe(mutation: MutationSpec, diff: str | None) -> str:
    changed = [line for line in (diff or "").splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    where = f"{mutation.module_path}:{mutation.start_pos[0]} in {mutation.definition_name}"
    return "\n".join([f"{where} ({mutation.operator_name})", *changed])


def report(db: WorkDB) -> Counter[str]:
    """Prints the survivors; returns how many mutants were tested, killed and left out."""
    counts: Counter[str] = Counter()
    results = dict(db.results)
    for item in db.work_items:
        (mutation,) = item.mutations
        result = results.get(item.job_id)
        if result is None:
            sys.exit(
                f"Expected a result for each mutant, actual: none for {mutation}. Call again with the same --work."
            )
        if result.worker_outcome == WorkerOutcome.SKIPPED:
            counts["left out"] += 1
            continue
        if result.worker_outcome != WorkerOutcome.NORMAL or result.test_outcome == TestOutcome.INCOMPETENT:
            sys.exit(f"Expected that each mutant was tested, actual: {result} for {mutation}.")
        counts["tested"] += 1
        counts["killed"] += result.is_killed
        if not result.is_killed:
            print(describe(mutation, result.diff), end="\n\n")
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for the copy and the results; kept, and resumed from")
    work = parser.parse_args().work or Path(tempfile.mkdtemp(prefix="mutants-"))
    original, tree = work / "original", work / "tree"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",  # two mutants of one size within a second would share their byte code
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "OMP_NUM_THREADS": "1",
    }

    def cosmic_ray(module: str, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", f"cosmic_ray.{module}", *map(str, arguments)]
        subprocess.run(command, check=True, cwd=tree, env=environment)

    if not original.exists():
        copy_tree(original)
    shutil.rmtree(tree, ignore_errors=True)  # an interrupted run leaves a mutant behind
    shutil.copytree(original, tree, symlinks=True)
    compileall.compile_dir(tree, quiet=1)

    counts: dict[str, Counter[str]] = {}
    with serving_tests(work / "socket", tree, environment):
        for module in load_config(ROOT / "scripts" / "mutation.toml")["module-path"]:
            name = Path(module).stem
            config, session = work / f"{name}.toml", work / f"{name}.sqlite"
            if not session.exists():
                config.write_text(serialize_config(config_for(module)))
                cosmic_ray("cli", "baseline", config)  # the tests pass on what is not mutated
                cosmic_ray("cli", "init", config, session)
                cosmic_ray("tools.filters.operators_filter", session, config)
                with use_db(session) as db:
                    skip_unread(db, tree)
            cosmic_ray("cli", "exec", config, session)
            with use_db(session) as db:
                counts[name] = report(db)
    counts["together"] = sum(counts.values(), Counter())
    for name, count in counts.items():
        share = count["killed"] / count["tested"]
        left_out = f"({count['left out']} left out)"
        print(f"{name:<12}{count['killed']:>5} of {count['tested']:>4} killed  {share:.1%}  {left_out}")
    return int(share < 0.9)


if __name__ == "__main__":
    sys.exit(main())
