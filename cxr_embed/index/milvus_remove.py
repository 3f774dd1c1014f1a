"""Cases out of Milvus: a withdrawn consent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.milvus import MilvusIndex
from cxr_embed.index.milvus_client import DIGEST, ROW, TIMEOUT, VECTOR, asking, connect, is_file, read_record
from cxr_embed.index.milvus_filter import ALL, KEY, among
from cxr_embed.index.milvus_push import create
from cxr_embed.index.table import PATIENT

_BATCH = 1000  # rows of one message, and ids of one question
_COPY = "_without"  # ends the name of a collection that is being written anew
_SERVER = (
    "the server was told to compact: it deletes the old files when its garbage collection runs (`dataCoord.gc`), "
    "and its backups hold these cases as before"
)


@dataclass(frozen=True)
class Removed:
    """What a removal did.

    Attributes:
        removed: cases that are gone.
        cases: that are left.
        notes: what the user should know of it.
    """

    removed: int
    cases: int
    notes: tuple[str, ...]


def remove(uri: str, collection: str, ids: Sequence[str] = (), patients: Sequence[str] = ()) -> Removed:
    """Takes cases out of a collection: no search finds them from then on.

    A file of the embedded Milvus is written anew without them, since what is deleted there stays in its files. A
    server is told to compact; when the bytes are gone is its affair.

    Args:
        uri, collection: see `MilvusIndex`.
        ids: image ids.
        patients: patients, all of whose cases go.

    Raises:
        CaseIndexError: for ids or patients that are not there; nothing is removed then.
    """
    if not len(ids) and not len(patients):
        raise CaseIndexError("name the cases to remove: image ids, or --patient ID")
    _repair(uri, collection)
    index = MilvusIndex(uri, collection)
    before = len(index)
    index.rows_of(ids)
    field = index.record.fields[PATIENT].name
    for patient in patients:
        if not index.count_of_patient(patient):
            raise CaseIndexError(f"{uri}: {collection} has no case of the patient {patient}")
    filters = [among(KEY, ids[start : start + _BATCH]) for start in range(0, len(ids), _BATCH)]
    filters += [among(field, [patient]) for patient in patients]
    with asking(uri):
        for allowed in filters:
            index.client.delete(collection, filter=allowed, timeout=TIMEOUT)
        index.client.flush(collection, timeout=TIMEOUT)
    left = len(index)
    if is_file(uri):
        _rewrite(index)
        return Removed(before - left, left, ())
    with asking(uri):
        index.client.compact(collection, timeout=TIMEOUT)
    return Removed(before - left, left, (_SERVER,))


def _rewrite(index: MilvusIndex) -> None:
    """Copies what is left into a new collection, which takes the place of the old one."""
    client, uri, collection = index.client, index.uri, index.collection
    copy = collection + _COPY
    names = [field.name for field in index.record.fields.values() if field.name != KEY]
    create(client, uri, copy, index.record)
    with asking(uri):
        rows = client.query_iterator(
            collection, batch_size=_BATCH, filter=ALL, output_fields=[KEY, VECTOR, ROW, DIGEST, *names], timeout=TIMEOUT
        )
        while batch := rows.next():
            client.upsert(copy, list(batch), timeout=TIMEOUT)
        rows.close()
        client.flush(copy, timeout=TIMEOUT)
        told: Any = client.query(copy, filter=ALL, output_fields=["count(*)"], timeout=TIMEOUT)
        if told[0]["count(*)"] != len(index):
            raise CaseIndexError(f"{uri}: {collection} changed while it was written anew; remove again")
        client.drop_collection(collection, timeout=TIMEOUT)
        client.rename_collection(copy, collection, timeout=TIMEOUT)


def _repair(uri: str, collection: str) -> None:
    """What a killed removal left: half a copy goes; a whole one, whose collection is gone, takes its place."""
    if not is_file(uri):
        return
    client = connect(uri)
    there = read_record(client, uri, collection) is not None
    with asking(uri):
        if client.has_collection(collection + _COPY, timeout=TIMEOUT):
            if there:
                client.drop_collection(collection + _COPY, timeout=TIMEOUT)
            else:
                client.rename_collection(collection + _COPY, collection, timeout=TIMEOUT)
