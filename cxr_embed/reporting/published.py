"""Figures that others published for the same findings, to be read beside ours."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Sequence
from typing import Any

from cxr_embed.cases import match_names

CAVEAT = (
    "The test sets differ: other patients, other splits, another mix of findings; and those networks were trained end "
    "to end on this data. A difference from these figures says nothing about an encoder."
)


def published_for(findings: Sequence[str]) -> dict[str, Any] | None:
    """Published AUROCs of those findings that have one; None where none has.

    Returns:
        `data`, `caveat` and `results`, each with `name`, `source`, `test` and `auroc` by our name of a finding.
    """
    text = importlib.resources.files("cxr_embed.reporting").joinpath("published.json").read_text(encoding="utf-8")
    known = json.loads(text)
    matched = match_names(findings, known["findings"], "scores")
    place = {name: known["findings"].index(column) for name, column in zip(findings, matched, strict=True) if column}
    if not place:
        return None
    results = [
        {**result, "auroc": {name: result["auroc"][number] for name, number in place.items()}}
        for result in known["results"]
    ]
    return {"data": known["data"], "caveat": CAVEAT, "results": results}
