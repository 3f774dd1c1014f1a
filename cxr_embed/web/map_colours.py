"""What the points of a map are coloured by: a column of few words, a finding, the age, or a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.case_table import AGE, FINDING, TEXT
from cxr_embed.web.columns import CHOSEN
from cxr_embed.web.site import Site
from cxr_embed.web.state import Generation

UNKNOWN = 255  # the code of a case of which nobody knows
_GROUPS = 11  # that have a colour of their own; the others share one
_STEPS = 254  # of a scale
By = Literal["column", "finding", "probe", "prompts"]


@dataclass(frozen=True)
class Colouring:
    """Something that points can be coloured by.

    Attributes:
        by: `column`, `finding` (its label), or `probe` and `prompts` (scores).
        name: of the column or the finding.
    """

    by: By
    name: str

    @property
    def label(self) -> str:
        """As a page calls it."""
        return f"{self.name}, by {self.by}" if self.by in ("probe", "prompts") else self.name


@dataclass(frozen=True)
class Coloured:
    """A colour code for each case.

    Attributes:
        codes: `(N,)` uint8: of a group its place in `about`, of a scale 0 to 254; 255 where nothing is known.
        about: for the legend: `kind` (`groups` or `scale`), `groups` (each with `name` and `count`) or `low` and
            `high`, and `unknown`: how many cases.
    """

    codes: np.ndarray
    about: dict[str, Any]


def colourings(site: Site, generation: Generation) -> list[Colouring]:
    """All that this index can be coloured by, columns first."""
    columns, table = generation.columns, generation.index.table
    words = [name for name in CHOSEN if name in columns.names and table.schema.field(name).type == TEXT]
    ages = [AGE] if columns.ages is not None else []
    labels: list[Colouring] = [Colouring("finding", name) for name, _ in columns.positives]
    scores = [Colouring(each.by, each.finding) for each in site.scores.offered()]
    return [*(Colouring("column", name) for name in (*words, *ages)), *labels, *scores]


def coloured(site: Site, generation: Generation, by: str, name: str) -> Coloured:
    """The colours of all cases.

    Raises:
        CaseIndexError: for what is not one of `colourings`.
    """
    chosen = next((each for each in colourings(site, generation) if (each.by, each.name) == (by, name)), None)
    if chosen is None:
        raise CaseIndexError(f"the map is not coloured by {name[:60]!r}")
    if chosen.by in ("probe", "prompts"):
        return _scale(site.scores.of(generation, chosen.by, chosen.name))
    column = generation.index.table[name].combine_chunks()
    if column.type == TEXT:
        return _words(column)
    values = column.fill_null(-1).to_numpy(zero_copy_only=False)
    if column.type == FINDING:
        return _groups(np.where(values < 0, UNKNOWN, 1 - values).astype(np.uint8), ["yes", "no"])
    return _scale(np.where(pc.is_valid(column).to_numpy(zero_copy_only=False), values, np.nan).astype(np.float32))


def _words(column: Any) -> Coloured:
    """The most frequent words first; those that have no colour of their own are `other`."""
    names = column.dictionary.to_pylist()
    found = np.asarray(column.indices.fill_null(-1))
    counts = np.bincount(found[found >= 0], minlength=len(names))
    ranked = [code for code in np.argsort(-counts, kind="stable").tolist() if counts[code]]
    code_of = np.full(len(names) + 1, UNKNOWN, np.uint8)  # the last one is of -1: unknown
    for place, code in enumerate(ranked):
        code_of[code] = min(place, _GROUPS)
    left = len(ranked) - _GROUPS
    shown = [str(names[code]) for code in ranked[:_GROUPS]]
    return _groups(code_of[found], [*shown, f"{left} more"] if left > 0 else shown)


def _groups(codes: np.ndarray, names: list[str]) -> Coloured:
    counts = np.bincount(codes, minlength=UNKNOWN + 1)
    groups = [{"name": name, "count": int(counts[place])} for place, name in enumerate(names)]
    return Coloured(codes, {"kind": "groups", "groups": groups, "unknown": int(counts[UNKNOWN])})


def _scale(values: np.ndarray) -> Coloured:
    """Codes over the range of the values that are known."""
    known = np.isfinite(values)
    low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
    codes = np.full(len(values), UNKNOWN, np.uint8)
    codes[known] = np.rint((values[known] - low) / ((high - low) or 1.0) * _STEPS)
    unknown = int(len(values) - np.count_nonzero(known))
    return Coloured(codes, {"kind": "scale", "low": low, "high": high, "unknown": unknown})
