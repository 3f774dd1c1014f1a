"""How figures look, and how they become SVG inside a page.

Colours are Okabe and Ito's (2008), which the colour-blind tell apart; line styles and markers tell the same in grey.
Nothing global is touched: figures are objects, and settings hold inside `to_svg` only.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_embed.io.files import written_aside
from cxr_embed.reporting.inputs import ReportError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.1  # inches: the text's width on A4
INK, SOFT, RULE = "#222222", "#666666", "#D9D9D9"
SMALL, NORMAL = 7.0, 8.0  # points
_SHOWN_DPI = 110  # of a figure in a notebook
_NAME, _LINE = 36, 95  # letters of a name, and of a line of names with their signs


@dataclass(frozen=True)
class Style:
    """How one series differs from the others, in colour and in grey."""

    colour: str
    line: Any
    marker: str
    face: str


STYLES = (
    Style("#0072B2", "-", "o", "#0072B2"),
    Style("#D55E00", (0, (4, 1.6)), "s", "white"),
    Style("#009E73", (0, (1, 1.2)), "^", "#009E73"),
    Style("#CC79A7", (0, (5, 1.5, 1, 1.5)), "D", "white"),
    Style("#000000", (0, (8, 2)), "v", "#000000"),
)
SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": SMALL,
    "text.color": INK,
    "text.parse_math": False,  # a finding's name may hold a dollar sign
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.labelsize": SMALL,
    "axes.titlesize": NORMAL,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "svg.fonttype": "none",
    "hatch.linewidth": 0.5,
}


@dataclass(frozen=True)
class Drawing:
    """A figure for a page.

    Attributes:
        key: short and unique in the page.
        svg: the picture, without any address; text stays text.
        title: what it shows, for those who can't see it.
        caption: how it is read.
    """

    key: str
    svg: str
    title: str
    caption: str


def to_svg(key: str, height: float, draw: Callable[[Figure], None], label: str) -> str:
    """Draws a figure of the page's width.

    Args:
        key: goes in front of every id, so that figures in one page don't take each other's parts.
        height: inches.
        draw: fills the figure.
        label: for screen readers.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": key}), warnings.catch_warnings():
        # The page's own font has signs that matplotlib's lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasSVG(figure)
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(file.getvalue(), key, label)


def make_figure(height: float, draw: Callable[[Figure], None]) -> Figure:
    """A figure of the page's width, for a notebook or a file.

    Args:
        height: inches.
        draw: fills the figure.
    """
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        figure = new_figure(WIDTH, height)
        draw(figure)
    return figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches that a notebook shows, whether or not pyplot was imported there."""
    return _shown_figure()(figsize=(width, height), facecolor="white")


@cache
def _shown_figure() -> type[Figure]:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            FigureCanvasAgg(self)

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Glyph .* missing")
                self.savefig(file, format="png", dpi=_SHOWN_DPI)
            return file.getvalue()

    return ShownFigure


FIGURES = (".png", ".svg", ".pdf")


def check_figure(path: Path) -> None:
    """Refuses a file that `save_figure` could not write.

    Raises:
        ReportError: for another suffix, or a folder.
    """
    if path.suffix.lower() not in FIGURES or path.is_dir():
        raise ReportError(f"{path}: a figure is a file whose name ends in {', '.join(FIGURES)}; give another name")


def save_figure(path: Path, height: float, draw: Callable[[Figure], None]) -> Figure:
    """Writes a figure of the page's width, by atomic rename; the same figure gives the same file.

    Args:
        path: ends in .png, .svg or .pdf.
        height: inches.
        draw: fills the figure.

    Returns:
        The figure.

    Raises:
        ReportError: where it cannot be written.
    """
    import matplotlib

    check_figure(path)
    kind = path.suffix[1:].lower()
    # Journals take TrueType fonts only; text in SVG and PDF stays text.
    own = {"svg.hashsalt": "figure", "pdf.fonttype": 42}
    undated: dict[str, dict[str, None]] = {
        "png": {"Software": None},
        "svg": {"Date": None},
        "pdf": {"CreationDate": None},
    }
    with matplotlib.rc_context({**SETTINGS, **own}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = make_figure(height, draw)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_aside(path) as partial:
                figure.savefig(partial, format=kind, dpi=300, metadata=undated[kind])
        except OSError as error:
            raise ReportError(f"{path}: cannot be written ({error.strerror or error}); give another name") from None
    return figure


def _inline(svg: str, key: str, label: str) -> str:
    """An SVG file as part of a page: no prologue, no addresses, ids of its own, scaled by the page."""
    from html import escape

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    head, rest = body.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    assert view is not None
    rest = re.sub(r'(<[^<>]*?\s)id="([^"]+)"', rf'\1id="{key}-\2"', rest)
    rest = re.sub(r'xlink:href="#', f'href="#{key}-', rest)
    rest = re.sub(r"url\(#", f"url(#{key}-", rest)
    rest = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", rest)
    return f'<svg {view[0]} role="img" aria-label="{escape(label)}">{rest.strip()}'


def panels(figure: Figure, count: int, columns: int, **options: Any) -> list[Axes]:
    """Axes in a grid, row by row; places that are not needed stay empty."""
    rows = -(-count // columns)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    flat = list(grid.flat)
    for axes in flat[count:]:
        axes.set_visible(False)
    return flat[:count]


def name_series(figure: Figure, names: list[str], styles: Sequence[Style] = STYLES) -> None:
    """The series' names above the panels, each with its line and marker; `above` says how much room they take."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=s.colour, linestyle=s.line, marker=s.marker, markerfacecolor=s.face, markersize=4, lw=1.4)
        for s in styles[: len(names)]
    ]
    figure.legend(
        handles,
        [short(name, _NAME) for name in names],
        loc="upper left",
        bbox_to_anchor=(0.01, 0.995),
        ncols=_columns(names),
        frameon=False,
        fontsize=NORMAL,
        handlelength=3.2,
        borderaxespad=0,
        columnspacing=2,
    )


def above(names: list[str]) -> float:
    """Inches that the names of the series take beyond their first line."""
    return 0.17 * (-(-len(names) // _columns(names)) - 1)


def _columns(names: list[str]) -> int:
    letters = sum(len(short(name, _NAME)) for name in names)
    return len(names) if letters + 9 * len(names) <= _LINE else 2


def short(name: str, most: int = 20) -> str:
    """A name that fits above a panel."""
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
