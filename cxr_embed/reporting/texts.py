"""A report as a page, as Markdown and as CSV, all made of its JSON values."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterator
from typing import Any

from cxr_embed.present.tables import INTERVAL, Table, csv_text, markdown_table, markdown_text
from cxr_embed.reporting.drawing import Drawing
from cxr_embed.reporting.examples import Gallery
from cxr_embed.reporting.sections import sections

CSV_COLUMNS = (
    "part", "scores", "finding", "attribute", "group", "figure", "value", "low", "high", "n", "positives", "undefined",
)  # fmt: skip
_FIGURES = (
    "auroc", "average_precision", "sensitivity", "specificity", "f1", "ppv", "npv", "net_benefit", "brier",
    "calibration_error",
)  # fmt: skip


def to_html(report: dict[str, Any], names: tuple[str, ...]) -> str:
    """One page that loads nothing.

    Args:
        report: what `collect` gives.
        names: of the files with the same content.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = importlib.resources.files("cxr_embed.reporting")
    template, style = (folder.joinpath(n).read_text(encoding="utf-8") for n in ("page.html.jinja", "page.css"))
    parts = [(section, [_with_markup(block, Markup) for block in section.blocks]) for section in sections(report)]
    shown = [
        {"key": s.key, "title": s.title, "lead": s.lead, "points": s.points, "blocks": blocks} for s, blocks in parts
    ]
    created = re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:\d\d)?(\+00:00|Z)$", r"\1 \2 UTC", report["created"])
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # A long name may go on in another line after an underscore, nowhere else.
    environment.filters["breakable"] = lambda text: Markup("_<wbr>").join(
        Markup.escape(part) for part in text.split("_")
    )
    page = environment.from_string(template)
    # Only the style and the figures are ours to trust; whatever a user named is escaped.
    return (
        page.render(report=report, sections=shown, style=Markup(style), interval=INTERVAL, names=names, created=created)
        + "\n"
    )


def _with_markup(block: Table | Drawing | Gallery, markup: Any) -> Any:
    if not isinstance(block, Drawing):
        return block
    return {"key": block.key, "svg": markup(block.svg), "title": block.title, "caption": block.caption}


def to_markdown(report: dict[str, Any]) -> str:
    """The words and tables; figures are in the page."""
    lines = [f"# {markdown_text(report['title'])}", "", report["note"], ""]
    for title, sentences in (("Read this first", report["warnings"]), ("In short", report["summary"])):
        if sentences:
            lines += [f"## {title}", "", *(f"- {markdown_text(text)}" for text in sentences), ""]
    for number, section in enumerate(sections(report), 1):
        lines += [f"## {number}. {section.title}", ""]
        for text in section.lead:
            lines += [markdown_text(text), ""]
        if section.points:
            lines += [*(f"- {markdown_text(text)}" for text in section.points), ""]
        for block in section.blocks:
            if isinstance(block, Table):
                lines += [*markdown_table(block), ""]
            elif isinstance(block, Gallery):
                said = [". ".join((shown.head, *shown.lines, *filter(None, [shown.why]))) for shown in block.pictures]
                lines += [f"**{markdown_text(block.title)}**", "", *(f"- {markdown_text(text)}" for text in said), ""]
    return "\n".join(lines).rstrip() + "\n"


def to_csv(report: dict[str, Any]) -> str:
    """One row a number, with its interval."""
    return csv_text(CSV_COLUMNS, _numbers(report))


def _numbers(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from _label_rows(report)
    for scores in report["scores"]:
        yield from _score_rows(scores)
    for comparison in report["comparisons"]:
        yield from _difference_rows(comparison)
    yield from _shortcut_rows(report)
    yield from _few_label_rows(report)
    yield from _explained_rows(report)


def _label_rows(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in report["data"]["splits"]:
        for f in part["findings"]:
            yield {
                "part": "data", "finding": f["finding"], "attribute": "split", "group": part["split"],
                "figure": "positives", "value": f["positives"], "n": f["known"], "positives": f["positives"],
            }  # fmt: skip


def _score_rows(scores: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of one score file: its findings, their mean, its groups."""
    made = scores["evaluation"]
    name = {"part": "finding", "scores": scores["name"]}
    for f in made["findings"]:
        yield from ({**name, **row} for row in _figure_rows(f))
    mean = {"figure": "mean_auroc", "value": made["mean_auroc"], "n": made["findings_in_mean"]}
    yield {**name, "part": "mean", **mean, "low": made["mean_auroc_low"], "high": made["mean_auroc_high"]}
    for g in made["groups"]:
        group = {**name, "part": "group", "attribute": g["attribute"], "group": g["group"]}
        yield from ({**group, **row} for row in _figure_rows(g))
        for figure, apart in g["differences"].items():
            cases = {"finding": g["finding"], "figure": figure, "n": g["n"], "positives": g["positives"]}
            yield {**group, "part": "group difference", **cases, **_estimate(apart)}


def _difference_rows(comparison: dict[str, Any]) -> Iterator[dict[str, Any]]:
    name = {"part": "difference", "scores": f"{comparison['first']} minus {comparison['second']}"}
    for f in comparison["findings"]:
        cases = {"finding": f["finding"], "n": f["n"], "positives": f["positives"]}
        for figure in ("auroc", "average_precision"):
            yield {**name, **cases, "figure": figure, **_estimate(f[figure]["difference"])}
    yield {**name, "figure": "mean_auroc", **_estimate(comparison["mean_auroc"]["difference"])}


def _shortcut_rows(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for record in report["shortcuts"]:
        for kind in record["kinds"]:
            yield {
                "part": "shortcut", "scores": record["encoder"], "attribute": record["attribute"],
                "group": kind["told"], "figure": "auroc", "value": kind.get("auroc"), "low": kind.get("auroc_low"),
                "high": kind.get("auroc_high"), "n": kind.get("n"), "positives": kind.get("positives"),
                "undefined": kind["reason"],
            }  # fmt: skip


def _few_label_rows(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for row in (report["few_labels"] or {"summary": []})["summary"]:
        yield {
            "part": "few labels", "scores": row["encoder"], "finding": row["finding"] or "", "attribute": "shots",
            "group": row["shots"], "figure": "auroc" if row["finding"] else "mean_auroc", "value": row["mean"],
            "low": row["low"], "high": row["high"], "undefined": row["undefined"],
        }  # fmt: skip


def _explained_rows(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in (report["explained"] or {"groups": []})["groups"]:
        for case in group["examples"]:
            for figure in ("score", "log_odds", "without_region", "without_elsewhere"):
                yield {
                    "part": "explained", "scores": report["explained"]["scores"], "finding": group["finding"],
                    "attribute": group["kind"], "group": case["image_id"], "figure": figure, "value": case.get(figure),
                    "undefined": case["why"],
                }  # fmt: skip


def _figure_rows(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for figure in _FIGURES:
        yield {
            "finding": record["finding"], "figure": figure, "value": record[figure], "low": record[f"{figure}_low"],
            "high": record[f"{figure}_high"], "n": record["n"], "positives": record["positives"],
            "undefined": record["undefined"].get(figure, ""),
        }  # fmt: skip


def _estimate(value: dict[str, Any]) -> dict[str, Any]:
    return {"value": value["value"], "low": value["low"], "high": value["high"], "undefined": value["reason"]}
