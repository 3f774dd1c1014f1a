"""The page: one file that asks no host for anything, and that needs no script."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cxr_embed.present.tables import INTERVAL
from cxr_embed.reporting.leaderboard.records import Row
from cxr_embed.reporting.leaderboard.sections import sections
from cxr_embed.reporting.leaderboard.verdicts import MEANINGS, SIGNS
from cxr_embed.reporting.leaderboard.words import how_marked, summary, warnings
from cxr_embed.types import RESEARCH

TITLE = "Leaderboard"


def to_html(rows: Sequence[Row], about: Mapping[str, Any], names: Sequence[str]) -> str:
    """The page.

    Args:
        rows: the results.
        about: as `write_leaderboard` takes it.
        names: of the files with the same content.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = importlib.resources.files("cxr_embed.reporting.leaderboard")
    template, style, script = (
        folder.joinpath(name).read_text(encoding="utf-8").strip() for name in ("page.html.jinja", "page.css", "page.js")
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["breakable"] = lambda text: Markup("_<wbr>").join(map(Markup.escape, text.split("_")))
    # Only the style, the script and the plots' SVG are ours to trust; whatever a user named is escaped.
    environment.filters["svg"] = Markup
    page = environment.from_string(template)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        page.render(
            title=str(about.get("title") or TITLE),
            created=_date(str(about.get("created") or "")),
            version=str(about.get("version") or ""),
            research=RESEARCH,
            protocol=list(map(str, about.get("protocol") or ())),
            warnings=list(dict.fromkeys([*map(str, about.get("warnings") or ()), *warnings(rows)])),
            summary=summary(rows),
            how=how_marked(rows),
            sections=sections(rows, about),
            names=names,
            interval=INTERVAL,
            signs=SIGNS,
            meanings=MEANINGS,
            style=Markup(style),
            script=Markup(script),
            digest=digest,
        )
        + "\n"
    )


def _date(created: str) -> str:
    """2026-11-29 15:10 UTC."""
    return re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:\d\d(\.\d+)?)?(\+00:00|Z)$", r"\1 \2 UTC", created)
