"""Cases out of Milvus: a withdrawn consent."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.case_table import BOX, CONTENT, PATIENT
from cxr_embed.index.milvus.client import DIGEST, ROW, TIMEOUT, VECTOR, as_index_error, connect, is_file, read_record
from cxr_embed.index.milvus.filter import ALL, KEY, among
from cxr_embed.index.milvus.push import create
from cxr_embed.index.milvus.search import MilvusIndex
from cxr_embed.regions import picture_of

_BATCH = 1000  # rows of one message, and ids of one question
_COPY = "_without"  # ends the name of a collection that is being written anew
_SERVER = (
    "the server was requested to compact: it deletes the old files when its garbage collection runs (`dataCoord.gc`), "
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
    server is requested to compact; when the bytes are gone is its affair.

    Args:
        uri, collection: see `MilvusIndex`.
        ids: image ids.
        patients: patients, all of whose cases go.

    Raises:
        CaseIndexError: for ids or patients that are not there; nothing is removed then.
    """
    if not len(ids) and not len(patients):
        raise CaseIndexError("name the cases to remove: image ids, or `patient`")
    _repair(uri, collection)
    index = MilvusIndex(uri, collection)
    index.rows_of(ids)
    field = index.record.fields[PATIENT].name
    gone = set(ids)
    for patient in patients:
        found = {row[KEY] for row in _rows(index, among(field, [patient]), [KEY])}
        if not found:
            raise CaseIndexError(f"{uri}: {collection} has no case of the patient {patient}")
        gone |= found
    return _take_out(index, gone)


def cases_of(uri: str, collection: str) -> Iterator[tuple[str, str, bytes | None, str]]:
    """Each case's image id, patient (blank where nobody knows), file's digest and, of a region, its picture's id.

    Raises:
        CaseIndexError: where nobody answers, or there is no such collection.
    """
    _repair(uri, collection)
    index = MilvusIndex(uri, collection)
    fields = index.record.fields
    patient, content = fields[PATIENT], fields[CONTENT]
    for row in _rows(index, ALL, [KEY, patient.name, content.name]):
        digest = content.decode(row[content.name])
        picture = picture_of(row[KEY]) if BOX in fields else ""
        yield row[KEY], str(row[patient.name] or ""), digest if isinstance(digest, bytes) else None, picture


def remove_covered(uri: str, collection: str, covers: Callable[[str, str, bytes | None, str], bool]) -> Removed:
    """`remove` of the cases that a rule covers, by what `cases_of` says of them; there may be none."""
    gone = {case[0] for case in cases_of(uri, collection) if covers(*case)}
    return _take_out(MilvusIndex(uri, collection), gone)


def _take_out(index: MilvusIndex, gone: set[str]) -> Removed:
    before = len(index)
    if is_file(index.uri):
        if gone:
            _rewrite(index, gone)
        return Removed(len(gone), before - len(gone), ())
    ids = sorted(gone)
    with as_index_error(index.uri):
        for start in range(0, len(ids), _BATCH):
            allowed = among(KEY, ids[start : start + _BATCH])
            index.client.delete(index.collection, filter=allowed, timeout=TIMEOUT)
        index.client.flush(index.collection, timeout=TIMEOUT)
        # Also where nothing is left to delete: a killed removal may not have come so far.
        index.client.compact(index.collection, timeout=TIMEOUT)
    return Removed(before - len(index), len(index), (_SERVER,) if gone else ())


def _rows(index: MilvusIndex, allowed: str, fields: list[str]) -> Iterator[dict[str, Any]]:
    """All rows that pass a filter."""
    with as_index_error(index.uri):
        rows = index.client.query_iterator(
            index.collection, batch_size=_BATCH, filter=allowed, output_fields=fields, timeout=TIMEOUT
        )
        while batch := rows.next():
            yield from batch
        rows.close()


def _rewrite(index: MilvusIndex, gone: set[str]) -> None:
    """Copies what is left into a new collection, which takes the place of the old one; a kill leaves the old one."""
    client, uri, collection = index.client, index.uri, index.collection
    copy = collection + _COPY
    names = [field.name for field in index.record.fields.values() if field.name != KEY]
    left = len(index) - len(gone)
    create(client, uri, copy, index.record)
    kept = (row for row in _rows(index, ALL, [KEY, VECTOR, ROW, DIGEST, *names]) if row[KEY] not in gone)
    while batch := list(itertools.islice(kept, _BATCH)):
        with as_index_error(uri):
            client.upsert(copy, batch, timeout=TIMEOUT)
    with as_index_error(uri):
        client.flush(copy, timeout=TIMEOUT)
        counts: Any = client.query(copy, filter=ALL, output_fields=["count(*)"], timeout=TIMEOUT)
        if counts[0]["count(*)"] != left:
            raise CaseIndexError(f"{uri}: {collection} changed while it was written anew; remove again")
        client.drop_collection(collection, timeout=TIMEOUT)
        client.rename_collection(copy, collection, timeout=TIMEOUT)


def _repair(uri: str, collection: str) -> None:
    """What a killed removal left: half a copy goes; a whole one, whose collection is gone, takes its place."""
    if not is_file(uri):
        return
    client = connect(uri)
    there = read_record(client, uri, collection) is not None
    with as_index_error(uri):
        if client.has_collection(collection + _COPY, timeout=TIMEOUT):
            if there:
                client.drop_collection(collection + _COPY, timeout=TIMEOUT)
            else:
                client.rename_collection(collection + _COPY, collection, timeout=TIMEOUT)
