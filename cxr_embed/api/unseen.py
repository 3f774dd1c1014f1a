"""Scores of images of patients that a probe did not learn from: what it may be evaluated on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxr_embed.cases import some
from cxr_embed.manifest import Manifest
from cxr_embed.probe.features import ProbeError
from cxr_embed.probe.labelled import labelled_cases
from cxr_embed.probe.persistence import TrainedProbe
from cxr_embed.store import Store
from cxr_embed.types import counted
from cxr_embed.zeroshot import Scores


@dataclass(frozen=True)
class Predicted:
    """A probe's scores, whose the images are (`patients` is None where nobody knows), and what was left out."""

    scores: Scores
    owners: np.ndarray
    patients: dict[str, str] | None
    notes: tuple[str, ...]


def predict_unseen(trained: TrainedProbe, store: Store, labels: Manifest, parts: list[str | None]) -> Predicted:
    """Scores of the images of some splits, of patients that the probe did not learn from.

    Raises:
        ProbeError: for another encoder's store, a split that is not there, or patients that the probe learned from.
    """
    trained.check_store(store)
    matched = [labelled_cases(store, labels, split=part, known=False) for part in dict.fromkeys(parts)]
    ids, places = np.unique(np.concatenate([cases.ids for cases in matched]), return_index=True)
    patients = np.concatenate([cases.patients for cases in matched])[places]
    seen = np.flatnonzero(trained.seen(patients, ids))
    if len(seen):
        named = ", ".join(np.unique(patients[seen])[:3].tolist()).replace("\n", "")
        raise ProbeError(
            f"{among(len(np.unique(patients[seen])), len(ids))} that the probe learned from ({named}); "
            "evaluate on others, by `split`"
        )
    learned = [number for number in range(len(trained.findings)) if number not in trained.probe.undefined_]
    names = tuple(trained.findings[number] for number in learned)
    notes = [note for cases in matched for note in cases.notes]
    notes += [f"{name} was not learned: {reason}" for name, reason in trained.undefined.items()]
    known = not all(patient.startswith("\n") for patient in patients.tolist())
    return Predicted(
        Scores(
            ids=ids,
            names=names,
            values=trained.predict(store, ids)[:, learned],
            kind="probability",
            stand_in=trained.spec.untrained,
        ),
        patients,
        dict(zip(ids.tolist(), patients.tolist(), strict=True)) if known else None,
        tuple(dict.fromkeys(notes)),
    )


def check_kept(trained: TrainedProbe, tested: Predicted) -> None:
    """Refuses to test kept thresholds on patients that they were chosen on.

    Raises:
        ProbeError: naming the first few.
    """
    both = np.intersect1d(tested.owners, trained.chosen_on)
    if len(both):
        raise ProbeError(
            f"{among(len(both), len(tested.owners))} that the probe's thresholds were chosen on ({some(both)}); "
            "evaluate on others, by `split`, or state a `threshold`"
        )


def among(patients: int, images: int) -> str:
    """Words for patients who should not be tested."""
    return (
        f"{counted(patients, 'patient')} of these {counted(images, 'image')} "
        f"{'is' if patients == 1 else 'are'} among those"
    )


def tested_split(labels: Manifest, split: str | None) -> str | None:
    """The split that is tested: the one that is named, else `test`, where there are splits."""
    return split or ("test" if "split" in labels.table.column_names else None)


def unconverged_notes(trained: TrainedProbe) -> list[str]:
    """What was not fully trained, a sentence a reason."""
    names: dict[str, list[str]] = {}
    for name, reason in trained.unconverged.items():
        names.setdefault(reason, []).append(name)
    return [f"not fully trained: {', '.join(found)}: {reason}" for reason, found in names.items()]
