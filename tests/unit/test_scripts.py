"""Programs beside the package: what they refuse, and what they leave behind when they are interrupted."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.unit.agent_fakes import tiny_llama

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("slots", ["12", "0", "4"])
def test_decoding_is_measured_on_whole_groups(monkeypatch, capsys, slots):
    monkeypatch.setattr(sys, "argv", ["decode.py", "--slots", slots, "--group", "8"])
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as running it as a program does
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "benchmarks" / "decode.py"), run_name="__main__")
    assert f"multiple of --group 8, actual: {slots}" in capsys.readouterr().err


class FakeTokenizer:
    def save(self, path):
        Path(path).write_text("{}")


@pytest.mark.parametrize("n_renames", [0, 1, 2])
def test_an_interrupted_write_of_the_tiny_model_leaves_a_whole_one(tmp_path, monkeypatch, n_renames):
    pytest.importorskip("tyro")
    from llmgym.agents.saving import aside

    write = runpy.run_path(str(ROOT / "scripts" / "make_tiny_reasoner.py"))["write"]
    folder = tmp_path / "model"
    write(folder, tiny_llama(), FakeTokenizer())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    rename, done = Path.rename, []

    def killed_rename(source, target):  # from the n-th on nothing can be renamed any more, as if the process were gone
        if len(done) >= n_renames:
            raise KeyboardInterrupt
        done.append(target)
        return rename(source, target)

    def killed_rmtree(path, **kwargs):
        if Path(path).exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed_rename)
        patch.setattr(shutil, "rmtree", killed_rmtree)
        with pytest.raises(KeyboardInterrupt):
            write(folder, tiny_llama(seed=1), FakeTokenizer())
    whole = folder if folder.exists() else aside(folder)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {path.name for path in whole.iterdir()}
    write(folder, tiny_llama(), FakeTokenizer())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
