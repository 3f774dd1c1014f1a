"""The page: one file that asks no host for anything, and that needs no script."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections.abc import Sequence

from cxr_embed.present.tables import INTERVAL
from cxr_embed.reporting.leaderboard.about import About
from cxr_embed.reporting.leaderboard.records import Row
from cxr_embed.reporting.leaderboard.sections import Section
from cxr_embed.reporting.leaderboard.verdicts import MEANINGS, SIGNS
from cxr_embed.reporting.leaderboard.words import how_marked, summary, warnings
from cxr_embed.types import RESEARCH


def to_html(rows: Sequence[Row], about: About, shown: Sequence[Section], names: Sequence[str]) -> str:
    """The page.

    Args:
        rows: the results.
        about: what they do not say.
        shown: the sections.
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
            about=about,
            research=RESEARCH,
            warnings=list(dict.fromkeys([*about.warnings, *warnings(rows)])),
            summary=summary(rows),
            how=how_marked(rows),
            sections=shown,
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
