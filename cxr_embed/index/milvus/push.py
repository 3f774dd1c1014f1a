"""A store's cases into a collection of Milvus: in batches, and again only where something changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.case_table import case_table
from cxr_embed.index.faiss.from_store import chosen_images, forgotten_of
from cxr_embed.index.faiss.vectors import pooled, unit
from cxr_embed.index.milvus.client import (
    DIGEST,
    PROPERTY,
    ROW,
    TIMEOUT,
    VECTOR,
    Record,
    asking,
    connect,
    index_kind,
    is_file,
    read_record,
)
from cxr_embed.index.milvus.filter import KEY, among, fields_of
from cxr_embed.io.digests import canonical_json, sha256_hex
from cxr_embed.manifest import Manifest
from cxr_embed.store import Store
from cxr_embed.store.writer import describe
from cxr_embed.types import counted

if TYPE_CHECKING:
    from pymilvus import MilvusClient

FLAT_CASES = 50_000  # up to so many, a server compares every case
_BATCH_CASES, _BATCH_BYTES = 1000, 8_000_000  # of one message; servers take 64 MB by default
_LONGEST = 65_535  # characters of a text: Milvus's limit
_MOST_FIELDS = 64  # of a collection: Milvus's limit

Progress = Callable[[str, int, int], None]


@dataclass(kw_only=True)
class Pushed:
    """What a push did.

    Attributes:
        images: of the store that belong into the collection.
        added, replaced, unchanged: of these; `replaced` had another vector, or another row in the manifest.
        cases: in the collection now.
        index: how Milvus searches them: FLAT compares all, HNSW finds nearly all neighbours.
        notes: what the user should know of it.
    """

    images: int = 0
    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    cases: int = 0
    index: str = ""
    notes: tuple[str, ...] = ()


def push(
    store: Store,
    manifest: Manifest | None,
    uri: str,
    collection: str,
    *,
    output: str | None = None,
    pool: str | None = None,
    key_file: Path | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Puts cases into a collection, which is made where it is missing.

    A push that was killed is pushed again: rows that are there as they should be are left alone, and since the image's
    id is the key, no case is ever there twice. Cases that the store does not hold stay.

    Args:
        store: whose vectors are pushed.
        manifest: the cases, and what is known of them; all images of the store, by patient alone, without one.
        uri: `http://HOST:PORT`, or a file of the embedded Milvus.
        collection: its name.
        output: one of the encoder's outputs; the one that words are compared with by default, else the first.
        pool: `mean` makes one vector of `(T, D)`, and is the default for them.
        key_file: the key of the patient ids, where patients were forgotten; the user's own by default.
        progress: called with a word for the step, what is done and how much there is.

    Raises:
        CaseIndexError: for a collection of other vectors or columns, or a server that does not take them.
    """
    output, pool = _vectors_of(store, output, pool)
    chosen, notes = chosen_images(store, manifest, forgotten_of(store, None, key_file))
    table = case_table(store, np.flatnonzero(chosen), manifest)
    record = Record(store.spec, output, pool, fields_of(table.schema))
    client = connect(uri, create=True)
    before = read_record(client, uri, collection)
    if before is None:
        create(client, uri, collection, record)
    else:
        _check_same(before, record, f"{uri}: collection {collection}")
        _load(client, uri, collection)
    pushed = Pushed(images=int(chosen.sum()), notes=notes)
    zero: list[str] = []
    for rows, names in _batches(store, chosen, table, record):
        zero += names
        held = {} if before is None else _digests(client, uri, collection, rows)
        _upsert(client, uri, collection, rows, held, pushed)
        if progress is not None:
            progress("pushing", pushed.added + pushed.replaced + pushed.unchanged, pushed.images)
    if zero:
        pushed.images -= len(zero)
        named = ", ".join(zero[:3]) + (", ..." if len(zero) > 3 else "")
        pushed.notes += (
            f"{counted(len(zero), 'image has', 'images have')} a vector that is zero: it has no direction "
            f"({named}): not pushed",
        )
    pushed.cases, pushed.index = _finish(client, uri, collection, bool(pushed.added + pushed.replaced))
    return pushed


def _vectors_of(store: Store, output: str | None, pool: str | None) -> tuple[str, str]:
    """The output, and how it becomes one vector."""
    output = output or store.spec.search_output
    if output not in store.spec.outputs:
        raise CaseIndexError(f"{store.path} has no output {output!r}; it has {', '.join(store.spec.outputs)}")
    shape = store.spec.outputs[output]
    if pool is not None and (pool != "mean" or len(shape) == 1):
        raise CaseIndexError(f"`pool` {pool}: {output} is {shape}; in Milvus `pool` is mean, for (T, D) vectors")
    return output, "none" if len(shape) == 1 else "mean"


def _load(client: MilvusClient, uri: str, collection: str) -> None:
    """Makes a collection ready; one that a kill left without an index gets it."""
    there = index_kind(client, uri, collection)
    with asking(uri):
        if not there:
            client.create_index(collection, _index(client, "FLAT"), timeout=TIMEOUT)
        client.load_collection(collection, timeout=TIMEOUT)


def _upsert(
    client: MilvusClient,
    uri: str,
    collection: str,
    rows: list[dict[str, Any]],
    held: dict[str, str],
    pushed: Pushed,
) -> None:
    """Sends the rows that the collection does not hold as they are, and counts them all."""
    new = [row for row in rows if held.get(row[KEY]) != row[DIGEST]]
    if new:
        with asking(uri):
            client.upsert(collection, new, timeout=TIMEOUT)
    pushed.unchanged += len(rows) - len(new)
    pushed.replaced += sum(row[KEY] in held for row in new)
    pushed.added += sum(row[KEY] not in held for row in new)


def create(client: MilvusClient, uri: str, collection: str, record: Record) -> None:
    """Makes an empty collection.

    Raises:
        CaseIndexError: for more columns than a collection takes, or a server that refuses.
    """
    from pymilvus import DataType

    if len(record.fields) + 3 > _MOST_FIELDS:
        raise CaseIndexError(
            f"the manifest has {counted(len(record.fields), 'column')}, a collection takes "
            f"{_MOST_FIELDS - 3}: leave some out"
        )
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(KEY, DataType.VARCHAR, is_primary=True, max_length=_LONGEST)
    schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=record.width)
    schema.add_field(ROW, DataType.INT64)
    schema.add_field(DIGEST, DataType.VARCHAR, max_length=64)
    for column, field in record.fields.items():
        if field.numeric:
            schema.add_field(field.name, DataType.DOUBLE, description=column)
        elif field.name != KEY:
            schema.add_field(field.name, DataType.VARCHAR, max_length=_LONGEST, description=column)
    with asking(uri):
        client.create_collection(
            collection,
            schema=schema,
            index_params=_index(client, "FLAT"),
            properties={PROPERTY: record.to_text()},
            consistency_level="Strong",  # what was just pushed is found, what was just removed is not
            timeout=TIMEOUT,
        )


def _index(client: MilvusClient, kind: str) -> Any:
    params = client.prepare_index_params()
    built = {"M": 32, "efConstruction": 200} if kind == "HNSW" else {}
    params.add_index(VECTOR, index_type=kind, metric_type="COSINE", params=built)
    return params


def _check_same(there: Record, here: Record, where: str) -> None:
    """Refuses a collection of other vectors, or with other columns."""
    if there.spec.fingerprint != here.spec.fingerprint:
        raise CaseIndexError(
            f"{where} holds vectors of {describe(there.spec)}, these are of {describe(here.spec)}; "
            "give another `collection`"
        )
    if (there.output, there.pool) != (here.output, here.pool):
        raise CaseIndexError(
            f"{where} holds {there.output} (pool {there.pool}), not {here.output} (pool {here.pool}); "
            f"use `output` {there.output}, or another `collection`"
        )
    columns = {**there.fields, **here.fields}
    differing = [name for name in columns if there.fields.get(name) != here.fields.get(name)]
    if differing:
        raise CaseIndexError(
            f"{where} and the manifest differ in the columns {', '.join(differing[:5])}; give another `collection`"
        )


def _batches(
    store: Store, chosen: np.ndarray, table: pa.Table, record: Record
) -> Iterator[tuple[list[dict[str, Any]], list[str]]]:
    """Rows as Milvus takes them, and the ids of those whose vector has no direction."""
    size = max(1, min(_BATCH_CASES, _BATCH_BYTES // (4 * record.width)))
    shape = store.spec.outputs[record.output]
    start = at = 0
    for batch in store.batches(size, record.output):
        here = chosen[start : start + len(batch)]
        places = start + np.flatnonzero(here)
        start += len(batch)
        vectors = unit(pooled(batch.vectors[here], shape))
        cases = table.slice(at, len(places)).to_pylist()
        at += len(places)
        rows, zero = [], []
        for place, vector, case in zip(places.tolist(), vectors, cases, strict=True):
            if np.isnan(vector[0]):
                zero.append(case[KEY])
                continue
            row = {field.name: field.encode(case[column]) for column, field in record.fields.items()}
            row[ROW] = place
            row[DIGEST] = sha256_hex(vector.astype("<f4").tobytes() + canonical_json(row))
            rows.append({**row, VECTOR: vector})
        if len(here):
            yield rows, zero


def _digests(client: MilvusClient, uri: str, collection: str, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Of the rows that the collection has already."""
    if not rows:
        return {}
    with asking(uri):
        found = client.query(
            collection, filter=among(KEY, (row[KEY] for row in rows)), output_fields=[KEY, DIGEST], timeout=TIMEOUT
        )
    return {row[KEY]: row[DIGEST] for row in found}


def _finish(client: MilvusClient, uri: str, collection: str, changed: bool) -> tuple[int, str]:
    """Cases in the collection, and its index; a large collection of a server gets a graph instead of comparing all."""
    kind = index_kind(client, uri, collection)
    with asking(uri):
        if changed:
            client.flush(collection, timeout=TIMEOUT)
        counts = client.query(collection, filter="", output_fields=["count(*)"], timeout=TIMEOUT)
        cases = int(counts[0]["count(*)"])
        if kind == "FLAT" and cases > FLAT_CASES and not is_file(uri):
            kind = "HNSW"
            client.release_collection(collection, timeout=TIMEOUT)
            client.drop_index(collection, VECTOR, timeout=TIMEOUT)
            client.create_index(collection, _index(client, kind), timeout=TIMEOUT)
            client.load_collection(collection, timeout=TIMEOUT)
    return cases, kind
