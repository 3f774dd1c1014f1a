"""What is done in a cell: vectors or scores and labels to figures; everything is chosen off the test part."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cxr_embed.api.curve import few_label_curve
from cxr_embed.api.evaluate import evaluate
from cxr_embed.api.index_evaluation import evaluate_index
from cxr_embed.api.own_scores import scores as own_scores
from cxr_embed.api.probe import train_probe
from cxr_embed.api.scores import ScoreFrame
from cxr_embed.api.screen import screen
from cxr_embed.api.search import build_index
from cxr_embed.benchmark.cells import CURVE, INDEX, LABELS, SCORES, Cell, gpu_here, prompt_source
from cxr_embed.benchmark.data import BenchData, learnable, write_labels
from cxr_embed.benchmark.plan import Task
from cxr_embed.benchmark.results import MEAN, NOT_APPLICABLE, Row, figure_row
from cxr_embed.benchmark.shortcuts import attribute_labels
from cxr_embed.cases import match_names
from cxr_embed.evaluation import read_scores
from cxr_embed.metrics import Estimate
from cxr_embed.pipeline.embedding import embed
from cxr_embed.pipeline.summary import EmbedSummary
from cxr_embed.prompts import load_prompt_set
from cxr_embed.store import Store
from cxr_embed.zeroshot import Scores

_FIGURES = ("auroc", "average_precision")


def run_probe(cell: Cell, folder: Path) -> list[Row]:
    """A probe of all labels of the training part; `C` by cross-validation over its patients."""
    return _probed(cell, folder, cell.data, learnable(cell.data, (cell.data.train,)))


def run_shortcuts(cell: Cell, folder: Path) -> list[Row]:
    """The same of what is not a finding: sex, age, view, site."""
    options = cell.plan.tasks.shortcuts
    assert options is not None
    labels, _ = attribute_labels(cell.data, options.by, options.fewest)
    write_labels(labels, folder / LABELS)
    return _probed(cell, folder, labels, labels.table.findings)


def _probed(cell: Cell, folder: Path, data: BenchData, findings: tuple[str, ...]) -> list[Row]:
    options, store = cell.plan.tasks.probe, _store(cell)
    how: dict[str, Any] = options.model_dump() if options is not None and cell.task == "probe" else {}
    probe = train_probe(
        store,
        data.labels,
        split=data.train,
        findings=findings,
        output=cell.encoder.plan.output,
        pool=cell.encoder.plan.pool,
        seed=cell.plan.seed,
        **how,
    )
    probe.predict(store, data.labels, split=data.test).save(folder / SCORES)
    return evaluated(cell, folder / SCORES, data, probe.trained.output)


def run_prompts(cell: Cell, folder: Path) -> list[Row]:
    """Prompts: the scores of the test part against the set's words; no label is looked at."""
    options, store, data = cell.plan.tasks.prompts, _store(cell), cell.data
    assert options is not None
    prompts = load_prompt_set(prompt_source(options.of(data.name) or "", cell.encoder.folder))
    names = [finding.name for finding in prompts.findings]
    matched = match_names(names, data.table.findings, "prompts")
    text = cell.encoder.plan.text_weights
    made = screen(
        store,
        prompts,
        findings=[name for name, column in zip(names, matched, strict=True) if column is not None],
        labels=data.labels,
        split=data.test,
        score=options.score,
        ensemble=options.ensemble,
        cut_prompts=options.cut_prompts,
        weights=cell.encoder.folder / text if text is not None else cell.encoder.weights,
        device=cell.encoder.plan.device,
        bootstraps=0,
        seed=cell.plan.seed,
        progress=lambda *_: None,
    )
    tested = np.isin(made.ids, data.table.ids[data.part(data.test)])
    kept = replace(made.scores, ids=made.ids[tested], values=made.values[tested])
    replace(made, scores=kept).save(folder / SCORES)
    rule = store.spec.text
    return evaluated(cell, folder / SCORES, data, rule.output if rule is not None else "")


def run_scores(cell: Cell, folder: Path) -> list[Row]:
    """A model's own scores, as they are: of a file, or those that its store holds."""
    data = cell.data
    given = read_scores(cell.scores if cell.scores is not None else own_scores(_store(cell)))
    columns = match_names(given.names, data.table.findings, "scores")
    names = tuple(name for name, column in zip(given.names, columns, strict=True) if column is not None)
    rows = np.flatnonzero(np.isin(given.ids, data.table.ids[data.part(data.test)]))
    values = given.values(names)[rows] if names else np.empty((len(rows), 0))
    learned = given.learned[rows] if given.learned is not None else None
    kept = Scores(
        ids=given.ids[rows],
        names=names,
        values=values,
        kind="probability",
        learned_from=learned,
        stand_in=given.stand_in,
    )
    source = cell.scores.name if cell.scores is not None else _store(cell).spec.name
    ScoreFrame(kept, {"source": source}).save(folder / SCORES)
    return evaluated(cell, folder / SCORES, data, "")


def evaluated(cell: Cell, scores: Path, data: BenchData, output: str) -> list[Row]:
    """The figures of a score file, as `cxr-embed evaluate` has them."""
    found = evaluate(
        scores,
        data.labels,
        split=data.test,
        count_no_finding=cell.plan.count_no_finding,
        bootstraps=cell.plan.bootstraps,
        seed=cell.plan.seed,
    )
    rows = []
    for finding in found.findings:
        counts = {"n": finding.n, "positives": finding.positives, "patients": finding.patients}
        rows += [
            figure_row(finding.label, name, finding.figures[name], output=output, **counts)
            for name in _FIGURES
            if name in finding.figures
        ]
    mean = figure_row(MEAN, "auroc", found.mean_auroc, n=found.images, patients=found.patients, output=output)
    return [*rows, mean]


def run_curve(cell: Cell, folder: Path) -> list[Row]:
    """A few-label curve; the test part is that of all other tasks."""
    options, data, store = cell.plan.tasks.curve, cell.data, _store(cell)
    assert options is not None
    made = few_label_curve(
        store,
        data.labels,
        shots=options.shots,
        seeds=options.seeds,
        train=data.train,
        test=data.test,
        findings=learnable(data, (data.train, data.test)),
        output=cell.encoder.plan.output,
        pool=cell.encoder.plan.pool,
        count_no_finding=cell.plan.count_no_finding,
    )
    made.save(folder / CURVE)
    test, rows = made.curve.test, []
    for row in made.to_json()["summary"]:
        counts: dict[str, Any] = {"n": len(test), "patients": len(np.unique(test.patients))}
        if row["finding"] is not None:
            column = test.labels[:, test.names.index(row["finding"])]
            known = ~np.isnan(column)
            counts = {"n": int(known.sum()), "positives": int((column == 1).sum())}
            counts["patients"] = len(np.unique(test.patients[known]))
        estimate = Estimate(row["mean"], row["ci_low"], row["ci_high"], row["undefined"] or "")
        shots = row["shots"] if row["shots"] != "all" else None
        output = made.about["encoders"][0]["output"]
        rows.append(figure_row(row["finding"] or MEAN, "auroc", estimate, shots=shots, output=output, **counts))
    return rows


def run_neighbours(cell: Cell, folder: Path) -> list[Row]:
    """The nearest training images of each test image: are they of the same kind?"""
    options, data, store = cell.plan.tasks.neighbours, cell.data, _store(cell)
    assert options is not None
    output = cell.encoder.plan.search_output or store.spec.search_output
    build_index(store, data.labels, path=folder / INDEX, output=output, progress=lambda *_: None)
    made = evaluate_index(folder / INDEX, data.labels, **index_options(cell))
    index, rows = made.indexes[0], []
    for finding in index.findings:
        counts = {"n": finding.voters, "positives": finding.voter_positives}
        rows.append(figure_row(finding.name, "auroc", finding.vote, output=output, **counts))
    rows.append(figure_row(MEAN, "auroc", index.mean_vote, n=made.queries, output=output))
    for name, figures in [*((f.name, f.figures) for f in index.findings), (MEAN, index.mean)]:
        counts = {"n": figures.queries, "positives": figures.queries, "patients": figures.patients}
        for word, values in (("precision", figures.precision), ("ndcg", figures.ndcg)):
            rows += [figure_row(name, f"{word}@{at.k}", at.figure, output=output, **counts) for at in values]
        chances = [(at.k, at.chance) for at in figures.precision if at.chance is not None]
        rows += [figure_row(name, f"chance@{k}", Estimate(value), output=output, **counts) for k, value in chances]
    return rows


def index_options(cell: Cell) -> dict[str, Any]:
    """How neighbours are evaluated: test images look among training images."""
    options, data = cell.plan.tasks.neighbours, cell.data
    assert options is not None
    return {
        "findings": learnable(data, (data.train, data.test)),
        "k": options.k,
        "split_queries": data.test,
        "split_cases": data.train,
        "count_no_finding": cell.plan.count_no_finding,
        "bootstraps": cell.plan.bootstraps,
        "seed": cell.plan.seed,
    }


def run_speed(cell: Cell, folder: Path) -> list[Row]:
    """Images a second of the whole way from files to vectors, its start left out."""
    del folder
    options, rows = cell.plan.tasks.speed, []
    assert options is not None
    for device in options.device:
        if device == "cuda" and not gpu_here():
            absent = figure_row("", "images_per_second", Estimate(None, reason="no GPU here"), output=device)
            rows.append({**absent, "status": NOT_APPLICABLE})
            continue
        with TemporaryDirectory(prefix="cxr-embed-bench-") as aside:
            rows.append(_timed(cell, device, options.images, Path(aside) / "store"))
    return rows


def _timed(cell: Cell, device: str, images: int, store: Path) -> Row:
    plan, ready, done = cell.encoder.plan, list[float](), list[tuple[float, int]]()

    def note(summary: EmbedSummary) -> None:
        if summary.engine and not ready:
            ready.append(time.perf_counter())
        if summary.embedded and (not done or summary.embedded > done[-1][1]):
            done.append((time.perf_counter(), summary.embedded))

    summary = embed(
        cell.data.table,
        cell.encoder.encoder,
        store,
        weights=cell.encoder.weights,
        device=device,
        precision=plan.precision,
        outputs=plan.outputs,
        pixels=plan.pixels,
        prepare=plan.prepare,
        batch_size=plan.batch_size,
        workers=plan.workers,
        limit=images,
        progress=note,
    )
    if summary.interrupted:
        raise KeyboardInterrupt
    output = f"{device}: {summary.engine}, batches of {summary.batch_size}" if summary.engine else device
    return figure_row("", "images_per_second", images_a_second(ready, done), n=summary.embedded, output=output)


def images_a_second(ready: Sequence[float], done: Sequence[tuple[float, int]]) -> Estimate:
    """How fast images were embedded from the moment on that the model was loaded.

    Args:
        ready: when that was, in seconds; nothing where nobody saw it.
        done: seconds and how many images were done by then, rising.
    """
    if not done:
        return Estimate(None, reason="none of these images was embedded")
    # Who says that a model is loaded with its first vectors did these before anybody looked at the clock.
    start, before = (ready[0], 0) if ready and ready[0] < done[0][0] else done[0]
    passed, images = done[-1][0] - start, done[-1][1] - before
    if passed <= 0 or not images:
        return Estimate(None, reason="these images are done at once; take more (`images`)")
    return Estimate(images / passed)


def _store(cell: Cell) -> Store:
    assert cell.store is not None
    return cell.store


RUN: Mapping[Task, Callable[[Cell, Path], list[Row]]] = {
    "probe": run_probe,
    "curve": run_curve,
    "prompts": run_prompts,
    "neighbours": run_neighbours,
    "shortcuts": run_shortcuts,
    "scores": run_scores,
    "speed": run_speed,
}
SCORED: tuple[Task, ...] = ("probe", "prompts", "shortcuts", "scores")
OF_VECTORS: tuple[Task, ...] = ("probe", "curve", "prompts", "neighbours", "shortcuts")
