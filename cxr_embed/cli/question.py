"""`cxr-embed zeroshot --ask`: single questions without a prompt file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cxr_embed.cli.common import RESEARCH, fail, plural, print_json, progress_bar
from cxr_embed.cli.search import places_of, print_cases
from cxr_embed.types import stand_ins_read

if TYPE_CHECKING:
    from cxr_embed.manifest import Manifest
    from cxr_embed.reporting.montage import Places
    from cxr_embed.screening.question import Answer


def ask_store(
    store: Path,
    questions: Sequence[str],
    against: Sequence[str],
    *,
    k: int,
    out: Path | None,
    montage: Path | None,
    manifest: Path | None,
    root: Path | None,
    labels: Path | None,
    extra: Sequence[str],
    split: str | None,
    uncertain: str,
    how: dict[str, Any],
    as_json: bool,
) -> None:
    """Asks, and prints the images that score highest; with labels, how well the question ranks them.

    Args:
        store: the store's folder.
        questions, against: as `prompts_of_questions` takes them.
        k: images wanted of each question.
        out, montage: files to write, where they are named.
        manifest, root: what is known of the images, and where they are.
        labels, extra, split, uncertain: that the ranking is evaluated on; the manifest's own findings by default.
        how: of the scores, as `score_store` takes it.
        as_json: print for a program.
    """
    from cxr_embed.api.search import lateral_notes
    from cxr_embed.prompts.questions import prompts_of_questions
    from cxr_embed.screening import check_scores_target, score_store, write_scores
    from cxr_embed.screening.question import answer
    from cxr_embed.screening.scoring import check_names
    from cxr_embed.store import open_store

    if k < 1:
        fail(f"-k is the number of images, at least 1, not {k}", 2)
    prompts = prompts_of_questions(questions, against)
    check_names(prompts)
    if out is not None:
        check_scores_target(out)
    places = places_of(montage, manifest, root) if montage is not None else None
    known, labelled = _tables(manifest, labels, extra)
    if labelled is None and split is not None:
        fail("--split is for the AUROC on labels; give --labels, or a --manifest with findings, too", 2)
    opened = open_store(store)
    with progress_bar() as progress:
        # Of one pair all scores rank alike, but a softmax's highest round to 1 and lose their order.
        screening = score_store(opened, prompts, **{**how, "score": how["score"] or "margin"}, progress=progress)
    answers, notes = answer(opened, screening, k, known=known, labels=labelled, split=split, uncertain=uncertain)  # type: ignore[arg-type]
    notes += lateral_notes(list({case["image_id"]: case for each in answers for case in each.cases}.values()))
    kind = screening.scores.kind
    about = {"encoder": opened.spec.name, "fingerprint": opened.spec.fingerprint, "score": kind}
    about |= {"stand_in": opened.spec.stand_in} if opened.spec.stand_in else {}
    if out is not None:
        write_scores(out, screening.scores, {**about, "prompts": prompts.name, "prompts_digest": prompts.digest})
    if montage is not None and places is not None:
        _draw(montage, places, answers, [*_aurocs(answers), *notes, *stand_ins_read(), RESEARCH])
    if as_json:
        files = {name: str(file) for name, file in (("out", out), ("montage", montage)) if file is not None}
        body = {"images": len(opened), "answers": [each.to_json() for each in answers], "notes": notes}
        print_json({**files, **about, **body, "note": RESEARCH})
        return
    _print_answers(answers, kind, notes)
    for file in filter(None, (out, montage)):
        typer.echo(f"{file}: {plural(len(opened) if file == out else sum(len(a.cases) for a in answers), 'image')}")
    typer.echo(
        f"{plural(len(opened), 'image')} of {opened.spec.name} scored; a score ranks images and is not a probability"
    )
    typer.echo(RESEARCH)


def _print_answers(answers: Sequence[Answer], kind: str, notes: Sequence[str]) -> None:
    left_out: dict[str, None] = {}
    for each in answers:
        alone = " alone" if kind == "sigmoid" else f" against '{each.question.negative[0]}'"
        typer.echo(f"{each.question.name}: {kind} of '{each.question.positive[0]}'{alone}, the highest first")
        left_out.update(dict.fromkeys(print_cases(list(each.cases), "score")))
    no_room = [f"{', '.join(left_out)}: no room here; --json lists them"] if left_out else []
    for line in _aurocs(answers):
        typer.echo(line)
    for note in dict.fromkeys([*no_room, *notes]):
        typer.echo(f"note: {note}")


def _tables(
    manifest: Path | None, labels: Path | None, extra: Sequence[str]
) -> tuple[Manifest | None, Manifest | None]:
    """What is known of the cases, and the labels that the ranking is evaluated on."""
    from cxr_embed.manifest import read_labels

    known = read_labels(manifest, extra=extra) if manifest is not None else None
    labelled = read_labels(labels, extra=extra) if labels is not None else None
    if labelled is None and known is not None and known.findings:
        labelled = known
    return known or labelled, labelled


def _aurocs(answers: Sequence[Answer]) -> list[str]:
    """A line for each question that has labels."""
    from cxr_embed.present.numbers import PLAIN

    lines = []
    for each in answers:
        if each.auroc is not None:
            over = f"over {plural(each.images, 'image')}, {each.positives:,} of them positive ({each.label})"
            why = f"; {each.auroc.reason}" if each.auroc.reason else ""
            lines.append(f"{each.question.name}: AUROC {PLAIN.estimate(each.auroc)} {over}{why}")
    return lines


def _draw(montage: Path, places: Places, answers: Sequence[Answer], notes: Sequence[str]) -> None:
    from cxr_embed.reporting.montage import Panel, draw_answers

    drawn = []
    for each in answers:
        panel = Panel("question", (f"against '{each.question.negative[0]}'",), why=each.question.positive[0])
        digests = [{**case, "content": content} for case, content in zip(each.cases, each.contents, strict=True)]
        drawn.append((panel, digests))
    draw_answers(montage, places, drawn, notes)
