"""What else the vectors hold: probes that tell the view, the sex and the site from them.

A classifier may lean on whatever is in the vectors. That a probe can tell portable from upright images does not say
that a classifier of findings does so; it says that it could.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_embed.cases import PatientsOf, Side, join
from cxr_embed.errors import CxrEmbedError
from cxr_embed.evaluation import evaluate
from cxr_embed.manifest import Manifest
from cxr_embed.probe.features import StoreSource
from cxr_embed.probe.linear import LinearProbe
from cxr_embed.probe.shots import hashes, patients_for_test
from cxr_embed.store import Store
from cxr_embed.types import Labels

ATTRIBUTES = ("view", "sex", "site")
_FEWEST = 10  # patients of each kind, on both sides
_MOST = 20_000  # images that are learned from
_CLASSES = 10  # sites, the largest first


@dataclass(frozen=True)
class _Scores:
    """Scores in memory, as `evaluate` takes them."""

    ids: np.ndarray
    names: tuple[str, ...]
    values: np.ndarray


def audit(
    store: Store, name: str, output: str, pool: str, labels: Manifest, tested: np.ndarray, *, bootstraps: int, seed: int
) -> list[dict[str, Any]]:
    """Probes of each attribute that the labels have, trained on other patients than they are tested on.

    Args:
        store, output, pool: the vectors.
        name: of the encoder, in the report.
        labels: with `view`, `sex` or `site`.
        tested: `(M,)` ids of the images that the report is about; where they are all there is, half of the patients
            are learned from.
        bootstraps, seed: of the intervals.

    Returns:
        A record for each attribute: what is separated from what, how well, or the reason why that is not known.

    Raises:
        CasesError: where store and labels have no image in common, or name different patients.
    """
    side = Side(store.ids, str(store.path), "vector")
    cases = join(labels, side, columns=(), patients=[PatientsOf("the store", store.patient_ids)])
    ids, patients = cases.ids, cases.patients
    test = np.isin(patients, patients[np.isin(ids, tested)])
    halved = bool(test.all())
    if halved:
        test = patients_for_test(patients, 0.5, seed)
    learn = ~test
    if learn.sum() > _MOST:
        learn &= hashes(ids) <= np.sort(hashes(ids[learn]))[_MOST - 1]
    found = []
    for attribute in ATTRIBUTES:
        values = cases.table.get(attribute, np.empty(0, np.str_))
        if not (values != "").any():
            continue
        record: dict[str, Any] = {"encoder": name, "attribute": attribute, "halved": halved}
        classes = _classes(values, patients, learn, test)
        if len(classes) < 2:
            reason = f"fewer than two kinds of {attribute} have {_FEWEST} patients to learn from and {_FEWEST} to test"
            found.append({**record, "reason": reason, "kinds": []})
            continue
        kinds = _kinds(store, output, pool, (ids, patients, values), classes, (learn, test), bootstraps, seed)
        found.append({**record, "reason": "", "kinds": kinds})
    return found


def _classes(values: np.ndarray, patients: np.ndarray, learn: np.ndarray, test: np.ndarray) -> list[str]:
    """Values with enough patients on both sides, the most frequent first."""

    def enough(value: str) -> bool:
        return all(len(np.unique(patients[(values == value) & side])) >= _FEWEST for side in (learn, test))

    names, counts = np.unique(values[values != ""], return_counts=True)
    ordered = names[np.argsort(-counts, kind="stable")].tolist()
    return [value for value in ordered if enough(value)][:_CLASSES]


def _kinds(
    store: Store,
    output: str,
    pool: str,
    known: tuple[np.ndarray, np.ndarray, np.ndarray],
    classes: list[str],
    sides: tuple[np.ndarray, np.ndarray],
    bootstraps: int,
    seed: int,
) -> list[dict[str, Any]]:
    """One probe for two classes, one against the others for more."""
    targets = classes[:1] if len(classes) == 2 else classes
    ids, patients, values = known
    used = np.isin(values, classes)
    positive = np.stack([values == value for value in targets], axis=1).astype(np.float32)
    learn, test = (np.flatnonzero(side & used) for side in sides)
    probe = LinearProbe(pool=pool, seed=seed)
    probe.fit_source(StoreSource(store, ids[learn], output, pool), positive[learn], patients[learn])
    logits = probe.decision_source(StoreSource(store, ids[test], output, pool))
    try:
        made = evaluate(
            _Scores(ids[test], tuple(targets), logits),
            Labels(ids[test], tuple(targets), positive[test]),
            patients=dict(zip(ids[test].tolist(), patients[test].tolist(), strict=True)),
            bootstraps=bootstraps,
            seed=seed,
        )
    except CxrEmbedError as error:
        return [{"told": value, "from": "", "reason": str(error)} for value in targets]
    kinds = []
    for value in targets:
        result = made.finding(value)
        auroc = result.figures["auroc"]
        kinds.append(
            {
                "told": value,
                "from": classes[1] if len(classes) == 2 else "the others",
                "learned": len(learn),
                "n": result.n,
                "positives": result.positives,
                "auroc": auroc.value,
                "auroc_low": auroc.low,
                "auroc_high": auroc.high,
                "reason": auroc.reason,
            }
        )
    return kinds


def in_words(attribute: str, kind: dict[str, Any]) -> str:
    """What a probe separates, in a sentence."""
    value = kind.get("auroc")
    if value is None:
        return f"whether they tell {kind['told']} from {kind['from']} is not known: {kind['reason']}"
    how = "hardly tell" if value < 0.6 else "tell" if value < 0.9 else "plainly tell"
    return f"these vectors {how} {kind['told']} from {kind['from']} ({attribute}) at an AUROC of {value:.2f}"
