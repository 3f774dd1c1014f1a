"""A curve in numbers: means and spreads, paired differences, and the files that let anyone repeat it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from cxr_embed.io.digests import with_digest
from cxr_embed.io.files import write_together
from cxr_embed.metrics import holm, p_value
from cxr_embed.metrics.intervals import LEVEL
from cxr_embed.present.tables import csv_text
from cxr_embed.probe.curve import Curve, CurveResult, Size
from cxr_embed.probe.features import ProbeError
from cxr_embed.probe.selection import C_GRID, FIXED_C, FOLDS
from cxr_embed.probe.shots import draw_patients, hashes, patients_of
from cxr_embed.types import in_means

FORMAT, VERSION = "cxr_embed.curve", 1
CURVE_JSON, CURVE_CSV = "curve.json", "curve.csv"
_DRAWS_OF_CASES = "a draw of k shots is the first k of `positive` and the first k of `negative`"
_DRAWS_OF_PATIENTS = (
    "a draw of a fraction is that part of the training patients: the first of `images`, as many as it has"
)
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
            mean = {"encoder": encoder, "finding": None, "shots": size, **_spread(means, ["no finding is defined"])}
            rows.append({**mean, "findings_in_mean": int(defined.sum())})
    return rows


def undefined_sizes(curve: Curve) -> list[str]:
    """Why sizes lack findings, a sentence a size."""
    notes = []
    for size in curve.shots:
        lacking = {
            finding: max((_format_reasons(curve, e, size, finding) for e in curve.encoders), key=len)
            for finding in curve.findings
            if any(_reasons(curve, e, size, finding) for e in curve.encoders)
        }
        if lacking:
            shown = "; ".join(f"{finding}: {reason}" for finding, reason in list(lacking.items())[:_SHOWN])
            more = f"; {len(lacking) - _SHOWN} more in {CURVE_JSON}" if len(lacking) > _SHOWN else ""
            unit = "of the patients" if curve.by_fraction else "shots"
            notes.append(f"{format_size(curve, size)} {unit}, {len(lacking)} undefined: {shown}{more}")
    return notes


def differences(curve: Curve) -> list[dict[str, Any]]:
    """Each pair of encoders, later minus earlier, draw by draw, as `summarise` has single ones.

    `p` is of a paired t-test over the draws: would other draws from this training part, tested on this test part, have
    a mean difference of zero? `p_holm` is corrected (Holm, 1979) for all pairs and sizes: of the means, for those of
    the means; of single findings, for those of all findings.
    """
    rows = []
    for minus, encoder in itertools.combinations(curve.encoders, 2):
        for size in curve.shots:
            table = _table(curve, encoder, size) - _table(curve, minus, size)
            names = {"encoder": encoder, "minus": minus}
            for number, finding in enumerate(curve.findings):
                reasons = [r for each in (encoder, minus) for r in _reasons(curve, each, size, finding)]
                spread = _spread(table[number], reasons, -1.0)
                rows.append({**names, "finding": finding, "shots": size, **spread, "p": _paired(spread)})
            defined = ~np.isnan(table).any(axis=1) & in_means(curve.findings, curve.count_no_finding)
            means = table[defined].mean(axis=0) if defined.any() else np.full(table.shape[1], np.nan)
            spread = _spread(means, ["no finding is defined"], -1.0)
            mean = {**names, "finding": None, "shots": size, **spread, "p": _paired(spread)}
            rows.append({**mean, "findings_in_mean": int(defined.sum())})
    for of_means in (True, False):
        family = [row for row in rows if (row["finding"] is None) is of_means]
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = p
    return rows


def format_size(curve: Curve, size: Size) -> str:
    """A size for people: `16`, `all`, `10%`."""
    if not curve.by_fraction:
        return str(size or "all")
    return f"{100 * (size or 1):g}%"


def _size_plain(curve: Curve, size: Size) -> dict[str, Any]:
    """A size for programs."""
    return {"fraction": size or 1.0} if curve.by_fraction else {"shots": size or "all"}


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
            ("fractions" if curve.by_fraction else "shots"): [
                size for s in curve.shots for size in _size_plain(curve, s).values()
            ],
            "seeds": list(curve.seeds),
            "strengths": list(C_GRID),
            "fixed_strength": FIXED_C,
            "folds": FOLDS,
            "no_finding_in_means": curve.count_no_finding,
            "standardised_by": "all vectors of the training part",
            "draws": _DRAWS_OF_PATIENTS if curve.by_fraction else _DRAWS_OF_CASES,
            "ci": "95% interval of the mean over draws, Student's t; training and test part stay as they are",
            "p": "paired t-test over draws; p_holm is Holm's correction for all pairs and sizes (and findings)",
        },
        "findings": list(curve.findings),
        "train": {"images": len(curve.train), "patients": len(np.unique(curve.train.patients))},
        "test": {"images": len(curve.test), "patients": len(np.unique(curve.test.patients))},
        "test_ids": curve.test.ids.tolist(),
        "notes": list(curve.notes),
        "summary": [_sized(curve, row) for row in summarise(curve)],
        "differences": [_sized(curve, row) for row in differences(curve)],
        "results": [_plain(curve, result) for result in curve.results],
        "draws": list(_shares(curve)) if curve.by_fraction else [_drawn(curve, *key) for key in curve.draws],
    }


def to_csv(curve: Curve) -> str:
    """One row a probe."""
    columns = [("fraction" if curve.by_fraction else name) if name == "shots" else name for name in _COLUMNS]
    return csv_text(columns, (_plain(curve, result) for result in curve.results))


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
        raise ProbeError(f"{folder}: cannot be written ({error.strerror}); give another `out`") from None


def _sized(curve: Curve, row: dict[str, Any]) -> dict[str, Any]:
    """A row with its size for programs, in the place of the other."""
    rest = dict(row)
    return {
        **{name: rest.pop(name) for name in ("encoder", "finding")},
        **_size_plain(curve, rest.pop("shots")),
        **rest,
    }


def _shares(curve: Curve) -> Iterable[dict[str, Any]]:
    """The images of each seed's draws, in the order of the patients: a smaller draw is the beginning of a larger."""
    patients = hashes(curve.train.patients)
    known, parts = len(np.unique(patients)), [size for size in curve.shots if size is not None]
    for seed in curve.seeds if parts else ():
        order = draw_patients(patients, seed)
        counts = [int((order < patients_of(part, known)).sum()) for part in parts]
        first = np.argsort(order, kind="stable")[: counts[-1]]
        images = {f"{part:g}": count for part, count in zip(parts, counts, strict=True)}
        yield {"seed": seed, "images_of": images, "images": curve.train.ids[first].tolist()}


def _plain(curve: Curve, result: CurveResult) -> dict[str, Any]:
    return {
        "encoder": result.encoder,
        "finding": result.finding,
        **_size_plain(curve, result.shots),
        "seed": result.seed,
        "positives": result.positives,
        "negatives": result.negatives,
        "strength": result.C,
        "strength_chosen": result.chosen,
        "repeats_patients": result.repeats,
        "auroc": result.auroc.value,
        "undefined": result.auroc.reason or None,
    }


def _drawn(curve: Curve, finding: str, seed: int) -> dict[str, Any]:
    order = curve.draws[finding, seed]
    sizes = [size for size in curve.shots if isinstance(size, int)]
    most = max((size for size in sizes if not order.lacking(size)), default=0)
    ids = curve.train.ids
    return {
        "finding": finding,
        "seed": seed,
        "positive": ids[order.positive[:most]].tolist(),
        "negative": ids[order.negative[:most]].tolist(),
        "positive_patients": min(most, order.positive_patients),
        "negative_patients": min(most, order.negative_patients),
    }


def _table(curve: Curve, encoder: str, size: Size) -> np.ndarray:
    """`(F, seeds)` AUROC, NaN where undefined; one column where nothing is drawn."""
    seeds = {seed: number for number, seed in enumerate(curve.seeds if size is not None else (None,))}
    row = {finding: number for number, finding in enumerate(curve.findings)}
    result = np.full((len(row), len(seeds)), np.nan)
    for found in curve.results:
        if found.encoder == encoder and found.shots == size and found.auroc.value is not None:
            result[row[found.finding], seeds[found.seed]] = found.auroc.value
    return result


def _reasons(curve: Curve, encoder: str, size: Size, finding: str) -> list[str]:
    return [
        found.auroc.reason
        for found in curve.results
        if (found.encoder, found.shots, found.finding) == (encoder, size, finding) and found.auroc.value is None
    ]


def _format_reasons(curve: Curve, encoder: str, size: Size, finding: str) -> str:
    """The first reason, and of how many draws one holds, if not of all."""
    reasons, draws = _reasons(curve, encoder, size, finding), len(curve.seeds) if size is not None else 1
    some = f" ({len(reasons)} of {draws} draws)" if len(reasons) < draws else ""
    return f"{reasons[0]}{some}" if reasons else ""


def _paired(spread: dict[str, Any]) -> float | None:
    """Two-sided p of a mean difference over draws; None where there is one draw, or no spread between them."""
    if spread["sd"] is None:
        return None
    return p_value(spread["mean"], spread["sd"] / math.sqrt(spread["draws"]), spread["draws"])


def _spread(values: np.ndarray, reasons: list[str], least: float = 0.0) -> dict[str, Any]:
    """Mean with its 95% interval by Student's t (cut at `least` and 1), standard deviation, lowest and highest.

    None of them is there where a value is undefined; one draw has neither deviation nor interval.
    """
    count = len(values)
    if np.isnan(values).any():
        nothing = dict.fromkeys(("mean", "sd", "ci_low", "ci_high", "low", "high"))
        return {**nothing, "draws": count, "undefined": reasons[0]}
    mean, sd = float(values.mean()), float(values.std(ddof=1)) if count > 1 else None
    away = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * sd / math.sqrt(count) if sd is not None else None
    return {
        "mean": mean,
        "sd": sd,
        "ci_low": max(mean - away, least) if away is not None else None,
        "ci_high": min(mean + away, 1.0) if away is not None else None,
        "low": float(values.min()),
        "high": float(values.max()),
        "draws": count,
        "undefined": None,
    }
