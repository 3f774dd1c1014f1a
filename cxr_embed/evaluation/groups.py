"""The same figures by sex, age band, view or any other column, and how much groups differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from cxr_embed.evaluation.cases import Cases
from cxr_embed.evaluation.measure import Sample, compact, differences, measure, seed_of
from cxr_embed.evaluation.result import GroupResult
from cxr_embed.evaluation.scores import ScoresError
from cxr_embed.metrics import Estimate, from_draws

AGE_BANDS = ((0, "0-17"), (18, "18-39"), (40, "40-59"), (60, "60-79"), (80, "80 and over"))
UNKNOWN = "unknown"
_MOST = 20  # groups of one attribute: beyond, a column is no grouping (an id, a date)


def groups_of(cases: Cases, attribute: str) -> np.ndarray:
    """`(N,)` group names of the cases; ages are put into bands.

    Raises:
        ScoresError: for a column that the labels do not have, or that is no grouping.
    """
    if attribute not in cases.table:
        known = ", ".join(name for name in cases.table if name not in ("image_id", "path", *cases.columns))
        raise ScoresError(f"--by {attribute}: the labels have no such column; they have {known or 'none to group by'}")
    values = cases.table[attribute]
    if attribute == "age":
        values = np.array([_band(value) for value in values.tolist()], dtype=np.str_)
    groups = np.where(values == "", UNKNOWN, values)
    count = len(np.unique(groups))
    if count > _MOST:
        raise ScoresError(f"--by {attribute}: {count:,} different values make no groups; at most {_MOST} do")
    if count < 2:
        raise ScoresError(f"--by {attribute}: all cases are {groups[0]}; there is nothing to compare")
    return groups


def _band(age: str) -> str:
    if not age:
        return ""
    return [name for start, name in AGE_BANDS if float(age) >= start][-1]


def measure_groups(
    cases: Cases, attributes: Sequence[str], sample: Callable[[int, np.ndarray], Sample], bootstraps: int, seed: int
) -> tuple[GroupResult, ...]:
    """Figures of every finding in every group.

    Args:
        cases: all of them.
        attributes: columns to group by.
        sample: finding number and `(N,)` bool of cases to their sample, patients numbered over all cases.
        bootstraps, seed: of the intervals.
    """
    found: list[GroupResult] = []
    for attribute in attributes:
        groups = groups_of(cases, attribute)
        names, counts = np.unique(groups, return_counts=True)
        known = np.where(names == UNKNOWN, 0, counts)
        reference = str(names[int(np.argmax(known))])
        ordered = [name for _, name in AGE_BANDS if name in names] if attribute == "age" else []
        ordered += [name for name in names.tolist() if name not in (*ordered, UNKNOWN)]
        ordered += [UNKNOWN] if UNKNOWN in names else []
        for number, finding in enumerate(cases.names):
            against = sample(number, groups == reference)
            for group in ordered:
                here = groups == group
                part = sample(number, here)
                # The seed does not hang on the group's name alone: F of sex and F of a view are two groups.
                figures, _ = measure(_alone(part), bootstraps, seed_of(seed, finding, attribute, group))
                apart: dict[str, Estimate] = {}
                if group != reference:
                    drawn = differences(part, against, bootstraps, seed_of(seed, finding, attribute, group, reference))
                    apart = {
                        name: from_draws(*values, "plain" if name == "net_benefit" else "difference")
                        for name, values in drawn.items()
                    }
                patients = len(np.unique(part.patients)) if cases.clustered else None
                positives = int(part.positive.sum())
                shown = (len(part.positive), positives, patients)
                found.append(GroupResult(finding, attribute, group, reference, *shown, figures, apart))
    return tuple(found)


def _alone(sample: Sample) -> Sample:
    """The sample with its own patients numbered only: draws cost by patient."""
    numbers, count = compact(sample.patients)
    return replace(sample, patients=numbers, count=count)
