"""Classifiers of findings on stored vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from cxr_embed.api.evaluate import EvaluationResult, evaluate
from cxr_embed.api.inputs import StrPath, Table, labels_of, source_of, store_of
from cxr_embed.api.scores import ScoreFrame
from cxr_embed.api.tabular import Tabular
from cxr_embed.api.unseen import check_kept, predict_unseen, tested_split, unconverged_notes
from cxr_embed.arguments import checked_arguments
from cxr_embed.cases import own_patients, shown_names
from cxr_embed.choices import Balance, Blank, CalibrationKind, ProbeKind, Uncertain
from cxr_embed.evaluation.evaluate import Prevalence
from cxr_embed.evaluation.scored import join_scores
from cxr_embed.evaluation.scores import read_scores
from cxr_embed.evaluation.thresholds import Rule, choose
from cxr_embed.manifest import Manifest
from cxr_embed.probe.attention import AttentionProbe
from cxr_embed.probe.base import Probe
from cxr_embed.probe.features import POOLS, ProbeError, StoreSource
from cxr_embed.probe.heads import KNNProbe, MLPProbe
from cxr_embed.probe.labelled import few_cases, labelled_cases
from cxr_embed.probe.linear import LinearProbe
from cxr_embed.probe.persistence import ThresholdRecord, TrainedProbe, make_trained, save_probe
from cxr_embed.probe.persistence import load_probe as read_probe
from cxr_embed.probe.selection import BALANCES
from cxr_embed.store import Store
from cxr_embed.types import LEARNED, counted
from cxr_embed.zeroshot import Scores


@dataclass(frozen=True, repr=False)
class FindingsProbe(Tabular):
    """A probe of findings, and what it is for.

    Attributes:
        trained: the classifier with its record.
        notes: what the user should know of its training, in sentences; empty for one that was loaded.
        name: where it was loaded from, for the metadata of its scores.
    """

    trained: TrainedProbe
    notes: tuple[str, ...] = ()
    name: str = field(default="")

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings that it scores."""
        return tuple(name for name in self.trained.findings if name not in self.trained.undefined)

    def __repr__(self) -> str:
        trained = self.trained
        learned = f"{counted(trained.labels.images, 'image')} of {counted(trained.labels.patients, 'patient')}"
        return f"{trained.probe.kind} probe of {', '.join(self.findings)} on {trained.spec.name}, from {learned}"

    def to_arrow(self) -> pa.Table:
        """A row a finding: the labels that it learned from, `C`, the threshold that it keeps, why it was not learned.

        Columns without a value are left out.
        """
        body = self.trained.describe()
        rows = [
            {
                "finding": name,
                **body["labels"]["counts"][name],
                "C": body["strengths"].get(name),
                "threshold": body["thresholds"].get(name),
                "undefined": body["undefined"].get(name),
            }
            for name in self.trained.findings
        ]
        filled = [name for name in rows[0] if any(row[name] is not None for row in rows)]
        return pa.table({name: pa.array([row[name] for row in rows]) for name in filled})

    @checked_arguments
    def save(self, out: StrPath) -> None:
        """Writes the probe into a folder; an older probe in it is replaced, whole or not at all.

        Raises:
            ProbeError: where it cannot be written, or the folder holds something else.
        """
        save_probe(Path(out), self.trained)

    @checked_arguments
    def predict(
        self,
        store: Store | StrPath,
        labels: Manifest | StrPath | Table | None = None,
        *,
        split: str | None = None,
        extra: Sequence[str] = (),
    ) -> ScoreFrame:
        """The probability of each finding for the images of a store, all by default.

        Images of patients that the probe learned from are marked in `learned_from`; `evaluate` leaves them out.

        Args:
            store: an open store of the same encoder, or its folder.
            labels: a table that says which images are in a split, and whose they are.
            split: predict this split of the labels only.
            extra: columns of the labels that are not findings.

        Raises:
            ProbeError: for another encoder's store, or a split that is not there.
            StoreError, ManifestError: for files that cannot be used.
        """
        if split is not None and labels is None:
            raise ProbeError("`split` needs `labels`, a manifest that says which images are in it")
        trained, opened = self.trained, store_of(store)
        trained.check_store(opened)
        notes: list[str] = []
        ids, patients = opened.ids, own_patients(opened.ids, opened.patient_ids)
        if labels is not None:
            cases = labelled_cases(opened, labels_of(labels, extra), split=split, known=False)
            ids, patients, notes = cases.ids, cases.patients, list(cases.notes)
        values = trained.predict(opened, ids)
        learned = [number for number in range(len(trained.findings)) if number not in trained.probe.undefined_]
        learned_from = trained.seen(patients, ids)
        known = len(trained.images) > 0 or not all(patient.startswith("\n") for patient in patients.tolist())
        seen = np.flatnonzero(learned_from)
        if len(seen):
            notes.append(
                f"{len(seen):,} of {len(ids):,} images are of patients that the probe learned from ({ids[seen[0]]} is "
                f"the first): marked in the column {LEARNED}, and left out of evaluations"
            )
        if not known:
            notes.append(
                "whom this probe learned from is not known here: the store has no patients; name `labels`, or train "
                "anew"
            )
        notes += [f"{name} has no scores: {reason}" for name, reason in trained.undefined.items()]
        notes += unconverged_notes(trained)
        about = {"encoder": trained.spec.name, "fingerprint": trained.spec.fingerprint, "probe": self.name}
        about |= {"stand_in": trained.spec.stand_in} if trained.spec.stand_in else {}
        scores = Scores(
            ids=ids,
            names=tuple(trained.findings[number] for number in learned),
            values=values[:, learned],
            kind="probability",
            learned_from=learned_from if known else None,
            stand_in=trained.spec.untrained,
        )
        return ScoreFrame(scores, about, tuple(notes))

    @checked_arguments
    def evaluate(
        self,
        store: Store | StrPath,
        labels: Manifest | StrPath | Table,
        *,
        findings: Sequence[str] | None = None,
        extra: Sequence[str] = (),
        split: str | None = None,
        uncertain: Uncertain = "unknown",
        blank: Blank | None = None,
        prevalence: Prevalence | None = None,
        threshold: Rule | None = None,
        thresholds_split: str | None = None,
        calibrate: CalibrationKind | None = None,
        by: Sequence[str] = (),
        count_no_finding: bool = False,
        bootstraps: int = 1000,
        seed: int = 0,
    ) -> EvaluationResult:
        """Predicts and compares with labels.

        A patient that the probe learned from is refused, in the tested part as in the one that thresholds are chosen
        on. Thresholds that the probe keeps are used where no other ones are asked for, on other patients than they
        come from.

        Args:
            store: an open store of the same encoder, or its folder.
            labels: a manifest, or a table of labels.
            split: the tested part; `test` by default, where there are splits.
            findings, extra, uncertain, blank, prevalence, threshold, thresholds_split: as `cxr_embed.evaluate` takes
                them.
            calibrate, by, count_no_finding, bootstraps, seed: likewise.

        Raises:
            ProbeError: for another encoder's store, or patients that the probe knows.
            StoreError, ManifestError, ScoresError: as `predict` and `cxr_embed.evaluate` do.
        """
        table, trained = labels_of(labels, extra), self.trained
        part = tested_split(table, split)
        parts = [part] if thresholds_split is None else [part, thresholds_split]
        predicted = predict_unseen(trained, store_of(store), table, parts)
        kept = trained.thresholds if threshold is None and thresholds_split is None else {}
        if kept:
            check_kept(trained, predicted)
            kept = dict(zip(shown_names(findings, tuple(kept)), kept.values(), strict=True))
        found = evaluate(
            predicted.scores,
            table,
            findings=findings,
            patients=predicted.patients,
            split=part,
            uncertain=uncertain,
            blank=blank,
            prevalence=prevalence,
            threshold=kept or threshold,
            thresholds_split=thresholds_split,
            calibrate=calibrate,
            by=by,
            count_no_finding=count_no_finding,
            bootstraps=bootstraps,
            seed=seed,
        )
        results = found.findings
        if kept and trained.chosen is not None:
            rule = f"{trained.chosen.rule}, kept in the probe"
            results = tuple(replace(f, threshold_rule=rule) if f.threshold is not None else f for f in results)
        return replace(found, findings=results, warnings=(*found.warnings, *predicted.notes))

    def _remarks(self) -> Sequence[str]:
        return (repr(self), *self.notes)


@checked_arguments
def train_probe(
    store: Store | StrPath,
    labels: Manifest | StrPath | Table,
    *,
    split: str | None = None,
    findings: Sequence[str] | None = None,
    shots: int | None = None,
    output: str | None = None,
    pool: str = "mean",
    kind: ProbeKind = "linear",
    balance: Balance = "none",
    C: float | None = None,
    threshold: str | None = None,
    thresholds_split: str | None = None,
    extra: Sequence[str] = (),
    uncertain: Uncertain = "unknown",
    blank: Blank | None = None,
    seed: int = 0,
) -> FindingsProbe:
    """Trains a probe: one classifier for each finding, on the images where its label is known.

    A patient is never on both sides of the cross-validation. A finding whose labels are all alike is left out and
    named in `notes`.

    Args:
        store: an open store, or its folder.
        labels: a manifest, or a table of `image_id` and findings: a path, pandas, pyarrow, a dict of columns.
        split: learn from this split; `train` by default, where there are splits.
        findings: to learn; all of the labels by default. `common`: those that the vocabulary of findings has, under
            their common names.
        shots: learn from so many positives, and negatives, of each finding; from all by default.
        output: one of the encoder's outputs; `general` where it has one, else its first.
        pool: tokens to one vector: `mean`, `max`, `flatten`, or `attention` (learned, needs torch).
        kind: `linear`, `mlp` (one hidden layer) or `knn` (nearest neighbours).
        balance: `none`, `balanced` (positives weigh as much as negatives) or `focal`.
        C: inverse regularisation, scikit-learn's C, on standardised vectors; chosen for each finding by
            cross-validation by default.
        threshold: the rule for thresholds: `youden`, `f1`, `sensitivity=0.9` or `specificity=0.9`.
        thresholds_split: choose thresholds on this split, which the probe does not learn from, and keep them.
        extra: columns of the labels that are not findings.
        uncertain: what a label of -1 counts as.
        blank: what a blank label counts as; what the labels' companion says by default, else `unknown`.
        seed: of the draw, folds and first weights.

    Raises:
        ProbeError: for options that do not fit, findings or a split that are not there, labels that are all unknown.
        StoreError, ManifestError: for files that cannot be used.
    """
    if threshold is not None and thresholds_split is None:
        raise ProbeError(
            "`threshold` is chosen on cases that the probe does not learn from: name them with `thresholds_split`"
        )
    opened, table = store_of(store), labels_of(labels, extra)
    chosen = stored_output(opened, output)
    probe = make_probe(kind, opened.spec.outputs[chosen], pool=pool, balance=balance, C=C, seed=seed)
    part = split or ("train" if "split" in table.table.column_names else None)
    cases = labelled_cases(opened, table, split=part, findings=findings, uncertain=uncertain, blank=blank)
    if shots is not None:
        cases = few_cases(cases, shots, seed)
    probe.fit_source(StoreSource(opened, cases.ids, chosen, probe.pooling), cases.labels, cases.patients)
    trained = make_trained(probe, opened, chosen, cases, source_of(labels, table), split=part, uncertain=uncertain)
    notes = [*cases.notes, *([probe.alike_] if probe.alike_ else []), *unconverged_notes(trained)]
    if thresholds_split is not None:
        trained, more = _with_thresholds(trained, opened, table, thresholds_split, threshold, uncertain, blank)
        notes += more
    if split is None and part is None:
        notes.append("the labels have no column split: the probe learned from all of them")
    return FindingsProbe(trained, tuple(notes))


@checked_arguments
def load_probe(path: StrPath) -> FindingsProbe:
    """Reads a probe from its folder.

    Raises:
        ProbeError: where it is missing, damaged, or written by a newer release.
    """
    return FindingsProbe(read_probe(Path(path)), name=str(path))


def make_probe(kind: str, shape: tuple[int, ...], *, pool: str, balance: str, C: float | None, seed: int) -> Probe:
    """The classifier that the options ask for, for vectors of a shape `(D,)` or `(T, D)`.

    Raises:
        ProbeError: for options that do not exist, or do not go together.
    """
    if kind not in ("linear", "mlp", "knn"):
        raise ProbeError(f"`kind` is linear, mlp or knn, not {kind!r}")
    if pool not in (*POOLS, "attention"):
        raise ProbeError(f"`pool` is {', '.join(POOLS)} or attention, not {pool!r}")
    if balance not in BALANCES:
        raise ProbeError(f"`balance` is {', '.join(BALANCES)}, not {balance!r}")
    if C is not None and not 0 < C < float("inf"):
        raise ProbeError(f"`C` is a number above 0, not {C:g}")
    if kind != "linear" and (balance != "none" or C is not None or pool == "attention"):
        raise ProbeError(f"`balance`, `C` and `pool='attention'` are for `kind='linear'`, not {kind}")
    if kind == "mlp":
        return MLPProbe(pool=pool, seed=seed)
    if kind == "knn":
        return KNNProbe(pool=pool)
    if pool == "attention":
        return AttentionProbe(shape[-1], C=C or "auto", balance=balance, seed=seed)
    return LinearProbe(C or "auto", balance=balance, pool=pool, seed=seed)


def stored_output(store: Store, output: str | None) -> str:
    """The output that is named, or the one that probes learn from.

    Raises:
        ProbeError: where the store has none of that name.
    """
    if output is not None and output not in store.spec.outputs:
        raise ProbeError(f"{store.path} has no output {output!r}; it has {', '.join(store.spec.outputs)}")
    return output or store.spec.probe_output


def _with_thresholds(
    trained: TrainedProbe,
    store: Store,
    labels: Manifest,
    split: str,
    rule: str | None,
    uncertain: Uncertain,
    blank: Blank | None,
) -> tuple[TrainedProbe, list[str]]:
    """The probe with a threshold for each finding, chosen on a split that it did not learn from, and what to know.

    Raises:
        ProbeError: where the probe learned from a patient of the split.
        ScoresError: for an unknown rule.
    """
    predicted = predict_unseen(trained, store, labels, [split])
    cases = join_scores(
        read_scores(predicted.scores),
        labels,
        patients=predicted.patients,
        split=split,
        uncertain=uncertain,
        blank=blank,
    )
    choices, notes = choose(cases.names, rule, cases, None)
    thresholds = {name: choice.threshold for name, choice in choices.items() if choice.threshold is not None}
    if not thresholds:
        return trained, notes
    how = next(choice.rule for choice in choices.values() if choice.threshold is not None)
    patients = np.unique(predicted.owners)
    chosen = ThresholdRecord(split, how.replace("the validation part", f"the split {split}"), len(patients))
    return replace(trained, thresholds=thresholds, chosen=chosen, chosen_on=patients), notes
