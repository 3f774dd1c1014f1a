"""What users have at hand, as the rest of the package takes it: paths, tables of pandas and pyarrow, dicts, objects."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from cxr_embed.errors import CxrEmbedError, StoreError
from cxr_embed.io.digests import file_sha256, sha256_hex
from cxr_embed.manifest import Manifest, labels_of_table, read_labels
from cxr_embed.notebook import notebook_bar
from cxr_embed.store import Store, open_store

StrPath = str | os.PathLike[str]
# pandas.DataFrame is named in words only: the core does not need pandas.
Table = Any
Progress = Callable[[str, int, int], None]  # a word for the step, what is done, how much there is


def progress_or_bar(progress: Progress | None) -> Progress | None:
    """The caller's progress; in a notebook, a bar where there is none."""
    return progress if progress is not None else notebook_bar()


def store_of(store: Store | StrPath) -> Store:
    """An open store, whichever of both is given.

    Raises:
        StoreError: where there is no store, or it is damaged.
    """
    if isinstance(store, Store):
        return store
    if not isinstance(store, str | os.PathLike):
        raise StoreError(f"`store` is an open store or its folder, not {type(store).__name__}")
    return open_store(store)


def several(given: Any) -> list[Any]:
    """A list or tuple as a list; one thing as a list of it."""
    return list(given) if isinstance(given, list | tuple) else [given]


def arrow_of(table: Table, what: str) -> pa.Table:
    """A table in memory as pyarrow has it.

    Args:
        table: `pandas.DataFrame` (an index that has a name becomes a column), `pyarrow.Table`, or a dict of columns.
        what: the argument's name, for the message.

    Raises:
        CxrEmbedError: for anything else.
    """
    if isinstance(table, pa.Table):
        return table
    try:
        if hasattr(table, "iloc") and hasattr(table, "columns"):
            named = [name for name in table.index.names if name is not None and name not in table.columns]
            table = table.reset_index(named) if named else table
            return pa.Table.from_pandas(table, preserve_index=False)
        if isinstance(table, Mapping):
            return pa.table({str(name): pa.array(column) for name, column in table.items()})
    except (pa.ArrowException, ValueError) as error:
        raise CxrEmbedError(f"`{what}`: not a table of equally long columns ({error})") from None
    raise CxrEmbedError(
        f"`{what}` is a path, a pandas or pyarrow table, or a dict of columns, not {type(table).__name__}"
    )


def labels_of(labels: Manifest | StrPath | Table, extra: Sequence[str] = ()) -> Manifest:
    """Labels of any kind as a checked table of `image_id` and findings.

    Args:
        labels: a `Manifest`; the path of one, or of a table of labels; or such a table in memory.
        extra: columns that are not findings; of an open manifest, beside those that it was read with.

    Raises:
        ManifestError: with all problems at once in `problems`.
    """
    if isinstance(labels, Manifest):
        findings = tuple(name for name in labels.findings if name not in extra)
        return replace(labels, findings=findings) if extra else labels
    if isinstance(labels, str | os.PathLike):
        return read_labels(labels, extra=extra)
    return labels_of_table(arrow_of(labels, "labels"), extra=extra)


def source_of(labels: Manifest | StrPath | Table, table: Manifest) -> tuple[str, str]:
    """The name of the labels' file, and the SHA-256 of its bytes; of labels in memory, of their text."""
    if isinstance(labels, str | os.PathLike):
        return Path(labels).name, file_sha256(labels)
    columns = ["\x1f".join([name, *table.table[name].to_pylist()]) for name in sorted(table.table.column_names)]
    return "in memory", sha256_hex("".join(column + "\x1e" for column in columns).encode())
