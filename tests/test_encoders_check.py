"""`cxr-embed encoders check`: what a maintainer would ask of an encoder that is to run here."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import MeanEncoder, run_cli
from standin import NOTE
from test_cxr_foundation import needs_tensorflow

from cxr_embed.cli import encoders as cli_encoders
from cxr_embed.encoders import ENCODERS, CheckedEncoder
from cxr_embed.encoders.check import check_encoder, file_facts
from cxr_embed.encoders.conversion import DIGEST_UNKNOWN
from cxr_embed.encoders.digests import folder_digest
from cxr_embed.encoders.golden import GOLDEN, picture, sketch
from cxr_embed.encoders.hub import HubModel, NotHere, hub_folder, no_downloads
from cxr_embed.encoders.listing import encoder_rows
from cxr_embed.errors import EncoderError
from cxr_embed.types import CxrImage, TextRule

HERE = Path(__file__).parent
# Another picture would make every golden vector wrong.
PICTURE = "00bd65b9d739693064a63f9ee386b29a0cbb3c56dfa76facf9d3941cab3c697c"


class Blind(MeanEncoder):
    """An encoder that gives the same vector whatever it is shown."""

    def preprocess(self, image):  # type: ignore[no-untyped-def]
        return super().preprocess(image) * 0


def make_blind(name: str, **options: object) -> Blind:
    """Reached as `test_encoders_check:make_blind`."""
    del name, options
    return Blind()


def test_any_encoder_can_be_checked() -> None:
    done = run_cli("encoders", "check", "hog", "--images", "2", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["name"], told["images"], told["vectors"], told["own"]) == ("hog", 2, {"different": True}, {})
    assert (told["ok"], told["problems"], told["missing"], told["prompts"]) == (True, [], [], None)
    assert told["licence"] == "BSD-3-Clause"
    assert set(told["seconds_an_image"]) == {"pixels", "alone", "in_a_batch"}
    assert min(told["seconds_an_image"].values()) > 0
    assert "core" in told["machine"]
    assert told["picture"]["features"]["apart"] < 1e-4
    assert told["engine"].startswith("scikit-image")
    done = run_cli("encoders", "check", "mini", "--images", "2")
    assert done.returncode == 0, done.stderr
    assert "vectors        another for another radiograph" in done.stdout
    assert "prompts        another vector for another sentence" in done.stdout
    assert "test picture   contrastive: " in done.stdout
    assert ", pinned here\n" in done.stdout
    assert "pixels         grey; 0..max to -1..1" in done.stdout


def test_a_vector_that_is_not_the_measured_one_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    known = json.loads(GOLDEN.read_text())
    (mini,) = (row for row in known.values() if row["name"] == "mini")
    values = mini["sketches"]["features"]
    shift = 0.2 * np.linalg.norm(values) / np.sqrt(len(values))
    mini["sketches"]["features"] = [value + shift for value in values]
    monkeypatch.setattr("cxr_embed.encoders.golden.golden", lambda: known)
    checked = check_encoder("mini", [picture(), picture()], device="cpu")
    assert not checked["ok"]
    assert "radiographs that differ have the same vector" in checked["problems"]  # they don't differ here
    said = [line for line in checked["problems"] if line.startswith("features of the test picture is ")]
    assert 0.15 < float(said[0].split()[6]) < 0.25
    assert len(said) == 1


def test_the_distance_of_sketches_is_that_of_vectors() -> None:
    rng = np.random.default_rng(0)
    for length in (50, 1024, 24000):
        one = rng.standard_normal(length)
        other = one + 0.01 * rng.standard_normal(length)
        ratio = np.linalg.norm(sketch(one) - sketch(other)) / np.linalg.norm(sketch(one))
        assert 0.006 < ratio < 0.015
    assert picture().content_id == ""
    assert hashlib.sha256(picture().pixels.tobytes()).hexdigest() == PICTURE


def test_an_encoder_that_sees_nothing_fails_the_check() -> None:
    done = run_cli("encoders", "check", "test_encoders_check:make_blind", "--images", "2", cwd=HERE)
    assert done.returncode == 1
    assert done.stderr == "error: radiographs that differ have the same vector\n"


class Telling(MeanEncoder):
    """An encoder with a check of its own."""

    def check(self, images: object) -> dict[str, object]:
        return {"mood": "fine"}


def make_telling(name: str, **options: object) -> Telling:
    """Reached as `test_encoders_check:make_telling`."""
    del name, options
    return Telling()


def test_what_an_encoder_of_the_users_tells_is_printed() -> None:
    done = run_cli("encoders", "check", "test_encoders_check:make_telling", "--images", "2", cwd=HERE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "mood           fine\n" in done.stdout


def test_what_cannot_be_loaded_is_said() -> None:
    done = run_cli("encoders", "check", "cxr-fundation")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "did you mean cxr-foundation" in done.stderr
    assert run_cli("encoders", "--json").returncode == 0


@needs_tensorflow
def test_cxr_foundation_tells_what_its_graphs_are(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "standin.py"), str(tmp_path), "published", "other-names"]
    subprocess.run(command, check=True, capture_output=True)
    weights = str(tmp_path / "published")
    done = run_cli("encoders", "check", "cxr-foundation", "--weights", weights, "--images", "3", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["spec"]["weights_source"] == NOTE
    files = {file["file"]: file for file in told["files"]}
    pb = tmp_path / "published" / "elixr-c-v2-pooled" / "saved_model.pb"
    assert files["elixr-c-v2-pooled/saved_model.pb"]["sha256"] == hashlib.sha256(pb.read_bytes()).hexdigest()
    own = told["own"]
    assert set(own["versions"]) == {"python", "numpy", "tensorflow", "tensorflow-text", "openvino"}
    assert (own["decode_depth"], own["takes_batches"]) == (8, True)
    assert own["batches"]["proven"] is True
    assert own["batches"]["apart"] <= own["batches"]["allowed"] == 1e-5
    tower, qformer = own["models"]["elixr_c"], own["models"]["qformer"]
    assert tower["ops_to_register"] == ["SentencepieceOp"]
    assert (tower["input_batch"], tower["output_batch"], tower["driven_by"]) == (None, 1, 1)
    assert (qformer["input_batch"], qformer["driven_by"], qformer["device"]) == (1, 1, "cpu")
    assert "image_mean" in tower["outputs"]  # an output more than we know
    weights = str(tmp_path / "other-names")
    done = run_cli("encoders", "check", "cxr-foundation", "--weights", weights, "--images", "2")
    assert done.returncode == 0, done.stderr
    assert "batches        no: the graph has not the published network's tensors" in done.stdout
    assert "decodes to     16 bits" in done.stdout
    (tmp_path / "published" / "pax-elixr-b-text" / "saved_model.pb").unlink()
    done = run_cli("encoders", "check", "cxr-foundation", "--weights", str(tmp_path / "published"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "pax-elixr-b-text/saved_model.pb is missing" in done.stderr


def test_bytes_that_the_hub_did_not_announce_are_half_a_download(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    blob = blobs / hashlib.sha256(b"all of it").hexdigest()
    blob.write_bytes(b"all of it")
    (snapshot / "model.pb").symlink_to(blob)
    (blobs / "0123456789abcdef0123456789abcdef01234567").write_bytes(b"small, named by git")
    (snapshot / "small").symlink_to(blobs / "0123456789abcdef0123456789abcdef01234567")
    digest = folder_digest(snapshot, snapshot.iterdir())
    blob.write_bytes(b"all of")
    with pytest.raises(EncoderError, match=r"not those that the Hub announced \(half a download\?\); delete .*again"):
        folder_digest(snapshot, snapshot.iterdir())
    (snapshot / "model.pb").unlink()
    (snapshot / "model.pb").write_bytes(b"all of it")  # a copy elsewhere: the same model
    assert folder_digest(snapshot, snapshot.iterdir()) == digest


def test_what_is_missing_is_said_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_EMBED_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setattr("cxr_embed.encoders.hub.cached_folder", lambda _: None)

    def missing(name: str) -> dict[str, str]:
        checked = check_encoder(name, [picture()] * 2, device="cpu")
        assert not checked["ok"]
        (part,) = checked["missing"]
        assert checked["problems"] == [f"missing: {part['what']}"]
        return part

    part = missing("densenet121-pc")
    assert part["what"] == "weights of densenet121-pc"
    assert part["get"].startswith("Download https://github.com/")
    assert part["offline"].endswith(f"into {tmp_path / 'none'}")
    assert missing("chexnet")["get"].startswith("of a checkpoint of yours")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "skimage" else True)
    part = missing("hog")
    assert (part["what"], part["get"]) == ("package skimage", "pip install cxr-embed")
    assert "pip install --no-index --find-links wheels cxr-embed" in part["offline"]


def test_missing_models_of_the_hub_are_not_downloaded(tmp_path: Path) -> None:
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = run_cli("encoders", "check", "medsiglip-448", "--images", "2", "--json", env=env)
    assert (done.returncode, done.stderr) == (1, "error: missing: google/medsiglip-448 at 9cea28a1a119\n")
    (part,) = json.loads(done.stdout)["missing"]
    assert part["get"].startswith("accept the terms at https://huggingface.co/google/medsiglip-448, `hf auth login`")
    assert "hf download google/medsiglip-448 --revision 9cea28a1a1195f665105faa6e8544c112fd960a4" in part["offline"]
    assert part["offline"].endswith("here: `--weights medsiglip-448`")
    assert not (tmp_path / "hub").exists()
    model = HubModel("a/b", "main", ("model.safetensors",), required=("model.safetensors",))
    with no_downloads(), pytest.raises(NotHere, match="a/b is not in the Hub's cache"):
        hub_folder(model)


class Wordless(MeanEncoder):
    """An encoder whose tokenizer is missing."""

    spec = replace(MeanEncoder.spec, text=TextRule("means", "clip"))

    def embed_text(self, prompts: object) -> np.ndarray:
        raise EncoderError("no tokenizer is here")


class Deaf(Wordless):
    """An encoder that reads every prompt alike."""

    def embed_text(self, prompts: object) -> np.ndarray:
        return np.ones((2, 16), np.float32)


@pytest.mark.parametrize(
    ("kind", "said"), [("Wordless", "no prompts: no tokenizer is here"), ("Deaf", "prompts that differ have the same")]
)
def test_a_text_side_that_cannot_read_fails_the_check(
    kind: str, said: str, chest: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helpers.make_mean", lambda **_: globals()[kind]())
    images = [CxrImage(pixels=chest(n, 64), bits=12, content_id="", source="png") for n in (1, 2)]
    checked = check_encoder("helpers:make_mean", images, device="cpu")
    assert not checked["ok"]
    assert checked["problems"][0].startswith(said)
    assert checked["vectors"] == {"different": True}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (f"a.pth (SHA-256 0; {DIGEST_UNKNOWN}: compared with no publisher's)", "made from a file of unknown digest"),
        ("a.pth (SHA-256 0, as given by `sha256`)", "made from a file whose digest a user gave, by its own note"),
        (f"a.pth (SHA-256 {'1' * 64})", "made from a file whose digest is pinned here, by its own note"),
        ("whatever", "digest unknown"),
    ],
)
def test_what_is_known_of_a_digest(source: str, said: str, tmp_path: Path) -> None:
    encoder = MeanEncoder()
    encoder.spec = replace(encoder.spec, weights_source=source)
    encoder.files, encoder.pinned = (tmp_path / "w.safetensors",), ("1" * 64,)  # type: ignore[attr-defined]
    (tmp_path / "w.safetensors").write_bytes(b"numbers")
    (file,) = file_facts(CheckedEncoder(encoder))
    assert (file["file"], file["digest"]) == ("w.safetensors", said)
    assert file["sha256"] == hashlib.sha256(b"numbers").hexdigest()


@pytest.mark.parametrize("name", [name for name, card in ENCODERS.items() if card.has_weights])
def test_every_encoder_with_weights_says_which_files(name: str) -> None:
    module = importlib.import_module(ENCODERS[name].module)
    known = [module, *getattr(module.make, "__mro__", [])[:-1]]
    sources = [inspect.getsource(each) for each in known]
    assert any("self.files" in source or "def files(" in source for source in sources)


def test_encoders_are_listed_by_what_they_can_do() -> None:
    rows = {row["name"]: row for row in encoder_rows()}
    assert set(rows) == set(ENCODERS)
    assert next(iter(rows)) == "mini"
    first = [row["tasks"][0] for row in rows.values()]
    assert first == sorted(first, key=["words", "classes", "maps", "vectors"].index)
    assert rows["hog"]["tasks"] == ["vectors"]
    assert rows["hog"]["needs"] == []
    assert rows["densenet121-rsna"]["classes"] == 2
    assert rows["cxr-foundation"]["maps"] == ["elixr_c"]


@pytest.mark.parametrize("width", [60, 100, 160])
def test_the_list_fits_its_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    done = run_cli("encoders")
    assert done.returncode == 0
    table = done.stdout.split("\nwords: ")[0]
    assert max(map(len, table.splitlines())) <= width
    for row in encoder_rows():
        assert row["name"] in table
    assert set(cli_encoders.LEGEND) <= {line.partition(":")[0] for line in done.stdout.splitlines()}
