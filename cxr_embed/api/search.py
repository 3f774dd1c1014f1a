"""Similar prior cases: build an index, and search it by image, by case or by words."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cxr_embed.api.alike import likeness_of
from cxr_embed.api.inputs import Progress, StrPath, Table, labels_of, progress_or_bar, store_of
from cxr_embed.api.places import places_of
from cxr_embed.api.tabular import Tabular
from cxr_embed.arguments import checked_arguments
from cxr_embed.errors import CaseIndexError
from cxr_embed.index import CaseIndex, Query, Rules
from cxr_embed.index.answers import check_target, whole_ages, write_neighbors
from cxr_embed.index.faiss.build import build_index as build
from cxr_embed.index.faiss.kinds import MEMORY
from cxr_embed.index.faiss.layout import IndexRecord
from cxr_embed.index.milvus.search import MilvusIndex
from cxr_embed.index.queries import Examples, QueryBuilder, QueryEncoders
from cxr_embed.index.query import NO_RULES
from cxr_embed.manifest import Manifest
from cxr_embed.regions import Box
from cxr_embed.store import Store
from cxr_embed.types import RESEARCH, EncoderSpec, counted, is_lateral

if TYPE_CHECKING:
    from cxr_embed.reporting.montage import Likeness  # drawn with matplotlib, and slow to import
    from cxr_embed.reporting.panels import Places

Many = Sequence[str | os.PathLike[str]] | str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True, repr=False)
class SimilarCases(Tabular):
    """The cases that are nearest to a query, nearest first.

    Attributes:
        query: what was searched for.
        cases: of each case `image_id`, `similarity`, and what is known of it.
        rows: `(M,)` their rows in the index.
        passing: cases that pass the filters, before rules on patients.
        columns: of the index's case table.
        notes: what the user should know, in sentences.
        like, unlike: what the query was made of.
        conditions: what the cases had to meet, in words; blank for nothing.
        index: that was searched.
    """

    query: Query
    cases: tuple[dict[str, Any], ...]
    rows: np.ndarray
    passing: int
    columns: tuple[str, ...]
    notes: tuple[str, ...] = ()
    like: Examples = field(default_factory=Examples)
    unlike: Examples = field(default_factory=Examples)
    conditions: str = ""
    index: CaseIndex | MilvusIndex

    @property
    def ids(self) -> list[str]:
        """Image ids, nearest first."""
        return [str(case["image_id"]) for case in self.cases]

    def __len__(self) -> int:
        return len(self.cases)

    def __repr__(self) -> str:
        lines = [f"{case['image_id']}  {case['similarity']:.4f}" for case in self.cases]
        return self._as_text([f"nearest to {self.query.name}", *lines])

    def to_arrow(self) -> pa.Table:
        """A row a case; a column that no case has a value in is left out."""
        cases = [whole_ages(case) for case in self.cases]
        names = ["image_id", "similarity", *(name for name in self.columns if name != "image_id")]
        known = [name for name in names if any(case.get(name) is not None for case in cases)] or names[:2]
        return pa.table({name: pa.array([case.get(name) for case in cases]) for name in known})

    @checked_arguments
    def save(self, out: StrPath) -> None:
        """Writes the cases as CSV or Parquet, by its suffix.

        Raises:
            CaseIndexError: where it cannot be written.
        """
        check_target(Path(out))
        write_neighbors(Path(out), list(self.cases), self.columns)

    @checked_arguments
    def plot(
        self,
        manifest: Manifest | StrPath,
        *,
        root: StrPath | None = None,
        path: StrPath | None = None,
        explain: bool = False,
        weights: StrPath | None = None,
        device: str = "auto",
        progress: Progress | None = None,
    ) -> Any:
        """The query and its cases as pictures, with what is known of each.

        Args:
            manifest: which says where each case's radiograph is; the path of one is not read further than that.
            root: folder of the images, if not the manifest's own.
            path: to write it to as well: .png or .pdf.
            explain: whether maps show, on both pictures, what made the query and each case alike: `cam` where it can
                be had, else occlusion. With several examples or words the maps are of the cases alone.
            weights, device: for `explain`: of the encoder, as `load_encoder` takes them.
            progress: for `explain`: called with a word, the images done and how many there are.

        Returns:
            A `matplotlib.figure.Figure`, which a notebook shows.

        Raises:
            CaseIndexError: where it cannot be written, or `explain` of an index of tokens.
            ManifestError: for a table without paths.
            EncoderError, MapError: for `explain`, where the encoder cannot be loaded, or is another one.
        """
        from cxr_embed.reporting.montage import check_montage

        likeness, places = None, places_of(manifest, root)
        if path is not None:
            check_montage(Path(path))
        if explain:
            shown = progress_or_bar(progress)
            likeness = likeness_of(self, places, weights=weights, device=device, announce=None, progress=shown)
        return self.draw(places, Path(path) if path is not None else None, likeness)

    def draw(self, places: Places, path: Path | None = None, likeness: Likeness | None = None) -> Any:
        """`plot`, where it is known already where radiographs are, and what made the cases alike."""
        from cxr_embed.reporting.montage import draw_search

        examples = [*self.like.ids, *self.unlike.ids]
        known = self.index.cases(self.index.rows_of(examples), self.index.columns)
        digests = self.index.cases(self.rows, ["content"])
        stand_in = self.index.spec.stand_in
        return draw_search(
            path,
            places,
            self.like,
            self.unlike,
            {case["image_id"]: case for case in known},
            [{**case, **digest} for case, digest in zip(self.cases, digests, strict=True)],
            self.conditions,
            [*self.notes, *([stand_in] if stand_in else []), RESEARCH],
            likeness,
        )

    def _remarks(self) -> Sequence[str]:
        return self.notes


@dataclass(frozen=True, repr=False)
class SearchIndex:
    """An open index of cases.

    Attributes:
        index: the cases and their vectors.
        notes: what was to be said when it was built; empty for one that was opened.
    """

    index: CaseIndex | MilvusIndex
    notes: tuple[str, ...] = ()

    @property
    def spec(self) -> EncoderSpec:
        """The encoder that made the vectors."""
        return self.index.spec

    @property
    def record(self) -> IndexRecord:
        """What the folder's `index.json` says: how cases are found, and how well.

        Raises:
            CaseIndexError: for a collection in Milvus, which has none.
        """
        if not isinstance(self.index, CaseIndex):
            raise CaseIndexError("a collection in Milvus has no record of its structure")
        return self.index.record

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return repr(self.index)

    @checked_arguments
    def search(
        self,
        *,
        image: Many = (),
        box: str | Sequence[float] | None = None,
        image_id: Many = (),
        text: Many = (),
        not_image: Many = (),
        not_image_id: Many = (),
        not_text: Many = (),
        k: int = 10,
        where: str | None = None,
        before: str | int | datetime.date | None = None,
        patient: str | None = None,
        exclude_same_patient: bool = False,
        only_same_patient: bool = False,
        one_per_patient: bool = False,
        weights: StrPath | None = None,
        device: str = "auto",
    ) -> SimilarCases:
        """The k nearest cases to one or several examples, among those that pass the filters.

        Filters are exact: the nearest cases that pass are found whenever there are so many.

        Args:
            image, image_id, text: radiographs, cases of the index, words to find the like of: one, or a list.
            box: the part of the one image that is meant: `x,y,width,height` in its pixels, or these numbers. For an
                index of regions, which `embed` makes of `crop_manifest`'s table.
            not_image, not_image_id, not_text: what to stay away from.
            k: neighbours wanted.
            where: a condition on the columns, e.g. `view = PA and age > 60`.
            before: only cases of an earlier study_date: a date, or a number where the data set counts days.
            patient: whose the radiograph is, where the index cannot know.
            exclude_same_patient, only_same_patient, one_per_patient: rules on the cases' patients.
            weights, device: of the encoder, for images and words.

        Raises:
            CaseIndexError: for examples, conditions or rules that cannot be searched with.
            ImageError: for a file that is not a radiograph.
            EncoderError: where the encoder is needed and cannot be loaded.
        """
        rules = Rules(exclude_same_patient, only_same_patient, one_per_patient)
        found = self.answer(
            Examples(tuple(map(Path, _many(image))), _texts(image_id), _texts(text), _box(box)),
            Examples(tuple(map(Path, _many(not_image))), _texts(not_image_id), _texts(not_text)),
            QueryEncoders(weights, device),
            k=k,
            where=where,
            before=before.date() if isinstance(before, datetime.datetime) else before,
            patient=patient,
            rules=rules,
        )
        return replace(found, notes=(*_shortage(found, k, rules), *found.notes))

    def answer(
        self,
        like: Examples,
        unlike: Examples,
        encoders: QueryEncoders,
        *,
        k: int,
        where: str | None = None,
        before: str | int | datetime.date | None = None,
        patient: str | None = None,
        rules: Rules = NO_RULES,
    ) -> SimilarCases:
        """`search`, for whoever keeps encoders loaded and has radiographs decoded; raises as it does.

        That there are fewer than k cases is not noted: whoever asks for a page of them named no number.
        """
        opened = self.index
        # Faults of the search come before a model is loaded for it.
        opened.check_wanted(k)
        passing = opened.count(where, before)
        query = QueryBuilder(opened, encoders).query(like, unlike, patient, rules)
        wanted = max(1, min(k, passing))  # every place costs memory, and more there cannot be
        rows, similarity = opened.search_rows([query], wanted, where=where, before=before, rules=rules)
        found = int((rows[0] >= 0).sum())
        cases = tuple(
            {"image_id": case.pop("image_id"), "similarity": round(float(value), 6), **case}
            for case, value in zip(opened.cases(rows[0, :found]), similarity[0, :found], strict=True)
        )
        notes = [*query.notes, *_unknown_patients(opened, query, rules)]
        notes += [*(opened.diagnostics(where) if isinstance(opened, CaseIndex) else ()), *lateral_notes(cases)]
        return SimilarCases(
            query=query,
            cases=cases,
            rows=rows[0, :found],
            passing=passing,
            columns=tuple(opened.columns),
            notes=tuple(notes),
            like=like,
            unlike=unlike,
            conditions=_conditions(where, before, rules),
            index=opened,
        )


def _conditions(where: str | None, before: str | int | datetime.date | None, rules: Rules) -> str:
    words = [where] if where else []
    words += [f"taken before {before}"] if before is not None else []
    words += [name.replace("_", " ") for name, on in vars(rules).items() if on]
    return "cases that meet: " + ", ".join(words) if words else ""


@checked_arguments
def build_index(
    store: Store | StrPath,
    manifest: Manifest | StrPath | Table | None = None,
    *,
    path: StrPath,
    output: str | None = None,
    pool: str | None = None,
    kind: str = "auto",
    memory: int = MEMORY,
    extra: Sequence[str] = (),
    key_file: StrPath | None = None,
    progress: Progress | None = None,
) -> SearchIndex:
    """Builds an index of a store's vectors in a folder, or replaces the one that is there, and opens it.

    Args:
        store: an open store, or its folder.
        manifest: the cases, and what is known of them; all images of the store, by patient alone, without one.
        path: the index's folder.
        output: one of the encoder's outputs; the one that words are compared with by default, else its first.
        pool: of `(T, D)` vectors: `mean` makes one of them, `tokens` compares each by max-sim; `tokens` by default
            where the encoder compares words so.
        kind: `auto` (by size and `memory`), `flat`, `hnsw`, `ivf-fp16`, `ivf-sq8`, `ivf-pq`; of tokens `flat` or
            `tokens-pq`.
        memory: bytes that the search structure may take.
        extra: columns of the manifest that are not findings.
        key_file: the key of the patient ids, where patients were forgotten; the user's own by default.
        progress: called with a word for the step, what is done and how much there is; a bar in notebooks by default.

    Raises:
        CaseIndexError, StoreError, ManifestError: for what cannot be indexed, or a folder that cannot be written.
    """
    table = labels_of(manifest, extra) if manifest is not None else None
    written = build(
        store_of(store),
        path,
        manifest=table,
        output=output,
        pool=pool,
        kind=kind,
        memory=memory,
        key_file=Path(key_file) if key_file is not None else None,
        progress=progress_or_bar(progress),
    )
    return SearchIndex(CaseIndex(path), written.notes)


@checked_arguments
def open_index(path: StrPath, *, uri: str | None = None) -> SearchIndex:
    """Opens an index.

    Args:
        path: the index's folder; with Milvus, the collection.
        uri: of Milvus: `http://HOST:PORT`, or a file of the embedded one (`.db`).

    Raises:
        CaseIndexError: where there is no index, or it is damaged.
    """
    return SearchIndex(CaseIndex(path) if uri is None else MilvusIndex(uri, str(path)))


def _many(given: Many) -> tuple[str | os.PathLike[str], ...]:
    if isinstance(given, np.ndarray):
        raise CaseIndexError("`image` is a file or a list of files; `embed_images` and `CaseIndex.search` take arrays")
    return (given,) if isinstance(given, str | os.PathLike) else tuple(given)


def _box(given: str | Sequence[float] | None) -> Box | None:
    if given is None:
        return None
    try:
        return Box.parse(given if isinstance(given, str) else ",".join(str(float(number)) for number in given))
    except ValueError as error:
        raise CaseIndexError(f"`box`: {error}") from None


def _texts(given: Many) -> tuple[str, ...]:
    return tuple(map(str, _many(given)))


def _shortage(answer: SimilarCases, k: int, rules: Rules) -> list[str]:
    """Why there are fewer than k."""
    if len(answer) >= k:
        return []
    fewer = ", and fewer meet the rule on patients" if any(vars(rules).values()) else ""
    total = len(answer.index)
    return [
        f"{counted(len(answer), 'case')} of the {k} wanted; {answer.passing:,} of {total:,} pass the filters{fewer}"
    ]


def _unknown_patients(opened: CaseIndex | MilvusIndex, query: Query, rules: Rules) -> list[str]:
    """A word on a patient without a case here: often a slip, and then `exclude_same_patient` excludes nobody."""
    if not (rules.exclude_same_patient or rules.only_same_patient):
        return []
    return [f"no case is of the patient {name}" for name in query.patients if not opened.count_of_patient(name)]


def lateral_notes(cases: Sequence[dict[str, Any]]) -> list[str]:
    """A note that counts the lateral views among cases."""
    lateral = [case["image_id"] for case in cases if is_lateral(str(case.get("view") or ""))]
    return [f"{counted(len(lateral), 'lateral view')} among these cases ({', '.join(lateral[:3])})"] if lateral else []
