"""The programs that measure a GPU: the same code with a small model on a CPU, and what they say where there is no GPU."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def gpu_memory(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_memory")


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_each_option_saves_what_it_is_for(gpu_memory: Any, algorithm: str) -> None:
    options = gpu_memory.GPUMemory(device="cpu", size="tiny", group_size=2, n_prompts=1, lora_rank=2)
    off = {"lora": False, "checkpointing": False, "chunked": False}
    held, kept = map(float, gpu_memory.measure(options, algorithm, **off)[:2])
    for name in ("checkpointing", "chunked"):
        assert float(gpu_memory.measure(options, algorithm, **(off | {name: True}))[1]) < 0.8 * kept, name
    assert float(gpu_memory.measure(options, algorithm, **(off | {"lora": True}))[0]) < 0.5 * held


def test_the_large_model_has_half_a_billion_parameters(gpu_memory: Any) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    with torch.device("meta"):
        model = Qwen2ForCausalLM(Qwen2Config(**gpu_memory.SIZES["0.5b"].config))
    assert sum(p.numel() for p in model.parameters()) == 494_032_768  # as its model card counts them


def test_what_autograd_keeps_is_counted(gpu_memory: Any) -> None:
    """``x.exp()`` keeps its result and nothing else; a second holder of the same storage counts once."""
    weight, x = torch.ones(100, requires_grad=True), torch.ones(100)
    kept = gpu_memory.KeptForBackward([weight])
    with kept.counting():
        y = (weight * x).exp()  # keeps x (and the weight, which does not count) and y
        assert kept.peak == 2 * 400
        loss = (y * y).sum()  # y once more
        assert kept.peak == 2 * 400
        loss.backward()
        del y, loss
        z = (weight * x).exp()
        assert kept.peak == 2 * 400  # what was let go of is not counted any more
    del z


@pytest.mark.parametrize("name", ["gpu_memory", "gpu_learning"])
def test_without_a_gpu_they_say_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    program = importlib.import_module(name)
    options = {"gpu_memory": "GPUMemory", "gpu_learning": "GPULearning"}[name]
    with pytest.raises(SystemExit, match=r"Expected a CUDA device, actual: torch finds none here\..*--device cpu"):
        program.main(getattr(program, options)())


@pytest.mark.slow
def test_the_learning_comparison_runs_on_a_cpu(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    options = ["--device", "cpu", "--iterations", "2", "--seeds", "0", "--n-problems", "20", "--output", str(table)]
    subprocess.run([sys.executable, str(BENCHMARKS / "gpu_learning.py"), *options], check=True, capture_output=True)
    text = table.read_text()
    assert "float32 on a CPU" in text
    assert "bfloat16 on a CPU" in text
