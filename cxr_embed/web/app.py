"""The application: the pages and the API behind their guard."""

from __future__ import annotations

import importlib
import time
import traceback
from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cxr_embed.errors import CxrEmbedError
from cxr_embed.telemetry import FASTAPI
from cxr_embed.types import RESEARCH
from cxr_embed.version import __version__
from cxr_embed.web import files
from cxr_embed.web.explaining import Busy
from cxr_embed.web.pages import PAGES
from cxr_embed.web.search import UploadGone
from cxr_embed.web.security import Access, Guard
from cxr_embed.web.site import Site
from cxr_embed.web.state import OtherGeneration

Log = Callable[[str], None]
_STATUS: dict[type[CxrEmbedError], int] = {UploadGone: 410, OtherGeneration: 409, Busy: 503}


def make_app(site: Site, access: Access, log: Log) -> ASGIApp:
    """The whole of it.

    Args:
        site: what its pages are made with.
        access: who may call.
        log: is given a line for each request: no query, no body, and of the path only what a route is called.
    """
    app = FastAPI(
        title="cxr_embed",
        version=__version__,
        description=RESEARCH,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        telemetry=FASTAPI,
    )
    app.include_router(files.router(site))
    for page in PAGES:
        app.include_router(importlib.import_module(f"cxr_embed.web.{page.module}").router(site))
    _answer_faults(app, site)

    def entrance(welcome: bool, address: str) -> str:
        name = "welcome.html" if welcome else "entrance.html"
        return bytes(site.page(name, here="", address=address).body).decode()

    return _Logged(Guard(app, access, entrance), log)


def _answer_faults(app: FastAPI, site: Site) -> None:
    """What goes wrong is said in a sentence: as JSON by the API, else as a page."""

    def answer(request: Request, status: int, why: str) -> Response:
        if request.url.path.startswith("/api/"):
            return JSONResponse({"error": why}, status)
        return site.page("fault.html", status, here="", why=why)

    @app.exception_handler(CxrEmbedError)
    async def known(request: Request, fault: CxrEmbedError) -> Response:
        status = next((status for kind, status in _STATUS.items() if isinstance(fault, kind)), 400)
        return answer(request, status, site.words(fault))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, fault: RequestValidationError) -> Response:
        first = fault.errors()[0]
        return answer(request, 422, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def http(request: Request, fault: HTTPException) -> Response:
        return answer(request, fault.status_code, "there is no such page" if fault.status_code == 404 else fault.detail)

    @app.exception_handler(Exception)
    async def unknown(request: Request, fault: Exception) -> Response:
        # Its text may hold anything; the log of the server has the traceback.
        return answer(request, 500, f"the server failed ({type(fault).__name__})")


class _Logged:
    """Tells of each request: when, what, the status, how long; of a fault of ours where it was, never its text."""

    def __init__(self, app: ASGIApp, log: Log) -> None:
        self._app, self._log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, started = 0, time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as fault:  # answered already, as a page that says so
            places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(fault.__traceback__)]
            self._log(f"fault: {type(fault).__name__}, {' < '.join(places[:-6:-1])}")
        finally:
            # A path that is no route's may be anything, a name too.
            route = getattr(scope.get("route"), "path", None) or "(no page)"
            taken = (time.perf_counter() - started) * 1000
            self._log(f"{time.strftime('%H:%M:%S')} {scope['method'][:8]} {route} {status} {taken:.0f} ms")
