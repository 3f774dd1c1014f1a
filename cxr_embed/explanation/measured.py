"""What `explain evaluate --json` measured, as the line under each map says it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_embed.errors import MapError

NOT_MEASURED = "not measured"
_ALIKE = ("fingerprint", "words")


@dataclass(frozen=True)
class Measured:
    """What an evaluation found.

    Attributes:
        about: how its maps were made: `encoder`, `fingerprint`, `words` of the method, and `explained`.
        findings: the pointing game of each, in words.
    """

    about: Mapping[str, Any]
    findings: Mapping[str, str]

    def fits(self, about: Mapping[str, Any]) -> bool:
        """Whether other maps are made by the same encoder and in the same way."""
        return all(self.about[name] == about[name] for name in _ALIKE)


def read_measured(path: Path, about: Mapping[str, Any]) -> dict[str, str]:
    """The pointing game of each finding, in words.

    Args:
        path: what `explain evaluate --json` printed, of maps that were made in the same way.
        about: how the maps are made that it is to stand under.

    Raises:
        MapError: where it cannot be read, or is of another encoder's maps, or of another method's.
    """
    found = load_measured(path)
    if not found.fits(about):
        raise MapError(
            f"{path}: measured on maps of {found.about['encoder']} by {found.about['words']}, these are of "
            f"{about['encoder']} by {about['words']} (`measured`)"
        )
    return dict(found.findings)


def load_measured(path: Path) -> Measured:
    """What `explain evaluate --json` printed.

    Raises:
        MapError: where it cannot be read.
    """
    try:
        body = json.loads(path.read_bytes())
        found = {row["finding"]: _words(row) for row in body["findings"]}
        measured = body["about"]
        measured = {name: measured.get(name) for name in (*_ALIKE, "encoder", "explained")}
    except OSError as error:
        raise MapError(f"{path}: cannot be read ({error.strerror}); `explain evaluate --json` prints it") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MapError(f"{path}: not what `explain evaluate --json` prints (`measured`)") from None
    return Measured(measured, found)


def _words(row: Mapping[str, Any]) -> str:
    hit = row["figures"]["map"]["hit_rate"]
    if hit["value"] is None:
        return NOT_MEASURED
    interval = "" if hit["low"] is None else f" ({100 * hit['low']:.0f} to {100 * hit['high']:.0f}%)"
    return f"measured: highest point in the marked place in {100 * hit['value']:.0f}%{interval} of {row['images']:,}"
