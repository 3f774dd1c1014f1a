"""`cxr-embed probe curve`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_embed.cli.common import RESEARCH, fail, print_json, progress_bar
from cxr_embed.cli.options import AsJson, Blank, CountNoFinding, Extra, LabelFile, Pool, StorePath, Uncertain
from cxr_embed.cli.probe import Learned, print_notes, print_table
from cxr_embed.present.numbers import PLAIN
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.probe.curve import Curve

EXAMPLE = "Example: `cxr-embed probe curve vectors/hog data/manifest.csv --store vectors/densenet --out curve`"
_SHOTS, _FRACTIONS = "1,4,16,64,256,all", "0.01,0.1,1"

Shots = Annotated[
    str | None,
    typer.Option(
        help=f"Positives of a draw, and as many negatives; `all` is all images. {_SHOTS} by default.",
        show_default=False,
    ),
]
Fraction = Annotated[
    str | None,
    typer.Option(
        help=f"Instead of --shots: parts of the training patients, with all their images, such as {_FRACTIONS}.",
        show_default=False,
    ),
]
Figure = Annotated[Path | None, typer.Option(help="Draw the curve into a file: .png, .svg or .pdf.")]
Latex = Annotated[Path | None, typer.Option(help="Write tables for a paper (LaTeX, booktabs): .tex.")]


def curve(
    store: StorePath,
    labels: LabelFile,
    out: Annotated[Path, typer.Option(help="Folder for curve.json and curve.csv.")] = Path("curve"),
    more: Annotated[
        list[Path] | None, typer.Option("--store", help="Another encoder's store, to compare with (repeatable).")
    ] = None,
    shots: Shots = None,
    fraction: Fraction = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Draws of each size.")] = 10,
    train: Annotated[str, typer.Option(help="The split to draw from.")] = "train",
    test: Annotated[str, typer.Option(help="The split to test on.")] = "test",
    output: Annotated[
        list[str] | None, typer.Option(help="An output for each store, in their order; the first ones by default.")
    ] = None,
    pool: Pool = "mean",
    findings: Learned = None,
    extra: Extra = None,
    uncertain: Uncertain = "unknown",
    blank: Blank = None,
    count_no_finding: CountNoFinding = False,
    figure: Figure = None,
    latex: Latex = None,
    as_json: AsJson = False,
) -> None:
    """Measure how AUROC grows with labels, on one fixed test part.

    For each finding and seed the same number of positive and negative images is drawn by patient (`--shots`), or a part
    of the patients with whatever their images show (`--fraction`); a larger draw contains the smaller ones.
    Regularisation is chosen inside the draw. Several stores get the same draws and are compared draw by draw: each
    pair by a paired t-test over the draws, with Holm's correction for all pairs and sizes. Intervals and p are about
    other draws from these training patients, tested on these test patients; `probe compare` is about other patients.
    """
    from cxr_embed.api.curve import few_label_curve
    from cxr_embed.probe.curve_summary import write_curve

    if shots is not None and fraction is not None:
        fail("give --shots or --fraction, not both: they are two curves", 2)
    check_files(figure, latex, 1 + len(more or ()))
    sizes: dict[str, Any] = (
        {"fractions": _fractions(fraction)} if fraction is not None else {"shots": _shots(shots) if shots else None}
    )
    with progress_bar() as progress:
        made = few_label_curve(
            [store, *(more or ())],
            labels,
            **sizes,
            seeds=seeds,
            train=train,
            test=test,
            output=output or None,
            findings=findings,
            pool=pool,
            uncertain=uncertain,
            blank=blank,
            count_no_finding=count_no_finding,
            extra=extra or (),
            progress=progress,
        )
    found, body = made.curve, made.to_json()
    write_curve(out, found, made.about)
    files = _write_more(found, body, figure, latex)
    if as_json:
        shown = ("encoders", "summary", "differences", "notes")
        print_json({"out": str(out), **files, **{name: body[name] for name in shown}})
        return
    _print_curve(found, out, list(files.values()))


def check_files(figure: Path | None, latex: Path | None, encoders: int) -> None:
    """Refuses files that could not be written in the end, and a figure that would leave an encoder out."""
    from cxr_embed.reporting.drawing import STYLES, check_figure

    if figure is not None:
        check_figure(figure)
        if encoders > len(STYLES):
            fail(f"a figure shows up to {len(STYLES)} encoders, not {encoders}; leave --figure out, or stores", 2)
    if latex is not None and (latex.suffix.lower() != ".tex" or latex.is_dir()):
        fail(f"{latex}: tables are a file whose name ends in .tex; give another --latex", 2)


def _write_more(found: Curve, body: dict[str, Any], figure: Path | None, latex: Path | None) -> dict[str, str]:
    """Writes the files for a paper; their names."""
    from cxr_embed.probe.latex import write_latex
    from cxr_embed.reporting.few_label_plot import few_labels_figure, stand_ins_of

    if figure is not None:
        few_labels_figure(body, figure)
    if latex is not None:
        write_latex(latex, found, stand_ins_of(body))
    return {name: str(file) for name, file in (("figure", figure), ("latex", latex)) if file is not None}


def _shots(text: str) -> tuple[int | None, ...]:
    words = [word.strip() for word in text.split(",")]
    numbers = [word for word in words if word != "all"]
    if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in numbers) or not words:
        fail(f"--shots is a list such as {_SHOTS}, not {text!r}", 2)
    sizes: tuple[int | None, ...] = tuple(sorted({int(word) for word in numbers}))
    return (*sizes, None) if "all" in words else sizes


def _fractions(text: str) -> tuple[float, ...]:
    wrong = f"--fraction is a list of parts of 1 such as {_FRACTIONS}, not {text!r}"
    parts = set()
    for word in text.split(","):
        try:
            part = float(word)
        except ValueError:
            fail(wrong, 2)
        if not 0 < part <= 1:
            fail(wrong, 2)
        parts.add(part)
    return tuple(sorted(parts))


def _print_curve(curve: Curve, out: Path, files: Sequence[str]) -> None:
    from cxr_embed.probe.curve_summary import differences, format_size, summarise, undefined_sizes

    means = [row for row in summarise(curve) if row["finding"] is None]
    pairs = [row for row in differences(curve) if row["finding"] is None]
    unit = "patients" if curve.by_fraction else "shots"
    rows, covered = [], set()
    for size in curve.shots:
        of_size = [row for row in means if row["shots"] == size]
        covered.add(of_size[0]["findings_in_mean"])
        of_all = f"{of_size[0]['findings_in_mean']} of {len(curve.findings)}"
        rows.append([format_size(curve, size), of_all, *map(_mean, of_size)])
    print_table([unit, "findings", *curve.encoders], rows)
    if pairs:
        typer.echo()
        cells = [
            [row["encoder"], row["minus"], format_size(curve, row["shots"]), _mean(row), PLAIN.p(row["p_holm"])]
            for row in pairs
        ]
        print_table(["encoder", "minus", unit, "difference", "p (Holm)"], cells)
    drawn = any(row["sd"] is not None for row in means)
    fewer = "; not every size covers the same findings" if len(covered) > 1 else ""
    interval = f", with a 95% interval over {counted(len(curve.seeds), 'draw')} (Student's t)" if drawn else ""
    typer.echo(f"mean AUROC over findings{interval}{fewer}")
    tests = sum(row["p_holm"] is not None for row in pairs)
    if tests:
        compared = counted(tests, "comparison")
        typer.echo(f"p: paired t-test over the draws, with Holm's correction for {compared}")
    if drawn:
        typer.echo("both are of other draws, with these same test patients; `probe compare` is about other patients")
    print_notes([*curve.notes, *undefined_sizes(curve)])
    typer.echo(
        f"{out}: curve.json, curve.csv; trained on {counted(len(curve.train), 'image')}, tested on "
        f"{counted(len(curve.test), 'image')}"
    )
    for file in files:
        typer.echo(f"{file}: written")
    typer.echo(RESEARCH)


def _mean(row: dict[str, Any]) -> str:
    difference = "minus" in row
    between = " to " if difference else "-"
    return PLAIN.figure(row["mean"], row["ci_low"], row["ci_high"], between=between, signed=difference)
