"""DICOM: the stages against a plain reference, the syntaxes against the pixels that went in, and nothing leaks."""

from __future__ import annotations

import io
import logging
import os
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from cxr_embed.errors import ImageError
from cxr_embed.images import decode_image, read_dicom_header, read_image
from cxr_embed.io.digests import keyed_hash
from cxr_embed.types import CxrImage, DicomFields


def dataset(pixels: np.ndarray, bits: int = 0, **fields: Any) -> Dataset:
    """A minimal DX image in memory; `fields` are set last."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    made.Modality = "DX"
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    made.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    made.BitsAllocated = 8 * pixels.itemsize
    made.BitsStored = bits or made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def dicom(
    pixels: np.ndarray, bits: int = 0, syntax: str = uid.ExplicitVRLittleEndian, frame: bytes = b"", **fields: Any
) -> bytes:
    """The file of `dataset`, native or with one compressed frame."""
    made = dataset(pixels, bits, **fields)
    made.file_meta.TransferSyntaxUID = syntax
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    made.PixelData = encapsulate([frame]) if frame else pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    made["PixelData"].VR = "OB" if frame or pixels.itemsize == 1 else "OW"
    out = io.BytesIO()
    pydicom.dcmwrite(out, made, enforce_file_format=True)
    return out.getvalue()


def fault(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    return caught.value.kind


def ramp(bits: int, signed: bool = False) -> np.ndarray:
    """Every stored value of that many bits, in two dimensions of 64 or more."""
    low = -(2 ** (bits - 1)) if signed else 0
    values = low + np.arange(max(2**bits, 4096)) % 2**bits
    kind = "i" if signed else "u"
    return values.reshape(64, -1).astype(f"{kind}{1 if bits <= 8 else 2}")


def lut(entries: Any, first: int, depth: int, as_bytes: str = "") -> Sequence:
    item = Dataset()
    entries = np.asarray(entries)
    item.LUTDescriptor = [len(entries) % 65536, first, depth]
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    item.LUTData = entries.astype(as_bytes).tobytes() if as_bytes else entries.tolist()
    item["LUTData"].VR = "OW" if as_bytes else "US"
    return Sequence([item])


def window(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """PS3.3, C.11.2.1.2 and C.11.2.1.3, case by case: 0 to 1."""
    shown = np.empty(values.shape)
    for place, x in np.ndenumerate(values.astype(np.float64)):
        if function == "SIGMOID":
            exponent = -4 * (x - center) / width
            shown[place] = 0.0 if exponent > 700 else 1 / (1 + np.exp(exponent))
            continue
        c, w = (center - 0.5, width - 1) if function == "LINEAR" else (center, width)
        if x <= c - w / 2:
            shown[place] = 0
        elif x > c + w / 2:
            shown[place] = 1
        else:
            shown[place] = (x - c) / w + 0.5
    return shown


def close(image: CxrImage, share: np.ndarray) -> None:
    """The image is that share of full scale, up to rounding."""
    assert image.bits == 16
    assert np.abs(image.pixels - 65535 * share).max() <= 0.5 + 1e-6


NATIVE = [
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
]


class TestStoredValues:
    @pytest.mark.parametrize("syntax", NATIVE)
    @pytest.mark.parametrize("signed", [False, True])
    @pytest.mark.parametrize("bits", [8, 10, 12, 16])
    def test_native(self, bits: int, signed: bool, syntax: str) -> None:
        pixels = ramp(bits, signed)
        image = decode_image(dicom(pixels, bits, syntax), ".dcm")
        assert (image.bits, image.source, image.pixels.dtype) == (bits, "dicom", np.uint8 if bits == 8 else np.uint16)
        np.testing.assert_array_equal(image.pixels, pixels.astype(int) - int(pixels.min()))

    @pytest.mark.parametrize("signed", [False, True])
    def test_rubbish_in_the_unused_bits(self, signed: bool) -> None:
        pixels = ramp(12, signed)
        rubbish = np.random.default_rng(0).integers(0, 16, pixels.shape)
        stored = ((pixels.astype(int) & 0xFFF) | rubbish << 12).astype("u2").view(pixels.dtype)
        image = decode_image(dicom(stored, 12))
        np.testing.assert_array_equal(image.pixels, pixels.astype(int) - int(pixels.min()))

    @pytest.mark.parametrize("signed", [False, True])
    @pytest.mark.parametrize("high_bit", [12, 15])
    def test_high_bit_above_the_stored_bits(self, signed: bool, high_bit: int) -> None:
        pixels = ramp(12, signed)
        shift = high_bit - 11
        below = (1 << shift) - 1  # rubbish below the value
        stored = ((pixels.astype(int) & 0xFFF) << shift | below).astype("u2").view(pixels.dtype)
        image = decode_image(dicom(stored, 12, HighBit=high_bit))
        np.testing.assert_array_equal(image.pixels, pixels.astype(int) - int(pixels.min()))

    def test_high_bit_out_of_place(self) -> None:
        for high_bit in (5, 16, 200):
            assert fault(dicom(ramp(12), 12, HighBit=high_bit)) == "corrupt"

    def test_one_frame(self) -> None:
        assert decode_image(dicom(ramp(12), 12, NumberOfFrames=1)).pixels.shape == (64, 64)
        pixels = ramp(12)
        two = dicom(np.concatenate([pixels, pixels]), 12, Rows=64, NumberOfFrames=2)
        assert fault(two) == "multi-frame"

    def test_no_preamble(self) -> None:
        pixels = ramp(12)
        data = dicom(pixels, 12, uid.ExplicitVRLittleEndian)
        np.testing.assert_array_equal(decode_image(data[132:]).pixels, pixels)

    @pytest.mark.parametrize("implicit", [True, False])
    @pytest.mark.parametrize("first", [{"SpecificCharacterSet": "ISO_IR 100"}, {"ImageType": ["ORIGINAL"]}, {}])
    def test_no_first_group(self, implicit: bool, first: dict[str, Any]) -> None:
        pixels = ramp(12)
        made = dataset(pixels, 12, **first)
        made.PixelData = pixels.tobytes()
        made["PixelData"].VR = "OW"
        del made.file_meta
        out = io.BytesIO()
        pydicom.dcmwrite(out, made, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
        np.testing.assert_array_equal(decode_image(out.getvalue()).pixels, pixels)

    def test_pixels_are_padded_to_an_even_length(self) -> None:
        pixels = np.arange(65 * 65, dtype=np.uint32).reshape(65, 65).astype(np.uint8)
        data = dicom(pixels, 8)
        np.testing.assert_array_equal(decode_image(data).pixels, pixels)


def compressed(syntax: str, pixels: np.ndarray, bits: int) -> bytes:
    """A lossless stream of the stored values, as two's complement of `bits` where they are signed."""
    plain = (pixels.astype(int) & (2**bits - 1)).astype(f"u{pixels.itemsize}")
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        return imagecodecs.ljpeg_encode(plain, bitspersample=bits)
    if syntax == uid.JPEGLSLossless:
        return imagecodecs.jpegls_encode(plain)
    return imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="j2k", bitspersample=bits)


class TestCompressed:
    @pytest.mark.parametrize(
        "syntax", [uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless]
    )
    @pytest.mark.parametrize("signed", [False, True])
    @pytest.mark.parametrize("bits", [8, 10, 12, 16])
    def test_lossless(self, bits: int, signed: bool, syntax: str) -> None:
        pixels = ramp(bits, signed)
        image = decode_image(dicom(pixels, bits, syntax, compressed(syntax, pixels, bits)))
        assert image.bits == bits
        np.testing.assert_array_equal(image.pixels, pixels.astype(int) - int(pixels.min()))

    @pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless])
    @pytest.mark.parametrize("signed", [False, True])
    @pytest.mark.parametrize("bits", [8, 12, 16])
    def test_as_pydicom_compresses(self, bits: int, signed: bool, syntax: str) -> None:
        pixels = ramp(bits, signed)
        made = pydicom.dcmread(io.BytesIO(dicom(pixels, bits)))
        made.compress(syntax)
        out = io.BytesIO()
        made.save_as(out)
        image = decode_image(out.getvalue())
        np.testing.assert_array_equal(image.pixels, pixels.astype(int) - int(pixels.min()))

    def test_jpeg_baseline(self, chest: Callable[..., np.ndarray]) -> None:
        pixels = (chest(0, 128) >> 4).astype(np.uint8)
        frame = imagecodecs.jpeg8_encode(pixels, level=90)
        image = decode_image(dicom(pixels, 8, uid.JPEGBaseline8Bit, frame))
        np.testing.assert_array_equal(image.pixels, np.asarray(Image.open(io.BytesIO(frame))))

    def test_jpeg_of_12_bits(self, chest: Callable[..., np.ndarray]) -> None:
        pixels = chest(0, 128)
        frame = imagecodecs.jpeg8_encode(pixels, level=98, bitspersample=12)
        image = decode_image(dicom(pixels, 12, uid.JPEGExtended12Bit, frame))
        assert image.bits == 12
        assert np.abs(image.pixels.astype(int) - pixels).max() < 32

    @pytest.mark.parametrize("syntax", [uid.JPEG2000, uid.JPEGLSNearLossless])
    def test_lossy(self, syntax: str, chest: Callable[..., np.ndarray]) -> None:
        pixels = chest(0, 128)
        if syntax == uid.JPEG2000:
            frame = imagecodecs.jpeg2k_encode(pixels, level=60, codecformat="j2k", bitspersample=12)
        else:
            frame = imagecodecs.jpegls_encode(pixels, level=3)
        image = decode_image(dicom(pixels, 12, syntax, frame))
        assert np.abs(image.pixels.astype(int) - pixels).max() <= 24

    def test_several_fragments(self) -> None:
        pixels = ramp(12)
        frame = compressed(uid.JPEG2000Lossless, pixels, 12)
        made = pydicom.dcmread(io.BytesIO(dicom(pixels, 12, uid.JPEG2000Lossless, frame)))
        made.PixelData = encapsulate([frame], fragments_per_frame=4)
        out = io.BytesIO()
        made.save_as(out)
        np.testing.assert_array_equal(decode_image(out.getvalue()).pixels, pixels)

    @pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless])
    def test_another_size_than_the_header(self, syntax: str) -> None:
        frame = compressed(syntax, ramp(12), 12)
        for fields in ({"Rows": 128}, {"Columns": 128}, {"Rows": 9000, "Columns": 9000}):
            assert fault(dicom(ramp(12), 12, syntax, frame, **fields)) == "corrupt"

    @pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless])
    @pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
    def test_a_cut_frame(self, syntax: str, share: float) -> None:
        # Given to their decoders, these would turn grey half way (JPEG) or never return (JPEG-LS).
        frame = compressed(syntax, ramp(12), 12)
        assert fault(dicom(ramp(12), 12, syntax, frame[: int(len(frame) * share)])) == "truncated"

    def test_no_frame_and_rubbish(self) -> None:
        for frame in (b"\0\0", b"not a jpeg at all", b"\xff\xd8\xff\xd9"):
            assert fault(dicom(ramp(8), 8, uid.JPEGBaseline8Bit, frame)) == "corrupt"
        assert fault(dicom(ramp(8), 8, uid.RLELossless, b"\1\0\0\0" + b"\0" * 80)) == "corrupt"

    def test_no_decoder(self) -> None:
        assert fault(dicom(ramp(8), 8, uid.MPEG2MPML, b"\0\0\1\xb3")) == "no-decoder"


class TestDisplay:
    @pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
    @pytest.mark.parametrize("center_width", [(2048, 4096), (1000, 400.5), (0, 1), (300, 1), (5000, 10)])
    def test_window(self, function: str, center_width: tuple[float, float]) -> None:
        center, width = center_width
        image = decode_image(dicom(ramp(12), 12, WindowCenter=center, WindowWidth=width, VOILUTFunction=function))
        close(image, window(ramp(12), center, width, function))

    def test_first_of_several_windows(self) -> None:
        image = decode_image(dicom(ramp(12), 12, WindowCenter=[1000, 50], WindowWidth=[800, 60]))
        close(image, window(ramp(12), 1000, 800))

    def test_blank_window_and_function(self) -> None:
        np.testing.assert_array_equal(
            decode_image(dicom(ramp(12), 12, WindowCenter=None, WindowWidth=None)).pixels, ramp(12)
        )
        image = decode_image(dicom(ramp(12), 12, WindowCenter=1000, WindowWidth=800, VOILUTFunction=""))
        close(image, window(ramp(12), 1000, 800))

    def test_rescale_then_window(self) -> None:
        pixels = ramp(12, signed=True)
        image = decode_image(
            dicom(pixels, 12, RescaleSlope="0.5", RescaleIntercept="-100", WindowCenter=0, WindowWidth=600)
        )
        close(image, window(pixels * 0.5 - 100, 0, 600))

    def test_negative_slope(self) -> None:
        plain = decode_image(dicom(ramp(12), 12, RescaleSlope="-2", RescaleIntercept="5"))
        np.testing.assert_array_equal(plain.pixels, 4095 - ramp(12))
        image = decode_image(
            dicom(ramp(12), 12, RescaleSlope=-1, RescaleIntercept=0, WindowCenter=-900, WindowWidth=200)
        )
        close(image, window(-ramp(12).astype(float), -900, 200))

    @given(
        bits=st.sampled_from([8, 10, 12]),
        signed=st.booleans(),
        slope=st.sampled_from([1.0, 0.25, 2.0, -1.0, -0.5, 1.7]),
        intercept=st.integers(-3000, 3000),
        center=st.integers(-4000, 8000),
        width=st.integers(1, 8000),
        function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
        inverse=st.booleans(),
    )
    @settings(max_examples=60, deadline=None)
    def test_any_rescale_and_window(
        self,
        bits: int,
        signed: bool,
        slope: float,
        intercept: int,
        center: int,
        width: int,
        function: str,
        inverse: bool,
    ) -> None:
        pixels = ramp(bits, signed)
        fields = {"RescaleSlope": slope, "RescaleIntercept": intercept, "WindowCenter": center, "WindowWidth": width}
        photometric = "MONOCHROME1" if inverse else "MONOCHROME2"
        data = dicom(pixels, bits, VOILUTFunction=function, PhotometricInterpretation=photometric, **fields)
        share = window(pixels * slope + intercept, center, width, function)
        close(decode_image(data), 1 - share if inverse else share)

    def test_like_pydicom_and_highdicom(self) -> None:
        from highdicom.pixels import apply_voi_window
        from pydicom.pixels import apply_modality_lut, apply_windowing

        pixels = ramp(12)
        fields = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 1200, "WindowWidth": 3000}
        data = dicom(pixels, 12, **fields)
        made = pydicom.dcmread(io.BytesIO(data))
        theirs = apply_windowing(apply_modality_lut(pixels, made), made)
        share = (theirs - theirs.min()) / (theirs.max() - theirs.min())
        close(decode_image(data), share)
        close(decode_image(data), apply_voi_window(pixels * 2.0 - 1000, 1200, 3000, output_range=(0.0, 1.0)))

    @pytest.mark.parametrize("shape", [None, "INVERSE"])
    def test_monochrome1(self, shape: str | None) -> None:
        fields = {"PhotometricInterpretation": "MONOCHROME1"} | ({"PresentationLUTShape": shape} if shape else {})
        np.testing.assert_array_equal(decode_image(dicom(ramp(12), 12, **fields)).pixels, 4095 - ramp(12))
        windowed = decode_image(dicom(ramp(12), 12, WindowCenter=1000, WindowWidth=800, **fields))
        close(windowed, 1 - window(ramp(12), 1000, 800))

    @pytest.mark.parametrize("as_bytes", ["", "<u2"])
    @pytest.mark.parametrize("first", [0, 700])
    def test_voi_lut(self, first: int, as_bytes: str) -> None:
        entries = np.rint(65535 * np.linspace(0, 1, 1000) ** 2).astype(int)
        data = dicom(ramp(12), 12, VOILUTSequence=lut(entries, first, 16, as_bytes), WindowCenter=1, WindowWidth=2)
        expected = entries[np.clip(ramp(12).astype(int) - first, 0, 999)]  # the LUT goes before the window
        np.testing.assert_array_equal(decode_image(data).pixels, expected)

    def test_voi_lut_of_8_bits_with_many_entries(self) -> None:
        entries = np.arange(4096) >> 4
        for sequence in (lut(entries, 0, 8), lut(entries, 0, 8, "u1")):
            close(decode_image(dicom(ramp(12), 12, VOILUTSequence=sequence)), entries[ramp(12)] / 255)

    def test_voi_lut_whose_depth_is_understated(self) -> None:
        entries = np.arange(4096)
        for depth in (0, 8):
            close(decode_image(dicom(ramp(12), 12, VOILUTSequence=lut(entries, 0, depth))), ramp(12) / 4095)

    def test_voi_lut_of_65536_entries(self) -> None:
        entries = 65535 - np.arange(65536)
        image = decode_image(dicom(ramp(16), 16, VOILUTSequence=lut(entries, 0, 16, "<u2")))
        np.testing.assert_array_equal(image.pixels, entries[ramp(16)])

    @pytest.mark.parametrize("first", [-2048, 65536 - 2048])
    def test_voi_lut_of_signed_values(self, first: int) -> None:
        entries = np.rint(np.linspace(0, 63.9, 4096) ** 2).astype(int)
        data = dicom(ramp(12, signed=True), 12, VOILUTSequence=lut(entries, first, 12))
        close(decode_image(data), entries[ramp(12, signed=True).astype(int) + 2048] / 4095)

    def test_voi_lut_in_big_endian(self) -> None:
        entries = np.arange(4096) // 2
        data = dicom(ramp(12), 12, uid.ExplicitVRBigEndian, VOILUTSequence=lut(entries, 0, 12, ">u2"))
        close(decode_image(data), entries[ramp(12)] / 4095)

    def test_modality_lut(self) -> None:
        entries = np.rint(4095 * np.linspace(0, 1, 4096) ** 0.5).astype(int)
        fields = {"ModalityLUTSequence": lut(entries, 0, 12)}
        close(decode_image(dicom(ramp(12), 12, **fields)), entries[ramp(12)] / 4095)
        windowed = decode_image(dicom(ramp(12), 12, WindowCenter=1000, WindowWidth=800, **fields))
        close(windowed, window(entries[ramp(12)], 1000, 800))

    def test_functional_groups(self) -> None:
        rescale, voi, groups = Dataset(), Dataset(), Dataset()
        rescale.RescaleSlope, rescale.RescaleIntercept = 2, -100
        voi.WindowCenter, voi.WindowWidth = 1000, 800
        groups.PixelValueTransformationSequence, groups.FrameVOILUTSequence = [rescale], [voi]
        image = decode_image(dicom(ramp(12), 12, NumberOfFrames=1, SharedFunctionalGroupsSequence=[groups]))
        close(image, window(ramp(12) * 2.0 - 100, 1000, 800))

    def test_padding_is_black(self) -> None:
        for photometric in ("MONOCHROME1", "MONOCHROME2"):
            fields = {"PhotometricInterpretation": photometric, "WindowCenter": 2048, "WindowWidth": 4096}
            pixels = decode_image(
                dicom(ramp(12), 12, PixelPaddingValue=4000, PixelPaddingRangeLimit=4095, **fields)
            ).pixels
            assert not pixels[ramp(12) >= 4000].any()
            assert pixels[(ramp(12) > 100) & (ramp(12) < 4000)].all()

    @pytest.mark.parametrize("value", [-2048, 65536 - 2048])
    def test_signed_padding(self, value: int) -> None:
        pixels = ramp(12, signed=True)
        made = dicom(pixels, 12, PhotometricInterpretation="MONOCHROME1")
        parsed = pydicom.dcmread(io.BytesIO(made))
        parsed.add_new("PixelPaddingValue", "SS" if value < 0 else "US", value)
        out = io.BytesIO()
        parsed.save_as(out)
        shown = decode_image(out.getvalue()).pixels
        assert not shown[pixels == -2048].any()
        assert shown[pixels == -2047].all()

    def test_values_that_no_picture_follows_from(self) -> None:
        for slope, intercept in (("nan", "0"), ("1", "nan"), ("inf", "0")):
            with pydicom.config.disable_value_validation():
                data = dicom(ramp(12), 12, RescaleSlope=slope, RescaleIntercept=intercept)
            assert fault(data) == "corrupt"
        data = dicom(ramp(12), 12, WindowCenter=5, WindowWidth=5, VOILUTFunction="CUBIC")
        assert fault(data) == "unsupported"
        assert fault(dicom(ramp(12), 12, VOILUTSequence=lut([], 0, 12, "<u2"))) == "corrupt"


class TestColour:
    def test_grey_in_rgb(self) -> None:
        grey = ramp(8)
        for planar in (0, 1):
            stored = np.stack([grey] * 3, axis=2 if planar == 0 else 0)
            fields = {"Rows": 64, "Columns": 64, "PlanarConfiguration": planar, "SamplesPerPixel": 3}
            data = dicom(stored, 8, PhotometricInterpretation="RGB", WindowCenter=1, WindowWidth=2, **fields)
            np.testing.assert_array_equal(decode_image(data).pixels, grey)

    def test_grey_in_ybr(self) -> None:
        grey = ramp(8)
        stored = np.stack([grey, np.full_like(grey, 128), np.full_like(grey, 128)], axis=2)
        image = decode_image(dicom(stored, 8, PhotometricInterpretation="YBR_FULL"))
        np.testing.assert_array_equal(image.pixels, grey)

    @pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422"])
    def test_grey_in_a_colour_jpeg(self, photometric: str, chest: Callable[..., np.ndarray]) -> None:
        grey = (chest(0, 128) >> 4).astype(np.uint8)
        pixels = np.stack([grey] * 3, axis=2)
        outer = "RGB" if photometric == "RGB" else "YCBCR"
        frame = imagecodecs.jpeg8_encode(pixels, level=95, colorspace="RGB", outcolorspace=outer)
        data = dicom(pixels, 8, uid.JPEGBaseline8Bit, frame, PhotometricInterpretation=photometric)
        assert np.abs(decode_image(data).pixels.astype(int) - grey).max() < 16

    def test_palette(self) -> None:
        fields: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
        for colour in ("Red", "Green", "Blue"):
            fields[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
            fields[f"{colour}PaletteColorLookupTableData"] = (np.arange(256, dtype="<u2") * 257).tobytes()
        image = decode_image(dicom(ramp(8), 8, **fields))
        assert image.bits == 16
        np.testing.assert_array_equal(image.pixels, ramp(8).astype(int) * 257)

    def test_colour(self) -> None:
        pixels = np.stack([ramp(8), ramp(8)[::-1], ramp(8)], axis=2)
        assert fault(dicom(pixels, 8)) == "colour"


class TestRefused:
    @pytest.mark.parametrize("modality", ["CT", "MR", "US", "MG"])
    def test_other_modalities(self, modality: str) -> None:
        assert fault(dicom(ramp(12), 12, Modality=modality)) == "not-a-radiograph"

    def test_a_slice_by_its_class(self) -> None:
        assert fault(dicom(ramp(12), 12, Modality="", SOPClassUID=uid.CTImageStorage)) == "not-a-radiograph"

    def test_sizes(self) -> None:
        assert fault(dicom(ramp(12), 12, Rows=63)) == "too-small"
        assert fault(dicom(ramp(12), 12, Rows=65535, Columns=65535)) == "too-large"
        assert fault(dicom(ramp(12), 12, Rows=128)) == "truncated"
        assert fault(dicom(ramp(12), 12, Rows=None)) == "corrupt"

    def test_depths(self) -> None:
        assert fault(dicom(ramp(12), 12, BitsStored=17)) == "unsupported"
        assert fault(dicom(ramp(12), 12, BitsAllocated=32)) == "unsupported"
        assert fault(dicom(ramp(12), 12, BitsStored=0)) == "unsupported"

    def test_no_pixels(self) -> None:
        made = pydicom.dcmread(io.BytesIO(dicom(ramp(12), 12)))
        del made.PixelData
        out = io.BytesIO()
        made.save_as(out)
        assert fault(out.getvalue()) == "truncated"
        made.FloatPixelData = ramp(12).astype("<f4").tobytes()
        made.save_as(out := io.BytesIO())
        assert fault(out.getvalue()) == "unsupported"

    @pytest.mark.parametrize("group_length", [None, 0, 2**31])
    def test_deflated_bomb(self, group_length: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("cxr_embed.images.dicom.MAX_FILE_BYTES", 1 << 20)
        data = dicom(ramp(12), 12, uid.DeflatedExplicitVRLittleEndian, ImageComments="")
        start = 144 + struct.unpack("<I", data[140:144])[0]
        body = zlib.decompress(data[start:], -zlib.MAX_WBITS) + struct.pack(
            "<HH2sHI", 0x7FE1, 0x1010, b"OB", 0, 1 << 24
        )
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        bomb = data[:start] + packer.compress(body + bytes(1 << 24)) + packer.flush()
        if group_length is not None:  # the header may lie about its own length
            bomb = bomb[:140] + struct.pack("<I", group_length) + bomb[144:]
        assert len(bomb) < 1 << 18
        assert fault(bomb) == "too-large"
        (tmp_path / "bomb.dcm").write_bytes(bomb)
        with pytest.raises(ImageError) as caught:
            read_dicom_header(tmp_path / "bomb.dcm", None)
        assert caught.value.kind == "too-large"

    def test_short_files_that_name_the_deflated_syntax(self) -> None:
        for head in (b"\2\0\0\0", b"\2\0\0\0UL\4\0", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM\2\0\x10\0"):
            assert fault(head + uid.DeflatedExplicitVRLittleEndian.encode()) in ("corrupt", "truncated")


class TestHeader:
    def test_fields(self, tmp_path: Path) -> None:
        fields = {"ViewPosition": "pa", "StudyDate": "20240229", "PatientAge": "058Y", "PatientSex": "F"}
        (tmp_path / "a.dcm").write_bytes(dicom(ramp(12), 12, PatientID="MRN 77", **fields))
        expected = DicomFields("DX", "PA", "2024-02-29", 58, "F")
        assert read_image(tmp_path / "a.dcm").fields == expected
        assert read_dicom_header(tmp_path / "a.dcm", None) == (expected, "MRN 77")
        key = b"k" * 32
        assert read_dicom_header(tmp_path / "a.dcm", key) == (expected, keyed_hash("MRN 77", key))
        assert keyed_hash("MRN 77", key) != keyed_hash("MRN 77", b"l" * 32)

    @pytest.mark.parametrize(
        ("name", "value", "attribute", "expected"),
        [
            ("StudyDate", "20241399", "study_date", ""),  # a manifest would refuse the whole table for it
            ("StudyDate", "19850602", "study_date", "1985-06-02"),
            ("StudyDate", "Meier Anna", "study_date", ""),
            ("PatientAge", "999Y", "age", None),
            ("PatientAge", "011M", "age", 0),
            ("PatientAge", "030M", "age", 2),
            ("PatientAge", "100W", "age", 1),
            ("PatientAge", "58", "age", 58),
            ("PatientAge", "born 1950", "age", None),
            ("PatientSex", "male", "sex", "M"),
            ("PatientSex", "MEIER", "sex", ""),
            ("ViewPosition", "Lateral", "view", "LATERAL"),
            ("ViewPosition", "ANNA", "view", ""),
            ("ViewPosition", ["PA", "AP"], "view", ""),
            ("Modality", "ANNA", "modality", ""),
            ("Modality", "cr", "modality", "CR"),
        ],
    )
    def test_closed_values(self, name: str, value: Any, attribute: str, expected: Any, tmp_path: Path) -> None:
        with pydicom.config.disable_value_validation():
            (tmp_path / "a.dcm").write_bytes(dicom(ramp(12), 12, **{name: value}))
        assert getattr(read_dicom_header(tmp_path / "a.dcm", None)[0], attribute) == expected
        assert getattr(read_image(tmp_path / "a.dcm").fields, attribute) == expected

    def test_a_pipe_does_not_block(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.dcm")
        with pytest.raises(ImageError) as caught:
            read_dicom_header(tmp_path / "pipe.dcm", None)
        assert caught.value.kind == "unreadable"


SECRETS = {
    "PatientName": "Quirrelbach^Anneliese",
    "PatientID": "MRN-7361-QX",
    "PatientBirthDate": "19380417",
    "OtherPatientIDs": "ALT-ID-99172",
    "PatientAddress": "Holunderweg 17b",
    "PatientTelephoneNumbers": "0151-55512377",
    "AccessionNumber": "ACC8812763",
    "InstitutionName": "Klinikum Zwiesel",
    "ReferringPhysicianName": "Haberkorn^Ottokar",
    "StudyInstanceUID": "1.2.276.0.7230010.3.1.2.811753",
    "SeriesInstanceUID": "1.2.276.0.7230010.3.1.3.811754",
    "SOPInstanceUID": "1.2.276.0.7230010.3.1.4.811755",
    "StudyDescription": "Thorax bei V.a. Silikose",
    "ImageComments": "Nachbarin ruft an",
    "DeviceSerialNumber": "SN-448812-Z",
    "StationName": "ROE-KABINE-3",
    "StudyID": "STUDY55127",
}


def planted(**fields: Any) -> bytes:
    """A good file full of secrets; `fields` put more of them where they do not belong."""
    made = pydicom.dcmread(io.BytesIO(dicom(ramp(12), 12, WindowCenter=2000, WindowWidth=4000)))
    with pydicom.config.disable_value_validation():
        for name, value in {**SECRETS, **fields}.items():
            setattr(made, name, value)
        made.file_meta.MediaStorageSOPInstanceUID = SECRETS["SOPInstanceUID"]
        block = made.private_block(0x0099, "SECRET MAKER 4711", create=True)
        block.add_new(1, "LO", "private Zimtschnecke")
        out = io.BytesIO()
        made.save_as(out, enforce_file_format=True)
    return out.getvalue()


def retyped(data: bytes, keyword: str, vr: bytes, text: bytes) -> bytes:
    """Gives an element of two bytes another type and text: what parsers then complain about, they quote."""
    tag = pydicom.datadict.tag_for_keyword(keyword)
    assert tag is not None
    old = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + b"US\2\0"
    at = data.index(old)
    text += b" " * (len(text) % 2)
    return data[:at] + old[:4] + vr + struct.pack("<H", len(text)) + text + data[at + len(old) + 2 :]


@cache
def planted_files() -> dict[str, bytes]:
    good = planted()
    text = "Quirrelbach"
    # pydicom does not write such numbers, so they are put in afterwards.
    numbers = planted(RescaleSlope="11111111111", RescaleIntercept="1", WindowWidth="22222222222")
    files = {
        "good": good,
        "view": planted(ViewPosition=text, Modality="QUIRRELBACH", PatientSex=text, PatientAge=text, StudyDate=text),
        "slope": numbers.replace(b"11111111111", b"Quirrelbach"),
        "window": numbers.replace(b"22222222222", b"Quirrelbach"),
        "function": planted(VOILUTFunction="QUIRRELBACH"),
        "photometric": planted(PhotometricInterpretation="QUIRRELBACH"),
        "shape": planted(PresentationLUTShape="Quirrelbach"),
        "frames": planted(NumberOfFrames="811753"),
        "class": planted(SOPClassUID=SECRETS["StudyInstanceUID"]),
        "cut": good[: len(good) // 2],
        "head": good[:700],
        "small": planted(Rows=63),
        "late": good[:-400],
        "rows": retyped(good, "Rows", b"IS", b"19380417"),
        "bits": retyped(good, "BitsStored", b"LO", b"Quirrelbach^Anneliese"),
        "signs": retyped(good, "PixelRepresentation", b"LO", b"Quirrelbach^Anneliese"),
        "high": retyped(good, "HighBit", b"PN", b"Quirrelbach^Anneliese"),
    }
    files["syntax"] = good.replace(b"1.2.840.10008.1.2.1\0", b"1.2.276.0.7230010.3.1.2.811753"[:19] + b"\0", 1)
    files["vr"] = good.replace(b"CS\x04\0", b"Qu\x04\0", 1)
    charset = planted(SpecificCharacterSet="QUIRRELBACH")
    files["charset"] = charset
    return files


def secret_bytes() -> list[bytes]:
    words = [
        *SECRETS.values(),
        "Quirrelbach",
        "QUIRRELBACH",
        "Anneliese",
        "1938-04-17",
        "811753",
        "4711",
        "Zimtschnecke",
    ]
    plain = [word.encode() for word in words]
    return [*plain, *(word.hex().encode() for word in plain), *(word.encode("utf-16-le") for word in words)]


def assert_clean(data: bytes, where: str) -> None:
    found = [secret for secret in secret_bytes() if secret in data]
    assert not found, f"{where} holds {found}"


class TestNothingLeaks:
    def test_the_search_finds_what_is_there(self) -> None:
        with pytest.raises(AssertionError):
            assert_clean(planted(), "the file itself")

    @pytest.mark.parametrize("name", list(planted_files()))
    def test_reading(self, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: Any) -> None:
        (tmp_path / "a.dcm").write_bytes(planted_files()[name])
        caplog.clear()
        recwarn.clear()
        caplog.set_level(logging.DEBUG)
        told = []
        for read in (read_image, lambda path: read_dicom_header(path, b"k" * 32)):
            try:
                result = read(tmp_path / "a.dcm")
                told.append(repr(result.fields if isinstance(result, CxrImage) else result))
            except ImageError as error:
                told.append(f"{error.kind}: {error}")
        told += [record.getMessage() for record in caplog.records] + [str(warning.message) for warning in recwarn]
        assert_clean("\n".join(told).encode(), "what was said")

    def test_the_disk(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        from cxr_embed.cli import main
        from cxr_embed.store.reader import Store

        data, outside = tmp_path / "data", tmp_path / "out"
        data.mkdir()
        for number, (_, content) in enumerate(planted_files().items()):
            (data / f"f{number:02d}.dcm").write_bytes(content)
        manifest, store = outside / "m.csv", outside / "store"
        commands = [
            ["manifest", "scan", str(data), "--out", str(manifest)],
            ["embed", str(manifest), "--root", str(data), "--encoder", "hog", "--store", str(store), "--workers", "1"],
            ["store", "info", str(store), "--failures"],
        ]
        for command in commands:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("sys.argv", ["cxr-embed", *command])
                with suppress(SystemExit):  # failed files make it 1
                    main()
        said = capfd.readouterr()
        assert_clean((said.out + said.err).encode(), "the terminal")
        opened = Store(store)
        assert len(opened) >= 2
        assert len(opened.failures) >= 8
        key = Path(os.environ["HOME"])
        written = [path for folder in (outside, key) for path in sorted(folder.rglob("*")) if path.is_file()]
        assert len(written) >= 4
        for path in written:
            assert_clean(path.read_bytes(), path.name)


class TestRealFiles:
    def test_monochrome1_is_the_inverse_of_its_twin(self, real_data: Path) -> None:
        inverse = pydicom.dcmread(real_data / "dicom" / "mono1.dcm")
        twin = pydicom.dcmread(real_data / "dicom" / "siim-mono2-jpeg.dcm")
        assert inverse.PhotometricInterpretation == "MONOCHROME1"
        one, two = (
            read_image(real_data / "dicom" / "mono1.dcm"),
            read_image(real_data / "dicom" / "siim-mono2-jpeg.dcm"),
        )
        assert twin.PixelData == inverse.PixelData  # the file was made by changing that word
        np.testing.assert_array_equal(one.pixels, 255 - two.pixels)
        assert (one.fields.view, one.fields.sex, one.fields.modality) == ("PA", "M", "CR")

    def test_like_pydicom(self, real_data: Path) -> None:
        path = real_data / "dicom" / "siim-mono2-jpeg.dcm"
        theirs = pydicom.dcmread(path).pixel_array
        assert np.abs(read_image(path).pixels.astype(int) - theirs).max() <= 1

    def test_the_same_picture_as_png(self, real_data: Path) -> None:
        # The PNG has 16 bits of which its writer filled eight, and was stretched so that the brightest pixel is 255.
        dicom_image = read_image(real_data / "dicom" / "google-fake.dcm")
        png_image = read_image(real_data / "dicom" / "google-fake.png")
        assert (dicom_image.bits, png_image.bits) == (8, 16)
        stretched = dicom_image.pixels * (255 / dicom_image.pixels.max())
        assert np.abs(stretched - png_image.pixels).max() <= 1
