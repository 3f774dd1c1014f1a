"""Encoders: pixels (and prompts) to vectors. A new one is one module with a `make` and one row in `table`."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxr_embed.arguments import checked_arguments
from cxr_embed.encoders.card import EncoderCard
from cxr_embed.encoders.checked import CheckedEncoder, chosen_words
from cxr_embed.encoders.registry import ENCODERS, encoder_card, is_own
from cxr_embed.errors import EncoderError
from cxr_embed.types import Encoder, EncoderSpec, Precision, note_licence

__all__ = ["ENCODERS", "CheckedEncoder", "EncoderCard", "encoder_card", "load_encoder", "load_text_encoder"]


def resolve_device(device: str, name: str) -> str:
    """`auto` to the best for the encoder: `cuda` where it can use one and torch sees a GPU, else `cpu`.

    Only TensorFlow knows what TensorFlow sees, so for its encoders `auto` stays `auto`.

    Raises:
        EncoderError: where `cuda` is requested and cannot be had.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise EncoderError(f"`device` is auto, cpu or cuda, not {device!r}")
    framework = "engines" if is_own(name) else encoder_card(name).framework
    if device == "cpu" or framework == "tensorflow" or (device == "auto" and framework == "numpy"):
        return device
    if importlib.util.find_spec("torch") is None:
        if device == "auto":
            return "cpu"
        raise EncoderError("a GPU needs torch: pip install 'cxr-embed[torch]'")
    if device == "auto" and "torch" not in sys.modules and not _driver_here():
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise EncoderError("torch sees no GPU here; use `device='cpu'`, or check `nvidia-smi` and the torch build")
    return "cpu"


def _driver_here() -> bool:
    """Whether a GPU's driver may be here: without one torch sees no GPU, and takes seconds to be imported and asked."""
    if sys.platform != "linux" or os.path.exists("/dev/kfd"):  # AMD's
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def resolve_precision(precision: str, name: str, device: str) -> Precision:
    """`auto` to the fastest arithmetic that is native on the device and proven for the encoder."""
    if precision != "auto":
        return as_precision(precision)
    framework = "numpy" if is_own(name) else encoder_card(name).framework
    if framework in ("numpy", "tensorflow") or (framework == "torch" and device == "cpu"):
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
    raise EncoderError(f"`precision` is auto, float32 or bf16, not {precision!r}")


@checked_arguments
def load_encoder(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    outputs: Sequence[str] | None = None,
    pixels: str | None = None,
) -> CheckedEncoder:
    """Loads an encoder by its name in the table.

    Args:
        name: e.g. `hog`, `cxr-foundation` or `hf:ORG/NAME`; or `package.module:function` for an encoder of your own, a
            callable that returns an `Encoder` and is given those of `name`, `weights`, `device`, `precision` and
            `threads` that it takes, by keyword.
        weights: a safetensors file or a checkpoint's folder; by default the weights folder or the Hub's cache is
            searched, and what the Hub has is downloaded.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto` (the fastest that is native here), `float32` or `bf16`.
        threads: CPU threads to use; all by default.
        outputs: the outputs to compute, of those that the encoder has.
        pixels: one of the encoder's pixel recipes.

    Returns:
        The encoder behind `CheckedEncoder`, which sees that each answer has a row an input and the declared shapes.

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
    if is_own(name):
        return _own_encoder(name, options)
    card = encoder_card(name)
    _require(card, name)
    if card.on_request:
        options["outputs"] = tuple(outputs) if outputs is not None else None  # the checkpoint knows which it has
    elif card.has_choice:
        wanted = outputs if outputs is not None else card.default_outputs
        options["outputs"] = chosen_words("outputs", wanted, tuple(card.outputs), name)
    elif outputs is not None and tuple(outputs) != tuple(card.outputs):
        raise EncoderError(f"{name} has one kind of vector; leave out `outputs`")
    if card.pixels:
        options["pixels"] = chosen_words("pixels", (pixels or card.pixels[0],), card.pixels, name)[0]
    elif pixels is not None:
        raise EncoderError(f"{name} has one pixel recipe; leave out `pixels`")
    encoder: Encoder = importlib.import_module(card.module).make(name, **options)
    note_licence(encoder.spec)
    return CheckedEncoder(encoder)


def load_text_encoder(
    spec: EncoderSpec, *, weights: str | os.PathLike[str] | None = None, device: str = "auto"
) -> CheckedEncoder:
    """The text side of the encoder that made a store's vectors, to embed prompts that the store does not hold yet.

    Raises:
        EncoderError: where the encoder has no text, or the model that is here is not the one that made the vectors.
    """
    if is_own(spec.name) or not spec.text or not encoder_card(spec.name).text:
        raise EncoderError(f"{spec.name} embeds no prompts; `cxr-embed encoders` says which do")
    if not spec.weights:
        raise EncoderError(
            f"these vectors of {spec.name} were imported, so no model here is known to be theirs; "
            "import their prompts' vectors too: cxr-embed import prompts FILE --encoder NAME --store DIR"
        )
    encoder = load_encoder(spec.name, weights=weights, device=device, precision="float32")
    if encoder.spec.model != spec.model:
        raise EncoderError(
            f"the vectors are of {spec.name} [{spec.fingerprint[:12]}, weights {spec.weights[:12]}], the model here is "
            f"{encoder.spec.name} [{encoder.spec.fingerprint[:12]}, weights {encoder.spec.weights[:12]}]; "
            "name the right one with `weights`"
        )
    return encoder


def _require(card: EncoderCard, name: str) -> None:
    missing = card.missing
    if missing == ["tensorflow_text"]:
        raise EncoderError(
            f"{name} needs tensorflow-text of tensorflow's minor version: pip install 'cxr-embed[{card.extra}]'; "
            "it has wheels for Linux and for macOS on Apple silicon, with Python 3.11 to 3.13"
        )
    if missing:
        package = f"cxr-embed[{card.extra}]" if card.extra else "cxr-embed"
        raise EncoderError(f"{name} needs {', '.join(missing)}, which is not installed: pip install '{package}'")


def _own_encoder(name: str, options: dict[str, Any]) -> CheckedEncoder:
    module, _, function = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise EncoderError(f"no encoder can be made from {name!r}: {error}; is its folder on PYTHONPATH?") from None
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError) as error:
        raise EncoderError(f"no encoder can be made from {name!r}: {error}") from None
    given = {"name": name, **options}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        given = {key: value for key, value in given.items() if key in {parameter.name for parameter in parameters}}
    try:
        encoder: Encoder = make(**given)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            raise  # in the encoder's own code: its author needs the traceback
        raise EncoderError(
            f"{name} cannot be called ({error}); it is given those of {', '.join(given)} that it takes, by keyword"
        ) from None
    missing = [part for part in ("spec", "engine", "preprocess", "embed") if not hasattr(encoder, part)]
    if missing:
        raise EncoderError(
            f"{name} returned {type(encoder).__name__}, which has no {', '.join(missing)}; "
            "docs/python.md, 'An encoder of your own', shows one"
        )
    return CheckedEncoder(encoder)
