"""Vectors of weights that stand in for a trained model's: whatever tells a number of them says so."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from every_verb import verbs
from typer.testing import CliRunner

from cxr_embed import open_store
from cxr_embed.cli import app
from cxr_embed.encoders import load_encoder
from cxr_embed.store.layout import Header
from cxr_embed.types import EncoderSpec, collected_stand_ins, stand_ins_read

NOTE = "random numbers (seed 0): not a trained model"
FINDINGS = ["--finding", "Cardiomegaly", "--finding", "Effusion"]
# Verbs that tell no number of vectors: files in, files out, or lists.
WITHOUT_VECTORS = {
    "phantom",
    "prompts",
    "manifest scan",
    "manifest validate",
    "manifest recipes",
    "manifest convert",
    "manifest croissant",
    "manifest describe",
    "manifest findings",
    "manifest merge",
    "bench",  # marks them row by row: test_bench.py
    "scores",  # needs a store with a model's own scores: test_own_scores.py
    "weights convert",
    "weights random",  # says so in words of its own
    "demo",  # is of other verbs
    "import npy",  # of other programs' vectors, which nobody here can judge
    "import npz",
    "import tfrecord",
    "import prompts",
    "store compact",  # moves vectors, and shows none
    "store status",  # counts images
    "forget",  # takes vectors out, and tells none
    "store push",  # copies vectors, and tells none
    "store pull",
    "store merge",
    "marks export",  # a reader's labels, of pictures
    "marks info",
    "serve",  # its pages say so: test_serve.py
    "index map",  # needs umap-learn; it opens the index as all do
    "index push",  # needs a server's client; it opens the store as all do
    "encoders",
    "explain evaluate",  # of maps; says so where their `spec` does: test_explain_evaluate.py
}
MANIFEST = ["--manifest", "cases/manifest.csv"]
SPLIT = ["--split", "test"]
COMMANDS = [
    ["embed", "cases/manifest.csv", "--store", "store"],
    ["embed", "cases/manifest.csv", "--store", "store", "--json"],
    ["store", "info", "store"],
    ["store", "info", "store", "--json"],
    ["store", "verify", "store"],
    ["store", "export", "store", "v.parquet"],
    ["export", "npz", "store", "v.npz"],
    ["zeroshot", "store", "--prompts", "phantom8", "--out", "z.csv", "--report", "z.md"],
    ["zeroshot", "store", "--prompts", "phantom8", "--out", "z.csv", "--report", "z.json", "--json"],
    ["zeroshot", "store", "--ask", "pneumothorax"],
    ["zeroshot", "store", "--ask", "pneumothorax", "--json"],
    ["export", "prompts", "store", "p.npz"],
    ["probe", "train", "store", "cases/manifest.csv", *FINDINGS, "--out", "probe", "--split", "train"],
    ["probe", "predict", "probe", "store", "--out", "p.csv", "--labels", "cases/manifest.csv"],
    ["probe", "predict", "probe", "store", "--out", "p.parquet", "--labels", "cases/manifest.csv", "--json"],
    ["probe", "evaluate", "probe", "store", "cases/manifest.csv", *SPLIT, "--bootstraps", "5"],
    ["probe", "evaluate", "probe", "store", "cases/manifest.csv", *SPLIT, "--bootstraps", "5", "--json"],
    ["probe", "compare", "p.csv", "z.csv", "cases/manifest.csv", *SPLIT, "--bootstraps", "5"],
    ["probe", "compare", "p.csv", "z.csv", "cases/manifest.csv", *SPLIT, "--bootstraps", "5", "--json"],
    ["evaluate", "p.csv", "cases/manifest.csv", *SPLIT, "--bootstraps", "5"],
    ["evaluate", "p.parquet", "cases/manifest.csv", *SPLIT, "--bootstraps", "5", "--json"],
    ["probe", "curve", "store", "cases/manifest.csv", *FINDINGS, "--shots", "2", "--seeds", "1"],
    ["probe", "curve", "store", "cases/manifest.csv", *FINDINGS, "--fraction", "1", "--seeds", "1", "--json"],
    ["report", "p.csv", "cases/manifest.csv", *SPLIT, "--store", "store", "--out", "r.html", "--bootstraps", "5"],
    ["index", "build", "store", *MANIFEST, "--output", "contrastive", "--out", "index"],
    ["explain", "FIRST", *MANIFEST, "--probe", "probe", "--maps-only", "--out", "why"],
    ["explain", "FIRST", *MANIFEST, "--probe", "probe", "--maps-only", "--out", "why2", "--json"],
    ["explain", "curves", "why", "FIRST", *MANIFEST, "--probe", "probe", "--bootstraps", "5"],
    ["explain", "curves", "why", "FIRST", *MANIFEST, "--probe", "probe", "--bootstraps", "5", "--json"],
    ["export", "atlas", "index", "atlas.parquet"],
    ["index", "info", "index"],
    ["index", "verify", "index"],
    ["index", "evaluate", "index", "--bootstraps", "5"],
    ["index", "evaluate", "index", "--bootstraps", "5", "--json"],
    ["index", "duplicates", "index"],
    ["index", "add", "index", "store", *MANIFEST],
    ["search", "index", "--text", "large pleural effusion"],
    ["search", "index", "--text", "large pleural effusion", "--json"],
    ["index", "remove", "index", "FIRST"],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms in a store of the bundled encoder."""
    path = tmp_path_factory.mktemp("standins")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for words in (
            ["phantom", "cases", "--count", "40", "--size", "96"],
            ["embed", "cases/manifest.csv", "--store", "store"],
        ):
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, done.output
    return path


def test_every_verb_that_tells_of_vectors_is_looked_at() -> None:
    tried = {" ".join(words[:length]) for words in COMMANDS for length in (1, 2)}
    assert verbs() - WITHOUT_VECTORS - tried - {"encoders check"} == set()


def test_every_verb_names_the_stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    # Whatever is read says that its weights are random numbers: the source is no part of the fingerprint.
    with monkeypatch.context() as patch:
        patch.setattr(Header, "read", staticmethod(_random(Header.read)))
        silent = []
        for words in COMMANDS:
            words = [_first() if word == "FIRST" else word for word in words]
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, (words, done.output, done.exception)
            if NOTE not in done.output and "stand-in weights" not in done.output:
                silent.append(" ".join(words))
            elif "--json" in words:
                json.loads(done.stdout)
        assert silent == []
    with open("p.csv", newline="") as file:
        assert {row["stand_in"] for row in csv.DictReader(file)} == {"1"}
    for name in ("r.html", "r.md", "r.json", "z.md", "z.json"):
        assert "stand-in weights" in Path(name).read_text(), name
    curve = json.loads(Path("curve/curve.json").read_text())
    assert curve["encoders"][0]["name"] == "mini with random weights"


def _first() -> str:
    with open("cases/manifest.csv", newline="") as file:
        return next(csv.DictReader(file))["image_id"]


def _random(read):  # type: ignore[no-untyped-def]
    def altered(*arguments: object) -> Header:
        header = read(*arguments)
        told = header.spec.to_json()
        return replace(header, spec=EncoderSpec.from_json({**told, "weights_source": NOTE}))

    return altered


def test_the_demonstration_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for words in (["store", "info", "store"], ["encoders"]):
        done = CliRunner().invoke(app, words)
        assert "stand-in: mini is a demonstration and stands in for a foundation model" in done.output
    shutil.rmtree("again", ignore_errors=True)
    told = json.loads(CliRunner().invoke(app, ["embed", "cases/manifest.csv", "--store", "again", "--json"]).stdout)
    assert "a demonstration" in told["weights"]
    assert len(told["stand_ins"]) == 1
    assert open_store("store").spec.untrained is False


def test_an_encoder_with_nothing_to_hide_is_not_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for words in (["embed", "cases/manifest.csv", "--encoder", "hog", "--store", "hog"], ["store", "info", "hog"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert "stand-in" not in done.output
    assert not stand_ins_read()


def test_only_who_collects_stand_ins_keeps_them(folder: Path) -> None:
    open_store(folder / "store")  # a program of one's own, which may live long
    assert not stand_ins_read()
    with collected_stand_ins():
        open_store(folder / "store")
        open_store(folder / "store")
        assert len(stand_ins_read()) == 1
        with collected_stand_ins():
            assert not stand_ins_read()
        assert len(stand_ins_read()) == 1
    assert not stand_ins_read()


@pytest.mark.parametrize(
    ("source", "untrained", "told"),
    [
        ("", False, ""),
        ("google/cxr-foundation@1234", False, ""),
        ("random numbers (seed 5): not a trained model", True, "stand-in weights"),
        ("a stand-in made by the tests: not google/cxr-foundation", True, "stand-in weights"),
        ("trained here; a demonstration", False, "a demonstration and stands in"),
    ],
)
def test_what_a_source_says_of_itself(source: str, untrained: bool, told: str) -> None:
    spec = EncoderSpec(
        name="toy", revision="1", preprocessing="none", outputs={"features": (4,)}, weights_source=source
    )
    assert spec.untrained is untrained
    assert told in spec.stand_in
    assert bool(spec.stand_in) is bool(told)


def test_the_bundled_encoder_says_so_when_it_is_loaded() -> None:
    assert "stands in" in load_encoder("mini").spec.stand_in
