"""``transformers serve`` as the server: somebody else's program, somebody else's tokens."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest

pytest.importorskip("torch")

import llmgym
from llmgym.agents.evaluation import evaluate
from llmgym.agents.policies import Policy
from llmgym.agents.servers import ServerPolicy
from llmgym.agents.text_evaluation import evaluate_texts
from llmgym.errors import InvalidOptionError

MISSING = [name for name in ("openai", "fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
MODEL = str(Path(llmgym.__file__).parent / "assets" / "tiny-reasoner")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"transformers serve needs {', '.join(MISSING)}, not installed"),
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", MODEL]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                    break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None, "transformers serve ended"
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait()


def make(unit: str, **options: object) -> gym.vector.VectorEnv:
    return gym.make_vec("llmgym/MathReason-v0", 8, action_unit=unit, autoreset_mode="disabled", **options)


@pytest.mark.parametrize("unit", ["step", "response"])
@pytest.mark.parametrize("max_tokens", [None, 5])
def test_it_plays_what_the_model_plays(url: str, unit: str, max_tokens: int | None) -> None:
    """The shipped model's generation settings are greedy there."""
    envs = make(unit)
    with ServerPolicy(url, envs, model=MODEL, temperature=0, max_tokens=max_tokens) as player:
        played = evaluate_texts(player, envs, n_problems=20)
    expected = evaluate(Policy.load(MODEL, device="cpu", temperature=1e-3), make("token"), n_problems=20)
    assert played.stop_reasons == expected.stop_reasons
    assert played.pass_at_1 == expected.pass_at_1
    assert [e["response"] for e in played.examples] == [e["response"].removesuffix("<eos>") for e in expected.examples]


def test_it_refuses_a_model_that_it_does_not_serve(url: str) -> None:
    envs = make("response")
    observations, _ = envs.reset(seed=0)
    with (
        ServerPolicy(url, envs, model="another", n_concurrent=1) as player,
        pytest.raises(InvalidOptionError, match="status 400, .*another"),
    ):
        player.act(observations)
