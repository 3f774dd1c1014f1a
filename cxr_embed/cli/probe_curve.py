"""`cxr-embed probe curve`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_embed.cli.common import RESEARCH, fail, plural, print_json, progress_bar
from cxr_embed.cli.evaluate import AsJson, CountNoFinding, Extra, Uncertain, check_uncertain
from cxr_embed.cli.probe import Findings, ManifestPath, StorePath, print_table, stored_output, tell_notes

if TYPE_CHECKING:
    from cxr_embed.probe.curve import Curve
    from cxr_embed.store import Store

EXAMPLE = "Example: `cxr-embed probe curve vectors/hog data/manifest.csv --store vectors/densenet --out curve`"
_SHOTS = "1,4,16,64,256,all"


def curve(
    store: StorePath,
    manifest: ManifestPath,
    out: Annotated[Path, typer.Option(help="Folder for curve.json and curve.csv.")] = Path("curve"),
    more: Annotated[
        list[Path] | None, typer.Option("--store", help="Another encoder's store, to compare with (repeatable).")
    ] = None,
    shots: Annotated[
        str, typer.Option(help="Positives of a draw, and as many negatives; `all` is all images.")
    ] = _SHOTS,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Draws of each size.")] = 10,
    train: Annotated[str, typer.Option(help="The split to draw from.")] = "train",
    test: Annotated[str, typer.Option(help="The split to test on.")] = "test",
    output: Annotated[
        list[str] | None, typer.Option(help="An output for each store, in their order; the first ones by default.")
    ] = None,
    pool: Annotated[str, typer.Option(help="Tokens to one vector: mean, max or flatten.")] = "mean",
    findings: Findings = None,
    extra: Extra = None,
    uncertain: Uncertain = "unknown",
    count_no_finding: CountNoFinding = False,
    as_json: AsJson = False,
) -> None:
    """Measure how AUROC grows with labels, on one fixed test part.

    For each finding and seed the same number of positive and negative images is drawn by patient; a larger draw
    contains the smaller ones. Regularisation is chosen inside the draw. Several stores get the same draws and are
    compared draw by draw.
    """
    from cxr_embed.manifest import read_labels
    from cxr_embed.probe.curve import CurveEncoder, run_curve
    from cxr_embed.probe.results import to_json, write_curve
    from cxr_embed.store import open_store

    check_uncertain(uncertain)
    sizes = _shots(shots)
    stores = [open_store(path) for path in (store, *(more or ()))]
    outputs: Sequence[str | None] = output or [None] * len(stores)
    if len(outputs) != len(stores):
        fail(f"--output is given once for each store, {len(stores)} times, or not at all", 2)
    chosen = [stored_output(opened, name) for opened, name in zip(stores, outputs, strict=True)]
    names = _names(stores)
    encoders = [CurveEncoder(*parts) for parts in zip(names, stores, chosen, strict=True)]
    labels = read_labels(manifest, extra=extra or ())
    with progress_bar() as progress:
        found = run_curve(
            encoders,
            labels,
            shots=sizes,
            seeds=range(seeds),
            train=train,
            test=test,
            findings=findings,
            pool=pool,
            uncertain=uncertain,  # type: ignore[arg-type]
            count_no_finding=count_no_finding,
            progress=progress,
        )
    about = _about(encoders, manifest, train, test, pool, uncertain)
    write_curve(out, found, about)
    if as_json:
        told = to_json(found, about)
        print_json({"out": str(out), **{k: told[k] for k in ("encoders", "summary", "differences", "notes")}})
        return
    _print_curve(found, out)


def _shots(text: str) -> tuple[int | None, ...]:
    words = [word.strip() for word in text.split(",")]
    numbers = [word for word in words if word != "all"]
    if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in numbers) or not words:
        fail(f"--shots is a list such as {_SHOTS}, not {text!r}", 2)
    sizes: tuple[int | None, ...] = tuple(sorted({int(word) for word in numbers}))
    return (*sizes, None) if "all" in words else sizes


def _names(stores: Sequence[Store]) -> list[str]:
    """Encoders' names, as the report tells them: with the store's where two are alike."""
    from cxr_embed.report.cards import store_names

    told = store_names(stores)
    twice = next((name for name in told if told.count(name) > 1), None)
    if twice is not None:
        fail(f"the store of {twice} is given twice", 2)
    return told


def _about(encoders: Sequence[Any], manifest: Path, train: str, test: str, pool: str, uncertain: str) -> dict[str, Any]:
    import hashlib

    from cxr_embed import __version__
    from cxr_embed.store.writer import utc_now

    with open(manifest, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "created": utc_now(),
        "software": __version__,
        "encoders": [
            {
                "name": encoder.name,
                "store": str(encoder.store.path),
                "fingerprint": encoder.store.spec.fingerprint,
                "output": encoder.output,
                "pool": pool,
            }
            for encoder in encoders
        ],
        "labels": {"file": manifest.name, "sha256": digest, "train": train, "test": test, "uncertain": uncertain},
    }


def _print_curve(curve: Curve, out: Path) -> None:
    from cxr_embed.probe.results import differences, summarise, undefined_sizes

    means = [row for row in summarise(curve) if row["finding"] is None]
    pairs = [row for row in differences(curve) if row["finding"] is None]
    first, *others = curve.encoders
    minus = [f"{name} - {first}" for name in others] if len(others) > 1 else [f"minus {first}"] * len(others)
    heads = ["shots", "findings", *curve.encoders, *minus]
    rows, covered = [], set()
    for size in curve.shots:
        told = [row for row in (*means, *pairs) if row["shots"] == size]
        covered.add(told[0]["findings_in_mean"])
        of_all = f"{told[0]['findings_in_mean']} of {len(curve.findings)}"
        rows.append([str(size or "all"), of_all, *(_mean(row, "minus" in row) for row in told)])
    print_table(heads, rows)
    fewer = "; not every size covers the same findings" if len(covered) > 1 else ""
    typer.echo(f"mean AUROC over findings, and its standard deviation over draws{fewer}")
    tell_notes([*curve.notes, *undefined_sizes(curve)])
    typer.echo(
        f"{out}: curve.json, curve.csv; trained on {plural(len(curve.train), 'image')}, tested on "
        f"{plural(len(curve.test), 'image')}"
    )
    typer.echo(RESEARCH)


def _mean(row: dict[str, Any], signed: bool) -> str:
    if row["mean"] is None:
        return "undefined"
    mean = f"{row['mean']:+.3f}" if signed else f"{row['mean']:.3f}"
    return mean if row["sd"] is None else f"{mean} ± {row['sd']:.3f}"
