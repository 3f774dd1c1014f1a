"""A report's files: a page, and beside it the same as JSON, Markdown and CSV."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cxr_embed.io.files import write_together
from cxr_embed.reporting.examples import without_pictures
from cxr_embed.reporting.inputs import ReportError
from cxr_embed.reporting.texts import to_csv, to_html, to_markdown


def check_target(page: Path, *inputs: Path) -> None:
    """Refuses a place where no report can be written, before anything is computed.

    Args:
        page: the page to write.
        inputs: files that none of the report's files may replace.

    Raises:
        ReportError: for another suffix, a folder, a place that can't be written to, or a file of the inputs.
    """
    if page.suffix.lower() != ".html" or page.is_dir():
        raise ReportError(f"{page}: a report is a file whose name ends in .html; give another `out`")
    for path in _files(page):
        if path.resolve() in {given.resolve() for given in inputs}:
            raise ReportError(f"{path}: the report would replace what it is made of; give another `out`")
    folder = page.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = "Permission denied" if folder.is_dir() else f"{folder} is not a folder"
        raise ReportError(f"{page}: cannot be written ({reason}); give another `out`")


def write_report(page: Path, report: dict[str, Any]) -> tuple[Path, ...]:
    """Writes `NAME.html`, `NAME.json`, `NAME.md` and `NAME.csv`: all of them, or none.

    Args:
        page: the first of them.
        report: what `collect` gives.

    Returns:
        The files, the page first.

    Raises:
        ReportError: where one cannot be written.
    """
    check_target(page)
    _, *others = _files(page)
    body = json.dumps(without_pictures(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    texts = (to_html(report, tuple(path.name for path in others)), body, to_markdown(report), to_csv(report))
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        # The page last: whoever sees it finds the others.
        files = zip((page, *others), texts, strict=True)
        write_together({path: text.encode() for path, text in reversed(list(files))})
    except OSError as error:
        raise ReportError(f"{page}: cannot be written ({error.strerror}); give another `out`") from None
    return page, *others


def _files(page: Path) -> tuple[Path, ...]:
    return page, *(page.with_suffix(suffix) for suffix in (".json", ".md", ".csv"))
