"""Who may call, and what a browser may do with the answers: looked at before any page is.

The rules: a `Host` that we serve (else a name that points here would make this a page of another site's), nothing that
another site's page sends or embeds, a token where one is set, and headers that let a page run our own files alone.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "cxr_embed_visit"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_STORE = ("cache-control", "no-store")  # pages and pictures are a reader's, not the browser's
_SAFE = ("GET", "HEAD", "OPTIONS")
STATIC = "/static/"


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may call.

    Attributes:
        names: host names by which the server is called, in small letters, without ports.
        addresses: whether any IP address will do: the server listens on several.
        port: that it listens on; 0 where a proxy is called in its place, on whatever port.
        secure: whether browsers come by https.
        token: without which nobody is let in; blank for none.
    """

    names: frozenset[str]
    addresses: bool = False
    port: int = 0
    secure: bool = False
    token: str = ""
    visit: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def knows(self, host: str) -> bool:
        """Whether a `Host` header names this server."""
        try:
            parts = urlsplit(f"//{host}")
            name, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            return False
        if not name or "@" in host or "/" in host:
            return False
        if self.port and (port if port is not None else (443 if self.secure else 80)) != self.port:
            return False
        return name in self.names or (self.addresses and _is_address(name))

    def is_ours(self, origin: str, host: str) -> bool:
        """Whether an `Origin` header is the page that was called by this `Host`."""
        return origin == f"{'https' if self.secure else 'http'}://{host}"

    def lets_in(self, given: str) -> bool:
        """Whether this is the token; takes as long for any other one."""
        return hmac.compare_digest(given.encode(), self.token.encode())

    def has_visited(self, cookie: str) -> bool:
        """Whether this cookie is of a visit with the token, since the server was started."""
        return hmac.compare_digest(cookie.encode(), self.visit.encode())


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Attempts:
    """Wrong tokens of late: too many, from one place or from all, and none is looked at for a while.

    Args:
        each: of one client, and `every`: of all, in `seconds`.
        now: seconds of a clock that only goes on.
    """

    def __init__(
        self, each: int = 10, every: int = 200, seconds: float = 60.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._each, self._every, self._seconds, self._now = each, every, seconds, now
        self._failed: deque[tuple[float, str]] = deque()

    def failed(self, client: str) -> None:
        """Notes a wrong token."""
        self._failed.append((self._now(), client))

    def too_many(self, client: str) -> bool:
        """Whether to look at no more for now."""
        while self._failed and self._now() - self._failed[0][0] > self._seconds:
            self._failed.popleft()
        return len(self._failed) >= self._every or sum(who == client for _, who in self._failed) >= self._each


class Guard:
    """Answers in place of the application where somebody may not call; puts the headers on every answer.

    Args:
        app: that is guarded.
        access: who may call.
        entrance: makes the page for a visitor without a token, or with one (`True`): it goes on by itself.
    """

    def __init__(
        self, app: ASGIApp, access: Access, entrance: Callable[[bool, str], str], attempts: Attempts | None = None
    ) -> None:
        self._app, self._access, self._entrance = app, access, entrance
        self._attempts = attempts or Attempts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.setdefault("headers", [])
                there = {name.lower() for name, _ in headers}
                extra = [*HEADERS.items(), _STORE]
                headers += [(n.encode(), v.encode()) for n, v in extra if n.encode() not in there]
            await send(message)

        request = Request(scope)
        refusal = self._refusal(request)
        await (refusal or self._app)(scope, receive, with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """The answer to a call that is not let through."""
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not self._access.knows(hosts[0]):
            return _refused(421, "this server is not called by that name; docs/browser.md says how to name it")
        if self._from_elsewhere(request, hosts[0]):
            return _refused(403, "another site's page sent this")
        if not self._access.token or request.url.path.startswith(STATIC):
            return None
        return self._without_token(request)

    def _from_elsewhere(self, request: Request, host: str) -> bool:
        site = request.headers.get("sec-fetch-site", "none")
        origin = request.headers.get("origin")
        if request.method not in _SAFE:
            return site not in ("none", "same-origin") or (
                origin is not None and not self._access.is_ours(origin, host)
            )
        # A link on another page may lead here; an image, a script or a fetch there may not.
        visits = (
            request.headers.get("sec-fetch-mode") == "navigate" and request.headers.get("sec-fetch-dest") == "document"
        )
        return site in ("cross-site", "same-site") and not visits

    def _without_token(self, request: Request) -> Response | None:
        if self._access.has_visited(_cookie_of(request)):
            return None
        client = request.client.host if request.client else ""
        bearer = request.headers.get("authorization", "").partition(" ")
        given = request.query_params.get("token") or (bearer[2] if bearer[0].lower() == "bearer" else "")
        if not given:
            return self._entrance_to(request, 401)
        if self._attempts.too_many(client):
            return _refused(429, "too many wrong tokens; wait a minute", {"retry-after": "60"})
        if not self._access.lets_in(given):
            self._attempts.failed(client)
            return self._entrance_to(request, 401)
        return None if "token" not in request.query_params else self._welcome(request)

    def _entrance_to(self, request: Request, status: int) -> Response:
        if request.url.path.startswith("/api/"):
            return _refused(status, "a token is needed: Authorization: Bearer TOKEN", {"www-authenticate": "Bearer"})
        return Response(self._entrance(False, "/"), status, media_type="text/html")

    def _welcome(self, request: Request) -> Response:
        """Sets the cookie. The page goes on by itself: a redirect from a link elsewhere would not bring it along."""
        left = [pair for pair in parse_qsl(request.url.query, keep_blank_values=True) if pair[0] != "token"]
        path = "/" + quote(request.url.path.lstrip("/\\"), safe="/")  # one slash: two would name another host
        answer = Response(self._entrance(True, f"{path}?{urlencode(left)}" if left else path), media_type="text/html")
        answer.set_cookie(
            COOKIE, self._access.visit, httponly=True, samesite="strict", secure=self._access.secure, path="/"
        )
        return answer


def _cookie_of(request: Request) -> str:
    try:
        found = SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _refused(status: int, why: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": why}, status, headers)


def names_of(host: str, given: Sequence[str]) -> frozenset[str]:
    """The names by which a server that listens on a host is called: its own, and those that were given."""
    own = ("localhost", "127.0.0.1", "::1") if host in ("127.0.0.1", "localhost", "::1") else ()
    return frozenset(name.lower() for name in (host, *own, *given) if name not in ("0.0.0.0", "::"))
