"""Who may call the case browser, and what a browser may do with its answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_world import ADDRESS, PORT, Visitor, close, make_hostile, visitor

from cxr_embed.web.security import COOKIE, Access, Attempts, names_of
from cxr_embed.web.serving import is_local

TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hostile(tmp_path_factory.mktemp("guarded"))


@pytest.fixture(scope="module")
def open_door(folder: Path) -> Iterator[Visitor]:
    made = visitor(folder)
    yield made
    close([made])


def guarded(folder: Path, **access: Any) -> Visitor:
    return Visitor(visitor(folder).site, token=TOKEN, **access)


@pytest.mark.parametrize(
    ("host", "known"),
    [
        (f"127.0.0.1:{PORT}", True),
        (f"localhost:{PORT}", True),
        (f"LOCALHOST:{PORT}", True),
        (f"[::1]:{PORT}", True),
        (f"evil.example:{PORT}", False),
        (f"localhost.evil.example:{PORT}", False),
        ("127.0.0.1", False),
        (f"127.0.0.1:{PORT + 1}", False),
        (f"evil.example@127.0.0.1:{PORT}", False),
        (f"192.0.2.7:{PORT}", False),
        ("", False),
        ("[", False),
        ("127.0.0.1:port", False),
    ],
)
def test_names_that_point_here_are_not_served(open_door: Visitor, host: str, known: bool) -> None:
    answer = open_door.client.get("/", headers={"host": host})
    assert answer.status_code == (200 if known else 421)


def test_a_server_of_all_addresses_is_called_by_address() -> None:
    access = Access(names=names_of("0.0.0.0", ["Reading-Room"]), addresses=True, port=PORT)
    assert access.knows(f"192.0.2.7:{PORT}")
    assert access.knows(f"[2001:db8::1]:{PORT}")
    assert access.knows(f"reading-room:{PORT}")
    assert not access.knows(f"evil.example:{PORT}")
    proxied = Access(names=names_of("127.0.0.1", ["cases.example.org"]), secure=True)
    assert proxied.knows("cases.example.org")
    assert proxied.knows("cases.example.org:8443")
    assert not proxied.knows("evil.example")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),  # a program of one's own; nothing to decode was sent
        ({"origin": ADDRESS}, 400),
        ({"origin": ADDRESS, "sec-fetch-site": "same-origin"}, 400),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": f"https://127.0.0.1:{PORT}"}, 403),
        ({"origin": f"http://127.0.0.1:{PORT + 1}"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_posts_of_other_sites_are_refused(open_door: Visitor, headers: dict[str, str], status: int) -> None:
    assert open_door.client.post("/api/upload", content=b"x", headers=headers).status_code == status


def test_another_site_may_link_here_but_embed_nothing(open_door: Visitor) -> None:
    visits = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert open_door.client.get("/", headers=visits).status_code == 200
    for mode, dest in (("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe"), ("no-cors", "script")):
        embeds = {"sec-fetch-site": "cross-site", "sec-fetch-mode": mode, "sec-fetch-dest": dest}
        assert open_door.client.get("/api/picture?case=c1", headers=embeds).status_code == 403


@pytest.mark.parametrize("address", ["/", "/nothing", "/api/search", "/api/picture?case=x", "/static/app.js", "/?k=x"])
def test_every_answer_has_the_headers(open_door: Visitor, address: str) -> None:
    answer = open_door.client.get(address)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] in ("no-store", "no-cache")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("address", ["/", "/endpoints", "/nothing", "/?case=c1&view=PA"])
def test_pages_need_no_inline_script_or_style(open_door: Visitor, address: str) -> None:
    page = open_door.client.get(address).text
    for mark in ("<style", " style=", "javascript:", " onclick", " onload", "hx-on", "<script>"):
        assert mark not in page
    assert "://" not in page.replace("http://www.w3.org", "")  # nothing of another host


def test_static_files_are_kept_by_their_contents(open_door: Visitor) -> None:
    page = open_door.client.get("/").text
    address = page.split('stylesheet" href="')[1].split('"')[0]
    assert "immutable" in open_door.client.get(address).headers["cache-control"]
    assert open_door.client.get("/static/app.css?v=other").headers["cache-control"] == "no-cache"
    assert open_door.client.get("/static/..%2Fapp.py").status_code == 404
    assert open_door.client.get("/static/../app.py").status_code == 404


def test_a_token_is_asked_for(folder: Path) -> None:
    made = guarded(folder)
    assert made.client.get("/").status_code == 401
    assert "token" in made.client.get("/").text.lower()
    assert made.client.get("/api/search").status_code == 401
    assert made.client.post("/api/upload", content=b"x").status_code == 401
    assert made.client.get("/static/app.css").status_code == 200  # so that the page that asks has a face
    assert made.client.get("/?token=wrong").status_code == 401
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert made.client.get("/api/search", headers=bearer).status_code == 200
    assert made.client.get("/api/search", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert not made.client.cookies


def test_the_cookie_is_no_script_s_and_not_the_token(folder: Path) -> None:
    made = guarded(folder)
    welcome = made.client.get(f"/?case=c1&token={TOKEN}")
    cookie = welcome.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert TOKEN not in cookie
    assert TOKEN not in welcome.text
    assert 'content="0; url=/?case=c1"' in welcome.text
    assert made.client.get("/?case=c1").status_code == 200
    made.client.cookies.set(COOKIE, "x" * 43)
    made.client.cookies.delete(COOKIE, domain="127.0.0.1")
    assert guarded(folder).client.get("/", headers={"cookie": f"{COOKIE}=made-up"}).status_code == 401
    secure = guarded(folder, secure=True, port=0).client.get(f"/?token={TOKEN}")
    assert "Secure" in secure.headers["set-cookie"]


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "/%5Cevil.example", "/%2F%2Fevil.example"])
def test_the_welcome_leads_nowhere_else(folder: Path, path: str) -> None:
    page = guarded(folder).client.get(f"{path}?token={TOKEN}").text
    assert "url=//" not in page
    assert "url=/\\" not in page


def test_guessing_is_slowed_down(folder: Path) -> None:
    made = guarded(folder)
    answers = [made.client.get(f"/api/index?token=guess{number}").status_code for number in range(12)]
    assert answers == [401] * 10 + [429] * 2
    assert made.client.get(f"/api/index?token={TOKEN}").status_code == 429  # not even the right one tells
    now = [0.0]
    attempts = Attempts(each=2, every=3, seconds=60, now=lambda: now[0])
    attempts.failed("a")
    attempts.failed("a")
    assert attempts.too_many("a")
    assert not attempts.too_many("b")
    attempts.failed("c")
    assert attempts.too_many("b")
    now[0] = 61
    assert not attempts.too_many("a")


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.0.0.2", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False)],
)
def test_which_addresses_are_this_machine_s(host: str, local: bool) -> None:
    assert is_local(host) is local
