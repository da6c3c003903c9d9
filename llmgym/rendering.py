"""Pictures of an episode: tokens coloured by who wrote them, and what each one was paid.

Pure functions from a list of tokens to text (:func:`render_ansi`) or to pixels (:func:`render_rgb`). They know nothing
of environments; Pillow is imported when pixels are asked for, and not before.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmgym.errors import missing_extra
from llmgym.transcript import Author, TokenTrace

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
    RGB = tuple[int, int, int]


# --- Layout: the same lines for the terminal and for the picture -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cell:
    """What is drawn in one place: a character with its combining marks, or a whole reward badge."""

    text: str
    columns: int
    token: int
    kind: str = "text"  # "text", "newline" (the mark of a written line break) or "badge"


_NEWLINE_MARK = "↵"


def _cells(text: str, token: int) -> Iterable[_Cell]:
    """Characters with the columns they take. Control characters become visible, so none reaches a terminal."""
    for char in text:
        code = ord(char)
        if char == "\t":
            yield _Cell("    ", 4, token)
        elif code < 0x20:
            yield _Cell(chr(0x2400 + code), 1, token)  # the control pictures: ␀ … ␟
        elif code == 0x7F:
            yield _Cell("␡", 1, token)
        elif unicodedata.category(char) in ("Cc", "Cs"):
            yield _Cell("\ufffd", 1, token)
        elif unicodedata.category(char) in ("Mn", "Me") or char == "\u200d":
            yield _Cell(char, 0, token)  # combines with the cell before
        elif unicodedata.category(char) == "Cf":
            continue  # direction overrides and the like: invisible, and able to reorder a terminal's line
        else:
            yield _Cell(char, 2 if unicodedata.east_asian_width(char) in "WF" else 1, token)


def _badge(reward: float) -> str:
    return f" {reward:+.2f} " if abs(reward) >= 0.005 else f" {reward:+.0e} "


def _paragraphs(trace: Sequence[TokenTrace]) -> list[list[_Cell]]:
    """The trace cut at line breaks; a badge stands where the paid token ends."""
    paragraphs: list[list[_Cell]] = [[]]
    for index, token in enumerate(trace):
        pieces = token.text.split("\n")
        for position, piece in enumerate(pieces):
            paragraphs[-1].extend(_cells(piece, index))
            if position < len(pieces) - 1:
                if token.author is not Author.PROMPT:
                    paragraphs[-1].append(_Cell(_NEWLINE_MARK, 1, index, "newline"))
                # The badge of a line break belongs at the end of the line, not at the start of an empty one.
                if token.reward and position == len(pieces) - 2 and not pieces[-1]:
                    paragraphs[-1].append(_Cell(_badge(token.reward), len(_badge(token.reward)), index, "badge"))
                paragraphs.append([])
        if token.reward and (len(pieces) == 1 or pieces[-1]):
            paragraphs[-1].append(_Cell(_badge(token.reward), len(_badge(token.reward)), index, "badge"))
    return paragraphs


def _wrap(cells: Sequence[_Cell], columns: int) -> list[list[_Cell]]:
    """Break one paragraph into lines of at most ``columns``, after a space or a wide character where there is one."""
    lines: list[list[_Cell]] = []
    line: list[_Cell] = []
    used = 0
    for cell in cells:
        if used + cell.columns > columns and line:
            cut = max((i + 1 for i, c in enumerate(line) if c.text.isspace() or c.columns > 1), default=len(line))
            # A break far to the left would leave a ragged hole; a long word is cut instead.
            if sum(c.columns for c in line[:cut]) < columns // 2:
                cut = len(line)
            lines.append(line[:cut])
            line = line[cut:]
            used = sum(c.columns for c in line)
        line.append(cell)
        used += cell.columns
    lines.append(line)
    return lines


def _lay_out(trace: Sequence[TokenTrace], columns: int) -> list[list[_Cell]]:
    return [line for paragraph in _paragraphs(trace) for line in _wrap(paragraph, columns)]


def _is_special(text: str) -> bool:
    """Whether a token reads like a control token: ``<eos>``, ``</think>``, ``<|im_end|>``."""
    return len(text) > 2 and text[0] == "<" and text[-1] == ">" and not any(c.isspace() for c in text)


def _total(trace: Sequence[TokenTrace]) -> float:
    return math.fsum(token.reward for token in trace)


# --- Terminal --------------------------------------------------------------------------------------------------------

_SGR = {
    Author.PADDING: "38;5;238",
    Author.PROMPT: "38;5;110",
    Author.AGENT: "38;5;255",
    Author.ENVIRONMENT: "38;5;215",
}
_SGR_SPECIAL = "38;5;141"
_SGR_FAINT = "38;5;242"
_SGR_GAIN, _SGR_LOSS = "1;38;5;16;48;5;114", "1;38;5;16;48;5;210"


def _sgr(cell: _Cell, token: TokenTrace) -> str:
    if cell.kind == "badge":
        return _SGR_GAIN if token.reward > 0 else _SGR_LOSS
    if cell.kind == "newline":
        return _SGR_FAINT
    style = _SGR_SPECIAL if token.author is Author.AGENT and _is_special(token.text) else _SGR[token.author]
    return f"{style};4" if token.reward else style  # a paid token is underlined


def _paint(text: str, style: str, colour: bool) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if colour else text


def _paint_line(cells: Iterable[_Cell], trace: Sequence[TokenTrace], colour: bool) -> str:
    """One line; cells of one style in a row share their escape sequence."""
    runs = groupby(cells, key=lambda cell: _sgr(cell, trace[cell.token]))
    return "".join(
        _paint("".join(cell.text for cell in run if colour or cell.kind != "newline"), style, colour)
        for style, run in runs
    )


def render_ansi(trace: Sequence[TokenTrace], header: str = "", *, width: int = 100, colour: bool = True) -> str:
    """The episode as text with ANSI colours.

    Args:
        trace: The tokens written so far.
        header: One line above, e.g. the environment's id.
        width: Columns to wrap at, at least 20. Wide (Chinese, Japanese, Korean) characters count two.
        colour: ``False`` leaves out escape sequences and line break marks; reward amounts stay.

    Returns:
        Lines joined by ``"\\n"``, ending with the legend and the sum of the rewards.

    Example:
        >>> print(render_ansi([TokenTrace("1+1=", Author.PROMPT), TokenTrace("2", Author.AGENT, 1.0)], colour=False))
        1+1=2 +1.00
        prompt · agent · environment                                                            return +1.00
    """
    if width < 20:
        raise ValueError(f"Expected `width` >= 20 columns, actual: {width}.")
    lines = []
    if header:
        lines.append(_paint(header, "1;38;5;255", colour))
    for cells in _lay_out(trace, width):
        text = _paint_line(cells, trace, colour)
        lines.append(text if colour else text.rstrip())
    legend = [(author.name.lower(), _SGR[author]) for author in (Author.PROMPT, Author.AGENT, Author.ENVIRONMENT)]
    total = f"return {_total(trace):+.2f}"
    gap = " " * max(2, width - len(" · ".join(name for name, _ in legend)) - len(total))
    lines.append(" · ".join(_paint(name, style, colour) for name, style in legend) + gap + _paint(total, "1", colour))
    return "\n".join(lines)


def render_inline(trace: Iterable[TokenTrace], *, colour: bool = True) -> str:
    """Tokens one after the other, unwrapped and without a legend: what a terminal shows while they are written.

    Args:
        trace: Tokens, e.g. those that came since the last call.
        colour: ``False`` leaves out the escape sequences; reward amounts stay.

    Returns:
        The text, line breaks as they were written.

    Example:
        >>> render_inline([TokenTrace("2", Author.AGENT, 1.0)], colour=False)
        '2 +1.00 '
    """
    lines: list[str] = []
    for paragraph in _paragraphs(tokens := list(trace)):
        shown = [cell for cell in paragraph if cell.kind != "newline"]
        lines.append(_paint_line(shown, tokens, colour))
    return "\n".join(lines)


# --- Picture ---------------------------------------------------------------------------------------------------------

_BACKGROUND: RGB = (13, 17, 23)
_BAR: RGB = (22, 27, 34)
_RULE: RGB = (48, 54, 61)
_FAINT: RGB = (110, 118, 129)
_BRIGHT: RGB = (240, 246, 252)
_INK: dict[Author, RGB] = {
    Author.PADDING: (72, 79, 88),
    Author.PROMPT: (139, 172, 214),
    Author.AGENT: (240, 246, 252),
    Author.ENVIRONMENT: (240, 183, 100),
}
# Behind tokens, in turn, so that each token can be told from its neighbours.
_TINT: dict[Author, tuple[RGB, RGB]] = {
    Author.PADDING: (_BACKGROUND, _BACKGROUND),
    Author.PROMPT: (_BACKGROUND, _BACKGROUND),
    Author.AGENT: ((28, 36, 48), (38, 49, 66)),
    Author.ENVIRONMENT: ((46, 36, 20), (60, 46, 24)),
}
_SPECIAL: RGB = (188, 156, 255)
_GAIN: RGB = (63, 185, 80)
_LOSS: RGB = (248, 97, 89)

_MONO_FONTS = (
    "DejaVuSansMono.ttf",
    "LiberationMono-Regular.ttf",
    "Menlo.ttc",
    "consola.ttf",
    "NotoSansMono-Regular.ttf",
)
_WIDE_FONTS = (
    "NotoSansMonoCJKsc-Regular.otf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansSC-Regular.otf",
    "SourceHanSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "STHeiti Light.ttc",
    "msyh.ttc",
    "simsun.ttc",
)


def _first_font(names: Iterable[str], size: int) -> Font | None:
    from PIL import ImageFont

    for name in names:
        try:
            return ImageFont.truetype(name, size)  # looks in the system's font folders
        except OSError:
            continue
    return None


@lru_cache(maxsize=8)
def _fonts(size: int) -> tuple[Font, Font | None]:
    """A monospaced font, and one with Chinese characters where the system has any."""
    from PIL import ImageFont

    names = list(_MONO_FONTS)
    matplotlib = find_spec("matplotlib")  # ships DejaVu Sans Mono; found without importing it
    if matplotlib is not None and matplotlib.origin:
        names.append(str(Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSansMono.ttf"))
    return _first_font(names, size) or ImageFont.load_default(size), _first_font(_WIDE_FONTS, size)


@lru_cache(maxsize=4096)
def _has_glyph(font: Font, text: str) -> bool:
    """Whether ``font`` draws ``text``, judged by its picture: what is missing looks like an unassigned character."""
    if text.isascii():
        return True
    return bytes(font.getmask(text)) != bytes(font.getmask("\U0010fff0"))


class _Canvas:
    """A grid of character cells on a picture of fixed size."""

    def __init__(self, size: tuple[int, int]) -> None:
        try:
            from PIL import Image, ImageDraw
        except ImportError as error:
            raise missing_extra("pillow", "render") from error
        self.width, self.height = size
        self.image = Image.new("RGB", size, _BACKGROUND)
        self.draw: ImageDraw.ImageDraw = ImageDraw.Draw(self.image)
        self.font_size = max(9, self.height // 28)
        self.font, self.wide_font = _fonts(self.font_size)
        self.small_font, _ = _fonts(max(6, self.font_size // 2))
        self.cell_width = self.font.getlength("0")
        self.line_height = round(self.font_size * 1.55)
        self.margin = round(self.font_size * 1.2)
        self.bar_height = round(self.font_size * 2.2)
        self.columns = int((self.width - 2 * self.margin) / self.cell_width)
        self.rows = (self.height - 2 * self.bar_height - self.font_size) // self.line_height
        if self.columns < 20 or self.rows < 2:
            raise ValueError(f"Expected `size` >= (240, 120) pixels, actual: {size}. Choose a larger picture.")

    def text(self, x: float, middle: float, text: str, ink: RGB) -> None:
        self.draw.text((x, middle), text, fill=ink, font=self.font, anchor="lm")

    def cell(self, x: float, middle: float, cell: _Cell, ink: RGB) -> None:
        """One character; where no font has it, a box with its code point."""
        if cell.text.isspace():
            return
        font = self.font if cell.columns < 2 and _has_glyph(self.font, cell.text) else self.wide_font
        if font is not None and _has_glyph(font, cell.text):
            self.draw.text((x, middle), cell.text, fill=ink, font=font, anchor="lm")
        elif cell.columns:
            self._code_point(x, middle, cell, ink)

    def _code_point(self, x: float, middle: float, cell: _Cell, ink: RGB) -> None:
        half = self.font_size * 0.66
        right = x + cell.columns * self.cell_width - 2
        self.draw.rounded_rectangle((x + 1, middle - half, right, middle + half), radius=2, outline=ink)
        if cell.columns < 2:
            return
        code = ord(cell.text[0])
        digits = f"{code:04X}" if code < 0x10000 else f"{code:06X}"
        for row, part in enumerate((digits[: len(digits) // 2], digits[len(digits) // 2 :])):
            at = (x + cell.columns * self.cell_width / 2, middle + (row - 0.5) * half * 0.92)
            self.draw.text(at, part, fill=ink, font=self.small_font, anchor="mm")

    def badge(self, x: float, middle: float, text: str, fill: RGB) -> None:
        half = self.font_size * 0.62
        box = (x + 3, middle - half, x + len(text) * self.cell_width - 3, middle + half)
        self.draw.rounded_rectangle(box, radius=half * 0.6, fill=fill)
        self.text(x, middle, text, _BACKGROUND)

    def fit(self, text: str, columns: int) -> str:
        return text if len(text) <= columns else text[: columns - 1] + "…"


def _draw_line(canvas: _Canvas, cells: Sequence[_Cell], middle: float, trace: Sequence[TokenTrace]) -> None:
    half = canvas.line_height * 0.44
    column = 0
    for cell in cells:
        token = trace[cell.token]
        x = canvas.margin + column * canvas.cell_width
        right = x + cell.columns * canvas.cell_width
        paid = _GAIN if token.reward > 0 else _LOSS
        if cell.kind == "badge":
            canvas.badge(x, middle, cell.text, paid)
        else:
            tint = _TINT[token.author][cell.token % 2]
            if tint != _BACKGROUND:
                canvas.draw.rectangle((x, middle - half, right - 1, middle + half), fill=tint)
            if token.reward:
                canvas.draw.rectangle((x, middle + half - 1, right - 1, middle + half + 1), fill=paid)
            special = token.author is Author.AGENT and _is_special(token.text)
            ink = _FAINT if cell.kind == "newline" else _SPECIAL if special else _INK[token.author]
            canvas.cell(x, middle, cell, ink)
        column += cell.columns


def _draw_bars(canvas: _Canvas, trace: Sequence[TokenTrace], header: str) -> None:
    """Title above; legend and return below."""
    width, height, bar = canvas.width, canvas.height, canvas.bar_height
    for top, bottom, rule in ((0, bar, bar), (height - bar, height, height - bar)):
        canvas.draw.rectangle((0, top, width, bottom), fill=_BAR)
        canvas.draw.line((0, rule, width, rule), fill=_RULE)
    written = f"{sum(token.author is Author.AGENT for token in trace)} tokens"
    canvas.text(canvas.margin, bar / 2, canvas.fit(header, canvas.columns - len(written) - 2), _BRIGHT)
    canvas.text(width - canvas.margin - len(written) * canvas.cell_width, bar / 2, written, _FAINT)

    middle = height - bar / 2
    total = _total(trace)
    badge = f" {total:+.2f} "
    x = width - canvas.margin - len(badge) * canvas.cell_width
    canvas.badge(x, middle, badge, _FAINT if total == 0 else _GAIN if total > 0 else _LOSS)
    canvas.text(x - 7 * canvas.cell_width, middle, "return", _FAINT)
    x = float(canvas.margin)
    square = canvas.font_size * 0.3
    for author in (Author.PROMPT, Author.AGENT, Author.ENVIRONMENT):
        name = author.name.lower()
        if x + (len(name) + 4) * canvas.cell_width > width - canvas.margin - 16 * canvas.cell_width:
            break  # a narrow picture keeps the return and drops names
        canvas.draw.rectangle((x, middle - square, x + 2 * square, middle + square), fill=_INK[author])
        canvas.text(x + canvas.cell_width * 1.8, middle, name, _FAINT)
        x += (len(name) + 4) * canvas.cell_width


def render_rgb(trace: Sequence[TokenTrace], header: str = "", size: tuple[int, int] = (960, 540)) -> NDArray[np.uint8]:
    """The episode as a picture that scrolls to the end of the text.

    Args:
        trace: The tokens written so far.
        header: The title, e.g. the environment's id.
        size: Width and height in pixels; at least ``(240, 120)``, even numbers for video.

    Returns:
        ``(height, width, 3)`` uint8, a fresh array.

    Raises:
        MissingExtraError: If Pillow is not installed.
        ValueError: If the picture is too small to write in.
    """
    canvas = _Canvas(size)
    lines = _lay_out(trace, canvas.columns)
    hidden = max(0, len(lines) - canvas.rows)
    if hidden:
        hidden += 1  # the first row says how much is above
    top = canvas.bar_height + canvas.font_size / 2
    for row, cells in enumerate(lines[hidden:], start=1 if hidden else 0):
        _draw_line(canvas, cells, top + (row + 0.5) * canvas.line_height, trace)
    if hidden:
        canvas.text(canvas.margin, top + 0.5 * canvas.line_height, f"… {hidden} lines above", _FAINT)
    _draw_bars(canvas, trace, header)
    pixels: Any = np.array(canvas.image, dtype=np.uint8)
    return pixels  # type: ignore[no-any-return]
