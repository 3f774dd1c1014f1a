"""`cxr-embed forget`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_embed.cli.common import RESEARCH, fail, print_json
from cxr_embed.cli.options import AsJson
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.forget import Forgetting

EXAMPLE = "Example: `cxr-embed forget --patient 4711 --delete-rows vectors/ index/ scores.csv`"


def forget(
    paths: Annotated[
        list[Path], typer.Argument(help="Stores, indexes, heat maps, thumbnails, files, or folders of them.")
    ],
    patient: Annotated[
        list[str] | None, typer.Option(help="As the hospital has the id, or as the store has it (repeatable).")
    ] = None,
    image_id: Annotated[list[str] | None, typer.Option(help="A single image (repeatable).")] = None,
    key_file: Annotated[Path | None, typer.Option(help="Key of the patient ids, if not your own.")] = None,
    uri: Annotated[str | None, typer.Option(help="Of Milvus too: http://HOST:PORT, or a .db file.")] = None,
    collection: Annotated[str | None, typer.Option(help="Its collection.")] = None,
    delete_rows: Annotated[
        bool, typer.Option("--delete-rows", help="Drop the rows from CSV and Parquet files too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take a patient out of all stores, indexes and heat maps under some paths, for good: a withdrawn consent.

    Vectors, rows, cases, heat maps, overlays, thumbnails and readers' marks go; the same file stays out under any name,
    and so does the patient: `embed`, `import` and `index` honour lists of keyed hashes, in each store and index and
    beside the key. Probes that learned from the patient and other files that mention it are named. Radiographs and
    backups are yours to delete.

    Exit status 0: nothing under the paths knows of the patient any more. 1: something named does, or something could
    not be done; see to it and run the same again.
    """
    from cxr_embed.forget import forget as run

    if (uri is None) != (collection is None):
        fail("--uri and --collection belong together: where Milvus is, and what to take the patient out of", 2)
    result = run(
        paths,
        patients=patient or (),
        images=image_id or (),
        key_file=key_file,
        milvus=(uri, collection) if uri is not None and collection is not None else None,
        delete_rows=delete_rows,
        dry_run=dry_run,
    )
    if as_json:
        print_json(result.to_json())
    else:
        _print(result)
    if result.problems or (result.left and not dry_run):
        raise typer.Exit(1)


def _print(result: Forgetting) -> None:
    gone = "would go" if result.dry_run else "gone"
    places = (
        (result.stores, "images", "image"),
        (result.maps, "maps", "heat map"),
        (result.marks, "marks", "reader's mark"),
        (result.thumbnails, "thumbnails", "thumbnail"),
        (result.indexes, "cases", "case"),
    )
    for found, key, unit in places:
        for place in found:
            typer.echo(f"{place['path']}: {counted(place[key], unit, f'{unit}s')} {gone}")
    if result.milvus is not None:
        where = f"{result.milvus['uri']}, {result.milvus['collection']}"
        typer.echo(f"{where}: {counted(result.milvus['cases'], 'case')} {gone}")
    if result.copies:
        typer.echo(f"note: of these, {counted(result.copies, 'image')} of other patients by name: the same files")
    for probe in result.probes:
        learned = "learned" if probe["learned"] == "yes" else "may have learned"
        typer.echo(f"{probe['path']}: a probe that {learned} from the patient ({probe['why']}): train it again")
    for file in result.files:
        typer.echo(f"{file['path']}: {_mentions(file)}")
    for note in result.notes:
        typer.echo(f"note: {note}")
    for problem in result.problems:
        typer.echo(f"not done: {problem}", err=True)
    _print_end(result)
    typer.echo(RESEARCH)


def _mentions(file: Mapping[str, Any]) -> str:
    """What a file has of the patient, and what was deleted of it."""
    unit = {"table": "row", "name": "name"}.get(file["kind"], "mention")
    named = "named after the patient or an image"
    words = named if file["kind"] == "name" else counted(file["mentions"], unit)
    if file["deleted"]:
        left = f", {file['mentions'] - file['deleted']:,} left" if file["mentions"] > file["deleted"] else ""
        words = f"{counted(file['deleted'], 'row')} deleted{left}"
    return f"{words}; and {named}" if file["named"] and words != named else words


def _print_end(result: Forgetting) -> None:
    if result.dry_run:
        typer.echo("Nothing was done.")
    elif result.left:
        tables = any(file["kind"] == "table" and not file["deleted"] for file in result.files)
        remedy = " (--delete-rows takes rows out of tables)" if tables else ""
        typer.echo(
            f"{counted(len(result.left), 'place')} named above still know of the patient: delete or make anew{remedy}, "
            "and run the same again",
            err=True,
        )
    elif result.problems:
        typer.echo("see to what was not done, and run the same again", err=True)
    else:
        typer.echo("nothing else under these paths knows of the patient")
