"""`cxr-embed search`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_embed.choices import Engine
from cxr_embed.cli.common import RESEARCH, fail, print_json, progress_bar
from cxr_embed.cli.index import check_engine
from cxr_embed.cli.terminal import console
from cxr_embed.present.console import Column, print_columns
from cxr_embed.present.numbers import format_value
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.api.search import SimilarCases
    from cxr_embed.index import Query, Rules
    from cxr_embed.reporting.montage import Likeness
    from cxr_embed.reporting.panels import Places

EXAMPLE = (
    "Example: `cxr-embed search index/hog --image new.dcm -k 5 --where 'view = PA and age > 60' --exclude-same-patient`"
)
Files = Annotated[list[Path] | None, typer.Option(help="A radiograph to find the like of (repeatable).")]
Cases = Annotated[list[str] | None, typer.Option(help="A case of the index (repeatable).")]
Texts = Annotated[list[str] | None, typer.Option(help="Words, where the encoder reads them (repeatable).")]
NotFiles = Annotated[list[Path] | None, typer.Option(help="A radiograph to stay away from (repeatable).")]
NotCases = Annotated[list[str] | None, typer.Option(help="A case to stay away from (repeatable).")]
NotTexts = Annotated[list[str] | None, typer.Option(help="Words to stay away from (repeatable).")]
Montage = Annotated[Path | None, typer.Option(help="Draw the query and the neighbours into a file: .png or .pdf.")]
ManifestPath = Annotated[
    Path | None, typer.Option(help="For --montage: where each case's radiograph is; an index keeps no paths.")
]
Root = Annotated[Path | None, typer.Option(help="For --montage: folder of the radiographs, if not the manifest's own.")]
_SHOWN = ("patient_id", "study_date", "view", "age", "sex")
_SPARED = ("sex", "age", "view", "study_date")  # columns that a narrow terminal does without, the first one first


def search(
    index: Annotated[Path, typer.Argument(help="The index's folder; with Milvus, the collection.", show_default=False)],
    image: Files = None,
    box: Annotated[
        str | None, typer.Option(help="The part of the one --image that is meant: x,y,width,height in its pixels.")
    ] = None,
    image_id: Cases = None,
    text: Texts = None,
    not_image: NotFiles = None,
    not_image_id: NotCases = None,
    not_text: NotTexts = None,
    k: Annotated[int, typer.Option("-k", help="Neighbours wanted.")] = 10,
    where: Annotated[
        str | None, typer.Option(help="Only cases that meet a condition: 'view = PA and age between 40 and 60'.")
    ] = None,
    before: Annotated[str | None, typer.Option(help="Only cases of an earlier study_date: 2020-01-01, or 365.")] = None,
    patient: Annotated[str | None, typer.Option(help="Whose the radiograph is, where the index cannot know.")] = None,
    exclude_same_patient: Annotated[
        bool, typer.Option("--exclude-same-patient", help="No case of the query's patient.")
    ] = False,
    only_same_patient: Annotated[
        bool, typer.Option("--only-same-patient", help="Only cases of the query's patient.")
    ] = False,
    one_per_patient: Annotated[
        bool, typer.Option("--one-per-patient", help="Only the nearest case of each patient.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the neighbours to a file: .csv or .parquet.")] = None,
    montage: Montage = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="For --montage: maps of what made the query and each case alike, on both."),
    ] = False,
    manifest: ManifestPath = None,
    root: Root = None,
    weights: Annotated[Path | None, typer.Option(help="Of the encoder, for --image, --text and --explain.")] = None,
    device: Annotated[str, typer.Option(help="For the encoder: auto, cpu or cuda.")] = "auto",
    engine: Annotated[Engine, typer.Option(help="milvus for what `index push` filled.")] = "faiss",
    uri: Annotated[
        str | None, typer.Option(help="Of Milvus: http://HOST:PORT, or a file of the embedded one (.db).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Find the cases that are most similar to a radiograph, a case or words.

    Filters are exact: the nearest cases that pass are found whenever there are so many. A value that is unknown meets
    no condition. Several examples are searched for at once, by their mean; `--not-...` points away from one. With
    `--montage found.png --manifest M --explain` heat maps show on both pictures what made the two alike.
    """
    from cxr_embed.api.search import open_index
    from cxr_embed.index import Rules
    from cxr_embed.index.answers import check_target, whole_ages

    if out is not None:
        check_target(out)
    if explain and montage is None:
        fail("--explain needs --montage: the picture that the maps are drawn into", 2)
    places = places_of(montage, manifest, root) if montage is not None else None
    check_engine(engine, uri)
    opened = open_index(index, uri=uri)
    rules = Rules(exclude_same_patient, only_same_patient, one_per_patient)
    answer = opened.search(
        image=image or (),
        box=box,
        image_id=image_id or (),
        text=text or (),
        not_image=not_image or (),
        not_image_id=not_image_id or (),
        not_text=not_text or (),
        k=k,
        where=where,
        before=before,
        patient=patient,
        **vars(rules),
        weights=weights,
        device=device,
    )
    if out is not None:
        answer.save(out)
    if montage is not None and places is not None:
        answer.draw(places, montage, _likeness(answer, places, weights, device) if explain else None)
    if as_json:
        query = _query_json(answer.query, k, where, before, rules, list(answer.notes))
        print_json({"query": query, "neighbors": list(map(whole_ages, answer.cases)), "note": RESEARCH})
        return
    _print_answer(answer, (out, montage))


def _likeness(answer: SimilarCases, places: Places, weights: Path | None, device: str) -> Likeness:
    from cxr_embed.api.alike import likeness_of

    with progress_bar() as bar:
        return likeness_of(answer, places, weights=weights, device=device, announce=_announce, progress=bar)


def _announce(line: str) -> None:
    typer.echo(line, err=True)


def _print_answer(answer: SimilarCases, files: Sequence[Path | None]) -> None:
    typer.echo(f"nearest to {answer.query.name}")
    notes = list(answer.notes)
    if left_out := print_cases(list(answer.cases)):
        notes.insert(0, f"{', '.join(left_out)}: no room here; --json and --out list them")
    for note in notes:
        typer.echo(f"note: {note}")
    for file in filter(None, files):
        typer.echo(f"{file}: {counted(len(answer), 'case')}")
    typer.echo(RESEARCH)


def places_of(montage: Path, manifest: Path | None, root: Path | None) -> Places:
    """Where the radiographs are, if the montage can be written."""
    from cxr_embed.api.places import places_of as find
    from cxr_embed.reporting.montage import check_montage

    check_montage(montage)
    if manifest is None:
        fail("--montage needs --manifest: the table that says where each case's radiograph is", 2)
    if root is not None and not root.is_dir():
        fail(f"{root}: no such folder (--root)", 2)
    return find(manifest, root)


def _query_json(
    query: Query, k: int, where: str | None, before: str | None, rules: Rules, notes: list[str]
) -> dict[str, Any]:
    options = {"where": where, "before": before, **vars(rules), "notes": notes}
    return {"name": query.name, "patients": list(query.patients), "k": k, **{n: v for n, v in options.items() if v}}


def print_cases(neighbors: list[dict[str, Any]], figure: str = "similarity") -> list[str]:
    """Prints the neighbours; returns the columns that have no room and are left out.

    `figure` names the number that they are ranked by.
    """
    about = {name: [format_value(case.get(name)) for case in neighbors] for name in _SHOWN}
    columns = [
        Column("image_id", [str(case["image_id"]) for case in neighbors], "id"),
        Column(figure, [f"{case[figure]:.4f}" for case in neighbors]),
        *(Column(name, values, "number" if name == "age" else "id") for name, values in about.items() if any(values)),
    ]
    findings = _findings(neighbors)
    if any(findings):
        columns.append(Column("findings", findings, "words"))
    return print_columns(console(), columns, _SPARED)


def _findings(neighbors: list[dict[str, Any]]) -> list[str]:
    """The findings that each case is known to show, and what its picture looks like where that is odd."""
    from cxr_embed.index.answers import shown_findings

    return [", ".join(shown_findings(case) + ([case["looks"]] if case.get("looks") else [])) for case in neighbors]
