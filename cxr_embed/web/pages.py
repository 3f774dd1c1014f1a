"""The pages of the browser, in the order of its menu: a module and a template each.

A module of a page has `router(site)`, which gives its routes; its template extends `page.html`. `CONTRIBUTING.md` says
how to add one.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from fastapi import APIRouter

from cxr_embed.web.site import Site


@dataclass(frozen=True)
class Page:
    """A row of the menu.

    Attributes:
        title: in the menu.
        path: of the page.
        module: of this package, with a `router(site)`.
    """

    title: str
    path: str
    module: str


PAGES = (
    Page("Search", "/", "search"),
    Page("Compare", "/compare", "compare"),
    Page("Marks", "/marks", "marks"),
    Page("Map", "/map", "map"),
    Page("API", "/endpoints", "endpoints"),
)


def routers(site: Site) -> list[APIRouter]:
    """The routes of every page."""
    return [importlib.import_module(f"cxr_embed.web.{page.module}").router(site) for page in PAGES]
