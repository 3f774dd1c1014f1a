"""PNG, JPEG and TIFF: bytes to grey pixels.

Strict decoders are used on purpose: a file that lost bytes must fail, not decode into a half-grey picture.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from cxr_embed.choices import Colour
from cxr_embed.errors import ImageError
from cxr_embed.images.checks import Picture, aspect_notes, check_size, machine_fault, to_grey
from cxr_embed.types import ImageNote

# EXIF orientation (tag 274) to the operation that shows the picture upright.
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


def decode_png(data: bytes, colour: Colour) -> Picture:
    """PNG bytes to `(H, W)` uint8 or uint16, upright. Both decoders check every chunk's CRC."""
    if len(data) < 33:
        raise ImageError("truncated", "the PNG ends early")
    if data[12:16] != b"IHDR":
        raise ImageError("corrupt", "the PNG has no header")
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    check_size(height, width)
    names, chunks = _png_chunks(data)
    if b"acTL" in names:
        raise ImageError("multi-frame", "an animated PNG; a radiograph has one frame")
    if names[-1:] != [b"IEND"]:
        raise ImageError("truncated", "the PNG ends early")
    bits = 16 if depth == 16 else 8
    pixels: np.ndarray | None = None
    notes: tuple[ImageNote, ...] = ()
    if kind == 0 and depth in (8, 16) and not interlaced and b"tRNS" not in names:
        pixels = _decode_plain_png(data, (height, width), depth)
    if pixels is None:
        import imagecodecs

        try:
            pixels = imagecodecs.png_decode(data)
        except Exception as error:  # its text is not passed on: imagecodecs 2026.3 reads it from freed memory
            problem = f"the PNG is damaged ({type(error).__name__})"
            raise machine_fault(error) or ImageError("corrupt", problem) from None
        pixels, notes = to_grey(pixels, bits, colour)
    if b"sBIT" in chunks and kind != 3:
        pixels, bits = _significant(pixels, bits, max(chunks[b"sBIT"][: 1 if kind in (0, 4) else 3], default=0))
    if b"eXIf" in chunks:
        pixels = _turned(pixels, _orientation(b"Exif\0\0" + chunks[b"eXIf"], "PNG"))
    across, down = struct.unpack(">II", chunks[b"pHYs"][:8]) if len(chunks.get(b"pHYs", b"")) == 9 else (0, 0)
    return Picture(pixels, bits, (*notes, *aspect_notes(across, down)))


def _decode_plain_png(data: bytes, shape: tuple[int, int], depth: int) -> np.ndarray | None:
    """A grey PNG by the image-rs decoder: the same pixels in half of libpng's time. None: let libpng judge."""
    from kornia_rs import io as rust

    decode = rust.decode_image_png_u8 if depth == 8 else rust.decode_image_png_u16
    try:
        pixels: np.ndarray = decode(data, shape, "mono")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic in Rust is not an Exception
        return None
    return pixels[..., 0]


def _png_chunks(data: bytes) -> tuple[list[bytes], dict[bytes, bytes]]:
    """The names of the chunks that are whole, up to the first that is not or the end mark; what the small ones hold."""
    names: list[bytes] = []
    chunks: dict[bytes, bytes] = {}
    position = 8
    while position + 8 <= len(data) and names[-1:] != [b"IEND"]:
        length, name = struct.unpack_from(">I4s", data, position)
        position += 12 + length
        if position > len(data):
            break
        names.append(name)
        if name in (b"sBIT", b"eXIf", b"pHYs"):
            chunks[name] = data[position - length - 4 : position - 4]
    return names, chunks


def _significant(pixels: np.ndarray, bits: int, significant: int) -> tuple[np.ndarray, int]:
    """Pixels and bits of a PNG that says how many bits are significant.

    By the PNG standard (11.3.2.7) such values are scaled up to the whole depth. Some writers leave them as they were:
    then none is larger than those bits hold, and some have a bit where scaled ones would have none.
    """
    if not 1 <= significant < bits or pixels.max() >= 2**significant:
        return pixels, bits
    if not (pixels & (2 ** (bits - significant) - 1)).any():
        return pixels, bits
    return pixels.astype(np.uint8 if significant <= 8 else np.uint16), significant


def decode_jpeg(data: bytes, colour: Colour) -> Picture:
    """JPEG bytes to `(H, W)` uint8, upright. Any warning of libjpeg (lost bytes, bad codes) is an error."""
    import simplejpeg

    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=True)
        check_size(height, width)
        grey = space == "Gray"
        pixels = simplejpeg.decode_jpeg(data, "GRAY" if grey else "RGB", strict=True)
    except ValueError as error:
        if "Premature end" in str(error):
            raise ImageError("truncated", "the JPEG ends early") from None
        raise ImageError("corrupt", f"the JPEG is damaged or of an unusual kind ({error})") from None
    pixels, notes = to_grey(pixels, 8, colour)
    if b"Exif\0\0" in data[: 1 << 16]:
        pixels = _turned(pixels, _orientation(data, "JPEG"))
    across, down = struct.unpack_from(">HH", data, 14) if data[6:11] == b"JFIF\0" and len(data) >= 18 else (0, 0)
    return Picture(pixels, 8, (*notes, *aspect_notes(across, down)))


def _orientation(data: bytes, kind: str) -> int:
    """EXIF orientation, 1 where there is none.

    Args:
        data: a JPEG, or Exif data with its mark in front.
        kind: of file, for the error.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if data.startswith(b"Exif"):
                exif = Image.Exif()
                exif.load(data)
            else:
                with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
                    exif = image.getexif()
            return int(exif.get(274, 1))
    except Exception as error:  # a picture that may lie on its side is worse than none
        problem = f"the {kind}'s Exif data is damaged ({type(error).__name__})"
        raise machine_fault(error) or ImageError("corrupt", problem) from None


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    turn = _UPRIGHT.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def decode_tiff(data: bytes, colour: Colour) -> Picture:
    """TIFF bytes (one page, 8 to 16 bits) to `(H, W)` uint8 or uint16, white on black also where 0 means white."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damage, then goes on
            with Image.open(io.BytesIO(data), formats=["TIFF"]) as file:
                image: Image.Image = file
                check_size(image.height, image.width)
                tags = file.tag_v2  # type: ignore[attr-defined]
                if getattr(file, "n_frames", 1) > 1:
                    raise ImageError("multi-frame", "a TIFF of several pages; a radiograph has one")
                _check_strips(tags, len(data))
                # Pillow inverts WhiteIsZero (photometric 0) itself at 1 and 8 bits, not at 16.
                white_is_zero = tags.get(262) == 0
                bits = max(tags.get(258, (8,)))
                mode = image.mode
                if mode in ("1", "P"):
                    image = image.convert("L" if mode == "1" else "RGB")
                elif mode not in ("L", "LA", "RGB", "RGBA", "I;16", "I;16B"):
                    raise ImageError("unsupported", f"a TIFF with pixels of type {mode}; export it as 8 or 16 bit grey")
                notes = aspect_notes(tags.get(282, 0), tags.get(283, 0))
                pixels = np.asarray(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError("too-large", "a TIFF with more pixels than are decoded (a decompression bomb?)") from None
    except Exception as error:  # Pillow raises a dozen types on damaged files
        if (fault := machine_fault(error)) is not None:
            raise fault from None
        if _directory(data) >= len(data) or "truncated" in str(error).lower():
            raise ImageError("truncated", "the TIFF ends early") from None
        raise ImageError("corrupt", f"the TIFF is damaged or of an unusual kind ({type(error).__name__})") from None
    if pixels.dtype.itemsize == 2:
        full = 2**bits - 1
        pixels = np.minimum(pixels.astype(np.uint16), full)
        return Picture(full - pixels if white_is_zero else pixels, bits, notes)
    pixels, colour_notes = to_grey(pixels, 8, colour)
    return Picture(pixels, 8, (*colour_notes, *notes))


def _directory(data: bytes) -> int:
    """Where a TIFF's directory starts; many writers put it last, so a cut file has lost it."""
    return int(struct.unpack_from(">I" if data[:2] == b"MM" else "<I", data.ljust(8, b"\xff"), 4)[0])


def _check_strips(tags: Any, size: int) -> None:
    """Strips or tiles that lie beyond the end, and strips that are missing: some decoders would fill in grey."""
    planes = tags.get(277, 1) if tags.get(284) == 2 else 1
    if tags.get(273) and len(tags[273]) * tags.get(278, tags[257]) < tags[257] * planes:
        raise ImageError("truncated", "the TIFF has fewer strips than its height needs")
    for starts, counts in ((273, 279), (324, 325)):
        for start, count in zip(tags.get(starts, ()), tags.get(counts, ()), strict=False):
            if start + count > size:
                raise ImageError("truncated", "the TIFF ends early")
