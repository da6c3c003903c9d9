"""SymPy in a process of its own: what it decides, and what happens when it does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from llmgym.errors import MissingExtraError
from llmgym.rewards.comparison import symbolic
from llmgym.rewards.comparison.answers import Leniency, compare
from llmgym.rewards.notation.expressions import Constant, Expression, Listing, Name, Number, Operation, Quantity

pytest.importorskip("sympy")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits of processes are POSIX's")

X, N = Name("x"), Name("n")


def op(name: str, *operands: Expression | int) -> Operation:
    return Operation(name, tuple(Number(Fraction(one), "integer") if isinstance(one, int) else one for one in operands))


@pytest.fixture(scope="module", autouse=True)
def _stopped() -> Iterator[None]:
    yield
    symbolic.stop()


@pytest.mark.parametrize(
    ("left", "right", "verdict"),
    [
        (op("gcd", op("multiply", 2, N), op("multiply", 4, N)), op("multiply", 2, N), True),
        (op("lcm", op("multiply", 2, N), op("multiply", 4, N)), op("multiply", 4, N), True),
        (op("add", op("power", op("sin", X), 2), op("power", op("cos", X), 2)), op("abs", -1), True),
        (op("root", 8, 3), op("divide", 6, 3), True),
        (op("log", 8, 2), op("add", 1, 2), True),
        (op("arctan", 1), op("divide", Constant("pi"), 4), True),
        (op("add", op("call:f", X), 0), op("call:f", X), True),
        (Quantity(op("add", 20, 30), "%"), op("divide", 1, 2), True),
        (op("root", 2, 2), op("root", 3, 2), False),
        (op("power", 2, 100_000), op("add", op("power", 2, 100_000), 1), False),
        (X, N, None),
        (op("call:f", X), op("call:g", X), None),
        (op("divide", 1, 0), op("divide", 1, 0), None),
        (op("integral", X), X, None),
        (Listing((X,)), X, None),
    ],
)
def test_verdicts(left: Expression, right: Expression, verdict: bool | None) -> None:
    assert symbolic.same_value(left, right, deadline=60) is verdict


def test_names_are_never_parsed(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    name = Name(f"__import__('pathlib').Path({str(marker)!r}).touch()")
    assert symbolic.same_value(op("add", name, name), op("multiply", 2, name), deadline=60) is True
    assert not marker.exists()


@pytest.mark.parametrize("endless", [op("factorial", 10**9), op("power", 9, op("power", 9, op("power", 9, 9)))])
def test_what_takes_too_long_is_killed_and_the_next_question_answered(endless: Expression) -> None:
    start = time.monotonic()
    assert symbolic.same_value(endless, X, deadline=0.3) is None
    assert time.monotonic() - start < 60
    assert symbolic.same_value(op("add", X, X), op("multiply", 2, X), deadline=60) is True


def test_a_worker_that_was_killed_is_replaced() -> None:
    assert symbolic.same_value(op("add", X, X), op("multiply", 2, X), deadline=60) is True
    worker = symbolic._State.worker
    assert worker is not None
    worker.process.kill()
    worker.process.wait()
    assert symbolic.same_value(op("add", X, X), op("multiply", 2, X), deadline=60) is None
    assert symbolic.same_value(op("add", X, X), op("multiply", 2, X), deadline=60) is True


def test_the_worker_is_reused_by_all_threads_and_touches_no_signal() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGCHLD, signal.SIGINT)}
    symbolic.same_value(X, N, deadline=60)
    assert symbolic._State.worker is not None
    pid = symbolic._State.worker.process.pid
    verdicts: list[bool | None] = []
    threads = [
        threading.Thread(target=lambda: verdicts.append(symbolic.same_value(op("add", X, X), op("multiply", 2, X), 60)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [True] * 4
    assert symbolic._State.worker.process.pid == pid
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_forked_process_starts_its_own() -> None:
    code = """
import os
from llmgym.rewards.comparison import symbolic
from llmgym.rewards.notation.expressions import Name, Operation
x = Name("x")
pair = Operation("call:f", (x,)), Operation("call:f", (x,))
assert symbolic.same_value(*pair, deadline=60) is True
ours = symbolic._State.worker.process.pid
child = os.fork()
if child == 0:
    same = symbolic.same_value(*pair, deadline=60) is True and symbolic._State.worker.process.pid != ours
    symbolic.stop()
    os._exit(0 if same else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert symbolic.same_value(*pair, deadline=60) is True and symbolic._State.worker.process.pid == ours
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_comparison_asks_only_where_it_cannot_decide() -> None:
    lenient = Leniency(use_sympy=True)
    assert compare("\\gcd(2n, 4n)", "2n").status.value == "unverifiable"
    assert compare("\\gcd(2n, 4n)", "2n", lenient).status.value == "correct"
    assert compare("2^{100000}+1", "2^{100000}+2").status.value == "unverifiable"
    assert compare("2^{100000}+1", "2^{100000}+2", lenient).status.value == "incorrect"
    symbolic.stop()
    assert compare("x+1", "1+x", lenient).status.value == "correct"
    assert symbolic._State.worker is None


def test_a_missing_sympy_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"llmgym-rl\[sympy\]"):
        Leniency(use_sympy=True)
    Leniency()
