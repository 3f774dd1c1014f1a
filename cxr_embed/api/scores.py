"""Scores of images for findings, as `predict` and `screen` give them and `evaluate` takes them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from cxr_embed.api.tabular import Tabular
from cxr_embed.arguments import checked_arguments
from cxr_embed.errors import CxrEmbedError
from cxr_embed.screening import Report, write_scores
from cxr_embed.screening.question import highest
from cxr_embed.types import LEARNED, STAND_IN, counted
from cxr_embed.zeroshot import Scores


@dataclass(frozen=True, repr=False)
class ScoreFrame(Tabular):
    """A table of `image_id` and a column a finding.

    Attributes:
        scores: the values, and what they are.
        about: how they came about, for the metadata of a Parquet file.
        notes: what the user should know of them, in sentences.
        report: of a screening: how well the scores rank the images, and what thresholds do; without labels, how far
            single prompts agree. None of other scores.
        embedded: prompts that the text model embedded for it.
    """

    scores: Scores
    about: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    report: Report | None = None
    embedded: int = 0

    @property
    def ids(self) -> np.ndarray:
        """`(N,)` image ids."""
        return self.scores.ids

    @property
    def names(self) -> tuple[str, ...]:
        """The `F` findings."""
        return self.scores.names

    @property
    def values(self) -> np.ndarray:
        """`(N, F)` float32."""
        return self.scores.values

    @property
    def learned_from(self) -> np.ndarray | None:
        """`(N,)` bool: images of patients that a probe learned from; None where nobody knows."""
        return self.scores.learned_from

    @property
    def stand_in(self) -> bool:
        """Whether the weights behind the vectors stand in for a trained model's."""
        return self.scores.stand_in

    def __len__(self) -> int:
        return len(self.scores.ids)

    def __repr__(self) -> str:
        findings = ", ".join(self.names[:4]) + (", ..." if len(self.names) > 4 else "")
        return f"Scores({counted(len(self), 'image')}, {self.scores.kind}: {findings})"

    def to_arrow(self) -> pa.Table:
        """`image_id`, `learned_from` and `stand_in` where they say something, and a column a finding."""
        columns = {"image_id": pa.array(self.ids.tolist(), pa.string())}
        if self.learned_from is not None:
            columns[LEARNED] = pa.array(self.learned_from.astype(np.int8))
        if self.stand_in:
            columns[STAND_IN] = pa.array(np.ones(len(self), np.int8))
        columns |= {name: pa.array(column) for name, column in zip(self.names, self.values.T, strict=True)}
        return pa.table(columns)

    @checked_arguments
    def save(self, out: str | os.PathLike[str]) -> None:
        """Writes the table as CSV or Parquet, by its suffix; `evaluate` and the command line read it.

        Raises:
            StoreError: where it cannot be written.
        """
        write_scores(Path(out), self.scores, dict(self.about))

    @checked_arguments
    def top(self, finding: str | None = None, k: int = 10) -> list[tuple[str, float]]:
        """The images that score highest for a finding, with their scores; equal ones by their ids.

        Args:
            finding: one of `names`; may be left out where there is one only.
            k: images wanted.

        Raises:
            CxrEmbedError: for a finding that is not here, or a k below 1.
        """
        if finding is None and len(self.names) == 1:
            finding = self.names[0]
        if finding not in self.names:
            raise CxrEmbedError(f"`finding` is one of {', '.join(self.names)}, not {finding!r}")
        if k < 1:
            raise CxrEmbedError(f"`k` is the number of images, at least 1, not {k}")
        column = self.values[:, self.names.index(finding)]
        rows = highest(column, self.ids, k)
        return [(str(self.ids[row]), float(column[row])) for row in rows]

    def _remarks(self) -> Sequence[str]:
        stand_in = ["scores of stand-in weights: their figures mean nothing"] if self.stand_in else []
        return (*stand_in, *self.notes)
