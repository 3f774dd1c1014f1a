"""The one join of labels with what is known of images: ids, findings, splits, patients, for every use."""

from __future__ import annotations

from cxr_embed.cases.common_findings import CommonFinding, Vocabulary
from cxr_embed.cases.errors import CasesError, NothingKnown
from cxr_embed.cases.findings import (
    check_not_common,
    chosen_findings,
    common_findings,
    match_names,
    shown_names,
    wants_common,
)
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
from cxr_embed.cases.vocabulary import vocabulary

__all__ = [
    "Cases",
    "CasesError",
    "CommonFinding",
    "NothingKnown",
    "PatientsOf",
    "Side",
    "Vocabulary",
    "check_apart",
    "check_known",
    "check_not_common",
    "chosen_findings",
    "common_findings",
    "find_ids",
    "in_split",
    "join",
    "match_names",
    "own_patients",
    "own_patients_note",
    "patients_in",
    "shown_names",
    "some",
    "splits_note",
    "uncertain_note",
    "vocabulary",
    "wants_common",
]
