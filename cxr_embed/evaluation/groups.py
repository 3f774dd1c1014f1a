"""The same figures by sex, age band, view or any other column, and how much groups differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from cxr_embed.evaluation.measure import Sample, compact, differences, has_end, inside, measure, seed_of
from cxr_embed.evaluation.result import GroupResult
from cxr_embed.evaluation.scored import ScoredCases
from cxr_embed.evaluation.scores import ScoresError
from cxr_embed.metrics import Estimate, between, from_draws, is_end

AGE_BANDS = ((0, "0-17"), (18, "18-39"), (40, "40-59"), (60, "60-79"), (80, "80 and over"))
UNKNOWN = "unknown"
_MOST = 20  # groups of one attribute: beyond, a column is not a grouping (an id, a date)


def groups_of(cases: ScoredCases, attribute: str) -> np.ndarray:
    """`(N,)` group names of the cases; ages are put into bands.

    Raises:
        ScoresError: for a column that the labels do not have, or that is not a grouping.
    """
    if attribute not in cases.table:
        known = ", ".join(name for name in cases.table if name not in ("image_id", "path", *cases.columns))
        raise ScoresError(f"`by` {attribute}: the labels have no such column; they have {known or 'none to group by'}")
    values = cases.table[attribute]
    if attribute == "age":
        values = np.array([_band(value) for value in values.tolist()], dtype=np.str_)
    groups = np.where(values == "", UNKNOWN, values)
    count = len(np.unique(groups))
    if count > _MOST:
        raise ScoresError(f"`by` {attribute}: {count:,} different values make no groups; at most {_MOST} do")
    if count < 2:
        raise ScoresError(f"`by` {attribute}: all cases are {groups[0]}; there is nothing to compare")
    return groups


def _band(age: str) -> str:
    if not age:
        return ""
    return [name for start, name in AGE_BANDS if float(age) >= start][-1]


def measure_groups(
    cases: ScoredCases,
    attributes: Sequence[str],
    sample: Callable[[int, np.ndarray], Sample],
    bootstraps: int,
    seed: int,
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
            parts = {group: sample(number, groups == group) for group in ordered}
            # The seed does not hang on the group's name alone: F of sex and F of a view are two groups.
            measured = {
                group: measure(_alone(part), bootstraps, seed_of(seed, finding, attribute, group))[0]
                for group, part in parts.items()
            }
            for group, part in parts.items():
                figures, apart = measured[group], {}
                if group != reference:
                    drawn = differences(
                        part, parts[reference], bootstraps, seed_of(seed, finding, attribute, group, reference)
                    )
                    apart = {name: _apart(name, values, figures, measured[reference]) for name, values in drawn.items()}
                patients = len(np.unique(part.patients)) if cases.clustered else None
                found.append(
                    GroupResult(
                        finding=finding,
                        attribute=attribute,
                        group=group,
                        reference=reference,
                        n=len(part.positive),
                        positives=int(part.positive.sum()),
                        patients=patients,
                        figures=figures,
                        differences=apart,
                    )
                )
    return tuple(found)


def _apart(
    name: str,
    drawn: tuple[float, np.ndarray, int],
    figures: Mapping[str, Estimate],
    reference: Mapping[str, Estimate],
) -> Estimate:
    """A group's figure minus the reference's, from draws, or from both intervals where draws know too little."""
    pair = figures[name], reference[name]
    plain = name == "net_benefit"
    ends = [is_end(figure.value) for figure in pair if figure.value is not None and not plain]
    if name in ("ppv", "npv", "net_benefit"):
        ends += [has_end(figures), has_end(reference)]
    if any(ends) or name == "calibration_error":
        found = between(*pair)
        return found if plain else inside(found, -1.0)
    return from_draws(*drawn, "plain" if plain else "difference")


def _alone(sample: Sample) -> Sample:
    """The sample with its own patients numbered only: draws cost by patient."""
    numbers, count = compact(sample.patients)
    return replace(sample, patients=numbers, count=count)
