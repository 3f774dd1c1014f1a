"""Licences of weights that bind their users to more than a notice: found out, and put into one line.

They are said at each run (`EncoderSpec.licence`). What is looked at, in this order: what is known of the name
(`registry`), the model card beside the weights, a licence file beside them.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

_CARDS = r"readme(\.md)?"
_TEXTS = r"licen[cs]e(\.md|\.txt)?"
PAPERS = r"readme\.md|licen[cs]e.*"
_LINES = 300  # characters of a card's lines on its licence
_BESIDE = ("license", "licence", "version", "the")  # what a short name may have around it
# Which ask for no more than a notice, or for nothing, by the Hub's short names.
_FREE = {
    *("apache-2.0", "mit", "isc", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "unlicense", "wtfpl"),
    *(
        "cc0-1.0",
        "cc-by-2.0",
        "cc-by-2.5",
        "cc-by-3.0",
        "cc-by-4.0",
        "pddl",
        "zlib",
        "mit-0",
        "0bsd",
        "afl-3.0",
        "ecl-2.0",
        "ncsa",
    ),
}
_FREE_TEXTS = (
    *("apache license", "mit license", "bsd 2-clause", "bsd 3-clause", "permission is hereby granted, free of"),
    *("attribution 4.0 international", "cc0 1.0 universal"),
)
DINOV3 = "the DINOv3 License binds: its acceptable uses, and its terms go along with whatever is passed on"
MSRLA = "the Microsoft Research License (MSRLA) binds: for research only"
_NON_COMMERCIAL = "{} binds: for non-commercial use only"
_OTHER = "its licence ({}) binds to terms of its own; read them before you use it"


def words_on_licence(name: str) -> str:
    """What a licence binds a user to, in a line; blank for one that asks for a notice at most, and for no name.

    Args:
        name: its short name, as model cards have it, or its title.
    """
    short = re.sub(r"[^ -~]", "", name).strip()[:60]
    plain = "-".join(word for word in re.split(r"[\s,-]+", short.lower()) if word and word not in _BESIDE)
    if not plain or plain in _FREE:
        return ""
    if plain.startswith("dinov3"):
        return DINOV3
    if plain == "msrla":
        return MSRLA
    if re.search(r"(^|-)nc(-|$)|non-?commercial", plain):
        return _NON_COMMERCIAL.format(plain.upper() if plain.startswith("cc-") else short)
    return _OTHER.format(short)


def licence_beside(folder: Path) -> str:
    """What the model card or the licence file in a folder of weights binds a user to; blank where neither says it."""
    for card in papers_in(folder, _CARDS):
        if licence := _of_card(_start_of(card)):
            # A card that says `other` leaves it to the file beside it.
            return words_on_licence(licence) if licence != "other" else _of_text(folder) or _OTHER.format("other")
    return _of_text(folder)


def papers_in(folder: Path, names: str = PAPERS) -> list[Path]:
    """Model cards and licence files in a folder, however their names are spelled.

    Args:
        folder: of the weights.
        names: a regular expression for names in lower case.
    """
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in found if re.fullmatch(names, path.name.lower()) and path.is_file()]


def _of_card(text: str) -> str:
    """The licence's short name in a model card's head; `license_name` where `license` is `other`.

    Only the lines on the licence are read as YAML, every value as a string: the rest may be long, or broken.
    """
    match = re.match(r"\s*---\s*\n(.*?)\n---", text.removeprefix("\ufeff"), re.DOTALL)
    if match is None:
        return ""
    lines = re.findall(r"^license(?:_name)?:.*(?:\n(?:[ \t]+|-[ \t]).*)*", match[1].replace("\r", ""), re.MULTILINE)
    try:
        head = yaml.load("\n".join(lines)[:_LINES], Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
        head = {"license": "other"}  # unless its words stand there plainly
        head |= dict(re.findall(r"^(license(?:_name)?):\s*[\"']?(\w[\w. -]*)", "\n".join(lines), re.MULTILINE))
    if not isinstance(head, dict):
        return ""
    named = head.get("license")
    names = [name if isinstance(name, str) else "other" for name in (named if isinstance(named, list) else [named])]
    if named is None or names == ["other"]:
        own = head.get("license_name")
        return own if isinstance(own, str) and own else "other" if named is not None else ""
    # Of several, one that binds.
    return next((name for name in names if words_on_licence(name)), names[0] if names else "")


def _of_text(folder: Path) -> str:
    text = next((text for path in papers_in(folder, _TEXTS) if (text := _start_of(path)).strip()), "")
    lower = " ".join(text.lower().split())
    if not lower:
        return ""
    title = next(line.strip(" #*") for line in text.splitlines() if line.strip(" #*"))
    free = any(words in lower for words in _FREE_TEXTS)
    # GNU's licences speak of what is passed on noncommercially, and do not ask for it.
    if re.search("non-?commercial", lower) and not title.lower().startswith("gnu"):
        return _NON_COMMERCIAL.format("a part of its licence file" if free else re.sub(r"[^ -~]", "", title)[:60])
    return "" if free else words_on_licence(title)


def _start_of(path: Path) -> str:
    """The first 256 kB of a file; blank where there is none to read."""
    try:
        with open(path, "rb") as file:
            return file.read(1 << 18).decode("utf-8", errors="replace")
    except OSError:
        return ""
