"""`cxr-embed index ...`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_embed.choices import Engine, IndexKind, IndexPooling
from cxr_embed.cli.common import RESEARCH, fail, print_json, progress_bar
from cxr_embed.cli.options import AsJson, Extra, IndexPath, KeyFile, Root, Seed, StorePath
from cxr_embed.cli.terminal import console
from cxr_embed.present.console import print_facts
from cxr_embed.present.numbers import format_bytes
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.index.faiss.layout import IndexRecord

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Make cases of a store searchable: `cxr-embed search` finds similar ones.",
)
ManifestPath = Annotated[
    Path | None, typer.Option(help="The cases, and what is known of them: columns to filter by.", show_default=False)
]
_ELSEWHERE = (
    "the store, the manifest and backups hold these cases as before, and `index add` brings them back; "
    "`cxr-embed forget` takes a patient out of all, for good"
)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@app.command(
    "build", epilog="Example: `cxr-embed index build vectors/hog --manifest data/manifest.csv --out index/hog`"
)
def build(
    store: StorePath,
    out: Annotated[Path, typer.Option(help="The index's folder; an index that is there is replaced.")],
    manifest: ManifestPath = None,
    extra: Extra = None,
    output: Annotated[
        str | None,
        typer.Option(help="One of the encoder's outputs; the one that words are compared with, else its first."),
    ] = None,
    pool: Annotated[
        IndexPooling | None,
        typer.Option(
            help="Of several vectors an image: mean makes one of them, tokens compares each by max-sim; the default "
            "is tokens where the encoder compares words so.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        IndexKind, typer.Option(help="auto takes one by size and --memory; of tokens, flat or tokens-pq.")
    ] = "auto",
    memory: Annotated[str, typer.Option(help="What the search structure may take, e.g. 500MB or 4GB.")] = "4GB",
    key_file: KeyFile = None,
    thumbnails: Annotated[
        bool,
        typer.Option(
            "--thumbnails",
            help="Keep small pictures of the cases on disk, beside the index, for `serve`; not of files whose header "
            "says that text is burnt in. Needs --manifest.",
        ),
    ] = False,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Build an index of a store's vectors, and measure how many of the true neighbours it finds."""
    from cxr_embed.api.search import build_index

    if thumbnails and manifest is None:
        fail("--thumbnails needs --manifest: the table that says where each case's radiograph is", 2)
    if root is not None and not thumbnails:
        fail("--root is for --thumbnails: nothing else of an index is read from radiographs", 2)
    limit = as_bytes(memory)
    with progress_bar() as progress:
        built = build_index(
            store,
            manifest,
            path=out,
            output=output,
            pool=pool,
            kind=kind,
            memory=limit,
            extra=extra or (),
            key_file=key_file,
            progress=progress,
        )
        made = None
        if thumbnails and manifest is not None:
            from cxr_embed.web.keeping import make_thumbnails

            made = make_thumbnails(out, manifest, root, progress)
    notes = [*built.notes, *(made.notes if made is not None else ())]
    more = {"thumbnails": made.to_json()} if made is not None else {}
    _print_summary(out, built.record, len(built), notes, "built", as_json, more)


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


def _print_summary(
    path: Path,
    record: IndexRecord,
    changed: int,
    notes: Sequence[str],
    what: str,
    as_json: bool,
    more: Mapping[str, object] = MappingProxyType({}),
) -> None:
    if as_json:
        print_json({"index": str(path), what: changed, "notes": list(notes), **describe(record), **more})
        return
    for note in notes:
        typer.echo(f"note: {note}")
    before = f"{counted(changed, 'case')} {what}, now " if what != "built" else ""
    typer.echo(f"{path}: {before}{counted(record.cases, 'case')}, {structure(record)}")
    typer.echo(RESEARCH)


def structure(record: IndexRecord) -> str:
    """What finds the neighbours, and how well: one line."""
    kind, measured = record.kind, record.measured
    parts = [f"{kind.name} ({kind.factory}, effort {kind.effort})" if kind.factory else kind.name]
    if measured.recall is not None:
        parts.append(f"recall@10 {measured.recall:.3f}" if kind.factory else "every case is compared")
    if measured.milliseconds is not None:
        parts.append(f"{measured.milliseconds:.3f} ms a query")
    return ", ".join([*parts, format_bytes(record.nbytes)])


def describe(record: IndexRecord) -> dict[str, object]:
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


@app.command("add", epilog="Example: `cxr-embed index add index/hog vectors/hog --manifest data/new.csv`")
def add(
    index: IndexPath,
    store: StorePath,
    manifest: ManifestPath = None,
    extra: Extra = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Add the cases of a store that the index does not have yet, without building it anew."""
    from cxr_embed.index.faiss.build import add_cases
    from cxr_embed.manifest import read_labels
    from cxr_embed.store import open_store

    opened = open_store(store)
    cases = read_labels(manifest, extra=extra or ()) if manifest is not None else None
    with progress_bar() as progress:
        written = add_cases(index, opened, manifest=cases, key_file=key_file, progress=progress)
    _print_summary(index, written.record, written.changed, written.notes, "added", as_json)


@app.command("remove", epilog="Example: `cxr-embed index remove index/hog --patient p17`")
def remove(
    index: IndexPath,
    image_ids: Annotated[list[str] | None, typer.Argument(help="Cases to remove.", show_default=False)] = None,
    patient: Annotated[list[str] | None, typer.Option(help="Remove all cases of a patient (repeatable).")] = None,
    engine: Annotated[Engine, typer.Option(help="milvus for what `index push` filled.")] = "faiss",
    uri: Annotated[
        str | None, typer.Option(help="Of Milvus: http://HOST:PORT, or a file of the embedded one (.db).")
    ] = None,
    thumbnails: Annotated[
        Path | None,
        typer.Option(
            help="Folder of `serve --thumbnails`, out of which they are taken too; the one beside the index is always.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take cases out: afterwards no file of the index holds their vectors or what was known of them.

    With Milvus INDEX is the collection; a server deletes its files later, by itself.
    """
    check_engine(engine, uri)
    if thumbnails is not None and uri is not None:
        fail("--thumbnails is of an index, and not of a collection in Milvus", 2)
    if uri is not None:
        _remove_from_milvus(str(index), image_ids or (), patient or (), uri, as_json)
        return
    from cxr_embed.index.faiss.build import remove_cases
    from cxr_embed.thumbnails import Thumbnails

    if thumbnails is not None:
        Thumbnails(thumbnails)  # one that is misspelled would be passed over
    with progress_bar() as progress:
        written = remove_cases(index, image_ids or (), patient or (), thumbnails=thumbnails, progress=progress)
    if not as_json:
        typer.echo(f"note: {_ELSEWHERE}", err=True)
    _print_summary(index, written.record, written.changed, written.notes, "removed", as_json)


def check_engine(engine: Engine, uri: str | None) -> None:
    """Ends the program where --engine and --uri do not belong together."""
    if (engine == "milvus") != (uri is not None):
        fail("--engine milvus and --uri belong together: what to search with, and where it is", 2)


def _remove_from_milvus(
    collection: str, image_ids: Sequence[str], patients: Sequence[str], uri: str, as_json: bool
) -> None:
    from cxr_embed.index.milvus.remove import remove as remove_from

    removed = remove_from(uri, collection, image_ids, patients)
    if as_json:
        print_json({"uri": uri, "collection": collection, **vars(removed)})
        return
    for note in (_ELSEWHERE, *removed.notes):
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{uri}, {collection}: {counted(removed.removed, 'case')} removed, {removed.cases:,} left")
    typer.echo(RESEARCH)


@app.command("info", epilog="Example: `cxr-embed index info index/hog`")
def info(index: IndexPath, as_json: AsJson = False) -> None:
    """Show what an index holds: encoder, cases, columns, and how well it finds."""
    from cxr_embed.index import CaseIndex

    opened = CaseIndex(index)
    record, spec = opened.record, opened.spec
    columns = {name: len(opened) - opened.table[name].null_count for name in opened.table.column_names[1:]}
    del columns["content"]
    patients = len(set(opened.patient_ids.tolist()) - {""})
    if as_json:
        print_json({"index": str(index), "patients": patients, "known": columns, **describe(record)})
        return
    shape = " x ".join(map(str, record.shape))
    pooled = {"mean": ", mean of an image's tokens", "tokens": ", compared by max-sim"}.get(record.pool, "")
    dtype = "float16" if record.pool == "tokens" else "float32"
    lines = {
        "encoder": f"{spec.name}, revision {spec.revision} [{spec.fingerprint[:12]}]",
        "vectors": f"{record.output} {shape}{pooled}, {dtype}",
        "cases": f"{len(opened):,} of {counted(patients, 'patient')}" if patients else f"{len(opened):,}",
        "search": structure(record),
        "columns": ", ".join(f"{name} ({known:,})" for name, known in columns.items()),
        "prompts": f"{len(opened.prompts):,}",
        "built": f"{record.created} from {counted(len(record.stores), 'state')} of a store",
    }
    if spec.text is None:
        del lines["prompts"]
    print_facts(console(), lines, 12)
    typer.echo(RESEARCH)


@app.command("map", epilog="Example: `cxr-embed index map index/mini`")
def make_map(
    index: IndexPath,
    fit: Annotated[
        int, typer.Option(min=1, help="Cases that it is learned from, at most; the others are placed among them.")
    ] = 50_000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Learn a map of the cases by UMAP and keep it beside the index, for the page Map of `cxr-embed serve`.

    It needs umap-learn: pip install 'cxr-embed[map]'. That page has a map by principal components without it.
    """
    from cxr_embed.index.faiss.map_file import MAP_WARNING, map_path
    from cxr_embed.index.faiss.projection import make_map as learn

    with progress_bar() as progress:
        made = learn(index, seed=seed, fit=fit, progress=progress)
    path = map_path(index)
    if as_json:
        about = {name: value for name, value in vars(made).items() if name not in ("positions", "key")}
        print_json({"map": str(path), "cases": len(made.positions), **about})
        return
    how = f"learned from {made.fitted:,}, seed {made.seed}, {made.made_by}"
    typer.echo(f"{path}: {counted(len(made.positions), 'case')}, {how}")
    typer.echo(MAP_WARNING)
    typer.echo(RESEARCH)


@app.command("verify", epilog="Example: `cxr-embed index verify index/hog`")
def verify(
    index: IndexPath,
    upgrade: Annotated[
        bool, typer.Option(help="Add the checksums that an index of an earlier release lacks, where all is sound.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read every byte and compare checksums; exit status 1 where one differs."""
    from cxr_embed.index.faiss.layout import CHECKSUMS, IndexRecord, leftovers
    from cxr_embed.index.faiss.verify import upgrade_index, verify_index
    from cxr_embed.thumbnails import is_thumbnails, sound_thumbnails, thumbnails_path

    with progress_bar() as progress:
        damage = verify_index(index, (lambda done, total: progress("verifying", done, total)) if progress else None)
    upgraded = upgrade and not damage and upgrade_index(index)
    beside = thumbnails_path(index)
    kept = sound_thumbnails(beside) if is_thumbnails(beside) else None
    unchecked = CHECKSUMS not in IndexRecord.read(index).files
    left = [path.name for path in leftovers(index)]
    if as_json:
        body = {"sound": not damage, "damage": [vars(fault) for fault in damage], "leftovers": left}
        counts = {"sound": kept[0], "damaged": kept[1]} if kept is not None else None
        print_json({**body, "unchecked": unchecked, "upgraded": upgraded, "thumbnails": counts})
    elif not damage:
        typer.echo(f"{index}: sound; every checksum matches")
        if upgraded:
            typer.echo("its vectors got checksums: from now on they are checked when they are compared")
        if unchecked:
            typer.echo(
                "note: an index of an earlier release: vectors are not checked when they are compared; --upgrade adds "
                "what is missing",
                err=True,
            )
        if left:
            typer.echo(
                f"note: {', '.join(left)}: not part of the index; a writer is at it, or was killed, and then the next "
                "`index add` or `remove` deletes it"
            )
        if kept is not None:
            made_anew = f", {kept[1]:,} damaged: made anew when they are shown" if kept[1] else ""
            typer.echo(f"thumbnails beside it: {kept[0]:,} sound{made_anew}")
    else:
        for fault in damage:
            typer.echo(f"damaged: {fault.where}: {fault.what}", err=True)
    if damage:
        raise typer.Exit(1)
