"""Files that break a standard: those that have one right picture all the same, and what is said of the others."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from helpers import run_cli
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from test_dicom import NATIVE, close, compressed, dicom, fault, lut, ramp, window
from test_images import coloured, pillow, png, png_chunk, rgb, tiff

from cxr_embed import load_encoder, open_store
from cxr_embed.errors import ImageError
from cxr_embed.images import (
    NOTES,
    decode_image,
    looks_like_chest,
    preparation_of,
    prepared_encoder,
    read_image,
    stretch,
)
from cxr_embed.images.fields import numbers
from cxr_embed.images.prepare import LITTLE_USED, used_share
from cxr_embed.pipeline.embedding import embed
from cxr_embed.types import CxrImage


def odd(
    pixels: np.ndarray, bits: int = 12, syntax: str = uid.ExplicitVRLittleEndian, frame: bytes = b"", **fields: Any
) -> bytes:
    """A DICOM file; text goes into number fields as it stands, which pydicom would not write."""
    texts = {name: value for name, value in fields.items() if isinstance(value, str | list)}
    others = {name: value for name, value in fields.items() if name not in texts}
    made = pydicom.dcmread(io.BytesIO(dicom(pixels, bits, syntax, frame, **others)))
    tags = []
    for name, value in texts.items():
        tag = pydicom.tag.Tag(name)
        made[tag] = DataElement(tag, "LO", value)
        tags.append((struct.pack("<HH", tag.group, tag.element), dictionary_VR(tag).split()[0].encode()))
    made.save_as(out := io.BytesIO())
    data = out.getvalue()
    for tag_bytes, kind in tags:
        assert data.count(tag_bytes + b"LO") == 1
        data = data.replace(tag_bytes + b"LO", tag_bytes + kind)
    return data


def message(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    return str(caught.value)


def attempt(data: bytes) -> CxrImage | ImageError:
    try:
        return decode_image(data)
    except ImageError as error:
        return error


class TestNumbers:
    @pytest.mark.parametrize(
        ("written", "read"),
        [
            *(("2000,5", 2000.5), (" 2000,0 ", 2000.0), ("-0,25", -0.25), ("0,488", 0.488), (",5", 0.5)),
            *(("1,5e3", 1500.0), ("2000", 2000.0), ("1e2", 100.0), ("2000.0\0", 2000.0)),
            # a thousand separator looks the same
            *(("2,000", None), ("-1,024", None), ("12,000", None)),
            *(("1,2,3", None), ("1.000,5", None), ("2_000", None), ("", None), ("Meier", None), ("٢٠٠٠", None)),
        ],
    )
    def test_of_text(self, written: str, read: float | None) -> None:
        dataset = Dataset()
        dataset.add_new("StudyDescription", "LO", written)
        found = numbers(dataset, "StudyDescription")
        assert found == [read] if read is not None else not found or np.isnan(found).all()

    def test_windows_with_a_decimal_comma(self) -> None:
        for center, width in (("2000,0", "3000.0"), ("2000", "3000,0"), ("2000,0", "3000,00"), ("1999,5", "3000")):
            expected = window(ramp(12), float(center.replace(",", ".")), float(width.replace(",", ".")))
            close(decode_image(odd(ramp(12), WindowCenter=center, WindowWidth=width)), expected)

    def test_rescales_with_a_decimal_comma(self) -> None:
        fields = {"RescaleSlope": "0,5", "RescaleIntercept": "-100,0", "WindowCenter": 800, "WindowWidth": 1000}
        close(decode_image(odd(ramp(12), **fields)), window(ramp(12) * 0.5 - 100, 800, 1000))

    def test_what_may_be_thousands_is_not_guessed(self) -> None:
        image = decode_image(odd(ramp(12), WindowCenter="2,000", WindowWidth="3,000"))
        assert image.notes == ("window",)
        np.testing.assert_array_equal(image.pixels, ramp(12))
        assert "RescaleSlope" in message(odd(ramp(12), RescaleSlope="1,000", RescaleIntercept="0"))


LOSSLESS = [uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless]


class TestUnusedBits:
    """Whatever the syntax: the same stored values are the same picture."""

    @pytest.mark.parametrize("syntax", LOSSLESS)
    @pytest.mark.parametrize("signed", [False, True])
    @pytest.mark.parametrize("bits", [10, 12])
    @pytest.mark.parametrize("overlay", [0b1, 0b10, 0b1000, 0b1111])
    def test_overlays(self, overlay: int, bits: int, signed: bool, syntax: str) -> None:
        pixels = ramp(bits, signed)
        where = np.random.default_rng(0).random(pixels.shape) < 0.2
        stored = (pixels.astype(int) & (2**bits - 1)) | np.where(where, overlay << bits, 0)
        stored = stored.astype("u2").view(pixels.dtype)
        image = decode_image(dicom(stored, bits, syntax, compressed(syntax, stored, 16)))
        np.testing.assert_array_equal(image.pixels, pixels.astype(int) - int(pixels.min()))
        np.testing.assert_array_equal(image.pixels, decode_image(dicom(stored, bits)).pixels)

    @pytest.mark.parametrize("syntax", LOSSLESS)
    def test_high_bit(self, syntax: str) -> None:
        stored = ramp(12) << 4 | 7
        image = decode_image(dicom(stored, 12, syntax, compressed(syntax, stored, 16), HighBit=15))
        np.testing.assert_array_equal(image.pixels, ramp(12))

    def test_an_overlay_in_a_stream_of_just_enough_bits(self) -> None:
        stored = ramp(12) | np.where(ramp(12) % 7 == 0, 1 << 13, 0).astype(np.uint16)
        frame = bytearray(imagecodecs.jpegls_encode(stored))
        assert frame[frame.index(b"\xff\xf7") + 4] == 16
        image = decode_image(dicom(stored, 12, uid.JPEGLSLossless, bytes(frame)))
        np.testing.assert_array_equal(image.pixels, ramp(12))

    def test_a_lossy_stream_may_overshoot(self) -> None:
        pixels = np.where(np.indices((128, 128)).sum(axis=0) % 16 < 8, 4095, 200).astype(np.uint16)
        frame = imagecodecs.jpeg2k_encode(pixels, level=60, codecformat="j2k", bitspersample=16)
        assert imagecodecs.jpeg2k_decode(frame).max() > 4095
        image = decode_image(dicom(pixels, 12, uid.JPEG2000, frame))
        assert np.abs(image.pixels.astype(int) - pixels).max() < 200  # 4096 is not 0


class TestStatedRange:
    """Values that use a small part of the range that a file states."""

    @pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
    @pytest.mark.parametrize(("largest", "depth"), [(4095, 16), (3000, 16), (255, 12), (1023, 12), (16383, 16)])
    def test_the_largest_value_of_a_table(self, largest: int, depth: int, keyword: str) -> None:
        entries = np.arange(4096) * largest // 4095
        for photometric in ("MONOCHROME1", "MONOCHROME2"):
            fields = {keyword: lut(entries, 0, depth), "PhotometricInterpretation": photometric}
            share = entries[ramp(12)] / largest
            close(decode_image(dicom(ramp(12), 12, **fields)), 1 - share if photometric == "MONOCHROME1" else share)

    @pytest.mark.parametrize("largest", [20_000, 32_767, 40_000])
    def test_a_table_that_needs_its_bits_keeps_its_range(self, largest: int) -> None:
        entries = np.arange(4096) * largest // 4095
        close(decode_image(dicom(ramp(12), 12, VOILUTSequence=lut(entries, 0, 16))), entries[ramp(12)] / 65535)

    @pytest.mark.parametrize("syntax", [uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEG2000Lossless])
    @pytest.mark.parametrize("bits", [8, 10, 12])
    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    def test_the_precision_of_a_stream(self, photometric: str, bits: int, syntax: str) -> None:
        frame = compressed(syntax, ramp(bits), bits)
        pixels = ramp(bits).astype(np.uint16)
        data = dicom(pixels, 16, syntax, frame, PhotometricInterpretation=photometric)
        image = decode_image(data)
        assert image.bits == bits
        expected = 2**bits - 1 - pixels.astype(int) if photometric == "MONOCHROME1" else pixels
        np.testing.assert_array_equal(image.pixels, expected)

    @pytest.mark.parametrize("significant", [8, 10, 12])
    def test_significant_bits_of_a_png(self, significant: int) -> None:
        values = ramp(significant).astype(np.uint16)
        mark = png_chunk(b"sBIT", bytes([significant]))
        image = decode_image(png(values, 16, 0, mark))
        assert image.bits == significant
        np.testing.assert_array_equal(image.pixels, values)
        scaled = values << (16 - significant)  # as the standard has it
        whole = decode_image(png(scaled, 16, 0, mark))
        assert whole.bits == 16
        np.testing.assert_array_equal(whole.pixels, scaled)
        dark = np.where(scaled < 1 << significant, scaled, 0)
        assert decode_image(png(dark, 16, 0, mark)).bits == 16

    def test_significant_bits_of_other_pngs(self) -> None:
        values = ramp(12)
        for kind, mark in ((2, b"\x0c\x0c\x0c"), (6, b"\x0c\x0c\x0c\x10")):
            pixels = rgb(values)
            if kind == 6:
                pixels = np.concatenate([pixels, np.full((64, 64, 1), 65535, np.uint16)], axis=2)
            assert decode_image(png(pixels, 16, kind, png_chunk(b"sBIT", mark))).bits == 12
        for mark in (b"", b"\0", b"\x10", b"\xff"):
            assert decode_image(png(values, 16, 0, png_chunk(b"sBIT", mark))).bits == 16

    def test_where_nothing_tells_a_note_does(self, chest: Callable[..., np.ndarray]) -> None:
        film = chest(7, 256)  # 12 bits
        files = {
            "16 bits": dicom(film, 16),
            "inverted": dicom(film, 16, PhotometricInterpretation="MONOCHROME1"),
            "png": png(film, 16, 0),
            "tiff": tiff(film),
            "colour": png(rgb(film), 16, 2),
            "window": dicom(film, 12, WindowCenter=30_000, WindowWidth=60_000),
        }
        for name, data in files.items():
            assert decode_image(data).notes == ("range",), name
        assert decode_image(dicom(film, 12)).notes == ()
        assert decode_image(png(film * 16, 16, 0)).notes == ()

    def test_the_look_check_names_them(self, chest: Callable[..., np.ndarray]) -> None:
        films = [chest(seed, 256) for seed in range(20)]
        seen = [looks_like_chest(film, 4095) for film in films]
        assert np.mean(seen) >= 0.9
        assert not any(looks_like_chest(film, 65535) for film in films)
        assert not any(looks_like_chest(61_000 + film, 65535) for film in films)
        stretched = [stretch(CxrImage(pixels=film, bits=16, content_id="", source="png")) for film in films]
        assert [looks_like_chest(image.pixels, image.max_value) for image in stretched] == seen


class TestStretch:
    @given(
        bits=st.sampled_from([8, 10, 12, 16]),
        low=st.floats(0, 0.95),
        width=st.floats(0.001, 1),
        seed=st.integers(0, 2**20),
    )
    @settings(max_examples=60, deadline=None)
    def test_against_quantiles(self, bits: int, low: float, width: float, seed: int) -> None:
        full = 2**bits - 1
        rng = np.random.default_rng(seed)
        values = np.rint(full * np.clip(low + width * rng.random((90, 70)), 0, 1))
        pixels = values.astype(np.uint8 if bits <= 8 else np.uint16)
        image = CxrImage(pixels=pixels, bits=bits, content_id="id", source="png", notes=("aspect", "range"))
        done = stretch(image)
        first, last = np.quantile(pixels, [0.005, 0.995], method="inverted_cdf").astype(float)
        if first == last:
            assert done is image
            return
        expected = np.clip((pixels - first) / (last - first), 0, 1) * full
        assert np.abs(done.pixels - expected).max() <= 0.5 + 1e-6
        assert (done.bits, done.pixels.dtype, done.notes) == (bits, pixels.dtype, ("aspect",))

    def test_a_mark_does_not_count(self, chest: Callable[..., np.ndarray]) -> None:
        film = chest(7, 256)
        marked = film.copy()
        marked[:10, :20] = 65535
        assert used_share(marked, 65535) < LITTLE_USED
        assert used_share(stretch(CxrImage(pixels=marked, bits=16, content_id="", source="png")).pixels, 65535) > 0.9

    def test_one_shade_stays(self) -> None:
        for value in (0, 17, 255):
            image = CxrImage(pixels=np.full((64, 64), value, np.uint8), bits=8, content_id="", source="png")
            assert stretch(image) is image


JPEG = uid.JPEGBaseline8Bit


class TestEndOfStreams:
    @pytest.mark.parametrize("padding", [b"\0", b"\xff", b" ", b"\xff" * 7, b" " * 8, b"\0" * 500, b"\xff\0 \0"])
    @pytest.mark.parametrize("syntax", [JPEG, *LOSSLESS])
    def test_padding(self, syntax: str, padding: bytes) -> None:
        pixels = ramp(8)
        frame = imagecodecs.jpeg8_encode(pixels, level=95) if syntax == JPEG else compressed(syntax, pixels, 8)
        expected = decode_image(dicom(pixels, 8, syntax, frame)).pixels
        np.testing.assert_array_equal(decode_image(dicom(pixels, 8, syntax, frame + padding)).pixels, expected)
        assert fault(dicom(pixels, 8, syntax, frame[:-9] + padding)) == "truncated"

    @pytest.mark.parametrize("padding", [b"\xff", b"\0", b" "])
    @pytest.mark.parametrize("syntax", [*NATIVE[:3], uid.JPEGLSLossless])
    def test_padding_after_the_pixels(self, syntax: str, padding: bytes) -> None:
        frame = compressed(syntax, ramp(12), 12) if syntax == uid.JPEGLSLossless else b""
        data = dicom(ramp(12), 12, syntax, frame)
        for count in range(1, 30):
            np.testing.assert_array_equal(decode_image(data + padding * count).pixels, ramp(12))

    def test_a_jpeg_2000_file_instead_of_its_stream(self) -> None:
        whole = imagecodecs.jpeg2k_encode(ramp(12), level=0, reversible=True, codecformat="jp2", bitspersample=12)
        assert whole[4:8] == b"jP  "
        data = dicom(ramp(12), 12, uid.JPEG2000Lossless, whole)
        np.testing.assert_array_equal(decode_image(data).pixels, ramp(12))
        assert fault(dicom(ramp(12), 12, uid.JPEG2000Lossless, whole[:-9])) == "truncated"
        assert fault(dicom(ramp(12), 12, uid.JPEG2000Lossless, whole[:60])) in ("truncated", "corrupt")

    @pytest.mark.parametrize("fragments", [1, 4])
    @pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEGLSLossless, uid.RLELossless])
    def test_no_delimiter(self, syntax: str, fragments: int) -> None:
        pixels = ramp(12)
        made = pydicom.dcmread(io.BytesIO(dicom(pixels, 12)))
        if syntax == uid.RLELossless:
            made.compress(syntax)
        else:
            made.file_meta.TransferSyntaxUID = syntax
            made.PixelData = encapsulate([compressed(syntax, pixels, 12)], fragments_per_frame=fragments)
            made["PixelData"].VR = "OB"
        made.save_as(out := io.BytesIO())
        whole = out.getvalue()
        assert whole.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
        np.testing.assert_array_equal(decode_image(whole[:-8]).pixels, pixels)
        for lost in range(1, 20):
            assert fault(whole[: -8 - lost]) in ("truncated", "corrupt"), lost
        for cut in np.linspace(len(whole) // 2, len(whole) - 9, 40).astype(int):
            assert fault(whole[:cut]) in ("truncated", "corrupt"), cut


class TestWindows:
    @pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
    @pytest.mark.parametrize("width", ["0", "-3", "nan", "inf", "wide"])
    def test_an_unusable_one_is_left_out(self, width: str, function: str) -> None:
        image = decode_image(odd(ramp(12), WindowCenter="5", WindowWidth=width, VOILUTFunction=function))
        assert (image.bits, image.notes) == (12, ("window",))
        np.testing.assert_array_equal(image.pixels, ramp(12))
        inverted = odd(ramp(12), WindowCenter="5", WindowWidth=width, PhotometricInterpretation="MONOCHROME1")
        np.testing.assert_array_equal(decode_image(inverted).pixels, 4095 - ramp(12))

    def test_a_centre_that_is_no_number(self) -> None:
        image = decode_image(odd(ramp(12), WindowCenter="NaN", WindowWidth="3000"))
        assert image.notes == ("window",)
        np.testing.assert_array_equal(image.pixels, ramp(12))

    def test_the_next_one_is_taken(self) -> None:
        image = decode_image(odd(ramp(12), WindowCenter=["5", "1000"], WindowWidth=["0", "800"]))
        assert image.notes == ("window",)
        close(image, window(ramp(12), 1000, 800))

    @pytest.mark.parametrize("width", [0.5, 0.7326, 1.0, 1.5])
    def test_values_in_fractions(self, width: float) -> None:
        # By the letter of PS3.3 such a window is negative, or of a width of nothing and a centre half a range away.
        slope = 1 / 4095
        data = odd(ramp(12), RescaleSlope=slope, RescaleIntercept=0, WindowCenter=0.5, WindowWidth=width)
        image = decode_image(data)
        assert image.notes == ("window",)
        close(image, window(ramp(12) / 4095, 0.5, width, "LINEAR_EXACT"))

    def test_a_window_of_less_than_one_value(self) -> None:
        image = decode_image(odd(ramp(12), WindowCenter=300, WindowWidth=0.5))
        assert image.notes == ("window",)
        np.testing.assert_array_equal(image.pixels, ramp(12))

    def test_windows_in_order_have_no_note(self) -> None:
        for width in (1, 1.5, 2, 400):
            image = decode_image(dicom(ramp(12), 12, WindowCenter=300, WindowWidth=width))
            assert "window" not in image.notes
            close(image, window(ramp(12), 300, width))

    def test_a_slope_of_nothing(self) -> None:
        fields = {"RescaleSlope": 0, "RescaleIntercept": 7, "WindowCenter": 2000, "WindowWidth": 3000}
        image = decode_image(odd(ramp(12), **fields))
        assert image.notes == ("rescale",)
        close(image, window(ramp(12), 2000, 3000))


class TestColourLabels:
    """A grey picture in three channels is grey under one label only, so a wrong label does no harm."""

    @pytest.mark.parametrize("space", ["RGB", "YCBCR"])
    @pytest.mark.parametrize("label", ["RGB", "YBR_FULL", "YBR_FULL_422"])
    def test_jpeg(self, label: str, space: str, chest: Callable[..., np.ndarray]) -> None:
        grey = (chest(0, 128) >> 4).astype(np.uint8)
        frame = imagecodecs.jpeg8_encode(rgb(grey), level=95, colorspace="RGB", outcolorspace=space)
        image = decode_image(dicom(rgb(grey), 8, JPEG, frame, PhotometricInterpretation=label))
        assert np.abs(image.pixels.astype(int) - grey).max() < 16
        jfif = frame[:2] + b"\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0" + frame[2:]
        image = decode_image(dicom(rgb(grey), 8, JPEG, jfif, PhotometricInterpretation=label))
        assert np.abs(image.pixels.astype(int) - grey).max() < 16

    @pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEG2000Lossless, uid.JPEGLSLossless])
    @pytest.mark.parametrize("ybr", [False, True])
    @pytest.mark.parametrize("label", ["RGB", "YBR_FULL"])
    def test_other_syntaxes(self, label: str, ybr: bool, syntax: str) -> None:
        grey = ramp(8)
        middle = np.full_like(grey, 128)
        stored = np.stack([grey, middle, middle], axis=2) if ybr else rgb(grey)
        frame = b""
        if syntax == uid.JPEG2000Lossless:
            frame = imagecodecs.jpeg2k_encode(stored, level=0, reversible=True, codecformat="j2k", mct=False)
        elif syntax == uid.JPEGLSLossless:
            frame = imagecodecs.jpegls_encode(stored)
        image = decode_image(dicom(stored, 8, syntax, frame, PhotometricInterpretation=label))
        np.testing.assert_array_equal(image.pixels, grey)

    def test_a_colour_stream_that_is_said_to_be_grey(self, chest: Callable[..., np.ndarray]) -> None:
        grey = (chest(0, 128) >> 4).astype(np.uint8)
        frame = imagecodecs.jpeg8_encode(rgb(grey), level=95, colorspace="RGB", outcolorspace="YCBCR")
        inverse = decode_image(dicom(grey, 8, JPEG, frame, PhotometricInterpretation="MONOCHROME1"))
        assert np.abs(255 - inverse.pixels.astype(int) - grey).max() < 16
        frame = imagecodecs.jpeg8_encode(coloured(grey), level=95, colorspace="RGB", outcolorspace="YCBCR")
        assert fault(dicom(grey, 8, JPEG, frame)) == "colour"

    @pytest.mark.parametrize("label", ["RGB", "YBR_FULL"])
    def test_colour_is_colour_under_either(self, label: str) -> None:
        assert fault(dicom(coloured(ramp(8)), 8, PhotometricInterpretation=label)) == "colour"


FIELDS = [
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "WindowCenter"),
    *("WindowWidth", "RescaleIntercept", "RescaleSlope", "VOILUTFunction", "PresentationLUTShape", "PixelSpacing"),
    *("PixelAspectRatio", "PlanarConfiguration", "PatientAge", "PatientSex", "ViewPosition", "StudyDate", "Modality"),
]
SECRET = "Quirrelbach"


class TestOddFields:
    def file(self, pixels: np.ndarray) -> Dataset:
        fields: dict[str, Any] = {"WindowCenter": 2000, "WindowWidth": 3000, "RescaleSlope": 1, "RescaleIntercept": 0}
        return pydicom.dcmread(io.BytesIO(dicom(pixels, 12, PixelPaddingValue=0, PixelPaddingRangeLimit=0, **fields)))

    @pytest.mark.parametrize("implicit", [False, True])
    @pytest.mark.parametrize("kind", ["missing", "empty", "text", "several", "bytes"])
    @pytest.mark.parametrize("keyword", FIELDS)
    def test_each_is_named_or_made_up_for(self, keyword: str, kind: str, implicit: bool) -> None:
        made = self.file(ramp(12))
        tag = pydicom.tag.Tag(keyword)
        made.pop(tag, None)
        several = [SECRET, f"{SECRET}er"]
        value: Any = {"text": SECRET, "several": several, "bytes": SECRET.encode()}.get(kind)
        if kind != "missing":
            made[tag] = DataElement(tag, "OB" if kind == "bytes" else "LO", value)
        if implicit:  # the text is read as the dictionary's type, whatever was written
            made.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
        pydicom.dcmwrite(out := io.BytesIO(), made, implicit_vr=implicit, little_endian=True)
        result = attempt(out.getvalue())
        if isinstance(result, ImageError):
            assert keyword in str(result)
            assert SECRET[:4] not in str(result)
        else:
            assert result.pixels.shape == (64, 64)

    def test_what_is_missing_and_follows(self) -> None:
        expected = decode_image(dicom(ramp(12), 12)).pixels
        for keyword in ("PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation", "HighBit"):
            made = pydicom.dcmread(io.BytesIO(dicom(ramp(12), 12)))
            del made[keyword]
            made.save_as(out := io.BytesIO())
            np.testing.assert_array_equal(decode_image(out.getvalue()).pixels, expected)

    def test_spellings_of_monochrome(self) -> None:
        frame = compressed(uid.JPEGLSLossless, ramp(12), 12)
        for written in ("monochrome1", "Monochrome1 ", "MONOCHROME1"):
            np.testing.assert_array_equal(
                decode_image(odd(ramp(12), PhotometricInterpretation=written)).pixels, 4095 - ramp(12)
            )
            data = odd(ramp(12), syntax=uid.JPEGLSLossless, frame=frame, PhotometricInterpretation=written)
            np.testing.assert_array_equal(decode_image(data).pixels, 4095 - ramp(12))
        for data in (
            odd(ramp(12), PhotometricInterpretation="MONO"),
            odd(ramp(12), syntax=uid.JPEGLSLossless, frame=frame, PhotometricInterpretation="MONO"),
        ):
            assert fault(data) == "unsupported"

    def test_several_padding_values(self) -> None:
        made = self.file(ramp(12))
        del made.PixelPaddingRangeLimit
        made.PixelPaddingValue = [900, 3000]
        made.save_as(out := io.BytesIO())
        pixels = decode_image(out.getvalue()).pixels
        assert not pixels[(ramp(12) == 900) | (ramp(12) == 3000)].any()
        assert pixels[(ramp(12) > 900) & (ramp(12) < 3000)].all()

    def test_no_pixels(self) -> None:
        made = self.file(ramp(12))
        made.PixelData = None
        made.save_as(out := io.BytesIO())
        assert fault(out.getvalue()) == "truncated"

    def test_what_is_said(self) -> None:
        said = {
            "Rows": (SECRET, "the DICOM field Rows holds text; it should hold a number"),
            "RescaleSlope": (SECRET, "the DICOM field RescaleSlope holds text; it should hold a number"),
            "PixelPaddingValue": (SECRET, "the DICOM field PixelPaddingValue holds text; it should hold a number"),
        }
        for keyword, (text, expected) in said.items():
            made = self.file(ramp(12))
            tag = pydicom.tag.Tag(keyword)
            made[tag] = DataElement(tag, "LO", text)
            made.save_as(out := io.BytesIO())
            assert message(out.getvalue()) == expected

    def test_luts_without_their_parts(self) -> None:
        for keyword in ("LUTDescriptor", "LUTData"):
            for sequence in ("VOILUTSequence", "ModalityLUTSequence"):
                table = lut(np.arange(4096), 0, 12)
                del table[0][keyword]
                assert keyword in message(dicom(ramp(12), 12, **{sequence: table}))

    def test_palettes_and_syntaxes(self) -> None:
        palette: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
        for name in ("Red", "Green", "Blue"):
            palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
            palette[f"{name}PaletteColorLookupTableData"] = bytes(512)
        for keyword in list(palette)[1:]:
            assert keyword in message(dicom(ramp(8), 8, **{**palette, keyword: None}))
        assert "Palette" in message(
            dicom(ramp(8), 8, **{**palette, "RedPaletteColorLookupTableDescriptor": [256, 0, 3]})
        )
        for syntax in (b"1.2.3", b"1.2.840.10008.1.1"):
            data = dicom(ramp(12), 12).replace(b"1.2.840.10008.1.2.1\0", syntax.ljust(20, b"\0"), 1)
            assert "TransferSyntaxUID" in message(data)


class TestUpright:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("depth", [8, 16])
    def test_png(self, depth: int, orientation: int, chest: Callable[..., np.ndarray]) -> None:
        film = chest(3, 128)[:, :96]
        pixels = (film >> 4).astype(np.uint8) if depth == 8 else film * 16
        exif = Image.Exif()
        exif[274] = orientation
        data = png(pixels, depth, 0, png_chunk(b"eXIf", exif.tobytes()[6:]))
        from PIL import ImageOps

        upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        np.testing.assert_array_equal(decode_image(data).pixels, upright)
        assert decode_image(data).pixels.flags["C_CONTIGUOUS"]

    @pytest.mark.parametrize("exif", [b"", b"MM\0*", b"rubbish", b"MM\0*\0\0\0\x08" + b"\xff" * 40])
    def test_a_broken_exif_chunk(self, exif: bytes) -> None:
        result = attempt(png(ramp(8), 8, 0, png_chunk(b"eXIf", exif)))
        if isinstance(result, ImageError):
            assert "Exif" in str(result)
        else:
            np.testing.assert_array_equal(result.pixels, ramp(8))


class TestPixelAspect:
    @pytest.mark.parametrize(
        ("fields", "noted"),
        [
            ({"PixelSpacing": [0.14, 0.14]}, False),
            ({"PixelSpacing": [0.14, 0.2]}, True),
            ({"ImagerPixelSpacing": [0.2, 0.14]}, True),
            ({"PixelSpacing": [0.14, 0.14], "PixelAspectRatio": [1, 2]}, False),  # only where there is no spacing
            ({"PixelAspectRatio": [1, 2]}, True),
            ({"PixelAspectRatio": [1, 1]}, False),
            ({"PixelAspectRatio": [0, 1]}, False),
            ({"PixelSpacing": None}, False),
        ],
    )
    def test_dicom(self, fields: dict[str, Any], noted: bool) -> None:
        assert decode_image(dicom(ramp(12), 12, **fields)).notes == (("aspect",) if noted else ())

    @pytest.mark.parametrize(("across", "down"), [(1, 1), (300, 300), (300, 301), (300, 150), (1, 2), (0, 0), (0, 5)])
    def test_other_formats(self, across: int, down: int) -> None:
        noted = ("aspect",) if across and down and max(across, down) > 1.01 * min(across, down) else ()
        pixels = ramp(8)
        files = [
            png(pixels, 8, 0, png_chunk(b"pHYs", struct.pack(">IIB", across, down, 1))),
            pillow(pixels, "JPEG", dpi=(across, down)),
        ]
        if across and down:
            files.append(tiff(pixels, resolution=(across, down)))
        for data in files:
            assert decode_image(data).notes == noted


class TestColour:
    def files(self, grey: np.ndarray) -> dict[str, tuple[bytes, np.ndarray]]:
        """Files in colour, each with its channels."""
        tint = np.stack([grey * 0.8, grey * 0.9, grey], axis=2).astype(np.uint8)
        marked = coloured(grey)
        ybr = imagecodecs.jpeg8_encode(tint, level=100, colorspace="RGB", outcolorspace="YCBCR")
        return {
            "tinted png": (pillow(tint, "PNG"), tint),
            "marked png": (pillow(marked, "PNG"), marked),
            "tinted jpeg": (pillow(tint, "JPEG", quality=100, subsampling=0), tint),
            "marked tiff": (pillow(marked, "TIFF"), marked),
            "tinted dicom": (dicom(tint, 8), tint),
            "jpeg in dicom": (dicom(tint, 8, JPEG, ybr, PhotometricInterpretation="YBR_FULL_422"), tint),
        }

    def test_only_where_it_is_asked_for(self) -> None:
        grey = np.clip(ramp(8), 60, 250)
        for name, (data, channels) in self.files(grey).items():
            assert fault(data) == "colour", name
            image = decode_image(data, colour="grey")
            luma = channels @ np.array([0.299, 0.587, 0.114])
            assert np.abs(image.pixels - luma).max() < 4, name
            assert image.notes == ("colour",), name

    def test_what_is_grey_stays_as_it_is(self, tmp_path: Path) -> None:
        marked = coloured(ramp(8))
        pixels = decode_image(pillow(marked, "PNG"), colour="grey").pixels
        same = (marked == marked[..., :1]).all(axis=2)
        np.testing.assert_array_equal(pixels[same], ramp(8)[same])
        for data in (pillow(rgb(ramp(8)), "PNG"), pillow(ramp(8), "PNG"), dicom(ramp(12), 12), dicom(rgb(ramp(8)), 8)):
            (tmp_path / "a").write_bytes(data)
            one, two = read_image(tmp_path / "a"), read_image(tmp_path / "a", colour="grey")
            np.testing.assert_array_equal(one.pixels, two.pixels)
            assert one.notes == two.notes == ()

    def test_transparency_is_refused_all_the_same(self) -> None:
        half = np.stack([ramp(8), np.full_like(ramp(8), 128)], axis=2)
        with pytest.raises(ImageError):
            decode_image(pillow(half, "PNG"), colour="grey")


def test_every_note_has_its_sentence() -> None:
    from typing import get_args

    from cxr_embed.types import ImageNote

    assert set(NOTES) == set(get_args(ImageNote))


NOTED = {
    "bits16_values12_nowin": "range",
    "png16_12bitvalues": "range",
    "txt_wc_nan": "window",
    "win_small_slope": "window",
}


def test_cases_that_failed(real_data: Path) -> None:
    folder = real_data / "cases" / "dicom"
    right = read_image(folder / "right.png").pixels
    read = []
    for path in sorted(folder.iterdir()):
        if path.stem in ("pdf_doc", "pix_empty", "right"):
            continue
        image = read_image(path)
        read.append(path.stem)
        inverted = "mono1" in path.stem or path.stem in ("pi_lower1", "pad_multi")
        likeness = np.corrcoef(image.pixels.ravel(), right.ravel())[0, 1]
        assert (-likeness if inverted else likeness) > 0.999, path.stem
        assert image.notes == ((NOTED[path.stem],) if path.stem in NOTED else ()), path.stem
        share = used_share(image.pixels, image.max_value)
        assert (share < LITTLE_USED) == ("range" in image.notes), path.stem
        assert share > 0.6 or "range" in image.notes, path.stem
        assert used_share(stretch(image).pixels, image.max_value) > 0.99, path.stem
    assert len(read) == 14
    for name in ("pdf_doc", "pix_empty"):
        with pytest.raises(ImageError):
            read_image(folder / f"{name}.dcm")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_run_tells_what_was_odd(workers: str, tmp_path: Path, chest: Callable[..., np.ndarray]) -> None:
    films = [chest(seed, 128) for seed in range(3)]
    files = {
        "a.dcm": dicom(films[0], 16),
        "b.dcm": dicom(films[1], 12, PixelSpacing=[1, 2], WindowCenter=2000, WindowWidth=0.5),
        "c.dcm": dicom(films[2], 12),
        "d.dcm": dicom(films[2], 16, PatientSex="F"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    rows = "".join(f"{name[0]},{name},{name[0]}\n" for name in files)
    (tmp_path / "m.csv").write_text("image_id,path,patient_id\n" + rows)
    command = ["embed", "m.csv", "--encoder", "hog", "--workers", workers]
    told = run_cli(*command, "--store", "s", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    for note, ids in (("range", "a, d"), ("window", "b"), ("aspect", "b")):
        typed = NOTES[note].replace("`prepare='stretch'`", "--prepare stretch")  # type: ignore[index]
        assert f"{typed} ({ids})" in told.stdout
    as_json = json.loads(run_cli(*command, "--store", "t", "--json", cwd=tmp_path).stdout)
    assert as_json["odd_files"] == {"range": ["a", "d"], "window": ["b"], "aspect": ["b"]}
    again = json.loads(run_cli(*command, "--store", "t", "--json", cwd=tmp_path).stdout)
    assert again["odd_files"] == {}


class TestPrepare:
    @pytest.fixture
    def films(self, tmp_path: Path, chest: Callable[..., np.ndarray]) -> Path:
        """Films of 12 bits, each with a copy that says 16 under another patient."""
        rows = ["image_id,path,patient_id"]
        for seed in range(6):
            film = chest(seed, 256)
            (tmp_path / f"a{seed}.dcm").write_bytes(dicom(film, 12))
            (tmp_path / f"b{seed}.dcm").write_bytes(dicom(film, 16))
            rows += [f"{kind}{seed},{kind}{seed}.dcm,{kind}{seed}" for kind in "ab"]
        (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
        return tmp_path

    def test_films_find_themselves(self, films: Path) -> None:
        summary = embed(films / "m.csv", "hog", films / "s", prepare="stretch", workers=1)
        assert summary.odd_files == {}
        store = open_store(films / "s")
        for seed in range(6):
            a, b = store.read([f"a{seed}", f"b{seed}"]).vectors.astype(np.float32)
            assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.999
        built = run_cli("index", "build", "s", "--manifest", "m.csv", "--out", "i", cwd=films)
        assert built.returncode == 0, built.stderr
        found = run_cli("search", "i", "--image", "b3.dcm", "-k", "2", "--json", cwd=films)
        assert found.returncode == 0, found.stderr
        assert "a3" in found.stdout
        assert "b3" in found.stdout

    def test_a_preparation_is_part_of_the_fingerprint(self, films: Path) -> None:
        plain, stretched = load_encoder("hog"), prepared_encoder(load_encoder("hog"), "stretch")
        assert plain.spec.fingerprint != stretched.spec.fingerprint
        assert plain.spec.model == stretched.spec.model
        assert (preparation_of(plain.spec), preparation_of(stretched.spec)) == (None, "stretch")
        image = read_image(films / "b0.dcm")
        np.testing.assert_array_equal(stretched.preprocess(image), plain.preprocess(stretch(image)))
        embed(films / "m.csv", "hog", films / "s", limit=1, workers=1)
        refused = run_cli("embed", "m.csv", "--store", "s", "--encoder", "hog", "--prepare", "stretch", cwd=films)
        assert refused.returncode == 1
        assert "give another --store" in refused.stderr
        unknown = run_cli("embed", "m.csv", "--store", "t", "--encoder", "hog", "--prepare", "sharpen", cwd=films)
        assert unknown.returncode == 2
        assert "'--prepare': " in unknown.stderr
        assert "sharpen" in unknown.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_run_that_goes_on_in_grey(workers: str, tmp_path: Path, chest: Callable[..., np.ndarray]) -> None:
    grey = (chest(1, 128) >> 4).astype(np.uint8)
    tint = np.stack([grey * 0.7, grey * 0.8, grey], axis=2).astype(np.uint8)
    Image.fromarray(tint).save(tmp_path / "t.png")
    Image.fromarray(grey).save(tmp_path / "g.png")
    (tmp_path / "m.csv").write_text("image_id,path,patient_id\nt,t.png,t\ng,g.png,g\n")
    command = ["embed", "m.csv", "--store", "s", "--encoder", "hog", "--workers", workers, "--json"]
    first = json.loads(run_cli(*command, cwd=tmp_path).stdout)
    assert [(fault["image_id"], fault["kind"]) for fault in first["failed"]] == [("t", "colour")]
    done = run_cli(*command, "--colour", "grey", cwd=tmp_path)  # what failed for its colour is tried again
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["failed"], told["stored"], told["odd_files"]) == ([], 2, {"colour": ["t"]})
    assert run_cli(*command, cwd=tmp_path).returncode == 0  # and is known from then on
    assert run_cli(*command, "--colour", "red", cwd=tmp_path).returncode == 2
