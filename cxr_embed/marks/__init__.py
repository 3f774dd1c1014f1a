"""What readers mark: labels (yes, no, unsure), lists and notes, in one SQLite file beside the index.

`records` has the nouns, `file` opens the file, `journal` is a reader's marks in it: acts are added, undone and done
again, and none is changed.
"""

from cxr_embed.marks.file import MARKS, changes, check_marks, marks_path
from cxr_embed.marks.forgetting import cases_of_marks, forget_marks
from cxr_embed.marks.journal import ReaderMarks, readers_of
from cxr_embed.marks.records import LABELS, NOTE, READER, Act, CaseMarks, MarkedCase, Step, check_reader

__all__ = [
    "LABELS",
    "MARKS",
    "NOTE",
    "READER",
    "Act",
    "CaseMarks",
    "MarkedCase",
    "ReaderMarks",
    "Step",
    "cases_of_marks",
    "changes",
    "check_marks",
    "check_reader",
    "forget_marks",
    "marks_path",
    "readers_of",
]
