"""`cxr-embed probe train | predict`, and what the verbs of probes share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_embed.choices import Balance, ProbeKind, ProbePooling
from cxr_embed.cli.common import RESEARCH, fail, print_json
from cxr_embed.cli.options import AsJson, Blank, Extra, LabelFile, ProbePath, StorePath, ThresholdsSplit, Uncertain
from cxr_embed.cli.terminal import console
from cxr_embed.present.console import columns_of, print_columns
from cxr_embed.present.tables import Table
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.probe.persistence import TrainedProbe

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Train classifiers of findings on stored vectors, with few labels.",
)
Learned = Annotated[
    list[str] | None,
    typer.Option(
        "--finding",
        help="A finding to learn (repeatable), or those of the vocabulary of findings (common); all of the labels by "
        "default.",
    ),
]
Shots = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Learn from so many positives, and negatives, of each finding; from all by default.",
        show_default=False,
    ),
]
InverseRegularisation = Annotated[
    float | None,
    typer.Option(
        "-C",
        help="scikit-learn's C, on standardised vectors; chosen for each finding by cross-validation by default.",
        show_default=False,
    ),
]


@app.command("train", epilog="Example: `cxr-embed probe train vectors/hog data/manifest.csv --out probes/hog`")
def train(
    store: StorePath,
    labels: LabelFile,
    out: Annotated[Path, typer.Option(help="Folder of the probe; an older probe in it is replaced.")],
    split: Annotated[
        str | None,
        typer.Option(help="Learn from this split; train by default, where there are splits.", show_default=False),
    ] = None,
    shots: Shots = None,
    output: Annotated[
        str | None, typer.Option(help="One of the encoder's outputs; `general` where it has one, else its first.")
    ] = None,
    pool: Annotated[
        ProbePooling, typer.Option(help="How tokens become one vector; attention is learned, and needs torch.")
    ] = "mean",
    findings: Learned = None,
    kind: Annotated[ProbeKind, typer.Option(help="mlp has one hidden layer, knn looks at neighbours.")] = "linear",
    balance: Annotated[Balance, typer.Option(help="balanced: positives weigh as much as negatives.")] = "none",
    C: InverseRegularisation = None,
    earlier_C: Annotated[float | None, typer.Option("--strength", hidden=True, help="Until 0.4: -C.")] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            help="youden, f1, sensitivity=0.9 or specificity=0.9: the rule for thresholds.", show_default=False
        ),
    ] = None,
    thresholds_split: ThresholdsSplit = None,
    extra: Extra = None,
    uncertain: Uncertain = "unknown",
    blank: Blank = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw, folds and first weights.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a probe: one classifier for each finding, on the images where its label is known.

    A patient is never on both sides of the cross-validation. A finding whose labels are all alike is left out and
    named.
    """
    from cxr_embed.api.probe import train_probe

    if earlier_C is not None:
        typer.echo("note: --strength is -C now, and goes in 0.4", err=True)
        C = earlier_C
    if threshold is not None and thresholds_split is None:
        fail("--threshold is chosen on cases that the probe does not learn from: name them with --thresholds-split", 2)
    probe = train_probe(
        store,
        labels,
        split=split,
        findings=findings,
        shots=shots,
        output=output,
        pool=pool,
        kind=kind,
        balance=balance,
        C=C,
        threshold=threshold,
        thresholds_split=thresholds_split,
        extra=extra or (),
        uncertain=uncertain,
        blank=blank,
        seed=seed,
    )
    probe.save(out)
    trained, notes = probe.trained, list(probe.notes)
    if as_json:
        print_json({"out": str(out), **trained.describe(), "notes": notes, "note": RESEARCH})
        return
    _print_trained(trained, notes, out)


@app.command(
    "predict",
    epilog="Example: `cxr-embed probe predict probes/hog vectors/hog --out scores.csv --labels data/manifest.csv "
    "--split test`",
)
def predict(
    probe: ProbePath,
    store: StorePath,
    out: Annotated[Path, typer.Option(help="Probabilities to write: .csv or .parquet.")],
    labels: Annotated[
        Path | None, typer.Option(help="Manifest, or a table that says which images are in a split.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Predict this split of the labels only, e.g. test.")] = None,
    extra: Extra = None,
    as_json: AsJson = False,
) -> None:
    """Write the probability of each finding for the images of a store; the file is like that of `zeroshot`.

    Another encoder's store is refused. Images of patients that the probe learned from have 1 in the column
    `learned_from`: their scores say nothing about how well it works, and evaluations leave them out.
    """
    from cxr_embed.api.probe import load_probe
    from cxr_embed.screening import check_scores_target

    if split is not None and labels is None:
        fail("--split needs --labels, a manifest that says which images are in it", 2)
    check_scores_target(out)
    scores = load_probe(probe).predict(store, labels, split=split, extra=extra or ())
    scores.save(out)
    notes, names, ids = scores.notes, scores.names, scores.ids
    if as_json:
        seen = 0 if scores.learned_from is None else int(scores.learned_from.sum())
        counts = {"images": len(ids), "findings": list(names), "images_of_training_patients": seen}
        print_json({"out": str(out), **scores.about, **counts, "notes": notes, "note": RESEARCH})
        return
    print_notes(notes)
    typer.echo(f"{out}: {counted(len(ids), 'image')}, {counted(len(names), 'finding')}; probabilities of {probe}")
    typer.echo(RESEARCH)


def _print_trained(trained: TrainedProbe, notes: list[str], out: Path) -> None:
    from cxr_embed.present.numbers import format_threshold

    described = trained.describe()
    heads = ["finding", "positive", "negative", "unknown"]
    heads += ["C"] if described["strengths"] else []
    heads += ["threshold"] if trained.thresholds else []
    rows = []
    for name in trained.findings:
        row = [name, *(f"{count:,}" for count in described["labels"]["counts"][name].values())]
        if described["strengths"]:
            row.append(f"{described['strengths'][name]:.3g}" if name in described["strengths"] else "-")
        if trained.thresholds:
            row.append(format_threshold(trained.thresholds[name]) if name in trained.thresholds else "-")
        rows.append(row)
    print_table(heads, rows)
    print_notes([*notes, *(f"{name} is left out: {reason}" for name, reason in trained.undefined.items())])
    learned = counted(len(trained.findings) - len(trained.undefined), "finding")
    images, patients = counted(trained.labels.images, "image"), counted(len(trained.patients), "patient")
    typer.echo(
        f"{out}: {trained.probe.kind} probe of {learned}, from {images} of {patients}; "
        f"{trained.spec.name}, {trained.output}"
    )
    typer.echo(RESEARCH)


def print_table(heads: list[str], rows: list[list[str]]) -> None:
    """Prints a table, its first column to the left and figures to the right."""
    print_columns(console(), columns_of(Table(heads=heads, rows=rows)))


def print_notes(notes: Sequence[str]) -> None:
    """Prints a line for each note."""
    for note in notes:
        typer.echo(f"note: {note}")
