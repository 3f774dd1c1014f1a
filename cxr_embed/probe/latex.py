"""A curve as a LaTeX table for a paper; needs the package booktabs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxr_embed.io.files import write_together
from cxr_embed.present.latex import escape, latex_row, latex_table
from cxr_embed.present.numbers import LATEX
from cxr_embed.probe.curve import Curve
from cxr_embed.probe.curve_summary import differences, format_size, summarise
from cxr_embed.probe.features import ProbeError
from cxr_embed.types import counted


def to_latex(curve: Curve, stand_ins: Sequence[str] = ()) -> str:
    """Two tables: means over findings with the comparisons, and each finding.

    `stand_ins` are sentences on weights that stand in for others; both captions have them.
    """
    sizes = [format_size(curve, size) for size in curve.shots]
    draws = max((row["draws"] for row in summarise(curve)), default=1)
    unit = "part of the training patients" if curve.by_fraction else "labelled positives (and as many negatives)"
    spread = f"mean of {draws} draws (95\\% interval of that mean, Student's $t$)" if draws > 1 else "one draw"
    means, pairs = _means(curve), _pairs(curve)
    lacking = any(row["mean"] is None for row in summarise(curve))
    caption = f"Mean AUROC over findings, by {unit}: {spread}."
    if pairs:
        count = sum(row["p_holm"] is not None for row in differences(curve) if row["finding"] is None)
        tested = f"paired $t$-test over draws, Holm's correction for {counted(count, 'comparison')}"
        caption += f" $p$: {tested if count else 'needs two draws'}; training and test images stay the same."
    remark = "".join(f" {escape(sentence)}." for sentence in stand_ins)
    caption += remark
    lines = latex_table(["", *sizes], [means, *pairs], caption=caption, label="few-labels", between="\\midrule")
    findings = [_finding(curve, finding) for finding in curve.findings]
    caption = f"AUROC of each finding, by {unit}: {spread}."
    caption += " --: undefined in some draw, for want of positives or negatives." if lacking else ""
    caption += remark
    spaced = {"caption": caption, "label": "few-labels-findings", "between": "\\addlinespace"}
    lines += ["", *latex_table(["", *sizes], findings, **spaced)]
    return "\n".join(["% \\usepackage{booktabs}", *lines]) + "\n"


def write_latex(path: Path, curve: Curve, stand_ins: Sequence[str] = ()) -> None:
    """Writes the tables of `to_latex` to a file, whole or not at all.

    Raises:
        ProbeError: where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_together({path: to_latex(curve, stand_ins).encode()})
    except OSError as error:
        raise ProbeError(f"{path}: cannot be written ({error.strerror}); give another `latex`") from None


def _means(curve: Curve) -> list[str]:
    """A line an encoder; below, how many findings each mean covers."""
    rows = {(row["encoder"], row["shots"]): row for row in summarise(curve) if row["finding"] is None}
    lines = [latex_row(escape(name), [_figure(rows[name, size]) for size in curve.shots]) for name in curve.encoders]
    covered = [str(rows[curve.encoders[0], size]["findings_in_mean"]) for size in curve.shots]
    return [*lines, latex_row(f"findings in the mean, of {len(curve.findings)}", covered)]


def _pairs(curve: Curve) -> list[list[str]]:
    """Two lines a pair of encoders: the difference, and p."""
    rows = {(row["encoder"], row["minus"], row["shots"]): row for row in differences(curve) if row["finding"] is None}
    parts = []
    for encoder, minus in dict.fromkeys(key[:2] for key in rows):
        of_pair = [rows[encoder, minus, size] for size in curve.shots]
        name = f"{escape(encoder)} $-$ {escape(minus)}"
        parts.append(
            [
                latex_row(name, list(map(_difference, of_pair))),
                latex_row("$p$", [LATEX.p(row["p_holm"]) for row in of_pair]),
            ]
        )
    return parts


def _finding(curve: Curve, finding: str) -> list[str]:
    """A line an encoder under the finding's name; of one encoder, that name stands for it."""
    rows = {(row["encoder"], row["shots"]): row for row in summarise(curve) if row["finding"] == finding}
    cells = {name: [_figure(rows[name, size]) for size in curve.shots] for name in curve.encoders}
    if len(cells) == 1:
        return [latex_row(escape(finding), cells[curve.encoders[0]])]
    head = f"\\multicolumn{{{len(curve.shots) + 1}}}{{l}}{{{escape(finding)}}} \\\\"
    return [head, *(latex_row(f"\\quad {escape(name)}", of_encoder) for name, of_encoder in cells.items())]


def _figure(row: dict[str, Any]) -> str:
    return LATEX.figure(row["mean"], row["ci_low"], row["ci_high"], between="--")


def _difference(row: dict[str, Any]) -> str:
    return LATEX.figure(row["mean"], row["ci_low"], row["ci_high"], between=", ", signed=True)
