"""`cxr-embed manifest convert`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cxr_embed.cli.common import fail, print_json
from cxr_embed.cli.options import AsJson, Blank
from cxr_embed.types import counted

EXAMPLE = (
    "Example: `cxr-embed manifest convert theirs.csv --out ours.csv --id 'Image Index' --path File "
    "--patient 'Patient ID' --map 'positive=1,negative=0,Unknown=' --not-finding Notes`"
)


def convert(
    table: Annotated[Path, typer.Argument(help="Somebody's table: CSV, CSV.GZ or Parquet.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="CSV or Parquet to write; nothing is written without it.", show_default=False)
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="Values of findings: positive=1,negative=0,Unknown= (repeatable); of one column: Gender:w=F.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[str | None, typer.Option("--id", help="The column that becomes image_id.")] = None,
    path: Annotated[str | None, typer.Option(help="The column that becomes path.")] = None,
    patient: Annotated[str | None, typer.Option(help="The column that becomes patient_id.")] = None,
    rename: Annotated[
        list[str] | None, typer.Option(help="OLD=NEW, another column's name (repeatable).", show_default=False)
    ] = None,
    not_findings: Annotated[
        list[str] | None,
        typer.Option("--not-finding", help="A column to keep that is not a finding (repeatable).", show_default=False),
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="A column to leave out (repeatable).", show_default=False)
    ] = None,
    blank: Blank = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder that paths are relative to, or below; the table's own by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a manifest of somebody's table, or a table of labels where it has no paths.

    What is done is listed; what could mean two things is refused, by column and value. Yes, True, 1.00, NaN, Female,
    058Y and 20200131 need no word. The companion beside the manifest declares what is not a finding and what blank
    means, so that no other command needs the words again.
    """
    from cxr_embed.api.convert import convert_manifest
    from cxr_embed.cli.terminal import console
    from cxr_embed.manifest import companion_path, read_table

    names = read_table(table).table.column_names if values else []
    made = convert_manifest(
        table,
        out=out,
        map=mapped(values or (), names),
        id=image,
        path=path,
        patient=patient,
        rename=dict(_pair(each, "--rename") for each in rename or ()),
        not_findings=not_findings or (),
        drop=drop or (),
        blank=blank,
        root=root,
    )
    if as_json:
        print_json(made.to_json())
        return
    what = "manifest" if made.converted.is_manifest else "table of labels (no column says where the radiographs are)"
    findings = made.manifest.findings
    typer.echo(f"{table}: a {what} of {counted(len(made), 'image')} and {counted(len(findings), 'finding')}")
    screen = console()
    for step in made.converted.steps():
        screen.print(f"  {step}", soft_wrap=True)
    typer.echo(f"findings: {', '.join(findings) or 'none'} (a blank is {made.manifest.blank})")
    for note in made.converted.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(
        f"written: {out}, {companion_path(out)}" if out is not None else "nothing written; `--out FILE` writes it"
    )


def mapped(given: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """The words of `--map`: `VALUE=TO`, or `COLUMN:VALUE=TO` of one of the table's columns."""
    found: dict[str, Any] = {}
    for text in given:
        for word in next(csv.reader([text], skipinitialspace=True), []):
            value, to = _pair(word, "--map")
            of = max((name for name in names if name and value.startswith(f"{name}:")), key=len, default=None)
            if of is None:
                found[value] = to
            else:
                found.setdefault(of, {})[value.removeprefix(f"{of}:")] = to
    return found


def _pair(word: str, option: str) -> tuple[str, str]:
    before, sign, after = word.rpartition("=")
    if not sign:
        fail(
            f"{option} {word!r}: write it as two words around a =, as in {'Yes=1' if option == '--map' else 'Old=New'}",
            2,
        )
    return before.strip(), after.strip()
