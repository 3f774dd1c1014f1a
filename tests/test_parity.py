"""Equal to TorchXRayVision: the same random weights, the same real images. Needs the `peers` extra."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest

from cxr_embed import load_encoder, open_store, read_manifest
from cxr_embed.encoders import torchxrayvision as family
from cxr_embed.encoders.engines import TorchEngine, available_precisions
from cxr_embed.encoders.networks import densenet121, resnet50
from cxr_embed.encoders.weights import PublishedWeights, convert, digest, load_weights, random_weights, save_weights
from cxr_embed.errors import EncoderError
from cxr_embed.images import read_image
from cxr_embed.pipeline.embedding import embed

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchxrayvision") is None,
    reason="torchxrayvision is not installed: make test EXTRAS=dev,peers",
)

# How far the mean AUROC of probes may move between float32 and bf16 vectors.
AUROC_TOLERANCE = 0.005


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "densenet.safetensors"
    save_weights(path, random_weights(densenet121, 0), "random numbers (seed 0): not a trained model")
    return path


@pytest.fixture(scope="session")
def peer(weights_file: Path):  # type: ignore[no-untyped-def]
    """TorchXRayVision's model with the same weights."""
    import torchxrayvision as xrv
    from safetensors.torch import load_file

    model = xrv.models.DenseNet(weights=None, num_classes=18).eval()
    loaded = model.load_state_dict(load_file(weights_file), strict=False)
    assert loaded.unexpected_keys == []
    assert all(name.startswith("classifier") or "num_batches" in name for name in loaded.missing_keys)
    return model


@pytest.fixture(scope="session")
def paths(real_data: Path) -> list[Path]:
    originals = sorted((real_data / "nih" / "originals").glob("*.png"))[:12]
    return originals + sorted((real_data / "nih" / "images").glob("*.jpg"))[:12]


@pytest.fixture(scope="session")
def peer_pixels(paths: list[Path]) -> np.ndarray:
    """Their reader, crop and resize: `(N, 1, 224, 224)`."""
    import torchvision
    import torchxrayvision as xrv

    transform = torchvision.transforms.Compose([xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(224)])
    return np.stack([transform(xrv.utils.load_image(str(path))) for path in paths])


def peer_features(model, pixels: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    import torch

    with torch.inference_mode():
        return model.features2(torch.from_numpy(pixels)).numpy()


def lowest_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def test_pixels_within_a_thousandth(weights_file: Path, paths: list[Path], peer_pixels: np.ndarray) -> None:
    encoder = load_encoder("densenet121", weights=weights_file, device="cpu", precision="float32")
    ours = np.stack([encoder.preprocess(read_image(path)) for path in paths])
    assert peer_pixels.min() < -900
    np.testing.assert_allclose(ours, peer_pixels, atol=1e-3, rtol=0)


def test_features_in_float32(weights_file: Path, paths: list[Path], peer, peer_pixels: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    encoder = load_encoder("densenet121", weights=weights_file, device="cpu", precision="float32")
    ours = encoder.embed(np.stack([encoder.preprocess(read_image(path)) for path in paths]))["features"]
    theirs = peer_features(peer, peer_pixels)
    assert 0.1 < theirs.std() < 10  # values of the size that trained features have, so that 1e-4 means something
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


def test_features_in_bf16(weights_file: Path, paths: list[Path], peer, peer_pixels: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    if "bf16" not in available_precisions("cpu"):
        pytest.skip("this CPU has no native bf16")
    encoder = load_encoder("densenet121", weights=weights_file, device="cpu", precision="bf16")
    ours = encoder.embed(np.stack([encoder.preprocess(read_image(path)) for path in paths]))["features"]
    assert lowest_cosine(ours, peer_features(peer, peer_pixels)) > 0.998


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_gpus_engine_on_a_cpu(weights_file: Path, peer, peer_pixels: np.ndarray, precision: str) -> None:  # type: ignore[no-untyped-def]
    weights, _ = load_weights(weights_file, densenet121)
    ours = TorchEngine(densenet121, weights, precision, "cpu")(peer_pixels[:8])  # type: ignore[arg-type]
    theirs = peer_features(peer, peer_pixels[:8])
    if precision == "float32":
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)
    assert lowest_cosine(ours, theirs) > 0.998


def test_float32_on_a_gpu_is_float32() -> None:
    import torch

    allowed = []

    def network(ops: object, x: torch.Tensor) -> torch.Tensor:
        del ops
        allowed.append(torch.backends.cudnn.allow_tf32)
        return x.mean(dim=(2, 3))

    before = torch.backends.cudnn.allow_tf32
    TorchEngine(network, {}, "float32", "cpu")(np.zeros((1, 1, 8, 8), np.float32))  # type: ignore[arg-type]
    assert allowed == [False]
    assert torch.backends.cudnn.allow_tf32 == before


def test_resnet50_at_512(tmp_path: Path, real_data: Path) -> None:
    import torch
    import torchvision
    import torchxrayvision as xrv

    path = tmp_path / "resnet.safetensors"
    weights = random_weights(resnet50, 0)
    save_weights(path, weights, "random")
    network = torchvision.models.resnet50(weights=None, num_classes=18)
    network.conv1 = torch.nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=False)
    network.fc = torch.nn.Identity()
    network.eval()
    files = sorted((real_data / "nih" / "originals").glob("*.png"))[:2]
    transform = torchvision.transforms.Compose([xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(512)])
    theirs_in = np.stack([transform(xrv.utils.load_image(str(file))) for file in files])
    encoder = load_encoder("resnet50", weights=path, device="cpu", precision="float32")
    ours_in = np.stack([encoder.preprocess(read_image(file)) for file in files])
    np.testing.assert_allclose(ours_in, theirs_in, atol=1e-3, rtol=0)
    with torch.inference_mode():
        theirs = network(torch.from_numpy(theirs_in)).numpy()
    np.testing.assert_allclose(
        encoder.embed(ours_in)["features"], theirs, atol=1e-4 * max(1, abs(theirs).max()), rtol=0
    )


def test_a_probe_does_not_notice_bf16(weights_file: Path, real_data: Path, tmp_path: Path) -> None:
    """Probes on float32 and on bf16 vectors of real radiographs, train to test: AUROC within 0.005."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if "bf16" not in available_precisions("cpu"):
        pytest.skip("this CPU has no native bf16")
    manifest = read_manifest(real_data / "nih" / "manifest.csv")
    labels = manifest.labels()
    train = manifest.column("split") == "train"
    scores = {}
    for precision in ("float32", "bf16"):
        store = tmp_path / precision
        embed(manifest, encoder="densenet121", weights=weights_file, store=store, precision=precision, device="cpu")
        vectors = open_store(store).read(manifest.ids).vectors.astype(np.float32)
        aurocs = []
        for column in range(len(labels.names)):
            known = labels.values[:, column]
            if known[~train].sum() < 15:
                continue
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=500))
            probe.fit(vectors[train], known[train])
            aurocs.append(roc_auc_score(known[~train], probe.decision_function(vectors[~train])))
        scores[precision] = np.array(aurocs)
    assert len(scores["bf16"]) >= 5
    assert scores["float32"].mean() > 0.55  # random features still see something, or the comparison is empty
    assert abs(scores["float32"].mean() - scores["bf16"].mean()) < AUROC_TOLERANCE


def published_like(tmp_path: Path, value: object) -> tuple[Path, PublishedWeights]:
    """A pickle as TorchXRayVision publishes them, and the pin that fits it."""
    import torch

    path = tmp_path / "published.pt"
    torch.save(value, path)
    return path, PublishedWeights("https://example.org/published.pt", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("form", ["module", "state", "old format"])
def test_published_pickles_are_converted(tmp_path: Path, peer, weights_file: Path, form: str) -> None:  # type: ignore[no-untyped-def]
    import torch

    value = peer.state_dict() if form == "state" else peer
    path, pinned = published_like(tmp_path, value)
    if form == "old format":
        torch.save(value, path, _use_new_zipfile_serialization=False)
        pinned = PublishedWeights(pinned.url, hashlib.sha256(path.read_bytes()).hexdigest())
    converted = convert(pinned, densenet121, path, None)
    original, _ = load_weights(weights_file, densenet121)
    assert digest(converted) == digest(original)


class Bomb:
    """A pickle that would run code."""

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (Path.touch, (Path("ran.txt"),))


def test_a_pickle_that_runs_code_is_refused_even_with_the_right_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, data in {
        "plain": pickle.dumps(Bomb()),
        "torch": None,
    }.items():
        if data is None:
            path, pinned = published_like(tmp_path, {"features.conv0.weight": Bomb()})
        else:
            path = tmp_path / f"{name}.pt"
            path.write_bytes(data)
            pinned = PublishedWeights("https://example.org", hashlib.sha256(data).hexdigest())
        with pytest.raises(EncoderError, match=r"not a weights file that torch can read|missing or not of shape"):
            convert(pinned, densenet121, path, None)
        assert not (tmp_path / "ran.txt").exists()


def test_a_digest_of_the_users_own_is_only_for_what_is_not_pinned(tmp_path: Path, peer) -> None:  # type: ignore[no-untyped-def]
    path, pinned = published_like(tmp_path, peer.state_dict())
    unpinned = PublishedWeights(pinned.url, None)
    with pytest.raises(EncoderError, match="give it as `sha256`"):
        convert(unpinned, densenet121, path, None)
    assert convert(unpinned, densenet121, path, pinned.sha256)
    wrong = PublishedWeights(pinned.url, "0" * 64)
    with pytest.raises(EncoderError, match="not opened"):
        convert(wrong, densenet121, path, pinned.sha256)
    with pytest.raises(EncoderError, match="is missing or not of shape"):
        convert(pinned, resnet50, path, None)


def test_the_pins_are_digests_of_different_files() -> None:
    pins = [published.sha256 for _, published in family.WEIGHTS.values() if published.sha256]
    assert len(set(pins)) == len(pins) >= 5
    assert all(len(pin) == 64 and set(pin) <= set("0123456789abcdef") for pin in pins)
