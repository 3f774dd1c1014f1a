"""`mini`: both towers against the torch modules that trained them, what its prompts mean, and what it says it can't."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import cast

import numpy as np
import pytest
from helpers import run_cli

from cxr_embed import open_store
from cxr_embed.cli import main
from cxr_embed.encoders import ENCODERS, load_encoder, load_text_encoder
from cxr_embed.encoders.mini import MiniEncoder, bundle, pixels
from cxr_embed.encoders.mini.text import MAX_WORDS, split_words, word_parts
from cxr_embed.errors import EncoderError, UnknownWordsWarning
from cxr_embed.images import read_image
from cxr_embed.metrics import auroc
from cxr_embed.phantom import render_study, sample_studies
from cxr_embed.prompts import Finding, PromptSet, load_prompt_set
from cxr_embed.screening import score_store
from cxr_embed.types import CxrImage

TRAINING = Path(__file__).parents[1] / "examples" / "train_mini"


@pytest.fixture(scope="module")
def mini() -> MiniEncoder:
    return cast(MiniEncoder, load_encoder("mini", device="cpu", precision="float32", threads=2))


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The training scripts can be imported by their names; they are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(TRAINING))
    yield
    for name in set(sys.modules) - before:
        path = getattr(sys.modules[name], "__file__", None)
        if path and Path(path).parent == TRAINING:
            del sys.modules[name]


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Model inputs `(count, 1, SIDE, SIDE)`."""
    rng = np.random.default_rng(seed)
    return pixels.standardise(rng.random((count, 1, pixels.SIDE, pixels.SIDE), dtype=np.float32))


# The bundle


def test_both_towers_take_at_most_twelve_megabytes() -> None:
    assert bundle.PATH.stat().st_size <= 12e6
    assert ENCODERS["mini"].weights_here
    assert ENCODERS["mini"].installed


def test_its_row_tells_the_shapes_that_it_gives(mini: MiniEncoder) -> None:
    card = ENCODERS["mini"]
    assert dict(mini.spec.outputs) == {output: card.outputs[output] for output in card.default_outputs}
    vectors = mini.embed(pictures(3))
    assert {name: array.shape[1:] for name, array in vectors.items()} == dict(mini.spec.outputs)
    np.testing.assert_allclose(np.linalg.norm(vectors["contrastive"], axis=1), 1, rtol=1e-5)


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "mini.safetensors"
    data = bytearray(bundle.PATH.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    monkeypatch.setattr(bundle, "PATH", damaged)
    with pytest.raises(EncoderError, match=r"mini.safetensors: damaged, its SHA-256 is [0-9a-f]{64}"):
        load_encoder("mini", device="cpu")


def test_own_weights_are_another_encoder(tmp_path: Path, mini: MiniEncoder) -> None:
    own = tmp_path / "own.safetensors"
    data = bytearray(bundle.PATH.read_bytes())
    data[-1] ^= 1  # the last digit of one number
    own.write_bytes(data)
    other = load_encoder("mini", weights=own, device="cpu")
    assert other.spec.fingerprint != mini.spec.fingerprint
    with pytest.raises(EncoderError, match=r"the model here is mini \["):
        load_text_encoder(mini.spec, weights=own, device="cpu")
    own.write_bytes(b"no weights")
    with pytest.raises(EncoderError, match="not a safetensors file"):
        load_encoder("mini", weights=own, device="cpu")
    with pytest.raises(EncoderError, match="cannot be read"):
        load_encoder("mini", weights=tmp_path / "none", device="cpu")


def test_another_models_tensors_are_no_bundle(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(2, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(EncoderError, match="no weights of mini"):
        load_encoder("mini", weights=tmp_path / "other.safetensors", device="cpu")


@pytest.mark.parametrize(
    ("about", "tensors", "told"),
    [
        ({"vocabulary": "[1,"}, {}, "its vocabulary or source is missing"),
        ({"vocabulary": None}, {}, "its vocabulary or source is missing"),
        ({"source": None}, {}, "its vocabulary or source is missing"),
        ({"vocabulary": '["effusion"]'}, {}, r"text.words.weight has shape \(343, 64\), not \(1, 64\)"),
        ({}, {"head.scale": None}, "lacks head.scale"),
        ({}, {"image.stem.1.bias": None}, "lacks image.stem.1.bias"),
        ({}, {"head.weight": np.zeros((64, 100), np.float16)}, r"head.weight has shape \(64, 100\), not \(64, 256\)"),
    ],
)
def test_a_bundle_that_is_not_whole_is_named(
    tmp_path: Path, about: dict[str, str | None], tensors: dict[str, np.ndarray | None], told: str
) -> None:
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    with safe_open(bundle.PATH, framework="numpy") as file:
        known = {**file.metadata(), **about}
    arrays = {**load_file(bundle.PATH), **tensors}
    own = tmp_path / "own.safetensors"
    save_file(
        {name: value for name, value in arrays.items() if value is not None},
        own,
        metadata={name: value for name, value in known.items() if value is not None},
    )
    with pytest.raises(EncoderError, match=f"own.safetensors: {told}"):
        load_encoder("mini", weights=own, device="cpu")


def test_it_runs_without_torch_and_without_a_network() -> None:
    program = (
        "import socket, sys, warnings\n"
        "def refuse(*_): raise OSError('no network here')\n"
        "socket.socket.connect = refuse\n"
        "import numpy as np\n"
        "from cxr_embed.encoders import load_encoder\n"
        "encoder = load_encoder('mini', device='cpu', precision='float32', threads=1)\n"
        "encoder.embed(np.zeros((1, 1, 224, 224), np.float32)), encoder.embed_text(['clear lungs'])\n"
        "assert not {'torch', 'tensorflow'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Both towers against torch


@pytest.mark.usefixtures("training")
def test_the_image_tower_is_the_one_that_was_trained(mini: MiniEncoder, real_data: Path) -> None:
    torch = pytest.importorskip("torch")
    rows = list(csv.DictReader((real_data / "nih" / "manifest.csv").open()))[::200]
    batch = np.stack([mini.preprocess(read_image(real_data / "nih" / row["path"])) for row in rows])
    tower = module("network").Tower()
    state = {name: torch.from_numpy(values) for name, values in bundle.load_bundle().image.items()}
    assert not tower.load_state_dict(state, strict=False).unexpected_keys
    with torch.inference_mode():
        expected = tower.eval()(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(mini.embed(batch)["features"], expected, atol=1e-4)


@pytest.mark.usefixtures("training")
def test_the_text_tower_is_the_one_that_was_trained(mini: MiniEncoder) -> None:
    torch = pytest.importorskip("torch")
    model, weights = module("text_model"), bundle.load_bundle()
    tower = model.TextTower(weights.vocabulary)
    tower.load_state_dict({name: torch.from_numpy(values) for name, values in weights.text.items()})
    prompts = ["no pleural effusion", "clear lungs", "an unheard-of opacity, 3.5 cm", "ap", "mass " * MAX_WORDS]
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(tower(prompts), dim=1).numpy()
    with pytest.warns(UnknownWordsWarning):
        np.testing.assert_allclose(mini.embed_text(prompts), expected, atol=1e-5)


def test_a_blank_picture_gives_finite_vectors(mini: MiniEncoder) -> None:
    blank = mini.preprocess(CxrImage(pixels=np.zeros((280, 280), np.uint8), bits=8, content_id="", source="png"))
    assert not blank.std()
    assert all(np.isfinite(array).all() for array in mini.embed(blank[None]).values())


def test_a_batch_gives_what_single_images_give(mini: MiniEncoder) -> None:
    batch = pictures(5)
    together = mini.embed(batch)
    for number in range(5):
        alone = mini.embed(batch[number : number + 1])
        for name, array in together.items():
            np.testing.assert_allclose(alone[name][0], array[number], atol=1e-5)


# What prompts mean


@pytest.mark.parametrize(
    ("prompt", "alike", "opposite"),
    [
        ("enlarged heart", "cardiomegaly", "heart size is normal"),
        ("heart size is normal", "no cardiomegaly", "the heart is enlarged"),
        ("no pleural effusion", "costophrenic angles are sharp", "large pleural effusion"),
        ("without pneumothorax", "no evidence of pneumothorax", "pneumothorax"),
        ("clear lungs", "the lungs are clear", "lungs are abnormal"),
        ("frontal AP portable radiograph", "AP view of the chest", "PA view of the chest"),
        ("normal chest radiograph", "no acute cardiopulmonary disease", "abnormal chest radiograph"),
    ],
)
def test_words_stand_near_their_like(mini: MiniEncoder, prompt: str, alike: str, opposite: str) -> None:
    asked, near, far = mini.embed_text([prompt, alike, opposite])
    assert asked @ near > asked @ far + 0.4


def test_a_negation_reaches_over_what_stands_between(mini: MiniEncoder) -> None:
    plain, denied, listed, other = mini.embed_text(
        [
            "pleural effusion",
            "no evidence of pleural effusion",
            "no consolidation or pleural effusion",
            "consolidation without pleural effusion",
        ]
    )
    assert plain @ denied < 0
    assert denied @ listed > plain @ listed
    assert plain @ other < 0


def test_case_marks_and_spaces_do_not_matter(mini: MiniEncoder) -> None:
    first, second = mini.embed_text(["No Pleural  Effusion", "no pleural effusion"])
    np.testing.assert_array_equal(first, second)


def test_split_words() -> None:
    assert split_words("A 2.5 cm x-ray, Ümlaut; No.") == ["a", "#", "cm", "x", "ray", ",", "ümlaut", ";", "no", "."]
    assert word_parts("ab") == [word_parts("abc")[0], *word_parts("ab")[1:]]


def test_unknown_words_are_told(mini: MiniEncoder) -> None:
    with pytest.warns(UnknownWordsWarning, match=r"mini never learned 'displaced', 'fracture': it guesses"):
        mini.embed_text(["displaced fracture", "no fracture"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mini.embed_text(["No pleural effusion, clear lungs."])
    assert mini.unknown_words("Fracture; fracture, effusion of 3") == ("fracture",)
    assert mini.unknown_words("нет effusion") == ("нет",)  # dropped in silence, it would mean its opposite
    with pytest.warns(UnknownWordsWarning, match=f"never learned '{'x' * 40}...': it guesses"):
        mini.embed_text(["x" * 5000])


def test_a_misspelled_word_stands_near_the_right_one(mini: MiniEncoder) -> None:
    with pytest.warns(UnknownWordsWarning, match="'cardiomegally'"):
        wrong, right, other = mini.embed_text(["cardiomegally", "cardiomegaly", "no cardiomegaly"])
    assert wrong @ right > wrong @ other


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        ([""], "a sentence in English letters, not ''"),
        (["., ;"], "a sentence in English letters"),
        (["肺炎"], "a sentence in English letters"),
        (["no " * (MAX_WORDS + 1)], f"has {MAX_WORDS + 1} words, mini reads {MAX_WORDS}"),
        ("effusion", "a list of sentences, not one"),
    ],
)
def test_what_is_no_prompt_is_refused(mini: MiniEncoder, prompts: list[str], told: str) -> None:
    with pytest.raises(EncoderError, match=told):
        mini.embed_text(prompts)


def test_no_prompts_give_no_vectors(mini: MiniEncoder) -> None:
    assert mini.embed_text([]).shape == (0, *mini.spec.outputs["contrastive"])


# Prompts against pictures


@pytest.fixture(scope="module")
def phantoms(mini: MiniEncoder) -> tuple[np.ndarray, list[set[str]]]:
    """Vectors of phantoms that no training saw, and their findings; the view is one of them."""
    studies = sample_studies(120, seed=987_654, prevalence=0.3)
    images = [
        CxrImage(pixels=render_study(study, 256).pixels, bits=12, content_id="", source="png") for study in studies
    ]
    vectors = mini.embed(np.stack([mini.preprocess(image) for image in images]))["contrastive"]
    return vectors, [{finding.name for finding in study.findings} | {study.view} for study in studies]


def test_prompts_rank_phantoms(mini: MiniEncoder, phantoms: tuple[np.ndarray, list[set[str]]]) -> None:
    """On 600 phantoms the mean is 0.969, and nodules have 0.816."""
    vectors, findings = phantoms
    found = {}
    view = next(finding for finding in load_prompt_set("quality").findings if finding.name == "View AP")
    for finding in (*load_prompt_set("phantom8").findings, view):
        yes, no = (mini.embed_text(prompts).mean(axis=0) for prompts in (finding.positive, finding.negative))
        labels = np.array([finding.name.removeprefix("View ") in shown for shown in findings])
        found[finding.name] = auroc(labels, vectors @ yes - vectors @ no).value or 0.0
    assert np.mean(list(found.values())) >= 0.9, found
    assert min(found.values()) >= 0.65, found


def test_the_view_of_real_radiographs(mini: MiniEncoder, real_data: Path) -> None:
    rows = [row for row in csv.DictReader((real_data / "nih" / "manifest.csv").open()) if row["split"] == "train"][::8]
    batch = np.stack([mini.preprocess(read_image(real_data / "nih" / row["path"])) for row in rows])
    vectors = mini.embed(batch)["contrastive"]
    yes, no = mini.embed_text(["AP view of the chest", "PA view of the chest"])
    value = auroc(np.array([row["view"] == "AP" for row in rows]), vectors @ yes - vectors @ no).value
    assert value is not None
    assert value >= 0.85


# In a run


@pytest.mark.parametrize("options", [(), ("--outputs", "contrastive")], ids=["all outputs", "one output"])
def test_the_defaults_of_embed_and_index_answer_words(
    make_images: Callable[..., Path],
    tmp_path: Path,
    options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nobody has to know which output words are compared with."""
    manifest, store, index = str(make_images(3)), str(tmp_path / "store"), str(tmp_path / "index")

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["cxr-embed", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        assert not ended.value.code, told.err
        return told.out

    run("embed", manifest, "--store", store, "--device", "cpu", "--workers", "1", *options)
    run("index", "build", store, "--manifest", manifest, "--out", index)
    for query in (("--text", "pleural effusion"), ("--image-id", "i1"), ("--image", str(tmp_path / "images/i1.png"))):
        found = json.loads(run("search", index, *query, "-k", "2", "--json"))
        assert len(found["neighbors"]) == 2, query


def test_it_is_the_default_and_screening_names_unknown_words(tmp_path: Path) -> None:
    done = run_cli("phantom", "chests", "--count", "6", "--size", "128", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run_cli("embed", "chests/manifest.csv", "--store", "store", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    store = open_store(tmp_path / "store")
    assert store.spec.name == "mini"
    asked = PromptSet("own", (Finding("Fracture", ("displaced fracture",), ("no fracture",)),))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (score_store(store, asked, device="cpu") for _ in range(2))
    assert first.embedded == 2
    assert second.embedded == 0
    assert first.notes == second.notes
    assert len(first.notes) == 1
    assert first.notes[0].startswith(
        "2 of 2 prompts, the first 'displaced fracture', have words that mini never learned (displaced, fracture)"
    )
    known = PromptSet("own", (Finding("Effusion", ("pleural effusion",), ("no pleural effusion",)),))
    assert score_store(store, known, device="cpu").notes == ()
    shutil.rmtree(tmp_path / "store")
