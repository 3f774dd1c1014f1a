"""The view by a DICOM header: ViewPosition, else words on a lateral view in fields that say what was taken."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cxr_embed.images.fields import Unreadable, value_of
from cxr_embed.types import is_lateral

if TYPE_CHECKING:
    from pydicom import Dataset

# The standard's terms and those that large data sets show: free text can't pass.
VIEWS = frozenset(
    (
        *("PA", "AP", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LPO", "RPO", "LAO", "RAO", "LAT", "LATERAL"),
        *("AP AXIAL", "AP LLD", "AP RLD", "PA LLD", "PA RLD", "XTABLE LATERAL", "SWIMMERS"),
    )
)
VIEW_TAGS = (
    *("ViewPosition", "ViewCodeSequence", "ProjectionEponymousNameCodeSequence", "SeriesDescription"),
    *("AcquisitionDeviceProcessingDescription", "ProtocolName"),
)
_FRONTAL = re.compile(r"\b(p\.?a|a\.?p|frontal|postero|antero)", re.IGNORECASE)


def view_of(dataset: Dataset) -> str:
    """One of `VIEWS`, or blank.

    Where ViewPosition has none of them, `LATERAL` comes from a field that says lateral and nothing else: 'PA and
    lateral' names a study, a lateral decubitus is a frontal view.
    """
    view = " ".join(_text(dataset, "ViewPosition").upper().split())
    if view in VIEWS:
        return view
    texts = (text for tag in VIEW_TAGS for text in _texts(dataset, tag))
    return next(("LATERAL" for text in texts if is_lateral(text) and not _FRONTAL.search(text)), "")


def _texts(dataset: Dataset, keyword: str) -> list[str]:
    """A field's text; of a sequence of codes their meanings."""
    if not keyword.endswith("Sequence"):
        return [_text(dataset, keyword)]
    items = value_of(dataset, keyword)
    return [] if isinstance(items, Unreadable) else [_text(item, "CodeMeaning") for item in items or ()]


def _text(dataset: Dataset, keyword: str) -> str:
    value = value_of(dataset, keyword)
    return "" if isinstance(value, Unreadable) else str(value or "").strip()
