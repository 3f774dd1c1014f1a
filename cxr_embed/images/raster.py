"""PNG, JPEG and TIFF: bytes to grey pixels.

Strict decoders are used on purpose: a file that lost bytes must fail, not decode into a half-grey picture.
"""

from __future__ import annotations

import io
import struct

import numpy as np

from cxr_embed.errors import ImageError
from cxr_embed.images.checks import check_size, to_grey

# EXIF orientation (tag 274) to the operation that shows the picture upright.
_UPRIGHT = {
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


def decode_png(data: bytes) -> tuple[np.ndarray, int]:
    """PNG bytes to `(H, W)` uint8 or uint16 and the bit depth. libpng checks every chunk's CRC."""
    import imagecodecs

    if len(data) < 33 or data[12:16] != b"IHDR":
        raise ImageError("corrupt", "the PNG has no header")
    width, height, depth = struct.unpack(">IIB", data[16:25])
    check_size(height, width)
    if b"IEND" not in data[-64:] and data.rfind(b"IEND") < 0:
        raise ImageError("truncated", "the PNG ends early")
    if b"acTL" in data[: data.find(b"IDAT")]:
        raise ImageError("multi-frame", "an animated PNG; a radiograph has one frame")
    try:
        pixels = imagecodecs.png_decode(data)
    except imagecodecs.PngError as error:
        kind = "truncated" if "too small" in str(error) else "corrupt"
        raise ImageError("truncated" if kind == "truncated" else "corrupt", f"the PNG is damaged ({error})") from None
    bits = 16 if depth == 16 else 8
    return to_grey(pixels, bits), bits


def decode_jpeg(data: bytes) -> tuple[np.ndarray, int]:
    """JPEG bytes to `(H, W)` uint8, upright. Any warning of libjpeg (lost bytes, bad codes) is an error."""
    import simplejpeg

    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=True)
        check_size(height, width)
        grey = space == "Gray"
        pixels = simplejpeg.decode_jpeg(data, "GRAY" if grey else "RGB", strict=True)
    except ValueError as error:
        kind_truncated = "Premature end" in str(error)
        raise ImageError(
            "truncated" if kind_truncated else "corrupt", f"the JPEG is damaged or of an unusual kind ({error})"
        ) from None
    return _upright(to_grey(pixels, 8), data), 8


def _upright(pixels: np.ndarray, data: bytes) -> np.ndarray:
    if b"Exif\0\0" not in data[:256]:
        return pixels
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        orientation = image.getexif().get(274, 1)
    turn = _UPRIGHT.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def decode_tiff(data: bytes) -> tuple[np.ndarray, int]:
    """TIFF bytes (one page, 8 or 16 bits) to `(H, W)` uint8 or uint16, white on black also where 0 means white."""
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=["TIFF"]) as image:
            check_size(image.height, image.width)
            if getattr(image, "n_frames", 1) > 1:
                raise ImageError("multi-frame", f"a TIFF of {image.n_frames} pages; a radiograph has one")  # type: ignore[attr-defined]
            # Pillow inverts WhiteIsZero (photometric 0) itself at 1 and 8 bits, not at 16.
            white_is_zero = image.tag_v2.get(262) == 0  # type: ignore[attr-defined]
            mode = image.mode
            if mode in ("1", "P"):
                image = image.convert("L" if mode == "1" else "RGB")
            elif mode not in ("L", "LA", "RGB", "RGBA", "I;16", "I;16B"):
                raise ImageError("unsupported", f"a TIFF with pixels of type {mode}; export it as 8 or 16 bit grey")
            pixels = np.asarray(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Exception as error:  # Pillow raises a dozen types on damaged files
        truncated = "truncated" in str(error).lower()
        raise ImageError(
            "truncated" if truncated else "corrupt", f"the TIFF is damaged or of an unusual kind ({type(error).__name__})"
        ) from None
    if pixels.dtype.itemsize == 2:
        pixels = pixels.astype(np.uint16)
        return (65535 - pixels if white_is_zero else pixels), 16
    return to_grey(pixels, 8), 8
