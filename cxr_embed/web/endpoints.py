"""The JSON API: what is open, and a page that lists every endpoint."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse

from cxr_embed.types import RESEARCH
from cxr_embed.web.site import Site


def router(site: Site) -> APIRouter:
    """The routes."""
    made = APIRouter()

    @made.get("/api/index", summary="What is open: the index, its encoder, the columns that may be asked for.")
    def index() -> JSONResponse:
        now = site.state.current()
        spec, columns = now.index.spec, now.columns
        return JSONResponse(
            {
                "cases": len(now.index),
                "generation": now.name,
                "encoder": spec.name,
                "fingerprint": spec.fingerprint,
                "output": now.index.output,
                "stand_in": spec.stand_in,
                "columns": list(columns.names),
                "findings": list(columns.findings),
                "pictures": bool(site.pictures.paths),
                "probe": list(site.state.probe.findings) if site.state.probe is not None else [],
                "prompts": [each.name for each in site.state.prompts.findings] if site.state.prompts else [],
                "note": RESEARCH,
            }
        )

    @made.get("/endpoints", include_in_schema=False)
    def page(request: Request) -> HTMLResponse:
        return site.page("endpoints.html", here="/endpoints", endpoints=_listed(request.app.openapi()))

    return made


def _listed(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Each endpoint of an OpenAPI description."""
    return [
        {
            "method": method.upper(),
            "path": path,
            "summary": about.get("summary", ""),
            "description": about.get("description", ""),
            "parameters": [
                {
                    "name": each["name"],
                    "about": each.get("description") or each.get("schema", {}).get("description", ""),
                    "kind": _kind(each.get("schema", {})),
                }
                for each in about.get("parameters", ())
            ],
        }
        for path, methods in schema["paths"].items()
        for method, about in methods.items()
    ]


def _kind(schema: dict[str, Any]) -> str:
    """A parameter's type in a word or two."""
    kinds = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    first = kinds[0] if kinds else {}
    words = {"array": "repeatable", "string": "text", "integer": "whole number", "boolean": "true or false"}
    return " or ".join(map(str, first["enum"])) if "enum" in first else words.get(first.get("type", ""), "")
