"""From paths to a running server: everything is opened and checked before the first page is asked for."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import uvicorn
from starlette.types import ASGIApp

from cxr_embed.api.probe import load_probe
from cxr_embed.api.screen import PromptSource, prompts_of
from cxr_embed.errors import CxrEmbedError, EncoderError, StoreError
from cxr_embed.explanation.measured import load_measured
from cxr_embed.marks import READER, ReaderMarks, check_marks, marks_path
from cxr_embed.probe.features import ProbeError
from cxr_embed.store import open_store
from cxr_embed.thumbnails import Thumbnails, is_thumbnails, thumbnails_path
from cxr_embed.types import CxrImage, EncoderSpec
from cxr_embed.web.decoding import Decoders
from cxr_embed.web.encoders import ServerEncoders
from cxr_embed.web.explaining import Explanations
from cxr_embed.web.pictures import Pictures, read_places
from cxr_embed.web.scores import Scores
from cxr_embed.web.site import Site
from cxr_embed.web.state import State
from cxr_embed.web.uploads import Uploads

_GRACE = 30  # seconds in which requests may end after SIGTERM
_DECODERS = 2


class ServerError(CxrEmbedError):
    """A server that cannot be started."""


@dataclass(frozen=True)
class Tls:
    """The files of a certificate.

    Attributes:
        certificate: and its chain, as PEM.
        key: of it, as PEM.
    """

    certificate: Path
    key: Path

    def check(self) -> None:
        """Reads both.

        Raises:
            ServerError: where they cannot be read, or do not belong together.
        """
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key, password="")
        except OSError as error:  # an SSLError too
            raise ServerError(f"{self.certificate}, {self.key}: not a certificate and its key ({error})") from None


def open_site(
    index: Path,
    *,
    manifest: Path | None = None,
    root: Path | None = None,
    store: Path | None = None,
    probe: Path | None = None,
    prompts: PromptSource | None = None,
    weights: Path | None = None,
    device: str = "auto",
    reader: str = READER,
    thumbnails: Path | None = None,
    say: Callable[[str], None] | None = None,
    measured: Path | None = None,
) -> Site:
    """Opens what pages are made of.

    Args:
        index: the index's folder.
        manifest: which says where each case's radiograph is; no pictures without one.
        root: folder of the radiographs, if not the manifest's own.
        store, probe, prompts: for the pages of scores.
        weights, device: of the encoder, for pictures and words.
        reader: whose marks are shown and made.
        thumbnails: a folder where those of the radiographs that are shown are kept; the one beside the index by
            default, where there is one.
        say: is given a sentence where that is no longer possible.
        measured: what `explain evaluate --json` printed, for the page of heat maps.

    Raises:
        CxrEmbedError: where something is missing, damaged or made for another encoder.
    """
    # Whole paths: what a page says of a fault has another word in their place.
    state = State(index.absolute(), encoders=ServerEncoders(weights, device))
    spec = state.current().index.spec
    if store is not None:
        state.store = open_store(store)
        _check_same(str(store), state.store.spec, spec, StoreError)
    if probe is not None:
        state.probe = load_probe(probe).trained
        _check_same(str(probe), state.probe.spec, spec, ProbeError)
    if prompts is not None:
        if spec.text is None:
            raise EncoderError(f"`prompts`: {spec.name} embeds no words; `cxr-embed encoders` says which do")
        state.prompts, by_question = prompts_of(prompts)
        state.score = "margin" if by_question else None
    scores = Scores(state)
    named = {"index": index, "store": store, "probe": probe, "prompts": prompts}
    scores.check({name: str(given) for name, given in named.items()})
    marks = ReaderMarks(marks_path(index), reader)
    check_marks(marks.path)
    decoders = Decoders(_DECODERS)
    pictures = Pictures(Path(os.devnull), {}, decoders)
    if manifest is not None:
        pictures = Pictures(*read_places(state.current().index, manifest, root), decoders)
        pictures.thumbnails = _thumbnails(index, thumbnails, say)
    return Site(
        state=state,
        pictures=pictures,
        uploads=Uploads(decoders),
        marks=marks,
        scores=scores,
        explanations=Explanations(state, measured=load_measured(measured) if measured is not None else None),
    )


def _thumbnails(index: Path, named: Path | None, say: Callable[[str], None] | None) -> Thumbnails | None:
    """The folder that was named, or the one beside the index where there is one."""
    if named is not None:
        return Thumbnails.make(named, say)
    beside = thumbnails_path(index)
    return Thumbnails(beside, say) if is_thumbnails(beside) else None


def _check_same(what: str, other: EncoderSpec, spec: EncoderSpec, error: type[CxrEmbedError]) -> None:
    if other.fingerprint != spec.fingerprint:
        raise error(
            f"{what}: of {other.name} [{other.fingerprint[:12]}], and the index is of {spec.name} "
            f"[{spec.fingerprint[:12]}]; give one of the same encoder"
        )


def warm(site: Site) -> list[str]:
    """Loads the encoders and starts a decoder, so that the first reader need not wait.

    Returns:
        What cannot be searched for here, and why, in sentences; the rest can.
    """
    site.pictures.decoders.start()
    index = site.state.current().index
    notes = []
    try:
        encoder = site.state.encoders.of_images(index.spec)
        blank = CxrImage(pixels=np.zeros((256, 256), np.uint8), bits=8, content_id="", source="png")
        given = encoder.preprocess(blank)
        encoder.embed([given] if given.ndim == 1 and given.dtype == np.uint8 else given[None])
    except CxrEmbedError as error:
        notes.append(f"pictures cannot be searched for: {error}")
    if index.spec.text is not None and index.spec.text.output == index.output:
        try:
            site.state.encoders.of_texts(index.spec).embed_text(["effusion"])
        except CxrEmbedError as error:
            notes.append(f"only words that came along with the index can be searched for: {error}")
    return notes


def is_local(host: str) -> bool:
    """Whether only this machine can reach such an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any that is free.

    Raises:
        ServerError: where it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ServerError(f"port {port} of {host} cannot be listened on ({why}); give another `port`") from None


def server_of(app: ASGIApp, tls: Tls | None = None) -> uvicorn.Server:
    """A server whose `run(sockets=[...])` ends with SIGINT or SIGTERM; requests that are on their way are finished."""
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=_GRACE,
        ssl_certfile=tls.certificate if tls is not None else None,
        ssl_keyfile=tls.key if tls is not None else None,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """A server that ends in good order: a signal that it has heeded is not raised once more."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """While it serves, the two signals end it."""
        if threading.current_thread() is not threading.main_thread():  # which alone may take signals
            yield
            return
        handler: Callable[[int, FrameType | None], Any] = self.handle_exit
        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, was in before.items():
                signal.signal(number, was)
