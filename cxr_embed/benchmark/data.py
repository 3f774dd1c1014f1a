"""The data sets of a benchmark: labels of the findings that are looked at, and a split by patient."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cxr_embed.benchmark.plan import DataPlan, Plan, near_name
from cxr_embed.benchmark.progress import Clock, drawing_work
from cxr_embed.cases import CasesError, chosen_findings, match_names, shown_names, wants_common
from cxr_embed.choices import Blank, Uncertain
from cxr_embed.errors import CxrEmbedError
from cxr_embed.io.digests import json_digest
from cxr_embed.io.files import written_aside
from cxr_embed.manifest import DESCRIPTIVE, OPTIONAL, Manifest, read_manifest
from cxr_embed.phantom import write_phantoms
from cxr_embed.probe.shots import patients_for_test
from cxr_embed.types import counted

PHANTOMS = "phantoms"  # the recipe's name of what is drawn on the spot
_KEPT = ("image_id", "patient_id", *OPTIONAL, *DESCRIPTIVE)


@dataclass(frozen=True, kw_only=True)
class BenchData:
    """A data set as every encoder meets it.

    Attributes:
        name: in the results.
        recipe: which data set it is; blank where nobody says.
        table: its images with the findings that are looked at, as 1, 0 and blank (-1 and blanks of other meanings are
            settled already), and a column `split`.
        train, test: names of the two parts.
        split: where they come from, in words.
        counted: what labels of -1 and blank ones counted as, in words; blank where that is nothing.
        plan: what the plan says of it.
    """

    name: str
    recipe: str
    table: Manifest
    train: str
    test: str
    split: str
    counted: str
    plan: DataPlan

    @cached_property
    def labels(self) -> Manifest:
        """What is known of the images, without their paths: the table that `evaluate` takes."""
        columns = [name for name in self.table.table.column_names if name in (*_KEPT, *self.table.findings)]
        return replace(self.table, table=self.table.table.select(columns))

    @cached_property
    def digest(self) -> str:
        """64 hexadecimal digits of the labels, whatever the order of the rows."""
        table = self.labels.table.sort_by("image_id")
        return json_digest({name: table[name].to_pylist() for name in table.column_names})

    def part(self, name: str) -> np.ndarray:
        """`(N,)` bool: the rows of a split."""
        return np.asarray(self.table.column("split") == name)

    def keep(self, ids: np.ndarray) -> BenchData:
        """The same with these images alone."""
        rows = np.flatnonzero(np.isin(self.table.ids, ids))
        if len(rows) == len(self.table):
            return self
        return replace(self, table=replace(self.table, table=self.table.table.take(pa.array(rows))))

    def describe(self) -> dict[str, object]:
        """What a leaderboard says of it."""
        patients = self.table.column("patient_id")
        parts = {
            side: {"images": int(rows.sum()), "patients": len(np.unique(patients[rows]))}
            for side, rows in (("train", self.part(self.train)), ("test", self.part(self.test)))
        }
        said = {"recipe": self.recipe, "split": self.split, "counted": self.counted}
        return {**said, "findings": list(self.table.findings), **parts}


def read_data(plan: Plan, folder: Path, out: Path, clock: Clock) -> tuple[list[BenchData], list[str]]:
    """The data sets of a plan, and what is wrong with them.

    Args:
        plan: that is followed.
        folder: that its paths are relative to.
        out: the benchmark's, where phantoms are drawn.
        clock: that counts them.
    """
    found: list[BenchData] = []
    problems: list[str] = []
    # Phantoms are drawn last: what is wrong elsewhere is said first.
    for name, data in sorted(plan.data.items(), key=lambda entry: entry[1].manifest is None):
        if problems and data.manifest is None:
            break
        try:
            found.append(_read(name, data, plan, folder, out, clock))
        except CxrEmbedError as error:
            problems.append(f"data.{name}: {str(error).replace(chr(10), chr(10) + '  ')}")
    if problems:
        return [], problems
    order = list(plan.data)
    return _with_findings(sorted(found, key=lambda data: order.index(data.name)), plan)


def _read(name: str, data: DataPlan, plan: Plan, folder: Path, out: Path, clock: Clock) -> BenchData:
    if data.manifest is not None:
        root = folder / data.root if data.root is not None else None
        table = read_manifest(folder / data.manifest, root=root, extra=data.extra)
    else:
        table = read_manifest(drawn_phantoms(name, data, out, clock) / "manifest.csv")
    said = table.companion.recipe if table.companion is not None else ""
    recipe = data.recipe or said or (PHANTOMS if data.manifest is None else "")
    # One order, whatever that of the file: draws of a curve that was kept must fit those of one that is made now.
    table = replace(table, table=table.table.sort_by("image_id"))
    counted_as = _counted_as(data.uncertain, data.blank or table.blank)
    table, split = _with_split(_settled(table, data), data, plan)
    return BenchData(
        name=name,
        recipe=recipe,
        table=table,
        train=data.train,
        test=data.test,
        split=split,
        counted=counted_as,
        plan=data,
    )


def _counted_as(uncertain: Uncertain, blank: Blank) -> str:
    kinds = (("Labels of -1", uncertain), ("Blank labels", blank))
    return " ".join(f"{which} count as {kind}." for which, kind in kinds if kind != "unknown")


def _settled(table: Manifest, data: DataPlan) -> Manifest:
    """The table with findings of 1, 0 and blank, so that nothing that reads it has to know what -1 counts as."""
    values = table.labels(data.uncertain, data.blank).values
    columns = table.table
    for number, name in enumerate(table.findings):
        cells = ["" if value != value else str(int(value)) for value in values[:, number].tolist()]
        columns = columns.set_column(columns.column_names.index(name), name, pa.array(cells, pa.string()))
    return Manifest(columns, table.root, table.findings)


def drawn_phantoms(name: str, data: DataPlan, out: Path, clock: Clock) -> Path:
    """The folder of the phantoms that a plan asks for; drawn where they are not there yet."""
    count = data.phantoms
    assert count is not None
    target = out / "phantoms" / f"{count}-{data.size}-{data.seed}-{data.format}"
    if not (target / "manifest.csv").is_file():
        work = drawing_work(count)
        step = f"{name}: drawing {counted(count, 'phantom')}"
        clock.at(step)
        write_phantoms(
            target, count, data.seed, data.format, data.size, lambda done: clock.at(step, work, done / count)
        )
        clock.finish(work)
    return target


def _with_split(table: Manifest, data: DataPlan, plan: Plan) -> tuple[Manifest, str]:
    """The table with a column `split`, and where that comes from.

    Raises:
        CxrEmbedError: where one of the two parts is not there.
    """
    splits = table.column("split")
    if not (splits != "").any():
        test = patients_for_test(table.column("patient_id"), plan.test_part, plan.seed)
        names = pa.array(np.where(test, data.test, data.train).tolist(), pa.string())
        columns = table.table.drop_columns(["split"]) if "split" in table.table.column_names else table.table
        words = f"by patient, {plan.test_part:.0%} for the test part, seed {plan.seed}"
        table, splits = replace(table, table=columns.append_column("split", names)), np.array(names.to_pylist())
    else:
        words = f"the manifest's own, {data.train} and {data.test}"
    known = sorted(set(splits.tolist()) - {""})
    missing = [part for part in (data.train, data.test) if part not in known]
    if missing:
        raise CxrEmbedError(
            f"no image is in the split {missing[0]!r}; the splits are: {', '.join(known)} (`train` and `test` of the "
            "plan's data set name two of them)"
        )
    rows = np.flatnonzero(np.isin(splits, [data.train, data.test]))
    return replace(table, table=table.table.take(pa.array(rows))), words


def _with_findings(found: Sequence[BenchData], plan: Plan) -> tuple[list[BenchData], list[str]]:
    """The data sets with the findings that are looked at alone."""
    chosen, problems = [], []
    for data in found:
        try:
            names = _names(data, plan)
        except CxrEmbedError as error:
            problems.append(f"data.{data.name}: {error}")
            continue
        chosen.append(_renamed(data, names))
    return chosen, problems or _nowhere(found, plan)


def _nowhere(found: Sequence[BenchData], plan: Plan) -> list[str]:
    """The plan's findings that no data set has: a slip of the pen, not what one data set lacks beside another."""
    shared = [data.table.findings for data in found if not data.plan.findings and data.table.findings]
    if not shared or not plan.findings or wants_common(plan.findings):
        return []
    matched = zip(*(match_names(plan.findings, known, "the plan") for known in shared), strict=True)
    here = list(dict.fromkeys(name for known in shared for name in known))
    return [
        f"findings: no data set has {name}; {near_name(name, here)}"
        for name, columns in zip(plan.findings, matched, strict=True)
        if not any(columns)
    ]


def _names(data: BenchData, plan: Plan) -> dict[str, str]:
    """The table's findings that are looked at, each with its name in the results.

    Raises:
        CasesError: for findings that are not there, of all that the plan names for all data sets.
    """
    known, own = data.table.findings, data.plan.findings
    wanted = own or plan.findings
    if not known or not wanted:
        return {name: name for name in known}
    if own or wants_common(wanted):
        columns = chosen_findings(wanted, known, "the manifest")
        return dict(zip(columns, shown_names(wanted, columns), strict=True))
    matched = match_names(wanted, known, "the plan")
    names = {column: name for name, column in zip(wanted, matched, strict=True) if column is not None}
    if not names:
        raise CasesError(f"none of the plan's `findings` is here; here are {', '.join(known)}")
    return names


def _renamed(data: BenchData, names: dict[str, str]) -> BenchData:
    table = data.table.table
    kept = [name for name in table.column_names if name not in data.table.findings or name in names]
    table = table.select(kept).rename_columns([names.get(name, name) for name in kept])
    return replace(data, table=replace(data.table, table=table, findings=tuple(names.values())))


def learnable(data: BenchData, parts: Sequence[str]) -> tuple[str, ...]:
    """The findings that have both kinds of labels in each of these parts."""
    values = data.table.labels().values
    sides = [values[data.part(part)] for part in parts]
    both = [np.all([(side == kind).any(axis=0) for side in sides for kind in (0, 1)], axis=0)] if len(values) else []
    return tuple(name for name, known in zip(data.table.findings, both[0] if both else (), strict=False) if known)


def write_labels(data: BenchData, path: Path) -> None:
    """Writes the labels as a table that `evaluate` reads, unless they are there."""
    table = data.labels.table.replace_schema_metadata(None)
    with contextlib.suppress(OSError, pa.ArrowException):
        if pa.parquet.read_table(path).replace_schema_metadata(None).equals(table):
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as partial:
        pa.parquet.write_table(table, partial)
