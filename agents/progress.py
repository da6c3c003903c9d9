"""A line of progress on the terminal. Where nobody watches (no terminal), nothing is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_line(shown: bool) -> Iterator[Callable[[float, Mapping[str, Any]], None]]:
    """Gives a function to call with the share of the budget spent (in [0, 1]) and the metrics of an iteration."""
    if not shown:
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
    console = Console()
    with Progress(*columns, refresh_per_second=4, console=console, disable=not console.is_terminal) as progress:
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
