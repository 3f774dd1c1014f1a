"""The one join of labels with what is known of images: ids, findings, splits, patients, for every use."""

from __future__ import annotations

from cxr_embed.cases.errors import CasesError, NothingKnown
from cxr_embed.cases.findings import chosen_findings, common_findings, match_names
from cxr_embed.cases.ids import find_ids, some
from cxr_embed.cases.joining import (
    Cases,
    Side,
    check_apart,
    check_known,
    join,
    own_patients_note,
    splits_note,
    uncertain_note,
)
from cxr_embed.cases.patients import PatientsOf, own_patients, patients_in
from cxr_embed.cases.splits import in_split

__all__ = [
    "Cases",
    "CasesError",
    "NothingKnown",
    "PatientsOf",
    "Side",
    "check_apart",
    "check_known",
    "chosen_findings",
    "common_findings",
    "find_ids",
    "in_split",
    "join",
    "match_names",
    "own_patients",
    "own_patients_note",
    "patients_in",
    "some",
    "splits_note",
    "uncertain_note",
]
