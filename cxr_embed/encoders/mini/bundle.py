"""The weights of `mini` on disk: one safetensors file in the package, or one that its training scripts wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxr_embed.errors import EncoderError
from cxr_embed.io.digests import sha256_hex

PATH = Path(__file__).with_name("mini.safetensors")
SHA256 = "c7c9c392c0d5cd2e545d1b799f5f3c30683acfac03849ea05a72018f35b61cdd"
PARTS = ("image", "head", "text")


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Both towers.

    Attributes:
        image, head, text: float32 arrays by name: of the image tower, of what brings its features into the text's
            space (`weight (D, F)`, `bias (D,)`, and the logit's `scale` and `offset`), of the text tower.
        vocabulary: the text tower's words.
        source: how the weights came about, for people.
        sha256: of the file.
    """

    image: dict[str, np.ndarray]
    head: dict[str, np.ndarray]
    text: dict[str, np.ndarray]
    vocabulary: tuple[str, ...]
    source: str
    sha256: str


def load_bundle(weights: str | Path | None = None) -> Bundle:
    """Reads the package's own file, or another one.

    Raises:
        EncoderError: where the file is missing, no bundle, or the package's own one is damaged.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import load

    path = PATH if weights is None else Path(weights)
    try:
        data = path.read_bytes()
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
        tensors = load(data)
    except OSError as error:
        raise EncoderError(f"{path}: cannot be read ({error.strerror}); a bundle of mini is one file") from None
    except SafetensorError as error:
        raise EncoderError(f"{path}: not a safetensors file ({error})") from None
    sha256 = sha256_hex(data)
    if weights is None and sha256 != SHA256:
        raise EncoderError(f"{path}: damaged, its SHA-256 is {sha256}, not {SHA256}; install cxr-embed again")
    parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in PARTS}
    for name, values in tensors.items():
        part, _, rest = name.partition(".")
        if part in parts:
            parts[part][rest] = np.ascontiguousarray(values, np.float32)
    if about.get("format") != "cxr_embed.mini 1" or not all(parts.values()):
        raise EncoderError(f"{path}: no weights of mini; examples/train_mini makes such a file")
    vocabulary = _vocabulary(about)
    if vocabulary is None or "source" not in about:
        raise EncoderError(f"{path}: its vocabulary or source is missing; examples/train_mini makes such a file")
    if weights is not None:
        _check_shapes(path, tensors, len(vocabulary))
    return Bundle(**parts, vocabulary=vocabulary, source=about["source"], sha256=sha256)


def _vocabulary(about: dict[str, str]) -> tuple[str, ...] | None:
    """The words; None where there is no list of words."""
    try:
        words = json.loads(about["vocabulary"])
    except (KeyError, ValueError):
        return None
    return tuple(words) if isinstance(words, list) and all(isinstance(word, str) for word in words) else None


def _check_shapes(path: Path, tensors: dict[str, np.ndarray], words: int) -> None:
    """Another bundle has the arrays of the package's own, and a row for each of its words.

    Raises:
        EncoderError: for the first array that is missing or has another shape.
    """
    from safetensors.numpy import load_file

    for name, own in load_file(PATH).items():
        wanted = (words, *own.shape[1:]) if name == "text.words.weight" else own.shape
        if name not in tensors:
            raise EncoderError(f"{path}: lacks {name}; examples/train_mini makes such a file")
        if tensors[name].shape != wanted:
            raise EncoderError(f"{path}: {name} has shape {tensors[name].shape}, not {wanted}")
