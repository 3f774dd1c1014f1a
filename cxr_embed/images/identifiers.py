"""What a DICOM header says of a person or an order, looked for in a text; none of it leaves this module."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import permutations
from typing import TYPE_CHECKING, Any

from cxr_embed.images.dicom import _quietly, _read_header

if TYPE_CHECKING:
    from pydicom import Dataset

_LONG = 5  # characters of an identifier, digits of a number in it, that are not accidental inside a word
# Groups that describe the patient, the visit and the order (PS3.6); the keywords of their identifiers end so.
_GROUPS = frozenset((0x0008, 0x0010, 0x0020, 0x0032, 0x0038, 0x0040))
_IDENTIFIER = re.compile(r"(?:IDs?|Numbers?|Identifier|OrderNumber.*)$")
_DATES = frozenset(("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "AcquisitionDateTime"))
_INSTANCES = frozenset(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"))
_OF_THE_PATIENT = frozenset(("PatientAddress", "PatientTelephoneNumbers", "PatientComments", "OtherPatientIDs"))
# A month's name in English, German, French or Spanish begins so, accents left out.
_MONTH_STARTS = "jan ene|feb fev|mar|apr avr abr|may mai|jun juin|jul juil|aug aou ago|sep|oct okt|nov|dec dez dic"
_MONTHS = {start: n for n, starts in enumerate(_MONTH_STARTS.split("|"), start=1) for start in starts.split()}
# Letters that do not come apart into a letter and an accent, and what people write in their place.
_PLAIN = str.maketrans({"ø": "o", "œ": "oe", "æ": "ae", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"})
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa"})


@dataclass
class Identifiers:
    """What gives a person or an order away.

    Attributes:
        ids: identifiers, as they are written.
        names: of people, as they are written.
        dates: (year, month, day).
    """

    ids: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    dates: set[tuple[int, int, int]] = field(default_factory=set)

    def __repr__(self) -> str:
        return "Identifiers(...)"  # a log must not have them

    def in_text(self, text: str) -> bool:
        """Whether a text, such as a path, holds one of them, whatever its capitals, accents, hyphens and order."""
        return (
            any(_holds_id(text, identifier) for identifier in self.ids)
            or any(_holds_name(text, name) for name in self.names)
            or any(_holds_date(text, *date) for date in self.dates)
        )


def revealing_parts(relative: str, identifiers: Identifiers) -> int:
    """How many leading parts of a path give somebody away: 1 where its first folder does, 0 where nothing does."""
    if not identifiers.in_text(relative):
        return 0
    parts = relative.split("/")
    return next(n for n in range(1, len(parts) + 1) if identifiers.in_text("/".join(parts[:n])))


def read_identifiers(path: str | os.PathLike[str]) -> Identifiers:
    """Those of a DICOM header, of its sequences too: people, identifiers, days, whoever they are of.

    Raises:
        ImageError: where the file cannot be read or parsed.
    """
    found = Identifiers()
    dataset = _read_header(path, None)
    with _quietly():
        for keyword, vr, value in _elements(dataset):
            _add(found, keyword, vr, value)
    return found


def _elements(dataset: Dataset) -> Iterator[tuple[str, str, Any]]:
    """Keyword, VR and value of every element that may matter; one that is damaged is passed over."""
    from pydicom.datadict import dictionary_VR, keyword_for_tag

    for tag in list(dataset.keys()):
        try:
            raw = dataset.get_item(tag)
            vr = str(getattr(raw, "VR", None) or dictionary_VR(tag))
            if vr == "SQ":
                for item in dataset[tag].value:
                    yield from _elements(item)
            elif vr in ("PN", "DA", "DT", "UI") or tag.group in _GROUPS:
                yield keyword_for_tag(tag), vr, dataset[tag].value
        except MemoryError:
            raise
        except Exception:  # pydicom raises many types; a value that cannot be read is in no path
            continue


def _add(found: Identifiers, keyword: str, vr: str, value: Any) -> None:
    values = value if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue" else [value]
    for each in map(str, filter(None, values)):
        if vr == "PN":
            found.names |= set(each.split("="))  # the same name in other scripts
        elif vr in ("DA", "DT") and (keyword.endswith("BirthDate") or keyword in _DATES):
            if match := re.match(r"(\d{4})\W?(\d{2})\W?(\d{2})", each):
                found.dates.add((int(match[1]), int(match[2]), int(match[3])))
        elif keyword in _INSTANCES or keyword in _OF_THE_PATIENT:
            found.ids.add(each)
        elif vr in ("SH", "LO", "UT", "UC") and _IDENTIFIER.search(keyword):
            # A study of the number 1 is one of many; so is every folder that is called so.
            found.ids |= {each} if keyword == "PatientID" or len(_joined(each)) >= 3 else set()


def _fold(text: str, umlauts: bool = False) -> str:
    """Small letters without accents; `umlauts`: ä becomes ae, not a."""
    text = unicodedata.normalize("NFKC", text).casefold()
    if umlauts:
        text = text.translate(_UMLAUTS)
    letters = unicodedata.normalize("NFKD", text.translate(_PLAIN))
    return unicodedata.normalize("NFC", "".join(each for each in letters if not unicodedata.combining(each)))


@lru_cache(1024)
def _tokens(text: str) -> list[str]:
    """Runs of letters and digits."""
    return re.findall(r"[^\W_]+", _fold(text))


@lru_cache(1024)
def _joined(text: str) -> str:
    return "".join(_tokens(text))


@lru_cache(1024)
def _words(text: str, umlauts: bool = False) -> list[str]:
    """Runs of letters; a capital after a small letter begins one too, as in SmithJohn."""
    text = re.sub(r"(?<=[^\W\d_])(?=[A-Z][a-z])", " ", unicodedata.normalize("NFC", text))
    return [word for word in re.split(r"[\W\d_]+", _fold(text, umlauts)) if word]


def _runs(tokens: Sequence[str], most: int = 4) -> set[str]:
    """Neighbouring tokens put together: what hyphens and spaces may have taken apart."""
    return {"".join(tokens[a:b]) for a in range(len(tokens)) for b in range(a + 1, min(len(tokens), a + most) + 1)}


def _holds_id(text: str, identifier: str) -> bool:
    wanted = _joined(identifier)
    if not wanted:
        return False
    if len(wanted) >= _LONG and wanted in _joined(text):
        return True
    if wanted in _runs(_tokens(text)):
        return True
    # MRN-0123456 is also 123456: a number inside it, without its zeros in front.
    numbers = {number.lstrip("0") for number in re.findall(r"\d+", wanted)}
    return any(len(number) >= _LONG and number in _joined(text) for number in numbers)


def _holds_name(text: str, name: str) -> bool:
    written = {*_words(text), *_words(text.upper()), *_words(text, umlauts=True)}
    for words in (_words(name), _words(name, umlauts=True)):
        # Initials and 'de' are in too many words; a name in other scripts is short.
        parts = {word for word in words if len(word) > 2 or not word.isascii()}
        glued = {a + b for a, b in permutations(words, 2) if len(a + b) > 3}  # smithjohn, jsmith
        if not written.isdisjoint(parts | glued):
            return True
        # Chinese and Japanese are written without spaces.
        if any(len(part) > 1 and not part.isascii() and part == part.upper() and part in _fold(text) for part in parts):
            return True
    return False


def _holds_date(text: str, year: int, month: int, day: int) -> bool:
    long = {f"{year:04}{month:02}{day:02}", f"{day:02}{month:02}{year:04}", f"{month:02}{day:02}{year:04}"}
    if any(each in run for run in _digits(text) for each in long):
        return True
    tokens = re.findall(r"[^\W\d_]+|\d+", _fold(text))
    short = {each.replace(f"{year:04}", f"{year % 100:02}") for each in long}
    if not short.isdisjoint(tokens):
        return True
    numbers = [int(token) if token.isdigit() else _MONTHS.get(token[:4], _MONTHS.get(token[:3])) for token in tokens]
    orders = {(y, *rest) for y in (year, year % 100) for rest in ((month, day), (day, month))}
    orders |= {(b, c, a) for a, b, c in orders}
    return not orders.isdisjoint(zip(numbers, numbers[1:], numbers[2:], strict=False))


def _digits(text: str) -> Iterator[str]:
    """Runs of digits, single separators between them left out."""
    return (re.sub(r"\D", "", run) for run in re.findall(r"\d+(?:[\W_]\d+)*", _fold(text)))
