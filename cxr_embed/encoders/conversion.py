"""Published weights to tensors under a network's names: what all converters do alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cxr_embed.encoders.weights import converted_folder, read_pickle, save_weights, weights_path
from cxr_embed.errors import EncoderError
from cxr_embed.io.digests import file_sha256
from cxr_embed.io.files import write_whole
from cxr_embed.types import counted

DIGEST_UNKNOWN = "digest unknown"
# What a training's checkpoint holds its network in, beside its optimizer's tensors.
_CONTAINERS = ("state_dict", "model_state_dict", "model_state", "net", "model", "module", "teacher")


@dataclass(frozen=True)
class Converted:
    """A published file's tensors.

    Attributes:
        tensors: by the names that the encoder reads.
        source: what they are and where they came from, for people; it goes into the encoder's spec.
        notes: what else is known of them (a head's form and classes), for programs.
        beside: other files of the checkpoint, without which the tensors are of no use.
        file: what the tensors' file is called where there are such.
    """

    tensors: Mapping[str, np.ndarray]
    source: str
    notes: Mapping[str, str] = field(default_factory=dict)
    beside: Sequence[Path] = ()
    file: str = ""


def save_converted(encoder: str, converted: Converted, out: Path | None = None) -> Path:
    """Writes what was converted: one file, or a folder where other files belong to it, the tensors last.

    Args:
        encoder: its name.
        converted: the tensors and what is known of them.
        out: where to; by default where the encoder looks for it.

    Returns:
        What was written.

    Raises:
        EncoderError: where it cannot be written.
    """
    if not converted.beside:
        target = out or weights_path(encoder)
        save_weights(target, converted.tensors, converted.source, converted.notes)
        return target
    folder = out or converted_folder(encoder)
    if folder.is_file() or folder.suffix == ".safetensors":
        raise EncoderError(f"{folder}: of {encoder} a folder is written; name one with `out`")
    _require_no_others(folder, converted)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / converted.file).unlink(missing_ok=True)  # earlier tensors never lie beside the new settings
        for path in converted.beside:
            if not (folder / path.name).exists() or not path.samefile(folder / path.name):
                write_whole(folder / path.name, path.read_bytes())
    except OSError as error:
        raise EncoderError(f"{folder}: cannot be written ({error.strerror})") from None
    save_weights(folder / converted.file, converted.tensors, converted.source, converted.notes)
    return folder


def _require_no_others(folder: Path, converted: Converted) -> None:
    """Raises EncoderError where a folder holds files of another checkpoint, which would be taken for this one's."""
    own = converted.beside[0].parent
    if not folder.is_dir() or folder.resolve() == own.resolve():
        return
    written = {converted.file, *(path.name for path in converted.beside)}
    others = sorted(path.name for path in folder.iterdir() if path.name not in written and path.is_file())
    if others:
        raise EncoderError(
            f"{folder}: holds {others[0]}, which is not of this checkpoint and might be read with it; "
            "delete that folder, or name another one with `out`"
        )


def tensors_of(path: Path, sha256: str | None, known: Mapping[str, str]) -> tuple[dict[str, np.ndarray], str]:
    """Every tensor of a file, and where it came from: by its digest where that is known, else with the digest alone.

    A file of unknown digest is read all the same, since nothing in it can run; its source says so.

    Args:
        path: the file.
        sha256: the digest that it should have, if anybody said so.
        known: digests to what such a file is.

    Raises:
        EncoderError: where it cannot be read, or has another digest.
    """
    try:
        actual = file_sha256(path)
    except OSError as error:
        raise EncoderError(f"{path}: cannot be read ({error.strerror})") from None
    if sha256 is not None and actual != sha256.lower():
        raise EncoderError(f"{path}: SHA-256 is {actual}, expected {sha256}; not opened")
    if actual in known:
        source = f"{known[actual]} (SHA-256 {actual})"
    elif sha256 is not None:
        source = f"{path.name} (SHA-256 {actual}, as given by `sha256`)"
    else:
        source = f"{path.name} (SHA-256 {actual}; {DIGEST_UNKNOWN}: compared with no publisher's)"
    return read_pickle(path), source


def network_tensors(tensors: Mapping[str, np.ndarray], stem: str, path: Path, network: str) -> dict[str, np.ndarray]:
    """The tensors of the one network in a checkpoint, by their names without the modules around it.

    Args:
        tensors: of the whole checkpoint, by dotted names.
        stem: the name of the tensor with which the network begins.
        path: for messages.
        network: its name, for messages.

    Raises:
        EncoderError: where no such network begins in it, or several do.
    """
    stems = [name for name in tensors if f".{name}".endswith(f".{stem}")]
    if len(stems) != 1:
        seen = ", ".join(list(tensors)[:3]) or "none"
        what = f"{len(stems)} networks have a" if stems else "there is no"
        raise EncoderError(f"{path}: {what} {stem}, with which {network} begins; its tensors are {seen}, ...")
    around = stems[0].removesuffix(stem)
    container = next((f"{name}." for name in _CONTAINERS if around.startswith(f"{name}.")), "")
    return {
        name.removeprefix(around): values
        for name, values in tensors.items()
        if name.startswith(container) and not name.endswith("num_batches_tracked")
    }


def all_matching(
    path: Path, network: str, found: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The tensors that are wanted as float32, where all of them are there and nothing else is.

    Args:
        path: the file, for messages.
        network: its name, for messages.
        found: the file's tensors, under the names that are wanted.
        shapes: of what is wanted, by name.

    Raises:
        EncoderError: where some are missing, too many, of another shape, or not finite.
    """
    require_tensors(str(path), network, {name: values.shape for name, values in found.items()}, shapes)
    # numpy makes a list of one of a single number.
    tensors = {name: np.ascontiguousarray(found[name], np.float32).reshape(shape) for name, shape in shapes.items()}
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            raise EncoderError(f"{path}: {name} has values that are not finite; the file is damaged, or not float32")
    return tensors


def require_tensors(
    where: str, network: str, found: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Whether tensors are a network's: all of its own, of their shapes, and no others.

    Args:
        where: the file, for messages.
        network: its name, for messages.
        found: shapes of the file's tensors, under the names that are wanted.
        shapes: of what is wanted, by name.

    Raises:
        EncoderError: where they are not; with how many are, and some that are not.
    """
    missing, foreign = [name for name in shapes if name not in found], [name for name in found if name not in shapes]
    if missing:
        raise EncoderError(
            f"{where}: {len(shapes) - len(missing):,} of the {len(shapes):,} tensors of {network} are here; "
            f"missing are {_examples(missing)}. These are another network's weights, or a part"
        )
    if foreign:
        raise EncoderError(
            f"{where}: {counted(len(foreign), 'tensor is', 'tensors are')} not {network}'s: {_examples(foreign)}. "
            "These are another network's weights"
        )
    wide = [name for name, shape in shapes.items() if found[name] != shape]
    if wide:
        raise EncoderError(
            f"{where}: {counted(len(wide), 'tensor has', 'tensors have')} another shape than {network}'s, "
            f"the first {wide[0]}: {found[wide[0]]}, expected {shapes[wide[0]]}"
        )


def _examples(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
