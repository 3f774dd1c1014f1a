"""Marks: what the server's reader has labelled, listed and noted; the forms that do it, and the labels as a file."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlencode

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxr_embed.api.marks import Believed, believed, label_table, marked_cases
from cxr_embed.errors import MarksError
from cxr_embed.index.answers import whole_ages
from cxr_embed.marks import LABELS, Act, CaseMarks, ReaderMarks, changes
from cxr_embed.types import RESEARCH
from cxr_embed.web.marking import place_of, shown, shown_marks
from cxr_embed.web.question import STEP
from cxr_embed.web.search import described
from cxr_embed.web.site import Site
from cxr_embed.web.state import Generation

_MOST_BYTES = 256 << 10  # of a form
_MOST_CASES = 5000  # that are marked at once
_EXAMPLES = 16  # cases of a list that are searched for at once
_TEXT = 4000
Text = Annotated[str, Field(max_length=_TEXT)]


class Marking(BaseModel):
    """What is to be done. `unlabel` and `unlist` take away; `undo` takes back `step`, or the last one.

    `shown` has the cases that a page shows: no others' parts are sent to it, however many a step changed.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    do: Literal["yes", "no", "unsure", "unlabel", "list", "unlist", "note", "undo", "redo"]
    case: list[Text] = Field([], max_length=_MOST_CASES)
    finding: Text = ""
    listed: Text = Field("", alias="list")
    note: Text = ""
    step: int | None = Field(None, ge=0, lt=1 << 63)  # as SQLite counts them
    shown: list[Text] | None = Field(None, max_length=_MOST_CASES)

    def act(self) -> Act:
        """Raises MarksError for what cannot be marked."""
        if self.do == "note":
            return Act.note(self.note)
        if self.do in ("list", "unlist"):
            return Act.listing(self.listed, self.do == "list")
        return Act.label(self.finding, self.do if self.do in LABELS else "")


class Choice(BaseModel):
    """Which of the marked cases are shown."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    listed: Text = Field("", alias="list")
    finding: Text = ""
    label: Literal["", "yes", "no", "unsure"] = ""
    k: int = Field(STEP, ge=1, le=100_000)

    def has(self, marks: CaseMarks) -> bool:
        """Whether a case is among them."""
        if self.listed and self.listed not in marks.lists:
            return False
        if not self.finding:
            return True
        return marks.labels.get(self.finding, "") == self.label if self.label else self.finding in marks.labels

    def address(self, **changed: Any) -> str:
        """Of the page that shows them."""
        values = {**self.model_dump(by_alias=True), **changed}
        given = {name: value for name, value in values.items() if value not in ("", STEP)}
        return f"/marks?{urlencode(given)}" if given else "/marks"


class _Every:
    """All that a reader has marked of an index, read anew only where one of both has changed."""

    def __init__(self, marks: ReaderMarks) -> None:
        self._marks = marks
        self._last: tuple[tuple[object, ...], Believed] | None = None

    def of(self, now: Generation) -> Believed:
        """Raises as `believed` does."""
        key = (now.name, *changes(self._marks.path))  # before what is read: a change in between is seen next time
        last = self._last
        if last is None or last[0] != key:
            self._last = last = (key, believed(now.index, self._marks))
        return last[1]


def router(site: Site) -> APIRouter:
    """The page, its forms, and the JSON behind it."""
    made, every = APIRouter(), _Every(site.marks)
    _add_pages(made, site, every)
    _add_forms(made, site)

    @made.get("/api/marks", summary="What the reader has marked, of cases that the index has.")
    def marked() -> JSONResponse:
        known = site.state.answer(every.of)
        undo, redo = site.marks.last()
        return JSONResponse(
            {
                "reader": site.marks.reader,
                "cases": [_as_json(image_id, marks) for image_id, marks in known.marks.items()],
                "left_out": known.left_out,
                "undo": undo.number if undo is not None else None,
                "redo": redo.number if redo is not None else None,
                "note": RESEARCH,
            }
        )

    @made.get("/api/marks/labels.csv", summary="The labels as a table that the command line reads.")
    def labels(
        listed: Annotated[str | None, Query(alias="list", max_length=_TEXT)] = None, notes: bool = False
    ) -> Response:
        """`image_id`, `patient_id` and a column a finding: 1, 0, -1 for unsure, blank for no label."""
        known = site.state.answer(every.of)
        table = label_table(known, site.marks.reader, listed or None, notes)
        headers = {"content-disposition": 'attachment; filename="labels.csv"'}
        return Response(table.as_csv(), media_type="text/csv; charset=utf-8", headers=headers)

    return made


def _add_pages(made: APIRouter, site: Site, every: _Every) -> None:
    @made.get("/marks", include_in_schema=False)
    def page(choice: Annotated[Choice, Query()]) -> HTMLResponse:
        now, known, cards = site.state.answer(lambda now: _chosen(every, now, choice))
        lists, findings = _counts(known)
        return site.page(
            "marks.html",
            here="/marks",
            reader=site.marks.reader,
            known=known,
            shown=shown(site, known.marks),
            choice=choice,
            cards=cards[: choice.k],
            total=len(cards),
            lists=lists,
            findings=findings,
            labels=list(LABELS),
            like=f"/?{urlencode([('case', card['image_id']) for card in cards[:_EXAMPLES]])}",
            columns=now.columns,
            pictures=bool(site.pictures.paths),
            place_of=place_of,
        )


def _add_forms(made: APIRouter, site: Site) -> None:
    @made.post("/marks", include_in_schema=False)
    async def form(request: Request) -> Response:
        marking = await _read(request)
        if isinstance(marking, Response):
            return marking
        if "x-part-of-a-page" not in request.headers:  # a browser without scripts
            await anyio.to_thread.run_sync(_do, site, marking)
            return RedirectResponse("/marks", 303)
        return await anyio.to_thread.run_sync(_parts, site, marking)

    @made.post("/api/marks", summary="Mark cases, or undo: a JSON object as the body.")
    async def mark(request: Request) -> JSONResponse:
        """`do`: yes, no, unsure, unlabel, list, unlist, note, undo or redo; `case`: a list of image ids; `finding`,
        `list` and `note`: names and text; `step`: which one to undo, the last by default. The answer has the step's
        number, null where nothing changed, and the cases with their marks.
        """
        marking = await _read(request)
        if isinstance(marking, JSONResponse):
            return marking
        now, step, ids = await anyio.to_thread.run_sync(_do, site, marking)
        made = await anyio.to_thread.run_sync(shown_marks, site, now, ids)
        cases = [_as_json(image_id, made.marks.get(image_id, CaseMarks())) for image_id in ids]
        return JSONResponse({"step": step, "cases": cases})


def _do(site: Site, marking: Marking) -> tuple[Generation, int | None, list[str]]:
    """Does it; gives the step and the cases that it changed, as far as the index has them."""
    if marking.do in ("undo", "redo"):
        turned = site.marks.undo(marking.step) if marking.do == "undo" else site.marks.redo()
        now = site.state.current()
        number = turned.number if turned is not None else None
        return now, number, list(now.index.known_rows(turned.cases if turned is not None else ()))
    if not marking.case:
        raise MarksError("name a case to mark")
    act = marking.act()
    ids = list(dict.fromkeys(marking.case))
    now, cases = site.state.answer(lambda now: (now, marked_cases(now.index, ids)))
    return now, site.marks.mark(cases, act), ids


def _parts(site: Site, marking: Marking) -> HTMLResponse:
    """What of a page has changed: each element takes the place of the one that has its id."""
    now, _, changed = _do(site, marking)
    seen = set(changed if marking.shown is None else marking.shown)
    ids = [each for each in changed if each in seen]
    marks = shown_marks(site, now, ids)
    return site.page(
        "marked.html", shown=marks, ids=ids, reader=site.marks.reader, columns=now.columns, place_of=place_of
    )


async def _read(request: Request) -> Marking | JSONResponse:
    """The body, a form or JSON; the answer to one that cannot be read."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > _MOST_BYTES:
            return JSONResponse({"error": "more than can be marked at once"}, 413, {"connection": "close"})
    try:
        if request.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
            return Marking.model_validate_json(bytes(data))
        fields = parse_qs(data.decode(), keep_blank_values=True, max_num_fields=_MOST_CASES + 8)
        return Marking.model_validate(
            {
                name: values if name in ("case", "shown") else values[-1]
                for name, values in fields.items()
                if values != [""]
            }
        )
    except ValidationError as fault:
        first = fault.errors()[0]
        return JSONResponse({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 422)
    except ValueError:
        return JSONResponse({"error": "neither a form nor JSON"}, 400)


def _chosen(every: _Every, now: Generation, choice: Choice) -> tuple[Generation, Believed, list[dict[str, Any]]]:
    """The cards of the marked cases that are wanted, in the order of the index."""
    known = every.of(now)
    ids = [image_id for image_id, marks in known.marks.items() if choice.has(marks)]
    first = ids[: choice.k]
    cases = now.index.cases(now.index.rows_of(first)) if first else []
    cards = [described(whole_ages(now.columns.of_case(case))) for case in cases]
    return now, known, cards + [{"image_id": image_id} for image_id in ids[choice.k :]]


def _counts(known: Believed) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Cases of each list, and of each label of each finding."""
    lists: dict[str, int] = {}
    findings: dict[str, dict[str, int]] = {}
    for marks in known.marks.values():
        for name in marks.lists:
            lists[name] = lists.get(name, 0) + 1
        for name, label in marks.labels.items():
            findings.setdefault(name, dict.fromkeys(LABELS, 0))[label] += 1
    return dict(sorted(lists.items())), dict(sorted(findings.items()))


def _as_json(image_id: str, marks: CaseMarks) -> dict[str, Any]:
    return {"image_id": image_id, "labels": dict(marks.labels), "lists": list(marks.lists), "note": marks.note}
