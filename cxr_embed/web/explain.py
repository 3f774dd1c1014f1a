"""Explain: a heat map over a picture, for a probe's finding, for words, or for what makes two cases alike."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import anyio
import anyio.to_thread
from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from cxr_embed.choices import ExplainMethod
from cxr_embed.errors import CxrEmbedError, MapError
from cxr_embed.explanation.known import known_worth
from cxr_embed.explanation.measured import NOT_MEASURED
from cxr_embed.explanation.overlay import colour_bar, shown_size
from cxr_embed.images import is_cropped
from cxr_embed.index.case_table import BOX
from cxr_embed.prompts import check_filled
from cxr_embed.regions import picture_of
from cxr_embed.types import RESEARCH, CxrImage
from cxr_embed.web import wire
from cxr_embed.web.explaining import Busy, MadeMap, Wanted, checks_of
from cxr_embed.web.pictures import NoPicture
from cxr_embed.web.question import Text
from cxr_embed.web.search import UploadGone
from cxr_embed.web.site import Site
from cxr_embed.web.state import Generation
from cxr_embed.web.uploads import NAME

LIKE_UPLOAD = "like-upload"
KINDS = ("probe", "prompt", "words", "like", LIKE_UPLOAD)
_EXPLAINED = {"probe": "probe", "words": "prompt", "like": "like"}  # as `explain` calls it
_THREADS = 8  # requests at a time; those who find no place in the line are answered at once


class MapQuestion(BaseModel):
    """A map, as it stands in its address."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    case: Text = Field("", description="A case of the index.")
    upload: Text = Field("", description="Or the token of a picture that was sent to /api/upload.")
    for_: Annotated[str, Field(max_length=600)] = Field(
        "",
        alias="for",
        description="probe:FINDING, prompt:FINDING (of the set), words:WORDS, like:CASE or like-upload:TOKEN.",
    )
    method: ExplainMethod = Field("auto", description="auto takes the first that can be had.")

    def address(self, path: str = "/explain", **more: str) -> str:
        """Of the page, or of what it is made of."""
        picture = {"upload": self.upload} if self.upload else {"case": self.case}
        return f"{path}?{urlencode({**picture, 'for': self.for_, 'method': self.method, **more})}"

    @property
    def what(self) -> tuple[str, str]:
        """Kind and name.

        Raises:
            MapError: for what is neither.
        """
        kind, _, name = self.for_.partition(":")
        if kind not in KINDS or not name.strip():
            raise MapError("say what is to be explained: a probe's finding, a prompt, words, or a case to be like")
        return kind, name.strip()


class Chosen(MapQuestion):
    """The form of the page, whose fields make the address."""

    kind: Literal["", "probe", "prompt", "words", "like"] = ""
    finding: Text = ""
    prompt: Text = ""
    words: Text = ""
    like: Text = ""

    def question(self) -> MapQuestion:
        """What the address of the page is to say."""
        named = {"probe": self.finding, "prompt": self.prompt, "words": self.words, "like": self.like}
        name = named.get(self.kind, "").strip()
        given = {"case": self.case, "upload": self.upload, "for": f"{self.kind}:{name}" if name else ""}
        return MapQuestion.model_validate({**given, "method": self.method})


@dataclass(frozen=True)
class Answer:
    """A map, and how well such maps hit."""

    made: MadeMap
    worth: tuple[str, ...]

    def said(self) -> dict[str, Any]:
        """What is said of the map, JSON values."""
        exact, words = checks_of(self.made.said)
        return {**self.made.said, "exact": exact, "check": words, "worth": list(self.worth), "note": RESEARCH}


def wanted(site: Site, now: Generation, question: MapQuestion) -> Wanted:
    """What the map is to be made of.

    Raises:
        MapError: for what cannot be explained, in words.
        UploadGone: for a picture that is not kept any more.
        CaseIndexError: for a case that is not in the index.
    """
    kind, name = question.what
    if is_cropped(now.index.spec):
        raise MapError("the index is of regions: maps are of whole pictures, so these cases have none")
    if kind == "probe":
        names = _of_probe(site, name)
    elif kind in ("prompt", "words"):
        names = _of_words(site, now, kind, name)
    else:
        names = (NAME if kind == LIKE_UPLOAD else name,)
        if now.index.pool == "tokens":
            raise MapError("this index compares token with token, and maps are of one vector a case")
    images = [_picture(site, now, question.case, question.upload)]
    if kind == "like":
        images.append(_picture(site, now, name, ""))
    elif kind == LIKE_UPLOAD:
        images.append(_picture(site, now, "", name))
    plain = "words" if kind in ("prompt", "words") else "probe" if kind == "probe" else "like"
    return Wanted(plain, names, question.method, tuple(images))


def _of_probe(site: Site, name: str) -> tuple[str, ...]:
    probe = site.state.probe
    if probe is None:
        raise MapError("no probe is open; start the server with a probe")
    if name not in probe.findings:
        raise MapError(f"the probe has no finding {name!r}; it has {', '.join(probe.findings)}")
    return (name,)


def _of_words(site: Site, now: Generation, kind: str, name: str) -> tuple[str, ...]:
    if now.index.spec.text is None:
        raise MapError(f"{now.index.spec.name} reads no words")
    if kind == "words":
        try:
            check_filled(name)
        except ValueError as error:
            raise MapError(str(error)) from None
        return (name,)
    prompts = site.state.prompts
    if prompts is None:
        raise MapError("no prompts are open; start the server with prompts")
    found = {each.name: each.positive for each in prompts.findings}
    if name not in found:
        raise MapError(f"the prompts have no finding {name!r}; they have {', '.join(found)}")
    return tuple(found[name])


def _picture(site: Site, now: Generation, case: str, upload: str) -> CxrImage:
    if upload:
        kept = site.uploads.get(upload)
        if kept is None:
            raise UploadGone("the picture that you dropped is gone: it is kept for half an hour only; drop it again")
        return kept.image
    if not case:
        raise MapError("name a case, or drop a picture on the search page and open it from there")
    (known,) = now.index.cases(now.index.rows_of([case]))
    if known.get(BOX):
        raise MapError(f"{case} is a region of {picture_of(case)}: maps are of whole pictures")
    try:
        return site.pictures.radiograph(now, case)
    except NoPicture as why:
        raise MapError(f"{case}: {why}, so there is nothing to lay a map over") from None


def answered(site: Site, question: MapQuestion) -> Answer:
    """The map.

    Raises:
        CxrEmbedError: as `wanted` and `Explanations.of` do.
    """
    now, plan = site.state.answer(lambda now: (now, wanted(site, now, question)))
    made = site.explanations.of(plan)
    about, explained, measured = made.said["about"], _EXPLAINED[plan.kind], site.explanations.measured
    name = str(made.said["name"])
    if measured is not None and measured.fits(about) and measured.about["explained"] in (None, explained):
        found = measured.findings.get(name, NOT_MEASURED)
        if found != NOT_MEASURED:
            return Answer(made, (found,))
    return Answer(made, known_worth(now.index.spec, about["method"], explained) or (NOT_MEASURED,))


def _status(fault: CxrEmbedError) -> int:
    return 410 if isinstance(fault, UploadGone) else 503 if isinstance(fault, Busy) else 400


def _panes(question: MapQuestion) -> list[dict[str, Any]]:
    """The pictures that the page shows: of two that are alike, both."""
    panes = [_pane("A", question)]
    kind, name = question.what
    if kind in ("like", LIKE_UPLOAD):
        other = {"upload": name} if kind == LIKE_UPLOAD else {"case": name}
        back = f"{LIKE_UPLOAD}:{question.upload}" if question.upload else f"like:{question.case}"
        panes.append(_pane("B", MapQuestion.model_validate({**other, "for": back, "method": question.method})))
    return panes


def _pane(letter: str, question: MapQuestion) -> dict[str, Any]:
    return {
        "letter": letter,
        "name": NAME if question.upload else question.case,
        "made": question.address("/explain/map"),
    }


def _shown(site: Site, question: MapQuestion) -> HTMLResponse:
    """One picture with its map, or why there is none, as a part of the page."""
    name = NAME if question.upload else question.case
    try:
        said = answered(site, question).said()
    except CxrEmbedError as fault:
        return site.page("explained.html", _status(fault), name=name, error=site.words(fault), said=None)
    width, height = shown_size(*said["shape"])
    picture = {"upload": question.upload} if question.upload else {"case": question.case}
    return site.page(
        "explained.html",
        name=name,
        error="",
        said=said,
        why=_why(site, question, said),
        size=(width, height),
        picture=f"/api/picture?{urlencode({**picture, 'size': 'large'})}",
        heat=question.address("/explain/layer", layer="heat"),
        outline=question.address("/explain/layer", layer="outline"),
        numbers=question.address("/api/explain"),
    )


def _why(site: Site, question: MapQuestion, said: dict[str, Any]) -> str:
    """Why this method."""
    method = said["about"]["method"]
    if question.method != "auto":
        return f"{method} was chosen"
    reasons = [site.words(MapError(each)) for each in said["refused"]]
    before = "; ".join(reason[:1].lower() + reason[1:] for reason in reasons)
    return f"auto: {method} is the first method that can be had here{f' ({before})' if before else ''}"


def _layer(site: Site, question: MapQuestion, layer: str) -> Response:
    try:
        made = answered(site, question).made
    except CxrEmbedError as fault:
        return Response(site.words(fault), _status(fault), media_type="text/plain")
    return Response(made.heat if layer == "heat" else made.outline, media_type="image/png")


def _packed(site: Site, question: MapQuestion) -> Response:
    found = answered(site, question)
    return Response(wire.packed(found.said(), [found.made.grid]), media_type="application/octet-stream")


@cache
def _legend() -> bytes:
    """The colours, from 0 to a map's highest value, as a PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(colour_bar(256, 12)).save(file, "PNG")
    return file.getvalue()


def router(site: Site) -> APIRouter:
    """The page, and the JSON behind it."""
    made = APIRouter()
    # Threads of their own: maps that are waited for hold up no search.
    threads = anyio.CapacityLimiter(_THREADS)

    async def apart(work: Callable[[], Response]) -> Response:
        return await anyio.to_thread.run_sync(work, limiter=threads)

    @made.get("/explain", include_in_schema=False)
    def page(chosen: Annotated[Chosen, Query()]) -> Response:
        if chosen.kind:
            return RedirectResponse(chosen.question().address(), 303)
        return _page(site, MapQuestion.model_validate(chosen.model_dump(include=set(MapQuestion.model_fields))))

    @made.get("/explain/map", include_in_schema=False)
    async def shown(question: Annotated[MapQuestion, Query()]) -> Response:
        return await apart(partial(_shown, site, question))

    @made.get("/explain/layer", include_in_schema=False)
    async def layer(question: Annotated[LayerQuestion, Query()]) -> Response:
        return await apart(partial(_layer, site, question, question.layer))

    @made.get("/explain/legend.png", include_in_schema=False)
    def legend() -> Response:
        return Response(_legend(), media_type="image/png")

    @made.get("/api/explain", summary="A heat map: a length, a JSON object, float32 numbers.", response_class=Response)
    async def numbers(question: Annotated[MapQuestion, Query()]) -> Response:
        """Four bytes, big endian: the length of a JSON object. The object: `grid`, rows and columns of the map; `area`,
        the part of the picture that they cover (left and upper edge, width, height, in pixels of `shape`, rows and
        columns); `value`, the value `without_region` and `without_elsewhere`; `about`, encoder, method and layer;
        `check`; `worth`, how well such maps hit. Then the map, row by row, little endian. 503 where it is busy.
        """
        return await apart(partial(_packed, site, question))

    return made


class LayerQuestion(MapQuestion):
    """One of the two pictures that are laid over the radiograph."""

    layer: Literal["heat", "outline"]


def _page(site: Site, question: MapQuestion) -> HTMLResponse:
    now, status, error = site.state.current(), 200, ""
    panes: list[dict[str, Any]] = []
    kind, name = ("probe", "") if site.state.probe is not None else ("words", "")
    picture = question.upload or question.case
    if question.for_:
        try:
            kind, name = question.what
            panes = _panes(question) if picture else []
        except MapError as fault:
            status, error = 400, site.words(fault)
    probe, prompts, spec = site.state.probe, site.state.prompts, now.index.spec
    return site.page(
        "explain.html",
        status,
        here="/explain",
        question=question,
        kind="like" if kind == LIKE_UPLOAD else kind,
        name=name,
        panes=panes,
        error=error,
        encoder=spec.name,
        findings=[each for each in probe.findings if each not in probe.undefined] if probe is not None else [],
        prompts=[each.name for each in prompts.findings] if prompts is not None else [],
        reads_words=spec.text is not None,
        methods=("auto", "cam", "patch", "gradcam", "occlusion"),
        pictures=bool(site.pictures.paths),
    )
