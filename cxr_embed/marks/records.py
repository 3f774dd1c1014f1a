"""The nouns of marks, and what their texts may be."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from cxr_embed.errors import MarksError
from cxr_embed.manifest import CONTROL, DESCRIPTIVE, OPTIONAL, REQUIRED
from cxr_embed.types import LEARNED, STAND_IN, counted

READER = "reader"  # whoever is not named
LABELS: Mapping[str, int] = {"yes": 1, "no": 0, "unsure": -1}  # and what a table has for each
NOTE = "note"  # a column of exported labels
Kind = Literal["label", "list", "note"]

_RESERVED = frozenset((*REQUIRED, *OPTIONAL, *DESCRIPTIVE, LEARNED, STAND_IN, NOTE, "content", "looks"))
_MOST: Mapping[str, int] = {"reader": 60, "finding": 120, "list": 120, "note": 2000}  # characters
_LINES = re.compile(r"[\n\t]")  # may stand in a note


class MarkedCase(NamedTuple):
    """The picture that a mark is of.

    Attributes:
        image_id: of the case.
        content: SHA-256 of its file, in hex: another picture under the same id has none of its marks. Blank where the
            index does not know it.
        patient_id: blank where nobody knows.
    """

    image_id: str
    content: str
    patient_id: str = ""


@dataclass(frozen=True)
class Act:
    """What a reader does to cases.

    Attributes:
        kind: of mark.
        name: of the finding or the list; blank for a note.
        value: `yes`, `no` or `unsure`, `in` for a list, or the note; blank takes the mark away.
    """

    kind: Kind
    name: str
    value: str

    @classmethod
    def label(cls, finding: str, value: str) -> Act:
        """A label, or none for a blank value.

        Raises:
            MarksError: for another value, or a finding whose name is none.
        """
        if value and value not in LABELS:
            raise MarksError(f"{value[:20]!r} is not a label: {', '.join(LABELS)}")
        name = checked_text("finding", finding)
        if name.lower() in _RESERVED:
            raise MarksError(f"{name}: a column of that name means something else; call the finding differently")
        return cls("label", name, value)

    @classmethod
    def listing(cls, name: str, is_in: bool = True) -> Act:
        """Puts cases on a list, which is there while it has any, or takes them off it.

        Raises:
            MarksError: for a name that is none.
        """
        return cls("list", checked_text("list", name), "in" if is_in else "")

    @classmethod
    def note(cls, text: str) -> Act:
        """A note, or none for a blank text.

        Raises:
            MarksError: for one that is too long.
        """
        return cls("note", "", checked_text("note", text.replace("\r\n", "\n"), blank=True))

    def __str__(self) -> str:
        """In words, without the text of a note."""
        if self.kind == "note":
            return "note" if self.value else "note deleted"
        if self.kind == "list":
            return f"{'on' if self.value else 'off'} the list {self.name}"
        return f"{self.name}: {self.value or 'no label'}"


@dataclass(frozen=True)
class CaseMarks:
    """What a reader has marked of a case.

    Attributes:
        labels: finding to `yes`, `no` or `unsure`.
        lists: that it is on.
        note: blank for none.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    lists: tuple[str, ...] = ()
    note: str = ""

    def __bool__(self) -> bool:
        return bool(self.labels or self.lists or self.note)


@dataclass(frozen=True)
class Step:
    """What was done at once, and is undone at once.

    Attributes:
        number: of the journal.
        time: UTC, ISO 8601.
        cases: image ids.
        act: what was done to them.
    """

    number: int
    time: str
    cases: tuple[str, ...]
    act: Act

    def __str__(self) -> str:
        whom = self.cases[0] if len(self.cases) == 1 else counted(len(self.cases), "case")
        return f"{whom}, {self.act}"


def checked_text(what: str, text: str, blank: bool = False) -> str:
    """A text without what is around it.

    Args:
        what: `reader`, `finding`, `list` or `note`.
        text: as it was given.
        blank: whether there may be none.

    Raises:
        MarksError: for a text that is blank, too long, or has control characters.
    """
    kept = unicodedata.normalize("NFC", text.strip())
    if not kept and not blank:
        raise MarksError(f"the {what} has no name" if what != "note" else "the note is blank")
    if len(kept) > _MOST[what]:
        raise MarksError(f"the {what} has {counted(len(kept), 'character')}, and may have {_MOST[what]}")
    letters = _LINES.sub("", kept) if what == "note" else kept
    if CONTROL.search(letters) or letters.encode(errors="ignore").decode() != letters:
        raise MarksError(f"the {what} has characters that are not text")
    return kept


def check_reader(name: str) -> str:
    """A reader's name, as it is kept.

    Raises:
        MarksError: for a blank one, or one that is too long.
    """
    return checked_text("reader", name)
