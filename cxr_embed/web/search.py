"""Search: a picture, words or a case, and the cases that are most like it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse

from cxr_embed.errors import CaseIndexError, CxrEmbedError
from cxr_embed.index import Rules
from cxr_embed.index.answers import shown_findings, whole_ages
from cxr_embed.index.case_table import LOOKS, PATIENT
from cxr_embed.index.queries import Examples
from cxr_embed.types import RESEARCH, CxrImage
from cxr_embed.web.columns import Columns
from cxr_embed.web.marking import marks_of_rows, place_of
from cxr_embed.web.question import MOST, STEP, Question
from cxr_embed.web.site import Site
from cxr_embed.web.state import Generation
from cxr_embed.web.uploads import NAME, Uploads


class UploadGone(CxrEmbedError):
    """A picture that was let go of."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a question comes to.

    Attributes:
        cases: column to value, of those columns that may be shown; with `similarity` where there was an example.
        rows: `(M,)` of them in the index.
        passing: cases that pass the filters.
        notes: what the reader should know.
        generation: of the index.
        columns: of it.
        total: cases of it.
    """

    cases: tuple[dict[str, Any], ...]
    rows: np.ndarray
    passing: int
    notes: tuple[str, ...]
    generation: str
    columns: Columns
    total: int


def find(site: Site, generation: Generation, question: Question) -> Found:
    """Answers a question.

    Raises:
        CxrEmbedError: for one that cannot be answered; `UploadGone` where it names a picture that is gone.
    """
    index, columns = generation.index, generation.columns
    condition, before = question.condition(columns), question.day(columns)
    if question.has_example:
        like = examples(site.uploads, question.case, question.words, question.upload)
        unlike = examples(site.uploads, question.not_case, question.not_words, question.not_upload)
        rules = Rules(question.exclude_same_patient, False, question.one_per_patient)
        with site.state.words if like.texts or unlike.texts else contextlib.nullcontext():
            answer = generation.search.answer(
                like, unlike, site.state.encoders, k=question.k, where=condition, before=before, rules=rules
            )
        cases, rows, passing, notes = answer.cases, answer.rows, answer.passing, answer.notes
    else:
        if question.not_case or question.not_words or question.not_upload:
            raise CaseIndexError("name a case, words or a picture to find the like of, beside what to stay away from")
        rows = _first(generation, question, condition, before)
        cases, passing = tuple(index.cases(rows)), index.count(condition, before)
        notes = index.diagnostics(condition)
    return Found(
        cases=tuple(whole_ages(columns.of_case(case)) for case in cases),
        rows=rows,
        passing=passing,
        notes=notes,
        generation=generation.name,
        columns=columns,
        total=len(index),
    )


def examples(uploads: Uploads, cases: list[str], words: list[str], tokens: list[str]) -> Examples:
    """What a question points at, of one sign.

    Raises:
        UploadGone: for a picture that is not kept any more.
    """
    images: dict[str, CxrImage] = {}
    for number, token in enumerate(tokens, start=1):
        upload = uploads.get(token)
        if upload is None:
            raise UploadGone("the picture that you dropped is gone: it is kept for half an hour only; drop it again")
        images[NAME if number == 1 else f"{NAME} {number}"] = upload.image
    return Examples(ids=cases, texts=words, images=images)


def _first(generation: Generation, question: Question, condition: str | None, before: Any) -> np.ndarray:
    """`(M,)` rows of the first cases that pass."""
    index = generation.index
    passing = index.passing(condition, before)
    rows = np.arange(len(index)) if passing is None else np.flatnonzero(passing)
    if question.one_per_patient:
        codes = np.asarray(index.table[PATIENT].combine_chunks().indices.fill_null(-1))[rows].astype(np.int64)
        codes = np.where(codes < 0, -1 - np.arange(len(codes)), codes)
        rows = rows[np.sort(np.unique(codes, return_index=True)[1])]
    return rows[: question.k]


def described(case: Mapping[str, Any]) -> dict[str, Any]:
    """A case as a card shows it."""
    age, date = case.get("age"), case.get("study_date")
    facts = (
        case.get("view"),
        case.get("sex"),
        f"{int(age)} y" if isinstance(age, int | float) else None,
        f"day {date}" if type(date) is int else date,
    )
    return {
        "image_id": case["image_id"],
        "similarity": case.get("similarity"),
        "facts": [str(fact) for fact in facts if fact not in (None, "")],
        "findings": shown_findings(case),
        "patient": case.get(PATIENT) or "",
        "looks": case.get(LOOKS) or "",
    }


def chips(question: Question) -> list[tuple[str, str]]:
    """Each filter that is on, in words, with the address without it."""
    on = [(f"{name}: {value}", question.without(name, value)) for name, values in _lists(question) for value in values]
    single = {
        "where": question.where.strip(),
        "from age": question.age_from,
        "to age": question.age_to,
        "from": question.date_from,
        "to": question.date_to,
        "before": question.before,
        "patient": question.patient,
    }
    fields = ("where", "age_from", "age_to", "date_from", "date_to", "before", "patient")
    on += [
        (f"{label} {value}", question.without(name))
        for (label, value), name in zip(single.items(), fields, strict=True)
        if value not in (None, "")
    ]
    for name in ("one_per_patient", "exclude_same_patient"):
        if getattr(question, name):
            on.append((name.replace("_", " "), question.without(name)))
    return on


def _lists(question: Question) -> list[tuple[str, list[str]]]:
    names = ("view", "sex", "split", "site", "source", "finding")
    return [(name, getattr(question, name)) for name in names]


def router(site: Site) -> APIRouter:
    """The page, and the JSON behind it."""
    made = APIRouter()

    @made.get("/", include_in_schema=False)
    def page(request: Request, question: Annotated[Question, Query()]) -> HTMLResponse:
        status, error, found = 200, "", None
        try:
            generation, found = site.state.answer(lambda now: (now, find(site, now, question)))
        except CxrEmbedError as fault:
            generation, error = site.state.current(), site.words(fault)
            status = 410 if isinstance(fault, UploadGone) else 400
        spec = generation.index.spec
        answer = site.page(
            "search.html",
            status,
            here="/",
            question=question,
            columns=generation.columns,
            total=len(generation.index),
            encoder=spec.name,
            stand_in=spec.stand_in,
            reads_words=spec.text is not None and spec.text.output == generation.index.output,
            found=found,
            cards=[described(case) for case in found.cases] if found else [],
            error=error,
            chips=chips(question),
            more=min(MOST, question.k + STEP) if found and _has_more(found, question) else 0,
            pictures=bool(site.pictures.paths),
            shown=marks_of_rows(site, generation, found.rows if found else ()),
            place_of=place_of,
            reader=site.marks.reader,
        )
        if "hx-request" in request.headers:
            answer.headers["hx-push-url"] = question.address()
        return answer

    @made.get("/api/search", summary="The cases that are most like an example, or that pass the filters.")
    def answer(question: Annotated[Question, Query()]) -> JSONResponse:
        found = site.state.answer(lambda now: find(site, now, question))
        return JSONResponse(
            {
                "question": question.given(),
                "generation": found.generation,
                "cases": list(found.cases),
                "passing": found.passing,
                "total": found.total,
                "notes": list(found.notes),
                "note": RESEARCH,
            }
        )

    return made


def _has_more(found: Found, question: Question) -> bool:
    return len(found.cases) == question.k < min(MOST, found.passing)
