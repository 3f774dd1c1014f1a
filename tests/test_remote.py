"""Radiographs at addresses: a real S3 server and plain web servers on this machine, and everything that goes wrong."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import run_cli

pytest.importorskip("s3fs", reason="reading s3:// needs the extra dev: s3fs")
pytest.importorskip("moto", reason="the S3 server of these tests comes with the extra dev: moto")

from remote_world import (
    Bucket,
    boto_client,
    dead_address,
    forget_connections,
    s3_environment,
    s3_server,
    silent_server,
    web_server,
)

from cxr_embed import open_store, read_manifest
from cxr_embed.errors import ImageError, ManifestError, RemoteError
from cxr_embed.images import read_bytes
from cxr_embed.io import objects
from cxr_embed.io.addresses import address_of, address_problem, joined, shown_address
from cxr_embed.io.objects import list_folder, object_stamp, read_object, write_object
from cxr_embed.pipeline.embedding import embed, plan_embedding
from cxr_embed.pipeline.summary import EmbedSummary

HERE = Path(__file__).parent
MEAN = "helpers:make_mean"
Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def _reachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)  # workers import `helpers` too
    monkeypatch.setattr(objects, "_PAUSES", (0.0, 0.0))
    yield
    forget_connections()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[str], dict[str, Any]]]:
    with s3_server() as found:
        yield found


@pytest.fixture
def bucket(server: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Bucket]:
    endpoint, requests, instead = server
    s3_environment(monkeypatch, endpoint)
    client = boto_client(endpoint)
    name = "b" + hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    client.create_bucket(Bucket=name)
    requests.clear()
    yield Bucket(name, client, requests, instead)
    instead.clear()


def rows_of(manifest: Path) -> list[dict[str, str]]:
    with open(manifest, newline="") as file:
        return list(csv.DictReader(file))


def put_all(bucket: Bucket, manifest: Path, folder: str = "films") -> str:
    for each in rows_of(manifest):
        bucket.put(f"{folder}/{each['path']}", (manifest.parent / each["path"]).read_bytes())
    bucket.requests.clear()
    return f"{bucket.address}/{folder}"


def run(manifest: Path, store: Path, root: str | None = None, workers: int = 1) -> EmbedSummary:
    table = read_manifest(manifest, root=root)
    return embed(table, encoder=MEAN, store=store, dtype="float32", workers=workers)


def counts(summary: EmbedSummary) -> tuple[int, int, int, int]:
    return summary.embedded, summary.reused, summary.unchanged, len(summary.failed)


def faults(summary: EmbedSummary) -> dict[str, str]:
    return {failure.image_id: failure.kind for failure in summary.failed}


# Addresses


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("s3://bucket/a/b.png", "s3://bucket/a/b.png"),
        (Path("s3://bucket/a/b.png"), "s3://bucket/a/b.png"),
        (Path("https://host/a") / "b.png", "https://host/a/b.png"),
        ("S3://bucket/a", "s3://bucket/a"),
        ("s3://bucket//a", "s3://bucket//a"),
        ("/data/s3://bucket", None),
        ("ftp://host/a", None),
        ("file:///etc/passwd", None),
        ("C:/films/a.png", None),
        ("films/a.png", None),
        ("", None),
    ],
)
def test_what_is_an_address(path: str | Path, address: str | None) -> None:
    assert address_of(path) == address


@pytest.mark.parametrize(
    "address",
    [
        "https://user:hushhush@host/films",
        "https://hushhush@host/films",
        "s3://AKIAID:hushhush@bucket/films",
        "https://host/films?X-Amz-Signature=hushhush",
        "https://host/films?sv=2022&sig=hushhush",
        "https://host/films#hushhush",
        "s3://bucket/films?hushhush",
    ],
)
def test_addresses_with_secrets_are_refused_and_not_repeated(address: str, tmp_path: Path, make_images: Make) -> None:
    problem = address_problem(address)
    assert problem is not None
    assert "hushhush" not in problem
    assert "hushhush" not in shown_address(address)
    manifest = make_images(1)
    store = ["--store", str(tmp_path / "s")]
    for words in (
        ["embed", str(manifest), "--root", address, *store],
        ["search", str(tmp_path), "--root", address],
        ["store", "push", str(tmp_path), address],
        ["store", "pull", address, str(tmp_path / "s")],
        ["store", "info", address],
    ):
        done = run_cli(*words)
        assert done.returncode in (1, 2), words
        assert "hushhush" not in done.stdout + done.stderr, words
        assert len(done.stderr.splitlines()) <= 2, done.stderr
    table = tmp_path / "m.csv"
    table.write_text(f"image_id,path,patient_id\na,{address},p\n")
    with pytest.raises(ManifestError) as caught:
        read_manifest(table)
    assert "an address that is not read" in str(caught.value)
    if not address.startswith("s3://bucket"):  # where a key may have a question mark
        with pytest.raises(RemoteError) as refused:
            read_object(address, 10)
        assert refused.value.kind == "refused"
        assert "hushhush" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "http://example.org/a.png",
        "http://169.254.169.254/latest",
        "http://127.0.0.1.example.org/a",
        "https://host/../a",
        "https://host/%2e%2e/a",
        "https://host/%2E./a",
        "s3://bucket/../other/a",
        "s3://bucket/a\0b",
        "https://host/a\nb",
        "s3://",
        "https:///a",
    ],
)
def test_addresses_that_are_not_read(address: str) -> None:
    assert address_problem(address) is not None
    with pytest.raises(RemoteError) as caught:
        read_object(address, 10)
    assert caught.value.kind == "refused"


@pytest.mark.parametrize("address", ["http://localhost:8000/a", "http://127.0.0.1/a", "http://[::1]:1/a", "gs://b/c"])
def test_addresses_that_are(address: str) -> None:
    assert address_problem(address) is None


def test_a_path_below_a_web_address_is_a_name_and_not_a_part_of_an_address() -> None:
    assert joined("https://host/films/", "a b/50%.png") == "https://host/films/a%20b/50%25.png"
    assert joined("https://host/films", "%2e%2e/secret?x#y") == "https://host/films/%252e%252e/secret%3Fx%23y"
    assert joined(Path("s3://bucket/films"), "a b/50%.png") == "s3://bucket/films/a b/50%.png"
    assert joined("films", "s3://bucket/a.png") == "s3://bucket/a.png"
    assert joined("films", "a.png") == "films/a.png"


# What a run does with objects


def test_objects_give_the_vectors_that_files_give(bucket: Bucket, make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(40)
    root = put_all(bucket, manifest)
    assert counts(run(manifest, tmp_path / "files")) == (40, 0, 0, 0)
    assert counts(run(manifest, tmp_path / "objects", root, workers=2)) == (40, 0, 0, 0)
    files, found = open_store(tmp_path / "files"), open_store(tmp_path / "objects")
    ids = files.ids
    assert set(ids) == set(found.ids)
    np.testing.assert_array_equal(files.read(ids).vectors, found.read(ids).vectors)
    content = dict(zip(found.ids, found.content_ids, strict=True))
    assert [content[each] for each in ids] == files.content_ids.tolist()


def test_a_second_run_opens_none_and_lists_each_folder_once(bucket: Bucket, make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(1)
    data = (manifest.parent / rows_of(manifest)[0]["path"]).read_bytes()
    lines = ["image_id,path,patient_id"]
    for number in range(1000):  # files that end in other bytes, which PNG allows
        path = f"{number % 2}/{number}.png"
        bucket.put(f"films/{path}", data + number.to_bytes(4, "big"))
        lines.append(f"i{number},{path},p{number}")
    table = tmp_path / "many.csv"
    table.write_text("\n".join(lines) + "\n")
    root = f"{bucket.address}/films"
    first = run(table, tmp_path / "s", root, workers=2)
    assert len(first.failed) + first.embedded == 1000
    assert first.embedded > 0
    bucket.requests.clear()
    assert plan_embedding(read_manifest(table, root=root), encoder=MEAN, store=tmp_path / "s").unchanged == 1000
    assert bucket.opened() == []
    assert len(bucket.listings()) == 2
    bucket.requests.clear()
    second = run(table, tmp_path / "s", root)
    assert second.embedded == 0
    assert second.unchanged + len(second.failed) == 1000
    assert bucket.opened() == []
    assert len(bucket.listings()) == 2
    assert len(bucket.requests) == 2


def test_an_object_that_changed_is_read_again_and_others_are_not(
    bucket: Bucket, make_images: Make, tmp_path: Path
) -> None:
    manifest = make_images(6)
    root = put_all(bucket, manifest)
    run(manifest, tmp_path / "s", root)
    paths = [each["path"] for each in rows_of(manifest)]
    # Of the same size, written in the same second perhaps: the ETag is another one.
    data = bytearray((manifest.parent / paths[0]).read_bytes())
    bucket.put(f"films/{paths[1]}", bytes(data))
    bucket.requests.clear()
    summary = run(manifest, tmp_path / "s", root)
    assert counts(summary) == (0, 1, 5, 0)
    assert bucket.opened() == [f"GET /{bucket.name}/films/{paths[1]}"]
    assert counts(run(manifest, tmp_path / "s", root)) == (0, 0, 6, 0)


def test_a_few_objects_of_a_folder_are_looked_at_without_a_listing(
    bucket: Bucket, make_images: Make, tmp_path: Path
) -> None:
    manifest = make_images(2)
    root = put_all(bucket, manifest)
    run(manifest, tmp_path / "s", root)
    bucket.requests.clear()
    assert counts(run(manifest, tmp_path / "s", root)) == (0, 0, 2, 0)
    assert [line.split()[0] for line in bucket.requests] == ["HEAD", "HEAD"]


def test_paths_may_be_addresses_themselves(bucket: Bucket, make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(4)
    root = put_all(bucket, manifest)
    rows = rows_of(manifest)
    table = tmp_path / "m.csv"
    local = os.path.relpath(manifest.parent, tmp_path)
    lines = [f"{each['image_id']},{root}/{each['path']},{each['patient_id']}" for each in rows[:3]]
    lines += [f"{rows[3]['image_id']},{local}/{rows[3]['path']},{rows[3]['patient_id']}"]
    table.write_text("\n".join(["image_id,path,patient_id", *lines]) + "\n")
    assert counts(run(table, tmp_path / "s")) == (4, 0, 0, 0)
    with pytest.raises(ManifestError, match="not below s3://elsewhere"):
        read_manifest(table, root="s3://elsewhere")


def test_an_object_deleted_between_the_listing_and_the_reading(
    bucket: Bucket, make_images: Make, tmp_path: Path
) -> None:
    manifest = make_images(5)
    root = put_all(bucket, manifest)
    path = rows_of(manifest)[2]["path"]
    name = rows_of(manifest)[2]["image_id"]
    bucket.fail[f"HEAD /{bucket.name}/films/{path}"] = lambda: 404
    summary = run(manifest, tmp_path / "s", root)
    assert counts(summary) == (4, 0, 0, 1)
    assert faults(summary) == {name: "missing"}
    bucket.fail.clear()
    assert counts(run(manifest, tmp_path / "s", root)) == (1, 0, 4, 0)  # it is looked for again


def test_a_deleted_object_keeps_its_vector(bucket: Bucket, make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(5)
    root = put_all(bucket, manifest)
    run(manifest, tmp_path / "s", root)
    row = rows_of(manifest)[2]
    bucket.client.delete_object(Bucket=bucket.name, Key=f"films/{row['path']}")
    assert faults(run(manifest, tmp_path / "s", root)) == {row["image_id"]: "missing"}
    assert len(open_store(tmp_path / "s")) == 5


def test_a_folder_that_may_be_read_and_not_listed(bucket: Bucket, make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(5)
    root = put_all(bucket, manifest)
    bucket.fail[f"GET /{bucket.name}"] = bucket.fail[f"GET /{bucket.name}/"] = lambda: 403
    assert counts(run(manifest, tmp_path / "s", root)) == (5, 0, 0, 0)
    bucket.requests.clear()
    assert counts(run(manifest, tmp_path / "s", root)) == (0, 0, 5, 0)
    assert not [line for line in bucket.opened() if "films" in line]


def test_objects_without_rights_fail_by_name_and_are_tried_again(
    bucket: Bucket, make_images: Make, tmp_path: Path
) -> None:
    manifest = make_images(5)
    root = put_all(bucket, manifest)
    row = rows_of(manifest)[1]
    key = f"/{bucket.name}/films/{row['path']}"
    bucket.fail[f"HEAD {key}"] = bucket.fail[f"GET {key}"] = lambda: 403
    summary = run(manifest, tmp_path / "s", root)
    assert counts(summary) == (4, 0, 0, 1)
    assert faults(summary) == {row["image_id"]: "unreadable"}
    assert "no rights" in summary.failed[0].reason
    bucket.fail.clear()
    assert counts(run(manifest, tmp_path / "s", root)) == (1, 0, 4, 0)


def test_a_busy_server_is_tried_again(bucket: Bucket, make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(3)
    root = put_all(bucket, manifest)
    path = f"/{bucket.name}/films/{rows_of(manifest)[0]['path']}"
    left = [503, 503]
    bucket.fail[f"GET {path}"] = lambda: left.pop() if left else None
    assert counts(run(manifest, tmp_path / "s", root)) == (3, 0, 0, 0)
    assert left == []
    for each in rows_of(manifest):
        bucket.fail[f"GET /{bucket.name}/films/{each['path']}"] = lambda: 500
    summary = run(manifest, tmp_path / "other", root)
    assert set(faults(summary).values()) == {"unreachable"}
    assert "answers 500" in summary.failed[0].reason
    bucket.fail.clear()
    assert counts(run(manifest, tmp_path / "other", root)) == (3, 0, 0, 0)


def test_keys_with_odd_characters(bucket: Bucket, make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(1)
    data = (manifest.parent / rows_of(manifest)[0]["path"]).read_bytes()
    keys = ["a b.png", "50%.png", "%2e%2e/x.png", "q?v=1.png", "h#1.png", "*[a].png", "Ä/ø.png", "a+b&c=d.png"]
    for key in keys:
        bucket.put(f"films/{key}", data)
    lines = [f'i{number},"{key}",p' for number, key in enumerate(keys)]
    table = tmp_path / "m.csv"
    table.write_text("\n".join(["image_id,path,patient_id", *lines]) + "\n")
    assert counts(run(table, tmp_path / "s", f"{bucket.address}/films")) == (1, len(keys) - 1, 0, 0)
    assert counts(run(table, tmp_path / "s", f"{bucket.address}/films")) == (0, 0, len(keys), 0)


@pytest.mark.parametrize("path", ["../secret.png", "a/../../b.png", "/etc/passwd", "s3://b/../a.png", "..\\a.png"])
def test_paths_that_lead_out_of_the_root_are_refused(path: str, tmp_path: Path) -> None:
    table = tmp_path / "m.csv"
    table.write_text(f"image_id,path,patient_id\na,{path},p\n")
    with pytest.raises(ManifestError):
        read_manifest(table, root="s3://bucket/films")


# Servers in trouble


def test_a_server_that_is_dead_ends_the_run_before_it_begins(
    make_images: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_environment(monkeypatch, dead_address())
    done = run_cli("embed", str(make_images(5)), "--root", "s3://bucket/films", "--store", str(tmp_path / "s"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: s3://bucket/films/")
    assert "no connection" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_a_server_that_is_silent_does_not_hang_the_run(
    make_images: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent_server() as address:
        s3_environment(monkeypatch, address)
        monkeypatch.setenv("CXR_EMBED_REMOTE_SECONDS", "0.3")
        done = run_cli("embed", str(make_images(5)), "--root", "s3://bucket/films", "--store", str(tmp_path / "s"))
    assert done.returncode == 1
    assert "does not answer within 0.3 s" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_dead_and_absent_are_two_things(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RemoteError) as caught:
        read_object(f"{bucket.address}/none.png", 10)
    assert caught.value.kind == "missing"
    assert object_stamp(f"{bucket.address}/none.png") is None
    with pytest.raises(RemoteError) as caught:
        list_folder("s3://no-such-bucket-anywhere/films")
    assert caught.value.kind == "no-bucket"
    s3_environment(monkeypatch, dead_address())
    for look in (object_stamp, list_folder, lambda address: read_object(address, 10)):
        with pytest.raises(RemoteError) as caught:
            look(f"{bucket.address}/none.png")
        assert caught.value.kind == "unreachable"
    with pytest.raises(ImageError) as fault:
        read_bytes(Path(f"{bucket.address}/none.png"))
    assert fault.value.kind == "unreachable"


def test_a_bucket_that_is_not_there(bucket: Bucket, make_images: Make, tmp_path: Path) -> None:
    words = ["embed", str(make_images(5)), "--store", str(tmp_path / "s"), "--root"]
    done = run_cli(*words, "s3://no-such-bucket-anywhere/films")
    assert done.returncode == 1
    assert "no such bucket" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = run_cli(*words, f"{bucket.address}/empty")
    assert done.returncode == 1
    assert f"\n  {bucket.address}/empty/" in done.stderr
    done = run_cli(*words, "s3://B_/films")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_a_server_that_goes_away_is_a_passing_fault(bucket: Bucket, make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(6)
    root = put_all(bucket, manifest)
    run(manifest, tmp_path / "s", root)
    lost = rows_of(manifest)[3]
    bucket.put(f"films/{lost['path']}", (manifest.parent / rows_of(manifest)[0]["path"]).read_bytes())
    bucket.fail[f"HEAD /{bucket.name}/films/{lost['path']}"] = lambda: 502
    assert faults(run(manifest, tmp_path / "s", root)) == {lost["image_id"]: "unreachable"}
    assert len(open_store(tmp_path / "s")) == 6  # the earlier vector stays
    bucket.fail.clear()
    assert counts(run(manifest, tmp_path / "s", root)) == (0, 1, 5, 0)


def test_a_library_that_is_missing_is_named(make_images: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(ManifestError, match=r"pip install 'cxr-embed\[remote\]' gcsfs"):
        run(make_images(5), tmp_path / "s", "gs://bucket/films")


def test_no_secret_is_anywhere(bucket: Bucket, make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(3)
    root = put_all(bucket, manifest)
    bucket.fail[f"HEAD /{bucket.name}/films/{rows_of(manifest)[0]['path']}"] = lambda: 403
    words = ["embed", str(manifest), "--root", root, "--encoder", MEAN, "--store", str(tmp_path / "s"), "--json"]
    done = run_cli(*words)
    assert done.returncode == 1
    assert len(json.loads(done.stdout)["failed"]) == 1
    kept = b"".join(path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file())
    for text in (done.stdout.encode(), done.stderr.encode(), kept):
        assert b"hushhush" not in text
        assert b"127.0.0.1" not in text
        assert b"Signature" not in text


def test_what_is_written_is_read_back(bucket: Bucket) -> None:
    write_object(f"{bucket.address}/a/b", b"written")
    assert bucket.get("a/b") == b"written"
    assert read_object(f"{bucket.address}/a/b", 7)[0] == b"written"
    with pytest.raises(RemoteError) as caught:
        read_object(f"{bucket.address}/a/b", 6)
    assert caught.value.kind == "too-large"


# The web


def files_of(folder: Path, etags: bool = True) -> Callable[[Any], None]:
    def answer(handler: Any) -> None:
        from urllib.parse import unquote

        path = folder / unquote(handler.path.lstrip("/"))
        if not path.is_file():
            handler.send_error(404)
            return
        data = path.read_bytes()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        if etags:
            handler.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()[:12]}"')
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(data)

    return answer


def test_a_web_server_of_this_machine(make_images: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_environment(monkeypatch, dead_address())
    manifest = make_images(5)
    gone = rows_of(manifest)[4]
    (manifest.parent / gone["path"]).rename(manifest.parent / "elsewhere")
    with web_server(files_of(manifest.parent)) as address:
        summary = run(manifest, tmp_path / "s", address)
        assert counts(summary) == (4, 0, 0, 1)
        assert faults(summary) == {gone["image_id"]: "missing"}
        assert counts(run(manifest, tmp_path / "s", address)) == (0, 0, 4, 1)
    with web_server(files_of(manifest.parent, etags=False)) as address:  # nothing says whether they have changed
        assert counts(run(manifest, tmp_path / "s", address)) == (0, 4, 0, 1)


def test_a_body_that_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    s3_environment(monkeypatch, dead_address())
    asked: list[str] = []

    def answer(handler: Any) -> None:
        asked.append(handler.command)
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(b"x" * 10)
            handler.close_connection = True

    with web_server(answer) as address, pytest.raises(ImageError) as caught:
        read_bytes(f"{address}/a.png")
    assert caught.value.kind == "unreachable"
    assert asked.count("GET") == objects.TRIES


def test_a_web_server_may_not_point_to_an_open_line(monkeypatch: pytest.MonkeyPatch) -> None:
    s3_environment(monkeypatch, dead_address())

    def answer(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", "ftp://127.0.0.1/secret?sig=hushhush")
        handler.end_headers()

    with web_server(answer) as address, pytest.raises(RemoteError) as caught:
        read_object(f"{address}/a.png", 10)
    assert "hushhush" not in str(caught.value)


@pytest.mark.parametrize(("status", "kind"), [(404, "missing"), (403, "denied"), (401, "denied"), (500, "unreachable")])
def test_what_a_web_server_answers(status: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_environment(monkeypatch, dead_address())
    with web_server(lambda handler: handler.send_error(status)) as address, pytest.raises(RemoteError) as caught:
        read_object(f"{address}/a.png", 10)
    assert caught.value.kind == kind


def test_validate_looks_for_objects(bucket: Bucket, make_images: Make) -> None:
    manifest = make_images(4)
    root = put_all(bucket, manifest)
    assert run_cli("manifest", "validate", str(manifest), "--root", root).returncode == 0
    bucket.client.delete_object(Bucket=bucket.name, Key=f"films/{rows_of(manifest)[0]['path']}")
    done = run_cli("manifest", "validate", str(manifest), "--root", root)
    assert done.returncode == 1
    assert f"1 of 4 files are missing below {root}" in done.stderr


@pytest.mark.parametrize("words", [["manifest", "describe", "M", "--root"], ["search", "S", "--text", "x", "--root"]])
def test_verbs_that_read_files_of_this_machine_say_so(words: list[str], make_images: Make) -> None:
    manifest = str(make_images(1))
    done = run_cli(*[manifest if word == "M" else word for word in words], "s3://bucket/films")
    assert done.returncode == 2
    assert "s3://bucket/films: an address, not a place on this machine" in done.stderr
