"""`cxr-embed explain ...`."""

from __future__ import annotations

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Heat maps: what part of a picture a score comes from, and whether that is where the finding is.",
)
