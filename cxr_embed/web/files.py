"""Pictures, uploads and our own static files: what pages fetch beside HTML."""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import anyio
import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from cxr_embed.errors import CaseIndexError, ImageError
from cxr_embed.images import NOTES, looks_like_chest
from cxr_embed.types import CxrImage
from cxr_embed.web import uploads, wire
from cxr_embed.web.pictures import NoPicture
from cxr_embed.web.site import FILES, Site, static_address

Size = Literal["small", "large"]
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_AT_ONCE = 4  # uploads that are read at the same time
_PICTURES_AT_ONCE = 8
_PART = 1 << 20  # bytes that are sent at once
MOST_PIXELS = 40_000_000  # of a picture that is sent whole: twice what the largest detectors give


def router(site: Site) -> APIRouter:
    """The routes."""
    made = APIRouter()
    _add_pictures(made, site)
    _add_uploads(made, site)
    _add_static(made)
    return made


def _add_pictures(made: APIRouter, site: Site) -> None:
    # Threads of their own: pictures that wait for a decoder hold up no search.
    threads = anyio.CapacityLimiter(_PICTURES_AT_ONCE)

    @made.get("/api/picture", summary="A case, or a picture that was sent, as a JPEG or WebP.", response_class=Response)
    async def picture(case: str = "", upload: str = "", size: Size = "small") -> Response:
        return await anyio.to_thread.run_sync(_shown, site, case, upload, size, limiter=threads)

    @made.get("/api/pixels", summary="All bits of a radiograph: a length, a JSON object, the pixels.")
    async def pixels(case: str = "", upload: str = "") -> Response:
        """Four bytes, big endian: the length of a JSON object. The object: `height`, `width`, `bits`, `depth` (bytes of
        a pixel) and `notes`. Then the pixels, row by row, little endian; brighter is denser. At most 40 megapixels.
        """
        return await anyio.to_thread.run_sync(_whole, site, case, upload, limiter=threads)


def _add_uploads(made: APIRouter, site: Site) -> None:
    room = asyncio.Semaphore(_AT_ONCE)

    @made.post("/api/upload", summary="Send a radiograph, as the body; the answer has its token.")
    async def upload(request: Request) -> JSONResponse:
        """The body is the file itself: PNG, JPEG, TIFF or DICOM. It is decoded in memory and let go of; what was
        decoded is kept for half an hour after it was last looked at. No name is needed, and none is kept.
        """
        async with room:
            try:
                async with asyncio.timeout(uploads.BODY_SECONDS):
                    data = await _body(request)
            except TimeoutError:
                return JSONResponse({"error": "the file did not arrive in a minute"}, 408)
            if data is None:
                most = uploads.MOST_BYTES >> 20
                return JSONResponse({"error": f"the file has more than {most} MiB"}, 413, {"connection": "close"})
            try:
                token = await anyio.to_thread.run_sync(site.uploads.add, data)
            except ImageError as fault:
                return JSONResponse({"error": str(fault), "kind": fault.kind}, 400)
        kept = site.uploads.get(token)
        assert kept is not None
        return JSONResponse({"upload": token, "address": f"/?upload={token}", **_known(kept.image)}, 201)


def _add_static(made: APIRouter) -> None:
    @made.get("/static/{name}", include_in_schema=False)
    def static(name: str, v: Annotated[str, Query()] = "") -> Response:
        files = {path.name: path for path in FILES.iterdir()}
        if name not in files or files[name].suffix not in _TYPES:
            return JSONResponse({"error": "no such file"}, 404)
        kept = "public, max-age=31536000, immutable" if static_address(name).endswith(f"v={v}") else "no-cache"
        return Response(
            files[name].read_bytes(), media_type=_TYPES[files[name].suffix], headers={"cache-control": kept}
        )


def _shown(site: Site, case: str, upload: str, size: Size) -> Response:
    try:
        if upload:
            kept = site.uploads.get(upload)
            if kept is None:
                return _placeholder("the picture is gone", 410)
            return _picture(kept.small if size == "small" else kept.large)
        return _picture(site.state.answer(lambda now: site.pictures.preview(now, case, size)))
    except CaseIndexError:
        return _placeholder("not in the index", 404)
    except NoPicture as why:
        return _placeholder(str(why), 404)


def _whole(site: Site, case: str, upload: str) -> Response:
    try:
        if upload:
            kept = site.uploads.get(upload)
            if kept is None:
                return JSONResponse({"error": "the picture is gone"}, 410)
            image = kept.image
        else:
            image = site.state.answer(lambda now: site.pictures.radiograph(now, case))
    except NoPicture as why:
        return JSONResponse({"error": str(why)}, 404)
    if image.pixels.size > MOST_PIXELS:
        height, width = image.pixels.shape
        most = MOST_PIXELS // 1_000_000
        return JSONResponse({"error": f"{width} x {height} pixels; at most {most} megapixels are sent"}, 413)
    return _raw(image)


async def _body(request: Request) -> bytes | None:
    """The body, in memory; None where it is larger than is taken. Nothing beyond that is read."""
    stated = request.headers.get("content-length", "0")
    if stated.isdecimal() and int(stated) > uploads.MOST_BYTES:
        return None
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > uploads.MOST_BYTES:
            return None
    return bytes(data)


def _known(image: CxrImage) -> dict[str, Any]:
    """What is said of an upload: its size, and the few fields of a header that may be read."""
    height, width = image.pixels.shape
    fields = {name: value for name, value in vars(image.fields).items() if value not in ("", None)}
    return {
        "height": height,
        "width": width,
        "bits": image.bits,
        "fields": fields,
        "looks_like_chest": bool(looks_like_chest(image.pixels, image.max_value)),
        "notes": [f"a picture {NOTES[note]}" for note in image.notes],
    }


def _raw(image: CxrImage) -> Response:
    """The pixels go out from where they are kept, in parts: the server makes no copy of all of them."""
    height, width = image.pixels.shape
    plain = np.ascontiguousarray(image.pixels, image.pixels.dtype.newbyteorder("<"))
    head = {"height": height, "width": width, "bits": image.bits, "depth": plain.itemsize, "notes": list(image.notes)}
    first, pixels = wire.opening(head, [plain.nbytes]), plain.data.cast("B")
    length = {"content-length": str(len(first) + len(pixels))}
    return StreamingResponse(_parts(first, pixels), media_type="application/octet-stream", headers=length)


async def _parts(first: bytes, pixels: memoryview) -> AsyncIterator[bytes | memoryview]:
    yield first
    for at in range(0, len(pixels), _PART):
        yield pixels[at : at + _PART]


def _picture(data: bytes) -> Response:
    return Response(data, media_type="image/webp" if data.startswith(b"RIFF") else "image/jpeg")


def _placeholder(why: str, status: int) -> Response:
    """Words in the place of a picture, as a picture."""
    words = html.escape(why)
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 320 320" role="img">'
        '<rect width="320" height="320" fill="#16181b"/>'
        '<text x="160" y="164" fill="#a9b0b8" font-family="sans-serif" font-size="15" text-anchor="middle">'
        f"{words}</text></svg>"
    )
    return Response(svg, status, media_type="image/svg+xml")
