"""What was found out once and is kept in the user's cache: it may be deleted at any time, and is made anew."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cxr_embed.io.digests import digest_fits, json_digest, with_digest
from cxr_embed.io.files import write_whole
from cxr_embed.version import __version__

_FACTS = "facts"


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/cxr-embed`, or `~/.cache/cxr-embed`. It need not be there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cxr-embed"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of this package and of others by their metadata, without importing one; blank where there is none."""
    found = {"cxr-embed": __version__}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = ""
    return found


def remembered(what: Mapping[str, Any], packages: Iterable[str], find: Callable[[], Mapping[str, Any]]) -> Any:
    """Facts that a library knows and that follow from its version: asked once, so that later runs need not import it.

    Args:
        what: JSON values that name the facts.
        packages: whose versions the facts follow from.
        find: asks the library; JSON values.

    Returns:
        The facts, as JSON gives them back.
    """
    key = json.loads(json.dumps({**what, "versions": versions(packages)}))
    path = cache_folder() / _FACTS / f"{json_digest(key)[:32]}.json"
    known = read_record(path)
    if known is not None and known.get("key") == key:
        return known["facts"]
    found = dict(find())
    try:
        facts = json.loads(json.dumps(found))
    except TypeError:  # a library's own object among them
        return found
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
        write_record(path, {"key": key, "facts": facts})
    return facts


def read_record(path: Path) -> dict[str, Any] | None:
    """JSON values that `write_record` wrote; None where they are not there, or are not what was written."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and "digest" in found and digest_fits(found) else None


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Writes JSON values with a digest over them, whole or not at all.

    Raises:
        OSError: where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(with_digest(values)).encode())
