"""Few-label curves: what an encoder's vectors are worth with 4, 16 or all labels, and encoders compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from cxr_embed.api.inputs import StrPath, Table, labels_of, several, source_of, store_of
from cxr_embed.api.probe import stored_output
from cxr_embed.api.tabular import Tabular
from cxr_embed.arguments import checked_arguments
from cxr_embed.choices import Blank, Uncertain
from cxr_embed.io.times import utc_now
from cxr_embed.manifest import Manifest
from cxr_embed.present.numbers import PLAIN
from cxr_embed.probe.curve import Curve, CurveEncoder, Progress, run_curve
from cxr_embed.probe.curve_summary import differences, format_size, summarise, to_json, write_curve
from cxr_embed.probe.features import ProbeError
from cxr_embed.probe.latex import to_latex
from cxr_embed.reporting.cards import store_names
from cxr_embed.reporting.few_label_plot import few_labels_figure, stand_ins_of
from cxr_embed.store import Store
from cxr_embed.version import __version__

SHOTS: tuple[int | Literal["all"], ...] = (1, 4, 16, 64, 256, "all")


@dataclass(frozen=True, repr=False)
class FewLabelCurve(Tabular):
    """Test AUROCs by number of labels.

    Attributes:
        curve: every draw's result.
        about: where vectors and labels came from.
    """

    curve: Curve
    about: dict[str, Any]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out or decided, in sentences."""
        return self.curve.notes

    def __repr__(self) -> str:
        unit = "patients" if self.curve.by_fraction else "shots"
        lines = []
        for row in summarise(self.curve):
            if row["finding"] is None:
                mean = PLAIN.figure(row["mean"], row["ci_low"], row["ci_high"])
                lines.append(f"{row['encoder']}, {format_size(self.curve, row['shots'])} {unit}: {mean}")
        return self._as_text(["mean AUROC over findings", *lines])

    def to_arrow(self) -> pa.Table:
        """A row for each encoder, size and finding (null for the mean over findings), with the 95% interval."""
        rows = [
            {**row, "shots": format_size(self.curve, row["shots"]), "findings_in_mean": row.get("findings_in_mean")}
            for row in summarise(self.curve)
        ]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})

    def differences(self) -> list[dict[str, Any]]:
        """Each pair of encoders, draw by draw, with p of a paired t-test after Holm's correction."""
        return differences(self.curve)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values, as `curve.json` holds it."""
        return to_json(self.curve, self.about)

    def to_latex(self) -> str:
        """Two tables for a paper; they need the package booktabs."""
        return to_latex(self.curve, stand_ins_of(self.to_json()))

    @checked_arguments
    def save(self, out: StrPath) -> None:
        """Writes `curve.json` and `curve.csv`.

        Raises:
            ProbeError: where they cannot be written.
        """
        write_curve(Path(out), self.curve, self.about)

    @checked_arguments
    def plot(self, path: StrPath | None = None) -> Any:
        """The curve as a `matplotlib.figure.Figure`, written to `path` (.png, .svg, .pdf) as well where one is given.

        Raises:
            ReportError: where it cannot be written.
        """
        return few_labels_figure(self.to_json(), Path(path) if path is not None else None)

    def _remarks(self) -> Sequence[str]:
        return self.notes


@checked_arguments
def few_label_curve(
    stores: Sequence[Store | StrPath] | Store | StrPath,
    labels: Manifest | StrPath | Table,
    *,
    shots: Sequence[int | Literal["all"] | None] | int | Literal["all"] | None = None,
    fractions: Sequence[float] | float | None = None,
    seeds: int | Sequence[int] = 10,
    train: str = "train",
    test: str = "test",
    output: Sequence[str | None] | str | None = None,
    findings: Sequence[str] | None = None,
    pool: str = "mean",
    uncertain: Uncertain = "unknown",
    blank: Blank | None = None,
    count_no_finding: bool = False,
    extra: Sequence[str] = (),
    progress: Progress | None = None,
) -> FewLabelCurve:
    """Draws cases, trains and tests; every store gets the same draws, and they are compared draw by draw.

    Args:
        stores: one store, or several to compare: open ones, or their folders.
        labels: a manifest, or a table of labels. Without a column `split`, a part of the patients becomes the test.
        shots: positives of a draw, and as many negatives; `"all"` is all training images. `SHOTS` by default.
        fractions: instead of shots, parts of the training patients, above 0 and at most 1.
        seeds: one draw each: so many, or these.
        train, test: names of the splits.
        output: one of the encoder's outputs for each store; the one that probes learn from by default.
        findings: all by default. `common`: those that the vocabulary of findings has, under their common names.
        pool: how tokens become one vector.
        uncertain: what a label of -1 counts as.
        blank: what a blank label counts as; what the labels' companion says by default, else `unknown`.
        count_no_finding: whether 'No Finding' has a part in means over findings.
        extra: columns of the labels that are not findings.
        progress: called with a word, what is done and how much there is.

    Raises:
        ProbeError: for labels, sizes or stores that cannot be used, or a patient on both sides.
    """
    if shots is not None and fractions is not None:
        raise ProbeError("`shots` or `fractions`, not both: they are two curves")
    given = several(stores)
    count = seeds if isinstance(seeds, int) else len(seeds)
    if not given or count < 1:
        raise ProbeError(f"`{'seeds' if given else 'stores'}` are at least one")
    encoders = _encoders([store_of(store) for store in given], output)
    table = labels_of(labels, extra)
    sizes: dict[str, Any] = {"fractions": _fractions(fractions)} if fractions is not None else {"shots": _shots(shots)}
    found = run_curve(
        encoders,
        table,
        **sizes,
        seeds=range(seeds) if isinstance(seeds, int) else seeds,
        train=train,
        test=test,
        findings=findings,
        pool=pool,
        uncertain=uncertain,
        blank=blank,
        count_no_finding=count_no_finding,
        progress=progress,
    )
    source = dict(zip(("file", "sha256"), source_of(labels, table), strict=True))
    about = {
        "created": utc_now(),
        "software": __version__,
        "encoders": [_about(encoder, pool) for encoder in encoders],
        "labels": {**source, "train": train, "test": test, "uncertain": uncertain, "blank": found.train.blank},
    }
    return FewLabelCurve(found, about)


def _encoders(opened: Sequence[Store], output: Sequence[str | None] | str | None) -> list[CurveEncoder]:
    """Each store with its name in tables and its output."""
    outputs = [output] * len(opened) if output is None or isinstance(output, str) else list(output)
    if len(outputs) != len(opened):
        raise ProbeError(f"`output` is given once for each store, {len(opened)} times, or not at all")
    names = store_names(opened)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ProbeError(f"the store of {twice} is given twice")
    chosen = [stored_output(store, name) for store, name in zip(opened, outputs, strict=True)]
    return [CurveEncoder(*parts) for parts in zip(names, opened, chosen, strict=True)]


def _about(encoder: CurveEncoder, pool: str) -> dict[str, Any]:
    spec = encoder.store.spec
    return {
        "name": encoder.name,
        "store": str(encoder.store.path),
        "fingerprint": spec.fingerprint,
        "output": encoder.output,
        "pool": pool,
        **({"stand_in": spec.stand_in} if spec.stand_in else {}),
    }


def _shots(shots: Sequence[int | Literal["all"] | None] | int | Literal["all"] | None) -> tuple[int | None, ...]:
    words = SHOTS if shots is None else (shots,) if isinstance(shots, int | str) else tuple(shots)
    numbers = [word for word in words if word not in ("all", None)]
    if not words or not all(isinstance(word, int) and word > 0 for word in numbers):
        raise ProbeError(f"`shots` is a list of whole numbers from 1 and 'all', not {shots!r}")
    sizes: tuple[int | None, ...] = tuple(sorted({int(word) for word in numbers}))
    return (*sizes, None) if len(numbers) < len(words) else sizes


def _fractions(fractions: Sequence[float] | float) -> tuple[float, ...]:
    fractions = [fractions] if isinstance(fractions, int | float) else fractions
    if not fractions or not all(0 < part <= 1 for part in fractions):
        raise ProbeError(f"`fractions` is a list of parts of 1, above 0, not {fractions!r}")
    return tuple(sorted(set(fractions)))
