"""Files to `CxrImage`: the only place in this project that decodes."""

from cxr_embed.images.checks import machine_fault
from cxr_embed.images.dicom import read_dicom_header
from cxr_embed.images.likeness import looks_like_chest
from cxr_embed.images.notes import NOTES
from cxr_embed.images.prepare import PREPARATIONS, prepare_image, stretch
from cxr_embed.images.prepared import crop_image, is_cropped, preparation_of, prepared_encoder, prepared_like
from cxr_embed.images.raw import raw_fault
from cxr_embed.images.reader import (
    READABLE,
    SUFFIXES,
    check_name,
    decode_image,
    decoders,
    read_bytes,
    read_image,
    sniff,
)
from cxr_embed.images.remote import read_remote, stamp_of

__all__ = [
    "NOTES",
    "PREPARATIONS",
    "READABLE",
    "SUFFIXES",
    "check_name",
    "crop_image",
    "decode_image",
    "decoders",
    "is_cropped",
    "looks_like_chest",
    "machine_fault",
    "preparation_of",
    "prepare_image",
    "prepared_encoder",
    "prepared_like",
    "raw_fault",
    "read_bytes",
    "read_dicom_header",
    "read_image",
    "read_remote",
    "sniff",
    "stamp_of",
    "stretch",
]
