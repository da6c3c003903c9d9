"""What a person sees of a training while it runs: a view that is drawn anew on a terminal, lines elsewhere.

Not for files: see :mod:`~llmgym.agents.metrics`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from llmgym.agents.alarms import Alarm, number

#: Rows of the live view: label -> name among the metrics. A run shows those that it logs, and its reward parts.
CURVES = {
    "return": "rollout/return",
    "tokens a response": "rollout/length",
    "ended by itself": "rollout/terminated",
    "groups with signal": "train/groups_with_signal",
    "entropy": "train/entropy",
    "KL, old to new": "train/approx_kl",
    "KL to reference": "train/kl_to_ref",
    "gradient norm": "train/grad_norm",
    "value loss": "train/value_loss",
    "explained variance": "train/explained_variance",
}
#: Iterations whose pace tells how long the rest will take.
PACE = 10
#: Columns of the longest label that is shown whole.
LABEL = 24
#: Columns of the view that are neither curve nor label: frame, numbers and what is between them.
_BESIDE = 28

Show = Callable[[Any, Mapping[str, Any]], None]
Rows = Sequence[Mapping[str, Any]]


@contextmanager
def watch(
    title: str, total_timesteps: int | None = None, max_seconds: float | None = None, *, earlier: Rows = ()
) -> Iterator[Show]:
    """Something to call after each iteration, with the agent and its metrics.

    Args:
        title: Above the view.
        total_timesteps: Budget of the whole run, from its first timestep on. ``None``: no such bound.
        max_seconds: Likewise, in seconds of training.
        earlier: Metrics of the iterations before, of a run that goes on.
    """
    rows = list(earlier)
    if not sys.stdout.isatty():

        def tell(agent: Any, metrics: Mapping[str, Any]) -> None:
            rows.append(metrics)
            sys.stdout.write(plain_line(metrics, *budget(rows, total_timesteps, max_seconds)) + "\n")
            sys.stdout.flush()

        yield tell
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(), refresh_per_second=4) as live:

        def draw(agent: Any, metrics: Mapping[str, Any]) -> None:
            rows.append(metrics)
            spent, left = budget(rows, total_timesteps, max_seconds)
            live.update(view(title, rows, spent, left, list(agent.alarms.active.values()), live.console.width))

        yield draw


@contextmanager
def progress_line(shown: bool) -> Iterator[Callable[[float, Mapping[str, Any]], None]]:
    """Something to call with the share of the budget spent (in [0, 1]) and the metrics of an iteration.

    A line on a terminal; where nobody watches, nothing.
    """
    if not (shown and sys.stdout.isatty()):
        yield lambda share, metrics: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(), refresh_per_second=4) as progress:
        task = progress.add_task("collecting", total=1.0)

        def show(share: float, metrics: Mapping[str, Any]) -> None:
            progress.update(
                task,
                completed=min(share, 1.0),
                description=(
                    f"iteration {metrics['iteration']}  return {metrics['rollout/return']:.3f}  "
                    f"length {metrics['rollout/length']:.1f}  {metrics['time/tokens_per_second']:,.0f} tokens/s"
                ),
            )

        yield show


def budget(rows: Rows, total_timesteps: int | None, max_seconds: float | None) -> tuple[float, float | None]:
    """Share of the budget spent, and the seconds left at the pace of the last iterations; ``None`` without a budget.

    Example:
        >>> budget([{"timesteps": 100, "seconds": 2.0}, {"timesteps": 200, "seconds": 3.0}], 400, None)
        (0.5, 2.0)
    """
    now = rows[-1]
    before = rows[-PACE - 1] if len(rows) > PACE else rows[0] if len(rows) > 1 else {"timesteps": 0, "seconds": 0.0}
    spent, left = 0.0, []
    if total_timesteps is not None:
        seconds_a_step = (now["seconds"] - before["seconds"]) / (now["timesteps"] - before["timesteps"])
        spent = now["timesteps"] / total_timesteps
        left.append((total_timesteps - now["timesteps"]) * seconds_a_step)
    if max_seconds is not None:
        spent = max(spent, now["seconds"] / max_seconds)
        left.append(max_seconds - now["seconds"])
    return min(spent, 1.0), max(min(left), 0.0) if left else None


def duration(seconds: float) -> str:
    """Seconds in words.

    Example:
        >>> duration(42.4), duration(125), duration(7300)
        ('42 s', '2 min', '2 h 2 min')
    """
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plain_line(metrics: Mapping[str, Any], spent: float, left: float | None) -> str:
    """An iteration in a line."""
    parts = [
        f"iteration {metrics['iteration']:4}",
        f"{metrics['seconds']:6.1f} s",
        f"return {metrics['rollout/return']:.3f}",
        *(f"{name[7:]} {value:.3f}" for name, value in metrics.items() if name.startswith("reward/")),
        f"length {metrics['rollout/length']:5.1f}",
    ]
    if (explained := number(metrics, "train/explained_variance")) is not None:
        parts.append(f"explained variance {explained:.2f}")
    parts.append(f"{metrics['time/tokens_per_second']:,.0f} tokens/s")
    if left is not None:
        parts.append(f"{100 * spent:.0f} %, {duration(left)} left")
    if metrics.get("alarms"):
        parts.append(f"! {', '.join(metrics['alarms'])}")
    return "  ".join(parts)


def view(title: str, rows: Rows, spent: float, left: float | None, alarms: Sequence[Alarm], width: int) -> Any:
    """Budget above, a curve for each number, the alarms that are not over below.

    Args:
        title: On the frame.
        rows: Metrics of the iterations, oldest first.
        spent: Share of the budget.
        left: Seconds. ``None``: nobody knows.
        alarms: Shown in full.
        width: Columns of the terminal.
    """
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    now = rows[-1]
    head = (
        f"iteration {now['iteration']}   {duration(now['seconds'])}   {now['timesteps']:,} tokens   "
        f"{now['time/tokens_per_second']:,.0f} tokens/s   environment {100 * now['time/env_share']:.1f} %"
    )
    parts: list[Any] = []
    if left is not None:
        bar = Table.grid(expand=True, padding=(0, 2))
        bar.add_column(ratio=1)
        bar.add_column(justify="right", no_wrap=True)
        bar.add_row(ProgressBar(total=1.0, completed=spent), f"{100 * spent:.0f} %, {duration(left)} left")
        parts.append(bar)
    parts += [Text(head), Text()]
    labels = _labels(rows)
    label_columns = min(LABEL, max(map(len, labels), default=0))
    columns = max(8, width - label_columns - _BESIDE)
    table = Table.grid(padding=(0, 2))
    table.add_column(width=label_columns, no_wrap=True)
    table.add_column(width=columns, no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_row("", "", Text("now", style="dim"), Text("at first", style="dim"))
    for label, key in labels.items():
        values = [math.nan if (value := number(row, key)) is None else value for row in rows]
        known = [value for value in values if math.isfinite(value)]
        table.add_row(
            Text(label), Text(sparkline(values, columns), style="green"), short(known[-1]), Text(short(known[0]), "dim")
        )
    parts.append(table)
    for alarm in alarms:
        parts += [Text(), Text(f"! {alarm}", style="yellow")]
    return Panel(Group(*parts), title=Text(title), title_align="left", width=width)


def _labels(rows: Rows) -> dict[str, str]:
    """The rows of the view: the return, its parts, then the rest; those that have a number in some iteration."""
    rewards = {f"  {key[7:]}": key for row in rows for key in row if key.startswith("reward/")}
    first, *others = CURVES.items()
    labels = dict([first, *rewards.items(), *others])
    return {label: key for label, key in labels.items() if any(number(row, key) is not None for row in rows)}


def short(value: float) -> str:
    """A number in at most seven characters or so.

    Example:
        >>> short(0.123456), short(31.25), short(12345.6), short(4.2e-05)
        ('0.123', '31.2', '12,346', '4.2e-05')
    """
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def sparkline(values: Sequence[float], columns: int) -> str:
    """A curve of at most ``columns`` characters; each is the mean of a like number of values, NaN left out.

    Example:
        >>> sparkline([0.0, 1.0, 2.0, 3.0], 8)
        '▁▃▆█'
    """
    marks = "▁▂▃▄▅▆▇█"
    n = min(columns, len(values))
    cuts = [round(i * len(values) / n) for i in range(n + 1)] if n else []
    parts = [[value for value in values[a:b] if math.isfinite(value)] for a, b in pairwise(cuts)]
    means = [sum(part) / len(part) if part else math.nan for part in parts]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = 7 / (high - low) if high > low else 0.0
    return "".join(marks[round((m - low) * scale)] if math.isfinite(m) else " " for m in means)
