"""`cxr-embed manifest ...`."""

from __future__ import annotations

import os
import secrets
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_embed.cli.common import print_json
from cxr_embed.cli.options import AsJson, Extra, Root
from cxr_embed.cli.terminal import console
from cxr_embed.present.console import print_facts
from cxr_embed.types import counted, is_lateral

if TYPE_CHECKING:
    from cxr_embed.datasets import ScanResult

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Make and check manifests: the table of cases."
)


@app.command("scan", epilog="Example: `cxr-embed manifest scan /data/NIH --recipe nih-chestxray14 --out nih.csv`")
def scan(
    folder: Annotated[Path, typer.Argument(help="The data set's folder.")],
    out: Annotated[
        Path | None, typer.Option(help="CSV or Parquet to write; nothing is written without it.", show_default=False)
    ] = None,
    recipe: Annotated[str, typer.Option(help="A data set's layout, or a .yaml file of your own.")] = "folder",
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
    file that is there already is never replaced.
    """
    from cxr_embed.datasets import load_recipe
    from cxr_embed.datasets import scan as run
    from cxr_embed.errors import ManifestError
    from cxr_embed.io.files import stays_below
    from cxr_embed.manifest import check_new, write_new_manifest

    if keep_patient_id and key_file is not None:
        raise ManifestError(
            "--key-file is the key of a hash, and --keep-patient-id turns the hash off: give one of them"
        )
    layout = load_recipe(recipe)
    if out is not None:
        check_new(
            out, layout.manifest_columns(layout.chosen_labels(labelled_by))
        )  # before the scan, which may take long
    # Ids that a public table publishes are not hashed: no key is made for them.
    hashed = not keep_patient_id and not layout.public_ids and bool(patient_pattern or layout.hashes)
    key, key_path = _key(key_file, kept=out is not None) if hashed else (None, None)
    result = run(folder, layout, patient_key=key, patient_pattern=patient_pattern, labelled_by=labelled_by)
    if out is not None:
        write_new_manifest(out, result.columns)
    below = stays_below(folder)
    away = [path for path in result.columns["path"] if not below(folder / path)]
    if as_json:
        print_json(_summary(result, out, folder, away))
    else:
        _print_summary(result, out, folder)
        _print_away(away, len(result), folder)
        _print_written(result, out, key_path)
    if result.problems:
        raise typer.Exit(1)


def _key(key_file: Path | None, kept: bool) -> tuple[bytes, Path | None]:
    """The key of patient ids, and its file; where no id is kept, a passing key does, and none is made for the user."""
    from cxr_embed.store.keys import patient_key

    return patient_key(key_file) if kept or key_file is not None else (secrets.token_bytes(32), None)


def _summary(result: ScanResult, out: Path | None, folder: Path, away: list[str]) -> dict[str, Any]:
    """What `--json` prints of a scan."""
    return {
        "manifest": str(out) if out is not None else None,
        "root": str(folder),
        "images": len(result),
        "patients": len(set(result.columns["patient_id"])),
        "lateral_views": sum(map(is_lateral, result.columns.get("view", ()))),
        "without_patient": result.without_patient,
        "not_found": result.not_found,
        "linked_away": away,
        "skipped": [{"path": path, "reason": reason} for path, reason in result.skipped],
        "problems": result.problems,
    }


def _print_summary(result: ScanResult, out: Path | None, folder: Path) -> None:
    """A scan's summary for people; what may need their attention goes to stderr."""
    patients = len(set(result.columns["patient_id"]))
    typer.echo(f"{out or folder}: {counted(len(result), 'image')} of {counted(patients, 'patient')}")
    if out is not None and out.resolve().parent != folder.resolve():
        typer.echo(f"paths are relative to {folder}: give `--root {shlex.quote(str(folder))}` when you embed")
    if result.skipped:
        kinds = Counter(reason for _, reason in result.skipped)
        reasons = "; ".join(f"{count:,} x {reason}" for reason, count in kinds.most_common(3))
        more = f"; {counted(len(kinds) - 3, 'other reason')}" if len(kinds) > 3 else ""
        typer.echo(
            f"skipped {counted(len(result.skipped), 'other file')} ({reasons}{more}); --json names each", err=True
        )
    _print_lateral(result.columns.get("view", ()))
    if result.not_found:
        has = "has" if result.not_found == 1 else "have"
        typer.echo(f"{counted(result.not_found, 'row')} of the data set's table {has} no file here", err=True)
    if result.without_patient:
        typer.echo(
            f"warning: the patient of {counted(result.without_patient, 'image')} is unknown; each is taken as a "
            "patient of its own,\n"
            "  so splits may mix a patient's images. --patient-pattern REGEX takes the id from the path",
            err=True,
        )
    for problem in result.problems:
        typer.echo(f"problem: {problem}", err=True)


def _print_written(result: ScanResult, out: Path | None, key_path: Path | None) -> None:
    """Whether anything was written, and which key hides the ids in it."""
    if out is None:
        typer.echo("nothing written; `--out FILE` writes the manifest")
    elif key_path is not None:
        what = "patient ids"
        if result.neutral:
            what += f", and {counted(result.neutral, 'image id')} that would reveal a person, an order or a UID,"
        typer.echo(f"{what} are hashed with the key in {key_path}: keep it, and keep it apart from the data")


def _print_away(away: list[str], paths: int, root: Path) -> None:
    """A warning of paths that lead out of the root."""
    if away:
        lead = "leads" if len(away) == 1 else "lead"
        links = f"{counted(len(away), 'path')} of {paths:,} {lead} out of {root} through a link (first {away[0]})"
        typer.echo(f"warning: {links}; `embed` reads such files with --follow-links alone", err=True)


def _print_lateral(views: Iterable[str]) -> None:
    """A note on lateral views; on stderr, as all that may need attention."""
    from cxr_embed.encoders.registry import ENCODERS

    if count := sum(map(is_lateral, views)):
        names = " and ".join(card.name for card in ENCODERS.values() if card.frontal)
        typer.echo(f"note: {counted(count, 'lateral view')}: {names} were trained on frontal ones", err=True)


@app.command("validate", epilog="Example: `cxr-embed manifest validate data/manifest.csv`")
def validate(
    manifest: Annotated[Path, typer.Argument(help="CSV or Parquet.")],
    root: Root = None,
    extra: Extra = None,
    as_json: AsJson = False,
) -> None:
    """Check a manifest and name every problem at once; missing files count as problems."""
    from cxr_embed.errors import ManifestError
    from cxr_embed.manifest import linked_away, missing_files, read_manifest

    try:
        table = read_manifest(manifest, root=root, extra=extra or ())
    except ManifestError as error:
        if not as_json:
            raise
        print_json({"images": 0, "patients": 0, "findings": [], "problems": list(error.problems or [str(error)])})
        raise typer.Exit(1) from None
    missing, away = missing_files(table), linked_away(table)
    problems = []
    if not os.path.isdir(table.root):
        problems = [f"{table.root}: no such folder"]
    elif missing:
        some = f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}"
        problems = [f"{len(missing):,} of {len(table):,} files are missing below {table.root}: {some}"]
    patients, findings = len(set(table.column("patient_id").tolist())), list(table.findings)
    if as_json:
        print_json(
            {
                "images": len(table),
                "patients": patients,
                "findings": findings,
                "lateral_views": sum(map(is_lateral, table.column("view").tolist())),
                "linked_away": away,
                "problems": problems,
            }
        )
    else:
        counts = (
            f"{counted(len(table), 'image')} of {counted(patients, 'patient')}, {counted(len(findings), 'finding')}"
        )
        typer.echo(f"{manifest}: {counts}")
        if findings:
            typer.echo(f"findings: {', '.join(findings)} (-1 and blank count as unknown)")
        _print_away(away, len(table), table.root)
        _print_lateral(table.column("view").tolist())
        for problem in problems:
            typer.echo(f"problem: {problem}", err=True)
    if problems:
        raise typer.Exit(1)


@app.command("recipes", epilog="Example: `cxr-embed manifest recipes`")
def recipes(as_json: AsJson = False) -> None:
    """List the data sets whose layout is known."""
    from cxr_embed.datasets import load_recipe, recipe_names

    known = [load_recipe(name) for name in recipe_names()]
    if as_json:
        print_json([recipe.model_dump(include={"name", "title", "licence", "citation"}) for recipe in known])
        return
    print_facts(console(), [(recipe.name, f"{recipe.title} (terms: {recipe.licence})") for recipe in known], 19)
