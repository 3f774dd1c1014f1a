"""How numbers are written for people: one rule each, in the spelling of the place where they are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

_MOST_DIGITS = 6


class Interval(Protocol):
    """A figure and its interval, as `metrics.Estimate` is."""

    @property
    def value(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """How a place writes numbers.

    Attributes:
        none: where there is no number.
        undefined: where there is no figure.
        minus: the sign.
        small_p: a p under 0.001.
        math: whether numbers with a sign stand between dollars.
    """

    none: str = "-"
    undefined: str = "undefined"
    minus: str = "-"
    small_p: str = "<0.001"
    math: bool = False

    def number(self, value: float | None, digits: int = 3) -> str:
        """So many decimals; no sign on what is rounded to zero."""
        return self.none if value is None else f"{value:z.{digits}f}".replace("-", self.minus)

    def signed(self, value: float | None, digits: int = 3) -> str:
        """A difference, with its sign."""
        if value is None:
            return self.none
        text = f"{value:+z.{digits}f}".replace("-", self.minus)
        return f"${text}$" if self.math else text

    def count(self, value: int | None) -> str:
        """A count: 1,187."""
        return self.none if value is None else f"{value:,}"

    def percent(self, part: float | None, digits: int = 1) -> str:
        """A part of 1 in percent."""
        return self.none if part is None else f"{part:.{digits}%}"

    def p(self, value: float | None) -> str:
        """p with as many digits as mean something."""
        return self.none if value is None else self.small_p if value < 0.001 else f"{value:.3f}"

    def interval(
        self, low: float | None, high: float | None, digits: int = 3, *, between: str = " to ", signed: bool = False
    ) -> str:
        """Both ends: `0.672 to 0.738`; blank for none."""
        write = self.signed if signed else self.number
        return "" if low is None or high is None else f"{write(low, digits)}{between}{write(high, digits)}"

    def figure(
        self,
        value: float | None,
        low: float | None,
        high: float | None,
        digits: int = 3,
        *,
        between: str = "-",
        signed: bool = False,
    ) -> str:
        """A figure with its interval: `0.818 (0.807-0.828)`; more digits where all of it would round to zero."""
        if value is None:
            return self.undefined
        digits = digits_for((value, low, high), digits)
        text = self.signed(value, digits) if signed else self.number(value, digits)
        ends = self.interval(low, high, digits, between=between, signed=signed)
        return f"{text} ({ends})" if ends else text

    def estimate(self, figure: Interval, digits: int = 3, *, between: str = "-") -> str:
        """`figure` of an estimate."""
        return self.figure(figure.value, figure.low, figure.high, digits, between=between)

    def percent_estimate(self, figure: Interval, digits: int) -> str:
        """A part of 1 with its interval, in percent: `82% (76-87)`."""
        value = self.percent(figure.value, digits)
        if figure.value is None or figure.low is None or figure.high is None:
            return value
        return f"{value} ({100 * figure.low:.{digits}f}-{100 * figure.high:.{digits}f})"


PLAIN = Spelling()  # in a terminal, a log, a notebook
PAGE = Spelling(none="\N{EN DASH}", minus="\N{MINUS SIGN}")  # of a report
LATEX = Spelling(none="--", undefined="--", small_p="$<$0.001", math=True)


def digits_for(values: Iterable[float | None], digits: int = 3) -> int:
    """How many decimals tell a figure and its interval from zero: more than `digits` where all would round to it."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    if round(largest, _MOST_DIGITS) > 0:  # else nothing but rounding errors
        while round(largest, digits) == 0:
            digits += 1
    return digits


def format_threshold(threshold: float) -> str:
    """A threshold, with digits that tell it from zero."""
    return f"{threshold:.4f}" if threshold == 0 or abs(threshold) >= 1e-3 else f"{threshold:.2g}"


def format_bytes(size: int) -> str:
    """Bytes in the unit that fits: 4.2 MB."""
    number = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{size} bytes" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def format_duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`, `2.1 days`."""
    for size, unit in ((86_400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{0 if size == 60 else 1}f} {unit}"
    return f"{seconds:.0f} s"


def format_value(value: Any) -> str:
    """A value of a table or a setting: whole numbers without a point, blank where it is unknown."""
    if value is None:
        return ""
    if isinstance(value, list):
        return f"[{', '.join(map(format_value, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
