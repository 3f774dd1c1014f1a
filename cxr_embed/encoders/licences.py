"""Licences of weights that bind their users to more than a notice: found out, and put into one line.

They are said at each run (`EncoderSpec.licence`). What is looked at, in this order: what is known of the name
(`registry`), the model card beside the weights, a licence file beside them.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

_CARDS = ("README.md", "README")
_TEXTS = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "LICENCE.md", "LICENCE.txt")
# Which ask for no more than a notice, or for nothing, by the Hub's short names.
_FREE = {
    *("apache-2.0", "mit", "isc", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "unlicense", "wtfpl"),
    *("cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "pddl", "zlib", "afl-3.0", "ecl-2.0", "ncsa"),
}
_FREE_TEXTS = ("apache license", "mit license", "bsd 2-clause", "bsd 3-clause", "permission is hereby granted, free of")
DINOV3 = "the DINOv3 License binds: its acceptable uses, and its terms go along with whatever is passed on"
MSRLA = "the Microsoft Research License (MSRLA) binds: for research only"
_NON_COMMERCIAL = "{} binds: for non-commercial use only"
_OTHER = "its licence ({}) binds to terms of its own; read them before you use it"


def words_on_licence(name: str) -> str:
    """What a licence binds a user to, in a line; blank for one that asks for a notice at most, and for no name.

    Args:
        name: its short name, as model cards have it.
    """
    short = re.sub(r"[^ -~]", "", name).strip()[:60]
    lower = short.lower()
    if not lower or lower in _FREE:
        return ""
    if lower.startswith("dinov3"):
        return DINOV3
    if lower == "msrla":
        return MSRLA
    if re.search(r"(^|-)nc(-|$)|non-?commercial", lower):
        return _NON_COMMERCIAL.format(short.upper() if lower.startswith("cc-") else short)
    return _OTHER.format(short)


def licence_beside(folder: Path) -> str:
    """What the model card or the licence file in a folder of weights binds a user to; blank where neither says it."""
    for name in _CARDS:
        if licence := _of_card(_start_of(folder / name)):
            # A card that says `other` leaves it to the file beside it.
            return words_on_licence(licence) if licence != "other" else _of_text(folder) or _OTHER.format("other")
    return _of_text(folder)


def _of_card(text: str) -> str:
    """The licence's short name in a model card's head; `license_name` where `license` is `other`."""
    match = re.match(r"\s*---\s*\n(.*?)\n---", text, re.DOTALL)
    if match is None:
        return ""
    try:
        head = yaml.safe_load(match[1])
    except yaml.YAMLError:
        return ""
    if not isinstance(head, dict):
        return ""
    named = head.get("license")
    names = [str(name) for name in (named if isinstance(named, list) else [named]) if name]
    if names == ["other"]:
        return str(head.get("license_name") or "other")
    # Of several, one that binds.
    return next((name for name in names if words_on_licence(name)), names[0] if names else "")


def _of_text(folder: Path) -> str:
    text = next((text for name in _TEXTS if (text := _start_of(folder / name)).strip()), "")
    lower = " ".join(text.lower().split())
    if not lower or any(free in lower for free in _FREE_TEXTS):
        return ""
    title = next(line.strip(" #*") for line in text.splitlines() if line.strip(" #*"))
    if "non-commercial" in lower or "noncommercial" in lower:
        return _NON_COMMERCIAL.format(re.sub(r"[^ -~]", "", title)[:60])
    return words_on_licence(title)


def _start_of(path: Path) -> str:
    """The first 16 kB of a file; blank where there is none to read."""
    try:
        with open(path, "rb") as file:
            return file.read(1 << 14).decode("utf-8", errors="replace")
    except OSError:
        return ""
