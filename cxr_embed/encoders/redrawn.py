"""The same encoder without what it learned: its weights drawn at random, in files laid out as its own are.

Weights are drawn as before a training (He et al., 2015, arXiv 1502.01852): normal, of a variance of 2 by the number of
inputs; biases and running means are 0, what multiplies a channel is 1. Single numbers, and numbers that are not
learned, stay. It needs no code of any family: names and shapes are enough.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cxr_embed.encoders import load_encoder
from cxr_embed.encoders.weights import save_weights
from cxr_embed.errors import EncoderError

SOURCE = "SOURCE"  # the file in which a folder of weights says what it is
_ZERO = ("bias", "beta", "running_mean")
_KEPT = ("attn_mask", "coords_table", "freqs", "position_index")  # tables that are computed, by parts of their names
_SMALL = (".json", ".yaml", ".txt", ".model", ".jinja")  # what lies beside weights and belongs to them


def source_of(name: str, seed: int) -> str:
    """What files of such weights say of themselves."""
    return f"random numbers (seed {seed}) in the shapes of {name}: not a trained model"


@contextmanager
def untrained_weights(name: str, weights: str | os.PathLike[str] | None, seed: int = 0) -> Iterator[Path]:
    """A file or folder of such weights while it lasts, as `load_encoder` takes it; arguments as of `save_redrawn`."""
    with tempfile.TemporaryDirectory(prefix="cxr-embed-") as folder:
        yield save_redrawn(name, weights, Path(folder) / "untrained.safetensors", seed)[0]


def save_redrawn(name: str, weights: str | os.PathLike[str] | None, out: Path, seed: int) -> tuple[Path, int]:
    """Draws an encoder's weights at random.

    Args:
        name: of the encoder.
        weights: its own ones, whose shapes are taken; those that are found by its name where None.
        out: the file to write; of an encoder that has a folder, the folder, without the suffix `.safetensors`.
        seed: of the random numbers.

    Returns:
        Where they are, and how many tensors.

    Raises:
        EncoderError: for an encoder whose weights are not safetensors files in one folder, or cannot be written.
    """
    encoder = load_encoder(name, weights=weights)
    try:
        files = list(encoder.files)
    finally:
        encoder.close()
    tensors = [Path(file) for file in files if Path(file).suffix == ".safetensors"]
    if not tensors or len({file.parent for file in tensors}) > 1:
        lacking = "are not safetensors files in one folder" if files else "are not known: it has none, or hides them"
        raise EncoderError(f"no weights of {name} can be drawn at random: its own {lacking}")
    if len(files) == 1:
        return out, _redraw(tensors[0], out, name, seed)
    root = Path(os.path.commonpath([Path(file).parent for file in files]))
    return _folder(root, tensors, out.with_suffix("") if out.suffix == ".safetensors" else out, name, seed)


def _folder(root: Path, tensors: Sequence[Path], out: Path, name: str, seed: int) -> tuple[Path, int]:
    """A folder with the settings and words of another one, and weights drawn at random in the place of its own."""
    if out.exists():
        raise EncoderError(f"{out}: there already; name a new folder")
    try:
        out.mkdir(parents=True)
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.suffix in _SMALL:
                (out / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, out / path.relative_to(root))
        (out / SOURCE).write_text(source_of(name, seed) + "\n")
    except OSError as error:
        raise EncoderError(f"{out}: cannot be written ({error.strerror})") from None
    places = [(path, out / path.relative_to(root)) for path in tensors]
    return out, sum(_redraw(path, place, name, seed + number) for number, (path, place) in enumerate(places))


def _redraw(path: Path, out: Path, name: str, seed: int) -> int:
    """One file; what it says of itself stays, but for its source."""
    found, notes = _tensors(path)
    rng = np.random.default_rng(seed)
    drawn = {key: _drawn(key, values, rng) for key, values in sorted(found.items())}
    save_weights(out, drawn, source_of(name, seed), {key: text for key, text in notes.items() if key != "source"})
    return len(drawn)


def _tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names, notes = list(file.keys()), file.metadata() or {}
            known = all(file.get_slice(name).get_dtype() != "BF16" for name in names)  # which numpy has not
            if known:
                return {name: file.get_tensor(name) for name in names}, notes
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).float().numpy() for name in names}, notes
    except (SafetensorError, OSError) as error:
        raise EncoderError(f"{path}: not a safetensors file ({error})") from None


def _drawn(name: str, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A tensor of the same shape and dtype."""
    if values.size == 1 or values.dtype.kind != "f" or any(part in name for part in _KEPT):
        return values
    if values.ndim < 2:
        return np.full_like(values, 0 if name.endswith(_ZERO) else 1)
    scale = math.sqrt(2 / math.prod(values.shape[1:]))
    return (rng.standard_normal(values.shape, np.float32) * np.float32(scale)).astype(values.dtype)
