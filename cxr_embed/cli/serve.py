"""`cxr-embed serve`."""

from __future__ import annotations

import importlib.util
import secrets
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_embed.cli import options
from cxr_embed.cli.common import RESEARCH, fail
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.web.serving import Tls
    from cxr_embed.web.site import Site

EXAMPLE = "Example: `cxr-embed serve index/mini --manifest cases/manifest.csv`"
PORT = 8750
_SHORTEST = 16  # characters of a token
_ANYWHERE = ("0.0.0.0", "::")


def serve(
    index: options.IndexPath,
    manifest: Annotated[
        Path | None, typer.Option(help="Where each case's radiograph is; no pictures without it.", show_default=False)
    ] = None,
    root: options.Root = None,
    store: Annotated[Path | None, typer.Option(help="Its store, for the pages of scores.", show_default=False)] = None,
    probe: Annotated[Path | None, typer.Option(help="A probe, for the pages of scores.", show_default=False)] = None,
    prompts: Annotated[
        str | None, typer.Option(help="A set of prompts or a .yaml, for the pages of scores.", show_default=False)
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(help="What `explain evaluate --json` printed: said beside such heat maps.", show_default=False),
    ] = None,
    weights: options.Weights = None,
    device: options.Device = "auto",
    reader: Annotated[str, typer.Option(help="Whose marks are shown and made.")] = "reader",
    thumbnails: Annotated[
        Path | None,
        typer.Option(
            help="Folder where small pictures of what was shown are kept; the one beside the index by default, where "
            "`index build --thumbnails` made it.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; any but this machine's own asks for a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any that is free.")] = PORT,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="CXR_EMBED_TOKEN", show_default=False, help="Whoever visits has to give it; made where it is needed."
        ),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate for https, as PEM.", show_default=False)] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key.", show_default=False)] = None,
    behind_proxy: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default=False, help="A proxy does https, and browsers call it by this name."),
    ] = None,
) -> None:
    """Browse the cases of an index in a web page: search by picture, words or case, with filters.

    Only this machine can reach it, unless --host says otherwise. Nothing is asked of any other host, and nothing that
    is dropped on the page is written to disk. Ctrl-C ends it.
    """
    if thumbnails is not None and manifest is None:
        fail("--thumbnails needs --manifest: without it there are no pictures", 2)
    if root is not None and manifest is None:
        fail("--root needs --manifest: the table that says where each case's radiograph is", 2)
    if root is not None and not root.is_dir():
        fail(f"{root}: no such folder (--root)", 2)
    if missing := [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]:
        fail(f"serve needs {' and '.join(missing)}: pip install 'cxr-embed[web]'", 2)
    from cxr_embed.web import serving

    outside = not serving.is_local(host) or behind_proxy is not None
    token = _token(token, outside)
    if (tls_cert is None) != (tls_key is None):
        fail("--tls-cert and --tls-key: give both", 2)
    tls = serving.Tls(tls_cert, tls_key) if tls_cert is not None and tls_key is not None else None
    if not serving.is_local(host) and tls is None and behind_proxy is None:
        fail(
            f"--host {host}: other machines reach it, so give --tls-cert and --tls-key, "
            "or --behind-proxy NAME where a proxy does https",
            2,
        )
    if tls is not None:
        tls.check()
    site = serving.open_site(
        index,
        manifest=manifest,
        root=root,
        store=store,
        probe=probe,
        prompts=prompts,
        weights=weights,
        device=device,
        reader=reader,
        thumbnails=thumbnails,
        say=lambda line: typer.echo(f"note: {line}", err=True),
        measured=measured,
    )
    with serving.listening(host, port) as listener:
        try:
            for note in serving.warm(site):
                typer.echo(f"note: {note}", err=True)
            _serve(site, listener, host, token, tls, behind_proxy)
        finally:
            site.close()


def _token(given: str | None, outside: bool) -> str:
    if given is not None and len(given) < _SHORTEST:
        fail(f"--token has {counted(len(given), 'character')}, and needs {_SHORTEST}; without it one is made", 2)
    return given or (secrets.token_urlsafe(24) if outside else "")


def _serve(site: Site, listener: socket.socket, host: str, token: str, tls: Tls | None, proxy: str | None) -> None:
    from cxr_embed.web.app import make_app
    from cxr_embed.web.security import Access, names_of
    from cxr_embed.web.serving import server_of

    port = listener.getsockname()[1]
    secure = tls is not None or proxy is not None
    names = names_of(host, [proxy] if proxy else [socket.gethostname()] if host in _ANYWHERE else [])
    access = Access(names=names, addresses=host in _ANYWHERE, port=0 if proxy else port, secure=secure, token=token)
    shown = f"[{host}]" if ":" in host else host
    place = proxy or f"{socket.gethostname() if host in _ANYWHERE else shown}:{port}"
    index = site.state.current().index
    typer.echo(f"{counted(len(index), 'case')} of {index.spec.name}")
    typer.echo(f"{'https' if secure else 'http'}://{place}/{f'?token={token}' if token else ''}")
    typer.echo(f"{RESEARCH} Ctrl-C ends it.")
    sys.stdout.flush()
    server_of(make_app(site, access, lambda line: typer.echo(line, err=True)), tls).run(sockets=[listener])
