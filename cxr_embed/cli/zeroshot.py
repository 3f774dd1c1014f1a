"""`cxr-embed zeroshot` and `cxr-embed prompts`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_embed.cli import terminal
from cxr_embed.cli.common import RESEARCH, fail, plural, prevalences, print_json, progress_bar
from cxr_embed.cli.evaluate import CountNoFinding, Extra, Uncertain, check_uncertain
from cxr_embed.cli.question import ask_store
from cxr_embed.present.console import print_facts, print_sentence, print_tables

if TYPE_CHECKING:
    from cxr_embed.screening import FindingReport, Goal, Report, Screening

EXAMPLE = "Example: `cxr-embed zeroshot vectors/cxr --prompts nih14 --out scores.csv --labels data/manifest.csv`"
PROMPTS_EXAMPLE = "Example: `cxr-embed prompts nih14`"
_SENSITIVITY = 0.95
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
Sensitivity = Annotated[
    float | None,
    typer.Option(
        help="Choose thresholds that find this part of the positives (with labels: 0.95).", show_default=False
    ),
]
FlagRate = Annotated[
    float | None, typer.Option(help="Choose thresholds that flag at most this part of the images instead.")
]
Prevalence = Annotated[
    list[str] | None,
    typer.Option(help="Part of images with the finding where you screen: 0.02, or Pneumothorax=0.02 (repeatable)."),
]
Score = Annotated[
    str | None, typer.Option(help="margin, softmax or sigmoid; the encoder's own by default.", show_default=False)
]


def zeroshot(
    store: Annotated[Path, typer.Argument(help="The store's folder.")],
    prompts: Annotated[
        str | None, typer.Option(help="A set from `cxr-embed prompts`, or a prompt file (.yaml).")
    ] = None,
    ask: Ask = None,
    against: Against = None,
    out: Annotated[Path | None, typer.Option(help="Scores to write: .csv or .parquet; --ask needs none.")] = None,
    labels: Labels = None,
    extra: Extra = None,
    split: Annotated[str | None, typer.Option(help="Report on this split of the labels only, e.g. test.")] = None,
    uncertain: Uncertain = "unknown",
    k: Annotated[int | None, typer.Option("-k", help="For --ask: images wanted (10).", show_default=False)] = None,
    montage: Montage = None,
    manifest: ManifestPath = None,
    root: Root = None,
    sensitivity: Sensitivity = None,
    flag_rate: FlagRate = None,
    prevalence: Prevalence = None,
    report: Annotated[Path | None, typer.Option(help="Report to write: .md or .json.")] = None,
    score: Score = None,
    ensemble: Annotated[str, typer.Option(help="Average a finding's `scores`, or its prompts' `vectors`.")] = "scores",
    weights: Annotated[Path | None, typer.Option(help="Of the text model, for prompts that are new.")] = None,
    device: Annotated[str, typer.Option(help="Of the text model: auto, cpu or cuda.")] = "auto",
    cut_prompts: CutPrompts = False,
    count_no_finding: CountNoFinding = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary and report as JSON.")] = False,
) -> None:
    """Score every image of a store against prompts, and report how well that works.

    Nothing but the stored vectors is read: neither the images nor the image model. Prompts that the store does not
    hold are embedded by its text model and kept in the store.

    A score is `margin` (positive minus negative cosine: ELIXR's rule and default), `softmax` (of the two logits: the
    default for CLIP and SigLIP) or `sigmoid` (of the positive alone). None is a probability, and 0.5 is no threshold:
    choose one by `--sensitivity` or `--flag-rate`.

    `--ask "pneumothorax"` needs no prompt file: the words are compared with 'no pneumothorax' (or `--against`) by
    `margin`, and the images that score highest are listed; with labels, their AUROC. It asks with these words alone: a
    set of `cxr-embed prompts` asks for a finding in several ways, and `--prompts` takes one.
    """
    how: dict[str, Any] = {
        "score": score,
        "ensemble": ensemble,
        "weights": weights,
        "device": device,
        "cut_prompts": cut_prompts,
    }
    truth: dict[str, Any] = {"labels": labels, "extra": extra or (), "split": split, "uncertain": uncertain}
    check_uncertain(uncertain)
    for_prompts: dict[str, Any] = {"--report": report, "--sensitivity": sensitivity, "--flag-rate": flag_rate}
    for_prompts |= {"--prevalence": prevalence, "--count-no-finding": count_no_finding or None}
    for_ask: dict[str, Any] = {
        "--against": against,
        "-k": k,
        "--montage": montage,
        "--manifest": manifest,
        "--root": root,
    }
    _check_kind(ask, prompts, for_prompts, for_ask)
    if ask:
        shown: dict[str, Any] = {
            "k": 10 if k is None else k,
            "out": out,
            "montage": montage,
            "manifest": manifest,
            "root": root,
        }
        ask_store(store, ask, against or (), **shown, **truth, how=how, as_json=as_json)
        return
    if prompts is None or out is None:
        fail("zeroshot needs --out FILE, for the scores", 2)
    goal = _goal(sensitivity, flag_rate, labels)
    _check(labels, split, prevalence, report)
    wanted = {"goal": goal, "count_no_finding": count_no_finding, **how, **truth}
    screening, made, about = _screen(store, prompts, out, prevalence or [], wanted)
    _hand_out(screening, made, about, out, report, as_json)


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


def _screen(
    store: Path, prompts: str, out: Path, prevalence: list[str], wanted: dict[str, Any]
) -> tuple[Screening, Report, dict[str, str]]:
    from cxr_embed.manifest import read_labels
    from cxr_embed.prompts import load_prompt_set
    from cxr_embed.screening import check_scores_target, screen
    from cxr_embed.store import open_store

    check_scores_target(out)
    opened, asked = open_store(store), load_prompt_set(prompts)
    rates = prevalences(prevalence, [finding.name for finding in asked.findings], "the prompts ask for")
    labels, extra = wanted.pop("labels"), wanted.pop("extra")
    table = read_labels(labels, extra=extra) if labels is not None else None
    with progress_bar() as progress:
        screening, made = screen(opened, asked, labels=table, prevalence=rates, progress=progress, **wanted)
    about = {"prompts": asked.name, "prompts_digest": asked.digest, "score": screening.scores.kind}
    about = {"encoder": opened.spec.name, "fingerprint": opened.spec.fingerprint, **about}
    stand_in = {"stand_in": opened.spec.stand_in} if opened.spec.stand_in else {}
    return screening, made, {**about, "ensemble": wanted["ensemble"], **stand_in}


def _hand_out(
    screening: Screening, made: Report, about: dict[str, str], out: Path, report: Path | None, as_json: bool
) -> None:
    from cxr_embed.screening import write_scores

    write_scores(out, screening.scores, about)
    if report is not None:
        _write_report(report, made, about)
    if as_json:
        counts = {"images": len(screening.scores.ids), "prompts_embedded": screening.embedded}
        told = {"notes": list(screening.notes), "report": made.to_json(), "note": RESEARCH}
        print_json({"out": str(out), **about, **counts, **told})
    else:
        _print(made, screening, about, out)


def _check(labels: Path | None, split: str | None, prevalence: list[str] | None, report: Path | None) -> None:
    if labels is None and (split is not None or prevalence):
        fail("--split and --prevalence are for the report on --labels; give --labels too", 2)
    if report is not None and report.suffix not in (".md", ".json"):
        fail(f"--report is a file whose name ends in .md or .json, not {report}", 2)


def _goal(sensitivity: float | None, flag_rate: float | None, labels: Path | None) -> Goal | None:
    from cxr_embed.screening import Goal

    if sensitivity is not None and flag_rate is not None:
        fail("give --sensitivity or --flag-rate, not both: one threshold cannot be chosen twice", 2)
    for option, value in (("--sensitivity", sensitivity), ("--flag-rate", flag_rate)):
        if value is not None and not 0 < value <= 1:
            fail(f"{option} is a part of 1, such as 0.95, not {value:g}", 2)
    if flag_rate is not None:
        return Goal("flag rate", flag_rate)
    if labels is None and sensitivity is not None:
        fail("--sensitivity needs --labels, which say what is to be found", 2)
    return Goal("sensitivity", sensitivity or _SENSITIVITY) if labels is not None else None


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


def _print(report: Report, screening: Screening, about: dict[str, str], out: Path) -> None:
    """The report for people, as wide as the terminal."""
    from cxr_embed.screening.report_tables import polarity, ranking_table, threshold_table

    console = terminal.console()
    ranking, thresholds = ranking_table(report), threshold_table(report)
    shown = [ranking, *([thresholds] if thresholds is not None else [])]
    # Without labels there is no row of a mean, and single pairs need the room.
    print_tables(console, shown, side_by_side=report.labels is not None)
    if report.goal is not None:
        own = "; * the labels' own prevalence" if any(_owns(finding) for finding in report.findings) else ""
        console.print(f"thresholds for {told_goal(report.goal)}{own}")
    for title, sentences in (
        ("polarity", polarity(report, _SHOWN_FAULTS)),
        ("note", [*report.warnings, *screening.notes]),
    ):
        for sentence in sentences:
            print_sentence(console, title, sentence)
    counted = f"{plural(len(screening.scores.ids), 'image')}, {plural(len(report.findings), 'finding')}"
    new = f", {plural(screening.embedded, 'prompt')} embedded" if screening.embedded else ""
    print_sentence(console, str(out), f"{counted}{new}; {about['score']} of {about['encoder']} with {about['prompts']}")
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
        counts = [f"{plural(len(s.findings), 'finding')}, {plural(len(s.prompts), 'prompt')}" for s in sets]
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
