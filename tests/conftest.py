"""Settings that every test runs under: offline, one thread, no display, and reproducible."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

# Before torch, tokenizers or matplotlib are imported anywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# A shell starts background jobs with Ctrl-C ignored, and every process that they start; tests send it.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import HealthCheck, settings

# No deadline: the machine may be busy. Derandomised: a failure here is a failure everywhere. `make slow` looks wider.
settings.register_profile(
    "quick", deadline=None, max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("wide", deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("LLMGYM_HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data sets, which are no part of this repository; without it the tests that want it are skipped."""
    folder = Path(os.environ.get("LLMGYM_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
    if not (folder / "gsm8k_test.jsonl.gz").exists():
        pytest.skip(f"no data sets in {folder}: set LLMGYM_DATA to the folder that holds gsm8k_test.jsonl.gz")
    return folder
