"""Several writers at one store: the union is well defined, what must be alone is alone, and the dead keep nothing."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SPEC, content, fill, row, vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_embed import open_store
from cxr_embed.errors import StoreError
from cxr_embed.store import StoreWriter, layout, presence, verify_store, writer
from cxr_embed.store.forgotten import FORGOTTEN, Forgotten
from cxr_embed.store.image_index import count_images
from cxr_embed.store.presence import Presence, alone, look
from cxr_embed.store.rewrite import take_out

HERE = Path(__file__).parent
KEY = b"a key for tests, 16 and more"


def add(at: StoreWriter, number: int, salt: int = 0) -> None:
    """Embeds image `number`; with `salt` the vectors are those of another machine."""
    at.add_vector(row(number), {name: value + salt for name, value in vectors(number).items()})


def by_the_rule(root: Path) -> dict[str, np.ndarray]:
    """The documented rule, plainly: images by their last row, contents by their first vector, in order of names."""
    images: dict[str, bytes] = {}
    first: dict[bytes, np.ndarray] = {}
    for shard in layout.shard_paths(root):
        table = layout.pa.ipc.open_file(shard / "rows.arrow").read_all().to_pylist()
        array = np.load(shard / "features.npy")
        for at, each in enumerate(table):
            if each["error_kind"] is None:
                images[each["image_id"]] = each["content"]
            elif each["content"] is not None:
                images.pop(each["image_id"], None)
            if at < len(array):
                first.setdefault(each["content"], array[at])
    return {image: first[held] for image, held in images.items()}


def assert_the_rule(root: Path) -> None:
    store, want = open_store(root), by_the_rule(root)
    read = store.read()
    assert len(store) == len(want)
    assert len(store.index) == count_images(store._rows_of_shards) == len(want)
    assert sorted(read.ids.tolist()) == sorted(want)
    for image_id, vector in zip(read.ids.tolist(), read.vectors, strict=True):
        np.testing.assert_array_equal(vector, want[image_id])
    seen = {bytes(vector) for vector in want.values()}
    assert len(seen) <= store.describe()["vectors"]
    assert verify_store(root) == []


# Three writers; each embeds, refers to or fails on an image, or publishes; some do not look before they publish.
_STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["embed", "publish", "blind", "fail"]), st.integers(0, 5)), max_size=30
)


@settings(max_examples=40, deadline=None)
@given(steps=_STEPS)
def test_any_interleaving_of_writers_gives_what_the_rule_says(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str, int]]
) -> None:
    root = tmp_path_factory.mktemp("union") / "s"
    with ExitStack() as stack:
        writers = [stack.enter_context(StoreWriter(root, SPEC)) for _ in range(3)]
        for who, what, number in steps:
            at = writers[who]
            if what == "embed" and at.index.find_content(content(number)) is None and number not in held(at):
                add(at, number, salt=who)
            elif what == "fail" and number not in held(at):
                at.add_row(replace(row(number), content=content(50 + number), error_kind="corrupt", error="bad"))
            elif what in ("publish", "blind"):
                with pytest.MonkeyPatch.context() as patch:
                    if what == "blind":  # the others publish at the same moment, so that this one sees none of it
                        patch.setattr(StoreWriter, "_refresh", lambda _: None)
                    at.flush("toy")
        for at in writers:
            at.flush("toy")
    assert_the_rule(root)


def held(at: StoreWriter) -> set[int]:
    return {int(each.image_id[1:]) for each in [*at._owners, *at._others]}


def test_the_same_images_by_two_writers_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "s"
    with StoreWriter(root, SPEC) as one, StoreWriter(root, SPEC) as two:
        for number in range(4):
            add(one, number)
            add(two, number + 2, salt=1)
        with monkeypatch.context() as patch:
            patch.setattr(StoreWriter, "_refresh", lambda _: None)
            one.flush("one")
            two.flush("two")
    store = open_store(root)
    names = [path.name for path in layout.shard_paths(root)]
    assert {name[:8] for name in names} == {"00000000"}
    assert len(store) == 6
    assert store.describe()["vectors"] == 6
    assert_the_rule(root)
    first = 0 if (root / "shards" / names[0] / "shard.json").read_bytes().find(b'"one"') >= 0 else 1
    wanted = (vectors(2)["features"] + first).astype(np.float16)
    np.testing.assert_array_equal(store.read(["i2"]).vectors[0], wanted)


def test_what_another_writer_published_meanwhile_is_not_written_again(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with StoreWriter(root, SPEC) as one, StoreWriter(root, SPEC) as two:
        for number in range(3):
            add(one, number)
            add(two, number)
        assert one.flush("toy") == 3
        add(two, 7)
        assert two.flush("toy") == 4
        assert len(two.index) == 4
    infos = [layout.ShardInfo.read(path) for path in layout.shard_paths(root)]
    assert [(info.vectors, info.rows, info.live) for info in infos] == [(3, 3, 3), (1, 4, 4)]
    assert len(open_store(root)) == 4
    assert_the_rule(root)


def test_two_make_the_store_at_one_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, made = tmp_path / "s", writer.write_new

    def overtaken(path: Path, data: bytes) -> bool:
        monkeypatch.setattr(writer, "write_new", made)
        StoreWriter(root, SPEC, dtype="float32").close()
        return made(path, data)

    monkeypatch.setattr(writer, "write_new", overtaken)
    with StoreWriter(root, SPEC) as late:  # whatever dtype: the one that is there
        assert late.header.dtype == "float32"
    monkeypatch.setattr(writer, "write_new", overtaken)
    shutil.rmtree(root)
    with pytest.raises(StoreError, match="holds float32 vectors"):
        StoreWriter(root, SPEC, dtype="float16")
    assert list((root / "writers").iterdir()) == []


def test_a_store_is_not_taken_back_while_another_writes_to_it(tmp_path: Path) -> None:
    root = tmp_path / "s"
    first = StoreWriter(root, SPEC)
    other = StoreWriter(root, SPEC)
    first.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    add(other, 1)
    other.flush("toy")
    other.close()
    assert len(open_store(root)) == 1
    with pytest.raises(ZeroDivisionError), StoreWriter(tmp_path / "t", SPEC):
        1 / 0  # noqa: B018
    assert not (tmp_path / "t").exists()


# What must be alone


def test_what_is_alone_refuses_writers_and_others_like_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "s", range(3))
    monkeypatch.setattr(presence, "PATIENCE", 0.0)
    with alone(tmp_path / "s", "store compact"):
        with pytest.raises(StoreError, match=rf"alone \(store compact, process {os.getpid()} on .*\); wait for it"):
            StoreWriter(tmp_path / "s", SPEC)
        with pytest.raises(StoreError, match="another process is writing"), alone(tmp_path / "s", "forget"):
            pass
    fill(tmp_path / "s", range(3, 5))
    assert list((tmp_path / "s" / "writers").iterdir()) == []


def steps_of_join(root: Path) -> Iterator[str]:
    """A writer that comes, step by step as the file system sees it: announced, then looked."""
    ours = Presence(root, "writer", "a writer")
    yield "announced"
    busy = any(seen.alive and seen.role == "alone" for seen in look(root, ours))
    if busy:
        ours.close()
    yield "refused" if busy else "at work"
    ours.close()
    yield "gone"


def steps_of_alone(root: Path) -> Iterator[str]:
    ours = Presence(root, "alone", "store compact")
    yield "announced"
    busy = any(seen.alive for seen in look(root, ours))
    if busy:
        ours.close()
    yield "refused" if busy else "at work"
    ours.close()
    yield "gone"


@pytest.mark.parametrize("other", [steps_of_join, steps_of_alone])
def test_in_no_order_of_steps_are_both_at_work(tmp_path: Path, other: Callable[[Path], Iterator[str]]) -> None:
    """Every interleaving of the steps of `join` and `alone`."""
    for order in sorted(set(itertools.permutations([0, 0, 0, 1, 1, 1]))):
        root = tmp_path / uuid.uuid4().hex
        root.mkdir()
        both = [other(root), steps_of_alone(root)]
        state = ["", ""]
        for who in order:
            state[who] = next(both[who])
            assert state != ["at work", "at work"], order


def silence(root: Path) -> None:
    """Makes every record that is there now as old as that of a machine that is gone."""
    for path in (root / "writers").iterdir():
        body = json.loads(path.read_bytes())
        body["machine"] = "another"
        path.write_text(json.dumps(body))
        os.utime(path, (1, 1))


def test_a_record_of_another_machine_counts_until_it_expires(tmp_path: Path) -> None:
    root = tmp_path / "s"
    fill(root, range(3))
    file = root / "writers" / f"writer-{uuid.uuid4().hex}.json"
    file.write_text(json.dumps({"machine": "another", "host": "node7", "pid": 1, "at": "embed", "started": ""}))
    with pytest.raises(StoreError, match="embed, process 1 on node7"), alone(root, "store compact"):
        pass
    now = file.stat().st_mtime
    os.utime(file, (now, now - presence.EXPIRES - 1))
    with alone(root, "store compact"):
        assert not file.exists()


def test_ages_are_of_the_file_systems_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's clock may be years off."""
    root = tmp_path / "s"
    fill(root, range(3))
    with StoreWriter(root, SPEC):
        monkeypatch.setattr(presence.time, "time", lambda: 4e9)
        ours = Presence(root, "alone", "a test")
        assert [seen.alive for seen in look(root, ours)] == [True]
        ours.close()


@pytest.mark.parametrize("torn", [b"", b'{"host": "a', b"[]", b"\xff\xfe"])
def test_a_record_that_is_being_written_counts(tmp_path: Path, torn: bytes) -> None:
    root = tmp_path / "s"
    fill(root, range(3))
    (root / "writers" / f"writer-{uuid.uuid4().hex}.json").write_bytes(torn)
    (root / "writers" / "note.txt").write_text("of somebody")
    with pytest.raises(StoreError, match="another process is writing"), alone(root, "store compact"):
        pass


# A writer that was taken for dead


def test_a_writer_that_was_taken_for_dead_announces_itself_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "s"
    monkeypatch.setattr(presence, "PATIENCE", 0.0)
    with StoreWriter(root, SPEC) as sleeper:
        add(sleeper, 0)
        sleeper.flush("toy")
        add(sleeper, 1)
        silence(root)
        with alone(root, "store compact"), pytest.raises(StoreError, match="alone"):
            sleeper.flush("toy")
        sleeper.flush("toy")
        assert not sleeper.presence.lost
    assert open_store(root).ids.tolist() == ["i0", "i1"]
    assert_the_rule(root)


@pytest.mark.parametrize("moment", ["before", "written", "published", "late"])
def test_nobody_who_was_forgotten_comes_back_with_a_writer_that_slept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The writer stops at each step of its publishing; meanwhile a patient is forgotten, and it goes on."""
    root, key = tmp_path / "s", tmp_path / "key"
    key.write_bytes(KEY)
    sleeper = StoreWriter(root, SPEC, key_file=key)
    add(sleeper, 0)
    add(sleeper, 5)
    sleeper.flush("toy")
    for number in (1, 2, 3):  # 1 is of the patient of 0
        add(sleeper, number)
    sleeper.add_row(replace(row(0), image_id="copy", patient_id="p9"))  # of a content that goes
    sleeper.add_row(replace(row(5), image_id="other", patient_id="p9"))

    def forget() -> None:
        silence(root)
        listed = Forgotten(KEY)
        listed.add_patient("p0")
        listed.add_content(content(0))
        with alone(root, "forget"):
            listed.save(root / FORGOTTEN)
            take_out(root, listed.covers)

    write, publish = writer.write_shard, writer.publish_shard

    def written(*args: Any, **options: Any) -> Any:
        done = write(*args, **options)
        monkeypatch.setattr(writer, "write_shard", write)
        forget()
        return done

    def published(*args: Any) -> Path:
        monkeypatch.setattr(writer, "publish_shard", publish)
        if moment == "late":
            done = publish(*args)
            forget()
            return done
        (args[0] / "aside").mkdir()
        kept = args[0] / "aside" / "shard"
        os.rename(args[1], kept)  # forgetting clears away what is not published, and this process is about to rename
        forget()
        os.rename(kept, args[1])
        (args[0] / "aside").rmdir()
        return publish(*args)

    if moment == "before":
        forget()
    elif moment == "written":
        monkeypatch.setattr(writer, "write_shard", written)
    else:
        monkeypatch.setattr(writer, "publish_shard", published)
    sleeper.flush("toy")
    sleeper.close()
    store = open_store(root)
    assert sorted(store.ids.tolist()) == ["i2", "i3", "i5", "other"]
    assert b"p0" not in b"".join(path.read_bytes() for path in root.rglob("rows.arrow"))
    assert_the_rule(root)


# What is left behind

WRITE = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from helpers import SPEC, row, vectors
from cxr_embed.store import StoreWriter, writer
point, first = sys.argv[3], int(sys.argv[4])
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
at = StoreWriter(sys.argv[1], SPEC)
for number in range(first, first + 6):
    at.add_vector(row(number), vectors(number))
    if number == first + 2:
        at.flush("toy")
        print("published", first, flush=True)
if point == "buffered":
    die()
if point == "written":
    writer.publish_shard = die
if point == "renamed":
    writer.publish_shard = lambda *args, publish=writer.publish_shard: (publish(*args), die())
at.flush("toy")
"""


@pytest.mark.parametrize("point", ["buffered", "written", "renamed"])
def test_writers_killed_at_any_point_lose_nothing_that_was_published(tmp_path: Path, point: str) -> None:
    root = tmp_path / "s"
    commands = [[sys.executable, "-c", WRITE, str(root), str(HERE), point, str(first)] for first in (0, 4)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        out, _ = process.communicate()
        assert "published" in out
        assert process.returncode == -signal.SIGKILL
    wanted = {0, 1, 2, 4, 5, 6} if point != "renamed" else set(range(10))
    assert set(open_store(root).ids.tolist()) == {f"i{number}" for number in wanted}
    assert_the_rule(root)
    with StoreWriter(root, SPEC):
        assert len(list((root / "writers").iterdir())) == 1
    assert all(layout.SHARD_NAME.fullmatch(path.name) for path in (root / "shards").iterdir())


def test_a_living_writers_shard_is_not_cleared_away(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with StoreWriter(root, SPEC) as living:
        at_it = layout.partial_shard(root, living.presence.ident)
        dead = layout.partial_shard(root)
        (dead / "features.npy").write_bytes(b"half")
        fill(root, range(3))
        assert at_it.exists()
        assert not dead.exists()
        assert verify_store(root) == []


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.ENOTSUP])
def test_a_file_system_that_refuses_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    fill(tmp_path / "s", range(3))

    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with StoreWriter(tmp_path / "s", SPEC) as at:
        add(at, 4)
        monkeypatch.setattr(layout.os, "rename", refused)
        with pytest.raises(StoreError, match=r"this file system refuses to rename a folder .*; put it on another"):
            at.flush("toy")
        monkeypatch.undo()
    assert verify_store(tmp_path / "s") == []
    assert len(open_store(tmp_path / "s")) == 3


def test_a_rename_that_a_network_tries_twice_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def twice(source: Path, target: Path) -> None:
        rename(source, target)
        rename(source, target)

    with StoreWriter(tmp_path / "s", SPEC) as at:
        add(at, 4)
        monkeypatch.setattr(layout.os, "rename", twice)
        assert at.flush("toy") == 1
    assert open_store(tmp_path / "s").ids.tolist() == ["i4"]
