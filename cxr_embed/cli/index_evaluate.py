"""`cxr-embed index evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_embed.cli.common import RESEARCH, fail, print_json
from cxr_embed.cli.options import AsJson, Bootstraps, CountNoFinding, Extra, Findings, Seed
from cxr_embed.cli.terminal import console
from cxr_embed.present.console import print_sentence, print_tables
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.retrieval import RetrievalReport

EXAMPLE = "Example: `cxr-embed index evaluate index/densenet index/hog --split-queries test --split-cases train`"


def evaluate(
    indexes: Annotated[
        list[Path], typer.Argument(help="Folders of indexes; the last is the floor of the others.", show_default=False)
    ],
    labels: Annotated[
        Path | None,
        typer.Option(help="Manifest, or a table of image_id and findings; by default what the first index has."),
    ] = None,
    extra: Extra = None,
    findings: Findings = None,
    k: Annotated[str, typer.Option("-k", help="Neighbours looked at, e.g. 5,10; the largest ones vote.")] = "5,10",
    split_queries: Annotated[str | None, typer.Option(help="Ask for images of this split only, e.g. test.")] = None,
    split_cases: Annotated[str | None, typer.Option(help="Search images of this split only, e.g. train.")] = None,
    count_no_finding: CountNoFinding = False,
    bootstraps: Bootstraps = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Say whether the nearest cases are of the same kind: against labels, chance, and another index.

    For a finding, every image that shows it asks for its nearest images of other patients: precision is the part of
    them that show it too, nDCG counts the nearer ones more, base is what blind draws would give. Recall of the same
    patient, the view of the neighbours, and their votes as a classifier come beside. Intervals hold 95% and are by
    patient.
    """
    from cxr_embed.api.index_evaluation import evaluate_index

    report = evaluate_index(
        indexes,
        labels,
        findings=findings,
        extra=extra or (),
        k=_numbers(k),
        split_queries=split_queries,
        split_cases=split_cases,
        count_no_finding=count_no_finding,
        bootstraps=bootstraps,
        seed=seed,
    )
    if as_json:
        about = {"labels": str(labels) if labels is not None else None}
        print_json(
            {**about, "split_queries": split_queries, "split_cases": split_cases, **report.to_json(), "note": RESEARCH}
        )
        return
    _show(report)


def _numbers(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and 1 <= int(word) <= 10_000 for word in words):
        fail(f"-k is one or several numbers of neighbours such as 5,10, not {text!r}", 2)
    return [int(word) for word in words]


def _show(report: RetrievalReport) -> None:
    from cxr_embed.retrieval.retrieval_tables import (
        apart,
        difference_table,
        finding_table,
        other_table,
        view_table,
        vote_table,
    )

    screen = console()
    for index in report.indexes:
        print_sentence(screen, index.name, f"{index.encoder}, neighbours of other patients")
        for place in range(len(report.ks) if index.findings else 0):
            print_tables(screen, [finding_table(index, place)])
        if index.findings:
            print_tables(screen, [vote_table(index, report.ks[-1])])
        if index.by_view and index.findings:
            print_tables(screen, [view_table(index, len(report.ks) - 1)])
        print_tables(screen, [other_table(index)])
    for difference in report.differences:
        print_sentence(screen, difference.name, f"minus {difference.floor}, on the same queries")
        if difference.precision:
            print_tables(screen, [difference_table(report, difference)])
        print_sentence(screen, f"same patient, recall@{report.ks[-1]}", apart(difference.same_patient[-1]))
    print_sentence(screen, "n", "images that show the finding and ask for their neighbours")
    print_sentence(
        screen, "base", "what neighbours drawn blindly would give (in view: drawn from that view); lift: P over base"
    )
    print_sentence(
        screen,
        "intervals",
        f"{counted(report.bootstraps, 'draw')} of the queries' patients, seed {report.seed}; "
        "what is searched stays as it is",
    )
    for note in report.notes:
        print_sentence(screen, "note", note)
    typer.echo(
        f"{counted(report.queries, 'query', 'queries')}, {counted(report.cases, 'searched image')}, "
        f"{counted(report.patients, 'patient')}"
    )
    typer.echo(RESEARCH)
