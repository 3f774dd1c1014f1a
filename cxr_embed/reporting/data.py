"""What the labels hold: images, patients and positives, by split."""

from __future__ import annotations

from typing import Any

import numpy as np

from cxr_embed.choices import Blank, Uncertain
from cxr_embed.manifest import Manifest

NO_SPLIT = "no split"
_ORDER = ("train", "val", "validate", "validation", "test")  # as a reader expects them; others follow
_VALUES = 12  # of one column that are counted by name


def describe_labels(
    labels: Manifest, findings: tuple[str, ...], uncertain: Uncertain, blank: Blank | None = None
) -> dict[str, Any]:
    """Counts by split, as plain JSON values.

    Args:
        labels: all of them, whatever is evaluated.
        findings: the columns that count.
        uncertain: what a label of -1 counts as.
        blank: what a blank label counts as; what the labels' companion says by default.
    """
    splits = np.where(labels.column("split") == "", NO_SPLIT, labels.column("split"))
    names = np.unique(splits).tolist()
    names.sort(key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name == NO_SPLIT, name))
    values = labels.labels(uncertain, blank).values
    columns = {name: values[:, labels.findings.index(name)] for name in findings}
    known = {name: labels.column(name) for name in ("patient_id", "age", "sex", "view", "site", "source")}
    parts = [_part(name, splits == name, columns, known) for name in names]
    return {"columns": [n for n in known if (known[n] != "").any()], "splits": parts}


def _part(name: str, here: np.ndarray, columns: dict[str, np.ndarray], known: dict[str, np.ndarray]) -> dict[str, Any]:
    patients = known["patient_id"][here]
    ages = np.array([float(age) for age in known["age"][here].tolist() if age])
    years = None
    if len(ages):
        found = np.quantile(ages, (0, 0.5, 1)).tolist()
        low, middle, high = (int(age) if age.is_integer() else age for age in found)  # 48, not 48.0
        years = {"median": middle, "youngest": low, "oldest": high, "unknown": int(here.sum()) - len(ages)}
    findings = []
    for finding, column in columns.items():
        labels = column[here]
        positive = labels == 1
        with_it = patients[positive]
        findings.append(
            {
                "finding": finding,
                "positives": int(positive.sum()),
                "known": int((~np.isnan(labels)).sum()),
                "positive_patients": _count(with_it),
            }
        )
    return {
        "split": name,
        "images": int(here.sum()),
        "patients": _count(patients),
        "age": years,
        **{column: _counts(known[column][here]) for column in ("sex", "view", "site", "source")},
        "findings": findings,
    }


def _count(patients: np.ndarray) -> int | None:
    """How many patients; None where some image has none."""
    return len(np.unique(patients)) if not (patients == "").any() else None


def _counts(values: np.ndarray) -> dict[str, int]:
    names, counts = np.unique(np.where(values == "", "unknown", values), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    found = {str(names[n]): int(counts[n]) for n in order[:_VALUES]}
    if len(order) > _VALUES:
        found["others"] = int(counts[order[_VALUES:]].sum())
    return found
