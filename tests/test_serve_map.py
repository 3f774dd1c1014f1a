"""The map of the case browser, in this process: positions, colours and filters by row, of one generation."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_world import make_index
from serve_world import HOSTILE, SECRET, Visitor, make_hostile, visitor

from cxr_embed.index import CaseIndex
from cxr_embed.index.faiss.map_file import KeptMap, map_path, write_map
from cxr_embed.index.faiss.projection import principal_components
from cxr_embed.marks import ReaderMarks, file, marks_path
from cxr_embed.web import map as map_page
from cxr_embed.web.wire import unpacked

FINDING = f"Effusion{HOSTILE}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hostile(tmp_path_factory.mktemp("mapped"))


@pytest.fixture(autouse=True)
def _no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """See test_marks."""
    monkeypatch.setattr(file, "_FLUSH", "OFF")


@pytest.fixture
def looking(folder: Path) -> Iterator[Visitor]:
    yield visitor(folder)
    for path in (marks_path(folder / "index"), map_path(folder / "index")):
        path.unlink(missing_ok=True)


def generation(looking: Visitor) -> str:
    return str(looking.client.get("/api/map").json()["generation"])


def packed(looking: Visitor, what: str, **fields: Any) -> tuple[dict[str, Any], memoryview]:
    answer = looking.client.get(f"/api/map/{what}", params={"generation": generation(looking), **fields})
    assert answer.status_code == 200, answer.text
    head, parts = unpacked(answer.content)
    return head, parts[0]


def post(looking: Visitor, what: str, **fields: Any) -> Any:
    return looking.client.post(f"/api/map/{what}", json={"generation": generation(looking), **fields})


def test_what_the_map_can_show_is_listed(looking: Visitor) -> None:
    about = looking.client.get("/api/map").json()
    assert about["cases"] == 12
    assert [each["method"] for each in about["methods"]] == ["pca"]
    assert {(each["by"], each["name"]) for each in about["colours"]} == {
        ("column", "view"),
        ("column", "site"),
        ("column", "age"),
        ("finding", FINDING),
    }
    assert "not for diagnosis" in about["warning"]
    assert "Distances" in looking.client.get("/map").text


def test_points_are_the_principal_components(looking: Visitor, folder: Path) -> None:
    head, data = packed(looking, "points")
    places = np.frombuffer(data, "<f4").reshape(-1, 2)
    assert head["cases"] == 12
    assert np.array_equal(places, principal_components(CaseIndex(folder / "index").vectors))
    assert (
        looking.client.get("/api/map/points", params={"generation": head["generation"], "method": "umap"}).status_code
        == 400
    )
    assert looking.client.get("/api/map/points").status_code == 422


def test_a_learned_map_is_shown_while_it_is_of_these_vectors(looking: Visitor, folder: Path) -> None:
    index = CaseIndex(folder / "index")
    places = np.random.default_rng(0).random((12, 2), np.float32)
    made = {"positions": places, "seed": 7, "fitted": 9, "neighbours": 15, "created": "2026-01-01", "made_by": "x"}
    write_map(map_path(index.path), KeptMap(key=index.record.vectors_digest, **made))
    assert [each["method"] for each in looking.client.get("/api/map").json()["methods"]] == ["pca", "umap"]
    assert np.array_equal(np.frombuffer(packed(looking, "points", method="umap")[1], "<f4").reshape(-1, 2), places)
    assert "9 of 12 cases with seed 7" in looking.client.get("/map").text
    write_map(map_path(index.path), KeptMap(key="0" * 64, **made))
    assert [each["method"] for each in looking.client.get("/api/map").json()["methods"]] == ["pca"]
    map_path(index.path).write_bytes(b"damaged")
    page = looking.client.get("/map")
    assert page.status_code == 200
    assert "damaged" in page.text
    assert str(folder) not in page.text


def test_colours_are_what_the_table_says(looking: Visitor, folder: Path) -> None:
    table = CaseIndex(folder / "index").table
    head, data = packed(looking, "colours", by="column", name="view")
    names = [each["name"] for each in head["groups"]]
    assert [names[code] for code in data] == table["view"].to_pylist()
    assert [each["count"] for each in head["groups"]] == [4, 4, 4]
    head, data = packed(looking, "colours", by="finding", name=FINDING)
    assert list(data) == [1 - value for value in table[FINDING].to_pylist()]
    assert [each["name"] for each in head["groups"]] == ["yes", "no"]
    head, data = packed(looking, "colours", by="column", name="age")
    assert (head["kind"], head["low"], head["high"], data[0], data[11]) == ("scale", 20, 31, 0, 254)


def test_unknown_values_and_many_words_have_a_colour(tmp_path: Path) -> None:
    sites = [f"s{min(number, 14)}" for number in range(19)] + [""]
    columns = {"site": sites, "Effusion": [""] + ["1", "0"] * 9 + ["-1"], "age": [""] * 10 + ["30"] * 10}
    values = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    made = make_index(tmp_path, values, None, columns)
    looking = visitor(made.path.parent)
    head, data = packed(looking, "colours", by="column", name="site")
    assert [each["name"] for each in head["groups"]] == ["s14", *(f"s{number}" for number in range(10)), "4 more"]
    assert sum(each["count"] for each in head["groups"]) + head["unknown"] == 20
    assert (data[14], data[0], data[12], data[19]) == (0, 1, 11, 255)
    head, data = packed(looking, "colours", by="finding", name="Effusion")
    assert (data[0], data[1], data[2], data[19], head["unknown"]) == (255, 0, 1, 255, 2)
    head, data = packed(looking, "colours", by="column", name="age")
    assert (data[0], data[10], head["unknown"]) == (255, 0, 10)


@pytest.mark.parametrize(
    ("by", "name"), [("column", "patient_name"), ("column", "patient_id"), ("probe", "x"), ("finding", "x")]
)
def test_nothing_else_colours_the_map(looking: Visitor, by: str, name: str) -> None:
    fields = {"generation": generation(looking), "by": by, "name": name}
    assert looking.client.get("/api/map/colours", params=fields).status_code == 400


def test_a_condition_gives_a_bit_for_each_case(looking: Visitor) -> None:
    head, data = packed(looking, "passing", where="view = PA and age > 22")
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[:12]
    assert np.flatnonzero(bits).tolist() == [3, 6, 9]
    assert head["passing"] == 3
    assert packed(looking, "passing")[0]["passing"] == 12
    assert packed(looking, "passing", where="view = pa")[0]["notes"]
    for where in (f"patient_name = '{SECRET}1'", "view =", "content is known"):
        answer = looking.client.get("/api/map/passing", params={"generation": generation(looking), "where": where})
        assert answer.status_code == 400, where


def test_cases_of_points_have_what_may_be_shown(looking: Visitor) -> None:
    answer = looking.client.get("/api/map/cases", params={"generation": generation(looking), "row": [3, 1, 3]}).json()
    assert [case["image_id"] for case in answer["cases"]] == ["c3", "c1"]
    assert SECRET not in str(answer)
    assert "path" not in answer["cases"][0]
    for rows in ([-1], [12], list(range(101)), []):
        fields = {"generation": generation(looking), "row": rows}
        assert looking.client.get("/api/map/cases", params=fields).status_code in (400, 422), rows


def test_points_are_put_on_a_list_in_one_step(looking: Visitor, folder: Path) -> None:
    made = post(looking, "list", rows=[4, 2, 2, 9], list="odd ones").json()
    assert made["cases"] == 3
    marks = ReaderMarks(marks_path(folder / "index"), "reader")
    assert sorted(case.image_id for case, _ in marks.every()) == ["c2", "c4", "c9"]
    assert post(looking, "list", rows=[2], list="odd ones").json() == {"step": None, "cases": 1}
    assert len(looking.client.post("/api/marks", json={"do": "undo", "step": made["step"]}).json()["cases"]) == 3
    assert marks.every() == []


def test_undoing_a_large_step_sends_only_what_a_page_shows(looking: Visitor) -> None:
    post(looking, "list", rows=list(range(12)), list="all")
    part = {"x-part-of-a-page": "1", "content-type": "application/x-www-form-urlencoded"}
    answer = looking.client.post("/marks", data={"do": "undo", "shown": [" ", "c1"]}, headers=part)
    assert answer.text.count('class="marks"') == 1
    answer = looking.client.post("/marks", data={"do": "redo", "shown": [" "]}, headers=part)
    assert answer.text.count('class="marks"') == 0
    assert 'id="marked-last"' in answer.text


def test_what_cannot_be_listed_is_said(looking: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_page, "_MOST_LISTED", 5)
    monkeypatch.setattr(map_page, "_MOST_BYTES", 200)
    for fields, status, said in (
        ({"rows": list(range(6)), "list": "a"}, 400, "at most 5"),
        ({"rows": [1], "list": " "}, 400, "has no name"),
        ({"rows": [12], "list": "a"}, 400, "no such row"),
        ({"rows": ["x"], "list": "a"}, 422, "rows"),
        ({"rows": [1], "list": "a", "more": 1}, 422, "more"),
        ({"rows": [1] * 200, "list": "a"}, 413, "more than"),
    ):
        answer = post(looking, "list", **fields)
        assert (answer.status_code, said in answer.json()["error"]) == (status, True), (fields, answer.text)
    assert looking.client.post("/api/map/list", content=b"[]").status_code == 422


def test_ids_are_downloaded(looking: Visitor) -> None:
    answer = post(looking, "ids.csv", rows=[5, 0])
    assert "attachment" in answer.headers["content-disposition"]
    assert list(csv.reader(io.StringIO(answer.text))) == [
        ["image_id", "patient_id"],
        ["c5", "p2"],
        ["c0", f"p0{HOSTILE}"],
    ]


def test_another_generation_is_refused_in_words(tmp_path: Path) -> None:
    folder = make_hostile(tmp_path)
    looking = visitor(folder)
    before = generation(looking)
    make_hostile(folder, 24, 1)
    assert generation(looking) != before
    old = {"generation": before}
    answers = [
        looking.client.get("/api/map/points", params=old),
        looking.client.get("/api/map/colours", params={**old, "by": "column", "name": "view"}),
        looking.client.get("/api/map/passing", params=old),
        looking.client.get("/api/map/cases", params={**old, "row": 1}),
        looking.client.post("/api/map/list", json={**old, "rows": [1], "list": "a"}),
        looking.client.post("/api/map/ids.csv", json={**old, "rows": [1]}),
    ]
    assert [answer.status_code for answer in answers] == [409] * 6
    assert all("reload the page" in answer.json()["error"] for answer in answers)
    assert looking.client.get("/map/cards", params={**old, "row": 1}).status_code == 409
    assert not marks_path(folder / "index").exists()


def test_hostile_texts_are_text(looking: Visitor) -> None:
    cards = looking.client.get("/map/cards", params={"generation": generation(looking), "row": [0, 1]})
    for page in (looking.client.get("/map").text, cards.text):
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert SECRET not in page
    assert "&lt;script&gt;alert" in cards.text


def test_another_site_s_page_puts_nothing_on_a_list(looking: Visitor) -> None:
    answer = looking.client.post(
        "/api/map/list",
        json={"generation": generation(looking), "rows": [1], "list": "a"},
        headers={"origin": "http://elsewhere.example", "sec-fetch-site": "cross-site"},
    )
    assert answer.status_code == 403


def test_components_are_made_once_a_generation(looking: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(map_page, "principal_components", lambda given: calls.append(1) or principal_components(given))
    for _ in range(3):
        packed(looking, "points")
    assert len(calls) == 1
