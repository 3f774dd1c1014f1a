"""The few-label protocol: AUROC on one fixed test part of probes that learned from little.

Little is 1, 4, 16, ... cases a side of one finding (`shots`), or 1%, 10%, ... of the patients with all their images,
whatever they show (`fraction`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cxr_embed.cases import Cases, check_apart
from cxr_embed.choices import Blank, Uncertain
from cxr_embed.manifest import Manifest
from cxr_embed.metrics import Figure, auroc
from cxr_embed.probe.features import ArraySource, Matrix, ProbeError, Standard, StoreSource, fit_standard, read_pooled
from cxr_embed.probe.labelled import labelled_cases
from cxr_embed.probe.linear import KERNEL_CASES, KernelSolver, LinearProbe, SmoothSolver
from cxr_embed.probe.selection import choose_C, make_columns, one_sided
from cxr_embed.probe.shots import Order, draw_order, draw_patients, hashes, patients_for_test, patients_of
from cxr_embed.store import Store
from cxr_embed.types import counted, left_out_of_means

_UNSOLVED = "its solver did not converge"
TEST_PART = 0.3  # of the patients, where the labels have no split
Progress = Callable[[str, int, int], None]
Size = int | float | None


@dataclass(frozen=True)
class CurveEncoder:
    """One encoder of a comparison.

    Attributes:
        name: in tables; different from the others'.
        store: its vectors.
        output: of the encoder.
    """

    name: str
    store: Store
    output: str


@dataclass(frozen=True, kw_only=True)
class CurveResult:
    """One probe of one draw.

    Attributes:
        encoder, finding: their names.
        shots: positives, and as many negatives, or the part of the training patients; None for all training images.
        seed: of the draw; None where nothing is drawn.
        positives, negatives: that it learned from.
        C: inverse regularisation; None where there is no probe.
        chosen: whether cross-validation inside the draw chose it; else it is the fixed one.
        repeats: whether several images of a patient were drawn, for want of patients.
        auroc: on the test part, with the reason where it is undefined.
    """

    encoder: str
    finding: str
    shots: Size
    seed: int | None
    positives: int
    negatives: int
    C: float | None
    chosen: bool
    repeats: bool
    auroc: Figure


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What the protocol gave.

    Attributes:
        encoders: their names, in order.
        findings: likewise.
        shots: sizes, None for all; parts of the training patients where `by_fraction`.
        seeds: of the draws.
        train, test: the images; the same for all encoders.
        draws: (finding, seed) to its order of rows of `train`; none where `by_fraction`.
        results: one for each encoder, finding, size and seed.
        notes: what was left out or decided, in words.
        count_no_finding: whether 'No Finding' has a part in means over findings; it is left out by default.
        by_fraction: whether draws are of patients.
    """

    encoders: tuple[str, ...]
    findings: tuple[str, ...]
    shots: tuple[Size, ...]
    seeds: tuple[int, ...]
    train: Cases
    test: Cases
    draws: dict[tuple[str, int], Order]
    results: tuple[CurveResult, ...]
    notes: tuple[str, ...]
    count_no_finding: bool = False
    by_fraction: bool = False


def run_curve(
    encoders: Sequence[CurveEncoder],
    labels: Manifest,
    *,
    shots: Sequence[int | None] = (),
    fractions: Sequence[float] = (),
    seeds: Sequence[int],
    train: str = "train",
    test: str = "test",
    findings: Sequence[str] | None = None,
    pool: str = "mean",
    uncertain: Uncertain = "unknown",
    blank: Blank | None = None,
    count_no_finding: bool = False,
    progress: Progress | None = None,
) -> Curve:
    """Draws, trains and tests.

    Vectors are standardised by all images of the training part, which needs no labels. `C` is chosen by
    cross-validation over the patients of the draw, or fixed where those are too few. Every encoder gets the same draws
    and the same test images: those that all stores hold.

    Args:
        encoders: at least one.
        labels: a manifest, or a table of labels. Without a column `split`, a part of the patients becomes the test.
        shots: positives of a draw, rising, and as many negatives; None, last, is all training images.
        fractions: instead of shots, parts of the training patients, rising, above 0 and at most 1: each draw is these
            patients with all their images, the same for all findings.
        seeds: one draw each.
        train, test: names of the splits.
        findings: all by default.
        pool: how tokens become one vector.
        uncertain: what a label of -1 counts as.
        blank: what a blank label counts as; what the labels' companion says by default, else `unknown`.
        count_no_finding: whether 'No Finding' has a part in means over findings; it is left out by default.
        progress: called with a word, what is done and how much there is.

    Raises:
        ProbeError: for labels that cannot be used, or a patient on both sides.
    """
    parts, notes = _parts(encoders, labels, train, test, findings, uncertain, blank)
    wanted: tuple[Size, ...] = tuple(None if part == 1 else part for part in fractions) if fractions else tuple(shots)
    drawn = _draw(parts[0], seeds) if not fractions else {}
    results: list[CurveResult] = []
    for number, encoder in enumerate(encoders):
        run = _EncoderRun(encoder, parts[0], parts[1], pool)
        notes += [f"{encoder.name}: {run.alike}"] if run.alike else []
        steps = _steps(run, wanted, drawn, seeds if fractions else ())
        results += _taken(steps, encoder.name, (number, len(encoders)), progress)
    notes += [*_repeated(results), *left_out_of_means(parts[0].names, count_no_finding)]
    return Curve(
        encoders=tuple(encoder.name for encoder in encoders),
        findings=parts[0].names,
        shots=wanted,
        seeds=tuple(seeds),
        train=parts[0],
        test=parts[1],
        draws=drawn,
        results=tuple(results),
        notes=tuple(dict.fromkeys(notes)),
        count_no_finding=count_no_finding,
        by_fraction=bool(fractions),
    )


def _steps(
    run: _EncoderRun, wanted: Sequence[Size], drawn: Mapping[tuple[str, int], Order], seeds: Sequence[int]
) -> list[Callable[[], list[CurveResult]]]:
    """What trains and tests one encoder's probes, a draw a step, and one for all training images.

    Args:
        run: of the encoder.
        wanted: sizes of the curve.
        drawn: images in their order, where sizes are shots.
        seeds: of draws of patients, where sizes are parts of them.
    """
    sizes: list[Any] = [size for size in wanted if size is not None]  # all int, or all float
    steps: list[Callable[[], list[CurveResult]]] = [
        partial(run.shots, finding, seed, order, sizes) for (finding, seed), order in drawn.items()
    ]
    steps += [partial(run.share, part, seed) for part in sizes for seed in seeds]
    return steps + ([run.everything] if None in wanted else [])


def _taken(
    steps: Sequence[Callable[[], list[CurveResult]]], name: str, of: tuple[int, int], progress: Progress | None
) -> list[CurveResult]:
    """What the steps of one encoder give; `of` is its number and how many there are."""
    results: list[CurveResult] = []
    for done, step in enumerate(steps, of[0] * len(steps) + 1):
        results += step()
        if progress is not None:
            progress(name, done, of[1] * len(steps))
    return results


def _repeated(results: Sequence[CurveResult]) -> list[str]:
    repeated = sorted({result.finding for result in results if result.repeats})
    note = f"too few patients for some sizes, so that a draw has several images of one: {', '.join(repeated)}"
    return [note] if repeated else []


def _parts(
    encoders: Sequence[CurveEncoder],
    labels: Manifest,
    train: str,
    test: str,
    findings: Sequence[str] | None,
    uncertain: Uncertain,
    blank: Blank | None,
) -> tuple[tuple[Cases, Cases], list[str]]:
    """Training and test cases that every store has."""
    notes: list[str] = []
    sides: list[Cases] = []
    split = "split" in labels.table.column_names
    for name in (train, test) if split else (None,):
        found = [
            labelled_cases(e.store, labels, split=name, findings=findings, uncertain=uncertain, blank=blank)
            for e in encoders
        ]
        notes += [note for cases in found for note in cases.notes]
        common = set(found[0].ids.tolist()).intersection(*(cases.ids.tolist() for cases in found[1:]))
        kept = np.flatnonzero([image_id in common for image_id in found[0].ids.tolist()])
        if not len(kept):
            raise ProbeError("the stores have no labelled image in common; embed the same manifest with each encoder")
        if len(encoders) > 1 and len(kept) < max(map(len, found)):
            notes.append(
                f"compared on the {counted(len(kept), 'image')} of {name or 'the labels'} that every store has"
            )
        sides.append(found[0].keep(kept))
    if not split:
        away = patients_for_test(sides[0].patients, TEST_PART, 0)
        if away.all() or not away.any():
            raise ProbeError("too few patients to split; add a column split with train and test to the labels")
        notes.append(
            f"the labels have no column split: {TEST_PART:.0%} of the patients are the test part, chosen by their ids"
        )
        sides = [sides[0].keep(np.flatnonzero(~away)), sides[0].keep(np.flatnonzero(away))]
    check_apart(sides[0], sides[1], ("in the training part", "in the test part"))
    for encoder in encoders:
        content = dict(zip(encoder.store.ids.tolist(), encoder.store.index.files(), strict=True))
        learned = {content[image_id] for image_id in sides[0].ids.tolist()}
        same = [image_id for image_id in sides[1].ids.tolist() if content[image_id] in learned]
        if same:
            notes.append(
                f"{counted(len(same), 'test image is', 'test images are')} the same file as a training "
                f"image, under another id: {same[0]}"
            )
    return (sides[0], sides[1]), notes


def _draw(train: Cases, seeds: Sequence[int]) -> dict[tuple[str, int], Order]:
    images, patients = hashes(train.ids), hashes(train.patients)
    return {
        (finding, seed): draw_order(images, patients, train.labels[:, number], finding, seed)
        for number, finding in enumerate(train.names)
        for seed in seeds
    }


class _EncoderRun:
    """One encoder's probes; its test vectors stay in memory."""

    def __init__(self, encoder: CurveEncoder, train: Cases, test: Cases, pool: str) -> None:
        self._encoder, self._train, self._test, self._pool = encoder, train, test, pool
        self._patients = np.unique(train.patients, return_inverse=True)[1]
        self._source = StoreSource(encoder.store, train.ids, encoder.output, pool)
        self._standard = fit_standard(self._source)
        self.alike = self._standard.alike
        self._test_vectors = self._read(test.ids, np.float32)

    def _read(self, ids: np.ndarray, dtype: type[np.floating]) -> np.ndarray:
        return self._standard(read_pooled(self._encoder.store, ids, self._encoder.output, self._pool), dtype)

    def shots(self, finding: str, seed: int, order: Order, sizes: Sequence[int]) -> list[CurveResult]:
        """Probes of one finding and seed, of every size."""
        column = self._train.names.index(finding)
        possible = [size for size in sizes if not order.lacking(size)]
        results = []
        if possible:
            most = max(possible)
            rows = order.shots(most)
            vectors = self._read(self._train.ids[rows], np.float64)
        for size in sizes:
            lacking = order.lacking(size)
            if lacking:
                results.append(self._untrained(finding, (size, seed), (0, 0), lacking))
                continue
            part = np.r_[:size, most : most + size]
            labels = np.repeat(np.array([1.0, 0.0], np.float32), size)[:, None]
            solver = make_solver(vectors[part])
            C, chosen, _ = choose_C(solver, labels, self._patients[rows[part]], balance="none", seed=seed)
            signs = (2 * labels - 1).astype(np.int8)
            solution = solver.solve(make_columns(signs, C, "none"))
            scores = self._test_vectors @ solution.coefficients[:, 0].astype(np.float32)
            found = self._tested(column, scores) if solution.solved[0] else Figure(None, _UNSOLVED)
            results.append(
                CurveResult(
                    encoder=self._encoder.name,
                    finding=finding,
                    shots=size,
                    seed=seed,
                    positives=size,
                    negatives=size,
                    C=float(C[0]),
                    chosen=bool(chosen[0]),
                    repeats=order.repeats(size),
                    auroc=found,
                )
            )
        return results

    def _untrained(
        self, finding: str, draw: tuple[Size, int | None], counts: tuple[int, int], reason: str
    ) -> CurveResult:
        """What stands where no probe could be trained; `counts` are positives and negatives."""
        return CurveResult(
            encoder=self._encoder.name,
            finding=finding,
            shots=draw[0],
            seed=draw[1],
            positives=counts[0],
            negatives=counts[1],
            C=None,
            chosen=False,
            repeats=False,
            auroc=Figure(None, reason),
        )

    def share(self, part: float, seed: int) -> list[CurveResult]:
        """Probes of a part of the training patients, every finding at once."""
        known = int(self._patients.max()) + 1
        count = patients_of(part, known)
        if not count:
            why = f"{part:g} of {counted(known, 'patient', 'patients')} in the training part is less than one"
            return [self._untrained(finding, (part, seed), (0, 0), why) for finding in self._train.names]
        rows = np.flatnonzero(draw_patients(hashes(self._train.patients), seed) < count)
        source = StoreSource(self._encoder.store, self._train.ids[rows], self._encoder.output, self._pool)
        where = f"in a draw of {counted(count, 'patient', 'patients')}"
        return self._every_finding(source, rows, (part, seed), where)

    def everything(self) -> list[CurveResult]:
        """Probes of all training images, every finding at once."""
        return self._every_finding(self._source, np.arange(len(self._train)), (None, None), "in the training part")

    def _every_finding(
        self, source: StoreSource, rows: np.ndarray, draw: tuple[Size, int | None], where: str
    ) -> list[CurveResult]:
        values = self._train.labels[rows]
        learned = [not one_sided(column) for column in values.T]
        probe = LinearProbe(pool=self._pool)
        if any(learned):
            probe.fit_source(source, values, self._train.patients[rows], self._standard)
        results = []
        for column, finding in enumerate(self._train.names):
            positives, negatives = (int((values[:, column] == side).sum()) for side in (1, 0))
            if not learned[column]:
                reason = f"{where}, {one_sided(values[:, column])}"
                results.append(self._untrained(finding, draw, (positives, negatives), reason))
                continue
            scores = self._test_vectors @ probe.coef_[column].astype(np.float32)
            found = self._tested(column, scores) if column not in probe.unconverged_ else Figure(None, _UNSOLVED)
            results.append(
                CurveResult(
                    encoder=self._encoder.name,
                    finding=finding,
                    shots=draw[0],
                    seed=draw[1],
                    positives=positives,
                    negatives=negatives,
                    C=float(probe.C_[column]),
                    chosen=bool(probe.chosen_[column]),
                    repeats=False,
                    auroc=found,
                )
            )
        return results

    def _tested(self, column: int, scores: np.ndarray) -> Figure:
        labels = self._test.labels[:, column]
        known = ~np.isnan(labels)
        found = auroc(labels[known], scores[known])
        return found if found.value is not None else Figure(None, f"in the test part, {found.reason}")


def make_solver(vectors: np.ndarray) -> KernelSolver | SmoothSolver:
    """The solver that fits the number of standardised vectors `(N, D)` float64."""
    if len(vectors) <= KERNEL_CASES:
        return KernelSolver(vectors)
    plain = Standard(np.zeros(vectors.shape[1]), np.ones(vectors.shape[1]))
    return SmoothSolver(Matrix(ArraySource(vectors, "mean"), plain), 1e-5, 0)
