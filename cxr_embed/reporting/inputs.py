"""What a report is made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_embed.choices import Blank, CalibrationKind, Uncertain
from cxr_embed.errors import CxrEmbedError
from cxr_embed.evaluation.evaluate import Prevalence
from cxr_embed.evaluation.thresholds import Rule
from cxr_embed.io.digests import file_sha256

_SUFFIX = re.compile(r"\.(csv|csv\.gz|parquet)$", re.IGNORECASE)
MOST = 5  # score files: more lines could not be distinguished


class ReportError(CxrEmbedError):
    """A report that cannot be made of what was given, or not be written."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Files and settings of a report.

    Attributes:
        scores: one file for each classifier or encoder; the first is compared with each of the others.
        labels: a manifest, or a table of `image_id` and findings.
        findings: of the scores; all by default.
        extra: columns of the labels that are not findings.
        stores: whose vectors are probed for shortcuts; for the model card.
        output: of the encoders, for the shortcuts; each encoder's first by default.
        pool: how tokens become one vector there.
        probes: folders of trained probes, for the model card.
        curve: `curve.json` of `probe curve`.
        split, uncertain, blank, prevalence, threshold, thresholds_split, calibrate, bootstraps, seed: as `evaluate`
            takes them.
        count_no_finding: whether 'No Finding' has a part in means over findings.
        by: columns to make groups of; None takes sex, age, view and site where the labels have them.
        title: of the page.
        created: for the page; nothing of it hangs on the clock.
    """

    scores: tuple[Path, ...]
    labels: Path
    findings: tuple[str, ...] | None = None
    extra: tuple[str, ...] = ()
    stores: tuple[Path, ...] = ()
    output: str | None = None
    pool: str = "mean"
    probes: tuple[Path, ...] = ()
    curve: Path | None = None
    split: str | None = None
    uncertain: Uncertain = "unknown"
    blank: Blank | None = None
    prevalence: Prevalence | None = None
    threshold: Rule | None = None
    thresholds_split: str | None = None
    calibrate: CalibrationKind | None = None
    by: tuple[str, ...] | None = None
    count_no_finding: bool = False
    bootstraps: int = 1000
    seed: int = 0
    title: str = "Evaluation report"
    created: str = ""


def names_of(paths: Sequence[Path], what: str) -> list[str]:
    """A short name for each file: its own, with its folder's where several are alike.

    Raises:
        ReportError: where they stay alike.
    """
    names = [_SUFFIX.sub("", path.name) or path.name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.absolute().parent.name}/{name}" for path, name in zip(paths, names, strict=True)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ReportError(f"two {what} are named {twice[0]}: the report could not tell them apart; rename one")
    return names


def input_record(path: Path) -> dict[str, Any]:
    """A file's name, without its folder, and its digest.

    Raises:
        ReportError: where it cannot be read.
    """
    try:
        return {"file": path.name, "sha256": file_sha256(path)}
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror})") from None
