"""A curve in numbers: means and spreads, paired differences, and the files that let anyone repeat it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.files import write_together
from cxr_embed.manifest import plain_cell
from cxr_embed.probe.curve import Curve, Result
from cxr_embed.probe.selection import FIXED_STRENGTH, FOLDS, STRENGTHS
from cxr_embed.probe.vectors import ProbeError
from cxr_embed.types import in_means, with_digest

FORMAT, VERSION = "cxr_embed.curve", 1
CURVE_JSON, CURVE_CSV = "curve.json", "curve.csv"
_SHOWN = 3  # findings in a sentence
_COLUMNS = ("encoder", "finding", "shots", "seed", "positives", "negatives", "strength", "auroc", "undefined")


def summarise(curve: Curve) -> list[dict[str, Any]]:
    """Mean and spread of the AUROC over the seeds, for each encoder, size and finding.

    The row of the finding None is the mean over the findings whose AUROC is defined for every seed, `findings_in_mean`
    of them, 'No Finding' left out unless the curve counts it; the spread is then of that mean.
    """
    rows = []
    for encoder in curve.encoders:
        for size in curve.shots:
            table = _table(curve, encoder, size)
            for number, finding in enumerate(curve.findings):
                reasons = _reasons(curve, encoder, size, finding)
                rows.append({"encoder": encoder, "finding": finding, "shots": size, **_spread(table[number], reasons)})
            defined = ~np.isnan(table).any(axis=1) & in_means(curve.findings, curve.count_no_finding)
            means = table[defined].mean(axis=0) if defined.any() else np.full(table.shape[1], np.nan)
            told = {"encoder": encoder, "finding": None, "shots": size, **_spread(means, ["no finding is defined"])}
            rows.append({**told, "findings_in_mean": int(defined.sum())})
    return rows


def undefined_sizes(curve: Curve) -> list[str]:
    """Why sizes lack findings, a sentence a size."""
    told = []
    for size in curve.shots:
        lacking = {
            finding: reasons[0]
            for finding in curve.findings
            if (reasons := [reason for e in curve.encoders for reason in _reasons(curve, e, size, finding)])
        }
        if lacking:
            shown = "; ".join(f"{finding}: {reason}" for finding, reason in list(lacking.items())[:_SHOWN])
            more = f"; {len(lacking) - _SHOWN} more in {CURVE_JSON}" if len(lacking) > _SHOWN else ""
            told.append(f"{size or 'all'} shots, {len(lacking)} undefined: {shown}{more}")
    return told


def differences(curve: Curve) -> list[dict[str, Any]]:
    """Each later encoder minus the first one, draw by draw, as `summarise` has single ones."""
    rows = []
    first = curve.encoders[0]
    for encoder in curve.encoders[1:]:
        for size in curve.shots:
            table = _table(curve, encoder, size) - _table(curve, first, size)
            names = {"encoder": encoder, "minus": first}
            for number, finding in enumerate(curve.findings):
                reasons = _reasons(curve, encoder, size, finding)
                rows.append({**names, "finding": finding, "shots": size, **_spread(table[number], reasons)})
            defined = ~np.isnan(table).any(axis=1) & in_means(curve.findings, curve.count_no_finding)
            means = table[defined].mean(axis=0) if defined.any() else np.full(table.shape[1], np.nan)
            told = {**names, "finding": None, "shots": size, **_spread(means, ["no finding is defined"])}
            rows.append({**told, "findings_in_mean": int(defined.sum())})
    return rows


def to_json(curve: Curve, about: dict[str, Any]) -> dict[str, Any]:
    """All of a curve as plain JSON values.

    Args:
        curve: what was found.
        about: where vectors and labels came from.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        **about,
        "protocol": {
            "shots": [size if size is not None else "all" for size in curve.shots],
            "seeds": list(curve.seeds),
            "strengths": list(STRENGTHS),
            "fixed_strength": FIXED_STRENGTH,
            "folds": FOLDS,
            "no_finding_in_means": curve.count_no_finding,
            "standardised_by": "all vectors of the training part",
            "draws": "a draw of k shots is the first k of `positive` and the first k of `negative`",
        },
        "findings": list(curve.findings),
        "train": {"images": len(curve.train), "patients": len(np.unique(curve.train.patients))},
        "test": {"images": len(curve.test), "patients": len(np.unique(curve.test.patients))},
        "test_ids": curve.test.ids.tolist(),
        "notes": list(curve.notes),
        "summary": [{**row, "shots": row["shots"] or "all"} for row in summarise(curve)],
        "differences": [{**row, "shots": row["shots"] or "all"} for row in differences(curve)],
        "results": [_plain(result) for result in curve.results],
        "draws": [_drawn(curve, finding, seed) for finding, seed in curve.draws],
    }


def to_csv(curve: Curve) -> str:
    """One row a probe."""
    file = io.StringIO()
    writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in _rows(curve):
        writer.writerow({key: "" if value is None else plain_cell(value) for key, value in row.items()})
    return file.getvalue()


def write_curve(folder: Path, curve: Curve, about: dict[str, Any]) -> None:
    """Writes `curve.json` and `curve.csv`, both or none.

    Raises:
        ProbeError: where they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(with_digest(to_json(curve, about)), indent=1, ensure_ascii=False) + "\n"
        write_together({folder / CURVE_CSV: to_csv(curve).encode(), folder / CURVE_JSON: text.encode()})
    except OSError as error:
        raise ProbeError(f"{folder}: cannot be written ({error.strerror}); give another --out") from None


def _rows(curve: Curve) -> Iterable[dict[str, Any]]:
    return map(_plain, curve.results)


def _plain(result: Result) -> dict[str, Any]:
    return {
        "encoder": result.encoder,
        "finding": result.finding,
        "shots": result.shots if result.shots is not None else "all",
        "seed": result.seed,
        "positives": result.positives,
        "negatives": result.negatives,
        "strength": result.strength,
        "strength_chosen": result.chosen,
        "repeats_patients": result.repeats,
        "auroc": result.auroc.value,
        "undefined": result.auroc.reason or None,
    }


def _drawn(curve: Curve, finding: str, seed: int) -> dict[str, Any]:
    order = curve.draws[finding, seed]
    most = max((size for size in curve.shots if size is not None and not order.lacking(size)), default=0)
    ids = curve.train.ids
    return {
        "finding": finding,
        "seed": seed,
        "positive": ids[order.positive[:most]].tolist(),
        "negative": ids[order.negative[:most]].tolist(),
        "positive_patients": min(most, order.positive_patients),
        "negative_patients": min(most, order.negative_patients),
    }


def _table(curve: Curve, encoder: str, size: int | None) -> np.ndarray:
    """`(F, seeds)` AUROC, NaN where undefined; one column where nothing is drawn."""
    seeds = {seed: number for number, seed in enumerate(curve.seeds if size is not None else (None,))}
    row = {finding: number for number, finding in enumerate(curve.findings)}
    result = np.full((len(row), len(seeds)), np.nan)
    for found in curve.results:
        if found.encoder == encoder and found.shots == size and found.auroc.value is not None:
            result[row[found.finding], seeds[found.seed]] = found.auroc.value
    return result


def _reasons(curve: Curve, encoder: str, size: int | None, finding: str) -> list[str]:
    return [
        found.auroc.reason
        for found in curve.results
        if (found.encoder, found.shots, found.finding) == (encoder, size, finding) and found.auroc.value is None
    ]


def _spread(values: np.ndarray, reasons: list[str]) -> dict[str, Any]:
    """Mean, standard deviation (of a sample), lowest and highest; none of them where a value is undefined."""
    count = len(values)
    if np.isnan(values).any():
        return {"mean": None, "sd": None, "low": None, "high": None, "draws": count, "undefined": reasons[0]}
    return {
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)) if count > 1 else None,
        "low": float(values.min()),
        "high": float(values.max()),
        "draws": count,
        "undefined": None,
    }
