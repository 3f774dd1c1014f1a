"""Labels joined with a store's images, by id, and with a prompt set's findings, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_embed.errors import ManifestError
from cxr_embed.evaluation.names import match_names
from cxr_embed.manifest import Manifest, Uncertain


@dataclass(frozen=True)
class Truth:
    """What labels say of a store's images.

    Attributes:
        values: `(N, F)` float32 in {0, 1, NaN}, in the order of the store's ids and of the findings.
        columns: `F` names of the labels' columns, None for a finding that the labels do not have.
        labelled: `(N,)` bool, the images that the labels speak of (and that are in the split).
        unknown_ids: rows of the labels (in the split) whose image has no vector in the store.
        unlabelled: images of the store that the labels (in the split) do not name.
        unused: the labels' findings that no prompt asks for.
        uncertain: values of -1 among those that are used.
        split: the split, where only one is looked at.
        splits: those of the images that the labels speak of, where none is named.
    """

    values: np.ndarray
    columns: tuple[str | None, ...]
    labelled: np.ndarray
    unknown_ids: int
    unlabelled: int
    unused: tuple[str, ...]
    uncertain: int
    split: str | None
    splits: tuple[str, ...] = ()

    def counts(self) -> dict[str, Any]:
        """The numbers of it, as plain JSON values."""
        return {
            "labelled_images": int(self.labelled.sum()),
            "images_without_labels": self.unlabelled,
            "labels_without_vectors": self.unknown_ids,
            "label_columns_without_prompts": list(self.unused),
            "uncertain": self.uncertain,
            "split": self.split,
        }


def match_labels(
    labels: Manifest,
    ids: np.ndarray,
    findings: tuple[str, ...],
    *,
    split: str | None = None,
    uncertain: Uncertain = "unknown",
) -> Truth:
    """Joins labels with images `(N,)` and findings.

    A finding's label is the column of its name, or of a like one: `match_names`.

    Raises:
        ManifestError: where no label is of any use: no finding or no image in common, or a split that is not there.
    """
    columns = match_names(findings, labels.findings, "prompts")
    if not any(columns):
        raise ManifestError(
            f"the labels have {', '.join(labels.findings) or 'no findings'}, the prompts ask for "
            f"{', '.join(findings)}: none in common; name the findings alike"
        )
    rows = np.arange(len(labels))
    if split is not None:
        splits = labels.column("split")
        rows = np.flatnonzero(splits == split)
        if not len(rows):
            known = ", ".join(sorted(set(splits.tolist()) - {""})) or "none"
            raise ManifestError(f"no label is in the split {split!r}; the labels' splits: {known}")
    position = {image_id: number for number, image_id in enumerate(ids.tolist())}
    places = np.array([position.get(image_id, -1) for image_id in labels.ids[rows].tolist()], dtype=np.int64)
    here = places >= 0
    if not here.any():
        raise ManifestError(
            f"none of the {len(rows):,} labelled images has a vector: '{labels.ids[rows[0]]}' there, '{ids[0]}' in the "
            "store; label them by the store's image ids"
        )
    found = labels.labels(uncertain)
    values = np.full((len(ids), len(findings)), np.nan, np.float32)
    doubtful = 0
    for number, name in enumerate(columns):
        if name is not None:
            values[places[here], number] = found.values[rows[here], labels.findings.index(name)]
            doubtful += int(np.isin(labels.column(name)[rows[here]], ("-1", "-1.0")).sum())
    labelled = np.zeros(len(ids), dtype=bool)
    labelled[places[here]] = True
    judged: tuple[str, ...] = ()
    if split is None and "split" in labels.table.column_names:
        judged = tuple(np.unique(labels.column("split")[here]).tolist())
    unused = tuple(name for name in labels.findings if name not in columns)
    return Truth(values, columns, labelled, int((~here).sum()), int((~labelled).sum()), unused, doubtful, split, judged)
