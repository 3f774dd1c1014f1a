"""Results as tables: for notebooks, for pandas, for the terminal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from cxr_embed.errors import CxrEmbedError
from cxr_embed.present.tables import html_table
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
        return html_table(
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
