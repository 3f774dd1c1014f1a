"""`cxr-embed probe train | predict`, and what the verbs of probes share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_embed.cli import tables
from cxr_embed.cli.common import RESEARCH, fail, plural, print_json
from cxr_embed.cli.evaluate import AsJson, Extra, Uncertain, check_uncertain
from cxr_embed.cli.probe_evaluate import thresholds_on
from cxr_embed.cli.terminal import console

if TYPE_CHECKING:
    from cxr_embed.manifest import Manifest
    from cxr_embed.probe.base import Probe
    from cxr_embed.probe.cases import Cases
    from cxr_embed.probe.persistence import TrainedProbe
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
Shots = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Learn from so many positives, and negatives, of each finding; from all by default.",
        show_default=False,
    ),
]
Strength = Annotated[
    float | None,
    typer.Option(
        help="scikit-learn's C, on standardised vectors; chosen for each finding by cross-validation by default.",
        show_default=False,
    ),
]


@app.command("train", epilog="Example: `cxr-embed probe train vectors/hog data/manifest.csv --out probes/hog`")
def train(
    store: StorePath,
    manifest: ManifestPath,
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
        str, typer.Option(help="Tokens to one vector: mean, max, flatten, or attention (learned, needs torch).")
    ] = "mean",
    findings: Findings = None,
    kind: Annotated[str, typer.Option(help="linear, mlp (one hidden layer) or knn (nearest neighbours).")] = "linear",
    balance: Annotated[
        str, typer.Option(help="none, balanced (positives weigh as much as negatives) or focal.")
    ] = "none",
    strength: Strength = None,
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
    as_json: AsJson = False,
) -> None:
    """Train a probe: one classifier for each finding, on the images where its label is known.

    A patient is never on both sides of the cross-validation. A finding whose labels are all alike is left out and
    named.
    """
    from cxr_embed.manifest import read_labels
    from cxr_embed.probe.cases import few_cases, match_cases
    from cxr_embed.probe.features import StoreSource
    from cxr_embed.probe.persistence import make_trained, save_probe
    from cxr_embed.store import open_store

    if threshold is not None and thresholds_split is None:
        fail("--threshold is chosen on cases that the probe does not learn from: name them with --thresholds-split", 2)
    check_uncertain(uncertain)
    opened = open_store(store)
    chosen = stored_output(opened, output)
    probe = _make_probe(kind, pool, balance, strength, seed, opened.spec.outputs[chosen])
    labels = read_labels(manifest, extra=extra or ())
    part = _default_split(labels, split)
    cases = match_cases(opened, labels, split=part, findings=findings, uncertain=uncertain)  # type: ignore[arg-type]
    if shots is not None:
        cases = few_cases(cases, shots, seed)
    probe.fit_source(StoreSource(opened, cases.ids, chosen, probe.pooling), cases.values, cases.patients)
    trained = make_trained(probe, opened, chosen, cases, manifest, split=part, uncertain=uncertain)
    notes = [*cases.notes, *([probe.alike_] if probe.alike_ else []), *_unconverged_notes(trained)]
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
    as_json: AsJson = False,
) -> None:
    """Write the probability of each finding for the images of a store; the file is like that of `zeroshot`.

    Another encoder's store is refused. Images of patients that the probe learned from have 1 in the column
    `learned_from`: their scores say nothing about how well it works, and evaluations leave them out.
    """
    import numpy as np

    from cxr_embed.manifest import read_labels
    from cxr_embed.probe.cases import match_cases, own_patients
    from cxr_embed.probe.persistence import load_probe
    from cxr_embed.screening import check_scores_target, write_scores
    from cxr_embed.store import open_store
    from cxr_embed.types import LEARNED
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
    learned_from = trained.seen(patients, ids)
    seen = np.flatnonzero(learned_from)
    known = len(trained.images) > 0 or not all(patient.startswith("\n") for patient in patients.tolist())
    if len(seen):
        notes.append(
            f"{len(seen):,} of {len(ids):,} images are of patients that the probe learned from ({ids[seen[0]]} is the "
            f"first): marked in the column {LEARNED}, and left out of evaluations"
        )
    if not known:
        notes.append(
            "whom this probe learned from is not known here: the store has no patients; name --labels, or train anew"
        )
    notes += [f"{name} has no scores: {reason}" for name, reason in trained.undefined.items()]
    notes += _unconverged_notes(trained)
    about = {"encoder": trained.spec.name, "fingerprint": trained.spec.fingerprint, "probe": str(probe)}
    about |= {"stand_in": trained.spec.stand_in} if trained.spec.stand_in else {}
    seen_here, stand_in = learned_from if known else None, trained.spec.untrained
    write_scores(out, Scores(ids, names, values[:, learned], "probability", seen_here, stand_in), about)
    if as_json:
        counts = {"images": len(ids), "findings": list(names), "images_of_training_patients": len(seen)}
        print_json({"out": str(out), **about, **counts, "notes": notes, "note": RESEARCH})
        return
    tell_notes(notes)
    typer.echo(f"{out}: {plural(len(ids), 'image')}, {plural(len(names), 'finding')}; probabilities of {probe}")
    typer.echo(RESEARCH)


def _make_probe(kind: str, pool: str, balance: str, strength: float | None, seed: int, shape: tuple[int, ...]) -> Probe:
    from cxr_embed.probe.attention import AttentionProbe
    from cxr_embed.probe.features import POOLS
    from cxr_embed.probe.heads import KNNProbe, MLPProbe
    from cxr_embed.probe.linear import LinearProbe
    from cxr_embed.probe.selection import BALANCES

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


def stored_output(store: Store, output: str | None) -> str:
    """The output that was asked for, or the one that probes learn from; ends the program where there is none such."""
    if output is not None and output not in store.spec.outputs:
        fail(f"{store.path} has no output {output!r}; it has {', '.join(store.spec.outputs)}")
    return output or store.spec.probe_output


def _default_split(labels: Manifest, split: str | None) -> str | None:
    return split or ("train" if "split" in labels.table.column_names else None)


def _unconverged_notes(trained: TrainedProbe) -> list[str]:
    """What was not fully trained, a line a reason."""
    names: dict[str, list[str]] = {}
    for name, reason in trained.unconverged.items():
        names.setdefault(reason, []).append(name)
    return [f"not fully trained: {', '.join(found)}: {reason}" for reason, found in names.items()]


def _print_trained(trained: TrainedProbe, cases: Cases, notes: list[str], out: Path) -> None:
    from cxr_embed.types import threshold_told

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
            row.append(threshold_told(trained.thresholds[name]) if name in trained.thresholds else "-")
        rows.append(row)
    print_table(heads, rows)
    tell_notes([*notes, *(f"{name} is left out: {reason}" for name, reason in trained.undefined.items())])
    learned = len(trained.findings) - len(trained.undefined)
    typer.echo(
        f"{out}: {trained.probe.kind} probe of {plural(learned, 'finding')}, from {plural(len(cases), 'image')} of "
        f"{plural(len(trained.patients), 'patient')}; {trained.spec.name}, {trained.output}"
    )
    typer.echo(RESEARCH)


def print_table(heads: list[str], rows: list[list[str]]) -> None:
    """Prints a table, its first column to the left and figures to the right."""
    tables.print_table(console(), tables.columns_of(heads, rows))


def tell_notes(notes: Sequence[str]) -> None:
    """Prints a line for each note."""
    for note in notes:
        typer.echo(f"note: {note}")
