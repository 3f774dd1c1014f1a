"""Stores in buckets: pushed and pulled whole, verified, and without whoever was forgotten."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SPEC, content, fill, row, run_cli, vectors

pytest.importorskip("s3fs", reason="pushing to s3:// needs the extra dev: s3fs")
pytest.importorskip("moto", reason="the S3 server of these tests comes with the extra dev: moto")

from remote_world import (
    Bucket,
    boto_client,
    dead_address,
    forget_connections,
    s3_environment,
    s3_server,
    silent_server,
)

from cxr_embed import open_store
from cxr_embed.errors import StoreError
from cxr_embed.forget import forget
from cxr_embed.io import objects
from cxr_embed.store import StoreWriter, add_prompts, pull, read_prompts, verify_store
from cxr_embed.store.compact import compact_store
from cxr_embed.store.layout import PULLING, shard_paths
from cxr_embed.store.pull import pull_store
from cxr_embed.store.push import push_store
from cxr_embed.store.remote import COMPLETE, Complete
from cxr_embed.types import TextRule


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[str], dict[str, Any]]]:
    with s3_server() as found:
        yield found


@pytest.fixture
def bucket(server: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Bucket]:
    endpoint, requests, instead = server
    s3_environment(monkeypatch, endpoint)
    monkeypatch.setattr(objects, "_PAUSES", (0.0, 0.0))
    client = boto_client(endpoint)
    name = "b" + hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    client.create_bucket(Bucket=name)
    requests.clear()
    yield Bucket(name, client, requests, instead)
    instead.clear()
    forget_connections()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(b"k" * 32)
    return path


def puts(bucket: Bucket) -> list[str]:
    return [line for line in bucket.requests if line.startswith("PUT ")]


def same(one: Path, other: Path) -> None:
    first, second = open_store(one), open_store(other)
    assert first.ids.tolist() == second.ids.tolist()
    assert first.patient_ids.tolist() == second.patient_ids.tolist()
    for output in SPEC.outputs:
        np.testing.assert_array_equal(first.read(output=output).vectors, second.read(output=output).vectors)
    assert verify_store(other) == []


def test_a_pulled_store_is_the_one_that_was_pushed(bucket: Bucket, tmp_path: Path) -> None:
    fill(tmp_path / "a", range(25))
    pushed = push_store(tmp_path / "a", f"{bucket.address}/s")
    assert (pushed.shards, pushed.copied, pushed.deleted) == (3, 3, 0)
    assert puts(bucket)[-1].split("?")[0] == f"PUT /{bucket.name}/s/{COMPLETE}"
    pulled = pull_store(f"{bucket.address}/s/", tmp_path / "b")
    assert (pulled.shards, pulled.copied, pulled.images, pulled.left_out) == (3, 3, 25, 0)
    same(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in shard_paths(tmp_path / "a")] == [path.name for path in shard_paths(tmp_path / "b")]
    assert not (tmp_path / "b" / PULLING).exists()


def test_only_what_is_missing_is_copied(bucket: Bucket, tmp_path: Path) -> None:
    address = f"{bucket.address}/s"
    fill(tmp_path / "a", range(20))
    push_store(tmp_path / "a", address)
    pull_store(address, tmp_path / "b")
    bucket.requests.clear()
    again = push_store(tmp_path / "a", address)
    assert (again.copied, again.bytes, puts(bucket)) == (0, 0, [])
    fill(tmp_path / "a", range(20, 30))
    bucket.requests.clear()
    assert push_store(tmp_path / "a", address).copied == 1
    assert not [line for line in puts(bucket) if "/00000000-" in line or "/00000001-" in line]
    bucket.requests.clear()
    assert pull_store(address, tmp_path / "b").copied == 1
    assert not [line for line in bucket.opened() if "/00000000-" in line and "rows" in line]
    same(tmp_path / "a", tmp_path / "b")
    # What was pulled can be added to, and pushed back.
    fill(tmp_path / "b", range(30, 33))
    assert push_store(tmp_path / "b", address).copied == 1
    assert pull_store(address, tmp_path / "a").copied == 1
    same(tmp_path / "a", tmp_path / "b")


def test_prompts_come_along(bucket: Bucket, tmp_path: Path) -> None:
    from dataclasses import replace

    spec = replace(SPEC, text=TextRule(output="features", kind="clip"))
    fill(tmp_path / "a", range(5), spec=spec)
    add_prompts(tmp_path / "a", ["effusion"], np.ones((1, 4)), "by hand")
    push_store(tmp_path / "a", f"{bucket.address}/s")
    pull_store(f"{bucket.address}/s", tmp_path / "b")
    add_prompts(tmp_path / "b", ["oedema"], np.ones((1, 4)), "by hand")
    add_prompts(tmp_path / "a", ["nodule"], np.ones((1, 4)), "by hand")
    assert push_store(tmp_path / "a", f"{bucket.address}/s").deleted == 1  # the prompts of before
    pull_store(f"{bucket.address}/s", tmp_path / "b")
    assert set(read_prompts(open_store(tmp_path / "b")).prompts) == {"effusion", "oedema", "nodule"}
    assert len([name for name in bucket if "prompts-" in name]) == 1


# Whoever was forgotten


def test_what_was_forgotten_here_is_deleted_there(bucket: Bucket, tmp_path: Path, key: Path) -> None:
    address = f"{bucket.address}/s"
    fill(tmp_path / "a", range(25))
    push_store(tmp_path / "a", address)
    pull_store(address, tmp_path / "b")
    before = set(bucket.keys())
    forget([tmp_path / "a"], patients=["p3"], key_file=key)
    pushed = push_store(tmp_path / "a", address, key_file=key)
    assert pushed.copied > 0
    assert pushed.deleted > 0
    gone = before - set(bucket.keys())
    assert any("/00000000-" in name for name in gone)
    for name in bucket:
        data = bucket.get(name)
        assert b"p3" not in data or b"p3" not in data.replace(b"p13", b"")
        assert content(6) not in data
        assert vectors(6)["features"].astype(np.float16).tobytes() not in data
    # The earlier copy loses the patient too, and keeps it out.
    pulled = pull_store(address, tmp_path / "b", key_file=key)
    assert pulled.images == 23
    assert not {"i6", "i7"} & set(open_store(tmp_path / "b").ids.tolist())
    same(tmp_path / "a", tmp_path / "b")
    with pytest.raises(StoreError, match="stay out"):
        fill(tmp_path / "b", range(6, 7), key_file=key)


def test_a_push_never_brings_back_what_was_forgotten_there(bucket: Bucket, tmp_path: Path, key: Path) -> None:
    address = f"{bucket.address}/s"
    fill(tmp_path / "a", range(25))
    push_store(tmp_path / "a", address)
    shutil.copytree(tmp_path / "a", tmp_path / "old")
    forget([tmp_path / "a"], patients=["p3"], key_file=key)
    push_store(tmp_path / "a", address, key_file=key)
    (tmp_path / "key.forgotten.json").unlink()  # another user's machine: the list in the bucket alone says so
    before = {name: bucket.get(name) for name in bucket}
    with pytest.raises(StoreError, match=r"holds 2 images that were forgotten there or elsewhere \(i6, i7\)"):
        push_store(tmp_path / "old", address, key_file=key)
    with pytest.raises(StoreError, match="is missing: give `key_file`"):
        push_store(tmp_path / "old", address)
    with pytest.raises(StoreError, match="is missing: give `key_file`"):
        pull_store(address, tmp_path / "fresh")
    assert {name: bucket.get(name) for name in bucket} == before
    # As it says: a pull takes them out, and then it can be pushed.
    pull_store(address, tmp_path / "old", key_file=key)
    assert len(open_store(tmp_path / "old")) == 23
    assert push_store(tmp_path / "old", address, key_file=key).copied == 0


def test_whoever_this_user_forgot_does_not_come_with_a_pull(bucket: Bucket, tmp_path: Path, key: Path) -> None:
    address = f"{bucket.address}/s"
    fill(tmp_path / "a", range(25))
    push_store(tmp_path / "a", address)
    fill(tmp_path / "other", range(6, 8))
    forget([tmp_path / "other"], patients=["p3"], key_file=key)
    pulled = pull_store(address, tmp_path / "b", key_file=key)
    assert (pulled.images, pulled.left_out) == (23, 2)
    assert verify_store(tmp_path / "b") == []
    held = b"".join(path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file())
    assert content(6) not in held


# What is refused


def test_another_store_is_not_mixed_with_this_one(bucket: Bucket, tmp_path: Path) -> None:
    address = f"{bucket.address}/s"
    fill(tmp_path / "a", range(10))
    fill(tmp_path / "b", range(10), dtype="float32")
    push_store(tmp_path / "a", address)
    with pytest.raises(StoreError, match="another store is there"):
        push_store(tmp_path / "b", address)
    with pytest.raises(StoreError, match="another store than that at"):
        pull_store(address, tmp_path / "b")
    bucket.put("films/a.png", b"x")
    with pytest.raises(StoreError, match=r"has other objects in it \(a.png\)"):
        push_store(tmp_path / "a", f"{bucket.address}/films")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.doc").write_text("x")
    with pytest.raises(StoreError, match="a folder with other files in it"):
        pull_store(address, tmp_path / "c")
    with pytest.raises(StoreError, match="no whole store there"):
        pull_store(f"{bucket.address}/films", tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_two_that_went_apart_lose_nothing(bucket: Bucket, tmp_path: Path) -> None:
    address = f"{bucket.address}/s"
    fill(tmp_path / "a", range(10))
    push_store(tmp_path / "a", address)
    pull_store(address, tmp_path / "b")
    fill(tmp_path / "a", range(10, 15))
    fill(tmp_path / "b", range(20, 25))
    push_store(tmp_path / "a", address)
    before = {name: bucket.get(name) for name in bucket}
    with pytest.raises(StoreError, match=r"has 5 images that are not in this store \(i10\)"):
        push_store(tmp_path / "b", address)
    with pytest.raises(StoreError, match=r"has 5 images that are not at .* \(i20\)"):
        pull_store(address, tmp_path / "b")
    assert {name: bucket.get(name) for name in bucket} == before
    assert len(open_store(tmp_path / "b")) == 15
    done = run_cli("store", "pull", address, str(tmp_path / "c"))
    assert done.returncode == 0, done.stderr
    done = run_cli("store", "merge", str(tmp_path / "b"), str(tmp_path / "c"), "--out", str(tmp_path / "d"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 20


def test_damage_is_never_sent_and_never_taken(bucket: Bucket, tmp_path: Path) -> None:
    address = f"{bucket.address}/s"
    fill(tmp_path / "a", range(20))
    file = shard_paths(tmp_path / "a")[1] / "features.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(StoreError, match=r"features\.npy: damaged"):
        push_store(tmp_path / "a", address)
    assert not [name for name in bucket if name.endswith(COMPLETE)]
    file.write_bytes(whole)
    push_store(tmp_path / "a", address)
    names = [name for name in bucket if "/shards/" in name or name.endswith((COMPLETE, "store.json"))]
    for name in names:
        data = bucket.get(name)
        bucket.put(name, data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
        with pytest.raises(StoreError):
            pull_store(address, tmp_path / "b")
        assert not (tmp_path / "b" / "store.json").exists()
        bucket.put(name, data)
    pull_store(address, tmp_path / "b")
    same(tmp_path / "a", tmp_path / "b")


def test_a_pull_that_was_cut_off_goes_on(bucket: Bucket, tmp_path: Path) -> None:
    address = f"{bucket.address}/s"
    fill(tmp_path / "a", range(30))
    push_store(tmp_path / "a", address)
    last = next(name for name in bucket if "/00000002-" in name and name.endswith("features.npy"))
    bucket.fail[f"HEAD /{bucket.name}/{last}"] = lambda: 503
    with pytest.raises(StoreError, match="answers 503"):
        pull_store(address, tmp_path / "b")
    with pytest.raises(StoreError, match="no store here"):
        open_store(tmp_path / "b")
    bucket.fail.clear()
    assert pull_store(address, tmp_path / "b").copied == 1
    same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("step", ["before", "between", "after"])
def test_a_pull_that_is_killed_while_it_publishes(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    address = f"{bucket.address}/s"
    fill(tmp_path / "a", range(15))
    push_store(tmp_path / "a", address)
    pull_store(address, tmp_path / "b")
    fill(tmp_path / "a", range(15, 35))
    push_store(tmp_path / "a", address)
    whole = pull.replace_shards

    def killed(root: Path, new: list[tuple[Path, str]], old: list[str]) -> None:
        if step == "between":
            (root / "unread.json").write_text(json.dumps([name for _, name in new]))
            os.rename(new[0][0], root / "shards" / new[0][1])
        if step == "after":
            whole(root, new, old)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pull, "replace_shards", killed)
        with pytest.raises(KeyboardInterrupt):
            pull_store(address, tmp_path / "b")
    assert len(open_store(tmp_path / "b")) == (35 if step == "after" else 15)
    assert pull_store(address, tmp_path / "b").images == 35
    same(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b" / PULLING).exists()
    assert not (tmp_path / "b" / "unread.json").exists()


def test_forgetting_reaches_what_a_killed_pull_has_left(bucket: Bucket, tmp_path: Path, key: Path) -> None:
    address = f"{bucket.address}/s"
    fill(tmp_path / "a", range(10))
    push_store(tmp_path / "a", address)
    pull_store(address, tmp_path / "b")
    fill(tmp_path / "a", range(10, 30))
    push_store(tmp_path / "a", address)
    last = next(name for name in bucket if "/00000002-" in name and name.endswith("features.npy"))
    bucket.fail[f"HEAD /{bucket.name}/{last}"] = lambda: 503
    with pytest.raises(StoreError, match="answers 503"):
        pull_store(address, tmp_path / "b")
    assert (tmp_path / "b" / PULLING).exists()
    bucket.fail.clear()
    forgotten = forget([tmp_path / "b"], patients=["p6"], key_file=key)  # who lies in `pulling` alone
    assert sum(each["images"] for each in forgotten.stores) == 2
    assert forgotten.problems == []
    assert all(content(12) not in path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file())
    assert pull_store(address, tmp_path / "b", key_file=key).images == 28


def test_a_pull_is_alone_and_a_push_is_not(bucket: Bucket, tmp_path: Path) -> None:
    address = f"{bucket.address}/s"
    fill(tmp_path / "a", range(10))
    with StoreWriter(tmp_path / "a", SPEC):
        push_store(tmp_path / "a", address)
        with pytest.raises(StoreError, match="another process is writing to this store"):
            pull_store(address, tmp_path / "a")


def test_what_several_writers_wrote_and_what_was_compacted(bucket: Bucket, tmp_path: Path) -> None:
    address = f"{bucket.address}/s"
    with StoreWriter(tmp_path / "a", SPEC) as one, StoreWriter(tmp_path / "a", SPEC) as other:
        for number, writer in ((1, one), (2, other), (3, one)):
            writer.add_vector(row(number), vectors(number))
        one.flush("toy engine")
        other.flush("toy engine")
    push_store(tmp_path / "a", address)
    pull_store(address, tmp_path / "b")
    same(tmp_path / "a", tmp_path / "b")
    compact_store(tmp_path / "a")
    pushed = push_store(tmp_path / "a", address)
    assert (pushed.shards, pushed.copied) == (1, 1)
    assert pushed.deleted > 0
    assert pull_store(address, tmp_path / "b").shards == 1
    same(tmp_path / "a", tmp_path / "b")


def test_a_push_that_was_cut_off_leaves_what_was_there(bucket: Bucket, tmp_path: Path) -> None:
    address = f"{bucket.address}/s"
    fill(tmp_path / "a", range(10))
    push_store(tmp_path / "a", address)
    fill(tmp_path / "a", range(10, 30))
    shards = shard_paths(tmp_path / "a")
    bucket.fail[f"PUT /{bucket.name}/s/shards/{shards[2].name}/rows.arrow"] = lambda: 503
    with pytest.raises(StoreError, match="push again to go on"):
        push_store(tmp_path / "a", address)
    assert pull_store(address, tmp_path / "b").images == 10
    bucket.fail.clear()
    assert push_store(tmp_path / "a", address).copied == 2
    assert pull_store(address, tmp_path / "b").images == 30
    same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    "complete",
    [
        Complete(("../../../etc",)),
        Complete(("00000000-0000000000000000/..",)),
        Complete((), ("../x",)),
        Complete((), (), "../store.json"),
        Complete(("00000000-0000000000000000",)),
    ],
)
def test_hostile_records(bucket: Bucket, tmp_path: Path, complete: Complete) -> None:
    address = f"{bucket.address}/s"
    fill(tmp_path / "a", range(10))
    push_store(tmp_path / "a", address)
    bucket.put(f"s/{COMPLETE}", complete.to_bytes())
    done = run_cli("store", "pull", address, str(tmp_path / "b"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= 2
    assert not (tmp_path / "b" / "store.json").exists()


def test_a_shard_s_record_cannot_name_another_place(bucket: Bucket, tmp_path: Path) -> None:
    from cxr_embed.io.digests import short_digest

    address = f"{bucket.address}/s"
    fill(tmp_path / "a", range(10))
    push_store(tmp_path / "a", address)
    record = json.loads(bucket.get(f"s/shards/{shard_paths(tmp_path / 'a')[0].name}/shard.json"))
    record["files"]["../../../planted"] = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    data = json.dumps(record).encode()
    name = f"00000000-{short_digest(data)}"
    bucket.put(f"s/shards/{name}/shard.json", data)
    bucket.put("s/planted", b"x")
    bucket.put(f"s/{COMPLETE}", Complete((name,)).to_bytes())
    with pytest.raises(StoreError, match="not a shard's record"):
        pull_store(address, tmp_path / "b")
    assert not list(tmp_path.rglob("planted"))


# Servers and words


def test_servers_in_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "a", range(5))
    s3_environment(monkeypatch, dead_address())
    for words in (("push", str(tmp_path / "a"), "s3://bucket/s"), ("pull", "s3://bucket/s", str(tmp_path / "b"))):
        done = run_cli("store", *words)
        assert done.returncode == 1
        assert done.stderr == "error: s3://bucket/s: there is no connection to the server\n"
    with silent_server() as address:
        s3_environment(monkeypatch, address)
        monkeypatch.setenv("CXR_EMBED_REMOTE_SECONDS", "0.3")
        done = run_cli("store", "push", str(tmp_path / "a"), "s3://bucket/s")
        assert done.returncode == 1
        assert done.stderr == "error: s3://bucket/s: the server does not answer within 0.3 s\n"
    assert not (tmp_path / "b").exists()


def test_rights_and_buckets(bucket: Bucket, tmp_path: Path) -> None:
    fill(tmp_path / "a", range(5))
    with pytest.raises(StoreError, match="there is no such bucket"):
        push_store(tmp_path / "a", "s3://no-such-bucket-anywhere/s")
    bucket.fail[f"PUT /{bucket.name}/s/{'shards'}/{shard_paths(tmp_path / 'a')[0].name}/rows.arrow"] = lambda: 403
    done = run_cli("store", "push", str(tmp_path / "a"), f"{bucket.address}/s")
    assert done.returncode == 1
    assert "no rights" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "hushhush" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("vectors/a", "stores are pushed to s3://, gs:// or az://bucket/folder"),
        ("https://host/a", "stores are pushed to s3://, gs:// or az://bucket/folder"),
        ("s3://bucket", "name a folder in the bucket, such as s3://bucket/store"),
        ("s3://bucket/../a", "an address with '..' in it"),
    ],
)
def test_addresses_that_take_no_store(address: str, words: str, tmp_path: Path) -> None:
    fill(tmp_path / "a", range(5))
    done = run_cli("store", "push", str(tmp_path / "a"), address)
    assert done.returncode == 1
    assert words in done.stderr


def test_the_verbs_say_what_they_did(bucket: Bucket, tmp_path: Path) -> None:
    address = f"{bucket.address}/s"
    fill(tmp_path / "a", range(25))
    done = run_cli("store", "push", str(tmp_path / "a"), address)
    assert done.stdout.startswith(f"{address}: 3 shards, 3 shards sent (")
    assert (
        run_cli("store", "push", str(tmp_path / "a"), address).stdout
        == f"{address}: 3 shards, nothing had to be sent\n"
    )
    done = run_cli("store", "pull", address, str(tmp_path / "b"), "--json")
    body = json.loads(done.stdout)
    assert (body["shards"], body["copied"], body["images"], body["left_out"]) == (3, 3, 25, 0)
    assert row(1).image_id in open_store(tmp_path / "b").ids
