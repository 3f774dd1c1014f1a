"""Screen: a finding's cases by their scores, a threshold that moves, and what it would flag and miss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from cxr_embed.errors import CxrEmbedError
from cxr_embed.evaluation.measure import flatten, reasons
from cxr_embed.index.answers import whole_ages
from cxr_embed.present.tables import csv_text
from cxr_embed.types import RESEARCH
from cxr_embed.web.marking import place_of, shown_marks
from cxr_embed.web.question import STEP, Text
from cxr_embed.web.screened import Only, Screened, Screens, score_of
from cxr_embed.web.search import described
from cxr_embed.web.site import Site
from cxr_embed.web.state import Generation

RULES = ("sensitivity=0.95", "specificity=0.95", "youden", "flag-rate=0.1")  # that the page offers
_LISTED = (
    "finding",
    "by",
    "threshold",
    "image_id",
    "patient_id",
    "score",
    "flagged",
    "label",
    "verdict",
    "learned_from",
)
_FACTS = ("study_date", "view", "age", "sex", "split", "site", "source")


class Screening(BaseModel):
    """What the page is asked, as it stands in its address."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    finding: Text = Field("", description="A finding that there are scores of; the first by default.")
    by: Literal["", "probe", "prompts"] = Field("", description="Whose scores.")
    threshold: Text = Field(
        "", description="A number, `kept`, or a rule: `youden`, `sensitivity=0.95`, `flag-rate=0.1`."
    )
    prevalence: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | None, BeforeValidator(lambda given: None if given == "" else given)
    ] = Field(None, description="Part of cases with the finding where the threshold is to be used, such as 0.02.")
    where: Annotated[str, Field(max_length=2000)] = Field("", description="A condition: `view = PA and age > 60`.")
    order: Literal["", "wrong", "score"] = Field("", description="Wrong cases first, where labels say which; or score.")
    only: Only = Field("", description="Of these cases only.")
    page: int = Field(1, ge=1, le=1_000_000, description="Of the list.")

    def address(self, path: str = "/screen", **changed: Any) -> str:
        """The address of this question, or of one that differs in some fields."""
        default = {name: each.default for name, each in type(self).model_fields.items()}
        values = {**self.model_dump(), **changed}
        given = {name: value for name, value in values.items() if value != default[name]}
        return f"{path}?{urlencode(given)}" if given else path


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a question comes to.

    Attributes:
        now: the generation of the index.
        made: the finding's cases.
        threshold: as a number.
        rule: how it came about; blank where it is stated.
        places: `(K,)` of the listed cases in `made`.
        verdicts: `(K,)` theirs.
        question: with what was left out filled in.
        notes: what the reader should know.
    """

    now: Generation
    made: Screened
    threshold: float
    rule: str
    places: np.ndarray
    verdicts: np.ndarray
    question: Screening
    notes: tuple[str, ...]

    def cases(self, whole: bool = False) -> list[dict[str, Any]]:
        """The cases of the page, or all that are listed: what may be shown of each, its score and its verdict."""
        start = 0 if whole else (self.question.page - 1) * STEP
        here = slice(start, None if whole else start + STEP)
        places, made = self.places[here], self.made
        known = self.now.index.cases(made.rows[places]) if len(places) else []
        columns = zip(
            known,
            made.scores[places].tolist(),
            made.labels[places].tolist(),
            made.learned[places].tolist(),
            self.verdicts[here].tolist(),
            strict=True,
        )
        return [
            {
                **whole_ages(self.now.columns.of_case(case)),
                "score": score,
                "label": None if label != label else int(label),
                "learned_from": learned,
                "verdict": verdict,
                "flagged": score >= self.threshold,
            }
            for case, score, label, learned, verdict in columns
        ]


def router(site: Site) -> APIRouter:
    """The page, and the JSON behind it."""
    made, screens = APIRouter(), Screens(site)
    _add_page(made, site, screens)
    _add_figures(made, site, screens)

    @made.get("/api/screen", summary="A finding's cases by their scores, and what a threshold does to them.")
    def screen(question: Annotated[Screening, Query()]) -> JSONResponse:
        """`point` is without intervals, `figures` with those that hold 95%, by patient. A case's `verdict` is missed,
        false alarm, found or passed; flagged or not flagged where it does not count.
        """

        def of(now: Generation) -> dict[str, Any]:
            answer = find(site, screens, now, question)
            return {
                "question": answer.question.model_dump(),
                "rule": answer.rule,
                "point": answer.made.point(answer.threshold, question.prevalence),
                "figures": _as_json(answer.made.intervals(answer.threshold, question.prevalence)),
                "listed": len(answer.places),
                "cases": answer.cases(),
                "notes": list(answer.notes),
                "generation": now.name,
                "note": RESEARCH,
            }

        return JSONResponse(site.state.answer(of))

    @made.get("/api/screen/cases.csv", summary="The whole list as a table.", response_class=Response)
    def listed(question: Annotated[Screening, Query()]) -> Response:
        """In the order of the page. `label` is 1, 0 or blank."""

        def of(now: Generation) -> str:
            answer = find(site, screens, now, question)
            whose = {"finding": answer.question.finding, "by": answer.question.by, "threshold": answer.threshold}
            rows = (
                {**case, **whose, "flagged": int(case["flagged"]), "learned_from": int(case["learned_from"])}
                for case in answer.cases(whole=True)
            )
            return csv_text([*_LISTED, *(name for name in _FACTS if name in now.columns.names)], rows)

        headers = {"content-disposition": 'attachment; filename="cases.csv"'}
        return Response(site.state.answer(of), media_type="text/csv; charset=utf-8", headers=headers)

    return made


def find(site: Site, screens: Screens, now: Generation, question: Screening) -> Answer:
    """Answers a question.

    Raises:
        CxrEmbedError: for one that cannot be answered.
    """
    made = _of(site, screens, now, question)
    threshold, rule = made.resolve(question.threshold)
    wrong_first = question.order != "score" and bool(len(made.positive))
    places, verdicts = made.ordered(threshold, wrong_first, question.only)
    spec, where = now.index.spec, question.where.strip() or None
    notes = [*now.index.diagnostics(where), *made.notes(question.prevalence)]
    notes += [f"a threshold by {rule}: check it on others"] if "these very cases" in rule else []
    notes += [spec.stand_in] if spec.stand_in else []
    filled = {"finding": made.score.finding, "by": made.score.by, "order": "wrong" if wrong_first else "score"}
    return Answer(
        now=now,
        made=made,
        threshold=threshold,
        rule=rule,
        places=places,
        verdicts=verdicts,
        question=question.model_copy(update=filled),
        notes=tuple(notes),
    )


def _of(site: Site, screens: Screens, now: Generation, question: Screening) -> Screened:
    where = question.where.strip()
    if where:
        now.columns.check(where)
    return screens.of(now, score_of(site.scores.offered(), question.by, question.finding), where or None)


def _add_figures(made: APIRouter, site: Site, screens: Screens) -> None:
    @made.get("/api/screen/curve", summary="The thresholds of a slider, and the ROC curve.")
    def curve(question: Annotated[Screening, Query()]) -> JSONResponse:
        """`thresholds`, falling, and how many cases each flags; `roc`: pairs of false and true positive rate."""
        found = site.state.answer(lambda now: _of(site, screens, now, question))
        thresholds, flagged = found.steps
        values = {"thresholds": thresholds.tolist(), "flagged": flagged.tolist(), "roc": found.roc}
        return JSONResponse({**values, "labelled": len(found.positive), "positives": int(found.positive.sum())})

    @made.get("/api/screen/point", summary="What a threshold does, without intervals: for a slider that moves.")
    def point(question: Annotated[Screening, Query()]) -> JSONResponse:
        """`flags_per_1000` and `missed_per_1000` are at the stated prevalence, else at the labels' own."""

        def of(now: Generation) -> dict[str, Any]:
            found = _of(site, screens, now, question)
            return found.point(found.resolve(question.threshold)[0], question.prevalence)

        return JSONResponse(site.state.answer(of))

    @made.get("/api/screen/intervals", summary="Figures at a threshold, with intervals by patient.")
    def intervals(question: Annotated[Screening, Query()]) -> JSONResponse:
        """Each with `_low` and `_high`, which hold 95%; `reasons` says why a number is missing."""

        def of(now: Generation) -> dict[str, Any]:
            found = _of(site, screens, now, question)
            return _as_json(found.intervals(found.resolve(question.threshold)[0], question.prevalence))

        return JSONResponse(site.state.answer(of))

    @made.get("/api/screen/auroc", summary="The AUROC with its interval: seconds of many cases, then kept.")
    def auroc(question: Annotated[Screening, Query()]) -> JSONResponse:
        found = site.state.answer(lambda now: _of(site, screens, now, question))
        return JSONResponse(_as_json({"auroc": found.auroc()}))


def _add_page(made: APIRouter, site: Site, screens: Screens) -> None:
    @made.get("/screen", include_in_schema=False)
    def page(request: Request, question: Annotated[Screening, Query()]) -> HTMLResponse:
        offered = site.scores.offered()
        if not offered:
            return site.page("screen.html", here="/screen", offered=offered)
        status, error, answer = 200, "", None
        try:
            now, answer = site.state.answer(lambda now: (now, find(site, screens, now, question)))
        except CxrEmbedError as fault:
            now, status, error = site.state.current(), 400, site.words(fault)
        question = answer.question if answer is not None else question
        cards = [_card(case) for case in answer.cases()] if answer is not None else []
        shown = shown_marks(site, now, [card["image_id"] for card in cards])
        label = answer.made.column or question.finding if answer is not None else question.finding
        template = "screened.html" if "x-part-of-a-page" in request.headers else "screen.html"
        return site.page(
            template,
            status,
            here="/screen",
            offered=offered,
            question=question,
            answer=answer,
            point=answer.made.point(answer.threshold, question.prevalence) if answer is not None else None,
            rules=[*(["kept"] if answer is not None and answer.made.kept is not None else []), *RULES],
            cards=cards,
            error=error,
            last=-(-len(answer.places) // STEP) if answer is not None else 0,
            shown=replace(shown, finding=label),
            place_of=place_of,
            reader=site.marks.reader,
            columns=now.columns,
            pictures=bool(site.pictures.paths),
            total=len(now.index),
            encoder=now.index.spec.name,
        )


def _card(case: Mapping[str, Any]) -> dict[str, Any]:
    """A case as a card shows it: its findings are its labels, beside the score and the verdict."""
    ours = ("score", "label", "learned_from", "verdict", "flagged")
    plain = {name: value for name, value in case.items() if name not in ours}
    return {**described(plain), **{name: case[name] for name in ours}}


def _as_json(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {**flatten(figures), "reasons": reasons(figures)}
