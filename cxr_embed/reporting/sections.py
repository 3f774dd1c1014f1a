"""The parts of a report in their order: words, tables and figures, made of its JSON values alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cxr_embed.present.tables import Table
from cxr_embed.reporting.context_tables import (
    encoder_table,
    few_label_tables,
    groups_tables,
    positives_table,
    probe_table,
    provenance_table,
    shortcut_table,
    split_table,
)
from cxr_embed.reporting.drawing import Drawing
from cxr_embed.reporting.examples import Gallery, about_pictures, galleries
from cxr_embed.reporting.few_label_plot import few_label_plot
from cxr_embed.reporting.figure_tables import (
    calibration_table,
    comparison_table,
    published_table,
    published_tests_table,
    ranking_table,
    threshold_tables,
)
from cxr_embed.reporting.groups_plot import groups_plots
from cxr_embed.reporting.plots import auroc_plot, precision_recall_plot, reliability_plot, roc_plot
from cxr_embed.reporting.shortcuts import in_words
from cxr_embed.types import counted


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        key: its address within the page.
        title: for people.
        lead: paragraphs.
        points: a list after them.
        blocks: tables, figures and pictures.
    """

    key: str
    title: str
    lead: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    blocks: tuple[Table | Drawing | Gallery, ...] = ()


def sections(report: dict[str, Any]) -> list[Section]:
    """All parts that the report has something for."""
    return list(_sections(report))


def _sections(report: dict[str, Any]) -> Iterator[Section]:
    scores, data = report["scores"], report["data"]
    yield Section("data", "Data", _about_data(report), blocks=(split_table(data), positives_table(data)))
    yield Section(
        "ranking",
        "Ranking",
        ("How well scores rank cases with a finding above those without. " + _about_intervals(report),),
        blocks=(
            *map(ranking_table, scores),
            auroc_plot(scores, report["published"]),
            roc_plot(scores),
            precision_recall_plot(scores),
        ),
    )
    if report["comparisons"]:
        lead = (
            "Both score files on the same cases; every draw of patients serves both. p says how likely a difference as "
            "large would be if there were none, not how large it is; Holm's correction is for the number of findings.",
        )
        yield Section("comparison", "Compared", lead, blocks=tuple(map(comparison_table, report["comparisons"])))
    if report["published"] is not None:
        published = report["published"]
        lead = (f"AUROCs that others published for {published['data']}. {published['caveat']}",)
        tests = published_tests_table(scores, published, report["settings"]["split"])
        yield Section("published", "Published figures", lead, blocks=(published_table(scores, published), tests))
    yield _thresholds(report)
    yield _probabilities(report)
    if report["few_labels"] is not None:
        curve = report["few_labels"]
        lead = (
            f"Probes that learned from few labelled cases, drawn by patient {len(curve['protocol']['seeds'])} times, "
            f"tested on {counted(curve['test']['images'], 'image')} of "
            f"{counted(curve['test']['patients'], 'patient')}. A draw of more "
            "labels holds the smaller one; how strongly to regularise is chosen inside the draw.",
        )
        yield Section(
            "few",
            "Few labels",
            lead,
            blocks=(few_label_plot(curve, [found["name"] for found in scores]), *few_label_tables(curve)),
        )
    if any(found["evaluation"]["groups"] for found in scores):
        lead = (
            "The same figures by group, and how much groups differ. With so many differences some leave zero by chance "
            "alone: one in twenty, where there are none.",
        )
        yield Section("groups", "Groups", lead, blocks=(*groups_plots(scores), *groups_tables(scores)))
    if report["shortcuts"]:
        yield _shortcuts(report)
    if report["explained"] is not None:
        shown = report["explained"]
        yield Section(
            "maps", "Examples with heat maps", about_pictures(shown), tuple(shown["notes"]), tuple(galleries(shown))
        )
    yield _cards(report)


def _about_data(report: dict[str, Any]) -> tuple[str, ...]:
    made, split = report["scores"][0]["evaluation"], report["settings"]["split"]
    patients = f" of {counted(made['patients'], 'patient')}" if made["patients"] is not None else ", patients unknown"
    where = f"the split {split}" if split is not None else "all labels"
    evaluated = f"Evaluated: {where}, {counted(made['images'], 'image')}{patients}. Labels: {report['labels']['file']}."
    if report["settings"]["blank"] == "negative":
        evaluated += " Blank labels count as negative."
    origin = report["data"]["origins"]
    return (f"{evaluated} The images seem to come from {' and '.join(origin)}." if origin else evaluated,)


def _about_intervals(report: dict[str, Any]) -> str:
    made = report["scores"][0]["evaluation"]
    how = {f["auroc_interval"] for f in made["findings"]}
    by = "patients are drawn again" if made["patients"] is not None else "images are drawn again, no patient is known"
    delong = " Where no patient has two cases, an AUROC's interval is DeLong's." if "DeLong" in how else ""
    mixed = (
        " Those of average precision, F1, Brier score and calibration error also know that another sample would hold "
        "more positives, or fewer."
    )
    return f"Intervals hold 95%: {by}, {made['intervals']['bootstraps']:,} times.{delong}{mixed}"


def _thresholds(report: dict[str, Any]) -> Section:
    tables = [table for scores in report["scores"] for table in threshold_tables(scores)]
    rules = dict.fromkeys(
        f["threshold_rule"] for s in report["scores"] for f in s["evaluation"]["findings"] if f["threshold_rule"]
    )
    if not tables:
        text = "No threshold was chosen or stated, and on the tested cases themselves it would flatter."
        return Section("thresholds", "At a threshold", (text,))
    lead = f"Cases with this score or more are flagged. Thresholds: {'; '.join(rules)}."
    if all(f["stated_prevalence"] is None for s in report["scores"] for f in s["evaluation"]["findings"]):
        lead += " Predictive values need a prevalence of the place where the scores are to be used: none is stated."
    return Section("thresholds", "At a threshold", (lead,), blocks=tuple(tables))


def _probabilities(report: dict[str, Any]) -> Section:
    scores = report["scores"]
    drawn = reliability_plot(scores)
    if drawn is None:
        text = "The scores are not probabilities, and no calibration was chosen: there is nothing to compare them with."
        return Section("probabilities", "Probabilities", (text,))
    kinds = {f["calibration"]["kind"] for s in scores for f in s["evaluation"]["findings"] if f["calibration"]}
    lead = (
        "Whether a probability of 20% means one case in five. Brier score: mean squared distance between probability "
        "and outcome. Calibration error: mean distance over ten bins of equal width. Lower is better in both; on rare "
        "findings both are low for whoever says 0."
    )
    if kinds:
        lead += f" Scores were made probabilities by {' and '.join(sorted(kinds))}, fitted on the validation part."
    tables = [calibration_table(s) for s in scores if any(f["reliability"] for f in s["evaluation"]["findings"])]
    return Section("probabilities", "Probabilities", (lead,), blocks=(drawn, *tables))


def _shortcuts(report: dict[str, Any]) -> Section:
    lead = [
        "Linear probes that tell view, sex and site from the vectors, tested on patients that they did not learn from. "
        "A classifier of findings can lean on what is separated this well: it says that one could, not that it does."
    ]
    if any(record["halved"] for record in report["shortcuts"]):
        lead.append("No other images are there than the evaluated ones: half of their patients were learned from.")
    points = [
        f"{record['encoder']}: {in_words(record['attribute'], kind)}."
        for record in report["shortcuts"]
        for kind in record["kinds"]
    ]
    return Section("shortcuts", "Shortcuts", tuple(lead), tuple(points), (shortcut_table(report["shortcuts"]),))


def _cards(report: dict[str, Any]) -> Section:
    lead = (
        "Intended use: research only. Not a medical device, and not for decisions about patients. The figures hold for "
        "cases like the evaluated ones; another hospital, another device or another mix of patients can change them."
    )
    known = {card["fingerprint"] for card in report["encoders"]}
    encoders = [*report["encoders"]]
    for probe in report["probes"]:
        if probe["encoder"]["fingerprint"] not in known:
            known.add(probe["encoder"]["fingerprint"])
            encoders.append(probe["encoder"])
    blocks = (*map(encoder_table, encoders), *map(probe_table, report["probes"]), provenance_table(report))
    return Section("card", "Model card", (lead,), blocks=blocks)
