"""The encoder table. A new encoder is one module with a `make` and one row here."""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cxr_embed.encoders.weights import weights_path
from cxr_embed.errors import EncoderError
from cxr_embed.types import Encoder, Precision


@dataclass(frozen=True)
class EncoderCard:
    """What the table tells of an encoder without loading it.

    Attributes:
        name: what a user types.
        module: the module that makes it.
        outputs: name to shape of one image's vector.
        licence: of the weights (or of the code where there are none).
        gated: whether terms must be accepted before the weights can be had.
        has_weights: False for a computed descriptor.
        trained_on: the data behind the weights: results on the same data are no clean test.
        needs: the importable modules that running it takes.
        gpu: whether a GPU can run it, through torch.
    """

    name: str
    module: str
    outputs: dict[str, tuple[int, ...]]
    licence: str
    gated: bool = False
    has_weights: bool = True
    trained_on: str = ""
    needs: tuple[str, ...] = ("openvino",)
    gpu: bool = True

    @property
    def installed(self) -> bool:
        """Whether everything that it needs can be imported here."""
        return all(importlib.util.find_spec(module) is not None for module in self.needs)

    @property
    def weights_here(self) -> bool | None:
        """Whether its weights lie in the weights folder; None where it has none."""
        return weights_path(self.name).is_file() if self.has_weights else None


def _densenet(name: str, trained_on: str) -> EncoderCard:
    return EncoderCard(
        name, "cxr_embed.encoders.torchxrayvision", {"features": (1024,)}, "Apache-2.0", trained_on=trained_on
    )


_CARDS = (
    EncoderCard(
        "hog",
        "cxr_embed.encoders.hog",
        {"features": (1764,)},
        "BSD-3-Clause",
        has_weights=False,
        needs=("skimage",),
        gpu=False,
    ),
    _densenet("densenet121", "NIH, PadChest, CheXpert, MIMIC-CXR, Google, OpenI, RSNA"),
    _densenet("densenet121-nih", "NIH"),
    _densenet("densenet121-pc", "PadChest"),
    _densenet("densenet121-chex", "CheXpert"),
    _densenet("densenet121-rsna", "RSNA pneumonia"),
    _densenet("densenet121-mimic_nb", "MIMIC-CXR (NegBio labels)"),
    _densenet("densenet121-mimic_ch", "MIMIC-CXR (CheXpert labels)"),
    EncoderCard(
        "resnet50",
        "cxr_embed.encoders.torchxrayvision",
        {"features": (2048,)},
        "Apache-2.0",
        trained_on="PadChest, NIH, RSNA, SIIM, VinDr",
    ),
)
ENCODERS: dict[str, EncoderCard] = {card.name: card for card in _CARDS}


def encoder_card(name: str) -> EncoderCard:
    """The table's row.

    Raises:
        EncoderError: for an unknown name, with the nearest known ones.
    """
    if name in ENCODERS:
        return ENCODERS[name]
    import difflib

    near = difflib.get_close_matches(name, ENCODERS, n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise EncoderError(f"no encoder is named {name!r}; {hint}`cxr-embed encoders` lists them")


def resolve_device(device: str, name: str) -> Literal["cpu", "cuda"]:
    """`auto` to the best for the encoder: `cuda` where it can use one and torch sees a GPU, else `cpu`.

    Raises:
        EncoderError: where `cuda` is asked for and cannot be had.
    """
    card = ENCODERS.get(name)
    if device == "cpu" or (device == "auto" and card is not None and not card.gpu):
        return "cpu"
    if device not in ("auto", "cuda"):
        raise EncoderError(f"--device is auto, cpu or cuda, not {device!r}")
    if importlib.util.find_spec("torch") is None:
        if device == "auto":
            return "cpu"
        raise EncoderError("a GPU needs torch: pip install 'cxr-embed[torch]'")
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise EncoderError("torch sees no GPU here; use --device cpu, or check `nvidia-smi` and the torch build")
    return "cpu"


def resolve_precision(precision: str, name: str, device: Literal["cpu", "cuda"]) -> Precision:
    """`auto` to the fastest arithmetic that is native on the device; `float32` for a computed descriptor."""
    if precision != "auto":
        return as_precision(precision)
    if ":" in name or not encoder_card(name).has_weights:
        return "float32"
    from cxr_embed.encoders.engines import available_precisions

    return available_precisions(device)[0]


def as_precision(precision: str) -> Precision:
    """The word, checked.

    Raises:
        EncoderError: for another one.
    """
    if precision == "float32":
        return "float32"
    if precision == "bf16":
        return "bf16"
    raise EncoderError(f"--precision is auto, float32 or bf16, not {precision!r}")


def load_encoder(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> Encoder:
    """Loads an encoder by its name in the table.

    Args:
        name: e.g. `hog` or `densenet121`; or `package.module:function` for an encoder of your own, a callable that
            takes this function's keyword arguments and returns an `Encoder`.
        weights: a safetensors file; by default the weights folder is searched.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto` (the fastest that is native here), `float32` or `bf16`.
        threads: CPU threads to use; all by default.

    Raises:
        EncoderError: for an unknown name, missing weights or packages, or a device that is not here.
    """
    chosen = resolve_device(device, name)
    options: dict[str, Any] = {
        "weights": Path(weights) if weights is not None else None,
        "device": chosen,
        "precision": resolve_precision(precision, name, chosen),
        "threads": threads,
    }
    if ":" in name:
        return _own_encoder(name, options)
    card = encoder_card(name)
    missing = [module for module in card.needs if importlib.util.find_spec(module) is None]
    if missing:
        raise EncoderError(f"{name} needs {', '.join(missing)}, which is not installed: pip install cxr-embed")
    encoder: Encoder = importlib.import_module(card.module).make(name, **options)
    return encoder


def _own_encoder(name: str, options: dict[str, Any]) -> Encoder:
    module, _, function = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise EncoderError(f"no encoder can be made from {name!r}: {error}") from None
    encoder: Encoder = make(name, **options)
    return encoder
