"""The compare page in this process: its pictures, their patients' studies, words in a picture's place."""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from index_world import make_manifest, toy_spec
from PIL import Image
from serve_world import HOSTILE, SECRET, Visitor, close, make_hostile, visitor

from cxr_embed import open_store
from cxr_embed.index.faiss.build import build_index
from cxr_embed.store import Row, StoreWriter
from cxr_embed.web import compare, files
from cxr_embed.web.wire import unpacked

DATES = ("2020-03-01", "2021-03-01", "2020-03-01", "", "2019-01-15", "2020-05-01")


def ramp(number: int, shape: tuple[int, int] = (160, 120)) -> np.ndarray:
    """`(H, W)` uint16, brighter from left to right: 20 more for each pixel."""
    height, width = shape
    return np.tile(np.arange(width, dtype=np.uint16) * 20 + 1000 + 100 * number, (height, 1))


def made_up(
    folder: Path, dates: tuple[str, ...] = DATES, patients: int = 2, draw: Callable[[int], np.ndarray] = ramp
) -> Path:
    """An index of as many cases as dates, whose PNGs of 16 bits lie beside its manifest."""
    owners = [f"p{number % patients}" for number in range(len(dates))]
    vectors = np.random.default_rng(0).standard_normal((len(dates), 8)).astype(np.float32)
    folder.mkdir(exist_ok=True)
    with StoreWriter(folder / "store", toy_spec(8), dtype="float32") as writer:
        for number, (owner, vector) in enumerate(zip(owners, vectors, strict=True)):
            file = folder / f"c{number}.png"
            Image.fromarray(draw(number)).save(file, compress_level=1)
            content = hashlib.sha256(file.read_bytes()).digest()
            writer.add_vector(Row(image_id=f"c{number}", patient_id=owner, content=content), {"features": vector})
        writer.flush("toy engine")
    columns = {
        "study_date": dates,
        "view": ["PA"] * len(dates),
        "patient_name": [SECRET] * len(dates),
        "Effusion": ["0", "1"] * (len(dates) // 2),
    }
    manifest = replace(make_manifest(len(dates), owners, columns), findings=("Effusion",))
    build_index(open_store(folder / "store"), folder / "index", manifest=manifest)
    with open(folder / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image_id", "path"], *([f"c{n}", f"c{n}.png"] for n in range(len(dates)))])
    return folder


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    folder = made_up(tmp_path_factory.mktemp("compared"))
    made = visitor(folder, manifest=folder / "manifest.csv")
    yield made
    close([made])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    made = visitor(make_hostile(tmp_path_factory.mktemp("hostile")))
    yield made
    close([made])


def test_pictures_stand_in_the_order_of_the_address(cases: Visitor) -> None:
    answer = cases.client.get("/api/compare?id=c2&id=c1&id=c2").json()
    assert [(each["letter"], each["id"]) for each in answer["pictures"]] == [("A", "c2"), ("B", "c1")]
    assert answer["pictures"][0]["pixels"] == "/api/pixels?case=c2"
    assert answer["note"] == "For research; not a medical device."
    page = cases.client.get("/compare?id=c2&id=c1").text
    assert page.index('data-pixels="/api/pixels?case=c2"') < page.index('data-pixels="/api/pixels?case=c1"')
    assert 'href="/compare?id=c1" aria-label="Close A"' in page
    assert page == cases.client.get("/compare?id=c2&id=c1").text
    assert "For research; not a medical device." in page


def test_the_studies_of_a_patient_are_in_order_of_time(cases: Visitor) -> None:
    (patient,) = cases.client.get("/api/compare?id=c0").json()["patients"]
    assert (patient["patient_id"], patient["total"]) == ("p0", 3)
    told = [(study["case"]["image_id"], study["after"], study["shown"]) for study in patient["studies"]]
    days = (datetime.date(2020, 3, 1) - datetime.date(2019, 1, 15)).days
    assert told == [("c4", None, ""), ("c0", days, "A"), ("c2", 0, "")]
    assert [study["place"] for study in patient["studies"]] == [0, 1, 1]
    page = cases.client.get("/compare?id=c0").text
    assert f"+{days} days" in page
    assert "same day" in page
    assert 'href="/compare?id=c0&amp;id=c4"' in page


def test_a_study_without_a_day_comes_last_and_one_is_put_in_place_of_the_fourth(cases: Visitor) -> None:
    answer = cases.client.get("/api/compare?id=c1&id=c0").json()
    assert [each["patient_id"] for each in answer["patients"]] == ["p1", "p0"]
    studies = answer["patients"][0]["studies"]
    assert [study["case"]["image_id"] for study in studies] == ["c5", "c1", "c3"]
    assert (studies[2]["after"], studies[2]["place"]) == (None, None)
    page = cases.client.get("/compare?id=c0&id=c2&id=c1&id=c3").text
    assert 'href="/compare?id=c0&amp;id=c4&amp;id=c1&amp;id=c3"' in page  # of p0, whose last one was B
    assert "Show c4 in place of B" in page
    assert "no date" in page


@pytest.mark.parametrize(
    ("days", "words"), [(None, ""), (0, "same day"), (1, "+1 day"), (729, "+729 days"), (1461, "+4.0 years")]
)
def test_time_between_studies_in_words(days: int | None, words: str) -> None:
    assert compare.since(days) == words


def test_days_may_be_counted_and_many_studies_are_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = visitor(made_up(tmp_path / "days", tuple(str(10 * number) for number in range(10)), patients=1))
    monkeypatch.setattr(compare, "_STUDIES", 4)
    (patient,) = made.client.get("/api/compare?id=c7").json()["patients"]
    assert patient["total"] == 10
    assert [study["case"]["study_date"] for study in patient["studies"]] == [50, 60, 70, 80]
    assert [study["after"] for study in patient["studies"]] == [None, 10, 10, 10]
    page = made.client.get("/compare?id=c7").text
    assert "10 pictures, the nearest 4" in page
    assert "day 70" in page


def test_four_at_most(cases: Visitor) -> None:
    question = "id=c0&id=c1&id=c2&id=c3&id=c4"
    for path in ("/compare?", "/api/compare?"):
        answer = cases.client.get(path + question)
        assert answer.status_code == 400
        assert "4 pictures at most are compared, and 5 were chosen" in answer.text
    assert cases.client.get("/compare").status_code == 200
    assert "Nothing to compare yet" in cases.client.get("/compare").text


def test_words_stand_in_a_picture_s_place(cases: Visitor) -> None:
    answer = cases.client.get("/api/compare", params={"id": ["nobody", "c0"], "upload": "gone"}).json()
    assert [each["why"] for each in answer["pictures"]] == [
        "the picture is gone: it is kept for half an hour only",
        "not in the index",
        "",
    ]
    assert "pixels" not in answer["pictures"][1]
    page = cases.client.get("/compare?id=nobody&id=c0").text
    assert '<p class="why">not in the index</p>' in page
    assert page.count("data-pixels") == 1


def test_a_region_is_no_picture_of_its_own(cases: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    index = cases.site.state.current().index
    row, plain = int(index.rows_of(["c2"])[0]), index.cases

    def with_a_box(rows: list[int], columns: list[str] | None = None) -> list[dict[str, object]]:
        boxes = ["0,0,9,9" if each == row else None for each in np.asarray(rows).tolist()]
        return [{**case, "box": box} for case, box in zip(plain(rows, columns), boxes, strict=True)]

    monkeypatch.setattr(index, "cases", with_a_box)
    answer = cases.client.get("/api/compare?id=c2&id=c0").json()
    assert "not a picture of its own" in answer["pictures"][0]["why"]
    assert answer["pictures"][1]["why"] == ""
    assert Counter(study["case"]["image_id"] for study in answer["patients"][0]["studies"]) == Counter(["c4", "c0"])


def test_files_that_are_not_there_or_leave_the_root(cases: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases.site.pictures, "paths", {"c0": "nowhere.png", "c1": "../c1.png"})
    for name, why in (("c0", "missing"), ("c1", "leaves the folder"), ("c2", "no path")):
        picture = cases.client.get(f"/api/compare?id={name}").json()["pictures"][0]
        answer = cases.client.get(picture["pixels"])
        assert answer.status_code == 404
        assert why in answer.json()["error"]


def test_all_bits_are_sent_but_not_of_every_size(cases: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    address = cases.client.get("/api/compare?id=c0").json()["pictures"][0]["pixels"]
    head, (pixels,) = unpacked(cases.client.get(address).content)
    assert head["depth"] == 2
    assert np.array_equal(np.frombuffer(pixels, "<u2").reshape(160, 120), ramp(0))
    monkeypatch.setattr(files, "MOST_PIXELS", 160 * 120 - 1)
    answer = cases.client.get(address)
    assert answer.status_code == 413
    assert "120 x 160 pixels" in answer.json()["error"]


def test_a_dropped_picture_comes_first(cases: Visitor) -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (70, 70), dtype=np.uint8)).save(file, "PNG")
    token = cases.client.post("/api/upload", content=file.getvalue()).json()["upload"]
    answer = cases.client.get("/api/compare", params={"id": "c0", "upload": token}).json()
    assert [each["case"]["image_id"] for each in answer["pictures"]] == ["your picture", "c0"]
    assert cases.client.get(answer["pictures"][0]["pixels"]).status_code == 200


def test_search_leads_here(cases: Visitor) -> None:
    page = cases.client.get("/").text
    assert 'form="compare" name="id" value="c0"' in page
    assert '<form id="compare" class="compare" action="/compare"' in page


def test_hostile_texts_are_text_and_nothing_else_leaves(cases: Visitor, hostile: Visitor) -> None:
    for made, question in ((hostile, {"id": ["c0", "c1", HOSTILE]}), (cases, {"id": ["c0", "c1"]})):
        for path in ("/compare", "/api/compare"):
            answer = made.client.get(path, params=question)
            assert answer.status_code == 200
            assert SECRET not in answer.text
            assert "patient_name" not in answer.text
        page = made.client.get("/compare", params=question).text
        for mark in ("<script>", "<img src=x", "<style", " style=", " onclick", " onload", "://"):
            assert mark not in page
    assert "&lt;script&gt;alert" in hostile.client.get("/compare?id=c0").text
