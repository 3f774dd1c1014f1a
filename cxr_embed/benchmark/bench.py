"""`cxr_embed.bench`: a plan in, results and a leaderboard out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.parquet

from cxr_embed.api.inputs import Progress, StrPath, progress_or_bar
from cxr_embed.api.tabular import Tabular
from cxr_embed.arguments import checked_arguments
from cxr_embed.benchmark.cells import PROTOCOL
from cxr_embed.benchmark.checks import Bench, prepare
from cxr_embed.benchmark.plan import PlanError, read_plan
from cxr_embed.benchmark.progress import Clock
from cxr_embed.benchmark.results import DONE, FAILED, MEAN, as_table
from cxr_embed.benchmark.run import Run
from cxr_embed.encoders import encoder_card
from cxr_embed.encoders.registry import is_own
from cxr_embed.io.files import written_aside
from cxr_embed.io.times import utc_now
from cxr_embed.present.numbers import PLAIN
from cxr_embed.reporting.leaderboard import write_leaderboard
from cxr_embed.version import __version__

RESULTS, LOCK = "results.parquet", "bench.lock"
_ABOUT = b"cxr_embed.benchmark"


@dataclass(frozen=True, repr=False)
class BenchResult(Tabular):
    """What a benchmark found.

    Attributes:
        out: its folder: `results.parquet`, the leaderboard, and all that they were made of.
        table: a row for each data set, encoder, task, finding and figure; see docs/bench.md for its columns.
        about: the plan, the encoders and the data sets, as plain JSON values.
        failures: why cells have no result, a sentence each.
        files: the leaderboard's.
    """

    out: Path
    table: pa.Table
    about: Mapping[str, Any]
    failures: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def to_arrow(self) -> pa.Table:
        """The results."""
        return self.table

    def __repr__(self) -> str:
        lines = []
        for row in self.table.to_pylist():
            if row["finding"] == MEAN and row["figure"] == "auroc" and row["status"] == DONE:
                size = f", {row['shots']} shots" if row["shots"] is not None else ""
                value = PLAIN.figure(row["value"], row["low"], row["high"])
                lines.append(f"{row['data']}, {row['encoder']}: {row['task']}{size}: mean AUROC {value}")
        return self._as_text(lines)

    def _remarks(self) -> Sequence[str]:
        return (*self.failures, *self.about["notes"])


@checked_arguments
def bench(plan: StrPath | Mapping[str, Any], *, out: StrPath, progress: Progress | None = None) -> BenchResult:
    """Compares encoders on data sets in several tasks under one protocol, and writes a leaderboard.

    Splits are by patient; whatever is chosen is chosen off the test part; all encoders are tested on the same images;
    intervals are by patient; every encoder is compared with the reference, with Holm's correction over all comparisons
    of a data set and task. What was done under the same conditions before is not done again, so a run that was killed
    goes on where it was.

    Args:
        plan: a YAML file (docs/bench.md), or the same as a dict; paths in it are relative to the file's folder.
        out: a folder for everything: made where it is missing, gone on with where it is there.
        progress: called with a word for the step, what is done and how much there is; a bar in notebooks by default.

    Raises:
        PlanError: for whatever is wrong with the plan or what it names, all at once and before anything is embedded;
            where another run is at work in the folder, or it cannot be written.
    """
    if isinstance(plan, Mapping):
        read, folder, source = read_plan(plan)
    else:
        read, folder, source = read_plan(Path(plan))
    target = Path(os.path.abspath(out))
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()) and not (target / LOCK).exists():
            raise PlanError(f"{out}: holds something else; give a new folder as `out`, or one of an earlier benchmark")
        lock = filelock.FileLock(target / LOCK, timeout=0)
        with lock:
            clock = Clock(show=progress_or_bar(progress))
            return _followed(prepare(read, folder, target, source, clock), source, clock)
    except filelock.Timeout:
        raise PlanError(f"{out}: another run is at work in this folder; wait for it, or give another `out`") from None
    except OSError as error:
        raise PlanError(f"{error.filename or out}: cannot be written ({error.strerror}); give another `out`") from None


def _followed(checked: Bench, source: str, clock: Clock) -> BenchResult:
    run = Run(bench=checked, clock=clock)
    rows = run.follow()
    table, about = as_table(rows), _about(checked, run, source)
    stamped = table.replace_schema_metadata({_ABOUT: json.dumps(about, ensure_ascii=False).encode()})
    with written_aside(checked.out / RESULTS) as partial:
        pa.parquet.write_table(stamped, partial)
    files = write_leaderboard(table, about, checked.out)
    failed = {
        f"{row['data']}, {row['encoder']}: {row['task']} failed: {row['reason']}"
        for row in rows
        if row["status"] == FAILED
    }
    return BenchResult(checked.out, table, about, tuple(sorted(failed)), files)


def _about(checked: Bench, run: Run, source: str) -> dict[str, Any]:
    """What a leaderboard says of its plan."""
    plan = checked.plan
    return {
        "title": plan.title,
        "plan": Path(source).name,
        "created": utc_now(),
        "software": __version__,
        "protocol": PROTOCOL,
        "reference": plan.compared_with,
        "seed": plan.seed,
        "bootstraps": plan.bootstraps,
        "count_no_finding": plan.count_no_finding,
        "tasks": {task: plan.tasks.settings(task) for task in plan.tasks.names},
        "data": {name: data.describe() for name, data in run.data.items()},
        "encoders": {name: _about_encoder(checked, name) for name in checked.encoders},
        "notes": run.notes,
    }


def _about_encoder(checked: Bench, name: str) -> dict[str, Any]:
    encoder, spec = checked.encoders[name], checked.specs.get(name)
    card = encoder_card(encoder.encoder) if encoder.encoder and not is_own(encoder.encoder) else None
    return {
        "encoder": encoder.encoder,
        "fingerprint": spec.fingerprint if spec is not None else "",
        "weights": spec.weights_source if spec is not None else "",
        "pool": encoder.plan.pool,
        "licence": card.licence if card is not None else "",
        "trained_on": card.trained_on if card is not None and not (spec is not None and spec.untrained) else "",
        "saw": [vars(seen) for seen in card.saw] if card is not None else [],
        "stand_in": checked.stand_in(name),
        "absent": encoder.absent,
    }
