"""Map: the collection in a plane. The browser gets positions and colours by row, and asks for few cases by name."""

from __future__ import annotations

import csv
import io
import threading
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxr_embed.api.marks import marked_cases
from cxr_embed.errors import CaseIndexError
from cxr_embed.index.answers import whole_ages
from cxr_embed.index.case_table import IMAGE, PATIENT
from cxr_embed.index.faiss.map_file import MAP_WARNING, KeptMap, map_path, read_map
from cxr_embed.index.faiss.projection import principal_components
from cxr_embed.marks import Act
from cxr_embed.present.tables import plain_cell
from cxr_embed.types import RESEARCH, counted
from cxr_embed.web import wire
from cxr_embed.web.lru import Recent
from cxr_embed.web.map_colours import Colouring, coloured, colourings
from cxr_embed.web.marking import place_of, shown_marks
from cxr_embed.web.search import described
from cxr_embed.web.site import Site
from cxr_embed.web.state import Generation

_KEPT = 64 << 20  # bytes of positions that are kept
_MOST_CASES = 100  # that are described at once
_MOST_CARDS = 24
_MOST_LISTED = 20_000  # cases that are put on a list in one act
_MOST_BYTES = 16 << 20  # of a body: a million row numbers
_PATHS = {"pca": "principal components", "umap": "UMAP"}
Method = Literal["pca", "umap"]
Name = Annotated[str, Query(max_length=40, description="The generation of the index that the page shows.")]
Rows = Annotated[list[int], Query(max_length=_MOST_CASES, description="Row numbers of points.")]


class Chosen(BaseModel):
    """Points that were chosen on the map."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generation: str = Field(max_length=40)
    rows: list[int]
    listed: str = Field("", alias="list", max_length=4000)


@dataclass
class Maps:
    """The positions that were made last.

    Attributes:
        site: whose index they are of.
    """

    site: Site
    _kept: Recent[np.ndarray] = field(default_factory=lambda: Recent(_KEPT, lambda made: made.nbytes))
    _making: threading.Lock = field(default_factory=threading.Lock)

    def learned(self, generation: Generation) -> KeptMap | None:
        """The map by UMAP; None where there is none of these vectors."""
        made = read_map(map_path(self.site.state.path))
        return made if made is not None and made.key == generation.index.record.vectors_digest else None

    def positions(self, generation: Generation, method: Method) -> np.ndarray:
        """`(N, 2)` float32.

        Raises:
            CaseIndexError: where there is no such map, or the index is damaged.
        """
        if method == "umap":
            learned = self.learned(generation)
            if learned is None:
                raise CaseIndexError("there is no map by UMAP of this index: `cxr-embed index map` makes one")
            return learned.positions
        with self._making:  # once, whoever asks
            made = self._kept.get(generation.name)
            if made is None:
                made = principal_components(generation.index.vectors)
                self._kept.put(generation.name, made)
        return made


def router(site: Site) -> APIRouter:
    """The page, and the JSON and binary answers behind it."""
    made, maps = APIRouter(), Maps(site)
    _add_page(made, site, maps)
    _add_points(made, site, maps)
    _add_cases(made, site)
    _add_chosen(made, site)
    return made


def _about(site: Site, maps: Maps, now: Generation) -> dict[str, Any]:
    """What there is to draw."""
    methods: list[dict[str, Any]] = [{"method": "pca", "name": _PATHS["pca"]}]
    why = ""
    try:
        learned = maps.learned(now)
    except CaseIndexError as fault:
        learned, why = None, site.words(fault)
    if learned is not None:
        about = {"seed": learned.seed, "fitted": learned.fitted, "neighbours": learned.neighbours}
        made_by = {"created": learned.created, "made_by": learned.made_by}
        methods.append({"method": "umap", "name": _PATHS["umap"], **about, **made_by})
    return {
        "generation": now.name,
        "cases": len(now.index),
        "methods": methods,
        "colours": [{**vars(each), "label": each.label} for each in colourings(site, now)],
        "fault": why,
        "warning": MAP_WARNING,
        "note": RESEARCH,
    }


def _add_page(made: APIRouter, site: Site, maps: Maps) -> None:
    @made.get("/map", include_in_schema=False)
    def page() -> HTMLResponse:
        now = site.state.current()
        spec = now.index.spec
        return site.page(
            "map.html",
            here="/map",
            about=_about(site, maps, now),
            groups=_grouped(colourings(site, now)),
            columns=now.columns,
            encoder=spec.name,
            stand_in=spec.stand_in,
            shown=shown_marks(site, now, []),
            reader=site.marks.reader,
            pictures=bool(site.pictures.paths),
            most=_MOST_LISTED,
        )

    @made.get("/map/cards", include_in_schema=False)
    def cards(generation: Name, row: Annotated[list[int], Query(max_length=_MOST_CARDS)] = []) -> HTMLResponse:  # noqa: B006
        rows = list(dict.fromkeys(row))
        now, cases = site.state.answer(lambda now: (now, _cases(now, generation, rows)))
        shown = shown_marks(site, now, [case[IMAGE] for case in cases])
        return site.page(
            "map_cards.html",
            cards=[{**described(case), "row": at} for at, case in zip(rows, cases, strict=True)],
            shown=shown,
            reader=site.marks.reader,
            columns=now.columns,
            pictures=bool(site.pictures.paths),
            place_of=place_of,
        )

    @made.get("/api/map", summary="What the map can show: how it was made, and what it is coloured by.")
    def about() -> JSONResponse:
        """`methods`: `pca` is made when it is first asked for; `umap` is there after `cxr-embed index map`."""
        return JSONResponse(site.state.answer(lambda now: _about(site, maps, now)))


def _add_points(made: APIRouter, site: Site, maps: Maps) -> None:
    @made.get(
        "/api/map/points", summary="Positions of all cases: a length, a JSON object, float32.", response_class=Response
    )
    def points(generation: Name, method: Method = "pca") -> Response:
        """Four bytes, big endian: the length of a JSON object. Then the object, and x and y of each case in the order
        of the index's rows, float32, little endian.
        """

        def of(now: Generation) -> bytes:
            now.check(generation)
            places = maps.positions(now, method)
            return wire.packed(
                {"generation": now.name, "method": method, "cases": len(places)}, [_bytes(places, "<f4")]
            )

        return _binary(site.state.answer(of))

    @made.get(
        "/api/map/colours",
        summary="A colour code for each case: a length, a JSON object, bytes.",
        response_class=Response,
    )
    def colours(
        generation: Name,
        by: Literal["column", "finding", "probe", "prompts"],
        name: Annotated[str, Query(max_length=500)],
    ) -> Response:
        """The object has the legend: `groups`, whose place is the code, or `low` and `high` of a scale of 0 to 254;
        255 is unknown.
        """

        def of(now: Generation) -> bytes:
            now.check(generation)
            found = coloured(site, now, by, name)
            return wire.packed({"generation": now.name, **found.about}, [_bytes(found.codes, "u1")])

        return _binary(site.state.answer(of))

    @made.get(
        "/api/map/passing",
        summary="Which cases meet a condition: a length, a JSON object, a bit each.",
        response_class=Response,
    )
    def passing(generation: Name, where: Annotated[str, Query(max_length=2000)] = "") -> Response:
        """The lowest bit of a byte is its first case; `notes` say what may be a slip."""

        def of(now: Generation) -> bytes:
            now.check(generation)
            condition = where.strip() or None
            if condition is not None:
                now.columns.check(condition)
            met = now.index.passing(condition, None)
            bits = np.packbits(np.ones(len(now.index), bool) if met is None else met, bitorder="little")
            count = len(now.index) if met is None else int(np.count_nonzero(met))
            head = {"generation": now.name, "passing": count, "notes": list(now.index.diagnostics(condition))}
            return wire.packed(head, [_bytes(bits, "u1")])

        return _binary(site.state.answer(of))


def _add_cases(made: APIRouter, site: Site) -> None:
    @made.get("/api/map/cases", summary="What may be shown of the cases of some points.")
    def cases(generation: Name, row: Rows) -> JSONResponse:
        """In the order of the rows that were asked for; at most 100."""
        now, found = site.state.answer(lambda now: (now, _cases(now, generation, row)))
        facts = [{key: described(case)[key] for key in ("facts", "findings")} for case in found]
        return JSONResponse({"generation": now.name, "cases": found, "shown": facts, "note": RESEARCH})


def _add_chosen(made: APIRouter, site: Site) -> None:
    @made.post("/api/map/list", summary="Put points on a list of the reader's marks, as one step.")
    async def listing(request: Request) -> JSONResponse:
        """A JSON object: `generation`, `rows` (at most 20,000) and `list`, the name. The answer has the step's number,
        null where all of them are on the list already.
        """
        chosen = await _read(request)
        if isinstance(chosen, JSONResponse):
            return chosen
        if len(chosen.rows) > _MOST_LISTED:
            raise CaseIndexError(f"{len(chosen.rows):,} points, and at most {_MOST_LISTED:,} are put on a list at once")
        step, count = await anyio.to_thread.run_sync(_put_on_list, site, chosen)
        return JSONResponse({"step": step, "cases": count})

    @made.post("/api/map/ids.csv", summary="The ids of points as a table.", response_class=Response)
    async def ids(request: Request) -> Response:
        """A JSON object: `generation` and `rows`. The table has `image_id` and `patient_id`."""
        chosen = await _read(request)
        if isinstance(chosen, JSONResponse):
            return chosen
        return Response(
            await anyio.to_thread.run_sync(_as_csv, site, chosen),
            media_type="text/csv; charset=utf-8",
            headers={"content-disposition": 'attachment; filename="points.csv"'},
        )


def _put_on_list(site: Site, chosen: Chosen) -> tuple[int | None, int]:
    act = Act.listing(chosen.listed)

    def of(now: Generation) -> list[Any]:
        found = now.index.cases(_rows(now, chosen.generation, chosen.rows), [IMAGE])
        return marked_cases(now.index, [str(case[IMAGE]) for case in found])

    cases = site.state.answer(of)
    return site.marks.mark(cases, act), len(cases)


def _as_csv(site: Site, chosen: Chosen) -> str:
    rows = site.state.answer(lambda now: now.index.cases(_rows(now, chosen.generation, chosen.rows), [IMAGE, PATIENT]))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([IMAGE, PATIENT])
    writer.writerows([plain_cell(case[IMAGE]), plain_cell(case[PATIENT] or "")] for case in rows)
    return file.getvalue()


def _cases(now: Generation, generation: str, rows: list[int]) -> list[dict[str, Any]]:
    return [whole_ages(now.columns.of_case(case)) for case in now.index.cases(_rows(now, generation, rows))]


def _rows(now: Generation, generation: str, rows: list[int]) -> list[int]:
    """The rows, each once where they are of the generation that is open.

    Raises:
        OtherGeneration: where they are not.
        CaseIndexError: for a row that is not there.
    """
    now.check(generation)
    kept = list(dict.fromkeys(rows))
    if kept and (min(kept) < 0 or max(kept) >= len(now.index)):
        raise CaseIndexError(f"the index has {counted(len(now.index), 'case')}: there is no such row")
    return kept


async def _read(request: Request) -> Chosen | JSONResponse:
    """The body; the answer to one that cannot be read."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > _MOST_BYTES:
            return JSONResponse({"error": "more than can be chosen at once"}, 413, {"connection": "close"})
    try:
        return Chosen.model_validate_json(bytes(data))
    except ValidationError as fault:
        first = fault.errors()[0]
        return JSONResponse({"error": f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}"}, 422)


def _grouped(offered: list[Colouring]) -> list[tuple[str, list[tuple[int, Colouring]]]]:
    """What the page's choice of colours has, under its headings; each with its place in `offered`."""
    headings = {"column": "known of the case", "finding": "label", "probe": "score of the probe"}
    found: dict[str, list[tuple[int, Colouring]]] = {}
    for place, each in enumerate(offered):
        found.setdefault(headings.get(each.by, "score of the prompts"), []).append((place, each))
    return list(found.items())


def _bytes(values: np.ndarray, kind: str) -> bytes:
    return np.asarray(values, kind).tobytes()


def _binary(data: bytes) -> Response:
    return Response(data, media_type="application/octet-stream")
