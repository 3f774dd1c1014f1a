"""DenseNet-121: images/s from files to vectors, against TorchXRayVision's own loop on the same weights and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import Line, fresh, in_turn, median, repeated_originals, seconds

from cxr_embed import embed, load_encoder, open_store
from cxr_embed.cli.encoders import random as make_random_weights
from cxr_embed.encoders.resample import crop_and_resize
from cxr_embed.images import read_image

PEER_IMAGES = 120
OUR_IMAGES = 1200


def documented_transform():  # type: ignore[no-untyped-def]
    """TorchXRayVision's reader, crop and resize, as its README calls them: a path to `(1, 224, 224)` float32."""
    import torchvision
    import torchxrayvision as xrv

    transform = torchvision.transforms.Compose([xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(224)])

    def read(path: str) -> np.ndarray:
        return transform(xrv.utils.load_image(path))

    return read


def peer_model(weights: Path):  # type: ignore[no-untyped-def]
    """TorchXRayVision's DenseNet-121 with our random weights."""
    import torchxrayvision as xrv
    from safetensors.torch import load_file

    model = xrv.models.DenseNet(weights=None, num_classes=18).eval()
    missing = model.load_state_dict(load_file(weights), strict=False)
    assert not missing.unexpected_keys
    return model


class Files:
    """A torch data set over TorchXRayVision's reader."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return documented_transform()(self.paths[index])


def run(work: Path) -> list[Line]:
    """Times decoding alone, then files to vectors in bf16 and float32."""
    import torch

    manifest = repeated_originals(work / "originals", OUR_IMAGES)
    paths = [str(manifest.parent / f"{number:05d}.png") for number in range(PEER_IMAGES)]
    weights = work / "random.safetensors"
    make_random_weights("densenet121", weights)
    read, model = documented_transform(), peer_model(weights)

    def per_second(work: Callable[[], object]) -> Callable[[], float]:
        return lambda: PEER_IMAGES / seconds(work)

    def decode_ours() -> None:
        for path in paths:
            image = read_image(path)
            crop_and_resize(image.pixels, image.max_value, 224)

    @torch.inference_mode()
    def loop() -> None:
        for path in paths:
            model.features2(torch.from_numpy(read(path))[None])

    @torch.inference_mode()
    def loader() -> None:
        for batch in torch.utils.data.DataLoader(Files(paths), batch_size=16, num_workers=2):
            model.features2(batch)

    def ours(precision: str) -> float:
        store = fresh(work / f"densenet-{precision}")
        summary = embed(
            manifest, encoder="densenet121", weights=weights, store=store, precision=precision, dtype="float32"
        )
        assert not summary.failed
        return summary.embedded / summary.seconds

    decoded = in_turn(5, ours=per_second(decode_ours), theirs=per_second(lambda: [read(path) for path in paths]))
    decode = {name: median(values) for name, values in decoded.items()}
    figures = in_turn(
        3,
        loop=per_second(loop),
        bf16=lambda: ours("bf16"),
        loader=per_second(loader),
        float32=lambda: ours("float32"),
    )
    rate = {name: median(values) for name, values in figures.items()}
    pixels, features, cosine = parity(work, paths[:40], read, model)
    return [
        Line(
            "DenseNet-121, files to vectors, bf16, against the documented loop (float32, one image at a time)",
            "5x",
            f"{rate['bf16'] / rate['loop']:.1f}x ({rate['bf16']:.1f} against {rate['loop']:.1f} images/s; "
            f"cosine with theirs at least {cosine:.4f})",
        ),
        Line(
            "the same against the loop fed by a two-worker DataLoader in batches of 16",
            "3x",
            f"{rate['bf16'] / rate['loader']:.1f}x ({rate['loader']:.1f} images/s)",
        ),
        Line(
            "the same in float32, features within 1e-4 of theirs",
            "3x",
            f"{rate['float32'] / rate['loop']:.1f}x ({rate['float32']:.1f} images/s; at most {features:.1e} apart)",
        ),
        Line(
            "decode, crop and resize alone, pixels within 1e-3",
            "3.5x",
            f"{decode['ours'] / decode['theirs']:.1f}x ({decode['ours']:.0f} against {decode['theirs']:.0f} images/s "
            f"on one core; largest difference {pixels:.1e})",
        ),
    ]


def parity(work: Path, paths: list[str], read, model) -> tuple[float, float, float]:  # type: ignore[no-untyped-def]
    """Largest difference of pixels and of float32 features, and the lowest cosine of bf16 features."""
    import torch

    encoder = load_encoder("densenet121", weights=work / "random.safetensors", device="cpu", precision="float32")
    theirs = np.stack([read(path) for path in paths])
    ours = np.stack([encoder.preprocess(read_image(path)) for path in paths])
    with torch.inference_mode():
        expected = model.features2(torch.from_numpy(theirs)).numpy()
    ids = [Path(path).stem for path in paths]
    float32 = open_store(work / "densenet-float32").read(ids).vectors
    bf16 = open_store(work / "densenet-bf16").read(ids).vectors
    cosine = (expected * bf16).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(bf16, axis=1)
    return float(abs(theirs - ours).max()), float(abs(expected - float32).max()), float(cosine.min())


def gpu(work: Path) -> list[Line]:
    """On a GPU: images/s end to end, what decoding hides, bf16 against float32."""
    manifest = repeated_originals(work / "gpu-originals", 4 * OUR_IMAGES)
    weights = work / "gpu-random.safetensors"
    make_random_weights("densenet121", weights)

    def end_to_end(precision: str) -> float:
        store = fresh(work / f"gpu-{precision}")
        summary = embed(
            manifest, encoder="densenet121", weights=weights, store=store, precision=precision, device="cuda"
        )
        return summary.embedded / summary.seconds

    def model_alone(precision: str) -> float:
        encoder = load_encoder("densenet121", weights=weights, device="cuda", precision=precision)
        batch = np.random.default_rng(0).uniform(-1024, 1024, (64, 1, 224, 224)).astype(np.float32)
        encoder.embed(batch)
        return 20 * 64 / seconds(lambda: [encoder.embed(batch) for _ in range(20)])

    figures = in_turn(
        3,
        bf16=lambda: end_to_end("bf16"),
        float32=lambda: end_to_end("float32"),
        alone=lambda: model_alone("bf16"),
        alone32=lambda: model_alone("float32"),
    )
    rate = {name: median(values) for name, values in figures.items()}
    import torch

    name = torch.cuda.get_device_name()
    return [
        Line(f"DenseNet-121 on {name}, files to vectors, bf16", "-", f"{rate['bf16']:,.0f} images/s"),
        Line(
            "the same, share of the model's own speed that decoding leaves", "-", f"{rate['bf16'] / rate['alone']:.0%}"
        ),
        Line("the same, float32", "-", f"{rate['float32']:,.0f} images/s"),
        Line("the model alone, bf16 against float32", "-", f"{rate['alone'] / rate['alone32']:.1f}x"),
    ]
