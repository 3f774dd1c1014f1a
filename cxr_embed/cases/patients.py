"""Whose the images are, from whoever says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cxr_embed.cases.errors import CasesError
from cxr_embed.cases.ids import some
from cxr_embed.types import counted


@dataclass(frozen=True)
class PatientsOf:
    """What one source says of images' patients.

    Attributes:
        source: its name, for messages: `the scores`.
        ids: `(N,)` patients, blank where it does not say.
        complete: whether a blank is a fault.
    """

    source: str
    ids: np.ndarray
    complete: bool = False


def patients_in(known: Mapping[str, str], ids: np.ndarray) -> np.ndarray:
    """`(N,)` patients of images by a mapping; blank where it does not have the image."""
    return np.array([known.get(image_id, "") for image_id in ids.tolist()], dtype=np.str_)


def patients_of(ids: np.ndarray, sources: Sequence[PatientsOf]) -> np.ndarray:
    """`(N,)` patients by all sources, blank where none says.

    Raises:
        CasesError: where two sources name different patients, or a complete one lacks one.
    """
    found = np.full(len(ids), "", dtype=np.str_)
    said_by = ""
    for source in sources:
        if source.complete and (source.ids == "").any():
            raise CasesError(f"no patient is given for {some(ids[source.ids == ''])}; name one for every image")
        differ = np.flatnonzero((found != source.ids) & (found != "") & (source.ids != ""))
        if len(differ):
            first = differ[0]
            raise CasesError(
                f"{counted(len(differ), 'image has', 'images have')} one patient in {said_by} and another in "
                f"{source.source}, such as {ids[first]}: {found[first]} and {source.ids[first]}; correct patient_id"
            )
        found = np.where(found != "", found, source.ids)
        said_by = f"{said_by} or {source.source}" if said_by else source.source
    return found


def own_patients(ids: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Patients `(N,)` of images, with one of its own for an image whose patient is blank.

    Its name begins with a line feed, which no patient id can hold.
    """
    return np.where(patients == "", np.char.add("\n", ids), patients)
