"""A real S3 server on this machine, what it was asked, and servers that are silent or break off."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass
class Bucket:
    """A bucket of a server, and the requests that the server has had: `GET /bucket/key`."""

    name: str
    client: Any
    requests: list[str]
    fail: dict[str, Callable[[Any], Any]] = field(default_factory=dict)  # path of a request: what is answered instead

    @property
    def address(self) -> str:
        return f"s3://{self.name}"

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.name, Key=key)["Body"].read())

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [each["Key"] for page in pages for each in page.get("Contents", ())]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def opened(self) -> list[str]:
        """Requests that read an object."""
        return [line for line in self.requests if line.startswith("GET ") and "list-type" not in line]

    def listings(self) -> list[str]:
        return [line for line in self.requests if "list-type" in line]


@contextlib.contextmanager
def s3_server() -> Iterator[tuple[str, list[str], dict[str, Any]]]:
    """moto's server on a free port of this machine: its address, the requests and what to answer in its place."""
    requests: list[str] = []
    instead: dict[str, Any] = {}
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server
    from werkzeug.wrappers import Response

    backend = DomainDispatcherApplication(create_backend_app)

    def application(environ: dict[str, Any], start: Any) -> Any:
        query = f"?{environ['QUERY_STRING']}" if environ.get("QUERY_STRING") else ""
        requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}{query}")
        answer = instead.get(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        if answer is not None and (status := answer()) is not None:
            return Response("<Error><Code>AccessDenied</Code></Error>" if status == 403 else "", status)(environ, start)
        return backend(environ, start)

    class Quiet(WSGIRequestHandler):
        def log(self, *arguments: Any) -> None:
            pass

    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}", requests, instead
    finally:
        server.shutdown()
        thread.join()


def forget_connections() -> None:
    """What a process keeps of servers: the tests' own process meets many of them."""
    from cxr_embed.io import objects

    objects._system.cache_clear()
    objects._silent.clear()
    objects._anonymous.clear()


def s3_environment(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "testing"),
        ("AWS_SECRET_ACCESS_KEY", "hushhush-secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("NO_PROXY", "127.0.0.1,localhost"),
        ("CXR_EMBED_REMOTE_SECONDS", "1"),
    ):
        monkeypatch.setenv(name, value)
    forget_connections()


def boto_client(endpoint: str) -> Any:
    import boto3

    return boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="testing", aws_secret_access_key="x")


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """A socket that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def dead_address() -> str:
    """Where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def web_server(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A plain web server of this machine, which answers GET and HEAD by a function."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
