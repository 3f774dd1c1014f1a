"""SHA-256 of bytes, files and JSON values, as stores, indexes and probes keep them."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def sha256_hex(data: bytes) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def short_digest(data: bytes) -> str:
    """The 16 hexadecimal digits with which a file's or folder's name vouches for what is in it."""
    return sha256_hex(data)[:16]


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, read in pieces.

    Raises:
        OSError: where it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_record(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as records of shards and of indexes hold them: `bytes`, `sha256`.

    Raises:
        OSError: where it cannot be read.
    """
    with open(path, "rb") as file:
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def json_digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return sha256_hex(canonical_json(value))


def with_digest(body: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values with a digest over all of them, which `digest_fits` looks at."""
    return {**body, "digest": _ascii_digest(json.loads(json.dumps(body)))}


def digest_fits(body: Mapping[str, Any]) -> bool:
    """Whether JSON values are those that were written; also where nobody wrote a digest, as earlier releases did."""
    rest = {name: value for name, value in body.items() if name != "digest"}
    return "digest" not in body or body["digest"] == _ascii_digest(rest)


def _ascii_digest(body: Mapping[str, Any]) -> str:
    # In ASCII: half a character, which damage can make, has no bytes in UTF-8.
    return sha256_hex(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())


def keyed_hash(identifier: str, key: bytes) -> str:
    """HMAC-SHA-256 of an identifier, 16 hexadecimal digits: the same id and key give the same result everywhere."""
    return hmac.new(key, identifier.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()[:16]
