"""A plan followed: vectors, cells, comparisons, reports, results; what was done before is not done again."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from cxr_embed.api.report import report
from cxr_embed.benchmark.cells import CURVE, PROTOCOL, SCORES, Cell, keep, read_rows_of
from cxr_embed.benchmark.checks import Bench, needs_vectors
from cxr_embed.benchmark.comparisons import differences
from cxr_embed.benchmark.data import BenchData, write_labels
from cxr_embed.benchmark.plan import Task
from cxr_embed.benchmark.progress import COMPARISON, REPORT, Clock, cell_work, embedding_work
from cxr_embed.benchmark.results import (
    DONE,
    FAILED,
    MEAN,
    NOT_APPLICABLE,
    Row,
    corrected,
    with_differences,
)
from cxr_embed.benchmark.tasks import RUN
from cxr_embed.benchmark.vectors import BenchEncoder, Stores, folder_name, reason_of
from cxr_embed.errors import CxrEmbedError
from cxr_embed.io.digests import json_digest
from cxr_embed.pipeline.summary import EmbedSummary
from cxr_embed.probe.curve_summary import CURVE_JSON
from cxr_embed.store import Store
from cxr_embed.types import counted

PAGE = "report.html"
_REPORTED_TASKS: tuple[Task, ...] = ("probe", "scores", "prompts")
Place = tuple[str, str, Task]


@dataclass(kw_only=True)
class Run:
    """One run of a plan.

    Attributes:
        bench: the plan, looked at.
        clock: what is said of its progress.
        data: the data sets with the images that every encoder has a vector of.
        failures: data set, encoder and task to why there is no result.
        rows: of each cell that is done.
        cells: these.
        reports: data set and encoder to the page, relative to the benchmark's folder.
        notes: what was left out, in sentences.
    """

    bench: Bench
    clock: Clock
    data: dict[str, BenchData] = field(default_factory=dict)
    failures: dict[Place, str] = field(default_factory=dict)
    rows: dict[Place, list[Row]] = field(default_factory=dict)
    cells: dict[Place, Cell] = field(default_factory=dict)
    reports: dict[tuple[str, str], str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @cached_property
    def places(self) -> list[Place]:
        """All cells that can be, a data set and an encoder at a time."""
        bench = self.bench
        return [
            (data, encoder, task)
            for data in bench.data
            for encoder in bench.encoders
            for task in bench.tasks(data, encoder)
            if (data, encoder, task) not in bench.impossible
        ]

    @property
    def compared(self) -> list[Place]:
        """The cells that are compared with the reference's."""
        reference = self.bench.plan.compared_with
        known = set(self.places)
        return [place for place in self.places if place[1] != reference and (place[0], reference, place[2]) in known]

    @property
    def pages(self) -> list[tuple[str, str]]:
        """The data sets and encoders that get a report."""
        scored = [place[:2] for place in self.places if place[2] in _REPORTED_TASKS]
        return list(dict.fromkeys(scored)) if self.bench.plan.reports else []

    def follow(self) -> list[Row]:
        """Does everything that is not done yet; the rows of the results."""
        self._embed()
        self._measure()
        self._compare()
        self._report()
        return self._results()

    def _embed(self) -> None:
        """Vectors of every encoder on every data set; then the images that all of them have."""
        stores, wanted = Stores(self.bench.out), list[tuple[BenchEncoder, BenchData]]()
        for name, data in self.bench.data.items():
            self.clock.at(f"{name}: looking for what is done")
            for encoder in self.bench.encoders.values():
                tasks = [task for d, e, task in self.places if (d, e) == (name, encoder.name)]
                if needs_vectors(encoder, name, tasks):
                    wanted.append((encoder, data))
        left = [pair for pair in wanted if not stores.is_complete(pair[0], pair[1].name, pair[1].table)]
        cells = sum(cell_work(task) for _, _, task in self.places) + COMPARISON * len(self.compared)
        cells += REPORT * len(self.pages)
        self.clock.expect(cells + sum(embedding_work(encoder, len(data.table)) for encoder, data in left))
        for encoder, data in left:
            self._embed_one(stores, encoder, data)
        for name, data in self.bench.data.items():
            self.data[name] = self._shared(data, [e for e, d in wanted if d.name == name], stores)

    def _embed_one(self, stores: Stores, encoder: BenchEncoder, data: BenchData) -> None:
        work = embedding_work(encoder, len(data.table))
        step = f"{data.name}, {encoder.name}: embedding"

        def show(summary: EmbedSummary) -> None:
            self.clock.at(step, work, summary.done / max(1, summary.images))

        self.clock.at(step)
        try:
            summary = stores.embed(encoder, data.name, data.table, show)
        except Exception as error:  # whatever it is, the other encoders go on
            self._fail(data.name, encoder, f"embedding: {reason_of(error)}")
        else:
            if summary.failed:
                first = summary.failed[0]
                self.notes.append(
                    f"{data.name}, {encoder.name}: {counted(len(summary.failed), 'image')} could not be embedded "
                    f"({first.image_id}: {first.reason})"
                )
        self.clock.finish(work)

    def _fail(self, data: str, encoder: BenchEncoder, why: str) -> None:
        for place in self.places:
            if place[:2] == (data, encoder.name) and needs_vectors(encoder, data, [place[2]]):
                self.failures[place] = why

    def _shared(self, data: BenchData, encoders: list[BenchEncoder], stores: Stores) -> BenchData:
        """The data set with the images that every encoder has: all are tested on the same ones."""
        ids, contents = data.table.ids, dict[str, bytes]()
        for encoder in encoders:
            if any(where[:2] == (data.name, encoder.name) for where in self.failures):
                continue  # it has none at all
            try:
                store = stores.open(encoder, data.name)
                ids = ids[np.isin(ids, store.ids)]
                contents = dict(zip(store.ids.tolist(), store.index.files(), strict=True))
            except CxrEmbedError as error:
                self._fail(data.name, encoder, reason_of(error))
        lost = len(data.table) - len(ids)
        if lost:
            self.notes.append(
                f"{data.name}: {counted(lost, 'image is', 'images are')} left out: not every encoder has a vector there"
            )
        kept = data.keep(ids)
        self.notes += _same_files(kept, contents)
        write_labels(kept, self.bench.out / "data" / folder_name(data.name) / "labels.parquet")
        return kept

    def _cell(self, place: Place, opened: dict[tuple[str, str], Store]) -> Cell:
        data, name, task = place
        encoder, store = self.bench.encoders[name], None
        if needs_vectors(encoder, data, [task]):
            if (data, name) not in opened:
                opened[data, name] = Stores(self.bench.out).open(encoder, data)
            store = opened[data, name]
        own = encoder.plan.scores.get(data) if task == "scores" else None
        file = encoder.folder / own if own is not None else None
        return Cell(
            encoder=encoder,
            data=self.data[data],
            task=task,
            plan=self.bench.plan,
            store=store,
            scores=file,
            out=self.bench.out,
        )

    def _measure(self) -> None:
        """The figures of every cell."""
        opened: dict[tuple[str, str], Store] = {}
        for place in self.places:
            data, name, task = place
            if place not in self.failures:
                self.clock.at(f"{data}, {name}: {task}")
                try:
                    cell = self._cell(place, opened)
                    self.rows[place] = self._kept(cell.folder, cell.fingerprint, _work_of(cell))
                    self.cells[place] = cell
                    self.notes += _unscored(cell, self.rows[place])
                except Exception as error:  # whatever it is, the other cells go on
                    self.failures[place] = reason_of(error)
            self.clock.finish(cell_work(task))

    def _kept(self, folder: Path, fingerprint: str, work: Callable[[Path], list[Row]]) -> list[Row]:
        found = read_rows_of(folder, fingerprint)
        return found if found is not None else keep(folder, fingerprint, work)

    def _compare(self) -> None:
        """Every cell beside the reference's."""
        reference = self.bench.plan.compared_with
        for place in self.compared:
            data, name, task = place
            cell, other = self.cells.get(place), self.cells.get((data, reference, task))
            if cell is not None and other is not None:
                self.clock.at(f"{data}, {name}: {task} beside {reference}")
                self._beside(place, cell, other)
            self.clock.finish(COMPARISON)

    def _beside(self, place: Place, cell: Cell, other: Cell) -> None:
        data, name, task = place
        fingerprint = json_digest([PROTOCOL, "comparison", cell.fingerprint, other.fingerprint])
        folder = cell.folder.parent / f"{task}-beside-{fingerprint[:12]}"
        try:
            found = self._kept(folder, fingerprint, _comparison_of(cell, other))
            self.rows[place] = with_differences(self.rows[place], found)
        except Exception as error:
            self.notes.append(f"{data}, {name}: {task} could not be compared: {reason_of(error)}")
        self.rows[place] = [{**row, "reference": other.encoder.name} for row in self.rows[place]]

    def _report(self) -> None:
        """A page for each encoder on each data set that has scores."""
        for data, name in self.pages:
            chosen = [(data, name, task) for task in _REPORTED_TASKS if (data, name, task) in self.cells]
            if chosen:
                self.clock.at(f"{data}, {name}: report")
                try:
                    self.reports[data, name] = self._page(data, name, [self.cells[place] for place in chosen])
                except Exception as error:
                    self.notes.append(f"{data}, {name}: no report: {reason_of(error)}")
            self.clock.finish(REPORT)

    def _page(self, data: str, name: str, cells: list[Cell]) -> str:
        curve = self.cells.get((data, name, "curve"))
        parts = [*cells, *([curve] if curve is not None else [])]
        fingerprint = json_digest([PROTOCOL, "report", [cell.fingerprint for cell in parts]])
        folder = self.bench.out / "reports" / folder_name(data) / f"{folder_name(name)}-{fingerprint[:12]}"
        self._kept(folder, fingerprint, _report_of(name, cells, curve))
        return str((folder / PAGE).relative_to(self.bench.out))

    def _results(self) -> list[Row]:
        """A row a figure, and one for each cell without any."""
        bench, rows = self.bench, list[Row]()
        for data, task, name in itertools.product(bench.data, bench.plan.tasks.names, bench.encoders):
            if task in bench.tasks(data, name):
                known = {"data": data, "encoder": name, "task": task}
                marks = {"saw_data": bench.saw(data, name), "stand_in": bench.stand_in(name)}
                rows += [{**row, **known, **marks} for row in self._of_place((data, name, task))]
        return corrected(rows)

    def _of_place(self, place: Place) -> list[Row]:
        if place in self.bench.impossible:
            return [{"status": NOT_APPLICABLE, "reason": self.bench.impossible[place], **_BLANK}]
        if place not in self.rows:
            return [{"status": FAILED, "reason": self.failures.get(place, ""), **_BLANK}]
        data, name, task = place
        page = self.reports.get((data, name), "") if task in (*_REPORTED_TASKS, "curve") else ""
        more = {"report": page, "fingerprint": self.cells[place].fingerprint, "status": DONE}
        return [{**more, **row} for row in self.rows[place]]


_BLANK = {"finding": "", "figure": "", "shots": None}


def _same_files(data: BenchData, contents: Mapping[str, bytes]) -> list[str]:
    """Test images that are the same file as a training image, under another id."""
    ids = data.table.ids
    learned = {contents.get(name, name) for name in ids[data.part(data.train)].tolist()}
    same = [name for name in ids[data.part(data.test)].tolist() if contents.get(name, name) in learned]
    if not same:
        return []
    are = counted(len(same), "test image is", "test images are")
    return [f"{data.name}: {are} the same file as a training image, under another id: {same[0]}"]


def _unscored(cell: Cell, rows: list[Row]) -> list[str]:
    """Scores of a part of the test images alone: their figures are of another test than those beside them."""
    tested = int(cell.data.part(cell.data.test).sum())
    scored = next((row["n"] for row in rows if cell.task == "scores" and row["finding"] == MEAN), None)
    if scored is None or scored == tested:
        return []
    return [
        f"{cell.data.name}, {cell.encoder.name}: the scores are of {scored:,} of {tested:,} test images: these figures "
        "do not compare with others', differences are on the images of both"
    ]


def _work_of(cell: Cell) -> Callable[[Path], list[Row]]:
    return lambda folder: RUN[cell.task](cell, folder)


def _comparison_of(cell: Cell, reference: Cell) -> Callable[[Path], list[Row]]:
    return lambda _: differences(cell, reference)


def _report_of(name: str, cells: list[Cell], curve: Cell | None) -> Callable[[Path], list[Row]]:
    """What writes a page on the scores of an encoder; they lie beside it, by their tasks' names."""

    def work(folder: Path) -> list[Row]:
        files = []
        for cell in cells:
            files.append(folder / f"{cell.task}.parquet")
            shutil.copyfile(cell.folder / SCORES, files[-1])
        data, plan = cells[0].data, cells[0].plan
        report(
            files[0],
            data.labels,
            out=folder / PAGE,
            against=files[1:],
            curve=curve.folder / CURVE / CURVE_JSON if curve is not None else None,
            split=data.test,
            count_no_finding=plan.count_no_finding,
            bootstraps=plan.bootstraps,
            seed=plan.seed,
            title=f"{name} on {data.name}",
            progress=lambda *_: None,
        )
        return []

    return work
