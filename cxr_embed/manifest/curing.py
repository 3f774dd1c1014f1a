"""The command that would make a manifest of a table that is none, found by trying it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from cxr_embed.errors import ManifestError
from cxr_embed.manifest.checking import KNOWN
from cxr_embed.manifest.checks import FINDING_VALUES, OPTIONAL, REQUIRED
from cxr_embed.manifest.converting import Conversion, convert
from cxr_embed.manifest.rows import Rows
from cxr_embed.manifest.spellings import plain_finding

# What others call the columns that a manifest must have, without case, spaces, hyphens and underscores.
_NAMES = {
    "image_id": ("imageid", "imageindex", "dicomid", "image", "imagename", "sopinstanceuid", "id"),
    "path": ("path", "imagepath", "imgpath", "filepath", "filename", "file", "imagefile"),
    "patient_id": ("patientid", "patient", "subjectid", "subject", "pid"),
}
# The command, and its flags by what follows them.
_COMMAND = (
    "cxr-embed manifest convert TABLE --out OUT --id image_id --path path --patient patient_id --rename OTHER "
    "--map VALUES --not-finding COLUMN"
)
_VERB, _OPTIONS = _COMMAND.split()[:3], _COMMAND.split()[4:]
_FLAGS = dict(zip(_OPTIONS[1::2], _OPTIONS[::2], strict=True))
# Words that say one thing of a finding in every table.
_WORDS = {
    **dict.fromkeys(("positive", "pos", "present", "y", "t"), "1"),
    **dict.fromkeys(("negative", "neg", "absent", "n", "f"), "0"),
    **dict.fromkeys(("uncertain", "equivocal"), "-1"),
    **dict.fromkeys(("unknown", "not mentioned", "missing"), ""),
}


def cure_of(source: str | os.PathLike[str], rows: Rows, required: Sequence[str], extra: Sequence[str]) -> str:
    """The `cxr-embed manifest convert ...` that makes what is wanted of a table; blank where none is known.

    Only what names and values can mean in one way is offered, and only where the result passes every check.

    Args:
        source: the table's file.
        rows: what it holds.
        required: columns that must be there.
        extra: columns that are known not to be findings.
    """
    path = Path(source)
    names = rows.table.column_names
    columns, lacking = _columns(names, required)
    if lacking or len(set(names)) < len(names):
        return ""
    values: dict[str, str] = {}
    not_findings: list[str] = []
    for name in names:
        if not name or name in KNOWN or name in columns.values():
            continue
        found = [] if name in extra else _odd(rows, name)
        if name not in extra and found and set(map(str.casefold, found)) <= set(_WORDS):
            values |= {value: _WORDS[value.casefold()] for value in found}
        elif name in extra or found:
            if found and any(map(plain_finding, _known(rows, name))):
                return ""  # some of its values are a finding's: whoever made it must say what the others are
            not_findings.append(name)
    how = Conversion(columns=columns, values=values, not_findings=not_findings)
    try:
        made = convert(rows, how, str(source))
    except ManifestError:
        return ""
    if not set(required) <= set(made.table.column_names):
        return ""
    return _command(path, how)


def _columns(names: Sequence[str], required: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Columns of a manifest and what they are made of, and those that nothing is known to make."""
    plain: dict[str, list[str]] = {}
    for name in names:
        plain.setdefault("".join(filter(str.isalnum, name.casefold())), []).append(name)
    columns = {}
    for wanted in (*REQUIRED, *OPTIONAL):
        known = _NAMES.get(wanted, (wanted.replace("_", ""),))
        found = [name for other in known for name in plain.get(other, ())]
        # Of two that could be it, the likelier names stand first; beside what must be there, nothing is guessed.
        if wanted not in names and (len(found) == 1 or (found and wanted in REQUIRED)):
            columns[wanted] = found[0]
    if "image_id" not in names and "image_id" not in columns and "path" in {*names, *columns}:
        columns["image_id"] = columns.get("path", "path")  # a path is an image's own too
    return columns, [name for name in required if name not in names and name not in columns]


def _odd(rows: Rows, name: str) -> list[str]:
    """The values of a column that no finding has."""
    return [value for value in rows.table[name].unique().to_pylist() if plain_finding(value) not in FINDING_VALUES]


def _known(rows: Rows, name: str) -> list[str]:
    """The values of a column that a finding may have."""
    return [value for value in rows.table[name].unique().to_pylist() if plain_finding(value) in FINDING_VALUES]


def _command(path: Path, how: Conversion) -> str:
    stem = path.name.removesuffix(".gz").removesuffix(path.suffix if path.suffix != ".gz" else ".csv")
    words = [*_VERB, str(path), _FLAGS["OUT"], str(path.with_name(f"{stem}-manifest.csv"))]
    for name, old in how.columns.items():
        words += [_FLAGS[name], old] if name in _FLAGS else [_FLAGS["OTHER"], f"{old}={name}"]
    if how.values:
        words += [_FLAGS["VALUES"], ",".join(f"{value}={to}" for value, to in how.values.items())]
    for name in how.not_findings:
        words += [_FLAGS["COLUMN"], name]
    return shlex.join(words)
