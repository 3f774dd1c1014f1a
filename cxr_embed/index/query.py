"""A search of an index: queries, the rules that answers must meet, and which answers are best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxr_embed.errors import CaseIndexError


@dataclass(frozen=True)
class Query:
    """What is looked for.

    Attributes:
        vector: `(D,)`, or `(T, D)` for an image where the index keeps tokens; of any length.
        name: what the answer calls it: an image id, a file, a text.
        patients: whose it is; none where nobody knows, or for words.
        images: ids that are not answers: the query's own.
        notes: what the user should know of it.
    """

    vector: np.ndarray
    name: str = ""
    patients: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def unlike_note(name: str) -> str:
    """What is said of a query that is not a chest radiograph."""
    return f"{name} does not look like a chest radiograph: its neighbours mean little"


@dataclass(frozen=True)
class Rules:
    """Which cases may be an answer, beside the filter.

    Attributes:
        exclude_same_patient: none of the query's patients; a case without a patient is none either: it might be.
        only_same_patient: these alone.
        one_per_patient: the nearest of each; every case without a patient counts as a patient of its own.
    """

    exclude_same_patient: bool = False
    only_same_patient: bool = False
    one_per_patient: bool = False

    def check(self, queries: Sequence[Query]) -> None:
        """Refuses rules that contradict each other, or that need a patient where a query has none.

        Raises:
            CaseIndexError: naming the query.
        """
        if self.exclude_same_patient and self.only_same_patient:
            raise CaseIndexError("`exclude_same_patient` and `only_same_patient`: give one of them")
        if self.exclude_same_patient or self.only_same_patient:
            for query in queries:
                if not query.patients:
                    raise CaseIndexError(
                        f"{query.name or 'the query'}: its patient is not known; say `patient`, or leave out "
                        f"{'`exclude_same_patient`' if self.exclude_same_patient else '`only_same_patient`'}"
                    )


NO_RULES = Rules()


def best(similarity: np.ndarray, rows: np.ndarray, k: int, patients: np.ndarray | None = None) -> np.ndarray:
    """Positions of the k most similar, best first; ties go to the earlier row.

    Args:
        similarity: `(M,)`.
        rows: `(M,)`.
        k: positions wanted.
        patients: `(M,)` codes, to keep each patient's best alone; negative ones are patients of their own.
    """
    wanted = k
    while True:
        if wanted < len(similarity):
            least = np.partition(similarity, len(similarity) - wanted)[len(similarity) - wanted]
            at = np.flatnonzero(similarity >= least)
        else:
            at = np.arange(len(similarity))
        at = at[np.lexsort((rows[at], -similarity[at]))]
        if patients is not None:
            seen = patients[at].astype(np.int64)
            seen = np.where(seen < 0, -1 - np.arange(len(seen)), seen)
            at = at[np.sort(np.unique(seen, return_index=True)[1])]
        if len(at) >= k or wanted >= len(similarity):
            return np.asarray(at[:k])
        wanted *= 4
