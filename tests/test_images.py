"""PNG, JPEG and TIFF: pixels as Pillow and tifffile know them, and an error of its own for each fault."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr_embed.errors import ImageError
from cxr_embed.images import decode_image, read_image
from cxr_embed.images.checks import MAX_PIXELS

tifffile = pytest.importorskip("tifffile")


@pytest.fixture(scope="module")
def grey12(chest: Callable[..., np.ndarray]) -> np.ndarray:
    """Not square and not symmetric, so that a turn or a flip shows."""
    return chest(3, 128)[:, :96].copy()


@pytest.fixture(scope="module")
def grey8(grey12: np.ndarray) -> np.ndarray:
    return (grey12 >> 4).astype(np.uint8)


def pillow(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, **options)
    return out.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(pixels: np.ndarray, depth: int, colour: int, extra: bytes = b"") -> bytes:
    """A PNG by hand, for the forms that Pillow does not write."""
    rows = pixels.astype(">u2" if depth == 16 else "u1")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, colour, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def fault(data: bytes, suffix: str = "") -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, suffix)
    return caught.value.kind


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, axis=2)


def coloured(grey: np.ndarray) -> np.ndarray:
    pixels = rgb(grey)
    pixels[20:60, 20:60, 0] = 255
    pixels[20:60, 20:60, 2] = 0
    return pixels


class TestPng:
    def test_8_bit(self, grey8: np.ndarray) -> None:
        image = decode_image(pillow(grey8, "PNG"), ".PNG")
        assert (image.source, image.bits, image.pixels.dtype) == ("png", 8, np.uint8)
        np.testing.assert_array_equal(image.pixels, grey8)

    def test_16_bit(self, grey12: np.ndarray) -> None:
        image = decode_image(pillow(grey12 * 16, "PNG"))
        assert (image.bits, image.pixels.dtype, image.max_value) == (16, np.uint16, 65535)
        np.testing.assert_array_equal(image.pixels, grey12 * 16)

    def test_1_bit_fills_the_scale(self, grey8: np.ndarray) -> None:
        image = decode_image(pillow(Image.fromarray(grey8 > 100), "PNG"))
        np.testing.assert_array_equal(image.pixels, np.where(grey8 > 100, 255, 0))

    @pytest.mark.parametrize("depth", [2, 4])
    def test_few_bits_fill_the_scale(self, depth: int) -> None:
        levels = np.arange(64 * 64).reshape(64, 64) % 2**depth
        per_byte = 8 // depth
        packed = np.zeros((64, 64 // per_byte), dtype=np.uint8)
        for part in range(per_byte):
            packed |= (levels[:, part::per_byte] << (8 - depth * (part + 1))).astype(np.uint8)
        raw = b"".join(b"\0" + row.tobytes() for row in packed)
        header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, depth, 0, 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")
        np.testing.assert_array_equal(decode_image(data).pixels, levels * 255 // (2**depth - 1))

    def test_grey_palette(self, grey8: np.ndarray) -> None:
        image = Image.fromarray(255 - grey8).convert("P")
        image.putpalette([255 - i // 3 for i in range(768)])
        np.testing.assert_array_equal(decode_image(pillow(image, "PNG")).pixels, grey8)

    def test_grey_in_rgb(self, grey8: np.ndarray) -> None:
        np.testing.assert_array_equal(decode_image(pillow(rgb(grey8), "PNG")).pixels, grey8)

    def test_grey_in_16_bit_rgb(self, grey12: np.ndarray) -> None:
        image = decode_image(png(rgb(grey12 * 16), 16, 2))
        assert image.bits == 16
        np.testing.assert_array_equal(image.pixels, grey12 * 16)

    def test_opaque_alpha_is_dropped(self, grey8: np.ndarray) -> None:
        with_alpha = np.stack([grey8, np.full_like(grey8, 255)], axis=2)
        np.testing.assert_array_equal(decode_image(pillow(with_alpha, "PNG")).pixels, grey8)
        four = np.concatenate([rgb(grey8), with_alpha[..., 1:]], axis=2)
        np.testing.assert_array_equal(decode_image(pillow(four, "PNG")).pixels, grey8)

    def test_transparency_is_refused(self, grey8: np.ndarray) -> None:
        with_alpha = np.stack([grey8, np.full_like(grey8, 255)], axis=2)
        with_alpha[0, 0, 1] = 254
        assert fault(pillow(with_alpha, "PNG")) == "colour"

    @pytest.mark.parametrize("grey_key", [0, 7])
    def test_transparent_grey_level(self, grey8: np.ndarray, grey_key: int) -> None:
        pixels = grey8.copy()
        pixels[pixels == grey_key] = grey_key + 1
        data = png(pixels, 8, 0, png_chunk(b"tRNS", struct.pack(">H", grey_key)))
        np.testing.assert_array_equal(decode_image(data).pixels, pixels)  # no pixel has that level
        pixels[5, 5] = grey_key
        assert fault(png(pixels, 8, 0, png_chunk(b"tRNS", struct.pack(">H", grey_key)))) == "colour"

    def test_a_little_colour_passes_and_much_does_not(self, grey8: np.ndarray) -> None:
        assert fault(pillow(coloured(grey8), "PNG")) == "colour"
        marked = rgb(grey8)
        marked[0, :8, 0] = 255  # 8 of 12,288 pixels
        marked[0, :8, 1:] = 0
        image = decode_image(pillow(marked, "PNG"))
        np.testing.assert_array_equal(image.pixels[1:], grey8[1:])

    def test_interlaced(self, grey8: np.ndarray) -> None:
        passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
        raw = b"".join(b"\0" + row.tobytes() for y, x, dy, dx in passes for row in grey8[y::dy, x::dx])
        header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 96, 128, 8, 0, 0, 0, 1))
        data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")
        np.testing.assert_array_equal(decode_image(data).pixels, grey8)

    def test_gamma_and_text_change_nothing(self, grey8: np.ndarray) -> None:
        # The pixels are detector values: a viewer's colour management is no part of them.
        extra = png_chunk(b"gAMA", struct.pack(">I", 100_000)) + png_chunk(b"tEXt", b"Comment\0acTL IEND")
        np.testing.assert_array_equal(decode_image(png(grey8, 8, 0, extra)).pixels, grey8)

    def test_animated(self, grey8: np.ndarray) -> None:
        frames = [Image.fromarray(grey8), Image.fromarray(255 - grey8)]
        data = pillow(frames[0], "PNG", save_all=True, append_images=frames[1:])
        assert fault(data) == "multi-frame"

    def test_a_flipped_bit_is_found(self, grey8: np.ndarray) -> None:
        data = bytearray(pillow(grey8, "PNG"))
        data[len(data) // 2] ^= 1
        assert fault(bytes(data)) == "corrupt"


class TestJpeg:
    def test_grey(self, grey8: np.ndarray) -> None:
        data = pillow(grey8, "JPEG", quality=95)
        image = decode_image(data, ".jpg")
        assert (image.source, image.bits, image.pixels.dtype) == ("jpeg", 8, np.uint8)
        np.testing.assert_array_equal(image.pixels, np.asarray(Image.open(io.BytesIO(data))))

    @pytest.mark.parametrize("options", [{"progressive": True}, {"quality": 30}, {"optimize": True}])
    def test_like_pillow(self, grey8: np.ndarray, options: dict[str, object]) -> None:
        data = pillow(grey8, "JPEG", **options)
        np.testing.assert_array_equal(decode_image(data).pixels, np.asarray(Image.open(io.BytesIO(data))))

    def test_grey_in_rgb(self, grey8: np.ndarray) -> None:
        image = decode_image(pillow(rgb(grey8), "JPEG", quality=95))
        assert np.abs(image.pixels.astype(int) - grey8).max() < 24
        assert np.abs(image.pixels.astype(int) - grey8).mean() < 2

    def test_colour(self, grey8: np.ndarray) -> None:
        assert fault(pillow(coloured(grey8), "JPEG")) == "colour"

    def test_cmyk(self, grey8: np.ndarray) -> None:
        assert fault(pillow(Image.fromarray(coloured(grey8)).convert("CMYK"), "JPEG")) in ("colour", "corrupt")

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_upright(self, grey8: np.ndarray, orientation: int) -> None:
        exif = Image.Exif()
        exif[274] = orientation
        data = pillow(grey8, "JPEG", quality=95, exif=exif)
        from PIL import ImageOps

        upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        np.testing.assert_array_equal(decode_image(data).pixels, upright)
        assert decode_image(data).pixels.flags["C_CONTIGUOUS"]

    def test_broken_exif(self, grey8: np.ndarray) -> None:
        data = pillow(grey8, "JPEG")
        exif = b"Exif\0\0" + b"MM\0*\0\0\0\x08" + b"\xff" * 40
        data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = np.asarray(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(decode_image(data).pixels, plain)

    def test_cut(self, grey8: np.ndarray) -> None:
        data = pillow(grey8, "JPEG")
        assert fault(data[: len(data) * 3 // 4]) == "truncated"


class TestTiff:
    def test_8_and_16_bit(self, grey8: np.ndarray, grey12: np.ndarray) -> None:
        image = decode_image(pillow(grey8, "TIFF"), ".tif")
        assert (image.source, image.bits) == ("tiff", 8)
        np.testing.assert_array_equal(image.pixels, grey8)
        image = decode_image(pillow(grey12 * 16, "TIFF"), ".tiff")
        assert (image.bits, image.pixels.dtype) == (16, np.uint16)
        np.testing.assert_array_equal(image.pixels, grey12 * 16)

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_byte_order_and_white_is_zero(
        self, grey12: np.ndarray, order: str, photometric: str, dtype: type[np.generic]
    ) -> None:
        pixels = (grey12 >> 4 if dtype is np.uint8 else grey12 * 16).astype(dtype)
        data = tiff(pixels, byteorder=order, photometric=photometric)
        if (order, photometric, dtype) == (">", "miniswhite", np.uint16):
            assert fault(data) == "corrupt"  # Pillow does not know this form: an error, not a negative
            return
        image = decode_image(data)
        assert image.pixels.dtype == dtype
        expected = np.iinfo(dtype).max - pixels if photometric == "miniswhite" else pixels
        np.testing.assert_array_equal(image.pixels, expected)

    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
    def test_compressed(self, grey8: np.ndarray, grey12: np.ndarray, compression: str) -> None:
        np.testing.assert_array_equal(decode_image(pillow(grey8, "TIFF", compression=compression)).pixels, grey8)
        data = pillow(grey12 * 16, "TIFF", compression=compression)
        np.testing.assert_array_equal(decode_image(data).pixels, grey12 * 16)

    def test_1_bit(self, grey8: np.ndarray) -> None:
        image = decode_image(pillow(Image.fromarray(grey8 > 100), "TIFF"))
        np.testing.assert_array_equal(image.pixels, np.where(grey8 > 100, 255, 0))

    def test_12_bit_keeps_its_scale(self, grey12: np.ndarray) -> None:
        # Two pixels in three bytes. Pillow's values run to 4095, so 16 bits would show the image nearly black.
        a, b = grey12[:, ::2].astype(np.uint32), grey12[:, 1::2].astype(np.uint32)
        packed = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], axis=2).astype(np.uint8).tobytes()
        tags = {256: 96, 257: 128, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 128, 279: len(packed)}
        directory = struct.pack("<H", len(tags))
        directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()) + b"\0\0\0\0"
        image = decode_image(b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory)
        assert image.bits == 12
        np.testing.assert_array_equal(image.pixels, grey12)

    def test_grey_in_rgb_and_palette(self, grey8: np.ndarray) -> None:
        np.testing.assert_array_equal(decode_image(pillow(rgb(grey8), "TIFF")).pixels, grey8)
        image = Image.fromarray(255 - grey8).convert("P")
        image.putpalette([255 - i // 3 for i in range(768)])
        np.testing.assert_array_equal(decode_image(pillow(image, "TIFF")).pixels, grey8)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_upright(self, grey8: np.ndarray, orientation: int) -> None:
        data = tiff(grey8, extratags=[(274, "H", 1, orientation, True)])
        turned = {
            1: grey8,
            2: grey8[:, ::-1],
            3: grey8[::-1, ::-1],
            4: grey8[::-1],
            5: grey8.T,
            6: grey8[::-1].T,
            7: grey8[::-1, ::-1].T,
            8: grey8.T[::-1],
        }
        np.testing.assert_array_equal(decode_image(data).pixels, turned[orientation])

    def test_refused(self, grey8: np.ndarray) -> None:
        assert fault(tiff(np.stack([grey8, grey8]), photometric="minisblack")) == "multi-frame"
        assert fault(tiff(grey8.astype(np.float32))) == "unsupported"
        assert fault(tiff(grey8.astype(np.int16))) == "unsupported"
        assert fault(tiff(grey8.astype(np.uint32))) == "unsupported"
        assert fault(pillow(coloured(grey8), "TIFF")) == "colour"

    @pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
    @pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
    def test_cut_with_the_directory_in_front(self, grey8: np.ndarray, compression: str | None, share: float) -> None:
        data = tiff(grey8, compression=compression)
        assert fault(data[: int(len(data) * share)]) == "truncated"

    def test_fewer_strips_than_the_height_needs(self, grey8: np.ndarray) -> None:
        data = tiff(grey8, rowsperstrip=32)
        assert decode_image(data).pixels.shape == grey8.shape
        taller = data.replace(struct.pack("<HHII", 257, 4, 1, 128), struct.pack("<HHII", 257, 4, 1, 160))
        assert taller != data
        assert fault(taller) == "truncated"
        planes = tiff(rgb(grey8).transpose(2, 0, 1), photometric="rgb", planarconfig="separate", rowsperstrip=32)
        np.testing.assert_array_equal(decode_image(planes).pixels, grey8)

    @pytest.mark.parametrize("compression", [None, "tiff_lzw"])
    def test_cut_with_the_directory_behind(self, grey8: np.ndarray, compression: str | None) -> None:
        data = pillow(grey8, "TIFF", compression=compression)
        assert fault(data[: len(data) // 2]) == "truncated"


class TestEveryFormat:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
    def test_too_small(self, kind: str, grey8: np.ndarray) -> None:
        assert fault(pillow(np.ascontiguousarray(grey8[:63, :64]), kind)) == "too-small"
        assert decode_image(pillow(np.ascontiguousarray(grey8[:64, :64]), kind)).pixels.shape == (64, 64)

    def test_bombs(self) -> None:
        side = int(MAX_PIXELS**0.5) + 1
        for width in (side, 60_000, 2**31 - 1):
            header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, side, 8, 0, 0, 0, 0))
            data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")
            assert fault(data) == "too-large"
        for width in (side, 60_000):
            tags = {256: width, 257: 60_000, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 60_000, 279: 4}
            directory = struct.pack("<H", len(tags))
            directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()) + b"\0\0\0\0"
            assert fault(b"II*\0" + struct.pack("<I", 12) + b"data" + directory) == "too-large"
        jpeg = bytearray(pillow(np.zeros((64, 64), np.uint8), "JPEG"))
        frame = jpeg.index(b"\xff\xc0")
        jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
        assert fault(bytes(jpeg)) == "too-large"

    @pytest.mark.parametrize("suffix", [".jpg", ".tif", ".dcm", ".JPEG"])
    def test_wrong_suffix(self, suffix: str, grey8: np.ndarray) -> None:
        assert fault(pillow(grey8, "PNG"), suffix) == "wrong-suffix"

    @pytest.mark.parametrize("suffix", ["", ".img", ".png.bak"])
    def test_unknown_suffix_is_no_fault(self, suffix: str, grey8: np.ndarray) -> None:
        np.testing.assert_array_equal(decode_image(pillow(grey8, "PNG"), suffix).pixels, grey8)

    @pytest.mark.parametrize(
        "data",
        [b"GIF89a" + b"\0" * 100, b"BM" + b"\0" * 100, b"%PDF-1.7", b"PK\x03\x04zip", b"hello", b"\0" * 5000, b"x"],
    )
    def test_not_an_image(self, data: bytes) -> None:
        assert fault(data, ".png") == "not-an-image"

    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        def kind(path: object) -> str:
            with pytest.raises(ImageError) as caught:
                read_image(path)  # type: ignore[arg-type]
            return caught.value.kind

        (tmp_path / "empty.png").touch()
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "loop.png").symlink_to("loop.png")
        assert kind(tmp_path / "empty.png") == "empty"
        assert kind(tmp_path / "pipe.png") == "unreadable"
        assert kind(tmp_path / "loop.png") == "unreadable"
        assert kind(tmp_path) == "unreadable"
        assert kind(tmp_path / "none.png") == "missing"
        assert kind(tmp_path / "empty.png" / "below.png") == "missing"
        assert kind("a\0b.png") == "missing"

    def test_too_many_bytes(self, tmp_path: Path, grey8: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.png").write_bytes(pillow(grey8, "PNG"))
        monkeypatch.setattr("cxr_embed.images.reader.MAX_FILE_BYTES", 100)
        with pytest.raises(ImageError) as caught:
            read_image(tmp_path / "a.png")
        assert caught.value.kind == "too-large"

    def test_content_id(self, tmp_path: Path, grey8: np.ndarray) -> None:
        import hashlib

        data = pillow(grey8, "PNG")
        (tmp_path / "a.png").write_bytes(data)
        assert read_image(tmp_path / "a.png").content_id == hashlib.sha256(data).hexdigest()


def test_real_radiographs_decode_as_in_pillow(real_data: Path) -> None:
    originals = sorted((real_data / "nih" / "originals").glob("*.png"))
    jpegs = sorted((real_data / "nih" / "images").glob("*.jpg"))[:40]
    assert originals
    assert jpegs
    for path in originals + jpegs:
        image = read_image(path)
        with Image.open(path) as known:
            if known.mode in ("L", "I;16"):
                np.testing.assert_array_equal(image.pixels, np.asarray(known))
            else:  # a few NIH files are grey in RGB, with an opaque alpha channel
                np.testing.assert_array_equal(image.pixels, np.asarray(known.convert("RGB"))[..., 0])
