"""Cells: an encoder on a data set in a task. What was done stays, under the fingerprint of all that decides it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.benchmark.data import BenchData
from cxr_embed.benchmark.plan import Plan, Task
from cxr_embed.benchmark.results import Row
from cxr_embed.benchmark.vectors import BenchEncoder, folder_name
from cxr_embed.io.digests import digest_fits, file_sha256, json_digest, sha256_hex, with_digest
from cxr_embed.io.files import partial_of, sync
from cxr_embed.pipeline.worker import file_stamp
from cxr_embed.prompts import load_prompt_set
from cxr_embed.store import Store

PROTOCOL = 2  # rises when the same plan gives other results
CELL_JSON, SCORES, LABELS, CURVE, INDEX = "cell.json", "scores.parquet", "labels.parquet", "curve", "index"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """An encoder on a data set in a task.

    Attributes:
        encoder, data, task: which.
        plan: the whole one.
        store: the vectors; None for a task that needs none.
        scores: the model's own, for the task `scores`.
        out: the benchmark's folder.
    """

    encoder: BenchEncoder
    data: BenchData
    task: Task
    plan: Plan
    store: Store | None
    scores: Path | None
    out: Path

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that change when anything changes that decides the result."""
        settings = self.plan.tasks.settings(self.task)
        if self.task == "prompts":
            chosen = self.plan.tasks.prompts.of(self.data.name) if self.plan.tasks.prompts is not None else None
            settings["prompts"] = load_prompt_set(prompt_source(chosen or "", self.encoder.folder)).digest
        return json_digest(
            {
                "protocol": PROTOCOL,
                "task": [self.task, settings],
                "data": [self.data.digest, self.data.train, self.data.test, *self._columns()],
                "vectors": self._vectors(),
                "scores": file_sha256(self.scores) if self.scores is not None else "",
                "seed": self.plan.seed,
                "bootstraps": self.plan.bootstraps,
                "count_no_finding": self.plan.count_no_finding,
            }
        )

    def _columns(self) -> list[Any]:
        """What a task reads of the manifest beside the labels: columns of the user's own."""
        options, known = self.plan.tasks.shortcuts, self.data.labels.table.column_names
        if self.task != "shortcuts" or options is None:
            return []
        order = np.argsort(self.data.table.ids)
        own = [name for name in options.by if name not in known]
        return [[name, self.data.table.column(name)[order].tolist()] for name in own]

    def _pace(self) -> list[Any]:
        """What decides how fast an encoder is: the machine as well, what is on it and not how busy it is."""
        plan, options = self.encoder.plan, self.plan.tasks.speed
        assert options is not None
        first = itertools.islice(self.data.table.rows(), options.images)
        stamps = [file_stamp(f"{self.data.table.root}/{path}") for _, path, _ in first]
        files = [[stamp.size, stamp.mtime_ns] for stamp in stamps]
        return [self.encoder.request(), plan.batch_size, plan.workers, files, gpu_here(), os.cpu_count()]

    def _vectors(self) -> list[Any]:
        """Which vectors, and how they are used."""
        if self.store is None:
            return self._pace() if self.task == "speed" else []
        store, plan = self.store, self.encoder.plan
        rows = np.argsort(store.ids)
        rows = rows[np.isin(store.ids[rows], self.data.table.ids)]
        content = sha256_hex("\n".join([*store.ids[rows].tolist(), *store.content_ids[rows].tolist()]).encode())
        how = [plan.output, plan.pool] if self.task != "neighbours" else [plan.search_output]
        return [store.spec.fingerprint, store.header.dtype, store.header.precision, content, *how]

    @property
    def folder(self) -> Path:
        """Where its results are."""
        names = (folder_name(self.data.name), folder_name(self.encoder.name))
        return self.out.joinpath("cells", *names, f"{self.task}-{self.fingerprint[:12]}")


def prompt_source(name: str, folder: Path) -> str:
    """A prompt set's name, or the path of its file: relative to the plan."""
    return str(folder / name) if name.lower().endswith((".yaml", ".yml")) else name


def gpu_here() -> bool:
    """Whether a driver of a GPU is loaded; no framework is asked, which would take seconds."""
    return Path("/proc/driver/nvidia/version").exists()


def read_rows_of(folder: Path, fingerprint: str) -> list[Row] | None:
    """What is kept under a fingerprint; None where it was not done, or is damaged."""
    try:
        body = json.loads((folder / CELL_JSON).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(body, dict) or body.get("fingerprint") != fingerprint or not digest_fits(body):
        return None
    rows: list[Row] = body["rows"]
    return rows


def keep(folder: Path, fingerprint: str, work: Callable[[Path], list[Row]]) -> list[Row]:
    """Does the work in a folder aside, and keeps it whole by a rename.

    Args:
        folder: where it is kept; what is there is of the same fingerprint, and damaged.
        fingerprint: of the work.
        work: writes its files into the folder that it is given, and returns its rows.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with partial_of(folder, folder=True) as partial:
        rows = work(partial)
        body = with_digest({"fingerprint": fingerprint, "rows": rows})
        (partial / CELL_JSON).write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")
        for file in partial.rglob("*"):
            if file.is_file():
                sync(file)
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(partial, folder)
        sync(folder.parent)
    return rows
