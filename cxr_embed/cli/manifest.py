"""`cxr-embed manifest ...`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from cxr_embed.cli.common import print_json

app = typer.Typer(no_args_is_help=True, help="Make and check manifests: the table of cases.")


@app.command("scan", epilog="Example: [bold]cxr-embed manifest scan /data/NIH --recipe nih-chestxray14 --out nih.csv[/bold]")
def scan(
    folder: Annotated[Path, typer.Argument(help="The data set's folder.")],
    out: Annotated[
        Path | None, typer.Option(help="CSV or Parquet to write; FOLDER/manifest.csv by default.", show_default=False)
    ] = None,
    recipe: Annotated[str, typer.Option(help="A data set's layout, or a .yaml file of your own.")] = "folder",
    patient_pattern: Annotated[
        str | None, typer.Option(help="Regular expression on the path; its group is the patient's id.")
    ] = None,
    keep_patient_id: Annotated[
        bool, typer.Option("--keep-patient-id", help="Keep DICOM patient ids in clear instead of a keyed hash.")
    ] = False,
    key_file: Annotated[Path | None, typer.Option(help="Key of the hash; one is made for you by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Make a manifest from a folder of radiographs.

    DICOM headers fill view, age, sex and date. Patient ids from headers are replaced by a keyed hash.
    """
    from cxr_embed.datasets import load_recipe
    from cxr_embed.datasets import scan as run
    from cxr_embed.datasets.scan import patient_key
    from cxr_embed.manifest import write_manifest

    layout = load_recipe(recipe)
    key, key_path = (None, None) if keep_patient_id else patient_key(key_file)
    result = run(folder, layout, patient_key=key, patient_pattern=patient_pattern)
    target = out or folder / "manifest.csv"
    write_manifest(target, result.columns)
    patients = len(set(result.columns["patient_id"]))
    if as_json:
        print_json(
            {
                "manifest": str(target),
                "images": len(result),
                "patients": patients,
                "without_patient": result.without_patient,
                "not_found": result.not_found,
                "skipped": [{"path": path, "reason": reason} for path, reason in result.skipped],
            }
        )
        return
    typer.echo(f"{target}: {len(result):,} images of {patients:,} patients")
    if target.resolve().parent != folder.resolve():
        typer.echo(f"paths are relative to {folder}: give `--root {folder}` when you embed")
    if key_path is not None and any(source.dicom == "patient_id" for source in layout.columns.values()):
        typer.echo(f"patient ids are hashed with the key in {key_path}: keep it, and keep it apart from the data")
    if result.skipped:
        kinds = Counter(reason for _, reason in result.skipped)
        told = "; ".join(f"{count:,} x {reason}" for reason, count in kinds.most_common(3))
        typer.echo(f"skipped {len(result.skipped):,} other files ({told})", err=True)
    if result.not_found:
        typer.echo(f"{result.not_found:,} rows of the data set's table have no file here", err=True)
    if result.without_patient:
        typer.echo(
            f"warning: the patient of {result.without_patient:,} images is unknown; each is taken as a patient of its "
            "own,\n  so splits may mix a patient's images. --patient-pattern REGEX takes the id from the path",
            err=True,
        )


@app.command("validate", epilog="Example: [bold]cxr-embed manifest validate data/manifest.csv[/bold]")
def validate(
    manifest: Annotated[Path, typer.Argument(help="CSV or Parquet.")],
    root: Annotated[Path | None, typer.Option(help="Folder of the images, if not the manifest's own.")] = None,
    extra: Annotated[list[str] | None, typer.Option(help="A column that is no finding (repeatable).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check a manifest and name every problem at once; missing files count as problems."""
    from cxr_embed.errors import ManifestError
    from cxr_embed.manifest import missing_files, read_manifest

    try:
        table = read_manifest(manifest, root=root, extra=extra or ())
    except ManifestError as error:
        if as_json and error.problems:
            print_json({"images": 0, "problems": list(error.problems)})
            raise typer.Exit(1) from None
        raise
    missing = missing_files(table)
    problems = [f"{len(missing):,} files are missing: {', '.join(missing[:5])}"] if missing else []
    patients, findings = len(set(table.column("patient_id").tolist())), list(table.findings)
    if as_json:
        print_json({"images": len(table), "patients": patients, "findings": findings, "problems": problems})
    else:
        typer.echo(f"{manifest}: {len(table):,} images of {patients:,} patients, {len(findings)} findings")
        if findings:
            typer.echo(f"findings: {', '.join(findings)} (-1 and blank count as unknown)")
        for problem in problems:
            typer.echo(f"problem: {problem}", err=True)
    if problems:
        raise typer.Exit(1)


@app.command("recipes", epilog="Example: [bold]cxr-embed manifest recipes[/bold]")
def recipes() -> None:
    """List the data sets whose layout is known."""
    from cxr_embed.datasets import load_recipe, recipe_names

    for name in recipe_names():
        recipe = load_recipe(name)
        typer.echo(f"{name:20}{recipe.title} (terms: {recipe.licence})")
