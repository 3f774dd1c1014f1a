"""Vectors out of the store, for other programs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_embed.errors import StoreError
from cxr_embed.store.reader import Store

FORMATS = (".npz", ".parquet")


def export_store(store: Store, target: str | os.PathLike[str], output: str | None = None) -> int:
    """Writes ids and vectors to one file.

    `.npz` holds `image_id`, `patient_id` and `vectors` (no pickle); `.parquet` holds one row an image with
    `image_id`, `patient_id` and `vector`, a flat list whose shape is in the file's metadata.

    Args:
        store: an open store.
        target: a file that ends in `.npz` or `.parquet`.
        output: one of the encoder's outputs; its first by default.

    Returns:
        The number of images written.

    Raises:
        StoreError: for another suffix, an unknown output or a target that cannot be written.
    """
    path = Path(target)
    if path.suffix not in FORMATS:
        raise StoreError(f"{path}: exports end in {' or '.join(FORMATS)}")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if path.suffix == ".npz":
            embeddings = store.read(output=output)
            with open(partial, "wb") as file:
                np.savez(file, image_id=embeddings.ids, patient_id=store.patient_ids, vectors=embeddings.vectors)
        else:
            _write_parquet(store, partial, output)
        os.replace(partial, path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        partial.unlink(missing_ok=True)
    return len(store)


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
    with pq.ParquetWriter(path, schema) as writer:
        for batch in store.batches(output=output):
            stop = start + len(batch)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.vectors.reshape(-1)), width)
            columns = [pa.array(batch.ids.tolist()), pa.array(patients[start:stop].tolist()), vectors]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            start = stop
