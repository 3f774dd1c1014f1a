"""Files that mention somebody, and tables without them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxr_embed.errors import CxrEmbedError
from cxr_embed.forget.known import Known
from cxr_embed.forget.mentions import Marks, count_mentions
from cxr_embed.forget.rows import count_rows, drop_rows
from cxr_embed.reporting.montage import write_montage
from cxr_embed.reporting.panels import Panel
from cxr_embed.store.forgotten import Forgotten


def marks(image_id: str = "i7", patient: str = "p3") -> Marks:
    known = Known(forgotten=Forgotten(b"a key of some length"))
    known.add_patient(patient)
    known.add_image(image_id, patient, b"\1" * 32)
    return Marks(known)


HEAD, KEPT, OTHERS = "image_id,patient_id,note\n", 'i70,p30,"kept\n as ""it"" is"\n', "i7,p9,another data set's\n"
PLAIN = HEAD + 'i7,p3,"two\nlines"\n' + KEPT + '"i8","p3",x\ni9,p4,i7\n' + OTHERS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".CSV.GZ"])
def test_rows_that_stay_keep_their_bytes(tmp_path: Path, encoding: str, separator: str, suffix: str) -> None:
    pack = gzip.compress if suffix.lower().endswith("gz") else bytes
    unpack = gzip.decompress if suffix.lower().endswith("gz") else bytes
    text = PLAIN.replace(",", separator)
    path = tmp_path / f"t{suffix}"
    path.write_bytes(pack(text.encode(encoding)))
    path.chmod(0o640)
    assert count_rows(path, marks()) == 3
    assert drop_rows(path, marks()) == 3
    kept = (HEAD + KEPT + OTHERS).replace(",", separator)
    assert unpack(path.read_bytes()) == kept.encode(encoding)
    assert path.stat().st_mode & 0o777 == 0o640
    assert count_rows(path, marks()) == 0


def test_a_number_is_an_id_where_ids_stand_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = [
        "image_id,patient_id,study_id,other_image",
        "a,b,12345,x",
        "a,12345,1,x",
        "a,c,2,7",
        "7,d,3,x",
        "7,12345,4,x",
    ]
    path.write_text("\n".join(rows) + "\n")
    assert drop_rows(path, marks("7", "12345")) == 3
    assert path.read_text().splitlines() == [rows[0], rows[1], rows[4]]  # image 7 of d is another data set's
    np.savez(tmp_path / "t.npz", **{"7": np.zeros(2), "8": np.ones(2)})
    assert count_mentions(tmp_path / "t.npz", marks("7", "12345")) == 1


def test_rows_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table(
        {
            "image_id": ["i7", "i8", "i9"],
            "note": pa.array(["x", "p3", "y"]).dictionary_encode(),
            "Effusion": [0.5, 0.25, 0.125],
            "vector": pa.array([[1.0], [2.0], [3.0]], pa.list_(pa.float32(), 1)),
        }
    ).replace_schema_metadata({"encoder": "toy"})
    pq.write_table(table, path)
    assert drop_rows(path, marks()) == 2
    assert pq.read_table(path).equals(table.slice(2))
    assert pq.read_table(path).schema.metadata == {b"encoder": b"toy"}


def test_a_table_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"no table")
    with pytest.raises(CxrEmbedError, match=r"t\.parquet: cannot be read or written"):
        count_rows(tmp_path / "t.parquet", marks())
    (tmp_path / "t.npz").write_bytes(b"no archive")
    with pytest.raises(CxrEmbedError, match=r"t\.npz: cannot be looked into"):
        count_mentions(tmp_path / "t.npz", marks())


@pytest.mark.parametrize("seen", [True, False])
def test_texts_arrays_and_pictures(tmp_path: Path, seen: bool) -> None:
    """`seen`: by the ids themselves; or, when no store knows them any more, by their hashes."""
    found = marks("folder/i7 & co", "p<3>")
    if not seen:
        found = Marks(Known(forgotten=found.known.forgotten))
    texts = {
        "a.json": json.dumps({"draws": [["folder/i7 & co", "x"]]}),
        "b.json": json.dumps({"p<3>": 1}),
        "c.html": "<td>folder/i7 &amp; co</td>",
        "d.html": "<b>p&lt;3&gt;</b>",
        "e.txt": "01" * 32,
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert count_mentions(tmp_path / name, found) >= 1, name
    for name, text in {"f.json": '["i7", "p<33>"]', "g.html": "<td>folder/i7 &amp; company</td>"}.items():
        (tmp_path / name).write_text(text)
        assert count_mentions(tmp_path / name, found) == 0, name
    np.savez(tmp_path / "key.npz", **{"folder/i7 & co": np.zeros(3)})
    np.savez(tmp_path / "ids.npz", image_id=np.array(["x", "folder/i7 & co"]), vectors=np.zeros((2, 3)))
    np.save(tmp_path / "ids.npy", np.array(["p<3>"]))
    np.save(tmp_path / "numbers.npy", np.zeros(3))
    (tmp_path / "none.png").write_bytes(b"no picture")
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink:
        table = pa.table({"image_id": ["folder/i7 & co"]})
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    write_montage(tmp_path / "m.png", [], [Panel("1", why="x", image_id="folder/i7 & co")], rules="", notes=[])
    write_montage(tmp_path / "m.pdf", [], [Panel("1", why="x", image_id="folder/i7 & co")], rules="", notes=[])
    write_montage(tmp_path / "other.png", [], [Panel("1", why="x", image_id="i7")], rules="", notes=[])
    counts = {path.name: count_mentions(path, found) for path in tmp_path.iterdir() if path.name not in texts}
    hits = {name for name, count in counts.items() if count}
    assert hits == {"key.npz", "ids.npz", "ids.npy", "t.arrow", "m.png", "m.pdf"}
