"""Croissant files: ours pass mlcroissant's own checks and read back alike; others' are read, and nothing is fetched."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import run_cli
from PIL import Image

from cxr_embed.api.search import places_of
from cxr_embed.errors import ManifestError
from cxr_embed.manifest import (
    Companion,
    companion_of,
    companion_path,
    missing_files,
    read_croissant,
    read_labels,
    read_manifest,
    read_paths,
    read_values,
    write_companion,
    write_croissant,
    write_manifest,
)

# rdflib, under mlcroissant, warns of its own classes.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
mlc = pytest.importorskip("mlcroissant", reason="needs the extra croissant")
HEAD = "image_id,path,patient_id,study_date,age,sex,device,Pleural Thickening,Mass\n"
SAYS = Companion(
    title="A made-up set",
    not_findings=("device",),
    blank="negative",
    licence="CC0-1.0",
    source="https://example.org/set",
    citation="Somebody, 1999",
)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def draw(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((70, 70), 10 + number, np.uint8)).save(folder / name)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A manifest in one folder, its radiographs in another."""
    draw(tmp_path / "films", ["a/x.png", "a/y.png", "b/z.PNG"])
    (tmp_path / "set").mkdir()
    rows = ["0012,a/x.png,p0,2020-01-01,48,F,d1,1,", "0013,a/y.png,p0,,,M,d2,,0", "14,b/z.PNG,p1,2020-03-01,7,,d2,-1,1"]
    manifest = tmp_path / "set" / "nih.csv"
    manifest.write_text(HEAD + "\n".join(rows) + "\n")
    write_companion(manifest, Companion(**{**vars(SAYS), "root": "../films"}))
    return tmp_path


def test_ours_pass_the_library_s_checks_and_its_reader(world: Path) -> None:
    out = world / "set.croissant.json"
    steps: list[tuple[str, int, int]] = []
    written = write_croissant(world / "set" / "nih.csv", out, progress=lambda *step: steps.append(step))
    assert (written.images, written.fields, written.joined) == (3, 9, False)
    assert steps[-1] == ("reading", 3, 3)
    dataset = mlc.Dataset(jsonld=out)
    assert not dataset.metadata.issues.errors
    assert (dataset.metadata.license, dataset.metadata.cite_as) == (["CC0-1.0"], "Somebody, 1999")
    records = list(dataset.records("radiographs"))
    assert [record["radiographs/path"] for record in records] == [b"a/x.png", b"a/y.png", b"b/z.PNG"]
    assert [record["radiographs/Pleural_Thickening"] for record in records] == [1, None, -1]
    pictures = list(dataset.records("pictures"))
    for record, name in zip(pictures, ["a/x.png", "a/y.png", "b/z.PNG"], strict=True):
        assert record["pictures/file"] == f"films/{name}".encode()
        read = np.asarray(record["pictures/image"].convert("L"))
        np.testing.assert_array_equal(read, np.asarray(Image.open(world / "films" / name)))
    digests = {record["checksums/path"]: record["checksums/sha256"] for record in dataset.records("checksums")}
    assert digests["a/x.png"] == hashlib.sha256((world / "films" / "a" / "x.png").read_bytes()).hexdigest()


def test_ours_is_as_good_as_the_manifest(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = world / "set.croissant.json"
    plain = read_manifest(world / "set" / "nih.csv")
    write_croissant(world / "set" / "nih.csv", out)
    for read in (read_manifest, read_labels):
        table = read(out)
        assert table.table.equals(plain.table), "0012 is text, and stays it"
        assert (table.findings, table.blank, table.notes) == (plain.findings, "negative", ())
        assert table.root.resolve() == world / "films"
        assert missing_files(table) == []
    assert read_values(out).table.column_names == plain.table.column_names
    assert read_paths(out)["14"] == "b/z.PNG"
    assert places_of(out).root.resolve() == world / "films"  # type: ignore[attr-defined]
    said = companion_of(out)
    assert said is not None
    assert (said.root, said.licence, said.not_findings) == ("films", "CC0-1.0", ("device",))
    assert read_manifest(out, root=world).root == world
    assert read_manifest(out, extra=["Mass"]).findings == ("Pleural Thickening",)
    monkeypatch.chdir(world)
    assert read_manifest("set.croissant.json").root.resolve() == world / "films"
    # The folder moves as a whole.
    (world / "new").mkdir()
    for name in ("set", "films", "set.croissant.json"):
        os.rename(world / name, world / "new" / name)
    assert missing_files(read_manifest(world / "new" / "set.croissant.json")) == []


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_beside_the_radiographs_rows_and_pictures_are_joined(tmp_path: Path, suffix: str) -> None:
    draw(tmp_path, ["x.png", "y.png"])
    columns = {"image_id": ["1", "2"], "path": ["x.png", "y.png"], "patient_id": ["p", "q"], "Über (%)": ["1", ""]}
    write_manifest(tmp_path / "m.csv", columns)
    manifest = tmp_path / f"m{suffix}"
    if suffix == ".csv.gz":
        manifest.write_bytes(gzip.compress((tmp_path / "m.csv").read_bytes()))
    assert write_croissant(manifest, tmp_path / "c.json").joined
    if suffix == ".csv":
        records = list(mlc.Dataset(jsonld=tmp_path / "c.json").records("radiographs"))
        assert [record["radiographs/path"] for record in records] == [b"x.png", b"y.png"]
        assert [np.asarray(record["radiographs/image_"])[0, 0].max() for record in records] == [10, 11]
    assert read_manifest(tmp_path / "c.json").table.to_pydict() == columns
    assert read_manifest(tmp_path / "c.json").findings == ("Über (%)",)


def test_a_manifest_beside_its_radiographs_below(tmp_path: Path) -> None:
    draw(tmp_path / "cases", ["images/a.png"])
    manifest = tmp_path / "cases" / "m.csv"
    write_manifest(manifest, {"image_id": ["a"], "path": ["images/a.png"], "patient_id": ["p"], "X": ["1"]})
    write_croissant(manifest, tmp_path / "c.json")
    assert missing_files(read_manifest(tmp_path / "c.json")) == [], "without a companion, as the manifest has it"
    draw(tmp_path / "films", ["images/a.png"])
    with pytest.raises(ManifestError, match="its companion does not say so; `cxr-embed manifest describe` says it"):
        write_croissant(manifest, tmp_path / "d.json", root=tmp_path / "films")
    write_companion(manifest, Companion(title="no folder in it"))
    write_croissant(manifest, tmp_path / "e.json")
    assert missing_files(read_manifest(tmp_path / "e.json")) == []


def test_the_verbs(world: Path) -> None:
    out = world / "set.croissant.json"
    manifest = world / "set" / "nih.csv"
    done = run_cli("manifest", "croissant", str(manifest), "--out", str(out))
    assert (done.returncode, done.stdout) == (0, f"{out}: 3 images, 9 columns, a digest of each file\n")
    assert "note: radiographs in several folders: other programs get rows and pictures apart" in done.stderr
    assert run_cli("manifest", "croissant", str(manifest), "--out", str(out)).returncode == 0
    shown = run_cli("manifest", "validate", str(out))
    assert (shown.returncode, f"{out} says:" in shown.stdout) == (0, True), shown.stderr
    assert run_cli("embed", str(out), "--encoder", "hog", "--store", str(world / "s")).returncode == 0
    draw(world / "films", ["b/z.PNG"])
    (world / "films" / "a" / "y.png").unlink()
    found = json.loads(run_cli("manifest", "validate", str(out), "--json").stdout)
    assert len(found["problems"]) == 2
    assert f"1 file has changed since {out} was written: b/z.PNG" in found["problems"]
    done = run_cli("manifest", "croissant", str(manifest), "--out", str(world / "other.json"), "--json")
    assert (done.returncode, "1 of 3 files are missing below" in done.stderr) == (1, True)


def test_what_cannot_be_described(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = world / "set" / "nih.csv"
    with pytest.raises(ManifestError, match=r"names files below its own folder; give an `out` in "):
        write_croissant(manifest, world / "set" / "c.json")
    with pytest.raises(ManifestError, match=r"one whose name ends in \.json"):
        write_croissant(manifest, world / "c.csv")
    with pytest.raises(ManifestError, match="another name than its companion's"):
        write_croissant(manifest, companion_path(manifest))
    (world / "c.json").write_text("mine")
    with pytest.raises(ManifestError, match=r"c\.json: there already, with other content; give another `out`"):
        write_croissant(manifest, world / "c.json")
    assert (world / "c.json").read_text() == "mine"
    (world / "outside.png").write_bytes((world / "films" / "a" / "x.png").read_bytes())
    (world / "films" / "a" / "y.png").unlink()
    (world / "films" / "a" / "y.png").symlink_to(world / "outside.png")
    with pytest.raises(ManifestError, match=r"a/y\.png leads out of .*films through a link"):
        write_croissant(manifest, world / "d.json")
    (world / "films" / "a" / "y.png").unlink()
    draw(world / "films", ["a/y.png"])
    manifest.write_text(manifest.read_text().replace(",", ";"))
    with pytest.raises(ManifestError, match="separated by ';'"):
        write_croissant(manifest, world / "d.json")
    manifest.write_text(manifest.read_text().replace(";", ","))
    write_manifest(world / "films" / "p.parquet", {"image_id": ["a"], "path": ["a/x.png"], "patient_id": ["p"]})
    with pytest.raises(ManifestError, match="a Croissant file describes a CSV"):
        write_croissant(world / "films" / "p.parquet", world / "d.json")
    write_croissant(manifest, world / "d.json")
    with pytest.raises(ManifestError, match="give a manifest, and an `out` of another name"):
        write_croissant(world / "d.json", world / "e.json")
    monkeypatch.setitem(sys.modules, "mlcroissant", None)
    with pytest.raises(ManifestError, match=r"need mlcroissant, which is not installed; run pip install 'cxr-embed\[c"):
        read_manifest(world / "d.json")


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def column(own: str, name: str, kind: Any, **more: Any) -> Any:
    source = mlc.Source(file_object="table", extract=mlc.Extract(column=name), **more)
    return mlc.Field(id=f"cases/{own}", name=own, data_types=[kind], source=source)


@pytest.fixture
def theirs(tmp_path: Path) -> Callable[..., Path]:
    """Somebody else's table and images, described with mlcroissant alone."""
    draw(tmp_path / "images", ["00000001_000.png", "deep/00000002_001.png"])
    table = tmp_path / "Data_Entry.csv"
    table.write_text(
        "Image Index,Patient ID,Sex,Scanner,Mass,Unused\n00000001_000.png,0007,F,x,1,q\n00000002_001.png,0008,M,y,0,q\n"
    )

    def write(
        change: Callable[[dict[str, Any]], None] = lambda _: None, by_field: bool = False, **of_file: Any
    ) -> Path:
        text, number = mlc.DataType.TEXT, mlc.DataType.INTEGER
        name = column("image_id", "Image Index", text)
        extract = mlc.Extract(file_property=mlc.FileProperty.filename)
        name.references = mlc.Source(field="films/name") if by_field else mlc.Source(file_set="films_", extract=extract)
        content = mlc.Extract(file_property=mlc.FileProperty.content)
        fields = [
            name,
            column("patient_id", "Patient ID", text),
            column("sex", "Sex", text),
            column("scanner", "Scanner", text),
            column("Mass", "Mass", number),
        ]
        sets = []
        if by_field:
            named = mlc.Field(
                id="films/name", name="name", data_types=[text], source=mlc.Source(file_set="films_", extract=extract)
            )
            sets = [mlc.RecordSet(id="films", name="films", fields=[named])]
        else:
            films = mlc.Source(file_set="films_", extract=content)
            fields.append(mlc.Field(id="cases/film", name="film", data_types=[mlc.DataType.IMAGE_OBJECT], source=films))
        made = mlc.Metadata(
            name="theirs",
            description="A made-up set",
            license=["CC-BY-4.0"],
            url="https://example.org/theirs",
            cite_as="They, 2001",
            distribution=[
                mlc.FileObject(
                    **{
                        "id": "table",
                        "name": "Data_Entry.csv",
                        "content_url": "Data_Entry.csv",
                        "encoding_formats": ["text/csv"],
                        "sha256": sha(table),
                        **of_file,
                    }
                ),
                mlc.FileSet(id="films_", name="films", includes=["images/*.png"], encoding_formats=["image/png"]),
            ],
            record_sets=[*sets, mlc.RecordSet(id="cases", name="cases", fields=fields)],
        )
        body = json.loads(json.dumps(made.to_json(), default=str))
        change(body)
        out = tmp_path / "theirs.json"
        out.write_text(json.dumps(body))
        return out

    return write


@pytest.mark.parametrize("by_field", [False, True])
def test_another_s_is_read(theirs: Callable[..., Path], by_field: bool, tmp_path: Path) -> None:
    path = theirs(by_field=by_field)
    if not by_field:
        assert len(list(mlc.Dataset(jsonld=path).records("cases"))) == 2, "it is a good one"
    table = read_manifest(path)
    assert table.table.to_pydict() == {
        "image_id": ["00000001_000.png", "00000002_001.png"],
        "patient_id": ["0007", "0008"],
        "sex": ["F", "M"],
        "scanner": ["x", "y"],
        "Mass": ["1", "0"],
        "path": ["images/00000001_000.png", "images/deep/00000002_001.png"],
    }
    assert table.findings == ("Mass",), "text is not a finding, and says so itself"
    assert (table.root, missing_files(table), table.blank) == (tmp_path, [], "unknown")
    said = companion_of(path)
    assert said is not None
    assert (said.title, said.licence, said.citation) == ("theirs", "CC-BY-4.0", "They, 2001")
    assert read_croissant(path).checksums == {}


def test_a_file_that_is_at_an_address_but_here(theirs: Callable[..., Path]) -> None:
    assert len(read_manifest(theirs(content_url="https://example.org/get/Data_Entry.csv?download=1"))) == 2


def set_of(body: dict[str, Any]) -> dict[str, Any]:
    return next(each for each in body["recordSet"] if each["@id"] == "cases")


def rename_field(body: dict[str, Any], before: str, after: str) -> None:
    next(each for each in set_of(body)["field"] if each["name"] == before)["name"] = after


BAD: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], None], str]] = {
    "address": ({"content_url": "https://example.org/other.csv"}, lambda _: None, "nothing is fetched; put the file"),
    "address of git": ({"content_url": "git+ssh://example.org/x.csv"}, lambda _: None, "nothing is fetched"),
    "file address": ({"content_url": "file:///etc/passwd"}, lambda _: None, "nothing is fetched; put the file"),
    "above": ({"content_url": "../secret.csv"}, lambda _: None, "does not stay below the Croissant file's folder"),
    "absolute": ({"content_url": "/etc/passwd"}, lambda _: None, "does not stay below the Croissant file's folder"),
    "drive": ({"content_url": "C:\\x.csv"}, lambda _: None, "nothing is fetched|does not stay below"),
    "missing": ({"content_url": "none.csv"}, lambda _: None, "none.csv: no such file"),
    "changed": ({"sha256": "0" * 64}, lambda _: None, r"Data_Entry\.csv has changed: its sha256 is another"),
    "changed md5": ({"sha256": None, "md5": "0" * 32}, lambda _: None, "its md5 is another"),
    "no patients": ({}, lambda b: rename_field(b, "patient_id", "who"), "no record set has a field patient_id"),
    "no such column": (
        {},
        lambda b: set_of(b)["field"][1]["source"]["extract"].update(column="Patient"),
        "has no column Patient",
    ),
    "twice": ({}, lambda b: rename_field(b, "scanner", "sex"), "two fields are named sex"),
    "transform": (
        {},
        lambda b: set_of(b)["field"][1]["source"].update(transform={"regex": "(.)"}),
        "field patient_id is made by a transform",
    ),
    "context": ({}, lambda b: b.update({"@context": "https://example.org/context.json"}), "not a Croissant file"),
    "context in a list": (
        {},
        lambda b: b.update({"@context": [b["@context"], "http://x.org"]}),
        "not a Croissant file",
    ),
    "context within": (
        {},
        lambda b: b["distribution"][0].update({"@context": "http://example.org/c"}),
        "its @context is an address, and nothing is fetched",
    ),
    "import": ({}, lambda b: b["@context"].update({"@import": "http://example.org/c"}), "its @context is an address"),
    "archive": (
        {},
        lambda b: b["distribution"][1].update(containedIn={"@id": "table"}),
        "inside an archive; unpack it|not a valid Croissant",
    ),
    "invalid": ({}, lambda b: b["distribution"][0].pop("encodingFormat"), "not a valid Croissant file"),
    "an id with a space": ({}, lambda b: set_of(b)["field"][1].update({"@id": "a b"}), "not a valid Croissant file"),
    "odd": ({}, lambda b: b.update(recordSet=[3]), "not a valid Croissant file|no record set"),
    "no sets": ({}, lambda b: b.pop("recordSet"), "no record set has a field patient_id.*there are: none"),
    "no type": ({}, lambda b: b.pop("@type"), "not a valid Croissant file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_one_is_an_error_of_a_line(theirs: Callable[..., Path], name: str) -> None:
    of_file, change, fault = BAD[name]
    path = theirs(change, **of_file)
    with pytest.raises(ManifestError, match=fault) as caught:
        read_manifest(path)
    assert str(caught.value).count("\n") == 0
    assert len(str(caught.value)) < 1500


def test_files_that_links_lead_away_to(theirs: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = theirs()
    table = path.with_name("Data_Entry.csv")
    away = tmp_path_factory.mktemp("away") / "t.csv"
    away.write_bytes(table.read_bytes())
    table.unlink()
    table.symlink_to(away)
    with pytest.raises(ManifestError, match="leads out of the Croissant file's folder through a link"):
        read_manifest(path)


def test_two_files_of_one_name(theirs: Callable[..., Path], tmp_path: Path) -> None:
    draw(tmp_path / "images", ["more/00000001_000.png"])
    with pytest.raises(ManifestError, match=r"image_id '00000001_000\.png' is the name of several files: images/0"):
        read_manifest(theirs())


def test_a_companion_that_leads_away(world: Path) -> None:
    out = world / "set.croissant.json"
    manifest = world / "set" / "nih.csv"
    write_croissant(manifest, out)
    companion = companion_path(manifest)
    body = json.loads(companion.read_text())
    companion.write_text(json.dumps({**body, "blank": "unknown"}))
    with pytest.raises(ManifestError, match=r"nih\.json has changed: its sha256 is another; write the Croissant"):
        read_manifest(out)
    companion.unlink()
    with pytest.raises(ManifestError, match=r"nih\.json is missing: it says what the table's columns are"):
        read_manifest(out)
    companion.write_text(json.dumps({**body, "root": "../.."}))
    described = json.loads(out.read_text())
    described["distribution"] = [each for each in described["distribution"] if each["@id"] != "companion"]
    out.write_text(json.dumps(described))
    with pytest.raises(ManifestError, match="which is not below this file's folder; give `root`"):
        read_manifest(out)
    assert len(read_manifest(out, root=world / "films")) == 3


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", r"not a Croissant file \(it has no @context"),
        ('{"format": "cxr_embed.manifest", "manifest": "nih.csv"}', "companion; give the manifest itself, nih.csv"),
        ('{"@context": {}}', "not a valid Croissant file"),
        ('{"@context": {"@vocab": 3}, "@type": 4}', "not a valid Croissant file"),
    ],
)
def test_any_other_json(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ManifestError, match=fault):
        read_manifest(tmp_path / "x.json")
    with pytest.raises(ManifestError, match="no such file"):
        read_labels(tmp_path / "none.jsonld")
