"""Figures that others published for the same findings, to be read beside ours."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import yaml

from cxr_embed.cases import match_names
from cxr_embed.types import counted

CAVEAT = (
    "The test sets differ: other patients, other splits, another mix of findings; see below what each was tested on. "
    "A difference from these figures says nothing about an encoder."
)
UNKNOWN = "Which data set your labels are of is not known: the findings alone say that these figures could belong here."
_WHERE_UNKNOWN = "NIH ChestX-ray14"  # whose figures labels of an unknown data set may have beside them
_TRAINED = "trained end to end"


def published_for(findings: Sequence[str], data: str | None = None) -> dict[str, Any] | None:
    """Published AUROCs of those findings that have one; None where none has.

    Args:
        findings: as the user's scores name them.
        data: the data set of the labels: a recipe (`nih-chestxray14`) or a name (`CheXpert`); None where it is not
            known, which gives the figures of NIH ChestX-ray14 and says so. Of another known data set no figure is
            given that is not its own.

    Returns:
        `data` (the data set of the figures), `known` (whether the labels are known to be of it), `caveat` and
        `results`: each with `name`, `source`, `read`, `kind`, `split`, `images` and `patients` (None where its source
        does not say), `test` (these in words), `digits` (of the source) and `auroc` by our name of a finding.

    Raises:
        CasesError: for a finding that two published ones are equally like.
    """
    found = next((known for known in _published() if _is(known, data or _WHERE_UNKNOWN)), None)
    if found is None:
        return None
    results = []
    for result in found["results"]:
        matched = match_names(findings, tuple(result["auroc"]), "scores")
        auroc = {name: result["auroc"][column] for name, column in zip(findings, matched, strict=True) if column}
        if auroc:
            digits = max(len(f"{value}".partition(".")[2]) for value in result["auroc"].values())
            results.append({**result, "test": _test(result), "digits": digits, "auroc": auroc})
    if not results:
        return None
    return {"data": found["data"], "known": data is not None, "caveat": _caveat(results, data), "results": results}


@cache
def _published() -> list[dict[str, Any]]:
    """All that is known, as the file has it."""
    text = importlib.resources.files("cxr_embed.reporting").joinpath("published.yaml").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = yaml.safe_load(text)
    return found


def _is(known: dict[str, Any], name: str) -> bool:
    return _plain(name) in {_plain(other) for other in (known["data"], *known["names"])}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "-", name.strip()).casefold()


def _test(result: dict[str, Any]) -> str:
    """What it was tested on, in words: its own split: 22,433 images of 6,187 patients."""
    sizes = [
        counted(result[name], name.removesuffix("s")) for name in ("images", "patients") if result[name] is not None
    ]
    return f"{result['split']}: {' of '.join(sizes)}" if sizes else result["split"]


def _caveat(results: Sequence[dict[str, Any]], data: str | None) -> str:
    ends = [result["name"] for result in results if result["kind"] == _TRAINED]
    trained = "" if not ends else f" Networks trained end to end saw such images with their labels: {', '.join(ends)}."
    return f"{CAVEAT}{trained}" if data is not None else f"{UNKNOWN} {CAVEAT}{trained}"
