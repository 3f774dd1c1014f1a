"""`cxr-embed zeroshot --ask`: single questions without a prompt file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cxr_embed.cli.common import RESEARCH, print_json, progress_bar
from cxr_embed.cli.search import places_of, print_cases
from cxr_embed.types import counted, stand_ins_read

if TYPE_CHECKING:
    from cxr_embed.api.ask import Answers
    from cxr_embed.reporting.panels import Places
    from cxr_embed.screening.question import Answer


def ask_store(
    store: Path,
    questions: Sequence[str],
    *,
    montage: Path | None,
    out: Path | None,
    manifest: Path | None,
    root: Path | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Asks, and prints the images that score highest; with labels, how well the question ranks them.

    Args:
        store: the store's folder.
        questions: in words.
        montage, out: files to write, where they are named.
        manifest, root: what is known of the images, and where they are.
        as_json: print for a program.
        how: as `cxr_embed.api.ask.ask` takes it.
    """
    from cxr_embed.api.ask import ask
    from cxr_embed.screening import check_scores_target

    if out is not None:
        check_scores_target(out)
    places = places_of(montage, manifest, root) if montage is not None else None
    with progress_bar() as progress:
        found = ask(store, questions, manifest=manifest, progress=progress, **how)
    answers, notes, about = found.answers, list(found.notes), dict(found.scores.about)
    kind, images = about["score"], len(found.scores)
    if out is not None:
        found.scores.save(out)
    if montage is not None and places is not None:
        _draw(montage, places, answers, [*found.aurocs, *notes, *stand_ins_read(), RESEARCH])
    if as_json:
        files = {name: str(file) for name, file in (("out", out), ("montage", montage)) if file is not None}
        body = {"images": images, "answers": [each.to_json() for each in answers], "notes": notes}
        shown = {name: about[name] for name in ("encoder", "fingerprint", "score", "stand_in") if name in about}
        print_json({**files, **shown, **body, "note": RESEARCH})
        return
    _print_answers(found, kind)
    for file in filter(None, (out, montage)):
        drawn = images if file == out else sum(len(each.cases) for each in answers)
        typer.echo(f"{file}: {counted(drawn, 'image')}")
    typer.echo(
        f"{counted(images, 'image')} of {about['encoder']} scored; a score ranks images and is not a probability"
    )
    typer.echo(RESEARCH)


def _print_answers(found: Answers, kind: str) -> None:
    left_out: dict[str, None] = {}
    for each in found.answers:
        alone = " alone" if kind == "sigmoid" else f" against '{each.question.negative[0]}'"
        typer.echo(f"{each.question.name}: {kind} of '{each.question.positive[0]}'{alone}, the highest first")
        left_out.update(dict.fromkeys(print_cases(list(each.cases), "score")))
    no_room = [f"{', '.join(left_out)}: no room here; --json lists them"] if left_out else []
    for line in found.aurocs:
        typer.echo(line)
    for note in dict.fromkeys([*no_room, *found.notes]):
        typer.echo(f"note: {note}")


def _draw(montage: Path, places: Places, answers: Sequence[Answer], notes: Sequence[str]) -> None:
    from cxr_embed.reporting.montage import draw_answers
    from cxr_embed.reporting.panels import Panel

    drawn = []
    for each in answers:
        panel = Panel("question", (f"against '{each.question.negative[0]}'",), why=each.question.positive[0])
        digests = [{**case, "content": content} for case, content in zip(each.cases, each.contents, strict=True)]
        drawn.append((panel, digests))
    draw_answers(montage, places, drawn, notes)
