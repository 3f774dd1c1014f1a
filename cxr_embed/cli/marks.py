"""`cxr-embed marks ...`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cxr_embed.cli.common import RESEARCH, print_json
from cxr_embed.cli.options import AsJson, IndexPath
from cxr_embed.types import counted

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="What readers marked in the case browser: labels, lists and notes.",
)


@app.command("export", epilog="Example: `cxr-embed marks export index/mini --out labels.csv`")
def export(
    index: IndexPath,
    out: Annotated[Path, typer.Option(help="File of labels: .csv or .parquet.", show_default=False)],
    reader: Annotated[
        str | None, typer.Option(help="Whose marks, where there are several readers'.", show_default=False)
    ] = None,
    listed: Annotated[
        str | None, typer.Option("--list", help="Only the cases of this list.", show_default=False)
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(help="Write its rows of these cases, with the reader's labels in it.", show_default=False),
    ] = None,
    notes: Annotated[
        bool, typer.Option("--notes", help="With a column of notes, which may say anything of anybody.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write what a reader marked as labels: 1 for yes, 0 for no, -1 for unsure, blank where there is no label.

    The table is one of labels, as `evaluate` and `probe train` read them, or a manifest with --manifest. A mark of
    another picture than the index has now under an id is left out.
    """
    from cxr_embed.api.marks import export_marks
    from cxr_embed.manifest import check_target

    check_target(out)
    found = export_marks(index, reader=reader, listed=listed, manifest=manifest, notes=notes)
    found.save(out)
    if as_json:
        known = {"out": str(out), "reader": found.reader, "cases": len(found), "findings": list(found.findings)}
        print_json({**known, "notes": list(found.notes)})
        return
    for note in found.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"{out}: {counted(len(found), 'case')}, {counted(len(found.findings), 'finding')}, by {found.reader}")
    typer.echo(RESEARCH)


@app.command("info", epilog="Example: `cxr-embed marks info index/mini`")
def info(index: IndexPath, as_json: AsJson = False) -> None:
    """Say who marked how many cases, with which labels and lists; not what stands in notes."""
    from cxr_embed.api.marks import marks_info

    known = marks_info(index)
    if as_json:
        print_json(known)
        return
    for each in known["readers"]:
        typer.echo(f"{each['reader']}: {counted(each['cases'], 'case')}, {counted(each['notes'], 'note')}")
        for line in _lines(each):
            typer.echo(f"  {line}")
    typer.echo(RESEARCH)


def _lines(reader: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{finding}: " + ", ".join(f"{label} {count:,}" for label, count in of.items())
        for finding, of in reader["labels"].items()
    ]
    lines += [f"list {name}: {counted(count, 'case')}" for name, count in reader["lists"].items()]
    if reader["left_out"]:
        lines.append(f"{counted(reader['left_out'], 'marked case')} not in the index as marked")
    return lines
