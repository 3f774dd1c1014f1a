"""The case table: who the vectors belong to, in typed columns that are mapped from one Arrow file."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxr_embed.errors import CaseIndexError
from cxr_embed.io.digests import file_record
from cxr_embed.manifest import DAY_OFFSET, Manifest
from cxr_embed.store import Store
from cxr_embed.thumbnails import thumbnail_key
from cxr_embed.types import counted

IMAGE, PATIENT, CONTENT, PATH, DATE, AGE = "image_id", "patient_id", "content", "path", "study_date", "age"
BOX = "box"  # a column of regions: where each lies, as `regions.Box` reads it
LOOKS, NOT_A_CHEST = "looks", "not like a chest radiograph"  # a column where some picture does not, and what it says
TEXT = pa.dictionary(pa.int32(), pa.string())
FINDING = pa.int8()
DAYS = pa.int32()  # study_date where the data set counts days
_UNKNOWN = ("", "-1", "-1.0")  # as labels: blank, or uncertain


def case_table(store: Store, rows: np.ndarray, manifest: Manifest | None) -> pa.Table:
    """The table of some of a store's images, in their order.

    The manifest's `path` stays out: folders are often named after people. `image_id` is text, `content` (SHA-256 of the
    file) 32 bytes, `study_date` a date or a number of days, `age` a number, findings 1, 0 or null (-1, and blank unless
    the manifest's companion says that it is negative), everything else dictionary-encoded text. Blank is null. Where
    some picture was found not to look like a chest radiograph, `looks` says so, and is null for the others. Regions
    have their `box`.

    Args:
        store: the images', with their patients.
        rows: `(N,)` positions in `store.ids`.
        manifest: holds every one of the images; its patients, where it has any, replace the store's.

    Raises:
        CaseIndexError: for a manifest with a column of our own name.
    """
    chosen = pa.array(rows, pa.int64())
    contents = pa.array(store.index.files(), pa.binary(32))
    owners = _text(pa.array(store.index.column("patient_id"), pa.string()).take(chosen))
    columns = {IMAGE: image_ids(store).take(chosen), PATIENT: owners, CONTENT: contents.take(chosen)}
    if store.index.has_regions:
        columns[BOX] = _text(pa.array(store.index.column(BOX), pa.string()).take(chosen))
    strange = np.asarray(store.unlike_chest)[rows].tolist()
    words = pa.array([NOT_A_CHEST if each else None for each in strange], pa.string())
    looks = {LOOKS: words.dictionary_encode()} if any(strange) else {}
    if manifest is None:
        return pa.table(columns | looks)
    for own in (CONTENT, LOOKS):
        if own in manifest.table.column_names:
            raise CaseIndexError(f"the manifest's column {own} has the name of a column of the index: rename it")
    places = pc.index_in(columns[IMAGE], value_set=manifest.table[IMAGE].combine_chunks())
    if PATIENT in manifest.table.column_names:
        columns[PATIENT] = _text(manifest.table[PATIENT].combine_chunks().take(places))
    for name in manifest.table.column_names:
        if name not in (IMAGE, PATH, PATIENT) and not (name == BOX and BOX in columns):  # a region's is the store's
            values = manifest.table[name].combine_chunks().take(places)
            columns[name] = _typed(name, values, manifest)
    return pa.table(columns | looks)


def image_ids(store: Store) -> pa.Array:
    """A store's image ids, in its order."""
    return pa.array(store.ids.tolist(), pa.string())


def thumbnail_keys(table: pa.Table) -> list[str]:
    """What the thumbnail of each case is called; blank for those whose file is not known."""
    boxes = table[BOX].to_pylist() if BOX in table.column_names else itertools.repeat(None)
    return list(map(thumbnail_key, table[CONTENT].to_pylist(), boxes))


def _text(values: pa.Array) -> pa.Array:
    coded = values.dictionary_encode()
    blank = pc.index(coded.dictionary, "").as_py()
    if blank < 0:
        return coded
    # Codes are short to go through; only the dictionary is looked at as text.
    codes = pc.if_else(pc.equal(coded.indices, blank), None, coded.indices)
    return pa.DictionaryArray.from_arrays(codes, coded.dictionary)


def _typed(name: str, values: pa.Array, manifest: Manifest) -> pa.Array:
    text = _text(values)
    if name not in (DATE, AGE) and name not in manifest.findings:
        return text
    if name in manifest.findings:
        known = [None if value in _UNKNOWN else int(float(value)) for value in text.dictionary.to_pylist()]
        found = pa.array(known, FINDING).take(text.indices)
        blank = pa.scalar(0 if manifest.blank == "negative" else None, FINDING)
        return pc.if_else(pc.is_null(text.indices), blank, found)
    known = text.dictionary.to_pylist()  # its blank is gone from the codes
    written = [value for value in known if value]
    days = bool(written) and all(map(DAY_OFFSET.fullmatch, written))
    kind = pa.float64() if name == AGE else DAYS if days else pa.date32()
    return pa.array([value or None for value in known], pa.string()).cast(kind).take(text.indices)


def join(first: pa.Table, second: pa.Table) -> pa.Table:
    """The rows of both; a column that one of them lacks is null there.

    Raises:
        CaseIndexError: for a column that is of another type in each.
    """
    first, second = _without_dates(first, second), _without_dates(second, first)
    for name in set(first.column_names) & set(second.column_names):
        if first.schema.field(name).type != second.schema.field(name).type:
            remedy = "name it with `extra` in both, or in neither" if name != DATE else "an index holds one kind of it"
            raise CaseIndexError(
                f"column {name} is {type_name(first.schema.field(name).type)} in the index and "
                f"{type_name(second.schema.field(name).type)} in the manifest: {remedy}"
            )
    return pa.concat_tables([first, second], promote_options="default").unify_dictionaries().combine_chunks()


def _without_dates(table: pa.Table, other: pa.Table) -> pa.Table:
    """The table; a study_date that is unknown in every row is of the other's type."""
    if DATE not in table.column_names or DATE not in other.column_names or table[DATE].null_count < len(table):
        return table
    field = other.schema.field(DATE)
    return table.set_column(table.column_names.index(DATE), field, pa.nulls(len(table), field.type))


def keep(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Some rows, in their order; nothing of the others stays, not even in a dictionary."""
    chosen = table.take(pa.array(rows, pa.int64())).combine_chunks()
    columns = [
        column.combine_chunks().cast(pa.string()).dictionary_encode() if column.type == TEXT else column
        for column in chosen.columns
    ]
    return pa.table(columns, names=table.column_names).combine_chunks()


def type_name(kind: pa.DataType) -> str:
    """A column's type in a message."""
    names = {FINDING: "a finding", pa.date32(): "a date", pa.float64(): "a number", DAYS: "a number of days"}
    return names.get(kind, "text")


def write_table(path: Path, table: pa.Table) -> None:
    """Writes one record batch, so that every column is one array when it is mapped."""
    table = table.combine_chunks()
    batches = table.to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def read_table(path: Path, sha256: str, cases: int) -> pa.Table:
    """Maps a case table; without the files' paths, which earlier releases kept in it.

    Raises:
        CaseIndexError: where it is damaged, or has another number of rows.
    """
    try:
        # Arrow trusts its files: a flipped bit in an offset would end the process.
        if file_record(path)["sha256"] != sha256:
            raise CaseIndexError(f"{path}: damaged, its checksum differs; restore it, or build the index again")
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowException) as error:
        raise CaseIndexError(f"{path}: cannot be read ({type(error).__name__}); build the index again") from None
    if len(table) != cases or table.column_names[:3] != [IMAGE, PATIENT, CONTENT]:
        raise CaseIndexError(
            f"{path}: {counted(len(table), 'row')}, the index has {counted(cases, 'case')}; build the index again"
        )
    return table.drop_columns(PATH) if PATH in table.column_names else table


@dataclass
class CaseColumn:
    """A column for reading few rows of it at a time, without Arrow's price a call.

    Attributes:
        array: the column.
    """

    array: pa.Array

    @cached_property
    def _values(self) -> tuple[np.ndarray, list[Any] | None]:
        """Codes `(N,)` and what they stand for, or numbers `(N,)` and None; nothing for plain text."""
        kind = self.array.type
        if kind == TEXT:
            return np.asarray(self.array.indices.fill_null(-1)), [*self.array.dictionary.to_pylist(), None]
        if kind == FINDING:
            return np.asarray(self.array.fill_null(2)), [0, 1, None]
        if kind == pa.float64():
            return np.asarray(self.array.fill_null(math.nan)), None
        if kind in (pa.date32(), DAYS):
            coded = self.array.dictionary_encode()
            days = [day if kind == DAYS else day.isoformat() for day in coded.dictionary.to_pylist()]
            return np.asarray(coded.indices.fill_null(-1)), [*days, None]
        return np.empty(0), None

    def take(self, rows: list[int]) -> list[Any]:
        """The values of some rows; None where one is unknown, dates as text."""
        codes, values = self._values
        if values is not None:
            return [values[code] for code in codes[rows].tolist()]
        if len(codes):
            return [None if math.isnan(value) else value for value in codes[rows].tolist()]
        return [self.array[row].as_py() for row in rows]
