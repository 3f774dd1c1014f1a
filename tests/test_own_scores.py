"""A model's own answers: TorchXRayVision's classifiers, stored as logits, written by finding."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import run_cli

import cxr_embed as cx
from cxr_embed.api.own_scores import at_operating_points
from cxr_embed.encoders.networks import densenet121, resnet50
from cxr_embed.encoders.torchxrayvision import WEIGHTS, head_shapes
from cxr_embed.encoders.torchxrayvision_classes import FINDINGS, OPERATING_POINTS
from cxr_embed.encoders.weights import digest, load_head, random_weights, save_weights
from cxr_embed.errors import CxrEmbedError, EncoderError, StoreError
from cxr_embed.evaluation import read_scores
from cxr_embed.pipeline.embedding import embed
from cxr_embed.store.layout import HEADER, Header
from cxr_embed.types import ClassRule, CxrImage, EncoderSpec

with_peers = pytest.mark.skipif(
    importlib.util.find_spec("torchxrayvision") is None,
    reason="torchxrayvision is not installed: make test EXTRAS=dev,peers",
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "densenet.safetensors"
    made = random_weights(densenet121, 0, head_shapes("densenet121"))
    save_weights(path, made, "random numbers (seed 0): not a trained model")
    return path


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    rows = ["image_id,patient_id,path,Effusion,Lung_Lesion"]
    for number in range(6):
        pixels = rng.integers(0, 256, (7, 9)).astype(np.uint8)
        Image.fromarray(pixels).resize((180, 140)).save(folder / f"i{number}.png")
        rows.append(f"i{number},p{number},i{number}.png,{number % 2},{number // 3}")
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    return folder / "m.csv"


@pytest.fixture(scope="module")
def store(weights: Path, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "s"
    how: dict[str, Any] = {"device": "cpu", "dtype": "float32", "precision": "float32", "workers": 1}
    embed(manifest, encoder="densenet121", weights=weights, store=path, outputs=("scores", "features"), **how)
    return path


@with_peers
@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_the_tables_are_those_of_torchxrayvision(name: str) -> None:
    import torchxrayvision as xrv

    theirs = "resnet50-res512-all" if name == "resnet50" else f"densenet121-res224-{name.partition('-')[2] or 'all'}"
    table = xrv.models.model_urls[theirs]
    known = {label: point for label, point in zip(table["labels"], table["op_threshs"], strict=True) if point == point}
    assert known == OPERATING_POINTS[name]
    assert list(known) == list(OPERATING_POINTS[name])
    assert tuple(xrv.models.DenseNet.targets) == FINDINGS
    assert all(label in ("", FINDINGS[row]) for row, label in enumerate(table["labels"]))


@with_peers
def test_densenet_answers_as_torchxrayvision_does(weights: Path, store: Path) -> None:
    import torch
    import torchxrayvision as xrv
    from safetensors.torch import load_file

    opened = cx.open_store(store)
    encoder = cx.load_encoder("densenet121", weights=weights, device="cpu", precision="float32", outputs=["scores"])
    images = [
        CxrImage(
            pixels=np.random.default_rng(seed).integers(0, 256, (150, 180)).astype(np.uint8),
            bits=8,
            content_id="",
            source="png",
        )
        for seed in range(3)
    ]
    batch = np.stack([encoder.preprocess(image) for image in images])
    logits = encoder.embed(batch)["scores"]
    points = torch.tensor(xrv.models.model_urls["all"]["op_threshs"])
    for op_threshs, normalised in ((None, False), (points, True)):
        peer = xrv.models.DenseNet(weights=None, num_classes=18, apply_sigmoid=True, op_threshs=op_threshs).eval()
        peer.load_state_dict({**peer.state_dict(), **load_file(weights)})
        with torch.inference_mode():
            theirs = peer(torch.from_numpy(batch)).numpy()
        ours = 1 / (1 + np.exp(-logits))
        if normalised:
            ours = at_operating_points(ours, points.numpy())
        assert np.ptp(theirs) > 0.05
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)
    assert opened.spec.classes is not None
    assert opened.spec.classes.names == FINDINGS


@with_peers
def test_resnet_answers_as_torchxrayvision_does(tmp_path: Path) -> None:
    import torch
    import torchvision
    import torchxrayvision as xrv
    from safetensors.torch import load_file

    path = tmp_path / "resnet.safetensors"
    made = random_weights(resnet50, 0, head_shapes("resnet50"))
    made["fc.weight"] /= 5000  # random features are large, and logits should not all be far from 0
    save_weights(path, made, "random")
    network = torchvision.models.resnet50(weights=None, num_classes=18)
    network.conv1 = torch.nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    network.load_state_dict({**network.state_dict(), **load_file(path)})
    encoder = cx.load_encoder("resnet50", weights=path, device="cpu", precision="float32", outputs=["scores"])
    batch = np.random.default_rng(0).uniform(-1024, 1024, (2, 1, 512, 512)).astype(np.float32)
    points = torch.tensor(xrv.models.model_urls["resnet50-res512-all"]["op_threshs"])
    with torch.inference_mode():
        theirs = xrv.models.op_norm(torch.sigmoid(network.eval()(torch.from_numpy(batch))), points).numpy()
    logits = encoder.embed(batch)["scores"]
    assert 0.1 < logits.std() < 5
    rule = encoder.spec.classes
    assert rule is not None
    ours = at_operating_points(1 / (1 + np.exp(-logits)), np.array(rule.operating_points, np.float32))
    kept = [FINDINGS.index(name) for name in rule.names]
    assert set(FINDINGS) - set(rule.names) == {"Lung Lesion", "Enlarged Cardiomediastinum"}
    np.testing.assert_allclose(ours, theirs[:, kept], atol=1e-4, rtol=0)
    left = [row for row in range(18) if row not in kept]
    assert (theirs[:, left] == 0.5).all()  # no answer, whatever the image


@with_peers
def test_a_published_pickle_keeps_its_classifier(tmp_path: Path, weights: Path) -> None:
    import hashlib

    import torch
    import torchxrayvision as xrv
    from safetensors.torch import load_file

    from cxr_embed.encoders.weights import PublishedWeights, convert

    peer = xrv.models.DenseNet(weights=None, num_classes=18)
    peer.load_state_dict({**peer.state_dict(), **load_file(weights)})
    path = tmp_path / "published.pt"
    torch.save(peer, path)
    pinned = PublishedWeights("https://example.org", hashlib.sha256(path.read_bytes()).hexdigest())
    shapes = head_shapes("densenet121")
    converted = convert(pinned, densenet121, path, None, shapes)
    assert digest({name: converted[name] for name in shapes}) == digest(load_head(weights, shapes))
    assert not set(shapes) & set(convert(pinned, densenet121, path, None))


def plain(value: float, point: float) -> float:
    return value / point / 2 if value < point else 0.5 + (value - point) / (1 - point) / 2


def test_operating_points_are_two_straight_parts() -> None:
    values = np.linspace(0, 1, 101, dtype=np.float32)[:, None].repeat(3, 1)
    points = np.array([0.002, 0.5, 0.9], np.float32)
    found = at_operating_points(values, points)
    want = [[plain(float(value), float(point)) for value, point in zip(row, points, strict=True)] for row in values]
    np.testing.assert_allclose(found, want, atol=2e-6)
    assert (np.diff(found, axis=0) > 0).all()  # the order stays
    np.testing.assert_allclose(at_operating_points(points[None], points), 0.5)


def test_features_alone_stay_what_they_were(weights: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.safetensors"
    save_weights(bare, random_weights(densenet121, 0), "random")
    old, new = (cx.load_encoder("densenet121", weights=path, precision="float32").spec for path in (bare, weights))
    assert old.fingerprint == new.fingerprint  # stores of earlier releases go on
    assert old.outputs == {"features": (1024,)}
    assert old.classes is None
    with pytest.raises(EncoderError, match=r"bare.safetensors: has no classifier \(classifier.bias\)"):
        cx.load_encoder("densenet121", weights=bare, outputs=["features", "scores"])
    with_head = cx.load_encoder(
        "densenet121", weights=weights, precision="float32", outputs=["features", "scores"]
    ).spec
    assert with_head.fingerprint != new.fingerprint
    assert with_head.weights != new.weights
    other = random_weights(densenet121, 0, head_shapes("densenet121"))
    other["classifier.bias"][3] += 1
    save_weights(tmp_path / "other.safetensors", other, "random")
    changed = cx.load_encoder("densenet121", weights=tmp_path / "other.safetensors", outputs=["scores"])
    assert changed.spec.weights != with_head.weights  # another classifier is another model


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda head: head.__setitem__("classifier.bias", np.zeros(14, np.float32)), "has shape (14,), expected (18,)"),
        (lambda head: head["classifier.weight"].__setitem__((0, 0), np.nan), "has values that are not finite"),
    ],
)
def test_a_damaged_classifier_is_one_line(change: Callable[[Any], None], said: str, tmp_path: Path) -> None:
    made = random_weights(densenet121, 0, head_shapes("densenet121"))
    change(made)
    save_weights(tmp_path / "w.safetensors", made, "random")
    with pytest.raises(EncoderError) as caught:
        cx.load_encoder("densenet121", weights=tmp_path / "w.safetensors", outputs=["scores"])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_siblings_answer_what_they_were_trained_for() -> None:
    sizes = {name: len(points) for name, points in OPERATING_POINTS.items()}
    assert sizes["densenet121"] == 18
    assert sizes["densenet121-nih"] == 14
    assert sizes["densenet121-rsna"] == 2
    assert set(OPERATING_POINTS) == set(WEIGHTS)
    for points in OPERATING_POINTS.values():
        assert [name for name in FINDINGS if name in points] == list(points)
        assert all(0 < point < 1 for point in points.values())


def test_the_record_of_classes_goes_through() -> None:
    rule = ClassRule("scores", ("a", "b"), (0.1, 0.2))
    spec = EncoderSpec("x", revision="1", preprocessing="", outputs={"scores": (2,)}, classes=rule)
    assert EncoderSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert replace(spec, classes=None).fingerprint == spec.fingerprint
    assert "classes" not in replace(spec, classes=None).to_json()


def test_scores_are_written_and_evaluated(store: Path, manifest: Path, tmp_path: Path) -> None:
    opened = cx.open_store(store)
    logits = opened.read(opened.ids, "scores").vectors
    made = cx.scores(store)
    np.testing.assert_allclose(made.values, 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert made.values.dtype == np.float32
    assert made.stand_in
    assert made.learned_from is None
    assert made.scores.kind == "sigmoid"
    told = run_cli("scores", str(store), "--out", str(tmp_path / "s.csv"))
    assert told.returncode == 0, told.stderr
    assert "6 images, 18 findings; scores of densenet121 itself" in told.stdout
    back = read_scores(tmp_path / "s.csv")
    np.testing.assert_array_equal(back.values(FINDINGS).astype(np.float32), made.values)
    assert back.stand_in
    found = cx.evaluate(tmp_path / "s.csv", manifest, bootstraps=0)
    assert {finding.label for finding in found.findings} == {"Effusion", "Lung_Lesion"}
    at_points = cx.scores(store, findings=["effusion", "Lung Lesion"], operating_points=True)
    assert at_points.names == ("Effusion", "Lung Lesion")
    other = cx.evaluate(at_points, manifest, bootstraps=0)
    for one, two in zip(found.findings, other.findings, strict=True):
        assert one.figures["auroc"].value == two.figures["auroc"].value
    common = cx.scores(store, findings=["common"])
    assert "Pleural Effusion" in common.names
    answer = run_cli("scores", str(store), "--out", str(tmp_path / "p.parquet"), "--operating-points", "--json")
    body = json.loads(answer.stdout)
    assert body["operating_points"] == "0.5"
    assert len(body["findings"]) == 18


def test_float16_keeps_the_order(weights: Path, manifest: Path, store: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"device": "cpu", "precision": "float32", "workers": 1, "dtype": "float16"}
    embed(manifest, encoder="densenet121", weights=weights, store=tmp_path / "s", outputs=("scores",), **how)
    half, whole = cx.scores(tmp_path / "s").values, cx.scores(store).values
    np.testing.assert_allclose(half, whole, atol=1e-3)


def test_a_trained_models_scores_say_what_it_learned_from(store: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(store, tmp_path / "s")
    header = Header.read(tmp_path / "s")
    spec = replace(header.spec, weights_source="https://example.org/all.pt (SHA-256 0)")
    (tmp_path / "s" / HEADER).write_bytes(replace(header, spec=spec).to_bytes())
    notes = cx.scores(tmp_path / "s").notes
    assert len(notes) == 1
    assert notes[0].startswith("densenet121 learned from NIH, PadChest, CheXpert")
    assert not cx.scores(tmp_path / "s").stand_in


def test_what_has_no_scores_says_so_in_one_line(manifest: Path, weights: Path, store: Path, tmp_path: Path) -> None:
    embed(manifest, encoder="hog", store=tmp_path / "hog", workers=1)
    how: dict[str, Any] = {"device": "cpu", "precision": "float32", "workers": 1}
    embed(manifest, encoder="densenet121", weights=weights, store=tmp_path / "plain", **how)
    cases: list[tuple[type[CxrEmbedError], str, Callable[[], Any]]] = [
        (StoreError, "hog has no scores of its own", lambda: cx.scores(tmp_path / "hog")),
        (
            StoreError,
            "not its scores; embed into another `store` with `outputs` features,scores",
            lambda: cx.scores(tmp_path / "plain"),
        ),
        (CxrEmbedError, "no finding Efusion", lambda: cx.scores(store, findings=["Efusion"])),
        (StoreError, "no store here", lambda: cx.scores(tmp_path / "nowhere")),
    ]
    for kind, said, call in cases:
        with pytest.raises(kind) as caught:
            call()
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    told = run_cli("scores", str(tmp_path / "plain"), "--out", str(tmp_path / "x.csv"))
    assert told.returncode != 0
    assert "embed into another STORE with --outputs features,scores" in " ".join(told.stderr.split())
    told = run_cli("scores", str(store), "--out", str(tmp_path / "x.txt"))
    assert "ends in .csv or .parquet" in " ".join(told.stderr.split())
    header = Header.read(store)
    rule = header.spec.classes
    assert rule is not None
    for changed, said, options in (
        (replace(rule, operating_points=()), "operating points are not known", {"operating_points": True}),
        (replace(rule, names=rule.names[:4]), "its encoder names 4 classes", {}),
    ):
        import shutil

        copy = tmp_path / said[:6]
        shutil.copytree(store, copy)
        spec = replace(header.spec, classes=changed)
        (copy / HEADER).write_bytes(replace(header, spec=spec).to_bytes())
        with pytest.raises(CxrEmbedError, match=said):
            cx.scores(copy, **options)  # type: ignore[arg-type]


def test_a_benchmark_takes_the_encoders_own_scores(manifest: Path, weights: Path, tmp_path: Path) -> None:
    rows = manifest.read_text().splitlines()
    split = [rows[0] + ",split", *(f"{row},{'train' if at < 2 else 'test'}" for at, row in enumerate(rows[1:]))]
    (manifest.parent / "split.csv").write_text("\n".join(split) + "\n")
    encoders = {
        "dense": {"encoder": "densenet121", "weights": str(weights), "outputs": ["features", "scores"]},
        "hog": None,
    }
    plan = {
        "encoders": encoders,
        "data": {"small": {"manifest": str(manifest.parent / "split.csv")}},
        "tasks": {"scores": None},
        "bootstraps": 20,
        "reports": False,
    }
    cx.bench(plan, out=tmp_path / "b")
    (found,) = (tmp_path / "b").glob("cells/small/*/scores-*/scores.parquet")
    import pyarrow.parquet as pq

    table = pq.read_table(found)
    assert table.column_names == ["image_id", "stand_in", "Effusion", "Lung Lesion"]
    assert table["image_id"].to_pylist() == ["i2", "i3", "i4", "i5"]
