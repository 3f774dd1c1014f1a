"""Regular expressions of the user's, in bounded time: some of them backtrack for years over one path."""

from __future__ import annotations

import re
import signal
import threading

from cxr_embed.errors import ManifestError

SECONDS = 1.0  # of the processor, for one text; what is sound takes a millionth


class _TookTooLong(Exception):
    pass


def match_bounded(pattern: re.Pattern[str], text: str, *, whole: bool = False) -> re.Match[str] | None:
    """The pattern's match in a text, or of the whole text.

    Python's engine looks for signals while it backtracks, so a timer of the processor's time ends it. Only the main
    thread can have one: elsewhere nothing bounds it.

    Raises:
        ManifestError: where it takes longer than a second.
    """
    find = pattern.fullmatch if whole else pattern.search
    if threading.current_thread() is not threading.main_thread():
        return find(text)

    searching = True

    def stop(*_: object) -> None:
        if searching:  # the timer may end just as the search does
            raise _TookTooLong

    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            return find(text)
        finally:
            searching = False
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except _TookTooLong:
        raise ManifestError(
            f"the pattern {pattern.pattern!r} takes longer than {SECONDS:g} s for {text[:80]!r}: it tries too "
            "many ways to match; write it without a repeat inside a repeat, such as (a+)+"
        ) from None
    finally:
        # A signal that is on its way would end the process by default; one that is ignored is thrown away.
        signal.signal(signal.SIGVTALRM, signal.SIG_IGN)
        signal.signal(signal.SIGVTALRM, before)
