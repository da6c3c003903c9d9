"""The README's Python blocks run, and print what the README says they print.

A block marked ``<!-- minutes -->`` runs with ``make slow`` only. After a change of behaviour that is meant, this writes
the new outputs into the README: ``LLMGYM_UPDATE_README=1 pytest tests/e2e/test_readme.py``.
"""

import contextlib
import io
import os
import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCK = re.compile(r"(<!-- minutes -->\n)?```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)


def blocks():
    text = README.read_text(encoding="utf-8") if README.is_file() else ""
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start(2)) + 1
        marks = [pytest.mark.slow] if match[1] else []
        yield pytest.param(match[2], match[3], id=f"line {line}", marks=marks)


@pytest.mark.parametrize(("code", "printed"), list(blocks()))
def test_block(code, printed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    actual = output.getvalue()
    if printed is not None and os.environ.get("LLMGYM_UPDATE_README"):
        old, new = (f"```python\n{code}```\n\n```text\n{text}```\n" for text in (printed, actual))
        README.write_text(README.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    elif printed is not None:
        assert actual == printed


def test_the_readme_names_only_commands_that_exist():
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    named = set(
        re.findall(r"\bmake ([a-z]+)\b", " ".join(re.findall(r"`[^`]*`|```.*?```", README.read_text(), re.DOTALL)))
    )
    assert named
    assert named <= set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
