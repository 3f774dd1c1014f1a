"""Objects at addresses: s3, gs, az and https through fsspec, with short time-outs, few retries and plain words.

Nothing here connects to a place that the user did not name. What servers and libraries say in their errors stays here:
it may hold a signed address.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, TypeVar

from cxr_embed.errors import RemoteError
from cxr_embed.io.addresses import STORES, address_problem, shown_address
from cxr_embed.io.object_faults import fault_of

_T = TypeVar("_T")

# Which package speaks to which service, and what it is installed by.
_PACKAGES = {
    "s3": ("s3fs", "s3fs"),
    "gs": ("gcsfs", "gcsfs"),
    "az": ("adlfs", "adlfs"),
    "https": ("aiohttp", "aiohttp"),
    "http": ("aiohttp", "aiohttp"),
}
CONNECT_SECONDS = 4.0
READ_SECONDS = 12.0  # without a byte; `CXR_EMBED_REMOTE_SECONDS` is another one
_WHOLE_SECONDS = 900.0  # one answer as a whole: nobody waits for a drop a minute
TRIES = 3
_PAUSES = (0.4, 1.6)  # seconds before the second and the third try, and up to half as much again
_WHEN = ("LastModified", "last_modified", "mtime", "updated", "Last-Modified")
AT_ONCE = 16  # requests under way at one time


@dataclass(frozen=True)
class ObjectStamp:
    """What a service says of an object without opening it.

    Attributes:
        size: bytes; -1 where it does not say.
        mtime_ns: when it was written, to the second; 0 where it does not say.
        etag: what changes with the content; blank where it does not say.
    """

    size: int
    mtime_ns: int
    etag: str

    @property
    def mark(self) -> int:
        """The ETag as a negative number of 63 bits, which a file's time of change never is; 0 where there is none."""
        if not self.etag:
            return 0
        return -1 - int.from_bytes(hashlib.sha256(self.etag.encode()).digest()[:8], "big") // 2


def read_seconds() -> float:
    """How long a server may be silent."""
    try:
        return min(600.0, max(0.1, float(os.environ["CXR_EMBED_REMOTE_SECONDS"])))
    except (KeyError, ValueError):
        return READ_SECONDS


def read_object(address: str, most: int) -> tuple[bytes, ObjectStamp]:
    """An object's bytes, and its stamp from before they were read: a change since then shows by it.

    Args:
        address: of the object.
        most: bytes; a larger one is not read.

    Raises:
        RemoteError: where it cannot be read; `too-large` for a larger one.
    """

    def read(system: Any, key: str) -> tuple[bytes, ObjectStamp]:
        stamp = _stamp(_call(system, "_info", key))
        if stamp.size > most:
            raise RemoteError("too-large", f"the object has more than {most:,} bytes")
        # In one answer, so that no object is put together of two states.
        whole = {"max_concurrency": 1} if address.startswith("s3:") else {}
        data: bytes = _call(system, "_cat_file", key, **whole)
        if stamp.size >= 0 and len(data) != stamp.size:
            raise RemoteError("unreachable", f"the server sent {len(data):,} of {stamp.size:,} bytes")
        return data, stamp

    return _tried(address, read)


def object_stamp(address: str) -> ObjectStamp | None:
    """What the service says of an object; None where it is not there.

    Raises:
        RemoteError: where the service does not say.
    """
    try:
        return _tried(address, lambda system, key: _stamp(_call(system, "_info", key)))
    except RemoteError as error:
        if error.kind == "missing":
            return None
        raise


def list_folder(address: str) -> dict[str, ObjectStamp]:
    """Names of the objects right below a folder, with their stamps, from one listing; none where there is nothing.

    Raises:
        RemoteError: where it cannot be listed; `no-bucket` where there is no such bucket.
    """

    def listing(system: Any, key: str) -> dict[str, ObjectStamp]:
        found = _call(system, "_ls", key.rstrip("/"), detail=True)
        return {
            each["name"].rstrip("/").rpartition("/")[2]: _stamp(each) for each in found if each.get("type") == "file"
        }

    try:
        return _tried(address, listing)
    except RemoteError as error:
        if error.kind == "missing":
            return {}
        raise


def list_below(address: str) -> dict[str, ObjectStamp]:
    """Paths of all objects below a folder, relative to it, with their stamps.

    Raises:
        RemoteError: as `list_folder`.
    """

    def listing(system: Any, key: str) -> dict[str, ObjectStamp]:
        top = f"{key.rstrip('/')}/"
        found = _call(system, "_find", key.rstrip("/"), detail=True)
        return {name.removeprefix(top): _stamp(each) for name, each in found.items() if name.startswith(top)}

    try:
        return _tried(address, listing)
    except RemoteError as error:
        if error.kind == "missing":
            return {}
        raise


def write_object(address: str, data: bytes) -> None:
    """Writes an object, and sees to it that the service holds these bytes.

    Raises:
        RemoteError: where it does not.
    """

    def write(system: Any, key: str) -> None:
        _call(system, "_pipe_file", key, data)

    _tried(address, write)
    stamp = object_stamp(address)
    if stamp is not None and stamp.size == len(data) and holds(stamp, data):
        return
    # Encrypted and divided objects have other ETags: what the service holds is read.
    if stamp is None or read_object(address, len(data))[0] != data:
        raise RemoteError("unreachable", f"{shown_address(address)}: holds other bytes than were written")


def holds(stamp: ObjectStamp, data: bytes) -> bool:
    """Whether an object is known to have these bytes: its ETag is their MD5. That of others says nothing."""
    return stamp.etag == hashlib.md5(data, usedforsecurity=False).hexdigest()


def delete_object(address: str) -> None:
    """Deletes an object, if it is there.

    Raises:
        RemoteError: where it cannot be deleted.
    """
    try:
        _tried(address, lambda system, key: _call(system, "_rm_file", key))
    except RemoteError as error:
        if error.kind != "missing":
            raise


def each_at_once(function: Callable[[str], _T], addresses: Iterable[str]) -> list[_T]:
    """A function of addresses, called with several at one time; in their order."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(function, addresses))


# Servers that have just not answered: for a while they are tried once, so that a run over many files ends.
_silent: dict[str, int] = {}
_lock = threading.Lock()


def _tried(address: str, what: Callable[[Any, str], _T]) -> _T:
    """Tries something with an object, again where the fault may pass.

    Raises:
        RemoteError: for what was wrong the last time.
    """
    problem = address_problem(address, given=False)
    if problem is not None:
        raise RemoteError("refused", problem)
    scheme, _, rest = address.partition("://")
    key = address if scheme.startswith("http") else rest
    server = f"{scheme}://{rest.partition('/')[0]}"
    for number in range(TRIES):
        try:
            result = _once(scheme, key, what)
        except RemoteError as error:
            if error.kind != "unreachable":
                raise
            with _lock:
                silent = _silent[server] = _silent.get(server, 0) + 1
            # A silent server has had its time twice, and one that was never there does not come up by waiting.
            if number + 1 >= (2 if error.timed_out else TRIES) or silent > 2 * TRIES:
                raise
            time.sleep(_PAUSES[number] * (1 + random.random() / 2))
        else:
            with _lock:
                _silent.pop(server, None)
            return result
    raise AssertionError


def _once(scheme: str, key: str, what: Callable[[Any, str], _T]) -> _T:
    anonymous = scheme in _anonymous
    try:
        return what(_system(scheme, anonymous), key)
    except RemoteError:
        raise
    except Exception as error:
        fault = fault_of(error, read_seconds())
        if fault.kind == "no-credentials" and scheme == "s3" and not anonymous:
            # Nobody has credentials here: public buckets answer without.
            _anonymous.add(scheme)
            return _once(scheme, key, what)
        raise fault from None


_anonymous: set[str] = set()


def _call(system: Any, name: str, *arguments: Any, **options: Any) -> Any:
    from fsspec.asyn import sync

    return sync(system.loop, getattr(system, name), *arguments, timeout=_WHOLE_SECONDS, **options)


@cache
def _system(scheme: str, anonymous: bool) -> Any:
    """The file system of a service.

    Raises:
        RemoteError: `no-package` where what speaks to it is not installed.
    """
    module, package = _PACKAGES[scheme]
    try:
        import fsspec

        importlib.import_module(module)
    except ImportError:
        install = f"pip install 'cxr-embed[remote]' {package}"
        raise RemoteError("no-package", f"{scheme}:// needs {package}, which is not installed: {install}") from None
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    seconds = read_seconds()
    if scheme == "s3":
        config: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "read_timeout": seconds}
        config |= {"max_pool_connections": 2 * AT_ONCE, "retries": {"total_max_attempts": 1}}
        system = fsspec.filesystem("s3", anon=anonymous, config_kwargs=config, **options)
        system.retries = 1  # `_tried` does it
        return system
    if scheme == "gs":
        return fsspec.filesystem("gs", requests_timeout=seconds, **options)
    if scheme == "az":
        return fsspec.filesystem("az", connection_timeout=CONNECT_SECONDS, read_timeout=seconds, **options)
    return _https(scheme, seconds, options)


def _https(scheme: str, seconds: float, options: Mapping[str, Any]) -> Any:
    import aiohttp
    import fsspec

    async def look(*event: Any) -> None:
        """A server may name another place, but not an open line to it."""
        to = event[-1].response.headers.get("Location", "")
        if (there := re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", to)) and there[1].lower() != scheme:
            kind = there[1].lower()
            raise RemoteError("denied", f"the server points to another place by {kind}, which is not followed")

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(look)
    client = {
        "timeout": aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=seconds),
        "trust_env": scheme == "https",  # proxies, and ~/.netrc
        "trace_configs": [trace],
    }
    # As it stands: `%2e%2e` is not to become a way up.
    return fsspec.filesystem(
        scheme, client_kwargs=client, encoded=True, headers={"Accept-Encoding": "identity"}, **options
    )


def _stamp(info: Mapping[str, Any]) -> ObjectStamp:
    """An object's stamp from what fsspec's file systems say of it, each in words of its own."""
    if info.get("type") == "directory":
        raise FileNotFoundError
    size = info.get("size")
    etag = next((info[name] for name in ("ETag", "etag") if info.get(name)), "")
    when = next((info[name] for name in _WHEN if info.get(name)), None)
    return ObjectStamp(int(size) if size is not None else -1, _second(when), str(etag).removeprefix("W/").strip('"'))


def _second(when: Any) -> int:
    """A time in ns, to the second: listings have parts of seconds, and headers have not."""
    try:
        if isinstance(when, str):
            when = parsedate_to_datetime(when) if when[:1].isalpha() else datetime.fromisoformat(when)
        if when is None:
            return 0
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return int(when.timestamp()) * 10**9
    except (ValueError, TypeError, AttributeError, OverflowError):
        return 0


def can_write(address: str) -> bool:
    """Whether there is a service at an address that takes what is written."""
    return address.partition("://")[0] in STORES
