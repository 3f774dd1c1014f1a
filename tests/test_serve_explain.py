"""The page of heat maps in this process: the maps of `explain`, what is said of them, a server that is never frozen."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serve_world import HOSTILE, Visitor, close, make_hostile, make_phantoms, visitor
from test_serve_compare import made_up

import cxr_embed as cx
from cxr_embed.errors import MapError
from cxr_embed.explanation.explainer import region_of
from cxr_embed.explanation.measured import Measured
from cxr_embed.explanation.overlay import grey_picture, layers, mixed_picture
from cxr_embed.web import explaining
from cxr_embed.web.explaining import Busy, Explanations, Wanted, checks_of
from cxr_embed.web.serving import open_site
from cxr_embed.web.wire import unpacked

FINDINGS = ["Cardiomegaly", "Effusion"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_explained(tmp_path_factory.mktemp("explained"))


def make_explained(folder: Path) -> Path:
    """Phantoms, their index, and a probe of two findings."""
    make_phantoms(folder)
    cx.train_probe(folder / "store", folder / "cases/manifest.csv", findings=FINDINGS).save(folder / "probe")
    return folder


def named(folder: Path) -> dict[str, Any]:
    """What a server of that folder is started with."""
    return {"manifest": folder / "cases/manifest.csv", "store": folder / "store", "probe": folder / "probe"}


@pytest.fixture(scope="module")
def cases(world: Path) -> Iterator[Visitor]:
    made = visitor(world, **named(world), prompts="phantom8")
    yield made
    close([made])


@pytest.fixture(scope="module")
def ids(cases: Visitor) -> list[str]:
    return cases.cases()


def explained(visitor: Visitor, **question: str) -> tuple[dict[str, Any], np.ndarray]:
    """What the API says of a map, and the map."""
    answer = visitor.client.get("/api/explain", params=question)
    assert answer.status_code == 200, answer.text
    said, parts = unpacked(answer.content)
    return said, np.frombuffer(parts[0], "<f4").reshape(said["grid"])


def same(said: dict[str, Any], grid: np.ndarray, made: Any) -> None:
    """The page's map and numbers are those of `explain`."""
    (record,) = made.folder.maps
    assert np.array_equal(grid, made.folder.load(record))
    assert said["value"] == record.more["value"]
    assert said["score"] == record.score
    assert tuple(said["area"]) == tuple(record.area)
    assert said["shape"] == [record.height, record.width]
    for name in ("without_region", "without_elsewhere", "region_part"):
        assert said[name] == record.more[name]
    assert {name: said["about"][name] for name in ("method", "layer", "words", "unit", "output")} == {
        name: made.folder.about[name] for name in ("method", "layer", "words", "unit", "output")
    }


@pytest.mark.parametrize("method", ["auto", "occlusion"])
def test_a_probe_s_map_is_that_of_explain(
    world: Path, cases: Visitor, ids: list[str], tmp_path: Path, method: Any
) -> None:
    said, grid = explained(cases, case=ids[0], **{"for": "probe:Effusion"}, method=method)
    manifest = world / "cases/manifest.csv"
    given: dict[str, Any] = {"manifest": manifest, "probe": world / "probe", "findings": ["Effusion"], "method": method}
    same(said, grid, cx.explain([ids[0]], **given, out=tmp_path / "out"))
    if method == "auto":
        assert said["exact"] is True
        assert grid.sum(dtype=np.float64) + said["intercept"] == pytest.approx(said["value"], rel=1e-5)
        assert "On 600 phantoms" in said["worth"][0]
        assert "no better" in said["worth"][1]
    else:
        assert said["exact"] is None
        assert said["worth"] == ["not measured"]
    assert said["note"] == "For research; not a medical device."


def test_maps_of_words_and_of_likeness_are_those_of_explain(
    world: Path, cases: Visitor, ids: list[str], tmp_path: Path
) -> None:
    given: dict[str, Any] = {"manifest": world / "cases/manifest.csv"}
    said, grid = explained(cases, case=ids[1], **{"for": "words:pleural effusion"})
    same(said, grid, cx.explain([ids[1]], **given, prompt=["pleural effusion"], out=tmp_path / "words"))
    assert said["name"] == "pleural effusion"
    said, grid = explained(cases, case=ids[1], **{"for": f"like:{ids[2]}"})
    same(said, grid, cx.explain([ids[1]], **given, like=ids[2], out=tmp_path / "like"))
    assert said["worth"] == ["not measured"]
    said, _ = explained(cases, case=ids[1], **{"for": "prompt:Effusion"})
    texts = {each.name: each.positive for each in cases.site.state.prompts.findings}  # type: ignore[union-attr]
    assert said["name"] in texts["Effusion"]
    assert "On 200 phantoms" in said["worth"][0]


def test_an_upload_has_the_map_of_its_file(world: Path, cases: Visitor, ids: list[str], tmp_path: Path) -> None:
    file = world / "cases" / cases.site.pictures.paths[ids[3]]
    token = cases.client.post("/api/upload", content=file.read_bytes()).json()["upload"]
    said, grid = explained(cases, upload=token, **{"for": "probe:Cardiomegaly"})
    same(said, grid, cx.explain([file], probe=world / "probe", findings=["Cardiomegaly"], out=tmp_path / "out"))
    page = cases.client.get("/explain", params={"upload": token, "for": f"like:{ids[0]}"}).text
    assert f"/explain/map?upload={token}" in page  # both pictures of the two
    assert f"for=like-upload%3A{token}" in page
    said, _ = explained(cases, case=ids[0], **{"for": f"like-upload:{token}"})
    assert said["name"] == "like your picture"
    gone = cases.client.get("/api/explain", params={"upload": "gone", "for": "probe:Effusion"})
    assert (gone.status_code, "is gone" in gone.text) == (410, True)


def test_the_page_says_what_it_must(cases: Visitor, ids: list[str]) -> None:
    question = {"case": ids[0], "for": "probe:Effusion", "method": "auto"}
    page = cases.client.get("/explain", params=question).text
    for words in ("For research; not a medical device.", "What a heat map cannot show", "That a finding is there"):
        assert words in page
    part = cases.client.get("/explain/map", params=question).text
    for words in ("auto: cam is the first method", "layer map", "exact: the map", "without the outlined region", "86%"):
        assert words in part, words
    named = cases.client.get("/explain/map", params={**question, "method": "occlusion"}).text
    assert "occlusion was chosen" in named
    assert "not measured" in named
    form = {"case": ids[0], "kind": "words", "words": "a b", "finding": "Effusion"}
    sent = cases.client.get("/explain", params=form, follow_redirects=False)
    assert (sent.status_code, sent.headers["location"]) == (303, f"/explain?case={ids[0]}&for=words%3Aa+b&method=auto")


def test_layers_are_what_an_overlay_lays_over_the_picture(cases: Visitor, ids: list[str]) -> None:
    question = {"case": ids[0], "for": "probe:Effusion"}
    files = [cases.client.get("/explain/layer", params={**question, "layer": each}) for each in ("heat", "outline")]
    heat, outline = (np.asarray(Image.open(io.BytesIO(each.content))) for each in files)
    assert heat.shape == outline.shape == (384, 384, 4)
    rng = np.random.default_rng(0)
    pixels, values = rng.integers(0, 255, (90, 70)).astype(np.uint8), rng.standard_normal((90, 70)).astype(np.float32)
    region, size = region_of(values), (140, 180)
    mixed = mixed_picture(pixels, values, region, size)
    over, edge = layers(values, region, size)
    share = over[..., 3:] / 255
    laid = grey_picture(pixels, size)[..., None] * (1 - share) + over[..., :3] * share
    laid = np.where(edge[..., 3:] > 0, edge[..., :3], laid)
    assert np.abs(laid - mixed).max() <= 2
    assert (over[..., 3] == 0).any()  # what speaks against the value
    legend = cases.client.get("/explain/legend.png")
    assert Image.open(io.BytesIO(legend.content)).size == (256, 12)


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ({"for": "probe:Effusion"}, "name a case"),
        ({"case": "nobody", "for": "probe:Effusion"}, "nobody"),
        ({"case": "CASE", "for": "probe:Nodule"}, "the probe has no finding 'Nodule'; it has Cardiomegaly, Effusion"),
        ({"case": "CASE", "for": "prompt:Nothing"}, "the prompts have no finding 'Nothing'"),
        ({"case": "CASE", "for": "words:{}"}, "which nothing fills"),
        ({"case": "CASE", "for": "like:nobody"}, "nobody"),
        ({"case": "CASE", "for": "probe:"}, "say what is to be explained"),
        ({"case": "CASE", "for": "anything"}, "say what is to be explained"),
        ({"case": "CASE", "for": "probe:Effusion", "method": "patch"}, "has no patches in one space"),
    ],
)
def test_what_cannot_be_explained_is_said_in_a_sentence(
    cases: Visitor, ids: list[str], question: dict[str, str], why: str
) -> None:
    given = {name: ids[0] if value == "CASE" else value for name, value in question.items()}
    answer = cases.client.get("/api/explain", params=given)
    assert answer.status_code == 400
    assert why.lower() in answer.json()["error"].lower()
    assert "`" not in answer.json()["error"]
    part = cases.client.get("/explain/map", params=given)
    assert part.status_code == 400
    assert 'role="alert"' in part.text
    assert cases.client.get("/explain", params=given).status_code in (200, 400)


def test_a_method_that_there_is_not_is_refused(cases: Visitor, ids: list[str]) -> None:
    answer = cases.client.get("/api/explain", params={"case": ids[0], "for": "probe:Effusion", "method": "magic"})
    assert answer.status_code == 422


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    made = visitor(make_hostile(tmp_path))
    try:
        for path in ("/explain", "/explain/map"):
            for question in (f"like:{HOSTILE}", f"words:{HOSTILE}", f"probe:{HOSTILE}", HOSTILE):
                page = made.client.get(path, params={"case": HOSTILE, "for": question}).text
                assert "<script>alert" not in page
                assert "<img src=x" not in page
        assert "No probe" in made.client.get("/explain").text
    finally:
        close([made])


def test_an_encoder_that_is_not_here_is_one_sentence(tmp_path: Path) -> None:
    folder = made_up(tmp_path / "toy")
    made = visitor(folder, manifest=folder / "manifest.csv")
    try:
        answer = made.client.get("/api/explain", params={"case": "c0", "for": "like:c1"})
        assert answer.status_code == 400
        assert "toy" in answer.json()["error"]
        assert made.client.get("/explain?case=c0&for=like:c1").status_code == 200
        part = made.client.get("/explain/map?case=c0&for=like:c1")
        assert (part.status_code, "Traceback" in part.text) == (400, False)
    finally:
        close([made])


def test_nothing_is_embedded_for_a_region_or_for_tokens(
    cases: Visitor, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = cases.site.state.current()
    monkeypatch.setattr("cxr_embed.web.explain.is_cropped", lambda _: True)
    answer = cases.client.get("/api/explain", params={"case": ids[0], "for": "probe:Effusion"})
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "The index is of regions: maps are of whole pictures, so these cases have none",
    )
    monkeypatch.undo()
    monkeypatch.setattr(type(now.index), "pool", "tokens")
    answer = cases.client.get("/api/explain", params={"case": ids[0], "for": f"like:{ids[1]}"})
    assert "compares token with token" in answer.json()["error"]


def test_a_search_is_answered_while_a_map_is_made_and_more_are_sent_away(
    world: Path, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = open_site(world / "index", **named(world))
    site = replace(site, explanations=Explanations(site.state, waiting=2, patience=0))
    begun, go_on = threading.Event(), threading.Event()
    worker = site.explanations._worker
    plain = worker.ask

    def held(*message: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return plain(*message)

    monkeypatch.setattr(worker, "ask", held)
    made = Visitor(site)
    question = {"case": ids[0], "for": "probe:Effusion"}
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(made.client.get("/api/explain", params=question)))
    thread.start()
    try:
        assert begun.wait(60)
        assert made.cases(case=ids[1], k="3")  # a search meanwhile
        busy = made.client.get("/api/explain", params={**question, "for": "probe:Cardiomegaly"})
        assert (busy.status_code, "busy" in busy.json()["error"]) == (503, True)
        part = made.client.get("/explain/map", params={**question, "for": "probe:Cardiomegaly"})
        assert (part.status_code, "busy" in part.text) == (503, True)
    finally:
        go_on.set()
        thread.join()
    assert answers[0].status_code == 200
    monkeypatch.setattr(worker, "ask", lambda *_: pytest.fail("it was made before"))
    again = made.client.get("/api/explain", params=question)
    assert again.content == answers[0].content
    close([made])


def test_a_line_that_is_full_sends_away_at_once(world: Path) -> None:
    site = open_site(world / "index")
    none = Explanations(site.state, waiting=1)
    assert none._line.acquire(blocking=False)
    wanted = Wanted("probe", ("Effusion",), "auto", ())
    with pytest.raises(Busy, match="busy with other heat maps"):
        none.of(wanted)
    site.close()


def test_a_map_that_takes_too_long_is_given_up_and_the_next_one_is_made(cases: Visitor, ids: list[str]) -> None:
    image = cases.site.pictures.radiograph(cases.site.state.current(), ids[0])
    made = Explanations(cases.site.state, seconds=0.0)
    wanted = Wanted("probe", ("Effusion",), "cam", (image,))
    with pytest.raises(MapError, match="took longer than 0 s"):
        made.of(wanted)
    made._seconds = 120.0
    assert made.of(wanted).said["about"]["method"] == "cam"
    worker = made._worker
    assert worker._process is not None
    worker._process.kill()
    worker._process.wait()
    assert made.of(replace(wanted, names=("Cardiomegaly",))).said["name"] == "Cardiomegaly"
    made.close()


def test_kept_maps_are_bounded(cases: Visitor, ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "_KEPT", 3 * 5096)
    made = Explanations(cases.site.state)
    image = cases.site.pictures.radiograph(cases.site.state.current(), ids[0])
    said = {"grid": [1, 1]}
    monkeypatch.setattr(made._worker, "ask", lambda *_: (dict(said), [b"0000", b"0" * 500, b"0" * 496]))
    for number in range(9):
        assert made.of(Wanted("words", (str(number),), "cam", (image,))).grid == b"0000"
    assert len(made._recent) == 3


def test_what_was_measured_is_said_where_it_is_of_such_maps(cases: Visitor, ids: list[str]) -> None:
    question = {"case": ids[0], "for": "probe:Effusion"}
    about = explained(cases, **question)[0]["about"]
    mine = {"encoder": "mini", "fingerprint": about["fingerprint"], "words": about["words"], "explained": "probe"}
    found = {"Effusion": "measured: highest point in the marked place in 40% of 9"}
    explanations = cases.site.explanations
    try:
        explanations.measured = Measured(mine, found)
        assert explained(cases, **question)[0]["worth"] == [found["Effusion"]]
        assert explained(cases, **{**question, "method": "occlusion"})[0]["worth"] == ["not measured"]
        explanations.measured = Measured({**mine, "explained": "prompt"}, found)
        assert "On 600 phantoms" in explained(cases, **question)[0]["worth"][0]
    finally:
        explanations.measured = None
    with pytest.raises(MapError, match="not what `explain evaluate --json` prints"):
        open_site(Path(cases.site.state.path), measured=Path(__file__))


@pytest.mark.parametrize(
    ("value", "exact", "words"),
    [(3.0, True, "exact: the map's sum 1.0000 + intercept 2.0000 = 3.0000"), (3.1, False, "not exact: the map's sum")],
)
def test_a_sum_is_checked(value: float, exact: bool, words: str) -> None:
    about = {"method": "cam", "unit": "log odds"}
    found = checks_of({"about": about, "sum": 1.0, "intercept": 2.0, "value": value})
    assert (found[0], words in found[1]) == (exact, True)
    assert "a bias of 0.5000" in checks_of({"about": about, "sum": 1.0, "intercept": None, "value": 1.5})[1]


def test_a_process_that_answers_out_of_order_is_a_sentence(
    cases: Visitor, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Explanations(cases.site.state)
    image = cases.site.pictures.radiograph(cases.site.state.current(), ids[0])
    monkeypatch.setattr(made._worker, "ask", lambda *_: ({"grid": [2, 2]}, [b"0", b"", b""]))
    with pytest.raises(MapError, match="did not answer in order"):
        made.of(Wanted("words", ("a",), "cam", (image,)))
