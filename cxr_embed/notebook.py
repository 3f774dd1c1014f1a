"""A progress bar for notebooks: HTML that its cell shows, and text where no browser is."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable
from typing import Any

_EVERY = 0.1  # seconds between two drawings: a message to the browser each
Show = Callable[[str, int, int | None], None]


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook; IPython in a terminal is a terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def notebook_bar(unit: str = "") -> Show | None:
    """Draws a step, what is done of it and its total below the cell that runs; None outside notebooks."""
    if not in_notebook():
        return None
    from IPython.display import display

    handle: Any = None
    last: tuple[str, float] = ("", 0.0)

    def show(step: str, done: int, total: int | None) -> None:
        nonlocal handle, last
        now = time.monotonic()
        if step == last[0] and done != total and now - last[1] < _EVERY:
            return
        last = step, now
        if handle is None:
            handle = display(_Bar(step, done, total, unit), display_id=True)
        else:
            handle.update(_Bar(step, done, total, unit))

    return show


class _Bar:
    """What a cell shows."""

    def __init__(self, step: str, done: int, total: int | None, unit: str) -> None:
        self.step, self.done, self.total = step, done, total
        self.text = f"{step} {done:,}" + (f" / {total:,}" if total is not None else "") + (f" {unit}" if unit else "")

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        known = f' value="{self.done}" max="{max(self.total, 1)}"' if self.total is not None else ""
        return f"<progress{known}></progress> {html.escape(self.text)}"
