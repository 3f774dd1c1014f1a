"""`cxr-embed manifest scan`: a folder to a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_embed.cli.common import print_json, progress_bar
from cxr_embed.cli.options import AsJson
from cxr_embed.types import counted, is_lateral

if TYPE_CHECKING:
    from cxr_embed.datasets import Recipe, ScanResult

EXAMPLE = "Example: `cxr-embed manifest scan /data/NIH --recipe nih-chestxray14 --out nih.csv`"


def scan(
    folder: Annotated[Path, typer.Argument(help="The data set's folder.")],
    out: Annotated[
        Path | None, typer.Option(help="CSV or Parquet to write; nothing is written without it.", show_default=False)
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="A data set's layout, or a .yaml file of your own; guessed where none is named."),
    ] = None,
    patient_pattern: Annotated[
        str | None, typer.Option(help="Regular expression on the path; its group is the patient's id.")
    ] = None,
    keep_patient_id: Annotated[
        bool, typer.Option("--keep-patient-id", help="Hash nothing: patient ids, and image ids as the paths have them.")
    ] = False,
    key_file: Annotated[Path | None, typer.Option(help="Key of the hash; one is made for you by default.")] = None,
    labelled_by: Annotated[
        str | None,
        typer.Option(help="Which of the recipe's labels; `manifest recipes` names them.", show_default="first"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a manifest from a folder of radiographs.

    DICOM headers fill view, age, sex and date. A keyed hash replaces patient ids, unless a public data set's own table
    has them, and the image ids of all paths in which a patient's id, a UID, or a name, birth date, accession number or
    other id of a header stands, in any spelling; every other image id is its path. --keep-patient-id hashes nothing.
    The column path stays as it is: keep the manifest with the images. Without --out the folder is only looked at; a
    file that is there already is never replaced. --recipe reads a public data set by its own tables, as it was
    downloaded; without --recipe, the folder of a known one is recognised, and read by its recipe where nothing is
    written.
    """
    from cxr_embed.api.scan import scan_folder

    with progress_bar() as bar:
        scanned = scan_folder(
            folder,
            recipe=recipe,
            labelled_by=labelled_by,
            out=out,
            patient_pattern=patient_pattern,
            keep_patient_id=keep_patient_id,
            key_file=key_file,
            progress=bar,
        )
    result = scanned.result
    if scanned.guessed_by:
        by = f"{folder}: {scanned.recipe.title}, by {', '.join(scanned.guessed_by)}"
        typer.echo(f"{by}; `--recipe {scanned.recipe.name}` says so", err=True)
    away = scanned.linked_away
    if scanned.near:
        typer.echo(f"note: {scanned.near}", err=True)
    if as_json:
        print_json({**_summary(result, out, folder, away), "recipe": scanned.recipe.name})
    else:
        _print_summary(result, out, folder, scanned.recipe)
        _print_data_set(scanned.recipe, result, out)
        print_away(away, len(result), folder)
        _print_written(result, out, scanned.key_file)
    if result.problems:
        raise typer.Exit(1)


def _summary(result: ScanResult, out: Path | None, folder: Path, away: list[str]) -> dict[str, Any]:
    """What `--json` prints of a scan."""
    from cxr_embed.manifest import companion_path

    return {
        "manifest": str(out) if out is not None else None,
        "companion": str(companion_path(out)) if out is not None else None,
        "root": str(folder),
        "images": len(result),
        "patients": len(set(result.columns["patient_id"])),
        "lateral_views": sum(map(is_lateral, result.columns.get("view", ()))),
        "without_patient": result.without_patient,
        "not_found": result.not_found,
        "unlisted": result.unlisted,
        "others": result.others,
        "linked_away": away,
        "labelled_by": result.labels,
        "not_findings": result.not_findings,
        "boxes": len(result.boxes.get("image_id", ())),
        "unmatched": asdict(result.unmatched) if result.unmatched is not None else None,
        "skipped": [{"path": path, "reason": reason} for path, reason in result.skipped],
        "problems": result.problems,
    }


def _print_summary(result: ScanResult, out: Path | None, folder: Path, recipe: Recipe) -> None:
    """A scan's summary for people; what may need their attention goes to stderr."""
    from cxr_embed.manifest import companion_path

    patients = len(set(result.columns["patient_id"]))
    typer.echo(f"{out or folder}: {counted(len(result), 'image')} of {counted(patients, 'patient')}")
    if out is not None and out.resolve().parent != folder.resolve():
        typer.echo(f"paths are relative to {folder}, as {companion_path(out)} says: keep the two files together")
    if result.skipped:
        kinds = Counter(reason for _, reason in result.skipped)
        reasons = "; ".join(f"{count:,} x {reason}" for reason, count in kinds.most_common(3))
        more = f"; {counted(len(kinds) - 3, 'other reason')}" if len(kinds) > 3 else ""
        typer.echo(
            f"skipped {counted(len(result.skipped), 'other file')} ({reasons}{more}); --json names each", err=True
        )
    print_lateral(result.columns.get("view", ()))
    if result.unmatched is not None:
        typer.echo(f"  {result.unmatched}", err=True)
    if result.unlisted:
        has = "is" if result.unlisted == 1 else "are"
        count = counted(result.unlisted, "image")
        typer.echo(f"{count} {has} not in the table of images: what only that says is blank", err=True)
    if result.others:
        shown = ", ".join(f"{name!r} ({count:,})" for name, count in list(result.others.items())[:5])
        more = f" and {len(result.others) - 5} more" if len(result.others) > 5 else ""
        typer.echo(f"names of findings that the recipe does not know, left out: {shown}{more}", err=True)
    if result.not_found:
        has = "has" if result.not_found == 1 else "have"
        typer.echo(f"{counted(result.not_found, 'row')} of the data set's table {has} no file here", err=True)
    if result.without_patient:
        # The ids of a public data set are where its recipe looks, or nowhere.
        cure = "" if recipe.public_ids else ". --patient-pattern REGEX takes the id from the path"
        typer.echo(
            f"warning: the patient of {counted(result.without_patient, 'image')} is unknown; each is taken as a "
            "patient of its own,\n"
            f"  so splits may mix a patient's images{cure}",
            err=True,
        )
    for problem in result.problems:
        typer.echo(f"problem: {problem}", err=True)


def _print_data_set(recipe: Recipe, result: ScanResult, out: Path | None) -> None:
    """What the labels of a public data set are, its boxes, and its terms."""
    from cxr_embed.datasets import boxes_path

    if result.labels is not None:
        others = [name for name in recipe.labels if name != result.labels]
        about = recipe.labels[result.labels].about
        more = f"; --labelled-by takes {' or '.join(others)}" if others else ""
        typer.echo(f"labels: {result.labels}{f' ({about})' if about else ''}{more}")
        for official in recipe.official or ():
            if official.labels != result.labels:
                typer.echo(f"labels of the split {official.split}: {official.labels}, where they are there")
        if recipe.blank:
            typer.echo(f"a blank label: {recipe.blank}")
    if result.boxes:
        where = f"{boxes_path(out)}: " if out is not None else ""
        images = len(set(result.boxes["image_id"]))
        boxes = counted(len(result.boxes["image_id"]), "box", "boxes")
        typer.echo(f"{where}{boxes} of {counted(images, 'image')}")
    if recipe.terms:
        typer.echo(f"terms of {recipe.title}: {recipe.terms} ({recipe.source or recipe.licence})", err=True)


def _print_written(result: ScanResult, out: Path | None, key_path: Path | None) -> None:
    """Whether anything was written, and which key hides the ids in it."""
    if out is None:
        typer.echo("nothing written; `--out FILE` writes the manifest")
    elif key_path is not None:
        what = "patient ids"
        if result.neutral:
            what += f", and {counted(result.neutral, 'image id')} that would reveal a person, an order or a UID,"
        typer.echo(f"{what} are hashed with the key in {key_path}: keep it, and keep it apart from the data")


def print_away(away: list[str], paths: int, root: Path) -> None:
    """A warning of paths that lead out of the root."""
    if away:
        lead = "leads" if len(away) == 1 else "lead"
        links = f"{counted(len(away), 'path')} of {paths:,} {lead} out of {root} through a link (first {away[0]})"
        typer.echo(f"warning: {links}; `embed` reads such files with --follow-links alone", err=True)


def print_lateral(views: Iterable[str]) -> None:
    """A note on lateral views; on stderr, as all that may need attention."""
    from cxr_embed.encoders.registry import ENCODERS

    if count := sum(map(is_lateral, views)):
        names = " and ".join(card.name for card in ENCODERS.values() if card.frontal)
        typer.echo(f"note: {counted(count, 'lateral view')}: {names} were trained on frontal ones", err=True)
