"""Which sentences are true of which radiographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from examples.train_mini.cases import Cases
from examples.train_mini.sentences import Claim, Sentence

# A claim of size or side about a radiograph that has the finding, but whose labels say nothing of either.
WEAK = 0.5


@dataclass(frozen=True)
class Truth:
    """What is known of N radiographs.

    Attributes:
        columns: `C` names.
        values: `(N, C)` float32 in {0, 1, NaN}.
        details: `(N, C)` pairs of words, size and side, empty where unknown; None where nothing is known.
    """

    columns: tuple[str, ...]
    values: np.ndarray
    sizes: np.ndarray | None = None
    sides: np.ndarray | None = None

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


def truth_of(cases: Cases, columns: Sequence[str]) -> Truth:
    """The truth of labelled radiographs. `Abnormal` is what `No Finding` denies; views come from the manifest."""
    no_finding = cases.asked(["No Finding"])[:, 0]
    findings = [name for name in cases.findings if name != "No Finding"]
    if np.isnan(no_finding).all():
        no_finding = (~(cases.asked(findings) == 1).any(axis=1)).astype(np.float32)
    ap = cases.traits[:, 0]
    special = {"Abnormal": 1 - no_finding, "AP": ap, "PA": 1 - ap, "Lateral": np.zeros(len(cases), np.float32)}
    values = [special[name] if name in special else cases.asked([name])[:, 0] for name in columns]
    return Truth(tuple(columns), np.stack(values, axis=1).astype(np.float32))
