"""Forest plots as strips: a row each, as wide as the page is; figures and intervals in the page's own colours.

A strip is a small SVG whose places are percentages, so that a telephone and a sheet of paper show all of it with
letters of one size. Shapes tell encoders apart where colours do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from cxr_embed.present.numbers import PAGE
from cxr_embed.reporting.leaderboard.records import Row
from cxr_embed.reporting.leaderboard.verdicts import Verdict

COLOURS = 6
_LANE = 11  # pixels between encoders of one strip
_SHAPES = (
    '<circle r="4"/>',
    '<rect x="-3.7" y="-3.7" width="7.4" height="7.4"/>',
    '<path d="M0-4.8 4.6 3.6H-4.6Z"/>',
    '<path d="M0-5.2 5.2 0 0 5.2-5.2 0Z"/>',
    '<path d="M0 4.8 4.6-3.6H-4.6Z"/>',
)


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A row of a forest plot.

    Attributes:
        name: a finding, an encoder, a size.
        strip: SVG.
        note: at its right.
        sign: SVG of the encoder's sign, where the row is of one encoder alone.
        mark: what the tests say of that encoder.
    """

    name: str
    strip: str
    note: str = ""
    sign: str = ""
    mark: Verdict = ""


@dataclass(frozen=True, kw_only=True)
class Forest:
    """A forest plot.

    Attributes:
        key: its address within the page.
        title: what it shows.
        means: a row an encoder, with its sign, which the rows below have too.
        lanes: a row a finding, all encoders in it.
        axis: SVG with the scale.
        caption: how it is read.
    """

    key: str
    title: str
    means: tuple[Lane, ...]
    lanes: tuple[Lane, ...]
    axis: str
    caption: str


@dataclass(frozen=True)
class Scale:
    """From a figure to a place in percent."""

    low: float
    high: float
    step: float
    chance: float | None = None

    def place(self, value: float) -> float:
        """In percent of the width, within the strip."""
        return min(100.0, max(0.0, 100 * (value - self.low) / (self.high - self.low)))

    @property
    def ticks(self) -> list[float]:
        """Round figures."""
        count = round((self.high - self.low) / self.step)
        return [self.low + number * self.step for number in range(count + 1)]


def scale_of(rows: Sequence[Row], chance: float | None) -> Scale | None:
    """A scale that holds all figures, and their intervals as far as they reach; None where no row has a figure."""
    values = [row.value for row in rows if row.value is not None]
    if not values:
        return None
    ends = [end for row in rows if row.value is not None for end in (row.low, row.high) if end is not None]
    every = [*values, *ends, *([chance] if chance is not None else [])]
    low, high = min(every), max(every)
    step = _step((high - low) or 0.1)
    bottom, top = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    if min(every) >= 0 and max(every) <= 1:
        bottom, top = max(0.0, bottom), min(1.0, top)
    return Scale(bottom, top if top > bottom else bottom + step, step, chance)


def strip(lanes: Sequence[tuple[int, Row | None]], scale: Scale, label: str) -> str:
    """The SVG of a row.

    Args:
        lanes: number of the encoder, which gives its sign, and its row of results.
        scale: of the whole plot.
        label: for those who cannot see it.
    """
    least = _LANE * max(1, len(lanes)) + 7
    parts = [_line(scale.place(tick), "grid") for tick in scale.ticks]
    if scale.chance is not None:
        parts.append(_line(scale.place(scale.chance), "chance"))
    # From the middle: a name of two lines makes the strip higher than it needs to be.
    parts.append(f'<svg y="50%"><g transform="translate(0 {-_LANE * (len(lanes) - 1) / 2:g})">')
    for place, (number, row) in enumerate(lanes):
        if row is None or row.value is None:
            continue
        y = _LANE * place
        tip = f"{row.encoder}: {PAGE.figure(row.value, row.low, row.high, between=' to ')}"
        parts.append(f'<g class="e{number % COLOURS}"><title>{escape(tip)}</title>')
        if row.low is not None and row.high is not None:
            ends = f'x1="{scale.place(row.low):.2f}%" x2="{scale.place(row.high):.2f}%"'
            parts.append(f'<line class="interval" {ends} y1="{y}" y2="{y}"/>')
        parts.append(f'<svg x="{scale.place(row.value):.2f}%" y="{y}">{_shape(number)}</svg></g>')
    drawn = f'<svg role="img" aria-label="{escape(label)}">{"".join(parts)}</g></svg></svg>'
    return f'<span class="strip" style="min-height:{least}px">{drawn}</span>'


def sign(number: int) -> str:
    """The sign of an encoder, by its number."""
    look = f'class="sign e{number % COLOURS}" width="14" height="14" aria-hidden="true"'
    return f'<svg {look}><svg x="7" y="7">{_shape(number)}</svg></svg>'


def axis(scale: Scale) -> str:
    """The SVG of the scale's numbers."""
    digits = max(0, -math.floor(math.log10(scale.step) + 1e-9))
    parts = [
        f'<text x="{scale.place(tick):.2f}%" y="12" text-anchor="middle">{PAGE.number(tick, digits)}</text>'
        for tick in scale.ticks
    ]
    return f'<span class="strip axis"><svg aria-hidden="true">{"".join(parts)}</svg></span>'


def _line(place: float, name: str) -> str:
    return f'<line class="{name}" x1="{place:.2f}%" x2="{place:.2f}%" y1="0" y2="100%"/>'


def _shape(number: int) -> str:
    # Colours and shapes have no common divisor: 30 encoders differ.
    hollow = ' class="hollow"' if number % 2 else ""
    return f"<g{hollow}>{_SHAPES[number % len(_SHAPES)]}</g>"


def _step(span: float) -> float:
    """A round number that divides a span into two to six parts."""
    power = 10.0 ** math.floor(math.log10(span))
    return next(power * part for part in (0.2, 0.5, 1, 2, 5, 10) if span / (power * part) <= 6)
