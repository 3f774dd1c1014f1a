"""The columns of several manifests as those of one: which is which, by the vocabulary of findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from cxr_embed.cases.common_findings import plain_name
from cxr_embed.cases.errors import CasesError
from cxr_embed.cases.vocabulary import vocabulary
from cxr_embed.manifest import DESCRIPTIVE, OPTIONAL, REQUIRED, Manifest

SOURCE = "source"
_OWN = (*REQUIRED, SOURCE)  # that are made anew, not copied


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of a merged table are made of.

    Attributes:
        parts: name and manifest of each data set.
        others, findings: the merged table's columns but for ids, paths and `source`: for each, every part's own column,
            None where it has none.
        notes: what was renamed, and what is blank where, in sentences.
    """

    parts: tuple[tuple[str, Manifest], ...]
    others: dict[str, tuple[str | None, ...]]
    findings: dict[str, tuple[str | None, ...]]
    notes: tuple[str, ...]

    @property
    def not_findings(self) -> tuple[str, ...]:
        """The columns that only a companion knows not to be findings."""
        return tuple(name for name in self.others if name not in (*OPTIONAL, *DESCRIPTIVE))

    def table(self, rows: Sequence[Sequence[int]]) -> dict[str, pa.Array]:
        """`source`, the other columns and the findings, of some rows of each part."""
        found: dict[str, pa.Array] = {SOURCE: pa.array(self._sources(rows), pa.string())}
        for name, made_of in {**self.others, **self.findings}.items():
            values: list[str] = []
            for (_, manifest), column, chosen in zip(self.parts, made_of, rows, strict=True):
                if column is None:
                    values += [""] * len(chosen)
                    continue
                own = manifest.table[column].to_pylist()
                blank = "0" if name in self.findings and manifest.blank == "negative" else ""
                values += [own[row] or blank for row in chosen]
            found[name] = pa.array(values, pa.string())
        return found

    def _sources(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The data set of each row: as a manifest that was merged before says it, else the part's name."""
        return [
            own[row] or name
            for (name, manifest), chosen in zip(self.parts, rows, strict=True)
            for own in [manifest.column(SOURCE).tolist()]
            for row in chosen
        ]


def merged_columns(parts: Sequence[tuple[str, Manifest]], common: bool, drop: Sequence[str]) -> Columns:
    """Which columns of the parts are one.

    Findings are one by the vocabulary, or by a like spelling, and have its name; other columns by their name in any
    case.

    Args:
        parts: name and manifest of each data set.
        common: whether only findings of the vocabulary stay that every part labels.
        drop: columns that are left out, by any part's name of them.

    Raises:
        CasesError: for two columns of one part that are one, a finding that is none elsewhere, or no finding of all.
    """
    known = {name for _, manifest in parts for name in manifest.table.column_names}
    if lacking := [name for name in drop if name not in known or name in _OWN]:
        what = "must stay" if lacking[0] in _OWN else "no manifest has such a column"
        raise CasesError(f"`drop` {lacking[0]}: {what}")
    labels = [[name for name in manifest.findings if name not in drop] for _, manifest in parts]
    findings = _one(parts, labels, finding=True)
    others = _one(
        parts,
        [[n for n in m.table.column_names if n not in (*m.findings, *_OWN, *drop)] for _, m in parts],
        finding=False,
    )
    for name in findings:
        if clash := next((other for other in others if other.casefold() == name.casefold()), None):
            where = [part for (part, _), column in zip(parts, others[clash], strict=True) if column is not None]
            raise CasesError(f"{clash} is a finding, and in {', '.join(where)} it is none; rename one, or leave it out")
    if common:
        found = {name: vocabulary().find(name) for name in findings}
        findings = {
            name: made_of
            for name, made_of in findings.items()
            if None not in made_of and (known_as := found[name]) is not None and not known_as.absence
        }
        if not findings:
            lists = "; ".join(
                f"{name} has {', '.join(own) or 'none'}" for (name, _), own in zip(parts, labels, strict=True)
            )
            raise CasesError(f"no finding is labelled by every data set: {lists}")
    order = [name for name in (*OPTIONAL, *DESCRIPTIVE) if name in others]
    ordered = {name: others[name] for name in (*order, *(name for name in others if name not in order))}
    return Columns(parts=tuple(parts), others=ordered, findings=findings, notes=tuple(_notes(parts, findings)))


def _one(
    parts: Sequence[tuple[str, Manifest]], names: Sequence[Sequence[str]], *, finding: bool
) -> dict[str, tuple[str | None, ...]]:
    """The parts' columns by what they are, under one name."""
    called: dict[str, str] = {}
    made: dict[str, list[str | None]] = {}
    for number, own in enumerate(names):
        for name in own:
            found = vocabulary().find(name) if finding else None
            key = found.name if found is not None else plain_name(name) if finding else name.casefold()
            called.setdefault(key, found.name if found is not None else name)
            columns = made.setdefault(key, [None] * len(parts))
            if columns[number] is not None:
                both = f"{columns[number]} and {name}"
                raise CasesError(f"{parts[number][0]}: {both} are both {called[key]}; leave one out with `drop`")
            columns[number] = name
    return {called[key]: tuple(columns) for key, columns in made.items()}


def _notes(parts: Sequence[tuple[str, Manifest]], findings: dict[str, tuple[str | None, ...]]) -> list[str]:
    """What was renamed, what is blank where, and what the vocabulary says of findings of several data sets."""
    notes = []
    for number, (name, manifest) in enumerate(parts):
        renamed = [f"{of[number]} = {finding}" for finding, of in findings.items() if of[number] not in (None, finding)]
        if renamed:
            notes.append(f"renamed in {name}: {', '.join(renamed)}")
        lacking = [finding for finding, of in findings.items() if of[number] is None]
        if lacking:
            notes.append(f"not labelled in {name}, and blank there: {', '.join(lacking)}")
        own = sorted(set(manifest.column(SOURCE).tolist()) - {"", name})
        if own:
            notes.append(f"{name} has a column {SOURCE} already, which stays: {', '.join(own)}")
        if manifest.blank == "negative":
            notes.append(f"a blank label of {name} counts as negative, as its companion says, and is 0 here")
    for finding, of in findings.items():
        known = vocabulary().find(finding)
        if known is not None and known.note and sum(column is not None for column in of) > 1:
            notes.append(f"{finding}: {known.note}")
    return notes
