"""What a person sees of a training."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("rich")

from rich.console import Console

from llmgym.agents.alarms import Alarm
from llmgym.agents.live_view import PACE, budget, duration, plain_line, progress_line, short, sparkline, view, watch

ALARM = Alarm("kl_blow_up", 3, "train/approx_kl is 0.25.", "Lower learning_rate.")


def row(iteration: int = 1, **others: Any) -> dict[str, Any]:
    return {
        "iteration": iteration,
        "seconds": 2.0 * iteration,
        "timesteps": 1000 * iteration,
        "time/tokens_per_second": 500.0,
        "time/env_share": 0.02,
        "rollout/return": 0.5 * iteration,
        "rollout/length": 20.0,
        "reward/format": 0.25,
    } | {name.replace("__", "/"): value for name, value in others.items()}


def drawn(
    rows: list[dict[str, Any]], width: int = 80, alarms: tuple[Alarm, ...] = (), left: float | None = 60.0
) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(view("grpo · [tiny]", rows, 0.25, left, alarms, width))
    text: str = console.export_text()
    return text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_view_fills_the_width_and_no_more(width: int) -> None:
    rows = [row(i, train__entropy=1 / i, train__value_loss=1e-7 * i) for i in range(1, 300)]
    text = drawn(rows, width, (ALARM,))
    assert {len(line) for line in text.splitlines()} == {width}
    lines = text.splitlines()
    assert lines[0].startswith("╭─ grpo · [tiny] ─")
    assert "25 %, 60 s left │" in lines[1]
    (curve,) = (line for line in lines if "│ return" in line)
    assert sum(char in "▁▂▃▄▅▆▇█" for char in curve) == width - len("tokens a response") - 28


def test_rows_are_what_the_run_logs_reward_parts_first() -> None:
    rows = [row(1, reward__format=0.1), row(2, reward__late=3.0, train__explained_variance=0.125)]
    lines = drawn(rows).splitlines()
    labels = [line.strip("│ ").split("  ")[0] for line in lines if "▁" in line or "█" in line]
    assert labels == ["return", "format", "late", "tokens a response", "explained variance"]
    assert [line.split()[-3:-1] for line in lines if "explained" in line] == [["0.125", "0.125"]]
    assert [line.split()[-3:-1] for line in lines if " return" in line] == [["1", "0.5"]]  # now, and at first
    assert "entropy" not in drawn([row(1, train__entropy=math.nan), row(2, train__entropy=None)])
    assert "left" not in drawn(rows, left=None)


def test_a_long_name_takes_no_room_from_the_numbers() -> None:
    text = drawn([row(1, reward__a_reward_with_quite_a_long_name=0.125)])
    assert "a_reward_with_quite" in text
    assert [line.split()[-3:-1] for line in text.splitlines() if "a_reward" in line] == [["0.125", "0.125"]]


def test_alarms_are_shown_in_full() -> None:
    text = drawn([row()], 120, (ALARM,))
    assert "! kl_blow_up (iteration 3): train/approx_kl is 0.25. Lower learning_rate." in text


def test_what_is_left_is_told_from_the_last_iterations() -> None:
    slow = [row(i, seconds=100.0 * i) for i in range(1, 20)]
    fast = [row(i, seconds=1900.0 + i) for i in range(20, 20 + PACE + 1)]
    assert budget(slow[:1], 4000, None) == (0.25, 300.0)
    assert budget(slow + fast, 31_000, None) == (30 / 31, 1.0)  # a second for each of the last ten
    assert budget(fast, None, 3860.0) == (0.5, 1930.0)
    assert budget(fast, 31_000, 3860.0) == (30 / 31, 1.0)  # what ends it first
    assert budget(fast, None, 100.0) == (1.0, 0.0)
    assert budget(fast, None, None) == (0.0, None)


def test_words_and_numbers() -> None:
    assert [duration(s) for s in (0.4, 99.4, 100, 3540, 3600, 7325)] == [
        "0 s", "99 s", "2 min", "59 min", "1 h 0 min", "2 h 2 min",
    ]  # fmt: skip
    assert [short(v) for v in (0.0, -1234.5, 2e7, 999.4)] == ["0", "-1,234", "2e+07", "999"]


def test_sparkline() -> None:
    assert sparkline([1.0, 1.0], 5) == "▁▁"
    assert sparkline([0.0, 0.0, 7.0, 7.0], 2) == "▁█"
    assert sparkline([0.0, float("nan"), 7.0], 5) == "▁ █"
    assert sparkline([], 5) == ""


def test_a_plain_line_an_iteration_where_the_output_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with watch("title", total_timesteps=4000, earlier=[row(1)]) as show:
        show(None, row(2))
        show(None, row(3, alarms=["kl_blow_up", "no_signal"], train__explained_variance=-0.25))
    assert capsys.readouterr().out.splitlines() == [
        "iteration    2     4.0 s  return 1.000  format 0.250  length  20.0  500 tokens/s  50 %, 4 s left",
        "iteration    3     6.0 s  return 1.500  format 0.250  length  20.0  explained variance -0.25  500 tokens/s  "
        "75 %, 2 s left  ! kl_blow_up, no_signal",
    ]
    assert plain_line(row(), 0.0, None).endswith("500 tokens/s")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Makes standard output a terminal; to be called in the test, since pytest has a standard output for each phase."""

    def make() -> Terminal:
        screen = Terminal()
        monkeypatch.setattr(sys, "stdout", screen)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "100")
        return screen

    return make


def test_a_view_on_a_terminal(terminal: Callable[[], Terminal]) -> None:
    agent = SimpleNamespace(alarms=SimpleNamespace(active={"kl_blow_up": ALARM}))
    screen = terminal()
    with watch("title", max_seconds=8.0) as show:
        show(agent, row(1))
        show(agent, row(2, alarms=["kl_blow_up"]))
    text = screen.getvalue()
    assert "title" in text
    assert "50 %, 4 s left" in text
    assert "! kl_blow_up (iteration 3)" in text
    assert "\x1b[" in text  # drawn over itself


def test_a_line_of_progress_on_a_terminal_alone(
    terminal: Callable[[], Terminal], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_line(True) as show:
        show(0.5, row())
    assert capsys.readouterr().out == ""
    screen = terminal()
    with progress_line(False) as show:
        show(0.5, row())
    assert screen.getvalue() == ""
    with progress_line(True) as show:
        show(0.5, row())
    assert "iteration 1  return 0.500" in screen.getvalue()
