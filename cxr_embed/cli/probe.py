"""`cxr-embed probe train | predict | curve`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_embed.cli.common import RESEARCH, fail, plural, print_json, progress_bar
from cxr_embed.cli.probe_evaluate import thresholds_on

if TYPE_CHECKING:
    from cxr_embed.manifest import Manifest
    from cxr_embed.probe.base import Probe
    from cxr_embed.probe.cases import Cases
    from cxr_embed.probe.curve import Curve
    from cxr_embed.probe.files import TrainedProbe
    from cxr_embed.store import Store

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Train classifiers of findings on stored vectors, with few labels.",
)
StorePath = Annotated[Path, typer.Argument(help="The store's folder.")]
ManifestPath = Annotated[Path, typer.Argument(help="Manifest, or a table of image_id and findings.")]
Findings = Annotated[
    list[str] | None, typer.Option("--finding", help="A finding to learn (repeatable); all of the labels by default.")
]
Extra = Annotated[list[str] | None, typer.Option(help="A column of the labels that is no finding (repeatable).")]
Uncertain = Annotated[str, typer.Option(help="What a label of -1 counts as: unknown, positive or negative.")]
Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
_SHOTS = "1,4,16,64,256,all"


@app.command("train", epilog="Example: `cxr-embed probe train vectors/hog data/manifest.csv --out probes/hog`")
def train(
    store: StorePath,
    manifest: ManifestPath,
    out: Annotated[Path, typer.Option(help="Folder of the probe; an older probe in it is replaced.")],
    split: Annotated[
        str | None,
        typer.Option(help="Learn from this split; train by default, where there are splits.", show_default=False),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Learn from so many positives, and negatives, of each finding; from all by default.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[str | None, typer.Option(help="One of the encoder's outputs; its first by default.")] = None,
    pool: Annotated[
        str, typer.Option(help="Tokens to one vector: mean, max, flatten, or attention (learned, needs torch).")
    ] = "mean",
    findings: Findings = None,
    kind: Annotated[str, typer.Option(help="linear, mlp (one hidden layer) or knn (nearest neighbours).")] = "linear",
    balance: Annotated[
        str, typer.Option(help="none, balanced (positives weigh as much as negatives) or focal.")
    ] = "none",
    strength: Annotated[
        float | None,
        typer.Option(
            help="scikit-learn's C, on standardised vectors; chosen for each finding by cross-validation by default.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            help="youden, f1, sensitivity=0.9 or specificity=0.9: the rule for thresholds.", show_default=False
        ),
    ] = None,
    thresholds_split: Annotated[
        str | None,
        typer.Option(help="Choose thresholds on this split, which the probe does not learn from, and keep them."),
    ] = None,
    extra: Extra = None,
    uncertain: Uncertain = "unknown",
    seed: Annotated[int, typer.Option(min=0, help="Of the draw, folds and first weights.")] = 0,
    as_json: Json = False,
) -> None:
    """Train a probe: one classifier for each finding, on the images where its label is known.

    A patient is never on both sides of the cross-validation. A finding whose labels are all alike is left out and
    named.
    """
    from cxr_embed.manifest import read_labels
    from cxr_embed.probe.cases import few_cases, match_cases
    from cxr_embed.probe.files import make_trained, save_probe
    from cxr_embed.probe.vectors import StoreSource
    from cxr_embed.store import open_store

    if threshold is not None and thresholds_split is None:
        fail("--threshold is chosen on cases that the probe does not learn from: name them with --thresholds-split", 2)
    opened = open_store(store)
    chosen = _output(opened, output)
    probe = _make_probe(kind, pool, balance, strength, seed, opened.spec.outputs[chosen])
    labels = read_labels(manifest, extra=extra or ())
    part = _default_split(labels, split)
    cases = match_cases(opened, labels, split=part, findings=findings, uncertain=_uncertain(uncertain))
    if shots is not None:
        cases = few_cases(cases, shots, seed)
    probe.fit_source(StoreSource(opened, cases.ids, chosen, probe.pooling), cases.values, cases.patients)
    trained = make_trained(probe, opened, chosen, cases, manifest, split=part, uncertain=uncertain)
    notes = list(cases.notes)
    if thresholds_split is not None:
        trained, more = thresholds_on(trained, opened, labels, thresholds_split, threshold, uncertain)
        notes += more
    save_probe(out, trained)
    if split is None and part is None:
        notes.append("the labels have no column split: the probe learned from all of them")
    if as_json:
        print_json({"out": str(out), **trained.describe(), "notes": notes, "note": RESEARCH})
        return
    _print_trained(trained, cases, notes, out)


@app.command(
    "predict",
    epilog="Example: `cxr-embed probe predict probes/hog vectors/hog --out scores.csv --labels data/manifest.csv "
    "--split test`",
)
def predict(
    probe: Annotated[Path, typer.Argument(help="The probe's folder.")],
    store: StorePath,
    out: Annotated[Path, typer.Option(help="Probabilities to write: .csv or .parquet.")],
    labels: Annotated[
        Path | None, typer.Option(help="Manifest, or a table that says which images are in a split.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Predict this split of the labels only, e.g. test.")] = None,
    extra: Extra = None,
    as_json: Json = False,
) -> None:
    """Write the probability of each finding for the images of a store; the file is like that of `zeroshot`.

    Another encoder's store is refused. Images of patients that the probe learned from are counted: their scores say
    nothing about how well it works.
    """
    import numpy as np

    from cxr_embed.manifest import read_labels
    from cxr_embed.probe.cases import match_cases, own_patients
    from cxr_embed.probe.files import load_probe
    from cxr_embed.screening import check_scores_target, write_scores
    from cxr_embed.store import open_store
    from cxr_embed.zeroshot import Scores

    if split is not None and labels is None:
        fail("--split needs --labels, a manifest that says which images are in it", 2)
    check_scores_target(out)
    trained, opened = load_probe(probe), open_store(store)
    trained.check_store(opened)
    notes: list[str] = []
    ids, patients = opened.ids, own_patients(opened.ids, opened.patient_ids)
    if labels is not None:
        cases = match_cases(opened, read_labels(labels, extra=extra or ()), split=split, known=False)
        ids, patients, notes = cases.ids, cases.patients, list(cases.notes)
    values = trained.predict(opened, ids)
    learned = [number for number in range(len(trained.findings)) if number not in trained.probe.undefined_]
    names = tuple(trained.findings[number] for number in learned)
    seen = np.flatnonzero(trained.seen(patients))
    if len(seen):
        notes.append(
            f"{len(seen):,} of {len(ids):,} images are of patients that the probe learned from ({ids[seen[0]]} is the "
            "first): leave them out of any evaluation"
        )
    notes += [f"{name} has no scores: {reason}" for name, reason in trained.undefined.items()]
    about = {"encoder": trained.spec.name, "fingerprint": trained.spec.fingerprint, "probe": str(probe)}
    write_scores(out, Scores(ids, names, values[:, learned], "probability"), about)
    if as_json:
        counts = {"images": len(ids), "findings": list(names), "images_of_training_patients": len(seen)}
        print_json({"out": str(out), **about, **counts, "notes": notes, "note": RESEARCH})
        return
    _tell_notes(notes)
    typer.echo(f"{out}: {plural(len(ids), 'image')}, {plural(len(names), 'finding')}; probabilities of {probe}")
    typer.echo(RESEARCH)


@app.command(
    "curve",
    epilog="Example: `cxr-embed probe curve vectors/hog data/manifest.csv --store vectors/densenet --out curve`",
)
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
    seeds: Annotated[int, typer.Option(min=1, help="Draws of each size.")] = 10,
    train: Annotated[str, typer.Option(help="The split to draw from.")] = "train",
    test: Annotated[str, typer.Option(help="The split to test on.")] = "test",
    output: Annotated[
        list[str] | None, typer.Option(help="An output for each store, in their order; the first ones by default.")
    ] = None,
    pool: Annotated[str, typer.Option(help="Tokens to one vector: mean, max or flatten.")] = "mean",
    findings: Findings = None,
    extra: Extra = None,
    uncertain: Uncertain = "unknown",
    as_json: Json = False,
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

    sizes = _shots(shots)
    stores = [open_store(path) for path in (store, *(more or ()))]
    outputs: Sequence[str | None] = output or [None] * len(stores)
    if len(outputs) != len(stores):
        fail(f"--output is given once for each store, {len(stores)} times, or not at all", 2)
    chosen = [_output(opened, name) for opened, name in zip(stores, outputs, strict=True)]
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
            uncertain=_uncertain(uncertain),
            progress=progress,
        )
    about = _about(encoders, manifest, train, test, pool, uncertain)
    write_curve(out, found, about)
    if as_json:
        told = to_json(found, about)
        print_json({"out": str(out), **{k: told[k] for k in ("encoders", "summary", "differences", "notes")}})
        return
    _print_curve(found, out)


def _make_probe(kind: str, pool: str, balance: str, strength: float | None, seed: int, shape: tuple[int, ...]) -> Probe:
    from cxr_embed.probe.attention import AttentionProbe
    from cxr_embed.probe.heads import KNNProbe, MLPProbe
    from cxr_embed.probe.linear import LinearProbe
    from cxr_embed.probe.selection import BALANCES
    from cxr_embed.probe.vectors import POOLS

    if kind not in ("linear", "mlp", "knn"):
        fail(f"--kind is linear, mlp or knn, not {kind!r}", 2)
    if pool not in (*POOLS, "attention"):
        fail(f"--pool is {', '.join(POOLS)} or attention, not {pool!r}", 2)
    if balance not in BALANCES:
        fail(f"--balance is {', '.join(BALANCES)}, not {balance!r}", 2)
    if strength is not None and not 0 < strength < float("inf"):
        fail(f"--strength is a number above 0, not {strength:g}", 2)
    if kind != "linear" and (balance != "none" or strength is not None or pool == "attention"):
        fail(f"--balance, --strength and --pool attention are for --kind linear, not {kind}", 2)
    if kind == "mlp":
        return MLPProbe(pool=pool, seed=seed)
    if kind == "knn":
        return KNNProbe(pool=pool)
    if pool == "attention":
        return AttentionProbe(shape[-1], strength=strength or "auto", balance=balance, seed=seed)
    return LinearProbe(strength or "auto", balance=balance, pool=pool, seed=seed)


def _output(store: Store, output: str | None) -> str:
    if output is not None and output not in store.spec.outputs:
        fail(f"{store.path} has no output {output!r}; it has {', '.join(store.spec.outputs)}")
    return output or next(iter(store.spec.outputs))


def _uncertain(word: str) -> Any:
    if word not in ("unknown", "positive", "negative"):
        fail(f"--uncertain is unknown, positive or negative, not {word!r}", 2)
    return word


def _default_split(labels: Manifest, split: str | None) -> str | None:
    return split or ("train" if "split" in labels.table.column_names else None)


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


def _print_trained(trained: TrainedProbe, cases: Cases, notes: list[str], out: Path) -> None:
    described = trained.describe()
    heads = ["finding", "positive", "negative", "unknown"]
    heads += ["strength"] if described["strengths"] else []
    heads += ["threshold"] if trained.thresholds else []
    rows = []
    for name in trained.findings:
        row = [name, *(f"{count:,}" for count in described["labels"]["counts"][name].values())]
        if described["strengths"]:
            row.append(f"{described['strengths'][name]:.3g}" if name in described["strengths"] else "-")
        if trained.thresholds:
            row.append(f"{trained.thresholds[name]:.4f}" if name in trained.thresholds else "-")
        rows.append(row)
    _print_table(heads, rows)
    _tell_notes([*notes, *(f"{name} is left out: {reason}" for name, reason in trained.undefined.items())])
    learned = len(trained.findings) - len(trained.undefined)
    typer.echo(
        f"{out}: {trained.probe.kind} probe of {plural(learned, 'finding')}, from {plural(len(cases), 'image')} of "
        f"{plural(len(trained.patients), 'patient')}; {trained.spec.name}, {trained.output}"
    )
    typer.echo(RESEARCH)


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
    _print_table(heads, rows)
    fewer = "; not every size covers the same findings" if len(covered) > 1 else ""
    typer.echo(f"mean AUROC over findings, and its standard deviation over draws{fewer}")
    _tell_notes([*curve.notes, *undefined_sizes(curve)])
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


def _print_table(heads: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if not number else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


def _tell_notes(notes: Sequence[str]) -> None:
    for note in notes:
        typer.echo(f"note: {note}")
