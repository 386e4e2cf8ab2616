"""What all figures share: the figure class, colours, text that is safe to draw, and how wide it is."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from io import BytesIO
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text
from matplotlib.textpath import TextPath

from classifier.limits import FIGURE_TEXT
from classifier.records import safe

BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
COLOURS: Final = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
"""Of Masataka Okabe and Kei Ito, "Color Universal Design" (2008), without black and yellow."""

GREY: Final = "#8c8c8c"
FAINT: Final = "#b0b0b0"
INK: Final = "#222222"
SIZE: Final = 8.0
"""Points of all text but titles."""

_FAMILY: Final = "DejaVu Sans"
"""Comes with matplotlib, so that text is equally wide everywhere."""

_HINTED: Final = 1.1
"""Text drawn on few pixels is somewhat wider than its outlines."""

_ROW: Final = 0.29
"""Inches; two lines of text have room."""

_SETTINGS: Final[dict[str, Any]] = {
    "font.family": _FAMILY, "font.size": SIZE, "text.parse_math": False, "svg.hashsalt": "exflow",
    "axes.edgecolor": GREY, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "text.color": INK,
    "axes.titlesize": 10.0, "axes.titlelocation": "left", "legend.fontsize": SIZE, "legend.frameon": False,
    "legend.title_fontsize": SIZE, "savefig.facecolor": "white", "hatch.linewidth": 0.6,
}  # fmt: skip


class Drawing(Figure):
    """A matplotlib figure that shows itself in a notebook, without pyplot and its global state."""

    def _repr_png_(self) -> bytes:
        return self._written("png", dpi=110)

    def svg(self) -> bytes:
        """The figure as SVG, text as outlines: it looks alike everywhere, and nothing in it can run."""
        return self._written("svg", metadata={"Date": None})

    def _written(self, form: str, **how: Any) -> bytes:
        out = BytesIO()
        with styled():
            self.savefig(out, format=form, **how)
        return out.getvalue()


def styled() -> Any:
    """The settings of all figures, for as long as one is made."""
    return rc_context(_SETTINGS)  # type: ignore[arg-type] # names of settings, as a literal type of hundreds


def nothing(text: str) -> Drawing:
    """What is shown where there is nothing to show."""
    figure = Drawing(figsize=(6.0, 1.0))
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure


def panel(rows: int, *, width: float = 10.0, below: float = 0.9) -> tuple[Drawing, Axes]:
    """A figure with so many horizontal rows, the first on top, and room below for the axis and a legend (inches)."""
    figure = Drawing(figsize=(width, _ROW * rows + 0.45 + below), layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylim(rows - 0.5, -0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def name_rows(axes: Axes, names: Iterable[str]) -> None:
    """Write a name beside each row."""
    listed = [shown(name, 2 * FIGURE_TEXT + 10) for name in names]
    folded = [name.replace(" or ", " or\n") if len(name) > FIGURE_TEXT else name for name in listed]
    axes.set_yticks(range(len(listed)), folded)


def legend_below(figure: Figure, handles: list[Any], title: str, columns: int = 4) -> None:
    """One legend for the figure, below everything else."""
    listed = figure.legend(handles=handles, title=title, loc="outside lower left", ncols=columns, handlelength=2.6)
    listed.get_title().set_fontweight("bold")
    listed.set_alignment("left")


# ---- text --------------------------------------------------------------------------------------------


def shown(text: str, length: int = FIGURE_TEXT) -> str:
    """Text that can be drawn, with an ellipsis where it is too long; what the font lacks is shown as its escape."""
    drawn = "".join(char if _drawable(char) else ascii(char)[1:-1] for char in safe(text[: 2 * length]))
    return drawn if len(drawn) <= length else drawn[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


@lru_cache(maxsize=4096)
def _drawable(char: str) -> bool:
    return char.isascii() or get_font(findfont(FontProperties(family=_FAMILY))).get_char_index(ord(char)) != 0


@lru_cache(maxsize=4096)
def inches(text: str, size: float = SIZE, bold: bool = False) -> float:
    """How wide a text is drawn."""
    if not text.strip():
        return 0.0
    font = FontProperties(family=_FAMILY, weight="bold" if bold else "normal")
    outline = TextPath((0, 0), text.replace("$", "S"), size=size, prop=font)
    return float(outline.get_extents().width) / 72 * _HINTED


def texts(figure: Figure) -> list[Text]:
    """Every text of a figure that is drawn and not empty."""
    return [each for each in figure.findobj(Text) if isinstance(each, Text) and each.get_visible() and each.get_text()]
