"""Compressed DICOM frames to stored values.

The size is read from the stream itself before any decoder runs, and a stream without its end marker is refused: on
damaged frames some decoders fill in grey, some never return and some (GDCM) abort the process.
"""

from __future__ import annotations

import struct

import numpy as np

from cxr_embed.errors import ImageError
from cxr_embed.images.checks import machine_fault

JPEG_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
# High-throughput JPEG 2000 is the same container with another block coder.
_HTJ2K = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")
LOSSLESS = frozenset((*_JPEG_LOSSLESS, _JPEG_LS[0], _JPEG_2000[0], *_HTJ2K[:2]))
SYNTAXES = frozenset((*JPEG_LOSSY, *_JPEG_LOSSLESS, *_JPEG_LS, *_JPEG_2000, *_HTJ2K))

_JP2 = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_SIZ = b"\xff\x4f\xff\x51"  # how a JPEG 2000 stream begins
_END = b"\xff\xd9"  # of every one of these formats
# Frames are padded to an even length, or to that of a buffer: with zeros (PS3.5, 8.2), fill bytes or spaces.
_PADDING = b"\0\xff "


def decode_frame(frame: bytes, syntax: str, height: int, width: int, rgb: bool) -> tuple[np.ndarray, int]:
    """One JPEG, JPEG-LS or JPEG 2000 stream to `(height, width)` or `(height, width, 3)` integers and their precision.

    Args:
        frame: the whole stream.
        syntax: the transfer syntax, one of `SYNTAXES`.
        height: Rows of the header, which the stream must agree with.
        width: Columns of the header.
        rgb: whether three channels are stored as RGB; a JPEG stream often does not say so itself.

    Returns:
        The values, and how many bits each has by the stream's own header, the sign's among them.

    Raises:
        ImageError: `truncated` or `corrupt`.
    """
    if frame.startswith(_JP2):  # a whole file instead of its stream; what it says of colours, the header says too
        frame = frame[max(0, frame.find(_SIZ)) :]
    size = codestream_size(frame)
    if size is None:
        raise ImageError("corrupt", "the compressed image in the DICOM file has no readable header")
    if size != (height, width):
        raise ImageError("corrupt", "the compressed image has another size than the DICOM header says")
    frame = frame.rstrip(_PADDING)
    if not frame.endswith(_END):
        raise ImageError("truncated", "the compressed image in the DICOM file ends early")
    try:
        pixels = _decode(frame, syntax, rgb)
    except Exception as error:  # each decoder has its own type of error
        raise machine_fault(error) or ImageError(
            "corrupt", f"the compressed image in the DICOM file is damaged ({type(error).__name__})"
        ) from None
    if pixels.shape[:2] != (height, width) or pixels.dtype.kind not in "iu" or pixels.dtype.itemsize > 2:
        raise ImageError("corrupt", "the compressed image has another form than the DICOM header says")
    return (pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels), _precision(frame)


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Height and width from a JPEG, JPEG-LS or JPEG 2000 stream's own header; None where it has another form."""
    start = _start_of_frame(frame)
    if start is not None:
        height, width = struct.unpack(">HH", frame[start + 5 : start + 9])
        return height, width
    if frame[:4] == _SIZ and len(frame) >= 24:
        x1, y1, x0, y0 = struct.unpack(">IIII", frame[8:24])
        return y1 - y0, x1 - x0
    return None


def _precision(frame: bytes) -> int:
    start = _start_of_frame(frame)
    return frame[start + 4] if start is not None else (frame[42] & 0x7F) + 1  # JPEG 2000: Ssiz of the first component


def _start_of_frame(frame: bytes) -> int | None:
    """Position of a JPEG's frame header: C0..CF but for the tables C4, C8 and CC; F7 is JPEG-LS's."""
    if frame[:2] != b"\xff\xd8":
        return None
    position = 2
    while position + 9 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return position
        position += 2 + struct.unpack(">H", frame[position + 2 : position + 4])[0]
    return None


def _decode(frame: bytes, syntax: str, rgb: bool) -> np.ndarray:
    import imagecodecs

    pixels: np.ndarray
    if syntax in _JPEG_LS:
        pixels = imagecodecs.jpegls_decode(frame)
    elif syntax in _JPEG_2000 or syntax in _HTJ2K:
        pixels = imagecodecs.jpeg2k_decode(frame)
    else:
        start = _start_of_frame(frame)
        assert start is not None
        precision, channels = frame[start + 4], frame[start + 9]
        if syntax in JPEG_LOSSY and channels == 1 and precision == 8:
            import simplejpeg

            pixels = simplejpeg.decode_jpeg(frame, "GRAY", strict=True)
        elif channels == 3 and rgb:
            pixels = imagecodecs.jpeg8_decode(frame, colorspace="RGB", outcolorspace="RGB")
        else:
            pixels = imagecodecs.jpeg8_decode(frame)
    return pixels
