"""What any page of cases shows of the reader's marks; `templates/marking.html` draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cxr_embed.api.marks import marked_rows
from cxr_embed.errors import MarksError
from cxr_embed.io.digests import sha256_hex
from cxr_embed.marks import CaseMarks, Step
from cxr_embed.web.site import Site
from cxr_embed.web.state import Generation


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a page of cases shows of marks.

    Attributes:
        marks: of each case that has some.
        undo, redo: what can be taken back, and done again.
        finding, listed: the names that were used last; blank for none.
        problem: why there are none.
    """

    marks: Mapping[str, CaseMarks] = field(default_factory=dict)
    undo: Step | None = None
    redo: Step | None = None
    finding: str = ""
    listed: str = ""
    problem: str = ""


def shown_marks(site: Site, generation: Generation, ids: Sequence[str]) -> Shown:
    """The marks of cases that a page shows; where the file is damaged, the page is there all the same."""
    return marks_of_rows(site, generation, generation.index.rows_of(ids) if ids else ())


def marks_of_rows(site: Site, generation: Generation, rows: Sequence[int] | np.ndarray) -> Shown:
    """`shown_marks` of cases whose rows are known: to find them by their ids takes longer than the rest."""
    try:
        return shown(site, site.marks.of(marked_rows(generation.index, rows)))
    except MarksError as fault:
        return Shown(problem=site.words(fault))


def shown(site: Site, marks: Mapping[str, CaseMarks]) -> Shown:
    """Marks that are known already, with what can be undone.

    Raises:
        MarksError: where the file is damaged.
    """
    undo, redo = site.marks.last()
    used = site.marks.used_last()
    return Shown(marks=marks, undo=undo, redo=redo, finding=used.get("label", ""), listed=used.get("list", ""))


def place_of(image_id: str) -> str:
    """The id of an element of a page that has a case's marks."""
    return f"m{sha256_hex(image_id.encode())[:16]}"
