"""What a scan found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class UnmatchedFile:
    """A file that the data set's table does not know: what was looked up, where, and the nearest that is there."""

    path: str
    key: str
    table: str
    nearest: str

    def __str__(self) -> str:
        near = f"; the nearest there is {self.nearest!r}" if self.nearest else ""
        return f"{self.path} was looked up in {self.table} as {self.key!r}{near}"


@dataclass(kw_only=True)
class ScanResult:
    """A manifest's columns and what happened on the way.

    Attributes:
        columns: name to `N` values.
        skipped: files that were not radiographs, with the reason.
        without_patient: images whose patient is unknown: each was taken as a patient of its own.
        not_found: rows of the data set's table whose file is not there.
        unlisted: images that the data set's first table lacks and that are of it all the same; their cells are blank.
        others: names that cells of the labels have and the recipe does not know, with the number of rows.
        neutral: images whose id is a keyed hash, because their path gives a person or an order away.
        problems: why the columns make no valid manifest, where the data set's own tables are at fault.
        labels: the name of the labels that were taken, of a recipe that has any.
        not_findings: columns that are not findings and that not every manifest knows.
        boxes: name to `B` values of the table of boxes; none where the data set has none.
        unmatched: the first file that the data set's table does not know.
    """

    columns: dict[str, list[str]]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    without_patient: int = 0
    not_found: int = 0
    unlisted: int = 0
    others: dict[str, int] = field(default_factory=dict)
    neutral: int = 0
    problems: list[str] = field(default_factory=list)
    labels: str | None = None
    not_findings: list[str] = field(default_factory=list)
    boxes: dict[str, list[str]] = field(default_factory=dict)
    unmatched: UnmatchedFile | None = None

    def __len__(self) -> int:
        return len(self.columns["image_id"])
