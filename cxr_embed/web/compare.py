"""Compare: up to four pictures side by side, and the other studies of their patients on a time line."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from cxr_embed.errors import CaseIndexError, CxrEmbedError
from cxr_embed.index import CaseIndex
from cxr_embed.index.answers import shown_findings, whole_ages
from cxr_embed.index.case_table import BOX, DATE, IMAGE, PATIENT
from cxr_embed.regions import picture_of
from cxr_embed.types import RESEARCH, counted
from cxr_embed.web.files import MOST_PIXELS
from cxr_embed.web.question import Several
from cxr_embed.web.search import described
from cxr_embed.web.site import Site
from cxr_embed.web.state import Generation
from cxr_embed.web.uploads import NAME

MOST = 4  # pictures beside each other
_LETTERS = "ABCD"
_STUDIES = 60  # of a patient that are listed, the nearest to the pictures in time
_YEARS = 730  # days from which on the time between is said in years


class Comparison(BaseModel):
    """The pictures, as they stand in the address of the page."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: Several = Field([], description="A case of the index; up to four pictures in all.")
    upload: Several = Field([], description="The token of a picture that was sent to /api/upload; before the cases.")

    def places(self) -> list[tuple[str, str]]:
        """`id` or `upload` and its value, each once.

        Raises:
            CaseIndexError: for more than four.
        """
        wanted = [("upload", token) for token in self.upload] + [("id", name) for name in self.id]
        places = list(dict.fromkeys(wanted))
        if len(places) > MOST:
            raise CaseIndexError(f"{MOST} pictures at most are compared, and {len(places)} were chosen; leave some out")
        return places


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One of the pictures.

    Attributes:
        letter: by which the page calls it.
        kind: `id` or `upload`, and `value`: which.
        case: what may be shown of it.
        why: words in its place; blank where it can be asked for.
    """

    letter: str
    kind: str
    value: str
    case: dict[str, Any]
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """As the API gives it."""
        query = urlencode({"case" if self.kind == "id" else "upload": self.value})
        files = {} if self.why else {"picture": f"/api/picture?{query}", "pixels": f"/api/pixels?{query}"}
        return {"letter": self.letter, self.kind: self.value, "case": self.case, "why": self.why, **files}


def pictures(site: Site, generation: Generation, places: list[tuple[str, str]]) -> list[Picture]:
    """What is known of each."""
    made = []
    for letter, (kind, value) in zip(_LETTERS, places, strict=False):
        case, why = _upload(site, value) if kind == "upload" else _case(generation, value)
        made.append(Picture(letter=letter, kind=kind, value=value, case=case, why=why))
    return made


def _upload(site: Site, token: str) -> tuple[dict[str, Any], str]:
    upload = site.uploads.get(token)
    if upload is None:
        return {IMAGE: NAME}, "the picture is gone: it is kept for half an hour only"
    fields = upload.image.fields
    known = {"view": fields.view, DATE: fields.study_date, "age": fields.age, "sex": fields.sex}
    return {IMAGE: NAME, **{name: value for name, value in known.items() if value not in ("", None)}}, ""


def _case(generation: Generation, image_id: str) -> tuple[dict[str, Any], str]:
    try:
        rows = generation.index.rows_of([image_id])
    except CaseIndexError:
        return {IMAGE: image_id}, "not in the index"
    (case,) = generation.index.cases(rows)
    why = f"a region of {picture_of(image_id)}, not a picture of its own" if case.get(BOX) else ""
    return whole_ages(generation.columns.of_case(case)), why


def patients(generation: Generation, shown: list[Picture]) -> list[dict[str, Any]]:
    """The patients of the pictures, each with the studies that the index has of them, the earliest first.

    Returns:
        For each `patient_id`, `total` and `studies`: what may be shown of the case, `after`: days since the one
        before it, `place`: from 0, the first, to 1, the last, `shown`: the picture's letter, or blank.
    """
    letters = {each.value: each.letter for each in shown if each.kind == "id"}
    owners = dict.fromkeys(str(each.case[PATIENT]) for each in shown if each.kind == "id" and each.case.get(PATIENT))
    return [_patient(generation, owner, letters) for owner in owners]


def _patient(generation: Generation, owner: str, letters: dict[str, str]) -> dict[str, Any]:
    index = generation.index
    wanted = [name for name in (IMAGE, DATE, BOX) if name in index.columns]
    rows = index.rows_of_patient(owner).tolist()
    brief = [(_day(case), row, case[IMAGE]) for row, case in _paired(index, rows, wanted) if not case.get(BOX)]
    brief.sort(key=lambda each: (each[0] is None, each[0] or 0, each[1]))
    total = len(brief)
    if total > _STUDIES:
        first = next((place for place, each in enumerate(brief) if each[2] in letters), 0)
        start = max(0, min(first - _STUDIES // 2, total - _STUDIES))
        brief = brief[start : start + _STUDIES]
    days = [day for day, _, _ in brief if day is not None]
    span = days[-1] - days[0] if days else 0
    studies: list[dict[str, Any]] = []
    before: int | None = None
    for (day, _, name), case in zip(brief, index.cases([row for _, row, _ in brief]), strict=True):
        after = day - before if day is not None and before is not None else None
        place = (day - days[0]) / span if day is not None and span else None
        before = day
        shown = whole_ages(generation.columns.of_case(case))
        studies.append({"case": shown, "after": after, "place": place, "shown": letters.get(name, "")})
    return {PATIENT: owner, "total": total, "studies": studies}


def _paired(index: CaseIndex, rows: list[int], columns: list[str]) -> list[tuple[int, dict[str, Any]]]:
    return list(zip(rows, index.cases(rows, columns), strict=True))


def _day(case: dict[str, Any]) -> int | None:
    """The day of a study, from wherever the index counts."""
    date = case.get(DATE)
    if date is None or isinstance(date, int):
        return date
    return datetime.date.fromisoformat(str(date)).toordinal()


def address(places: list[tuple[str, str]]) -> str:
    """Of the page with these pictures."""
    return f"/compare?{urlencode(places)}" if places else "/compare"


def since(days: int | None) -> str:
    """How long after the study before it, in words; blank for the first."""
    if days is None:
        return ""
    return "same day" if not days else f"+{counted(days, 'day')}" if days < _YEARS else f"+{days / 365.25:.1f} years"


def _panes(shown: list[Picture]) -> list[dict[str, Any]]:
    """The pictures as the template shows them."""
    places = [(each.kind, each.value) for each in shown]
    return [
        {
            **each.to_json(),
            **(about := described(each.case)),
            "facts": about["facts"][::-1],  # the day first
            "like": f"/?{urlencode({'case' if each.kind == 'id' else 'upload': each.value})}",
            "without": address([place for place in places if place != (each.kind, each.value)]),
        }
        for each in shown
    ]


def _lines(shown: list[Picture], known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The time lines as the template shows them: each study has the address of the page that shows it too."""
    places = [(each.kind, each.value) for each in shown]
    lines = []
    for patient in known:
        mine = [number for number, each in enumerate(shown) if each.case.get(PATIENT) == patient[PATIENT]]
        studies = []
        for study in patient["studies"]:
            name = study["case"][IMAGE]
            opened = [*places, ("id", name)]
            if len(places) == MOST:  # in the place of the patient's last one
                opened = [("id", name) if number == mine[-1] else each for number, each in enumerate(places)]
            case = described({key: value for key, value in study["case"].items() if key not in ("age", "sex")})
            studies.append(
                {
                    **case,
                    **study,
                    "since": since(study["after"]),
                    "findings": shown_findings(study["case"]),
                    "address": address(opened),
                    "instead": shown[mine[-1]].letter if len(places) == MOST else "",
                }
            )
        lines.append({**patient, "studies": studies})
    return lines


def router(site: Site) -> APIRouter:
    """The page, and the JSON behind it."""
    made = APIRouter()

    def answer(comparison: Comparison) -> tuple[Generation, list[Picture], list[dict[str, Any]]]:
        places = comparison.places()

        def of(now: Generation) -> tuple[Generation, list[Picture], list[dict[str, Any]]]:
            shown = pictures(site, now, places)
            return now, shown, patients(now, shown)

        return site.state.answer(of)

    @made.get("/compare", include_in_schema=False)
    def page(comparison: Annotated[Comparison, Query()]) -> HTMLResponse:
        status, error = 200, ""
        shown: list[Picture] = []
        known: list[dict[str, Any]] = []
        try:
            _, shown, known = answer(comparison)
        except CxrEmbedError as fault:
            status, error = 400, site.words(fault)
        return site.page(
            "compare.html",
            status,
            here="/compare",
            panes=_panes(shown),
            lines=_lines(shown, known),
            error=error,
            most=MOST,
            megapixels=MOST_PIXELS // 1_000_000,
            pictures=bool(site.pictures.paths),
        )

    @made.get("/api/compare", summary="Up to four pictures, and the other studies of their patients.")
    def compared(comparison: Annotated[Comparison, Query()]) -> JSONResponse:
        """`pictures`: where each one's JPEG and its bits are, or `why` there are none; `patients`: their studies, the
        earliest first, with the days `after` the one before and the `place` between the first and the last.
        """
        generation, shown, known = answer(comparison)
        return JSONResponse(
            {
                "pictures": [each.to_json() for each in shown],
                "patients": known,
                "generation": generation.name,
                "note": RESEARCH,
            }
        )

    return made
