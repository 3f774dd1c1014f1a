"""Scores of the case browser: those of `probe predict` and `zeroshot`, in the order of the index's rows."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from serve_world import make_phantoms
from typer.testing import CliRunner

from cxr_embed import load_probe, open_store, screen, train_probe
from cxr_embed.cli import app as verbs
from cxr_embed.errors import CxrEmbedError, StoreError
from cxr_embed.evaluation import ScoresError
from cxr_embed.index.faiss.build import build_index
from cxr_embed.manifest import read_manifest
from cxr_embed.store import Row, StoreWriter
from cxr_embed.web.scores import Scored
from cxr_embed.web.serving import open_site
from cxr_embed.web.site import Site


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_phantoms(tmp_path_factory.mktemp("phantoms"), 32)
    labels = folder / "cases" / "manifest.csv"
    train_probe(folder / "store", labels, findings=["Effusion", "Cardiomegaly"]).save(folder / "probe")
    train_probe(folder / "store", labels, output="contrastive").save(folder / "unit")
    return folder


def opened(folder: Path, index: str = "index", **options: Path | str) -> Site:
    site = open_site(folder / index, **options)
    site.close()
    return site


def in_rows(site: Site, ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    places = {image_id: place for place, image_id in enumerate(ids.tolist())}
    return values[[places[image_id] for image_id in site.state.current().index.ids.tolist()]]


def test_a_probe_scores_as_predict_does(phantoms: Path) -> None:
    site = opened(phantoms, store=phantoms / "store", probe=phantoms / "probe")
    frame = load_probe(phantoms / "probe").predict(phantoms / "store")
    now = site.state.current()
    assert site.scores.offered() == (Scored("probe", "Effusion"), Scored("probe", "Cardiomegaly"))
    for number, finding in enumerate(frame.names):
        found = site.scores.of(now, "probe", finding)
        assert found.dtype == np.float32
        assert not found.flags.writeable
        np.testing.assert_array_equal(found, in_rows(site, frame.ids, frame.values[:, number]))
        assert site.scores.of(now, "probe", finding).base is found.base
    assert frame.learned_from is not None
    np.testing.assert_array_equal(site.scores.learned_from(now), in_rows(site, frame.ids, frame.learned_from))


@pytest.mark.parametrize("prompts", ["phantom8", "pleural effusion"])
def test_prompts_score_as_zeroshot_does(phantoms: Path, prompts: str) -> None:
    frame = screen(phantoms / "store", prompts)
    of_store = opened(phantoms, store=phantoms / "store", prompts=prompts)
    of_index = opened(phantoms, prompts=prompts)
    assert [each.finding for each in of_index.scores.offered()] == list(frame.names)
    for number, finding in enumerate(frame.names):
        wanted = in_rows(of_store, frame.ids, frame.values[:, number])
        np.testing.assert_array_equal(of_store.scores.of(of_store.state.current(), "prompts", finding), wanted)
        # The index's vectors are the store's float16 at unit length.
        found = of_index.scores.of(of_index.state.current(), "prompts", finding)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_probe_of_unit_vectors_needs_no_store(phantoms: Path) -> None:
    site = opened(phantoms, probe=phantoms / "unit")
    frame = load_probe(phantoms / "unit").predict(phantoms / "store")
    found = site.scores.of(site.state.current(), "probe", frame.names[0])
    np.testing.assert_allclose(found, in_rows(site, frame.ids, frame.values[:, 0]), atol=2e-3)


def test_equals_what_the_verbs_write(phantoms: Path, tmp_path: Path) -> None:
    store, probe = str(phantoms / "store"), str(phantoms / "probe")
    for words in (
        ["probe", "predict", probe, store, "--out", str(tmp_path / "probe.csv")],
        ["zeroshot", store, "--prompts", "phantom8", "--out", str(tmp_path / "prompts.csv")],
    ):
        done = CliRunner().invoke(verbs, words)
        assert done.exit_code == 0, done.output
    site = opened(phantoms, store=phantoms / "store", probe=phantoms / "probe", prompts="phantom8")
    now = site.state.current()
    for by in ("probe", "prompts"):
        head, *lines = (tmp_path / f"{by}.csv").read_text().splitlines()
        column = head.split(",").index("Effusion")
        written = {line.split(",")[0]: np.float32(line.split(",")[column]) for line in lines}
        found = dict(zip(now.index.ids.tolist(), site.scores.of(now, by, "Effusion").tolist(), strict=True))
        assert found == {image_id: float(value) for image_id, value in written.items()}


def test_a_case_without_its_vector_has_no_score(phantoms: Path, tmp_path: Path) -> None:
    full = open_store(phantoms / "store")
    contents = {image_id: bytes.fromhex(digest) for image_id, digest in zip(full.ids, full.content_ids, strict=True)}
    vectors = {name: full.read(full.ids, name).vectors for name in full.spec.outputs}
    first, second = full.ids[:2].tolist()
    with StoreWriter(tmp_path / "store", full.spec) as writer:
        for row, image_id in enumerate(full.ids.tolist()):
            if image_id != first:
                content = bytes(32) if image_id == second else contents[image_id]
                about = Row(image_id=image_id, patient_id="p", content=content)
                writer.add_vector(about, {name: values[row] for name, values in vectors.items()})
        writer.flush("mini")
    site = opened(phantoms, store=tmp_path / "store", probe=phantoms / "probe", prompts="phantom8")
    now = site.state.current()
    for by in ("probe", "prompts"):
        unscored = now.index.ids[np.isnan(site.scores.of(now, by, "Effusion"))]
        assert set(unscored.tolist()) == {first, second}


def test_a_rebuilt_index_is_scored_anew(phantoms: Path, tmp_path: Path) -> None:
    shutil.copytree(phantoms / "index", tmp_path / "index")
    site = open_site(tmp_path / "index", store=phantoms / "store", prompts="phantom8")
    site.close()
    before = site.state.current()
    old = site.scores.of(before, "prompts", "Effusion")
    store, manifest = open_store(phantoms / "store"), read_manifest(phantoms / "cases" / "manifest.csv")
    build_index(store, tmp_path / "index", manifest=manifest, output="features")
    now = site.state.current()
    assert now.name != before.name
    np.testing.assert_array_equal(site.scores.of(now, "prompts", "Effusion"), old)
    assert site.scores.of(before, "prompts", "Effusion").base is old.base


def test_many_threads_make_them_once(phantoms: Path) -> None:
    site = opened(phantoms, store=phantoms / "store", probe=phantoms / "probe")
    found: list[np.ndarray] = []

    def ask() -> None:
        found.append(site.scores.of(site.state.current(), "probe", "Effusion"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(each.base) for each in found}) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"probe": "probe"}, "probe: needs the `store`: it learned from the output features as it is"),
        ({"store": "strangers", "prompts": "phantom8"}, "strangers: not the store of"),
    ],
)
def test_what_is_wrong_is_said_at_the_start(phantoms: Path, options: dict[str, str], words: str) -> None:
    store = open_store(phantoms / "store")
    if "strangers" in options.values() and not (phantoms / "strangers").exists():
        with StoreWriter(phantoms / "strangers", store.spec) as writer:
            zeros = {name: np.ones(shape, np.float16) for name, shape in store.spec.outputs.items()}
            writer.add_vector(Row(image_id="nobody", patient_id="p", content=bytes(32)), zeros)
            writer.flush("mini")
    given = {name: phantoms / value if name != "prompts" else value for name, value in options.items()}
    with pytest.raises(CxrEmbedError, match=words) as caught:
        open_site(phantoms / "index", **given)
    assert str(caught.value).count("\n") == 0


def test_prompts_of_another_output_need_the_store(phantoms: Path) -> None:
    store, manifest = open_store(phantoms / "store"), read_manifest(phantoms / "cases" / "manifest.csv")
    build_index(store, phantoms / "general", manifest=manifest, output="features")
    with pytest.raises(CxrEmbedError, match="phantom8: needs the `store`: prompts are compared with the output contr"):
        open_site(phantoms / "general", prompts="phantom8")


def test_only_what_is_offered_is_scored(phantoms: Path) -> None:
    site = opened(phantoms, prompts="phantom8")
    for by, finding in (("prompts", "Nothing"), ("probe", "Effusion"), ("words", "Effusion")):
        with pytest.raises(ScoresError, match=f"no scores of {finding} by {by}"):
            site.scores.of(site.state.current(), by, finding)


def test_a_store_that_went_away_is_said(phantoms: Path, tmp_path: Path) -> None:
    shutil.copytree(phantoms / "store", tmp_path / "store")
    site = opened(phantoms, store=tmp_path / "store", prompts="phantom8")
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(StoreError) as fault:
        site.scores.of(site.state.current(), "prompts", "Effusion")
    assert str(tmp_path) in str(fault.value)
    assert site.words(fault.value) == "The store: no store here (store.json is missing)"  # a reader sees no place of it
