"""timm's models with random weights, files to vectors, start included: `embed` against the loop of the model's page.

python benchmarks/torch_encoders.py measure MODEL IMAGES ROUNDS      (one model of MODELS, with fewer images)
python benchmarks/torch_encoders.py plain MODEL WEIGHTS MANIFEST IMAGES OUT.npz      (what runs as the other side)
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import Line, fresh, in_turn, median, real_data, seconds

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Model:
    """A model, how many images it is given, and by how much `embed` is to be faster in float32 and in bf16."""

    title: str
    images: int
    float32: float
    bf16: float


MODELS = {
    "vit_base_patch16_224": Model("ViT-B/16", 1000, 1.1, 2.2),
    "vit_base_patch14_dinov2.lvd142m": Model("DINOv2-B at 518", 100, 1.1, 2.2),
    "tf_efficientnet_lite0": Model("EfficientNet-Lite0", 1000, 3.0, 5.0),
    "convnext_tiny": Model("ConvNeXt-T", 1000, 1.2, 2.1),
}


class Files:
    """A torch data set of files, as a model's page reads one."""

    def __init__(self, paths: list[Path], transform) -> None:  # type: ignore[no-untyped-def]
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):  # type: ignore[no-untyped-def]
        from PIL import Image

        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def plain(name: str, weights: Path, manifest: Path, count: int, out: Path) -> None:
    """timm's documented loop: its transform, a two-worker DataLoader, batches of 8, torch's own threads."""
    import timm
    import torch

    from cxr_embed import read_manifest

    model = timm.create_model(name, num_classes=0, checkpoint_path=str(weights)).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    table = read_manifest(manifest)
    rows = list(table.rows())[:count]
    files = Files([table.root / path for _, path, _ in rows], transform)
    with torch.inference_mode():
        loader = torch.utils.data.DataLoader(files, batch_size=8, num_workers=2)
        found = np.concatenate([model(batch).numpy() for batch in loader])
    np.savez(out, ids=[image_id for image_id, _, _ in rows], vectors=found)


def _apart(store: Path, found_file: Path) -> tuple[float, float]:
    """The largest difference over the largest value, and the least cosine of two vectors."""
    from cxr_embed import open_store

    with np.load(found_file) as found:
        theirs = found["vectors"]
        ours = open_store(store).read([str(image_id) for image_id in found["ids"]]).vectors
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    return float(abs(ours - theirs).max() / abs(theirs).max()), float(cosine.min())


def one(name: str, work: Path, count: int, rounds: int) -> list[Line]:
    """One model: the first run of each precision, which translates the network, then all ways in turn."""
    import timm
    import torch
    from safetensors.torch import save_file

    model, manifest = MODELS[name], real_data() / "nih" / "manifest.csv"
    torch.manual_seed(0)
    # The head's own name is not in what a model without classifier expects, so it is left out.
    weights, theirs = work / f"{name}.safetensors", work / f"{name}.npz"
    save_file(timm.create_model(name, num_classes=0).state_dict(), weights)
    environment = {**os.environ, "XDG_CACHE_HOME": str(work / "cache")}

    def loop() -> float:
        return seconds(
            lambda: _run(environment, HERE / "torch_encoders.py", "plain", name, weights, manifest, count, theirs)
        )

    def ours(precision: str) -> float:
        store = fresh(work / f"{name}-{precision}")
        words = ["--encoder", f"timm:{name}", "--weights", weights, "--store", store, "--limit", count]
        words += ["--precision", precision, "--dtype", "float32"]
        return seconds(lambda: _run(environment, "-m", "cxr_embed", "embed", manifest, *words))

    first = ours("float32")
    ours("bf16")
    figures = in_turn(rounds, theirs=loop, float32=lambda: ours("float32"), bf16=lambda: ours("bf16"))
    rate = {way: count / median(times) for way, times in figures.items()}
    lines = []
    for precision, goal in (("float32", model.float32), ("bf16", model.bf16)):
        apart, cosine = _apart(work / f"{name}-{precision}", theirs)
        close = f"{apart:.0e} apart" if precision == "float32" else f"cosine at least {cosine:.4f}"
        began = (
            f"; the first run {first:.1f} s, a later one {count / rate[precision]:.1f} s"
            if precision == "float32"
            else ""
        )
        lines.append(
            Line(
                f"{model.title}, {count:,} files to vectors, start included, {precision}, against timm's loop with a "
                "two-worker DataLoader",
                f"{goal}x",
                f"{rate[precision] / rate['theirs']:.2f}x ({rate[precision]:.1f} and {rate['theirs']:.1f} images/s; "
                f"{close}{began})",
            )
        )
    return lines


def _run(environment: dict[str, str], *words: object) -> None:
    command = [sys.executable, *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def run(work: Path) -> list[Line]:
    """Every model, in turn with the loop."""
    return [line for name, model in MODELS.items() for line in one(name, work, model.images, 3)]


def measure(name: str, count: str, rounds: str) -> None:
    """One model with fewer images."""
    with tempfile.TemporaryDirectory(prefix="cxr-embed-benchmark-") as folder:
        for line in one(name, Path(folder), int(count), int(rounds)):
            print(f"{line.what}: {line.measured} (goal {line.goal})", flush=True)


if __name__ == "__main__":
    {
        "plain": lambda *words: plain(words[0], Path(words[1]), Path(words[2]), int(words[3]), Path(words[4])),
        "measure": measure,
    }[sys.argv[1]](*sys.argv[2:])
