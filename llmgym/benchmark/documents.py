"""A report as a few kinds of blocks, written as Markdown or as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class Code:
    """Text as it is."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells of plain text; the first column is the name of its row."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A picture in two themes.

    Attributes:
        name: Of its files.
        svg: Name of a theme, ``"light"`` or ``"dark"`` -> SVG.
        alt: What it shows, in words.
    """

    name: str
    svg: Mapping[str, str]
    alt: str

    def file(self, theme: str) -> str:
        """Where its SVG is, from the folder of the report."""
        return f"pictures/{self.name}_{theme}.svg"


Block = Heading | Paragraph | Code | Table | Picture

#: Dark only on a screen: what is printed is dark on white.
_DARK = "screen and (prefers-color-scheme: dark)"

_CSS = """
:root { --paper: #ffffff; --ink: #1f2328; --line: #d0d7de; --soft: #f6f8fa; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #0d1117; --ink: #e6edf3; --line: #3d444d; --soft: #151b23; color-scheme: dark; }
}
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 72rem; padding: 1.5rem; }
h2 { border-bottom: 1px solid var(--line); margin-top: 2.2rem; padding-bottom: .3rem; break-after: avoid; }
pre { background: var(--soft); overflow-x: auto; padding: .8rem; white-space: pre-wrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid var(--line); padding: .25rem .5rem; text-align: right; }
th:first-child, td:first-child { text-align: left; font-weight: 600; }
thead th { background: var(--soft); }
figure { margin: 1rem 0; break-inside: avoid; }
img { height: auto; max-width: 100%; }
@media print { body { font-size: 10px; max-width: none; padding: 0; } .wide { overflow: visible; }
  table { font-size: 7px; } tr { break-inside: avoid; } @page { size: A4 landscape; margin: 12mm; } }
"""


def markdown(blocks: Sequence[Block]) -> str:
    """Markdown, its pictures in files beside it: see :meth:`Picture.file`.

    Example:
        >>> print(markdown([Heading(2, "Scores"), Table(["agent", "score"], [["a|b", "0.5"]])]))
        ## Scores
        <BLANKLINE>
        | agent | score |
        |---|--:|
        | a\\|b | 0.5 |
        <BLANKLINE>
    """
    return "\n".join(f"{_as_markdown(block)}\n" for block in blocks)


def _as_markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Paragraph):
        return block.text
    if isinstance(block, Code):
        return "\n".join(f"    {line}" for line in block.text.splitlines())
    if isinstance(block, Table):
        rows = [block.head, ["---", *["--:"] * (len(block.head) - 1)], *block.rows]
        lines = ["|" + "|".join(row) + "|" if row[0] == "---" else _row(row) for row in rows]
        return "\n".join(lines)
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{block.file("dark")}">'
        f'<img src="{block.file("light")}" alt="{html.escape(block.alt)}"></picture>'
    )


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page(blocks: Sequence[Block]) -> str:
    """One HTML page with everything in it: it loads nothing and runs nothing."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    body = "\n".join(map(_as_html, blocks))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _as_html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
    if isinstance(block, Paragraph):
        return f"<p>{html.escape(block.text)}</p>"
    if isinstance(block, Code):
        return f"<pre>{html.escape(block.text)}</pre>"
    if isinstance(block, Table):
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in block.head)
        rows = "\n".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in block.rows
        )
        return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'
    return (
        f'<figure><picture><source media="{_DARK}" srcset="{_data(block.svg["dark"])}">'
        f'<img src="{_data(block.svg["light"])}" alt="{html.escape(block.alt)}"></picture></figure>'
    )


def _data(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
