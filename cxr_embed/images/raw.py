"""JSRT's `.IMG` files: pixels and nothing else.

The Japanese Society of Radiological Technology publishes its 247 digitised films as 2048 x 2048 big-endian 16-bit words
without a header, 12 bits of which are used (Shiraishi J, Katsuragawa S, Ikezoe J, et al. Development of a digital image
database for chest radiographs with and without a lung nodule. AJR 2000;174:71-74, doi:10.2214/ajr.174.1.1740071;
http://db.jsrt.or.jp/eng.php). A laser digitiser measured the film's optical density, so that a large value is a dark
place: lungs are bright where such a file is shown as it is, and every reader of the data set inverts it.
"""

from __future__ import annotations

import numpy as np

from cxr_embed.errors import ImageError
from cxr_embed.images.checks import Picture
from cxr_embed.types import counted

SIDE, BITS = 2048, 12
RAW_BYTES = 2 * SIDE * SIDE
RAW_SUFFIX = ".img"
_WHAT = f"a raw image of JSRT has {SIDE} x {SIDE} values of 2 bytes, {RAW_BYTES:,} bytes"


def is_raw(head: bytes, size: int) -> bool:
    """Whether a file may be one, by its size and its first values: words of 12 bits have a small first byte."""
    return size == RAW_BYTES and _twelve_bits(head)


def raw_fault(head: bytes, size: int, suffix: str) -> ImageError | None:
    """What is wrong with a file of unknown contents whose name says that it is raw; None for other names."""
    if suffix.lower() != RAW_SUFFIX or is_raw(head, size):
        return None
    if size < RAW_BYTES and _twelve_bits(head):
        return ImageError("truncated", f"the raw image ends early, after {counted(size, 'byte')}; {_WHAT}")
    if size == RAW_BYTES:
        return ImageError("not-an-image", f"the file has the size of a raw image, but not its values of {BITS} bits")
    return ImageError(
        "not-an-image", f"a {suffix} file of {counted(size, 'byte')} that no format is known for; {_WHAT}"
    )


def decode_raw(data: bytes) -> Picture:
    """The bytes of a raw image to `(2048, 2048)` uint16 of 12 bits, turned so that brighter = denser.

    Raises:
        ImageError: `corrupt` where a value has more than 12 bits.
    """
    stored = np.frombuffer(data, ">u2").reshape(SIDE, SIDE)
    full = 2**BITS - 1
    if (largest := int(stored.max())) > full:
        problem = f"a raw image of {BITS} bits has the value {largest}; download it again"
        raise ImageError("corrupt", problem)
    return Picture((full - stored).astype(np.uint16), BITS)


def _twelve_bits(head: bytes) -> bool:
    return bool(head) and max(head[::2]) < 1 << (BITS - 8)
