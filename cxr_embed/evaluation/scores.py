"""Score files: one row an image, `image_id`, perhaps `patient_id`, and a column of numbers for each finding."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from cxr_embed.errors import CxrEmbedError
from cxr_embed.manifest import DESCRIPTIVE, OPTIONAL, REQUIRED, Rows, read_values, values_of_table
from cxr_embed.types import LEARNED, STAND_IN, counted

_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


class ScoresError(CxrEmbedError):
    """Scores that cannot be used, or that do not fit their labels."""


class ScoreValues(Protocol):
    """Scores in memory, such as `zeroshot.Scores`: `values[i, f]` is the score of `ids[i]` for `names[f]`."""

    @property
    def ids(self) -> np.ndarray:
        """`(N,)` strings."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The `F` findings."""
        ...

    @property
    def values(self) -> np.ndarray:
        """`(N, F)` numbers."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Scores whose ids and values are checked when they are asked for.

    Attributes:
        source: where they came from, for messages.
        ids: `(N,)` strings, each once.
        names: columns that may be findings.
        patients: image to patient; empty where the scores do not say.
        learned: `(N,)` bool, the images of patients that a probe learned from; None where nobody says.
    """

    source: str
    ids: np.ndarray
    names: tuple[str, ...]
    patients: Mapping[str, str]
    learned: np.ndarray | None
    _rows: Rows | None
    _values: np.ndarray | None
    stand_in: bool = False

    def values(self, names: tuple[str, ...]) -> np.ndarray:
        """`(N, F)` float64 of these findings.

        Raises:
            ScoresError: naming every score that is not a finite number.
        """
        if self._values is not None:
            found = np.asarray(self._values, np.float64)[:, [self.names.index(name) for name in names]]
            self._refuse([_bad_values(self.ids, column, name) for name, column in zip(names, found.T, strict=True)])
            return found
        assert self._rows is not None
        columns, problems = [], []
        for name in names:
            texts = self._rows.table[name]
            column = _parsed(texts)
            if column is None:
                problems += self._rows.where(name, _no_number, f"{name} is not a finite number")
            else:
                columns.append(column)
        self._refuse(problems)
        return np.stack(columns, axis=1)

    def _refuse(self, problems: list[str]) -> None:
        named = [problem for problem in problems if problem]
        if named:
            raise ScoresError("\n".join([f"{self.source}: scores that cannot be used", *(f"  {p}" for p in named)]))


ScoreSource = ScoreTable | ScoreValues | str | os.PathLike[str]  # or a table of pyarrow, which has no types


def read_scores(scores: ScoreSource | Any) -> ScoreTable:
    """Opens scores: a file (CSV, CSV.GZ or Parquet), such a table of pyarrow, or values in memory.

    What is open already stays as it is.

    Raises:
        ManifestError: for a file that is not a table, or whose ids are blank or not unique.
        ScoresError: for a probe's folder, or values in memory with such ids.
    """
    if isinstance(scores, ScoreTable):
        return scores
    if isinstance(scores, str | os.PathLike):
        if (Path(scores) / "probe.json").is_file():
            raise ScoresError(
                f"{scores}: a probe, and scores are asked for; `cxr-embed probe predict {scores} STORE --out FILE` "
                "writes its scores"
            )
        return _of_rows(read_values(scores), str(Path(scores)))
    if isinstance(scores, pa.Table):
        return _of_rows(values_of_table(scores, "scores"), "scores")
    ids = np.asarray(scores.ids, dtype=np.str_)
    if np.shape(scores.values) != (len(ids), len(scores.names)):
        raise ScoresError(
            f"scores have the shape {np.shape(scores.values)}; {counted(len(ids), 'id')} and "
            f"{counted(len(scores.names), 'name')} need "
            f"({len(ids)}, {len(scores.names)})"
        )
    check_ids(ids, "scores")
    learned = getattr(scores, LEARNED, None)
    if learned is not None and np.shape(learned) != (len(ids),):
        raise ScoresError(
            f"{LEARNED} has the shape {np.shape(learned)}; {counted(len(ids), 'id needs', 'ids need')} ({len(ids)},)"
        )
    learned = np.asarray(learned, bool) if learned is not None else None
    stand_in = bool(getattr(scores, STAND_IN, False))
    return ScoreTable(
        source="scores",
        ids=ids,
        names=tuple(scores.names),
        patients={},
        learned=learned,
        _rows=None,
        _values=scores.values,
        stand_in=stand_in,
    )


def _of_rows(rows: Rows, source: str) -> ScoreTable:
    known = (*REQUIRED, *OPTIONAL, *DESCRIPTIVE, LEARNED, STAND_IN)
    names = tuple(name for name in rows.table.column_names if name not in known)
    ids = np.array(rows.table["image_id"].to_pylist(), dtype=np.str_)
    patients = {}
    if rows.has("patient_id"):
        patients = dict(zip(ids.tolist(), rows.table["patient_id"].to_pylist(), strict=True))
    stand_in = STAND_IN in rows.table.column_names
    return ScoreTable(
        source=source,
        ids=ids,
        names=names,
        patients=patients,
        learned=_learned(rows, source),
        _rows=rows,
        _values=None,
        stand_in=stand_in,
    )


def _learned(rows: Rows, source: str) -> np.ndarray | None:
    """The column of a file, where it has one.

    Raises:
        ScoresError: for values other than 1 and 0.
    """
    if LEARNED not in rows.table.column_names:
        return None
    texts = rows.table[LEARNED].to_pylist()
    known = {"1": True, "0": False, "1.0": True, "0.0": False, "true": True, "false": False}
    values = [known.get((text or "").strip().lower()) for text in texts]
    if None in values:
        wrong = values.index(None)
        raise ScoresError(
            f"{source}: {LEARNED} is 1 where a probe learned from the image's patient and 0 elsewhere, not "
            f"{texts[wrong]!r} in row {wrong + 2}"
        )
    return np.array(values, dtype=bool)


def check_ids(ids: np.ndarray, source: str) -> None:
    """Refuses ids in memory that stand twice.

    Raises:
        ScoresError: naming the first ones.
    """
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise ScoresError(
            f"{source}: image ids stand twice: {', '.join(values[counts > 1][:5])}; keep one row an image"
        )


def _parsed(texts: pa.ChunkedArray) -> np.ndarray | None:
    """A column as float64; None where a value is not a finite number."""
    try:
        values: np.ndarray = texts.cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        listed = texts.to_pylist()
        # Arrow takes no plus sign; who writes one has a number nevertheless.
        if any(_no_number(text) for text in listed):
            return None
        values = np.array([float(text) for text in listed])
    return values if np.isfinite(values).all() else None


def _no_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is None or not np.isfinite(float(text))


def _bad_values(ids: np.ndarray, column: np.ndarray, name: str) -> str:
    bad = np.flatnonzero(~np.isfinite(column))
    shown = ", ".join(f"{column[n]} for {ids[n]}" for n in bad[:5].tolist())
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    return f"{name} is not a finite number: {shown}{more}" if len(bad) else ""
