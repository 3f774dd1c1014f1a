"""A table of text held against all that must be true of a manifest."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pyarrow as pa

from cxr_embed.errors import ManifestError
from cxr_embed.manifest.checks import CHECKS, DESCRIPTIVE, OPTIONAL, REQUIRED, check_finding, check_names
from cxr_embed.manifest.rows import Rows
from cxr_embed.manifest.spellings import plain_values

KNOWN = (*REQUIRED, *OPTIONAL, *DESCRIPTIVE)
CURE = "a manifest can be made of it: "  # before the command


def checked(
    rows: Rows, unreadable: list[str], source: str | os.PathLike[str], required: Sequence[str], extra: Sequence[str]
) -> tuple[pa.Table, tuple[str, ...]]:
    """The table in plain spelling, and the names of its findings.

    Args:
        rows: the table as it was read.
        unreadable: problems that were met on the way.
        source: of the table, for messages.
        required: columns that must be there.
        extra: columns that are neither known nor findings.

    Raises:
        ManifestError: with all problems at once in `problems`.
    """
    names = rows.table.column_names
    findings = tuple(n for n in names if n and n not in (*KNOWN, *extra))
    problems = check_names(names, required, extra) + unreadable
    # A column that stands twice is checked once, in its first place; the others could not be distinguished.
    rows = rows.select({name: names.index(name) for name in names if name})
    rows = plain_values(rows, list(dict.fromkeys(findings)))
    problems += [problem for check in CHECKS for problem in check(rows)]
    problems += [problem for name in dict.fromkeys(findings) for problem in check_finding(rows, name)]
    if not len(rows.table) and not unreadable:
        problems.append("the manifest has no rows" if required == REQUIRED else "the table has no rows")
    refuse(source, problems)
    return rows.table, findings


def refuse(source: str | os.PathLike[str], problems: Sequence[str], cure: str = "") -> None:
    """Raises all problems at once, and the command that would cure them; nothing where there are none.

    Raises:
        ManifestError: with `problems` and `cure`.
    """
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        lines = [f"{source}: {count}", *(f"  {problem}" for problem in problems)]
        if cure:
            lines.append(f"{CURE}{cure}")
        raise ManifestError("\n".join(lines), tuple(problems), cure)
