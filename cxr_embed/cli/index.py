"""`cxr-embed index ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_embed.cli.common import RESEARCH, fail, human_bytes, plural, print_json, progress_bar

if TYPE_CHECKING:
    from cxr_embed.index.layout import Record
    from cxr_embed.index.writer import Written

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Make cases of a store searchable: `cxr-embed search` finds similar ones.",
)
IndexPath = Annotated[Path, typer.Argument(help="The index's folder.", show_default=False)]
StorePath = Annotated[Path, typer.Argument(help="The store's folder.", show_default=False)]
ManifestPath = Annotated[
    Path | None, typer.Option(help="The cases, and what is known of them: columns to filter by.", show_default=False)
]
Extra = Annotated[list[str] | None, typer.Option(help="A column of the manifest that is no finding (repeatable).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@app.command(
    "build", epilog="Example: `cxr-embed index build vectors/hog --manifest data/manifest.csv --out index/hog`"
)
def build(
    store: StorePath,
    out: Annotated[Path, typer.Option(help="The index's folder; an index that is there is replaced.")],
    manifest: ManifestPath = None,
    extra: Extra = None,
    output: Annotated[str | None, typer.Option(help="One of the encoder's outputs; its first by default.")] = None,
    pool: Annotated[
        str | None, typer.Option(help="Of (T, D) vectors: mean makes one of them.", show_default=False)
    ] = None,
    kind: Annotated[
        str, typer.Option(help="auto (by size and --memory), flat, hnsw, ivf-fp16, ivf-sq8 or ivf-pq.")
    ] = "auto",
    memory: Annotated[str, typer.Option(help="What the search structure may take, e.g. 500MB or 4GB.")] = "4GB",
    as_json: AsJson = False,
) -> None:
    """Build an index of a store's vectors, and measure how many of the true neighbours it finds."""
    from cxr_embed.index.writer import build_index
    from cxr_embed.manifest import read_manifest
    from cxr_embed.store import open_store

    limit = as_bytes(memory)
    opened = open_store(store)
    cases = read_manifest(manifest, extra=extra or ()) if manifest is not None else None
    with progress_bar() as progress:
        written = build_index(
            opened, out, manifest=cases, output=output, pool=pool, kind=kind, memory=limit, progress=progress
        )
    _tell(out, written, "built", as_json)


def as_bytes(text: str) -> int:
    """`500MB`, `4G` or a plain number of bytes; ends the program for anything else."""
    word = text.strip().upper().removesuffix("B")
    unit = word[-1:] if word[-1:] in _UNITS else ""
    number = word.removesuffix(unit) if unit else word
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        fail(f"--memory is a size such as 500MB or 4GB, not {text!r}", 2)
    return size


def _tell(path: Path, written: Written, what: str, as_json: bool) -> None:
    record = written.record
    if as_json:
        print_json({"index": str(path), what: written.changed, "notes": list(written.notes), **describe(record)})
        return
    for note in written.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"{path}: {plural(record.cases, 'case')}, {structure(record)}")
    typer.echo(RESEARCH)


def structure(record: Record) -> str:
    """What finds the neighbours, and how well: one line."""
    kind, measured = record.kind, record.measured
    told = [f"{kind.name} ({kind.factory}, effort {kind.effort})" if kind.factory else kind.name]
    if measured.recall is not None:
        told.append(f"recall@10 {measured.recall:.3f}" if kind.factory else "every case is compared")
    if measured.milliseconds is not None:
        told.append(f"{measured.milliseconds:.3f} ms a query")
    return ", ".join([*told, human_bytes(record.nbytes)])


def describe(record: Record) -> dict[str, object]:
    """What `index info --json` prints of the record."""
    return {
        "cases": record.cases,
        "encoder": record.spec.name,
        "fingerprint": record.spec.fingerprint,
        "output": record.output,
        "pool": record.pool,
        "shape": list(record.shape),
        "kind": vars(record.kind),
        "measured": vars(record.measured),
        "bytes": record.nbytes,
        "created": record.created,
        "stores": [dict(store) for store in record.stores],
    }
