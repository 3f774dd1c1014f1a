"""What every page is made with."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from fastapi.responses import HTMLResponse

from cxr_embed.errors import CxrEmbedError
from cxr_embed.io.digests import sha256_hex
from cxr_embed.marks import ReaderMarks
from cxr_embed.types import RESEARCH
from cxr_embed.version import __version__
from cxr_embed.web.explaining import Explanations
from cxr_embed.web.pages import PAGES
from cxr_embed.web.pictures import Pictures
from cxr_embed.web.scores import Scores
from cxr_embed.web.state import State
from cxr_embed.web.uploads import Uploads

FILES = Path(__file__).with_name("static")
_ARGUMENT = re.compile(r"`([a-z_]+)(?:=[^`]*)?`")
_METHOD = re.compile(r"`method='(\w+)'`")
_LABELS = {"where": "The condition", "before": "The date", "k": "The number of cases", "image_id": "the case"}


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a page may use.

    Attributes:
        state: the index and what else is open.
        pictures: of its cases.
        uploads: of its readers.
        marks: of the reader whom the server is for.
        scores: of the cases, by the probe and the prompts that were named at the start.
        explanations: heat maps.
    """

    state: State
    pictures: Pictures
    uploads: Uploads
    marks: ReaderMarks
    scores: Scores
    explanations: Explanations
    templates: jinja2.Environment = field(default_factory=lambda: environment())

    def page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A page, from a template of `templates/`; every value is escaped there."""
        common = {"pages": PAGES, "research": RESEARCH, "version": __version__, "static": static_address}
        return HTMLResponse(self.templates.get_template(template).render({**common, **values}), status)

    def close(self) -> None:
        """Ends the processes that work for the site."""
        self.pictures.decoders.close()
        self.explanations.close()

    def words(self, error: CxrEmbedError) -> str:
        """An error in a page's words: no argument of a function, and no place on the server's disk."""
        text = str(error).replace(str(self.state.path), "the index")
        text = text.replace(str(self.pictures.root), "the folder")
        # The store's path is as it was written, a single letter it may be: it stands first where it stands at all.
        store = str(self.state.store.path) if self.state.store is not None else ""
        if store and text.startswith((f"{store}:", f"{store}/")):
            text = "the store" + text.removeprefix(store)
        text = _METHOD.sub(r"\1", text)
        text = _ARGUMENT.sub(lambda found: _LABELS.get(found[1], found[1].replace("_", " ")), text)
        return text[:1].upper() + text[1:]


def environment() -> jinja2.Environment:
    """The templates; what a value holds is text, never HTML."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("cxr_embed.web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["count"] = lambda number: f"{number:,}"
    return made


@cache
def static_address(name: str) -> str:
    """Where a file of `static/` is found; its address changes with what is in it, so a browser may keep it."""
    return f"/static/{name}?v={sha256_hex((FILES / name).read_bytes())[:12]}"
