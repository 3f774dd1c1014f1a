"""The pages of the browser, in the order of its menu: a module and a template each.

A module of a page has `router(site)`, which gives its routes; its template extends `page.html`. `CONTRIBUTING.md` says
how to add one.
"""

from __future__ import annotations

from dataclasses import dataclass


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
    Page("Screen", "/screen", "screen"),
    Page("Marks", "/marks", "marks"),
    Page("Map", "/map", "map"),
    Page("Explain", "/explain", "explain"),
    Page("API", "/endpoints", "endpoints"),
)
