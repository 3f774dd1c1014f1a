"""Which sentences are true of which radiographs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cases import Cases
from sentences import Claim, Sentence

# A claim of size or side about a radiograph that has the finding, but whose labels say nothing of either.
WEAK = 0.5
GRADES = {"mild": "small", "moderate": "moderate", "severe": "large"}


@dataclass(frozen=True)
class Truth:
    """What is known of N radiographs.

    Attributes:
        columns: `C` names.
        values: `(N, C)` float32 in {0, 1, NaN}.
        sizes, sides: `(N, C)` words as in `words.yaml`, empty where unknown; None where nothing is known.
    """

    columns: tuple[str, ...]
    values: np.ndarray
    sizes: np.ndarray | None = None
    sides: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Truth:
        """Those radiographs only."""
        sizes, sides = (None if part is None else part[rows] for part in (self.sizes, self.sides))
        return Truth(self.columns, self.values[rows], sizes, sides)

    def match(self, sentences: Sequence[Sentence]) -> tuple[np.ndarray, np.ndarray]:
        """`(S, N)` float32 in {0, 1, NaN = unknown}, and its weights `(S, N)`."""
        known: dict[Claim, tuple[np.ndarray, np.ndarray]] = {}
        values, weights = [], []
        for sentence in sentences:
            true, sure = np.ones(len(self.values), np.float32), np.ones(len(self.values), np.float32)
            unknown = np.zeros(len(true), bool)
            for claim in sentence.claims:
                if claim not in known:
                    known[claim] = self._claim(claim)
                value, weight = known[claim]
                unknown |= np.isnan(value)
                true = np.where(value == 0, 0, true)
                sure = np.minimum(sure, weight)
            values.append(np.where(unknown & (true != 0), np.nan, true))
            weights.append(np.where(true == 0, 1, sure))
        return np.stack(values).astype(np.float32), np.stack(weights).astype(np.float32)

    def _claim(self, claim: Claim) -> tuple[np.ndarray, np.ndarray]:
        at = [self.columns.index(name) for name in claim.findings]
        values = self.values[:, at]
        there = (values == 1).any(axis=1)
        present = np.where(there, 1, np.where(np.isnan(values).any(axis=1), np.nan, 0)).astype(np.float32)
        weights = np.ones(len(present), np.float32)
        if not claim.present:
            return 1 - present, weights
        for word, details in ((claim.size, self.sizes), (claim.side, self.sides)):
            if not word:
                continue
            told = np.full(len(present), "") if details is None or len(at) > 1 else details[:, at[0]]
            weights = np.where(there & (told == ""), WEAK, weights)
            present = np.where(there & (told != "") & (told != word), 0, present)
        return present, weights


def truth_of(cases: Cases, columns: Sequence[str], details: Path | None = None) -> Truth:
    """The truth of labelled radiographs.

    `Abnormal` is what `No Finding` denies, or any finding where there is no such column; views come from the manifest.
    A radiograph that shows nothing has none of the findings that its table has no column for, devices aside.

    Args:
        cases: the radiographs.
        columns: of the truth.
        details: the `truth.csv` of phantoms, with sides and grades.
    """
    asked = cases.asked(columns)
    no_finding = cases.asked(["No Finding"])[:, 0]
    if np.isnan(no_finding).all():
        no_finding = (~(cases.labels == 1).any(axis=1)).astype(np.float32)
    ap = cases.traits[:, 0]
    special = {"Abnormal": 1 - no_finding, "AP": ap, "PA": 1 - ap, "Lateral": np.zeros(len(cases), np.float32)}
    for column, name in enumerate(columns):
        if name in special:
            asked[:, column] = special[name]
        elif name != "Support Devices":
            asked[:, column] = np.where(np.isnan(asked[:, column]) & (no_finding == 1), 0, asked[:, column])
    return Truth(tuple(columns), asked, *(_details(cases, columns, details) if details else (None, None)))


def _details(cases: Cases, columns: Sequence[str], path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and sides `(N, C)` of phantoms' findings, in the words of `words.yaml`."""
    rows = {image_id: row for row, image_id in enumerate(cases.ids.tolist())}
    sizes, sides = (np.full((len(cases), len(columns)), "", dtype="U8") for _ in range(2))
    with path.open(newline="") as file:
        for told in csv.DictReader(file):
            if told["image_id"] in rows and told["finding"] in columns:
                at = rows[told["image_id"]], columns.index(told["finding"])
                sizes[at] = GRADES.get(told["grade"], "")
                sides[at] = told["side"] if sides[at] in ("", told["side"]) else "both"
    return sizes, sides
