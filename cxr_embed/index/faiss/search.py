"""An open index, and the search in it."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxr_embed.errors import CaseIndexError, StoreError
from cxr_embed.index.case_table import BOX, CONTENT, DATE, IMAGE, LOOKS, PATIENT, CaseColumn, read_table
from cxr_embed.index.faiss.layout import CANDIDATES, CASES, CHECKSUMS, PROMPTS, TOKENS, VECTORS, IndexRecord
from cxr_embed.index.faiss.tokens import TokenVectors
from cxr_embed.index.faiss.vectors import PooledVectors
from cxr_embed.index.query import Query, Rules, best, unlike_note
from cxr_embed.index.searchable import Searchable
from cxr_embed.index.where import Condition, absent_words, mask, parse, taken_before
from cxr_embed.io.digests import file_record
from cxr_embed.io.files import load_npy
from cxr_embed.store import Header, Prompts
from cxr_embed.store.checksums import RowCheck
from cxr_embed.store.prompts import load_prompts
from cxr_embed.types import counted

_SPARE = 6  # candidates beyond those wanted: what FAISS rounds may hide a neighbour behind them
_NAMED = 5


class CaseIndex(Searchable):
    """Cases, their vectors and what is known of them; read-only, mapped from its files.

    Args:
        path: the index's folder.

    Raises:
        CaseIndexError: where there is none, it is damaged, or its parts do not belong together.
    """

    record: IndexRecord

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.record = IndexRecord.read(self.path)
        try:
            self._open()
        except CaseIndexError:
            # A writer may have published the next generation between our looks.
            before, self.record = self.record, IndexRecord.read(self.path)
            if self.record.generation == before.generation:
                raise
            self._open()

    def _open(self) -> None:
        self.record.check_sizes(self.path)
        folder, files = self.path / self.record.generation, self.record.files
        needed = [CASES, VECTORS, *([TOKENS] if self.pool == "tokens" else [])]
        if not set(needed) <= set(files):
            raise CaseIndexError(f"{self.path}: index.json does not name {', '.join(needed)}; build the index again")
        self.folder = folder
        self.table: pa.Table = read_table(folder / CASES, files[CASES]["sha256"], len(self))
        self._columns = {
            name: CaseColumn(column.chunk(0) if column.num_chunks else pa.array([], column.type))
            for name, column in zip(self.table.column_names, self.table.columns, strict=True)
        }
        self._image_ids = self._columns[IMAGE].array
        found = (
            folder / CANDIDATES if CANDIDATES in files else None,
            files[CANDIDATES]["sha256"] if CANDIDATES in files else "",
        )
        sums = self._checksums()
        self._vectors = self._mapped(VECTORS, self.record.shape[-1:])
        self._check = self._row_check(VECTORS, self._vectors, sums[0])
        self.similar: PooledVectors | TokenVectors
        if self.pool == "tokens":
            self._tokens = self._mapped(TOKENS, self.record.shape)
            self._check_tokens = self._row_check(TOKENS, self._tokens, sums[1])
            self.similar = TokenVectors(
                self._tokens, self._vectors, self.record.kind, *found, checks=(self._check_tokens, self._check)
            )
        else:
            self.similar = PooledVectors(self._vectors, self.record.kind, *found, check=self._check)

    def __repr__(self) -> str:
        return f"CaseIndex({str(self.path)!r}, {self.spec.name}, {counted(len(self), 'case')}, {self.record.kind.name})"

    def __len__(self) -> int:
        """Cases."""
        return self.record.cases

    def _mapped(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        path, shape = self.folder / name, (len(self), *shape)
        try:
            array: np.ndarray = load_npy(path, "r" if len(self) else None)
        except (OSError, ValueError) as error:
            raise CaseIndexError(f"{path}: cannot be read ({type(error).__name__}); build the index again") from None
        if array.shape != shape:
            raise CaseIndexError(f"{path}: {array.shape}, the index has {shape}; build the index again")
        return np.asarray(array)

    def _checksums(self) -> Sequence[np.ndarray | None]:
        """`(N,)` uint32 of each array; None of an index of an earlier release."""
        if CHECKSUMS not in self.record.files:
            return (None, None)
        path = self.folder / CHECKSUMS
        try:
            if file_record(path) != self.record.files[CHECKSUMS]:
                raise CaseIndexError(f"{path}: damaged, its checksum differs; restore it, or build the index again")
            return list(load_npy(path))
        except (OSError, ValueError) as error:
            raise CaseIndexError(f"{path}: cannot be read ({type(error).__name__}); build the index again") from None

    def _row_check(self, name: str, array: np.ndarray, sums: np.ndarray | None) -> RowCheck:
        def changed(row: int) -> CaseIndexError:
            return CaseIndexError(
                f"{self.folder / name}: the vector of {self._image_ids[row]} has changed since it was written; restore "
                "it, or build the index again"
            )

        return RowCheck(array, sums, changed)

    @property
    def prompts(self) -> Prompts:
        """The prompts that the store had when cases were last added, with their vectors.

        Raises:
            CaseIndexError: where they are damaged.
        """
        if PROMPTS not in self.record.files:
            return Prompts((), np.empty((0, self.record.shape[-1]), np.float32), ())
        try:
            return load_prompts(self.folder, Header(self.spec, "float16", "float32", "", ""))
        except StoreError:
            raise CaseIndexError(f"{self.folder / PROMPTS}: damaged; restore it, or build the index again") from None

    @property
    def vectors(self) -> np.ndarray:
        """`(N, D)` float32 of unit length, mapped, row i for `ids[i]`; the means of the tokens where these are kept.

        Raises:
            CaseIndexError: where one has changed since it was written.
        """
        self._check()
        return self._vectors

    @property
    def tokens(self) -> np.ndarray:
        """`(N, T, D)` float16 of unit length, mapped; with the pool `tokens` alone. Raises as `vectors` does."""
        self._check_tokens()
        return self._tokens

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """File to the array in it."""
        return {VECTORS: self.vectors, TOKENS: self.tokens} if self.pool == "tokens" else {VECTORS: self.vectors}

    @cached_property
    def ids(self) -> np.ndarray:
        """`(N,)` image ids."""
        return np.array(self._image_ids.to_pylist(), dtype=np.str_)

    @cached_property
    def patient_ids(self) -> np.ndarray:
        """`(N,)` patient ids, in the order of `ids`; blank where nobody knows."""
        return np.array([value or "" for value in self._columns[PATIENT].array.to_pylist()], dtype=np.str_)

    @property
    def columns(self) -> list[str]:
        """Of the case table."""
        return list(self._columns)

    def rows_of(self, ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """`(M,)` rows of image ids, in their order.

        Raises:
            CaseIndexError: naming ids that are not here.
        """
        wanted = np.asarray(ids, dtype=np.str_).tolist()
        rows = self._rows(wanted)
        unknown = [value for value, row in zip(wanted, rows.tolist(), strict=True) if row < 0]
        if unknown:
            named = ", ".join(unknown[:_NAMED]) + (", ..." if len(unknown) > _NAMED else "")
            raise CaseIndexError(f"{self.path} has no case {named}")
        return rows

    def known_rows(self, ids: Sequence[str]) -> dict[str, int]:
        """The rows of those image ids that are here, in their order."""
        return {value: row for value, row in zip(ids, self._rows(ids).tolist(), strict=True) if row >= 0}

    def _rows(self, ids: Sequence[str]) -> np.ndarray:
        """`(M,)`, -1 for what is not here."""
        wanted = pa.array(ids, pa.string())
        if len(wanted) == 1:
            return np.array([pc.index(self._image_ids, wanted[0]).as_py()])
        return np.asarray(pc.index_in(wanted, value_set=self._image_ids).fill_null(-1))

    def rows_of_patient(self, patient: str) -> np.ndarray:
        """`(M,)` rows of a patient's cases; none for a patient who is not here."""
        code = self._code_of_patient(patient)
        return np.flatnonzero(self._patient_codes == code) if code >= 0 else np.empty(0, np.int64)

    def query_of(self, image_id: str) -> Query:
        """A case of the index as a query.

        Raises:
            CaseIndexError: for an id that is not here.
        """
        row = int(self.rows_of([image_id])[0])
        patient = self._columns[PATIENT].take([row])[0]
        (self._check_tokens if self.pool == "tokens" else self._check)(np.array([row]))
        vector = self._tokens[row].astype(np.float32) if self.pool == "tokens" else self._vectors[row]
        strange = LOOKS in self._columns and self._columns[LOOKS].take([row])[0]
        notes = (unlike_note(image_id),) if strange else ()
        own = [image_id]
        if BOX in self._columns and (file := self._columns[CONTENT].take([row])[0]) is not None:
            own = self.ids_of_content(file)  # other parts of the same picture are not other cases
        return Query(vector, image_id, (patient,) if patient else (), tuple(own), notes)

    def ids_of_content(self, content: bytes) -> list[str]:
        """Image ids of the cases that were embedded from a file of this SHA-256."""
        digests = self._columns[CONTENT].array
        rows = np.flatnonzero(pc.equal(digests, pa.scalar(content, digests.type)))
        return [str(self._image_ids[row].as_py()) for row in rows.tolist()]

    def cases(self, rows: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """What is known of some rows: column to value; None where it is unknown, dates as text.

        Args:
            rows: `(M,)`.
            columns: all but the file's digest by default.
        """
        chosen = np.asarray(rows).tolist()
        names = [name for name in self._columns if name != "content"] if columns is None else list(columns)
        values = [self._columns[name].take(chosen) for name in names]
        return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]

    @staticmethod
    def check_wanted(k: int) -> None:
        """Refuses a number of neighbours that is none.

        Raises:
            CaseIndexError: for k < 1.
        """
        if k < 1:
            raise CaseIndexError(f"`k` is the number of neighbours, at least 1, not {k}")

    def count_of_patient(self, patient: str) -> int:
        """A patient's cases; 0 for one who is not here."""
        return len(self.rows_of_patient(patient))

    def count(self, where: str | Condition | None = None, before: str | int | datetime.date | None = None) -> int:
        """Cases that pass the filters.

        Raises:
            CaseIndexError: for a condition that is none, or columns that are not here.
        """
        passing = self.passing(where, before)
        return len(self) if passing is None else int(np.count_nonzero(passing))

    def passing(self, where: str | Condition | None, before: str | int | datetime.date | None) -> np.ndarray | None:
        """`(N,)` bool, the cases that pass the filters; None where there is no filter.

        Raises:
            CaseIndexError: for a condition that is none, or columns that are not here.
        """
        return self._passing(parse(where) if isinstance(where, str) else where, before)

    @cached_property
    def _passing(self) -> Callable[..., np.ndarray | None]:
        """What passed last: a page of cases counts, searches and shows by one condition."""
        return lru_cache(maxsize=16)(self._find_passing)

    def _find_passing(self, where: Condition | None, before: str | int | datetime.date | None) -> np.ndarray | None:
        passing = None
        if where is not None:
            passing = mask(where, self.table)
        if before is not None:
            if DATE not in self.table.column_names:
                raise CaseIndexError(f"`before`: {self.path} knows no {DATE}; build it with a manifest that has one")
            earlier = mask(taken_before(before, self.table.schema.field(DATE).type), self.table)
            passing = earlier if passing is None else passing & earlier
        if passing is not None:
            passing.flags.writeable = False
        return passing

    def diagnostics(self, where: str | None) -> tuple[str, ...]:
        """What in a condition may be a slip: words that no case has, ranges that are empty."""
        return absent_words(parse(where), self.table) if where is not None else ()

    def _answers(
        self,
        queries: Sequence[Query],
        k: int,
        where: str | Condition | None,
        before: str | int | datetime.date | None,
        rules: Rules,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        passing = self.passing(where, before)
        return (self._nearest(query, min(k, len(self)), passing, rules) for query in queries)

    def _ids_at(self, rows: np.ndarray) -> np.ndarray:
        ids = [self._image_ids[row].as_py() if row >= 0 else "" for row in rows.ravel().tolist()]
        return np.array(ids, dtype=np.str_).reshape(rows.shape)

    @cached_property
    def _patient_codes(self) -> np.ndarray:
        """`(N,)` int32; -1 for a case without a patient."""
        return np.asarray(self._columns[PATIENT].array.indices.fill_null(-1))

    @cached_property
    def _code_of_patient(self) -> Any:
        patients = self._columns[PATIENT].array.dictionary
        # Not one dictionary of them all: building it would take longer than many searches.
        return lru_cache(maxsize=4096)(lambda patient: pc.index(patients, patient).as_py())

    def _nearest(self, query: Query, k: int, passing: np.ndarray | None, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
        """Rows and similarities of one query's neighbours, at most k."""
        vector = self._unit(query, self.record.shape[-1:], self.record.shape)
        own = self.rows_of(query.images) if query.images else None
        codes = patients = None
        if rules.exclude_same_patient or rules.only_same_patient or rules.one_per_patient:
            codes = self._patient_codes
        if rules.exclude_same_patient or rules.only_same_patient:
            patients = [self._code_of_patient(patient) for patient in query.patients]
        if rules.only_same_patient:
            assert codes is not None
            same = np.isin(codes, [code for code in patients or () if code >= 0])
            passing = same if passing is None else passing & same
        left = len(self) if passing is None else int(np.count_nonzero(passing))
        fetch = (k + (len(query.images)) + _SPARE) * self.record.kind.fetch

        def choose(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
            """The best of some rows, and whether one beyond them could be a tie with the last of these."""
            similarity = self.similar.exact(vector, rows if len(rows) < len(self) else None)
            least = similarity.min(initial=np.inf)
            out = np.isin(rows, own) if own is not None else np.zeros(len(rows), bool)
            if rules.exclude_same_patient:
                assert codes is not None
                out |= np.isin(codes[rows], [*(patients or ()), -1])
            if out.any():
                rows, similarity = rows[~out], similarity[~out]
            at = best(similarity, rows, k, codes[rows] if rules.one_per_patient and codes is not None else None)
            return rows[at], similarity[at], bool(len(at)) and similarity[at[-1]] <= least

        while left > self.similar.exact_below and 2 * fetch <= left:
            rows = self.similar.candidates(vector, fetch, passing)
            if len(rows) < fetch:
                break  # the lists ran dry before so many were found: only a look at all of them tells
            found, similarity, tied = choose(rows)
            if len(found) == k and not tied:
                return found, similarity
            fetch *= 4
        found, similarity, _ = choose(np.arange(len(self)) if passing is None else np.flatnonzero(passing))
        return found, similarity
