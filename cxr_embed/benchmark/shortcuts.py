"""What is not a finding, as findings: does a probe tell sex, age, view or site from the vectors?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from cxr_embed.benchmark.data import BenchData
from cxr_embed.manifest import Manifest
from cxr_embed.types import age_in_years

_CLASSES = 10  # kinds of a column, the most frequent first


def attribute_labels(data: BenchData, by: Sequence[str], fewest: int) -> tuple[BenchData, dict[str, str]]:
    """The data set with kinds of images in the place of findings, and why a column gives none.

    Two kinds are one question ('sex F'), more are one each, against all others. Ages are those from the training part's
    median on.

    Args:
        data: with the columns.
        by: these columns.
        fewest: patients of a kind that each part must have.
    """
    columns: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for name in by:
        values = data.table.column(name)
        found = _ages(data, values) if name == "age" else _kinds(data, name, values, fewest)
        found = {kind: cells for kind, cells in found.items() if _enough(data, np.array(cells), fewest)}
        columns |= found
        if not (values != "").any():
            reasons[name] = f"the labels have no {name}"
        elif not found:
            reasons[name] = f"fewer than two kinds of {name} have patients enough in both parts ({fewest}, `fewest`)"
    known = data.labels.table
    table = known.select([name for name in known.column_names if name not in data.table.findings])
    for kind, cells in columns.items():
        table = table.append_column(kind, pa.array(cells, pa.string()))
    return replace(data, table=Manifest(table, data.table.root, tuple(columns))), reasons


def _kinds(data: BenchData, name: str, values: np.ndarray, fewest: int) -> dict[str, list[str]]:
    kinds, counts = np.unique(values[values != ""], return_counts=True)
    ordered = kinds[np.argsort(-counts, kind="stable")].tolist()
    patients = data.table.column("patient_id")
    sides = [data.part(data.train), data.part(data.test)]
    frequent = [
        kind for kind in ordered if all(len(np.unique(patients[(values == kind) & side])) >= fewest for side in sides)
    ][:_CLASSES]
    if len(frequent) < 2:
        return {}
    known = np.isin(values, frequent)
    chosen = frequent[1:] if len(frequent) == 2 else frequent
    return {f"{name} {kind}": np.where(known, np.where(values == kind, "1", "0"), "").tolist() for kind in chosen}


def _ages(data: BenchData, values: np.ndarray) -> dict[str, list[str]]:
    years = np.array([np.nan if (age := age_in_years(text)) is None else age for text in values.tolist()], float)
    learned = years[data.part(data.train)]
    if np.isnan(learned).all():
        return {}
    middle = int(np.ceil(np.nanmedian(learned)))
    cells = np.where(np.isnan(years), "", np.where(years >= middle, "1", "0"))
    return {f"age from {middle}": cells.tolist()}


def _enough(data: BenchData, cells: np.ndarray, fewest: int) -> bool:
    patients = data.table.column("patient_id")
    sides = [data.part(data.train), data.part(data.test)]
    return all(len(np.unique(patients[(cells == kind) & side])) >= fewest for side in sides for kind in ("0", "1"))
