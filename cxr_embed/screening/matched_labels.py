"""Labels of a store's images beside the findings that prompts ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_embed.cases import Cases, PatientsOf, Side, common_findings, join, match_names, splits_note, uncertain_note
from cxr_embed.choices import Blank, Uncertain
from cxr_embed.manifest import Manifest
from cxr_embed.store import Store
from cxr_embed.types import counted


@dataclass(frozen=True, kw_only=True)
class MatchedLabels:
    """What labels say of a store's images.

    Attributes:
        cases: the images that the labels speak of (and that are in the split), in the store's order, and the
            findings that both have.
        columns: for each finding of the prompts, the labels' column; None where the labels do not have it.
        images: of the store.
        unused: the labels' findings that no prompt asks for.
        split: the split, where only one is looked at.
        notes: what the join left out, in sentences.
    """

    cases: Cases
    columns: tuple[str | None, ...]
    images: int
    unused: tuple[str, ...]
    split: str | None
    notes: tuple[str, ...]

    @property
    def labelled(self) -> np.ndarray:
        """`(N,)` bool of the store's images."""
        mask = np.zeros(self.images, bool)
        mask[self.cases.places] = True
        return mask

    def counts(self) -> dict[str, Any]:
        """The numbers of it, as plain JSON values."""
        return {
            "labelled_images": len(self.cases),
            "images_without_labels": self.images - len(self.cases),
            "labels_without_vectors": self.cases.lost,
            "label_columns_without_prompts": list(self.unused),
            "uncertain": self.cases.uncertain,
            "blank": self.cases.blank,
            "split": self.split,
        }


def match_labels(
    labels: Manifest,
    side: Side,
    findings: tuple[str, ...],
    *,
    split: str | None = None,
    uncertain: Uncertain = "unknown",
    blank: Blank | None = None,
    patients: Sequence[PatientsOf] = (),
) -> MatchedLabels:
    """Joins labels with the images of a store and with the findings of prompts.

    `side` and `patients` are as `join` takes them. A finding's label is the column of its name, or of a like one:
    `match_names`.

    Raises:
        CasesError: where no label is of any use: no finding, image or split in common; or other patients.
    """
    columns, names, renamed = common_findings(findings, labels.findings, "the prompts", "the labels")
    cases = join(
        labels,
        side,
        columns=columns,
        names=names,
        split=split,
        uncertain=uncertain,
        blank=blank,
        patients=patients,
    )
    cases = cases.keep(np.argsort(cases.places))
    unused = tuple(name for name in labels.findings if name not in columns)
    notes = [f"labels that no prompt asks for: {', '.join(unused)}"] if unused else []
    notes += [*renamed, *(splits_note(cases) if split is None else []), *cases.notes]
    if unlabelled := len(side.ids) - len(cases):
        where = " in this split" if split is not None else ""
        notes.append(f"{counted(unlabelled, 'image has', 'images have')} no label{where}: scored only")
    return MatchedLabels(
        cases=cases,
        columns=match_names(findings, labels.findings, "prompts"),
        images=len(side.ids),
        unused=unused,
        split=split,
        notes=(*notes, *uncertain_note(cases.uncertain)),
    )


def match_store_labels(
    labels: Manifest,
    store: Store,
    findings: tuple[str, ...],
    *,
    split: str | None,
    uncertain: Uncertain,
    blank: Blank | None,
) -> MatchedLabels:
    """`match_labels` for the images of an open store, whose patients it may know."""
    side = Side(store.ids, str(store.path), "vector")
    patients = [PatientsOf("the store", store.patient_ids)]
    return match_labels(labels, side, findings, split=split, uncertain=uncertain, blank=blank, patients=patients)
