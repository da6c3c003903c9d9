"""The pictures of a report, light and dark, as SVG that is the same each time.

An agent is a colour, a line and a marker, so that they can be told apart on paper and by those who see few colours.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmgym.benchmark.statistics import Interval
from llmgym.benchmark.summary import SHARES, THRESHOLDS, Summary

_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)), (0, (3, 1, 1, 1)))
_MARKERS = "osD^vPX*"

#: Places in a picture: a hundredth of a point is finer than anything that is drawn.
_NUMBERS = re.compile(r' (?:d|x|y|points)="[^"]*"')
_DECIMALS = re.compile(r"(\.\d\d)\d+")


@dataclass(frozen=True)
class Theme:
    """Colours of a picture.

    Attributes:
        name: Part of the file's name.
        paper: Behind it.
        ink: Text and frames.
        agents: Agent by agent, from the palette of Okabe and Ito.
    """

    name: str
    paper: str
    ink: str
    agents: tuple[str, ...]


LIGHT = Theme(
    "light", "#ffffff", "#1f2328",
    ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b58900", "#56b4e9", "#555555", "#882255"),
)  # fmt: skip
DARK = Theme(
    "dark", "#0d1117", "#e6edf3",
    ("#58a6ff", "#ff9b54", "#3fd0a4", "#e58fd0", "#f0d24a", "#9bdcff", "#b0b0b0", "#ff7ba3"),
)  # fmt: skip
THEMES = (LIGHT, DARK)


def pictures(summary: Summary) -> dict[str, dict[str, str]]:
    """Every picture: its name -> the name of a theme -> SVG."""
    draw: dict[str, Callable[[Any, Summary, Theme], None]] = {"radar": _radar, "curves": _curves}
    if summary.compared:
        draw |= {"aggregates": _aggregates, "profiles": _profiles}
    return {name: {theme.name: render(how, summary, theme) for theme in THEMES} for name, how in draw.items()}


def render(how: Callable[[Any, Any, Theme], None], shown: Any, theme: Theme) -> str:
    """A picture as SVG, the same one each time.

    Args:
        how: ``how(figure, shown, theme)`` draws.
        shown: What it draws.
        theme: Colours.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    ink = {"text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"}
    settings: dict[str, Any] = dict.fromkeys(ink, theme.ink) | {
        "axes.facecolor": theme.paper,
        "figure.facecolor": theme.paper,
        "legend.frameon": False,
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "svg.hashsalt": "llmgym",  # the same ids each time
        "path.simplify_threshold": 0.5,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(layout="constrained")
        FigureCanvasSVG(figure)
        how(figure, shown, theme)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return _NUMBERS.sub(lambda part: _DECIMALS.sub(r"\1", part[0]), text.getvalue())


def style_of(agents: Sequence[str], theme: Theme, agent: str) -> dict[str, Any]:
    """Colour, line and marker of an agent."""
    place = agents.index(agent)
    return {
        "color": theme.agents[place % len(theme.agents)],
        "linestyle": _LINES[place % len(_LINES)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "markersize": 4,
        "linewidth": 1.6,
    }


def _grid(n: int, columns: int) -> tuple[int, int]:
    columns = min(columns, n)
    return -(-n // columns), columns


def plain_axes(axes: Any) -> None:
    """Two spines and a faint grid."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _radar(figure: Any, summary: Summary, theme: Theme) -> None:
    """A web for each agent: how far along each axis it got from random tokens (the centre) to the optimum (the rim)."""
    names = list(dict.fromkeys(entry.axis for entry in summary.plan.entries if entry.name in summary.challenges))
    angles = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
    rows, columns = _grid(len(summary.agents), 4)
    figure.set_size_inches(3.6 * columns, 3.4 * rows)
    for place, agent in enumerate(summary.agents):
        axes = figure.add_subplot(rows, columns, place + 1, projection="polar")
        axes.set_theta_offset(np.pi / 2)
        axes.set_theta_direction(-1)
        style = style_of(summary.agents, theme, agent)
        spans = [_on_axis(summary, agent, name) for name in names]
        values = np.array([value for value, _, _ in spans])
        axes.plot(np.append(angles, angles[0]), np.append(values, values[0]), color=style["color"], linewidth=1.6)
        axes.fill(angles, values, color=style["color"], alpha=0.25)
        for angle, (_, low, high) in zip(angles, spans, strict=True):
            axes.plot([angle, angle], [low, high], color=style["color"], linewidth=2.5, solid_capstyle="round")
        axes.set(ylim=(0, 1), yticks=[0.5, 1.0], yticklabels=[])
        axes.set_xticks(angles, [name.replace("_", "\n") for name in names], fontsize=7)
        axes.tick_params(axis="x", pad=1)
        for angle, label in zip(angles, axes.get_xticklabels(), strict=True):  # beside the web, not across its rim
            side = np.sin(angle)
            label.set_horizontalalignment("center" if abs(side) < 0.1 else "left" if side > 0 else "right")
        axes.grid(color=theme.ink, alpha=0.2)
        axes.spines["polar"].set_alpha(0.4)
        axes.set_title(agent, fontsize=11, fontweight="bold", pad=12)


def _on_axis(summary: Summary, agent: str, axis: str) -> tuple[float, float, float]:
    """Mean over the challenges of an axis that the agent has results of, and its bounds; NaN where there is none."""
    played = [entry.name for entry in summary.plan.entries if entry.axis == axis]
    scores = [score for name in played if (score := summary.score(agent, name)) is not None]
    if not scores:
        return np.nan, np.nan, np.nan
    mean: tuple[float, float, float] = tuple(  # type: ignore[assignment]
        float(np.mean([getattr(score, part) for score in scores])) for part in ("value", "low", "high")
    )
    return mean


def _curves(figure: Any, summary: Summary, theme: Theme) -> None:
    """Score over environment steps, the mean over seeds with its interval; a panel for each challenge."""
    rows, columns = _grid(len(summary.challenges), 4)
    figure.set_size_inches(3.2 * columns, 2.3 * rows + 0.9)
    budgets = {entry.name: entry.budget for entry in summary.plan.entries}
    handles: dict[str, Any] = {}
    for place, challenge in enumerate(summary.challenges):
        axes = figure.add_subplot(rows, columns, place + 1)
        for agent in summary.agents:
            curve, style = summary.curve(agent, challenge), style_of(summary.agents, theme, agent)
            if curve is None:
                continue
            steps = SHARES * budgets[challenge] / 1000
            (handles[agent],) = axes.plot(steps, curve.value, markevery=4, **style)
            axes.fill_between(steps, curve.low, curve.high, color=style["color"], alpha=0.18, linewidth=0)
        axes.set(ylim=(-0.04, 1.04), yticks=[0, 0.5, 1])
        axes.set_title(challenge.replace("_", " "), fontsize=10)
        plain_axes(axes)
    figure.supxlabel("environment steps, in thousands", fontsize=10)
    figure.supylabel("score", fontsize=10)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2 * columns)


def _aggregates(figure: Any, summary: Summary, theme: Theme) -> None:
    """Three aggregates of all runs, each with its interval."""
    panels: dict[str, Callable[[str], Interval | None]] = {
        "interquartile mean of scores\n(higher is better)": summary.interquartile_mean,
        "optimality gap\n(lower is better)": summary.optimality_gap,
        "regret per step while learning\n(lower is better)": summary.regret,
    }
    figure.set_size_inches(11, 0.38 * len(summary.compared) + 1.1)
    for place, (title, estimate) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), place + 1)
        for row, agent in enumerate(summary.compared):
            span, colour = estimate(agent), style_of(summary.agents, theme, agent)["color"]
            if span is None:
                continue
            axes.barh(row, span.high - span.low, left=span.low, height=0.55, color=colour, alpha=0.5)
            axes.plot([span.value, span.value], [row - 0.3, row + 0.3], color=theme.ink, linewidth=1.5, clip_on=False)
        axes.set_yticks(range(len(summary.compared)), summary.compared if place == 0 else [])
        axes.invert_yaxis()
        axes.use_sticky_edges = False
        axes.set_xlim(0, None)
        axes.set_title(title, fontsize=10)
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right", "left"]].set_visible(False)


def _profiles(figure: Any, summary: Summary, theme: Theme) -> None:
    """Share of runs with a score above a threshold."""
    figure.set_size_inches(7.5, 4.2)
    axes = figure.add_subplot()
    for agent in summary.compared:
        profile, style = summary.profile(agent), style_of(summary.agents, theme, agent)
        axes.plot(THRESHOLDS, profile.value, markevery=5, label=agent, **style)
        axes.fill_between(THRESHOLDS, profile.low, profile.high, color=style["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="score", ylabel="share of runs above it", xlim=(0, 1), ylim=(-0.02, 1.02))
    plain_axes(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
