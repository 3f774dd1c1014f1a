"""Cases in Milvus, searched as a `CaseIndex` is: vectors on other machines, or in a file of the embedded Milvus.

Milvus proposes; similarities are taken from the vectors that it sends back, as `CaseIndex` takes them from its file.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.case_table import BOX, CONTENT, DATE, LOOKS, PATH, PATIENT
from cxr_embed.index.milvus.client import (
    ROW,
    TIMEOUT,
    VECTOR,
    CollectionRecord,
    as_index_error,
    connect,
    index_kind,
    read_record,
)
from cxr_embed.index.milvus.filter import ALL, KEY, Field, among, both, expression, no_one_of
from cxr_embed.index.query import Query, Rules, unlike_note
from cxr_embed.index.searchable import Searchable
from cxr_embed.index.where import Condition, parse, taken_before
from cxr_embed.store import Prompts
from cxr_embed.types import counted

LARGEST = 16_384  # rows of one answer: Milvus's limit
EXACT_CASES = 4096  # so few that pass a filter are all compared, where the index in Milvus is approximate
_EFFORT = 256  # length of HNSW's list of candidates, at least
_SPARE = 16  # rows beyond those wanted: they show ties at the edge, and more of one patient
_SAME = 1e-5  # more than two ways of computing one cosine in float32 differ by
_ONE_REQUEST = 1000  # cases in one request


@dataclass(frozen=True)
class _Hit:
    """A case that Milvus proposed."""

    image_id: str
    similarity: float
    row: int
    patient: str


class MilvusIndex(Searchable):
    """A collection that `cxr-embed index push` filled, searched as a `CaseIndex` is.

    Args:
        uri: `http://HOST:PORT`, or a file of the embedded Milvus.
        collection: its name.

    Raises:
        CaseIndexError: where nobody answers, or there is no such collection.
    """

    record: CollectionRecord

    def __init__(self, uri: str, collection: str) -> None:
        self.uri, self.collection = uri, collection
        self._met: dict[str, int] = {}
        self.client = connect(uri)
        record = read_record(self.client, uri, collection)
        with as_index_error(uri):
            if record is None:
                known = ", ".join(sorted(self.client.list_collections(timeout=TIMEOUT))[:5]) or "none"
                raise CaseIndexError(
                    f"{uri}: no collection {collection!r} (there are: {known}); `cxr-embed index push` makes one"
                )
        self.record = record
        self.kind = index_kind(self.client, uri, collection)
        if not self.kind:
            raise CaseIndexError(f"{uri}: {collection} has no index, its push was stopped; push again")
        with as_index_error(uri):
            self.client.load_collection(collection, timeout=TIMEOUT)

    def __repr__(self) -> str:
        return f"MilvusIndex({self.uri!r}, {self.collection!r}, {self.spec.name}, {counted(len(self), 'case')})"

    def __len__(self) -> int:
        """Cases."""
        return self.count()

    @property
    def columns(self) -> list[str]:
        """Of the case table; without the files' paths, which earlier releases pushed."""
        return [name for name in self.record.fields if name != PATH]

    @property
    def prompts(self) -> Prompts:
        """None: a collection takes no prompts along, so words need their model."""
        return Prompts((), np.empty((0, self.record.width), np.float32), ())

    def count(self, where: str | Condition | None = None, before: str | int | datetime.date | None = None) -> int:
        """Cases that pass the filters.

        Raises:
            CaseIndexError: for a condition that is none, or columns that are not there.
        """
        return self._count(self._passing(where, before) or ALL)

    @staticmethod
    def check_wanted(k: int) -> None:
        """Refuses a number of neighbours that is none, or more than Milvus gives at once.

        Raises:
            CaseIndexError: for k < 1, or k beyond 16,384 less a few.
        """
        if not 1 <= k <= LARGEST - _SPARE:
            raise CaseIndexError(f"`k` is the number of neighbours, 1 to {LARGEST - _SPARE:,} with Milvus, not {k}")

    def count_of_patient(self, patient: str) -> int:
        """A patient's cases; 0 for one who is not there."""
        return self._count(among(self._patient.name, [patient]))

    def query_of(self, image_id: str) -> Query:
        """A case as a query.

        Raises:
            CaseIndexError: for an id that is not there.
        """
        looks = [self.record.fields[name].name for name in self.columns if name == LOOKS]
        found = self._rows(among(KEY, [image_id]), [VECTOR, self._patient.name, *looks])
        if not found:
            raise CaseIndexError(f"{self.uri}: {self.collection} has no case {image_id}")
        patient = found[0][self._patient.name]
        notes = tuple(unlike_note(image_id) for name in looks if found[0][name])
        vector = np.asarray(found[0][VECTOR], np.float32)
        own = [image_id]
        if BOX in self.columns:  # other parts of the same picture are not other cases
            field = self.record.fields[CONTENT]
            digest = self._rows(among(KEY, [image_id]), [field.name])[0][field.name]
            own = [str(row[KEY]) for row in self._rows(among(field.name, [digest]), [])]
        return Query(vector, image_id, (patient,) if patient else (), tuple(own), notes)

    def ids_of_content(self, content: bytes) -> list[str]:
        """Image ids of the cases that were embedded from a file of this SHA-256."""
        return [str(row[KEY]) for row in self._rows(among(self.record.fields[CONTENT].name, [content.hex()]), [])]

    def rows_of(self, ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """`(M,)` numbers for cases, in their order; they count the cases that this object has met so far.

        Raises:
            CaseIndexError: naming ids that are not there.
        """
        wanted = np.asarray(ids, dtype=np.str_).tolist()
        unmet = [image_id for image_id in dict.fromkeys(wanted) if image_id not in self._met]
        there = {row[KEY] for part in _parts(unmet) for row in self._rows(among(KEY, part), [])}
        if missing := [image_id for image_id in unmet if image_id not in there]:
            raise CaseIndexError(f"{self.uri}: {self.collection} has no case {', '.join(missing[:5])}")
        return self._numbers(wanted)

    def cases(self, rows: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """What is known of cases: column to value; None where it is unknown, dates as text.

        Args:
            rows: `(M,)`, what `rows_of` or `search_rows` gave.
            columns: all but the file's digest by default.

        Raises:
            CaseIndexError: for a case that was deleted meanwhile.
        """
        met = list(self._met)
        wanted = [met[row] for row in np.asarray(rows, np.int64).tolist()]
        names = [name for name in self.columns if name != CONTENT] if columns is None else columns
        fields = {name: self.record.fields[name] for name in names}
        found = {
            row[KEY]: {column: field.decode(row[field.name]) for column, field in fields.items()}
            for part in _parts(wanted)
            for row in self._rows(among(KEY, part), [field.name for field in fields.values()])
        }
        if missing := [image_id for image_id in wanted if image_id not in found]:
            raise CaseIndexError(f"{self.uri}: {self.collection} has lost the case {missing[0]}; search again")
        return [dict(found[image_id]) for image_id in wanted]

    def _answers(
        self,
        queries: Sequence[Query],
        k: int,
        where: str | Condition | None,
        before: str | int | datetime.date | None,
        rules: Rules,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        passing = self._passing(where, before)
        for query in queries:
            vector = self._unit(query, (self.record.width,))
            found = self._nearest(vector, k, self._allowed(query, rules, passing), rules.one_per_patient)
            similarity = np.array([hit.similarity for hit in found], np.float32)
            yield self._numbers([hit.image_id for hit in found]), similarity

    def _ids_at(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(np.array([*self._met, ""], dtype=np.str_)[rows])

    def _numbers(self, ids: Sequence[str]) -> np.ndarray:
        return np.array([self._met.setdefault(image_id, len(self._met)) for image_id in ids], np.int64)

    @property
    def _patient(self) -> Field:
        return self.record.fields[PATIENT]

    def _passing(self, where: str | Condition | None, before: str | int | datetime.date | None) -> str:
        conditions = [] if where is None else [parse(where) if isinstance(where, str) else where]
        if before is not None:
            if DATE not in self.record.fields:
                raise CaseIndexError(
                    f"`before`: {self.uri}: {self.collection} knows no {DATE}; push a manifest that has one"
                )
            conditions.append(taken_before(before, self.record.fields[DATE].type))
        return both(*(expression(condition, self.record.fields) for condition in conditions))

    def _allowed(self, query: Query, rules: Rules, passing: str) -> str:
        own = no_one_of(KEY, query.images) if query.images else ""
        patient = ""
        if rules.only_same_patient:
            patient = among(self._patient.name, query.patients)
        elif rules.exclude_same_patient:
            patient = both(self._patient.known(), no_one_of(self._patient.name, query.patients))
        return both(passing, own, patient)

    def _nearest(self, vector: np.ndarray, k: int, allowed: str, one_per_patient: bool) -> list[_Hit]:
        """The k nearest; each round asks for more, until no case that was not seen can be among them."""
        if self.kind != "FLAT" and allowed and self._count(allowed) <= EXACT_CASES:
            hits = self._ranked(vector, self._rows(allowed, self._fields_of_hits))
            return _chosen(hits, one_per_patient)[:k]
        taken: list[_Hit] = []
        limit = min(k + _SPARE, LARGEST)
        while True:
            rows, edge = self._proposed(vector, limit, both(allowed, self._beside(taken)))
            hits = self._ranked(vector, rows)
            dry = len(rows) < limit
            # What was not seen is no nearer than the last that was.
            sure = [*taken, *(hit for hit in hits if dry or hit.similarity > edge + _SAME)]
            found = _chosen(sure, one_per_patient)
            if dry or len(found) >= k:
                return found[:k]
            if limit == LARGEST:
                if not one_per_patient or len(found) == len(taken):
                    # More cases than one answer holds are as near as each other.
                    return _chosen([*taken, *hits], one_per_patient)[:k]
                taken = found
            limit = min(4 * limit, LARGEST)

    def _beside(self, taken: Sequence[_Hit]) -> str:
        """Leaves out patients that are found already; a case without a patient is left out by itself."""
        patients = [hit.patient for hit in taken if hit.patient]
        alone = [hit.image_id for hit in taken if not hit.patient]
        return both(no_one_of(self._patient.name, patients) if patients else "", no_one_of(KEY, alone) if alone else "")

    @property
    def _fields_of_hits(self) -> list[str]:
        return [VECTOR, ROW, self._patient.name]

    def _proposed(self, vector: np.ndarray, limit: int, allowed: str) -> tuple[list[dict[str, Any]], float]:
        """Rows that Milvus finds nearest, and its similarity of the last of them."""
        params = {} if self.kind == "FLAT" else {"ef": max(_EFFORT, 2 * limit)}
        with as_index_error(self.uri):
            hits = self.client.search(
                self.collection,
                data=[vector.tolist()],
                anns_field=VECTOR,
                filter=allowed,
                limit=limit,
                output_fields=[KEY, *self._fields_of_hits],
                search_params={"metric_type": "COSINE", "params": params},
                timeout=TIMEOUT,
            )[0]
        rows = [{**hit["entity"], KEY: hit[KEY]} for hit in hits]
        return rows, float(hits[-1]["distance"]) if rows else -np.inf

    def _ranked(self, vector: np.ndarray, rows: Iterable[Mapping[str, Any]]) -> list[_Hit]:
        listed = list(rows)
        vectors = np.array([row[VECTOR] for row in listed], np.float32).reshape(-1, self.record.width)
        hits = [
            _Hit(row[KEY], similarity, row[ROW], row[self._patient.name])
            for row, similarity in zip(listed, np.vecdot(vectors, vector).tolist(), strict=True)
        ]
        return sorted(hits, key=lambda hit: (-hit.similarity, hit.row, hit.image_id))

    def _rows(self, allowed: str, names: Sequence[str]) -> list[dict[str, Any]]:
        with as_index_error(self.uri):
            return list(
                self.client.query(
                    self.collection, filter=allowed, output_fields=[KEY, *names], limit=LARGEST, timeout=TIMEOUT
                )
            )

    def _count(self, allowed: str) -> int:
        with as_index_error(self.uri):
            counts = self.client.query(self.collection, filter=allowed, output_fields=["count(*)"], timeout=TIMEOUT)
        return int(counts[0]["count(*)"])


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Ids, so many at a time as one question names."""
    return (ids[start : start + _ONE_REQUEST] for start in range(0, len(ids), _ONE_REQUEST))


def _chosen(hits: Sequence[_Hit], one_per_patient: bool) -> list[_Hit]:
    """The hits, or each patient's first; a case without a patient is a patient of its own."""
    if not one_per_patient:
        return list(hits)
    seen: set[str] = set()
    chosen = []
    for hit in hits:
        if hit.patient not in seen:
            chosen.append(hit)
            seen |= {hit.patient} if hit.patient else set()
    return chosen
