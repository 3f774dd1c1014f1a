"""Weights on disk: safetensors only. Published pickles are converted once, after their SHA-256 was checked."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import types
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.encoders.kept import cache_folder
from cxr_embed.encoders.networks import Network, weight_shapes
from cxr_embed.errors import EncoderError
from cxr_embed.io.digests import file_sha256
from cxr_embed.io.files import written_aside


@dataclass(frozen=True)
class PublishedWeights:
    """A weights file as its authors publish it.

    Attributes:
        url: where a user downloads it by hand.
        sha256: of the published file; None where no trustworthy digest is known, then the user must give one.
    """

    url: str
    sha256: str | None


def weights_folder() -> Path:
    """Where converted weights are kept: `$CXR_EMBED_WEIGHTS` or `~/.cache/cxr-embed/weights`."""
    given = os.environ.get("CXR_EMBED_WEIGHTS")
    if given:
        return Path(given)
    return cache_folder() / "weights"


def weights_path(encoder: str) -> Path:
    """Where the weights of an encoder are looked for when none are named; `timm:NAME` lies there as `timm-NAME`."""
    return weights_folder() / f"{encoder.replace(':', '-')}.safetensors"


def converted_folder(encoder: str) -> Path:
    """Where a checkpoint of several files lies once it was converted: `open_clip:ORG/NAME` as `open_clip-ORG--NAME`.

    Names on the Hub hold no `--`, so that `a/b-c` and `a-b/c` lie apart.
    """
    return weights_folder() / encoder.replace(":", "-").replace("/", "--")


def noted_source(path: Path) -> str:
    """Where a safetensors file's tensors came from by its own note, which `weights convert` writes; blank without."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return str((file.metadata() or {}).get("source") or "")
    except (SafetensorError, OSError):  # said where the tensors are read
        return ""


def digest(weights: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, shapes and values in the order of the names: the same tensors give the same digest."""
    total = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        total.update(array.data)
    return total.hexdigest()


def load_weights(path: Path, network: Network, channels: int = 1) -> tuple[dict[str, np.ndarray], str]:
    """The network's tensors from a safetensors file, and the file's own note on where they came from.

    Pictures have so many `channels`.

    Raises:
        EncoderError: where the file is not a safetensors file or its tensors are not this network's.
    """
    from safetensors import SafetensorError, safe_open

    needed = weight_shapes(network, channels)
    try:
        with safe_open(path, framework="numpy") as file:
            source = (file.metadata() or {}).get("source", "a file of unknown origin")
            names = set(file.keys())
            missing = sorted(set(needed) - names)
            if missing:
                raise EncoderError(
                    f"{path}: {len(missing)} of {len(needed)} tensors are missing, the first {missing[0]}; "
                    "these are another network's weights"
                )
            weights = {name: file.get_tensor(name) for name in needed}
    except FileNotFoundError:
        raise EncoderError(f"{path}: no such weights file") from None
    except (SafetensorError, OSError) as error:
        raise EncoderError(
            f"{path}: not a safetensors file ({error}); `cxr-embed weights convert` makes one from a published pickle"
        ) from None
    for name, shape in needed.items():
        if weights[name].shape != shape:
            raise EncoderError(f"{path}: {name} has shape {weights[name].shape}, expected {shape}")
        weights[name] = np.ascontiguousarray(weights[name], dtype=np.float32)
        if not np.isfinite(weights[name]).all():
            raise EncoderError(f"{path}: {name} has values that are not finite")
    return weights, source


def class_names(path: Path) -> tuple[str, ...]:
    """What a classifier answers on, by the note `classes` of its safetensors file.

    Raises:
        EncoderError: where the file has no such note, or not a list of names that differ.
    """
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        note = (file.metadata() or {}).get("classes")
    if note is None:
        raise EncoderError(
            f"{path}: nothing says what its classifier answers, so no `outputs` scores; convert it again with "
            "`cxr-embed weights convert ... --classes NAME,NAME` if each of its classes is a finding by itself"
        )
    try:
        names = json.loads(note)
    except ValueError:
        names = None
    words = isinstance(names, list) and all(isinstance(name, str) and name.strip() for name in names)
    if not words or not names or len(set(names)) < len(names):
        raise EncoderError(f"{path}: its note `classes` is not a list of names that differ; convert it again")
    return tuple(names)


def load_head(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A classifier's tensors from a safetensors file that `load_weights` has read.

    Raises:
        EncoderError: where they are missing, of another shape or not finite.
    """
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        missing = sorted(set(shapes) - set(file.keys()))
        if missing:
            raise EncoderError(
                f"{path}: has no classifier ({missing[0]}), so no `outputs` scores; earlier releases left it out: "
                "make the file again from the published one (`cxr-embed weights convert`)"
            )
        head = {name: np.ascontiguousarray(file.get_tensor(name), dtype=np.float32) for name in shapes}
    for name, shape in shapes.items():
        if head[name].shape != shape:
            raise EncoderError(f"{path}: {name} has shape {head[name].shape}, expected {shape}")
        if not np.isfinite(head[name]).all():
            raise EncoderError(f"{path}: {name} has values that are not finite")
    return head


def save_weights(
    path: Path, weights: Mapping[str, np.ndarray], source: str, notes: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file by atomic rename; what else is known of the weights as `notes`, by name.

    Raises:
        EncoderError: where it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as partial:
            save_file(dict(weights), partial, metadata={"source": source, **(notes or {})})
    except (OSError, SafetensorError) as error:
        raise EncoderError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None


def random_weights(
    network: Network, seed: int, head: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, np.ndarray]:
    """Weights of the right shapes that know nothing: for tests and benchmarks, never for results.

    He initialisation, the first convolution scaled down for pixels of +-1024, batch-norm statistics near identity.
    `head` adds a classifier, and changes none of the others.
    """
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    for index, (name, shape) in enumerate(weight_shapes(network).items()):
        if len(shape) == 4:
            scale = np.sqrt(2 / np.prod(shape[1:])) / (512 if index == 0 else 1)
            values = rng.standard_normal(shape) * scale
        elif name.endswith(("weight", "running_var")):
            values = rng.uniform(0.8, 1.2, shape)
        else:
            values = rng.normal(0, 0.1, shape)
        weights[name] = values.astype(np.float32)
    for name, shape in (head or {}).items():
        weights[name] = rng.normal(0, 1 / np.sqrt(shape[-1]), shape).astype(np.float32)
    return weights


_MOST_VALUES = 200_000  # in one pickle: a training's checkpoint of a large network has some thousands


class _Inert:
    """Stands in for every class and function that a pickle names: it keeps attributes and can do nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {})

    def __setitem__(self, key: Any, value: Any) -> None:
        """Stands in for dictionaries of other types, which a training's checkpoint holds beside its tensors."""


# The only names in a pickle that keep their meaning: what tensors are rebuilt from.
_REBUILDERS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "FloatStorage"),
    ("torch", "DoubleStorage"),
    ("torch", "HalfStorage"),
    ("torch", "LongStorage"),
    ("torch", "IntStorage"),
    ("torch", "ByteStorage"),
    ("torch", "BoolStorage"),
}


class _InertUnpickler(pickle.Unpickler):
    """Rebuilds tensors and nothing else. Everything that would run code becomes an `_Inert`."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _REBUILDERS:
            return super().find_class(module, name)
        return type(name, (_Inert,), {})


def convert(
    published: PublishedWeights,
    network: Network,
    path: Path,
    sha256: str | None,
    head: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, np.ndarray]:
    """Tensors from a published pickle, without running any code that it holds.

    The file's SHA-256 must match first. Then only tensors are rebuilt from it: every other class and function that it
    names is replaced by an inert stand-in, so even a matching file cannot call anything.

    Args:
        published: what is known of the file.
        network: whose tensors are wanted.
        path: the downloaded file.
        sha256: the expected digest where none is pinned.
        head: of a classifier that is taken along where the file has it.

    Raises:
        EncoderError: where the digest is unknown or differs, torch is missing, or the tensors are not the network's.
    """
    expected = published.sha256 or sha256
    if expected is None:
        raise EncoderError(
            "no SHA-256 of this file is pinned here; compare it with its publisher's and give it as `sha256`"
        )
    try:
        actual = file_sha256(path)
    except OSError as error:
        raise EncoderError(f"{path}: cannot be read ({error.strerror}); download it from {published.url}") from None
    if actual != expected.lower():
        raise EncoderError(f"{path}: SHA-256 is {actual}, expected {expected}; not opened. Get it from {published.url}")
    tensors = read_pickle(path)
    weights = {}
    for name, shape in weight_shapes(network).items():
        if name not in tensors or tensors[name].shape != shape:
            raise EncoderError(f"{path}: tensor {name} is missing or not of shape {shape}")
        weights[name] = np.ascontiguousarray(tensors[name], dtype=np.float32)
    own = head or {}
    if own and all(name in tensors and tensors[name].shape == shape for name, shape in own.items()):
        weights |= {name: np.ascontiguousarray(tensors[name], dtype=np.float32) for name in own}
    return weights


def read_pickle(path: Path) -> dict[str, np.ndarray]:
    """Every tensor in a file that torch saved, by its dotted name. Nothing that the file holds is run.

    Raises:
        EncoderError: where torch is missing, or the file is damaged, a TorchScript program or something else.
    """
    try:
        import torch
    except ImportError:
        raise EncoderError("reading a published pickle needs torch: pip install 'cxr-embed[torch]'") from None
    if _is_program(path):
        raise EncoderError(
            f"{path}: a TorchScript program, which runs while it is read; not opened. Save its `state_dict()` instead"
        )
    # torch's own `weights_only` loader cannot be used: it refuses whole modules in the format before torch 1.6.
    reader = types.SimpleNamespace(
        __name__="inert",
        Unpickler=_InertUnpickler,
        load=lambda file, **options: _InertUnpickler(file, **options).load(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the source code of the stand-ins
        try:
            loaded = torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False)
            return _collected(loaded)
        except Exception as error:  # a damaged pickle fails in a dozen ways
            raise EncoderError(f"{path}: not a weights file that torch can read ({type(error).__name__})") from None


def _is_program(path: Path) -> bool:
    """Whether torch would take the file for TorchScript, whose programs no unpickler holds back."""
    import torch

    try:
        with open(path, "rb") as file:
            if file.read(4) != b"PK\x03\x04":  # where torch takes a file for a ZIP archive
                return False
        return "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records()
    except (OSError, RuntimeError):  # a damaged archive, of which the reader itself tells
        return False


def _collected(loaded: Any) -> dict[str, np.ndarray]:
    """All tensors by their dotted names.

    Raises:
        ValueError: where there is no end to them, as in a dictionary that holds itself in many places.
    """
    found = {}
    for number, (name, values) in enumerate(_walked(loaded, "")):
        if number >= _MOST_VALUES:
            raise ValueError("too many values")
        if values is not None:
            found[name] = values
    return found


def _walked(value: Any, name: str) -> Iterator[tuple[str, np.ndarray | None]]:
    """Every value of a state dict, or of a module's `_parameters`, `_buffers` and `_modules`; tensors as arrays."""
    import torch

    if isinstance(value, torch.Tensor):
        # A layout that numpy has not (sparse) cannot be of a network that is known here.
        if value.layout == torch.strided:
            plain = value.detach()
            yield name, (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
        return
    yield name, None
    children: dict[str, Any] = {}
    if isinstance(value, _Inert):
        for part in ("_parameters", "_buffers", "_modules"):
            children.update(value.__dict__.get(part) or {})
    elif isinstance(value, dict):
        children = value
    for key, child in children.items():
        yield from _walked(child, f"{name}.{key}" if name else str(key))
