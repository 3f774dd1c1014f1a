"""JSRT's raw images: big-endian words of 12 bits, dark films are large values, and no header says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxr_embed.datasets import load_recipe, scan
from cxr_embed.errors import ImageError
from cxr_embed.images import check_name, decode_image, read_image, sniff

SIDE = 2048


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    """Optical densities as they are stored: neither symmetric nor blank, from 0 to 4095."""
    down, across = np.mgrid[:SIDE, :SIDE]
    film = (down * 3 + across * 5 + (down * across) // 97) % 4096
    film[:64, :64], film[-64:, :64] = 4095, 0  # dark air above, a white label below
    return film.astype(np.uint16)


def stored(film: np.ndarray) -> bytes:
    return film.astype(">u2").tobytes()


def fault(data: bytes, suffix: str = ".IMG") -> tuple[str, str]:
    with pytest.raises(ImageError) as caught:
        decode_image(data, suffix)
    return caught.value.kind, str(caught.value)


def test_values_are_turned_so_that_brighter_is_denser(film: np.ndarray) -> None:
    image = decode_image(stored(film), ".IMG")
    assert (image.pixels.dtype, image.pixels.shape, image.bits) == (np.uint16, (SIDE, SIDE), 12)
    assert (image.source, image.notes, image.fields.modality) == ("raw", (), "")
    np.testing.assert_array_equal(image.pixels, 4095 - film)
    assert (image.pixels[0, 0], image.pixels[-1, 0]) == (0, 4095)
    # one value by hand, so that the order of the bytes cannot be mistaken on both sides
    data = bytearray(stored(film))
    data[2 * (SIDE * 7 + 11) : 2 * (SIDE * 7 + 11) + 2] = b"\x0a\x01"
    assert decode_image(bytes(data)).pixels[7, 11] == 4095 - 0x0A01


@pytest.mark.parametrize("suffix", [".IMG", ".img", ".Img", "", ".raw"])
def test_the_contents_decide_not_the_name(film: np.ndarray, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"JPCLN999{suffix}"
    path.write_bytes(stored(film))
    assert read_image(path).source == "raw"


def test_other_names_over_a_raw_image_are_told(film: np.ndarray) -> None:
    assert fault(stored(film), ".png") == ("wrong-suffix", "named .png but the contents are RAW; rename the file")


def test_a_header_of_old_dicom_files_is_no_raw_image(film: np.ndarray) -> None:
    """Bytes of a bare DICOM file happen among small values: size and values decide."""
    film = film.copy()
    film[0, :2] = 0x0800, 0x0000
    assert decode_image(stored(film), ".img").source == "raw"
    bare = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + bytes(2 * SIDE * SIDE - 18)
    assert sniff(bare[:132], len(bare)) == "dicom"
    check_name(bare, ".img")  # hospitals name DICOM files so


def test_a_wrong_size_is_told(film: np.ndarray) -> None:
    whole = "a raw image of JSRT has 2048 x 2048 values of 2 bytes, 8,388,608 bytes"
    data = stored(film)
    assert fault(data[:-2]) == ("truncated", f"the raw image ends early, after 8,388,606 bytes; {whole}")
    assert fault(data[:1]) == ("truncated", f"the raw image ends early, after 1 byte; {whole}")
    longer = f"a .IMG file of 8,388,609 bytes that no format is known for; {whole}"
    assert fault(data + b"\0") == ("not-an-image", longer)
    assert fault(b"no pixels at all")[0] == "not-an-image"
    # another name: only what is said of any file
    assert "PNG, JPEG, TIFF and DICOM are read" in fault(data[:-2], ".bin")[1]


def test_values_beyond_12_bits_are_told(film: np.ndarray) -> None:
    late = film.copy()
    late[SIDE // 2, SIDE // 2] = 4096
    assert fault(stored(late)) == ("corrupt", "a raw image of 12 bits has the value 4096; download it again")
    early = film.copy()
    early[0, 3] = 65535
    whole = "the file has the size of a raw image, but not its values of 12 bits"
    assert fault(stored(early)) == ("not-an-image", whole)
    swapped = film.astype("<u2").tobytes()  # somebody's conversion
    assert fault(swapped)[0] == "not-an-image"


def test_a_scan_takes_raw_images_and_tells_of_broken_ones(film: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "whole.IMG").write_bytes(stored(film))
    (tmp_path / "half.IMG").write_bytes(stored(film)[: SIDE * SIDE])
    (tmp_path / "brain.img").write_bytes(b"\xff" * 1000)
    (tmp_path / "empty.img").write_bytes(b"")
    result = scan(tmp_path, load_recipe("folder"), patient_key=None)
    assert result.columns["path"] == ["whole.IMG"]
    assert [(path, reason.split(";")[0]) for path, reason in result.skipped] == [
        ("brain.img", "a .img file of 1,000 bytes that no format is known for"),
        ("empty.img", "a .img file of 0 bytes that no format is known for"),
        ("half.IMG", "the raw image ends early, after 4,194,304 bytes"),
    ]
