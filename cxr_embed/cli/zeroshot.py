"""`cxr-embed zeroshot` and `cxr-embed prompts`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_embed.choices import Ensemble, ScoreKind
from cxr_embed.cli import terminal
from cxr_embed.cli.common import RESEARCH, fail, print_json, progress_bar
from cxr_embed.cli.options import (
    AsJson,
    Blank,
    Bootstraps,
    CountNoFinding,
    Device,
    Extra,
    Findings,
    Prevalence,
    Seed,
    Split,
    StorePath,
    Uncertain,
    Weights,
    prevalences,
)
from cxr_embed.cli.question import ask_store
from cxr_embed.present.console import print_facts, print_sentence, print_tables
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.api.scores import ScoreFrame
    from cxr_embed.screening import FindingReport, Report

EXAMPLE = "Example: `cxr-embed zeroshot vectors/cxr --prompts nih14 --out scores.csv --labels data/manifest.csv`"
PROMPTS_EXAMPLE = "Example: `cxr-embed prompts nih14`"
CutPrompts = Annotated[
    bool, typer.Option("--cut-prompts", help="Read the beginning of prompts that are longer than it reads.")
]


Ask = Annotated[
    list[str] | None,
    typer.Option(
        help="One question in words instead of --prompts, such as 'pneumothorax': the images that show it most. "
        "NAME=WORDS where the labels name it otherwise (repeatable).",
        show_default=False,
    ),
]
Against = Annotated[
    list[str] | None,
    typer.Option(
        help="For --ask: what the question is compared with; its denial ('no pneumothorax') by default. Once for each "
        "--ask.",
        show_default=False,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(help="Manifest, or a table of image_id and findings, for the report, or the AUROC of --ask."),
]
Montage = Annotated[
    Path | None, typer.Option(help="For --ask: draw each question and its images into a file: .png or .pdf.")
]
ManifestPath = Annotated[
    Path | None,
    typer.Option(
        help="For --ask: what is known of the images, and where they are (--montage); its findings are the labels, "
        "unless --labels names others."
    ),
]
Root = Annotated[Path | None, typer.Option(help="For --montage: folder of the radiographs, if not the manifest's own.")]
Threshold = Annotated[
    str | None,
    typer.Option(
        help="sensitivity=0.95 (the default with labels), specificity=0.9, flag-rate=0.1, youden, f1, chosen on these "
        "images; or a number. Without labels: flag-rate or a number.",
        show_default=False,
    ),
]
Sensitivity = Annotated[float | None, typer.Option(hidden=True, help="Until 0.4: --threshold sensitivity=...")]
FlagRate = Annotated[float | None, typer.Option(hidden=True, help="Until 0.4: --threshold flag-rate=...")]
Score = Annotated[ScoreKind | None, typer.Option(help="The encoder's own by default.", show_default=False)]


def zeroshot(
    store: StorePath,
    prompts: Annotated[
        str | None, typer.Option(help="A set from `cxr-embed prompts`, or a prompt file (.yaml).")
    ] = None,
    ask: Ask = None,
    against: Against = None,
    out: Annotated[Path | None, typer.Option(help="Scores to write: .csv or .parquet; --ask needs none.")] = None,
    findings: Findings = None,
    labels: Labels = None,
    extra: Extra = None,
    split: Split = None,
    uncertain: Uncertain = "unknown",
    blank: Blank = None,
    k: Annotated[int | None, typer.Option("-k", help="For --ask: images wanted (10).", show_default=False)] = None,
    montage: Montage = None,
    manifest: ManifestPath = None,
    root: Root = None,
    threshold: Threshold = None,
    sensitivity: Sensitivity = None,
    flag_rate: FlagRate = None,
    prevalence: Prevalence = None,
    report: Annotated[Path | None, typer.Option(help="Report to write: .md or .json.")] = None,
    score: Score = None,
    ensemble: Annotated[Ensemble, typer.Option(help="Average a finding's scores, or its prompts' vectors.")] = "scores",
    weights: Weights = None,
    device: Device = "auto",
    cut_prompts: CutPrompts = False,
    count_no_finding: CountNoFinding = False,
    bootstraps: Bootstraps = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Score every image of a store against prompts, and report how well that works.

    Nothing but the stored vectors is read: neither the images nor the image model. Prompts that the store does not
    hold are embedded by its text model and kept in the store.

    A score is `margin` (positive minus negative cosine: ELIXR's rule and default), `softmax` (of the two logits: the
    default for CLIP and SigLIP) or `sigmoid` (of the positive alone). None is a probability, and 0.5 is not a
    threshold: choose one by `--threshold`.

    `--ask "pneumothorax"` needs no prompt file: the words are compared with 'no pneumothorax' (or `--against`) by
    `margin`, and the images that score highest are listed; with labels, their AUROC. It asks with these words alone: a
    set of `cxr-embed prompts` asks for a finding in several ways, and `--prompts` takes one.
    """
    how: dict[str, Any] = {"score": score, "ensemble": ensemble, "weights": weights, "device": device}
    how |= {"cut_prompts": cut_prompts}
    labelled: dict[str, Any] = {
        "labels": labels,
        "extra": extra or (),
        "split": split,
        "uncertain": uncertain,
        "blank": blank,
    }
    threshold = _earlier_spelling(threshold, sensitivity, flag_rate)
    for_prompts: dict[str, Any] = {"--report": report, "--threshold": threshold, "--finding": findings}
    for_prompts |= {"--prevalence": prevalence, "--count-no-finding": count_no_finding or None}
    for_ask: dict[str, Any] = {"--against": against, "-k": k, "--montage": montage, "--manifest": manifest}
    for_ask |= {"--root": root}
    _check_kind(ask, prompts, for_prompts, for_ask)
    if ask:
        how |= {"k": 10 if k is None else k, "against": against or (), "bootstraps": bootstraps, "seed": seed}
        files: dict[str, Any] = {"out": out, "montage": montage, "manifest": manifest, "root": root}
        ask_store(store, ask, **files, **labelled, **how, as_json=as_json)
        return
    if prompts is None or out is None:
        fail("zeroshot needs --out FILE, for the scores", 2)
    _check(labels, split, prevalence, report)
    from cxr_embed.api.screen import screen
    from cxr_embed.prompts import load_prompt_set
    from cxr_embed.screening import check_scores_target

    check_scores_target(out)
    with progress_bar() as progress:
        made = screen(
            store,
            load_prompt_set(prompts),
            findings=findings,
            **labelled,
            threshold=threshold,
            prevalence=prevalences(prevalence),
            **how,
            count_no_finding=count_no_finding,
            bootstraps=bootstraps,
            seed=seed,
            progress=progress,
        )
    _hand_out(made, out, report, as_json)


def _earlier_spelling(threshold: str | None, sensitivity: float | None, flag_rate: float | None) -> str | None:
    """`--sensitivity 0.95` and `--flag-rate 0.1` as `--threshold` has them; a note says so."""
    earlier = [("sensitivity", sensitivity), ("flag-rate", flag_rate)]
    given = [f"{name}={value:g}" for name, value in earlier if value is not None]
    if not given:
        return threshold
    if len(given) > 1 or threshold is not None:
        fail("give one of --threshold, --sensitivity and --flag-rate: one threshold cannot be chosen twice", 2)
    typer.echo(f"note: --{given[0].partition('=')[0]} is --threshold {given[0]} now, and goes in 0.4", err=True)
    return given[0]


def _check_kind(
    ask: list[str] | None, prompts: str | None, for_prompts: dict[str, Any], for_ask: dict[str, Any]
) -> None:
    """Refuses options of one kind of question beside the other kind."""
    if not ask and prompts is None:
        fail("zeroshot needs --prompts SET, or --ask 'pneumothorax'", 2)
    if ask and prompts is not None:
        fail("give --prompts or --ask, not both", 2)
    wrong = [name for name, value in (for_prompts if ask else for_ask).items() if value is not None]
    if wrong:
        fail(f"{wrong[0]} is for {'--prompts' if ask else '--ask'}", 2)


def _hand_out(made: ScoreFrame, out: Path, report: Path | None, as_json: bool) -> None:
    assert made.report is not None
    about = dict(made.about)
    made.save(out)
    if report is not None:
        _write_report(report, made.report, about)
    if as_json:
        counts = {"images": len(made), "prompts_embedded": made.embedded}
        body = {"notes": list(made.notes), "report": made.report.to_json(), "note": RESEARCH}
        print_json({"out": str(out), **about, **counts, **body})
    else:
        _print(made.report, made, about, out)


def _check(labels: Path | None, split: str | None, prevalence: list[str] | None, report: Path | None) -> None:
    if labels is None and (split is not None or prevalence):
        fail("--split and --prevalence are for the report on --labels; give --labels too", 2)
    if report is not None and report.suffix not in (".md", ".json"):
        fail(f"--report is a file whose name ends in .md or .json, not {report}", 2)


_SHOWN_FAULTS = 3


def _write_report(path: Path, report: Report, about: dict[str, str]) -> None:
    from cxr_embed.errors import StoreError
    from cxr_embed.io.files import write_whole
    from cxr_embed.screening.report_tables import to_markdown

    if path.suffix == ".json":
        text = json.dumps({**about, **report.to_json(), "note": RESEARCH}, indent=2, ensure_ascii=False) + "\n"
    else:
        text = to_markdown(report, about, RESEARCH)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror}); the scores are written") from None


def _print(report: Report, made: ScoreFrame, about: dict[str, str], out: Path) -> None:
    """The report for people, as wide as the terminal."""
    from cxr_embed.screening.report_tables import polarity, ranking_table, threshold_table

    console = terminal.console()
    ranking, thresholds = ranking_table(report), threshold_table(report)
    shown = [ranking, *([thresholds] if thresholds is not None else [])]
    # Without labels there is no row of a mean, and single pairs need the room.
    print_tables(console, shown, side_by_side=report.labels is not None)
    if report.rule is not None:
        own = "; * the labels' own prevalence" if any(_owns(finding) for finding in report.findings) else ""
        console.print(f"thresholds for {report.rule.words}{own}")
    for title, sentences in (
        ("polarity", polarity(report, _SHOWN_FAULTS)),
        ("note", [*report.warnings, *made.notes]),
    ):
        for sentence in sentences:
            print_sentence(console, title, sentence)
    counts = f"{counted(len(made), 'image')}, {counted(len(report.findings), 'finding')}"
    new = f", {counted(made.embedded, 'prompt')} embedded" if made.embedded else ""
    print_sentence(console, str(out), f"{counts}{new}; {about['score']} of {about['encoder']} with {about['prompts']}")
    typer.echo(RESEARCH)


def _owns(finding: FindingReport) -> bool:
    return finding.prevalence is not None and not finding.prevalence_stated


def prompts(
    name: Annotated[
        str | None, typer.Argument(help="A set, or a prompt file; all sets are listed by default.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the prompt sets that come along, or show what a set or a prompt file asks; its faults, if it has any."""
    from cxr_embed.prompts import load_prompt_set, prompt_set_names

    if name is None:
        sets = [load_prompt_set(known) for known in prompt_set_names()]
        if as_json:
            print_json([{"name": s.name, "title": s.title, "findings": [f.name for f in s.findings]} for s in sets])
            return
        counts = [f"{counted(len(s.findings), 'finding')}, {counted(len(s.prompts), 'prompt')}" for s in sets]
        facts = [(known.name, f"{known.title} ({count})") for known, count in zip(sets, counts, strict=True)]
        print_facts(terminal.console(), facts, 11)
        return
    chosen = load_prompt_set(name)
    if as_json:
        print_json({**asdict(chosen), "digest": chosen.digest})
        return
    typer.echo(chosen.title or chosen.name)
    for finding in chosen.findings:
        typer.echo(f"\n{finding.name}")
        typer.echo(f"  + {', '.join(finding.positive)}")
        typer.echo(f"  - {', '.join(finding.negative) or 'none: for --score sigmoid only'}")
    for source in chosen.sources:
        typer.echo(f"\nsource: {source}" if source == chosen.sources[0] else f"source: {source}")
