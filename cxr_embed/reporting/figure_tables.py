"""Tables of a report as cells of text, made of its JSON values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cxr_embed.present.numbers import PAGE, digits_for
from cxr_embed.present.tables import INTERVAL, Table

_NAMES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "f1": "F1",
    "ppv": "PPV",
    "npv": "NPV",
    "net_benefit": "net benefit",
    "brier": "Brier score",
    "calibration_error": "calibration error",
}


def figure_cells(record: dict[str, Any], name: str) -> tuple[str, str]:
    """A figure and its interval."""
    value, low, high = record[name], record[f"{name}_low"], record[f"{name}_high"]
    if value is None:
        return PAGE.undefined, ""
    digits = digits_for((value, low, high))
    return PAGE.number(value, digits), PAGE.interval(low, high, digits)


def figures_table(
    title: str,
    findings: Sequence[dict[str, Any]],
    names: Sequence[str],
    *,
    lead: Sequence[tuple[str, Callable[[dict[str, Any]], str]]] = (),
    sizes: Sequence[tuple[str, Callable[[dict[str, Any]], str]]] = (),
) -> Table:
    """Findings with some of their figures; a figure that no finding has is named below, with the reason.

    Args:
        title: of the table.
        findings: their records.
        names: of the figures.
        lead: heads and cells that the figures mean nothing without, such as thresholds.
        sizes: heads and cells after the figures: what is looked for comes first, and a narrow screen shows it.
    """
    shown = [name for name in names if any(f[name] is not None for f in findings)]
    heads = ["finding", *(head for head, _ in lead)]
    for name in shown:
        heads += [_NAMES[name], INTERVAL]
    heads += [head for head, _ in sizes]
    rows = []
    for f in findings:
        cells = [f["finding"], *(cell(f) for _, cell in lead)]
        for name in shown:
            cells += figure_cells(f, name)
        rows.append((*cells, *(cell(f) for _, cell in sizes)))
    return Table(
        title=title, heads=tuple(heads), rows=tuple(rows), notes=tuple(undefined_notes(findings, names, shown))
    )


def undefined_notes(findings: Sequence[dict[str, Any]], names: Sequence[str], shown: Sequence[str]) -> list[str]:
    """Why figures or intervals are missing, figures and findings of one reason together."""
    missing: dict[str, list[str]] = {}
    for name in names:
        reasons = dict.fromkeys(f["undefined"].get(name, "") for f in findings if f[name] is None)
        if name not in shown and reasons:
            missing.setdefault("; ".join(filter(None, reasons)), []).append(_NAMES[name])
    notes = [f"Left out: {', '.join(which)}: {reason}." for reason, which in missing.items()]
    same: dict[tuple[str, str], list[str]] = {}
    for f in findings:
        said: dict[str, list[str]] = {}
        for name in shown:
            if f["undefined"].get(name):
                said.setdefault(f["undefined"][name], []).append(_NAMES[name])
        for reason, which in said.items():
            same.setdefault((", ".join(which), reason), []).append(f["finding"])
    return notes + [f"{', '.join(of)}: {which}: {reason}." for (which, reason), of in same.items()]


def ranking_table(scores: dict[str, Any]) -> Table:
    """AUROC and average precision of a score file, and their mean."""
    made = scores["evaluation"]
    sizes = [
        ("cases", lambda f: PAGE.count(f["n"])),
        ("positive", lambda f: PAGE.count(f["positives"])),
        ("patients", lambda f: PAGE.count(f["patients"])),
    ]
    figures = ("auroc", "average_precision")
    table = figures_table(f"{scores['name']}: ranking", made["findings"], figures, sizes=sizes)
    width = len(table.heads)
    mean = f"mean of {made['findings_in_mean']} of {len(made['findings'])}"
    cells = (mean, *(figure_cells(made, "mean_auroc") if "AUROC" in table.heads else ()))
    rows = (*table.rows, cells + ("",) * (width - len(cells)))
    return Table(title=table.title, heads=table.heads, rows=rows, total=True, notes=table.notes)


def threshold_tables(scores: dict[str, Any]) -> list[Table]:
    """What thresholds do, and what flags are worth where a prevalence or probabilities are known; none without any."""
    findings = scores["evaluation"]["findings"]
    if all(f["threshold"] is None for f in findings):
        return []
    lead = [("threshold", lambda f: PAGE.number(f["threshold"], 4))]
    tables = [
        figures_table(f"{scores['name']}: at the threshold", findings, ("sensitivity", "specificity", "f1"), lead=lead)
    ]
    worth = ("ppv", "npv", "net_benefit")
    if any(f[name] is not None for f in findings for name in worth):
        stated = any(f["stated_prevalence"] is not None for f in findings)
        lead = [("prevalence", lambda f: PAGE.percent(f["stated_prevalence"]))] if stated else []
        tables.append(figures_table(f"{scores['name']}: what a flag is worth", findings, worth, lead=lead))
    return tables


def calibration_table(scores: dict[str, Any]) -> Table:
    """How well probabilities are kept."""
    findings = scores["evaluation"]["findings"]
    sizes = [("positive", lambda f: PAGE.percent(f["prevalence"]))]
    return figures_table(f"{scores['name']}: probabilities", findings, ("brier", "calibration_error"), sizes=sizes)


def comparison_table(comparison: dict[str, Any]) -> Table:
    """Paired differences of two score files."""
    rows = [(f["finding"], *_difference_cells(f["auroc"]), PAGE.count(f["positives"])) for f in comparison["findings"]]
    mean = f"mean of {comparison['findings_in_mean']} of {len(comparison['findings'])}"
    rows.append((mean, *_difference_cells(comparison["mean_auroc"])[:5], "", ""))
    heads = ("finding", comparison["first"], comparison["second"], "difference", INTERVAL, "p", "p, Holm", "positive")
    notes = [
        f"{f['finding']}: {f['auroc']['difference']['reason']}."
        for f in comparison["findings"]
        if f["auroc"]["difference"]["reason"]
    ]
    title = f"AUROC of {comparison['first']} minus {comparison['second']}"
    return Table(title=title, heads=heads, rows=tuple(rows), total=True, notes=tuple(notes))


def _difference_cells(apart: dict[str, Any]) -> tuple[str, ...]:
    d = apart["difference"]
    if d["value"] is None:
        return PAGE.undefined, PAGE.undefined, PAGE.undefined, "", PAGE.p(None), PAGE.p(None)
    both = (PAGE.number(apart["first"]), PAGE.number(apart["second"]))
    return (
        *both,
        PAGE.signed(d["value"]),
        PAGE.interval(d["low"], d["high"], signed=True),
        PAGE.p(apart["p"]),
        PAGE.p(apart["p_holm"]),
    )


def published_table(scores: Sequence[dict[str, Any]], published: dict[str, Any]) -> Table:
    """Our AUROCs beside published ones, each with the digits of its source; means over the findings that all have."""
    results = published["results"]
    columns: list[dict[str, float | None]] = [
        {f["finding"]: f["auroc"] for f in found["evaluation"]["findings"]} for found in scores
    ]
    columns += [result["auroc"] for result in results]
    digits = [4] * len(scores) + [result["digits"] for result in results]
    findings = [name for name in columns[0] if any(name in result["auroc"] for result in results)]
    rows = [(name, *_in_digits([column.get(name) for column in columns], digits)) for name in findings]
    common = [name for name in findings if all(column.get(name) is not None for column in columns)]
    if common:
        means = [sum(column[name] or 0 for name in common) / len(common) for column in columns]
        rows.append((f"mean of {len(common)} of {len(findings)}", *_in_digits(means, digits)))
    heads = ("finding", *(found["name"] for found in scores), *(result["name"] for result in results))
    return Table(title="AUROC, ours and published", heads=heads, rows=tuple(rows), total=bool(common))


def published_tests_table(scores: Sequence[dict[str, Any]], published: dict[str, Any], split: str | None) -> Table:
    """What ours and each published AUROC was tested on: unequal tests are not put side by side in silence."""
    rows = []
    for found in scores:
        made = found["evaluation"]
        sizes = (PAGE.count(made["images"]), PAGE.count(made["patients"]))
        rows.append((found["name"], "yours", f"your labels, {f'split {split}' if split else 'all splits'}", *sizes))
    rows += [
        (r["name"], r["kind"], f"{published['data']}, {r['split']}", PAGE.count(r["images"]), PAGE.count(r["patients"]))
        for r in published["results"]
    ]
    notes = ["A dash: the source does not say."]
    # A page without an address loads nothing, as anybody can see; people know where to put the scheme.
    notes += [f"{r['name']}: {r['source']} Read in: {_without_scheme(r['read'])}." for r in published["results"]]
    heads = ("AUROCs", "made by", "tested on", "images", "patients")
    return Table(title="What each was tested on", heads=heads, rows=tuple(rows), words=(0, 1, 2), notes=tuple(notes))


def _without_scheme(text: str) -> str:
    return text.replace("https://", "")


def _in_digits(values: Sequence[float | None], digits: Sequence[int]) -> list[str]:
    return [PAGE.number(value, places) for value, places in zip(values, digits, strict=True)]
