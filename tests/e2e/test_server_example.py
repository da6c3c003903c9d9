"""The example that needs a server runs against one, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("openai", reason="the extra `servers` is not installed")

from tests.unit.agent_servers import MODEL, TinyServer

ROOT = Path(__file__).parent.parent.parent


def test_the_example_plays_both_units(tmp_path):
    code = f"import sys, importlib; sys.path.insert(0, {str(ROOT / 'examples')!r}); "
    code += "importlib.import_module('09_server').main(*sys.argv[1:3], n_problems=9)"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with TinyServer() as server:
        run = subprocess.run(
            [sys.executable, "-c", code, server.url, MODEL],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("pass@1") == 2
    assert run.stdout.count("ended by {'end_token': ") == 2
    assert len(server.requests) == 2 * (8 + 9)
