"""The cases of an index as a Parquet file that Embedding Atlas opens: what is known of them, a map, pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.faiss.map_file import map_path, read_map
from cxr_embed.index.faiss.projection import principal_components
from cxr_embed.index.faiss.search import CaseIndex
from cxr_embed.io.files import written_aside

X, Y, NEIGHBORS, VECTOR, IMAGE = (
    "projection_x",
    "projection_y",
    "neighbors",
    "vector",
    "image",
)  # as its options have it
_OWN = (X, Y, NEIGHBORS, VECTOR, IMAGE)
_NEIGHBORS = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float32()))])
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_ROWS = 512  # of a row group: pictures of some megabytes

Picture = Callable[[str], bytes | None]
Progress = Callable[[str, int, int], None]


def export_atlas(
    index: CaseIndex,
    target: Path,
    columns: Sequence[str],
    *,
    neighbors: int = 0,
    vectors: bool = False,
    picture: Picture | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes one row a case, in the index's order, by atomic rename.

    Args:
        index: the cases.
        target: ends in .parquet.
        columns: of the index that may leave it.
        neighbors: nearest other cases of each, as `neighbors`: their rows and 1 - similarity; 0 for none.
        vectors: whether the vectors `(D,)` go along, of unit length; of tokens their means.
        picture: from an image id to a picture's bytes, None where there is none; for the column `image`.
        progress: called with a word for the step, what is done and how much there is.

    Raises:
        CaseIndexError: for an empty index, a column of one of our own names, a damaged map beside the index, or a file
            that cannot be written.
    """
    check_atlas(index, target, columns)
    positions = _positions(index)
    schema = _schema(index, columns, neighbors, vectors, picture)
    named = [schema.field(name) for name in columns]
    try:
        with written_aside(target) as partial, pq.ParquetWriter(partial, schema) as writer:
            for start in range(0, len(index), _ROWS):
                stop = min(start + _ROWS, len(index))
                part = index.table.slice(start, stop - start)
                made = list[Any]()
                if picture is not None:
                    made.append(pa.array([_image(picture(name)) for name in index.ids[start:stop].tolist()], _IMAGE))
                made += [part[field.name].cast(field.type) for field in named]
                made += [pa.array(positions[start:stop, axis]) for axis in (0, 1)]
                if neighbors:
                    made.append(pa.array(_neighbors(index, range(start, stop), neighbors), _NEIGHBORS))
                if vectors:
                    made.append(pa.array(list(index.vectors[start:stop]), schema.field(VECTOR).type))
                writer.write_table(pa.Table.from_arrays(made, schema=schema))
                if progress is not None:
                    progress("writing", stop, len(index))
    except OSError as error:
        raise CaseIndexError(f"{target}: cannot be written ({error.strerror or error})") from None


def check_atlas(index: CaseIndex, target: Path, columns: Sequence[str]) -> None:
    """Looks at all that can be wrong before anything is done; raises as `export_atlas`."""
    if target.suffix.lower() != ".parquet" or target.is_dir():
        raise CaseIndexError(f"{target}: an export for Embedding Atlas ends in .parquet")
    if not target.absolute().parent.is_dir():
        raise CaseIndexError(f"{target}: cannot be written ({target.parent} is not a folder); give another file")
    if not len(index):
        raise CaseIndexError(f"{index.path} has no case, so there is nothing to export")
    if taken := [name for name in columns if name in _OWN]:
        raise CaseIndexError(f"{index.path}: the column {taken[0]} has the name of one of the export's; rename it")


def _positions(index: CaseIndex) -> np.ndarray:
    """`(N, 2)`: of the map beside the index where there is one of these vectors, else by principal components."""
    learned = read_map(map_path(index.path))
    if learned is not None and learned.key == index.record.vectors_digest:
        return learned.positions
    return principal_components(index.vectors)


def _schema(
    index: CaseIndex, columns: Sequence[str], neighbors: int, vectors: bool, picture: Picture | None
) -> pa.Schema:
    fields = [(IMAGE, _IMAGE)] if picture is not None else []  # first, so that its cards begin with the picture
    fields += [(name, _plain(index.table.schema.field(name).type)) for name in columns]
    fields += [(X, pa.float32()), (Y, pa.float32())]
    fields += [(NEIGHBORS, _NEIGHBORS)] if neighbors else []
    fields += [(VECTOR, pa.list_(pa.float32()))] if vectors else []
    spec = index.spec
    about = {"encoder": spec.name, "fingerprint": spec.fingerprint, "output": index.output, "stand_in": spec.stand_in}
    return pa.schema(fields, metadata=about)


def _plain(kind: pa.DataType) -> pa.DataType:
    """Text as text, and dates too: other programs know neither dictionaries that differ nor days without hours."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    return pa.string() if pa.types.is_date(kind) else kind


def _neighbors(index: CaseIndex, rows: Sequence[int], count: int) -> list[dict[str, Any]]:
    queries = [index.query_of(str(index.ids[row])) for row in rows]
    found, similarity = index.search_rows(queries, min(count, len(index)))
    return [
        {"ids": near[near >= 0].tolist(), "distances": np.maximum(0, 1 - alike[near >= 0]).tolist()}
        for near, alike in zip(found, similarity, strict=True)
    ]


def _image(data: bytes | None) -> dict[str, Any] | None:
    return {"bytes": data, "path": None} if data is not None else None
