"""Addresses of objects: what is one, which are refused, and how they are written down without a secret in them."""

from __future__ import annotations

import ipaddress
import os
import re
from urllib.parse import quote, unquote, urlsplit

STORES = ("s3", "gs", "az")  # services that keep objects in buckets: they list, and take what is written
SCHEMES = (*STORES, "https", "http")
# A Path has made one slash of two.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")


def address_of(path: str | os.PathLike[str]) -> str | None:
    """`s3://bucket/key` of a path that is such an address; None for a path on this machine.

    Nothing is looked for. `pathlib.Path("s3://bucket/key")` has one slash less, and is the same address.
    """
    match = _ADDRESS.fullmatch(os.fspath(path))
    if match is None or match[1].lower() not in SCHEMES:
        return None
    return f"{match[1].lower()}://{match[2]}"


def shown_address(address: str | os.PathLike[str]) -> str:
    """An address as a message may have it: without a user, a password or what follows a question mark."""
    match = _ADDRESS.fullmatch(os.fspath(address))
    if match is None:
        return os.fspath(address)
    authority, slash, rest = match[2].partition("/")
    plain = re.split(r"[?#]", f"{authority.rpartition('@')[2]}{slash}{rest}", maxsplit=1)[0]
    return f"{match[1].lower()}://{plain}"


def address_problem(address: str, *, given: bool = True) -> str | None:
    """Why an address is refused, in words without the secret in it; None for one that can be used.

    Credentials come from where the service's own tools look for them: an address with some is refused, since addresses
    stand in manifests, logs and the shell's history.

    Args:
        address: as `address_of` gives it.
        given: by a user as it is, not made of a root and a path: a key of a bucket may have a question mark in it.
    """
    scheme, _, rest = address.partition("://")
    authority, _, key = rest.partition("/")
    shown = shown_address(address)
    if "@" in authority:
        return (
            f"{shown}: given with a user or a password in it; name the address alone, credentials are taken from "
            "the environment or their usual files"
        )
    web = scheme.startswith("http")
    if (web and re.search(r"[?#]", rest)) or (given and "?" in rest):
        return f"{shown}: given with a query (?...), which may be a signature; name the address without it"
    if _UNSAFE.search(address):
        return f"{shown!r}: an address with a control character"
    if not authority:
        return f"{shown}: no bucket or host is named in it"
    if ".." in re.split(r"[/\\]", unquote(key) if web else key):
        return f"{shown}: an address with '..' in it"
    if scheme == "http" and not _is_loopback(address):
        return f"{shown}: http is read from this machine alone, anybody on the way could change it; use https"
    return None


def joined(root: str | os.PathLike[str], path: str) -> str:
    """A file by its root and its path below it, either of which may be an address.

    A path below an https address is a file's name, not yet a part of an address: `50%.png` is written `50%25.png`.
    """
    if (whole := address_of(path)) is not None:
        return whole
    top = address_of(root)
    if top is None:
        return f"{os.fspath(root)}/{path}"
    return f"{top.rstrip('/')}/{quote(path) if top.startswith('http') else path}"


def is_below(root: str | os.PathLike[str], address: str) -> bool:
    """Whether an address lies below another one."""
    top = address_of(root)
    return top is not None and address.startswith(f"{top.rstrip('/')}/")


def _is_loopback(address: str) -> bool:
    try:
        host = urlsplit(address).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
