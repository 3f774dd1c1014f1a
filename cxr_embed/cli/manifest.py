"""`cxr-embed manifest ...`."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_embed.cli.common import fail, print_json, progress_bar
from cxr_embed.cli.manifest_scan import print_away, print_lateral
from cxr_embed.cli.options import AsJson, Blank, Extra, Root
from cxr_embed.cli.terminal import console
from cxr_embed.present.console import print_facts
from cxr_embed.types import counted, is_lateral

if TYPE_CHECKING:
    from cxr_embed.manifest import Manifest

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Make and check manifests: the table of cases."
)


@app.command("validate", epilog="Example: `cxr-embed manifest validate data/manifest.csv`")
def validate(
    manifest: Annotated[Path, typer.Argument(help="CSV, Parquet or Croissant.")],
    root: Root = None,
    extra: Extra = None,
    as_json: AsJson = False,
) -> None:
    """Check a manifest and name every problem at once; missing files count as problems.

    Of a Croissant file that has their digests, every radiograph is read and compared.
    """
    from cxr_embed.errors import ManifestError
    from cxr_embed.manifest import linked_away, read_manifest

    try:
        table = read_manifest(manifest, root=root, extra=extra or ())
    except ManifestError as error:
        # Without problems nothing is wrong with the table: its companion is damaged, say.
        recipe = _recipe_of(manifest) if error.problems else None
        if as_json:
            problems = list(error.problems or [str(error)])
            cures = {"recipe": recipe[0] if recipe else None, "convert": error.cure or None}
            print_json({"images": 0, "patients": 0, "findings": [], "problems": problems, **cures})
            raise typer.Exit(1) from None
        if recipe is None:
            raise
        count = f"{manifest}: {counted(len(error.problems), 'problem')}"
        fail("\n".join([count, *(f"  {problem}" for problem in error.problems), recipe[1]]))
    away, problems = linked_away(table), _problems(manifest, table)
    if as_json:
        print_json(
            {
                "images": len(table),
                "patients": len(set(table.column("patient_id").tolist())),
                "findings": list(table.findings),
                "lateral_views": sum(map(is_lateral, table.column("view").tolist())),
                "linked_away": away,
                "companion": table.companion.facts() if table.companion is not None else None,
                "notes": list(table.notes),
                "problems": problems,
            }
        )
    else:
        _print_table(manifest, table)
        print_away(away, len(table), table.root)
        print_lateral(table.column("view").tolist())
        for problem in problems:
            typer.echo(f"problem: {problem}", err=True)
    if problems:
        raise typer.Exit(1)


def _problems(path: Path, table: Manifest) -> list[str]:
    """What is wrong with a manifest's files."""
    from cxr_embed.errors import RemoteError
    from cxr_embed.io.addresses import address_of
    from cxr_embed.manifest import missing_files
    from cxr_embed.pipeline.stamps import missing_objects

    address = address_of(table.root)
    if address is None and not os.path.isdir(table.root):
        return [f"{table.root}: no such folder"]
    try:
        missing = missing_files(table) + missing_objects(table)
    except RemoteError as error:
        return [f"{address or path}: {error}"]
    problems = []
    if missing:
        some = f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}"
        problems = [f"{len(missing):,} of {len(table):,} files are missing below {address or table.root}: {some}"]
    return problems + _changed(path, table)


def _print_table(path: Path, table: Manifest) -> None:
    """What a manifest holds, and what its companion says."""
    patients, findings = len(set(table.column("patient_id").tolist())), table.findings
    counts = f"{counted(len(table), 'image')} of {counted(patients, 'patient')}, {counted(len(findings), 'finding')}"
    typer.echo(f"{path}: {counts}")
    if findings:
        meant = "-1 and blank count as unknown" if table.blank == "unknown" else "-1 is unknown, blank negative"
        typer.echo(f"findings: {', '.join(findings)} ({meant})")
    _print_companion(path, table)


def _changed(path: Path, table: Manifest) -> list[str]:
    """The problem of radiographs that are not those that a Croissant file was written of."""
    from cxr_embed.manifest import changed_files, is_croissant, read_croissant

    if not is_croissant(path):
        return []
    with progress_bar() as bar:
        changed = changed_files(read_croissant(path, table.root).checksums, table.root, bar)
    some = f"{', '.join(changed[:5])}{', ...' if len(changed) > 5 else ''}"
    return (
        [f"{counted(len(changed), 'file has', 'files have')} changed since {path} was written: {some}"]
        if changed
        else []
    )


@app.command("describe", epilog="Example: `cxr-embed manifest describe mine.csv --extra scanner --blank negative`")
def describe(
    manifest: Annotated[Path, typer.Argument(help="A manifest, or a table of labels.")],
    root: Root = None,
    extra: Extra = None,
    blank: Blank = None,
    as_json: AsJson = False,
) -> None:
    """Say once what a table cannot: which columns are not findings, what blank means, where the radiographs are.

    It is kept in the manifest's companion (mine.json beside mine.csv), which every verb reads; `manifest scan` writes
    one by itself. What the companion says already stays. Run it again after changing the table.
    """
    from cxr_embed.manifest import companion_path, describe_manifest

    table = describe_manifest(manifest, root=root, extra=extra or (), blank=blank)
    if as_json and table.companion is not None:
        print_json({"companion": str(companion_path(manifest)), **table.companion.facts()})
        return
    _print_companion(manifest, table)


@app.command("croissant", epilog="Example: `cxr-embed manifest croissant nih.csv --out nih.croissant.json`")
def croissant(
    manifest: Annotated[Path, typer.Argument(help="A manifest as CSV.")],
    out: Annotated[Path, typer.Option(help="Croissant file to write, in a folder that holds everything.")],
    root: Root = None,
    extra: Extra = None,
    as_json: AsJson = False,
) -> None:
    """Describe a manifest and its radiographs in a Croissant file, which other programs and this one read.

    It holds the columns and their data types, the digest of every file, and what the manifest's companion says:
    licence, source, citation. Every verb takes it in the manifest's place.
    """
    from cxr_embed.manifest import write_croissant

    with progress_bar() as bar:
        written = write_croissant(manifest, out, root=root, extra=extra or (), progress=bar)
    if as_json:
        print_json({"croissant": str(out), **asdict(written)})
        return
    typer.echo(f"{out}: {counted(written.images, 'image')}, {counted(written.fields, 'column')}, a digest of each file")
    if not written.joined:
        typer.echo(
            "note: radiographs in several folders: other programs get rows and pictures apart, each with its path",
            err=True,
        )


def _recipe_of(table: Path) -> tuple[str, str] | None:
    """The recipe whose data set a table seems to be of, and what to do with it; None where it is of none."""
    from cxr_embed.datasets import load_recipe, which_recipe
    from cxr_embed.errors import ManifestError
    from cxr_embed.manifest import read_table

    try:
        name = which_recipe(read_table(table).table.column_names, table.name)
    except ManifestError:
        name = None
    if name is None:
        return None
    command = shlex.join(["cxr-embed", "manifest", "scan", str(table.parent), "--recipe", name, "--out", f"{name}.csv"])
    return name, f"this is {load_recipe(name).title}'s own table, and the data set has a recipe: {command}"


def _print_companion(path: Path, table: Manifest) -> None:
    """What a manifest's companion says, and whether it still fits."""
    from cxr_embed.manifest import companion_path, is_croissant

    if table.companion is not None:
        facts = [(name, ", ".join(v) if isinstance(v, list) else str(v)) for name, v in table.companion.facts().items()]
        typer.echo(f"{path if is_croissant(path) else companion_path(path)} says:")
        print_facts(console(), [(name.replace("_", " "), value) for name, value in facts], 16)
    for note in table.notes:
        typer.echo(f"note: {note}", err=True)


@app.command("recipes", epilog="Example: `cxr-embed manifest recipes`")
def recipes(as_json: AsJson = False) -> None:
    """List the data sets whose layout is known, with the labels that each comes with."""
    from cxr_embed.datasets import load_recipe, recipe_names

    known = [load_recipe(name) for name in recipe_names()]
    if as_json:
        about = {"name", "title", "source", "licence", "terms", "citation", "blank", "uncertain"}
        print_json(
            [
                {**recipe.model_dump(include=about), "labels": {n: each.about for n, each in recipe.labels.items()}}
                for recipe in known
            ]
        )
        return
    facts = []
    for recipe in known:
        labels = f"; labels: {', '.join(recipe.labels)}" if len(recipe.labels) > 1 else ""
        facts.append((recipe.name, f"{recipe.title}{labels} (terms: {recipe.licence})"))
    print_facts(console(), facts, max(len(recipe.name) for recipe in known) + 1)
