"""One page on scores and the vectors behind them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from cxr_embed.api.curve import FewLabelCurve
from cxr_embed.api.evaluate import scores_of
from cxr_embed.api.examples import ExplainedCases, check_explain, check_scores
from cxr_embed.api.inputs import Progress, StrPath, Table, labels_of, progress_or_bar, several, store_of
from cxr_embed.api.places import places_of
from cxr_embed.api.probe import FindingsProbe, load_probe
from cxr_embed.api.scores import ScoreFrame
from cxr_embed.arguments import checked_arguments
from cxr_embed.choices import Blank, CalibrationKind, Uncertain
from cxr_embed.evaluation import ScoreSource
from cxr_embed.evaluation.evaluate import Prevalence
from cxr_embed.evaluation.thresholds import Rule
from cxr_embed.io.addresses import address_of
from cxr_embed.manifest import DESCRIPTIVE, OPTIONAL, REQUIRED, Manifest, write_companion
from cxr_embed.probe.curve_summary import CURVE_JSON
from cxr_embed.reporting import Inputs, ReportError, check_target, collect, write_report
from cxr_embed.store import Store


@dataclass(frozen=True)
class ReportFiles:
    """A report that was written.

    Attributes:
        page: the HTML file.
        files: all of its files, the page first.
        summary, warnings: as the page says them.
    """

    page: Path
    files: tuple[Path, ...]
    summary: tuple[str, ...]
    warnings: tuple[str, ...]


@checked_arguments
def report(
    scores: ScoreSource | Table,
    labels: Manifest | StrPath | Table,
    *,
    out: StrPath,
    against: Sequence[ScoreSource | Table] | ScoreSource | Table = (),
    stores: Sequence[Store | StrPath] | Store | StrPath = (),
    probes: Sequence[FindingsProbe | StrPath] = (),
    curve: FewLabelCurve | StrPath | None = None,
    findings: Sequence[str] | None = None,
    extra: Sequence[str] = (),
    split: str | None = None,
    uncertain: Uncertain = "unknown",
    blank: Blank | None = None,
    prevalence: Prevalence | None = None,
    threshold: Rule | None = None,
    thresholds_split: str | None = None,
    calibrate: CalibrationKind | None = None,
    by: Sequence[str] | None = None,
    count_no_finding: bool = False,
    output: str | None = None,
    pool: str = "mean",
    bootstraps: int = 1000,
    seed: int = 0,
    title: str = "Evaluation report",
    created: str = "",
    explain: int | None = None,
    manifest: Manifest | StrPath | None = None,
    root: StrPath | None = None,
    measured: StrPath | None = None,
    weights: StrPath | None = None,
    device: str = "auto",
    announce: Callable[[str], object] | None = None,
    progress: Progress | None = None,
) -> ReportFiles:
    """Writes one page (`out`, .html) for readers who were not there, and the same as JSON, Markdown and CSV beside it.

    Args:
        scores: what `predict` or `screen` gives, a file, or a table with `image_id` and a column a finding.
        labels: a manifest, or a table of labels.
        out: the page.
        against: other scores of the same cases, compared with the first.
        stores: whose vectors are probed for view, sex and site.
        probes: what `train_probe` gives, or folders of probes, for the model card.
        curve: what `few_label_curve` gives, or its `curve.json`.
        findings, extra, split, uncertain, blank, prevalence, threshold: as `evaluate` takes them.
        thresholds_split, calibrate, count_no_finding, bootstraps, seed: likewise.
        by: columns to make groups of; sex, age, view and site by default, where they are there.
        output: one of the encoders' outputs, whose vectors are probed; each encoder's first by default.
        pool: how tokens become one vector there: `mean`, `max` or `flatten`.
        title: of the page.
        created: a date for the page, so that equal inputs give equal files; now by default.
        explain: so many true positives, false positives and false negatives of each finding are shown with heat maps,
            at the report's threshold, else at the probe's own. The first of `probes` made the first scores. The page
            then holds radiographs, 320 pixels large.
        manifest: for `explain`: which says where the radiographs are; `labels` by default.
        root: for `explain`: folder of the radiographs, if not the manifest's own.
        measured: for `explain`: what `explain evaluate --json` printed of such maps.
        weights, device: for `explain`: of the probe's encoder, as `load_encoder` takes them.
        announce: called with a line on what `occlusion` costs, before it begins.
        progress: called with a word for the step, what is done and how much there is; a bar in notebooks by default.

    Raises:
        ReportError, ManifestError, ScoresError, StoreError, ProbeError, EncoderError, MapError: for what cannot be
            used or written.
    """
    page, shown = Path(out), progress_or_bar(progress)
    how = None
    if explain is not None:
        probe = _explaining(several(probes), explain, (threshold, thresholds_split))
        places = places_of(_with_paths(manifest, labels), root)
        known = Path(measured) if measured is not None else None
        loaded: dict[str, Any] = {"weights": weights, "device": device, "announce": announce, "progress": shown}
        how = ExplainedCases(probe=probe, places=places, measured=known, most=explain, **loaded)
    with ExitStack() as stack:
        aside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cxr-embed-report-")))
        files = tuple(_score_file(given, aside, number) for number, given in enumerate((scores, *several(against))))
        labels_path, extra = _label_file(labels, extra, aside)
        curve_path = _curve_file(curve, aside)
        check_target(page, *files, labels_path, *([curve_path] if curve_path is not None else []))
        inputs = Inputs(
            scores=files,
            labels=labels_path,
            findings=tuple(findings) if findings is not None else None,
            extra=tuple(extra),
            split=split,
            uncertain=uncertain,
            blank=blank,
            prevalence=prevalence,
            threshold=threshold,
            thresholds_split=thresholds_split,
            calibrate=calibrate,
            count_no_finding=count_no_finding,
            output=output,
            pool=pool,
            bootstraps=bootstraps,
            seed=seed,
            title=title,
            created=created,
            stores=tuple(store_of(store).path for store in several(stores)),
            probes=tuple(_probe_folder(probe, aside, number) for number, probe in enumerate(several(probes))),
            curve=curve_path,
            by=tuple(by) if by is not None else None,
        )
        if how is not None:
            check_scores(files[0], how.probe)
        made = collect(inputs, shown, how.how() if how is not None else None)
    written = write_report(page, made)
    return ReportFiles(page, written, tuple(made["summary"]), tuple(made["warnings"]))


def _explaining(probes: Sequence[FindingsProbe | StrPath], most: int, thresholds: Sequence[object]) -> FindingsProbe:
    """The probe that explains.

    Raises:
        ReportError: where nothing can be explained so.
        ProbeError: where it cannot be read.
    """
    first = next(iter(probes), None)
    probe = load_probe(first) if isinstance(first, str | os.PathLike) else first
    check_explain(most, probe, (*thresholds, *([probe.trained.thresholds] if probe is not None else [])))
    assert probe is not None
    return probe


def _with_paths(manifest: Manifest | StrPath | None, labels: Any) -> Manifest | StrPath:
    """The table that says where radiographs are.

    Raises:
        ReportError: where it is needed and not named.
    """
    table = manifest if manifest is not None else labels
    if not isinstance(table, Manifest | str | os.PathLike):
        raise ReportError("`explain` needs a `manifest`, which says where the radiographs are")
    return table


def _score_file(scores: Any, aside: Path, number: int) -> Path:
    """The scores' file; those in memory are written to one, so that the report can name its digest."""
    given = scores_of(scores)
    if isinstance(given, str | os.PathLike):
        return Path(given)
    path = aside / (f"scores {number + 1}.parquet" if number else "scores.parquet")
    if isinstance(given, ScoreFrame):
        given.save(path)
    elif isinstance(given, pa.Table):
        pa.parquet.write_table(given, path)
    else:
        raise ReportError(f"`scores` is a file, a table or what `predict` gives, not {type(given).__name__}")
    return path


def _probe_folder(probe: FindingsProbe | StrPath, aside: Path, number: int) -> Path:
    """The probe's folder; one in memory is written to one."""
    if not isinstance(probe, FindingsProbe):
        return Path(probe)
    folder = aside / f"probe {number + 1}"
    probe.save(folder)
    return folder


def _curve_file(curve: FewLabelCurve | StrPath | None, aside: Path) -> Path | None:
    if not isinstance(curve, FewLabelCurve):
        return Path(curve) if curve is not None else None
    curve.save(aside / "curve")
    return aside / "curve" / CURVE_JSON


def _label_file(labels: Any, extra: Sequence[str], aside: Path) -> tuple[Path, Sequence[str]]:
    """The labels' file, and its columns that are not findings: an open manifest knows them."""
    if isinstance(labels, str | os.PathLike):
        return Path(labels), extra
    table = labels_of(labels, extra)
    path = aside / "labels.parquet"
    pa.parquet.write_table(table.table, path)
    if table.companion is not None:  # what blank means, and which data set it is
        known = table.companion
        local = address_of(table.root) is None
        write_companion(path, replace(known, root=os.path.abspath(table.root) if local else known.root, boxes=None))
    described = {*REQUIRED, *OPTIONAL, *DESCRIPTIVE, *table.findings}
    return path, [name for name in table.table.column_names if name not in described]
