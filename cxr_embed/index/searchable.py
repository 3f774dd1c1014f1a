"""What every index answers alike, wherever its vectors are; each kind of index finds the neighbours in its own way."""

from __future__ import annotations

import datetime
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.faiss.vectors import unit
from cxr_embed.index.query import NO_RULES, Query, Rules
from cxr_embed.index.where import Condition
from cxr_embed.store import Prompts
from cxr_embed.types import EncoderSpec, Neighbors

if TYPE_CHECKING:
    from cxr_embed.index.faiss import layout
    from cxr_embed.index.milvus import client as milvus_client


class Searchable(ABC):
    """Cases that can be searched.

    Attributes:
        record: what is indexed, and where it came from.
    """

    record: layout.IndexRecord | milvus_client.CollectionRecord

    @property
    def spec(self) -> EncoderSpec:
        """The encoder that made the vectors."""
        return self.record.spec

    @property
    def output(self) -> str:
        """The encoder's output that is indexed."""
        return self.record.output

    @property
    def pool(self) -> str:
        """`none`, `mean` or `tokens`; see `layout.IndexRecord`."""
        return self.record.pool

    @property
    @abstractmethod
    def prompts(self) -> Prompts:
        """The prompts whose vectors came along."""

    @staticmethod
    @abstractmethod
    def check_wanted(k: int) -> None:
        """Refuses a number of neighbours that cannot be found.

        Raises:
            CaseIndexError: naming those that can.
        """

    @abstractmethod
    def query_of(self, image_id: str) -> Query:
        """A case as a query.

        Raises:
            CaseIndexError: for an id that is not here.
        """

    @abstractmethod
    def ids_of_content(self, content: bytes) -> list[str]:
        """Image ids of the cases that were embedded from a file of this SHA-256."""

    def search(
        self,
        queries: np.ndarray | Query | Sequence[Query],
        k: int = 10,
        *,
        where: str | Condition | None = None,
        before: str | int | datetime.date | None = None,
        exclude_same_patient: bool = False,
        only_same_patient: bool = False,
        one_per_patient: bool = False,
    ) -> Neighbors:
        """The k nearest cases of each query among those that pass the filters; fewer only where fewer pass.

        Args:
            queries: vectors `(D,)` or `(Q, D)`, images `(Q, T, D)` or `(Q, H, W, D)` where the index keeps tokens, or
                what `Query` tells besides.
            k: neighbours wanted.
            where: a condition on the columns, e.g. `view = PA and age > 60`; see `cxr_embed.index.where`.
            before: only cases whose study_date is earlier: a date, or a number where the data set counts days.
            exclude_same_patient, only_same_patient, one_per_patient: see `Rules`.

        Raises:
            CaseIndexError: for queries of another width or without direction, a k that `check_wanted` refuses, a
                condition that is none, or a rule that needs a patient where a query has none.
        """
        if isinstance(queries, np.ndarray):
            queries = [Query(vector, str(number)) for number, vector in enumerate(np.atleast_2d(queries))]
        listed = [queries] if isinstance(queries, Query) else list(queries)
        rules = Rules(exclude_same_patient, only_same_patient, one_per_patient)
        rows, similarity = self.search_rows(listed, k, where=where, before=before, rules=rules)
        return Neighbors(np.array([query.name for query in listed]), self._ids_at(rows), similarity)

    def search_rows(
        self,
        queries: Sequence[Query],
        k: int,
        *,
        where: str | Condition | None = None,
        before: str | int | datetime.date | None = None,
        rules: Rules = NO_RULES,
    ) -> tuple[np.ndarray, np.ndarray]:
        """`search` that gives rows, as `rows_of` numbers them, instead of ids.

        Returns:
            `(Q, k)` int64 rows, -1 where fewer were found, and `(Q, k)` float32 similarities, NaN there.

        Raises:
            CaseIndexError: see `search`.
        """
        self.check_wanted(k)
        rules.check(queries)
        rows = np.full((len(queries), k), -1, np.int64)
        similarity = np.full((len(queries), k), np.nan, np.float32)
        for number, (found, values) in enumerate(self._answers(queries, k, where, before, rules)):
            rows[number, : len(found)], similarity[number, : len(found)] = found, values
        return rows, similarity

    @abstractmethod
    def _answers(
        self,
        queries: Sequence[Query],
        k: int,
        where: str | Condition | None,
        before: str | int | datetime.date | None,
        rules: Rules,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each query, at most k rows and their similarities, best first."""

    @abstractmethod
    def _ids_at(self, rows: np.ndarray) -> np.ndarray:
        """Rows of any shape to image ids; -1 is blank."""

    @staticmethod
    def _unit(query: Query, *shapes: tuple[int, ...]) -> np.ndarray:
        """A query's vector, of unit length.

        Raises:
            CaseIndexError: where it has none of the shapes, or no direction.
        """
        name = query.name or "the query"
        given = query.vector
        if given.ndim > 2:  # a grid, whose cells are tokens row by row
            given = given.reshape(-1, given.shape[-1])
        if given.shape not in shapes:
            expected = " or ".join(map(str, dict.fromkeys(shapes)))
            raise CaseIndexError(f"{name}: a vector of shape {query.vector.shape}, the cases' have {expected}")
        vector = unit(given)
        if np.isnan(vector).any():
            raise CaseIndexError(f"{name}: its vector is zero or not finite: it has no direction")
        return vector
