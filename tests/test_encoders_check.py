"""`cxr-embed encoders check`: what a maintainer would ask of an encoder that is to run here."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import MeanEncoder, run_cli
from standin import NOTE
from test_cxr_foundation import needs_tensorflow

from cxr_embed.encoders.digests import folder_digest
from cxr_embed.errors import EncoderError

HERE = Path(__file__).parent


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
    assert told["seconds_an_image"]["in_a_batch"] > 0
    assert told["engine"].startswith("scikit-image")
    done = run_cli("encoders", "check", "mini")
    assert done.returncode == 0, done.stderr
    assert "vectors        differ" in done.stdout


def test_an_encoder_that_sees_nothing_fails_the_check() -> None:
    done = run_cli("encoders", "check", "test_encoders_check:make_blind", cwd=HERE)
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
    done = run_cli("encoders", "check", "test_encoders_check:make_telling", cwd=HERE)
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
