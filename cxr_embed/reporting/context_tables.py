"""Tables around the figures: the data, few labels, groups, shortcuts, and the model cards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cxr_embed.present.numbers import PAGE, format_value
from cxr_embed.present.tables import INTERVAL, Table
from cxr_embed.types import counted


def split_table(data: dict[str, Any]) -> Table:
    """Who is in each split."""
    aged = any(part["age"] for part in data["splits"])
    shown = [name for name in ("sex", "view", "site", "source") if name in data["columns"]]
    heads = ["split", *shown, *(["age"] if aged else []), "images", "patients"]
    rows = []
    for part in data["splits"]:
        cells = [part["split"]]
        cells += [", ".join(f"{name} {number:,}" for name, number in part[column].items()) for column in shown]
        if aged:
            age = part["age"]
            cells.append(f"{age['median']:g} ({age['youngest']:g} to {age['oldest']:g})" if age else "unknown")
        rows.append((*cells, PAGE.count(part["images"]), PAGE.count(part["patients"])))
    notes = ("Age: median, youngest and oldest.",) if aged else ()
    return Table(
        title="Images and patients of each split",
        heads=tuple(heads),
        rows=tuple(rows),
        words=range(len(heads) - 2),
        notes=notes,
    )


def positives_table(data: dict[str, Any]) -> Table:
    """Positives of each finding in each split."""
    heads = ["finding"]
    unknown = any(f["known"] < part["images"] for part in data["splits"] for f in part["findings"])
    for _ in data["splits"]:
        heads += ["positive", *(["known"] if unknown else []), "part", "patients"]
    single = len(data["splits"]) == 1
    groups = [] if single else [("", 1), *((part["split"], 4 if unknown else 3) for part in data["splits"])]
    rows = []
    for row in range(len(data["splits"][0]["findings"])):
        cells = [data["splits"][0]["findings"][row]["finding"]]
        for part in data["splits"]:
            f = part["findings"][row]
            share = f["positives"] / f["known"] if f["known"] else None
            known = [PAGE.count(f["known"])] if unknown else []
            cells += [PAGE.count(f["positives"]), *known, PAGE.percent(share), PAGE.count(f["positive_patients"])]
        rows.append(tuple(cells))
    notes = ("Positive: images. Part: of the images whose label is known. Patients: with a positive image.",)
    return Table(
        title="Positives of each finding", heads=tuple(heads), rows=tuple(rows), groups=tuple(groups), notes=notes
    )


def few_label_tables(curve: dict[str, Any]) -> list[Table]:
    """The mean of all findings over the number of labels, and each encoder's findings."""
    shots = curve["protocol"]["shots"]
    by_key = {(row["encoder"], row["finding"], row["shots"]): row for row in curve["summary"]}
    encoders = list(dict.fromkeys(row["encoder"] for row in curve["summary"]))
    apart = {(r["encoder"], r["finding"], r["shots"]): r for r in curve["differences"] if r["minus"] == encoders[0]}
    rows = []
    for encoder in encoders:
        for size in shots:
            row, minus = by_key[encoder, None, size], apart.get((encoder, None, size))
            covered = f"{row['findings_in_mean']} of {len(curve['findings'])}"
            difference = PAGE.signed(minus["mean"] if minus is not None else None)
            spread = PAGE.interval(row["low"], row["high"]) if row["draws"] > 1 else ""
            rows.append(
                (encoder, str(size), covered, PAGE.number(row["mean"]), PAGE.number(row["sd"]), spread, difference)
            )
    heads = (
        "encoder",
        curve["protocol"].get("size", "labels a side"),
        "findings",
        "mean AUROC",
        "SD",
        "lowest to highest draw",
        "minus the first",
    )
    note = "Means over different findings do not compare: see how many each covers."
    tables = [Table(title="Mean over findings", heads=heads, rows=tuple(rows), words=(0, 1), notes=(note,))]
    same: list[str] = []
    for encoder in encoders:
        cells = []
        for finding in curve["findings"]:
            sizes = [by_key[encoder, finding, size] for size in shots]
            cells.append((finding, *(_spread(row["mean"], row["sd"]) for row in sizes)))
        reasons = []
        for size in shots:
            undefined = [(name, by_key[encoder, name, size]["undefined"]) for name in curve["findings"]]
            reasons += _listed(size, [(name, reason) for name, reason in undefined if reason])
        said = reasons if not same or reasons != same else ["Undefined where they are above, for the same reasons."]
        same = same or reasons
        title = f"{encoder}: AUROC of each finding, mean \N{PLUS-MINUS SIGN} SD over the draws"
        tables.append(Table(title=title, heads=("finding", *map(str, shots)), rows=tuple(cells), notes=tuple(said)))
    return tables


def _listed(size: int | str, missing: list[tuple[str, str]]) -> list[str]:
    """Findings that a size has no figure for, with their reasons; what the reasons end in alike is said once."""
    if not missing:
        return []
    _, mark, rest = missing[0][1].partition(" in the ")
    end = mark + rest
    if len(missing) == 1 or not all(reason.endswith(end) for _, reason in missing):
        end = ""
    names = "; ".join(f"{name}: {reason.removesuffix(end)}" for name, reason in missing)
    return [f"{size}: undefined for some{' (' + end.strip() + ')' if end else ''}. {names}."]


def _spread(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return PAGE.undefined
    return PAGE.number(mean) + (f" \N{PLUS-MINUS SIGN} {PAGE.number(sd)}" if sd is not None else "")


def groups_tables(scores: Sequence[dict[str, Any]]) -> list[Table]:
    """Each attribute's differences, a table for each score file."""
    tables = []
    for found in scores:
        groups = found["evaluation"]["groups"]
        by_key = {(g["finding"], g["attribute"], g["group"]): g for g in groups}
        for attribute in dict.fromkeys(g["attribute"] for g in groups):
            rows: list[tuple[str, ...]] = []
            missing: dict[tuple[str, str], list[str]] = {}
            for g in groups:
                if g["attribute"] != attribute or g["group"] == g["reference"]:
                    continue
                reference = by_key[g["finding"], attribute, g["reference"]]
                apart = g["differences"].get("auroc")
                if apart is None or apart["value"] is None:
                    which = g if g["auroc"] is None else reference
                    reason = f"{PAGE.undefined}, {which['undefined'].get('auroc', 'no case')}"
                    missing.setdefault((which["group"], reason), []).append(g["finding"])
                    continue
                if apart["low"] is None:
                    missing.setdefault((g["group"], apart["reason"]), []).append(g["finding"])
                figures = (PAGE.number(g["auroc"]), PAGE.number(reference["auroc"]))
                difference = (PAGE.signed(apart["value"]), PAGE.interval(apart["low"], apart["high"], signed=True))
                sizes = (PAGE.count(g["n"]), PAGE.count(g["positives"]))
                rows.append((g["finding"], g["group"], *figures, *difference, *sizes))
            reference = next(g["reference"] for g in groups if g["attribute"] == attribute)
            heads = ("finding", attribute, "AUROC", f"of {reference}", "difference", INTERVAL, "cases", "positive")
            title = f"{found['name']}: AUROC by {attribute}, compared with {reference}"
            notes = tuple(f"{group}: {reason}: {', '.join(names)}." for (group, reason), names in missing.items())
            tables.append(Table(title=title, heads=heads, rows=tuple(rows), words=(0, 1), notes=notes))
    return tables


def shortcut_table(shortcuts: Sequence[dict[str, Any]]) -> Table:
    """What probes separate by the vectors."""
    rows, notes = [], []
    for record in shortcuts:
        if record["reason"]:
            notes.append(f"{record['encoder']}, {record['attribute']}: {record['reason']}.")
        for kind in record["kinds"]:
            lead = (record["encoder"], record["attribute"], f"{kind['told']} from {kind['from']}")
            if kind.get("auroc") is None:
                notes.append(f"{', '.join(lead)}: {PAGE.undefined}: {kind['reason']}.")
                continue
            sizes = (PAGE.count(kind["learned"]), PAGE.count(kind["n"]), PAGE.count(kind["positives"]))
            interval = PAGE.interval(kind["auroc_low"], kind["auroc_high"])
            rows.append((*lead, PAGE.number(kind["auroc"]), interval, *sizes))
    heads = (
        "encoder",
        "attribute",
        "separated",
        "AUROC",
        INTERVAL,
        "learned from",
        "tested on",
        "of the first kind",
    )
    return Table(
        title="Probes of view, sex and site", heads=heads, rows=tuple(rows), words=(0, 1, 2), notes=tuple(notes)
    )


def encoder_table(card: dict[str, Any]) -> Table:
    """An encoder's card."""
    shapes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in card["outputs"].items())
    facts = {
        "revision": card["revision"],
        "fingerprint": card["fingerprint"],
        "pixels": card["preprocessing"],
        "outputs": shapes,
        "weights": card["weights"] or "none",
        "weights from": card["weights_source"],
        "licence": card["licence"],
        "trained on": card["trained_on"] or "not known",
    }
    if "engines" in card:
        facts["computed by"] = ", ".join(f"{engine} ({counted(n, 'vector')})" for engine, n in card["engines"].items())
        facts["stored as"] = f"{card['dtype']}, {counted(card['images'], 'image')}"
    return _facts(f"Encoder {card['name']}", facts)


def probe_table(card: dict[str, Any]) -> Table:
    """A probe's card."""
    labels, settings = card["labels"], card["settings"]
    split = f"split {labels['split']}" if labels["split"] else "all rows"
    facts = {
        "kind": card["kind"],
        "settings": ", ".join(
            f"{name} = {'None' if value is None else format_value(value)}" for name, value in settings.items()
        ),
        "C chosen": f"{card['strengths'][0]:g} to {card['strengths'][1]:g}" if card["strengths"] else "",
        "vectors": f"{card['encoder']['encoder']}, {card['output']}, fingerprint {card['encoder']['fingerprint']}",
        "learned from": f"{labels['file']}, {split}: {counted(labels['images'], 'image')} of "
        f"{counted(labels['patients'], 'patient')}"
        + ("; blank labels counted as negative" if labels.get("blank") == "negative" else ""),
        "labels' SHA-256": labels["sha256"],
        "not learned": "; ".join(f"{name}: {reason}" for name, reason in card["undefined"].items()),
        "thresholds": ", ".join(f"{name} {value:.4g}" for name, value in card["thresholds"].items()),
        "software": ", ".join(f"{name} {version}" for name, version in card["software"].items()),
        "created": card["created"],
    }
    return _facts(f"Probe {card['name']}", facts)


def provenance_table(report: dict[str, Any]) -> Table:
    """Files and software that the report comes from."""
    facts = {"labels": f"{report['labels']['file']}, SHA-256 {report['labels']['sha256']}"}
    facts |= {f"scores {s['name']}": f"{s['file']}, SHA-256 {s['sha256']}" for s in report["scores"]}
    if report["few_labels"] is not None:
        facts["curve"] = f"{report['few_labels']['file']}, SHA-256 {report['few_labels']['sha256']}"
    facts["software"] = ", ".join(f"{name} {version}" for name, version in report["software"].items())
    facts["created"] = report["created"]
    return _facts("Files and software", facts)


def _facts(title: str, facts: dict[str, str]) -> Table:
    return Table(
        title=title, heads=("", ""), rows=tuple((name, value) for name, value in facts.items() if value), words=(0, 1)
    )
