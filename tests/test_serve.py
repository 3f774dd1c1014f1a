"""The case browser in this process: what a search finds, what pages show, what they never do."""

from __future__ import annotations

import csv
import io
import json
import os
import runpy
import shutil
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from helpers import IN_CI
from PIL import Image
from pydicom.uid import JPEGLSLossless
from serve_world import HOSTILE, SECRET, Visitor, close, make_hostile, make_phantoms, serve, visitor
from test_dicom import SECRETS, dicom, planted, planted_files
from test_mutated_files import mutate
from typer.testing import CliRunner

from cxr_embed import open_index
from cxr_embed.cli import app
from cxr_embed.errors import CaseIndexError, EncoderError, ImageError, ManifestError
from cxr_embed.web import decoding, uploads
from cxr_embed.web.serving import open_site, warm
from cxr_embed.web.wire import unpacked


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantoms(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def phantoms(folder: Path) -> Iterator[Visitor]:
    made = visitor(folder, manifest=folder / "cases" / "manifest.csv")
    yield made
    close([made])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Visitor:
    return visitor(make_hostile(tmp_path_factory.mktemp("hostile")))


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "cases" / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


# Searching


def test_a_case_finds_what_the_library_finds(phantoms: Visitor, folder: Path) -> None:
    first = rows(folder)[0]["image_id"]
    expected = open_index(folder / "index").search(image_id=first, k=5, where="view = PA", one_per_patient=True)
    found = phantoms.client.get(
        "/api/search", params={"case": first, "k": 5, "view": "PA", "one_per_patient": True}
    ).json()
    assert [case["image_id"] for case in found["cases"]] == expected.ids
    assert [case["similarity"] for case in found["cases"]] == [case["similarity"] for case in expected.cases]
    assert found["note"] == "For research; not a medical device."
    assert found["passing"] == open_index(folder / "index").index.count("view = PA")


def test_words_find_what_the_library_finds_and_unknown_ones_are_named(phantoms: Visitor, folder: Path) -> None:
    expected = open_index(folder / "index").search(text="large pleural effusion", k=4)
    assert phantoms.cases(words="large pleural effusion", k=4) == expected.ids
    for _ in range(2):  # the second answer comes from memory
        page = phantoms.client.get("/", params={"words": "zzqx"}).text
        assert "zzqx" in page
        assert "never learned" in page


def test_both_signs_at_once(phantoms: Visitor, folder: Path) -> None:
    first, second = (row["image_id"] for row in rows(folder)[:2])
    expected = open_index(folder / "index").search(image_id=first, not_image_id=second, text="effusion", k=6)
    assert phantoms.cases(case=first, not_case=second, words="effusion", k=6) == expected.ids


def test_a_dropped_file_finds_what_the_file_finds(phantoms: Visitor, folder: Path) -> None:
    path = folder / "cases" / rows(folder)[0]["path"]
    expected = open_index(folder / "index").search(image=path, k=4)
    sent = phantoms.client.post("/api/upload", content=path.read_bytes())
    assert sent.status_code == 201
    known = sent.json()
    assert known["looks_like_chest"] is True
    assert phantoms.cases(upload=known["upload"], k=4) == expected.ids
    page = phantoms.client.get(known["address"])
    assert "your picture is indexed, as" in page.text
    assert path.name not in page.text.replace(rows(folder)[0]["image_id"], "")
    picture = phantoms.client.get("/api/picture", params={"upload": known["upload"], "size": "large"})
    assert Image.open(io.BytesIO(picture.content)).size == (128, 128)


def test_a_picture_that_is_not_a_chest_is_said_so(phantoms: Visitor) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    sent = phantoms.client.post("/api/upload", content=file.getvalue()).json()
    assert sent["looks_like_chest"] is False
    assert "your picture does not look like a chest radiograph" in phantoms.client.get(sent["address"]).text


def test_without_an_example_the_cases_that_pass_are_listed(phantoms: Visitor, folder: Path) -> None:
    expected = [row["image_id"] for row in rows(folder) if row["sex"] == "F" and row["view"] == "PA"]
    assert phantoms.cases(sex="F", view="PA", k=100) == expected
    once = phantoms.cases(one_per_patient=True, k=100)
    patients = {row["image_id"]: row["patient_id"] for row in rows(folder)}
    assert len({patients[name] for name in once}) == len(once) == len(set(patients.values()))


@pytest.mark.parametrize(
    ("question", "condition"),
    [
        ({"where": "view = PA or age > 60", "sex": "M"}, "(view = PA or age > 60) and sex = M"),
        ({"age_from": 30, "age_to": 50}, "age between 30 and 50"),
        ({"date_from": "2020-01-01", "date_to": "2021-06-30"}, "study_date between 2020-01-01 and 2021-06-30"),
        ({"finding": "Cardiomegaly"}, "Cardiomegaly = 1"),
        ({"view": ["PA", "AP"], "split": "train"}, "view in (PA, AP) and split = train"),
    ],
)
def test_filters_are_conditions(phantoms: Visitor, folder: Path, question: dict[str, object], condition: str) -> None:
    found = phantoms.client.get("/api/search", params={**question, "k": 3}).json()
    assert found["passing"] == open_index(folder / "index").index.count(condition)


def test_before_a_day(phantoms: Visitor) -> None:
    found = phantoms.client.get("/api/search", params={"before": "2021-01-01", "words": "effusion", "k": 100}).json()
    assert {case["study_date"] < "2021-01-01" for case in found["cases"]} == {True}
    assert phantoms.client.get("/api/search", params={"before": "soon"}).status_code == 400


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"case": "nobody"}, "has no case nobody"),
        ({"where": "view = "}, "stops too early"),
        ({"where": "view = PA) or (age > 3"}, "not understood"),
        ({"not_case": "x"}, "name a case, words or a picture"),
        ({"words": " ", "upload": "x"}, "is gone"),
        ({"k": "0"}, "greater than or equal to 1"),
        ({"exclude_same_patient": "true", "words": "effusion"}, "its patient is not known"),
    ],
)
def test_what_cannot_be_answered_is_said(phantoms: Visitor, folder: Path, question: dict[str, str], said: str) -> None:
    answer = phantoms.client.get("/api/search", params=question)
    assert answer.status_code in (400, 410, 422)
    assert said.lower() in answer.json()["error"].lower()
    page = phantoms.client.get("/", params=question)
    assert page.status_code == answer.status_code
    assert said.lower()[:20] in page.text.lower()
    assert str(folder) not in page.text + answer.text


def test_addresses_are_stable(phantoms: Visitor, folder: Path) -> None:
    first = rows(folder)[0]["image_id"]
    address = f"/?case={first}&view=PA&one_per_patient=true"
    answer = phantoms.client.get(address + "&words=&age_from=&where=", headers={"hx-request": "true"})
    assert answer.headers["hx-push-url"] == address
    assert phantoms.client.get(address).text == phantoms.client.get(address).text


# What is shown


def test_hostile_texts_are_text(hostile: Visitor) -> None:
    for question in (
        {},
        {"case": "c3", "where": f"site = '{HOSTILE}'"},
        {"words": HOSTILE},
        {"patient": HOSTILE, "site": HOSTILE, "finding": f"Effusion{HOSTILE}"},
        {"case": HOSTILE},
        {"where": HOSTILE},
        {"age_from": HOSTILE},
    ):
        page = hostile.client.get("/", params=question).text
        assert "<script>alert" not in page
        assert "<img src=x" not in page
    assert "&lt;script&gt;alert" in hostile.client.get("/").text


def test_no_other_column_leaves_the_server(hostile: Visitor) -> None:
    asked = [
        "/",
        "/?case=c1",
        "/api/search?case=c1",
        "/api/search?k=100",
        "/api/index",
        "/?where=patient_name+%3D+x",
        "/?where=site+%3D+A+and+not+patient_name+is+known",
        "/?where=patient_nam+%3D+x",
        "/api/search?where=patient_name+%3D+x",
        "/endpoints",
    ]
    answers = [hostile.client.get(address) for address in asked]
    for answer in answers:
        assert SECRET not in answer.text
        assert all(SECRET not in value for value in answer.headers.values())
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 200, 400, 400, 400, 400, 200]
    assert "patient_name" not in hostile.client.get("/api/index").json()["columns"]


def test_the_log_has_no_question(hostile: Visitor) -> None:
    hostile.lines.clear()
    for address in ("/?words=Doe+Jane", "/Doe/Jane", "/api/search?case=Doe", "/api/picture?case=Doe", "/static/Doe"):
        hostile.client.get(address)
    hostile.client.post("/api/upload", content=b"Doe Jane")
    assert len(hostile.lines) == 6
    assert not any("Doe" in line or "Jane" in line for line in hostile.lines)
    assert any("GET / " in line for line in hostile.lines)


def test_every_page_says_what_it_is_for(hostile: Visitor) -> None:
    for address in ("/", "/endpoints", "/nothing", "/?where=x"):
        assert "For research; not a medical device." in hostile.client.get(address).text


# Pictures


def test_pictures_of_cases(phantoms: Visitor, folder: Path) -> None:
    row = rows(folder)[0]
    small = phantoms.client.get("/api/picture", params={"case": row["image_id"]})
    assert small.headers["content-type"] == "image/jpeg"
    assert small.headers["cache-control"] == "no-store"
    raw = phantoms.client.get("/api/pixels", params={"case": row["image_id"]}).content
    head, (pixels,) = unpacked(raw)
    expected = np.asarray(Image.open(folder / "cases" / row["path"]))
    assert (head["height"], head["width"]) == expected.shape
    assert np.array_equal(np.frombuffer(pixels, f"<u{head['depth']}").reshape(expected.shape), expected)
    assert struct.unpack(">I", raw[:4])[0] == len(raw) - 4 - expected.nbytes


def test_no_path_leaves_the_folder(folder: Path, tmp_path: Path) -> None:
    first, second, third, fourth = rows(folder)[:4]
    shutil.copytree(folder / "cases", tmp_path / "cases")
    outside = tmp_path / "outside.png"
    shutil.copy(folder / "cases" / first["path"], outside)
    (tmp_path / "cases" / "link.png").symlink_to(outside)
    shutil.copy(folder / "cases" / first["path"], tmp_path / "cases" / fourth["path"])
    manifest = tmp_path / "cases" / "manifest.csv"
    with open(manifest, "w", newline="") as file:
        written = csv.writer(file)
        written.writerow(["image_id", "path"])
        written.writerow([first["image_id"], "../outside.png"])
        written.writerow([second["image_id"], "link.png"])
        written.writerow([third["image_id"], str(outside)])
        written.writerow([fourth["image_id"], fourth["path"]])
    made = visitor(folder, manifest=manifest)
    try:
        for row, why in (
            (first, "its path leaves the folder"),
            (second, "through a link"),
            (third, "its path leaves the folder"),
            (fourth, "another file than was embedded"),
            (rows(folder)[5], "no path"),
            ({"image_id": "nobody"}, "not in the index"),
        ):
            answer = made.client.get("/api/picture", params={"case": row["image_id"]})
            assert answer.status_code == 404
            assert why in answer.text
            assert answer.headers["content-type"] == "image/svg+xml"
            assert made.client.get("/api/pixels", params={"case": row["image_id"]}).status_code in (400, 404)
    finally:
        close([made])


# Uploads


def test_an_upload_is_bounded_and_leaves_nothing_behind(
    phantoms: Visitor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.setattr(uploads, "MOST_BYTES", 50_000)
    assert phantoms.client.post("/api/upload", content=b"x" * 50_001).status_code == 413
    assert phantoms.client.post("/api/upload", content=iter([b"x" * 30_000] * 2)).status_code == 413
    refused = phantoms.client.post("/api/upload", content=b"<html>")
    assert (refused.status_code, refused.json()["kind"]) == (400, "not-an-image")
    assert phantoms.client.post("/api/upload", content=b"").status_code == 400
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_nothing_that_a_header_says_of_a_person_leaves_the_server(phantoms: Visitor) -> None:
    tags = dict.fromkeys(("PatientName", "StudyDescription", "ImageComments"), HOSTILE)
    files = {**planted_files(), "tags": planted(ViewPosition="<SCRIPT>", PatientSex="<b>", PatientAge="<i>", **tags)}
    secrets = [*SECRETS.values(), "Quirrelbach", "QUIRRELBACH", "Zimtschnecke", "<SCRIPT>", "<script>alert", "onerror"]
    phantoms.lines.clear()
    taken = 0
    for name, data in files.items():
        sent = phantoms.client.post("/api/upload", content=data)
        answers = [sent]
        if sent.status_code == 201:
            taken += 1
            token = sent.json()["upload"]
            asked = (f"/?upload={token}", f"/api/search?upload={token}", f"/compare?upload={token}")
            answers += [phantoms.client.get(path) for path in (*asked, f"/api/compare?upload={token}")]
            raw = phantoms.client.get(f"/api/pixels?upload={token}").content
            answers.append(raw[: 4 + struct.unpack(">I", raw[:4])[0]])
        for answer in answers:
            text = answer.decode() if isinstance(answer, bytes) else answer.text + str(answer.headers)
            assert [secret for secret in secrets if secret in text] == [], name
    assert taken > 5
    assert [line for line in phantoms.lines if any(secret in line for secret in secrets)] == []


def test_uploads_are_let_go_of() -> None:
    class Still:
        def decode(self, *_: object, **__: object) -> decoding.Decoded:
            image = decoding.CxrImage(pixels=np.zeros((512, 512), np.uint8), bits=8, content_id="", source="png")
            return decoding.Decoded(image, (b"s",), "", (), False)

    now = [0.0]
    kept = uploads.Uploads(Still(), lambda: now[0])  # type: ignore[arg-type]
    first = kept.add(b"")
    now[0] = uploads.KEPT_SECONDS - 1
    assert kept.get(first) is not None
    now[0] *= 2
    assert kept.get(first) is not None  # looked at in between
    now[0] += uploads.KEPT_SECONDS + 1
    assert kept.get(first) is None
    assert len(kept) == 0


def test_a_file_that_ends_its_decoder_ends_no_more(folder: Path) -> None:
    good = (folder / "cases" / rows(folder)[0]["path"]).read_bytes()
    decoders = decoding.Decoders(1)
    try:
        assert decoders.decode(good, (64,)).previews[0][:2] == b"\xff\xd8"
        (worker,) = decoders._workers
        assert worker._process is not None
        worker._process.kill()
        worker._process.wait()
        assert decoders.decode(good, (64,)).previews[0][:2] == b"\xff\xd8"
        os.kill(worker._process.pid, signal.SIGSTOP)
        decoders._seconds = 0.2
        with pytest.raises(ImageError, match="took longer than"):
            decoders.decode(good, (64,))
        decoders._seconds = decoding.SECONDS
        assert decoders.decode(good, (), pixels=True).image is not None
    finally:
        decoders.close()


# Generations


def test_a_request_sees_one_generation(tmp_path: Path) -> None:
    made = visitor(make_hostile(tmp_path, 12, 0))
    state = made.site.state
    first = state.current()
    assert made.client.get("/api/index").json()["cases"] == 12

    def rebuilt_meanwhile(now: object) -> tuple[str, int]:
        if now is first:
            make_hostile(tmp_path, 24, 1)
            raise CaseIndexError("a file went away")
        return state.current().name, len(state.current().index)

    def refused(_: object) -> None:
        raise CaseIndexError("of its own")

    assert state.answer(rebuilt_meanwhile) == (state.current().name, 24)
    assert state.current().name != first.name
    assert len(first.index.search(first.index.vectors[:1], 12).ids[0]) == 12  # what is mapped stays
    assert made.client.get("/api/index").json()["cases"] == 24
    with pytest.raises(CaseIndexError, match="of its own"):
        state.answer(refused)


def test_an_index_that_went_away_is_said_so(tmp_path: Path) -> None:
    made = visitor(make_hostile(tmp_path))
    shutil.rmtree(tmp_path / "index")
    answer = made.client.get("/api/search")
    assert answer.status_code == 400
    assert str(tmp_path) not in answer.text


# The start


def test_what_does_not_belong_together_is_said_at_the_start(folder: Path, tmp_path: Path) -> None:
    make_hostile(tmp_path)
    with pytest.raises(EncoderError, match="toy embeds no words"):
        open_site(tmp_path / "index", prompts="phantom8")
    with pytest.raises(Exception, match="of the same encoder"):
        open_site(tmp_path / "index", store=folder / "store")
    with pytest.raises(ManifestError, match="has none of its cases"):
        open_site(tmp_path / "index", manifest=folder / "cases" / "manifest.csv")
    with pytest.raises(CaseIndexError):
        open_site(tmp_path / "nothing")


def test_the_encoders_are_loaded_before_the_first_reader(phantoms: Visitor, hostile: Visitor) -> None:
    assert warm(phantoms.site) == []
    images, texts = phantoms.site.state.encoders._kept.values()
    assert images is texts  # of one model that reads both, one
    assert "pictures cannot be searched for" in warm(hostile.site)[0]
    close([hostile])


def test_the_endpoints_are_listed(phantoms: Visitor) -> None:
    described = phantoms.client.get("/api/openapi.json").json()
    page = phantoms.client.get("/endpoints").text
    for path in described["paths"]:
        assert path in page
    assert {"/api/search", "/api/upload", "/api/picture", "/api/pixels", "/api/index"} <= set(described["paths"])
    assert json.dumps(described).count(SECRET) == 0


def test_the_example_of_a_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "serve_client.py"))["main"]
    path = folder / "cases" / rows(folder)[0]["path"]
    with serve(folder / "index") as address:
        main(address, str(path), "view = PA")
        with pytest.raises(SystemExit, match="no column 'shape'"):
            main(address, str(path), "shape = round")
    expected = open_index(folder / "index").search(image=path, k=5, where="view = PA")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "24 cases of mini"
    assert [line.split()[0] for line in printed[1:6]] == expected.ids
    assert printed[6] == "For research; not a medical device."


def test_nothing_is_told_of_requests_to_a_collector(hostile: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = pytest.importorskip("opentelemetry.trace", reason="this FastAPI describes no requests")
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    asked = list[str]()

    class Collector(trace.TracerProvider):  # type: ignore[name-defined,misc]
        def get_tracer(self, name: str, *_: object, **__: object) -> object:
            asked.append(name)
            return trace.NoOpTracer()

    monkeypatch.setattr(trace, "get_tracer_provider", Collector)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    assert Visitor(hostile.site).client.get("/api/search", params={"where": SECRET}).status_code == 400
    assert asked == []
    TestClient(FastAPI(telemetry={"tracing": True})).get("/")
    assert asked  # by a framework that is not told to be silent


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--root", "cases"], 2, "--root needs --manifest"),
        (["--manifest", "cases/manifest.csv", "--root", "nowhere"], 2, "nowhere: no such folder"),
        (["--host", "0.0.0.0"], 2, "give --tls-cert and --tls-key, or --behind-proxy NAME"),
        (["--tls-cert", "cert.pem"], 2, "give both"),
        (["--tls-cert", "cases/manifest.csv", "--tls-key", "cases/manifest.csv"], 1, "not a certificate and its key"),
        (["--token", "short"], 2, "--token has 5 characters, and needs 16"),
        (["--probe", "nowhere"], 1, "nowhere"),
        (["--manifest", "nowhere.csv"], 1, "nowhere.csv"),
        (["--prompts", "phantom"], 1, "did you mean phantom8"),
        (["--port", "PORT"], 1, "cannot be listened on"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], status: int, said: str
) -> None:
    monkeypatch.chdir(folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = [word if word != "PORT" else str(taken.getsockname()[1]) for word in words]
        done = CliRunner().invoke(app, ["serve", "index", *words])
    message = done.output + ("" if isinstance(done.exception, SystemExit) else str(done.exception))
    assert done.exit_code == status, message
    assert said in message
    assert message.strip().count("\n") <= 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["index", "--probe", "{0}/probe"], "probe: of mini"),
        (["index", "--store", "{0}/store"], "store: of mini"),
        (["index", "--prompts", "phantom8"], "toy embeds no words"),
        (["index", "--manifest", "{0}/cases/manifest.csv"], "has none of its cases"),
        (["nothing"], "nothing"),
        (["cut"], "cut"),
    ],
)
def test_what_is_of_another_encoder_or_damaged_is_said_in_a_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    if not (folder / "probe").exists():
        table = str(folder / "cases" / "manifest.csv")
        trained = [
            "probe",
            "train",
            str(folder / "store"),
            table,
            "--finding",
            "Effusion",
            "--out",
            str(folder / "probe"),
        ]
        assert CliRunner().invoke(app, trained).exit_code == 0
    make_hostile(tmp_path)
    shutil.copytree(tmp_path / "index", tmp_path / "cut")
    (tmp_path / "cut" / "index.json").write_bytes((tmp_path / "index" / "index.json").read_bytes()[:-20])
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["serve", *(word.format(folder) for word in words), "--port", "0"])
    message = done.output + ("" if isinstance(done.exception, SystemExit) else str(done.exception))
    assert done.exit_code not in (0, None), message
    assert said in message
    assert message.strip().count("\n") <= 1
    assert "Traceback" not in message


@pytest.mark.soak
def test_a_server_answers_after_every_mutated_file(
    phantoms: Visitor, chest: Callable[..., np.ndarray], folder: Path
) -> None:
    rng = np.random.default_rng(0)
    good = (folder / "cases" / rows(folder)[0]["path"]).read_bytes()
    p12 = chest(5, 96)
    seeds = [good, dicom(p12, 12), dicom(p12, 12, JPEGLSLossless, imagecodecs.jpegls_encode(p12))]
    for number in range(2000 if not IN_CI else 300):
        _, bad = mutate(seeds[number % len(seeds)], rng)
        assert phantoms.client.post("/api/upload", content=bad).status_code in (201, 400)
        assert phantoms.client.get("/api/index").status_code == 200
    assert phantoms.client.post("/api/upload", content=good).status_code == 201
