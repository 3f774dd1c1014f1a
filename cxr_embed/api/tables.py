"""Results as tables: for notebooks, for pandas, for the terminal."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from cxr_embed.errors import CxrEmbedError
from cxr_embed.types import RESEARCH, counted

_SHOWN = 20  # rows of a table in a notebook


class Tabular(ABC):
    """A result that is a table. Subclasses say what `to_arrow` gives."""

    @abstractmethod
    def to_arrow(self) -> pa.Table:
        """The result as a pyarrow table."""

    def to_pandas(self) -> Any:
        """The result as a `pandas.DataFrame`.

        Raises:
            CxrEmbedError: where pandas is not installed.
        """
        try:
            return self.to_arrow().to_pandas()
        except ModuleNotFoundError:
            raise CxrEmbedError("`to_pandas` needs pandas, which is not installed; run pip install pandas") from None

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        table = self.to_arrow()
        rows = table.slice(0, _SHOWN).to_pylist()
        left = len(table) - len(rows)
        return as_html(
            table.column_names,
            [list(row.values()) for row in rows],
            [*([counted(left, "more row", "more rows")] if left > 0 else []), *self._remarks(), RESEARCH],
        )

    def _as_text(self, lines: Sequence[str]) -> str:
        """What a terminal shows: the lines, what is to be known of them, and what they are for."""
        return "\n".join([*lines, *(f"note: {remark}" for remark in self._remarks()), RESEARCH])

    def _remarks(self) -> Sequence[str]:
        """What the user should know of it, in sentences."""
        return ()


def as_html(heads: Sequence[str], rows: Sequence[Sequence[Any]], remarks: Sequence[str]) -> str:
    """A table as HTML; all text is escaped."""
    above = "".join(f"<th>{html.escape(str(head))}</th>" for head in heads)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    below = "".join(f"<p><small>{html.escape(remark)}</small></p>" for remark in remarks)
    return f"<table><thead><tr>{above}</tr></thead><tbody>{body}</tbody></table>{below}"


def _cell(value: Any) -> str:
    """A value as a cell; numbers stand to the right."""
    side = ' style="text-align: right"' if isinstance(value, int | float) else ""
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"<td{side}>{html.escape(text)}</td>"
