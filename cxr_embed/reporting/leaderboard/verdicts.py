"""Who is better: only where a paired test says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from cxr_embed.present.numbers import PAGE
from cxr_embed.reporting.leaderboard.records import DONE, Row, task_of

Verdict = Literal["best", "above", "below", "same", "reference", ""]
LEVEL = 0.05
RULE = (
    "Marked best: an encoder that paired tests against the reference set above all others (p < 0.05 after Holm's "
    "correction): it is above the reference, or is it, and all others are below it. Whoever learned from the data or "
    "stands in for other weights is never marked best, and does not keep another from it."
)
SIGNS = {"above": "▲", "below": "▼", "same": "≈", "reference": "ref."}
MEANINGS = {
    "best": "best by paired tests",
    "above": "above the reference, p < 0.05 after Holm's correction",
    "below": "below the reference, p < 0.05 after Holm's correction",
    "same": "no clear difference from the reference",
    "reference": "the reference",
}


def verdicts(rows: Sequence[Row]) -> dict[str, Verdict]:
    """What the tests say of each encoder, by its name; blank where there is no test.

    Args:
        rows: one an encoder, of one figure on one data set.
    """
    reference = next((row.reference for row in rows if row.reference), "")
    found = {row.encoder: _against(reference, row) for row in rows if _counts(row)}
    fair = [row.encoder for row in rows if _counts(row) and not row.saw_data and not row.stand_in]
    tops = [name for name in fair if found[name] in ("above", "reference")]
    above = [name for name in tops if found[name] == "above"]
    top = (above or tops)[:1] if len(above) < 2 else []
    if top and len(fair) > 1 and all(found[name] in _LOWER[found[top[0]]] for name in fair if name != top[0]):
        found[top[0]] = "best"
    return {row.encoder: found.get(row.encoder, "") for row in rows}


# Who may stand beside the one that is best: by what it is itself.
_LOWER = {"above": ("below", "reference"), "reference": ("below",)}


def _counts(row: Row) -> bool:
    return task_of(row.task).ranked and row.status == DONE and row.value is not None


def _against(reference: str, row: Row) -> Verdict:
    if reference and row.encoder == reference:
        return "reference"
    if not reference or row.difference is None or row.p_holm is None:
        return ""
    if row.p_holm >= LEVEL or row.difference == 0:
        return "same"
    return "above" if row.difference > 0 else "below"


def in_words(title: str, rows: Sequence[Row]) -> str:
    """A sentence on a data set and task.

    Args:
        title: of both.
        rows: one an encoder, of the figure that stands for the task.
    """
    known = [row for row in rows if _counts(row)]
    if not known:
        return f"{title}: no figure."
    if len(known) == 1:
        return f"{title}: {_figure(known[0])}, the only one: nothing to compare."
    found = verdicts(known)
    best = [row for row in known if found[row.encoder] == "best"]
    if best:
        return f"{title}: {_figure(best[0])}, is best."
    tested = [row for row in known if found[row.encoder] in ("above", "below", "same")]
    if not tested:
        return f"{title}: {_leader(known)}; no paired test tells them apart."
    reference = tested[0].reference
    parts = [
        f"{_names(known, found, verdict)} {words} {reference}"
        for verdict, words in (("above", "above"), ("below", "below"), ("same", "not clearly different from"))
        if any(found[row.encoder] == verdict for row in known)
    ]
    return f"{title}: {'; '.join(parts)}. Which is best is not decided."


def _names(rows: Iterable[Row], found: dict[str, Verdict], verdict: str) -> str:
    return ", ".join(_flagged(row) for row in rows if found[row.encoder] == verdict)


def _flagged(row: Row) -> str:
    """Its name, with why it cannot be best."""
    flags = [words for words, there in (("saw the data", row.saw_data), ("stand-in", row.stand_in)) if there]
    return f"{row.encoder} ({', '.join(flags)})" if flags else row.encoder


def _leader(rows: Sequence[Row]) -> str:
    top = max(rows, key=lambda row: row.value or 0.0)
    return f"the highest figure is that of {_figure(top)}"


def _figure(row: Row) -> str:
    value = PAGE.figure(row.value, row.low, row.high, between=" to ")
    return f"{_flagged(row)}, {value}"
