"""`cxr-embed index duplicates`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from cxr_embed.cli.common import RESEARCH, fail, print_json
from cxr_embed.cli.terminal import console
from cxr_embed.present.console import Column, print_columns
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.index.faiss.duplicates import DuplicateGroup, Duplicates
    from cxr_embed.manifest import Companion, Rows

EXAMPLE = "Example: `cxr-embed index duplicates index/hog --manifest data/manifest.csv --out data/clean.csv`"
_SHOWN = 20  # groups at a terminal; --json has them all
_NAMED = 5


def duplicates(
    index: Annotated[Path, typer.Argument(help="The index's folder.", show_default=False)],
    threshold: Annotated[
        float | None,
        typer.Option(help="Cosine from which two images are copies; by default it comes from the index itself."),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Where splits and patients are read from, and what --out is made of.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the manifest with one image of each group (.csv or .parquet).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Find the same file under two names and re-exports of one radiograph, across splits and patients first.

    Re-exports (resized, re-encoded, another bit depth or format) are recognised by the cosine of their vectors.
    With --out, one image of each group stays: the first row in its test split if it has one, else in any but training,
    else there.
    """
    from cxr_embed.index import CaseIndex
    from cxr_embed.index.faiss.duplicates import find_duplicates
    from cxr_embed.manifest import check_target, companion_of, companion_path, moved, read_values, root_of

    if threshold is not None and not 0 < threshold <= 1:
        fail(f"--threshold is a cosine above 0 and up to 1, not {threshold:g}", 2)
    if out is not None:
        if manifest is None:
            fail("--out writes a manifest without its copies: say which with --manifest", 2)
        check_target(out)
    opened = CaseIndex(index)
    rows = read_values(manifest) if manifest is not None else None
    known = companion_of(manifest) if manifest is not None else None
    cases = _cases(opened, rows)
    found = find_duplicates(opened, cases.patients, cases.splits, threshold, cases.order)
    removed = {str(opened.ids[row]) for group in found.groups for row in group.rows if row != group.kept}
    written = _Written(out, 0, 0)
    if out is not None and rows is not None and manifest is not None:
        listed = rows.table["image_id"].to_pylist()
        kept = [number for number, image_id in enumerate(listed) if image_id not in removed]
        _write(out, rows, kept, moved(known, manifest, out))
        written = _Written(out, len(kept), len(listed))
    notes = [*found.notes, *cases.notes, *_unlike_note(opened, found)]
    if not (cases.splits != "").any():
        notes.append("no split is known, so none can leak: give --manifest with a column split")
    if as_json:
        print_json(_json(index, opened.ids, cases, found, removed, written, notes))
        return
    _show(opened.ids, cases, found)
    for note in notes:
        typer.echo(f"note: {note}")
    typer.echo(f"{index}: {counted(len(opened), 'image')}; {_summary(found.groups)}")
    if out is not None and manifest is not None:
        typer.echo(f"{out}: {written.kept:,} of {counted(written.rows, 'row')}")
        if out.resolve().parent != manifest.resolve().parent:
            says = f"as {companion_path(out)} says: keep the two files together"
            typer.echo(f"paths are relative to {root_of(known, manifest)}, {says}")
    typer.echo(RESEARCH)


def _write(out: Path, rows: Rows, kept: list[int], companion: Companion) -> None:
    """The manifest without its copies, and what holds of it."""
    from cxr_embed.manifest import check_new_companion, companion_path, write_companion, write_manifest

    says = bool(companion.facts()) or companion_path(out).exists()
    if says:
        check_new_companion(out, companion, replaces=True)
    write_manifest(out, {name: rows.table[name].take(kept).to_pylist() for name in rows.table.column_names})
    if says:
        write_companion(out, companion, replaces=True)


@dataclass(frozen=True)
class _Cases:
    """What is known of the index's images: `(N,)` strings, and `(N,)` places in the manifest."""

    patients: np.ndarray
    splits: np.ndarray
    order: np.ndarray
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Written:
    out: Path | None
    kept: int
    rows: int


def _cases(opened: Any, rows: Rows | None) -> _Cases:
    count = len(opened)
    if rows is None:
        splits = np.full(count, "", dtype=np.str_)
        if "split" in opened.table.column_names:
            splits = np.array([value or "" for value in opened.table["split"].to_pylist()], dtype=np.str_)
        return _Cases(opened.patient_ids, splits, np.arange(count))
    listed = {image_id: place for place, image_id in enumerate(rows.table["image_id"].to_pylist())}
    order = np.array([listed.get(image_id, len(listed)) for image_id in opened.ids.tolist()], dtype=np.int64)
    if (order == len(listed)).all():
        fail("the manifest has none of the index's images; give the one that the index was built with")
    notes = []
    if unlisted := int((order == len(listed)).sum()):
        notes.append(f"{counted(unlisted, 'image')} of the index are not in the manifest: looked at all the same")
    if unseen := len(listed) - int((order < len(listed)).sum()):
        notes.append(f"{counted(unseen, 'row')} of the manifest are not in the index: not looked at, and kept")
    columns = {}
    for name, fallback in (("patient_id", opened.patient_ids), ("split", None)):
        own = rows.table[name].to_pylist() if rows.has(name) else [""] * len(listed)
        values = [*own, ""]
        columns[name] = np.array([values[place] for place in order.tolist()], dtype=np.str_)
        if fallback is not None:
            columns[name] = np.where(columns[name] == "", fallback, columns[name])
    return _Cases(columns["patient_id"], columns["split"], order, tuple(notes))


def _unlike_note(opened: Any, found: Duplicates) -> list[str]:
    """A note on images of the groups that do not look like chest radiographs."""
    from cxr_embed.index.case_table import LOOKS

    if LOOKS not in opened.table.column_names:
        return []
    looks = opened.table[LOOKS].to_pylist()
    unlike = sorted(str(opened.ids[row]) for group in found.groups for row in group.rows if looks[row])
    if not unlike:
        return []
    named = ", ".join(unlike[:_NAMED]) + (", ..." if len(unlike) > _NAMED else "")
    some = counted(len(unlike), "of these images does", "of these images do")
    return [f"{some} not look like a chest radiograph ({named}): pictures of that kind are alike by themselves"]


def _show(ids: np.ndarray, cases: _Cases, found: Duplicates) -> None:
    if not found.groups:
        return
    rows = []
    for group in found.groups[:_SHOWN]:
        first = ["same file" if group.same_file else "alike", f"{group.similarity:.4f}"]
        for row in group.rows:
            about = [str(column[row]) for column in (ids, cases.patients, cases.splits)]
            rows.append([*first, *about, "stays" if row == group.kept else ""])
            first = ["", ""]
    heads = ("copies", "similarity", "image_id", "patient_id", "split", "")
    columns = [
        Column(head, cells, "number" if head == "similarity" else "id")
        for head, cells in zip(heads, zip(*rows, strict=True), strict=True)
    ]
    if left_out := print_columns(console(), columns, ("patient_id", "split", "similarity")):
        typer.echo(f"note: {', '.join(left_out)}: no room here; --json lists them")
    if len(found.groups) > _SHOWN:
        typer.echo(f"... and {counted(len(found.groups) - _SHOWN, 'group')} more: --json has them all")


def _summary(groups: tuple[DuplicateGroup, ...]) -> str:
    if not groups:
        return "no copies"
    images = sum(len(group.rows) for group in groups)
    across = [sum(len(getattr(group, name)) > 1 for group in groups) for name in ("splits", "patients")]
    found = f"{counted(len(groups), 'group')} of {counted(images, 'image')}"
    return f"{found}, {across[0]:,} across splits, {across[1]:,} across patients"


def _json(
    index: Path,
    ids: np.ndarray,
    cases: _Cases,
    found: Duplicates,
    removed: set[str],
    written: _Written,
    notes: list[str],
) -> dict[str, Any]:
    from cxr_embed.index.faiss.pairs import QUANTILES

    def image(row: int, group: DuplicateGroup) -> dict[str, Any]:
        about = {"image_id": str(ids[row]), "patient_id": str(cases.patients[row]), "split": str(cases.splits[row])}
        return {**about, "kept": row == group.kept}

    return {
        "index": str(index),
        "images": len(ids),
        "threshold": found.threshold,
        "threshold_from": found.rule,
        "nearest_of_other_patients": {
            "images": found.scale.images,
            "quantiles": dict(zip((str(q) for q in QUANTILES), found.scale.quantiles, strict=False)),
        },
        "across_splits": sum(len(group.splits) > 1 for group in found.groups),
        "across_patients": sum(len(group.patients) > 1 for group in found.groups),
        "groups": [
            {
                "images": [image(row, group) for row in group.rows],
                "similarity": round(group.similarity, 6),
                "same_file": group.same_file,
                "across_splits": len(group.splits) > 1,
                "across_patients": len(group.patients) > 1,
            }
            for group in found.groups
        ],
        "removed": sorted(removed),
        "out": str(written.out) if written.out is not None else None,
        "notes": notes,
        "note": RESEARCH,
    }
