"""Vectors out of the store, for other programs."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_embed.choices import ExportFormat
from cxr_embed.errors import StoreError
from cxr_embed.io.files import not_local, written_aside
from cxr_embed.store.prompts import read_prompts
from cxr_embed.store.reader import Store

_LONGEST_KEY = 65_535 - len(".npy")  # a name in a zip file has a length of 16 bits

Progress = Callable[[int, int], None]


def export_store(
    store: Store,
    target: str | os.PathLike[str],
    output: str | None = None,
    *,
    format: ExportFormat | None = None,
    progress: Progress | None = None,
) -> int:
    """Writes vectors to one file.

    Args:
        store: an open store.
        target: the file.
        output: one of the encoder's outputs; its first by default.
        format: `parquet` (a row an image: `image_id`, `patient_id`, `vector`, a flat list whose shape is in the file's
            metadata), `npz` (arrays `image_id`, `patient_id` and `vectors`), `npz-by-image` (one flat float32 array an
            image, its key the image's id, as Google publishes vectors; without patients) or `npz-by-prompt` (one
            float32 array `(D,)` a prompt, its key the prompt). By the target's suffix by default. None holds pickle.
        progress: called now and then with the images done and their number.

    Returns:
        The number of images, or prompts, written.

    Raises:
        StoreError: for another suffix, an unknown output or a target that cannot be written.
    """
    path = Path(target)
    chosen = format or path.suffix.removeprefix(".")
    if path.suffix != f".{chosen.partition('-')[0]}" or chosen not in get_args(ExportFormat):
        raise StoreError(f"{path}: exports end in .parquet or .npz, as the `format` says")
    if chosen == "npz-by-image":
        return export_npz(store, path, output, progress)
    if chosen == "npz-by-prompt":
        if output is not None:
            raise StoreError("`output` is of images; prompts have one vector each")
        return export_prompts(store, path)
    with _written_aside(path) as partial:
        if chosen == "npz":
            embeddings = store.read(output=output)
            with open(partial, "wb") as file:
                np.savez(file, image_id=embeddings.ids, patient_id=store.patient_ids, vectors=embeddings.vectors)
        else:
            _write_parquet(store, partial, output)
    return len(store)


def export_npz(
    store: Store, target: str | os.PathLike[str], output: str | None = None, progress: Progress | None = None
) -> int:
    """Writes the layout in which Google publishes vectors: one flat float32 array an image, its key the image's id.

    The inverse of `cxr_embed.imports.open_npz`: the same vectors always give the same bytes. Vectors are read and
    written a batch at a time.

    Args:
        store: an open store.
        target: a file that ends in `.npz`.
        output: one of the encoder's outputs; its first by default.
        progress: called now and then with the images done and their number.

    Returns:
        The number of images written.

    Raises:
        StoreError: for another suffix, an unknown output, a store without images, ids that cannot be keys, or a
            target that cannot be written.
    """
    path = Path(target)
    _check(path, store.ids.tolist(), f"{store.path}: no image in it has a vector, so there is nothing to export")

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        done = 0
        for batch in store.batches(1024, output):
            flat = batch.vectors.reshape(len(batch), -1).astype("<f4", copy=False)
            yield from zip(batch.ids.tolist(), flat, strict=True)
            done += len(batch)
            if progress is not None:
                progress(done, len(store))

    _write_arrays(path, arrays())
    return len(store)


def export_prompts(store: Store, target: str | os.PathLike[str]) -> int:
    """Writes a store's prompt vectors: one float32 array `(D,)` a prompt, its key the prompt.

    Returns:
        The number of prompts written.

    Raises:
        StoreError: for another suffix than `.npz`, a store without prompts, prompts that cannot be keys, or a target
            that cannot be written.
    """
    path, prompts = Path(target), read_prompts(store)
    _check(path, prompts.prompts, f"{store.path}: holds no prompts, so there is nothing to export")
    _write_arrays(path, zip(prompts.prompts, prompts.vectors.astype("<f4", copy=False), strict=True))
    return len(prompts)


def _check(path: Path, keys: Sequence[str], nothing: str) -> None:
    """Refuses a target, and keys under which `numpy.load` would not find the array, or would find another's."""
    if path.suffix != ".npz":
        raise StoreError(f"{path}: this export ends in .npz; give another name")
    if not keys:
        raise StoreError(nothing)
    names = set(keys)
    for key in keys:
        if "\0" in key or len(key.encode()) > _LONGEST_KEY:
            raise StoreError(f"{path}: {key[:60]!r} cannot be a key (a NUL character, or too long)")
        if key.endswith(".npy") and key.removesuffix(".npy") in names:
            raise StoreError(
                f"{path}: {key!r} and {key.removesuffix('.npy')!r} are one key to numpy.load; "
                "use `format='npz'`, whose ids are an array"
            )


def _write_arrays(path: Path, arrays: Iterator[tuple[str, np.ndarray]]) -> None:
    """An `.npz` archive of arrays of one shape and dtype, without dates, so that equal arrays give equal bytes."""
    header = b""
    with _written_aside(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for key, array in arrays:
            if not header:
                buffer = BytesIO()
                np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(array))
                header = buffer.getvalue()
            archive.writestr(zipfile.ZipInfo(f"{key}.npy"), header + array.tobytes())


@contextmanager
def _written_aside(path: Path) -> Iterator[Path]:
    """The path of a file beside the target, which takes the target's name once it is complete and on the disk."""
    if (why := not_local(path)) is not None:
        raise StoreError(why)
    try:
        with written_aside(path) as partial:
            yield partial
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from None


def _write_parquet(store: Store, path: Path, output: str | None) -> None:
    name = output or next(iter(store.spec.outputs))
    shape = store.spec.outputs.get(name, ())
    width = int(np.prod(shape))
    value = pa.float16() if store.header.dtype == "float16" else pa.float32()
    schema = pa.schema(
        [("image_id", pa.string()), ("patient_id", pa.string()), ("vector", pa.list_(value, width))],
        metadata={"encoder": store.spec.name, "fingerprint": store.spec.fingerprint, "shape": str(list(shape))},
    )
    patients, start = store.patient_ids, 0
    with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
        for batch in store.batches(output=output):
            stop = start + len(batch)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.vectors.reshape(-1)), width)
            columns = [pa.array(batch.ids.tolist()), pa.array(patients[start:stop].tolist()), vectors]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            start = stop
