"""Sites for the tests of `serve`: phantoms with their encoder, and cases whose texts are hostile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from index_world import make_store
from typer.testing import CliRunner

from cxr_embed import open_store
from cxr_embed.cli import app as verbs
from cxr_embed.index.faiss.build import build_index
from cxr_embed.manifest import Manifest

pytest.importorskip("fastapi", reason="needs cxr-embed[web]")

from starlette.testclient import TestClient

from cxr_embed.web.app import make_app
from cxr_embed.web.security import Access, names_of
from cxr_embed.web.serving import open_site, server_of
from cxr_embed.web.site import Site

PORT = 8750
ADDRESS = f"http://127.0.0.1:{PORT}"
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
SECRET = "Doe^Jane"


# Of each page, addresses that show what it has; `{0}`, `{1}`, ... are cases. A page without a row is visited bare.
SAMPLES = {
    "/": (
        "/?case={0}&not_words=zzqx&view=PA&view=AP&k=2",
        "/?words=effusion&age_from=1&one_per_patient=true&k=1",
        "/?where=x",
    ),
    "/compare": ("/compare?id={0}&id={1}&id=nobody", "/compare", "/compare?id=a&id=b&id=c&id=d&id=e"),
    "/explain": ("/explain?case={0}&for=words:effusion", "/explain?case={0}&for=like:{1}", "/explain"),
    "/screen": (
        "/screen?finding=Effusion&by=prompts&threshold=flag-rate%3D0.3&prevalence=0.02",
        "/screen?finding=nothing",
        "/screen",
    ),
    "/map": ("/map", "/map?by=column&name=view&where=view+%3D+PA"),
    "/marks": ("/marks", "/marks?finding=Effusion&label=yes", "/marks?list=nothing"),
}


def samples(path: str, ids: Sequence[str]) -> list[str]:
    """Addresses of a page, with cases of an index in them."""
    return [address.format(*ids) for address in SAMPLES.get(path, (path,))]


def make_phantoms(folder: Path, count: int = 24) -> Path:
    """`cases/manifest.csv`, `store` of mini and `index`, with the command line."""
    cases, store, index = (str(folder / name) for name in ("cases", "store", "index"))
    manifest = f"{cases}/manifest.csv"
    for words in (
        ["phantom", cases, "--count", str(count), "--size", "128"],
        ["embed", manifest, "--store", store],
        ["index", "build", store, "--manifest", manifest, "--output", "contrastive", "--out", index],
    ):
        done = CliRunner().invoke(verbs, words)
        assert done.exit_code == 0, done.output
    return folder


def make_hostile(folder: Path, count: int = 12, seed: int = 0) -> Path:
    """An index of made-up vectors, whose ids, findings and sites are HTML, and which has a column of names."""
    values = np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)
    patients = [f"p{number // 2}{HOSTILE if number < 2 else ''}" for number in range(count)]
    store = make_store(folder / f"store{seed}", values, patients)
    columns = {
        "view": ["PA", "AP", "LL"] * (count // 3),
        "site": ["A", HOSTILE] * (count // 2),
        "age": [str(20 + number) for number in range(count)],
        "study_date": [f"2020-01-{number + 1:02}" for number in range(count)],
        "patient_name": [f"{SECRET}{number}" for number in range(count)],
        f"Effusion{HOSTILE}": ["0", "1"] * (count // 2),
    }
    ids = [f"c{number}" for number in range(count)]
    table = pa.table({"image_id": ids, "path": [f"{name}.png" for name in ids], "patient_id": patients, **columns})
    table = table.cast(pa.schema([(name, pa.string()) for name in table.column_names]))
    build_index(open_store(store), folder / "index", manifest=Manifest(table, Path(), (f"Effusion{HOSTILE}",)))
    return folder


class Visitor:
    """A browser of a site, in this process.

    Attributes:
        client: that sends requests.
        lines: of the log.
    """

    def __init__(self, site: Site, **access: Any) -> None:
        self.site, self.lines = site, list[str]()
        given = {"names": names_of("127.0.0.1", []), "port": PORT, **access}
        app = make_app(site, Access(**given), self.lines.append)
        self.client = TestClient(app, base_url=ADDRESS, raise_server_exceptions=False)

    def cases(self, **question: Any) -> list[str]:
        """The ids that the API answers."""
        answer = self.client.get("/api/search", params=question)
        assert answer.status_code == 200, answer.text
        return [case["image_id"] for case in answer.json()["cases"]]


def visitor(folder: Path, **options: Any) -> Visitor:
    """A visitor of the folder's index."""
    return Visitor(open_site(folder / "index", **options))


def close(visitors: Sequence[Visitor]) -> None:
    """Ends their processes."""
    for each in visitors:
        each.site.close()


@contextmanager
def serve(index: Path, **options: Any) -> Iterator[str]:
    """The address of a server in a thread."""
    site = open_site(index, **options)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = server_of(make_app(site, Access(names=names_of("127.0.0.1", []), port=port), lambda _: None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()
            site.close()
