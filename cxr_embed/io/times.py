"""When something was made, as files say it."""

from __future__ import annotations

import datetime


def utc_now() -> str:
    """ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
