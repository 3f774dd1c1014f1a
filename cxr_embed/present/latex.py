"""Tables in LaTeX, for papers; they need the package booktabs."""

from __future__ import annotations

from collections.abc import Sequence

_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "\N{EN DASH}": "--", "\N{MINUS SIGN}": "$-$",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}  # fmt: skip


def escape(text: str) -> str:
    """Text that LaTeX sets as it stands; control characters become spaces."""
    return "".join(_SPECIAL.get(letter, letter if letter.isprintable() else " ") for letter in text)


def latex_row(name: str, cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"{name} & {' & '.join(cells)} \\\\"


def latex_table(
    heads: Sequence[str], parts: Sequence[Sequence[str]], *, caption: str, label: str, between: str
) -> list[str]:
    """The lines of a table.

    Args:
        heads: of the columns, escaped here; the first is above the names.
        parts: lines each, as `latex_row` gives them.
        caption: above it, escaped already.
        label: after `tab:`.
        between: the line between two parts.
    """
    body: list[str] = []
    for number, part in enumerate(parts):
        body += [between] if number else []
        body += part
    return [
        "\\begin{table}[t]",
        "  \\centering",
        f"  \\caption{{{caption}}}",
        f"  \\label{{tab:{label}}}",
        f"  \\begin{{tabular}}{{l{'c' * (len(heads) - 1)}}}",
        "    \\toprule",
        f"    {' & '.join(map(escape, heads))} \\\\",
        "    \\midrule",
        *(f"    {line}" for line in body),
        "    \\bottomrule",
        "  \\end{tabular}",
        "\\end{table}",
    ]
